/* A backend runs the coarse operations that a decoder is made of.  Model
 * mechanics exist once (gpu/engine.c); the cpu backend is the reference; cuda is
 * tested against it operation by operation.  Operations are coarse so that a
 * backend can fuse.
 *
 * Shapes: n tokens of this call, row-major; d = d_model; Q = n_heads * d_k, A = n_heads * d_v;
 * K = n_kv * d_k, V = n_kv * d_v (lm_net; usually d_k = d_v = d_head, n_kv = n_kv_heads).  Activations are f32,
 * or double in LM_MATH_F64. */
#ifndef GPU_BACKEND_H
#define GPU_BACKEND_H

#include "libmodel/arch.h"
#include "libmodel/quantizer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How products with weights are computed. */
enum lm_math {
    LM_MATH_EXACT, /* weights decoded exactly, f32 activations, f32 (or better) accumulation in a fixed order */
    LM_MATH_FAST,  /* may round activations (int8 per block for block types, bf16 for BF16; TF32/BF16 tensor cores) */
    LM_MATH_TF32,  /* cuda: cuBLAS TF32 */
    LM_MATH_BF16,  /* cuda: cuBLAS BF16 inputs, f32 accumulation */
    LM_MATH_F64    /* everything in double, the KV cache too: the truth that others are measured by; cpu */
};

/* A small vector widened to f32 on the host: norm weights and biases. In
 * LM_MATH_F64 also to double (else exact is NULL). */
struct lm_vec {
    const float *data; /* NULL: absent */
    uint32_t n;
    void *handle;
    const double *exact;
};

/* A weight matrix y = W x + b: rows outputs, cols inputs. Element (r, c) is
 * element at + r row_step + c col_step of the tensor; where `part` is false it
 * is the tensor as a whole, and those three are 0. */
struct lm_mat {
    const struct lm_tensor *tensor; /* NULL: absent */
    uint32_t rows, cols;
    bool transposed;    /* columns lie together: [cols, rows] (GPT-2's Conv1D from Hugging Face) */
    const float *bias;  /* host f32 [rows] or NULL */
    void *handle;       /* the backend's own (device copy, repacked copy); NULL when it has none */
    bool part;          /* of a tensor: one expert, one head, gate or up of a fused matrix */
    uint64_t at, row_step, col_step;
    const double *bias_exact; /* LM_MATH_F64 */
};

struct lm_layer_weights {
    struct lm_vec attn_norm, attn_norm_b, ffn_norm, ffn_norm_b; /* absent: no norm before (OLMo 2) */
    struct lm_mat q, k, v, qkv; /* either q, k, v or the fused qkv (rows: Q, then K, then V) */
    struct lm_mat out, gate, up, down;
    struct lm_vec q_norm, k_norm;         /* before rotation, as config.arch->qk_norm says */
    struct lm_vec post_attn_norm, post_ffn_norm; /* of what goes to the residual stream */
    struct lm_vec sinks;                  /* [n_heads]: one more logit in each softmax, its value dropped */
    uint32_t window;                      /* keys seen, itself counted; 0 all */
    bool local_rope;                      /* rotates by the second table */
    /* Latent attention: q from q or through q_a, q_a_norm, q_b; per head k_b [kv_lora, nope], v_b [d_head_v, kv_lora] */
    struct lm_mat q_a, q_b, kv_a, *k_b, *v_b;
    struct lm_vec q_a_norm, kv_a_norm;
    /* Experts: router [n_experts], each gate, up, down; shared expert, and its gate [1] */
    struct lm_mat router, *e_gate, *e_up, *e_down, s_gate, s_up, s_down, s_router;
    struct lm_vec correction;             /* [n_experts]: takes part in the choice */
};

/* What a model needs beyond a plain llama or gpt2: bits of lm_net.features. A
 * backend refuses by name what it does not implement. */
