/* Hyper-parameters as config.json text and as GGUF keys. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libmodel/config.h"
#include "libmodel/parse/json.h"

/* ---- config.json */

static const char *act_name(const struct lm_config *c)
{
    static const char *const names[] = {
        [LM_ACT_SILU] = "silu", [LM_ACT_GELU_TANH] = "gelu_pytorch_tanh", [LM_ACT_GELU_ERF] = "gelu",
        [LM_ACT_RELU] = "relu", [LM_ACT_SWIGLU_CLAMPED] = "silu"};
    return c->arch->learned_positions && c->act == LM_ACT_GELU_TANH ? "gelu_new" : names[c->act];
}

static json_t *id_or_null(int64_t id)
{
    return id < 0 ? json_null() : json_integer(id);
}

static json_t *reals(const double *x, size_t n)
{
    json_t *a = json_array();

    for (size_t i = 0; i < n; i++)
        json_array_append_new(a, json_real(x[i]));
    return a;
}

static json_t *yarn_json(const struct lm_config *c)
{
    json_t *o = json_pack("{s:s, s:f, s:i, s:f, s:f}", "rope_type", "yarn", "factor", c->rope_factor,
                          "original_max_position_embeddings", (int)c->rope_orig_ctx, "beta_fast", c->beta_fast,
                          "beta_slow", c->beta_slow);

    if (c->rope_no_truncate)
        json_object_set_new(o, "truncate", json_false());
    if (c->rope_attn_factor > 0)
        json_object_set_new(o, "attention_factor", json_real(c->rope_attn_factor));
    if (c->rope_mscale_all != 0)
        json_object_set_new(o, "mscale_all_dim", json_real(c->rope_mscale_all));
    return o;
}

static json_t *longrope_json(const struct lm_config *c)
{
    json_t *o = json_pack("{s:s, s:i}", "rope_type", "longrope", "original_max_position_embeddings",
                          (int)c->rope_orig_ctx);
    double usual = (double)c->ctx_len / c->rope_orig_ctx;

    usual = usual <= 1 ? 1 : sqrt(1 + log(usual) / log(c->rope_orig_ctx));
    if (c->rope_long && c->rope_short) {
        json_object_set_new(o, "long_factor", reals(c->rope_long, c->d_rope / 2));
        json_object_set_new(o, "short_factor", reals(c->rope_short, c->d_rope / 2));
    }
    if (c->rope_attn_factor > 0 && fabs(c->rope_attn_factor - usual) > 1e-6)
        json_object_set_new(o, "attention_factor", json_real(c->rope_attn_factor));
    return o;
}

static json_t *rope_scaling(const struct lm_config *c)
{
    switch (c->scaling) {
    case LM_SCALING_LINEAR:
        return json_pack("{s:s, s:f}", "rope_type", "linear", "factor", c->rope_factor);
    case LM_SCALING_LLAMA3:
        return json_pack("{s:s, s:f, s:f, s:f, s:i}", "rope_type", "llama3", "factor", c->rope_factor, "low_freq_factor",
                         c->rope_low_freq, "high_freq_factor", c->rope_high_freq, "original_max_position_embeddings",
                         (int)c->rope_orig_ctx);
    case LM_SCALING_YARN: return yarn_json(c);
    case LM_SCALING_LONGROPE: return longrope_json(c);
    case LM_SCALING_NONE: break;
    }
    return json_null();
}

static json_t *key_value(const struct lm_config_key *k, const void *field)
{
    const double *real = field;

    switch (k->type) {
    case LM_KEY_U32: {
        uint32_t v = *(const uint32_t *)field;
        return v || !k->optional ? json_integer(v) : NULL;
    }
    case LM_KEY_BOOL:
        return *(const bool *)field || !k->optional ? json_boolean(*(const bool *)field) : NULL;
    case LM_KEY_INV_SQRT: {
        double v = *real > 0 ? 1 / (*real * *real) : 0, whole = round(v);
        if (v <= 0)
            return NULL;
        return fabs(v - whole) < 1e-5 * v ? json_integer((json_int_t)whole) : json_real(v);
    }
    case LM_KEY_REAL: break;
    }
    return *real != 0 || !k->optional ? json_real(*real) : NULL;
}

