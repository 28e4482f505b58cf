/* Walks an HDF5 file with libhdf5 and reports what is in it.  Runs in the box
 * of h5_box.c.  Only hard links are followed; a group is entered once. */
#include "libmodel/fmt/h5_lib.h"

#include <stdio.h>
#include <stdlib.h>

enum { MAX_DEPTH = 64, MAX_LINKS = 1 << 20, MAX_ATTRS = 1 << 17, MAX_ATTR_BYTES = 16 << 20, MAX_ATTR_ELEMS = 1 << 20 };

/* "1.10.8" */
#define TEXT(x) #x
#define VERSION(a, b, c) TEXT(a) "." TEXT(b) "." TEXT(c)
#define LIBRARY VERSION(H5_VERS_MAJOR, H5_VERS_MINOR, H5_VERS_RELEASE)
#define NEWER "it is broken, or was written by a newer HDF5 (with h5py's libver='v110' it is written so that this one can)"

struct walk {
    struct lmi_h5_out *o;
    hid_t file;
    struct lm_arena arena; /* keys of entered */
    struct lm_map *entered;
    size_t n_links, n_attrs;
    struct lmi_buffer path; /* of the object at hand, without a slash at the start */
    bool stop;
};

static void note(struct walk *w, const char *text, bool refused)
{
    uint8_t r = refused;

    lmi_h5_begin(w->o, LMI_H5_NOTE);
    lmi_h5_put_span(w->o, w->path.data, w->path.n);
    lmi_h5_put_span(w->o, text, strlen(text));
    lmi_put(&w->o->b, &r, 1);
    lmi_h5_send(w->o);
}

/* What a newer library has written is refused and the rest is listed (h5py's
 * libver = "latest"); anything else that cannot be read ends the walk. */
static void stop(struct walk *w, enum lm_code code, const char *what)
{
    char reason[300], text[800];

    if (w->stop)
        return;
    lmi_h5_reason(reason, sizeof reason);
    if (strstr(reason, "version number")) {
        snprintf(text, sizeof text, "%.200s (libhdf5 " LIBRARY ": %s): " NEWER, what, reason);
        note(w, text, true);
        return;
    }
    lmi_h5_fail(w->o, code, "'/%.*s': %s (libhdf5 " LIBRARY ": %s)", (int)(w->path.n < 200 ? w->path.n : 200),
                w->path.n ? (const char *)w->path.data : "", what, reason);
    w->stop = true;
}

static void put_u8(struct walk *w, uint8_t v)
{
    lmi_put(&w->o->b, &v, 1);
}

/* ---- attributes */

static enum lm_meta_type meta_type_of(enum lm_dtype d)
{
    switch (d) {
    case LM_U8: return LM_META_U8;
    case LM_I8: return LM_META_I8;
    case LM_U16: return LM_META_U16;
    case LM_I16: return LM_META_I16;
    case LM_U32: return LM_META_U32;
    case LM_I32: return LM_META_I32;
    case LM_U64: return LM_META_U64;
    case LM_I64: return LM_META_I64;
    case LM_F32: return LM_META_F32;
    case LM_F64: return LM_META_F64;
    case LM_BOOL: return LM_META_BOOL;
    default: return LM_META_N_TYPES;
    }
}

struct source {
    hid_t id;
    hid_t type;
    int n_dims;
    size_t n; /* elements */
};

/* Scalars as 8 bytes, arrays packed. */
static void put_numbers(struct walk *w, const struct source *s, enum lm_meta_type t, const uint8_t *raw)
{
    size_t width = lm_meta_width(t);

    put_u8(w, s->n_dims ? LM_META_ARRAY : (uint8_t)t);
    if (s->n_dims) {
        put_u8(w, (uint8_t)t);
        lmi_put_u64(&w->o->b, s->n);
        lmi_put(&w->o->b, raw, s->n * width);
        return;
    }
    uint64_t v = 0;
    memcpy(&v, raw, width);
    if (t == LM_META_F32) {
        float f;
        double d;
        memcpy(&f, raw, sizeof f);
        d = (double)f;
        memcpy(&v, &d, sizeof v);
    } else if (t == LM_META_I8 || t == LM_META_I16 || t == LM_META_I32) {
        unsigned shift = 64 - 8 * (unsigned)width;
        v = (uint64_t)((int64_t)(v << shift) >> shift);
    }
    lmi_put_u64(&w->o->b, v);
}

static size_t text_length(const char *s, size_t n, H5T_str_t pad)
{
    size_t end = strnlen(s, n);

    if (pad == H5T_STR_NULLTERM)
        return end;
    end = n;
    while (end > 0 && s[end - 1] == (pad == H5T_STR_SPACEPAD ? ' ' : 0))
        end--;
    return end;
}

