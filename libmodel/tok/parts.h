/* Parts of a vocabulary that are lists: pieces and merges. Private to libmodel. */
#ifndef LIBMODEL_TOK_PARTS_H
#define LIBMODEL_TOK_PARTS_H

#include "libmodel/tok/build.h"
#include "libmodel/vocab_parts.h"

/* A text for people that grows. */
struct lmi_words {
    char *text;
    size_t n, capacity;
    bool failed;
};
void lmi_words_add(struct lmi_words *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
void lmi_words_piece(struct lmi_words *w, struct lm_span text); /* in quotes, escaped, cut when long */

/* One part: what belongs to it. */
struct lmi_part {
    const char *name;
    enum lm_tok_stage stage;
    bool (*same)(const struct lmi_vocab *a, const struct lmi_vocab *b);
    void (*text)(const struct lmi_vocab *v, struct lmi_words *w);
    /* NULL: text of A against text of B says it. */
    void (*difference)(const struct lmi_vocab *a, const struct lmi_vocab *b, struct lm_span about, struct lmi_words *w);
    /* Makes the part of v that of from; v's arrays are its own. -1 out of memory. */
    int (*take)(struct lmi_vocab *v, const struct lmi_vocab *from, struct lm_err *e);
};

const struct lmi_part *lmi_part_at(size_t part);
extern const struct lmi_part lmi_part_added, lmi_part_scores, lmi_part_merges, lmi_part_kinds, lmi_part_pieces;

/* The piece of v with the text of piece id of `from` (the same id if it can be), or -1. */
int64_t lmi_same_piece(const struct lmi_vocab *v, const struct lmi_vocab *from, size_t id);

#endif
