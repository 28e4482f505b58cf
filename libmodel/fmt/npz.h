/* What the .npz reader and writer share. Private to libmodel. */
#ifndef LIBMODEL_FMT_NPZ_H
#define LIBMODEL_FMT_NPZ_H

#include "libmodel/fmt/fmt.h"

int lmi_npz_layout(struct lm_layout *out, const struct lm_write_spec *spec, const char *base, struct lm_err *e);
int lmi_npz_finish(int fd, const struct lm_layout *l, size_t file, struct lm_err *e);

extern const struct lm_format lm_format_npz;
#endif
