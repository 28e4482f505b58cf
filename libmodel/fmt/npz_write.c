/* Writing .npz as numpy.savez does: members stored, each with a zip64 field in
 * its local header, so that a tensor of any size fits.  The data begin at a
 * multiple of 64 (an extra field pads), so that they can be mapped.  A zip
 * wants a CRC of every member, which is known only when the data are there:
 * lmi_npz_finish puts them in. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <zlib.h>

#include "libmodel/fmt/carried.h"
#include "libmodel/fmt/npz.h"
#include "libmodel/parse/npy.h"

enum { LOCAL = 0x04034b50, CENTRAL = 0x02014b50, END = 0x06054b50, END64 = 0x06064b50, LOCATOR64 = 0x07064b50,
       LOCAL_CRC = 14, LOCAL_NAME = 26, LOCAL_EXTRA = 28, LOCAL_SIZE = 30, ZIP64_SIZE = 20,
       CENTRAL_CRC = 16, CENTRAL_SIZE = 46, CENTRAL_EXTRA = 28,
       VERSION = 45, DATE = 33, ALIGN = 64, PADDING_ID = 0x4246 };

static int check_name(const struct lm_write_tensor *t, struct lm_err *e)
{
    size_t n = strlen(t->name);

    if (n > 65000)
        return lm_err_set(e, LM_LIMIT, "tensor '%.200s…': a name in a zip has at most 65535 bytes", t->name);
    if (t->name[0] == '/' || strchr(t->name, '\\') || strstr(t->name, "..") || (n > 1 && t->name[1] == ':'))
        return lm_err_set(e, LM_UNSUPPORTED, "tensor '%.200s': the name would be a path outside of the folder where the "
                          ".npz is unpacked", t->name);
    return 0;
}

/* The header of the array, without its padding. */
static void put_dict(struct lmi_buffer *b, const struct lm_write_tensor *t)
{
    char number[32];

    lmi_put_str(b, "{'descr': '");
    lmi_put_str(b, lmi_npy_descr(t->dtype));
    lmi_put_str(b, "', 'fortran_order': False, 'shape': (");
    for (unsigned i = 0; i < t->n_dims; i++) {
        snprintf(number, sizeof number, i + 1 < t->n_dims ? "%llu, " : t->n_dims == 1 ? "%llu," : "%llu",
                 (unsigned long long)t->shape[i]);
        lmi_put_str(b, number);
    }
    lmi_put_str(b, "), }");
}

static void put_npy_head(struct lmi_buffer *b, const struct lm_write_tensor *t)
{
    size_t begin = b->n;

    lmi_put(b, "\x93NUMPY\1\0\0\0", 10);
    put_dict(b, t);
    lmi_put_fill(b, ' ', (ALIGN - (b->n - begin + 1) % ALIGN) % ALIGN);
    lmi_put_str(b, "\n");
    if (!b->failed)
        lm_store_u16le(b->data + begin + 8, (uint16_t)(b->n - begin - 10)); /* at most 8 numbers: fits */
}

/* Local header and array header of a member at `at`; n_bytes of data follow. */
static void put_member(struct lmi_buffer *b, const struct lm_write_tensor *t, uint64_t at, uint64_t n_bytes)
{
    struct lmi_buffer head = {0};
    size_t n_name = strlen(t->name) + 4;

    put_npy_head(&head, t);
    uint64_t unpadded = at + LOCAL_SIZE + n_name + ZIP64_SIZE + 4, pad = (ALIGN - unpadded % ALIGN) % ALIGN;
    lmi_put_u32(b, LOCAL);
    lmi_put_u16(b, VERSION), lmi_put_u16(b, 0), lmi_put_u16(b, 0), lmi_put_u16(b, 0), lmi_put_u16(b, DATE);
    lmi_put_u32(b, 0), lmi_put_u32(b, UINT32_MAX), lmi_put_u32(b, UINT32_MAX);
    lmi_put_u16(b, (uint16_t)n_name), lmi_put_u16(b, (uint16_t)(ZIP64_SIZE + 4 + pad));
    lmi_put_str(b, t->name), lmi_put_str(b, ".npy");
    lmi_put_u16(b, 1), lmi_put_u16(b, 16), lmi_put_u64(b, head.n + n_bytes), lmi_put_u64(b, head.n + n_bytes);
    lmi_put_u16(b, PADDING_ID), lmi_put_u16(b, (uint16_t)pad), lmi_put_fill(b, 'Z', (size_t)pad);
    lmi_put(b, head.data, head.n);
    b->failed |= head.failed;
    free(head.data);
}

