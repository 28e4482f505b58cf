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

#include "gpu/cuda_base.cuh"

#define MV_THREADS 256
#define MV_STRANDS 128
#define MV_ROWS 4        /* rows a warp works on at a time */
#define MV_TOKENS 8      /* tokens a block of matvec_many works on */
#define MV_ONE_ELEMS 16384 /* columns of one token kept in shared memory */
#define MV_MANY_ELEMS 1024

struct mv_part {
    lmc_planes planes;
    size_t first;     /* chunk of row 0 */
    float *out;
    size_t ld;
    const float *bias;
    uint32_t rows;
};

struct mv_args {
    mv_part part[3];
    int n_parts;
    uint32_t n_rows;      /* of all parts; with pair: 2 * rows of one */
    uint32_t chunks;      /* of a row */
    uint32_t cols;
    const float *x;
    uint32_t n_tokens;
    uint32_t tile;        /* matvec_one: chunks in shared memory, a multiple of 128 */
    uint32_t batches;     /* matvec_one: times MV_ROWS rows a group does */
    bool pair, add;       /* pair: even rows are part 0's, odd ones part 1's; out = act(even) * odd */
    int act;
};

/* Where row i of the job is. */
struct mv_row {
    int part;
    uint32_t row;
};

LMC_DEV mv_row mv_find(const mv_args &a, uint32_t i)
{
    mv_row r = {0, i};
    if (a.pair) {
        r.part = i & 1;
        r.row = i >> 1;
        return r;
    }
    while (r.part + 1 < a.n_parts && r.row >= a.part[r.part].rows)
        r.row -= a.part[r.part++].rows;
    return r;
}

/* other: the result of row i + 1 (pair). */
LMC_DEV void mv_store(const mv_args &a, uint32_t i, uint32_t token, float v, float other)
{
    mv_row r = mv_find(a, i);
    if (i >= a.n_rows || (a.pair && r.part == 1))
        return;
    const mv_part &p = a.part[r.part];
    float *out = p.out + token * p.ld + r.row;
    if (p.bias)
        v += p.bias[r.row];
    if (a.pair) {
        if (a.part[1].bias)
            other += a.part[1].bias[r.row];
        *out = lmc_act(v, a.act) * other;
    } else if (a.add) {
        *out += v;
    } else {
        *out = lmc_act(v, a.act);
    }
}

/* ---- tokens in shared memory as f32: float4 i of chunk c at [i][c], one
 * float4 of padding a row, so that lanes with neighbouring chunks never meet in
 * a bank. `at` maps a place of the tile to a chunk of the row. */
template <int C> struct mv_f32_tokens {
    static constexpr int bytes(int tile) { return C / 4 * (tile + 1) * 16; }

    template <class At> static LMC_DEV void stage(unsigned char *shared, const float *x, const mv_args &a, int tile, At at)
    {
        float4 *xs = (float4 *)shared;
        for (int i = threadIdx.x; i < tile * (C / 4); i += MV_THREADS) {
            int c = i / (C / 4), piece = i % (C / 4);
            size_t j = (size_t)at(c) * C + 4 * piece;
            float4 v = make_float4(0, 0, 0, 0);
            if (j + 4 <= a.cols && a.cols % 4 == 0) {
                v = *(const float4 *)(x + j);
            } else { /* the ragged end of odd shapes */
                if (j < a.cols)
                    v.x = x[j];
                if (j + 1 < a.cols)
                    v.y = x[j + 1];
                if (j + 2 < a.cols)
                    v.z = x[j + 2];
                if (j + 3 < a.cols)
                    v.w = x[j + 3];
            }
            xs[piece * (tile + 1) + c] = v;
        }
    }
    static LMC_DEV float4 get(const unsigned char *shared, int tile, int c, int piece)
    {
        return ((const float4 *)shared)[piece * (tile + 1) + c];
    }
};

