/* Latent attention on the CPU.  What is kept of a position is its latent vector
 * and one rotated key for all heads: queries are taken into the latent space
 * (k_b), attention runs there with a single wide head, and v_b brings the
 * result back. */
#include "gpu/cpu.h"

/* The same kind of product for every head: y_h [n, rows] = m_h x_h. */
static void head_products(struct lm_dev *d, const struct lm_mat *m, const float *x, size_t ldx, size_t x_step, float *y,
                          size_t ldy, size_t y_step, size_t n)
{
    for (size_t h = 0; h < d->net->config.n_heads; h++) {
        const struct lm_mat *one = m + h;
        struct lmi_acts a;
        lmi_acts_prepare(d, &a, x + h * x_step, ldx, n, &one, 1);
        lmi_cpu_products(d, &(struct lmi_job){one, y + h * y_step}, 1, &a, ldy);
    }
}

/* q [n, n_heads d_head] into wide, ld apart, directly or through its own small vector (low, ld apart too). */
static void queries(struct lm_dev *d, const struct lm_layer_weights *w, const float *in, float *q, float *low,
                    size_t ld, size_t n)
{
    const struct lm_config *c = &d->net->config;
    const struct lm_vec none = {0};
    const struct lm_mat *first = w->q.tensor ? &w->q : &w->q_a, *second = &w->q_b;
    struct lmi_acts a;

    lmi_acts_prepare(d, &a, in, c->d_model, n, &first, 1);
    lmi_cpu_products(d, &(struct lmi_job){first, w->q.tensor ? q : low}, 1, &a, ld);
    if (w->q.tensor)
        return;
    for (size_t t = 0; t < n; t++)
        lmi_cpu_norm(c, low + t * ld, low + t * ld, c->q_lora, &w->q_a_norm, &none);
    lmi_acts_prepare(d, &a, low, ld, n, &second, 1);
    lmi_cpu_products(d, &(struct lmi_job){second, q}, 1, &a, ld);
}

static void store(struct lm_dev *d, uint32_t layer, const float *latent, size_t ld, struct lm_kv *kv, size_t n,
                  size_t pos0)
{
    for (size_t t = 0; t < n; t++)
        lmi_cpu_store_kv(d, kv, layer, 0, pos0 + t, latent + t * ld, latent + t * ld);
}

struct turn { struct lm_dev *d; const struct lm_layer_weights *w; float *latent, *q; size_t ld, pos0; };

/* Of one token: norms its latent vector, rotates its key and its queries. */
static void turn_row(const void *what, size_t t, int thread)
{
    const struct turn *r = what;
    const struct lm_config *c = &r->d->net->config;
    const struct lm_vec none = {0};
    size_t heads = c->n_heads, dk = r->d->net->d_k;
    float *l = r->latent + t * r->ld, *row = r->d->wide + t * r->ld, *out = r->q + t * heads * dk;

    (void)thread;
    lmi_cpu_norm(c, l, l, c->kv_lora, &r->w->kv_a_norm, &none);
    lmi_cpu_rotate(r->d, r->w, l + c->kv_lora, r->pos0 + t);
    for (size_t h = 0; h < heads; h++) {
        float *turned = row + h * c->d_head + c->d_nope;
        lmi_cpu_rotate(r->d, r->w, turned, r->pos0 + t);
        memcpy(out + h * dk + c->kv_lora, turned, c->d_rope * sizeof *out);
    }
}

void lmi_cpu_latent_qkv(struct lm_dev *d, uint32_t layer, const float *in, struct lm_buf *q, struct lm_kv *kv, size_t n,
                        size_t pos0)
{
    const struct lm_config *c = &d->net->config;
    const struct lm_layer_weights *w = d->net->layers + layer;
    const struct lm_mat *kv_a = &w->kv_a;
    size_t heads = c->n_heads, nq = heads * c->d_head, dk = d->net->d_k, ld = nq + c->q_lora + dk;
    float *low = d->wide + nq, *latent = low + c->q_lora;
    struct lmi_acts a;

    queries(d, w, in, d->wide, low, ld, n);
    lmi_acts_prepare(d, &a, in, c->d_model, n, &kv_a, 1);
    lmi_cpu_products(d, &(struct lmi_job){kv_a, latent}, 1, &a, ld);
    lmi_pool_for(d->pool, n, false, turn_row, &(struct turn){d, w, latent, q->data, ld, pos0});
    store(d, layer, latent, ld, kv, n, pos0);
    head_products(d, w->k_b, d->wide, ld, c->d_head, q->data, heads * dk, dk, n);
}

void lmi_cpu_latent_values(struct lm_dev *d, const struct lm_layer_weights *w, const float *a, size_t n)
{
    const struct lm_config *c = &d->net->config;
    size_t heads = c->n_heads, dv = d->net->d_v;

    head_products(d, w->v_b, a, heads * dv, dv, d->wide, heads * c->d_head_v, c->d_head_v, n);
}
