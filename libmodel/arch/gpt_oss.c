/* gpt-oss: biases everywhere, a sink in the softmax of every head, every other
 * layer windowed, YaRN whose bounds are not rounded; experts chosen before the
 * softmax, clamped, with biases.  Hugging Face has gate and up of an expert in
 * one matrix [in, 2 out], columns alternating; where they are stored in MXFP4
 * [2 out, in], rows alternating. */
#include "libmodel/arch/rows.h"

#define MOE .when = LM_WHEN_MOE
#define PLAIN .when = LM_WHEN_MOE | LM_WHEN_PLAIN
#define MXFP4 .when = LM_WHEN_MOE | LM_WHEN_MXFP4

static const struct lm_arch_row rows[] = {
    LMI_TOP(LM_T_NONE),
    LMI_VEC(ATTN_NORM, L "input_layernorm.weight", B "attn_norm.weight", MODEL),
    LMI_ATTENTION(LM_T_NONE, LM_T_NONE),
    LMI_QKV_BIAS(LM_T_NONE, LM_T_NONE, LM_ROW_OPTIONAL),
    LMI_OUT_BIAS(LM_ROW_OPTIONAL),
    LMI_VEC(ATTN_SINKS, L "self_attn.sinks", B "attn_sinks.weight", HEADS),
    LMI_VEC(FFN_NORM, L "post_attention_layernorm.weight", B "post_attention_norm.weight", MODEL),
    LMI_ROUTER("mlp.router.weight", 0),
    LMI_VEC(ROUTER_B, L "mlp.router.bias", B "ffn_gate_inp.bias", EXPERTS, MOE),
    LMI_CUBE(GATE_EXPS, L "mlp.experts.gate_up_proj", B "ffn_gate_exps.weight", EXPERTS, EXPERT_FF, MODEL,
             .transform = LM_T_EVEN_ROWS, PLAIN),
    LMI_CUBE(UP_EXPS, L "mlp.experts.gate_up_proj", B "ffn_up_exps.weight", EXPERTS, EXPERT_FF, MODEL,
             .transform = LM_T_ODD_ROWS, PLAIN),
    LMI_CUBE(DOWN_EXPS, L "mlp.experts.down_proj", B "ffn_down_exps.weight", EXPERTS, MODEL, EXPERT_FF,
             .transform = LM_T_TURN, PLAIN),
    LMI_CUBE(GATE_EXPS, L "mlp.experts.gate_up_proj", B "ffn_gate_exps.weight", EXPERTS, EXPERT_FF, MODEL,
             .transform = LM_T_EVEN_OUTS, MXFP4),
    LMI_CUBE(UP_EXPS, L "mlp.experts.gate_up_proj", B "ffn_up_exps.weight", EXPERTS, EXPERT_FF, MODEL,
             .transform = LM_T_ODD_OUTS, MXFP4),
    LMI_CUBE(DOWN_EXPS, L "mlp.experts.down_proj", B "ffn_down_exps.weight", EXPERTS, MODEL, EXPERT_FF, MXFP4),
    LMI_MAT(GATE_EXPS_B, L "mlp.experts.gate_up_proj_bias", B "ffn_gate_exps.bias", EXPERTS, EXPERT_FF,
            .transform = LM_T_EVEN, MOE),
    LMI_MAT(UP_EXPS_B, L "mlp.experts.gate_up_proj_bias", B "ffn_up_exps.bias", EXPERTS, EXPERT_FF,
            .transform = LM_T_ODD, MOE),
    LMI_MAT(DOWN_EXPS_B, L "mlp.experts.down_proj_bias", B "ffn_down_exps.bias", EXPERTS, MODEL, MOE),
    LMI_INV_FREQ,
};

static const struct lm_config_key keys[] = {
    {LM_KEY_U32, LMI_AT(n_experts), {"num_local_experts"}, "expert_count", false},
    {LM_KEY_U32, LMI_AT(d_ff_expert), {"intermediate_size"}, "expert_feed_forward_length", false},
    {LM_KEY_REAL, LMI_AT(act_alpha), {"swiglu_alpha"}, NULL, false},
    {LM_KEY_REAL, LMI_AT(act_limit), {"swiglu_limit"}, NULL, false},
    {LM_KEY_BOOL, LMI_AT(mlp_bias), {NULL}, NULL, false},
};

static void class_defaults(struct lm_config *c, size_t hf_class)
{
    (void)hf_class;
    c->d_head = 64;
    c->attn_bias = true;
    c->sliding_window = 128;
}

/* GGUF has no word for unrounded bounds of YaRN: of this family they always are. */
static int settle(struct lm_config *c, const struct lm_model *gguf, struct lm_err *e)
{
    (void)e;
    if (gguf)
        c->rope_no_truncate = c->scaling == LM_SCALING_YARN;
    if (!c->d_ff)
        c->d_ff = c->d_ff_expert;
    return 0;
}

static const char *const classes[] = {"GptOssForCausalLM", NULL};
static const char *const model_types[] = {"gpt_oss", NULL};

const struct lm_arch lm_arch_gpt_oss = {
    .name = "gpt-oss",
    .title = "gpt-oss",
    .hf_classes = classes,
    .hf_model_types = model_types,
    .hf_prefix = "model.",
    .norm = LM_NORM_RMS,
    .act = LM_ACT_SWIGLU_CLAMPED,
    .gated = true,
    .rope_hf = LM_ROPE_HALF,
    .rope_gguf = LM_ROPE_HALF,
    .default_rope_theta = 150000,
    .default_norm_eps = 1e-5,
    .mixed_windows = true,
    .window_period = 2,
    .gating = LM_GATING_TOPK_SOFTMAX,
    .class_defaults = class_defaults,
    .settle = settle,
    LMI_ROWS_OF(rows),
    LMI_KEYS_OF(keys),
};
