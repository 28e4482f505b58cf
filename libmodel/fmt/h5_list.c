/* What the contained process reports, checked as the untrusted bytes it is. */
#include "libmodel/fmt/h5.h"

#include <stdio.h>
#include <stdlib.h>

enum { MEMORY = 48 << 20, REPORT = 32 << 20, MS = 1500 };

/* ---- growing lists in the arena's spirit: one realloc each */

static void *one_more(void *list, size_t n, size_t size, struct lm_err *e)
{
    if (n & (n - 1)) /* room is a power of two */
        return list;
    void *bigger = reallocarray(list, n ? 2 * n : 1, size);
    if (!bigger)
        lmi_nomem(e);
    return bigger;
}

static struct lm_span take_span(struct lm_cursor *c)
{
    return lm_cur_bytes(c, lm_cur_u32(c));
}

static int bad(struct lm_err *e)
{
    return lm_err_set(e, LM_MALFORMED, "the process of libhdf5 gave an answer that makes no sense");
}

/* ---- values */

static bool is_number(unsigned t)
{
    return t < LM_META_N_TYPES && t != LM_META_STR && t != LM_META_ARRAY;
}

static void take_scalar(struct lm_cursor *c, struct lm_meta_value *v)
{
    if (v->type == LM_META_STR)
        v->str = take_span(c);
    else if (v->type == LM_META_F32 || v->type == LM_META_F64)
        v->f = lm_cur_f64(c);
    else
        v->u = lm_cur_u64(c); /* signed ones share its place */
}

/* Packed numbers, in an aligned copy: they are host-order for whoever reads them. */
static int take_array(struct lm_cursor *c, struct lm_meta_value *v, struct lm_arena *a, struct lm_err *e)
{
    uint64_t n = lm_cur_u64(c), n_bytes;
    bool text = v->elem == LM_META_STR;

    if (!lm_mul_u64(n, text ? 4 : lm_meta_width(v->elem), &n_bytes) || n_bytes > lm_cur_left(c))
        return bad(e);
    v->n = (size_t)n;
    void *data = text ? lm_arena_array(a, v->n + 1, sizeof(struct lm_span)) : lm_arena_alloc(a, (size_t)n_bytes + 1);
    if (!data)
        return lmi_nomem(e);
    if (text)
        for (size_t i = 0; i < v->n; i++)
            ((struct lm_span *)data)[i] = take_span(c);
    else if (n_bytes)
        memcpy(data, lm_cur_bytes(c, n_bytes).data, (size_t)n_bytes);
    v->strs = text ? data : NULL;
    v->data = text ? NULL : data;
    return 0;
}

static int take_value(struct lm_cursor *c, struct lm_meta_value *v, struct lm_arena *a, struct lm_err *e)
{
    unsigned type = lm_cur_u8(c), elem;

    *v = (struct lm_meta_value){0};
    if (type == LM_META_STR || is_number(type)) {
        v->type = (enum lm_meta_type)type;
        take_scalar(c, v);
    } else if (type == LM_META_ARRAY) {
        elem = lm_cur_u8(c);
        v->type = LM_META_ARRAY;
        if (elem != LM_META_STR && !is_number(elem))
            return bad(e);
        v->elem = (enum lm_meta_type)elem;
        if (take_array(c, v, a, e) < 0)
            return -1;
    } else {
        return bad(e);
    }
    return c->failed ? bad(e) : 0;
}

/* ---- records */

static int take_dataset(struct lmi_h5 *h, struct lm_cursor *c, struct lm_err *e)
{
    struct lmi_h5_dataset d = {.path = take_span(c)};
    unsigned dtype = lm_cur_u8(c);

    d.big_endian = lm_cur_u8(c) != 0;
    d.decode = lm_cur_u8(c) != 0;
    d.n_dims = lm_cur_u8(c);
    if (dtype >= LM_N_DTYPES || d.n_dims > LM_MAX_DIMS)
        return bad(e);
    d.dtype = (enum lm_dtype)dtype;
    for (unsigned i = 0; i < d.n_dims; i++)
        d.shape[i] = lm_cur_u64(c);
    d.offset = lm_cur_u64(c);
    d.n_bytes = lm_cur_u64(c);
    if (c->failed)
        return bad(e);
    struct lmi_h5_dataset *list = one_more(h->datasets, h->n_datasets, sizeof *list, e);
    if (!list)
        return -1;
    h->datasets = list;
    list[h->n_datasets] = d;
    int put = lm_map_put(h->paths, d.path, h->n_datasets++);
    if (put <= 0)
        return put < 0 ? lmi_nomem(e) : bad(e);
    return 0;
}

static int take_attr(struct lmi_h5 *h, struct lm_cursor *c, struct lm_err *e)
{
    struct lmi_h5_attr *list = one_more(h->attrs, h->n_attrs, sizeof *list, e);

    if (!list)
        return -1;
    h->attrs = list;
    list[h->n_attrs].path = take_span(c);
    list[h->n_attrs].name = take_span(c);
    if (c->failed)
        return bad(e);
    int put = lm_map_put(h->by_key, lm_span_of(c->all.data, c->pos), h->n_attrs);
    if (put <= 0)
        return put < 0 ? lmi_nomem(e) : bad(e);
    return take_value(c, &list[h->n_attrs++].value, &h->arena, e);
}

