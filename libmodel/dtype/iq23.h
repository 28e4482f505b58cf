/* Encoders of the IQ2 and IQ3 types.
 *
 * For each group of 16 or 32 elements: take the signs off, try a range of scales,
 * for each round the elements to levels and find points of the codebook, keep the
 * scale that explains most of the weighted sum of squares, then choose the points
 * once more with the scale that results.  The lanes are the scales that are tried. */
#ifndef LIBMODEL_DTYPE_IQ23_H
#define LIBMODEL_DTYPE_IQ23_H

#include "libmodel/dtype/lattice.h"

enum {
    MAX_TRIES = 32, /* rounded up to whole vectors */
    MAX_PARTS = 8,  /* points of a group */
    BATCH = 2,      /* blocks prepared together: a group a lane for IQ2_XXS's first scale */
};

/* Which points are chosen again with the final scale. */
enum again { AGAIN_ALL, AGAIN_ALL_UNLESS_IN_BOOK, AGAIN_NOT_IN_BOOK };

struct spec {
    enum lmi_grid_id grid;
    struct shape shape;
    int n;             /* elements of a group */
    int reach;         /* scales are tried for -reach .. reach */
    float step;        /* times this, from 2 levels - 1 at the largest element */
    float empty_below; /* groups with all |x| below count as zero */
    bool even;         /* an even number of signs in each eight elements */
    bool first_fit;    /* the largest level's value comes from a fit, not from the largest element */
    enum again again;
};

/* |x|, weights and signs of BATCH blocks.  Where signs must be even in number
 * the element that matters least changes its sign, and is negative here. */
struct batch {
    float x[BATCH * LMI_QK_K], w[BATCH * LMI_QK_K];
    uint8_t signs[BATCH * LMI_QK_K / 8];
};

/* What a block becomes; groups without scale keep zeros. */
struct choice {
    float scale[16];
    uint16_t at[64]; /* positions in the book */
    uint8_t signs[32];
    bool empty[16];
};

INLINE void make_even(float *x, const float *w, uint8_t *signs)
{
    int least = 0;

    if (__builtin_popcount(*signs) % 2 == 0)
        return;
    for (int i = 1; i < 8; i++)
        if (w[i] * x[i] * x[i] < w[least] * x[least] * x[least])
            least = i;
    x[least] = -x[least];
    *signs ^= (uint8_t)(1 << least);
}

INLINE void take_signs(float *to, uint8_t *signs, const float *x)
{
    uint32_t bits = 0;

    for (int i = 0; i < LMI_QK_K; i += LANES) {
        vf v = vf_load(x + i);
        vf_store(to + i, vf_abs(v));
        bits |= vi_signs((vi)(v + vf_set(0))) << i % 16; /* + 0: zero has no sign */
        if (i % 16 + LANES == 16) {
            lmi_store16(signs + i / 16 * 2, (uint16_t)bits);
            bits = 0;
        }
    }
}

/* ---- the first scale of IQ2_XXS: ggml's qp with codes to 4, LANES groups of 32.
 * Its codes are bytes, so those of negative elements wrap; that steers the
 * descent and is kept. */

enum { QP_MAX = 4 };

struct qp {
    vf x[32], w[32], wx[32], code[32];
    vf sum_lx, sum_l2;
};

INLINE vf as_byte(vi code)
{
    return vf_of_vi(code & vi_set(255));
}

INLINE vf qp_error(const struct qp *s, vf iscale, bool first)
{
    vf scale = vf_set(1) / iscale, sum = vf_set(0);

    for (int i = 0; i < 32; i++) {
        vi l = nearest(iscale * s->x[i]);
        vf diff = s->x[i] - scale * (first ? as_byte(l) : vf_of_vi(vi_min(l, vi_set(QP_MAX))));
        sum += s->w[i] * diff * diff;
    }
    return sum;
}

INLINE void qp_start(struct qp *s, vf iscale)
{
    s->sum_lx = s->sum_l2 = vf_set(0);
    for (int i = 0; i < 32; i++) {
        vi l = vi_min(nearest(iscale * s->x[i]), vi_set(QP_MAX));
        s->wx[i] = s->w[i] * s->x[i];
        s->sum_lx += s->wx[i] * vf_of_vi(l);
        s->sum_l2 += s->w[i] * vf_of_vi(l) * vf_of_vi(l);
        s->code[i] = as_byte(l);
    }
}