static void put_keys(json_t *o, const struct lm_config *c)
{
    const struct lm_config_key *k;

    for (size_t i = 0; (k = lmi_config_key(c->arch, i)); i++) {
        if (!k->hf[0] || (k->offset == LMI_AT(rope_theta) && c->arch->rope_hf == LM_ROPE_NONE))
            continue;
        json_t *v = key_value(k, (const char *)c + k->offset);
        if (v)
            json_object_set_new(o, k->hf[0], v);
    }
}

static void put_windows(json_t *o, const struct lm_config *c)
{
    json_t *types;

    if (!c->sliding_window)
        return;
    json_object_set_new(o, "sliding_window", json_integer(c->sliding_window));
    if (c->arch->window_opt_in)
        json_object_set_new(o, "use_sliding_window", json_true());
    if (!c->arch->mixed_windows)
        return;
    types = json_array();
    for (uint32_t i = 0; i < c->n_layers; i++)
        json_array_append_new(types, json_string(lm_config_window(c, i) ? "sliding_attention" : "full_attention"));
    json_object_set_new(o, "layer_types", types);
}

static void put_rope(json_t *o, const struct lm_config *c)
{
    if (c->arch->rope_hf == LM_ROPE_NONE)
        return;
    json_object_set_new(o, "rope_scaling", rope_scaling(c));
    if (!c->kv_lora && c->d_rope && c->d_rope != c->d_head)
        json_object_set_new(o, "partial_rotary_factor", json_real((double)c->d_rope / c->d_head));
    if (c->scaling == LM_SCALING_LONGROPE)
        json_object_set_new(o, "original_max_position_embeddings", json_integer(c->rope_orig_ctx));
    if (c->rope_theta_local > 0)
        json_object_set_new(o, "rope_local_base_freq", json_real(c->rope_theta_local));
}

static void put_act(json_t *o, const struct lm_config *c)
{
    json_object_set_new(o, c->arch->learned_positions ? "activation_function" : "hidden_act", json_string(act_name(c)));
    if (c->arch->act == LM_ACT_GELU_TANH && c->arch->gated)
        json_object_set_new(o, "hidden_activation", json_string(act_name(c)));
}

/* DeepSeek's words for how experts are scored and chosen. */
static void put_routing(json_t *o, const struct lm_config *c)
{
    bool sigmoid = c->gating == LM_GATING_SIGMOID;

    if (!c->kv_lora || !c->n_experts)
        return;
    json_object_set_new(o, "scoring_func", json_string(sigmoid ? "sigmoid" : "softmax"));
    json_object_set_new(o, "topk_method", json_string(sigmoid                 ? "noaux_tc"
                                                      : c->n_expert_groups > 1 ? "group_limited_greedy"
                                                                               : "greedy"));
}

static void put_general(json_t *o, const struct lm_config *c, const char *torch_dtype)
{
    size_t k = c->arch->hf_class ? c->arch->hf_class(c) : 0;

    json_object_set_new(o, "architectures", json_pack("[s]", c->arch->hf_classes[k]));
    json_object_set_new(o, "model_type", json_string(c->arch->hf_model_types[k]));
    json_object_set_new(o, "torch_dtype", json_string(torch_dtype));
    json_object_set_new(o, "bos_token_id", id_or_null(c->bos_id));
    json_object_set_new(o, "eos_token_id", id_or_null(c->eos_id));
    if (c->pad_id >= 0)
        json_object_set_new(o, "pad_token_id", id_or_null(c->pad_id));
}

