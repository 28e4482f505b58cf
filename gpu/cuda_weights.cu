/* Which matrices there are and what they take; then everything to the device:
 * vectors and biases to memory of their own, each layer's matrices into one
 * piece (or, where layers come and go, later: cuda_stream.cu). */
#include "gpu/cuda_base.cuh"

#include <stdlib.h>

#define PIECE ((size_t)16 << 20)

/* ---- storage types */

static bool block_shape(enum lm_dtype t, lmc_shape *s)
{
    switch (t) {
#define CASE(d) case LM_##d: *s = lmc_block<LM_##d>::s; return true;
        LMC_BLOCK_TYPES(CASE)
#undef CASE
    default: return false;
    }
}

enum lmc_kind lmc_kind_of(enum lm_dtype t)
{
    switch (t) {
#define CASE(d) case LM_##d:
        LMC_BLOCK_TYPES(CASE) return LMC_BLOCKS;
        LMC_CODED_TYPES(CASE) return LMC_CODED;
        LMC_PLAIN_TYPES(CASE) return LMC_PLAIN;
#undef CASE
    default: return LMC_NO_KIND;
    }
}

struct lmc_layout lmc_layout_of(enum lm_dtype t)
{
    const struct lm_dtype_info *i = lm_dtype_info(t);
    struct lmc_layout l = {lmc_kind_of(t), i->block_elems, i->block_bytes, {}};
    block_shape(t, &l.shape);
    return l;
}

/* ---- listing */

static int check_mat(const struct lm_mat *m, const struct lmc_layout *l, struct lm_err *e)
{
    const struct lm_tensor *t = m->tensor;
    const char *type = lm_dtype_name(t->dtype);

    if (l->kind == LMC_NO_KIND)
        return lm_err_set(e, LM_UNSUPPORTED, "%s: cuda cannot compute with %s weights; convert them, or use --device cpu",
                          t->name, type);
    if (l->kind != LMC_PLAIN && m->transposed)
        return lm_err_set(e, LM_UNSUPPORTED,
                          "%s: %s blocks run along the wrong axis of this transposed matrix; convert the model to gguf first",
                          t->name, type);
    if ((l->kind != LMC_PLAIN && (m->cols % LMC_UNIT != 0 || m->cols % l->block_elems != 0)) ||
        (!m->part && (uint64_t)m->rows * m->cols != t->n_elems))
        return lm_err_set(e, LM_MISMATCH, "%s: %llu elements of %s, expected %u rows of %u", t->name,
                          (unsigned long long)t->n_elems, type, m->rows, m->cols);
    if (m->part && (m->at % l->block_elems != 0 || (!m->transposed && m->row_step % l->block_elems != 0)))
        return lm_err_set(e, LM_UNSUPPORTED, "%s: rows that begin inside a block of %s; use --device cpu", t->name, type);
    return 0;
}

static size_t mat_bytes(const struct lmc_mat *w, lmc_planes *at, uint8_t *base)
{
    struct lmc_layout l = lmc_layout_of(w->dtype);
    size_t n = (size_t)w->rows * w->cols;

    if (l.kind == LMC_BLOCKS)
        return lmc_planes_at(at, &l.shape, n / LMC_UNIT, base);
    at->codes = base;
    return lmc_plane_round(n / l.block_elems * l.block_bytes);
}

/* home: layer, or n_layers for what is outside. */
static int list_mat(struct lm_dev *d, struct lm_mat *m, uint32_t home, size_t *homes, struct lm_err *e)
{
    m->handle = nullptr;
    if (!m->tensor)
        return 0;
    struct lmc_layout l = lmc_layout_of(m->tensor->dtype);
    if (check_mat(m, &l, e) != 0)
        return -1;
    if (d->n_mats == d->cap_mats) {
        size_t cap = d->cap_mats ? 2 * d->cap_mats : 256;
        struct lmc_mat *grown = (struct lmc_mat *)realloc(d->mats, cap * sizeof *grown);
        if (!grown)
            return lm_err_set(e, LM_NOMEM, "cuda: out of memory for the list of weights");
        d->mats = grown;
        d->cap_mats = cap;
    }
    struct lmc_mat *w = &d->mats[d->n_mats++];
    lmc_planes none;
    *w = {};
    w->of = m;
    w->tensor = m->tensor;
    w->dtype = m->tensor->dtype;
    w->rows = m->rows;
    w->cols = m->cols;
    w->home = (int)home;
    w->at = homes[home];
    homes[home] += mat_bytes(w, &none, nullptr);
    return 0;
}

