/* Canonical tensors of stored ones: the experts of a layer put together, gate
 * and up or keys and values taken apart, norms plus 1.
 *
 * Every stored tensor that a boxed row of the architecture describes gives its
 * boxes to the canonical tensors it is part of.  A canonical tensor of which
 * something is missing, twice there, or in blocks that cannot be cut, is given
 * up: its parts then keep their own names, as the file has them. */
#include <stdlib.h>

#include "convert/hash_canon.h"
#include "convert/plan.h"
#include "convert/stream.h"

struct part { size_t whole, of; struct lm_plan_piece piece; };
struct parts {
    struct part *at;
    size_t n, room;
    struct lm_map *names; /* canonical name -> whole */
};

/* ---- gathering */

static int add_part(struct parts *p, const struct part *x, struct lm_err *e)
{
    if (p->n == p->room) {
        struct part *bigger = reallocarray(p->at, p->room * 2 + 16, sizeof *bigger);
        if (!bigger)
            return lmc_nomem(e);
        p->at = bigger;
        p->room = p->room * 2 + 16;
    }
    p->at[p->n++] = *x;
    return 0;
}

static bool has_shape(const struct lm_tensor *t, const uint64_t *shape, unsigned n)
{
    return t->n_dims == n && n > 0 && t->n_elems > 0 && memcmp(t->shape, shape, n * sizeof *shape) == 0;
}

static int find_whole(struct lmc_canons *c, struct parts *p, const struct lmc_canon *from, const struct lm_arch_row *row,
                      size_t *at, struct lm_err *e)
{
    char name[512];
    struct lmc_canon *x = &c->whole[c->n_whole];
    uint64_t shape[4];

    if (!lm_arch_row_name(row, LM_NAMES_GGUF, from->it.layer, name, sizeof name))
        return lm_err_set(e, LM_UNSUPPORTED, "tensor '%s' has no canonical name", from->it.src->name);
    if ((*at = lm_map_get(p->names, lm_span_str(name))) != SIZE_MAX)
        return 0;
    if (c->n_whole >= c->n * LM_MAX_BOXES)
        return lm_err_set(e, LM_UNSUPPORTED, "tensor '%s' is part of too many", from->it.src->name);
    *x = *from;
    x->name = lm_arena_str(&c->arena, lm_span_str(name));
    x->it.transform = row->transform;
    x->it.role = row->role;
    x->it.n_dims = lm_row_shape(row, &c->config, LM_NAMES_GGUF, shape);
    memcpy(x->it.shape, shape, sizeof shape);
    *at = c->n_whole++;
    return !x->name || lm_map_put(p->names, lm_span_str(x->name), *at) < 0 ? lmc_nomem(e) : 0;
}

/* 1: t has the shape that the row says and its boxes were added. */
static int add_row(struct lmc_canons *c, struct parts *p, size_t of, const struct lm_arch_row *row, int expert,
                   struct lm_err *e)
{
    const struct lm_tensor *t = c->of[of].it.src;
    struct lm_box boxes[LM_MAX_BOXES];
    uint64_t shape[4];
    struct part x = {.of = of};

    if ((uint32_t)expert >= (c->config.n_experts ? c->config.n_experts : 1) ||
        !has_shape(t, shape, lm_row_shape(row, &c->config, LM_NAMES_HF, shape)))
        return 0;
    if (find_whole(c, p, &c->of[of], row, &x.whole, e))
        return -1;
    unsigned n = lm_row_boxes(row, &c->config, (unsigned)expert, boxes);
    for (unsigned i = 0; i < n; i++) {
        x.piece = lmc_piece_of(t, &boxes[i], false);
        if (add_part(p, &x, e))
            return -1;
    }
    return 1;
}

static bool is_part(const struct lmc_canons *c, size_t i)
{
    int layer;
    const struct lm_arch_row *row = c->naming == LM_NAMES_HF ? lmc_canon_row(c, c->of[i].it.src->name, &layer) : NULL;

    return row && lmc_is_boxed(row) && !(row->flags & LM_ROW_DROPPED);
}

/* A tensor may be several rows': it is taken apart into as many. */
static int add_rows(struct lmc_canons *c, struct parts *p, size_t i, bool *taken, struct lm_err *e)
{
    const struct lm_arch_row *row = NULL;
    int layer, expert, rc;

    while ((row = lm_arch_match_next(c->config.arch, &c->config, c->naming, c->of[i].it.src->name, row, &layer, &expert))) {
        if (!lmc_is_boxed(row))
            continue;
        if ((rc = add_row(c, p, i, row, expert, e)) < 0)
            return -1;
        *taken |= rc > 0;
    }
    return 0;
}

/* ---- checking */

