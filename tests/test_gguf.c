#include "tests/files.h"

#include <time.h>

#include "libmodel/fmt/gguf.h"

/* ---- the same small model in every version and byte order */

struct form {
    uint32_t version;
    bool big;
};

static void put_int(struct bytes *b, struct form f, uint64_t v, size_t width)
{
    for (size_t i = 0; i < width; i++)
        put_u8(b, (uint8_t)(v >> 8 * (f.big ? width - 1 - i : i)));
}

static void put_count(struct bytes *b, struct form f, uint64_t v)
{
    put_int(b, f, v, f.version == 1 ? 4 : 8);
}

static void put_string(struct bytes *b, struct form f, const char *s)
{
    put_count(b, f, strlen(s));
    put_text(b, s);
}

static void put_pair(struct bytes *b, struct form f, const char *key, enum lm_meta_type type)
{
    put_string(b, f, key);
    put_int(b, f, type, 4);
}

static void put_scalars(struct bytes *b, struct form f)
{
    put_pair(b, f, "u8", LM_META_U8);
    put_int(b, f, 200, 1);
    put_pair(b, f, "i8", LM_META_I8);
    put_int(b, f, 0xfe, 1);
    put_pair(b, f, "u16", LM_META_U16);
    put_int(b, f, 60000, 2);
    put_pair(b, f, "i16", LM_META_I16);
    put_int(b, f, 0xfffd, 2);
    put_pair(b, f, "u32", LM_META_U32);
    put_int(b, f, 4000000000u, 4);
    put_pair(b, f, "i32", LM_META_I32);
    put_int(b, f, 0xfffffffc, 4);
    put_pair(b, f, "f32", LM_META_F32);
    put_int(b, f, 0x3fc00000, 4);
    put_pair(b, f, "bool", LM_META_BOOL);
    put_int(b, f, 1, 1);
    put_pair(b, f, "str", LM_META_STR);
    put_string(b, f, "żółw");
    put_pair(b, f, "u64", LM_META_U64);
    put_int(b, f, UINT64_MAX, 8);
    put_pair(b, f, "i64", LM_META_I64);
    put_int(b, f, (uint64_t)-5, 8);
    put_pair(b, f, "f64", LM_META_F64);
    put_int(b, f, 0x4004000000000000u, 8);
}
enum { N_SCALARS = 12 };

static void put_arrays(struct bytes *b, struct form f)
{
    put_pair(b, f, "a.i32", LM_META_ARRAY);
    put_int(b, f, LM_META_I32, 4);
    put_count(b, f, 3);
    for (uint64_t i = 0; i < 3; i++)
        put_int(b, f, i + 70000, 4);
    put_pair(b, f, "a.u16", LM_META_ARRAY);
    put_int(b, f, LM_META_U16, 4);
    put_count(b, f, 2);
    put_int(b, f, 258, 2);
    put_int(b, f, 3, 2);
    put_pair(b, f, "a.str", LM_META_ARRAY);
    put_int(b, f, LM_META_STR, 4);
    put_count(b, f, 3);
    put_string(b, f, "a");
    put_string(b, f, "");
    put_string(b, f, "\xff\xfe"); /* a token may be any bytes */
    put_pair(b, f, "a.bool", LM_META_ARRAY);
    put_int(b, f, LM_META_BOOL, 4);
    put_count(b, f, 2);
    put_u8(b, 0);
    put_u8(b, 1);
    put_pair(b, f, "a.empty", LM_META_ARRAY);
    put_int(b, f, LM_META_F64, 4);
    put_count(b, f, 0);
}
enum { N_ARRAYS = 5 };

static void put_tensor(struct bytes *b, struct form f, const char *name, unsigned n_dims, uint64_t ne0, uint64_t ne1,
                       uint32_t type, uint64_t offset)
{
    put_string(b, f, name);
    put_int(b, f, n_dims, 4);
    put_count(b, f, ne0);
    if (n_dims > 1)
        put_count(b, f, ne1);
    put_int(b, f, type, 4);
    put_int(b, f, offset, 8);
}

