#include "libmodel/fmt/views.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "libmodel/parse/zip.h"

typedef unsigned long long ull; /* for printf */

enum { ALIGN = 64, MAX_EXPANSION = 64, SMALL = 1 << 20 };

/* One thing to compute into a temporary file. Lives in the model's arena. */
struct lmi_fill {
    struct lmi_fill *next;
    size_t file; /* the temporary file */
    uint64_t offset, n_bytes;
    const struct lmi_blob *inflate; /* its own place before it was placed; or NULL and: */
    const struct lmi_view *view;
    enum lm_dtype dtype;
};

struct lmi_view *lmi_view_new(struct lmi_view_list *list)
{
    if (list->n == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 128;
        struct lmi_view *bigger = reallocarray(list->v, capacity, sizeof *bigger);
        if (!bigger)
            return NULL;
        list->v = bigger;
        list->capacity = capacity;
    }
    memset(&list->v[list->n], 0, sizeof *list->v);
    return &list->v[list->n++];
}

void lmi_view_row_major(struct lmi_view *v)
{
    uint64_t stride = 1;

    for (unsigned i = v->n_dims; i-- > 0;) {
        v->stride[i] = stride;
        stride *= v->shape[i]; /* whoever uses it measures the shape first or after: lmi_views_add does */
    }
}

/* ---- checks */

static int bad(const struct lmi_view *v, struct lm_err *e, const char *what)
{
    return lm_err_set(e, LM_MALFORMED, "tensor '%.*s': %s", LMI_SHOW(v->name), what);
}

/* One past the last element that is reached, in elements of the blob. */
static int reach(const struct lmi_view *v, uint64_t *end, struct lm_err *e)
{
    uint64_t last = v->offset, step;

    for (unsigned i = 0; i < v->n_dims; i++)
        if (v->shape[i] == 0)
            return *end = 0, 0;
    for (unsigned i = 0; i < v->n_dims; i++)
        if (!lm_mul_u64(v->shape[i] - 1, v->stride[i], &step) || !lm_add_u64(last, step, &last))
            return bad(v, e, "its strides overflow 64 bits");
    return lm_add_u64(last, 1, end) ? 0 : bad(v, e, "its strides overflow 64 bits");
}

static bool is_row_major(const struct lmi_view *v)
{
    uint64_t stride = 1;

    for (unsigned i = v->n_dims; i-- > 0;) {
        if (v->shape[i] == 0)
            return true;
        if (v->shape[i] != 1 && v->stride[i] != stride)
            return false;
        stride *= v->shape[i]; /* fits: measured */
    }
    return true;
}

/* Types in blocks lie in order, or nowhere. */
static int check_in_order(const struct lmi_view *v, uint64_t n_bytes, struct lm_err *e)
{
    if (v->offset || !is_row_major(v) || n_bytes > v->blob->n_bytes)
        return bad(v, e, "its blocks are not one after the other in its data");
    return 0;
}

static int check_view(const struct lmi_view *v, uint64_t *n_elems, struct lm_err *e)
{
    uint64_t end = 0, n_bytes, need;
    const struct lm_dtype_info *d = lm_dtype_info(v->dtype);

    if (lmi_tensor_measure(v->name, v->dtype, v->shape, v->n_dims, n_elems, &n_bytes, e) < 0 || reach(v, &end, e) < 0)
        return -1;
    if (d->block_elems > 1)
        return check_in_order(v, n_bytes, e);
    if (!lm_mul_u64(end, d->block_bytes, &need) || need > v->blob->n_bytes)
        return lm_err_set(e, LM_MALFORMED, "tensor '%.*s' reaches element %llu of a storage of %llu bytes (%s)",
                          LMI_SHOW(v->name), (ull)end, (ull)v->blob->n_bytes, d->name);
    if (n_bytes > SMALL && n_bytes / MAX_EXPANSION > v->blob->n_bytes)
        return lm_err_set(e, LM_LIMIT, "tensor '%.*s' repeats a storage of %llu bytes to %llu, more than %d times: refused",
                          LMI_SHOW(v->name), (ull)v->blob->n_bytes, (ull)n_bytes, MAX_EXPANSION);
    return 0;
}

