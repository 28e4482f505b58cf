/* Weights in and out of their storage type: planes at upload, rows of the
 * embedding, whole tiles for cuBLAS. */
#include "gpu/cuda_base.cuh"

enum { THREADS = 256 };

static unsigned blocks_for(size_t n)
{
    return (unsigned)((n + THREADS - 1) / THREADS);
}

/* ---- upload */

template <int D>
static __global__ void repack(lmc_planes p, size_t first, const uint8_t *blocks, size_t n_units)
{
    constexpr lmc_shape s = lmc_block<D>::s;
    size_t i = blockIdx.x * (size_t)THREADS + threadIdx.x;
    if (i < n_units)
        lmc_pack<D>(p, first + i, blocks + i / s.units * s.block_bytes, (int)(i % s.units));
}

int lmc_repack(struct lm_dev *d, enum lm_dtype type, const lmc_planes *p, size_t first, const uint8_t *blocks,
               size_t n_blocks, struct lm_err *e)
{
    switch (type) {
#define CASE(t)                                                                                                        \
    case LM_##t: {                                                                                                     \
        size_t n = n_blocks * lmc_block<LM_##t>::s.units;                                                              \
        LMC_LAUNCH(repack<LM_##t>, dim3(blocks_for(n)), dim3(THREADS), 0, d->stream, *p, first, blocks, n);            \
        break;                                                                                                         \
    }
        LMC_BLOCK_TYPES(CASE)
#undef CASE
    default: return lm_err_set(e, LM_UNSUPPORTED, "cuda: no planes for %s", lm_dtype_name(type));
    }
    LMC_LAUNCHED("repack");
    return 0;
}

static __global__ void transpose(uint8_t *dst, const uint8_t *src, uint32_t rows, uint32_t cols, uint32_t c0,
                                 size_t n, uint32_t elem_bytes)
{
    size_t i = blockIdx.x * (size_t)THREADS + threadIdx.x;
    if (i >= n)
        return;
    size_t to = (i % rows * cols + c0 + i / rows) * elem_bytes;
    for (uint32_t b = 0; b < elem_bytes; b++)
        dst[to + b] = src[i * elem_bytes + b];
}

int lmc_transpose(struct lm_dev *d, uint8_t *dst, const uint8_t *src, uint32_t rows, uint32_t cols, uint32_t c0,
                  uint32_t n, uint32_t elem_bytes, struct lm_err *e)
{
    size_t n_elems = (size_t)rows * n;
    LMC_LAUNCH(transpose, dim3(blocks_for(n_elems)), dim3(THREADS), 0, d->stream, dst, src, rows, cols, c0, n_elems,
               elem_bytes);
    LMC_LAUNCHED("transpose");
    return 0;
}

/* ---- tiles for cuBLAS */

static LMC_DEV void put(float *dst, size_t i, float v)
{
    dst[i] = v;
}
static LMC_DEV void put(uint16_t *dst, size_t i, float v)
{
    dst[i] = lmc_to_bf16(v);
}

/* A thread decodes a unit; through shared memory, so that a warp's stores are
 * one run of addresses. */
template <int D, class T> static __global__ void decode_block(lmc_planes p, size_t first, size_t n_units, T *dst)
{
    __shared__ float tile[THREADS * (LMC_UNIT + 1)];
    size_t unit0 = blockIdx.x * (size_t)THREADS, u = unit0 + threadIdx.x;

    if (u < n_units) {
        float v[LMC_UNIT];
        lmc_unit_f32<D>(v, p, first + u);
#pragma unroll
        for (int i = 0; i < LMC_UNIT; i++)
            tile[threadIdx.x * (LMC_UNIT + 1) + i] = v[i];
    }
    __syncthreads();
    size_t n = min((size_t)THREADS, n_units - unit0) * LMC_UNIT;
    for (size_t i = threadIdx.x; i < n; i += THREADS)
        put(dst, unit0 * LMC_UNIT + i, tile[i / LMC_UNIT * (LMC_UNIT + 1) + i % LMC_UNIT]);
}

template <int D, class T> static __global__ void decode_plain(const uint8_t *data, size_t first, size_t n, T *dst)
{
    for (size_t i = blockIdx.x * (size_t)THREADS + threadIdx.x; i < n; i += (size_t)gridDim.x * THREADS)
        put(dst, i, lmc_elem<D>(data, first + i));
}

