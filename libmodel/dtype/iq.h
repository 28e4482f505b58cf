/* IQ1, IQ2 and IQ3: blocks of 256 elements that hold positions in a codebook
 * (grid.h), signs and small scales.  Layouts, and the kernels that exist once per
 * instruction set.  Layouts: ggml-common.h of ggml (github.com/ggml-org/ggml). */
#ifndef LIBMODEL_DTYPE_IQ_H
#define LIBMODEL_DTYPE_IQ_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "libmodel/dtype/blocks.h"
#include "libmodel/dtype/rows.h"

/* Eight elements a point.  In IQ2 a level l of a point is worth (8, 25, 43)[l] / 8
 * and a group's scale d (s + 1/2) / 4 * 8; where a sign byte has seven bits, the
 * eighth makes the number of minus signs even. */

/* Groups of 32: four bytes of positions, then a u32: 4 x 7 signs, 4 bits of scale. */
struct lmi_iq2_xxs {
    uint8_t d[2];
    uint8_t groups[8][8];
};
static_assert(sizeof(struct lmi_iq2_xxs) == 66, "IQ2_XXS block");

/* q: nine bits of position, seven signs; a scale for each 16 elements. */
struct lmi_iq2_xs {
    uint8_t d[2];
    uint8_t q[32][2]; /* u16 */
    uint8_t scales[8];
};
static_assert(sizeof(struct lmi_iq2_xs) == 74, "IQ2_XS block");

/* Positions: eight bits in q, two in qh. */
struct lmi_iq2_s {
    uint8_t d[2];
    uint8_t q[32];
    uint8_t signs[32];
    uint8_t qh[8];
    uint8_t scales[8];
};
static_assert(sizeof(struct lmi_iq2_s) == 82, "IQ2_S block");

/* Four elements a point, levels (4, 12, 20, 28, 36, 44, 52, 62) / 4 of a scale
 * d (s + 1/2) / 2 * 4; the u32 of a group as in IQ2_XXS. */
struct lmi_iq3_xxs {
    uint8_t d[2];
    uint8_t q[64];
    uint8_t signs_scales[8][4]; /* u32 */
};
static_assert(sizeof(struct lmi_iq3_xxs) == 98, "IQ3_XXS block");

/* Levels 1, 3 .. 15 of d (2 s + 1); the ninth bit of a position is in qh. */
struct lmi_iq3_s {
    uint8_t d[2];
    uint8_t q[64];
    uint8_t qh[8];
    uint8_t signs[32];
    uint8_t scales[4];
};
static_assert(sizeof(struct lmi_iq3_s) == 110, "IQ3_S block");

/* Eight elements a point, levels -1, 0, 1, all moved by 1/8 up or (top bit) down.
 * qh of a group of 32: 4 x 3 high bits of positions, 3 bits s of a scale d (2 s + 1). */
struct lmi_iq1_s {
    uint8_t d[2];
    uint8_t q[32];
    uint8_t qh[8][2]; /* u16 */
};
static_assert(sizeof(struct lmi_iq1_s) == 50, "IQ1_S block");

/* A scale for each 16 elements, a move (bit 3 of a nibble of qh) for each 8; the
 * high nibbles of the scales are the block's f16 d, lowest first. */
struct lmi_iq1_m {
    uint8_t q[32];
    uint8_t qh[16];
    uint8_t scales[4][2]; /* u16: 4 x 3 bits, and a nibble of d */
};
static_assert(sizeof(struct lmi_iq1_m) == 56, "IQ1_M block");

#define LMI_IQ_ROWS(X) X(iq1_s) X(iq1_m) X(iq2_xxs) X(iq2_xs) X(iq2_s) X(iq3_xxs) X(iq3_s)

struct lmi_iq_row {
    void (*to_f32)(float *dst, const void *src, size_t n);
    /* n blocks in rows of blocks_per_row; weights one row, or NULL where the
     * type allows it. */
    void (*encode)(void *dst, const float *src, const float *weights, size_t blocks_per_row, size_t n);
};

struct lmi_iq_rows {
#define X(t) struct lmi_iq_row t;
    LMI_IQ_ROWS(X)
#undef X
};

extern const struct lmi_iq_rows lmi_iq_portable;
#if defined(__x86_64__)
extern const struct lmi_iq_rows lmi_iq_avx2, lmi_iq_avx512;
#endif

/* The functions that a type's lm_dtype_info points at. */
#define LMI_IQ_DISPATCH(t) \
    static void to_f32(float *dst, const void *src, size_t n) \
    { \
        lmi_rows()->iq->t.to_f32(dst, src, n); \
    } \
    static void from_f32_weighted(void *dst, const float *src, const float *weights, size_t n_per_row, size_t n_rows) \
    { \
        size_t blocks_per_row = n_per_row / LMI_QK_K; \
        lmi_rows()->iq->t.encode(dst, src, weights, blocks_per_row, blocks_per_row * n_rows); \
    }

#define LMI_IQ_DISPATCH_UNWEIGHTED(t) \
    static void from_f32(void *dst, const float *src, size_t n) \
    { \
        lmi_rows()->iq->t.encode(dst, src, NULL, n / LMI_QK_K, n / LMI_QK_K); \
    }

#endif