static int by_place(const void *pa, const void *pb)
{
    const struct part *a = pa, *b = pb;

    if (a->whole != b->whole)
        return a->whole < b->whole ? -1 : 1;
    return a->piece.dst_at < b->piece.dst_at ? -1 : a->piece.dst_at > b->piece.dst_at;
}

static int by_type(const void *pa, const void *pb)
{
    const struct lm_plan_piece *a = pa, *b = pb;

    if (a->src->dtype != b->src->dtype)
        return a->src->dtype < b->src->dtype ? -1 : 1;
    return a->dst_at < b->dst_at ? -1 : a->dst_at > b->dst_at;
}

static uint64_t piece_elems(const struct lm_plan_piece *x)
{
    uint64_t n = 1;

    for (unsigned i = 0; i < x->n_axes; i++)
        n *= x->n[i]; /* boxes lie inside tensors whose sizes were checked */
    return n;
}

static bool is_plain(enum lm_dtype d)
{
    const struct lm_dtype_info *info = lm_dtype_info(d);

    return info->kind == LM_KIND_FLOAT && info->block_elems == 1 && info->to_f32;
}

/* All elements once? Pieces of a row have one shape, so that two of them in
 * one place, or too few, show in the places and in the sum. */
static bool is_complete(const struct lmc_canon *x, const struct part *p, size_t n)
{
    uint64_t sum = 0, all = 1;

    for (unsigned i = 0; i < x->it.n_dims; i++)
        if (__builtin_mul_overflow(all, x->it.shape[i], &all))
            return false;
    for (size_t i = 0; i < n; i++) {
        sum += piece_elems(&p[i].piece);
        if (!lmc_is_whole_blocks(&p[i].piece))
            return false;
        if (i > 0 && p[i].piece.dst_at == p[i - 1].piece.dst_at)
            return false;
    }
    return sum == all;
}

static bool is_mixed(const struct part *p, size_t n)
{
    for (size_t i = 1; i < n; i++)
        if (p[i].piece.src->dtype != p[0].piece.src->dtype)
            return true;
    return false;
}

static bool are_plain(const struct part *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!is_plain(p[i].piece.src->dtype) || p[i].piece.src->big_endian)
            return false;
    return true;
}

/* false: given up. */
static bool set_pieces(struct lmc_canon *x, const struct part *p, size_t n, struct lm_arena *arena)
{
    x->mixed = is_mixed(p, n);
    if ((x->mixed && !are_plain(p, n)) || !is_complete(x, p, n))
        return false;
    x->it.pieces = lm_arena_array(arena, n, sizeof *x->it.pieces);
    if (!x->it.pieces)
        return false;
    for (size_t i = 0; i < n; i++)
        x->it.pieces[i] = p[i].piece;
    x->it.n_pieces = n;
    if (x->mixed)
        qsort(x->it.pieces, n, sizeof *x->it.pieces, by_type);
    x->it.src = p[0].piece.src;
    x->it.dtype = x->mixed ? LM_F64 : x->it.src->dtype;
    return true;
}

/* Tensors that belong to something given up stay as they are stored; whatever
 * else they would have given is given up with them. */
static void give_up(const struct parts *p, bool *taken, bool *lost)
{
    bool again = true;

    while (again) {
        again = false;
        for (size_t i = 0; i < p->n; i++) {
            if (lost[p->at[i].whole] && taken[p->at[i].of])
                taken[p->at[i].of] = false, again = true;
            if (!taken[p->at[i].of] && !lost[p->at[i].whole])
                lost[p->at[i].whole] = again = true;
        }
    }
}

static void finish_parts(struct lmc_canons *c, struct parts *p, bool *lost)
{
    if (p->n)
        qsort(p->at, p->n, sizeof *p->at, by_place);
    for (size_t i = 0, k; i < p->n; i = k) {
        for (k = i; k < p->n && p->at[k].whole == p->at[i].whole; k++)
            ;
        lost[p->at[i].whole] = !set_pieces(&c->whole[p->at[i].whole], p->at + i, k - i, &c->arena);
    }
}

/* ---- all */

static void add_plain(struct lmc_canons *c, size_t i)
{
    struct lmc_canon *x = &c->whole[c->n_whole++];
    int layer;
    const struct lm_arch_row *row = lmc_canon_row(c, c->of[i].it.src->name, &layer);

    *x = c->of[i];
    if (row && c->naming == LM_NAMES_HF && c->plus_one && row->transform == LM_T_PLUS_ONE && is_plain(x->it.src->dtype)) {
        x->it.transform = LM_T_PLUS_ONE;
        x->it.dtype = LM_F32;
    }
}

