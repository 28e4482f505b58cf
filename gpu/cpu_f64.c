/* The truth: every operation in double, weights decoded exactly, sums in one
 * fixed order, nothing fused.  Written apart from the fast backend, so that each
 * checks the other. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include "gpu/backend.h"
#include "gpu/cpu_pool.h"
#include "gpu/mechanics.h"

struct lm_dev {
    struct lm_net *net;
    int n_threads;
    struct lmi_pool *pool;
    size_t n_cap, width;      /* tokens and columns that the scratch is sized for */
    double *norm, *wide, *out, *sum, *logits; /* [n, width] */
    double *rows;             /* [n_threads, width] decoded weights */
    float *narrow;            /* the same as stored */
    double *scores;           /* [n_threads, ctx_len] */
};
struct lm_buf { double *data; size_t n; };
struct lm_kv { double *k, *v; size_t k_bytes, v_bytes; };

static int no_memory(struct lm_err *e)
{
    return lm_err_set(e, LM_NOMEM, "out of memory for arithmetic in double");
}

static double *new_doubles(size_t n, size_t width)
{
    uint64_t bytes;
    return lm_mul_u64(n, width, &bytes) && bytes <= SIZE_MAX / 16 ? calloc(bytes ? (size_t)bytes : 1, sizeof(double)) : NULL;
}

/* ---- weights */

static void decode(const struct lm_tensor *t, uint64_t at, size_t n, float *narrow, double *out)
{
    if (t->dtype == LM_F64) {
        lm_tensor_read(t, 8 * at, 8 * n, out);
        return;
    }
    lm_tensor_to_f32(t, at, n, narrow, NULL); /* the engine has made sure that it can be */
    for (size_t i = 0; i < n; i++)
        out[i] = (double)narrow[i];
}

static void weight_row(const struct lm_mat *m, size_t r, float *narrow, double *out)
{
    uint64_t at = m->part ? m->at + r * m->row_step : m->transposed ? r : r * (uint64_t)m->cols;
    uint64_t step = m->part ? m->col_step : m->transposed ? m->rows : 1;

    if (step == 1) {
        decode(m->tensor, at, m->cols, narrow, out);
        return;
    }
    for (size_t c = 0; c < m->cols; c++)
        decode(m->tensor, at + c * step, 1, narrow, out + c);
}

