/* Attention of many queries on tensor cores: TF32 products, sums in f32, no
 * matrix of scores in memory.
 *
 * A block does 64 (query, head) pairs that share a K/V head, a warp 16 of them,
 * and goes over the keys 64 at a time: S = Q K', softmax with a running maximum,
 * O += P V.  A lane's scores are those of columns 2t and 2t + 1 of a tile, while
 * the next product wants columns t and t + 4: keys are renumbered inside a tile
 * of eight (V's rows are read in the same order), which no sum notices. */
#include "gpu/cuda_attend.cuh"

#include <math.h>

enum { THREADS = 128, WARPS = THREADS / 32, ROWS = 16 * WARPS, KEYS = 64, PAD = 4 };

typedef attend_args<float> args;

LMC_DEV uint32_t as_tf32(float x)
{
    /* Ties away from zero, as the conversion instruction does. */
    return (lmc_f32_bits(x) + 0x1000u) & 0xffffe000u;
}

/* c [16, 8] += a [16, 8] b [8, 8], spread over the warp as mma.m16n8k8 has it. */
LMC_DEV void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
#ifdef __CUDACC__
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    emu_mma_tf32(c, a, b);
#endif
}

/* Rows [0, n) of `from`, row_step apart and width wide, to shared [KEYS][D + PAD] as TF32; zero outside. */
template <int D> static LMC_DEV void stage(uint32_t *to, const float *from, size_t row_step, uint32_t width, uint32_t n)
{
    for (uint32_t i = threadIdx.x; i < KEYS * D; i += THREADS) {
        uint32_t j = i / D, c = i % D;
        to[j * (D + PAD) + c] = j < n && c < width ? as_tf32(from[j * row_step + c]) : 0u;
    }
}

/* What a lane knows of its two rows. */
struct row_state {
    uint32_t pos, first, head;
    float m, l;
};

/* S [16, KEYS] of a warp. */
template <int D>
static LMC_DEV void scores(float (&s)[KEYS / 8][4], const uint32_t *qs, const uint32_t *ks, int g, int t)
{
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++)
        s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0;
#pragma unroll 4
    for (int c = 0; c < D; c += 8) {
        const uint32_t *q = qs + g * (D + PAD) + c + t;
        const uint32_t a[4] = {q[0], q[8 * (D + PAD)], q[4], q[8 * (D + PAD) + 4]};
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) {
            const uint32_t *k = ks + (8 * j + g) * (D + PAD) + c + t;
            const uint32_t b[2] = {k[0], k[4]};
            mma(s[j], a, b);
        }
    }
}

/* Scores to probabilities of this run; returns the factor on what was there. half: 0 the row g, 1 the row g + 8. */
static LMC_DEV float soften(const args &a, row_state &r, float (&s)[KEYS / 8][4], int half, uint32_t j0, int t)
{
    float top = r.m, sum = 0;

#pragma unroll
    for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint32_t key = j0 + 8 * j + 2 * t + i;
            float &x = s[j][2 * half + i];
            x = key >= r.first && key <= r.pos ? lmc_score(a, r.head, key, x) : -INFINITY;
            top = fmaxf(top, x);
        }
    for (int o = 1; o < 4; o <<= 1)
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, o));
    float old = r.m == -INFINITY ? 0.0f : expf(r.m - top);
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float &x = s[j][2 * half + i];
            x = x == -INFINITY ? 0.0f : expf(x - top);
            sum += x;
        }
    for (int o = 1; o < 4; o <<= 1)
        sum += __shfl_xor_sync(0xffffffffu, sum, o);
    r.l = r.l * old + sum;
    r.m = top;
    return old;
}

