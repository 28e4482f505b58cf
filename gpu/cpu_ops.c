/* The operations of a decoder layer on the CPU. A task is a tile of weight rows
 * for all tokens; which thread runs it does not change any result. */
#include <math.h>
#include "gpu/cpu.h"

/* ---- norms: sums in double over eight interleaved columns, so that the order is fixed */

static double sum_of(const float *x, size_t n, double shift, bool squares)
{
    double acc[8] = {0};
    size_t i = 0;

    for (; i + 8 <= n; i += 8)
        for (size_t j = 0; j < 8; j++) {
            double v = (double)x[i + j] - shift;
            acc[j] += squares ? v * v : v;
        }
    for (size_t j = 0; i + j < n; j++) {
        double v = (double)x[i + j] - shift;
        acc[j] += squares ? v * v : v;
    }
    return ((acc[0] + acc[4]) + (acc[2] + acc[6])) + ((acc[1] + acc[5]) + (acc[3] + acc[7]));
}

void lmi_cpu_norm(const struct lm_config *c, float *out, const float *x, size_t n, const struct lm_vec *w,
                  const struct lm_vec *b)
{
    double mean = c->arch->norm == LM_NORM_LAYER ? sum_of(x, n, 0, false) / (double)n : 0;
    double scale = 1 / sqrt(sum_of(x, n, mean, true) / (double)n + c->norm_eps);

    for (size_t i = 0; i < n; i++)
        out[i] = (float)(((double)x[i] - mean) * scale) * w->data[i];
    if (b->data)
        for (size_t i = 0; i < n; i++)
            out[i] += b->data[i];
}

struct norm_rows { struct lm_dev *d; const float *x; const struct lm_vec *w, *b; };

static void norm_row(const void *what, size_t t, int thread)
{
    const struct norm_rows *r = what;
    size_t width = r->d->net->config.d_model;

    (void)thread;
    lmi_cpu_norm(&r->d->net->config, r->d->norm + t * width, r->x + t * width, width, r->w, r->b);
}

const float *lmi_cpu_norm_rows(struct lm_dev *d, const float *x, size_t n, const struct lm_vec *w,
                               const struct lm_vec *b)
{
    if (!w->data)
        return x;
    lmi_pool_for(d->pool, n, false, norm_row, &(struct norm_rows){d, x, w, b});
    return d->norm;
}

/* ---- products */

static size_t n_tiles(const struct lm_mat *m)
{
    return ((size_t)m->rows + LMI_ROWS - 1) / LMI_ROWS;
}
static size_t tile_rows(const struct lm_mat *m, size_t r0)
{
    return m->rows - r0 < LMI_ROWS ? m->rows - r0 : LMI_ROWS;
}

/* Every tile of a product. For few tokens a tile takes microseconds. */
static void for_tiles(struct lm_dev *d, size_t total, size_t n_tokens, lmi_task_fn *task, const void *what)
{
    lmi_pool_for(d->pool, total, n_tokens <= 4, task, what);
}

struct products { struct lm_dev *d; const struct lmi_job *jobs; const struct lmi_acts *a; size_t ldy; };

static void product_tile(const void *what, size_t tile, int thread)
{
    const struct products *p = what;
    const struct lmi_job *j = p->jobs;

    for (; tile >= n_tiles(j->m); j++)
        tile -= n_tiles(j->m);
    size_t r0 = tile * LMI_ROWS;
    lmi_mat_tile(p->d, j->m, p->a, r0, tile_rows(j->m, r0), j->y + r0, p->ldy, p->d->threads + thread);
}

void lmi_cpu_products(struct lm_dev *d, const struct lmi_job *jobs, size_t n_jobs, const struct lmi_acts *a, size_t ldy)
{
    size_t total = 0;

    for (size_t i = 0; i < n_jobs; i++)
        total += n_tiles(jobs[i].m);
    for_tiles(d, total, a->n, product_tile, &(struct products){d, jobs, a, ldy});
}

static void add_tile(const void *what, size_t tile, int thread)
{
    const struct products *p = what;
    const struct lm_mat *m = p->jobs->m;
    struct lmi_thread *th = p->d->threads + thread;
    size_t r0 = tile * LMI_ROWS, rows = tile_rows(m, r0);

    lmi_mat_tile(p->d, m, p->a, r0, rows, th->tile, rows, th);
    for (size_t t = 0; t < p->a->n; t++)
        for (size_t r = 0; r < rows; r++)
            p->jobs->y[t * p->ldy + r0 + r] += th->tile[t * rows + r];
}

/* x [n, rows] += m a */
static void add_product(struct lm_dev *d, const struct lm_mat *m, const struct lmi_acts *a, float *x)
{
    for_tiles(d, n_tiles(m), a->n, add_tile, &(struct products){d, &(struct lmi_job){m, x}, a, m->rows});
}

struct joined { struct lm_dev *d; float *y, *x; const struct lm_vec *post; };

