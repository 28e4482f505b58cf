/* What the plugin's files share.  Everything here is private to gpu/cuda_*:
 * the plugin exports one symbol (see backend.h).
 *
 * One device holds one stream; every operation is queued on it and nothing
 * waits except reads to the host.  Scratch grows to the largest call seen and
 * is never allocated per token.
 *
 * Activations are f32, or double in LM_MATH_F64: functions here take void * and
 * d->f64 says which; kernels are templates over the element. */
#ifndef GPU_CUDA_BASE_CUH
#define GPU_CUDA_BASE_CUH

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include "gpu/backend.h"
#include "gpu/cuda_coded.cuh"

#ifdef __CUDACC__
#define LMC_LAUNCH(kernel, grid, block, shared, stream, ...) kernel<<<grid, block, shared, stream>>>(__VA_ARGS__)
#define LMC_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

#define LMC_MAX_HEAD 576 /* widest key of attention's kernels: DeepSeek's latent vector and its rotated part */
#define LMC_MAX_VALUE 512
#define LMC_MAX_EXPERTS 1024

struct lm_buf {
    void *data; /* device */
    size_t n;
};

/* [n_layers][ctx_len][n_kv * width]; unused rows are zero, so a masked key never
 * multiplies a NaN. Latent attention's values are the head of its keys: v == k. */
struct lm_kv {
    void *k, *v;
};

/* A matrix on the device: always [rows, cols], transposed ones and parts were put in order at upload. */
struct lmc_mat {
    const struct lm_mat *of;
    const struct lm_tensor *tensor; /* for messages and for sharing a tied matrix */
    enum lm_dtype dtype;
    uint32_t rows, cols;
    lmc_planes planes;
    void *bias;  /* device, or NULL */
    int home;    /* layer, or -1 */
    size_t at;   /* in the memory of its home */
    bool shared; /* the planes of another */
};

/* The experts (or heads) of one kind of a layer, for kernels that choose among them. */
struct lmc_many {
    const lmc_planes *planes; /* device [n]; NULL: they differ in type */
    const void *bias;         /* device [n, rows], or NULL */
    const struct lmc_mat *first;
    uint32_t n;
};
enum lmc_many_role { LMC_E_GATE, LMC_E_UP, LMC_E_DOWN, LMC_K_B, LMC_V_B, LMC_N_MANY };

struct lmc_scratch {
    void *p;
    size_t bytes;
};

enum lmc_slot {
    LMC_NORM,   /* [n, d] what enters a product */
    LMC_WIDE,   /* [n, Q + 2 KV] a row's queries, keys and values */
    LMC_OUT,    /* [n, d] what a half of the layer gives before it is normed or scaled */
    LMC_GATE,   /* [n, d_ff] */
    LMC_UP,     /* [n, d_ff] */
    LMC_HALF,   /* bf16 copy of a product's input */
    LMC_WEIGHT, /* a tile of decoded weights */
    LMC_LOGITS, /* [some rows, vocab] */
    LMC_PARTS,  /* attention: pieces of the decode split, scores */
    LMC_IDS,
    LMC_ROUTE,  /* experts: logits, choices, weights */
    LMC_EXPERT, /* experts: gathered rows, what each gave */
    LMC_SHARED, /* what the shared expert gave */
    LMC_N_SLOTS
};

/* Where a call's first token is: given, or (in a recorded graph) read from the device. */
struct lmc_pos {
    uint32_t given;
    const uint32_t *dev;
};

struct lmc_stream; /* cuda_stream.cu: where layers are */
struct lmc_graph;  /* cuda_graph.cu: a recorded token */