/* ---- source: a block type times f32 tokens */
template <int D> struct mv_block_f32 {
    static constexpr int C = LMC_UNIT;
    using tokens = mv_f32_tokens<C>;
    using raw = lmc_raw;

    static LMC_DEV void load(raw &r, const lmc_planes &p, size_t chunk, const mv_args &) { lmc_load<D>(r, p, chunk); }

    template <int R, int N>
    static LMC_DEV void dot(float (&acc)[R][N], const raw (&w)[R], uint32_t chunk, const unsigned char *xs,
                            int token_bytes, int tile, int c)
    {
        constexpr lmc_shape s = lmc_block<D>::s;
        constexpr int parts = s.halves ? 2 : 1, words = 8 / parts;
        lmc_scales sc[R];
#pragma unroll
        for (int r = 0; r < R; r++)
            sc[r] = lmc_unit_scales<D>(w[r], chunk & (s.units - 1));
#pragma unroll
        for (int h = 0; h < parts; h++) {
            float p[R][N] = {}, sum[N] = {};
#pragma unroll
            for (int i = h * words; i < (h + 1) * words; i++) {
                float q[R][4];
#pragma unroll
                for (int r = 0; r < R; r++)
#pragma unroll
                    for (int k = 0; k < 4; k++)
                        q[r][k] = lmc_code_f32<D>(lmc_word<D>(w[r], i), k);
#pragma unroll
                for (int t = 0; t < N; t++) {
                    float4 x = tokens::get(xs + t * token_bytes, tile, c, i);
#pragma unroll
                    for (int r = 0; r < R; r++)
                        p[r][t] = lmc_fma(q[r][3], x.w,
                                          lmc_fma(q[r][2], x.z, lmc_fma(q[r][1], x.y, lmc_fma(q[r][0], x.x, p[r][t]))));
                    if (s.min)
                        sum[t] = lmc_add(lmc_add(lmc_add(lmc_add(sum[t], x.x), x.y), x.z), x.w);
                }
            }
#pragma unroll
            for (int r = 0; r < R; r++)
#pragma unroll
                for (int t = 0; t < N; t++) {
                    acc[r][t] = lmc_fma(sc[r].s[h], p[r][t], acc[r][t]);
                    if (s.min)
                        acc[r][t] = lmc_fma(sc[r].m[h], sum[t], acc[r][t]);
                }
        }
    }
};

/* ---- source: a block type times tokens rounded to 8 bits per 32 elements
 * (LM_MATH_FAST).  Of a unit of tokens: 32 signed bytes, the scale, and the
 * sums of its halves (16 bits each) for the bias and the minimum. */
struct mv_int8_tokens {
    static constexpr int bytes(int tile) { return 2 * (tile + 1) * 16 + tile * 8; }

    template <class At> static LMC_DEV void stage(unsigned char *shared, const float *x, const mv_args &a, int tile, At at)
    {
        int lane = threadIdx.x % 32;
        float2 *tail = (float2 *)(shared + 2 * (tile + 1) * 16);
        for (int c = threadIdx.x / 32; c < tile; c += MV_THREADS / 32) {
            size_t j = (size_t)at(c) * LMC_UNIT + lane;
            float v = j < a.cols ? x[j] : 0.0f;
            unsigned most = __reduce_max_sync(0xffffffffu, lmc_f32_bits(fabsf(v)));
            float scale = lmc_bits_f32(most) / 127.0f;
            int q = scale > 0 ? __float2int_rn(v / scale) : 0;
            int sums = __reduce_add_sync(0xffffffffu, lane < 16 ? q : q * 65536);
            ((int8_t *)shared)[((lane >> 4) * (tile + 1) + c) * 16 + (lane & 15)] = (int8_t)q;
            if (lane == 0)
                tail[c] = make_float2(scale, lmc_bits_f32((uint32_t)sums));
        }
    }
};

