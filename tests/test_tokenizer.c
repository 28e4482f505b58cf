/* Ids against the reference libraries' (cases made by tests/make_fixtures.py
 * and tests/make_tokenizer_cases.py), offsets, decoding, hostile input. */
#include "tests/files.h"

#include <pthread.h>
#include <time.h>

#include "libmodel/libmodel.h"
#include "libmodel/parse/json.h"
#include "libmodel/tok/build.h"
#include "libmodel/tok/pretok.h"

#define FIXTURES "tests/fixtures/tokenizers/"

struct loaded {
    struct lm_vocab *v;
    struct lm_tokenizer *t;
};

static struct loaded load(const char *path)
{
    struct loaded l;
    struct lm_err e;

    if (lm_vocab_open(&l.v, path, &e) < 0 || lm_tokenizer_new(&l.t, l.v, &e) < 0)
        fail_msg("%s", e.text);
    return l;
}

static void unload(struct loaded *l)
{
    lm_tokenizer_free(l->t);
    lm_vocab_free(l->v);
}

/* ---- files of cases */

static char *read_text(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    struct stat s;

    assert_non_null(f);
    assert_int_equal(fstat(fileno(f), &s), 0);
    char *text = malloc((size_t)s.st_size + 1);
    *n = fread(text, 1, (size_t)s.st_size, f);
    assert_int_equal(*n, s.st_size);
    text[*n] = 0;
    fclose(f);
    return text;
}

/* Calls check(user, case) for every line of a file; returns how many. */
static size_t each_case(const char *name, void (*check)(void *user, const json_t *c), void *user)
{
    char path[300];
    size_t n, count = 0;
    struct lm_err e;

    snprintf(path, sizeof path, FIXTURES "%s", name);
    char *text = read_text(path, &n);
    for (char *p = text, *end; (end = memchr(p, '\n', (size_t)(text + n - p))) != NULL; p = end + 1, count++) {
        json_t *c = lm_json_parse(lm_span_of(p, (size_t)(end - p)), path, &e);
        if (!c)
            fail_msg("%s", e.text);
        check(user, c);
        json_decref(c);
    }
    free(text);
    return count;
}

static struct lm_span case_text(const json_t *c, uint8_t *buf, size_t size)
{
    const char *hex = json_string_value(json_object_get(c, "hex"));
    size_t n = 0;

    if (!hex)
        return lm_json_span(json_object_get(c, "text"));
    for (; hex[0]; hex += 2, n++) {
        unsigned byte = 0;
        assert_true(n < size && sscanf(hex, "%2x", &byte) == 1);
        buf[n] = (uint8_t)byte;
    }
    return lm_span_of(buf, n);
}

static void fail_ids(const char *what, struct lm_span text, const json_t *want, const struct lm_ids *got)
{
    char buf[4000], *w = json_dumps(want, 0);
    size_t n = 0;

    for (size_t i = 0; i < got->n && n < sizeof buf - 20; i++)
        n += (size_t)snprintf(buf + n, sizeof buf - n, "%d ", got->ids[i]);
    fail_msg("%s of \"%.*s\": expected %s, got %s", what, (int)text.size, (const char *)text.data, w, buf);
}

/* Offsets go forward, stay inside, begin where the one before ended and end at
 * the end, but for spaces that added tokens take in or the normalizer drops. */
static void check_offsets(const struct lm_ids *l, struct lm_span text, bool gapless)
{
    size_t pos = 0;

    for (size_t i = 0; i < l->n; i++) {
        struct lm_offsets o = l->offsets[i];
        assert_true(o.begin <= o.end && o.end <= text.size);
        if (gapless)
            assert_int_equal(o.begin, pos);
        pos = o.end;
    }
    if (gapless)
        assert_int_equal(pos, text.size);
}

/* Also without offsets, and after other ids: neither may change anything. */
static void check_encode(const struct loaded *l, struct lm_span text, unsigned flags, const json_t *want, const char *what,
                         bool gapless)
{
    struct lm_ids a = {0}, b = {0};
    struct lm_err e;

    assert_int_equal(lm_tokenizer_encode(l->t, text, flags | LM_ENCODE_OFFSETS, &a, &e), 0);
    bool same = a.n == json_array_size(want);
    for (size_t i = 0; same && i < a.n; i++)
        same = json_integer_value(json_array_get(want, i)) == a.ids[i];
    if (!same)
        fail_ids(what, text, want, &a);
    check_offsets(&a, text, gapless);
    for (int i = 0; i < 2; i++)
        assert_int_equal(lm_tokenizer_encode(l->t, text, flags, &b, &e), 0);
    assert_int_equal(b.n, 2 * a.n);
    assert_null(b.offsets);
    if (a.n) {
        assert_memory_equal(a.ids, b.ids, a.n * sizeof *a.ids);
        assert_memory_equal(a.ids, b.ids + a.n, a.n * sizeof *a.ids);
    }
    lm_ids_free(&a);
    lm_ids_free(&b);
}

