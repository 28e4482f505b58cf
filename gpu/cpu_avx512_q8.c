/* int8 products for AVX-512 with VNNI; the order of sums is cpu_blocks.h's.
 *
 * Few tokens: row after row, straight from the blocks: prefetchers follow a
 * single stream best. Four vpdpbusd take 256 columns; their lanes are folded
 * until a vector holds the sixteen groups of 512.
 *
 * Many: panels of 16 weight rows interleaved by four columns, so that one
 * vpdpbusd serves 16 rows of one token, whose activations are broadcast from a
 * tile of LMI_TOKENS tokens. There the weights are the signed operand and the
 * activations are 128 too large, which the start of each sum makes up for. */
#include "gpu/cpu_generic.h"

#if defined(__AVX512VNNI__)
#include "gpu/cpu_avx512.h"

#define TOKENS LMI_TOKENS

/* ---- activations to int8 */

/* Sums of the four dwords of each 128-bit lane of four vectors, lane by lane. */
INLINE __m512i fold_pairs(__m512i a, __m512i b)
{
    return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
}
INLINE __m512i fold_quads(__m512i a, __m512i b)
{
    return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

INLINE void quantize_group(struct lmi_q8 *b, unsigned g, __m512 x0, __m512 x1)
{
    float max = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(x0), _mm512_abs_ps(x1)));
    __m512 scale = _mm512_set1_ps(max > 0 ? 127.0f / max : 0);
    __m512i q0 = _mm512_cvtps_epi32(_mm512_mul_ps(x0, scale)), q1 = _mm512_cvtps_epi32(_mm512_mul_ps(x1, scale));

    _mm_storeu_si128((void *)(b->q + 32 * g), _mm512_cvtepi32_epi8(q0));
    _mm_storeu_si128((void *)(b->q + 32 * g + 16), _mm512_cvtepi32_epi8(q1));
    b->half[g] = _mm512_reduce_add_epi32(q0);
    b->half[8 + g] = _mm512_reduce_add_epi32(q1);
    b->d[g] = max / 127.0f;
    b->sum[g] = b->half[g] + b->half[8 + g];
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

/* The orders in which nibbles lie. */
static void reorder(struct lmi_q8 *b)
{
    static const uint8_t place[8] = {0, 2, 1, 3, 4, 6, 5, 7};

    for (unsigned g = 0; g < 8; g++) {
        memcpy(b->pairs + 32 * place[g], b->q + 32 * g, 32);
        memcpy(b->halves + g / 4 * 128 + g % 4 * 16, b->q + 32 * g, 16);
        memcpy(b->halves + g / 4 * 128 + 64 + g % 4 * 16, b->q + 32 * g + 16, 16);
    }
}

void lmi_avx512_quantize(struct lmi_q8 *q, const float *x, size_t k)
{
    for (size_t i = 0; i < k; i += LMI_SUPER, q++) {
        quantize_super(q, x + i, k - i);
        reorder(q);
    }
}

/* Where 256 columns go in tiles and panels: every second, then the others, whose sums are kept apart. */
static size_t place_of(size_t s, size_t n_super)
{
    return s % 2 ? (n_super + 1) / 2 + s / 2 : s / 2;
}

/* 256 columns of TOKENS tokens, interleaved by four columns; q plus 128. */
struct tile {
    uint32_t q[64][TOKENS];
    float d[8][TOKENS];
    float sum[8][TOKENS], half[16][TOKENS];
};

size_t lmi_avx512_tile_bytes(size_t k)
{
    return lmi_n_super(k) * sizeof(struct tile);
}

static void put_in_tile(struct tile *tile, size_t t, const struct lmi_q8 *b)
{
    uint32_t q[64];

    memcpy(q, b->q, sizeof q);
    for (unsigned j = 0; j < 64; j++)
        tile->q[j][t] = q[j] ^ 0x80808080;
    for (unsigned j = 0; j < 8; j++) {
        tile->d[j][t] = b->d[j];
        tile->sum[j][t] = (float)b->sum[j];
    }
    for (unsigned j = 0; j < 16; j++)
        tile->half[j][t] = (float)b->half[j];
}

