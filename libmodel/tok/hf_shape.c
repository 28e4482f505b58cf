/* Do the stages of a tokenizer.json ask for what the fast engines do? Those are
 * GPT-2's family (byte_bpe.c: nothing or NFC, regexes whose matches are isolated,
 * bytes last) and conversions of SentencePiece's BPE (spm_bpe.c: spaces become
 * U+2581, one in front). Ids must be the same in every case; where that is not
 * certain, the stages are executed one by one. */
#include "libmodel/tok/build.h"
#include "libmodel/tok/pipeline.h"
#include "libmodel/tok/unicode.h"

static bool is(const json_t *v, const char *type)
{
    const char *s = json_string_value(json_object_get(v, "type"));

    return s && strcmp(s, type) == 0;
}

static bool text_is(const json_t *v, const char *key, const char *expected)
{
    return lm_span_eq(lm_json_span(json_object_get(v, key)), lm_span_str(expected));
}

static bool flag(const json_t *v, const char *key, bool absent)
{
    const json_t *f = json_object_get(v, key);

    return json_is_boolean(f) ? json_is_true(f) : absent;
}

/* The i-th step of a stage that is a step or a flat Sequence; NULL past the last. */
static const json_t *step(const json_t *stage, const char *list, size_t i)
{
    if (!stage || json_is_null(stage))
        return NULL;
    return is(stage, "Sequence") ? json_array_get(json_object_get(stage, list), i) : i == 0 ? stage : NULL;
}

/* {"String": s} or {"Regex": s}; data NULL when it is neither. */
static struct lm_span pattern_of(const json_t *v, bool *is_regex)
{
    const json_t *p = json_object_get(v, "pattern");
    struct lm_span s = lm_json_span(json_object_get(p, "Regex"));

    *is_regex = s.data != NULL;
    return s.data ? s : lm_json_span(json_object_get(p, "String"));
}

/* ---- byte-level */

static bool add_regex(struct lmi_vocab *b, struct lm_span regex)
{
    struct lm_span old = b->v.pre_pattern;
    size_t n = old.size + (old.data != NULL);
    uint8_t *p = regex.size == 0 || memchr(regex.data, 0, regex.size) ? NULL
                                                                      : lm_arena_alloc(&b->arena, n + regex.size + 1);

    if (!p)
        return false;
    if (old.size)
        memcpy(p, old.data, old.size);
    memcpy(p + n, regex.data, regex.size);
    b->v.pre_pattern = lm_span_of(p, n + regex.size);
    return true;
}

/* A literal as a regex: every ASCII mark escaped. */
static struct lm_span quote(struct lmi_vocab *b, struct lm_span s)
{
    uint8_t *out = lm_arena_alloc(&b->arena, 2 * s.size + 1);
    size_t n = 0;

    for (size_t i = 0; out && i < s.size; i++) {
        uint8_t c = s.data[i];
        if (c > ' ' && c < 0x7f && !(c >= '0' && c <= '9') && !((c | 32) >= 'a' && (c | 32) <= 'z'))
            out[n++] = '\\';
        out[n++] = c;
    }
    return lm_span_of(out, n);
}

/* Keeping only the matches is isolating them when they cover the text. */
static bool split_shape(struct lmi_vocab *b, const json_t *p)
{
    bool regex, invert = flag(p, "invert", false);
    struct lm_span s = pattern_of(p, &regex);

    if (s.data && !regex)
        s = quote(b, s);
    if (!s.data)
        return false;
    bool isolated = text_is(p, "behavior", "Isolated") && !invert;
    bool kept = invert && text_is(p, "behavior", "Removed") && lmi_pre_covers(s);
    return (isolated || kept) && add_regex(b, s);
}

static bool byte_level_shape(struct lmi_vocab *b, const json_t *p)
{
    bool prefix = flag(p, "add_prefix_space", true);

    if (prefix && b->v.pre_pattern.data)
        return false;
    b->v.add_prefix_space = prefix;
    return !flag(p, "use_regex", true) || add_regex(b, lm_span_str(lmi_re_gpt2));
}