/* ---- decoding */

/* Could these bytes be the beginning of a longer character? */
static bool begins_character(const uint8_t *s, size_t n)
{
    uint8_t whole[4];

    memcpy(whole, s, n);
    for (size_t len = n + 1; len <= 4; len++)
        for (unsigned fill = 0x80; fill <= 0xbf; fill++) {
            memset(whole + n, (int)fill, len - n);
            if (lm_utf8_valid(lm_span_of(whole, len)))
                return true;
        }
    return false;
}

/* Our text keeps the bytes; the libraries put U+FFFD for what is no UTF-8: HF
 * one for every maximal part of a character, SentencePiece one for every byte. */
static size_t with_replacements(const uint8_t *s, size_t n, bool each_byte, char *out)
{
    size_t m = 0;

    for (size_t i = 0; i < n;) {
        size_t k = 1;
        while (k < 4 && i + k < n && !lm_utf8_valid(lm_span_of(s + i, k)))
            k++;
        bool good = lm_utf8_valid(lm_span_of(s + i, k));
        if (!good)
            k = 1;
        while (!good && !each_byte && k < 3 && i + k < n && begins_character(s + i, k + 1))
            k++;
        memcpy(out + m, good ? (const char *)s + i : "\xef\xbf\xbd", good ? k : 3);
        m += good ? k : 3;
        i += k;
    }
    return m;
}

static void check_decode(const struct loaded *l, const json_t *c, bool each_byte)
{
    const json_t *list = json_object_get(c, "ids");
    struct lm_span want = lm_json_span(json_object_get(c, "decoded"));
    size_t n = json_array_size(list), n_out, at = 0;
    int32_t *ids = malloc((n + 1) * sizeof *ids);
    size_t size = lm_tokenizer_max_bytes(l->t) + 4;
    char *out, *stream = malloc((n + 1) * size);
    struct lm_decoder d = {.t = l->t};
    struct lm_err e;

    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    assert_int_equal(lm_tokenizer_decode(l->t, ids, n, true, &out, &n_out, &e), 0);
    char *text = malloc(3 * n_out + 1);
    size_t m = with_replacements((uint8_t *)out, n_out, each_byte, text);
    if (m != want.size || memcmp(text, want.data, m) != 0)
        fail_msg("decoded \"%.*s\", expected \"%.*s\"", (int)m, text, (int)want.size, (const char *)want.data);
    free(out);
    /* Piece by piece: whole characters only, the same bytes in the end. */
    assert_int_equal(lm_tokenizer_decode(l->t, ids, n, false, &out, &n_out, &e), 0);
    for (size_t i = 0; i <= n; i++) {
        size_t k = lm_decoder_push(&d, i < n ? ids[i] : -1, stream + at, size);
        assert_true(k <= size);
        if (i < n && lm_utf8_valid(lm_span_of(out, n_out)))
            assert_true(lm_utf8_valid(lm_span_of(stream + at, k)));
        at += k;
    }
    assert_int_equal(at, n_out);
    assert_memory_equal(stream, out, n_out);
    free(out);
    free(stream);
    free(text);
    free(ids);
}

/* ---- cases */

struct expectation {
    struct loaded l;
    unsigned flags;   /* for "ids" */
    bool gapless, spm;
    uint8_t buf[65536];
};

static void check_case(void *user, const json_t *c)
{
    struct expectation *x = user;
    struct lm_span text = case_text(c, x->buf, sizeof x->buf);
    const json_t *plain = json_object_get(c, "ids_plain"), *bos = json_object_get(c, "ids_bos");

    check_encode(&x->l, text, x->flags, json_object_get(c, "ids"), "ids", x->gapless);
    if (plain)
        check_encode(&x->l, text, 0, plain, "ids without special tokens", x->gapless);
    if (bos)
        check_encode(&x->l, text, LM_ENCODE_SPECIAL | LM_ENCODE_BOS_EOS, bos, "ids with BOS and EOS", x->gapless);
    if (json_object_get(c, "decoded"))
        check_decode(&x->l, c, x->spm);
}

