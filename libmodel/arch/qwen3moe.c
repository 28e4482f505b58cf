/* Qwen 3 mixtures: Qwen 3's attention, no shared expert.  llama.cpp divides the
 * weights of the chosen experts by their sum whatever the model says; a GGUF
 * without the key means that. */
#include "libmodel/arch/qwen3_rows.h"

static const struct lm_arch_row rows[] = {
    LMI_TOP(LM_T_NONE),
    LMI_QWEN3_ATTENTION,
    LMI_ROUTER("mlp.gate.weight", 0),
    LMI_EXPERTS("mlp", "gate_proj", "up_proj", "down_proj"),
    LMI_FUSED_EXPERTS("mlp.experts.gate_up_proj", "mlp.experts.down_proj", LM_ROW_ALIAS),
    LMI_INV_FREQ,
};

static const struct lm_config_key keys[] = {
    {LM_KEY_BOOL, LMI_AT(mlp_bias), {NULL}, NULL, false},
    {LM_KEY_U32, LMI_AT(n_experts), {"num_experts", "num_local_experts"}, "expert_count", false},
    {LM_KEY_U32, LMI_AT(d_ff_expert), {"moe_intermediate_size"}, "expert_feed_forward_length", false},
    {LM_KEY_BOOL, LMI_AT(expert_norm), {"norm_topk_prob"}, "expert_weights_norm", false},
};
static const struct lm_config_guard guards[] = {
    {"decoder_sparse_step", "1,null"}, {"mlp_only_layers", "[],null"}, {NULL, NULL},
};

static void class_defaults(struct lm_config *c, size_t hf_class)
{
    (void)hf_class;
    c->expert_norm = false;
}

static const char *const classes[] = {"Qwen3MoeForCausalLM", NULL};
static const char *const model_types[] = {"qwen3_moe", NULL};

const struct lm_arch lm_arch_qwen3moe = {
    .name = "qwen3moe",
    .title = "Qwen 3 MoE",
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
    .qk_norm = LM_QK_NORM_HEAD,
    .window_opt_in = true,
    .expert_norm = true,
    .guards = guards,
    .class_defaults = class_defaults,
    LMI_ROWS_OF(rows),
    LMI_KEYS_OF(keys),
};
