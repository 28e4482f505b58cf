#include "gpu/mechanics.h"

#include <math.h>

/* ---- experts */

static void softmax(double *x, size_t n)
{
    double max = -INFINITY, sum = 0;

    for (size_t i = 0; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (size_t i = 0; i < n; i++)
        sum += x[i] = exp(x[i] - max);
    for (size_t i = 0; i < n; i++)
        x[i] /= sum;
}

static void score(const struct lm_config *c, const double *logits, double *scores)
{
    memcpy(scores, logits, c->n_experts * sizeof *scores);
    if (c->gating == LM_GATING_SOFTMAX)
        softmax(scores, c->n_experts);
    for (uint32_t i = 0; c->gating == LM_GATING_SIGMOID && i < c->n_experts; i++)
        scores[i] = 1 / (1 + exp(-scores[i]));
}

static size_t best_of(const double *x, size_t n)
{
    size_t best = 0;

    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}

/* By its best, or by its two best together. */
static double score_of_group(const struct lm_config *c, const double *rank, size_t n)
{
    size_t a = best_of(rank, n), b = a == 0 ? 1 : 0;

    if (!c->group_top2 || n < 2)
        return rank[a];
    for (size_t i = 0; i < n; i++)
        if (i != a && rank[i] > rank[b])
            b = i;
    return rank[a] + rank[b];
}

static bool group_is_used(const struct lm_config *c, const double *rank, size_t g)
{
    size_t n = c->n_experts / c->n_expert_groups, better = 0;
    double mine = score_of_group(c, rank + g * n, n);

    for (size_t i = 0; i < c->n_expert_groups; i++) {
        double s = score_of_group(c, rank + i * n, n);
        better += s > mine || (s == mine && i < g);
    }
    return better < c->n_groups_used;
}

/* Experts of groups that are not used leave the choice. */
static void drop_groups(const struct lm_config *c, double *rank, double *scratch)
{
    size_t n = c->n_expert_groups > 1 ? c->n_experts / c->n_expert_groups : 0;

    if (n == 0)
        return;
    memcpy(scratch, rank, c->n_experts * sizeof *scratch);
    for (size_t g = 0; g < c->n_expert_groups; g++)
        for (size_t i = 0; !group_is_used(c, scratch, g) && i < n; i++)
            rank[g * n + i] = -INFINITY;
}

static void weigh(const struct lm_config *c, double *weights)
{
    double sum = 0, scale = c->expert_scale > 0 ? c->expert_scale : 1;
    uint32_t k = c->n_experts_used;

    if (c->gating == LM_GATING_TOPK_SOFTMAX)
        softmax(weights, k);
    for (uint32_t i = 0; i < k; i++)
        sum += weights[i];
    for (uint32_t i = 0; i < k; i++)
        weights[i] *= c->expert_norm ? scale / (sum + 1e-20) : scale;
}

void lmi_route(const struct lm_config *c, const double *logits, const double *correction, uint32_t *chosen,
               double *weights, double *scratch)
{
    double *scores = scratch, *rank = scratch + c->n_experts, *spare = scratch + 2 * (size_t)c->n_experts;

    score(c, logits, scores);
    for (uint32_t i = 0; i < c->n_experts; i++)
        rank[i] = scores[i] + (correction ? correction[i] : 0);
    drop_groups(c, rank, spare);
    for (uint32_t k = 0; k < c->n_experts_used; k++) {
        chosen[k] = (uint32_t)best_of(rank, c->n_experts);
        weights[k] = scores[chosen[k]];
        rank[chosen[k]] = -INFINITY;
    }
    weigh(c, weights);
}

/* ---- ALiBi */

static double as_bf16(double x)
{
    return (double)lm_bf16_to_f32(lm_f32_to_bf16((float)x));
}

/* Geometric slopes; where the heads are no power of two, the rest from the next one's odd places. */
static double alibi_slope(uint32_t n_heads, uint32_t h)
{
    uint32_t whole = 1;

    while (2 * whole <= n_heads)
        whole *= 2;
    if (h < whole)
        return pow(2, -8.0 * (h + 1) / whole);
    return pow(2, -4.0 * (2 * (h - whole) + 1) / whole);
}

double lmi_alibi(uint32_t n_heads, uint32_t head, size_t pos)
{
    return as_bf16(as_bf16(alibi_slope(n_heads, head)) * as_bf16((double)pos));
}

/* ---- rows of the fused product */

static size_t group_of(const struct lm_net *net)
{
    return net->config.n_heads / net->config.n_kv_heads;
}

size_t lmi_q_in_row(const struct lm_net *net, size_t h)
{
    size_t g = group_of(net);
    return (net->qkv_grouped ? h / g * (g + 2) + h % g : h) * net->config.d_head;
}

size_t lmi_k_in_row(const struct lm_net *net, size_t h)
{
    size_t g = group_of(net);
    return (net->qkv_grouped ? h * (g + 2) + g : net->config.n_heads + h) * net->config.d_head;
}

size_t lmi_v_in_row(const struct lm_net *net, size_t h)
{
    size_t g = group_of(net);
    return (net->qkv_grouped ? h * (g + 2) + g + 1 : net->config.n_heads + net->config.n_kv_heads + h) *
           net->config.d_head;
}
