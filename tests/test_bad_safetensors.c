/* safetensors files and indexes with one defect each. Every one must be refused
 * with the reason that names the defect; S1 to S10 are kinds of bugs that other
 * readers had: hidden bytes, duplicate keys, paths in an index, and so on. */
#include "tests/files.h"

#define T(name, dtype, shape, begin, end) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" #begin "," #end "]}"

static const struct {
    const char *name, *header;
    size_t n_data;
    enum lm_code code;
    const char *reason;
} st_cases[] = {
    {"S1 hole before the first", "{" T("a", "U8", "4", 4, 8) "}", 8, LM_MALFORMED, "4 bytes before it belong to no tensor"},
    {"S1 hole between", "{" T("a", "U8", "4", 0, 4) "," T("b", "U8", "4", 6, 10) "}", 10, LM_MALFORMED,
     "'b' begins at 6, 2 bytes before it belong"},
    {"S1 bytes behind the last", "{" T("a", "U8", "4", 0, 4) "}", 9, LM_MALFORMED, "5 bytes after the last tensor"},
    {"S1 bytes without tensors", "{}", 1, LM_MALFORMED, "1 bytes after the last tensor"},
    {"S1 overlap", "{" T("a", "U8", "4", 0, 4) "," T("b", "U8", "4", 3, 7) "}", 7, LM_MALFORMED, "tensors overlap"},
    {"S1 the same bytes twice", "{" T("a", "U8", "4", 0, 4) "," T("b", "F32", "1", 0, 4) "}", 4, LM_MALFORMED,
     "tensors overlap"},
    {"S1 file cut short", "{" T("a", "U8", "9", 0, 9) "}", 8, LM_MALFORMED, "describes 9 bytes of tensor data, the file has 8"},
    {"S1 something behind the header", "{} x", 0, LM_MALFORMED, "something follows"},
    {"S1 a second object", "{}{}", 0, LM_MALFORMED, "something follows"},
    {"S2 tensor twice", "{" T("w", "U8", "4", 0, 4) "," T("w", "F32", "1", 0, 4) "}", 4, LM_MALFORMED,
     "key 'w' appears twice"},
    {"S2 tensor twice, escaped", "{" T("w", "U8", "4", 0, 4) "," T("\\u0077", "F32", "1", 0, 4) "}", 4, LM_MALFORMED,
     "key 'w' appears twice"},
    {"S2 dtype twice", "{\"w\":{\"dtype\":\"U8\",\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, LM_MALFORMED,
     "key 'dtype' appears twice"},
    {"S2 shape twice, escaped", "{\"w\":{\"dtype\":\"U8\",\"shape\":[1],\"\\u0073hape\":[1],\"data_offsets\":[0,1]}}", 1,
     LM_MALFORMED, "key 'shape' appears twice"},
    {"S2 metadata twice", "{\"__metadata__\":{},\"__metadata__\":{}}", 0, LM_MALFORMED, "'__metadata__' appears twice"},
    {"S2 metadata key twice", "{\"__metadata__\":{\"a\":\"1\",\"\\u0061\":\"2\"}}", 0, LM_MALFORMED, "key 'a' appears twice"},
    {"S4 shape and bytes differ", "{" T("a", "F32", "2,2", 0, 15) "}", 15, LM_MALFORMED,
     "'a' F32 [2, 2] takes 16 bytes, the file gives it 15"},
    {"S4 product wraps to 0", "{" T("a", "U8", "4294967296,4294967296", 0, 0) "}", 0, LM_MALFORMED,
     "product of its shape overflows"},
    {"S4 product wraps to 4", "{" T("a", "U8", "9223372036854775807,9223372036854775807,4", 0, 4) "}", 4, LM_MALFORMED,
     "product of its shape overflows"},
    {"S4 bytes wrap", "{" T("a", "F64", "2305843009213693953", 0, 8) "}", 8, LM_MALFORMED, "overflows 64 bits"},
    {"S4 a zero hides an overflow", "{" T("a", "U8", "4294967296,4294967296,0", 0, 0) "}", 0, LM_MALFORMED,
     "product of its shape overflows"},
    {"S4 negative size", "{" T("a", "U8", "-4", 0, 4) "}", 4, LM_MALFORMED, "'a': byte 28: a negative number"},
    {"S4 fraction", "{" T("a", "U8", "4.0", 0, 4) "}", 4, LM_MALFORMED, "a fraction or exponent"},
    {"S4 exponent", "{" T("a", "U8", "4e0", 0, 4) "}", 4, LM_MALFORMED, "a fraction or exponent"},
    {"S4 2^64 + 4", "{" T("a", "U8", "18446744073709551620", 0, 4) "}", 4, LM_MALFORMED, "an integer beyond 64 bits"},
    {"S4 offset 2^64", "{" T("a", "U8", "4", 0, 18446744073709551620) "}", 4, LM_MALFORMED, "an integer beyond 64 bits"},
    {"S4 offset negative", "{" T("a", "U8", "4", -4, 0) "}", 4, LM_MALFORMED, "a negative number"},
    {"S4 offset fraction", "{" T("a", "U8", "4", 0.0, 4) "}", 4, LM_MALFORMED, "a fraction or exponent"},
    {"S4 end before begin", "{" T("a", "U8", "4", 4, 0) "}", 4, LM_MALFORMED, "data_offsets [4, 0] end before they begin"},
    {"S4 size in quotes", "{" T("a", "U8", "\"4\"", 0, 4) "}", 4, LM_MALFORMED, "expected an integer"},
    {"S4 one offset", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4]}}", 4, LM_MALFORMED, "must be two numbers"},
    {"S4 three offsets", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4,4]}}", 4, LM_MALFORMED,
     "more than two numbers"},
    {"S4 nine dimensions", "{" T("a", "U8", "1,1,1,1,1,1,1,1,1", 0, 1) "}", 1, LM_LIMIT, "more than 8 dimensions"},
    {"S5 empty tensor inside another", "{" T("a", "U8", "4", 0, 4) "," T("b", "U8", "0", 2, 2) "}", 4, LM_MALFORMED,
     "tensors overlap"},
    {"S6 NUL in a name", "{" T("a\\u0000b", "U8", "4", 0, 4) "}", 4, LM_MALFORMED, "the name holds a NUL byte"},
    {"S6 NUL byte in the text", "{\"a", 0, LM_MALFORMED, "a string is not closed"},
    {"S6 NUL in a metadata key", "{\"__metadata__\":{\"a\\u0000\":\"\"}}", 0, LM_MALFORMED, "holds a NUL"},
    {"S6 empty name", "{" T("", "U8", "4", 0, 4) "}", 4, LM_MALFORMED, "empty name"},
    {"S7 leading space", " {" T("a", "U8", "4", 0, 4) "}", 4, LM_MALFORMED, "does not begin with '{'"},
    {"S7 leading newline", "\n{}", 0, LM_MALFORMED, "does not begin with '{'"},
    {"S7 an array", "[]", 0, LM_MALFORMED, "does not begin with '{'"},
    {"S8 odd number of F4", "{" T("a", "F4", "3", 0, 2) "}", 2, LM_MALFORMED, "not a whole number of bytes"},
    {"S8 F6 not whole", "{" T("a", "F6_E2M3", "6", 0, 5) "}", 5, LM_MALFORMED, "not a whole number of bytes"},
    {"S8 F4 counted as bytes", "{" T("a", "F4", "4", 0, 4) "}", 4, LM_MALFORMED, "takes 2 bytes, the file gives it 4"},
    {"unknown dtype", "{" T("a", "Q4_K", "4", 0, 4) "}", 4, LM_UNSUPPORTED, "dtype 'Q4_K' is not one of"},
    {"dtype in lower case", "{" T("a", "f32", "1", 0, 4) "}", 4, LM_UNSUPPORTED, "dtype 'f32' is not one of"},
    {"dtype missing", "{\"a\":{\"shape\":[4],\"data_offsets\":[0,4]}}", 4, LM_MALFORMED, "'a': key 'dtype' is missing"},
    {"shape missing", "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,4]}}", 4, LM_MALFORMED, "key 'shape' is missing"},
    {"offsets missing", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4]}}", 4, LM_MALFORMED, "key 'data_offsets' is missing"},
    {"unknown key", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"strides\":[1],\"data_offsets\":[0,1]}}", 1, LM_MALFORMED,
     "unknown key 'strides'"},
    {"tensor is a number", "{\"a\":1}", 0, LM_MALFORMED, "expected '{'"},
    {"metadata value is a number", "{\"__metadata__\":{\"a\":1}}", 0, LM_MALFORMED, "__metadata__ 'a': byte"},
    {"metadata value is nested", "{\"__metadata__\":{\"a\":{}}}", 0, LM_MALFORMED, "expected a string"},
    {"shape is nested", "{" T("a", "U8", "[[[[[[[[[[[1", 0, 4) "}", 4, LM_MALFORMED, "expected an integer"},
    {"not UTF-8", "{" T("a\xff", "U8", "4", 0, 4) "}", 4, LM_MALFORMED, "the text is not UTF-8"},
    {"half a surrogate pair", "{" T("a\\ud800", "U8", "4", 0, 4) "}", 4, LM_MALFORMED, "half of a surrogate pair"},
    {"text ends early", "{\"a\":{\"dtype\":\"U8\"", 0, LM_MALFORMED, "the text ends early"},
    {"comma missing", "{" T("a", "U8", "1", 0, 1) T("b", "U8", "1", 1, 2) "}", 2, LM_MALFORMED, "expected ',' or '}'"},
    {"comma too many", "{" T("a", "U8", "1", 0, 1) ",}", 1, LM_MALFORMED, "expected a string"},
};

