/* Products with weights: own kernels on the storage type for exact arithmetic
 * and for a few tokens, cuBLAS for many. */
#include "gpu/cuda_matvec.cuh"

#define FEW_TOKENS 8
#define TILE_ELEMS ((size_t)64 << 20) /* weights decoded at a time for cuBLAS */

static bool is_block(enum lm_dtype t)
{
    return lm_dtype_info(t)->kind == LM_KIND_QUANT;
}

/* How cuBLAS multiplies weights of this type. LM_MATH_FAST keeps the precision
 * of the type: f32 for F32 and F64; TF32, which holds every F16 value, for F16;
 * bf16 for the rest. */
enum blas_kind { BLAS_F32, BLAS_TF32, BLAS_BF16 };
static enum blas_kind blas_kind(enum lm_math math, enum lm_dtype t)
{
    if (math == LM_MATH_TF32)
        return BLAS_TF32;
    if (math == LM_MATH_BF16)
        return BLAS_BF16;
    return t == LM_F32 || t == LM_F64 ? BLAS_F32 : t == LM_F16 ? BLAS_TF32 : BLAS_BF16;
}

static bool uses_blas(const struct lm_dev *d, size_t n)
{
    return d->math != LM_MATH_EXACT && n > FEW_TOKENS;
}

/* ---- own kernels */

static void fill_part(mv_part *p, const struct lmc_part *s, uint32_t chunks)
{
    p->planes = s->w->planes;
    p->first = (size_t)s->row0 * chunks;
    p->out = s->out;
    p->ld = s->ld;
    p->bias = s->w->bias ? s->w->bias + s->row0 : nullptr;
    p->rows = s->rows;
}

/* Parts [from, to) have one dtype. */
static int own_product(struct lm_dev *d, const struct lmc_job *job, int from, int to, bool pair, struct lm_err *e)
{
    enum lm_dtype t = job->part[from].w->dtype;
    const char *what = job->part[from].w->tensor->name;
    mv_args a = {};

    a.cols = job->cols;
    a.chunks = is_block(t) ? job->cols / LMC_UNIT : (job->cols + 7) / 8;
    a.x = job->x;
    a.n_tokens = (uint32_t)job->n;
    a.pair = pair;
    a.add = job->add;
    a.act = job->act;
    a.n_parts = to - from;
    for (int i = from; i < to; i++) {
        fill_part(&a.part[i - from], &job->part[i], a.chunks);
        a.n_rows += job->part[i].rows;
    }
    if (!is_block(t))
        return mv_plain_launch(d, t, a, what, e);
    return d->math == LM_MATH_FAST ? mv_block_int8_launch(d, t, a, what, e) : mv_block_f32_launch(d, t, a, what, e);
}

/* ---- cuBLAS: row-major y [n, rows] = x [n, cols] W' is column-major
 * y (rows x n) = W' (cols x rows, transposed) x (cols x n) */

static int gemm(struct lm_dev *d, enum blas_kind kind, const void *w, const void *x, float *y, size_t ld,
                uint32_t rows, uint32_t cols, size_t n, bool add, const char *what, struct lm_err *e)
{
    const float one = 1, beta = add ? 1.0f : 0.0f;
    cudaDataType_t in = kind == BLAS_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    cublasComputeType_t compute = kind == BLAS_TF32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                                  : kind == BLAS_F32 ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F;
    cublasStatus_t r = cublasGemmEx(d->blas, CUBLAS_OP_T, CUBLAS_OP_N, (int)rows, (int)n, (int)cols, &one, w, in,
                                    (int)cols, x, in, (int)cols, &beta, y, CUDA_R_32F, (int)ld, compute,
                                    CUBLAS_GEMM_DEFAULT);
    return r == CUBLAS_STATUS_SUCCESS ? 0 : lmc_blas_failed(e, r, "cublasGemmEx", what);
}

/* Are the stored weights what cuBLAS takes? */
static bool direct(enum lm_dtype t, enum blas_kind kind)
{
    return kind == BLAS_BF16 ? t == LM_BF16 : t == LM_F32;
}

