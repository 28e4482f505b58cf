/* What lm-verify reports. */
#include <math.h>
#include <stdlib.h>

#include "cmd/verify.h"

enum { BUCKETS = 16 };

static double ppl(double nll, size_t n)
{
    return n > 0 ? exp(nll / (double)n) : NAN;
}

/* ---- positions */

/* Several positions as one line. */
static struct lm_divergence fold(const struct verify_position *p, size_t n)
{
    struct lm_divergence d = {0};

    for (size_t i = 0; i < n; i++) {
        d.max_abs = fmax(d.max_abs, p[i].d.max_abs);
        d.kld_max = fmax(d.kld_max, p[i].d.kld_max);
        d.mean_abs += p[i].d.mean_abs / (double)n;
        d.kld_mean += p[i].d.kld_mean / (double)n;
        d.top1_agreement += p[i].d.top1_agreement / (double)n;
    }
    return d;
}

static void add_row(struct cli_table *t, const char *where, const struct lm_divergence *d, const char *top)
{
    char max[32], mean[32], kld[32], kld_max[32];

    snprintf(max, sizeof max, "%.3g", d->max_abs);
    snprintf(mean, sizeof mean, "%.3g", d->mean_abs);
    snprintf(kld, sizeof kld, "%.3g", d->kld_mean);
    snprintf(kld_max, sizeof kld_max, "%.3g", d->kld_max);
    cli_table_row(t, where, max, mean, kld, kld_max, top);
}

static void print_folded(const struct verify *v)
{
    static const char *const heads[] = {"positions", "max |diff|", "mean |diff|", "mean KLD", "max KLD", "top 1 agrees"};
    struct cli_table *t = cli_table_new(heads, "lrrrrr");
    size_t step = (v->ids.n + BUCKETS - 1) / BUCKETS;

    for (size_t i = 0; i < v->ids.n; i += step) {
        size_t n = v->ids.n - i < step ? v->ids.n - i : step;
        struct lm_divergence d = fold(v->positions + i, n);
        char where[48], top[32];
        snprintf(where, sizeof where, n > 1 ? "%zu-%zu" : "%zu", i, i + n - 1);
        snprintf(top, sizeof top, "%.1f %%", 100 * d.top1_agreement);
        add_row(t, where, &d, top);
    }
    cli_table_print(t, stdout);
}

static void print_full(const struct verify *v)
{
    static const char *const heads[] = {"position", "max |diff|", "mean |diff|", "KLD", "", "token, likeliest next"};
    struct cli_table *t = cli_table_new(heads, "rrrrrl");

    for (size_t i = 0; i < v->ids.n; i++) {
        const struct verify_position *p = &v->positions[i];
        char where[24], top[900], max[32], mean[32], kld[32];
        const struct cli_loaded *l = v->a.tok ? &v->a : &v->b;
        snprintf(where, sizeof where, "%zu", i);
        int n = snprintf(top, sizeof top, "%d %s, %d %s", p->id, cli_piece(l, p->id), p->top_a,
                         cli_piece(l, p->top_a));
        if (p->top_b != p->top_a)
            snprintf(top + n, sizeof top - (size_t)n, " against %d %s", p->top_b, cli_piece(l, p->top_b));
        snprintf(max, sizeof max, "%.3g", p->d.max_abs);
        snprintf(mean, sizeof mean, "%.3g", p->d.mean_abs);
        snprintf(kld, sizeof kld, "%.3g", p->d.kld_mean);
        cli_table_row(t, where, max, mean, kld, p->top_a == p->top_b ? "" : "!", top);
    }
    cli_table_print(t, stdout);
}

/* ---- layers */

static const char *layer_name(int layer, char *buf, size_t size)
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
        const struct verify_layer *l = &v->layers[i + 1];
        char name[32], error[32], bound[32];
        bool shown = v->o.per_position == 1 || i == v->first_divergent || v->n_layers <= 8;
        if (!shown && i > 0 && i + 1 < (int)v->n_layers && l->error <= l->bound)
            continue;
        snprintf(error, sizeof error, "%.2g", l->error);
        snprintf(bound, sizeof bound, "%.2g", l->bound);
        cli_table_row(t, layer_name(i, name, sizeof name), error, bound, l->error <= l->bound ? "" : "departs");
    }
    cli_table_print(t, stdout);
}

static void print_verdict_on_layers(const struct verify *v)
{
    char name[32];

    if (!v->layers)
        printf("layers            not compared: %s\n", v->why_no_layers);
    else if (v->first_divergent != VERIFY_NONE)
        printf("first to depart   %s\n", layer_name(v->first_divergent, name, sizeof name));
    else if (v->failed)
        printf("first to depart   no layer: look at the final norm and the output matrix\n");
    else
        printf("first to depart   none: every layer is within what the dtypes explain\n");
}

