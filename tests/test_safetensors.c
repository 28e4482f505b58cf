#include "tests/files.h"

#include <dirent.h>
#include <time.h>

#include "libmodel/fmt/safetensors.h"

static const char *write_safetensors(const char *name, const char *header, size_t n_data)
{
    struct bytes b = {0};
    const char *path = path_in(dir, name);

    put_safetensors(&b, header, n_data);
    write_file(path, b.data, b.n);
    bytes_free(&b);
    return path;
}

static void a_file_opens(void **state)
{
    (void)state;
    const char *path = write_safetensors("a.safetensors",
        "{\"__metadata__\":{\"format\":\"pt\",\"k\\u00f3\":\"\"},"
        "\"b\":{\"data_offsets\":[8,14],\"dtype\":\"BF16\",\"shape\":[3]},"
        "\"a\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[0,8]},"
        "\"empty\":{\"dtype\":\"F64\",\"shape\":[4,0],\"data_offsets\":[8,8]},"
        "\"one\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[14,15]}}   ", 15);
    struct lm_model *m = open_ok(path);
    char shape[64];

    assert_string_equal(lm_model_format(m)->name, "safetensors");
    assert_string_equal(lm_model_path(m), path);
    assert_int_equal(lm_model_n_tensors(m), 4);
    assert_int_equal(lm_model_n_files(m), 1);
    /* in the order of their data */
    assert_string_equal(lm_model_tensor(m, 0)->name, "a");
    assert_string_equal(lm_model_tensor(m, 1)->name, "empty");
    assert_string_equal(lm_model_tensor(m, 2)->name, "b");
    assert_string_equal(lm_model_tensor(m, 3)->name, "one");
    const struct lm_tensor *t = lm_model_find(m, "b");
    assert_int_equal(t->dtype, LM_BF16);
    assert_int_equal(t->n_elems, 3);
    assert_int_equal(t->n_bytes, 6);
    assert_ptr_equal(t->data, lm_model_file(m, 0)->map.data + t->offset);
    assert_string_equal(lm_tensor_shape_str(lm_model_find(m, "a"), shape, sizeof shape), "[1, 2]");
    assert_string_equal(lm_tensor_shape_str(lm_model_find(m, "one"), shape, sizeof shape), "[]");
    assert_int_equal(lm_model_find(m, "one")->n_elems, 1);
    assert_int_equal(lm_model_find(m, "empty")->n_elems, 0);
    assert_null(lm_model_find(m, "c"));
    struct lm_span s = {0};
    struct lm_err e;
    assert_int_equal(lm_meta_get_str(lm_model_meta(m), "format", &s, &e), 1);
    assert_true(lm_span_eq(s, lm_span_str("pt")));
    assert_non_null(lm_meta_get(lm_model_meta(m), "k\xc3\xb3"));
    lm_model_close(m);
    lm_model_close(NULL);
}

/* Every type of the specification: a row of 8 elements each. */
static void every_dtype_is_read(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum lm_dtype dtype;
        size_t bits;
    } types[] = {
        {"BOOL", LM_BOOL, 8}, {"F4", LM_F4, 4}, {"F6_E2M3", LM_F6_E2M3, 6}, {"F6_E3M2", LM_F6_E3M2, 6}, {"U8", LM_U8, 8},
        {"I8", LM_I8, 8}, {"F8_E5M2", LM_F8_E5M2, 8}, {"F8_E4M3", LM_F8_E4M3, 8}, {"F8_E8M0", LM_F8_E8M0, 8},
        {"F8_E4M3FNUZ", LM_F8_E4M3FNUZ, 8}, {"F8_E5M2FNUZ", LM_F8_E5M2FNUZ, 8}, {"I16", LM_I16, 16}, {"U16", LM_U16, 16},
        {"F16", LM_F16, 16}, {"BF16", LM_BF16, 16}, {"I32", LM_I32, 32}, {"U32", LM_U32, 32}, {"F32", LM_F32, 32},
        {"C64", LM_C64, 64}, {"F64", LM_F64, 64}, {"I64", LM_I64, 64}, {"U64", LM_U64, 64},
    };
    enum { N = sizeof types / sizeof types[0] };
    struct bytes header = {0};
    size_t pos = 0;

    put_text(&header, "{");
    for (size_t i = 0; i < N; i++) {
        char entry[160];
        snprintf(entry, sizeof entry, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[8],\"data_offsets\":[%zu,%zu]}", i ? "," : "",
                 types[i].name, types[i].name, pos, pos + types[i].bits);
        put_text(&header, entry);
        pos += types[i].bits;
    }
    put(&header, "}", 2);
    struct lm_model *m = open_ok(write_safetensors("all.safetensors", (char *)header.data, pos));
    assert_int_equal(lm_model_n_tensors(m), N);
    for (size_t i = 0; i < N; i++) {
        const struct lm_tensor *t = lm_model_find(m, types[i].name);
        assert_int_equal(t->dtype, types[i].dtype);
        assert_true(lm_format_safetensors.can_store(t->dtype));
        assert_string_equal(lmi_st_dtype_name(t->dtype), types[i].name);
    }
    assert_false(lm_format_safetensors.can_store(LM_Q4_K));
    lm_model_close(m);
    bytes_free(&header);
}

