/* Hyper-parameters: the table of common names, what follows from what, GGUF keys. */
#include "libmodel/config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct lm_config_key common[] = {
    {LM_KEY_U32, LMI_AT(d_model), {"hidden_size", "n_embd", "dim"}, "embedding_length", false},
    {LM_KEY_U32, LMI_AT(d_ff), {"intermediate_size", "n_inner", "hidden_dim"}, "feed_forward_length", false},
    {LM_KEY_U32, LMI_AT(n_layers), {"num_hidden_layers", "n_layer", "num_layers", "n_layers"}, "block_count", false},
    {LM_KEY_U32, LMI_AT(n_heads), {"num_attention_heads", "n_head", "n_heads"}, "attention.head_count", false},
    {LM_KEY_U32, LMI_AT(n_kv_heads), {"num_key_value_heads", "n_kv_heads", "num_kv_heads"}, "attention.head_count_kv",
     false},
    {LM_KEY_U32, LMI_AT(d_head), {"head_dim"}, "attention.key_length", false},
    {LM_KEY_U32, LMI_AT(d_head_v), {NULL}, "attention.value_length", false},
    {LM_KEY_U32, LMI_AT(vocab_size), {"vocab_size"}, "vocab_size", false},
    {LM_KEY_U32, LMI_AT(ctx_len), {"max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length"},
     "context_length", false},
    {LM_KEY_REAL, LMI_AT(rope_theta), {"rope_theta"}, "rope.freq_base", false},
    {LM_KEY_BOOL, LMI_AT(attn_bias), {"attention_bias"}, NULL, false},
    {LM_KEY_BOOL, LMI_AT(mlp_bias), {"mlp_bias"}, NULL, false},
    {LM_KEY_BOOL, LMI_AT(tied), {"tie_word_embeddings"}, NULL, false},
    {LM_KEY_U32, LMI_AT(n_experts), {"num_local_experts", "num_experts", "n_routed_experts"}, "expert_count", true},
    {LM_KEY_U32, LMI_AT(n_experts_used), {"num_experts_per_tok"}, "expert_used_count", true},
    {LM_KEY_REAL, LMI_AT(attn_scale), {NULL}, "attention.scale", true},
};
static const struct lm_config_key norms[] = {
    [LM_NORM_RMS] = {LM_KEY_REAL, LMI_AT(norm_eps), {"rms_norm_eps", "norm_eps"}, "attention.layer_norm_rms_epsilon",
                     false},
    [LM_NORM_LAYER] = {LM_KEY_REAL, LMI_AT(norm_eps), {"layer_norm_epsilon", "layer_norm_eps", "norm_epsilon"},
                       "attention.layer_norm_epsilon", false},
};
enum { N_COMMON = sizeof common / sizeof common[0] };

static bool is_hidden(const struct lm_arch *a, size_t offset)
{
    for (size_t i = 0; i < a->n_keys; i++)
        if (a->keys[i].offset == offset)
            return true;
    return false;
}

const struct lm_config_key *lmi_config_key(const struct lm_arch *a, size_t i)
{
    if (i < a->n_keys)
        return &a->keys[i];
    i -= a->n_keys;
    for (size_t j = 0; j < N_COMMON; j++)
        if (!is_hidden(a, common[j].offset) && i-- == 0)
            return &common[j];
    return !is_hidden(a, LMI_AT(norm_eps)) && i == 0 ? &norms[a->norm] : NULL;
}

void lmi_config_defaults(struct lm_config *c, const struct lm_arch *a)
{
    memset(c, 0, sizeof *c);
    c->arch = a;
    c->act = a->act;
    c->tied = a->default_tied;
    c->norm_eps = a->default_norm_eps;
    c->rope_theta = a->default_rope_theta;
    c->parallel = a->parallel;
    c->gating = a->gating;
    c->expert_norm = a->expert_norm;
    c->rope_factor = 1;
    c->rope_low_freq = 1;
    c->rope_high_freq = 4;
    c->beta_fast = 32;
    c->beta_slow = 1;
    c->act_limit = 7;
    c->act_alpha = 1.702;
    c->bos_id = c->eos_id = c->pad_id = -1;
}

int lmi_scaling_find(const char *s, enum lm_rope_scaling *out)
{
    static const struct { const char *name; enum lm_rope_scaling kind; } kinds[] = {
        {"default", LM_SCALING_NONE}, {"none", LM_SCALING_NONE}, {"linear", LM_SCALING_LINEAR},
        {"llama3", LM_SCALING_LLAMA3}, {"yarn", LM_SCALING_YARN}, {"longrope", LM_SCALING_LONGROPE},
        {"su", LM_SCALING_LONGROPE},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(kinds[i].name, s) == 0) {
            *out = kinds[i].kind;
            return 0;
        }
    }
    return -1;
}

