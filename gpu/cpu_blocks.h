/* Block types as  weight = s (q - offset)  or  s q - m  with unsigned 8-bit q:
 * what every int8 kernel multiplies. Plain C, compiled for each instruction set.
 * Layouts are those of libmodel/dtype/.
 *
 * The product of a row with activations a (lmi_q8), whatever the kernel: per
 * group of 32, from exact integer sums dot of q a and sum of a,
 *     v = s (dot - offset sum)    or, in halves of 16,  v = s0 (...) + s1 (...)
 *     v -= m sum                  where there are minima (halves: both)
 *     y[g] += v d                 g the group modulo 16, over k in order
 * then y as a tree. With fused multiply-adds everywhere AVX2 and AVX-512 give
 * the same bits, one token or many. */
#ifndef GPU_CPU_BLOCKS_H
#define GPU_CPU_BLOCKS_H

#include "libmodel/bytes.h"
#include "libmodel/dtype.h"
#include "libmodel/dtype/iq4.h"
#include "libmodel/dtype/minifloat.h"

#if defined(__F16C__)
#include <immintrin.h>
static inline float lmi_half(const uint8_t *p)
{
    return _cvtsh_ss(lm_load_u16le(p));
}
#else
static inline float lmi_half(const uint8_t *p)
{
    return lm_f16_to_f32(lm_load_u16le(p));
}
#endif

/* 256 weights; s and m (0 where there is an offset) of 8 groups of 32 or of 16 groups of 16. */
struct lmi_unpacked {
    uint8_t q[256];
    float s[16], m[16];
};

/* The 6-bit scales of Q4_K and Q5_K: 8 bytes of scales, then 8 of minima. */
static inline void lmi_scales_k4(const uint8_t *p, uint32_t out[4])
{
    uint32_t a = lm_load_u32le(p), b = lm_load_u32le(p + 4), c = lm_load_u32le(p + 8);

    out[0] = a & 0x3f3f3f3f;
    out[1] = (c & 0x0f0f0f0f) | (a >> 6 & 0x03030303) << 4;
    out[2] = b & 0x3f3f3f3f;
    out[3] = (c >> 4 & 0x0f0f0f0f) | (b >> 6 & 0x03030303) << 4;
}

/* The 6-bit scales of Q3_K, offset by 32, in order. */
static inline void lmi_scales_q3(const uint8_t *p, uint32_t out[4])
{
    uint32_t a = lm_load_u32le(p), b = lm_load_u32le(p + 4), c = lm_load_u32le(p + 8);

    out[0] = (a & 0x0f0f0f0f) | (c & 0x03030303) << 4;
    out[1] = (b & 0x0f0f0f0f) | (c >> 2 & 0x03030303) << 4;
    out[2] = (a >> 4 & 0x0f0f0f0f) | (c >> 4 & 0x03030303) << 4;
    out[3] = (b >> 4 & 0x0f0f0f0f) | (c >> 6 & 0x03030303) << 4;
}

static inline uint8_t lmi_byte(const uint32_t *w, unsigned i)
{
    return (uint8_t)(w[i / 4] >> 8 * (i % 4));
}

/* One block of 32 of Q4_0, Q4_1, Q5_0 or Q5_1: nibbles and an optional fifth bit. */
static inline void lmi_nibbles(uint8_t *q, const uint8_t *qs, uint32_t high)
{
    for (unsigned j = 0; j < 16; j++) {
        q[j] = (uint8_t)((qs[j] & 15) | (high >> j & 1) << 4);
        q[j + 16] = (uint8_t)(qs[j] >> 4 | (high >> (j + 16) & 1) << 4);
    }
}

