/* Row kernels (to blocks) of the types of legacy.h and kquants.h when the
 * importance of each column is known: other searches than without, and scales of
 * scales that are searched too. */
#ifndef LIBMODEL_DTYPE_WEIGHTED_H
#define LIBMODEL_DTYPE_WEIGHTED_H

#include "libmodel/dtype/kquants.h"
#include "libmodel/dtype/legacy.h"
#include "libmodel/dtype/weigh.h"

/* ---- groups, with weights in the order of x */

INLINE void affine_fits(struct fits *f, const float *x, const float *w, int n_groups, int group, int nmax)
{
    const struct affine_spec spec = {group, nmax, -0.9f, 0.05f, 36, false};
    struct affine_state s[STREAMS];

    for (int g = 0; g < n_groups; g += STREAMS * LANES) {
        for (int k = 0; k < STREAMS; k++) {
            load_groups(s[k].x, x + group * (g + k * LANES), group);
            load_groups(s[k].w, w + group * (g + k * LANES), group);
        }
        fit_affine(s, spec);
        for (int k = 0; k < STREAMS; k++)
            store_affine(f, g + k * LANES, &s[k]);
    }
}

INLINE void symmetric_fits(struct fits *f, const float *x, const float *w, int n_groups, int group, int half)
{
    vf t[32], tw[32];

    for (int g = 0; g < n_groups; g += LANES) {
        load_groups(t, x + group * g, group);
        load_groups(tw, w + group * g, group);
        vf sum = tw[0];
        for (int i = 1; i < group; i++)
            sum += tw[i];
        vf_store(f->sum_w + g, sum);
        fit_symmetric(f, g, t, tw, group, half);
    }
}

/* ---- ggml's qp: values >= 0 as codes 0 .. nmax of one scale, one set of n
 * (<= 16) values a lane. */

struct positive_state {
    vf x[16], w[16];
    vi code[16]; /* bytes, as ggml keeps them */
    vf sum_lx, sum_l2;
    int n, nmax;
};

INLINE vi as_byte(vi v)
{
    return v & vi_set(255);
}

INLINE vf positive_error(const struct positive_state *s, vf iscale, bool capped)
{
    vf scale = vf_set(1) / iscale, sum = vf_set(0);

    for (int i = 0; i < s->n; i++) {
        vi l = nearest(iscale * s->x[i]);
        vf diff = s->x[i] - scale * vf_of_vi(capped ? vi_min(l, vi_set(s->nmax)) : as_byte(l));
        sum += s->w[i] * diff * diff;
    }
    return sum;
}

/* The best of nine inverse scales around nmax / max. */
INLINE vf positive_scan(const struct positive_state *s, vf max)
{
    vf iscale = vf_set((float)s->nmax) / max, best = positive_error(s, iscale, false);

    for (int step = -4; step <= 4; step++) {
        if (step == 0)
            continue;
        vf other = vf_set(0.1f * (float)step + (float)s->nmax) / max, error = positive_error(s, other, true);
        vm better = vf_lt(error, best);
        best = vf_sel(better, error, best);
        iscale = vf_sel(better, other, iscale);
    }
    return iscale;
}

INLINE void positive_start(struct positive_state *s, vf iscale)
{
    s->sum_lx = s->sum_l2 = vf_set(0);
    for (int i = 0; i < s->n; i++) {
        vi l = vi_min(nearest(iscale * s->x[i]), vi_set(s->nmax));
        vf lf = vf_of_vi(l);
        s->code[i] = as_byte(l);
        s->sum_lx += s->w[i] * s->x[i] * lf;
        s->sum_l2 += s->w[i] * lf * lf;
    }
}

