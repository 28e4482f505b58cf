/* LANES floats or ints side by side: the few operations from which the row
 * kernels are written once for AVX-512, AVX2 and anything else.
 *
 * Define LMI_LANES (16, 8 or 4) before including.  Arithmetic and bit operators
 * are the compiler's own vector operators; every lane does IEEE single
 * operations in the order written, so all widths give the same bits. */
#ifndef LIBMODEL_DTYPE_LANES_H
#define LIBMODEL_DTYPE_LANES_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "libmodel/dtype/half.h"

enum { LANES = LMI_LANES };
typedef float vf __attribute__((vector_size(4 * LMI_LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LMI_LANES)));

#define INLINE static inline __attribute__((always_inline))

#if LMI_LANES == 16

#include <immintrin.h>
typedef __mmask16 vm; /* one truth value a lane */

INLINE vf vf_set(float x) { return (vf)_mm512_set1_ps(x); }
INLINE vi vi_set(int32_t x) { return (vi)_mm512_set1_epi32(x); }
INLINE vf vf_min(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE vf vf_max(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vf vf_sqrt(vf a) { return (vf)_mm512_sqrt_ps((__m512)a); }
INLINE vi vi_min(vi a, vi b) { return (vi)_mm512_min_epi32((__m512i)a, (__m512i)b); }
INLINE vi vi_max(vi a, vi b) { return (vi)_mm512_max_epi32((__m512i)a, (__m512i)b); }
INLINE vm vf_lt(vf a, vf b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ); }
INLINE vm vf_eq(vf a, vf b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_EQ_OQ); }
INLINE vm vm_and(vm a, vm b) { return _kand_mask16(a, b); }
INLINE vm vm_andnot(vm a, vm b) { return _kandn_mask16(b, a); }
INLINE bool vm_any(vm a) { return a != 0; }
INLINE vf vf_sel(vm m, vf a, vf b) { return (vf)_mm512_mask_blend_ps(m, (__m512)b, (__m512)a); }
INLINE vf vf_of_vi(vi a) { return (vf)_mm512_cvtepi32_ps((__m512i)a); }
INLINE vi vi_trunc(vf a) { return (vi)_mm512_cvttps_epi32((__m512)a); }
INLINE void vi_store_u8(void *p, vi a) { _mm_storeu_si128(p, _mm512_cvtepi32_epi8((__m512i)a)); }
INLINE uint32_t vi_signs(vi a) { return _mm512_movepi32_mask((__m512i)a); }
INLINE vi vi_load_u8(const void *p) { return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128(p)); }
INLINE vf vf_load_f16(const void *p) { return (vf)_mm512_cvtph_ps(_mm256_loadu_si256(p)); }
INLINE void vf_store_f16(void *p, vf a)
{
    _mm256_storeu_si256(p, _mm512_cvtps_ph((__m512)a, _MM_FROUND_TO_NEAREST_INT));
}

#elif LMI_LANES == 8

#include <immintrin.h>
typedef vi vm; /* all bits of a lane, or none */

INLINE vf vf_set(float x) { return (vf)_mm256_set1_ps(x); }
INLINE vi vi_set(int32_t x) { return (vi)_mm256_set1_epi32(x); }
INLINE vf vf_min(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE vf vf_max(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vf vf_sqrt(vf a) { return (vf)_mm256_sqrt_ps((__m256)a); }
INLINE vi vi_min(vi a, vi b) { return (vi)_mm256_min_epi32((__m256i)a, (__m256i)b); }
INLINE vi vi_max(vi a, vi b) { return (vi)_mm256_max_epi32((__m256i)a, (__m256i)b); }
INLINE vm vf_lt(vf a, vf b) { return (vm)_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_LT_OQ); }
INLINE vm vf_eq(vf a, vf b) { return (vm)_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_EQ_OQ); }
INLINE vm vm_and(vm a, vm b) { return a & b; }
INLINE vm vm_andnot(vm a, vm b) { return a & ~b; }
INLINE bool vm_any(vm a) { return _mm256_movemask_ps((__m256)a) != 0; }
INLINE vf vf_sel(vm m, vf a, vf b) { return (vf)_mm256_blendv_ps((__m256)b, (__m256)a, (__m256)m); }
INLINE vf vf_of_vi(vi a) { return (vf)_mm256_cvtepi32_ps((__m256i)a); }
INLINE vi vi_trunc(vf a) { return (vi)_mm256_cvttps_epi32((__m256)a); }
INLINE void vi_store_u8(void *p, vi a)
{
    const __m256i first = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, //
                                           -1, -1, -1, -1, 0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1);
    __m256i b = _mm256_shuffle_epi8((__m256i)a, first);
    _mm_storel_epi64(p, _mm_or_si128(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1)));
}
INLINE uint32_t vi_signs(vi a) { return (uint32_t)_mm256_movemask_ps((__m256)a); }
INLINE vi vi_load_u8(const void *p) { return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64(p)); }
INLINE vf vf_load_f16(const void *p) { return (vf)_mm256_cvtph_ps(_mm_loadu_si128(p)); }
INLINE void vf_store_f16(void *p, vf a)
{
    _mm_storeu_si128(p, _mm256_cvtps_ph((__m256)a, _MM_FROUND_TO_NEAREST_INT));
}

