/* What the safetensors reader, index and writer share. Private to libmodel. */
#ifndef LIBMODEL_FMT_SAFETENSORS_H
#define LIBMODEL_FMT_SAFETENSORS_H

#include "libmodel/fmt/fmt.h"

enum { LMI_ST_MAX_HEADER = 100000000 };

struct lmi_st_entry {
    struct lm_span name; /* in the header's text or the arena */
    enum lm_dtype dtype;
    unsigned n_dims;
    uint64_t shape[LM_MAX_DIMS];
    uint64_t begin, end; /* after the header */
};

/* Zero-initialise; free with lmi_st_header_free. */
struct lmi_st_header {
    struct lmi_st_entry *entries; /* by begin, then end */
    size_t n, capacity;
    struct lm_map *by_name; /* place in the text, not in entries */
    struct lm_arena arena;
};
/* Reads the JSON text of a header: every rule that needs no tensor data,
 * including that the tensors cover exactly [0, n_data). __metadata__ goes to
 * meta (keys that are there already stay); meta may be NULL. */
int lmi_st_header_read(struct lmi_st_header *h, struct lm_span text, uint64_t n_data, struct lm_meta *meta,
                       struct lm_err *e);
void lmi_st_header_free(struct lmi_st_header *h);

/* Adds one file of tensors to the model. */
int lmi_st_read_file(struct lm_model *m, const char *path, struct lm_err *e);

/* The wire name of a type, NULL when safetensors has none; and its place in the
 * order that the reference writer sorts by, descending. */
const char *lmi_st_dtype_name(enum lm_dtype d);
int lmi_st_dtype_rank(enum lm_dtype d);

int lmi_st_layout(struct lm_layout *out, const struct lm_write_spec *spec, const char *base, struct lm_err *e);

extern const struct lm_format lm_format_safetensors;
#endif
