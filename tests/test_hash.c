/* Digests: the same model in every dress, another digest for any other bit. */
#include "tests/dress.h"

#include "convert/hash.h"
#include "convert/hash_canon.h"

#define LLAMA "tests/fixtures/models/tiny-llama"

static const struct lm_run_options two_threads = {.n_threads = 2};

static void model_digest(const char *path, char hex[65])
{
    struct lm_model *m = open_ok(path);
    struct lm_hash *h;
    struct lm_err e = {0};

    if (lm_hash_model(&h, m, &two_threads, &e) < 0)
        fail_msg("%s: %s", path, e.text);
    lm_digest_hex(&h->model, hex);
    lm_hash_free(h);
    lm_model_close(m);
}

static void same(const char *a, const char *b, bool expected)
{
    char x[65], y[65];

    model_digest(a, x);
    model_digest(b, y);
    if ((strcmp(x, y) == 0) != expected)
        fail_msg("%s and %s should %s: %s %s", a, b, expected ? "be equal" : "differ", x, y);
}

static void convert(const char *src, const char *dst, const char *format, int dtype, const char *ftype)
{
    struct lm_model *m = open_ok(src);
    struct lm_request r = {.to = lm_format_find(format), .dtype = dtype};
    struct lm_plan *p;
    struct lm_err e = {0};

    if (ftype) {
        r.quantize = true;
        r.ftype = lm_ftype_find(ftype);
    }
    if (lm_plan_make(&p, m, &r, &e) < 0 || lm_plan_run(p, dst, &two_threads, &e) < 0)
        fail_msg("%s -> %s: %s", src, dst, e.text);
    lm_plan_free(p);
    lm_model_close(m);
}

/* Every family in every container that has a place for it. */
static void test_container_and_widening(void **state)
{
    size_t equal = 0;

    (void)state;
    for (size_t i = 0; i < N_DRESS_MODELS; i++)
        for (size_t k = 0; k < N_DRESSES; k++) {
            char tmp[64];
            tmp_fast(tmp);
            const char *path = dress_make(dress_models[i], &dresses[k], tmp);
            if (path)
                same(dress_models[i], path, true);
            equal += path != NULL;
            tmp_remove(tmp);
        }
    print_message("%zu pairs equal\n", equal);
    assert_true(equal >= 9 * N_DRESS_MODELS);
}

/* Made by tests/hash_reference.py, which knows the README and not this library. */
static void test_as_the_readme_says(void **state)
{
    FILE *f = fopen("tests/fixtures/digests.txt", "rb");
    char want[65], path[256], got[65];
    size_t n = 0;

    (void)state;
    assert_non_null(f);
    for (; fscanf(f, "%64s %255s", want, path) == 2; n++) {
        model_digest(path, got);
        if (strcmp(want, got) != 0)
            fail_msg("%s: %s, the README makes it %s", path, got, want);
    }
    fclose(f);
    assert_true(n >= N_DRESS_MODELS);
}

/* Releases of which there is no Hugging Face folder, and Keras's own files. */
static void test_other_releases(void **state)
{
    static const char *const releases[] = {
        "tests/fixtures/containers/meta-2", "tests/fixtures/containers/meta-scaled",
        "tests/fixtures/containers/mistral-native", "tests/fixtures/hdf5/hub-gemma", "tests/fixtures/hdf5/hub-gemma2",
        "tests/fixtures/hdf5/hub-gpt2", "tests/fixtures/hdf5/hub-llama3", "tests/fixtures/hdf5/hub-mistral.keras",
        "tests/fixtures/hdf5/tf-gpt2"};
    char tmp[64];

    (void)state;
    for (size_t i = 0; i < sizeof releases / sizeof releases[0]; i++) {
        tmp_fast(tmp);
        same(releases[i], dress_make(releases[i], &dresses[0], tmp), true);
        same(releases[i], dress_make(releases[i], &dresses[5], tmp), true);
        tmp_remove(tmp);
    }
    same("tests/fixtures/containers/meta-2", "tests/fixtures/containers/meta-4", true);
    same("tests/fixtures/containers/meta-2", "tests/fixtures/containers/mistral-native", true);
    same("tests/fixtures/hdf5/hub-llama", "tests/fixtures/hdf5/hub-llama-sharded", true);
}

