#include "tests/files.h"

#include "libmodel/parse/json.h"
#include "libmodel/parse/pull.h"

static void cursor_reads_little_endian(void **state)
{
    (void)state;
    const uint8_t raw[] = {1, 2, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0xc0, 0x3f};
    struct lm_cursor c = lm_cursor_of(lm_span_of(raw, sizeof raw));

    assert_int_equal(lm_cur_u8(&c), 1);
    assert_int_equal(lm_cur_u16(&c), 2);
    assert_int_equal(lm_cur_u32(&c), 3);
    assert_true(lm_cur_u64(&c) == 0x8000000000000004u);
    assert_true(lm_cur_f32(&c) == 1.5f);
    assert_int_equal(lm_cur_left(&c), 0);
    assert_false(c.failed);
}

static void cursor_reads_big_endian(void **state)
{
    (void)state;
    const uint8_t raw[] = {0, 2, 0, 0, 0, 3, 0x80, 0, 0, 0, 0, 0, 0, 4, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0};
    struct lm_cursor c = lm_cursor_of(lm_span_of(raw, sizeof raw));

    c.big_endian = true;
    assert_int_equal(lm_cur_u16(&c), 2);
    assert_int_equal(lm_cur_u32(&c), 3);
    assert_true(lm_cur_u64(&c) == 0x8000000000000004u);
    assert_true(lm_cur_f64(&c) == 1.5);
}

static void cursor_failure_is_sticky(void **state)
{
    (void)state;
    const uint8_t raw[] = {1, 2, 3};
    struct lm_cursor c = lm_cursor_of(lm_span_of(raw, sizeof raw));

    assert_int_equal(lm_cur_u32(&c), 0);
    assert_true(c.failed);
    assert_int_equal(lm_cur_u8(&c), 0); /* one byte is there, but a read has failed */
    assert_int_equal(lm_cur_bytes(&c, 0).size, 0);
    assert_true(c.failed);

    c = lm_cursor_of(lm_span_of(raw, sizeof raw));
    assert_int_equal(lm_cur_bytes(&c, 3).size, 3);
    assert_int_equal(lm_cur_bytes(&c, 0).size, 0);
    assert_false(c.failed);
    lm_cur_bytes(&c, UINT64_MAX);
    assert_true(c.failed);
}

static void arithmetic_is_checked(void **state)
{
    (void)state;
    uint64_t v = 7;

    assert_true(lm_mul_u64(1ull << 32, (1ull << 32) - 1, &v));
    assert_false(lm_mul_u64(1ull << 32, 1ull << 32, &v));
    assert_true(v == (1ull << 32) * ((1ull << 32) - 1)); /* untouched by the failure */
    assert_true(lm_add_u64(UINT64_MAX - 1, 1, &v));
    assert_false(lm_add_u64(UINT64_MAX, 1, &v));
    assert_true(v == UINT64_MAX);
    assert_true(lm_align_up_u64(33, 32, &v));
    assert_true(v == 64);
    assert_true(lm_align_up_u64(64, 32, &v));
    assert_true(v == 64);
    assert_true(lm_align_up_u64(0, 32, &v));
    assert_true(v == 0);
    assert_false(lm_align_up_u64(UINT64_MAX - 7, 32, &v)); /* GGML_PAD gives 0 here */
}

static void loads_and_stores_agree(void **state)
{
    (void)state;
    uint8_t b[9];

    lm_store_u64le(b + 1, 0x0123456789abcdefu);
    assert_int_equal(b[1], 0xef);
    assert_true(lm_load_u64le(b + 1) == 0x0123456789abcdefu);
    assert_int_equal(lm_load_u32le(b + 1), 0x89abcdef);
    assert_int_equal(lm_load_u16le(b + 5), 0x4567);
}

static void arena_keeps_everything(void **state)
{
    (void)state;
    struct lm_arena a = {0};
    char *kept[2000];

    for (size_t i = 0; i < 2000; i++) {
        char text[32];
        int n = snprintf(text, sizeof text, "string %zu", i);
        kept[i] = lm_arena_str(&a, lm_span_of(text, (size_t)n));
        assert_non_null(kept[i]);
        assert_int_equal((uintptr_t)kept[i] % 16, 0);
    }
    uint8_t *large = lm_arena_alloc(&a, 5 << 20);
    for (size_t i = 0; i < 5 << 20; i += 4096)
        assert_int_equal(large[i], 0);
    for (size_t i = 0; i < 2000; i++) {
        char text[32];
        snprintf(text, sizeof text, "string %zu", i);
        assert_string_equal(kept[i], text);
    }
    assert_true(a.used >= 5 << 20);
    assert_non_null(lm_arena_alloc(&a, 0));
    assert_null(lm_arena_alloc(&a, SIZE_MAX));
    assert_null(lm_arena_array(&a, SIZE_MAX / 8, 16));
    assert_null(lm_arena_str(&a, lm_span_of("", SIZE_MAX)));
    lm_arena_free(&a);
    assert_null(a.head);
}