static void bad_safetensors_files_are_refused(void **state)
{
    (void)state;
    const char *path = path_in(dir, "bad.safetensors");

    for (size_t i = 0; i < sizeof st_cases / sizeof st_cases[0]; i++) {
        struct bytes b = {0};
        put_safetensors(&b, st_cases[i].header, st_cases[i].n_data);
        write_file(path, b.data, b.n);
        bytes_free(&b);
        open_fails(path, st_cases[i].code, st_cases[i].reason);
    }
}

/* S3: the length in front of the header. */
static void bad_header_lengths_are_refused(void **state)
{
    (void)state;
    static const struct {
        uint64_t length;
        size_t n;
        const char *reason;
    } cases[] = {
        {2, 4, "only 4 bytes"},
        {100000001, 200, "header length 100000001 is over the limit of 100000000"},
        {UINT64_MAX, 200, "header length 18446744073709551615 is over the limit"},
        {UINT64_MAX - 7, 200, "is over the limit"},
        {100000000, 200, "the header of 100000000 bytes ends beyond the file of 200 bytes"},
        {193, 200, "the header of 193 bytes ends beyond the file of 200 bytes"},
        {0, 200, "the header does not begin with '{'"},
        {1, 200, "byte 1: the text ends early"},
    };
    const char *path = path_in(dir, "length.safetensors");

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct bytes b = {0};
        put_u64(&b, cases[i].length);
        put_text(&b, "{}");
        put_zeros(&b, 200);
        write_file(path, b.data, cases[i].n);
        bytes_free(&b);
        open_fails(path, LM_MALFORMED, cases[i].reason);
    }
}

