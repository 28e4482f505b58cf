/* Between the files of the HDF5 format.  Private to libmodel. */
#ifndef LIBMODEL_FMT_HDF5_H
#define LIBMODEL_FMT_HDF5_H

#include "libmodel/fmt/h5.h"

extern const struct lm_format lm_format_hdf5;

/* Chooses the form, adds tensors and metadata to the model. */
int lmi_h5_set_finish(struct lmi_h5_set *set, struct lm_err *e);

/* Says so when the file was cut short. */
int lmi_h5_check_length(struct lm_span file, struct lm_err *e);
/* A file with a weight_map of Keras or (tf) of TensorFlow, and its shards. */
int lmi_h5_read_map(struct lm_model *m, const char *path, bool tf, struct lm_err *e);

/* The format's layout: h5_write.c. */
/* The format's finish: with l->compress the file is written anew, in compressed chunks. */
int lmi_h5_finish(int fd, const struct lm_layout *l, size_t file, struct lm_err *e);
int lmi_h5_layout(struct lm_layout *out, const struct lm_write_spec *spec, const char *base, struct lm_err *e);
#endif
