/* Granite 3 mixtures: Granite's attention; gate above up in one 3-D tensor, the
 * best experts chosen before the softmax; some with a shared expert. */
#include "libmodel/arch/granite_keys.h"

static const struct lm_arch_row rows[] = {
    LMI_TOP(LM_T_NONE),
    LMI_VEC(ROPE_FREQS, NULL, "rope_freqs.weight", HALF_ROPE, .flags = LM_ROW_OPTIONAL | LM_ROW_GGUF_ONLY),
    LMI_VEC(ATTN_NORM, L "input_layernorm.weight", B "attn_norm.weight", MODEL),
    LMI_ATTENTION(LM_T_PERMUTE_Q, LM_T_PERMUTE_K),
    LMI_QKV_BIAS(LM_T_PERMUTE_Q, LM_T_PERMUTE_K, LM_ROW_OPTIONAL),
    LMI_OUT_BIAS(LM_ROW_OPTIONAL),
    LMI_VEC(FFN_NORM, L "post_attention_layernorm.weight", B "ffn_norm.weight", MODEL),
    LMI_ROUTER("block_sparse_moe.router.layer.weight", 0),
    LMI_FUSED_EXPERTS("block_sparse_moe.input_linear.weight", "block_sparse_moe.output_linear.weight", 0),
    LMI_MAT(GATE_SHEXP, L "shared_mlp.input_linear.weight", B "ffn_gate_shexp.weight", SHARED_FF, MODEL,
            .transform = LM_T_HALF_1, .when = LM_WHEN_SHARED),
    LMI_MAT(UP_SHEXP, L "shared_mlp.input_linear.weight", B "ffn_up_shexp.weight", SHARED_FF, MODEL,
            .transform = LM_T_HALF_2, .when = LM_WHEN_SHARED),
    LMI_MAT(DOWN_SHEXP, L "shared_mlp.output_linear.weight", B "ffn_down_shexp.weight", MODEL, SHARED_FF,
            .when = LM_WHEN_SHARED),
    LMI_INV_FREQ,
};

static const struct lm_config_key keys[] = {
    LMI_GRANITE_KEYS,
    {LM_KEY_U32, LMI_AT(d_ff_shared), {"shared_intermediate_size"}, "expert_shared_feed_forward_length", true},
    {LM_KEY_BOOL, LMI_AT(mlp_bias), {NULL}, NULL, false},
};

static size_t hf_class(const struct lm_config *c)
{
    return c->d_ff_shared ? 1 : 0;
}

static const char *const classes[] = {"GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM", NULL};
static const char *const model_types[] = {"granitemoe", "granitemoeshared", NULL};

const struct lm_arch lm_arch_granitemoe = {
    .name = "granitemoe",
    .title = "Granite MoE",
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
    .gating = LM_GATING_TOPK_SOFTMAX,
    .class_defaults = lmi_granite_defaults,
    .hf_class = hf_class,
    LMI_ROWS_OF(rows),
    LMI_KEYS_OF(keys),
};