static void join_row(const void *what, size_t t, int thread)
{
    const struct joined *j = what;
    const struct lm_config *c = &j->d->net->config;
    const struct lm_vec none = {0};
    size_t width = c->d_model;
    float scale = c->residual_scale > 0 ? (float)c->residual_scale : 1, *row = j->y + t * width;

    (void)thread;
    if (j->post->data)
        lmi_cpu_norm(c, row, row, width, j->post, &none);
    for (size_t i = 0; i < width; i++)
        j->x[t * width + i] += scale * row[i];
}

/* x [n, d] += scale * y, normed before where the layer says so. */
static void join(struct lm_dev *d, float *y, float *x, size_t n, const struct lm_vec *post)
{
    lmi_pool_for(d->pool, n, false, join_row, &(struct joined){d, y, x, post});
}

static bool joins_plainly(const struct lm_config *c, const struct lm_vec *post)
{
    return !post->data && (c->residual_scale == 0 || c->residual_scale == 1);
}

/* The product of a half of the layer to the residual stream. */
static void add_half(struct lm_dev *d, const struct lm_mat *m, const struct lmi_acts *a, float *x,
                     const struct lm_vec *post)
{
    if (joins_plainly(&d->net->config, post)) {
        add_product(d, m, a, x);
        return;
    }
    lmi_cpu_products(d, &(struct lmi_job){m, d->out}, 1, a, m->rows);
    join(d, d->out, x, a->n, post);
}

/* ---- operations */

int lmi_cpu_embed(struct lm_dev *d, struct lm_buf *x, const int32_t *ids, size_t n, size_t pos0, bool add_pos,
                  struct lm_err *e)
{
    const struct lm_net *net = d->net;
    size_t width = net->config.d_model;
    float scale = net->config.embed_scale > 0 ? (float)net->config.embed_scale : 1;

    if (lmi_cpu_reserve(d, n, e))
        return -1;
    for (size_t t = 0; t < n; t++) {
        lmi_mat_row(&net->embed, (size_t)ids[t], x->data + t * width);
        for (size_t i = 0; scale != 1 && i < width; i++)
            x->data[t * width + i] *= scale;
        if (!add_pos || !net->pos_embed.tensor)
            continue;
        lmi_mat_row(&net->pos_embed, pos0 + t, d->norm);
        for (size_t i = 0; i < width; i++)
            x->data[t * width + i] += d->norm[i];
    }
    return 0;
}

int lmi_cpu_qkv(struct lm_dev *d, uint32_t layer, const struct lm_buf *x, struct lm_buf *q, struct lm_kv *kv, size_t n,
                size_t pos0, struct lm_err *e)
{
    const struct lm_layer_weights *w = d->net->layers + layer;
    const struct lm_config *c = &d->net->config;
    size_t nq = (size_t)c->n_heads * c->d_head, nkv = (size_t)c->n_kv_heads * c->d_head;
    struct lmi_acts a;

    if (lmi_cpu_reserve(d, n, e))
        return -1;
    const float *in = lmi_cpu_norm_rows(d, x->data, n, &w->attn_norm, &w->attn_norm_b);
    if (c->kv_lora) {
        lmi_cpu_latent_qkv(d, layer, in, q, kv, n, pos0);
        return 0;
    }
    if (w->qkv.tensor) {
        lmi_acts_prepare(d, &a, in, c->d_model, n, (const struct lm_mat *[]){&w->qkv}, 1);
        lmi_cpu_products(d, &(struct lmi_job){&w->qkv, d->wide}, 1, &a, nq + 2 * nkv);
    } else {
        struct lmi_job jobs[] = {{&w->q, d->wide}, {&w->k, d->wide + nq}, {&w->v, d->wide + nq + nkv}};
        lmi_acts_prepare(d, &a, in, c->d_model, n, (const struct lm_mat *[]){&w->q, &w->k, &w->v}, 3);
        lmi_cpu_products(d, jobs, 3, &a, nq + 2 * nkv);
    }
    lmi_cpu_store_qkv(d, layer, q, kv, n, pos0);
    return 0;
}

int lmi_cpu_project(struct lm_dev *d, uint32_t layer, const struct lm_buf *a, struct lm_buf *x, size_t n,
                    struct lm_err *e)
{
    const struct lm_layer_weights *w = d->net->layers + layer;
    const struct lm_mat *m = &w->out;
    const float *in = a->data;
    struct lmi_acts acts;

    if (lmi_cpu_reserve(d, n, e))
        return -1;
    if (d->net->config.kv_lora) {
        lmi_cpu_latent_values(d, w, a->data, n);
        in = d->wide;
    }
    lmi_acts_prepare(d, &acts, in, m->cols, n, &m, 1);
    add_half(d, m, &acts, x->data, &w->post_attn_norm);
    return 0;
}

static float plain_act(enum lm_act act, float v)
{
    switch (act) {
    case LM_ACT_SILU: return v / (1.0f + expf(-v));
    case LM_ACT_GELU_TANH: return 0.5f * v * (1.0f + tanhf(0.797884561f * (v + 0.044715f * v * v * v)));
    case LM_ACT_GELU_ERF: return 0.5f * v * (1.0f + erff(v * 0.707106781f));
    case LM_ACT_RELU: return v > 0 ? v : 0;
    case LM_ACT_SWIGLU_CLAMPED: break; /* takes two */
    }
    return v;
}