INLINE vm qp_move(struct qp *s, int i)
{
    const vf zero = vf_set(0);
    vf code = s->code[i];
    vf lx = s->sum_lx - s->wx[i] * code, l2 = s->sum_l2 - s->w[i] * code * code;
    vi next = vi_min(nearest(s->x[i] * l2 / lx), vi_set(QP_MAX));
    vf to = vf_of_vi(next);
    vm move = vm_andnot(vm_and(vf_lt(zero, lx), vf_lt(zero, l2)), vf_eq(to, code));

    lx += s->wx[i] * to;
    l2 += s->w[i] * to * to;
    move = vm_and(move, vf_lt(s->sum_lx * s->sum_lx * l2, lx * lx * s->sum_l2));
    s->code[i] = vf_sel(move, as_byte(next), code);
    s->sum_lx = vf_sel(move, lx, s->sum_lx);
    s->sum_l2 = vf_sel(move, l2, s->sum_l2);
    return move;
}

INLINE vf qp_scale(struct qp *s)
{
    const vf zero = vf_set(0);
    vf max = zero;

    for (int i = 0; i < 32; i++)
        max = vf_max(max, s->x[i]);
    vf iscale = vf_set(QP_MAX) / max, best = qp_error(s, iscale, true);
    for (int step = -4; step <= 4; step++) {
        if (step == 0)
            continue;
        vf other = vf_set(0.1f * (float)step + QP_MAX) / max, error = qp_error(s, other, false);
        vm better = vf_lt(error, best);
        best = vf_sel(better, error, best);
        iscale = vf_sel(better, other, iscale);
    }
    qp_start(s, iscale);
    /* A group at rest stays at rest, so lanes need not stop one by one. */
    for (int pass = 0; pass < 5; pass++) {
        vm moved = vf_lt(zero, zero);
        for (int i = 0; i < 32; i++)
            moved = (vm)(moved | qp_move(s, i));
        if (!vm_any(moved))
            break;
    }
    return vf_sel(vf_lt(zero, s->sum_l2), s->sum_lx / s->sum_l2, zero);
}

static void first_scales(float *scale, const struct batch *b)
{
    for (int g = 0; g < BATCH * LMI_QK_K / 32; g += LANES) {
        struct qp s;
        load_groups(s.x, b->x + 32 * g, 32);
        load_groups(s.w, b->w + 32 * g, 32);
        vf_store(scale + g, qp_scale(&s));
    }
}

/* ---- one group */

/* Tables of COSTS for each point of the group, and the tries, a lane each. */
struct tries {
    float xs[MAX_PARTS * COSTS], roots[MAX_PARTS * COSTS]; /* spread x and sqrt(w) */
    float lx[MAX_PARTS * COSTS], l2[MAX_PARTS * COSTS];    /* w x level, w level^2 */
    float scale[MAX_TRIES];
    int32_t point[MAX_PARTS][MAX_TRIES]; /* first its number, then packed */
    uint32_t outside[MAX_PARTS];         /* bit of a try: not in the book as rounded */
};

static const float levels_of_three[16] = {1, 3, 5, 5, 1, 3, 5, 5, 1, 3, 5, 5, 1, 3, 5, 5};
static const float levels_of_eight[16] = {1, 3, 5, 7, 9, 11, 13, 15, 1, 3, 5, 7, 9, 11, 13, 15};

INLINE const float *levels(struct spec s)
{
    return s.shape.coords == 8 ? levels_of_three : levels_of_eight;
}

INLINE int parts(struct spec s)
{
    return s.n / s.shape.coords;
}

INLINE void fill_tables(struct tries *t, const float *x, const float *w, struct spec s)
{
    float root[32], spread_w[COSTS];

    for (int i = 0; i < s.n; i += LANES)
        vf_store(root + i, vf_sqrt(vf_load(w + i)));
    for (int k = 0; k < parts(s); k++) {
        spread(t->xs + COSTS * k, x + s.shape.coords * k, s.shape);
        spread(t->roots + COSTS * k, root + s.shape.coords * k, s.shape);
        spread(spread_w, w + s.shape.coords * k, s.shape);
        for (int c = 0; c < COSTS; c += LANES) {
            vf l = vf_load(levels(s) + c % 16), v = vf_load(spread_w + c);
            vf_store(t->lx + COSTS * k + c, v * vf_load(t->xs + COSTS * k + c) * l);
            vf_store(t->l2 + COSTS * k + c, v * l * l);
        }
    }
}

