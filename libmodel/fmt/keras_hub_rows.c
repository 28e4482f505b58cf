/* The table of keras-hub's models: https://keras.io/keras_hub/api/models/ */
#include "libmodel/fmt/keras_hub.h"

#include <stddef.h>

#define L "model.layers.#."
#define EMBEDDING "layers/reversible_embedding/vars/0"
#define HEAD {"layers/reversible_embedding/vars/1", "lm_head.weight", LMI_HUB_LEAD_1_TURNED, true}

#define COUNT(a) (unsigned)(sizeof(a) / sizeof(a)[0])

/* Llama and Mistral differ in the names of their classes only. */
#define LLAMA_ROWS(norm) {                                                                                                     \
    {EMBEDDING, "model.embed_tokens.weight", LMI_HUB_SAME, false},                                                             \
    {"_self_attention_layernorm/vars/0", L "input_layernorm.weight", LMI_HUB_SAME, false},                                     \
    {"_self_attention_layer/?query_dense/vars/0", L "self_attn.q_proj.weight", LMI_HUB_LEAD_1_TURNED, false},                  \
    {"_self_attention_layer/?key_dense/vars/0", L "self_attn.k_proj.weight", LMI_HUB_LEAD_1_TURNED, false},                    \
    {"_self_attention_layer/?value_dense/vars/0", L "self_attn.v_proj.weight", LMI_HUB_LEAD_1_TURNED, false},                  \
    {"_self_attention_layer/?output_dense/vars/0", L "self_attn.o_proj.weight", LMI_HUB_LEAD_2_TURNED, false},                 \
    {"_feedforward_layernorm/vars/0", L "post_attention_layernorm.weight", LMI_HUB_SAME, false},                               \
    {"_feedforward_gate_dense/vars/0", L "mlp.gate_proj.weight", LMI_HUB_LEAD_1_TURNED, false},                                \
    {"_feedforward_intermediate_dense/vars/0", L "mlp.up_proj.weight", LMI_HUB_LEAD_1_TURNED, false},                          \
    {"_feedforward_output_dense/vars/0", L "mlp.down_proj.weight", LMI_HUB_LEAD_1_TURNED, false},                              \
    {"layers/" norm "/vars/0", "model.norm.weight", LMI_HUB_SAME, false},                                                      \
    HEAD}
static const struct lmi_hub_row mistral_rows[] = LLAMA_ROWS("mistral_layer_normalization");
static const struct lmi_hub_row llama_rows[] = LLAMA_ROWS("llama_layer_norm");

#define LLAMA_KEYS                                                                                                             \
    {"vocabulary_size", "vocab_size", 0}, {"num_layers", "num_hidden_layers", 0},                                              \
    {"num_query_heads", "num_attention_heads", 0}, {"num_key_value_heads", "num_key_value_heads", 0},                          \
    {"hidden_dim", "hidden_size", 0}, {"intermediate_dim", "intermediate_size", 0}, {"head_dim", "head_dim", 0},               \
    {"rope_max_wavelength", "rope_theta", 0}, {"layer_norm_epsilon", "rms_norm_eps", 0}
static const struct lmi_hub_key mistral_keys[] = {LLAMA_KEYS, {"sliding_window", "sliding_window", 0}};
static const struct lmi_hub_key llama_keys[] = {LLAMA_KEYS};