double lmi_yarn_mscale(double factor, double m)
{
    return factor <= 1 ? 1 : 0.1 * m * log(factor) + 1;
}

/* ---- windows */

void lmi_config_set_full(struct lm_config *c, uint32_t layer)
{
    c->full_layers[layer / 64] |= 1ull << (layer % 64);
}

int lmi_config_mixed_limit(const struct lm_config *c, struct lm_err *e)
{
    if (c->n_layers <= LM_MAX_MIXED_LAYERS)
        return 0;
    return lm_err_set(e, LM_LIMIT, "%u layers, some with a sliding window: at most %d are handled", c->n_layers,
                      LM_MAX_MIXED_LAYERS);
}

int lmi_config_periodic(struct lm_config *c, uint32_t period, struct lm_err *e)
{
    if (!c->sliding_window || !period)
        return 0;
    if (lmi_config_mixed_limit(c, e))
        return -1;
    for (uint32_t i = period - 1; i < c->n_layers; i += period)
        lmi_config_set_full(c, i);
    return 0;
}

/* ---- checks shared by both sources */

static int need(uint32_t v, const char *what, struct lm_err *e)
{
    return v > 0 ? 0 : lm_err_set(e, LM_MALFORMED, "the config has no %s (or it is 0)", what);
}

static int finish_rope(struct lm_config *c, struct lm_err *e)
{
    if (c->arch->rope_hf == LM_ROPE_NONE || c->alibi) {
        c->d_rope = 0;
        return 0;
    }
    if (!c->d_rope)
        c->d_rope = c->d_head;
    if (c->d_rope > c->d_head || c->d_rope % 2)
        return lm_err_set(e, LM_MALFORMED, "rotary width %u does not fit heads of %u", c->d_rope, c->d_head);
    if (!(c->rope_theta > 1) || !isfinite(c->rope_theta) || !isfinite(c->rope_theta_local) || c->rope_theta_local < 0)
        return lm_err_set(e, LM_MALFORMED, "rope_theta is %g, expected a number above 1", c->rope_theta);
    if (c->scaling != LM_SCALING_NONE && !(c->rope_factor > 0))
        return lm_err_set(e, LM_MALFORMED, "rope scaling factor is %g, expected a positive number", c->rope_factor);
    if (c->scaling > LM_SCALING_LINEAR && !c->rope_orig_ctx)
        return lm_err_set(e, LM_MALFORMED, "rope scaling needs original_max_position_embeddings");
    if (c->scaling == LM_SCALING_LLAMA3 && !(c->rope_low_freq > 0 && c->rope_high_freq > c->rope_low_freq))
        return lm_err_set(e, LM_MALFORMED, "rope scaling: low_freq_factor %g and high_freq_factor %g do not make a range",
                          c->rope_low_freq, c->rope_high_freq);
    if (c->arch->local_rope && c->sliding_window && c->rope_theta_local == 0)
        c->rope_theta_local = c->arch->default_theta_local > 0 ? c->arch->default_theta_local : c->rope_theta;
    return 0;
}

static int finish_experts(struct lm_config *c, struct lm_err *e)
{
    if (!c->n_experts) {
        c->n_dense_layers = c->n_layers;
        return 0;
    }
    if (!c->d_ff_expert)
        c->d_ff_expert = c->d_ff;
    if (need(c->n_experts_used, "number of experts per token", e))
        return -1;
    if (c->n_experts > LM_MAX_EXPERTS)
        return lm_err_set(e, LM_LIMIT, "%u experts: at most %d are handled", c->n_experts, LM_MAX_EXPERTS);
    if (c->n_experts_used > c->n_experts)
        return lm_err_set(e, LM_MALFORMED, "%u of %u experts cannot be used", c->n_experts_used, c->n_experts);
    if (c->n_expert_groups > 1 && (c->n_experts % c->n_expert_groups || !c->n_groups_used ||
                                   c->n_groups_used > c->n_expert_groups ||
                                   c->n_experts_used > c->n_experts / c->n_expert_groups * c->n_groups_used ||
                                   (c->group_top2 && c->n_experts / c->n_expert_groups < 2)))
        return lm_err_set(e, LM_MALFORMED, "%u experts in %u groups, of which %u are used, do not fit %u per token",
                          c->n_experts, c->n_expert_groups, c->n_groups_used, c->n_experts_used);
    if (c->n_dense_layers > c->n_layers)
        return lm_err_set(e, LM_MALFORMED, "%u dense layers of %u", c->n_dense_layers, c->n_layers);
    return 0;
}

