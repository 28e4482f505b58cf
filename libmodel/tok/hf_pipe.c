/* Reads the stages of a tokenizer.json into a pipeline. A stage is null, a step
 * {"type": …} or a Sequence of stages. Types that we do not know are refused by
 * name: leaving a step out would change ids without a word. */
#include <stdlib.h>

#include "libmodel/tok/base64.h"
#include "libmodel/tok/build.h"
#include "libmodel/tok/pipeline.h"
#include "libmodel/tok/unicode.h"

enum { MAX_NESTING = 8 };

struct reader {
    struct lmi_vocab *b;
    struct lmi_pipeline *p;
    struct lm_err *e;
};

static const char *type_of(const json_t *v)
{
    const char *s = json_string_value(json_object_get(v, "type"));

    return s ? s : "without a type";
}

static bool is(const json_t *v, const char *type)
{
    return strcmp(type_of(v), type) == 0;
}

static bool flag(const json_t *v, const char *key, bool absent)
{
    const json_t *f = json_object_get(v, key);

    return json_is_boolean(f) ? json_is_true(f) : absent;
}

static int copy_text(struct reader *r, struct lm_span s, struct lm_span *out)
{
    *out = lmi_vocab_copy(r->b, s);
    return out->data ? 0 : lmi_nomem_vocab(r->e);
}

static int get_text(struct reader *r, const json_t *v, const char *key, const char *absent, struct lm_span *out)
{
    struct lm_span s = lm_json_span(json_object_get(v, key));

    if (!s.data && !absent)
        return lm_err_set(r->e, LM_MALFORMED, "%s has no '%s'", type_of(v), key);
    return copy_text(r, s.data ? s : lm_span_str(absent), out);
}

static int get_character(struct reader *r, const json_t *v, const char *key, uint32_t *out)
{
    struct lm_span s = lm_json_span(json_object_get(v, key));

    if (s.size == 0 || lmi_char_at(s.data, s.size).width != s.size)
        return lm_err_set(r->e, LM_MALFORMED, "'%s' of %s is not one character", key, type_of(v));
    *out = lmi_char_at(s.data, s.size).cp;
    return 0;
}

static int get_count(struct reader *r, const json_t *v, const char *key, size_t *out)
{
    const json_t *n = json_object_get(v, key);

    if (!json_is_integer(n) || json_integer_value(n) < 0)
        return lm_err_set(r->e, LM_MALFORMED, "'%s' of %s is no count", key, type_of(v));
    *out = (size_t)json_integer_value(n);
    return 0;
}

static int get_pattern(struct reader *r, const json_t *v, struct lmi_pattern *out)
{
    const json_t *p = json_object_get(v, "pattern");
    struct lm_span regex = lm_json_span(json_object_get(p, "Regex")), text = lm_json_span(json_object_get(p, "String"));

    if (regex.data)
        return lmi_regex_new(&out->regex, regex, r->e);
    if (!text.data)
        return lm_err_set(r->e, LM_MALFORMED, "%s has no pattern", type_of(v));
    return copy_text(r, text, &out->literal);
}

/* Calls step for every step of a stage, in order. */
static int walk(struct reader *r, const json_t *v, const char *list, int (*step)(struct reader *r, const json_t *v), int depth)
{
    if (!v || json_is_null(v))
        return 0;
    if (!is(v, "Sequence"))
        return step(r, v);
    const json_t *items = json_object_get(v, list);
    if (!json_is_array(items))
        return lm_err_set(r->e, LM_MALFORMED, "a Sequence has no array '%s'", list);
    if (depth == MAX_NESTING)
        return lm_err_set(r->e, LM_LIMIT, "Sequences nested deeper than %d levels", MAX_NESTING);
    for (size_t i = 0; i < json_array_size(items); i++)
        if (walk(r, json_array_get(items, i), list, step, depth + 1) < 0)
            return -1;
    return 0;
}

static int too_many(struct reader *r)
{
    return lm_err_set(r->e, LM_LIMIT, "more than %d steps in a stage", LMI_MAX_STAGE);
}

/* ---- normalizer */