static int take_note(struct lmi_h5 *h, struct lm_cursor *c, struct lm_err *e)
{
    struct lmi_h5_note *list = one_more(h->notes, h->n_notes, sizeof *list, e);

    if (!list)
        return -1;
    h->notes = list;
    list[h->n_notes].path = take_span(c);
    list[h->n_notes].text = take_span(c);
    list[h->n_notes++].refused = lm_cur_u8(c) != 0;
    return c->failed ? bad(e) : 0;
}

int lmi_h5_failure(struct lm_cursor *c, struct lm_err *e)
{
    unsigned code = lm_cur_u8(c);
    struct lm_span text = take_span(c);

    if (c->failed || text.size == 0 || memchr(text.data, 0, text.size))
        return bad(e);
    return lm_err_set(e, code > LM_OK && code <= LM_MISSING ? (enum lm_code)code : LM_MALFORMED, "%.*s",
                      (int)(text.size < 700 ? text.size : 700), text.size ? (const char *)text.data : "");
}

static int take_record(struct lmi_h5 *h, uint8_t kind, struct lm_cursor *c, struct lm_err *e)
{
    switch (kind) {
    case LMI_H5_DATASET: return take_dataset(h, c, e);
    case LMI_H5_ATTR: return take_attr(h, c, e);
    case LMI_H5_NOTE: return take_note(h, c, e);
    case LMI_H5_FAILED: return lmi_h5_failure(c, e);
    default: return bad(e);
    }
}

int lmi_h5_parse(struct lmi_h5 *h, struct lm_err *e)
{
    struct lm_cursor c = lm_cursor_of(lm_span_of(h->report.data, h->report.n));

    h->paths = lm_map_new(0);
    h->by_key = lm_map_new(0);
    if (!h->paths || !h->by_key)
        return lmi_nomem(e);
    while (lm_cur_left(&c) > 0) {
        uint8_t kind = lm_cur_u8(&c);
        struct lm_cursor record = lm_cursor_of(take_span(&c));
        if (c.failed)
            return bad(e);
        if (kind == LMI_H5_END)
            return lm_cur_left(&c) == 0 && record.all.size == 0 ? 0 : bad(e);
        if (take_record(h, kind, &record, e) < 0)
            return -1;
        if (record.failed || lm_cur_left(&record) > 0)
            return bad(e);
    }
    return bad(e);
}

/* ---- the listing */

static void walk(struct lmi_h5_out *o, void *arg)
{
    lmi_h5_walk(o, *(struct lm_span *)arg);
}

int lmi_h5_list(struct lmi_h5 *out, struct lm_span file, struct lm_err *e)
{
    struct lmi_h5_limits limits = {.memory = MEMORY + 4 * (uint64_t)file.size, .report = REPORT + (uint64_t)file.size,
                                   .ms = MS + ((uint64_t)file.size >> 14)};

    *out = (struct lmi_h5){0};
    if (lmi_h5_box(&out->report, walk, &file, &limits, e) < 0)
        return -1;
    return lmi_h5_parse(out, e);
}

void lmi_h5_free(struct lmi_h5 *h)
{
    lm_map_free(h->paths);
    lm_map_free(h->by_key);
    free(h->datasets);
    free(h->attrs);
    free(h->notes);
    free(h->report.data);
    lm_arena_free(&h->arena);
    *h = (struct lmi_h5){0};
}

const struct lmi_h5_dataset *lmi_h5_find(const struct lmi_h5 *h, struct lm_span path)
{
    size_t i = lm_map_get(h->paths, path);
    return i == SIZE_MAX ? NULL : &h->datasets[i];
}

const struct lmi_h5_attr *lmi_h5_attr(const struct lmi_h5 *h, struct lm_span path, const char *name)
{
    struct lmi_buffer key = {0};

    lmi_put_u32(&key, (uint32_t)path.size);
    lmi_put(&key, path.data, path.size);
    lmi_put_u32(&key, (uint32_t)strlen(name));
    lmi_put_str(&key, name);
    size_t i = key.failed ? SIZE_MAX : lm_map_get(h->by_key, lm_span_of(key.data, key.n));
    free(key.data);
    return i == SIZE_MAX ? NULL : &h->attrs[i];
}

static bool is_strings(const struct lmi_h5_attr *a)
{
    return a && a->value.type == LM_META_ARRAY && a->value.elem == LM_META_STR;
}

/* NAME, or NAME0, NAME1, … one after another. */
static const struct lmi_h5_attr *string_part(const struct lmi_h5 *h, struct lm_span path, const char *name, size_t i)
{
    char part[80];
    const struct lmi_h5_attr *a = i == 0 ? lmi_h5_attr(h, path, name) : NULL;

    if (is_strings(a))
        return a;
    if (i > 0 && lmi_h5_attr(h, path, name))
        return NULL;
    snprintf(part, sizeof part, "%s%zu", name, i);
    a = lmi_h5_attr(h, path, part);
    return is_strings(a) ? a : NULL;
}

int lmi_h5_strings(struct lmi_h5 *h, struct lm_span path, const char *name, struct lm_span **out, size_t *n,
                   struct lm_err *e)
{
    size_t n_parts = 0, at = 0;

    *n = 0;
    for (const struct lmi_h5_attr *a; (a = string_part(h, path, name, n_parts)); n_parts++)
        *n += a->value.n;
    if (n_parts == 0)
        return 0;
    *out = lm_arena_array(&h->arena, *n + 1, sizeof **out);
    if (!*out)
        return lmi_nomem(e);
    for (size_t i = 0; i < n_parts; i++) {
        const struct lm_meta_value *v = &string_part(h, path, name, i)->value;
        for (size_t k = 0; k < v->n; k++)
            (*out)[at++] = v->strs[k];
    }
    return 1;
}
