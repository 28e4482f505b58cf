/* Logits of two models compared where they are: a block a position, the vocabulary
 * never leaves the device.  The same as lm_position_compare (gpu/tally.c), sums in
 * double, in a fixed tree instead of one after the other. */
#include "gpu/compare.h"
#include "gpu/cuda_device.cuh"

#include <math.h>
#include <stdlib.h>

enum { THREADS = 256, WARPS = THREADS / 32, TOP = 5 };

struct compare_args {
    const float *a, *b; /* rows lda, ldb apart */
    size_t lda, ldb;
    uint32_t n_vocab;
    const int32_t *next;
    struct lm_position *out;
};

/* A logit and its id; the better is larger, of equals the smaller id. */
struct best {
    float x;
    uint32_t i;
};

static LMC_DEV bool better(const best &a, const best &b)
{
    return a.i != UINT32_MAX && (b.i == UINT32_MAX || a.x > b.x || (a.x == b.x && a.i < b.i));
}

/* The best of x that is worse than `than`, known to all threads. */
static LMC_DEV best next_best(const float *x, uint32_t n, const best &than, best *warps)
{
    best top = {0, UINT32_MAX};

    for (uint32_t i = threadIdx.x; i < n; i += THREADS) {
        best c = {x[i], i};
        if ((than.i == UINT32_MAX || better(than, c)) && better(c, top) && !(than.i == i))
            top = c;
    }
    for (int o = 16; o > 0; o >>= 1) {
        best other = {__shfl_xor_sync(0xffffffffu, top.x, o), __shfl_xor_sync(0xffffffffu, top.i, o)};
        top = better(other, top) ? other : top;
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        warps[threadIdx.x / 32] = top;
    __syncthreads();
    for (int i = 0; i < WARPS; i++)
        top = better(warps[i], top) ? warps[i] : top;
    return top;
}

/* The larger; a NaN is the largest. */
static LMC_DEV double larger(double a, double b)
{
    return isnan(a) || a >= b ? a : b;
}

static LMC_DEV double block_most(double v, double *warps)
{
    for (int o = 16; o > 0; o >>= 1)
        v = larger(v, __shfl_xor_sync(0xffffffffu, v, o));
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        warps[threadIdx.x / 32] = v;
    __syncthreads();
    v = warps[0];
    for (int i = 1; i < WARPS; i++)
        v = larger(v, warps[i]);
    return v;
}

static __global__ void __launch_bounds__(THREADS) compare(const compare_args k)
{
    __shared__ best tops[WARPS];
    __shared__ double sums[WARPS];
    const float *a = k.a + blockIdx.x * k.lda, *b = k.b + blockIdx.x * k.ldb;
    best ta[TOP], tb[TOP];
    unsigned shared = 0;

#pragma unroll
    for (int i = 0; i < TOP; i++) {
        const best none = {0, UINT32_MAX};
        ta[i] = next_best(a, k.n_vocab, i ? ta[i - 1] : none, tops);
        tb[i] = next_best(b, k.n_vocab, i ? tb[i - 1] : none, tops);
    }
#pragma unroll
    for (int i = 0; i < TOP; i++)
#pragma unroll
        for (int j = 0; j < TOP; j++)
            shared += ta[i].i != UINT32_MAX && ta[i].i == tb[j].i;

    const double max_a = ta[0].x, max_b = tb[0].x;
    double sum_a = 0, sum_b = 0, cross = 0, apart = 0, most = 0;
    for (uint32_t i = threadIdx.x; i < k.n_vocab; i += THREADS) {
        double da = (double)a[i] - max_a, db = (double)b[i] - max_b, pa = exp(da), diff = fabs((double)a[i] - (double)b[i]);
        sum_a += pa;
        sum_b += exp(db);
        if (!(pa <= 0)) /* nothing where a gives nothing; a NaN must show */
            cross += pa * (da - db);
        apart += diff;
        most = larger(most, diff);
    }
    sum_a = lmc_block_sum<WARPS>(sum_a, sums);
    sum_b = lmc_block_sum<WARPS>(sum_b, sums);
    cross = lmc_block_sum<WARPS>(cross, sums);
    apart = lmc_block_sum<WARPS>(apart, sums);
    most = block_most(most, sums);
    if (threadIdx.x != 0)
        return;
    const double log_a = log(sum_a), log_b = log(sum_b), kld = cross / sum_a - log_a + log_b;
    const int32_t next = k.next[blockIdx.x];
    const bool follows = next >= 0 && (uint32_t)next < k.n_vocab;
    struct lm_position &p = k.out[blockIdx.x];
    p.max_abs = most;
    p.mean_abs = apart / k.n_vocab;
    p.kld = kld < 0 ? 0 : kld;
    p.top_a = (int32_t)ta[0].i;
    p.top_b = (int32_t)tb[0].i;
    p.top5 = shared;
    p.nll_a = follows ? log_a - ((double)a[next] - max_a) : (double)NAN;
    p.nll_b = follows ? log_b - ((double)b[next] - max_b) : (double)NAN;
}

#define STEP_BYTES ((size_t)64 << 20)

/* Both devices' logits are in their scratch. */
static int launch(struct lm_dev *a, struct lm_dev *b, size_t n, size_t n_vocab, const int32_t *next, struct lm_position *out,
                  struct lm_err *e)
{
    const size_t bytes = n * sizeof *out;
    uint8_t *p = (uint8_t *)lmc_scratch(a, LMC_PARTS, bytes + n * sizeof *next, e);
    compare_args k = {};

    if (!p)
        return -1;
    k.a = (const float *)a->slots[LMC_LOGITS].p, k.b = (const float *)b->slots[LMC_LOGITS].p;
    k.lda = a->vocab, k.ldb = b->vocab;
    k.n_vocab = (uint32_t)n_vocab;
    k.out = (struct lm_position *)p;
    k.next = (const int32_t *)(p + bytes);
    LMC_TRY(cudaMemcpyAsync(p + bytes, next, n * sizeof *next, cudaMemcpyHostToDevice, a->stream), "next tokens");
    LMC_LAUNCH(compare, dim3((unsigned)n), dim3(THREADS), 0, a->stream, k);
    LMC_LAUNCHED("comparing logits");
    return lmc_to_host(a, out, p, bytes, "comparing logits", e);
}

static int logits_of(struct lm_dev *d, const struct lm_buf *x, size_t first, size_t n, struct lm_err *e)
{
    const struct lmc_op op = {LMC_OP_LOGITS, 0, (struct lm_buf *)x, nullptr, nullptr, n, first, 0};

    if (lmc_flush(d, e) != 0 || lmc_check_op(d, &op, 0, e) != 0 || lmc_run_op(d, &op, {0, nullptr}, nullptr, e) != 0)
        return -1;
    return lmc_sync(d, e);
}

int lmc_compare(struct lm_dev *a, const struct lm_buf *xa, size_t first_a, struct lm_dev *b, const struct lm_buf *xb,
                size_t first_b, size_t n, size_t n_vocab, const int32_t *next, struct lm_position *out, struct lm_err *e)
{
    const size_t wide = a->vocab > b->vocab ? a->vocab : b->vocab, fit = STEP_BYTES / (wide * sizeof(float));
    const size_t step = fit ? fit : 1;

    if (a->f64 || b->f64 || a->ordinal != b->ordinal || a == b || n_vocab == 0 || n_vocab > a->vocab || n_vocab > b->vocab)
        return 1;
    for (size_t i = 0, here; i < n; i += here) {
        here = n - i < step ? n - i : step;
        if (logits_of(a, xa, first_a + i, here, e) != 0 || logits_of(b, xb, first_b + i, here, e) != 0 ||
            launch(a, b, here, n_vocab, next + i, out + i, e) != 0)
            return -1;
    }
    return 0;
}
