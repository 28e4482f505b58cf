/* Compressing a finished HDF5 file of ours.
 *
 * Sizes of compressed chunks are known only when the data are there, and a
 * layout knows all places before.  So the file is first written as it would be
 * without, then read through our mapping and written anew, chunk by chunk, into
 * a temporary file, whose bytes then replace it.  Chunks are shuffled and
 * deflated by all threads, a batch at a time; libhdf5 only puts them in place.
 * One that deflate does not make smaller is stored with that filter off. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include "libmodel/fmt/h5_make.h"
#include "libmodel/fmt/hdf5.h"

enum { CHUNK = 1 << 20, SMALL = 1024, BATCH = 16, LEVEL = 4, SKIP_DEFLATE = 2 };

struct pack {
    const struct lmi_h5_maker *w;
    struct lm_span map; /* the file as it is */
    hid_t src;
    struct lm_err *e;
    int rc;
};

/* One chunk of the batch: shuffled, then deflated. */
struct piece {
    uint8_t *raw, *shuffled, *packed;
    uLongf n_packed;
    uint32_t skip;
};

static int fail(struct pack *p, const char *name)
{
    char reason[300];

    return p->rc = lm_err_set(p->e, LM_IO, "'%.200s' cannot be compressed: %s", name, lmi_h5_reason(reason, sizeof reason));
}

/* Byte k of every element together. */
static void shuffle(uint8_t *dst, const uint8_t *src, size_t n_elems, size_t width)
{
    for (size_t k = 0; k < width; k++)
        for (size_t i = 0; i < n_elems; i++)
            dst[k * n_elems + i] = src[i * width + k];
}

static void pack_piece(struct piece *x, const uint8_t *src, size_t n, size_t n_chunk, size_t width)
{
    memcpy(x->raw, src, n);
    memset(x->raw + n, 0, n_chunk - n); /* the last chunk is whole too */
    shuffle(x->shuffled, x->raw, n_chunk / width, width);
    x->n_packed = compressBound(n_chunk);
    x->skip = compress2(x->packed, &x->n_packed, x->shuffled, n_chunk, LEVEL) == Z_OK && x->n_packed < n_chunk
                  ? 0 : SKIP_DEFLATE;
    if (x->skip)
        x->n_packed = n_chunk;
}

static void free_pieces(struct piece *x)
{
    for (int i = 0; i < BATCH; i++) {
        free(x[i].raw);
        free(x[i].shuffled);
        free(x[i].packed);
    }
}

static bool make_pieces(struct piece *x, size_t n_chunk)
{
    memset(x, 0, BATCH * sizeof *x);
    for (int i = 0; i < BATCH; i++) {
        x[i].raw = malloc(n_chunk);
        x[i].shuffled = malloc(n_chunk);
        x[i].packed = malloc(compressBound(n_chunk));
        if (!x[i].raw || !x[i].shuffled || !x[i].packed) {
            free_pieces(x);
            return false;
        }
    }
    return true;
}

/* A dataset of whole rows a chunk. */
struct cut { int n_dims; hsize_t dims[LM_MAX_DIMS], chunk[LM_MAX_DIMS]; uint64_t row; size_t width, n_chunk; };

static int write_batch(hid_t d, const struct cut *c, const uint8_t *data, hsize_t first, size_t n, struct piece *x)
{
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < n; i++) {
        hsize_t from = first + i * c->chunk[0], rows = c->dims[0] - from < c->chunk[0] ? c->dims[0] - from : c->chunk[0];
        pack_piece(&x[i], data + from * c->row, (size_t)(rows * c->row), c->n_chunk, c->width);
    }
    for (size_t i = 0; i < n; i++) {
        hsize_t at[LM_MAX_DIMS] = {first + i * c->chunk[0]};
        if (H5Dwrite_chunk(d, H5P_DEFAULT, x[i].skip, at, x[i].n_packed, x[i].skip ? x[i].shuffled : x[i].packed) < 0)
            return -1;
    }
    return 0;
}