/* ---- whole */

static void print_limit(const struct verify *v)
{
    bool kld_bad = !(v->all.kld_mean <= v->max_kld), diff_bad = !(v->all.max_abs <= v->max_diff);

    if (isfinite(v->max_kld))
        printf("mean KLD limit    %.3g (%s): %s\n", v->max_kld,
               v->o.max_kld >= 0 ? "--max-kld" : "from the dtypes", kld_bad ? "exceeded" : "kept");
    if (isfinite(v->max_diff))
        printf("|diff| limit      %.3g (%s): %s\n", v->max_diff, v->o.max_diff >= 0 ? "--max-diff" : "the default",
               diff_bad ? "exceeded" : "kept");
}

void verify_print(const struct verify *v)
{
    const struct lm_divergence *d = &v->all;

    if (v->o.per_position == 1)
        print_full(v);
    else if (v->o.per_position == 0)
        print_folded(v);
    if (v->o.per_position < 2)
        putchar('\n');
    if (v->layers) {
        print_layers(v);
        putchar('\n');
    }
    printf("tokens            %zu\n", v->ids.n);
    printf("logits            max |diff| %.4g, mean |diff| %.4g\n", d->max_abs, d->mean_abs);
    printf("KL divergence     mean %.4g, max %.4g nats at position %zu\n", d->kld_mean, d->kld_max, d->kld_max_at);
    printf("top 1 agrees      %.2f %%\n", 100 * d->top1_agreement);
    if (d->n_nll > 0)
        printf("perplexity        %.4f in A, %.4f in %s\n", ppl(d->nll_a, d->n_nll), ppl(d->nll_b, d->n_nll),
               v->reference ? "the reference" : "B");
    print_verdict_on_layers(v);
    print_limit(v);
}

/* ---- JSON */

static json_t *layers_json(const struct verify *v)
{
    json_t *a = json_array();

    for (int i = -1; i < (int)v->n_layers; i++) {
        json_t *o = json_object();
        json_object_set_new(o, "layer", json_integer(i));
        json_object_set_new(o, "error", cli_json_real(v->layers[i + 1].error));
        json_object_set_new(o, "bound", cli_json_real(v->layers[i + 1].bound));
        json_array_append_new(a, o);
    }
    return a;
}

static json_t *positions_json(const struct verify *v)
{
    json_t *a = json_array();

    for (size_t i = 0; i < v->ids.n; i++) {
        const struct verify_position *p = &v->positions[i];
        json_t *o = json_object();
        json_object_set_new(o, "id", json_integer(p->id));
        json_object_set_new(o, "max_abs_logit_diff", cli_json_real(p->d.max_abs));
        json_object_set_new(o, "mean_abs_logit_diff", cli_json_real(p->d.mean_abs));
        json_object_set_new(o, "kld", cli_json_real(p->d.kld_mean));
        json_object_set_new(o, "top1_a", json_integer(p->top_a));
        json_object_set_new(o, "top1_b", json_integer(p->top_b));
        json_array_append_new(a, o);
    }
    return a;
}

json_t *verify_json(const struct verify *v)
{
    const struct lm_divergence *d = &v->all;
    json_t *o = json_object();
    bool named = v->layers && v->first_divergent != VERIFY_NONE;

    json_object_set_new(o, "max_abs_logit_diff", cli_json_real(d->max_abs));
    json_object_set_new(o, "mean_abs_logit_diff", cli_json_real(d->mean_abs));
    json_object_set_new(o, "kld_mean", cli_json_real(d->kld_mean));
    json_object_set_new(o, "kld_max", cli_json_real(d->kld_max));
    json_object_set_new(o, "top1_agreement", cli_json_real(d->top1_agreement));
    json_object_set_new(o, "ppl_a", cli_json_real(ppl(d->nll_a, d->n_nll)));
    json_object_set_new(o, "ppl_b", cli_json_real(ppl(d->nll_b, d->n_nll)));
    json_object_set_new(o, "n_tokens", json_integer((json_int_t)v->ids.n));
    json_object_set_new(o, "first_divergent_layer", named ? json_integer(v->first_divergent) : json_null());
    json_object_set_new(o, "max_kld", cli_json_real(v->max_kld));
    json_object_set_new(o, "max_diff", cli_json_real(v->max_diff));
    json_object_set_new(o, "passed", json_boolean(!v->failed));
    json_object_set_new(o, "layers", v->layers ? layers_json(v) : json_null());
    if (v->o.per_position == 1)
        json_object_set_new(o, "positions", positions_json(v));
    return o;
}
