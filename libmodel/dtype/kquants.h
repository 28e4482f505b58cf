/* Row kernels (to blocks) of Q2_K, Q3_K, Q4_K, Q5_K and Q6_K.  For each block
 * or pair of blocks: fit all groups (fit.h), round the groups' scales, code
 * again with the rounded scales, pack. */
#ifndef LIBMODEL_DTYPE_KQUANTS_H
#define LIBMODEL_DTYPE_KQUANTS_H

#include "libmodel/dtype/blocks.h"
#include "libmodel/dtype/dequant.h"
#include "libmodel/dtype/fit.h"

/* ---- codes of one group with its rounded scale, in natural order */

INLINE void affine_codes(uint8_t *code, const float *x, int n, float d, float dm, int nmax)
{
    for (int i = 0; i < n; i += LANES)
        vi_store_u8(code + i, nearest_in((vf_load(x + i) + vf_set(dm)) / vf_set(d), 0, nmax));
}

INLINE void symmetric_codes(uint8_t *code, const float *x, int n, float d, int half)
{
    for (int i = 0; i < n; i += LANES)
        vi_store_u8(code + i, nearest_in(vf_load(x + i) / vf_set(d), -half, half - 1) + vi_set(half));
}

/* The codes a search ended with: kept where the rounded scale is 0. */
INLINE void searched_codes(uint8_t *code, const float *x, int n, float iscale, float base, int lo, int hi)
{
    if (iscale == 0) {
        memset(code, 0, (size_t)n);
        return;
    }
    for (int i = 0; i < n; i += LANES) {
        vi q = nearest_in((vf_load(x + i) - vf_set(base)) * vf_set(iscale), lo, hi);
        vi_store_u8(code + i, q - vi_set(lo));
    }
}

INLINE float largest_positive(const float *v, int n)
{
    float max = 0;

    for (int j = 0; j < n; j++)
        max = v[j] > max ? v[j] : max;
    return max;
}

/* The value of largest magnitude, the first if several. */
INLINE float largest_signed(const float *v, int n)
{
    float max = 0, amax = 0;

    for (int j = 0; j < n; j++)
        if (fabsf(v[j]) > amax) {
            amax = fabsf(v[j]);
            max = v[j];
        }
    return max;
}

/* Four 2-bit planes of 128 codes each: bits 0-1 of code >> shift. */
INLINE void pack_planes(uint8_t *qs, const uint8_t *code, int shift)
{
    for (int h = 0; h < 2; h++, code += 128, qs += 32)
        for (int l = 0; l < 32; l++)
            qs[l] = (uint8_t)((code[l] >> shift & 3) | (code[l + 32] >> shift & 3) << 2 |
                              (code[l + 64] >> shift & 3) << 4 | (code[l + 96] >> shift & 3) << 6);
}

/* Bit `shift` of code[32 k + l] to bit k of mask[l]. */
INLINE void pack_mask(uint8_t *mask, const uint8_t *code, int shift)
{
    for (int l = 0; l < 32; l++)
        mask[l] = 0;
    for (int k = 0; k < 8; k++)
        for (int l = 0; l < 32; l++)
            mask[l] = (uint8_t)(mask[l] | (code[32 * k + l] >> shift & 1) << k);
}

/* ---- rows: FIT_GROUPS groups at a time, the rest of a row padded with zeros */

#define K_ROW(t, group) \
    static void t##_from_f32(void *dst, const float *src, size_t n) \
    { \
        enum { BATCH_ELEMS = FIT_GROUPS * (group) }; \
        struct lmi_##t *b = dst; \
        struct fits f; \
        for (; n >= BATCH_ELEMS; n -= BATCH_ELEMS, src += BATCH_ELEMS) { \
            t##_fit(&f, src, FIT_GROUPS); \
            for (int g = 0; g < FIT_GROUPS; g += LMI_QK_K / (group)) \
                t##_block(b++, src + g * (group), &f, g); \
        } \
        if (n > 0) { \
            float rest[BATCH_ELEMS] = {0}; \
            int n_groups = (int)n / (group); \
            memcpy(rest, src, n * sizeof *src); \
            t##_fit(&f, rest, n_groups); \
            for (int g = 0; g < n_groups; g += LMI_QK_K / (group)) \
                t##_block(b++, rest + g * (group), &f, g); \
        } \
    }

