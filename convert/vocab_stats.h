/* A vocabulary in numbers. */
#ifndef CONVERT_VOCAB_STATS_H
#define CONVERT_VOCAB_STATS_H

#include "libmodel/tokenizer.h"

enum { LM_STATS_LENGTHS = 17, LM_STATS_LONGEST = 10 };

struct lm_vocab_stats {
    size_t n_of_kind[LM_PIECE_BYTE + 1], n_special, n_added;
    /* Of pieces that stand for text, by bytes of that text; the last holds all that are longer. */
    size_t n_of_length[LM_STATS_LENGTHS], n_texts;
    double mean_bytes, mean_chars;
    /* By script of their letters, most frequent first; pieces without letters by
     * what they are ("digits", "spaces" …). */
    struct lm_script_count { const char *name; size_t n; } *scripts;
    size_t n_scripts;
    bool byte[256];              /* is there a piece for this byte alone? */
    size_t n_bytes;
    uint32_t *duplicates;        /* ids whose stored text an earlier id has */
    size_t n_duplicates;
    uint32_t *unreachable;       /* ids that the text they stand for never gives, alone or behind others */
    size_t n_unreachable;
    size_t n_partial;            /* parts of characters that were not reached: not judged */
    uint32_t longest[LM_STATS_LONGEST]; /* by the bytes of their text */
    size_t n_longest;
};

int lm_vocab_stats_make(struct lm_vocab_stats **out, const struct lm_vocab *v, const struct lm_tokenizer *t,
                        struct lm_err *e);
void lm_vocab_stats_free(struct lm_vocab_stats *s);

#endif
