/* The numbers of a comparison.  Private to convert/. */
#ifndef CONVERT_DIFF_VALUES_H
#define CONVERT_DIFF_VALUES_H

#include "convert/diff.h"
#include "convert/hash_canon.h"

/* ---- diff_rank.c: numerical rank from a two-sided random sketch.
 *
 * Z = T D S, where S adds the columns of D into SKETCH_COLS buckets with random
 * signs and T does so with rows: one addition an element, and Z has the rank of
 * D as long as that is below the number of buckets (a count sketch: Clarkson
 * and Woodruff, arXiv 1207.6365). Singular values come out within a small
 * factor, so the threshold is set against the rounding noise. */
enum { LMC_SKETCH_ROWS = 192, LMC_SKETCH_COLS = 128 };
struct lmc_sketch { double z[LMC_SKETCH_ROWS][LMC_SKETCH_COLS]; };
/* Adds elements [first, first + n) of D [.., cols]. */
void lmc_sketch_add(struct lmc_sketch *s, const float *d, uint64_t first, size_t n, uint64_t cols);
void lmc_sketch_merge(struct lmc_sketch *into, const struct lmc_sketch *from);
/* Singular values of D [rows, cols] that stand out of noise with this standard
 * deviation an element; *limit: the most that could be counted. */
uint32_t lmc_sketch_rank(const struct lmc_sketch *s, uint64_t rows, uint64_t cols, double noise, uint32_t *limit);

/* ---- diff_values.c */

/* Two tensors to be compared over n elements, and what was found. */
struct lmc_pair {
    const struct lmc_canon *a, *b;
    uint64_t n, rows, cols;       /* compared: whole rows */
    bool fine_is_a;               /* the side with more bits a weight */
    struct lmc_sums {
        uint64_t n_differ;
        uint64_t n_not_cast[2];   /* values that are not the rounding of the finer side; of the other, where neither is */
        double aa, bb, ab, dd, sum_d;
        double largest;
        uint64_t largest_at;
        double ulp2;              /* sum of (unit of the exponent of b)^2 */
        uint64_t n_summed;        /* elements in the sums above: identical stretches are left out at first */
        double worst;             /* largest |d| over the largest |value| of its 256 */
        double ref_dd, ref_xx, ref_worst; /* the same for our own quantization of a sample of the finer side */
        bool ref_exact;           /* the sample equals our own quantization */
        bool ref_any;
    } s;
    struct lmc_sketch *sketch;    /* malloc'd when something differs and it makes sense */
    uint8_t *same;                /* one a piece: bytes equal, not summed */
};

int lmc_compare(struct lmc_pair *pairs, size_t n, const struct lm_model *a, const struct lm_model *b,
                const struct lm_run_options *o, uint64_t *n_bytes, struct lm_err *e);
void lmc_pairs_free(struct lmc_pair *pairs, size_t n);
/* Relative error of a type on normal numbers; 0 for exact ones. */
double lmc_type_error(enum lm_dtype d);

/* ---- diff_guess.c: a transform after which a changed pair is equal, or NULL. */
const char *lmc_guess(const struct lmc_pair *p, const struct lmc_canons *a, const struct lmc_canons *b,
                      double tolerance, struct lm_arena *arena);

/* ---- diff_text.c: config, metadata, tokenizer. */
int lmc_diff_notes(struct lm_diff *d, struct lm_model *a, struct lm_model *b, struct lm_err *e);

#endif
