/* Falcon: 7B (one key/value head, attention and feed-forward beside each other
 * after one norm), 40B and 180B (a norm each, key/value heads in groups), RW
 * (ALiBi, biases, one after the other).  In GGUF attn_norm is what feeds the
 * feed-forward where there are two. */
#include "libmodel/arch/rows.h"

#define F "transformer.h.#."

static const struct lm_arch_row rows[] = {
    LMI_MAT(TOKEN_EMBD, "transformer.word_embeddings.weight", "token_embd.weight", VOCAB, MODEL),
    LMI_VEC(OUTPUT_NORM, "transformer.ln_f.weight", "output_norm.weight", MODEL),
    LMI_VEC(OUTPUT_NORM_B, "transformer.ln_f.bias", "output_norm.bias", MODEL),
    LMI_MAT(OUTPUT, "lm_head.weight", "output.weight", VOCAB, MODEL, LMI_OPTIONAL),
    LMI_VEC(ATTN_NORM, F "input_layernorm.weight", B "attn_norm.weight", MODEL, .when = LM_WHEN_ONE_NORM),
    LMI_VEC(ATTN_NORM_B, F "input_layernorm.bias", B "attn_norm.bias", MODEL, .when = LM_WHEN_ONE_NORM),
    LMI_VEC(ATTN_NORM, F "ln_mlp.weight", B "attn_norm.weight", MODEL, .when = LM_WHEN_TWO_NORMS),
    LMI_VEC(ATTN_NORM_B, F "ln_mlp.bias", B "attn_norm.bias", MODEL, .when = LM_WHEN_TWO_NORMS),
    LMI_VEC(ATTN_NORM_2, F "ln_attn.weight", B "attn_norm_2.weight", MODEL, .when = LM_WHEN_TWO_NORMS),
    LMI_VEC(ATTN_NORM_2_B, F "ln_attn.bias", B "attn_norm_2.bias", MODEL, .when = LM_WHEN_TWO_NORMS),
    LMI_MAT(ATTN_QKV, F "self_attention.query_key_value.weight", B "attn_qkv.weight", QKV, MODEL,
            .transform = LM_T_GROUP_QKV),
    LMI_VEC(ATTN_QKV_B, F "self_attention.query_key_value.bias", B "attn_qkv.bias", QKV, .transform = LM_T_GROUP_QKV,
            LMI_OPTIONAL),
    LMI_MAT(ATTN_OUT, F "self_attention.dense.weight", B "attn_output.weight", MODEL, Q),
    LMI_VEC(ATTN_OUT_B, F "self_attention.dense.bias", B "attn_output.bias", MODEL, LMI_OPTIONAL),
    LMI_VEC(FFN_NORM, F "post_attention_layernorm.weight", B "ffn_norm.weight", MODEL, .when = LM_WHEN_SERIAL),
    LMI_VEC(FFN_NORM_B, F "post_attention_layernorm.bias", B "ffn_norm.bias", MODEL, .when = LM_WHEN_SERIAL),
    LMI_MAT(FFN_UP, F "mlp.dense_h_to_4h.weight", B "ffn_up.weight", FF, MODEL),
    LMI_VEC(FFN_UP_B, F "mlp.dense_h_to_4h.bias", B "ffn_up.bias", FF, LMI_OPTIONAL),
    LMI_MAT(FFN_DOWN, F "mlp.dense_4h_to_h.weight", B "ffn_down.weight", MODEL, FF),
    LMI_VEC(FFN_DOWN_B, F "mlp.dense_4h_to_h.bias", B "ffn_down.bias", MODEL, LMI_OPTIONAL),
    LMI_DROPPED(F "self_attention.rotary_emb.inv_freq", "rotary frequencies, computed from rope_theta"),
};

static const struct lm_config_key keys[] = {
    {LM_KEY_U32, LMI_AT(d_ff), {"ffn_hidden_size"}, "feed_forward_length", false},
    {LM_KEY_U32, LMI_AT(n_kv_heads), {"num_kv_heads", "n_head_kv"}, "attention.head_count_kv", false},
    {LM_KEY_U32, LMI_AT(d_head), {NULL}, "attention.key_length", false},
    {LM_KEY_BOOL, LMI_AT(multi_query), {"multi_query"}, NULL, false},
    {LM_KEY_BOOL, LMI_AT(new_decoder), {"new_decoder_architecture"}, NULL, false},
    {LM_KEY_BOOL, LMI_AT(parallel), {"parallel_attn"}, NULL, false},
    {LM_KEY_BOOL, LMI_AT(alibi), {"alibi"}, "attention.alibi", true},
    {LM_KEY_BOOL, LMI_AT(attn_bias), {"bias"}, NULL, false},
    {LM_KEY_BOOL, LMI_AT(mlp_bias), {NULL}, NULL, false},
    {LM_KEY_U32, LMI_AT(n_norms), {"num_ln_in_parallel_attn"}, NULL, true},
};

static void class_defaults(struct lm_config *c, size_t hf_class)
{
    (void)hf_class;
    c->multi_query = true;
    c->ctx_len = 2048; /* the first files do not say */
}

static void settle_gguf(struct lm_config *c, const struct lm_model *m)
{
    c->two_norms = lm_model_find(m, "blk.0.attn_norm_2.weight") != NULL;
    c->parallel = !lm_model_find(m, "blk.0.ffn_norm.weight");
    c->attn_bias = lm_model_find(m, "blk.0.attn_qkv.bias") != NULL;
    c->new_decoder = c->two_norms || (c->n_kv_heads != 1 && c->n_kv_heads != c->n_heads);
    c->multi_query = c->n_kv_heads == 1;
    c->n_norms = c->two_norms ? 2 : c->new_decoder ? 1 : 0;
}

/* num_kv_heads is written even where multi_query says one, and read only in the new decoder. */
static int settle(struct lm_config *c, const struct lm_model *gguf, struct lm_err *e)
{
    if (gguf) {
        settle_gguf(c, gguf);
    } else {
        c->n_kv_heads = c->new_decoder ? c->n_kv_heads : c->multi_query ? 1 : c->n_heads;
        c->parallel = c->parallel || c->new_decoder;
        c->two_norms = c->new_decoder && c->n_norms != 1;
        c->n_norms = c->two_norms ? 2 : c->n_norms;
    }
    c->mlp_bias = c->attn_bias;
    if (!c->parallel || !c->alibi)
        return 0;
    return lm_err_set(e, LM_UNSUPPORTED, "falcon with alibi and parallel_attn together is not handled");
}

static const char *const classes[] = {"FalconForCausalLM", "RWForCausalLM", NULL};
static const char *const model_types[] = {"falcon", "RefinedWeb", NULL};

const struct lm_arch lm_arch_falcon = {
    .name = "falcon",
    .title = "Falcon",
    .hf_classes = classes,
    .hf_model_types = model_types,
    .hf_prefix = "transformer.",
    .norm = LM_NORM_LAYER,
    .act = LM_ACT_GELU_ERF,
    .default_tied = true,
    .parallel = true,
    .qkv_by_group = true,
    .rope_hf = LM_ROPE_HALF,
    .rope_gguf = LM_ROPE_HALF,
    .default_rope_theta = 10000,
    .default_norm_eps = 1e-5,
    .default_ff_factor = 4,
    .class_defaults = class_defaults,
    .settle = settle,
    LMI_ROWS_OF(rows),
    LMI_KEYS_OF(keys),
};
