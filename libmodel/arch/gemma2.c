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

static const struct lm_config_key keys[] = {LMI_GEMMA2_KEYS};
static const struct lm_config_guard guards[] = {{"attention_bias", "false,null"}, {NULL, NULL}};

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
    .class_defaults = lmi_gemma2_defaults,
    .settle = settle,
    LMI_ROWS_OF(rows),
    LMI_KEYS_OF(keys),
};
