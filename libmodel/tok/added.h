/* Pieces that are found in a text as they are, before any algorithm: added and
 * special tokens, SentencePiece's user-defined symbols. Leftmost, longest.
 * Private to libmodel. */
#ifndef LIBMODEL_TOK_ADDED_H
#define LIBMODEL_TOK_ADDED_H

#include "libmodel/err.h"
#include "libmodel/vocab.h"

/* So that hostile vocabularies cannot make the search quadratic. */
enum { LMI_MAX_ADDED_BYTES = 1024 };

struct lmi_added {
    struct lmi_added_item {
        struct lm_span text; /* borrowed */
        uint32_t id;
        bool special, lstrip, rstrip, single_word;
    } *items; /* sorted by text */
    size_t n, capacity;
    size_t longest;          /* bytes */
    bool marked;             /* set by the owner: in the texts searched, ' ' stands for U+2581 */
    bool any_ordinary;       /* is one of them not special? */
    int only_first;          /* the first byte of all of them, or -1 */
    bool first[256];
};

/* Empty texts are ignored (they would match without advancing). -1 out of
 * memory or a text longer than the limit. */
int lmi_added_put(struct lmi_added *a, struct lmi_added_item item, struct lm_err *e);
void lmi_added_finish(struct lmi_added *a); /* sorts; of equal texts the smallest id stays */
void lmi_added_free(struct lmi_added *a);

/* The longest item at the start of text, or NULL. */
const struct lmi_added_item *lmi_added_at(const struct lmi_added *a, struct lm_span text);

/* A search: zero-initialise, then call find until it gives NULL. */
struct lmi_match {
    size_t begin, end; /* of the match, with the spaces that it takes in (lstrip, rstrip) */
    size_t search;     /* where the next may begin: in front of `end` when spaces were taken in (as in HF) */
};
/* Special items count only if `special`: otherwise their text is passed over as
 * ordinary. A match may begin in front of the end of the one before it. */
const struct lmi_added_item *lmi_added_find(const struct lmi_added *a, struct lm_span text, bool special,
                                            struct lmi_match *m);

#endif
