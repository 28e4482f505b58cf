/* Rotary positions, the KV cache and attention on the CPU.
 *
 * A task is one kv head and a few query positions with all the query heads of
 * its group, so that a block of keys is read once for many rows. Whole rows of
 * scores are kept: softmax needs no rescaling, and a row's result depends on
 * its own position only, not on its neighbours in the chunk. */
#include <math.h>
#include "gpu/cpu.h"
#include "gpu/mechanics.h"

#define KEYS 256 /* keys whose values are summed before they join the rest */

/* ---- rotation and storing */

void lmi_cpu_rotate(const struct lm_dev *d, const struct lm_layer_weights *w, float *x, size_t pos)
{
    const struct lm_net *net = d->net;
    size_t half = net->config.d_rope / 2, step = net->rope == LM_ROPE_HALF ? 1 : 2;
    size_t other = net->rope == LM_ROPE_HALF ? half : 1;
    const float *cosine = (w->local_rope ? net->local_cos : net->rope_cos) + pos * half;
    const float *sine = (w->local_rope ? net->local_sin : net->rope_sin) + pos * half;

    for (size_t j = 0; j < half; j++) {
        float a = x[step * j], b = x[step * j + other];
        x[step * j] = a * cosine[j] - b * sine[j];
        x[step * j + other] = a * sine[j] + b * cosine[j];
    }
}

void lmi_cpu_store_kv(const struct lm_dev *d, struct lm_kv *kv, size_t layer, size_t head, size_t pos, const float *k,
                      const float *v)
{
    float *to = lmi_k_at(d, kv, layer, head, pos);

    for (size_t i = 0; i < d->net->d_k; i++)
        to[i * LMI_LANES] = k[i];
    memcpy(lmi_v_at(d, kv, layer, head, pos), v, d->net->d_v * sizeof *v);
}

/* Norms of Q and of K, over each head or over all at once. */
static void norm_heads(const struct lm_dev *d, const struct lm_layer_weights *w, float *row)
{
    const struct lm_config *c = &d->net->config;
    bool whole = c->arch->qk_norm == LM_QK_NORM_WHOLE;
    size_t dh = c->d_head, nq = whole ? 1 : c->n_heads, nk = whole ? 1 : c->n_kv_heads;
    const struct lm_vec none = {0};

    for (size_t h = 0; h < nq; h++) {
        float *x = row + lmi_q_in_row(d->net, h);
        lmi_cpu_norm(c, x, x, whole ? c->n_heads * dh : dh, &w->q_norm, &none);
    }
    for (size_t h = 0; h < nk; h++) {
        float *x = row + lmi_k_in_row(d->net, h);
        lmi_cpu_norm(c, x, x, whole ? c->n_kv_heads * dh : dh, &w->k_norm, &none);
    }
}

static void rotate_heads(const struct lm_dev *d, const struct lm_layer_weights *w, float *row, size_t pos)
{
    for (size_t h = 0; h < d->net->config.n_heads; h++)
        lmi_cpu_rotate(d, w, row + lmi_q_in_row(d->net, h), pos);
    for (size_t h = 0; h < d->net->config.n_kv_heads; h++)
        lmi_cpu_rotate(d, w, row + lmi_k_in_row(d->net, h), pos);
}

struct store { struct lm_dev *d; uint32_t layer; struct lm_buf *q; struct lm_kv *kv; size_t pos0; };

static void store_row(const void *what, size_t t, int thread)
{
    const struct store *s = what;
    const struct lm_dev *d = s->d;
    const struct lm_config *c = &d->net->config;
    const struct lm_layer_weights *w = d->net->layers + s->layer;
    size_t dh = c->d_head, nq = c->n_heads * dh, nkv = c->n_kv_heads * dh, pos = s->pos0 + t;
    float *row = d->wide + t * (nq + 2 * nkv);

    (void)thread;
    if (w->q_norm.data)
        norm_heads(d, w, row);
    if (d->net->rope != LM_ROPE_NONE)
        rotate_heads(d, w, row, pos);
    for (size_t h = 0; h < c->n_heads; h++)
        memcpy(s->q->data + t * nq + h * dh, row + lmi_q_in_row(d->net, h), dh * sizeof *row);
    for (size_t h = 0; h < c->n_kv_heads; h++)
        lmi_cpu_store_kv(d, s->kv, s->layer, h, pos, row + lmi_k_in_row(d->net, h), row + lmi_v_in_row(d->net, h));
}

void lmi_cpu_store_qkv(struct lm_dev *d, uint32_t layer, struct lm_buf *q, struct lm_kv *kv, size_t n, size_t pos0)
{
    lmi_pool_for(d->pool, n, false, store_row, &(struct store){d, layer, q, kv, pos0});
}

/* ---- attention */

struct attend {
    const float *q;
    const struct lm_kv *kv;
    float *out, *probs;
    size_t layer, n, pos0;
    size_t group, step; /* query heads a kv head; query positions a task */
    const struct lm_dev *d;
};

/* Caps and biases of head h's scores for keys base + from and on. */
static void adjust(const struct lm_dev *d, float *s, size_t from, size_t n, size_t base, size_t h)
{
    const struct lm_config *c = &d->net->config;
    double scale = lm_config_attn_scale(c);

    if (c->attn_softcap > 0)
        for (size_t i = from; i < n; i++)
            s[i] = (float)(c->attn_softcap * tanh((double)s[i] / c->attn_softcap));
    if (c->alibi)
        for (size_t i = from; i < n; i++)
            s[i] += (float)(lmi_alibi(c->n_heads, (uint32_t)h, base + i) * scale);
}

