/* struct lm_quantizer: rows to the device, blocks back.  Several threads may ask
 * at once: each takes a lane (a stream with buffers of its own), so that copies
 * of one overlap with the kernels of another. */
#include "gpu/cuda_device.cuh"
#include "gpu/cuda_quant.cuh"
#include "gpu/cuda_quantizer.cuh"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { LANES = 4 };
#define PIECE_ELEMS ((size_t)4 << 20) /* at a time, unless one row is longer */

struct lane {
    cudaStream_t stream;
    float *host_in, *in, *weights, *spread;
    uint8_t *host_out, *out;
    size_t elems, rows; /* what the buffers hold */
    size_t n_weights;
    bool busy;
};

struct lm_quantizer_dev {
    int ordinal;
    char name[256];
    pthread_mutex_t lock;
    pthread_cond_t freed;
    struct lane lanes[LANES];
};

/* ---- lanes */

static void drop(struct lane *l)
{
    cudaFreeHost(l->host_in);
    cudaFreeHost(l->host_out);
    for (void *p : {(void *)l->in, (void *)l->weights, (void *)l->spread, (void *)l->out})
        cudaFree(p);
    l->host_in = l->in = l->weights = l->spread = nullptr;
    l->host_out = l->out = nullptr;
    l->elems = l->rows = l->n_weights = 0;
}

/* No block type takes more than an f16 with as many bytes as elements, and some. */
static size_t out_bytes(size_t elems)
{
    return elems + elems / 8;
}

static int fill(struct lane *l, size_t elems, size_t rows, size_t n_weights, struct lm_err *e)
{
    if (!l->stream)
        LMC_TRY(cudaStreamCreateWithFlags(&l->stream, cudaStreamNonBlocking), "quantizer");
    if (l->elems >= elems && l->rows >= rows && l->n_weights >= n_weights)
        return 0;
    drop(l);
    LMC_TRY(cudaMallocHost((void **)&l->host_in, elems * sizeof(float)), "quantizer's pinned memory");
    LMC_TRY(cudaMallocHost((void **)&l->host_out, out_bytes(elems)), "quantizer's pinned memory");
    if (lmc_malloc((void **)&l->in, elems * sizeof(float), "quantizer", e) != 0 ||
        lmc_malloc((void **)&l->out, out_bytes(elems), "quantizer", e) != 0 ||
        lmc_malloc((void **)&l->spread, rows * sizeof(float), "quantizer", e) != 0 ||
        lmc_malloc((void **)&l->weights, n_weights * sizeof(float), "quantizer", e) != 0)
        return -1;
    l->elems = elems;
    l->rows = rows;
    l->n_weights = n_weights;
    return 0;
}

static struct lane *take(struct lm_quantizer_dev *d)
{
    struct lane *found = nullptr;

    pthread_mutex_lock(&d->lock);
    while (!found) {
        for (struct lane &l : d->lanes)
            if (!l.busy && !found)
                found = &l;
        if (!found)
            pthread_cond_wait(&d->freed, &d->lock);
    }
    found->busy = true;
    pthread_mutex_unlock(&d->lock);
    return found;
}

static void give(struct lm_quantizer_dev *d, struct lane *l)
{
    pthread_mutex_lock(&d->lock);
    l->busy = false;
    pthread_cond_signal(&d->freed);
    pthread_mutex_unlock(&d->lock);
}

/* ---- the table */

static int open_quantizer(struct lm_quantizer_dev **out, int ordinal, struct lm_err *e)
{
    struct cudaDeviceProp prop;
    int n = lmc_n_devices(e);

    if (n < 0)
        return -1;
    if (ordinal < 0 || ordinal >= n)
        return lm_err_set(e, LM_MISSING, "cuda: no device %d to quantize on, this machine has %d", ordinal, n);
    LMC_TRY(cudaGetDeviceProperties(&prop, ordinal), "reading the device");
    struct lm_quantizer_dev *d = (struct lm_quantizer_dev *)calloc(1, sizeof *d);
    if (!d)
        return lm_err_set(e, LM_NOMEM, "cuda: out of memory");
    d->ordinal = ordinal;
    snprintf(d->name, sizeof d->name, "%s", prop.name);
    pthread_mutex_init(&d->lock, nullptr);
    pthread_cond_init(&d->freed, nullptr);
    *out = d;
    return 0;
}