static double dot(const double *a, const double *b, size_t n)
{
    double s[8] = {0};
    size_t i = 0;

    for (; i + 8 <= n; i += 8)
        for (size_t j = 0; j < 8; j++)
            s[j] += a[i + j] * b[i + j];
    for (; i < n; i++)
        s[i % 8] += a[i] * b[i];
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

struct product { struct lm_dev *d; const struct lm_mat *m; const double *x; double *y; size_t ldx, ldy, n; };

static void product_row(const void *what, size_t r, int thread)
{
    const struct product *p = what;
    const struct lm_mat *m = p->m;
    size_t width = p->d->width, th = (size_t)thread;
    double *w = p->d->rows + th * width, b = m->bias_exact ? m->bias_exact[r] : m->bias ? (double)m->bias[r] : 0;

    weight_row(m, r, p->d->narrow + th * width, w);
    for (size_t t = 0; t < p->n; t++)
        p->y[t * p->ldy + r] = dot(w, p->x + t * p->ldx, m->cols) + b;
}

/* y [n, ldy] = m x + bias, x [n, ldx]. */
static void product(struct lm_dev *d, const struct lm_mat *m, const double *x, size_t ldx, double *y, size_t ldy,
                    size_t n)
{
    lmi_pool_for(d->pool, m->rows, true, product_row, &(struct product){d, m, x, y, ldx, ldy, n});
}

/* ---- norms */

static double at(const struct lm_vec *v, size_t i)
{
    return v->exact ? v->exact[i] : (double)v->data[i];
}

static void norm(const struct lm_config *c, double *out, const double *x, size_t n, const struct lm_vec *w,
                 const struct lm_vec *b)
{
    double mean = 0, sum = 0;

    if (c->arch->norm == LM_NORM_LAYER)
        for (size_t i = 0; i < n; i++)
            mean += x[i];
    mean /= (double)n;
    for (size_t i = 0; i < n; i++)
        sum += (x[i] - mean) * (x[i] - mean);
    double scale = 1 / sqrt(sum / (double)n + c->norm_eps);
    for (size_t i = 0; i < n; i++)
        out[i] = (x[i] - mean) * scale * at(w, i) + (b && b->data ? at(b, i) : 0);
}

static const double *norm_rows(struct lm_dev *d, const double *x, size_t n, const struct lm_vec *w,
                               const struct lm_vec *b)
{
    size_t width = d->net->config.d_model;

    if (!w->data)
        return x;
    for (size_t t = 0; t < n; t++)
        norm(&d->net->config, d->norm + t * width, x + t * width, width, w, b);
    return d->norm;
}

/* x += residual_scale * y, normed before where the layer says so. */
static void join(const struct lm_dev *d, double *y, double *x, size_t n, const struct lm_vec *post)
{
    const struct lm_config *c = &d->net->config;
    double scale = c->residual_scale > 0 ? c->residual_scale : 1;

    for (size_t t = 0; t < n; t++, y += c->d_model, x += c->d_model) {
        if (post->data)
            norm(c, y, y, c->d_model, post, NULL);
        for (size_t i = 0; i < c->d_model; i++)
            x[i] += scale * y[i];
    }
}

/* ---- rotation and the KV cache */

static void rotate(const struct lm_net *net, const struct lm_layer_weights *w, double *x, size_t pos)
{
    size_t half = net->config.d_rope / 2, step = net->rope == LM_ROPE_HALF ? 1 : 2;
    size_t other = net->rope == LM_ROPE_HALF ? half : 1;
    const double *freqs = w->local_rope ? net->local_freqs : net->rope_freqs;
    double m = w->local_rope ? 1 : net->rope_mscale;

    for (size_t j = 0; j < half; j++) {
        double a = x[step * j], b = x[step * j + other], angle = (double)pos * freqs[j];
        double c = cos(angle) * m, s = sin(angle) * m;
        x[step * j] = a * c - b * s;
        x[step * j + other] = a * s + b * c;
    }
}

static double *k_at(const struct lm_dev *d, const struct lm_kv *kv, size_t layer, size_t head, size_t pos)
{
    return kv->k + ((layer * d->net->n_kv + head) * d->net->ctx_len + pos) * d->net->d_k;
}
static double *v_at(const struct lm_dev *d, const struct lm_kv *kv, size_t layer, size_t head, size_t pos)
{
    return kv->v + ((layer * d->net->n_kv + head) * d->net->ctx_len + pos) * d->net->d_v;
}

static void norm_heads(const struct lm_net *net, const struct lm_layer_weights *w, double *row)
{
    const struct lm_config *c = &net->config;
    bool whole = c->arch->qk_norm == LM_QK_NORM_WHOLE;
    size_t dh = c->d_head;

    for (size_t h = 0; h < (whole ? 1 : c->n_heads); h++) {
        double *x = row + lmi_q_in_row(net, h);
        norm(c, x, x, whole ? c->n_heads * dh : dh, &w->q_norm, NULL);
    }
    for (size_t h = 0; h < (whole ? 1 : c->n_kv_heads); h++) {
        double *x = row + lmi_k_in_row(net, h);
        norm(c, x, x, whole ? c->n_kv_heads * dh : dh, &w->k_norm, NULL);
    }
}

static void store_row(const struct lm_dev *d, uint32_t layer, double *row, double *q, struct lm_kv *kv, size_t pos)
{
    const struct lm_net *net = d->net;
    const struct lm_config *c = &net->config;
    const struct lm_layer_weights *w = net->layers + layer;
    size_t bytes = c->d_head * sizeof *row;

    if (w->q_norm.data)
        norm_heads(net, w, row);
    for (size_t h = 0; h < c->n_heads; h++) {
        if (net->rope != LM_ROPE_NONE)
            rotate(net, w, row + lmi_q_in_row(net, h), pos);
        memcpy(q + h * c->d_head, row + lmi_q_in_row(net, h), bytes);
    }
    for (size_t h = 0; h < c->n_kv_heads; h++) {
        if (net->rope != LM_ROPE_NONE)
            rotate(net, w, row + lmi_k_in_row(net, h), pos);
        memcpy(k_at(d, kv, layer, h, pos), row + lmi_k_in_row(net, h), bytes);
        memcpy(v_at(d, kv, layer, h, pos), row + lmi_v_in_row(net, h), bytes);
    }
}

/* ---- memory */

static size_t widest(const struct lm_net *net)
{
    const struct lm_config *c = &net->config;
    size_t q = (size_t)c->n_heads * c->d_head, max = 0;
    const size_t all[] = {q + 2 * (size_t)c->n_kv_heads * c->d_head, q + c->q_lora + net->d_k, c->d_model, c->d_ff,
                          c->d_ff_expert, c->d_ff_shared, (size_t)c->n_heads * c->d_head_v,
                          (size_t)c->n_heads * net->d_v, c->n_experts};

    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        max = all[i] > max ? all[i] : max;
    return max;
}

static void free_scratch(struct lm_dev *d)
{
    double *all[] = {d->norm, d->wide, d->out, d->sum, d->logits};

    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    d->norm = d->wide = d->out = d->sum = d->logits = NULL;
    d->n_cap = 0;
}

static int reserve(struct lm_dev *d, size_t n, struct lm_err *e)
{
    if (n <= d->n_cap)
        return 0;
    free_scratch(d);
    d->norm = new_doubles(n, d->width);
    d->wide = new_doubles(n, 2 * d->width);
    d->out = new_doubles(n, d->width);
    d->sum = new_doubles(n, d->width);
    d->logits = new_doubles(n, d->width);
    if (!d->norm || !d->wide || !d->out || !d->sum || !d->logits)
        return no_memory(e);
    d->n_cap = n;
    return 0;
}

static void f64_close(struct lm_dev *d)
{
    if (!d)
        return;
    free_scratch(d);
    lmi_pool_free(d->pool);
    free(d->rows);
    free(d->narrow);
    free(d->scores);
    free(d);
}

static int f64_open(struct lm_dev **out, struct lm_net *net, const struct lm_backend_options *o, struct lm_err *e)
{
    struct lm_dev *d = calloc(1, sizeof *d);

    if (!d)
        return no_memory(e);
    d->net = net;
    d->n_threads = lmi_pool_threads(o->n_threads);
    d->pool = lmi_pool_new(d->n_threads);
    d->width = widest(net);
    d->rows = new_doubles((size_t)d->n_threads, d->width);
    d->narrow = calloc((size_t)d->n_threads, d->width * sizeof *d->narrow);
    d->scores = new_doubles((size_t)d->n_threads, net->ctx_len);
    if (!d->pool || !d->rows || !d->narrow || !d->scores) {
        f64_close(d);
        return no_memory(e);
    }
    *out = d;
    return 0;
}

static void f64_describe(const struct lm_dev *d, char *buf, size_t size)
{
    snprintf(buf, size, "cpu, %d thread%s, float64", d->n_threads, d->n_threads == 1 ? "" : "s");
}

static int buf_new(struct lm_buf **out, struct lm_dev *d, size_t n, struct lm_err *e)
{
    struct lm_buf *b = calloc(1, sizeof *b);

    (void)d;
    if (!b || !(b->data = new_doubles(n, 1))) {
        free(b);
        return no_memory(e);
    }
    b->n = n;
    *out = b;
    return 0;
}

static void buf_free(struct lm_dev *d, struct lm_buf *b)
{
    (void)d;
    if (b)
        free(b->data);
    free(b);
}

static int check_range(const struct lm_buf *b, size_t first, size_t n, struct lm_err *e)
{
    if (first <= b->n && n <= b->n - first)
        return 0;
    return lm_err_set(e, LM_USAGE, "%zu activations from %zu on, but the buffer has %zu", n, first, b->n);
}

static int buf_read(struct lm_dev *d, const struct lm_buf *b, size_t first, size_t n, float *host, struct lm_err *e)
{
    (void)d;
    if (check_range(b, first, n, e))
        return -1;
    for (size_t i = 0; i < n; i++)
        host[i] = (float)b->data[first + i];
    return 0;
}

static int buf_write(struct lm_dev *d, struct lm_buf *b, size_t first, size_t n, const float *host, struct lm_err *e)
{
    (void)d;
    if (check_range(b, first, n, e))
        return -1;
    for (size_t i = 0; i < n; i++)
        b->data[first + i] = (double)host[i];
    return 0;
}

static int buf_move(struct lm_dev *d, struct lm_buf *b, size_t to, size_t from, size_t n, struct lm_err *e)
{
    (void)d;
    if (check_range(b, from, n, e) || check_range(b, to, n, e))
        return -1;
    memmove(b->data + to, b->data + from, n * sizeof *b->data);
    return 0;
}

/* Mapped, so that only positions that are used take memory. */
static double *map_zeros(const struct lm_net *net, size_t width, size_t *bytes)
{
    uint64_t n;
    void *p = MAP_FAILED;

    if (lm_mul_u64((uint64_t)net->config.n_layers * net->n_kv, (uint64_t)net->ctx_len * width, &n) &&
        lm_mul_u64(n, sizeof(double), &n) && n > 0 && n <= SIZE_MAX / 2) {
        *bytes = (size_t)n;
        p = mmap(NULL, *bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    }
    return p == MAP_FAILED ? NULL : p;
}

static void kv_free(struct lm_dev *d, struct lm_kv *kv)
{
    (void)d;
    if (!kv)
        return;
    if (kv->k)
        munmap(kv->k, kv->k_bytes);
    if (kv->v)
        munmap(kv->v, kv->v_bytes);
    free(kv);
}

static int kv_new(struct lm_kv **out, struct lm_dev *d, struct lm_err *e)
{
    struct lm_kv *kv = calloc(1, sizeof *kv);

    if (!kv)
        return no_memory(e);
    kv->k = map_zeros(d->net, d->net->d_k, &kv->k_bytes);
    kv->v = map_zeros(d->net, d->net->d_v, &kv->v_bytes);
    if (!kv->k || !kv->v) {
        kv_free(d, kv);
        return lm_err_set(e, LM_NOMEM, "out of memory for a KV cache of %u positions in double: ask for fewer",
                          d->net->ctx_len);
    }
    *out = kv;
    return 0;
}

static int kv_read(struct lm_dev *d, const struct lm_kv *kv, uint32_t layer, size_t pos, size_t n, float *k, float *v,
                   struct lm_err *e)
{
    const struct lm_net *net = d->net;

    if (layer >= net->config.n_layers || pos > net->ctx_len || n > net->ctx_len - pos)
        return lm_err_set(e, LM_USAGE, "KV rows %zu..%zu of layer %u are outside the cache", pos, pos + n, layer);
    for (size_t t = 0; t < n; t++)
        for (size_t h = 0; h < net->n_kv; h++) {
            for (size_t i = 0; i < net->d_k; i++)
                k[(t * net->n_kv + h) * net->d_k + i] = (float)k_at(d, kv, layer, h, pos + t)[i];
            for (size_t i = 0; i < net->d_v; i++)
                v[(t * net->n_kv + h) * net->d_v + i] = (float)v_at(d, kv, layer, h, pos + t)[i];
        }
    return 0;
}

/* ---- operations */

static int f64_embed(struct lm_dev *d, struct lm_buf *x, const int32_t *ids, size_t n, size_t pos0, bool add_pos,
                     struct lm_err *e)
{
    const struct lm_net *net = d->net;
    size_t width = net->config.d_model;
    double scale = net->config.embed_scale > 0 ? net->config.embed_scale : 1;

    if (reserve(d, n, e))
        return -1;
    for (size_t t = 0; t < n; t++) {
        double *row = x->data + t * width;
        weight_row(&net->embed, (size_t)ids[t], d->narrow, row);
        if (add_pos && net->pos_embed.tensor)
            weight_row(&net->pos_embed, pos0 + t, d->narrow, d->rows);
        for (size_t i = 0; i < width; i++)
            row[i] = row[i] * scale + (add_pos && net->pos_embed.tensor ? d->rows[i] : 0);
    }
    return 0;
}

static void latent_row(const struct lm_dev *d, uint32_t layer, double *row, double *latent, double *q, struct lm_kv *kv,
                       size_t pos)
{
    const struct lm_net *net = d->net;
    const struct lm_config *c = &net->config;
    const struct lm_layer_weights *w = net->layers + layer;

    norm(c, latent, latent, c->kv_lora, &w->kv_a_norm, NULL);
    rotate(net, w, latent + c->kv_lora, pos);
    memcpy(k_at(d, kv, layer, 0, pos), latent, net->d_k * sizeof *latent);
    memcpy(v_at(d, kv, layer, 0, pos), latent, net->d_v * sizeof *latent);
    for (size_t h = 0; h < c->n_heads; h++) {
        double *turned = row + h * c->d_head + c->d_nope;
        rotate(net, w, turned, pos);
        memcpy(q + h * net->d_k + c->kv_lora, turned, c->d_rope * sizeof *q);
    }
}

static void latent_qkv(struct lm_dev *d, uint32_t layer, const double *in, double *q, struct lm_kv *kv, size_t n,
                       size_t pos0)
{
    const struct lm_net *net = d->net;
    const struct lm_config *c = &net->config;
    const struct lm_layer_weights *w = net->layers + layer;
    size_t nq = (size_t)c->n_heads * c->d_head, ld = 2 * d->width, wide_q = (size_t)c->n_heads * net->d_k;
    double *low = d->wide + nq, *latent = low + c->q_lora;

    if (w->q.tensor) {
        product(d, &w->q, in, c->d_model, d->wide, ld, n);
    } else {
        product(d, &w->q_a, in, c->d_model, low, ld, n);
        for (size_t t = 0; t < n; t++)
            norm(c, low + t * ld, low + t * ld, c->q_lora, &w->q_a_norm, NULL);
        product(d, &w->q_b, low, ld, d->wide, ld, n);
    }
    product(d, &w->kv_a, in, c->d_model, latent, ld, n);
    for (size_t t = 0; t < n; t++)
        latent_row(d, layer, d->wide + t * ld, latent + t * ld, q + t * wide_q, kv, pos0 + t);
    for (size_t h = 0; h < c->n_heads; h++)
        product(d, w->k_b + h, d->wide + h * c->d_head, ld, q + h * net->d_k, wide_q, n);
}

static int f64_qkv(struct lm_dev *d, uint32_t layer, const struct lm_buf *x, struct lm_buf *q, struct lm_kv *kv, size_t n,
                   size_t pos0, struct lm_err *e)
{
    const struct lm_config *c = &d->net->config;
    const struct lm_layer_weights *w = d->net->layers + layer;
    size_t nq = (size_t)c->n_heads * c->d_head, nkv = (size_t)c->n_kv_heads * c->d_head, ld = nq + 2 * nkv;

    if (reserve(d, n, e))
        return -1;
    const double *in = norm_rows(d, x->data, n, &w->attn_norm, &w->attn_norm_b);
    if (c->kv_lora) {
        latent_qkv(d, layer, in, q->data, kv, n, pos0);
        return 0;
    }
    if (w->qkv.tensor) {
        product(d, &w->qkv, in, c->d_model, d->wide, ld, n);
    } else {
        product(d, &w->q, in, c->d_model, d->wide, ld, n);
        product(d, &w->k, in, c->d_model, d->wide + nq, ld, n);
        product(d, &w->v, in, c->d_model, d->wide + nq + nkv, ld, n);
    }
    for (size_t t = 0; t < n; t++)
        store_row(d, layer, d->wide + t * ld, q->data + t * nq, kv, pos0 + t);
    return 0;
}

struct attend {
    const double *q;
    const struct lm_kv *kv;
    double *out;
    float *probs;
    uint32_t layer;
    size_t n, pos0;
    const struct lm_dev *d;
};

/* Scores of keys first .. pos to probabilities. */
static void weigh(const struct lm_dev *d, const struct attend *a, size_t h, size_t first, size_t pos, double *s)
{
    const struct lm_config *c = &d->net->config;
    const struct lm_vec *sinks = &d->net->layers[a->layer].sinks;
    double scale = lm_config_attn_scale(c), max = sinks->data ? at(sinks, h) : -INFINITY, sum = 0;

    for (size_t i = first; i <= pos; i++) {
        s[i] *= scale;
        if (c->attn_softcap > 0)
            s[i] = c->attn_softcap * tanh(s[i] / c->attn_softcap);
        if (c->alibi)
            s[i] += lmi_alibi(c->n_heads, (uint32_t)h, i) * scale;
        max = s[i] > max ? s[i] : max;
    }
    for (size_t i = first; i <= pos; i++)
        sum += s[i] = exp(s[i] - max);
    if (sinks->data)
        sum += exp(at(sinks, h) - max);
    for (size_t i = first; i <= pos; i++)
        s[i] /= sum;
}

static void attend_one(const struct lm_dev *d, const struct attend *a, size_t t, size_t h, double *s)
{
    const struct lm_net *net = d->net;
    size_t heads = net->config.n_heads, kvh = h / (heads / net->n_kv), pos = a->pos0 + t;
    size_t window = net->layers[a->layer].window, first = window && pos + 1 > window ? pos + 1 - window : 0;
    double *out = a->out + (t * heads + h) * net->d_v;

    for (size_t i = first; i <= pos; i++)
        s[i] = dot(a->q + (t * heads + h) * net->d_k, k_at(d, a->kv, a->layer, kvh, i), net->d_k);
    weigh(d, a, h, first, pos, s);
    memset(out, 0, net->d_v * sizeof *out);
    for (size_t i = first; i <= pos; i++) {
        const double *v = v_at(d, a->kv, a->layer, kvh, i);
        for (size_t j = 0; j < net->d_v; j++)
            out[j] += s[i] * v[j];
    }
    for (size_t i = 0; a->probs && t + 1 == a->n && i <= pos; i++)
        a->probs[h * (pos + 1) + i] = i < first ? 0 : (float)s[i];
}

static void attend_nth(const void *what, size_t i, int thread)
{
    const struct attend *a = what;
    size_t heads = a->d->net->config.n_heads;

    attend_one(a->d, a, i / heads, i % heads, a->d->scores + (size_t)thread * a->d->net->ctx_len);
}

static int f64_attend(struct lm_dev *d, uint32_t layer, const struct lm_buf *q, const struct lm_kv *kv,
                      struct lm_buf *out, size_t n, size_t pos0, float *probs, struct lm_err *e)
{
    struct attend a = {q->data, kv, out->data, probs, layer, n, pos0, d};

    (void)e;
    lmi_pool_for(d->pool, n * d->net->config.n_heads, true, attend_nth, &a);
    return 0;
}

static int f64_project(struct lm_dev *d, uint32_t layer, const struct lm_buf *a, struct lm_buf *x, size_t n,
                       struct lm_err *e)
{
    const struct lm_net *net = d->net;
    const struct lm_config *c = &net->config;
    const struct lm_layer_weights *w = net->layers + layer;
    const double *in = a->data;
    size_t wide = (size_t)c->n_heads * c->d_head_v;

    if (reserve(d, n, e))
        return -1;
    if (c->kv_lora) {
        for (size_t h = 0; h < c->n_heads; h++)
            product(d, w->v_b + h, a->data + h * net->d_v, c->n_heads * (size_t)net->d_v, d->wide + h * c->d_head_v,
                    wide, n);
        in = d->wide;
    }
    product(d, &w->out, in, w->out.cols, d->out, c->d_model, n);
    join(d, d->out, x->data, n, &w->post_attn_norm);
    return 0;
}

static double activated(const struct lm_config *c, double v)
{
    switch (c->act) {
    case LM_ACT_SILU: return v / (1 + exp(-v));
    case LM_ACT_GELU_TANH: return 0.5 * v * (1 + tanh(sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
    case LM_ACT_GELU_ERF: return 0.5 * v * (1 + erf(v / sqrt(2)));
    case LM_ACT_RELU: return v > 0 ? v : 0;
    case LM_ACT_SWIGLU_CLAMPED:
        v = fmin(v, c->act_limit);
        return v / (1 + exp(-c->act_alpha * v));
    }
    return v;
}

/* out [n, d] = down(act(gate x) * (up x)), or without gate. */
static void one_ffn(struct lm_dev *d, const struct lm_mat *gate, const struct lm_mat *up, const struct lm_mat *down,
                    const double *in, size_t n, double *out)
{
    const struct lm_config *c = &d->net->config;
    bool clamped = c->act == LM_ACT_SWIGLU_CLAMPED;
    size_t ff = up->rows, ld = 2 * d->width;
    double *g = d->wide + d->width;

    product(d, up, in, up->cols, d->wide, ld, n);
    if (gate)
        product(d, gate, in, gate->cols, g, ld, n);
    for (size_t t = 0; t < n; t++)
        for (size_t i = 0; i < ff; i++) {
            double *u = d->wide + t * ld + i;
            if (clamped)
                *u = fmax(-c->act_limit, fmin(*u, c->act_limit)) + 1;
            *u = gate ? activated(c, g[t * ld + i]) * *u : activated(c, *u);
        }
    product(d, down, d->wide, ld, out, c->d_model, n);
}

/* One token after the other: what the chosen experts give, weighted, best first. */
static int experts(struct lm_dev *d, const struct lm_layer_weights *w, const double *in, size_t n, struct lm_err *e)
{
    const struct lm_config *c = &d->net->config;
    size_t width = c->d_model;
    double *scratch = new_doubles(5, c->n_experts), *weights = scratch + 3 * (size_t)c->n_experts;
    double *correction = weights + c->n_experts;
    uint32_t *chosen = calloc(c->n_experts, sizeof *chosen);
    int rc = scratch && chosen ? 0 : no_memory(e);

    product(d, &w->router, in, width, d->logits, d->width, n);
    for (uint32_t i = 0; rc == 0 && w->correction.data && i < c->n_experts; i++)
        correction[i] = at(&w->correction, i);
    for (size_t t = 0; rc == 0 && t < n; t++) {
        double *out = d->out + t * width;
        lmi_route(c, d->logits + t * d->width, correction, chosen, weights, scratch);
        memset(out, 0, width * sizeof *out);
        for (uint32_t k = 0; k < c->n_experts_used; k++) {
            one_ffn(d, w->e_gate + chosen[k], w->e_up + chosen[k], w->e_down + chosen[k], in + t * width, 1, d->sum);
            for (size_t i = 0; i < width; i++)
                out[i] += weights[k] * d->sum[i];
        }
    }
    free(scratch);
    free(chosen);
    return rc;
}

static void add_shared(struct lm_dev *d, const struct lm_layer_weights *w, const double *in, size_t n)
{
    size_t width = d->net->config.d_model;

    one_ffn(d, &w->s_gate, &w->s_up, &w->s_down, in, n, d->sum);
    if (w->s_router.tensor)
        product(d, &w->s_router, in, width, d->logits, 1, n);
    for (size_t t = 0; t < n; t++) {
        double share = w->s_router.tensor ? 1 / (1 + exp(-d->logits[t])) : 1;
        for (size_t i = 0; i < width; i++)
            d->out[t * width + i] += share * d->sum[t * width + i];
    }
}

static int f64_ffn(struct lm_dev *d, uint32_t layer, struct lm_buf *x, size_t n, struct lm_err *e)
{
    const struct lm_layer_weights *w = d->net->layers + layer;

    if (reserve(d, n, e))
        return -1;
    const double *in = norm_rows(d, x->data, n, &w->ffn_norm, &w->ffn_norm_b);
    if (!w->router.tensor)
        one_ffn(d, w->gate.tensor ? &w->gate : NULL, &w->up, &w->down, in, n, d->out);
    else if (experts(d, w, in, n, e))
        return -1;
    if (w->s_up.tensor)
        add_shared(d, w, in, n);
    join(d, d->out, x->data, n, &w->post_ffn_norm);
    return 0;
}

static int f64_logits_f64(struct lm_dev *d, const struct lm_buf *x, size_t first, size_t n_rows, double *logits,
                          struct lm_err *e)
{
    const struct lm_net *net = d->net;
    const struct lm_config *c = &net->config;

    if (reserve(d, n_rows, e))
        return -1;
    const double *in = norm_rows(d, x->data + first * c->d_model, n_rows, &net->out_norm, &net->out_norm_b);
    product(d, &net->head, in, c->d_model, logits, net->head.rows, n_rows);
    for (size_t i = 0; i < n_rows * net->head.rows; i++) {
        if (c->logit_divisor > 0)
            logits[i] /= c->logit_divisor;
        if (c->final_softcap > 0)
            logits[i] = c->final_softcap * tanh(logits[i] / c->final_softcap);
    }
    return 0;
}

static int f64_logits(struct lm_dev *d, const struct lm_buf *x, size_t first, size_t n_rows, float *logits,
                      struct lm_err *e)
{
    size_t n = n_rows * d->net->head.rows;
    double *exact = new_doubles(n, 1);
    int rc = exact ? f64_logits_f64(d, x, first, n_rows, exact, e) : no_memory(e);

    for (size_t i = 0; rc == 0 && i < n; i++)
        logits[i] = (float)exact[i];
    free(exact);
    return rc;
}

static int f64_sync(struct lm_dev *d, struct lm_err *e)
{
    (void)d, (void)e;
    return 0;
}

const struct lm_backend lm_backend_cpu_f64 = {
    .name = "cpu",
    .open = f64_open,
    .close = f64_close,
    .describe = f64_describe,
    .buf_new = buf_new,
    .buf_free = buf_free,
    .buf_read = buf_read,
    .buf_write = buf_write,
    .buf_move = buf_move,
    .kv_new = kv_new,
    .kv_free = kv_free,
    .embed = f64_embed,
    .qkv = f64_qkv,
    .attend = f64_attend,
    .project = f64_project,
    .ffn = f64_ffn,
    .logits = f64_logits,
    .logits_f64 = f64_logits_f64,
    .kv_read = kv_read,
    .sync = f64_sync,
};
