/* Stages of tokenizer.json and rank files against the libraries that define
 * them (cases made by tests/make_pipeline_cases.py), Unicode as those see it,
 * places where a text may be cut, hostile texts. */
#include "tests/files.h"

#include <time.h>

#include "libmodel/libmodel.h"
#include "libmodel/parse/json.h"
#include "libmodel/tok/build.h"
#include "libmodel/tok/pipeline.h"
#include "libmodel/tok/pretok.h"
#include "libmodel/tok/unicode.h"

#define FIXTURES "tests/fixtures/tokenizers/"

struct loaded {
    struct lm_vocab *v;
    struct lm_tokenizer *t;
};

static struct loaded load(const char *path, const struct lm_vocab_options *options)
{
    struct loaded l;
    struct lm_err e;

    if (lm_vocab_open_with(&l.v, path, options, &e) < 0 || lm_tokenizer_new(&l.t, l.v, &e) < 0)
        fail_msg("%s", e.text);
    return l;
}

static void unload(struct loaded *l)
{
    lm_tokenizer_free(l->t);
    lm_vocab_free(l->v);
}

static char *read_text(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    struct stat s;

    assert_non_null(f);
    assert_int_equal(fstat(fileno(f), &s), 0);
    char *text = malloc((size_t)s.st_size + 1);
    *n = fread(text, 1, (size_t)s.st_size, f);
    assert_int_equal(*n, s.st_size);
    fclose(f);
    return text;
}

/* Calls check for every line. */
static size_t each_row(const char *path, void (*check)(const char *folder, const json_t *row))
{
    size_t n, count = 0;
    char folder[64], *text = read_text(path, &n);
    struct lm_err e;

    tmp_make(folder);
    for (char *p = text, *end; (end = memchr(p, '\n', (size_t)(text + n - p))) != NULL; p = end + 1, count++) {
        json_t *row = lm_json_parse(lm_span_of(p, (size_t)(end - p)), path, &e);
        if (!row)
            fail_msg("%s", e.text);
        check(folder, row);
        json_decref(row);
    }
    free(text);
    tmp_remove(folder);
    return count;
}

static void fail_case(const char *what, const json_t *c, const json_t *want, const struct lm_ids *got, const json_t *row)
{
    char buf[4000] = "", *w = json_dumps(want, JSON_ENCODE_ANY), *text = json_dumps(json_object_get(c, "text"), JSON_ENCODE_ANY);
    const char *tokenizer = json_string_value(json_object_get(row, "tokenizer"));
    size_t n = 0;

    for (size_t i = 0; i < got->n && n < sizeof buf - 60; i++)
        n += got->offsets ? (size_t)snprintf(buf + n, sizeof buf - n, "%d[%zu,%zu) ", got->ids[i], got->offsets[i].begin,
                                             got->offsets[i].end)
                          : (size_t)snprintf(buf + n, sizeof buf - n, "%d ", got->ids[i]);
    fail_msg("%s of %s: expected %s, got %s\n%.2000s", what, text, w, buf, tokenizer ? tokenizer : "");
}

static void check_ids(const struct loaded *l, struct lm_span text, unsigned flags, const char *what, const json_t *c,
                      const json_t *row, struct lm_ids *got)
{
    const json_t *want = json_object_get(c, what);
    struct lm_err e;

    *got = (struct lm_ids){0};
    if (lm_tokenizer_encode(l->t, text, flags, got, &e) < 0)
        fail_msg("%s", e.text);
    bool same = got->n == json_array_size(want);
    for (size_t i = 0; same && i < got->n; i++)
        same = json_integer_value(json_array_get(want, i)) == got->ids[i];
    if (!same)
        fail_case(what, c, want, got, row);
}

/* ---- offsets: the library counts characters, and whole ones */

static size_t chars_before(struct lm_span text, size_t pos)
{
    size_t n = 0;

    for (size_t i = 0; i < pos; i++)
        n += (text.data[i] & 0xc0) != 0x80;
    return n;
}

static bool inside_character(struct lm_span text, size_t pos)
{
    return pos < text.size && (text.data[pos] & 0xc0) == 0x80;
}

static void check_offsets(struct lm_span text, const struct lm_ids *got, const json_t *c, const json_t *row)
{
    const json_t *want = json_object_get(c, "offsets");

    for (size_t i = 0; i < json_array_size(want); i++) {
        struct lm_offsets o = got->offsets[i];
        const json_t *pair = json_array_get(want, i);
        size_t begin = chars_before(text, o.begin) - inside_character(text, o.begin), end = chars_before(text, o.end);
        if (begin != (size_t)json_integer_value(json_array_get(pair, 0)) ||
            end != (size_t)json_integer_value(json_array_get(pair, 1)))
            fail_case("offsets", c, want, got, row);
    }
}

