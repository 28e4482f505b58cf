/* A GGUF file, or all the parts of a split set, as one model. */
#include <stdio.h>
#include <stdlib.h>

#include "libmodel/fmt/gguf.h"
#include "libmodel/fmt/shards.h"

struct part {
    struct lmi_gguf_header header;
    size_t file;
    uint64_t no, count, n_tensors_of_set; /* split.*; count 0: not split */
};

static int read_split_keys(struct part *p, const struct lm_meta *meta, struct lm_err *e)
{
    p->n_tensors_of_set = UINT64_MAX;
    if (lm_meta_get_u64(meta, "split.count", &p->count, e) < 0 || lm_meta_get_u64(meta, "split.no", &p->no, e) < 0 ||
        lm_meta_get_u64(meta, "split.tensors.count", &p->n_tensors_of_set, e) < 0)
        return -1;
    return 0;
}

static int open_part(struct lm_model *m, const char *path, struct lm_meta *meta, struct part *p, struct lm_err *e)
{
    *p = (struct part){0};
    if (lm_model_add_file(m, path, &p->file, e) < 0)
        return -1;
    if (lmi_gguf_header_read(&p->header, m->files[p->file].map, meta, &m->arena, e) < 0 ||
        read_split_keys(p, meta, e) < 0) {
        lmi_gguf_header_free(&p->header);
        return lm_err_prefix(e, "%s", path);
    }
    return 0;
}

/* Where the data should end and, when the file is shorter, the first tensor that
 * is not whole, and how many are not. */
static uint64_t data_end(const struct lmi_gguf_header *h, uint64_t file_size, const struct lmi_gguf_tensor **first,
                         size_t *n_cut)
{
    uint64_t last = h->data_start;

    *first = NULL;
    *n_cut = 0;
    for (size_t i = 0; i < h->n_tensors; i++) {
        const struct lmi_gguf_tensor *t = &h->tensors[i];
        uint64_t end = UINT64_MAX;
        if (!lm_add_u64(h->data_start, t->offset, &end) || !lm_add_u64(end, t->n_bytes, &end))
            end = UINT64_MAX;
        last = end > last ? end : last;
        if (end <= file_size)
            continue;
        *first = *first && (*first)->offset <= t->offset ? *first : t;
        ++*n_cut;
    }
    return last;
}

/* What follows the last tensor is padding, or nobody's. */
static int check_end(struct lm_model *m, const struct part *p, struct lm_err *e)
{
    const struct lmi_gguf_tensor *first;
    uint64_t size = m->files[p->file].map.size;
    size_t n_cut;
    uint64_t end = data_end(&p->header, size, &first, &n_cut);
    char text[120];

    if (first && n_cut > 1)
        return lm_err_set(e, LM_MALFORMED, "tensor '%.*s' and %zu more end beyond the file of %llu bytes: %llu bytes are missing, "
                          "it is cut short or not completely downloaded", LMI_SHOW(first->name), n_cut - 1,
                          (unsigned long long)size, (unsigned long long)(end - size));
    if (first)
        return lm_err_set(e, LM_MALFORMED, "tensor '%.*s': its data (%llu bytes at %llu) end beyond the file of %llu bytes: %llu "
                          "bytes are missing, it is cut short or not completely downloaded", LMI_SHOW(first->name),
                          (unsigned long long)first->n_bytes, (unsigned long long)(p->header.data_start + first->offset),
                          (unsigned long long)size, (unsigned long long)(end - size));
    if (size <= end || size - end < p->header.alignment)
        return 0;
    snprintf(text, sizeof text, "%llu bytes after the last tensor belong to no tensor", (unsigned long long)(size - end));
    return lmi_model_leave_out(m, lm_span_str(lmi_base_name(m->files[p->file].path)), lm_span_str(text), false, e);
}

static int add_tensors(struct lm_model *m, const struct part *p, struct lm_err *e)
{
    const struct lmi_gguf_header *h = &p->header;

    for (size_t i = 0; i < h->n_tensors; i++) {
        const struct lmi_gguf_tensor *g = &h->tensors[i];
        struct lm_tensor t = {.dtype = g->dtype,
                              .n_dims = g->n_dims,
                              .n_bytes = g->n_bytes,
                              .file = p->file,
                              .big_endian = h->big_endian};
        memcpy(t.shape, g->shape, sizeof g->shape);
        if (!lm_add_u64(h->data_start, g->offset, &t.offset))
            return lm_err_set(e, LM_MALFORMED, "tensor '%.*s': offset %llu overflows", LMI_SHOW(g->name),
                              (unsigned long long)g->offset);
        if (lm_model_add_tensor(m, g->name, &t, e) < 0)
            return -1;
    }
    return 0;
}