void lmi_avx512_quantize_tile(uint8_t *bytes, const float *x, size_t ldx, size_t n, size_t k)
{
    struct tile *tile = (struct tile *)(void *)bytes;
    size_t n_super = lmi_n_super(k);
    struct lmi_q8 b;

    for (size_t s = 0; s < n_super; s++)
        for (size_t t = 0; t < TOKENS; t++) {
            if (t < n)
                quantize_super(&b, x + t * ldx + s * LMI_SUPER, k - s * LMI_SUPER);
            else
                memset(&b, 0, sizeof b);
            put_in_tile(tile + place_of(s, n_super), t, &b);
        }
}

/* ---- few tokens */

typedef void unpack_fn(struct wide *u, const uint8_t *b);

/* How weights lie in their four vectors: see struct wide; PAIRS: pairs_q4_k. */
enum layout { ORDER_32, ORDER_16, PAIRS, HALVES };

struct kind {
    unpack_fn *unpack;
    enum layout layout;
    size_t bytes;  /* of 256 weights */
    int offset;    /* a power of two; 0: minima */
};

/* 256 columns of a row: lanes that pair_groups adds further. */
INLINE __m512i products(const struct wide *u, const struct lmi_q8 *a, enum layout layout)
{
    const int8_t *q = layout == PAIRS ? a->pairs : layout == HALVES ? a->halves : a->q;
    __m512i p[4];

    for (unsigned j = 0; j < 4; j++)
        p[j] = _mm512_dpbusd_epi32(layout == HALVES && j % 2 ? p[j - 1] : _mm512_setzero_si512(), u->q[j],
                                   _mm512_loadu_si512(q + 64 * j));
    if (layout == HALVES)
        return fold_pairs(p[1], p[3]);
    return fold_quads(fold_pairs(p[0], p[1]), fold_pairs(p[2], p[3]));
}

/* Groups of 512 columns, in order; halves of groups when they are of 16. */
INLINE void pair_groups(__m512i dot[2], __m512i a, __m512i b, enum layout layout)
{
    if (layout == ORDER_16) {
        __m512i first = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 16, 24, 17, 25, 18, 26, 19, 27);
        dot[0] = _mm512_permutex2var_epi32(a, first, b);
        dot[1] = _mm512_permutex2var_epi32(a, _mm512_add_epi32(first, _mm512_set1_epi32(4)), b);
    } else if (layout == HALVES) {
        __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        dot[0] = _mm512_permutexvar_epi32(order, fold_quads(a, b));
    } else {
        __m512i order = layout == PAIRS ? _mm512_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15)
                                        : _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
        __m512i sum = _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
        dot[0] = _mm512_permutexvar_epi32(order, sum);
    }
}

INLINE __m512i both(const int32_t *a, const int32_t *b)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const void *)a)),
                              _mm256_loadu_si256((const void *)b), 1);
}

INLINE __m512 less_offset(__m512i dot, __m512i sum, int offset)
{
    if (offset)
        dot = _mm512_sub_epi32(dot, _mm512_slli_epi32(sum, (unsigned)__builtin_ctz((unsigned)offset)));
    return _mm512_cvtepi32_ps(dot);
}

INLINE __m512 minus_minima(__m512 v, __m512 m, __m512i sum)
{
    return _mm512_fnmadd_ps(m, _mm512_cvtepi32_ps(sum), v);
}

/* y[16 groups] += 512 columns. */
INLINE __m512 add_pair(__m512 y, const struct wide u[2], const struct lmi_q8 *a, const struct lmi_q8 *b,
                       const struct kind k)
{
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    __m512i dot[2];
    __m512 v, d;

    pair_groups(dot, products(&u[0], a, k.layout), products(&u[1], b, k.layout), k.layout);
    if (k.layout != ORDER_16) {
        __m512i sum = both(a->sum, b->sum);
        v = _mm512_mul_ps(less_offset(dot[0], sum, k.offset), _mm512_shuffle_f32x4(u[0].s, u[1].s, 0x44));
        if (!k.offset)
            v = minus_minima(v, _mm512_shuffle_f32x4(u[0].s, u[1].s, 0xee), sum);
    } else {
        __m512i first = both(a->half, b->half), second = both(a->half + 8, b->half + 8);
        v = _mm512_mul_ps(less_offset(dot[0], first, k.offset), _mm512_permutex2var_ps(u[0].s, even, u[1].s));
        v = _mm512_fmadd_ps(less_offset(dot[1], second, k.offset), _mm512_permutex2var_ps(u[0].s, odd, u[1].s), v);
        if (!k.offset) {
            v = minus_minima(v, _mm512_permutex2var_ps(u[0].m, even, u[1].m), first);
            v = minus_minima(v, _mm512_permutex2var_ps(u[0].m, odd, u[1].m), second);
        }
    }
    d = _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(a->d)), _mm256_loadu_ps(b->d), 1);
    return _mm512_fmadd_ps(v, d, y);
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