/* Numbers of the points that rounding gives with each try's scale. */
INLINE void round_tries(struct tries *t, const float *x, float top, struct spec s)
{
    for (int v = 0; v <= 2 * s.reach; v += LANES) {
        vf step = vf_of_vi(lane_numbers() + vi_set(v - s.reach)) * vf_set(s.step);
        vf iscale = (vf_set((float)(2 * s.shape.levels - 1)) + step) / vf_set(top);
        vf_store(t->scale + v, vf_set(1) / iscale);
        for (int k = 0; k < parts(s); k++) {
            vi number = vi_set(0);
            for (int i = s.shape.coords - 1; i >= 0; i--) {
                vf l = vf_set(0.5f) * (iscale * vf_set(x[s.shape.coords * k + i]) - vf_set(1));
                vi digit = nearest_in(l, 0, s.shape.levels - 1);
                number = (s.shape.levels == 3 ? number + number + number : number << 3) + digit;
            }
            memcpy(&t->point[k][v], &number, sizeof number);
        }
    }
}

INLINE unsigned near_point(const struct tries *t, int part, float scale, struct lmi_near near,
                           const struct lmi_grid *grid, struct spec s)
{
    float costs[COSTS];

    fill_costs(costs, t->xs + COSTS * part, t->roots + COSTS * part, levels(s), scale);
    return best_point(grid->lists + LMI_NEAR_RUN * near.at, near.n, costs, s.shape);
}

INLINE void find_points(struct tries *t, const struct lmi_grid *grid, struct spec s)
{
    for (int k = 0; k < parts(s); k++) {
        t->outside[k] = 0;
        for (int i = 0; i <= 2 * s.reach; i++) {
            struct lmi_near near = grid->near[t->point[k][i]];
            if (near.n == 0) {
                t->point[k][i] = grid->points[near.at];
                continue;
            }
            t->point[k][i] = (int32_t)near_point(t, k, t->scale[i], near, grid, s);
            t->outside[k] |= 1u << i;
        }
    }
}

/* The try that explains most, -1 if none does anything; its scale. */
INLINE int best_try(float *scale, const struct tries *t, struct spec s)
{
    float best = 0, lx[LANES], l2[LANES];
    int found = -1;

    for (int v = 0; v <= 2 * s.reach; v += LANES) {
        vf sum_lx = vf_set(0), sum_l2 = vf_set(0);
        for (int k = 0; k < parts(s); k++) {
            vi point;
            memcpy(&point, &t->point[k][v], sizeof point);
            for (int i = 0; i < s.shape.coords; i++) {
                int at = COSTS * k + width(s.shape) * i;
                sum_lx += pick(t->lx + at, point >> s.shape.bits * i, s.shape);
                sum_l2 += pick(t->l2 + at, point >> s.shape.bits * i, s.shape);
            }
        }
        vf_store(lx, sum_lx);
        vf_store(l2, sum_l2);
        int n = 2 * s.reach + 1 - v;
        for (int l = 0; l < LANES && l < n; l++)
            if (l2[l] > 0 && lx[l] * lx[l] > best * l2[l]) {
                *scale = lx[l] / l2[l];
                best = *scale * lx[l];
                found = v + l;
            }
    }
    return found;
}

INLINE int number_at(const float *x, float iscale, struct spec s)
{
    uint8_t digit[8];
    int number = 0;

    for (int i = 0; i < s.shape.coords; i++) {
        int32_t l = nearest1(0.5f * (iscale * x[i] - 1));
        digit[i] = (uint8_t)(l < 0 ? 0 : l < s.shape.levels ? l : s.shape.levels - 1);
    }
    for (int i = s.shape.coords - 1; i >= 0; i--)
        number = number * s.shape.levels + digit[i];
    return number;
}

/* Sums over the whole group, in order; the scale stays if they are empty. */
INLINE void solve(float *scale, const struct tries *t, const unsigned *point, struct spec s)
{
    float lx = 0, l2 = 0;

    for (int k = 0; k < parts(s); k++)
        for (int i = 0; i < s.shape.coords; i++) {
            unsigned level = point[k] >> s.shape.bits * i & ((1u << s.shape.bits) - 1);
            int at = COSTS * k + width(s.shape) * i + (int)level;
            lx += t->lx[at];
            l2 += t->l2[at];
        }
    if (l2 > 0)
        *scale = lx / l2;
}

