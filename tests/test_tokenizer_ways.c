/* Byte-level BPE and the memory of words have more than one way to the same ids:
 * merging or searching (tok/backtrack.c, once a tokenizer has seen enough text),
 * whole words or their parts, new words or remembered ones. All must agree. */
#include "tests/tok_cases.h"

#include <pthread.h>

enum { N_BYTES = 560000, PART = 20000 };

static uint32_t next(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* Ends of pieces, beginnings of others, characters of all widths, bytes that are
 * no text; lines short enough that a part is a part of the whole. */
static char *make_text(const struct lm_vocab *v, uint32_t seed)
{
    static const char *const odd[] = {" ", "\n", "'s", "1234567", "  ", "\xff", "\xe3\x81", "\xe6\xbc\xa2\xe5\xad\x97\xe3\x81\x8b\xe3\x81\xaa",
                                      "\xc5\xbc\xc3\xb3\xc5\x82\xc4\x87", "\xf0\x9f\xa6\x99", "aaaaaaaaaaaaaaaa", "\xcc\x81", "-"};
    char *text = malloc(N_BYTES + 64);
    size_t n = 0;

    assert_non_null(text);
    while (n < N_BYTES) {
        uint8_t bytes[40];
        size_t size = lmi_letters_to_bytes(v->pieces[next(&seed) % v->n_pieces].text, bytes, sizeof bytes);
        if (size == SIZE_MAX || next(&seed) % 4 == 0) {
            const char *s = odd[next(&seed) % (sizeof odd / sizeof *odd)];
            size = strlen(s);
            memcpy(bytes, s, size);
        }
        size_t skip = next(&seed) % 3 == 0 ? next(&seed) % (size + 1) : 0;
        memcpy(text + n, bytes + skip, size - skip);
        n += size - skip;
        if (next(&seed) % 6 == 0)
            text[n++] = ' ';
    }
    return text;
}

static void encode(const struct lm_tokenizer *t, const char *text, size_t n, unsigned flags, struct lm_ids *out)
{
    struct lm_err e;

    if (lm_tokenizer_encode(t, lm_span_of(text, n), flags, out, &e) < 0)
        fail_msg("%s", e.text);
}

static void same(const struct lm_ids *a, const struct lm_ids *b)
{
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->ids, b->ids, a->n * sizeof *a->ids);
    if (a->offsets && b->offsets)
        for (size_t i = 0; i < a->n; i++)
            assert_true(a->offsets[i].begin == b->offsets[i].begin && a->offsets[i].end == b->offsets[i].end);
}

/* A tokenizer that is made for every part merges; one for the whole searches. */
static void compare_ways(const struct lm_vocab *v, uint32_t seed)
{
    char *text = make_text(v, seed);
    struct lm_tokenizer *whole;
    struct lm_err e;

    assert_int_equal(lm_tokenizer_new(&whole, v, &e), 0);
    struct lm_ids warm = {0};
    encode(whole, text, N_BYTES, 0, &warm); /* the tables are made, the words are remembered */
    lm_ids_free(&warm);
    for (size_t at = 0; at < N_BYTES; at += PART) {
        struct lm_ids merged = {0}, searched = {0}, placed = {0};
        struct lm_tokenizer *part;
        assert_int_equal(lm_tokenizer_new(&part, v, &e), 0);
        encode(part, text + at, PART, LM_ENCODE_OFFSETS, &merged);
        encode(whole, text + at, PART, 0, &searched);
        encode(whole, text + at, PART, LM_ENCODE_OFFSETS, &placed);
        same(&merged, &searched);
        same(&merged, &placed);
        lm_ids_free(&merged);
        lm_ids_free(&searched);
        lm_ids_free(&placed);
        lm_tokenizer_free(part);
    }
    lm_tokenizer_free(whole);
    free(text);
}

static void real_vocabularies(void **state)
{
    static const char *const names[] = {"gpt2", "llama3", "qwen2"};

    (void)state;
    for (uint32_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct loaded l = load(names[i], "");
        compare_ways(l.v, i);
        unload(&l);
    }
}

/* ---- merges in no order: of later halves, of pieces that nothing makes, twice */

struct json_text {
    char text[200000];
    size_t n;
};

static void add(struct json_text *f, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    f->n += (size_t)vsnprintf(f->text + f->n, sizeof f->text - f->n, format, args);
    va_end(args);
    assert_true(f->n < sizeof f->text);
}

static void put_letter(struct json_text *f, unsigned byte)
{
    add(f, "\\u%04x", lmi_byte_letter((uint8_t)byte));
}

enum { N_MERGED = 400, LONGEST_PIECE = 24 };

struct made_up {
    uint8_t bytes[256 + N_MERGED][LONGEST_PIECE];
    size_t size[256 + N_MERGED], n;
    size_t left[N_MERGED], right[N_MERGED], n_merges;
};

static size_t find_piece(const struct made_up *m, const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < m->n; i++)
        if (m->size[i] == n && memcmp(m->bytes[i], bytes, n) == 0)
            return i;
    return m->n;
}

