#include "convert/quantizer.h"

#include <stdlib.h>

#include "convert/plan.h"

enum { CHECKED = 4096 /* elements of a piece that the CPU encodes too, about */ };

int lmc_encoder_open(struct lmc_encoder *x, const struct lm_run_options *o, struct lm_err *e)
{
    *x = (struct lmc_encoder){.q = o->quantizer};
    return x->q ? x->q->open(&x->dev, o->quantizer_ordinal, e) : 0;
}

void lmc_encoder_close(struct lmc_encoder *x)
{
    if (x->q)
        x->q->close(x->dev);
    *x = (struct lmc_encoder){0};
}

static void encode_here(enum lm_dtype to, void *dst, const float *src, const float *weights, size_t n_per_row,
                        size_t n_rows)
{
    const struct lm_dtype_info *d = lm_dtype_info(to);

    if (weights)
        d->from_f32_weighted(dst, src, weights, n_per_row, n_rows);
    else
        d->from_f32(dst, src, n_per_row * n_rows);
}

static int check_device(const struct lmc_encoder *x, enum lm_dtype to, const void *made, const float *src,
                        const float *weights, size_t n_per_row, size_t n_rows, struct lm_err *e)
{
    size_t n = n_per_row, rows = 1;

    if (!weights && n * n_rows > CHECKED)
        n = CHECKED; /* a multiple of every block */
    else if (n < CHECKED)
        rows = CHECKED / n < n_rows ? CHECKED / n : n_rows;
    size_t bytes = lm_dtype_bytes(to, n) * rows;
    void *here = malloc(bytes);
    if (!here)
        return lmc_nomem(e);
    encode_here(to, here, src, weights, n, rows);
    bool same = memcmp(here, made, bytes) == 0;
    free(here);
    return same ? 0 : lm_err_set(e, LM_MISMATCH, "%s encodes %s to other bytes than the CPU: leave out --device, and report "
                                 "it", x->q->name, lm_dtype_name(to));
}

int lmc_encode(const struct lmc_encoder *x, enum lm_dtype to, void *dst, const float *src, const float *weights,
               size_t n_per_row, size_t n_rows, struct lm_err *e)
{
    if (!x->q || !x->q->can(x->dev, to, weights != NULL)) {
        encode_here(to, dst, src, weights, n_per_row, n_rows);
        return 0;
    }
    return x->q->encode(x->dev, to, dst, src, weights, n_per_row, n_rows, e) ||
           check_device(x, to, dst, src, weights, n_per_row, n_rows, e) ? -1 : 0;
}
