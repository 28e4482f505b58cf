/* NumPy: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
 *
 *   .npy: 0x93 "NUMPY", version (1.0: u16, 2.0 and 3.0: u32 length of the header),
 *         a Python dict {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4)},
 *         padded with spaces to 64, then the data
 *   .npz: a zip of NAME.npy, stored or deflated
 *
 * Big-endian data are swapped when read; those in Fortran's order are copied
 * in ours. BF16 has no type of its own: it is the void type of two bytes.
 * Members named libmodel.* carry metadata and small files: libmodel/format.h.
 * Writing is in npz_write.c. */
#include "libmodel/fmt/npz.h"

#include <stdlib.h>

#include "libmodel/fmt/carried.h"
#include "libmodel/fmt/views.h"
#include "libmodel/parse/npy.h"
#include "libmodel/parse/zip.h"

/* Data that must be exactly what the header says. */
static int set_view(struct lmi_view *v, const struct lmi_npy *h, struct lmi_blob *b, struct lm_err *e)
{
    uint64_t n_elems, n_bytes, stride = 1;

    v->dtype = h->dtype;
    v->big_endian = h->big_endian;
    v->n_dims = h->n_dims;
    memcpy(v->shape, h->shape, sizeof v->shape);
    v->blob = b;
    if (lmi_tensor_measure(v->name, v->dtype, v->shape, v->n_dims, &n_elems, &n_bytes, e) < 0)
        return -1;
    if (n_bytes != b->n_bytes)
        return lm_err_set(e, LM_MALFORMED, "tensor '%.*s': its header describes %llu bytes of data, %llu are there",
                          LMI_SHOW(v->name), (unsigned long long)n_bytes, (unsigned long long)b->n_bytes);
    lmi_view_row_major(v);
    for (unsigned i = 0; h->fortran && i < v->n_dims; i++) {
        v->stride[i] = stride;
        stride *= v->shape[i];
    }
    return 0;
}

/* ---- one array */

static int read_npy(struct lm_model *m, const char *path, struct lm_err *e)
{
    const char *base = lmi_base_name(path);
    struct lmi_view v = {.name = lm_span_str(base)};
    struct lmi_npy h;
    struct lmi_blob *b = lm_arena_alloc(&m->arena, sizeof *b);
    size_t file;

    if (!b)
        return lmi_nomem(e);
    if (lm_model_add_file(m, path, &file, e) < 0)
        return -1;
    struct lm_span map = m->files[file].map;
    if (lmi_has_suffix(base, ".npy"))
        v.name.size -= 4;
    int rc = lmi_npy_read(&h, map, e);
    if (rc == 0) {
        *b = (struct lmi_blob){.file = file, .offset = h.n_head, .n_stored = map.size - h.n_head,
                               .n_bytes = map.size - h.n_head};
        rc = set_view(&v, &h, b, e);
    }
    if (rc == 0)
        rc = lmi_views_add(m, &v, 1, m->files[file].path, e);
    return rc < 0 ? lm_err_prefix(e, "%s", path) : 0;
}

/* ---- an archive */

/* The header of a member, deflated or not. */
static int read_head(struct lmi_npy *h, const struct lmi_zip *z, const struct lmi_zip_entry *x, struct lm_err *e)
{
    uint8_t first[LMI_NPY_FIRST];
    size_t n_first = x->n_bytes < sizeof first ? (size_t)x->n_bytes : sizeof first, n_head;

    if (!x->deflated)
        return lmi_npy_read(h, lm_span_of(z->file.data + x->data, (size_t)x->n_stored), e);
    if (lmi_zip_read(z, x, first, n_first, e) < 0 || lmi_npy_measure(&n_head, lm_span_of(first, n_first), e) < 0)
        return -1;
    if (n_head > x->n_bytes)
        return lm_err_set(e, LM_MALFORMED, "the array's header is cut short");
    uint8_t *head = malloc(n_head);
    if (!head)
        return lmi_nomem(e);
    int rc = lmi_zip_read(z, x, head, n_head, e);
    if (rc == 0)
        rc = lmi_npy_read(h, lm_span_of(head, n_head), e);
    free(head);
    return rc;
}

static int add_member(struct lm_model *m, size_t file, const struct lmi_zip *z, const struct lmi_zip_entry *x,
                      struct lmi_view_list *list, struct lm_err *e)
{
    struct lmi_blob *b = lm_arena_alloc(&m->arena, sizeof *b);
    struct lmi_view *v = lmi_view_new(list);
    struct lmi_npy h;

    if (!b || !v)
        return lmi_nomem(e);
    if (x->name.size <= 4 || memcmp(x->name.data + x->name.size - 4, ".npy", 4) != 0)
        return lm_err_set(e, LM_MALFORMED, "zip member '%.*s' is no NumPy array", LMI_SHOW(x->name));
    v->name = lm_span_of(x->name.data, x->name.size - 4);
    if (read_head(&h, z, x, e) < 0)
        return lm_err_prefix(e, "tensor '%.*s'", LMI_SHOW(v->name));
    *b = (struct lmi_blob){.file = file, .offset = x->data, .n_stored = x->n_stored, .n_bytes = x->n_bytes - h.n_head,
                           .crc = x->crc, .deflated = x->deflated, .skip = h.n_head};
    if (!x->deflated) {
        b->offset += h.n_head;
        b->n_stored -= h.n_head;
        b->skip = 0;
    }
    return set_view(v, &h, b, e);
}

