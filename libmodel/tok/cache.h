/* Words seen before and their ids. A call borrows a cache from its tokenizer and
 * gives it back, so that many short texts are as fast as a long one; its size is
 * bounded whatever the texts are. Private to libmodel. */
#ifndef LIBMODEL_TOK_CACHE_H
#define LIBMODEL_TOK_CACHE_H

#include "libmodel/bytes.h"

enum { LMI_CACHED_BYTES = 16, LMI_NARROW_IDS = 6, LMI_WIDE_IDS = 3 };

/* A word and its ids, 32 bytes. Where all ids fit 16 bits there is room for six. */
struct lmi_slot {
    uint64_t key[2];
    uint8_t n_bytes, n_ids; /* n_bytes 0: free; its high bit: a fragment */
    uint16_t margin;        /* Unigram: see lmi_unigram_holds */
    union {
        uint16_t narrow[LMI_NARROW_IDS];
        uint32_t wide[LMI_WIDE_IDS];
        uint32_t place; /* of more ids than there is room for: see lmi_cache_ids */
    };
};

struct lmi_cache {
    struct lmi_slot *slots; /* in twos that share a cache line; a word is in one of two */
    void *block;            /* that they lie in */
    size_t mask;
    uint32_t *ids;    /* a ring: place p is at p % LMI_RING */
    uint32_t n_ids;   /* places given out */
    uint64_t n_bytes; /* of text seen */
    unsigned flags;   /* of the calls that have it: what may be remembered depends on them */
    struct lmi_cache *next;
};

enum { LMI_RING = 1 << 18 };

struct lmi_caches; /* those that no call has */
struct lmi_caches *lmi_caches_new(void); /* NULL when out of memory */
void lmi_caches_free(struct lmi_caches *c);

/* A cache fit for n more bytes of text; NULL when out of memory. */
struct lmi_cache *lmi_cache_take(struct lmi_caches *c, size_t n_bytes, unsigned flags);
void lmi_cache_give(struct lmi_caches *c, struct lmi_cache *x);

/* A place for n <= 255 ids, which go to x->ids + place % LMI_RING. */
uint32_t lmi_cache_place(struct lmi_cache *x, size_t n);

/* The ids of this place, NULL when others took it since. */
static inline const uint32_t *lmi_cache_ids(const struct lmi_cache *x, uint32_t place)
{
    return x->n_ids - place <= LMI_RING ? x->ids + place % LMI_RING : NULL;
}

/* The first of the two slots where a word can be. Short words fill only the high
 * bytes of a key, so the product must be folded: its low half would not depend on
 * them. */
static inline struct lmi_slot *lmi_cache_slot(const struct lmi_cache *x, const uint64_t key[2])
{
    __extension__ typedef unsigned __int128 wide;
    wide h = (wide)(key[0] ^ 0x9e3779b97f4a7c15u) * (key[1] ^ 0xd1b54a32d192ed03u);

    return &x->slots[((uint64_t)h ^ (uint64_t)(h >> 64)) & x->mask & ~(size_t)1];
}

#endif