/* S5: legal and accepted. */
static void empty_safetensors_tensors_open(void **state)
{
    (void)state;
    struct bytes b = {0};

    put_safetensors(&b, "{" T("a", "U8", "0", 0, 0) "," T("b", "F32", "1", 0, 4) "," T("c", "F32", "3,0", 4, 4) ","
                    T("d", "F4", "0", 4, 4) "}  ", 4);
    write_file(path_in(dir, "empty.safetensors"), b.data, b.n);
    struct lm_model *m = open_ok(path_in(dir, "empty.safetensors"));
    assert_int_equal(lm_model_n_tensors(m), 4);
    lm_model_close(m);
    bytes_free(&b);
    put_safetensors(&b, "{}", 0);
    write_file(path_in(dir, "none.safetensors"), b.data, b.n);
    m = open_ok(path_in(dir, "none.safetensors"));
    assert_int_equal(lm_model_n_tensors(m), 0);
    lm_model_close(m);
    bytes_free(&b);
}

/* S9 and the agreement of an index with its shards. s1 holds "a", s2 holds "b",
 * both holds both. */
static const struct {
    const char *name, *index;
    enum lm_code code;
    const char *reason;
} index_cases[] = {
    {"S9 parent folder", "{\"weight_map\":{\"a\":\"../s1.safetensors\"}}", LM_MALFORMED,
     "'a' is said to be in '../s1.safetensors', which is not a plain file name"},
    {"S9 absolute", "{\"weight_map\":{\"a\":\"/etc/passwd\"}}", LM_MALFORMED, "not a plain file name"},
    {"S9 subfolder", "{\"weight_map\":{\"a\":\"sub/s1.safetensors\"}}", LM_MALFORMED, "not a plain file name"},
    {"S9 backslash", "{\"weight_map\":{\"a\":\"..\\\\s1.safetensors\"}}", LM_MALFORMED, "not a plain file name"},
    {"S9 address", "{\"weight_map\":{\"a\":\"https:s1\"}}", LM_MALFORMED, "not a plain file name"},
    {"S9 two dots", "{\"weight_map\":{\"a\":\"..\"}}", LM_MALFORMED, "not a plain file name"},
    {"S9 hidden", "{\"weight_map\":{\"a\":\".s1.safetensors\"}}", LM_MALFORMED, "not a plain file name"},
    {"S9 empty", "{\"weight_map\":{\"a\":\"\"}}", LM_MALFORMED, "not a plain file name"},
    {"S9 NUL", "{\"weight_map\":{\"a\":\"s1.safetensors\\u0000x\"}}", LM_MALFORMED, "not a plain file name"},
    {"S9 a folder", "{\"weight_map\":{\"a\":\"folder\"}}", LM_USAGE, "shard folder"},
    {"S9 a pipe", "{\"weight_map\":{\"a\":\"pipe\"}}", LM_USAGE, "not a regular file"},
    {"S9 itself", "{\"weight_map\":{\"a\":\"x.safetensors.index.json\"}}", LM_MALFORMED, "not a safetensors file"},
    {"missing shard", "{\"weight_map\":{\"a\":\"s1.safetensors\",\"c\":\"s3.safetensors\"}}", LM_MISSING,
     "1 of 2 shards are missing: s3.safetensors"},
    {"missing tensor", "{\"weight_map\":{\"a\":\"s1.safetensors\",\"c\":\"s1.safetensors\"}}", LM_MISSING,
     "tensor 'c' is missing: s1.safetensors does not hold it"},
    {"extra tensor", "{\"weight_map\":{\"a\":\"both.safetensors\"}}", LM_MISMATCH,
     "tensor 'b' of both.safetensors is not in the weight_map"},
    {"tensor in two shards", "{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"both.safetensors\"}}", LM_MALFORMED,
     "tensor 'a' appears twice"},
    {"tensor in another shard", "{\"weight_map\":{\"a\":\"s2.safetensors\",\"b\":\"s1.safetensors\"}}", LM_MISMATCH,
     "tensor 'a' is in s1.safetensors, the weight_map says s2.safetensors"},
    {"tensor twice", "{\"weight_map\":{\"a\":\"s1.safetensors\",\"\\u0061\":\"s1.safetensors\"}}", LM_MALFORMED,
     "names tensor 'a' twice"},
    {"a pointer instead of a shard", "{\"weight_map\":{\"a\":\"lfs.safetensors\"}}", LM_UNSUPPORTED,
     "shard lfs.safetensors: this is a Git LFS pointer"},
    {"a GGUF shard", "{\"weight_map\":{\"a\":\"g.gguf\"}}", LM_MALFORMED, "shard g.gguf: not a safetensors file"},
    {"no weight_map", "{\"x\": \"\\\"weight_map\\\"\", \"weight_map \": {}}", LM_UNSUPPORTED, "JSON text without a weight_map"},
    {"empty weight_map", "{\"weight_map\":{}}", LM_MALFORMED, "weight_map is missing or empty"},
    {"weight_map twice", "{\"weight_map\":{\"a\":\"s1.safetensors\"},\"weight_map\":{}}", LM_MALFORMED, "a second weight_map"},
    {"weight_map is a list", "{\"weight_map\":[]}", LM_MALFORMED, "expected '{'"},
    {"file is a number", "{\"weight_map\":{\"a\":1}}", LM_MALFORMED, "expected a string"},
    {"text ends early", "{\"weight_map\":{\"a\":\"s1.safetensors\"}", LM_MALFORMED, "the text ends early"},
    {"deep metadata", "{\"weight_map\":{\"a\":\"s1.safetensors\"},\"m\":"
     "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", LM_MALFORMED, "deeper than 64 levels"},
};