/* The last 256 columns or fewer of a row, where they have no pair. */
INLINE __m512 add_last(__m512 y, const uint8_t *w, size_t left, const struct lmi_q8 *a, const struct kind k)
{
    static const struct lmi_q8 none;
    uint8_t copy[288];
    struct wide u[2];

    k.unpack(&u[0], whole_super(copy, w, k.bytes, left));
    u[1] = u[0];
    return add_pair(y, u, a, &none, k);
}

INLINE void rows_of(const struct kind k, float *y, const uint8_t *w, size_t row_bytes, size_t rows,
                    const struct lmi_q8 *a, size_t cols)
{
    size_t whole = cols / LMI_SUPER, left = cols % LMI_SUPER, s;

    for (size_t r = 0; r < rows; r++, w += row_bytes) {
        __m512 sums = _mm512_setzero_ps();
        struct wide u[2];
        for (s = 0; s + 2 <= whole; s += 2) {
            const uint8_t *at = w + s * k.bytes;
            k.unpack(&u[0], at);
            k.unpack(&u[1], at + k.bytes);
            sums = add_pair(sums, u, a + s, a + s + 1, k);
        }
        if (s < whole && left) {
            uint8_t copy[288];
            k.unpack(&u[0], w + s * k.bytes);
            k.unpack(&u[1], whole_super(copy, w + whole * k.bytes, k.bytes, left));
            sums = add_pair(sums, u, a + s, a + whole, k);
        } else if (s < whole || left) {
            sums = add_last(sums, w + s * k.bytes, s < whole ? LMI_SUPER : left, a + s, k);
        }
        y[r] = lmi_sum16(sums);
    }
}

/* ---- many tokens */

/* 256 columns of 16 rows. */
struct panel {
    int32_t q[64][16];      /* less the offset: signed */
    int32_t start[16][16];  /* by group */
    float s[16][16], m[16][16]; /* groups of 32: 8 scales, then 8 minima in s */
};

size_t lmi_avx512_panel_bytes(size_t k)
{
    return LMI_ROWS / 16 * lmi_n_super(k) * sizeof(struct panel);
}

/* Four vectors of halves to the order of columns. */
INLINE void put_in_order(__m512i q[4])
{
    const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i high = _mm512_add_epi64(low, _mm512_set1_epi64(4));

    for (unsigned j = 0; j < 4; j += 2) {
        __m512i first = q[j], second = q[j + 1];
        q[j] = _mm512_permutex2var_epi64(first, low, second);
        q[j + 1] = _mm512_permutex2var_epi64(first, high, second);
    }
}

INLINE void set_starts(struct panel *p, unsigned group)
{
    for (unsigned g = 0; g < 256 / group; g++) {
        __m512i sum = _mm512_setzero_si512();
        for (unsigned j = g * group / 4; j < (g + 1) * group / 4; j++)
            sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), _mm512_loadu_si512(p->q[j]));
        _mm512_storeu_si512(p->start[g], _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(sum, 7)));
    }
}

