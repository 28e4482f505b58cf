/* Kernels for AVX-512 with VNNI, and with bf16 products where the machine has
 * them: f32 products and attention; the others are in cpu_avx512_q8.c and _bf16.c. */
#include "gpu/cpu_generic.h"

#if defined(__AVX512VNNI__)
#include "gpu/cpu_avx512.h"

/* ---- f32 products */

INLINE void dot_block(float *y, size_t ldy, const float *w, size_t ldw, const float *x, size_t ldx, size_t k,
                      const size_t R, const size_t N)
{
    __m512 acc[4][6], wv[4];
    __mmask16 m = (__mmask16)((1u << k % 16) - 1);
    size_t i = 0;

    for (size_t r = 0; r < R; r++)
        for (size_t t = 0; t < N; t++)
            acc[r][t] = _mm512_setzero_ps();
    for (; i + 16 <= k; i += 16) {
        for (size_t r = 0; r < R; r++)
            wv[r] = _mm512_loadu_ps(w + r * ldw + i);
        for (size_t t = 0; t < N; t++) {
            __m512 xv = _mm512_loadu_ps(x + t * ldx + i);
            for (size_t r = 0; r < R; r++)
                acc[r][t] = _mm512_fmadd_ps(wv[r], xv, acc[r][t]);
        }
    }
    for (size_t r = 0; m && r < R; r++)
        for (size_t t = 0; t < N; t++)
            acc[r][t] = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(m, w + r * ldw + i),
                                        _mm512_maskz_loadu_ps(m, x + t * ldx + i), acc[r][t]);
    for (size_t r = 0; r < R; r++)
        for (size_t t = 0; t < N; t++)
            y[t * ldy + r] = lmi_sum16(acc[r][t]);
}

static void dot_f32(float *y, size_t ldy, const float *w, size_t ldw, size_t rows, const float *x, size_t ldx,
                    size_t n, size_t k)
{
    size_t t = 0, r;

    for (; t < n; t += t + 6 <= n ? 6 : 1) {
        bool six = t + 6 <= n;
        for (r = 0; r + 4 <= rows; r += 4)
            if (six)
                dot_block(y + t * ldy + r, ldy, w + r * ldw, ldw, x + t * ldx, ldx, k, 4, 6);
            else
                dot_block(y + t * ldy + r, ldy, w + r * ldw, ldw, x + t * ldx, ldx, k, 4, 1);
        for (; r < rows; r++)
            if (six)
                dot_block(y + t * ldy + r, ldy, w + r * ldw, ldw, x + t * ldx, ldx, k, 1, 6);
            else
                dot_block(y + t * ldy + r, ldy, w + r * ldw, ldw, x + t * ldx, ldx, k, 1, 1);
    }
}

/* ---- attention */

INLINE void score_block(float *s, size_t lds, const float *q, size_t ldq, size_t d, const float *k, const size_t R,
                        const size_t B)
{
    __m512 acc[4][4];

    for (size_t r = 0; r < R; r++)
        for (size_t b = 0; b < B; b++)
            acc[r][b] = _mm512_setzero_ps();
    for (size_t i = 0; i < d; i++) {
        __m512 kv[4];
        for (size_t b = 0; b < B; b++)
            kv[b] = _mm512_loadu_ps(k + (b * d + i) * 16);
        for (size_t r = 0; r < R; r++) {
            __m512 qv = _mm512_set1_ps(q[r * ldq + i]);
            for (size_t b = 0; b < B; b++)
                acc[r][b] = _mm512_fmadd_ps(qv, kv[b], acc[r][b]);
        }
    }
    for (size_t r = 0; r < R; r++)
        for (size_t b = 0; b < B; b++)
            _mm512_storeu_ps(s + r * lds + b * 16, acc[r][b]);
}

static void scores(float *s, size_t lds, const float *q, size_t ldq, size_t rows, size_t d, const float *k,
                   size_t n_blocks)
{
    for (size_t b = 0; b < n_blocks;) {
        size_t step = b + 4 <= n_blocks ? 4 : 1, r = 0;
        for (; r + 4 <= rows; r += 4)
            if (step == 4)
                score_block(s + r * lds + b * 16, lds, q + r * ldq, ldq, d, k + b * d * 16, 4, 4);
            else
                score_block(s + r * lds + b * 16, lds, q + r * ldq, ldq, d, k + b * d * 16, 4, 1);
        for (; r < rows; r++)
            if (step == 4)
                score_block(s + r * lds + b * 16, lds, q + r * ldq, ldq, d, k + b * d * 16, 1, 4);
            else
                score_block(s + r * lds + b * 16, lds, q + r * ldq, ldq, d, k + b * d * 16, 1, 1);
        b += step;
    }
}

