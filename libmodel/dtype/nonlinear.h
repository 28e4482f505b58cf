/* Row kernels (to blocks) of IQ4_NL and IQ4_XS: sixteen uneven levels.  ggml's
 * search, one group of 32 a lane: the inverse scales (-127 + k) / largest for
 * k = -7 .. 7 are tried, each rounding is solved for its scale, the best stays. */
#ifndef LIBMODEL_DTYPE_NONLINEAR_H
#define LIBMODEL_DTYPE_NONLINEAR_H

#include "libmodel/dtype/blocks.h"
#include "libmodel/dtype/fit.h"
#include "libmodel/dtype/iq4.h"
#include "libmodel/dtype/weigh.h"

/* ---- index of the nearest level: of the upper one half way, the last for NaN */

#if LMI_LANES == 16

INLINE vi level_index(vf x)
{
    /* Buckets of width 8 hold at most one midpoint.  Rounding may put a value
     * one bucket too high; that bucket decides the same about it. */
    static const float middle[32] = {
        -115.5f, -115.5f, -93.5f, -93.5f, -93.5f, -74, -74, -57, -57, -42, -42, -28.5f, -28.5f, -16, -16, -4.5f,
        7, 19, 19, 31.5f, 45.5f, 45.5f, 61, 61, 79, 79, 101, 101, 101, 101, 101, 101};
    static const int32_t below[32] = {0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7,
                                      8, 9, 9, 10, 11, 11, 12, 12, 13, 13, 14, 14, 14, 14, 14, 14};
    vf v = vf_max(vf_min(x, vf_set(127)), vf_set(-128)); /* NaN: 127 */
    __m512i bucket = (__m512i)vi_trunc(v * vf_set(0.125f) + vf_set(16));
    __m512 m = _mm512_permutex2var_ps(_mm512_loadu_ps(middle), bucket, _mm512_loadu_ps(middle + 16));
    __m512i i = _mm512_permutex2var_epi32(_mm512_loadu_si512(below), bucket, _mm512_loadu_si512(below + 16));

    return (vi)_mm512_mask_add_epi32(i, _mm512_cmp_ps_mask(m, (__m512)v, _CMP_LE_OQ), i, _mm512_set1_epi32(1));
}

INLINE vf level_of(vi index)
{
    const __m512 level = _mm512_setr_ps(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);

    return (vf)_mm512_permutexvar_ps((__m512i)index, level);
}

#elif LMI_LANES == 8

/* Twice the index, plus 1 where the value is not below its midpoint. */
INLINE vi next_bit(vi index, __m256 x, __m256 middle)
{
    return index + index - (vi)_mm256_cmp_ps(x, middle, _CMP_NLT_UQ);
}

INLINE vi level_index(vf x)
{
    const __m256 eighths = _mm256_setr_ps(-115.5f, -74, -42, -16, 7, 31.5f, 61, 101);
    const __m256 quarters = _mm256_setr_ps(-93.5f, -28.5f, 19, 79, 0, 0, 0, 0);
    __m256 v = (__m256)x;
    vi i = next_bit(vi_set(0), v, _mm256_set1_ps(-4.5f));

    i = next_bit(i, v, (__m256)vf_sel((vi)(i > 0), vf_set(45.5f), vf_set(-57)));
    i = next_bit(i, v, _mm256_permutevar8x32_ps(quarters, (__m256i)i));
    return next_bit(i, v, _mm256_permutevar8x32_ps(eighths, (__m256i)i));
}

INLINE vf level_of(vi index)
{
    const __m256 low = _mm256_setr_ps(-127, -104, -83, -65, -49, -35, -22, -10);
    const __m256 high = _mm256_setr_ps(1, 13, 25, 38, 53, 69, 89, 113);
    __m256 a = _mm256_permutevar8x32_ps(low, (__m256i)index), b = _mm256_permutevar8x32_ps(high, (__m256i)index);

    return (vf)_mm256_blendv_ps(a, b, (__m256)(index << 28));
}

#else

INLINE vi level_index(vf x)
{
    static const float middle[15] = {-115.5f, -93.5f, -74, -57, -42, -28.5f, -16, -4.5f, 7, 19, 31.5f, 45.5f, 61, 79,
                                     101};
    vi i = vi_set(15);

    for (int k = 0; k < 15; k++)
        i += x < vf_set(middle[k]); /* -1 where true */
    return i;
}

INLINE vf level_of(vi i)
{
    return (vf){(float)lmi_iq4_level(i[0]), (float)lmi_iq4_level(i[1]), (float)lmi_iq4_level(i[2]),
                (float)lmi_iq4_level(i[3])};
}

#endif

/* ---- the search */

/* The scales of LANES groups of 32. */
INLINE vf fit_levels(const vf *x, const vf *w)
{
    const vf zero = vf_set(0);
    vf amax, max = largest(x, 32, &amax), scale = zero, best = zero;

    for (int k = -8; k <= 7; k++) {
        vf inverse_scale = k < -7 ? vf_set(1) / (vf_neg(max) / vf_set(-127)) : vf_set((float)(k - 127)) / max;
        vf sum_qx = zero, sum_q2 = zero;
        for (int i = 0; i < 32; i++) {
            vf q = level_of(level_index(inverse_scale * x[i])), wq = w[i] * q;
            sum_qx += wq * x[i];
            sum_q2 += wq * q;
        }
        vm solved = vf_lt(zero, sum_q2);
        vf s = sum_qx / sum_q2;
        if (k < -7) {
            scale = vf_sel(solved, s, zero);
            best = scale * sum_qx;
            continue;
        }
        vm better = vm_and(solved, vf_lt(best * sum_q2, sum_qx * sum_qx));
        scale = vf_sel(better, s, scale);
        best = vf_sel(better, s * sum_qx, best);
    }
    return vf_sel(vf_lt(amax, vf_set(GROUP_EPS)), zero, scale);
}