static void check_random_ids(void *user, const json_t *c)
{
    struct expectation *x = user;

    check_decode(&x->l, c, x->spm);
}

static void replay(const char *model, const char *cases, unsigned flags, bool gapless, bool spm)
{
    static struct expectation x;

    x.l = load(model);
    x.flags = flags;
    x.gapless = gapless;
    x.spm = spm;
    assert_true(each_case(cases, check_case, &x) >= 5);
    unload(&x.l);
}

static void replay_ids(const char *model, const char *cases, bool spm)
{
    static struct expectation x;

    x.l = load(model);
    x.spm = spm;
    assert_true(each_case(cases, check_random_ids, &x) >= 5);
    unload(&x.l);
}

static void gpt2_json(void **state)
{
    (void)state;
    replay(FIXTURES "gpt2", "cases-gpt2.jsonl", LM_ENCODE_SPECIAL, true, false);
    replay_ids(FIXTURES "gpt2", "decode-gpt2.jsonl", false);
}

static void gpt2_vocab_and_merges(void **state)
{
    (void)state;
    replay(FIXTURES "gpt2/vocab.json", "cases-gpt2.jsonl", LM_ENCODE_SPECIAL, true, false);
}

static void llama3(void **state)
{
    (void)state;
    replay(FIXTURES "llama3", "cases-llama3.jsonl", LM_ENCODE_SPECIAL, true, false);
    replay_ids(FIXTURES "llama3", "decode-llama3.jsonl", false);
}

static void qwen2_nfc(void **state)
{
    (void)state;
    replay(FIXTURES "qwen2", "cases-qwen2.jsonl", LM_ENCODE_SPECIAL, false, false);
    replay_ids(FIXTURES "qwen2", "decode-qwen2.jsonl", false);
}

static void sample_sentencepiece(void **state)
{
    (void)state;
    replay("samples/polish-5m", "cases-sample.jsonl", 0, true, true);
    replay("samples/polish-5m/tokenizer.model", "invalid-sample.jsonl", 0, true, true);
    replay_ids("samples/polish-5m", "decode-sample.jsonl", true);
}

/* The model of Mistral 7B is not in the repository; LM_SHARED is the folder it is in. */
static void mistral_sentencepiece(void **state)
{
    const char *shared = getenv("LM_SHARED");
    char path[600];

    (void)state;
    snprintf(path, sizeof path, "%s/data/tokenizers/mistral-v1.tokenizer.model", shared ? shared : "");
    if (!shared || access(path, R_OK) != 0)
        skip();
    replay(path, "cases-mistral.jsonl", 0, true, true);
    replay(path, "invalid-mistral.jsonl", 0, true, true);
    replay_ids(path, "decode-mistral.jsonl", true);
}

static void sentencepiece_rules(void **state)
{
    static const char *const names[] = {"spm-user", "spm-unused", "spm-unknown", "spm-rules", "spm-plain"};

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char model[100], cases[100];
        snprintf(model, sizeof model, FIXTURES "%s/tokenizer.model", names[i]);
        snprintf(cases, sizeof cases, "cases-%s.jsonl", names[i]);
        replay(model, cases, 0, false, true);
    }
}

static void sentencepiece_style_json(void **state)
{
    (void)state;
    replay(FIXTURES "hf-prepend", "cases-hf-prepend.jsonl", LM_ENCODE_SPECIAL, false, true);
    replay(FIXTURES "hf-metaspace", "cases-hf-metaspace.jsonl", LM_ENCODE_SPECIAL, false, true);
}

static void added_token_flags(void **state)
{
    (void)state;
    replay(FIXTURES "hf-flags", "cases-hf-flags.jsonl", LM_ENCODE_SPECIAL, false, false);
}

/* ---- every named pre-tokenizer, with llama3's pieces */

struct pre_state {
    struct lm_meta *meta;
    size_t n_names;
    char last[40];
};

static void check_pre(void *user, const json_t *c)
{
    struct pre_state *s = user;
    const char *pre = json_string_value(json_object_get(c, "pre"));
    struct lmi_vocab *b = lmi_vocab_new();
    struct loaded l = {.v = &b->v};
    struct lm_err e;

    assert_int_equal(lm_meta_set_str(s->meta, "tokenizer.ggml.pre", lm_span_str(pre)), 0);
    if (lmi_gguf_vocab_read(b, s->meta, &e) != 1 || lmi_vocab_finish(b, &e) < 0 || lm_tokenizer_new(&l.t, l.v, &e) < 0)
        fail_msg("%s: %s", pre, e.text);
    check_encode(&l, lm_json_span(json_object_get(c, "text")), 0, json_object_get(c, "ids"), pre, true);
    unload(&l);
    s->n_names += strcmp(pre, s->last) != 0;
    snprintf(s->last, sizeof s->last, "%s", pre);
}