static void values_are_converted(void **state)
{
    (void)state;
    struct bytes b = {0};
    const float values[] = {1.5f, -2, 0, 65504};
    float back[4];
    struct lm_err e;

    put_safetensors(&b, "{\"x\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]},"
                        "\"q\":{\"dtype\":\"F6_E2M3\",\"shape\":[4],\"data_offsets\":[16,19]}}", 0);
    put(&b, values, sizeof values);
    put_zeros(&b, 3);
    write_file(path_in(dir, "v.safetensors"), b.data, b.n);
    struct lm_model *m = open_ok(path_in(dir, "v.safetensors"));
    assert_int_equal(lm_tensor_to_f32(lm_model_find(m, "x"), 1, 3, back, &e), 0);
    assert_memory_equal(back, values + 1, 12);
    lm_tensor_read(lm_model_find(m, "x"), 4, 8, back);
    assert_memory_equal(back, values + 1, 8);
    if (!lm_dtype_info(LM_F6_E2M3)->to_f32) {
        assert_int_equal(lm_tensor_to_f32(lm_model_find(m, "q"), 0, 4, back, &e), -1);
        assert_int_equal(e.code, LM_UNSUPPORTED);
        assert_non_null(strstr(e.text, "'q' is F6_E2M3"));
    }
    lm_model_close(m);
    bytes_free(&b);
}

/* ---- folders and shards */

static const char *sub_dir(const char *name)
{
    const char *path = path_in(dir, name);
    assert_int_equal(mkdir(path, 0777), 0);
    return path;
}

static void write_one(const char *name, const char *tensor)
{
    char header[200];
    snprintf(header, sizeof header, "{\"%s\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", tensor);
    write_safetensors(name, header, 2);
}

static void write_text(const char *name, const char *text)
{
    write_file(path_in(dir, name), text, strlen(text));
}

static void shards_are_one_model(void **state)
{
    (void)state;
    const char *path = sub_dir("shards");

    write_one("shards/m-2.safetensors", "two");
    write_one("shards/blob", "one");
    /* The Hugging Face cache is made of symbolic links. */
    assert_int_equal(symlink("blob", path_in(dir, "shards/m-1.safetensors")), 0);
    write_text("shards/model.safetensors.index.json",
               "{\"metadata\":{\"total_size\":4,\"x\":[1,{\"y\":null}]},"
               "\"weight_map\":{\"two\":\"m-2.safetensors\",\"one\":\"m-1.safetensors\"}}");
    write_text("shards/config.json", "{}");
    struct lm_model *m = open_ok(path);
    struct lm_span s;
    struct lm_err e;

    assert_int_equal(lm_model_n_tensors(m), 2);
    assert_int_equal(lm_model_n_files(m), 2); /* the index is not one */
    assert_string_equal(lm_model_tensor(m, 0)->name, "one");
    assert_int_equal(lm_model_tensor(m, 1)->file, 1);
    assert_int_equal(lm_model_sidecar(m, "config.json", &s, &e), 1);
    assert_int_equal(s.size, 2);
    assert_int_equal(lm_model_check_unchanged(m, &e), 0);
    lm_model_close(m);
    m = open_ok(path_in(dir, "shards/model.safetensors.index.json"));
    assert_int_equal(lm_model_n_tensors(m), 2);
    assert_int_equal(lm_model_sidecar(m, "config.json", &s, &e), 1);
    lm_model_close(m);
    /* a trailing slash is the same folder */
    m = open_ok(path_in(dir, "shards/"));
    lm_model_close(m);
}

