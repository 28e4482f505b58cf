/* A read-only virtual file driver over bytes in memory. */
#include "libmodel/fmt/h5_lib.h"

#include <stdio.h>
#include <stdlib.h>

static const char file_name[] = "bytes in memory";

struct bytes_file {
    H5FD_t base; /* first: libhdf5's own part */
    struct lm_span span;
    haddr_t eoa;
};

/* One open only: whatever a file names (a source of a virtual dataset, the
 * target of an external link) gets nothing from this driver. */
struct bytes_info {
    struct lm_span span;
    bool *used;
};

static H5FD_t *bytes_open(const char *name, unsigned flags, hid_t fapl, haddr_t max)
{
    const struct bytes_info *info = H5Pget_driver_info(fapl);
    struct bytes_file *f;

    (void)max;
    if (!info || *info->used || strcmp(name, file_name) != 0 || (flags & (H5F_ACC_RDWR | H5F_ACC_TRUNC | H5F_ACC_CREAT)))
        return NULL;
    f = calloc(1, sizeof *f);
    if (!f)
        return NULL;
    f->span = info->span;
    *info->used = true;
    return &f->base;
}

static herr_t bytes_close(H5FD_t *base)
{
    free(base);
    return 0;
}

static haddr_t bytes_eoa(const H5FD_t *base, H5FD_mem_t type)
{
    (void)type;
    return ((const struct bytes_file *)base)->eoa;
}

static herr_t bytes_set_eoa(H5FD_t *base, H5FD_mem_t type, haddr_t eoa)
{
    (void)type;
    ((struct bytes_file *)base)->eoa = eoa;
    return 0;
}

static haddr_t bytes_eof(const H5FD_t *base, H5FD_mem_t type)
{
    (void)type;
    return ((const struct bytes_file *)base)->span.size;
}

static herr_t bytes_read(H5FD_t *base, H5FD_mem_t type, hid_t dxpl, haddr_t at, size_t n, void *dst)
{
    const struct lm_span s = ((struct bytes_file *)base)->span;

    (void)type;
    (void)dxpl;
    if (at > s.size || n > s.size - at)
        return -1;
    memcpy(dst, s.data + at, n);
    return 0;
}

static herr_t bytes_write(H5FD_t *base, H5FD_mem_t type, hid_t dxpl, haddr_t at, size_t n, const void *src)
{
    (void)base, (void)type, (void)dxpl, (void)at, (void)n, (void)src;
    return -1;
}

static const H5FD_class_t bytes_class = {
#ifdef H5FD_CLASS_VERSION
    .version = H5FD_CLASS_VERSION,
    .value = (H5FD_class_value_t)600, /* any that is not a driver of the library */
#endif
    .name = "libmodel bytes",
    .maxaddr = (haddr_t)INT64_MAX,
    .fc_degree = H5F_CLOSE_STRONG,
    .fapl_size = sizeof(struct bytes_info),
    .open = bytes_open,
    .close = bytes_close,
    .get_eoa = bytes_eoa,
    .set_eoa = bytes_set_eoa,
    .get_eof = bytes_eof,
    .read = bytes_read,
    .write = bytes_write,
    .fl_map = H5FD_FLMAP_SINGLE,
};

hid_t lmi_h5_open_bytes(struct lmi_h5_driver *d, struct lm_span file)
{
    static bool used;
    struct bytes_info info = {file, &used};

    used = false;
    d->id = H5FDregister(&bytes_class);
    d->fapl = H5Pcreate(H5P_FILE_ACCESS);
    if (d->id < 0 || d->fapl < 0 || H5Pset_driver(d->fapl, d->id, &info) < 0)
        return -1;
    return H5Fopen(file_name, H5F_ACC_RDONLY, d->fapl);
}

void lmi_h5_driver_free(struct lmi_h5_driver *d)
{
    if (d->fapl >= 0)
        H5Pclose(d->fapl);
    if (d->id >= 0)
        H5FDunregister(d->id);
}

void lmi_h5_quiet(void)
{
    H5dont_atexit();
    H5open();
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    H5PLset_loading_state(0);
}

static herr_t take_reason(unsigned n, const H5E_error2_t *x, void *arg)
{
    char **at = arg;

    if (n == 0 && x->desc)
        snprintf(at[0], (size_t)(at[1] - at[0]), "%s", x->desc);
    return 0;
}

const char *lmi_h5_reason(char *buf, size_t size)
{
    char *at[2] = {buf, buf + size};

    snprintf(buf, size, "no reason given");
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_reason, at);
    H5Eclear2(H5E_DEFAULT);
    return buf;
}