/* Moves value i of every set to its best code; the lanes that changed. */
INLINE vm positive_move(struct positive_state *s, int i)
{
    const vf zero = vf_set(0);
    vf w = s->w[i], wx = w * s->x[i], l = vf_of_vi(s->code[i]);
    vf lx = s->sum_lx - wx * l, l2 = s->sum_l2 - w * l * l;
    vi next = vi_min(nearest(s->x[i] * l2 / lx), vi_set(s->nmax));
    vf nf = vf_of_vi(next);
    vm move = vm_andnot(vm_and(vf_lt(zero, lx), vf_lt(zero, l2)), vf_eq(nf, l));

    lx += wx * nf;
    l2 += w * nf * nf;
    move = vm_and(move, vf_lt(s->sum_lx * s->sum_lx * l2, lx * lx * s->sum_l2));
    s->code[i] = (vi)vf_sel(move, (vf)as_byte(next), (vf)s->code[i]);
    s->sum_lx = vf_sel(move, lx, s->sum_lx);
    s->sum_l2 = vf_sel(move, l2, s->sum_l2);
    return move;
}

/* The scales; codes in s->code. */
INLINE vf fit_positive(struct positive_state *s)
{
    const vf zero = vf_set(0);
    vf max = zero;

    for (int i = 0; i < s->n; i++)
        max = vf_max(max, s->x[i]);
    vm empty = vf_lt(max, vf_set(GROUP_EPS));
    positive_start(s, positive_scan(s, max));
    for (int pass = 0; pass < 5; pass++) {
        vm moved = vf_lt(zero, zero);
        for (int i = 0; i < s->n; i++)
            moved = (vm)(moved | positive_move(s, i));
        if (!vm_any(moved))
            break;
    }
    for (int i = 0; i < s->n; i++)
        s->code[i] = (vi)vf_sel(empty, zero, (vf)s->code[i]);
    return vf_sel(vm_andnot(vf_lt(zero, s->sum_l2), empty), s->sum_lx / s->sum_l2, zero);
}

/* ---- K-quants: LANES blocks at a time; their groups' fits lie in several
 * struct fits, their own scales are found one block a lane. */

enum { K_ELEMS = LANES * LMI_QK_K, K_FITS = LANES * 16 / FIT_GROUPS };

/* Value `at` of group j of block l to t[j] lane l, for the n groups of a block.
 * first: the member of the first struct fits. */
INLINE void gather_groups(vf *t, const float *first, int n)
{
    float lane[LANES];

    for (int j = 0; j < n; j++) {
        for (int l = 0; l < LANES; l++) {
            int g = l * n + j;
            lane[l] = first[g / FIT_GROUPS * (int)(sizeof(struct fits) / sizeof(float)) + g % FIT_GROUPS];
        }
        t[j] = vf_load(lane);
    }
}

/* Codes of LANES blocks by group, and each block's scale. */
struct block_scales { float d[LANES]; int32_t code[16][LANES]; };

INLINE void positive_scales(struct block_scales *out, const struct fits *f, const float *values, int n, int nmax)
{
    struct positive_state s = {.n = n, .nmax = nmax};

    gather_groups(s.x, values, n);
    gather_groups(s.w, f->sum_w, n);
    vf_store(out->d, fit_positive(&s));
    memcpy(out->code, s.code, (size_t)n * sizeof *s.code);
}

INLINE void q2_k_weighted_blocks(struct lmi_q2_k *b, const float *x, const float *w, int n)
{
    struct fits f[K_FITS];
    struct block_scales s, m;

    for (int k = 0; k < K_FITS; k++)
        affine_fits(&f[k], x + k * FIT_GROUPS * 16, w + k * FIT_GROUPS * 16, FIT_GROUPS, 16, 3);
    positive_scales(&s, f, f->scale, 16, 15);
    positive_scales(&m, f, f->min, 16, 15);
    for (int l = 0; l < n; l++, b++, x += LMI_QK_K) {
        for (int j = 0; j < 16; j++)
            b->scales[j] = (uint8_t)(s.code[j][l] | m.code[j][l] << 4);
        lmi_store16(b->d, lmi_f32_to_f16(s.d[l]));
        lmi_store16(b->dmin, lmi_f32_to_f16(m.d[l]));
        q2_k_codes(b, x, &f[l * 16 / FIT_GROUPS], l * 16 % FIT_GROUPS);
    }
}

