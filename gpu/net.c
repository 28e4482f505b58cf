/* From a binding (which tensor plays which role) to an lm_net. */
#include <math.h>
#include "gpu/net.h"

#define DEFAULT_CTX 4096

struct build {
    struct lm_engine *g;
    bool exact; /* vectors in double too */
};

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

/* ---- vectors */

static int no_memory(const struct lm_tensor *t, struct lm_err *e)
{
    return lm_err_set(e, LM_NOMEM, "out of memory for %s", t->name);
}

/* Elements of a part, one by one: it may be every second of a row. */
static int widen_part(const struct lm_part *p, double shift, float *v, double *exact, struct lm_err *e)
{
    for (uint64_t i = 0; i < p->n[0]; i++) {
        uint64_t at = p->at + i * p->step[0];
        double x;
        if (p->t->dtype == LM_F64 && !p->t->big_endian) {
            memcpy(&x, p->t->data + 8 * at, sizeof x);
        } else {
            if (lm_tensor_to_f32(p->t, at, 1, &v[i], e) < 0)
                return lm_err_prefix(e, "%s", p->t->name);
            x = (double)v[i];
        }
        v[i] = (float)x + (float)shift;
        if (exact)
            exact[i] = x + shift;
    }
    return 0;
}

static int widen_whole(const struct lm_part *p, float *v, struct lm_err *e)
{
    return lm_tensor_to_f32(p->t, p->at, p->n[0], v, e) ? lm_err_prefix(e, "%s", p->t->name) : 0;
}

/* One of a part [n, 1]; shift: Gemma's 1 + weight in Hugging Face's files. */
static int widen(const struct build *b, const struct lm_part *p, const float **out, const double **exact,
                 struct lm_err *e)
{
    size_t n = (size_t)p->n[0];
    bool hf = b->g->binding->naming == LM_NAMES_HF;
    double shift = hf && p->row && p->row->transform == LM_T_PLUS_ONE ? 1 : 0;
    uint32_t block = lm_dtype_info(p->t->dtype)->block_elems;
    float *v;
    double *x = NULL;

    if (check_computable(p->t, false, e))
        return -1;
    if (!(v = lm_arena_array(&b->g->arena, n, sizeof *v)) ||
        (b->exact && !(x = lm_arena_array(&b->g->arena, n, sizeof *x))))
        return no_memory(p->t, e);
    *out = v;
    *exact = x;
    if (block > 1 && (p->step[0] != 1 || shift != 0))
        return refuse(p->t, "a vector of blocks", e);
    if (block > 1 || (p->step[0] == 1 && shift == 0 && !x))
        return widen_whole(p, v, e);
    return widen_part(p, shift, v, x, e);
}

static int set_vec(const struct build *b, struct lm_vec *v, enum lm_role role, int layer, struct lm_err *e)
{
    struct lm_part p;

    if (!lm_bound_part(b->g->binding, role, layer, 0, &p))
        return 0;
    if (p.t->n_dims > 1)
        return refuse(p.t, "a vector is needed", e);
    v->n = (uint32_t)p.n[0];
    return widen(b, &p, &v->data, &v->exact, e);
}

/* ---- matrices */

static bool is_whole(const struct lm_part *p, bool transposed)
{
    return p->t->n_dims == 2 && p->at == 0 && p->n[0] * p->n[1] == p->t->n_elems && !(transposed && p->step[0] != 1);
}

static int place_mat(struct lm_mat *m, const struct lm_part *p, struct lm_err *e)
{
    m->tensor = p->t;
    if (p->t->n_dims < 2 || p->n[0] > INT32_MAX || p->n[1] > INT32_MAX)
        return refuse(p->t, "a matrix is needed", e);
    m->rows = (uint32_t)p->n[0];
    m->cols = (uint32_t)p->n[1];
    m->transposed = p->step[1] != 1 && p->n[1] > 1;
    m->part = !is_whole(p, m->transposed);
    if (m->part) {
        m->at = p->at;
        m->row_step = p->step[0];
        m->col_step = p->step[1];
    }
    return check_computable(p->t, m->transposed, e);
}