template <class T>
static int decode_to(struct lm_dev *d, const struct lmc_mat *m, size_t first, size_t n, T *dst, struct lm_err *e)
{
    switch (m->dtype) {
#define CASE(s)                                                                                                        \
    case LM_##s: {                                                                                                     \
        auto kernel = decode_block<LM_##s, T>;                                                                         \
        LMC_LAUNCH(kernel, dim3(blocks_for(n / LMC_UNIT)), dim3(THREADS), 0, d->stream, m->planes, first / LMC_UNIT,   \
                   n / LMC_UNIT, dst);                                                                                 \
        break;                                                                                                         \
    }
        LMC_BLOCK_TYPES(CASE)
#undef CASE
#define CASE(s)                                                                                                        \
    case LM_##s: {                                                                                                     \
        auto kernel = decode_plain<LM_##s, T>;                                                                         \
        LMC_LAUNCH(kernel, dim3(min(blocks_for(n), 65535u)), dim3(THREADS), 0, d->stream, m->planes.codes, first, n,   \
                   dst);                                                                                               \
        break;                                                                                                         \
    }
        LMC_PLAIN_TYPES(CASE)
#undef CASE
    default: return lm_err_set(e, LM_UNSUPPORTED, "cuda: %s: cannot decode %s", m->tensor->name, lm_dtype_name(m->dtype));
    }
    LMC_LAUNCHED("decode");
    return 0;
}

int lmc_decode(struct lm_dev *d, const struct lmc_mat *m, uint32_t row0, uint32_t rows, void *dst, bool bf16,
               struct lm_err *e)
{
    size_t first = (size_t)row0 * m->cols, n = (size_t)rows * m->cols;
    return bf16 ? decode_to(d, m, first, n, (uint16_t *)dst, e) : decode_to(d, m, first, n, (float *)dst, e);
}

/* ---- embedding: a block of threads a token */

template <int D> static LMC_DEV void row_block(const lmc_planes &p, size_t row, uint32_t cols, float *x, bool add)
{
    for (uint32_t u = threadIdx.x; u < cols / LMC_UNIT; u += THREADS) {
        float v[LMC_UNIT];
        lmc_unit_f32<D>(v, p, row * (cols / LMC_UNIT) + u);
#pragma unroll
        for (int i = 0; i < LMC_UNIT; i++)
            x[u * LMC_UNIT + i] = add ? x[u * LMC_UNIT + i] + v[i] : v[i];
    }
}

template <int D> static LMC_DEV void row_plain(const lmc_planes &p, size_t row, uint32_t cols, float *x, bool add)
{
    for (uint32_t i = threadIdx.x; i < cols; i += THREADS) {
        float v = lmc_elem<D>(p.codes, row * cols + i);
        x[i] = add ? x[i] + v : v;
    }
}

/* ids NULL: row0, row0 + 1, … */
static __global__ void rows(enum lm_dtype t, lmc_planes p, const int32_t *ids, size_t row0, uint32_t cols, float *x,
                            bool add)
{
    size_t row = ids ? (size_t)ids[blockIdx.x] : row0 + blockIdx.x;
    float *out = x + (size_t)blockIdx.x * cols;

    switch (t) {
#define CASE(s) case LM_##s: row_block<LM_##s>(p, row, cols, out, add); break;
        LMC_BLOCK_TYPES(CASE)
#undef CASE
#define CASE(s) case LM_##s: row_plain<LM_##s>(p, row, cols, out, add); break;
        LMC_PLAIN_TYPES(CASE)
#undef CASE
    default: break; /* refused at upload */
    }
}

int lmc_embed(struct lm_dev *d, const struct lmc_mat *embed, const struct lmc_mat *pos, const int32_t *ids, size_t n,
              size_t pos0, float *x, struct lm_err *e)
{
    int32_t *dev_ids = (int32_t *)lmc_scratch(d, LMC_IDS, n * sizeof *ids, e);
    if (!dev_ids)
        return -1;
    LMC_TRY(cudaMemcpyAsync(dev_ids, ids, n * sizeof *ids, cudaMemcpyHostToDevice, d->stream), "token ids");
    LMC_LAUNCH(rows, dim3((unsigned)n), dim3(THREADS), 0, d->stream, embed->dtype, embed->planes, dev_ids, 0,
               embed->cols, x, false);
    if (pos)
        LMC_LAUNCH(rows, dim3((unsigned)n), dim3(THREADS), 0, d->stream, pos->dtype, pos->planes, nullptr, pos0,
                   pos->cols, x, true);
    LMC_LAUNCHED("embedding");
    return 0;
}
