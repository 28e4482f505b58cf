/* Row kernels from blocks to f32, in natural order. */
#ifndef LIBMODEL_DTYPE_DEQUANT_H
#define LIBMODEL_DTYPE_DEQUANT_H

#include "libmodel/dtype/blocks.h"
#include "libmodel/dtype/lanes.h"

INLINE float f16_at(const uint8_t *p)
{
    return lmi_f16_to_f32(lmi_load16(p));
}

/* LANES fields of consecutive bytes: `mask` at bit `shift`. */
INLINE vi fields(const uint8_t *p, int shift, int mask)
{
    return vi_load_u8(p) >> shift & vi_set(mask);
}

/* Not the affine form with m = 0: adding 0 would lose the sign of -0. */
INLINE void put_scaled(float *y, vi q, float d)
{
    vf_store(y, vf_of_vi(q) * vf_set(d));
}

INLINE void put_affine(float *y, vi q, float d, float m)
{
    vf_store(y, vf_of_vi(q) * vf_set(d) + vf_set(m));
}

static void q4_0_to_f32(float *restrict y, const void *restrict src, size_t n)
{
    const struct lmi_q4_0 *b = src;

    for (; n > 0; n -= LMI_QK, y += LMI_QK, b++) {
        float d = f16_at(b->d);
        for (int i = 0; i < 16; i += LANES) {
            put_scaled(y + i, fields(b->qs + i, 0, 15) - vi_set(8), d);
            put_scaled(y + i + 16, fields(b->qs + i, 4, 15) - vi_set(8), d);
        }
    }
}

static void q4_1_to_f32(float *restrict y, const void *restrict src, size_t n)
{
    const struct lmi_q4_1 *b = src;

    for (; n > 0; n -= LMI_QK, y += LMI_QK, b++) {
        float d = f16_at(b->d), m = f16_at(b->m);
        for (int i = 0; i < 16; i += LANES) {
            put_affine(y + i, fields(b->qs + i, 0, 15), d, m);
            put_affine(y + i + 16, fields(b->qs + i, 4, 15), d, m);
        }
    }
}

/* The 32 codes of a 5-bit block.  Eight fifth bits become eight bytes: copy the
 * byte everywhere, keep bit i in byte i, carry what is left up to bit 7. */
INLINE void unpack_fives(uint8_t *code, const uint8_t *qs, const uint8_t *qh)
{
    const uint64_t ones = 0x0101010101010101, low7 = 0x7f * ones;

    for (int j = 0; j < 4; j++) {
        uint64_t bit = qh[j] * ones & 0x8040201008040201;
        uint64_t fifth = (((bit & low7) + low7) | bit) >> 3 & 0x10 * ones;
        lmi_store64(code + 8 * j, fifth | (lmi_load64(qs + j % 2 * 8) >> j / 2 * 4 & 15 * ones));
    }
}

static void q5_0_to_f32(float *restrict y, const void *restrict src, size_t n)
{
    const struct lmi_q5_0 *b = src;
    uint8_t code[LMI_QK];

    for (; n > 0; n -= LMI_QK, y += LMI_QK, b++) {
        float d = f16_at(b->d);
        unpack_fives(code, b->qs, b->qh);
        for (int i = 0; i < LMI_QK; i += LANES)
            put_scaled(y + i, vi_load_u8(code + i) - vi_set(16), d);
    }
}

static void q5_1_to_f32(float *restrict y, const void *restrict src, size_t n)
{
    const struct lmi_q5_1 *b = src;
    uint8_t code[LMI_QK];

    for (; n > 0; n -= LMI_QK, y += LMI_QK, b++) {
        float d = f16_at(b->d), m = f16_at(b->m);
        unpack_fives(code, b->qs, b->qh);
        for (int i = 0; i < LMI_QK; i += LANES)
            put_affine(y + i, vi_load_u8(code + i), d, m);
    }
}

static void q8_0_to_f32(float *restrict y, const void *restrict src, size_t n)
{
    const struct lmi_q8_0 *b = src;

    for (; n > 0; n -= LMI_QK, y += LMI_QK, b++) {
        float d = f16_at(b->d);
        for (int j = 0; j < LMI_QK; j++)
            y[j] = (float)b->qs[j] * d;
    }
}

/* ---- K-quants: j counts the groups of a block; 128 elements share the bytes of
 * their four planes. */

static void q2_k_to_f32(float *restrict y, const void *restrict src, size_t n)
{
    const struct lmi_q2_k *b = src;

    for (; n > 0; n -= LMI_QK_K, b++) {
        float d = f16_at(b->d), dmin = f16_at(b->dmin);
        for (int j = 0; j < 16; j++, y += 16) {
            const uint8_t *q = b->qs + 32 * (j / 8) + 16 * (j % 2);
            float dj = d * (float)(b->scales[j] & 15), m = dmin * (float)(b->scales[j] >> 4);
            for (int i = 0; i < 16; i += LANES)
                put_affine(y + i, fields(q + i, j / 2 % 4 * 2, 3), dj, -m);
        }
    }
}