static void test_shards(void **state)
{
    char tmp[64];
    struct mut *x = mut_load(LLAMA);

    (void)state;
    same(LLAMA, "tests/fixtures/models/tiny-llama-sharded", true);
    tmp_fast(tmp);
    mut_write_split(x, "safetensors", tmp, "model.safetensors", 20000);
    same(LLAMA, tmp, true);
    mut_free(x);
    tmp_remove(tmp);
}

static void test_quantized_differs(void **state)
{
    char tmp[64];

    (void)state;
    tmp_fast(tmp);
    convert("samples/polish-5m", path_in(tmp, "q.gguf"), "gguf", -1, "Q8_0");
    same("samples/polish-5m", path_in(tmp, "q.gguf"), false);
    tmp_remove(tmp);
}

static void test_any_bit_counts(void **state)
{
    char tmp[64];

    (void)state;
    for (size_t i = 0; i < 8; i++) {
        struct mut *x = mut_load(LLAMA);
        struct mut_tensor *t = &x->t[i * x->n / 8];
        tmp_fast(tmp);
        t->data[(i * 977) % t->n_bytes] ^= (uint8_t)(1u << i);
        mut_write(x, "safetensors", tmp);
        same(LLAMA, tmp, false);
        mut_free(x);
        tmp_remove(tmp);
    }
}

/* In every family one bit of every kind of tensor, wherever the canonical form puts it. */
static void test_any_bit_of_any_family(void **state)
{
    size_t flipped = 0;

    (void)state;
    for (size_t i = 0; i < N_DRESS_MODELS - 1; i++) {
        struct mut *x = mut_load(dress_models[i]);
        char want[65], got[65], tmp[64];
        model_digest(dress_models[i], want);
        tmp_fast(tmp);
        for (size_t k = 0; k < x->n; k += 1 + x->n / 12) {
            struct mut_tensor *t = &x->t[k];
            size_t width = lm_dtype_bytes(t->dtype, 1), at = (k * 7919 % t->n_elems) * width + width - 1;
            if (strstr(t->name, ".attn.bias") || strstr(t->name, "inv_freq") || strstr(t->name, "masked_bias"))
                continue; /* not counted */
            t->data[at] ^= 0x02; /* the exponent: it survives the addition of 1 */
            mut_write(x, "safetensors", tmp);
            model_digest(tmp, got);
            if (strcmp(want, got) == 0)
                fail_msg("%s: a bit of %s does not count", dress_models[i], t->name);
            t->data[at] ^= 0x02;
            flipped++;
        }
        mut_write(x, "safetensors", tmp);
        model_digest(tmp, got);
        assert_string_equal(want, got);
        mut_free(x);
        tmp_remove(tmp);
    }
    print_message("%zu bits\n", flipped);
    assert_true(flipped > 300);
}

/* One expert wider than the others. */
static void test_experts_of_several_types(void **state)
{
    struct mut *x = mut_load("tests/fixtures/models/tiny-mixtral");
    char tmp[64];

    (void)state;
    tmp_fast(tmp);
    mut_cast(mut_find(x, "model.layers.0.block_sparse_moe.experts.1.w1.weight"), LM_F32);
    mut_cast(mut_find(x, "model.layers.0.block_sparse_moe.experts.2.w1.weight"), LM_F64);
    mut_write(x, "safetensors", tmp);
    same("tests/fixtures/models/tiny-mixtral", tmp, true);
    mut_set(mut_find(x, "model.layers.0.block_sparse_moe.experts.2.w1.weight"), 5, 0.33f);
    mut_write(x, "safetensors", tmp);
    same("tests/fixtures/models/tiny-mixtral", tmp, false);
    mut_free(x);
    tmp_remove(tmp);
}