static int finish_widths(struct lm_config *c, struct lm_err *e)
{
    if (!c->n_kv_heads)
        c->n_kv_heads = c->n_heads;
    if (!c->d_ff && c->arch->default_ff_factor && c->d_model <= INT32_MAX / c->arch->default_ff_factor)
        c->d_ff = c->d_model * c->arch->default_ff_factor;
    if (need(c->d_ff, "feed-forward size", e))
        return -1;
    if (c->n_heads % c->n_kv_heads)
        return lm_err_set(e, LM_MALFORMED, "%u attention heads cannot share %u key/value heads", c->n_heads,
                          c->n_kv_heads);
    if (!c->d_head && c->d_model % c->n_heads)
        return lm_err_set(e, LM_MALFORMED, "hidden size %u is not divisible by %u heads", c->d_model, c->n_heads);
    if (!c->d_head)
        c->d_head = c->d_model / c->n_heads;
    if (!c->d_head_v)
        c->d_head_v = c->d_head;
    if (c->d_head_v != c->d_head && !c->kv_lora)
        return lm_err_set(e, LM_UNSUPPORTED, "values of %u per head beside keys of %u are not handled", c->d_head_v,
                          c->d_head);
    if ((uint64_t)c->n_heads * c->d_head > INT32_MAX || (uint64_t)c->n_heads * c->d_head_v > INT32_MAX)
        return lm_err_set(e, LM_MALFORMED, "%u heads of %u are too wide", c->n_heads, c->d_head);
    return 0;
}

static int finish_reals(struct lm_config *c, struct lm_err *e)
{
    const struct { const char *name; double v; } reals[] = {
        {"scale of attention", c->attn_scale},       {"soft cap of attention", c->attn_softcap},
        {"soft cap of logits", c->final_softcap},    {"scale of embeddings", c->embed_scale},
        {"scale of residuals", c->residual_scale},   {"scale of logits", c->logit_divisor},
        {"scale of experts", c->expert_scale},       {"limit of the activation", c->act_limit},
    };

    if (!(c->norm_eps > 0 && c->norm_eps < 1))
        return lm_err_set(e, LM_MALFORMED, "norm epsilon is %g, expected a small positive number", c->norm_eps);
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++)
        if (!(reals[i].v >= 0) || !isfinite(reals[i].v))
            return lm_err_set(e, LM_MALFORMED, "%s is %g, expected a positive number", reals[i].name, reals[i].v);
    return 0;
}

int lmi_config_finish(struct lm_config *c, const struct lm_model *gguf, struct lm_err *e)
{
    if (need(c->n_layers, "number of layers", e) || need(c->d_model, "hidden size", e) ||
        need(c->n_heads, "number of attention heads", e) || need(c->vocab_size, "vocabulary size", e) ||
        need(c->ctx_len, "context length", e))
        return -1;
    if ((c->arch->settle && c->arch->settle(c, gguf, e)) || finish_widths(c, e) || finish_experts(c, e) ||
        finish_reals(c, e))
        return -1;
    return finish_rope(c, e);
}

/* ---- GGUF keys */

/* GGUF keeps reals in f32: 1e-5 is meant, not 9.99999975e-6. The number with the
 * fewest digits that is this float. */
static double as_written(double v)
{
    char text[32];

    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtof(text, NULL) == (float)v)
            return strtod(text, NULL);
    }
    return v;
}

/* Counts that llama.cpp allows layer by layer are handled where all layers agree. */
static int meta_u32(const struct lm_meta *m, const char *name, uint32_t *out, struct lm_err *e)
{
    const struct lm_meta_value *v = lm_meta_get(m, name);
    uint64_t n = *out;

    if (v && v->type == LM_META_ARRAY && v->n > 0 && (v->elem == LM_META_U32 || v->elem == LM_META_I32)) {
        const uint8_t *data = v->data;
        n = lm_load_u32le(data);
        for (uint64_t i = 1; i < v->n; i++)
            if (lm_load_u32le(data + 4 * i) != n)
                return lm_err_set(e, LM_UNSUPPORTED, "%s differs from layer to layer, which is not handled", name);
    } else if (lm_meta_get_u64(m, name, &n, e) < 0) {
        return -1;
    }
    if (n > INT32_MAX)
        return lm_err_set(e, LM_MALFORMED, "%s is %llu, expected 0..2147483647", name, (unsigned long long)n);
    *out = (uint32_t)n;
    return 0;
}

static int meta_value(const struct lm_meta *m, const struct lm_config_key *k, const char *name, struct lm_config *c,
                      struct lm_err *e)
{
    void *field = lmi_config_field(c, k);

