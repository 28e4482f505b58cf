/* lm-tokenize: text to ids and back. */
#include "cmd/cli.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

struct options {
    const char *file;
    bool pieces, offsets, decode, special, bos_eos, count, json;
};

struct job {
    struct options o;
    struct lm_vocab *v;
    struct lm_tokenizer *t;
    char *text; /* input */
    size_t n_bytes;
    struct lm_ids ids;
    char *buf;  /* a piece as text */
    size_t size;
    bool color;
};

/* ---- a token as text */

static int make_room(struct job *j, struct lm_err *e)
{
    j->size = 4 * lm_tokenizer_max_bytes(j->t) + 64;
    j->buf = malloc(j->size);
    return j->buf ? 0 : lm_err_set(e, LM_NOMEM, "no memory for a piece");
}

static const char *escaped(struct job *j, struct lm_span text)
{
    lm_piece_escape(text, j->buf, j->size);
    return j->buf;
}

/* Neighbours differ, the same place always looks the same. */
static const char *color_of(size_t i)
{
    static const char *const colors[] = {"\033[48;5;24m\033[97m", "\033[48;5;60m\033[97m", "\033[48;5;29m\033[97m",
                                         "\033[48;5;94m\033[97m", "\033[48;5;88m\033[97m"};

    return colors[i % (sizeof colors / sizeof *colors)];
}

/* ---- output */

/* The text itself in the colours of its tokens; line ends are shown and kept. */
static void print_colored(struct job *j)
{
    for (size_t i = 0; i < j->ids.n; i++) {
        struct lm_offsets at = j->ids.offsets[i];
        struct lm_span s = lm_span_of(j->text + at.begin, at.end - at.begin);
        bool own = s.size == 0 || j->v->pieces[j->ids.ids[i]].kind == LM_PIECE_BYTE;
        fputs(color_of(i), stdout);
        if (s.size == 1 && s.data[0] == '\n')
            fputs("↵\033[0m\n", stdout);
        else
            printf("%s\033[0m", own ? escaped(j, j->v->pieces[j->ids.ids[i]].text) : cli_safe(s));
    }
    putchar('\n');
}

static void print_ids(struct job *j)
{
    for (size_t i = 0; i < j->ids.n; i++)
        printf(i ? " %d" : "%d", j->ids.ids[i]);
    putchar('\n');
}

static void print_lines(struct job *j)
{
    for (size_t i = 0; i < j->ids.n; i++) {
        printf("%d", j->ids.ids[i]);
        if (j->o.offsets)
            printf("\t%zu\t%zu", j->ids.offsets[i].begin, j->ids.offsets[i].end);
        if (j->o.pieces)
            printf("\t%s%s%s", j->color ? color_of(i) : "", escaped(j, j->v->pieces[j->ids.ids[i]].text),
                   j->color ? "\033[0m" : "");
        putchar('\n');
    }
}

/* Written piece by piece: a text may have millions of tokens. */
static void print_json_tokens(struct job *j)
{
    for (size_t i = 0; i < j->ids.n; i++) {
        json_t *o = json_object();
        json_object_set_new(o, "id", json_integer(j->ids.ids[i]));
        json_object_set_new(o, "piece", json_string(escaped(j, j->v->pieces[j->ids.ids[i]].text)));
        json_object_set_new(o, "begin", json_integer((json_int_t)j->ids.offsets[i].begin));
        json_object_set_new(o, "end", json_integer((json_int_t)j->ids.offsets[i].end));
        fputs(i ? ",\n    " : "\n    ", stdout);
        json_dumpf(o, stdout, 0);
        json_decref(o);
    }
}

static void print_json(struct job *j)
{
    printf("{\n  \"n_bytes\": %zu,\n  \"n_tokens\": %zu", j->n_bytes, j->ids.n);
    if (!j->o.count) {
        fputs(",\n  \"ids\": [", stdout);
        for (size_t i = 0; i < j->ids.n; i++)
            printf(i ? ", %d" : "%d", j->ids.ids[i]);
        fputs("],\n  \"tokens\": [", stdout);
        print_json_tokens(j);
        fputs("\n  ]", stdout);
    }
    fputs("\n}\n", stdout);
}

static void print(struct job *j)
{
    if (j->o.json)
        print_json(j);
    else if (j->o.count)
        printf("%zu\n", j->ids.n);
    else if (j->o.pieces || j->o.offsets)
        print_lines(j);
    else {
        if (j->color)
            print_colored(j);
        print_ids(j);
    }
}

static int encode(struct job *j, int n, char **args, struct lm_err *e)
{
    unsigned flags = (j->o.special ? LM_ENCODE_SPECIAL : 0) | (j->o.bos_eos ? LM_ENCODE_BOS_EOS : 0);

    if (n > 1)
        return lm_err_set(e, LM_USAGE, "%d texts given, expected one (quote it)", n);
    if (j->o.offsets || j->o.json || j->color)
        flags |= LM_ENCODE_OFFSETS;
    if (cli_read_text(&j->text, &j->n_bytes, n ? args[0] : NULL, j->o.file, e) < 0 ||
        lm_tokenizer_encode(j->t, lm_span_of(j->text, j->n_bytes), flags, &j->ids, e) < 0)
        return -1;
    print(j);
    return 0;
}

/* ---- ids to text */

static int add_id(struct job *j, long id, struct lm_err *e)
{
    if (j->ids.n == j->ids.capacity) {
        size_t capacity = 2 * j->ids.capacity + 1024;
        int32_t *p = realloc(j->ids.ids, capacity * sizeof *p);
        if (!p)
            return lm_err_set(e, LM_NOMEM, "no memory for %zu ids", capacity);
        j->ids.ids = p;
        j->ids.capacity = capacity;
    }
    j->ids.ids[j->ids.n++] = (int32_t)id;
    return 0;
}

