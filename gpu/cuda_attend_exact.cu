/* Attention in f32.
 *
 * Keys are cut at multiples of SPLIT.  For one query head and one split:
 * scores (each a sum over d_k in order), their maximum m, p = exp(s - m),
 * l = sum p, o = sum p v over the keys in order.  Splits are joined from the
 * first to the last by rescaling.  None of this depends on how many queries are
 * computed together, so a text gives the same bits however it is cut into calls.
 *
 *   attend_tile  prefill: 16 (query, head) pairs that share a K/V head, all their splits
 *   attend_split decode: one query, eight heads of one K/V head, one split; attend_join joins */
#include "gpu/cuda_attend.cuh"

#include <math.h>

enum {
    SPLIT = 128,  /* keys */
    THREADS = 128,
    WARPS = THREADS / 32,
    ROWS = 4,     /* (query, head) pairs a warp works on */
    TILE = WARPS * ROWS,
    SLICE = 32,   /* dimensions of K or V in shared memory at a time */
    PITCH = SLICE + 4,
    P_PITCH = SPLIT + 4,
    KEYS = SPLIT / 32, /* keys of a split that one lane scores */
    HEADS = 8,    /* query heads a block of attend_split works on */
    BUCKET = 8    /* a recorded token serves this many splits of positions */
};

typedef attend_args<float> args;

/* Keys [j0, j0 + SPLIT) x dimensions [d0, d0 + SLICE) of a head to shared [SPLIT][PITCH]; zero outside. */
static LMC_DEV void load_slice(float *to, const float *from, size_t row, uint32_t width, uint32_t j0, uint32_t n_keys,
                               uint32_t d0)
{
    for (uint32_t i = threadIdx.x; i < SPLIT * SLICE; i += THREADS) {
        uint32_t j = i / SLICE, c = i % SLICE;
        bool there = j0 + j < n_keys && d0 + c < width;
        to[j * PITCH + c] = there ? from[(j0 + j) * row + d0 + c] : 0.0f;
    }
}

/* Products of this lane's keys lane + 32 i for one row become p; m and l of the row. */
static LMC_DEV void softmax_row(const args &a, uint32_t head, float (&s)[KEYS], uint32_t j0, int lane, uint32_t first,
                                uint32_t pos, float *m, float *l)
{
    float top = -INFINITY, sum = 0;
#pragma unroll
    for (int i = 0; i < KEYS; i++) {
        uint32_t j = j0 + lane + 32 * i;
        s[i] = j >= first && j <= pos ? lmc_score(a, head, j, s[i]) : -INFINITY;
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

static LMC_DEV float dot4(float4 x, float4 y, float s)
{
    return lmc_fma(x.w, y.w, lmc_fma(x.z, y.z, lmc_fma(x.y, y.y, lmc_fma(x.x, y.x, s))));
}

/* SLICES: of 32 values of the output. */
template <int SLICES> static __global__ void __launch_bounds__(THREADS) attend_tile(const args a)
{
    LMC_DYNAMIC_SHARED(shared);
    float *kv = (float *)shared, *ps = kv + SPLIT * PITCH, *qs = ps + TILE * P_PITCH;
    const uint32_t width = (a.d_k + SLICE - 1) / SLICE * SLICE, kv_head = blockIdx.y, pos0 = lmc_pos_of(a.pos0);
    const uint32_t group = a.n_heads / a.n_kv_heads, n_rows = a.n * group, row0 = blockIdx.x * TILE;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const float *keys = a.k + (size_t)kv_head * a.d_k, *values = a.v + (size_t)kv_head * a.d_v;

    for (uint32_t i = threadIdx.x; i < TILE * width; i += THREADS) {
        uint32_t row = row0 + i / width, c = i % width;
        bool there = row < n_rows && c < a.d_k;
        qs[i] = there ? a.q[((size_t)(row / group) * a.n_heads + kv_head * group + row % group) * a.d_k + c] : 0.0f;
    }

    /* The last rows may be missing: they repeat the last one and are not stored. */
    uint32_t pos[ROWS], first[ROWS], head[ROWS];
    float m_all[ROWS], l_all[ROWS] = {}, o_all[ROWS][SLICES] = {};
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        uint32_t row = min(row0 + warp * ROWS + r, n_rows - 1);
        pos[r] = pos0 + row / group;
        first[r] = lmc_first_key(a.window, pos[r]);
        head[r] = kv_head * group + row % group;
        m_all[r] = -INFINITY;
    }
    const uint32_t last = pos0 + min(row0 + TILE - 1, n_rows - 1) / group;
    const uint32_t from = lmc_first_key(a.window, pos0 + row0 / group) / SPLIT * SPLIT;

    for (uint32_t j0 = from; j0 <= last; j0 += SPLIT) {
        float s[ROWS][KEYS] = {};
        for (uint32_t d0 = 0; d0 < width; d0 += SLICE) {
            __syncthreads();
            load_slice(kv, keys, a.k_row, a.d_k, j0, last + 1, d0);
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
                        s[r][i] = dot4(x[r], y, s[r][i]);
                }
            }
        }
        float old[ROWS], fresh[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float m, l;
            softmax_row(a, head[r], s[r], j0, lane, first[r], pos[r], &m, &l);
#pragma unroll
            for (int i = 0; i < KEYS; i++)
                ps[(warp * ROWS + r) * P_PITCH + lane + 32 * i] = s[r][i];
            lmc_join_runs(&m_all[r], &l_all[r], m, l, &old[r], &fresh[r]);
        }
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) {
            if (slice * SLICE >= (int)a.d_v)
                break;
            __syncthreads();
            load_slice(kv, values, a.v_row, a.d_v, j0, last + 1, slice * SLICE);
            __syncthreads();
            float o[ROWS] = {};
            for (int j = 0; j < SPLIT; j += 4) {
                float4 v = make_float4(kv[j * PITCH + lane], kv[(j + 1) * PITCH + lane], kv[(j + 2) * PITCH + lane],
                                       kv[(j + 3) * PITCH + lane]);
#pragma unroll
                for (int r = 0; r < ROWS; r++)
                    o[r] = dot4(*(const float4 *)(ps + (warp * ROWS + r) * P_PITCH + j), v, o[r]);
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
        float *out = a.out + ((size_t)(row / group) * a.n_heads + head[r]) * a.d_v;
        float factor = lmc_close_row(a, head[r], m_all[r], l_all[r]);
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++)
            if (slice * SLICE + lane < (int)a.d_v)
                out[slice * SLICE + lane] = o_all[r][slice] * factor;
    }
}

