/* Memory on the device: scratch, activations, KV caches; and errors. */
#include "gpu/cuda_device.cuh"

#include <stdio.h>
#include <stdlib.h>

int lmc_failed(struct lm_err *e, cudaError_t r, const char *call, const char *what)
{
    int n = (int)strcspn(call, "(");
    cudaGetLastError(); /* a failed call must not be found again by the next check */
    return lm_err_set(e, r == cudaErrorMemoryAllocation ? LM_NOMEM : LM_IO, "cuda: %s: %.*s: %s (%s)", what, n, call,
                      cudaGetErrorString(r), cudaGetErrorName(r));
}

int lmc_blas_failed(struct lm_err *e, cublasStatus_t r, const char *call, const char *what)
{
    return lm_err_set(e, r == CUBLAS_STATUS_ALLOC_FAILED ? LM_NOMEM : LM_IO, "cuda: %s: %s: %s", what, call,
                      cublasGetStatusString(r));
}

int lmc_malloc(void **out, size_t bytes, const char *what, struct lm_err *e)
{
    cudaError_t r = cudaMalloc(out, bytes ? bytes : 1);
    if (r == cudaSuccess)
        return 0;
    *out = nullptr;
    if (r != cudaErrorMemoryAllocation)
        return lmc_failed(e, r, "cudaMalloc", what);
    size_t free_bytes = 0, total = 0;
    cudaGetLastError();
    cudaMemGetInfo(&free_bytes, &total);
    return lm_err_set(e, LM_NOMEM,
                      "cuda: %s needs %zu bytes on the device, %zu of %zu are free: use a smaller type, a shorter context, or --device cpu",
                      what, bytes, free_bytes, total);
}

void *lmc_own(struct lm_dev *d, size_t bytes, const char *what, struct lm_err *e)
{
    if (d->n_owned % 64 == 0) {
        void **grown = (void **)realloc(d->owned, (d->n_owned / 64 + 1) * 64 * sizeof *grown);
        if (!grown) {
            lm_err_set(e, LM_NOMEM, "cuda: out of memory for the list of allocations");
            return nullptr;
        }
        d->owned = grown;
    }
    if (lmc_malloc(&d->owned[d->n_owned], bytes, what, e) != 0)
        return nullptr;
    return d->owned[d->n_owned++];
}

void *lmc_scratch(struct lm_dev *d, enum lmc_slot slot, size_t bytes, struct lm_err *e)
{
    static const char *const names[LMC_N_SLOTS] = {
        "scratch for norms", "scratch for queries and keys", "scratch for a half of a layer", "scratch for the gate",
        "scratch for the FFN", "scratch for bf16 activations", "scratch for decoded weights", "scratch for logits",
        "scratch for attention", "scratch for ids", "scratch for the choice of experts", "scratch for experts",
        "scratch for the shared expert"};
    struct lmc_scratch *s = &d->slots[slot];

    if (s->bytes >= bytes)
        return s->p;
    cudaStreamSynchronize(d->stream); /* queued work may still use the old one */
    cudaFree(s->p);
    s->p = nullptr;
    s->bytes = 0;
    d->epoch++;
    if (lmc_malloc(&s->p, bytes, names[slot], e) != 0)
        return nullptr;
    s->bytes = bytes;
    return s->p;
}

void *lmc_reals(struct lm_dev *d, enum lmc_slot slot, size_t n, struct lm_err *e)
{
    return lmc_scratch(d, slot, n * d->real, e);
}

int lmc_to_host(struct lm_dev *d, void *host, const void *dev, size_t bytes, const char *what, struct lm_err *e)
{
    LMC_TRY(cudaMemcpyAsync(host, dev, bytes, cudaMemcpyDeviceToHost, d->stream), what);
    LMC_TRY(cudaStreamSynchronize(d->stream), what);
    return 0;
}

/* n activations to host floats. */
static int reals_to_host(struct lm_dev *d, float *host, const void *dev, size_t n, const char *what, struct lm_err *e)
{
    if (!d->f64)
        return lmc_to_host(d, host, dev, n * sizeof *host, what, e);
    double *wide = (double *)malloc(n * sizeof *wide);
    int rc = wide ? lmc_to_host(d, wide, dev, n * sizeof *wide, what, e) : lm_err_set(e, LM_NOMEM, "cuda: out of memory");
    for (size_t i = 0; rc == 0 && i < n; i++)
        host[i] = (float)wide[i];
    free(wide);
    return rc;
}

/* ---- activations */

int lmc_buf_new(struct lm_buf **out, struct lm_dev *d, size_t n_floats, struct lm_err *e)
{
    struct lm_buf *b = (struct lm_buf *)calloc(1, sizeof *b);

    if (!b)
        return lm_err_set(e, LM_NOMEM, "cuda: out of memory");
    b->n = n_floats;
    if (cudaSetDevice(d->ordinal) != cudaSuccess ||
        lmc_malloc(&b->data, n_floats * d->real, "buffer of activations", e) != 0) {
        free(b);
        return -1;
    }
    *out = b;
    return 0;
}

