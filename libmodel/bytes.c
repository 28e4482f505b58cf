#include "libmodel/bytes.h"

#include <stdlib.h>

/* ---- cursor */

struct lm_span lm_cur_bytes(struct lm_cursor *c, uint64_t n)
{
    if (c->failed || n > lm_cur_left(c)) {
        c->failed = true;
        return (struct lm_span){NULL, 0};
    }
    struct lm_span s = {c->all.data + c->pos, (size_t)n};
    c->pos += (size_t)n;
    return s;
}

uint8_t lm_cur_u8(struct lm_cursor *c)
{
    struct lm_span s = lm_cur_bytes(c, 1);
    return s.size ? s.data[0] : 0;
}

uint16_t lm_cur_u16(struct lm_cursor *c)
{
    struct lm_span s = lm_cur_bytes(c, 2);
    if (!s.size)
        return 0;
    uint16_t v = lm_load_u16le(s.data);
    return c->big_endian ? __builtin_bswap16(v) : v;
}

uint32_t lm_cur_u32(struct lm_cursor *c)
{
    struct lm_span s = lm_cur_bytes(c, 4);
    if (!s.size)
        return 0;
    uint32_t v = lm_load_u32le(s.data);
    return c->big_endian ? __builtin_bswap32(v) : v;
}

uint64_t lm_cur_u64(struct lm_cursor *c)
{
    struct lm_span s = lm_cur_bytes(c, 8);
    if (!s.size)
        return 0;
    uint64_t v = lm_load_u64le(s.data);
    return c->big_endian ? __builtin_bswap64(v) : v;
}

float lm_cur_f32(struct lm_cursor *c)
{
    uint32_t u = lm_cur_u32(c);
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

double lm_cur_f64(struct lm_cursor *c)
{
    uint64_t u = lm_cur_u64(c);
    double f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* ---- arena */

enum { ARENA_ALIGN = 16, ARENA_FIRST = 4096, ARENA_LARGEST = 1 << 20 };

struct lm_arena_block {
    struct lm_arena_block *next;
    size_t size, used; /* of bytes[] */
    _Alignas(ARENA_ALIGN) uint8_t bytes[];
};

/* Blocks double up to a megabyte, so that a small model costs little and a
 * large one few calls. */
static struct lm_arena_block *add_block(struct lm_arena *a, size_t need)
{
    size_t size = a->head ? a->head->size * 2 : ARENA_FIRST;

    if (size > ARENA_LARGEST)
        size = ARENA_LARGEST;
    if (size < need)
        size = need;
    struct lm_arena_block *b = calloc(1, sizeof *b + size);
    if (!b)
        return NULL;
    b->size = size;
    b->next = a->head;
    a->head = b;
    return b;
}

void *lm_arena_alloc(struct lm_arena *a, size_t n)
{
    struct lm_arena_block *b = a->head;

    if (n > SIZE_MAX / 4)
        return NULL;
    size_t need = n ? (n + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1) : ARENA_ALIGN;
    if (!b || b->size - b->used < need) {
        b = add_block(a, need);
        if (!b)
            return NULL;
    }
    void *p = b->bytes + b->used;
    b->used += need;
    a->used += need;
    return p;
}

void *lm_arena_array(struct lm_arena *a, size_t n, size_t size)
{
    size_t total;

    return __builtin_mul_overflow(n, size, &total) ? NULL : lm_arena_alloc(a, total);
}

char *lm_arena_str(struct lm_arena *a, struct lm_span s)
{
    size_t n;

    if (__builtin_add_overflow(s.size, (size_t)1, &n))
        return NULL;
    char *p = lm_arena_alloc(a, n);
    if (p && s.size)
        memcpy(p, s.data, s.size);
    return p;
}

void lm_arena_free(struct lm_arena *a)
{
    while (a->head) {
        struct lm_arena_block *next = a->head->next;
        free(a->head);
        a->head = next;
    }
    a->used = 0;
}

/* ---- UTF-8 (Unicode 15, table 3-7: well-formed byte sequences) */

static bool in(uint8_t b, uint8_t low, uint8_t high)
{
    return b >= low && b <= high;
}

/* Length of the well-formed sequence at s, 0 if there is none. */
static size_t utf8_sequence(const uint8_t *s, size_t n)
{
    uint8_t b = s[0];

    if (b < 0x80)
        return 1;
    if (in(b, 0xc2, 0xdf))
        return n >= 2 && in(s[1], 0x80, 0xbf) ? 2 : 0;
    if (in(b, 0xe0, 0xef)) {
        uint8_t low = b == 0xe0 ? 0xa0 : 0x80, high = b == 0xed ? 0x9f : 0xbf;
        return n >= 3 && in(s[1], low, high) && in(s[2], 0x80, 0xbf) ? 3 : 0;
    }
    if (in(b, 0xf0, 0xf4)) {
        uint8_t low = b == 0xf0 ? 0x90 : 0x80, high = b == 0xf4 ? 0x8f : 0xbf;
        return n >= 4 && in(s[1], low, high) && in(s[2], 0x80, 0xbf) && in(s[3], 0x80, 0xbf) ? 4 : 0;
    }
    return 0;
}

bool lm_utf8_valid(struct lm_span s)
{
    for (size_t i = 0; i < s.size;) {
        /* Eight ASCII bytes at once: headers and names are mostly that. */
        if (s.size - i >= 8 && (lm_load_u64le(s.data + i) & 0x8080808080808080u) == 0) {
            i += 8;
            continue;
        }
        size_t n = utf8_sequence(s.data + i, s.size - i);
        if (n == 0)
            return false;
        i += n;
    }
    return true;
}