static void named_pre_tokenizers(void **state)
{
    struct pre_state s = {lm_meta_new(), 0, ""};
    struct loaded l = load(FIXTURES "llama3");
    struct lm_err e;

    (void)state;
    assert_int_equal(lm_vocab_to_meta(s.meta, l.v, 0, &e), 0);
    each_case("cases-pre.jsonl", check_pre, &s);
    assert_true(s.n_names >= 18);
    lm_meta_free(s.meta);
    unload(&l);
}

/* All names of the table compile and cover any text. */
static int sum_words(void *user, size_t begin, size_t end)
{
    size_t *pos = user;

    assert_int_equal(begin, *pos);
    assert_true(end > begin);
    *pos = end;
    return 0;
}

static void all_names_compile(void **state)
{
    const char *text = "Ala's 12345 kota\n\n \t 漢字!? a\u0301 (x) ";
    const struct lmi_pre_name *name;
    struct lm_arena a = {0};
    struct lm_err e;
    size_t n = 0;

    (void)state;
    for (; (name = lmi_pre_at(n)) != NULL; n++) {
        struct lmi_pretok *p;
        size_t pos = 0;
        assert_ptr_equal(lmi_pre_find(lm_span_str(name->name)), name);
        struct lm_span pattern = lmi_pre_pattern(&a, name);
        if (name->family == LMI_BYTES)
            assert_ptr_equal(lmi_pre_match(pattern, name->ignore_merges)->steps[0], name->steps[0]);
        if (lmi_pretok_new(&p, pattern, &e) < 0)
            fail_msg("%s: %s", name->name, e.text);
        assert_int_equal(lmi_pretok_run(p, lm_span_str(text), sum_words, &pos, &e), 0);
        assert_int_equal(pos, strlen(text));
        lmi_pretok_free(p);
    }
    assert_true(n > 80);
    assert_null(lmi_pre_find(lm_span_str("no-such-name")));
    lm_arena_free(&a);
}

/* ---- flags and special tokens */

static void expect_ids(const struct loaded *l, const char *text, unsigned flags, const int32_t *want, size_t n)
{
    struct lm_ids got = {0};
    struct lm_err e;

    assert_int_equal(lm_tokenizer_encode(l->t, lm_span_str(text), flags, &got, &e), 0);
    assert_int_equal(got.n, n);
    assert_memory_equal(got.ids, want, n * sizeof *want);
    lm_ids_free(&got);
}

static void control_text_is_text(void **state)
{
    struct loaded l = load(FIXTURES "spm-user/tokenizer.model");
    struct lm_ids plain = {0};
    struct lm_err e;

    (void)state;
    assert_int_equal(lm_tokenizer_encode(l.t, lm_span_str("<s>"), 0, &plain, &e), 0);
    for (size_t i = 0; i < plain.n; i++)
        assert_int_not_equal(l.v->pieces[plain.ids[i]].kind, LM_PIECE_CONTROL);
    expect_ids(&l, "<s></s>", LM_ENCODE_SPECIAL, (int32_t[]){1, 2}, 2);
    expect_ids(&l, "", LM_ENCODE_BOS_EOS, (int32_t[]){1}, 1);
    lm_ids_free(&plain);
    unload(&l);
}

/* The prefix space comes once where the checkpoint says so ("legacy": false),
 * after every special token where it does not. */
static void prefix_after_special(void **state)
{
    struct loaded once = load("samples/polish-5m"), every = load("samples/polish-5m/tokenizer.model");
    struct lm_ids a = {0}, b = {0};
    struct lm_err e;

    (void)state;
    /* Both read the same tokenizer_config.json: it lies beside the model. */
    assert_false(once.v->prefix_every_part);
    assert_false(every.v->prefix_every_part);
    assert_int_equal(lm_tokenizer_encode(once.t, lm_span_str("<s>pan"), LM_ENCODE_SPECIAL, &a, &e), 0);
    struct loaded other = load(FIXTURES "spm-user/tokenizer.model");
    assert_true(other.v->prefix_every_part);
    assert_int_equal(lm_tokenizer_encode(other.t, lm_span_str("<s>abc"), LM_ENCODE_SPECIAL, &b, &e), 0);
    assert_int_equal(a.ids[0], 1);
    assert_int_not_equal(once.v->pieces[a.ids[1]].text.data[0], 0xe2);
    assert_int_equal(b.ids[0], 1);
    assert_int_equal(other.v->pieces[b.ids[1]].text.data[0], 0xe2);
    lm_ids_free(&a);
    lm_ids_free(&b);
    unload(&once);
    unload(&every);
    unload(&other);
}

