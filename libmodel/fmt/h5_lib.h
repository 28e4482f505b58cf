/* libhdf5 as we use it.  Private to the files that call it. */
#ifndef LIBMODEL_FMT_H5_LIB_H
#define LIBMODEL_FMT_H5_LIB_H

#define H5_USE_110_API /* the newest interface that every version since 1.10 has */
#include <hdf5.h>

#include "libmodel/fmt/h5.h"

/* Opens the bytes as a read-only file of libhdf5, which itself opens nothing;
 * negative when it cannot. Close with H5Fclose, then lmi_h5_driver_free. */
struct lmi_h5_driver {
    hid_t id, fapl;
};
hid_t lmi_h5_open_bytes(struct lmi_h5_driver *d, struct lm_span file);
void lmi_h5_driver_free(struct lmi_h5_driver *d);
/* No messages on stderr, no plugins, no handlers at exit. */
void lmi_h5_quiet(void);
/* The innermost reason of libhdf5's last failure into buf. */
const char *lmi_h5_reason(char *buf, size_t size);

/* What a dataset's storage is: 0 and the words why it is not read, or 1 (then
 * *contiguous says whether its bytes lie in one piece of the file at *offset).
 * Only properties are looked at, never data. */
int lmi_h5_storage(hid_t dataset, bool *contiguous, uint64_t *offset, char *why, size_t size);
/* Our type of an element: 1 ours, 0 not (why says what it is). */
int lmi_h5_dtype(hid_t dataset, hid_t type, enum lm_dtype *dtype, bool *big_endian, char *why, size_t size);

/* The type that stores it, opened for the caller to close; negative: none. */
hid_t lmi_h5_type_of(enum lm_dtype d);
hid_t lmi_h5_keras_bf16(void);
#endif
