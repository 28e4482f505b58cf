/* Attention in f32.
 *
 * Keys are cut at multiples of SPLIT.  For one query head and one split:
 * scores (each a sum over d_head in order), their maximum m, p = exp(s - m),
 * l = sum p, o = sum p v over the keys in order.  Splits are joined from the
 * first to the last by rescaling.  None of this depends on how many queries are
 * computed together, so a text gives the same bits however it is cut into calls.
 *
 *   attend_tile  prefill: 16 (query, head) pairs that share a K/V head, all their splits
 *   attend_split decode: one query, the heads of one K/V head, one split; attend_join joins
 *
 * LM_MATH_FAST, TF32 and BF16 use cuBLAS with TF32 for long prefills. */
#include "gpu/cuda_device.cuh"

#include <math.h>

enum {
    SPLIT = 128,  /* keys */
    THREADS = 128,
    WARPS = THREADS / 32,
    ROWS = 4,     /* (query, head) pairs a warp works on */
    TILE = WARPS * ROWS,
    SLICE = 32,   /* dimensions of K or V in shared memory at a time */
    SLICES = LMC_MAX_HEAD / SLICE,
    PITCH = SLICE + 4,
    P_PITCH = SPLIT + 4,
    KEYS = SPLIT / 32 /* keys of a split that one lane scores */
};

struct attend_args {
    const float *q, *k, *v; /* q [n, n_heads, d_head]; k, v [pos][n_kv_heads, d_head] of one layer */
    float *out;             /* [n, n_heads, d_head] */
    float *parts;           /* attend_split: [n_heads][n_splits][d_head + 2]: o, m, l */
    uint32_t n, pos0, n_heads, n_kv_heads, d_head, window;
    uint32_t split0, n_splits; /* attend_split, attend_join: first split and their number */
    float scale;
};

/* First key that the query at pos sees. */
static __host__ __device__ __forceinline__ uint32_t first_key(uint32_t window, uint32_t pos)
{
    return window && pos >= window ? pos - window + 1 : 0;
}

/* Keys [j0, j0 + SPLIT) x dimensions [d0, d0 + SLICE) to shared [SPLIT][PITCH]; zero outside. */
static LMC_DEV void load_slice(float *to, const float *from, const attend_args &a, uint32_t kv_head, uint32_t j0,
                               uint32_t n_keys, uint32_t d0)
{
    size_t stride = (size_t)a.n_kv_heads * a.d_head;
    for (uint32_t i = threadIdx.x; i < SPLIT * SLICE; i += THREADS) {
        uint32_t j = i / SLICE, c = i % SLICE;
        bool there = j0 + j < n_keys && d0 + c < a.d_head;
        to[j * PITCH + c] = there ? from[(j0 + j) * stride + kv_head * a.d_head + d0 + c] : 0.0f;
    }
}

/* Scores of this lane's keys lane + 32 i for one row become p; m and l of the row. */
static LMC_DEV void softmax_row(float (&s)[KEYS], uint32_t j0, int lane, uint32_t first, uint32_t pos, float scale,
                                float *m, float *l)
{
    float top = -INFINITY, sum = 0;
#pragma unroll
    for (int i = 0; i < KEYS; i++) {
        uint32_t j = j0 + lane + 32 * i;
        s[i] = j >= first && j <= pos ? s[i] * scale : -INFINITY;
        top = fmaxf(top, s[i]);
    }
    top = lmc_warp_max(top);
#pragma unroll
    for (int i = 0; i < KEYS; i++) {
        s[i] = s[i] == -INFINITY ? 0.0f : expf(s[i] - top);
        sum = lmc_add(sum, s[i]);
    }
    *m = top;
    *l = lmc_warp_sum(sum);
}

/* Running result of a row: joins one more split. factor_old and factor_new
 * multiply what was there and what comes. */
static LMC_DEV void join(float *m_all, float *l_all, float m, float l, float *factor_old, float *factor_new)
{
    float top = fmaxf(*m_all, m);
    *factor_old = *m_all == -INFINITY ? 0.0f : expf(*m_all - top);
    *factor_new = m == -INFINITY ? 0.0f : expf(m - top);
    *l_all = lmc_fma(l, *factor_new, lmc_mul(*l_all, *factor_old));
    *m_all = top;
}