static int write_chunks(hid_t d, const struct cut *c, const uint8_t *data)
{
    struct piece x[BATCH];
    hsize_t n = (c->dims[0] + c->chunk[0] - 1) / c->chunk[0];
    int rc = 0;

    if (!make_pieces(x, c->n_chunk))
        return -1;
    for (hsize_t i = 0; rc == 0 && i < n; i += BATCH)
        rc = write_batch(d, c, data, i * c->chunk[0], (size_t)(n - i < BATCH ? n - i : BATCH), x);
    free_pieces(x);
    return rc;
}

/* What is small, or has no rows, stays in one piece. */
static bool cut_up(struct cut *c, hid_t space, size_t width, uint64_t n_bytes)
{
    c->n_dims = H5Sget_simple_extent_ndims(space);
    if (n_bytes < SMALL || c->n_dims < 1 || c->n_dims > LM_MAX_DIMS)
        return false;
    H5Sget_simple_extent_dims(space, c->dims, NULL);
    memcpy(c->chunk, c->dims, sizeof c->chunk);
    c->width = width;
    c->row = n_bytes / c->dims[0];
    c->chunk[0] = c->row < CHUNK ? CHUNK / c->row : 1;
    if (c->chunk[0] > c->dims[0])
        c->chunk[0] = c->dims[0];
    c->n_chunk = (size_t)(c->chunk[0] * c->row);
    return c->n_chunk < UINT32_MAX / 2;
}

static hid_t packed_plist(const struct cut *c)
{
    hid_t p = H5Pcreate(H5P_DATASET_CREATE);

    if (p >= 0 && H5Pset_obj_track_times(p, 0) >= 0 && H5Pset_chunk(p, c->n_dims, c->chunk) >= 0 && H5Pset_shuffle(p) >= 0 &&
        H5Pset_deflate(p, LEVEL) >= 0 && H5Pset_fill_time(p, H5D_FILL_TIME_NEVER) >= 0)
        return p;
    return -1;
}

