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
    LM_DIM_ANY
};

/* From the Hugging Face tensor to the GGUF tensor. */
enum lm_transform {
    LM_T_NONE = 0,
    LM_T_PERMUTE_Q, /* per head rows [2, d_head/2] -> [d_head/2, 2]: half-split to adjacent rotary pairs */
    LM_T_PERMUTE_K, /* the same over n_kv_heads */
    LM_T_TRANSPOSE  /* 2-D [in, out] -> [out, in] (Conv1D) */
};
const char *lm_transform_name(enum lm_transform t); /* "none", "permute q", … */

enum lm_arch_row_flags {
    LM_ROW_OPTIONAL = 1,   /* may be absent (biases) */
    LM_ROW_GGUF_ONLY = 2,  /* no Hugging Face counterpart (rope_freqs) */
    LM_ROW_DROPPED = 4     /* known, carries nothing: `why` says so */
};

struct lm_arch_row {
    enum lm_role role;
    const char *hf;     /* "model.layers.#.self_attn.q_proj.weight"; # is the layer */
    const char *gguf;   /* "blk.#.attn_q.weight"; NULL when dropped */
    enum lm_dim shape[4]; /* of the GGUF tensor, outermost first (the HF shape before TRANSPOSE is its reverse) */
    enum lm_transform transform;
    unsigned flags;
    const char *why;    /* dropped rows: shown in the account */
};

enum lm_norm { LM_NORM_RMS, LM_NORM_LAYER };
enum lm_act { LM_ACT_SILU, LM_ACT_GELU_TANH, LM_ACT_GELU_ERF, LM_ACT_RELU };
enum lm_rope_pairs {
    LM_ROPE_NONE,
    LM_ROPE_HALF,     /* (j, j + d/2) rotate together: Hugging Face, GGUF "NEOX" */
    LM_ROPE_ADJACENT  /* (2j, 2j+1): GGUF "NORM", Meta */
};
enum lm_rope_scaling { LM_SCALING_NONE, LM_SCALING_LINEAR, LM_SCALING_LLAMA3, LM_SCALING_YARN };

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
};

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

/* Rotation per position of pair j (radians), j < d_rope/2, and the factor on
 * cos and sin. Linear, llama3 (Llama 3.1) and YaRN (arXiv 2309.00071) as
 * transformers computes them, in double. freqs [d_rope/2]. */
void lm_rope_freqs(const struct lm_config *c, double *freqs, double *mscale);
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
/* The row's name in a spelling, with the layer put in, into buf; returns buf, or NULL if the row has none. */
char *lm_arch_row_name(const struct lm_arch_row *r, enum lm_naming n, int layer, char *buf, size_t size);

/* Every tensor of a model matched to its row and checked. */
struct lm_binding {
    struct lm_config config;
    enum lm_naming naming;
    enum lm_rope_pairs rope; /* layout of Q and K rows in this model */
    struct lm_bound {
        const struct lm_arch_row *row; /* NULL: unknown to the architecture */
        int layer;                     /* -1 outside layers */
    } *of;                             /* one a tensor, model order */
    const struct lm_tensor **at;       /* [(layer+1) * LM_N_ROLES + role]; see lm_bound_tensor */
    size_t n_unknown;
};
/* -1 (LM_MISSING / LM_MISMATCH) when a required tensor is absent or a shape
 * contradicts the config: names tensor, found and expected shape. Unknown
 * tensors are counted, not refused. */
int lm_bind(struct lm_binding **out, struct lm_model *m, struct lm_err *e);
void lm_binding_free(struct lm_binding *b);
/* The tensor of a role (layer -1 for the global ones), or NULL. A tied OUTPUT is NULL. */
const struct lm_tensor *lm_bound_tensor(const struct lm_binding *b, enum lm_role r, int layer);

#ifdef __cplusplus
}
#endif
#endif
