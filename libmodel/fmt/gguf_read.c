#include <stdlib.h>

#include "libmodel/fmt/gguf.h"

/* The least a pair and a tensor take, in versions 2 and 3 and in version 1:
 * counts are compared with what the bytes present could hold. */
enum { MIN_KV = 13, MIN_KV_V1 = 9, MIN_TENSOR = 24, MIN_TENSOR_V1 = 20, MAX_KEY = 65535 };

struct reader {
    struct lm_cursor c;
    bool v1;
    struct lm_arena *arena;
    struct lm_meta *meta;
    struct lm_err *e;
};

static int ends_early(struct reader *r, const char *where)
{
    return lm_err_set(r->e, LM_MALFORMED, "the file ends inside %s: it is cut short or not completely downloaded",
                      where);
}

/* A count, a length or a dimension. */
static uint64_t read_count(struct reader *r)
{
    return r->v1 ? lm_cur_u32(&r->c) : lm_cur_u64(&r->c);
}

static int read_str(struct reader *r, struct lm_span *out)
{
    uint64_t n = read_count(r);

    if (r->c.failed)
        return ends_early(r, "a string");
    if (n > lm_cur_left(&r->c))
        return lm_err_set(r->e, LM_MALFORMED, "a string of %llu bytes where %zu are left in the file",
                          (unsigned long long)n, lm_cur_left(&r->c));
    *out = lm_cur_bytes(&r->c, n);
    return 0;
}

/* ---- values */

static int read_bool(struct reader *r, uint64_t *out)
{
    *out = lm_cur_u8(&r->c);
    return *out <= 1 ? 0 : lm_err_set(r->e, LM_MALFORMED, "a bool is %llu, expected 0 or 1", (unsigned long long)*out);
}

static int read_scalar(struct reader *r, struct lm_meta_value *v)
{
    struct lm_cursor *c = &r->c;

    switch (v->type) {
    case LM_META_U8: v->u = lm_cur_u8(c); break;
    case LM_META_I8: v->i = (int8_t)lm_cur_u8(c); break;
    case LM_META_U16: v->u = lm_cur_u16(c); break;
    case LM_META_I16: v->i = (int16_t)lm_cur_u16(c); break;
    case LM_META_U32: v->u = lm_cur_u32(c); break;
    case LM_META_I32: v->i = (int32_t)lm_cur_u32(c); break;
    case LM_META_U64: v->u = lm_cur_u64(c); break;
    case LM_META_I64: v->i = (int64_t)lm_cur_u64(c); break;
    case LM_META_F32: v->f = (double)lm_cur_f32(c); break;
    case LM_META_F64: v->f = lm_cur_f64(c); break;
    case LM_META_BOOL: return read_bool(r, &v->u);
    case LM_META_STR: return read_str(r, &v->str);
    case LM_META_ARRAY:
    case LM_META_N_TYPES: break;
    }
    return 0;
}

static bool host_is_big_endian(void)
{
    return __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__;
}

/* Host order and alignment, so that readers may use data as an array. */
static const void *usable(struct reader *r, struct lm_span s, size_t width)
{
    bool swap = width > 1 && r->c.big_endian != host_is_big_endian();

    if (!swap && (uintptr_t)s.data % width == 0)
        return s.data;
    uint8_t *copy = lm_arena_alloc(r->arena, s.size);
    for (size_t i = 0; copy && i < s.size; i += width)
        for (size_t j = 0; j < width; j++)
            copy[i + j] = s.data[i + (swap ? width - 1 - j : j)];
    return copy;
}

static int read_numbers(struct reader *r, struct lm_meta_value *v)
{
    size_t width = lm_meta_width(v->elem);
    struct lm_span s = lm_cur_bytes(&r->c, v->n * width); /* the product fits: read_array */

    v->data = usable(r, s, width);
    if (v->n && !v->data)
        return lmi_nomem(r->e);
    for (size_t i = 0; v->elem == LM_META_BOOL && i < v->n; i++)
        if (s.data[i] > 1)
            return lm_err_set(r->e, LM_MALFORMED, "a bool is %u, expected 0 or 1", s.data[i]);
    return 0;
}

static int read_strings(struct reader *r, struct lm_meta_value *v)
{
    struct lm_span *strs = lm_arena_array(r->arena, v->n, sizeof *strs);

    if (!strs)
        return lmi_nomem(r->e);
    v->strs = strs;
    for (size_t i = 0; i < v->n; i++)
        if (read_str(r, &strs[i]) < 0)
            return lm_err_prefix(r->e, "element %zu", i);
    return 0;
}

