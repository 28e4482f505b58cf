/* Storage types on the device, as functions that a host compiler can run too.
 *
 * A row of a block type is cut into units of 32 elements (a block of Q4_0 is
 * one unit, a block of Q4_K eight).  At upload each block is taken apart into
 * planes, so that neighbouring lanes read neighbouring 16-byte pieces; the bits
 * and their number stay what they were in the file (Q3_K: two bytes more).
 *
 *   nib  16 B a unit   word v: elements 4v..4v+3 in the low nibbles, 16 + those in the high
 *   two   8 B a unit   word w/4, byte k, bits 2(w%4): element 4w + k
 *   bit   4 B a unit   byte k, bit w: element 4w + k
 *   byte 32 B a unit   Q8_0's signed bytes
 *   head               scales: 1, 2 or 4 B a unit, or 2, 8 or 16 B every 8 units
 *   tail               what is left of a 256-element block's scales, every 8 units
 *
 * A value is s * (code - bias) + m, or s * level[code] where the codes name
 * uneven levels.  Block layouts: ggml's, as in libmodel/dtype. */
#ifndef GPU_CUDA_BLOCKS_CUH
#define GPU_CUDA_BLOCKS_CUH

#include "gpu/cuda_scalar.cuh"

#define LMC_BLOCK_TYPES(X)                                                                                             \
    X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q8_0) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) X(Q6_K)                                    \
    X(IQ4_NL) X(IQ4_XS) X(MXFP4) X(NVFP4) X(TQ2_0)

#define LMC_UNIT 32 /* elements */

struct lmc_shape {
    int units;       /* in a block */
    int block_bytes;
    int nib, two, bit, byte; /* planes present (0 or 1) */
    int head, head_units;    /* bytes, and for how many units */
    int tail;                /* bytes for 8 units */
    int bias;
    int min;         /* has m */
    int halves;      /* s and m change after 16 elements */
    int levels;      /* LMC_IQ4, LMC_E2M1, or 0 */
};
enum { LMC_IQ4 = 1, LMC_E2M1 };

template <int D> struct lmc_block;
#define SHAPE(d, ...)                                                                                                  \
    template <> struct lmc_block<LM_##d> {                                                                             \
        static constexpr lmc_shape s = {__VA_ARGS__};                                                                  \
    };
/*            un bytes  n  2  1  8  head   tail bias min half levels */
SHAPE(Q4_0,   1, 18,    1, 0, 0, 0, 2, 1,  0,   8,   0,  0,   0)
SHAPE(Q4_1,   1, 20,    1, 0, 0, 0, 4, 1,  0,   0,   1,  0,   0)
SHAPE(Q5_0,   1, 22,    1, 0, 1, 0, 2, 1,  0,   16,  0,  0,   0)
SHAPE(Q5_1,   1, 24,    1, 0, 1, 0, 4, 1,  0,   0,   1,  0,   0)
SHAPE(Q8_0,   1, 34,    0, 0, 0, 1, 2, 1,  0,   0,   0,  0,   0)
SHAPE(Q2_K,   8, 84,    0, 1, 0, 0, 2, 1,  4,   0,   1,  1,   0)
SHAPE(Q3_K,   8, 110,   0, 1, 1, 0, 16, 8, 0,   4,   0,  1,   0)
SHAPE(Q4_K,   8, 144,   1, 0, 0, 0, 16, 8, 0,   0,   1,  0,   0)
SHAPE(Q5_K,   8, 176,   1, 0, 1, 0, 16, 8, 0,   0,   1,  0,   0)
SHAPE(Q6_K,   8, 210,   1, 1, 0, 0, 2, 1,  2,   32,  0,  1,   0)
SHAPE(IQ4_NL, 1, 18,    1, 0, 0, 0, 2, 1,  0,   0,   0,  0,   LMC_IQ4)
SHAPE(IQ4_XS, 8, 136,   1, 0, 0, 0, 8, 8,  0,   0,   0,  0,   LMC_IQ4)
SHAPE(MXFP4,  1, 17,    1, 0, 0, 0, 1, 1,  0,   0,   0,  0,   LMC_E2M1)
SHAPE(NVFP4,  2, 36,    1, 0, 0, 0, 2, 1,  0,   0,   0,  1,   LMC_E2M1)
SHAPE(TQ2_0,  8, 66,    0, 1, 0, 0, 2, 8,  0,   1,   0,  0,   0)
#undef SHAPE

