/* Kernels for AVX-512 with VNNI (and bf16 products where the machine has
 * them). int8 products for many tokens run over panels: 16 weight rows
 * interleaved by four columns, so that one vpdpbusd serves 16 rows of one
 * token, whose activations are broadcast from a tile of TOKENS tokens. */
#include "gpu/cpu_generic.h"

#if defined(__AVX512VNNI__)
#include "gpu/cpu_avx512.h"

#define TOKENS 12 /* accumulators: 12 integer and 12 f32 vectors, or 2 x 12 f32 */

/* ---- f32 products */

INLINE float sum16(__m512 v)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));

    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

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
            y[t * ldy + r] = sum16(acc[r][t]);
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

/* ---- activations to int8 */

INLINE void quantize_group(struct lmi_q8 *b, unsigned g, __m512 x0, __m512 x1)
{
    float max = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(x0), _mm512_abs_ps(x1)));
    __m512 scale = _mm512_set1_ps(max > 0 ? 127.0f / max : 0);
    __m512i q0 = _mm512_cvtps_epi32(_mm512_mul_ps(x0, scale)), q1 = _mm512_cvtps_epi32(_mm512_mul_ps(x1, scale));
    int s0 = _mm512_reduce_add_epi32(q0), s1 = _mm512_reduce_add_epi32(q1);
    float d = max / 127.0f;

    _mm_storeu_si128((void *)(b->q + 32 * g), _mm512_cvtepi32_epi8(q0));
    _mm_storeu_si128((void *)(b->q + 32 * g + 16), _mm512_cvtepi32_epi8(q1));
    b->wide[g] = b->fine[2 * g] = b->fine[2 * g + 1] = d;
    b->wide[8 + g] = -d * (float)(s0 + s1);
    b->fine[16 + 2 * g] = -d * (float)s0;
    b->fine[17 + 2 * g] = -d * (float)s1;
    lmi_quantize_pairs(b, g);
}

static void quantize_super(struct lmi_q8 *b, const float *x, size_t k)
{
    if (k < LMI_SUPER) {
        lmi_quantize_c(b, x, k);
        return;
    }
    for (unsigned g = 0; g < 8; g++)
        quantize_group(b, g, _mm512_loadu_ps(x + 32 * g), _mm512_loadu_ps(x + 32 * g + 16));
}

static void quantize(struct lmi_q8 *q, const float *x, size_t k)
{
    for (size_t i = 0; i < k; i += LMI_SUPER, q++)
        quantize_super(q, x + i, k - i);
}

/* 256 columns of TOKENS tokens, interleaved by four columns. */
struct tile {
    int32_t q[64][TOKENS];
    float wide[16][TOKENS], fine[32][TOKENS];
};

static size_t q8_tile_bytes(size_t k)
{
    return lmi_n_super(k) * sizeof(struct tile);
}

static void quantize_tile(uint8_t *bytes, const float *x, size_t ldx, size_t n, size_t k)
{
    struct tile *tile = (struct tile *)(void *)bytes;
    struct lmi_q8 b;
    int32_t q[64];

    for (size_t i = 0; i < k; i += LMI_SUPER, tile++)
        for (size_t t = 0; t < TOKENS; t++) {
            if (t < n)
                quantize_super(&b, x + t * ldx + i, k - i);
            else
                memset(&b, 0, sizeof b);
            memcpy(q, b.q, sizeof q);
            for (unsigned j = 0; j < 64; j++)
                tile->q[j][t] = q[j];
            for (unsigned j = 0; j < 16; j++)
                tile->wide[j][t] = b.wide[j];
            for (unsigned j = 0; j < 32; j++)
                tile->fine[j][t] = b.fine[j];
        }
}

/* ---- int8 products, few tokens: straight from the blocks */

typedef void unpack_fn(struct wide *u, const uint8_t *b);

/* Lanes of a vpdpbusd result belong to groups 2j, 2j + 1 (of 32) or 4j .. 4j + 3. */
INLINE __m512i lane_groups(unsigned group, unsigned j)
{
    int a = (int)(group == 32 ? 2 * j : 4 * j), step = group == 32 ? 0 : 1;
    int b = a + step, c = group == 32 ? a + 1 : a + 2, d = c + step;
    return _mm512_set_epi32(d, d, d, d, c, c, c, c, b, b, b, b, a, a, a, a);
}