static void put_central(struct lmi_buffer *b, const struct lm_write_tensor *t, uint64_t at, uint64_t size)
{
    lmi_put_u32(b, CENTRAL);
    lmi_put_u16(b, VERSION), lmi_put_u16(b, VERSION), lmi_put_u16(b, 0), lmi_put_u16(b, 0), lmi_put_u16(b, 0);
    lmi_put_u16(b, DATE), lmi_put_u32(b, 0), lmi_put_u32(b, UINT32_MAX), lmi_put_u32(b, UINT32_MAX);
    lmi_put_u16(b, (uint16_t)(strlen(t->name) + 4)), lmi_put_u16(b, 28), lmi_put_u16(b, 0), lmi_put_u16(b, 0);
    lmi_put_u16(b, 0), lmi_put_u32(b, 0), lmi_put_u32(b, UINT32_MAX);
    lmi_put_str(b, t->name), lmi_put_str(b, ".npy");
    lmi_put_u16(b, 1), lmi_put_u16(b, 24), lmi_put_u64(b, size), lmi_put_u64(b, size), lmi_put_u64(b, at);
}

static void put_end(struct lmi_buffer *b, uint64_t n, uint64_t at, uint64_t size)
{
    lmi_put_u32(b, END64), lmi_put_u64(b, 44), lmi_put_u16(b, VERSION), lmi_put_u16(b, VERSION);
    lmi_put_u32(b, 0), lmi_put_u32(b, 0), lmi_put_u64(b, n), lmi_put_u64(b, n), lmi_put_u64(b, size), lmi_put_u64(b, at);
    lmi_put_u32(b, LOCATOR64), lmi_put_u32(b, 0), lmi_put_u64(b, at + size), lmi_put_u32(b, 1);
    uint16_t short_n = n < UINT16_MAX ? (uint16_t)n : UINT16_MAX;
    lmi_put_u32(b, END), lmi_put_u32(b, 0), lmi_put_u16(b, short_n), lmi_put_u16(b, short_n);
    lmi_put_u32(b, size < UINT32_MAX ? (uint32_t)size : UINT32_MAX);
    lmi_put_u32(b, at < UINT32_MAX ? (uint32_t)at : UINT32_MAX), lmi_put_u16(b, 0);
}

/* One member after the other; *at moves behind the one just put. */
struct writer {
    struct lm_layout_file *file;
    struct lmi_buffer directory;
    uint64_t at;
    size_t n; /* members so far */
};

static int take_chunk(struct lm_layout_file *f, struct lmi_buffer *b, uint64_t at, struct lm_err *e)
{
    f->chunks[f->n_chunks++] = (struct lm_layout_chunk){at, b->data, b->n};
    return b->failed ? lmi_nomem(e) : 0;
}

/* data: of a member that is ours, NULL for a tensor. *begin: where its data lie. */
static int add_member(struct writer *w, const struct lm_write_tensor *t, uint64_t n_bytes, const uint8_t *data,
                      uint64_t *begin, struct lm_err *e)
{
    struct lmi_buffer b = {0};

    if (check_name(t, e) < 0)
        return -1;
    put_member(&b, t, w->at, n_bytes);
    size_t n_local = b.failed ? 0 : LOCAL_SIZE + strlen(t->name) + 4 + lm_load_u16le(b.data + LOCAL_EXTRA);
    put_central(&w->directory, t, w->at, b.n - n_local + n_bytes);
    *begin = w->at + b.n;
    uint64_t begin_of_local = w->at;
    if (!lm_add_u64(w->at, b.n, &w->at) || !lm_add_u64(w->at, n_bytes, &w->at) || w->at > INT64_MAX) {
        free(b.data);
        return lm_err_set(e, LM_LIMIT, "the file's size overflows 64 bits");
    }
    if (data)
        lmi_put(&b, data, (size_t)n_bytes);
    w->n++;
    return take_chunk(w->file, &b, begin_of_local, e);
}

