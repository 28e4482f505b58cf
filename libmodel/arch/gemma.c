/* Gemma 1: Llama's block with 1 + weight norms, gated GELU, scaled embeddings,
 * heads of their own width. */
#include "libmodel/arch/gemma_scale.h"

static const struct lm_arch_row rows[] = {
    LMI_TOP(LM_T_PLUS_ONE),
    LMI_VEC(ATTN_NORM, L "input_layernorm.weight", B "attn_norm.weight", MODEL, LMI_PLUS_ONE),
    LMI_ATTENTION(LM_T_NONE, LM_T_NONE),
    LMI_VEC(FFN_NORM, L "post_attention_layernorm.weight", B "ffn_norm.weight", MODEL, LMI_PLUS_ONE),
    LMI_GATED_FFN(0),
    LMI_INV_FREQ,
};
static const struct lm_config_guard guards[] = {{"attention_bias", "false,null"}, {NULL, NULL}};

static void class_defaults(struct lm_config *c, size_t hf_class)
{
    (void)hf_class;
    c->d_head = 256;
}

static int settle(struct lm_config *c, const struct lm_model *gguf, struct lm_err *e)
{
    (void)gguf, (void)e;
    lmi_gemma_embed_scale(c);
    return 0;
}

static const char *const classes[] = {"GemmaForCausalLM", NULL};
static const char *const model_types[] = {"gemma", NULL};

const struct lm_arch lm_arch_gemma = {
    .name = "gemma",
    .title = "Gemma",
    .hf_classes = classes,
    .hf_model_types = model_types,
    .hf_prefix = "model.",
    .norm = LM_NORM_RMS,
    .act = LM_ACT_GELU_TANH,
    .gated = true,
    .default_tied = true,
    .rope_hf = LM_ROPE_HALF,
    .rope_gguf = LM_ROPE_HALF,
    .default_rope_theta = 10000,
    .default_norm_eps = 1e-6,
    .guards = guards,
    .class_defaults = class_defaults,
    .settle = settle,
    LMI_ROWS_OF(rows),
};