/* s [0, n) becomes probabilities; what is outside [from, n) zero. sink: NULL,
 * or one more logit whose share is dropped. */
static void softmax(const struct lm_dev *d, float *s, size_t from, size_t n, size_t width, const float *sink)
{
    float max = sink ? *sink : -INFINITY;
    double sum = 0;

    for (size_t i = from; i < n; i++)
        max = s[i] > max ? s[i] : max;
    if (d->math == LM_MATH_EXACT)
        for (size_t i = from; i < n; i++) {
            s[i] = expf(s[i] - max);
            sum += (double)s[i];
        }
    else
        sum = d->kernels->exp_row(s + from, n - from, max);
    if (sink)
        sum += exp((double)(*sink - max));
    float inv = (float)(1 / sum);
    for (size_t i = from; i < n; i++)
        s[i] *= inv;
    memset(s, 0, from * sizeof *s);
    memset(s + n, 0, (width - n) * sizeof *s);
}

static size_t first_key(const struct lm_dev *d, size_t layer, size_t pos)
{
    size_t window = d->net->layers[layer].window;
    return window && pos + 1 > window ? pos + 1 - window : 0;
}

static void copy_probs(const struct attend *a, const float *s, size_t base, size_t end, float *out)
{
    size_t width = a->pos0 + a->n;

    memset(out, 0, width * sizeof *out);
    memcpy(out + base, s, (end - base) * sizeof *out);
}

/* Scores of one task's rows to probabilities. */
static void weigh(const struct lm_dev *d, const struct attend *a, size_t h, size_t pos, size_t rows, size_t base,
                  size_t end, size_t width, float *scores)
{
    const struct lm_layer_weights *w = d->net->layers + a->layer;
    bool plain = d->net->config.attn_softcap == 0 && !d->net->config.alibi;

    for (size_t r = 0; r < rows; r++) {
        size_t at = pos + r / a->group, head = h * a->group + r % a->group;
        size_t from = first_key(d, a->layer, at) - base, n = at + 1 - base;
        float *s = scores + r * d->lds;
        if (!plain)
            adjust(d, s, from, n, base, head);
        softmax(d, s, from, n, width, w->sinks.data ? w->sinks.data + head : NULL);
        if (a->probs && at + 1 == a->pos0 + a->n)
            copy_probs(a, s, base, end, a->probs + head * (a->pos0 + a->n));
    }
}

/* Query positions t0 .. t0+n-1 of the call for all heads of kv head h. */
static void attend_task(const struct lm_dev *d, const struct attend *a, size_t h, size_t t0, size_t n,
                        struct lmi_thread *th)
{
    const struct lm_net *net = d->net;
    size_t dk = net->d_k, dv = net->d_v, dp = d->d_task_pad, dvp = d->d_v_pad, rows = n * a->group;
    size_t heads = net->config.n_heads, pos = a->pos0 + t0, end = pos + n;
    size_t base = first_key(d, a->layer, pos) / LMI_LANES * LMI_LANES;
    size_t n_blocks = (end - base + LMI_LANES - 1) / LMI_LANES;
    float *q = th->heads, *o = th->heads + d->attend_rows * dp, scale = (float)lm_config_attn_scale(&net->config);

    for (size_t r = 0; r < rows; r++) {
        const float *from = a->q + ((t0 + r / a->group) * heads + h * a->group + r % a->group) * dk;
        for (size_t i = 0; i < dk; i++)
            q[r * dp + i] = from[i] * scale;
    }
    d->kernels->scores(th->scores, d->lds, q, dp, rows, dk, lmi_k_at(d, a->kv, a->layer, h, base), n_blocks);
    weigh(d, a, h, pos, rows, base, end, n_blocks * LMI_LANES, th->scores);
    memset(o, 0, rows * dvp * sizeof *o);
    for (size_t k = base / KEYS * KEYS; k < end; k += KEYS) {
        size_t k0 = k < base ? base : k, k1 = k + KEYS < end ? k + KEYS : end;
        d->kernels->mix(o, dvp, th->scores + (k0 - base), d->lds, rows, lmi_v_at(d, a->kv, a->layer, h, k0), dvp,
                        k1 - k0);
    }
    for (size_t r = 0; r < rows; r++)
        memcpy(a->out + ((t0 + r / a->group) * heads + h * a->group + r % a->group) * dv, o + r * dvp, dv * sizeof *o);
}

/* Late positions have more keys: they are handed out first. */
static void attend_nth(const void *what, size_t i, int thread)
{
    const struct attend *a = what;
    size_t n_kv = a->d->net->n_kv, per_head = (a->n + a->step - 1) / a->step;
    size_t t0 = (per_head - 1 - i / n_kv) * a->step, n = a->n - t0 < a->step ? a->n - t0 : a->step;

    attend_task(a->d, a, i % n_kv, t0, n, a->d->threads + thread);
}

int lmi_cpu_attend(struct lm_dev *d, uint32_t layer, const struct lm_buf *q, const struct lm_kv *kv, struct lm_buf *out,
                   size_t n, size_t pos0, float *probs, struct lm_err *e)
{
    size_t n_kv = d->net->n_kv, group = d->net->config.n_heads / n_kv, step = d->attend_rows / group;
    struct attend a = {q->data, kv, out->data, probs, layer, n, pos0, group, step, d};

    (void)e;
    lmi_pool_for(d->pool, (n + step - 1) / step * n_kv, false, attend_nth, &a);
    return 0;
}
