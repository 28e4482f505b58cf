/* Digests of what a model is, whatever file it lies in.
 *
 * The canonical form is specified in the README ("The canonical form of
 * lm-hash"): tensors as GGUF names and orders them, cut into leaves, each leaf
 * in the narrowest floating-point type that holds it, SHA-256 over leaves,
 * tensors, model. BF16 and its F32 widening hash alike, any changed bit of a
 * value gives another digest, and container, shards, order in the file and
 * padding do not matter. A quantized tensor differs from the one it was made
 * from. tests/hash_reference.py implements the same from that text alone. */
#ifndef CONVERT_HASH_H
#define CONVERT_HASH_H

#include "convert/convert.h"

#define LM_HASH_LEAF (UINT64_C(1) << 18) /* elements */

struct lm_digest { uint8_t byte[32]; };

struct lm_hash_tensor {
    const struct lm_tensor *src; /* of several the first */
    size_t n_src;                /* stored tensors that it is made of */
    const char *name;  /* canonical */
    unsigned n_dims;   /* canonical, dimensions of 1 included */
    uint64_t shape[LM_MAX_DIMS];
    const char *why;   /* not counted in the model's digest, because; NULL: counted */
    struct lm_digest digest;
};
struct lm_hash {
    struct lm_hash_tensor *tensors; /* in the order of 6 */
    size_t n_tensors, n_counted;
    struct lm_digest model;
    const char *arch;               /* NULL: not known, names and order are the file's own */
    const char *why;                /* why not */
    struct lm_arena arena;
};

/* One pass over all data; o: threads, stop, progress. m must outlive *out. */
int lm_hash_model(struct lm_hash **out, struct lm_model *m, const struct lm_run_options *o, struct lm_err *e);
void lm_hash_free(struct lm_hash *h);
/* 64 lower-case hexadecimal digits and a NUL; returns buf. */
char *lm_digest_hex(const struct lm_digest *d, char buf[65]);
bool lm_digest_parse(struct lm_digest *d, const char *hex); /* exactly 64 digits, then anything else */
bool lm_digest_eq(const struct lm_digest *a, const struct lm_digest *b);

#endif