static inline void lmi_unpack_q4_0(struct lmi_unpacked *u, const uint8_t *b, unsigned g)
{
    u->s[g] = lmi_half(b);
    u->m[g] = 0;
    lmi_nibbles(u->q + 32 * g, b + 2, 0);
}
static inline void lmi_unpack_q4_1(struct lmi_unpacked *u, const uint8_t *b, unsigned g)
{
    u->s[g] = lmi_half(b);
    u->m[g] = -lmi_half(b + 2);
    lmi_nibbles(u->q + 32 * g, b + 4, 0);
}
static inline void lmi_unpack_q5_0(struct lmi_unpacked *u, const uint8_t *b, unsigned g)
{
    u->s[g] = lmi_half(b);
    u->m[g] = 0;
    lmi_nibbles(u->q + 32 * g, b + 6, lm_load_u32le(b + 2));
}
static inline void lmi_unpack_q5_1(struct lmi_unpacked *u, const uint8_t *b, unsigned g)
{
    u->s[g] = lmi_half(b);
    u->m[g] = -lmi_half(b + 2);
    lmi_nibbles(u->q + 32 * g, b + 8, lm_load_u32le(b + 4));
}
static inline void lmi_unpack_q8_0(struct lmi_unpacked *u, const uint8_t *b, unsigned g)
{
    u->s[g] = lmi_half(b);
    u->m[g] = 0;
    for (unsigned j = 0; j < 32; j++)
        u->q[32 * g + j] = b[2 + j] ^ 0x80;
}

/* Levels plus 128; nibbles in the order of Q4_0. */
static inline void lmi_levels(uint8_t *q, const uint8_t *qs, int level(int))
{
    for (unsigned j = 0; j < 16; j++) {
        q[j] = (uint8_t)(level(qs[j] & 15) + 128);
        q[j + 16] = (uint8_t)(level(qs[j] >> 4) + 128);
    }
}
static inline void lmi_unpack_iq4_nl(struct lmi_unpacked *u, const uint8_t *b, unsigned g)
{
    u->s[g] = lmi_half(b);
    u->m[g] = 0;
    lmi_levels(u->q + 32 * g, b + 2, lmi_iq4_level);
}

/* 2^(e - 128): half of the block's scale, because the levels are doubled. */
static inline float lmi_mxfp4_scale(uint8_t e)
{
    uint32_t bits = e > 1 ? (uint32_t)(e - 1) << 23 : 0x200000u << e;
    float s;
    memcpy(&s, &bits, sizeof s);
    return s;
}
static inline void lmi_unpack_mxfp4(struct lmi_unpacked *u, const uint8_t *b, unsigned g)
{
    u->s[g] = lmi_mxfp4_scale(b[0]);
    u->m[g] = 0;
    lmi_levels(u->q + 32 * g, b + 1, lmi_e2m1_twice);
}

static inline void lmi_unpack_iq4_xs(struct lmi_unpacked *u, const uint8_t *b)
{
    float d = lmi_half(b);
    unsigned high = lm_load_u16le(b + 2);

    for (unsigned g = 0; g < 8; g++) {
        int low = b[4 + g / 2] >> (g % 2 * 4) & 15;
        u->s[g] = d * (float)((low | (int)(high >> 2 * g & 3) << 4) - 32);
        u->m[g] = 0;
        lmi_levels(u->q + 32 * g, b + 8 + 16 * g, lmi_iq4_level);
    }
}

static inline void lmi_unpack_q2_k(struct lmi_unpacked *u, const uint8_t *b)
{
    float d = lmi_half(b + 80), dmin = lmi_half(b + 82);

    for (unsigned g = 0; g < 16; g++) {
        u->s[g] = d * (float)(b[g] & 15);
        u->m[g] = dmin * (float)(b[g] >> 4);
    }
    for (unsigned j = 0; j < 8; j++)
        for (unsigned i = 0; i < 32; i++)
            u->q[32 * j + i] = b[16 + 32 * (j / 4) + i] >> 2 * (j % 4) & 3;
}

static inline void lmi_unpack_q3_k(struct lmi_unpacked *u, const uint8_t *b)
{
    float d = lmi_half(b + 108);
    uint32_t sc[4];

    lmi_scales_q3(b + 96, sc);
    for (unsigned g = 0; g < 16; g++) {
        u->s[g] = d * (float)(lmi_byte(sc, g) - 32);
        u->m[g] = 0;
    }
    for (unsigned j = 0; j < 8; j++)
        for (unsigned i = 0; i < 32; i++)
            u->q[32 * j + i] = (uint8_t)((b[32 + 32 * (j / 4) + i] >> 2 * (j % 4) & 3) | (b[i] >> j & 1) << 2);
}