    if (k->type == LM_KEY_U32)
        return meta_u32(m, name, field, e);
    if (k->type == LM_KEY_BOOL)
        return lm_meta_get_bool(m, name, field, e) < 0 ? -1 : 0;
    double *v = field;
    if (lm_meta_get_f64(m, name, v, e) < 0)
        return -1;
    *v = as_written(*v);
    return 0;
}

static const char *arch_key(const struct lm_arch *a, const char *suffix, char *buf, size_t size)
{
    snprintf(buf, size, "%s.%s", a->name, suffix);
    return buf;
}

static int meta_keys(const struct lm_meta *m, struct lm_config *c, struct lm_err *e)
{
    const struct lm_config_key *k;
    char name[128];
    uint64_t d_rope = 0;

    for (size_t i = 0; (k = lmi_config_key(c->arch, i)); i++)
        if (k->gguf && meta_value(m, k, arch_key(c->arch, k->gguf, name, sizeof name), c, e))
            return -1;
    if (lm_meta_get_u64(m, arch_key(c->arch, "rope.dimension_count", name, sizeof name), &d_rope, e) < 0)
        return -1;
    c->d_rope = d_rope <= INT32_MAX ? (uint32_t)d_rope : 1;
    return 0;
}

/* A bool a layer (true: windowed) or the number of layers from one full one to the next. */
static int meta_windows(const struct lm_meta *m, struct lm_config *c, struct lm_err *e)
{
    char name[128];
    const struct lm_meta_value *v;
    uint64_t period = c->arch->window_period;

    if (meta_u32(m, arch_key(c->arch, "attention.sliding_window", name, sizeof name), &c->sliding_window, e))
        return -1;
    if (!c->sliding_window || !c->arch->mixed_windows)
        return 0;
    v = lm_meta_get(m, arch_key(c->arch, "attention.sliding_window_pattern", name, sizeof name));
    if (!v || v->type != LM_META_ARRAY) {
        if (v && lm_meta_get_u64(m, name, &period, e) < 0)
            return -1;
        return lmi_config_periodic(c, period > UINT32_MAX ? UINT32_MAX : (uint32_t)period, e);
    }
    if (v->elem != LM_META_BOOL || v->n < c->n_layers)
        return lm_err_set(e, LM_MALFORMED, "%s is not a list of true and false, one a layer", name);
    if (lmi_config_mixed_limit(c, e))
        return -1;
    for (uint32_t i = 0; i < c->n_layers; i++)
        if (!((const uint8_t *)v->data)[i])
            lmi_config_set_full(c, i);
    return 0;
}

static int meta_f64(const struct lm_meta *m, const struct lm_config *c, const char *suffix, double *out,
                    struct lm_err *e)
{
    char name[128];
    int rc = lm_meta_get_f64(m, arch_key(c->arch, suffix, name, sizeof name), out, e);

    if (rc == 1)
        *out = as_written(*out);
    return rc < 0 ? -1 : 0;
}

static int meta_scaling(const struct lm_meta *m, struct lm_config *c, struct lm_err *e)
{
    char name[128], kind[32];
    struct lm_span type = {NULL, 0};

    if (lm_meta_get_str(m, arch_key(c->arch, "rope.scaling.type", name, sizeof name), &type, e) < 0)
        return -1;
    if (type.size == 0)
        return 0;
    snprintf(kind, sizeof kind, "%.*s", (int)(type.size < 31 ? type.size : 31), (const char *)type.data);
    if (lmi_scaling_find(kind, &c->scaling) || c->scaling == LM_SCALING_LLAMA3)
        return lm_err_set(e, LM_UNSUPPORTED, "%s \"%s\" is not handled (none, linear, yarn and longrope are)", name, kind);
    return 0;
}