INLINE void fit_level_groups(float *scale, const float *x, const float *w, int n_groups)
{
    vf t[32], tw[32];

    for (int g = 0; g < n_groups; g += LANES) {
        load_groups(t, x + 32 * g, 32);
        load_groups(tw, w + 32 * g, 32);
        vf_store(scale + g, fit_levels(t, tw));
    }
}

/* One group of 32 packed; inverse_scale 0 gives the level next to 0. */
INLINE void pack_levels(uint8_t qs[16], const float *x, float inverse_scale)
{
    vf inverse_v = vf_set(inverse_scale);

    for (int i = 0; i < 16; i += LANES) {
        vi low = level_index(inverse_v * vf_load(x + i)), high = level_index(inverse_v * vf_load(x + i + 16));
        vi_store_u8(qs + i, low | high << 4);
    }
}

/* ---- IQ4_NL */

INLINE void squares(float *w, const float *x, int n)
{
    for (int i = 0; i < n; i += LANES)
        vf_store(w + i, vf_load(x + i) * vf_load(x + i));
}

/* LANES blocks: a group of its own each, its spread 2 / 32 of the sum. */
INLINE void iq4_nl_weigh(float *w, const float *x, struct columns *c, int n)
{
    float sum[LANES];

    square_sums(sum, x, LMI_QK, LMI_QK, LANES);
    for (int k = 0; k < n; k++, x += LMI_QK, w += LMI_QK)
        weigh(w, next_columns(c, LMI_QK), x, LMI_QK, sum[k] * (2.0f / LMI_QK));
}

/* c NULL: no importance, weights x^2. */
INLINE void iq4_nl_rows(struct lmi_iq4_nl *b, const float *src, size_t n, struct columns *c)
{
    enum { ELEMS = LANES * LMI_QK };
    float w[ELEMS] = {0}, rest[ELEMS], scale[LANES];

    while (n > 0) {
        int k = n < ELEMS ? (int)n / LMI_QK : LANES;
        const float *x = whole_batch(src, rest, n, ELEMS);
        if (c)
            iq4_nl_weigh(w, x, c, k);
        else
            squares(w, x, ELEMS);
        fit_level_groups(scale, x, w, k);
        for (int i = 0; i < k; i++, b++, x += LMI_QK) {
            lmi_store16(b->d, lmi_f32_to_f16(scale[i]));
            pack_levels(b->qs, x, scale[i] != 0 ? 1 / scale[i] : 0);
        }
        src += k * LMI_QK;
        n -= (size_t)k * LMI_QK;
    }
}

static void iq4_nl_from_f32(void *dst, const float *src, size_t n)
{
    iq4_nl_rows(dst, src, n, NULL);
}

static void iq4_nl_weighted(void *dst, const float *src, const float *weights, size_t n_per_row, size_t n_rows)
{
    struct columns c = {weights, n_per_row, 0};

    iq4_nl_rows(dst, src, n_per_row * n_rows, &c);
}

/* ---- IQ4_XS */

INLINE void iq4_xs_block(struct lmi_iq4_xs *b, const float *x, const float *scale)
{
    float max = 0, amax = 0;
    unsigned high = 0;

    for (int g = 0; g < 8; g++)
        if (fabsf(scale[g]) > amax) {
            amax = fabsf(scale[g]);
            max = scale[g];
        }
    float d = -max / 32, id = d != 0 ? 1 / d : 0;
    lmi_store16(b->d, lmi_f32_to_f16(d));
    memset(b->scales_low, 0, sizeof b->scales_low);
    for (int g = 0; g < 8; g++) {
        int s = nearest1(id * scale[g]);
        s = s < -32 ? -32 : s > 31 ? 31 : s;
        float dg = d * (float)s; /* not the rounded d */
        pack_levels(b->qs + 16 * g, x + 32 * g, dg != 0 ? 1 / dg : 0);
        b->scales_low[g / 2] = (uint8_t)(b->scales_low[g / 2] | ((s + 32) & 15) << (g % 2 * 4));
        high |= (unsigned)(s + 32) >> 4 << 2 * g;
    }
    lmi_store16(b->scales_high, (uint16_t)high);
}

INLINE void iq4_xs_rows(struct lmi_iq4_xs *b, const float *src, size_t n, struct columns *c)
{
    enum { ELEMS = LANES * LMI_QK_K };
    float w[ELEMS] = {0}, rest[ELEMS], scale[LANES * 8];

    while (n > 0) {
        int k = n < ELEMS ? (int)n / LMI_QK_K : LANES;
        const float *x = whole_batch(src, rest, n, ELEMS);
        if (c)
            weigh_blocks(w, x, c, k, 1, 2.0f / LMI_QK_K);
        else
            squares(w, x, k * LMI_QK_K);
        fit_level_groups(scale, x, w, 8 * k);
        for (int i = 0; i < k; i++)
            iq4_xs_block(b++, x + i * LMI_QK_K, scale + 8 * i);
        src += k * LMI_QK_K;
        n -= (size_t)k * LMI_QK_K;
    }
}

static void iq4_xs_from_f32(void *dst, const float *src, size_t n)
{
    iq4_xs_rows(dst, src, n, NULL);
}

static void iq4_xs_weighted(void *dst, const float *src, const float *weights, size_t n_per_row, size_t n_rows)
{
    struct columns c = {weights, n_per_row, 0};

    iq4_xs_rows(dst, src, n_per_row * n_rows, &c);
}

#endif
