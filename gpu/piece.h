/* The weights of two models role by role, whatever their spelling, and a model
 * run with some of them put right.  Private. */
#ifndef GPU_PIECE_H
#define GPU_PIECE_H

#include "gpu/compare.h"
#include "gpu/net.h"

/* ---- gpu/piece.c */

/* A matrix [rows, cols] or vector [rows, 1] in one order for every container:
 * rows of Q and K half-split, whichever tensor they are part of, norm weights
 * as they multiply. */
struct lmi_piece {
    struct lm_part part;
    const struct lm_net *net;
    uint64_t rows, cols;
    enum { LMI_WHOLE, LMI_OF_Q, LMI_OF_K, LMI_OF_V } fused;
    uint64_t first;    /* row of the tensor where it begins, if not fused */
    uint32_t heads;    /* rows are stored as adjacent pairs within each of these; 0: as they are */
    double shift;      /* what is added to stored values */
};
/* index: the expert or the head. false: the model has no such role here. A tied output is the embedding. */
bool lmi_piece_of(const struct lm_engine *g, enum lm_role role, int layer, uint32_t index, struct lmi_piece *out);
/* How many indices the role has. */
uint32_t lmi_piece_count(const struct lm_config *c, enum lm_role role);
/* Rows first, first + step ..., n of them, to out [n, cols]. */
int lmi_piece_read(const struct lmi_piece *p, uint64_t first, uint64_t step, uint64_t n, float *out, struct lm_err *e);
/* All of it into data, the f32 elements of p's tensor in that tensor's own order. */
void lmi_piece_write(const struct lmi_piece *p, const float *values, float *data);

/* ---- gpu/guess.c */

struct lmi_pair {
    const struct lm_engine *ga, *gb;
    struct lmi_piece a, b;
    enum lm_role role;
    int layer;
    uint32_t index;
    float *x, *y;           /* A's and B's values, [n_rows, cols] */
    uint64_t n_rows, step;  /* every step-th row */
    double aa, bb, ab, dd, d1;
    double error, bound;
};
/* Loads both and compares. -1 when they cannot be read; their shapes are equal. Ends with lmi_pair_free. */
int lmi_pair_load(struct lmi_pair *p, struct lm_err *e);
void lmi_pair_free(struct lmi_pair *p);
/* Names what was done to B's, in f's cause and text. */
void lmi_guess(const struct lmi_pair *p, struct lm_finding *f);
double lmi_pair_bound(const struct lm_tensor *a, const struct lm_tensor *b);

/* ---- gpu/rerun.c */

struct lmi_rerun {
    struct lm_side side;     /* of B; session NULL until started */
    struct lmi_patch *patches;
    size_t patch_bytes;
};
/* B bound again with fields of its configuration changed. */
int lmi_rerun_open(struct lmi_rerun *r, const struct lm_side *b, void (*change)(struct lm_config *c, void *user),
                   void *user, struct lm_err *e);
/* A's values in place of B's (or where B has none). 0 also when it is too large to try, then r->patch_bytes is SIZE_MAX. */
int lmi_rerun_replace(struct lmi_rerun *r, const struct lm_side *a, enum lm_role role, int layer, uint32_t index,
                      struct lm_err *e);
/* Ready to run; with rope_from: rotates as that model does. */
int lmi_rerun_start(struct lmi_rerun *r, const struct lm_engine *rope_from, struct lm_err *e);
void lmi_rerun_close(struct lmi_rerun *r);

#endif
