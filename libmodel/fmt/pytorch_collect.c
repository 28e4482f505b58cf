/* From unpickled values to tensors with names. */
#include <stdio.h>
#include <stdlib.h>

#include "libmodel/fmt/pytorch.h"

/* Every tensor is described by a hundred bytes and more of the file. */
enum { MAX_DEPTH = 48, MAX_VISITS = 1 << 20, MAX_PATH_NAME = 2048, FEW_TENSORS = 4096, BYTES_A_TENSOR = 64 };

struct walk {
    struct lmi_torch *t;
    struct lmi_view_list *out; /* or, for what is outside of the state dict: */
    struct lm_span *apart;
    size_t n_apart, apart_capacity;
    const struct lmi_pk_list *skip; /* not entered */
    struct lm_err *e;
    size_t n_visits, n_tensors;
    char path[MAX_PATH_NAME];
    size_t n_path;
};

static bool is_tensor(const struct lmi_pk *v)
{
    return v->kind == LMI_PK_DATA && v->tag == LMI_TORCH_TENSOR;
}

/* ---- one tensor */

static int blob_of(struct lmi_torch *t, const struct lmi_torch_storage *s, struct lmi_blob **out, struct lm_err *e)
{
    size_t i = lm_map_get(t->by_key, s->key);

    if (i == SIZE_MAX)
        return lm_err_set(e, LM_MISSING, "storage '%.*s' is not in the file", LMI_SHOW(s->key));
    *out = t->blobs[i];
    if ((*out)->n_bytes != s->n_bytes)
        return lm_err_set(e, LM_MALFORMED, "storage '%.*s' should have %llu bytes, the file gives it %llu", LMI_SHOW(s->key),
                          (unsigned long long)s->n_bytes, (unsigned long long)(*out)->n_bytes);
    return 0;
}

static int set_view(struct lmi_torch *t, struct lmi_view *v, const struct lmi_torch_tensor *x, struct lm_err *e)
{
    v->dtype = x->dtype;
    v->big_endian = t->big_endian && lm_dtype_info(x->dtype)->block_bytes > 1;
    v->n_dims = x->n_dims;
    memcpy(v->shape, x->dims, x->n_dims * sizeof x->dims[0]);
    memcpy(v->stride, x->dims + x->n_dims, x->n_dims * sizeof x->dims[0]);
    v->offset = x->offset;
    return blob_of(t, x->storage, &v->blob, e);
}

static int set_channel(struct lmi_torch *t, const struct lmi_view **out, const struct lmi_torch_tensor *x,
                       struct lm_span name, struct lm_err *e)
{
    struct lmi_view *v = lm_arena_alloc(&t->m->arena, sizeof *v);

    if (!v)
        return lmi_nomem(e);
    v->name = name;
    *out = v;
    return set_view(t, v, x, e);
}

static int add_view(struct walk *w, const struct lmi_torch_tensor *x, struct lm_span name)
{
    struct lmi_view *v = lmi_view_new(w->out);

    if (!v)
        return lmi_nomem(w->e);
    v->name = name;
    v->quant = x->quant;
    v->scale = x->scale;
    v->zero = x->zero;
    v->axis = x->axis;
    if (set_view(w->t, v, x, w->e) < 0)
        return -1;
    if (x->quant != LMI_QUANT_CHANNEL)
        return 0;
    return set_channel(w->t, &v->scales, x->scales, name, w->e) < 0 ||
                   set_channel(w->t, &v->zeros, x->zeros, name, w->e) < 0
               ? -1
               : 0;
}

