/* Kernels in plain C, compiled once for each instruction set by the file that
 * includes them; the compiler finds the vectors. */
#ifndef GPU_CPU_GENERIC_H
#define GPU_CPU_GENERIC_H

#include <math.h>
#include "gpu/cpu.h"

/* exp to about 2e-7 relative, 0 below -87: Cody-Waite reduction by ln 2, then
 * the series of e^r to r^7, |r| <= ln 2 / 2. */
static inline float lmi_exp(float x)
{
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float z = x * 1.44269504f + 12582912.0f; /* adding 1.5 * 2^23 rounds to an integer */
    uint32_t bits;
    memcpy(&bits, &z, 4);
    float n = z - 12582912.0f;
    float r = x - n * 0.693145752f - n * 1.42860677e-6f;
    float p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    uint32_t e = (bits + 127) << 23; /* the low bits of z hold n; the rest is shifted out */
    float two_n;
    memcpy(&two_n, &e, 4);
    return p * two_n;
}

static inline double lmi_exp_row(float *s, size_t n, float max)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        s[i] = lmi_exp(s[i] - max);
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++)
        sum += (double)s[i];
    return sum;
}

static inline void lmi_silu(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = x[i] / (1.0f + lmi_exp(-x[i]));
}

/* The tanh form, through 1/2 (1 + tanh z) = 1 / (1 + exp(-2 z)). */
static inline void lmi_gelu(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float z = 1.59576912f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
        x[i] = x[i] / (1.0f + lmi_exp(-z));
    }
}

static inline float lmi_tree_sum(const float v[16])
{
    float a[16];

    memcpy(a, v, sizeof a);
    for (unsigned half = 8; half > 0; half /= 2)
        for (unsigned i = 0; i < half; i++)
            a[i] += a[i + half];
    return a[0];
}

/* ---- activations to int8 */

static inline void lmi_quantize_group(struct lmi_q8 *b, unsigned g, const float *x, unsigned n)
{
    float max = 0, scale;
    int sums[2] = {0, 0};

    for (unsigned i = 0; i < n; i++)
        max = fmaxf(max, fabsf(x[i]));
    scale = max > 0 ? 127.0f / max : 0;
    for (unsigned i = 0; i < n; i++) {
        int v = (int)rintf(x[i] * scale);
        b->q[32 * g + i] = (int8_t)v;
        sums[i / 16] += v;
    }
    b->d[g] = max / 127.0f;
    b->sum[g] = sums[0] + sums[1];
    b->half[g] = sums[0];
    b->half[8 + g] = sums[1];
}

static inline void lmi_quantize_c(struct lmi_q8 *q, const float *x, size_t k)
{
    for (size_t i = 0; i < k; i += LMI_SUPER, q++) {
        if (k - i < LMI_SUPER)
            memset(q, 0, sizeof *q);
        for (unsigned g = 0; g < 8 && i + 32 * g < k; g++)
            lmi_quantize_group(q, g, x + i + 32 * g, k - i - 32 * g < 32 ? (unsigned)(k - i - 32 * g) : 32);
    }
}

static inline size_t lmi_n_super(size_t k)
{
    return (k + LMI_SUPER - 1) / LMI_SUPER;
}
#endif
