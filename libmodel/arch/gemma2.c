/* Gemma 2: norms before and after each half, soft caps on scores and logits,
 * every other layer windowed. */
#include "libmodel/arch/gemma_scale.h"

static const struct lm_arch_row rows[] = {
    LMI_TOP(LM_T_PLUS_ONE),
    LMI_SANDWICH,
    LMI_ATTENTION(LM_T_NONE, LM_T_NONE),
    LMI_GATED_FFN(0),
    LMI_INV_FREQ,
};

static const struct lm_config_key keys[] = {
    {LM_KEY_INV_SQRT, LMI_AT(attn_scale), {"query_pre_attn_scalar"}, "attention.scale", false},
    {LM_KEY_REAL, LMI_AT(attn_softcap), {"attn_logit_softcapping"}, "attn_logit_softcapping", true},
    {LM_KEY_REAL, LMI_AT(final_softcap), {"final_logit_softcapping"}, "final_logit_softcapping", true},
};
static const struct lm_config_guard guards[] = {{"attention_bias", "false,null"}, {NULL, NULL}};

static void class_defaults(struct lm_config *c, size_t hf_class)
{
    (void)hf_class;
    c->d_head = 256;
    c->sliding_window = 4096;
}

static int settle(struct lm_config *c, const struct lm_model *gguf, struct lm_err *e)
{
    (void)e;
    lmi_gemma_embed_scale(c);
    lmi_gemma_attn_scale(c, gguf != NULL, 46);
    return 0;
}

static const char *const classes[] = {"Gemma2ForCausalLM", NULL};
static const char *const model_types[] = {"gemma2", NULL};

const struct lm_arch lm_arch_gemma2 = {
    .name = "gemma2",
    .title = "Gemma 2",
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
    .mixed_windows = true,
    .window_period = 2,
    .guards = guards,
    .class_defaults = class_defaults,
    .settle = settle,
    LMI_ROWS_OF(rows),
    LMI_KEYS_OF(keys),
};