static void bad_indexes_are_refused(void **state)
{
    (void)state;
    static const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n";
    const char *path = path_in(dir, "x.safetensors.index.json");
    struct bytes b = {0};

    put_safetensors(&b, "{" T("a", "U8", "1", 0, 1) "}", 1);
    write_file(path_in(dir, "s1.safetensors"), b.data, b.n);
    b.n = 0;
    put_safetensors(&b, "{" T("b", "U8", "1", 0, 1) "}", 1);
    write_file(path_in(dir, "s2.safetensors"), b.data, b.n);
    b.n = 0;
    put_safetensors(&b, "{" T("a", "U8", "1", 0, 1) "," T("b", "U8", "1", 1, 2) "}", 2);
    write_file(path_in(dir, "both.safetensors"), b.data, b.n);
    b.n = 0;
    put_gguf(&b, 0, 0);
    write_file(path_in(dir, "g.gguf"), b.data, b.n);
    bytes_free(&b);
    write_file(path_in(dir, "lfs.safetensors"), pointer, sizeof pointer - 1);
    assert_int_equal(mkdir(path_in(dir, "folder"), 0777), 0);
    assert_int_equal(mkfifo(path_in(dir, "pipe"), 0666), 0);
    for (size_t i = 0; i < sizeof index_cases / sizeof index_cases[0]; i++) {
        write_file(path, index_cases[i].index, strlen(index_cases[i].index));
        open_fails(path, index_cases[i].code, index_cases[i].reason);
    }
}