/* A whole along an axis that has as many elements as there are channels. */
static int check_channels(const struct lmi_view *v, struct lm_err *e)
{
    const struct lmi_view *each[2] = {v->scales, v->zeros};
    uint64_t n;

    if (v->axis >= v->n_dims)
        return bad(v, e, "its quantization axis is not one of its dimensions");
    for (int i = 0; i < 2; i++) {
        if (each[i]->n_dims != 1 || each[i]->shape[0] != v->shape[v->axis])
            return bad(v, e, "its scales or zero points are not one a channel");
        if (!lm_dtype_info(each[i]->dtype)->to_f32 || check_view(each[i], &n, e) < 0)
            return bad(v, e, "its scales or zero points cannot be read");
    }
    return 0;
}

static int check_parts(const struct lmi_view *v, struct lm_err *e)
{
    uint64_t sum = 0, n;

    for (size_t i = 0; i < v->n_parts; i++) {
        const struct lmi_view *p = &v->parts[i];
        bool same = p->dtype == v->dtype && p->n_dims == v->n_dims && p->big_endian == v->big_endian;
        for (unsigned d = 0; same && d < v->n_dims; d++)
            same = d == v->join_dim || p->shape[d] == v->shape[d];
        if (!same || v->join_dim >= v->n_dims || !lm_add_u64(sum, p->shape[v->join_dim], &sum))
            return bad(v, e, "its parts in the shards do not fit together");
        if (check_view(p, &n, e) < 0)
            return -1;
    }
    return sum == v->shape[v->join_dim] ? 0 : bad(v, e, "its parts in the shards do not make the whole");
}

/* Signed bytes in order, then a scale for every group. */
static int check_groups(const struct lmi_view *v, uint64_t n_elems, struct lm_err *e)
{
    uint64_t scales, n;

    if (v->dtype != LM_I8 || v->offset || v->group == 0 || n_elems % v->group || !is_row_major(v) ||
        !lm_mul_u64(n_elems / v->group, sizeof(float), &scales) || !lm_add_u64(n_elems, scales, &n) || n > v->blob->n_bytes)
        return bad(v, e, "its groups do not fit its data");
    return 0;
}

/* Whole blocks in every row, and as many as the blob has. */
static int check_blocks(const struct lmi_view *v, struct lm_err *e)
{
    const struct lmi_old_blocks *b = v->blocks;
    uint64_t n_elems, n_bytes, need = 0;

    if (lmi_tensor_measure(v->name, LM_F32, v->shape, v->n_dims, &n_elems, &n_bytes, e) < 0)
        return -1;
    if (v->n_dims == 0 || v->shape[v->n_dims - 1] % b->n_elems || !lm_mul_u64(n_elems / b->n_elems, b->n_bytes, &need) ||
        need != v->blob->n_bytes)
        return bad(v, e, "its rows are not whole blocks");
    return 0;
}

static int check(const struct lmi_view *v, struct lm_err *e)
{
    uint64_t n;

    if (v->n_dims > LM_MAX_DIMS)
        return lm_err_set(e, LM_LIMIT, "tensor '%.*s' has %u dimensions, at most %d are handled", LMI_SHOW(v->name),
                          v->n_dims, LM_MAX_DIMS);
    if (v->n_parts)
        return check_parts(v, e);
    if (v->bytes)
        return 0;
    if (v->quant == LMI_QUANT_BLOCKS)
        return check_blocks(v, e);
    if (check_view(v, &n, e) < 0)
        return -1;
    if (v->quant == LMI_QUANT_GROUP)
        return check_groups(v, n, e);
    return v->quant == LMI_QUANT_CHANNEL ? check_channels(v, e) : 0;
}