/* "optimizer.state.0.exp_avg F32 [4, 4]" */
static int add_apart(struct walk *w, const struct lmi_torch_tensor *x, struct lm_span name)
{
    struct lm_tensor shape = {.n_dims = x->n_dims};
    char dims[192], *text = NULL;

    memcpy(shape.shape, x->dims, x->n_dims * sizeof x->dims[0]);
    if (w->n_apart == w->apart_capacity) {
        size_t capacity = w->apart_capacity ? w->apart_capacity * 2 : 64;
        struct lm_span *bigger = reallocarray(w->apart, capacity, sizeof *bigger);
        if (!bigger)
            return lmi_nomem(w->e);
        w->apart = bigger;
        w->apart_capacity = capacity;
    }
    int n = asprintf(&text, "%.*s %s %s", LMI_SHOW(name), lm_dtype_name(x->dtype),
                     lm_tensor_shape_str(&shape, dims, sizeof dims));
    char *own = n < 0 ? NULL : lm_arena_str(&w->t->arena, lm_span_of(text, (size_t)n));
    free(n < 0 ? NULL : text);
    if (!own)
        return lmi_nomem(w->e);
    w->apart[w->n_apart++] = lm_span_of(own, (size_t)n);
    return 0;
}

static int add_tensor(struct walk *w, const struct lmi_torch_tensor *x)
{
    size_t limit = FEW_TENSORS + w->t->m->files[w->t->file].map.size / BYTES_A_TENSOR;

    if (w->n_tensors++ >= limit)
        return lm_err_set(w->e, LM_LIMIT, "more than %zu tensors, which a file of %zu bytes cannot describe", limit,
                          w->t->m->files[w->t->file].map.size);
    char *name = lm_arena_str(&w->t->m->arena, lm_span_of(w->path, w->n_path));

    if (!name)
        return lmi_nomem(w->e);
    struct lm_span s = lm_span_of(name, w->n_path);
    return w->out ? add_view(w, x, s) : add_apart(w, x, s);
}

/* ---- the walk. What is visited is counted, not what exists: shared parts can
 * unfold to more than any memory holds. */

static int walk_value(struct walk *w, const struct lmi_pk *v, unsigned depth);

static int walk_member(struct walk *w, struct lm_span key, const struct lmi_pk *v, unsigned depth)
{
    size_t before = w->n_path, n = key.size + (before > 0);

    if (n > sizeof w->path - before)
        return lm_err_set(w->e, LM_LIMIT, "a name is longer than %d bytes", MAX_PATH_NAME);
    if (before)
        w->path[w->n_path++] = '.';
    if (key.size)
        memcpy(w->path + w->n_path, key.data, key.size);
    w->n_path += key.size;
    int rc = walk_value(w, v, depth + 1);
    w->n_path = before;
    return rc;
}

static int walk_dict(struct walk *w, const struct lmi_pk_list *l, unsigned depth)
{
    char number[24];

    for (uint32_t i = 0; i + 1 < l->n; i += 2) {
        struct lm_span key = lmi_pk_text(&l->items[i]);
        if (l->items[i].kind == LMI_PK_INT)
            key = lm_span_of(number, (size_t)snprintf(number, sizeof number, "%lld", (long long)l->items[i].i));
        if (walk_member(w, key, &l->items[i + 1], depth) < 0)
            return -1;
    }
    return 0;
}

static int walk_list(struct walk *w, const struct lmi_pk_list *l, unsigned depth)
{
    char number[24];

    for (uint32_t i = 0; i < l->n; i++) {
        struct lm_span key = lm_span_of(number, (size_t)snprintf(number, sizeof number, "%u", i));
        if (walk_member(w, key, &l->items[i], depth) < 0)
            return -1;
    }
    return 0;
}

