/* For tests of tokenizers: files of cases (tests/make_unigram_cases.py), and a
 * vocabulary sent through another form and back. */
#ifndef TESTS_TOK_CASES_H
#define TESTS_TOK_CASES_H

#include "tests/files.h"

#include "libmodel/libmodel.h"
#include "libmodel/parse/json.h"
#include "libmodel/tok/build.h"

#define FIXTURES "tests/fixtures/tokenizers/"

struct loaded {
    struct lm_vocab *v;
    struct lm_tokenizer *t;
};

static inline struct loaded loaded_of(struct lm_vocab *v)
{
    struct loaded l = {.v = v};
    struct lm_err e;

    if (lm_tokenizer_new(&l.t, v, &e) < 0)
        fail_msg("%s", e.text);
    return l;
}

static inline struct loaded load(const char *name, const char *file)
{
    char path[300];
    struct lm_vocab *v;
    struct lm_err e;

    snprintf(path, sizeof path, FIXTURES "%s%s", name, file);
    if (lm_vocab_open(&v, path, &e) < 0)
        fail_msg("%s", e.text);
    return loaded_of(v);
}

static inline void unload(struct loaded *l)
{
    lm_tokenizer_free(l->t);
    lm_vocab_free(l->v);
}

/* ---- cases */

struct tok_case {
    struct lm_span text; /* with its repeats */
    const json_t *json;
    bool is_long;        /* n and fnv instead of ids */
};

static inline struct lm_span text_of_case(const json_t *c)
{
    const char *hex = json_string_value(json_object_get(c, "hex"));
    size_t n = strlen(hex) / 2, repeat = 1;

    if (json_object_get(c, "repeat"))
        repeat = (size_t)json_integer_value(json_object_get(c, "repeat"));
    uint8_t *text = malloc(n * repeat + 1);
    assert_non_null(text);
    for (size_t i = 0; i < n; i++) {
        unsigned byte = 0;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
        text[i] = (uint8_t)byte;
    }
    for (size_t i = n; i < n * repeat; i++)
        text[i] = text[i - n];
    return lm_span_of(text, n * repeat);
}

