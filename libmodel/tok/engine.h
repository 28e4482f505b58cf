/* A tokenizer inside, and the state of one encoding. Private to libmodel. */
#ifndef LIBMODEL_TOK_ENGINE_H
#define LIBMODEL_TOK_ENGINE_H

#include "libmodel/tok/added.h"
#include "libmodel/tok/charsmap.h"
#include "libmodel/tok/merge.h"
#include "libmodel/tok/pretok.h"
#include "libmodel/tokenizer.h"

/* Code point -> symbol id: a piece, or for characters that only occur inside
 * pieces a number from n_pieces up. */
struct lmi_chars {
    uint32_t *pages[0x1100];
};

struct lm_tokenizer {
    const struct lm_vocab *v;
    struct lm_arena arena;
    struct lmi_added raw;    /* looked for in the text as it is */
    struct lmi_added second; /* … then in what those leave of it */
    struct lmi_added norm;   /* … in the normalized text */
    struct lmi_pairs pairs;
    uint32_t *length;      /* bytes of a symbol in the text that is merged (for SentencePiece a space counts one) */
    size_t n_symbols;
    size_t max_bytes;
    uint32_t byte_id[256]; /* piece of a byte, LMI_NONE if there is none */
    /* byte BPE */
    struct lmi_pretok *pretok;
    /* SentencePiece. Text is kept with ' ' for U+2581. */
    struct lmi_charsmap charsmap;
    struct lmi_added symbols; /* what the normalizer leaves alone */
    struct lmi_chars chars;
    struct lmi_pairs adjacent; /* symbols that stand side by side in some piece: no other place can be merged across */
    bool space_is_piece;
    /* Can a merge cross the place between two characters? By the last byte of
     * the first and the first byte of the second (all bytes inside a character
     * are joined); false is certain. */
    uint64_t joined[256][4];
    uint8_t *unused;           /* per symbol, when the vocabulary has UNUSED pieces; else NULL */
};

/* ---- a call */

enum { LMI_CACHED_BYTES = 16, LMI_NARROW_IDS = 6, LMI_WIDE_IDS = 3 };

/* A word and its ids, 32 bytes. Where all ids fit 16 bits there is room for six. */
struct lmi_slot {
    uint64_t key[2];
    uint8_t n_bytes, n_ids; /* n_bytes 0: free */
    uint16_t unused;
    union {
        uint16_t narrow[LMI_NARROW_IDS];
        uint32_t wide[LMI_WIDE_IDS];
        uint32_t place; /* of more ids than there is room for: where they are in out */
    };
};

/* A word whose slot is on its way from memory. */
struct lmi_word {
    size_t begin, n; /* n 0: none */
    uint64_t key[2];
    struct lmi_slot *slot; /* NULL: too long to be remembered */
};

struct lmi_call {
    const struct lm_tokenizer *t;
    struct lm_ids *out;
    bool offsets, special;
    struct lm_err *e;
    /* The part of the text in work: its bytes, and where each comes from
     * (map[i], or base + i when map is NULL). */
    struct lm_span part;
    const uint8_t *bytes; /* part before ill-formed bytes were masked */
    const size_t *map;
    size_t base;
    /* Words seen before. */
    struct lmi_slot *slots;
    size_t slot_mask;
    bool narrow;
    struct lmi_word waiting;
    int (*encode_word)(struct lmi_call *c, size_t begin, size_t end); /* of a word not seen before */
    size_t ids_per_byte; /* that encode_word emits at most */
    struct lmi_merge_scratch merge;
    uint32_t *ids; /* symbols of a word */
    size_t ids_capacity;
    size_t unk_end; /* out->n after the last unknown that the next may join */
    bool no_cache;  /* the word in work must not be remembered */
};

/* Room for n more ids in out. */
int lmi_call_reserve(struct lmi_call *c, size_t n);
/* The buffer for a word of n symbols; NULL when out of memory or absurd. */
uint32_t *lmi_call_symbols(struct lmi_call *c, size_t n);
int lmi_call_nomem(struct lmi_call *c);

static inline size_t lmi_call_offset(const struct lmi_call *c, size_t pos)
{
    return c->map ? c->map[pos] : c->base + pos;
}

/* Appends an id for part[begin, end); room was reserved. */
static inline void lmi_call_emit(struct lmi_call *c, uint32_t id, size_t begin, size_t end)
{
    struct lm_ids *o = c->out;

    if (c->offsets)
        o->offsets[o->n] = (struct lm_offsets){lmi_call_offset(c, begin), lmi_call_offset(c, end)};
    o->ids[o->n++] = (int32_t)id;
}

/* ---- words */

/* Encodes the word part[begin, end), from memory if it was seen, one word late:
 * meanwhile its slot of the cache is fetched. lmi_call_flush does the last;
 * call it before part changes or anything else is emitted. */
int lmi_call_word(struct lmi_call *c, size_t begin, size_t end);
int lmi_call_flush(struct lmi_call *c);

/* ---- the two algorithms */

int lmi_byte_init(struct lm_tokenizer *t, struct lm_err *e);
int lmi_byte_word(struct lmi_call *c, size_t begin, size_t end);
/* Text without added tokens, at byte `base` of the input. */
int lmi_byte_encode(struct lmi_call *c, struct lm_span text, size_t base);

int lmi_spm_init(struct lm_tokenizer *t, struct lm_err *e);
void lmi_spm_free(struct lm_tokenizer *t);
int lmi_spm_word(struct lmi_call *c, size_t begin, size_t end);
/* first: nothing stands in front of it. */
int lmi_spm_encode(struct lmi_call *c, struct lm_span text, size_t base, bool first);

/* A normalized text and where each of its bytes comes from (n + 1 places;
 * NULL when nobody asked). Free with lmi_normal_free. */
struct lmi_normal {
    uint8_t *text;
    size_t *map;
    size_t n, capacity;
    bool failed;
};
void lmi_normal_add(struct lmi_normal *o, const uint8_t *s, size_t n, size_t from, bool with_map);
void lmi_normal_end(struct lmi_normal *o, size_t from, bool with_map); /* the last place of the map */
void lmi_normal_free(struct lmi_normal *o);

/* SentencePiece's normalizer. `prefix`: put a space in front. */
int lmi_spm_normalize(const struct lm_tokenizer *t, struct lm_span text, size_t base, bool prefix, bool with_map,
                      struct lmi_normal *out, struct lm_err *e);
/* NFC: 1 written to out, 0 the text is NFC already. Ill-formed bytes stay. */
int lmi_nfc(struct lm_span text, size_t base, bool with_map, struct lmi_normal *out, struct lm_err *e);

#endif