INLINE void fill_panel(struct panel *p, const struct kind k, const uint8_t *w, size_t row_bytes, size_t rows,
                       size_t left)
{
    const unsigned group = k.layout == ORDER_16 ? 16 : 32;
    int32_t q[16][64], s[16][16], m[16][16];
    uint8_t copy[288];
    struct wide u;

    for (size_t r = 0; r < 16; r++) {
        k.unpack(&u, whole_super(copy, w + (r < rows ? r : 0) * row_bytes, k.bytes, left));
        if (k.layout == HALVES)
            put_in_order(u.q);
        for (unsigned j = 0; j < 4; j++)
            _mm512_storeu_si512(q[r] + 16 * j, _mm512_sub_epi8(u.q[j], _mm512_set1_epi8((char)k.offset)));
        _mm512_storeu_ps(s[r], u.s);
        if (group == 16 && !k.offset)
            _mm512_storeu_ps(m[r], u.m);
    }
    for (unsigned j = 0; j < 4; j++)
        lmi_transpose16(p->q[16 * j], q[0] + 16 * j, 64);
    lmi_transpose16((int32_t *)(void *)p->s, s[0], 16);
    if (group == 16 && !k.offset)
        lmi_transpose16((int32_t *)(void *)p->m, m[0], 16);
    set_starts(p, group);
}

/* As an instruction: around the intrinsic gcc 12 copies every accumulator
 * twice and then spills half of them. */
INLINE void dot_step(__m512i *sum, __m512i a, __m512i w)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(a), "v"(w));
}

/* Sums of two panels by T tokens of a tile, from `at` on: loading and
 * broadcasting, one vector a cycle, would bound a single panel. */
INLINE void group_dots(__m512i dot[2][TOKENS], const struct panel *p0, const struct panel *p1, const struct tile *a,
                       const unsigned at, const unsigned T, unsigned g, const unsigned group)
{
    for (unsigned t = 0; t < T; t++) {
        dot[0][t] = _mm512_loadu_si512(p0->start[g]);
        dot[1][t] = _mm512_loadu_si512(p1->start[g]);
    }
    for (unsigned j = g * group / 4; j < (g + 1) * group / 4; j++) {
        __m512i w0 = _mm512_loadu_si512(p0->q[j]), w1 = _mm512_loadu_si512(p1->q[j]);
        for (unsigned t = 0; t < T; t++) {
            __m512i x = _mm512_set1_epi32((int)a->q[j][at + t]);
            dot_step(&dot[0][t], x, w0);
            dot_step(&dot[1][t], x, w1);
        }
    }
}

typedef float sums[2][8][TOKENS][16]; /* [panel][group modulo 8][token][row] */

/* Group g of 32 of one panel: from the sums, or their second halves and v of the first, to y. */
INLINE void end_group(float y[TOKENS][16], __mmask16 old, const __m512i *dot, const __m512 *v, const struct panel *p,
                      const struct tile *a, const unsigned at, const unsigned T, unsigned g, const unsigned group,
                      const bool minima)
{
    __m512 s = _mm512_loadu_ps(p->s[group == 16 ? 2 * g + 1 : g]), x;

    for (unsigned t = 0; t < T; t++) {
        x = _mm512_cvtepi32_ps(dot[t]);
        x = group == 16 ? _mm512_fmadd_ps(x, s, v[t]) : _mm512_mul_ps(x, s);
        if (minima && group == 16) {
            x = _mm512_fnmadd_ps(_mm512_loadu_ps(p->m[2 * g]), _mm512_set1_ps(a->half[g][at + t]), x);
            x = _mm512_fnmadd_ps(_mm512_loadu_ps(p->m[2 * g + 1]), _mm512_set1_ps(a->half[8 + g][at + t]), x);
        } else if (minima) {
            x = _mm512_fnmadd_ps(_mm512_loadu_ps(p->s[8 + g]), _mm512_set1_ps(a->sum[g][at + t]), x);
        }
        x = _mm512_fmadd_ps(x, _mm512_set1_ps(a->d[g][at + t]), _mm512_maskz_load_ps(old, y[at + t]));
        _mm512_store_ps(y[at + t], x);
    }
}

