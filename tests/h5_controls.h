/* For tests: small sound HDF5 files, one for each way libhdf5 keeps things,
 * made in memory and the same every time. */
#ifndef TESTS_H5_CONTROLS_H
#define TESTS_H5_CONTROLS_H

#include "tests/files.h"

#define H5_USE_110_API
#include <hdf5.h>

/* ---- pieces */

static const float h5_values[64] = {0.5f, -1, 2, -3.25f, 4, 5, 6, 7};

static inline hid_t h5_must(hid_t id)
{
    assert_true(id >= 0);
    return id;
}
static inline hid_t h5_creation(void)
{
    hid_t p = h5_must(H5Pcreate(H5P_DATASET_CREATE));

    H5Pset_obj_track_times(p, 0);
    return p;
}
static inline hid_t h5_chunks(int n_dims, const hsize_t *chunk)
{
    hid_t p = h5_creation();

    assert_true(H5Pset_chunk(p, n_dims, chunk) >= 0);
    return p;
}
/* Takes over p. maximum may be NULL. */
static inline void h5_put(hid_t at, const char *name, hid_t type, int n_dims, const hsize_t *dims, const hsize_t *maximum, hid_t p)
{
    hid_t space = h5_must(n_dims ? H5Screate_simple(n_dims, dims, maximum) : H5Screate(H5S_SCALAR));
    hid_t d = h5_must(H5Dcreate2(at, name, type, space, H5P_DEFAULT, p, H5P_DEFAULT));

    if (H5Pget_layout(p) != H5D_VIRTUAL && H5Pget_external_count(p) <= 0)
        assert_true(H5Dwrite(d, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, h5_values) >= 0);
    H5Dclose(d);
    H5Sclose(space);
    H5Pclose(p);
}
static inline void h5_plain(hid_t at, const char *name)
{
    h5_put(at, name, H5T_IEEE_F32LE, 2, (const hsize_t[]){2, 3}, NULL, h5_creation());
}
static inline hid_t h5_group(hid_t at, const char *name)
{
    hid_t p = h5_must(H5Pcreate(H5P_GROUP_CREATE));

    H5Pset_obj_track_times(p, 0);
    hid_t g = h5_must(H5Gcreate2(at, name, H5P_DEFAULT, p, H5P_DEFAULT));
    H5Pclose(p);
    return g;
}
/* n values, or one where n is 0. */
static inline void h5_attr(hid_t at, const char *name, hid_t type, hsize_t n, const void *data)
{
    hid_t space = h5_must(n ? H5Screate_simple(1, &n, NULL) : H5Screate(H5S_SCALAR));
    hid_t a = h5_must(H5Acreate2(at, name, type, space, H5P_DEFAULT, H5P_DEFAULT));

    assert_true(H5Awrite(a, type, data) >= 0);
    H5Aclose(a);
    H5Sclose(space);
}
static inline hid_t h5_text(size_t size)
{
    hid_t t = h5_must(H5Tcopy(H5T_C_S1));

    H5Tset_size(t, size);
    return t;
}
static inline hid_t h5_complex(void)
{
    hid_t t = h5_must(H5Tcreate(H5T_COMPOUND, 8));

    H5Tinsert(t, "r", 0, H5T_IEEE_F32LE);
    H5Tinsert(t, "i", 4, H5T_IEEE_F32LE);
    return t;
}

/* ---- whole files */

/* Tensors in one piece, compact and scalar ones, types made of others. */
static inline void h5_fill_old(hid_t f)
{
    hid_t compact = h5_creation(), pair = h5_complex(), text = h5_text(8), raw = h5_must(H5Tcreate(H5T_OPAQUE, 2));
    const int16_t numbers[4] = {1, 2, 3, 4};

    h5_plain(f, "plain");
    H5Pset_layout(compact, H5D_COMPACT);
    h5_put(f, "compact", H5T_STD_I32BE, 1, (const hsize_t[]){3}, NULL, compact);
    h5_put(f, "one", H5T_IEEE_F64BE, 0, NULL, NULL, h5_creation());
    h5_put(f, "pairs", pair, 1, (const hsize_t[]){2}, NULL, h5_creation());
    h5_put(f, "raw", raw, 1, (const hsize_t[]){2}, NULL, h5_creation());
    h5_attr(f, "numbers", H5T_STD_I16LE, 4, numbers);
    h5_attr(f, "text", text, 0, "abc\0\0\0\0");
    H5Tclose(pair);
    H5Tclose(text);
    H5Tclose(raw);
}

