/* What the files of AVX-512 kernels share, and block types in registers: as
 * cpu_blocks.h, 64 weights a vector. */
#ifndef GPU_CPU_AVX512_H
#define GPU_CPU_AVX512_H

#include <immintrin.h>
#include "gpu/cpu.h"
#include "gpu/cpu_blocks.h"

#define INLINE static inline __attribute__((always_inline))

#define LMI_TOKENS 12 /* of a tile: their sums stay in registers */

/* cpu_avx512_q8.c: struct lmi_kernels' members of these names. */
size_t lmi_avx512_tile_bytes(size_t k);
size_t lmi_avx512_panel_bytes(size_t k);
void lmi_avx512_quantize(struct lmi_q8 *q, const float *x, size_t k);
void lmi_avx512_quantize_tile(uint8_t *tile, const float *x, size_t ldx, size_t n, size_t k);
void lmi_avx512_q8_rows(enum lm_dtype t, float *y, const uint8_t *w, size_t row_bytes, size_t rows,
                        const struct lmi_q8 *a, size_t k);
void lmi_avx512_q8_gemm(enum lm_dtype t, float *y, size_t ldy, const uint8_t *w, size_t row_bytes, size_t rows,
                        const struct lmi_acts *a, uint8_t *panel);
/* cpu_avx512_bf16.c, for machines with bf16 products. */
size_t lmi_avx512_bf16_tile_bytes(size_t k);
size_t lmi_avx512_bf16_panel_bytes(size_t k);
void lmi_avx512_bf16_round(uint8_t *out, const float *x, size_t k);
void lmi_avx512_bf16_few(float *y, const uint8_t *w, size_t rows, const uint8_t *x, size_t k);
void lmi_avx512_bf16_tile(uint8_t *tile, const float *x, size_t ldx, size_t n, size_t k);
void lmi_avx512_bf16_gemm(float *y, size_t ldy, const uint8_t *w, size_t rows, const struct lmi_acts *a,
                          uint8_t *panel);

INLINE float lmi_sum16(__m512 v)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));

    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

/* dst[i][r] = src[r][i], 16 x 16 dwords, src rows ld dwords apart. */
static inline void lmi_transpose16(int32_t *dst, const int32_t *src, size_t ld)
{
    __m512i a[16], b[16];

    for (unsigned i = 0; i < 16; i++)
        a[i] = _mm512_loadu_si512(src + i * ld);
    for (unsigned i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (unsigned i = 0; i < 16; i += 4) {
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    for (unsigned i = 0; i < 4; i++) {
        __m512i t0 = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88), t1 = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
        __m512i t2 = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
        __m512i t3 = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
        _mm512_storeu_si512(dst + 16 * i, _mm512_shuffle_i32x4(t0, t2, 0x88));
        _mm512_storeu_si512(dst + 16 * (i + 8), _mm512_shuffle_i32x4(t0, t2, 0xdd));
        _mm512_storeu_si512(dst + 16 * (i + 4), _mm512_shuffle_i32x4(t1, t3, 0x88));
        _mm512_storeu_si512(dst + 16 * (i + 12), _mm512_shuffle_i32x4(t1, t3, 0xdd));
    }
}

/* s: groups of 32: 8 scales, then 8 minima (m unused); groups of 16: 16 scales.
 * q: in order; of nibbles in blocks of 32, in the order in which they lie: the
 * first halves of groups 0-3, their second halves, the same of groups 4-7. */
struct wide {
    __m512i q[4];
    __m512 s, m;
};

/* For what is used twice: compilers would read memory for each use, and a
 * vector a cycle is all that loads give. */
INLINE __m512i load_once(const void *p)
{
    __m512i v = _mm512_loadu_si512(p);
    __asm__("" : "+v"(v));
    return v;
}

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

/* Groups 0 2, 1 3, 4 6, 5 7: nibbles where they lie. */
INLINE void pairs_q4_k(struct wide *u, const uint8_t *b)
{
    __m512i low4 = _mm512_set1_epi8(15);

    u->s = scales_k4(b);
    for (unsigned j = 0; j < 2; j++) {
        __m512i v = load_once(b + 16 + 64 * j);
        u->q[2 * j] = _mm512_and_si512(v, low4);
        u->q[2 * j + 1] = _mm512_and_si512(_mm512_srli_epi16(v, 4), low4);
    }
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
    for (unsigned n = 0; n < 2; n++) {
        __m512i ql = load_once(b + 64 * n);
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
    u->q[0] = add_high(_mm512_and_si512(shift_halves(v0, 0, 2), three), high, 0, 1, 4);
    u->q[1] = add_high(_mm512_and_si512(shift_halves(v0, 4, 6), three), high, 2, 3, 4);
    u->q[2] = add_high(_mm512_and_si512(shift_halves(v1, 0, 2), three), high, 4, 5, 4);
    u->q[3] = add_high(_mm512_and_si512(shift_halves(v1, 4, 6), three), high, 6, 7, 4);
}

/* ---- blocks of 32, eight of them `bytes` apart */

/* Nibbles of four blocks: their first halves, their second halves. */
INLINE void split_nibbles(__m512i q[2], __m512i v)
{
    q[0] = _mm512_and_si512(v, _mm512_set1_epi8(15));
    q[1] = _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15));
}

INLINE __m512i four_blocks(const uint8_t *b, size_t bytes)
{
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const void *)b));

    v = _mm512_inserti32x4(v, _mm_loadu_si128((const void *)(b + bytes)), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const void *)(b + 2 * bytes)), 2);
    return _mm512_inserti32x4(v, _mm_loadu_si128((const void *)(b + 3 * bytes)), 3);
}

