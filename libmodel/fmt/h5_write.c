/* Writing HDF5: libhdf5 itself makes the file, into a sparse file in memory that
 * remembers where it wrote.  Room for tensors is allocated, never filled, so
 * what was written is exactly what is not tensor data: the layout's head and
 * chunks, and the places are where libhdf5 will look for the data.
 *
 * One dataset a tensor, contiguous, its name the tensor's (slashes are groups),
 * in order (groups keep the order of creation); the metadata as uint8 datasets
 * (fmt/carried.h).  BF16 is the 16-bit float of 8 and 7 bits, which h5py reads
 * as float32 value for value; for Keras it is two raw bytes with an attribute
 * dtype; what HDF5 has no type for is raw bytes tagged with our type's name.  No
 * times are stored: the same model gives the same bytes. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "libmodel/fmt/carried.h"
#include "libmodel/fmt/h5_lib.h"
#include "libmodel/fmt/h5_make.h"
#include "libmodel/fmt/hdf5.h"
#include "libmodel/fmt/keras.h"

enum { ALIGN = 64, ALIGN_FROM = 512, META_EACH = 768, META_MIN = 2048, META_MAX = 1 << 20 };

/* ---- the recording driver */

struct extent { uint64_t from, to; };

struct recorder {
    int fd; /* of the file in memory */
    struct extent *extents;
    size_t n, capacity;
    uint64_t end;
};

struct rec_file {
    H5FD_t base; /* first: libhdf5's own part */
    struct recorder *r;
    haddr_t eoa;
};

static H5FD_t *rec_open(const char *name, unsigned flags, hid_t fapl, haddr_t max)
{
    struct recorder *const *info = H5Pget_driver_info(fapl);
    struct rec_file *f = info ? calloc(1, sizeof *f) : NULL;

    (void)name, (void)flags, (void)max;
    if (!f)
        return NULL;
    f->r = *info;
    return &f->base;
}

static herr_t rec_close(H5FD_t *base)
{
    free(base);
    return 0;
}

static herr_t rec_query(const H5FD_t *base, unsigned long *flags)
{
    (void)base;
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA;
    return 0;
}

static haddr_t rec_eoa(const H5FD_t *base, H5FD_mem_t type)
{
    (void)type;
    return ((const struct rec_file *)base)->eoa;
}

static herr_t rec_set_eoa(H5FD_t *base, H5FD_mem_t type, haddr_t eoa)
{
    (void)type;
    ((struct rec_file *)base)->eoa = eoa;
    return 0;
}

static haddr_t rec_eof(const H5FD_t *base, H5FD_mem_t type)
{
    (void)type;
    return ((const struct rec_file *)base)->r->end;
}

static herr_t rec_read(H5FD_t *base, H5FD_mem_t type, hid_t dxpl, haddr_t at, size_t n, void *dst)
{
    ssize_t got = pread(((struct rec_file *)base)->r->fd, dst, n, (off_t)at);

    (void)type, (void)dxpl;
    if (got < 0)
        return -1;
    memset((uint8_t *)dst + got, 0, n - (size_t)got);
    return 0;
}

static bool remember(struct recorder *r, uint64_t from, uint64_t to)
{
    if (r->n && r->extents[r->n - 1].to == from) {
        r->extents[r->n - 1].to = to;
        return true;
    }
    if (r->n == r->capacity) {
        size_t capacity = r->capacity ? 2 * r->capacity : 64;
        struct extent *bigger = reallocarray(r->extents, capacity, sizeof *bigger);
        if (!bigger)
            return false;
        r->extents = bigger;
        r->capacity = capacity;
    }
    r->extents[r->n++] = (struct extent){from, to};
    return true;
}

static herr_t rec_write(H5FD_t *base, H5FD_mem_t type, hid_t dxpl, haddr_t at, size_t n, const void *src)
{
    struct recorder *r = ((struct rec_file *)base)->r;

    (void)type, (void)dxpl;
    if (n == 0)
        return 0;
    if (!remember(r, at, at + n) || pwrite(r->fd, src, n, (off_t)at) != (ssize_t)n)
        return -1;
    if (at + n > r->end)
        r->end = at + n;
    return 0;
}

