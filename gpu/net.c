/* From a binding (which tensor plays which role) to an lm_net. */
#include <math.h>
#include "gpu/net.h"

#define DEFAULT_CTX 4096

/* Is the tensor of a role stored the other way round in this model's naming? */
static bool is_transposed(const struct lm_binding *b, enum lm_role role)
{
    const struct lm_arch *a = b->config.arch;

    for (size_t i = 0; b->naming == LM_NAMES_HF && i < a->n_rows; i++)
        if (a->rows[i].role == role)
            return a->rows[i].transform == LM_T_TRANSPOSE;
    return false;
}

static int refuse(const struct lm_tensor *t, const char *why, struct lm_err *e)
{
    char shape[128];
    return lm_err_set(e, LM_UNSUPPORTED, "tensor %s (%s %s) cannot be computed with: %s", t->name,
                      lm_dtype_name(t->dtype), lm_tensor_shape_str(t, shape, sizeof shape), why);
}

static int check_computable(const struct lm_tensor *t, bool transposed, struct lm_err *e)
{
    const struct lm_dtype_info *i = lm_dtype_info(t->dtype);

    if (!i->to_f32)
        return refuse(t, "this type is listed and copied, not decoded", e);
    if (i->kind != LM_KIND_FLOAT && i->kind != LM_KIND_QUANT)
        return refuse(t, "weights must be floating point or quantized", e);
    if (t->n_dims == 0 || t->shape[t->n_dims - 1] % i->block_elems)
        return refuse(t, "its rows are not whole blocks", e);
    if (transposed && i->block_elems > 1)
        return refuse(t, "blocks run across the outputs; convert the model to GGUF first", e);
    return 0;
}

static int widen(struct lm_engine *g, const struct lm_tensor *t, const float **out, struct lm_err *e)
{
    float *v;

    if (check_computable(t, false, e))
        return -1;
    if (!(v = lm_arena_array(&g->arena, (size_t)t->n_elems, sizeof *v)))
        return lm_err_set(e, LM_NOMEM, "out of memory for %s", t->name);
    *out = v;
    return lm_tensor_to_f32(t, 0, t->n_elems, v, e) ? lm_err_prefix(e, "%s", t->name) : 0;
}

static int set_vec(struct lm_engine *g, struct lm_vec *v, enum lm_role role, int layer, struct lm_err *e)
{
    const struct lm_tensor *t = lm_bound_tensor(g->binding, role, layer);

    if (!t)
        return 0;
    v->n = (uint32_t)t->n_elems;
    return widen(g, t, &v->data, e);
}

/* bias: its role, or LM_N_ROLES for none. */
static int set_mat(struct lm_engine *g, struct lm_mat *m, enum lm_role role, enum lm_role bias, int layer,
                   struct lm_err *e)
{
    const struct lm_tensor *t = lm_bound_tensor(g->binding, role, layer);
    const struct lm_tensor *b = bias == LM_N_ROLES ? NULL : lm_bound_tensor(g->binding, bias, layer);

    if (!t)
        return 0;
    m->tensor = t;
    m->transposed = is_transposed(g->binding, role);
    if (t->n_dims != 2 || t->shape[0] > INT32_MAX || t->shape[1] > INT32_MAX)
        return refuse(t, "a matrix is needed", e);
    m->rows = (uint32_t)t->shape[m->transposed];
    m->cols = (uint32_t)t->shape[!m->transposed];
    if (check_computable(t, m->transposed, e))
        return -1;
    return b ? widen(g, b, &m->bias, e) : 0;
}

static int set_layer(struct lm_engine *g, struct lm_layer_weights *w, int i, struct lm_err *e)
{
    const struct { struct lm_vec *v; enum lm_role role; } vecs[] = {
        {&w->attn_norm, LM_ROLE_ATTN_NORM}, {&w->attn_norm_b, LM_ROLE_ATTN_NORM_B},
        {&w->ffn_norm, LM_ROLE_FFN_NORM},   {&w->ffn_norm_b, LM_ROLE_FFN_NORM_B},
    };
    const struct { struct lm_mat *m; enum lm_role role, bias; } mats[] = {
        {&w->q, LM_ROLE_ATTN_Q, LM_ROLE_ATTN_Q_B},          {&w->k, LM_ROLE_ATTN_K, LM_ROLE_ATTN_K_B},
        {&w->v, LM_ROLE_ATTN_V, LM_ROLE_ATTN_V_B},          {&w->qkv, LM_ROLE_ATTN_QKV, LM_ROLE_ATTN_QKV_B},
        {&w->out, LM_ROLE_ATTN_OUT, LM_ROLE_ATTN_OUT_B},    {&w->gate, LM_ROLE_FFN_GATE, LM_ROLE_FFN_GATE_B},
        {&w->up, LM_ROLE_FFN_UP, LM_ROLE_FFN_UP_B},         {&w->down, LM_ROLE_FFN_DOWN, LM_ROLE_FFN_DOWN_B},
    };

    for (size_t j = 0; j < sizeof vecs / sizeof *vecs; j++)
        if (set_vec(g, vecs[j].v, vecs[j].role, i, e))
            return -1;
    for (size_t j = 0; j < sizeof mats / sizeof *mats; j++)
        if (set_mat(g, mats[j].m, mats[j].role, mats[j].bias, i, e))
            return -1;
    return 0;
}

