/* Granite 3: Llama's block with four multipliers. */
#include "libmodel/arch/granite_keys.h"

static const struct lm_arch_row rows[] = {
    LMI_TOP(LM_T_NONE),
    LMI_VEC(ROPE_FREQS, NULL, "rope_freqs.weight", HALF_ROPE, .flags = LM_ROW_OPTIONAL | LM_ROW_GGUF_ONLY),
    LMI_VEC(ATTN_NORM, L "input_layernorm.weight", B "attn_norm.weight", MODEL),
    LMI_ATTENTION(LM_T_PERMUTE_Q, LM_T_PERMUTE_K),
    LMI_QKV_BIAS(LM_T_PERMUTE_Q, LM_T_PERMUTE_K, LM_ROW_OPTIONAL),
    LMI_OUT_BIAS(LM_ROW_OPTIONAL),
    LMI_VEC(FFN_NORM, L "post_attention_layernorm.weight", B "ffn_norm.weight", MODEL),
    LMI_GATED_FFN(0),
    LMI_FFN_BIAS,
    LMI_INV_FREQ,
};

static const struct lm_config_key keys[] = {LMI_GRANITE_KEYS};

static const char *const classes[] = {"GraniteForCausalLM", NULL};
static const char *const model_types[] = {"granite", NULL};

const struct lm_arch lm_arch_granite = {
    .name = "granite",
    .title = "Granite",
    .hf_classes = classes,
    .hf_model_types = model_types,
    .hf_prefix = "model.",
    .norm = LM_NORM_RMS,
    .act = LM_ACT_SILU,
    .gated = true,
    .rope_hf = LM_ROPE_HALF,
    .rope_gguf = LM_ROPE_ADJACENT,
    .default_rope_theta = 10000,
    .default_norm_eps = 1e-6,
    .class_defaults = lmi_granite_defaults,
    LMI_ROWS_OF(rows),
    LMI_KEYS_OF(keys),
};
