/* GPT-NeoX, Pythia, RedPajama: LayerNorm with bias, attention and feed-forward
 * beside each other, rotation of part of each head; Q, K and V of a head lie
 * together in Hugging Face's fused matrix. */
#include "libmodel/arch/rows.h"

#define N "gpt_neox.layers.#."

static const struct lm_arch_row rows[] = {
    LMI_MAT(TOKEN_EMBD, "gpt_neox.embed_in.weight", "token_embd.weight", VOCAB, MODEL),
    LMI_VEC(OUTPUT_NORM, "gpt_neox.final_layer_norm.weight", "output_norm.weight", MODEL),
    LMI_VEC(OUTPUT_NORM_B, "gpt_neox.final_layer_norm.bias", "output_norm.bias", MODEL),
    LMI_MAT(OUTPUT, "embed_out.weight", "output.weight", VOCAB, MODEL, LMI_OPTIONAL),
    LMI_VEC(ATTN_NORM, N "input_layernorm.weight", B "attn_norm.weight", MODEL),
    LMI_VEC(ATTN_NORM_B, N "input_layernorm.bias", B "attn_norm.bias", MODEL),
    LMI_MAT(ATTN_QKV, N "attention.query_key_value.weight", B "attn_qkv.weight", QKV, MODEL,
            .transform = LM_T_GROUP_QKV),
    LMI_VEC(ATTN_QKV_B, N "attention.query_key_value.bias", B "attn_qkv.bias", QKV, .transform = LM_T_GROUP_QKV),
    LMI_MAT(ATTN_OUT, N "attention.dense.weight", B "attn_output.weight", MODEL, Q),
    LMI_VEC(ATTN_OUT_B, N "attention.dense.bias", B "attn_output.bias", MODEL),
    LMI_VEC(FFN_NORM, N "post_attention_layernorm.weight", B "ffn_norm.weight", MODEL),
    LMI_VEC(FFN_NORM_B, N "post_attention_layernorm.bias", B "ffn_norm.bias", MODEL),
    LMI_MAT(FFN_UP, N "mlp.dense_h_to_4h.weight", B "ffn_up.weight", FF, MODEL),
    LMI_VEC(FFN_UP_B, N "mlp.dense_h_to_4h.bias", B "ffn_up.bias", FF),
    LMI_MAT(FFN_DOWN, N "mlp.dense_4h_to_h.weight", B "ffn_down.weight", MODEL, FF),
    LMI_VEC(FFN_DOWN_B, N "mlp.dense_4h_to_h.bias", B "ffn_down.bias", MODEL),
    LMI_DROPPED(N "attention.bias", "the causal mask, a buffer and not a weight"),
    LMI_DROPPED(N "attention.masked_bias", "the value of masked scores, a buffer and not a weight"),
    LMI_DROPPED(N "attention.rotary_emb.inv_freq", "rotary frequencies, computed from rope_theta"),
};

static const struct lm_config_key keys[] = {
    {LM_KEY_REAL, LMI_AT(norm_eps), {"layer_norm_eps"}, "attention.layer_norm_epsilon", false},
    {LM_KEY_BOOL, LMI_AT(parallel), {"use_parallel_residual"}, "use_parallel_residual", false},
    {LM_KEY_REAL, LMI_AT(rope_theta), {"rope_theta", "rotary_emb_base"}, "rope.freq_base", false},
    {LM_KEY_U32, LMI_AT(n_kv_heads), {NULL}, "attention.head_count_kv", false},
    {LM_KEY_U32, LMI_AT(d_head), {NULL}, "attention.key_length", false},
    {LM_KEY_BOOL, LMI_AT(attn_bias), {NULL}, NULL, false},
    {LM_KEY_BOOL, LMI_AT(mlp_bias), {NULL}, NULL, false},
};
static const struct lm_config_guard guards[] = {{"attention_bias", "true,null"}, {NULL, NULL}};

static const char *const classes[] = {"GPTNeoXForCausalLM", NULL};
static const char *const model_types[] = {"gpt_neox", NULL};

const struct lm_arch lm_arch_gptneox = {
    .name = "gptneox",
    .title = "GPT-NeoX / Pythia",
    .hf_classes = classes,
    .hf_model_types = model_types,
    .hf_prefix = "gpt_neox.",
    .norm = LM_NORM_LAYER,
    .act = LM_ACT_GELU_ERF,
    .parallel = true,
    .qkv_by_group = true,
    .rope_hf = LM_ROPE_HALF,
    .rope_gguf = LM_ROPE_HALF,
    .default_rope_theta = 10000,
    .default_norm_eps = 1e-5,
    .guards = guards,
    LMI_ROWS_OF(rows),
    LMI_KEYS_OF(keys),
};
