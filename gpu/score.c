/* Distances between two models' logits; all sums in double. */
#include <math.h>
#include "gpu/engine.h"

struct softmax {
    double max, log_sum; /* log p_i = x_i - max - log_sum */
};

static struct softmax softmax_of(const float *x, size_t n)
{
    struct softmax s = {-INFINITY, 0};

    for (size_t i = 0; i < n; i++)
        s.max = (double)x[i] > s.max ? (double)x[i] : s.max;
    for (size_t i = 0; i < n; i++)
        s.log_sum += exp((double)x[i] - s.max);
    s.log_sum = log(s.log_sum);
    return s;
}

static double log_p(const struct softmax *s, float x)
{
    return (double)x - s->max - s->log_sum;
}

/* Rounding can bring the sum of a tiny divergence below zero. */
static double kl_of(const float *a, const struct softmax *sa, const float *b, const struct softmax *sb, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++) {
        double la = log_p(sa, a[i]), p = exp(la);
        if (!(p <= 0)) /* nothing where a gives nothing; a NaN must show */
            sum += p * (la - log_p(sb, b[i]));
    }
    return sum < 0 ? 0 : sum;
}

double lm_kl(const float *a, const float *b, size_t n)
{
    struct softmax sa = softmax_of(a, n), sb = softmax_of(b, n);
    return kl_of(a, &sa, b, &sb, n);
}

double lm_log_softmax_at(const float *logits, size_t n, size_t i)
{
    struct softmax s = softmax_of(logits, n);
    return log_p(&s, logits[i]);
}

static size_t argmax(const float *x, size_t n)
{
    size_t best = 0;

    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}

void lm_divergence_add(struct lm_divergence *d, const float *a, const float *b, size_t n_vocab, int32_t next)
{
    struct softmax sa = softmax_of(a, n_vocab), sb = softmax_of(b, n_vocab);
    double kl = kl_of(a, &sa, b, &sb, n_vocab), sum = 0;

    for (size_t i = 0; i < n_vocab; i++) {
        double diff = fabs((double)a[i] - (double)b[i]);
        sum += diff;
        if (!(diff <= d->max_abs) && !isnan(d->max_abs)) /* a NaN must show, and stay */
            d->max_abs = diff;
    }
    d->mean_abs += sum / (double)n_vocab;
    d->kld_mean += kl;
    if (d->n == 0 || !(kl <= d->kld_max || isnan(d->kld_max))) {
        d->kld_max = kl;
        d->kld_max_at = d->n;
    }
    d->top1_agreement += argmax(a, n_vocab) == argmax(b, n_vocab);
    if (next >= 0 && (size_t)next < n_vocab) {
        d->nll_a -= log_p(&sa, a[next]);
        d->nll_b -= log_p(&sb, b[next]);
        d->n_nll++;
    }
    d->n++;
}

void lm_divergence_finish(struct lm_divergence *d)
{
    if (d->n == 0)
        return;
    d->mean_abs /= (double)d->n;
    d->kld_mean /= (double)d->n;
    d->top1_agreement /= (double)d->n;
}
