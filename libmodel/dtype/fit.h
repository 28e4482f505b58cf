/* The scale searches of ggml's K-quants, LANES groups at a time, one group a
 * lane.  Each lane does the reference's operations in the reference's order
 * (no reassociation, no contraction), so the results are bit-identical to
 * ggml's one-group-at-a-time code; its branches are masks here.
 * x[i] holds element i of every group. */
#ifndef LIBMODEL_DTYPE_FIT_H
#define LIBMODEL_DTYPE_FIT_H

#include "libmodel/dtype/lanes.h"

enum { FIT_GROUPS = 32 };
#define GROUP_EPS 1e-15f /* groups with no |x| above count as zero */

/* Fits of FIT_GROUPS groups.  A group whose final scale rounds to 0 keeps the
 * codes of the search: nearest(iscale * (x - base)), or the stored ones (Q3_K),
 * and in both cases all 0 if iscale is 0. */
struct fits {
    float scale[FIT_GROUPS];
    float min[FIT_GROUPS]; /* w = scale * code - min, min >= 0 */
    float iscale[FIT_GROUPS];
    float base[FIT_GROUPS];
    float sum_w[FIT_GROUPS]; /* of the weights; not set by fit_symmetric and fit_q3 */
    float code[16][FIT_GROUPS]; /* Q3_K only: element, group; -4 .. 3 */
};

struct affine_spec {
    int n, nmax; /* group size, largest code */
    float rmin, rdelta;
    int n_steps;
    bool absolute; /* minimise w |error| instead of w error^2 */
};

/* A lane's additions form long chains, so STREAMS vectors of groups advance
 * together. */
enum { STREAMS = 2 };

struct affine_state {
    vf x[32], w[32], code[32];
    vf max, sum_w, sum_x;
    vf scale, min, best;        /* the best fit so far and its error */
    vf used_iscale, used_base;  /* what its codes were made with */
    vf iscale, new_scale, new_min; /* the candidate */
    vm flat, solved;
};

INLINE vf affine_code(const struct affine_state *s, vf iscale, int i, int nmax)
{
    return vf_of_vi(nearest_in(iscale * (s->x[i] - s->min), 0, nmax));
}

INLINE void affine_errors(vf *sum, const struct affine_state *s, struct affine_spec spec)
{
    for (int k = 0; k < STREAMS; k++)
        sum[k] = vf_set(0);
    for (int i = 0; i < spec.n; i++)
        for (int k = 0; k < STREAMS; k++) {
            vf diff = s[k].new_scale * s[k].code[i] + s[k].new_min - s[k].x[i];
            sum[k] += s[k].w[i] * (spec.absolute ? vf_abs(diff) : diff * diff);
        }
}

INLINE void affine_start(struct affine_state *s, struct affine_spec spec)
{
    s->min = s->max = s->x[0];
    s->sum_w = s->w[0];
    s->sum_x = s->w[0] * s->x[0];
    for (int i = 1; i < spec.n; i++) {
        s->min = vf_min(s->x[i], s->min);
        s->max = vf_max(s->x[i], s->max);
        s->sum_w += s->w[i];
        s->sum_x += s->w[i] * s->x[i];
    }
    s->min = vf_min(vf_set(0), s->min);
    s->flat = vf_eq(s->max, s->min);
    s->used_iscale = vf_set((float)spec.nmax) / (s->max - s->min);
    s->used_base = s->min;
    s->scale = s->new_scale = vf_set(1) / s->used_iscale;
    s->new_min = s->min;
    for (int i = 0; i < spec.n; i++)
        s->code[i] = affine_code(s, s->used_iscale, i, spec.nmax);
}

