/* Architectures as data: feature fields and rows of {role, names, symbolic
 * shape, transform}.  The converter, the shape checker and the engine read the
 * same rows; a family that differs only in fields needs no code. */
#ifndef LIBMODEL_ARCH_H
#define LIBMODEL_ARCH_H

#include "libmodel/model.h"

#ifdef __cplusplus
extern "C" {
#endif

enum lm_role {
#define ROLE(s, name, per_layer) LM_ROLE_##s,
#include "libmodel/roles.def"
#undef ROLE
    LM_N_ROLES
};
const char *lm_role_name(enum lm_role r);

/* Symbolic dimensions of a weight. */
enum lm_dim {
    LM_DIM_NONE = 0, /* ends the list */
    LM_DIM_VOCAB,
    LM_DIM_MODEL,
    LM_DIM_FF,
    LM_DIM_Q,    /* n_heads * d_head */
    LM_DIM_KV,   /* n_kv_heads * d_head */
    LM_DIM_QKV,  /* Q + 2 KV */
    LM_DIM_CTX,
    LM_DIM_HALF_ROPE, /* d_rope / 2 */
    LM_DIM_ANY,
    LM_DIM_ONE,
    LM_DIM_HEAD,      /* d_head */
    LM_DIM_HEADS,     /* n_heads */
    LM_DIM_FF2,       /* 2 d_ff: gate and up in one */
    LM_DIM_EXPERTS,
    LM_DIM_EXPERT_FF, /* d_ff_expert */
    LM_DIM_SHARED_FF, /* d_ff_shared */
    /* Multi-head latent attention */
    LM_DIM_Q_LORA,
    LM_DIM_KV_LORA,
    LM_DIM_KV_A,      /* kv_lora + d_rope */
    LM_DIM_NOPE,      /* d_head - d_rope */
    LM_DIM_HEAD_V,    /* d_head_v */
    LM_DIM_V          /* n_heads * d_head_v */
};

/* From the Hugging Face tensor to the GGUF tensor. */
enum lm_transform {
    LM_T_NONE = 0,
    LM_T_PERMUTE_Q, /* per head rows [2, d_head/2] -> [d_head/2, 2]: half-split to adjacent rotary pairs */
    LM_T_PERMUTE_K, /* the same over n_kv_heads */
    LM_T_TRANSPOSE, /* 2-D [in, out] -> [out, in] (Conv1D) */
    LM_T_PLUS_ONE,  /* x -> x + 1 (Gemma's norms), in f32 */
    LM_T_GROUP_QKV, /* rows [n_kv_heads, group + 2, d_head] -> all of Q, then K, then V */
    LM_T_STACK,     /* one tensor an expert -> [experts, ...] */
    LM_T_HALF_1,    /* the first and second half of the last dimension but one: gate and up in one tensor */
    LM_T_HALF_2,
    LM_T_EVEN,      /* every second element of the last dimension */
    LM_T_ODD,
    LM_T_EVEN_ROWS, /* [experts, in, 2 out], every second column -> [experts, out, in] */
    LM_T_ODD_ROWS,
    LM_T_TURN,      /* [experts, in, out] -> [experts, out, in] */
    LM_T_MLA_K,     /* rows [n_heads, nope + v] of kv_b -> [n_heads, kv_lora, nope] */
    LM_T_MLA_V,     /* ... -> [n_heads, v, kv_lora] */
    LM_T_EVEN_OUTS, /* [experts, 2 out, in], every second row of each -> [experts, out, in] */
    LM_T_ODD_OUTS
};
const char *lm_transform_name(enum lm_transform t); /* "none", "permute q", … */

enum lm_arch_row_flags {
    LM_ROW_OPTIONAL = 1,   /* may be absent (biases) */
    LM_ROW_GGUF_ONLY = 2,  /* no Hugging Face counterpart (rope_freqs) */
    LM_ROW_DROPPED = 4,    /* known, carries nothing: `why` says so */
    LM_ROW_ALIAS = 8       /* another Hugging Face spelling of a role that has a row: read, and written back only to
                              give the original file */
};

/* Conditions of the configuration; a row counts where all of its bits hold. */
enum lm_arch_row_when {
    LM_WHEN_DENSE = 1,      /* layers without experts */
    LM_WHEN_MOE = 2,        /* layers with experts */
    LM_WHEN_SHARED = 4,     /* there is a shared expert */
    LM_WHEN_Q_LORA = 8,
    LM_WHEN_NO_Q_LORA = 16,
    LM_WHEN_TWO_NORMS = 32, /* attention and feed-forward of a parallel layer have a norm each (Falcon) */
    LM_WHEN_ONE_NORM = 64,
    LM_WHEN_SERIAL = 128,   /* not parallel */
    LM_WHEN_CORRECTED = 256, /* routing is corrected by a bias */
    LM_WHEN_MXFP4 = 512,    /* experts are stored as MXFP4 blocks along their inputs, outputs first */
    LM_WHEN_PLAIN = 1024    /* they are not */
};

struct lm_arch_row {
    enum lm_role role;
    const char *hf;     /* "model.layers.#.self_attn.q_proj.weight"; # is the layer, @ the expert */
    const char *gguf;   /* "blk.#.attn_q.weight"; NULL when dropped */
    enum lm_dim shape[4]; /* of the GGUF tensor, outermost first (the HF shape before TRANSPOSE is its reverse) */
    enum lm_transform transform;
    unsigned flags;
    const char *why;    /* dropped rows: shown in the account */
    unsigned when;
};

/* How part of a Hugging Face tensor lies in a GGUF tensor: n[0] x n[1] x ...
 * elements, at these steps (in elements) in either, outermost of GGUF first. */
#define LM_BOX_AXES 4
struct lm_box {
    unsigned n_axes;
    uint64_t n[LM_BOX_AXES], hf[LM_BOX_AXES], gguf[LM_BOX_AXES];
    uint64_t hf_at, gguf_at;
};
#define LM_MAX_BOXES 3

enum lm_norm { LM_NORM_RMS, LM_NORM_LAYER };
enum lm_act {
    LM_ACT_SILU, LM_ACT_GELU_TANH, LM_ACT_GELU_ERF, LM_ACT_RELU,
    LM_ACT_SWIGLU_CLAMPED /* gpt-oss: g = min(gate, limit), u = clamp(up, limit): g sigmoid(alpha g) (u + 1) */
};
enum lm_rope_pairs {
    LM_ROPE_NONE,
    LM_ROPE_HALF,     /* (j, j + d/2) rotate together: Hugging Face, GGUF "NEOX" */
    LM_ROPE_ADJACENT  /* (2j, 2j+1): GGUF "NORM", Meta */
};
enum lm_rope_scaling { LM_SCALING_NONE, LM_SCALING_LINEAR, LM_SCALING_LLAMA3, LM_SCALING_YARN, LM_SCALING_LONGROPE };
enum lm_qk_norm { LM_QK_NORM_NONE, LM_QK_NORM_HEAD, LM_QK_NORM_WHOLE }; /* of each head, or of all heads at once */
enum lm_gating {
    LM_GATING_SOFTMAX, /* probabilities over all experts, then the k best */
    LM_GATING_SIGMOID,
    LM_GATING_TOPK_SOFTMAX /* the k best logits, then probabilities over them */
};
#define LM_MAX_MIXED_LAYERS 1024 /* layers of a model where some are windowed and others are not */

#define LM_MAX_EXPERTS 65536

/* Hyper-parameters, named by the field's standard terms; the same whether they
 * came from config.json or GGUF keys. Every count is validated (non-zero where
 * it divides, consistent, below 2^31). */
struct lm_config {
    const struct lm_arch *arch;
    uint32_t n_layers, d_model, d_ff, n_heads, n_kv_heads, d_head, d_rope;
    uint32_t vocab_size, ctx_len;
    uint32_t sliding_window; /* 0 none; honoured by the engine */
    double norm_eps;
    enum lm_act act;
    bool tied;               /* no output matrix: the embedding serves */
    bool attn_bias, mlp_bias; /* llama: q, k, v, o and gate, up, down have biases */
    double rope_theta;
    enum lm_rope_scaling scaling;
    double rope_factor;      /* linear, llama3, yarn */
    double rope_low_freq, rope_high_freq; /* llama3 */
    uint32_t rope_orig_ctx;  /* llama3, yarn */
    double beta_fast, beta_slow;          /* yarn */
    double rope_attn_factor; /* yarn: multiplies cos and sin; 0 = 0.1 ln(factor) + 1 */
    int64_t bos_id, eos_id, pad_id; /* -1 unknown */

    uint32_t d_head_v;       /* of V and of attention's output; d_head but for latent attention */
    double attn_scale;       /* of q k; 0 = 1 / sqrt(d_head): see lm_config_attn_scale */
    double attn_softcap, final_softcap; /* x -> cap tanh(x / cap) of scores and of logits; 0 none */
    double embed_scale, residual_scale, logit_divisor; /* 0 = 1 */
    bool parallel;           /* attention and feed-forward read the same input */
    bool alibi;              /* biases by distance instead of rotation */
    bool two_norms;          /* see LM_WHEN_TWO_NORMS */
    bool multi_query, new_decoder; /* falcon: how config.json said it */
    uint32_t n_norms;        /* the same: norms of a parallel layer, 0 when silent */
    uint64_t full_layers[LM_MAX_MIXED_LAYERS / 64]; /* bit: the layer is not limited by sliding_window */
    double rope_theta_local; /* windowed layers rotate by this base, unscaled; 0: like the others */
    bool rope_no_truncate;   /* yarn: bounds of the ramp are not rounded */
    double rope_mscale_all;  /* yarn of DeepSeek: attention is scaled by (0.1 this ln(factor) + 1) squared; 0 no */
    const double *rope_long, *rope_short; /* longrope: divisors [d_rope/2], the model's; NULL: GGUF's tensors */
    /* Mixtures of experts; n_experts 0: none */
    uint32_t n_experts, n_experts_used, d_ff_expert, d_ff_shared, n_shared_experts, n_dense_layers;
    uint32_t n_expert_groups, n_groups_used; /* 0 or 1: no groups */
    enum lm_gating gating;
    bool expert_norm;        /* weights of the chosen are divided by their sum */
    bool expert_correction;  /* a bias takes part in choosing, not in weighting */
    bool group_top2;         /* a group scores by its two best, else by its best */
    bool mxfp4_experts;      /* see LM_WHEN_MXFP4 */
    double expert_scale;     /* of the weights; 0 = 1 */
    double act_limit, act_alpha; /* LM_ACT_SWIGLU_CLAMPED */
    uint32_t q_lora, kv_lora, d_nope; /* latent attention; kv_lora 0: none */
};

/* A hyper-parameter by its names. */
enum lm_key_type {
    LM_KEY_U32, LM_KEY_REAL, LM_KEY_BOOL,
    LM_KEY_INV_SQRT /* config.json has x, field and GGUF 1 / sqrt(x) */
};
struct lm_config_key {
    enum lm_key_type type;
    size_t offset;       /* in struct lm_config */
    const char *hf[6];   /* names in config.json, first found wins, first is written */
    const char *gguf;    /* after "<arch>."; NULL: not a GGUF key */
    bool optional;       /* not written when zero or false */
};
/* A feature of config.json that changes the result and that no field expresses:
 * any value but the accepted ones (JSON texts, "," between) is refused by name. */
struct lm_config_guard { const char *key, *accepted; };

struct lm_arch {
    const char *name;  /* GGUF general.architecture: "llama" */
    const char *title; /* "Llama / Mistral" */
    const char *const *hf_classes;     /* NULL-terminated; [0] is what GGUF -> HF writes unless told otherwise */
    const char *const *hf_model_types; /* same order as hf_classes */
    const char *hf_prefix; /* may be missing from names in the wild ("transformer."); or NULL */
    enum lm_norm norm;
    enum lm_act act;       /* default when config is silent */
    bool gated;            /* down(act(gate x) * up x), else down(act(up x)) */
    bool learned_positions;
    bool default_tied;     /* what an absent tie_word_embeddings means */
    enum lm_rope_pairs rope_hf, rope_gguf;
    double default_rope_theta, default_norm_eps;
    uint32_t default_ff_factor; /* d_ff = factor * d_model when absent (gpt2: 4); 0 = required */
    const struct lm_arch_row *rows;
    size_t n_rows;

    enum lm_qk_norm qk_norm;
    bool parallel;          /* default */
    bool window_opt_in;     /* sliding_window counts only with use_sliding_window */
    bool mixed_windows;     /* config.json may say layer by layer (layer_types) */
    uint32_t window_period; /* every n-th layer is full; 0: none is */
    bool local_rope;        /* windowed layers are not scaled and may have a base of their own */
    double default_theta_local; /* 0: rope_theta */
    enum lm_gating gating;
    bool expert_norm;       /* when the source is silent */
    bool qkv_by_group;      /* Hugging Face's fused QKV is ordered as LM_T_GROUP_QKV takes it */
    const struct lm_config_key *keys; /* besides the common ones; a field named here hides the common key */
    size_t n_keys;
    const struct lm_config_guard *guards; /* {NULL, NULL} ends */
    /* Optional. What a class of hf_classes means beyond the defaults; which class config.json will name; relations
     * between fields, after reading (gguf: from GGUF, where tensors say what has no key). */
    void (*class_defaults)(struct lm_config *c, size_t hf_class);
    size_t (*hf_class)(const struct lm_config *c);
    int (*settle)(struct lm_config *c, const struct lm_model *gguf, struct lm_err *e);
};

const struct lm_arch *lm_arch_find(const char *gguf_name);   /* or NULL */
const struct lm_arch *lm_arch_at(size_t i);                  /* NULL past the end */

enum lm_naming { LM_NAMES_HF, LM_NAMES_GGUF };

/* Reads hyper-parameters from config.json or GGUF metadata. 1 found; 0 the
 * model does not say (no config) or its architecture is not ours (*why, when
 * not NULL, says which and is a static or model-owned string); -1 says what is
 * wrong with a config that is there. */
int lm_config_read(struct lm_config *out, struct lm_model *m, const char **why, struct lm_err *e);
/* The same as config.json text (malloc'd, caller frees) and as GGUF keys. */
int lm_config_to_json(char **out, const struct lm_config *c, const char *torch_dtype, struct lm_err *e);
int lm_config_to_meta(struct lm_meta *m, const struct lm_config *c, struct lm_err *e);
/* Value of a symbolic dimension; 0 for LM_DIM_ANY. */
uint64_t lm_config_dim(const struct lm_config *c, enum lm_dim d);
double lm_config_attn_scale(const struct lm_config *c);
/* Keys that a position of this layer sees besides itself and those before, itself counted; 0 all. */
uint32_t lm_config_window(const struct lm_config *c, uint32_t layer);
bool lm_config_is_moe(const struct lm_config *c, uint32_t layer);
/* What llama.cpp makes differently of the GGUF keys, as of its commit 0c1e570: sentence i, or NULL past the
 * end. The reference is transformers. */
const char *lm_config_llama_cpp_caveat(const struct lm_config *c, size_t i);

/* Rotation per position of pair j (radians), j < d_rope/2, and the factor on
 * cos and sin. Linear, llama3 (Llama 3.1) and YaRN (arXiv 2309.00071) as
 * transformers computes them, in double. freqs [d_rope/2]. */
void lm_rope_freqs(const struct lm_config *c, double *freqs, double *mscale);
/* The same for n_positions positions in all: longrope has two sets of divisors
 * (c->rope_long counts beyond the original context). local: of windowed layers. */
void lm_rope_freqs_for(const struct lm_config *c, bool local, uint32_t n_positions, double *freqs, double *mscale);
/* llama3 only: the divisors that GGUF stores as rope_freqs.weight [d_rope/2]. */
void lm_rope_llama3_divisors(const struct lm_config *c, float *divisors);
/* The inverse, for GGUF -> config.json: sets scaling, factor, low, high and
 * original context when they reproduce the n divisors to 1e-5; false if none do.
 * (lm_config_read leaves a GGUF with rope_freqs.weight at LM_SCALING_NONE: the
 * tensor itself carries the scaling.) */
bool lm_rope_llama3_recover(struct lm_config *c, const float *divisors, size_t n);

/* A row by name in either spelling. *layer gets the layer or -1. The optional
 * hf_prefix is handled. NULL: not a tensor of this architecture. */
const struct lm_arch_row *lm_arch_match(const struct lm_arch *a, enum lm_naming n, const char *name, int *layer);
/* A tensor may be several rows' (gate and up in one). after: the row before, or
 * NULL for the first. Rows whose condition c does not meet are passed over (c
 * NULL: none is). *expert gets the number that @ stands for, or 0. */
const struct lm_arch_row *lm_arch_match_next(const struct lm_arch *a, const struct lm_config *c, enum lm_naming n,
                                             const char *name, const struct lm_arch_row *after, int *layer,
                                             int *expert);
/* Does the row count in this layer (-1: outside)? */
bool lm_row_applies(const struct lm_arch_row *r, const struct lm_config *c, int layer);
/* The shape of a row's tensor in either spelling; returns the number of dimensions. */
unsigned lm_row_shape(const struct lm_arch_row *r, const struct lm_config *c, enum lm_naming n, uint64_t shape[4]);
/* One Hugging Face tensor for an expert? */
bool lm_row_is_stacked(const struct lm_arch_row *r);
/* The boxes of a row, for one expert where stacked; their number, 0 when the
 * transform is none, a permutation or + 1 (those are not boxes). */
unsigned lm_row_boxes(const struct lm_arch_row *r, const struct lm_config *c, unsigned expert,
                      struct lm_box out[LM_MAX_BOXES]);
/* The row's name in a spelling, with the layer put in, into buf; returns buf, or NULL if the row has none. */
char *lm_arch_row_name(const struct lm_arch_row *r, enum lm_naming n, int layer, char *buf, size_t size);
/* The same with the expert put in where the name has one. */
char *lm_arch_expert_name(const struct lm_arch_row *r, enum lm_naming n, int layer, int expert, char *buf,
                          size_t size);

/* Every tensor of a model matched to its row and checked. */
struct lm_binding {
    struct lm_config config;
    enum lm_naming naming;
    enum lm_rope_pairs rope; /* layout of Q and K rows in this model */
    struct lm_bound {
        const struct lm_arch_row *row; /* NULL: unknown to the architecture; of several rows the first */
        int layer;                     /* -1 outside layers */
        int expert;                    /* 0 where names have none */
    } *of;                             /* one a tensor, model order */
    const struct lm_tensor **at;       /* [(layer+1) * LM_N_ROLES + role]; see lm_bound_tensor */
    size_t n_unknown;
    const struct lm_arch_row **rows;   /* by what spelling at[i] was found */
    const struct lm_tensor ***experts; /* [(layer+1) * LM_N_ROLES + role][expert] where experts are tensors of their own */
    size_t n_slots;
};
/* -1 (LM_MISSING / LM_MISMATCH) when a required tensor is absent or a shape
 * contradicts the config: names tensor, found and expected shape. Unknown
 * tensors are counted, not refused. */
int lm_bind(struct lm_binding **out, struct lm_model *m, struct lm_err *e);
void lm_binding_free(struct lm_binding *b);
/* The tensor of a role (layer -1 for the global ones), or NULL. A tied OUTPUT is NULL. */
const struct lm_tensor *lm_bound_tensor(const struct lm_binding *b, enum lm_role r, int layer);
/* A matrix [n[0], n[1]] or vector [n[0]] of the model, whatever tensor it is part of: element
 * (i, j) is element at + i step[0] + j step[1] of t. index: the expert or the head, 0 where there is one.
 * false: the role is absent. Rows of Q and K are in the model's own order. */
struct lm_part {
    const struct lm_tensor *t;
    const struct lm_arch_row *row;
    uint64_t at, n[2], step[2];
};
bool lm_bound_part(const struct lm_binding *b, enum lm_role r, int layer, uint32_t index, struct lm_part *out);

#ifdef __cplusplus
}
#endif
#endif
