/* Safetensors whose matrices are stored quantized: which of them, and what
 * config.json then says.  The names, types and settings are those that
 * compressed-tensors, transformers and vLLM read. */
#include <stdlib.h>

#include <jansson.h>

#include "convert/plan.h"

/* The matrices of layers; not embeddings, the output matrix, routers, experts in one tensor. */
static bool is_linear(const struct lm_plan_item *it)
{
    switch (it->role) {
    case LM_ROLE_ATTN_Q: case LM_ROLE_ATTN_K: case LM_ROLE_ATTN_V: case LM_ROLE_ATTN_QKV: case LM_ROLE_ATTN_OUT:
    case LM_ROLE_FFN_GATE: case LM_ROLE_FFN_UP: case LM_ROLE_FFN_DOWN: case LM_ROLE_FFN_GATE_UP: case LM_ROLE_GATE_EXPS:
    case LM_ROLE_UP_EXPS: case LM_ROLE_DOWN_EXPS: case LM_ROLE_GATE_SHEXP: case LM_ROLE_UP_SHEXP: case LM_ROLE_DOWN_SHEXP:
    case LM_ROLE_MLA_Q_A: case LM_ROLE_MLA_Q_B: case LM_ROLE_MLA_KV_A: case LM_ROLE_MLA_K_B: case LM_ROLE_MLA_V_B:
        return it->n_dims == 2 && lmc_has_suffix(it->name, ".weight");
    default:
        return false;
    }
}

/* GPT-2's matrices lie transposed, which no module of these formats expects. */
static int check(const struct lm_plan *p, struct lm_err *e)
{
    if (lmc_renames(p) || !p->bind || p->bind->naming != LM_NAMES_HF)
        return lm_err_set(e, LM_UNSUPPORTED, "quantized safetensors are made of a Hugging Face checkpoint whose architecture "
                          "is known: convert the model to safetensors first");
    if (!lmc_is_safetensors(p->req.to))
        return lm_err_set(e, LM_USAGE, "--type %s is for safetensors (--to safetensors)", p->req.pack->name);
    for (const struct lm_arch_row *r = p->bind->config.arch->rows; r < p->bind->config.arch->rows + p->bind->config.arch->n_rows; r++)
        if (r->transform == LM_T_TRANSPOSE)
            return lm_err_set(e, LM_UNSUPPORTED, "the matrices of %s lie transposed: they are not stored as %s",
                              p->bind->config.arch->title, p->req.pack->name);
    return 0;
}

static enum lm_dtype scale_type(const struct lm_plan *p, const struct lm_plan_item *it)
{
    enum lm_dtype d = it->src->packed ? lm_tensor_meant_dtype(it->src) : it->src->dtype;

    return p->req.pack->codes != LM_PACK_FP8 && (d == LM_BF16 || d == LM_F16) ? d : LM_F32;
}

static int pack_item(struct lm_plan *p, size_t i, struct lm_err *e)
{
    struct lm_tensor *parts = lm_arena_array(&p->arena, LM_PACK_PARTS, sizeof *parts);
    struct lm_plan_item like = p->items[i];
    size_t n;

    if (!parts)
        return lmc_nomem(e);
    if (lm_tensor_pack(&p->arena, like.src, p->req.pack, p->req.pack_group ? p->req.pack_group : 128, scale_type(p, &like),
                       parts, &n, e) < 0)
        return -1;
    for (size_t k = 0; k < n; k++) {
        struct lm_plan_item *it = k == 0 ? &p->items[i] : lmc_new_item(p);
        if (!it)
            return lmc_nomem(e);
        *it = like;
        it->src = &parts[k];
        it->packs = k == 0 ? 1 : 2;
        it->why = NULL;
        it->name = (char *)(uintptr_t)parts[k].name;
        it->dtype = parts[k].dtype;
        it->n_dims = parts[k].n_dims;
        memcpy(it->shape, parts[k].shape, sizeof it->shape);
    }
    return 0;
}

int lmc_plan_pack(struct lm_plan *p, struct lm_err *e)
{
    size_t n = p->n_items, packed = 0;

    if (!p->req.pack)
        return 0;
    if (check(p, e))
        return -1;
    for (size_t i = 0; i < n; i++) {
        if (!is_linear(&p->items[i]))
            continue;
        if (pack_item(p, i, e))
            return -1;
        packed++;
    }
    if (packed == 0)
        return lm_err_set(e, LM_UNSUPPORTED, "no matrix of this model can be stored as %s", p->req.pack->name);
    return lmc_note(p, e, "%zu matrices are stored as %s, rounded to nearest; embeddings, output matrix, routers and norms keep "
                    "their types", packed, p->req.pack->name);
}

/* ---- config.json */

/* Modules with a matrix that is not quantized. */
static json_t *ignored(const struct lm_plan *p)
{
    json_t *list = json_array();

    json_array_append_new(list, json_string("lm_head"));
    for (size_t i = 0; i < p->n_items; i++) {
        const struct lm_plan_item *it = &p->items[i];
        bool router = it->role == LM_ROLE_ROUTER || it->role == LM_ROLE_SHEXP_GATE;
        if (router && !it->packs && lmc_has_suffix(it->name, ".weight"))
            json_array_append_new(list, json_stringn(it->name, strlen(it->name) - strlen(".weight")));
    }
    return list;
}

static json_t *weights_args(const struct lm_plan *p)
{
    static const char *const strategies[] = {"channel", "tensor", "block", "group"};
    const struct lm_pack_type *t = p->req.pack;
    bool group = t->scales == LM_PACK_GROUP;

    return json_pack("{si ss sb ss so sb sn s{}}", "num_bits", t->codes == LM_PACK_INT4 ? 4 : 8, "type",
                     t->codes == LM_PACK_FP8 ? "float" : "int", "symmetric", 1, "strategy", strategies[t->scales], "group_size",
                     group ? json_integer(p->req.pack_group ? p->req.pack_group : 128) : json_null(), "dynamic", 0, "actorder",
                     "observer_kwargs");
}

/* Eight-bit weights go with activations quantized when they are used; four-bit ones with plain ones. */
static json_t *input_args(const struct lm_plan *p)
{
    if (p->req.pack->codes == LM_PACK_INT4)
        return json_null();
    return json_pack("{si ss sb ss sn sb sn s{}}", "num_bits", 8, "type", p->req.pack->codes == LM_PACK_FP8 ? "float" : "int",
                     "symmetric", 1, "strategy", "token", "group_size", "dynamic", 1, "actorder", "observer_kwargs");
}

json_t *lmc_pack_config(const struct lm_plan *p)
{
    const struct lm_pack_type *t = p->req.pack;

    if (strcmp(t->method, "fp8") == 0)
        return json_pack("{ss ss ss s[ii] so}", "quant_method", "fp8", "fmt", "e4m3", "activation_scheme", "dynamic",
                         "weight_block_size", 128, 128, "modules_to_not_convert", ignored(p));
    return json_pack("{ss ss ss sn sn so s{s{s[s] so so sn ss}}}", "quant_method", "compressed-tensors", "format", t->format,
                     "quantization_status", "compressed", "global_compression_ratio", "kv_cache_scheme", "ignore", ignored(p),
                     "config_groups", "group_0", "targets", "Linear", "weights", weights_args(p), "input_activations",
                     input_args(p), "output_activations", "format", t->format);
}
