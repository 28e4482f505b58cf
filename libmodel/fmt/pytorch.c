/* PyTorch: https://github.com/pytorch/pytorch/blob/main/docs/source/notes/serialization.rst
 *
 *   a zip; below one folder:
 *     data.pkl    a pickle; its persistent ids name storages
 *     data/KEY    the bytes of a storage, aligned to 64 by an extra field
 *     byteorder   "little" or "big"; absent in older files, which are little
 *     version, .format_version, .storage_alignment, .data/serialization_id: not needed
 *     code/, constants.pkl: a TorchScript archive; its parameters are listed
 *
 * Tensors are views of storages: offset, size and stride. Files before 1.6 are
 * in pytorch_legacy.c. */
#include "libmodel/fmt/pytorch.h"

#include <stdio.h>
#include <stdlib.h>

#include "libmodel/fmt/shards.h"
#include "libmodel/parse/zip.h"

int lmi_torch_add_blob(struct lmi_torch *t, struct lm_span key, struct lmi_blob b, struct lm_err *e)
{
    struct lmi_blob *own = lm_arena_alloc(&t->m->arena, sizeof *own);

    if (t->n_blobs == t->blobs_capacity) {
        size_t capacity = t->blobs_capacity ? t->blobs_capacity * 2 : 64;
        struct lmi_blob **bigger = reallocarray(t->blobs, capacity, sizeof *bigger);
        if (!bigger)
            return lmi_nomem(e);
        t->blobs = bigger;
        t->blobs_capacity = capacity;
    }
    if (!own)
        return lmi_nomem(e);
    *own = b;
    t->blobs[t->n_blobs] = own;
    int put = lm_map_put(t->by_key, key, t->n_blobs++);
    if (put == 0)
        return lm_err_set(e, LM_MALFORMED, "storage '%.*s' is there twice", LMI_SHOW(key));
    return put < 0 ? lmi_nomem(e) : 0;
}

/* ---- the zip */

/* "archive/" of the only "archive/data.pkl". */
static int find_folder(const struct lmi_zip *z, struct lm_span *folder, struct lm_err *e)
{
    static const char tail[] = "/data.pkl";
    size_t n_tail = sizeof tail - 1, n_found = 0;

    for (size_t i = 0; i < z->n; i++) {
        struct lm_span s = z->entries[i].name;
        if (s.size <= n_tail || memcmp(s.data + s.size - n_tail, tail, n_tail) != 0)
            continue;
        if (memchr(s.data, '/', s.size - n_tail))
            continue;
        *folder = lm_span_of(s.data, s.size - n_tail + 1);
        n_found++;
    }
    if (n_found != 1)
        return lm_err_set(e, LM_MALFORMED, "the zip holds %zu folders with a data.pkl, expected one", n_found);
    return 0;
}

static const struct lmi_zip_entry *member(const struct lmi_zip *z, struct lm_span folder, const char *name)
{
    char path[600];

    if (snprintf(path, sizeof path, "%.*s%s", (int)folder.size, (const char *)folder.data, name) >= (int)sizeof path)
        return NULL;
    return lmi_zip_find(z, path);
}

static int add_records(struct lmi_torch *t, const struct lmi_zip *z, struct lm_span folder, struct lm_err *e)
{
    for (size_t i = 0; i < z->n; i++) {
        const struct lmi_zip_entry *m = &z->entries[i];
        size_t skip = folder.size + 5;
        if (m->name.size <= skip || memcmp(m->name.data, folder.data, folder.size) != 0 ||
            memcmp(m->name.data + folder.size, "data/", 5) != 0)
            continue;
        struct lmi_blob b = {.file = t->file, .offset = m->data, .n_stored = m->n_stored, .n_bytes = m->n_bytes,
                             .crc = m->crc, .deflated = m->deflated};
        if (lmi_torch_add_blob(t, lm_span_of(m->name.data + skip, m->name.size - skip), b, e) < 0)
            return -1;
    }
    return 0;
}

static int read_byte_order(struct lmi_torch *t, const struct lmi_zip *z, struct lm_span folder, struct lm_err *e)
{
    const struct lmi_zip_entry *m = member(z, folder, "byteorder");
    uint8_t text[8];

    if (!m)
        return 0;
    size_t n = m->n_bytes <= sizeof text ? (size_t)m->n_bytes : 0;
    if (lmi_zip_read(z, m, text, n, e) < 0)
        return -1;
    struct lm_span s = lm_span_of(text, n);
    t->big_endian = lm_span_eq(s, lm_span_str("big"));
    return t->big_endian || lm_span_eq(s, lm_span_str("little"))
               ? 0
               : lm_err_set(e, LM_MALFORMED, "byteorder is neither 'little' nor 'big'");
}