static __global__ void __launch_bounds__(THREADS) attend_tile(const attend_args a)
{
    LMC_DYNAMIC_SHARED(shared);
    float *kv = (float *)shared, *ps = kv + SPLIT * PITCH, *qs = ps + TILE * P_PITCH;
    const uint32_t width = (a.d_head + SLICE - 1) / SLICE * SLICE, kv_head = blockIdx.y;
    const uint32_t group = a.n_heads / a.n_kv_heads, n_rows = a.n * group, row0 = blockIdx.x * TILE;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    for (uint32_t i = threadIdx.x; i < TILE * width; i += THREADS) {
        uint32_t row = row0 + i / width, c = i % width;
        bool there = row < n_rows && c < a.d_head;
        qs[i] = there ? a.q[((size_t)(row / group) * a.n_heads + kv_head * group + row % group) * a.d_head + c] : 0.0f;
    }

    /* The last rows may be missing: they repeat the last one and are not stored. */
    uint32_t pos[ROWS], first[ROWS];
    float m_all[ROWS], l_all[ROWS] = {}, o_all[ROWS][SLICES] = {};
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        uint32_t row = min(row0 + warp * ROWS + r, n_rows - 1);
        pos[r] = a.pos0 + row / group;
        first[r] = first_key(a.window, pos[r]);
        m_all[r] = -INFINITY;
    }
    const uint32_t last = a.pos0 + min(row0 + TILE - 1, n_rows - 1) / group;
    const uint32_t from = first_key(a.window, a.pos0 + row0 / group) / SPLIT * SPLIT;

    for (uint32_t j0 = from; j0 <= last; j0 += SPLIT) {
        float s[ROWS][KEYS] = {};
        for (uint32_t d0 = 0; d0 < width; d0 += SLICE) {
            __syncthreads();
            load_slice(kv, a.k, a, kv_head, j0, last + 1, d0);
            __syncthreads();
#pragma unroll
            for (int c = 0; c < SLICE; c += 4) {
                float4 x[ROWS];
#pragma unroll
                for (int r = 0; r < ROWS; r++)
                    x[r] = *(const float4 *)(qs + (warp * ROWS + r) * width + d0 + c);
#pragma unroll
                for (int i = 0; i < KEYS; i++) {
                    float4 y = *(const float4 *)(kv + (lane + 32 * i) * PITCH + c);
#pragma unroll
                    for (int r = 0; r < ROWS; r++)
                        s[r][i] = lmc_fma(x[r].w, y.w,
                                          lmc_fma(x[r].z, y.z, lmc_fma(x[r].y, y.y, lmc_fma(x[r].x, y.x, s[r][i]))));
                }
            }
        }
        float old[ROWS], fresh[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float m, l;
            softmax_row(s[r], j0, lane, first[r], pos[r], a.scale, &m, &l);
#pragma unroll
            for (int i = 0; i < KEYS; i++)
                ps[(warp * ROWS + r) * P_PITCH + lane + 32 * i] = s[r][i];
            join(&m_all[r], &l_all[r], m, l, &old[r], &fresh[r]);
        }
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) {
            if (slice * SLICE >= (int)width)
                break;
            __syncthreads();
            load_slice(kv, a.v, a, kv_head, j0, last + 1, slice * SLICE);
            __syncthreads();
            float o[ROWS] = {};
            for (int j = 0; j < SPLIT; j += 4) {
                float4 p[ROWS];
#pragma unroll
                for (int r = 0; r < ROWS; r++)
                    p[r] = *(const float4 *)(ps + (warp * ROWS + r) * P_PITCH + j);
                float v0 = kv[j * PITCH + lane], v1 = kv[(j + 1) * PITCH + lane];
                float v2 = kv[(j + 2) * PITCH + lane], v3 = kv[(j + 3) * PITCH + lane];
#pragma unroll
                for (int r = 0; r < ROWS; r++)
                    o[r] = lmc_fma(p[r].w, v3, lmc_fma(p[r].z, v2, lmc_fma(p[r].y, v1, lmc_fma(p[r].x, v0, o[r]))));
            }
#pragma unroll
            for (int r = 0; r < ROWS; r++)
                o_all[r][slice] = lmc_fma(o[r], fresh[r], lmc_mul(o_all[r][slice], old[r]));
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        uint32_t row = row0 + warp * ROWS + r;
        if (row >= n_rows)
            continue;
        float *out = a.out + ((size_t)(row / group) * a.n_heads + kv_head * group + row % group) * a.d_head;
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++)
            if (slice * SLICE + lane < (int)a.d_head)
                out[slice * SLICE + lane] = o_all[r][slice] / l_all[r];
    }
}

/* ---- decode: lane and warp share out the keys, then the dimensions */

enum { HEADS = 8 }; /* query heads a block works on at a time */

