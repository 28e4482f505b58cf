/* Making HDF5 files without their tensor data.  Private to the writers of HDF5. */
#ifndef LIBMODEL_FMT_H5_MAKE_H
#define LIBMODEL_FMT_H5_MAKE_H

#include "libmodel/fmt/h5_lib.h"

struct lmi_h5_maker {
    hid_t file, gcpl, lcpl, dcpl;
    bool keras; /* BF16 as Keras has it: two raw bytes with an attribute dtype */
};
/* Puts everything into the file: lmi_h5_make_…. */
typedef int (*lmi_h5_fill)(const struct lmi_h5_maker *w, void *arg, struct lm_err *e);

/* Begins and ends a file in fd (any file that can be read and written), under
 * lmi_h5_lock; *size: how long it became. */
int lmi_h5_make_in(int fd, uint64_t *size, bool keras, lmi_h5_fill fill, void *arg, struct lm_err *e);
/* A group, made if it is not there. */
hid_t lmi_h5_make_group(const struct lmi_h5_maker *w, hid_t parent, const char *name);

/* Head, chunks and size of a file with what fill puts into it; n_objects: about how many. */
int lmi_h5_make(struct lm_layout_file *f, size_t n_objects, bool keras, lmi_h5_fill fill, void *arg, struct lm_err *e);
/* A dataset; data NULL: only room for it, at *offset of the file. */
int lmi_h5_make_dataset(const struct lmi_h5_maker *w, const struct lm_write_tensor *t, const void *data, uint64_t *offset,
                        struct lm_err *e);
#endif
