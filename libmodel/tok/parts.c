#include "libmodel/tok/parts.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- words */

void lmi_words_add(struct lmi_words *w, const char *format, ...)
{
    va_list ap;
    char *text = NULL;

    va_start(ap, format);
    int n = vasprintf(&text, format, ap);
    va_end(ap);
    if (n < 0) {
        w->failed = true;
        return;
    }
    size_t need = w->n + (size_t)n + 1;
    char *p = need > w->capacity ? realloc(w->text, 2 * need) : w->text;
    if (p) {
        w->capacity = need > w->capacity ? 2 * need : w->capacity;
        w->text = p;
        memcpy(p + w->n, text, (size_t)n + 1);
        w->n += (size_t)n;
    }
    w->failed |= !p;
    free(text);
}

void lmi_words_piece(struct lmi_words *w, struct lm_span text)
{
    enum { SHOWN = 60 };
    char buf[4 * SHOWN + 1];

    lm_piece_escape(lm_span_of(text.data, text.size < SHOWN ? text.size : SHOWN), buf, sizeof buf);
    lmi_words_add(w, "'%s%s'", buf, text.size > SHOWN ? "..." : "");
}

static void put_bool(struct lmi_words *w, bool b)
{
    lmi_words_add(w, "%s", b ? "yes" : "no");
}

/* Patterns and JSON are full of backslashes: those are not doubled. */
static void put_text(struct lmi_words *w, struct lm_span s, const char *otherwise)
{
    enum { SHOWN = 400 };
    char buf[4 * SHOWN + 1];
    size_t n = 0;

    lm_piece_escape(lm_span_of(s.data, s.size < SHOWN ? s.size : SHOWN), buf, sizeof buf);
    for (const char *p = buf; *p; p++) {
        p += p[0] == '\\' && p[1] == '\\';
        buf[n++] = *p;
    }
    buf[n] = '\0';
    lmi_words_add(w, "%s%s", s.size ? buf : otherwise, s.size > SHOWN ? "..." : "");
}

int64_t lmi_same_piece(const struct lmi_vocab *v, const struct lmi_vocab *from, size_t id)
{
    struct lm_span text = from->v.pieces[id].text;

    if (id < v->v.n_pieces && lm_span_eq(v->v.pieces[id].text, text))
        return (int64_t)id;
    return lm_vocab_find(&v->v, text);
}

/* An id of `from` as one of v; -1 when v has no such piece. */
static int64_t carry_id(const struct lmi_vocab *v, const struct lmi_vocab *from, int64_t id)
{
    return id < 0 ? -1 : lmi_same_piece(v, from, (size_t)id);
}

static bool same_id(const struct lmi_vocab *a, const struct lmi_vocab *b, int64_t x, int64_t y)
{
    return x < 0 || y < 0 ? x < 0 && y < 0
                          : x == y && lm_span_eq(a->v.pieces[x].text, b->v.pieces[y].text);
}

static void put_id(struct lmi_words *w, const struct lmi_vocab *v, int64_t id)
{
    if (id < 0) {
        lmi_words_add(w, "none");
        return;
    }
    lmi_words_piece(w, v->v.pieces[id].text);
    lmi_words_add(w, " (id %lld)", (long long)id);
}

/* ---- parts that are one switch */

#define SWITCH(field)                                                                          \
    static bool same_##field(const struct lmi_vocab *a, const struct lmi_vocab *b)             \
    {                                                                                          \
        return a->v.field == b->v.field;                                                       \
    }                                                                                          \
    static void text_##field(const struct lmi_vocab *v, struct lmi_words *w)                   \
    {                                                                                          \
        put_bool(w, v->v.field);                                                               \
    }                                                                                          \
    static int take_##field(struct lmi_vocab *v, const struct lmi_vocab *from, struct lm_err *e) \
    {                                                                                          \
        (void)e;                                                                               \
        v->v.field = from->v.field;                                                            \
        return 0;                                                                              \
    }

SWITCH(add_dummy_prefix)
SWITCH(prefix_every_part)
SWITCH(add_prefix_space)
SWITCH(whitespace_as_suffix)
SWITCH(remove_extra_whitespaces)
SWITCH(escape_whitespaces)
SWITCH(byte_fallback)
SWITCH(fuse_unk)
SWITCH(ignore_merges)
SWITCH(nfc)