static bool byte_pre_shape(struct lmi_vocab *b, const json_t *stage)
{
    const json_t *p;

    for (size_t i = 0; (p = step(stage, "pretokenizers", i)) != NULL; i++) {
        if (is(p, "ByteLevel"))
            return byte_level_shape(b, p) && !step(stage, "pretokenizers", i + 1);
        if (is(p, "Digits")) {
            if (!add_regex(b, lm_span_str(flag(p, "individual_digits", false) ? lmi_re_digit : lmi_re_digits)))
                return false;
        } else if (!is(p, "Split") || !split_shape(b, p)) {
            return false;
        }
    }
    return false;
}

/* Without a piece for every byte, what stands beside a missing one matters. */
static bool has_all_letters(const struct lmi_vocab *b)
{
    for (unsigned byte = 0; byte < 256; byte++) {
        uint8_t letter[4];
        if (lmi_texts_get(&b->texts, lm_span_of(letter, lmi_utf8_put(lmi_byte_letter((uint8_t)byte), letter))) == LMI_NONE)
            return false;
    }
    return true;
}

static bool byte_shape(struct lmi_vocab *b, const struct lmi_stages *s)
{
    const json_t *normalizer = step(s->normalizer, "normalizers", 0);

    if (b->v.byte_fallback || (normalizer && !is(normalizer, "NFC")) || step(s->normalizer, "normalizers", 1) ||
        !byte_pre_shape(b, s->pre_tokenizer) || !has_all_letters(b))
        return false;
    b->v.algo = LM_VOCAB_BYTE_BPE;
    b->v.nfc = normalizer != NULL;
    return true;
}

/* ---- SentencePiece-style */

static bool is_mark_replacement(const json_t *n)
{
    bool regex;
    struct lm_span s = pattern_of(n, &regex);

    return is(n, "Replace") && !regex && lm_span_eq(s, lm_span_str(" ")) && text_is(n, "content", LMI_SPACE_MARK);
}

static bool spm_normalizer_shape(struct lmi_vocab *b, const json_t *stage)
{
    const json_t *first = step(stage, "normalizers", 0), *second = step(stage, "normalizers", 1);
    bool prepend = first && is(first, "Prepend") && text_is(first, "prepend", LMI_SPACE_MARK);

    if (!first)
        return true;
    b->v.add_dummy_prefix = b->v.prefix_every_part = prepend;
    b->v.escape_whitespaces = true;
    return is_mark_replacement(prepend ? second : first) && !step(stage, "normalizers", prepend ? 2 : 1);
}

/* Metaspace puts the prefix only before a text that does not begin with a space. */
static bool metaspace_shape(struct lmi_vocab *b, const json_t *p)
{
    const char *scheme = json_string_value(json_object_get(p, "prepend_scheme"));

    if (!is(p, "Metaspace") || !text_is(p, "replacement", LMI_SPACE_MARK) || flag(p, "split", true) ||
        b->v.escape_whitespaces)
        return false;
    if (!scheme)
        scheme = flag(p, "add_prefix_space", true) ? "always" : "never";
    b->metaspace = b->v.escape_whitespaces = true;
    b->v.add_prefix_space = strcmp(scheme, "never") != 0;
    b->v.prefix_every_part = strcmp(scheme, "always") == 0;
    return true;
}

static bool spm_pre_shape(struct lmi_vocab *b, const json_t *stage)
{
    const json_t *p = step(stage, "pretokenizers", 0);
    bool regex;

    if (!p)
        return true;
    if (step(stage, "pretokenizers", 1))
        return false;
    /* Gemma: a split at spaces that the normalizer has replaced already. */
    if (is(p, "Split") && b->v.escape_whitespaces && !flag(p, "invert", false) &&
        lm_span_eq(pattern_of(p, &regex), lm_span_str(" ")) && !regex)
        return true;
    return metaspace_shape(b, p);
}

