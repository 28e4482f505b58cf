/* Moving and changing tensor data.  Private to convert/. */
#ifndef CONVERT_STREAM_H
#define CONVERT_STREAM_H

#include "convert/convert.h"

/* ---- transform.c: elements of the source in the order of the output */

/* Ranges that lmc_fetch takes begin at multiples of this many output elements
 * and have such a length, or reach the end. At least 1. */
uint64_t lmc_unit(const struct lm_plan_item *it);
/* Elements [first, first + n) of the output, in the source's dtype,
 * little-endian, into raw, which has room for lmc_raw_bytes of them. */
size_t lmc_raw_bytes(const struct lm_plan_item *it, uint64_t n);
int lmc_fetch(const struct lm_model *m, const struct lm_plan_item *it, uint64_t first, uint64_t n, void *raw,
              struct lm_err *e);
/* The same as f32, through raw. */
int lmc_fetch_f32(const struct lm_model *m, const struct lm_plan_item *it, uint64_t first, uint64_t n, void *raw,
                  float *out, struct lm_err *e);
/* The file must still have all n bytes. */
int lmc_pread_all(int fd, void *dst, size_t n, uint64_t offset, struct lm_err *e);

/* ---- tally.c: what a cast loses */

struct lmc_tally { uint64_t n_overflow, n_flushed, n_nan; };
/* Counts for n values about to become `to` (F32, F16, BF16). src: the stored
 * values when the source is F64, else NULL. */
void lmc_tally(struct lmc_tally *t, const float *x, const void *f64, size_t n, enum lm_dtype to);
/* Bits of the largest |x|; 0x7f800000 and above: something is not finite. */
uint32_t lmc_max_bits(const float *x, size_t n);

/* ---- stream.c */

struct lmc_place { int fd; uint64_t offset; };
/* Writes the data of every item to its place. */
int lmc_stream(struct lm_plan *p, const struct lmc_place *places, const struct lm_run_options *o, struct lm_err *e);
bool lmc_stopped(const struct lm_run_options *o, struct lm_err *e);

#endif