/* bias: its role, or LM_N_ROLES for none. index: the expert or head. */
static int set_mat_at(const struct build *b, struct lm_mat *m, enum lm_role role, enum lm_role bias, int layer,
                      uint32_t index, struct lm_err *e)
{
    struct lm_part p, v;

    if (!lm_bound_part(b->g->binding, role, layer, index, &p))
        return 0;
    if (place_mat(m, &p, e))
        return -1;
    if (bias == LM_N_ROLES || !lm_bound_part(b->g->binding, bias, layer, index, &v))
        return 0;
    return widen(b, &v, &m->bias, &m->bias_exact, e);
}

static int set_mat(const struct build *b, struct lm_mat *m, enum lm_role role, enum lm_role bias, int layer,
                   struct lm_err *e)
{
    return set_mat_at(b, m, role, bias, layer, 0, e);
}

/* One for each expert or head; NULL where the role is absent. */
static int set_many(const struct build *b, struct lm_mat **m, enum lm_role role, enum lm_role bias, int layer,
                    uint32_t n, struct lm_err *e)
{
    if (!lm_bound_tensor(b->g->binding, role, layer))
        return 0;
    if (!(*m = lm_arena_array(&b->g->arena, n, sizeof **m)))
        return lm_err_set(e, LM_NOMEM, "out of memory for %u matrices", n);
    for (uint32_t i = 0; i < n; i++)
        if (set_mat_at(b, *m + i, role, bias, layer, i, e))
            return -1;
    return 0;
}

/* Gate above up in one matrix. */
static int split_gate_up(const struct build *b, struct lm_layer_weights *w, int layer, struct lm_err *e)
{
    struct lm_part p;

    if (!lm_bound_part(b->g->binding, LM_ROLE_FFN_GATE_UP, layer, 0, &p))
        return 0;
    p.n[0] /= 2;
    if (place_mat(&w->gate, &p, e))
        return -1;
    p.at += p.n[0] * p.step[0];
    return place_mat(&w->up, &p, e);
}

/* ---- layers */

static int set_vecs(const struct build *b, struct lm_layer_weights *w, int i, struct lm_err *e)
{
    const struct { struct lm_vec *v; enum lm_role role; } vecs[] = {
        {&w->attn_norm, LM_ROLE_ATTN_NORM}, {&w->attn_norm_b, LM_ROLE_ATTN_NORM_B},
        {&w->ffn_norm, LM_ROLE_FFN_NORM},   {&w->ffn_norm_b, LM_ROLE_FFN_NORM_B},
        {&w->q_norm, LM_ROLE_ATTN_Q_NORM},  {&w->k_norm, LM_ROLE_ATTN_K_NORM},
        {&w->post_attn_norm, LM_ROLE_POST_ATTN_NORM}, {&w->post_ffn_norm, LM_ROLE_POST_FFN_NORM},
        {&w->sinks, LM_ROLE_ATTN_SINKS},    {&w->correction, LM_ROLE_ROUTER_CORRECTION},
        {&w->q_a_norm, LM_ROLE_MLA_Q_A_NORM}, {&w->kv_a_norm, LM_ROLE_MLA_KV_A_NORM},
    };

    for (size_t j = 0; j < sizeof vecs / sizeof *vecs; j++)
        if (set_vec(b, vecs[j].v, vecs[j].role, i, e))
            return -1;
    return 0;
}

/* A parallel layer may have one norm for both halves; of two, Falcon names the feed-forward's first. */
static int share_norms(const struct build *b, struct lm_layer_weights *w, int i, struct lm_err *e)
{
    if (b->g->net.config.parallel && !w->ffn_norm.data) {
        w->ffn_norm = w->attn_norm;
        w->ffn_norm_b = w->attn_norm_b;
    }
    return set_vec(b, &w->attn_norm, LM_ROLE_ATTN_NORM_2, i, e) ||
           set_vec(b, &w->attn_norm_b, LM_ROLE_ATTN_NORM_2_B, i, e) ? -1 : 0;
}

