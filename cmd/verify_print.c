/* What lm-verify reports to people. */
#include <math.h>
#include <stdlib.h>

#include "cmd/verify.h"

/* ---- positions */

static void percent(char *buf, size_t size, double share)
{
    snprintf(buf, size, "%.1f %%", 100 * share);
}

static void print_buckets(const struct verify *v)
{
    const char *const heads[] = {"positions", "tokens", "mean KLD", "median", "99 %", "max", "max |diff|",
                                 "top 1", "top 5", "ppl A", v->reference ? "reference" : "ppl B"};
    struct cli_table *t = cli_table_new(heads, "lrrrrrrrrrr");

    for (int i = 0; i < VERIFY_BUCKETS; i++) {
        const struct lm_tally *b = &v->bucket[i];
        struct verify_quantiles q = b->n ? verify_kld_quantiles(v, i) : (struct verify_quantiles){0, 0};
        struct lm_perplexity p = lm_tally_perplexity(b);
        char cell[11][32];
        size_t from, to;
        if (!b->n || !verify_bucket(v, i, &from, &to))
            continue;
        double n = (double)b->n;
        const double values[] = {b->kld / n, q.median, q.p99, b->kld_max, b->max_abs};
        snprintf(cell[0], sizeof cell[0], "%zu-%zu", from, to - 1);
        snprintf(cell[1], sizeof cell[1], "%zu", b->n);
        for (int k = 0; k < 5; k++)
            snprintf(cell[2 + k], sizeof cell[0], "%.3g", values[k]);
        percent(cell[7], sizeof cell[7], b->top1 / n);
        percent(cell[8], sizeof cell[8], b->top5 / n);
        snprintf(cell[9], sizeof cell[9], "%.5g", p.a);
        snprintf(cell[10], sizeof cell[10], "%.5g", p.b);
        cli_table_row(t, cell[0], cell[1], cell[2], cell[3], cell[4], cell[5], cell[6], cell[7], cell[8], cell[9],
                      cell[10]);
    }
    cli_table_print(t, stdout);
}

static void print_full(const struct verify *v)
{
    static const char *const heads[] = {"position", "max |diff|", "mean |diff|", "KLD", "", "token, likeliest next"};
    struct cli_table *t = cli_table_new(heads, "rrrrrl");
    const struct cli_loaded *l = v->a.tok ? &v->a : &v->b;

    for (size_t i = 0; i < v->ids.n; i++) {
        const struct lm_position *p = &v->positions[i];
        int32_t id = v->ids.ids[i];
        char where[24], top[900], max[32], mean[32], kld[32];
        snprintf(where, sizeof where, "%zu", i);
        int n = snprintf(top, sizeof top, "%d %s, %d %s", id, cli_piece(l, id), p->top_a, cli_piece(l, p->top_a));
        if (p->top_b != p->top_a)
            snprintf(top + n, sizeof top - (size_t)n, " against %d %s", p->top_b, cli_piece(l, p->top_b));
        snprintf(max, sizeof max, "%.3g", p->max_abs);
        snprintf(mean, sizeof mean, "%.3g", p->mean_abs);
        snprintf(kld, sizeof kld, "%.3g", p->kld);
        cli_table_row(t, where, max, mean, kld, p->top_a == p->top_b ? "" : "!", top);
    }
    cli_table_print(t, stdout);
}

/* ---- layers */

const char *verify_layer_name(int layer, char *buf, size_t size)
{
    if (layer < 0)
        return "embedding";
    snprintf(buf, size, "layer %d", layer);
    return buf;
}

static void print_layers(const struct verify *v)
{
    static const char *const heads[] = {"", "difference", "explained", ""};
    struct cli_table *t = cli_table_new(heads, "lrrl");

    for (int i = -1; i < (int)v->n_layers; i++) {
        const struct lm_layer_error *l = &v->layers[i + 1];
        char name[32], error[32], bound[32];
        bool shown = v->o.per_position == 1 || i == v->first_divergent || v->n_layers <= 8;
        if (!shown && i > 0 && i + 1 < (int)v->n_layers && l->error <= l->bound)
            continue;
        snprintf(error, sizeof error, "%.2g", l->error);
        snprintf(bound, sizeof bound, "%.2g", l->bound);
        cli_table_row(t, verify_layer_name(i, name, sizeof name), error, bound, l->error <= l->bound ? "" : "departs");
    }
    cli_table_print(t, stdout);
}

static void print_where(const struct lm_departure *d)
{
    if (d->stage == LM_N_STAGES || d->stage == LM_STAGE_INPUT)
        return;
    printf("  operation       %s: %.2g of their norm, %.2g explained", lm_stage_name(d->stage), d->error[d->stage],
           d->bound[d->stage]);
    if (d->head >= 0)
        printf("; worst in head %d", d->head);
    printf("; from position %zu on\n", d->position);
}

