/* Block types in AVX-512 registers: as cpu_blocks.h, 64 weights a vector in
 * their order, scales and minima ready for lmi_q8's `wide` and `fine`. */
#ifndef GPU_CPU_AVX512_H
#define GPU_CPU_AVX512_H

#include <immintrin.h>
#include "gpu/cpu_blocks.h"

#define INLINE static inline __attribute__((always_inline))

/* s: groups of 32: 8 scales, then 8 minima (m unused); groups of 16: 16 scales. */
struct wide {
    __m512i q[4];
    __m512 s, m;
};

INLINE __m256i load32(const uint8_t *p)
{
    return _mm256_loadu_si256((const void *)p);
}

/* Words of the lower and upper half shifted right by lo and hi. */
INLINE __m512i shift_halves(__m512i v, short lo, short hi)
{
    __m512i n = _mm512_inserti64x4(_mm512_set1_epi16(lo), _mm256_set1_epi16(hi), 1);
    return _mm512_srlv_epi16(v, n);
}

INLINE __m512i nibbles_k(const uint8_t *p)
{
    return _mm512_and_si512(shift_halves(_mm512_broadcast_i64x4(load32(p)), 0, 4), _mm512_set1_epi8(15));
}

/* Adds `value` where the byte has a bit: `lo` in the lower half, `hi` in the upper. */
INLINE __m512i add_high(__m512i q, __m512i bytes, int lo, int hi, int value)
{
    __m512i bit = _mm512_inserti64x4(_mm512_set1_epi8((char)(1 << lo)), _mm256_set1_epi8((char)(1 << hi)), 1);
    return _mm512_mask_add_epi8(q, _mm512_test_epi8_mask(bytes, bit), q, _mm512_set1_epi8((char)value));
}

/* lmi_scales_k4 in one register: a block begins with d, dmin and the twelve
 * bytes of scales. Through memory the narrow stores would stall the wide load. */
INLINE __m512 scales_k4(const uint8_t *b)
{
    __m128i x = _mm_loadu_si128((const void *)b);
    __m128i low = _mm_shuffle_epi8(x, _mm_setr_epi8(4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15));
    __m128i high = _mm_shuffle_epi8(x, _mm_setr_epi8(-1, -1, -1, -1, 4, 5, 6, 7, -1, -1, -1, -1, 8, 9, 10, 11));
    low = _mm_and_si128(_mm_srlv_epi32(low, _mm_setr_epi32(0, 0, 0, 4)),
                        _mm_setr_epi32(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f));
    high = _mm_and_si128(_mm_srli_epi16(high, 2), _mm_set1_epi8(0x30));
    __m512 v = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_or_si128(low, high)));
    __m512i which = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    return _mm512_mul_ps(v, _mm512_permutexvar_ps(which, _mm512_castps128_ps512(_mm_cvtph_ps(x))));
}

/* The same for lmi_scales_q3: twelve bytes of scales, then d. */
INLINE __m512 scales_q3(const uint8_t *b)
{
    __m128i x = _mm_loadu_si128((const void *)(b + 94));
    __m128i low = _mm_shuffle_epi8(x, _mm_setr_epi8(2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9));
    __m128i high = _mm_shuffle_epi8(x, _mm_setr_epi8(10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13));
    low = _mm_and_si128(_mm_srlv_epi32(low, _mm_setr_epi32(0, 0, 4, 4)), _mm_set1_epi8(15));
    high = _mm_slli_epi16(_mm_and_si128(_mm_srlv_epi32(high, _mm_setr_epi32(0, 2, 4, 6)), _mm_set1_epi8(3)), 4);
    __m512i s = _mm512_sub_epi32(_mm512_cvtepu8_epi32(_mm_or_si128(low, high)), _mm512_set1_epi32(32));
    return _mm512_mul_ps(_mm512_cvtepi32_ps(s), _mm512_set1_ps(lmi_half(b + 108)));
}

INLINE void wide_q4_k(struct wide *u, const uint8_t *b)
{
    u->s = scales_k4(b);
    for (unsigned j = 0; j < 4; j++)
        u->q[j] = nibbles_k(b + 16 + 32 * j);
}

