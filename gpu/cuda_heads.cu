/* From the product of queries, keys and values to their places: norms of heads,
 * rotation, the KV cache, in one pass.  A warp does a head of a token. */
#include "gpu/cuda_base.cuh"

enum { THREADS = 128, WARPS = THREADS / 32 };

template <class T> struct heads_args {
    const T *wide; /* [n, ld] */
    size_t ld;
    T *q, *k, *v;  /* k, v: position 0 of the layer's cache */
    const T *q_norm, *k_norm; /* of each head, or NULL */
    const T *cosines, *sines; /* NULL: no rotation */
    T eps;
    enum lm_norm kind;
    uint32_t n_heads, n_kv, d_head, half;
    bool adjacent, grouped;
    struct lmc_pos pos0;
};

/* Where head h of all (queries, keys, values) is in a row, in heads. */
template <class T> static LMC_DEV uint32_t place_of(const heads_args<T> &a, uint32_t h)
{
    uint32_t group = a.n_heads / a.n_kv;
    if (!a.grouped)
        return h;
    if (h < a.n_heads)
        return h / group * (group + 2) + h % group;
    h -= a.n_heads;
    return h < a.n_kv ? h * (group + 2) + group : (h - a.n_kv) * (group + 2) + group + 1;
}

/* Mean and factor of a head. */
template <class T> static LMC_DEV void head_scale(const T *x, uint32_t n, enum lm_norm kind, T eps, int lane, T *mean, T *scale)
{
    T sum = 0;

    *mean = 0;
    if (kind == LM_NORM_LAYER) {
        for (uint32_t i = lane; i < n; i += 32)
            sum += x[i];
        *mean = lmc_warp_sum(sum) / (T)n;
        sum = 0;
    }
    for (uint32_t i = lane; i < n; i += 32)
        sum += (x[i] - *mean) * (x[i] - *mean);
    *scale = T(1) / lmc_sqrt(lmc_warp_sum(sum) / (T)n + eps);
}

template <class T> static LMC_DEV void turn(T *y, uint32_t a, uint32_t b, T xa, T xb, T c, T s)
{
    y[a] = xa * c - xb * s;
    y[b] = xa * s + xb * c;
}

template <class T> static __global__ void store(const heads_args<T> a)
{
    const uint32_t h = blockIdx.y * WARPS + threadIdx.x / 32;
    const size_t token = blockIdx.x, pos = lmc_pos_of(a.pos0) + token;
    const int lane = threadIdx.x % 32;

    if (h >= a.n_heads + 2 * a.n_kv)
        return;
    const bool is_q = h < a.n_heads, is_v = h >= a.n_heads + a.n_kv;
    const T *x = a.wide + token * a.ld + (size_t)place_of(a, h) * a.d_head, *w = is_v ? nullptr : is_q ? a.q_norm : a.k_norm;
    T *y = is_q   ? a.q + (token * a.n_heads + h) * a.d_head
           : is_v ? a.v + (pos * a.n_kv + h - a.n_heads - a.n_kv) * a.d_head
                  : a.k + (pos * a.n_kv + h - a.n_heads) * a.d_head;
    T mean = 0, scale = 1;

    if (w)
        head_scale(x, a.d_head, a.kind, a.eps, lane, &mean, &scale);
    auto value = [&](uint32_t i) { return w ? (x[i] - mean) * scale * w[i] : x[i]; };
    const uint32_t half = is_v || !a.cosines ? 0 : a.half;
    for (uint32_t j = lane; j < half; j += 32) {
        uint32_t i0 = a.adjacent ? 2 * j : j, i1 = a.adjacent ? 2 * j + 1 : j + half;
        turn(y, i0, i1, value(i0), value(i1), a.cosines[pos * half + j], a.sines[pos * half + j]);
    }
    for (uint32_t i = 2 * half + lane; i < a.d_head; i += 32)
        y[i] = value(i);
}

template <class T>
static void launch_store(struct lm_dev *d, const struct lm_layer_weights *l, const void *wide, size_t ld, void *q,
                         void *k, void *v, size_t n, struct lmc_pos pos0)
{
    const struct lm_config *c = &d->net->config;
    bool per_head = c->arch->qk_norm != LM_QK_NORM_WHOLE;
    heads_args<T> a = {};

    a.wide = (const T *)wide;
    a.ld = ld;
    a.q = (T *)q, a.k = (T *)k, a.v = (T *)v;
    a.q_norm = per_head ? (const T *)l->q_norm.handle : nullptr;
    a.k_norm = per_head ? (const T *)l->k_norm.handle : nullptr;
    a.cosines = (const T *)(l->local_rope ? d->local_cos : d->rope_cos);
    a.sines = (const T *)(l->local_rope ? d->local_sin : d->rope_sin);
    a.eps = (T)c->norm_eps;
    a.kind = c->arch->norm;
    a.n_heads = c->n_heads, a.n_kv = c->n_kv_heads, a.d_head = c->d_head, a.half = c->d_rope / 2;
    a.adjacent = d->net->rope == LM_ROPE_ADJACENT;
    a.grouped = d->net->qkv_grouped;
    a.pos0 = pos0;
    LMC_LAUNCH(store<T>, dim3((unsigned)n, (a.n_heads + 2 * a.n_kv + WARPS - 1) / WARPS), dim3(THREADS), 0, d->stream, a);
}