/* Chunk i is the head of member i, or all of it; the last one is the directory. */
static int layout_members(struct lm_layout *out, const struct lm_write_spec *spec, const uint64_t *sizes,
                          const struct lmi_carried *carried, size_t n_carried, struct lm_err *e)
{
    struct writer w = {.file = &out->files[0]};
    uint64_t begin;
    int rc = 0;

    w.file->chunks = calloc(spec->n_tensors + n_carried + 1, sizeof *w.file->chunks);
    if (!w.file->chunks)
        return lmi_nomem(e);
    for (size_t i = 0; rc == 0 && i < spec->n_tensors; i++)
        rc = add_member(&w, &spec->tensors[i], sizes[i], NULL, &out->places[i].offset, e);
    for (size_t i = 0; rc == 0 && i < n_carried; i++) {
        const struct lmi_carried *c = &carried[i];
        struct lm_write_tensor t = {.name = c->name, .dtype = LM_U8, .n_dims = 1, .shape = {c->n}};
        rc = add_member(&w, &t, c->n, c->data, &begin, e);
    }
    put_end(&w.directory, w.n, w.at, w.directory.n);
    w.file->n_bytes = w.at + w.directory.n;
    return take_chunk(w.file, &w.directory, w.at, e) < 0 ? -1 : rc;
}

static int layout_all(struct lm_layout *out, const struct lm_write_spec *spec, const uint64_t *sizes, const char *base,
                      struct lm_err *e)
{
    struct lmi_carried *carried;
    size_t n_carried;

    if (spec->max_file_bytes)
        return lm_err_set(e, LM_UNSUPPORTED, "a .npz has no index that would join several files; write one");
    if (lmi_layout_split(out, spec, sizes, e) < 0 || lmi_carry(&carried, &n_carried, spec, e) < 0)
        return -1;
    out->files[0].name = strdup(base);
    int rc = out->files[0].name ? layout_members(out, spec, sizes, carried, n_carried, e) : lmi_nomem(e);
    lmi_carry_free(carried, n_carried);
    return rc;
}

int lmi_npz_layout(struct lm_layout *out, const struct lm_write_spec *spec, const char *base, struct lm_err *e)
{
    *out = (struct lm_layout){0};
    uint64_t *sizes = lmi_layout_sizes(spec, &lm_format_npz, e);
    int rc = sizes ? layout_all(out, spec, sizes, base, e) : -1;

    free(sizes);
    if (rc < 0)
        lm_layout_free(out);
    return rc;
}

/* ---- checksums */

static int read_at(int fd, uint8_t *buf, size_t n, uint64_t at, struct lm_err *e)
{
    while (n > 0) {
        ssize_t got = pread(fd, buf, n, (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? lm_err_errno(e, "cannot read back") : lm_err_set(e, LM_IO, "cannot read back: cut short");
        buf += got;
        n -= (size_t)got;
        at += (uint64_t)got;
    }
    return 0;
}

static int checksum(int fd, uint64_t at, uint64_t n, uint8_t *buf, size_t n_buf, uint32_t *crc, struct lm_err *e)
{
    while (n > 0) {
        size_t take = n < n_buf ? (size_t)n : n_buf;
        if (read_at(fd, buf, take, at, e) < 0)
            return -1;
        *crc = (uint32_t)crc32_z(*crc, buf, take);
        at += take;
        n -= take;
    }
    return 0;
}

static int put_crc(int fd, uint32_t crc, uint64_t at, struct lm_err *e)
{
    uint8_t bytes[4];
    ssize_t put;

    lm_store_u32le(bytes, crc);
    do
        put = pwrite(fd, bytes, sizeof bytes, (off_t)at);
    while (put < 0 && errno == EINTR);
    return put == sizeof bytes ? 0 : lm_err_errno(e, "cannot write checksums");
}

int lmi_npz_finish(int fd, const struct lm_layout *l, size_t file, struct lm_err *e)
{
    enum { BUFFER = 1 << 20 };
    const struct lm_layout_file *f = &l->files[file];
    const struct lm_layout_chunk *directory = &f->chunks[f->n_chunks - 1];
    uint64_t entry = directory->offset;
    uint8_t *buf = malloc(BUFFER);
    int rc = buf ? 0 : lmi_nomem(e);

    for (size_t i = 0; rc == 0 && i + 1 < f->n_chunks; i++) {
        const struct lm_layout_chunk *c = &f->chunks[i];
        size_t n_name = lm_load_u16le(c->data + LOCAL_NAME);
        uint64_t begin = c->offset + LOCAL_SIZE + n_name + lm_load_u16le(c->data + LOCAL_EXTRA);
        uint64_t size = lm_load_u64le(c->data + LOCAL_SIZE + n_name + 4);
        uint32_t crc = 0;
        rc = checksum(fd, begin, size, buf, BUFFER, &crc, e);
        if (rc == 0)
            rc = put_crc(fd, crc, c->offset + LOCAL_CRC, e);
        if (rc == 0)
            rc = put_crc(fd, crc, entry + CENTRAL_CRC, e);
        entry += CENTRAL_SIZE + n_name + 28;
    }
    free(buf);
    return rc;
}
