/* lm-diff as JSON. */
#include "cmd/diff_show.h"

static json_t *str_json(const char *s)
{
    return s ? cli_json_str(lm_span_str(s)) : json_null();
}

static json_t *int_json(uint64_t v)
{
    return json_integer((json_int_t)v);
}

static json_t *source_json(const struct lm_tensor *t)
{
    json_t *shape = json_array();

    if (!t) {
        json_decref(shape);
        return json_null();
    }
    for (unsigned i = 0; i < t->n_dims; i++)
        json_array_append_new(shape, int_json(t->shape[i]));
    return json_pack("{s:o, s:s, s:o}", "name", str_json(t->name), "dtype", lm_dtype_name(t->dtype), "shape", shape);
}

static json_t *tensor_json(const struct lm_diff_tensor *t)
{
    json_t *o = json_object();

    json_object_set_new(o, "name", str_json(t->name));
    json_object_set_new(o, "role", json_string(lm_role_name(t->role)));
    json_object_set_new(o, "layer", json_integer(t->layer));
    json_object_set_new(o, "kind", json_string(lm_diff_kind_name(t->kind)));
    json_object_set_new(o, "what", str_json(t->what));
    json_object_set_new(o, "a", source_json(t->a));
    json_object_set_new(o, "b", source_json(t->b));
    json_object_set_new(o, "n_compared", int_json(t->n_compared));
    json_object_set_new(o, "n_differ", int_json(t->n_differ));
    json_object_set_new(o, "rows_added", json_integer(t->rows_added));
    json_object_set_new(o, "relative", cli_json_real(t->relative));
    json_object_set_new(o, "cosine", cli_json_real(t->cosine));
    json_object_set_new(o, "largest", cli_json_real(t->largest));
    json_object_set_new(o, "largest_at", int_json(t->largest_at));
    json_object_set_new(o, "expected", cli_json_real(t->expected));
    json_object_set_new(o, "rank", t->has_rank ? json_integer(t->rank) : json_null());
    json_object_set_new(o, "rank_limit", t->has_rank ? json_integer(t->rank_limit) : json_null());
    return o;
}

static json_t *side_json(struct lm_model *m, const char *arch)
{
    return json_pack("{s:o, s:s, s:o}", "path", str_json(lm_model_path(m)), "format", lm_model_format(m)->name,
                     "architecture", str_json(arch));
}

void diff_print_json(const struct diff_view *v, struct lm_model *a, struct lm_model *b, bool equal)
{
    json_t *o = json_object(), *counts = json_object(), *tensors = json_array(), *notes = json_array();

    for (int k = 0; k < LM_N_DIFF_KINDS; k++)
        json_object_set_new(counts, lm_diff_kind_name((enum lm_diff_kind)k), int_json(v->d->n_of[k]));
    for (size_t i = 0; i < v->d->n_tensors; i++)
        json_array_append_new(tensors, tensor_json(&v->d->tensors[i]));
    for (size_t i = 0; i < v->d->n_notes && !v->o->no_text; i++) {
        const struct lm_diff_note *n = &v->d->notes[i];
        json_array_append_new(notes, json_pack("{s:s, s:o, s:o, s:o}", "where", n->where, "key", str_json(n->key), "a",
                                               str_json(n->a), "b", str_json(n->b)));
    }
    json_object_set_new(o, "a", side_json(a, v->d->arch_a));
    json_object_set_new(o, "b", side_json(b, v->d->arch_b));
    json_object_set_new(o, "equal", json_boolean(equal));
    json_object_set_new(o, "counts", counts);
    json_object_set_new(o, "tensors", tensors);
    json_object_set_new(o, "notes", notes);
    cli_json_print(o);
}