/* All matrices of a layer that are not one of many. */
static unsigned layer_mats(struct lm_layer_weights *l, struct lm_mat *out[20])
{
    struct lm_mat *all[] = {&l->q,    &l->k,    &l->v,      &l->qkv,    &l->out,  &l->gate,   &l->up,    &l->down, &l->q_a,
                            &l->q_b,  &l->kv_a, &l->router, &l->s_gate, &l->s_up, &l->s_down, &l->s_router};
    memcpy(out, all, sizeof all);
    return sizeof all / sizeof *all;
}

static struct lm_mat *many_of(const struct lm_dev *d, struct lm_layer_weights *l, int role, uint32_t *n)
{
    struct lm_mat *all[] = {l->e_gate, l->e_up, l->e_down, l->k_b, l->v_b};
    *n = !all[role] ? 0 : role < LMC_K_B ? d->net->config.n_experts : d->net->config.n_heads;
    return all[role];
}

static int list_layer(struct lm_dev *d, struct lm_layer_weights *l, uint32_t layer, size_t *homes, struct lm_err *e)
{
    struct lm_mat *mats[20];
    unsigned n = layer_mats(l, mats);

    for (unsigned i = 0; i < n; i++)
        if (list_mat(d, mats[i], layer, homes, e) != 0)
            return -1;
    for (int role = 0; role < LMC_N_MANY; role++) {
        uint32_t k;
        struct lm_mat *m = many_of(d, l, role, &k);
        for (uint32_t i = 0; i < k; i++)
            if (list_mat(d, m + i, layer, homes, e) != 0)
                return -1;
    }
    return 0;
}

/* A tied output is the embedding once more. */
static bool is_tied(const struct lm_net *net)
{
    const struct lm_mat *a = &net->head, *b = &net->embed;
    return a->tensor == b->tensor && a->rows == b->rows && !a->part && !b->part && a->transposed == b->transposed;
}

int lmc_list(struct lm_dev *d, struct lm_net *net, size_t *homes, struct lm_err *e)
{
    const uint32_t outside = net->config.n_layers;

    if (list_mat(d, &net->embed, outside, homes, e) != 0 || list_mat(d, &net->pos_embed, outside, homes, e) != 0)
        return -1;
    size_t before = homes[outside];
    if (list_mat(d, &net->head, outside, homes, e) != 0)
        return -1;
    if (is_tied(net)) {
        homes[outside] = before;
        d->mats[d->n_mats - 1].at = 0;
        d->mats[d->n_mats - 1].shared = true;
    }
    for (uint32_t i = 0; i < net->config.n_layers; i++)
        if (list_layer(d, &net->layers[i], i, homes, e) != 0)
            return -1;
    return 0;
}

/* ---- vectors */

/* Values as activations are: widened ones where they are doubles. */
static void *send_values(struct lm_dev *d, const float *narrow, const double *exact, size_t n, const char *what,
                         struct lm_err *e)
{
    void *p = lmc_own(d, n * d->real, what, e);
    cudaError_t r = cudaSuccess;

    if (p && d->f64 && exact) {
        r = cudaMemcpy(p, exact, n * sizeof *exact, cudaMemcpyHostToDevice);
    } else if (p && d->f64) {
        double *wide = (double *)malloc(n * sizeof *wide);
        for (size_t i = 0; wide && i < n; i++)
            wide[i] = (double)narrow[i];
        r = wide ? cudaMemcpy(p, wide, n * sizeof *wide, cudaMemcpyHostToDevice) : cudaErrorMemoryAllocation;
        free(wide);
    } else if (p) {
        r = cudaMemcpy(p, narrow, n * sizeof *narrow, cudaMemcpyHostToDevice);
    }
    if (r == cudaSuccess)
        return p;
    lmc_failed(e, r, "cudaMemcpy", what);
    return nullptr;
}

static int upload_vec(struct lm_dev *d, struct lm_vec *v, const char *what, struct lm_err *e)
{
    v->handle = nullptr;
    if (!v->data)
        return 0;
    v->handle = send_values(d, v->data, v->exact, v->n, what, e);
    return v->handle ? 0 : -1;
}