INLINE void mix_block(float *o, size_t ldo, const float *p, size_t ldp, const float *v, size_t d_pad, size_t n_keys,
                      const size_t R, const size_t V)
{
    __m512 acc[4][4];

    for (size_t r = 0; r < R; r++)
        for (size_t j = 0; j < V; j++)
            acc[r][j] = _mm512_setzero_ps();
    for (size_t t = 0; t < n_keys; t++) {
        __m512 vv[4];
        for (size_t j = 0; j < V; j++)
            vv[j] = _mm512_loadu_ps(v + t * d_pad + 16 * j);
        for (size_t r = 0; r < R; r++) {
            __m512 pv = _mm512_set1_ps(p[r * ldp + t]);
            for (size_t j = 0; j < V; j++)
                acc[r][j] = _mm512_fmadd_ps(pv, vv[j], acc[r][j]);
        }
    }
    for (size_t r = 0; r < R; r++)
        for (size_t j = 0; j < V; j++) {
            float *at = o + r * ldo + 16 * j;
            _mm512_storeu_ps(at, _mm512_add_ps(_mm512_loadu_ps(at), acc[r][j]));
        }
}

static void mix(float *o, size_t ldo, const float *p, size_t ldp, size_t rows, const float *v, size_t d_pad,
                size_t n_keys)
{
    for (size_t i = 0; i < d_pad;) {
        size_t step = i + 64 <= d_pad ? 64 : 16, r = 0;
        for (; r + 4 <= rows; r += 4)
            if (step == 64)
                mix_block(o + r * ldo + i, ldo, p + r * ldp, ldp, v + i, d_pad, n_keys, 4, 4);
            else
                mix_block(o + r * ldo + i, ldo, p + r * ldp, ldp, v + i, d_pad, n_keys, 4, 1);
        for (; r < rows; r++)
            if (step == 64)
                mix_block(o + r * ldo + i, ldo, p + r * ldp, ldp, v + i, d_pad, n_keys, 1, 4);
            else
                mix_block(o + r * ldo + i, ldo, p + r * ldp, ldp, v + i, d_pad, n_keys, 1, 1);
        i += step;
    }
}

/* ---- bf16 weights, f32 activations: sums as in dot_f32 */

INLINE __m512 load_bf16(const uint8_t *p, __mmask16 m)
{
    __m512i v = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
}

/* Two rows at a time, so that their sums do not wait for each other. */
static void bf16_rows(float *y, const uint8_t *w, size_t rows, const float *x, size_t k)
{
    for (size_t r = 0; r < rows; r += 2, w += 4 * k) {
        const uint8_t *w0 = w, *w1 = r + 1 < rows ? w + 2 * k : w;
        __m512 acc0 = _mm512_setzero_ps(), acc1 = acc0;
        for (size_t i = 0; i < k; i += 16) {
            __mmask16 m = k - i < 16 ? (__mmask16)((1u << (k - i)) - 1) : 0xffff;
            __m512 v = _mm512_maskz_loadu_ps(m, x + i);
            acc0 = _mm512_fmadd_ps(load_bf16(w0 + 2 * i, m), v, acc0);
            acc1 = _mm512_fmadd_ps(load_bf16(w1 + 2 * i, m), v, acc1);
        }
        y[r] = lmi_sum16(acc0);
        if (r + 1 < rows)
            y[r + 1] = lmi_sum16(acc1);
    }
}

#define COMMON \
    .dot_f32 = dot_f32, .scores = scores, .mix = mix, .exp_row = lmi_exp_row, .silu = lmi_silu, .gelu = lmi_gelu, \
    .q8_tile_tokens = LMI_TOKENS, .q8_tile_bytes = lmi_avx512_tile_bytes, .q8_panel_bytes = lmi_avx512_panel_bytes, \
    .quantize = lmi_avx512_quantize, .quantize_tile = lmi_avx512_quantize_tile, .q8_rows = lmi_avx512_q8_rows, \
    .q8_gemm = lmi_avx512_q8_gemm, .bf16_rows = bf16_rows

const struct lmi_kernels lmi_kernels_avx512 = {.name = "avx512-vnni", COMMON};
const struct lmi_kernels lmi_kernels_avx512bf16 = {
    .name = "avx512-bf16",
    COMMON,
    .bf16_tile_tokens = LMI_TOKENS,
    .bf16_tile_bytes = lmi_avx512_bf16_tile_bytes,
    .bf16_panel_bytes = lmi_avx512_bf16_panel_bytes,
    .bf16_round = lmi_avx512_bf16_round,
    .bf16_few = lmi_avx512_bf16_few,
    .bf16_tile = lmi_avx512_bf16_tile,
    .bf16_gemm = lmi_avx512_bf16_gemm,
};
#endif
