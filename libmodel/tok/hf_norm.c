/* tokenizer.json's normalizers. What a character becomes keeps the place where
 * it came from, as in the library: characters that are put in share that of the
 * one in front of them. */
#include <stdlib.h>

#include "libmodel/tok/build.h"
#include "libmodel/tok/pipeline.h"
#include "libmodel/tok/unicode.h"

static int nomem(struct lm_err *e)
{
    return lm_err_set(e, LM_NOMEM, "out of memory for a normalized text");
}

/* ---- character by character */

static bool chinese(uint32_t c)
{
    return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) || (c >= 0x20000 && c <= 0x2a6df) ||
           (c >= 0x2a700 && c <= 0x2b73f) || (c >= 0x2b740 && c <= 0x2b81f) || (c >= 0x2b920 && c <= 0x2ceaf) ||
           (c >= 0xf900 && c <= 0xfaff) || (c >= 0x2f800 && c <= 0x2fa1f);
}

static bool nmt_dropped(uint32_t c)
{
    return (c >= 1 && c <= 8) || c == 0xb || (c >= 0xe && c <= 0x1f) || c == 0x7f || c == 0x8f || c == 0x9f;
}

static bool nmt_space(uint32_t c)
{
    return c == 9 || c == 0xa || c == 0xc || c == 0xd || c == 0x1680 || (c >= 0x200b && c <= 0x200f) || c == 0x2028 ||
           c == 0x2029 || c == 0x2581 || c == 0xfeff || c == 0xfffd;
}

/* What the step makes of a character: at most three, 0 when it goes. */
static size_t mapped(enum lmi_norm_kind kind, uint32_t c, uint32_t out[3])
{
    uint32_t second;

    out[0] = c;
    switch (kind) {
    case LMI_NORM_LOWERCASE:
        out[0] = lmi_lower(c, &second);
        out[1] = second;
        return second ? 2 : 1;
    case LMI_NORM_STRIP_ACCENTS:
        return !lmi_is_accent(c);
    case LMI_NORM_BERT_ACCENTS:
        return !lmi_is_nonspacing(c);
    case LMI_NORM_BERT_CLEAN:
        out[0] = lmi_class_of(c) & LMI_SPACE ? ' ' : c;
        return !lmi_is_bert_other(c);
    case LMI_NORM_NMT:
        out[0] = nmt_space(c) ? ' ' : c;
        return !nmt_dropped(c);
    case LMI_NORM_BERT_HAN:
        if (!chinese(c))
            return 1;
        out[0] = out[2] = ' ';
        out[1] = c;
        return 3;
    default:
        return 1;
    }
}

/* ASCII letters, digits, marks and spaces that no such step but lower-casing changes. */
static size_t plain_run(enum lmi_norm_kind kind, const struct lmi_text *in, size_t pos)
{
    size_t end = pos;

    while (end < in->n && in->bytes[end] >= ' ' && in->bytes[end] < 0x7f &&
           !(kind == LMI_NORM_LOWERCASE && in->bytes[end] >= 'A' && in->bytes[end] <= 'Z'))
        end++;
    return end;
}

static void map_characters(enum lmi_norm_kind kind, const struct lmi_text *in, struct lmi_text *out)
{
    for (size_t i = 0; i < in->n;) {
        size_t plain = plain_run(kind, in, i);
        if (plain > i) {
            lmi_text_copy(out, in, i, plain);
            i = plain;
            continue;
        }
        struct lmi_char c = lmi_char_at(in->bytes + i, in->n - i);
        uint32_t to[3];
        bool ill_formed = c.width == 1 && in->bytes[i] >= 0x80;
        size_t n = ill_formed ? 1 : mapped(kind, c.cp, to);
        if (ill_formed || (n == 1 && to[0] == c.cp))
            lmi_text_copy(out, in, i, i + c.width);
        else
            for (size_t k = 0; k < n; k++)
                lmi_text_put_char(out, to[k], lmi_text_from(in, i));
        i += c.width;
    }
}

/* ---- whole texts */

static void strip(const struct lmi_norm_step *s, const struct lmi_text *in, struct lmi_text *out)
{
    size_t begin = 0, end = in->n, last = 0;

    for (size_t i = 0; i < in->n;) {
        struct lmi_char c = lmi_char_at(in->bytes + i, in->n - i);
        bool space = lmi_class_of(c.cp) & LMI_SPACE;
        if (s->left && space && begin == i)
            begin = i + c.width;
        i += c.width;
        if (!space)
            last = i;
    }
    if (s->right)
        end = last > begin ? last : begin;
    lmi_text_copy(out, in, begin, end);
}

static void prepend(struct lm_span s, const struct lmi_text *in, struct lmi_text *out)
{
    if (in->n == 0)
        return;
    lmi_text_put(out, s.data, s.size, lmi_text_from(in, 0));
    lmi_text_copy(out, in, 0, in->n);
}

