/* Metadata and small files inside containers that have arrays only
 * (libmodel/format.h): nothing is lost on any way, and damage gets its reason. */
#include "tests/mutate.h"
#include "tests/zips.h"

#include "convert/convert.h"

static const char *const sources[] = {
    "tests/fixtures/models/tiny-llama", "tests/fixtures/models/tiny-gpt2-hub", "tests/fixtures/models/tiny-llama-sharded",
    "tests/fixtures/models/tiny-llama-llama3", "samples/polish-5m",
};

static void convert_as(const char *src, const char *to, const char *dst, int dtype)
{
    struct lm_request req = {.to = lm_format_find(to), .dtype = dtype};
    struct lm_run_options o = {.n_threads = 1};
    struct lm_plan *p;
    struct lm_err e = {0};
    struct lm_model *m = open_ok(src);

    if (lm_plan_make(&p, m, &req, &e) < 0 || lm_plan_run(p, dst, &o, &e) < 0)
        fail_msg("%s to %s as %s: %s", src, dst, to, e.text);
    lm_plan_free(p);
    lm_model_close(m);
}
static void convert(const char *src, const char *to, const char *dst)
{
    convert_as(src, to, dst, -1);
}

static struct bytes slurp(const char *path)
{
    struct bytes b = {0};
    uint8_t buf[65536];
    ssize_t n;
    int fd = open(path, O_RDONLY);

    if (fd < 0)
        fail_msg("%s is missing", path);
    while ((n = read(fd, buf, sizeof buf)) > 0)
        put(&b, buf, (size_t)n);
    close(fd);
    return b;
}

static void assert_same_file(const char *a, const char *b)
{
    struct bytes x = slurp(a), y = slurp(b);

    if (x.n != y.n || memcmp(x.data, y.data, x.n) != 0)
        fail_msg("%s and %s differ", a, b);
    bytes_free(&x);
    bytes_free(&y);
}

/* Everything that is part of the model: the files that opening it uses. */
static size_t assert_same_folder(const char *original, const char *back)
{
    struct lm_model *m = open_ok(original);
    struct lm_span data;
    size_t n = 0;

    for (size_t i = 0; i < lm_model_n_files(m); i++, n++) {
        const char *path = lm_model_file(m, i)->path;
        assert_same_file(path, path_in(back, strrchr(path, '/') + 1));
    }
    for (size_t i = 0; lm_sidecar_names[i]; i++)
        if (lm_model_sidecar(m, lm_sidecar_names[i], &data, NULL) == 1) {
            assert_same_file(path_in(original, lm_sidecar_names[i]), path_in(back, lm_sidecar_names[i]));
            n++;
        }
    lm_model_close(m);
    return n;
}

static void every_way_gives_the_same_bytes(void **state)
{
    (void)state;
    size_t n = 0;

    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++) {
        char at[128];
        const char *p[8];
        static const char *const names[] = {"a.gguf", "b.npz", "c.gguf", "d.npz", "e.gguf", "back-b", "back-c", "back-d"};
        snprintf(at, sizeof at, "%s/%zu", dir, i);
        mkdir(at, 0777);
        for (size_t k = 0; k < 8; k++)
            p[k] = path_in(at, names[k]);
        convert(sources[i], "gguf", p[0]);
        convert(sources[i], "npz", p[1]);
        convert(p[1], "gguf", p[2]);
        convert(p[0], "npz", p[3]);
        convert(p[3], "gguf", p[4]);
        /* The name of a model is that of its folder, which is the same for both. */
        assert_same_file(p[0], p[2]);
        assert_same_file(p[0], p[4]);
        for (size_t k = 0; k < 3; k++) {
            convert(p[k + 1], "safetensors", p[5 + k]);
            n += assert_same_folder(sources[i], p[5 + k]);
        }
    }
    assert_true(n >= 3 * 5 * 2);
}

