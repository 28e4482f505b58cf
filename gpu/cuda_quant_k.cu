/* Encoders of Q2_K, Q3_K, Q4_K, Q5_K and Q6_K: a thread a group, its blocks in
 * shared memory.  As libmodel/dtype/kquants.h and weighted.h: fit all groups,
 * round the groups' scales, code again with the rounded scales, pack. */
#include "gpu/cuda_quant.cuh"

enum { THREADS = 128 };

/* What the threads of a block's groups share. */
struct work {
    float x[256];
    lmc_fit fit[16];
    uint8_t code[256];
    uint8_t scale[16], min[16]; /* rounded; Q2_K: both in scale */
    uint32_t d, dmin;           /* f16 */
    float spread;
    bool empty;                 /* Q6_K: all bytes zero */
};

template <int D> struct k_type;
#define K_TYPE(d, g, b, m)                                                                                             \
    template <> struct k_type<LM_##d> {                                                                                \
        static constexpr int group = g, bytes = b, nmax = m;                                                           \
    };
K_TYPE(Q2_K, 16, 84, 3)
K_TYPE(Q3_K, 16, 110, 4)
K_TYPE(Q4_K, 32, 144, 15)
K_TYPE(Q5_K, 32, 176, 31)
K_TYPE(Q6_K, 16, 210, 32)
#undef K_TYPE

/* ---- fits */

/* Weights of a group: by importance, or what the type takes without. */
template <int D, bool WEIGHTED, int G>
static LMC_DEV void weights_of(float (&w)[G], const float (&x)[G], const float *importance, float spread)
{
    float sum = 0;

    if (WEIGHTED) {
        for (int i = 0; i < G; i++)
            w[i] = D == LM_Q6_K ? importance[i] : importance[i] * sqrtf(spread + x[i] * x[i]);
        return;
    }
    if (D == LM_Q4_K || D == LM_Q5_K)
        for (int i = 0; i < G; i++)
            sum += x[i] * x[i];
    float rms = sqrtf(sum * (1.0f / 32));
    for (int i = 0; i < G; i++)
        w[i] = D == LM_Q2_K ? fabsf(x[i]) : D == LM_Q6_K ? x[i] * x[i] : rms + fabsf(x[i]);
}

/* l: Q3_K's codes of the search without importance. */
template <int D, bool WEIGHTED>
static LMC_DEV void fit_group(lmc_fit *f, const float *from, const float *importance, float spread, float (&l)[16])
{
    constexpr int G = k_type<D>::group, nmax = k_type<D>::nmax;
    float x[G], w[G];

    LMC_UNROLL
    for (int i = 0; i < G; i++)
        x[i] = from[i];
    if constexpr (D == LM_Q3_K && !WEIGHTED) {
        lmc_fit_q3(f, x, l);
        return;
    }
    weights_of<D, WEIGHTED>(w, x, importance, spread);
    if (D == LM_Q3_K || D == LM_Q6_K) {
        float sum = w[0];
        for (int i = 1; i < G; i++)
            sum += w[i];
        f->sum_w = sum;
        lmc_fit_symmetric(f, x, w, G, nmax);
        return;
    }
    const lmc_affine_spec plain = {nmax, D == LM_Q4_K ? -1.0f : -0.5f, 0.1f, D == LM_Q4_K ? 20 : 15, D == LM_Q2_K};
    const lmc_affine_spec weighted = {nmax, -0.9f, 0.05f, 36, false};
    lmc_fit_affine(f, x, w, WEIGHTED ? weighted : plain);
}

/* ---- scales of the groups */

static LMC_DEV float largest_positive(const work &k, int n, bool mins)
{
    float max = 0;
    for (int j = 0; j < n; j++) {
        float v = mins ? k.fit[j].min : k.fit[j].scale;
        max = v > max ? v : max;
    }
    return max;
}

static LMC_DEV void scales_q2(work &k)
{
    float max_scale = largest_positive(k, 16, false), max_min = largest_positive(k, 16, true);
    float iscale = 15.0f / max_scale, imin = 15.0f / max_min;

    for (int j = 0; j < 16; j++) {
        int s = max_scale > 0 ? (uint8_t)lmc_nearest(iscale * k.fit[j].scale) : 0;
        k.scale[j] = (uint8_t)(s | (max_min > 0 ? lmc_nearest(imin * k.fit[j].min) * 16 : 0));
    }
    k.d = max_scale > 0 ? lmc_to_f16(max_scale / 15.0f) : 0;
    k.dmin = max_min > 0 ? lmc_to_f16(max_min / 15.0f) : 0;
}

