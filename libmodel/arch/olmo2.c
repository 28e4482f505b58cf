/* OLMo 2 and 3: norms after each half only, and over all heads of Q and of K
 * at once; in OLMo 3 three windowed layers to a full one, and only full ones
 * have their rotation scaled. */
#include "libmodel/arch/rows.h"

static const struct lm_arch_row rows[] = {
    LMI_TOP(LM_T_NONE),
    LMI_ATTENTION(LM_T_NONE, LM_T_NONE),
    LMI_VEC(ATTN_Q_NORM, L "self_attn.q_norm.weight", B "attn_q_norm.weight", Q),
    LMI_VEC(ATTN_K_NORM, L "self_attn.k_norm.weight", B "attn_k_norm.weight", KV),
    LMI_VEC(POST_ATTN_NORM, L "post_attention_layernorm.weight", B "post_attention_norm.weight", MODEL),
    LMI_GATED_FFN(0),
    LMI_VEC(POST_FFN_NORM, L "post_feedforward_layernorm.weight", B "post_ffw_norm.weight", MODEL),
    LMI_INV_FREQ,
};

static const struct lm_config_key keys[] = {
    {LM_KEY_BOOL, LMI_AT(mlp_bias), {NULL}, NULL, false},
    {LM_KEY_U32, LMI_AT(d_head), {NULL}, "attention.key_length", false},
};
static const struct lm_config_guard guards[] = {{"attention_bias", "false,null"}, {NULL, NULL}};

static void class_defaults(struct lm_config *c, size_t hf_class)
{
    c->sliding_window = hf_class == 1 ? 4096 : 0;
}

static size_t hf_class(const struct lm_config *c)
{
    return c->sliding_window ? 1 : 0;
}

static const char *const classes[] = {"Olmo2ForCausalLM", "Olmo3ForCausalLM", NULL};
static const char *const model_types[] = {"olmo2", "olmo3", NULL};

const struct lm_arch lm_arch_olmo2 = {
    .name = "olmo2",
    .title = "OLMo 2 / 3",
    .hf_classes = classes,
    .hf_model_types = model_types,
    .hf_prefix = "model.",
    .norm = LM_NORM_RMS,
    .act = LM_ACT_SILU,
    .gated = true,
    .rope_hf = LM_ROPE_HALF,
    .rope_gguf = LM_ROPE_HALF,
    .default_rope_theta = 500000,
    .default_norm_eps = 1e-5,
    .qk_norm = LM_QK_NORM_WHOLE,
    .mixed_windows = true,
    .window_period = 4,
    .local_rope = true,
    .guards = guards,
    .class_defaults = class_defaults,
    .hf_class = hf_class,
    LMI_ROWS_OF(rows),
    LMI_KEYS_OF(keys),
};