/* Every unknown character must become bytes, and those stay apart. */
static bool falls_back_to_bytes(struct lmi_vocab *b)
{
    size_t n = 0;

    for (size_t i = 0; i < b->v.n_pieces; i++)
        n += lmi_byte_piece(b->pieces[i].text) >= 0;
    for (size_t i = 0; i < b->v.n_merges; i++)
        if (lmi_byte_piece(b->pieces[b->merges[i].left].text) >= 0 || lmi_byte_piece(b->pieces[b->merges[i].right].text) >= 0)
            return false;
    return b->v.byte_fallback && n == 256;
}

static bool spm_shape(struct lmi_vocab *b, const struct lmi_stages *s)
{
    if (b->v.ignore_merges || !spm_normalizer_shape(b, s->normalizer) || !spm_pre_shape(b, s->pre_tokenizer) ||
        !b->v.escape_whitespaces || !falls_back_to_bytes(b))
        return false;
    b->v.algo = LM_VOCAB_SPM_BPE;
    b->ranked = true;
    for (size_t i = 0; i < b->v.n_pieces; i++)
        if (lmi_byte_piece(b->pieces[i].text) >= 0)
            b->pieces[i].kind = LM_PIECE_BYTE;
    if (b->v.unk_id >= 0)
        b->pieces[b->v.unk_id].kind = LM_PIECE_UNKNOWN;
    lmi_vocab_scores_from_merges(b);
    return true;
}

/* ---- decoder */

static bool byte_decoder(const struct lmi_pipeline *p)
{
    return p->n_decode == 1 && p->decode[0].kind == LMI_DECODE_BYTE_LEVEL;
}

/* Replace U+2581, ByteFallback, Fuse, and Strip where a prefix was put. */
static bool spm_decoder(const struct lmi_vocab *b)
{
    static const enum lmi_decode_kind kinds[] = {LMI_DECODE_REPLACE, LMI_DECODE_BYTE_FALLBACK, LMI_DECODE_FUSE,
                                                 LMI_DECODE_STRIP};
    const struct lmi_decode_step *d = b->pipeline->decode;
    bool strip = b->v.add_dummy_prefix || b->v.add_prefix_space;

    if (b->pipeline->n_decode != (strip ? 4 : 3))
        return false;
    for (size_t i = 0; i < b->pipeline->n_decode; i++)
        if (d[i].kind != kinds[i])
            return false;
    return lm_span_eq(d[0].pattern.literal, lm_span_str(LMI_SPACE_MARK)) && lm_span_eq(d[0].text, lm_span_str(" ")) &&
           (!strip || (d[3].character == ' ' && d[3].start == 1 && d[3].stop == 0));
}

/* ---- all */

int lmi_hf_stages(struct lmi_vocab *b, const struct lmi_stages *s, struct lm_err *e)
{
    struct lmi_vocab as_read = *b;
    bool bpe = b->v.algo == LM_VOCAB_BPE, plain = b->v.continuing_subword_prefix.size + b->v.end_of_word_suffix.size == 0;

    if (lmi_pipeline_read(b, s, e) < 0)
        return -1;
    as_read.pipeline = b->pipeline;
    as_read.arena = b->arena;
    as_read.v.charsmap = b->v.charsmap;
    bool fast = bpe && plain && byte_shape(b, s);
    if (!fast) {
        as_read.arena = b->arena;
        *b = as_read;
        fast = bpe && plain && spm_shape(b, s);
    }
    if (!fast) {
        as_read.arena = b->arena;
        *b = as_read;
        b->staged = true;
    }
    bool usual = b->v.algo == LM_VOCAB_BYTE_BPE ? byte_decoder(b->pipeline) : spm_decoder(b);
    b->chained = b->staged || (b->pipeline->has_decoder && !usual);
    if (b->v.algo == LM_VOCAB_BYTE_BPE) {
        const struct lmi_pre_name *name = lmi_pre_match(b->v.pre_pattern, b->v.ignore_merges);
        b->v.pre = name ? name->name : "";
    }
    return 0;
}
