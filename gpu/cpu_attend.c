/* Rotary positions, the KV cache and attention on the CPU.
 *
 * A task is one kv head and a few query positions with all the query heads of
 * its group, so that a block of keys is read once for many rows. Whole rows of
 * scores are kept: softmax needs no rescaling, and a row's result depends on
 * its own position only, not on its neighbours in the chunk. */
#include <math.h>
#include <omp.h>
#include "gpu/cpu.h"

#define KEYS 256 /* keys whose values are summed before they join the rest */

/* ---- rotation and storing */

static void rotate(const struct lm_dev *d, float *x, size_t n_heads, size_t pos)
{
    const struct lm_net *net = d->net;
    size_t half = net->config.d_rope / 2, step = net->rope == LM_ROPE_HALF ? 1 : 2;
    size_t other = net->rope == LM_ROPE_HALF ? half : 1;
    const float *cosine = net->rope_cos + pos * half, *sine = net->rope_sin + pos * half;

    for (size_t h = 0; h < n_heads; h++, x += net->config.d_head)
        for (size_t j = 0; j < half; j++) {
            float a = x[step * j], b = x[step * j + other];
            x[step * j] = a * cosine[j] - b * sine[j];
            x[step * j + other] = a * sine[j] + b * cosine[j];
        }
}

static void store_kv(const struct lm_dev *d, struct lm_kv *kv, size_t layer, size_t pos, const float *k,
                     const float *v)
{
    const struct lm_config *c = &d->net->config;

    for (size_t h = 0; h < c->n_kv_heads; h++) {
        float *to = lmi_k_at(d, kv, layer, h, pos);
        for (size_t i = 0; i < c->d_head; i++)
            to[i * LMI_LANES] = k[h * c->d_head + i];
        memcpy(lmi_v_at(d, kv, layer, h, pos), v + h * c->d_head, c->d_head * sizeof *v);
    }
}

void lmi_cpu_store_qkv(struct lm_dev *d, uint32_t layer, struct lm_buf *q, struct lm_kv *kv, size_t n, size_t pos0)
{
    const struct lm_config *c = &d->net->config;
    size_t nq = (size_t)c->n_heads * c->d_head, nkv = (size_t)c->n_kv_heads * c->d_head;

#pragma omp parallel for num_threads(d->n_threads) if (n > 1)
    for (size_t t = 0; t < n; t++) {
        float *row = d->wide + t * (nq + 2 * nkv);
        if (d->net->rope != LM_ROPE_NONE) {
            rotate(d, row, c->n_heads, pos0 + t);
            rotate(d, row + nq, c->n_kv_heads, pos0 + t);
        }
        memcpy(q->data + t * nq, row, nq * sizeof *row);
        store_kv(d, kv, layer, pos0 + t, row + nq, row + nq + nkv);
    }
}

/* ---- attention */

struct attend {
    const float *q;
    const struct lm_kv *kv;
    float *out, *probs;
    size_t layer, n, pos0;
    size_t group, step; /* query heads a kv head; query positions a task */
};

/* s [0, n) becomes probabilities; what is outside [from, n) zero. */
static void softmax(const struct lm_dev *d, float *s, size_t from, size_t n, size_t width)
{
    float max = -INFINITY;
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
    float inv = (float)(1 / sum);
    for (size_t i = from; i < n; i++)
        s[i] *= inv;
    memset(s, 0, from * sizeof *s);
    memset(s + n, 0, (width - n) * sizeof *s);
}

static size_t first_key(const struct lm_dev *d, size_t pos)
{
    size_t window = d->net->config.sliding_window;
    return window && pos + 1 > window ? pos + 1 - window : 0;
}

static void copy_probs(const struct attend *a, const float *s, size_t base, size_t end, float *out)
{
    size_t width = a->pos0 + a->n;

    memset(out, 0, width * sizeof *out);
    memcpy(out + base, s, (end - base) * sizeof *out);
}

/* Query positions t0 .. t0+n-1 of the call for all heads of kv head h. */
static void attend_task(const struct lm_dev *d, const struct attend *a, size_t h, size_t t0, size_t n,
                        struct lmi_thread *th)
{
    const struct lm_config *c = &d->net->config;
    size_t dh = c->d_head, dp = d->d_head_pad, rows = n * a->group, width = (size_t)c->n_heads * dh;
    size_t pos = a->pos0 + t0, end = pos + n;
    size_t base = first_key(d, pos) / LMI_LANES * LMI_LANES, n_blocks = (end - base + LMI_LANES - 1) / LMI_LANES;
    float *q = th->heads, *o = th->heads + d->attend_rows * dp, scale = (float)(1 / sqrt((double)dh));

    for (size_t r = 0; r < rows; r++) {
        const float *from = a->q + (t0 + r / a->group) * width + (h * a->group + r % a->group) * dh;
        for (size_t i = 0; i < dh; i++)
            q[r * dp + i] = from[i] * scale;
    }
    d->kernels->scores(th->scores, d->lds, q, dp, rows, dh, lmi_k_at(d, a->kv, a->layer, h, base), n_blocks);
    for (size_t r = 0; r < rows; r++) {
        size_t at = pos + r / a->group;
        softmax(d, th->scores + r * d->lds, first_key(d, at) - base, at + 1 - base, n_blocks * LMI_LANES);
        if (a->probs && at + 1 == a->pos0 + a->n)
            copy_probs(a, th->scores + r * d->lds, base, end,
                       a->probs + (h * a->group + r % a->group) * (a->pos0 + a->n));
    }
    memset(o, 0, rows * dp * sizeof *o);
    for (size_t k = base / KEYS * KEYS; k < end; k += KEYS) {
        size_t k0 = k < base ? base : k, k1 = k + KEYS < end ? k + KEYS : end;
        d->kernels->mix(o, dp, th->scores + (k0 - base), d->lds, rows, lmi_v_at(d, a->kv, a->layer, h, k0), dp,
                        k1 - k0);
    }
    for (size_t r = 0; r < rows; r++)
        memcpy(a->out + (t0 + r / a->group) * width + (h * a->group + r % a->group) * dh, o + r * dp,
               dh * sizeof *o);
}

int lmi_cpu_attend(struct lm_dev *d, uint32_t layer, const struct lm_buf *q, const struct lm_kv *kv, struct lm_buf *out,
                   size_t n, size_t pos0, float *probs, struct lm_err *e)
{
    const struct lm_config *c = &d->net->config;
    size_t group = c->n_heads / c->n_kv_heads, step = d->attend_rows / group;
    struct attend a = {q->data, kv, out->data, probs, layer, n, pos0, group, step};
    size_t per_head = (n + step - 1) / step, total = per_head * c->n_kv_heads;

    (void)e;
    /* Late positions have more keys: hand them out first. */
#pragma omp parallel for num_threads(d->n_threads) schedule(dynamic, 1) if (total > 1)
    for (size_t i = 0; i < total; i++) {
        size_t t0 = (per_head - 1 - i / c->n_kv_heads) * step, m = n - t0 < step ? n - t0 : step;
        attend_task(d, &a, i % c->n_kv_heads, t0, m, d->threads + omp_get_thread_num());
    }
    return 0;
}