/* ---- what goes to the temporary file */

/* How large it becomes, and a limit for all that is repeated together. */
struct plan {
    struct lm_model *m;
    struct lmi_fill *fills, **tail;
    uint64_t n_bytes, n_sources;
    size_t file;
};

static int reserve(struct plan *p, struct lmi_fill what, uint64_t *offset, struct lm_err *e)
{
    struct lmi_fill *f = lm_arena_alloc(&p->m->arena, sizeof *f);

    if (!f)
        return lmi_nomem(e);
    *f = what;
    f->file = p->file;
    if (!lm_align_up_u64(p->n_bytes, ALIGN, &f->offset) || !lm_add_u64(f->offset, f->n_bytes, &p->n_bytes) ||
        p->n_bytes > INT64_MAX)
        return lm_err_set(e, LM_LIMIT, "the tensors together overflow 64 bits");
    *offset = f->offset;
    *p->tail = f;
    p->tail = &f->next;
    return 0;
}

static int place_blob(struct plan *p, struct lmi_blob *b, struct lm_err *e)
{
    struct lmi_blob *original;
    uint64_t n;

    if ((!b->deflated && !b->producer) || b->placed)
        return 0;
    if (!lm_add_u64(b->skip, b->n_bytes, &n))
        return lm_err_set(e, LM_LIMIT, "a deflated member overflows 64 bits");
    original = lm_arena_alloc(&p->m->arena, sizeof *original);
    if (!original)
        return lmi_nomem(e);
    *original = *b;
    if (reserve(p, (struct lmi_fill){.inflate = original, .n_bytes = n}, &b->offset, e) < 0)
        return -1;
    b->offset += b->skip;
    b->file = p->file;
    b->placed = true;
    return 0;
}

static int place_blobs(struct plan *p, const struct lmi_view *v, struct lm_err *e)
{
    for (size_t i = 0; i < v->n_parts; i++)
        if (place_blobs(p, &v->parts[i], e) < 0) /* parts have no parts */
            return -1;
    if (v->n_parts || v->bytes)
        return 0;
    if (v->quant == LMI_QUANT_CHANNEL && (place_blob(p, v->scales->blob, e) < 0 || place_blob(p, v->zeros->blob, e) < 0))
        return -1;
    return place_blob(p, v->blob, e);
}

/* Where the bytes of the tensor will be; n_bytes and dtype as the model sees it. */
static int place_view(struct plan *p, const struct lmi_view *v, struct lm_tensor *t, struct lm_err *e)
{
    uint64_t n_elems;
    struct lmi_view *own;

    *t = (struct lm_tensor){.dtype = v->quant ? LM_F32 : v->dtype, .n_dims = v->n_dims,
                            .big_endian = v->big_endian && !v->quant};
    memcpy(t->shape, v->n_shown ? v->shown : v->shape, sizeof t->shape);
    t->n_dims = v->n_shown ? v->n_shown : v->n_dims;
    if (lmi_tensor_measure(v->name, t->dtype, t->shape, t->n_dims, &n_elems, &t->n_bytes, e) < 0)
        return -1;
    if (!v->quant && !v->n_parts && !v->bytes && is_row_major(v)) {
        t->file = v->blob->file;
        t->offset = t->n_bytes ? v->blob->offset + v->offset * lm_dtype_info(v->dtype)->block_bytes : v->blob->offset;
        return 0;
    }
    own = lm_arena_alloc(&p->m->arena, sizeof *own);
    if (!own)
        return lmi_nomem(e);
    *own = *v;
    t->file = p->file;
    return reserve(p, (struct lmi_fill){.view = own, .dtype = t->dtype, .n_bytes = t->n_bytes}, &t->offset, e);
}