static int meta_rope(const struct lm_meta *m, struct lm_config *c, bool long_factors, struct lm_err *e)
{
    char name[128];
    uint64_t orig = 0;
    double attn = 1, log_mul = 0;

    if (meta_scaling(m, c, e))
        return -1;
    if (long_factors)
        c->scaling = LM_SCALING_LONGROPE;
    if (c->scaling == LM_SCALING_NONE)
        return meta_f64(m, c, "rope.freq_base_swa", &c->rope_theta_local, e);
    if (meta_f64(m, c, "rope.scaling.factor", &c->rope_factor, e) ||
        lm_meta_get_u64(m, arch_key(c->arch, "rope.scaling.original_context_length", name, sizeof name), &orig, e) < 0 ||
        meta_f64(m, c, "rope.scaling.yarn_beta_fast", &c->beta_fast, e) ||
        meta_f64(m, c, "rope.scaling.yarn_beta_slow", &c->beta_slow, e) ||
        meta_f64(m, c, "rope.scaling.yarn_log_multiplier", &log_mul, e) ||
        meta_f64(m, c, "rope.scaling.attn_factor", &attn, e) || meta_f64(m, c, "rope.freq_base_swa", &c->rope_theta_local, e))
        return -1;
    if (lm_meta_get_bool(m, arch_key(c->arch, "rope.scaling.yarn_no_truncate", name, sizeof name),
                         &c->rope_no_truncate, e) < 0)
        return -1;
    c->rope_orig_ctx = orig && orig <= INT32_MAX ? (uint32_t)orig : c->ctx_len;
    c->rope_mscale_all = log_mul != 0 ? as_written((float)(log_mul / 0.1)) : 0; /* llama.cpp keeps a tenth */
    if (c->scaling == LM_SCALING_YARN && (attn != 1 || log_mul != 0))
        c->rope_attn_factor = attn * (log_mul != 0 ? 1 : lmi_yarn_mscale(c->rope_factor, 1));
    if (c->scaling == LM_SCALING_LONGROPE)
        c->rope_attn_factor = attn;
    return 0;
}

static void meta_token_id(const struct lm_meta *m, const char *key, int64_t *id)
{
    uint64_t v = 0;
    if (lm_meta_get_u64(m, key, &v, NULL) == 1 && v <= INT32_MAX)
        *id = (int64_t)v;
}

static void meta_vocab_size(struct lm_config *c, const struct lm_model *m)
{
    const struct lm_tensor *embd = lm_model_find(m, "token_embd.weight");
    const struct lm_meta_value *tokens = lm_meta_get(lm_model_meta(m), "tokenizer.ggml.tokens");

    if (embd && embd->n_dims == 2 && embd->shape[0] <= INT32_MAX)
        c->vocab_size = (uint32_t)embd->shape[0];
    if (!c->vocab_size && tokens && tokens->type == LM_META_ARRAY && tokens->n <= INT32_MAX)
        c->vocab_size = (uint32_t)tokens->n;
}

static int meta_gating(const struct lm_meta *m, struct lm_config *c, struct lm_err *e)
{
    char name[128];
    uint64_t v = 0;
    int rc = lm_meta_get_u64(m, arch_key(c->arch, "expert_gating_func", name, sizeof name), &v, e);

    if (rc <= 0)
        return rc;
    if (v < 1 || v > 2)
        return lm_err_set(e, LM_UNSUPPORTED, "%s %llu is not handled (1 softmax and 2 sigmoid are)", name,
                          (unsigned long long)v);
    if (c->arch->gating != LM_GATING_TOPK_SOFTMAX)
        c->gating = v == 1 ? LM_GATING_SOFTMAX : LM_GATING_SIGMOID;
    return 0;
}

static int read_meta(struct lm_config *c, struct lm_model *m, const char **why, struct lm_err *e)
{
    const struct lm_meta *meta = lm_model_meta(m);
    struct lm_span name = {NULL, 0};
    if (lm_meta_get_str(meta, "general.architecture", &name, e) < 0)
        return -1;
    const char *s = lm_arena_str(lm_model_arena(m), name);
    const struct lm_arch *a = s ? lm_arch_find(s) : NULL;

    if (!a) {
        if (why)
            *why = s;
        return 0;
    }
    lmi_config_defaults(c, a);
    meta_vocab_size(c, m);
    c->tied = !lm_model_find(m, "output.weight");
    if (meta_keys(meta, c, e) || meta_rope(meta, c, lm_model_find(m, "rope_factors_long.weight") != NULL, e) ||
        meta_windows(meta, c, e) || meta_gating(meta, c, e) || lmi_config_finish(c, m, e))
        return -1;
    meta_token_id(meta, "tokenizer.ggml.bos_token_id", &c->bos_id);
    meta_token_id(meta, "tokenizer.ggml.eos_token_id", &c->eos_id);
    meta_token_id(meta, "tokenizer.ggml.padding_token_id", &c->pad_id);
    return 1;
}

int lm_config_read(struct lm_config *out, struct lm_model *m, const char **why, struct lm_err *e)
{
    struct lm_span text = {NULL, 0};

    if (why)
        *why = "neither config.json nor general.architecture is there";
    if (lm_meta_get(lm_model_meta(m), "general.architecture"))
        return read_meta(out, m, why, e);
    int rc = lm_model_sidecar(m, "config.json", &text, e);
    return rc <= 0 ? rc : lmi_config_from_json(out, text, why, lm_model_arena(m), e);
}