static __global__ void __launch_bounds__(THREADS) attend_split(const attend_args a)
{
    __shared__ __align__(16) float kv[SPLIT * PITCH], ps[HEADS * P_PITCH], qs[HEADS * LMC_MAX_HEAD];
    const uint32_t group = a.n_heads / a.n_kv_heads, kv_head = blockIdx.y, pos = a.pos0;
    const uint32_t j0 = (a.split0 + blockIdx.x) * SPLIT, first = first_key(a.window, pos);
    const uint32_t width = (a.d_head + SLICE - 1) / SLICE * SLICE;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t n_keys = min(pos + 1 - j0, (uint32_t)SPLIT);

    for (uint32_t h0 = 0; h0 < group; h0 += HEADS) {
        const int n = (int)min(group - h0, (uint32_t)HEADS);
        const uint32_t head = kv_head * group + h0;
        float s[HEADS] = {};
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < HEADS * width; i += THREADS) {
            uint32_t h = i / width, c = i % width;
            qs[i] = h < (uint32_t)n && c < a.d_head ? a.q[(size_t)(head + h) * a.d_head + c] : 0.0f;
        }
        for (uint32_t d0 = 0; d0 < width; d0 += SLICE) { /* thread t: key t */
            __syncthreads();
            load_slice(kv, a.k, a, kv_head, j0, pos + 1, d0);
            __syncthreads();
#pragma unroll
            for (int c = 0; c < SLICE; c += 4) {
                float4 y = *(const float4 *)(kv + threadIdx.x * PITCH + c);
#pragma unroll
                for (int h = 0; h < HEADS; h++) {
                    if (h >= n)
                        break;
                    float4 x = *(const float4 *)(qs + h * width + d0 + c);
                    s[h] = lmc_fma(x.w, y.w, lmc_fma(x.z, y.z, lmc_fma(x.y, y.y, lmc_fma(x.x, y.x, s[h]))));
                }
            }
        }
#pragma unroll
        for (int h = 0; h < HEADS; h++)
            ps[h * P_PITCH + threadIdx.x] = s[h];
        __syncthreads();
        for (int h = warp; h < n; h += WARPS) {
            float row[KEYS], m, l;
            float *part = a.parts + ((size_t)(head + h) * a.n_splits + blockIdx.x) * (a.d_head + 2);
#pragma unroll
            for (int i = 0; i < KEYS; i++)
                row[i] = ps[h * P_PITCH + lane + 32 * i];
            softmax_row(row, j0, lane, first, pos, a.scale, &m, &l);
#pragma unroll
            for (int i = 0; i < KEYS; i++)
                ps[h * P_PITCH + lane + 32 * i] = row[i];
            if (lane == 0) {
                part[a.d_head] = m;
                part[a.d_head + 1] = l;
            }
        }
        __syncthreads();
        for (uint32_t c = threadIdx.x; c < a.d_head; c += THREADS) { /* thread t: dimension t */
            const float *v = a.v + ((size_t)j0 * a.n_kv_heads + kv_head) * a.d_head + c;
            float o[HEADS] = {};
            for (uint32_t j = 0; j < n_keys; j++) {
                float x = v[(size_t)j * a.n_kv_heads * a.d_head];
#pragma unroll
                for (int h = 0; h < HEADS; h++)
                    o[h] = lmc_fma(ps[h * P_PITCH + j], x, o[h]);
            }
#pragma unroll
            for (int h = 0; h < HEADS; h++)
                if (h < n)
                    a.parts[((size_t)(head + h) * a.n_splits + blockIdx.x) * (a.d_head + 2) + c] = o[h];
        }
    }
}

/* A block a head, a thread a dimension. */
static __global__ void attend_join(const attend_args a)
{
    const uint32_t head = blockIdx.x;
    const float *part = a.parts + (size_t)head * a.n_splits * (a.d_head + 2);

    for (uint32_t c = threadIdx.x; c < a.d_head; c += THREADS) {
        float m_all = -INFINITY, l_all = 0, o_all = 0, old, fresh;
        for (uint32_t i = 0; i < a.n_splits; i++) {
            const float *p = part + (size_t)i * (a.d_head + 2);
            join(&m_all, &l_all, p[a.d_head], p[a.d_head + 1], &old, &fresh);
            o_all = lmc_fma(p[c], fresh, lmc_mul(o_all, old));
        }
        a.out[(size_t)head * a.d_head + c] = o_all / l_all;
    }
}

