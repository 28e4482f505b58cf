/* Feed-forward networks, and mixtures of them.  A token's experts are chosen on
 * the device; for a few tokens they are run from there too.  For many, the host
 * learns the choice once a layer, and each expert's tokens are gathered and run
 * together.  What experts gave is added up best first, so a token's result does
 * not depend on its neighbours. */
#include "gpu/cuda_base.cuh"

#include <stdlib.h>

enum { THREADS = 256 };
#define FEW_TOKENS 8

/* ---- one network */

static void add_part(struct lmc_job *job, const struct lm_mat *m, void *out)
{
    job->part[job->n_parts++] = {lmc_mat_of(m), 0, m->rows, out, m->rows};
}

static struct lmc_job job_of(const void *x, uint32_t cols, size_t n)
{
    struct lmc_job job = {};
    job.x = x;
    job.cols = cols;
    job.ldx = cols;
    job.n = n;
    job.act.act = LMC_ACT_NONE;
    return job;
}

int lmc_ffn(struct lm_dev *d, const struct lm_mat *gate, const struct lm_mat *up, const struct lm_mat *down,
            const void *x, size_t n, void *out, bool add, struct lm_err *e)
{
    struct lmc_job job = job_of(x, up->cols, n);
    void *g = lmc_reals(d, LMC_GATE, n * up->rows, e), *u = g ? lmc_reals(d, LMC_UP, n * up->rows, e) : nullptr;

    if (!u)
        return -1;
    job.act = lmc_act_of(d);
    if (gate && gate->tensor)
        add_part(&job, gate, g);
    add_part(&job, up, job.n_parts ? u : g);
    if ((job.n_parts == 2 ? lmc_gated(d, &job, g, e) : lmc_product(d, &job, e)) != 0)
        return -1;
    job = job_of(g, down->cols, n);
    job.add = add;
    add_part(&job, down, out);
    return lmc_product(d, &job, e);
}

/* ---- choosing: a warp a token, in double as on the host (gpu/mechanics.c) */

struct route_args {
    const void *logits, *correction; /* [n, n_experts], [n_experts] or NULL */
    uint32_t *chosen;                /* [n, n_used] */
    void *weights;
    uint32_t n_experts, n_used, n_groups, n_groups_used;
    int gating;
    bool normed, top2;
    double scale;
};

/* The largest of n values by lanes, of equals the first; every lane gets it. */
static LMC_DEV uint32_t best_of(const double *x, uint32_t n, int lane)
{
    double best = -INFINITY;
    uint32_t at = 0xffffffffu;

    for (uint32_t i = lane; i < n; i += 32)
        if (at == 0xffffffffu || x[i] > best) {
            best = x[i];
            at = i;
        }
    for (int o = 16; o > 0; o >>= 1) {
        double other = __shfl_xor_sync(0xffffffffu, best, o);
        uint32_t i = __shfl_xor_sync(0xffffffffu, at, o);
        if (i != 0xffffffffu && (at == 0xffffffffu || other > best || (other == best && i < at))) {
            best = other;
            at = i;
        }
    }
    return at;
}

static LMC_DEV double group_score(const route_args &a, const double *rank, uint32_t n)
{
    double first = -INFINITY, second = -INFINITY;

    for (uint32_t i = 0; i < n; i++) {
        if (rank[i] > first) {
            second = first;
            first = rank[i];
        } else if (rank[i] > second) {
            second = rank[i];
        }
    }
    return a.top2 && n > 1 ? first + second : first;
}

/* Experts of groups that are not used leave the choice. spare [n_groups]. */
static LMC_DEV void drop_groups(const route_args &a, double *rank, double *spare, int lane)
{
    const uint32_t n = a.n_experts / a.n_groups;

    for (uint32_t g = lane; g < a.n_groups; g += 32)
        spare[g] = group_score(a, rank + g * n, n);
    __syncwarp();
    for (uint32_t i = lane; i < a.n_experts; i += 32) {
        uint32_t g = i / n, better = 0;
        if (g >= a.n_groups)
            continue;
        for (uint32_t k = 0; k < a.n_groups; k++)
            better += spare[k] > spare[g] || (spare[k] == spare[g] && k < g);
        if (better >= a.n_groups_used)
            rank[i] = -INFINITY;
    }
    __syncwarp();
}

