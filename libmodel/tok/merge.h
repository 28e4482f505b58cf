/* Byte-pair merging: the engine that SentencePiece's and GPT-2's BPE share.
 * Both always merge the pair with the smallest order (merge rank, or rank by
 * falling score), leftmost first among equals. */
#ifndef LIBMODEL_TOK_MERGE_H
#define LIBMODEL_TOK_MERGE_H

#include "libmodel/tok/texts.h"

enum { LMI_ID_BITS = 21, LMI_PAIR_BITS = 22 };

/* (left id, right id) -> order and result. The table is probed for every pair
 * of neighbours and mostly in vain, so its slots are small: 21 bits a symbol and
 * 22 for the place of the pair. */
struct lmi_pairs {
    uint64_t *slots; /* left << 43 | right << 22 | pair; UINT64_MAX: free */
    size_t mask;
    unsigned shift;
    uint64_t multiplier;
    struct lmi_pair {
        uint32_t order, result;
    } *pairs;
    size_t n, capacity;
    uint64_t *seen; /* 8 bits a slot, one of them set for every pair: most look-ups end here, near in memory */
};

/* Room for n (it grows); false when out of memory. */
bool lmi_pairs_init(struct lmi_pairs *p, size_t n);
void lmi_pairs_free(struct lmi_pairs *p);
/* The smallest order stays when a pair is put twice. Ids below 2^21. false when
 * out of memory or past 2^22 - 1 pairs. */
bool lmi_pairs_put(struct lmi_pairs *p, uint32_t left, uint32_t right, uint32_t order, uint32_t result);

static inline size_t lmi_pairs_hash(const struct lmi_pairs *p, uint64_t key)
{
    return (size_t)(key * p->multiplier >> p->shift);
}

/* The pair's bit of `seen`: the bits of the product below those of its slot. */
static inline size_t lmi_pairs_bit(const struct lmi_pairs *p, uint64_t key)
{
    return (size_t)(key * p->multiplier >> (p->shift - 3));
}

/* Brings from memory what a look-up of the pair reads: worth it where many are
 * put that are known in advance, LMI_PAIRS_AHEAD later. */
enum { LMI_PAIRS_AHEAD = 16 };
static inline void lmi_pairs_fetch(const struct lmi_pairs *p, uint32_t left, uint32_t right)
{
    uint64_t key = (uint64_t)left << LMI_ID_BITS | right;

    __builtin_prefetch(&p->seen[lmi_pairs_bit(p, key) / 64], 1);
    __builtin_prefetch(&p->slots[lmi_pairs_hash(p, key)], 1);
}

static inline const struct lmi_pair *lmi_pairs_get(const struct lmi_pairs *p, uint32_t left, uint32_t right)
{
    uint64_t key = (uint64_t)left << LMI_ID_BITS | right;

    if ((left | right) >> LMI_ID_BITS) /* LMI_NONE and the like */
        return NULL;
    size_t bit = lmi_pairs_bit(p, key);
    if (!(p->seen[bit / 64] >> bit % 64 & 1))
        return NULL;
    for (size_t i = lmi_pairs_hash(p, key);; i = (i + 1) & p->mask) {
        uint64_t s = p->slots[i];
        if (s >> LMI_PAIR_BITS == key)
            return s == UINT64_MAX ? NULL : &p->pairs[s & ((1u << LMI_PAIR_BITS) - 1)];
        if (s == UINT64_MAX)
            return NULL;
    }
}

/* Buffers that a call reuses from word to word. Zero-initialise. */
struct lmi_merge_scratch {
    struct lmi_node *nodes;
    size_t n_nodes;
    struct lmi_entry *heap;
    size_t n_heap, heap_size;
    /* When set: for results marked in `unused`, the halves of the pair that was
     * queued last (SentencePiece takes such pieces apart again by them). */
    const uint8_t *unused;
    uint32_t (*halves)[2];
    uint32_t *sizes; /* when set: of every symbol, added up like the symbols are merged */
};
void lmi_merge_scratch_free(struct lmi_merge_scratch *s);

/* Merges ids[0..n) in place, returns how many are left; SIZE_MAX when out of
 * memory. Ids in no pair (LMI_NONE too) stay as they are. n < 2^31. */
size_t lmi_merge(struct lmi_merge_scratch *s, const struct lmi_pairs *p, uint32_t *ids, size_t n);

#endif
