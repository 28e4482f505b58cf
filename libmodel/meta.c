#include "libmodel/meta.h"

#include <stdlib.h>

struct pair {
    struct lm_span key; /* in the arena, a NUL follows */
    struct lm_meta_value value;
};

struct lm_meta {
    struct lm_arena arena;
    struct pair *pairs;
    size_t n, capacity;
    struct lm_map *index; /* key -> place in pairs */
};

static const struct {
    const char *name;
    size_t width;
} types[LM_META_N_TYPES] = {
    [LM_META_U8] = {"u8", 1},     [LM_META_I8] = {"i8", 1},   [LM_META_U16] = {"u16", 2}, [LM_META_I16] = {"i16", 2},
    [LM_META_U32] = {"u32", 4},   [LM_META_I32] = {"i32", 4}, [LM_META_F32] = {"f32", 4}, [LM_META_BOOL] = {"bool", 1},
    [LM_META_STR] = {"str", 0},   [LM_META_ARRAY] = {"array", 0}, [LM_META_U64] = {"u64", 8}, [LM_META_I64] = {"i64", 8},
    [LM_META_F64] = {"f64", 8},
};

size_t lm_meta_width(enum lm_meta_type t)
{
    return (unsigned)t < LM_META_N_TYPES ? types[t].width : 0;
}

const char *lm_meta_type_name(enum lm_meta_type t)
{
    return (unsigned)t < LM_META_N_TYPES ? types[t].name : "unknown";
}

struct lm_meta *lm_meta_new(void)
{
    struct lm_meta *m = calloc(1, sizeof *m);

    if (m && !(m->index = lm_map_new(0))) {
        free(m);
        return NULL;
    }
    return m;
}

void lm_meta_free(struct lm_meta *m)
{
    if (!m)
        return;
    lm_arena_free(&m->arena);
    lm_map_free(m->index);
    free(m->pairs);
    free(m);
}

size_t lm_meta_count(const struct lm_meta *m)
{
    return m->n;
}

const struct lm_meta_value *lm_meta_at(const struct lm_meta *m, size_t i, const char **key)
{
    if (key)
        *key = (const char *)m->pairs[i].key.data;
    return &m->pairs[i].value;
}

const struct lm_meta_value *lm_meta_get(const struct lm_meta *m, const char *key)
{
    size_t i = lm_map_get(m->index, lm_span_str(key));
    return i == SIZE_MAX ? NULL : &m->pairs[i].value;
}

/* ---- typed getters */

static int wrong_type(struct lm_err *e, const char *key, const struct lm_meta_value *v, const char *expected)
{
    if (v->type == LM_META_ARRAY)
        return lm_err_set(e, LM_MALFORMED, "metadata key '%s' is an array of %s, expected %s", key,
                          lm_meta_type_name(v->elem), expected);
    return lm_err_set(e, LM_MALFORMED, "metadata key '%s' has type %s, expected %s", key, lm_meta_type_name(v->type),
                      expected);
}

int lm_meta_get_u64(const struct lm_meta *m, const char *key, uint64_t *out, struct lm_err *e)
{
    const struct lm_meta_value *v = lm_meta_get(m, key);

    if (!v)
        return 0;
    switch (v->type) {
    case LM_META_U8:
    case LM_META_U16:
    case LM_META_U32:
    case LM_META_U64:
        *out = v->u;
        return 1;
    case LM_META_I8:
    case LM_META_I16:
    case LM_META_I32:
    case LM_META_I64:
        if (v->i < 0)
            return lm_err_set(e, LM_MALFORMED, "metadata key '%s' is %lld, expected a number that is not negative", key,
                              (long long)v->i);
        *out = (uint64_t)v->i;
        return 1;
    default:
        return wrong_type(e, key, v, "an integer");
    }
}

int lm_meta_get_f64(const struct lm_meta *m, const char *key, double *out, struct lm_err *e)
{
    const struct lm_meta_value *v = lm_meta_get(m, key);

    if (!v)
        return 0;
    if (v->type != LM_META_F32 && v->type != LM_META_F64)
        return wrong_type(e, key, v, "f32 or f64");
    *out = v->f;
    return 1;
}

int lm_meta_get_bool(const struct lm_meta *m, const char *key, bool *out, struct lm_err *e)
{
    const struct lm_meta_value *v = lm_meta_get(m, key);

    if (!v)
        return 0;
    if (v->type != LM_META_BOOL)
        return wrong_type(e, key, v, "bool");
    *out = v->u != 0;
    return 1;
}

int lm_meta_get_str(const struct lm_meta *m, const char *key, struct lm_span *out, struct lm_err *e)
{
    const struct lm_meta_value *v = lm_meta_get(m, key);

    if (!v)
        return 0;
    if (v->type != LM_META_STR)
        return wrong_type(e, key, v, "a string");
    *out = v->str;
    return 1;
}

int lm_meta_get_array(const struct lm_meta *m, const char *key, enum lm_meta_type elem,
                      const struct lm_meta_value **out, struct lm_err *e)
{
    const struct lm_meta_value *v = lm_meta_get(m, key);

    if (!v)
        return 0;
    if (v->type != LM_META_ARRAY)
        return lm_err_set(e, LM_MALFORMED, "metadata key '%s' has type %s, expected an array of %s", key,
                          lm_meta_type_name(v->type), lm_meta_type_name(elem));
    if (v->elem != elem)
        return lm_err_set(e, LM_MALFORMED, "metadata key '%s' is an array of %s, expected an array of %s", key,
                          lm_meta_type_name(v->elem), lm_meta_type_name(elem));
    *out = v;
    return 1;
}

