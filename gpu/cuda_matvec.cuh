/* Products of a few tokens with weights in their storage type.
 *
 * Order of every sum (fixed, and the same for one token and for many, so that
 * LM_MATH_EXACT does not depend on how a text is cut into calls): a row is cut
 * into chunks, chunk g belongs to strand g % 128; a strand adds its chunks in
 * order; 32 strands are added as a tree, the four sums one after the other.
 *
 *   matvec_one   one token: two groups of four warps, a strand a lane, the token in shared memory
 *   matvec_many  up to 8 tokens a block, any number of blocks: a warp does the
 *                four sets of strands one after the other for 4 rows and 8 tokens
 *
 * A source says what a chunk is: how to load it, how the tokens lie in shared
 * memory and how both are multiplied. */
#ifndef GPU_CUDA_MATVEC_CUH
#define GPU_CUDA_MATVEC_CUH

#include "gpu/cuda_sources.cuh"

/* ---- one token */

/* MV_ROWS rows that a warp works on, and what it has loaded of them. */
template <class S> struct mv_rows {
    const lmc_planes *planes[MV_ROWS];
    size_t base[MV_ROWS];
    typename S::raw now[MV_ROWS], next[MV_ROWS];

    LMC_DEV void begin(const mv_args &a, const mv_slot &s, uint32_t row0)
    {
#pragma unroll
        for (int r = 0; r < MV_ROWS; r++) {
            mv_row at = mv_find(a, row0 + r < a.n_rows ? row0 + r : a.n_rows - 1);
            planes[r] = &mv_planes(a, at.part, s);
            base[r] = a.part[at.part].first + (size_t)at.row * a.chunks;
        }
    }
    LMC_DEV void load(typename S::raw (&to)[MV_ROWS], const mv_args &a, uint32_t chunk)
    {
        if (chunk >= a.chunks)
            return;
#pragma unroll
        for (int r = 0; r < MV_ROWS; r++)
            S::load(to[r], *planes[r], base[r] + chunk, a);
    }
    LMC_DEV void step()
    {
#pragma unroll
        for (int r = 0; r < MV_ROWS; r++)
            now[r] = next[r];
    }
};

template <class S> __global__ void __launch_bounds__(MV_THREADS) matvec_one(const mv_args a)
{
    LMC_DYNAMIC_SHARED(xs);
    __shared__ float sums[2][4][MV_ROWS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = warp / 4, set = warp % 4;
    const uint32_t first = set * 32 + lane;
    const bool one_tile = a.chunks <= a.tile;
    uint32_t row0 = (blockIdx.x * a.batches * 2 + group) * MV_ROWS;
    const mv_slot slot = mv_slot_of(a);
    mv_rows<S> w;

    w.begin(a, slot, row0);
    w.load(w.now, a, first);
    for (uint32_t batch = 0; batch < a.batches; batch++, row0 += 2 * MV_ROWS) {
        float acc[MV_ROWS][1] = {};
        for (uint32_t t0 = 0; t0 < a.chunks; t0 += a.tile) {
            if (batch == 0 || !one_tile) {
                __syncthreads();
                S::tokens::stage(xs, a.x + slot.x, a, (int)a.tile, [=](int c) { return t0 + c; });
                __syncthreads();
            }
            uint32_t end = min(t0 + a.tile, a.chunks);
            for (uint32_t g = t0 + first; g < end; g += MV_STRANDS) {
                w.load(w.next, a, g + MV_STRANDS);
                S::dot(acc, w.now, g, xs, 0, (int)a.tile, (int)(g - t0));
                w.step();
            }
        }
        if (batch + 1 < a.batches) { /* on their way while this batch is summed */
            w.begin(a, slot, row0 + 2 * MV_ROWS);
            w.load(w.now, a, first);
        }
#pragma unroll
        for (int r = 0; r < MV_ROWS; r++) {
            float v = lmc_warp_sum(acc[r][0]);
            if (lane == 0)
                sums[group][set][r] = v;
        }
        __syncthreads();
        if (set == 0 && lane < MV_ROWS) {
            float v[2];
            for (int k = 0; k < 2; k++) { /* the row and its partner */
                int r = (lane + k) % MV_ROWS;
                v[k] = ((sums[group][0][r] + sums[group][1][r]) + sums[group][2][r]) + sums[group][3][r];
            }
            mv_store(a, slot, row0 + lane, 0, v[0], v[1]);
        }
        __syncthreads();
    }
}

/* Sums 32 values over a warp, each in lmc_warp_sum's tree; lane i gets value i. */
LMC_DEV float mv_sum_all(float (&v)[32], int lane)
{
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) {
        bool upper = lane & o;
#pragma unroll
        for (int i = 0; i < 16; i++) {
            if (i >= o)
                break;
            float keep = upper ? v[i + o] : v[i], send = upper ? v[i] : v[i + o];
            v[i] = keep + __shfl_xor_sync(0xffffffffu, send, o);
        }
    }
    return v[0];
}

