/* Rows that families share, so that a family's file shows what is its own.
 * L and B are the prefixes of a layer in Hugging Face's names and in GGUF's. */
#ifndef LIBMODEL_ARCH_ROWS_H
#define LIBMODEL_ARCH_ROWS_H

#include "libmodel/config.h"

#define LMI_VEC(role_, hf_, gguf_, d, ...)                                                                             \
    {.role = LM_ROLE_##role_, .hf = hf_, .gguf = gguf_, .shape = {LM_DIM_##d}, ##__VA_ARGS__}
#define LMI_MAT(role_, hf_, gguf_, rows_, cols_, ...)                                                                  \
    {.role = LM_ROLE_##role_, .hf = hf_, .gguf = gguf_, .shape = {LM_DIM_##rows_, LM_DIM_##cols_}, ##__VA_ARGS__}
#define LMI_CUBE(role_, hf_, gguf_, n_, rows_, cols_, ...)                                                             \
    {.role = LM_ROLE_##role_, .hf = hf_, .gguf = gguf_, .shape = {LM_DIM_##n_, LM_DIM_##rows_, LM_DIM_##cols_},        \
     ##__VA_ARGS__}
#define LMI_DROPPED(hf_, why_) \
    {.role = LM_ROLE_IGNORED, .hf = hf_, .shape = {LM_DIM_ANY}, .flags = LM_ROW_DROPPED, .why = why_}
#define LMI_OPTIONAL .flags = LM_ROW_OPTIONAL

#define L "model.layers.#."
#define B "blk.#."

#define LMI_TOP(norm_transform)                                                                                        \
    LMI_MAT(TOKEN_EMBD, "model.embed_tokens.weight", "token_embd.weight", VOCAB, MODEL),                               \
    LMI_VEC(OUTPUT_NORM, "model.norm.weight", "output_norm.weight", MODEL, .transform = norm_transform),               \
    LMI_MAT(OUTPUT, "lm_head.weight", "output.weight", VOCAB, MODEL, LMI_OPTIONAL)

/* transform: of the rows of Q and K */
#define LMI_ATTENTION(t_q, t_k)                                                                                        \
    LMI_MAT(ATTN_Q, L "self_attn.q_proj.weight", B "attn_q.weight", Q, MODEL, .transform = t_q),                       \
    LMI_MAT(ATTN_K, L "self_attn.k_proj.weight", B "attn_k.weight", KV, MODEL, .transform = t_k),                      \
    LMI_MAT(ATTN_V, L "self_attn.v_proj.weight", B "attn_v.weight", KV, MODEL),                                        \
    LMI_MAT(ATTN_OUT, L "self_attn.o_proj.weight", B "attn_output.weight", MODEL, Q)
#define LMI_QKV_BIAS(t_q, t_k, flags_)                                                                                 \
    LMI_VEC(ATTN_Q_B, L "self_attn.q_proj.bias", B "attn_q.bias", Q, .transform = t_q, .flags = flags_),               \
    LMI_VEC(ATTN_K_B, L "self_attn.k_proj.bias", B "attn_k.bias", KV, .transform = t_k, .flags = flags_),              \
    LMI_VEC(ATTN_V_B, L "self_attn.v_proj.bias", B "attn_v.bias", KV, .flags = flags_)
#define LMI_OUT_BIAS(flags_)                                                                                           \
    LMI_VEC(ATTN_OUT_B, L "self_attn.o_proj.bias", B "attn_output.bias", MODEL, .flags = flags_)
/* Norms of every head of Q and K. */
#define LMI_QK_NORM(...)                                                                                               \
    LMI_VEC(ATTN_Q_NORM, L "self_attn.q_norm.weight", B "attn_q_norm.weight", HEAD, ##__VA_ARGS__),                    \
    LMI_VEC(ATTN_K_NORM, L "self_attn.k_norm.weight", B "attn_k_norm.weight", HEAD, ##__VA_ARGS__)

#define LMI_GATED_FFN(when_)                                                                                           \
    LMI_MAT(FFN_GATE, L "mlp.gate_proj.weight", B "ffn_gate.weight", FF, MODEL, .when = when_),                        \
    LMI_MAT(FFN_UP, L "mlp.up_proj.weight", B "ffn_up.weight", FF, MODEL, .when = when_),                              \
    LMI_MAT(FFN_DOWN, L "mlp.down_proj.weight", B "ffn_down.weight", MODEL, FF, .when = when_)
#define LMI_FFN_BIAS                                                                                                   \
    LMI_VEC(FFN_GATE_B, L "mlp.gate_proj.bias", B "ffn_gate.bias", FF, LMI_OPTIONAL, .when = LM_WHEN_DENSE),           \
    LMI_VEC(FFN_UP_B, L "mlp.up_proj.bias", B "ffn_up.bias", FF, LMI_OPTIONAL, .when = LM_WHEN_DENSE),                 \
    LMI_VEC(FFN_DOWN_B, L "mlp.down_proj.bias", B "ffn_down.bias", MODEL, LMI_OPTIONAL, .when = LM_WHEN_DENSE)

/* Experts, one tensor each; names of gate, up and down in `block`. */
#define LMI_EXPERTS(block, gate, up, down)                                                                             \
    LMI_CUBE(GATE_EXPS, L block ".experts.@." gate ".weight", B "ffn_gate_exps.weight", EXPERTS, EXPERT_FF, MODEL,     \
             .transform = LM_T_STACK, .when = LM_WHEN_MOE),                                                            \
    LMI_CUBE(UP_EXPS, L block ".experts.@." up ".weight", B "ffn_up_exps.weight", EXPERTS, EXPERT_FF, MODEL,           \
             .transform = LM_T_STACK, .when = LM_WHEN_MOE),                                                            \
    LMI_CUBE(DOWN_EXPS, L block ".experts.@." down ".weight", B "ffn_down_exps.weight", EXPERTS, MODEL, EXPERT_FF,     \
             .transform = LM_T_STACK, .when = LM_WHEN_MOE)
/* The same as transformers 5 holds (and may save) them: gate above up in one 3-D tensor. */
#define LMI_FUSED_EXPERTS(gate_up, down, flags_)                                                                       \
    LMI_CUBE(GATE_EXPS, L gate_up, B "ffn_gate_exps.weight", EXPERTS, EXPERT_FF, MODEL, .transform = LM_T_HALF_1,      \
             .flags = flags_, .when = LM_WHEN_MOE),                                                                    \
    LMI_CUBE(UP_EXPS, L gate_up, B "ffn_up_exps.weight", EXPERTS, EXPERT_FF, MODEL, .transform = LM_T_HALF_2,          \
             .flags = flags_, .when = LM_WHEN_MOE),                                                                    \
    LMI_CUBE(DOWN_EXPS, L down, B "ffn_down_exps.weight", EXPERTS, MODEL, EXPERT_FF, .flags = flags_,                  \
             .when = LM_WHEN_MOE)
#define LMI_ROUTER(hf_, flags_)                                                                                        \
    LMI_MAT(ROUTER, L hf_, B "ffn_gate_inp.weight", EXPERTS, MODEL, .flags = flags_, .when = LM_WHEN_MOE)

#define LMI_SHARED(block)                                                                                              \
    LMI_MAT(GATE_SHEXP, L block ".gate_proj.weight", B "ffn_gate_shexp.weight", SHARED_FF, MODEL,                      \
            .when = LM_WHEN_SHARED),                                                                                   \
    LMI_MAT(UP_SHEXP, L block ".up_proj.weight", B "ffn_up_shexp.weight", SHARED_FF, MODEL, .when = LM_WHEN_SHARED),   \
    LMI_MAT(DOWN_SHEXP, L block ".down_proj.weight", B "ffn_down_shexp.weight", MODEL, SHARED_FF,                      \
            .when = LM_WHEN_SHARED)

#define LMI_INV_FREQ LMI_DROPPED(L "self_attn.rotary_emb.inv_freq", "rotary frequencies, computed from rope_theta")

#define LMI_ROWS_OF(a) .rows = a, .n_rows = sizeof a / sizeof a[0]
#define LMI_KEYS_OF(a) .keys = a, .n_keys = sizeof a / sizeof a[0]
#endif
