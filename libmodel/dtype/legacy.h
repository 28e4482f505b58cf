/* Row kernels of Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0: LANES blocks at a time.  The
 * ranges of the blocks are found one block a lane, the codes in natural order.
 * Codes are truncated to 8 bits exactly as ggml's casts do it on x86, which
 * matters only where the scale is subnormal and its inverse inexact. */
#ifndef LIBMODEL_DTYPE_LEGACY_H
#define LIBMODEL_DTYPE_LEGACY_H

#include "libmodel/dtype/blocks.h"
#include "libmodel/dtype/lanes.h"

enum { BATCH = LANES * LMI_QK };

struct ranges {
    uint16_t d[LANES], m[LANES]; /* f16 as stored */
    float id[LANES], min[LANES];
};

/* 1 / d, 0 for d = 0. */
INLINE vf inverse(vf d)
{
    return vf_sel(vf_eq(d, vf_set(0)), vf_set(0), vf_set(1) / d);
}

INLINE void load_columns(vf *t, const float *x, int column)
{
    for (int l = 0; l < LANES; l++)
        t[l] = vf_load(x + l * LMI_QK + column);
    transpose(t);
}

/* Scale = the signed value of largest magnitude (the first such) * factor. */
INLINE void symmetric_ranges(struct ranges *r, const float *x, float factor)
{
    vf t[LANES], max = vf_set(0), amax = vf_set(0);

    for (int c = 0; c < LMI_QK; c += LANES) {
        load_columns(t, x, c);
        for (int i = 0; i < LANES; i++) {
            vf a = vf_abs(t[i]);
            max = vf_sel(vf_lt(amax, a), t[i], max);
            amax = vf_max(a, amax);
        }
    }
    vf d = max * vf_set(factor);
    vf_store_f16(r->d, d);
    vf_store(r->id, inverse(d));
}

INLINE void magnitude_ranges(struct ranges *r, const float *x)
{
    vf t[LANES], amax = vf_set(0);

    for (int c = 0; c < LMI_QK; c += LANES) {
        load_columns(t, x, c);
        for (int i = 0; i < LANES; i++)
            amax = vf_max(amax, vf_abs(t[i]));
    }
    vf d = amax / vf_set(127);
    vf_store_f16(r->d, d);
    vf_store(r->id, inverse(d));
}

INLINE void affine_ranges(struct ranges *r, const float *x, float nmax)
{
    vf t[LANES], min = vf_set(3.40282347e38f), max = vf_neg(min);

    for (int c = 0; c < LMI_QK; c += LANES) {
        load_columns(t, x, c);
        for (int i = 0; i < LANES; i++) {
            min = vf_min(t[i], min);
            max = vf_max(t[i], max);
        }
    }
    vf d = (max - min) / vf_set(nmax);
    vf_store_f16(r->d, d);
    vf_store_f16(r->m, min);
    vf_store(r->id, inverse(d));
    vf_store(r->min, min);
}

INLINE vi as_int8(vi v)
{
    return ((v & vi_set(0xff)) ^ vi_set(0x80)) - vi_set(0x80);
}

/* trunc((x - min) * id + offset) of LANES elements, at most nmax. */
INLINE vi codes(const float *x, float min, float id, float offset, int nmax)
{
    vf v = (vf_load(x) - vf_set(min)) * vf_set(id) + vf_set(offset);

    return vi_min(as_int8(vi_trunc(v)), vi_set(nmax));
}

INLINE void block_of_4_bits(uint8_t *qs, const float *x, float min, float id, float offset)
{
    for (int i = 0; i < 16; i += LANES) {
        vi low = codes(x + i, min, id, offset, 15), high = codes(x + i + 16, min, id, offset, 15);
        vi_store_u8(qs + i, (low & vi_set(0xff)) | high << 4);
    }
}

