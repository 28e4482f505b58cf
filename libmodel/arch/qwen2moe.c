/* Qwen 1.5 and 2 mixtures: Qwen 2's attention; experts weighted by the softmax
 * over all of them, and a shared expert behind a sigmoid of its own. */
#include "libmodel/arch/rows.h"

static const struct lm_arch_row rows[] = {
    LMI_TOP(LM_T_NONE),
    LMI_VEC(ATTN_NORM, L "input_layernorm.weight", B "attn_norm.weight", MODEL),
    LMI_ATTENTION(LM_T_NONE, LM_T_NONE),
    LMI_QKV_BIAS(LM_T_NONE, LM_T_NONE, 0),
    LMI_VEC(FFN_NORM, L "post_attention_layernorm.weight", B "ffn_norm.weight", MODEL),
    LMI_ROUTER("mlp.gate.weight", 0),
    LMI_EXPERTS("mlp", "gate_proj", "up_proj", "down_proj"),
    LMI_FUSED_EXPERTS("mlp.experts.gate_up_proj", "mlp.experts.down_proj", LM_ROW_ALIAS),
    LMI_SHARED("mlp.shared_expert"),
    LMI_MAT(SHEXP_GATE, L "mlp.shared_expert_gate.weight", B "ffn_gate_inp_shexp.weight", ONE, MODEL,
            .when = LM_WHEN_SHARED),
    LMI_INV_FREQ,
};

static const struct lm_config_key keys[] = {
    {LM_KEY_BOOL, LMI_AT(attn_bias), {NULL}, NULL, false},
    {LM_KEY_BOOL, LMI_AT(mlp_bias), {NULL}, NULL, false},
    {LM_KEY_U32, LMI_AT(n_experts), {"num_experts", "num_local_experts"}, "expert_count", false},
    {LM_KEY_U32, LMI_AT(d_ff_expert), {"moe_intermediate_size"}, "expert_feed_forward_length", false},
    {LM_KEY_U32, LMI_AT(d_ff_shared), {"shared_expert_intermediate_size"}, "expert_shared_feed_forward_length", false},
    {LM_KEY_BOOL, LMI_AT(expert_norm), {"norm_topk_prob"}, "expert_weights_norm", true},
};
static const struct lm_config_guard guards[] = {
    {"decoder_sparse_step", "1,null"}, {"mlp_only_layers", "[],null"}, {"qkv_bias", "true,null"}, {NULL, NULL},
};

static const char *const classes[] = {"Qwen2MoeForCausalLM", NULL};
static const char *const model_types[] = {"qwen2_moe", NULL};

const struct lm_arch lm_arch_qwen2moe = {
    .name = "qwen2moe",
    .title = "Qwen 2 MoE",
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
    .guards = guards,
    LMI_ROWS_OF(rows),
    LMI_KEYS_OF(keys),
};
