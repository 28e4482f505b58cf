/* Unigram: of all ways to cut a text into pieces, the one with the largest sum
 * of scores; of equal ones that whose last piece is longest. One pass, with the
 * best way to every place (unigram_model.cc's EncodeOptimized, model.rs).
 *
 * SentencePiece adds floats, and over the whole text: the sum so far decides how
 * scores are rounded, and so near-ties. HF adds doubles from word to word. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "libmodel/tok/build.h"
#include "libmodel/tok/engine.h"
#include "libmodel/tok/unicode.h"

struct lmi_best {
    double score, second; /* of the best way to this place and of the next best last step */
    uint32_t start, id;   /* of its last piece (from the base of the table); LMI_NONE: an unknown character */
};

enum { NEVER = UINT32_MAX };

/* ---- making */

/* HF counts all pieces, SentencePiece the normal ones. */
static bool counts(const struct lm_tokenizer *t, size_t i)
{
    const struct lm_piece *p = &t->v->pieces[i];

    return lmi_vocab_of(t->v)->hf ? p->in_model : p->kind == LM_PIECE_NORMAL && p->in_model;
}

static double score_of(const struct lm_tokenizer *t, size_t i)
{
    const double *exact = lmi_vocab_of(t->v)->scores;

    return exact && i < lmi_vocab_of(t->v)->n_scores ? exact[i] : (double)t->v->pieces[i].score;
}

/* As the library counts it: a space is U+2581. */
static size_t library_size(const struct lm_tokenizer *t, struct lm_span text)
{
    size_t n = text.size;

    for (size_t i = 0; i < text.size && t->v->escape_whitespaces; i++)
        n += text.data[i] == ' ' ? 2 : 0;
    return n;
}

static int copy_scores(struct lm_tokenizer *t, struct lm_err *e)
{
    bool hf = lmi_vocab_of(t->v)->hf;
    double least = hf ? INFINITY : FLT_MAX;

    t->scores = lm_arena_array(&t->arena, t->v->n_pieces, sizeof *t->scores);
    if (!t->scores)
        return lm_err_set(e, LM_NOMEM, "out of memory for a tokenizer");
    for (size_t i = 0; i < t->v->n_pieces; i++) {
        t->scores[i] = score_of(t, i);
        if (!isfinite(t->scores[i]))
            return lm_err_set(e, LM_MALFORMED, "the score of piece %zu is not finite", i);
        if (counts(t, i) && t->scores[i] < least)
            least = t->scores[i];
    }
    t->unknown_score = hf ? least - 10 : (double)((float)least - 10.0f);
    t->largest_score = fabs(t->unknown_score);
    return 0;
}

/* A user-defined symbol's score grows with its length, so that it nearly always wins. */
static void score_symbol(struct lm_tokenizer *t, size_t i, struct lm_span text)
{
    size_t n = library_size(t, text);

    t->scores[i] = (double)(float)(0.1 * (double)(n - 1));
}

/* As SentencePiece adds them. */
static int copy_floats(struct lm_tokenizer *t, struct lm_err *e)
{
    if (t->v->algo != LM_VOCAB_UNIGRAM || lmi_vocab_of(t->v)->hf)
        return 0;
    t->sums = lm_arena_array(&t->arena, t->v->n_pieces, sizeof *t->sums);
    if (!t->sums)
        return lm_err_set(e, LM_NOMEM, "out of memory for a tokenizer");
    for (size_t i = 0; i < t->v->n_pieces; i++)
        t->sums[i] = (float)t->scores[i];
    return 0;
}

int lmi_unigram_make(struct lm_tokenizer *t, const struct lm_span *texts, struct lm_err *e)
{
    size_t n = 0;
    struct lmi_trie_key *keys = malloc((t->v->n_pieces + 1) * sizeof *keys);

    if (!keys)
        return lm_err_set(e, LM_NOMEM, "out of memory for a tokenizer");
    int rc = copy_scores(t, e);
    for (size_t i = 0; i < t->v->n_pieces && rc == 0; i++) {
        enum lm_piece_kind kind = t->v->pieces[i].kind;
        bool spm = !lmi_vocab_of(t->v)->hf;
        if (texts[i].size == 0 || (spm && kind == LM_PIECE_UNUSED))
            continue;
        if (spm && kind == LM_PIECE_USER_DEFINED)
            score_symbol(t, i, texts[i]);
        t->largest_score = fmax(t->largest_score, fabs(t->scores[i]));
        keys[n++] = (struct lmi_trie_key){texts[i], (uint32_t)i};
    }
    if (rc == 0)
        rc = lmi_trie_build(&t->trie, keys, n, e);
    free(keys);
    return rc < 0 ? -1 : copy_floats(t, e);
}

