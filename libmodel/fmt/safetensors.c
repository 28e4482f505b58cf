/* safetensors: https://github.com/huggingface/safetensors#format
 *
 *   u64 n (little-endian, <= 100 000 000)
 *   n bytes of JSON that begin with '{', padded with spaces:
 *     { "__metadata__": {string: string}, NAME: {"dtype", "shape", "data_offsets": [begin, end)}, … }
 *   tensor data; offsets count from here
 *
 * The tensors cover the data without holes or overlaps (so nothing can hide
 * between them); tensors of no bytes may share an offset. Duplicate keys are
 * refused, also when one of them is written with escapes. The specification
 * says that the header begins with '{': white space before it is refused. */
#include "libmodel/fmt/safetensors.h"

#include <stdlib.h>

#include "libmodel/fmt/shards.h"
#include "libmodel/parse/pull.h"

/* In the reference implementation's order, by alignment. */
static const struct {
    const char *name;
    enum lm_dtype dtype;
} wire[] = {
    {"BOOL", LM_BOOL},
    {"F4", LM_F4},
    {"F6_E2M3", LM_F6_E2M3},
    {"F6_E3M2", LM_F6_E3M2},
    {"U8", LM_U8},
    {"I8", LM_I8},
    {"F8_E5M2", LM_F8_E5M2},
    {"F8_E4M3", LM_F8_E4M3},
    {"F8_E8M0", LM_F8_E8M0},
    {"F8_E4M3FNUZ", LM_F8_E4M3FNUZ},
    {"F8_E5M2FNUZ", LM_F8_E5M2FNUZ},
    {"I16", LM_I16},
    {"U16", LM_U16},
    {"F16", LM_F16},
    {"BF16", LM_BF16},
    {"I32", LM_I32},
    {"U32", LM_U32},
    {"F32", LM_F32},
    {"C64", LM_C64},
    {"F64", LM_F64},
    {"I64", LM_I64},
    {"U64", LM_U64},
};
enum { N_WIRE = sizeof wire / sizeof wire[0] };

int lmi_st_dtype_rank(enum lm_dtype d)
{
    for (int i = 0; i < N_WIRE; i++)
        if (wire[i].dtype == d)
            return i;
    return -1;
}

const char *lmi_st_dtype_name(enum lm_dtype d)
{
    int rank = lmi_st_dtype_rank(d);
    return rank < 0 ? NULL : wire[rank].name;
}

static bool can_store(enum lm_dtype d)
{
    return lmi_st_dtype_rank(d) >= 0;
}

/* ---- the JSON text */

static int read_dtype(struct lmi_pull *p, struct lmi_st_entry *t)
{
    struct lm_span s;

    if (lmi_pull_string(p, &s) < 0)
        return -1;
    for (int i = 0; i < N_WIRE; i++) {
        if (lm_span_eq(s, lm_span_str(wire[i].name))) {
            t->dtype = wire[i].dtype;
            return 0;
        }
    }
    return lm_err_set(p->e, LM_UNSUPPORTED, "dtype '%.*s' is not one of safetensors' types", LMI_SHOW(s));
}

static int read_shape(struct lmi_pull *p, struct lmi_st_entry *t)
{
    size_t n = 0;
    int rc;

    while ((rc = lmi_pull_element(p, &n)) == 1) {
        if (n > LM_MAX_DIMS)
            return lm_err_set(p->e, LM_LIMIT, "more than %d dimensions", LM_MAX_DIMS);
        if (lmi_pull_u64(p, &t->shape[n - 1]) < 0)
            return -1;
        t->n_dims = (unsigned)n;
    }
    return rc;
}

static int read_offsets(struct lmi_pull *p, struct lmi_st_entry *t)
{
    uint64_t v[2] = {0, 0};
    size_t n = 0;
    int rc;

    while ((rc = lmi_pull_element(p, &n)) == 1) {
        if (n > 2)
            return lmi_pull_fail(p, "data_offsets has more than two numbers");
        if (lmi_pull_u64(p, &v[n - 1]) < 0)
            return -1;
    }
    if (rc == 0 && n != 2)
        return lmi_pull_fail(p, "data_offsets must be two numbers");
    if (rc == 0 && v[1] < v[0])
        return lm_err_set(p->e, LM_MALFORMED, "data_offsets [%llu, %llu] end before they begin",
                          (unsigned long long)v[0], (unsigned long long)v[1]);
    t->begin = v[0];
    t->end = v[1];
    return rc;
}

static const struct field {
    const char *key;
    int (*read)(struct lmi_pull *p, struct lmi_st_entry *t);
} fields[] = {{"dtype", read_dtype}, {"shape", read_shape}, {"data_offsets", read_offsets}};
enum { N_FIELDS = 3 };

static int read_field(struct lmi_pull *p, struct lm_span key, struct lmi_st_entry *t, unsigned *seen)
{
    for (unsigned i = 0; i < N_FIELDS; i++) {
        if (!lm_span_eq(key, lm_span_str(fields[i].key)))
            continue;
        if (*seen & 1u << i)
            return lm_err_set(p->e, LM_MALFORMED, "key '%s' appears twice", fields[i].key);
        *seen |= 1u << i;
        return fields[i].read(p, t);
    }
    return lm_err_set(p->e, LM_MALFORMED, "unknown key '%.*s' (dtype, shape and data_offsets are expected)",
                      LMI_SHOW(key));
}