static LMC_DEV void scales_q45(work &k)
{
    float max_scale = largest_positive(k, 8, false), max_min = largest_positive(k, 8, true);
    float iscale = max_scale > 0 ? 63.0f / max_scale : 0, imin = max_min > 0 ? 63.0f / max_min : 0;

    for (int j = 0; j < 8; j++) {
        uint8_t s = (uint8_t)lmc_nearest(iscale * k.fit[j].scale), m = (uint8_t)lmc_nearest(imin * k.fit[j].min);
        k.scale[j] = s < 63 ? s : 63;
        k.min[j] = m < 63 ? m : 63;
    }
    k.d = lmc_to_f16(max_scale / 63.0f);
    k.dmin = lmc_to_f16(max_min / 63.0f);
}

static LMC_DEV float largest_scale(const work &k)
{
    float s[16], amax;
    for (int j = 0; j < 16; j++)
        s[j] = k.fit[j].scale;
    return lmc_largest(s, 16, &amax);
}

static LMC_DEV void scales_q3(work &k)
{
    float max = largest_scale(k), iscale = -32.0f / max;

    for (int j = 0; j < 16; j++) {
        int l = max != 0 ? (int8_t)lmc_nearest(iscale * k.fit[j].scale) : -32;
        k.scale[j] = (uint8_t)((l < -32 ? -32 : l > 31 ? 31 : l) + 32);
    }
    k.d = max != 0 ? lmc_to_f16(1 / iscale) : 0;
}

static LMC_DEV void scales_q6(work &k)
{
    float max = largest_scale(k), iscale = -128.0f / max;

    k.empty = fabsf(max) < LMC_GROUP_EPS;
    for (int j = 0; j < 16; j++) {
        int s = lmc_nearest(iscale * k.fit[j].scale);
        k.scale[j] = (uint8_t)(int8_t)(s < 127 ? s : 127);
    }
    k.d = lmc_to_f16(1 / iscale);
}

/* With importance: scales (mins: those) are searched too. */
static LMC_DEV void searched_scales(work &k, int n, int nmax, bool mins)
{
    float x[16], w[16];

    for (int j = 0; j < n; j++) {
        x[j] = mins ? k.fit[j].min : k.fit[j].scale;
        w[j] = k.fit[j].sum_w;
    }
    float d = lmc_fit_positive(x, w, n, nmax, mins ? k.min : k.scale);
    (mins ? k.dmin : k.d) = lmc_to_f16(d);
}

static LMC_DEV void searched_scales_q3(work &k)
{
    float x[16], w[16];
    lmc_fit f;

    for (int j = 0; j < 16; j++) {
        x[j] = k.fit[j].scale;
        w[j] = k.fit[j].sum_w;
    }
    lmc_fit_symmetric(&f, x, w, 16, 32);
    for (int j = 0; j < 16; j++)
        k.scale[j] = (uint8_t)(f.iscale == 0 ? 0 : lmc_nearest_in(f.iscale * x[j], -32, 31) + 32);
    k.d = lmc_to_f16(f.scale);
}

/* j: the group of the thread; a second thread does the mins. */
template <int D, bool WEIGHTED> static LMC_DEV void round_scales(work &k, int j)
{
    if (WEIGHTED && (D == LM_Q2_K || D == LM_Q4_K || D == LM_Q5_K)) {
        if (j < 2)
            searched_scales(k, 256 / k_type<D>::group, D == LM_Q2_K ? 15 : 63, j == 1);
        return;
    }
    if (j != 0)
        return;
    if (D == LM_Q2_K)
        scales_q2(k);
    else if (D == LM_Q4_K || D == LM_Q5_K)
        scales_q45(k);
    else if (D == LM_Q6_K)
        scales_q6(k);
    else if (WEIGHTED)
        searched_scales_q3(k);
    else
        scales_q3(k);
}

