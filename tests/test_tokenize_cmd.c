/* Comparing tokenizers: differences are planted one by one, and must be found,
 * cut down and named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <glob.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert/tokens.h"

#define FIXTURES "tests/fixtures/tokenizers/"

/* ---- vocabularies with something changed */

static struct lm_vocab *open_vocab(const char *path)
{
    struct lm_vocab *v;
    struct lm_err e;

    if (lm_vocab_open(&v, path, &e) < 0)
        fail_msg("%s", e.text);
    return v;
}

/* The fixture's tokenizer.json after edit() has changed it. */
static struct lm_vocab *edited(const char *name, void (*edit)(json_t *root))
{
    char path[300], dir[] = "/tmp/test_tokenize_cmd.XXXXXX";
    json_error_t why;

    snprintf(path, sizeof path, FIXTURES "%s/tokenizer.json", name);
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, &why);
    assert_non_null(root);
    edit(root);
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    assert_int_equal(json_dump_file(root, path, JSON_COMPACT), 0);
    json_decref(root);
    struct lm_vocab *v = open_vocab(path);
    unlink(path);
    rmdir(dir);
    return v;
}

static void as_it_is(json_t *root)
{
    (void)root;
}

static struct lm_piece *piece(struct lm_vocab *v, const char *text)
{
    int64_t id = lm_vocab_find(v, lm_span_str(text));

    assert_true(id >= 0);
    return (struct lm_piece *)(uintptr_t)&v->pieces[id];
}

/* ---- comparing */

static struct lm_tokens_report *compare(const struct lm_vocab *a, const struct lm_vocab *b)
{
    struct lm_tokens_options o = {.seed = 7, .n_tries = 3000, .quick = true};
    struct lm_tokens_report *r;
    struct lm_err e;

    if (lm_tokens_compare(&r, a, b, &o, &e) < 0)
        fail_msg("%s", e.text);
    return r;
}

static bool has_part(const struct lm_tokens_difference *d, const char *name)
{
    for (size_t i = 0; i < lm_vocab_n_parts(); i++)
        if (d->parts >> i & 1 && strcmp(lm_vocab_part_name(i), name) == 0)
            return true;
    return false;
}

static enum lm_tok_stage stage_of(const struct lm_vocab *a, const struct lm_vocab *b, const struct lm_tokens_difference *d)
{
    size_t i = 0;

    while (!(d->parts >> i & 1))
        i++;
    return lm_vocab_difference_stage(a, b, i);
}

static const struct lm_tokens_difference *find(const struct lm_tokens_report *r, const char *part)
{
    for (size_t i = 0; i < r->n_differences; i++)
        if (has_part(&r->differences[i], part))
            return &r->differences[i];
    return NULL;
}

/* Nothing is left unexplained, `part` explains one, and the text that shows it
 * has at most `longest` bytes. Frees b. */
static void expect(struct lm_vocab *a, struct lm_vocab *b, const char *part, enum lm_tok_stage stage, size_t longest)
{
    struct lm_tokens_report *r = compare(a, b);

    assert_true(r->n_differ > 0);
    for (size_t i = 0; i < r->n_differences; i++)
        assert_true(r->differences[i].parts != 0);
    const struct lm_tokens_difference *d = find(r, part);
    if (!d)
        fail_msg("%s explains nothing; %zu causes, the first %s", part, r->n_differences,
                 r->n_differences ? lm_tok_stage_name(stage_of(a, b, &r->differences[0])) : "none");
    assert_int_equal(stage_of(a, b, d), stage);
    if (d->text.size > longest)
        fail_msg("%s: %zu bytes, at most %zu expected: '%.*s'", part, d->text.size, longest, (int)d->text.size,
                 (const char *)d->text.data);
    lm_tokens_report_free(r);
    lm_vocab_free(a);
    lm_vocab_free(b);
}

/* ---- alike */

static void equal_is_alike(void **state)
{
    static const char *const names[] = {"samples/polish-5m", FIXTURES "gpt2", FIXTURES "llama3", FIXTURES "hf-metaspace",
                                        FIXTURES "spm-rules", FIXTURES "spm-unused"};

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct lm_vocab *a = open_vocab(names[i]), *b = open_vocab(names[i]);
        struct lm_tokens_report *r = compare(a, b);
        assert_int_equal(r->n_differ, 0);
        assert_int_equal(r->n_differences, 0);
        assert_true(r->n_texts > 10000 && r->n_bytes > r->n_texts);
        lm_tokens_report_free(r);
        lm_vocab_free(a);
        lm_vocab_free(b);
    }
}