static void q3_k_to_f32(float *restrict y, const void *restrict src, size_t n)
{
    const struct lmi_q3_k *b = src;

    for (; n > 0; n -= LMI_QK_K, b++) {
        float d = f16_at(b->d);
        for (int j = 0; j < 16; j++, y += 16) {
            const uint8_t *q = b->qs + 32 * (j / 8) + 16 * (j % 2), *h = b->hmask + 16 * (j % 2);
            int low = b->scales[j % 8] >> (j / 8 * 4) & 15, high = b->scales[8 + j % 4] >> (j / 4 * 2) & 3;
            float dj = d * (float)((low | high << 4) - 32);
            for (int i = 0; i < 16; i += LANES) {
                vi code = fields(q + i, j / 2 % 4 * 2, 3) | fields(h + i, j / 2, 1) << 2;
                put_scaled(y + i, code - vi_set(4), dj);
            }
        }
    }
}

INLINE void unpack_scales(float *scale, float *min, const uint8_t *packed, float d, float dmin)
{
    for (int j = 0; j < 4; j++) {
        scale[j] = d * (float)(packed[j] & 63);
        min[j] = dmin * (float)(packed[j + 4] & 63);
        scale[j + 4] = d * (float)((packed[j + 8] & 15) | packed[j] >> 6 << 4);
        min[j + 4] = dmin * (float)(packed[j + 8] >> 4 | packed[j + 4] >> 6 << 4);
    }
}

static void q4_k_to_f32(float *restrict y, const void *restrict src, size_t n)
{
    const struct lmi_q4_k *b = src;
    float scale[8], min[8];

    for (; n > 0; n -= LMI_QK_K, b++) {
        unpack_scales(scale, min, b->scales, f16_at(b->d), f16_at(b->dmin));
        for (int j = 0; j < 8; j++, y += 32) {
            const uint8_t *q = b->qs + 32 * (j / 2);
            for (int i = 0; i < 32; i += LANES)
                put_affine(y + i, fields(q + i, j % 2 * 4, 15), scale[j], -min[j]);
        }
    }
}

static void q5_k_to_f32(float *restrict y, const void *restrict src, size_t n)
{
    const struct lmi_q5_k *b = src;
    float scale[8], min[8];

    for (; n > 0; n -= LMI_QK_K, b++) {
        unpack_scales(scale, min, b->scales, f16_at(b->d), f16_at(b->dmin));
        for (int j = 0; j < 8; j++, y += 32) {
            const uint8_t *q = b->qs + 32 * (j / 2);
            for (int i = 0; i < 32; i += LANES)
                put_affine(y + i, fields(q + i, j % 2 * 4, 15) | fields(b->qh + i, j, 1) << 4, scale[j], -min[j]);
        }
    }
}

static void q6_k_to_f32(float *restrict y, const void *restrict src, size_t n)
{
    const struct lmi_q6_k *b = src;

    for (; n > 0; n -= LMI_QK_K, b++) {
        float d = f16_at(b->d);
        for (int j = 0; j < 16; j++, y += 16) {
            int half = j / 8, plane = j / 2 % 4, at = 16 * (j % 2);
            const uint8_t *ql = b->ql + 64 * half + 32 * (plane % 2) + at, *qh = b->qh + 32 * half + at;
            for (int i = 0; i < 16; i += LANES) {
                vi code = fields(ql + i, plane / 2 * 4, 15) | fields(qh + i, plane * 2, 3) << 4;
                put_scaled(y + i, code - vi_set(32), d * (float)b->scales[j]);
            }
        }
    }
}

/* ---- 16-bit floats */

static void f16_to_f32(float *restrict y, const void *restrict src, size_t n)
{
    const uint8_t *h = src;
    size_t i = 0;

#if LMI_LANES > 4 /* one instruction there, a worse form of the scalar loop elsewhere */
    for (; i + LANES <= n; i += LANES)
        vf_store(y + i, vf_load_f16(h + 2 * i));
#endif
    for (; i < n; i++)
        y[i] = lmi_f16_to_f32(lmi_load16(h + 2 * i));
}

static void f16_from_f32(void *dst, const float *x, size_t n)
{
    uint8_t *h = dst;
    size_t i = 0;

#if LMI_LANES > 4
    for (; i + LANES <= n; i += LANES)
        vf_store_f16(h + 2 * i, vf_load(x + i));
#endif
    for (; i < n; i++)
        lmi_store16(h + 2 * i, lmi_f32_to_f16(x[i]));
}

static void bf16_to_f32(float *restrict y, const void *restrict src, size_t n)
{
    const uint8_t *h = src;

    for (size_t i = 0; i < n; i++)
        y[i] = lmi_bf16_to_f32(lmi_load16(h + 2 * i));
}

static void bf16_from_f32(void *restrict dst, const float *restrict x, size_t n)
{
    uint8_t *h = dst;

    for (size_t i = 0; i < n; i++)
        lmi_store16(h + 2 * i, lmi_f32_to_bf16(x[i]));
}

#endif
