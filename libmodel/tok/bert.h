/* BERT's WordPiece vocabularies outside tokenizer.json. Private to libmodel. */
#ifndef LIBMODEL_TOK_BERT_H
#define LIBMODEL_TOK_BERT_H

#include "libmodel/meta.h"
#include "libmodel/tok/build.h"

/* BertNormalizer's switches; strip_accents -1: as lowercase. */
struct lmi_bert_flags {
    bool lowercase, chinese_chars, clean_text;
    int strip_accents;
};

/* Sets the stages that BertTokenizer has around its pieces: normalizer,
 * pre-tokenizer, [CLS] text [SEP] (b->v.bos_id, eos_id), decoder. */
int lmi_bert_stages(struct lmi_vocab *b, struct lmi_bert_flags flags, struct lm_err *e);
/* The switches of a vocabulary's normalizer; false when its stages are not BERT's. */
bool lmi_bert_flags_of(const struct lm_vocab *v, struct lmi_bert_flags *flags);

/* GGUF's form of a piece: U+2581 in front of those that begin a word, nothing in
 * front of the others, special ones as they are. */
struct lm_span lmi_bert_to_gguf(struct lm_arena *a, const struct lm_vocab *v, const struct lm_piece *p);
int lmi_bert_from_gguf(struct lmi_vocab *b, struct lm_err *e);

/* RWKV: a piece's bytes from and to the escapes that GGUF has (\n, \xNN, …). */
struct lm_span lmi_rwkv_to_gguf(struct lm_arena *a, struct lm_span bytes);
int lmi_rwkv_from_gguf(struct lmi_vocab *b, struct lm_err *e);

#endif
