/* Storage types of tensor elements: sizes, and conversion from and to f32.
 *
 * A type is a block of block_elems elements in block_bytes bytes; plain types
 * have one element a block.  Names on the wire ("BF16", ggml id 30, "<f2") are
 * each format's own business. */
#ifndef LIBMODEL_DTYPE_H
#define LIBMODEL_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum lm_dtype {
#define DTYPE(s) LM_##s,
#include "libmodel/dtypes.def"
#undef DTYPE
    LM_N_DTYPES
};

enum lm_dtype_kind { LM_KIND_FLOAT, LM_KIND_INT, LM_KIND_BOOL, LM_KIND_COMPLEX, LM_KIND_QUANT };

#define LM_DTYPE_MAX_FIELDS 4

struct lm_dtype_info {
    const char *name; /* "Q4_K", upper case, unique */
    enum lm_dtype_kind kind;
    uint32_t block_elems;
    uint32_t block_bytes;

    /* Values of n elements (a multiple of block_elems) at src, any alignment,
     * little-endian.  NULL: listed and sized, not computed with. */
    void (*to_f32)(float *dst, const void *src, size_t n);

    /* The inverse; rounding to nearest even for plain floats, ggml's reference
     * quantizer (built without contraction) for block types.  NULL: cannot be
     * written.  n is a multiple of block_elems. */
    void (*from_f32)(void *dst, const float *src, size_t n);

    /* The same told how much each column matters: weights [n_per_row], never
     * NULL, mean squared inputs of the matrix (an importance file's), one for
     * each element of a row; n_rows rows of n_per_row elements, a multiple of
     * block_elems.  ggml_quantize_chunk's bytes.  NULL: importance makes no
     * difference to this type. */
    void (*from_f32_weighted)(void *dst, const float *src, const float *weights, size_t n_per_row, size_t n_rows);

    /* Without importance the result would be useless and ggml refuses; from_f32
     * is NULL then. */
    bool needs_importance;

    /* Multi-byte fields of a block, for files of the other byte order:
     * `count` consecutive fields of `width` bytes from byte `offset` on. */
    struct { uint16_t offset, width, count; } fields[LM_DTYPE_MAX_FIELDS];
};

/* Never NULL for d < LM_N_DTYPES. */
const struct lm_dtype_info *lm_dtype_info(enum lm_dtype d);
const char *lm_dtype_name(enum lm_dtype d);
/* By name, any case ("q4_k", "BF16"); -1 when unknown. */
int lm_dtype_find(const char *name);

/* Bytes that n elements occupy; 0 if n is not a whole number of blocks or the
 * product does not fit in size_t (n == 0 also gives 0). */
size_t lm_dtype_bytes(enum lm_dtype d, uint64_t n);

/* Reverses the byte order of every field of n elements in place. */
void lm_dtype_swap(enum lm_dtype d, void *data, size_t n);

/* Scalar conversions (round to nearest even; NaN stays a quiet NaN). */
float lm_f16_to_f32(uint16_t h);
uint16_t lm_f32_to_f16(float f);
float lm_bf16_to_f32(uint16_t h);
uint16_t lm_f32_to_bf16(float f);

/* The path the row conversions take on this machine: "avx512", "avx2" or
 * "portable".  All give the same bytes.  LM_ISA in the environment chooses one
 * at start, if the machine has it; lm_dtype_set_isa forces one (tests,
 * benchmarks; not thread-safe): -1 when the machine lacks it. */
const char *lm_dtype_isa(void);
int lm_dtype_set_isa(const char *name);

#ifdef __cplusplus
}
#endif
#endif