static int read_array(struct reader *r, struct lm_meta_value *v)
{
    uint32_t elem = lm_cur_u32(&r->c);
    uint64_t n = read_count(r);

    if (r->c.failed)
        return ends_early(r, "an array");
    if (elem == LM_META_ARRAY)
        return lm_err_set(r->e, LM_UNSUPPORTED, "an array of arrays; nothing in use writes these");
    if (elem >= LM_META_N_TYPES)
        return lm_err_set(r->e, LM_MALFORMED, "array element type %u is unknown", elem);
    v->elem = (enum lm_meta_type)elem;
    size_t least = elem == LM_META_STR ? (r->v1 ? 4 : 8) : lm_meta_width(v->elem);
    if (n > lm_cur_left(&r->c) / least)
        return lm_err_set(r->e, LM_MALFORMED, "an array of %llu elements of %s where %zu bytes are left in the file",
                          (unsigned long long)n, lm_meta_type_name(v->elem), lm_cur_left(&r->c));
    v->n = (size_t)n;
    return elem == LM_META_STR ? read_strings(r, v) : read_numbers(r, v);
}

static int read_value(struct reader *r, struct lm_meta_value *v)
{
    uint32_t type = lm_cur_u32(&r->c);

    if (r->c.failed)
        return ends_early(r, "a metadata pair");
    if (type >= LM_META_N_TYPES)
        return lm_err_set(r->e, LM_MALFORMED, "value type %u is unknown", type);
    v->type = (enum lm_meta_type)type;
    int rc = type == LM_META_ARRAY ? read_array(r, v) : read_scalar(r, v);
    return rc == 0 && r->c.failed ? ends_early(r, "a value") : rc;
}

/* ---- pairs */

static int read_key(struct reader *r, struct lm_span *key)
{
    if (read_str(r, key) < 0)
        return -1;
    if (key->size == 0)
        return lm_err_set(r->e, LM_MALFORMED, "the key is empty");
    if (key->size > MAX_KEY)
        return lm_err_set(r->e, LM_MALFORMED, "the key has %zu bytes, at most %d are allowed", key->size, MAX_KEY);
    if (memchr(key->data, 0, key->size) || !lm_utf8_valid(*key))
        return lm_err_set(r->e, LM_MALFORMED, "the key '%.*s' holds a NUL byte or is not UTF-8", LMI_SHOW(*key));
    return 0;
}

static int read_pair(struct reader *r)
{
    struct lm_meta_value v = {0};
    struct lm_span key;

    if (read_key(r, &key) < 0)
        return -1;
    if (read_value(r, &v) < 0)
        return lm_err_prefix(r->e, "key '%.*s'", LMI_SHOW(key));
    int added = lm_meta_add_borrowed(r->meta, key, &v);
    if (added < 0)
        return lmi_nomem(r->e);
    return added ? 0 : lm_err_set(r->e, LM_MALFORMED, "key '%.*s' appears twice", LMI_SHOW(key));
}

static int read_pairs(struct reader *r, uint64_t n_kv)
{
    if (n_kv > lm_cur_left(&r->c) / (r->v1 ? MIN_KV_V1 : MIN_KV))
        return lm_err_set(r->e, LM_MALFORMED, "%llu metadata pairs cannot fit in the %zu bytes that follow",
                          (unsigned long long)n_kv, lm_cur_left(&r->c));
    if (n_kv > LMI_MAX_META)
        return lm_err_set(r->e, LM_LIMIT, "%llu metadata pairs, at most %d are read", (unsigned long long)n_kv,
                          LMI_MAX_META);
    for (uint64_t i = 0; i < n_kv; i++)
        if (read_pair(r) < 0)
            return lm_err_prefix(r->e, "metadata pair %llu of %llu", (unsigned long long)i + 1,
                                 (unsigned long long)n_kv);
    return 0;
}

static int read_alignment(struct reader *r, uint64_t *alignment)
{
    const struct lm_meta_value *v = lm_meta_get(r->meta, "general.alignment");

    *alignment = LMI_GGUF_ALIGNMENT;
    if (!v)
        return 0;
    if (v->type != LM_META_U32)
        return lm_err_set(r->e, LM_MALFORMED, "metadata key 'general.alignment' has type %s, expected u32",
                          lm_meta_type_name(v->type));
    if (!lmi_gguf_alignment_ok(v->u))
        return lm_err_set(r->e, LM_MALFORMED, "general.alignment is %llu, expected a power of two from 8 to %d",
                          (unsigned long long)v->u, LMI_GGUF_MAX_ALIGNMENT);
    *alignment = v->u;
    return 0;
}

/* ---- tensors */

static int read_shape(struct reader *r, struct lmi_gguf_tensor *t)
{
    t->n_dims = lm_cur_u32(&r->c);
    if (t->n_dims > LMI_GGUF_MAX_DIMS)
        return lm_err_set(r->e, LM_MALFORMED, "%u dimensions, GGUF allows at most %d", t->n_dims, LMI_GGUF_MAX_DIMS);
    for (unsigned i = t->n_dims; i-- > 0;)
        t->shape[i] = read_count(r);
    return 0;
}

