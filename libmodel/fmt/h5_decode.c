/* Produces the bytes of datasets that do not lie in one piece of their file.
 * Runs in the box of h5_box.c; the destination is shared memory. */
#include "libmodel/fmt/h5_lib.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SLAB = 16 << 20 };

/* Rows of the first dimension that make whole chunks and about SLAB bytes, so
 * that what libhdf5 keeps about a selection stays small. */
static hsize_t slab_rows(hid_t dataset, int n_dims, const hsize_t *dims, uint64_t row_bytes)
{
    hsize_t chunk[H5S_MAX_RANK] = {0}, unit = 1, rows;
    hid_t plist = H5Dget_create_plist(dataset);

    if (plist >= 0 && H5Pget_layout(plist) == H5D_CHUNKED && H5Pget_chunk(plist, n_dims, chunk) == n_dims && chunk[0])
        unit = chunk[0];
    if (plist >= 0)
        H5Pclose(plist);
    rows = row_bytes ? SLAB / row_bytes / unit * unit : dims[0];
    return rows < unit ? unit : rows;
}

/* why gets the reason at once: libhdf5 forgets it with the next call. */
static herr_t read_slab(hid_t dataset, hid_t type, hid_t space, int n_dims, const hsize_t *dims, hsize_t from, hsize_t n,
                        uint8_t *dst, char *why, size_t size)
{
    hsize_t start[H5S_MAX_RANK] = {0}, count[H5S_MAX_RANK];
    herr_t rc = -1;

    memcpy(count, dims, (size_t)n_dims * sizeof *count);
    start[0] = from;
    count[0] = n;
    hid_t memory = H5Screate_simple(n_dims, count, NULL);
    if (memory >= 0 && H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, count, NULL) >= 0)
        rc = H5Dread(dataset, type, memory, space, H5P_DEFAULT, dst);
    if (rc < 0)
        lmi_h5_reason(why, size);
    if (memory >= 0)
        H5Sclose(memory);
    return rc;
}

/* Finished pages leave this process; they stay in the file that is mapped. */
static void let_go(const uint8_t *from, uint64_t n)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = ((uintptr_t)from + page - 1) & ~(page - 1),
              last = ((uintptr_t)from + (uintptr_t)n) & ~(page - 1);

    if (last > first)
        madvise((void *)first, last - first, MADV_DONTNEED);
}

static herr_t read_whole(hid_t dataset, hid_t type, uint8_t *dst, char *why, size_t size)
{
    herr_t rc = H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, dst);

    if (rc < 0)
        lmi_h5_reason(why, size);
    return rc;
}

static herr_t read_all(hid_t dataset, hid_t type, hid_t space, const struct lmi_h5_job *job, char *why, size_t size)
{
    hsize_t dims[H5S_MAX_RANK] = {0};
    int n_dims = H5Sget_simple_extent_dims(space, dims, NULL);

    if (n_dims < 1 || dims[0] == 0)
        return n_dims < 0 ? -1 : read_whole(dataset, type, job->dst, why, size);
    uint64_t row = job->n_bytes / dims[0];
    hsize_t step = slab_rows(dataset, n_dims, dims, row);
    for (hsize_t at = 0; at < dims[0]; at += step) {
        hsize_t n = dims[0] - at < step ? dims[0] - at : step;
        if (read_slab(dataset, type, space, n_dims, dims, at, n, job->dst + at * row, why, size) < 0)
            return -1;
        if (job->shared)
            let_go(job->dst + at * row, n * row);
    }
    return 0;
}

/* The mapping could have changed since it was listed: everything is checked again. */
static int decode(hid_t dataset, const struct lmi_h5_job *job, char *why, size_t size)
{
    hid_t type = H5Dget_type(dataset), space = H5Dget_space(dataset);
    hssize_t n = space < 0 ? -1 : H5Sget_simple_extent_npoints(space);
    enum lm_dtype d = LM_U8;
    bool big, contiguous;
    uint64_t offset, n_bytes = 0;
    int rc = -1;

    snprintf(why, size, "not what it was when it was listed");
    if (type >= 0 && n >= 0 && lmi_h5_storage(dataset, &contiguous, &offset, why, size) == 1 &&
        lmi_h5_dtype(dataset, type, &d, &big, why, size) == 1 && d == job->dtype &&
        lm_mul_u64((uint64_t)n, lm_dtype_info(d)->block_bytes, &n_bytes) && n_bytes == job->n_bytes)
        rc = read_all(dataset, type, space, job, why, size) < 0 ? -1 : 0;
    if (type >= 0)
        H5Tclose(type);
    if (space >= 0)
        H5Sclose(space);
    return rc;
}

static int decode_at(hid_t file, const struct lmi_h5_job *job, char *why, size_t size)
{
    struct lmi_buffer path = {0};

    lmi_put(&path, "/", 1);
    lmi_put(&path, job->path.data, job->path.size);
    lmi_put(&path, "", 1);
    hid_t dataset = path.failed ? -1 : H5Dopen2(file, (const char *)path.data, H5P_DEFAULT);
    int rc = dataset < 0 ? -1 : decode(dataset, job, why, size);
    if (dataset < 0)
        lmi_h5_reason(why, size);
    else
        H5Dclose(dataset);
    free(path.data);
    return rc;
}

void lmi_h5_decode(struct lmi_h5_out *o, struct lm_span span, const struct lmi_h5_job *jobs, size_t n)
{
    struct lmi_h5_driver driver;
    char why[400];

    lmi_h5_quiet();
    hid_t file = lmi_h5_open_bytes(&driver, span);
    if (file < 0)
        lmi_h5_fail(o, LM_MALFORMED, "libhdf5 cannot open it: %s", lmi_h5_reason(why, sizeof why));
    for (size_t i = 0; file >= 0 && i < n; i++)
        if (decode_at(file, &jobs[i], why, sizeof why) < 0) {
            lmi_h5_fail(o, LM_MALFORMED, "dataset '%.*s' cannot be read: %s", LMI_SHOW(jobs[i].path), why);
            break;
        }
    if (file >= 0)
        H5Fclose(file);
    lmi_h5_driver_free(&driver);
}
