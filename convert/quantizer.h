/* Where a range is encoded: on the CPU, or by a device's quantizer.  Private to
 * convert/.
 *
 * A plugin offers struct lm_quantizer (libmodel/quantizer.h) in the member
 * `quantizer` of its struct lm_plugin (gpu/backend.h); lm_engine_quantizer
 * (gpu/engine.h) finds it, a command puts it into lm_run_options.quantizer, and
 * lmc_stream opens it once for all threads.  Each thread then hands over whole
 * pieces, at most LMC_DEVICE_PIECE elements, of one matrix: rows with their
 * weights, or without weights one long row.  Values that are not finite never
 * get there.
 *
 * Bytes must not depend on the device: the first rows of every piece are also
 * encoded on the CPU, and a difference ends the conversion (LM_MISMATCH). */
#ifndef CONVERT_QUANTIZER_H
#define CONVERT_QUANTIZER_H

#include "convert/convert.h"

enum { LMC_DEVICE_PIECE = 4 << 20 /* elements; a device wants more at a time than a cache holds */ };

struct lmc_encoder {
    const struct lm_quantizer *q; /* NULL: the CPU */
    struct lm_quantizer_dev *dev;
};
int lmc_encoder_open(struct lmc_encoder *x, const struct lm_run_options *o, struct lm_err *e);
void lmc_encoder_close(struct lmc_encoder *x);
/* As lm_quantizer.encode, wherever it can be done; the values are finite. */
int lmc_encode(const struct lmc_encoder *x, enum lm_dtype to, void *dst, const float *src, const float *weights,
               size_t n_per_row, size_t n_rows, struct lm_err *e);

#endif
