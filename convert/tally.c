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
