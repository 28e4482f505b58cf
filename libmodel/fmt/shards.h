/* Index files of sharded models. Private to libmodel. */
#ifndef LIBMODEL_FMT_SHARDS_H
#define LIBMODEL_FMT_SHARDS_H

#include "libmodel/fmt/fmt.h"

enum lmi_index_kind { LMI_INDEX_NONE, LMI_INDEX_SAFETENSORS, LMI_INDEX_TORCH, LMI_INDEX_HDF5 };

/* Named *.index.json and holding a weight_map; which shards it names. */
enum lmi_index_kind lmi_index_kind(struct lm_span file, const char *path);

/* Not empty, at most 255 bytes, of this folder, nothing that could lead elsewhere. */
bool lmi_is_plain_name(struct lm_span s);

/* Which of the files are not there: -1 with their names, all of them or the first
 * eight. of: "shards", "parts". */
int lmi_check_present(char *const *paths, size_t n, const char *of, struct lm_err *e);

/* Opens an index.json and the files it names, each of which must be of this
 * format and is read by `read`. */
int lmi_read_index(struct lm_model *m, const char *path, const struct lm_format *format,
                   int (*read)(struct lm_model *m, const char *path, struct lm_err *e), struct lm_err *e);
#endif