int lmi_open_unlinked(struct lm_err *e)
{
    const char *folder = getenv("TMPDIR");
    char path[4096];
    int fd;

    folder = folder && *folder ? folder : "/tmp";
    fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0)
        return fd;
    if (snprintf(path, sizeof path, "%s/libmodel-XXXXXX", folder) >= (int)sizeof path)
        return lm_err_set(e, LM_IO, "TMPDIR is too long");
    fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        return lm_err_errno(e, "%s: cannot make a temporary file", folder);
    unlink(path);
    return fd;
}

/* A hole until lmi_views_fill: whoever only lists pays nothing. */
static int make_file(struct plan *p, const char *path, struct lm_err *e)
{
    struct lm_model_file f = {.path = path, .made = true};

    f.fd = lmi_open_unlinked(e);
    if (f.fd < 0)
        return -1;
    if (ftruncate(f.fd, (off_t)p->n_bytes) < 0) {
        lm_err_errno(e, "cannot make a temporary file of %llu bytes", (ull)p->n_bytes);
        close(f.fd);
        return -1;
    }
    void *map = mmap(NULL, (size_t)p->n_bytes, PROT_READ, MAP_SHARED, f.fd, 0);
    if (map == MAP_FAILED) {
        lm_err_errno(e, "cannot map a temporary file of %llu bytes", (ull)p->n_bytes);
        close(f.fd);
        return -1;
    }
    f.map = lm_span_of(map, (size_t)p->n_bytes);
    return lmi_model_adopt_file(p->m, &f, e);
}

static int check_total(const struct plan *p, struct lm_err *e)
{
    if (p->n_bytes > 64u * SMALL && p->n_bytes / MAX_EXPANSION > p->n_sources)
        return lm_err_set(e, LM_LIMIT, "tensors of %llu bytes would have to be computed from %llu bytes: refused",
                          (ull)p->n_bytes, (ull)p->n_sources);
    return 0;
}

static int place_all(struct plan *p, struct lmi_view *views, size_t n, struct lm_tensor *ts, struct lm_err *e)
{
    for (size_t i = 0; i < n; i++)
        if (check(&views[i], e) < 0)
            return -1;
    for (size_t i = 0; i < n; i++)
        if (place_blobs(p, &views[i], e) < 0)
            return -1;
    p->n_sources += p->n_bytes;
    for (size_t i = 0; i < n; i++)
        if (place_view(p, &views[i], &ts[i], e) < 0)
            return -1;
    return check_total(p, e);
}

int lmi_views_add(struct lm_model *m, struct lmi_view *views, size_t n, const char *path, struct lm_err *e)
{
    struct plan p = {.m = m, .file = m->n_files, .tail = &p.fills};
    struct lm_tensor *ts = calloc(n + 1, sizeof *ts);
    int rc = ts ? 0 : lmi_nomem(e);

    for (size_t i = 0; i < m->n_files; i++)
        p.n_sources += m->files[i].map.size;
    if (rc == 0)
        rc = place_all(&p, views, n, ts, e);
    if (rc == 0 && p.n_bytes)
        rc = make_file(&p, path, e);
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = lm_model_add_tensor(m, views[i].name, &ts[i], e);
    free(ts);
    if (rc == 0) {
        *p.tail = m->fills;
        m->fills = p.fills;
    }
    return rc;
}

/* ---- computing */

struct copy {
    unsigned n_dims, elem;
    const uint64_t *shape;
    uint64_t from[LM_MAX_DIMS], to[LM_MAX_DIMS]; /* strides in bytes */
};

/* rows x columns elements. Both orders jump in memory somewhere: tiles keep the
 * jumps within the caches. */
static void copy_plane(const struct copy *c, const uint8_t *src, uint8_t *dst, unsigned d)
{
    enum { TILE = 32 };
    uint64_t rows = c->shape[d], columns = c->shape[d + 1];

    if (c->from[d + 1] == c->elem && c->to[d + 1] == c->elem) {
        for (uint64_t i = 0; i < rows; i++)
            memcpy(dst + i * c->to[d], src + i * c->from[d], columns * c->elem);
        return;
    }
    for (uint64_t i0 = 0; i0 < rows; i0 += TILE)
        for (uint64_t j0 = 0; j0 < columns; j0 += TILE)
            for (uint64_t i = i0; i < rows && i < i0 + TILE; i++)
                for (uint64_t j = j0; j < columns && j < j0 + TILE; j++)
                    memcpy(dst + i * c->to[d] + j * c->to[d + 1], src + i * c->from[d] + j * c->from[d + 1], c->elem);
}

