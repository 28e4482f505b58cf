/* Row kernels from IQ1, IQ2 and IQ3 blocks to f32. */
#ifndef LIBMODEL_DTYPE_IQ_DECODE_H
#define LIBMODEL_DTYPE_IQ_DECODE_H

#include "libmodel/dtype/lattice.h"

/* y[i] = value[level i] d, 16 elements of two points; bit i of signs: minus.  A
 * change of sign after the product is what ggml's factor -1 comes to. */
INLINE void put_eights(float *y, unsigned low, unsigned high, const float value[4], float d, unsigned signs)
{
    int32_t points = (int32_t)(low | high << 16);

#if LMI_LANES == 4
    for (int i = 0; i < 16; i++)
        y[i] = lmi_float(lmi_bits(value[points >> 2 * i & 3] * d) ^ (signs >> i & 1) << 31);
#else
    for (int i = 0; i < 16; i += LANES) {
        vi at = lane_numbers() + vi_set(i);
        vi minus = vi_set((int32_t)signs) << (vi_set(31) - at) & vi_set(INT32_MIN);
        vf_store(y + i, (vf)((vi)(pick4(value, vi_set(points) >> (at + at)) * vf_set(d)) ^ minus));
    }
#endif
}

/* The same of eight elements of two points of four, 12 bits each. */
INLINE void put_fours(float *y, unsigned low, unsigned high, const float value[8], float d, unsigned signs)
{
    unsigned points = low | high << 12;

    for (int i = 0; i < 8; i++)
        y[i] = lmi_float(lmi_bits(value[points >> 3 * i & 7] * d) ^ (signs >> i & 1) << 31);
}

/* Seven signs and the one that makes their number even. */
INLINE unsigned eight_signs(unsigned seven)
{
    return seven | (unsigned)(__builtin_popcount(seven) & 1) << 7;
}

INLINE uint32_t load32(const uint8_t *p)
{
    return lmi_load16(p) | (uint32_t)lmi_load16(p + 2) << 16;
}

static const float iq2_values[4] = {8, 25, 43, 43};
static const float iq3_xxs_values[8] = {4, 12, 20, 28, 36, 44, 52, 62};
static const float iq3_s_values[8] = {1, 3, 5, 7, 9, 11, 13, 15};

static void iq2_xxs_to_f32(float *restrict y, const void *restrict src, size_t n)
{
    const struct lmi_iq2_xxs *b = src;

    for (; n > 0; n -= LMI_QK_K, b++) {
        float d = lmi_f16_to_f32(lmi_load16(b->d));
        for (int g = 0; g < 8; g++, y += 32) {
            const uint8_t *q = b->groups[g];
            uint32_t word = load32(q + 4);
            float dg = d * (0.5f + (float)(word >> 28)) * 0.25f;
            for (int k = 0; k < 4; k += 2) {
                unsigned signs = eight_signs(word >> 7 * k & 127) | eight_signs(word >> 7 * (k + 1) & 127) << 8;
                put_eights(y + 8 * k, lmi_iq2_xxs_points[q[k]], lmi_iq2_xxs_points[q[k + 1]], iq2_values, dg, signs);
            }
        }
    }
}

/* Scale s of a group of 16: a nibble. */
INLINE float iq2_scale(float d, const uint8_t *scales, int s)
{
    return d * (0.5f + (float)(scales[s / 2] >> s % 2 * 4 & 15)) * 0.25f;
}

static void iq2_xs_to_f32(float *restrict y, const void *restrict src, size_t n)
{
    const struct lmi_iq2_xs *b = src;

    for (; n > 0; n -= LMI_QK_K, b++) {
        float d = lmi_f16_to_f32(lmi_load16(b->d));
        for (int s = 0; s < 16; s++, y += 16) {
            unsigned low = lmi_load16(b->q[2 * s]), high = lmi_load16(b->q[2 * s + 1]);
            put_eights(y, lmi_iq2_xs_points[low & 511], lmi_iq2_xs_points[high & 511], iq2_values,
                       iq2_scale(d, b->scales, s), eight_signs(low >> 9) | eight_signs(high >> 9) << 8);
        }
    }
}