static void folders_name_what_they_hold(void **state)
{
    (void)state;
    const char *path = sub_dir("folder");

    open_fails(path, LM_MISSING, "the folder is empty");
    write_text("folder/config.json", "{}");
    write_text("folder/flax_model.msgpack", "x");
    open_fails(path, LM_MISSING, "found config.json, flax_model.msgpack");
    write_one("folder/consolidated.safetensors", "a");
    open_fails(path, LM_MISSING, "consolidated.safetensors");
    write_one("folder/weights.safetensors", "b");
    struct lm_model *m = open_ok(path);
    assert_non_null(lm_model_find(m, "b"));
    lm_model_close(m);
    write_one("folder/more.safetensors", "c");
    open_fails(path, LM_USAGE, "more.safetensors, weights.safetensors");
    write_one("folder/model.safetensors", "d");
    m = open_ok(path);
    assert_non_null(lm_model_find(m, "d"));
    lm_model_close(m);
    write_text("folder/model.safetensors.index.json", "{\"weight_map\":{\"b\":\"weights.safetensors\"}}");
    open_fails(path, LM_USAGE, "two models");
    write_text("folder/model.safetensors.index.json", "{\"weight_map\":{\"d\":\"model.safetensors\"}}");
    m = open_ok(path);
    assert_non_null(lm_model_find(m, "d"));
    lm_model_close(m);
}

static void sidecars_are_plain_names_beside_the_file(void **state)
{
    (void)state;
    struct lm_span s, again;
    struct lm_err e;

    sub_dir("side");
    write_one("side/model.safetensors", "a");
    write_text("side/config.json", "{\"a\": 1}");
    write_text("side/merges.txt", "");
    assert_int_equal(mkdir(path_in(dir, "side/vocab.json"), 0777), 0);
    struct lm_model *m = open_ok(path_in(dir, "side/model.safetensors"));
    assert_int_equal(lm_model_sidecar(m, "config.json", &s, &e), 1);
    assert_true(lm_span_eq(s, lm_span_str("{\"a\": 1}")));
    assert_int_equal(lm_model_sidecar(m, "config.json", &again, &e), 1);
    assert_ptr_equal(s.data, again.data);
    assert_int_equal(lm_model_sidecar(m, "merges.txt", &s, &e), 1);
    assert_int_equal(s.size, 0);
    assert_int_equal(lm_model_sidecar(m, "tokenizer.json", &s, &e), 0);
    assert_int_equal(lm_model_sidecar(m, "vocab.json", &s, &e), -1);
    assert_non_null(strstr(e.text, "not a regular file"));
    assert_int_equal(lm_model_sidecar(m, "../secret", &s, &e), -1);
    assert_int_equal(lm_model_sidecar(m, "..", &s, &e), -1);
    assert_int_equal(lm_model_sidecar(m, "", &s, &e), -1);
    lm_model_close(m);
}

static void a_changed_source_is_noticed(void **state)
{
    (void)state;
    struct lm_err e = {0};
    char path[128], other[128];

    snprintf(path, sizeof path, "%s/c.safetensors", dir);
    snprintf(other, sizeof other, "%s/d.safetensors", dir);
    write_one("c.safetensors", "a");
    write_one("d.safetensors", "a");
    struct lm_model *m = open_ok(path);
    assert_int_equal(lm_model_check_unchanged(m, &e), 0);
    int fd = open(path, O_WRONLY | O_APPEND);
    assert_int_equal(write(fd, "x", 1), 1);
    close(fd);
    assert_int_equal(lm_model_check_unchanged(m, &e), -1);
    assert_int_equal(e.code, LM_IO);
    assert_non_null(strstr(e.text, "changed"));
    lm_model_close(m);

    write_one("c.safetensors", "a");
    m = open_ok(path);
    assert_int_equal(rename(other, path), 0);
    assert_int_equal(lm_model_check_unchanged(m, &e), -1);
    lm_model_close(m);

    m = open_ok(path);
    assert_int_equal(remove(path), 0);
    assert_int_equal(lm_model_check_unchanged(m, &e), -1);
    lm_model_close(m);
}

/* ---- writing */

static void as_spec(const struct lm_model *m, struct lm_write_tensor *out)
{
    for (size_t i = 0; i < lm_model_n_tensors(m); i++) {
        const struct lm_tensor *t = lm_model_tensor(m, i);
        out[i] = (struct lm_write_tensor){.name = t->name, .dtype = t->dtype, .n_dims = t->n_dims};
        memcpy(out[i].shape, t->shape, sizeof t->shape);
    }
}

/* The fixtures were written by the reference implementation: laid out anew from
 * nothing but the tensors' descriptions, the header must be the same bytes. */
