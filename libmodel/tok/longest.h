/* Which piece of a byte-level vocabulary is the longest at the start of some
 * bytes: a hash table over the bytes of pieces, asked for one length after
 * another, of which there are few for any two bytes. Private to libmodel. */
#ifndef LIBMODEL_TOK_LONGEST_H
#define LIBMODEL_TOK_LONGEST_H

#include "libmodel/tok/texts.h"

enum { LMI_LONGEST = 31, LMI_LONGEST_AHEAD = 16 }; /* bytes of a piece that is found */

struct lmi_longest {
    /* By the first two bytes: bit n is set when there may be a piece of n bytes,
     * bit 0 when there is one of more than LMI_LONGEST. */
    uint32_t lengths[0x10000];
    uint32_t single[256];  /* pieces of one byte */
    uint64_t longer[1024]; /* of pieces of more than LMI_LONGEST bytes: a bit for the hash of the first that many and one */
    uint64_t *seen;        /* 8 bits a slot, one of them set for every piece: near in memory */
    struct lmi_longest_slot {
        uint64_t tag;      /* the bytes, of more than eight a hash */
        uint32_t id, n;    /* n 0: free */
    } *slots;
    size_t mask;
    unsigned shift;
    uint64_t seed;
    const uint8_t **bytes; /* by id, of pieces of more than eight bytes */
    struct lmi_longest_key {
        uint64_t tag;
        const uint8_t *bytes;
        size_t n;
        uint32_t id;
    } waiting[LMI_LONGEST_AHEAD]; /* of keys to put, a ring */
    size_t n_waiting;
};

/* Zero-initialised. Room for n pieces with ids below n; false when out of memory. */
bool lmi_longest_init(struct lmi_longest *x, size_t n);
void lmi_longest_free(struct lmi_longest *x);
/* The first id put for some bytes stays. bytes are borrowed when there are more
 * than eight; size > 0. At most n puts, then finish. */
void lmi_longest_put(struct lmi_longest *x, struct lm_span bytes, uint32_t id);
void lmi_longest_finish(struct lmi_longest *x);
/* The piece of these n bytes; LMI_NONE if there is none. 2 <= n <= LMI_LONGEST;
 * `first` are the bytes themselves, eight at most, little-endian. */
uint32_t lmi_longest_find(const struct lmi_longest *x, const uint8_t *p, size_t n, uint64_t first);

bool lmi_longest_is_longer(const struct lmi_longest *x, const uint8_t *p);

/* Up to eight bytes as a number, the first lowest. */
static inline uint64_t lmi_first_bytes(const uint8_t *p, size_t n)
{
    uint64_t v = 0;

    if (n >= 8)
        return lm_load_u64le(p);
    for (size_t i = 0; i < n; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

/* May a piece of more than LMI_LONGEST bytes begin at p, where more than that many are? */
static inline bool lmi_longest_more(const struct lmi_longest *x, const uint8_t *p)
{
    return x->lengths[p[0] | p[1] << 8] & 1 && lmi_longest_is_longer(x, p);
}

/* The longest piece of at most max bytes at p, where n can be read (0 < max <= n):
 * its length, *id. A piece of one byte there always is. */
static inline size_t lmi_longest_at(const struct lmi_longest *x, const uint8_t *p, size_t n, size_t max, uint32_t *id)
{
    if (max > 1) {
        uint64_t first = lmi_first_bytes(p, n);
        uint32_t lengths = x->lengths[first & 0xffff] & (max < LMI_LONGEST ? (2u << max) - 1 : UINT32_MAX) & ~1u;
        while (lengths) {
            size_t length = 31 - (size_t)__builtin_clz(lengths);
            lengths ^= 1u << length;
            *id = lmi_longest_find(x, p, length, first);
            if (*id != LMI_NONE)
                return length;
        }
    }
    *id = x->single[p[0]];
    return 1;
}

#endif
