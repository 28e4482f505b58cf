/* Codebooks of the IQ1, IQ2 and IQ3 types, and the search structure of their
 * encoders.
 *
 * A codebook is a list of points with a few coordinates of a few levels; packed
 * as in grid_codes.c.  An encoder rounds each coordinate by itself and, when the
 * resulting point is not in the book, looks for the best replacement among the
 * points at the n_shells smallest distances from it. */
#ifndef LIBMODEL_DTYPE_GRID_H
#define LIBMODEL_DTYPE_GRID_H

#include <stdint.h>

extern const uint16_t lmi_iq2_xxs_points[256];
extern const uint16_t lmi_iq2_xs_points[512];
extern const uint16_t lmi_iq2_s_points[1024];
extern const uint16_t lmi_iq1_points[2048];
extern const uint16_t lmi_iq3_xxs_points[256];
extern const uint16_t lmi_iq3_s_points[512];

enum lmi_grid_id { LMI_GRID_IQ2_XXS, LMI_GRID_IQ2_XS, LMI_GRID_IQ2_S, LMI_GRID_IQ1, LMI_GRID_IQ3_XXS, LMI_GRID_IQ3_S, LMI_N_GRIDS };

enum { LMI_NEAR_RUN = 16 }; /* lists of near points come in whole runs */

/* One for every point that rounding can give. */
struct lmi_near {
    uint16_t at; /* n == 0: in the book, at this position; else the list's first run */
    uint16_t n;  /* points in the list; the last run is filled up with its last point */
};

struct lmi_grid {
    const uint16_t *points;
    /* By the point's number: its coordinates as the digits of a number in base
     * 3 (8 of them) or 8 (4), the first coordinate lowest. */
    const struct lmi_near *near;
    /* Packed points, nearest shell first, in the order of the book within one. */
    const uint16_t *lists;
};

/* Built on first use; safe from any thread. */
const struct lmi_grid *lmi_grid(enum lmi_grid_id id);

#endif