INLINE void block_of_5_bits(uint8_t *qs, uint8_t *qh, const float *x, float min, float id, float offset, int nmax)
{
    const vi nibble = vi_set(15);
    uint32_t h = 0;

    for (int i = 0; i < 16; i += LANES) {
        vi low = codes(x + i, min, id, offset, nmax), high = codes(x + i + 16, min, id, offset, nmax);
        vi_store_u8(qs + i, (low & nibble) | (high & nibble) << 4);
        h |= vi_signs(low << 27) << i | vi_signs(high << 27) << (i + 16);
    }
    for (int j = 0; j < 4; j++)
        qh[j] = (uint8_t)(h >> 8 * j);
}

/* One batch: `n` (<= LANES) blocks of x, which is readable for LANES. */
INLINE void q4_0_batch(struct lmi_q4_0 *b, const float *x, int n)
{
    struct ranges r;

    symmetric_ranges(&r, x, -1.0f / 8);
    for (int l = 0; l < n; l++, b++, x += LMI_QK) {
        lmi_store16(b->d, r.d[l]);
        block_of_4_bits(b->qs, x, 0, r.id[l], 8.5f);
    }
}

INLINE void q4_1_batch(struct lmi_q4_1 *b, const float *x, int n)
{
    struct ranges r;

    affine_ranges(&r, x, 15);
    for (int l = 0; l < n; l++, b++, x += LMI_QK) {
        lmi_store16(b->d, r.d[l]);
        lmi_store16(b->m, r.m[l]);
        block_of_4_bits(b->qs, x, r.min[l], r.id[l], 0.5f);
    }
}

INLINE void q5_0_batch(struct lmi_q5_0 *b, const float *x, int n)
{
    struct ranges r;

    symmetric_ranges(&r, x, -1.0f / 16);
    for (int l = 0; l < n; l++, b++, x += LMI_QK) {
        lmi_store16(b->d, r.d[l]);
        block_of_5_bits(b->qs, b->qh, x, 0, r.id[l], 16.5f, 31);
    }
}

INLINE void q5_1_batch(struct lmi_q5_1 *b, const float *x, int n)
{
    struct ranges r;

    affine_ranges(&r, x, 31);
    for (int l = 0; l < n; l++, b++, x += LMI_QK) {
        lmi_store16(b->d, r.d[l]);
        lmi_store16(b->m, r.m[l]);
        block_of_5_bits(b->qs, b->qh, x, r.min[l], r.id[l], 0.5f, 255);
    }
}

INLINE void q8_0_batch(struct lmi_q8_0 *b, const float *x, int n)
{
    /* Adding the float below one half and truncating is roundf: ties go away
     * from zero and 0.49999997 does not. */
    const vi half = (vi)vf_set(0x1.fffffep-2f), sign = vi_set(INT32_MIN);
    struct ranges r;

    magnitude_ranges(&r, x);
    for (int l = 0; l < n; l++, b++, x += LMI_QK) {
        lmi_store16(b->d, r.d[l]);
        for (int i = 0; i < LMI_QK; i += LANES) {
            vf v = vf_load(x + i) * vf_set(r.id[l]);
            vi_store_u8(b->qs + i, vi_trunc(v + (vf)(((vi)v & sign) | half)));
        }
    }
}

#define LEGACY_ROW(t) \
    static void t##_from_f32(void *dst, const float *src, size_t n) \
    { \
        struct lmi_##t *b = dst; \
        for (; n >= BATCH; n -= BATCH, src += BATCH, b += LANES) \
            t##_batch(b, src, LANES); \
        if (n > 0) { \
            float rest[BATCH] = {0}; \
            memcpy(rest, src, n * sizeof *src); \
            t##_batch(b, rest, (int)(n / LMI_QK)); \
        } \
    }

LEGACY_ROW(q4_0)
LEGACY_ROW(q4_1)
LEGACY_ROW(q5_0)
LEGACY_ROW(q5_1)
LEGACY_ROW(q8_0)

#endif
