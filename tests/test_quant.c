/* Block types: known answers from ggml, and what must hold between the paths. */
#include <math.h>

#include "libmodel/bytes.h"
#include "tests/quant.h"

/* The types that can be written, with the error that i.i.d. Gaussian values
 * take: mean square over mean square (0: not in the published table). */
static const struct {
    enum lm_dtype type;
    double nmse;
} quants[] = {
    {LM_Q4_0, 7.38e-3}, {LM_Q4_1, 0},       {LM_Q5_0, 0},       {LM_Q5_1, 0},       {LM_Q8_0, 2.86e-5},
    {LM_Q2_K, 8.8e-2},  {LM_Q3_K, 2.28e-2}, {LM_Q4_K, 5.09e-3}, {LM_Q5_K, 1.31e-3}, {LM_Q6_K, 3.15e-4},
    {LM_IQ4_NL, 0},     {LM_IQ4_XS, 0},     {LM_TQ1_0, 0},      {LM_TQ2_0, 0},      {LM_MXFP4, 0},
    {LM_NVFP4, 0},      {LM_Q1_0, 0},       {LM_Q2_0, 0},
};
enum { N_QUANTS = sizeof quants / sizeof *quants };

static uint64_t random_state;

static uint64_t random_bits(void)
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static double gaussian(void)
{
    double u = ((double)(random_bits() >> 11) + 0.5) * 0x1p-53, v = (double)(random_bits() >> 11) * 0x1p-53;

    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

static void *allocate(size_t n)
{
    void *p = malloc(n);

    assert_non_null(p);
    return p;
}

static void fixture_of(char name[32], enum lm_dtype d, const char *suffix)
{
    snprintf(name, 32, "%s.%s", lm_dtype_name(d), suffix);
}

static void test_every_writable_block_type_is_here(void **state)
{
    int n = 0;

    (void)state;
    for (int d = 0; d < LM_N_DTYPES; d++) {
        const struct lm_dtype_info *info = lm_dtype_info((enum lm_dtype)d);
        /* Those with grids have a test of their own. */
        bool grid = strncmp(info->name, "IQ1", 3) == 0 || strncmp(info->name, "IQ2", 3) == 0 ||
                    strncmp(info->name, "IQ3", 3) == 0;
        n += info->kind == LM_KIND_QUANT && info->from_f32 && !grid;
    }
    assert_int_equal(n, N_QUANTS);
}

/* ---- known answers */

/* The row of the fixture that holds byte `at` of a type's blocks. */
static const char *row_name(const char *names, const struct lm_dtype_info *info, size_t at)
{
    size_t row = at / info->block_bytes * info->block_elems / 256;

    while (row-- > 0)
        names = strchr(names, '\n') + 1;
    return names;
}

static void check_blocks(enum lm_dtype d, const float *x, size_t n, const char *names)
{
    const struct lm_dtype_info *info = lm_dtype_info(d);
    char name[32];
    size_t size, bytes = lm_dtype_bytes(d, n);

    fixture_of(name, d, "bin");
    uint8_t *want = read_fixture(name, &size), *got = allocate(bytes);
    assert_int_equal(size, bytes);
    for (int k = 0; k < N_ISAS; k++) {
        if (lm_dtype_set_isa(isas[k]) != 0)
            continue;
        memset(got, 0x5a, bytes);
        info->from_f32(got, x, n);
        for (size_t i = 0; i < bytes; i++)
            if (got[i] != want[i])
                fail_msg("%s, %s: byte %zu is %02x, ggml's %02x, row %.20s", name, isas[k], i, got[i], want[i],
                         row_name(names, info, i));
    }
    free(want);
    free(got);
}

static void check_values(enum lm_dtype d, size_t n)
{
    char name[32];
    size_t size;

    fixture_of(name, d, "bin");
    uint8_t *blocks = read_fixture(name, &size);
    fixture_of(name, d, "f32");
    float *want = read_fixture(name, &size), *got = allocate(size);
    assert_int_equal(size, n * 4);
    for (int k = 0; k < N_ISAS; k++) {
        if (lm_dtype_set_isa(isas[k]) != 0)
            continue;
        memset(got, 0xff, size);
        lm_dtype_info(d)->to_f32(got, blocks, n);
        assert_memory_equal(got, want, size);
    }
    free(blocks);
    free(want);
    free(got);
}

static void test_blocks_equal_ggml(void **state)
{
    size_t size, n_names;
    float *x = read_fixture("input.f32", &size);
    char *names = read_fixture("input.names", &n_names);

    (void)state;
    names[n_names - 1] = 0;
    for (int i = 0; i < N_QUANTS; i++)
        check_blocks(quants[i].type, x, size / 4, names);
    free(x);
    free(names);
}

static void test_values_equal_ggml(void **state)
{
    size_t size;

    (void)state;
    free(read_fixture("input.f32", &size));
    for (int i = 0; i < N_QUANTS; i++)
        check_values(quants[i].type, size / 4);
}

/* ---- with importance */

static void check_weighted(enum lm_dtype d, const float *x, size_t n, const float *weights, size_t row,
                           const char *suffix)
{
    const struct lm_dtype_info *info = lm_dtype_info(d);
    char name[32];
    size_t size, bytes = lm_dtype_bytes(d, n);

    fixture_of(name, d, suffix);
    uint8_t *want = read_fixture(name, &size), *got = allocate(bytes);
    assert_int_equal(size, bytes);
    for (int k = 0; k < N_ISAS; k++) {
        if (lm_dtype_set_isa(isas[k]) != 0)
            continue;
        memset(got, 0x5a, bytes);
        info->from_f32_weighted(got, x, weights, row, n / row);
        for (size_t i = 0; i < bytes; i++)
            if (got[i] != want[i])
                fail_msg("%s, %s: byte %zu is %02x, ggml's %02x", name, isas[k], i, got[i], want[i]);
    }
    free(want);
    free(got);
}

static void test_weighted_blocks_equal_ggml(void **state)
{
    size_t n, size;
    float *x = read_fixture("input.f32", &n), *w = read_fixture("weights.f32", &size), repeated[1024];
    int n_weighted = 0;

    (void)state;
    assert_int_equal(size, 256 * sizeof *w);
    for (int i = 0; i < 4; i++)
        memcpy(repeated + 256 * i, w, size);
    for (int i = 0; i < N_QUANTS; i++) {
        const struct lm_dtype_info *info = lm_dtype_info(quants[i].type);
        if (!info->from_f32_weighted)
            continue;
        assert_false(info->needs_importance);
        check_weighted(quants[i].type, x, n / 4, w, 256, "weighted.bin");
        if (info->block_elems == 32)
            check_weighted(quants[i].type, x, n / 4096 * 1024, repeated, 1024, "long.bin");
        n_weighted++;
    }
    assert_int_equal(n_weighted, 11);
    free(x);
    free(w);
}

static double weighted_error(const struct lm_dtype_info *info, const uint8_t *q, const float *x, const float *w, size_t n)
{
    float *y = allocate(n * 4);
    double error = 0;

    info->to_f32(y, q, n);
    for (size_t i = 0; i < n; i++)
        error += (double)w[i % 512] * ((double)y[i] - x[i]) * ((double)y[i] - x[i]);
    free(y);
    return error;
}

/* Rows in one call or one by one, on every path; and it is worth it. */
static void test_importance_of_random_rows(void **state)
{
    enum { ROW = 512, ROWS = 37, N = ROW * ROWS };
    float *x = allocate(N * 4), w[ROW];
    uint8_t *first = allocate(N * 4), *other = allocate(N * 4), *plain = allocate(N * 4);

    (void)state;
    random_state = 3;
    for (size_t i = 0; i < N; i++)
        x[i] = 0.02f * (float)gaussian();
    for (size_t i = 0; i < ROW; i++)
        w[i] = (float)exp(2 * gaussian());
    for (int i = 0; i < N_QUANTS; i++) {
        const struct lm_dtype_info *info = lm_dtype_info(quants[i].type);
        size_t bytes = N / info->block_elems * info->block_bytes;
        if (!info->from_f32_weighted)
            continue;
        assert_int_equal(lm_dtype_set_isa("portable"), 0);
        info->from_f32_weighted(first, x, w, ROW, ROWS);
        info->from_f32(plain, x, N);
        assert_true(weighted_error(info, first, x, w, N) < weighted_error(info, plain, x, w, N));
        for (int k = 0; k < N_ISAS; k++) {
            if (lm_dtype_set_isa(isas[k]) != 0)
                continue;
            for (size_t r = 0; r < ROWS; r++)
                info->from_f32_weighted(other + bytes / ROWS * r, x + ROW * r, w, ROW, 1);
            assert_memory_equal(first, other, bytes);
            memset(other, 0, bytes);
            info->from_f32_weighted(other, x, w, ROW, ROWS);
            assert_memory_equal(first, other, bytes);
        }
    }
    free(x);
    free(first);
    free(other);
    free(plain);
}

/* ---- between the paths */

enum { N_KINDS = 6, N_RANDOM = 96 * 256 };

/* Finite values of several kinds; the last takes any bit pattern. */
static float random_value(int kind, size_t i)
{
    float v = (float)gaussian();
    uint32_t u = (uint32_t)random_bits();

    switch (kind) {
    case 0: return v;
    case 1: return lm_bf16_to_f32(lm_f32_to_bf16(v * 0.02f));
    case 2: return random_bits() % 8 ? 0 : v;
    case 3: return ldexpf(v, (int)(i / 16 * 7 % 61) - 30);
    case 4: return (float)((int)(random_bits() % 65) - 32) / 2;
    default:
        if ((u >> 23 & 255) == 255)
            u ^= 0x40000000;
        memcpy(&v, &u, 4);
        return v;
    }
}

/* Bits, but any NaN for a NaN: an infinite scale gives them, and which operand
 * a NaN comes from is the compiler's choice. */
static bool same_values(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (bits_of(a[i]) != bits_of(b[i]) && !(isnan(a[i]) && isnan(b[i])))
            return false;
    return true;
}

static void compare_paths(const struct lm_dtype_info *info, const float *x, size_t n)
{
    size_t bytes = n / info->block_elems * info->block_bytes;
    uint8_t *first = allocate(bytes), *other = allocate(bytes);
    float *y = allocate(n * 4), *z = allocate(n * 4);

    assert_int_equal(lm_dtype_set_isa("portable"), 0);
    info->from_f32(first, x, n);
    info->to_f32(y, first, n);
    for (int k = 1; k < N_ISAS; k++) {
        if (lm_dtype_set_isa(isas[k]) != 0)
            continue;
        info->from_f32(other, x, n);
        assert_memory_equal(first, other, bytes);
        info->to_f32(z, first, n);
        assert_true(same_values(y, z, n));
    }
    free(first);
    free(other);
    free(y);
    free(z);
}

static void test_all_paths_give_the_same_bytes(void **state)
{
    float *x = allocate(N_RANDOM * 4);

    (void)state;
    random_state = 1;
    for (int kind = 0; kind < N_KINDS; kind++) {
        for (size_t i = 0; i < N_RANDOM; i++)
            x[i] = random_value(kind, i);
        for (int i = 0; i < N_QUANTS; i++)
            compare_paths(lm_dtype_info(quants[i].type), x, N_RANDOM);
    }
    free(x);
}

/* A block does not depend on its neighbours, on how many there are (kernels
 * take several at a time), or on alignment; nothing is written around it. */
static void test_rows_of_any_length(void **state)
{
    size_t size;
    float *x = read_fixture("input.f32", &size), *y = allocate(17 * 256 * 4 + 4);
    char name[32];

    (void)state;
    for (int i = 0; i < N_QUANTS; i++) {
        const struct lm_dtype_info *info = lm_dtype_info(quants[i].type);
        fixture_of(name, quants[i].type, "bin");
        uint8_t *want = read_fixture(name, &size), *got = allocate(17 * info->block_bytes + 2);
        for (size_t k = 0; k < 17 * N_ISAS; k++) {
            size_t n = k / N_ISAS + 1, bytes = n * info->block_bytes;
            if (lm_dtype_set_isa(isas[k % N_ISAS]) != 0)
                continue;
            memset(got, 0x5a, 17 * info->block_bytes + 2);
            info->from_f32(got + 1, x, n * info->block_elems);
            assert_int_equal(got[0], 0x5a);
            assert_int_equal(got[bytes + 1], 0x5a);
            assert_memory_equal(got + 1, want, bytes);
            y[n * info->block_elems] = 77;
            info->to_f32(y, got + 1, n * info->block_elems);
            assert_true(y[n * info->block_elems] == 77);
        }
        free(want);
        free(got);
    }
    free(x);
    free(y);
}

/* ---- quality */

static double nmse(const struct lm_dtype_info *info, const float *x, size_t n)
{
    uint8_t *q = allocate(n / info->block_elems * info->block_bytes);
    float *y = allocate(n * 4);
    double error = 0, power = 0;

    info->from_f32(q, x, n);
    info->to_f32(y, q, n);
    for (size_t i = 0; i < n; i++) {
        error += ((double)y[i] - x[i]) * ((double)y[i] - x[i]);
        power += (double)x[i] * x[i];
    }
    free(q);
    free(y);
    return error / power;
}

static void test_error_of_gaussian_values(void **state)
{
    enum { N = 1 << 20 };
    float *x = allocate(N * 4);

    (void)state;
    random_state = 2;
    for (size_t i = 0; i < N; i++)
        x[i] = (float)gaussian();
    for (int k = N_ISAS - 1; k >= 0; k--)
        if (lm_dtype_set_isa(isas[k]) == 0)
            break;
    for (int i = 0; i < N_QUANTS; i++) {
        double e = nmse(lm_dtype_info(quants[i].type), x, N);
        if (quants[i].nmse > 0 && fabs(e / quants[i].nmse - 1) > 0.02)
            fail_msg("%s: NMSE %.3e, expected %.3e", lm_dtype_name(quants[i].type), e, quants[i].nmse);
    }
    /* Not in the table: a fifth bit, or a min beside the scale, must pay. */
    double q4_0 = nmse(lm_dtype_info(LM_Q4_0), x, N), q4_1 = nmse(lm_dtype_info(LM_Q4_1), x, N);
    double q5_0 = nmse(lm_dtype_info(LM_Q5_0), x, N), q5_1 = nmse(lm_dtype_info(LM_Q5_1), x, N);
    assert_true(q4_1 < q4_0 && q5_1 < q5_0 && q5_0 < q4_1 / 3);
    free(x);
}

/* NaN and infinity make no sensible block, but nothing worse than that. */
static void test_non_finite_values_do_no_harm(void **state)
{
    float x[512], y[512];
    uint8_t q[2 * 292];

    (void)state;
    for (int k = 0; k < N_ISAS; k++) {
        if (lm_dtype_set_isa(isas[k]) != 0)
            continue;
        for (int i = 0; i < N_QUANTS; i++)
            for (int v = 0; v < 3; v++) {
                const struct lm_dtype_info *info = lm_dtype_info(quants[i].type);
                for (int j = 0; j < 512; j++)
                    x[j] = j % 16 > 7 ? 1 : v == 0 ? NAN : v == 1 ? INFINITY : -INFINITY;
                for (int j = 256; j < 512; j++)
                    x[j] = sinf((float)j);
                info->from_f32(q, x, 512);
                info->to_f32(y, q, 512);
                for (int j = 256; j < 512; j++) /* the other block is as if alone */
                    assert_true(fabsf(y[j] - x[j]) < 0.7f);
            }
    }
}

/* ---- types that are only read */

static void decode(enum lm_dtype d, float *y, const uint8_t *block)
{
    lm_dtype_info(d)->to_f32(y, block, lm_dtype_info(d)->block_elems);
}

static void test_iq4_values(void **state)
{
    static const float level[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    uint8_t nl[18] = {0x00, 0x38}, xs[136] = {0x00, 0x40}; /* d = 0.5; d = 2 */
    float y[256];

    (void)state;
    for (int j = 0; j < 16; j++)
        nl[2 + j] = xs[8 + 48 + j] = (uint8_t)(j | (15 - j) << 4);
    decode(LM_IQ4_NL, y, nl);
    for (int j = 0; j < 16; j++) {
        assert_true(y[j] == level[j] / 2);
        assert_true(y[16 + j] == level[15 - j] / 2);
    }
    lm_store_u16le(xs + 2, 2 << 6); /* group 3: scale 0x25 - 32 = 5 */
    xs[4 + 1] = 0x50;
    decode(LM_IQ4_XS, y, xs);
    for (int j = 0; j < 16; j++) {
        assert_true(y[96 + j] == 10 * level[j]);
        assert_true(y[112 + j] == 10 * level[15 - j]);
    }
    assert_true(y[0] == 2 * -32 * -127); /* scale 0 - 32 */
}

static void test_e2m1_blocks(void **state)
{
    static const float value[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, 0, -0.5f, -1, -1.5f, -2, -3, -4, -6};
    uint8_t mx[17] = {129}, nv[36] = {0x38, 0x40, 0x01, 0x7f}; /* 4; 1, 2, 2^-9, NaN read as 0 */
    float y[64];

    (void)state;
    for (int j = 0; j < 16; j++)
        mx[1 + j] = (uint8_t)(j | (15 - j) << 4);
    decode(LM_MXFP4, y, mx);
    for (int j = 0; j < 32; j++)
        assert_true(y[j] == 4 * value[j < 16 ? j : 31 - j]);
    for (int j = 0; j < 32; j++)
        nv[4 + j] = (uint8_t)(j % 8 | (j % 8 + 8) << 4);
    decode(LM_NVFP4, y, nv);
    for (int j = 0; j < 64; j++) {
        const float scale[4] = {1, 2, 0x1p-9f, 0};
        assert_true(y[j] == scale[j / 16] * value[j % 16]);
    }
}

static void test_one_and_two_bit_blocks(void **state)
{
    uint8_t q1[18] = {0x00, 0x3c, 0x05}, q2[18] = {0x00, 0x3c, 0xe4}, tq2[66] = {0};
    float y[256];

    (void)state;
    decode(LM_Q1_0, y, q1);
    assert_true(y[0] == 1 && y[1] == -1 && y[2] == 1 && y[127] == -1);
    decode(LM_Q2_0, y, q2);
    assert_true(y[0] == -1 && y[1] == 0 && y[2] == 1 && y[3] == 2 && y[63] == -1);
    tq2[33] = 0x24; /* half 1, byte 1: planes 0, 1, 2, 0 */
    lm_store_u16le(tq2 + 64, 0x4000);
    decode(LM_TQ2_0, y, tq2);
    assert_true(y[0] == -2 && y[129] == -2 && y[161] == 0 && y[193] == 2 && y[225] == -2);
}

static void test_ternary_digits(void **state)
{
    /* Digits 2 1 0 2 1 = 2*81 + 27 + 2*3 + 1 = 196 of 243, rounded up in 256ths. */
    uint8_t block[54] = {0};
    const float digits[5] = {1, 0, -1, 1, 0};
    float y[256];

    (void)state;
    block[0] = block[32] = block[48] = (196 * 256 + 242) / 243;
    lm_store_u16le(block + 52, 0x3c00);
    decode(LM_TQ1_0, y, block);
    for (int k = 0; k < 5; k++) {
        assert_true(y[32 * k] == digits[k]);
        assert_true(y[160 + 16 * k] == digits[k]);
        if (k < 4)
            assert_true(y[240 + 4 * k] == digits[k]);
    }
    assert_true(y[1] == -1);
}

static void test_activation_blocks(void **state)
{
    uint8_t q8_1[36] = {0x00, 0x38, 0, 0, 0x80, 0x7f}, q8_k[292] = {0, 0, 0x80, 0x3e, 0xff, 0x10}; /* 0.5; 0.25f */
    float y[256];

    (void)state;
    decode(LM_Q8_1, y, q8_1);
    assert_true(y[0] == -64 && y[1] == 63.5f && y[31] == 0);
    decode(LM_Q8_K, y, q8_k);
    assert_true(y[0] == -0.25f && y[1] == 4 && y[255] == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_writable_block_type_is_here),
        cmocka_unit_test(test_blocks_equal_ggml),
        cmocka_unit_test(test_values_equal_ggml),
        cmocka_unit_test(test_weighted_blocks_equal_ggml),
        cmocka_unit_test(test_importance_of_random_rows),
        cmocka_unit_test(test_all_paths_give_the_same_bytes),
        cmocka_unit_test(test_rows_of_any_length),
        cmocka_unit_test(test_error_of_gaussian_values),
        cmocka_unit_test(test_non_finite_values_do_no_harm),
        cmocka_unit_test(test_iq4_values),
        cmocka_unit_test(test_e2m1_blocks),
        cmocka_unit_test(test_one_and_two_bit_blocks),
        cmocka_unit_test(test_ternary_digits),
        cmocka_unit_test(test_activation_blocks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
