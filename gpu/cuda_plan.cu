/* Memory, planned before the first allocation: weights, the cache of one
 * session, scratch for the engine's largest call.  What does not fit is not kept:
 * layers from some number on pass through two places (cuda_stream.cu).
 *
 * LM_GPU_MEMORY ("6G", "900M", bytes) limits what may be used. */
#include "gpu/cuda_base.cuh"

#include <stdlib.h>

#define CHUNK 512 /* tokens of the engine's calls (gpu/session.c) */
#define LOGITS ((size_t)64 << 20) /* that are on the device at a time (cuda_backend.cu) */
#define RESERVE ((size_t)256 << 20) /* cuBLAS's workspace, the upload ring, the driver */

static size_t most(size_t a, size_t b)
{
    return a > b ? a : b;
}

size_t lmc_cache_bytes(const struct lm_dev *d, bool values)
{
    return (size_t)d->net->config.n_layers * d->net->ctx_len * (values ? d->v_row : d->k_row) * d->real;
}

/* Values of a token that the operations keep at once. */
static size_t work_bytes(const struct lm_dev *d)
{
    const struct lm_config *c = &d->net->config;
    size_t n = d->net->ctx_len < CHUNK ? d->net->ctx_len : CHUNK, ff = most(c->d_ff, most(c->d_ff_expert, c->d_ff_shared));
    size_t row = 3 * (size_t)d->d + d->d_q + d->d_a;                        /* x, normed, out, q, a */
    row += (size_t)c->n_heads * c->d_head + 2 * (size_t)d->k_row + c->q_lora; /* wide */
    row += 2 * ff;
    row += c->n_experts ? (c->n_experts_used + 3) * (size_t)d->d : 0;
    row += most(d->d, ff) / 2; /* bf16 copy */
    size_t tile = d->math == LM_MATH_EXACT ? 0 : ((size_t)64 << 20) * (d->f64 ? 8 : 2), logits = n * d->vocab * d->real;
    return n * row * d->real + tile + (logits < LOGITS ? logits : LOGITS);
}

/* *out 0: no limit. */
static int limit_of_environment(size_t *out, struct lm_err *e)
{
    static const char units[] = "KMGT";
    const char *s = getenv("LM_GPU_MEMORY"), *unit;
    char *end;
    double v;

    *out = 0;
    if (!s || !*s)
        return 0;
    v = strtod(s, &end);
    unit = *end ? strchr(units, *end & ~0x20) : nullptr;
    for (const char *u = unit; u && u >= units; u--)
        v *= 1024;
    if (end == s || (*end && (!unit || end[1])) || !(v >= 1 && v < 1e18))
        return lm_err_set(e, LM_USAGE, "LM_GPU_MEMORY is '%s': a size is needed, like 900M or 6.5G", s);
    *out = (size_t)v;
    return 0;
}

/* Bytes for the first `kept` layers, and two places for the others. */
static size_t layers_bytes(const size_t *homes, uint32_t n, uint32_t kept)
{
    size_t sum = 0, largest = 0;

    for (uint32_t i = 0; i < n; i++)
        if (i < kept)
            sum += homes[i];
        else
            largest = most(largest, homes[i]);
    return sum + (n - kept > 1 ? 2 : n - kept) * largest;
}

int lmc_plan(struct lm_dev *d, const size_t *homes, uint32_t *kept, struct lm_err *e)
{
    const uint32_t n = d->net->config.n_layers;
    size_t total = 0, limit;

    if (limit_of_environment(&limit, e) != 0)
        return -1;
    LMC_TRY(cudaMemGetInfo(&d->free_bytes, &total), "memory");
    d->limit = d->free_bytes > RESERVE ? d->free_bytes - RESERVE : 0;
    if (limit && limit < d->limit)
        d->limit = limit;
    d->cache_bytes = lmc_cache_bytes(d, false) + (d->net->config.kv_lora ? 0 : lmc_cache_bytes(d, true));
    d->work_bytes = work_bytes(d);
    const size_t fixed = homes[n] + d->cache_bytes + d->work_bytes;
    for (*kept = n;; (*kept)--) {
        d->weight_bytes = homes[n] + layers_bytes(homes, n, *kept);
        if (fixed + layers_bytes(homes, n, *kept) <= d->limit)
            return 0;
        if (*kept == 0)
            break;
    }
    return lm_err_set(e, LM_NOMEM,
                      "cuda: even layer by layer %.3f MB are needed (%.3f for embedding, output and two layers, %.3f for "
                      "a cache of %u positions, %.3f for activations), %.3f MB may be used: ask for a shorter context, or "
                      "use --device cpu",
                      (double)(fixed + layers_bytes(homes, n, 0)) / 1e6, (double)d->weight_bytes / 1e6,
                      (double)d->cache_bytes / 1e6, d->net->ctx_len, (double)d->work_bytes / 1e6, (double)d->limit / 1e6);
}
