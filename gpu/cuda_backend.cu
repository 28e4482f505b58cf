/* struct lm_backend over the operations of cuda_ops.cu, and the one symbol the
 * plugin exports. */
#include "gpu/cuda_device.cuh"
#include "gpu/cuda_quantizer.cuh"

#include <stdlib.h>

static int run_now(struct lm_dev *d, const struct lmc_op *op, size_t pos0, const int32_t *ids, struct lm_err *e)
{
    int32_t *dev = nullptr;

    if (lmc_flush(d, e) != 0)
        return -1;
    LMC_TRY(cudaSetDevice(d->ordinal), "running an operation");
    if (ids) {
        if (!(dev = (int32_t *)lmc_scratch(d, LMC_IDS, op->n * sizeof *dev, e)))
            return -1;
        LMC_TRY(cudaMemcpyAsync(dev, ids, op->n * sizeof *dev, cudaMemcpyHostToDevice, d->stream), "token ids");
    }
    return lmc_run_op(d, op, {(uint32_t)pos0, nullptr}, dev, e);
}

static int submit(struct lm_dev *d, const struct lmc_op *op, size_t pos0, const int32_t *ids, struct lm_err *e)
{
    if (lmc_check_op(d, op, pos0, e) != 0)
        return -1;
    return op->n == 1 && !d->watch ? lmc_defer(d, op, (uint32_t)pos0, ids ? *ids : 0, e) : run_now(d, op, pos0, ids, e);
}

static int embed(struct lm_dev *d, struct lm_buf *x, const int32_t *ids, size_t n, size_t pos0, bool add_pos,
                 struct lm_err *e)
{
    const struct lmc_mat *w = lmc_mat_of(&d->net->embed);
    struct lmc_op op = {LMC_OP_EMBED, 0, x, nullptr, nullptr, n, 0, add_pos && d->net->pos_embed.tensor};

    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= w->rows)
            return lm_err_set(e, LM_USAGE, "cuda: token id %d, %s has %u rows", ids[i], w->tensor->name, w->rows);
    return submit(d, &op, pos0, ids, e);
}

static int qkv(struct lm_dev *d, uint32_t layer, const struct lm_buf *x, struct lm_buf *q, struct lm_kv *kv, size_t n,
               size_t pos0, struct lm_err *e)
{
    struct lmc_op op = {LMC_OP_QKV, layer, (struct lm_buf *)x, q, kv, n, 0, 0};
    return submit(d, &op, pos0, nullptr, e);
}

static int attend(struct lm_dev *d, uint32_t layer, const struct lm_buf *q, const struct lm_kv *kv, struct lm_buf *out,
                  size_t n, size_t pos0, float *probs, struct lm_err *e)
{
    struct lmc_op op = {LMC_OP_ATTEND, layer, out, (struct lm_buf *)q, (struct lm_kv *)kv, n, 0, 0};

    if (submit(d, &op, pos0, nullptr, e) != 0)
        return -1;
    if (!probs)
        return 0;
    if (lmc_flush(d, e) != 0)
        return -1;
    size_t at = (size_t)layer * d->net->ctx_len;
    struct lmc_attend a = {&d->net->layers[layer], q->data, lmc_at(d, kv->k, at * d->k_row), nullptr, nullptr, n,
                           {(uint32_t)pos0, nullptr}};
    return lmc_probs(d, &a, probs, e);
}

static int project(struct lm_dev *d, uint32_t layer, const struct lm_buf *a, struct lm_buf *x, size_t n, struct lm_err *e)
{
    struct lmc_op op = {LMC_OP_PROJECT, layer, x, (struct lm_buf *)a, nullptr, n, 0, 0};
    return submit(d, &op, 0, nullptr, e);
}

static int ffn(struct lm_dev *d, uint32_t layer, struct lm_buf *x, size_t n, struct lm_err *e)
{
    struct lmc_op op = {LMC_OP_FFN, layer, x, nullptr, nullptr, n, 0, 0};
    return submit(d, &op, 0, nullptr, e);
}

/* ---- logits: some rows at a time, through pinned memory */

#define LOGITS_BYTES ((size_t)64 << 20)

static int pinned(struct lm_dev *d, size_t bytes, struct lm_err *e)
{
    if (d->pinned_bytes >= bytes)
        return 0;
    cudaFreeHost(d->pinned);
    d->pinned = nullptr;
    d->pinned_bytes = 0;
    LMC_TRY(cudaMallocHost(&d->pinned, bytes), "pinned memory for logits");
    d->pinned_bytes = bytes;
    return 0;
}