static unsigned layer_vecs(struct lm_layer_weights *l, struct lm_vec *out[20])
{
    struct lm_vec *all[] = {&l->attn_norm, &l->attn_norm_b, &l->ffn_norm,       &l->ffn_norm_b,
                            &l->q_norm,    &l->k_norm,      &l->post_attn_norm, &l->post_ffn_norm,
                            &l->sinks,     &l->q_a_norm,    &l->kv_a_norm,      &l->correction};
    memcpy(out, all, sizeof all);
    return sizeof all / sizeof *all;
}

static int upload_vecs(struct lm_dev *d, struct lm_net *net, struct lm_err *e)
{
    if (upload_vec(d, &net->out_norm, "final norm", e) != 0 || upload_vec(d, &net->out_norm_b, "final norm", e) != 0)
        return -1;
    for (uint32_t i = 0; i < net->config.n_layers; i++) {
        struct lm_vec *vecs[20];
        unsigned n = layer_vecs(&net->layers[i], vecs);
        for (unsigned j = 0; j < n; j++)
            if (upload_vec(d, vecs[j], "vectors of a layer", e) != 0)
                return -1;
    }
    return 0;
}

/* ---- matrices */

static uint8_t *book_of(struct lm_dev *d, enum lm_dtype t, struct lm_err *e)
{
    size_t n;
    const uint16_t *book = lmc_codebook(t, &n);

    if (!book || d->books[t])
        return d->books[t];
    d->books[t] = (uint8_t *)lmc_own(d, n * sizeof *book, "codebook", e);
    if (d->books[t] && cudaMemcpy(d->books[t], book, n * sizeof *book, cudaMemcpyHostToDevice) != cudaSuccess)
        d->books[t] = nullptr;
    return d->books[t];
}

/* Where a matrix's planes are; its bias, unless it is one of many. */
static int settle(struct lm_dev *d, struct lmc_mat *w, uint8_t *base, struct lm_err *e)
{
    const struct lm_mat *m = w->of;
    size_t n;

    mat_bytes(w, &w->planes, base + w->at);
    if (lmc_codebook(w->dtype, &n) && !(w->planes.two = book_of(d, w->dtype, e)))
        return lm_err_set(e, LM_NOMEM, "cuda: no memory for the codebook of %s", lm_dtype_name(w->dtype));
    if (m->bias && !w->bias && !(w->bias = send_values(d, m->bias, m->bias_exact, m->rows, m->tensor->name, e)))
        return -1;
    ((struct lm_mat *)m)->handle = w;
    return 0;
}

/* Biases of experts in one piece, so that kernels find them by number. */
static int upload_many_bias(struct lm_dev *d, struct lmc_many *many, struct lm_mat *m, struct lm_err *e)
{
    size_t rows = m->rows, n = many->n;

    if (!m->bias)
        return 0;
    float *narrow = (float *)malloc(n * rows * sizeof *narrow);
    double *wide = d->f64 ? (double *)malloc(n * rows * sizeof *wide) : nullptr;
    for (size_t i = 0; narrow && i < n; i++) {
        memcpy(narrow + i * rows, m[i].bias, rows * sizeof *narrow);
        for (size_t j = 0; wide && j < rows; j++)
            wide[i * rows + j] = m[i].bias_exact ? m[i].bias_exact[j] : (double)m[i].bias[j];
    }
    if (narrow && (wide || !d->f64))
        many->bias = send_values(d, narrow, wide, n * rows, m->tensor->name, e);
    else
        lm_err_set(e, LM_NOMEM, "cuda: out of memory");
    free(narrow);
    free(wide);
    for (size_t i = 0; many->bias && i < n; i++)
        ((struct lmc_mat *)m[i].handle)->bias = lmc_at(d, many->bias, i * rows);
    return many->bias ? 0 : -1;
}

static int upload_many(struct lm_dev *d, struct lmc_many *many, struct lm_mat *m, uint32_t n, struct lm_err *e)
{
    bool alike = true;

    many->n = n;
    many->first = lmc_mat_of(m);
    for (uint32_t i = 0; i < n; i++)
        alike = alike && m[i].tensor && m[i].tensor->dtype == m->tensor->dtype && m[i].rows == m->rows &&
                m[i].cols == m->cols;
    if (!alike)
        return 0;
    lmc_planes *host = (lmc_planes *)malloc(n * sizeof *host);
    void *dev = host ? lmc_own(d, n * sizeof *host, "table of experts", e) : nullptr;
    for (uint32_t i = 0; dev && i < n; i++)
        host[i] = lmc_mat_of(m + i)->planes;
    cudaError_t r = dev ? cudaMemcpy(dev, host, n * sizeof *host, cudaMemcpyHostToDevice) : cudaErrorMemoryAllocation;
    free(host);
    many->planes = (const lmc_planes *)dev;
    return r == cudaSuccess ? 0 : lmc_failed(e, r, "cudaMemcpy", "table of experts");
}

