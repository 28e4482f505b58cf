/* Llama 1-3, Mistral, Mixtral, Bielik, TinyLlama and the many others of this
 * shape: RMSNorm before each half, rotary positions, grouped-query attention,
 * SwiGLU.  Hugging Face stores Q and K rows half-split; GGUF adjacent pairs.
 * GGUF has the mixtures (Mixtral) under the same name. */
#include "libmodel/arch/rows.h"

static const struct lm_arch_row rows[] = {
    LMI_TOP(LM_T_NONE),
    LMI_VEC(ROPE_FREQS, NULL, "rope_freqs.weight", HALF_ROPE, .flags = LM_ROW_OPTIONAL | LM_ROW_GGUF_ONLY),
    LMI_VEC(ATTN_NORM, L "input_layernorm.weight", B "attn_norm.weight", MODEL),
    LMI_ATTENTION(LM_T_PERMUTE_Q, LM_T_PERMUTE_K),
    LMI_QKV_BIAS(LM_T_PERMUTE_Q, LM_T_PERMUTE_K, LM_ROW_OPTIONAL),
    LMI_OUT_BIAS(LM_ROW_OPTIONAL),
    LMI_VEC(FFN_NORM, L "post_attention_layernorm.weight", B "ffn_norm.weight", MODEL),
    LMI_GATED_FFN(LM_WHEN_DENSE),
    LMI_FFN_BIAS,
    LMI_ROUTER("block_sparse_moe.gate.weight", 0),
    LMI_EXPERTS("block_sparse_moe", "w1", "w3", "w2"),
    LMI_ROUTER("mlp.gate.weight", LM_ROW_ALIAS),
    LMI_FUSED_EXPERTS("mlp.experts.gate_up_proj", "mlp.experts.down_proj", LM_ROW_ALIAS),
    LMI_INV_FREQ,
};

static const char *const classes[] = {"LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "LlamaModel",
                                      "MistralModel", NULL};
static const char *const model_types[] = {"llama", "mistral", "mixtral", "llama", "mistral", NULL};

/* Llama has no window, Mistral has. */
static size_t hf_class(const struct lm_config *c)
{
    return c->n_experts ? 2 : c->sliding_window ? 1 : 0;
}

const struct lm_arch lm_arch_llama = {
    .name = "llama",
    .title = "Llama / Mistral",
    .hf_classes = classes,
    .hf_model_types = model_types,
    .hf_prefix = "model.",
    .norm = LM_NORM_RMS,
    .act = LM_ACT_SILU,
    .gated = true,
    .rope_hf = LM_ROPE_HALF,
    .rope_gguf = LM_ROPE_ADJACENT,
    .default_rope_theta = 10000,
    .default_norm_eps = 1e-6,
    .expert_norm = true,
    .hf_class = hf_class,
    LMI_ROWS_OF(rows),
};
