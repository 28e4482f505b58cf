/* What the plugin's files share.  Everything here is private to gpu/cuda_*:
 * the plugin exports one symbol (see backend.h).
 *
 * One device holds one stream; every operation is queued on it and nothing
 * waits except reads to the host.  Scratch grows to the largest call seen and
 * is never allocated per token. */
#ifndef GPU_CUDA_BASE_CUH
#define GPU_CUDA_BASE_CUH

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include "gpu/backend.h"
#include "gpu/cuda_blocks.cuh"

#ifdef __CUDACC__
#define LMC_LAUNCH(kernel, grid, block, shared, stream, ...) kernel<<<grid, block, shared, stream>>>(__VA_ARGS__)
#define LMC_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

struct lm_buf {
    float *data; /* device */
    size_t n;
};

struct lm_kv {
    float *k, *v; /* [n_layers][ctx_len][KV]; unused rows are zero, so a masked key never multiplies a NaN */
};

/* A matrix on the device: always [rows, cols], transposed ones were turned at upload. */
struct lmc_mat {
    const struct lm_tensor *tensor; /* for messages and for sharing a tied matrix */
    enum lm_dtype dtype;
    uint32_t rows, cols;
    lmc_planes planes;
    float *bias; /* device, or NULL */
};

struct lmc_scratch {
    void *p;
    size_t bytes;
};

enum lmc_slot {
    LMC_NORM,   /* f32 [n, max(d, Q)] what enters a product */
    LMC_GATE,   /* f32 [n, d_ff] */
    LMC_UP,     /* f32 [n, d_ff] */
    LMC_HALF,   /* bf16 copy of a product's input */
    LMC_WEIGHT, /* a tile of decoded weights */
    LMC_LOGITS, /* f32 [some rows, vocab] */
    LMC_PARTS,  /* attention: pieces of the decode split, scores of cuBLAS */
    LMC_IDS,
    LMC_N_SLOTS
};

