/* A tokenizer inside, and the state of one encoding. Private to libmodel. */
#ifndef LIBMODEL_TOK_ENGINE_H
#define LIBMODEL_TOK_ENGINE_H

#include "libmodel/tok/added.h"
#include "libmodel/tok/cache.h"
#include "libmodel/tok/charsmap.h"
#include "libmodel/tok/merge.h"
#include "libmodel/tok/pretok.h"
#include "libmodel/tok/trie.h"
#include "libmodel/tokenizer.h"

enum lmi_plain { LMI_PLAIN = 1, LMI_PLAIN_SPACE };

/* Code point -> symbol id: a piece, or for characters that only occur inside
 * pieces a number from n_pieces up. */
struct lmi_chars {
    uint32_t *pages[0x1100];
};

struct lm_tokenizer {
    const struct lm_vocab *v;
    struct lm_arena arena;
    struct lmi_caches *caches;
    struct lmi_added raw;    /* looked for in the text as it is */
    struct lmi_added second; /* … then in what those leave of it */
    struct lmi_added norm;   /* … in the normalized text */
    struct lmi_pairs pairs;
    uint32_t *length;      /* bytes of a symbol in the text that is merged (for SentencePiece a space counts one) */
    size_t n_symbols;
    size_t max_bytes;
    struct lm_span *shown; /* by a tokenizer.json's decoder, of added tokens that were normalized; or NULL */
    uint32_t byte_id[256]; /* piece of a byte, LMI_NONE if there is none */
    /* byte BPE */
    struct lmi_pretok *pretok;
    struct lmi_backtrack *backtrack; /* NULL when a byte has no piece */
    bool cuts_words; /* adjacent and joined say where no piece crosses two characters of which one is not ASCII */
    /* SentencePiece. Text is kept with ' ' for U+2581. */
    struct lmi_charsmap charsmap;
    struct lmi_added symbols; /* what the normalizer leaves alone */
    uint8_t plain[256];       /* bytes that it leaves alone when ASCII follows: enum lmi_plain */
    uint64_t plain_wide[0x10000 / 64]; /* characters that it leaves alone whatever follows */
    uint64_t joins[0x80][2];  /* ASCII byte, byte from 0x80: may a rule begin with the two? */
    struct lmi_chars chars;
    struct lmi_pairs adjacent; /* symbols that stand side by side in some piece: no other place can be merged across */
    bool space_is_piece;
    /* Can a merge cross the place between two characters? By the last byte of
     * the first and the first byte of the second (all bytes inside a character
     * are joined); false is certain. */
    uint64_t joined[256][4];
    uint8_t *unused;           /* per symbol, when the vocabulary has UNUSED pieces; else NULL */
    /* Unigram, WordPiece, greedy */
    struct lmi_trie trie;
    uint64_t inside;           /* WordPiece: the unit behind continuing_subword_prefix */
    float *sums;               /* SentencePiece's Unigram: scores of pieces; else NULL */
    double *scores;            /* Unigram: of a piece */
    double *plain_scores;      /* HF's: the same with special pieces left out */
    double unknown_score, largest_score; /* of a character that is no piece; of all, the largest without its sign */
};

/* ---- a call */

/* As many words wait for their slots, so that these come from memory meanwhile. */
enum { LMI_AHEAD = 32 };

/* A word whose slot is on its way from memory. */
struct lmi_word {
    size_t begin, n;
    bool fragment;   /* a part of a word: not looked up as a whole */
    uint64_t key[2];
    struct lmi_slot *slot; /* NULL: too long to be remembered */
};

