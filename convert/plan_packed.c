/* Weights that the source holds quantized in several tensors: as blocks of the
 * target where those hold the same values, else decoded. */
#include "convert/plan.h"

bool lmc_has_packed(const struct lm_model *m)
{
    for (size_t i = 0; lm_model_n_stored(m) != lm_model_n_tensors(m) && i < lm_model_n_tensors(m); i++)
        if (lm_model_tensor(m, i)->packed)
            return true;
    return false;
}

/* Blocks keep their order only in rows that stay rows. */
static bool rows_stay(const struct lm_plan_item *it)
{
    return it->n_pieces || it->transform == LM_T_NONE || it->transform == LM_T_PERMUTE_Q || it->transform == LM_T_PERMUTE_K;
}

static size_t n_sources(const struct lm_plan_item *it)
{
    return it->n_pieces ? it->n_pieces : 1;
}

static const struct lm_tensor **source(struct lm_plan_item *it, size_t i)
{
    return it->n_pieces ? &it->pieces[i].src : &it->src;
}

/* 1: all of them as blocks of the same type (of `wanted`, if that is one), in out. */
static int blocks_of(struct lm_plan *p, struct lm_plan_item *it, int wanted, struct lm_tensor *out, struct lm_err *e)
{
    for (size_t i = 0; i < n_sources(it); i++) {
        const struct lm_tensor *t = *source(it, i);
        int rc = 1;
        if (i > 0 && t == *source(it, i - 1))
            out[i] = out[i - 1];
        else if ((rc = lm_tensor_as_blocks(p->src, t, &out[i], e)) <= 0)
            return rc;
        if (out[i].dtype != out[0].dtype || (wanted >= 0 && (int)out[i].dtype != wanted))
            return 0;
        struct lm_plan_piece moved = it->n_pieces ? it->pieces[i] : (struct lm_plan_piece){0};
        moved.src = &out[i];
        if (it->n_pieces && !lmc_is_whole_blocks(&moved))
            return 0;
    }
    return 1;
}

/* 1: the item is now made of blocks of its sources. wanted: enum lm_dtype, or -1 whichever fits. */
static int take_blocks(struct lm_plan *p, struct lm_plan_item *it, int wanted, struct lm_err *e)
{
    struct lm_tensor *out;
    int rc;

    if (!lmc_to_gguf(p) || !rows_stay(it) || it->src->dtype != LM_F32)
        return 0;
    if (!(out = lm_arena_array(&p->arena, n_sources(it), sizeof *out)))
        return lmc_nomem(e);
    if ((rc = blocks_of(p, it, wanted, out, e)) <= 0)
        return rc;
    it->src = &out[0];
    for (size_t i = 0; i < it->n_pieces; i++)
        it->pieces[i].src = &out[i];
    it->dtype = out[0].dtype;
    return 1;
}

/* ---- blocks with a scale of their own: a tensor more */

/* Which of the output's matrices a piece is. */
static uint64_t matrix_of(const struct lm_plan_item *it, size_t i)
{
    uint64_t elems = it->shape[it->n_dims - 1] * it->shape[it->n_dims - 2];

    return it->n_pieces && elems ? it->pieces[i].dst_at / elems : 0;
}

static uint64_t n_matrices(const struct lm_plan_item *it)
{
    return it->n_dims == 3 ? it->shape[0] : 1;
}

static int scaled_blocks(struct lm_plan *p, struct lm_plan_item *it, struct lm_tensor *out, float *scales, struct lm_err *e)
{
    if (it->n_pieces && n_sources(it) != n_matrices(it))
        return 0;
    for (size_t i = 0; i < n_sources(it); i++) {
        struct lm_plan_piece moved = it->n_pieces ? it->pieces[i] : (struct lm_plan_piece){0};
        int rc = lm_tensor_as_scaled_blocks(p->src, *source(it, i), &out[i], &scales[matrix_of(it, i)], e);
        if (rc <= 0)
            return rc;
        moved.src = &out[i];
        if (it->n_pieces && !lmc_is_whole_blocks(&moved))
            return 0;
    }
    return 1;
}