/* Where the planes of one matrix are. codes: nib or byte plane of a block
 * type, all the data of a plain type. */
struct lmc_planes {
    uint8_t *codes, *two, *bit, *head, *tail;
};

static inline size_t lmc_plane_round(size_t n)
{
    return (n + 255) / 256 * 256;
}

/* Bytes of all planes of n_units, and (base not NULL) their places from base
 * on. Every plane starts at a multiple of 256. */
static inline size_t lmc_planes_at(lmc_planes *p, const lmc_shape *s, size_t n_units, uint8_t *base)
{
    size_t at = 0, groups = (n_units + 7) / 8;
    size_t codes = n_units * (s->nib ? 16 : s->byte ? 32 : 0);
    uint8_t **where[] = {&p->codes, &p->two, &p->bit, &p->head, &p->tail};
    size_t bytes[] = {codes, n_units * 8 * s->two, n_units * 4 * s->bit,
                      s->head_units == 1 ? n_units * s->head : groups * s->head, groups * s->tail};

    for (int i = 0; i < 5; i++) {
        *where[i] = base ? base + at : nullptr;
        at += lmc_plane_round(bytes[i]);
    }
    return at;
}

/* ---- from the file's block to planes (upload) */

/* Unsigned code of element i of a block (Q8_0: the byte). */
template <int D> LMC_HD uint32_t lmc_code(const uint8_t *b, int i)
{
    int half = i / 16, j = i % 16, plane = i % 128 / 32, at = i / 128 * 32 + i % 32;

    if (D == LM_Q4_0)
        return b[2 + j] >> 4 * half & 15;
    if (D == LM_Q4_1)
        return b[4 + j] >> 4 * half & 15;
    if (D == LM_Q5_0)
        return (b[6 + j] >> 4 * half & 15) | (b[2 + i / 8] >> i % 8 & 1) << 4;
    if (D == LM_Q5_1)
        return (b[8 + j] >> 4 * half & 15) | (b[4 + i / 8] >> i % 8 & 1) << 4;
    if (D == LM_Q8_0)
        return b[2 + i];
    if (D == LM_Q2_K)
        return b[16 + at] >> 2 * plane & 3;
    if (D == LM_Q3_K)
        return (b[32 + at] >> 2 * plane & 3) | (b[i % 32] >> i / 32 & 1) << 2;
    if (D == LM_Q4_K)
        return b[16 + i / 64 * 32 + i % 32] >> 4 * (i / 32 & 1) & 15;
    if (D == LM_Q5_K)
        return (b[48 + i / 64 * 32 + i % 32] >> 4 * (i / 32 & 1) & 15) | (b[16 + i % 32] >> i / 32 & 1) << 4;
    if (D == LM_IQ4_NL)
        return b[2 + j] >> 4 * half & 15;
    if (D == LM_IQ4_XS)
        return b[8 + i / 32 * 16 + j] >> 4 * (half & 1) & 15;
    if (D == LM_MXFP4)
        return b[1 + j] >> 4 * half & 15;
    if (D == LM_NVFP4)
        return b[4 + half * 8 + j % 8] >> 4 * (j / 8) & 15;
    if (D == LM_TQ2_0)
        return b[at] >> 2 * plane & 3;
    /* Q6_K */
    return (b[i / 128 * 64 + i % 64] >> 4 * (i % 128 / 64) & 15) | (b[128 + at] >> 2 * plane & 3) << 4;
}

LMC_HD void lmc_copy(uint8_t *dst, const uint8_t *src, int n)
{
    for (int i = 0; i < n; i++)
        dst[i] = src[i];
}

