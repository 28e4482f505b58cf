/* The parts of lm_edit.  Private to convert/. */
#ifndef CONVERT_EDIT_PARTS_H
#define CONVERT_EDIT_PARTS_H

#include "convert/edit.h"
#include "convert/plan.h"

/* What a file becomes: a head, and runs of the old file's bytes behind it. */
struct lmc_image {
    size_t file;           /* of the model */
    uint8_t *head;
    size_t n_head, n_text; /* n_text: without what fills it up to the data */
    struct lmc_run { uint64_t from, to, n; } *runs;
    size_t n_runs;
    uint64_t n_bytes;
};
void lmc_image_free(struct lmc_image *x);
/* Do all bytes behind the head stay where they are? */
bool lmc_image_stays(const struct lmc_image *x, const struct lm_model_file *f);

/* edit_gguf.c. names: of all tensors of m, as they shall be; meta: of the first file. copy: room is left whatever
 * the file has. A later file of a set has nothing but names. */
int lmc_image_gguf(struct lmc_image *x, const struct lm_model *m, size_t file, struct lm_meta *meta, const char *const *names,
                   bool copy, struct lm_err *e);

/* edit_json.c: texts with one value or key put in another's place, everything
 * else as it is, malloc'd. A template that is there by name is replaced where
 * it is called default. 1 done, 0 there is none, -1. */
int lmc_json_set_template(char **out, struct lm_span text, struct lm_span value, struct lm_err *e);
int lmc_json_rename_weight(char **out, struct lm_span text, const char *name, const char *to, struct lm_err *e);

/* edit_sides.c: files beside the tensors. */
/* The chat template of a safetensors model into chat_template.jinja, or tokenizer_config.json where there is no such
 * file; *where (malloc'd) gets the path. */
int lmc_edit_template(char **where, const struct lm_model *m, struct lm_span text, bool dry, struct lm_err *e);
/* The index of a set of safetensors and its text with tensors renamed, both malloc'd; *out NULL: there is none. */
int lmc_edit_index(char **path, char **out, const struct lm_model *m, const struct lm_edit *edits, size_t n, struct lm_err *e);

#endif
