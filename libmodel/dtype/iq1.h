/* Encoders of IQ1_S and IQ1_M.
 *
 * A group's elements, sorted, fall into three runs that get levels 0, 1 and 2.
 * All places of the two cuts are scored for both moves of the levels (in IQ1_M
 * for each half of the group): the best pair is the exact optimum for free
 * points.  Then points that are not in the codebook are replaced. */
#ifndef LIBMODEL_DTYPE_IQ1_H
#define LIBMODEL_DTYPE_IQ1_H

#include "libmodel/dtype/lattice.h"

#define IQ1_DELTA 0.125f

/* Values of levels 0, 1, 2 moved up and down; [16] as tables of costs want it. */
static const float moved_levels[2][16] = {
#define FOUR(a, b, c) a, b, c, c
#define MOVED(d) FOUR(-1 + d, d, 1 + d), FOUR(-1 + d, d, 1 + d), FOUR(-1 + d, d, 1 + d), FOUR(-1 + d, d, 1 + d)
    {MOVED(IQ1_DELTA)},
    {MOVED(-IQ1_DELTA)},
#undef FOUR
#undef MOVED
};

/* ---- sorting */

/* Stable, as the qsort that ggml's files were made with: equal elements with
 * different weights must not trade places.  An element's place is the number of
 * elements before it. */
INLINE void sort_order(uint8_t *order, const float *x, int n)
{
    vi key[32 / LANES], place[32 / LANES];
    int32_t keys[32], places[32];

    for (int v = 0; v < n / LANES; v++) {
        vi bits = (vi)(vf_load(x + v * LANES) + vf_set(0)); /* one zero, not two */
        key[v] = bits ^ ((bits >> 31) & vi_set(INT32_MAX));
        place[v] = vi_set(0);
        memcpy(keys + v * LANES, &key[v], sizeof key[v]);
    }
    for (int k = 0; k < n; k++)
        for (int v = 0; v < n / LANES; v++) {
            vi later = lane_numbers() + vi_set(v * LANES) > vi_set(k);
            place[v] -= vi_set(keys[k]) < key[v] - later;
        }
    memcpy(places, place, (size_t)n * sizeof *places);
    for (int i = 0; i < n; i++)
        order[places[i] & 31] = (uint8_t)i;
}

/* ---- scoring cuts: candidates in ggml's order, LANES places of the second cut
 * at a time, `ways` for each place */

enum {
    MAX_CUTS = 33,
    MAX_PLACES = 17 * (32 / LANES + 1), /* vectors of the second cut, for all places of the first */
    CHAINS = 4, /* vectors whose comparisons do not wait for each other */
    MAX_VECTORS = 2 * MAX_PLACES + CHAINS,
};

struct cuts {
    int n_vectors;
    vf lx[MAX_VECTORS], l2[MAX_VECTORS];       /* l2 NaN: not a candidate */
    uint8_t first[MAX_PLACES], second[MAX_PLACES]; /* the cuts of lane 0; a lane's second cut is lane further */
};

struct cut {
    float scale;
    int first, second, way; /* way -1: none */
};

INLINE void take_cut(struct cut *best, const struct cuts *c, int v, int lane, int ways)
{
    float lx[LANES], l2[LANES];

    vf_store(lx, c->lx[v]);
    vf_store(l2, c->l2[v]);
    *best = (struct cut){lx[lane] / l2[lane], c->first[v / ways], c->second[v / ways] + lane, v % ways};
}

/* One after another, each compared with the best so far: ggml's loop. */
static void best_cut_in_order(struct cut *best, const struct cuts *c, int ways)
{
    float score = -FLT_MAX, lx[4][LANES], l2[4][LANES];

    best->way = -1;
    for (int v = 0; v < c->n_vectors; v += ways) {
        for (int k = 0; k < ways; k++) {
            vf_store(lx[k], c->lx[v + k]);
            vf_store(l2[k], c->l2[v + k]);
        }
        for (int i = 0; i < LANES * ways; i++) {
            float x = lx[i % ways][i / ways], q = l2[i % ways][i / ways];
            if (q > 0 && x * x > score * q) {
                score = x / q * x;
                take_cut(best, c, v + i % ways, i / ways, ways);
            }
        }
    }
}

