/* Weights into their form on the device: blocks to planes, columns to rows. */
#include "gpu/cuda_base.cuh"

enum { THREADS = 256 };

static unsigned blocks_for(size_t n)
{
    return (unsigned)((n + THREADS - 1) / THREADS);
}

template <int D>
static __global__ void repack(lmc_planes p, size_t first, const uint8_t *blocks, size_t n_units)
{
    constexpr lmc_shape s = lmc_block<D>::s;
    size_t i = blockIdx.x * (size_t)THREADS + threadIdx.x;
    if (i < n_units)
        lmc_pack<D>(p, first + i, blocks + i / s.units * s.block_bytes, (int)(i % s.units));
}

int lmc_repack(cudaStream_t stream, enum lm_dtype type, const lmc_planes *p, size_t first, const uint8_t *blocks,
               size_t n_blocks, struct lm_err *e)
{
    switch (type) {
#define CASE(t)                                                                                                        \
    case LM_##t: {                                                                                                     \
        size_t n = n_blocks * lmc_block<LM_##t>::s.units;                                                              \
        LMC_LAUNCH(repack<LM_##t>, dim3(blocks_for(n)), dim3(THREADS), 0, stream, *p, first, blocks, n);            \
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

int lmc_transpose(cudaStream_t stream, uint8_t *dst, const uint8_t *src, uint32_t rows, uint32_t cols, uint32_t c0,
                  uint32_t n, uint32_t elem_bytes, struct lm_err *e)
{
    size_t n_elems = (size_t)rows * n;
    LMC_LAUNCH(transpose, dim3(blocks_for(n_elems)), dim3(THREADS), 0, stream, dst, src, rows, cols, c0, n_elems,
               elem_bytes);
    LMC_LAUNCHED("transpose");
    return 0;
}