INLINE void choose_again(float *scale, unsigned *point, const struct tries *t, unsigned which, const float *x,
                         const struct lmi_grid *grid, struct spec s)
{
    float iscale = 1 / *scale;

    for (int k = 0; k < parts(s); k++) {
        if (!(which >> k & 1))
            continue;
        struct lmi_near near = grid->near[number_at(x + s.shape.coords * k, iscale, s)];
        point[k] = near.n == 0 ? grid->points[near.at] : near_point(t, k, *scale, near, grid, s);
    }
    solve(scale, t, point, s);
}

/* The position of a packed point that is in the book. */
INLINE uint16_t position(unsigned point, const struct lmi_grid *grid, struct spec s)
{
    int number = 0;

    if (s.shape.levels == 8)
        return grid->near[point].at;
    for (int i = s.shape.coords - 1; i >= 0; i--)
        number = 3 * number + (int)(point >> 2 * i & 3);
    return grid->near[number].at;
}

/* x, w: the group's; top: what 2 levels - 1 stands for; *scale: the start.
 * Returns whether the group's signs are to be turned. */
INLINE bool fit_group(uint16_t *at, float *scale, const float *x, const float *w, float top,
                      const struct lmi_grid *grid, struct spec s)
{
    struct tries t;
    unsigned point[MAX_PARTS] = {0}, outside = 0;

    fill_tables(&t, x, w, s);
    round_tries(&t, x, top, s);
    find_points(&t, grid, s);
    int found = best_try(scale, &t, s);
    for (int k = 0; found >= 0 && k < parts(s); k++) {
        point[k] = (unsigned)t.point[k][found];
        outside |= (t.outside[k] >> found & 1) << k;
    }
    unsigned all = (1u << parts(s)) - 1;
    if (s.again == AGAIN_ALL || (s.again == AGAIN_ALL_UNLESS_IN_BOOK && (found < 0 || outside)))
        outside = all;
    if (outside && *scale > 0)
        choose_again(scale, point, &t, outside, x, grid, s);
    for (int k = 0; k < parts(s); k++)
        at[k] = position(point[k], grid, s);
    return *scale < 0;
}

INLINE float largest_of(const float *x, int n)
{
    float max = x[0], part[LANES];
    vf v = vf_load(x);

    for (int i = LANES; i < n; i += LANES)
        v = vf_max(v, vf_load(x + i));
    vf_store(part, v);
    for (int i = 0; i < LANES; i++)
        max = part[i] > max ? part[i] : max;
    return max;
}

/* The block of b that begins at group `first`. */
INLINE void fit_block(struct choice *c, const struct batch *b, int first, const float *scales,
                      const struct lmi_grid *grid, struct spec s)
{
    memset(c, 0, sizeof *c);
    for (int g = 0; g < LMI_QK_K / s.n; g++) {
        const float *x = b->x + s.n * (first + g), *w = b->w + s.n * (first + g);
        float max = largest_of(x, s.n), top = max, scale = max / (float)(2 * s.shape.levels - 1);
        if (s.first_fit) {
            scale = scales[first + g];
            top = scale * (float)s.shape.levels;
        }
        c->empty[g] = max < s.empty_below || top <= 0;
        if (c->empty[g])
            continue;
        bool turn = fit_group(c->at + parts(s) * g, &scale, x, w, top, grid, s);
        c->scale[g] = turn ? -scale : scale;
        for (int k = 0; k < s.n / 8; k++) {
            uint8_t signs = b->signs[s.n / 8 * (first + g) + k];
            c->signs[s.n / 8 * g + k] = (uint8_t)(turn ? ~signs : signs);
        }
    }
}

/* The block's d and scales as 4-bit codes; false if all scales are 0. */
INLINE bool code_scales(float *d, uint8_t *code, const float *scale, int n)
{
    float max = 0;

    for (int g = 0; g < n; g++)
        max = scale[g] > max ? scale[g] : max;
    *d = max / 31;
    float id = 1 / *d;
    for (int g = 0; g < n; g++) {
        int32_t l = nearest1(0.5f * (id * scale[g] - 1));
        code[g] = (uint8_t)(l < 0 ? 0 : l < 15 ? l : 15);
    }
    return max > 0;
}