INLINE void dot_super(__m512 acc[2], const struct wide *u, const struct lmi_q8 *a, const unsigned group)
{
    __m512 s;

    if (group == 32) {
        s = _mm512_mul_ps(u->s, _mm512_loadu_ps(a->wide));
        acc[0] = _mm512_mask_add_ps(acc[0], 0xff00, acc[0], s);
    } else {
        s = _mm512_mul_ps(u->s, _mm512_loadu_ps(a->fine));
        acc[0] = _mm512_fmadd_ps(u->m, _mm512_loadu_ps(a->fine + 16), acc[0]);
    }
    for (unsigned j = 0; j < 4; j++) {
        __m512i p = _mm512_dpbusd_epi32(_mm512_setzero_si512(), u->q[j], _mm512_loadu_si512(a->q + 64 * j));
        __m512 scale = _mm512_permutexvar_ps(lane_groups(group, j), s);
        acc[j & 1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(p), scale, acc[j & 1]);
    }
}

/* Q4_K: both nibbles of 64 bytes without a shift, the activations in their order. */
INLINE void dot_q4_k(__m512 acc[2], const uint8_t *b, const struct lmi_q8 *a)
{
    __m512 s = _mm512_mul_ps(scales_k4(b), _mm512_loadu_ps(a->pairs));

    acc[0] = _mm512_mask_add_ps(acc[0], 0xff00, acc[0], s);
    for (int j = 0; j < 4; j++) {
        __m512i q = _mm512_and_si512(_mm512_loadu_si512(b + 16 + 64 * (j / 2)), _mm512_set1_epi8((char)(j % 2 ? 0xf0 : 15)));
        __m512i p = _mm512_dpbusd_epi32(_mm512_setzero_si512(), q, _mm512_loadu_si512(a->q_pairs + 64 * j));
        int g = j / 2 * 4 + j % 2; /* and g + 2 */
        __m512i lanes = _mm512_inserti64x4(_mm512_set1_epi32(g), _mm256_set1_epi32(g + 2), 1);
        acc[j & 1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(p), _mm512_permutexvar_ps(lanes, s), acc[j & 1]);
    }
}

/* A row's last blocks may be fewer than 256 weights: the missing ones read as zeros. */
INLINE const uint8_t *whole_super(uint8_t *copy, const uint8_t *w, size_t bytes, size_t left)
{
    if (left >= LMI_SUPER)
        return w;
    memset(copy, 0, bytes);
    memcpy(copy, w, bytes / 8 * (left / 32));
    return copy;
}

INLINE void rows_of(unpack_fn *unpack, const unsigned group, const size_t bytes, float *y, const uint8_t *w,
                    size_t row_bytes, size_t rows, const struct lmi_q8 *a, size_t k)
{
    uint8_t copy[288];
    size_t whole = k / LMI_SUPER;

    for (size_t r = 0; r < rows; r++, w += row_bytes) {
        __m512 acc[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        struct wide u;
        for (size_t s = 0; s < whole; s++) {
            if (unpack == wide_q4_k) {
                dot_q4_k(acc, w + s * bytes, a + s);
                continue;
            }
            unpack(&u, w + s * bytes);
            dot_super(acc, &u, a + s, group);
        }
        if (k % LMI_SUPER) {
            unpack(&u, whole_super(copy, w + whole * bytes, bytes, k % LMI_SUPER));
            dot_super(acc, &u, a + whole, group);
        }
        y[r] = sum16(_mm512_add_ps(acc[0], acc[1]));
    }
}

/* ---- int8 products, many tokens */

/* dst[i][r] = src[r][i], 16 x 16 dwords, src rows ld dwords apart. */
static void transpose16(int32_t *dst, const int32_t *src, size_t ld)
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

/* 256 columns of 16 rows. */
struct panel {
    int32_t q[64][16];
    float s[16][16], m[16][16]; /* groups of 32: 8 scales, then 8 minima in s */
};

static size_t q8_panel_bytes(size_t k)
{
    return LMI_ROWS / 16 * lmi_n_super(k) * sizeof(struct panel);
}

INLINE void fill_panel(struct panel *p, unpack_fn *unpack, const unsigned group, const size_t bytes, const uint8_t *w,
                       size_t row_bytes, size_t rows, size_t left)
{
    int32_t q[16][64], s[16][16], m[16][16];
    uint8_t copy[288];
    struct wide u;

    for (size_t r = 0; r < 16; r++) {
        unpack(&u, whole_super(copy, w + (r < rows ? r : 0) * row_bytes, bytes, left));
        for (unsigned j = 0; j < 4; j++)
            _mm512_storeu_si512(q[r] + 16 * j, u.q[j]);
        _mm512_storeu_ps(s[r], u.s);
        if (group == 16)
            _mm512_storeu_ps(m[r], u.m);
    }
    for (unsigned j = 0; j < 4; j++)
        transpose16(p->q[16 * j], q[0] + 16 * j, 64);
    transpose16((int32_t *)(void *)p->s, s[0], 16);
    if (group == 16)
        transpose16((int32_t *)(void *)p->m, m[0], 16);
}

/* vpdpbusd with a broadcast operand. As an instruction: around the intrinsic
 * gcc 12 copies every accumulator twice and then spills half of them (4 % of
 * the time of Q4_K). */
INLINE __m512i dot_broadcast(__m512i acc, __m512i w, const int32_t *a)
{
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(w), "m"(*a));
    return acc;
}