static void print_verdict_on_layers(const struct verify *v)
{
    char name[32];

    if (!v->layers)
        printf("layers            not compared: %s\n", v->why_no_layers);
    else if (v->first_divergent != LM_NOWHERE)
        printf("first to depart   %s\n", verify_layer_name(v->first_divergent, name, sizeof name));
    else if (v->failed)
        printf("first to depart   no layer: look at the final norm and the output matrix\n");
    else
        printf("first to depart   none: every layer is within what the dtypes explain\n");
    if (v->has_where)
        print_where(&v->where);
}

/* ---- causes */

static void print_finding(const struct lm_finding *f)
{
    char name[32];

    if (f->role == LM_N_ROLES) {
        printf("  configuration   %s\n", f->text);
        return;
    }
    printf("  %-15s %s: %s", f->layer < 0 ? "outside layers" : verify_layer_name(f->layer, name, sizeof name),
           lm_role_name(f->role), f->text);
    if (f->n_layers > 1)
        printf("; the same in %u other%s", f->n_layers - 1, f->n_layers > 2 ? "s" : "");
    putchar('\n');
}

static void print_causes(const struct verify *v)
{
    const struct lm_diagnosis *w = v->why;
    char name[32];

    if (w->n == 0) {
        printf("cause             none of the usual: configuration and tensors are A's within what their types explain\n");
        return;
    }
    printf("cause\n");
    for (size_t i = 0; i < w->n; i++)
        print_finding(&w->found[i]);
    if (w->n_more)
        printf("  … and %zu more\n", w->n_more);
    if (w->cured)
        printf("  proof           B run again with that put right is A, within what the dtypes explain\n");
    else if (isnan(w->kld_after))
        printf("  proof           not run again: too large to hold in f32\n");
    else if (w->first_after == LM_NOWHERE)
        printf("  proof           B run again with that put right still differs: KLD %.2g\n", w->kld_after);
    else
        printf("  proof           B run again with that put right still departs, first in %s\n",
               verify_layer_name(w->first_after, name, sizeof name));
}

/* ---- whole */

static void print_limit(const struct verify *v)
{
    bool kld_bad = !(v->all.kld / (double)v->all.n <= v->max_kld), diff_bad = !(v->all.max_abs <= v->max_diff);

    if (isfinite(v->max_kld))
        printf("mean KLD limit    %.3g (%s): %s\n", v->max_kld,
               v->o.max_kld >= 0 ? "--max-kld" : "from the dtypes", kld_bad ? "exceeded" : "kept");
    if (isfinite(v->max_diff))
        printf("|diff| limit      %.3g (%s): %s\n", v->max_diff, v->o.max_diff >= 0 ? "--max-diff" : "the default",
               diff_bad ? "exceeded" : "kept");
    if (v->first_divergent != LM_NOWHERE && !kld_bad && !diff_bad)
        printf("verdict           %s\n", v->layers_judged
                   ? "different: a layer departs by more than its types explain"
                   : "kept within the limit that was given; that a layer departs is not judged");
}

static void print_perplexity(const struct verify *v)
{
    struct lm_perplexity p = lm_tally_perplexity(&v->all);

    if (v->all.n_next == 0)
        return;
    printf("perplexity        %.4f ± %.2f %% in A, %.4f ± %.2f %% in %s\n", p.a, 100 * p.half_a, p.b, 100 * p.half_b,
           v->reference ? "the reference" : "B");
    printf("  ratio           %.5f ± %.5f (95 %%)\n", p.ratio, p.ratio * p.half_ratio);
}

void verify_print(const struct verify *v)
{
    const struct lm_tally *t = &v->all;
    struct verify_quantiles q = verify_kld_quantiles(v, -1);
    double n = (double)t->n;

    if (v->o.per_position == 1)
        print_full(v);
    else if (v->o.per_position == 0)
        print_buckets(v);
    if (v->o.per_position < 2)
        putchar('\n');
    if (v->layers) {
        print_layers(v);
        putchar('\n');
    }
    printf("tokens            %zu\n", v->ids.n);
    printf("logits            max |diff| %.4g, mean |diff| %.4g\n", t->max_abs, t->mean_abs / n);
    printf("KL divergence     mean %.4g, median %.4g, 99 %% %.4g, max %.4g nats at position %zu\n", t->kld / n, q.median,
           q.p99, t->kld_max, t->kld_max_at);
    printf("top 1 agrees      %.2f %%; of five likeliest %.2f %%\n", 100 * t->top1 / n, 100 * t->top5 / n);
    print_perplexity(v);
    print_verdict_on_layers(v);
    if (v->why)
        print_causes(v);
    print_limit(v);
}
