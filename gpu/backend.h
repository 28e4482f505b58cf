/* A backend runs the coarse operations that a decoder is made of.  Model
 * mechanics exist once (gpu/engine.c); the cpu backend is the reference; cuda is
 * tested against it operation by operation.  Operations are coarse so that a
 * backend can fuse.
 *
 * Shapes: n tokens of this call, row-major; d = d_model; Q = n_heads * d_head;
 * KV = n_kv_heads * d_head.  Activations are f32. */
#ifndef GPU_BACKEND_H
#define GPU_BACKEND_H

#include "libmodel/arch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How products with weights are computed. */
enum lm_math {
    LM_MATH_EXACT, /* weights decoded exactly, f32 activations, f32 (or better) accumulation in a fixed order */
    LM_MATH_FAST,  /* may round activations (int8 per block for block types, bf16 for BF16; TF32/BF16 tensor cores) */
    LM_MATH_TF32,  /* cuda: cuBLAS TF32 */
    LM_MATH_BF16   /* cuda: cuBLAS BF16 inputs, f32 accumulation */
};

/* A weight matrix y = W x + b: rows outputs, cols inputs. */
struct lm_mat {
    const struct lm_tensor *tensor; /* NULL: absent */
    uint32_t rows, cols;
    bool transposed;    /* stored [cols, rows] (GPT-2's Conv1D from Hugging Face) */
    const float *bias;  /* host f32 [rows] or NULL */
    void *handle;       /* the backend's own (device copy, repacked copy); NULL when it has none */
};

/* A small vector widened to f32 on the host: norm weights and biases. */
struct lm_vec {
    const float *data; /* NULL: absent */
    uint32_t n;
    void *handle;
};

struct lm_layer_weights {
    struct lm_vec attn_norm, attn_norm_b, ffn_norm, ffn_norm_b;
    struct lm_mat q, k, v, qkv; /* either q, k, v or the fused qkv (rows: Q, then K, then V) */
    struct lm_mat out, gate, up, down;
};

/* Everything a backend may need, built by the engine from a binding. */
struct lm_net {
    struct lm_config config;
    enum lm_rope_pairs rope;    /* layout of q and k rows here */
    const float *rope_cos, *rope_sin; /* [ctx_len, d_rope/2] f32 rounded from double, mscale included */
    uint32_t ctx_len;           /* positions in the tables and in each KV cache */
    struct lm_mat embed, pos_embed, head; /* head.tensor == embed.tensor when tied */
    struct lm_vec out_norm, out_norm_b;
    struct lm_layer_weights *layers;  /* [n_layers] */
};

struct lm_backend_options {
    enum lm_math math;
    int n_threads;   /* cpu; 0 = all */
    int device;      /* cuda ordinal */
};

struct lm_dev;  /* a backend's instance */
struct lm_kv;   /* K and V of every layer for one session, [layer][pos][KV] */
struct lm_buf;  /* f32 activations in the backend's memory */

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

    int (*kv_new)(struct lm_kv **out, struct lm_dev *d, struct lm_err *e);
    void (*kv_free)(struct lm_dev *d, struct lm_kv *kv);

    /* x [n, d] = rows of the embedding (+ learned positions when add_pos). */
    int (*embed)(struct lm_dev *d, struct lm_buf *x, const int32_t *ids, size_t n, size_t pos0, bool add_pos,
                 struct lm_err *e);
    /* q [n, Q] and rows pos0.. of the layer's K and V: norm, projections, biases, rotation. */
    int (*qkv)(struct lm_dev *d, uint32_t layer, const struct lm_buf *x, struct lm_buf *q, struct lm_kv *kv, size_t n,
               size_t pos0, struct lm_err *e);
    /* out [n, Q]: causal (sliding-window if the config says) softmax(q k / sqrt(d_head)) v.
     * probs: NULL, or host [n_heads, pos0 + n] for the last token. */
    int (*attend)(struct lm_dev *d, uint32_t layer, const struct lm_buf *q, const struct lm_kv *kv, struct lm_buf *out,
                  size_t n, size_t pos0, float *probs, struct lm_err *e);
    /* x += out-projection of a [n, Q]. */
    int (*project)(struct lm_dev *d, uint32_t layer, const struct lm_buf *a, struct lm_buf *x, size_t n,
                   struct lm_err *e);
    /* x += FFN(norm(x)), gated or not as the architecture says. */
    int (*ffn)(struct lm_dev *d, uint32_t layer, struct lm_buf *x, size_t n, struct lm_err *e);
    /* logits host [n_rows, vocab] of rows first.. of x: final norm, head. */
    int (*logits)(struct lm_dev *d, const struct lm_buf *x, size_t first, size_t n_rows, float *logits,
                  struct lm_err *e);
    /* Rows [pos, pos+n) of one layer's K and V to host [n, KV] each (taps, tests). */
    int (*kv_read)(struct lm_dev *d, const struct lm_kv *kv, uint32_t layer, size_t pos, size_t n, float *k, float *v,
                   struct lm_err *e);
    int (*sync)(struct lm_dev *d, struct lm_err *e);
};

extern const struct lm_backend lm_backend_cpu;
/* The cuda backend lives in the plugin libmodel-cuda.so, which exports this. A
 * plugin whose version differs from LM_BACKEND_ABI is refused by name. */
#define LM_BACKEND_ABI 1
struct lm_plugin { uint32_t abi; const struct lm_backend *backend; int (*n_devices)(struct lm_err *e); };
#define LM_PLUGIN_SYMBOL "lm_plugin_cuda" /* extern const struct lm_plugin lm_plugin_cuda; */

#ifdef __cplusplus
}
#endif
#endif
