/* The parts of tokenizer.json around its model: normalizer, pre-tokenizer,
 * added tokens, post-processor. Each is a tree of {"type": …}; we translate
 * what we execute exactly and refuse the rest by its type. */
#include "libmodel/tok/build.h"
#include "libmodel/tok/pretok.h"

static const char *type_of(const json_t *v)
{
    const char *s = json_string_value(json_object_get(v, "type"));

    return s ? s : "without a type";
}

static bool is(const json_t *v, const char *type)
{
    return strcmp(type_of(v), type) == 0;
}

static bool text_is(const json_t *v, const char *key, const char *expected)
{
    return lm_span_eq(lm_json_span(json_object_get(v, key)), lm_span_str(expected));
}

/* Tokenizers' booleans are often absent and then true. */
static bool flag(const json_t *v, const char *key, bool absent)
{
    const json_t *f = json_object_get(v, key);

    return json_is_boolean(f) ? json_is_true(f) : absent;
}

/* {"String": s} as a quoted regex or {"Regex": s}; data NULL when it is neither. */
static struct lm_span regex_of(const json_t *pattern, bool *is_regex)
{
    struct lm_span s = lm_json_span(json_object_get(pattern, "Regex"));

    *is_regex = s.data != NULL;
    return s.data ? s : lm_json_span(json_object_get(pattern, "String"));
}

/* ---- normalizer */

static int bad_normalizer(const json_t *n, struct lm_err *e)
{
    return lm_err_set(e, LM_UNSUPPORTED, "the normalizer %s is not handled for this kind of vocabulary", type_of(n));
}

static int one_normalizer(struct lmi_vocab *b, const json_t *n, struct lm_err *e)
{
    bool bytes = b->v.algo == LM_VOCAB_BYTE_BPE, regex;

    if (bytes) {
        if (!is(n, "NFC"))
            return bad_normalizer(n, e);
        b->v.nfc = true;
        return 0;
    }
    if (is(n, "Prepend") && text_is(n, "prepend", LMI_SPACE_MARK)) {
        b->v.add_dummy_prefix = b->v.prefix_every_part = true;
        return 0;
    }
    struct lm_span s = regex_of(json_object_get(n, "pattern"), &regex);
    if (is(n, "Replace") && !regex && lm_span_eq(s, lm_span_str(" ")) && text_is(n, "content", LMI_SPACE_MARK)) {
        b->v.escape_whitespaces = true;
        return 0;
    }
    return bad_normalizer(n, e);
}

int lmi_hf_normalizer(struct lmi_vocab *b, const json_t *n, struct lm_err *e)
{
    if (!n || json_is_null(n))
        return 0;
    if (!is(n, "Sequence"))
        return one_normalizer(b, n, e);
    const json_t *list = json_object_get(n, "normalizers");
    for (size_t i = 0; i < json_array_size(list); i++)
        if (one_normalizer(b, json_array_get(list, i), e) < 0)
            return -1;
    return 0;
}

/* ---- pre-tokenizer */

static int bad_pre(const json_t *p, const char *why, struct lm_err *e)
{
    return lm_err_set(e, LM_UNSUPPORTED, "the pre-tokenizer %s%s is not handled for this kind of vocabulary",
                      type_of(p), why);
}