/* One after the other, through every container that carries. */
static void the_long_way_too(void **state)
{
    (void)state;
    static const char *const stops[][2] = {{"h5", "1.h5"}, {"npz", "2.npz"}, {"gguf", "3.gguf"}, {"h5", "4.h5"}, {"safetensors", "back"}};

    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++) {
        const char *at = sources[i], *to = NULL;
        char folder[128];
        snprintf(folder, sizeof folder, "%s/long%zu", dir, i);
        mkdir(folder, 0777);
        for (size_t k = 0; k < sizeof stops / sizeof stops[0]; k++, at = to) {
            to = path_in(folder, stops[k][1]);
            convert(at, stops[k][0], to);
        }
        assert_true(assert_same_folder(sources[i], at) >= 2);
    }
}

/* A cast keeps what says which model it is, and drops what is true of the old bytes only. */
static void a_cast_keeps_config(void **state)
{
    (void)state;
    const char *npz = path_in(dir, "cast.npz"), *again = path_in(dir, "cast2.npz");

    convert_as("samples/polish-5m", "npz", npz, LM_F16);
    convert(npz, "npz", again);
    assert_same_file(npz, again);
    struct lm_model *m = open_ok(npz);
    const struct lm_meta *meta = lm_model_meta(m);
    struct lm_span config;
    assert_int_equal(lm_meta_get_str(meta, "libmodel.source.config.json", &config, NULL), 1);
    assert_non_null(memmem(config.data, config.size, "\"float16\"", 9));
    assert_null(lm_meta_get(meta, "libmodel.source.header"));
    assert_null(lm_meta_get(meta, "libmodel.source.files"));
    assert_non_null(lm_meta_get(meta, "libmodel.source.tokenizer.model"));
    struct lm_config c;
    assert_int_equal(lm_config_read(&c, m, NULL, NULL), 1);
    lm_model_close(m);
}

/* ---- every type of value */