/* ---- packing */

INLINE void store32(uint8_t *p, uint32_t u)
{
    lmi_store16(p, (uint16_t)u);
    lmi_store16(p + 2, (uint16_t)(u >> 16));
}

INLINE uint32_t four_signs(const uint8_t *signs)
{
    return (uint32_t)(signs[0] & 127) | (uint32_t)(signs[1] & 127) << 7 | (uint32_t)(signs[2] & 127) << 14 |
           (uint32_t)(signs[3] & 127) << 21;
}

INLINE void pack_iq2_xxs(struct lmi_iq2_xxs *b, const struct choice *c)
{
    uint8_t code[8];
    float d;
    bool filled = code_scales(&d, code, c->scale, 8);

    memset(b, 0, sizeof *b);
    if (!filled)
        return;
    lmi_store16(b->d, lmi_f32_to_f16(d));
    for (int g = 0; g < 8; g++) {
        for (int k = 0; k < 4; k++)
            b->groups[g][k] = (uint8_t)c->at[4 * g + k];
        store32(b->groups[g] + 4, four_signs(c->signs + 4 * g) | (uint32_t)code[g] << 28);
    }
}

INLINE void pack_pairs(uint8_t *scales, const uint8_t *code, int n)
{
    for (int g = 0; g < n; g++)
        scales[g] = (uint8_t)(code[2 * g] | code[2 * g + 1] << 4);
}

INLINE void pack_iq2_xs(struct lmi_iq2_xs *b, const struct choice *c)
{
    uint8_t code[16];
    float d;
    bool filled = code_scales(&d, code, c->scale, 16);

    memset(b, 0, sizeof *b);
    if (!filled)
        return;
    lmi_store16(b->d, lmi_f32_to_f16(d));
    for (int k = 0; k < 32; k++)
        lmi_store16(b->q[k], (uint16_t)(c->at[k] | (c->signs[k] & 127) << 9));
    pack_pairs(b->scales, code, 8);
}

/* Unlike in the other types, points and signs stay when all scales are 0. */
INLINE void pack_iq2_s(struct lmi_iq2_s *b, const struct choice *c)
{
    uint8_t code[16];
    float d;
    bool filled = code_scales(&d, code, c->scale, 16);

    memset(b, 0, sizeof *b);
    for (int k = 0; k < 32; k++) {
        b->q[k] = (uint8_t)c->at[k];
        b->qh[k / 4] |= (uint8_t)(c->at[k] >> 8 << k % 4 * 2);
        b->signs[k] = c->signs[k];
    }
    if (!filled)
        return;
    lmi_store16(b->d, lmi_f32_to_f16(d * 0.9875f));
    pack_pairs(b->scales, code, 8);
}

INLINE void pack_iq3_xxs(struct lmi_iq3_xxs *b, const struct choice *c)
{
    uint8_t code[8];
    float d;
    bool filled = code_scales(&d, code, c->scale, 8);

    memset(b, 0, sizeof *b);
    if (!filled)
        return;
    lmi_store16(b->d, lmi_f32_to_f16(d * 1.0125f));
    for (int k = 0; k < 64; k++)
        b->q[k] = (uint8_t)c->at[k];
    for (int g = 0; g < 8; g++)
        store32(b->signs_scales[g], four_signs(c->signs + 4 * g) | (uint32_t)code[g] << 28);
}

/* ggml moves on in q and signs (not in qh and scales) only past groups that are
 * not empty.  A block that has an empty group before another is spoiled by
 * that, here as there: the bytes are ggml's. */
INLINE void pack_iq3_s(struct lmi_iq3_s *b, const struct choice *c)
{
    uint8_t code[8];
    float d;
    bool filled = code_scales(&d, code, c->scale, 8);
    int to = 0;

    memset(b, 0, sizeof *b);
    for (int g = 0; g < 8; g++) {
        if (c->empty[g])
            continue;
        for (int k = 0; k < 8; k++) {
            b->q[8 * to + k] = (uint8_t)c->at[8 * g + k];
            b->qh[g] |= (uint8_t)(c->at[8 * g + k] >> 8 << k);
        }
        memcpy(b->signs + 4 * to++, c->signs + 4 * g, 4);
    }
    if (!filled)
        return;
    lmi_store16(b->d, lmi_f32_to_f16(d * 1.033f));
    pack_pairs(b->scales, code, 4);
}