static struct lmi_norm_step *add_norm(struct reader *r, enum lmi_norm_kind kind)
{
    if (r->p->n_norm == LMI_MAX_STAGE) {
        too_many(r);
        return NULL;
    }
    struct lmi_norm_step *s = &r->p->norm[r->p->n_norm++];
    s->kind = kind;
    return s;
}

static int bert_normalizer(struct reader *r, const json_t *v)
{
    bool lowercase = flag(v, "lowercase", true), clean = flag(v, "clean_text", true);
    bool chinese = flag(v, "handle_chinese_chars", true), accents = flag(v, "strip_accents", lowercase);

    if ((clean && !add_norm(r, LMI_NORM_BERT_CLEAN)) || (chinese && !add_norm(r, LMI_NORM_BERT_HAN)) ||
        (accents && (!add_norm(r, LMI_NORM_NFD) || !add_norm(r, LMI_NORM_BERT_ACCENTS))) ||
        (lowercase && !add_norm(r, LMI_NORM_LOWERCASE)))
        return -1;
    return 0;
}

static int precompiled(struct reader *r, const json_t *v, struct lmi_norm_step *s)
{
    struct lm_span text = lm_json_span(json_object_get(v, "precompiled_charsmap"));
    uint8_t *bytes = lm_arena_alloc(&r->b->arena, lmi_base64_room(text.size));

    if (!bytes)
        return lmi_nomem_vocab(r->e);
    int64_t n = text.data ? lmi_base64_decode(text, bytes) : -1;
    if (n < 0)
        return lm_err_set(r->e, LM_MALFORMED, "precompiled_charsmap is no base64");
    r->b->v.charsmap = lm_span_of(bytes, (size_t)n);
    return lmi_charsmap_open(&s->charsmap, lm_span_of(bytes, (size_t)n), r->e);
}

static int simple_norm(struct reader *r, const json_t *v)
{
    static const struct {
        const char *type;
        enum lmi_norm_kind kind;
    } simple[] = {{"NFC", LMI_NORM_NFC},           {"NFD", LMI_NORM_NFD},
                  {"NFKC", LMI_NORM_NFKC},         {"NFKD", LMI_NORM_NFKD},
                  {"Lowercase", LMI_NORM_LOWERCASE}, {"StripAccents", LMI_NORM_STRIP_ACCENTS},
                  {"Nmt", LMI_NORM_NMT},           {"ByteLevel", LMI_NORM_BYTE_LEVEL}};

    for (size_t i = 0; i < sizeof simple / sizeof *simple; i++)
        if (is(v, simple[i].type))
            return add_norm(r, simple[i].kind) ? 0 : -1;
    return lm_err_set(r->e, LM_UNSUPPORTED, "the normalizer %s is not handled", type_of(v));
}

static int norm_step(struct reader *r, const json_t *v)
{
    struct lmi_norm_step *s;

    if (is(v, "BertNormalizer"))
        return bert_normalizer(r, v);
    if (is(v, "Replace")) {
        if (!(s = add_norm(r, LMI_NORM_REPLACE)) || get_pattern(r, v, &s->pattern) < 0)
            return -1;
        return get_text(r, v, "content", NULL, &s->content);
    }
    if (is(v, "Prepend"))
        return (s = add_norm(r, LMI_NORM_PREPEND)) ? get_text(r, v, "prepend", NULL, &s->content) : -1;
    if (is(v, "Strip")) {
        if (!(s = add_norm(r, LMI_NORM_STRIP)))
            return -1;
        s->left = flag(v, "strip_left", true);
        s->right = flag(v, "strip_right", true);
        return 0;
    }
    if (is(v, "Precompiled"))
        return (s = add_norm(r, LMI_NORM_PRECOMPILED)) ? precompiled(r, v, s) : -1;
    return simple_norm(r, v);
}

/* ---- pre-tokenizer */

static struct lmi_split_step *add_split(struct reader *r, enum lmi_split_kind kind, enum lmi_behavior behavior)
{
    if (r->p->n_split == LMI_MAX_STAGE) {
        too_many(r);
        return NULL;
    }
    struct lmi_split_step *s = &r->p->split[r->p->n_split++];
    s->kind = kind;
    s->behavior = behavior;
    return s;
}

