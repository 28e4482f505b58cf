/* Logits of two runs compared as they come: sums for tables and intervals. */
#include <math.h>
#include <stdlib.h>
#include "gpu/compare.h"

enum { TOP = 5 };

/* The likeliest first, of equals the smaller id. */
static void likeliest(const float *x, size_t n, int32_t top[TOP])
{
    size_t have = 0;

    for (size_t i = 0; i < n; i++) {
        if (have == TOP && !(x[i] > x[top[TOP - 1]]))
            continue;
        size_t k = have < TOP ? have++ : TOP - 1;
        for (; k > 0 && x[i] > x[top[k - 1]]; k--)
            top[k] = top[k - 1];
        top[k] = (int32_t)i;
    }
    for (; have < TOP; have++)
        top[have] = -1;
}

static unsigned n_shared(const int32_t a[TOP], const int32_t b[TOP])
{
    unsigned n = 0;

    for (int i = 0; i < TOP; i++)
        for (int k = 0; k < TOP; k++)
            n += a[i] >= 0 && a[i] == b[k];
    return n;
}

/* With p of a and log z of both: KL = sum p (a - b) - log z_a + log z_b. */
void lm_position_compare(struct lm_position *out, const float *a, const float *b, size_t n, int32_t next)
{
    int32_t ta[TOP], tb[TOP];
    double sum_a = 0, sum_b = 0, cross = 0, abs_sum = 0, most = 0;

    likeliest(a, n, ta);
    likeliest(b, n, tb);
    double max_a = (double)a[ta[0]], max_b = (double)b[tb[0]];
    for (size_t i = 0; i < n; i++) {
        double da = (double)a[i] - max_a, db = (double)b[i] - max_b, pa = exp(da);
        double diff = fabs((double)a[i] - (double)b[i]);
        sum_a += pa;
        sum_b += exp(db);
        if (!(pa <= 0)) /* nothing where a gives nothing; a NaN must show */
            cross += pa * (da - db);
        abs_sum += diff;
        if (!(diff <= most) && !isnan(most))
            most = diff;
    }
    double log_a = log(sum_a), log_b = log(sum_b), kld = cross / sum_a - log_a + log_b;
    bool follows = next >= 0 && (size_t)next < n;
    *out = (struct lm_position){
        .max_abs = most, .mean_abs = abs_sum / (double)n, .kld = kld < 0 ? 0 : kld, .top_a = ta[0], .top_b = tb[0],
        .top5 = n_shared(ta, tb),
        .nll_a = follows ? log_a - ((double)a[next] - max_a) : NAN,
        .nll_b = follows ? log_b - ((double)b[next] - max_b) : NAN,
    };
}

static double larger(double most, double x)
{
    return isnan(most) || !(x > most || isnan(x)) ? most : x;
}

void lm_tally_add(struct lm_tally *t, const struct lm_position *p, size_t at)
{
    if (t->n == 0 || !(p->kld <= t->kld_max || isnan(t->kld_max)))
        t->kld_max_at = at;
    t->n++;
    t->max_abs = larger(t->max_abs, p->max_abs);
    t->kld_max = larger(t->kld_max, p->kld);
    t->mean_abs += p->mean_abs;
    t->kld += p->kld;
    t->top1 += p->top_a == p->top_b;
    t->top5 += p->top5 / (double)TOP;
    if (isnan(p->nll_a))
        return;
    t->n_next++;
    t->nll_a += p->nll_a;
    t->nll_b += p->nll_b;
    t->nll_a2 += p->nll_a * p->nll_a;
    t->nll_b2 += p->nll_b * p->nll_b;
    t->nll_d2 += (p->nll_b - p->nll_a) * (p->nll_b - p->nll_a);
}

/* Half of the 95 % interval of a mean. */
static double half_width(double sum, double sum2, size_t n)
{
    if (n < 2)
        return NAN;
    double mean = sum / (double)n, variance = (sum2 / (double)n - mean * mean) * (double)n / (double)(n - 1);
    return 1.96 * sqrt(fmax(variance, 0) / (double)n);
}

struct lm_perplexity lm_tally_perplexity(const struct lm_tally *t)
{
    double n = (double)t->n_next;

    if (t->n_next == 0)
        return (struct lm_perplexity){NAN, NAN, NAN, NAN, NAN, NAN};
    return (struct lm_perplexity){
        .a = exp(t->nll_a / n), .b = exp(t->nll_b / n), .ratio = exp((t->nll_b - t->nll_a) / n),
        .half_a = expm1(half_width(t->nll_a, t->nll_a2, t->n_next)),
        .half_b = expm1(half_width(t->nll_b, t->nll_b2, t->n_next)),
        .half_ratio = expm1(half_width(t->nll_b - t->nll_a, t->nll_d2, t->n_next)),
    };
}

static int ascending(const void *x, const void *y)
{
    double a, b;

    memcpy(&a, x, sizeof a);
    memcpy(&b, y, sizeof b);
    if (isnan(a) || isnan(b))
        return isnan(a) - isnan(b);
    return (a > b) - (a < b);
}

double lm_quantile(double *x, size_t n, double q)
{
    if (n == 0)
        return NAN;
    qsort(x, n, sizeof *x, ascending);
    double at = q * (double)(n - 1);
    size_t i = (size_t)at;
    return i + 1 < n && at > (double)i ? x[i] + (at - (double)i) * (x[i + 1] - x[i]) : x[i];
}
