/* A backend shows the input of every product; matrices that share an input
 * (Q, K and V; gate and up) share its sums.  Sums are doubles, added token by
 * token, so that they do not depend on threads. */
#include "gpu/calibrate.h"

#include <math.h>
#include <stdlib.h>

#include "gpu/net.h"

enum { COLUMNS = 256, LOGIT_ROWS = 64 };
#define NO_GROUP SIZE_MAX

/* A matrix of the net: one of n that make up a tensor of GGUF. */
struct slot { const struct lm_mat *m; enum lm_role role; int layer; uint32_t index, n; size_t group; };
struct group { double *sums; size_t n; int64_t count; };

struct lm_calibration {
    struct lm_engine *g;
    bool output, out_of_memory;
    struct slot *slots;    /* by address of m */
    size_t n_slots, room;
    struct group *groups;  /* at most one a slot */
    size_t n_groups;
};

static int no_memory(struct lm_err *e)
{
    return lm_err_set(e, LM_NOMEM, "out of memory for the sums of the activations");
}

/* ---- which matrices there are */

static int add_slots(struct lm_calibration *c, const struct lm_mat *m, uint32_t n, enum lm_role role, int layer,
                     struct lm_err *e)
{
    if (!m || !m->tensor)
        return 0;
    if (c->n_slots + n > c->room) {
        size_t room = 2 * c->room + n + 64;
        struct slot *bigger = reallocarray(c->slots, room, sizeof *bigger);
        if (!bigger)
            return no_memory(e);
        c->slots = bigger;
        c->room = room;
    }
    for (uint32_t i = 0; i < n; i++)
        c->slots[c->n_slots++] = (struct slot){m + i, role, layer, i, n, NO_GROUP};
    return 0;
}

static int add_layer(struct lm_calibration *c, const struct lm_layer_weights *w, int layer, struct lm_err *e)
{
    const struct lm_binding *b = c->g->binding;
    uint32_t experts = c->g->net.config.n_experts, heads = c->g->net.config.n_heads;
    bool fused = lm_bound_tensor(b, LM_ROLE_FFN_GATE_UP, layer) != NULL;
    const struct { const struct lm_mat *m; uint32_t n; enum lm_role role; } all[] = {
        {&w->q, 1, LM_ROLE_ATTN_Q}, {&w->k, 1, LM_ROLE_ATTN_K}, {&w->v, 1, LM_ROLE_ATTN_V}, {&w->qkv, 1, LM_ROLE_ATTN_QKV},
        {&w->out, 1, LM_ROLE_ATTN_OUT}, {&w->gate, 1, fused ? LM_ROLE_FFN_GATE_UP : LM_ROLE_FFN_GATE},
        {&w->up, 1, fused ? LM_ROLE_FFN_GATE_UP : LM_ROLE_FFN_UP}, {&w->down, 1, LM_ROLE_FFN_DOWN},
        {&w->q_a, 1, LM_ROLE_MLA_Q_A}, {&w->q_b, 1, LM_ROLE_MLA_Q_B}, {&w->kv_a, 1, LM_ROLE_MLA_KV_A},
        {w->k_b, heads, LM_ROLE_MLA_K_B}, {w->v_b, heads, LM_ROLE_MLA_V_B}, {&w->router, 1, LM_ROLE_ROUTER},
        {w->e_gate, experts, LM_ROLE_GATE_EXPS}, {w->e_up, experts, LM_ROLE_UP_EXPS},
        {w->e_down, experts, LM_ROLE_DOWN_EXPS}, {&w->s_gate, 1, LM_ROLE_GATE_SHEXP}, {&w->s_up, 1, LM_ROLE_UP_SHEXP},
        {&w->s_down, 1, LM_ROLE_DOWN_SHEXP}, {&w->s_router, 1, LM_ROLE_SHEXP_GATE},
    };

    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (add_slots(c, all[i].m, all[i].n, all[i].role, layer, e))
            return -1;
    return 0;
}

static int by_address(const void *a, const void *b)
{
    const struct lm_mat *x = ((const struct slot *)a)->m, *y = ((const struct slot *)b)->m;
    return x < y ? -1 : x > y;
}