struct lm_dev {
    int ordinal, n_sms, max_shared; /* bytes a block may have */
    char name[256];
    enum lm_math math;
    bool f64;
    size_t real; /* bytes of an activation */
    cudaStream_t stream;
    cublasHandle_t blas;
    struct lm_net *net;
    uint32_t d, d_q, d_a, d_k, d_v, k_row, v_row, vocab; /* d_q, d_a: of all heads; k_row, v_row: of a position */
    struct lmc_mat *mats;
    size_t n_mats, cap_mats;
    struct lmc_many (*many)[LMC_N_MANY]; /* [n_layers] */
    void **owned; /* device allocations of weights and tables */
    size_t n_owned;
    void *rope_cos, *rope_sin, *local_cos, *local_sin;
    float *slopes;               /* ALiBi, [n_heads] */
    uint8_t *books[LM_N_DTYPES]; /* codebooks of the types that have one */
    struct lmc_scratch slots[LMC_N_SLOTS];
    void *pinned; /* for logits on their way to the host */
    size_t pinned_bytes;
    size_t epoch; /* of scratch: counts reallocations */
    size_t weight_bytes, cache_bytes, work_bytes, free_bytes, limit; /* the plan */
    struct lmc_stream *streamed; /* where layers are */
    struct lmc_graph *graph;
    uint32_t *place; /* device: position of a recorded token */
    lm_watch_fn *watch; /* is shown what products take; or NULL */
    void *watch_user;
};