/* ---- decode: lane and warp share out the keys, then the dimensions.  Grid:
 * splits, K/V heads, eights of a group's heads. */

static __global__ void __launch_bounds__(THREADS) attend_split(const args a)
{
    LMC_DYNAMIC_SHARED(shared);
    float *kv = (float *)shared, *ps = kv + SPLIT * PITCH, *qs = ps + HEADS * P_PITCH;
    const uint32_t group = a.n_heads / a.n_kv_heads, kv_head = blockIdx.y, pos = lmc_pos_of(a.pos0);
    const uint32_t first = lmc_first_key(a.window, pos), j0 = (first / SPLIT + blockIdx.x) * SPLIT;
    const uint32_t width = (a.d_k + SLICE - 1) / SLICE * SLICE, h0 = blockIdx.z * HEADS;
    const uint32_t head = kv_head * group + h0;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, n = (int)min(group - h0, (uint32_t)HEADS);
    float s[HEADS] = {};

    if (j0 > pos) /* a recorded token has room for later positions */
        return;
    const uint32_t n_keys = min(pos + 1 - j0, (uint32_t)SPLIT);
    for (uint32_t i = threadIdx.x; i < HEADS * width; i += THREADS) {
        uint32_t h = i / width, c = i % width;
        qs[i] = h < (uint32_t)n && c < a.d_k ? a.q[(size_t)(head + h) * a.d_k + c] : 0.0f;
    }
    for (uint32_t d0 = 0; d0 < width; d0 += SLICE) { /* thread t: key t */
        __syncthreads();
        load_slice(kv, a.k + (size_t)kv_head * a.d_k, a.k_row, a.d_k, j0, pos + 1, d0);
        __syncthreads();
#pragma unroll
        for (int c = 0; c < SLICE; c += 4) {
            float4 y = *(const float4 *)(kv + threadIdx.x * PITCH + c);
#pragma unroll
            for (int h = 0; h < HEADS; h++)
                if (h < n)
                    s[h] = dot4(*(const float4 *)(qs + h * width + d0 + c), y, s[h]);
        }
    }
#pragma unroll
    for (int h = 0; h < HEADS; h++)
        ps[h * P_PITCH + threadIdx.x] = s[h];
    __syncthreads();
    for (int h = warp; h < n; h += WARPS) {
        float row[KEYS], m, l;
        float *part = a.parts + ((size_t)(head + h) * a.n_splits + blockIdx.x) * (a.d_v + 2);
#pragma unroll
        for (int i = 0; i < KEYS; i++)
            row[i] = ps[h * P_PITCH + lane + 32 * i];
        softmax_row(a, head + h, row, j0, lane, first, pos, &m, &l);
#pragma unroll
        for (int i = 0; i < KEYS; i++)
            ps[h * P_PITCH + lane + 32 * i] = row[i];
        if (lane == 0) {
            part[a.d_v] = m;
            part[a.d_v + 1] = l;
        }
    }
    __syncthreads();
    for (uint32_t c = threadIdx.x; c < a.d_v; c += THREADS) { /* thread t: dimension t */
        const float *v = a.v + (size_t)j0 * a.v_row + (size_t)kv_head * a.d_v + c;
        float o[HEADS] = {};
        for (uint32_t j = 0; j < n_keys; j++) {
            float x = v[(size_t)j * a.v_row];
#pragma unroll
            for (int h = 0; h < HEADS; h++)
                o[h] = lmc_fma(ps[h * P_PITCH + j], x, o[h]);
        }
#pragma unroll
        for (int h = 0; h < HEADS; h++)
            if (h < n)
                a.parts[((size_t)(head + h) * a.n_splits + blockIdx.x) * (a.d_v + 2) + c] = o[h];
    }
}

