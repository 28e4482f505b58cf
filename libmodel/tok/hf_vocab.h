/* The large parts of Hugging Face's files. Private to libmodel. */
#ifndef LIBMODEL_TOK_HF_VOCAB_H
#define LIBMODEL_TOK_HF_VOCAB_H

#include "libmodel/parse/pull.h"
#include "libmodel/tok/build.h"

/* {"text": id, …} into b's pieces, which are indexed then. */
int lmi_vocab_stream(struct lmi_vocab *b, struct lmi_pull *p);

/* [["text", score], …] of a Unigram. */
int lmi_unigram_stream(struct lmi_vocab *b, struct lmi_pull *p);

/* Merges by their texts, borrowed from the file (or p->arena). Zero-initialise. */
struct lmi_merge_texts {
    struct lmi_merge_text {
        struct lm_span left, right;
    } *list;
    size_t n, capacity;
};
void lmi_merge_texts_free(struct lmi_merge_texts *m);
int lmi_merge_line(struct lmi_merge_texts *m, struct lm_span line, struct lm_err *e); /* "left right" */
int lmi_merges_stream(struct lmi_merge_texts *m, struct lmi_pull *p); /* ["left right", ["left", "right"], …] */
/* Into b->merges. */
int lmi_merges_resolve(struct lmi_vocab *b, const struct lmi_merge_texts *m, struct lm_err *e);

#endif