template <class T> static __global__ void route(const route_args a)
{
    __shared__ double scores[LMC_MAX_EXPERTS], rank[LMC_MAX_EXPERTS], spare[LMC_MAX_EXPERTS];
    const int lane = threadIdx.x;
    const T *logits = (const T *)a.logits + (size_t)blockIdx.x * a.n_experts, *correction = (const T *)a.correction;
    uint32_t *chosen = a.chosen + (size_t)blockIdx.x * a.n_used;
    double top = -INFINITY, sum = 0;

    for (uint32_t i = lane; i < a.n_experts; i += 32)
        top = logits[i] > top ? (double)logits[i] : top;
    top = lmc_warp_max(top);
    if (a.gating == LM_GATING_SOFTMAX) {
        for (uint32_t i = lane; i < a.n_experts; i += 32)
            sum += exp((double)logits[i] - top);
        sum = lmc_warp_sum(sum);
    }
    for (uint32_t i = lane; i < a.n_experts; i += 32) {
        double x = (double)logits[i];
        scores[i] = a.gating == LM_GATING_SOFTMAX   ? exp(x - top) / sum
                    : a.gating == LM_GATING_SIGMOID ? 1 / (1 + exp(-x))
                                                    : x;
        rank[i] = scores[i] + (correction ? (double)correction[i] : 0);
    }
    __syncwarp();
    if (a.n_groups > 1)
        drop_groups(a, rank, spare, lane);
    for (uint32_t k = 0; k < a.n_used; k++) {
        uint32_t i = best_of(rank, a.n_experts, lane);
        __syncwarp();
        if (lane == 0) {
            chosen[k] = i;
            spare[k] = scores[i];
            rank[i] = -INFINITY;
        }
        __syncwarp();
    }
    if (lane != 0)
        return;
    T *weights = (T *)a.weights + (size_t)blockIdx.x * a.n_used;
    sum = 0;
    if (a.gating == LM_GATING_TOPK_SOFTMAX) {
        top = spare[0];
        for (uint32_t k = 0; k < a.n_used; k++)
            sum += spare[k] = exp(spare[k] - top);
        for (uint32_t k = 0; k < a.n_used; k++)
            spare[k] /= sum;
        sum = 0;
    }
    for (uint32_t k = 0; k < a.n_used; k++)
        sum += spare[k];
    for (uint32_t k = 0; k < a.n_used; k++)
        weights[k] = (T)(spare[k] * (a.normed ? a.scale / (sum + 1e-20) : a.scale));
}

/* What a layer's experts work in: choices [n, n_used], their weights, logits. */
struct routed {
    uint32_t *chosen;
    void *weights, *logits;
};

static int choose_experts(struct lm_dev *d, const struct lm_layer_weights *l, const void *x, size_t n, struct routed *r,
                          struct lm_err *e)
{
    const struct lm_config *c = &d->net->config;
    size_t used = n * c->n_experts_used;
    route_args a = {};
    uint8_t *p = (uint8_t *)lmc_scratch(d, LMC_ROUTE, (used + n * (c->n_experts + 1)) * d->real + used * sizeof(uint32_t), e);

    if (!p)
        return -1;
    r->weights = p;
    r->logits = p + used * d->real;
    r->chosen = (uint32_t *)(p + (used + n * (c->n_experts + 1)) * d->real);
    struct lmc_job job = job_of(x, l->router.cols, n);
    job.part[job.n_parts++] = {lmc_mat_of(&l->router), 0, c->n_experts, r->logits, c->n_experts};
    if (lmc_product(d, &job, e) != 0)
        return -1;
    a.logits = r->logits, a.correction = l->correction.handle;
    a.chosen = r->chosen, a.weights = r->weights;
    a.n_experts = c->n_experts, a.n_used = c->n_experts_used;
    a.n_groups = c->n_expert_groups, a.n_groups_used = c->n_groups_used;
    a.gating = c->gating;
    a.normed = c->expert_norm, a.top2 = c->group_top2;
    a.scale = c->expert_scale > 0 ? c->expert_scale : 1;
    if (d->f64)
        LMC_LAUNCH(route<double>, dim3((unsigned)n), dim3(32), 0, d->stream, a);
    else
        LMC_LAUNCH(route<float>, dim3((unsigned)n), dim3(32), 0, d->stream, a);
    LMC_LAUNCHED("choice of experts");
    return 0;
}

/* ---- few tokens: everything stays on the device */

static int run_few(struct lm_dev *d, uint32_t layer, const struct routed *r, const void *x, size_t n, float *parts,
                   struct lm_err *e)
{
    const struct lmc_many *m = d->many[layer];
    const uint32_t used = d->net->config.n_experts_used, ff = m[LMC_E_UP].first->rows, width = d->d;
    float *h = (float *)lmc_reals(d, LMC_GATE, n * used * ff, e);
    struct lmc_choice c = {};

