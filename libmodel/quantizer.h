/* Encoders of block types that run elsewhere than on this machine's CPU: the
 * table that a plugin exports.  It stands here because a plugin (gpu/) and what
 * uses it (convert/) may not include each other. */
#ifndef LIBMODEL_QUANTIZER_H
#define LIBMODEL_QUANTIZER_H

#include "libmodel/dtype.h"
#include "libmodel/err.h"

#ifdef __cplusplus
extern "C" {
#endif

struct lm_quantizer_dev; /* one opened device */

struct lm_quantizer {
    const char *name; /* "cuda" */
    /* ordinal: which of several devices. */
    int (*open)(struct lm_quantizer_dev **out, int ordinal, struct lm_err *e);
    void (*close)(struct lm_quantizer_dev *d); /* NULL is fine */
    /* One line for people: "NVIDIA H100". */
    void (*describe)(const struct lm_quantizer_dev *d, char *buf, size_t size);
    /* Does it encode this type, with importance (weighted) or without? What it
     * does not, the CPU encodes. */
    bool (*can)(const struct lm_quantizer_dev *d, enum lm_dtype to, bool weighted);
    /* n_rows rows of n_per_row f32, finite, to blocks at dst: exactly the bytes
     * of lm_dtype_info(to)->from_f32 or, where weights [n_per_row] is not NULL,
     * of from_f32_weighted. n_per_row is a multiple of block_elems; without
     * weights all may come as one long row. All pointers are host memory; dst
     * is complete on return. Called by several threads at once. */
    int (*encode)(struct lm_quantizer_dev *d, enum lm_dtype to, void *dst, const float *src, const float *weights,
                  size_t n_per_row, size_t n_rows, struct lm_err *e);
};

#ifdef __cplusplus
}
#endif
#endif
