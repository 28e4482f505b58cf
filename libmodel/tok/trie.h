/* A double array over the bytes of pieces: one load a step. Private to libmodel. */
#ifndef LIBMODEL_TOK_TRIE_H
#define LIBMODEL_TOK_TRIE_H

#include "libmodel/err.h"
#include "libmodel/tok/texts.h"

/* A walk is as long as the longest piece, from every place of a text: without a
 * limit a hostile vocabulary makes that quadratic. */
enum { LMI_LONGEST_PIECE = 1024 };

/* A unit is base << 34 | (id + 1) << 9 | 256 | label; 0 is free. The child of a
 * node by a byte is at base ^ byte if the label there is that byte: no two nodes
 * have the same base. */
struct lmi_trie {
    uint64_t *units;
    size_t n_units; /* a multiple of 256: no bounds are checked on a walk */
};

struct lmi_trie_key {
    struct lm_span text; /* not empty */
    uint32_t id;
};

/* Sorts keys; of equal texts the one with the smallest id counts. -1 out of
 * memory, a text above the limit, ids of more than 25 bits. */
int lmi_trie_build(struct lmi_trie *t, struct lmi_trie_key *keys, size_t n, struct lm_err *e);
void lmi_trie_free(struct lmi_trie *t);

static inline uint64_t lmi_trie_root(const struct lmi_trie *t)
{
    return t->units[0];
}

/* To the child of *unit; false if there is none. */
static inline bool lmi_trie_step(const struct lmi_trie *t, uint64_t *unit, uint8_t byte)
{
    uint64_t next = t->units[(*unit >> 34) ^ byte];

    *unit = next;
    return (next & 0x1ff) == (0x100u | byte);
}

/* The piece that ends at this unit, or LMI_NONE. */
static inline uint32_t lmi_trie_id(uint64_t unit)
{
    return (uint32_t)(unit >> 9 & 0x1ffffff) - 1;
}

/* The longest piece at the start of text, walking on from `unit`; *n its bytes. */
uint32_t lmi_trie_longest(const struct lmi_trie *t, uint64_t unit, struct lm_span text, size_t *n);

#endif