/* Chunks in a B-tree, compressed; texts of any length in a global heap. */
static inline void h5_fill_old_chunks(hid_t f)
{
    hid_t p = h5_chunks(2, (const hsize_t[]){2, 3}), texts = h5_text(H5T_VARIABLE);
    const char *const two[2] = {"a", "longer"};

    h5_put(f, "chunks", H5T_IEEE_F32LE, 2, (const hsize_t[]){4, 5}, NULL, h5_chunks(2, (const hsize_t[]){2, 3}));
    H5Pset_shuffle(p);
    H5Pset_deflate(p, 6);
    H5Pset_fletcher32(p);
    h5_put(f, "packed", H5T_STD_U16LE, 2, (const hsize_t[]){4, 4}, NULL, p);
    h5_attr(f, "texts", texts, 2, two);
    H5Tclose(texts);
}

/* Groups with more links than one symbol node has, and links of other kinds. */
static inline void h5_fill_old_groups(hid_t f)
{
    hid_t g = h5_group(f, "group"), deep = h5_group(g, "deep");
    char name[16];

    for (int i = 0; i < 10; i++) {
        snprintf(name, sizeof name, "t%d", i);
        H5Gclose(h5_group(g, name));
    }
    h5_plain(deep, "w");
    H5Lcreate_soft("/group/deep/w", f, "soft", H5P_DEFAULT, H5P_DEFAULT);
    H5Lcreate_hard(deep, "w", f, "hard", H5P_DEFAULT, H5P_DEFAULT);
    H5Gclose(deep);
    H5Gclose(g);
}

/* The five ways of finding chunks since 1.10. */
static inline void h5_fill_chunks(hid_t f)
{
    static const hsize_t dims[2] = {4, 5}, one[2] = {H5S_UNLIMITED, 5}, both[2] = {H5S_UNLIMITED, H5S_UNLIMITED}, chunk[2] = {2, 3};
    hid_t early = h5_chunks(2, chunk), packed = h5_chunks(2, chunk), single = h5_chunks(2, dims);

    H5Pset_deflate(single, 1);
    h5_put(f, "single", H5T_IEEE_F32LE, 2, dims, NULL, single);
    H5Pset_alloc_time(early, H5D_ALLOC_TIME_EARLY);
    h5_put(f, "implicit", H5T_IEEE_F32LE, 2, dims, NULL, early);
    h5_put(f, "fixed", H5T_IEEE_F32LE, 2, dims, dims, h5_chunks(2, chunk));
    H5Pset_fletcher32(packed);
    H5Pset_deflate(packed, 1);
    h5_put(f, "packed", H5T_IEEE_F32LE, 2, dims, dims, packed);
    h5_put(f, "growing", H5T_IEEE_F32LE, 2, dims, one, h5_chunks(2, chunk));
    h5_put(f, "growing twice", H5T_IEEE_F32LE, 2, dims, both, h5_chunks(2, chunk));
}

/* Links and attributes in fractal heaps, found by B-trees of version 2. */
static inline void h5_fill_dense(hid_t f)
{
    hid_t p = h5_must(H5Pcreate(H5P_GROUP_CREATE));
    char name[16];

    H5Pset_obj_track_times(p, 0);
    H5Pset_link_creation_order(p, H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED);
    hid_t g = h5_must(H5Gcreate2(f, "dense", H5P_DEFAULT, p, H5P_DEFAULT)), inner = h5_group(g, "g");
    for (int i = 0; i < 10; i++) {
        snprintf(name, sizeof name, "t%d", i);
        H5Lcreate_hard(g, "g", g, name, H5P_DEFAULT, H5P_DEFAULT);
        h5_attr(g, name, H5T_STD_I32LE, 0, &i);
    }
    h5_plain(f, "w");
    H5Gclose(inner);
    H5Gclose(g);
    H5Pclose(p);
}

