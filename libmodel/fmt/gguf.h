/* What the GGUF reader and writer share. Private to libmodel. */
#ifndef LIBMODEL_FMT_GGUF_H
#define LIBMODEL_FMT_GGUF_H

#include "libmodel/fmt/fmt.h"

enum {
    LMI_GGUF_ALIGNMENT = 32,
    LMI_GGUF_MAX_ALIGNMENT = 1 << 20,
    LMI_GGUF_MAX_DIMS = 4,
    LMI_GGUF_MAX_NAME = 63 /* llama.cpp keeps names in 64 bytes */
};

/* The header of one file. Zero-initialise; free with lmi_gguf_header_free. */
struct lmi_gguf_header {
    uint32_t version;
    bool big_endian;
    uint64_t alignment, data_start;
    struct lmi_gguf_tensor {
        struct lm_span name;
        enum lm_dtype dtype;
        unsigned n_dims;
        uint64_t shape[LMI_GGUF_MAX_DIMS]; /* outermost first */
        uint64_t n_bytes, offset;          /* offset after data_start */
    } *tensors;
    size_t n_tensors;
};
/* Strings and arrays that can be are borrowed from the mapping by meta; others
 * are copied into the arena. */
int lmi_gguf_header_read(struct lmi_gguf_header *h, struct lm_span file, struct lm_meta *meta, struct lm_arena *arena,
                         struct lm_err *e);
void lmi_gguf_header_free(struct lmi_gguf_header *h);

/* An alignment that the format allows. */
bool lmi_gguf_alignment_ok(uint64_t alignment);

/* Type ids: -1 when GGUF has no such type, or the id no type of ours. */
int lmi_gguf_type_id(enum lm_dtype d);
int lmi_gguf_dtype(uint32_t id, struct lm_err *e);

/* One file or all parts of a split set. */
int lmi_gguf_read(struct lm_model *m, const char *path, struct lm_err *e);
int lmi_gguf_layout(struct lm_layout *out, const struct lm_write_spec *spec, const char *base, struct lm_err *e);

/* The header of a file without tensors. */
void lmi_gguf_put_pairs(struct lmi_buffer *b, const struct lm_meta *meta);

extern const struct lm_format lm_format_gguf;
#endif
