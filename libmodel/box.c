/* Where the elements of a GGUF tensor lie in Hugging Face's. */
#include <string.h>

#include "libmodel/arch.h"

bool lm_row_is_stacked(const struct lm_arch_row *r)
{
    return r->hf && strchr(r->hf, '@') != NULL;
}

static unsigned gguf_shape(const struct lm_arch_row *r, const struct lm_config *c, uint64_t shape[4])
{
    unsigned n = 0;

    memset(shape, 0, 4 * sizeof *shape);
    for (; n < 4 && r->shape[n] != LM_DIM_NONE; n++)
        shape[n] = lm_config_dim(c, r->shape[n]);
    return n;
}

static void swap(uint64_t *a, uint64_t *b)
{
    uint64_t t = *a;
    *a = *b;
    *b = t;
}

unsigned lm_row_shape(const struct lm_arch_row *r, const struct lm_config *c, enum lm_naming naming, uint64_t shape[4])
{
    unsigned n = gguf_shape(r, c, shape);

    if (naming == LM_NAMES_GGUF)
        return n;
    switch (r->transform) {
    case LM_T_TRANSPOSE:
        swap(&shape[0], &shape[1]);
        break;
    case LM_T_STACK:
        memmove(shape, shape + 1, 3 * sizeof *shape);
        shape[3] = 0;
        return n - 1;
    case LM_T_HALF_1:
    case LM_T_HALF_2:
        shape[n - 2] *= 2;
        break;
    case LM_T_EVEN:
    case LM_T_ODD:
        shape[n - 1] *= 2;
        break;
    case LM_T_EVEN_ROWS:
    case LM_T_ODD_ROWS:
        shape[1] *= 2;
        swap(&shape[1], &shape[2]);
        break;
    case LM_T_TURN:
        swap(&shape[1], &shape[2]);
        break;
    case LM_T_EVEN_OUTS:
    case LM_T_ODD_OUTS:
        shape[1] *= 2;
        break;
    case LM_T_MLA_K:
    case LM_T_MLA_V:
        shape[0] = (uint64_t)c->n_heads * (c->d_nope + c->d_head_v);
        shape[1] = c->kv_lora;
        shape[2] = 0;
        return 2;
    case LM_T_NONE: case LM_T_PERMUTE_Q: case LM_T_PERMUTE_K: case LM_T_PLUS_ONE: case LM_T_GROUP_QKV:
        break;
    }
    return n;
}

/* Three axes; steps in GGUF follow from the extents. */
static struct lm_box box3(const uint64_t n[3], uint64_t s0, uint64_t s1, uint64_t s2, uint64_t hf_at)
{
    return (struct lm_box){.n_axes = 3, .n = {n[0], n[1], n[2]}, .hf = {s0, s1, s2},
                           .gguf = {n[1] * n[2], n[2], 1}, .hf_at = hf_at};
}

/* Rows of Q, of K and of V: each a box of runs of d_head rows. */
static void qkv_boxes(const struct lm_config *c, uint64_t cols, struct lm_box out[3])
{
    uint64_t head = c->d_head * cols, kv = c->n_kv_heads, group = c->n_heads / kv, all = (group + 2) * head;

    out[0] = (struct lm_box){.n_axes = 3, .n = {kv, group, head}, .hf = {all, head, 1},
                             .gguf = {group * head, head, 1}};
    for (uint64_t i = 0; i < 2; i++)
        out[1 + i] = (struct lm_box){.n_axes = 2, .n = {kv, head}, .hf = {all, 1}, .gguf = {head, 1},
                                     .hf_at = (group + i) * head, .gguf_at = (c->n_heads + i * kv) * head};
}

/* The GGUF shape as three extents, ones in front. */
static void extents(const uint64_t *shape, unsigned n, uint64_t e[3])
{
    for (unsigned i = 0; i < 3; i++)
        e[i] = i + n < 3 ? 1 : shape[i + n - 3];
}

unsigned lm_row_boxes(const struct lm_arch_row *r, const struct lm_config *c, unsigned expert,
                      struct lm_box out[LM_MAX_BOXES])
{
    uint64_t shape[4], e[3];
    unsigned n = gguf_shape(r, c, shape);

    extents(shape, n, e);
    switch (r->transform) {
    case LM_T_GROUP_QKV:
        qkv_boxes(c, n == 2 ? shape[1] : 1, out);
        return 3;
    case LM_T_STACK:
        out[0] = (struct lm_box){.n_axes = 2, .n = {e[1], e[2]}, .hf = {e[2], 1}, .gguf = {e[2], 1},
                                 .gguf_at = expert * e[1] * e[2]};
        return 1;
    case LM_T_HALF_1:
    case LM_T_HALF_2:
        out[0] = box3(e, 2 * e[1] * e[2], e[2], 1, r->transform == LM_T_HALF_2 ? e[1] * e[2] : 0);
        return 1;
    case LM_T_EVEN:
    case LM_T_ODD:
        out[0] = box3(e, 2 * e[1] * e[2], 2 * e[2], 2, r->transform == LM_T_ODD);
        return 1;
    case LM_T_EVEN_ROWS:
    case LM_T_ODD_ROWS:
        out[0] = box3(e, 2 * e[1] * e[2], 2, 2 * e[1], r->transform == LM_T_ODD_ROWS);
        return 1;
    case LM_T_EVEN_OUTS:
    case LM_T_ODD_OUTS:
        out[0] = box3(e, 2 * e[1] * e[2], 2 * e[2], 1, r->transform == LM_T_ODD_OUTS ? e[2] : 0);
        return 1;
    case LM_T_TURN:
    case LM_T_TRANSPOSE:
        out[0] = box3(e, e[1] * e[2], 1, e[1], 0);
        return 1;
    case LM_T_MLA_K: /* [heads, lora, nope] */
        out[0] = box3(e, (c->d_nope + (uint64_t)c->d_head_v) * e[1], 1, e[1], 0);
        return 1;
    case LM_T_MLA_V: /* [heads, v, lora] */
        out[0] = box3(e, (c->d_nope + (uint64_t)c->d_head_v) * e[2], e[2], 1, c->d_nope * e[2]);
        return 1;
    case LM_T_NONE: case LM_T_PERMUTE_Q: case LM_T_PERMUTE_K: case LM_T_PLUS_ONE:
        break;
    }
    return 0;
}
