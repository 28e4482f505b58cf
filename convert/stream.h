/* Moving and changing tensor data.  Private to convert/. */
#ifndef CONVERT_STREAM_H
#define CONVERT_STREAM_H

#include <pthread.h>

#include "convert/convert.h"
#include "convert/quantizer.h"
#include "convert/source.h"
#include "convert/sum.h"

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
/* transform_pieces.c: the same for an item made of pieces. */
int lmc_fetch_pieces(const struct lm_model *m, const struct lm_plan_item *it, uint64_t first, uint64_t n, void *raw,
                     struct lm_err *e);
/* The file must still have all n bytes. */
int lmc_pread_all(int fd, void *dst, size_t n, uint64_t offset, struct lm_err *e);

/* ---- tally.c: what a cast loses */

struct lmc_tally { uint64_t n_overflow, n_flushed, n_nan, source_sum; struct lm_errors errors; };
/* Counts for n values about to become `to` (F32, F16, BF16). src: the stored
 * values when the source is F64, else NULL. */
void lmc_tally(struct lmc_tally *t, const float *x, const void *f64, size_t n, enum lm_dtype to);
/* Adds what y, which became of x, lost; the first element is number `first` of
 * its tensor. lmc_errors_add puts two counts together. */
void lmc_measure(struct lm_errors *r, const float *x, const float *y, size_t n, uint64_t first);
void lmc_errors_add(struct lm_errors *r, const struct lm_errors *more);
/* Bits of the largest |x|; 0x7f800000 and above: something is not finite. */
uint32_t lmc_max_bits(const float *x, size_t n);

/* ---- stream_piece.c: a thread's work */

struct lmc_place { int fd; uint64_t offset; };
struct lmc_journal;
/* One output of a pass. */
struct lmc_output {
    struct lm_plan *p;
    const struct lmc_place *places;  /* one an item */
    struct lmc_journal *journal;     /* where finished ranges are recorded; NULL: nowhere */
    bool compare;                    /* nothing is written: what is there must be the same (LM_MISMATCH) */
    bool sums_only;                  /* nothing is made: the source is read and summed */
};
/* Elements [first, first + n) of an item. */
struct lmc_range { size_t item; uint64_t first, n; };

/* The outputs of one pass: the same tensors in the same order, of the same source. */
struct lmc_outputs { const struct lmc_output *of; size_t n; bool measure; struct lmc_encoder encoder; };

/* Does it stay as it is? */
bool lmc_keeps_bytes(const struct lm_plan_item *it);
/* Is the item's source summed? */
bool lmc_sums_source(const struct lmc_output *x, size_t item);
/* The largest unit of an item in any of the outputs. */
uint64_t lmc_common_unit(const struct lmc_outputs *x, size_t item);

/* What a thread works in: room for pieces of at most n elements (or one unit)
 * of any item. */
struct lmc_needs { size_t raw, out, f32, row, back, all; size_t largest; /* item that needs most */ };
struct lmc_needs lmc_needs_of(const struct lmc_outputs *x, uint64_t n);
struct lmc_buffers {
    uint8_t *raw, *out;
    float *f32, *back; /* the values; as they were written */
    float *weights;    /* of the columns of a row */
    pthread_mutex_t *copying; /* of all threads: two copies into one file only wait for each other in the kernel, and badly */
};
int lmc_buffers_make(struct lmc_buffers *b, const struct lmc_needs *n);
void lmc_buffers_free(struct lmc_buffers *b);

/* What came of a range in one output. */
struct lmc_done {
    bool skip;               /* it is there already */
    struct lmc_tally tally;
    struct lmc_sum sum;      /* of the bytes written; not of those that the kernel copied */
    struct lmc_source_sum source;
};
/* Reads and decodes a piece once and writes it to every output not skipped,
 * adding to done (one an output). */
int lmc_piece(const struct lmc_outputs *x, const struct lmc_range *piece, const struct lmc_buffers *b,
              struct lmc_done *done, struct lm_err *e);
/* The sum of a range as it lies in an output. */
int lmc_read_sum(const struct lmc_output *x, const struct lmc_range *r, uint64_t *sum, struct lm_err *e);
/* -1 (LM_MISMATCH) when a copied range is not what the source has; looks at most at n bytes. */
int lmc_compare_copy(const struct lmc_output *x, const struct lmc_range *r, uint64_t n, struct lm_err *e);

/* ---- stream.c */

/* Writes the data of every item to its place in every output (o->part: of that
 * share), and reads a sample back. */
int lmc_stream(const struct lmc_output *outs, size_t n, const struct lm_run_options *o, struct lm_err *e);
bool lmc_stopped(const struct lm_run_options *o, struct lm_err *e);

#endif
