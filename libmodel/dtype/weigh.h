/* Weights of the encoders that know each column's importance: ggml's
 * importance * sqrt(spread + x^2), spread from the mean square around x. */
#ifndef LIBMODEL_DTYPE_WEIGH_H
#define LIBMODEL_DTYPE_WEIGH_H

#include "libmodel/dtype/blocks.h"
#include "libmodel/dtype/lanes.h"

/* Where the next element lies in its row. */
struct columns { const float *importance; size_t n, at; };

/* The importance of the next n elements, which do not cross a row's end. */
INLINE const float *next_columns(struct columns *c, size_t n)
{
    const float *q = c->importance + c->at;

    c->at = c->at + n < c->n ? c->at + n : 0;
    return q;
}

INLINE void weigh(float *w, const float *importance, const float *x, int n, float spread)
{
    for (int i = 0; i < n; i += LANES) {
        vf v = vf_load(x + i);
        vf_store(w + i, vf_load(importance + i) * vf_sqrt(vf_set(spread) + v * v));
    }
}

/* Sums of squares, each in order, of LANES runs of `n` elements (a multiple of
 * LANES), run l at x + l * stride; only the first n_runs exist. */
INLINE void square_sums(float sum[LANES], const float *x, size_t n, size_t stride, int n_runs)
{
    vf t[LANES], s = vf_set(0);

    for (size_t c = 0; c < n; c += LANES) {
        for (int l = 0; l < LANES; l++)
            t[l] = vf_load(x + (size_t)(l < n_runs ? l : n_runs - 1) * stride + c);
        transpose(t);
        for (int i = 0; i < LANES; i++)
            s += t[i] * t[i];
    }
    vf_store(sum, s);
}

/* Weights of n_blocks (<= LANES) blocks of 256; spread = sum of squares * a * b,
 * in that order, because the first product may overflow. */
INLINE void weigh_blocks(float *w, const float *x, struct columns *c, int n_blocks, float a, float b)
{
    float sum[LANES];

    square_sums(sum, x, LMI_QK_K, LMI_QK_K, n_blocks);
    for (int k = 0; k < n_blocks; k++, x += LMI_QK_K, w += LMI_QK_K)
        weigh(w, next_columns(c, LMI_QK_K), x, LMI_QK_K, sum[k] * a * b);
}

/* ---- batches: the rest of the last one is padded with zeros */

/* x itself if `n` elements fill the batch, else a padded copy in `rest`. */
INLINE const float *whole_batch(const float *x, float *rest, size_t n, size_t batch)
{
    if (n >= batch)
        return x;
    memcpy(rest, x, n * sizeof *x);
    memset(rest + n, 0, (batch - n) * sizeof *x);
    return rest;
}

#endif
