/* Writing for Keras.  Private to libmodel. */
#ifndef LIBMODEL_FMT_KERAS_H
#define LIBMODEL_FMT_KERAS_H

#include "libmodel/fmt/views.h"

extern const struct lm_format lm_format_keras;

/* The format's recast: a model in keras-hub's terms. */
int lmi_keras_recast(struct lm_model **out, struct lm_model *src, int dtype, struct lm_err *e);
/* The format's layout: model.weights.h5. */
int lmi_keras_layout(struct lm_layout *out, const struct lm_write_spec *spec, const char *base, struct lm_err *e);
#endif
