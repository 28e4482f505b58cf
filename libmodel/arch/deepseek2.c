/* DeepSeek V2 and V3 (and R1, Kimi K2): keys and values come from one small
 * vector per position (multi-head latent attention), many small experts chosen
 * within groups, shared experts, a few dense layers first.  GGUF splits kv_b
 * into the part that makes keys, transposed, and the part that makes values. */
#include <math.h>
#include <stdio.h>

#include "libmodel/arch/rows.h"

static const struct lm_arch_row rows[] = {
    LMI_TOP(LM_T_NONE),
    LMI_VEC(ATTN_NORM, L "input_layernorm.weight", B "attn_norm.weight", MODEL),
    LMI_MAT(ATTN_Q, L "self_attn.q_proj.weight", B "attn_q.weight", Q, MODEL, .when = LM_WHEN_NO_Q_LORA),
    LMI_MAT(MLA_Q_A, L "self_attn.q_a_proj.weight", B "attn_q_a.weight", Q_LORA, MODEL, .when = LM_WHEN_Q_LORA),
    LMI_VEC(MLA_Q_A_NORM, L "self_attn.q_a_layernorm.weight", B "attn_q_a_norm.weight", Q_LORA,
            .when = LM_WHEN_Q_LORA),
    LMI_MAT(MLA_Q_B, L "self_attn.q_b_proj.weight", B "attn_q_b.weight", Q, Q_LORA, .when = LM_WHEN_Q_LORA),
    LMI_MAT(MLA_KV_A, L "self_attn.kv_a_proj_with_mqa.weight", B "attn_kv_a_mqa.weight", KV_A, MODEL),
    LMI_VEC(MLA_KV_A_NORM, L "self_attn.kv_a_layernorm.weight", B "attn_kv_a_norm.weight", KV_LORA),
    LMI_CUBE(MLA_K_B, L "self_attn.kv_b_proj.weight", B "attn_k_b.weight", HEADS, KV_LORA, NOPE,
             .transform = LM_T_MLA_K),
    LMI_CUBE(MLA_V_B, L "self_attn.kv_b_proj.weight", B "attn_v_b.weight", HEADS, HEAD_V, KV_LORA,
             .transform = LM_T_MLA_V),
    LMI_MAT(ATTN_OUT, L "self_attn.o_proj.weight", B "attn_output.weight", MODEL, V),
    LMI_VEC(FFN_NORM, L "post_attention_layernorm.weight", B "ffn_norm.weight", MODEL),
    LMI_GATED_FFN(LM_WHEN_DENSE),
    LMI_ROUTER("mlp.gate.weight", 0),
    LMI_VEC(ROUTER_CORRECTION, L "mlp.gate.e_score_correction_bias", B "exp_probs_b.bias", EXPERTS,
            .when = LM_WHEN_CORRECTED),
    LMI_EXPERTS("mlp", "gate_proj", "up_proj", "down_proj"),
    LMI_FUSED_EXPERTS("mlp.experts.gate_up_proj", "mlp.experts.down_proj", LM_ROW_ALIAS),
    LMI_SHARED("mlp.shared_experts"),
    LMI_INV_FREQ,
};

static const struct lm_config_key keys[] = {
    {LM_KEY_U32, LMI_AT(kv_lora), {"kv_lora_rank"}, "attention.kv_lora_rank", false},
    {LM_KEY_U32, LMI_AT(q_lora), {"q_lora_rank"}, "attention.q_lora_rank", true},
    {LM_KEY_U32, LMI_AT(d_nope), {"qk_nope_head_dim"}, NULL, false},
    {LM_KEY_U32, LMI_AT(d_rope), {"qk_rope_head_dim"}, NULL, false},
    {LM_KEY_U32, LMI_AT(d_head), {NULL}, "attention.key_length_mla", false},
    {LM_KEY_U32, LMI_AT(d_head_v), {"v_head_dim"}, "attention.value_length_mla", false},
    {LM_KEY_U32, LMI_AT(n_dense_layers), {"first_k_dense_replace"}, "leading_dense_block_count", false},
    {LM_KEY_U32, LMI_AT(n_experts), {"n_routed_experts", "num_local_experts", "num_experts"}, "expert_count", true},
    {LM_KEY_U32, LMI_AT(n_shared_experts), {"n_shared_experts"}, "expert_shared_count", false},
    {LM_KEY_U32, LMI_AT(d_ff_expert), {"moe_intermediate_size"}, "expert_feed_forward_length", false},
    {LM_KEY_REAL, LMI_AT(expert_scale), {"routed_scaling_factor"}, "expert_weights_scale", false},
    {LM_KEY_BOOL, LMI_AT(expert_norm), {"norm_topk_prob"}, "expert_weights_norm", false},
    {LM_KEY_U32, LMI_AT(n_expert_groups), {"n_group"}, "expert_group_count", true},
    {LM_KEY_U32, LMI_AT(n_groups_used), {"topk_group"}, "expert_group_used_count", true},
    {LM_KEY_BOOL, LMI_AT(mlp_bias), {NULL}, NULL, false},
};
static const struct lm_config_guard guards[] = {
    {"attention_bias", "false,null"}, {"mlp_bias", "false,null"}, {"rope_interleave", "true,null"},
    {"moe_layer_freq", "1,null"}, {"scoring_func", "\"softmax\",\"sigmoid\",null"},
    {"topk_method", "\"greedy\",\"group_limited_greedy\",\"noaux_tc\",null"}, {NULL, NULL},
};

