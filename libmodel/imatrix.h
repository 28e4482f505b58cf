/* Importance of a model's columns ("importance matrix"): for each weight matrix
 * the sums, over the tokens of some text, of the squares of what each of its
 * columns was multiplied with.  Encoders use the means as weights of the error.
 *
 * Two containers are read and written, llama.cpp's (facts: its tools/imatrix):
 *
 * GGUF     general.type "imatrix", imatrix.datasets (strings),
 *          imatrix.chunk_count and imatrix.chunk_size (u32; tokens of a chunk);
 *          for each weight NAME two tensors, F32: NAME.in_sum2
 *          [matrices, columns], the sums; NAME.counts [matrices, 1], the tokens.
 *          Matrices are the experts; a matrix without experts has one.
 * .dat     little-endian, no magic: i32 entries; each { i32 length; name; i32
 *          chunks; i32 values; f32 value[values] } with value = mean square *
 *          chunks; then, optionally, i32 chunks, i32 length, dataset.
 *
 * Names are GGUF's names of the weights ("blk.0.attn_q.weight"). */
#ifndef LIBMODEL_IMATRIX_H
#define LIBMODEL_IMATRIX_H

#include "libmodel/bytes.h"
#include "libmodel/err.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Borrowed until the importance changes or is freed. */
struct lm_imatrix_entry {
    const char *name;
    size_t n_values, n_counts; /* values of a count: n_values / n_counts, whole */
    const uint8_t *sums;       /* F32 little-endian, any alignment: [n_values] */
    const int64_t *counts;     /* [n_counts] tokens; chunks in what a .dat gave */
};

struct lm_imatrix; /* opaque */

int lm_imatrix_new(struct lm_imatrix **out, uint32_t chunk_size, struct lm_err *e);
void lm_imatrix_free(struct lm_imatrix *m); /* NULL is fine */

/* Either container; which one is seen from the bytes. Sums and counts must be
 * finite and not negative. */
int lm_imatrix_read(struct lm_imatrix **out, const char *path, struct lm_err *e);
/* Adds sums and counts to those of the same name, appends what is new. -1 when
 * the sizes differ (then m is as it was). A single count is spread over the
 * matrices of the other side. */
int lm_imatrix_add(struct lm_imatrix *m, const char *name, const float *sums, size_t n_values, const int64_t *counts,
                   size_t n_counts, struct lm_err *e);
/* All of `from` into m: entries, datasets; chunks are counted again. A .dat is
 * taken as chunks of the other's chunk_size (512 if neither knows). */
int lm_imatrix_merge(struct lm_imatrix *m, const struct lm_imatrix *from, struct lm_err *e);

size_t lm_imatrix_count(const struct lm_imatrix *m);
const struct lm_imatrix_entry *lm_imatrix_at(const struct lm_imatrix *m, size_t i); /* in byte order of names */
const struct lm_imatrix_entry *lm_imatrix_find(const struct lm_imatrix *m, const char *name); /* or NULL */

uint32_t lm_imatrix_chunks(const struct lm_imatrix *m);     /* the text's length in chunks; 0 unknown */
uint32_t lm_imatrix_chunk_size(const struct lm_imatrix *m); /* tokens of a chunk; 0 unknown (.dat) */
void lm_imatrix_set_chunks(struct lm_imatrix *m, uint32_t n);
size_t lm_imatrix_n_datasets(const struct lm_imatrix *m);
const char *lm_imatrix_dataset(const struct lm_imatrix *m, size_t i);
int lm_imatrix_add_dataset(struct lm_imatrix *m, const char *name, struct lm_err *e);

/* Mean squares of the columns of one of n_matrices matrices of n_columns each
 * into out[n_columns]; 1 all over for an expert that no token reached. -1 when
 * the entry does not have n_matrices * n_columns values. */
int lm_imatrix_means(const struct lm_imatrix_entry *entry, uint64_t n_columns, uint64_t n_matrices, uint64_t matrix,
                     float *out, struct lm_err *e);

/* The bytes of a file; the caller frees *out. legacy: .dat, which has no counts
 * of experts: entries that no token reached are left out of it. */
int lm_imatrix_encode(const struct lm_imatrix *m, bool legacy, uint8_t **out, size_t *n, struct lm_err *e);

#ifdef __cplusplus
}
#endif
#endif