INLINE void pack_block_scales(uint8_t packed[12], const struct block_scales *s, const struct block_scales *m, int l,
                              int most)
{
    uint8_t ls[8], lm[8];

    for (int j = 0; j < 8; j++) {
        ls[j] = (uint8_t)(s->code[j][l] < most ? s->code[j][l] : most);
        lm[j] = (uint8_t)(m->code[j][l] < most ? m->code[j][l] : most);
    }
    pack_scales(packed, ls, lm);
}

/* Two groups of 32 fits are the most that LANES blocks of eight need. */
INLINE void affine_fit_blocks(struct fits *f, struct block_scales *s, struct block_scales *m, const float *x,
                              const float *w, int nmax)
{
    int n_groups = LANES * 8 < FIT_GROUPS ? LANES * 8 : FIT_GROUPS;

    for (int k = 0; k < LANES * 8 / n_groups; k++)
        affine_fits(&f[k], x + k * FIT_GROUPS * 32, w + k * FIT_GROUPS * 32, n_groups, 32, nmax);
    positive_scales(s, f, f->scale, 8, 63);
    positive_scales(m, f, f->min, 8, 63);
}

INLINE void q4_k_weighted_blocks(struct lmi_q4_k *b, const float *x, const float *w, int n)
{
    struct fits f[K_FITS];
    struct block_scales s, m;
    uint8_t code[LMI_QK_K];

    affine_fit_blocks(f, &s, &m, x, w, 15);
    for (int l = 0; l < n; l++, b++, x += LMI_QK_K) {
        pack_block_scales(b->scales, &s, &m, l, 255);
        lmi_store16(b->d, lmi_f32_to_f16(s.d[l]));
        lmi_store16(b->dmin, lmi_f32_to_f16(m.d[l]));
        affine_block_codes(code, x, &f[l * 8 / FIT_GROUPS], l * 8 % FIT_GROUPS, b->scales, f16_at(b->d),
                           f16_at(b->dmin), 15);
        pack_nibble_rows(b->qs, code);
    }
}

INLINE void q5_k_weighted_blocks(struct lmi_q5_k *b, const float *x, const float *w, int n)
{
    struct fits f[K_FITS];
    struct block_scales s, m;
    uint8_t code[LMI_QK_K];

    affine_fit_blocks(f, &s, &m, x, w, 31);
    for (int l = 0; l < n; l++, b++, x += LMI_QK_K) {
        pack_block_scales(b->scales, &s, &m, l, 63);
        lmi_store16(b->d, lmi_f32_to_f16(s.d[l]));
        lmi_store16(b->dmin, lmi_f32_to_f16(m.d[l]));
        affine_block_codes(code, x, &f[l * 8 / FIT_GROUPS], l * 8 % FIT_GROUPS, b->scales, f16_at(b->d),
                           f16_at(b->dmin), 31);
        pack_nibble_rows(b->qs, code);
        pack_mask(b->qh, code, 4);
    }
}

/* The groups' scales as 6-bit codes (+ 32; 0 all over if there are none). */
INLINE void symmetric_scales(struct block_scales *out, const struct fits *f)
{
    struct fits block;
    vf x[16], w[16];

    gather_groups(x, f->scale, 16);
    gather_groups(w, f->sum_w, 16);
    fit_symmetric(&block, 0, x, w, 16, 32);
    memcpy(out->d, block.scale, sizeof out->d);
    vf iscale = vf_load(block.iscale);
    vm empty = vf_eq(iscale, vf_set(0));
    for (int j = 0; j < 16; j++) {
        vi code = nearest_in(iscale * x[j], -32, 31) + vi_set(32);
        vf kept = vf_sel(empty, vf_set(0), (vf)code);
        memcpy(out->code[j], &kept, sizeof out->code[j]);
    }
}

