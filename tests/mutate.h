/* For tests: a model in memory that can be damaged and written again. */
#ifndef TESTS_MUTATE_H
#define TESTS_MUTATE_H

#include "tests/files.h"

#include "libmodel/libmodel.h"

struct mut_tensor {
    char *name;
    enum lm_dtype dtype;
    unsigned n_dims;
    uint64_t shape[LM_MAX_DIMS], n_elems;
    uint8_t *data;
    size_t n_bytes;
};
struct mut {
    struct mut_tensor *t;
    size_t n;
    struct lm_meta *meta;
    struct { char *name; uint8_t *data; size_t n; } side[32];
    size_t n_sides;
};

static inline struct mut_tensor *mut_add(struct mut *x, const char *name, enum lm_dtype d, unsigned n_dims,
                                         const uint64_t *shape, const void *data)
{
    struct mut_tensor made = {.name = strdup(name), .dtype = d, .n_dims = n_dims, .n_elems = 1}, *t;
    for (unsigned i = 0; i < n_dims; i++) { /* shape may lie in x->t */
        made.shape[i] = shape[i];
        made.n_elems *= shape[i];
    }
    x->t = realloc(x->t, (x->n + 1) * sizeof *x->t);
    assert_non_null(x->t);
    t = &x->t[x->n++];
    *t = made;
    t->n_bytes = lm_dtype_bytes(d, t->n_elems);
    t->data = calloc(1, t->n_bytes + 1);
    if (data)
        memcpy(t->data, data, t->n_bytes);
    return t;
}

static inline void mut_side(struct mut *x, const char *name, const void *data, size_t n)
{
    size_t i = 0;
    while (i < x->n_sides && strcmp(x->side[i].name, name) != 0)
        i++;
    if (i == x->n_sides) {
        x->n_sides++;
        x->side[i].name = strdup(name);
    } else {
        free(x->side[i].data);
    }
    x->side[i].data = malloc(n + 1);
    memcpy(x->side[i].data, data, n);
    x->side[i].data[n] = 0;
    x->side[i].n = n;
}
static inline void mut_side_text(struct mut *x, const char *name, const char *text)
{
    mut_side(x, name, text, strlen(text));
}
static inline char *mut_side_get(struct mut *x, const char *name)
{
    for (size_t i = 0; i < x->n_sides; i++)
        if (strcmp(x->side[i].name, name) == 0)
            return (char *)x->side[i].data;
    fail_msg("no small file %s", name);
    return NULL;
}
static inline void mut_side_drop(struct mut *x, const char *name)
{
    for (size_t i = 0; i < x->n_sides; i++)
        if (strcmp(x->side[i].name, name) == 0) {
            free(x->side[i].name);
            free(x->side[i].data);
            x->side[i] = x->side[--x->n_sides];
        }
}
/* Replaces the first `from` in a small file. */
static inline void mut_edit(struct mut *x, const char *name, const char *from, const char *to)
{
    char *old = mut_side_get(x, name), *at = strstr(old, from);
    assert_non_null(at);
    char *text = malloc(strlen(old) + strlen(to) + 1);
    memcpy(text, old, (size_t)(at - old));
    strcpy(text + (at - old), to);
    strcat(text, at + strlen(from));
    mut_side_text(x, name, text);
    free(text);
}

static inline struct mut *mut_load(const char *path)
{
    struct mut *x = calloc(1, sizeof *x);
    struct lm_model *m = open_ok(path);
    const struct lm_meta *meta = lm_model_meta(m);
    struct lm_err e;
    const char *key;

    x->meta = lm_meta_new();
    for (size_t i = 0; i < lm_meta_count(meta); i++) {
        const struct lm_meta_value *v = lm_meta_at(meta, i, &key);
        assert_int_equal(lm_meta_set_value(x->meta, key, v), 0);
    }
    for (size_t i = 0; i < lm_model_n_tensors(m); i++) {
        const struct lm_tensor *t = lm_model_tensor(m, i);
        mut_add(x, t->name, t->dtype, t->n_dims, t->shape, t->data);
    }
    for (size_t i = 0; lm_sidecar_names[i]; i++) {
        struct lm_span s;
        if (strcmp(lm_model_format(m)->name, "gguf") != 0 && lm_model_sidecar(m, lm_sidecar_names[i], &s, &e) == 1)
            mut_side(x, lm_sidecar_names[i], s.data, s.size);
    }
    lm_model_close(m);
    return x;
}