static void build(struct bytes *b, struct form f)
{
    put_text(b, "GGUF");
    put_int(b, f, f.version, 4);
    put_count(b, f, 3);
    put_count(b, f, N_SCALARS + N_ARRAYS);
    put_scalars(b, f);
    put_arrays(b, f);
    put_tensor(b, f, "f32", 2, 3, 2, 0, 0);
    put_tensor(b, f, "q8_0", 2, 32, 1, 8, 32);
    put_tensor(b, f, "bf16", 1, 4, 0, 30, 96);
    pad_to(b, 32);
    for (uint64_t i = 0; i < 6; i++) { /* 1, 2, … as f32 */
        static const uint32_t numbers[] = {0x3f800000, 0x40000000, 0x40400000, 0x40800000, 0x40a00000, 0x40c00000};
        put_int(b, f, numbers[i], 4);
    }
    pad_to(b, 32);
    put_int(b, f, 0x3800, 2); /* 0.5 as f16 */
    for (uint8_t i = 0; i < 32; i++)
        put_u8(b, i);
    pad_to(b, 32);
    for (uint64_t i = 0; i < 4; i++)
        put_int(b, f, 0x3f80, 2);
    pad_to(b, 32);
}

static void check_scalars(const struct lm_meta *m)
{
    assert_int_equal(lm_meta_get(m, "u8")->u, 200);
    assert_int_equal(lm_meta_get(m, "i8")->i, -2);
    assert_int_equal(lm_meta_get(m, "u16")->u, 60000);
    assert_int_equal(lm_meta_get(m, "i16")->i, -3);
    assert_int_equal(lm_meta_get(m, "u32")->u, 4000000000u);
    assert_int_equal(lm_meta_get(m, "i32")->i, -4);
    assert_true(lm_meta_get(m, "f32")->f == 1.5);
    assert_int_equal(lm_meta_get(m, "bool")->u, 1);
    assert_true(lm_span_eq(lm_meta_get(m, "str")->str, lm_span_str("żółw")));
    assert_true(lm_meta_get(m, "u64")->u == UINT64_MAX);
    assert_int_equal(lm_meta_get(m, "i64")->i, -5);
    assert_true(lm_meta_get(m, "f64")->f == 2.5);
}

static void check_arrays(const struct lm_meta *m)
{
    const int32_t *numbers = lm_meta_get(m, "a.i32")->data;
    const uint16_t *small = lm_meta_get(m, "a.u16")->data;
    const struct lm_span *strs = lm_meta_get(m, "a.str")->strs;

    assert_int_equal(lm_meta_get(m, "a.i32")->n, 3);
    assert_int_equal((uintptr_t)numbers % 4, 0); /* may be used as an array */
    assert_int_equal(numbers[2], 70002);
    assert_int_equal(small[0], 258);
    assert_int_equal(small[1], 3);
    assert_int_equal(lm_meta_get(m, "a.str")->n, 3);
    assert_true(lm_span_eq(strs[0], lm_span_str("a")));
    assert_int_equal(strs[1].size, 0);
    assert_true(lm_span_eq(strs[2], lm_span_str("\xff\xfe")));
    assert_int_equal(((const uint8_t *)lm_meta_get(m, "a.bool")->data)[1], 1);
    assert_int_equal(lm_meta_get(m, "a.empty")->n, 0);
}

static void check_tensors(const struct lm_model *m)
{
    const struct lm_tensor *t = lm_model_tensor(m, 0);
    float values[32];
    uint8_t raw[34];
    struct lm_err e;

    assert_int_equal(lm_model_n_tensors(m), 3);
    assert_string_equal(t->name, "f32");
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->shape[0], 2); /* outermost first */
    assert_int_equal(t->shape[1], 3);
    assert_int_equal(lm_tensor_to_f32(t, 2, 4, values, &e), 0);
    assert_true(values[0] == 3 && values[3] == 6);
    lm_tensor_read(t, 4, 4, raw);
    assert_int_equal(lm_load_u32le(raw), 0x40000000); /* little-endian whatever the file is */
    t = lm_model_find(m, "q8_0");
    assert_int_equal(lm_tensor_to_f32(t, 0, 32, values, &e), 0);
    assert_true(values[0] == 0 && values[31] == 15.5f);
    lm_tensor_read(t, 0, 34, raw);
    assert_int_equal(lm_load_u16le(raw), 0x3800);
    assert_int_equal(raw[33], 31);
    assert_int_equal(lm_tensor_to_f32(lm_model_find(m, "bf16"), 0, 4, values, &e), 0);
    assert_true(values[0] == 1 && values[3] == 1);
}

