/* Files that are no model at all are recognised; then every prefix, every
 * flipped bit and every field with boundary values of sound files. */
#include "tests/files.h"

#include <sys/mman.h>

/* ---- files that are something else */

/* 257 bytes, the last of them of the checksum's field, then the magic. */
#define TEN "model/aaaa"
#define FIFTY TEN TEN TEN TEN TEN
static const char tar[] = FIFTY FIFTY FIFTY FIFTY FIFTY "0000000ustar\0" "00";

#define BYTES(s) s, sizeof s - 1
static const struct {
    const char *file;
    const char *bytes;
    size_t n;
    enum lm_code code;
    const char *reason;
} foreign[] = {
    {"x.safetensors", BYTES(""), LM_UNSUPPORTED, "this is an empty file"},
    {"x.gguf", BYTES(""), LM_UNSUPPORTED, "this is an empty file"},
    {"x.safetensors", BYTES("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"), LM_UNSUPPORTED,
     "Git LFS pointer of"},
    {"x.bin", BYTES("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 14483464192\n"), LM_UNSUPPORTED,
     "the real file of 14483464192 bytes"},
    {"x.safetensors", BYTES("{\"error\":\"Repository not found\"}"), LM_UNSUPPORTED, "a server's error message"},
    {"x.index", BYTES("anything at all, then the footer\x57\xfb\x80\x8b\x24\x75\x47\xdb"), LM_UNSUPPORTED,
     "the index of a TensorFlow checkpoint"},
    {"saved_model.pb", BYTES("\x08\x01\x12\x80\x20" "graphgraphgraph"), LM_UNSUPPORTED, "SavedModel"},
    {"x.mlmodel", BYTES("\x08\x04\x12\x10\x0a\x0c" "descriptiondescription"), LM_UNSUPPORTED, "a Core ML model"},
    {"flax_model.msgpack", BYTES("\x81\xa6params\x82\xa5" "dense\x81\xa6kernel"), LM_UNSUPPORTED, "a Flax checkpoint"},
    {"x.xml", BYTES("<?xml version=\"1.0\"?>\n<net name=\"m\" version=\"11\">"), LM_UNSUPPORTED, "an OpenVINO model"},
    {"x.tar.xz", BYTES("\xfd" "7zXZ\0\0\4"), LM_UNSUPPORTED, "an xz archive"},
    {"x.gguf", BYTES("<!DOCTYPE html>\n<html>"), LM_UNSUPPORTED, "a web page"},
    {"x.safetensors", BYTES("\n <HTML><body>"), LM_UNSUPPORTED, "a web page"},
    {"x.gguf", BYTES("<?xml version=\"1.0\"?><Error>AccessDenied</Error>"), LM_UNSUPPORTED, "a web page"},
    {"x.bin", BYTES("PK\3\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x10\0\0\0archive/data.pkl"), LM_MALFORMED,
     "the zip's directory, which is at its end, is missing"},
    {"x.npz", BYTES("PK\3\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\5\0\0\0a.npy"), LM_MALFORMED, "the zip's directory"},
    {"x.keras", BYTES("PK\3\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\5\0\0\0model.weights.h5"), LM_MALFORMED, "the zip's directory"},
    {"x.zip", BYTES("PK\3\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\5\0\0\0a.txt"), LM_UNSUPPORTED, "a zip archive"},
    {"x.pth", BYTES("\x80\x02\x8a\x0al\xfc\x9c" "F\xf9 j\xa8P\x19.\x80\x02"), LM_MALFORMED, "cut short"},
    {"x.pkl", BYTES("\x80\x04\x95\x10\0\0\0\0\0\0\0"), LM_UNSUPPORTED, "a Python pickle"},
    {"x.npy", BYTES("\x93NUMPY\1\0v\0{'descr'"), LM_MALFORMED, "the array's header is cut short"},
    {"x.onnx", BYTES("\x08\x07\x12\x07pytorch\x1a\x05" "2.0.0:\0\0"), LM_UNSUPPORTED, "an ONNX model"},
    {"x.tflite", BYTES("\x1c\0\0\0TFL3\0\0\0\0"), LM_UNSUPPORTED, "a TensorFlow Lite model"},
    {"x.bin", BYTES("lmgg\0\0\0\0"), LM_MALFORMED, "(magic 'ggml'): the file ends inside the header"},
    {"x.bin", BYTES("fmgg\1\0\0\0"), LM_MALFORMED, "(magic 'ggmf'): the file ends inside the header"},
    {"x.gguf", BYTES("tjgg\3\0\0\0"), LM_MALFORMED, "(magic 'ggjt'): the file ends inside the header"},
    {"x.bin", BYTES("algg\1\0\0\0"), LM_UNSUPPORTED, "magic 'ggla'"},
    {"x.gguf", BYTES("FUGG\0\0\0\3"), LM_UNSUPPORTED, "magic reversed"},
    {"x.bin", BYTES("24ka\1\0\0\0"), LM_MALFORMED, "llama2.c header: cut short"},
    {"x.gz", BYTES("\x1f\x8b\x08\0"), LM_UNSUPPORTED, "gzip"},
    {"x.tar", tar, sizeof tar - 1, LM_UNSUPPORTED, "a tar archive; unpack it first"},
    {"x.zst", BYTES("\x28\xb5\x2f\xfd\0\0"), LM_UNSUPPORTED, "Zstandard"},
    {"config.json", BYTES("{\"model_type\": \"llama\"}"), LM_UNSUPPORTED, "JSON text without a weight_map"},
    {"tokenizer.model", BYTES("\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02\n\x0c"), LM_UNSUPPORTED, "a SentencePiece tokenizer"},
    {"x.txt", BYTES("hello, this is no model at all"), LM_UNSUPPORTED, "not a model in a known format"},
    {"x.gguf", BYTES("hello, this is no model at all"), LM_MALFORMED, "does not begin with 'GGUF'"},
    {"x.safetensors", BYTES("hello, this is no model at all"), LM_MALFORMED, "is over the limit"},
};

