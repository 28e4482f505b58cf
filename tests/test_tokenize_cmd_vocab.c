/* What lm-vocab counts, compares and writes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert/vocab_diff.h"
#include "convert/vocab_files.h"
#include "convert/vocab_scripts.h"
#include "convert/vocab_stats.h"

#define FIXTURES "tests/fixtures/tokenizers/"

static struct lm_vocab *open_vocab(const char *path)
{
    struct lm_vocab *v;
    struct lm_err e;

    if (lm_vocab_open(&v, path, &e) < 0)
        fail_msg("%s", e.text);
    return v;
}

static struct lm_tokenizer *tokenizer(const struct lm_vocab *v)
{
    struct lm_tokenizer *t;
    struct lm_err e;

    if (lm_tokenizer_new(&t, v, &e) < 0)
        fail_msg("%s", e.text);
    return t;
}

static struct lm_piece *piece(struct lm_vocab *v, const char *text)
{
    int64_t id = lm_vocab_find(v, lm_span_str(text));

    assert_true(id >= 0);
    return (struct lm_piece *)(uintptr_t)&v->pieces[id];
}

static struct lm_vocab_stats *stats_of(const struct lm_vocab *v)
{
    struct lm_vocab_stats *s;
    struct lm_err e;
    struct lm_tokenizer *t = tokenizer(v);

    if (lm_vocab_stats_make(&s, v, t, &e) < 0)
        fail_msg("%s", e.text);
    lm_tokenizer_free(t);
    return s;
}

/* ---- statistics */

static void sums_agree(void **state)
{
    static const char *const names[] = {"samples/polish-5m", FIXTURES "gpt2", FIXTURES "llama3", FIXTURES "hf-metaspace",
                                        FIXTURES "spm-user"};

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct lm_vocab *v = open_vocab(names[i]);
        struct lm_vocab_stats *s = stats_of(v);
        size_t kinds = 0, lengths = 0, scripts = 0;
        for (unsigned k = 0; k <= LM_PIECE_BYTE; k++)
            kinds += s->n_of_kind[k];
        for (size_t k = 0; k < LM_STATS_LENGTHS; k++)
            lengths += s->n_of_length[k];
        for (size_t k = 0; k < s->n_scripts; k++)
            scripts += s->scripts[k].n;
        assert_int_equal(kinds, v->n_pieces);
        assert_int_equal(lengths, s->n_texts);
        assert_int_equal(scripts, s->n_texts);
        assert_true(s->mean_bytes >= s->mean_chars);
        lm_vocab_stats_free(s);
        lm_vocab_free(v);
    }
}

static void every_byte_of_byte_level(void **state)
{
    struct lm_vocab *v = open_vocab(FIXTURES "gpt2");
    struct lm_vocab_stats *s = stats_of(v);

    (void)state;
    assert_int_equal(s->n_bytes, 256);
    assert_int_equal(s->n_of_length[1], 256);
    assert_int_equal(s->n_duplicates, 0);
    lm_vocab_stats_free(s);
    lm_vocab_free(v);
}

/* A piece whose merge is gone cannot be reached, nor what was made of it. */
static void unreachable_is_found(void **state)
{
    struct lm_vocab *v = open_vocab(FIXTURES "gpt2");
    struct lm_vocab_stats *before = stats_of(v);
    uint32_t lost = v->merges[v->n_merges - 1].result;

    (void)state;
    v->n_merges--;
    struct lm_vocab_stats *after = stats_of(v);
    bool found = false;
    for (size_t i = 0; i < after->n_unreachable; i++)
        found |= after->unreachable[i] == lost;
    assert_true(found);
    assert_int_equal(after->n_unreachable, before->n_unreachable + 1);
    lm_vocab_stats_free(before);
    lm_vocab_stats_free(after);
    lm_vocab_free(v);
}

static void duplicates_are_found(void **state)
{
    struct lm_vocab *v = open_vocab("samples/polish-5m");

    (void)state;
    ((struct lm_piece *)(uintptr_t)v->pieces)[700].text = v->pieces[500].text;
    struct lm_vocab_stats *s = stats_of(v);
    assert_int_equal(s->n_duplicates, 1);
    assert_int_equal(s->duplicates[0], 700);
    lm_vocab_stats_free(s);
    lm_vocab_free(v);
}