static void check_decoded(const struct loaded *l, const json_t *c)
{
    struct lm_span want = lm_json_span(json_object_get(c, "decoded"));
    const json_t *list = json_object_get(c, "ids");
    size_t n = json_array_size(list), n_out;
    int32_t *ids = malloc((n + 1) * sizeof *ids);
    struct lm_err e;
    char *out;

    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    if (lm_tokenizer_decode(l->t, ids, n, true, &out, &n_out, &e) < 0)
        fail_msg("%s", e.text);
    if (want.data && !lm_span_eq(want, lm_span_of(out, n_out)))
        fail_msg("decoded \"%.*s\", expected \"%.*s\"", (int)n_out, out, (int)want.size, (const char *)want.data);
    free(out);
    free(ids);
}

static void check_case(const struct loaded *l, const json_t *c, const json_t *row)
{
    struct lm_span text = lm_json_span(json_object_get(c, "text"));
    struct lm_ids got;

    check_ids(l, text, LM_ENCODE_SPECIAL | LM_ENCODE_BOS_EOS, "ids", c, row, &got);
    lm_ids_free(&got);
    check_ids(l, text, LM_ENCODE_SPECIAL, "plain", c, row, &got);
    lm_ids_free(&got);
    check_ids(l, text, LM_ENCODE_SPECIAL | LM_ENCODE_OFFSETS, "plain", c, row, &got);
    check_offsets(text, &got, c, row);
    lm_ids_free(&got);
    check_decoded(l, c);
}

static void check_pipeline(const char *folder, const json_t *row)
{
    struct lm_span text = lm_json_span(json_object_get(row, "tokenizer"));
    const json_t *cases = json_object_get(row, "cases");

    write_file(path_in(folder, "tokenizer.json"), text.data, text.size);
    struct loaded l = load(path_in(folder, "tokenizer.json"), NULL);
    for (size_t i = 0; i < json_array_size(cases); i++)
        check_case(&l, json_array_get(cases, i), row);
    unload(&l);
}

static void stages(void **state)
{
    (void)state;
    assert_true(each_row(FIXTURES "cases-pipeline.jsonl", check_pipeline) > 100);
}

/* ---- rank files */

static void check_ranks(const char *folder, const json_t *row)
{
    struct lm_span content = lm_json_span(json_object_get(row, "content"));
    const char *name = json_string_value(json_object_get(row, "file"));
    struct lm_vocab_options options = {NULL, json_string_value(json_object_get(row, "pattern"))};
    const json_t *cases = json_object_get(row, "cases");

    write_file(path_in(folder, name), content.data, content.size);
    struct loaded l = load(path_in(folder, name), &options);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, i);
        struct lm_ids got;
        check_ids(&l, lm_json_span(json_object_get(c, "text")), 0, "ids", c, row, &got);
        lm_ids_free(&got);
    }
    unload(&l);
}

static void rank_files(void **state)
{
    (void)state;
    assert_int_equal(each_row(FIXTURES "cases-ranks.jsonl", check_ranks), 5);
}

static void ranks_refused(const char *file, const char *text, const struct lm_vocab_options *options, const char *reason)
{
    char folder[64];
    struct lm_vocab *v;
    struct lm_err e;

    tmp_make(folder);
    write_file(path_in(folder, file), text, strlen(text));
    assert_int_equal(lm_vocab_open_with(&v, path_in(folder, file), options, &e), -1);
    if (!strstr(e.text, reason))
        fail_msg("expected '%s', got '%s'", reason, e.text);
    tmp_remove(folder);
}

