/* A model run again, on the CPU, with what was found wrong put right. */
#include <stdlib.h>
#include "gpu/piece.h"

#define MOST_PATCHED ((size_t)4 << 30) /* bytes of tensors held in f32 for it */

struct lmi_patch {
    const struct lm_tensor *of; /* B's; NULL: it has none */
    struct lm_tensor t;
    float *data;
    struct lmi_patch *next;
};

int lmi_rerun_open(struct lmi_rerun *r, const struct lm_side *b, void (*change)(struct lm_config *c, void *user),
                   void *user, struct lm_err *e)
{
    struct lm_engine *g = calloc(1, sizeof *g);

    *r = (struct lmi_rerun){.side = {.model = b->model, .engine = g}};
    if (!g)
        return lm_err_set(e, LM_NOMEM, "out of memory");
    g->model = b->model;
    if (lm_bind(&g->binding, b->model, e))
        return -1;
    change(&g->binding->config, user);
    return lmi_net_build(g, lm_engine_ctx_len(b->engine), LM_MATH_EXACT, e);
}

/* ---- tensors */

static void put_in_place(struct lm_binding *b, const struct lm_tensor *old, const struct lm_tensor *t)
{
    size_t places = ((size_t)b->config.n_layers + 1) * LM_N_ROLES;

    for (size_t i = 0; i < places; i++) {
        if (b->at[i] == old)
            b->at[i] = t;
        for (uint32_t k = 0; b->experts[i] && k < b->config.n_experts; k++)
            if (b->experts[i][k] == old)
                b->experts[i][k] = t;
    }
}

static const struct lm_arch_row *row_of(const struct lm_binding *b, enum lm_role role)
{
    const struct lm_arch *a = b->config.arch;

    for (size_t i = 0; i < a->n_rows; i++)
        if (a->rows[i].role == role && !(a->rows[i].flags & LM_ROW_ALIAS))
            return &a->rows[i];
    return NULL;
}

static struct lmi_patch *new_patch(struct lmi_rerun *r, uint64_t n_elems)
{
    struct lmi_patch *p = calloc(1, sizeof *p);

    if (p && !(p->data = calloc(n_elems, sizeof *p->data))) {
        free(p);
        return NULL;
    }
    if (p) {
        p->next = r->patches;
        r->patches = p;
        r->patch_bytes += n_elems * sizeof *p->data;
    }
    return p;
}

static void finish_patch(struct lmi_patch *p, uint64_t n_elems)
{
    p->t.dtype = LM_F32;
    p->t.n_elems = n_elems;
    p->t.n_bytes = n_elems * sizeof *p->data;
    p->t.data = (const uint8_t *)p->data;
    p->t.big_endian = false;
}

/* A tensor of B as f32 of our own, once. */
static struct lmi_patch *patch_for(struct lmi_rerun *r, const struct lm_tensor *t, struct lm_err *e)
{
    struct lmi_patch *p;

    for (p = r->patches; p; p = p->next)
        if (p->of == t || &p->t == t)
            return p;
    if (!(p = new_patch(r, t->n_elems)))
        return NULL;
    p->of = t;
    p->t = *t;
    if (lm_tensor_to_f32(t, 0, t->n_elems, p->data, e))
        return NULL;
    finish_patch(p, t->n_elems);
    put_in_place(r->side.engine->binding, t, &p->t);
    return p;
}

/* Where B has nothing: a vector or matrix of the role's own. */
static struct lmi_patch *patch_missing(struct lmi_rerun *r, const struct lmi_piece *a, enum lm_role role, int layer)
{
    struct lm_binding *b = r->side.engine->binding;
    const struct lm_arch_row *row = row_of(b, role);
    size_t at = (size_t)(layer + 1) * LM_N_ROLES + (size_t)role;
    struct lmi_patch *p = row ? new_patch(r, a->rows * a->cols) : NULL;

    if (!p)
        return NULL;
    p->t = (struct lm_tensor){.name = lm_role_name(role), .n_dims = a->cols > 1 ? 2 : 1, .shape = {a->rows, a->cols}};
    finish_patch(p, a->rows * a->cols);
    b->at[at] = &p->t;
    b->rows[at] = row;
    return p;
}

int lmi_rerun_replace(struct lmi_rerun *r, const struct lm_side *a, enum lm_role role, int layer, uint32_t index,
                      struct lm_err *e)
{
    struct lm_engine *g = r->side.engine;
    struct lmi_piece from, to;
    struct lmi_patch *p;

    if (!lmi_piece_of(a->engine, role, layer, index, &from))
        return 0;
    /* An output matrix that B ties is a new one: the embedding stays. */
    bool has = role == LM_ROLE_OUTPUT ? lm_bound_tensor(g->binding, role, layer) != NULL
                                      : lmi_piece_of(g, role, layer, index, &to);
    has = has && lmi_piece_of(g, role, layer, index, &to);
    if (r->patch_bytes + from.rows * from.cols * sizeof(float) > MOST_PATCHED ||
        (has && r->patch_bytes + to.part.t->n_elems * sizeof(float) > MOST_PATCHED)) {
        r->patch_bytes = SIZE_MAX;
        return 0;
    }
    p = has ? patch_for(r, to.part.t, e) : patch_missing(r, &from, role, layer);
    if (!p || !lmi_piece_of(g, role, layer, index, &to) || to.rows != from.rows || to.cols != from.cols)
        return 0;
    float *x = malloc(from.rows * from.cols * sizeof *x);
    int rc = x ? lmi_piece_read(&from, 0, 1, from.rows, x, e) : lm_err_set(e, LM_NOMEM, "out of memory for a tensor");
    if (rc == 0)
        lmi_piece_write(&to, x, p->data);
    free(x);
    return rc;
}

/* ---- running */

static void rotate_like(struct lm_net *net, const struct lm_net *from)
{
    if (net->rope == LM_ROPE_NONE || net->config.d_rope != from->config.d_rope || net->ctx_len > from->ctx_len ||
        !from->rope_cos)
        return;
    net->rope_cos = from->rope_cos;
    net->rope_sin = from->rope_sin;
    net->rope_freqs = from->rope_freqs;
    net->rope_mscale = from->rope_mscale;
    net->local_cos = from->local_cos;
    net->local_sin = from->local_sin;
    net->local_freqs = from->local_freqs;
}

int lmi_rerun_start(struct lmi_rerun *r, const struct lm_engine *rope_from, struct lm_err *e)
{
    struct lm_engine *g = r->side.engine;
    uint32_t ctx = g->net.ctx_len;
    struct lm_backend_options o = {LM_MATH_EXACT, 0, 0};

    g->net = (struct lm_net){0};
    if (lmi_net_build(g, ctx, LM_MATH_EXACT, e))
        return -1;
    if (rope_from)
        rotate_like(&g->net, &rope_from->net);
    g->backend = &lm_backend_cpu;
    if (g->backend->open(&g->dev, &g->net, &o, e))
        return -1;
    return lm_session_open(&r->side.session, g, e);
}

void lmi_rerun_close(struct lmi_rerun *r)
{
    lm_session_close(r->side.session);
    lm_engine_close(r->side.engine);
    for (struct lmi_patch *p = r->patches, *next; p; p = next) {
        next = p->next;
        free(p->data);
        free(p);
    }
    *r = (struct lmi_rerun){0};
}