enum { V3 = 0, V2 = 1 };

static void class_defaults(struct lm_config *c, size_t hf_class)
{
    c->gating = hf_class == V3 ? LM_GATING_SIGMOID : LM_GATING_SOFTMAX;
    c->expert_norm = hf_class == V3;
}

static size_t hf_class(const struct lm_config *c)
{
    return c->gating == LM_GATING_SIGMOID ? V3 : V2;
}

/* V3 corrects its choice by a bias and ranks groups by their two best; V2 ranks them by their best. */
static void settle_routing(struct lm_config *c, const struct lm_model *gguf)
{
    char name[64];

    c->group_top2 = c->gating == LM_GATING_SIGMOID;
    c->expert_correction = c->gating == LM_GATING_SIGMOID;
    snprintf(name, sizeof name, "blk.%u.exp_probs_b.bias", c->n_dense_layers);
    if (gguf)
        c->expert_correction = lm_model_find(gguf, name) != NULL;
}

static int settle(struct lm_config *c, const struct lm_model *gguf, struct lm_err *e)
{
    uint64_t head = gguf ? c->d_head : (uint64_t)c->d_nope + c->d_rope;
    double m = c->scaling == LM_SCALING_YARN ? lmi_yarn_mscale(c->rope_factor, c->rope_mscale_all) : 1;

    if (!c->kv_lora || !c->d_head_v || !c->d_rope || head <= c->d_rope || head > INT32_MAX)
        return lm_err_set(e, LM_MALFORMED, "latent attention needs kv_lora_rank, v_head_dim, qk_nope_head_dim and "
                          "qk_rope_head_dim (found %u, %u, %u, %u)", c->kv_lora, c->d_head_v, c->d_nope, c->d_rope);
    c->d_head = (uint32_t)head;
    c->d_nope = c->d_head - c->d_rope;
    c->n_kv_heads = c->n_heads;
    if ((uint64_t)c->n_heads * (c->kv_lora + (uint64_t)c->d_rope) > INT32_MAX)
        return lm_err_set(e, LM_MALFORMED, "%u heads over %u are too wide", c->n_heads, c->kv_lora);
    if ((uint64_t)c->n_shared_experts * c->d_ff_expert > INT32_MAX)
        return lm_err_set(e, LM_MALFORMED, "%u shared experts of %u are too wide", c->n_shared_experts, c->d_ff_expert);
    c->d_ff_shared = c->n_shared_experts * c->d_ff_expert;
    c->attn_scale = m * m / sqrt((double)c->d_head);
    settle_routing(c, gguf);
    return 0;
}

static const char *const classes[] = {"DeepseekV3ForCausalLM", "DeepseekV2ForCausalLM", NULL};
static const char *const model_types[] = {"deepseek_v3", "deepseek_v2", NULL};

const struct lm_arch lm_arch_deepseek2 = {
    .name = "deepseek2",
    .title = "DeepSeek V2 / V3",
    .hf_classes = classes,
    .hf_model_types = model_types,
    .hf_prefix = "model.",
    .norm = LM_NORM_RMS,
    .act = LM_ACT_SILU,
    .gated = true,
    .rope_hf = LM_ROPE_ADJACENT,
    .rope_gguf = LM_ROPE_ADJACENT,
    .default_rope_theta = 10000,
    .default_norm_eps = 1e-6,
    .guards = guards,
    .class_defaults = class_defaults,
    .hf_class = hf_class,
    .settle = settle,
    LMI_ROWS_OF(rows),
    LMI_KEYS_OF(keys),
};
