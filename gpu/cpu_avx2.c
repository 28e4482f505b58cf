/* Kernels for AVX2, FMA and F16C. f32 products keep sixteen partial sums (two
 * vectors), so that they equal the AVX-512 kernels' bit for bit. */
#include "gpu/cpu.h"

#if defined(__AVX2__)
#include <immintrin.h>

typedef __m256 lmi_sums;
#include "gpu/cpu_generic_q8.h"

/* Sixteen-bit products: u8 * s8 pairs would saturate for Q8_0. */
static inline __m256i dot32(const uint8_t *q, const int8_t *a)
{
    __m256i q0 = _mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)q));
    __m256i q1 = _mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)(q + 16)));
    __m256i a0 = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)a));
    __m256i a1 = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(a + 16)));
    __m256i p0 = _mm256_madd_epi16(q0, a0), p1 = _mm256_madd_epi16(q1, a1);

    /* low half: sums of the first 16 columns, high half: of the last 16 */
    return _mm256_add_epi32(_mm256_permute2x128_si256(p0, p1, 0x20), _mm256_permute2x128_si256(p0, p1, 0x31));
}

static inline float sum8(__m256 v)
{
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));

    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}

static inline lmi_sums lmi_no_sums(void)
{
    return _mm256_setzero_ps();
}
static inline float lmi_total(const lmi_sums y[2])
{
    return sum8(_mm256_add_ps(y[0], y[1]));
}

/* Sums of 4 x 8 dwords over each half. */
static inline __m256i sum_halves(const uint8_t *q, const int8_t *a)
{
    return _mm256_hadd_epi32(_mm256_hadd_epi32(dot32(q, a), dot32(q + 32, a + 32)),
                             _mm256_hadd_epi32(dot32(q + 64, a + 64), dot32(q + 96, a + 96)));
}

static inline __m256 less_offset(__m256i dot, const int32_t *sum, unsigned offset)
{
    __m256i less = _mm256_mullo_epi32(_mm256_loadu_si256((const void *)sum), _mm256_set1_epi32((int)offset));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(dot, less));
}

static inline __m256 minus_minima(__m256 v, __m256 m, const int32_t *sum)
{
    return _mm256_fnmadd_ps(m, _mm256_cvtepi32_ps(_mm256_loadu_si256((const void *)sum)), v);
}

/* Every second of sixteen, from the first or the second on. */
static inline __m256 every_second(const float *x, bool second)
{
    __m256 a = _mm256_loadu_ps(x), b = _mm256_loadu_ps(x + 8);
    __m256 v = second ? _mm256_shuffle_ps(a, b, 0xdd) : _mm256_shuffle_ps(a, b, 0x88);
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), 0xd8));
}

static inline lmi_sums lmi_add_super(lmi_sums y, const struct lmi_unpacked *u, const struct lmi_q8 *a, unsigned group,
                                     unsigned offset)
{
    __m256i low = sum_halves(u->q, a->q), high = sum_halves(u->q + 128, a->q + 128);
    __m256i first = _mm256_permute2x128_si256(low, high, 0x20), second = _mm256_permute2x128_si256(low, high, 0x31);
    __m256 v;

    if (group == 32) {
        v = _mm256_mul_ps(less_offset(_mm256_add_epi32(first, second), a->sum, offset), _mm256_loadu_ps(u->s));
        if (offset == 0)
            v = minus_minima(v, _mm256_loadu_ps(u->m), a->sum);
    } else {
        v = _mm256_mul_ps(less_offset(first, a->half, offset), every_second(u->s, false));
        v = _mm256_fmadd_ps(less_offset(second, a->half + 8, offset), every_second(u->s, true), v);
        if (offset == 0) {
            v = minus_minima(v, every_second(u->m, false), a->half);
            v = minus_minima(v, every_second(u->m, true), a->half + 8);
        }
    }
    return _mm256_fmadd_ps(v, _mm256_loadu_ps(a->d), y);
}

static inline __m256i tail_mask(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n < 8 ? (int)n : 8), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* R rows by N tokens; both known when compiled. */
static inline __attribute__((always_inline)) void dot_block(float *y, size_t ldy, const float *w, size_t ldw,
                                                            const float *x, size_t ldx, size_t k, const size_t R,
                                                            const size_t N)
{
    __m256 acc[2][2][2];
    size_t i = 0, left = k % 16;

    for (size_t r = 0; r < R; r++)
        for (size_t t = 0; t < N; t++)
            acc[r][t][0] = acc[r][t][1] = _mm256_setzero_ps();
    for (; i + 16 <= k; i += 16)
        for (size_t r = 0; r < R; r++)
            for (size_t t = 0; t < N; t++)
                for (size_t h = 0; h < 2; h++)
                    acc[r][t][h] = _mm256_fmadd_ps(_mm256_loadu_ps(w + r * ldw + i + 8 * h),
                                                   _mm256_loadu_ps(x + t * ldx + i + 8 * h), acc[r][t][h]);
    for (size_t h = 0; h < 2 && 8 * h < left; h++) {
        __m256i m = tail_mask(left - 8 * h);
        for (size_t r = 0; r < R; r++)
            for (size_t t = 0; t < N; t++)
                acc[r][t][h] = _mm256_fmadd_ps(_mm256_maskload_ps(w + r * ldw + i + 8 * h, m),
                                               _mm256_maskload_ps(x + t * ldx + i + 8 * h, m), acc[r][t][h]);
    }
    for (size_t r = 0; r < R; r++)
        for (size_t t = 0; t < N; t++)
            y[t * ldy + r] = sum8(_mm256_add_ps(acc[r][t][0], acc[r][t][1]));
}