static attend_args args_of(const struct lm_dev *d, const float *q, const float *k, const float *v, float *out,
                           size_t n, size_t pos0)
{
    const struct lm_config *c = &d->net->config;
    attend_args a = {};

    a.q = q, a.k = k, a.v = v, a.out = out;
    a.n = (uint32_t)n;
    a.pos0 = (uint32_t)pos0;
    a.n_heads = c->n_heads;
    a.n_kv_heads = c->n_kv_heads;
    a.d_head = c->d_head;
    a.window = c->sliding_window;
    a.scale = (float)(1.0 / sqrt((double)c->d_head));
    return a;
}

static int decode(struct lm_dev *d, attend_args *a, struct lm_err *e)
{
    a->split0 = first_key(a->window, a->pos0) / SPLIT;
    a->n_splits = a->pos0 / SPLIT - a->split0 + 1;
    /* Room for the whole context at once: no allocation while a text grows. */
    size_t most = d->net->ctx_len / SPLIT + 1;
    a->parts = (float *)lmc_scratch(d, LMC_PARTS, a->n_heads * most * (a->d_head + 2) * sizeof(float), e);
    if (!a->parts)
        return -1;
    LMC_LAUNCH(attend_split, dim3(a->n_splits, a->n_kv_heads), dim3(THREADS), 0, d->stream, *a);
    LMC_LAUNCH(attend_join, dim3(a->n_heads), dim3(THREADS), 0, d->stream, *a);
    LMC_LAUNCHED("attention");
    return 0;
}

static int prefill(struct lm_dev *d, const attend_args *a, struct lm_err *e)
{
    uint32_t rows = a->n * (a->n_heads / a->n_kv_heads), width = (a->d_head + SLICE - 1) / SLICE * SLICE;
    int shared = (int)((SPLIT * PITCH + TILE * P_PITCH + TILE * width) * sizeof(float));

    LMC_LAUNCH(attend_tile, dim3((rows + TILE - 1) / TILE, a->n_kv_heads), dim3(THREADS), shared, d->stream, *a);
    LMC_LAUNCHED("attention");
    return 0;
}

/* ---- cuBLAS: scores of a chunk of queries, softmax, values; TF32 */

enum { BLAS_QUERIES = 32, SOFT_THREADS = 256 };
#define BLAS_BYTES ((size_t)256 << 20)

