/* Speed of tokenizers, one thread: time to read a vocabulary and to make a
 * tokenizer; MB of text a second for a whole file in one call, of a tokenizer just
 * made (its tables and its memory of words start empty) and of one that saw the
 * text before; ids a second.
 *
 *   bench_tokenize [-e ENCODING | -p REGEX] [MODEL TEXT...]
 *   tests/bench/peer_tokenize.py MODEL TEXT...     the same for HF tokenizers, sentencepiece and tiktoken
 *
 * -e, -p: of a tiktoken file (see struct lm_vocab_options).
 *
 * Without arguments: the sample model on a file of test cases, repeated. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "libmodel/libmodel.h"

enum { REPEATS = 5, DEFAULT_BYTES = 4 << 20 };

/* Of this thread: other programs on the machine do not count. */
static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void give_up(const char *what)
{
    fprintf(stderr, "bench_tokenize: %s\n", what);
    exit(3);
}

static char *read_file(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    long size = f && fseek(f, 0, SEEK_END) == 0 ? ftell(f) : -1;
    char *text = size > 0 ? malloc((size_t)size) : NULL;

    if (!text || fseek(f, 0, SEEK_SET) != 0 || fread(text, 1, (size_t)size, f) != (size_t)size)
        give_up(path);
    fclose(f);
    *n = (size_t)size;
    return text;
}

static size_t encode_once(const struct lm_tokenizer *t, const char *text, size_t n, double *best)
{
    struct lm_ids ids = {0};
    struct lm_err e;
    double start = seconds();

    if (lm_tokenizer_encode(t, lm_span_of(text, n), 0, &ids, &e) < 0)
        give_up(e.text);
    double took = seconds() - start;
    *best = took < *best ? took : *best;
    size_t n_ids = ids.n;
    lm_ids_free(&ids);
    return n_ids;
}

static void measure(const struct lm_vocab *v, const char *name, const char *text, size_t n)
{
    double first = 1e9, again = 1e9;
    size_t n_ids = 0;

    for (int i = 0; i < REPEATS; i++) {
        struct lm_tokenizer *t;
        struct lm_err e;
        if (lm_tokenizer_new(&t, v, &e) < 0)
            give_up(e.text);
        n_ids = encode_once(t, text, n, &first);
        encode_once(t, text, n, &again);
        lm_tokenizer_free(t);
    }
    printf("first %6.1f MB/s, again %6.1f MB/s %7.2f M ids/s %10zu ids  %s\n", (double)n / first / 1e6, (double)n / again / 1e6,
           (double)n_ids / again / 1e6, n_ids, name);
}

static void measure_default(const struct lm_vocab *v)
{
    size_t n;
    char *text = read_file("tests/fixtures/tokenizers/cases-sample.jsonl", &n), *longer = malloc(DEFAULT_BYTES);

    if (!longer)
        give_up("no memory");
    for (size_t i = 0; i < DEFAULT_BYTES; i++)
        longer[i] = text[i % n];
    measure(v, "cases-sample.jsonl, repeated", longer, DEFAULT_BYTES);
    free(text);
    free(longer);
}

int main(int argc, char **argv)
{
    struct lm_vocab_options options = {NULL, NULL};
    if (argc > 2 && (strcmp(argv[1], "-e") == 0 || strcmp(argv[1], "-p") == 0)) {
        *(argv[1][1] == 'e' ? &options.encoding : &options.pattern) = argv[2];
        argc -= 2;
        argv += 2;
    }
    const char *model = argc > 1 ? argv[1] : "samples/polish-5m";
    struct lm_vocab *v;
    struct lm_tokenizer *t;
    struct lm_err e;
    double start = seconds();

    if (lm_vocab_open_with(&v, model, &options, &e) < 0)
        give_up(e.text);
    double opened = seconds();
    if (lm_tokenizer_new(&t, v, &e) < 0)
        give_up(e.text);
    printf("%s: vocabulary %.1f ms, tokenizer %.1f ms\n", model, 1e3 * (opened - start), 1e3 * (seconds() - opened));
    for (int i = 2; i < argc; i++) {
        size_t n;
        char *text = read_file(argv[i], &n);
        measure(v, argv[i], text, n);
        free(text);
    }
    if (argc <= 2)
        measure_default(v);
    lm_tokenizer_free(t);
    lm_vocab_free(v);
    return 0;
}