/* The largest lx^2 / l2, up to rounding, if all l2 are positive. */
INLINE float top_score(const struct cuts *c)
{
    vf top_x[CHAINS], top_q[CHAINS], top = vf_set(0);

    for (int k = 0; k < CHAINS; k++) {
        top_x[k] = vf_set(0);
        top_q[k] = vf_set(1);
    }
    for (int v = 0; v < c->n_vectors; v += CHAINS)
        for (int k = 0; k < CHAINS; k++) {
            vf xx = c->lx[v + k] * c->lx[v + k], q = c->l2[v + k];
            vm better = vf_lt(top_x[k] * q, xx * top_q[k]);
            top_x[k] = vf_sel(better, xx, top_x[k]);
            top_q[k] = vf_sel(better, q, top_q[k]);
        }
    for (int k = 0; k < CHAINS; k++)
        top = vf_max(top, top_x[k] / top_q[k]);
    return -vf_least(vf_neg(top));
}

/* The candidates ahead of `limit`: how many, and one of them. */
INLINE int count_ahead(struct cut *best, const struct cuts *c, float limit, int ways)
{
    int n = 0, at = 0, lane = 0;

    for (int v = 0; v < c->n_vectors; v += CHAINS) {
        vm ahead[CHAINS], any = vf_lt(vf_set(0), vf_set(0));
        for (int k = 0; k < CHAINS; k++) {
            ahead[k] = vf_lt(vf_set(limit) * c->l2[v + k], c->lx[v + k] * c->lx[v + k]);
            any = (vm)(any | ahead[k]);
        }
        for (int k = 0; vm_any(any) && k < CHAINS; k++)
            if (vm_any(ahead[k])) {
                n += __builtin_popcount(vm_bits(ahead[k]));
                at = v + k;
                lane = __builtin_ctz(vm_bits(ahead[k]));
            }
    }
    if (n == 1)
        take_cut(best, c, at, lane, ways);
    return n;
}

/* ggml's choice.  The order of its comparisons matters only between candidates
 * that differ by a rounding error, so one that is ahead of all others by more
 * than that is the answer.  Rounding errors are what they should be if no weight
 * is negative (then l2 is at least total / 64) and nothing is near the denormals. */
INLINE void best_cut(struct cut *best, const struct cuts *c, float total, bool weights_fit, int ways)
{
    float limit = top_score(c) * (1 - 0x1p-19f);
    bool sound = weights_fit && total > 1e-30f && limit * total > 1e-26f && limit * total < 1e30f;

    if (!sound || count_ahead(best, c, limit, ways) != 1)
        best_cut_in_order(best, c, ways);
}

/* Vectors of no candidates to make whole CHAINS. */
INLINE void end_cuts(struct cuts *c, int n_vectors)
{
    for (c->n_vectors = n_vectors; c->n_vectors % CHAINS; c->n_vectors++)
        c->lx[c->n_vectors] = c->l2[c->n_vectors] = vf_set(NAN);
}

/* ---- the cuts of IQ1_S */

struct prefix { /* sums over the first i elements in order; and what a vector reads past the end */
    float x[MAX_CUTS + LANES], w[MAX_CUTS + LANES];
};

INLINE void prefixes(struct prefix *sum, const float *x, const float *w, const uint8_t *order, int n)
{
    sum->x[0] = sum->w[0] = 0;
    for (int j = 0; j < n; j++) {
        sum->x[j + 1] = sum->x[j] + w[order[j]] * x[order[j]];
        sum->w[j + 1] = sum->w[j] + w[order[j]];
    }
    vf_store(sum->x + n + 1, vf_set(NAN));
    vf_store(sum->w + n + 1, vf_set(NAN));
}

/* Level 2's part, by the second cut. */
INLINE void rests(struct prefix *rest, const struct prefix *sum, float top, int n)
{
    for (int j = 0; j < n + 1; j += LANES) {
        vf_store(rest->x + j, (vf_set(sum->x[n]) - vf_load(sum->x + j)) * vf_set(top));
        vf_store(rest->w + j, (vf_set(sum->w[n]) - vf_load(sum->w + j)) * vf_set(top) * vf_set(top));
    }
}