static void headers_equal_the_reference_writers(void **state)
{
    (void)state;
    DIR *d = opendir("tests/fixtures/models");
    size_t n_files = 0;

    assert_non_null(d);
    for (struct dirent *entry; (entry = readdir(d));) {
        char path[400];
        struct stat st;
        snprintf(path, sizeof path, "tests/fixtures/models/%s/model.safetensors", entry->d_name);
        if (stat(path, &st) < 0)
            continue;
        struct lm_model *m = open_ok(path);
        size_t n = lm_model_n_tensors(m);
        struct lm_write_tensor *tensors = calloc(n, sizeof *tensors);
        as_spec(m, tensors);
        for (size_t i = 0; i < n / 2; i++) { /* another order must not matter */
            struct lm_write_tensor swap = tensors[i];
            tensors[i] = tensors[n - 1 - i];
            tensors[n - 1 - i] = swap;
        }
        struct lm_write_spec spec = {.tensors = tensors, .n_tensors = n, .meta = lm_model_meta(m)};
        struct lm_layout l;
        struct lm_err e;
        assert_int_equal(lm_format_safetensors.layout(&l, &spec, "model.safetensors", &e), 0);
        struct lm_span map = lm_model_file(m, 0)->map;
        assert_int_equal(l.n_files, 1);
        assert_int_equal(l.files[0].n_bytes, map.size);
        assert_int_equal(l.files[0].n_head, 8 + lm_load_u64le(map.data));
        assert_memory_equal(l.files[0].head, map.data, l.files[0].n_head);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(l.places[i].offset, lm_model_find(m, tensors[i].name)->offset);
        lm_layout_free(&l);
        free(tensors);
        lm_model_close(m);
        n_files++;
    }
    closedir(d);
    assert_true(n_files >= 5);
}

/* What safetensors 0.8.0 wrote for these tensors. */
static void types_and_names_are_sorted_and_escaped(void **state)
{
    (void)state;
    static const struct lm_write_tensor tensors[] = {
        {"b", LM_F8_E5M2, 1, {3}}, {"a", LM_F8_E5M2FNUZ, 1, {3}}, {"c", LM_I64, 2, {1, 2}},
        {"é\"\\\n\x01\x7fx", LM_F32, 2, {0, 5}}, {"scalar", LM_F32, 0, {0}}, {"m", LM_BF16, 1, {1}}, {"n", LM_F16, 1, {1}},
    };
    static const char expected[] =
        "{\"c\":{\"dtype\":\"I64\",\"shape\":[1,2],\"data_offsets\":[0,16]},"
        "\"scalar\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[16,20]},"
        "\"é\\\"\\\\\\n\\u0001\x7fx\":{\"dtype\":\"F32\",\"shape\":[0,5],\"data_offsets\":[20,20]},"
        "\"m\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[20,22]},"
        "\"n\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[22,24]},"
        "\"a\":{\"dtype\":\"F8_E5M2FNUZ\",\"shape\":[3],\"data_offsets\":[24,27]},"
        "\"b\":{\"dtype\":\"F8_E5M2\",\"shape\":[3],\"data_offsets\":[27,30]}}";
    struct lm_write_spec spec = {.tensors = tensors, .n_tensors = 7};
    struct lm_layout l;
    struct lm_err e;

    assert_int_equal(lm_format_safetensors.layout(&l, &spec, "x.safetensors", &e), 0);
    assert_int_equal(l.files[0].n_head % 8, 0);
    assert_int_equal(lm_load_u64le(l.files[0].head), l.files[0].n_head - 8);
    assert_memory_equal(l.files[0].head + 8, expected, sizeof expected - 1);
    for (size_t i = 8 + sizeof expected - 1; i < l.files[0].n_head; i++)
        assert_int_equal(l.files[0].head[i], ' ');
    assert_int_equal(l.files[0].n_bytes, l.files[0].n_head + 30);
    assert_string_equal(l.files[0].name, "x.safetensors");
    lm_layout_free(&l);
}

static const struct lm_write_tensor three[] = {
    {"w.one", LM_F32, 2, {2, 3}}, {"w.two", LM_U8, 1, {10}}, {"w.three", LM_F16, 1, {4}}};
static const uint8_t three_data[3][24] = {"abcdefghijklmnopqrstuvw", "0123456789", "ABCDEFGH"};
static const void *const three_ptrs[] = {three_data[0], three_data[1], three_data[2]};
static const size_t three_sizes[] = {24, 10, 8};

