/* Tensors that do not lie in their file the way lm_tensor wants them: strided,
 * transposed, deflated, split over shards, quantized by scale and zero point.
 * They are computed into an unlinked temporary file that the model owns, so
 * that every user sees plain bytes.  Those that do lie so are used in place.
 * Private to libmodel. */
#ifndef LIBMODEL_FMT_VIEWS_H
#define LIBMODEL_FMT_VIEWS_H

#include "libmodel/fmt/fmt.h"

/* Makes the bytes of all its blobs at once, when those of the first are wanted,
 * into the temporary file that is mapped at map (each blob knows its place). */
struct lmi_producer {
    int (*make)(struct lm_model *m, struct lmi_producer *p, uint8_t *map, struct lm_err *e);
    bool made;
};

/* Bytes of a file of the model, maybe deflated. */
struct lmi_blob {
    size_t file;
    uint64_t offset, n_stored, n_bytes;
    uint64_t skip; /* deflated: so many bytes come before the n_bytes */
    uint32_t crc;
    bool deflated;
    struct lmi_producer *producer; /* NULL: the bytes are there, or deflated there */
    bool placed; /* inflated or produced into the temporary file: file and offset say where */
};

enum lmi_view_quant { LMI_QUANT_NONE, LMI_QUANT_TENSOR, LMI_QUANT_CHANNEL, LMI_QUANT_GROUP, LMI_QUANT_BLOCKS };

/* Blocks of a layout that is no type of ours any more. */
struct lmi_old_blocks {
    unsigned n_elems, n_bytes;
    void (*decode)(float *dst, const uint8_t *block);
};

struct lmi_view {
    struct lm_span name;
    enum lm_dtype dtype; /* of the elements in the blob */
    bool big_endian;
    unsigned n_dims;
    uint64_t shape[LM_MAX_DIMS], stride[LM_MAX_DIMS]; /* in elements */
    struct lmi_blob *blob;
    uint64_t offset;     /* of the first element, in elements */

    /* The value is (q - zero) * scale, per tensor, along an axis, or per group of
     * `group` elements, whose F32 scales follow the elements in the blob; or what
     * `blocks` makes of the whole blob. The tensor is then F32. */
    enum lmi_view_quant quant;
    double scale;
    int64_t zero;
    const struct lmi_view *scales, *zeros;
    unsigned axis, group;
    const struct lmi_old_blocks *blocks;

    /* Made by the reader: the tensor's bytes, in the model's arena; no blob. */
    const uint8_t *bytes;

    /* The shape it is given once its elements are in a row; 0: its own. */
    unsigned n_shown;
    uint64_t shown[LM_MAX_DIMS];

    /* Joined with others along join_dim (then shape is the whole's, part the
     * first piece; each piece has its own shape). */
    const struct lmi_view *parts;
    size_t n_parts;
    unsigned join_dim;
};

struct lmi_view_list {
    struct lmi_view *v;
    size_t n, capacity;
};
/* A zeroed view at the end, NULL when out of memory. Free list->v. */
struct lmi_view *lmi_view_new(struct lmi_view_list *list);

/* Strides of a row-major tensor. */
void lmi_view_row_major(struct lmi_view *v);

/* Checks every view against its blob (nothing outside is ever reached, and an
 * expanded one is at most 64 times its bytes) and adds it to the model, in
 * order. path is shown for the temporary file. */
int lmi_views_add(struct lm_model *m, struct lmi_view *views, size_t n, const char *path, struct lm_err *e);

/* A new file without a name in TMPDIR, or -1. */
int lmi_open_unlinked(struct lm_err *e);

/* Computes what lmi_views_add has put off. */
int lmi_views_fill(struct lm_model *m, struct lm_err *e);

#endif
