/* The device: opening, memory, activations, KV caches, errors. */
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
    static const char *const names[LMC_N_SLOTS] = {"scratch for norms", "scratch for the gate", "scratch for the FFN",
                                                   "scratch for bf16 activations", "scratch for decoded weights",
                                                   "scratch for logits", "scratch for attention", "scratch for ids"};
    struct lmc_scratch *s = &d->slots[slot];

    if (s->bytes >= bytes)
        return s->p;
    cudaStreamSynchronize(d->stream); /* queued work may still use the old one */
    cudaFree(s->p);
    s->p = nullptr;
    s->bytes = 0;
    if (lmc_malloc(&s->p, bytes, names[slot], e) != 0)
        return nullptr;
    s->bytes = bytes;
    return s->p;
}

/* ---- open, close */

int lmc_n_devices(struct lm_err *e)
{
    int n = 0;
    cudaError_t r = cudaGetDeviceCount(&n);
    if (r == cudaErrorNoDevice)
        return 0;
    if (r == cudaErrorInsufficientDriver)
        return lm_err_set(e, LM_MISSING, "cuda: no NVIDIA driver here, or one older than this plugin needs (%s)",
                          cudaGetErrorString(r));
    return r == cudaSuccess ? n : lmc_failed(e, r, "cudaGetDeviceCount", "looking for devices");
}

static int choose(struct lm_dev *d, int ordinal, struct lm_err *e)
{
    struct cudaDeviceProp prop;
    int n = lmc_n_devices(e);

    if (n < 0)
        return -1;
    if (n == 0)
        return lm_err_set(e, LM_MISSING, "cuda: no device on this machine; use --device cpu");
    if (ordinal < 0 || ordinal >= n)
        return lm_err_set(e, LM_USAGE, "cuda: no device %d, this machine has %d (0 to %d)", ordinal, n, n - 1);
    LMC_TRY(cudaSetDevice(ordinal), "choosing the device");
    LMC_TRY(cudaGetDeviceProperties(&prop, ordinal), "reading the device");
    if (prop.major < 8)
        return lm_err_set(e, LM_UNSUPPORTED, "cuda: %s has compute capability %d.%d, 8.0 is needed", prop.name,
                          prop.major, prop.minor);
    d->ordinal = ordinal;
    d->n_sms = prop.multiProcessorCount;
    snprintf(d->name, sizeof d->name, "%s", prop.name);
    LMC_TRY(cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking), "stream");
    cublasStatus_t r = cublasCreate(&d->blas);
    if (r != CUBLAS_STATUS_SUCCESS)
        return lmc_blas_failed(e, r, "cublasCreate", "opening cuBLAS");
    r = cublasSetStream(d->blas, d->stream);
    return r == CUBLAS_STATUS_SUCCESS ? 0 : lmc_blas_failed(e, r, "cublasSetStream", "opening cuBLAS");
}

static int rope_tables(struct lm_dev *d, const struct lm_net *net, struct lm_err *e)
{
    size_t bytes = (size_t)net->ctx_len * (net->config.d_rope / 2) * sizeof(float);

    if (net->rope == LM_ROPE_NONE || bytes == 0)
        return 0;
    d->rope_cos = (float *)lmc_own(d, bytes, "rotation table", e);
    d->rope_sin = d->rope_cos ? (float *)lmc_own(d, bytes, "rotation table", e) : nullptr;
    if (!d->rope_sin)
        return -1;
    LMC_TRY(cudaMemcpy(d->rope_cos, net->rope_cos, bytes, cudaMemcpyHostToDevice), "rotation table");
    LMC_TRY(cudaMemcpy(d->rope_sin, net->rope_sin, bytes, cudaMemcpyHostToDevice), "rotation table");
    return 0;
}

static int check_features(const struct lm_net *net, struct lm_err *e)
{
    for (unsigned f = 0; f < LM_N_FEATURES; f++)
        if (net->features >> f & 1)
            return lm_err_set(e, LM_UNSUPPORTED, "cuda: this model needs %s, which the plugin does not compute yet; use --device cpu",
                              lm_feature_name(f));
    return 0;
}