static void broken_rank_files(void **state)
{
    const struct lm_vocab_options words = {NULL, "\\p{L}+"}, odd = {"odd", NULL};

    (void)state;
    ranks_refused("a.tiktoken", "YQ== 0\nYg== 1\n", NULL, "a tiktoken file of 2 ranks");
    ranks_refused("a.tiktoken", "YQ== 0\n", &odd, "encoding odd is not known; known are gpt2");
    ranks_refused("a.tiktoken", "YQ== 0\nY?== 1\n", &words, "line 2");
    ranks_refused("a.tiktoken", "YQ== 0\nYg==1\n", &words, "line 2");
    ranks_refused("a.tiktoken", "YQ== 0\nYg== 0\n", &words, "the rank 0");
    ranks_refused("a.tiktoken", "YQ== 0\nYQ== 1\n", &words, "occur twice");
    ranks_refused("a.tiktoken", "YQ== 0\nYg== 9999999\n", &words, "rank 9999999 in a list of 2");
    ranks_refused("a.tiktoken", "YQ== 0\n 1\n", &words, "rank 1 is empty");
    ranks_refused("tekken.json", "{\"vocab\":[]}", NULL, "no 'config'");
    ranks_refused("tekken.json", "{\"config\":{\"pattern\":\"a\",\"default_vocab_size\":3,\"default_num_special_tokens\":1},"
                                 "\"vocab\":[{\"rank\":0,\"token_bytes\":\"YQ==\"}]}", NULL, "do not fit together");
    ranks_refused("tekken.json", "{\"vocab\":[{\"rank\":1,\"token_bytes\":\"YQ==\"}]}", NULL, "vocab[0]");
    ranks_refused("tekken.json", "{\"vocab\":[{\"rank\":0,\"token_bytes\":\"Y\"}]}", NULL, "no base64");
}

/* ---- places to cut */

static void check_cut(const struct loaded *l, struct lm_span text, size_t near, size_t *n_cuts)
{
    size_t cut = lm_tokenizer_safe_cut(l->t, text, near);
    struct lm_ids whole = {0}, parts = {0};
    struct lm_err e;
    unsigned flags = LM_ENCODE_SPECIAL | LM_ENCODE_OFFSETS;

    assert_true(cut >= near && cut <= text.size);
    if (cut == text.size)
        return;
    ++*n_cuts;
    assert_int_equal(lm_tokenizer_encode(l->t, text, flags, &whole, &e), 0);
    assert_int_equal(lm_tokenizer_encode(l->t, lm_span_of(text.data, cut), flags, &parts, &e), 0);
    size_t first = parts.n;
    assert_int_equal(lm_tokenizer_encode(l->t, lm_span_of(text.data + cut, text.size - cut), flags | LM_ENCODE_CONTINUES,
                                         &parts, &e), 0);
    assert_int_equal(whole.n, parts.n);
    for (size_t i = 0; i < whole.n; i++) {
        size_t shift = i < first ? 0 : cut;
        assert_int_equal(whole.ids[i], parts.ids[i]);
        assert_int_equal(whole.offsets[i].begin, parts.offsets[i].begin + shift);
        assert_int_equal(whole.offsets[i].end, parts.offsets[i].end + shift);
    }
    lm_ids_free(&whole);
    lm_ids_free(&parts);
}

static void safe_cuts(void **state)
{
    static const char *const models[] = {"gpt2", "llama3", "qwen2", "hf-flags", "hf-metaspace", "spm-plain"};
    static const char text[] = "Ala ma kota, a kot ma Al\xc4\x99.\nNast\xc4\x99pny wiersz  <|eot_id|> word <left> x\n\n \tdzie\xc5\x84 "
                               "dobry <tool>\xe6\xbc\xa2\xe5\xad\x97 koniec caf\xc3\xa9 cafe\xcc\x81 a\r\nb <right>  c 12 d";
    size_t n_cuts = 0;

    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        char path[100];
        snprintf(path, sizeof path, FIXTURES "%s", models[i]);
        struct loaded l = load(path, NULL);
        for (size_t near = 0; near < sizeof text; near += 3)
            check_cut(&l, lm_span_of(text, sizeof text - 1), near < sizeof text - 1 ? near : sizeof text - 1, &n_cuts);
        unload(&l);
    }
    assert_true(n_cuts > 100);
}

/* ---- Unicode */

static void categories_and_scripts(void **state)
{
    uint32_t second;

    (void)state;
    lmi_unicode_init();
    assert_string_equal(lmi_category('A'), "Lu");
    assert_string_equal(lmi_category(0x10d50), "Lu"); /* Unicode 16 */
    assert_string_equal(lmi_category(0x1171e), "Mc"); /* Mn before */
    assert_true(lmi_class_of(0x17b) & LMI_UP && !(lmi_class_of(0x17b) & LMI_LOW));
    assert_true(lmi_class_of(0x301) & LMI_UP && lmi_class_of(0x301) & LMI_LOW);
    assert_true(lmi_class_of(0x6f22) & LMI_HAN && !(lmi_class_of(0x304b) & LMI_HAN));
    assert_true(lmi_class_of('_') & LMI_WORD && lmi_class_of('$') & LMI_PUNCT && !(lmi_class_of(0x61d) & LMI_PUNCT));
    assert_int_equal(lmi_lower(0x130, &second), 'i');
    assert_int_equal(second, 0x307);
    assert_int_equal(lmi_lower(0xa7cb, &second), 0x264); /* Unicode 16 */
    assert_int_equal(lmi_script(0x304b), lmi_script(0x6f22));
    assert_int_not_equal(lmi_script('a'), lmi_script(0x3b1));
    assert_int_equal(lmi_script(' '), 0);
    assert_int_equal(lmi_class_of(0xe0100) & LMI_M, LMI_M);
    assert_int_equal(lmi_class_of(0x10ffff), 0);
}

