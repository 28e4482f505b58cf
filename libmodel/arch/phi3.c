/* Phi-3, 3.5 and 4: Llama's block with Q, K and V in one matrix and gate above
 * up in another; LongRoPE in the long-context ones, partial rotation in
 * Phi-4-mini.  GGUF keeps the fused matrices. */
#include "libmodel/arch/rows.h"

static const struct lm_arch_row rows[] = {
    LMI_TOP(LM_T_NONE),
    LMI_VEC(ROPE_LONG, NULL, "rope_factors_long.weight", HALF_ROPE, .flags = LM_ROW_OPTIONAL | LM_ROW_GGUF_ONLY),
    LMI_VEC(ROPE_SHORT, NULL, "rope_factors_short.weight", HALF_ROPE, .flags = LM_ROW_OPTIONAL | LM_ROW_GGUF_ONLY),
    LMI_VEC(ATTN_NORM, L "input_layernorm.weight", B "attn_norm.weight", MODEL),
    LMI_MAT(ATTN_QKV, L "self_attn.qkv_proj.weight", B "attn_qkv.weight", QKV, MODEL),
    LMI_MAT(ATTN_OUT, L "self_attn.o_proj.weight", B "attn_output.weight", MODEL, Q),
    LMI_VEC(FFN_NORM, L "post_attention_layernorm.weight", B "ffn_norm.weight", MODEL),
    LMI_MAT(FFN_GATE_UP, L "mlp.gate_up_proj.weight", B "ffn_up.weight", FF2, MODEL),
    LMI_MAT(FFN_DOWN, L "mlp.down_proj.weight", B "ffn_down.weight", MODEL, FF),
    LMI_INV_FREQ,
};

static const struct lm_config_key keys[] = {
    {LM_KEY_BOOL, LMI_AT(attn_bias), {NULL}, NULL, false},
    {LM_KEY_BOOL, LMI_AT(mlp_bias), {NULL}, NULL, false},
    {LM_KEY_U32, LMI_AT(d_head), {NULL}, "attention.key_length", false},
};
static const struct lm_config_guard guards[] = {
    {"attention_bias", "false,null"}, {"lm_head_bias", "false,null"}, {NULL, NULL},
};

static const char *const classes[] = {"Phi3ForCausalLM", NULL};
static const char *const model_types[] = {"phi3", NULL};

const struct lm_arch lm_arch_phi3 = {
    .name = "phi3",
    .title = "Phi-3 / Phi-4",
    .hf_classes = classes,
    .hf_model_types = model_types,
    .hf_prefix = "model.",
    .norm = LM_NORM_RMS,
    .act = LM_ACT_SILU,
    .gated = true,
    .rope_hf = LM_ROPE_HALF,
    .rope_gguf = LM_ROPE_HALF,
    .default_rope_theta = 10000,
    .default_norm_eps = 1e-5,
    .guards = guards,
    LMI_ROWS_OF(rows),
    LMI_KEYS_OF(keys),
};