static int read_tensor_fields(struct reader *r, struct lmi_gguf_tensor *t, uint64_t alignment)
{
    uint64_t n_elems;

    if (read_shape(r, t) < 0)
        return -1;
    uint32_t id = lm_cur_u32(&r->c);
    t->offset = lm_cur_u64(&r->c);
    if (r->c.failed)
        return ends_early(r, "its description");
    int dtype = lmi_gguf_dtype(id, r->e);
    if (dtype < 0)
        return -1;
    t->dtype = (enum lm_dtype)dtype;
    if (t->offset % alignment != 0)
        return lm_err_set(r->e, LM_MALFORMED, "offset %llu is not a multiple of the alignment %llu",
                          (unsigned long long)t->offset, (unsigned long long)alignment);
    return lmi_tensor_measure(t->name, t->dtype, t->shape, t->n_dims, &n_elems, &t->n_bytes, r->e);
}

static int read_tensors(struct reader *r, struct lmi_gguf_header *h, uint64_t n)
{
    if (n > lm_cur_left(&r->c) / (r->v1 ? MIN_TENSOR_V1 : MIN_TENSOR))
        return lm_err_set(r->e, LM_MALFORMED, "%llu tensors cannot be described in the %zu bytes that follow",
                          (unsigned long long)n, lm_cur_left(&r->c));
    h->tensors = calloc((size_t)n + 1, sizeof *h->tensors);
    if (!h->tensors)
        return lmi_nomem(r->e);
    for (; h->n_tensors < n; h->n_tensors++) {
        struct lmi_gguf_tensor *t = &h->tensors[h->n_tensors];
        if (read_str(r, &t->name) < 0)
            return lm_err_prefix(r->e, "tensor %zu of %llu", h->n_tensors + 1, (unsigned long long)n);
        if (read_tensor_fields(r, t, h->alignment) < 0)
            return lm_err_prefix(r->e, "tensor '%.*s'", LMI_SHOW(t->name));
    }
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    const struct lmi_gguf_tensor *x = *(struct lmi_gguf_tensor *const *)a, *y = *(struct lmi_gguf_tensor *const *)b;

    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static int check_overlap(struct reader *r, const struct lmi_gguf_header *h)
{
    const struct lmi_gguf_tensor **sorted = calloc(h->n_tensors + 1, sizeof *sorted);
    const struct lmi_gguf_tensor *last = NULL;
    size_t n = 0;
    int rc = sorted ? 0 : lmi_nomem(r->e);

    for (size_t i = 0; sorted && i < h->n_tensors; i++)
        if (h->tensors[i].n_bytes)
            sorted[n++] = &h->tensors[i];
    if (n)
        qsort(sorted, n, sizeof *sorted, by_offset);
    for (size_t i = 0; i < n && rc == 0; last = sorted[i++])
        if (last && sorted[i]->offset - last->offset < last->n_bytes)
            rc = lm_err_set(r->e, LM_MALFORMED, "tensors '%.*s' and '%.*s' overlap", LMI_SHOW(last->name),
                            LMI_SHOW(sorted[i]->name));
    free(sorted);
    return rc;
}

/* ---- header */

static int read_version(struct reader *r, struct lmi_gguf_header *h)
{
    lm_cur_bytes(&r->c, 4); /* the magic, which the probe has seen */
    uint32_t v = lm_cur_u32(&r->c);

    if (r->c.failed)
        return ends_early(r, "the header");
    if (v != 0 && (v & 0xffff) == 0) {
        h->big_endian = r->c.big_endian = true;
        v = __builtin_bswap32(v);
    }
    if (v < 1 || v > 3)
        return lm_err_set(r->e, LM_UNSUPPORTED, "GGUF version %u; versions 1, 2 and 3 are known", v);
    h->version = v;
    r->v1 = v == 1;
    return 0;
}

int lmi_gguf_header_read(struct lmi_gguf_header *h, struct lm_span file, struct lm_meta *meta, struct lm_arena *arena,
                         struct lm_err *e)
{
    struct reader r = {.c = lm_cursor_of(file), .arena = arena, .meta = meta, .e = e};

    if (file.size < 4 || memcmp(file.data, "GGUF", 4) != 0)
        return lm_err_set(e, LM_MALFORMED, "does not begin with 'GGUF'");
    if (read_version(&r, h) < 0)
        return -1;
    uint64_t n_tensors = read_count(&r), n_kv = read_count(&r);
    if (r.c.failed)
        return ends_early(&r, "the header");
    if (read_pairs(&r, n_kv) < 0 || read_alignment(&r, &h->alignment) < 0 || read_tensors(&r, h, n_tensors) < 0 ||
        check_overlap(&r, h) < 0)
        return -1;
    if (!lm_align_up_u64(r.c.pos, h->alignment, &h->data_start))
        return lm_err_set(e, LM_LIMIT, "the header is too long");
    return 0;
}

void lmi_gguf_header_free(struct lmi_gguf_header *h)
{
    free(h->tensors);
}