static void other_files_are_recognised(void **state)
{
    (void)state;

    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++) {
        const char *path = path_in(dir, foreign[i].file);
        write_file(path, foreign[i].bytes, foreign[i].n);
        open_fails(path, foreign[i].code, foreign[i].reason);
    }
    open_fails(path_in(dir, "nowhere"), LM_MISSING, "no such file");
    open_fails("/dev/null", LM_USAGE, "not a regular file");
}

/* ---- files that are not whole, and folders that are not */

static void copy_of(const char *from, const char *to, off_t less)
{
    struct bytes b = {0};
    struct stat st;
    int fd = open(from, O_RDONLY);

    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    put_zeros(&b, (size_t)st.st_size + 64);
    assert_int_equal(read(fd, b.data, (size_t)st.st_size), st.st_size);
    close(fd);
    write_file(to, b.data, (size_t)(st.st_size - less));
    bytes_free(&b);
}

/* How much is missing and from which tensor on; how much is too much. */
static void what_is_missing_is_said(void **state)
{
    (void)state;
    struct bytes b = {0};
    const char *path = path_in(dir, "cut.safetensors");

    copy_of("tests/fixtures/models/tiny-llama/model.safetensors", path, 100);
    open_fails(path, LM_MALFORMED, "100 bytes are missing, from tensor 'model.norm.weight' on (1 of 21 tensors are not whole)");
    copy_of("tests/fixtures/models/tiny-llama/model.safetensors", path, -64);
    open_fails(path, LM_MALFORMED, "64 bytes after the last tensor belong to no tensor");
    put_gguf(&b, 3, 0);
    put_gguf_tensor(&b, "a", 1, 16, 0, 0, 0);
    put_gguf_tensor(&b, "b", 1, 16, 0, 0, 64);
    put_gguf_tensor(&b, "c", 1, 16, 0, 0, 128);
    pad_to(&b, 32);
    size_t head = b.n;
    put_zeros(&b, 192 + 100);
    path = path_in(dir, "cut.gguf");
    write_file(path, b.data, head + 100);
    open_fails(path, LM_MALFORMED, "tensor 'b' and 1 more end beyond the file");
    open_fails(path, LM_MALFORMED, "92 bytes are missing, it is cut short");
    write_file(path, b.data, head + 191);
    open_fails(path, LM_MALFORMED, "tensor 'c': its data (64 bytes");
    write_file(path, b.data, b.n);
    struct lm_model *m = open_ok(path);
    assert_int_equal(lm_model_n_left_out(m), 1);
    assert_non_null(strstr(lm_model_left_out(m, 0), "100 bytes after the last tensor belong to no tensor"));
    lm_model_close(m);
    write_file(path, b.data, head + 192 + 31); /* padding */
    m = open_ok(path);
    assert_int_equal(lm_model_n_left_out(m), 0);
    lm_model_close(m);
    bytes_free(&b);
}

