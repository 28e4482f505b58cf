/* Buffers of the original that GGUF has no place for.
 *
 * They carry nothing a model needs, but the way back must give the same bytes:
 * causal masks are remembered by name alone, short ones by value. */
#include <stdio.h>

#include "convert/plan.h"

enum { MAX_VALUES = 1024, MAX_MASK = 2048 };

static const char masks_key[] = LMC_SOURCE "masks";

/* n of a tensor [..1.., n, n]; 0 for any other. */
static uint64_t mask_side(const uint64_t *shape, unsigned n_dims)
{
    for (unsigned i = 0; i + 2 < n_dims; i++)
        if (shape[i] != 1)
            return 0;
    if (n_dims < 2 || shape[n_dims - 1] != shape[n_dims - 2] || shape[n_dims - 1] > MAX_MASK)
        return 0;
    return shape[n_dims - 1];
}

static bool is_small_float(enum lm_dtype d)
{
    return d == LM_F32 || d == LM_F16 || d == LM_BF16;
}

/* Ones on and below the diagonal, zeros above. */
static bool is_mask(const struct lm_tensor *t)
{
    uint64_t n = mask_side(t->shape, t->n_dims);
    float row[MAX_MASK];

    if (n == 0 || !is_small_float(t->dtype))
        return false;
    for (uint64_t i = 0; i < n; i++) {
        if (lm_tensor_to_f32(t, i * n, n, row, NULL) < 0)
            return false;
        for (uint64_t j = 0; j < n; j++)
            if (row[j] != (j <= i ? 1.0f : 0.0f))
                return false;
    }
    return true;
}

static void value_key(char *key, size_t size, const char *name)
{
    snprintf(key, size, LMC_SOURCE "dropped.%s", name);
}

static int embed_values(struct lm_plan *p, const struct lm_tensor *t, bool *done, struct lm_err *e)
{
    float x[MAX_VALUES];
    char key[512];

    *done = t->n_elems <= MAX_VALUES && strlen(t->name) < 400 && is_small_float(t->dtype) &&
            lm_tensor_to_f32(t, 0, t->n_elems, x, NULL) == 0;
    if (!*done)
        return 0;
    value_key(key, sizeof key, t->name);
    return lm_meta_set_array(p->meta, key, LM_META_F32, x, t->n_elems) < 0 ? lmc_nomem(e) : 0;
}

int lmc_embed_dropped(struct lm_plan *p, bool *all, struct lm_err *e)
{
    struct lm_span *masks = lm_arena_array(&p->arena, p->n_drops + 1, sizeof *masks);
    size_t n_masks = 0;

    if (!masks)
        return lmc_nomem(e);
    *all = true;
    for (size_t i = 0; i < p->n_drops; i++) {
        const struct lm_tensor *t = p->drops[i].src;
        bool done = is_mask(t);
        if (done)
            masks[n_masks++] = lm_span_str(t->name);
        else if (embed_values(p, t, &done, e))
            return -1;
        *all = *all && done;
    }
    if (n_masks > 0 && lm_meta_set_strs(p->meta, masks_key, masks, n_masks) < 0)
        return lmc_nomem(e);
    return 0;
}

/* ---- back */

static bool is_listed(const struct lm_meta_value *names, const char *name)
{
    if (!names || names->type != LM_META_ARRAY || names->elem != LM_META_STR)
        return false;
    for (size_t i = 0; i < names->n; i++)
        if (lm_span_eq(names->strs[i], lm_span_str(name)))
            return true;
    return false;
}

/* Layers share one mask: it is made once for a side. */
static const float *make_mask(struct lm_plan *p, uint64_t n)
{
    float *x;

    for (size_t i = 0; i < p->n_masks; i++)
        if (p->masks[i].side == n)
            return p->masks[i].values;
    if (p->n_masks == sizeof p->masks / sizeof p->masks[0])
        return NULL;
    x = lm_arena_array(&p->arena, n * n, sizeof *x);
    for (uint64_t i = 0; x && i < n; i++)
        for (uint64_t j = 0; j <= i; j++)
            x[i * n + j] = 1;
    p->masks[p->n_masks].side = n;
    p->masks[p->n_masks++].values = x;
    return x;
}

const float *lmc_make_dropped(struct lm_plan *p, const char *name, const uint64_t *shape, unsigned n_dims)
{
    const struct lm_meta *m = lm_model_meta(p->src);
    const struct lm_meta_value *v;
    uint64_t n = 1;
    char key[512];

    if (strlen(name) >= 400)
        return NULL;
    if (is_listed(lm_meta_get(m, masks_key), name))
        return mask_side(shape, n_dims) ? make_mask(p, mask_side(shape, n_dims)) : NULL;
    value_key(key, sizeof key, name);
    v = lm_meta_get(m, key);
    for (unsigned i = 0; i < n_dims; i++)
        if (!lm_mul_u64(n, shape[i], &n))
            return NULL;
    if (!v || v->type != LM_META_ARRAY || v->elem != LM_META_F32 || v->n != n || n > MAX_VALUES)
        return NULL;
    float *x = lm_arena_array(&p->arena, n + 1, sizeof *x); /* the metadata may not be aligned */
    if (x)
        memcpy(x, v->data, n * sizeof *x);
    return x;
}
