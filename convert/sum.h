/* A fast 64-bit check of bytes that arrive in pieces: XXH64 with seed 0, as
 * https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md defines it.
 * It finds accidents, not attacks.  Private to convert/. */
#ifndef CONVERT_SUM_H
#define CONVERT_SUM_H

#include "libmodel/bytes.h"

struct lmc_sum {
    uint64_t lane[4], n;
    uint8_t rest[32]; /* n % 32 bytes that do not fill a stripe yet */
};
void lmc_sum_begin(struct lmc_sum *s);
void lmc_sum_add(struct lmc_sum *s, const void *data, size_t n);
uint64_t lmc_sum_end(const struct lmc_sum *s);
uint64_t lmc_sum_of(const void *data, size_t n);

#endif
