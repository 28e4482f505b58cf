/* What the fuzz targets share. */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "libmodel/format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A finding: whatever the input was, this may not be. */
static inline void require(int holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "broken promise: %s\n", what);
    abort();
}

/* The bytes opened as a file; NULL when they are refused. */
static inline struct lm_model *open_bytes(const void *data, size_t size)
{
    char path[64];
    struct lm_model *m;
    struct lm_err e = {0};
    int fd = memfd_create("fuzz", MFD_CLOEXEC);

    require(fd >= 0 && write(fd, data, size) == (ssize_t)size, "a file in memory");
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int rc = lm_model_open(&m, path, &e);
    close(fd);
    require(rc == 0 || (e.code != LM_OK && e.text[0] && lm_utf8_valid(lm_span_str(e.text))), "a refusal has a reason");
    return rc == 0 ? m : NULL;
}

/* Writes the model in its own format and reads that back: the same tensors with
 * the same bytes. */
static inline void round_trip(const struct lm_model *m)
{
    size_t n = lm_model_n_tensors(m);
    struct lm_write_tensor *tensors = calloc(n + 1, sizeof *tensors);
    struct lm_layout l;

    require(tensors != NULL, "memory");
    for (size_t i = 0; i < n; i++) {
        const struct lm_tensor *t = lm_model_tensor(m, i);
        tensors[i] = (struct lm_write_tensor){.name = t->name, .dtype = t->dtype, .n_dims = t->n_dims};
        memcpy(tensors[i].shape, t->shape, sizeof t->shape);
    }
    struct lm_write_spec spec = {.tensors = tensors, .n_tensors = n, .meta = lm_model_meta(m)};
    /* Long names and empty tensors may be refused. */
    if (lm_model_format(m)->layout(&l, &spec, "fuzz", NULL) == 0) {
        require(l.n_files == 1 && l.files[0].n_head <= l.files[0].n_bytes, "one file");
        uint8_t *file = calloc(1, l.files[0].n_bytes + 1);
        require(file != NULL, "memory");
        if (l.files[0].n_head)
            memcpy(file, l.files[0].head, l.files[0].n_head);
        for (size_t k = 0; k < l.files[0].n_chunks; k++)
            memcpy(file + l.files[0].chunks[k].offset, l.files[0].chunks[k].data, l.files[0].chunks[k].n);
        for (size_t i = 0; i < n; i++) {
            const struct lm_tensor *t = lm_model_tensor(m, i);
            require(l.places[i].offset + t->n_bytes <= l.files[0].n_bytes, "places inside the file");
            lm_tensor_read(t, 0, t->n_bytes, file + l.places[i].offset);
        }
        struct lm_model *back = open_bytes(file, l.files[0].n_bytes);
        require(back && lm_model_n_tensors(back) == n, "what we write opens");
        for (size_t i = 0; i < n; i++) {
            const struct lm_tensor *t = lm_model_tensor(m, i), *b = lm_model_find(back, t->name);
            require(b && b->dtype == t->dtype && b->n_bytes == t->n_bytes && b->n_elems == t->n_elems, "the same tensor");
            require(memcmp(b->data, file + l.places[i].offset, b->n_bytes) == 0, "the same bytes");
        }
        lm_model_close(back);
        free(file);
        lm_layout_free(&l);
    }
    free(tensors);
}

static volatile uint64_t touched; /* so that the reads are not optimised away */

/* Reads every byte the model promises. */
static inline void touch(const struct lm_model *m)
{
    float values[256];
    uint64_t sink = 0;
    const char *key;

    for (size_t i = 0; i < lm_model_n_tensors(m); i++) {
        const struct lm_tensor *t = lm_model_tensor(m, i);
        for (uint64_t j = 0; j < t->n_bytes; j++)
            sink += t->data[j];
        if (t->n_elems <= 256)
            lm_tensor_to_f32(t, 0, t->n_elems, values, NULL);
        require(lm_model_find(m, t->name) == t, "a tensor is found by its name");
    }
    for (size_t i = 0; i < lm_meta_count(lm_model_meta(m)); i++) {
        const struct lm_meta_value *v = lm_meta_at(lm_model_meta(m), i, &key);
        require(lm_meta_get(lm_model_meta(m), key) == v, "a value is found by its key");
        for (size_t j = 0; v->type == LM_META_STR && j < v->str.size; j++)
            sink += v->str.data[j];
        for (size_t j = 0; v->type == LM_META_ARRAY && j < v->n; j++) {
            if (v->elem == LM_META_STR)
                sink += v->strs[j].size ? v->strs[j].data[v->strs[j].size - 1] : 0;
            else
                sink += ((const uint8_t *)v->data)[j * lm_meta_width(v->elem)];
        }
    }
    touched += sink;
}
#endif
