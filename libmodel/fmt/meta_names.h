/* The names of tensors in Meta's own code, which Mistral's releases and the
 * ggml files of 2023 use too.  Private to libmodel. */
#ifndef LIBMODEL_FMT_META_NAMES_H
#define LIBMODEL_FMT_META_NAMES_H

#include "libmodel/fmt/fmt.h"

/* How a tensor is cut into shards. */
enum lmi_cut { LMI_CUT_NONE, LMI_CUT_ROWS, LMI_CUT_COLUMNS, LMI_CUT_EMBEDDING, LMI_CUT_KV };

struct lmi_meta_name {
    const char *name, *gguf; /* without the layer */
    enum lmi_cut cut;
};

/* NULL when the name is not one of Meta's. */
const struct lmi_meta_name *lmi_meta_find(const char *name);
bool lmi_meta_is_rotary(const char *name); /* rope.freqs: computed, not needed */

/* Gives every tensor that is one of Meta's GGUF's name, for which its rows are in
 * the right order. */
int lmi_meta_rename(struct lm_model *m, struct lm_err *e);

/* One matrix for each expert becomes one of all, as in GGUF. Before renaming. */
int lmi_meta_stack_experts(struct lm_model *m, uint32_t n_layers, uint32_t n_experts, struct lm_err *e);

#endif
