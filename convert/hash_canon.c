/* Canonical names, shapes, order and bytes: the rules are in convert/hash.h. */
#include <stdlib.h>

#include "convert/hash_canon.h"
#include "convert/plan.h"
#include "convert/stream.h"

/* ---- names and order */

static bool is_quant(enum lm_dtype d)
{
    return lm_dtype_info(d)->kind == LM_KIND_QUANT;
}

/* From Hugging Face's order of elements; what does not fit stays as it is. */
static void set_order(struct lmc_canons *c, struct lm_plan_item *it, enum lm_transform t)
{
    uint64_t outer = it->shape[0];

    if (t == LM_T_TRANSPOSE && it->n_dims == 2 && !is_quant(it->src->dtype) && outer && it->shape[1]) {
        it->transform = t;
        it->shape[0] = it->shape[1];
        it->shape[1] = outer;
    }
    if (t != LM_T_PERMUTE_Q && t != LM_T_PERMUTE_K)
        return;
    uint32_t heads = t == LM_T_PERMUTE_Q ? c->config.n_heads : c->config.n_kv_heads;
    if (it->n_dims > 0 && heads && it->src->n_elems && outer % (2 * (uint64_t)heads) == 0 &&
        (!is_quant(it->src->dtype) || it->n_dims > 1)) {
        it->transform = t;
        it->n_heads = heads;
    }
}

static int set_known(struct lmc_canons *c, struct lmc_canon *x, const struct lm_arch_row *row, struct lm_err *e)
{
    char name[512];

    x->known = true;
    x->it.role = row->role;
    if (row->flags & LM_ROW_DROPPED)
        x->derived = row->why ? row->why : "carries nothing";
    else if (row->flags & LM_ROW_GGUF_ONLY)
        x->derived = "computed from the configuration";
    if (c->naming == LM_NAMES_HF)
        set_order(c, &x->it, row->transform);
    if (c->naming == LM_NAMES_HF && lmc_is_boxed(row))
        return 0;
    if (!lm_arch_row_name(row, LM_NAMES_GGUF, x->it.layer, name, sizeof name))
        return 0; /* dropped rows have no other name */
    x->name = lm_arena_str(&c->arena, lm_span_str(name));
    return x->name ? 0 : lmc_nomem(e);
}

const struct lm_arch_row *lmc_canon_row(const struct lmc_canons *c, const char *name, int *layer)
{
    const struct lm_arch_row *row = NULL;
    int expert;

    *layer = -1;
    if (c->has_config)
        row = lm_arch_match_next(c->config.arch, &c->config, c->naming, name, NULL, layer, &expert);
    return row && *layer < (int)c->config.n_layers ? row : NULL;
}

static int add_one(struct lmc_canons *c, const struct lm_tensor *t, struct lm_err *e)
{
    struct lmc_canon *x = &c->of[c->n++];
    int layer = -1;

    x->name = t->name;
    x->it = (struct lm_plan_item){.src = t, .dtype = t->dtype, .n_dims = t->n_dims, .role = LM_ROLE_IGNORED, .layer = -1};
    memcpy(x->it.shape, t->shape, sizeof x->it.shape);
    const struct lm_arch_row *row = lmc_canon_row(c, t->name, &layer);
    if (!row)
        return 0;
    x->it.layer = layer;
    return set_known(c, x, row, e);
}

static int fill(struct lmc_canons *c, struct lm_err *e)
{
    size_t n = lm_model_n_tensors(c->m);
    struct lm_err config = {0};
    int rc = lm_config_read(&c->config, c->m, &c->why, &config);

    c->has_config = rc == 1;
    if (rc < 0)
        c->why = lm_arena_str(&c->arena, lm_span_str(config.text));
    c->naming = lm_meta_get(lm_model_meta(c->m), "general.architecture") ? LM_NAMES_GGUF : LM_NAMES_HF;
    c->of = calloc(n + 1, sizeof *c->of);
    if (!c->of)
        return lmc_nomem(e);
    for (size_t i = 0; i < n; i++)
        if (add_one(c, lm_model_tensor(c->m, i), e))
            return -1;
    return 0;
}

int lmc_canon_make(struct lmc_canons **out, struct lm_model *m, struct lm_err *e)
{
    struct lmc_canons *c = calloc(1, sizeof *c);

    *out = NULL;
    if (!c)
        return lmc_nomem(e);
    c->m = m;
    if (fill(c, e)) {
        lmc_canon_free(c);
        return -1;
    }
    *out = c;
    return 0;
}

void lmc_canon_free(struct lmc_canons *c)
{
    if (!c)
        return;
    free(c->of);
    free(c->whole);
    lm_arena_free(&c->arena);
    free(c);
}

int lmc_canon_by_name(const void *a, const void *b)
{
    return strcmp(((const struct lmc_canon *)a)->name, ((const struct lmc_canon *)b)->name);
}

/* ---- reading */

int lmc_room_fit(struct lmc_room *r, size_t n, struct lm_err *e)
{
    if (n <= r->size)
        return 0;
    uint8_t *data = aligned_alloc(64, (n + 63) / 64 * 64);
    if (!data)
        return lmc_nomem(e);
    free(r->data);
    r->data = data;
    r->size = n;
    return 0;
}

uint64_t lmc_canon_elems(const struct lmc_canon *c)
{
    return lm_plan_elems(&c->it);
}

int lmc_canon_read(const struct lm_model *m, const struct lmc_canon *c, uint64_t first, uint64_t n,
                   struct lmc_room *room, const uint8_t **raw, struct lm_err *e)
{
    const struct lm_tensor *t = c->it.src;
    uint64_t unit = c->it.transform == LM_T_NONE ? 1 : lmc_unit(&c->it);
    uint64_t from = first / unit * unit, end = (first + n + unit - 1) / unit * unit;

    if (c->mixed)
        return lmc_canon_read_mixed(m, c, first, n, room, raw, e);
    if (c->it.transform == LM_T_PLUS_ONE)
        return lmc_canon_read_plus_one(m, c, first, n, room, raw, e);
    if (end > lmc_canon_elems(c))
        end = lmc_canon_elems(c);
    if (lmc_room_fit(room, lm_dtype_bytes(t->dtype, end - from), e))
        return -1;
    if (lmc_fetch(m, &c->it, from, end - from, room->data, e))
        return lm_err_prefix(e, "tensor '%s'", t->name);
    *raw = room->data + lm_dtype_bytes(t->dtype, first - from);
    return 0;
}

int lmc_canon_read_f32(const struct lm_model *m, const struct lmc_canon *c, uint64_t first, uint64_t n,
                       struct lmc_room *room, float *out, const uint8_t **raw, struct lm_err *e)
{
    const struct lm_dtype_info *d = lm_dtype_info(c->it.dtype);
    const uint8_t *bytes;

    if (!d->to_f32)
        return lm_err_set(e, LM_UNSUPPORTED, "tensor '%s' is %s: its values cannot be computed yet", c->it.src->name,
                          d->name);
    if (lmc_canon_read(m, c, first, n, room, &bytes, e))
        return -1;
    d->to_f32(out, bytes, (size_t)n);
    if (raw)
        *raw = bytes;
    return 0;
}