static struct lm_meta *all_types(void)
{
    struct lm_meta *m = lm_meta_new();
    static const char *const names[] = {"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "str", "", "u64", "i64", "f64"};
    static const uint8_t numbers[32] = {1, 0, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
    struct lm_span strs[3] = {lm_span_str("one"), lm_span_str(""), lm_span_of("\xff\0x", 3)};

    for (int t = 0; t < LM_META_N_TYPES; t++) {
        struct lm_meta_value v = {.type = (enum lm_meta_type)t, .u = 1}, a = {.type = LM_META_ARRAY, .elem = v.type, .n = 2,
                                                                             .data = numbers};
        char key[64];
        if (t == LM_META_ARRAY)
            continue;
        if (t == LM_META_F32 || t == LM_META_F64)
            v.f = -0.75;
        if (t == LM_META_STR) {
            v.str = lm_span_str("text \x01 \xe2\x82\xac");
            a.strs = strs;
            a.n = 3;
        }
        snprintf(key, sizeof key, "one.%s", names[t]);
        assert_int_equal(lm_meta_set_value(m, key, &v), 0);
        snprintf(key, sizeof key, "many.%s", names[t]);
        assert_int_equal(lm_meta_set_value(m, key, &a), 0);
        a.n = 0;
        snprintf(key, sizeof key, "none.%s", names[t]);
        assert_int_equal(lm_meta_set_value(m, key, &a), 0);
    }
    /* Stored by themselves, and those that look like it and are not: the type would not come back. */
    assert_int_equal(lm_meta_set_str(m, "libmodel.source.text", lm_span_str("{}")), 0);
    assert_int_equal(lm_meta_set_str(m, "libmodel.source.empty", lm_span_str("")), 0);
    assert_int_equal(lm_meta_set_array(m, "libmodel.source.bytes", LM_META_U8, "\xff\xfe", 2), 0);
    assert_int_equal(lm_meta_set_array(m, "libmodel.source.ascii-bytes", LM_META_U8, "ab", 2), 0);
    assert_int_equal(lm_meta_set_str(m, "libmodel.source.broken-text", lm_span_of("\xff", 1)), 0);
    assert_int_equal(lm_meta_set_u32(m, "libmodel.source.number", 3), 0);
    assert_int_equal(lm_meta_set_str(m, "libmodel.source.../../etc/passwd", lm_span_str("x")), 0);
    assert_int_equal(lm_meta_set_str(m, "libmodel.source.a/b", lm_span_str("x")), 0);
    assert_int_equal(lm_meta_set_str(m, "libmodel.source.", lm_span_str("x")), 0);
    assert_int_equal(lm_meta_set_str(m, "after", lm_span_str("x")), 0);
    return m;
}

static void assert_same_value(const char *key, const struct lm_meta_value *a, const struct lm_meta_value *b)
{
    size_t width = lm_meta_width(a->type == LM_META_ARRAY ? a->elem : a->type);

    if (a->type != b->type || (a->type == LM_META_ARRAY && (a->elem != b->elem || a->n != b->n)))
        fail_msg("%s comes back as another type", key);
    if (a->type == LM_META_STR)
        assert_true(lm_span_eq(a->str, b->str));
    else if (a->type != LM_META_ARRAY)
        assert_int_equal(a->u, b->u);
    else if (a->elem != LM_META_STR)
        assert_memory_equal(a->data ? a->data : "", b->data ? b->data : "", a->n * width);
    else
        for (size_t i = 0; i < a->n; i++)
            assert_true(lm_span_eq(a->strs[i], b->strs[i]));
}

static void every_pair_comes_back(void **state)
{
    (void)state;
    struct lm_meta *meta = all_types();
    struct lm_write_tensor t = {.name = "t", .dtype = LM_U8, .n_dims = 1, .shape = {4}};
    struct lm_write_spec spec = {.tensors = &t, .n_tensors = 1, .meta = meta};
    const void *data = "abcd";
    size_t n_data = 4;
    struct lm_layout l;
    struct lm_err e = {0};
    const char *key, *got;

    assert_int_equal(lm_format_find("npz")->layout(&l, &spec, "all.npz", &e), 0);
    write_layout(&l, dir, &spec, &data, &n_data);
    int fd = open(path_in(dir, "all.npz"), O_RDWR);
    assert_int_equal(lm_format_find("npz")->finish(fd, &l, 0, &e), 0);
    close(fd);
    lm_layout_free(&l);
    struct lm_model *m = open_ok(path_in(dir, "all.npz"));
    assert_int_equal(lm_model_n_tensors(m), 1);
    assert_int_equal(lm_meta_count(lm_model_meta(m)), lm_meta_count(meta));
    for (size_t i = 0; i < lm_meta_count(meta); i++) {
        const struct lm_meta_value *want = lm_meta_at(meta, i, &key), *have = lm_meta_at(lm_model_meta(m), i, &got);
        assert_string_equal(key, got);
        assert_same_value(key, want, have);
    }
    lm_model_close(m);

    t.name = "libmodel.source.config.json";
    assert_int_equal(lm_format_find("npz")->layout(&l, &spec, "all.npz", &e), -1);
    assert_non_null(strstr(e.text, "kept for the metadata"));
    t.name = "libmodel.meta";
    assert_int_equal(lm_format_find("npz")->layout(&l, &spec, "all.npz", &e), -1);
    lm_meta_free(meta);
}

/* ---- read */

static void put_array(struct bytes *b, const char *descr, const char *shape, const void *data, size_t n)
{
    char dict[128];

    snprintf(dict, sizeof dict, "{'descr': '%s', 'fortran_order': False, 'shape': %s}", descr, shape);
    put_text(b, "\x93NUMPY\1");
    put_u8(b, 0);
    put_u16(b, (uint16_t)strlen(dict));
    put_text(b, dict);
    put(b, data, n);
}

#define HEADER "GGUF\3\0\0\0\0\0\0\0\0\0\0\0"
static const struct {
    const char *name, *descr, *shape, *data;
    size_t n;
    const char *reason; /* NULL: it opens */
} members[] = {
    {"libmodel.source.config.json", "|u1", "(2,)", "{}", 2, NULL},
    {"libmodel.source.tokenizer.model", "|u1", "(2,)", "\xff\xfe", 2, NULL},
    {"libmodel.meta", "|u1", "(24,)", HEADER "\0\0\0\0\0\0\0", 24, NULL},
    {"libmodel.source.config.json", "|i1", "(2,)", "{}", 2, "expected a one-dimensional array of its 2 bytes"},
    {"libmodel.source.config.json", "|u1", "(1, 2)", "{}", 2, "expected a one-dimensional array"},
    {"libmodel.source.config.json", "|u1", "()", "{", 1, "expected a one-dimensional array"},
    {"libmodel.source.config.json", "|u1", "(3,)", "{}", 2, "expected a one-dimensional array of its 2 bytes"},
    {"libmodel.source.config.json", "|u1", "(1,)", "{}", 2, "expected a one-dimensional array of its 2 bytes"},
    {"libmodel.source.config.json", "|O", "(1,)", "{}", 2, "Python objects"},
    {"libmodel.source.\xff", "|u1", "(2,)", "{}", 2, "not UTF-8"},
    {"libmodel.meta", "|u1", "(0,)", "", 0, "does not begin with 'GGUF'"},
    {"libmodel.meta", "|u1", "(8,)", "GGUF\3\0\0", 8, "the file ends inside the header"},
    {"libmodel.meta", "|u1", "(24,)", HEADER "\1\0\0\0\0\0\0", 24, "cannot fit"},
    {"libmodel.meta", "|u1", "(64,)", HEADER "\0\0\0\0\0\0\0\0oooooooooooooooooooooooooooooooooooooooo", 64, "more than metadata pairs"},
    {"libmodel.meta", "|u1", "(24,)", "GGUF\x09\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24, "GGUF version 9"},
};

static void carried_members_are_checked(void **state)
{
    (void)state;

    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
        struct member m[2] = {{.name = "t.npy"}};
        char name[100];
        struct bytes z = {0};
        snprintf(name, sizeof name, "%s.npy", members[i].name);
        m[1].name = name;
        put_array(&m[0].data, "<f4", "(1,)", "\0\0\0\0", 4);
        put_array(&m[1].data, members[i].descr, members[i].shape, members[i].data, members[i].n);
        put_zip(&z, m, 2, NULL);
        write_file(path_in(dir, "c.npz"), z.data, z.n);
        if (members[i].reason) {
            struct lm_model *model;
            struct lm_err e = {0};
            if (lm_model_open(&model, path_in(dir, "c.npz"), &e) == 0)
                fail_msg("row %zu should not open", i);
            if (!strstr(e.text, members[i].reason))
                fail_msg("row %zu: expected '%s', got '%s'", i, members[i].reason, e.text);
        } else {
            struct lm_model *model = open_ok(path_in(dir, "c.npz"));
            assert_int_equal(lm_model_n_tensors(model), 1);
            lm_model_close(model);
        }
        members_free(m, 2);
        bytes_free(&z);
    }
}

/* Written by hand: a config.json inside, and the one beside it does not count. */
static void what_is_inside_rules(void **state)
{
    (void)state;
    struct member m = {.name = "t.npy"}, both[2] = {{.name = "t.npy"}, {.name = "libmodel.source.config.json.npy"}};
    struct bytes z = {0}, y = {0};
    struct lm_span s;

    write_file(path_in(dir, "config.json"), "[]", 2);
    put_array(&m.data, "<f4", "(1,)", "\0\0\0\0", 4);
    put_array(&both[0].data, "<f4", "(1,)", "\0\0\0\0", 4);
    put_array(&both[1].data, "|u1", "(2,)", "{}", 2);
    put_zip(&z, &m, 1, NULL);
    put_zip(&y, both, 2, NULL);
    write_file(path_in(dir, "plain.npz"), z.data, z.n);
    write_file(path_in(dir, "both.npz"), y.data, y.n);
    struct lm_model *plain = open_ok(path_in(dir, "plain.npz")), *own = open_ok(path_in(dir, "both.npz"));
    assert_int_equal(lm_model_sidecar(plain, "config.json", &s, NULL), 1);
    assert_memory_equal(s.data, "[]", 2);
    assert_int_equal(lm_model_sidecar(own, "config.json", &s, NULL), 1);
    assert_memory_equal(s.data, "{}", 2);
    lm_model_close(plain);
    lm_model_close(own);
    members_free(&m, 1);
    members_free(both, 2);
    bytes_free(&z);
    bytes_free(&y);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_way_gives_the_same_bytes),
        cmocka_unit_test(the_long_way_too),
        cmocka_unit_test(a_cast_keeps_config),
        cmocka_unit_test(every_pair_comes_back),
        cmocka_unit_test(carried_members_are_checked),
        cmocka_unit_test(what_is_inside_rules),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
