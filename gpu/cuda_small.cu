/* Norms, rotation, activations, conversions. */
#include "gpu/cuda_base.cuh"

enum { THREADS = 256 };

/* ---- norms: a block of threads a token, sums in a fixed tree */

static LMC_DEV float block_sum(float v)
{
    __shared__ float warps[THREADS / 32];

    v = lmc_warp_sum(v);
    __syncthreads(); /* the last sum has been read */
    if (threadIdx.x % 32 == 0)
        warps[threadIdx.x / 32] = v;
    __syncthreads();
    v = 0;
    for (int i = 0; i < THREADS / 32; i++)
        v += warps[i];
    return v;
}

static __global__ void norm(enum lm_norm kind, float eps, const float *in, const float *w, const float *b,
                            uint32_t width, float *out)
{
    const float *x = in + (size_t)blockIdx.x * width;
    float *y = out + (size_t)blockIdx.x * width;
    float mean = 0, sum = 0;

    if (kind == LM_NORM_LAYER) {
        for (uint32_t i = threadIdx.x; i < width; i += THREADS)
            sum += x[i];
        mean = block_sum(sum) / (float)width;
        sum = 0;
    }
    for (uint32_t i = threadIdx.x; i < width; i += THREADS)
        sum = lmc_fma(x[i] - mean, x[i] - mean, sum);
    float scale = 1.0f / sqrtf(block_sum(sum) / (float)width + eps);
    for (uint32_t i = threadIdx.x; i < width; i += THREADS) {
        float v = (x[i] - mean) * scale * w[i];
        y[i] = b ? v + b[i] : v;
    }
}

int lmc_norm(struct lm_dev *d, enum lm_norm kind, float eps, const float *x, const struct lm_vec *w,
             const struct lm_vec *b, uint32_t width, size_t n, float *out, struct lm_err *e)
{
    LMC_LAUNCH(norm, dim3((unsigned)n), dim3(THREADS), 0, d->stream, kind, eps, x, lmc_vec_of(w), lmc_vec_of(b), width,
               out);
    LMC_LAUNCHED("norm");
    return 0;
}

/* ---- rotation, in place: a block a token; heads of q, then heads of k */

static __global__ void rope(float *q, float *k, const float *cosines, const float *sines, uint32_t n_heads,
                            uint32_t n_kv_heads, uint32_t d_head, uint32_t half, size_t pos0, bool adjacent)
{
    size_t token = blockIdx.x;
    const float *c = cosines + (pos0 + token) * half, *s = sines + (pos0 + token) * half;

    for (uint32_t i = threadIdx.x; i < (n_heads + n_kv_heads) * half; i += THREADS) {
        uint32_t head = i / half, j = i % half;
        float *x = head < n_heads ? q + (token * n_heads + head) * d_head
                                  : k + (token * n_kv_heads + head - n_heads) * d_head;
        uint32_t a = adjacent ? 2 * j : j, b = adjacent ? 2 * j + 1 : j + half;
        float xa = x[a], xb = x[b];
        x[a] = xa * c[j] - xb * s[j];
        x[b] = xb * c[j] + xa * s[j];
    }
}

int lmc_rope(struct lm_dev *d, float *q, float *k, size_t n, size_t pos0, struct lm_err *e)
{
    const struct lm_config *c = &d->net->config;
    if (d->net->rope == LM_ROPE_NONE || c->d_rope == 0)
        return 0;
    LMC_LAUNCH(rope, dim3((unsigned)n), dim3(THREADS), 0, d->stream, q, k, d->rope_cos, d->rope_sin, c->n_heads,
               c->n_kv_heads, c->d_head, c->d_rope / 2, pos0, d->net->rope == LM_ROPE_ADJACENT);
    LMC_LAUNCHED("rotation");
    return 0;
}

/* ---- element by element */

static unsigned grid_for(size_t n)
{
    size_t blocks = (n + THREADS - 1) / THREADS;
    return (unsigned)(blocks < 65535 ? blocks : 65535);
}
#define EACH(i, n) for (size_t i = blockIdx.x * (size_t)THREADS + threadIdx.x; i < (n); i += (size_t)gridDim.x * THREADS)

static __global__ void bias_act(float *y, size_t ld, const float *bias, uint32_t rows, size_t n, int act)
{
    EACH(i, n) {
        size_t at = i / rows * ld + i % rows;
        y[at] = lmc_act(bias ? y[at] + bias[i % rows] : y[at], act);
    }
}

int lmc_bias_act(struct lm_dev *d, float *y, size_t ld, const float *bias, uint32_t rows, size_t n, int act,
                 struct lm_err *e)
{
    if (!bias && act == LMC_ACT_NONE)
        return 0;
    LMC_LAUNCH(bias_act, dim3(grid_for(rows * n)), dim3(THREADS), 0, d->stream, y, ld, bias, rows, rows * n, act);
    LMC_LAUNCHED("bias");
    return 0;
}

static __global__ void glu(float *h, const float *g, const float *u, const float *bg, const float *bu, uint32_t rows,
                           size_t n, int act)
{
    EACH(i, n) {
        float a = bg ? g[i] + bg[i % rows] : g[i], b = bu ? u[i] + bu[i % rows] : u[i];
        h[i] = lmc_act(a, act) * b;
    }
}

int lmc_glu(struct lm_dev *d, float *h, const float *g, const float *u, const float *bg, const float *bu,
            uint32_t rows, size_t n, int act, struct lm_err *e)
{
    LMC_LAUNCH(glu, dim3(grid_for(rows * n)), dim3(THREADS), 0, d->stream, h, g, u, bg, bu, rows, rows * n, act);
    LMC_LAUNCHED("gate");
    return 0;
}

static __global__ void to_bf16(uint16_t *dst, const float *src, size_t n)
{
    EACH(i, n) dst[i] = lmc_to_bf16(src[i]);
}

int lmc_to_bf16(struct lm_dev *d, uint16_t *dst, const float *src, size_t n, struct lm_err *e)
{
    LMC_LAUNCH(to_bf16, dim3(grid_for(n)), dim3(THREADS), 0, d->stream, dst, src, n);
    LMC_LAUNCHED("bf16");
    return 0;
}