/* Returns the sum of all weights. */
static float score_cuts_s(struct cuts *c, const float *x, const float *w, const uint8_t *order)
{
    enum { N = 32 };
    struct prefix sum, rest[2];
    int v = 0;

    prefixes(&sum, x, w, order, N);
    rests(&rest[0], &sum, moved_levels[0][2], N);
    rests(&rest[1], &sum, moved_levels[1][2], N);
    for (int i = 0; i <= N; i++) {
        const float up = moved_levels[0][0], down = moved_levels[1][0];
        vf low_x[2] = {vf_set(sum.x[i] * up), vf_set(sum.x[i] * down)};
        vf low_w[2] = {vf_set(sum.w[i] * up * up), vf_set(sum.w[i] * down * down)};
        for (int j = i; j <= N; j += LANES, v += 2) {
            vf mid_x = (vf_load(sum.x + j) - vf_set(sum.x[i])) * vf_set(IQ1_DELTA);
            vf mid_w = (vf_load(sum.w + j) - vf_set(sum.w[i])) * vf_set(IQ1_DELTA) * vf_set(IQ1_DELTA);
            c->lx[v] = low_x[0] + mid_x + vf_load(rest[0].x + j);
            c->lx[v + 1] = low_x[1] - mid_x + vf_load(rest[1].x + j);
            c->l2[v] = low_w[0] + mid_w + vf_load(rest[0].w + j);
            c->l2[v + 1] = low_w[1] + mid_w + vf_load(rest[1].w + j);
            c->first[v / 2] = (uint8_t)i;
            c->second[v / 2] = (uint8_t)j;
        }
    }
    end_cuts(c, v);
    return sum.w[N];
}

/* ---- the cuts of IQ1_M: ways ++, +-, -+, -- of the two halves.  ggml sums each
 * half as total x top level - (what the cuts take away). */

struct half_sums {
    vf x[2], w[2]; /* moved up, down */
};

/* An element of the other half adds 0, which changes nothing. */
INLINE void prefixes_of_halves(struct prefix sum[2], const float *x, const float *w, const uint8_t *order)
{
    enum { N = 16 };
    float wx[2][N] = {{0}}, ww[2][N] = {{0}};

    for (int j = 0; j < N; j++) {
        int i = order[j];
        wx[i / 8][j] = w[i] * x[i];
        ww[i / 8][j] = w[i];
    }
    for (int h = 0; h < 2; h++) {
        sum[h].x[0] = sum[h].w[0] = 0;
        for (int j = 0; j < N; j++) {
            sum[h].x[j + 1] = sum[h].x[j] + wx[h][j];
            sum[h].w[j + 1] = sum[h].w[j] + ww[h][j];
        }
        vf_store(sum[h].x + N + 1, vf_set(NAN));
        vf_store(sum[h].w + N + 1, vf_set(NAN));
    }
}

INLINE struct half_sums sums_of_half(const struct prefix *sum, int n, int i, int j)
{
    struct half_sums s;
    vf taken = vf_set(sum->x[i]) + vf_load(sum->x + j), w = vf_load(sum->w + j);

    for (int m = 0; m < 2; m++) {
        const float *l = moved_levels[m];
        s.x[m] = vf_set(sum->x[n] * l[2]) - taken;
        s.w[m] = vf_set(sum->w[n] * l[2] * l[2] + sum->w[i] * (l[0] * l[0] - l[1] * l[1])) +
                 w * vf_set(l[1] * l[1] - l[2] * l[2]);
    }
    return s;
}

static float score_cuts_m(struct cuts *c, const float *x, const float *w, const uint8_t *order)
{
    enum { N = 16 };
    struct prefix sum[2];
    int v = 0;

    prefixes_of_halves(sum, x, w, order);
    for (int i = 0; i <= N; i++)
        for (int j = i; j <= N; j += LANES) {
            struct half_sums a = sums_of_half(&sum[0], N, i, j), b = sums_of_half(&sum[1], N, i, j);
            c->first[v / 4] = (uint8_t)i;
            c->second[v / 4] = (uint8_t)j;
            for (int k = 0; k < 4; k++, v++) {
                c->lx[v] = a.x[k / 2] + b.x[k % 2];
                c->l2[v] = a.w[k / 2] + b.w[k % 2];
            }
        }
    end_cuts(c, v);
    return sum[0].w[N] + sum[1].w[N];
}

/* ---- one group */

struct iq1_spec {
    int n; /* elements of a group */
    int ways;
    float empty_below;
};

struct iq1_choice {
    float scale[16];
    uint8_t way[16];
    uint16_t at[32];
};

/* 0: eight elements' levels are moved up, 1: down. */
INLINE int move_of(int way, int eight, struct iq1_spec s)
{
    return s.ways == 2 ? way : eight == 0 ? way / 2 : way % 2;
}