/* Row (head, query) of scores [n_heads][n][n_keys] to probabilities. */
static __global__ void soft_rows(float *scores, uint32_t n_keys, uint32_t pos0, uint32_t window)
{
    __shared__ float warps[SOFT_THREADS / 32];
    float *s = scores + ((size_t)blockIdx.y * gridDim.x + blockIdx.x) * n_keys;
    const uint32_t pos = pos0 + blockIdx.x, first = first_key(window, pos);
    float top = -INFINITY, sum = 0;

    for (uint32_t j = first + threadIdx.x; j <= pos; j += SOFT_THREADS)
        top = fmaxf(top, s[j]);
    top = lmc_warp_max(top);
    if (threadIdx.x % 32 == 0)
        warps[threadIdx.x / 32] = top;
    __syncthreads();
    for (int i = 0; i < SOFT_THREADS / 32; i++)
        top = fmaxf(top, warps[i]);
    for (uint32_t j = first + threadIdx.x; j <= pos; j += SOFT_THREADS)
        sum += s[j] = expf(s[j] - top);
    sum = lmc_warp_sum(sum);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        warps[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0;
    for (int i = 0; i < SOFT_THREADS / 32; i++)
        sum += warps[i];
    for (uint32_t j = threadIdx.x; j < n_keys; j += SOFT_THREADS)
        s[j] = j >= first && j <= pos ? s[j] / sum : 0.0f;
}

static int blas_chunk(struct lm_dev *d, const attend_args *a, uint32_t q0, uint32_t n, float *scores, struct lm_err *e)
{
    const float zero = 0, one = 1;
    /* Whole groups of 8 keys, where tensor cores are fast; those nobody may see get probability 0. */
    const uint32_t seen = a->pos0 + q0 + n;
    const int keys = (int)min((seen + 7) / 8 * 8, d->net->ctx_len), dh = (int)a->d_head, group = (int)(a->n_heads / a->n_kv_heads);
    const int ldq = (int)a->n_heads * dh, ldk = (int)a->n_kv_heads * dh;
    const size_t per_head = (size_t)n * keys;
    const float *q = a->q + (size_t)q0 * ldq;
    float *out = a->out + (size_t)q0 * ldq;
    cublasStatus_t r = CUBLAS_STATUS_SUCCESS;

    for (uint32_t h = 0; h < a->n_kv_heads && r == CUBLAS_STATUS_SUCCESS; h++)
        r = cublasGemmStridedBatchedEx(d->blas, CUBLAS_OP_T, CUBLAS_OP_N, keys, (int)n, dh, &a->scale, a->k + h * dh,
                                       CUDA_R_32F, ldk, 0, q + h * group * dh, CUDA_R_32F, ldq, dh, &zero,
                                       scores + h * group * per_head, CUDA_R_32F, keys, (long long)per_head, group,
                                       CUBLAS_COMPUTE_32F_FAST_TF32, CUBLAS_GEMM_DEFAULT);
    if (r != CUBLAS_STATUS_SUCCESS)
        return lmc_blas_failed(e, r, "cublasGemmStridedBatchedEx", "attention scores");
    LMC_LAUNCH(soft_rows, dim3(n, a->n_heads), dim3(SOFT_THREADS), 0, d->stream, scores, (uint32_t)keys, a->pos0 + q0,
               a->window);
    LMC_LAUNCHED("attention");
    for (uint32_t h = 0; h < a->n_kv_heads && r == CUBLAS_STATUS_SUCCESS; h++)
        r = cublasGemmStridedBatchedEx(d->blas, CUBLAS_OP_N, CUBLAS_OP_N, dh, (int)n, keys, &one, a->v + h * dh,
                                       CUDA_R_32F, ldk, 0, scores + h * group * per_head, CUDA_R_32F, keys,
                                       (long long)per_head, &zero, out + h * group * dh, CUDA_R_32F, ldq, dh, group,
                                       CUBLAS_COMPUTE_32F_FAST_TF32, CUBLAS_GEMM_DEFAULT);
    return r == CUBLAS_STATUS_SUCCESS ? 0 : lmc_blas_failed(e, r, "cublasGemmStridedBatchedEx", "attention values");
}

static int blas_prefill(struct lm_dev *d, const attend_args *a, struct lm_err *e)
{
    size_t per_query = (size_t)a->n_heads * (a->pos0 + a->n + 8) * sizeof(float);
    uint32_t step = (uint32_t)(BLAS_BYTES / per_query);
    step = step < 1 ? 1 : step < a->n ? step : a->n;
    float *scores = (float *)lmc_scratch(d, LMC_PARTS, step * per_query, e);

    if (!scores)
        return -1;
    for (uint32_t q0 = 0; q0 < a->n; q0 += step)
        if (blas_chunk(d, a, q0, a->n - q0 < step ? a->n - q0 : step, scores, e) != 0)
            return -1;
    return 0;
}

int lmc_attend(struct lm_dev *d, const float *q, const float *k, const float *v, float *out, size_t n, size_t pos0,
               struct lm_err *e)
{
    attend_args a = args_of(d, q, k, v, out, n, pos0);

    if (n == 1)
        return decode(d, &a, e);
    return d->math == LM_MATH_EXACT || n < BLAS_QUERIES ? prefill(d, &a, e) : blas_prefill(d, &a, e);
}

/* ---- probabilities of one query, for people: a block a head */

static __global__ void score_all(const attend_args a, float *scores, uint32_t n_keys)
{
    uint32_t head = blockIdx.y, kv_head = head / (a.n_heads / a.n_kv_heads);
    uint32_t j = blockIdx.x * THREADS + threadIdx.x;
    const float *q = a.q + (size_t)head * a.d_head, *k = a.k + ((size_t)j * a.n_kv_heads + kv_head) * a.d_head;

    if (j >= n_keys)
        return;
    float s = 0;
    for (uint32_t c = 0; c < a.d_head; c++)
        s = lmc_fma(q[c], k[c], s);
    scores[(size_t)head * n_keys + j] = s * a.scale;
}

int lmc_probs(struct lm_dev *d, const float *q, const float *k, size_t n_keys, float *host, struct lm_err *e)
{
    attend_args a = args_of(d, q, k, nullptr, nullptr, 1, n_keys - 1);
    float *scores = (float *)lmc_scratch(d, LMC_PARTS, a.n_heads * n_keys * sizeof(float), e);

    if (!scores)
        return -1;
    LMC_LAUNCH(score_all, dim3((unsigned)((n_keys + THREADS - 1) / THREADS), a.n_heads), dim3(THREADS), 0, d->stream, a,
               scores, (uint32_t)n_keys);
    LMC_LAUNCH(soft_rows, dim3(1, a.n_heads), dim3(SOFT_THREADS), 0, d->stream, scores, (uint32_t)n_keys, a.pos0,
               a.window);
    LMC_LAUNCHED("attention probabilities");
    return lmc_to_host(d, host, scores, a.n_heads * n_keys, "reading attention probabilities", e);
}
