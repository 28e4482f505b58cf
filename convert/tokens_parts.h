/* The comparison of tokenizers inside: search, shrinking, explanation. */
#ifndef CONVERT_TOKENS_PARTS_H
#define CONVERT_TOKENS_PARTS_H

#include "convert/tokens.h"

/* A text, how it is encoded, and whether decoding is compared too. */
struct lmc_case {
    struct lm_span text;
    unsigned flags;
    bool decode;
    const char *found_in;
};

/* Two tokenizers side by side, with buffers that are used again. */
struct lmc_pair {
    const struct lm_tokenizer *a, *b;
    struct lm_ids ids_a, ids_b;
    bool failed_a, failed_b; /* in the last comparison */
    bool decoded;            /* only the decoded texts differ */
    bool nomem;
};
bool lmc_differ(struct lmc_pair *p, const struct lmc_case *c);
void lmc_pair_free(struct lmc_pair *p);

/* Makes c as short and its flags as few as it can while it still differs; the
 * text is then in the arena. -1 out of memory. */
int lmc_shrink(struct lmc_pair *p, struct lmc_case *c, struct lm_arena *arena, struct lm_err *e);

/* ---- where texts come from: each calls visit for its texts until that says
 * no (any value but 0 is given back). */
struct lmc_source {
    const struct lm_vocab *a, *b;
    const struct lm_tokenizer *ta, *tb;
    const struct lm_tokens_options *o;
    int (*visit)(void *user, const struct lmc_case *c);
    void *user;
};
int lmc_hard_texts(struct lmc_source *s);     /* tokens_corpus.c */
int lmc_given_texts(struct lmc_source *s);
int lmc_piece_texts(struct lmc_source *s);    /* tokens_search.c */
int lmc_setting_texts(struct lmc_source *s);
int lmc_every_character(struct lmc_source *s);
int lmc_kind_sequences(struct lmc_source *s);
int lmc_made_up_texts(struct lmc_source *s);
uint64_t lmc_n_texts(const struct lmc_source *s); /* about how many there are, for progress */

/* ---- explanation */
struct lmc_doctor {
    const struct lm_vocab *a;
    struct lm_vocab *own[64];       /* mixtures made on the way: later ones borrow from earlier */
    struct lm_tokenizer *tokenizers[64];
    size_t n_own;
    const struct lm_vocab *b;       /* as it is after the repairs so far */
    const struct lm_tokenizer *ta, *tb;
};
/* The smallest set of parts found that, taken over from A, removes the first
 * case; of several equally small ones that which removes most others. 0 when
 * none does; -1 through e only when out of memory. */
int lmc_explain(struct lmc_doctor *d, const struct lmc_case *cases, size_t n, uint64_t *parts, struct lm_err *e);
/* From now on d->b has these parts of A. */
int lmc_repair(struct lmc_doctor *d, uint64_t parts, struct lm_err *e);
void lmc_doctor_free(struct lmc_doctor *d);

#endif
