/* The operations of struct lm_backend, put together from products, small
 * kernels and attention; and the one symbol the plugin exports. */
#include "gpu/cuda_device.cuh"

static const struct lm_layer_weights *layer_of(const struct lm_dev *d, uint32_t layer)
{
    return &d->net->layers[layer];
}

static float *kv_rows(const struct lm_dev *d, float *kv, uint32_t layer, size_t pos)
{
    return kv + ((size_t)layer * d->net->ctx_len + pos) * d->d_kv;
}

/* Positions [pos0, pos0 + n) must exist, n tokens must fit the buffer. */
static int check_call(const struct lm_dev *d, const char *what, uint32_t layer, const struct lm_buf *b, size_t width,
                      size_t n, size_t pos0, struct lm_err *e)
{
    if (layer >= d->net->config.n_layers)
        return lm_err_set(e, LM_USAGE, "cuda: %s: layer %u of %u", what, layer, d->net->config.n_layers);
    if (n == 0 || n > d->net->ctx_len || pos0 > d->net->ctx_len - n)
        return lm_err_set(e, LM_LIMIT, "cuda: %s: positions %zu to %zu, the context holds %u", what, pos0, pos0 + n,
                          d->net->ctx_len);
    if (b->n / width < n)
        return lm_err_set(e, LM_USAGE, "cuda: %s: a buffer of %zu values for %zu tokens of %zu", what, b->n, n, width);
    LMC_TRY(cudaSetDevice(d->ordinal), what);
    return 0;
}

static int embed(struct lm_dev *d, struct lm_buf *x, const int32_t *ids, size_t n, size_t pos0, bool add_pos,
                 struct lm_err *e)
{
    const struct lmc_mat *w = lmc_mat_of(&d->net->embed), *pos = lmc_mat_of(&d->net->pos_embed);

    if (check_call(d, "embedding", 0, x, d->d, n, pos0, e) != 0)
        return -1;
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= w->rows)
            return lm_err_set(e, LM_USAGE, "cuda: token id %d, %s has %u rows", ids[i], w->tensor->name, w->rows);
    if (add_pos && pos && (pos->rows < n || pos0 > pos->rows - n))
        return lm_err_set(e, LM_LIMIT, "cuda: position %zu, %s has %u rows", pos0 + n - 1, pos->tensor->name, pos->rows);
    return lmc_embed(d, w, add_pos ? pos : nullptr, ids, n, pos0, x->data, e);
}

/* A product's input: norm of x, in scratch. */
static float *normed(struct lm_dev *d, const float *x, const struct lm_vec *w, const struct lm_vec *b, size_t n,
                     struct lm_err *e)
{
    const struct lm_config *c = &d->net->config;
    float *y = (float *)lmc_scratch(d, LMC_NORM, n * d->d * sizeof *y, e);

    if (!y || lmc_norm(d, c->arch->norm, (float)c->norm_eps, x, w, b, d->d, n, y, e) != 0)
        return nullptr;
    return y;
}

static struct lmc_job job_of(const float *x, uint32_t cols, size_t n)
{
    struct lmc_job job = {};
    job.x = x;
    job.cols = cols;
    job.n = n;
    job.act = LMC_ACT_NONE;
    return job;
}

static void add_part(struct lmc_job *job, const struct lm_mat *m, uint32_t row0, uint32_t rows, float *out, size_t ld)
{
    job->part[job->n_parts++] = {lmc_mat_of(m), row0, rows, out, ld};
}

static int qkv(struct lm_dev *d, uint32_t layer, const struct lm_buf *x, struct lm_buf *q, struct lm_kv *kv, size_t n,
               size_t pos0, struct lm_err *e)
{
    if (check_call(d, "qkv", layer, x, d->d, n, pos0, e) != 0 || check_call(d, "qkv", layer, q, d->d_q, n, pos0, e) != 0)
        return -1;
    const struct lm_layer_weights *l = layer_of(d, layer);
    float *k = kv_rows(d, kv->k, layer, pos0), *v = kv_rows(d, kv->v, layer, pos0);
    const float *y = normed(d, x->data, &l->attn_norm, &l->attn_norm_b, n, e);
    if (!y)
        return -1;
    struct lmc_job job = job_of(y, d->d, n);
    bool fused = l->qkv.tensor != nullptr;
    add_part(&job, fused ? &l->qkv : &l->q, 0, d->d_q, q->data, d->d_q);
    add_part(&job, fused ? &l->qkv : &l->k, fused ? d->d_q : 0, d->d_kv, k, d->d_kv);
    add_part(&job, fused ? &l->qkv : &l->v, fused ? d->d_q + d->d_kv : 0, d->d_kv, v, d->d_kv);
    if (lmc_product(d, &job, e) != 0)
        return -1;
    return lmc_rope(d, q->data, k, n, pos0, e);
}

