/* int8 products in plain C around one step: the file that includes this defines
 * eight sums, their start, 256 more columns, and the total of the sums of every
 * second 256 columns and of the others. Blocks are unpacked once and used for
 * every token. */
#ifndef GPU_CPU_GENERIC_Q8_H
#define GPU_CPU_GENERIC_Q8_H

#include "gpu/cpu_blocks.h"
#include "gpu/cpu_generic.h"

#define LMI_UNPACKED_ROWS 8 /* that stay unpacked while all tokens pass */

static inline lmi_sums lmi_no_sums(void);
static inline lmi_sums lmi_add_super(lmi_sums y, const struct lmi_unpacked *u, const struct lmi_q8 *a, unsigned group,
                                     unsigned offset);
static inline float lmi_total(const lmi_sums y[2]);

static inline size_t lmi_tile_bytes_c(size_t k)
{
    return lmi_n_super(k) * sizeof(struct lmi_q8);
}
static inline size_t lmi_panel_bytes_c(size_t k)
{
    return LMI_UNPACKED_ROWS * lmi_n_super(k) * sizeof(struct lmi_unpacked);
}
static inline void lmi_quantize_tile_c(uint8_t *tile, const float *x, size_t ldx, size_t n, size_t k)
{
    (void)ldx, (void)n; /* one token a tile */
    lmi_quantize_c((struct lmi_q8 *)(void *)tile, x, k);
}

static inline void lmi_unpack_at(enum lm_dtype t, struct lmi_unpacked *u, const uint8_t *row, size_t s, size_t k)
{
    size_t left = k - s * LMI_SUPER;
    lmi_unpack(t, u, row + s * lmi_super_bytes(t), left < LMI_SUPER ? left : LMI_SUPER);
}

static inline void lmi_q8_rows_c(enum lm_dtype t, float *y, const uint8_t *w, size_t row_bytes, size_t rows,
                                 const struct lmi_q8 *a, size_t k)
{
    unsigned group = lmi_q8_group(t), offset = lmi_q8_offset(t);
    struct lmi_unpacked u;

    for (size_t r = 0; r < rows; r++, w += row_bytes) {
        lmi_sums sums[2] = {lmi_no_sums(), lmi_no_sums()};
        for (size_t s = 0; s < lmi_n_super(k); s++) {
            lmi_unpack_at(t, &u, w, s, k);
            sums[s % 2] = lmi_add_super(sums[s % 2], &u, a + s, group, offset);
        }
        y[r] = lmi_total(sums);
    }
}

static inline void lmi_q8_gemm_c(enum lm_dtype t, float *y, size_t ldy, const uint8_t *w, size_t row_bytes,
                                 size_t rows, const struct lmi_acts *a, uint8_t *panel)
{
    struct lmi_unpacked *u = (struct lmi_unpacked *)(void *)panel;
    const struct lmi_q8 *q = (const struct lmi_q8 *)(const void *)a->q8_tiles;
    unsigned group = lmi_q8_group(t), offset = lmi_q8_offset(t);
    size_t n_super = lmi_n_super(a->k);

    for (size_t r0 = 0; r0 < rows; r0 += LMI_UNPACKED_ROWS) {
        size_t n = rows - r0 < LMI_UNPACKED_ROWS ? rows - r0 : LMI_UNPACKED_ROWS;
        for (size_t i = 0; i < n * n_super; i++)
            lmi_unpack_at(t, u + i, w + (r0 + i / n_super) * row_bytes, i % n_super, a->k);
        for (size_t i = 0; i < a->n * n; i++) {
            lmi_sums sums[2] = {lmi_no_sums(), lmi_no_sums()};
            for (size_t s = 0; s < n_super; s++)
                sums[s % 2] = lmi_add_super(sums[s % 2], u + i % n * n_super + s, q + i / n * n_super + s, group, offset);
            y[i / n * ldy + r0 + i % n] = lmi_total(sums);
        }
    }
}

#endif