static int read_entry(struct lmi_pull *p, struct lmi_st_entry *t)
{
    struct lm_span key;
    unsigned seen = 0;
    size_t n = 0;
    int rc;

    while ((rc = lmi_pull_member(p, &n, &key)) == 1)
        if (read_field(p, key, t, &seen) < 0)
            return -1;
    for (unsigned i = 0; rc == 0 && i < N_FIELDS; i++)
        if (!(seen & 1u << i))
            return lm_err_set(p->e, LM_MALFORMED, "key '%s' is missing", fields[i].key);
    return rc;
}

static int read_metadata(struct lmi_pull *p, struct lm_meta *meta)
{
    struct lm_map *seen = lm_map_new(0); /* meta may hold another shard's keys */
    struct lm_span key, value;
    size_t n = 0;
    int rc = seen ? 1 : lmi_nomem(p->e);

    while (rc == 1 && (rc = lmi_pull_member(p, &n, &key)) == 1) {
        if (lmi_pull_string(p, &value) < 0)
            rc = lm_err_prefix(p->e, "__metadata__ '%.*s'", LMI_SHOW(key));
        else if (lm_map_put(seen, key, 0) != 1)
            rc = lm_err_set(p->e, LM_MALFORMED, "__metadata__: key '%.*s' appears twice", LMI_SHOW(key));
        else if (key.size == 0 || memchr(key.data, 0, key.size))
            rc = lm_err_set(p->e, LM_MALFORMED, "__metadata__: key '%.*s' is empty or holds a NUL", LMI_SHOW(key));
        else if (n > LMI_MAX_META)
            rc = lm_err_set(p->e, LM_LIMIT, "__metadata__ has more than %d keys", LMI_MAX_META);
        else if (meta) {
            char *name = lm_arena_str(p->arena, key);
            if (!name || (!lm_meta_get(meta, name) && lm_meta_set_str(meta, name, value) < 0))
                rc = lmi_nomem(p->e);
        }
    }
    lm_map_free(seen);
    return rc;
}

static struct lmi_st_entry *add_entry(struct lmi_st_header *h)
{
    if (h->n == h->capacity) {
        size_t capacity = h->capacity ? h->capacity * 2 : 64;
        struct lmi_st_entry *bigger = reallocarray(h->entries, capacity, sizeof *bigger);
        if (!bigger)
            return NULL;
        h->entries = bigger;
        h->capacity = capacity;
    }
    struct lmi_st_entry *t = &h->entries[h->n];
    memset(t, 0, sizeof *t);
    return t;
}

static int read_member(struct lmi_st_header *h, struct lmi_pull *p, struct lm_span key, struct lm_meta *meta)
{
    int put = lm_map_put(h->by_name, key, h->n);

    if (put < 0)
        return lmi_nomem(p->e);
    if (put == 0)
        return lm_err_set(p->e, LM_MALFORMED, "key '%.*s' appears twice in the header", LMI_SHOW(key));
    if (lm_span_eq(key, lm_span_str("__metadata__")))
        return read_metadata(p, meta);
    struct lmi_st_entry *t = add_entry(h);
    if (!t)
        return lmi_nomem(p->e);
    t->name = key;
    h->n++;
    return read_entry(p, t) < 0 ? lm_err_prefix(p->e, "tensor '%.*s'", LMI_SHOW(key)) : 0;
}

/* ---- the data */