struct lmi_call {
    const struct lm_tokenizer *t;
    struct lm_ids *out;
    bool offsets, special, continues, trim; /* what was asked for */
    struct lm_err *e;
    /* The part of the text in work: its bytes, and where each comes from
     * (map[i], or base + i when map is NULL). */
    struct lm_span part;
    const uint8_t *bytes; /* part before ill-formed bytes were masked */
    const size_t *map;
    size_t base;
    const struct lm_offsets *from; /* instead of both: the range of the input that each byte comes from */
    struct lmi_cache *cache;
    bool narrow;
    struct lmi_word waiting[LMI_AHEAD];
    size_t n_waiting;
    int (*encode_word)(struct lmi_call *c, size_t begin, size_t end); /* of a word not seen before */
    size_t ids_per_byte; /* that encode_word emits at most */
    struct lmi_merge_scratch merge;
    uint32_t *ids; /* symbols of a word */
    size_t ids_capacity;
    size_t unk_end; /* out->n after the last unknown that the next may join */
    bool no_cache;  /* the word in work must not be remembered */
    bool fragment;  /* … is a part of one */
    bool fragments; /* the word in work came apart before */
    struct lmi_backtrack *backtrack; /* when it is ready */
    /* Unigram */
    struct lmi_best *best; /* the best way to every place of a word */
    size_t best_capacity;
    double sum;            /* SentencePiece: of the text so far, up to out->ids[summed] */
    size_t summed;
    double blur;           /* what lmi_unigram_holds asks, for a byte */
    uint16_t margin;       /* of the word in work */
    size_t unknown_begin;  /* HF: of the unknown characters in front of the place in work; SIZE_MAX: none */
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

/* The range that part[begin, end) comes from. */
static inline struct lm_offsets lmi_call_range(const struct lmi_call *c, size_t begin, size_t end)
{
    if (!c->from)
        return (struct lm_offsets){lmi_call_offset(c, begin), lmi_call_offset(c, end)};
    size_t last = end > begin ? end - 1 : begin ? begin - 1 : 0;
    struct lm_offsets o = {c->from[begin < last ? begin : last].begin, c->from[last].end};
    return o;
}

/* Appends an id for part[begin, end); room was reserved. */
static inline void lmi_call_emit(struct lmi_call *c, uint32_t id, size_t begin, size_t end)
{
    struct lm_ids *o = c->out;

    if (c->offsets)
        o->offsets[o->n] = lmi_call_range(c, begin, end);
    o->ids[o->n++] = (int32_t)id;
}

/* Takes the spaces at the ends of pieces out of the offsets of out[from, n). */
void lmi_trim_offsets(struct lmi_call *c, struct lm_span text, size_t from);

/* ---- words */

/* Encodes the word part[begin, end), from memory if it was seen, a few words
 * late: meanwhile its slot of the cache is fetched. lmi_call_flush does the
 * rest; call it before part changes or anything else is emitted. */
int lmi_call_word(struct lmi_call *c, size_t begin, size_t end);
int lmi_call_flush(struct lmi_call *c);
/* The same for a part of a word that no merge leaves. */
int lmi_call_fragment(struct lmi_call *c, size_t begin, size_t end);

/* ---- the two algorithms */

int lmi_byte_init(struct lm_tokenizer *t, struct lm_err *e);
int lmi_byte_word(struct lmi_call *c, size_t begin, size_t end);
/* Text without added tokens, at byte `base` of the input. */
int lmi_byte_encode(struct lmi_call *c, struct lm_span text, size_t base);

/* neighbours.c: sets cuts_words, adjacent, joined; false when out of memory. */
bool lmi_note_neighbours(struct lm_tokenizer *t);
/* Can a merge cross from the character at `before` of p to the one at pos, which
 * follows it? false is certain. */
bool lmi_crossed(const struct lm_tokenizer *t, const uint8_t *p, size_t before, size_t pos);

/* backtrack.c: what merging gives of a word, without the merging. */
enum { LMI_BACKTRACK_BYTES = 512 }; /* of a word */
struct lmi_backtrack *lmi_backtrack_new(struct lm_tokenizer *t); /* all bytes have pieces; NULL when out of memory */
void lmi_backtrack_free(struct lmi_backtrack *b);
/* Makes its tables, or does lmi_note_neighbours; once, from any thread. false when
 * out of memory. */
bool lmi_backtrack_ready(struct lmi_backtrack *b);
bool lmi_backtrack_cuts(struct lmi_backtrack *b);
/* The ids of the n bytes at w, of which `room` can be read: how many; 0 when it
 * cannot be told this way. whole: take a word that is a piece as it is. Needs
 * lmi_backtrack_ready. */
size_t lmi_backtrack_word(struct lmi_backtrack *b, const uint8_t *w, size_t n, size_t room, bool whole, uint32_t *ids);

int lmi_bpe_init(struct lm_tokenizer *t, struct lm_err *e);
int lmi_bpe_word(struct lmi_call *c, size_t begin, size_t end);
/* Text without added tokens through all stages of a tokenizer.json; as lmi_spm_encode. */
int lmi_pipeline_encode(struct lmi_call *c, struct lm_span text, size_t base, bool first);

int lmi_spm_init(struct lm_tokenizer *t, struct lm_err *e);
void lmi_spm_free(struct lm_tokenizer *t);
int lmi_spm_word(struct lmi_call *c, size_t begin, size_t end);
/* part[begin, end) is no piece: its bytes' pieces or the unknown one. */
void lmi_spm_emit_unknown(struct lmi_call *c, size_t begin, size_t end);
/* WORD and CHAR models */
int lmi_spm_whole_word(struct lmi_call *c, size_t begin, size_t end);
/* first: nothing stands in front of it. */
int lmi_spm_encode(struct lmi_call *c, struct lm_span text, size_t base, bool first);

/* The others: each makes its tables, and encodes the word part[begin, end) (for
 * Unigram any text whose ids do not depend on what stands around it). */
int lmi_unigram_init(struct lm_tokenizer *t, struct lm_err *e);
/* What both kinds need: pieces in the form that is looked for (size 0: takes no part). */
int lmi_unigram_make(struct lm_tokenizer *t, const struct lm_span *texts, struct lm_err *e);
int lmi_unigram_word(struct lmi_call *c, size_t begin, size_t end);
/* SentencePiece's sums are floats over the whole text, so near-ties in a word
 * depend on what stands before it (tok/unigram.c, margins). A remembered word
 * counts only where its margin rules that out; then its ids' scores are added. */
#define LMI_LARGEST_SUM 100000.0

/* How far two sums of a word of n bytes can be apart through rounding alone, when
 * it ends at most `reach` bytes from here; infinite where the library would start
 * its sums anew within. */
static inline double lmi_unigram_blur(const struct lmi_call *c, size_t n, size_t reach)
{
    double sum = (c->sum < 0 ? -c->sum : c->sum) + (double)reach * c->t->largest_score;

    return sum < LMI_LARGEST_SUM ? (double)n * sum * 0x1.01p-23 : 1e300;
}

static inline bool lmi_unigram_holds(const struct lmi_call *c, uint16_t margin, size_t n_bytes)
{
    uint32_t bits = (uint32_t)margin << 16;
    float lead;

    memcpy(&lead, &bits, sizeof lead);
    return (double)lead > (double)n_bytes * c->blur;
}

/* Adds the scores of the ids that came since. */
static inline void lmi_unigram_follow(struct lmi_call *c)
{
    float sum = (float)c->sum;

    for (; c->summed < c->out->n; c->summed++)
        sum += c->t->sums[c->out->ids[c->summed]];
    c->sum = (double)sum;
}
int lmi_wordpiece_init(struct lm_tokenizer *t, struct lm_err *e);
int lmi_wordpiece_word(struct lmi_call *c, size_t begin, size_t end);
int lmi_wordlevel_word(struct lmi_call *c, size_t begin, size_t end); /* needs lmi_word_lengths only */
int lmi_word_lengths(struct lm_tokenizer *t, struct lm_err *e);
int lmi_greedy_init(struct lm_tokenizer *t, struct lm_err *e);
int lmi_greedy_encode(struct lmi_call *c, struct lm_span text, size_t base);

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

/* SentencePiece's normalizer. `prefix`: put a space in front (behind, where the
 * vocabulary says so). After the symbols are noted: find_plain. */
void lmi_spm_find_plain(struct lm_tokenizer *t);
int lmi_spm_normalize(const struct lm_tokenizer *t, struct lm_span text, size_t base, bool prefix, bool with_map,
                      struct lmi_normal *out, struct lm_err *e);

#endif
