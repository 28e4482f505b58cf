#include "libmodel/fmt/meta_names.h"

#include <stdio.h>
#include <stdlib.h>

#include "libmodel/fmt/views.h"

static const struct lmi_meta_name globals[] = {
    {"tok_embeddings.weight", "token_embd.weight", LMI_CUT_EMBEDDING},
    {"norm.weight", "output_norm.weight", LMI_CUT_NONE},
    {"output.weight", "output.weight", LMI_CUT_ROWS},
}, layered[] = {
    {"attention.wq.weight", "attn_q.weight", LMI_CUT_ROWS},
    {"attention.wk.weight", "attn_k.weight", LMI_CUT_KV},
    {"attention.wv.weight", "attn_v.weight", LMI_CUT_KV},
    {"attention.wo.weight", "attn_output.weight", LMI_CUT_COLUMNS},
    {"feed_forward.w1.weight", "ffn_gate.weight", LMI_CUT_ROWS},
    {"feed_forward.w2.weight", "ffn_down.weight", LMI_CUT_COLUMNS},
    {"feed_forward.w3.weight", "ffn_up.weight", LMI_CUT_ROWS},
    {"feed_forward.gate.weight", "ffn_gate_inp.weight", LMI_CUT_NONE},
    {"block_sparse_moe.gate.weight", "ffn_gate_inp.weight", LMI_CUT_NONE},
    {"attention_norm.weight", "attn_norm.weight", LMI_CUT_NONE},
    {"ffn_norm.weight", "ffn_norm.weight", LMI_CUT_NONE},
};

/* "layers.12.": the rest after it and the digits, or NULL. */
static const char *after_layer(const char *name, int *n_digits)
{
    *n_digits = 0;
    if (strncmp(name, "layers.", 7) != 0)
        return NULL;
    while (name[7 + *n_digits] >= '0' && name[7 + *n_digits] <= '9')
        ++*n_digits;
    return *n_digits > 0 && *n_digits < 7 && name[7 + *n_digits] == '.' ? name + 8 + *n_digits : NULL;
}

const struct lmi_meta_name *lmi_meta_find(const char *name)
{
    int n_digits;
    const char *rest = after_layer(name, &n_digits);
    const struct lmi_meta_name *table = rest ? layered : globals;
    size_t n = rest ? sizeof layered / sizeof layered[0] : sizeof globals / sizeof globals[0];

    for (size_t i = 0; i < n; i++)
        if (strcmp(table[i].name, rest ? rest : name) == 0)
            return &table[i];
    return NULL;
}

bool lmi_meta_is_rotary(const char *name)
{
    return strcmp(name, "rope.freqs") == 0 || lmi_has_suffix(name, ".rope.freqs");
}

static const char *gguf_name(struct lm_model *m, const char *old)
{
    const struct lmi_meta_name *k = lmi_meta_find(old);
    int n_digits;
    char name[128];

    if (!k || !after_layer(old, &n_digits))
        return k ? k->gguf : old;
    snprintf(name, sizeof name, "blk.%.*s.%s", n_digits, old + 7, k->gguf);
    return lm_arena_str(&m->arena, lm_span_str(name));
}

int lmi_meta_rename(struct lm_model *m, struct lm_err *e)
{
    struct lm_map *map = lm_map_new(m->n_tensors);
    int rc = map ? 0 : lmi_nomem(e);

    for (size_t i = 0; rc == 0 && i < m->n_tensors; i++) {
        struct lm_tensor *t = &m->tensors[i];
        t->name = gguf_name(m, t->name);
        int put = t->name ? lm_map_put(map, lm_span_str(t->name), i) : -1;
        if (put <= 0)
            rc = put < 0 ? lmi_nomem(e) : lm_err_set(e, LM_MALFORMED, "tensor '%.200s' appears twice", t->name);
    }
    if (rc < 0) {
        lm_map_free(map);
        return -1;
    }
    lm_map_free(m->by_name);
    m->by_name = map;
    return 0;
}

/* ---- experts
 *
 * Two forms: layers.N.feed_forward.experts.E.w1.weight (in block_sparse_moe.
 * too) for each expert, or layers.N.block_sparse_moe.w1 [experts * hidden, dim]
 * for all, w2 lying transposed in it. */

struct stack {
    struct lm_model *m;
    uint32_t n_experts;
    bool *taken; /* one a tensor */
    struct lmi_view_list list;
};

static struct lm_tensor *take(struct stack *s, const char *name)
{
    size_t i = lm_map_get(s->m->by_name, lm_span_str(name));

    if (i == SIZE_MAX)
        return NULL;
    s->taken[i] = true;
    return &s->m->tensors[i];
}

/* A tensor as a piece [1, rows, columns]. */
static int view_of(struct stack *s, const struct lm_tensor *t, struct lmi_view *v, struct lm_err *e)
{
    struct lmi_blob *b = lm_arena_alloc(&s->m->arena, sizeof *b);

    if (!b)
        return lmi_nomem(e);
    if (t->n_dims != 2)
        return lm_err_set(e, LM_MALFORMED, "tensor '%.200s' has %u dimensions, expected 2", t->name, t->n_dims);
    *b = (struct lmi_blob){.file = t->file, .offset = t->offset, .n_stored = t->n_bytes, .n_bytes = t->n_bytes};
    *v = (struct lmi_view){.name = lm_span_str(t->name), .dtype = t->dtype, .big_endian = t->big_endian, .n_dims = 3,
                           .shape = {1, t->shape[0], t->shape[1]}, .blob = b};
    lmi_view_row_major(v);
    return 0;
}