static int open_into(struct lm_dev *d, struct lm_net *net, const struct lm_backend_options *o, struct lm_err *e)
{
    const struct lm_config *c = &net->config;

    if (check_features(net, e) != 0)
        return -1;
    d->net = net;
    d->math = o->math;
    d->d = c->d_model;
    d->d_q = c->n_heads * c->d_head;
    d->d_kv = c->n_kv_heads * c->d_head;
    d->d_ff = c->d_ff;
    d->vocab = net->head.rows; /* may be padded beyond the vocabulary */
    if (c->d_head > LMC_MAX_HEAD)
        return lm_err_set(e, LM_UNSUPPORTED, "cuda: heads of %u, at most %d; use --device cpu", c->d_head, LMC_MAX_HEAD);
    if (c->n_kv_heads == 0 || c->n_heads % c->n_kv_heads != 0)
        return lm_err_set(e, LM_UNSUPPORTED, "cuda: %u query heads over %u key heads", c->n_heads, c->n_kv_heads);
    if (choose(d, o->device, e) != 0 || rope_tables(d, net, e) != 0)
        return -1;
    return lmc_upload(d, net, e);
}

int lmc_open(struct lm_dev **out, struct lm_net *net, const struct lm_backend_options *o, struct lm_err *e)
{
    struct lm_dev *d = (struct lm_dev *)calloc(1, sizeof *d);

    if (!d)
        return lm_err_set(e, LM_NOMEM, "cuda: out of memory");
    if (open_into(d, net, o, e) != 0) {
        lmc_close(d);
        return -1;
    }
    *out = d;
    return 0;
}

/* The handles in the net would dangle. */
static void forget(struct lm_net *net)
{
    struct lm_mat *mats[] = {&net->embed, &net->pos_embed, &net->head};
    for (struct lm_mat *m : mats)
        m->handle = nullptr;
    net->out_norm.handle = net->out_norm_b.handle = nullptr;
    for (uint32_t i = 0; i < net->config.n_layers; i++) {
        struct lm_layer_weights *l = &net->layers[i];
        struct lm_mat *of_layer[] = {&l->q, &l->k, &l->v, &l->qkv, &l->out, &l->gate, &l->up, &l->down};
        struct lm_vec *vecs[] = {&l->attn_norm, &l->attn_norm_b, &l->ffn_norm, &l->ffn_norm_b};
        for (struct lm_mat *m : of_layer)
            m->handle = nullptr;
        for (struct lm_vec *v : vecs)
            v->handle = nullptr;
    }
}

void lmc_close(struct lm_dev *d)
{
    if (!d)
        return;
    cudaSetDevice(d->ordinal);
    if (d->stream)
        cudaStreamSynchronize(d->stream);
    forget(d->net);
    for (size_t i = 0; i < d->n_owned; i++)
        cudaFree(d->owned[i]);
    for (struct lmc_scratch &s : d->slots)
        cudaFree(s.p);
    cudaFreeHost(d->pinned);
    if (d->blas)
        cublasDestroy(d->blas);
    if (d->stream)
        cudaStreamDestroy(d->stream);
    free(d->owned);
    free(d->mats);
    free(d);
}

void lmc_describe(const struct lm_dev *d, char *buf, size_t size)
{
    static const char *const math[] = {"exact f32", "fast (bf16 and TF32 products, 8-bit tokens for block types)",
                                       "TF32 products", "bf16 products"};
    snprintf(buf, size, "cuda:%d, %s, %s", d->ordinal, d->name, math[d->math]);
}

/* ---- activations */