static int add_step(struct lmi_vocab *b, struct lm_span regex, struct lm_err *e)
{
    struct lm_span old = b->v.pre_pattern;
    size_t n = old.size + (old.data != NULL);
    uint8_t *p = lm_arena_alloc(&b->arena, n + regex.size + 1);

    if (!p)
        return lmi_nomem_vocab(e);
    if (regex.size == 0 || memchr(regex.data, 0, regex.size))
        return lm_err_set(e, LM_UNSUPPORTED, "a Split pattern is empty or holds NUL, which is not handled");
    if (old.size)
        memcpy(p, old.data, old.size);
    memcpy(p + n, regex.data, regex.size);
    b->v.pre_pattern = lm_span_of(p, n + regex.size);
    return 0;
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

static int split_step(struct lmi_vocab *b, const json_t *p, struct lm_err *e)
{
    bool regex, invert = flag(p, "invert", false);
    struct lm_span s = regex_of(json_object_get(p, "pattern"), &regex);

    if (!s.data)
        return lm_err_set(e, LM_MALFORMED, "a Split pre-tokenizer has no pattern");
    if (!regex)
        s = quote(b, s);
    if (!s.data)
        return lmi_nomem_vocab(e);
    /* Keeping only the matches is isolating them when they cover the text. */
    bool isolated = text_is(p, "behavior", "Isolated"), removed = text_is(p, "behavior", "Removed") && invert;
    if (!isolated && !(removed && lmi_pre_covers(s)))
        return bad_pre(p, " with this behavior", e);
    return add_step(b, s, e);
}

/* Metaspace puts the prefix only before a text that does not begin with a space. */
static int metaspace(struct lmi_vocab *b, const json_t *p, struct lm_err *e)
{
    const char *scheme = json_string_value(json_object_get(p, "prepend_scheme"));

    if (!text_is(p, "replacement", LMI_SPACE_MARK))
        return bad_pre(p, " with another replacement than U+2581", e);
    if (flag(p, "split", true))
        return bad_pre(p, " with split", e);
    if (!scheme)
        scheme = flag(p, "add_prefix_space", true) ? "always" : "never";
    if (b->v.escape_whitespaces || b->v.add_dummy_prefix)
        return bad_pre(p, " after a normalizer", e);
    b->metaspace = b->v.escape_whitespaces = true;
    b->v.add_prefix_space = strcmp(scheme, "never") != 0;
    b->v.prefix_every_part = strcmp(scheme, "always") == 0;
    return 0;
}

static int byte_level(struct lmi_vocab *b, const json_t *p, struct lm_err *e)
{
    bool prefix = flag(p, "add_prefix_space", true);

    if (prefix && b->v.pre_pattern.data)
        return bad_pre(p, " with add_prefix_space after another split", e);
    b->v.add_prefix_space = prefix;
    return flag(p, "use_regex", true) ? add_step(b, lm_span_str(lmi_re_gpt2), e) : 0;
}

static int one_pre(struct lmi_vocab *b, const json_t *p, bool last, struct lm_err *e)
{
    if (b->v.algo == LM_VOCAB_SPM_BPE) {
        /* Gemma: a split at spaces that the normalizer has replaced already. */
        bool regex;
        struct lm_span s = regex_of(json_object_get(p, "pattern"), &regex);
        if (is(p, "Split") && !regex && lm_span_eq(s, lm_span_str(" ")))
            return 0;
        return is(p, "Metaspace") ? metaspace(b, p, e) : bad_pre(p, "", e);
    }
    if (is(p, "Split"))
        return split_step(b, p, e);
    if (is(p, "Digits"))
        return add_step(b, lm_span_str(flag(p, "individual_digits", false) ? lmi_re_digit : lmi_re_digits), e);
    if (is(p, "ByteLevel"))
        return last ? byte_level(b, p, e) : bad_pre(p, " before others", e);
    return bad_pre(p, "", e);
}

int lmi_hf_pre_tokenizer(struct lmi_vocab *b, const json_t *p, struct lm_err *e)
{
    if (!p || json_is_null(p))
        return 0;
    if (!is(p, "Sequence"))
        return one_pre(b, p, true, e);
    const json_t *list = json_object_get(p, "pretokenizers");
    size_t n = json_array_size(list);
    for (size_t i = 0; i < n; i++)
        if (one_pre(b, json_array_get(list, i), i + 1 == n, e) < 0)
            return -1;
    return 0;
}

/* ---- added tokens */

int lmi_hf_added_token(struct lmi_vocab *b, size_t id, const json_t *object, struct lm_err *e)
{
    struct lm_span content = lm_json_span(json_object_get(object, "content"));

    if (content.size == 0)
        return lm_err_set(e, LM_MALFORMED, "added token %zu has no content", id);
    struct lm_piece *p = lmi_vocab_piece(b, id);
    struct lm_span text = p ? lmi_vocab_copy(b, content) : (struct lm_span){NULL, 0};
    if (!text.data)
        return lmi_nomem_vocab(e);
    bool special = flag(object, "special", false), same = lm_span_eq(p->text, content);
    p->in_model = same && p->in_model;
    p->text = text;
    /* <unk> and <0x41> stay what the model says they are. */
    if (!same || (p->kind != LM_PIECE_UNKNOWN && p->kind != LM_PIECE_BYTE))
        p->kind = special ? LM_PIECE_CONTROL : LM_PIECE_USER_DEFINED;
    p->added = true;
    p->special = special;
    p->lstrip = flag(object, "lstrip", false);
    p->rstrip = flag(object, "rstrip", false);
    p->single_word = flag(object, "single_word", false);
    p->normalized = flag(object, "normalized", !special);
    return 0;
}

int lmi_hf_added_tokens(struct lmi_vocab *b, const json_t *list, struct lm_err *e)
{
    json_int_t limit = 2 * (json_int_t)(b->v.n_pieces + json_array_size(list)) + 4096;

    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *t = json_array_get(list, i), *value = json_object_get(t, "id");
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id >= limit)
            return lm_err_set(e, LM_MALFORMED, "the id of added token %zu is no number from 0 to %lld", i,
                              (long long)limit - 1);
        bool taken = (size_t)id < b->v.n_pieces && b->pieces[id].text.data &&
                     !lm_span_eq(b->pieces[id].text, lm_json_span(json_object_get(t, "content")));
        if (taken)
            return lm_err_set(e, LM_MALFORMED, "added token %zu has the id %lld, which another piece has", i, (long long)id);
        if (lmi_hf_added_token(b, (size_t)id, t, e) < 0)
            return -1;
    }
    return 0;
}