static void every_version_and_byte_order_is_read(void **state)
{
    (void)state;
    static const struct form forms[] = {{1, false}, {2, false}, {3, false}, {1, true}, {2, true}, {3, true}};

    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        struct bytes b = {0};
        build(&b, forms[i]);
        write_file(path_in(dir, "form.gguf"), b.data, b.n);
        struct lm_model *m = open_ok(path_in(dir, "form.gguf"));
        assert_string_equal(lm_model_format(m)->name, "gguf");
        assert_int_equal(lm_meta_count(lm_model_meta(m)), N_SCALARS + N_ARRAYS);
        assert_int_equal(lm_model_tensor(m, 0)->big_endian, forms[i].big);
        check_scalars(lm_model_meta(m));
        check_arrays(lm_model_meta(m));
        check_tensors(m);
        lm_model_close(m);
        bytes_free(&b);
    }
}

/* A large big-endian tensor: swapped through a small buffer, from any block on. */
static void big_endian_values_are_read_in_pieces(void **state)
{
    (void)state;
    enum { N = 50000 };
    struct bytes b = {0};
    struct form big = {3, true};
    float *values = malloc(N * sizeof *values);
    struct lm_err e;

    put_text(&b, "GGUF");
    put_int(&b, big, 3, 4);
    put_int(&b, big, 1, 8);
    put_int(&b, big, 0, 8);
    put_tensor(&b, big, "x", 1, N, 0, 26, 0);
    pad_to(&b, 32);
    for (uint64_t i = 0; i < N; i++)
        put_int(&b, big, i, 4);
    write_file(path_in(dir, "big.gguf"), b.data, b.n);
    struct lm_model *m = open_ok(path_in(dir, "big.gguf"));
    assert_int_equal(lm_tensor_to_f32(lm_model_tensor(m, 0), 3, N - 3, values, &e), 0);
    for (int i = 3; i < N; i++)
        assert_true(values[i - 3] == (float)i);
    lm_model_close(m);
    free(values);
    bytes_free(&b);
}

/* The ids of ggml, and its sizes (formats.md 2.2): each is listed and sized. */
static void every_ggml_type_is_listed_and_sized(void **state)
{
    (void)state;
    static const struct {
        uint32_t id;
        const char *name;
        uint64_t block, bytes;
    } types[] = {
        {0, "F32", 1, 4}, {1, "F16", 1, 2}, {2, "Q4_0", 32, 18}, {3, "Q4_1", 32, 20}, {6, "Q5_0", 32, 22},
        {7, "Q5_1", 32, 24}, {8, "Q8_0", 32, 34}, {9, "Q8_1", 32, 36}, {10, "Q2_K", 256, 84}, {11, "Q3_K", 256, 110},
        {12, "Q4_K", 256, 144}, {13, "Q5_K", 256, 176}, {14, "Q6_K", 256, 210}, {15, "Q8_K", 256, 292},
        {16, "IQ2_XXS", 256, 66}, {17, "IQ2_XS", 256, 74}, {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},
        {20, "IQ4_NL", 32, 18}, {21, "IQ3_S", 256, 110}, {22, "IQ2_S", 256, 82}, {23, "IQ4_XS", 256, 136},
        {24, "I8", 1, 1}, {25, "I16", 1, 2}, {26, "I32", 1, 4}, {27, "I64", 1, 8}, {28, "F64", 1, 8},
        {29, "IQ1_M", 256, 56}, {30, "BF16", 1, 2}, {34, "TQ1_0", 256, 54}, {35, "TQ2_0", 256, 66},
        {39, "MXFP4", 32, 17}, {40, "NVFP4", 64, 36}, {41, "Q1_0", 128, 18}, {42, "Q2_0", 64, 18},
    };
    enum { N = sizeof types / sizeof types[0] };
    struct form f = {3, false};
    struct bytes b = {0};
    uint64_t offset = 0;

    put_gguf(&b, N, 0);
    for (size_t i = 0; i < N; i++) {
        put_tensor(&b, f, types[i].name, 2, 2 * types[i].block, 3, types[i].id, offset);
        offset += (6 * types[i].bytes + 31) / 32 * 32;
    }
    pad_to(&b, 32);
    put_zeros(&b, offset);
    write_file(path_in(dir, "types.gguf"), b.data, b.n);
    struct lm_model *m = open_ok(path_in(dir, "types.gguf"));
    for (size_t i = 0; i < N; i++) {
        const struct lm_tensor *t = lm_model_tensor(m, i);
        assert_string_equal(lm_dtype_name(t->dtype), types[i].name);
        assert_int_equal(t->n_bytes, 6 * types[i].bytes);
        assert_int_equal(lmi_gguf_type_id(t->dtype), types[i].id);
        assert_true(lm_format_gguf.can_store(t->dtype));
    }
    assert_false(lm_format_gguf.can_store(LM_BOOL));
    assert_false(lm_format_gguf.can_store(LM_U8));
    lm_model_close(m);
    bytes_free(&b);
}

