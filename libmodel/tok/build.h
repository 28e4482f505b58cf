/* A vocabulary while it is read: what every source fills. Private to libmodel. */
#ifndef LIBMODEL_TOK_BUILD_H
#define LIBMODEL_TOK_BUILD_H

#include "libmodel/parse/json.h"
#include "libmodel/tok/texts.h"
#include "libmodel/vocab.h"

/* U+2581, SentencePiece's letter for a space. */
#define LMI_SPACE_MARK "\xe2\x96\x81"

struct lmi_vocab {
    struct lm_vocab v;       /* first: lm_vocab_free gets its address */
    struct lm_arena arena;   /* all texts */
    struct lmi_texts texts;  /* text -> id, once finished */
    struct lm_span *indexed; /* the texts in it, while the vocabulary is read */
    size_t n_indexed, room_indexed;
    struct lm_piece *pieces;
    size_t capacity;
    struct lm_merge *merges;
    bool ranked;    /* a SentencePiece-style vocabulary whose merges rule, not its scores */
    bool metaspace; /* spaces become U+2581 by the pre-tokenizer; there is no normalizer */
    bool hf;        /* Unigram of a tokenizer.json: other arithmetic than SentencePiece's, and no normalizer of its own */
    size_t n_repeated; /* pieces whose text another one with a smaller id has */
    struct lmi_pipeline *pipeline; /* the stages of a tokenizer.json; else NULL */
    bool by_result; /* byte BPE: the order of a merge is the rank of its result */
    bool staged, chained; /* encoding, decoding execute them one by one */
    bool trim_offsets, trim_keeps_prefix; /* LM_ENCODE_TRIM has an effect; not on a prefix space that was put */
    bool spaced;    /* user-defined symbols are stored with spaces, not U+2581 (GGUF) */
    double *scores; /* of such a Unigram, where they are no floats; else NULL. The first n_scores pieces have one */
    size_t n_scores;
};

/* Does the text go through SentencePiece's own normalizer (charsmap, prefix,
 * spaces as U+2581), whatever the algorithm behind it? */
static inline bool lmi_is_spm(const struct lm_vocab *v)
{
    bool unigram = v->algo == LM_VOCAB_UNIGRAM && !((const struct lmi_vocab *)v)->hf;

    return v->algo == LM_VOCAB_SPM_BPE || unigram || v->algo == LM_VOCAB_SPM_WORD || v->algo == LM_VOCAB_SPM_CHAR;
}

struct lmi_vocab *lmi_vocab_new(void); /* ids -1, pre "", NULL when out of memory */

/* Where the files of a tokenizer lie: a model's sidecars or a folder. */
struct lmi_files {
    /* As lm_model_sidecar: 1 found, 0 none, -1 unreadable. */
    int (*get)(void *user, const char *name, struct lm_span *out, struct lm_err *e);
    void *user;
};

int lmi_nomem_vocab(struct lm_err *e);
/* The piece with this id; the list grows to it (ids that never get a text become
 * UNUSED "[PADn]" in lmi_vocab_index). NULL when out of memory. The caller has
 * bounded id. */
struct lm_piece *lmi_vocab_piece(struct lmi_vocab *b, size_t id);
/* A copy in the arena; data NULL when out of memory. */
struct lm_span lmi_vocab_copy(struct lmi_vocab *b, struct lm_span s);
/* Builds text -> id; of equal texts the first id is found. */
int lmi_vocab_index(struct lmi_vocab *b, struct lm_err *e);
/* Last step of every reader: bounds of special ids, byte pieces, merges. */
int lmi_vocab_finish(struct lmi_vocab *b, struct lm_err *e);

static inline const struct lmi_vocab *lmi_vocab_of(const struct lm_vocab *v)
{
    return (const struct lmi_vocab *)v;
}

/* The readers. Each fills b; what names the file in messages. */
int lmi_spm_read(struct lmi_vocab *b, struct lm_span file, struct lm_err *e);
int lmi_tokenizer_json_read(struct lmi_vocab *b, struct lm_span file, struct lm_err *e);
int lmi_vocab_merges_read(struct lmi_vocab *b, struct lm_span vocab, struct lm_span merges, struct lm_err *e);
int lmi_gguf_vocab_read(struct lmi_vocab *b, const struct lm_meta *m, struct lm_err *e);
/* tokenizer_config.json, added_tokens.json, config.json, chat templates. After
 * the pieces, before lmi_vocab_finish. */
int lmi_vocab_configure(struct lmi_vocab *b, struct lmi_files files, struct lm_err *e);
/* Only what a GGUF's own keys cannot say: whether the prefix is "legacy". */
int lmi_vocab_configure_prefix(struct lmi_vocab *b, struct lmi_files files, struct lm_err *e);

/* Parts of tokenizer.json. */
int lmi_hf_added_tokens(struct lmi_vocab *b, const json_t *list, struct lm_err *e);
int lmi_hf_post_processor(struct lmi_vocab *b, const json_t *post, struct lm_err *e);
/* {text: id}, one piece each. */
int lmi_vocab_object(struct lmi_vocab *b, json_t *vocab, struct lm_err *e);
/* "model" of a tokenizer.json of these types: algo, pieces, unk_id, flags. */
int lmi_hf_unigram(struct lmi_vocab *b, const json_t *model, struct lm_err *e);
int lmi_hf_wordpiece(struct lmi_vocab *b, const json_t *model, struct lm_err *e);
int lmi_hf_wordlevel(struct lmi_vocab *b, const json_t *model, struct lm_err *e);
/* BERT's vocab.txt, one piece a line; RWKV's, "id 'literal' bytes" a line. */
int lmi_bert_vocab_read(struct lmi_vocab *b, struct lm_span file, struct lmi_files files, struct lm_err *e);
int lmi_rwkv_read(struct lmi_vocab *b, struct lm_span file, struct lm_err *e);
/* A tokenizer.json's Unigram in SentencePiece's terms; borrows from v, what is new is in the arena. */
int lmi_unigram_as_spm(struct lmi_vocab *out, const struct lm_vocab *v, struct lm_arena *a, struct lm_err *e);
/* One added token (id from the caller) into b; object has content, special, … */
int lmi_hf_added_token(struct lmi_vocab *b, size_t id, const json_t *object, struct lm_err *e);
/* Merges "left right" by text; result must be a piece (T9). */
int lmi_vocab_merge(struct lmi_vocab *b, size_t rank, struct lm_span left, struct lm_span right, struct lm_err *e);
int lmi_vocab_merge_hashed(struct lmi_vocab *b, size_t rank, struct lm_span left, struct lm_span right, uint64_t left_hash,
                           uint64_t right_hash, struct lm_err *e);
/* Scores that order SentencePiece pieces as their merges do. */
void lmi_vocab_scores_from_merges(struct lmi_vocab *b);

/* The byte of "<0xHH>", or -1 (exactly two upper-case hex digits, T5). */
int lmi_byte_piece(struct lm_span text);
/* GPT-2's letter of a byte as a code point, and back (-1: not one of the 256). */
uint32_t lmi_byte_letter(uint8_t byte);
int lmi_letter_byte(uint32_t cp);
/* The bytes that letters stand for, at most size of them; SIZE_MAX when among
 * those there is something else. */
size_t lmi_letters_to_bytes(struct lm_span s, uint8_t *out, size_t size);

#endif