static inline void lmi_unpack_scales_k4(struct lmi_unpacked *u, const uint8_t *b)
{
    float d = lmi_half(b), dmin = lmi_half(b + 2);
    uint32_t sc[4];

    lmi_scales_k4(b + 4, sc);
    for (unsigned g = 0; g < 8; g++) {
        u->s[g] = d * (float)lmi_byte(sc, g);
        u->m[g] = dmin * (float)lmi_byte(sc, g + 8);
    }
}
static inline void lmi_unpack_q4_k(struct lmi_unpacked *u, const uint8_t *b)
{
    lmi_unpack_scales_k4(u, b);
    for (unsigned j = 0; j < 8; j++)
        for (unsigned i = 0; i < 32; i++)
            u->q[32 * j + i] = b[16 + 32 * (j / 2) + i] >> 4 * (j % 2) & 15;
}
static inline void lmi_unpack_q5_k(struct lmi_unpacked *u, const uint8_t *b)
{
    lmi_unpack_scales_k4(u, b);
    for (unsigned j = 0; j < 8; j++)
        for (unsigned i = 0; i < 32; i++)
            u->q[32 * j + i] =
                (uint8_t)((b[48 + 32 * (j / 2) + i] >> 4 * (j % 2) & 15) | (b[16 + i] >> j & 1) << 4);
}

static inline void lmi_unpack_q6_k(struct lmi_unpacked *u, const uint8_t *b)
{
    float d = lmi_half(b + 208);

    for (unsigned g = 0; g < 16; g++) {
        u->s[g] = d * (float)(int8_t)b[192 + g];
        u->m[g] = 0;
    }
    for (unsigned j = 0; j < 8; j++) /* 128 weights share 64 bytes of low and 32 of high bits */
        for (unsigned i = 0; i < 32; i++)
            u->q[32 * j + i] = (uint8_t)((b[64 * (j / 4) + 32 * (j % 2) + i] >> 4 * (j / 2 % 2) & 15) |
                                         (b[128 + 32 * (j / 4) + i] >> 2 * (j % 4) & 3) << 4);
}

/* Up to 256 weights at w; n of them are there (a multiple of the block), the
 * rest become zero. */
static inline void lmi_unpack(enum lm_dtype t, struct lmi_unpacked *u, const uint8_t *w, size_t n)
{
    switch (t) {
    case LM_Q2_K: lmi_unpack_q2_k(u, w); return;
    case LM_Q3_K: lmi_unpack_q3_k(u, w); return;
    case LM_Q4_K: lmi_unpack_q4_k(u, w); return;
    case LM_Q5_K: lmi_unpack_q5_k(u, w); return;
    case LM_Q6_K: lmi_unpack_q6_k(u, w); return;
    case LM_IQ4_XS: lmi_unpack_iq4_xs(u, w); return;
    default: break;
    }
    if (n < 256)
        memset(u, 0, sizeof *u);
    for (unsigned g = 0; g < n / 32; g++)
        switch (t) {
        case LM_Q4_0: lmi_unpack_q4_0(u, w + 18 * g, g); break;
        case LM_Q4_1: lmi_unpack_q4_1(u, w + 20 * g, g); break;
        case LM_Q5_0: lmi_unpack_q5_0(u, w + 22 * g, g); break;
        case LM_Q5_1: lmi_unpack_q5_1(u, w + 24 * g, g); break;
        case LM_IQ4_NL: lmi_unpack_iq4_nl(u, w + 18 * g, g); break;
        case LM_MXFP4: lmi_unpack_mxfp4(u, w + 17 * g, g); break;
        default: lmi_unpack_q8_0(u, w + 34 * g, g); break;
        }
}

/* Bytes of 256 weights. */
static inline size_t lmi_super_bytes(enum lm_dtype t)
{
    const struct lm_dtype_info *i = lm_dtype_info(t);
    return 256 / i->block_elems * i->block_bytes;
}

#endif