static void expect_three(const char *path)
{
    struct lm_model *m = open_ok(path);

    assert_int_equal(lm_model_n_tensors(m), 3);
    for (size_t i = 0; i < 3; i++) {
        const struct lm_tensor *t = lm_model_find(m, three[i].name);
        assert_non_null(t);
        assert_int_equal(t->dtype, three[i].dtype);
        assert_int_equal(t->n_bytes, three_sizes[i]);
        assert_memory_equal(t->data, three_data[i], three_sizes[i]);
    }
    lm_model_close(m);
}

static void a_split_model_is_written_with_its_index(void **state)
{
    (void)state;
    struct lm_write_spec spec = {.tensors = three, .n_tensors = 3, .max_file_bytes = 20};
    struct lm_layout l;
    struct lm_err e;
    const char *path = sub_dir("split");

    assert_int_equal(lm_format_safetensors.layout(&l, &spec, "model.safetensors", &e), 0);
    assert_int_equal(l.n_files, 3); /* 24 is more than 20 and alone; 10 + 8 */
    assert_string_equal(l.files[0].name, "model-00001-of-00002.safetensors");
    assert_string_equal(l.files[1].name, "model-00002-of-00002.safetensors");
    assert_string_equal(l.files[2].name, "model.safetensors.index.json");
    assert_false(l.files[0].last || l.files[1].last);
    assert_true(l.files[2].last);
    static const char index[] = "{\n  \"metadata\": {\n    \"total_size\": 42\n  },\n  \"weight_map\": {\n"
        "    \"w.one\": \"model-00001-of-00002.safetensors\",\n"
        "    \"w.three\": \"model-00002-of-00002.safetensors\",\n"
        "    \"w.two\": \"model-00002-of-00002.safetensors\"\n  }\n}\n";
    assert_int_equal(l.files[2].n_bytes, sizeof index - 1);
    assert_memory_equal(l.files[2].head, index, sizeof index - 1);
    write_layout(&l, path, &spec, three_ptrs, three_sizes);
    lm_layout_free(&l);
    expect_three(path);
}

static void one_file_comes_back(void **state)
{
    (void)state;
    struct lm_write_spec spec = {.tensors = three, .n_tensors = 3, .max_file_bytes = 42};
    struct lm_layout l;
    struct lm_err e;

    assert_int_equal(lm_format_safetensors.layout(&l, &spec, "one.safetensors", &e), 0);
    assert_int_equal(l.n_files, 1);
    write_layout(&l, dir, &spec, three_ptrs, three_sizes);
    lm_layout_free(&l);
    expect_three(path_in(dir, "one.safetensors"));
}

static void an_exact_header_is_reproduced(void **state)
{
    (void)state;
    /* Another order, odd spaces, no padding: nothing that we would write. */
    static const char header[] =
        "{ \"w.two\":{\"shape\":[10],\"dtype\":\"U8\",\"data_offsets\":[0,10]},\n"
        "\"w.three\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[34,42]},"
        "\"__metadata__\":{\"a\":\"\\u0062\"},"
        "\"w.one\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[10,34]}} ";
    struct lm_write_spec spec = {.tensors = three, .n_tensors = 3, .exact_header = lm_span_str(header)};
    struct lm_layout l;
    struct lm_err e;

    assert_int_equal(lm_format_safetensors.layout(&l, &spec, "exact.safetensors", &e), 0);
    assert_int_equal(l.files[0].n_head, 8 + sizeof header - 1);
    assert_int_equal(lm_load_u64le(l.files[0].head), sizeof header - 1);
    assert_memory_equal(l.files[0].head + 8, header, sizeof header - 1);
    assert_int_equal(l.places[1].offset, 8 + sizeof header - 1);
    write_layout(&l, dir, &spec, three_ptrs, three_sizes);
    lm_layout_free(&l);
    expect_three(path_in(dir, "exact.safetensors"));

    /* It describes other tensors: our own header. */
    spec.n_tensors = 2;
    assert_int_equal(lm_format_safetensors.layout(&l, &spec, "exact.safetensors", &e), 0);
    assert_memory_equal(l.files[0].head + 8, "{\"w.one\"", 8);
    lm_layout_free(&l);
    struct lm_write_tensor reshaped[3];
    memcpy(reshaped, three, sizeof three);
    reshaped[0].shape[0] = 3;
    reshaped[0].shape[1] = 2;
    spec = (struct lm_write_spec){.tensors = reshaped, .n_tensors = 3, .exact_header = lm_span_str(header)};
    assert_int_equal(lm_format_safetensors.layout(&l, &spec, "exact.safetensors", &e), 0);
    assert_memory_equal(l.files[0].head + 8, "{\"w.one\"", 8);
    lm_layout_free(&l);
}