    if (!h)
        return -1;
    c.w[0] = &m[LMC_E_GATE], c.w[1] = &m[LMC_E_UP];
    c.select = r->chosen;
    c.per_token = used, c.n = (uint32_t)n;
    c.x = (const float *)x, c.x_token = width;
    c.out = h, c.out_token = (size_t)used * ff, c.out_slot = ff;
    c.act = lmc_act_of(d);
    if (lmc_choose(d, &c, e) != 0)
        return -1;
    c.w[0] = &m[LMC_E_DOWN], c.w[1] = nullptr;
    c.x = h, c.x_token = (size_t)used * ff, c.x_slot = ff;
    c.out = parts, c.out_token = (size_t)used * width, c.out_slot = width;
    c.act.act = LMC_ACT_NONE;
    return lmc_choose(d, &c, e);
}

/* ---- many tokens: expert by expert */

/* to[i] = from[list[i] / per]: a block a row. */
template <class T> static __global__ void gather(T *to, const T *from, const uint32_t *list, uint32_t per, uint32_t width)
{
    const T *x = from + (size_t)(list[blockIdx.x] / per) * width;
    for (uint32_t i = threadIdx.x; i < width; i += THREADS)
        to[(size_t)blockIdx.x * width + i] = x[i];
}
template <class T> static __global__ void scatter(T *to, const T *from, const uint32_t *list, uint32_t width)
{
    T *y = to + (size_t)list[blockIdx.x] * width;
    for (uint32_t i = threadIdx.x; i < width; i += THREADS)
        y[i] = from[(size_t)blockIdx.x * width + i];
}

/* Places of each expert's tokens one after the other; first [n_experts + 1]. */
static void sort_slots(const uint32_t *chosen, size_t n, uint32_t n_experts, uint32_t *first, uint32_t *list)
{
    for (size_t i = 0; i < n; i++)
        first[chosen[i] + 1]++;
    for (uint32_t x = 0; x < n_experts; x++)
        first[x + 1] += first[x];
    for (size_t i = 0; i < n; i++)
        list[first[chosen[i]]++] = (uint32_t)i;
    for (uint32_t x = n_experts; x > 0; x--)
        first[x] = first[x - 1];
    first[0] = 0;
}

struct many {
    uint32_t *chosen, *list, *first; /* host */
    uint32_t *dev;                   /* the list on the device */
    void *rows, *gave;               /* [largest, d] */
};

static int run_expert(struct lm_dev *d, const struct lm_layer_weights *l, const struct many *m, uint32_t x,
                      const void *in, void *parts, struct lm_err *e)
{
    const uint32_t used = d->net->config.n_experts_used, n = m->first[x + 1] - m->first[x], *list = m->dev + m->first[x];

    if (n == 0)
        return 0;
    if (d->f64)
        LMC_LAUNCH(gather<double>, dim3(n), dim3(THREADS), 0, d->stream, (double *)m->rows, (const double *)in, list, used, d->d);
    else
        LMC_LAUNCH(gather<float>, dim3(n), dim3(THREADS), 0, d->stream, (float *)m->rows, (const float *)in, list, used, d->d);
    if (lmc_ffn(d, l->e_gate + x, l->e_up + x, l->e_down + x, m->rows, n, m->gave, false, e) != 0)
        return -1;
    if (d->f64)
        LMC_LAUNCH(scatter<double>, dim3(n), dim3(THREADS), 0, d->stream, (double *)parts, (const double *)m->gave, list, d->d);
    else
        LMC_LAUNCH(scatter<float>, dim3(n), dim3(THREADS), 0, d->stream, (float *)parts, (const float *)m->gave, list, d->d);
    LMC_LAUNCHED("experts");
    return 0;
}

static int run_many(struct lm_dev *d, const struct lm_layer_weights *l, const struct routed *r, const void *x, size_t n,
                    void *parts, struct many *m, struct lm_err *e)
{
    const struct lm_config *c = &d->net->config;
    size_t slots = n * c->n_experts_used;

    if (lmc_to_host(d, m->chosen, r->chosen, slots * sizeof *m->chosen, "choice of experts", e) != 0)
        return -1;
    sort_slots(m->chosen, slots, c->n_experts, m->first, m->list);
    m->dev = (uint32_t *)lmc_scratch(d, LMC_IDS, slots * sizeof *m->dev, e);
    if (!m->dev)
        return -1;
    LMC_TRY(cudaMemcpyAsync(m->dev, m->list, slots * sizeof *m->dev, cudaMemcpyHostToDevice, d->stream), "tokens of experts");
    for (uint32_t i = 0; i < c->n_experts; i++)
        if (run_expert(d, l, m, i, x, parts, e) != 0)
            return -1;
    /* The list is on its way from the host's memory. */
    LMC_TRY(cudaStreamSynchronize(d->stream), "experts");
    return 0;
}