/* ---- what stands around a text */

#define AROUND(name, add, id)                                                                  \
    static bool same_##name(const struct lmi_vocab *a, const struct lmi_vocab *b)              \
    {                                                                                          \
        return a->v.add == b->v.add && (!a->v.add || same_id(a, b, a->v.id, b->v.id));         \
    }                                                                                          \
    static void text_##name(const struct lmi_vocab *v, struct lmi_words *w)                    \
    {                                                                                          \
        if (v->v.add)                                                                          \
            put_id(w, v, v->v.id);                                                             \
        else                                                                                   \
            lmi_words_add(w, "not added");                                                     \
    }                                                                                          \
    static int take_##name(struct lmi_vocab *v, const struct lmi_vocab *from, struct lm_err *e) \
    {                                                                                          \
        (void)e;                                                                               \
        v->v.add = from->v.add;                                                                \
        v->v.id = carry_id(v, from, from->v.id);                                               \
        return 0;                                                                              \
    }

AROUND(bos, add_bos, bos_id)
AROUND(eos, add_eos, eos_id)

static bool same_ids(const struct lmi_vocab *a, const int32_t *x, size_t n, const struct lmi_vocab *b, const int32_t *y,
                     size_t m)
{
    if (n != m)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!same_id(a, b, x[i], y[i]))
            return false;
    return true;
}

static bool same_post(const struct lmi_vocab *a, const struct lmi_vocab *b)
{
    return same_ids(a, a->v.prefix_ids, a->v.n_prefix_ids, b, b->v.prefix_ids, b->v.n_prefix_ids) &&
           same_ids(a, a->v.suffix_ids, a->v.n_suffix_ids, b, b->v.suffix_ids, b->v.n_suffix_ids);
}

static void put_ids(struct lmi_words *w, const struct lmi_vocab *v, const int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        lmi_words_piece(w, v->v.pieces[ids[i]].text);
        lmi_words_add(w, " ");
    }
}

static void text_post(const struct lmi_vocab *v, struct lmi_words *w)
{
    put_ids(w, v, v->v.prefix_ids, v->v.n_prefix_ids);
    lmi_words_add(w, v->v.n_prefix_ids + v->v.n_suffix_ids ? "TEXT" : "none");
    lmi_words_add(w, "%s", v->v.n_suffix_ids ? " " : "");
    put_ids(w, v, v->v.suffix_ids, v->v.n_suffix_ids);
}

static int carry_ids(struct lmi_vocab *v, const struct lmi_vocab *from, const int32_t *ids, size_t n,
                     const int32_t **out, size_t *n_out, struct lm_err *e)
{
    int32_t *p = n ? lm_arena_array(&v->arena, n, sizeof *p) : NULL;

    if (n && !p)
        return lmi_nomem_vocab(e);
    *n_out = 0;
    *out = p;
    for (size_t i = 0; i < n; i++) {
        int64_t id = carry_id(v, from, ids[i]);
        if (id >= 0)
            p[(*n_out)++] = (int32_t)id;
    }
    return 0;
}

static int take_post(struct lmi_vocab *v, const struct lmi_vocab *from, struct lm_err *e)
{
    v->v.post_processor = from->v.post_processor;
    if (carry_ids(v, from, from->v.prefix_ids, from->v.n_prefix_ids, &v->v.prefix_ids, &v->v.n_prefix_ids, e) < 0)
        return -1;
    return carry_ids(v, from, from->v.suffix_ids, from->v.n_suffix_ids, &v->v.suffix_ids, &v->v.n_suffix_ids, e);
}

/* ---- normalizer */

static bool same_charsmap(const struct lmi_vocab *a, const struct lmi_vocab *b)
{
    return lm_span_eq(a->v.charsmap, b->v.charsmap);
}

static void text_charsmap(const struct lmi_vocab *v, struct lmi_words *w)
{
    uint32_t h = 2166136261u; /* FNV-1a: enough to see whether two are the same */

    for (size_t i = 0; i < v->v.charsmap.size; i++)
        h = (h ^ v->v.charsmap.data[i]) * 16777619u;
    if (v->v.charsmap.size)
        lmi_words_add(w, "%zu bytes of rules (checksum %08x)", v->v.charsmap.size, h);
    else
        lmi_words_add(w, "none");
}