int lmc_buf_new(struct lm_buf **out, struct lm_dev *d, size_t n_floats, struct lm_err *e)
{
    struct lm_buf *b = (struct lm_buf *)calloc(1, sizeof *b);

    if (!b)
        return lm_err_set(e, LM_NOMEM, "cuda: out of memory");
    b->n = n_floats;
    if (cudaSetDevice(d->ordinal) != cudaSuccess ||
        lmc_malloc((void **)&b->data, n_floats * sizeof(float), "buffer of activations", e) != 0) {
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

int lmc_to_host(struct lm_dev *d, float *host, const float *dev, size_t n, const char *what, struct lm_err *e)
{
    LMC_TRY(cudaMemcpyAsync(host, dev, n * sizeof *host, cudaMemcpyDeviceToHost, d->stream), what);
    LMC_TRY(cudaStreamSynchronize(d->stream), what);
    return 0;
}

int lmc_buf_read(struct lm_dev *d, const struct lm_buf *b, size_t first, size_t n, float *host, struct lm_err *e)
{
    return check_range(b, first, n, e) != 0 ? -1 : lmc_to_host(d, host, b->data + first, n, "reading activations", e);
}

int lmc_buf_write(struct lm_dev *d, struct lm_buf *b, size_t first, size_t n, const float *host, struct lm_err *e)
{
    if (check_range(b, first, n, e) != 0)
        return -1;
    LMC_TRY(cudaMemcpyAsync(b->data + first, host, n * sizeof *host, cudaMemcpyHostToDevice, d->stream),
            "writing activations");
    LMC_TRY(cudaStreamSynchronize(d->stream), "writing activations");
    return 0;
}

/* Not from a place onto itself: runs of rows do not overlap. */
int lmc_buf_move(struct lm_dev *d, struct lm_buf *b, size_t to, size_t from, size_t n, struct lm_err *e)
{
    if (check_range(b, from, n, e) != 0 || check_range(b, to, n, e) != 0)
        return -1;
    LMC_TRY(cudaMemcpyAsync(b->data + to, b->data + from, n * sizeof(float), cudaMemcpyDeviceToDevice, d->stream),
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
    cudaFree(kv->v);
    free(kv);
}

int lmc_kv_new(struct lm_kv **out, struct lm_dev *d, struct lm_err *e)
{
    size_t bytes = (size_t)d->net->config.n_layers * d->net->ctx_len * d->d_kv * sizeof(float);
    struct lm_kv *kv = (struct lm_kv *)calloc(1, sizeof *kv);

    if (!kv)
        return lm_err_set(e, LM_NOMEM, "cuda: out of memory");
    if (cudaSetDevice(d->ordinal) != cudaSuccess || lmc_malloc((void **)&kv->k, bytes, "KV cache", e) != 0 ||
        lmc_malloc((void **)&kv->v, bytes, "KV cache", e) != 0) {
        lmc_kv_free(d, kv);
        return -1;
    }
    cudaError_t r = cudaMemsetAsync(kv->k, 0, bytes, d->stream);
    if (r == cudaSuccess)
        r = cudaMemsetAsync(kv->v, 0, bytes, d->stream);
    if (r != cudaSuccess) {
        lmc_kv_free(d, kv);
        return lmc_failed(e, r, "cudaMemsetAsync", "KV cache");
    }
    *out = kv;
    return 0;
}

int lmc_kv_read(struct lm_dev *d, const struct lm_kv *kv, uint32_t layer, size_t pos, size_t n, float *k, float *v,
                struct lm_err *e)
{
    size_t at = ((size_t)layer * d->net->ctx_len + pos) * d->d_kv;

    if (layer >= d->net->config.n_layers || pos > d->net->ctx_len || n > d->net->ctx_len - pos)
        return lm_err_set(e, LM_USAGE, "cuda: rows %zu to %zu of layer %u of a KV cache of %u", pos, pos + n, layer,
                          d->net->ctx_len);
    return lmc_to_host(d, k, kv->k + at, n * d->d_kv, "reading keys", e) != 0 ||
           lmc_to_host(d, v, kv->v + at, n * d->d_kv, "reading values", e) != 0 ? -1 : 0;
}

int lmc_sync(struct lm_dev *d, struct lm_err *e)
{
    LMC_TRY(cudaStreamSynchronize(d->stream), "waiting for the device");
    return 0;
}
