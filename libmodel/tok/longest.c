#include "libmodel/tok/longest.h"

#include <stdlib.h>

bool lmi_longest_init(struct lmi_longest *x, size_t n)
{
    unsigned bits = 6;

    while (((size_t)3 << bits) / 4 < n)
        bits++;
    memset(x->single, 0xff, sizeof x->single);
    x->mask = ((size_t)1 << bits) - 1;
    x->shift = 64 - bits;
    x->seed = lmi_random_seed() | 1;
    x->slots = calloc((size_t)1 << bits, sizeof *x->slots);
    x->seen = calloc((size_t)1 << bits, 1);
    x->bytes = calloc(n + 1, sizeof *x->bytes);
    return x->slots && x->seen && x->bytes;
}

void lmi_longest_free(struct lmi_longest *x)
{
    free(x->slots);
    free(x->seen);
    free(x->bytes);
}

static inline uint64_t fold(uint64_t a, uint64_t b)
{
    __extension__ typedef unsigned __int128 wide;
    wide p = (wide)a * b;

    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

/* What tells n bytes from others: themselves, or a hash. */
static inline uint64_t tag_of(const struct lmi_longest *x, const uint8_t *p, size_t n, uint64_t first)
{
    if (n <= 8)
        return first & (UINT64_MAX >> (64 - 8 * n));
    uint64_t h = fold(first ^ x->seed, lm_load_u64le(p + n - 8) ^ n << 56 ^ 0x9e3779b97f4a7c15u);
    if (n > 16)
        h = fold(h ^ lm_load_u64le(p + 8), lm_load_u64le(p + n - 16) ^ 0xd1b54a32d192ed03u);
    return h;
}

static inline uint64_t spread(const struct lmi_longest *x, uint64_t tag, size_t n)
{
    return (tag ^ n << 59) * x->seed;
}

static inline bool same(const struct lmi_longest *x, const struct lmi_longest_slot *s, uint64_t tag, const uint8_t *p, size_t n)
{
    return s->tag == tag && s->n == n && (n <= 8 || memcmp(x->bytes[s->id], p, n) == 0);
}

uint32_t lmi_longest_find(const struct lmi_longest *x, const uint8_t *p, size_t n, uint64_t first)
{
    uint64_t tag = tag_of(x, p, n, first), h = spread(x, tag, n);
    size_t bit = (size_t)(h >> (x->shift - 3));

    if (!(x->seen[bit / 64] >> bit % 64 & 1))
        return LMI_NONE;
    for (size_t i = (size_t)(h >> x->shift); x->slots[i].n > 0; i = (i + 1) & x->mask)
        if (same(x, &x->slots[i], tag, p, n))
            return x->slots[i].id;
    return LMI_NONE;
}

static size_t longer_bit(const struct lmi_longest *x, const uint8_t *p)
{
    return (size_t)(tag_of(x, p, LMI_LONGEST + 1, lm_load_u64le(p)) >> 48);
}

bool lmi_longest_is_longer(const struct lmi_longest *x, const uint8_t *p)
{
    size_t bit = longer_bit(x, p);

    return x->longer[bit / 64] >> bit % 64 & 1;
}

static void put_longer(struct lmi_longest *x, const uint8_t *p)
{
    size_t bit = longer_bit(x, p);

    x->lengths[p[0] | p[1] << 8] |= 1;
    x->longer[bit / 64] |= (uint64_t)1 << bit % 64;
}

static void put_short(struct lmi_longest *x, const struct lmi_longest_key *k)
{
    uint64_t h = spread(x, k->tag, k->n);
    size_t i = (size_t)(h >> x->shift), bit = (size_t)(h >> (x->shift - 3));

    for (; x->slots[i].n > 0; i = (i + 1) & x->mask)
        if (same(x, &x->slots[i], k->tag, k->bytes, k->n))
            return;
    x->seen[bit / 64] |= (uint64_t)1 << bit % 64;
    x->slots[i] = (struct lmi_longest_slot){k->tag, k->id, (uint32_t)k->n};
    if (k->n > 8)
        x->bytes[k->id] = k->bytes;
}

/* Slots are fetched from memory while other keys are put. */
void lmi_longest_put(struct lmi_longest *x, struct lm_span bytes, uint32_t id)
{
    size_t n = bytes.size;
    const uint8_t *p = bytes.data;

    if (n == 1) {
        x->single[p[0]] = x->single[p[0]] == LMI_NONE ? id : x->single[p[0]];
        return;
    }
    if (n > LMI_LONGEST) {
        put_longer(x, p);
        return;
    }
    x->lengths[p[0] | p[1] << 8] |= 1u << n;
    struct lmi_longest_key *k = &x->waiting[x->n_waiting++ % LMI_LONGEST_AHEAD];
    if (k->n > 0)
        put_short(x, k);
    *k = (struct lmi_longest_key){tag_of(x, p, n, lmi_first_bytes(p, n)), p, n, id};
    uint64_t h = spread(x, k->tag, n);
    __builtin_prefetch(&x->slots[h >> x->shift], 1);
    __builtin_prefetch(&x->seen[(h >> (x->shift - 3)) / 64], 1);
}

void lmi_longest_finish(struct lmi_longest *x)
{
    for (size_t i = 0; i < LMI_LONGEST_AHEAD; i++) {
        struct lmi_longest_key *k = &x->waiting[x->n_waiting++ % LMI_LONGEST_AHEAD];
        if (k->n > 0)
            put_short(x, k);
        k->n = 0;
    }
}