/* y += two 256-column panels times T tokens of the tile; old: none, or all, of y counts. */
INLINE void panels_times_tile(sums y, __mmask16 old, const struct panel *p0, const struct panel *p1,
                              const struct tile *a, const unsigned at, const unsigned T, const unsigned group,
                              const bool minima)
{
    for (unsigned g = 0; g < 8; g++) {
        __m512i dot[2][TOKENS];
        __m512 v[2][TOKENS];
        for (size_t i = 0; at == 0 && i < sizeof *a / 8; i += 64)
            _mm_prefetch((const char *)(a + 1) + g * (sizeof *a / 8) + i, _MM_HINT_T0);
        if (group == 16) {
            group_dots(dot, p0, p1, a, at, T, 2 * g, 16);
            for (unsigned t = 0; t < T; t++) {
                v[0][t] = _mm512_mul_ps(_mm512_cvtepi32_ps(dot[0][t]), _mm512_loadu_ps(p0->s[2 * g]));
                v[1][t] = _mm512_mul_ps(_mm512_cvtepi32_ps(dot[1][t]), _mm512_loadu_ps(p1->s[2 * g]));
            }
        }
        group_dots(dot, p0, p1, a, at, T, group == 16 ? 2 * g + 1 : g, group);
        end_group(y[0][g], old, dot[0], v[0], p0, a, at, T, g, group, minima);
        end_group(y[1][g], old, dot[1], v[1], p1, a, at, T, g, group, minima);
    }
}

INLINE __m512 total(float even[8][TOKENS][16], float odd[8][TOKENS][16], unsigned t)
{
    __m512 s[8];

    for (unsigned g = 0; g < 8; g++)
        s[g] = _mm512_add_ps(_mm512_load_ps(even[g][t]), _mm512_load_ps(odd[g][t]));
    return _mm512_add_ps(_mm512_add_ps(_mm512_add_ps(s[0], s[4]), _mm512_add_ps(s[2], s[6])),
                         _mm512_add_ps(_mm512_add_ps(s[1], s[5]), _mm512_add_ps(s[3], s[7])));
}

/* Two panels by one tile after the other: tiles come from far, panels stay near. */
INLINE void panels_product(float *y, size_t ldy, const struct panel *p, size_t rows, const struct lmi_acts *a,
                           const unsigned group, const bool minima)
{
    size_t n_super = lmi_n_super(a->k), half = (n_super + 1) / 2;
    const struct tile *tile = (const struct tile *)(const void *)a->q8_tiles;
    uint32_t mask = rows >= 32 ? 0xffffffff : (1u << rows) - 1;
    sums all[2] __attribute__((aligned(64)));

    if (n_super == 1)
        memset(all[1], 0, sizeof all[1]);
    for (size_t t0 = 0; t0 < a->n; t0 += TOKENS, tile += n_super) {
        for (size_t i = 0; i < n_super; i++) {
            const struct panel *p0 = p + i, *p1 = p0 + n_super;
            __mmask16 old = i == 0 || i == half ? 0 : 0xffff;
            if (group == 32) {
                panels_times_tile(all[i >= half], old, p0, p1, tile + i, 0, TOKENS, 32, minima);
            } else { /* needs twice the registers */
                panels_times_tile(all[i >= half], old, p0, p1, tile + i, 0, TOKENS / 2, 16, minima);
                panels_times_tile(all[i >= half], old, p0, p1, tile + i, TOKENS / 2, TOKENS / 2, 16, minima);
            }
        }
        for (unsigned t = 0; t < TOKENS && t0 + t < a->n; t++) {
            _mm512_mask_storeu_ps(y + (t0 + t) * ldy, (__mmask16)mask, total(all[0][0], all[1][0], t));
            _mm512_mask_storeu_ps(y + (t0 + t) * ldy + 16, (__mmask16)(mask >> 16), total(all[0][1], all[1][1], t));
        }
    }
}

/* A function each: in one they would compete for registers. */
#define PRODUCT(name, group, minima) \
    static __attribute__((noinline)) void name(float *y, size_t ldy, const struct panel *p, size_t rows, \
                                               const struct lmi_acts *a) \
    { \
        panels_product(y, ldy, p, rows, a, group, minima); \
    }
PRODUCT(product_32, 32, false)
PRODUCT(product_32_minima, 32, true)
PRODUCT(product_16, 16, false)
PRODUCT(product_16_minima, 16, true)

/* ---- by type */