/* ---- hostile texts: linear time */

static double seconds_of(const struct loaded *l, struct lm_span text)
{
    struct lm_ids ids = {0};
    struct lm_err e;
    clock_t start = clock();

    if (lm_tokenizer_encode(l->t, text, 0, &ids, &e) < 0)
        fail_msg("%s", e.text);
    lm_ids_free(&ids);
    return (double)(clock() - start) / CLOCKS_PER_SEC;
}

/* Four times the text must not take sixteen times as long. */
static void check_linear(const char *path, const char *unit)
{
    enum { SMALL = 60000 };
    struct loaded l = load(path, NULL);
    size_t n = strlen(unit), size = 4 * SMALL / n * n;
    char *text = malloc(size);
    double small = 1e9, large = 1e9;

    for (size_t i = 0; i < size; i += n)
        memcpy(text + i, unit, n);
    for (int i = 0; i < 3; i++) {
        double s = seconds_of(&l, lm_span_of(text, size / 4)), g = seconds_of(&l, lm_span_of(text, size));
        small = s < small ? s : small;
        large = g < large ? g : large;
    }
    if (large > 0.05 && large > 12 * small)
        fail_msg("%s: '%s' takes %.3f s, four times of it %.3f s", path, unit, small, large);
    free(text);
    unload(&l);
}

static void write_hostile(const char *folder, const char *normalizer, const char *pre)
{
    static char text[20000];
    size_t n = (size_t)snprintf(text, sizeof text,
                                "{\"normalizer\":%s,\"pre_tokenizer\":%s,\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"fuse_unk\":true,"
                                "\"vocab\":{\"<unk>\":0,\"a\":1,\"aa\":2,\"aaaa\":3,\"1\":4,\" \":5,\"\\u00e9\":6},"
                                "\"merges\":[[\"a\",\"a\"],[\"aa\",\"aa\"]]}}", normalizer, pre);

    write_file(path_in(folder, "tokenizer.json"), text, n);
}

static void hostile_texts(void **state)
{
    static const char *const units[] = {"a", " ", "1", "\xcc\x81", "e\xcc\x81\xcc\xa3", "\n", "'", "\xe6\xbc\xa2", "A", "\xf0\x9f\x91\xa8\xe2\x80\x8d", "\xff"};
    static const char *const stages_of[][2] = {
        {"{\"type\":\"NFKC\"}", "null"},
        {"{\"type\":\"BertNormalizer\"}", "{\"type\":\"BertPreTokenizer\"}"},
        {"{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"bb\"}", "{\"type\":\"Whitespace\"}"},
        {"null", "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\d{1,3}(?=(?:\\\\d{3})*\\\\b)\"},\"behavior\":\"Isolated\"}"},
        {"null", "{\"type\":\"ByteLevel\"}"},
        {"null", "{\"type\":\"Metaspace\",\"replacement\":\"_\"}"},
    };
    char folder[64];

    (void)state;
    tmp_make(folder);
    for (size_t k = 0; k < sizeof stages_of / sizeof *stages_of; k++) {
        write_hostile(folder, stages_of[k][0], stages_of[k][1]);
        for (size_t i = 0; i < sizeof units / sizeof *units; i++)
            if (k != 3 || strcmp(units[i], "1") != 0) /* a number of that length is over the limit of steps: below */
                check_linear(path_in(folder, "tokenizer.json"), units[i]);
    }
    tmp_remove(folder);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        check_linear(FIXTURES "llama3", units[i]);
}

static int count(void *user, size_t begin, size_t end)
{
    size_t *counted = user;

    counted[0] += end - begin;
    counted[1]++;
    return 0;
}

