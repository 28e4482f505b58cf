/* Products with weights: own kernels on the storage type for exact arithmetic
 * and for a few tokens, cuBLAS for many, and for arithmetic in double. */
#include "gpu/cuda_matvec.cuh"

#include <stdlib.h>

#define FEW_TOKENS 8
#define TILE_ELEMS ((size_t)64 << 20) /* weights decoded at a time for cuBLAS */

/* How cuBLAS multiplies weights of this type. LM_MATH_FAST keeps the precision
 * of the type: f32 for F32 and F64; TF32, which holds every F16 value, for F16;
 * bf16 for the rest. */
enum blas_kind { BLAS_F32, BLAS_TF32, BLAS_BF16, BLAS_F64 };
static enum blas_kind blas_kind(enum lm_math math, enum lm_dtype t)
{
    if (math == LM_MATH_F64)
        return BLAS_F64;
    if (math == LM_MATH_TF32)
        return BLAS_TF32;
    if (math == LM_MATH_BF16)
        return BLAS_BF16;
    return t == LM_F32 || t == LM_F64 ? BLAS_F32 : t == LM_F16 ? BLAS_TF32 : BLAS_BF16;
}

static bool uses_blas(const struct lm_dev *d, size_t n)
{
    return d->f64 || (d->math != LM_MATH_EXACT && n > FEW_TOKENS);
}

/* ---- own kernels */

static int launch(struct lm_dev *d, enum lm_dtype t, mv_args &a, const char *what, struct lm_err *e)
{
    switch (lmc_kind_of(t)) {
    case LMC_PLAIN: return mv_plain_launch(d, t, a, what, e);
    case LMC_CODED: return mv_coded_launch(d, t, a, what, e);
    default: break;
    }
    return d->math == LM_MATH_FAST ? mv_block_int8_launch(d, t, a, what, e) : mv_block_f32_launch(d, t, a, what, e);
}

static uint32_t chunks_of(enum lm_dtype t, uint32_t cols)
{
    return lmc_kind_of(t) == LMC_PLAIN ? (cols + 7) / 8 : cols / LMC_UNIT;
}

static const float *bias_f32(const struct lmc_part *p)
{
    return p->w->bias ? (const float *)p->w->bias + p->row0 : nullptr;
}

static void fill_part(mv_part *p, const struct lmc_part *s, uint32_t chunks)
{
    p->planes = s->w->planes;
    p->first = (size_t)s->row0 * chunks;
    p->out = (float *)s->out;
    p->ld = s->ld;
    p->bias = bias_f32(s);
    p->rows = s->rows;
}

/* Parts [from, to) have one dtype. */
static int own_product(struct lm_dev *d, const struct lmc_job *job, int from, int to, bool pair, struct lm_err *e)
{
    enum lm_dtype t = job->part[from].w->dtype;
    mv_args a = {};

    a.cols = job->cols;
    a.chunks = chunks_of(t, job->cols);
    a.x = (const float *)job->x;
    a.ldx = job->ldx;
    a.n_tokens = (uint32_t)job->n;
    a.pair = pair;
    a.add = job->add;
    a.act = job->act;
    a.n_parts = to - from;
    for (int i = from; i < to; i++) {
        fill_part(&a.part[i - from], &job->part[i], a.chunks);
        a.n_rows += job->part[i].rows;
    }
    return launch(d, t, a, job->part[from].w->tensor->name, e);
}

bool lmc_can_choose(const struct lm_dev *d, const struct lmc_many *m)
{
    return !d->f64 && !d->watch && m->planes != nullptr;
}