template <int D> struct mv_block_int8 {
    static constexpr int C = LMC_UNIT;
    using tokens = mv_int8_tokens;
    using raw = lmc_raw;

    static LMC_DEV void load(raw &r, const lmc_planes &p, size_t chunk, const mv_args &) { lmc_load<D>(r, p, chunk); }

    template <int R, int N>
    static LMC_DEV void dot(float (&acc)[R][N], const raw (&w)[R], uint32_t chunk, const unsigned char *xs,
                            int token_bytes, int tile, int c)
    {
        constexpr lmc_shape s = lmc_block<D>::s;
        lmc_scales sc[R];
#pragma unroll
        for (int r = 0; r < R; r++)
            sc[r] = lmc_unit_scales<D>(w[r], chunk & (s.units - 1));
#pragma unroll
        for (int t = 0; t < N; t++) {
            const unsigned char *x = xs + t * token_bytes;
            int4 lo = ((const int4 *)x)[c], hi = ((const int4 *)x)[tile + 1 + c];
            float2 tail = ((const float2 *)(x + 2 * (tile + 1) * 16))[c];
            int sums = (int)lmc_f32_bits(tail.y), sum0 = (int16_t)(sums & 0xffff), sum1 = (sums - sum0) / 65536;
#pragma unroll
            for (int r = 0; r < R; r++) {
                int a = 0, b = 0;
                a = __dp4a((int)lmc_word<D>(w[r], 0), lo.x, a);
                a = __dp4a((int)lmc_word<D>(w[r], 1), lo.y, a);
                a = __dp4a((int)lmc_word<D>(w[r], 2), lo.z, a);
                a = __dp4a((int)lmc_word<D>(w[r], 3), lo.w, a);
                b = __dp4a((int)lmc_word<D>(w[r], 4), hi.x, b);
                b = __dp4a((int)lmc_word<D>(w[r], 5), hi.y, b);
                b = __dp4a((int)lmc_word<D>(w[r], 6), hi.z, b);
                b = __dp4a((int)lmc_word<D>(w[r], 7), hi.w, b);
                float v;
                if (s.halves) {
                    v = sc[r].s[0] * (float)(a - s.bias * sum0) + sc[r].s[1] * (float)(b - s.bias * sum1);
                    if (s.min)
                        v += sc[r].m[0] * (float)sum0 + sc[r].m[1] * (float)sum1;
                } else {
                    v = sc[r].s[0] * (float)(a + b - s.bias * (sum0 + sum1));
                    if (s.min)
                        v += sc[r].m[0] * (float)(sum0 + sum1);
                }
                acc[r][t] = lmc_fma(tail.x, v, acc[r][t]);
            }
        }
    }
};

/* ---- source: a plain type times f32 tokens; a chunk is 8 elements.  WHOLE:
 * cols is a multiple of 8, so that rows are loaded in wide pieces. */
template <int D, bool WHOLE> struct mv_plain_f32 {
    static constexpr int C = 8;
    using tokens = mv_f32_tokens<C>;
    struct raw {
        uint32_t w[2 * lmc_plain<D>::bytes];
    };

    static LMC_DEV void load(raw &r, const lmc_planes &p, size_t chunk, const mv_args &a)
    {
        constexpr int bytes = 8 * lmc_plain<D>::bytes;
        if (WHOLE) {
            const uint8_t *at = p.codes + chunk * bytes;
            if (bytes == 8)
                lmc_ld8(&r.w[0], &r.w[1], at);
#pragma unroll
            for (int i = 0; i < bytes / 16; i++) {
                lmc_u4 v = lmc_ld16(at + 16 * i);
                r.w[4 * i] = v.x, r.w[4 * i + 1] = v.y, r.w[4 * i + 2] = v.z, r.w[4 * i + 3] = v.w;
            }
        } else { /* chunks of row i begin at i * cols; the ragged end is zero */
            size_t row = chunk / a.chunks, j = chunk % a.chunks * C;
#pragma unroll
            for (int i = 0; i < bytes; i++) {
                uint32_t b = j + i / lmc_plain<D>::bytes < a.cols
                                 ? p.codes[(row * a.cols + j) * lmc_plain<D>::bytes + i] : 0u;
                r.w[i / 4] = i % 4 ? r.w[i / 4] | b << 8 * (i % 4) : b;
            }
        }
    }
    static LMC_DEV float value(const raw &r, int i)
    {
        switch (D) {
        case LM_F32: return lmc_bits_f32(r.w[i]);
        case LM_F16: return lmc_f16(r.w[i / 2] >> 16 * (i % 2) & 0xffff);
        case LM_BF16: return i % 2 ? lmc_bits_f32(r.w[i / 2] & 0xffff0000u) : lmc_bits_f32(r.w[i / 2] << 16);
        case LM_F64: return (float)__hiloint2double((int)r.w[2 * i % (2 * lmc_plain<D>::bytes) + 1],
                                                    (int)r.w[2 * i % (2 * lmc_plain<D>::bytes)]);
        case LM_F8_E4M3: return lmc_f8_e4m3(r.w[i / 4] >> 8 * (i % 4) & 255);
        default: return lmc_f8_e5m2(r.w[i / 4] >> 8 * (i % 4) & 255);
        }
    }

    template <int R, int N>
    static LMC_DEV void dot(float (&acc)[R][N], const raw (&w)[R], uint32_t, const unsigned char *xs, int token_bytes,
                            int tile, int c)
    {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float v[R][4];
#pragma unroll
            for (int r = 0; r < R; r++)
#pragma unroll
                for (int k = 0; k < 4; k++)
                    v[r][k] = value(w[r], 4 * h + k);
#pragma unroll
            for (int t = 0; t < N; t++) {
                float4 x = tokens::get(xs + t * token_bytes, tile, c, h);
#pragma unroll
                for (int r = 0; r < R; r++)
                    acc[r][t] = lmc_fma(v[r][3], x.w,
                                        lmc_fma(v[r][2], x.z, lmc_fma(v[r][1], x.y, lmc_fma(v[r][0], x.x, acc[r][t]))));
            }
        }
    }
};

