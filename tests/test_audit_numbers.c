/* Numbers of the audit: statistics, memory, engines. */
#include "tests/audit.h"

#include <math.h>

#include "convert/audit_parts.h"

static char here[64]; /* of one test */

static int begin(void **state)
{
    (void)state;
    tmp_make(here);
    return 0;
}
static int end(void **state)
{
    (void)state;
    tmp_remove(here);
    return 0;
}

static void one_tensor(const char *name, enum lm_dtype d, unsigned n_dims, const uint64_t *shape, const void *data)
{
    struct mut *x = calloc(1, sizeof *x);

    x->meta = lm_meta_new();
    mut_add(x, name, d, n_dims, shape, data);
    mut_write(x, "safetensors", here);
    mut_free(x);
}

static void test_statistics(void **state)
{
    enum { ROWS = 40, COLS = 10007, N = ROWS * COLS }; /* rows that are no multiple of anything, several pieces */
    float *v = calloc(N, sizeof *v);
    double sum = 0, sum2 = 0;
    uint64_t seed = 3, zeros = 0;

    (void)state;
    for (int i = 0; i < N; i++) {
        v[i] = i % 101 == 0 ? 0 : mut_noise(&seed);
        zeros += v[i] == 0;
    }
    for (int i = 0; i < COLS; i++) {
        v[3 * COLS + i] = 0;          /* row 3 of zeros */
        v[39 * COLS + i] = v[COLS + i]; /* the last equals the second */
    }
    v[5] = 77;
    v[6] = -99;
    v[7] = 1e-40f;
    zeros = 0;
    for (int i = 0; i < N; i++) {
        sum += (double)v[i];
        sum2 += (double)v[i] * (double)v[i];
        zeros += v[i] == 0;
    }
    one_tensor("w", LM_F32, 2, (const uint64_t[]){ROWS, COLS}, v);
    struct lm_audit *a = audit(here);
    const struct lm_stats *s = &a->tensors[0].stats;
    assert_int_equal(s->n, N);
    assert_int_equal(s->n_zero, zeros);
    assert_int_equal(s->n_subnormal, 1);
    assert_true(s->min == -99 && s->max == 77 && s->largest == 99);
    assert_true(fabs(lm_stats_mean(s) - sum / N) < 1e-6);
    assert_true(fabs(lm_stats_rms(s) - sqrt(sum2 / N)) < 1e-5);
    assert_true(fabs(lm_stats_std(s) - sqrt(sum2 / N - sum / N * (sum / N))) < 1e-5);
    assert_int_equal(s->n_rows, ROWS);
    assert_int_equal(s->n_zero_rows, 1);
    assert_int_equal(s->first_zero_row, 3);
    assert_int_equal(s->n_equal_rows, 1);
    assert_int_equal(s->first_equal_row, 39);
    assert_false(s->bf16_exact);
    lm_audit_free(a);
    free(v);
}

/* NaN and infinities are counted and kept out of the rest. */
static void test_statistics_of_the_finite(void **state)
{
    static const float v[6] = {1, NAN, -3, INFINITY, 2, -INFINITY};
    struct lm_audit *a;

    (void)state;
    one_tensor("v", LM_F32, 1, (const uint64_t[]){6}, v);
    a = audit(here);
    const struct lm_stats *s = &a->tensors[0].stats;
    assert_int_equal(s->n_nan, 1);
    assert_int_equal(s->n_inf, 2);
    assert_true(s->min == -3 && s->max == 2);
    assert_true(fabs(lm_stats_mean(s)) < 1e-12);
    lm_audit_free(a);
}

static void test_exactness(void **state)
{
    static const float bf16[4] = {1, 0.0078125f, -2.5f, 3e38f}, f16[4] = {1 + 1.0f / 1024, 6.2e-5f, 2, -65504};
    float v[4];
    struct lm_audit *a;

    (void)state;
    lm_dtype_info(LM_BF16)->from_f32(v, bf16, 4);
    uint8_t packed[8];
    lm_dtype_info(LM_BF16)->from_f32(packed, bf16, 4);
    lm_dtype_info(LM_BF16)->to_f32(v, packed, 4);
    one_tensor("v", LM_F32, 1, (const uint64_t[]){4}, v);
    a = audit(here);
    assert_true(a->tensors[0].stats.bf16_exact);
    assert_int_equal(a->tensors[0].stats.n_f16_over, 1);
    lm_audit_free(a);
    lm_dtype_info(LM_F16)->from_f32(packed, f16, 4);
    lm_dtype_info(LM_F16)->to_f32(v, packed, 4);
    one_tensor("v", LM_F32, 1, (const uint64_t[]){4}, v);
    a = audit(here);
    assert_true(a->tensors[0].stats.f16_exact);
    assert_false(a->tensors[0].stats.bf16_exact);
    lm_audit_free(a);
}

static void test_threads_and_machines_agree(void **state)
{
    struct lm_audit *a = audit_with(SAMPLE, &(struct lm_audit_options){.run = {.n_threads = 1}});
    struct lm_audit *b = audit_with(SAMPLE, &(struct lm_audit_options){.run = {.n_threads = 5}});

    (void)state;
    for (size_t i = 0; i < a->n_tensors; i++) {
        assert_int_equal(a->tensors[i].stats.hash, b->tensors[i].stats.hash);
        assert_int_equal(a->tensors[i].stats.n_zero, b->tensors[i].stats.n_zero);
        assert_true(fabs(lm_stats_rms(&a->tensors[i].stats) - lm_stats_rms(&b->tensors[i].stats)) < 1e-9);
    }
    lm_audit_free(a);
    lm_audit_free(b);
}

