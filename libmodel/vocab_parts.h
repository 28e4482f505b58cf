/* What a vocabulary declares, part by part: to say how two differ, and to find
 * out by experiment which part makes a difference. */
#ifndef LIBMODEL_VOCAB_PARTS_H
#define LIBMODEL_VOCAB_PARTS_H

#include "libmodel/vocab.h"

#ifdef __cplusplus
extern "C" {
#endif

/* In the order in which a text passes them. */
enum lm_tok_stage {
    LM_STAGE_ADDED,      /* added and special tokens are taken out of the text */
    LM_STAGE_NORMALIZER,
    LM_STAGE_PREFIX,     /* the space in front of a text */
    LM_STAGE_PRE,        /* the text is split into words */
    LM_STAGE_PIECES,     /* which pieces there are, and their ids */
    LM_STAGE_MERGES,     /* merges or scores: which pieces a word becomes */
    LM_STAGE_UNKNOWN,    /* what no piece covers: byte fallback, the unknown token */
    LM_STAGE_POST,       /* what stands around a text */
    LM_STAGE_DECODER,    /* back to text */
    LM_N_STAGES
};
const char *lm_tok_stage_name(enum lm_tok_stage s);
const char *lm_vocab_algo_name(enum lm_vocab_algo a); /* "byte-bpe" */

/* Parts are numbered from 0; at most 64. The number of a part is not stable
 * between versions, its name ("add_dummy_prefix") is. */
size_t lm_vocab_n_parts(void);
const char *lm_vocab_part_name(size_t part);
enum lm_tok_stage lm_vocab_part_stage(size_t part);
/* Do both say the same? A part that one source cannot express (the JSON of a
 * stage) is compared by what it means where that is known. */
bool lm_vocab_part_same(const struct lm_vocab *a, const struct lm_vocab *b, size_t part);
/* What v says, for people: "yes", "32000 pieces", a pattern. malloc'd, NULL when out of memory. */
char *lm_vocab_part_text(const struct lm_vocab *v, size_t part);
/* How they differ, one sentence without a full stop, A and B being their names.
 * Of many pieces or merges those are named that occur in `about` (may be
 * empty). malloc'd, NULL when out of memory. */
char *lm_vocab_part_difference(const struct lm_vocab *a, const struct lm_vocab *b, size_t part, struct lm_span about);

/* The stage to which a difference in this part belongs: that of the part, but
 * the dummy prefix when that is all that differs in a stage's JSON. */
enum lm_tok_stage lm_vocab_difference_stage(const struct lm_vocab *a, const struct lm_vocab *b, size_t part);

/* A copy of base in which the parts of the set (bit 1 << part) are those of
 * `from`: ids and merges are carried over by the text of pieces. Borrows from
 * both, which must outlive it. Free with lm_vocab_free. Such a mixture may make
 * no sense to lm_tokenizer_new, which then says so. */
int lm_vocab_mix(struct lm_vocab **out, const struct lm_vocab *base, const struct lm_vocab *from, uint64_t parts,
                 struct lm_err *e);

#ifdef __cplusplus
}
#endif
#endif