/* ---- limits */

static void ids_outside_the_vocabulary(void **state)
{
    struct loaded l = load(FIXTURES "gpt2");
    struct lm_err e;
    char *out;
    size_t n;

    (void)state;
    for (int i = 0; i < 2; i++) {
        int32_t ids[] = {0, i ? -1 : (int32_t)l.v->n_pieces};
        assert_int_equal(lm_tokenizer_decode(l.t, ids, 2, true, &out, &n, &e), -1);
        assert_null(out);
        assert_non_null(strstr(e.text, "outside the vocabulary"));
        assert_int_equal(lm_tokenizer_piece_bytes(l.t, ids[1], false, true, NULL, 0), 0);
    }
    unload(&l);
}

static void offsets_need_a_list_with_offsets(void **state)
{
    struct loaded l = load(FIXTURES "gpt2");
    struct lm_ids ids = {0};
    struct lm_err e;

    (void)state;
    assert_int_equal(lm_tokenizer_encode(l.t, lm_span_str("a"), 0, &ids, &e), 0);
    assert_int_equal(lm_tokenizer_encode(l.t, lm_span_str("a"), LM_ENCODE_OFFSETS, &ids, &e), -1);
    assert_int_equal(e.code, LM_USAGE);
    lm_ids_free(&ids);
    unload(&l);
}

/* Text whose tokens are found one after another, without a pause in it: must
 * not take time that grows with its square. */
static void long_words_take_linear_time(void **state)
{
    static const char *const models[] = {FIXTURES "gpt2", FIXTURES "llama3", FIXTURES "qwen2", FIXTURES "hf-flags",
                                         FIXTURES "hf-prepend", FIXTURES "spm-unused/tokenizer.model", "samples/polish-5m"};
    static const char *const units[] = {"a", " ", "1", "\n", "\xc4\x85", "\xcc\x81", "\xff", "ab"};
    enum { N = 300000 };
    char *text = malloc(N + 8);
    clock_t start = clock();

    (void)state;
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        struct loaded l = load(models[m]);
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            struct lm_ids ids = {0};
            struct lm_err e;
            size_t k = strlen(units[u]), n = 0, n_out;
            char *out;
            for (; n < N; n += k)
                memcpy(text + n, units[u], k);
            if (lm_tokenizer_encode(l.t, lm_span_of(text, n), LM_ENCODE_OFFSETS, &ids, &e) < 0)
                fail_msg("%s, %s: %s", models[m], units[u], e.text);
            assert_int_equal(lm_tokenizer_decode(l.t, ids.ids, ids.n, true, &out, &n_out, &e), 0);
            free(out);
            lm_ids_free(&ids);
        }
        unload(&l);
    }
    free(text);
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 60); /* quadratic: hours */
}

/* A regex that backtracks without end is stopped by its count of steps. */
static void explosive_regex(void **state)
{
    static const char *const regexes[] = {"(?:a+)+b", "(?:a|a)+b", "(?:a*)*b|x", "a{1,3}(?=(?:a{3})*b)"};
    char text[30001];
    struct lm_err e;
    clock_t start = clock();

    (void)state;
    memset(text, 'a', sizeof text - 1);
    strcpy(text + sizeof text - 3, "cb"); /* a b somewhere, or PCRE2 need not even try */
    for (size_t i = 0; i < sizeof regexes / sizeof *regexes; i++) {
        struct lmi_pretok *p;
        size_t pos = 0;
        if (lmi_pretok_new(&p, lm_span_str(regexes[i]), &e) < 0)
            fail_msg("%s: %s", regexes[i], e.text);
        assert_int_equal(lmi_pretok_run(p, lm_span_str(text), sum_words, &pos, &e), -1);
        assert_int_equal(e.code, LM_LIMIT);
        assert_non_null(strstr(e.text, "too many steps"));
        lmi_pretok_free(p);
    }
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 30);
}