#define LM_FEATURES(F)                                                                                                 \
    F(QK_NORM, "norms of queries and keys") F(POST_NORM, "norms after attention and feed-forward")                    \
    F(NO_PRE_NORM, "layers without norms before") F(SOFTCAP, "soft caps") F(SCALES, "scales of attention, embeddings, residuals or logits") \
    F(MIXED_WINDOWS, "windows that differ from layer to layer") F(LOCAL_ROPE, "a second rotary base")                 \
    F(PARALLEL, "attention and feed-forward beside each other") F(GROUPED_QKV, "fused queries, keys and values by group") \
    F(ALIBI, "ALiBi") F(SINKS, "attention sinks") F(EXPERTS, "experts") F(LATENT, "latent attention")                 \
    F(PARTS, "weights that are parts of tensors") F(F64, "arithmetic in double") F(ACTIVATION, "the activation")
enum lm_feature {
#define F(s, name) LM_FEATURE_##s,
    LM_FEATURES(F)
#undef F
    LM_N_FEATURES
};
static inline const char *lm_feature_name(unsigned f)
{
    static const char *const names[] = {
#define F(s, name) name,
        LM_FEATURES(F)
#undef F
    };
    return f < LM_N_FEATURES ? names[f] : "unknown";
}

/* Everything a backend may need, built by the engine from a binding. */
struct lm_net {
    struct lm_config config;
    enum lm_rope_pairs rope;    /* layout of q and k rows here */
    const float *rope_cos, *rope_sin; /* [ctx_len, d_rope/2] f32 rounded from double, mscale included */
    uint32_t ctx_len;           /* positions in the tables and in each KV cache */
    struct lm_mat embed, pos_embed, head; /* head.tensor == embed.tensor when tied */
    struct lm_vec out_norm, out_norm_b;
    struct lm_layer_weights *layers;  /* [n_layers] */
    const float *local_cos, *local_sin; /* of layers with local_rope; NULL: none has */
    const double *rope_freqs, *local_freqs; /* [d_rope/2]: what the tables were made of */
    double rope_mscale;
    uint32_t n_kv, d_k, d_v;   /* as the KV cache sees it: latent attention is one wide head */
    bool qkv_grouped;          /* rows of qkv: [n_kv_heads, group + 2, d_head] */
    uint32_t features;         /* 1 << enum lm_feature */
};

struct lm_backend_options {
    enum lm_math math;
    int n_threads;   /* cpu; 0 = all */
    int device;      /* cuda ordinal */
};

struct lm_dev;  /* a backend's instance */
struct lm_kv;   /* K and V of every layer for one session, [layer][pos][KV] */
struct lm_buf;  /* f32 activations in the backend's memory */
struct lm_position; /* gpu/compare.h */

/* Is shown x [n, cols], rows ldx apart, on the host: what the matrices (their addresses in lm_net) are about to be
 * multiplied with. mats[0] has a tensor. Called by the caller's thread, between operations. */
typedef void lm_watch_fn(void *user, const struct lm_mat *const *mats, size_t n_mats, const float *x, size_t ldx, size_t n);

/* Every operation returns 0 or -1 with e. pos0 is the position of the first of
 * the n tokens; KV rows 0..pos0-1 are filled. */
struct lm_backend {
    const char *name; /* "cpu", "cuda" */
    int (*open)(struct lm_dev **out, struct lm_net *net, const struct lm_backend_options *o, struct lm_err *e);
    void (*close)(struct lm_dev *d);
    /* One line for people: "cpu, 2 threads, avx512-vnni", "NVIDIA H200, bf16". */
    void (*describe)(const struct lm_dev *d, char *buf, size_t size);

    int (*buf_new)(struct lm_buf **out, struct lm_dev *d, size_t n_floats, struct lm_err *e);
    void (*buf_free)(struct lm_dev *d, struct lm_buf *b);
    int (*buf_read)(struct lm_dev *d, const struct lm_buf *b, size_t first, size_t n, float *host, struct lm_err *e);
    int (*buf_write)(struct lm_dev *d, struct lm_buf *b, size_t first, size_t n, const float *host, struct lm_err *e);
    /* Within b: n values from `from` on to `to` on. */
    int (*buf_move)(struct lm_dev *d, struct lm_buf *b, size_t to, size_t from, size_t n, struct lm_err *e);

