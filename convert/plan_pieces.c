/* Items put together from several tensors (the experts of a layer, gate and up)
 * and tensors that are taken apart (the same on the way back). */
#include <stdio.h>
#include <stdlib.h>

#include "convert/plan.h"

bool lmc_is_boxed(const struct lm_arch_row *row)
{
    return row->transform >= LM_T_GROUP_QKV;
}

/* ---- the original's spelling */

static bool mentions(const struct lm_meta *m, const char *quoted)
{
    size_t n = strlen(quoted);

    for (size_t i = 0; i < lm_meta_count(m); i++) {
        const char *key;
        const struct lm_meta_value *v = lm_meta_at(m, i, &key);
        if (strncmp(key, LMC_SOURCE "header", sizeof LMC_SOURCE "header" - 1) == 0 && v->type == LM_META_STR &&
            memmem(v->str.data, v->str.size, quoted, n))
            return true;
    }
    return false;
}

const struct lm_arch_row *lmc_spelling(const struct lm_plan *p, const struct lm_arch_row *row, int layer)
{
    const struct lm_arch *a = p->bind->config.arch;
    char name[512], quoted[520];

    for (const struct lm_arch_row *r = a->rows; r < a->rows + a->n_rows; r++) {
        if (!(r->flags & LM_ROW_ALIAS) || r->role != row->role || !lm_row_applies(r, &p->bind->config, layer))
            continue;
        snprintf(quoted, sizeof quoted, "\"%s\"", lm_arch_row_name(r, LM_NAMES_HF, layer, name, sizeof name));
        if (mentions(lm_model_meta(p->src), quoted))
            return r;
    }
    return row;
}

/* ---- pieces */

static void swap(uint64_t *a, uint64_t *b)
{
    uint64_t t = *a;
    *a = *b;
    *b = t;
}

/* Outermost of the output first: ranges of it are then found without a search. */
static void sort_axes(struct lm_plan_piece *x)
{
    for (unsigned i = 1; i < x->n_axes; i++)
        for (unsigned j = i; j > 0 && x->dst_step[j] > x->dst_step[j - 1]; j--) {
            swap(&x->n[j], &x->n[j - 1]);
            swap(&x->src_step[j], &x->src_step[j - 1]);
            swap(&x->dst_step[j], &x->dst_step[j - 1]);
        }
}

/* Axes that continue each other on both sides are one. */
static void merge_axes(struct lm_plan_piece *x)
{
    while (x->n_axes > 1) {
        unsigned k = x->n_axes - 1;
        if (x->src_step[k - 1] != x->n[k] * x->src_step[k] || x->dst_step[k - 1] != x->n[k] * x->dst_step[k])
            return;
        x->n[k - 1] *= x->n[k];
        x->src_step[k - 1] = x->src_step[k];
        x->dst_step[k - 1] = x->dst_step[k];
        x->n_axes--;
    }
}

struct lm_plan_piece lmc_piece_of(const struct lm_tensor *t, const struct lm_box *b, bool inverse)
{
    struct lm_plan_piece x = {.src = t, .n_axes = b->n_axes, .src_at = inverse ? b->gguf_at : b->hf_at,
                              .dst_at = inverse ? b->hf_at : b->gguf_at};

    for (unsigned i = 0; i < b->n_axes; i++) {
        x.n[i] = b->n[i];
        x.src_step[i] = inverse ? b->gguf[i] : b->hf[i];
        x.dst_step[i] = inverse ? b->hf[i] : b->gguf[i];
    }
    sort_axes(&x);
    merge_axes(&x);
    return x;
}

/* Blocks move as wholes only. */
bool lmc_is_whole_blocks(const struct lm_plan_piece *x)
{
    uint64_t block = lm_dtype_info(x->src->dtype)->block_elems;
    bool ok = x->src_at % block == 0 && x->dst_at % block == 0 && x->n[x->n_axes - 1] % block == 0;

    if (block > 1)
        ok = ok && x->src_step[x->n_axes - 1] == 1 && x->dst_step[x->n_axes - 1] == 1;
    for (unsigned i = 0; i + 1 < x->n_axes; i++)
        ok = ok && x->src_step[i] % block == 0 && x->dst_step[i] % block == 0;
    return ok;
}

