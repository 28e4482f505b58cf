/* Norms, the residual stream, activations, conversions. */
#include "gpu/cuda_base.cuh"

enum { THREADS = 256 };

/* ---- norms: a block of threads a token, sums in a fixed tree */

template <class T> static LMC_DEV T block_sum(T v)
{
    __shared__ T warps[THREADS / 32];

    return lmc_block_sum<THREADS / 32>(v, warps);
}

/* Mean and factor of a row. */
template <class T> static LMC_DEV void row_scale(const T *x, uint32_t width, enum lm_norm kind, T eps, T *mean, T *scale)
{
    T sum = 0;

    *mean = 0;
    if (kind == LM_NORM_LAYER) {
        for (uint32_t i = threadIdx.x; i < width; i += THREADS)
            sum += x[i];
        *mean = block_sum(sum) / (T)width;
        sum = 0;
    }
    for (uint32_t i = threadIdx.x; i < width; i += THREADS)
        sum += (x[i] - *mean) * (x[i] - *mean);
    *scale = T(1) / lmc_sqrt(block_sum(sum) / (T)width + eps);
}

/* In place too: a thread writes what only it reads. */
template <class T>
static __global__ void norm(enum lm_norm kind, T eps, const T *in, size_t ldx, const T *w, const T *b, uint32_t width,
                            T *out, size_t ldy)
{
    const T *x = in + blockIdx.x * ldx;
    T *y = out + blockIdx.x * ldy;
    T mean, scale;

    row_scale(x, width, kind, eps, &mean, &scale);
    for (uint32_t i = threadIdx.x; i < width; i += THREADS) {
        T v = (x[i] - mean) * scale * w[i];
        y[i] = b ? v + b[i] : v;
    }
}

template <class T>
static void launch_norm(struct lm_dev *d, const void *x, size_t ldx, const struct lm_vec *w, const struct lm_vec *b,
                        uint32_t width, size_t n, void *out)
{
    const struct lm_config *c = &d->net->config;
    LMC_LAUNCH(norm<T>, dim3((unsigned)n), dim3(THREADS), 0, d->stream, c->arch->norm, (T)c->norm_eps, (const T *)x, ldx,
               (const T *)w->handle, b ? (const T *)b->handle : nullptr, width, (T *)out, out == x ? ldx : width);
}

int lmc_norm(struct lm_dev *d, const void *x, size_t ldx, const struct lm_vec *w, const struct lm_vec *b, uint32_t width,
             size_t n, void *out, struct lm_err *e)
{
    if (d->f64)
        launch_norm<double>(d, x, ldx, w, b, width, n, out);
    else
        launch_norm<float>(d, x, ldx, w, b, width, n, out);
    LMC_LAUNCHED("norm");
    return 0;
}

template <class T>
static __global__ void join(T *x, const T *y, const T *post, enum lm_norm kind, T eps, T factor, uint32_t width)
{
    const T *from = y + (size_t)blockIdx.x * width;
    T *to = x + (size_t)blockIdx.x * width, mean = 0, scale = 1;

    if (post)
        row_scale(from, width, kind, eps, &mean, &scale);
    for (uint32_t i = threadIdx.x; i < width; i += THREADS) {
        T v = from[i];
        to[i] += factor * (post ? (v - mean) * scale * post[i] : v);
    }
}

template <class T> static void launch_join(struct lm_dev *d, void *x, const void *y, const struct lm_vec *post, size_t n)
{
    const struct lm_config *c = &d->net->config;
    T factor = c->residual_scale > 0 ? (T)c->residual_scale : T(1);
    LMC_LAUNCH(join<T>, dim3((unsigned)n), dim3(THREADS), 0, d->stream, (T *)x, (const T *)y, (const T *)post->handle,
               c->arch->norm, (T)c->norm_eps, factor, d->d);
}

int lmc_join(struct lm_dev *d, void *x, const void *y, const struct lm_vec *post, size_t n, struct lm_err *e)
{
    if (d->f64)
        launch_join<double>(d, x, y, post, n);
    else
        launch_join<float>(d, x, y, post, n);
    LMC_LAUNCHED("residual");
    return 0;
}

/* ---- element by element */

