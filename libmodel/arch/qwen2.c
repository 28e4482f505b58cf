/* Qwen 2 and 2.5: Llama's block with biases on Q, K and V; no permutation. */
#include "libmodel/arch/rows.h"

static const struct lm_arch_row rows[] = {
    LMI_TOP(LM_T_NONE),
    LMI_VEC(ATTN_NORM, L "input_layernorm.weight", B "attn_norm.weight", MODEL),
    LMI_ATTENTION(LM_T_NONE, LM_T_NONE),
    LMI_QKV_BIAS(LM_T_NONE, LM_T_NONE, 0),
    LMI_VEC(FFN_NORM, L "post_attention_layernorm.weight", B "ffn_norm.weight", MODEL),
    LMI_GATED_FFN(0),
    LMI_INV_FREQ,
};

/* Biases are part of the family: config.json has no word for them. */
static const struct lm_config_key keys[] = {
    {LM_KEY_BOOL, LMI_AT(attn_bias), {NULL}, NULL, false},
    {LM_KEY_BOOL, LMI_AT(mlp_bias), {NULL}, NULL, false},
};

static const char *const classes[] = {"Qwen2ForCausalLM", "Qwen2Model", NULL};
static const char *const model_types[] = {"qwen2", "qwen2", NULL};

const struct lm_arch lm_arch_qwen2 = {
    .name = "qwen2",
    .title = "Qwen 2",
    .hf_classes = classes,
    .hf_model_types = model_types,
    .hf_prefix = "model.",
    .norm = LM_NORM_RMS,
    .act = LM_ACT_SILU,
    .gated = true,
    .rope_hf = LM_ROPE_HALF,
    .rope_gguf = LM_ROPE_HALF,
    .default_rope_theta = 10000,
    .default_norm_eps = 1e-6,
    .window_opt_in = true,
    .mixed_windows = true,
    LMI_ROWS_OF(rows),
    LMI_KEYS_OF(keys),
};