/* Adds the part's tensors and frees its header. */
static int finish_part(struct lm_model *m, struct part *p, struct lm_err *e)
{
    int rc = check_end(m, p, e) < 0 ? -1 : add_tensors(m, p, e);

    lmi_gguf_header_free(&p->header);
    return rc < 0 ? lm_err_prefix(e, "%s", m->files[p->file].path) : 0;
}

/* ---- split sets */

static char *part_path(struct lm_model *m, const char *path, size_t base_length, unsigned no, unsigned count)
{
    const char *base = lmi_base_name(path);
    size_t n = base_length + 32;
    char *name = lm_arena_alloc(&m->arena, n);

    if (!name)
        return NULL;
    snprintf(name, n, "%.*s-%05u-of-%05u.gguf", (int)base_length, base, no, count);
    return lmi_beside(&m->arena, path, name);
}

static int check_place(const struct part *p, const char *path, unsigned no, unsigned count, struct lm_err *e)
{
    if (p->count == count && p->no + 1 == no)
        return 0;
    return lm_err_set(e, LM_MISMATCH, "%s: its name says part %u of %u, its metadata (split.no %llu, split.count %llu) "
                      "say otherwise; the parts of a set must keep their names", path, no, count,
                      (unsigned long long)p->no, (unsigned long long)p->count);
}

/* Part `no`; only the first one's metadata are the model's. */
static int add_part(struct lm_model *m, const char *path, unsigned no, unsigned count, uint64_t *n_tensors,
                    struct lm_err *e)
{
    struct lm_meta *meta = no == 1 ? m->meta : lm_meta_new();
    struct part p;

    if (!meta)
        return lmi_nomem(e);
    int rc = open_part(m, path, meta, &p, e);
    if (rc < 0) {
        lm_err_prefix(e, "part %u of %u", no, count);
    } else if ((rc = check_place(&p, path, no, count, e)) < 0) {
        lmi_gguf_header_free(&p.header);
    } else {
        if (no == 1)
            *n_tensors = p.n_tensors_of_set;
        rc = finish_part(m, &p, e);
    }
    if (no != 1)
        lm_meta_free(meta);
    return rc;
}

static int read_set(struct lm_model *m, const char *path, uint64_t split_count, struct lm_err *e)
{
    size_t base_length;
    unsigned named, count;
    uint64_t n_tensors = UINT64_MAX;

    if (!lmi_gguf_split_name(lmi_base_name(path), &base_length, &named, &count))
        return lm_err_set(e, LM_USAGE, "%s: this is a part of a set of %llu files; give it its name back "
                          "(<base>-00001-of-%05llu.gguf) so that the others can be found", path,
                          (unsigned long long)split_count, (unsigned long long)split_count);
    char **parts = lm_arena_array(&m->arena, count, sizeof *parts);
    for (unsigned no = 1; parts && no <= count; no++) {
        parts[no - 1] = part_path(m, path, base_length, no, count);
        if (!parts[no - 1])
            return lmi_nomem(e);
    }
    if (!parts)
        return lmi_nomem(e);
    if (lmi_check_present(parts, count, "parts", e) < 0)
        return lm_err_prefix(e, "%s", path);
    for (unsigned no = 1; no <= count; no++)
        if (add_part(m, parts[no - 1], no, count, &n_tensors, e) < 0)
            return -1;
    if (n_tensors != UINT64_MAX && n_tensors != m->n_tensors)
        return lm_err_set(e, LM_MISMATCH, "%s: split.tensors.count is %llu, the %u parts hold %zu tensors", path,
                          (unsigned long long)n_tensors, count, m->n_tensors);
    return 0;
}

/* Forgets the file that told us about the set: parts are added in order. */
static int start_again(struct lm_model *m, struct lm_err *e)
{
    lmi_file_close(&m->files[0]);
    m->n_files = 0;
    lm_meta_free(m->meta);
    m->meta = lm_meta_new();
    return m->meta ? 0 : lmi_nomem(e);
}

int lmi_gguf_read(struct lm_model *m, const char *path, struct lm_err *e)
{
    struct part p;
    int rc;

    m->sidecar_dir = NULL;
    if (open_part(m, path, m->meta, &p, e) < 0)
        return -1;
    if (p.count <= 1) {
        rc = finish_part(m, &p, e);
    } else {
        lmi_gguf_header_free(&p.header);
        rc = start_again(m, e) < 0 ? -1 : read_set(m, path, p.count, e);
    }
    if (rc < 0)
        return -1;
    /* How the set was cut is no property of the model. */
    lm_meta_remove(m->meta, "split.no");
    lm_meta_remove(m->meta, "split.count");
    lm_meta_remove(m->meta, "split.tensors.count");
    return 0;
}
