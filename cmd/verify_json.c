/* What lm-verify reports to programs. */
#include <math.h>
#include <stdlib.h>

#include "cmd/verify.h"

static json_t *layer_json(int layer)
{
    return layer == LM_NOWHERE ? json_null() : json_integer(layer);
}

static json_t *layers_json(const struct verify *v)
{
    json_t *a = json_array();

    for (int i = -1; i < (int)v->n_layers; i++)
        json_array_append_new(a, json_pack("{s:i, s:o, s:o}", "layer", i, "error",
                                           cli_json_real(v->layers[i + 1].error), "bound",
                                           cli_json_real(v->layers[i + 1].bound)));
    return a;
}

static json_t *positions_json(const struct verify *v)
{
    json_t *a = json_array();

    for (size_t i = 0; i < v->ids.n; i++) {
        const struct lm_position *p = &v->positions[i];
        json_t *o = json_object();
        json_object_set_new(o, "id", json_integer(v->ids.ids[i]));
        json_object_set_new(o, "max_abs_logit_diff", cli_json_real(p->max_abs));
        json_object_set_new(o, "mean_abs_logit_diff", cli_json_real(p->mean_abs));
        json_object_set_new(o, "kld", cli_json_real(p->kld));
        json_object_set_new(o, "top1_a", json_integer(p->top_a));
        json_object_set_new(o, "top1_b", json_integer(p->top_b));
        json_array_append_new(a, o);
    }
    return a;
}

static void put_tally(json_t *o, const struct lm_tally *t, struct verify_quantiles q)
{
    struct lm_perplexity p = lm_tally_perplexity(t);
    double n = (double)t->n;

    json_object_set_new(o, "max_abs_logit_diff", cli_json_real(t->max_abs));
    json_object_set_new(o, "mean_abs_logit_diff", cli_json_real(t->mean_abs / n));
    json_object_set_new(o, "kld_mean", cli_json_real(t->kld / n));
    json_object_set_new(o, "kld_median", cli_json_real(q.median));
    json_object_set_new(o, "kld_p99", cli_json_real(q.p99));
    json_object_set_new(o, "kld_max", cli_json_real(t->kld_max));
    json_object_set_new(o, "kld_max_at", json_integer((json_int_t)t->kld_max_at));
    json_object_set_new(o, "top1_agreement", cli_json_real(t->top1 / n));
    json_object_set_new(o, "top5_agreement", cli_json_real(t->top5 / n));
    json_object_set_new(o, "ppl_a", cli_json_real(p.a));
    json_object_set_new(o, "ppl_b", cli_json_real(p.b));
    json_object_set_new(o, "ppl_a_half", cli_json_real(p.a * p.half_a));
    json_object_set_new(o, "ppl_b_half", cli_json_real(p.b * p.half_b));
    json_object_set_new(o, "ppl_ratio", cli_json_real(p.ratio));
    json_object_set_new(o, "ppl_ratio_half", cli_json_real(p.ratio * p.half_ratio));
    json_object_set_new(o, "n_tokens", json_integer((json_int_t)t->n));
}

static json_t *buckets_json(const struct verify *v)
{
    json_t *a = json_array();

    for (int i = 0; i < VERIFY_BUCKETS; i++) {
        size_t from, to;
        if (!v->bucket[i].n || !verify_bucket(v, i, &from, &to))
            continue;
        json_t *o = json_pack("{s:I, s:I}", "from", (json_int_t)from, "to", (json_int_t)to - 1);
        put_tally(o, &v->bucket[i], verify_kld_quantiles(v, i));
        json_array_append_new(a, o);
    }
    return a;
}

static json_t *where_json(const struct lm_departure *d)
{
    bool in = d->stage != LM_N_STAGES && d->stage != LM_STAGE_INPUT;
    json_t *stages = json_array();

    for (enum lm_stage s = LM_STAGE_Q; s < LM_N_STAGES; s++)
        if (!isnan(d->error[s]))
            json_array_append_new(stages, json_pack("{s:s, s:o, s:o}", "operation", lm_stage_name(s), "error",
                                                    cli_json_real(d->error[s]), "bound", cli_json_real(d->bound[s])));
    return json_pack("{s:i, s:s, s:o, s:o, s:o}", "layer", d->layer, "operation", lm_stage_name(d->stage), "head",
                     d->head < 0 ? json_null() : json_integer(d->head), "position",
                     in ? json_integer((json_int_t)d->position) : json_null(), "operations", stages);
}

static json_t *why_json(const struct lm_diagnosis *w)
{
    json_t *a = json_array();

    for (size_t i = 0; i < w->n; i++) {
        const struct lm_finding *f = &w->found[i];
        bool config = f->role == LM_N_ROLES;
        json_array_append_new(a, json_pack("{s:s, s:o, s:o, s:i, s:o, s:s}", "cause", lm_cause_name(f->cause), "role",
                                           config ? json_null() : json_string(lm_role_name(f->role)), "layer",
                                           config ? json_null() : json_integer(f->layer), "n_layers",
                                           (int)f->n_layers, "error", cli_json_real(f->error), "says", f->text));
    }
    return json_pack("{s:o, s:b, s:o, s:o, s:I}", "found", a, "cured", w->cured, "first_divergent_layer_after",
                     layer_json(w->first_after), "kld_after", cli_json_real(w->kld_after), "n_more",
                     (json_int_t)w->n_more);
}

json_t *verify_json(const struct verify *v)
{
    json_t *o = json_object();

    put_tally(o, &v->all, verify_kld_quantiles(v, -1));
    json_object_set_new(o, "first_divergent_layer", layer_json(v->layers ? v->first_divergent : LM_NOWHERE));
    json_object_set_new(o, "max_kld", cli_json_real(v->max_kld));
    json_object_set_new(o, "max_diff", cli_json_real(v->max_diff));
    json_object_set_new(o, "layers_judged", json_boolean(v->layers_judged));
    json_object_set_new(o, "passed", json_boolean(!v->failed));
    json_object_set_new(o, "buckets", buckets_json(v));
    json_object_set_new(o, "layers", v->layers ? layers_json(v) : json_null());
    json_object_set_new(o, "departure", v->has_where ? where_json(&v->where) : json_null());
    json_object_set_new(o, "causes", v->why ? why_json(v->why) : json_null());
    if (v->positions)
        json_object_set_new(o, "positions", positions_json(v));
    return o;
}