static void iq2_s_to_f32(float *restrict y, const void *restrict src, size_t n)
{
    const struct lmi_iq2_s *b = src;

    for (; n > 0; n -= LMI_QK_K, b++) {
        float d = lmi_f16_to_f32(lmi_load16(b->d));
        for (int s = 0; s < 16; s++, y += 16) {
            unsigned qh = b->qh[s / 2] >> s % 2 * 4;
            unsigned low = b->q[2 * s] | (qh & 3) << 8, high = b->q[2 * s + 1] | (qh >> 2 & 3) << 8;
            put_eights(y, lmi_iq2_s_points[low], lmi_iq2_s_points[high], iq2_values, iq2_scale(d, b->scales, s),
                       lmi_load16(b->signs + 2 * s));
        }
    }
}

static void iq3_xxs_to_f32(float *restrict y, const void *restrict src, size_t n)
{
    const struct lmi_iq3_xxs *b = src;

    for (; n > 0; n -= LMI_QK_K, b++) {
        float d = lmi_f16_to_f32(lmi_load16(b->d));
        const uint8_t *q = b->q;
        for (int g = 0; g < 8; g++) {
            uint32_t word = load32(b->signs_scales[g]);
            float dg = d * (0.5f + (float)(word >> 28)) * 0.5f;
            for (int k = 0; k < 4; k++, q += 2, y += 8)
                put_fours(y, lmi_iq3_xxs_points[q[0]], lmi_iq3_xxs_points[q[1]], iq3_xxs_values, dg,
                          eight_signs(word >> 7 * k & 127));
        }
    }
}

static void iq3_s_to_f32(float *restrict y, const void *restrict src, size_t n)
{
    const struct lmi_iq3_s *b = src;

    for (; n > 0; n -= LMI_QK_K, b++) {
        float d = lmi_f16_to_f32(lmi_load16(b->d));
        for (int k = 0; k < 32; k++, y += 8) {
            unsigned qh = b->qh[k / 4] >> k % 4 * 2;
            float dg = d * (float)(1 + 2 * (b->scales[k / 8] >> k / 4 % 2 * 4 & 15));
            put_fours(y, lmi_iq3_s_points[b->q[2 * k] | (qh & 1) << 8],
                      lmi_iq3_s_points[b->q[2 * k + 1] | (qh >> 1 & 1) << 8], iq3_s_values, dg, b->signs[k]);
        }
    }
}

/* Values of IQ1's levels: the sum is exact. */
static const float iq1_values[2][4] = {{-0.875f, 0.125f, 1.125f, 0}, {-1.125f, -0.125f, 0.875f, 0}};

static void iq1_s_to_f32(float *restrict y, const void *restrict src, size_t n)
{
    const struct lmi_iq1_s *b = src;

    for (; n > 0; n -= LMI_QK_K, b++) {
        float d = lmi_f16_to_f32(lmi_load16(b->d));
        for (int g = 0; g < 8; g++, y += 32) {
            const uint8_t *q = b->q + 4 * g;
            unsigned qh = lmi_load16(b->qh[g]);
            float dg = d * (float)(2 * (qh >> 12 & 7) + 1);
            for (int k = 0; k < 4; k += 2)
                put_eights(y + 8 * k, lmi_iq1_points[q[k] | (qh >> 3 * k & 7) << 8],
                           lmi_iq1_points[q[k + 1] | (qh >> (3 * k + 3) & 7) << 8], iq1_values[qh >> 15], dg, 0);
        }
    }
}

/* The two eights of 16 elements may be moved differently. */
INLINE void put_moved(float *y, unsigned point, unsigned down, float d)
{
    const float *value = iq1_values[down & 1];

    for (int i = 0; i < 8; i++)
        y[i] = value[point >> 2 * i & 3] * d;
}

static void iq1_m_to_f32(float *restrict y, const void *restrict src, size_t n)
{
    const struct lmi_iq1_m *b = src;

    for (; n > 0; n -= LMI_QK_K, b++) {
        unsigned d16 = 0;
        for (int k = 0; k < 4; k++)
            d16 |= (unsigned)b->scales[k][1] >> 4 << 4 * k;
        float d = lmi_f16_to_f32((uint16_t)d16);
        for (int g = 0; g < 16; g++, y += 16) {
            unsigned qh = b->qh[g], scale = (unsigned)lmi_load16(b->scales[g / 4]) >> 3 * (g % 4) & 7;
            float dg = d * (float)(2 * scale + 1);
            put_moved(y, lmi_iq1_points[b->q[2 * g] | (qh & 7) << 8], qh >> 3, dg);
            put_moved(y + 8, lmi_iq1_points[b->q[2 * g + 1] | (qh >> 4 & 7) << 8], qh >> 7, dg);
        }
    }
}

#endif
