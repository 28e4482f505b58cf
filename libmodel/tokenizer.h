/* Text to ids and back, by executing a vocabulary's own data.  A tokenizer is
 * immutable once made and may be shared by threads. */
#ifndef LIBMODEL_TOKENIZER_H
#define LIBMODEL_TOKENIZER_H

#include "libmodel/vocab.h"

#ifdef __cplusplus
extern "C" {
#endif

struct lm_tokenizer;

/* The vocabulary is borrowed and must outlive the tokenizer. */
int lm_tokenizer_new(struct lm_tokenizer **out, const struct lm_vocab *v, struct lm_err *e);
void lm_tokenizer_free(struct lm_tokenizer *t);

/* A growing list of ids and, when wanted, of where each came from. */
struct lm_ids {
    int32_t *ids;
    struct lm_offsets { size_t begin, end; } *offsets; /* bytes of the input; NULL unless asked for */
    size_t n, capacity;
};
void lm_ids_free(struct lm_ids *l); /* frees the arrays, not l */

enum lm_encode_flags {
    LM_ENCODE_SPECIAL = 1, /* text of control tokens ("<s>", "<|eot_id|>") in the input becomes their ids */
    LM_ENCODE_BOS_EOS = 2, /* add BOS / EOS as the checkpoint asks */
    LM_ENCODE_OFFSETS = 4, /* fill offsets */
    LM_ENCODE_TRIM = 8,    /* leave spaces out of offsets where the tokenizer asks for it (HF's trim_offsets) */
    LM_ENCODE_CONTINUES = 16 /* the text continues one encoded before: nothing is put in front of it */
};

/* Appends the ids of text (any bytes, invalid UTF-8 included). The ids do not
 * depend on threads or earlier calls. -1 only when out of memory or over a
 * stated limit. User-defined added tokens are always matched, as in HF. */
int lm_tokenizer_encode(const struct lm_tokenizer *t, struct lm_span text, unsigned flags, struct lm_ids *out,
                        struct lm_err *e);

/* A place to cut a large text, at `near` or soon after it: encoding text[0, cut)
 * and, with LM_ENCODE_CONTINUES, text[cut, size) gives the ids of the whole, and
 * its offsets (those of the second part count from the cut; of a piece that is
 * only some bytes of a character they may be the whole character's). text.size
 * when no place is certain. Threads may encode such parts at the same time. */
size_t lm_tokenizer_safe_cut(const struct lm_tokenizer *t, struct lm_span text, size_t near);

/* Bytes that an id adds when it follows others (`first`: it is at the start, so
 * SentencePiece's dummy prefix space is dropped). Control pieces give nothing
 * unless `special`. Writes at most size bytes, returns the full length. */
size_t lm_tokenizer_piece_bytes(const struct lm_tokenizer *t, int32_t id, bool first, bool special, uint8_t *buf,
                                size_t size);

/* The text of n ids; *out is malloc'd, *n_out bytes (plus a NUL). -1 when an id
 * is outside the vocabulary (says which). */
int lm_tokenizer_decode(const struct lm_tokenizer *t, const int32_t *ids, size_t n, bool special, char **out,
                        size_t *n_out, struct lm_err *e);

/* Incremental decoding: push ids, take only whole UTF-8 characters. */
struct lm_decoder {
    const struct lm_tokenizer *t;
    bool started;
    uint8_t held[8];
    size_t n_held;
};
/* Text that has become certain after this id into buf (size >= 4 + longest
 * piece, see lm_tokenizer_max_bytes); returns its length. id -1 flushes. */
size_t lm_decoder_push(struct lm_decoder *d, int32_t id, char *buf, size_t size);
size_t lm_tokenizer_max_bytes(const struct lm_tokenizer *t);

#ifdef __cplusplus
}
#endif
#endif