/* ---- settings in memory */

#define PLANT(name, vocabulary, change, part, stage, longest)                        \
    static void name(void **state)                                                   \
    {                                                                                \
        struct lm_vocab *a = open_vocab(vocabulary), *b = open_vocab(vocabulary);    \
                                                                                     \
        (void)state;                                                                 \
        change;                                                                      \
        expect(a, b, part, stage, longest);                                          \
    }

#define SPM "samples/polish-5m"

PLANT(missing_bos, FIXTURES "llama3", b->add_bos = false, "add_bos", LM_STAGE_POST, 0)
PLANT(added_eos, FIXTURES "llama3", b->add_eos = true; b->eos_id = 601, "add_eos", LM_STAGE_POST, 0)
PLANT(no_dummy_prefix, SPM, b->add_dummy_prefix = false, "add_dummy_prefix", LM_STAGE_PREFIX, 1)
PLANT(prefix_after_specials, FIXTURES "hf-prepend", b->prefix_every_part = false, "prefix_every_part", LM_STAGE_PREFIX, 4)
PLANT(prefix_space, FIXTURES "gpt2", b->add_prefix_space = true, "add_prefix_space", LM_STAGE_PREFIX, 1)
PLANT(extra_spaces, SPM, b->remove_extra_whitespaces = !b->remove_extra_whitespaces, "remove_extra_whitespaces",
      LM_STAGE_NORMALIZER, 2)
PLANT(lost_charsmap, FIXTURES "spm-rules", b->charsmap = lm_span_of(NULL, 0), "charsmap", LM_STAGE_NORMALIZER, 4)
PLANT(no_byte_fallback, SPM, b->byte_fallback = false, "byte_fallback", LM_STAGE_UNKNOWN, 1)
PLANT(other_unk, FIXTURES "spm-unknown", b->unk_id = 5, "unk_token", LM_STAGE_UNKNOWN, 4)
PLANT(lost_nfc, FIXTURES "qwen2", b->nfc = false, "nfc", LM_STAGE_NORMALIZER, 4)
PLANT(merges_not_ignored, FIXTURES "llama3", b->ignore_merges = false, "ignore_merges", LM_STAGE_MERGES, 8)
PLANT(wrong_pre, FIXTURES "gpt2", b->pre = "none"; b->pre_pattern = lm_span_str("\\p{L}+|[^\\p{L}]+"), "pre_tokenizer",
      LM_STAGE_PRE, 4)
PLANT(other_scores, SPM, piece(b, "rz")->score = -4000, "scores", LM_STAGE_MERGES, 12)
PLANT(special_as_text, FIXTURES "llama3",
      piece(b, "<|eot_id|>")->special = false; piece(b, "<|eot_id|>")->added = false;
      piece(b, "<|eot_id|>")->kind = LM_PIECE_NORMAL,
      "added_tokens", LM_STAGE_ADDED, 10)
PLANT(lstrip_lost, FIXTURES "gpt2", piece(b, "<|endoftext|>")->lstrip = true, "added_tokens", LM_STAGE_ADDED, 14)
PLANT(unused_piece, FIXTURES "spm-plain", piece(b, "abc")->kind = LM_PIECE_UNUSED, "kinds", LM_STAGE_PIECES, 4)

/* ---- edits of tokenizer.json */

static json_t *model(json_t *root)
{
    return json_object_get(root, "model");
}

static void drop_merge(json_t *root)
{
    json_array_remove(json_object_get(model(root), "merges"), 0);
}

static void swap_merges(json_t *root)
{
    json_t *merges = json_object_get(model(root), "merges");
    json_t *first = json_incref(json_array_get(merges, 0));
    size_t last = json_array_size(merges) - 1;

    json_array_remove(merges, 0);
    json_array_insert_new(merges, last, first);
}

static void drop_tokens(json_t *root)
{
    json_t *list = json_object_get(root, "added_tokens");

    while (json_array_size(list) > 1) /* the post-processor needs the first */
        json_array_remove(list, 1);
}

static void drop_last_token(json_t *root)
{
    json_t *list = json_object_get(root, "added_tokens");

    json_array_remove(list, json_array_size(list) - 1);
}

static void digits_one_by_one(json_t *root)
{
    json_t *split = json_array_get(json_object_get(json_object_get(root, "pre_tokenizer"), "pretokenizers"), 0);

    json_object_set_new(split, "pattern", json_pack("{ss}", "Regex", "\\p{N}| ?[^\\s\\p{N}]+|\\s+"));
}