/* Rounds with the inverse scale of this step and solves for scale and min. */
INLINE void affine_solve(struct affine_state *s, int step, struct affine_spec spec)
{
    const vf zero = vf_set(0);
    vf iscale = vf_set(spec.rmin + spec.rdelta * (float)step + (float)spec.nmax) / (s->max - s->min);
    vf sum_l = zero, sum_l2 = zero, sum_xl = zero;

    for (int i = 0; i < spec.n; i++) {
        vf l = affine_code(s, iscale, i, spec.nmax), wl = s->w[i] * l;
        sum_l += wl;
        sum_l2 += wl * l;
        sum_xl += wl * s->x[i];
        s->code[i] = l;
    }
    vf det = s->sum_w * sum_l2 - sum_l * sum_l;
    vf new_scale = (s->sum_w * sum_xl - s->sum_x * sum_l) / det;
    vf new_min = (sum_l2 * s->sum_x - sum_l * sum_xl) / det;
    vm above = vf_lt(zero, new_min);
    s->new_scale = vf_sel(above, sum_xl / sum_l2, new_scale);
    s->new_min = vf_sel(above, zero, new_min);
    s->solved = vf_lt(zero, det);
    s->iscale = iscale;
}

INLINE void affine_keep_better(struct affine_state *s, vf error)
{
    vm better = vm_andnot(vm_and(s->solved, vf_lt(error, s->best)), s->flat);

    s->used_iscale = vf_sel(better, s->iscale, s->used_iscale);
    s->used_base = vf_sel(better, s->min, s->used_base);
    s->best = vf_sel(better, error, s->best);
    s->scale = vf_sel(better, s->new_scale, s->scale);
    s->min = vf_sel(better, s->new_min, s->min);
}

/* ggml's qkx2: try n_steps + 1 inverse scales around nmax / (max - min), solve
 * each rounding for scale and min by weighted least squares, keep the best.  An
 * accepted min is the base of the later candidates. */
INLINE void fit_affine(struct affine_state *s, struct affine_spec spec)
{
    vf error[STREAMS];

    for (int k = 0; k < STREAMS; k++)
        affine_start(&s[k], spec);
    affine_errors(error, s, spec);
    for (int k = 0; k < STREAMS; k++)
        s[k].best = error[k];
    for (int step = 0; step <= spec.n_steps; step++) {
        for (int k = 0; k < STREAMS; k++)
            affine_solve(&s[k], step, spec);
        affine_errors(error, s, spec);
        for (int k = 0; k < STREAMS; k++)
            affine_keep_better(&s[k], error[k]);
    }
}

INLINE void store_affine(struct fits *out, int first, const struct affine_state *s)
{
    const vf zero = vf_set(0);

    vf_store(out->scale + first, vf_sel(s->flat, zero, s->scale));
    vf_store(out->min + first, vf_neg(s->min));
    vf_store(out->iscale + first, vf_sel(s->flat, zero, s->used_iscale));
    vf_store(out->base + first, s->used_base);
    vf_store(out->sum_w + first, s->sum_w);
}

/* The signed value of largest magnitude, the first if several; its magnitude
 * in *amax. */
INLINE vf largest(const vf *x, int n, vf *amax)
{
    vf max = vf_set(0);

    *amax = max;
    for (int i = 0; i < n; i++) {
        vf a = vf_abs(x[i]);
        max = vf_sel(vf_lt(*amax, a), x[i], max);
        *amax = vf_max(a, *amax);
    }
    return max;
}

/* ggml's qx: codes -nmax .. nmax - 1, 19 inverse scales around -nmax / largest.
 * Leaves min alone. */