#else

typedef vi vm;
typedef uint8_t vb __attribute__((vector_size(16)));

INLINE vf vf_set(float x) { return (vf){x, x, x, x}; }
INLINE vi vi_set(int32_t x) { return (vi){x, x, x, x}; }
INLINE vm vf_lt(vf a, vf b) { return a < b; }
INLINE vm vf_eq(vf a, vf b) { return a == b; }
INLINE vm vm_and(vm a, vm b) { return a & b; }
INLINE vm vm_andnot(vm a, vm b) { return a & ~b; }
INLINE bool vm_any(vm a) { return (a[0] | a[1] | a[2] | a[3]) != 0; }
INLINE vf vf_sel(vm m, vf a, vf b) { return (vf)(((vi)a & m) | ((vi)b & ~m)); }
INLINE vf vf_min(vf a, vf b) { return vf_sel(a < b, a, b); }
INLINE vf vf_max(vf a, vf b) { return vf_sel(a > b, a, b); }
INLINE vi vi_min(vi a, vi b) { return (vi)vf_sel(a < b, (vf)a, (vf)b); }
INLINE vi vi_max(vi a, vi b) { return (vi)vf_sel(a > b, (vf)a, (vf)b); }
INLINE vf vf_sqrt(vf a) { return (vf){sqrtf(a[0]), sqrtf(a[1]), sqrtf(a[2]), sqrtf(a[3])}; }
INLINE vf vf_of_vi(vi a) { return __builtin_convertvector(a, vf); }
/* Out of range and NaN give INT_MIN, as the x86 instruction does. */
INLINE vi vi_trunc(vf a)
{
    vm fits = (a < vf_set(2147483648.0f)) & (a > vf_set(-2147483648.0f));
    vi t = __builtin_convertvector(vf_sel(fits, a, vf_set(0)), vi);
    return (t & fits) | (vi_set(INT32_MIN) & ~fits);
}
INLINE void vi_store_u8(void *p, vi a)
{
    uint8_t b[4] = {(uint8_t)a[0], (uint8_t)a[1], (uint8_t)a[2], (uint8_t)a[3]};
    memcpy(p, b, sizeof b);
}
INLINE uint32_t vi_signs(vi a)
{
    vi bit = (a < 0) & (vi){1, 2, 4, 8};
    return (uint32_t)(bit[0] | bit[1] | bit[2] | bit[3]);
}
INLINE vi vi_load_u8(const void *p)
{
    uint32_t u;
    memcpy(&u, p, sizeof u);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    /* Interleaving with zeros twice: compilers widen four bytes one by one. */
    const vb zero = {0};
    vb b = (vb)(vi){(int32_t)u};
    b = __builtin_shufflevector(b, zero, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    return (vi)__builtin_shufflevector(b, zero, 0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23);
#else
    return (vi){u >> 24, u >> 16 & 255, u >> 8 & 255, u & 255};
#endif
}
INLINE vf vf_load_f16(const void *p)
{
    uint16_t h[4];
    memcpy(h, p, sizeof h);
    return (vf){lmi_f16_to_f32(h[0]), lmi_f16_to_f32(h[1]), lmi_f16_to_f32(h[2]), lmi_f16_to_f32(h[3])};
}
INLINE void vf_store_f16(void *p, vf a)
{
    uint16_t h[4] = {lmi_f32_to_f16(a[0]), lmi_f32_to_f16(a[1]), lmi_f32_to_f16(a[2]), lmi_f32_to_f16(a[3])};
    memcpy(p, h, sizeof h);
}

#endif

/* Of the above: min and max give b when the two are unordered or equal;
 * vi_store_u8 keeps the low bytes; bit l of vi_signs is the sign of lane l. */

INLINE vf vf_load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void vf_store(float *p, vf v)
{
    memcpy(p, &v, sizeof v);
}
INLINE vf vf_abs(vf a)
{
    return (vf)((vi)a & vi_set(0x7fffffff));
}
INLINE vf vf_neg(vf a)
{
    return (vf)((vi)a ^ vi_set(INT32_MIN));
}

/* ---- transposition of LANES x LANES floats in place: at step w, row i trades
 * its odd runs of w elements for the even runs of row i + w. */

#define SWAP_RUNS(t, w, even, odd) \
    for (int i_ = 0; i_ < LANES; i_++) \
        if (!(i_ & (w))) { \
            vf a_ = (t)[i_], b_ = (t)[i_ + (w)]; \
            (t)[i_] = __builtin_shufflevector(a_, b_, even); \
            (t)[i_ + (w)] = __builtin_shufflevector(a_, b_, odd); \
        }
#define RUN_LIST(...) __VA_ARGS__

INLINE void transpose(vf *t)
{
#if LMI_LANES == 16
    SWAP_RUNS(t, 1, RUN_LIST(0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30),
              RUN_LIST(1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31))
    SWAP_RUNS(t, 2, RUN_LIST(0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29),
              RUN_LIST(2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31))
    SWAP_RUNS(t, 4, RUN_LIST(0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27),
              RUN_LIST(4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31))
    SWAP_RUNS(t, 8, RUN_LIST(0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23),
              RUN_LIST(8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
#elif LMI_LANES == 8
    SWAP_RUNS(t, 1, RUN_LIST(0, 8, 2, 10, 4, 12, 6, 14), RUN_LIST(1, 9, 3, 11, 5, 13, 7, 15))
    SWAP_RUNS(t, 2, RUN_LIST(0, 1, 8, 9, 4, 5, 12, 13), RUN_LIST(2, 3, 10, 11, 6, 7, 14, 15))
    SWAP_RUNS(t, 4, RUN_LIST(0, 1, 2, 3, 8, 9, 10, 11), RUN_LIST(4, 5, 6, 7, 12, 13, 14, 15))
#else
    SWAP_RUNS(t, 1, RUN_LIST(0, 4, 2, 6), RUN_LIST(1, 5, 3, 7))
    SWAP_RUNS(t, 2, RUN_LIST(0, 1, 4, 5), RUN_LIST(2, 3, 6, 7))
#endif
}

/* t[i] lane l = x[l * group + i]: LANES consecutive groups of `group` elements
 * (a multiple of LANES), one group a lane. */
INLINE void load_groups(vf *t, const float *x, int group)
{
    for (int c = 0; c < group; c += LANES) {
        for (int l = 0; l < LANES; l++)
            t[c + l] = vf_load(x + l * group + c);
        transpose(t + c);
    }
}

/* ---- rounding to int the way ggml does it: adding 1.5 * 2^23 leaves the
 * nearest integer (ties to even) in the low mantissa bits.  Beyond 2^22 the
 * result wraps; files made by ggml contain such results, so it stays. */

#define ROUND_MAGIC 12582912.0f

INLINE vi nearest(vf v)
{
    return ((vi)(v + vf_set(ROUND_MAGIC)) & vi_set(0x7fffff)) - vi_set(0x400000);
}
INLINE vi nearest_in(vf v, int lo, int hi)
{
    return vi_max(vi_min(nearest(v), vi_set(hi)), vi_set(lo));
}
INLINE int32_t nearest1(float v)
{
    return (int32_t)(lmi_bits(v + ROUND_MAGIC) & 0x7fffff) - 0x400000;
}

#endif
