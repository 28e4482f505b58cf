/* The codebook types IQ1, IQ2 and IQ3: known answers from ggml, with and without
 * importance, and what must hold between the paths. */
#include <math.h>
#include <pthread.h>
#include <zlib.h>

#include "libmodel/dtype/grid.h"
#include "tests/quant.h"

enum { N_TYPES = 7, BLOCK = 256, ROW = 512 };

static const enum lm_dtype types[N_TYPES] = {LM_IQ1_S, LM_IQ1_M, LM_IQ2_XXS, LM_IQ2_XS, LM_IQ2_S, LM_IQ3_XXS, LM_IQ3_S};

static uint64_t random_state;

static uint64_t random_bits(void)
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static float gaussian(void)
{
    double u = ((double)(random_bits() >> 11) + 0.5) * 0x1p-53, v = (double)(random_bits() >> 11) * 0x1p-53;

    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

static void *allocate(size_t n)
{
    void *p = malloc(n);

    assert_non_null(p);
    return p;
}

static void *read_suffixed(enum lm_dtype d, const char *suffix, size_t *size)
{
    char name[48];

    snprintf(name, sizeof name, "%s.%s", lm_dtype_name(d), suffix);
    return read_fixture(name, size);
}

/* ---- the codebooks */

/* Against slips in the tables: the checksums are of ggml's numbers. */
static void test_codebooks(void **state)
{
    static const struct {
        const uint16_t *points;
        int n;
        uLong crc;
    } books[] = {
        {lmi_iq2_xxs_points, 256, 0xd01c53f2}, {lmi_iq2_xs_points, 512, 0x622e679a},  {lmi_iq2_s_points, 1024, 0xf8ad4e5e},
        {lmi_iq1_points, 2048, 0xa0911588},    {lmi_iq3_xxs_points, 256, 0xf68a6a07}, {lmi_iq3_s_points, 512, 0xa43c1089},
    };

    (void)state;
    for (size_t i = 0; i < sizeof books / sizeof *books; i++) {
        uLong crc = crc32(0, NULL, 0);
        for (int j = 0; j < books[i].n; j++) {
            const uint8_t bytes[2] = {(uint8_t)books[i].points[j], (uint8_t)(books[i].points[j] >> 8)};
            crc = crc32(crc, bytes, 2);
        }
        assert_true(crc == books[i].crc);
    }
}

/* ---- known answers */

static void expect_bytes(const struct lm_dtype_info *info, const char *isa, const uint8_t *got, const uint8_t *want,
                         size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (got[i] != want[i])
            fail_msg("%s, %s: byte %zu of block %zu is %02x, ggml's %02x", info->name, isa, i % info->block_bytes,
                     i / info->block_bytes, got[i], want[i]);
}

static void test_blocks_equal_ggml(void **state)
{
    size_t n_x, n_w, size;
    float *x = read_fixture("input.f32", &n_x), *w = read_fixture("iq.weights.f32", &n_w);
    size_t n_rows = n_x / 4 / ROW;

    (void)state;
    assert_int_equal(n_w, ROW * 4);
    for (int k = 0; k < N_TYPES * N_ISAS; k++) {
        const struct lm_dtype_info *info = lm_dtype_info(types[k / N_ISAS]);
        const char *isa = isas[k % N_ISAS];
        if (lm_dtype_set_isa(isa) != 0)
            continue;
        uint8_t *want = read_suffixed(types[k / N_ISAS], "weighted.bin", &size), *got = allocate(size + BLOCK);
        assert_int_equal(size, n_rows * ROW / BLOCK * info->block_bytes);
        info->from_f32_weighted(got, x, w, ROW, n_rows);
        expect_bytes(info, isa, got, want, size);
        free(want);
        if (!info->needs_importance) {
            want = read_suffixed(types[k / N_ISAS], "bin", &size);
            assert_int_equal(size, n_x / 4 / BLOCK * info->block_bytes);
            info->from_f32(got, x, n_x / 4);
            expect_bytes(info, isa, got, want, size);
            free(want);
        }
        free(got);
    }
    free(x);
    free(w);
}

static void test_values_equal_ggml(void **state)
{
    size_t n_blocks, size;

    (void)state;
    for (int k = 0; k < N_TYPES * N_ISAS; k++) {
        enum lm_dtype d = types[k / N_ISAS];
        if (lm_dtype_set_isa(isas[k % N_ISAS]) != 0)
            continue;
        uint8_t *blocks = read_suffixed(d, "random.bin", &n_blocks);
        float *want = read_suffixed(d, "random.f32", &size), *got = allocate(size);
        assert_int_equal(lm_dtype_bytes(d, size / 4), n_blocks);
        memset(got, 0xff, size);
        lm_dtype_info(d)->to_f32(got, blocks, size / 4);
        assert_memory_equal(got, want, size);
        free(blocks);
        free(want);
        free(got);
    }
}

/* ---- what importance is for */

static void test_which_types_need_importance(void **state)
{
    (void)state;
    for (int k = 0; k < N_TYPES; k++) {
        const struct lm_dtype_info *info = lm_dtype_info(types[k]);
        bool needs = types[k] == LM_IQ1_S || types[k] == LM_IQ2_XXS || types[k] == LM_IQ2_XS;
        assert_non_null(info->to_f32);
        assert_non_null(info->from_f32_weighted);
        assert_int_equal(info->needs_importance, needs);
        assert_int_equal(info->from_f32 == NULL, needs);
    }
}

/* Weighted square error over weighted squares. */
static double error_of(const struct lm_dtype_info *info, const float *x, const float *importance, const float *measure,
                       size_t n_rows)
{
    uint8_t *q = allocate(n_rows * ROW / BLOCK * info->block_bytes);
    float *y = allocate(n_rows * ROW * 4);
    double error = 0, power = 0;

    info->from_f32_weighted(q, x, importance, ROW, n_rows);
    info->to_f32(y, q, n_rows * ROW);
    for (size_t i = 0; i < n_rows * ROW; i++) {
        error += measure[i % ROW] * ((double)y[i] - x[i]) * ((double)y[i] - x[i]);
        power += measure[i % ROW] * (double)x[i] * x[i];
    }
    free(q);
    free(y);
    return error / power;
}

/* Telling which columns matter must make those better, and more bits must help:
 * the types are in order of size. */
static void test_error_of_gaussian_values(void **state)
{
    enum { N_ROWS = 64 };
    float *x = allocate(N_ROWS * ROW * 4), w[ROW], flat[ROW];
    double last = 1;

    (void)state;
    random_state = 3;
    for (int i = 0; i < N_ROWS * ROW; i++)
        x[i] = gaussian();
    for (int i = 0; i < ROW; i++) {
        flat[i] = 1;
        w[i] = i % 3 == 0 ? 20 : 0.5f;
    }
    for (int k = 0; k < N_TYPES; k++) {
        const struct lm_dtype_info *info = lm_dtype_info(types[k]);
        double plain = error_of(info, x, flat, flat, N_ROWS);
        assert_true(plain < last * 1.05 && plain < 0.35);
        assert_true(error_of(info, x, w, w, N_ROWS) < 0.95 * error_of(info, x, flat, w, N_ROWS));
        last = plain;
    }
    assert_true(last < 0.025);
    free(x);
}

/* ---- between the paths */

enum { N_KINDS = 6, N_RANDOM = 20 * BLOCK };

/* Finite values of several kinds, some with ties everywhere; the last takes any
 * bit pattern. */
static float random_value(int kind, size_t i)
{
    float v = gaussian();
    uint32_t u = (uint32_t)random_bits();

    switch (kind) {
    case 0: return lm_bf16_to_f32(lm_f32_to_bf16(v * 0.02f));
    case 1: return random_bits() % 8 ? 0 : v;
    case 2: return ldexpf(v, (int)(i / 16 * 7 % 61) - 30);
    case 3: return (float)(random_bits() % 3) - 1;
    case 4: return (float)((int)(random_bits() % 65) - 32) / 2;
    default:
        if ((u >> 23 & 255) == 255)
            u ^= 0x40000000;
        memcpy(&v, &u, 4);
        return v;
    }
}

static void encode(const struct lm_dtype_info *info, uint8_t *q, const float *x, const float *w, size_t n)
{
    if (w)
        info->from_f32_weighted(q, x, w, BLOCK, n / BLOCK);
    else if (info->from_f32)
        info->from_f32(q, x, n);
    else
        memset(q, 0, n / BLOCK * info->block_bytes);
}

static bool same_values(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (bits_of(a[i]) != bits_of(b[i]) && !(isnan(a[i]) && isnan(b[i])))
            return false;
    return true;
}

static void compare_paths(const struct lm_dtype_info *info, const float *x, const float *w)
{
    size_t bytes = N_RANDOM / BLOCK * info->block_bytes;
    uint8_t *first = allocate(bytes), *other = allocate(bytes);
    float *y = allocate(N_RANDOM * 4), *z = allocate(N_RANDOM * 4);

    assert_int_equal(lm_dtype_set_isa("portable"), 0);
    encode(info, first, x, w, N_RANDOM);
    info->to_f32(y, first, N_RANDOM);
    for (int k = 1; k < N_ISAS; k++) {
        if (lm_dtype_set_isa(isas[k]) != 0)
            continue;
        encode(info, other, x, w, N_RANDOM);
        assert_memory_equal(first, other, bytes);
        info->to_f32(z, first, N_RANDOM);
        assert_true(same_values(y, z, N_RANDOM));
    }
    free(first);
    free(other);
    free(y);
    free(z);
}

static void test_all_paths_give_the_same_bytes(void **state)
{
    float *x = allocate(N_RANDOM * 4), w[BLOCK];

    (void)state;
    random_state = 1;
    for (int kind = 0; kind < N_KINDS; kind++) {
        for (size_t i = 0; i < N_RANDOM; i++)
            x[i] = random_value(kind, i);
        for (int i = 0; i < BLOCK; i++)
            w[i] = kind == 4 ? 0 : random_bits() % 9 ? expf(2 * gaussian()) : 0;
        for (int i = 0; i < N_TYPES; i++) {
            compare_paths(lm_dtype_info(types[i]), x, w);
            compare_paths(lm_dtype_info(types[i]), x, NULL);
        }
    }
    free(x);
}

/* Any bits are a block: reading one never leaves its bounds or the codebooks. */
static void test_random_bits_decode_alike(void **state)
{
    enum { N = 64 };
    uint8_t q[N * 110];
    float *y = allocate(N * BLOCK * 4), *z = allocate(N * BLOCK * 4);

    (void)state;
    random_state = 5;
    for (size_t i = 0; i < sizeof q; i++)
        q[i] = (uint8_t)random_bits();
    for (int t = 0; t < N_TYPES; t++) {
        lm_dtype_set_isa("portable");
        lm_dtype_info(types[t])->to_f32(y, q, N * BLOCK);
        for (int k = 1; k < N_ISAS; k++)
            if (lm_dtype_set_isa(isas[k]) == 0) {
                lm_dtype_info(types[t])->to_f32(z, q, N * BLOCK);
                assert_true(same_values(y, z, N * BLOCK));
            }
    }
    free(y);
    free(z);
}

/* A block does not depend on its neighbours, on how many there are (kernels
 * take several at a time), or on alignment; nothing is written around it. */
static void test_rows_of_any_length(void **state)
{
    enum { N = 19 };
    size_t size;
    float *x = read_fixture("input.f32", &size), w[BLOCK], *y = allocate(N * BLOCK * 4 + 4);
    uint8_t one[N * 110], got[N * 110 + 2];

    (void)state;
    for (int i = 0; i < BLOCK; i++)
        w[i] = 1 + (float)(i % 5);
    for (int t = 0; t < N_TYPES * N_ISAS; t++) {
        const struct lm_dtype_info *info = lm_dtype_info(types[t / N_ISAS]);
        if (lm_dtype_set_isa(isas[t % N_ISAS]) != 0)
            continue;
        for (int i = 0; i < N; i++)
            encode(info, one + (size_t)i * info->block_bytes, x + i * BLOCK, w, BLOCK);
        for (size_t n = 1; n <= N; n += n < 4 ? 1 : 5) {
            memset(got, 0x5a, sizeof got);
            encode(info, got + 1, x, w, n * BLOCK);
            assert_int_equal(got[0], 0x5a);
            assert_int_equal(got[n * info->block_bytes + 1], 0x5a);
            assert_memory_equal(got + 1, one, n * info->block_bytes);
            y[n * BLOCK] = 77;
            info->to_f32(y, got + 1, n * BLOCK);
            assert_true(y[n * BLOCK] == 77);
        }
    }
    free(x);
    free(y);
}

/* NaN, infinity and what overflows make no sensible block, but nothing worse. */
static void test_unusable_values_do_no_harm(void **state)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY, 3e38f};
    float x[2 * BLOCK], y[2 * BLOCK], w[BLOCK];
    uint8_t q[2 * 110];

    (void)state;
    for (int t = 0; t < N_TYPES * N_ISAS * 8; t++) {
        const struct lm_dtype_info *info = lm_dtype_info(types[t / 8 / N_ISAS]);
        if (lm_dtype_set_isa(isas[t / 8 % N_ISAS]) != 0)
            continue;
        for (int i = 0; i < BLOCK; i++) {
            x[i] = i % 16 > 7 ? 1 : bad[t % 4];
            x[BLOCK + i] = (i * 7919 % 13 - 6) / 3.0f;
            w[i] = t % 8 < 4 ? 1 : 1 + (float)(i % 3);
        }
        encode(info, q, x, w, 2 * BLOCK);
        info->to_f32(y, q, 2 * BLOCK);
        for (int i = BLOCK; i < 2 * BLOCK; i++) /* the other block is as if alone */
            assert_true(fabsf(y[i] - x[i]) < 2);
        if (info->from_f32)
            info->from_f32(q, x, 2 * BLOCK);
        for (int i = 0; i < BLOCK; i++)
            w[i] = i % 2 ? NAN : -1;
        encode(info, q, x, w, 2 * BLOCK);
    }
}