/* ---- several tokens: grid (token groups, row groups) */
template <class S> __global__ void __launch_bounds__(MV_THREADS) matvec_many(const mv_args a)
{
    constexpr int tile = MV_MANY_ELEMS / S::C, token_bytes = S::tokens::bytes(tile);
    __shared__ __align__(16) unsigned char xs[MV_TOKENS * token_bytes];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t token0 = blockIdx.x * MV_TOKENS, n = min((uint32_t)MV_TOKENS, a.n_tokens - token0);
    const uint32_t row0 = (blockIdx.y * (MV_THREADS / 32) + warp) * MV_ROWS;
    const lmc_planes *planes[MV_ROWS];
    size_t base[MV_ROWS];
    float total = 0;

#pragma unroll
    for (int r = 0; r < MV_ROWS; r++) {
        mv_row at = mv_find(a, row0 + r < a.n_rows ? row0 + r : a.n_rows - 1);
        planes[r] = &a.part[at.part].planes;
        base[r] = a.part[at.part].first + (size_t)at.row * a.chunks;
    }
    for (uint32_t set = 0; set < 4; set++) {
        float acc[MV_ROWS][MV_TOKENS] = {};
        for (uint32_t g0 = 32 * set; g0 < a.chunks; g0 += tile * 4) {
            /* A tile: tile / 32 runs of 32 chunks, each run a step of the strands. */
            auto at = [=](int c) { return g0 + c / 32 * MV_STRANDS + c % 32; };
            __syncthreads();
            for (uint32_t t = 0; t < MV_TOKENS; t++) /* missing tokens: the last one again */
                S::tokens::stage(xs + t * token_bytes, a.x + (size_t)(token0 + min(t, n - 1)) * a.ldx, a, tile, at);
            __syncthreads();
            for (int c = lane; c < tile; c += 32) {
                uint32_t g = at(c);
                if (g >= a.chunks)
                    break;
                typename S::raw w[MV_ROWS];
#pragma unroll
                for (int r = 0; r < MV_ROWS; r++)
                    S::load(w[r], *planes[r], base[r] + g, a);
                S::dot(acc, w, g, xs, token_bytes, tile, c);
            }
        }
        float v[32];
#pragma unroll
        for (int i = 0; i < 32; i++)
            v[i] = acc[i / MV_TOKENS][i % MV_TOKENS];
        float sum = mv_sum_all(v, lane);
        total = set ? total + sum : sum;
    }
    float other = __shfl_xor_sync(0xffffffffu, total, MV_TOKENS);
    if (lane % MV_TOKENS < (int)n)
        mv_store(a, mv_slot{0, 0, 0}, row0 + lane / MV_TOKENS, token0 + lane % MV_TOKENS, total, other);
}

/* ---- launching */
template <class S> int mv_launch(struct lm_dev *d, mv_args &a, const char *what, struct lm_err *e)
{
    if (a.n_tokens == 1 || a.per_token) {
        uint32_t whole = (a.chunks + MV_STRANDS - 1) / MV_STRANDS * MV_STRANDS;
        a.tile = min(whole, (uint32_t)(MV_ONE_ELEMS / S::C));
        uint32_t groups = (a.n_rows + MV_ROWS - 1) / MV_ROWS;
        /* Two blocks a multiprocessor, all at once: each puts the token into shared memory once. */
        uint32_t fill = 4 * (uint32_t)d->n_sms;
        a.batches = a.chunks > a.tile || a.per_token ? 1 : (groups + fill - 1) / fill;
        uint32_t blocks = (groups + 2 * a.batches - 1) / (2 * a.batches);
        int shared = S::tokens::bytes((int)a.tile);
        auto kernel = matvec_one<S>;
        if (shared > 48 * 1024)
            LMC_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared), what);
        LMC_LAUNCH(kernel, dim3(blocks, a.per_token ? a.n_tokens * a.per_token : 1), dim3(MV_THREADS), shared, d->stream, a);
    } else {
        uint32_t rows = MV_THREADS / 32 * MV_ROWS;
        auto kernel = matvec_many<S>;
        dim3 grid((a.n_tokens + MV_TOKENS - 1) / MV_TOKENS, (a.n_rows + rows - 1) / rows);
        LMC_LAUNCH(kernel, grid, dim3(MV_THREADS), 0, d->stream, a);
    }
    LMC_LAUNCHED(what);
    return 0;
}

/* One file each: block types by f32 tokens, by int8 tokens, types in the file's form, plain types. */
int mv_block_f32_launch(struct lm_dev *d, enum lm_dtype t, mv_args &a, const char *what, struct lm_err *e);
int mv_block_int8_launch(struct lm_dev *d, enum lm_dtype t, mv_args &a, const char *what, struct lm_err *e);
int mv_coded_launch(struct lm_dev *d, enum lm_dtype t, mv_args &a, const char *what, struct lm_err *e);
int mv_plain_launch(struct lm_dev *d, enum lm_dtype t, mv_args &a, const char *what, struct lm_err *e);

#endif