/* Weights of Keras 2: names in attributes, beside the layers' groups. */
static inline void h5_fill_keras2(hid_t f)
{
    hid_t g = h5_group(f, "dense"), text = h5_text(8);

    h5_plain(g, "kernel:0");
    h5_attr(f, "layer_names", text, 1, "dense\0\0");
    h5_attr(f, "backend", text, 0, "tf\0\0\0\0\0");
    h5_attr(g, "weight_names", text, 1, "kernel:0");
    H5Tclose(text);
    H5Gclose(g);
}

/* What leads out of the file. */
static inline void h5_fill_outside(hid_t f)
{
    static const hsize_t four[1] = {4};
    hid_t stored = h5_creation();

    h5_plain(f, "plain");
    H5Lcreate_external("/etc/hostname", "/x", f, "link", H5P_DEFAULT, H5P_DEFAULT);
    H5Pset_external(stored, "/etc/hostname", 0, 4);
    h5_put(f, "stored", H5T_STD_U8LE, 1, four, NULL, stored);
}
static inline void h5_fill_virtual(hid_t f)
{
    static const hsize_t four[1] = {4};
    hid_t p = h5_creation(), space = h5_must(H5Screate_simple(1, four, NULL));

    h5_plain(f, "plain");
    assert_true(H5Pset_virtual(p, space, "/etc/hostname", "x", space) >= 0);
    h5_put(f, "virtual", H5T_STD_U8LE, 1, four, NULL, p);
    H5Sclose(space);
}

struct h5_control {
    const char *name;
    void (*fill)(hid_t file);
    bool new;            /* with the forms of HDF5 1.10 */
    const char *refused; /* it opens: NULL */
};
static const struct h5_control h5_controls[] = {
    {"old", h5_fill_old, false, NULL},
    {"old chunks", h5_fill_old_chunks, false, NULL},
    {"old groups", h5_fill_old_groups, false, NULL},
    {"old Keras", h5_fill_keras2, false, NULL},
    {"old outside", h5_fill_outside, false, "which is not opened"},
    {"new", h5_fill_old, true, NULL},
    {"new chunks", h5_fill_chunks, true, NULL},
    {"new groups", h5_fill_old_groups, true, NULL},
    {"new dense", h5_fill_dense, true, NULL},
    {"new Keras", h5_fill_keras2, true, NULL},
    {"new outside", h5_fill_outside, true, "which is not opened"},
    {"new virtual", h5_fill_virtual, true, "a virtual dataset"},
};
enum { N_H5_CONTROLS = sizeof h5_controls / sizeof h5_controls[0] };

/* In the tests' folder: an image taken of an open file still changes when it is closed. */
static inline void h5_build(struct bytes *out, const struct h5_control *c)
{
    const char *path = path_in(dir, "control.h5");
    hid_t access = h5_must(H5Pcreate(H5P_FILE_ACCESS)), how = h5_must(H5Pcreate(H5P_FILE_CREATE));
    struct stat s;

    H5Pset_libver_bounds(access, c->new ? H5F_LIBVER_V110 : H5F_LIBVER_EARLIEST, H5F_LIBVER_V110);
    H5Pset_obj_track_times(how, 0);
    hid_t f = h5_must(H5Fcreate(path, H5F_ACC_TRUNC, how, access));
    c->fill(f);
    assert_true(H5Fclose(f) >= 0);
    H5Pclose(how);
    H5Pclose(access);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0 && fstat(fd, &s) == 0);
    put_zeros(out, (size_t)s.st_size);
    assert_int_equal(read(fd, out->data, out->n), s.st_size);
    close(fd);
}
#endif