template <int D> LMC_HD void lmc_pack_head(const lmc_planes &p, size_t u, const uint8_t *b, int sub)
{
    if (D == LM_Q2_K || D == LM_Q6_K) {
        lmc_copy(p.head + 2 * u, b + (D == LM_Q2_K ? 0 : 192) + 2 * sub, 2);
        if (sub == 0)
            lmc_copy(p.tail + u / 8 * lmc_block<D>::s.tail, b + (D == LM_Q2_K ? 80 : 208), lmc_block<D>::s.tail);
    } else if (D == LM_Q3_K) {
        if (sub == 0) {
            lmc_copy(p.head + u * 2, b + 96, 14); /* scales, d */
            p.head[u * 2 + 14] = p.head[u * 2 + 15] = 0;
        }
    } else if (D == LM_Q4_K || D == LM_Q5_K) {
        if (sub == 0)
            lmc_copy(p.head + u * 2, b, 16);
    } else if (D == LM_IQ4_XS || D == LM_TQ2_0) {
        constexpr int n = lmc_block<D>::s.head;
        if (sub == 0)
            lmc_copy(p.head + u / 8 * n, b + (D == LM_TQ2_0 ? 64 : 0), n);
    } else {
        constexpr int n = lmc_block<D>::s.head;
        lmc_copy(p.head + u * n, b + n * sub, n);
    }
}

/* Unit u of the matrix from the block it is in; sub: which unit of the block. */
template <int D> LMC_HD void lmc_pack(const lmc_planes &p, size_t u, const uint8_t *b, int sub)
{
    constexpr lmc_shape s = lmc_block<D>::s;
    uint32_t nib[4] = {0, 0, 0, 0}, two[2] = {0, 0}, bit = 0;

    for (int w = 0; w < 8; w++)
        for (int k = 0; k < 4; k++) {
            uint32_t c = lmc_code<D>(b, sub * LMC_UNIT + 4 * w + k);
            if (s.byte)
                p.codes[u * 32 + 4 * w + k] = (uint8_t)c;
            if (s.nib)
                nib[w & 3] |= (c & 15) << (8 * k + 4 * (w >> 2));
            if (s.two)
                two[w >> 2] |= (s.nib ? c >> 4 & 3 : c & 3) << (8 * k + 2 * (w & 3));
            if (s.bit)
                bit |= (c >> (s.nib ? 4 : 2) & 1) << (8 * k + w);
        }
    if (s.nib)
        memcpy(p.codes + u * 16, nib, 16);
    if (s.two)
        memcpy(p.two + u * 8, two, 8);
    if (s.bit)
        memcpy(p.bit + u * 4, &bit, 4);
    lmc_pack_head<D>(p, u, b, sub);
}

/* ---- from planes to codes, scales and values */

/* What one lane loads of a unit; members that a type lacks are never touched. */
struct lmc_raw {
    uint32_t codes[8], two[2], bit, head[4], tail;
};

template <int D> LMC_HD void lmc_load(lmc_raw &r, const lmc_planes &p, size_t u)
{
    constexpr lmc_shape s = lmc_block<D>::s;

    if (s.nib || s.byte) {
        lmc_u4 a = lmc_ld16(p.codes + u * (s.byte ? 32 : 16));
        r.codes[0] = a.x, r.codes[1] = a.y, r.codes[2] = a.z, r.codes[3] = a.w;
    }
    if (s.byte) {
        lmc_u4 a = lmc_ld16(p.codes + u * 32 + 16);
        r.codes[4] = a.x, r.codes[5] = a.y, r.codes[6] = a.z, r.codes[7] = a.w;
    }
    if (s.two)
        lmc_ld8(&r.two[0], &r.two[1], p.two + u * 8);
    if (s.bit)
        r.bit = lmc_ld4(p.bit + u * 4);
    const uint8_t *head = p.head + (s.head_units == 8 ? u / 8 : u) * s.head;
    if (s.head == 16) {
        lmc_u4 a = lmc_ld16(head);
        r.head[0] = a.x, r.head[1] = a.y, r.head[2] = a.z, r.head[3] = a.w;
    } else if (s.head == 8) {
        lmc_ld8(&r.head[0], &r.head[1], head);
    } else {
        r.head[0] = s.head == 4 ? lmc_ld4(head) : s.head == 2 ? lmc_ld2(head) : lmc_ld1(head);
    }
    if (s.tail)
        r.tail = s.tail == 4 ? lmc_ld4(p.tail + u / 8 * 4) : lmc_ld2(p.tail + u / 8 * 2);
}