/* blk.0.attn_q.weight has its scale in blk.0.attn_q.scale. */
static int add_scales(struct lm_plan *p, size_t of, const float *scales, struct lm_err *e)
{
    struct lm_plan_item *it = lmc_new_item(p), *w = &p->items[of];
    size_t n = strlen(w->name) - strlen("weight");

    if (!it)
        return lmc_nomem(e);
    *it = (struct lm_plan_item){.made = scales, .dtype = LM_F32, .n_dims = 1, .shape = {n_matrices(w)}, .layer = w->layer,
                                .role = LM_ROLE_IGNORED, .why = "scale of the NVFP4 blocks",
                                .name = lmc_print(&p->arena, "%.*sscale", (int)n, w->name)};
    return it->name ? 0 : lmc_nomem(e);
}

/* 1: the item is NVFP4 now, and there is one more. Items may have moved. */
static int take_scaled(struct lm_plan *p, size_t at, struct lm_err *e)
{
    struct lm_plan_item *it = &p->items[at];
    struct lm_tensor *out = lm_arena_array(&p->arena, n_sources(it), sizeof *out);
    float *scales = lm_arena_array(&p->arena, n_matrices(it), sizeof *scales);
    int rc = out && scales ? 1 : lmc_nomem(e);

    if (rc == 1)
        rc = lmc_to_gguf(p) && rows_stay(it) && lmc_has_suffix(it->name, ".weight") ? scaled_blocks(p, it, out, scales, e) : 0;
    if (rc <= 0)
        return rc;
    it->src = &out[0];
    for (size_t i = 0; i < it->n_pieces; i++)
        it->pieces[i].src = &out[i];
    it->dtype = LM_NVFP4;
    return add_scales(p, at, scales, e) ? -1 : 1;
}

int lmc_keep_packed(struct lm_plan *p, struct lm_plan_item *it, struct lm_err *e)
{
    size_t at = (size_t)(it - p->items);
    int rc = take_blocks(p, it, -1, e);

    if (rc == 0)
        rc = take_scaled(p, at, e);
    if (rc != 0)
        return rc < 0 ? -1 : 0;
    it = &p->items[at];
    if (it->src->dtype == LM_F32 || !p->req.to->can_store(it->src->dtype))
        it->dtype = p->req.to->can_store(lm_tensor_meant_dtype(it->src)) ? lm_tensor_meant_dtype(it->src) : LM_F32;
    return 0;
}

int lmc_match_packed(struct lm_plan *p, struct lm_plan_item *it, struct lm_err *e)
{
    bool may = it->dtype == LM_Q4_0 || it->dtype == LM_Q4_1 || it->dtype == LM_Q5_0 || it->dtype == LM_Q8_0;

    return may && !it->importance && take_blocks(p, it, it->dtype, e) < 0 ? -1 : 0;
}

/* ---- the account */

struct way { const char *scheme; enum lm_dtype to; bool repacked; size_t n; };

static int say(struct lm_plan *p, const struct way *w, struct lm_err *e)
{
    if (w->repacked)
        return lmc_note(p, e, "%zu tensors are repacked from %s to %s: the same %s, nothing is quantized again", w->n,
                        w->scheme, lm_dtype_name(w->to), w->to == LM_NVFP4 ? "codes and scales" : "values");
    if (w->to == LM_F32)
        return lmc_note(p, e, "%zu tensors are decoded from %s to F32, which holds their values exactly", w->n, w->scheme);
    if (lm_dtype_info(w->to)->kind == LM_KIND_QUANT)
        return lmc_note(p, e, "%zu tensors are decoded from %s and quantized again as %s", w->n, w->scheme,
                        lm_dtype_name(w->to));
    return lmc_note(p, e, "%zu tensors are decoded from %s and rounded to %s%s", w->n, w->scheme, lm_dtype_name(w->to),
                    p->req.dtype < 0 && !p->req.quantize ? ", the type the checkpoint computes in; --dtype f32 keeps every bit"
                                                         : "");
}

int lmc_note_packed(struct lm_plan *p, struct lm_err *e)
{
    enum { MOST = 32 };
    struct way ways[MOST];
    size_t n = 0, k;

    for (size_t i = 0; i < p->n_items; i++) {
        const struct lm_plan_item *it = &p->items[i];
        if (!it->src || !it->src->packed || it->packs)
            continue;
        struct way w = {lm_tensor_scheme(it->src), it->dtype, it->src->dtype == it->dtype && it->dtype != LM_F32, 1};
        for (k = 0; k < n && (strcmp(ways[k].scheme, w.scheme) || ways[k].to != w.to || ways[k].repacked != w.repacked); k++);
        if (k < n)
            ways[k].n++;
        else if (n < MOST)
            ways[n++] = w;
    }
    for (k = 0; k < n; k++)
        if (say(p, &ways[k], e))
            return -1;
    return 0;
}