/* Rows first .. first + n of x to d->pinned. */
static int fetch_logits(struct lm_dev *d, const struct lm_buf *x, size_t first, size_t n, struct lm_err *e)
{
    struct lmc_op op = {LMC_OP_LOGITS, 0, (struct lm_buf *)x, nullptr, nullptr, n, first, 0};
    size_t bytes = n * d->vocab * d->real;

    if (pinned(d, bytes, e) != 0 || submit(d, &op, 0, nullptr, e) != 0 || lmc_flush(d, e) != 0)
        return -1;
    void *out = lmc_scratch(d, LMC_LOGITS, bytes, e);
    return out ? lmc_to_host(d, d->pinned, out, bytes, "reading logits", e) : -1;
}

/* To one of the two, in the other's precision where need be. */
static void copy_logits(const struct lm_dev *d, size_t n, float *f32, double *f64)
{
    const float *narrow = (const float *)d->pinned;
    const double *wide = (const double *)d->pinned;

    for (size_t i = 0; i < n; i++)
        if (f32)
            f32[i] = d->f64 ? (float)wide[i] : narrow[i];
        else
            f64[i] = d->f64 ? wide[i] : (double)narrow[i];
}

static int logits_to(struct lm_dev *d, const struct lm_buf *x, size_t first, size_t n_rows, float *f32, double *f64,
                     struct lm_err *e)
{
    size_t step = LOGITS_BYTES / (d->vocab * d->real);

    step = step ? step : 1;
    for (size_t i = 0; i < n_rows; i += step) {
        size_t n = n_rows - i < step ? n_rows - i : step, at = i * d->vocab;
        if (fetch_logits(d, x, first + i, n, e) != 0)
            return -1;
        if (f32 && !d->f64)
            memcpy(f32 + at, d->pinned, n * d->vocab * sizeof *f32);
        else
            copy_logits(d, n * d->vocab, f32 ? f32 + at : nullptr, f64 ? f64 + at : nullptr);
    }
    return 0;
}

static int logits(struct lm_dev *d, const struct lm_buf *x, size_t first, size_t n_rows, float *host, struct lm_err *e)
{
    return logits_to(d, x, first, n_rows, host, nullptr, e);
}

static int logits_f64(struct lm_dev *d, const struct lm_buf *x, size_t first, size_t n_rows, double *host,
                      struct lm_err *e)
{
    return logits_to(d, x, first, n_rows, nullptr, host, e);
}

/* ---- whatever looks at memory waits for what is still to be run */

static int buf_read(struct lm_dev *d, const struct lm_buf *b, size_t first, size_t n, float *host, struct lm_err *e)
{
    return lmc_flush(d, e) != 0 ? -1 : lmc_buf_read(d, b, first, n, host, e);
}
static int buf_write(struct lm_dev *d, struct lm_buf *b, size_t first, size_t n, const float *host, struct lm_err *e)
{
    return lmc_flush(d, e) != 0 ? -1 : lmc_buf_write(d, b, first, n, host, e);
}
static int buf_move(struct lm_dev *d, struct lm_buf *b, size_t to, size_t from, size_t n, struct lm_err *e)
{
    return lmc_flush(d, e) != 0 ? -1 : lmc_buf_move(d, b, to, from, n, e);
}
static void buf_free(struct lm_dev *d, struct lm_buf *b)
{
    struct lm_err ignored = {};
    lmc_flush(d, &ignored);
    lmc_buf_free(d, b);
}
static void kv_free(struct lm_dev *d, struct lm_kv *kv)
{
    struct lm_err ignored = {};
    lmc_flush(d, &ignored);
    lmc_kv_free(d, kv);
}
static int kv_read(struct lm_dev *d, const struct lm_kv *kv, uint32_t layer, size_t pos, size_t n, float *k, float *v,
                   struct lm_err *e)
{
    return lmc_flush(d, e) != 0 ? -1 : lmc_kv_read(d, kv, layer, pos, n, k, v, e);
}
static int sync(struct lm_dev *d, struct lm_err *e)
{
    return lmc_flush(d, e) != 0 ? -1 : lmc_sync(d, e);
}

static void watch(struct lm_dev *d, lm_watch_fn *fn, void *user)
{
    struct lm_err ignored = {};
    lmc_flush(d, &ignored);
    d->watch = fn;
    d->watch_user = user;
}

static const struct lm_backend backend = {
    "cuda", lmc_open, lmc_close, lmc_describe, lmc_buf_new, buf_free, buf_read, buf_write, buf_move,
    lmc_kv_new, kv_free, embed, qkv, attend, project, ffn, logits, logits_f64, kv_read, sync, watch,
    lmc_compare,
};

extern "C" __attribute__((visibility("default"))) const struct lm_plugin lm_plugin_cuda;
const struct lm_plugin lm_plugin_cuda = {LM_BACKEND_ABI, &backend, lmc_n_devices, &lmc_quantizer};