struct lm_dev {
    int ordinal, n_sms;
    char name[256];
    enum lm_math math;
    cudaStream_t stream;
    cublasHandle_t blas;
    struct lm_net *net;
    uint32_t d, d_q, d_kv, d_ff, vocab;
    struct lmc_mat *mats;
    size_t n_mats;
    void **owned; /* device allocations of weights and tables */
    size_t n_owned;
    float *rope_cos, *rope_sin;
    struct lmc_scratch slots[LMC_N_SLOTS];
    void *pinned; /* for logits on their way to the host */
    size_t pinned_bytes;
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

/* ---- memory (cuda_open.cu) */
/* At least `bytes` in a slot; NULL and e when the device is full. */
void *lmc_scratch(struct lm_dev *d, enum lmc_slot slot, size_t bytes, struct lm_err *e);
/* Device memory that lives until close. */
void *lmc_own(struct lm_dev *d, size_t bytes, const char *what, struct lm_err *e);
/* Plain allocation whose failure says how much was wanted and how much is free. */
int lmc_malloc(void **out, size_t bytes, const char *what, struct lm_err *e);

/* ---- weights (cuda_weights.cu) */
int lmc_upload(struct lm_dev *d, struct lm_net *net, struct lm_err *e);
static inline const struct lmc_mat *lmc_mat_of(const struct lm_mat *m)
{
    return (const struct lmc_mat *)m->handle;
}
static inline const float *lmc_vec_of(const struct lm_vec *v)
{
    return (const float *)v->handle;
}

/* ---- decoding (cuda_decode.cu) */
/* x[i] = row ids[i] (host) of the embedding, + row pos0 + i of pos (or NULL). */
int lmc_embed(struct lm_dev *d, const struct lmc_mat *embed, const struct lmc_mat *pos, const int32_t *ids, size_t n,
              size_t pos0, float *x, struct lm_err *e);
/* Rows [row0, row0 + rows) to dst, f32 or bf16. */
int lmc_decode(struct lm_dev *d, const struct lmc_mat *m, uint32_t row0, uint32_t rows, void *dst, bool bf16,
               struct lm_err *e);
/* Queue: file blocks in device memory -> planes, from unit `first` on. */
int lmc_repack(struct lm_dev *d, enum lm_dtype t, const lmc_planes *p, size_t first, const uint8_t *blocks,
               size_t n_blocks, struct lm_err *e);
/* Queue: stored rows [c0, c0 + n) of a transposed matrix -> columns of dst [rows, cols]. */
int lmc_transpose(struct lm_dev *d, uint8_t *dst, const uint8_t *src, uint32_t rows, uint32_t cols, uint32_t c0,
                  uint32_t n, uint32_t elem_bytes, struct lm_err *e);

/* ---- products (cuda_product.cu) */
/* Rows [row0, row0 + rows) of w applied to x; result in out [n, ld]. */
struct lmc_part {
    const struct lmc_mat *w;
    uint32_t row0, rows;
    float *out;
    size_t ld;
};
enum { LMC_ACT_NONE = -1 };
struct lmc_job {
    struct lmc_part part[3];
    int n_parts;
    const float *x; /* [n, cols], rows 16-byte aligned when cols is a multiple of 8 */
    uint32_t cols;
    size_t n;
    bool add;  /* out += instead of out = */
    int act;   /* enum lm_act applied to the result, or LMC_ACT_NONE */
};
int lmc_product(struct lm_dev *d, const struct lmc_job *job, struct lm_err *e);
/* part[0] is the gate, part[1] the up matrix: h = act(gate x) * (up x). */
int lmc_gated(struct lm_dev *d, const struct lmc_job *job, float *h, struct lm_err *e);

/* ---- small kernels (cuda_small.cu) */
int lmc_norm(struct lm_dev *d, enum lm_norm kind, float eps, const float *x, const struct lm_vec *w,
             const struct lm_vec *b, uint32_t width, size_t n, float *out, struct lm_err *e);
int lmc_rope(struct lm_dev *d, float *q, float *k, size_t n, size_t pos0, struct lm_err *e);
/* y [n, rows] of stride ld: y = act(y + bias); bias may be NULL. */
int lmc_bias_act(struct lm_dev *d, float *y, size_t ld, const float *bias, uint32_t rows, size_t n, int act,
                 struct lm_err *e);
/* h = act(g + bg) * (u + bu), all [n, rows] without gaps. */
int lmc_glu(struct lm_dev *d, float *h, const float *g, const float *u, const float *bg, const float *bu,
            uint32_t rows, size_t n, int act, struct lm_err *e);
int lmc_to_bf16(struct lm_dev *d, uint16_t *dst, const float *src, size_t n, struct lm_err *e);

/* ---- attention (cuda_attend.cu) */
int lmc_attend(struct lm_dev *d, const float *q, const float *k, const float *v, float *out, size_t n, size_t pos0,
               struct lm_err *e);
/* Probabilities of the last of n queries, [n_heads, n_keys], to host. */
int lmc_probs(struct lm_dev *d, const float *q, const float *k, size_t n_keys, float *host, struct lm_err *e);

/* ---- device arithmetic used in several files */
#define LMC_DEV __device__ __forceinline__

/* Sum over a warp in one fixed tree (partners 16, 8, 4, 2, 1). */
LMC_DEV float lmc_warp_sum(float v)
{
    for (int o = 16; o > 0; o >>= 1)
        v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}
LMC_DEV float lmc_warp_max(float v)
{
    for (int o = 16; o > 0; o >>= 1)
        v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
    return v;
}
LMC_DEV float lmc_act(float x, int act)
{
    switch (act) {
    case LM_ACT_SILU: return x / (1.0f + expf(-x));
    case LM_ACT_GELU_TANH: return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
    case LM_ACT_GELU_ERF: return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f));
    case LM_ACT_RELU: return fmaxf(x, 0.0f);
    default: return x;
    }
}

#endif
