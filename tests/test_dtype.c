/* The dtype registry and the plain types.  Block types: test_quant.c. */
#include <math.h>
#include <unistd.h>

#include "libmodel/bytes.h"
#include "tests/quant.h"

/* Elements and bytes of a block, from ggml's and safetensors' tables. */
static const struct {
    enum lm_dtype type;
    uint32_t elems, bytes;
} sizes[] = {
    {LM_F64, 1, 8},         {LM_F32, 1, 4},         {LM_F16, 1, 2},      {LM_BF16, 1, 2},      {LM_I64, 1, 8},
    {LM_I32, 1, 4},         {LM_I16, 1, 2},         {LM_I8, 1, 1},       {LM_U64, 1, 8},       {LM_U32, 1, 4},
    {LM_U16, 1, 2},         {LM_U8, 1, 1},          {LM_BOOL, 1, 1},     {LM_C64, 1, 8},       {LM_F8_E4M3, 1, 1},
    {LM_F8_E5M2, 1, 1},     {LM_F8_E8M0, 1, 1},     {LM_F8_E4M3FNUZ, 1, 1}, {LM_F8_E5M2FNUZ, 1, 1},
    {LM_F6_E2M3, 4, 3},     {LM_F6_E3M2, 4, 3},     {LM_F4, 2, 1},       {LM_Q4_0, 32, 18},    {LM_Q4_1, 32, 20},
    {LM_Q5_0, 32, 22},      {LM_Q5_1, 32, 24},      {LM_Q8_0, 32, 34},   {LM_Q8_1, 32, 36},    {LM_Q2_K, 256, 84},
    {LM_Q3_K, 256, 110},    {LM_Q4_K, 256, 144},    {LM_Q5_K, 256, 176}, {LM_Q6_K, 256, 210},  {LM_Q8_K, 256, 292},
    {LM_IQ1_S, 256, 50},    {LM_IQ1_M, 256, 56},    {LM_IQ2_XXS, 256, 66}, {LM_IQ2_XS, 256, 74}, {LM_IQ2_S, 256, 82},
    {LM_IQ3_XXS, 256, 98},  {LM_IQ3_S, 256, 110},   {LM_IQ4_NL, 32, 18}, {LM_IQ4_XS, 256, 136}, {LM_TQ1_0, 256, 54},
    {LM_TQ2_0, 256, 66},    {LM_MXFP4, 32, 17},     {LM_NVFP4, 64, 36},  {LM_Q1_0, 128, 18},   {LM_Q2_0, 64, 18},
};

static void test_every_type_has_its_size(void **state)
{
    (void)state;
    assert_int_equal(sizeof sizes / sizeof *sizes, LM_N_DTYPES);
    for (size_t i = 0; i < LM_N_DTYPES; i++) {
        const struct lm_dtype_info *info = lm_dtype_info(sizes[i].type);
        assert_int_equal(sizes[i].type, i);
        assert_int_equal(info->block_elems, sizes[i].elems);
        assert_int_equal(info->block_bytes, sizes[i].bytes);
        assert_int_equal(lm_dtype_bytes(sizes[i].type, 7 * sizes[i].elems), 7 * sizes[i].bytes);
    }
}

static void test_names_find_their_type(void **state)
{
    (void)state;
    for (int d = 0; d < LM_N_DTYPES; d++) {
        char lower[32] = {0};
        const char *name = lm_dtype_name((enum lm_dtype)d);
        for (size_t i = 0; name[i]; i++)
            lower[i] = (char)(name[i] | (name[i] >= 'A' && name[i] <= 'Z' ? 0x20 : 0));
        assert_int_equal(lm_dtype_find(name), d);
        assert_int_equal(lm_dtype_find(lower), d);
    }
    assert_int_equal(lm_dtype_find("Q4_"), -1);
    assert_int_equal(lm_dtype_find(""), -1);
}

static void test_bytes_of_impossible_counts(void **state)
{
    (void)state;
    assert_int_equal(lm_dtype_bytes(LM_Q4_K, 0), 0);
    assert_int_equal(lm_dtype_bytes(LM_Q4_K, 255), 0);
    assert_int_equal(lm_dtype_bytes(LM_Q8_0, 33), 0);
    assert_int_equal(lm_dtype_bytes(LM_F64, UINT64_MAX), 0);
    assert_int_equal(lm_dtype_bytes(LM_F64, (uint64_t)1 << 61), 0);
    assert_int_equal(lm_dtype_bytes(LM_F64, ((uint64_t)1 << 61) - 1), SIZE_MAX - 7);
}

