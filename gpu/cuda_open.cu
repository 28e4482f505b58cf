/* The device: finding, opening, closing, describing. */
#include "gpu/cuda_device.cuh"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

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
    d->max_shared = (int)prop.sharedMemPerBlockOptin;
    snprintf(d->name, sizeof d->name, "%s", prop.name);
    LMC_TRY(cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking), "stream");
    cublasStatus_t r = cublasCreate(&d->blas);
    if (r != CUBLAS_STATUS_SUCCESS)
        return lmc_blas_failed(e, r, "cublasCreate", "opening cuBLAS");
    r = cublasSetStream(d->blas, d->stream);
    return r == CUBLAS_STATUS_SUCCESS ? 0 : lmc_blas_failed(e, r, "cublasSetStream", "opening cuBLAS");
}

/* ---- tables */

static void *send_table(struct lm_dev *d, const void *host, size_t bytes, const char *what, struct lm_err *e)
{
    void *p = lmc_own(d, bytes, what, e);
    cudaError_t r = p ? cudaMemcpy(p, host, bytes, cudaMemcpyHostToDevice) : cudaSuccess;

    if (r != cudaSuccess)
        lmc_failed(e, r, "cudaMemcpy", what);
    return r == cudaSuccess ? p : nullptr;
}

/* In double the angles are computed anew: the net's tables are rounded. */
static int wide_tables(struct lm_dev *d, const double *freqs, double factor, void **cosines, void **sines, struct lm_err *e)
{
    const size_t half = d->net->config.d_rope / 2, n = d->net->ctx_len * half;
    double *table = (double *)malloc(2 * n * sizeof *table + 1);

    if (!table)
        return lm_err_set(e, LM_NOMEM, "cuda: out of memory for the rotation table");
    for (size_t i = 0; i < n; i++) {
        double angle = (double)(i / half) * freqs[i % half];
        table[i] = cos(angle) * factor;
        table[n + i] = sin(angle) * factor;
    }
    *cosines = send_table(d, table, n * sizeof *table, "rotation table", e);
    *sines = *cosines ? send_table(d, table + n, n * sizeof *table, "rotation table", e) : nullptr;
    free(table);
    return *sines ? 0 : -1;
}

static int rope_tables(struct lm_dev *d, struct lm_err *e)
{
    const struct lm_net *net = d->net;
    const size_t bytes = (size_t)net->ctx_len * (net->config.d_rope / 2) * sizeof(float);
    const struct { const float *c, *s; const double *freqs; double factor; void **to_c, **to_s; } tables[] = {
        {net->rope_cos, net->rope_sin, net->rope_freqs, net->rope_mscale, &d->rope_cos, &d->rope_sin},
        {net->local_cos, net->local_sin, net->local_freqs, 1, &d->local_cos, &d->local_sin}};

    if (net->rope == LM_ROPE_NONE || bytes == 0)
        return 0;
    for (auto &t : tables) {
        if (!t.c)
            continue;
        if (d->f64) {
            if (wide_tables(d, t.freqs, t.factor, t.to_c, t.to_s, e) != 0)
                return -1;
            continue;
        }
        *t.to_c = send_table(d, t.c, bytes, "rotation table", e);
        *t.to_s = *t.to_c ? send_table(d, t.s, bytes, "rotation table", e) : nullptr;
        if (!*t.to_s)
            return -1;
    }
    return 0;
}

/* ALiBi's slopes, geometric, rounded to bf16; where the heads are no power of
 * two, the rest from the next one's odd places (as gpu/mechanics.c). */
static int slopes(struct lm_dev *d, struct lm_err *e)
{
    const uint32_t n = d->net->config.n_heads;
    uint32_t whole = 1;
    float *s;

    if (!d->net->config.alibi)
        return 0;
    while (2 * whole <= n)
        whole *= 2;
    if (!(s = (float *)malloc(n * sizeof *s)))
        return lm_err_set(e, LM_NOMEM, "cuda: out of memory");
    for (uint32_t h = 0; h < n; h++) {
        double exponent = h < whole ? -8.0 * (h + 1) / whole : -4.0 * (2 * (h - whole) + 1) / whole;
        s[h] = lm_bf16_to_f32(lm_f32_to_bf16((float)pow(2, exponent)));
    }
    d->slopes = (float *)send_table(d, s, n * sizeof *s, "ALiBi slopes", e);
    free(s);
    return d->slopes ? 0 : -1;
}