INLINE void fit_symmetric(struct fits *out, int first, const vf *x, const vf *w, int n, int nmax)
{
    const vf zero = vf_set(0);
    vf amax, max = largest(x, n, &amax);
    vm empty = vf_lt(amax, vf_set(GROUP_EPS));
    vf wx[32], scale = zero, best = zero, used = zero;

    for (int i = 0; i < n; i++)
        wx[i] = w[i] * x[i];
    for (int k = 0; k < 19; k++) {
        int step = k == 0 ? 0 : k <= 9 ? k - 10 : k - 9; /* 0, then -9 .. -1, 1 .. 9 */
        vf iscale = vf_set(-((float)nmax + 0.1f * (float)step)) / max;
        vf sum_lx = zero, sum_l2 = zero;
        for (int i = 0; i < n; i++) {
            vf l = vf_of_vi(nearest_in(iscale * x[i], -nmax, nmax - 1));
            sum_lx += wx[i] * l;
            sum_l2 += w[i] * l * l;
        }
        vf solved = sum_lx / sum_l2;
        if (k == 0) {
            scale = vf_sel(vf_eq(sum_l2, zero), zero, solved);
            best = scale * sum_lx;
            used = iscale;
            continue;
        }
        vm better = vm_and(vf_lt(zero, sum_l2), vf_lt(best * sum_l2, sum_lx * sum_lx));
        scale = vf_sel(better, solved, scale);
        best = vf_sel(better, solved * sum_lx, best);
        used = vf_sel(better, iscale, used);
    }
    vf_store(out->scale + first, vf_sel(empty, zero, scale));
    vf_store(out->iscale + first, vf_sel(empty, zero, used));
}

/* ---- ggml's q3: coordinate descent on 3-bit codes. */

enum { Q3_MAX = 4 };

struct q3_state {
    vf x[16], w[16], wx[16], l[16];
    vf sum_lx, sum_l2;
    vm empty;
};

INLINE void q3_start(struct q3_state *s)
{
    vf amax, max = largest(s->x, 16, &amax), iscale = vf_set(-Q3_MAX) / max;

    s->empty = vf_lt(amax, vf_set(GROUP_EPS));
    s->sum_lx = s->sum_l2 = vf_set(0);
    for (int i = 0; i < 16; i++) {
        vf l = vf_of_vi(nearest_in(iscale * s->x[i], -Q3_MAX, Q3_MAX - 1));
        s->w[i] = s->x[i] * s->x[i];
        s->wx[i] = s->w[i] * s->x[i];
        s->sum_lx += s->wx[i] * l;
        s->sum_l2 += s->w[i] * l * l;
        s->l[i] = l;
    }
}

/* Moves element i of every group to its best code; the lanes that changed. */
INLINE vm q3_move(struct q3_state *s, int i)
{
    const vf zero = vf_set(0);
    vf l = s->l[i];
    vf lx = s->sum_lx - s->wx[i] * l;
    vf l2 = s->sum_l2 - s->w[i] * l * l;
    vf next = vf_of_vi(nearest_in(s->x[i] * l2 / lx, -Q3_MAX, Q3_MAX - 1));
    vm move = vm_andnot(vf_lt(zero, lx), vf_eq(next, l));

    lx += s->wx[i] * next;
    l2 += s->w[i] * next * next;
    move = vm_and(move, vf_lt(zero, l2));
    move = vm_and(move, vf_lt(s->sum_lx * s->sum_lx * l2, lx * lx * s->sum_l2));
    s->l[i] = vf_sel(move, next, l);
    s->sum_lx = vf_sel(move, lx, s->sum_lx);
    s->sum_l2 = vf_sel(move, l2, s->sum_l2);
    return move;
}

INLINE void fit_q3(struct q3_state s[STREAMS])
{
    for (int k = 0; k < STREAMS; k++)
        q3_start(&s[k]);
    /* A group at rest stays at rest, so lanes need not stop one by one. */
    for (int pass = 0; pass < 5; pass++) {
        vm moved = vf_lt(vf_set(0), vf_set(0));
        for (int i = 0; i < 16; i++)
            for (int k = 0; k < STREAMS; k++)
                moved = (vm)(moved | q3_move(&s[k], i));
        if (!vm_any(moved))
            break;
    }
}

INLINE void store_q3(struct fits *out, int first, const struct q3_state *s)
{
    const vf zero = vf_set(0);
    vf scale = vf_sel(vf_lt(zero, s->sum_l2), s->sum_lx / s->sum_l2, zero);

    vf_store(out->scale + first, vf_sel(s->empty, zero, scale));
    vf_store(out->iscale + first, vf_sel(s->empty, zero, vf_set(1)));
    for (int i = 0; i < 16; i++)
        vf_store(out->code[i] + first, s->l[i]);
}

#endif