/* Numbers of any length in threes: the regexes of three names, counted once a run. */
static void long_numbers(void **state)
{
    static const char *const names[] = {"afmoe", "tiny_aya", "superbpe"};
    struct lm_arena a = {0};
    struct lm_err e;
    size_t size = 600001;
    char *text = malloc(size);

    (void)state;
    memset(text, '7', size);
    for (size_t i = 0; i < 3; i++) {
        struct lmi_pretok *p;
        size_t counted[2] = {0, 0};
        assert_int_equal(lmi_pretok_new(&p, lmi_pre_pattern(&a, lmi_pre_find(lm_span_str(names[i]))), &e), 0);
        clock_t start = clock();
        assert_int_equal(lmi_pretok_run(p, lm_span_of(text, size), count, counted, &e), 0);
        assert_int_equal(counted[0], size);
        assert_int_equal(counted[1], 200001);
        assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 5);
        lmi_pretok_free(p);
    }
    free(text);
    lm_arena_free(&a);
}

/* A regex from the file that explodes, in every stage that has one. */
/* What joins the character in front may only show when it is taken apart; what
 * came after Hugging Face's tables stays. */
static void joined_by_what_follows(void **state)
{
    static const char *const same[][2] = {
        {"\xec\xb0\xa8\xe3\x84\xbe", "\xec\xb0\xb5"}, /* U+CC28 U+313E: a compatibility letter that ends a syllable */
        {"\xe3\x82\xab\xef\xbe\x9e", "\xe3\x82\xac"}, /* U+30AB U+FF9E: a halfwidth voicing mark */
        {"\xf0\x9e\x81\xaa", "\xf0\x9e\x81\xaa"},         /* U+1E06A */
    };

    (void)state;
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        struct lmi_text in = {.mapped = false}, out = {.mapped = false};
        lmi_text_start(&in, lm_span_str(same[i][0]), 0);
        lmi_normal_form(&in, true, true, &out);
        assert_false(out.failed);
        assert_int_equal(out.n, strlen(same[i][1]));
        assert_memory_equal(out.bytes, same[i][1], out.n);
        lmi_text_free(&in);
        lmi_text_free(&out);
    }
}

static void exploding_stages(void **state)
{
#define EXPLODES "{\"Regex\":\"(a+)+[^a]|(a|aa)+$b\"}"
    static const char *const stages_of[][2] = {
        {"{\"type\":\"Replace\",\"pattern\":" EXPLODES ",\"content\":\"\"}", "null"},
        {"null", "{\"type\":\"Split\",\"pattern\":" EXPLODES ",\"behavior\":\"MergedWithNext\"}"},
    };
    char folder[64], text[4000];
    struct lm_ids ids = {0};
    struct lm_err e;

    (void)state;
    memset(text, 'a', sizeof text);
    tmp_make(folder);
    for (size_t i = 0; i < 2; i++) {
        write_hostile(folder, stages_of[i][0], stages_of[i][1]);
        struct loaded l = load(path_in(folder, "tokenizer.json"), NULL);
        assert_int_equal(lm_tokenizer_encode(l.t, lm_span_of(text, sizeof text), 0, &ids, &e), -1);
        assert_int_equal(e.code, LM_LIMIT);
        assert_non_null(strstr(e.text, "too many steps"));
        unload(&l);
    }
    lm_ids_free(&ids);
    tmp_remove(folder);
}

/* What is declared but not applied is said. */
static void notes(void **state)
{
    static const char text[] = "{\"truncation\":{\"max_length\":5},\"padding\":{\"length\":3},\"model\":{\"type\":\"BPE\",\"dropout\":0.1,"
                               "\"vocab\":{\"a\":0},\"merges\":[]}}";
    char folder[64];

    (void)state;
    tmp_make(folder);
    write_file(path_in(folder, "tokenizer.json"), text, sizeof text - 1);
    struct loaded l = load(path_in(folder, "tokenizer.json"), NULL);
    assert_string_equal(l.v->note, "truncation, padding, dropout: declared by the file, not applied");
    unload(&l);
    tmp_remove(folder);
    l = load(FIXTURES "llama3", NULL);
    assert_string_equal(l.v->note, "");
    unload(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stages),
        cmocka_unit_test(rank_files),
        cmocka_unit_test(broken_rank_files),
        cmocka_unit_test(safe_cuts),
        cmocka_unit_test(categories_and_scripts),
        cmocka_unit_test(hostile_texts),
        cmocka_unit_test(long_numbers),
        cmocka_unit_test(joined_by_what_follows),
        cmocka_unit_test(exploding_stages),
        cmocka_unit_test(notes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