/* Control tokens in the vocabulary are pieces to HF: a text that the normalizer
 * makes out of others can be one. Without LM_ENCODE_SPECIAL none is. */
static int hide_special(struct lm_tokenizer *t, struct lm_err *e)
{
    t->plain_scores = lm_arena_array(&t->arena, t->v->n_pieces, sizeof *t->plain_scores);
    if (!t->plain_scores)
        return lm_err_set(e, LM_NOMEM, "out of memory for a tokenizer");
    for (size_t i = 0; i < t->v->n_pieces; i++)
        t->plain_scores[i] = t->v->pieces[i].special ? -INFINITY : t->scores[i];
    return 0;
}

static void find_byte_pieces(struct lm_tokenizer *t)
{
    for (size_t b = 0; b < 256; b++) {
        char name[8];
        int n = snprintf(name, sizeof name, "<0x%02zX>", b);
        int64_t id = lm_vocab_find(t->v, lm_span_of(name, (size_t)n));
        t->byte_id[b] = id >= 0 && t->v->pieces[id].in_model ? (uint32_t)id : LMI_NONE;
    }
}

/* From a tokenizer.json. */
int lmi_unigram_init(struct lm_tokenizer *t, struct lm_err *e)
{
    struct lm_span *texts = calloc(t->v->n_pieces + 1, sizeof *texts);
    int rc = texts ? lmi_word_lengths(t, e) : lm_err_set(e, LM_NOMEM, "out of memory for a tokenizer");

    for (size_t i = 0; rc == 0 && i < t->v->n_pieces; i++)
        if (t->v->pieces[i].in_model && t->v->pieces[i].text.size > 0)
            texts[i] = t->v->pieces[i].text;
    if (rc == 0)
        rc = lmi_unigram_make(t, texts, e);
    free(texts);
    find_byte_pieces(t);
    return rc < 0 ? -1 : hide_special(t, e);
}

/* ---- margins
 *
 * Let x be how far any float sum of a word can be from the exact one. Then the
 * ways chosen are the exact best ones wherever those lead by more than 2x. A
 * word of n bytes has at most n additions, each off by half a unit in the last
 * place of a sum that is at most |sum before it| + n * largest score. */

/* Half a float, rounded down. */
static uint16_t pack_margin(double lead)
{
    float f = lead > 1e30 ? 1e30f : lead > 0 ? (float)(lead * 0.999) : 0;
    uint32_t bits;

    memcpy(&bits, &f, sizeof bits);
    return (uint16_t)(bits >> 16);
}

/* ---- from the table to ids */

/* HF: neighbouring unknowns are one token, whose text may again be a piece. */
static void flush_unknown(struct lmi_call *c, size_t end)
{
    const struct lm_vocab *v = c->t->v;
    size_t begin = c->unknown_begin;

    if (begin >= end) /* SIZE_MAX: none */
        return;
    struct lm_span s = lm_span_of(c->part.data + begin, end - begin);
    c->unknown_begin = SIZE_MAX;
    c->no_cache = true;
    int64_t id = lm_vocab_find(v, s);
    bool bytes = v->byte_fallback;
    for (size_t i = 0; i < s.size && bytes; i++)
        bytes = c->t->byte_id[s.data[i]] != LMI_NONE;
    if (id >= 0 && v->pieces[id].in_model)
        lmi_call_emit(c, (uint32_t)id, begin, end);
    else if (bytes)
        for (size_t i = 0; i < s.size; i++)
            lmi_call_emit(c, c->t->byte_id[s.data[i]], begin, end);
    else if (v->unk_id >= 0)
        lmi_call_emit(c, (uint32_t)v->unk_id, begin, end);
}