/* Few letters, so that words can be put together in many ways. */
static void make_up(struct made_up *m, uint32_t seed)
{
    static const uint8_t letters[] = {'a', 'b', 'c', 'a', 0xe3, 0x81, 0x8b, 0xc5, 0xbc, ' '};

    for (m->n = 0; m->n < 256; m->n++) {
        m->bytes[m->n][0] = (uint8_t)m->n;
        m->size[m->n] = 1;
    }
    for (m->n_merges = 0; m->n_merges < N_MERGED;) {
        size_t half[2];
        for (size_t i = 0; i < 2; i++)
            half[i] = next(&seed) % 2 ? letters[next(&seed) % sizeof letters] : 256 + next(&seed) % (m->n - 255);
        if (half[0] >= m->n || half[1] >= m->n || m->size[half[0]] + m->size[half[1]] > LONGEST_PIECE)
            continue;
        uint8_t both[LONGEST_PIECE];
        size_t n = m->size[half[0]] + m->size[half[1]];
        memcpy(both, m->bytes[half[0]], m->size[half[0]]);
        memcpy(both + m->size[half[0]], m->bytes[half[1]], m->size[half[1]]);
        if (find_piece(m, both, n) == m->n) {
            memcpy(m->bytes[m->n], both, n);
            m->size[m->n++] = n;
        }
        m->left[m->n_merges] = half[0];
        m->right[m->n_merges++] = half[1];
    }
}

static void put_piece(struct json_text *f, const struct made_up *m, size_t piece)
{
    for (size_t i = 0; i < m->size[piece]; i++)
        put_letter(f, m->bytes[piece][i]);
}

static void write_model(const struct made_up *m, uint32_t seed, const char *path)
{
    struct json_text *f = calloc(1, sizeof *f);
    size_t order[N_MERGED];

    assert_non_null(f);
    for (size_t i = 0; i < m->n_merges; i++)
        order[i] = i;
    for (size_t i = m->n_merges; seed % 2 && i > 1; i--) {
        size_t k = next(&seed) % i, swap = order[i - 1];
        order[i - 1] = order[k];
        order[k] = swap;
    }
    add(f, "{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":%s},"
           "\"decoder\":{\"type\":\"ByteLevel\"},\"added_tokens\":[],\"model\":{\"type\":\"BPE\",\"ignore_merges\":%s,\"vocab\":{",
        seed % 3 ? "true" : "false", seed % 5 < 2 ? "true" : "false");
    for (size_t i = 0; i < m->n; i++) {
        add(f, "%s\"", i ? "," : "");
        put_piece(f, m, i);
        add(f, "\":%zu", i);
    }
    add(f, "},\"merges\":[");
    for (size_t i = 0; i < m->n_merges; i++) {
        add(f, "%s[\"", i ? "," : "");
        put_piece(f, m, m->left[order[i]]);
        add(f, "\",\"");
        put_piece(f, m, m->right[order[i]]);
        add(f, "\"]");
    }
    add(f, "]}}");
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    assert_int_equal(fwrite(f->text, 1, f->n, out), f->n);
    assert_int_equal(fclose(out), 0);
    free(f);
}

static void made_up_vocabularies(void **state)
{
    char folder[64], path[100];
    struct made_up *m = malloc(sizeof *m);

    (void)state;
    assert_non_null(m);
    tmp_make(folder);
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    for (uint32_t seed = 0; seed < 5; seed++) {
        struct lm_vocab *v;
        struct lm_err e;
        make_up(m, seed);
        write_model(m, seed, path);
        if (lm_vocab_open(&v, path, &e) < 0)
            fail_msg("%s", e.text);
        compare_ways(v, seed);
        lm_vocab_free(v);
    }
    tmp_remove(folder);
    free(m);
}

/* ---- one memory for several threads and kinds of calls */

struct job {
    const struct lm_tokenizer *t;
    const char *text;
    struct lm_ids ids;
    unsigned flags;
    int rc;
};

static void *run_job(void *user)
{
    struct job *j = user;
    struct lm_err e;

    for (size_t at = 0; j->rc == 0 && at < N_BYTES; at += PART)
        j->rc = lm_tokenizer_encode(j->t, lm_span_of(j->text + at, PART), j->flags, &j->ids, &e);
    return NULL;
}

static void threads_make_the_tables_once(void **state)
{
    struct loaded l = load("llama3", "");
    char *text = make_text(l.v, 99);
    struct job jobs[4] = {{0}};
    pthread_t threads[4];

    (void)state;
    for (int i = 0; i < 4; i++) {
        jobs[i] = (struct job){.t = l.t, .text = text, .flags = i % 2 ? LM_ENCODE_OFFSETS : 0};
        assert_int_equal(pthread_create(&threads[i], NULL, run_job, &jobs[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(jobs[i].rc, 0);
        same(&jobs[0].ids, &jobs[i].ids);
    }
    for (int i = 0; i < 4; i++)
        lm_ids_free(&jobs[i].ids);
    free(text);
    unload(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(real_vocabularies),
        cmocka_unit_test(made_up_vocabularies),
        cmocka_unit_test(threads_make_the_tables_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