/* An expert less: its fellows keep their own names, and all is counted still. */
static void test_incomplete_parts(void **state)
{
    static const char gone[] = "model.layers.1.block_sparse_moe.experts.0.w2.weight";
    struct mut *x = mut_load("tests/fixtures/models/tiny-mixtral");
    char tmp[64];

    (void)state;
    tmp_fast(tmp);
    mut_drop(x, gone);
    mut_write(x, "safetensors", tmp);
    struct lm_model *m = open_ok(tmp);
    struct lm_hash *h;
    struct lm_err e = {0};
    size_t own = 0, whole = 0;
    assert_int_equal(lm_hash_model(&h, m, &two_threads, &e), 0);
    for (size_t i = 0; i < h->n_tensors; i++) {
        own += strstr(h->tensors[i].name, "experts.") != NULL;
        whole += strstr(h->tensors[i].name, "_exps.") != NULL;
    }
    assert_int_equal(own, 3); /* of 4 experts */
    assert_int_equal(whole, 5); /* of 2 layers with 3 matrices */
    assert_int_equal(h->n_counted, h->n_tensors);
    lm_hash_free(h);
    lm_model_close(m);
    mut_free(x);
    tmp_remove(tmp);
}

static void test_order_in_file_does_not_count(void **state)
{
    struct mut *x = mut_load(LLAMA);
    char tmp[64];

    (void)state;
    tmp_fast(tmp);
    for (size_t i = 0; i < x->n / 2; i++) {
        struct mut_tensor t = x->t[i];
        x->t[i] = x->t[x->n - 1 - i];
        x->t[x->n - 1 - i] = t;
    }
    mut_write_split(x, "safetensors", tmp, "model.safetensors", 30000);
    same(LLAMA, tmp, true);
    mut_free(x);
    tmp_remove(tmp);
}

static void test_tie_written_out(void **state)
{
    struct mut *x = mut_load("tests/fixtures/models/tiny-llama-tied");
    const struct mut_tensor *t = mut_find(x, "model.embed_tokens.weight");
    char tmp[64];

    (void)state;
    tmp_fast(tmp);
    mut_add(x, "lm_head.weight", t->dtype, t->n_dims, t->shape, t->data);
    mut_write(x, "safetensors", tmp);
    same("tests/fixtures/models/tiny-llama-tied", tmp, true);
    mut_set(mut_find(x, "lm_head.weight"), 3, 0.5f);
    mut_write(x, "safetensors", tmp);
    same("tests/fixtures/models/tiny-llama-tied", tmp, false);
    mut_free(x);
    tmp_remove(tmp);
}

/* A model of one tensor of unknown architecture. */
static void one_tensor(const char *tmp, const char *format, enum lm_dtype d, unsigned n_dims, const uint64_t *shape,
                       const void *data)
{
    struct mut *x = calloc(1, sizeof *x);

    x->meta = lm_meta_new();
    mut_add(x, "w", d, n_dims, shape, data);
    mut_write(x, format, tmp);
    mut_free(x);
}

/* Computed from the rules with another implementation of SHA-256. */
static void test_known_answer(void **state)
{
    static const float v[3] = {1.0f, -2.5f, 0.1f};
    char tmp[64], hex[65];

    (void)state;
    tmp_fast(tmp);
    one_tensor(tmp, "safetensors", LM_F32, 1, (const uint64_t[]){3}, v);
    model_digest(tmp, hex);
    assert_string_equal(hex, "dccec477729f8b0e8c10f60b98d5f9602f3989358faf44e1be518973771eed37");
    one_tensor(tmp, "safetensors", LM_F32, 2, (const uint64_t[]){1, 2}, v);
    model_digest(tmp, hex);
    assert_string_equal(hex, "22efd2fe6994e38531bd084fec11cf4e84a82fe326315d0e4b1eda7958ee712d");
    tmp_remove(tmp);
}

