/* lm-trace as JSON. */
#include <math.h>
#include <stdlib.h>

#include "cmd/trace.h"

json_t *trace_piece_json(const struct trace *t, int32_t id)
{
    uint8_t bytes[512];

    if ((size_t)id >= t->l.vocab->n_pieces)
        return json_null();
    size_t n = lm_tokenizer_piece_bytes(t->l.tok, id, false, true, bytes, sizeof bytes);
    return cli_json_str(lm_span_of(bytes, n < sizeof bytes ? n : sizeof bytes));
}

static json_t *shape_json(const struct lm_tensor *w)
{
    json_t *a = json_array();

    for (unsigned i = 0; i < w->n_dims; i++)
        json_array_append_new(a, json_integer((json_int_t)w->shape[i]));
    return a;
}

static json_t *first_json(const struct trace *t, const struct lm_tensor *of, const float *row, uint64_t row_index)
{
    json_t *a = json_array();

    for (size_t i = 0; i < t->config->d_model && i < TRACE_FIRST; i++)
        json_array_append_new(a, cli_json_real(trace_value(t, of, row, row_index, i)));
    return a;
}

static json_t *tokens_json(const struct trace *t)
{
    json_t *a = json_array();

    for (size_t i = 0; i < t->ids.n; i++)
        json_array_append_new(a, json_pack("{si so}", "id", (int)t->ids.ids[i], "piece", trace_piece_json(t, t->ids.ids[i])));
    return a;
}

static json_t *embedding_json(const struct trace *t)
{
    const struct lm_tensor *w = t->embedding;
    int32_t id = t->ids.ids[t->at];
    json_t *o = json_object();

    json_object_set_new(o, "tensor", cli_json_str(lm_span_str(w->name)));
    json_object_set_new(o, "dtype", json_string(lm_dtype_name(w->dtype)));
    json_object_set_new(o, "shape", shape_json(w));
    json_object_set_new(o, "row", json_integer(id));
    json_object_set_new(o, "n_params", json_integer((json_int_t)w->n_elems));
    json_object_set_new(o, "share", cli_json_real((double)w->n_elems / (double)t->n_params));
    json_object_set_new(o, "norm", cli_json_real(trace_norm(t->row, t->config->d_model)));
    json_object_set_new(o, "first", first_json(t, w, t->row, (uint64_t)id));
    return o;
}

static json_t *position_json(const struct trace *t)
{
    json_t *o = json_object();

    json_object_set_new(o, "kind", json_string(t->positions ? "learned" : "rope"));
    json_object_set_new(o, "position", json_integer((json_int_t)t->at));
    if (t->positions) {
        json_object_set_new(o, "tensor", cli_json_str(lm_span_str(t->positions->name)));
        json_object_set_new(o, "shape", shape_json(t->positions));
        json_object_set_new(o, "norm", cli_json_real(trace_norm(t->pos_row, t->config->d_model)));
        json_object_set_new(o, "first", first_json(t, t->positions, t->pos_row, t->at));
        json_object_set_new(o, "sum_norm", cli_json_real(trace_norm(t->input, t->config->d_model)));
        return o;
    }
    json_t *pairs = json_array();
    for (uint32_t i = 0; i < t->config->d_rope / 2; i++)
        json_array_append_new(pairs, json_pack("{si sf sf}", "pair", (int)i, "frequency", t->freqs[i], "angle",
                                               (double)t->at * t->freqs[i]));
    json_object_set_new(o, "scale", cli_json_real(t->mscale));
    json_object_set_new(o, "pairs", pairs);
    return o;
}

static json_t *shapes_json(const struct trace *t, int layer)
{
    static const enum lm_role roles[] = {LM_ROLE_ATTN_Q, LM_ROLE_ATTN_K, LM_ROLE_ATTN_V, LM_ROLE_ATTN_QKV,
                                         LM_ROLE_ATTN_OUT, LM_ROLE_FFN_GATE, LM_ROLE_FFN_UP, LM_ROLE_FFN_DOWN};
    json_t *o = json_object();

    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++) {
        const struct lm_tensor *w = lm_bound_tensor(lm_engine_binding(t->l.engine), roles[i], layer);
        if (w)
            json_object_set_new(o, lm_role_name(roles[i]), shape_json(w));
    }
    return o;
}

static json_t *layers_json(const struct trace *t)
{
    json_t *a = json_array();

    for (uint32_t i = 0; i < t->config->n_layers; i++) {
        const struct trace_layer *l = &t->layers[i];
        json_t *o = json_object(), *looks = json_array();
        for (size_t k = 0; k < l->n_looks; k++)
            json_array_append_new(looks, json_pack("{sI sf}", "position", (json_int_t)l->looks[k].position, "weight",
                                                   l->looks[k].weight));
        json_object_set_new(o, "layer", json_integer(i));
        json_object_set_new(o, "shapes", shapes_json(t, (int)i));
        json_object_set_new(o, "norm_in", cli_json_real(l->norm_in));
        json_object_set_new(o, "norm_attention", cli_json_real(l->norm_attn));
        json_object_set_new(o, "norm_out", cli_json_real(l->norm_out));
        json_object_set_new(o, "looks_at", looks);
        json_object_set_new(o, "strongest_head",
                            json_pack("{si sI sf}", "head", (int)l->head, "position",
                                      (json_int_t)l->head_look.position, "weight", l->head_look.weight));
        json_array_append_new(a, o);
    }
    return a;
}

json_t *trace_json(const struct trace *t)
{
    json_t *o = json_object(), *next = json_array();

    for (size_t i = 0; i < t->n_next; i++)
        json_array_append_new(next, json_pack("{si so so}", "id", (int)t->next[i].id, "piece",
                                              trace_piece_json(t, t->next[i].id), "p", cli_json_real(t->next[i].p)));
    json_object_set_new(o, "tokens", tokens_json(t));
    json_object_set_new(o, "token", json_integer((json_int_t)t->at));
    json_object_set_new(o, "embedding", embedding_json(t));
    json_object_set_new(o, "position", position_json(t));
    json_object_set_new(o, "layers", layers_json(t));
    json_object_set_new(o, "next", next);
    return o;
}
