/* What attention's kernels share: where queries, keys and values are, what a
 * score becomes before the softmax, and how results of runs of keys are joined. */
#ifndef GPU_CUDA_ATTEND_CUH
#define GPU_CUDA_ATTEND_CUH

#include "gpu/cuda_base.cuh"

template <class T> struct attend_args {
    const T *q, *k, *v; /* q [n, n_heads, d_k]; k, v: [pos][n_kv_heads * width] of one layer */
    T *out;             /* [n, n_heads, d_v] */
    T *parts;           /* decode: [n_heads][n_splits][d_v + 2]: o, m, l */
    const T *sinks;     /* [n_heads] or NULL */
    const float *slopes; /* ALiBi */
    size_t k_row, v_row; /* from position to position */
    uint32_t n, n_heads, n_kv_heads, d_k, d_v, window;
    uint32_t n_splits;  /* decode: that parts has room for */
    struct lmc_pos pos0;
    T scale, cap;       /* cap 0: none */
};

template <class T> attend_args<T> lmc_attend_args(const struct lm_dev *d, const struct lmc_attend *x)
{
    attend_args<T> a = {};

    a.q = (const T *)x->q, a.k = (const T *)x->k, a.v = (const T *)x->v, a.out = (T *)x->out;
    a.sinks = (const T *)x->layer->sinks.handle;
    a.slopes = d->slopes;
    a.k_row = d->k_row, a.v_row = d->v_row;
    a.n = (uint32_t)x->n;
    a.n_heads = d->net->config.n_heads, a.n_kv_heads = d->net->n_kv;
    a.d_k = d->d_k, a.d_v = d->d_v;
    a.window = x->layer->window;
    a.pos0 = x->pos0;
    a.scale = (T)lm_config_attn_scale(&d->net->config);
    a.cap = (T)d->net->config.attn_softcap;
    return a;
}

/* First key that the query at pos sees. */
static __host__ __device__ __forceinline__ uint32_t lmc_first_key(uint32_t window, uint32_t pos)
{
    return window && pos >= window ? pos - window + 1 : 0;
}

/* A product of query and key as the softmax takes it. ALiBi's slope and distance
 * are rounded to bf16, their product too (see gpu/mechanics.h). */
template <class T> LMC_DEV T lmc_score(const attend_args<T> &a, uint32_t head, uint32_t key, T product)
{
    T s = product * a.scale;
    if (a.cap > T(0))
        s = a.cap * lmc_tanh(s / a.cap);
    if (a.slopes) {
        float bias = lmc_mul(a.slopes[head], lmc_bf16(lmc_to_bf16((float)key)));
        s += (T)lmc_bf16(lmc_to_bf16(bias)) * a.scale;
    }
    return s;
}

/* Running result of a row: joins one more run of keys. factor_old and factor_new
 * multiply what was there and what comes. */
LMC_DEV void lmc_join_runs(float *m_all, float *l_all, float m, float l, float *factor_old, float *factor_new)
{
    float top = fmaxf(*m_all, m);
    *factor_old = *m_all == -INFINITY ? 0.0f : expf(*m_all - top);
    *factor_new = m == -INFINITY ? 0.0f : expf(m - top);
    *l_all = lmc_fma(l, *factor_new, lmc_mul(*l_all, *factor_old));
    *m_all = top;
}

/* What a head's sink leaves of a result: 1 / the whole sum, in terms of o. */
LMC_DEV float lmc_close_row(const attend_args<float> &a, uint32_t head, float m, float l)
{
    float old = 1, fresh;
    if (a.sinks)
        lmc_join_runs(&m, &l, a.sinks[head], 1, &old, &fresh);
    return old / l;
}

/* The exact kernels, one for a token and one for many (cuda_attend_exact.cu). */
int lmc_attend_one(struct lm_dev *d, attend_args<float> *a, struct lm_err *e);
int lmc_attend_many(struct lm_dev *d, const attend_args<float> *a, struct lm_err *e);
/* TF32 on tensor cores (cuda_flash.cu). */
bool lmc_can_flash(const struct lm_dev *d, const attend_args<float> *a);
int lmc_flash(struct lm_dev *d, const attend_args<float> *a, struct lm_err *e);

#endif
