/* The layout that the reference implementation writes: tensors by type (the
 * widest alignment first), then by name; header padded with spaces to 8. */
#include <stdio.h>
#include <stdlib.h>

#include "libmodel/fmt/safetensors.h"

static void put_entry(struct lmi_buffer *b, const struct lm_write_tensor *t, uint64_t begin, uint64_t end)
{
    lmi_put_json_string(b, lm_span_str(t->name));
    lmi_put_str(b, ":{\"dtype\":\"");
    lmi_put_str(b, lmi_st_dtype_name(t->dtype));
    lmi_put_str(b, "\",\"shape\":[");
    for (unsigned i = 0; i < t->n_dims; i++) {
        if (i)
            lmi_put_str(b, ",");
        lmi_put_number(b, t->shape[i]);
    }
    lmi_put_str(b, "],\"data_offsets\":[");
    lmi_put_number(b, begin);
    lmi_put_str(b, ",");
    lmi_put_number(b, end);
    lmi_put_str(b, "]}");
}

/* Only strings fit; whoever plans a conversion accounts for the others. */
static int put_metadata(struct lmi_buffer *b, const struct lm_meta *meta, bool *any, struct lm_err *e)
{
    const char *key;

    *any = false;
    for (size_t i = 0; meta && i < lm_meta_count(meta); i++) {
        const struct lm_meta_value *v = lm_meta_at(meta, i, &key);
        if (v->type != LM_META_STR)
            continue;
        if (!lm_utf8_valid(v->str) || !lm_utf8_valid(lm_span_str(key)))
            return lm_err_set(e, LM_UNSUPPORTED, "metadata '%.200s' is not UTF-8, which safetensors requires", key);
        lmi_put_str(b, *any ? "," : "\"__metadata__\":{");
        lmi_put_json_string(b, lm_span_str(key));
        lmi_put_str(b, ":");
        lmi_put_json_string(b, v->str);
        *any = true;
    }
    if (*any)
        lmi_put_str(b, "}");
    return 0;
}

/* ---- one file */

struct ordered {
    const char *name;
    int rank;
    size_t tensor;
};

static int canonical(const void *a, const void *b)
{
    const struct ordered *x = a, *y = b;

    return x->rank != y->rank ? y->rank - x->rank : strcmp(x->name, y->name);
}

/* The tensors of a file in the order they are written. They are neighbours in
 * the spec: from *next on, which moves to the next file's first. */
static size_t tensors_of_file(struct ordered *order, const struct lm_write_spec *spec, const struct lm_layout *out,
                              size_t file, size_t *next)
{
    size_t n = 0;

    for (; *next < spec->n_tensors && out->places[*next].file == file; ++*next) {
        const struct lm_write_tensor *t = &spec->tensors[*next];
        order[n++] = (struct ordered){t->name, lmi_st_dtype_rank(t->dtype), *next};
    }
    qsort(order, n, sizeof *order, canonical);
    return n;
}

static int finish_head(struct lm_layout_file *f, struct lmi_buffer *b, uint64_t n_data, struct lm_err *e)
{
    f->head = b->data;
    f->n_head = b->n;
    if (b->failed)
        return lmi_nomem(e);
    lm_store_u64le(b->data, b->n - 8);
    if (b->n - 8 > LMI_ST_MAX_HEADER)
        return lm_err_set(e, LM_LIMIT, "the header takes %zu bytes, safetensors allows %d; write several files (--split)",
                          b->n - 8, LMI_ST_MAX_HEADER);
    if (!lm_add_u64(b->n, n_data, &f->n_bytes))
        return lm_err_set(e, LM_LIMIT, "the file's size overflows 64 bits");
    return 0;
}

static int layout_file(struct lm_layout *out, const struct lm_write_spec *spec, const uint64_t *sizes, size_t file,
                       const struct ordered *order, size_t n, struct lm_err *e)
{
    struct lmi_buffer b = {0};
    uint64_t pos = 0;
    bool any;

    lmi_put_u64(&b, 0);
    lmi_put_str(&b, "{");
    if (put_metadata(&b, spec->meta, &any, e) < 0) {
        free(b.data);
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        size_t t = order[i].tensor;
        if (any || i)
            lmi_put_str(&b, ",");
        put_entry(&b, &spec->tensors[t], pos, pos + sizes[t]); /* the sum fits: lmi_layout_split */
        out->places[t].offset = pos;
        pos += sizes[t];
    }
    lmi_put_str(&b, "}");
    lmi_put_fill(&b, ' ', (8 - b.n % 8) % 8);
    for (size_t i = 0; i < n; i++)
        out->places[order[i].tensor].offset += b.n;
    return finish_head(&out->files[file], &b, pos, e);
}

/* ---- a header to reproduce */

