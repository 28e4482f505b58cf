/* What a cast between floats loses: finite values that become infinite, others
 * that become zero, and what was not a number before. */
#include <string.h>

#include "convert/stream.h"

/* Magnitudes, as f32 bits: from `over` on a finite value rounds to infinity;
 * up to `flush` a value that is not zero rounds to zero (ties to even). */
struct limits { int32_t over, flush; double over64, flush64; };

static struct limits limits_of(enum lm_dtype to)
{
    switch (to) {
    case LM_F16: return (struct limits){0x477ff000, 0x33000000, 65520.0, 0x1p-25};
    case LM_BF16: return (struct limits){0x7f7f8000, 0x00008000, 0x1.ffp127, 0x1p-134};
    default: return (struct limits){0x7f800000, 0, 0x1.ffffffp127, 0x1p-150};
    }
}

static void tally_f32(struct lmc_tally *t, const float *x, size_t n, struct limits l)
{
    uint32_t over = 0, flushed = 0, nan = 0;

    for (size_t i = 0; i < n; i++) {
        int32_t a;
        memcpy(&a, &x[i], 4);
        a &= 0x7fffffff;
        nan += a >= 0x7f800000;
        over += (a >= l.over) & (a < 0x7f800000);
        flushed += (a <= l.flush) & (a != 0);
    }
    t->n_overflow += over;
    t->n_flushed += flushed;
    t->n_nan += nan;
}

static void tally_f64(struct lmc_tally *t, const uint8_t *src, size_t n, struct limits l)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t u = lm_load_u64le(src + 8 * i) & ~(1ull << 63);
        double a;
        memcpy(&a, &u, 8);
        bool finite = u < 0x7ff0000000000000ull;
        t->n_nan += !finite;
        t->n_overflow += finite && a >= l.over64;
        t->n_flushed += a != 0 && a <= l.flush64;
    }
}

void lmc_tally(struct lmc_tally *t, const float *x, const void *f64, size_t n, enum lm_dtype to)
{
    if (f64)
        tally_f64(t, f64, n, limits_of(to));
    else
        tally_f32(t, x, n, limits_of(to));
}

/* ---- errors of any change */

static void keep_largest(struct lm_errors *r, double error, uint64_t at)
{
    if (error > r->max || (error == r->max && r->n > 0 && at < r->max_at)) {
        r->max = error;
        r->max_at = at;
    }
}

void lmc_measure(struct lm_errors *r, const float *x, const float *y, size_t n, uint64_t first)
{
    for (size_t i = 0; i < n; i++) {
        double a = x[i], b = y[i], d = b - a;
        r->x2 += a * a;
        r->y2 += b * b;
        r->xy += a * b;
        r->e2 += d * d;
        if (d > r->max || -d > r->max)
            keep_largest(r, d < 0 ? -d : d, first + i);
    }
    r->n += n;
}

void lmc_errors_add(struct lm_errors *r, const struct lm_errors *more)
{
    keep_largest(r, more->max, more->max_at);
    r->n += more->n;
    r->x2 += more->x2;
    r->y2 += more->y2;
    r->xy += more->xy;
    r->e2 += more->e2;
}

uint32_t lmc_max_bits(const float *x, size_t n)
{
    int32_t max = 0;

    for (size_t i = 0; i < n; i++) {
        int32_t a;
        memcpy(&a, &x[i], 4);
        a &= 0x7fffffff;
        max = a > max ? a : max;
    }
    return (uint32_t)max;
}