int lmc_store_heads(struct lm_dev *d, const struct lm_layer_weights *l, void *wide, size_t ld, void *q, void *k, void *v,
                    size_t n, struct lmc_pos pos0, struct lm_err *e)
{
    const struct lm_config *c = &d->net->config;

    if (c->arch->qk_norm == LM_QK_NORM_WHOLE && l->q_norm.data) {
        void *keys = lmc_at(d, wide, d->d_q);
        if (lmc_norm(d, wide, ld, &l->q_norm, nullptr, d->d_q, n, wide, e) != 0 ||
            lmc_norm(d, keys, ld, &l->k_norm, nullptr, d->k_row, n, keys, e) != 0)
            return -1;
    }
    if (d->f64)
        launch_store<double>(d, l, wide, ld, q, k, v, n, pos0);
    else
        launch_store<float>(d, l, wide, ld, q, k, v, n, pos0);
    LMC_LAUNCHED("queries, keys and values");
    return 0;
}

/* ---- latent attention */

template <class T> struct latent_args {
    const T *wide, *latent; /* rows ld apart */
    size_t ld;
    T *q, *k;
    const T *norm, *cosines, *sines;
    T eps;
    enum lm_norm kind;
    uint32_t n_heads, d_head, d_nope, d_k, kv_lora, half;
    bool adjacent;
    struct lmc_pos pos0;
};

/* Warp 0 of a token: its latent vector; the others: a head's rotated part. */
template <class T> static __global__ void store_latent(const latent_args<T> a)
{
    const uint32_t task = blockIdx.y * WARPS + threadIdx.x / 32;
    const size_t token = blockIdx.x, pos = lmc_pos_of(a.pos0) + token;
    const int lane = threadIdx.x % 32;

    if (task > a.n_heads)
        return;
    const T *x = task ? a.wide + token * a.ld + (task - 1) * a.d_head + a.d_nope : a.latent + token * a.ld;
    T *y = task ? a.q + (token * a.n_heads + task - 1) * a.d_k : a.k + pos * a.d_k;
    if (task == 0) {
        T mean, scale;
        head_scale(x, a.kv_lora, a.kind, a.eps, lane, &mean, &scale);
        for (uint32_t i = lane; i < a.kv_lora; i += 32)
            y[i] = (x[i] - mean) * scale * a.norm[i];
        x += a.kv_lora;
    }
    for (uint32_t j = lane; j < a.half; j += 32) {
        uint32_t i0 = a.adjacent ? 2 * j : j, i1 = a.adjacent ? 2 * j + 1 : j + a.half;
        turn(y + a.kv_lora, i0, i1, x[i0], x[i1], a.cosines[pos * a.half + j], a.sines[pos * a.half + j]);
    }
}

template <class T>
static void launch_latent(struct lm_dev *d, const struct lm_layer_weights *l, const void *wide, const void *latent,
                          size_t ld, void *q, void *k, size_t n, struct lmc_pos pos0)
{
    const struct lm_config *c = &d->net->config;
    latent_args<T> a = {};

    a.wide = (const T *)wide, a.latent = (const T *)latent;
    a.ld = ld;
    a.q = (T *)q, a.k = (T *)k;
    a.norm = (const T *)l->kv_a_norm.handle;
    a.cosines = (const T *)(l->local_rope ? d->local_cos : d->rope_cos);
    a.sines = (const T *)(l->local_rope ? d->local_sin : d->rope_sin);
    a.eps = (T)c->norm_eps;
    a.kind = c->arch->norm;
    a.n_heads = c->n_heads, a.d_head = c->d_head, a.d_nope = c->d_nope, a.d_k = d->d_k, a.kv_lora = c->kv_lora;
    a.half = c->d_rope / 2;
    a.adjacent = d->net->rope == LM_ROPE_ADJACENT;
    a.pos0 = pos0;
    LMC_LAUNCH(store_latent<T>, dim3((unsigned)n, (a.n_heads + WARPS) / WARPS), dim3(THREADS), 0, d->stream, a);
}

int lmc_store_latent(struct lm_dev *d, const struct lm_layer_weights *l, const void *wide, const void *latent, size_t ld,
                     void *q, void *k, size_t n, struct lmc_pos pos0, struct lm_err *e)
{
    if (d->f64)
        launch_latent<double>(d, l, wide, latent, ld, q, k, n, pos0);
    else
        launch_latent<float>(d, l, wide, latent, ld, q, k, n, pos0);
    LMC_LAUNCHED("latent keys");
    return 0;
}