/* Numbers between spaces, commas and brackets, so that JSON arrays will do. */
static int parse_ids(struct job *j, const char *text, size_t n, struct lm_err *e)
{
    const char *p = text, *end = text + n;

    while (p < end) {
        if (isspace((unsigned char)*p) || *p == ',' || *p == '[' || *p == ']') {
            p++;
            continue;
        }
        char *stop;
        errno = 0;
        long id = strtol(p, &stop, 10);
        if (stop == p || errno || id < 0 || id > INT32_MAX)
            return lm_err_set(e, LM_USAGE, "'%.*s' is no token id", (int)(end - p < 20 ? end - p : 20), p);
        if (add_id(j, id, e) < 0)
            return -1;
        p = stop;
    }
    return 0;
}

static int read_ids(struct job *j, int n, char **args, struct lm_err *e)
{
    bool given = n > 0 && !(n == 1 && strcmp(args[0], "-") == 0);

    if (given && j->o.file)
        return lm_err_set(e, LM_USAGE, "give the ids themselves or a file, not both");
    for (int i = 0; given && i < n; i++)
        if (parse_ids(j, args[i], strlen(args[i]), e) < 0)
            return -1;
    if (given)
        return 0;
    if (cli_read_text(&j->text, &j->n_bytes, n ? args[0] : NULL, j->o.file, e) < 0)
        return -1;
    return parse_ids(j, j->text, j->n_bytes, e);
}

static int decode(struct job *j, int n, char **args, struct lm_err *e)
{
    char *out;
    size_t n_out;

    if (read_ids(j, n, args, e) < 0 ||
        lm_tokenizer_decode(j->t, j->ids.ids, j->ids.n, j->o.special, &out, &n_out, e) < 0)
        return -1;
    if (j->o.json)
        cli_json_print(json_pack("{so}", "text", cli_json_str(lm_span_of(out, n_out))));
    else {
        fwrite(out, 1, n_out, stdout);
        if (isatty(1))
            putchar('\n');
    }
    free(out);
    return 0;
}

/* ---- the command */

static const struct cli_opt opts[] = {
    {"file", 'f', CLI_STRING, "FILE", offsetof(struct options, file), "read the text (or ids) from FILE; - is standard input",
     NULL},
    {"pieces", 'p', CLI_FLAG, NULL, offsetof(struct options, pieces), "one token a line with its piece", NULL},
    {"offsets", 'o', CLI_FLAG, NULL, offsetof(struct options, offsets),
     "one token a line with the bytes of the text it stands for: first, and one past the last", NULL},
    {"decode", 'd', CLI_FLAG, NULL, offsetof(struct options, decode), "turn ids into text", NULL},
    {"special", 's', CLI_FLAG, NULL, offsetof(struct options, special),
     "read control tokens written in the text (<s>, <|eot_id|>) as tokens; with --decode, show them", NULL},
    {"bos-eos", 'b', CLI_FLAG, NULL, offsetof(struct options, bos_eos),
     "add the tokens that the model wants in front of and behind a text", NULL},
    {"count", 'c', CLI_FLAG, NULL, offsetof(struct options, count), "print only the number of tokens", NULL},
    {"json", 0, CLI_FLAG, NULL, offsetof(struct options, json), "print JSON", NULL},
    {0},
};

static const struct cli_cmd cmd = {
    .name = "lm-tokenize",
    .brief = "turn text into token ids, or ids into text",
    .synopsis = "MODEL [TEXT | -]",
    .about = "MODEL is a checkpoint, its directory, or a tokenizer file (tokenizer.model, tokenizer.json, vocab.json). "
             "The tokenizer that the model declares is executed exactly; one of a kind that is not handled is refused.\n\n"
             "Prints the ids on one line; on a terminal also the text in the colours of its tokens. Control tokens "
             "written in the text are ordinary text unless --special is given. With --pieces and --offsets a line "
             "holds, separated by tabs: id, begin and end (--offsets), piece (--pieces, escaped as in lm-vocab).\n\n"
             "--decode takes ids as arguments, from a file or from standard input, separated by spaces, commas or "
             "brackets, and writes exactly the bytes of the text.\n\n"
             "--json: an object with n_bytes, n_tokens, ids, and tokens (objects with id, piece, begin, end), without "
             "ids and tokens for --count; with --decode an object with text.",
    .opts = opts,
    .examples = "  $ lm-tokenize model.gguf \"Ala ma kota\"\n"
                "  $ lm-tokenize tokenizer.model --pieces --offsets -f book.txt\n"
                "  $ lm-tokenize model/ --count < book.txt\n"
                "  $ lm-tokenize model/ --decode 334 3862 28724",
    .min_args = 1,
    .max_args = -1,
};

static int run(struct job *j, int n, char **argv, struct lm_err *e)
{
    if (lm_vocab_open(&j->v, argv[1], e) < 0 || lm_tokenizer_new(&j->t, j->v, e) < 0 || make_room(j, e) < 0)
        return -1;
    j->color = cli_color(stdout) && !j->o.count && !j->o.json;
    return j->o.decode ? decode(j, n - 1, argv + 2, e) : encode(j, n - 1, argv + 2, e);
}

int main(int argc, char **argv)
{
    struct job j = {0};
    struct lm_err e;
    int n = cli_parse(&cmd, argc, argv, &j.o);
    int rc = run(&j, n, argv, &e);

    rc = rc < 0 ? cli_fail(&e) : CLI_OK;
    free(j.text);
    free(j.buf);
    lm_ids_free(&j.ids);
    lm_tokenizer_free(j.t);
    lm_vocab_free(j.v);
    return cli_finish(rc);
}
