/* The operations of a decoder layer on the CPU. A task is a tile of weight rows
 * for all tokens; which thread runs it does not change any result. */
#include <math.h>
#include <omp.h>
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

static void norm_row(const struct lm_config *c, float *out, const float *x, const struct lm_vec *w,
                     const struct lm_vec *b)
{
    size_t n = c->d_model;
    double mean = c->arch->norm == LM_NORM_LAYER ? sum_of(x, n, 0, false) / (double)n : 0;
    double scale = 1 / sqrt(sum_of(x, n, mean, true) / (double)n + c->norm_eps);

    for (size_t i = 0; i < n; i++)
        out[i] = (float)(((double)x[i] - mean) * scale) * w->data[i];
    if (b->data)
        for (size_t i = 0; i < n; i++)
            out[i] += b->data[i];
}

static const float *norm(struct lm_dev *d, const float *x, size_t n, const struct lm_vec *w, const struct lm_vec *b)
{
    size_t width = d->net->config.d_model;

#pragma omp parallel for num_threads(d->n_threads) if (n > 1)
    for (size_t t = 0; t < n; t++)
        norm_row(&d->net->config, d->norm + t * width, x + t * width, w, b);
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

/* Tasks handed out at a time: few for one token (a task is microseconds), one for many. */
static int chunk_of(const struct lm_dev *d, size_t tasks, size_t n)
{
    size_t chunk = tasks / ((size_t)d->n_threads * 8);
    return n > 4 || chunk == 0 ? 1 : (int)chunk;
}

/* Results of several matrices of one input, side by side. */
struct job {
    const struct lm_mat *m;
    float *y;
};

static void run_jobs(struct lm_dev *d, const struct job *jobs, size_t n_jobs, const struct lmi_acts *a, size_t ldy)
{
    size_t total = 0;

    for (size_t i = 0; i < n_jobs; i++)
        total += n_tiles(jobs[i].m);
#pragma omp parallel for num_threads(d->n_threads) schedule(dynamic, chunk_of(d, total, a->n))
    for (size_t i = 0; i < total; i++) {
        size_t tile = i, r0;
        const struct job *j = jobs;
        for (; tile >= n_tiles(j->m); j++)
            tile -= n_tiles(j->m);
        r0 = tile * LMI_ROWS;
        lmi_mat_tile(d, j->m, a, r0, tile_rows(j->m, r0), j->y + r0, ldy, d->threads + omp_get_thread_num());
    }
}

/* x [n, rows] += m a */
static void add_product(struct lm_dev *d, const struct lm_mat *m, const struct lmi_acts *a, float *x)
{
    size_t total = n_tiles(m);

#pragma omp parallel for num_threads(d->n_threads) schedule(dynamic, chunk_of(d, total, a->n))
    for (size_t i = 0; i < total; i++) {
        struct lmi_thread *th = d->threads + omp_get_thread_num();
        size_t r0 = i * LMI_ROWS, rows = tile_rows(m, r0);
        lmi_mat_tile(d, m, a, r0, rows, th->tile, rows, th);
        for (size_t t = 0; t < a->n; t++)
            for (size_t r = 0; r < rows; r++)
                x[t * m->rows + r0 + r] += th->tile[t * rows + r];
    }
}

/* ---- operations */

int lmi_cpu_embed(struct lm_dev *d, struct lm_buf *x, const int32_t *ids, size_t n, size_t pos0, bool add_pos,
                  struct lm_err *e)
{
    const struct lm_net *net = d->net;
    size_t width = net->config.d_model;

    if (lmi_cpu_reserve(d, n, e))
        return -1;
    for (size_t t = 0; t < n; t++) {
        lmi_mat_row(&net->embed, (size_t)ids[t], x->data + t * width);
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
    const float *in = norm(d, x->data, n, &w->attn_norm, &w->attn_norm_b);
    if (w->qkv.tensor) {
        lmi_acts_prepare(d, &a, in, c->d_model, n, (const struct lm_mat *[]){&w->qkv}, 1);
        run_jobs(d, &(struct job){&w->qkv, d->wide}, 1, &a, nq + 2 * nkv);
    } else {
        struct job jobs[] = {{&w->q, d->wide}, {&w->k, d->wide + nq}, {&w->v, d->wide + nq + nkv}};
        lmi_acts_prepare(d, &a, in, c->d_model, n, (const struct lm_mat *[]){&w->q, &w->k, &w->v}, 3);
        run_jobs(d, jobs, 3, &a, nq + 2 * nkv);
    }
    lmi_cpu_store_qkv(d, layer, q, kv, n, pos0);
    return 0;
}

int lmi_cpu_project(struct lm_dev *d, uint32_t layer, const struct lm_buf *a, struct lm_buf *x, size_t n,
                    struct lm_err *e)
{
    const struct lm_mat *m = &d->net->layers[layer].out;
    struct lmi_acts in;

    if (lmi_cpu_reserve(d, n, e))
        return -1;
    lmi_acts_prepare(d, &in, a->data, m->cols, n, &m, 1);
    add_product(d, m, &in, x->data);
    return 0;
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
    for (size_t i = 0; i < n; i++) {
        float v = x[i];
        switch (act) {
        case LM_ACT_SILU: x[i] = v / (1.0f + expf(-v)); break;
        case LM_ACT_GELU_TANH: x[i] = 0.5f * v * (1.0f + tanhf(0.797884561f * (v + 0.044715f * v * v * v))); break;
        case LM_ACT_GELU_ERF: x[i] = 0.5f * v * (1.0f + erff(v * 0.707106781f)); break;
        case LM_ACT_RELU: x[i] = v > 0 ? v : 0; break;
        }
    }
}

/* wide [n, d_ff] = act(gate x) * (up x), or act(up x). */
static void hidden_tile(struct lm_dev *d, const struct lm_layer_weights *w, const struct lmi_acts *a, size_t r0,
                        struct lmi_thread *th)
{
    size_t rows = tile_rows(&w->up, r0), ld = w->up.rows;
    bool gated = w->gate.tensor != NULL;
    float *h = d->wide + r0;

    lmi_mat_tile(d, gated ? &w->gate : &w->up, a, r0, rows, th->tile, rows, th);
    activate(d, th->tile, a->n * rows);
    if (gated)
        lmi_mat_tile(d, &w->up, a, r0, rows, h, ld, th);
    for (size_t t = 0; t < a->n; t++)
        for (size_t r = 0; r < rows; r++)
            h[t * ld + r] = gated ? h[t * ld + r] * th->tile[t * rows + r] : th->tile[t * rows + r];
}

int lmi_cpu_ffn(struct lm_dev *d, uint32_t layer, struct lm_buf *x, size_t n, struct lm_err *e)
{
    const struct lm_layer_weights *w = d->net->layers + layer;
    const struct lm_mat *ins[] = {&w->up, &w->gate}, *down = &w->down;
    size_t total = n_tiles(&w->up);
    struct lmi_acts a;

    if (lmi_cpu_reserve(d, n, e))
        return -1;
    const float *in = norm(d, x->data, n, &w->ffn_norm, &w->ffn_norm_b);
    lmi_acts_prepare(d, &a, in, w->up.cols, n, ins, w->gate.tensor ? 2 : 1);
#pragma omp parallel for num_threads(d->n_threads) schedule(dynamic, chunk_of(d, total, n))
    for (size_t i = 0; i < total; i++)
        hidden_tile(d, w, &a, i * LMI_ROWS, d->threads + omp_get_thread_num());
    lmi_acts_prepare(d, &a, d->wide, down->cols, n, &down, 1);
    add_product(d, down, &a, x->data);
    return 0;
}

int lmi_cpu_logits(struct lm_dev *d, const struct lm_buf *x, size_t first, size_t n_rows, float *logits,
                   struct lm_err *e)
{
    const struct lm_net *net = d->net;
    const struct lm_mat *head = &net->head;
    struct lmi_acts a;

    if (lmi_cpu_reserve(d, n_rows, e))
        return -1;
    const float *in = norm(d, x->data + first * net->config.d_model, n_rows, &net->out_norm, &net->out_norm_b);
    lmi_acts_prepare(d, &a, in, head->cols, n_rows, &head, 1);
    run_jobs(d, &(struct job){head, logits}, 1, &a, head->rows);
    return 0;
}
