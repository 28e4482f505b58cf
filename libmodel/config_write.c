/* Hyper-parameters as config.json text and as GGUF keys. */
#include "libmodel/arch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libmodel/parse/json.h"

static const char *act_name(enum lm_act a)
{
    static const char *const names[] = {
        [LM_ACT_SILU] = "silu", [LM_ACT_GELU_TANH] = "gelu_new", [LM_ACT_GELU_ERF] = "gelu", [LM_ACT_RELU] = "relu"};
    return names[a];
}

static json_t *id_or_null(int64_t id)
{
    return id < 0 ? json_null() : json_integer(id);
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
    case LM_SCALING_YARN: {
        json_t *o = json_pack("{s:s, s:f, s:i, s:f, s:f}", "rope_type", "yarn", "factor", c->rope_factor,
                              "original_max_position_embeddings", (int)c->rope_orig_ctx, "beta_fast", c->beta_fast,
                              "beta_slow", c->beta_slow);
        if (o && c->rope_attn_factor > 0)
            json_object_set_new(o, "attention_factor", json_real(c->rope_attn_factor));
        return o;
    }
    case LM_SCALING_NONE: break;
    }
    return json_null();
}

static json_t *llama_json(const struct lm_config *c)
{
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:s, s:b, s:b, s:o}", "hidden_size",
                     (int)c->d_model, "intermediate_size", (int)c->d_ff, "num_hidden_layers", (int)c->n_layers,
                     "num_attention_heads", (int)c->n_heads, "num_key_value_heads", (int)c->n_kv_heads, "head_dim",
                     (int)c->d_head, "vocab_size", (int)c->vocab_size, "max_position_embeddings", (int)c->ctx_len,
                     "rms_norm_eps", c->norm_eps, "rope_theta", c->rope_theta, "hidden_act", act_name(c->act),
                     "attention_bias", (int)c->attn_bias, "mlp_bias", (int)c->mlp_bias, "rope_scaling",
                     rope_scaling(c));
}

static json_t *gpt2_json(const struct lm_config *c)
{
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:s}", "n_embd", (int)c->d_model, "n_inner",
                     (int)c->d_ff, "n_layer", (int)c->n_layers, "n_head", (int)c->n_heads, "vocab_size",
                     (int)c->vocab_size, "n_positions", (int)c->ctx_len, "n_ctx", (int)c->ctx_len, "layer_norm_epsilon",
                     c->norm_eps, "activation_function", act_name(c->act));
}

int lm_config_to_json(char **out, const struct lm_config *c, const char *torch_dtype, struct lm_err *e)
{
    bool sliding = c->sliding_window > 0;
    size_t k = sliding && c->arch->hf_classes[1] ? 1 : 0; /* Llama has no window, Mistral has */
    json_t *o = c->arch->learned_positions ? gpt2_json(c) : llama_json(c);
    if (!o)
        return lm_err_set(e, LM_NOMEM, "out of memory writing config.json");

    json_object_set_new(o, "architectures", json_pack("[s]", c->arch->hf_classes[k]));
    json_object_set_new(o, "model_type", json_string(c->arch->hf_model_types[k]));
    json_object_set_new(o, "tie_word_embeddings", json_boolean(c->tied));
    json_object_set_new(o, "torch_dtype", json_string(torch_dtype));
    json_object_set_new(o, "bos_token_id", id_or_null(c->bos_id));
    json_object_set_new(o, "eos_token_id", id_or_null(c->eos_id));
    if (c->pad_id >= 0)
        json_object_set_new(o, "pad_token_id", id_or_null(c->pad_id));
    if (sliding)
        json_object_set_new(o, "sliding_window", json_integer(c->sliding_window));
    *out = json_dumps(o, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    json_decref(o);
    return *out ? 0 : lm_err_set(e, LM_NOMEM, "out of memory writing config.json");
}

/* ---- GGUF keys */

struct out {
    struct lm_meta *m;
    const char *arch;
    bool failed;
};

static void put_u32(struct out *o, const char *suffix, uint32_t v)
{
    char key[128];
    snprintf(key, sizeof key, "%s.%s", o->arch, suffix);
    o->failed |= lm_meta_set_u32(o->m, key, v) < 0;
}

static void put_f32(struct out *o, const char *suffix, double v)
{
    char key[128];
    snprintf(key, sizeof key, "%s.%s", o->arch, suffix);
    o->failed |= lm_meta_set_f32(o->m, key, (float)v) < 0;
}

static void put_str(struct out *o, const char *suffix, const char *v)
{
    char key[128];
    snprintf(key, sizeof key, "%s.%s", o->arch, suffix);
    o->failed |= lm_meta_set_str(o->m, key, lm_span_str(v)) < 0;
}

/* llama3 has no keys: its divisors are the tensor rope_freqs.weight. */
static void put_rope(struct out *o, const struct lm_config *c)
{
    put_u32(o, "rope.dimension_count", c->d_rope);
    put_f32(o, "rope.freq_base", c->rope_theta);
    if (c->scaling != LM_SCALING_LINEAR && c->scaling != LM_SCALING_YARN)
        return;
    put_str(o, "rope.scaling.type", c->scaling == LM_SCALING_LINEAR ? "linear" : "yarn");
    put_f32(o, "rope.scaling.factor", c->rope_factor);
    if (c->scaling == LM_SCALING_LINEAR)
        return;
    put_u32(o, "rope.scaling.original_context_length", c->rope_orig_ctx);
    put_f32(o, "rope.scaling.yarn_beta_fast", c->beta_fast);
    put_f32(o, "rope.scaling.yarn_beta_slow", c->beta_slow);
    if (c->rope_attn_factor > 0) {
        double usual = c->rope_factor <= 1 ? 1 : 0.1 * log(c->rope_factor) + 1;
        put_f32(o, "rope.scaling.attn_factor", c->rope_attn_factor / usual);
    }
}

int lm_config_to_meta(struct lm_meta *m, const struct lm_config *c, struct lm_err *e)
{
    struct out o = {m, c->arch->name, false};

    o.failed |= lm_meta_set_str(m, "general.architecture", lm_span_str(c->arch->name)) < 0;
    put_u32(&o, "block_count", c->n_layers);
    put_u32(&o, "context_length", c->ctx_len);
    put_u32(&o, "embedding_length", c->d_model);
    put_u32(&o, "feed_forward_length", c->d_ff);
    put_u32(&o, "attention.head_count", c->n_heads);
    put_u32(&o, "attention.head_count_kv", c->n_kv_heads);
    put_u32(&o, "attention.key_length", c->d_head);
    put_u32(&o, "attention.value_length", c->d_head);
    put_u32(&o, "vocab_size", c->vocab_size);
    put_f32(&o, c->arch->norm == LM_NORM_RMS ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon",
            c->norm_eps);
    if (c->sliding_window)
        put_u32(&o, "attention.sliding_window", c->sliding_window);
    if (c->arch->rope_gguf != LM_ROPE_NONE)
        put_rope(&o, c);
    return o.failed ? lm_err_set(e, LM_NOMEM, "out of memory writing metadata") : 0;
}