int lmc_choose(struct lm_dev *d, const struct lmc_choice *c, struct lm_err *e)
{
    const struct lmc_mat *w = c->w[0]->first;
    mv_args a = {};

    a.cols = w->cols;
    a.chunks = chunks_of(w->dtype, w->cols);
    a.x = c->x;
    a.ldx = c->x_token, a.x_slot = c->x_slot, a.out_slot = c->out_slot;
    a.n_tokens = c->n;
    a.per_token = c->per_token;
    a.select = c->select;
    a.act = c->act;
    a.pair = c->w[1] != nullptr;
    a.n_parts = a.pair ? 2 : 1;
    for (int i = 0; i < a.n_parts; i++) {
        a.part[i].many = c->w[i]->planes;
        a.part[i].bias = (const float *)c->w[i]->bias;
        a.part[i].rows = w->rows;
        a.part[i].out = c->out;
        a.part[i].ld = c->out_token;
    }
    a.n_rows = w->rows * (uint32_t)a.n_parts;
    return launch(d, w->dtype, a, w->tensor->name, e);
}

/* ---- cuBLAS: row-major y [n, rows] = x [n, cols] W' is column-major
 * y (rows x n) = W' (cols x rows, transposed) x (cols x n) */

struct gemm {
    enum blas_kind kind;
    const void *w, *x;
    void *y;
    size_t ldx, ldy, n;
    uint32_t rows, cols;
    bool add;
};

static int gemm(struct lm_dev *d, const struct gemm *g, const char *what, struct lm_err *e)
{
    static const cudaDataType in[] = {CUDA_R_32F, CUDA_R_32F, CUDA_R_16BF, CUDA_R_64F};
    static const cublasComputeType_t compute[] = {CUBLAS_COMPUTE_32F_PEDANTIC, CUBLAS_COMPUTE_32F_FAST_TF32,
                                                  CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_64F};
    const float one = 1, beta = g->add ? 1.0f : 0.0f;
    const double one64 = 1, beta64 = beta;
    bool f64 = g->kind == BLAS_F64;
    cublasStatus_t r = cublasGemmEx(d->blas, CUBLAS_OP_T, CUBLAS_OP_N, (int)g->rows, (int)g->n, (int)g->cols,
                                    f64 ? (const void *)&one64 : &one, g->w, in[g->kind], (int)g->cols, g->x,
                                    in[g->kind], (int)g->ldx, f64 ? (const void *)&beta64 : &beta, g->y,
                                    f64 ? CUDA_R_64F : CUDA_R_32F, (int)g->ldy, compute[g->kind], CUBLAS_GEMM_DEFAULT);
    return r == CUBLAS_STATUS_SUCCESS ? 0 : lmc_blas_failed(e, r, "cublasGemmEx", what);
}

/* Are the stored weights what cuBLAS takes? */
static bool direct(enum lm_dtype t, enum blas_kind kind)
{
    return t == (kind == BLAS_BF16 ? LM_BF16 : kind == BLAS_F64 ? LM_F64 : LM_F32);
}

static int blas_part(struct lm_dev *d, const struct lmc_part *p, struct gemm g, struct lm_err *e)
{
    static const enum lmc_form form[] = {LMC_AS_F32, LMC_AS_F32, LMC_AS_BF16, LMC_AS_F64};
    static const size_t bytes[] = {4, 4, 2, 8};
    const struct lmc_mat *w = p->w;
    size_t elem = bytes[g.kind];

    g.ldy = p->ld;
    if (direct(w->dtype, g.kind)) {
        g.w = w->planes.codes + (size_t)p->row0 * w->cols * elem;
        g.y = p->out;
        g.rows = p->rows;
        return gemm(d, &g, w->tensor->name, e);
    }
    uint32_t step = (uint32_t)(TILE_ELEMS / w->cols < 1 ? 1 : TILE_ELEMS / w->cols);
    step = step < p->rows ? step : p->rows;
    void *tile = lmc_scratch(d, LMC_WEIGHT, step * (size_t)w->cols * elem, e);
    if (!tile)
        return -1;
    for (uint32_t r = 0; r < p->rows; r += step) {
        g.rows = p->rows - r < step ? p->rows - r : step;
        g.w = tile;
        g.y = lmc_at(d, p->out, r);
        if (lmc_decode(d, w, p->row0 + r, g.rows, tile, form[g.kind], e) != 0 || gemm(d, &g, w->tensor->name, e) != 0)
            return -1;
    }
    return 0;
}

