/* The header of a NumPy array. Private to libmodel.
 * https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html */
#ifndef LIBMODEL_PARSE_NPY_H
#define LIBMODEL_PARSE_NPY_H

#include "libmodel/model.h"

struct lmi_npy {
    enum lm_dtype dtype;
    bool big_endian, fortran;
    unsigned n_dims;
    uint64_t shape[LM_MAX_DIMS];
    size_t n_head; /* bytes before the data */
};

/* NumPy itself writes at most a few hundred bytes. */
enum { LMI_NPY_MAX_HEAD = 65536, LMI_NPY_FIRST = 12 };

/* Bytes of the header, from the first LMI_NPY_FIRST bytes (or all there are) of the array. */
int lmi_npy_measure(size_t *n_head, struct lm_span first, struct lm_err *e);
/* head has at least those bytes. */
int lmi_npy_read(struct lmi_npy *out, struct lm_span head, struct lm_err *e);

/* "<f4"; NULL when NumPy has no such type (BF16 is the void type of two bytes). */
const char *lmi_npy_descr(enum lm_dtype d);
#endif
