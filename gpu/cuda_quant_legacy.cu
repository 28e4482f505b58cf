/* Encoders of Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0: a thread a block of 32, through
 * shared memory.  As libmodel/dtype/legacy.h and weighted.h. */
#include "gpu/cuda_quant.cuh"

enum { THREADS = 128, PITCH = 33 };

template <int D> struct legacy;
#define LEGACY(d, b, n, h)                                                                                             \
    template <> struct legacy<LM_##d> {                                                                                \
        static constexpr int bytes = b, nmax = n; /* bytes; largest code, or of symmetric ones the offset */           \
        static constexpr bool affine = h;                                                                              \
    };
LEGACY(Q4_0, 18, 8, false)
LEGACY(Q4_1, 20, 15, true)
LEGACY(Q5_0, 22, 16, false)
LEGACY(Q5_1, 24, 31, true)
LEGACY(Q8_0, 34, 127, false)
#undef LEGACY

static LMC_DEV void put16(uint8_t *p, uint32_t h)
{
    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
}

static LMC_DEV float inverse(float d)
{
    return d == 0 ? 0.0f : 1 / d;
}

/* trunc((x - min) id + offset) in 8 bits, at most nmax: ggml's casts. */
static LMC_DEV int code(float x, float min, float id, float offset, int nmax)
{
    int q = (int8_t)lmc_trunc((x - min) * id + offset);
    return q < nmax ? q : nmax;
}

/* Codes of 4 or 5 bits after the header. */
template <int D> static LMC_DEV void pack(uint8_t *out, const int (&q)[32])
{
    constexpr int head = legacy<D>::affine ? 4 : 2;
    constexpr bool fives = D == LM_Q5_0 || D == LM_Q5_1;
    uint32_t fifth = 0;

    LMC_UNROLL
    for (int i = 0; i < 32; i++)
        fifth |= ((uint32_t)q[i] >> 4 & 1) << i;
    LMC_UNROLL
    for (int i = 0; i < 4 && fives; i++)
        out[head + i] = (uint8_t)(fifth >> 8 * i);
    LMC_UNROLL
    for (int i = 0; i < 16; i++) {
        uint32_t low = fives ? q[i] & 15 : q[i] & 255, high = fives ? q[i + 16] & 15 : q[i + 16];
        out[head + (fives ? 4 : 0) + i] = (uint8_t)(low | high << 4);
    }
}

static LMC_DEV void block_q8_0(uint8_t *out, const float (&x)[32])
{
    float amax = 0;

    LMC_UNROLL
    for (int i = 0; i < 32; i++) {
        float a = fabsf(x[i]);
        amax = amax > a ? amax : a;
    }
    float d = amax / 127, id = inverse(d);
    put16(out, lmc_to_f16(d));
    LMC_UNROLL
    for (int i = 0; i < 32; i++) { /* roundf, by the float below one half */
        float v = x[i] * id;
        out[2 + i] = (uint8_t)lmc_trunc(v + copysignf(0x1.fffffep-2f, v));
    }
}

template <int D> static LMC_DEV void block_plain(uint8_t *out, const float (&x)[32])
{
    constexpr int nmax = legacy<D>::nmax;
    float d, low = 0;
    int q[32];

    if (D == LM_Q8_0) {
        block_q8_0(out, x);
        return;
    }
    if (legacy<D>::affine) {
        float min = 3.40282347e38f, max = -min;
        LMC_UNROLL
        for (int i = 0; i < 32; i++) {
            min = x[i] < min ? x[i] : min;
            max = x[i] > max ? x[i] : max;
        }
        d = (max - min) / nmax;
        low = min;
        put16(out + 2, lmc_to_f16(min));
    } else {
        float amax;
        d = lmc_largest(x, 32, &amax) * (-1.0f / nmax);
    }
    const float id = inverse(d), offset = legacy<D>::affine ? 0.5f : nmax + 0.5f;
    put16(out, lmc_to_f16(d));
    LMC_UNROLL
    for (int i = 0; i < 32; i++)
        q[i] = code(x[i], low, id, offset, D == LM_Q5_1 ? 255 : legacy<D>::affine ? nmax : 2 * nmax - 1);
    pack<D>(out, q);
}

template <int D> static LMC_DEV void block_weighted(uint8_t *out, const float (&x)[32], const float *importance, float spread)
{
    constexpr int nmax = legacy<D>::nmax;
    float w[32];
    int q[32];
    lmc_fit f;

    LMC_UNROLL
    for (int i = 0; i < 32; i++)
        w[i] = importance[i] * sqrtf(spread + x[i] * x[i]);
    if (legacy<D>::affine) {
        lmc_fit_affine(&f, x, w, {nmax, -0.9f, 0.05f, 36, false});
        put16(out + 2, lmc_to_f16(-f.min));
    } else {
        lmc_fit_symmetric(&f, x, w, 32, nmax);
    }
    put16(out, lmc_to_f16(f.scale));
    LMC_UNROLL
    for (int i = 0; i < 32; i++)
        q[i] = legacy<D>::affine ? lmc_searched(x[i], f, 0, nmax) : lmc_searched(x[i], f, -nmax, nmax - 1);
    pack<D>(out, q);
}