static void missing_shards_are_named(void **state)
{
    (void)state;
    char from[128], folder[128];

    snprintf(folder, sizeof folder, "%s/half", dir);
    mkdir(folder, 0777);
    for (int i = 1; i <= 4; i += 2) {
        char name[64];
        snprintf(name, sizeof name, "model-0000%d-of-00004.safetensors", i);
        snprintf(from, sizeof from, "tests/fixtures/models/tiny-llama-sharded/%s", name);
        copy_of(from, path_in(folder, name), 0);
    }
    open_fails(folder, LM_USAGE, "no *.safetensors.index.json that says they are one model");
    copy_of("tests/fixtures/models/tiny-llama-sharded/model.safetensors.index.json",
            path_in(folder, "model.safetensors.index.json"), 0);
    open_fails(folder, LM_MISSING,
               "2 of 4 shards are missing: model-00002-of-00004.safetensors, model-00004-of-00004.safetensors");
    struct bytes b = {0};
    put_gguf(&b, 0, 2);
    put_key(&b, "split.no", LM_META_U16);
    put_u16(&b, 1);
    put_key(&b, "split.count", LM_META_U16);
    put_u16(&b, 3);
    write_file(path_in(dir, "m-00002-of-00003.gguf"), b.data, b.n);
    open_fails(path_in(dir, "m-00002-of-00003.gguf"), LM_MISSING,
               "2 of 3 parts are missing: m-00001-of-00003.gguf, m-00003-of-00003.gguf");
    bytes_free(&b);
}

/* ---- every prefix, every bit */

#define T(name, dtype, shape, begin, end) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" #begin "," #end "]}"

static void sound_gguf(struct bytes *b)
{
    put_gguf(b, 3, 4);
    put_key(b, "general.alignment", LM_META_U32);
    put_u32(b, 16);
    put_key(b, "tokens", LM_META_ARRAY);
    put_u32(b, LM_META_STR);
    put_u64(b, 2);
    put_str(b, "a");
    put_str(b, "bc");
    put_key(b, "scores", LM_META_ARRAY);
    put_u32(b, LM_META_F32);
    put_u64(b, 2);
    put_zeros(b, 8);
    put_key(b, "flag", LM_META_BOOL);
    put_u8(b, 1);
    put_gguf_tensor(b, "one", 2, 4, 2, 0, 0);
    put_gguf_tensor(b, "two", 1, 32, 0, 8, 32);
    put_gguf_tensor(b, "three", 1, 3, 0, 30, 80);
    pad_to(b, 16);
    put_zeros(b, 86);
}

static void sound_gguf_v1_big(struct bytes *b)
{
    static const uint8_t head[] = "GGUF\0\0\0\1\0\0\0\1\0\0\0\1" "\0\0\0\1k\0\0\0\x09\0\0\0\1\0\0\0\3abc"
                                  "\0\0\0\1t\0\0\0\1\0\0\0\4\0\0\0\1\0\0\0\0\0\0\0\0";
    put(b, head, sizeof head - 1);
    pad_to(b, 32);
    put_zeros(b, 8);
}

static void sound_safetensors(struct bytes *b)
{
    put_safetensors(b, "{\"__metadata__\":{\"format\":\"pt\"}," T("a\\u0041", "F32", "2,2", 0, 16) ","
                    T("b", "BF16", "3", 16, 22) "," T("c", "U8", "0", 22, 22) "," T("d", "F4", "4", 22, 24) "}   ", 24);
}

static const struct {
    const char *name;
    void (*build)(struct bytes *b);
} sound[] = {{"GGUF", sound_gguf}, {"GGUF 1, big-endian", sound_gguf_v1_big}, {"safetensors", sound_safetensors}};

/* Everything the model promises is touched, so that a sanitizer or a SIGBUS
 * would tell. */
