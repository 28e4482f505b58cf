/* Weights to the device, tensor by tensor through a ring of pinned buffers:
 * while one is on its way the next is filled from the file. */
#include "gpu/cuda_base.cuh"

#include <stdlib.h>

#define RING 4
#define PIECE ((size_t)16 << 20)

struct ring {
    uint8_t *host[RING], *dev[RING];
    cudaEvent_t free[RING];
    size_t size;
    int next;
};

static void ring_close(struct ring *r)
{
    for (int i = 0; i < RING; i++) {
        if (r->free[i])
            cudaEventDestroy(r->free[i]);
        cudaFreeHost(r->host[i]);
        cudaFree(r->dev[i]);
    }
}

static int ring_open(struct ring *r, size_t size, struct lm_err *e)
{
    r->size = size;
    for (int i = 0; i < RING; i++) {
        LMC_TRY(cudaMallocHost((void **)&r->host[i], size), "upload ring");
        LMC_TRY(cudaEventCreateWithFlags(&r->free[i], cudaEventDisableTiming), "upload ring");
        if (lmc_malloc((void **)&r->dev[i], size, "upload ring", e) != 0)
            return -1;
    }
    return 0;
}

static bool block_shape(enum lm_dtype t, lmc_shape *s)
{
    switch (t) {
#define CASE(d) case LM_##d: *s = lmc_block<LM_##d>::s; return true;
        LMC_BLOCK_TYPES(CASE)
#undef CASE
    default: return false;
    }
}

static int plain_bytes(enum lm_dtype t)
{
    switch (t) {
#define CASE(d) case LM_##d: return lmc_plain<LM_##d>::bytes;
        LMC_PLAIN_TYPES(CASE)
#undef CASE
    default: return 0;
    }
}

/* Bytes of the file that go through one buffer: whole blocks, whole stored rows
 * of a transposed matrix. */
static size_t piece_bytes(const struct lm_mat *m, const lmc_shape *s, size_t ring_size)
{
    size_t unit = m->transposed ? m->rows * (size_t)plain_bytes(m->tensor->dtype)
                  : s->block_bytes ? (size_t)s->block_bytes : 8;
    return ring_size / unit * unit;
}

/* Where the piece at byte `at` goes once it is on the device. */
static int place(struct lm_dev *d, const struct lm_mat *m, const struct lmc_mat *w, const lmc_shape *s, size_t at,
                 size_t n, const uint8_t *dev, struct lm_err *e)
{
    if (s->block_bytes)
        return lmc_repack(d, w->dtype, &w->planes, at / s->block_bytes * s->units, dev, n / s->block_bytes, e);
    uint32_t bytes = (uint32_t)plain_bytes(w->dtype);
    size_t row = (size_t)m->rows * bytes;
    return lmc_transpose(d, w->planes.codes, dev, m->rows, m->cols, (uint32_t)(at / row), (uint32_t)(n / row), bytes, e);
}

static int send(struct lm_dev *d, const struct lm_mat *m, const struct lmc_mat *w, const lmc_shape *s, struct ring *r,
                struct lm_err *e)
{
    size_t piece = piece_bytes(m, s, r->size), total = (size_t)m->tensor->n_bytes;
    bool straight = !s->block_bytes && !m->transposed;

    for (size_t at = 0; at < total; at += piece) {
        size_t n = total - at < piece ? total - at : piece;
        int i = r->next;
        r->next = (i + 1) % RING;
        LMC_TRY(cudaEventSynchronize(r->free[i]), w->tensor->name);
        lm_tensor_read(m->tensor, at, n, r->host[i]);
        uint8_t *to = straight ? w->planes.codes + at : r->dev[i];
        LMC_TRY(cudaMemcpyAsync(to, r->host[i], n, cudaMemcpyHostToDevice, d->stream), w->tensor->name);
        if (!straight && place(d, m, w, s, at, n, r->dev[i], e) != 0)
            return -1;
        LMC_TRY(cudaEventRecord(r->free[i], d->stream), w->tensor->name);
    }
    return 0;
}

static int check_mat(const struct lm_mat *m, const lmc_shape *s, struct lm_err *e)
{
    const struct lm_tensor *t = m->tensor;

    if (!s->block_bytes && plain_bytes(t->dtype) == 0)
        return lm_err_set(e, LM_UNSUPPORTED, "%s: cuda cannot compute with %s weights; convert them, or use --device cpu",
                          t->name, lm_dtype_name(t->dtype));
    if (s->block_bytes && m->transposed)
        return lm_err_set(e, LM_UNSUPPORTED,
                          "%s: %s blocks run along the wrong axis of this transposed matrix; convert the model to gguf first",
                          t->name, lm_dtype_name(t->dtype));
    if ((uint64_t)m->rows * m->cols != t->n_elems || (s->block_bytes && m->cols % (s->units * LMC_UNIT) != 0))
        return lm_err_set(e, LM_MISMATCH, "%s: %llu elements of %s, expected %u rows of %u", t->name,
                          (unsigned long long)t->n_elems, lm_dtype_name(t->dtype), m->rows, m->cols);
    return 0;
}