static void exchange_ids(json_t *root)
{
    json_t *vocab = json_object_get(model(root), "vocab");

    json_object_set_new(vocab, "a", json_integer(65));
    json_object_set_new(vocab, "b", json_integer(64));
}

static void two_things(json_t *root)
{
    digits_one_by_one(root);
    drop_last_token(root);
}

static void no_normalizer(json_t *root)
{
    json_object_set_new(root, "normalizer", json_null());
}

static void merges_dropped(void **state)
{
    (void)state;
    expect(edited("gpt2", as_it_is), edited("gpt2", drop_merge), "merges", LM_STAGE_MERGES, 4);
}

static void merges_reordered(void **state)
{
    (void)state;
    expect(edited("gpt2", as_it_is), edited("gpt2", swap_merges), "merges", LM_STAGE_MERGES, 12);
}

static void tokens_lost(void **state)
{
    (void)state;
    expect(edited("llama3", as_it_is), edited("llama3", drop_tokens), "added_tokens", LM_STAGE_ADDED, 10);
}

static void pattern_changed(void **state)
{
    (void)state;
    expect(edited("llama3", as_it_is), edited("llama3", digits_one_by_one), "pre_tokenizer", LM_STAGE_PRE, 5);
}

static void normalizer_lost(void **state)
{
    (void)state;
    expect(edited("qwen2", as_it_is), edited("qwen2", no_normalizer), "nfc", LM_STAGE_NORMALIZER, 4);
}

static void ids_exchanged(void **state)
{
    json_t *root = json_load_file(FIXTURES "gpt2/tokenizer.json", JSON_ALLOW_NUL, NULL);

    (void)state;
    json_t *vocab = json_object_get(model(root), "vocab");
    bool as_expected = json_integer_value(json_object_get(vocab, "a")) == 64;
    json_decref(root);
    assert_true(as_expected);
    expect(edited("gpt2", as_it_is), edited("gpt2", exchange_ids), "pieces", LM_STAGE_PIECES, 1);
}

/* One cause must not hide the other. */
static void two_causes(void **state)
{
    struct lm_vocab *a = edited("llama3", as_it_is), *b = edited("llama3", two_things);
    struct lm_tokens_report *r = compare(a, b);

    (void)state;
    assert_non_null(find(r, "pre_tokenizer"));
    assert_non_null(find(r, "added_tokens"));
    assert_ptr_not_equal(find(r, "pre_tokenizer"), find(r, "added_tokens"));
    lm_tokens_report_free(r);
    lm_vocab_free(a);
    lm_vocab_free(b);
}

/* ---- the caller's texts, and words about it */

static void given_text_is_cut_down(void **state)
{
    struct lm_vocab *a = open_vocab(SPM), *b = open_vocab(SPM);
    size_t n = 200000;
    char *text = malloc(n);
    struct lm_span span = lm_span_of(text, n);
    struct lm_tokens_options o = {.texts = &span, .n_texts = 1, .seed = 1, .quick = true};
    struct lm_tokens_report *r;
    struct lm_err e;

    (void)state;
    memset(text, 'a', n);
    for (size_t i = 0; i < n; i += 7)
        text[i] = ' ';
    memcpy(text + 123456, " rzqqq ", 7);
    piece(b, "rz")->score = -4000;
    assert_int_equal(lm_tokens_compare(&r, a, b, &o, &e), 0);
    const struct lm_tokens_difference *d = find(r, "scores");
    assert_non_null(d);
    assert_string_equal(d->found_in, "a text given");
    assert_true(d->text.size <= 7);
    lm_tokens_report_free(r);
    lm_vocab_free(a);
    lm_vocab_free(b);
    free(text);
}

static void words_name_the_token(void **state)
{
    struct lm_vocab *a = edited("llama3", as_it_is), *b = edited("llama3", drop_last_token);
    struct lm_tokens_report *r = compare(a, b);
    size_t part = 0;

    (void)state;
    while (strcmp(lm_vocab_part_name(part), "added_tokens") != 0)
        part++;
    char *why = lm_vocab_part_difference(a, b, part, r->differences[0].text);
    assert_non_null(strstr(why, "'<think>' (id 605) is missing in B"));
    free(why);
    lm_tokens_report_free(r);
    lm_vocab_free(a);
    lm_vocab_free(b);
}