/* The nibbles of eight blocks, qs of the first at b. */
INLINE void nibbles_32(struct wide *u, const uint8_t *b, size_t bytes)
{
    split_nibbles(u->q, four_blocks(b, bytes));
    split_nibbles(u->q + 2, four_blocks(b + 4 * bytes, bytes));
}

/* Fifth bits of eight blocks, the four bytes of the first at b: 16 of a first half, 16 of a second. */
INLINE void fifth_bits(struct wide *u, const uint8_t *b, size_t bytes)
{
    for (unsigned i = 0; i < 2; i++, b += 4 * bytes) {
        uint64_t h0 = lm_load_u32le(b), h1 = lm_load_u32le(b + bytes), h2 = lm_load_u32le(b + 2 * bytes);
        uint64_t h3 = lm_load_u32le(b + 3 * bytes);
        __mmask64 lo = (h0 & 0xffff) | (h1 & 0xffff) << 16 | (h2 & 0xffff) << 32 | h3 << 48;
        __mmask64 hi = h0 >> 16 | (h1 >> 16) << 16 | (h2 >> 16) << 32 | (h3 >> 16) << 48;
        u->q[2 * i] = _mm512_mask_add_epi8(u->q[2 * i], lo, u->q[2 * i], _mm512_set1_epi8(16));
        u->q[2 * i + 1] = _mm512_mask_add_epi8(u->q[2 * i + 1], hi, u->q[2 * i + 1], _mm512_set1_epi8(16));
    }
}

/* Eight f16 scales. */
INLINE __m512 scales_sym(const uint8_t *b, size_t bytes)
{
    __m128i h = _mm_set_epi16((short)lm_load_u16le(b + 7 * bytes), (short)lm_load_u16le(b + 6 * bytes),
                              (short)lm_load_u16le(b + 5 * bytes), (short)lm_load_u16le(b + 4 * bytes),
                              (short)lm_load_u16le(b + 3 * bytes), (short)lm_load_u16le(b + 2 * bytes),
                              (short)lm_load_u16le(b + bytes), (short)lm_load_u16le(b));
    return _mm512_castps256_ps512(_mm256_cvtph_ps(h));
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

INLINE void wide_q4_0(struct wide *u, const uint8_t *b)
{
    u->s = scales_sym(b, 18);
    nibbles_32(u, b + 2, 18);
}
INLINE void wide_q4_1(struct wide *u, const uint8_t *b)
{
    u->s = scales_min(b, 20);
    nibbles_32(u, b + 4, 20);
}
INLINE void wide_q5_0(struct wide *u, const uint8_t *b)
{
    u->s = scales_sym(b, 22);
    nibbles_32(u, b + 6, 22);
    fifth_bits(u, b + 2, 22);
}
INLINE void wide_q5_1(struct wide *u, const uint8_t *b)
{
    u->s = scales_min(b, 24);
    nibbles_32(u, b + 8, 24);
    fifth_bits(u, b + 4, 24);
}
INLINE void wide_q8_0(struct wide *u, const uint8_t *b)
{
    u->s = scales_sym(b, 34);
    for (unsigned j = 0; j < 4; j++, b += 68) {
        __m512i v = _mm512_inserti64x4(_mm512_castsi256_si512(load32(b + 2)), load32(b + 36), 1);
        u->q[j] = _mm512_xor_si512(v, _mm512_set1_epi8((char)0x80));
    }
}

/* ---- nibbles that are indices of levels, here plus 128 */

INLINE void to_levels(struct wide *u, __m128i levels)
{
    __m512i table = _mm512_broadcast_i32x4(levels);

    for (unsigned j = 0; j < 4; j++)
        u->q[j] = _mm512_shuffle_epi8(table, u->q[j]);
}

INLINE __m128i iq4_levels(void)
{
    return _mm_setr_epi8(1, 24, 45, 63, 79, 93, 106, 118, -127, -115, -103, -90, -75, -59, -39, -15);
}

INLINE void wide_iq4_nl(struct wide *u, const uint8_t *b)
{
    u->s = scales_sym(b, 18);
    nibbles_32(u, b + 2, 18);
    to_levels(u, iq4_levels());
}

INLINE void wide_iq4_xs(struct wide *u, const uint8_t *b)
{
    uint64_t low = _pdep_u64(lm_load_u32le(b + 4), 0x0f0f0f0f0f0f0f0f);
    uint64_t high = _pdep_u64(lm_load_u16le(b + 2), 0x3030303030303030);
    __m256i s = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)(low | high)));
    __m256 v = _mm256_cvtepi32_ps(_mm256_sub_epi32(s, _mm256_set1_epi32(32)));

    u->s = _mm512_castps256_ps512(_mm256_mul_ps(v, _mm256_set1_ps(lmi_half(b))));
    split_nibbles(u->q, load_once(b + 8));
    split_nibbles(u->q + 2, load_once(b + 72));
    to_levels(u, iq4_levels());
}

/* Bytes e of 2^(e - 128). */
INLINE void wide_mxfp4(struct wide *u, const uint8_t *b)
{
    __m256i e = _mm256_setr_epi32(b[0], b[17], b[34], b[51], b[68], b[85], b[102], b[119]);
    __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
    __m256i small = _mm256_sllv_epi32(_mm256_set1_epi32(0x200000), e);

    u->s = _mm512_castps256_ps512(_mm256_castsi256_ps(
        _mm256_blendv_epi8(small, normal, _mm256_cmpgt_epi32(e, _mm256_set1_epi32(1)))));
    nibbles_32(u, b + 1, 17);
    to_levels(u, _mm_setr_epi8(-128, -127, -126, -125, -124, -122, -120, -116, -128, 127, 126, 125, 124, 122, 120, 116));
}

#endif