static void activate(const struct lm_dev *d, float *x, size_t n)
{
    enum lm_act act = d->net->config.act;
    bool fast = d->math != LM_MATH_EXACT;

    if (fast && act == LM_ACT_SILU) {
        d->kernels->silu(x, n);
        return;
    }
    if (fast && act == LM_ACT_GELU_TANH) {
        d->kernels->gelu(x, n);
        return;
    }
    for (size_t i = 0; i < n; i++)
        x[i] = plain_act(act, x[i]);
}

/* g becomes min(g, limit) sigmoid(alpha min(g, limit)) and is to be multiplied by clamp(u) + 1, which u becomes. */
static void clamp_pair(const struct lm_config *c, float *g, float *u)
{
    float limit = (float)c->act_limit, alpha = (float)c->act_alpha;

    *g = *g < limit ? *g : limit;
    *u = *u < -limit ? -limit : *u < limit ? *u : limit;
    *g = *g / (1.0f + expf(-alpha * *g));
    *u += 1.0f;
}

struct hidden {
    struct lm_dev *d;
    const struct lm_mat *gate, *up;
    const struct lmi_acts *a;
    float *h;
};

static void hidden_tile(const void *what, size_t tile, int thread)
{
    const struct hidden *x = what;
    struct lm_dev *d = x->d;
    struct lmi_thread *th = d->threads + thread;
    size_t r0 = tile * LMI_ROWS, rows = tile_rows(x->up, r0), ld = x->up->rows;
    const struct lm_config *c = &d->net->config;
    bool gated = x->gate != NULL, clamped = c->act == LM_ACT_SWIGLU_CLAMPED;
    float *h = x->h + r0;

    lmi_mat_tile(d, gated ? x->gate : x->up, x->a, r0, rows, th->tile, rows, th);
    if (!clamped)
        activate(d, th->tile, x->a->n * rows);
    if (gated)
        lmi_mat_tile(d, x->up, x->a, r0, rows, h, ld, th);
    for (size_t t = 0; t < x->a->n; t++)
        for (size_t r = 0; r < rows; r++) {
            if (clamped)
                clamp_pair(c, &th->tile[t * rows + r], &h[t * ld + r]);
            h[t * ld + r] = gated ? h[t * ld + r] * th->tile[t * rows + r] : th->tile[t * rows + r];
        }
}

void lmi_cpu_hidden(struct lm_dev *d, const struct lm_mat *gate, const struct lm_mat *up, const struct lmi_acts *a,
                    float *h)
{
    for_tiles(d, n_tiles(up), a->n, hidden_tile, &(struct hidden){d, gate, up, a, h});
}

int lmi_cpu_ffn(struct lm_dev *d, uint32_t layer, struct lm_buf *x, size_t n, struct lm_err *e)
{
    const struct lm_layer_weights *w = d->net->layers + layer;
    const struct lm_mat *ins[] = {&w->up, &w->gate}, *down = &w->down;
    struct lmi_acts a;

    if (lmi_cpu_reserve(d, n, e))
        return -1;
    const float *in = lmi_cpu_norm_rows(d, x->data, n, &w->ffn_norm, &w->ffn_norm_b);
    if (w->router.tensor) {
        lmi_cpu_experts(d, w, in, n);
        join(d, d->out, x->data, n, &w->post_ffn_norm);
        return 0;
    }
    lmi_acts_prepare(d, &a, in, w->up.cols, n, ins, w->gate.tensor ? 2 : 1);
    lmi_cpu_hidden(d, w->gate.tensor ? &w->gate : NULL, &w->up, &a, d->wide);
    lmi_acts_prepare(d, &a, d->wide, down->cols, n, &down, 1);
    add_half(d, down, &a, x->data, &w->post_ffn_norm);
    return 0;
}

static void finish_logits(const struct lm_config *c, float *x, size_t n)
{
    float divisor = (float)c->logit_divisor;

    for (size_t i = 0; divisor > 0 && divisor != 1 && i < n; i++)
        x[i] /= divisor;
    for (size_t i = 0; c->final_softcap > 0 && i < n; i++)
        x[i] = (float)(c->final_softcap * tanh((double)x[i] / c->final_softcap));
}

int lmi_cpu_logits(struct lm_dev *d, const struct lm_buf *x, size_t first, size_t n_rows, float *logits,
                   struct lm_err *e)
{
    const struct lm_net *net = d->net;
    const struct lm_mat *head = &net->head;
    struct lmi_acts a;

    if (lmi_cpu_reserve(d, n_rows, e))
        return -1;
    const float *in = lmi_cpu_norm_rows(d, x->data + first * net->config.d_model, n_rows, &net->out_norm,
                                        &net->out_norm_b);
    lmi_acts_prepare(d, &a, in, head->cols, n_rows, &head, 1);
    lmi_cpu_products(d, &(struct lmi_job){head, logits}, 1, &a, head->rows);
    finish_logits(&net->config, logits, n_rows * head->rows);
    return 0;
}