/* ---- threads */

struct work {
    const float *x, *w;
    uint8_t q[N_TYPES][4 * 110];
};

static void *encode_all(void *arg)
{
    struct work *job = arg;

    for (int t = 0; t < N_TYPES; t++)
        lm_dtype_info(types[t])->from_f32_weighted(job->q[t], job->x, job->w, ROW, 2);
    return NULL;
}

/* The first of all tests: nothing has built the search lists yet. */
static void test_first_use_from_several_threads(void **state)
{
    enum { N_THREADS = 4 };
    static struct work job[N_THREADS];
    pthread_t thread[N_THREADS];
    size_t size;
    float *x = read_fixture("input.f32", &size), *w = read_fixture("iq.weights.f32", &size);

    (void)state;
    for (int i = 0; i < N_THREADS; i++) {
        job[i] = (struct work){.x = x, .w = w};
        assert_int_equal(pthread_create(&thread[i], NULL, encode_all, &job[i]), 0);
    }
    for (int i = 0; i < N_THREADS; i++)
        pthread_join(thread[i], NULL);
    for (int i = 1; i < N_THREADS; i++)
        assert_memory_equal(job[i].q, job[0].q, sizeof job[0].q);
    free(x);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_use_from_several_threads),
        cmocka_unit_test(test_codebooks),
        cmocka_unit_test(test_blocks_equal_ggml),
        cmocka_unit_test(test_values_equal_ggml),
        cmocka_unit_test(test_which_types_need_importance),
        cmocka_unit_test(test_error_of_gaussian_values),
        cmocka_unit_test(test_all_paths_give_the_same_bytes),
        cmocka_unit_test(test_random_bits_decode_alike),
        cmocka_unit_test(test_rows_of_any_length),
        cmocka_unit_test(test_unusable_values_do_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