/* ---- writing */

static const struct lm_write_tensor tensors[] = {
    {"t1", LM_F32, 2, {2, 3}}, {"scalar", LM_F32, 0, {0}}, {"t2", LM_F16, 1, {7}}, {"e", LM_Q8_0, 3, {2, 1, 32}}};
static const uint8_t data[4][68] = {"tensor one: 24 bytes...", "four", "seven halves.", "two blocks of 34 bytes"};
static const void *const data_ptrs[] = {data[0], data[1], data[2], data[3]};
static const size_t data_sizes[] = {24, 4, 14, 68};

static struct lm_meta *sample_meta(void)
{
    struct lm_meta *m = lm_meta_new();
    const int32_t numbers[] = {1, -2, 3};
    const struct lm_span strs[] = {lm_span_str("x"), lm_span_str(""), lm_span_of("n\0n", 3)};

    lm_meta_set_str(m, "general.architecture", lm_span_str("llama"));
    lm_meta_set_u32(m, "u32", 5);
    lm_meta_set_f32(m, "f32", 1.5f);
    lm_meta_set_bool(m, "bool", true);
    lm_meta_set_i32(m, "i32", -7);
    lm_meta_set_u64(m, "u64", 1ull << 40);
    lm_meta_set_value(m, "i8", &(struct lm_meta_value){.type = LM_META_I8, .i = -1});
    lm_meta_set_value(m, "i16", &(struct lm_meta_value){.type = LM_META_I16, .i = -1});
    lm_meta_set_value(m, "u8", &(struct lm_meta_value){.type = LM_META_U8, .u = 255});
    lm_meta_set_value(m, "u16", &(struct lm_meta_value){.type = LM_META_U16, .u = 65535});
    lm_meta_set_value(m, "i64", &(struct lm_meta_value){.type = LM_META_I64, .i = INT64_MIN});
    lm_meta_set_value(m, "f64", &(struct lm_meta_value){.type = LM_META_F64, .f = 0.1});
    lm_meta_set_array(m, "ai", LM_META_I32, numbers, 3);
    lm_meta_set_strs(m, "as", strs, 3);
    return m;
}

static void expect_same_value(const struct lm_meta_value *a, const struct lm_meta_value *b)
{
    assert_non_null(b);
    assert_int_equal(a->type, b->type);
    if (a->type == LM_META_STR) {
        assert_true(lm_span_eq(a->str, b->str));
    } else if (a->type != LM_META_ARRAY) {
        assert_memory_equal(&a->u, &b->u, 8);
    } else {
        assert_int_equal(a->elem, b->elem);
        assert_int_equal(a->n, b->n);
        if (a->elem != LM_META_STR)
            assert_memory_equal(a->data, b->data, a->n * lm_meta_width(a->elem));
        for (size_t i = 0; a->elem == LM_META_STR && i < a->n; i++)
            assert_true(lm_span_eq(a->strs[i], b->strs[i]));
    }
}