static int set_mats(const struct build *b, struct lm_layer_weights *w, int i, struct lm_err *e)
{
    const struct { struct lm_mat *m; enum lm_role role, bias; } mats[] = {
        {&w->q, LM_ROLE_ATTN_Q, LM_ROLE_ATTN_Q_B},          {&w->k, LM_ROLE_ATTN_K, LM_ROLE_ATTN_K_B},
        {&w->v, LM_ROLE_ATTN_V, LM_ROLE_ATTN_V_B},          {&w->qkv, LM_ROLE_ATTN_QKV, LM_ROLE_ATTN_QKV_B},
        {&w->out, LM_ROLE_ATTN_OUT, LM_ROLE_ATTN_OUT_B},    {&w->gate, LM_ROLE_FFN_GATE, LM_ROLE_FFN_GATE_B},
        {&w->up, LM_ROLE_FFN_UP, LM_ROLE_FFN_UP_B},         {&w->down, LM_ROLE_FFN_DOWN, LM_ROLE_FFN_DOWN_B},
        {&w->q_a, LM_ROLE_MLA_Q_A, LM_N_ROLES},             {&w->q_b, LM_ROLE_MLA_Q_B, LM_N_ROLES},
        {&w->kv_a, LM_ROLE_MLA_KV_A, LM_N_ROLES},           {&w->router, LM_ROLE_ROUTER, LM_ROLE_ROUTER_B},
        {&w->s_gate, LM_ROLE_GATE_SHEXP, LM_N_ROLES},       {&w->s_up, LM_ROLE_UP_SHEXP, LM_N_ROLES},
        {&w->s_down, LM_ROLE_DOWN_SHEXP, LM_N_ROLES},       {&w->s_router, LM_ROLE_SHEXP_GATE, LM_N_ROLES},
    };

    for (size_t j = 0; j < sizeof mats / sizeof *mats; j++)
        if (set_mat(b, mats[j].m, mats[j].role, mats[j].bias, i, e))
            return -1;
    return split_gate_up(b, w, i, e);
}

static int set_layer(const struct build *b, struct lm_layer_weights *w, int i, struct lm_err *e)
{
    const struct lm_config *c = &b->g->net.config;

    if (set_vecs(b, w, i, e) || share_norms(b, w, i, e) || set_mats(b, w, i, e))
        return -1;
    w->window = lm_config_window(c, (uint32_t)i);
    w->local_rope = w->window && c->rope_theta_local > 0;
    return set_many(b, &w->e_gate, LM_ROLE_GATE_EXPS, LM_ROLE_GATE_EXPS_B, i, c->n_experts, e) ||
           set_many(b, &w->e_up, LM_ROLE_UP_EXPS, LM_ROLE_UP_EXPS_B, i, c->n_experts, e) ||
           set_many(b, &w->e_down, LM_ROLE_DOWN_EXPS, LM_ROLE_DOWN_EXPS_B, i, c->n_experts, e) ||
           set_many(b, &w->k_b, LM_ROLE_MLA_K_B, LM_N_ROLES, i, c->n_heads, e) ||
           set_many(b, &w->v_b, LM_ROLE_MLA_V_B, LM_N_ROLES, i, c->n_heads, e) ? -1 : 0;
}

static int set_weights(const struct build *b, struct lm_err *e)
{
    struct lm_net *net = &b->g->net;

    if (!(net->layers = lm_arena_array(&b->g->arena, net->config.n_layers, sizeof *net->layers)))
        return lm_err_set(e, LM_NOMEM, "out of memory for %u layers", net->config.n_layers);
    if (set_mat(b, &net->embed, LM_ROLE_TOKEN_EMBD, LM_N_ROLES, -1, e) ||
        set_mat(b, &net->pos_embed, LM_ROLE_POS_EMBD, LM_N_ROLES, -1, e) ||
        set_mat(b, &net->head, LM_ROLE_OUTPUT, LM_N_ROLES, -1, e) ||
        set_vec(b, &net->out_norm, LM_ROLE_OUTPUT_NORM, -1, e) ||
        set_vec(b, &net->out_norm_b, LM_ROLE_OUTPUT_NORM_B, -1, e))
        return -1;
    if (!net->head.tensor)
        net->head = net->embed;
    for (uint32_t i = 0; i < net->config.n_layers; i++)
        if (set_layer(b, net->layers + i, (int)i, e))
            return -1;
    return 0;
}

