/* For tests: bytes put together by hand, temporary folders, and the assertion
 * that opening something fails for the right reason. */
#ifndef TESTS_FILES_H
#define TESTS_FILES_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libmodel/format.h"

struct bytes {
    uint8_t *data;
    size_t n, capacity;
};

static inline void put(struct bytes *b, const void *data, size_t n)
{
    if (n > b->capacity - b->n) {
        b->capacity = (b->n + n) * 2;
        b->data = realloc(b->data, b->capacity);
        assert_non_null(b->data);
    }
    if (n)
        memcpy(b->data + b->n, data, n);
    b->n += n;
}
static inline void put_text(struct bytes *b, const char *s)
{
    put(b, s, strlen(s));
}
static inline void put_u8(struct bytes *b, uint8_t v)
{
    put(b, &v, 1);
}
static inline void put_u16(struct bytes *b, uint16_t v)
{
    uint8_t x[2];
    lm_store_u16le(x, v);
    put(b, x, sizeof x);
}
static inline void put_u32(struct bytes *b, uint32_t v)
{
    uint8_t x[4];
    lm_store_u32le(x, v);
    put(b, x, sizeof x);
}
static inline void put_u64(struct bytes *b, uint64_t v)
{
    uint8_t x[8];
    lm_store_u64le(x, v);
    put(b, x, sizeof x);
}
static inline void put_zeros(struct bytes *b, size_t n)
{
    static const uint8_t zeros[256];
    for (; n > sizeof zeros; n -= sizeof zeros)
        put(b, zeros, sizeof zeros);
    put(b, zeros, n);
}
static inline void bytes_free(struct bytes *b)
{
    free(b->data);
    *b = (struct bytes){0};
}

/* ---- temporary folders */

static inline void tmp_make(char folder[64])
{
    strcpy(folder, "/tmp/libmodel-test-XXXXXX");
    assert_non_null(mkdtemp(folder));
}
static inline int tmp_remove_one(const char *path, const struct stat *s, int flag, struct FTW *ftw)
{
    (void)s;
    (void)flag;
    (void)ftw;
    return remove(path);
}
static inline void tmp_remove(const char *folder)
{
    nftw(folder, tmp_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
/* Good until the 32nd call from here. */
static inline const char *path_in(const char *folder, const char *name)
{
    static char path[32][512];
    static unsigned i;
    char *p = path[i++ % 32];
    snprintf(p, sizeof path[0], "%s/%s", folder, name);
    return p;
}
static inline void write_file(const char *path, const void *data, size_t n)
{
    unlink(path); /* truncating an old file makes some file systems wait for the disk */
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0666);
    assert_true(fd >= 0);
    for (size_t done = 0; done < n;) {
        ssize_t w = write(fd, (const uint8_t *)data + done, n - done);
        assert_true(w > 0);
        done += (size_t)w;
    }
    assert_int_equal(close(fd), 0);
}

/* A folder for all tests of a program: setup and teardown of cmocka_run_group_tests. */
static char dir[64] __attribute__((unused));

static inline int make_dir(void **state)
{
    (void)state;
    tmp_make(dir);
    return 0;
}
static inline int remove_dir(void **state)
{
    (void)state;
    tmp_remove(dir);
    return 0;
}

/* ---- safetensors and GGUF pieces */

static inline void put_safetensors(struct bytes *b, const char *header, size_t n_data)
{
    put_u64(b, strlen(header));
    put_text(b, header);
    put_zeros(b, n_data);
}
static inline void put_str(struct bytes *b, const char *s)
{
    put_u64(b, strlen(s));
    put_text(b, s);
}
static inline void put_gguf(struct bytes *b, uint64_t n_tensors, uint64_t n_kv)
{
    put_text(b, "GGUF");
    put_u32(b, 3);
    put_u64(b, n_tensors);
    put_u64(b, n_kv);
}
static inline void put_key(struct bytes *b, const char *key, uint32_t type)
{
    put_str(b, key);
    put_u32(b, type);
}
/* A tensor of at most two dimensions, the fastest first. */
static inline void put_gguf_tensor(struct bytes *b, const char *name, unsigned n_dims, uint64_t ne0, uint64_t ne1,
                                   uint32_t type, uint64_t offset)
{
    put_str(b, name);
    put_u32(b, n_dims);
    if (n_dims > 0)
        put_u64(b, ne0);
    if (n_dims > 1)
        put_u64(b, ne1);
    put_u32(b, type);
    put_u64(b, offset);
}
static inline void pad_to(struct bytes *b, size_t alignment)
{
    put_zeros(b, (alignment - b->n % alignment) % alignment);
}

/* ---- opening */

static inline struct lm_model *open_ok(const char *path)
{
    struct lm_model *m;
    struct lm_err e = {0};

    if (lm_model_open(&m, path, &e) < 0)
        fail_msg("%s should open: %s", path, e.text);
    return m;
}

/* Fails with this code and with `reason` in the text. */
static inline void open_fails(const char *path, enum lm_code code, const char *reason)
{
    struct lm_model *m;
    struct lm_err e = {0};

    if (lm_model_open(&m, path, &e) == 0) {
        lm_model_close(m);
        fail_msg("%s should not open (expected: %s)", path, reason);
    }
    assert_null(m);
    if (e.code != code || !strstr(e.text, reason))
        fail_msg("%s: expected code %d and '%s', got code %d and '%s'", path, code, reason, e.code, e.text);
    if (strchr(e.text, '\n') || !lm_utf8_valid(lm_span_str(e.text)))
        fail_msg("%s: the message is not one printable line: %s", path, e.text);
}

/* The files of a layout, with the tensors' data, into a folder. data[i] belongs
 * to tensor i and has n_data[i] bytes. */
static inline void write_layout(const struct lm_layout *l, const char *folder, const struct lm_write_spec *spec,
                                const void *const *data, const size_t *n_data)
{
    for (size_t f = 0; f < l->n_files; f++) {
        char path[600];
        uint8_t *file = calloc(1, l->files[f].n_bytes + 1);
        assert_non_null(file);
        if (l->files[f].n_head)
            memcpy(file, l->files[f].head, l->files[f].n_head);
        for (size_t k = 0; k < l->files[f].n_chunks; k++)
            memcpy(file + l->files[f].chunks[k].offset, l->files[f].chunks[k].data, l->files[f].chunks[k].n);
        for (size_t i = 0; i < spec->n_tensors; i++) {
            if (l->places[i].file != f || n_data[i] == 0)
                continue;
            assert_true(l->places[i].offset >= l->files[f].n_head);
            assert_true(l->places[i].offset + n_data[i] <= l->files[f].n_bytes);
            memcpy(file + l->places[i].offset, data[i], n_data[i]);
        }
        snprintf(path, sizeof path, "%s/%s", folder, l->files[f].name);
        write_file(path, file, l->files[f].n_bytes);
        free(file);
    }
}
#endif
