/* The operations of a decoder, put together from products, small kernels and
 * attention.  A layer's first operation is qkv; its last is ffn, or project
 * where attention and feed-forward read the same input. */
#include "gpu/cuda_device.cuh"

static const struct lm_layer_weights *layer_of(const struct lm_dev *d, uint32_t layer)
{
    return &d->net->layers[layer];
}

static void *rows_of(const struct lm_dev *d, void *cache, uint32_t layer, uint32_t row)
{
    return lmc_at(d, cache, (size_t)layer * d->net->ctx_len * row);
}

/* Positions [pos0, pos0 + n) must exist, n tokens must fit the buffer. */
static int check(const struct lm_dev *d, const char *what, const struct lm_buf *b, size_t width, size_t n, size_t pos0,
                 struct lm_err *e)
{
    if (n == 0 || n > d->net->ctx_len || pos0 > d->net->ctx_len - n)
        return lm_err_set(e, LM_LIMIT, "cuda: %s: positions %zu to %zu, the context holds %u", what, pos0, pos0 + n,
                          d->net->ctx_len);
    if (b && b->n / width < n)
        return lm_err_set(e, LM_USAGE, "cuda: %s: a buffer of %zu values for %zu tokens of %zu", what, b->n, n, width);
    return 0;
}

int lmc_check_op(const struct lm_dev *d, const struct lmc_op *op, size_t pos0, struct lm_err *e)
{
    static const char *const names[] = {"embedding", "qkv", "attention", "out-projection", "ffn", "logits"};
    const char *what = names[op->kind];
    const size_t q = op->kind == LMC_OP_PROJECT ? d->d_a : d->d_q;
    size_t n = op->kind == LMC_OP_LOGITS ? op->first + op->n : op->n;

    if (op->layer >= d->net->config.n_layers)
        return lm_err_set(e, LM_USAGE, "cuda: %s: layer %u of %u", what, op->layer, d->net->config.n_layers);
    if (op->kind == LMC_OP_ATTEND)
        return check(d, what, op->q, q, n, pos0, e) != 0 || check(d, what, op->x, d->d_a, n, pos0, e) != 0 ? -1 : 0;
    if (check(d, what, op->x, d->d, n, pos0, e) != 0 || (op->q && check(d, what, op->q, q, n, pos0, e) != 0))
        return -1;
    const struct lmc_mat *pos = op->kind == LMC_OP_EMBED && op->add_pos ? lmc_mat_of(&d->net->pos_embed) : nullptr;
    if (pos && (pos->rows < n || pos0 > pos->rows - n))
        return lm_err_set(e, LM_LIMIT, "cuda: position %zu, %s has %u rows", pos0 + n - 1, pos->tensor->name, pos->rows);
    return 0;
}

/* A product's input: norm of x in scratch, or x itself where there is none. */
static const void *normed(struct lm_dev *d, const void *x, const struct lm_vec *w, const struct lm_vec *b, size_t n,
                          struct lm_err *e)
{
    if (!w->data)
        return x;
    void *y = lmc_reals(d, LMC_NORM, n * d->d, e);
    return !y || lmc_norm(d, x, d->d, w, b, d->d, n, y, e) != 0 ? nullptr : y;
}

static struct lmc_job job_of(const void *x, uint32_t cols, size_t ldx, size_t n)
{
    struct lmc_job job = {};
    job.x = x;
    job.cols = cols;
    job.ldx = ldx;
    job.n = n;
    job.act.act = LMC_ACT_NONE;
    return job;
}

static void add_part(struct lmc_job *job, const struct lm_mat *m, void *out, size_t ld)
{
    job->part[job->n_parts++] = {lmc_mat_of(m), 0, m->rows, out, ld};
}

/* out = m x */
static int product(struct lm_dev *d, const struct lm_mat *m, const void *x, size_t ldx, void *out, size_t ldy, size_t n,
                   struct lm_err *e)
{
    struct lmc_job job = job_of(x, m->cols, ldx, n);
    add_part(&job, m, out, ldy);
    return lmc_product(d, &job, e);
}

/* ---- latent attention */