/* ---- byte order */

static void test_swap_is_its_own_inverse(void **state)
{
    (void)state;
    for (int d = 0; d < LM_N_DTYPES; d++) {
        const struct lm_dtype_info *info = lm_dtype_info((enum lm_dtype)d);
        uint8_t a[3 * 292], b[3 * 292];
        size_t swapped = 0;
        for (int f = 0; f < LM_DTYPE_MAX_FIELDS; f++) {
            size_t end = info->fields[f].offset + (size_t)info->fields[f].width * info->fields[f].count;
            assert_true(end <= info->block_bytes);
            swapped += info->fields[f].width > 1 ? (size_t)info->fields[f].width * info->fields[f].count : 0;
        }
        for (size_t i = 0; i < sizeof a; i++)
            a[i] = b[i] = (uint8_t)(i * 151 + 7);
        lm_dtype_swap((enum lm_dtype)d, b, 3 * info->block_elems);
        size_t differing = 0;
        for (size_t i = 0; i < sizeof a; i++)
            differing += a[i] != b[i];
        assert_int_equal(differing, 3 * swapped);
        lm_dtype_swap((enum lm_dtype)d, b, 3 * info->block_elems);
        assert_memory_equal(a, b, sizeof a);
    }
}

static void test_swap_reverses_the_fields(void **state)
{
    uint8_t f32[8] = {1, 2, 3, 4, 5, 6, 7, 8}, f64[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    uint8_t q4_k[144] = {1, 2, 3, 4, 5, 6}, q5_1[24] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    uint8_t q6_k[210] = {1, 2};

    (void)state;
    lm_dtype_swap(LM_F32, f32, 2);
    assert_memory_equal(f32, ((uint8_t[]){4, 3, 2, 1, 8, 7, 6, 5}), 8);
    lm_dtype_swap(LM_C64, f32, 1);
    assert_memory_equal(f32, ((uint8_t[]){1, 2, 3, 4, 5, 6, 7, 8}), 8);
    lm_dtype_swap(LM_F64, f64, 1);
    assert_memory_equal(f64, ((uint8_t[]){8, 7, 6, 5, 4, 3, 2, 1}), 8);
    lm_dtype_swap(LM_Q4_K, q4_k, 256);
    assert_memory_equal(q4_k, ((uint8_t[]){2, 1, 4, 3, 5, 6}), 6);
    lm_dtype_swap(LM_Q5_1, q5_1, 32);
    assert_memory_equal(q5_1, ((uint8_t[]){2, 1, 4, 3, 8, 7, 6, 5, 9}), 9);
    q6_k[208] = 3;
    q6_k[209] = 4;
    lm_dtype_swap(LM_Q6_K, q6_k, 256);
    assert_int_equal(q6_k[0], 1);
    assert_int_equal(q6_k[208], 4);
    assert_int_equal(q6_k[209], 3);
}

/* ---- 16-bit floats */

/* From the definition, independent of the code under test. */
static double f16_value(unsigned h)
{
    int e = h >> 10 & 31;
    double m = h & 1023;

    if (e == 31)
        return m > 0 ? NAN : h & 0x8000 ? -INFINITY : INFINITY;
    m = e == 0 ? ldexp(m, -24) : ldexp(m + 1024, e - 25);
    return h & 0x8000 ? -m : m;
}

static void test_f16_decodes_every_code(void **state)
{
    (void)state;
    for (unsigned h = 0; h < 0x10000; h++) {
        double want = f16_value(h);
        float got = lm_f16_to_f32((uint16_t)h);
        assert_int_equal(isnan(want) != 0, isnan(got) != 0);
        assert_int_equal(signbit(got) != 0, h >> 15);
        if (isnan(want))
            assert_true(bits_of(got) & 0x400000); /* quiet */
        else
            assert_true(want == (double)got);
    }
}

/* Every code comes back; halfway goes to the even neighbour, anything else to
 * the nearest.  `last` is the largest finite code, whose upper neighbour is
 * infinity. */
static void check_rounding(float (*decode)(uint16_t), uint16_t (*encode)(float), unsigned last)
{
    for (unsigned h = 0; h <= last; h++) {
        double a = (double)decode((uint16_t)h);
        double b = h < last ? (double)decode((uint16_t)(h + 1)) : 2 * a - (double)decode((uint16_t)(h - 1));
        float middle = (float)(a / 2 + b / 2);
        assert_int_equal(encode((float)a), h);
        assert_int_equal(encode((float)-a), h | 0x8000);
        assert_int_equal(encode(middle), h + (h & 1));
        assert_int_equal(encode(nextafterf(middle, 0)), h);
        assert_int_equal(encode(nextafterf(middle, INFINITY)), h + 1);
    }
    assert_int_equal(encode(INFINITY), last + 1);
    assert_int_equal(encode(-INFINITY), (last + 1) | 0x8000);
}

static void test_f16_rounds_to_nearest_even(void **state)
{
    (void)state;
    check_rounding(lm_f16_to_f32, lm_f32_to_f16, 0x7bff);
    assert_int_equal(lm_f32_to_f16(3.4e38f), 0x7c00);
    assert_int_equal(lm_f32_to_f16(1e-30f), 0);
}

static void test_bf16_rounds_to_nearest_even(void **state)
{
    (void)state;
    for (unsigned h = 0; h < 0x10000; h++)
        assert_int_equal(bits_of(lm_bf16_to_f32((uint16_t)h)), h << 16);
    check_rounding(lm_bf16_to_f32, lm_f32_to_bf16, 0x7f7f);
}

/* ---- known answers: numpy's and torch's conversions of awkward values */

static bool same_code(unsigned got, unsigned want, float x, unsigned quiet_nan)
{
    /* Of NaNs only sign and quietness are agreed on. */
    return isnan(x) ? (got & quiet_nan) == quiet_nan && (got ^ want) < quiet_nan : got == want;
}

static void check_round_fixture(enum lm_dtype d, const char *name, unsigned quiet_nan)
{
    const struct lm_dtype_info *info = lm_dtype_info(d);
    size_t size, want_size;
    float *x = read_fixture("round.f32", &size);
    uint8_t *want = read_fixture(name, &want_size);
    size_t n = size / 4;
    uint8_t *got = malloc(n * info->block_bytes);

    assert_non_null(got);
    assert_int_equal(want_size, n * info->block_bytes);
    for (int k = 0; k < N_ISAS; k++) {
        if (lm_dtype_set_isa(isas[k]) != 0)
            continue;
        info->from_f32(got, x, n);
        for (size_t i = 0; i < n; i++)
            if (info->block_bytes == 1)
                assert_true(same_code(got[i], want[i], x[i], quiet_nan));
            else
                assert_true(same_code(lm_load_u16le(got + 2 * i), lm_load_u16le(want + 2 * i), x[i], quiet_nan));
    }
    free(x);
    free(want);
    free(got);
}

static void test_rounding_fixtures(void **state)
{
    (void)state;
    check_round_fixture(LM_F16, "round.f16", 0x7e00);
    check_round_fixture(LM_BF16, "round.bf16", 0x7fc0);
    check_round_fixture(LM_F8_E4M3, "round.f8_e4m3", 0x7f);
    check_round_fixture(LM_F8_E5M2, "round.f8_e5m2", 0x7e);
}

static void check_f8_values(enum lm_dtype d, const char *name)
{
    size_t size;
    float *want = read_fixture(name, &size), got[256], one;
    uint8_t codes[256];

    assert_int_equal(size, sizeof got);
    for (int c = 0; c < 256; c++)
        codes[c] = (uint8_t)c;
    lm_dtype_info(d)->to_f32(got, codes, 256);
    for (int c = 0; c < 256; c++) {
        lm_dtype_info(d)->to_f32(&one, codes + c, 1); /* short rows take another way */
        assert_true(isnan(want[c]) ? isnan(got[c]) && isnan(one)
                                   : bits_of(got[c]) == bits_of(want[c]) && bits_of(one) == bits_of(want[c]));
    }
    free(want);
}

static void test_f8_decodes_every_code(void **state)
{
    (void)state;
    check_f8_values(LM_F8_E4M3, "f8_e4m3.f32");
    check_f8_values(LM_F8_E5M2, "f8_e5m2.f32");
}

/* Each code's value encodes to the code again, and ties go to even codes. */
static void check_f8_codes(enum lm_dtype d, unsigned largest)
{
    const struct lm_dtype_info *info = lm_dtype_info(d);

    for (unsigned c = 0; c < 256; c++) {
        uint8_t code = (uint8_t)c, back;
        float v[2];
        info->to_f32(v, &code, 1);
        if (isnan(v[0]))
            continue;
        info->from_f32(&back, v, 1);
        assert_int_equal(back, c);
        if ((c & 127) >= largest)
            continue;
        code = (uint8_t)(c + 1);
        info->to_f32(v + 1, &code, 1);
        v[0] = v[0] / 2 + v[1] / 2;
        info->from_f32(&back, v, 1);
        assert_int_equal(back, c + (c & 1));
    }
}

static void test_f8_codes_return(void **state)
{
    (void)state;
    check_f8_codes(LM_F8_E4M3, 0x7e);
    check_f8_codes(LM_F8_E5M2, 0x7b);
    check_f8_codes(LM_F8_E4M3FNUZ, 0x7f);
    check_f8_codes(LM_F8_E5M2FNUZ, 0x7f);
}

static void test_f8_too_large(void **state)
{
    const float x[4] = {1e6f, -1e6f, -0.0f, NAN};
    static const struct {
        enum lm_dtype type;
        uint8_t want[4];
    } cases[] = {
        {LM_F8_E4M3, {0x7e, 0xfe, 0x80, 0x7f}},
        {LM_F8_E5M2, {0x7c, 0xfc, 0x80, 0x7f}},
        {LM_F8_E4M3FNUZ, {0x80, 0x80, 0x00, 0x80}},
        {LM_F8_E5M2FNUZ, {0x80, 0x80, 0x00, 0x80}},
    };
    uint8_t got[4];
    float value;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lm_dtype_info(cases[i].type)->from_f32(got, x, 4);
        assert_memory_equal(got, cases[i].want, 4);
    }
    lm_dtype_info(LM_F8_E4M3FNUZ)->to_f32(&value, (uint8_t[]){0x7f}, 1);
    assert_true(value == 240);
    lm_dtype_info(LM_F8_E5M2FNUZ)->to_f32(&value, (uint8_t[]){0x7f}, 1);
    assert_true(value == 57344);
    lm_dtype_info(LM_F8_E4M3FNUZ)->to_f32(&value, (uint8_t[]){0x80}, 1);
    assert_true(isnan(value));
}

