/* Products of bf16 weights and activations. The Makefile's flags do not grant
 * the instruction: functions name it.
 *
 * A dword is a pair of columns. Pair p goes to sum p mod 16, in order, and the
 * sixteen are added as a tree: for one token they are the lanes of a vector;
 * for many, lanes are 16 rows and the sums follow each other. */
#include "gpu/cpu_generic.h"

#if defined(__AVX512VNNI__)
#include "gpu/cpu_avx512.h"

#define TOKENS LMI_TOKENS
#define BF16 __attribute__((target("avx512bf16")))

/* Pairs of a sum. */
static size_t steps_of(size_t k)
{
    return (k + 31) / 32;
}

static __mmask32 columns(size_t left)
{
    return left >= 32 ? 0xffffffff : (1u << left) - 1;
}

/* 32 columns, zeros beyond left. */
BF16 static inline __m512i round_32(const float *x, size_t left)
{
    __mmask32 m = columns(left);
    __m512 lo = _mm512_maskz_loadu_ps((__mmask16)m, x);
    __m512 hi = _mm512_maskz_loadu_ps((__mmask16)(m >> 16), left > 16 ? x + 16 : x);
    return (__m512i)_mm512_cvtne2ps_pbh(hi, lo);
}

/* ---- few tokens */

BF16 void lmi_avx512_bf16_round(uint8_t *out, const float *x, size_t k)
{
    for (size_t i = 0; i < k; i += 32)
        _mm512_mask_storeu_epi16(out + 2 * i, columns(k - i), round_32(x + i, k - i));
}

/* Row after row: prefetchers follow a single stream best. */
BF16 void lmi_avx512_bf16_few(float *y, const uint8_t *w, size_t rows, const uint8_t *x, size_t k)
{
    for (size_t r = 0; r < rows; r++, w += 2 * k) {
        __m512 acc = _mm512_setzero_ps();
        size_t i = 0;
        for (; i + 32 <= k; i += 32)
            acc = _mm512_dpbf16_ps(acc, (__m512bh)_mm512_loadu_si512(w + 2 * i), (__m512bh)_mm512_loadu_si512(x + 2 * i));
        if (i < k) {
            __mmask32 m = columns(k - i);
            acc = _mm512_dpbf16_ps(acc, (__m512bh)_mm512_maskz_loadu_epi16(m, w + 2 * i),
                                   (__m512bh)_mm512_maskz_loadu_epi16(m, x + 2 * i));
        }
        y[r] = lmi_sum16(acc);
    }
}

/* ---- many: tiles [16 sums][steps][TOKENS], panels [16 sums][steps][32 rows].
 * Sums come in the order in which the tree needs them. */

static const uint8_t order[16] = {0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15}; /* its own inverse */

/* Dwords from sum to sum: a line more than they take, so that they do not share cache sets. */
static size_t stride_of(size_t k, size_t width)
{
    return steps_of(k) * width + 16;
}

size_t lmi_avx512_bf16_tile_bytes(size_t k)
{
    return 16 * stride_of(k, TOKENS) * 4;
}
size_t lmi_avx512_bf16_panel_bytes(size_t k)
{
    return 16 * stride_of(k, 32) * 4;
}

BF16 void lmi_avx512_bf16_tile(uint8_t *bytes, const float *x, size_t ldx, size_t n, size_t k)
{
    int32_t *tile = (int32_t *)(void *)bytes, v[16][16], out[16][16];

    memset(v, 0, sizeof v);
    for (size_t i = 0; i < steps_of(k); i++) {
        for (size_t t = 0; t < TOKENS && t < n; t++)
            _mm512_storeu_si512(v[t], round_32(x + t * ldx + 32 * i, k - 32 * i));
        lmi_transpose16(out[0], v[0], 16);
        for (size_t j = 0; j < 16; j++)
            memcpy(tile + order[j] * stride_of(k, TOKENS) + i * TOKENS, out[j], TOKENS * 4);
    }
}