static void put_strings(struct walk *w, const struct source *s, const char *raw, bool variable)
{
    size_t size = H5Tget_size(s->type);
    H5T_str_t pad = variable ? H5T_STR_NULLTERM : H5Tget_strpad(s->type);

    put_u8(w, s->n_dims ? LM_META_ARRAY : LM_META_STR);
    if (s->n_dims) {
        put_u8(w, LM_META_STR);
        lmi_put_u64(&w->o->b, s->n);
    }
    for (size_t i = 0; i < s->n; i++) {
        const char *text = variable ? ((char *const *)(const void *)raw)[i] : raw + i * size;
        size_t n = !text ? 0 : variable ? strlen(text) : text_length(text, size, pad);
        lmi_h5_put_span(w->o, text, n);
    }
}

/* The open record is not sent. */
static void drop_record(struct walk *w)
{
    if (!w->o->b.failed)
        w->o->b.n = w->o->record;
}

static void stop_at_attr(struct walk *w, const char *name)
{
    char what[160];

    drop_record(w);
    snprintf(what, sizeof what, "the attribute '%.100s' cannot be read", name);
    stop(w, LM_MALFORMED, what);
}

/* 1 the value was put into the open record, 0 it is of another kind, -1 it cannot be read. */
static int put_value(struct walk *w, struct source *s, const char *name)
{
    char why[128];
    enum lm_dtype d = LM_U8;
    bool big, text = H5Tget_class(s->type) == H5T_STRING, variable = text && H5Tis_variable_str(s->type) > 0;
    enum lm_meta_type t = text ? LM_META_STR : LM_META_N_TYPES;

    if (!text && lmi_h5_dtype(s->id, s->type, &d, &big, why, sizeof why) == 1)
        t = meta_type_of(d);
    if (t == LM_META_N_TYPES || s->n_dims > 1)
        return 0;
    size_t width = variable ? sizeof(char *) : text ? H5Tget_size(s->type) : lm_meta_width(t);
    if (s->n > MAX_ATTR_ELEMS || width == 0 || s->n > MAX_ATTR_BYTES / width)
        return 0;
    char *raw = calloc(s->n + 1, width);
    hid_t as = text ? H5Tcopy(s->type) : lmi_h5_type_of(d);
    int rc = raw && as >= 0 && (s->n == 0 || H5Aread(s->id, as, raw) >= 0) ? 1 : -1;
    if (rc < 0)
        stop_at_attr(w, name);
    else if (text)
        put_strings(w, s, raw, variable);
    else
        put_numbers(w, s, t, (const uint8_t *)raw);
    if (rc == 1 && variable) {
        hsize_t n = s->n;
        hid_t space = H5Screate_simple(1, &n, NULL);
        H5Dvlen_reclaim(as, space, H5P_DEFAULT, raw);
        H5Sclose(space);
    }
    if (as >= 0)
        H5Tclose(as);
    free(raw);
    return rc;
}

static int measure_source(struct source *s, hid_t space)
{
    hssize_t n = space < 0 ? -1 : H5Sget_simple_extent_npoints(space);

    s->n_dims = space < 0 ? -1 : H5Sget_simple_extent_ndims(space);
    s->n = n < 0 ? 0 : (size_t)n;
    return n < 0 || s->n_dims < 0 || s->type < 0 || H5Sget_simple_extent_type(space) == H5S_NULL ? -1 : 0;
}

static herr_t report_attr(hid_t object, const char *name, const H5A_info_t *info, void *arg)
{
    struct walk *w = arg;
    int rc;

    (void)info;
    if (++w->n_attrs > MAX_ATTRS) {
        stop(w, LM_LIMIT, "more than 131072 attributes up to here");
        return 1;
    }
    hid_t a = H5Aopen(object, name, H5P_DEFAULT), space = a < 0 ? -1 : H5Aget_space(a);
    struct source s = {.id = a, .type = a < 0 ? -1 : H5Aget_type(a)};
    lmi_h5_begin(w->o, LMI_H5_ATTR);
    lmi_h5_put_span(w->o, w->path.data, w->path.n);
    lmi_h5_put_span(w->o, name, strlen(name));
    if (a < 0 || space < 0 || s.type < 0)
        stop_at_attr(w, name);
    else if ((rc = measure_source(&s, space) < 0 ? 0 : put_value(w, &s, name)) == 1)
        lmi_h5_send(w->o);
    else if (rc == 0)
        drop_record(w); /* not for us */
    if (s.type >= 0)
        H5Tclose(s.type);
    if (space >= 0)
        H5Sclose(space);
    if (a >= 0)
        H5Aclose(a);
    return w->stop || w->o->full ? 1 : 0;
}

/* ---- datasets */