static void test_every_float_type_widens(void **state)
{
    static const enum lm_dtype types[] = {LM_BF16, LM_F16, LM_F8_E4M3, LM_F8_E5M2, LM_F32};
    enum { N = 300000 }; /* more than a leaf */
    float *v = calloc(N, sizeof *v);
    double *wide = calloc(N, sizeof *wide);
    uint8_t *narrow = calloc(N, 4);
    uint64_t seed = 7;
    char a[64], b[64];

    (void)state;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        for (size_t k = 0; k < N; k++)
            v[k] = mut_noise(&seed);
        lm_dtype_info(types[i])->from_f32(narrow, v, N);
        lm_dtype_info(types[i])->to_f32(v, narrow, N);
        for (size_t k = 0; k < N; k++)
            wide[k] = (double)v[k];
        tmp_fast(a);
        tmp_fast(b);
        one_tensor(a, "safetensors", types[i], 1, (const uint64_t[]){N}, narrow);
        one_tensor(b, "safetensors", LM_F64, 1, (const uint64_t[]){N}, wide);
        same(a, b, true);
        one_tensor(b, "gguf", LM_F32, 1, (const uint64_t[]){N}, v);
        tmp_remove(b);
        tmp_fast(b);
        one_tensor(b, "gguf", LM_F32, 1, (const uint64_t[]){N}, v);
        same(a, b, true);
        tmp_remove(b);
        tmp_fast(b);
        wide[N - 1] = wide[N - 1] * (1 + 1e-15) + 1e-300; /* no f32 any more */
        one_tensor(b, "safetensors", LM_F64, 1, (const uint64_t[]){N}, wide);
        same(a, b, false);
        tmp_remove(a);
        tmp_remove(b);
    }
    free(v);
    free(wide);
    free(narrow);
}

static void encoded_as(enum lm_dtype d, const void *raw, size_t n, enum lm_dtype expected, const void *bytes, size_t size)
{
    uint8_t scratch[LMC_ENCODE_ROOM(16)] __attribute__((aligned(8)));
    const uint8_t *out;
    enum lm_dtype encoding;

    assert_int_equal(lmc_canon_encode(d, raw, n, scratch, &out, &encoding), size);
    assert_int_equal(encoding, expected);
    assert_memory_equal(out, bytes, size);
}

static void test_encoding(void **state)
{
    static const uint32_t nans[2] = {0xffc12345, 0x3f800000};
    static const uint16_t nans16[2] = {0x7fc0, 0x3f80}, bf_nans[2] = {0xff81, 0x3f80};
    static const float half = 1.0f + 1.0f / 1024, single = 0.1f;
    static const uint16_t half16 = 0x3c01;
    static const double zero = -0.0, tiny = 1e-310;
    static const uint16_t zero16 = 0x8000;
    static const uint64_t f64_nan[2] = {UINT64_C(0xfff0000000000001), UINT64_C(0x3ff0000000000001)};
    static const uint64_t f64_out[2] = {UINT64_C(0x7ff8000000000000), UINT64_C(0x3ff0000000000001)};

    (void)state;
    encoded_as(LM_F32, nans, 2, LM_BF16, nans16, 4);
    encoded_as(LM_BF16, bf_nans, 2, LM_BF16, nans16, 4);
    encoded_as(LM_F32, &half, 1, LM_F16, &half16, 2);
    encoded_as(LM_F16, &half16, 1, LM_F16, &half16, 2);
    encoded_as(LM_F32, &single, 1, LM_F32, &single, 4);
    encoded_as(LM_F64, &zero, 1, LM_BF16, &zero16, 2);
    encoded_as(LM_F64, &tiny, 1, LM_F64, &tiny, 8);
    encoded_as(LM_F64, f64_nan, 2, LM_F64, f64_out, 16);
    encoded_as(LM_I32, nans, 2, LM_I32, nans, 8);
}