/* GPT-2: Hugging Face's Conv1D keeps [in, out], and has Q, K and V in one. */
#define H "transformer.h.#."
static const struct lmi_hub_row gpt2_rows[] = {
    {EMBEDDING, "transformer.wte.weight", LMI_HUB_SAME, false},
    {"layers/position_embedding/vars/0", "transformer.wpe.weight", LMI_HUB_SAME, false},
    {"_self_attention_layer_norm/vars/0", H "ln_1.weight", LMI_HUB_SAME, false},
    {"_self_attention_layer_norm/vars/1", H "ln_1.bias", LMI_HUB_SAME, false},
    {"_self_attention_layer/?query_dense/vars/0", H "attn.c_attn.weight", LMI_HUB_LEAD_1, false},
    {"_self_attention_layer/?key_dense/vars/0", H "attn.c_attn.weight", LMI_HUB_LEAD_1, false},
    {"_self_attention_layer/?value_dense/vars/0", H "attn.c_attn.weight", LMI_HUB_LEAD_1, false},
    {"_self_attention_layer/?query_dense/vars/1", H "attn.c_attn.bias", LMI_HUB_FLAT, false},
    {"_self_attention_layer/?key_dense/vars/1", H "attn.c_attn.bias", LMI_HUB_FLAT, false},
    {"_self_attention_layer/?value_dense/vars/1", H "attn.c_attn.bias", LMI_HUB_FLAT, false},
    {"_self_attention_layer/?output_dense/vars/0", H "attn.c_proj.weight", LMI_HUB_LEAD_2, false},
    {"_self_attention_layer/?output_dense/vars/1", H "attn.c_proj.bias", LMI_HUB_SAME, false},
    {"_feedforward_layer_norm/vars/0", H "ln_2.weight", LMI_HUB_SAME, false},
    {"_feedforward_layer_norm/vars/1", H "ln_2.bias", LMI_HUB_SAME, false},
    {"_feedforward_intermediate_dense/vars/0", H "mlp.c_fc.weight", LMI_HUB_SAME, false},
    {"_feedforward_intermediate_dense/vars/1", H "mlp.c_fc.bias", LMI_HUB_SAME, false},
    {"_feedforward_output_dense/vars/0", H "mlp.c_proj.weight", LMI_HUB_SAME, false},
    {"_feedforward_output_dense/vars/1", H "mlp.c_proj.bias", LMI_HUB_SAME, false},
    {"layers/layer_normalization/vars/0", "transformer.ln_f.weight", LMI_HUB_SAME, false},
    {"layers/layer_normalization/vars/1", "transformer.ln_f.bias", LMI_HUB_SAME, false},
};
static const struct lmi_hub_key gpt2_keys[] = {
    {"vocabulary_size", "vocab_size", 0}, {"num_layers", "n_layer", 0}, {"num_heads", "n_head", 0},
    {"hidden_dim", "n_embd", 0}, {"intermediate_dim", "n_inner", 0}, {"max_sequence_length", "n_positions", 0},
};

/* Gemma: heads outermost; the norms after the halves are Gemma 2's. */
#define GEMMA_ROWS                                                                                                             \
    {EMBEDDING, "model.embed_tokens.weight", LMI_HUB_SAME, false},                                                             \
    {"pre_attention_norm/vars/0", L "input_layernorm.weight", LMI_HUB_SAME, false},                                            \
    {"attention/?query_dense/vars/0", L "self_attn.q_proj.weight", LMI_HUB_HEADS_FIRST, false},                                \
    {"attention/?key_dense/vars/0", L "self_attn.k_proj.weight", LMI_HUB_HEADS_FIRST, false},                                  \
    {"attention/?value_dense/vars/0", L "self_attn.v_proj.weight", LMI_HUB_HEADS_FIRST, false},                                \
    {"attention/?output_dense/vars/0", L "self_attn.o_proj.weight", LMI_HUB_LEAD_2_TURNED, false},                             \
    {"gating_ffw/vars/0", L "mlp.gate_proj.weight", LMI_HUB_LEAD_1_TURNED, false},                                             \
    {"gating_ffw_2/vars/0", L "mlp.up_proj.weight", LMI_HUB_LEAD_1_TURNED, false},                                             \
    {"ffw_linear/vars/0", L "mlp.down_proj.weight", LMI_HUB_LEAD_1_TURNED, false},                                             \
    {"layers/rms_normalization/vars/0", "model.norm.weight", LMI_HUB_SAME, false}
