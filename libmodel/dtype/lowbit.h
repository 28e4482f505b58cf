/* Row kernels (to blocks) of the types whose codes follow from the block's
 * largest value alone: ternary TQ1_0 and TQ2_0, one and two bits Q1_0 and Q2_0,
 * 4-bit floats MXFP4 and NVFP4.  Bytes equal ggml's, odd corners included. */
#ifndef LIBMODEL_DTYPE_LOWBIT_H
#define LIBMODEL_DTYPE_LOWBIT_H

#include "libmodel/dtype/blocks.h"
#include "libmodel/dtype/lanes.h"
#include "libmodel/dtype/minifloat.h"

INLINE float largest_magnitude(const float *x, int n)
{
    vf max = vf_set(0);
    float lane[LANES], m = 0;

    for (int i = 0; i < n; i += LANES)
        max = vf_max(vf_abs(vf_load(x + i)), max);
    vf_store(lane, max);
    for (int l = 0; l < LANES; l++)
        m = lane[l] > m ? lane[l] : m;
    return m;
}

/* roundf(x * id): adding the float below one half and truncating makes ties go
 * away from zero, and 0.49999997 to zero. */
INLINE vi rounded_away(const float *x, float id)
{
    const vi half = (vi)vf_set(0x1.fffffep-2f), sign = vi_set(INT32_MIN);
    vf v = vf_load(x) * vf_set(id);

    return vi_trunc(v + (vf)(((vi)v & sign) | half));
}

/* ---- ternary: digit = round(x / d) + 1 */

/* 256 digits; d as stored. */
INLINE void ternary(uint8_t *digit, uint8_t d16[2], const float *x)
{
    float d = largest_magnitude(x, LMI_QK_K);
    /* Where 1 / d overflows every digit comes out as that of zero. */
    float id = d > 0 && 1 / d <= 3.40282347e38f ? 1 / d : 0;

    lmi_store16(d16, lmi_f32_to_f16(d));
    for (int i = 0; i < LMI_QK_K; i += LANES)
        vi_store_u8(digit + i, rounded_away(x + i, id) + vi_set(1));
}

/* Bytes of `n_digits` (<= 5) digits each, as fractions of 256; the digits of a
 * byte are n_bytes apart. */
INLINE void pack_ternary(uint8_t *q, const uint8_t *digit, int n_bytes, int n_digits)
{
    for (int i = 0; i < n_bytes; i++) {
        unsigned v = 0;
        for (int k = 0; k < 5; k++)
            v = 3 * v + (k < n_digits ? digit[k * n_bytes + i] : 0);
        q[i] = (uint8_t)((v * 256 + 242) / 243);
    }
}

static void tq1_0_from_f32(void *dst, const float *src, size_t n)
{
    struct lmi_tq1_0 *b = dst;
    uint8_t digit[LMI_QK_K];

    for (; n > 0; n -= LMI_QK_K, src += LMI_QK_K, b++) {
        ternary(digit, b->d, src);
        pack_ternary(b->qs, digit, 32, 5);
        pack_ternary(b->qs + 32, digit + 160, 16, 5);
        pack_ternary(b->qh, digit + 240, 4, 4);
    }
}

static void tq2_0_from_f32(void *dst, const float *src, size_t n)
{
    struct lmi_tq2_0 *b = dst;
    uint8_t digit[LMI_QK_K];

    for (; n > 0; n -= LMI_QK_K, src += LMI_QK_K, b++) {
        ternary(digit, b->d, src);
        for (int i = 0; i < 64; i++) {
            const uint8_t *t = digit + i / 32 * 128 + i % 32;
            b->qs[i] = (uint8_t)(t[0] | t[32] << 2 | t[64] << 4 | t[96] << 6);
        }
    }
}

/* ---- one and two bits */

/* Sums of |x| in order, LANES rows of `elems` side by side. */
INLINE void magnitude_sums(float sum[LANES], const float *x, int elems)
{
    vf t[LANES], s = vf_set(0);

    for (int c = 0; c < elems; c += LANES) {
        for (int l = 0; l < LANES; l++)
            t[l] = vf_load(x + l * elems + c);
        transpose(t);
        for (int i = 0; i < LANES; i++)
            s += vf_abs(t[i]);
    }
    vf_store(sum, s);
}

INLINE void q1_0_batch(struct lmi_q1_0 *b, const float *x, int n)
{
    float sum[LANES];

    magnitude_sums(sum, x, LMI_QK1_0);
    for (int l = 0; l < n; l++, b++, x += LMI_QK1_0) {
        lmi_store16(b->d, lmi_f32_to_f16(sum[l] / LMI_QK1_0));
        for (int i = 0; i < LMI_QK1_0 / 8; i++) {
            unsigned bits = 0;
            for (int k = 0; k < 8; k++)
                bits |= (unsigned)(x[8 * i + k] >= 0) << k;
            b->qs[i] = (uint8_t)bits;
        }
    }
}

static void q1_0_from_f32(void *dst, const float *src, size_t n)
{
    enum { ELEMS = LANES * LMI_QK1_0 };
    struct lmi_q1_0 *b = dst;

    for (; n >= ELEMS; n -= ELEMS, src += ELEMS, b += LANES)
        q1_0_batch(b, src, LANES);
    if (n > 0) {
        float rest[ELEMS] = {0};
        memcpy(rest, src, n * sizeof *src);
        q1_0_batch(b, rest, (int)(n / LMI_QK1_0));
    }
}