static int set_weights(struct lm_engine *g, struct lm_err *e)
{
    struct lm_net *net = &g->net;

    if (!(net->layers = lm_arena_array(&g->arena, net->config.n_layers, sizeof *net->layers)))
        return lm_err_set(e, LM_NOMEM, "out of memory for %u layers", net->config.n_layers);
    if (set_mat(g, &net->embed, LM_ROLE_TOKEN_EMBD, LM_N_ROLES, -1, e) ||
        set_mat(g, &net->pos_embed, LM_ROLE_POS_EMBD, LM_N_ROLES, -1, e) ||
        set_mat(g, &net->head, LM_ROLE_OUTPUT, LM_N_ROLES, -1, e) ||
        set_vec(g, &net->out_norm, LM_ROLE_OUTPUT_NORM, -1, e) ||
        set_vec(g, &net->out_norm_b, LM_ROLE_OUTPUT_NORM_B, -1, e))
        return -1;
    if (!net->head.tensor)
        net->head = net->embed;
    for (uint32_t i = 0; i < net->config.n_layers; i++)
        if (set_layer(g, net->layers + i, (int)i, e))
            return -1;
    return 0;
}

/* Angles per position. A GGUF says Llama 3's scaling only by its divisors. */
static int rope_freqs(struct lm_engine *g, double *freqs, double *mscale, struct lm_err *e)
{
    const struct lm_tensor *t = lm_bound_tensor(g->binding, LM_ROLE_ROPE_FREQS, -1);
    struct lm_config c = g->net.config;
    const float *divisors;

    if (t && c.scaling == LM_SCALING_LLAMA3)
        c.scaling = LM_SCALING_NONE;
    lm_rope_freqs(&c, freqs, mscale);
    if (!t)
        return 0;
    if (widen(g, t, &divisors, e))
        return -1;
    for (uint32_t j = 0; j < c.d_rope / 2; j++)
        freqs[j] /= (double)divisors[j];
    return 0;
}

static int set_rope(struct lm_engine *g, struct lm_err *e)
{
    struct lm_net *net = &g->net;
    size_t half = net->config.d_rope / 2;
    double *freqs, mscale;
    float *c, *s;

    net->rope = g->binding->rope;
    if (net->rope == LM_ROPE_NONE)
        return 0;
    freqs = lm_arena_array(&g->arena, half, sizeof *freqs);
    c = lm_arena_array(&g->arena, net->ctx_len, half * sizeof *c);
    s = lm_arena_array(&g->arena, net->ctx_len, half * sizeof *s);
    if (!freqs || !c || !s)
        return lm_err_set(e, LM_NOMEM, "out of memory for the rotations of %u positions", net->ctx_len);
    if (rope_freqs(g, freqs, &mscale, e))
        return -1;
#pragma omp parallel for
    for (size_t p = 0; p < net->ctx_len; p++)
        for (size_t j = 0; j < half; j++) {
            c[p * half + j] = (float)(cos((double)p * freqs[j]) * mscale);
            s[p * half + j] = (float)(sin((double)p * freqs[j]) * mscale);
        }
    net->rope_cos = c;
    net->rope_sin = s;
    return 0;
}

int lmi_net_build(struct lm_engine *g, uint32_t ctx_len, struct lm_err *e)
{
    struct lm_net *net = &g->net;
    uint32_t trained;

    net->config = g->binding->config;
    trained = net->config.ctx_len;
    net->ctx_len = ctx_len ? ctx_len : trained < DEFAULT_CTX ? trained : DEFAULT_CTX;
    if (net->config.arch->learned_positions && net->ctx_len > trained)
        return lm_err_set(e, LM_LIMIT, "%u positions were asked for, but %s has learned %u: ask for at most those",
                          net->ctx_len, lm_model_path(g->model), trained);
    return set_weights(g, e) || set_rope(g, e) ? -1 : 0;
}