static void test_headers_only(void **state)
{
    struct lm_audit *a = audit_with(SAMPLE, &(struct lm_audit_options){.headers_only = true});

    (void)state;
    for (size_t i = 0; i < a->n_tensors; i++)
        assert_false(a->tensors[i].has_stats);
    assert_int_equal(a->n_findings, 0);
    assert_int_equal(a->n_params, 5245184);
    lm_audit_free(a);
}

/* ---- memory, engines */

static void test_memory(void **state)
{
    struct lm_audit_options o = {.ctx = 256, .batch = 2, .vram = 40000000, .headers_only = true};
    struct lm_audit *a = audit_with(SAMPLE, &o);
    const struct lm_memory *m = &a->memory;

    (void)state;
    assert_int_equal(m->kv_a_token, 2 * 4 * 4 * 32 * 2);
    assert_int_equal(m->rows[0].kv, m->kv_a_token * 256 * 2);
    assert_int_equal(m->rows[0].weights, a->n_bytes);
    assert_int_equal(m->rows[0].total, m->rows[0].weights + m->rows[0].kv + m->rows[0].buffers);
    assert_true(m->rows[0].fits);
    assert_true(m->rows[0].max_ctx > 256 && m->rows[0].max_ctx <= 512);
    lm_audit_free(a);
    o.vram = 1000000;
    o.kv = LM_Q8_0;
    a = audit_with(SAMPLE, &o);
    assert_false(a->memory.rows[0].fits);
    assert_int_equal(a->memory.rows[0].max_ctx, 0);
    assert_int_equal(a->memory.kv_a_token, 2 * 4 * 4 * 32 * 34 / 32);
    lm_audit_free(a);
    assert_int_equal(lm_card_bytes("RTX-4090"), UINT64_C(24) << 30);
    assert_int_equal(lm_card_bytes("nothing"), 0);
}

static enum lm_verdict verdict(const struct lm_audit *a, const char *engine)
{
    for (size_t i = 0; i < a->n_engines; i++)
        if (strcmp(a->engines[i].engine, engine) == 0)
            return a->engines[i].verdict;
    fail_msg("no engine %s", engine);
    return LM_UNKNOWN;
}

static void test_engines(void **state)
{
    struct mut *x;
    struct lm_audit *a = audit(SAMPLE);

    (void)state;
    assert_int_equal(verdict(a, "llama.cpp"), LM_REFUSES);
    assert_int_equal(verdict(a, "transformers"), LM_LOADS);
    lm_audit_free(a);
    convert(SAMPLE, path_in(here, "sample.gguf"), -1, NULL);
    a = audit(path_in(here, "sample.gguf"));
    assert_int_equal(verdict(a, "llama.cpp"), LM_LOADS);
    assert_int_equal(verdict(a, "transformers"), LM_LOADS_WITH);
    lm_audit_free(a);
    x = mut_load(LLAMA);
    mut_edit(x, "config.json", "LlamaForCausalLM", "SomethingForCausalLM");
    mut_write(x, "safetensors", here);
    a = audit(here);
    assert_int_equal(verdict(a, "vLLM"), LM_UNKNOWN);
    lm_audit_free(a);
    mut_free(x);
}

/* Every instruction set gives the same numbers, to the last bit. */
static void test_scans_agree(void **state)
{
    float x[LMC_SCAN_MAX], cols[3][LMC_SCAN_MAX];
    struct lmc_scan s[3];
    uint64_t seed = 11;

    (void)state;
    for (size_t n = 1; n <= LMC_SCAN_MAX; n = n * 3 + 1) {
        for (size_t i = 0; i < n; i++)
            x[i] = i % 7 == 0 ? 0 : mut_noise(&seed) * (i % 11 == 0 ? 1e-41f : 1);
        memset(s, 0, sizeof s);
        memset(cols, 0, sizeof cols);
        for (int k = 0; k < 3; k++)
            s[k].small = 0x7f800000;
        lmc_scan_portable(&s[0], x, n, cols[0]);
        memcpy(&s[1], &s[0], sizeof s[0]);
        memcpy(&s[2], &s[0], sizeof s[0]);
#if defined(__x86_64__)
        if (__builtin_cpu_supports("avx2")) {
            memset(&s[1], 0, sizeof s[1]);
            s[1].small = 0x7f800000;
            lmc_scan_avx2(&s[1], x, n, cols[1]);
        }
        if (__builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni")) {
            memset(&s[2], 0, sizeof s[2]);
            s[2].small = 0x7f800000;
            lmc_scan_avx512(&s[2], x, n, cols[2]);
        }
#endif
        assert_memory_equal(&s[0], &s[1], sizeof s[0]);
        assert_memory_equal(&s[0], &s[2], sizeof s[0]);
    }
}

int main(void)
{
#define C(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        C(test_statistics), C(test_statistics_of_the_finite), C(test_exactness), C(test_threads_and_machines_agree),
        C(test_headers_only), C(test_memory), C(test_engines), C(test_scans_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