/* A block a head, a thread a dimension. */
static __global__ void __launch_bounds__(THREADS) attend_join(const args a)
{
    const uint32_t head = blockIdx.x, pos = lmc_pos_of(a.pos0);
    const uint32_t n = pos / SPLIT - lmc_first_key(a.window, pos) / SPLIT + 1;
    const float *part = a.parts + (size_t)head * a.n_splits * (a.d_v + 2);

    for (uint32_t c = threadIdx.x; c < a.d_v; c += THREADS) {
        float m_all = -INFINITY, l_all = 0, o_all = 0, old, fresh;
        for (uint32_t i = 0; i < n; i++) {
            const float *p = part + (size_t)i * (a.d_v + 2);
            lmc_join_runs(&m_all, &l_all, p[a.d_v], p[a.d_v + 1], &old, &fresh);
            o_all = lmc_fma(p[c], fresh, lmc_mul(o_all, old));
        }
        a.out[(size_t)head * a.d_v + c] = o_all * lmc_close_row(a, head, m_all, l_all);
    }
}

/* Splits that the query at pos sees. */
static uint32_t splits_of(const args *a, uint32_t pos)
{
    return pos / SPLIT - lmc_first_key(a->window, pos) / SPLIT + 1;
}

int lmc_attend_one(struct lm_dev *d, args *a, struct lm_err *e)
{
    const uint32_t width = (a->d_k + SLICE - 1) / SLICE * SLICE, group = a->n_heads / a->n_kv_heads;
    const int shared = (int)((SPLIT * PITCH + HEADS * P_PITCH + HEADS * width) * sizeof(float));
    /* Room for the whole context at once: no allocation while a text grows. */
    const uint32_t most = d->net->ctx_len / SPLIT + 1;

    a->n_splits = splits_of(a, a->pos0.given);
    if (a->pos0.dev) /* the same launches for all positions of a bucket (cuda_graph.cu) */
        a->n_splits = min((a->n_splits + BUCKET) / BUCKET * BUCKET, most);
    a->parts = (float *)lmc_scratch(d, LMC_PARTS, a->n_heads * (size_t)most * (a->d_v + 2) * sizeof(float), e);
    if (!a->parts)
        return -1;
    LMC_LAUNCH(attend_split, dim3(a->n_splits, a->n_kv_heads, (group + HEADS - 1) / HEADS), dim3(THREADS), shared,
               d->stream, *a);
    LMC_LAUNCH(attend_join, dim3(a->n_heads), dim3(THREADS), 0, d->stream, *a);
    LMC_LAUNCHED("attention");
    return 0;
}

template <int SLICES> static int launch_tile(struct lm_dev *d, const args *a, struct lm_err *e)
{
    uint32_t rows = a->n * (a->n_heads / a->n_kv_heads), width = (a->d_k + SLICE - 1) / SLICE * SLICE;
    int shared = (int)((SPLIT * PITCH + TILE * P_PITCH + TILE * width) * sizeof(float));

    LMC_TRY(cudaFuncSetAttribute(attend_tile<SLICES>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared), "attention");
    LMC_LAUNCH(attend_tile<SLICES>, dim3((rows + TILE - 1) / TILE, a->n_kv_heads), dim3(THREADS), shared, d->stream, *a);
    LMC_LAUNCHED("attention");
    return 0;
}

int lmc_attend_many(struct lm_dev *d, const args *a, struct lm_err *e)
{
    return a->d_v <= 128 ? launch_tile<4>(d, a, e) : a->d_v <= 256 ? launch_tile<8>(d, a, e) : launch_tile<16>(d, a, e);
}