static int add_class(struct reader *r, unsigned classes, enum lmi_behavior behavior)
{
    struct lmi_split_step *s = add_split(r, LMI_SPLIT_CLASS, behavior);

    if (s)
        s->classes = classes;
    return s ? 0 : -1;
}

static int get_behavior(struct reader *r, const json_t *v, const char *absent, enum lmi_behavior *out)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *name = json_string_value(json_object_get(v, "behavior"));

    name = name ? name : absent;
    for (int i = 0; name && i < 5; i++)
        if (strcmp(names[i], name) == 0) {
            *out = (enum lmi_behavior)i;
            return 0;
        }
    return lm_err_set(r->e, LM_UNSUPPORTED, "the behavior '%s' of %s is not handled", name ? name : "(none)", type_of(v));
}

static int split(struct reader *r, const json_t *v)
{
    struct lmi_split_step *s = add_split(r, LMI_SPLIT_PATTERN, LMI_ISOLATED);

    if (!s || get_pattern(r, v, &s->pattern) < 0)
        return -1;
    s->invert = flag(v, "invert", false);
    return get_behavior(r, v, NULL, &s->behavior);
}

static int byte_level(struct reader *r, const json_t *v)
{
    struct lmi_split_step *s = add_split(r, LMI_SPLIT_BYTE_LEVEL, LMI_ISOLATED);

    if (!s)
        return -1;
    s->prefix = flag(v, "add_prefix_space", true);
    s->use_regex = flag(v, "use_regex", true);
    return s->use_regex ? lmi_regex_new(&s->pattern.regex, lm_span_str(lmi_re_gpt2), r->e) : 0;
}

static int metaspace(struct reader *r, const json_t *v)
{
    struct lmi_split_step *s = add_split(r, LMI_SPLIT_METASPACE, LMI_MERGED_WITH_NEXT);
    const char *scheme = json_string_value(json_object_get(v, "prepend_scheme"));

    if (!s || get_character(r, v, "replacement", &s->character) < 0)
        return -1;
    if (!scheme)
        scheme = flag(v, "add_prefix_space", true) ? "always" : "never";
    s->prepend = strcmp(scheme, "always") == 0 ? LMI_ALWAYS : strcmp(scheme, "first") == 0 ? LMI_FIRST : LMI_NEVER;
    s->split = flag(v, "split", true);
    r->p->needs_origin |= s->prepend == LMI_FIRST;
    return 0;
}

static int split_step(struct reader *r, const json_t *v)
{
    struct lmi_split_step *s;
    enum lmi_behavior behavior;

    if (is(v, "Split"))
        return split(r, v);
    if (is(v, "ByteLevel"))
        return byte_level(r, v);
    if (is(v, "Metaspace"))
        return metaspace(r, v);
    if (is(v, "Whitespace"))
        return add_split(r, LMI_SPLIT_WORDS, LMI_ISOLATED) ? 0 : -1;
    if (is(v, "WhitespaceSplit"))
        return add_class(r, LMI_SPACE, LMI_REMOVED);
    if (is(v, "Digits"))
        return add_class(r, LMI_NUMERIC, flag(v, "individual_digits", false) ? LMI_ISOLATED : LMI_CONTIGUOUS);
    if (is(v, "Punctuation"))
        return get_behavior(r, v, "Isolated", &behavior) < 0 ? -1 : add_class(r, LMI_PUNCT, behavior);
    if (is(v, "BertPreTokenizer"))
        return add_class(r, LMI_SPACE, LMI_REMOVED) < 0 ? -1 : add_class(r, LMI_PUNCT, LMI_ISOLATED);
    if (is(v, "UnicodeScripts"))
        return add_split(r, LMI_SPLIT_SCRIPTS, LMI_ISOLATED) ? 0 : -1;
    if (is(v, "CharDelimiterSplit"))
        return (s = add_split(r, LMI_SPLIT_CHAR, LMI_REMOVED)) ? get_character(r, v, "delimiter", &s->character) : -1;
    if (is(v, "FixedLength")) {
        if (!(s = add_split(r, LMI_SPLIT_LENGTH, LMI_ISOLATED)) || get_count(r, v, "length", &s->length) < 0)
            return -1;
        return s->length > 0 ? 0 : lm_err_set(r->e, LM_MALFORMED, "FixedLength of no characters");
    }
    return lm_err_set(r->e, LM_UNSUPPORTED, "the pre-tokenizer %s is not handled", type_of(v));
}