/* acc[t] += one 256-column panel times token t of the tile. */
INLINE void panel_times_tile(__m512 acc[TOKENS], const struct panel *p, const struct tile *a, const unsigned group)
{
    for (unsigned g = 0; g < 256 / group; g++) {
        const float *d = group == 32 ? a->wide[g] : a->fine[g];
        const float *ns = group == 32 ? a->wide[8 + g] : a->fine[16 + g];
        __m512 s = _mm512_loadu_ps(p->s[g]), m = _mm512_loadu_ps(group == 32 ? p->s[8 + g] : p->m[g]);
        __m512i dot[TOKENS];

        for (unsigned t = 0; t < TOKENS; t++)
            dot[t] = _mm512_setzero_si512();
        for (unsigned j = g * group / 4; j < (g + 1) * group / 4; j++) {
            __m512i w = _mm512_loadu_si512(p->q[j]);
            for (unsigned t = 0; t < TOKENS; t++)
                dot[t] = dot_broadcast(dot[t], w, &a->q[j][t]);
        }
        for (unsigned t = 0; t < TOKENS; t++) {
            __m512 f = _mm512_mul_ps(_mm512_cvtepi32_ps(dot[t]), _mm512_set1_ps(d[t]));
            acc[t] = _mm512_fmadd_ps(f, s, acc[t]);
            acc[t] = _mm512_fmadd_ps(m, _mm512_set1_ps(ns[t]), acc[t]);
        }
    }
}

/* One tile of tokens by 16 rows. */
INLINE void panel_product(float *y, size_t ldy, const struct panel *p, size_t rows, const struct tile *tile,
                          size_t n_tokens, size_t n_super, const unsigned group)
{
    __mmask16 mask = (__mmask16)((1u << rows) - 1);
    __m512 acc[TOKENS];

    for (unsigned t = 0; t < TOKENS; t++)
        acc[t] = _mm512_setzero_ps();
    for (size_t s = 0; s < n_super; s++)
        panel_times_tile(acc, p + s, tile + s, group);
    for (unsigned t = 0; t < TOKENS && t < n_tokens; t++)
        _mm512_mask_storeu_ps(y + t * ldy, mask, acc[t]);
}

/* All panels by one tile after the other: tiles come from far, panels stay near. */
INLINE void panels_product(float *y, size_t ldy, const struct panel *p, size_t rows, const struct lmi_acts *a,
                           const unsigned group)
{
    size_t n_super = lmi_n_super(a->k);
    const struct tile *tile = (const struct tile *)(const void *)a->q8_tiles;

    for (size_t t = 0; t < a->n; t += TOKENS, tile += n_super)
        for (size_t r = 0; r < rows; r += 16)
            panel_product(y + t * ldy + r, ldy, p + r / 16 * n_super, rows - r < 16 ? rows - r : 16, tile, a->n - t,
                          n_super, group);
}

#define BLOCK_TYPES(X) \
    X(Q4_0, wide_q4_0, 32, 144) X(Q4_1, wide_q4_1, 32, 160) X(Q5_0, wide_q5_0, 32, 176) X(Q5_1, wide_q5_1, 32, 192) \
    X(Q8_0, wide_q8_0, 32, 272) X(Q2_K, wide_q2_k, 16, 84) X(Q3_K, wide_q3_k, 16, 110) X(Q4_K, wide_q4_k, 32, 144) \
    X(Q5_K, wide_q5_k, 32, 176) X(Q6_K, wide_q6_k, 16, 210)