static int upload_bias(struct lm_dev *d, const struct lm_mat *m, struct lmc_mat *w, struct lm_err *e)
{
    if (!m->bias)
        return 0;
    w->bias = (float *)lmc_own(d, m->rows * sizeof(float), m->tensor->name, e);
    if (!w->bias)
        return -1;
    LMC_TRY(cudaMemcpy(w->bias, m->bias, m->rows * sizeof(float), cudaMemcpyHostToDevice), m->tensor->name);
    return 0;
}

static int upload_mat(struct lm_dev *d, struct lm_mat *m, struct ring *r, struct lm_err *e)
{
    lmc_shape s = {};

    m->handle = nullptr;
    if (!m->tensor)
        return 0;
    block_shape(m->tensor->dtype, &s);
    if (check_mat(m, &s, e) != 0)
        return -1;

    struct lmc_mat *w = &d->mats[d->n_mats];
    *w = {};
    w->tensor = m->tensor;
    w->dtype = m->tensor->dtype;
    w->rows = m->rows;
    w->cols = m->cols;
    for (size_t i = 0; i < d->n_mats; i++)
        if (d->mats[i].tensor == m->tensor && d->mats[i].rows == m->rows)
            w->planes = d->mats[i].planes; /* tied: one copy */
    bool shared = w->planes.codes || w->planes.two;
    if (!shared) {
        size_t bytes = s.block_bytes ? lmc_planes_at(&w->planes, &s, (size_t)(m->tensor->n_elems / LMC_UNIT), nullptr)
                                     : (size_t)m->tensor->n_bytes;
        uint8_t *p = (uint8_t *)lmc_own(d, bytes, m->tensor->name, e);
        if (!p)
            return -1;
        if (s.block_bytes)
            lmc_planes_at(&w->planes, &s, (size_t)(m->tensor->n_elems / LMC_UNIT), p);
        else
            w->planes.codes = p;
    }
    if (upload_bias(d, m, w, e) != 0 || (!shared && send(d, m, w, &s, r, e) != 0))
        return -1;
    d->n_mats++;
    m->handle = w;
    return 0;
}

static int upload_vec(struct lm_dev *d, struct lm_vec *v, const char *what, struct lm_err *e)
{
    v->handle = nullptr;
    if (!v->data)
        return 0;
    v->handle = lmc_own(d, v->n * sizeof(float), what, e);
    if (!v->handle)
        return -1;
    LMC_TRY(cudaMemcpy(v->handle, v->data, v->n * sizeof(float), cudaMemcpyHostToDevice), what);
    return 0;
}

static int upload_layer(struct lm_dev *d, struct lm_layer_weights *l, struct ring *r, struct lm_err *e)
{
    struct lm_mat *mats[] = {&l->q, &l->k, &l->v, &l->qkv, &l->out, &l->gate, &l->up, &l->down};
    struct lm_vec *vecs[] = {&l->attn_norm, &l->attn_norm_b, &l->ffn_norm, &l->ffn_norm_b};

    for (struct lm_mat *m : mats)
        if (upload_mat(d, m, r, e) != 0)
            return -1;
    for (struct lm_vec *v : vecs)
        if (upload_vec(d, v, "norm of a layer", e) != 0)
            return -1;
    return 0;
}

/* The longest stored row of a transposed matrix must fit a buffer. */
static size_t ring_size(const struct lm_net *net)
{
    const struct lm_config *c = &net->config;
    size_t widest = c->d_ff > 3 * (size_t)c->d_model ? c->d_ff : 3 * (size_t)c->d_model;
    return widest * 8 > PIECE ? widest * 8 : PIECE;
}

static int upload_all(struct lm_dev *d, struct lm_net *net, struct ring *r, struct lm_err *e)
{
    struct lm_mat *mats[] = {&net->embed, &net->pos_embed, &net->head};

    if (ring_open(r, ring_size(net), e) != 0)
        return -1;
    for (struct lm_mat *m : mats)
        if (upload_mat(d, m, r, e) != 0)
            return -1;
    if (upload_vec(d, &net->out_norm, "final norm", e) != 0 || upload_vec(d, &net->out_norm_b, "final norm", e) != 0)
        return -1;
    for (uint32_t i = 0; i < net->config.n_layers; i++)
        if (upload_layer(d, &net->layers[i], r, e) != 0)
            return -1;
    LMC_TRY(cudaStreamSynchronize(d->stream), "upload");
    return 0;
}

int lmc_upload(struct lm_dev *d, struct lm_net *net, struct lm_err *e)
{
    struct ring r = {};

    d->mats = (struct lmc_mat *)calloc(3 + 8 * (size_t)net->config.n_layers, sizeof *d->mats);
    if (!d->mats)
        return lm_err_set(e, LM_NOMEM, "cuda: out of memory for the list of weights");
    int rc = upload_all(d, net, &r, e);
    if (rc != 0)
        cudaStreamSynchronize(d->stream); /* nothing may still read the ring */
    ring_close(&r);
    return rc;
}