static herr_t rec_truncate(H5FD_t *base, hid_t dxpl, hbool_t closing)
{
    struct rec_file *f = (struct rec_file *)base;

    (void)dxpl, (void)closing;
    f->r->end = f->eoa;
    return 0;
}

static const H5FD_class_t rec_class = {
#ifdef H5FD_CLASS_VERSION
    .version = H5FD_CLASS_VERSION,
    .value = (H5FD_class_value_t)601, /* any that is not a driver of the library */
#endif
    .name = "libmodel recorder",
    .maxaddr = (haddr_t)INT64_MAX,
    .fc_degree = H5F_CLOSE_STRONG,
    .fapl_size = sizeof(struct recorder *),
    .open = rec_open,
    .close = rec_close,
    .query = rec_query,
    .get_eoa = rec_eoa,
    .set_eoa = rec_set_eoa,
    .get_eof = rec_eof,
    .read = rec_read,
    .write = rec_write,
    .truncate = rec_truncate,
    .fl_map = H5FD_FLMAP_SINGLE,
};

/* ---- what was recorded becomes head and chunks */

static int by_place(const void *a, const void *b)
{
    const struct extent *x = a, *y = b;
    return x->from < y->from ? -1 : x->from > y->from;
}

static size_t merge(struct extent *x, size_t n)
{
    size_t k = 0;

    qsort(x, n, sizeof *x, by_place);
    for (size_t i = 1; i < n; i++) {
        if (x[i].from > x[k].to)
            x[++k] = x[i];
        else if (x[i].to > x[k].to)
            x[k].to = x[i].to;
    }
    return n ? k + 1 : 0;
}

static uint8_t *take_extent(const struct recorder *r, const struct extent *x)
{
    size_t n = (size_t)(x->to - x->from);
    uint8_t *data = malloc(n + 1);

    if (data && pread(r->fd, data, n, (off_t)x->from) == (ssize_t)n)
        return data;
    free(data);
    return NULL;
}

static int take_recorded(struct lm_layout_file *f, struct recorder *r, struct lm_err *e)
{
    size_t n = merge(r->extents, r->n);

    f->n_bytes = r->end;
    f->chunks = calloc(n + 1, sizeof *f->chunks);
    if (!f->chunks)
        return lmi_nomem(e);
    for (size_t i = 0; i < n; i++) {
        uint8_t *data = take_extent(r, &r->extents[i]);
        if (!data)
            return lmi_nomem(e);
        size_t size = (size_t)(r->extents[i].to - r->extents[i].from);
        if (r->extents[i].from == 0) {
            f->head = data;
            f->n_head = size;
        } else {
            f->chunks[f->n_chunks++] = (struct lm_layout_chunk){r->extents[i].from, data, size};
        }
    }
    return 0;
}

/* ---- objects */

static int failed(const char *name, struct lm_err *e)
{
    char reason[300];

    return lm_err_set(e, LM_UNSUPPORTED, "'%.200s' cannot be stored in HDF5: %s", name,
                      lmi_h5_reason(reason, sizeof reason));
}

/* Every part between slashes must be one that a path can have. */
static int check_path(const char *name, struct lm_err *e)
{
    for (const char *p = name;; p++) {
        size_t n = strcspn(p, "/");
        if (n == 0 || (n == 1 && *p == '.'))
            return lm_err_set(e, LM_UNSUPPORTED, "tensor '%.200s': in HDF5 the name is a path, which can have neither empty "
                              "parts nor '.'", name);
        p += n;
        if (!*p)
            return 0;
    }
}

