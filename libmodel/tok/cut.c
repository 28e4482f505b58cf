/* Where a text can be cut so that its parts give the ids of the whole: in front
 * of a space between two letters, or behind a line end with text on both sides.
 * Certain is what follows from the steps of the tokenizer alone: that they
 * always split there, and that nothing looks, joins or counts across. */
#include "libmodel/tok/build.h"
#include "libmodel/tok/engine.h"
#include "libmodel/tok/pipeline.h"
#include "libmodel/tok/unicode.h"

struct rules {
    bool space, line;
};

/* ---- what the tokenizer allows */

static struct rules of_spm(const struct lm_tokenizer *t)
{
    const struct lm_vocab *v = t->v;
    bool plain = v->algo == LM_VOCAB_SPM_BPE && !t->unused && t->charsmap.n_units == 0 && !v->remove_extra_whitespaces &&
                 !v->whitespace_as_suffix;

    return (struct rules){plain, plain};
}

/* Can a match of the pattern hold the place between a letter and a space? */
static bool spans_place(const struct lmi_pattern *p)
{
    return p->regex || (p->literal.size > 1 && memchr(p->literal.data, ' ', p->literal.size));
}

static bool normalizes_apart(const struct lmi_pipeline *p)
{
    for (size_t i = 0; i < p->n_norm; i++) {
        const struct lmi_norm_step *s = &p->norm[i];
        if (s->kind == LMI_NORM_PREPEND || s->kind == LMI_NORM_STRIP || s->kind == LMI_NORM_BYTE_LEVEL ||
            (s->kind == LMI_NORM_REPLACE && spans_place(&s->pattern)))
            return false;
    }
    return true;
}

/* Does one step separate a letter from the space behind it, before any that
 * could look across? */
static bool splits_apart(const struct lmi_pipeline *p)
{
    for (size_t i = 0; i < p->n_split; i++) {
        const struct lmi_split_step *s = &p->split[i];
        if ((s->kind == LMI_SPLIT_CLASS && s->classes == LMI_SPACE && s->behavior == LMI_REMOVED) ||
            s->kind == LMI_SPLIT_WORDS || (s->kind == LMI_SPLIT_METASPACE && s->split) ||
            (s->kind == LMI_SPLIT_BYTE_LEVEL && s->use_regex))
            return true;
        if (s->kind != LMI_SPLIT_CLASS || s->classes & (LMI_SPACE | LMI_L))
            return false;
    }
    return false;
}

/* Added tokens that are looked for in the normalized text are not seen in the
 * raw one: they must not be able to hold the place. */
static bool norm_holds_place(const struct lm_tokenizer *t)
{
    for (size_t i = 0; i < t->norm.n; i++) {
        struct lm_span s = t->norm.items[i].text;
        if (memchr(s.data, ' ', s.size) || memchr(s.data, '\n', s.size) || t->norm.items[i].rstrip || t->norm.items[i].lstrip)
            return true;
    }
    return false;
}

static struct rules of_stages(const struct lm_tokenizer *t)
{
    const struct lmi_pipeline *p = lmi_vocab_of(t->v)->pipeline;

    return (struct rules){normalizes_apart(p) && splits_apart(p), false};
}

static struct rules rules_of(const struct lm_tokenizer *t)
{
    if (norm_holds_place(t))
        return (struct rules){false, false};
    if (lmi_vocab_of(t->v)->staged)
        return of_stages(t);
    if (lmi_is_spm(t->v))
        return of_spm(t);
    bool words = t->v->algo == LM_VOCAB_BYTE_BPE && lmi_pretok_splits_words(t->pretok);
    return (struct rules){words, words && !t->v->add_prefix_space};
}

/* ---- what stands in the text */

/* Is there an added token that holds the place, begins or ends there? */
static bool touches(const struct lmi_added *a, struct lm_span text, size_t pos)
{
    size_t from = pos > a->longest ? pos - a->longest : 0;

    for (size_t i = from; i <= pos && i < text.size && a->n > 0; i++) {
        const struct lmi_added_item *item = lmi_added_at(a, lm_span_of(text.data + i, text.size - i));
        if (item && i + item->text.size >= pos)
            return true;
    }
    return false;
}

static unsigned class_at(struct lm_span text, size_t pos)
{
    return pos < text.size ? lmi_class_of(lmi_char_at(text.data + pos, text.size - pos).cp) : 0;
}

/* Start of the well-formed character that ends at pos; pos if there is none. */
static size_t before(struct lm_span text, size_t pos)
{
    size_t at = pos;

    while (at > 0 && pos - at < 4) {
        at--;
        if ((text.data[at] & 0xc0) != 0x80)
            return lmi_utf8_step(text.data + at, pos - at) == pos - at ? at : pos;
    }
    return pos;
}

static bool at_space(struct lm_span text, size_t pos)
{
    size_t prev = before(text, pos);

    return text.data[pos] == ' ' && prev < pos && class_at(text, prev) & LMI_L && class_at(text, pos + 1) & LMI_L;
}

static bool behind_line(struct lm_span text, size_t pos)
{
    size_t prev = pos > 1 && text.data[pos - 1] == '\n' ? before(text, pos - 1) : pos;

    return prev < pos - 1 && !(class_at(text, prev) & LMI_SPACE) && class_at(text, pos) & (LMI_L | LMI_N);
}

/* SentencePiece's BPE: no merge crosses, and neither side is unknown (unknown
 * neighbours become one). */
static bool known(const struct lm_tokenizer *t, struct lm_span text, size_t pos)
{
    struct lmi_char c = lmi_char_at(text.data + pos, text.size - pos);
    const uint32_t *page = t->chars.pages[c.cp >> 8];

    if (page && page[c.cp & 0xff] < t->v->n_pieces)
        return true;
    for (size_t i = 0; i < c.width; i++)
        if (!t->v->byte_fallback || t->byte_id[text.data[pos + i]] == LMI_NONE)
            return false;
    return true;
}

static bool apart(const struct lm_tokenizer *t, struct lm_span text, size_t pos)
{
    uint8_t a = text.data[pos - 1], b = text.data[pos];

    if (!lmi_is_spm(t->v))
        return true;
    return !(t->joined[a][b / 64] >> b % 64 & 1) && known(t, text, before(text, pos)) && known(t, text, pos);
}

size_t lm_tokenizer_safe_cut(const struct lm_tokenizer *t, struct lm_span text, size_t near)
{
    struct rules r = rules_of(t);

    if (!r.space && !r.line)
        return text.size;
    for (size_t pos = near > 1 ? near : 1; pos + 1 < text.size; pos++) {
        bool place = (r.space && at_space(text, pos)) || (r.line && behind_line(text, pos));
        if (place && apart(t, text, pos) && !touches(&t->raw, text, pos) && !touches(&t->second, text, pos) &&
            !touches(&t->norm, text, pos) && !touches(&t->symbols, text, pos))
            return pos;
    }
    return text.size;
}