static bool same_tensor(const struct lmi_st_entry *s, const struct lm_write_tensor *t)
{
    return s->dtype == t->dtype && s->n_dims == t->n_dims &&
           memcmp(s->shape, t->shape, t->n_dims * sizeof *t->shape) == 0;
}

/* 1 the header describes exactly these tensors and places are set from it. */
static int place_by_header(struct lm_layout *out, const struct lm_write_spec *spec, const struct lmi_st_header *h,
                           struct lm_err *e)
{
    struct lm_map *by_name = lm_map_new(h->n);
    bool same = h->n == spec->n_tensors;

    for (size_t i = 0; by_name && i < h->n; i++)
        lm_map_put(by_name, h->entries[i].name, i);
    for (size_t i = 0; by_name && same && i < spec->n_tensors; i++) {
        size_t s = lm_map_get(by_name, lm_span_str(spec->tensors[i].name));
        same = s != SIZE_MAX && same_tensor(&h->entries[s], &spec->tensors[i]);
        if (same)
            out->places[i].offset = 8 + spec->exact_header.size + h->entries[s].begin;
    }
    int rc = by_name ? same : lmi_nomem(e);
    lm_map_free(by_name);
    return rc;
}

static int layout_exact(struct lm_layout *out, const struct lm_write_spec *spec, uint64_t n_data, struct lm_err *e)
{
    struct lmi_st_header h = {0};
    struct lmi_buffer b = {0};
    struct lm_err ignored; /* a header that does not fit is no error: we write our own */

    if (spec->exact_header.size == 0 || spec->exact_header.size > LMI_ST_MAX_HEADER)
        return 0;
    int rc = lmi_st_header_read(&h, spec->exact_header, n_data, NULL, &ignored) < 0 ? 0
                                                                                    : place_by_header(out, spec, &h, e);
    lmi_st_header_free(&h);
    if (rc != 1)
        return rc;
    lmi_put_u64(&b, 0);
    lmi_put(&b, spec->exact_header.data, spec->exact_header.size);
    return finish_head(&out->files[0], &b, n_data, e) < 0 ? -1 : 1;
}

/* ---- names and index */

static char *file_name(const char *base, size_t i, size_t n)
{
    static const char suffix[] = ".safetensors";
    size_t stem = strlen(base) - (lmi_has_suffix(base, suffix) ? sizeof suffix - 1 : 0);
    char *name = NULL;

    if (n == 1)
        return strdup(base);
    int rc = i == n ? asprintf(&name, "%.*s%s.index.json", (int)stem, base, suffix)
                    : asprintf(&name, "%.*s-%05zu-of-%05zu%s", (int)stem, base, i + 1, n, suffix);
    return rc < 0 ? NULL : name;
}

/* Names the files of tensors and adds the index when there are several. */
static int name_files(struct lm_layout *out, const char *base, struct lm_err *e)
{
    size_t n = out->n_files;

    if (n > 1)
        out->n_files++;
    for (size_t i = 0; i < out->n_files; i++) {
        out->files[i].name = file_name(base, i, n);
        if (!out->files[i].name)
            return lmi_nomem(e);
    }
    return 0;
}

static int layout_all(struct lm_layout *out, const struct lm_write_spec *spec, const uint64_t *sizes,
                      struct ordered *order, const char *base, struct lm_err *e)
{
    uint64_t total = 0;
    size_t next = 0;

    if (lmi_layout_split(out, spec, sizes, e) < 0)
        return -1;
    size_t n_data_files = out->n_files;
    if (name_files(out, base, e) < 0)
        return -1;
    for (size_t i = 0; i < spec->n_tensors; i++)
        if (!lm_add_u64(total, sizes[i], &total))
            return lm_err_set(e, LM_LIMIT, "the tensors together overflow 64 bits");
    int exact = n_data_files == 1 ? layout_exact(out, spec, total, e) : 0;
    if (exact != 0)
        return exact < 0 ? -1 : 0;
    for (size_t f = 0; f < n_data_files; f++) {
        size_t n = tensors_of_file(order, spec, out, f, &next);
        if (layout_file(out, spec, sizes, f, order, n, e) < 0)
            return -1;
    }
    return n_data_files > 1 ? lmi_layout_index(out, spec, total, e) : 0;
}

int lmi_st_layout(struct lm_layout *out, const struct lm_write_spec *spec, const char *base, struct lm_err *e)
{
    *out = (struct lm_layout){0};
    uint64_t *sizes = lmi_layout_sizes(spec, &lm_format_safetensors, e);
    struct ordered *order = calloc(spec->n_tensors + 1, sizeof *order);
    int rc = -1;

    if (!order)
        lmi_nomem(e);
    else if (sizes)
        rc = layout_all(out, spec, sizes, order, base, e);
    free(order);
    free(sizes);
    if (rc < 0)
        lm_layout_free(out);
    return rc;
}