/* ---- what is carried */

static struct lm_span array_name(const struct lmi_zip_entry *x)
{
    return lm_span_of(x->name.data, x->name.size > 4 ? x->name.size - 4 : 0);
}

/* Deflated ones are inflated at once: a bomb must not be. */
static int member_bytes(struct lm_model *m, const struct lmi_zip *z, const struct lmi_zip_entry *x, struct lm_span *out,
                        struct lm_err *e)
{
    uint64_t limit = (UINT64_C(16) << 20) + 3 * (uint64_t)z->file.size;
    uint8_t *data;

    *out = lm_span_of(z->file.data + x->data, (size_t)x->n_stored);
    if (!x->deflated)
        return 0;
    if (x->n_bytes > limit || m->arena.used > limit - x->n_bytes)
        return lm_err_set(e, LM_LIMIT, "it inflates from %llu to %llu bytes: refused", (unsigned long long)x->n_stored,
                          (unsigned long long)x->n_bytes);
    data = lm_arena_alloc(&m->arena, (size_t)x->n_bytes + 1);
    if (!data)
        return lmi_nomem(e);
    *out = lm_span_of(data, (size_t)x->n_bytes);
    return lmi_zip_read(z, x, data, x->n_bytes, e);
}

static int read_carried(struct lm_model *m, const struct lmi_zip *z, const struct lmi_zip_entry *x, struct lm_err *e)
{
    struct lm_span bytes;
    struct lmi_npy h;

    if (member_bytes(m, z, x, &bytes, e) < 0 || lmi_npy_read(&h, bytes, e) < 0)
        return -1;
    bytes = lm_span_of(bytes.data + h.n_head, bytes.size - h.n_head);
    if (h.dtype != LM_U8 || h.n_dims != 1 || h.shape[0] != bytes.size)
        return lm_err_set(e, LM_MALFORMED, "expected a one-dimensional array of its %zu bytes", bytes.size);
    return lmi_carried_read(m, array_name(x), bytes, e);
}

/* libmodel.meta first: it knows the order of all. */
static int read_all_carried(struct lm_model *m, const struct lmi_zip *z, struct lm_err *e)
{
    for (int first = 1; first >= 0; first--)
        for (size_t i = 0; i < z->n; i++) {
            const struct lmi_zip_entry *x = &z->entries[i];
            struct lm_span name = array_name(x);
            if (lmi_is_carried(name) && lmi_is_carried_meta(name) == first && read_carried(m, z, x, e) < 0)
                return lm_err_prefix(e, "'%.*s'", LMI_SHOW(x->name));
        }
    return 0;
}

static int read_members(struct lm_model *m, size_t file, const struct lmi_zip *z, struct lmi_view_list *list,
                        struct lm_err *e)
{
    for (size_t i = 0; i < z->n; i++)
        if (!lmi_is_carried(array_name(&z->entries[i])) && add_member(m, file, z, &z->entries[i], list, e) < 0)
            return -1;
    return 0;
}

static int read_npz(struct lm_model *m, const char *path, struct lm_err *e)
{
    struct lmi_view_list list = {0};
    struct lmi_zip z = {0};
    size_t file;

    if (lm_model_add_file(m, path, &file, e) < 0)
        return -1;
    int rc = lmi_zip_open(&z, m->files[file].map, e);
    if (rc == 0)
        rc = read_members(m, file, &z, &list, e);
    if (rc == 0)
        rc = read_all_carried(m, &z, e);
    if (rc == 0)
        rc = lmi_views_add(m, list.v, list.n, m->files[file].path, e);
    lmi_zip_close(&z);
    free(list.v);
    return rc < 0 ? lm_err_prefix(e, "%s", path) : 0;
}

/* ---- the formats */

static int probe_npy(struct lm_span f, const char *path)
{
    (void)path;
    return f.size >= 6 && memcmp(f.data, "\x93NUMPY", 6) == 0 ? 100 : 0;
}

static int probe_npz(struct lm_span f, const char *path)
{
    (void)path;
    return lmi_zip_kind(f) == LMI_ZIP_NPZ ? 90 : 0;
}

static bool can_store(enum lm_dtype d)
{
    return lmi_npy_descr(d) != NULL;
}

const struct lm_format lm_format_npy = {
    .name = "npy",
    .title = "NumPy array",
    .probe = probe_npy,
    .read = read_npy,
};

const struct lm_format lm_format_npz = {
    .name = "npz",
    .title = "NumPy .npz",
    .probe = probe_npz,
    .read = read_npz,
    .layout = lmi_npz_layout,
    .finish = lmi_npz_finish,
    .can_store = can_store,
    .carries = true,
};