/* Calls check(user, case) for every line of cases-NAME.jsonl; returns how many. */
static inline size_t each_case(const char *name, void (*check)(void *user, const struct tok_case *c), void *user)
{
    char path[300];
    char *line = NULL;
    size_t room = 0, count = 0;
    ssize_t n;

    snprintf(path, sizeof path, FIXTURES "cases-%s.jsonl", name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    for (; (n = getline(&line, &room, f)) > 0; count++) {
        struct lm_err e;
        json_t *c = lm_json_parse(lm_span_of(line, (size_t)n), path, &e);
        if (!c)
            fail_msg("%s", e.text);
        struct tok_case t = {text_of_case(c), c, json_object_get(c, "fnv") != NULL};
        check(user, &t);
        free((void *)t.text.data);
        json_decref(c);
    }
    free(line);
    fclose(f);
    return count;
}

static inline uint64_t fnv_of(const struct lm_ids *l)
{
    uint64_t h = 0xcbf29ce484222325u;

    for (size_t i = 0; i < l->n; i++)
        for (int k = 0; k < 4; k++)
            h = (h ^ ((uint32_t)l->ids[i] >> (8 * k) & 0xff)) * 0x100000001b3u;
    return h;
}

static inline void fail_case(const struct tok_case *c, const struct lm_ids *got)
{
    char buf[2000], *want = json_dumps(c->json, 0);
    size_t n = 0;

    for (size_t i = 0; i < got->n && n < sizeof buf - 20; i++)
        n += (size_t)snprintf(buf + n, sizeof buf - n, "%d ", got->ids[i]);
    fail_msg("\"%.*s\": %.3000s, got %zu: %s", (int)(c->text.size < 200 ? c->text.size : 200), (const char *)c->text.data,
             want, got->n, buf);
}

static inline bool ids_are(const struct tok_case *c, const struct lm_ids *l)
{
    const json_t *want = json_object_get(c->json, "ids");
    char fnv[20];

    if (c->is_long) {
        snprintf(fnv, sizeof fnv, "%016llx", (unsigned long long)fnv_of(l));
        return (json_int_t)l->n == json_integer_value(json_object_get(c->json, "n")) &&
               strcmp(fnv, json_string_value(json_object_get(c->json, "fnv"))) == 0;
    }
    bool same = l->n == json_array_size(want);
    for (size_t i = 0; same && i < l->n; i++)
        same = json_integer_value(json_array_get(want, i)) == l->ids[i];
    return same;
}

static inline void check_offsets(const struct tok_case *c, const struct lm_ids *l)
{
    const json_t *want = json_object_get(c->json, "offsets");
    size_t last = 0;

    for (size_t i = 0; i < l->n; i++) {
        const json_t *pair = json_array_get(want, i);
        assert_true(l->offsets[i].begin <= l->offsets[i].end && l->offsets[i].end <= c->text.size);
        assert_true(l->offsets[i].end >= last);
        last = l->offsets[i].end;
        if (pair && ((json_int_t)l->offsets[i].begin != json_integer_value(json_array_get(pair, 0)) ||
                     (json_int_t)l->offsets[i].end != json_integer_value(json_array_get(pair, 1))))
            fail_case(c, l);
    }
}

/* Also without offsets, and after other ids: neither may change anything. */
static inline void check_case(const struct loaded *t, const struct tok_case *c, unsigned flags)
{
    struct lm_ids a = {0}, b = {0};
    struct lm_err e;

    assert_int_equal(lm_tokenizer_encode(t->t, c->text, flags | LM_ENCODE_OFFSETS, &a, &e), 0);
    if (!ids_are(c, &a))
        fail_case(c, &a);
    check_offsets(c, &a);
    for (int i = 0; i < 2; i++)
        assert_int_equal(lm_tokenizer_encode(t->t, c->text, flags, &b, &e), 0);
    assert_int_equal(b.n, 2 * a.n);
    if (a.n) {
        assert_memory_equal(a.ids, b.ids, a.n * sizeof *a.ids);
        assert_memory_equal(a.ids, b.ids + a.n, a.n * sizeof *a.ids);
    }
    lm_ids_free(&a);
    lm_ids_free(&b);
}

static inline void check_plain(void *user, const struct tok_case *c)
{
    check_case(user, c, 0);
}

/* As the library does: special tokens in a text are found. */
static inline void check_special(void *user, const struct tok_case *c)
{
    const char *want = json_string_value(json_object_get(c->json, "decoded"));
    const json_t *list = json_object_get(c->json, "ids");
    const struct loaded *l = user;
    struct lm_err e;
    char *text;
    size_t n;

    check_case(user, c, LM_ENCODE_SPECIAL);
    if (!want)
        return;
    int32_t *ids = malloc((json_array_size(list) + 1) * sizeof *ids);
    for (size_t i = 0; i < json_array_size(list); i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    assert_int_equal(lm_tokenizer_decode(l->t, ids, json_array_size(list), false, &text, &n, &e), 0);
    if (!strstr(want, "\xef\xbf\xbd")) /* bytes that are no UTF-8 are shown otherwise */
        assert_string_equal(text, want);
    free(text);
    free(ids);
}

/* ---- other forms */

static inline struct loaded through_gguf(const struct lm_vocab *v)
{
    struct lm_meta *m = lm_meta_new();
    struct lmi_vocab *b = lmi_vocab_new();
    struct lm_err e;

    if (lm_vocab_to_meta(m, v, v->n_pieces + 2, &e) < 0 || lmi_gguf_vocab_read(b, m, &e) != 1 || lmi_vocab_finish(b, &e) < 0)
        fail_msg("%s", e.text);
    assert_int_equal(b->v.n_pieces, v->n_pieces + 2);
    lm_meta_free(m);
    return loaded_of(&b->v);
}

struct one_file {
    const char *name;
    struct bytes data;
};

static inline int take_file(void *user, const char *name, struct lm_span data, struct lm_err *e)
{
    struct one_file *f = user;

    (void)e;
    if (strcmp(name, f->name) == 0)
        put(&f->data, data.data, data.size);
    return 0;
}

/* The file of this name among those that lm_vocab_to_files makes; no data if it makes none. */
static inline struct bytes file_of(const struct lm_vocab *v, const char *name)
{
    struct one_file f = {.name = name};
    struct lm_err e;

    if (lm_vocab_to_files(v, take_file, &f, &e) < 0)
        fail_msg("%s", e.text);
    return f.data;
}

static inline struct loaded through_file(const struct lm_vocab *v, const char *name,
                                         int (*read)(struct lmi_vocab *b, struct lm_span file, struct lm_err *e))
{
    struct bytes file = file_of(v, name);
    struct lmi_vocab *b = lmi_vocab_new();
    struct lm_err e;

    assert_true(file.n > 0);
    if (read(b, lm_span_of(file.data, file.n), &e) < 0 || lmi_vocab_finish(b, &e) < 0)
        fail_msg("%s", e.text);
    free(file.data);
    return loaded_of(&b->v);
}

#endif