static int many_tokens(struct lm_dev *d, const struct lm_layer_weights *l, const struct routed *r, const void *x,
                       size_t n, void *parts, void *rows, struct lm_err *e)
{
    const struct lm_config *c = &d->net->config;
    size_t slots = n * c->n_experts_used;
    uint32_t *p = (uint32_t *)calloc(2 * slots + c->n_experts + 1, sizeof *p);
    struct many m = {p, p + slots, p + 2 * slots, nullptr, rows, lmc_at(d, rows, n * d->d)};
    int rc = p ? run_many(d, l, r, x, n, parts, &m, e) : lm_err_set(e, LM_NOMEM, "cuda: out of memory");

    free(p);
    return rc;
}

/* ---- together */

template <class T>
static __global__ void combine(T *out, const T *parts, const T *weights, uint32_t used, const T *shared, const T *gate,
                               uint32_t width)
{
    const size_t t = blockIdx.x;
    T share = gate ? T(1) / (T(1) + lmc_exp(-gate[t])) : T(1);

    for (uint32_t i = threadIdx.x; i < width; i += THREADS) {
        T sum = 0;
        for (uint32_t k = 0; k < used; k++)
            sum += weights[t * used + k] * parts[(t * used + k) * width + i];
        out[t * width + i] = shared ? sum + share * shared[t * width + i] : sum;
    }
}

/* The shared expert's part of each token and the logit of its share (NULL: 1). */
static int run_shared(struct lm_dev *d, const struct lm_layer_weights *l, const void *x, size_t n, void **gave,
                      void **gate, struct lm_err *e)
{
    *gave = *gate = nullptr;
    if (!l->s_up.tensor)
        return 0;
    *gave = lmc_reals(d, LMC_SHARED, n * d->d + n, e);
    if (!*gave || lmc_ffn(d, &l->s_gate, &l->s_up, &l->s_down, x, n, *gave, false, e) != 0)
        return -1;
    if (!l->s_router.tensor)
        return 0;
    *gate = lmc_at(d, *gave, n * d->d);
    struct lmc_job job = job_of(x, l->s_router.cols, n);
    job.part[job.n_parts++] = {lmc_mat_of(&l->s_router), 0, 1, *gate, 1};
    return lmc_product(d, &job, e);
}

int lmc_experts(struct lm_dev *d, uint32_t layer, const void *x, size_t n, void *out, struct lm_err *e)
{
    const struct lm_layer_weights *l = &d->net->layers[layer];
    const uint32_t used = d->net->config.n_experts_used;
    const struct lmc_many *m = d->many[layer];
    bool few = n <= FEW_TOKENS && lmc_can_choose(d, &m[LMC_E_GATE]) && lmc_can_choose(d, &m[LMC_E_UP]) &&
               m[LMC_E_GATE].first->dtype == m[LMC_E_UP].first->dtype && lmc_can_choose(d, &m[LMC_E_DOWN]);
    void *parts = lmc_reals(d, LMC_EXPERT, n * (used + 2) * (size_t)d->d, e), *shared, *gate;
    struct routed r;

    if (!parts || choose_experts(d, l, x, n, &r, e) != 0)
        return -1;
    if ((few ? run_few(d, layer, &r, x, n, (float *)parts, e)
             : many_tokens(d, l, &r, x, n, parts, lmc_at(d, parts, n * used * (size_t)d->d), e)) != 0 ||
        run_shared(d, l, x, n, &shared, &gate, e) != 0)
        return -1;
    if (d->f64)
        LMC_LAUNCH(combine<double>, dim3((unsigned)n), dim3(THREADS), 0, d->stream, (double *)out, (const double *)parts,
                   (const double *)r.weights, used, (const double *)shared, (const double *)gate, d->d);
    else
        LMC_LAUNCH(combine<float>, dim3((unsigned)n), dim3(THREADS), 0, d->stream, (float *)out, (const float *)parts,
                   (const float *)r.weights, used, (const float *)shared, (const float *)gate, d->d);
    LMC_LAUNCHED("experts");
    return 0;
}