/* ---- Q2_K */

INLINE void q2_k_fit(struct fits *f, const float *x, int n_groups)
{
    const struct affine_spec spec = {16, 3, -0.5f, 0.1f, 15, true};
    struct affine_state s[STREAMS];

    for (int g = 0; g < n_groups; g += STREAMS * LANES) {
        for (int k = 0; k < STREAMS; k++) {
            load_groups(s[k].x, x + 16 * (g + k * LANES), 16);
            for (int i = 0; i < 16; i++)
                s[k].w[i] = vf_abs(s[k].x[i]);
        }
        fit_affine(s, spec);
        for (int k = 0; k < STREAMS; k++)
            store_affine(f, g + k * LANES, &s[k]);
    }
}

/* Codes by the block's rounded scales. */
INLINE void q2_k_codes(struct lmi_q2_k *b, const float *x, const struct fits *f, int g)
{
    float d = f16_at(b->d), dmin = f16_at(b->dmin);
    uint8_t code[LMI_QK_K];

    for (int j = 0; j < 16; j++) {
        float dj = d * (float)(b->scales[j] & 15);
        if (dj != 0)
            affine_codes(code + 16 * j, x + 16 * j, 16, dj, dmin * (float)(b->scales[j] >> 4), 3);
        else
            searched_codes(code + 16 * j, x + 16 * j, 16, f->iscale[g + j], f->base[g + j], 0, 3);
    }
    pack_planes(b->qs, code, 0);
}

/* One block from its 16 fits, f's from `g` on. */
INLINE void q2_k_block(struct lmi_q2_k *b, const float *x, const struct fits *f, int g)
{
    float max_scale = largest_positive(f->scale + g, 16), max_min = largest_positive(f->min + g, 16);
    float iscale = 15.0f / max_scale, imin = 15.0f / max_min;

    for (int j = 0; j < 16; j++) {
        uint8_t s = max_scale > 0 ? (uint8_t)nearest1(iscale * f->scale[g + j]) : 0;
        b->scales[j] = (uint8_t)(s | (max_min > 0 ? nearest1(imin * f->min[g + j]) * 16 : 0));
    }
    lmi_store16(b->d, max_scale > 0 ? lmi_f32_to_f16(max_scale / 15.0f) : 0);
    lmi_store16(b->dmin, max_min > 0 ? lmi_f32_to_f16(max_min / 15.0f) : 0);
    q2_k_codes(b, x, f, g);
}

K_ROW(q2_k, 16)

/* ---- Q4_K and Q5_K: the same but for the number of bits */

/* Weights |x| + rms(group). */
INLINE void weighted_fit(struct fits *f, const float *x, int n_groups, struct affine_spec spec)
{
    struct affine_state s[STREAMS];

    for (int g = 0; g < n_groups; g += STREAMS * LANES) {
        for (int k = 0; k < STREAMS; k++) {
            vf sum = vf_set(0);
            load_groups(s[k].x, x + 32 * (g + k * LANES), 32);
            for (int i = 0; i < 32; i++)
                sum += s[k].x[i] * s[k].x[i];
            vf rms = vf_sqrt(sum * vf_set(1.0f / 32));
            for (int i = 0; i < 32; i++)
                s[k].w[i] = rms + vf_abs(s[k].x[i]);
        }
        fit_affine(s, spec);
        for (int k = 0; k < STREAMS; k++)
            store_affine(f, g + k * LANES, &s[k]);
    }
}

INLINE void pack_scales(uint8_t packed[12], const uint8_t *ls, const uint8_t *lm)
{
    for (int j = 0; j < 4; j++) {
        packed[j] = (uint8_t)(ls[j] | ls[j + 4] >> 4 << 6);
        packed[j + 4] = (uint8_t)(lm[j] | lm[j + 4] >> 4 << 6);
        packed[j + 8] = (uint8_t)((ls[j + 4] & 15) | (lm[j + 4] & 15) << 4);
    }
}