    int (*kv_new)(struct lm_kv **out, struct lm_dev *d, struct lm_err *e);
    void (*kv_free)(struct lm_dev *d, struct lm_kv *kv);

    /* x [n, d] = rows of the embedding, scaled (+ learned positions when add_pos). */
    int (*embed)(struct lm_dev *d, struct lm_buf *x, const int32_t *ids, size_t n, size_t pos0, bool add_pos,
                 struct lm_err *e);
    /* q [n, Q] and rows pos0.. of the layer's K and V: norm, projections, biases, norms of heads, rotation. */
    int (*qkv)(struct lm_dev *d, uint32_t layer, const struct lm_buf *x, struct lm_buf *q, struct lm_kv *kv, size_t n,
               size_t pos0, struct lm_err *e);
    /* out [n, A]: causal (sliding-window if the layer says) softmax(scale q k) v, with caps, biases by distance, sinks.
     * probs: NULL, or host [n_heads, pos0 + n] for the last token. */
    int (*attend)(struct lm_dev *d, uint32_t layer, const struct lm_buf *q, const struct lm_kv *kv, struct lm_buf *out,
                  size_t n, size_t pos0, float *probs, struct lm_err *e);
    /* x += out-projection of a [n, A], normed and scaled. */
    int (*project)(struct lm_dev *d, uint32_t layer, const struct lm_buf *a, struct lm_buf *x, size_t n,
                   struct lm_err *e);
    /* x += FFN(norm(x)), gated or not as the architecture says; the layer's experts where it has any; normed and
     * scaled. Before project where the layer is parallel. */
    int (*ffn)(struct lm_dev *d, uint32_t layer, struct lm_buf *x, size_t n, struct lm_err *e);
    /* logits host [n_rows, vocab] of rows first.. of x: final norm, head, scale, cap. */
    int (*logits)(struct lm_dev *d, const struct lm_buf *x, size_t first, size_t n_rows, float *logits,
                  struct lm_err *e);
    /* The same without rounding; NULL where activations are f32. */
    int (*logits_f64)(struct lm_dev *d, const struct lm_buf *x, size_t first, size_t n_rows, double *logits,
                      struct lm_err *e);
    /* Rows [pos, pos+n) of one layer's K and V to host [n, K] and [n, V] (taps, tests). */
    int (*kv_read)(struct lm_dev *d, const struct lm_kv *kv, uint32_t layer, size_t pos, size_t n, float *k, float *v,
                   struct lm_err *e);
    int (*sync)(struct lm_dev *d, struct lm_err *e);
    /* From now on every product's input is shown to fn; NULL ends it. NULL: this backend cannot. */
    void (*watch)(struct lm_dev *d, lm_watch_fn *fn, void *user);
    /* lm_position_compare (gpu/compare.h) of the logits of rows first_a.. of xa, a's, and first_b.. of xb, b's, two
     * instances of this backend, without bringing them to the host; next [n]. 0 done, 1 these two cannot. NULL: none can. */
    int (*compare)(struct lm_dev *a, const struct lm_buf *xa, size_t first_a, struct lm_dev *b, const struct lm_buf *xb,
                   size_t first_b, size_t n, size_t n_vocab, const int32_t *next, struct lm_position *out,
                   struct lm_err *e);
};

extern const struct lm_backend lm_backend_cpu;
extern const struct lm_backend lm_backend_cpu_f64; /* plain loops in double */
/* The cuda backend lives in the plugin libmodel-cuda.so, which exports this. A
 * plugin whose version differs from LM_BACKEND_ABI is refused by name. */
#define LM_BACKEND_ABI 4
struct lm_plugin {
    uint32_t abi;
    const struct lm_backend *backend;
    int (*n_devices)(struct lm_err *e);
    const struct lm_quantizer *quantizer; /* NULL: none */
};
#define LM_PLUGIN_SYMBOL "lm_plugin_cuda" /* extern const struct lm_plugin lm_plugin_cuda; */

#ifdef __cplusplus
}
#endif
#endif