static void report_dataset(struct walk *w, const struct lmi_h5_dataset *d)
{
    lmi_h5_begin(w->o, LMI_H5_DATASET);
    lmi_h5_put_span(w->o, w->path.data, w->path.n);
    put_u8(w, (uint8_t)d->dtype), put_u8(w, d->big_endian), put_u8(w, d->decode), put_u8(w, (uint8_t)d->n_dims);
    for (unsigned i = 0; i < d->n_dims; i++)
        lmi_put_u64(&w->o->b, d->shape[i]);
    lmi_put_u64(&w->o->b, d->offset);
    lmi_put_u64(&w->o->b, d->n_bytes);
    lmi_h5_send(w->o);
}

static void note_other(struct walk *w, const char *what, int n_dims, const hsize_t *dims)
{
    char text[400];
    int n = snprintf(text, sizeof text, "%s, %s", what, n_dims ? "shape [" : "one value");

    for (int i = 0; i < n_dims && i < 8; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, "%s%llu", i ? ", " : "", (unsigned long long)dims[i]);
    snprintf(text + n, sizeof text - (size_t)n, "%s%s", n_dims > 8 ? ", …" : "", n_dims ? "]" : "");
    note(w, text, false);
}

static void see_dataset(struct walk *w, hid_t id, hid_t type, hid_t space)
{
    struct lmi_h5_dataset d = {.dtype = LM_U8};
    hsize_t dims[H5S_MAX_RANK] = {0};
    char why[400];
    bool contiguous, null = H5Sget_simple_extent_type(space) == H5S_NULL;
    int n_dims = H5Sget_simple_extent_dims(space, dims, NULL);
    hssize_t n = H5Sget_simple_extent_npoints(space);

    if (n_dims < 0 || n < 0) {
        stop(w, LM_MALFORMED, "its shape cannot be read");
        return;
    }
    if (lmi_h5_storage(id, &contiguous, &d.offset, why, sizeof why) == 0) {
        note(w, why, true);
        return;
    }
    if (null) {
        note(w, "an empty dataset (no shape)", false);
        return;
    }
    if (lmi_h5_dtype(id, type, &d.dtype, &d.big_endian, why, sizeof why) == 0) {
        note_other(w, why, n_dims, dims);
        return;
    }
    if (n_dims > LM_MAX_DIMS) {
        snprintf(why, sizeof why, "%d dimensions, at most %d are handled", n_dims, LM_MAX_DIMS);
        note(w, why, true);
        return;
    }
    d.n_dims = (unsigned)n_dims;
    for (int i = 0; i < n_dims; i++)
        d.shape[i] = dims[i];
    d.decode = !contiguous && n > 0;
    d.n_bytes = contiguous ? H5Dget_storage_size(id) : 0;
    report_dataset(w, &d);
}

static void walk_dataset(struct walk *w, hid_t id)
{
    hid_t type = H5Dget_type(id), space = H5Dget_space(id);

    if (type < 0 || space < 0)
        stop(w, LM_MALFORMED, "the dataset's type or shape cannot be read");
    else
        see_dataset(w, id, type, space);
    if (type >= 0)
        H5Tclose(type);
    if (space >= 0)
        H5Sclose(space);
}

/* ---- groups */

struct link {
    struct link *next;
    H5L_type_t type;
    size_t n_value;
    char name[];
};
struct links {
    struct walk *w;
    struct link *first, **tail;
};

static herr_t take_link(hid_t group, const char *name, const H5L_info_t *info, void *arg)
{
    struct links *l = arg;
    size_t n = strlen(name) + 1;
    struct link *x = malloc(sizeof *x + n);

    (void)group;
    if (!x || ++l->w->n_links > MAX_LINKS) {
        free(x);
        return -1;
    }
    *x = (struct link){.type = info->type, .n_value = info->type == H5L_TYPE_HARD ? 0 : info->u.val_size};
    memcpy(x->name, name, n);
    *l->tail = x;
    l->tail = &x->next;
    return 0;
}

static void note_link(struct walk *w, hid_t group, const struct link *x)
{
    char value[700] = "", text[1000];
    const char *file = "", *object = "";

    if (x->type != H5L_TYPE_SOFT && x->type != H5L_TYPE_EXTERNAL) {
        note(w, "a link of an unknown kind, not followed", true);
        return;
    }
    if (x->n_value < sizeof value && H5Lget_val(group, x->name, value, sizeof value - 1, H5P_DEFAULT) >= 0 &&
        x->type == H5L_TYPE_EXTERNAL)
        H5Lunpack_elink_val(value, x->n_value, NULL, &file, &object);
    if (x->type == H5L_TYPE_EXTERNAL)
        snprintf(text, sizeof text, "an external link to '%.300s' in the file '%.300s', which is not opened", object, file);
    else
        snprintf(text, sizeof text, "a soft link to '%.600s', not followed", value);
    note(w, text, x->type == H5L_TYPE_EXTERNAL);
}