static void test_big_endian_gguf(void **state)
{
    static const float v[4] = {0.5f, 0.1f, -3, 1e9f};
    struct bytes b = {0};
    char tmp[64], little[65], big[65];

    (void)state;
    tmp_fast(tmp);
    one_tensor(tmp, "gguf", LM_F32, 1, (const uint64_t[]){4}, v);
    model_digest(path_in(tmp, "model.gguf"), little);
    put_text(&b, "GGUF");
    for (uint64_t i = 0; i < 5; i++) { /* version, then n_tensors and n_kv as two words each */
        static const uint32_t words[5] = {3, 0, 1, 0, 0};
        put_u32(&b, __builtin_bswap32(words[i]));
    }
    put_u64(&b, __builtin_bswap64(1));
    put_text(&b, "w");
    put_u32(&b, __builtin_bswap32(1));
    put_u64(&b, __builtin_bswap64(4));
    put_u32(&b, 0);
    put_u64(&b, 0);
    pad_to(&b, 32);
    for (int i = 0; i < 4; i++) {
        uint32_t u;
        memcpy(&u, &v[i], 4);
        put_u32(&b, __builtin_bswap32(u));
    }
    write_file(path_in(tmp, "big.gguf"), b.data, b.n);
    model_digest(path_in(tmp, "big.gguf"), big);
    assert_string_equal(little, big);
    bytes_free(&b);
    tmp_remove(tmp);
}

static void test_threads_do_not_count(void **state)
{
    struct lm_model *m = open_ok("samples/polish-5m");
    struct lm_hash *a, *b;
    struct lm_err e = {0};

    (void)state;
    assert_int_equal(lm_hash_model(&a, m, &(struct lm_run_options){.n_threads = 1}, &e), 0);
    assert_int_equal(lm_hash_model(&b, m, &(struct lm_run_options){.n_threads = 7}, &e), 0);
    assert_true(lm_digest_eq(&a->model, &b->model));
    assert_int_equal(a->n_counted, lm_model_n_tensors(m));
    lm_hash_free(a);
    lm_hash_free(b);
    lm_model_close(m);
}

static void test_stop(void **state)
{
    struct lm_model *m = open_ok("samples/polish-5m");
    volatile int stop = 1;
    struct lm_hash *h = NULL;
    struct lm_err e = {0};

    (void)state;
    assert_int_equal(lm_hash_model(&h, m, &(struct lm_run_options){.stop = &stop}, &e), -1);
    assert_int_equal(e.code, LM_INTERRUPTED);
    assert_null(h);
    lm_model_close(m);
}

static void test_hex(void **state)
{
    struct lm_digest d, back;
    char hex[65];

    (void)state;
    for (int i = 0; i < 32; i++)
        d.byte[i] = (uint8_t)(i * 37);
    assert_true(lm_digest_parse(&back, lm_digest_hex(&d, hex)));
    assert_true(lm_digest_eq(&d, &back));
    assert_int_equal(strlen(hex), 64);
    hex[63] = 'g';
    assert_false(lm_digest_parse(&back, hex));
    assert_false(lm_digest_parse(&back, "00"));
    assert_false(lm_digest_parse(&back, "00000000000000000000000000000000000000000000000000000000000000000"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_container_and_widening), cmocka_unit_test(test_other_releases),
        cmocka_unit_test(test_as_the_readme_says),
        cmocka_unit_test(test_shards),                 cmocka_unit_test(test_any_bit_of_any_family),
        cmocka_unit_test(test_experts_of_several_types), cmocka_unit_test(test_incomplete_parts),
        cmocka_unit_test(test_quantized_differs),      cmocka_unit_test(test_any_bit_counts),
        cmocka_unit_test(test_order_in_file_does_not_count), cmocka_unit_test(test_tie_written_out),
        cmocka_unit_test(test_known_answer),           cmocka_unit_test(test_every_float_type_widens),
        cmocka_unit_test(test_encoding),               cmocka_unit_test(test_big_endian_gguf),
        cmocka_unit_test(test_threads_do_not_count),   cmocka_unit_test(test_stop),
        cmocka_unit_test(test_hex),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