/* Codes of one block by its rounded scales. */
INLINE void affine_block_codes(uint8_t *code, const float *x, const struct fits *f, int g, const uint8_t scales[12],
                               float d, float dmin, int nmax)
{
    float scale[8], min[8];

    unpack_scales(scale, min, scales, d, dmin);
    for (int j = 0; j < 8; j++)
        if (scale[j] != 0)
            affine_codes(code + 32 * j, x + 32 * j, 32, scale[j], min[j], nmax);
        else
            searched_codes(code + 32 * j, x + 32 * j, 32, f->iscale[g + j], f->base[g + j], 0, nmax);
}

/* Scales and codes of one block from its eight fits, f's from `g` on. */
INLINE void affine_block(uint8_t d16[2], uint8_t dmin16[2], uint8_t scales[12], uint8_t *code, const float *x,
                         const struct fits *f, int g, int nmax)
{
    float max_scale = largest_positive(f->scale + g, 8), max_min = largest_positive(f->min + g, 8);
    float iscale = max_scale > 0 ? 63.0f / max_scale : 0, imin = max_min > 0 ? 63.0f / max_min : 0;
    uint8_t ls[8], lm[8];

    for (int j = 0; j < 8; j++) {
        uint8_t s = (uint8_t)nearest1(iscale * f->scale[g + j]), m = (uint8_t)nearest1(imin * f->min[g + j]);
        ls[j] = s < 63 ? s : 63;
        lm[j] = m < 63 ? m : 63;
    }
    pack_scales(scales, ls, lm);
    lmi_store16(d16, lmi_f32_to_f16(max_scale / 63.0f));
    lmi_store16(dmin16, lmi_f32_to_f16(max_min / 63.0f));
    affine_block_codes(code, x, f, g, scales, f16_at(d16), f16_at(dmin16), nmax);
}

INLINE void pack_nibble_rows(uint8_t *qs, const uint8_t *code)
{
    for (int k = 0; k < 4; k++, qs += 32, code += 64)
        for (int l = 0; l < 32; l++)
            qs[l] = (uint8_t)((code[l] & 15) | (code[l + 32] & 15) << 4);
}

INLINE void q4_k_fit(struct fits *f, const float *x, int n_groups)
{
    weighted_fit(f, x, n_groups, (struct affine_spec){32, 15, -1.0f, 0.1f, 20, false});
}

INLINE void q4_k_block(struct lmi_q4_k *b, const float *x, const struct fits *f, int g)
{
    uint8_t code[LMI_QK_K];

    affine_block(b->d, b->dmin, b->scales, code, x, f, g, 15);
    pack_nibble_rows(b->qs, code);
}

K_ROW(q4_k, 32)

INLINE void q5_k_fit(struct fits *f, const float *x, int n_groups)
{
    weighted_fit(f, x, n_groups, (struct affine_spec){32, 31, -0.5f, 0.1f, 15, false});
}

INLINE void q5_k_block(struct lmi_q5_k *b, const float *x, const struct fits *f, int g)
{
    uint8_t code[LMI_QK_K];

    affine_block(b->d, b->dmin, b->scales, code, x, f, g, 31);
    pack_nibble_rows(b->qs, code);
    pack_mask(b->qh, code, 4);
}

K_ROW(q5_k, 32)

/* ---- Q3_K */

INLINE void q3_k_fit(struct fits *f, const float *x, int n_groups)
{
    struct q3_state s[STREAMS];

    for (int g = 0; g < n_groups; g += STREAMS * LANES) {
        for (int k = 0; k < STREAMS; k++)
            load_groups(s[k].x, x + 16 * (g + k * LANES), 16);
        fit_q3(s);
        for (int k = 0; k < STREAMS; k++)
            store_q3(f, g + k * LANES, &s[k]);
    }
}

INLINE void q3_searched_codes(uint8_t *code, const struct fits *f, int group)
{
    for (int i = 0; i < 16; i++)
        code[i] = f->iscale[group] == 0 ? 0 : (uint8_t)(f->code[i][group] + Q3_MAX);
}