static void what_cannot_be_stored_is_refused(void **state)
{
    (void)state;
    static const struct {
        struct lm_write_tensor t[2];
        size_t n;
        const char *reason;
    } cases[] = {
        {{{"x", LM_Q4_0, 1, {32}}}, 1, "'x': safetensors cannot store Q4_0"},
        {{{"x", LM_F4, 1, {3}}}, 1, "not a whole number of bytes"},
        {{{"x", LM_U8, 1, {1}}, {"x", LM_U8, 1, {1}}}, 2, "two tensors to write have the name 'x'"},
        {{{"", LM_U8, 1, {1}}}, 1, "must be UTF-8 and not empty"},
        {{{"\xff", LM_U8, 1, {1}}}, 1, "must be UTF-8 and not empty"},
        {{{"x", LM_U8, 2, {1ull << 40, 1ull << 40}}}, 1, "overflows"},
        {{{"x", LM_U64, 1, {1ull << 62}}}, 1, "overflows"},
        {{{"x", LM_U8, 1, {1ull << 62}}, {"y", LM_U64, 1, {1ull << 60}}}, 2, NULL}, /* 2^62 + 2^63 fits */
        {{{"x", LM_U64, 1, {1ull << 60}}, {"y", LM_U64, 1, {1ull << 60}}}, 2, "together overflow"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct lm_write_spec spec = {.tensors = cases[i].t, .n_tensors = cases[i].n};
        struct lm_layout l;
        struct lm_err e = {0};
        int rc = lm_format_safetensors.layout(&l, &spec, "x.safetensors", &e);
        if ((rc == 0) != (cases[i].reason == NULL) || (rc < 0 && !strstr(e.text, cases[i].reason)))
            fail_msg("case %zu: %s", i, e.text);
        if (rc == 0)
            lm_layout_free(&l);
    }
}

/* ---- size */

enum { MANY = 100000 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void many_tensors_open_without_quadratic_work(void **state)
{
    (void)state;
    struct bytes header = {0}, file = {0};

    put_text(&header, "{");
    for (size_t i = 0; i < MANY; i++) { /* the last first: sorting has work to do */
        char entry[160];
        size_t begin = (MANY - 1 - i) * 2;
        snprintf(entry, sizeof entry, "%s\"model.layers.%zu.mlp.experts.%zu.down_proj.weight\":"
                 "{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[%zu,%zu]}", i ? "," : "", i / 512, i % 512, begin,
                 begin + 2);
        put_text(&header, entry);
    }
    put(&header, "}", 2);
    put_safetensors(&file, (char *)header.data, 2 * MANY);
    const char *path = path_in(dir, "many.safetensors");
    write_file(path, file.data, file.n);
    double begin = now();
    struct lm_model *m = open_ok(path);
    double seconds = now() - begin;
    print_message("%d tensors, header of %zu bytes: %.0f ms\n", MANY, header.n, seconds * 1e3);
    assert_int_equal(lm_model_n_tensors(m), MANY);
    assert_string_equal(lm_model_tensor(m, MANY - 1)->name, "model.layers.0.mlp.experts.0.down_proj.weight");
    assert_int_equal(lm_model_find(m, "model.layers.195.mlp.experts.159.down_proj.weight")->offset,
                     lm_model_tensor(m, 0)->offset);
    assert_true(seconds < 5); /* pairwise comparison of names takes minutes under the sanitizers */
    lm_model_close(m);
    bytes_free(&header);
    bytes_free(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_opens),
        cmocka_unit_test(every_dtype_is_read),
        cmocka_unit_test(values_are_converted),
        cmocka_unit_test(shards_are_one_model),
        cmocka_unit_test(folders_name_what_they_hold),
        cmocka_unit_test(sidecars_are_plain_names_beside_the_file),
        cmocka_unit_test(a_changed_source_is_noticed),
        cmocka_unit_test(headers_equal_the_reference_writers),
        cmocka_unit_test(types_and_names_are_sorted_and_escaped),
        cmocka_unit_test(a_split_model_is_written_with_its_index),
        cmocka_unit_test(one_file_comes_back),
        cmocka_unit_test(an_exact_header_is_reproduced),
        cmocka_unit_test(what_cannot_be_stored_is_refused),
        cmocka_unit_test(many_tensors_open_without_quadratic_work),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