/* ---- rotation */

/* A GGUF says Llama 3's scaling only by its divisors, LongRoPE by two sets of them. */
static int divide(const struct build *b, double *freqs, struct lm_err *e)
{
    const struct lm_config *c = &b->g->net.config;
    enum lm_role role = c->scaling != LM_SCALING_LONGROPE      ? LM_ROLE_ROPE_FREQS
                        : b->g->net.ctx_len > c->rope_orig_ctx ? LM_ROLE_ROPE_LONG
                                                               : LM_ROLE_ROPE_SHORT;
    struct lm_vec v = {0};

    if (set_vec(b, &v, role, -1, e))
        return -1;
    for (uint32_t j = 0; v.data && j < c->d_rope / 2; j++)
        freqs[j] /= v.exact ? v.exact[j] : (double)v.data[j];
    return 0;
}

static int make_freqs(const struct build *b, bool local, double **out, double *mscale, struct lm_err *e)
{
    struct lm_net *net = &b->g->net;
    struct lm_config c = net->config;

    if (!(*out = lm_arena_array(&b->g->arena, c.d_rope / 2, sizeof **out)))
        return lm_err_set(e, LM_NOMEM, "out of memory for %u rotations", c.d_rope / 2);
    if (c.scaling == LM_SCALING_LLAMA3 && lm_bound_tensor(b->g->binding, LM_ROLE_ROPE_FREQS, -1))
        c.scaling = LM_SCALING_NONE;
    lm_rope_freqs_for(&c, local, net->ctx_len, *out, mscale);
    return local ? 0 : divide(b, *out, e);
}

static int make_table(const struct build *b, const double *freqs, double mscale, const float **cosine,
                      const float **sine, struct lm_err *e)
{
    const struct lm_net *net = &b->g->net;
    size_t half = net->config.d_rope / 2;
    float *c = lm_arena_array(&b->g->arena, net->ctx_len, half * sizeof *c);
    float *s = lm_arena_array(&b->g->arena, net->ctx_len, half * sizeof *s);

    if (!c || !s)
        return lm_err_set(e, LM_NOMEM, "out of memory for the rotations of %u positions", net->ctx_len);
#pragma omp parallel for
    for (size_t p = 0; p < net->ctx_len; p++)
        for (size_t j = 0; j < half; j++) {
            c[p * half + j] = (float)(cos((double)p * freqs[j]) * mscale);
            s[p * half + j] = (float)(sin((double)p * freqs[j]) * mscale);
        }
    *cosine = c;
    *sine = s;
    return 0;
}

static int set_rope(const struct build *b, struct lm_err *e)
{
    struct lm_net *net = &b->g->net;
    double *freqs, mscale;

    net->rope = b->g->binding->rope;
    if (net->rope == LM_ROPE_NONE)
        return 0;
    if (make_freqs(b, false, &freqs, &net->rope_mscale, e) ||
        make_table(b, freqs, net->rope_mscale, &net->rope_cos, &net->rope_sin, e))
        return -1;
    net->rope_freqs = freqs;
    if (!net->config.sliding_window || net->config.rope_theta_local == 0)
        return 0;
    if (make_freqs(b, true, &freqs, &mscale, e) ||
        make_table(b, freqs, mscale, &net->local_cos, &net->local_sin, e))
        return -1;
    net->local_freqs = freqs;
    return 0;
}

/* ---- the whole */

