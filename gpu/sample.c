/* Choosing the next token. */
#include <math.h>
#include <stdlib.h>
#include "gpu/engine.h"

struct candidate {
    float logit;
    int32_t id;
};

/* PCG32 (O'Neill 2014, pcg-random.org): XSH-RR on a 64-bit LCG. */
static uint32_t draw(uint64_t *state)
{
    uint64_t old = *state;
    uint32_t x = (uint32_t)((old >> 18 ^ old) >> 27), r = (uint32_t)(old >> 59);

    *state = old * 6364136223846793005u + 1442695040888963407u;
    return x >> r | x << (-r & 31);
}

static int32_t greedy(const float *logits, size_t n)
{
    size_t best = 0;

    for (size_t i = 1; i < n; i++)
        if (logits[i] > logits[best] || (isnan(logits[best]) && !isnan(logits[i])))
            best = i;
    return (int32_t)best;
}

/* Best first; equal logits by id, so that the order is one. */
static int by_logit(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;

    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* How many of the n sorted candidates stay; p [n] are probabilities up to their sum. */
static size_t cut(const struct lm_sampling *s, const double *p, size_t n, double sum)
{
    double seen = 0;
    size_t keep = n;

    for (size_t i = 0; s->min_p > 0 && i < keep; i++)
        if (p[i] < (double)s->min_p * p[0])
            keep = i;
    for (size_t i = 0; s->top_p < 1 && i < keep; i++)
        if ((seen += p[i]) >= (double)s->top_p * sum)
            keep = i + 1;
    return keep > 0 ? keep : 1;
}

static int32_t pick(struct lm_sampling *s, const struct candidate *c, double *p, size_t n)
{
    double sum = 0, at, kept = 0;
    size_t keep;

    for (size_t i = 0; i < n; i++)
        sum += p[i] = exp(((double)c[i].logit - (double)c[0].logit) / (double)s->temperature);
    keep = cut(s, p, n, sum);
    for (size_t i = 0; i < keep; i++)
        kept += p[i];
    at = draw(&s->state) / 4294967296.0 * kept;
    for (size_t i = 0; i + 1 < keep; i++)
        if ((at -= p[i]) < 0)
            return c[i].id;
    return c[keep - 1].id;
}

int32_t lm_sample(struct lm_sampling *s, const float *logits, size_t n)
{
    int32_t best = greedy(logits, n), id = best;
    struct candidate *c;
    double *p;
    size_t m = 0;

    if (!(s->temperature > 0) || !isfinite(logits[best]))
        return best;
    c = malloc(n * sizeof *c);
    p = malloc(n * sizeof *p);
    if (c && p) {
        for (size_t i = 0; i < n; i++)
            if (!isnan(logits[i]))
                c[m++] = (struct candidate){logits[i], (int32_t)i};
        qsort(c, m, sizeof *c, by_logit);
        id = pick(s, c, p, s->top_k > 0 && s->top_k < m ? s->top_k : m);
    }
    free(c);
    free(p);
    return id;
}

int lm_penalize(const struct lm_penalties *p, const int32_t *ids, size_t n_ids, float *logits, size_t n,
                struct lm_err *e)
{
    size_t first = p->window && p->window < n_ids ? n_ids - p->window : 0;
    uint32_t *count;

    if (p->repeat == 1 && p->presence == 0 && p->frequency == 0)
        return 0;
    count = calloc(n, sizeof *count);
    if (!count)
        return lm_err_set(e, LM_NOMEM, "no memory to count %zu tokens", n);
    for (size_t i = first; i < n_ids; i++)
        if (ids[i] >= 0 && (size_t)ids[i] < n)
            count[ids[i]]++;
    for (size_t i = 0; i < n; i++) {
        if (!count[i])
            continue;
        logits[i] = logits[i] > 0 ? logits[i] / p->repeat : logits[i] * p->repeat;
        logits[i] -= p->presence + p->frequency * (float)count[i];
    }
    free(count);
    return 0;
}
