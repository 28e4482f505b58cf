/* HDF5: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html
 *
 *   89 "HDF" 0d 0a 1a 0a at byte 0, 512, 1024, 2048 … (what comes before is a
 *   user block), then a superblock, and from it a tree of groups and datasets
 *
 * libhdf5 reads it, in a process that can do nothing else (h5_box.c), from our
 * mapping (h5_driver.c). Contiguous datasets are used where they lie; chunked,
 * compact and never written ones are decoded by that process, with deflate,
 * shuffle and fletcher32. External files, virtual datasets and other filters are
 * named and never followed. A tensor's name is the dataset's path.
 *
 * Forms: Keras 2 and TensorFlow weights (keras2.c), Keras 3 (keras3.c) and its
 * hub's models (keras_hub.c), and what we write (h5_write.c): tensors by their
 * names, metadata as libmodel/format.h says. */
#include "libmodel/fmt/hdf5.h"

#include <stdlib.h>

#include "libmodel/fmt/carried.h"
#include "libmodel/fmt/shards.h"

static const uint8_t signature[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};

/* Where the superblock begins; SIZE_MAX: nowhere. */
static size_t find_signature(struct lm_span f)
{
    for (size_t at = 0; at < f.size && f.size - at >= sizeof signature; at = at ? 2 * at : 512) {
        if (memcmp(f.data + at, signature, sizeof signature) == 0)
            return at;
        if (at > SIZE_MAX / 2)
            break;
    }
    return SIZE_MAX;
}

/* The size the file had when it was closed, from its superblock: a file that
 * was cut deserves a better sentence than libhdf5's. */
int lmi_h5_check_length(struct lm_span f, struct lm_err *e)
{
    size_t at = find_signature(f);
    struct lm_cursor c = lm_cursor_of(at == SIZE_MAX ? (struct lm_span){NULL, 0} : lm_span_of(f.data + at, f.size - at));

    lm_cur_bytes(&c, sizeof signature);
    unsigned version = lm_cur_u8(&c);
    struct lm_span sizes = lm_cur_bytes(&c, version < 2 ? 15 : 3);
    if (c.failed)
        return lm_err_set(e, LM_MALFORMED, "the file of %zu bytes ends inside the HDF5 superblock", f.size);
    if (version > 3 || sizes.data[version < 2 ? 4 : 0] != 8)
        return 0; /* libhdf5 will say what it thinks */
    if (version == 1)
        lm_cur_u32(&c);
    uint64_t base = lm_cur_u64(&c), end;
    lm_cur_u64(&c);
    end = lm_cur_u64(&c);
    if (c.failed)
        return lm_err_set(e, LM_MALFORMED, "the file of %zu bytes ends inside the HDF5 superblock", f.size);
    if (base == at && end < UINT64_MAX - base && end + (end < base ? base : 0) > f.size)
        return lm_err_set(e, LM_MALFORMED, "the file has %zu bytes and should have %llu: %llu are missing at its end (was the "
                          "download or the copy cut short?)", f.size, (unsigned long long)end,
                          (unsigned long long)(end - f.size));
    return 0;
}

/* ---- what is not a tensor */

static int tell_notes(struct lmi_h5_set *set, struct lm_err *e)
{
    for (size_t i = 0; i < set->n; i++)
        for (size_t k = 0; k < set->sources[i].list.n_notes; k++) {
            const struct lmi_h5_note *n = &set->sources[i].list.notes[k];
            if (lmi_model_leave_out(set->m, n->path, n->text, n->refused, e) < 0)
                return -1;
        }
    return 0;
}

/* Attributes of the root group are the file's metadata. */
static int take_attrs(struct lmi_h5_set *set, struct lm_err *e)
{
    const struct lmi_h5 *h = &set->sources[0].list;

    for (size_t i = 0; i < h->n_attrs; i++) {
        const struct lmi_h5_attr *a = &h->attrs[i];
        char *key = a->path.size ? NULL : lm_arena_str(&set->m->arena, a->name);
        if (a->path.size || a->name.size == 0 || memchr(a->name.data, 0, a->name.size) || !lm_utf8_valid(a->name))
            continue;
        if (lm_meta_count(set->m->meta) >= LMI_MAX_META)
            return lm_err_set(e, LM_LIMIT, "more than %d attributes", LMI_MAX_META);
        if (!key || lm_meta_set_value(set->m->meta, key, &a->value) < 0)
            return lmi_nomem(e);
    }
    return 0;
}

/* ---- what we wrote ourselves */

static bool is_carried(const struct lmi_h5_dataset *d)
{
    return lmi_is_carried(d->path) && d->dtype == LM_U8 && d->n_dims == 1;
}

