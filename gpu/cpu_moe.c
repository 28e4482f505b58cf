/* Mixtures of experts on the CPU.  Tokens are gathered expert by expert; what
 * each of a token's experts gave is kept and added up best first, so that a
 * token's result does not depend on its neighbours. */
#include <math.h>
#include <stdlib.h>
#include "gpu/cpu.h"
#include "gpu/mechanics.h"

struct lmi_moe *lmi_moe_new(const struct lm_dev *d, size_t n)
{
    const struct lm_config *c = &d->net->config;
    struct lmi_moe *m = calloc(1, sizeof *m);
    size_t used = c->n_experts_used, width = c->d_model;

    if (!m)
        return NULL;
    m->logits = lmi_cpu_alloc(n, c->n_experts * sizeof *m->logits);
    m->gather = lmi_cpu_alloc(n, width * sizeof *m->gather);
    m->parts = lmi_cpu_alloc(n * used, width * sizeof *m->parts);
    m->weights = lmi_cpu_alloc(n, used * sizeof *m->weights);
    m->chosen = lmi_cpu_alloc(n, used * sizeof *m->chosen);
    m->slots = lmi_cpu_alloc(n, sizeof *m->slots);
    m->doubles = lmi_cpu_alloc((size_t)d->n_threads, 5 * (size_t)c->n_experts * sizeof *m->doubles);
    if (m->logits && m->gather && m->parts && m->weights && m->chosen && m->slots && m->doubles)
        return m;
    lmi_moe_free(m);
    return NULL;
}

void lmi_moe_free(struct lmi_moe *m)
{
    if (!m)
        return;
    free(m->logits);
    free(m->gather);
    free(m->parts);
    free(m->weights);
    free(m->chosen);
    free(m->slots);
    free(m->doubles);
    free(m);
}

struct routing { struct lm_dev *d; const struct lm_layer_weights *w; };

static void route_row(const void *what, size_t t, int thread)
{
    const struct routing *r = what;
    const struct lm_config *c = &r->d->net->config;
    struct lmi_moe *moe = r->d->moe;
    size_t n_experts = c->n_experts, used = c->n_experts_used;
    double *x = moe->doubles + (size_t)thread * 5 * n_experts, *bias = x + 4 * n_experts;

    for (size_t i = 0; i < n_experts; i++) {
        x[i] = (double)moe->logits[t * n_experts + i];
        bias[i] = r->w->correction.data ? (double)r->w->correction.data[i] : 0;
    }
    lmi_route(c, x, bias, moe->chosen + t * used, moe->weights + t * used, x + n_experts);
}

static void route(struct lm_dev *d, const struct lm_layer_weights *w, const float *in, size_t n)
{
    const struct lm_mat *m = &w->router;
    struct lmi_acts a;

    lmi_acts_prepare(d, &a, in, m->cols, n, &m, 1);
    lmi_cpu_products(d, &(struct lmi_job){m, d->moe->logits}, 1, &a, d->net->config.n_experts);
    lmi_pool_for(d->pool, n, false, route_row, &(struct routing){d, w});
}

/* Inputs of expert x side by side; their places. */
static size_t gather(struct lm_dev *d, const float *in, size_t n, uint32_t x)
{
    struct lmi_moe *moe = d->moe;
    size_t used = d->net->config.n_experts_used, width = d->net->config.d_model, m = 0;

    for (size_t i = 0; i < n * used; i++) {
        if (moe->chosen[i] != x)
            continue;
        memcpy(moe->gather + m * width, in + i / used * width, width * sizeof *in);
        moe->slots[m++] = (uint32_t)i;
    }
    return m;
}

/* out [n, d] = down(act(gate x) * (up x)). */
static void one_ffn(struct lm_dev *d, const struct lm_mat *gate, const struct lm_mat *up, const struct lm_mat *down,
                    const float *in, size_t n, float *out)
{
    struct lmi_acts a;

    lmi_acts_prepare(d, &a, in, up->cols, n, (const struct lm_mat *[]){up, gate}, 2);
    lmi_cpu_hidden(d, gate, up, &a, d->wide);
    lmi_acts_prepare(d, &a, d->wide, down->cols, n, &down, 1);
    lmi_cpu_products(d, &(struct lmi_job){down, out}, 1, &a, down->rows);
}

static void run_expert(struct lm_dev *d, const struct lm_layer_weights *w, const float *in, size_t n, uint32_t x)
{
    size_t width = d->net->config.d_model, m = gather(d, in, n, x);

    if (m == 0)
        return;
    one_ffn(d, w->e_gate + x, w->e_up + x, w->e_down + x, d->moe->gather, m, d->out);
    for (size_t i = 0; i < m; i++)
        memcpy(d->moe->parts + d->moe->slots[i] * width, d->out + i * width, width * sizeof *d->out);
}

/* The shared expert's share, 1 or sigmoid(x . s_router). */
static void add_shared(struct lm_dev *d, const struct lm_layer_weights *w, const float *in, size_t n)
{
    size_t width = d->net->config.d_model;
    const struct lm_mat *gate = &w->s_router;
    float *sum = d->moe->gather; /* free by now, as are the logits */
    struct lmi_acts a;

    one_ffn(d, &w->s_gate, &w->s_up, &w->s_down, in, n, sum);
    if (gate->tensor) {
        lmi_acts_prepare(d, &a, in, gate->cols, n, &gate, 1);
        lmi_cpu_products(d, &(struct lmi_job){gate, d->moe->logits}, 1, &a, 1);
    }
    for (size_t t = 0; t < n; t++) {
        float share = gate->tensor ? 1.0f / (1.0f + expf(-d->moe->logits[t])) : 1;
        for (size_t i = 0; i < width; i++)
            d->out[t * width + i] += share * sum[t * width + i];
    }
}

/* What a token's experts gave, best first. */
static void mix_row(const void *what, size_t t, int thread)
{
    const struct lm_dev *d = what;
    size_t used = d->net->config.n_experts_used, width = d->net->config.d_model;
    float *out = d->out + t * width;

    (void)thread;
    memset(out, 0, width * sizeof *out);
    for (size_t k = 0; k < used; k++) {
        float share = (float)d->moe->weights[t * used + k];
        for (size_t i = 0; i < width; i++)
            out[i] += share * d->moe->parts[(t * used + k) * width + i];
    }
}

void lmi_cpu_experts(struct lm_dev *d, const struct lm_layer_weights *w, const float *in, size_t n)
{
    route(d, w, in, n);
    for (uint32_t x = 0; x < d->net->config.n_experts; x++)
        run_expert(d, w, in, n, x);
    lmi_pool_for(d->pool, n, false, mix_row, d);
    if (w->s_up.tensor)
        add_shared(d, w, in, n);
}