static void test_e8m0_and_f4(void **state)
{
    const uint8_t exponents[4] = {0, 127, 130, 255};
    const uint8_t nibbles[8] = {0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe};
    const float magnitude[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    float v[16];

    (void)state;
    lm_dtype_info(LM_F8_E8M0)->to_f32(v, exponents, 4);
    assert_true(v[0] == 0x1p-127f && v[1] == 1 && v[2] == 8 && isnan(v[3]));
    lm_dtype_info(LM_F4)->to_f32(v, nibbles, 16);
    for (int i = 0; i < 16; i++)
        assert_int_equal(bits_of(v[i]), bits_of(i < 8 ? magnitude[i] : -magnitude[i - 8]));
}

/* ---- plain types */

static void test_integers_decode(void **state)
{
    const uint8_t m[8] = {0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    static const struct {
        enum lm_dtype type;
        float want;
    } cases[] = {
        {LM_I8, -2},          {LM_I16, -2},         {LM_I32, -2},         {LM_I64, -2},   {LM_U8, 254},
        {LM_U16, 65534},      {LM_U32, 4294967296}, {LM_U64, 0x1p64f},    {LM_BOOL, 1},
    };
    float v[2];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct lm_dtype_info *info = lm_dtype_info(cases[i].type);
        uint8_t two[16] = {0};
        memcpy(two + info->block_bytes, m, info->block_bytes);
        info->to_f32(v, two, 2);
        assert_true(v[0] == 0);
        assert_true(v[1] == cases[i].want);
        assert_null(info->from_f32);
    }
}

static void test_f32_and_f64_keep_their_values(void **state)
{
    const float x[5] = {0.1f, -0.0f, 1e-42f, 3.4e38f, -INFINITY};
    const double tenth = 0.1;
    uint8_t bytes[40];
    float back[5];

    (void)state;
    for (int k = 0; k < 2; k++) {
        const struct lm_dtype_info *info = lm_dtype_info(k ? LM_F64 : LM_F32);
        info->from_f32(bytes, x, 5);
        info->to_f32(back, bytes, 5);
        assert_memory_equal(back, x, sizeof x);
    }
    uint64_t u;
    memcpy(&u, &tenth, 8);
    lm_store_u64le(bytes, u);
    lm_dtype_info(LM_F64)->to_f32(back, bytes, 1);
    assert_true(back[0] == 0.1f);
}

/* Rows of any length and alignment on every path equal the scalar functions. */
static void test_half_rows_of_any_length(void **state)
{
    float x[64], back[64], want[64];
    uint8_t h[2 * 64 + 1];

    (void)state;
    for (int k = 0; k < N_ISAS; k++) {
        if (lm_dtype_set_isa(isas[k]) != 0)
            continue;
        for (size_t n = 0; n <= 48; n++)
            for (int b = 0; b < 2; b++) {
                const struct lm_dtype_info *info = lm_dtype_info(b ? LM_BF16 : LM_F16);
                for (size_t i = 0; i < 64; i++) {
                    x[i] = ldexpf(sinf((float)(i + 3 * n)), (int)(i % 40) - 25);
                    want[i] = b ? lm_bf16_to_f32(lm_f32_to_bf16(x[i])) : lm_f16_to_f32(lm_f32_to_f16(x[i]));
                    back[i] = -1;
                }
                memset(h, 0xa5, sizeof h);
                info->from_f32(h + 1, x, n);
                assert_int_equal(h[0], 0xa5);
                assert_int_equal(h[1 + 2 * n], 0xa5);
                info->to_f32(back, h + 1, n);
                assert_memory_equal(back, want, n * 4);
                assert_true(back[n] == -1);
            }
    }
}

/* ---- instruction sets */

static void test_isa_can_be_set(void **state)
{
    (void)state;
    assert_int_equal(lm_dtype_set_isa("portable"), 0);
    assert_string_equal(lm_dtype_isa(), "portable");
    assert_int_equal(lm_dtype_set_isa("abacus"), -1);
    assert_string_equal(lm_dtype_isa(), "portable");
}

static void test_isa_from_the_environment(void **state)
{
    char self[4096] = {0}, command[4200], answer[32] = {0};

    (void)state;
    assert_true(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
    snprintf(command, sizeof command, "LM_ISA=portable '%s' isa", self);
    FILE *p = popen(command, "r");
    assert_non_null(p);
    assert_non_null(fgets(answer, sizeof answer, p));
    assert_int_equal(pclose(p), 0);
    assert_string_equal(answer, "portable\n");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_type_has_its_size),
        cmocka_unit_test(test_names_find_their_type),
        cmocka_unit_test(test_bytes_of_impossible_counts),
        cmocka_unit_test(test_swap_is_its_own_inverse),
        cmocka_unit_test(test_swap_reverses_the_fields),
        cmocka_unit_test(test_f16_decodes_every_code),
        cmocka_unit_test(test_f16_rounds_to_nearest_even),
        cmocka_unit_test(test_bf16_rounds_to_nearest_even),
        cmocka_unit_test(test_rounding_fixtures),
        cmocka_unit_test(test_f8_decodes_every_code),
        cmocka_unit_test(test_f8_codes_return),
        cmocka_unit_test(test_f8_too_large),
        cmocka_unit_test(test_e8m0_and_f4),
        cmocka_unit_test(test_integers_decode),
        cmocka_unit_test(test_f32_and_f64_keep_their_values),
        cmocka_unit_test(test_half_rows_of_any_length),
        cmocka_unit_test(test_isa_can_be_set),
        cmocka_unit_test(test_isa_from_the_environment),
    };

    if (argc > 1 && strcmp(argv[1], "isa") == 0)
        return puts(lm_dtype_isa()) < 0;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