/* ---- post-processor */

/* The id of a template's special token; -1 with a message. */
static int64_t template_id(const json_t *post, const json_t *item, struct lm_err *e)
{
    const char *name = json_string_value(json_object_get(json_object_get(item, "SpecialToken"), "id"));
    const json_t *entry = name ? json_object_get(json_object_get(post, "special_tokens"), name) : NULL;
    const json_t *ids = json_object_get(entry, "ids");

    if (json_array_size(ids) == 1 && json_is_integer(json_array_get(ids, 0)))
        return json_integer_value(json_array_get(ids, 0));
    return lm_err_set(e, LM_UNSUPPORTED, "the post-processor's special token '%s' is not one id", name ? name : "?");
}

static int template_processing(struct lmi_vocab *b, const json_t *post, struct lm_err *e)
{
    const json_t *single = json_object_get(post, "single");
    size_t n_before = 0, n_after = 0;
    bool seen_text = false;

    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i);
        if (json_object_get(item, "Sequence")) {
            seen_text = true;
            continue;
        }
        int64_t id = template_id(post, item, e);
        if (id < 0)
            return -1;
        *(seen_text ? &b->v.eos_id : &b->v.bos_id) = id;
        n_before += !seen_text;
        n_after += seen_text;
    }
    if (n_before > 1 || n_after > 1)
        return lm_err_set(e, LM_UNSUPPORTED, "the post-processor adds %zu tokens before and %zu after a text; one and "
                                             "one are handled", n_before, n_after);
    b->v.add_bos = n_before == 1;
    b->v.add_eos = n_after == 1;
    return 0;
}

/* RoBERTa's and BERT's: cls text sep, as pairs [text, id]. */
static int pair_processing(struct lmi_vocab *b, const json_t *post, struct lm_err *e)
{
    const json_t *cls = json_array_get(json_object_get(post, "cls"), 1);
    const json_t *sep = json_array_get(json_object_get(post, "sep"), 1);

    if (!json_is_integer(cls) || !json_is_integer(sep))
        return lm_err_set(e, LM_MALFORMED, "the post-processor %s has no ids", type_of(post));
    b->v.bos_id = json_integer_value(cls);
    b->v.eos_id = json_integer_value(sep);
    b->v.add_bos = b->v.add_eos = true;
    return 0;
}

static int one_post(struct lmi_vocab *b, const json_t *post, struct lm_err *e)
{
    if (is(post, "ByteLevel"))
        return 0; /* only trims offsets */
    if (is(post, "TemplateProcessing"))
        return template_processing(b, post, e);
    if (is(post, "RobertaProcessing") || is(post, "BertProcessing"))
        return pair_processing(b, post, e);
    return lm_err_set(e, LM_UNSUPPORTED, "the post-processor %s is not handled", type_of(post));
}

int lmi_hf_post_processor(struct lmi_vocab *b, const json_t *post, struct lm_err *e)
{
    if (!post || json_is_null(post))
        return 0;
    if (!is(post, "Sequence"))
        return one_post(b, post, e);
    const json_t *list = json_object_get(post, "processors");
    for (size_t i = 0; i < json_array_size(list); i++)
        if (one_post(b, json_array_get(list, i), e) < 0)
            return -1;
    return 0;
}
