/* What differs between two vocabularies: pieces matched by their text, merges
 * by the texts of their halves, settings part by part. */
#ifndef CONVERT_VOCAB_DIFF_H
#define CONVERT_VOCAB_DIFF_H

#include "libmodel/vocab_parts.h"

enum lm_piece_change_kind {
    LM_PIECE_REMOVED = 1, /* only in A */
    LM_PIECE_ADDED = 2,   /* only in B */
    LM_PIECE_MOVED = 4,   /* another id */
    LM_PIECE_KIND = 8,    /* another kind */
    LM_PIECE_SCORE = 16,
    LM_PIECE_FLAGS = 32   /* special, added, lstrip, rstrip, single_word, normalized */
};

struct lm_piece_change {
    unsigned what;       /* of the above; several may hold */
    int64_t id_a, id_b;  /* -1 none */
};

struct lm_setting_change {
    const char *name, *a, *b; /* in words */
};

struct lm_vocab_diff {
    struct lm_piece_change *pieces; /* by id in A, then those of B alone */
    size_t n_pieces, n_of[6];       /* n_of: how many have bit i of what */
    /* Merges that only one has, and whether the common ones stand in one order. */
    size_t n_merges_removed, n_merges_added;
    bool merges_reordered;
    int64_t first_merge;            /* rank of the first difference in the lists, -1 none */
    struct lm_setting_change *settings;
    size_t n_settings;
    struct lm_arena arena;
};

int lm_vocab_diff_make(struct lm_vocab_diff **out, const struct lm_vocab *a, const struct lm_vocab *b, struct lm_err *e);
bool lm_vocab_diff_empty(const struct lm_vocab_diff *d);
void lm_vocab_diff_free(struct lm_vocab_diff *d);

#endif