static int blas_part(struct lm_dev *d, const struct lmc_part *p, const void *x, enum blas_kind kind, size_t n,
                     bool add, struct lm_err *e)
{
    const struct lmc_mat *w = p->w;
    size_t elem = kind == BLAS_BF16 ? 2 : 4;

    if (direct(w->dtype, kind))
        return gemm(d, kind, w->planes.codes + (size_t)p->row0 * w->cols * elem, x, p->out, p->ld, p->rows, w->cols, n,
                    add, w->tensor->name, e);
    uint32_t step = (uint32_t)(TILE_ELEMS / w->cols < 1 ? 1 : TILE_ELEMS / w->cols);
    step = step < p->rows ? step : p->rows;
    void *tile = lmc_scratch(d, LMC_WEIGHT, step * (size_t)w->cols * elem, e);
    if (!tile)
        return -1;
    for (uint32_t r = 0; r < p->rows; r += step) {
        uint32_t rows = p->rows - r < step ? p->rows - r : step;
        if (lmc_decode(d, w, p->row0 + r, rows, tile, kind == BLAS_BF16, e) != 0 ||
            gemm(d, kind, tile, x, p->out + r, p->ld, rows, w->cols, n, add, w->tensor->name, e) != 0)
            return -1;
    }
    return 0;
}

/* Without biases. */
static int blas_product(struct lm_dev *d, const struct lmc_job *job, struct lm_err *e)
{
    uint16_t *half = nullptr;

    for (int i = 0; i < job->n_parts; i++) {
        enum blas_kind kind = blas_kind(d->math, job->part[i].w->dtype);
        if (kind == BLAS_BF16 && !half) {
            half = (uint16_t *)lmc_scratch(d, LMC_HALF, job->n * job->cols * sizeof *half, e);
            if (!half || lmc_to_bf16(d, half, job->x, job->n * job->cols, e) != 0)
                return -1;
        }
        const void *x = kind == BLAS_BF16 ? (const void *)half : job->x;
        if (blas_part(d, &job->part[i], x, kind, job->n, job->add, e) != 0)
            return -1;
    }
    return 0;
}

static const float *bias_of(const struct lmc_part *p)
{
    return p->w->bias ? p->w->bias + p->row0 : nullptr;
}

int lmc_product(struct lm_dev *d, const struct lmc_job *job, struct lm_err *e)
{
    if (uses_blas(d, job->n)) {
        if (blas_product(d, job, e) != 0)
            return -1;
        for (int i = 0; i < job->n_parts; i++) {
            const struct lmc_part *p = &job->part[i];
            if (lmc_bias_act(d, p->out, p->ld, bias_of(p), p->rows, job->n, job->act, e) != 0)
                return -1;
        }
        return 0;
    }
    for (int i = 0, end; i < job->n_parts; i = end) {
        for (end = i + 1; end < job->n_parts && job->part[end].w->dtype == job->part[i].w->dtype; end++)
            ;
        if (own_product(d, job, i, end, false, e) != 0)
            return -1;
    }
    return 0;
}

int lmc_gated(struct lm_dev *d, const struct lmc_job *job, float *h, struct lm_err *e)
{
    const struct lmc_part *g = &job->part[0], *u = &job->part[1];
    const float *bg = nullptr, *bu = nullptr;
    struct lmc_job plain = *job;

    if (!uses_blas(d, job->n) && g->w->dtype == u->w->dtype) {
        plain.part[0].out = h;
        return own_product(d, &plain, 0, 2, true, e);
    }
    plain.act = LMC_ACT_NONE;
    if (uses_blas(d, job->n)) { /* biases go with the activation */
        bg = bias_of(g);
        bu = bias_of(u);
        if (blas_product(d, &plain, e) != 0)
            return -1;
    } else if (lmc_product(d, &plain, e) != 0) {
        return -1;
    }
    return lmc_glu(d, h, g->out, u->out, bg, bu, g->rows, job->n, job->act, e);
}