static void q2_0_from_f32(void *dst, const float *src, size_t n)
{
    struct lmi_q2_0 *b = dst;
    uint8_t code[LMI_QK2_0];

    for (; n > 0; n -= LMI_QK2_0, src += LMI_QK2_0, b++) {
        float d = largest_magnitude(src, LMI_QK2_0), id = d > 0 ? 1 / d : 0;
        lmi_store16(b->d, lmi_f32_to_f16(d));
        for (int i = 0; i < LMI_QK2_0; i += LANES) {
            vi q = rounded_away(src + i, id) + vi_set(1);
            vi_store_u8(code + i, vi_max(vi_min(q, vi_set(3)), vi_set(0)));
        }
        for (int i = 0; i < LMI_QK2_0 / 4; i++)
            b->qs[i] = (uint8_t)(code[4 * i] | code[4 * i + 1] << 2 | code[4 * i + 2] << 4 | code[4 * i + 3] << 6);
    }
}

/* ---- E2M1 under a scale */

/* Nearest of 0 .5 1 1.5 2 3 4 6 times twice `half_scale`, ties to the smaller;
 * no negative zero.  The midpoints are exact products. */
INLINE vi e2m1_codes(const float *x, float half_scale)
{
    static const float middle[7] = {0.5f, 1.5f, 2.5f, 3.5f, 5, 7, 10};
    vf v = vf_load(x), a = vf_abs(v);
    vi code = vi_set(0);

    for (int i = 0; i < 7; i++)
        code = (vi)vf_sel(vf_lt(vf_set(middle[i] * half_scale), a), (vf)vi_set(i + 1), (vf)code);
    vi sign = (vi)vf_sel(vf_lt(vf_set(0.5f * half_scale), a), v, vf_set(0));
    return code | ((sign & vi_set(INT32_MIN)) >> 28 & vi_set(8));
}

/* floor(log2f(a)): log2f rounds, so a little below a power of two it is whole
 * already; how little grows with the exponent. */
INLINE int floor_log2(float a)
{
    static const uint8_t reach[8] = {0, 1, 2, 5, 11, 22, 44, 88}; /* 2^m ln 2 */
    uint32_t u = lmi_bits(a);
    int shift = u < 0x800000 ? __builtin_clz(u) - 8 : 0;
    int e = (int)(u < 0x800000 ? 1 : u >> 23) - 127 - shift, next = e + 1;
    uint32_t below = 0x1000000 - (u < 0x800000 ? u << shift : (u & 0x7fffff) | 0x800000);

    if (next == 0)
        return e;
    int m = 31 - __builtin_clz((unsigned)(next > 0 ? 2 * next - 1 : -next)) - (next > 0);
    return m >= 0 && below <= reach[m] ? next : e;
}

static void mxfp4_from_f32(void *dst, const float *src, size_t n)
{
    struct lmi_mxfp4 *b = dst;
    uint8_t code[LMI_QK];

    for (; n > 0; n -= LMI_QK, src += LMI_QK, b++) {
        float max = largest_magnitude(src, LMI_QK);
        b->e = max > 0 ? (uint8_t)(floor_log2(max) + 125) : 0;
        float half_scale = b->e < 2 ? lmi_float(0x200000u << b->e) : lmi_float((uint32_t)(b->e - 1) << 23);
        for (int i = 0; i < LMI_QK; i += LANES)
            vi_store_u8(code + i, e2m1_codes(src + i, half_scale));
        for (int i = 0; i < 16; i++)
            b->qs[i] = (uint8_t)(code[i] | code[i + 16] << 4);
    }
}

/* ggml's: mantissa rounded half up by its next bit alone, subnormals half up. */
INLINE uint8_t to_ue4m3(float x)
{
    x = x > 448 ? 448 : x;
    uint32_t u = lmi_bits(x);
    int e = (int)(u >> 23) - 120;

    if (!(x > 0))
        return 0;
    if (e <= 0) {
        int m = (int)(x * 512 + 0.5f);
        return (uint8_t)(m > 7 ? 7 : m);
    }
    u = (uint32_t)e << 3 | (u >> 20 & 7);
    u += lmi_bits(x) >> 19 & 1;
    return (uint8_t)(e >= 15 || u >= 0x78 ? 0x7e : u);
}

INLINE float of_ue4m3(uint8_t code)
{
    int e = code >> 3, m = code & 7;

    return e == 0 ? (float)m * 0x1p-9f : lmi_float((uint32_t)(e + 120) << 23 | (uint32_t)m << 20);
}

static void nvfp4_from_f32(void *dst, const float *src, size_t n)
{
    struct lmi_nvfp4 *b = dst;
    uint8_t code[16];

    for (; n > 0; n -= LMI_QK_NVFP4, b++)
        for (int g = 0; g < 4; g++, src += 16) {
            b->scale[g] = to_ue4m3(largest_magnitude(src, 16) / 6);
            float half_scale = b->scale[g] ? 0.5f * of_ue4m3(b->scale[g]) : INFINITY;
            for (int i = 0; i < 16; i += LANES)
                vi_store_u8(code + i, e2m1_codes(src + i, half_scale));
            for (int i = 0; i < 8; i++)
                b->qs[8 * g + i] = (uint8_t)(code[i] | code[i + 8] << 4);
        }
}

#endif
