/* One pass over data by a few threads.  Private to convert/. */
#ifndef CONVERT_HASH_PASS_H
#define CONVERT_HASH_PASS_H

#include "convert/convert.h"

struct lmc_pass {
    void *user;
    size_t n_items;
    uint64_t total; /* bytes, for progress */
    uint64_t (*n_pieces)(void *user, size_t item);
    /* One piece; *bytes: read from the source. scratch is the thread's own. */
    int (*piece)(void *user, void *scratch, size_t item, uint64_t piece, uint64_t *bytes, struct lm_err *e);
    void *(*scratch_new)(void *user); /* NULL: out of memory */
    void (*scratch_free)(void *scratch);
};

/* Every piece of every item once, begun in order. The first error ends it. */
int lmc_pass(const struct lmc_pass *p, const struct lm_run_options *o, struct lm_err *e);

#endif
