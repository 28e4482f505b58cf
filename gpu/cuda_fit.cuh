/* The searches for scales of the quantizers (libmodel/dtype/fit.h, weighted.h),
 * a group a thread: the same operations in the same order on single precision
 * numbers, never contracted, so that bytes are the host's.  Functions that a
 * host compiler can run too. */
#ifndef GPU_CUDA_FIT_CUH
#define GPU_CUDA_FIT_CUH

#include <math.h>

#include "gpu/cuda_scalar.cuh"

#ifdef __CUDA_ARCH__
#define LMC_UNROLL _Pragma("unroll")
#else
#define LMC_UNROLL
#endif

#define LMC_GROUP_EPS 1e-15f /* groups with no |x| above count as zero */

/* A group's fit: w = scale * code - min. Where the final scale rounds to 0 the codes
 * of the search stay: nearest(iscale * (x - base)), all 0 if iscale is 0. */
struct lmc_fit {
    float scale, min, iscale, base, sum_w;
};

/* Nearest integer, ties to even, as ggml has it: beyond 2^22 it wraps. */
LMC_HD int lmc_nearest(float v)
{
    return (int)(lmc_f32_bits(v + 12582912.0f) & 0x7fffff) - 0x400000;
}
LMC_HD int lmc_nearest_in(float v, int lo, int hi)
{
    int q = lmc_nearest(v);
    q = q < hi ? q : hi;
    return q > lo ? q : lo;
}
/* Out of range and NaN give INT_MIN, as x86 has it. */
LMC_HD int lmc_trunc(float v)
{
    return v < 2147483648.0f && v > -2147483648.0f ? (int)v : INT32_MIN;
}
LMC_HD uint32_t lmc_to_f16(float f)
{
    uint32_t u = lmc_f32_bits(f), a = u & 0x7fffffff;
    /* 0.5's ulp is 2^-24, the f16 subnormals' unit: the sum rounds for us. */
    uint32_t subnormal = lmc_f32_bits(lmc_bits_f32(a < 0x38800000 ? a : 0) + 0.5f) - 0x3f000000;
    uint32_t normal = (a - 0x38000000 + 0xfff + (a >> 13 & 1)) >> 13, nan = 0x7e00 | (a >> 13 & 0x3ff);
    uint32_t r = a < 0x38800000 ? subnormal : a < 0x47800000 ? normal : a <= 0x7f800000 ? 0x7c00 : nan;
    return (u >> 16 & 0x8000) | r;
}

struct lmc_affine_spec {
    int nmax;
    float rmin, rdelta;
    int n_steps;
    bool absolute; /* minimise w |error| instead of w error^2 */
};

template <int N>
LMC_HD float lmc_affine_error(const float (&x)[N], const float (&w)[N], const lmc_affine_spec &spec, float iscale, float base,
                              float scale, float min)
{
    float sum = 0;
    LMC_UNROLL
    for (int i = 0; i < N; i++) {
        float code = (float)lmc_nearest_in(iscale * (x[i] - base), 0, spec.nmax), diff = scale * code + min - x[i];
        sum += w[i] * (spec.absolute ? fabsf(diff) : diff * diff);
    }
    return sum;
}

/* ggml's qkx2 and qkx3: n_steps + 1 inverse scales around nmax / (max - min), each
 * rounding solved for scale and min; an accepted min is the base of later ones. */