enum { N_KEYS = 20000 };

static void map_finds_every_key_and_no_other(void **state)
{
    (void)state;
    static char keys[N_KEYS][16];
    struct lm_map *m = lm_map_new(0);

    assert_non_null(m);
    for (size_t i = 0; i < N_KEYS; i++) {
        snprintf(keys[i], sizeof keys[i], "key.%zu", i * 7);
        assert_int_equal(lm_map_put(m, lm_span_str(keys[i]), i), 1);
    }
    for (size_t i = 0; i < N_KEYS; i++) {
        assert_int_equal(lm_map_get(m, lm_span_str(keys[i])), i);
        assert_int_equal(lm_map_put(m, lm_span_str(keys[i]), 99), 0);
    }
    assert_int_equal(lm_map_get(m, lm_span_str(keys[5])), 5); /* the old value stays */
    assert_true(lm_map_get(m, lm_span_str("key.1")) == SIZE_MAX);
    assert_true(lm_map_get(NULL, lm_span_str("key.0")) == SIZE_MAX);
    lm_map_free(m);
    lm_map_free(NULL);
}

static void map_compares_bytes_not_strings(void **state)
{
    (void)state;
    struct lm_map *m = lm_map_new(4);

    assert_int_equal(lm_map_put(m, lm_span_of("a\0b", 3), 1), 1);
    assert_int_equal(lm_map_put(m, lm_span_of("a", 1), 2), 1);
    assert_int_equal(lm_map_put(m, lm_span_of("a\0c", 3), 3), 1);
    assert_int_equal(lm_map_put(m, lm_span_of(NULL, 0), 4), 1);
    assert_int_equal(lm_map_get(m, lm_span_of("a\0b", 3)), 1);
    assert_int_equal(lm_map_get(m, lm_span_of("a\0c", 3)), 3);
    assert_int_equal(lm_map_get(m, lm_span_str("")), 4);
    lm_map_free(m);
}

static void utf8_is_checked_strictly(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool valid;
    } cases[] = {
        {"", true}, {"plain ascii, long enough for the fast path", true}, {"żółw 🐢 \xe2\x82\xac", true},
        {"\xf4\x8f\xbf\xbf", true}, {"\x80", false}, {"\xc0\x80", false}, {"\xc1\xbf", false}, {"\xe0\x9f\xbf", false},
        {"\xed\xa0\x80", false}, {"\xf0\x8f\xbf\xbf", false}, {"\xf4\x90\x80\x80", false}, {"\xf5\x80\x80\x80", false},
        {"\xe2\x82", false}, {"abcdefgh\xe2", false}, {"\xff", false},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (lm_utf8_valid(lm_span_str(cases[i].text)) != cases[i].valid)
            fail_msg("case %zu", i);
}

/* ---- errors */

static void error_text_is_safe_for_terminals(void **state)
{
    (void)state;
    struct lm_err e = {0};

    assert_int_equal(lm_err_set(&e, LM_MALFORMED, "name '%s' of %d", "a\x1b[31m\nb\xff\xc2\x9bż\xe2\x80\xae", 7), -1);
    assert_int_equal(e.code, LM_MALFORMED);
    assert_string_equal(e.text, "name 'a\\x1B[31m\\x0Ab\\xFF\\xC2\\x9Bż\\xE2\\x80\\xAE' of 7");
    assert_int_equal(lm_err_set(NULL, LM_IO, "nobody listens"), -1);
}

static void error_context_comes_first(void **state)
{
    (void)state;
    struct lm_err e = {0};

    lm_err_set(&e, LM_LIMIT, "too long");
    assert_int_equal(lm_err_prefix(&e, "tensor '%s'", "x\n"), -1);
    lm_err_prefix(&e, "file");
    assert_int_equal(e.code, LM_LIMIT);
    assert_string_equal(e.text, "file: tensor 'x\\x0A': too long");
    errno = ENOENT;
    lm_err_errno(&e, "%s: cannot open", "x");
    assert_int_equal(e.code, LM_IO);
    assert_string_equal(e.text, "x: cannot open: No such file or directory");
}

