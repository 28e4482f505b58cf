#include "tests/files.h"

static const char *first_key(const struct lm_meta *m)
{
    const char *key;
    lm_meta_at(m, 0, &key);
    return key;
}

static void scalars_come_back(void **state)
{
    (void)state;
    struct lm_meta *m = lm_meta_new();
    struct lm_err e = {0};
    uint64_t u = 0;
    double f = 0;
    bool b = false;
    struct lm_span s;

    assert_int_equal(lm_meta_set_u32(m, "u32", 7), 0);
    assert_int_equal(lm_meta_set_u64(m, "u64", UINT64_MAX), 0);
    assert_int_equal(lm_meta_set_i32(m, "i32", -3), 0);
    assert_int_equal(lm_meta_set_f32(m, "f32", 1.5f), 0);
    assert_int_equal(lm_meta_set_bool(m, "bool", true), 0);
    assert_int_equal(lm_meta_set_str(m, "str", lm_span_of("a\0b", 3)), 0);
    assert_int_equal(lm_meta_count(m), 6);

    assert_int_equal(lm_meta_get_u64(m, "u32", &u, &e), 1);
    assert_int_equal(u, 7);
    assert_int_equal(lm_meta_get_u64(m, "u64", &u, &e), 1);
    assert_true(u == UINT64_MAX);
    assert_int_equal(lm_meta_get_f64(m, "f32", &f, &e), 1);
    assert_true(f == 1.5);
    assert_int_equal(lm_meta_get_bool(m, "bool", &b, &e), 1);
    assert_true(b);
    assert_int_equal(lm_meta_get_str(m, "str", &s, &e), 1);
    assert_true(lm_span_eq(s, lm_span_of("a\0b", 3)));
    assert_int_equal(lm_meta_get(m, "i32")->i, -3);
    lm_meta_free(m);
    lm_meta_free(NULL);
}

static void missing_keys_leave_the_default(void **state)
{
    (void)state;
    struct lm_meta *m = lm_meta_new();
    struct lm_err e = {0};
    uint64_t u = 42;
    double f = 2;
    bool b = true;
    struct lm_span s = lm_span_str("kept");
    const struct lm_meta_value *v = NULL;

    assert_int_equal(lm_meta_get_u64(m, "no", &u, &e), 0);
    assert_int_equal(lm_meta_get_f64(m, "no", &f, &e), 0);
    assert_int_equal(lm_meta_get_bool(m, "no", &b, &e), 0);
    assert_int_equal(lm_meta_get_str(m, "no", &s, &e), 0);
    assert_int_equal(lm_meta_get_array(m, "no", LM_META_STR, &v, &e), 0);
    assert_true(u == 42 && f == 2 && b && s.size == 4 && !v);
    assert_null(lm_meta_get(m, "no"));
    lm_meta_free(m);
}

static void wrong_types_are_named(void **state)
{
    (void)state;
    struct lm_meta *m = lm_meta_new();
    struct lm_err e = {0};
    uint64_t u = 1;
    double f;
    bool b;
    struct lm_span s;
    const struct lm_meta_value *v;
    const int8_t bytes[] = {1, 2};

    lm_meta_set_str(m, "s", lm_span_str("x"));
    lm_meta_set_i32(m, "neg", -1);
    lm_meta_set_array(m, "a", LM_META_I8, bytes, 2);
    assert_int_equal(lm_meta_get_u64(m, "s", &u, &e), -1);
    assert_string_equal(e.text, "metadata key 's' has type str, expected an integer");
    assert_int_equal(lm_meta_get_u64(m, "neg", &u, &e), -1);
    assert_non_null(strstr(e.text, "'neg' is -1"));
    assert_int_equal(u, 1);
    assert_int_equal(lm_meta_get_f64(m, "neg", &f, &e), -1);
    assert_int_equal(lm_meta_get_bool(m, "neg", &b, &e), -1);
    assert_int_equal(lm_meta_get_str(m, "a", &s, &e), -1);
    assert_string_equal(e.text, "metadata key 'a' is an array of i8, expected a string");
    /* The element type counts: four-byte steps over one-byte scores read past the end. */
    assert_int_equal(lm_meta_get_array(m, "a", LM_META_F32, &v, &e), -1);
    assert_string_equal(e.text, "metadata key 'a' is an array of i8, expected an array of f32");
    assert_int_equal(lm_meta_get_array(m, "s", LM_META_F32, &v, &e), -1);
    assert_int_equal(lm_meta_get_array(m, "a", LM_META_I8, &v, &e), 1);
    assert_int_equal(v->n, 2);
    lm_meta_free(m);
}