template <int N>
LMC_HD void lmc_fit_affine(lmc_fit *f, const float (&x)[N], const float (&w)[N], const lmc_affine_spec &spec)
{
    float min = x[0], max = x[0], sum_w = w[0], sum_x = w[0] * x[0];

    LMC_UNROLL
    for (int i = 1; i < N; i++) {
        min = x[i] < min ? x[i] : min;
        max = x[i] > max ? x[i] : max;
        sum_w += w[i];
        sum_x += w[i] * x[i];
    }
    min = 0 < min ? 0 : min;
    f->sum_w = sum_w;
    f->base = min;
    if (max == min) {
        f->scale = f->iscale = 0;
        f->min = -min;
        return;
    }
    f->iscale = (float)spec.nmax / (max - min);
    f->scale = 1 / f->iscale;
    float best = lmc_affine_error(x, w, spec, f->iscale, min, f->scale, min);
    for (int step = 0; step <= spec.n_steps; step++) {
        float iscale = (spec.rmin + spec.rdelta * (float)step + (float)spec.nmax) / (max - min);
        float sum_l = 0, sum_l2 = 0, sum_xl = 0;
        LMC_UNROLL
        for (int i = 0; i < N; i++) {
            float l = (float)lmc_nearest_in(iscale * (x[i] - min), 0, spec.nmax), wl = w[i] * l;
            sum_l += wl;
            sum_l2 += wl * l;
            sum_xl += wl * x[i];
        }
        float det = sum_w * sum_l2 - sum_l * sum_l;
        if (!(det > 0))
            continue;
        float scale = (sum_w * sum_xl - sum_x * sum_l) / det, low = (sum_l2 * sum_x - sum_l * sum_xl) / det;
        if (low > 0) {
            scale = sum_xl / sum_l2;
            low = 0;
        }
        float error = lmc_affine_error(x, w, spec, iscale, min, scale, low);
        if (error < best) {
            f->iscale = iscale;
            f->base = min;
            f->scale = scale;
            best = error;
            min = low;
        }
    }
    f->min = -min;
}

/* The value of largest magnitude, the first if several. */
LMC_HD float lmc_largest(const float *x, int n, float *amax)
{
    float max = 0;

    *amax = 0;
    for (int i = 0; i < n; i++)
        if (fabsf(x[i]) > *amax) {
            *amax = fabsf(x[i]);
            max = x[i];
        }
    return max;
}

/* ggml's qx: codes -nmax .. nmax - 1, 19 inverse scales around -nmax / largest.
 * Leaves min and sum_w alone. */
LMC_HD void lmc_fit_symmetric(lmc_fit *f, const float *x, const float *w, int n, int nmax)
{
    float amax, max = lmc_largest(x, n, &amax), best = 0;

    f->scale = f->iscale = f->base = 0;
    if (amax < LMC_GROUP_EPS)
        return;
    for (int k = 0; k < 19; k++) {
        int step = k == 0 ? 0 : k <= 9 ? k - 10 : k - 9; /* 0, then -9 .. -1, 1 .. 9 */
        float iscale = -((float)nmax + 0.1f * (float)step) / max, sum_lx = 0, sum_l2 = 0;
        for (int i = 0; i < n; i++) {
            float l = (float)lmc_nearest_in(iscale * x[i], -nmax, nmax - 1);
            sum_lx += w[i] * x[i] * l;
            sum_l2 += w[i] * l * l;
        }
        float solved = sum_lx / sum_l2;
        if (k == 0) {
            f->scale = sum_l2 == 0 ? 0 : solved;
            best = f->scale * sum_lx;
            f->iscale = iscale;
        } else if (sum_l2 > 0 && best * sum_l2 < sum_lx * sum_lx) {
            f->scale = solved;
            best = solved * sum_lx;
            f->iscale = iscale;
        }
    }
}

