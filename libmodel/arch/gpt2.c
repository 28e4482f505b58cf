/* GPT-2: LayerNorm with bias, learned absolute positions, fused Q, K and V,
 * GELU.  Hugging Face keeps the original Conv1D weights, stored [in, out]; GGUF
 * stores [out, in].  The hub's own gpt2 has no "transformer." prefix. */
#include "libmodel/config.h"

#define H "transformer.h.#."
#define B "blk.#."

static const struct lm_arch_row rows[] = {
    {LM_ROLE_TOKEN_EMBD, "transformer.wte.weight", "token_embd.weight", {LM_DIM_VOCAB, LM_DIM_MODEL}, 0, 0, NULL, 0},
    {LM_ROLE_POS_EMBD, "transformer.wpe.weight", "position_embd.weight", {LM_DIM_CTX, LM_DIM_MODEL}, 0, 0, NULL, 0},
    {LM_ROLE_OUTPUT_NORM, "transformer.ln_f.weight", "output_norm.weight", {LM_DIM_MODEL}, 0, 0, NULL, 0},
    {LM_ROLE_OUTPUT_NORM_B, "transformer.ln_f.bias", "output_norm.bias", {LM_DIM_MODEL}, 0, 0, NULL, 0},
    {LM_ROLE_OUTPUT, "lm_head.weight", "output.weight", {LM_DIM_VOCAB, LM_DIM_MODEL}, 0, LM_ROW_OPTIONAL, NULL, 0},
    {LM_ROLE_ATTN_NORM, H "ln_1.weight", B "attn_norm.weight", {LM_DIM_MODEL}, 0, 0, NULL, 0},
    {LM_ROLE_ATTN_NORM_B, H "ln_1.bias", B "attn_norm.bias", {LM_DIM_MODEL}, 0, 0, NULL, 0},
    {LM_ROLE_ATTN_QKV, H "attn.c_attn.weight", B "attn_qkv.weight", {LM_DIM_QKV, LM_DIM_MODEL}, LM_T_TRANSPOSE, 0, NULL, 0},
    {LM_ROLE_ATTN_QKV_B, H "attn.c_attn.bias", B "attn_qkv.bias", {LM_DIM_QKV}, 0, 0, NULL, 0},
    {LM_ROLE_ATTN_OUT, H "attn.c_proj.weight", B "attn_output.weight", {LM_DIM_MODEL, LM_DIM_Q}, LM_T_TRANSPOSE, 0, NULL, 0},
    {LM_ROLE_ATTN_OUT_B, H "attn.c_proj.bias", B "attn_output.bias", {LM_DIM_MODEL}, 0, 0, NULL, 0},
    {LM_ROLE_FFN_NORM, H "ln_2.weight", B "ffn_norm.weight", {LM_DIM_MODEL}, 0, 0, NULL, 0},
    {LM_ROLE_FFN_NORM_B, H "ln_2.bias", B "ffn_norm.bias", {LM_DIM_MODEL}, 0, 0, NULL, 0},
    {LM_ROLE_FFN_UP, H "mlp.c_fc.weight", B "ffn_up.weight", {LM_DIM_FF, LM_DIM_MODEL}, LM_T_TRANSPOSE, 0, NULL, 0},
    {LM_ROLE_FFN_UP_B, H "mlp.c_fc.bias", B "ffn_up.bias", {LM_DIM_FF}, 0, 0, NULL, 0},
    {LM_ROLE_FFN_DOWN, H "mlp.c_proj.weight", B "ffn_down.weight", {LM_DIM_MODEL, LM_DIM_FF}, LM_T_TRANSPOSE, 0, NULL, 0},
    {LM_ROLE_FFN_DOWN_B, H "mlp.c_proj.bias", B "ffn_down.bias", {LM_DIM_MODEL}, 0, 0, NULL, 0},
    {LM_ROLE_IGNORED, H "attn.bias", NULL, {LM_DIM_ANY}, 0, LM_ROW_DROPPED,
     "the causal mask, a buffer and not a weight", 0},
    {LM_ROLE_IGNORED, H "attn.masked_bias", NULL, {LM_DIM_ANY}, 0, LM_ROW_DROPPED,
     "the value of masked scores, a buffer and not a weight", 0},
};

static const struct lm_config_key keys[] = {
    {LM_KEY_U32, LMI_AT(d_model), {"n_embd", "hidden_size"}, "embedding_length", false},
    {LM_KEY_U32, LMI_AT(d_ff), {"n_inner", "intermediate_size"}, "feed_forward_length", false},
    {LM_KEY_U32, LMI_AT(n_layers), {"n_layer", "num_hidden_layers"}, "block_count", false},
    {LM_KEY_U32, LMI_AT(n_heads), {"n_head", "num_attention_heads"}, "attention.head_count", false},
    {LM_KEY_U32, LMI_AT(ctx_len), {"n_ctx"}, NULL, false}, /* the older name; the next line's wins */
    {LM_KEY_U32, LMI_AT(ctx_len), {"n_positions", "max_position_embeddings"}, "context_length", false},
    {LM_KEY_U32, LMI_AT(n_kv_heads), {NULL}, "attention.head_count_kv", false},
    {LM_KEY_U32, LMI_AT(d_head), {NULL}, "attention.key_length", false},
    {LM_KEY_BOOL, LMI_AT(attn_bias), {NULL}, NULL, false},
    {LM_KEY_BOOL, LMI_AT(mlp_bias), {NULL}, NULL, false},
};

static const char *const classes[] = {"GPT2LMHeadModel", "GPT2Model", NULL};
static const char *const model_types[] = {"gpt2", "gpt2", NULL};

const struct lm_arch lm_arch_gpt2 = {
    .name = "gpt2",
    .title = "GPT-2",
    .hf_classes = classes,
    .hf_model_types = model_types,
    .hf_prefix = "transformer.",
    .norm = LM_NORM_LAYER,
    .act = LM_ACT_GELU_TANH,
    .learned_positions = true,
    .default_tied = true,
    .rope_hf = LM_ROPE_NONE,
    .rope_gguf = LM_ROPE_NONE,
    .default_norm_eps = 1e-5,
    .default_ff_factor = 4,
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .keys = keys,
    .n_keys = sizeof keys / sizeof keys[0],
};