static void error_text_never_overflows(void **state)
{
    (void)state;
    struct lm_err e = {0};
    char *longest = malloc(100001);

    memset(longest, 0xc5, 100000); /* every byte becomes four */
    longest[100000] = 0;
    lm_err_set(&e, LM_IO, "%s", longest);
    assert_true(strlen(e.text) < sizeof e.text && strlen(e.text) > sizeof e.text - 8);
    lm_err_set(&e, LM_IO, "the reason");
    for (int i = 0; i < 50; i++)
        lm_err_prefix(&e, "%s", longest);
    assert_true(strlen(e.text) < sizeof e.text);
    lm_err_set(&e, LM_IO, "the reason");
    lm_err_prefix(&e, "%s", longest);
    assert_non_null(strstr(e.text, ": the reason")); /* a long path does not push it out */
    free(longest);
}

/* ---- JSON: both readers */

static const struct {
    const char *text;
    const char *reason; /* of lm_json_parse; NULL: accepted */
    bool pull;          /* accepted by the pull reader, which has no tree to see duplicates in */
} json_cases[] = {
    {"{}", NULL, true},
    {" [1, -2.5e3, true, false, null, \"a\\u00e9\\ud83d\\ude00\\\"\\\\\\/\\b\\f\\n\\r\\t\", {\"b\": []}] ", NULL, true},
    {"{\"a\": 1, \"a\": 2}", "duplicate", true},
    {"{\"a\": 1, \"\\u0061\": 2}", "duplicate", true},
    {"[9223372036854775808]", "too big", true},
    {"", "not valid JSON", false},
    {"{", "not valid JSON", false},
    {"[1,]", "not valid JSON", false},
    {"[1 2]", "not valid JSON", false},
    {"{\"a\"}", "not valid JSON", false},
    {"{a: 1}", "not valid JSON", false},
    {"[01]", "not valid JSON", false},
    {"[1.]", "not valid JSON", false},
    {"[.5]", "not valid JSON", false},
    {"[1e]", "not valid JSON", false},
    {"[+1]", "not valid JSON", false},
    {"[-]", "not valid JSON", false},
    {"[nul]", "not valid JSON", false},
    {"[NaN]", "not valid JSON", false},
    {"[\"a]", "not valid JSON", false},
    {"[\"\\x\"]", "not valid JSON", false},
    {"[\"\\u12g4\"]", "not valid JSON", false},
    {"[\"\\ud800\"]", "not valid JSON", false},
    {"[\"\\ud800\\u0041\"]", "not valid JSON", false},
    {"[\"\\udc00\"]", "not valid JSON", false},
    {"[\"a\nb\"]", "not valid JSON", false},
    {"[\"\xff\"]", "not valid JSON", false},
    {"{} {}", "not valid JSON", false},
    {"{}\\", "not valid JSON", false},
    {"\xef\xbb\xbf{}", "not valid JSON", false},
};

static bool pull_accepts(struct lm_span text, struct lm_err *e)
{
    struct lm_arena a = {0};
    struct lmi_pull p;
    bool ok = lmi_pull_begin(&p, text, &a, e) == 0 && lmi_pull_skip(&p) == 0 && lmi_pull_end(&p) == 0;

    lm_arena_free(&a);
    return ok;
}

static void json_is_strict(void **state)
{
    (void)state;

    for (size_t i = 0; i < sizeof json_cases / sizeof json_cases[0]; i++) {
        struct lm_err e = {0};
        struct lm_span text = lm_span_str(json_cases[i].text);
        json_t *v = lm_json_parse(text, "x.json", &e);
        if ((v != NULL) != (json_cases[i].reason == NULL))
            fail_msg("%s", json_cases[i].text);
        if (!v && (!strstr(e.text, json_cases[i].reason) || !strstr(e.text, "x.json: line ")))
            fail_msg("%s: %s", json_cases[i].text, e.text);
        json_decref(v);
        if (pull_accepts(text, &e) != json_cases[i].pull)
            fail_msg("pull: %s: %s", json_cases[i].text, e.text);
    }
}