hid_t lmi_h5_make_group(const struct lmi_h5_maker *w, hid_t parent, const char *name)
{
    return H5Lexists(parent, name, H5P_DEFAULT) > 0 ? H5Gopen2(parent, name, H5P_DEFAULT)
                                                    : H5Gcreate2(parent, name, w->lcpl, w->gcpl, H5P_DEFAULT);
}

/* The group of a path, made as needed, and the last part of the name. */
static hid_t open_parent(const struct lmi_h5_maker *w, const char *path, const char **last, struct lm_err *e)
{
    char part[1024];
    hid_t at = H5Gopen2(w->file, "/", H5P_DEFAULT);

    for (size_t n; at >= 0 && path[n = strcspn(path, "/")]; path += n + 1) {
        hid_t next = -1;
        if (n < sizeof part) {
            memcpy(part, path, n);
            part[n] = 0;
            next = lmi_h5_make_group(w, at, part);
        }
        H5Gclose(at);
        at = next;
    }
    *last = path;
    if (at < 0)
        failed(path, e);
    return at;
}

static int make_attr(hid_t object, const char *name, const char *value)
{
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR), a = -1;
    int rc = -1;

    if (type >= 0 && space >= 0 && H5Tset_size(type, H5T_VARIABLE) >= 0 && H5Tset_cset(type, H5T_CSET_UTF8) >= 0)
        a = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    if (a >= 0)
        rc = H5Awrite(a, type, &value) < 0 ? -1 : 0;
    if (a >= 0)
        H5Aclose(a);
    if (space >= 0)
        H5Sclose(space);
    if (type >= 0)
        H5Tclose(type);
    return rc;
}

static hid_t make_space(const struct lm_write_tensor *t)
{
    hsize_t dims[LM_MAX_DIMS + 1];

    for (unsigned i = 0; i < t->n_dims; i++)
        dims[i] = t->shape[i];
    return t->n_dims ? H5Screate_simple((int)t->n_dims, dims, NULL) : H5Screate(H5S_SCALAR);
}

int lmi_h5_make_dataset(const struct lmi_h5_maker *w, const struct lm_write_tensor *t, const void *data, uint64_t *offset,
                        struct lm_err *e)
{
    const char *last;
    hid_t parent = check_path(t->name, e) < 0 ? -1 : open_parent(w, t->name, &last, e), d = -1;