static int take_charsmap(struct lmi_vocab *v, const struct lmi_vocab *from, struct lm_err *e)
{
    (void)e;
    v->v.charsmap = from->v.charsmap;
    return 0;
}

/* A stage of tokenizer.json: without JSON on both sides there is nothing to compare. */
static bool same_json(struct lm_span a, struct lm_span b)
{
    return a.size == 0 || b.size == 0 || lm_span_eq(a, b);
}

static bool same_normalizer(const struct lmi_vocab *a, const struct lmi_vocab *b)
{
    return same_json(a->v.normalizer, b->v.normalizer);
}

static void text_normalizer(const struct lmi_vocab *v, struct lmi_words *w)
{
    put_text(w, v->v.normalizer, "none");
}

/* All that normalizes, however it is declared. */
static int take_normalizer(struct lmi_vocab *v, const struct lmi_vocab *from, struct lm_err *e)
{
    (void)e;
    v->v.normalizer = from->v.normalizer;
    v->v.charsmap = from->v.charsmap;
    v->v.nfc = from->v.nfc;
    v->v.remove_extra_whitespaces = from->v.remove_extra_whitespaces;
    v->v.escape_whitespaces = from->v.escape_whitespaces;
    v->v.add_dummy_prefix = from->v.add_dummy_prefix;
    v->v.prefix_every_part = from->v.prefix_every_part;
    return 0;
}

/* ---- pre-tokenizer */

/* Where there are patterns they say it all; the JSON beside them may also hold
 * what belongs to other parts. */
static bool same_pre(const struct lmi_vocab *a, const struct lmi_vocab *b)
{
    if (a->v.pre_pattern.size || b->v.pre_pattern.size)
        return lm_span_eq(a->v.pre_pattern, b->v.pre_pattern);
    return same_json(a->v.pre_tokenizer, b->v.pre_tokenizer);
}

/* Regexes that split in turn have a NUL between them. */
static void text_pre(const struct lmi_vocab *v, struct lmi_words *w)
{
    struct lm_span s = v->v.pre_pattern.size ? v->v.pre_pattern : v->v.pre_tokenizer;

    if (v->v.pre[0])
        lmi_words_add(w, "%s: ", v->v.pre);
    for (const uint8_t *nul; s.size > 0 && (nul = memchr(s.data, 0, s.size)) != NULL;) {
        size_t n = (size_t)(nul - s.data);
        put_text(w, lm_span_of(s.data, n), "");
        lmi_words_add(w, " then ");
        s = lm_span_of(nul + 1, s.size - n - 1);
    }
    put_text(w, s, v->v.pre[0] ? "" : "none");
}

static int take_pre(struct lmi_vocab *v, const struct lmi_vocab *from, struct lm_err *e)
{
    (void)e;
    v->v.pre = from->v.pre;
    v->v.pre_pattern = from->v.pre_pattern;
    v->v.pre_tokenizer = from->v.pre_tokenizer;
    v->metaspace = from->metaspace;
    return 0;
}

/* ---- unknown characters */

static bool same_unk(const struct lmi_vocab *a, const struct lmi_vocab *b)
{
    return same_id(a, b, a->v.unk_id, b->v.unk_id);
}

static void text_unk(const struct lmi_vocab *v, struct lmi_words *w)
{
    put_id(w, v, v->v.unk_id);
}

static int take_unk(struct lmi_vocab *v, const struct lmi_vocab *from, struct lm_err *e)
{
    (void)e;
    v->v.unk_id = carry_id(v, from, from->v.unk_id);
    return 0;
}

/* ---- letters that mark where in a word a piece stands */

static bool same_affixes(const struct lmi_vocab *a, const struct lmi_vocab *b)
{
    return lm_span_eq(a->v.continuing_subword_prefix, b->v.continuing_subword_prefix) &&
           lm_span_eq(a->v.end_of_word_suffix, b->v.end_of_word_suffix);
}

static void text_affixes(const struct lmi_vocab *v, struct lmi_words *w)
{
    lmi_words_piece(w, v->v.continuing_subword_prefix);
    lmi_words_add(w, " in front of what continues a word, ");
    lmi_words_piece(w, v->v.end_of_word_suffix);
    lmi_words_add(w, " behind its end");
}