static int find_matrices(struct lm_calibration *c, struct lm_err *e)
{
    const struct lm_net *net = &c->g->net;

    for (uint32_t i = 0; i < net->config.n_layers; i++)
        if (add_layer(c, net->layers + i, (int)i, e))
            return -1;
    c->output = c->output && net->head.tensor != net->embed.tensor;
    if (c->output && add_slots(c, &net->head, 1, LM_ROLE_OUTPUT, -1, e))
        return -1;
    qsort(c->slots, c->n_slots, sizeof *c->slots, by_address);
    return (c->groups = calloc(c->n_slots + 1, sizeof *c->groups)) ? 0 : no_memory(e);
}

static struct slot *slot_of(const struct lm_calibration *c, const struct lm_mat *m)
{
    struct slot key = {.m = m};
    return bsearch(&key, c->slots, c->n_slots, sizeof key, by_address);
}

/* ---- watching */

static void add_squares(double *restrict sums, const float *x, size_t ldx, size_t n, size_t columns)
{
    for (size_t t = 0; t < n; t++, x += ldx)
        for (size_t i = 0; i < columns; i++)
            sums[i] += (double)x[i] * (double)x[i];
}

static struct group *group_of(struct lm_calibration *c, struct slot *s)
{
    if (s->group != NO_GROUP)
        return &c->groups[s->group];
    struct group *g = &c->groups[c->n_groups];
    g->n = s->m->cols;
    if (!(g->sums = calloc(g->n + 1, sizeof *g->sums)))
        return NULL;
    s->group = c->n_groups++;
    return g;
}

static void watch(void *user, const struct lm_mat *const *mats, size_t n_mats, const float *x, size_t ldx, size_t n)
{
    struct lm_calibration *c = user;
    struct slot *first = slot_of(c, mats[0]);
    struct group *g = first ? group_of(c, first) : NULL;

    c->out_of_memory = c->out_of_memory || (first && !g);
    if (!g)
        return;
    for (size_t i = 1; i < n_mats; i++) {
        struct slot *s = mats[i]->tensor ? slot_of(c, mats[i]) : NULL;
        if (s)
            s->group = first->group;
    }
#pragma omp parallel for schedule(static) if (n * g->n > 1 << 16)
    for (size_t at = 0; at < g->n; at += COLUMNS)
        add_squares(g->sums + at, x + at, ldx, n, g->n - at < COLUMNS ? g->n - at : COLUMNS);
    g->count += (int64_t)n;
}

int lm_calibration_new(struct lm_calibration **out, struct lm_engine *g, bool output, struct lm_err *e)
{
    struct lm_calibration *c = calloc(1, sizeof *c);

    *out = NULL;
    if (!c)
        return no_memory(e);
    c->g = g;
    c->output = output;
    if (!g->backend->watch)
        lm_err_set(e, LM_UNSUPPORTED, "what matrices are multiplied with cannot be seen on the device %s: --device cpu",
                   g->backend->name);
    else if (find_matrices(c, e) == 0) {
        g->backend->watch(g->dev, watch, c);
        *out = c;
        return 0;
    }
    lm_calibration_free(c);
    return -1;
}

void lm_calibration_free(struct lm_calibration *c)
{
    if (!c)
        return;
    if (c->g->backend->watch)
        c->g->backend->watch(c->g->dev, NULL, NULL);
    for (size_t i = 0; i < c->n_groups; i++)
        free(c->groups[i].sums);
    free(c->groups);
    free(c->slots);
    free(c);
}

/* ---- running */

/* Logits are what the head is multiplied with, and of no other interest. */
static int run_head(struct lm_session *s, const struct lm_calibration *c, size_t n, struct lm_err *e)
{
    float *logits = malloc((size_t)LOGIT_ROWS * c->g->net.head.rows * sizeof *logits);
    int rc = logits ? 0 : no_memory(e);

    for (size_t at = 0; rc == 0 && at < n; at += LOGIT_ROWS)
        rc = lm_session_logits(s, at, n - at < LOGIT_ROWS ? n - at : LOGIT_ROWS, logits, e);
    free(logits);
    return rc;
}