/* Q2_K's two halves of a byte, where they were searched apart; 6-bit codes at most 63. */
template <int D, bool WEIGHTED> static LMC_DEV void merge_scales(work &k, int j)
{
    if (WEIGHTED && D == LM_Q2_K)
        k.scale[j] = (uint8_t)(k.scale[j] | k.min[j] << 4);
    if (WEIGHTED && D == LM_Q5_K) {
        k.scale[j] = k.scale[j] < 63 ? k.scale[j] : 63;
        k.min[j] = k.min[j] < 63 ? k.min[j] : 63;
    }
}

/* ---- codes of a group by its rounded scale */

template <int D, bool WEIGHTED> static LMC_DEV void code_group(work &k, int j, const float (&l)[16])
{
    constexpr int G = k_type<D>::group, nmax = k_type<D>::nmax;
    const float d = lmc_f16(k.d), dmin = lmc_f16(k.dmin), *x = k.x + G * j;
    uint8_t *code = k.code + G * j;
    float dj, dm = 0;

    if (D == LM_Q2_K) {
        dj = d * (float)(k.scale[j] & 15);
        dm = dmin * (float)(k.scale[j] >> 4);
    } else if (D == LM_Q4_K || D == LM_Q5_K) {
        dj = d * (float)(k.scale[j] & 63);
        dm = dmin * (float)(k.min[j] & 63);
    } else {
        dj = d * (float)(D == LM_Q3_K ? (int)k.scale[j] - 32 : (int)(int8_t)k.scale[j]);
    }
    const bool symmetric = D == LM_Q3_K || D == LM_Q6_K;
    for (int i = 0; i < G; i++) {
        int q;
        if (dj != 0 && symmetric)
            q = lmc_nearest_in(x[i] / dj, -nmax, nmax - 1) + nmax;
        else if (dj != 0)
            q = lmc_nearest_in((x[i] + dm) / dj, 0, nmax);
        else if (D == LM_Q3_K && !WEIGHTED)
            q = k.fit[j].iscale == 0 ? 0 : (int)l[i] + nmax;
        else
            q = symmetric ? lmc_searched(x[i], k.fit[j], -nmax, nmax - 1) : lmc_searched(x[i], k.fit[j], 0, nmax);
        code[i] = (uint8_t)q;
    }
}

/* ---- bytes */

/* Bits 0-1 of four codes 32 apart. */
static LMC_DEV uint32_t plane_byte(const uint8_t *code, int i, int shift)
{
    const uint8_t *c = code + i / 32 * 128 + i % 32;
    return (c[0] >> shift & 3) | (c[32] >> shift & 3) << 2 | (c[64] >> shift & 3) << 4 | (c[96] >> shift & 3) << 6;
}
/* Bit `shift` of eight codes 32 apart. */
static LMC_DEV uint32_t mask_byte(const uint8_t *code, int l, int shift)
{
    uint32_t m = 0;
    for (int k = 0; k < 8; k++)
        m |= (code[32 * k + l] >> shift & 1u) << k;
    return m;
}
static LMC_DEV uint32_t nibble_byte(const uint8_t *code, int i)
{
    const uint8_t *c = code + i / 32 * 64 + i % 32;
    return (c[0] & 15u) | (c[32] & 15u) << 4;
}
/* Of the twelve that hold eight 6-bit scales and mins. */
static LMC_DEV uint32_t packed_scale(const work &k, int i)
{
    const uint8_t *s = k.scale, *m = k.min;
    if (i < 4)
        return s[i] | s[i + 4] >> 4 << 6;
    if (i < 8)
        return m[i - 4] | m[i] >> 4 << 6;
    return (s[i - 4] & 15u) | (m[i - 4] & 15u) << 4;
}