/* The pickle in place, or inflated into the reader's arena. */
static int pickle_bytes(struct lmi_torch *t, const struct lmi_zip *z, const struct lmi_zip_entry *m, struct lm_span *out,
                        struct lm_err *e)
{
    uint64_t limit = (UINT64_C(16) << 20) + 3 * (uint64_t)z->file.size;
    uint8_t *data;

    *out = lm_span_of(z->file.data + m->data, (size_t)m->n_stored);
    if (!m->deflated)
        return 0;
    if (m->n_bytes > limit)
        return lm_err_set(e, LM_LIMIT, "data.pkl inflates from %llu to %llu bytes: refused",
                          (unsigned long long)m->n_stored, (unsigned long long)m->n_bytes);
    data = lm_arena_alloc(&t->arena, (size_t)m->n_bytes + 1);
    if (!data)
        return lmi_nomem(e);
    *out = lm_span_of(data, (size_t)m->n_bytes);
    return lmi_zip_read(z, m, data, m->n_bytes, e);
}

static int unpickle(struct lmi_torch *t, struct lm_span stream, bool script, struct lmi_view_list *out, struct lm_err *e)
{
    struct lmi_unpickler u = {.in = lm_cursor_of(stream), .arena = &t->arena, .e = e, .globals = lmi_torch_globals,
                              .n_globals = lmi_torch_n_globals, .script = script ? &lmi_torch_script : NULL,
                              .persistent = lmi_torch_persistent, .user = t};
    struct lmi_pk root;
    int rc = lmi_unpickle(&u, &root);

    if (rc == 0 && lm_cur_left(&u.in))
        rc = lm_err_set(e, LM_MALFORMED, "%zu bytes follow the end of the pickle", lm_cur_left(&u.in));
    lmi_unpickler_free(&u);
    return rc < 0 ? lm_err_prefix(e, "data.pkl") : lmi_torch_collect(t, &root, out, e);
}

static int read_zip(struct lmi_torch *t, const struct lmi_zip *z, struct lmi_view_list *out, struct lm_err *e)
{
    struct lm_span folder = {NULL, 0}, stream;

    if (find_folder(z, &folder, e) < 0 || read_byte_order(t, z, folder, e) < 0 || add_records(t, z, folder, e) < 0)
        return -1;
    if (pickle_bytes(t, z, member(z, folder, "data.pkl"), &stream, e) < 0)
        return -1;
    bool script = member(z, folder, "constants.pkl") != NULL;
    if (script && lm_meta_set_str(t->m->meta, "pytorch.kind", lm_span_str("TorchScript")) < 0)
        return lmi_nomem(e);
    return unpickle(t, stream, script, out, e);
}

/* ---- a file */

static int read_any(struct lmi_torch *t, struct lmi_view_list *out, struct lm_err *e)
{
    struct lm_span map = t->m->files[t->file].map;
    struct lmi_zip z = {0};

    if (!t->by_key)
        return lmi_nomem(e);
    if (lmi_torch_is_legacy(map))
        return lmi_torch_read_legacy(t, out, e);
    int rc = lmi_zip_open(&z, map, e);
    if (rc == 0)
        rc = read_zip(t, &z, out, e);
    lmi_zip_close(&z);
    return rc;
}

int lmi_torch_views(struct lm_model *m, const char *path, struct lmi_view_list *out, struct lm_err *e)
{
    struct lmi_torch t = {.m = m};

    if (lm_model_add_file(m, path, &t.file, e) < 0)
        return -1;
    t.by_key = lm_map_new(0);
    int rc = read_any(&t, out, e);
    lm_map_free(t.by_key);
    free(t.blobs);
    lm_arena_free(&t.arena);
    return rc < 0 ? lm_err_prefix(e, "%s", path) : 0;
}

int lmi_torch_read_file(struct lm_model *m, const char *path, struct lm_err *e)
{
    struct lmi_view_list list = {0};
    int rc = lmi_torch_views(m, path, &list, e);

    if (rc == 0) {
        rc = lmi_views_add(m, list.v, list.n, m->files[m->n_files - 1].path, e);
        if (rc < 0)
            lm_err_prefix(e, "%s", path);
    }
    free(list.v);
    return rc;
}

/* ---- the format */

static int probe(struct lm_span f, const char *path)
{
    if (lmi_index_kind(f, path) == LMI_INDEX_TORCH)
        return 80;
    if (lmi_torch_is_legacy(f))
        return 100;
    return lmi_zip_kind(f) == LMI_ZIP_TORCH ? 90 : 0;
}

static int read_path(struct lm_model *m, const char *path, struct lm_err *e)
{
    return lmi_has_suffix(path, ".index.json") ? lmi_read_index(m, path, &lm_format_pytorch, lmi_torch_read_file, e)
                                               : lmi_torch_read_file(m, path, e);
}

const struct lm_format lm_format_pytorch = {
    .name = "pytorch",
    .title = "PyTorch",
    .probe = probe,
    .read = read_path,
};
