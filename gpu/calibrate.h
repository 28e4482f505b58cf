/* What the columns of a model's matrices are multiplied with: sums of squares
 * over the tokens of a text, as importance files keep them (libmodel/imatrix.h). */
#ifndef GPU_CALIBRATE_H
#define GPU_CALIBRATE_H

#include "gpu/engine.h"
#include "libmodel/imatrix.h"

#ifdef __cplusplus
extern "C" {
#endif

struct lm_calibration; /* opaque */

/* From here on every product of g is watched. output: the output matrix too,
 * unless it is the embedding. LM_UNSUPPORTED when g's device cannot show its
 * activations. g must outlive it; one calibration an engine. */
int lm_calibration_new(struct lm_calibration **out, struct lm_engine *g, bool output, struct lm_err *e);
void lm_calibration_free(struct lm_calibration *c); /* NULL is fine */

/* Runs n tokens in an empty context of s, a session of g, and adds what was
 * seen. After a failure, LM_INTERRUPTED by *stop (NULL: none) among them, the
 * sums hold a part of these tokens and are of no use. LM_MALFORMED names a
 * matrix whose input is not finite. */
int lm_calibration_run(struct lm_calibration *c, struct lm_session *s, const int32_t *ids, size_t n,
                       const volatile int *stop, struct lm_err *e);

/* Adds what was collected to m, under GGUF's names, whatever the model's own:
 * for experts a sum and a count each. Matrices that no token reached have zeros. */
int lm_calibration_add_to(const struct lm_calibration *c, struct lm_imatrix *m, struct lm_err *e);

#ifdef __cplusplus
}
#endif
#endif