static int walk_value(struct walk *w, const struct lmi_pk *v, unsigned depth)
{
    if (++w->n_visits > MAX_VISITS)
        return lm_err_set(w->e, LM_LIMIT, "the pickle unfolds to more values than a checkpoint has");
    if (is_tensor(v))
        return add_tensor(w, v->data);
    if (v->kind < LMI_PK_TUPLE || v->kind == LMI_PK_GLOBAL || v->kind == LMI_PK_DATA || v->list == w->skip)
        return 0;
    if (v->list->busy)
        return lm_err_set(w->e, LM_MALFORMED, "the pickle holds itself: a cycle");
    if (depth > MAX_DEPTH)
        return lm_err_set(w->e, LM_LIMIT, "the pickle is nested more than %d deep", MAX_DEPTH);
    v->list->busy = true;
    int rc = v->kind == LMI_PK_DICT     ? walk_dict(w, v->list, depth)
             : v->kind == LMI_PK_OBJECT ? (v->list->n ? walk_value(w, &v->list->items[0], depth + 1) : 0)
                                        : walk_list(w, v->list, depth);
    v->list->busy = false;
    return rc;
}

/* ---- training checkpoints */

static bool has_tensors(const struct lmi_pk *v)
{
    for (uint32_t i = 1; v->kind == LMI_PK_DICT && i < v->list->n; i += 2)
        if (is_tensor(&v->list->items[i]))
            return true;
    return false;
}

/* The state dict inside a dict, under the names that trainers use. */
static const struct lmi_pk *find_state_dict(const struct lmi_pk *root)
{
    static const char *const names[] = {"state_dict", "model_state_dict", "model_state", "model", "module", "params",
                                        "weights", "net"};

    if (root->kind != LMI_PK_DICT || has_tensors(root))
        return NULL;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const struct lmi_pk *v = lmi_pk_get(root->list, names[i]);
        if (v && has_tensors(v))
            return v;
    }
    return NULL;
}

/* Numbers and texts beside the state dict: epoch, step, … */
static int keep_scalar(struct lmi_torch *t, struct lm_span key, const struct lmi_pk *v, struct lm_err *e)
{
    struct lm_meta_value x = {.type = LM_META_I64, .i = v->i};
    char name[200];

    if (key.size == 0 || key.size > 150 || memchr(key.data, 0, key.size))
        return 0;
    if (v->kind == LMI_PK_FLOAT)
        x = (struct lm_meta_value){.type = LM_META_F64, .f = v->f};
    else if (v->kind == LMI_PK_BOOL)
        x = (struct lm_meta_value){.type = LM_META_BOOL, .u = (uint64_t)v->i};
    else if (v->kind == LMI_PK_STR)
        x = (struct lm_meta_value){.type = LM_META_STR, .str = lmi_pk_text(v)};
    else if (v->kind != LMI_PK_INT)
        return 0;
    snprintf(name, sizeof name, "pytorch.%.*s", (int)key.size, (const char *)key.data);
    return lm_meta_set_value(t->m->meta, name, &x) < 0 ? lmi_nomem(e) : 0;
}

static int keep_apart(struct walk *w, const struct lmi_pk *root, const struct lmi_pk *state)
{
    w->skip = state->list;
    if (walk_value(w, root, 0) < 0)
        return -1;
    for (uint32_t i = 0; i + 1 < root->list->n && i < LMI_MAX_META; i += 2)
        if (keep_scalar(w->t, lmi_pk_text(&root->list->items[i]), &root->list->items[i + 1], w->e) < 0)
            return -1;
    if (w->n_apart && lm_meta_set_strs(w->t->m->meta, "pytorch.not_model_tensors", w->apart, w->n_apart) < 0)
        return lmi_nomem(w->e);
    return 0;
}

int lmi_torch_collect(struct lmi_torch *t, const struct lmi_pk *root, struct lmi_view_list *out, struct lm_err *e)
{
    const struct lmi_pk *state = find_state_dict(root);
    struct walk w = {.t = t, .out = out, .e = e};
    size_t before = out->n;

    if (walk_value(&w, state ? state : root, 0) < 0)
        return -1;
    if (out->n == before)
        return lm_err_set(e, LM_UNSUPPORTED, "the pickle holds no tensors");
    if (!state)
        return 0;
    struct walk rest = {.t = t, .e = e};
    int rc = keep_apart(&rest, root, state);
    free(rest.apart);
    return rc;
}