static struct lm_plan_item *find_or_add(struct lm_plan *p, const struct lm_tensor *t, const struct lm_arch_row *row,
                                        int layer, const char *name)
{
    bool to_gguf = lmc_to_gguf(p);
    size_t at = lm_map_get(p->joined, lm_span_str(name));
    const struct lm_config *c = &p->bind->config;
    struct lm_plan_item *it;
    uint64_t shape[4];

    if (at != SIZE_MAX)
        return &p->items[at];
    if (!(it = lmc_new_item(p)))
        return NULL;
    *it = (struct lm_plan_item){.src = t, .dtype = t->dtype, .role = row->role, .layer = layer,
                                .transform = row->transform, .inverse = !to_gguf};
    it->n_dims = lm_row_shape(row, c, to_gguf ? LM_NAMES_GGUF : LM_NAMES_HF, shape);
    memcpy(it->shape, shape, sizeof shape);
    it->name = lm_arena_str(&p->arena, lm_span_str(name));
    it->pieces = lm_arena_array(&p->arena, LM_MAX_BOXES + (to_gguf ? (size_t)c->n_experts : 0), sizeof *it->pieces);
    if (!it->name || !it->pieces || lm_map_put(p->joined, lm_span_str(it->name), p->n_items - 1) < 0)
        return NULL;
    return it;
}

static int add_pieces(struct lm_plan *p, const struct lm_tensor *t, const struct lm_arch_row *row, int layer,
                      unsigned expert, struct lm_err *e)
{
    struct lm_box boxes[LM_MAX_BOXES];
    unsigned n = lm_row_boxes(row, &p->bind->config, expert, boxes);
    char name[512];
    struct lm_plan_item *it;

    lm_arch_expert_name(row, lmc_to_gguf(p) ? LM_NAMES_GGUF : LM_NAMES_HF, layer, (int)expert, name, sizeof name);
    if (!(it = find_or_add(p, t, row, layer, name)))
        return lmc_nomem(e);
    if (t->dtype != it->dtype)
        return lm_err_set(e, LM_UNSUPPORTED, "tensors '%s' and '%s' become one, but are %s and %s; convert the model to "
                          "one type first", it->src->name, t->name, lm_dtype_name(it->dtype), lm_dtype_name(t->dtype));
    for (unsigned i = 0; i < n; i++) {
        it->pieces[it->n_pieces] = lmc_piece_of(t, &boxes[i], it->inverse);
        if (!lmc_is_whole_blocks(&it->pieces[it->n_pieces++]))
            return lm_err_set(e, LM_UNSUPPORTED, "tensor '%s' is %s, whose blocks would have to be taken apart (%s): make "
                              "an F16 or BF16 GGUF of it first", t->name, lm_dtype_name(t->dtype),
                              lm_transform_name(row->transform));
    }
    return 0;
}

int lmc_plan_pieces(struct lm_plan *p, const struct lm_tensor *t, const struct lm_arch_row *row, int layer, int expert,
                    struct lm_err *e)
{
    bool one_each = !lmc_to_gguf(p) && lm_row_is_stacked(row);

    if (!one_each)
        return add_pieces(p, t, row, layer, (unsigned)expert, e);
    for (unsigned x = 0; x < p->bind->config.n_experts; x++)
        if (add_pieces(p, t, row, layer, x, e))
            return -1;
    return 0;
}

int lmc_check_pieces(const struct lm_plan *p, struct lm_err *e)
{
    for (size_t i = 0; i < p->n_items; i++) {
        const struct lm_plan_item *it = &p->items[i];
        uint64_t sum = 0;
        for (size_t k = 0; k < it->n_pieces; k++) {
            uint64_t n = 1;
            for (unsigned a = 0; a < it->pieces[k].n_axes; a++)
                n *= it->pieces[k].n[a]; /* boxes lie inside tensors whose sizes were checked */
            sum += n;
        }
        if (it->n_pieces && sum != lm_plan_elems(it))
            return lm_err_set(e, LM_MISMATCH, "tensor '%s' would be made of %llu elements, it has %llu", it->name,
                              (unsigned long long)sum, (unsigned long long)lm_plan_elems(it));
    }
    return 0;
}
