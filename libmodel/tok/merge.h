/* Byte-pair merging: the engine that SentencePiece's and GPT-2's BPE share.
 * Both always merge the pair with the smallest order (merge rank, or rank by
 * falling score), leftmost first among equals. */
#ifndef LIBMODEL_TOK_MERGE_H
#define LIBMODEL_TOK_MERGE_H

#include "libmodel/tok/texts.h"

/* (left id, right id) -> order and result. */
struct lmi_pairs {
    struct lmi_pair {
        uint64_t key; /* left << 32 | right; UINT64_MAX: free */
        uint32_t order, result;
    } *slots;
    size_t mask, n;
    unsigned shift;
    uint64_t multiplier;
};

bool lmi_pairs_init(struct lmi_pairs *p, size_t n); /* room for n; false when out of memory */
void lmi_pairs_free(struct lmi_pairs *p);
/* The smallest order stays when a pair is put twice. false when out of memory. */
bool lmi_pairs_put(struct lmi_pairs *p, uint32_t left, uint32_t right, uint32_t order, uint32_t result);

static inline size_t lmi_pairs_hash(const struct lmi_pairs *p, uint64_t key)
{
    key ^= key >> 29;
    return (size_t)(key * p->multiplier >> p->shift);
}

static inline const struct lmi_pair *lmi_pairs_get(const struct lmi_pairs *p, uint32_t left, uint32_t right)
{
    uint64_t key = (uint64_t)left << 32 | right;

    for (size_t i = lmi_pairs_hash(p, key);; i = (i + 1) & p->mask) {
        const struct lmi_pair *s = &p->slots[i];
        if (s->key == UINT64_MAX) /* first: (LMI_NONE, LMI_NONE) has this key and is no pair */
            return NULL;
        if (s->key == key)
            return s;
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
};
void lmi_merge_scratch_free(struct lmi_merge_scratch *s);

/* Merges ids[0..n) in place, returns how many are left; SIZE_MAX when out of
 * memory. Ids in no pair (LMI_NONE too) stay as they are. n < 2^31. */
size_t lmi_merge(struct lmi_merge_scratch *s, const struct lmi_pairs *p, uint32_t *ids, size_t n);

#endif