INLINE void wide_q5_k(struct wide *u, const uint8_t *b)
{
    __m512i high = _mm512_broadcast_i64x4(load32(b + 16));

    u->s = scales_k4(b);
    u->q[0] = add_high(nibbles_k(b + 48), high, 0, 1, 16);
    u->q[1] = add_high(nibbles_k(b + 80), high, 2, 3, 16);
    u->q[2] = add_high(nibbles_k(b + 112), high, 4, 5, 16);
    u->q[3] = add_high(nibbles_k(b + 144), high, 6, 7, 16);
}

INLINE void wide_q6_k(struct wide *u, const uint8_t *b)
{
    __m512 d = _mm512_set1_ps(lmi_half(b + 208));
    __m512i low4 = _mm512_set1_epi8(15), two = _mm512_set1_epi8(0x30);

    u->s = _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(b + 192)))));
    u->m = _mm512_mul_ps(u->s, _mm512_set1_ps(32));
    for (unsigned n = 0; n < 2; n++) {
        __m512i ql = _mm512_loadu_si512(b + 64 * n);
        __m512i qh = _mm512_broadcast_i64x4(load32(b + 128 + 32 * n));
        __m512i up = _mm512_inserti64x4(_mm512_set1_epi16(4), _mm256_set1_epi16(2), 1);
        __m512i h0 = _mm512_sllv_epi16(qh, up), h1 = shift_halves(qh, 0, 2);
        u->q[2 * n] = _mm512_or_si512(_mm512_and_si512(ql, low4), _mm512_and_si512(h0, two));
        u->q[2 * n + 1] =
            _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(ql, 4), low4), _mm512_and_si512(h1, two));
    }
}

INLINE void wide_q2_k(struct wide *u, const uint8_t *b)
{
    __m128i sc = _mm_loadu_si128((const void *)b);
    __m128i lo = _mm_and_si128(sc, _mm_set1_epi8(15)), hi = _mm_and_si128(_mm_srli_epi16(sc, 4), _mm_set1_epi8(15));

    u->s = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(lo)), _mm512_set1_ps(lmi_half(b + 80)));
    u->m = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(hi)), _mm512_set1_ps(lmi_half(b + 82)));
    for (unsigned n = 0; n < 2; n++) {
        __m512i v = _mm512_broadcast_i64x4(load32(b + 16 + 32 * n));
        u->q[2 * n] = _mm512_and_si512(shift_halves(v, 0, 2), _mm512_set1_epi8(3));
        u->q[2 * n + 1] = _mm512_and_si512(shift_halves(v, 4, 6), _mm512_set1_epi8(3));
    }
}

INLINE void wide_q3_k(struct wide *u, const uint8_t *b)
{
    __m512i high = _mm512_broadcast_i64x4(load32(b));
    __m512i v0 = _mm512_broadcast_i64x4(load32(b + 32)), v1 = _mm512_broadcast_i64x4(load32(b + 64));
    __m512i three = _mm512_set1_epi8(3);

    u->s = scales_q3(b);
    u->m = _mm512_mul_ps(u->s, _mm512_set1_ps(4));
    u->q[0] = add_high(_mm512_and_si512(shift_halves(v0, 0, 2), three), high, 0, 1, 4);
    u->q[1] = add_high(_mm512_and_si512(shift_halves(v0, 4, 6), three), high, 2, 3, 4);
    u->q[2] = add_high(_mm512_and_si512(shift_halves(v1, 0, 2), three), high, 4, 5, 4);
    u->q[3] = add_high(_mm512_and_si512(shift_halves(v1, 4, 6), three), high, 6, 7, 4);
}

/* ---- blocks of 32, eight of them `bytes` apart */

/* Two blocks' nibbles in order: low of the first, high of the first, ... */
INLINE __m512i nibbles_pair(const uint8_t *p0, const uint8_t *p1)
{
    __m512i v = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)p0));

    v = _mm512_mask_broadcast_i32x4(v, 0xff00, _mm_loadu_si128((const void *)p1));
    v = _mm512_srlv_epi16(v, _mm512_set_epi64(0x0004000400040004, 0x0004000400040004, 0, 0, 0x0004000400040004,
                                              0x0004000400040004, 0, 0));
    return _mm512_and_si512(v, _mm512_set1_epi8(15));
}