static inline struct mut_tensor *mut_find(struct mut *x, const char *name)
{
    for (size_t i = 0; i < x->n; i++)
        if (strcmp(x->t[i].name, name) == 0)
            return &x->t[i];
    fail_msg("no tensor %s", name);
    return NULL;
}
static inline void mut_drop(struct mut *x, const char *name)
{
    struct mut_tensor *t = mut_find(x, name);
    free(t->name);
    free(t->data);
    memmove(t, t + 1, (size_t)(x->t + --x->n - t) * sizeof *t);
}
static inline void mut_rename(struct mut *x, const char *name, const char *to)
{
    struct mut_tensor *t = mut_find(x, name);
    free(t->name);
    t->name = strdup(to);
}
/* To another type, through f32. */
static inline void mut_cast(struct mut_tensor *t, enum lm_dtype d)
{
    float *f = malloc(t->n_elems * sizeof *f);
    lm_dtype_info(t->dtype)->to_f32(f, t->data, t->n_elems);
    free(t->data);
    t->dtype = d;
    t->n_bytes = lm_dtype_bytes(d, t->n_elems);
    t->data = malloc(t->n_bytes);
    lm_dtype_info(d)->from_f32(t->data, f, t->n_elems);
    free(f);
}
static inline float mut_get(const struct mut_tensor *t, uint64_t i)
{
    float v;
    lm_dtype_info(t->dtype)->to_f32(&v, t->data + i * lm_dtype_info(t->dtype)->block_bytes, 1);
    return v;
}
static inline void mut_set(struct mut_tensor *t, uint64_t i, float v)
{
    assert_true(i < t->n_elems);
    lm_dtype_info(t->dtype)->from_f32(t->data + i * lm_dtype_info(t->dtype)->block_bytes, &v, 1);
}

/* Writes to/base (and small files for safetensors). max: split size or 0. */
static inline void mut_write_split(struct mut *x, const char *format, const char *to, const char *base, uint64_t max)
{
    struct lm_write_tensor *w = calloc(x->n + 1, sizeof *w);
    const void **data = calloc(x->n + 1, sizeof *data);
    size_t *n_data = calloc(x->n + 1, sizeof *n_data);
    struct lm_layout l;
    struct lm_err e = {0};

    for (size_t i = 0; i < x->n; i++) {
        w[i] = (struct lm_write_tensor){.name = x->t[i].name, .dtype = x->t[i].dtype, .n_dims = x->t[i].n_dims};
        memcpy(w[i].shape, x->t[i].shape, sizeof w[i].shape);
        data[i] = x->t[i].data;
        n_data[i] = x->t[i].n_bytes;
    }
    struct lm_write_spec spec = {.tensors = w, .n_tensors = x->n, .meta = x->meta, .max_file_bytes = max};
    mkdir(to, 0777);
    if (lm_format_find(format)->layout(&l, &spec, base, &e) < 0)
        fail_msg("layout: %s", e.text);
    write_layout(&l, to, &spec, data, n_data);
    lm_layout_free(&l);
    for (size_t i = 0; i < x->n_sides; i++)
        write_file(path_in(to, x->side[i].name), x->side[i].data, x->side[i].n);
    free(w);
    free(data);
    free(n_data);
}
static inline void mut_write(struct mut *x, const char *format, const char *to)
{
    mut_write_split(x, format, to, strcmp(format, "gguf") == 0 ? "model.gguf" : "model.safetensors", 0);
}

static inline void mut_free(struct mut *x)
{
    for (size_t i = 0; i < x->n; i++) {
        free(x->t[i].name);
        free(x->t[i].data);
    }
    for (size_t i = 0; i < x->n_sides; i++) {
        free(x->side[i].name);
        free(x->side[i].data);
    }
    lm_meta_free(x->meta);
    free(x->t);
    free(x);
}

/* Deterministic numbers, about normal. */
static inline float mut_noise(uint64_t *state)
{
    float sum = 0;
    for (int i = 0; i < 12; i++) {
        *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        sum += (float)(*state >> 40) * (1.0f / 16777216);
    }
    return sum - 6;
}

#endif
