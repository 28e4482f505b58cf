/* What the writers share: a growing buffer, sizes, and the cut into files. */
#include <stdio.h>
#include <stdlib.h>

#include "libmodel/fmt/fmt.h"

void lmi_put(struct lmi_buffer *b, const void *data, size_t n)
{
    if (b->failed || n == 0)
        return;
    if (n > b->capacity - b->n) {
        size_t capacity = b->capacity ? b->capacity : 1024;
        while (capacity - b->n < n && capacity <= SIZE_MAX / 2)
            capacity *= 2;
        uint8_t *bigger = capacity - b->n < n ? NULL : realloc(b->data, capacity);
        if (!bigger) {
            b->failed = true;
            return;
        }
        b->data = bigger;
        b->capacity = capacity;
    }
    memcpy(b->data + b->n, data, n);
    b->n += n;
}

void lmi_put_str(struct lmi_buffer *b, const char *s)
{
    lmi_put(b, s, strlen(s));
}

void lmi_put_u16(struct lmi_buffer *b, uint16_t v)
{
    uint8_t bytes[2];
    lm_store_u16le(bytes, v);
    lmi_put(b, bytes, sizeof bytes);
}

void lmi_put_u32(struct lmi_buffer *b, uint32_t v)
{
    uint8_t bytes[4];
    lm_store_u32le(bytes, v);
    lmi_put(b, bytes, sizeof bytes);
}

void lmi_put_u64(struct lmi_buffer *b, uint64_t v)
{
    uint8_t bytes[8];
    lm_store_u64le(bytes, v);
    lmi_put(b, bytes, sizeof bytes);
}

void lmi_put_fill(struct lmi_buffer *b, uint8_t byte, size_t n)
{
    for (size_t i = 0; i < n; i++)
        lmi_put(b, &byte, 1);
}

/* As serde_json escapes: only what must be. */
void lmi_put_json_string(struct lmi_buffer *b, struct lm_span s)
{
    static const char plain[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
    char escape[8];
    size_t begin = 0;

    lmi_put_str(b, "\"");
    for (size_t i = 0; i < s.size; i++) {
        uint8_t c = s.data[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        lmi_put(b, s.data + begin, i - begin);
        begin = i + 1;
        const char *at = c ? strchr(plain, c) : NULL;
        if (at)
            snprintf(escape, sizeof escape, "\\%c", letter[at - plain]);
        else
            snprintf(escape, sizeof escape, "\\u%04x", c);
        lmi_put_str(b, escape);
    }
    lmi_put(b, s.data + begin, s.size - begin);
    lmi_put_str(b, "\"");
}

void lmi_put_number(struct lmi_buffer *b, uint64_t v)
{
    char text[24];

    snprintf(text, sizeof text, "%llu", (unsigned long long)v);
    lmi_put_str(b, text);
}

static int check_distinct(const struct lm_write_spec *spec, struct lm_err *e)
{
    struct lm_map *seen = lm_map_new(spec->n_tensors);
    int rc = seen ? 0 : lmi_nomem(e);

    for (size_t i = 0; rc == 0 && i < spec->n_tensors; i++) {
        struct lm_span name = lm_span_str(spec->tensors[i].name);
        int put = lm_map_put(seen, name, i);
        if (put < 0)
            rc = lmi_nomem(e);
        else if (put == 0)
            rc = lm_err_set(e, LM_MISMATCH, "two tensors to write have the name '%.*s'", LMI_SHOW(name));
        else if (name.size == 0 || !lm_utf8_valid(name))
            rc = lm_err_set(e, LM_USAGE, "tensor '%.*s': a name must be UTF-8 and not empty", LMI_SHOW(name));
    }
    lm_map_free(seen);
    return rc;
}

uint64_t *lmi_layout_sizes(const struct lm_write_spec *spec, const struct lm_format *f, struct lm_err *e)
{
    uint64_t *sizes = calloc(spec->n_tensors + 1, sizeof *sizes), n_elems;

    if (!sizes) {
        lmi_nomem(e);
        return NULL;
    }
    int rc = check_distinct(spec, e);
    for (size_t i = 0; rc == 0 && i < spec->n_tensors; i++) {
        const struct lm_write_tensor *t = &spec->tensors[i];
        if (!f->can_store(t->dtype))
            rc = lm_err_set(e, LM_UNSUPPORTED, "tensor '%.200s': %s cannot store %s", t->name, f->title,
                            lm_dtype_name(t->dtype));
        else
            rc = lmi_tensor_measure(lm_span_str(t->name), t->dtype, t->shape, t->n_dims, &n_elems, &sizes[i], e);
    }
    if (rc == 0)
        return sizes;
    free(sizes);
    return NULL;
}

int lmi_layout_split(struct lm_layout *out, const struct lm_write_spec *spec, const uint64_t *sizes, struct lm_err *e)
{
    uint64_t used = 0;
    size_t file = 0;

    out->places = calloc(spec->n_tensors + 1, sizeof *out->places);
    if (!out->places)
        return lmi_nomem(e);
    for (size_t i = 0; i < spec->n_tensors; i++) {
        uint64_t with = 0;
        bool fits = lm_add_u64(used, sizes[i], &with);
        if (!fits && !spec->max_file_bytes)
            return lm_err_set(e, LM_LIMIT, "the tensors together overflow 64 bits");
        if (spec->max_file_bytes && used > 0 && (!fits || with > spec->max_file_bytes)) {
            file++;
            used = 0;
            with = sizes[i];
        }
        out->places[i].file = file;
        used = with;
    }
    /* One more for an index. */
    out->files = calloc(file + 2, sizeof *out->files);
    if (!out->files)
        return lmi_nomem(e);
    out->n_files = file + 1;
    return 0;
}

/* ---- the index of several files */

struct named { const char *name, *file; };

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct named *)a)->name, ((const struct named *)b)->name);
}

static void put_index(struct lmi_buffer *b, const struct named *each, size_t n, uint64_t total)
{
    lmi_put_str(b, "{\n  \"metadata\": {\n    \"total_size\": ");
    lmi_put_number(b, total);
    lmi_put_str(b, "\n  },\n  \"weight_map\": {");
    for (size_t i = 0; i < n; i++) {
        lmi_put_str(b, i ? ",\n    " : "\n    ");
        lmi_put_json_string(b, lm_span_str(each[i].name));
        lmi_put_str(b, ": ");
        lmi_put_json_string(b, lm_span_str(each[i].file));
    }
    lmi_put_str(b, "\n  }\n}\n");
}

int lmi_layout_index(struct lm_layout *out, const struct lm_write_spec *spec, uint64_t total, struct lm_err *e)
{
    struct lm_layout_file *f = &out->files[out->n_files - 1];
    struct named *each = calloc(spec->n_tensors + 1, sizeof *each);
    struct lmi_buffer b = {0};

    if (!each)
        return lmi_nomem(e);
    for (size_t i = 0; i < spec->n_tensors; i++)
        each[i] = (struct named){spec->tensors[i].name, out->files[out->places[i].file].name};
    qsort(each, spec->n_tensors, sizeof *each, by_name);
    put_index(&b, each, spec->n_tensors, total);
    free(each);
    f->head = b.data;
    f->n_head = f->n_bytes = b.n;
    f->last = true;
    return b.failed ? lmi_nomem(e) : 0;
}