static void emit_piece(struct lmi_call *c, uint32_t id, size_t begin, size_t end)
{
    bool hf = lmi_vocab_of(c->t->v)->hf;

    if (hf && (id == LMI_NONE || (int64_t)id == c->t->v->unk_id)) {
        if (c->unknown_begin == SIZE_MAX)
            c->unknown_begin = begin;
    } else if (id == LMI_NONE) {
        c->no_cache = true; /* bytes' ids are not what was added up */
        lmi_spm_emit_unknown(c, begin, end);
    } else {
        if (hf)
            flush_unknown(c, begin);
        lmi_call_emit(c, id, begin, end);
    }
}

/* The best way to place n of the table, whose place 0 is part[base]. */
static int emit_path(struct lmi_call *c, size_t base, size_t n, double *lead)
{
    uint32_t *ends = lmi_call_symbols(c, n + 1);
    size_t k = 0, at = n;

    if (!ends || lmi_call_reserve(c, n * c->ids_per_byte + LMI_NARROW_IDS) < 0)
        return -1;
    while (at > 0) {
        ends[k++] = (uint32_t)at;
        *lead = fmin(*lead, c->best[at].score - c->best[at].second);
        at = c->best[at].start;
    }
    while (k-- > 0) {
        const struct lmi_best *b = &c->best[ends[k]];
        emit_piece(c, b->id, base + b->start, base + ends[k]);
    }
    return 0;
}

/* ---- the table */

static bool make_room(struct lmi_call *c, size_t n)
{
    if (n <= c->best_capacity)
        return true;
    size_t capacity = n + n / 2 + 64;
    struct lmi_best *p = capacity > SIZE_MAX / sizeof *p ? NULL : realloc(c->best, capacity * sizeof *p);
    if (!p)
        return false;
    c->best = p;
    c->best_capacity = capacity;
    return true;
}

/* A piece from place i to place k; *frontier is the last place reached so far. */
static inline void offer(struct lmi_best *best, size_t *frontier, size_t i, size_t k, double sum, uint32_t id)
{
    struct lmi_best *b = &best[k];

    while (*frontier < k)
        best[++*frontier] = (struct lmi_best){.second = -INFINITY, .start = NEVER};
    if (b->start == NEVER || sum > b->score) {
        b->second = b->start == NEVER ? -INFINITY : b->score;
        b->score = sum;
        b->start = (uint32_t)i;
        b->id = id;
    } else if (sum > b->second) {
        b->second = sum;
    }
}

static inline double add(double a, double b, bool floats)
{
    return floats ? (double)((float)a + (float)b) : a + b;
}

/* All pieces that begin at part[pos], place i of the table. */
static inline void offer_pieces(struct lmi_call *c, size_t *frontier, size_t pos, size_t end, size_t i, bool floats)
{
    const struct lm_tokenizer *t = c->t;
    const double *scores = floats || c->special ? t->scores : t->plain_scores;
    const uint8_t *text = c->part.data;
    size_t width = lmi_utf8_width(text[pos]);
    uint64_t unit = lmi_trie_root(&t->trie);
    double here = c->best[i].score;
    bool single = false;

    if (width > end - pos)
        width = end - pos;
    for (size_t k = pos; k < end && lmi_trie_step(&t->trie, &unit, text[k]);) {
        uint32_t id = lmi_trie_id(unit);
        k++;
        if (id != LMI_NONE && (floats || scores[id] > -INFINITY)) {
            double sum = floats ? (double)((float)here + t->sums[id]) : here + scores[id];
            offer(c->best, frontier, i, i + (k - pos), sum, id);
            single |= k - pos == width;
        }
    }
    if (!single)
        offer(c->best, frontier, i, i + width, add(here, t->unknown_score, floats), LMI_NONE);
}

/* The library subtracts a sum that has grown too large from all that are open. */
static void start_anew(struct lmi_best *best, size_t i, size_t frontier)
{
    double sum = best[i].score;

    for (size_t k = i; k <= frontier; k++)
        if (k == i || best[k].start != NEVER)
            best[k].score = add(best[k].score, -sum, true);
}