/* A function each: in one they would compete for registers. */
#define X(T, unpack, group, bytes) \
    static __attribute__((noinline)) void rows_##T(float *y, const uint8_t *w, size_t row_bytes, size_t rows, \
                                                   const struct lmi_q8 *a, size_t k) \
    { \
        rows_of(unpack, group, bytes, y, w, row_bytes, rows, a, k); \
    } \
    static __attribute__((noinline)) void fill_##T(struct panel *p, const uint8_t *w, size_t row_bytes, size_t rows, \
                                                   size_t left) \
    { \
        fill_panel(p, unpack, group, bytes, w, row_bytes, rows, left); \
    }
BLOCK_TYPES(X)
#undef X

static void q8_rows(enum lm_dtype t, float *y, const uint8_t *w, size_t row_bytes, size_t rows,
                    const struct lmi_q8 *a, size_t k)
{
    switch (t) {
#define X(T, unpack, group, bytes) case LM_##T: rows_##T(y, w, row_bytes, rows, a, k); break;
        BLOCK_TYPES(X)
#undef X
    default: break;
    }
}

static void fill(enum lm_dtype t, struct panel *p, const uint8_t *w, size_t row_bytes, size_t rows, size_t left)
{
    switch (t) {
#define X(T, unpack, group, bytes) case LM_##T: fill_##T(p, w, row_bytes, rows, left); break;
        BLOCK_TYPES(X)
#undef X
    default: break;
    }
}

static void q8_gemm(enum lm_dtype t, float *y, size_t ldy, const uint8_t *w, size_t row_bytes, size_t rows,
                    const struct lmi_acts *a, uint8_t *panel)
{
    struct panel *p = (struct panel *)(void *)panel;
    size_t bytes = lmi_super_bytes(t), n_super = lmi_n_super(a->k);

    for (size_t r = 0; r < rows; r += 16)
        for (size_t s = 0; s < n_super; s++)
            fill(t, p + r / 16 * n_super + s, w + r * row_bytes + s * bytes, row_bytes, rows - r < 16 ? rows - r : 16,
                 a->k - s * LMI_SUPER);
    if (lmi_q8_group(t) == 32)
        panels_product(y, ldy, p, rows, a, 32);
    else
        panels_product(y, ldy, p, rows, a, 16);
}

/* ---- bf16 weights */

INLINE __m512 load_bf16(const uint8_t *p, __mmask16 m)
{
    __m512i v = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
}

