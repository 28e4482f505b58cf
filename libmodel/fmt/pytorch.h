/* What the parts of the PyTorch reader share. Private to libmodel. */
#ifndef LIBMODEL_FMT_PYTORCH_H
#define LIBMODEL_FMT_PYTORCH_H

#include "libmodel/fmt/views.h"
#include "libmodel/parse/pickle.h"

/* Tags of LMI_PK_DATA. */
enum { LMI_TORCH_STORAGE = 1, LMI_TORCH_TENSOR };

struct lmi_torch_storage {
    struct lm_span key;    /* record "data/<key>" */
    uint64_t n_elems;      /* of the whole record */
    int dtype;             /* enum lm_dtype; -1 untyped: n_elems counts bytes */
    uint64_t view_offset;  /* legacy: this storage begins inside its record */
    uint64_t n_bytes;
};

struct lmi_torch_tensor {
    const struct lmi_torch_storage *storage;
    enum lm_dtype dtype;
    uint64_t offset;       /* elements */
    enum lmi_view_quant quant;
    double scale;
    int64_t zero;
    const struct lmi_torch_tensor *scales, *zeros;
    unsigned axis, n_dims;
    uint64_t dims[];       /* shape, then stride */
};

/* The allow-list and what its entries make. */
extern const struct lmi_pk_global lmi_torch_globals[];
extern const size_t lmi_torch_n_globals;
extern const struct lmi_pk_global lmi_torch_script; /* every class of a TorchScript archive: an inert object */
int lmi_torch_persistent(struct lmi_unpickler *u, const struct lmi_pk *id, struct lmi_pk *out);

/* What reading one file needs. The first three are set by its user. */
struct lmi_torch {
    struct lm_model *m;
    size_t file;
    bool big_endian;
    struct lm_arena arena;       /* values; freed with the reader */
    struct lm_map *by_key;       /* key -> place in blobs */
    struct lmi_blob **blobs;     /* in the model's arena */
    size_t n_blobs, blobs_capacity;
};
int lmi_torch_add_blob(struct lmi_torch *t, struct lm_span key, struct lmi_blob b, struct lm_err *e);

/* Every tensor under root, named by its path; what lies outside of the state
 * dict (optimizer state) goes into the metadata by name. */
int lmi_torch_collect(struct lmi_torch *t, const struct lmi_pk *root, struct lmi_view_list *out, struct lm_err *e);

/* The file before PyTorch 1.6: pickles one after the other, then the storages. */
bool lmi_torch_is_legacy(struct lm_span file);
int lmi_torch_read_legacy(struct lmi_torch *t, struct lmi_view_list *out, struct lm_err *e);

/* Adds a file to the model and its tensors to out. Names live as long as the model. */
int lmi_torch_views(struct lm_model *m, const char *path, struct lmi_view_list *out, struct lm_err *e);
int lmi_torch_read_file(struct lm_model *m, const char *path, struct lm_err *e);

extern const struct lm_format lm_format_pytorch;
#endif
