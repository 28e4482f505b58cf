/* Qwen 3: Llama's block with a norm on every head of Q and K, before rotation. */
#include "libmodel/arch/qwen3_rows.h"

static const struct lm_arch_row rows[] = {
    LMI_TOP(LM_T_NONE),
    LMI_QWEN3_ATTENTION,
    LMI_GATED_FFN(0),
    LMI_INV_FREQ,
};

static const struct lm_config_key keys[] = {
    {LM_KEY_BOOL, LMI_AT(mlp_bias), {NULL}, NULL, false},
};

static void class_defaults(struct lm_config *c, size_t hf_class)
{
    (void)hf_class;
    c->d_head = 128; /* whatever hidden_size says */
}

static const char *const classes[] = {"Qwen3ForCausalLM", "Qwen3Model", NULL};
static const char *const model_types[] = {"qwen3", "qwen3", NULL};

const struct lm_arch lm_arch_qwen3 = {
    .name = "qwen3",
    .title = "Qwen 3",
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
    .mixed_windows = true,
    .class_defaults = class_defaults,
    LMI_ROWS_OF(rows),
    LMI_KEYS_OF(keys),
};