static void setters_copy_and_replace_in_place(void **state)
{
    (void)state;
    struct lm_meta *m = lm_meta_new();
    char text[] = "first";
    float numbers[] = {1, 2, 3};
    struct lm_span strs[] = {lm_span_str("ab"), lm_span_str(""), lm_span_of("c\0d", 3)};

    lm_meta_set_str(m, "k", lm_span_str(text));
    lm_meta_set_array(m, "f", LM_META_F32, numbers, 3);
    lm_meta_set_strs(m, "s", strs, 3);
    memset(text, 'x', 5);
    numbers[0] = 9;
    strs[0] = lm_span_str("zz");
    assert_true(lm_span_eq(lm_meta_get(m, "k")->str, lm_span_str("first")));
    assert_true(((const float *)lm_meta_get(m, "f")->data)[0] == 1);
    assert_true(lm_span_eq(lm_meta_get(m, "s")->strs[0], lm_span_str("ab")));
    assert_int_equal(lm_meta_get(m, "s")->strs[2].size, 3);

    lm_meta_set_u32(m, "k", 5); /* another type, the same place */
    assert_int_equal(lm_meta_count(m), 3);
    assert_string_equal(first_key(m), "k");
    assert_int_equal(lm_meta_get(m, "k")->u, 5);
    assert_int_equal(lm_meta_set_value(m, "copy", lm_meta_get(m, "s")), 0);
    assert_true(lm_span_eq(lm_meta_get(m, "copy")->strs[2], lm_span_of("c\0d", 3)));
    assert_int_equal(lm_meta_set_u32(m, "", 5), -1);
    lm_meta_free(m);
}

static void removing_keeps_the_rest_findable(void **state)
{
    (void)state;
    struct lm_meta *m = lm_meta_new();
    char key[16];

    for (uint32_t i = 0; i < 100; i++) {
        snprintf(key, sizeof key, "k%u", i);
        lm_meta_set_u32(m, key, i);
    }
    lm_meta_remove(m, "k0");
    lm_meta_remove(m, "k50");
    lm_meta_remove(m, "k99");
    lm_meta_remove(m, "none");
    assert_int_equal(lm_meta_count(m), 97);
    assert_string_equal(first_key(m), "k1");
    for (uint32_t i = 0; i < 100; i++) {
        snprintf(key, sizeof key, "k%u", i);
        const struct lm_meta_value *v = lm_meta_get(m, key);
        assert_int_equal(v == NULL, i == 0 || i == 50 || i == 99);
        if (v)
            assert_int_equal(v->u, i);
    }
    lm_meta_free(m);
}

static void readers_borrow_and_refuse_duplicates(void **state)
{
    (void)state;
    struct lm_meta *m = lm_meta_new();
    const char *text = "borrowed";
    struct lm_meta_value v = {.type = LM_META_STR, .str = lm_span_str(text)};

    assert_int_equal(lm_meta_add_borrowed(m, lm_span_of("keyed", 3), &v), 1);
    assert_int_equal(lm_meta_add_borrowed(m, lm_span_str("key"), &v), 0);
    assert_int_equal(lm_meta_add_borrowed(m, lm_span_str(""), &v), -1);
    assert_int_equal(lm_meta_count(m), 1);
    assert_string_equal(first_key(m), "key"); /* NUL-terminated although the span was not */
    assert_ptr_equal(lm_meta_get(m, "key")->str.data, text);
    lm_meta_free(m);
}

static void types_have_names_and_widths(void **state)
{
    (void)state;

    assert_string_equal(lm_meta_type_name(LM_META_F64), "f64");
    assert_string_equal(lm_meta_type_name(LM_META_ARRAY), "array");
    assert_string_equal(lm_meta_type_name((enum lm_meta_type)99), "unknown");
    assert_int_equal(lm_meta_width(LM_META_U16), 2);
    assert_int_equal(lm_meta_width(LM_META_BOOL), 1);
    assert_int_equal(lm_meta_width(LM_META_STR), 0);
    for (int t = 0; t < LM_META_N_TYPES; t++)
        assert_non_null(lm_meta_type_name((enum lm_meta_type)t));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scalars_come_back),
        cmocka_unit_test(missing_keys_leave_the_default),
        cmocka_unit_test(wrong_types_are_named),
        cmocka_unit_test(setters_copy_and_replace_in_place),
        cmocka_unit_test(removing_keeps_the_rest_findable),
        cmocka_unit_test(readers_borrow_and_refuse_duplicates),
        cmocka_unit_test(types_have_names_and_widths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
