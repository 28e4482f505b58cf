/* lm-list --json. */
#include <stdlib.h>

#include "cmd/list.h"

static void set_members(json_t *o, const struct lm_tensor *t)
{
    json_t *a = json_array();

    for (size_t i = 0; i < lm_tensor_n_members(t); i++)
        json_array_append_new(a, cli_json_str(lm_span_str(lm_tensor_member(t, i)->name)));
    json_object_set_new(o, "stored_as", json_string(lm_tensor_scheme(t)));
    json_object_set_new(o, "members", a);
}

static json_t *tensor_json(const struct listing *l, const struct list_row *r)
{
    json_t *o = json_object(), *shape = json_array();

    for (unsigned i = 0; i < r->t->n_dims; i++)
        json_array_append_new(shape, json_integer((json_int_t)r->t->shape[i]));
    json_object_set_new(o, "name", cli_json_str(lm_span_str(list_row_name(l, r))));
    json_object_set_new(o, "dtype", json_string(lm_dtype_name(r->t->dtype)));
    json_object_set_new(o, "shape", shape);
    json_object_set_new(o, "n_params", json_integer((json_int_t)r->n_params));
    json_object_set_new(o, "n_bytes", json_integer((json_int_t)r->n_bytes));
    json_object_set_new(o, "share", json_real(list_share(l, r->n_params)));
    if (r->t->packed)
        set_members(o, r->t);
    if (r->count > 1)
        json_object_set_new(o, "count", json_integer((json_int_t)r->count));
    if (r->shared)
        json_object_set_new(o, "shared", json_true());
    return o;
}

static json_t *groups_json(struct listing *l)
{
    json_t *a = json_array();
    size_t n;
    struct list_group *g = list_groups(l, l->rows, l->n_rows, &n);

    for (size_t i = 0; i < n; i++)
        json_array_append_new(a, json_pack("{so sI sI sI sf}", "key", cli_json_str(lm_span_str(g[i].key)), "n_tensors",
                                           (json_int_t)g[i].n_tensors, "n_params", (json_int_t)g[i].n_params,
                                           "n_bytes", (json_int_t)g[i].n_bytes, "share",
                                           list_share(l, g[i].n_params)));
    free(g);
    return a;
}

static json_t *left_out_json(const struct lm_model *m)
{
    json_t *a = json_array();

    for (size_t i = 0; i < lm_model_n_left_out(m); i++)
        json_array_append_new(a, json_string(lm_model_left_out(m, i)));
    return a;
}

json_t *list_json(struct listing *l, json_t *config)
{
    json_t *o = json_object(), *tensors = json_array();

    json_object_set_new(o, "format", json_string(lm_model_format(l->m)->name));
    json_object_set_new(o, "architecture", l->arch ? cli_json_str(lm_span_str(l->arch)) : json_null());
    json_object_set_new(o, "n_layers", json_integer(l->n_layers));
    json_object_set_new(o, "n_tensors", json_integer((json_int_t)lm_model_n_tensors(l->m)));
    json_object_set_new(o, "n_params", json_integer((json_int_t)l->n_params));
    json_object_set_new(o, "n_bytes", json_integer((json_int_t)l->n_bytes));
    if (l->o.by)
        json_object_set_new(o, "groups", groups_json(l));
    if (l->o.meta)
        json_object_set_new(o, "metadata", list_meta_json(l, config));
    for (size_t i = 0; i < l->n_rows; i++)
        json_array_append_new(tensors, tensor_json(l, &l->rows[i]));
    json_object_set_new(o, "tensors", tensors);
    if (lm_model_n_left_out(l->m))
        json_object_set_new(o, "left_out", left_out_json(l->m));
    return o;
}