/* ggml's q3: coordinate descent on the codes -4 .. 3, kept in l. */
LMC_HD void lmc_fit_q3(lmc_fit *f, const float (&x)[16], float (&l)[16])
{
    float amax, max = lmc_largest(x, 16, &amax), iscale = -4.0f / max, sum_lx = 0, sum_l2 = 0;
    bool moved = true;

    f->scale = f->iscale = f->base = 0;
    for (int i = 0; i < 16; i++) {
        float w = x[i] * x[i];
        l[i] = (float)lmc_nearest_in(iscale * x[i], -4, 3);
        sum_lx += w * x[i] * l[i];
        sum_l2 += w * l[i] * l[i];
    }
    if (amax < LMC_GROUP_EPS)
        return;
    for (int pass = 0; pass < 5 && moved; pass++) {
        moved = false;
        for (int i = 0; i < 16; i++) {
            float w = x[i] * x[i], lx = sum_lx - w * x[i] * l[i], l2 = sum_l2 - w * l[i] * l[i];
            float next = (float)lmc_nearest_in(x[i] * l2 / lx, -4, 3);
            if (!(lx > 0) || next == l[i])
                continue;
            lx += w * x[i] * next;
            l2 += w * next * next;
            if (l2 > 0 && sum_lx * sum_lx * l2 < lx * lx * sum_l2) {
                l[i] = next;
                sum_lx = lx;
                sum_l2 = l2;
                moved = true;
            }
        }
    }
    f->scale = sum_l2 > 0 ? sum_lx / sum_l2 : 0;
    f->iscale = 1;
}

/* ---- ggml's qp: values >= 0 as codes 0 .. nmax of one scale */

LMC_HD float lmc_positive_error(const float *x, const float *w, int n, int nmax, float iscale, bool capped)
{
    float scale = 1 / iscale, sum = 0;

    for (int i = 0; i < n; i++) {
        int l = lmc_nearest(iscale * x[i]);
        float diff = x[i] - scale * (float)(capped ? (l < nmax ? l : nmax) : l & 255);
        sum += w[i] * diff * diff;
    }
    return sum;
}

/* The best of nine inverse scales around nmax / max. */
LMC_HD float lmc_positive_scan(const float *x, const float *w, int n, int nmax, float max)
{
    float iscale = (float)nmax / max, best = lmc_positive_error(x, w, n, nmax, iscale, false);

    for (int step = -4; step <= 4; step++) {
        if (step == 0)
            continue;
        float other = (0.1f * (float)step + (float)nmax) / max;
        float error = lmc_positive_error(x, w, n, nmax, other, true);
        if (error < best) {
            best = error;
            iscale = other;
        }
    }
    return iscale;
}

/* The scale; codes are bytes. n <= 16. */
LMC_HD float lmc_fit_positive(const float *x, const float *w, int n, int nmax, uint8_t *code)
{
    float max = 0, sum_lx = 0, sum_l2 = 0;
    bool moved = true;

    for (int i = 0; i < n; i++)
        max = max > x[i] ? max : x[i];
    if (max < LMC_GROUP_EPS) {
        for (int i = 0; i < n; i++)
            code[i] = 0;
        return 0;
    }
    float iscale = lmc_positive_scan(x, w, n, nmax, max);
    for (int i = 0; i < n; i++) {
        int l = lmc_nearest(iscale * x[i]);
        l = l < nmax ? l : nmax;
        code[i] = (uint8_t)l;
        sum_lx += w[i] * x[i] * (float)l;
        sum_l2 += w[i] * (float)l * (float)l;
    }
    for (int pass = 0; pass < 5 && moved; pass++) {
        moved = false;
        for (int i = 0; i < n; i++) {
            float l = (float)code[i], wx = w[i] * x[i], lx = sum_lx - wx * l, l2 = sum_l2 - w[i] * l * l;
            int next = lmc_nearest(x[i] * l2 / lx);
            next = next < nmax ? next : nmax;
            if (!(lx > 0 && l2 > 0) || (float)next == l)
                continue;
            lx += wx * (float)next;
            l2 += w[i] * (float)next * (float)next;
            if (sum_lx * sum_lx * l2 < lx * lx * sum_l2) {
                code[i] = (uint8_t)next;
                sum_lx = lx;
                sum_l2 = l2;
                moved = true;
            }
        }
    }
    return sum_l2 > 0 ? sum_lx / sum_l2 : 0;
}

/* ---- codes */

/* By the search, where the scale came to 0. */
LMC_HD int lmc_searched(float x, const lmc_fit &f, int lo, int hi)
{
    return f.iscale == 0 ? 0 : lmc_nearest_in((x - f.base) * f.iscale, lo, hi) - lo;
}

#endif