static void expect_written(const char *path, const struct lm_meta *meta, size_t n_files)
{
    struct lm_model *m = open_ok(path);
    const char *key, *there;

    assert_int_equal(lm_model_n_files(m), n_files);
    assert_int_equal(lm_model_n_tensors(m), 4);
    for (size_t i = 0; i < 4; i++) {
        const struct lm_tensor *t = lm_model_tensor(m, i);
        assert_string_equal(t->name, tensors[i].name);
        assert_int_equal(t->dtype, tensors[i].dtype);
        assert_int_equal(t->n_bytes, data_sizes[i]);
        assert_memory_equal(t->data, data[i], data_sizes[i]);
    }
    assert_int_equal(lm_model_find(m, "scalar")->n_dims, 1);
    assert_int_equal(lm_model_find(m, "e")->n_dims, 3);
    assert_int_equal(lm_model_find(m, "e")->shape[0], 2);
    assert_int_equal(lm_meta_count(lm_model_meta(m)), lm_meta_count(meta)); /* no split.* left */
    for (size_t i = 0; i < lm_meta_count(meta); i++) {
        const struct lm_meta_value *v = lm_meta_at(meta, i, &key);
        expect_same_value(v, lm_meta_at(lm_model_meta(m), i, &there));
        assert_string_equal(key, there);
    }
    lm_model_close(m);
}

static void a_file_comes_back(void **state)
{
    (void)state;
    struct lm_meta *meta = sample_meta();
    struct lm_write_spec spec = {.tensors = tensors, .n_tensors = 4, .meta = meta};
    struct lm_layout l;
    struct lm_err e;

    assert_int_equal(lm_format_gguf.layout(&l, &spec, "w.gguf", &e), 0);
    assert_int_equal(l.n_files, 1);
    assert_string_equal(l.files[0].name, "w.gguf");
    assert_int_equal(l.places[0].offset, (l.files[0].n_head + 31) / 32 * 32);
    for (size_t i = 1; i < 4; i++) /* no gaps: llama.cpp's loader demands it */
        assert_int_equal(l.places[i].offset, l.places[i - 1].offset + (data_sizes[i - 1] + 31) / 32 * 32);
    assert_int_equal(l.files[0].n_bytes, l.places[3].offset + 96);
    write_layout(&l, dir, &spec, data_ptrs, data_sizes);
    lm_layout_free(&l);
    expect_written(path_in(dir, "w.gguf"), meta, 1);
    lm_meta_free(meta);
}

/* Byte for byte what gguf-py 0.19 writes for this model. */
static void the_bytes_are_the_specifications(void **state)
{
    (void)state;
    struct lm_meta *meta = lm_meta_new();
    const struct lm_write_tensor one = {"t2", LM_F16, 1, {7}};
    struct lm_write_spec spec = {.tensors = &one, .n_tensors = 1, .meta = meta};
    struct lm_layout l;
    struct lm_err e;
    static const uint8_t expected[] = "GGUF\3\0\0\0" "\1\0\0\0\0\0\0\0" "\2\0\0\0\0\0\0\0"
        "\x14\0\0\0\0\0\0\0general.architecture" "\x8\0\0\0" "\5\0\0\0\0\0\0\0llama"
        "\2\0\0\0\0\0\0\0ai" "\x9\0\0\0" "\5\0\0\0" "\2\0\0\0\0\0\0\0" "\1\0\0\0" "\xfe\xff\xff\xff"
        "\2\0\0\0\0\0\0\0t2" "\1\0\0\0" "\7\0\0\0\0\0\0\0" "\1\0\0\0" "\0\0\0\0\0\0\0\0";
    const int32_t numbers[] = {1, -2};

    lm_meta_set_str(meta, "general.architecture", lm_span_str("llama"));
    lm_meta_set_array(meta, "ai", LM_META_I32, numbers, 2);
    assert_int_equal(lm_format_gguf.layout(&l, &spec, "b.gguf", &e), 0);
    assert_int_equal(l.files[0].n_head, sizeof expected - 1);
    assert_memory_equal(l.files[0].head, expected, sizeof expected - 1);
    assert_int_equal(l.files[0].n_bytes, (sizeof expected - 1 + 31) / 32 * 32 + 32);
    lm_layout_free(&l);
    lm_meta_free(meta);
}

