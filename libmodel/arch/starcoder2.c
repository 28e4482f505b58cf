/* StarCoder 2: LayerNorm with bias, biases everywhere (or nowhere), an ungated
 * GELU of the tanh form, grouped-query attention. */
#include "libmodel/arch/rows.h"

static const struct lm_arch_row rows[] = {
    LMI_TOP(LM_T_NONE),
    LMI_VEC(OUTPUT_NORM_B, "model.norm.bias", "output_norm.bias", MODEL),
    LMI_VEC(ATTN_NORM, L "input_layernorm.weight", B "attn_norm.weight", MODEL),
    LMI_VEC(ATTN_NORM_B, L "input_layernorm.bias", B "attn_norm.bias", MODEL),
    LMI_ATTENTION(LM_T_NONE, LM_T_NONE),
    LMI_QKV_BIAS(LM_T_NONE, LM_T_NONE, LM_ROW_OPTIONAL),
    LMI_OUT_BIAS(LM_ROW_OPTIONAL),
    LMI_VEC(FFN_NORM, L "post_attention_layernorm.weight", B "ffn_norm.weight", MODEL),
    LMI_VEC(FFN_NORM_B, L "post_attention_layernorm.bias", B "ffn_norm.bias", MODEL),
    LMI_MAT(FFN_UP, L "mlp.c_fc.weight", B "ffn_up.weight", FF, MODEL),
    LMI_VEC(FFN_UP_B, L "mlp.c_fc.bias", B "ffn_up.bias", FF, LMI_OPTIONAL),
    LMI_MAT(FFN_DOWN, L "mlp.c_proj.weight", B "ffn_down.weight", MODEL, FF),
    LMI_VEC(FFN_DOWN_B, L "mlp.c_proj.bias", B "ffn_down.bias", MODEL, LMI_OPTIONAL),
    LMI_INV_FREQ,
};

static const struct lm_config_key keys[] = {
    {LM_KEY_REAL, LMI_AT(norm_eps), {"norm_epsilon"}, "attention.layer_norm_epsilon", false},
    {LM_KEY_BOOL, LMI_AT(attn_bias), {"use_bias"}, NULL, false},
    {LM_KEY_BOOL, LMI_AT(mlp_bias), {NULL}, NULL, false},
};
static const struct lm_config_guard guards[] = {
    {"mlp_type", "\"default\",null"}, {"norm_type", "\"layer_norm\",null"}, {NULL, NULL},
};

static void class_defaults(struct lm_config *c, size_t hf_class)
{
    (void)hf_class;
    c->attn_bias = true;
}

static int settle(struct lm_config *c, const struct lm_model *gguf, struct lm_err *e)
{
    (void)e;
    if (gguf)
        c->attn_bias = lm_model_find(gguf, "blk.0.attn_q.bias") != NULL;
    c->mlp_bias = c->attn_bias;
    return 0;
}

static const char *const classes[] = {"Starcoder2ForCausalLM", NULL};
static const char *const model_types[] = {"starcoder2", NULL};

const struct lm_arch lm_arch_starcoder2 = {
    .name = "starcoder2",
    .title = "StarCoder 2",
    .hf_classes = classes,
    .hf_model_types = model_types,
    .hf_prefix = "model.",
    .norm = LM_NORM_LAYER,
    .act = LM_ACT_GELU_TANH,
    .default_tied = true,
    .rope_hf = LM_ROPE_HALF,
    .rope_gguf = LM_ROPE_HALF,
    .default_rope_theta = 10000,
    .default_norm_eps = 1e-5,
    .guards = guards,
    .class_defaults = class_defaults,
    .settle = settle,
    LMI_ROWS_OF(rows),
    LMI_KEYS_OF(keys),
};