void lmc_buf_free(struct lm_dev *d, struct lm_buf *b)
{
    if (!b)
        return;
    cudaStreamSynchronize(d->stream);
    cudaFree(b->data);
    free(b);
}

static int check_range(const struct lm_buf *b, size_t first, size_t n, struct lm_err *e)
{
    if (first <= b->n && n <= b->n - first)
        return 0;
    return lm_err_set(e, LM_USAGE, "cuda: values %zu to %zu of a buffer of %zu", first, first + n, b->n);
}

int lmc_buf_read(struct lm_dev *d, const struct lm_buf *b, size_t first, size_t n, float *host, struct lm_err *e)
{
    return check_range(b, first, n, e) != 0 ? -1
                                            : reals_to_host(d, host, lmc_at(d, b->data, first), n, "reading activations", e);
}

int lmc_buf_write(struct lm_dev *d, struct lm_buf *b, size_t first, size_t n, const float *host, struct lm_err *e)
{
    if (check_range(b, first, n, e) != 0)
        return -1;
    double *wide = d->f64 ? (double *)malloc(n * sizeof *wide) : nullptr;
    for (size_t i = 0; wide && i < n; i++)
        wide[i] = (double)host[i];
    cudaError_t r = d->f64 && !wide ? cudaErrorMemoryAllocation
                                    : cudaMemcpyAsync(lmc_at(d, b->data, first), wide ? (const void *)wide : host, n * d->real,
                                                      cudaMemcpyHostToDevice, d->stream);
    if (r == cudaSuccess)
        r = cudaStreamSynchronize(d->stream);
    free(wide);
    return r == cudaSuccess ? 0 : lmc_failed(e, r, "cudaMemcpyAsync", "writing activations");
}

/* Not from a place onto itself: runs of rows do not overlap. */
int lmc_buf_move(struct lm_dev *d, struct lm_buf *b, size_t to, size_t from, size_t n, struct lm_err *e)
{
    if (check_range(b, from, n, e) != 0 || check_range(b, to, n, e) != 0)
        return -1;
    LMC_TRY(cudaMemcpyAsync(lmc_at(d, b->data, to), lmc_at(d, b->data, from), n * d->real, cudaMemcpyDeviceToDevice,
                            d->stream),
            "moving activations");
    return 0;
}

/* ---- KV caches */

void lmc_kv_free(struct lm_dev *d, struct lm_kv *kv)
{
    if (!kv)
        return;
    cudaStreamSynchronize(d->stream);
    cudaFree(kv->k);
    if (kv->v != kv->k)
        cudaFree(kv->v);
    free(kv);
}

static int kv_fill(struct lm_dev *d, struct lm_kv *kv, struct lm_err *e)
{
    LMC_TRY(cudaSetDevice(d->ordinal), "KV cache");
    if (lmc_malloc(&kv->k, lmc_cache_bytes(d, false), "KV cache", e) != 0)
        return -1;
    LMC_TRY(cudaMemsetAsync(kv->k, 0, lmc_cache_bytes(d, false), d->stream), "KV cache");
    if (d->net->config.kv_lora) { /* values are the head of the keys */
        kv->v = kv->k;
        return 0;
    }
    if (lmc_malloc(&kv->v, lmc_cache_bytes(d, true), "KV cache", e) != 0)
        return -1;
    LMC_TRY(cudaMemsetAsync(kv->v, 0, lmc_cache_bytes(d, true), d->stream), "KV cache");
    return 0;
}

int lmc_kv_new(struct lm_kv **out, struct lm_dev *d, struct lm_err *e)
{
    struct lm_kv *kv = (struct lm_kv *)calloc(1, sizeof *kv);

    if (!kv)
        return lm_err_set(e, LM_NOMEM, "cuda: out of memory");
    if (kv_fill(d, kv, e) != 0) {
        lmc_kv_free(d, kv);
        return -1;
    }
    *out = kv;
    return 0;
}

int lmc_kv_read(struct lm_dev *d, const struct lm_kv *kv, uint32_t layer, size_t pos, size_t n, float *k, float *v,
                struct lm_err *e)
{
    size_t row = (size_t)layer * d->net->ctx_len + pos, width = (size_t)d->net->n_kv * d->d_v;

    if (layer >= d->net->config.n_layers || pos > d->net->ctx_len || n > d->net->ctx_len - pos)
        return lm_err_set(e, LM_USAGE, "cuda: rows %zu to %zu of layer %u of a KV cache of %u", pos, pos + n, layer,
                          d->net->ctx_len);
    if (reals_to_host(d, k, lmc_at(d, kv->k, row * d->k_row), n * d->k_row, "reading keys", e) != 0)
        return -1;
    if (kv->v != kv->k)
        return reals_to_host(d, v, lmc_at(d, kv->v, row * d->v_row), n * d->v_row, "reading values", e);
    for (size_t i = 0; i < n; i++)
        memcpy(v + i * width, k + i * d->k_row, width * sizeof *v);
    return 0;
}

int lmc_sync(struct lm_dev *d, struct lm_err *e)
{
    LMC_TRY(cudaStreamSynchronize(d->stream), "waiting for the device");
    return 0;
}
