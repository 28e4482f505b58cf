/* Sums of the tensors that an output is made of, so that a published file can
 * say which source it came from.  Private to convert/.
 *
 * Elements in the order of the output, in the source's type, little-endian, are
 * cut into leaves of LMC_LEAF; a tensor's sum is the sum modulo 2^64, over its
 * leaves, of mix(XXH64(leaf) + mix(number of the leaf)), mix being splitmix64's.
 * So ranges can be summed apart, in any order.  It finds accidents and other
 * sources; that a file is the right one is proved by making it again. */
#ifndef CONVERT_SOURCE_H
#define CONVERT_SOURCE_H

#include "convert/convert.h"
#include "convert/sum.h"

enum { LMC_LEAF = 1024 /* elements: whole blocks of every type */ };

/* A range on its way; zero-initialised, first a multiple of LMC_LEAF. */
struct lmc_source_sum {
    struct lmc_sum leaf;
    uint64_t at, total; /* at: the next element */
};
void lmc_source_begin(struct lmc_source_sum *s, uint64_t first);
void lmc_source_add(struct lmc_source_sum *s, enum lm_dtype d, const void *data, uint64_t n); /* whole blocks */
uint64_t lmc_source_end(struct lmc_source_sum *s);

/* Is the item summed, when it is taken in these units? */
bool lmc_source_counts(const struct lm_plan_item *it, uint64_t unit);
/* The least common multiple of unit and LMC_LEAF. */
uint64_t lmc_source_unit(uint64_t unit);

#endif