static void json_depth_is_capped(void **state)
{
    (void)state;
    char text[300];
    struct lm_err e = {0};

    memset(text, '[', 64);
    memset(text + 64, ']', 64);
    json_t *v = lm_json_parse(lm_span_of(text, 128), "x", &e);
    assert_non_null(v);
    json_decref(v);
    assert_true(pull_accepts(lm_span_of(text, 128), &e));
    memset(text, '[', 65);
    memset(text + 65, ']', 65);
    assert_null(lm_json_parse(lm_span_of(text, 130), "x", &e));
    assert_int_equal(e.code, LM_LIMIT);
    assert_false(pull_accepts(lm_span_of(text, 130), &e));
    assert_non_null(strstr(e.text, "64 levels"));
    memset(text, '[', sizeof text); /* brackets in a string are no depth */
    memcpy(text, "[\"", 2);
    memcpy(text + 298, "\"]", 2);
    v = lm_json_parse(lm_span_of(text, 300), "x", &e);
    assert_non_null(v);
    assert_int_equal(lm_json_span(json_array_get(v, 0)).size, 296);
    assert_int_equal(lm_json_span(v).size, 0);
    json_decref(v);
}

static void json_keeps_nul_in_strings(void **state)
{
    (void)state;
    struct lm_err e = {0};
    json_t *v = lm_json_parse(lm_span_str("[\"a\\u0000b\"]"), "x", &e);

    assert_non_null(v);
    assert_true(lm_span_eq(lm_json_span(json_array_get(v, 0)), lm_span_of("a\0b", 3)));
    json_decref(v);
}

static void json_refuses_nul_bytes(void **state)
{
    (void)state;
    static const char text[] = "[0\0 , 1]"; /* jansson alone reads [0, 1] */
    struct lm_err e = {0};

    assert_null(lm_json_parse(lm_span_of(text, sizeof text - 1), "x", &e));
    assert_string_equal(e.text, "x: byte 2: not valid JSON: a NUL byte");
    assert_false(pull_accepts(lm_span_of(text, sizeof text - 1), &e));
}

static void pull_unescapes(void **state)
{
    (void)state;
    struct lm_arena a = {0};
    struct lm_err e = {0};
    struct lmi_pull p;
    struct lm_span s;
    const char *text = "\"plain\" \"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000\\u0141\\uD83D\\uDE00z\"";

    assert_int_equal(lmi_pull_begin(&p, lm_span_str(text), &a, &e), 0);
    assert_int_equal(lmi_pull_string(&p, &s), 0);
    assert_ptr_equal(s.data, text + 1); /* borrowed */
    assert_int_equal(lmi_pull_string(&p, &s), 0);
    assert_true(lm_span_eq(s, lm_span_of("\"\\/\b\f\n\r\t\0\xc5\x81\xf0\x9f\x98\x80z", 16)));
    assert_int_equal(lmi_pull_end(&p), 0);
    lm_arena_free(&a);
}

static void pull_reads_only_integers(void **state)
{
    (void)state;
    static const struct {
        const char *text, *reason;
    } cases[] = {
        {"0", NULL}, {"18446744073709551615", NULL}, {"18446744073709551616", "beyond 64 bits"},
        {"99999999999999999999999", "beyond 64 bits"}, {"-1", "negative"}, {"1.0", "fraction"}, {"1e3", "fraction"},
        {"1E3", "fraction"}, {"007", "leading zeros"}, {"\"1\"", "expected an integer"}, {"", "ends early"},
        {"true", "expected an integer"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct lm_err e = {0};
        struct lmi_pull p;
        uint64_t v;
        assert_int_equal(lmi_pull_begin(&p, lm_span_str(cases[i].text), NULL, &e), 0);
        int rc = lmi_pull_u64(&p, &v);
        if ((rc == 0) != (cases[i].reason == NULL) || (rc < 0 && !strstr(e.text, cases[i].reason)))
            fail_msg("%s: %s", cases[i].text, e.text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cursor_reads_little_endian),
        cmocka_unit_test(cursor_reads_big_endian),
        cmocka_unit_test(cursor_failure_is_sticky),
        cmocka_unit_test(arithmetic_is_checked),
        cmocka_unit_test(loads_and_stores_agree),
        cmocka_unit_test(arena_keeps_everything),
        cmocka_unit_test(map_finds_every_key_and_no_other),
        cmocka_unit_test(map_compares_bytes_not_strings),
        cmocka_unit_test(utf8_is_checked_strictly),
        cmocka_unit_test(error_text_is_safe_for_terminals),
        cmocka_unit_test(error_context_comes_first),
        cmocka_unit_test(error_text_never_overflows),
        cmocka_unit_test(json_is_strict),
        cmocka_unit_test(json_depth_is_capped),
        cmocka_unit_test(json_keeps_nul_in_strings),
        cmocka_unit_test(json_refuses_nul_bytes),
        cmocka_unit_test(pull_unescapes),
        cmocka_unit_test(pull_reads_only_integers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