/* The same kind of product for every head. */
static int head_products(struct lm_dev *d, const struct lmc_many *many, const struct lm_mat *m, const void *x, size_t ldx,
                         size_t x_step, void *y, size_t ldy, size_t y_step, size_t n, struct lm_err *e)
{
    if (n <= 8 && lmc_can_choose(d, many)) {
        struct lmc_choice c = {{many, nullptr}, nullptr, many->n, (uint32_t)n, (const float *)x, ldx, x_step, (float *)y,
                               ldy, y_step, {LMC_ACT_NONE, 0, 0}};
        return lmc_choose(d, &c, e);
    }
    for (uint32_t h = 0; h < many->n; h++)
        if (product(d, m + h, lmc_at(d, x, h * x_step), ldx, lmc_at(d, y, h * y_step), ldy, n, e) != 0)
            return -1;
    return 0;
}

/* A token's scratch: queries, their small vector, the latent vector with the rotated key. */
static int latent_qkv(struct lm_dev *d, const struct lmc_op *op, const void *x, struct lmc_pos pos0, struct lm_err *e)
{
    const struct lm_config *c = &d->net->config;
    const struct lm_layer_weights *l = layer_of(d, op->layer);
    const size_t nq = (size_t)c->n_heads * c->d_head, ld = nq + c->q_lora + d->d_k, n = op->n;
    void *wide = lmc_reals(d, LMC_WIDE, n * ld, e);

    if (!wide)
        return -1;
    void *low = lmc_at(d, wide, nq), *latent = lmc_at(d, low, c->q_lora);
    if (l->q.tensor) {
        if (product(d, &l->q, x, d->d, wide, ld, n, e) != 0)
            return -1;
    } else if (product(d, &l->q_a, x, d->d, low, ld, n, e) != 0 ||
               lmc_norm(d, low, ld, &l->q_a_norm, nullptr, c->q_lora, n, low, e) != 0 ||
               product(d, &l->q_b, low, ld, wide, ld, n, e) != 0) {
        return -1;
    }
    if (product(d, &l->kv_a, x, d->d, latent, ld, n, e) != 0 ||
        lmc_store_latent(d, l, wide, latent, ld, op->q->data, rows_of(d, op->kv->k, op->layer, d->k_row), n, pos0, e) != 0)
        return -1;
    return head_products(d, &d->many[op->layer][LMC_K_B], l->k_b, wide, ld, c->d_head, op->q->data, d->d_q, d->d_k, n, e);
}

/* ---- operations */

static int qkv(struct lm_dev *d, const struct lmc_op *op, struct lmc_pos pos0, struct lm_err *e)
{
    const struct lm_config *c = &d->net->config;
    const struct lm_layer_weights *l = layer_of(d, op->layer);
    const size_t nq = (size_t)c->n_heads * c->d_head, nkv = (size_t)c->n_kv_heads * c->d_head, ld = nq + 2 * nkv;

    if (lmc_enter(d, op->layer, e) != 0)
        return -1;
    const void *y = normed(d, op->x->data, &l->attn_norm, &l->attn_norm_b, op->n, e);
    if (!y || c->kv_lora)
        return y ? latent_qkv(d, op, y, pos0, e) : -1;
    void *wide = lmc_reals(d, LMC_WIDE, op->n * ld, e);
    struct lmc_job job = job_of(y, d->d, d->d, op->n);
    if (!wide)
        return -1;
    if (l->qkv.tensor) {
        add_part(&job, &l->qkv, wide, ld);
    } else {
        add_part(&job, &l->q, wide, ld);
        add_part(&job, &l->k, lmc_at(d, wide, nq), ld);
        add_part(&job, &l->v, lmc_at(d, wide, nq + nkv), ld);
    }
    if (lmc_product(d, &job, e) != 0)
        return -1;
    return lmc_store_heads(d, l, wide, ld, op->q->data, rows_of(d, op->kv->k, op->layer, d->k_row),
                           rows_of(d, op->kv->v, op->layer, d->v_row), op->n, pos0, e);
}

static struct lmc_attend attend_of(const struct lm_dev *d, const struct lmc_op *op, struct lmc_pos pos0)
{
    return {layer_of(d, op->layer), op->q->data, rows_of(d, op->kv->k, op->layer, d->k_row),
            rows_of(d, op->kv->v, op->layer, d->v_row), op->x->data, op->n, pos0};
}

