/* Weights out of their storage type: rows of the embedding, whole tiles for
 * cuBLAS. */
#include "gpu/cuda_base.cuh"

enum { THREADS = 256 };

static unsigned blocks_for(size_t n)
{
    return (unsigned)((n + THREADS - 1) / THREADS);
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
static LMC_DEV void put(double *dst, size_t i, float v)
{
    dst[i] = v;
}

/* Unit u of a type that has units. */
template <int D, class P> struct unit_of {
    static LMC_DEV void get(float *v, const P &p, size_t u) { lmc_unit_f32<D>(v, p, u); }
};
#define CODED(s)                                                                                                       \
    template <class P> struct unit_of<LM_##s, P> {                                                                     \
        static LMC_DEV void get(float *v, const P &p, size_t u) { lmc_coded_f32<LM_##s>(v, p, u); }                    \
    };
LMC_CODED_TYPES(CODED)
#undef CODED

/* A thread decodes a unit; through shared memory, so that a warp's stores are
 * one run of addresses. */
template <int D, class T> static __global__ void decode_block(lmc_planes p, size_t first, size_t n_units, T *dst)
{
    __shared__ float tile[THREADS * (LMC_UNIT + 1)];
    size_t unit0 = blockIdx.x * (size_t)THREADS, u = unit0 + threadIdx.x;

    if (u < n_units) {
        float v[LMC_UNIT];
        unit_of<D, lmc_planes>::get(v, p, first + u);
#pragma unroll
        for (int i = 0; i < LMC_UNIT; i++)
            tile[threadIdx.x * (LMC_UNIT + 1) + i] = v[i];
    }
    __syncthreads();
    size_t n = min((size_t)THREADS, n_units - unit0) * LMC_UNIT;
    for (size_t i = threadIdx.x; i < n; i += THREADS)
        put(dst, unit0 * LMC_UNIT + i, tile[i / LMC_UNIT * (LMC_UNIT + 1) + i % LMC_UNIT]);
}

/* f64 is kept as it is where doubles are wanted. */
template <class T> static LMC_DEV void put_f64(T *dst, size_t i, double v)
{
    put(dst, i, (float)v);
}
static LMC_DEV void put_f64(double *dst, size_t i, double v)
{
    dst[i] = v;
}

template <int D, class T> static __global__ void decode_plain(const uint8_t *data, size_t first, size_t n, T *dst)
{
    for (size_t i = blockIdx.x * (size_t)THREADS + threadIdx.x; i < n; i += (size_t)gridDim.x * THREADS)
        if (D == LM_F64)
            put_f64(dst, i, lmc_f64(data + 8 * (first + i)));
        else
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
        LMC_CODED_TYPES(CASE)
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

int lmc_decode(struct lm_dev *d, const struct lmc_mat *m, uint32_t row0, uint32_t rows, void *dst, enum lmc_form form,
               struct lm_err *e)
{
    size_t first = (size_t)row0 * m->cols, n = (size_t)rows * m->cols;
    return form == LMC_AS_BF16  ? decode_to(d, m, first, n, (uint16_t *)dst, e)
           : form == LMC_AS_F64 ? decode_to(d, m, first, n, (double *)dst, e)
                                : decode_to(d, m, first, n, (float *)dst, e);
}

/* ---- embedding: a block of threads a token */

struct row_args {
    enum lm_dtype dtype;
    lmc_planes planes;
    const int32_t *ids; /* NULL: the rows of the positions from pos0 on */
    struct lmc_pos pos0;
    uint32_t cols;
    bool add;
    double scale;
};

template <class T> static LMC_DEV void keep(const row_args &a, T *x, double v)
{
    T y = (T)v;
    if (a.add)
        *x += y;
    else
        *x = a.scale == 1 ? y : y * (T)a.scale;
}

template <int D, class T> static LMC_DEV void row_units(const row_args &a, size_t row, T *x)
{
    for (uint32_t u = threadIdx.x; u < a.cols / LMC_UNIT; u += THREADS) {
        float v[LMC_UNIT];
        unit_of<D, lmc_planes>::get(v, a.planes, row * (a.cols / LMC_UNIT) + u);
#pragma unroll
        for (int i = 0; i < LMC_UNIT; i++)
            keep(a, &x[u * LMC_UNIT + i], (double)v[i]);
    }
}

template <int D, class T> static LMC_DEV void row_plain(const row_args &a, size_t row, T *x)
{
    for (uint32_t i = threadIdx.x; i < a.cols; i += THREADS) {
        size_t at = row * a.cols + i;
        keep(a, &x[i], D == LM_F64 ? lmc_f64(a.planes.codes + 8 * at) : (double)lmc_elem<D>(a.planes.codes, at));
    }
}

template <class T> static __global__ void rows(const row_args a, T *x)
{
    size_t row = a.ids ? (size_t)a.ids[blockIdx.x] : lmc_pos_of(a.pos0) + blockIdx.x;
    T *out = x + (size_t)blockIdx.x * a.cols;

    switch (a.dtype) {
#define CASE(s) case LM_##s: row_units<LM_##s>(a, row, out); break;
        LMC_BLOCK_TYPES(CASE)
        LMC_CODED_TYPES(CASE)
#undef CASE
#define CASE(s) case LM_##s: row_plain<LM_##s>(a, row, out); break;
        LMC_PLAIN_TYPES(CASE)
#undef CASE
    default: break; /* refused at upload */
    }
}

static void launch_rows(struct lm_dev *d, const row_args &a, size_t n, void *x)
{
    if (d->f64)
        LMC_LAUNCH(rows<double>, dim3((unsigned)n), dim3(THREADS), 0, d->stream, a, (double *)x);
    else
        LMC_LAUNCH(rows<float>, dim3((unsigned)n), dim3(THREADS), 0, d->stream, a, (float *)x);
}

int lmc_embed(struct lm_dev *d, const struct lmc_mat *embed, const struct lmc_mat *pos, const int32_t *ids, size_t n,
              struct lmc_pos pos0, void *x, struct lm_err *e)
{
    double scale = d->net->config.embed_scale > 0 ? d->net->config.embed_scale : 1;
    row_args a = {embed->dtype, embed->planes, ids, pos0, embed->cols, false, scale};

    launch_rows(d, a, n, x);
    if (pos) {
        a = {pos->dtype, pos->planes, nullptr, pos0, pos->cols, true, 1};
        launch_rows(d, a, n, x);
    }
    LMC_LAUNCHED("embedding");
    return 0;
}