static void dot_f32(float *y, size_t ldy, const float *w, size_t ldw, size_t rows, const float *x, size_t ldx,
                    size_t n, size_t k)
{
    for (size_t r = 0; r < rows; r += 2) {
        const float *wr = w + r * ldw;
        size_t t = 0;
        if (r + 1 == rows) {
            for (; t < n; t++)
                dot_block(y + t * ldy + r, ldy, wr, ldw, x + t * ldx, ldx, k, 1, 1);
            return;
        }
        for (; t + 2 <= n; t += 2)
            dot_block(y + t * ldy + r, ldy, wr, ldw, x + t * ldx, ldx, k, 2, 2);
        if (t < n)
            dot_block(y + t * ldy + r, ldy, wr, ldw, x + t * ldx, ldx, k, 2, 1);
    }
}

static inline __attribute__((always_inline)) void score_block(float *s, size_t lds, const float *q, size_t ldq,
                                                              size_t d, const float *k, const size_t R)
{
    __m256 acc[4][2];

    for (size_t r = 0; r < R; r++)
        acc[r][0] = acc[r][1] = _mm256_setzero_ps();
    for (size_t i = 0; i < d; i++) {
        __m256 k0 = _mm256_loadu_ps(k + 16 * i), k1 = _mm256_loadu_ps(k + 16 * i + 8);
        for (size_t r = 0; r < R; r++) {
            __m256 b = _mm256_broadcast_ss(q + r * ldq + i);
            acc[r][0] = _mm256_fmadd_ps(b, k0, acc[r][0]);
            acc[r][1] = _mm256_fmadd_ps(b, k1, acc[r][1]);
        }
    }
    for (size_t r = 0; r < R; r++) {
        _mm256_storeu_ps(s + r * lds, acc[r][0]);
        _mm256_storeu_ps(s + r * lds + 8, acc[r][1]);
    }
}

static void scores(float *s, size_t lds, const float *q, size_t ldq, size_t rows, size_t d, const float *k,
                   size_t n_blocks)
{
    for (size_t b = 0; b < n_blocks; b++, s += 16, k += d * 16) {
        size_t r = 0;
        for (; r + 4 <= rows; r += 4)
            score_block(s + r * lds, lds, q + r * ldq, ldq, d, k, 4);
        for (; r < rows; r++)
            score_block(s + r * lds, lds, q + r * ldq, ldq, d, k, 1);
    }
}

static inline __attribute__((always_inline)) void mix_block(float *o, size_t ldo, const float *p, size_t ldp,
                                                            const float *v, size_t d_pad, size_t n_keys,
                                                            const size_t R)
{
    __m256 acc[4][2];

    for (size_t r = 0; r < R; r++)
        acc[r][0] = acc[r][1] = _mm256_setzero_ps();
    for (size_t t = 0; t < n_keys; t++) {
        __m256 v0 = _mm256_loadu_ps(v + t * d_pad), v1 = _mm256_loadu_ps(v + t * d_pad + 8);
        for (size_t r = 0; r < R; r++) {
            __m256 b = _mm256_broadcast_ss(p + r * ldp + t);
            acc[r][0] = _mm256_fmadd_ps(b, v0, acc[r][0]);
            acc[r][1] = _mm256_fmadd_ps(b, v1, acc[r][1]);
        }
    }
    for (size_t r = 0; r < R; r++)
        for (size_t h = 0; h < 2; h++)
            _mm256_storeu_ps(o + r * ldo + 8 * h, _mm256_add_ps(_mm256_loadu_ps(o + r * ldo + 8 * h), acc[r][h]));
}

static void mix(float *o, size_t ldo, const float *p, size_t ldp, size_t rows, const float *v, size_t d_pad,
                size_t n_keys)
{
    for (size_t i = 0; i < d_pad; i += 16) {
        size_t r = 0;
        for (; r + 4 <= rows; r += 4)
            mix_block(o + r * ldo + i, ldo, p + r * ldp, ldp, v + i, d_pad, n_keys, 4);
        for (; r < rows; r++)
            mix_block(o + r * ldo + i, ldo, p + r * ldp, ldp, v + i, d_pad, n_keys, 1);
    }
}

const struct lmi_kernels lmi_kernels_avx2 = {
    .name = "avx2",
    .dot_f32 = dot_f32,
    .scores = scores,
    .mix = mix,
    .exp_row = lmi_exp_row,
    .silu = lmi_silu,
    .gelu = lmi_gelu,
    .q8_tile_tokens = 1,
    .q8_tile_bytes = lmi_tile_bytes_c,
    .q8_panel_bytes = lmi_panel_bytes_c,
    .quantize = lmi_quantize_c,
    .quantize_tile = lmi_quantize_tile_c,
    .q8_rows = lmi_q8_rows_c,
    .q8_gemm = lmi_q8_gemm_c,
};
#endif