/* ---- one token */

/* MV_ROWS rows that a warp works on, and what it has loaded of them. */
template <class S> struct mv_rows {
    const lmc_planes *planes[MV_ROWS];
    size_t base[MV_ROWS];
    typename S::raw now[MV_ROWS], next[MV_ROWS];

    LMC_DEV void begin(const mv_args &a, uint32_t row0)
    {
#pragma unroll
        for (int r = 0; r < MV_ROWS; r++) {
            mv_row at = mv_find(a, row0 + r < a.n_rows ? row0 + r : a.n_rows - 1);
            planes[r] = &a.part[at.part].planes;
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
    mv_rows<S> w;

    w.begin(a, row0);
    w.load(w.now, a, first);
    for (uint32_t batch = 0; batch < a.batches; batch++, row0 += 2 * MV_ROWS) {
        float acc[MV_ROWS][1] = {};
        for (uint32_t t0 = 0; t0 < a.chunks; t0 += a.tile) {
            if (batch == 0 || !one_tile) {
                __syncthreads();
                S::tokens::stage(xs, a.x, a, (int)a.tile, [=](int c) { return t0 + c; });
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
            w.begin(a, row0 + 2 * MV_ROWS);
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
            mv_store(a, row0 + lane, 0, v[0], v[1]);
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
                S::tokens::stage(xs + t * token_bytes, a.x + (size_t)(token0 + min(t, n - 1)) * a.cols, a, tile, at);
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
        mv_store(a, row0 + lane / MV_TOKENS, token0 + lane % MV_TOKENS, total, other);
}

/* ---- launching */
template <class S> int mv_launch(struct lm_dev *d, mv_args &a, const char *what, struct lm_err *e)
{
    if (a.n_tokens == 1) {
        uint32_t whole = (a.chunks + MV_STRANDS - 1) / MV_STRANDS * MV_STRANDS;
        a.tile = min(whole, (uint32_t)(MV_ONE_ELEMS / S::C));
        uint32_t groups = (a.n_rows + MV_ROWS - 1) / MV_ROWS;
        /* Two blocks a multiprocessor, all at once: each puts the token into shared memory once. */
        uint32_t fill = 4 * (uint32_t)d->n_sms;
        a.batches = a.chunks > a.tile ? 1 : (groups + fill - 1) / fill;
        uint32_t blocks = (groups + 2 * a.batches - 1) / (2 * a.batches);
        int shared = S::tokens::bytes((int)a.tile);
        auto kernel = matvec_one<S>;
        if (shared > 48 * 1024)
            LMC_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared), what);
        LMC_LAUNCH(kernel, dim3(blocks), dim3(MV_THREADS), shared, d->stream, a);
    } else {
        uint32_t rows = MV_THREADS / 32 * MV_ROWS;
        auto kernel = matvec_many<S>;
        dim3 grid((a.n_tokens + MV_TOKENS - 1) / MV_TOKENS, (a.n_rows + rows - 1) / rows);
        LMC_LAUNCH(kernel, grid, dim3(MV_THREADS), 0, d->stream, a);
    }
    LMC_LAUNCHED(what);
    return 0;
}

/* One file each: block types by f32 tokens, by int8 tokens, plain types. */
int mv_block_f32_launch(struct lm_dev *d, enum lm_dtype t, mv_args &a, const char *what, struct lm_err *e);
int mv_block_int8_launch(struct lm_dev *d, enum lm_dtype t, mv_args &a, const char *what, struct lm_err *e);
int mv_plain_launch(struct lm_dev *d, enum lm_dtype t, mv_args &a, const char *what, struct lm_err *e);

#endif
