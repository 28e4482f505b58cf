/* The audit as JSON. */
#include "cmd/audit_show.h"

#include <math.h>

static json_t *str(const char *s)
{
    return s ? cli_json_str(lm_span_str(s)) : json_null();
}

static json_t *num(uint64_t v)
{
    return json_integer((json_int_t)v);
}

json_t *audit_rule_json(const struct lm_rule *r)
{
    return json_pack("{s:s, s:s, s:b, s:s, s:s, s:o, s:s}", "id", r->id, "severity", lm_severity_name(r->severity),
                     "fixable", r->fixable, "title", r->title, "why", r->why, "thread", str(r->thread), "mend", r->mend);
}

static json_t *finding_json(const struct lm_finding *f)
{
    json_t *o = audit_rule_json(lm_rule_at(f->rule));

    json_object_set_new(o, "where", str(f->where));
    json_object_set_new(o, "found", str(f->found));
    return o;
}

static json_t *stats_json(const struct lm_stats *s, enum lm_dtype d)
{
    json_t *o = json_object(), *bins = json_array();

    json_object_set_new(o, "min", cli_json_real((double)s->min));
    json_object_set_new(o, "max", cli_json_real((double)s->max));
    json_object_set_new(o, "mean", cli_json_real(lm_stats_mean(s)));
    json_object_set_new(o, "std", cli_json_real(lm_stats_std(s)));
    json_object_set_new(o, "rms", cli_json_real(lm_stats_rms(s)));
    json_object_set_new(o, "largest", cli_json_real((double)s->largest));
    json_object_set_new(o, "bits", cli_json_real(lm_stats_bits(s, d)));
    json_object_set_new(o, "n_zero", num(s->n_zero));
    json_object_set_new(o, "n_subnormal", num(s->n_subnormal));
    json_object_set_new(o, "n_nan", num(s->n_nan));
    json_object_set_new(o, "n_inf", num(s->n_inf));
    json_object_set_new(o, "n_f16_over", num(s->n_f16_over));
    json_object_set_new(o, "n_f16_flush", num(s->n_f16_flush));
    json_object_set_new(o, "n_zero_rows", num(s->n_zero_rows));
    json_object_set_new(o, "n_equal_rows", num(s->n_equal_rows));
    json_object_set_new(o, "n_outlier_rows", num(s->n_outlier_rows));
    json_object_set_new(o, "n_outlier_cols", num(s->n_outlier_cols));
    for (int i = 0; i < LM_AUDIT_BINS; i++)
        json_array_append_new(bins, num(s->bins[i]));
    json_object_set_new(o, "bins", bins);
    return o;
}

static json_t *tensor_json(const struct lm_audit_tensor *t)
{
    json_t *o = json_object(), *shape = json_array();

    for (unsigned i = 0; i < t->t->n_dims; i++)
        json_array_append_new(shape, num(t->t->shape[i]));
    json_object_set_new(o, "name", str(t->t->name));
    json_object_set_new(o, "role", json_string(t->known ? lm_role_name(t->role) : "unknown"));
    json_object_set_new(o, "layer", json_integer(t->layer));
    json_object_set_new(o, "dtype", json_string(lm_dtype_name(t->t->dtype)));
    json_object_set_new(o, "shape", shape);
    json_object_set_new(o, "n_params", num(t->t->n_elems));
    json_object_set_new(o, "n_bytes", num(t->t->n_bytes));
    json_object_set_new(o, "shared", json_boolean(t->shared));
    json_object_set_new(o, "stats", t->has_stats ? stats_json(&t->stats, t->t->dtype) : json_null());
    return o;
}

static json_t *memory_json(const struct lm_memory *m)
{
    json_t *rows = json_array();

    if (m->n_rows == 0) {
        json_decref(rows);
        return json_null();
    }
    for (size_t i = 0; i < m->n_rows; i++) {
        const struct lm_memory_row *r = &m->rows[i];
        json_t *o = json_pack("{s:s, s:I, s:I, s:I, s:I}", "dtype", r->dtype, "weights", (json_int_t)r->weights, "kv",
                              (json_int_t)r->kv, "buffers", (json_int_t)r->buffers, "total", (json_int_t)r->total);
        if (m->vram) {
            json_object_set_new(o, "fits", json_boolean(r->fits));
            json_object_set_new(o, "max_ctx", num(r->max_ctx));
        }
        json_array_append_new(rows, o);
    }
    return json_pack("{s:I, s:I, s:I, s:s, s:I, s:o}", "ctx", (json_int_t)m->ctx, "batch", (json_int_t)m->batch, "vram",
                     (json_int_t)m->vram, "kv_dtype", m->kv_dtype, "kv_a_token", (json_int_t)m->kv_a_token, "rows", rows);
}

static json_t *engines_json(const struct lm_audit *a)
{
    json_t *list = json_array();

    for (size_t i = 0; i < a->n_engines; i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:o}", "engine", a->engines[i].engine, "version",
                                              a->engines[i].version, "loads", lm_verdict_name(a->engines[i].verdict),
                                              "why", str(a->engines[i].why)));
    return list;
}

json_t *audit_summary_json(const struct lm_audit *a)
{
    json_t *o = json_object(), *findings = json_array();

    for (size_t i = 0; i < a->n_findings; i++)
        json_array_append_new(findings, finding_json(&a->findings[i]));
    json_object_set_new(o, "path", str(a->path));
    json_object_set_new(o, "format", a->m ? json_string(lm_model_format(a->m)->name) : json_null());
    json_object_set_new(o, "architecture", str(a->arch));
    json_object_set_new(o, "n_layers", a->has_config ? num(a->config.n_layers) : json_null());
    json_object_set_new(o, "n_tensors", num(a->n_tensors));
    json_object_set_new(o, "n_params", num(a->n_params));
    json_object_set_new(o, "n_active", num(a->n_active));
    json_object_set_new(o, "n_multiplied", num(a->n_multiplied));
    json_object_set_new(o, "n_bytes", num(a->n_bytes));
    json_object_set_new(o, "errors", num(a->n_of[LM_ERROR]));
    json_object_set_new(o, "warnings", num(a->n_of[LM_WARNING]));
    json_object_set_new(o, "notes", num(a->n_of[LM_NOTE]));
    json_object_set_new(o, "findings", findings);
    json_object_set_new(o, "engines", engines_json(a));
    json_object_set_new(o, "memory", memory_json(&a->memory));
    json_object_set_new(o, "template",
                        a->template_hash ? json_pack("{s:s, s:I}", "sha256", a->template_hash, "n_bytes",
                                                     (json_int_t)a->template_bytes) : json_null());
    return o;
}

json_t *audit_json(const struct lm_audit *a)
{
    json_t *o = audit_summary_json(a), *tensors = json_array();

    for (size_t i = 0; i < a->n_tensors; i++)
        json_array_append_new(tensors, tensor_json(&a->tensors[i]));
    json_object_set_new(o, "tensors", tensors);
    return o;
}
