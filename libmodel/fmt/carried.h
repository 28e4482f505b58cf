/* Metadata and small files in a container that has nothing but arrays of
 * numbers: the convention is in libmodel/format.h. Private to libmodel. */
#ifndef LIBMODEL_FMT_CARRIED_H
#define LIBMODEL_FMT_CARRIED_H

#include "libmodel/fmt/fmt.h"

/* One array of n bytes to be written under `name`. */
struct lmi_carried { char *name; uint8_t *data; size_t n; };

/* What a writer stores for these pairs (meta may be NULL): libmodel.meta first.
 * Refuses tensors of the spec that have such names. Free with lmi_carry_free. */
int lmi_carry(struct lmi_carried **out, size_t *n, const struct lm_write_spec *spec, struct lm_err *e);
void lmi_carry_free(struct lmi_carried *c, size_t n);

/* Is an array of this name carried, and no tensor? */
bool lmi_is_carried(struct lm_span name);
/* Is it libmodel.meta? It must be given to lmi_carried_read before the others. */
bool lmi_is_carried_meta(struct lm_span name);
/* Puts one into the model's metadata. bytes stay borrowed: they lie in a mapping
 * or in the model's arena. From then on the model's small files are those it
 * carries. */
int lmi_carried_read(struct lm_model *m, struct lm_span name, struct lm_span bytes, struct lm_err *e);

#endif