static bool any_part(const struct lm_layer_weights *w)
{
    const struct lm_mat *mats[] = {&w->q, &w->k, &w->v, &w->qkv, &w->out, &w->gate, &w->up, &w->down};

    for (size_t i = 0; i < sizeof mats / sizeof *mats; i++)
        if (mats[i]->part)
            return true;
    return false;
}

static uint32_t layer_features(const struct lm_net *net, const struct lm_layer_weights *w)
{
    const struct lm_config *c = &net->config;
    uint32_t f = 0;

    f |= w->q_norm.data ? 1u << LM_FEATURE_QK_NORM : 0;
    f |= w->post_attn_norm.data || w->post_ffn_norm.data ? 1u << LM_FEATURE_POST_NORM : 0;
    f |= !w->attn_norm.data || !w->ffn_norm.data ? 1u << LM_FEATURE_NO_PRE_NORM : 0;
    f |= w->window != c->sliding_window ? 1u << LM_FEATURE_MIXED_WINDOWS : 0;
    f |= w->local_rope ? 1u << LM_FEATURE_LOCAL_ROPE : 0;
    f |= w->sinks.data ? 1u << LM_FEATURE_SINKS : 0;
    f |= w->router.tensor ? 1u << LM_FEATURE_EXPERTS : 0;
    return f | (any_part(w) ? 1u << LM_FEATURE_PARTS : 0);
}

static bool is_set(double scale)
{
    return scale != 0 && scale != 1;
}

static void note_features(struct lm_net *net, enum lm_math math)
{
    const struct lm_config *c = &net->config;
    uint32_t f = 0;

    for (uint32_t i = 0; i < c->n_layers; i++)
        f |= layer_features(net, &net->layers[i]);
    f |= c->attn_softcap > 0 || c->final_softcap > 0 ? 1u << LM_FEATURE_SOFTCAP : 0;
    f |= c->attn_scale > 0 || is_set(c->embed_scale) || is_set(c->residual_scale) || is_set(c->logit_divisor)
             ? 1u << LM_FEATURE_SCALES : 0;
    f |= c->parallel ? 1u << LM_FEATURE_PARALLEL : 0;
    f |= net->qkv_grouped ? 1u << LM_FEATURE_GROUPED_QKV : 0;
    f |= c->alibi ? 1u << LM_FEATURE_ALIBI : 0;
    f |= c->kv_lora ? 1u << LM_FEATURE_LATENT : 0;
    f |= c->act == LM_ACT_SWIGLU_CLAMPED ? 1u << LM_FEATURE_ACTIVATION : 0;
    f |= math == LM_MATH_F64 ? 1u << LM_FEATURE_F64 : 0;
    net->features = f;
}

/* Latent attention is one head for keys [latent, rotated] and values [latent]. */
static void set_geometry(struct lm_net *net, const struct lm_binding *b)
{
    const struct lm_config *c = &net->config;

    net->n_kv = c->kv_lora ? 1 : c->n_kv_heads;
    net->d_k = c->kv_lora ? c->kv_lora + c->d_rope : c->d_head;
    net->d_v = c->kv_lora ? c->kv_lora : c->d_head;
    net->qkv_grouped = c->arch->qkv_by_group && b->naming == LM_NAMES_HF;
}

int lmi_net_build(struct lm_engine *g, uint32_t ctx_len, enum lm_math math, struct lm_err *e)
{
    struct lm_net *net = &g->net;
    struct build b = {g, math == LM_MATH_F64};
    uint32_t trained;

    net->config = g->binding->config;
    trained = net->config.ctx_len;
    net->ctx_len = ctx_len ? ctx_len : trained < DEFAULT_CTX ? trained : DEFAULT_CTX;
    if (net->config.arch->learned_positions && net->ctx_len > trained)
        return lm_err_set(e, LM_LIMIT, "%u positions were asked for, but %s has learned %u: ask for at most those",
                          net->ctx_len, lm_model_path(g->model), trained);
    set_geometry(net, g->binding);
    if (set_weights(&b, e) || set_rope(&b, e))
        return -1;
    note_features(net, math);
    return 0;
}