static unsigned grid_for(size_t n)
{
    size_t blocks = (n + THREADS - 1) / THREADS;
    return (unsigned)(blocks < 65535 ? blocks : 65535);
}
#define EACH(i, n) for (size_t i = blockIdx.x * (size_t)THREADS + threadIdx.x; i < (n); i += (size_t)gridDim.x * THREADS)

template <class T>
static __global__ void bias_act(T *y, size_t ld, const T *bias, uint32_t rows, size_t n, struct lmc_act_spec act)
{
    EACH(i, n) {
        size_t at = i / rows * ld + i % rows;
        y[at] = lmc_activate(bias ? y[at] + bias[i % rows] : y[at], act);
    }
}

int lmc_bias_act(struct lm_dev *d, void *y, size_t ld, const void *bias, uint32_t rows, size_t n,
                 struct lmc_act_spec act, struct lm_err *e)
{
    size_t all = rows * n;

    if (!bias && act.act == LMC_ACT_NONE)
        return 0;
    if (d->f64)
        LMC_LAUNCH(bias_act<double>, dim3(grid_for(all)), dim3(THREADS), 0, d->stream, (double *)y, ld,
                   (const double *)bias, rows, all, act);
    else
        LMC_LAUNCH(bias_act<float>, dim3(grid_for(all)), dim3(THREADS), 0, d->stream, (float *)y, ld,
                   (const float *)bias, rows, all, act);
    LMC_LAUNCHED("bias");
    return 0;
}

template <class T>
static __global__ void glu(T *h, const T *g, const T *u, const T *bg, const T *bu, uint32_t rows, size_t n,
                           struct lmc_act_spec act)
{
    EACH(i, n) {
        T a = bg ? g[i] + bg[i % rows] : g[i], b = bu ? u[i] + bu[i % rows] : u[i];
        h[i] = lmc_gate(a, b, act);
    }
}

template <class T>
static void launch_glu(struct lm_dev *d, void *h, const void *g, const void *u, const void *bg, const void *bu,
                       uint32_t rows, size_t n, struct lmc_act_spec act)
{
    LMC_LAUNCH(glu<T>, dim3(grid_for(rows * n)), dim3(THREADS), 0, d->stream, (T *)h, (const T *)g, (const T *)u,
               (const T *)bg, (const T *)bu, rows, rows * n, act);
}

int lmc_glu(struct lm_dev *d, void *h, const void *g, const void *u, const void *bg, const void *bu, uint32_t rows,
            size_t n, struct lmc_act_spec act, struct lm_err *e)
{
    if (d->f64)
        launch_glu<double>(d, h, g, u, bg, bu, rows, n, act);
    else
        launch_glu<float>(d, h, g, u, bg, bu, rows, n, act);
    LMC_LAUNCHED("gate");
    return 0;
}

static __global__ void to_bf16(uint16_t *dst, const float *src, size_t ld, uint32_t cols, size_t n)
{
    EACH(i, n) dst[i] = lmc_to_bf16(src[i / cols * ld + i % cols]);
}

int lmc_to_bf16(struct lm_dev *d, uint16_t *dst, const float *src, size_t ld, uint32_t cols, size_t n, struct lm_err *e)
{
    LMC_LAUNCH(to_bf16, dim3(grid_for(cols * n)), dim3(THREADS), 0, d->stream, dst, src, ld, cols, cols * n);
    LMC_LAUNCHED("bf16");
    return 0;
}

template <class T> static __global__ void finish(T *x, size_t n, T divisor, T cap)
{
    EACH(i, n) {
        T v = divisor > T(0) ? x[i] / divisor : x[i];
        x[i] = cap > T(0) ? cap * lmc_tanh(v / cap) : v;
    }
}

int lmc_finish(struct lm_dev *d, void *logits, size_t n, struct lm_err *e)
{
    const struct lm_config *c = &d->net->config;
    double divisor = c->logit_divisor == 1 ? 0 : c->logit_divisor, cap = c->final_softcap;

    if (divisor <= 0 && cap <= 0)
        return 0;
    if (d->f64)
        LMC_LAUNCH(finish<double>, dim3(grid_for(n)), dim3(THREADS), 0, d->stream, (double *)logits, n, divisor, cap);
    else
        LMC_LAUNCH(finish<float>, dim3(grid_for(n)), dim3(THREADS), 0, d->stream, (float *)logits, n, (float)divisor,
                   (float)cap);
    LMC_LAUNCHED("logits");
    return 0;
}