INLINE void q3_k_weighted_blocks(struct lmi_q3_k *b, const float *x, const float *w, int n)
{
    struct fits f[K_FITS];
    struct block_scales s;

    for (int k = 0; k < K_FITS; k++)
        symmetric_fits(&f[k], x + k * FIT_GROUPS * 16, w + k * FIT_GROUPS * 16, FIT_GROUPS, 16, Q3_MAX);
    symmetric_scales(&s, f);
    for (int l = 0; l < n; l++, b++, x += LMI_QK_K) {
        uint8_t code[16];
        for (int j = 0; j < 16; j++)
            code[j] = (uint8_t)s.code[j][l];
        lmi_store16(b->d, lmi_f32_to_f16(s.d[l]));
        q3_k_codes(b, x, code, &f[l * 16 / FIT_GROUPS], l * 16 % FIT_GROUPS, false);
    }
}

INLINE void q6_k_weighted_blocks(struct lmi_q6_k *b, const float *x, const float *w, int n)
{
    struct fits f;

    for (int l = 0; l < n; l++, b++) {
        if (l % (FIT_GROUPS / 16) == 0)
            symmetric_fits(&f, x + l * LMI_QK_K, w + l * LMI_QK_K, FIT_GROUPS, 16, 32);
        q6_k_block(b, x + l * LMI_QK_K, &f, l * 16 % FIT_GROUPS);
    }
}

/* Q6_K takes the importance as it is. */
INLINE void plain_columns(float *w, struct columns *c, int n_blocks)
{
    for (int k = 0; k < n_blocks; k++)
        memcpy(w + k * LMI_QK_K, next_columns(c, LMI_QK_K), LMI_QK_K * sizeof *w);
}

#define K_WEIGHTED(t, fill) \
    static void t##_weighted(void *dst, const float *src, const float *weights, size_t n_per_row, size_t n_rows) \
    { \
        struct lmi_##t *b = dst; \
        struct columns c = {weights, n_per_row, 0}; \
        float w[K_ELEMS] = {0}, rest[K_ELEMS]; \
        for (size_t n = n_per_row * n_rows; n > 0;) { \
            int k = n < K_ELEMS ? (int)n / LMI_QK_K : LANES; \
            const float *x = whole_batch(src, rest, n, K_ELEMS); \
            fill; \
            t##_weighted_blocks(b, x, w, k); \
            b += k; \
            src += k * LMI_QK_K; \
            n -= (size_t)k * LMI_QK_K; \
        } \
    }

K_WEIGHTED(q2_k, weigh_blocks(w, x, &c, k, 1, 1.0f / LMI_QK_K))
K_WEIGHTED(q3_k, weigh_blocks(w, x, &c, k, 2, 1.0f / LMI_QK_K))
K_WEIGHTED(q4_k, weigh_blocks(w, x, &c, k, 2, 1.0f / LMI_QK_K))
K_WEIGHTED(q5_k, weigh_blocks(w, x, &c, k, 2, 1.0f / LMI_QK_K))
K_WEIGHTED(q6_k, plain_columns(w, &c, k))

/* ---- first generation: FIT_GROUPS blocks at a time, one spread a row */

enum { LEGACY_ELEMS = FIT_GROUPS * LMI_QK };

INLINE void pack_nibbles(uint8_t qs[16], const uint8_t code[LMI_QK])
{
    for (int i = 0; i < 16; i++)
        qs[i] = (uint8_t)((code[i] & 15) | (code[i + 16] & 15) << 4);
}

INLINE void pack_fifths(uint8_t qh[4], const uint8_t code[LMI_QK])
{
    for (int j = 0; j < 4; j++) {
        unsigned bits = 0;
        for (int i = 0; i < 8; i++)
            bits |= (unsigned)(code[8 * j + i] >> 4) << i;
        qh[j] = (uint8_t)bits;
    }
}

INLINE void q4_0_weighted_blocks(struct lmi_q4_0 *b, const float *x, const float *w, int n)
{
    struct fits f;
    uint8_t code[LMI_QK];

    symmetric_fits(&f, x, w, n, LMI_QK, 8);
    for (int k = 0; k < n; k++, b++) {
        lmi_store16(b->d, lmi_f32_to_f16(f.scale[k]));
        searched_codes(code, x + k * LMI_QK, LMI_QK, f.iscale[k], 0, -8, 7);
        pack_nibbles(b->qs, code);
    }
}