static int take_affixes(struct lmi_vocab *v, const struct lmi_vocab *from, struct lm_err *e)
{
    (void)e;
    v->v.continuing_subword_prefix = from->v.continuing_subword_prefix;
    v->v.end_of_word_suffix = from->v.end_of_word_suffix;
    return 0;
}

static bool same_limit(const struct lmi_vocab *a, const struct lmi_vocab *b)
{
    return a->v.max_input_chars_per_word == b->v.max_input_chars_per_word;
}

static void text_limit(const struct lmi_vocab *v, struct lmi_words *w)
{
    lmi_words_add(w, "%zu", v->v.max_input_chars_per_word);
}

static int take_limit(struct lmi_vocab *v, const struct lmi_vocab *from, struct lm_err *e)
{
    (void)e;
    v->v.max_input_chars_per_word = from->v.max_input_chars_per_word;
    return 0;
}

/* ---- algorithm, decoder */

static bool same_algorithm(const struct lmi_vocab *a, const struct lmi_vocab *b)
{
    return a->v.algo == b->v.algo;
}

static void text_algorithm(const struct lmi_vocab *v, struct lmi_words *w)
{
    lmi_words_add(w, "%s", lm_vocab_algo_name(v->v.algo));
}

/* With stages of its own, a vocabulary that has none takes those too. */
static int take_algorithm(struct lmi_vocab *v, const struct lmi_vocab *from, struct lm_err *e)
{
    (void)e;
    v->v.algo = from->v.algo;
    v->ranked = from->ranked;
    v->hf = from->hf;
    v->metaspace = from->metaspace;
    v->spaced = from->spaced;
    if (v->v.normalizer.size + v->v.pre_tokenizer.size + v->v.decoder.size == 0) {
        v->v.normalizer = from->v.normalizer;
        v->v.pre_tokenizer = from->v.pre_tokenizer;
        v->v.decoder = from->v.decoder;
    }
    return 0;
}

static bool same_decoder(const struct lmi_vocab *a, const struct lmi_vocab *b)
{
    return same_json(a->v.decoder, b->v.decoder);
}

static void text_decoder(const struct lmi_vocab *v, struct lmi_words *w)
{
    put_text(w, v->v.decoder, "that of the kind of vocabulary");
}

static int take_decoder(struct lmi_vocab *v, const struct lmi_vocab *from, struct lm_err *e)
{
    (void)e;
    v->v.decoder = from->v.decoder;
    return 0;
}

/* ---- the table: what says least comes first, so that an explanation names the
 * smallest part that explains */

#define PART(n, stage) {#n, stage, same_##n, text_##n, NULL, take_##n}

static const struct lmi_part bos = {"add_bos", LM_STAGE_POST, same_bos, text_bos, NULL, take_bos};
static const struct lmi_part eos = {"add_eos", LM_STAGE_POST, same_eos, text_eos, NULL, take_eos};
static const struct lmi_part post = {"post_processor", LM_STAGE_POST, same_post, text_post, NULL, take_post};
static const struct lmi_part dummy_prefix = PART(add_dummy_prefix, LM_STAGE_PREFIX);
static const struct lmi_part every_part = PART(prefix_every_part, LM_STAGE_PREFIX);
static const struct lmi_part prefix_space = PART(add_prefix_space, LM_STAGE_PREFIX);
static const struct lmi_part suffix_space = PART(whitespace_as_suffix, LM_STAGE_PREFIX);
static const struct lmi_part spaces = PART(remove_extra_whitespaces, LM_STAGE_NORMALIZER);
static const struct lmi_part escape = PART(escape_whitespaces, LM_STAGE_NORMALIZER);
static const struct lmi_part nfc = PART(nfc, LM_STAGE_NORMALIZER);
static const struct lmi_part charsmap = PART(charsmap, LM_STAGE_NORMALIZER);
static const struct lmi_part normalizer = PART(normalizer, LM_STAGE_NORMALIZER);
static const struct lmi_part pre = {"pre_tokenizer", LM_STAGE_PRE, same_pre, text_pre, NULL, take_pre};
static const struct lmi_part fallback = PART(byte_fallback, LM_STAGE_UNKNOWN);
static const struct lmi_part fuse = PART(fuse_unk, LM_STAGE_UNKNOWN);
static const struct lmi_part unk = {"unk_token", LM_STAGE_UNKNOWN, same_unk, text_unk, NULL, take_unk};
static const struct lmi_part ignore = PART(ignore_merges, LM_STAGE_MERGES);
static const struct lmi_part affixes = {"subword_affixes", LM_STAGE_MERGES, same_affixes, text_affixes, NULL, take_affixes};
static const struct lmi_part limit = {"max_input_chars_per_word", LM_STAGE_UNKNOWN, same_limit, text_limit, NULL, take_limit};
static const struct lmi_part algorithm = PART(algorithm, LM_STAGE_MERGES);
static const struct lmi_part decoder = PART(decoder, LM_STAGE_DECODER);

