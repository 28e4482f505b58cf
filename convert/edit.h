/* Changing the head of a model file: metadata, names.  Tensor data stay as they
 * are; where the new head fits into the old one's place only that is written. */
#ifndef CONVERT_EDIT_H
#define CONVERT_EDIT_H

#include "convert/convert.h"

struct lm_edit {
    enum { LM_EDIT_SET, LM_EDIT_DELETE, LM_EDIT_RENAME } what;
    const char *key;            /* of metadata; RENAME: or the name of a tensor */
    const char *to;             /* RENAME: the new name */
    int type;                   /* SET: enum lm_meta_type, or -1: as the key has it now, a text if it is new */
    struct lm_span text;        /* SET: the value, as it is typed */
};
struct lm_edit_options {
    const char *out;            /* another file to write, which must not exist unless force; NULL: the file itself */
    bool force;
    bool dry;                   /* decide everything, write nothing */
};
struct lm_edit_result {
    bool in_place;              /* only the head was (would be) written */
    uint64_t n_head, n_copied;  /* bytes */
    char beside[512];           /* a small file beside the tensors that was changed, or empty */
};
/* path: a GGUF or safetensors file, a set of them, or a folder that holds one.
 * In a set keys are the first file's, names those of the file that holds the
 * tensor (and of index.json); when several files change they are all written
 * anew and get their names together. The chat template of safetensors
 * (tokenizer.chat_template) is chat_template.jinja beside them or in
 * tokenizer_config.json. A file is at any moment the old or the new one; a crash while a head is rewritten in
 * place leaves a hidden file (.NAME.edit) from which the next lm_edit of the
 * file, also one without edits, completes it. *r: what was done. */
int lm_edit(struct lm_edit_result *r, const char *path, const struct lm_edit *edits, size_t n,
            const struct lm_edit_options *o, struct lm_err *e);

/* ---- private to convert/ */

/* edit_ops.c: the new metadata and tensor names of a model. names: room for one a tensor. */
int lmc_edit_meta(struct lm_meta **out, const char **names, const struct lm_model *m, const struct lm_edit *edits, size_t n,
                  struct lm_err *e);
/* The text of a safetensors header after the edits, malloc'd, without padding. */
int lmc_edit_header(char **out, struct lm_span header, const struct lm_edit *edits, size_t n, struct lm_err *e);

/* edit_place.c: overwriting the beginning of a file so that a crash in between can be made good. */
int lmc_place_head(const char *path, const void *head, size_t n, struct lm_err *e);
/* Completes what a crash left of the file, of any of its set, of any in the folder; 0 when there is nothing. */
int lmc_place_recover(const char *path, struct lm_err *e);

#endif