static void refused_regexes(void **state)
{
    static const char *const regexes[][2] = {
        {"(", "regex: "},          {"(a)\\1", "back reference"}, {"(?R)", "group of this kind"},
        {"(?(1)a)", "group"},      {"(*VERB)", "group"},         {"\\R", "\\R"},
        {"[a&&b]", "&&"},          {"[a[bc]]", "class in a class"}, {"[[:alpha:]]", "class in a class"},
        {"[^a&&[b]]", "&&"},       {"[a&&[b]c]", "&& in a class in this form"}, {"[a", "without an end"},
        {"a{,3}", "differently"},  {"a{2}+", "differently"},     {"\\p{Nonsense}", "regex: "},
        {"\\p{}", "without a name"}, {"[\\W]", "negated shorthand"}, {"a\\", "backslash at the end"},
    };
    struct lmi_pretok *p;
    struct lm_err e;

    (void)state;
    for (size_t i = 0; i < sizeof regexes / sizeof *regexes; i++) {
        if (lmi_pretok_new(&p, lm_span_str(regexes[i][0]), &e) == 0)
            fail_msg("%s was not refused", regexes[i][0]);
        assert_int_equal(e.code, LM_UNSUPPORTED);
        if (!strstr(e.text, regexes[i][1]))
            fail_msg("%s: expected '%s', got '%s'", regexes[i][0], regexes[i][1], e.text);
    }
}

/* A match that spans many windows is found whole. */
static void long_matches(void **state)
{
    struct lmi_pretok *p;
    struct lm_err e;
    char text[5003];
    size_t pos = 0;

    (void)state;
    memset(text, 'x', sizeof text);
    memcpy(text + 4000, "<", 1);
    text[5000] = '>';
    text[5001] = 'y';
    text[5002] = 0;
    assert_int_equal(lmi_pretok_new(&p, lm_span_str("<[^>]+>"), &e), 0);
    assert_int_equal(lmi_pretok_run(p, lm_span_str(text), sum_words, &pos, &e), 0);
    assert_int_equal(pos, 5002);
    lmi_pretok_free(p);
}

/* ---- threads share a tokenizer */

struct worker {
    const struct lm_tokenizer *t;
    struct lm_ids ids;
    int rc;
};

static void *work(void *arg)
{
    struct worker *w = arg;
    char text[20000];
    struct lm_err e;

    for (size_t i = 0; i < sizeof text; i++)
        text[i] = "Litwo! Ojczyzno moja, ty jestes jak zdrowie \n"[(i * 7 + i / 31) % 45];
    for (int i = 0; i < 20 && w->rc == 0; i++) {
        lm_ids_free(&w->ids);
        w->rc = lm_tokenizer_encode(w->t, lm_span_of(text, sizeof text), 0, &w->ids, &e);
    }
    return NULL;
}

static void shared_by_threads(void **state)
{
    struct loaded l = load("samples/polish-5m");
    struct worker w[4] = {{0}};
    pthread_t threads[4];

    (void)state;
    for (int i = 0; i < 4; i++) {
        w[i].t = l.t;
        assert_int_equal(pthread_create(&threads[i], NULL, work, &w[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(w[i].rc, 0);
        assert_int_equal(w[i].ids.n, w[0].ids.n);
        assert_memory_equal(w[i].ids.ids, w[0].ids.ids, w[0].ids.n * sizeof *w[0].ids.ids);
    }
    for (int i = 0; i < 4; i++)
        lm_ids_free(&w[i].ids);
    unload(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gpt2_json),
        cmocka_unit_test(gpt2_vocab_and_merges),
        cmocka_unit_test(llama3),
        cmocka_unit_test(qwen2_nfc),
        cmocka_unit_test(sample_sentencepiece),
        cmocka_unit_test(mistral_sentencepiece),
        cmocka_unit_test(sentencepiece_rules),
        cmocka_unit_test(sentencepiece_style_json),
        cmocka_unit_test(added_token_flags),
        cmocka_unit_test(named_pre_tokenizers),
        cmocka_unit_test(all_names_compile),
        cmocka_unit_test(control_text_is_text),
        cmocka_unit_test(prefix_after_special),
        cmocka_unit_test(ids_outside_the_vocabulary),
        cmocka_unit_test(offsets_need_a_list_with_offsets),
        cmocka_unit_test(long_words_take_linear_time),
        cmocka_unit_test(explosive_regex),
        cmocka_unit_test(refused_regexes),
        cmocka_unit_test(long_matches),
        cmocka_unit_test(shared_by_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