static int replace(const struct lmi_norm_step *s, const struct lmi_text *in, struct lmi_text *out, struct lm_err *e)
{
    bool failed;
    uint8_t *mask = lmi_mask_ill_formed(lmi_text_span(in), &failed);
    struct lm_span text = mask ? lm_span_of(mask, in->n) : lmi_text_span(in);
    struct lmi_matcher m;
    size_t pos = 0, begin, end;
    int rc = failed ? nomem(e) : lmi_matcher_begin(&m, &s->pattern, text, e);

    if (rc < 0) {
        free(mask);
        return -1;
    }
    while ((rc = lmi_matcher_next(&m, &begin, &end, e)) > 0) {
        struct lm_offsets nowhere = {0, 0};
        lmi_text_copy(out, in, pos, begin);
        lmi_text_put(out, s->content.data, s->content.size, end > 0 ? lmi_text_from(in, end - 1) : nowhere);
        pos = end;
    }
    lmi_text_copy(out, in, pos, in->n);
    lmi_matcher_end(&m);
    free(mask);
    return rc;
}

void lmi_put_letters(struct lmi_text *out, const struct lmi_text *in, size_t begin, size_t end)
{
    for (size_t i = begin; i < end; i++)
        lmi_text_put_char(out, lmi_byte_letter(in->bytes[i]), lmi_text_from(in, i));
}

/* ---- Precompiled: SentencePiece's rules, applied as the library does: to a
 * grapheme of less than six bytes as a whole by the shortest rule it begins
 * with, else to each of its characters. */

static bool shortest_rule(const struct lmi_charsmap *m, struct lm_span s, struct lm_span *to)
{
    if (lmi_charsmap_match(m, s, to) == 0)
        return false;
    for (size_t n = 1; n < s.size; n++)
        if (lmi_charsmap_match(m, lm_span_of(s.data, n), to) > 0)
            return true;
    return lmi_charsmap_match(m, s, to) > 0;
}

static size_t n_chars(struct lm_span s)
{
    size_t n = 0;

    for (size_t i = 0; i < s.size; n++)
        i += lmi_char_at(s.data + i, s.size - i).width;
    return n;
}

/* The new characters stand for the old in order; what is left of those shares the
 * last one's place. */
static void put_rule(const struct lmi_text *in, size_t begin, size_t end, struct lm_span to, struct lmi_text *out)
{
    size_t old = n_chars(lm_span_of(in->bytes + begin, end - begin)), pos = begin, last = begin;

    for (size_t i = 0; i < to.size;) {
        size_t w = lmi_char_at(to.data + i, to.size - i).width;
        if (old > 0) {
            last = pos;
            pos += lmi_char_at(in->bytes + pos, end - pos).width;
            old--;
        }
        lmi_text_put(out, to.data + i, w, lmi_text_from(in, last));
        i += w;
    }
}

static void precompiled(const struct lmi_charsmap *m, const struct lmi_text *in, struct lmi_text *out)
{
    for (size_t i = 0; i < in->n;) {
        size_t end = lmi_grapheme_end(lmi_text_span(in), i);
        struct lm_span to;
        if (end - i < 6 && shortest_rule(m, lm_span_of(in->bytes + i, end - i), &to)) {
            put_rule(in, i, end, to, out);
            i = end;
        }
        while (i < end) {
            size_t w = lmi_char_at(in->bytes + i, in->n - i).width;
            if (shortest_rule(m, lm_span_of(in->bytes + i, w), &to))
                put_rule(in, i, i + w, to, out);
            else
                lmi_text_copy(out, in, i, i + w);
            i += w;
        }
    }
}

/* ---- all steps */

static int run_step(const struct lmi_norm_step *s, const struct lmi_text *in, struct lmi_text *out, struct lm_err *e)
{
    switch (s->kind) {
    case LMI_NORM_NFC:
    case LMI_NORM_NFD:
    case LMI_NORM_NFKC:
    case LMI_NORM_NFKD:
        lmi_normal_form(in, s->kind == LMI_NORM_NFKC || s->kind == LMI_NORM_NFKD,
                        s->kind == LMI_NORM_NFC || s->kind == LMI_NORM_NFKC, out);
        return 0;
    case LMI_NORM_REPLACE:
        return replace(s, in, out, e);
    case LMI_NORM_PREPEND:
        prepend(s->content, in, out);
        return 0;
    case LMI_NORM_STRIP:
        strip(s, in, out);
        return 0;
    case LMI_NORM_PRECOMPILED:
        precompiled(&s->charsmap, in, out);
        return 0;
    case LMI_NORM_BYTE_LEVEL:
        lmi_put_letters(out, in, 0, in->n);
        return 0;
    default:
        map_characters(s->kind, in, out);
        return 0;
    }
}

int lmi_pipeline_normalize(const struct lmi_pipeline *p, struct lmi_text *text, struct lmi_text *spare, struct lm_err *e)
{
    for (size_t i = 0; i < p->n_norm; i++) {
        lmi_text_clear(spare);
        spare->mapped = text->mapped;
        if (run_step(&p->norm[i], text, spare, e) < 0)
            return -1;
        struct lmi_text t = *text;
        *text = *spare;
        *spare = t;
    }
    return text->failed ? nomem(e) : 0;
}