/* ---- decoder */

static struct lmi_decode_step *add_decode(struct reader *r, enum lmi_decode_kind kind)
{
    if (r->p->n_decode == LMI_MAX_STAGE) {
        too_many(r);
        return NULL;
    }
    struct lmi_decode_step *s = &r->p->decode[r->p->n_decode++];
    s->kind = kind;
    return s;
}

static int decode_with_text(struct reader *r, const json_t *v, struct lmi_decode_step *s)
{
    const char *scheme = json_string_value(json_object_get(v, "prepend_scheme"));

    switch (s->kind) {
    case LMI_DECODE_WORDPIECE:
        s->cleanup = flag(v, "cleanup", true);
        return get_text(r, v, "prefix", "##", &s->text);
    case LMI_DECODE_BPE:
        return get_text(r, v, "suffix", "</w>", &s->text);
    case LMI_DECODE_CTC:
        s->cleanup = flag(v, "cleanup", true);
        return get_text(r, v, "pad_token", "<pad>", &s->text) < 0
                   ? -1 : get_text(r, v, "word_delimiter_token", "|", &s->delimiter);
    case LMI_DECODE_METASPACE:
        s->keep_first = scheme ? strcmp(scheme, "never") == 0 : !flag(v, "add_prefix_space", true);
        return get_character(r, v, "replacement", &s->character);
    case LMI_DECODE_STRIP:
        return get_character(r, v, "content", &s->character) < 0 || get_count(r, v, "start", &s->start) < 0
                   ? -1 : get_count(r, v, "stop", &s->stop);
    case LMI_DECODE_REPLACE:
        return get_pattern(r, v, &s->pattern) < 0 ? -1 : get_text(r, v, "content", NULL, &s->text);
    default:
        return 0;
    }
}

static int decode_step(struct reader *r, const json_t *v)
{
    static const char *const names[] = {
        [LMI_DECODE_BYTE_LEVEL] = "ByteLevel", [LMI_DECODE_WORDPIECE] = "WordPiece", [LMI_DECODE_METASPACE] = "Metaspace",
        [LMI_DECODE_BPE] = "BPEDecoder",       [LMI_DECODE_FUSE] = "Fuse",           [LMI_DECODE_STRIP] = "Strip",
        [LMI_DECODE_REPLACE] = "Replace",      [LMI_DECODE_BYTE_FALLBACK] = "ByteFallback", [LMI_DECODE_CTC] = "CTC",
    };

    for (int i = 0; i < (int)(sizeof names / sizeof *names); i++)
        if (is(v, names[i])) {
            struct lmi_decode_step *s = add_decode(r, (enum lmi_decode_kind)i);
            return s ? decode_with_text(r, v, s) : -1;
        }
    return lm_err_set(r->e, LM_UNSUPPORTED, "the decoder %s is not handled", type_of(v));
}

/* ---- all */

int lmi_pipeline_read(struct lmi_vocab *b, const struct lmi_stages *s, struct lm_err *e)
{
    struct lmi_pipeline *p = calloc(1, sizeof *p);
    struct reader r = {b, p, e};

    lmi_pipeline_free(b->pipeline);
    b->pipeline = p;
    if (!p)
        return lmi_nomem_vocab(e);
    p->has_decoder = s->decoder && !json_is_null(s->decoder);
    if (walk(&r, s->normalizer, "normalizers", norm_step, 0) < 0 ||
        walk(&r, s->pre_tokenizer, "pretokenizers", split_step, 0) < 0)
        return -1;
    return walk(&r, s->decoder, "decoders", decode_step, 0);
}

void lmi_pipeline_free(struct lmi_pipeline *p)
{
    for (size_t i = 0; p && i < LMI_MAX_STAGE; i++) {
        lmi_regex_free(p->norm[i].pattern.regex);
        lmi_regex_free(p->split[i].pattern.regex);
        lmi_regex_free(p->decode[i].pattern.regex);
    }
    free(p);
}