static void the_search_can_be_repeated(void **state)
{
    struct lm_vocab *a = edited("llama3", as_it_is), *b = edited("llama3", swap_merges);
    struct lm_tokens_report *x = compare(a, b), *y = compare(a, b);

    (void)state;
    assert_int_equal(x->n_differ, y->n_differ);
    assert_int_equal(x->n_differences, y->n_differences);
    for (size_t i = 0; i < x->n_differences; i++)
        assert_true(lm_span_eq(x->differences[i].text, y->differences[i].text));
    lm_tokens_report_free(x);
    lm_tokens_report_free(y);
    lm_vocab_free(a);
    lm_vocab_free(b);
}

static void stops_when_told(void **state)
{
    struct lm_vocab *a = open_vocab(SPM);
    volatile int stop = 1;
    struct lm_tokens_options o = {.seed = 1, .n_tries = 10, .stop = &stop};
    struct lm_tokens_report *r;
    struct lm_err e;

    (void)state;
    assert_int_equal(lm_tokens_compare(&r, a, a, &o, &e), -1);
    assert_int_equal(e.code, LM_INTERRUPTED);
    lm_vocab_free(a);
}

/* ---- mixing: with all of A's parts, B is A, whatever both are */

static void mix_and_compare(const struct lm_vocab *a, const char *name_a, const struct lm_vocab *b, const char *name_b)
{
    struct lm_tokens_options o = {.seed = 3, .n_tries = 200, .quick = true};
    struct lm_vocab *mixed;
    struct lm_tokens_report *r = NULL;
    struct lm_err e;

    if (lm_vocab_mix(&mixed, b, a, ((uint64_t)1 << lm_vocab_n_parts()) - 1, &e) == 0)
        lm_tokens_compare(&r, a, mixed, &o, &e);
    if (!r) {
        fail_msg("%s as %s: %s", name_b, name_a, e.text);
        return;
    }
    if (r->n_differ)
        fail_msg("%s made %s: %llu differ, first '%.*s'", name_b, name_a, (unsigned long long)r->n_differ,
                 (int)r->differences[0].text.size, (const char *)r->differences[0].text.data);
    lm_tokens_report_free(r);
    lm_vocab_free(mixed);
}

static void all_parts_make_it_the_other(void **state)
{
    enum { STEP = 7 }; /* each takes the place of one of another kind */
    glob_t g;

    (void)state;
    assert_int_equal(glob(FIXTURES "*/", 0, NULL, &g), 0);
    struct lm_vocab **v = calloc(g.gl_pathc, sizeof *v);
    for (size_t i = 0; i < g.gl_pathc; i++)
        v[i] = open_vocab(g.gl_pathv[i]);
    for (size_t i = 0; i < g.gl_pathc; i++) {
        size_t k = (i + STEP) % g.gl_pathc;
        mix_and_compare(v[i], g.gl_pathv[i], v[k], g.gl_pathv[k]);
    }
    for (size_t i = 0; i < g.gl_pathc; i++)
        lm_vocab_free(v[i]);
    free(v);
    globfree(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_is_alike),
        cmocka_unit_test(missing_bos),
        cmocka_unit_test(added_eos),
        cmocka_unit_test(no_dummy_prefix),
        cmocka_unit_test(prefix_after_specials),
        cmocka_unit_test(prefix_space),
        cmocka_unit_test(extra_spaces),
        cmocka_unit_test(lost_charsmap),
        cmocka_unit_test(no_byte_fallback),
        cmocka_unit_test(other_unk),
        cmocka_unit_test(lost_nfc),
        cmocka_unit_test(merges_not_ignored),
        cmocka_unit_test(wrong_pre),
        cmocka_unit_test(other_scores),
        cmocka_unit_test(special_as_text),
        cmocka_unit_test(lstrip_lost),
        cmocka_unit_test(unused_piece),
        cmocka_unit_test(merges_dropped),
        cmocka_unit_test(merges_reordered),
        cmocka_unit_test(tokens_lost),
        cmocka_unit_test(pattern_changed),
        cmocka_unit_test(normalizer_lost),
        cmocka_unit_test(ids_exchanged),
        cmocka_unit_test(two_causes),
        cmocka_unit_test(given_text_is_cut_down),
        cmocka_unit_test(words_name_the_token),
        cmocka_unit_test(the_search_can_be_repeated),
        cmocka_unit_test(stops_when_told),
        cmocka_unit_test(all_parts_make_it_the_other),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