INLINE void q5_0_weighted_blocks(struct lmi_q5_0 *b, const float *x, const float *w, int n)
{
    struct fits f;
    uint8_t code[LMI_QK];

    symmetric_fits(&f, x, w, n, LMI_QK, 16);
    for (int k = 0; k < n; k++, b++) {
        lmi_store16(b->d, lmi_f32_to_f16(f.scale[k]));
        searched_codes(code, x + k * LMI_QK, LMI_QK, f.iscale[k], 0, -16, 15);
        pack_nibbles(b->qs, code);
        pack_fifths(b->qh, code);
    }
}

INLINE void q4_1_weighted_blocks(struct lmi_q4_1 *b, const float *x, const float *w, int n)
{
    struct fits f;
    uint8_t code[LMI_QK];

    affine_fits(&f, x, w, n, LMI_QK, 15);
    for (int k = 0; k < n; k++, b++) {
        lmi_store16(b->d, lmi_f32_to_f16(f.scale[k]));
        lmi_store16(b->m, lmi_f32_to_f16(-f.min[k]));
        searched_codes(code, x + k * LMI_QK, LMI_QK, f.iscale[k], f.base[k], 0, 15);
        pack_nibbles(b->qs, code);
    }
}

INLINE void q5_1_weighted_blocks(struct lmi_q5_1 *b, const float *x, const float *w, int n)
{
    struct fits f;
    uint8_t code[LMI_QK];

    affine_fits(&f, x, w, n, LMI_QK, 31);
    for (int k = 0; k < n; k++, b++) {
        lmi_store16(b->d, lmi_f32_to_f16(f.scale[k]));
        lmi_store16(b->m, lmi_f32_to_f16(-f.min[k]));
        searched_codes(code, x + k * LMI_QK, LMI_QK, f.iscale[k], f.base[k], 0, 31);
        pack_nibbles(b->qs, code);
        pack_fifths(b->qh, code);
    }
}

/* Weights of n blocks, the first of which lies `at` elements into its rows. */
INLINE void weigh_rows(float *w, const float *x, struct columns *c, const float spread[LANES], size_t at, int n)
{
    for (int k = 0; k < n; k++, at += LMI_QK, x += LMI_QK, w += LMI_QK)
        weigh(w, next_columns(c, LMI_QK), x, LMI_QK, spread[at / c->n]);
}

#define LEGACY_WEIGHTED(t) \
    INLINE void t##_weighted_rows(struct lmi_##t *b, const float *src, struct columns *c, int n_rows) \
    { \
        float w[LEGACY_ELEMS] = {0}, rest[LEGACY_ELEMS], spread[LANES]; \
        size_t end = (size_t)n_rows * c->n; \
        square_sums(spread, src, c->n, c->n, n_rows); \
        for (int r = 0; r < n_rows; r++) \
            spread[r] /= (float)c->n; \
        for (size_t at = 0; at < end;) { \
            int k = end - at < LEGACY_ELEMS ? (int)(end - at) / LMI_QK : FIT_GROUPS; \
            const float *x = whole_batch(src + at, rest, end - at, LEGACY_ELEMS); \
            weigh_rows(w, x, c, spread, at, k); \
            t##_weighted_blocks(b, x, w, k); \
            b += k; \
            at += (size_t)k * LMI_QK; \
        } \
    } \
    static void t##_weighted(void *dst, const float *src, const float *weights, size_t n_per_row, size_t n_rows) \
    { \
        struct lmi_##t *b = dst; \
        struct columns c = {weights, n_per_row, 0}; \
        for (size_t r = 0; r < n_rows; r += LANES) \
            t##_weighted_rows(b + r * (n_per_row / LMI_QK), src + r * n_per_row, &c, \
                              n_rows - r < LANES ? (int)(n_rows - r) : LANES); \
    }

LEGACY_WEIGHTED(q4_0)
LEGACY_WEIGHTED(q4_1)
LEGACY_WEIGHTED(q5_0)
LEGACY_WEIGHTED(q5_1)

#endif
