/* Untrusted bytes: spans, a bounded cursor, checked arithmetic, little-endian
 * loads and stores, and an arena.  File data is read through these only. */
#ifndef LIBMODEL_BYTES_H
#define LIBMODEL_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Borrowed bytes. data may be NULL only when size is 0. Not NUL-terminated. */
struct lm_span {
    const uint8_t *data;
    size_t size;
};

static inline struct lm_span lm_span_of(const void *data, size_t size)
{
    return (struct lm_span){(const uint8_t *)data, size};
}

/* The bytes of a C string without its NUL. */
static inline struct lm_span lm_span_str(const char *s)
{
    return (struct lm_span){(const uint8_t *)s, s ? strlen(s) : 0};
}

static inline bool lm_span_eq(struct lm_span a, struct lm_span b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

/* ---- checked arithmetic: true when the result fits, else *out is untouched */

static inline bool lm_mul_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t r;
    return !__builtin_mul_overflow(a, b, &r) && (*out = r, true);
}

static inline bool lm_add_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t r;
    return !__builtin_add_overflow(a, b, &r) && (*out = r, true);
}

/* Smallest multiple of align (a power of two) that is >= a. */
static inline bool lm_align_up_u64(uint64_t a, uint64_t align, uint64_t *out)
{
    uint64_t r;
    return !__builtin_add_overflow(a, align - 1, &r) && (*out = r & ~(align - 1), true);
}

/* ---- loads and stores that do not care about alignment or host order */

static inline uint16_t lm_load_u16le(const void *p)
{
    const uint8_t *b = (const uint8_t *)p;
    return (uint16_t)(b[0] | b[1] << 8);
}
static inline uint32_t lm_load_u32le(const void *p)
{
    const uint8_t *b = (const uint8_t *)p;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}
static inline uint64_t lm_load_u64le(const void *p)
{
    return lm_load_u32le(p) | (uint64_t)lm_load_u32le((const uint8_t *)p + 4) << 32;
}
static inline float lm_load_f32le(const void *p)
{
    uint32_t u = lm_load_u32le(p);
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline void lm_store_u16le(void *p, uint16_t v)
{
    uint8_t *b = (uint8_t *)p;
    b[0] = (uint8_t)v;
    b[1] = (uint8_t)(v >> 8);
}
static inline void lm_store_u32le(void *p, uint32_t v)
{
    lm_store_u16le(p, (uint16_t)v);
    lm_store_u16le((uint8_t *)p + 2, (uint16_t)(v >> 16));
}
static inline void lm_store_u64le(void *p, uint64_t v)
{
    lm_store_u32le(p, (uint32_t)v);
    lm_store_u32le((uint8_t *)p + 4, (uint32_t)(v >> 32));
}

/* ---- cursor: the first read past the end sets `failed`; every later read
 * returns 0 or an empty span, so a parser may check once per record. */
struct lm_cursor {
    struct lm_span all;
    size_t pos;
    bool failed;
    bool big_endian; /* multi-byte reads swap when set */
};

static inline struct lm_cursor lm_cursor_of(struct lm_span all)
{
    return (struct lm_cursor){all, 0, false, false};
}
static inline size_t lm_cur_left(const struct lm_cursor *c)
{
    return c->all.size - c->pos;
}
struct lm_span lm_cur_bytes(struct lm_cursor *c, uint64_t n); /* a span of n bytes, empty on failure */
uint8_t lm_cur_u8(struct lm_cursor *c);
uint16_t lm_cur_u16(struct lm_cursor *c);
uint32_t lm_cur_u32(struct lm_cursor *c);
uint64_t lm_cur_u64(struct lm_cursor *c);
float lm_cur_f32(struct lm_cursor *c);
double lm_cur_f64(struct lm_cursor *c);

/* ---- arena: everything in it lives until lm_arena_free. Zero-initialise. */
struct lm_arena {
    struct lm_arena_block *head;
    size_t used; /* bytes handed out */
};
/* n zeroed bytes aligned to 16, NULL when out of memory or n is absurd. */
void *lm_arena_alloc(struct lm_arena *a, size_t n);
/* n * size with an overflow check. */
void *lm_arena_array(struct lm_arena *a, size_t n, size_t size);
/* A NUL-terminated copy of the span. */
char *lm_arena_str(struct lm_arena *a, struct lm_span s);
void lm_arena_free(struct lm_arena *a);

/* ---- a string-to-index hash map over borrowed keys (SipHash with a random
 * key: names come from files). Keys must outlive the map. */
struct lm_map;
struct lm_map *lm_map_new(size_t n_expected); /* NULL when out of memory */
void lm_map_free(struct lm_map *m);
/* 1 inserted, 0 key already there (the old value stays), -1 out of memory. */
int lm_map_put(struct lm_map *m, struct lm_span key, size_t value);
/* The value, or SIZE_MAX. m may be NULL. */
size_t lm_map_get(const struct lm_map *m, struct lm_span key);

/* Is it well-formed UTF-8 (no surrogates, no overlongs, <= U+10FFFF)? */
bool lm_utf8_valid(struct lm_span s);

#ifdef __cplusplus
}
#endif
#endif