template <int D> static __global__ void __launch_bounds__(THREADS) flash(const args a)
{
    LMC_DYNAMIC_SHARED(shared);
    uint32_t *qs = (uint32_t *)shared, *ks = qs + ROWS * (D + PAD), *vs = ks + KEYS * (D + PAD);
    const uint32_t group = a.n_heads / a.n_kv_heads, n_rows = a.n * group, pos0 = lmc_pos_of(a.pos0);
    /* Late rows see most keys: they go first. */
    const uint32_t row0 = (gridDim.x - 1 - blockIdx.x) * ROWS, kv_head = blockIdx.y;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    row_state state[2];
    float o[D / 8][4] = {};

    for (uint32_t i = threadIdx.x; i < ROWS * D; i += THREADS) {
        uint32_t row = row0 + i / D, c = i % D;
        bool there = row < n_rows && c < a.d_k;
        qs[i / D * (D + PAD) + c] =
            there ? as_tf32(a.q[((size_t)(row / group) * a.n_heads + kv_head * group + row % group) * a.d_k + c]) : 0u;
    }
#pragma unroll
    for (int h = 0; h < 2; h++) { /* missing rows repeat the last and are not stored */
        uint32_t row = min(row0 + 16 * warp + g + 8 * h, n_rows - 1), pos = pos0 + row / group;
        state[h] = {pos, lmc_first_key(a.window, pos), kv_head * group + row % group, -INFINITY, 0};
    }
    const uint32_t last = pos0 + min(row0 + ROWS - 1, n_rows - 1) / group;
    const uint32_t from = lmc_first_key(a.window, pos0 + row0 / group) / KEYS * KEYS;

    for (uint32_t j0 = from; j0 <= last; j0 += KEYS) {
        float s[KEYS / 8][4], old[2];
        __syncthreads();
        stage<D>(ks, a.k + j0 * a.k_row + (size_t)kv_head * a.d_k, a.k_row, a.d_k, last + 1 - j0);
        stage<D>(vs, a.v + j0 * a.v_row + (size_t)kv_head * a.d_v, a.v_row, a.d_v, last + 1 - j0);
        __syncthreads();
        scores<D>(s, qs + 16 * warp * (D + PAD), ks, g, t);
#pragma unroll
        for (int h = 0; h < 2; h++)
            old[h] = soften(a, state[h], s, h, j0, t);
#pragma unroll
        for (int c = 0; c < D / 8; c++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                o[c][i] *= old[i / 2];
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) {
            const uint32_t p[4] = {as_tf32(s[j][0]), as_tf32(s[j][2]), as_tf32(s[j][1]), as_tf32(s[j][3])};
#pragma unroll
            for (int c = 0; c < D / 8; c++) {
                const uint32_t *v = vs + (8 * j + 2 * t) * (D + PAD) + 8 * c + g;
                const uint32_t b[2] = {v[0], v[D + PAD]};
                mma(o[c], p, b);
            }
        }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        uint32_t row = row0 + 16 * warp + g + 8 * h;
        if (row >= n_rows)
            continue;
        float factor = lmc_close_row(a, state[h].head, state[h].m, state[h].l);
        float *out = a.out + ((size_t)(row / group) * a.n_heads + state[h].head) * a.d_v;
#pragma unroll
        for (int c = 0; c < D / 8; c++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                if (8 * c + 2 * t + i < (int)a.d_v)
                    out[8 * c + 2 * t + i] = o[c][2 * h + i] * factor;
    }
}

static int shared_bytes(int width)
{
    return (ROWS + 2 * KEYS) * (width + PAD) * (int)sizeof(uint32_t);
}

static int width_of(const args *a)
{
    uint32_t wide = a->d_k > a->d_v ? a->d_k : a->d_v;
    return wide <= 64 ? 64 : wide <= 128 ? 128 : 256;
}

bool lmc_can_flash(const struct lm_dev *d, const args *a)
{
    return a->d_k <= 256 && a->d_v <= 256 && shared_bytes(width_of(a)) <= d->max_shared;
}

template <int D> static int launch(struct lm_dev *d, const args *a, struct lm_err *e)
{
    uint32_t rows = a->n * (a->n_heads / a->n_kv_heads);
    int shared = shared_bytes(D);

    LMC_TRY(cudaFuncSetAttribute(flash<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared), "attention");
    LMC_LAUNCH(flash<D>, dim3((rows + ROWS - 1) / ROWS, a->n_kv_heads), dim3(THREADS), shared, d->stream, *a);
    LMC_LAUNCHED("attention");
    return 0;
}

int lmc_flash(struct lm_dev *d, const args *a, struct lm_err *e)
{
    int wide = width_of(a);
    return wide == 64 ? launch<64>(d, a, e) : wide == 128 ? launch<128>(d, a, e) : launch<256>(d, a, e);
}