static int take_carried(struct lmi_h5_set *set, struct lm_err *e)
{
    struct lmi_h5_source *s = &set->sources[0];
    struct lm_span bytes;

    for (int first = 1; first >= 0; first--) /* libmodel.meta first: it knows the order of all */
        for (size_t i = 0; i < s->list.n_datasets; i++) {
            const struct lmi_h5_dataset *d = &s->list.datasets[i];
            char *name = is_carried(d) && lmi_is_carried_meta(d->path) == first ? lm_arena_str(&set->m->arena, d->path) : NULL;
            if (!is_carried(d) || lmi_is_carried_meta(d->path) != first)
                continue;
            if (!name)
                return lmi_nomem(e);
            if (lmi_h5_bytes(&bytes, set, s, d, e) < 0 ||
                lmi_carried_read(set->m, lm_span_of(name, d->path.size), bytes, e) < 0)
                return lm_err_prefix(e, "'%s'", name);
        }
    return 0;
}

/* ---- the whole */

static int plain_views(struct lmi_h5_set *set, struct lmi_view_list *out, struct lm_err *e)
{
    for (size_t i = 0; i < set->n; i++)
        for (size_t k = 0; k < set->sources[i].list.n_datasets; k++) {
            const struct lmi_h5_dataset *d = &set->sources[i].list.datasets[k];
            struct lmi_view *v = is_carried(d) ? NULL : lmi_view_new(out);
            if (is_carried(d))
                continue;
            if (!v)
                return lmi_nomem(e);
            if (lmi_h5_view(v, set, &set->sources[i], d, e) < 0)
                return -1;
        }
    return 0;
}

static int choose_views(struct lmi_h5_set *set, struct lmi_view_list *out, struct lm_err *e)
{
    static int (*const forms[])(struct lmi_h5_set *, struct lmi_view_list *, struct lm_err *) = {
        lmi_keras_hub_views, lmi_keras2_views};

    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        out->n = 0;
        int rc = forms[i](set, out, e);
        if (rc != 0)
            return rc < 0 ? -1 : 0;
    }
    out->n = 0;
    return plain_views(set, out, e);
}

int lmi_h5_set_finish(struct lmi_h5_set *set, struct lm_err *e)
{
    struct lmi_view_list views = {0};
    bool ours = lm_map_get(set->sources[0].list.paths, lm_span_str("libmodel.meta")) != SIZE_MAX;
    int rc = ours ? 0 : take_attrs(set, e);

    if (rc == 0)
        rc = take_carried(set, e);
    if (rc == 0)
        rc = ours ? plain_views(set, &views, e) : choose_views(set, &views, e);
    if (rc == 0)
        rc = tell_notes(set, e);
    if (rc == 0)
        rc = lmi_views_add(set->m, views.v, views.n, set->m->files[0].path, e);
    free(views.v);
    return rc;
}

/* One file, all of it. */
static int read_file(struct lm_model *m, const char *path, struct lm_err *e)
{
    struct lmi_h5_set set = {.m = m};
    size_t file;

    if (lm_model_add_file(m, path, &file, e) < 0)
        return -1;
    int rc = lmi_h5_check_length(m->files[file].map, e);
    if (rc == 0)
        rc = lmi_h5_set_add(&set, file, 0, m->files[file].map.size, e);
    if (rc == 0)
        rc = lmi_h5_set_finish(&set, e);
    lmi_h5_set_free(&set);
    return rc < 0 ? lm_err_prefix(e, "%s", path) : 0;
}

static int read_path(struct lm_model *m, const char *path, struct lm_err *e)
{
    struct lm_model_file f;

    if (lmi_file_open(&f, path, e) < 0)
        return -1;
    bool index = lmi_index_kind(f.map, path) == LMI_INDEX_HDF5;
    lmi_file_close(&f);
    if (index && strncmp(lmi_base_name(path), "tf_model", 8) == 0)
        return lmi_h5_read_map(m, path, true, e);
    return index ? lmi_read_index(m, path, &lm_format_hdf5, read_file, e) : read_file(m, path, e);
}

static int probe(struct lm_span f, const char *path)
{
    size_t at = find_signature(f);

    if (lmi_index_kind(f, path) == LMI_INDEX_HDF5)
        return 90;
    return at == 0 ? 100 : at == SIZE_MAX ? 0 : 70;
}

static bool can_store(enum lm_dtype d)
{
    const struct lm_dtype_info *info = lm_dtype_info(d);
    return info->block_elems == 1 && info->kind != LM_KIND_QUANT;
}

const struct lm_format lm_format_hdf5 = {
    .name = "h5",
    .title = "HDF5",
    .probe = probe,
    .read = read_path,
    .layout = lmi_h5_layout,
    .finish = lmi_h5_finish,
    .can_store = can_store,
    .compresses = true,
    .carries = true,
};