/* ---- rows */

enum { SUMS = 16 }; /* sums of squares taken together: a multiple of LANES and of BATCH */

/* From the sum of a block's squares, as ggml associates it. */
INLINE float twice_mean(float sum)
{
    return 2 * sum / LMI_QK_K;
}

INLINE void prepare(struct batch *b, int slot, const float *x, const float *importance, float sigma2, float offset,
                    struct spec s)
{
    float *to = b->x + LMI_QK_K * slot, *w = b->w + LMI_QK_K * slot;
    uint8_t *signs = b->signs + LMI_QK_K / 8 * slot;

    if (importance)
        weigh(w, x, importance, sigma2);
    else
        weigh_squares(w, x, offset);
    take_signs(to, signs, x);
    for (int k = 0; s.even && k < LMI_QK_K / 8; k++)
        make_even(to + 8 * k, w + 8 * k, signs + k);
}

/* variance: of `sum`, the sum of a block's squares; rest: what is added to x^2 where
 * there is no importance, of `sigma2`, that variance. */
#define IQ_ENCODE(t, variance, rest, ...) \
    static void t##_encode(void *dst, const float *x, const float *weights, size_t blocks_per_row, size_t n) \
    { \
        const struct spec s = {__VA_ARGS__}; \
        const struct lmi_grid *grid = lmi_grid(s.grid); \
        struct lmi_##t *to = dst; \
        struct batch b; \
        struct choice c; \
        float sums[SUMS], scales[BATCH * LMI_QK_K / 32]; \
        for (size_t i = 0; i < n; i += BATCH, x += BATCH * LMI_QK_K) { \
            if (i % SUMS == 0) \
                sums_of_squares(sums, x, n - i < SUMS ? n - i : SUMS); \
            memset(&b, 0, sizeof b); \
            for (int k = 0; k < BATCH && i + (size_t)k < n; k++) { \
                const float *row = weights ? weights + (i + (size_t)k) % blocks_per_row * LMI_QK_K : NULL; \
                float sum = sums[(i + (size_t)k) % SUMS], sigma2 = variance; \
                prepare(&b, k, x + LMI_QK_K * k, row, sigma2, rest, s); \
            } \
            if (s.first_fit) \
                first_scales(scales, &b); \
            for (int k = 0; k < BATCH && i + (size_t)k < n; k++) { \
                fit_block(&c, &b, LMI_QK_K / s.n * k, scales, grid, s); \
                pack_##t(to++, &c); \
            } \
        } \
    }

IQ_ENCODE(iq2_xxs, sum / LMI_QK_K, 0, .grid = LMI_GRID_IQ2_XXS, .shape = EIGHT_OF_THREE, .n = 32, .reach = 6,
          .step = 0.1f, .empty_below = 1e-15f, .even = true, .first_fit = true, .again = AGAIN_ALL)
IQ_ENCODE(iq2_xs, sum / LMI_QK_K, 0, .grid = LMI_GRID_IQ2_XS, .shape = EIGHT_OF_THREE, .n = 16, .reach = 9,
          .step = 0.1f, .empty_below = 1e-15f, .even = true, .again = AGAIN_NOT_IN_BOOK)
IQ_ENCODE(iq2_s, twice_mean(sum), 0.25f * sigma2, .grid = LMI_GRID_IQ2_S, .shape = EIGHT_OF_THREE, .n = 16,
          .reach = 9, .step = 0.1f, .empty_below = 1e-8f, .again = AGAIN_NOT_IN_BOOK)
IQ_ENCODE(iq3_xxs, twice_mean(sum), 0, .grid = LMI_GRID_IQ3_XXS, .shape = FOUR_OF_EIGHT, .n = 32, .reach = 15,
          .step = 0.2f, .empty_below = 1e-8f, .even = true, .again = AGAIN_NOT_IN_BOOK)
IQ_ENCODE(iq3_s, twice_mean(sum), 0, .grid = LMI_GRID_IQ3_S, .shape = FOUR_OF_EIGHT, .n = 32, .reach = 9,
          .step = 0.2f, .empty_below = 0x1p-149f, .again = AGAIN_ALL_UNLESS_IN_BOOK)

#endif