/* Biases first: settle does not send those of many again. */
static int settle_all(struct lm_dev *d, struct lm_net *net, const size_t *homes, struct lm_err *e)
{
    const uint32_t outside = net->config.n_layers;
    uint8_t *base = (uint8_t *)lmc_own(d, homes[outside], "embedding and output", e);

    if (!base)
        return -1;
    for (size_t i = 0; i < d->n_mats; i++)
        ((struct lm_mat *)d->mats[i].of)->handle = &d->mats[i];
    for (uint32_t i = 0; i < net->config.n_layers; i++)
        for (int role = 0; role < LMC_N_MANY; role++) {
            uint32_t n;
            struct lm_mat *m = many_of(d, &net->layers[i], role, &n);
            d->many[i][role].n = n;
            if (n && upload_many_bias(d, &d->many[i][role], m, e) != 0)
                return -1;
        }
    for (size_t i = 0; i < d->n_mats; i++) {
        uint32_t home = (uint32_t)d->mats[i].home;
        if (settle(d, &d->mats[i], home == outside ? base : lmc_stream_place(d, home), e) != 0)
            return -1;
    }
    for (uint32_t i = 0; i < net->config.n_layers; i++)
        for (int role = 0; role < LMC_N_MANY; role++) {
            uint32_t n;
            struct lm_mat *m = many_of(d, &net->layers[i], role, &n);
            if (n && upload_many(d, &d->many[i][role], m, n, e) != 0)
                return -1;
        }
    return 0;
}

/* The longest line must fit a buffer. */
static size_t ring_size(const struct lm_dev *d)
{
    size_t size = PIECE;
    for (size_t i = 0; i < d->n_mats; i++) {
        size_t n = lmc_line_bytes(d->mats[i].of);
        size = n > size ? n : size;
    }
    return size;
}

static int send_kept(struct lm_dev *d, uint32_t kept, struct lmc_ring *ring, struct lm_err *e)
{
    const int outside = (int)d->net->config.n_layers;

    for (size_t i = 0; i < d->n_mats; i++) {
        const struct lmc_mat *w = &d->mats[i];
        if (!w->shared && (w->home == outside || w->home < (int)kept) && lmc_send(d, w, ring, d->stream, e) != 0)
            return -1;
    }
    LMC_TRY(cudaStreamSynchronize(d->stream), "upload");
    return 0;
}

int lmc_upload(struct lm_dev *d, struct lm_net *net, const size_t *homes, uint32_t kept, struct lm_err *e)
{
    struct lmc_ring *ring = nullptr;

    d->many = (struct lmc_many(*)[LMC_N_MANY])calloc(net->config.n_layers, sizeof *d->many);
    if (!d->many)
        return lm_err_set(e, LM_NOMEM, "cuda: out of memory for the list of experts");
    if (lmc_stream_open(d, homes, kept, ring_size(d), e) != 0 || upload_vecs(d, net, e) != 0 ||
        settle_all(d, net, homes, e) != 0 || lmc_ring_open(&ring, ring_size(d), e) != 0)
        return -1;
    int rc = send_kept(d, kept, ring, e);
    lmc_ring_close(ring);
    return rc;
}

/* The handles in the net would dangle. */
void lmc_forget(struct lm_dev *d)
{
    struct lm_net *net = d->net;

    for (size_t i = 0; i < d->n_mats; i++)
        ((struct lm_mat *)d->mats[i].of)->handle = nullptr;
    net->out_norm.handle = net->out_norm_b.handle = nullptr;
    for (uint32_t i = 0; i < net->config.n_layers; i++) {
        struct lm_vec *vecs[20];
        unsigned n = layer_vecs(&net->layers[i], vecs);
        for (unsigned j = 0; j < n; j++)
            vecs[j]->handle = nullptr;
    }
}