/* ---- errors: "cuda: CALL (what): message" and -1 */
int lmc_failed(struct lm_err *e, cudaError_t r, const char *call, const char *what);
int lmc_blas_failed(struct lm_err *e, cublasStatus_t r, const char *call, const char *what);
#define LMC_TRY(call, what)                                                                                            \
    do {                                                                                                               \
        cudaError_t lmc_r = (call);                                                                                    \
        if (lmc_r != cudaSuccess)                                                                                      \
            return lmc_failed(e, lmc_r, #call, what);                                                                  \
    } while (0)
/* After launches: what went wrong with them (a bad configuration, or an earlier fault). */
#define LMC_LAUNCHED(what) LMC_TRY(cudaGetLastError(), what)

/* ---- memory (cuda_memory.cu) */
/* At least `bytes` in a slot; NULL and e when the device is full. */
void *lmc_scratch(struct lm_dev *d, enum lmc_slot slot, size_t bytes, struct lm_err *e);
/* The same for n activations. */
void *lmc_reals(struct lm_dev *d, enum lmc_slot slot, size_t n, struct lm_err *e);
/* Device memory that lives until close. */
void *lmc_own(struct lm_dev *d, size_t bytes, const char *what, struct lm_err *e);
/* Plain allocation whose failure says how much was wanted and how much is free. */
int lmc_malloc(void **out, size_t bytes, const char *what, struct lm_err *e);
/* The i-th activation of a buffer of them. */
static inline void *lmc_at(const struct lm_dev *d, const void *p, size_t i)
{
    return (uint8_t *)p + i * d->real;
}

/* ---- weights (cuda_weights.cu, cuda_read.cu) */
/* Lists all matrices: d->mats, and what each home takes. */
int lmc_list(struct lm_dev *d, struct lm_net *net, size_t *homes, struct lm_err *e);
int lmc_upload(struct lm_dev *d, struct lm_net *net, const size_t *homes, uint32_t kept, struct lm_err *e);
void lmc_forget(struct lm_dev *d); /* clears the net's handles */
static inline const struct lmc_mat *lmc_mat_of(const struct lm_mat *m)
{
    return (const struct lmc_mat *)m->handle;
}
enum lmc_kind { LMC_PLAIN, LMC_BLOCKS, LMC_CODED, LMC_NO_KIND };
enum lmc_kind lmc_kind_of(enum lm_dtype t);
/* Of a type: elements and bytes of its smallest unit in the file, and what it is cut into on the device. */
struct lmc_layout {
    enum lmc_kind kind;
    uint32_t block_elems, block_bytes;
    lmc_shape shape; /* LMC_BLOCKS */
};
struct lmc_layout lmc_layout_of(enum lm_dtype t);
/* Points of a codebook type and their number; NULL: the type has none. */
const uint16_t *lmc_codebook(enum lm_dtype t, size_t *n);
/* Rows (of transposed matrices: columns) of a matrix, in order, as the file has them: see cuda_read.cu. */
void lmc_read_lines(const struct lm_mat *m, size_t first, size_t n, uint8_t *dst);
size_t lmc_line_bytes(const struct lm_mat *m);
size_t lmc_n_lines(const struct lm_mat *m);

/* Pinned memory that weights pass through on their way to the device. */
struct lmc_ring;
int lmc_ring_open(struct lmc_ring **out, size_t size, struct lm_err *e);
void lmc_ring_close(struct lmc_ring *r);
/* Queues a matrix on a stream: file, pinned memory, device, planes. */
int lmc_send(struct lm_dev *d, const struct lmc_mat *w, struct lmc_ring *r, cudaStream_t s, struct lm_err *e);

/* ---- the plan (cuda_plan.cu): memory of weights, cache and scratch before any of it is allocated */
/* homes [n_layers + 1]: bytes of each layer's matrices, then of those outside. *kept: how many layers stay on the
 * device, the first ones; the others come and go. */
int lmc_plan(struct lm_dev *d, const size_t *homes, uint32_t *kept, struct lm_err *e);
size_t lmc_cache_bytes(const struct lm_dev *d, bool values);

/* ---- layers that come and go (cuda_stream.cu) */
/* Their memory; layers from `kept` on share two places. ring: bytes of a pinned buffer. */
int lmc_stream_open(struct lm_dev *d, const size_t *homes, uint32_t kept, size_t ring, struct lm_err *e);
uint8_t *lmc_stream_place(const struct lm_dev *d, uint32_t layer);
void lmc_stream_close(struct lm_dev *d);
/* Before a layer's first kernel, after its last. */
int lmc_enter(struct lm_dev *d, uint32_t layer, struct lm_err *e);
int lmc_leave(struct lm_dev *d, uint32_t layer, struct lm_err *e);
uint32_t lmc_n_streamed(const struct lm_dev *d);

/* ---- decoding (cuda_decode.cu) and packing (cuda_repack.cu) */
/* x[i] = scale * row ids[i] (ids on the device) of the embedding, + row pos0 + i of pos (or NULL). */
int lmc_embed(struct lm_dev *d, const struct lmc_mat *embed, const struct lmc_mat *pos, const int32_t *ids, size_t n,
              struct lmc_pos pos0, void *x, struct lm_err *e);
/* Rows [row0, row0 + rows) to dst. */
enum lmc_form { LMC_AS_F32, LMC_AS_BF16, LMC_AS_F64 };
int lmc_decode(struct lm_dev *d, const struct lmc_mat *m, uint32_t row0, uint32_t rows, void *dst, enum lmc_form form,
               struct lm_err *e);
/* Queue: file blocks in device memory -> planes, from unit `first` on. */
int lmc_repack(cudaStream_t s, enum lm_dtype t, const lmc_planes *p, size_t first, const uint8_t *blocks,
               size_t n_blocks, struct lm_err *e);
/* Queue: stored rows [c0, c0 + n) of a transposed matrix -> columns of dst [rows, cols]. */
int lmc_transpose(cudaStream_t s, uint8_t *dst, const uint8_t *src, uint32_t rows, uint32_t cols, uint32_t c0,
                  uint32_t n, uint32_t elem_bytes, struct lm_err *e);

/* ---- products (cuda_product.cu; cuda_many.cu) */
/* Rows [row0, row0 + rows) of w applied to x; result in out [n, ld]. */
struct lmc_part {
    const struct lmc_mat *w;
    uint32_t row0, rows;
    void *out;
    size_t ld;
};
enum { LMC_ACT_NONE = -1 };
struct lmc_act_spec {
    int act; /* enum lm_act or LMC_ACT_NONE */
    double limit, alpha; /* LM_ACT_SWIGLU_CLAMPED */
};
struct lmc_job {
    struct lmc_part part[3];
    int n_parts;
    const void *x; /* [n, ldx], rows 16-byte aligned when cols is a multiple of 4 */
    uint32_t cols;
    size_t ldx, n;
    bool add;  /* out += instead of out = */
    struct lmc_act_spec act;  /* applied to the result */
};
int lmc_product(struct lm_dev *d, const struct lmc_job *job, struct lm_err *e);
/* part[0] is the gate, part[1] the up matrix: h = act(gate x) * (up x). */
int lmc_gated(struct lm_dev *d, const struct lmc_job *job, void *h, struct lm_err *e);

/* Token t's j-th slot (of per_token) uses matrix select[t per_token + j], or j
 * where select is NULL: out[t out_token + j out_slot ..] = W x[t x_token + j x_slot ..]. */
struct lmc_choice {
    const struct lmc_many *w[2]; /* w[1]: the partner of a gated product, or NULL */
    const uint32_t *select;
    uint32_t per_token, n;       /* n tokens */
    const float *x;
    size_t x_token, x_slot;
    float *out;
    size_t out_token, out_slot;
    struct lmc_act_spec act;
};
int lmc_choose(struct lm_dev *d, const struct lmc_choice *c, struct lm_err *e);
bool lmc_can_choose(const struct lm_dev *d, const struct lmc_many *m);

/* ---- small kernels (cuda_small.cu) */
/* Rows ldx apart, in place where out == x; out rows ldx apart then, else width. */
int lmc_norm(struct lm_dev *d, const void *x, size_t ldx, const struct lm_vec *w, const struct lm_vec *b, uint32_t width,
             size_t n, void *out, struct lm_err *e);
/* x [n, d] += scale * y, normed by post before where there is one. */
int lmc_join(struct lm_dev *d, void *x, const void *y, const struct lm_vec *post, size_t n, struct lm_err *e);
/* y [n, rows] of stride ld: y = act(y + bias); bias may be NULL. */
int lmc_bias_act(struct lm_dev *d, void *y, size_t ld, const void *bias, uint32_t rows, size_t n,
                 struct lmc_act_spec act, struct lm_err *e);
/* h = act(g + bg) * (u + bu), all [n, rows] without gaps. */
int lmc_glu(struct lm_dev *d, void *h, const void *g, const void *u, const void *bg, const void *bu, uint32_t rows,
            size_t n, struct lmc_act_spec act, struct lm_err *e);
int lmc_to_bf16(struct lm_dev *d, uint16_t *dst, const float *src, size_t ld, uint32_t cols, size_t n, struct lm_err *e);
/* Divisor and cap of logits. */
int lmc_finish(struct lm_dev *d, void *logits, size_t n, struct lm_err *e);

/* ---- queries, keys and values to their places (cuda_heads.cu) */
/* wide [n, ld]: rows as the fused product gives them; norms of heads, rotation; q [n, Q], k and v of the layer's cache. */
int lmc_store_heads(struct lm_dev *d, const struct lm_layer_weights *l, void *wide, size_t ld, void *q, void *k, void *v,
                    size_t n, struct lmc_pos pos0, struct lm_err *e);
/* Latent attention: rotates q's [n, ld] parts into q [n, Q], norms and stores latent [n, ld] as rows of k. */
int lmc_store_latent(struct lm_dev *d, const struct lm_layer_weights *l, const void *wide, const void *latent, size_t ld,
                     void *q, void *k, size_t n, struct lmc_pos pos0, struct lm_err *e);

/* ---- attention (cuda_attend*.cu) */
struct lmc_attend {
    const struct lm_layer_weights *layer;
    const void *q, *k, *v; /* k, v: position 0 of the layer */
    void *out;
    size_t n;
    struct lmc_pos pos0;
};
int lmc_attend(struct lm_dev *d, const struct lmc_attend *a, struct lm_err *e);
/* Probabilities of the last of the queries, [n_heads, n_keys], to host. */
int lmc_probs(struct lm_dev *d, const struct lmc_attend *a, float *host, struct lm_err *e);

/* ---- experts (cuda_moe.cu): out [n, d] */
int lmc_experts(struct lm_dev *d, uint32_t layer, const void *x, size_t n, void *out, struct lm_err *e);
/* out [n, d] = down(act(gate x) * (up x)), or down(act(up x)); add: onto out. */
int lmc_ffn(struct lm_dev *d, const struct lm_mat *gate, const struct lm_mat *up, const struct lm_mat *down,
            const void *x, size_t n, void *out, bool add, struct lm_err *e);

/* ---- tokens recorded as graphs (cuda_graph.cu) */
void lmc_graph_close(struct lm_dev *d);

/* ---- for all */
int lmc_to_host(struct lm_dev *d, void *host, const void *dev, size_t bytes, const char *what, struct lm_err *e);
static inline struct lmc_act_spec lmc_act_of(const struct lm_dev *d)
{
    const struct lm_config *c = &d->net->config;
    return {(int)c->act, c->act_limit, c->act_alpha};
}

/* ---- device arithmetic used in several files */
#define LMC_DEV __device__ __forceinline__

LMC_DEV uint32_t lmc_pos_of(struct lmc_pos p)
{
    return p.dev ? *p.dev : p.given;
}

/* Sum over a warp in one fixed tree (partners 16, 8, 4, 2, 1). */
template <class T> LMC_DEV T lmc_warp_sum(T v)
{
    for (int o = 16; o > 0; o >>= 1)
        v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}
/* Sum over a block of WARPS warps, by warp, then in their order; every thread gets it. warps: WARPS places
 * in shared memory, which may hold the last sum. */
template <int WARPS, class T> LMC_DEV T lmc_block_sum(T v, T *warps)
{
    v = lmc_warp_sum(v);
    __syncthreads(); /* the last sum has been read */
    if (threadIdx.x % 32 == 0)
        warps[threadIdx.x / 32] = v;
    __syncthreads();
    v = 0;
    for (int i = 0; i < WARPS; i++)
        v += warps[i];
    return v;
}
template <class T> LMC_DEV T lmc_warp_max(T v)
{
    for (int o = 16; o > 0; o >>= 1) {
        T other = __shfl_xor_sync(0xffffffffu, v, o);
        v = other > v ? other : v;
    }
    return v;
}

LMC_DEV float lmc_exp(float x) { return expf(x); }
LMC_DEV double lmc_exp(double x) { return exp(x); }
LMC_DEV float lmc_tanh(float x) { return tanhf(x); }
LMC_DEV double lmc_tanh(double x) { return tanh(x); }
LMC_DEV float lmc_erf(float x) { return erff(x); }
LMC_DEV double lmc_erf(double x) { return erf(x); }
LMC_DEV float lmc_sqrt(float x) { return sqrtf(x); }
LMC_DEV double lmc_sqrt(double x) { return sqrt(x); }

template <class T> LMC_DEV T lmc_activate(T x, const struct lmc_act_spec &a)
{
    switch (a.act) {
    case LM_ACT_SILU: return x / (T(1) + lmc_exp(-x));
    case LM_ACT_GELU_TANH:
        return T(0.5) * x * (T(1) + lmc_tanh(T(0.79788456080286535588) * (x + T(0.044715) * x * x * x)));
    case LM_ACT_GELU_ERF: return T(0.5) * x * (T(1) + lmc_erf(x * T(0.70710678118654752440)));
    case LM_ACT_RELU: return x > T(0) ? x : T(0);
    default: return x;
    }
}
/* act(g) * u */
template <class T> LMC_DEV T lmc_gate(T g, T u, const struct lmc_act_spec &a)
{
    if (a.act != LM_ACT_SWIGLU_CLAMPED)
        return lmc_activate(g, a) * u;
    const T limit = (T)a.limit;
    g = g < limit ? g : limit;
    u = u < -limit ? -limit : u < limit ? u : limit;
    return g / (T(1) + lmc_exp(-(T)a.alpha * g)) * (u + T(1));
}

#endif