static void close_quantizer(struct lm_quantizer_dev *d)
{
    if (!d)
        return;
    cudaSetDevice(d->ordinal);
    for (struct lane &l : d->lanes) {
        if (!l.stream)
            continue;
        cudaStreamSynchronize(l.stream);
        drop(&l);
        cudaStreamDestroy(l.stream);
    }
    pthread_cond_destroy(&d->freed);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

static void describe(const struct lm_quantizer_dev *d, char *buf, size_t size)
{
    snprintf(buf, size, "%s", d->name);
}

static bool is_legacy(enum lm_dtype t)
{
    return t == LM_Q4_0 || t == LM_Q4_1 || t == LM_Q5_0 || t == LM_Q5_1 || t == LM_Q8_0;
}

static bool can(const struct lm_quantizer_dev *, enum lm_dtype to, bool weighted)
{
    bool k = to == LM_Q2_K || to == LM_Q3_K || to == LM_Q4_K || to == LM_Q5_K || to == LM_Q6_K;
    return k || (is_legacy(to) && !(weighted && to == LM_Q8_0));
}

/* A run of rows that fits the lane; weights are on the device already. */
static int encode_rows(struct lane *l, enum lm_dtype to, uint8_t *dst, const float *src, bool weighted, size_t n_per_row,
                       size_t n_rows, struct lm_err *e)
{
    const size_t n = n_per_row * n_rows, bytes = lm_dtype_bytes(to, n);
    const struct lmc_encode a = {l->in, weighted ? l->weights : nullptr, l->spread, n_per_row, n_rows, l->out};

    memcpy(l->host_in, src, n * sizeof *src);
    LMC_TRY(cudaMemcpyAsync(l->in, l->host_in, n * sizeof *src, cudaMemcpyHostToDevice, l->stream), "rows to quantize");
    if ((is_legacy(to) ? lmc_encode_legacy(to, &a, l->stream, e) : lmc_encode_k(to, &a, l->stream, e)) != 0)
        return -1;
    LMC_TRY(cudaMemcpyAsync(l->host_out, l->out, bytes, cudaMemcpyDeviceToHost, l->stream), "quantized rows");
    LMC_TRY(cudaStreamSynchronize(l->stream), "quantizing");
    memcpy(dst, l->host_out, bytes);
    return 0;
}

/* Rows that are blocks apart of one long row, where no weights tie them to columns. */
static void cut(enum lm_dtype to, bool weighted, size_t *n_per_row, size_t *n_rows)
{
    const size_t block = lm_dtype_info(to)->block_elems;

    if (weighted)
        return;
    *n_rows = *n_rows * *n_per_row / block;
    *n_per_row = block;
}

static int encode_on(struct lane *l, enum lm_dtype to, uint8_t *dst, const float *src, const float *weights,
                     size_t n_per_row, size_t n_rows, struct lm_err *e)
{
    cut(to, weights != nullptr, &n_per_row, &n_rows);
    size_t at_once = PIECE_ELEMS / n_per_row ? PIECE_ELEMS / n_per_row : 1;
    at_once = at_once < n_rows ? at_once : n_rows;
    if (fill(l, at_once * n_per_row, at_once, weights ? n_per_row : 1, e) != 0)
        return -1;
    if (weights)
        LMC_TRY(cudaMemcpyAsync(l->weights, weights, n_per_row * sizeof *weights, cudaMemcpyHostToDevice, l->stream),
                "importance");
    for (size_t r = 0; r < n_rows; r += at_once) {
        size_t n = n_rows - r < at_once ? n_rows - r : at_once;
        if (encode_rows(l, to, dst + lm_dtype_bytes(to, r * n_per_row), src + r * n_per_row, weights != nullptr, n_per_row,
                        n, e) != 0)
            return -1;
    }
    return 0;
}

static int encode(struct lm_quantizer_dev *d, enum lm_dtype to, void *dst, const float *src, const float *weights,
                  size_t n_per_row, size_t n_rows, struct lm_err *e)
{
    if (!can(d, to, weights != nullptr))
        return lm_err_set(e, LM_UNSUPPORTED, "cuda: no quantizer for %s", lm_dtype_name(to));
    if (n_rows == 0)
        return 0;
    LMC_TRY(cudaSetDevice(d->ordinal), "quantizing");
    struct lane *l = take(d);
    int rc = encode_on(l, to, (uint8_t *)dst, src, weights, n_per_row, n_rows, e);
    give(d, l);
    return rc;
}

const struct lm_quantizer lmc_quantizer = {"cuda", open_quantizer, close_quantizer, describe, can, encode};
