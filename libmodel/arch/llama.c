/* Llama 1-3, Mistral, Bielik, TinyLlama and the many others of this shape:
 * RMSNorm before each half, rotary positions, grouped-query attention, SwiGLU.
 * Hugging Face stores Q and K rows half-split; GGUF stores adjacent pairs. */
#include "libmodel/arch.h"

#define L "model.layers.#."
#define B "blk.#."

static const struct lm_arch_row rows[] = {
    {LM_ROLE_TOKEN_EMBD, "model.embed_tokens.weight", "token_embd.weight", {LM_DIM_VOCAB, LM_DIM_MODEL}, 0, 0, NULL},
    {LM_ROLE_OUTPUT_NORM, "model.norm.weight", "output_norm.weight", {LM_DIM_MODEL}, 0, 0, NULL},
    {LM_ROLE_OUTPUT, "lm_head.weight", "output.weight", {LM_DIM_VOCAB, LM_DIM_MODEL}, 0, LM_ROW_OPTIONAL, NULL},
    {LM_ROLE_ROPE_FREQS, NULL, "rope_freqs.weight", {LM_DIM_HALF_ROPE}, 0, LM_ROW_OPTIONAL | LM_ROW_GGUF_ONLY, NULL},
    {LM_ROLE_ATTN_NORM, L "input_layernorm.weight", B "attn_norm.weight", {LM_DIM_MODEL}, 0, 0, NULL},
    {LM_ROLE_ATTN_Q, L "self_attn.q_proj.weight", B "attn_q.weight", {LM_DIM_Q, LM_DIM_MODEL}, LM_T_PERMUTE_Q, 0, NULL},
    {LM_ROLE_ATTN_Q_B, L "self_attn.q_proj.bias", B "attn_q.bias", {LM_DIM_Q}, LM_T_PERMUTE_Q, LM_ROW_OPTIONAL, NULL},
    {LM_ROLE_ATTN_K, L "self_attn.k_proj.weight", B "attn_k.weight", {LM_DIM_KV, LM_DIM_MODEL}, LM_T_PERMUTE_K, 0, NULL},
    {LM_ROLE_ATTN_K_B, L "self_attn.k_proj.bias", B "attn_k.bias", {LM_DIM_KV}, LM_T_PERMUTE_K, LM_ROW_OPTIONAL, NULL},
    {LM_ROLE_ATTN_V, L "self_attn.v_proj.weight", B "attn_v.weight", {LM_DIM_KV, LM_DIM_MODEL}, 0, 0, NULL},
    {LM_ROLE_ATTN_V_B, L "self_attn.v_proj.bias", B "attn_v.bias", {LM_DIM_KV}, 0, LM_ROW_OPTIONAL, NULL},
    {LM_ROLE_ATTN_OUT, L "self_attn.o_proj.weight", B "attn_output.weight", {LM_DIM_MODEL, LM_DIM_Q}, 0, 0, NULL},
    {LM_ROLE_ATTN_OUT_B, L "self_attn.o_proj.bias", B "attn_output.bias", {LM_DIM_MODEL}, 0, LM_ROW_OPTIONAL, NULL},
    {LM_ROLE_FFN_NORM, L "post_attention_layernorm.weight", B "ffn_norm.weight", {LM_DIM_MODEL}, 0, 0, NULL},
    {LM_ROLE_FFN_GATE, L "mlp.gate_proj.weight", B "ffn_gate.weight", {LM_DIM_FF, LM_DIM_MODEL}, 0, 0, NULL},
    {LM_ROLE_FFN_GATE_B, L "mlp.gate_proj.bias", B "ffn_gate.bias", {LM_DIM_FF}, 0, LM_ROW_OPTIONAL, NULL},
    {LM_ROLE_FFN_UP, L "mlp.up_proj.weight", B "ffn_up.weight", {LM_DIM_FF, LM_DIM_MODEL}, 0, 0, NULL},
    {LM_ROLE_FFN_UP_B, L "mlp.up_proj.bias", B "ffn_up.bias", {LM_DIM_FF}, 0, LM_ROW_OPTIONAL, NULL},
    {LM_ROLE_FFN_DOWN, L "mlp.down_proj.weight", B "ffn_down.weight", {LM_DIM_MODEL, LM_DIM_FF}, 0, 0, NULL},
    {LM_ROLE_FFN_DOWN_B, L "mlp.down_proj.bias", B "ffn_down.bias", {LM_DIM_MODEL}, 0, LM_ROW_OPTIONAL, NULL},
    {LM_ROLE_IGNORED, L "self_attn.rotary_emb.inv_freq", NULL, {LM_DIM_ANY}, 0, LM_ROW_DROPPED,
     "rotary frequencies, computed from rope_theta"},
};

static const char *const classes[] = {"LlamaForCausalLM", "MistralForCausalLM", "LlamaModel", "MistralModel", NULL};
static const char *const model_types[] = {"llama", "mistral", "llama", "mistral", NULL};

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
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
};
