/* What matrix-vector kernels multiply: how a chunk of a row is loaded, how tokens
 * lie in shared memory, and how both meet (see cuda_matvec.cuh). */
#ifndef GPU_CUDA_SOURCES_CUH
#define GPU_CUDA_SOURCES_CUH

#include "gpu/cuda_matvec_args.cuh"

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
            if (j + 4 <= a.cols && ((uintptr_t)(x + j) & 15) == 0) {
                v = *(const float4 *)(x + j);
            } else { /* odd shapes, and their ragged end */
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
        default: return lmc_f8<D>(r.w[i / 4] >> 8 * (i % 4) & 255);
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

/* ---- source: a type whose blocks stay in the file's form times f32 tokens; a unit is decoded where it is used. */
template <int D> struct mv_coded_f32 {
    static constexpr int C = LMC_UNIT;
    using tokens = mv_f32_tokens<C>;
    struct raw {
        const uint8_t *block, *book;
        int sub;
    };

    static LMC_DEV void load(raw &r, const lmc_planes &p, size_t chunk, const mv_args &)
    {
        r.block = p.codes + chunk / lmc_coded<D>::units * lmc_coded<D>::bytes;
        r.book = p.two;
        r.sub = (int)(chunk & (lmc_coded<D>::units - 1));
    }

    template <int R, int N>
    static LMC_DEV void dot(float (&acc)[R][N], const raw (&w)[R], uint32_t, const unsigned char *xs, int token_bytes,
                            int tile, int c)
    {
#pragma unroll(N == 1 ? R : 1)
        for (int r = 0; r < R; r++) {
            float v[LMC_UNIT], sum[N];
            lmc_coded_unit<D>(v, w[r].book, w[r].block, w[r].sub);
#pragma unroll
            for (int t = 0; t < N; t++) {
                sum[t] = acc[r][t];
#pragma unroll
                for (int i = 0; i < LMC_UNIT / 4; i++) {
                    float4 x = tokens::get(xs + t * token_bytes, tile, c, i);
                    sum[t] = lmc_fma(v[4 * i + 3], x.w,
                                     lmc_fma(v[4 * i + 2], x.z, lmc_fma(v[4 * i + 1], x.y, lmc_fma(v[4 * i], x.x, sum[t]))));
                }
                acc[r][t] = sum[t];
            }
        }
    }
};

#endif