/* spread: of each row; row_blocks: blocks of a row. */
template <int D, bool WEIGHTED>
static __global__ void __launch_bounds__(THREADS) encode(const float *src, const float *importance, const float *spread,
                                                         uint32_t row_blocks, size_t n_blocks, uint8_t *dst)
{
    constexpr int bytes = legacy<D>::bytes;
    __shared__ float xs[THREADS * PITCH];
    const size_t block0 = blockIdx.x * (size_t)THREADS, n = min((size_t)THREADS, n_blocks - block0), b = block0 + threadIdx.x;
    float x[32];

    for (size_t i = threadIdx.x; i < n * 32; i += THREADS)
        xs[i / 32 * PITCH + i % 32] = src[block0 * 32 + i];
    __syncthreads();
    LMC_UNROLL
    for (int i = 0; i < 32; i++)
        x[i] = threadIdx.x < n ? xs[threadIdx.x * PITCH + i] : 0;
    __syncthreads();
    uint8_t *out = (uint8_t *)xs + threadIdx.x * bytes;
    if (threadIdx.x < n) {
        if constexpr (WEIGHTED)
            block_weighted<D>(out, x, importance + b % row_blocks * 32, spread[b / row_blocks]);
        else
            block_plain<D>(out, x);
    }
    __syncthreads();
    for (size_t i = threadIdx.x; i < n * bytes; i += THREADS)
        dst[block0 * bytes + i] = ((const uint8_t *)xs)[i];
}

/* Mean square of each row, summed in order: a warp does 32 rows, a tile of 32 columns at a time. */
static __global__ void spreads(const float *src, size_t n_per_row, size_t n_rows, float *spread)
{
    __shared__ float tile[32 * PITCH];
    const size_t row0 = blockIdx.x * (size_t)32;
    float sum = 0;

    for (size_t c = 0; c < n_per_row; c += 32) {
        for (int r = 0; r < 32; r++)
            if (row0 + r < n_rows && c + threadIdx.x < n_per_row)
                tile[r * PITCH + threadIdx.x] = src[(row0 + r) * n_per_row + c + threadIdx.x];
        __syncwarp();
        for (size_t i = 0; i < 32 && c + i < n_per_row; i++) {
            float v = row0 + threadIdx.x < n_rows ? tile[threadIdx.x * PITCH + i] : 0;
            sum += v * v;
        }
        __syncwarp();
    }
    if (row0 + threadIdx.x < n_rows)
        spread[row0 + threadIdx.x] = sum / (float)n_per_row;
}

template <int D> static void launch_plain(const struct lmc_encode *a, cudaStream_t s)
{
    const size_t n = a->n_rows * a->n_per_row / 32;
    auto kernel = encode<D, false>;
    LMC_LAUNCH(kernel, dim3((unsigned)((n + THREADS - 1) / THREADS)), dim3(THREADS), 0, s, a->src, nullptr, nullptr, 1u, n,
               a->dst);
}

template <int D> static void launch(const struct lmc_encode *a, cudaStream_t s)
{
    const size_t n = a->n_rows * a->n_per_row / 32;
    auto kernel = encode<D, true>;

    if (!a->weights) {
        launch_plain<D>(a, s);
        return;
    }
    LMC_LAUNCH(spreads, dim3((unsigned)((a->n_rows + 31) / 32)), dim3(32), 0, s, a->src, a->n_per_row, a->n_rows, a->spread);
    LMC_LAUNCH(kernel, dim3((unsigned)((n + THREADS - 1) / THREADS)), dim3(THREADS), 0, s, a->src, a->weights, a->spread,
               (uint32_t)(a->n_per_row / 32), n, a->dst);
}

int lmc_encode_legacy(enum lm_dtype to, const struct lmc_encode *a, cudaStream_t s, struct lm_err *e)
{
    switch (to) {
    case LM_Q4_0: launch<LM_Q4_0>(a, s); break;
    case LM_Q4_1: launch<LM_Q4_1>(a, s); break;
    case LM_Q5_0: launch<LM_Q5_0>(a, s); break;
    case LM_Q5_1: launch<LM_Q5_1>(a, s); break;
    default: launch_plain<LM_Q8_0>(a, s); break;
    }
    LMC_LAUNCHED("quantizing");
    return 0;
}