/* One row after the other: a single stream is what the prefetchers follow best. */
static void bf16_rows(float *y, const uint8_t *w, size_t rows, const float *x, size_t k)
{
    for (size_t r = 0; r < rows; r++, w += 2 * k) {
        __m512 acc[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
        size_t i = 0;
        for (; i + 64 <= k; i += 64)
            for (size_t j = 0; j < 4; j++)
                acc[j] = _mm512_fmadd_ps(load_bf16(w + 2 * (i + 16 * j), 0xffff), _mm512_loadu_ps(x + i + 16 * j),
                                         acc[j]);
        for (; i < k; i += 16) {
            __mmask16 m = k - i < 16 ? (__mmask16)((1u << (k - i)) - 1) : 0xffff;
            acc[0] = _mm512_fmadd_ps(load_bf16(w + 2 * i, m), _mm512_maskz_loadu_ps(m, x + i), acc[0]);
        }
        y[r] = sum16(_mm512_add_ps(_mm512_add_ps(acc[0], acc[1]), _mm512_add_ps(acc[2], acc[3])));
    }
}

#define COMMON \
    .dot_f32 = dot_f32, .scores = scores, .mix = mix, .exp_row = lmi_exp_row, .silu = lmi_silu, .gelu = lmi_gelu, \
    .q8_tile_tokens = TOKENS, .q8_tile_bytes = q8_tile_bytes, .q8_panel_bytes = q8_panel_bytes, \
    .quantize = quantize, .quantize_tile = quantize_tile, .q8_rows = q8_rows, .q8_gemm = q8_gemm, \
    .bf16_rows = bf16_rows

const struct lmi_kernels lmi_kernels_avx512 = {.name = "avx512-vnni", COMMON};

/* ---- bf16 products: the Makefile's flags do not grant the instruction */

#define BF16 static __attribute__((target("avx512bf16")))

/* Tiles [k / 2][TOKENS] and panels [k / 2][32 rows] of column pairs, zero beyond k. */
static size_t pairs_of(size_t k)
{
    return (k + 31) / 32 * 16;
}
static size_t bf16_tile_bytes(size_t k)
{
    return pairs_of(k) * TOKENS * 4;
}

BF16 void bf16_tile(uint8_t *bytes, const float *x, size_t ldx, size_t n, size_t k)
{
    uint32_t *tile = (uint32_t *)(void *)bytes, v[16];

    for (size_t t = 0; t < TOKENS; t++)
        for (size_t p = 0; p < pairs_of(k); p += 16) {
            size_t left = t < n ? k - 2 * p : 0;
            __mmask16 m0 = left >= 16 ? 0xffff : (__mmask16)((1u << left) - 1);
            __mmask16 m1 = left >= 32 ? 0xffff : left > 16 ? (__mmask16)((1u << (left - 16)) - 1) : 0;
            const float *at = m0 ? x + t * ldx + 2 * p : x;
            __m512 lo = _mm512_maskz_loadu_ps(m0, at), hi = _mm512_maskz_loadu_ps(m1, m1 ? at + 16 : x);
            _mm512_storeu_si512(v, (__m512i)_mm512_cvtne2ps_pbh(hi, lo));
            for (unsigned j = 0; j < 16; j++)
                tile[(p + j) * TOKENS + t] = v[j];
        }
}

static void bf16_panel(int32_t *panel, const uint8_t *w, size_t rows, size_t k)
{
    int32_t q[16][16];

    for (size_t half = 0; half < 2; half++)
        for (size_t p = 0; p < pairs_of(k); p += 16) {
            size_t left = k - 2 * p;
            __mmask32 m = left >= 32 ? 0xffffffff : (1u << left) - 1;
            int32_t out[16][16];
            for (size_t r = 0; r < 16; r++) {
                size_t row = 16 * half + r;
                __m512i v = row < rows ? _mm512_maskz_loadu_epi16(m, w + 2 * (row * k + 2 * p)) : _mm512_setzero_si512();
                _mm512_storeu_si512(q[r], v);
            }
            transpose16(out[0], q[0], 16);
            for (size_t j = 0; j < 16; j++)
                memcpy(panel + (p + j) * 32 + 16 * half, out[j], sizeof out[j]);
        }
}

BF16 void bf16_gemm(float *y, size_t ldy, const uint8_t *w, size_t rows, const struct lmi_acts *a, uint8_t *panel)
{
    const int32_t *p = (const int32_t *)(const void *)panel;
    size_t n_pairs = pairs_of(a->k);
    const uint8_t *tiles = a->bf16_tiles;
    uint32_t mask = rows >= 32 ? 0xffffffff : (1u << rows) - 1;

    bf16_panel((int32_t *)(void *)panel, w, rows, a->k);
    for (size_t t0 = 0; t0 < a->n; t0 += TOKENS, tiles += bf16_tile_bytes(a->k)) {
        const int32_t *x = (const int32_t *)(const void *)tiles;
        __m512 acc[2][TOKENS];
        for (unsigned t = 0; t < TOKENS; t++)
            acc[0][t] = acc[1][t] = _mm512_setzero_ps();
        for (size_t i = 0; i < n_pairs; i++) {
            __m512bh w0 = (__m512bh)_mm512_loadu_si512(p + 32 * i), w1 = (__m512bh)_mm512_loadu_si512(p + 32 * i + 16);
            for (unsigned t = 0; t < TOKENS; t++) {
                __m512bh xv = (__m512bh)_mm512_set1_epi32(x[i * TOKENS + t]);
                acc[0][t] = _mm512_dpbf16_ps(acc[0][t], w0, xv);
                acc[1][t] = _mm512_dpbf16_ps(acc[1][t], w1, xv);
            }
        }
        for (unsigned t = 0; t < TOKENS && t0 + t < a->n; t++) {
            _mm512_mask_storeu_ps(y + (t0 + t) * ldy, (__mmask16)mask, acc[0][t]);
            _mm512_mask_storeu_ps(y + (t0 + t) * ldy + 16, (__mmask16)(mask >> 16), acc[1][t]);
        }
    }
}

const struct lmi_kernels lmi_kernels_avx512bf16 = {
    .name = "avx512-bf16",
    COMMON,
    .bf16_tile_tokens = TOKENS,
    .bf16_tile_bytes = bf16_tile_bytes,
    .bf16_tile = bf16_tile,
    .bf16_gemm = bf16_gemm,
};
#endif