static void fill_panel(int32_t *panel, const uint8_t *w, size_t rows, size_t k)
{
    int32_t q[16][16], out[16][16];

    for (size_t half = 0; half < 2; half++)
        for (size_t i = 0; i < steps_of(k); i++) {
            for (size_t r = 0; r < 16; r++) {
                size_t row = 16 * half + r;
                __mmask32 m = row < rows ? columns(k - 32 * i) : 0;
                _mm512_storeu_si512(q[r], _mm512_maskz_loadu_epi16(m, m ? w + 2 * (row * k + 32 * i) : w));
            }
            lmi_transpose16(out[0], q[0], 16);
            for (size_t j = 0; j < 16; j++)
                memcpy(panel + order[j] * stride_of(k, 32) + i * 32 + 16 * half, out[j], sizeof out[j]);
        }
}

/* One of the sixteen sums, of 32 rows and all tokens of a tile. Tiles come from far. */
BF16 static inline void one_sum(__m512 acc[2][TOKENS], const int32_t *panel, const int32_t *tile, size_t steps)
{
    for (unsigned t = 0; t < TOKENS; t++)
        acc[0][t] = acc[1][t] = _mm512_setzero_ps();
    for (size_t i = 0; i < steps; i++, panel += 32, tile += TOKENS) {
        __m512bh w0 = (__m512bh)_mm512_loadu_si512(panel), w1 = (__m512bh)_mm512_loadu_si512(panel + 16);
        _mm_prefetch((const char *)(tile + 32 * TOKENS), _MM_HINT_T0);
        for (unsigned t = 0; t < TOKENS; t++) {
            __m512bh x = (__m512bh)_mm512_set1_epi32(tile[t]);
            acc[0][t] = _mm512_dpbf16_ps(acc[0][t], w0, x);
            acc[1][t] = _mm512_dpbf16_ps(acc[1][t], w1, x);
        }
    }
}

/* What waits for its other half is kept by level of the tree. */
BF16 static void all_sums(__m512 acc[2][TOKENS], const int32_t *panel, const int32_t *tile, size_t k)
{
    __m512 waiting[4][2][TOKENS];

    for (unsigned i = 0; i < 16; i++) {
        unsigned level = 0;
        one_sum(acc, panel + i * stride_of(k, 32), tile + i * stride_of(k, TOKENS), steps_of(k));
        for (; i >> level & 1; level++)
            for (unsigned t = 0; t < TOKENS; t++) {
                acc[0][t] = _mm512_add_ps(waiting[level][0][t], acc[0][t]);
                acc[1][t] = _mm512_add_ps(waiting[level][1][t], acc[1][t]);
            }
        if (i < 15)
            memcpy(waiting[level], acc, sizeof waiting[level]);
    }
}

BF16 void lmi_avx512_bf16_gemm(float *y, size_t ldy, const uint8_t *w, size_t rows, const struct lmi_acts *a,
                               uint8_t *panel)
{
    const int32_t *tile = (const int32_t *)(const void *)a->bf16_tiles;
    uint32_t mask = rows >= 32 ? 0xffffffff : (1u << rows) - 1;
    __m512 acc[2][TOKENS];

    fill_panel((int32_t *)(void *)panel, w, rows, a->k);
    for (size_t t0 = 0; t0 < a->n; t0 += TOKENS, tile += 16 * stride_of(a->k, TOKENS)) {
        all_sums(acc, (const int32_t *)(const void *)panel, tile, a->k);
        for (unsigned t = 0; t < TOKENS && t0 + t < a->n; t++) {
            _mm512_mask_storeu_ps(y + (t0 + t) * ldy, (__mmask16)mask, acc[0][t]);
            _mm512_mask_storeu_ps(y + (t0 + t) * ldy + 16, (__mmask16)(mask >> 16), acc[1][t]);
        }
    }
}
#endif