/* ---- setters */

static int append(struct lm_meta *m, struct lm_span key, const struct lm_meta_value *v)
{
    if (m->n == m->capacity) {
        size_t capacity = m->capacity ? m->capacity * 2 : 32;
        struct pair *bigger = reallocarray(m->pairs, capacity, sizeof *bigger);
        if (!bigger)
            return -1;
        m->pairs = bigger;
        m->capacity = capacity;
    }
    char *copy = lm_arena_str(&m->arena, key);
    if (!copy)
        return -1;
    struct lm_span own = lm_span_of(copy, key.size);
    int put = lm_map_put(m->index, own, m->n);
    if (put > 0)
        m->pairs[m->n++] = (struct pair){own, *v};
    return put;
}

int lm_meta_add_borrowed(struct lm_meta *m, struct lm_span key, const struct lm_meta_value *v)
{
    /* Looked up before it is copied: a duplicate costs no memory. */
    if (key.size == 0)
        return -1;
    return lm_map_get(m->index, key) != SIZE_MAX ? 0 : append(m, key, v);
}

static bool copy_bytes(struct lm_meta *m, struct lm_span *s)
{
    char *copy = lm_arena_str(&m->arena, *s);

    *s = lm_span_of(copy, s->size);
    return copy != NULL;
}

static bool copy_array(struct lm_meta *m, struct lm_meta_value *v)
{
    if (v->elem != LM_META_STR) {
        size_t width = lm_meta_width(v->elem);
        void *data = lm_arena_array(&m->arena, v->n, width);
        if (!data)
            return false;
        if (v->n)
            memcpy(data, v->data, v->n * width);
        v->data = data;
        return true;
    }
    struct lm_span *strs = lm_arena_array(&m->arena, v->n, sizeof *strs);
    if (!strs)
        return false;
    for (size_t i = 0; i < v->n; i++) {
        strs[i] = v->strs[i];
        if (!copy_bytes(m, &strs[i]))
            return false;
    }
    v->strs = strs;
    return true;
}

int lm_meta_set_value(struct lm_meta *m, const char *key, const struct lm_meta_value *v)
{
    struct lm_meta_value own = *v;

    if (!key[0] || (own.type == LM_META_STR && !copy_bytes(m, &own.str)) ||
        (own.type == LM_META_ARRAY && !copy_array(m, &own)))
        return -1;
    size_t i = lm_map_get(m->index, lm_span_str(key));
    if (i == SIZE_MAX)
        return append(m, lm_span_str(key), &own) == 1 ? 0 : -1;
    m->pairs[i].value = own;
    return 0;
}

int lm_meta_set_u32(struct lm_meta *m, const char *key, uint32_t v)
{
    return lm_meta_set_value(m, key, &(struct lm_meta_value){.type = LM_META_U32, .u = v});
}

int lm_meta_set_u64(struct lm_meta *m, const char *key, uint64_t v)
{
    return lm_meta_set_value(m, key, &(struct lm_meta_value){.type = LM_META_U64, .u = v});
}

int lm_meta_set_i32(struct lm_meta *m, const char *key, int32_t v)
{
    return lm_meta_set_value(m, key, &(struct lm_meta_value){.type = LM_META_I32, .i = v});
}

int lm_meta_set_f32(struct lm_meta *m, const char *key, float v)
{
    return lm_meta_set_value(m, key, &(struct lm_meta_value){.type = LM_META_F32, .f = (double)v});
}

int lm_meta_set_bool(struct lm_meta *m, const char *key, bool v)
{
    return lm_meta_set_value(m, key, &(struct lm_meta_value){.type = LM_META_BOOL, .u = v});
}

int lm_meta_set_str(struct lm_meta *m, const char *key, struct lm_span v)
{
    return lm_meta_set_value(m, key, &(struct lm_meta_value){.type = LM_META_STR, .str = v});
}

int lm_meta_set_array(struct lm_meta *m, const char *key, enum lm_meta_type elem, const void *data, size_t n)
{
    return lm_meta_set_value(m, key,
                             &(struct lm_meta_value){.type = LM_META_ARRAY, .elem = elem, .n = n, .data = data});
}

int lm_meta_set_strs(struct lm_meta *m, const char *key, const struct lm_span *strs, size_t n)
{
    return lm_meta_set_value(
        m, key, &(struct lm_meta_value){.type = LM_META_ARRAY, .elem = LM_META_STR, .n = n, .strs = strs});
}

/* Removing is rare (a few keys when converting), so the index is made anew. */
void lm_meta_remove(struct lm_meta *m, const char *key)
{
    size_t i = lm_map_get(m->index, lm_span_str(key));
    struct lm_map *index = i == SIZE_MAX ? NULL : lm_map_new(m->n);

    if (!index)
        return;
    memmove(&m->pairs[i], &m->pairs[i + 1], (m->n - i - 1) * sizeof *m->pairs);
    m->n--;
    for (size_t j = 0; j < m->n; j++)
        lm_map_put(index, m->pairs[j].key, j);
    lm_map_free(m->index);
    m->index = index;
}