static void scripts_by_letters(void **state)
{
    static const struct { const char *text, *name; } cases[] = {
        {" kot", "Latin"},         {"\xc5\xbc", "Latin"},        {"\xd0\xba\xd0\xbe\xd1\x82", "Cyrillic"},
        {"\xe4\xb8\xad", "Han"},   {"\xed\x95\x9c", "Hangul"},   {"\xe3\x81\x82", "Hiragana"},
        {"\xce\xb1", "Greek"},     {"\xd7\x90", "Hebrew"},       {"12", "digits"},
        {"  ", "spaces"},          {"\n", "spaces"},             {"...", "punctuation and symbols"},
        {"a\xd0\xb1", "several scripts"}, {"\xe4\xb8", "parts of characters"}, {"\xf0\x9f\x98\x80", "punctuation and symbols"},
        {"x1.", "Latin"},          {"", "other"}};
    struct lmc_scripts *s;
    struct lm_err e;

    (void)state;
    assert_int_equal(lmc_scripts_new(&s, &e), 0);
    for (int again = 0; again < 2; again++) /* the second time from memory */
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
            assert_string_equal(lmc_script_name(lmc_script_of_text(s, lm_span_str(cases[i].text))), cases[i].name);
    lmc_scripts_free(s);
}

/* ---- differences */

static struct lm_vocab_diff *diff(const struct lm_vocab *a, const struct lm_vocab *b)
{
    struct lm_vocab_diff *d;
    struct lm_err e;

    if (lm_vocab_diff_make(&d, a, b, &e) < 0)
        fail_msg("%s", e.text);
    return d;
}

static void the_same_has_no_difference(void **state)
{
    struct lm_vocab *a = open_vocab(FIXTURES "llama3"), *b = open_vocab(FIXTURES "llama3");
    struct lm_vocab_diff *d = diff(a, b);

    (void)state;
    assert_true(lm_vocab_diff_empty(d));
    lm_vocab_diff_free(d);
    lm_vocab_free(a);
    lm_vocab_free(b);
}

static void planted_changes_are_listed(void **state)
{
    struct lm_vocab *a = open_vocab("samples/polish-5m"), *b = open_vocab("samples/polish-5m");

    (void)state;
    piece(b, "rz")->score = -5000;
    piece(b, "cz")->kind = LM_PIECE_UNUSED;
    piece(b, "</s>")->special = !piece(b, "</s>")->special;
    b->n_pieces--;
    b->add_bos = !b->add_bos;
    struct lm_vocab_diff *d = diff(a, b);
    assert_false(lm_vocab_diff_empty(d));
    assert_int_equal(d->n_pieces, 3); /* the dropped one is still in B's index */
    assert_int_equal(d->n_of[3], 1);
    assert_int_equal(d->n_of[4], 1);
    assert_int_equal(d->n_of[5], 1);
    assert_int_equal(d->n_settings, 1);
    assert_string_equal(d->settings[0].name, "add_bos");
    lm_vocab_diff_free(d);
    lm_vocab_free(a);
    lm_vocab_free(b);
}

static void merges_are_compared_by_text(void **state)
{
    struct lm_vocab *a = open_vocab(FIXTURES "gpt2"), *b = open_vocab(FIXTURES "gpt2");
    struct lm_merge *m = (struct lm_merge *)(uintptr_t)b->merges, first = m[0];

    (void)state;
    m[0] = m[1];
    m[1] = first;
    b->n_merges--;
    struct lm_vocab_diff *d = diff(a, b);
    assert_int_equal(d->n_merges_removed, 1);
    assert_int_equal(d->n_merges_added, 0);
    assert_true(d->merges_reordered);
    assert_int_equal(d->first_merge, 0);
    lm_vocab_diff_free(d);
    lm_vocab_free(a);
    lm_vocab_free(b);
}

/* ---- files */

static char dir[64];