static void a_split_set_is_one_model(void **state)
{
    (void)state;
    struct lm_meta *meta = sample_meta();
    struct lm_write_spec spec = {.tensors = tensors, .n_tensors = 4, .meta = meta, .max_file_bytes = 64};
    struct lm_layout l;
    struct lm_err e;
    char name[64];

    lm_meta_set_u32(meta, "general.alignment", 8);
    assert_int_equal(mkdir(path_in(dir, "set"), 0777), 0);
    assert_int_equal(lm_format_gguf.layout(&l, &spec, "m.gguf", &e), 0);
    assert_int_equal(l.n_files, 2); /* 24 + 8 + 16, 72 */
    assert_string_equal(l.files[0].name, "m-00001-of-00002.gguf");
    assert_string_equal(l.files[1].name, "m-00002-of-00002.gguf");
    assert_int_equal(l.places[1].offset % 8, 0);
    write_layout(&l, path_in(dir, "set"), &spec, data_ptrs, data_sizes);
    lm_layout_free(&l);
    for (int part = 1; part <= 2; part++) { /* any part opens all */
        snprintf(name, sizeof name, "set/m-%05d-of-00002.gguf", part);
        expect_written(path_in(dir, name), meta, 2);
    }
    expect_written(path_in(dir, "set"), meta, 2);
    lm_meta_free(meta);
}

static void folders_with_several_ggufs_are_ambiguous(void **state)
{
    (void)state;
    struct lm_write_spec spec = {.tensors = tensors, .n_tensors = 4};
    struct lm_layout l;
    struct lm_err e;

    assert_int_equal(mkdir(path_in(dir, "two"), 0777), 0);
    assert_int_equal(lm_format_gguf.layout(&l, &spec, "a.gguf", &e), 0);
    write_layout(&l, path_in(dir, "two"), &spec, data_ptrs, data_sizes);
    lm_layout_free(&l);
    struct lm_model *m = open_ok(path_in(dir, "two"));
    lm_model_close(m);
    assert_int_equal(lm_format_gguf.layout(&l, &spec, "b.gguf", &e), 0);
    write_layout(&l, path_in(dir, "two"), &spec, data_ptrs, data_sizes);
    lm_layout_free(&l);
    open_fails(path_in(dir, "two"), LM_USAGE, "several GGUF models (a.gguf, b.gguf)");
}

static void what_cannot_be_stored_is_refused(void **state)
{
    (void)state;
    static const char longest[] = "a234567890123456789012345678901234567890123456789012345678901.34";
    static const struct {
        struct lm_write_tensor t;
        const char *reason;
    } cases[] = {
        {{longest, LM_F32, 1, {1}}, "the name has 64 bytes, GGUF allows 63"},
        {{longest + 1, LM_F32, 1, {1}}, NULL},
        {{"x", LM_F32, 5, {1, 1, 1, 1, 1}}, "5 dimensions, GGUF allows 4"},
        {{"x", LM_F32, 4, {1, 1, 1, 1}}, NULL},
        {{"x", LM_F32, 2, {4, 0}}, "no elements"},
        {{"x", LM_BOOL, 1, {1}}, "GGUF cannot store BOOL"},
        {{"x", LM_Q4_K, 2, {4, 64}}, "rows of 64 are not whole Q4_K blocks of 256"},
        {{"x", LM_F64, 2, {1ull << 40, 1ull << 40}}, "overflows"},
        {{"x", LM_I8, 2, {1ull << 31, (1ull << 33) - 1}}, NULL},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct lm_write_spec spec = {.tensors = &cases[i].t, .n_tensors = 1};
        struct lm_layout l;
        struct lm_err e = {0};
        int rc = lm_format_gguf.layout(&l, &spec, "x.gguf", &e);
        if ((rc == 0) != (cases[i].reason == NULL) || (rc < 0 && !strstr(e.text, cases[i].reason)))
            fail_msg("case %zu: %s", i, e.text);
        if (rc == 0)
            lm_layout_free(&l);
    }
}

static void a_wrong_alignment_is_refused(void **state)
{
    (void)state;
    struct lm_meta *meta = lm_meta_new();
    struct lm_write_spec spec = {.tensors = tensors, .n_tensors = 1, .meta = meta};
    struct lm_layout l;
    struct lm_err e;

    lm_meta_set_u32(meta, "general.alignment", 24);
    assert_int_equal(lm_format_gguf.layout(&l, &spec, "x.gguf", &e), -1);
    assert_non_null(strstr(e.text, "power of two"));
    lm_meta_free(meta);
}