    if (parent < 0)
        return -1;
    bool raw = w->keras && t->dtype == LM_BF16;
    hid_t type = raw ? lmi_h5_keras_bf16() : lmi_h5_type_of(t->dtype), space = make_space(t);
    if (type >= 0 && space >= 0)
        d = H5Dcreate2(parent, last, type, space, w->lcpl, w->dcpl, H5P_DEFAULT);
    int rc = d < 0 ? -1 : 0;
    if (rc == 0 && data)
        rc = H5Dwrite(d, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0 ? -1 : 0;
    if (rc == 0 && raw)
        rc = make_attr(d, "dtype", "bfloat16");
    haddr_t at = d < 0 ? HADDR_UNDEF : H5Dget_offset(d);
    *offset = at == HADDR_UNDEF ? 0 : at;
    if (rc < 0)
        failed(t->name, e);
    if (d >= 0)
        H5Dclose(d);
    if (space >= 0)
        H5Sclose(space);
    if (type >= 0)
        H5Tclose(type);
    H5Gclose(parent);
    return rc;
}

/* ---- a file */

static hid_t ordered_plist(hid_t class)
{
    hid_t p = H5Pcreate(class);

    if (p >= 0 && H5Pset_link_creation_order(p, H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED) >= 0 &&
        H5Pset_obj_track_times(p, 0) >= 0)
        return p;
    return -1;
}

static hsize_t meta_block(size_t n)
{
    uint64_t want = META_MIN;

    while (want < META_MAX && want < (uint64_t)n * META_EACH)
        want *= 2;
    return want;
}

static int begin(struct lmi_h5_maker *w, hid_t driver, struct recorder *r, size_t n_objects)
{
    hid_t fapl = H5Pcreate(H5P_FILE_ACCESS), fcpl = ordered_plist(H5P_FILE_CREATE);

    w->gcpl = ordered_plist(H5P_GROUP_CREATE);
    w->lcpl = H5Pcreate(H5P_LINK_CREATE);
    w->dcpl = H5Pcreate(H5P_DATASET_CREATE);
    w->file = -1;
    if (fapl >= 0 && fcpl >= 0 && w->gcpl >= 0 && w->lcpl >= 0 && w->dcpl >= 0 &&
        H5Pset_driver(fapl, driver, &r) >= 0 && H5Pset_libver_bounds(fapl, H5F_LIBVER_V18, H5F_LIBVER_V18) >= 0 &&
        H5Pset_alignment(fapl, ALIGN_FROM, ALIGN) >= 0 && H5Pset_meta_block_size(fapl, meta_block(n_objects)) >= 0 &&
        H5Pset_char_encoding(w->lcpl, H5T_CSET_UTF8) >= 0 && H5Pset_obj_track_times(w->dcpl, 0) >= 0 &&
        H5Pset_layout(w->dcpl, H5D_CONTIGUOUS) >= 0 && H5Pset_alloc_time(w->dcpl, H5D_ALLOC_TIME_EARLY) >= 0 &&
        H5Pset_fill_time(w->dcpl, H5D_FILL_TIME_NEVER) >= 0)
        w->file = H5Fcreate("libmodel", H5F_ACC_TRUNC, fcpl, fapl);
    if (fapl >= 0)
        H5Pclose(fapl);
    if (fcpl >= 0)
        H5Pclose(fcpl);
    return w->file < 0 ? -1 : 0;
}

static int end(struct lmi_h5_maker *w)
{
    int rc = w->file >= 0 && H5Fclose(w->file) < 0 ? -1 : 0;

    if (w->gcpl >= 0)
        H5Pclose(w->gcpl);
    if (w->lcpl >= 0)
        H5Pclose(w->lcpl);
    if (w->dcpl >= 0)
        H5Pclose(w->dcpl);
    return rc;
}

static int record(struct recorder *r, size_t n_objects, bool keras, lmi_h5_fill fill, void *arg, struct lm_err *e)
{
    struct lmi_h5_maker w = {.keras = keras};
    char reason[300];
    hid_t driver = H5FDregister(&rec_class);
    int rc = begin(&w, driver, r, n_objects);

    if (rc < 0)
        lm_err_set(e, LM_NOMEM, "libhdf5 cannot begin a file: %s", lmi_h5_reason(reason, sizeof reason));
    else
        rc = fill(&w, arg, e);
    if (end(&w) < 0 && rc == 0)
        rc = lm_err_set(e, LM_NOMEM, "libhdf5 cannot end the file: %s", lmi_h5_reason(reason, sizeof reason));
    H5FDunregister(driver);
    return rc;
}

/* Without libhdf5's own messages. */
static int record_quietly(struct recorder *r, size_t n_objects, bool keras, lmi_h5_fill fill, void *arg, struct lm_err *e)
{
    H5E_auto2_t old;
    void *old_arg;

    lmi_h5_lock();
    H5dont_atexit();
    H5Eget_auto2(H5E_DEFAULT, &old, &old_arg);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    int rc = record(r, n_objects, keras, fill, arg, e);
    H5Eset_auto2(H5E_DEFAULT, old, old_arg);
    lmi_h5_unlock();
    return rc;
}

int lmi_h5_make(struct lm_layout_file *f, size_t n_objects, bool keras, lmi_h5_fill fill, void *arg, struct lm_err *e)
{
    struct recorder r = {.fd = memfd_create("libmodel", MFD_CLOEXEC)};

    if (r.fd < 0)
        return lm_err_errno(e, "cannot make a file in memory");
    int rc = record_quietly(&r, n_objects, keras, fill, arg, e);
    if (rc == 0)
        rc = take_recorded(f, &r, e);
    close(r.fd);
    free(r.extents);
    return rc;
}

int lmi_h5_make_in(int fd, uint64_t *size, bool keras, lmi_h5_fill fill, void *arg, struct lm_err *e)
{
    struct recorder r = {.fd = fd};
    int rc = record_quietly(&r, 1, keras, fill, arg, e);

    *size = r.end;
    free(r.extents);
    return rc;
}

/* ---- the layout of --to h5 */

struct contents {
    struct lm_layout *out;
    const struct lm_write_spec *spec;
    const struct lmi_carried *carried;
    size_t n_carried, file;
};

static int fill_file(const struct lmi_h5_maker *w, void *arg, struct lm_err *e)
{
    struct contents *c = arg;
    uint64_t at;

    for (size_t i = 0; i < c->n_carried; i++) {
        struct lm_write_tensor t = {.name = c->carried[i].name, .dtype = LM_U8, .n_dims = 1, .shape = {c->carried[i].n}};
        if (lmi_h5_make_dataset(w, &t, c->carried[i].n ? c->carried[i].data : NULL, &at, e) < 0)
            return -1;
    }
    for (size_t i = 0; i < c->spec->n_tensors; i++)
        if (c->out->places[i].file == c->file &&
            lmi_h5_make_dataset(w, &c->spec->tensors[i], NULL, &c->out->places[i].offset, e) < 0)
            return -1;
    return 0;
}

static char *file_name(const char *base, size_t i, size_t n)
{
    size_t stem = strlen(base) - (lmi_has_suffix(base, ".h5") ? 3 : 0);
    char *name = NULL;

    if (n == 1)
        return strdup(base);
    int rc = i == n ? asprintf(&name, "%.*s.h5.index.json", (int)stem, base)
                    : asprintf(&name, "%.*s-%05zu-of-%05zu.h5", (int)stem, base, i + 1, n);
    return rc < 0 ? NULL : name;
}

/* "model.weights.h5": model_00000.weights.h5, …, and model.weights.json. */
static char *keras_name(const char *base, size_t i, size_t n)
{
    static const char suffix[] = ".weights.h5";
    size_t stem = strlen(base) - (lmi_has_suffix(base, suffix) ? sizeof suffix - 1 : 0);
    char *name = NULL;

    if (n == 1)
        return strdup(base);
    int rc = i == n ? asprintf(&name, "%.*s.weights.json", (int)stem, base)
                    : asprintf(&name, "%.*s_%05zu%s", (int)stem, base, i, suffix);
    return rc < 0 ? NULL : name;
}

/* What differs between the two layouts. */
struct manner {
    const struct lm_format *format;
    char *(*name)(const char *base, size_t i, size_t n);
    bool carries;
    int (*index)(struct lm_layout *out, const struct lm_write_spec *spec, uint64_t total, struct lm_err *e);
};

static int name_files(struct lm_layout *out, const char *base, const struct manner *how, struct lm_err *e)
{
    size_t n = out->n_files;

    out->n_files += n > 1;
    for (size_t i = 0; i < out->n_files; i++) {
        out->files[i].name = how->name(base, i, n);
        if (!out->files[i].name)
            return lmi_nomem(e);
    }
    return 0;
}

static int make_files(struct lm_layout *out, const struct lm_write_spec *spec, size_t n_files, const struct manner *how,
                      const struct lmi_carried *carried, size_t n_carried, struct lm_err *e)
{
    struct contents c = {.out = out, .spec = spec, .carried = carried};

    for (c.file = 0; c.file < n_files; c.file++) {
        c.n_carried = c.file == 0 ? n_carried : 0;
        if (lmi_h5_make(&out->files[c.file], spec->n_tensors / n_files + c.n_carried, how->format == &lm_format_keras,
                        fill_file, &c, e) < 0)
            return -1;
    }
    return 0;
}

static int layout_all(struct lm_layout *out, const struct lm_write_spec *spec, const uint64_t *sizes, const char *base,
                      const struct manner *how, struct lm_err *e)
{
    struct lmi_carried *carried = NULL;
    size_t n_carried = 0;
    uint64_t total = 0;

    if (lmi_layout_split(out, spec, sizes, e) < 0)
        return -1;
    size_t n_files = out->n_files;
    for (size_t i = 0; i < spec->n_tensors; i++)
        if (!lm_add_u64(total, sizes[i], &total))
            return lm_err_set(e, LM_LIMIT, "the tensors together overflow 64 bits");
    if (name_files(out, base, how, e) < 0 || (how->carries && lmi_carry(&carried, &n_carried, spec, e) < 0))
        return -1;
    int rc = make_files(out, spec, n_files, how, carried, n_carried, e);
    lmi_carry_free(carried, n_carried);
    return rc < 0 || n_files == 1 ? rc : how->index(out, spec, total, e);
}

static int layout(struct lm_layout *out, const struct lm_write_spec *spec, const char *base, const struct manner *how,
                  struct lm_err *e)
{
    *out = (struct lm_layout){.compress = spec->compress};
    uint64_t *sizes = lmi_layout_sizes(spec, how->format, e);
    int rc = sizes ? layout_all(out, spec, sizes, base, how, e) : -1;

