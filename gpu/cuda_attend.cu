/* Which attention kernel for what; attention in double, and probabilities for
 * people, by whole rows of scores. */
#include "gpu/cuda_attend.cuh"

#include <math.h>
#include <stdlib.h>

enum { THREADS = 128, WARPS = THREADS / 32, FLASH_QUERIES = 32 };
#define SCORE_BYTES ((size_t)256 << 20)

template <class T> static LMC_DEV T block_max(T v, T *warps)
{
    v = lmc_warp_max(v);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        warps[threadIdx.x / 32] = v;
    __syncthreads();
    for (int i = 0; i < WARPS; i++)
        v = warps[i] > v ? warps[i] : v;
    return v;
}

/* A block a (query, head): probabilities of the n_keys keys, zero where nothing is seen. Queries from query0 on. */
template <class T> static __global__ void weigh(const attend_args<T> a, T *rows, uint32_t query0, uint32_t n_keys)
{
    __shared__ T warps[WARPS];
    const uint32_t query = query0 + blockIdx.x, head = blockIdx.y, kv_head = head / (a.n_heads / a.n_kv_heads);
    const uint32_t pos = lmc_pos_of(a.pos0) + query, first = lmc_first_key(a.window, pos);
    const T *q = a.q + ((size_t)query * a.n_heads + head) * a.d_k;
    T *s = rows + ((size_t)blockIdx.x * a.n_heads + head) * n_keys, top = a.sinks ? a.sinks[head] : T(-INFINITY), sum = 0;

    for (uint32_t j = first + threadIdx.x; j <= pos; j += THREADS) {
        const T *k = a.k + j * a.k_row + (size_t)kv_head * a.d_k;
        T dot = 0;
        for (uint32_t c = 0; c < a.d_k; c++)
            dot += q[c] * k[c];
        s[j] = lmc_score(a, head, j, dot);
        top = s[j] > top ? s[j] : top;
    }
    top = block_max(top, warps);
    for (uint32_t j = first + threadIdx.x; j <= pos; j += THREADS)
        sum += s[j] = lmc_exp(s[j] - top);
    sum = lmc_block_sum<WARPS>(sum, warps);
    if (a.sinks)
        sum += lmc_exp(a.sinks[head] - top);
    for (uint32_t j = threadIdx.x; j < n_keys; j += THREADS)
        s[j] = j >= first && j <= pos ? s[j] / sum : T(0);
}

template <class T> static __global__ void mix(const attend_args<T> a, const T *rows, uint32_t query0, uint32_t n_keys)
{
    const uint32_t query = query0 + blockIdx.x, head = blockIdx.y, kv_head = head / (a.n_heads / a.n_kv_heads);
    const uint32_t pos = lmc_pos_of(a.pos0) + query, first = lmc_first_key(a.window, pos);
    const T *p = rows + ((size_t)blockIdx.x * a.n_heads + head) * n_keys;
    T *out = a.out + ((size_t)query * a.n_heads + head) * a.d_v;

    for (uint32_t c = threadIdx.x; c < a.d_v; c += THREADS) {
        T sum = 0;
        for (uint32_t j = first; j <= pos; j++)
            sum += p[j] * a.v[j * a.v_row + (size_t)kv_head * a.d_v + c];
        out[c] = sum;
    }
}

static int attend_f64(struct lm_dev *d, const attend_args<double> *a, struct lm_err *e)
{
    const uint32_t n_keys = a->pos0.given + a->n;
    size_t row = (size_t)a->n_heads * n_keys * sizeof(double);
    uint32_t step = (uint32_t)(SCORE_BYTES / row);
    step = step < 1 ? 1 : step < a->n ? step : a->n;
    double *rows = (double *)lmc_scratch(d, LMC_PARTS, step * row, e);

    if (!rows)
        return -1;
    for (uint32_t i = 0; i < a->n; i += step) {
        uint32_t n = a->n - i < step ? a->n - i : step;
        LMC_LAUNCH(weigh<double>, dim3(n, a->n_heads), dim3(THREADS), 0, d->stream, *a, rows, i, n_keys);
        LMC_LAUNCH(mix<double>, dim3(n, a->n_heads), dim3(THREADS), 0, d->stream, *a, rows, i, n_keys);
    }
    LMC_LAUNCHED("attention");
    return 0;
}

int lmc_attend(struct lm_dev *d, const struct lmc_attend *x, struct lm_err *e)
{
    if (d->f64) {
        attend_args<double> a = lmc_attend_args<double>(d, x);
        return attend_f64(d, &a, e);
    }
    attend_args<float> a = lmc_attend_args<float>(d, x);
    if (a.n == 1)
        return lmc_attend_one(d, &a, e);
    if (d->math != LM_MATH_EXACT && a.n >= FLASH_QUERIES && lmc_can_flash(d, &a))
        return lmc_flash(d, &a, e);
    return lmc_attend_many(d, &a, e);
}

/* ---- probabilities of the last query */

template <class T> static int probs_of(struct lm_dev *d, const struct lmc_attend *x, void *host, struct lm_err *e)
{
    attend_args<T> a = lmc_attend_args<T>(d, x);
    const uint32_t n_keys = a.pos0.given + a.n;
    size_t n = (size_t)a.n_heads * n_keys;
    T *rows = (T *)lmc_scratch(d, LMC_PARTS, n * sizeof(T), e);

    if (!rows)
        return -1;
    LMC_LAUNCH(weigh<T>, dim3(1, a.n_heads), dim3(THREADS), 0, d->stream, a, rows, a.n - 1, n_keys);
    LMC_LAUNCHED("attention probabilities");
    return lmc_to_host(d, host, rows, n * sizeof(T), "reading attention probabilities", e);
}

int lmc_probs(struct lm_dev *d, const struct lmc_attend *x, float *host, struct lm_err *e)
{
    size_t n = d->net->config.n_heads * (x->pos0.given + x->n);
    double *wide;

    if (!d->f64)
        return probs_of<float>(d, x, host, e);
    wide = (double *)malloc(n * sizeof *wide);
    int rc = wide ? probs_of<double>(d, x, wide, e) : lm_err_set(e, LM_NOMEM, "cuda: out of memory");
    for (size_t i = 0; rc == 0 && i < n; i++)
        host[i] = (float)wide[i];
    free(wide);
    return rc;
}