static void sidecars_are_inside(void **state)
{
    (void)state;
    struct lm_meta *meta = lm_meta_new();
    struct lm_write_spec spec = {.tensors = tensors, .n_tensors = 1, .meta = meta};
    struct lm_layout l;
    struct lm_err e = {0};
    struct lm_span s;

    lm_meta_set_str(meta, "libmodel.source.config.json", lm_span_str("{\"inside\": 1}"));
    lm_meta_set_array(meta, "libmodel.source.tokenizer.model", LM_META_U8, "\n\0\xff", 3);
    lm_meta_set_str(meta, "tokenizer.huggingface.json", lm_span_str("{}"));
    lm_meta_set_u32(meta, "libmodel.source.merges.txt", 1);
    assert_int_equal(lm_format_gguf.layout(&l, &spec, "side.gguf", &e), 0);
    write_layout(&l, dir, &spec, data_ptrs, data_sizes);
    lm_layout_free(&l);
    lm_meta_free(meta);
    /* Files beside it belong to somebody else. */
    write_file(path_in(dir, "config.json"), "outside", 7);
    write_file(path_in(dir, "vocab.json"), "outside", 7);
    struct lm_model *m = open_ok(path_in(dir, "side.gguf"));
    assert_int_equal(lm_model_sidecar(m, "config.json", &s, &e), 1);
    assert_true(lm_span_eq(s, lm_span_str("{\"inside\": 1}")));
    assert_int_equal(lm_model_sidecar(m, "tokenizer.model", &s, &e), 1);
    assert_true(lm_span_eq(s, lm_span_of("\n\0\xff", 3)));
    assert_int_equal(lm_model_sidecar(m, "tokenizer.json", &s, &e), 1);
    assert_true(lm_span_eq(s, lm_span_str("{}")));
    assert_int_equal(lm_model_sidecar(m, "vocab.json", &s, &e), 0);
    assert_int_equal(lm_model_sidecar(m, "merges.txt", &s, &e), -1);
    lm_model_close(m);
    for (size_t i = 0; lm_sidecar_names[i]; i++)
        assert_null(strchr(lm_sidecar_names[i], '/'));
}

/* ---- size */

enum { MANY = 100000 };

static void many_tensors_open_without_quadratic_work(void **state)
{
    (void)state;
    struct bytes b = {0};
    struct form f = {3, false};
    struct timespec begin, end;

    put_gguf(&b, MANY, 0);
    for (size_t i = 0; i < MANY; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%zu.ffn_down_exps.%zu.weight", i / 512, i % 512);
        put_tensor(&b, f, name, 1, 4, 0, 0, 32 * (MANY - 1 - i));
    }
    pad_to(&b, 32);
    put_zeros(&b, 32 * MANY);
    write_file(path_in(dir, "many.gguf"), b.data, b.n);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    struct lm_model *m = open_ok(path_in(dir, "many.gguf"));
    clock_gettime(CLOCK_MONOTONIC, &end);
    double seconds = (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) * 1e-9;
    print_message("%d tensors: %.0f ms\n", MANY, seconds * 1e3);
    assert_int_equal(lm_model_n_tensors(m), MANY);
    assert_non_null(lm_model_find(m, "blk.195.ffn_down_exps.159.weight"));
    assert_true(seconds < 5);
    lm_model_close(m);
    bytes_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_version_and_byte_order_is_read),
        cmocka_unit_test(big_endian_values_are_read_in_pieces),
        cmocka_unit_test(every_ggml_type_is_listed_and_sized),
        cmocka_unit_test(a_file_comes_back),
        cmocka_unit_test(the_bytes_are_the_specifications),
        cmocka_unit_test(a_split_set_is_one_model),
        cmocka_unit_test(folders_with_several_ggufs_are_ambiguous),
        cmocka_unit_test(what_cannot_be_stored_is_refused),
        cmocka_unit_test(a_wrong_alignment_is_refused),
        cmocka_unit_test(sidecars_are_inside),
        cmocka_unit_test(many_tensors_open_without_quadratic_work),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