/* Depth is at most LM_MAX_DIMS. */
static void copy_dims(const struct copy *c, const uint8_t *src, uint8_t *dst, unsigned d)
{
    if (d + 2 == c->n_dims) {
        copy_plane(c, src, dst, d);
        return;
    }
    if (d == c->n_dims) {
        memcpy(dst, src, c->elem);
        return;
    }
    for (uint64_t i = 0; i < c->shape[d]; i++)
        copy_dims(c, src + i * c->from[d], dst + i * c->to[d], d + 1);
}

static const uint8_t *first_of(const struct lm_model *m, const struct lmi_view *v)
{
    return m->files[v->blob->file].map.data + v->blob->offset + v->offset * lm_dtype_info(v->dtype)->block_bytes;
}

/* v into a row-major tensor of the given shape, from element `at` of dimension `dim` on. */
static void copy_view(const struct lm_model *m, const struct lmi_view *v, const uint64_t *whole, uint64_t at, unsigned dim,
                      uint8_t *dst)
{
    struct copy c = {.n_dims = v->n_dims, .elem = lm_dtype_info(v->dtype)->block_bytes, .shape = v->shape};
    uint64_t stride = c.elem;

    for (unsigned i = v->n_dims; i-- > 0;) {
        if (v->shape[i] == 0)
            return;
        c.from[i] = v->stride[i] * c.elem;
        c.to[i] = stride;
        stride *= whole[i];
    }
    if (at)
        dst += at * c.to[dim];
    copy_dims(&c, first_of(m, v), dst, 0);
}

static void join(const struct lm_model *m, const struct lmi_view *v, uint8_t *dst)
{
    uint64_t at = 0;

    for (size_t i = 0; i < v->n_parts; i++) {
        copy_view(m, &v->parts[i], v->shape, at, v->join_dim, dst);
        at += v->parts[i].shape[v->join_dim];
    }
}

static double value_at(const struct lm_model *m, const struct lmi_view *v, uint64_t element)
{
    const struct lm_dtype_info *d = lm_dtype_info(v->dtype);
    uint8_t raw[16];
    double wide;
    float f;

    memcpy(raw, first_of(m, v) + element * d->block_bytes, d->block_bytes);
    if (v->big_endian)
        lm_dtype_swap(v->dtype, raw, 1);
    if (v->dtype == LM_F64) { /* scales are doubles, and their product is rounded once */
        memcpy(&wide, raw, sizeof wide);
        return wide;
    }
    d->to_f32(&f, raw, 1);
    return (double)f;
}

static void dequantize_groups(const struct lm_model *m, const struct lmi_view *v, uint8_t *dst)
{
    const uint8_t *q = first_of(m, v), *scales = m->files[v->blob->file].map.data + v->blob->offset;
    uint64_t n = 1;

    for (unsigned i = 0; i < v->n_dims; i++)
        n *= v->shape[i];
    scales += n;
    for (uint64_t k = 0; k < n; k++) {
        float f = (float)(int8_t)q[k] * lm_load_f32le(scales + k / v->group * sizeof f);
        memcpy(dst + k * sizeof f, &f, sizeof f);
    }
}

static void dequantize_blocks(const struct lm_model *m, const struct lmi_view *v, uint8_t *dst)
{
    const struct lmi_old_blocks *b = v->blocks;
    const uint8_t *src = m->files[v->blob->file].map.data + v->blob->offset;
    float x[64];

    for (uint64_t at = 0; at < v->blob->n_bytes; at += b->n_bytes, dst += b->n_elems * sizeof *x) {
        b->decode(x, src + at);
        memcpy(dst, x, b->n_elems * sizeof *x);
    }
}