static herr_t copy_attr(hid_t from, const char *name, const H5A_info_t *info, void *to)
{
    hid_t a = H5Aopen(from, name, H5P_DEFAULT), type = H5Aget_type(a), space = H5Aget_space(a),
          b = H5Acreate2(*(hid_t *)to, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    char *text = NULL; /* the only attributes we write: one text */
    herr_t rc = H5Aread(a, type, &text) < 0 || H5Awrite(b, type, &text) < 0 ? -1 : 0;

    (void)info;
    H5free_memory(text);
    H5Aclose(b);
    H5Sclose(space);
    H5Tclose(type);
    H5Aclose(a);
    return rc;
}

static int pack_data(struct pack *p, hid_t from, hid_t to, hid_t type, const struct cut *c)
{
    haddr_t at = H5Dget_offset(from);
    hsize_t n = H5Dget_storage_size(from);

    if (n == 0)
        return 0;
    if (at > p->map.size || n > p->map.size - at)
        return -1;
    return c ? write_chunks(to, c, p->map.data + at)
             : H5Dwrite(to, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, p->map.data + at) < 0 ? -1 : 0;
}

static void pack_dataset(struct pack *p, hid_t from, hid_t parent, const char *name)
{
    struct cut c = {0};
    hid_t type = H5Dget_type(from), space = H5Dget_space(from);
    bool cut = cut_up(&c, space, H5Tget_size(type), H5Dget_storage_size(from));
    hid_t plist = cut ? packed_plist(&c) : H5Pcopy(p->w->dcpl);
    hid_t to = plist < 0 ? -1 : H5Dcreate2(parent, name, type, space, p->w->lcpl, plist, H5P_DEFAULT);

    if (to < 0 || pack_data(p, from, to, type, cut ? &c : NULL) < 0 ||
        H5Aiterate2(from, H5_INDEX_NAME, H5_ITER_INC, NULL, copy_attr, &to) < 0)
        fail(p, name);
    if (to >= 0)
        H5Dclose(to);
    if (plist >= 0)
        H5Pclose(plist);
    H5Sclose(space);
    H5Tclose(type);
}

struct level { struct pack *p; hid_t to; };

/* As deep as the names that we gave it: tensors' names are paths of a few parts. */
static herr_t pack_link(hid_t group, const char *name, const H5L_info_t *info, void *arg)
{
    struct level *l = arg;
    hid_t id = H5Oopen(group, name, H5P_DEFAULT);
    hsize_t at = 0;

    (void)info;
    if (id < 0)
        return fail(l->p, name);
    if (H5Iget_type(id) == H5I_DATASET) {
        pack_dataset(l->p, id, l->to, name);
    } else {
        struct level inner = {l->p, lmi_h5_make_group(l->p->w, l->to, name)};
        if (inner.to < 0 || H5Literate(id, H5_INDEX_CRT_ORDER, H5_ITER_INC, &at, pack_link, &inner) < 0)
            l->p->rc = l->p->rc < 0 ? -1 : fail(l->p, name);
        if (inner.to >= 0)
            H5Gclose(inner.to);
    }
    H5Oclose(id);
    return l->p->rc < 0 ? -1 : 0;
}

static int pack_all(const struct lmi_h5_maker *w, void *arg, struct lm_err *e)
{
    struct pack *p = arg;
    struct lmi_h5_driver driver;
    struct level root = {p, -1};
    hsize_t at = 0;

    p->w = w;
    p->e = e;
    p->src = lmi_h5_open_bytes(&driver, p->map);
    root.to = H5Gopen2(w->file, "/", H5P_DEFAULT);
    if (p->src < 0 || root.to < 0 || H5Literate(p->src, H5_INDEX_CRT_ORDER, H5_ITER_INC, &at, pack_link, &root) < 0)
        p->rc = p->rc < 0 ? -1 : fail(p, "/");
    if (root.to >= 0)
        H5Gclose(root.to);
    if (p->src >= 0)
        H5Fclose(p->src);
    lmi_h5_driver_free(&driver);
    return p->rc;
}

/* ---- the new bytes replace the old */

static int copy_back(int to, int from, uint64_t n, struct lm_err *e)
{
    enum { BUFFER = 1 << 20 };
    uint8_t *buf = malloc(BUFFER);
    int rc = buf ? 0 : lmi_nomem(e);

    for (uint64_t at = 0; rc == 0 && at < n;) {
        size_t want = n - at < BUFFER ? (size_t)(n - at) : BUFFER;
        ssize_t got = pread(from, buf, want, (off_t)at), put = got > 0 ? pwrite(to, buf, (size_t)got, (off_t)at) : got;
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            rc = put < 0 ? lm_err_errno(e, "cannot write the compressed file") : lm_err_set(e, LM_IO, "cut short");
        else
            at += (uint64_t)put;
    }
    free(buf);
    if (rc == 0 && ftruncate(to, (off_t)n) < 0)
        rc = lm_err_errno(e, "cannot write the compressed file");
    return rc;
}

int lmi_h5_finish(int fd, const struct lm_layout *l, size_t file, struct lm_err *e)
{
    size_t n = (size_t)l->files[file].n_bytes;
    uint64_t size = 0;

    if (!l->compress)
        return 0;
    void *map = mmap(NULL, n, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return lm_err_errno(e, "cannot map what was written");
    struct pack p = {.map = lm_span_of(map, n)};
    int out = lmi_open_unlinked(e), rc = out < 0 ? -1 : lmi_h5_make_in(out, &size, false, pack_all, &p, e);
    munmap(map, n);
    if (rc == 0)
        rc = copy_back(fd, out, size, e);
    if (out >= 0)
        close(out);
    return rc;
}