int lm_config_to_json(char **out, const struct lm_config *c, const char *torch_dtype, struct lm_err *e)
{
    json_t *o = json_object();

    put_keys(o, c);
    put_act(o, c);
    put_rope(o, c);
    put_windows(o, c);
    put_routing(o, c);
    put_general(o, c, torch_dtype);
    *out = json_dumps(o, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    json_decref(o);
    return *out ? 0 : lm_err_set(e, LM_NOMEM, "out of memory writing config.json");
}

/* ---- GGUF keys */

struct out {
    struct lm_meta *m;
    const struct lm_config *c;
    bool failed;
};

static const char *full_key(const struct out *o, const char *suffix, char *key, size_t size)
{
    snprintf(key, size, "%s.%s", o->c->arch->name, suffix);
    return key;
}

static void put_u32(struct out *o, const char *suffix, uint32_t v)
{
    char key[128];
    o->failed |= lm_meta_set_u32(o->m, full_key(o, suffix, key, sizeof key), v) < 0;
}

static void put_f32(struct out *o, const char *suffix, double v)
{
    char key[128];
    o->failed |= lm_meta_set_f32(o->m, full_key(o, suffix, key, sizeof key), (float)v) < 0;
}

static void put_bool(struct out *o, const char *suffix, bool v)
{
    char key[128];
    o->failed |= lm_meta_set_bool(o->m, full_key(o, suffix, key, sizeof key), v) < 0;
}

static void put_str(struct out *o, const char *suffix, const char *v)
{
    char key[128];
    o->failed |= lm_meta_set_str(o->m, full_key(o, suffix, key, sizeof key), lm_span_str(v)) < 0;
}

static void put_yarn(struct out *o)
{
    const struct lm_config *c = o->c;

    put_f32(o, "rope.scaling.yarn_beta_fast", c->beta_fast);
    put_f32(o, "rope.scaling.yarn_beta_slow", c->beta_slow);
    if (c->rope_no_truncate)
        put_bool(o, "rope.scaling.yarn_no_truncate", true);
    if (c->rope_mscale_all != 0)
        put_f32(o, "rope.scaling.yarn_log_multiplier", 0.1 * c->rope_mscale_all);
    if (c->rope_attn_factor > 0) {
        double usual = c->rope_mscale_all != 0 ? 1 : lmi_yarn_mscale(c->rope_factor, 1);
        if (c->rope_mscale_all == 0 || c->rope_attn_factor != 1)
            put_f32(o, "rope.scaling.attn_factor", c->rope_attn_factor / usual);
    }
}

/* llama3 has no keys: its divisors are the tensor rope_freqs.weight; those of
 * longrope are two tensors. */
static void put_scaling(struct out *o)
{
    const struct lm_config *c = o->c;

    if (c->scaling == LM_SCALING_LONGROPE) {
        put_u32(o, "rope.scaling.original_context_length", c->rope_orig_ctx);
        put_f32(o, "rope.scaling.attn_factor", c->rope_attn_factor);
    }
    if (c->scaling != LM_SCALING_LINEAR && c->scaling != LM_SCALING_YARN)
        return;
    put_str(o, "rope.scaling.type", c->scaling == LM_SCALING_LINEAR ? "linear" : "yarn");
    put_f32(o, "rope.scaling.factor", c->rope_factor);
    if (c->scaling == LM_SCALING_LINEAR)
        return;
    put_u32(o, "rope.scaling.original_context_length", c->rope_orig_ctx);
    put_yarn(o);
}

static void put_meta_rope(struct out *o)
{
    put_u32(o, "rope.dimension_count", o->c->d_rope);
    put_f32(o, "rope.freq_base", o->c->rope_theta);
    if (o->c->rope_theta_local > 0)
        put_f32(o, "rope.freq_base_swa", o->c->rope_theta_local);
    put_scaling(o);
}

/* A bool a layer, true where the window counts; nothing where all are windowed. */
static void put_pattern(struct out *o)
{
    const struct lm_config *c = o->c;
    uint8_t pattern[LM_MAX_MIXED_LAYERS];
    char key[128];

    put_u32(o, "attention.sliding_window", c->sliding_window);
    if (!c->arch->mixed_windows || c->n_layers > LM_MAX_MIXED_LAYERS)
        return;
    for (uint32_t i = 0; i < c->n_layers; i++)
        pattern[i] = lm_config_window(c, i) > 0;
    full_key(o, "attention.sliding_window_pattern", key, sizeof key);
    o->failed |= lm_meta_set_array(o->m, key, LM_META_BOOL, pattern, c->n_layers) < 0;
}

static void put_widths(struct out *o)
{
    const struct lm_config *c = o->c;
    bool latent = c->kv_lora > 0; /* for llama.cpp latent attention is one wide head of keys and values */

    put_u32(o, "block_count", c->n_layers);
    put_u32(o, "context_length", c->ctx_len);
    put_u32(o, "embedding_length", c->d_model);
    put_u32(o, "feed_forward_length", c->d_ff);
    put_u32(o, "attention.head_count", c->n_heads);
    put_u32(o, "attention.head_count_kv", latent ? 1 : c->n_kv_heads);
    put_u32(o, "attention.key_length", latent ? c->kv_lora + c->d_rope : c->d_head);
    put_u32(o, "attention.value_length", latent ? c->kv_lora : c->d_head);
    put_u32(o, "vocab_size", c->vocab_size);
    put_f32(o, c->arch->norm == LM_NORM_RMS ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon",
            c->norm_eps);
}

static void put_arch_keys(struct out *o)
{
    for (size_t i = 0; i < o->c->arch->n_keys; i++) {
        const struct lm_config_key *k = &o->c->arch->keys[i];
        const void *field = (const char *)o->c + k->offset;
        if (!k->gguf)
            continue;
        if (k->type == LM_KEY_U32 && (*(const uint32_t *)field || !k->optional))
            put_u32(o, k->gguf, *(const uint32_t *)field);
        else if (k->type == LM_KEY_BOOL && (*(const bool *)field || !k->optional))
            put_bool(o, k->gguf, *(const bool *)field);
        else if ((k->type == LM_KEY_REAL || k->type == LM_KEY_INV_SQRT) && (*(const double *)field != 0 || !k->optional))
            put_f32(o, k->gguf, *(const double *)field);
    }
}

static void put_experts(struct out *o)
{
    const struct lm_config *c = o->c;

    if (!c->n_experts)
        return;
    put_u32(o, "expert_count", c->n_experts);
    put_u32(o, "expert_used_count", c->n_experts_used);
    if (c->gating != c->arch->gating || c->kv_lora)
        put_u32(o, "expert_gating_func", c->gating == LM_GATING_SIGMOID ? 2 : 1);
}

/* What a GGUF has no word for would be lost. */
static int check_sayable(const struct lm_config *c, struct lm_err *e)
{
    if (c->act != c->arch->act)
        return lm_err_set(e, LM_UNSUPPORTED, "GGUF cannot say that a model of architecture %s has activation %s (%s is "
                          "understood)", c->arch->name, act_name(c), "its usual one");
    if (c->act == LM_ACT_SWIGLU_CLAMPED && (c->act_limit != 7 || c->act_alpha != 1.702))
        return lm_err_set(e, LM_UNSUPPORTED, "GGUF cannot say that the activation has limit %g and slope %g (7 and 1.702 "
                          "are understood)", c->act_limit, c->act_alpha);
    return 0;
}

int lm_config_to_meta(struct lm_meta *m, const struct lm_config *c, struct lm_err *e)
{
    struct out o = {m, c, false};

    if (check_sayable(c, e))
        return -1;
    o.failed |= lm_meta_set_str(m, "general.architecture", lm_span_str(c->arch->name)) < 0;
    put_widths(&o);
    if (c->sliding_window)
        put_pattern(&o);
    if (c->arch->rope_gguf != LM_ROPE_NONE && !c->alibi)
        put_meta_rope(&o);
    put_experts(&o);
    put_arch_keys(&o);
    return o.failed ? lm_err_set(e, LM_NOMEM, "out of memory writing metadata") : 0;
}