static inline int encode(struct lmi_call *c, size_t begin, size_t end, bool floats, double *lead)
{
    size_t base = begin, frontier = 0;

    if (!make_room(c, LMI_LONGEST_PIECE + 8))
        return lmi_call_nomem(c);
    c->best[0] = (struct lmi_best){.score = floats ? c->sum : 0};
    for (size_t pos = begin; pos < end;) {
        size_t i = pos - base;
        if (i > 0 && i == frontier) { /* all ways lead through this place */
            if (emit_path(c, base, i, lead) < 0)
                return -1;
            c->best[0] = (struct lmi_best){.score = c->best[i].score};
            base = pos;
            i = frontier = 0;
        }
        if (!make_room(c, i + LMI_LONGEST_PIECE + 8) || i > UINT32_MAX - LMI_LONGEST_PIECE - 8)
            return lmi_call_nomem(c);
        if (floats && fabs(c->best[i].score) > LMI_LARGEST_SUM)
            start_anew(c->best, i, frontier);
        offer_pieces(c, &frontier, pos, end, i, floats);
        size_t width = lmi_utf8_width(c->part.data[pos]);
        pos += width < end - pos ? width : end - pos;
    }
    if (emit_path(c, base, end - base, lead) < 0)
        return -1;
    c->sum = c->best[end - base].score;
    return 0;
}

/* ---- short words, which are nearly all: the same in arrays of their own */

enum { SHORT = LMI_CACHED_BYTES };

struct short_word {
    float score[SHORT + 1], second[SHORT + 1];
    uint32_t id[SHORT + 1];
    uint8_t start[SHORT + 1]; /* of the last piece on the best way; SHORT: no way yet */
};

static inline void offer_short(struct short_word *w, size_t i, size_t k, float sum, uint32_t id)
{
    bool better = w->start[k] == SHORT || sum > w->score[k];
    float other = better ? w->score[k] : sum;

    if (w->start[k] != SHORT && other > w->second[k])
        w->second[k] = other;
    if (better) {
        w->score[k] = sum;
        w->id[k] = id;
        w->start[k] = (uint8_t)i;
    }
}

/* text[0, n) into w, whose score[0] is set. */
static inline void fill_short(const struct lm_tokenizer *t, struct short_word *w, const uint8_t *text, size_t n)
{
    for (size_t i = 1; i <= n; i++) {
        w->start[i] = SHORT;
        w->second[i] = -INFINITY;
    }
    for (size_t i = 0, width; i < n; i += width) {
        uint64_t unit = lmi_trie_root(&t->trie);
        float here = w->score[i];
        bool single = false;
        width = lmi_utf8_width(text[i]);
        width = width < n - i ? width : n - i;
        for (size_t k = i; k < n && lmi_trie_step(&t->trie, &unit, text[k]);) {
            uint32_t id = lmi_trie_id(unit);
            k++;
            if (id == LMI_NONE)
                continue;
            offer_short(w, i, k, here + t->sums[id], id);
            single |= k - i == width;
        }
        if (!single)
            offer_short(w, i, i + width, here + (float)t->unknown_score, LMI_NONE);
    }
}

static double emit_short(struct lmi_call *c, const struct short_word *w, size_t begin, size_t n)
{
    uint8_t ends[SHORT];
    size_t k = 0;
    float lead = INFINITY;

    for (size_t at = n; at > 0; at = w->start[at]) {
        lead = fminf(lead, w->score[at] - w->second[at]);
        ends[k++] = (uint8_t)at;
    }
    while (k-- > 0)
        emit_piece(c, w->id[ends[k]], begin + w->start[ends[k]], begin + ends[k]);
    return (double)lead;
}

/* Sums cannot have to be started anew within the word. Room was reserved. */
static void encode_short(struct lmi_call *c, size_t begin, size_t n)
{
    double doubt = lmi_unigram_blur(c, n, n);
    struct short_word w;

    w.score[0] = (float)c->sum;
    fill_short(c->t, &w, c->part.data + begin, n);
    c->margin = pack_margin(emit_short(c, &w, begin, n) - doubt);
    c->sum = (double)w.score[n];
}

int lmi_unigram_word(struct lmi_call *c, size_t begin, size_t end)
{
    double lead = INFINITY;

    if (begin == end)
        return 0;
    if (c->t->sums && end - begin <= SHORT && lmi_unigram_blur(c, end - begin, end - begin) < 1e300) {
        encode_short(c, begin, end - begin);
        return 0;
    }
    if (c->t->sums) {
        double doubt = lmi_unigram_blur(c, end - begin, end - begin);
        int rc = encode(c, begin, end, true, &lead);
        c->margin = pack_margin(lead - doubt);
        return rc;
    }
    c->unknown_begin = SIZE_MAX;
    if (encode(c, begin, end, false, &lead) < 0)
        return -1;
    flush_unknown(c, end);
    return 0;
}
