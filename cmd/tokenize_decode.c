/* --decode: ids as text, JSON lines or binary, to the bytes they stand for. */
#include "cmd/tokenize.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static int add_id(struct lm_ids *l, int32_t id, struct lm_err *e)
{
    if (l->n == l->capacity) {
        size_t capacity = 2 * l->capacity + 1024;
        int32_t *p = realloc(l->ids, capacity * sizeof *p);
        if (!p)
            return lm_err_set(e, LM_NOMEM, "no memory for %zu ids", capacity);
        l->ids = p;
        l->capacity = capacity;
    }
    l->ids[l->n++] = id;
    return 0;
}

/* Ids may stand in brackets and between commas, as other programs print them.
 * text[n] is 0. */
static int parse_text(struct lm_ids *l, const char *text, size_t n, struct lm_err *e)
{
    const char *p = text, *end = text + n;

    for (;;) {
        while (p < end && (isspace((unsigned char)*p) || strchr("[],", *p)) && *p)
            p++;
        if (p == end)
            return 0;
        char *stop;
        errno = 0;
        long id = isdigit((unsigned char)*p) ? strtol(p, &stop, 10) : -1;
        if (errno || id < 0 || id > INT32_MAX || (stop < end && !isspace((unsigned char)*stop) && !strchr("[],", *stop)))
            return lm_err_set(e, LM_USAGE, "'%.*s' is no token id", (int)(end - p < 20 ? end - p : 20), p);
        if (add_id(l, (int32_t)id, e) < 0)
            return -1;
        p = stop;
    }
}

static int parse_binary(const struct tok_job *j, struct lm_ids *l, struct lm_span s, struct lm_err *e)
{
    size_t width = (size_t)j->o.binary * 2;

    if (s.size % width)
        return lm_err_set(e, LM_MALFORMED, "%zu bytes are no whole number of ids of %zu bytes", s.size, width);
    for (size_t i = 0; i < s.size; i += width) {
        uint32_t id = width == 2 ? lm_load_u16le(s.data + i) : lm_load_u32le(s.data + i);
        if (id > INT32_MAX)
            return lm_err_set(e, LM_MALFORMED, "%u (number %zu) is no token id", id, i / width);
        if (add_id(l, (int32_t)id, e) < 0)
            return -1;
    }
    return 0;
}

static int read_ids(const struct tok_job *j, struct lm_ids *l, const char *file, struct lm_err *e)
{
    char *text = NULL;
    size_t n;
    int rc = cli_read_text(&text, &n, NULL, file, e);

    if (rc == 0)
        rc = j->o.binary ? parse_binary(j, l, lm_span_of(text, n), e) : parse_text(l, text, n, e);
    if (rc < 0 && file && text)
        lm_err_prefix(e, "%s", strcmp(file, "-") == 0 ? "standard input" : file);
    free(text);
    return rc;
}

static int print_text(const struct tok_job *j, const struct lm_ids *l, struct lm_err *e)
{
    char *out;
    size_t n;

    if (lm_tokenizer_decode(j->t, l->ids, l->n, j->o.show_special, &out, &n, e) < 0)
        return -1;
    if (j->o.json)
        cli_json_print(json_pack("{so}", "text", cli_json_str(lm_span_of(out, n))));
    else {
        fwrite(out, 1, n, stdout);
        if (isatty(1) && (n == 0 || out[n - 1] != '\n'))
            putchar('\n');
    }
    free(out);
    return 0;
}

static int decode_lines(const struct tok_job *j, struct lm_err *e)
{
    struct tok_input standard = {.name = "-"};
    size_t n = j->o.files.n;

    for (size_t i = 0; i < (n ? n : 1); i++)
        if (tok_stream(j, n ? &(struct tok_input){.name = j->o.files.items[i]} : &standard, &tok_unjsonl_worker, NULL, e) < 0)
            return -1;
    return 0;
}

/* The arguments are one list; so is each file. */
static int decode_each(const struct tok_job *j, struct lm_ids *l, int n, char **args, struct lm_err *e)
{
    for (int i = 0; i < n; i++)
        if (parse_text(l, args[i], strlen(args[i]), e) < 0)
            return -1;
    if (n > 0)
        return print_text(j, l, e);
    for (size_t i = 0; i < j->o.files.n || i == 0; i++) {
        l->n = 0;
        if (read_ids(j, l, j->o.files.n ? j->o.files.items[i] : NULL, e) < 0 || print_text(j, l, e) < 0)
            return -1;
    }
    return 0;
}

int tok_decode(const struct tok_job *j, int n, char **args, struct lm_err *e)
{
    struct lm_ids l = {0};

    if (n == 1 && strcmp(args[0], "-") == 0)
        n = 0;
    if (n > 0 && (j->o.files.n || j->o.jsonl || j->o.binary))
        return lm_err_set(e, LM_USAGE, "ids on the command line go with neither --file, --jsonl nor --binary");
    int rc = j->o.jsonl ? decode_lines(j, e) : decode_each(j, &l, n, args, e);
    lm_ids_free(&l);
    return rc;
}