static int by_offset(const void *a, const void *b)
{
    const struct lmi_st_entry *x = a, *y = b;

    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

/* entries lie in order: which is the first that is not whole? */
static int cut_short(const struct lmi_st_header *h, uint64_t end, uint64_t n_data, struct lm_err *e)
{
    size_t i = 0;

    while (h->entries[i].end <= n_data)
        i++;
    return lm_err_set(e, LM_MALFORMED, "the header describes %llu bytes of tensor data, the file has %llu: %llu bytes are missing, "
                      "from tensor '%.*s' on (%zu of %zu tensors are not whole); it is cut short or not completely downloaded",
                      (unsigned long long)end, (unsigned long long)n_data, (unsigned long long)(end - n_data),
                      LMI_SHOW(h->entries[i].name), h->n - i, h->n);
}

static int check_coverage(const struct lmi_st_header *h, uint64_t n_data, struct lm_err *e)
{
    uint64_t pos = 0;

    for (size_t i = 0; i < h->n; i++) {
        const struct lmi_st_entry *t = &h->entries[i];
        if (t->begin < pos)
            return lm_err_set(e, LM_MALFORMED, "tensor '%.*s' begins at %llu, inside the tensor that ends at %llu: "
                              "tensors overlap", LMI_SHOW(t->name), (unsigned long long)t->begin,
                              (unsigned long long)pos);
        if (t->begin > pos)
            return lm_err_set(e, LM_MALFORMED, "tensor '%.*s' begins at %llu, %llu bytes before it belong to no tensor",
                              LMI_SHOW(t->name), (unsigned long long)t->begin, (unsigned long long)(t->begin - pos));
        pos = t->end;
    }
    if (pos > n_data)
        return cut_short(h, pos, n_data, e);
    if (pos < n_data)
        return lm_err_set(e, LM_MALFORMED, "%llu bytes after the last tensor belong to no tensor",
                          (unsigned long long)(n_data - pos));
    return 0;
}

int lmi_st_header_read(struct lmi_st_header *h, struct lm_span text, uint64_t n_data, struct lm_meta *meta,
                       struct lm_err *e)
{
    struct lmi_pull p;
    struct lm_span key;
    size_t n = 0;
    int rc;

    if (text.size == 0 || text.data[0] != '{')
        return lm_err_set(e, LM_MALFORMED, "the header does not begin with '{'");
    h->by_name = lm_map_new(text.size / 128);
    if (!h->by_name)
        return lmi_nomem(e);
    rc = lmi_pull_begin(&p, text, &h->arena, e);
    while (rc == 0 && (rc = lmi_pull_member(&p, &n, &key)) == 1)
        rc = read_member(h, &p, key, meta);
    if (rc < 0 || lmi_pull_end(&p) < 0)
        return lm_err_prefix(e, "header");
    lm_map_free(h->by_name); /* done with, and large */
    h->by_name = NULL;
    if (h->n)
        qsort(h->entries, h->n, sizeof *h->entries, by_offset);
    return check_coverage(h, n_data, e);
}

void lmi_st_header_free(struct lmi_st_header *h)
{
    lm_map_free(h->by_name);
    lm_arena_free(&h->arena);
    free(h->entries);
}

/* ---- a file */

static int header_text(struct lm_span file, struct lm_span *text, struct lm_err *e)
{
    struct lm_cursor c = lm_cursor_of(file);
    uint64_t n = lm_cur_u64(&c);

    if (c.failed)
        return lm_err_set(e, LM_MALFORMED, "only %zu bytes; a safetensors file begins with 8 bytes that give the length "
                          "of its header", file.size);
    if (n > LMI_ST_MAX_HEADER)
        return lm_err_set(e, LM_MALFORMED, "header length %llu is over the limit of %d", (unsigned long long)n,
                          LMI_ST_MAX_HEADER);
    *text = lm_cur_bytes(&c, n);
    if (c.failed)
        return lm_err_set(e, LM_MALFORMED, "the header of %llu bytes ends beyond the file of %zu bytes: it is cut short "
                          "or not completely downloaded", (unsigned long long)n, file.size);
    return 0;
}

static int add_tensors(struct lm_model *m, size_t file, const struct lmi_st_header *h, uint64_t data_start,
                       struct lm_err *e)
{
    for (size_t i = 0; i < h->n; i++) {
        const struct lmi_st_entry *s = &h->entries[i];
        struct lm_tensor t = {.dtype = s->dtype,
                              .n_dims = s->n_dims,
                              .n_bytes = s->end - s->begin,
                              .file = file,
                              .offset = data_start + s->begin};
        memcpy(t.shape, s->shape, sizeof t.shape);
        if (lm_model_add_tensor(m, s->name, &t, e) < 0)
            return -1;
    }
    return 0;
}

int lmi_st_read_file(struct lm_model *m, const char *path, struct lm_err *e)
{
    struct lmi_st_header h = {0};
    struct lm_span text;
    size_t file;

    if (lm_model_add_file(m, path, &file, e) < 0)
        return -1;
    struct lm_span map = m->files[file].map;
    int rc = header_text(map, &text, e);
    if (rc == 0) {
        uint64_t data_start = 8 + (uint64_t)text.size;
        rc = lmi_st_header_read(&h, text, map.size - data_start, m->meta, e);
        if (rc == 0)
            rc = add_tensors(m, file, &h, data_start, e);
    }
    lmi_st_header_free(&h);
    return rc < 0 ? lm_err_prefix(e, "%s", path) : 0;
}

/* ---- the format */

static int probe(struct lm_span f, const char *path)
{
    if (lmi_index_kind(f, path) == LMI_INDEX_SAFETENSORS)
        return 80;
    int by_name = lmi_has_suffix(path, ".safetensors") ? 10 : 0;
    if (f.size < 9 || f.data[8] != '{')
        return by_name;
    return lm_load_u64le(f.data) <= LMI_ST_MAX_HEADER ? 90 : by_name;
}

static int read_path(struct lm_model *m, const char *path, struct lm_err *e)
{
    return lmi_has_suffix(path, ".index.json") ? lmi_read_index(m, path, &lm_format_safetensors, lmi_st_read_file, e)
                                               : lmi_st_read_file(m, path, e);
}

const struct lm_format lm_format_safetensors = {
    .name = "safetensors",
    .title = "safetensors",
    .probe = probe,
    .read = read_path,
    .layout = lmi_st_layout,
    .can_store = can_store,
};