static const char *name_of(const struct lm_calibration *c, const struct slot *s, char *buf, size_t size)
{
    struct lm_part p;
    const char *name = NULL;

    if (lm_bound_part(c->g->binding, s->role, s->layer, 0, &p) && p.row)
        name = lm_arch_row_name(p.row, LM_NAMES_GGUF, s->layer, buf, size);
    return name ? name : s->m->tensor->name;
}

static int check_finite(const struct lm_calibration *c, struct lm_err *e)
{
    char name[256];

    for (size_t i = 0; i < c->n_slots; i++) {
        const struct group *g = c->slots[i].group == NO_GROUP ? NULL : &c->groups[c->slots[i].group];
        for (size_t k = 0; g && k < g->n; k++)
            if (!isfinite((float)g->sums[k]))
                return lm_err_set(e, LM_MALFORMED, "the input of '%s' is not finite in column %zu: the model cannot be run "
                                  "on this text", name_of(c, &c->slots[i], name, sizeof name), k);
    }
    return 0;
}

int lm_calibration_run(struct lm_calibration *c, struct lm_session *s, const int32_t *ids, size_t n,
                       const volatile int *stop, struct lm_err *e)
{
    lm_session_rewind(s, 0);
    if (lm_session_begin(s, ids, n, e))
        return -1;
    for (uint32_t i = 0; i < c->g->net.config.n_layers; i++) {
        if (stop && *stop)
            return lm_err_set(e, LM_INTERRUPTED, "interrupted");
        if (lm_session_layer(s, i, e))
            return -1;
    }
    if (c->output && run_head(s, c, n, e))
        return -1;
    lm_session_end(s);
    return c->out_of_memory ? no_memory(e) : check_finite(c, e);
}

/* ---- what was collected */

/* All matrices of one tensor. Experts have a count each, heads one together. */
static int add_entry(const struct lm_calibration *c, const struct slot *const *of, struct lm_imatrix *m, struct lm_err *e)
{
    const struct slot *s = of[0];
    bool experts = s->role == LM_ROLE_GATE_EXPS || s->role == LM_ROLE_UP_EXPS || s->role == LM_ROLE_DOWN_EXPS;
    size_t columns = s->m->cols, n_counts = experts ? s->n : 1;
    float *sums = calloc(columns * s->n + 1, sizeof *sums);
    int64_t *counts = calloc(n_counts, sizeof *counts);
    char name[256];
    int rc = sums && counts ? 0 : no_memory(e);

    for (uint32_t i = 0; rc == 0 && i < s->n; i++) {
        const struct group *g = of[i]->group == NO_GROUP ? NULL : &c->groups[of[i]->group];
        for (size_t k = 0; g && k < columns; k++)
            sums[i * columns + k] = (float)g->sums[k];
        if (g)
            counts[experts ? i : 0] = g->count;
    }
    if (rc == 0)
        rc = lm_imatrix_add(m, name_of(c, s, name, sizeof name), sums, columns * s->n, counts, n_counts, e);
    free(sums);
    free(counts);
    return rc;
}

/* Matrices of one tensor together, in their order. */
static int by_tensor(const void *a, const void *b)
{
    const struct slot *x = *(const struct slot *const *)a, *y = *(const struct slot *const *)b;

    if (x->layer != y->layer)
        return x->layer < y->layer ? -1 : 1;
    if (x->role != y->role)
        return x->role < y->role ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

int lm_calibration_add_to(const struct lm_calibration *c, struct lm_imatrix *m, struct lm_err *e)
{
    const struct slot **of = calloc(c->n_slots + 1, sizeof *of);
    int rc = of ? 0 : no_memory(e);

    for (size_t i = 0; rc == 0 && i < c->n_slots; i++)
        of[i] = &c->slots[i];
    if (of)
        qsort(of, c->n_slots, sizeof *of, by_tensor);
    for (size_t i = 0; rc == 0 && i < c->n_slots; i += of[i]->n) {
        /* Gate and up of one tensor are two slots of it, with the same input. */
        if (i > 0 && of[i]->role == LM_ROLE_FFN_GATE_UP && of[i - 1]->role == of[i]->role && of[i - 1]->layer == of[i]->layer)
            continue;
        rc = add_entry(c, of + i, m, e);
    }
    free(of);
    return rc;
}