static const struct lmi_part *const parts[] = {
    &bos, &eos, &post, &dummy_prefix, &every_part, &prefix_space, &suffix_space, &spaces, &escape, &nfc, &charsmap,
    &normalizer, &pre, &fallback, &fuse, &unk, &limit, &ignore, &affixes, &lmi_part_added, &lmi_part_scores,
    &lmi_part_merges, &lmi_part_kinds, &lmi_part_pieces, &algorithm, &decoder};

enum { N_PARTS = sizeof parts / sizeof *parts };

const struct lmi_part *lmi_part_at(size_t part)
{
    return parts[part];
}

_Static_assert(N_PARTS <= 64, "a set of parts is 64 bits");

size_t lm_vocab_n_parts(void)
{
    return N_PARTS;
}

const char *lm_vocab_part_name(size_t part)
{
    return part < N_PARTS ? parts[part]->name : "?";
}

enum lm_tok_stage lm_vocab_part_stage(size_t part)
{
    return part < N_PARTS ? parts[part]->stage : LM_N_STAGES;
}

const char *lm_tok_stage_name(enum lm_tok_stage s)
{
    static const char *const names[] = {
        [LM_STAGE_ADDED] = "added tokens",   [LM_STAGE_NORMALIZER] = "normalizer",    [LM_STAGE_PREFIX] = "dummy prefix",
        [LM_STAGE_PRE] = "pre-tokenizer",    [LM_STAGE_PIECES] = "pieces",            [LM_STAGE_MERGES] = "merges or scores",
        [LM_STAGE_UNKNOWN] = "byte fallback and unknown", [LM_STAGE_POST] = "post-processor", [LM_STAGE_DECODER] = "decoder"};

    return s < LM_N_STAGES ? names[s] : "?";
}

const char *lm_vocab_algo_name(enum lm_vocab_algo a)
{
    static const char *const names[] = {
        [LM_VOCAB_SPM_BPE] = "sentencepiece-bpe",   [LM_VOCAB_BYTE_BPE] = "byte-bpe",
        [LM_VOCAB_UNIGRAM] = "unigram",             [LM_VOCAB_WORDPIECE] = "wordpiece",
        [LM_VOCAB_WORDLEVEL] = "wordlevel",         [LM_VOCAB_SPM_WORD] = "sentencepiece-word",
        [LM_VOCAB_SPM_CHAR] = "sentencepiece-char", [LM_VOCAB_GREEDY] = "greedy"};

    return a < sizeof names / sizeof *names && names[a] ? names[a] : "?";
}

bool lm_vocab_part_same(const struct lm_vocab *a, const struct lm_vocab *b, size_t part)
{
    return parts[part]->same(lmi_vocab_of(a), lmi_vocab_of(b));
}

static char *finish_words(struct lmi_words *w)
{
    if (w->failed) {
        free(w->text);
        return NULL;
    }
    return w->text ? w->text : strdup("");
}

char *lm_vocab_part_text(const struct lm_vocab *v, size_t part)
{
    struct lmi_words w = {0};

    parts[part]->text(lmi_vocab_of(v), &w);
    return finish_words(&w);
}

char *lm_vocab_part_difference(const struct lm_vocab *a, const struct lm_vocab *b, size_t part, struct lm_span about)
{
    const struct lmi_part *p = parts[part];
    struct lmi_words w = {0};

    if (p->difference) {
        p->difference(lmi_vocab_of(a), lmi_vocab_of(b), about, &w);
        return finish_words(&w);
    }
    lmi_words_add(&w, "%s: ", p->name);
    p->text(lmi_vocab_of(a), &w);
    lmi_words_add(&w, " in A, ");
    p->text(lmi_vocab_of(b), &w);
    lmi_words_add(&w, " in B");
    return finish_words(&w);
}