/* A half of the layer joins the residual stream without norm or scale. */
static bool joins_plainly(const struct lm_dev *d, const struct lm_vec *post)
{
    double scale = d->net->config.residual_scale;
    return !post->data && (scale == 0 || scale == 1);
}

static int project(struct lm_dev *d, const struct lmc_op *op, struct lm_err *e)
{
    const struct lm_config *c = &d->net->config;
    const struct lm_layer_weights *l = layer_of(d, op->layer);
    const void *x = op->q->data;

    if (c->kv_lora) {
        size_t ld = (size_t)c->n_heads * c->d_head_v;
        void *wide = lmc_reals(d, LMC_WIDE, op->n * ld, e);
        if (!wide || head_products(d, &d->many[op->layer][LMC_V_B], l->v_b, x, d->d_a, d->d_v, wide, ld, c->d_head_v,
                                   op->n, e) != 0)
            return -1;
        x = wide;
    }
    bool plain = joins_plainly(d, &l->post_attn_norm);
    void *out = plain ? op->x->data : lmc_reals(d, LMC_OUT, op->n * d->d, e);
    struct lmc_job job = job_of(x, l->out.cols, l->out.cols, op->n);
    if (!out)
        return -1;
    job.add = plain;
    add_part(&job, &l->out, out, d->d);
    if (lmc_product(d, &job, e) != 0 || (!plain && lmc_join(d, op->x->data, out, &l->post_attn_norm, op->n, e) != 0))
        return -1;
    return c->parallel ? lmc_leave(d, op->layer, e) : 0;
}

static int ffn(struct lm_dev *d, const struct lmc_op *op, struct lm_err *e)
{
    const struct lm_layer_weights *l = layer_of(d, op->layer);
    const void *y = normed(d, op->x->data, &l->ffn_norm, &l->ffn_norm_b, op->n, e);
    bool experts = l->router.tensor != nullptr, plain = !experts && joins_plainly(d, &l->post_ffn_norm);
    void *out = plain ? op->x->data : y ? lmc_reals(d, LMC_OUT, op->n * d->d, e) : nullptr;

    if (!y || !out)
        return -1;
    if ((experts ? lmc_experts(d, op->layer, y, op->n, out, e)
                 : lmc_ffn(d, &l->gate, &l->up, &l->down, y, op->n, out, plain, e)) != 0 ||
        (!plain && lmc_join(d, op->x->data, out, &l->post_ffn_norm, op->n, e) != 0))
        return -1;
    return d->net->config.parallel ? 0 : lmc_leave(d, op->layer, e);
}

static int logits(struct lm_dev *d, const struct lmc_op *op, struct lm_err *e)
{
    const struct lm_net *net = d->net;
    const void *y = normed(d, lmc_at(d, op->x->data, op->first * d->d), &net->out_norm, &net->out_norm_b, op->n, e);
    void *out = y ? lmc_reals(d, LMC_LOGITS, op->n * d->vocab, e) : nullptr;

    if (!out || product(d, &net->head, y, d->d, out, d->vocab, op->n, e) != 0)
        return -1;
    return lmc_finish(d, out, op->n * d->vocab, e);
}

int lmc_run_op(struct lm_dev *d, const struct lmc_op *op, struct lmc_pos pos0, const int32_t *ids, struct lm_err *e)
{
    const struct lmc_mat *pos = op->add_pos ? lmc_mat_of(&d->net->pos_embed) : nullptr;
    struct lmc_attend a;

    switch (op->kind) {
    case LMC_OP_EMBED: return lmc_embed(d, lmc_mat_of(&d->net->embed), pos, ids, op->n, pos0, op->x->data, e);
    case LMC_OP_QKV: return qkv(d, op, pos0, e);
    case LMC_OP_ATTEND: a = attend_of(d, op, pos0); return lmc_attend(d, &a, e);
    case LMC_OP_PROJECT: return project(d, op, e);
    case LMC_OP_FFN: return ffn(d, op, e);
    default: return logits(d, op, e);
    }
}
