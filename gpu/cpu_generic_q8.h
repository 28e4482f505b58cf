/* int8 products in plain C around one kernel, lmi_dot_groups, which the file
 * that includes this defines. Blocks are unpacked once and used for every
 * token. */
#ifndef GPU_CPU_GENERIC_Q8_H
#define GPU_CPU_GENERIC_Q8_H

#include "gpu/cpu_blocks.h"
#include "gpu/cpu_generic.h"

/* sum over the groups of `group` columns of s[g] d[g] (q . a), 256 columns. */
static inline float lmi_dot_groups(const uint8_t *q, const int8_t *a, const float *s, const float *d, unsigned group);

static inline size_t lmi_tile_bytes_c(size_t k)
{
    return lmi_n_super(k) * sizeof(struct lmi_q8);
}
static inline size_t lmi_panel_bytes_c(size_t k)
{
    (void)k;
    return LMI_ROWS * sizeof(struct lmi_unpacked);
}
static inline void lmi_quantize_tile_c(uint8_t *tile, const float *x, size_t ldx, size_t n, size_t k)
{
    (void)ldx, (void)n; /* one token a tile */
    lmi_quantize_c((struct lmi_q8 *)(void *)tile, x, k);
}

static inline float lmi_dot_super(const struct lmi_unpacked *u, const struct lmi_q8 *a, unsigned group)
{
    const float *d = group == 16 ? a->fine : a->wide;
    unsigned n = 256 / group;
    float sum = lmi_dot_groups(u->q, a->q, u->s, d, group);

    for (unsigned g = 0; g < n; g++)
        sum += u->m[g] * d[n + g];
    return sum;
}

static inline void lmi_q8_rows_c(enum lm_dtype t, float *y, const uint8_t *w, size_t row_bytes, size_t rows,
                                 const struct lmi_q8 *a, size_t k)
{
    size_t bytes = lmi_super_bytes(t);
    unsigned group = lmi_q8_group(t);
    struct lmi_unpacked u;

    for (size_t r = 0; r < rows; r++, w += row_bytes) {
        y[r] = 0;
        for (size_t s = 0; s < lmi_n_super(k); s++) {
            lmi_unpack(t, &u, w + s * bytes, k - s * LMI_SUPER < LMI_SUPER ? k - s * LMI_SUPER : LMI_SUPER);
            y[r] += lmi_dot_super(&u, a + s, group);
        }
    }
}

static inline void lmi_q8_gemm_c(enum lm_dtype t, float *y, size_t ldy, const uint8_t *w, size_t row_bytes,
                                 size_t rows, const struct lmi_acts *a, uint8_t *panel)
{
    struct lmi_unpacked *u = (struct lmi_unpacked *)(void *)panel;
    size_t bytes = lmi_super_bytes(t), n_super = lmi_n_super(a->k);
    unsigned group = lmi_q8_group(t);

    for (size_t i = 0; i < a->n; i++)
        memset(y + i * ldy, 0, rows * sizeof *y);
    for (size_t s = 0; s < n_super; s++) {
        size_t left = a->k - s * LMI_SUPER;
        for (size_t r = 0; r < rows; r++)
            lmi_unpack(t, u + r, w + r * row_bytes + s * bytes, left < LMI_SUPER ? left : LMI_SUPER);
        for (size_t i = 0; i < a->n; i++) {
            const struct lmi_q8 *q = (const struct lmi_q8 *)(const void *)a->q8_tiles + i * n_super + s;
            for (size_t r = 0; r < rows; r++)
                y[i * ldy + r] += lmi_dot_super(u + r, q, group);
        }
    }
}

#endif
