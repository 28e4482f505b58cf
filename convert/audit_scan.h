/* The inner loops of the statistics, once per instruction set: this file is the
 * body, included by audit_scan_*.c, which define LMC_SCAN as the name. Sums run
 * in 32 lanes whatever the vector width, so the numbers do not depend on the
 * machine. */
#include "convert/audit_parts.h"

static void count(struct lmc_scan *s, const uint32_t *u, size_t n)
{
    uint32_t nan = 0, inf = 0, zero = 0, sub = 0, over = 0, flush = 0, low = 0;

    for (size_t i = 0; i < n; i++) {
        uint32_t a = u[i] & 0x7fffffff;
        nan += a > 0x7f800000;
        inf += a == 0x7f800000;
        zero += a == 0;
        sub += a - 1 < 0x7fffff;
        over += a - 0x477ff000 < 0x7f800000 - 0x477ff000; /* from 65520 on */
        flush += a - 1 < 0x33000000;                      /* to 2^-25 */
        low |= u[i];
    }
    s->n_nan += nan;
    s->n_inf += inf;
    s->n_zero += zero;
    s->n_sub += sub;
    s->n_over += over;
    s->n_flush += flush;
    s->low |= low;
}

/* As integers that order like the floats. */
static void range(struct lmc_scan *s, const uint32_t *u, size_t n)
{
    int32_t min = s->min, max = s->max;
    uint32_t small = s->small;

    for (size_t i = 0; i < n; i++) {
        int32_t v = (int32_t)u[i];
        uint32_t a = u[i] & 0x7fffffff;
        v ^= (v >> 31) & 0x7fffffff;
        min = v < min ? v : min;
        max = v > max ? v : max;
        a = a == 0 ? 0x7f800000 : a;
        small = a < small ? a : small;
    }
    s->min = min;
    s->max = max;
    s->small = small;
}

enum { LANES = 32 };

static void sums(struct lmc_scan *s, const float *x, size_t n)
{
    float sum[LANES] = {0}, sum2[LANES] = {0};
    size_t i = 0;

    for (; i + LANES <= n; i += LANES)
        for (size_t l = 0; l < LANES; l++) {
            sum[l] += x[i + l];
            sum2[l] += x[i + l] * x[i + l];
        }
    for (size_t l = 0; i < n; i++, l++) {
        sum[l] += x[i];
        sum2[l] += x[i] * x[i];
    }
    for (size_t l = 0; l < LANES; l++) {
        s->sum += (double)sum[l];
        s->sum2 += (double)sum2[l];
    }
}

static void squares(float *cols, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        cols[i] += x[i] * x[i];
}

static void hash(uint32_t *state, const uint32_t *u, size_t n)
{
    uint32_t h[LANES]; /* a copy: in memory it could be what u points to */
    size_t i = 0;

    memcpy(h, state, sizeof h);
    for (; i + LANES <= n; i += LANES)
        for (size_t l = 0; l < LANES; l++)
            h[l] = (h[l] ^ u[i + l]) * 0x9e3779b1u;
    for (size_t l = 0; i < n; i++, l++)
        h[l] = (h[l] ^ u[i]) * 0x85ebca6bu;
    memcpy(state, h, sizeof h);
}

void LMC_SCAN(struct lmc_scan *s, const float *x, size_t n, float *cols)
{
    const uint32_t *u = (const uint32_t *)(const void *)x;
    uint32_t bad = s->n_nan + s->n_inf;

    count(s, u, n);
    hash(s->hash, u, n);
    if (s->n_nan + s->n_inf != bad) {
        lmc_scan_finite(s, x, n);
        return;
    }
    range(s, u, n);
    sums(s, x, n);
    if (cols)
        squares(cols, x, n);
}