static uint64_t touch(struct lm_model *m)
{
    uint64_t sum = 0;
    float values[64];
    struct lm_err e;
    const char *key;

    for (size_t i = 0; i < lm_model_n_tensors(m); i++) {
        const struct lm_tensor *t = lm_model_tensor(m, i);
        for (uint64_t j = 0; j < t->n_bytes; j++)
            sum += t->data[j];
        if (t->n_elems <= 64)
            lm_tensor_to_f32(t, 0, t->n_elems, values, &e);
        assert_ptr_equal(lm_model_find(m, t->name), t);
    }
    for (size_t i = 0; i < lm_meta_count(lm_model_meta(m)); i++) {
        const struct lm_meta_value *v = lm_meta_at(lm_model_meta(m), i, &key);
        sum += strlen(key);
        for (size_t j = 0; v->type == LM_META_STR && j < v->str.size; j++)
            sum += v->str.data[j];
        for (size_t j = 0; v->type == LM_META_ARRAY && j < v->n * lm_meta_width(v->elem); j++)
            sum += ((const uint8_t *)v->data)[j];
        for (size_t j = 0; v->type == LM_META_ARRAY && v->elem == LM_META_STR && j < v->n; j++)
            sum += v->strs[j].size ? v->strs[j].data[v->strs[j].size - 1] : 0;
    }
    return sum;
}

static volatile uint64_t touched;

/* Opens or is refused with a sentence; true when it opened. The file lives in
 * memory: there are tens of thousands. */
static bool opens_or_is_refused(const struct bytes *b)
{
    int fd = memfd_create("test", MFD_CLOEXEC);
    struct lm_model *m;
    struct lm_err e = {0};
    char path[64];

    assert_true(fd >= 0);
    assert_int_equal(write(fd, b->data, b->n), b->n);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int rc = lm_model_open(&m, path, &e);
    close(fd);
    if (rc < 0) {
        assert_true(e.code != LM_OK && e.text[0]);
        return false;
    }
    touched += touch(m);
    lm_model_close(m);
    return true;
}

static void every_prefix_is_refused(void **state)
{
    (void)state;

    for (size_t f = 0; f < sizeof sound / sizeof sound[0]; f++) {
        struct bytes b = {0};
        sound[f].build(&b);
        assert_true(opens_or_is_refused(&b));
        size_t whole = b.n;
        for (b.n = 0; b.n < whole; b.n++)
            if (opens_or_is_refused(&b))
                fail_msg("%s: the first %zu of %zu bytes open", sound[f].name, b.n, whole);
        bytes_free(&b);
    }
}

static void every_flipped_bit_is_survived(void **state)
{
    (void)state;

    for (size_t f = 0; f < sizeof sound / sizeof sound[0]; f++) {
        struct bytes b = {0};
        size_t n_refused = 0;
        sound[f].build(&b);
        for (size_t bit = 0; bit < 8 * b.n; bit++) {
            b.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
            n_refused += !opens_or_is_refused(&b);
            b.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        assert_true(n_refused > b.n); /* the structure is most of these files */
        bytes_free(&b);
    }
}

/* Every aligned 4 and 8 bytes of the head set to values that break arithmetic. */
static void every_field_with_boundary_values_is_survived(void **state)
{
    (void)state;
    static const uint64_t values[] = {0, 1, 2, 127, 255, 1ull << 15, 1ull << 16, (1ull << 31) - 1, 1ull << 31,
                                      (1ull << 32) - 1, 1ull << 32, 1ull << 53, 1ull << 61, 1ull << 62,
                                      (1ull << 63) - 1, 1ull << 63, UINT64_MAX - 7, UINT64_MAX};

    for (size_t f = 0; f < sizeof sound / sizeof sound[0]; f++) {
        struct bytes b = {0};
        sound[f].build(&b);
        for (size_t at = 4; at + 8 <= b.n; at++) {
            uint8_t saved[8];
            memcpy(saved, b.data + at, 8);
            for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
                lm_store_u64le(b.data + at, values[v]);
                opens_or_is_refused(&b);
                memcpy(b.data + at, saved, 8);
                lm_store_u32le(b.data + at, (uint32_t)values[v]);
                opens_or_is_refused(&b);
                memcpy(b.data + at, saved, 8);
            }
        }
        bytes_free(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(other_files_are_recognised),
        cmocka_unit_test(what_is_missing_is_said),
        cmocka_unit_test(missing_shards_are_named),
        cmocka_unit_test(every_prefix_is_refused),
        cmocka_unit_test(every_flipped_bit_is_survived),
        cmocka_unit_test(every_field_with_boundary_values_is_survived),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