INLINE void solve_iq1(float *scale, const unsigned *point, int way, const float *x, const float *w, struct iq1_spec s)
{
    float lx = 0, l2 = 0;

    for (int i = 0; i < s.n; i++) {
        float l = moved_levels[move_of(way, i / 8, s)][point[i / 8] >> i % 8 * 2 & 3];
        lx += w[i] * l * x[i];
        l2 += w[i] * l * l;
    }
    if (lx > 0 && l2 > 0)
        *scale = lx / l2;
}

INLINE unsigned iq1_near_point(const float *x, const float *w, float scale, int move, struct lmi_near near,
                               const struct lmi_grid *grid)
{
    float xs[COSTS], ws[COSTS], costs[COSTS];

    spread(xs, x, EIGHT_OF_THREE);
    spread(ws, w, EIGHT_OF_THREE);
    fill_costs(costs, xs, ws, moved_levels[move], scale);
    return best_point(grid->lists + LMI_NEAR_RUN * near.at, near.n, costs, EIGHT_OF_THREE);
}

INLINE int iq1_number(unsigned point)
{
    int number = 0;

    for (int i = 7; i >= 0; i--)
        number = 3 * number + (int)(point >> 2 * i & 3);
    return number;
}

/* The points of the group's eights; false when all are in the book. */
INLINE bool replace_points(unsigned *point, uint16_t *at, const float *x, const float *w, float scale, int way,
                           const struct lmi_grid *grid, struct iq1_spec s)
{
    bool replaced = false;

    for (int k = 0; k < s.n / 8; k++) {
        struct lmi_near near = grid->near[iq1_number(point[k])];
        if (near.n > 0) {
            point[k] = iq1_near_point(x + 8 * k, w + 8 * k, scale, move_of(way, k, s), near, grid);
            near = grid->near[iq1_number(point[k])];
            replaced = true;
        }
        at[k] = near.at;
    }
    return replaced;
}

/* Packed points of the levels that a cut gives; turned: 2 - level. */
INLINE void points_of_cut(unsigned *point, const struct cut *cut, const uint8_t *order, bool turned, struct iq1_spec s)
{
    for (int j = 0; j < s.n; j++) {
        unsigned level = j < cut->first ? 0 : j < cut->second ? 1 : 2;
        point[order[j] / 8] |= (turned ? 2 - level : level) << order[j] % 8 * 2;
    }
}

INLINE bool none_negative(const float *w, int n)
{
    uint32_t negative = 0;

    for (int i = 0; i < n; i += LANES)
        negative |= vi_signs((vi)vf_load(w + i));
    return negative == 0;
}

INLINE void fit_iq1_group(struct iq1_choice *c, int g, const float *x, const float *w, const struct lmi_grid *grid,
                          struct iq1_spec s)
{
    struct cuts cuts;
    struct cut cut;
    unsigned point[4] = {0};
    uint8_t order[32] = {0};
    float max = 0;

    for (int i = 0; i < s.n; i++)
        max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
    if (!(max >= s.empty_below))
        return;
    sort_order(order, x, s.n);
    float total = s.n == 32 ? score_cuts_s(&cuts, x, w, order) : score_cuts_m(&cuts, x, w, order);
    best_cut(&cut, &cuts, total, none_negative(w, s.n), s.ways);
    if (cut.way < 0)
        return;
    bool turned = cut.scale < 0;
    float scale = turned ? -cut.scale : cut.scale;
    int way = turned ? s.ways - 1 - cut.way : cut.way;
    points_of_cut(point, &cut, order, turned, s);
    if (replace_points(point, c->at + s.n / 8 * g, x, w, scale, way, grid, s))
        solve_iq1(&scale, point, way, x, w, s);
    c->scale[g] = scale;
    c->way[g] = (uint8_t)way;
}

INLINE void fit_iq1_block(struct iq1_choice *c, const float *x, const float *w, const struct lmi_grid *grid,
                          struct iq1_spec s)
{
    memset(c, 0, sizeof *c);
    for (int g = 0; g < LMI_QK_K / s.n; g++)
        fit_iq1_group(c, g, x + s.n * g, w + s.n * g, grid, s);
}

/* ---- packing */