/* Level of each of four codes, a signed byte each. */
template <int L> LMC_HD uint32_t lmc_levels(uint32_t codes)
{
    /* IQ4: -127 -104 -83 -65, -49 -35 -22 -10, 1 13 25 38, 53 69 89 113; E2M1: twice 0 .5 1 1.5 2 3 4 6, then minus */
    constexpr uint32_t t[4] = {L == LMC_IQ4 ? 0xbfad9881u : 0x03020100u, L == LMC_IQ4 ? 0xf6eaddcfu : 0x0c080604u,
                               L == LMC_IQ4 ? 0x26190d01u : 0xfdfeff00u, L == LMC_IQ4 ? 0x71594535u : 0xf4f8fafcu};
#ifdef __CUDA_ARCH__
    uint32_t pairs = codes | codes >> 4, at = (pairs & 0xff) | (pairs >> 8 & 0xff00);
    uint32_t low = __byte_perm(t[0], t[1], at & 0x7777u), high = __byte_perm(t[2], t[3], at & 0x7777u);
    uint32_t upper = (codes >> 3 & 0x01010101u) * 255u;
    return (low & ~upper) | (high & upper);
#else
    uint32_t r = 0;
    for (int k = 0; k < 4; k++) {
        uint32_t c = codes >> 8 * k & 15;
        r |= (t[c / 4] >> 8 * (c % 4) & 255) << 8 * k;
    }
    return r;
#endif
}

/* Four codes of word w (elements 4w..4w+3), or their levels, a byte each. */
template <int D> LMC_HD uint32_t lmc_word(const lmc_raw &r, int w)
{
    constexpr lmc_shape s = lmc_block<D>::s;
    uint32_t c = 0;

    if (s.byte)
        return r.codes[w];
    if (s.nib)
        c = r.codes[w & 3] >> 4 * (w >> 2) & 0x0f0f0f0fu;
    if (s.two)
        c |= (r.two[w >> 2] >> 2 * (w & 3) & 0x03030303u) << (s.nib ? 4 : 0);
    if (s.bit)
        c |= (r.bit >> w & 0x01010101u) << (s.nib ? 4 : 2);
    return s.levels ? lmc_levels<s.levels>(c) : c;
}

struct lmc_scales { float s[2], m[2]; };

/* Scale j (0..15) of Q3_K's twelve bytes a, b, c. */
LMC_HD int lmc_q3_scale(uint32_t a, uint32_t b, uint32_t c, int j)
{
    uint32_t low = ((j & 4 ? b : a) >> 8 * (j & 3) >> (j & 8 ? 4 : 0)) & 15;
    return (int)(low | (c >> 8 * (j & 3) >> 2 * (j >> 2) & 3) << 4) - 32;
}