static void walk_group(struct walk *w, hid_t group, unsigned depth);

/* A group that was entered through another path already would be listed twice, or for ever. */
static bool enter(struct walk *w, hid_t id)
{
    H5O_info_t info;
    uint8_t *key = lm_arena_alloc(&w->arena, sizeof info.addr);

    if (!key || H5Oget_info2(id, &info, H5O_INFO_BASIC) < 0) {
        stop(w, LM_MALFORMED, "the object cannot be examined");
        return false;
    }
    memcpy(key, &info.addr, sizeof info.addr);
    int put = lm_map_put(w->entered, lm_span_of(key, sizeof info.addr), 0);
    if (put < 0)
        stop(w, LM_NOMEM, "out of memory");
    if (put == 0)
        note(w, "a group that is listed under another name already", false);
    return put == 1;
}

static void walk_object(struct walk *w, hid_t id, unsigned depth)
{
    switch (H5Iget_type(id)) {
    case H5I_DATASET:
        walk_dataset(w, id);
        break;
    case H5I_GROUP:
        if (depth >= MAX_DEPTH)
            stop(w, LM_LIMIT, "groups are nested deeper than 64 levels");
        else if (enter(w, id))
            walk_group(w, id, depth + 1);
        break;
    default:
        note(w, "a named type, no data", false);
    }
}

static void walk_link(struct walk *w, hid_t group, const struct link *x, unsigned depth)
{
    size_t before = w->path.n;

    if (before)
        lmi_put(&w->path, "/", 1);
    lmi_put(&w->path, x->name, strlen(x->name));
    if (w->path.failed)
        stop(w, LM_NOMEM, "out of memory");
    else if (x->type != H5L_TYPE_HARD)
        note_link(w, group, x);
    else {
        hid_t id = H5Oopen(group, x->name, H5P_DEFAULT);
        if (id < 0)
            stop(w, LM_MALFORMED, "the object cannot be opened");
        else {
            walk_object(w, id, depth);
            H5Oclose(id);
        }
    }
    w->path.n = before;
}

/* In the order of creation where the file keeps it. */
static H5_index_t order_of(hid_t group)
{
    unsigned flags = 0;
    hid_t plist = H5Gget_create_plist(group);

    if (plist >= 0) {
        H5Pget_link_creation_order(plist, &flags);
        H5Pclose(plist);
    }
    return flags & H5P_CRT_ORDER_INDEXED ? H5_INDEX_CRT_ORDER : H5_INDEX_NAME;
}

static void walk_group(struct walk *w, hid_t group, unsigned depth)
{
    struct links l = {.w = w, .tail = &l.first};
    hsize_t at = 0;

    if (H5Aiterate2(group, H5_INDEX_NAME, H5_ITER_INC, NULL, report_attr, w) < 0)
        stop(w, LM_MALFORMED, "the attributes cannot be read");
    if (H5Literate(group, order_of(group), H5_ITER_INC, &at, take_link, &l) < 0)
        stop(w, w->n_links > MAX_LINKS ? LM_LIMIT : LM_MALFORMED,
             w->n_links > MAX_LINKS ? "more than a million links" : "the group cannot be listed");
    while (l.first) {
        struct link *x = l.first;
        l.first = x->next;
        if (!w->stop && !w->o->full)
            walk_link(w, group, x, depth);
        free(x);
    }
}

void lmi_h5_walk(struct lmi_h5_out *o, struct lm_span span)
{
    struct walk w = {.o = o, .entered = lm_map_new(0)};
    struct lmi_h5_driver driver;
    char reason[300];

    lmi_h5_quiet();
    w.file = lmi_h5_open_bytes(&driver, span);
    hid_t root = w.file < 0 ? -1 : H5Gopen2(w.file, "/", H5P_DEFAULT);
    if (root < 0)
        lmi_h5_reason(reason, sizeof reason);
    if (!w.entered)
        lmi_h5_fail(o, LM_NOMEM, "out of memory");
    else if (root < 0)
        lmi_h5_fail(o, LM_MALFORMED, "libhdf5 cannot open it: %s%s", reason, strstr(reason, "version number") ? "; " NEWER : "");
    else if (enter(&w, root))
        walk_group(&w, root, 0);
    if (root >= 0)
        H5Gclose(root);
    if (w.file >= 0)
        H5Fclose(w.file);
    lmi_h5_driver_free(&driver);
    lm_map_free(w.entered);
    lm_arena_free(&w.arena);
    free(w.path.data);
}