static int named(struct stack *s, struct lmi_view *v, uint32_t layer, const char *kind, struct lm_err *e)
{
    char name[64];

    snprintf(name, sizeof name, "blk.%u.ffn_%s_exps.weight", layer, kind);
    v->name = lm_span_str(lm_arena_str(&s->m->arena, lm_span_str(name)));
    return v->name.data ? 0 : lmi_nomem(e);
}

/* All experts in one matrix: another shape, or for w2 another order of reading. */
static int split_fused(struct stack *s, const struct lm_tensor *t, uint32_t layer, const char *kind, bool transposed,
                       struct lm_err *e)
{
    struct lmi_view *v = lmi_view_new(&s->list);
    struct lmi_view plain;

    if (!v)
        return lmi_nomem(e);
    if (view_of(s, t, &plain, e) < 0)
        return -1;
    uint64_t rows = t->shape[0] / s->n_experts, columns = t->shape[1];
    if (t->shape[0] % s->n_experts)
        return lm_err_set(e, LM_MISMATCH, "tensor '%.200s' has %llu rows, which are not those of %u experts", t->name,
                          (unsigned long long)t->shape[0], s->n_experts);
    *v = plain;
    v->shape[0] = s->n_experts, v->shape[1] = rows, v->shape[2] = columns;
    lmi_view_row_major(v);
    if (transposed) {
        v->shape[1] = columns, v->shape[2] = rows;
        v->stride[1] = 1, v->stride[2] = columns;
    }
    return named(s, v, layer, kind, e);
}

/* Finds expert i under one of the names it may have. */
static struct lm_tensor *expert(struct stack *s, uint32_t layer, unsigned w, uint32_t i)
{
    static const char *const forms[] = {"layers.%u.feed_forward.experts.%u.w%u.weight",
                                        "layers.%u.block_sparse_moe.experts.%u.w%u.weight"};
    char name[96];
    struct lm_tensor *t = NULL;

    for (int f = 0; f < 2 && !t; f++) {
        snprintf(name, sizeof name, f ? forms[1] : forms[0], layer, i, w);
        t = take(s, name);
    }
    return t;
}

static int join_experts(struct stack *s, uint32_t layer, unsigned w, const char *kind, struct lm_err *e)
{
    struct lmi_view *whole = lmi_view_new(&s->list);
    struct lmi_view *parts = lm_arena_array(&s->m->arena, s->n_experts, sizeof *parts);

    if (!whole || !parts)
        return lmi_nomem(e);
    for (uint32_t i = 0; i < s->n_experts; i++) {
        const struct lm_tensor *t = expert(s, layer, w, i);
        if (!t)
            return lm_err_set(e, LM_MISSING, "layer %u has no w%u of expert %u; params.json says there are %u", layer, w, i,
                              s->n_experts);
        if (view_of(s, t, &parts[i], e) < 0)
            return -1;
    }
    *whole = parts[0];
    whole->shape[0] = s->n_experts;
    lmi_view_row_major(whole);
    whole->parts = parts;
    whole->n_parts = s->n_experts;
    return named(s, whole, layer, kind, e);
}

static int stack_layer(struct stack *s, uint32_t layer, struct lm_err *e)
{
    static const char *const kinds[] = {"gate", "down", "up"};
    char fused[64];

    for (unsigned w = 1; w <= 3; w++) {
        snprintf(fused, sizeof fused, "layers.%u.block_sparse_moe.w%u", layer, w);
        const struct lm_tensor *t = take(s, fused);
        if (t ? split_fused(s, t, layer, kinds[w - 1], w == 2, e) < 0
              : expert(s, layer, w, 0) && join_experts(s, layer, w, kinds[w - 1], e) < 0)
            return -1;
    }
    return 0;
}

/* The tensors that went into others leave the list. */
static void drop_taken(struct stack *s)
{
    size_t n = 0;

    for (size_t i = 0; i < s->m->n_tensors; i++)
        if (!s->taken[i])
            s->m->tensors[n++] = s->m->tensors[i];
    s->m->n_tensors = n;
}

int lmi_meta_stack_experts(struct lm_model *m, uint32_t n_layers, uint32_t n_experts, struct lm_err *e)
{
    struct stack s = {.m = m, .n_experts = n_experts, .taken = calloc(m->n_tensors + 1, sizeof *s.taken)};
    int rc = s.taken ? 0 : lmi_nomem(e);

    if (rc == 0 && (n_experts > m->n_tensors || n_layers > m->n_tensors) && n_experts > 64)
        rc = lm_err_set(e, LM_MALFORMED, "%u experts in %u layers are more than the %zu tensors can hold", n_experts,
                        n_layers, m->n_tensors);
    for (uint32_t l = 0; rc == 0 && l < n_layers && l < m->n_tensors; l++)
        rc = stack_layer(&s, l, e);
    if (rc == 0) {
        drop_taken(&s);
        rc = lmi_meta_rename(m, e);
    }
    if (rc == 0)
        rc = lmi_views_add(m, s.list.v, s.list.n, m->n_files ? m->files[0].path : "", e);
    free(s.taken);
    free(s.list.v);
    return rc;
}