static int make_dir(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/test_tokenize_cmd_vocab.XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    static const char *const files[] = {"out/vocab.json", "out/merges.txt", "out/added_tokens.json",
                                        "out/tokenizer_config.json", "out", "v.tiktoken", "v.txt"};
    char path[200];

    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        remove(path);
    }
    return rmdir(dir);
}

static int write_vocab(const struct lm_vocab *v, const char *name, bool force, char *path, size_t size, struct lm_err *e)
{
    struct lm_tokenizer *t = tokenizer(v);
    const char *what;

    snprintf(path, size, "%s/%s", dir, name);
    int rc = lm_vocab_write(v, t, path, force, &what, e);
    lm_tokenizer_free(t);
    return rc;
}

static void vocab_and_merges_read_back(void **state)
{
    struct lm_vocab *v = open_vocab(FIXTURES "gpt2");
    struct lm_err e;
    char path[200];

    (void)state;
    if (write_vocab(v, "out", false, path, sizeof path, &e) < 0)
        fail_msg("%s", e.text);
    struct lm_vocab *back = open_vocab(path);
    assert_int_equal(back->n_pieces, v->n_pieces);
    assert_int_equal(back->n_merges, v->n_merges);
    struct lm_vocab_diff *d = diff(v, back);
    assert_int_equal(d->n_of[0] + d->n_of[1] + d->n_of[2], 0);
    assert_int_equal(d->first_merge, -1);
    lm_vocab_diff_free(d);
    lm_vocab_free(back);
    assert_int_equal(write_vocab(v, "out", false, path, sizeof path, &e), -1); /* exists */
    assert_non_null(strstr(e.text, "--force"));
    assert_int_equal(write_vocab(v, "out", true, path, sizeof path, &e), 0);
    lm_vocab_free(v);
}

static void ranks_are_base64_in_order(void **state)
{
    struct lm_vocab *v = open_vocab(FIXTURES "gpt2");
    struct lm_err e;
    char path[200], line[400], first[200];

    (void)state;
    if (write_vocab(v, "v.tiktoken", false, path, sizeof path, &e) < 0)
        fail_msg("%s", e.text);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    size_t n = 0;
    for (; fgets(line, sizeof line, f); n++) {
        unsigned rank;
        assert_int_equal(sscanf(line, "%199s %u", first, &rank), 2);
        assert_int_equal(rank, n);
        if (n == 0)
            assert_string_equal(first, "IQ=="); /* '!' */
    }
    fclose(f);
    assert_int_equal(n, 600);
    lm_vocab_free(v);
}

static void what_a_file_cannot_hold_is_refused(void **state)
{
    struct lm_vocab *v = open_vocab("samples/polish-5m"), *g = open_vocab(FIXTURES "gpt2");
    struct lm_err e;
    char path[200];

    (void)state;
    assert_int_equal(write_vocab(v, "v.tiktoken", true, path, sizeof path, &e), -1);
    assert_int_equal(e.code, LM_UNSUPPORTED);
    assert_int_equal(write_vocab(v, "other", true, path, sizeof path, &e), -1);
    assert_non_null(strstr(e.text, "merges"));
    assert_int_equal(access(path, F_OK), -1);
    struct lm_merge *m = (struct lm_merge *)(uintptr_t)g->merges, first = m[0];
    m[0] = m[1];
    m[1] = first;
    assert_int_equal(write_vocab(g, "v.tiktoken", true, path, sizeof path, &e), -1);
    assert_non_null(strstr(e.text, "rank"));
    lm_vocab_free(v);
    lm_vocab_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_agree),
        cmocka_unit_test(every_byte_of_byte_level),
        cmocka_unit_test(unreachable_is_found),
        cmocka_unit_test(duplicates_are_found),
        cmocka_unit_test(scripts_by_letters),
        cmocka_unit_test(the_same_has_no_difference),
        cmocka_unit_test(planted_changes_are_listed),
        cmocka_unit_test(merges_are_compared_by_text),
        cmocka_unit_test_setup_teardown(vocab_and_merges_read_back, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(ranks_are_base64_in_order, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(what_a_file_cannot_hold_is_refused, make_dir, remove_dir),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