template <int D> static LMC_DEV uint32_t byte_of(const work &k, int i)
{
    if (D == LM_Q2_K)
        return i < 16   ? k.scale[i]
               : i < 80 ? plane_byte(k.code, i - 16, 0)
               : i < 82 ? k.d >> 8 * (i - 80)
                        : k.dmin >> 8 * (i - 82);
    if (D == LM_Q3_K) {
        const uint8_t *s = k.scale;
        int j = i - 96;
        return i < 32    ? mask_byte(k.code, i, 2)
               : i < 96  ? plane_byte(k.code, i - 32, 0)
               : i < 104 ? (s[j] & 15u) | (s[j + 8] & 15u) << 4
               : i < 108 ? s[j - 8] >> 4 | s[j - 4] >> 4 << 2 | s[j] >> 4 << 4 | s[j + 4] >> 4 << 6
                         : k.d >> 8 * (i - 108);
    }
    if (D == LM_Q6_K) {
        const uint8_t *c = k.code + i / 64 * 128 + i % 64;
        return k.empty   ? 0u
               : i < 128 ? (c[0] & 15u) | (c[64] & 15u) << 4
               : i < 192 ? plane_byte(k.code, i - 128, 4)
               : i < 208 ? k.scale[i - 192]
                         : k.d >> 8 * (i - 208);
    }
    if (i < 16)
        return i < 2 ? k.d >> 8 * i : i < 4 ? k.dmin >> 8 * (i - 2) : packed_scale(k, i - 4);
    if (D == LM_Q4_K)
        return nibble_byte(k.code, i - 16);
    return i < 48 ? mask_byte(k.code, i - 16, 4) : nibble_byte(k.code, i - 48);
}

/* importance: of a row of row_blocks blocks. */
template <int D, bool WEIGHTED>
static __global__ void __launch_bounds__(THREADS)
    encode(const float *src, const float *importance, uint32_t row_blocks, size_t n_blocks, uint8_t *dst)
{
    constexpr int G = k_type<D>::group, GROUPS = 256 / G, BLOCKS = THREADS / GROUPS, bytes = k_type<D>::bytes;
    __shared__ work all[BLOCKS];
    const size_t block0 = blockIdx.x * (size_t)BLOCKS, n = min((size_t)BLOCKS, n_blocks - block0);
    const int j = threadIdx.x % GROUPS;
    work &k = all[threadIdx.x / GROUPS];
    const bool there = threadIdx.x / GROUPS < n;
    const float *column = WEIGHTED ? importance + (block0 + threadIdx.x / GROUPS) % row_blocks * 256 + G * j : nullptr;
    float l[16];

    for (size_t i = threadIdx.x; i < n * 256; i += THREADS)
        all[i / 256].x[i % 256] = src[block0 * 256 + i];
    __syncthreads();
    if (WEIGHTED && D != LM_Q6_K && there && j == 0) {
        float sum = 0;
        for (int i = 0; i < 256; i++)
            sum += k.x[i] * k.x[i];
        k.spread = sum * (D == LM_Q2_K ? 1.0f : 2.0f) * (1.0f / 256);
    }
    __syncthreads();
    if (there)
        fit_group<D, WEIGHTED>(&k.fit[j], k.x + G * j, column, WEIGHTED && D != LM_Q6_K ? k.spread : 0, l);
    __syncthreads();
    if (there)
        round_scales<D, WEIGHTED>(k, j);
    __syncthreads();
    if (there)
        merge_scales<D, WEIGHTED>(k, j);
    __syncthreads();
    if (there)
        code_group<D, WEIGHTED>(k, j, l);
    __syncthreads();
    for (size_t i = threadIdx.x; i < n * bytes; i += THREADS)
        dst[block0 * bytes + i] = (uint8_t)byte_of<D>(all[i / bytes], (int)(i % bytes));
}

template <int D> static void launch(const struct lmc_encode *a, cudaStream_t s)
{
    const size_t n = a->n_rows * a->n_per_row / 256, at_once = THREADS / (256 / k_type<D>::group);
    const dim3 grid((unsigned)((n + at_once - 1) / at_once));
    auto plain = encode<D, false>, weighted = encode<D, true>;

    if (a->weights)
        LMC_LAUNCH(weighted, grid, dim3(THREADS), 0, s, a->src, a->weights, (uint32_t)(a->n_per_row / 256), n, a->dst);
    else
        LMC_LAUNCH(plain, grid, dim3(THREADS), 0, s, a->src, nullptr, 1u, n, a->dst);
}

int lmc_encode_k(enum lm_dtype to, const struct lmc_encode *a, cudaStream_t s, struct lm_err *e)
{
    switch (to) {
    case LM_Q2_K: launch<LM_Q2_K>(a, s); break;
    case LM_Q3_K: launch<LM_Q3_K>(a, s); break;
    case LM_Q4_K: launch<LM_Q4_K>(a, s); break;
    case LM_Q5_K: launch<LM_Q5_K>(a, s); break;
    default: launch<LM_Q6_K>(a, s); break;
    }
    LMC_LAUNCHED("quantizing");
    return 0;
}