/* type, unpacking and layout for few tokens, the same for panels, bytes of 256, offset */
#define BLOCK_TYPES(X) \
    X(Q4_0, wide_q4_0, HALVES, wide_q4_0, HALVES, 144, 8) X(Q4_1, wide_q4_1, HALVES, wide_q4_1, HALVES, 160, 0) \
    X(Q5_0, wide_q5_0, HALVES, wide_q5_0, HALVES, 176, 16) X(Q5_1, wide_q5_1, HALVES, wide_q5_1, HALVES, 192, 0) \
    X(Q8_0, wide_q8_0, ORDER_32, wide_q8_0, ORDER_32, 272, 128) X(Q2_K, wide_q2_k, ORDER_16, wide_q2_k, ORDER_16, 84, 0) \
    X(Q3_K, wide_q3_k, ORDER_16, wide_q3_k, ORDER_16, 110, 4) X(Q4_K, pairs_q4_k, PAIRS, wide_q4_k, ORDER_32, 144, 0) \
    X(Q5_K, wide_q5_k, ORDER_32, wide_q5_k, ORDER_32, 176, 0) X(Q6_K, wide_q6_k, ORDER_16, wide_q6_k, ORDER_16, 210, 32) \
    X(IQ4_NL, wide_iq4_nl, HALVES, wide_iq4_nl, HALVES, 144, 128) \
    X(IQ4_XS, wide_iq4_xs, HALVES, wide_iq4_xs, HALVES, 136, 128) X(MXFP4, wide_mxfp4, HALVES, wide_mxfp4, HALVES, 136, 128)

#define X(T, unpack, layout, unpack_panel, layout_panel, bytes, offset) \
    static __attribute__((noinline)) void rows_##T(float *y, const uint8_t *w, size_t row_bytes, size_t rows, \
                                                   const struct lmi_q8 *a, size_t k) \
    { \
        rows_of((struct kind){unpack, layout, bytes, offset}, y, w, row_bytes, rows, a, k); \
    } \
    static __attribute__((noinline)) void fill_##T(struct panel *p, const uint8_t *w, size_t row_bytes, size_t rows, \
                                                   size_t left) \
    { \
        fill_panel(p, (struct kind){unpack_panel, layout_panel, bytes, offset}, w, row_bytes, rows, left); \
    }
BLOCK_TYPES(X)
#undef X

void lmi_avx512_q8_rows(enum lm_dtype t, float *y, const uint8_t *w, size_t row_bytes, size_t rows,
                        const struct lmi_q8 *a, size_t k)
{
    switch (t) {
#define X(T, unpack, layout, unpack_panel, layout_panel, bytes, offset) \
    case LM_##T: rows_##T(y, w, row_bytes, rows, a, k); break;
        BLOCK_TYPES(X)
#undef X
    default: break;
    }
}

static void fill(enum lm_dtype t, struct panel *p, const uint8_t *w, size_t row_bytes, size_t rows, size_t left)
{
    switch (t) {
#define X(T, unpack, layout, unpack_panel, layout_panel, bytes, offset) \
    case LM_##T: fill_##T(p, w, row_bytes, rows, left); break;
        BLOCK_TYPES(X)
#undef X
    default: break;
    }
}

void lmi_avx512_q8_gemm(enum lm_dtype t, float *y, size_t ldy, const uint8_t *w, size_t row_bytes, size_t rows,
                        const struct lmi_acts *a, uint8_t *panel)
{
    struct panel *p = (struct panel *)(void *)panel;
    size_t bytes = lmi_super_bytes(t), n_super = lmi_n_super(a->k);
    bool wide = lmi_q8_group(t) == 32, minima = lmi_q8_offset(t) == 0;

    for (size_t r = 0; r < LMI_ROWS; r += 16)
        for (size_t s = 0; s < n_super; s++)
            fill(t, p + r / 16 * n_super + place_of(s, n_super), w + (r < rows ? r : 0) * row_bytes + s * bytes, row_bytes, r >= rows ? 1 : rows - r < 16 ? rows - r : 16,
                 a->k - s * LMI_SUPER);
    if (wide)
        (minima ? product_32_minima : product_32)(y, ldy, p, rows, a);
    else
        (minima ? product_16_minima : product_16)(y, ldy, p, rows, a);
}
#endif
