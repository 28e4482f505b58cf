/* The inner loops of the statistics, once per instruction set: this file is the
 * body, included by audit_scan_*.c, which define LMC_SCAN as the name. Sums run
 * in 32 lanes whatever the vector width, so the numbers do not depend on the
 * machine.
 *
 * Most stretches hold nothing but ordinary numbers: the range is found first,
 * and what is rare is counted only where the range says that it is there. */
#include "convert/audit_parts.h"

enum { LANES = 32, F16_OVER = 0x477ff000 /* 65520 */, F16_FLUSH = 0x33000000 /* 2^-25 */ };

struct range { uint32_t top, least, low, zero; int32_t min, max; }; /* least: of |x| - 1 as bits, so that 0 is large */

/* As integers that order like the floats. */
static struct range find_range(const uint32_t *u, size_t n)
{
    struct range r = {.least = UINT32_MAX, .min = INT32_MAX, .max = INT32_MIN};

    for (size_t i = 0; i < n; i++) {
        int32_t v = (int32_t)u[i];
        uint32_t a = u[i] & 0x7fffffff;
        r.top = a > r.top ? a : r.top;
        r.least = a - 1 < r.least ? a - 1 : r.least;
        r.zero += a == 0;
        r.low |= u[i];
        v ^= (v >> 31) & 0x7fffffff;
        r.min = v < r.min ? v : r.min;
        r.max = v > r.max ? v : r.max;
    }
    return r;
}

static void count(struct lmc_scan *s, const uint32_t *u, size_t n)
{
    uint32_t nan = 0, inf = 0, sub = 0, over = 0, flush = 0;

    for (size_t i = 0; i < n; i++) {
        uint32_t a = u[i] & 0x7fffffff;
        nan += a > 0x7f800000;
        inf += a == 0x7f800000;
        sub += a - 1 < 0x7fffff;
        over += a - F16_OVER < 0x7f800000 - F16_OVER;
        flush += a - 1 < F16_FLUSH;
    }
    s->n_nan += nan;
    s->n_inf += inf;
    s->n_sub += sub;
    s->n_over += over;
    s->n_flush += flush;
}

/* Sums of a row, and of the squares of its columns. */
static void sums(struct lmc_scan *s, const float *x, size_t n, float *cols)
{
    float sum[LANES] = {0}, sum2[LANES] = {0};
    size_t i = 0;

    for (; cols && i + LANES <= n; i += LANES)
        for (size_t l = 0; l < LANES; l++) {
            float square = x[i + l] * x[i + l];
            sum[l] += x[i + l];
            sum2[l] += square;
            cols[i + l] += square;
        }
    for (; i + LANES <= n; i += LANES)
        for (size_t l = 0; l < LANES; l++) {
            sum[l] += x[i + l];
            sum2[l] += x[i + l] * x[i + l];
        }
    for (size_t l = 0; i < n; i++, l++) {
        sum[l] += x[i];
        sum2[l] += x[i] * x[i];
        if (cols)
            cols[i] += x[i] * x[i];
    }
    for (size_t l = 0; l < LANES; l++) {
        s->sum += (double)sum[l];
        s->sum2 += (double)sum2[l];
    }
}

/* A multiplication takes longer than it takes to begin the next: twice the lanes. */
static void hash(uint32_t *state, const uint32_t *u, size_t n)
{
    enum { WIDE = 2 * LANES };
    uint32_t h[WIDE]; /* a copy: in memory it could be what u points to */
    size_t i = 0;

    memcpy(h, state, sizeof h);
    for (; i + WIDE <= n; i += WIDE)
        for (size_t l = 0; l < WIDE; l++)
            h[l] = (h[l] ^ u[i + l]) * 0x9e3779b1u;
    for (size_t l = 0; i < n; i++, l++)
        h[l] = (h[l] ^ u[i]) * 0x85ebca6bu;
    memcpy(state, h, sizeof h);
}

void LMC_SCAN(struct lmc_scan *s, const float *x, size_t n, float *cols)
{
    const uint32_t *u = (const uint32_t *)(const void *)x;
    struct range r = find_range(u, n);

    hash(s->hash, u, n);
    s->n_zero += r.zero;
    s->low |= r.low;
    if (r.top >= F16_OVER || r.least < F16_FLUSH)
        count(s, u, n);
    if (r.top >= 0x7f800000) {
        lmc_scan_finite(s, x, n);
        return;
    }
    s->min = r.min < s->min ? r.min : s->min;
    s->max = r.max > s->max ? r.max : s->max;
    if (r.least != UINT32_MAX && r.least + 1 < s->small)
        s->small = r.least + 1;
    sums(s, x, n, cols);
}