INLINE float code_iq1_scales(uint8_t *code, const float *scale, int n)
{
    float max = 0;

    for (int g = 0; g < n; g++)
        max = scale[g] > max ? scale[g] : max;
    float d = max / 15, id = 1 / d;
    for (int g = 0; g < n; g++) {
        int32_t l = nearest1(0.5f * (id * scale[g] - 1));
        code[g] = (uint8_t)(max == 0 || l < 0 ? 0 : l < 7 ? l : 7);
    }
    return d;
}

INLINE void pack_iq1_s(struct lmi_iq1_s *b, const struct iq1_choice *c)
{
    uint8_t code[8];
    float d = code_iq1_scales(code, c->scale, 8);

    memset(b, 0, sizeof *b);
    lmi_store16(b->d, lmi_f32_to_f16(d * 1.125f));
    for (int g = 0; g < 8; g++) {
        unsigned high = 0;
        for (int k = 0; k < 4; k++) {
            b->q[4 * g + k] = (uint8_t)c->at[4 * g + k];
            high |= (unsigned)c->at[4 * g + k] >> 8 << 3 * k;
        }
        if (d > 0)
            high |= (unsigned)(code[g] | c->way[g] << 3) << 12;
        lmi_store16(b->qh[g], (uint16_t)high);
    }
}

/* The block's d once more, from all its elements. */
INLINE float solve_iq1_block(float d, const uint8_t *code, const struct iq1_choice *c, const float *x, const float *w,
                             struct iq1_spec s)
{
    float lx = 0, l2 = 0;

    for (int i = 0; i < LMI_QK_K; i++) {
        int g = i / 16;
        float l = moved_levels[move_of(c->way[g], i / 8 % 2, s)][lmi_iq1_points[c->at[i / 8]] >> i % 8 * 2 & 3];
        float q = l * (float)(2 * code[g] + 1);
        lx += w[i] * q * x[i];
        l2 += w[i] * q * q;
    }
    return l2 > 0 ? lx / l2 : d;
}

INLINE void pack_iq1_m(struct lmi_iq1_m *b, const struct iq1_choice *c, const float *x, const float *w,
                       struct iq1_spec s)
{
    static const uint8_t moves[4] = {0x00, 0x80, 0x08, 0x88};
    uint8_t code[16];
    float d = code_iq1_scales(code, c->scale, 16);

    memset(b, 0, sizeof *b);
    for (int g = 0; g < 16; g++) {
        b->q[2 * g] = (uint8_t)c->at[2 * g];
        b->q[2 * g + 1] = (uint8_t)c->at[2 * g + 1];
        b->qh[g] = (uint8_t)(c->at[2 * g] >> 8 | c->at[2 * g + 1] >> 8 << 4);
    }
    if (d == 0)
        return;
    uint16_t d16 = lmi_f32_to_f16(solve_iq1_block(d, code, c, x, w, s) * 1.1125f);
    for (int g = 0; g < 16; g++)
        b->qh[g] |= moves[c->way[g]];
    for (int k = 0; k < 4; k++) {
        unsigned scales = (unsigned)(d16 >> 4 * k & 15) << 12;
        for (int j = 0; j < 4; j++)
            scales |= (unsigned)code[4 * k + j] << 3 * j;
        lmi_store16(b->scales[k], (uint16_t)scales);
    }
}

/* ---- rows */

#define IQ1_ENCODE(t, pack, ...) \
    static void t##_encode(void *dst, const float *x, const float *weights, size_t blocks_per_row, size_t n) \
    { \
        const struct iq1_spec s = {__VA_ARGS__}; \
        const struct lmi_grid *grid = lmi_grid(LMI_GRID_IQ1); \
        struct lmi_##t *to = dst; \
        struct iq1_choice c; \
        float sums[LANES], w[LMI_QK_K]; \
        for (size_t i = 0; i < n; i++, x += LMI_QK_K) { \
            if (i % LANES == 0) \
                sums_of_squares(sums, x, n - i < LANES ? n - i : LANES); \
            if (weights) \
                weigh(w, x, weights + i % blocks_per_row * LMI_QK_K, 2 * sums[i % LANES] / LMI_QK_K); \
            else \
                weigh_squares(w, x, 0); \
            fit_iq1_block(&c, x, w, grid, s); \
            pack; \
        } \
    }

IQ1_ENCODE(iq1_s, pack_iq1_s(to++, &c), .n = 32, .ways = 2, .empty_below = 1e-12f)
IQ1_ENCODE(iq1_m, pack_iq1_m(to++, &c, x, w, s), .n = 16, .ways = 4, .empty_below = 1e-7f)

#endif