/* Without biases. */
static int blas_product(struct lm_dev *d, const struct lmc_job *job, struct lm_err *e)
{
    uint16_t *half = nullptr;

    for (int i = 0; i < job->n_parts; i++) {
        struct gemm g = {blas_kind(d->math, job->part[i].w->dtype), nullptr, job->x, nullptr, job->ldx, 0, job->n, 0,
                         job->cols, job->add};
        if (g.kind == BLAS_BF16 && !half) {
            half = (uint16_t *)lmc_scratch(d, LMC_HALF, job->n * job->cols * sizeof *half, e);
            if (!half || lmc_to_bf16(d, half, (const float *)job->x, job->ldx, job->cols, job->n, e) != 0)
                return -1;
        }
        if (g.kind == BLAS_BF16) {
            g.x = half;
            g.ldx = job->cols;
        }
        if (blas_part(d, &job->part[i], g, e) != 0)
            return -1;
    }
    return 0;
}

/* Whoever watches sees the product's input on the host, as f32. */
static int show(struct lm_dev *d, const struct lmc_job *job, struct lm_err *e)
{
    const struct lm_mat *mats[3];
    const size_t n = (job->n - 1) * job->ldx + job->cols;

    if (!d->watch)
        return 0;
    void *host = malloc(n * d->real);
    if (!host)
        return lm_err_set(e, LM_NOMEM, "cuda: out of memory for the input of a product");
    int rc = lmc_to_host(d, host, job->x, n * d->real, "input of a product", e);
    float *x = (float *)host;
    for (size_t i = 0; d->f64 && i < n; i++)
        x[i] = (float)((const double *)host)[i];
    for (int i = 0; i < job->n_parts; i++)
        mats[i] = job->part[i].w->of;
    if (rc == 0)
        d->watch(d->watch_user, mats, (size_t)job->n_parts, x, job->ldx, job->n);
    free(host);
    return rc;
}

static const void *bias_of(const struct lm_dev *d, const struct lmc_part *p)
{
    return p->w->bias ? lmc_at(d, p->w->bias, p->row0) : nullptr;
}

static int plain_product(struct lm_dev *d, const struct lmc_job *job, struct lm_err *e)
{
    if (uses_blas(d, job->n)) {
        if (blas_product(d, job, e) != 0)
            return -1;
        for (int i = 0; i < job->n_parts; i++) {
            const struct lmc_part *p = &job->part[i];
            if (lmc_bias_act(d, p->out, p->ld, bias_of(d, p), p->rows, job->n, job->act, e) != 0)
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

int lmc_product(struct lm_dev *d, const struct lmc_job *job, struct lm_err *e)
{
    return show(d, job, e) != 0 ? -1 : plain_product(d, job, e);
}

int lmc_gated(struct lm_dev *d, const struct lmc_job *job, void *h, struct lm_err *e)
{
    const struct lmc_part *g = &job->part[0], *u = &job->part[1];
    const void *bg = nullptr, *bu = nullptr;
    struct lmc_job plain = *job;

    if (show(d, job, e) != 0)
        return -1;
    if (!uses_blas(d, job->n) && g->w->dtype == u->w->dtype) {
        plain.part[0].out = h;
        return own_product(d, &plain, 0, 2, true, e);
    }
    plain.act.act = LMC_ACT_NONE;
    if (uses_blas(d, job->n)) { /* biases go with the activation */
        bg = bias_of(d, g);
        bu = bias_of(d, u);
        if (blas_product(d, &plain, e) != 0)
            return -1;
    } else if (plain_product(d, &plain, e) != 0) {
        return -1;
    }
    return lmc_glu(d, h, g->out, u->out, bg, bu, g->rows, job->n, job->act, e);
}