/* As PyTorch's dequantize: a scale per tensor is rounded to float before the
 * product, one per channel is not. */
static void dequantize(const struct lm_model *m, const struct lmi_view *v, uint8_t *dst)
{
    uint64_t index[LM_MAX_DIMS] = {0}, n = 1;

    for (unsigned i = 0; i < v->n_dims; i++)
        n *= v->shape[i];
    for (uint64_t k = 0; k < n; k++, dst += sizeof(float)) {
        uint64_t at = 0;
        for (unsigned i = 0; i < v->n_dims; i++)
            at += index[i] * v->stride[i];
        uint64_t c = v->quant == LMI_QUANT_CHANNEL ? index[v->axis] : 0;
        double zero = v->quant == LMI_QUANT_CHANNEL ? value_at(m, v->zeros, c * v->zeros->stride[0]) : (double)v->zero;
        double scale = v->quant == LMI_QUANT_CHANNEL ? value_at(m, v->scales, c * v->scales->stride[0]) : v->scale;
        double q = value_at(m, v, at) - zero;
        float f = v->quant == LMI_QUANT_CHANNEL ? (float)(q * scale) : (float)q * (float)scale;
        memcpy(dst, &f, sizeof f);
        for (unsigned i = v->n_dims; i-- > 0 && ++index[i] == v->shape[i];)
            index[i] = 0;
    }
}

static int fill(struct lm_model *m, const struct lmi_fill *f, uint8_t *dst, struct lm_err *e)
{
    const struct lmi_blob *b = f->inflate;

    if (b && b->producer) {
        bool made = b->producer->made;
        b->producer->made = true;
        return made ? 0 : b->producer->make(m, b->producer, dst - f->offset, e);
    }
    if (b)
        return lmi_inflate(dst, f->n_bytes, true,
                           lm_span_of(m->files[b->file].map.data + b->offset, (size_t)b->n_stored), b->crc, e);
    if (f->view->bytes)
        memcpy(dst, f->view->bytes, f->n_bytes);
    else if (f->view->n_parts)
        join(m, f->view, dst);
    else if (f->view->quant == LMI_QUANT_GROUP)
        dequantize_groups(m, f->view, dst);
    else if (f->view->quant == LMI_QUANT_BLOCKS)
        dequantize_blocks(m, f->view, dst);
    else if (f->view->quant)
        dequantize(m, f->view, dst);
    else
        copy_view(m, f->view, f->view->shape, 0, 0, dst);
    return 0;
}

/* All room is taken before the first byte: a full disk is an error here, not a
 * SIGBUS later. */
static int fill_file(struct lm_model *m, size_t file, struct lm_err *e)
{
    const struct lm_model_file *f = &m->files[file];
    int rc = posix_fallocate(f->fd, 0, (off_t)f->map.size);

    if (rc != 0) {
        errno = rc;
        return lm_err_errno(e, "no room for %zu bytes of temporary data (set TMPDIR to a larger folder)", f->map.size);
    }
    uint8_t *map = mmap(NULL, f->map.size, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
    if (map == MAP_FAILED)
        return lm_err_errno(e, "cannot map %zu bytes of temporary data", f->map.size);
    /* Blobs come first in the list of their file: views of them are copied after. */
    for (const struct lmi_fill *x = m->fills; x && rc == 0; x = x->next)
        if (x->file == file)
            rc = fill(m, x, map + x->offset, e);
    munmap(map, f->map.size);
    return rc < 0 ? lm_err_prefix(e, "%s", f->path) : 0;
}

int lmi_views_fill(struct lm_model *m, struct lm_err *e)
{
    for (size_t i = 0; i < m->n_files; i++)
        if (m->files[i].made && fill_file(m, i, e) < 0)
            return -1;
    m->fills = NULL;
    return 0;
}