/* S10: names that collide under a fixed hash do not exist; what can be shown is
 * that many names with long common parts stay cheap. */
static void similar_names_stay_cheap(void **state)
{
    (void)state;
    enum { N = 20000, COMMON = 200 };
    struct bytes header = {0}, file = {0};
    char name[COMMON + 16];

    memset(name, 'x', sizeof name);
    put_text(&header, "{");
    for (size_t i = 0; i < N; i++) {
        char entry[400];
        snprintf(name + COMMON, 16, "%zu", i);
        snprintf(entry, sizeof entry, "%s\"%s\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}", i ? "," : "", name);
        put_text(&header, entry);
    }
    put(&header, "}", 2);
    put_safetensors(&file, (char *)header.data, 0);
    write_file(path_in(dir, "similar.safetensors"), file.data, file.n);
    struct lm_model *m = open_ok(path_in(dir, "similar.safetensors"));
    assert_int_equal(lm_model_n_tensors(m), N);
    assert_non_null(lm_model_find(m, name));
    lm_model_close(m);
    bytes_free(&header);
    bytes_free(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_safetensors_files_are_refused),
        cmocka_unit_test(bad_header_lengths_are_refused),
        cmocka_unit_test(empty_safetensors_tensors_open),
        cmocka_unit_test(bad_indexes_are_refused),
        cmocka_unit_test(similar_names_stay_cheap),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