/* Sixteen 6-bit scales: low nibbles, then the high pairs. */
INLINE void pack_six_bits(uint8_t packed[12], const uint8_t *s)
{
    for (int j = 0; j < 8; j++)
        packed[j] = (uint8_t)((s[j] & 15) | (s[j + 8] & 15) << 4);
    for (int j = 0; j < 4; j++)
        packed[j + 8] = (uint8_t)(s[j] >> 4 | s[j + 4] >> 4 << 2 | s[j + 8] >> 4 << 4 | s[j + 12] >> 4 << 6);
}

/* The rest of a block whose d is set, from its scales + 32; `moved`: the codes
 * of the search are fit_q3's, not fit_symmetric's. */
INLINE void q3_k_codes(struct lmi_q3_k *b, const float *x, const uint8_t *s, const struct fits *f, int g, bool moved)
{
    float d = f16_at(b->d);
    uint8_t code[LMI_QK_K];

    for (int j = 0; j < 16; j++) {
        float dj = d * (float)(s[j] - 32);
        if (dj != 0)
            symmetric_codes(code + 16 * j, x + 16 * j, 16, dj, Q3_MAX);
        else if (moved)
            q3_searched_codes(code + 16 * j, f, g + j);
        else
            searched_codes(code + 16 * j, x + 16 * j, 16, f->iscale[g + j], 0, -Q3_MAX, Q3_MAX - 1);
    }
    pack_six_bits(b->scales, s);
    pack_mask(b->hmask, code, 2);
    pack_planes(b->qs, code, 0);
}

INLINE void q3_k_block(struct lmi_q3_k *b, const float *x, const struct fits *f, int g)
{
    float max_scale = largest_signed(f->scale + g, 16);
    float iscale = -32.0f / max_scale;
    uint8_t s[16] = {0};

    if (max_scale != 0)
        for (int j = 0; j < 16; j++) {
            int8_t l = (int8_t)nearest1(iscale * f->scale[g + j]);
            s[j] = (uint8_t)((l < -32 ? -32 : l > 31 ? 31 : l) + 32);
        }
    lmi_store16(b->d, max_scale != 0 ? lmi_f32_to_f16(1 / iscale) : 0);
    q3_k_codes(b, x, s, f, g, true);
}

K_ROW(q3_k, 16)

/* ---- Q6_K */

INLINE void q6_k_fit(struct fits *f, const float *x, int n_groups)
{
    vf t[16], w[16];

    for (int g = 0; g < n_groups; g += LANES) {
        load_groups(t, x + 16 * g, 16);
        for (int i = 0; i < 16; i++)
            w[i] = t[i] * t[i];
        fit_symmetric(f, g, t, w, 16, 32);
    }
}

INLINE void q6_k_block(struct lmi_q6_k *b, const float *x, const struct fits *f, int g)
{
    float max_scale = largest_signed(f->scale + g, 16);
    float iscale = -128.0f / max_scale;
    uint8_t code[LMI_QK_K];

    if (fabsf(max_scale) < GROUP_EPS) {
        memset(b, 0, sizeof *b);
        return;
    }
    for (int j = 0; j < 16; j++) {
        int32_t s = nearest1(iscale * f->scale[g + j]);
        b->scales[j] = (int8_t)(s < 127 ? s : 127);
    }
    lmi_store16(b->d, lmi_f32_to_f16(1 / iscale));

    float d = lmi_f16_to_f32(lmi_load16(b->d));
    for (int j = 0; j < 16; j++) {
        float dj = d * (float)b->scales[j];
        if (dj != 0)
            symmetric_codes(code + 16 * j, x + 16 * j, 16, dj, 32);
        else
            searched_codes(code + 16 * j, x + 16 * j, 16, f->iscale[g + j], 0, -32, 31);
    }
    for (int h = 0; h < 2; h++)
        for (int l = 0; l < 64; l++)
            b->ql[64 * h + l] = (uint8_t)((code[128 * h + l] & 15) | (code[128 * h + l + 64] & 15) << 4);
    pack_planes(b->qh, code, 4);
}

K_ROW(q6_k, 16)

#endif