/* Eight f16 scales; minima are `offset` times them. */
INLINE __m512 scales_sym(const uint8_t *b, size_t bytes, float offset)
{
    __m128i h = _mm_set_epi16((short)lm_load_u16le(b + 7 * bytes), (short)lm_load_u16le(b + 6 * bytes),
                              (short)lm_load_u16le(b + 5 * bytes), (short)lm_load_u16le(b + 4 * bytes),
                              (short)lm_load_u16le(b + 3 * bytes), (short)lm_load_u16le(b + 2 * bytes),
                              (short)lm_load_u16le(b + bytes), (short)lm_load_u16le(b));
    __m256 d = _mm256_cvtph_ps(h);
    return _mm512_insertf32x8(_mm512_castps256_ps512(d), _mm256_mul_ps(d, _mm256_set1_ps(offset)), 1);
}

/* By insertion: compilers build a set_epi32 in memory, where the wide load stalls. */
INLINE __m128i four_dwords(const uint8_t *b, size_t bytes)
{
    __m128i v = _mm_cvtsi32_si128((int)lm_load_u32le(b));

    v = _mm_insert_epi32(v, (int)lm_load_u32le(b + bytes), 1);
    v = _mm_insert_epi32(v, (int)lm_load_u32le(b + 2 * bytes), 2);
    return _mm_insert_epi32(v, (int)lm_load_u32le(b + 3 * bytes), 3);
}

/* Eight pairs of f16 scale and (negative) minimum. */
INLINE __m512 scales_min(const uint8_t *b, size_t bytes)
{
    __m256i h = _mm256_set_m128i(four_dwords(b + 4 * bytes, bytes), four_dwords(b, bytes));
    __m512i order = _mm512_set_epi32(15, 13, 11, 9, 7, 5, 3, 1, 14, 12, 10, 8, 6, 4, 2, 0);
    __m512 v = _mm512_permutexvar_ps(order, _mm512_cvtph_ps(h));
    return _mm512_mask_sub_ps(v, 0xff00, _mm512_setzero_ps(), v);
}

INLINE __m512i add_fifth(__m512i q, const uint8_t *h0, const uint8_t *h1)
{
    __mmask64 m = lm_load_u32le(h0) | (uint64_t)lm_load_u32le(h1) << 32;
    return _mm512_mask_add_epi8(q, m, q, _mm512_set1_epi8(16));
}

INLINE void wide_q4_0(struct wide *u, const uint8_t *b)
{
    u->s = scales_sym(b, 18, 8);
    for (unsigned j = 0; j < 4; j++, b += 36)
        u->q[j] = nibbles_pair(b + 2, b + 20);
}
INLINE void wide_q4_1(struct wide *u, const uint8_t *b)
{
    u->s = scales_min(b, 20);
    for (unsigned j = 0; j < 4; j++, b += 40)
        u->q[j] = nibbles_pair(b + 4, b + 24);
}
INLINE void wide_q5_0(struct wide *u, const uint8_t *b)
{
    u->s = scales_sym(b, 22, 16);
    for (unsigned j = 0; j < 4; j++, b += 44)
        u->q[j] = add_fifth(nibbles_pair(b + 6, b + 28), b + 2, b + 24);
}
INLINE void wide_q5_1(struct wide *u, const uint8_t *b)
{
    u->s = scales_min(b, 24);
    for (unsigned j = 0; j < 4; j++, b += 48)
        u->q[j] = add_fifth(nibbles_pair(b + 8, b + 32), b + 4, b + 28);
}
INLINE void wide_q8_0(struct wide *u, const uint8_t *b)
{
    u->s = scales_sym(b, 34, 128);
    for (unsigned j = 0; j < 4; j++, b += 68) {
        __m512i v = _mm512_inserti64x4(_mm512_castsi256_si512(load32(b + 2)), load32(b + 36), 1);
        u->q[j] = _mm512_xor_si512(v, _mm512_set1_epi8((char)0x80));
    }
}

#endif