/* ---- opening */

static int check_shape(const struct lm_dev *d, struct lm_err *e)
{
    const struct lm_config *c = &d->net->config;

    if (d->net->n_kv == 0 || c->n_heads % d->net->n_kv != 0)
        return lm_err_set(e, LM_UNSUPPORTED, "cuda: %u query heads over %u key heads", c->n_heads, d->net->n_kv);
    if (!d->f64 && (d->d_k > LMC_MAX_HEAD || d->d_v > LMC_MAX_VALUE))
        return lm_err_set(e, LM_UNSUPPORTED, "cuda: heads of %u and %u, at most %d and %d; use --device cpu", d->d_k, d->d_v,
                          LMC_MAX_HEAD, LMC_MAX_VALUE);
    if (c->n_experts > LMC_MAX_EXPERTS)
        return lm_err_set(e, LM_UNSUPPORTED, "cuda: %u experts, at most %d; use --device cpu", c->n_experts, LMC_MAX_EXPERTS);
    return 0;
}

static void set_sizes(struct lm_dev *d, enum lm_math math)
{
    const struct lm_net *net = d->net;
    const struct lm_config *c = &net->config;

    d->math = math;
    d->f64 = math == LM_MATH_F64;
    d->real = d->f64 ? sizeof(double) : sizeof(float);
    d->d = c->d_model;
    d->d_k = net->d_k;
    d->d_v = net->d_v;
    d->d_q = c->n_heads * d->d_k;
    d->d_a = c->n_heads * d->d_v;
    d->k_row = net->n_kv * d->d_k;
    d->v_row = c->kv_lora ? d->k_row : net->n_kv * d->d_v;
    d->vocab = net->head.rows; /* may be padded beyond the vocabulary */
}

static int open_into(struct lm_dev *d, struct lm_net *net, const struct lm_backend_options *o, struct lm_err *e)
{
    size_t *homes = (size_t *)calloc(net->config.n_layers + 1, sizeof *homes);
    uint32_t kept = 0;

    d->net = net;
    set_sizes(d, o->math);
    int rc = !homes ? lm_err_set(e, LM_NOMEM, "cuda: out of memory") : 0;
    if (rc == 0 && (check_shape(d, e) != 0 || choose(d, o->device, e) != 0 || lmc_list(d, net, homes, e) != 0 ||
                    lmc_plan(d, homes, &kept, e) != 0 || rope_tables(d, e) != 0 || slopes(d, e) != 0 ||
                    !(d->place = (uint32_t *)lmc_own(d, sizeof *d->place, "position", e)) ||
                    lmc_upload(d, net, homes, kept, e) != 0))
        rc = -1;
    free(homes);
    return rc;
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

void lmc_close(struct lm_dev *d)
{
    if (!d)
        return;
    cudaSetDevice(d->ordinal);
    if (d->stream)
        cudaStreamSynchronize(d->stream);
    lmc_graph_close(d);
    lmc_forget(d);
    lmc_stream_close(d);
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
    free(d->many);
    free(d);
}

void lmc_describe(const struct lm_dev *d, char *buf, size_t size)
{
    static const char *const math[] = {"exact f32", "fast (bf16 and TF32 products, 8-bit tokens for block types)",
                                       "TF32 products", "bf16 products", "float64"};
    const uint32_t away = lmc_n_streamed(d), n = d->net->config.n_layers;
    int k = snprintf(buf, size, "cuda:%d, %s, %s, %.1f MB of weights, %.1f for %u positions, %.1f of activations",
                     d->ordinal, d->name, math[d->math], (double)d->weight_bytes / 1e6, (double)d->cache_bytes / 1e6,
                     d->net->ctx_len, (double)d->work_bytes / 1e6);
    if (away && k > 0 && (size_t)k < size)
        snprintf(buf + k, size - (size_t)k, "; %u of %u layers pass through for want of memory", away, n);
}