static const struct lmi_hub_row gemma_rows[] = {
    GEMMA_ROWS, {"pre_ffw_norm/vars/0", L "post_attention_layernorm.weight", LMI_HUB_SAME, false},
};
static const struct lmi_hub_row gemma2_rows[] = {
    GEMMA_ROWS, {"post_attention_norm/vars/0", L "post_attention_layernorm.weight", LMI_HUB_SAME, false},
    {"pre_ffw_norm/vars/0", L "pre_feedforward_layernorm.weight", LMI_HUB_SAME, false},
    {"post_ffw_norm/vars/0", L "post_feedforward_layernorm.weight", LMI_HUB_SAME, false},
};
#define GEMMA_KEYS                                                                                                             \
    {"vocabulary_size", "vocab_size", 0}, {"num_layers", "num_hidden_layers", 0},                                              \
    {"num_query_heads", "num_attention_heads", 0}, {"num_key_value_heads", "num_key_value_heads", 0},                          \
    {"hidden_dim", "hidden_size", 0}, {"intermediate_dim", "intermediate_size", 2}, {"head_dim", "head_dim", 0},               \
    {"layer_norm_epsilon", "rms_norm_eps", 0}
static const struct lmi_hub_key gemma_keys[] = {GEMMA_KEYS};
static const struct lmi_hub_key gemma2_keys[] = {
    GEMMA_KEYS, {"final_logit_soft_cap", "final_logit_softcapping", 0},
    {"attention_logit_soft_cap", "attn_logit_softcapping", 0}, {"sliding_window_size", "sliding_window", 0},
};

/* What the settings do not say: the context is that of the released models. */
static const struct lmi_hub_family families[] = {
    {"MistralBackbone", NULL, NULL, "mistral_transformer_decoder", mistral_rows, COUNT(mistral_rows), mistral_keys,
     COUNT(mistral_keys), "{\"architectures\": [\"MistralForCausalLM\"], \"model_type\": \"mistral\", \"hidden_act\": \"silu\", "
     "\"max_position_embeddings\": 32768}"},
    {"LlamaBackbone", NULL, NULL, "llama_transformer_decoder", llama_rows, COUNT(llama_rows), llama_keys, COUNT(llama_keys),
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_act\": \"silu\", "
     "\"max_position_embeddings\": 4096}"},
    {"Llama3Backbone", NULL, NULL, "llama_transformer_decoder", llama_rows, COUNT(llama_rows), llama_keys, COUNT(llama_keys),
     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_act\": \"silu\", "
     "\"max_position_embeddings\": 8192}"},
    {"GPT2Backbone", NULL, NULL, "transformer_decoder", gpt2_rows, COUNT(gpt2_rows), gpt2_keys, COUNT(gpt2_keys),
     "{\"architectures\": [\"GPT2LMHeadModel\"], \"model_type\": \"gpt2\", \"activation_function\": \"gelu_new\", "
     "\"layer_norm_epsilon\": 1e-05}"},
    {"GemmaBackbone", NULL, "use_post_ffw_norm", "gemma_decoder_block", gemma_rows, COUNT(gemma_rows), gemma_keys,
     COUNT(gemma_keys), "{\"architectures\": [\"GemmaForCausalLM\"], \"model_type\": \"gemma\", "
     "\"hidden_act\": \"gelu_pytorch_tanh\", \"hidden_activation\": \"gelu_pytorch_tanh\", \"rope_theta\": 10000.0, "
     "\"max_position_embeddings\": 8192}"},
    {"GemmaBackbone", "use_post_ffw_norm", NULL, "gemma_decoder_block", gemma2_rows, COUNT(gemma2_rows), gemma2_keys,
     COUNT(gemma2_keys), "{\"architectures\": [\"Gemma2ForCausalLM\"], \"model_type\": \"gemma2\", "
     "\"hidden_act\": \"gelu_pytorch_tanh\", \"hidden_activation\": \"gelu_pytorch_tanh\", \"rope_theta\": 10000.0, "
     "\"max_position_embeddings\": 8192}"},
};

const struct lmi_hub_family *lmi_hub_family_at(unsigned i)
{
    return i < COUNT(families) ? &families[i] : NULL;
}