static int attend(struct lm_dev *d, uint32_t layer, const struct lm_buf *q, const struct lm_kv *kv, struct lm_buf *out,
                  size_t n, size_t pos0, float *probs, struct lm_err *e)
{
    if (check_call(d, "attention", layer, q, d->d_q, n, pos0, e) != 0 ||
        check_call(d, "attention", layer, out, d->d_q, n, pos0, e) != 0)
        return -1;
    const float *k = kv_rows(d, kv->k, layer, 0), *v = kv_rows(d, kv->v, layer, 0);
    if (lmc_attend(d, q->data, k, v, out->data, n, pos0, e) != 0)
        return -1;
    return probs ? lmc_probs(d, q->data + (n - 1) * d->d_q, k, pos0 + n, probs, e) : 0;
}

static int project(struct lm_dev *d, uint32_t layer, const struct lm_buf *a, struct lm_buf *x, size_t n,
                   struct lm_err *e)
{
    if (check_call(d, "out-projection", layer, a, d->d_q, n, 0, e) != 0 ||
        check_call(d, "out-projection", layer, x, d->d, n, 0, e) != 0)
        return -1;
    struct lmc_job job = job_of(a->data, d->d_q, n);
    job.add = true;
    add_part(&job, &layer_of(d, layer)->out, 0, d->d, x->data, d->d);
    return lmc_product(d, &job, e);
}

/* h [n, d_ff] = act(gate y) * (up y), or act(up y). */
static int ffn_hidden(struct lm_dev *d, const struct lm_layer_weights *l, const float *y, size_t n, float *g, float *u,
                      struct lm_err *e)
{
    struct lmc_job job = job_of(y, d->d, n);

    job.act = (int)d->net->config.act;
    if (!l->gate.tensor) {
        add_part(&job, &l->up, 0, d->d_ff, g, d->d_ff);
        return lmc_product(d, &job, e);
    }
    add_part(&job, &l->gate, 0, d->d_ff, g, d->d_ff);
    add_part(&job, &l->up, 0, d->d_ff, u, d->d_ff);
    return lmc_gated(d, &job, g, e);
}

static int ffn(struct lm_dev *d, uint32_t layer, struct lm_buf *x, size_t n, struct lm_err *e)
{
    if (check_call(d, "ffn", layer, x, d->d, n, 0, e) != 0)
        return -1;
    const struct lm_layer_weights *l = layer_of(d, layer);
    const float *y = normed(d, x->data, &l->ffn_norm, &l->ffn_norm_b, n, e);
    size_t bytes = n * d->d_ff * sizeof(float);
    float *g = y ? (float *)lmc_scratch(d, LMC_GATE, bytes, e) : nullptr;
    float *u = g ? (float *)lmc_scratch(d, LMC_UP, bytes, e) : nullptr;
    if (!u || ffn_hidden(d, l, y, n, g, u, e) != 0)
        return -1;
    struct lmc_job job = job_of(g, d->d_ff, n);
    job.add = true;
    add_part(&job, &l->down, 0, d->d, x->data, d->d);
    return lmc_product(d, &job, e);
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

static int logits_of(struct lm_dev *d, const float *x, size_t n, float *host, struct lm_err *e)
{
    const struct lm_net *net = d->net;
    size_t bytes = n * d->vocab * sizeof(float);
    const float *y = normed(d, x, &net->out_norm, &net->out_norm_b, n, e);
    float *out = y ? (float *)lmc_scratch(d, LMC_LOGITS, bytes, e) : nullptr;

    if (!out || pinned(d, bytes, e) != 0)
        return -1;
    struct lmc_job job = job_of(y, d->d, n);
    add_part(&job, &net->head, 0, d->vocab, out, d->vocab);
    if (lmc_product(d, &job, e) != 0 || lmc_to_host(d, (float *)d->pinned, out, n * d->vocab, "reading logits", e) != 0)
        return -1;
    memcpy(host, d->pinned, bytes);
    return 0;
}

static int logits(struct lm_dev *d, const struct lm_buf *x, size_t first, size_t n_rows, float *host, struct lm_err *e)
{
    size_t step = LOGITS_BYTES / (d->vocab * sizeof(float));

    step = step ? step : 1;
    if (n_rows == 0)
        return 0;
    if (check_call(d, "logits", 0, x, d->d, first + n_rows, 0, e) != 0)
        return -1;
    for (size_t i = 0; i < n_rows; i += step) {
        size_t n = n_rows - i < step ? n_rows - i : step;
        if (logits_of(d, x->data + (first + i) * d->d, n, host + i * d->vocab, e) != 0)
            return -1;
    }
    return 0;
}

static const struct lm_backend backend = {
    "cuda", lmc_open, lmc_close, lmc_describe, lmc_buf_new, lmc_buf_free, lmc_buf_read, lmc_buf_write, lmc_buf_move,
    lmc_kv_new, lmc_kv_free, embed, qkv, attend, project, ffn, logits, nullptr, lmc_kv_read, lmc_sync,
};

extern "C" __attribute__((visibility("default"))) const struct lm_plugin lm_plugin_cuda;
const struct lm_plugin lm_plugin_cuda = {LM_BACKEND_ABI, &backend, lmc_n_devices};