    free(sizes);
    if (rc < 0)
        lm_layout_free(out);
    return rc;
}

int lmi_h5_layout(struct lm_layout *out, const struct lm_write_spec *spec, const char *base, struct lm_err *e)
{
    static const struct manner how = {&lm_format_hdf5, file_name, true, lmi_layout_index};

    return layout(out, spec, base, &how, e);
}

/* ---- Keras' map: groups of variables, each with the shards that hold some */

static size_t group_length(const char *name)
{
    const char *slash = strrchr(name, '/');
    return slash ? (size_t)(slash - name) : 0;
}

static bool same_group(const char *a, const char *b)
{
    size_t n = group_length(a);
    return n == group_length(b) && memcmp(a, b, n) == 0;
}

/* Variables of a group follow each other. */
static void put_group(struct lmi_buffer *b, const struct lm_layout *out, const struct lm_write_spec *spec, size_t first,
                      size_t n)
{
    lmi_put_str(b, first ? ",\n        \"/" : "\n        \"/");
    lmi_put(b, spec->tensors[first].name, group_length(spec->tensors[first].name));
    lmi_put_str(b, "\": [");
    for (size_t i = first, last = SIZE_MAX; i < first + n; i++) {
        if (out->places[i].file == last)
            continue;
        lmi_put_str(b, last == SIZE_MAX ? "" : ", ");
        last = out->places[i].file;
        lmi_put_json_string(b, lm_span_str(out->files[last].name));
    }
    lmi_put_str(b, "]");
}

static int keras_index(struct lm_layout *out, const struct lm_write_spec *spec, uint64_t total, struct lm_err *e)
{
    struct lm_layout_file *f = &out->files[out->n_files - 1];
    struct lmi_buffer b = {0};

    lmi_put_str(&b, "{\n    \"metadata\": {\n        \"total_size\": ");
    lmi_put_number(&b, total);
    lmi_put_str(&b, "\n    },\n    \"weight_map\": {");
    for (size_t i = 0, n; i < spec->n_tensors; i += n) {
        n = 1;
        while (i + n < spec->n_tensors && same_group(spec->tensors[i].name, spec->tensors[i + n].name))
            n++;
        put_group(&b, out, spec, i, n);
    }
    lmi_put_str(&b, "\n    }\n}\n");
    f->head = b.data;
    f->n_head = f->n_bytes = b.n;
    f->last = true;
    return b.failed ? lmi_nomem(e) : 0;
}

int lmi_keras_layout(struct lm_layout *out, const struct lm_write_spec *spec, const char *base, struct lm_err *e)
{
    static const struct manner how = {&lm_format_keras, keras_name, false, keras_index};

    return layout(out, spec, base, &how, e);
}