/* sub: which unit of its block. */
template <int D> LMC_HD lmc_scales lmc_unit_scales(const lmc_raw &r, int sub)
{
    lmc_scales o;
    o.m[0] = o.m[1] = 0;

    if (D == LM_Q4_K || D == LM_Q5_K) {
        int k = 8 * (sub & 3);
        uint32_t a = r.head[1] >> k, b = r.head[2] >> k, c = r.head[3] >> k;
        uint32_t sc = sub < 4 ? a & 63 : (c & 15) | (a >> 6 & 3) << 4;
        uint32_t mn = sub < 4 ? b & 63 : (c >> 4 & 15) | (b >> 6 & 3) << 4;
        o.s[0] = lmc_mul(lmc_f16(r.head[0] & 0xffff), (float)sc);
        o.m[0] = -lmc_mul(lmc_f16(r.head[0] >> 16), (float)mn);
    } else if (D == LM_Q2_K) {
        for (int h = 0; h < 2; h++) {
            uint32_t b = r.head[0] >> 8 * h & 255;
            o.s[h] = lmc_mul(lmc_f16(r.tail & 0xffff), (float)(b & 15));
            o.m[h] = -lmc_mul(lmc_f16(r.tail >> 16), (float)(b >> 4));
        }
    } else if (D == LM_Q3_K) {
        for (int h = 0; h < 2; h++)
            o.s[h] = lmc_mul(lmc_f16(r.head[3] & 0xffff),
                             (float)lmc_q3_scale(r.head[0], r.head[1], r.head[2], 2 * sub + h));
    } else if (D == LM_Q6_K) {
        for (int h = 0; h < 2; h++)
            o.s[h] = lmc_mul(lmc_f16(r.tail), (float)(int8_t)(r.head[0] >> 8 * h & 255));
    } else if (D == LM_IQ4_XS) {
        uint32_t low = r.head[1] >> 4 * sub & 15, high = r.head[0] >> (16 + 2 * sub) & 3;
        o.s[0] = lmc_mul(lmc_f16(r.head[0] & 0xffff), (float)((int)(low | high << 4) - 32));
    } else if (D == LM_MXFP4) { /* half of 2^(e - 127) */
        o.s[0] = lmc_bits_f32(r.head[0] > 1 ? (r.head[0] - 1) << 23 : 0x00200000u << r.head[0]);
    } else if (D == LM_NVFP4) { /* unsigned; ggml reads 0x7f as 0 */
        for (int h = 0; h < 2; h++) {
            uint32_t code = r.head[0] >> 8 * h & 255;
            float v = lmc_mul(lmc_bits_f32((code & 127) << 20), 0x1p120f);
            o.s[h] = code == 127 ? 0.0f : lmc_mul(0.5f, v);
        }
    } else {
        o.s[0] = lmc_f16(r.head[0] & 0xffff);
        if (lmc_block<D>::s.min)
            o.m[0] = lmc_f16(r.head[0] >> 16);
    }
    if (!lmc_block<D>::s.halves)
        o.s[1] = o.s[0], o.m[1] = o.m[0];
    return o;
}

/* Byte k of a word as code - bias or as a level, exactly: the byte becomes the last
 * byte of 2^23, from which 2^23 + bias is taken (faster than a conversion). */
template <int D> LMC_HD float lmc_code_f32(uint32_t word, int k)
{
    constexpr bool is_signed = lmc_block<D>::s.byte || lmc_block<D>::s.levels;
    constexpr int bias = is_signed ? 128 : lmc_block<D>::s.bias;
    if (is_signed)
        word ^= 0x80808080u;
#ifdef __CUDA_ARCH__
    return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440u | (unsigned)k)) - (8388608.0f + bias);
#else
    return (float)(int)(word >> 8 * k & 255) - bias;
#endif
}

/* The 32 values of unit u, equal to lm_dtype's. */
template <int D> LMC_HD void lmc_unit_f32(float *out, const lmc_planes &p, size_t u)
{
    lmc_raw r;
    lmc_load<D>(r, p, u);
    lmc_scales sc = lmc_unit_scales<D>(r, (int)(u & (lmc_block<D>::s.units - 1)));

#ifdef __CUDA_ARCH__
#pragma unroll
#endif
    for (int w = 0; w < 8; w++) {
        uint32_t word = lmc_word<D>(r, w);
        for (int k = 0; k < 4; k++) {
            float v = lmc_mul(sc.s[w >> 2], lmc_code_f32<D>(word, k));
            out[4 * w + k] = lmc_block<D>::s.min ? lmc_add(v, sc.m[w >> 2]) : v;
        }
    }
}

#endif