/* Two tensors that claim one name (two spellings, two prefixes) keep their own. */
static void settle_names(struct lmc_canons *c)
{
    if (c->n_whole)
        qsort(c->whole, c->n_whole, sizeof *c->whole, lmc_canon_by_name);
    for (size_t i = 0, k; i < c->n_whole; i = k) {
        for (k = i + 1; k < c->n_whole && strcmp(c->whole[k].name, c->whole[i].name) == 0; k++)
            ;
        for (size_t j = i; k - i > 1 && j < k; j++)
            if (!c->whole[j].it.n_pieces)
                c->whole[j].name = c->whole[j].it.src->name;
    }
}

static int join(struct lmc_canons *c, struct parts *p, bool *taken, struct lm_err *e)
{
    size_t most = c->n, kept = 0;
    bool *lost;

    for (size_t i = 0; i < c->n; i++)
        if (is_part(c, i) && add_rows(c, p, i, &taken[i], e))
            return -1;
    most = c->n_whole;
    lost = calloc(most + 1, sizeof *lost);
    if (!lost)
        return lmc_nomem(e);
    finish_parts(c, p, lost);
    give_up(p, taken, lost);
    for (size_t i = 0; i < most; i++)
        if (!lost[i])
            c->whole[kept++] = c->whole[i];
    c->n_whole = kept;
    free(lost);
    for (size_t i = 0; i < c->n; i++)
        if (!taken[i])
            add_plain(c, i);
    settle_names(c);
    return 0;
}

int lmc_canon_join(struct lmc_canons *c, bool plus_one, struct lm_err *e)
{
    struct parts p = {.names = lm_map_new(c->n)};
    bool *taken = calloc(c->n + 1, sizeof *taken);
    int rc = -1;

    c->plus_one = plus_one;
    /* A tensor is part of at most LM_MAX_BOXES canonical ones, and the stored ones are there besides. */
    c->whole = calloc(c->n * (LM_MAX_BOXES + 1) + 1, sizeof *c->whole);
    if (!p.names || !taken || !c->whole)
        lmc_nomem(e);
    else
        rc = join(c, &p, taken, e);
    lm_map_free(p.names);
    free(p.at);
    free(taken);
    return rc;
}

/* ---- reading */

/* What is not there reads as zero bytes, which are zero in every plain type:
 * the types are put together by OR of their bits as F64. */
static int add_type(const struct lm_model *m, const struct lm_plan_item *it, uint64_t first, uint64_t n, uint8_t *raw,
                    float *f, uint64_t *out, struct lm_err *e)
{
    memset(raw, 0, lm_dtype_bytes(it->src->dtype, n));
    if (lmc_fetch_pieces(m, it, first, n, raw, e))
        return -1;
    if (it->src->dtype == LM_F64) {
        for (uint64_t i = 0; i < n; i++)
            out[i] |= lm_load_u64le(raw + 8 * i);
        return 0;
    }
    lm_dtype_info(it->src->dtype)->to_f32(f, raw, (size_t)n);
    for (uint64_t i = 0; i < n; i++) {
        double d = (double)f[i];
        uint64_t u;
        memcpy(&u, &d, 8);
        out[i] |= u;
    }
    return 0;
}

int lmc_canon_read_mixed(const struct lm_model *m, const struct lmc_canon *c, uint64_t first, uint64_t n,
                         struct lmc_room *room, const uint8_t **raw, struct lm_err *e)
{
    struct lm_plan_item it = c->it;

    if (lmc_room_fit(room, (size_t)n * 20, e))
        return -1;
    memset(room->data, 0, (size_t)n * 8);
    for (size_t i = 0, k; i < c->it.n_pieces; i = k) {
        it.src = c->it.pieces[i].src;
        it.pieces = c->it.pieces + i;
        for (k = i; k < c->it.n_pieces && c->it.pieces[k].src->dtype == it.src->dtype; k++)
            ;
        it.n_pieces = k - i;
        if (add_type(m, &it, first, n, room->data + n * 12, (float *)(void *)(room->data + n * 8),
                     (uint64_t *)(void *)room->data, e))
            return lm_err_prefix(e, "tensor '%s'", c->name);
    }
    *raw = room->data;
    return 0;
}

int lmc_canon_read_plus_one(const struct lm_model *m, const struct lmc_canon *c, uint64_t first, uint64_t n,
                            struct lmc_room *room, const uint8_t **raw, struct lm_err *e)
{
    if (lmc_room_fit(room, (size_t)n * 8, e))
        return -1;
    if (lmc_fetch_f32(m, &c->it, first, n, room->data + n * 4, (float *)(void *)room->data, e))
        return lm_err_prefix(e, "tensor '%s'", c->it.src->name);
    *raw = room->data;
    return 0;
}
