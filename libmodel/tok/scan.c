/* The split patterns that most checkpoints declare, as scanners: what a
 * backtracking engine would match at pos, found in one pass. The regexes are
 * in pretok_names.c; a text is always covered. */
#include "libmodel/tok/pretok.h"
#include "libmodel/tok/unicode.h"

/* Class and width of the character at pos, both 0 at the end. */
struct character {
    uint8_t class, width;
};

static inline struct character at(struct lm_span t, size_t pos)
{
    if (pos >= t.size)
        return (struct character){0, 0};
    uint8_t b = t.data[pos];
    if (b < 0x80)
        return (struct character){lmi_class_table[b], 1};
    return (struct character){lmi_class_of(lmi_utf8_get(t.data + pos)), (uint8_t)lmi_utf8_width(b)};
}

/* End of the run of characters with one of these classes. */
static inline size_t run_of(struct lm_span t, size_t pos, uint8_t classes)
{
    for (struct character c; (c = at(t, pos)).class & classes;)
        pos += c.width;
    return pos;
}

/* End of the run of characters with none of these classes. */
static inline size_t run_without(struct lm_span t, size_t pos, uint8_t classes)
{
    for (struct character c; (c = at(t, pos)).width && !(c.class & classes);)
        pos += c.width;
    return pos;
}

/* \s+(?!\S)|\s+ : a run of spaces leaves its last character to the word that
 * follows, if one does. */
static size_t spaces(struct lm_span t, size_t pos)
{
    size_t end = pos, last = pos;

    for (struct character c; (c = at(t, end)).class & LMI_SPACE; end += c.width)
        last = end;
    return end == t.size || last == pos ? end : last;
}

/* 's 't 're 've 'm 'll 'd after the apostrophe at pos; pos if none. With fold,
 * any case, and U+017F (long s) counts as s, as Unicode case folding has it. */
static size_t contraction(struct lm_span t, size_t pos, bool fold)
{
    uint8_t a = pos + 1 < t.size ? t.data[pos + 1] : 0, b = pos + 2 < t.size ? t.data[pos + 2] : 0;

    if (fold && a == 0xc5 && b == 0xbf)
        return pos + 3;
    if (fold && a >= 'A' && a <= 'Z')
        a |= 32;
    if (fold && b >= 'A' && b <= 'Z')
        b |= 32;
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return pos + 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l'))
        return pos + 3;
    return pos;
}

size_t lmi_scan_gpt2(struct lm_span t, size_t pos)
{
    struct character c = at(t, pos);

    if (t.data[pos] == '\'') {
        size_t end = contraction(t, pos, false);
        if (end > pos)
            return end;
    }
    size_t word = pos;
    if (t.data[pos] == ' ') {
        struct character next = at(t, pos + 1);
        if (next.width && !(next.class & LMI_SPACE)) {
            c = next;
            word = pos + 1;
        }
    }
    if (c.class & LMI_L)
        return run_of(t, word, LMI_L);
    if (c.class & LMI_N)
        return run_of(t, word, LMI_N);
    if (c.class & LMI_SPACE)
        return spaces(t, pos);
    return run_without(t, word, LMI_L | LMI_N | LMI_SPACE);
}

/* \s*[\r\n]+ takes spaces up to the last line end among them; else as spaces(). */
static size_t spaces_or_lines(struct lm_span t, size_t pos)
{
    size_t end = pos, last = pos, line = pos;

    for (struct character c; (c = at(t, end)).class & LMI_SPACE; end += c.width) {
        last = end;
        if (c.class & LMI_CRLF)
            line = end + c.width;
    }
    if (line > pos)
        return line;
    return end == t.size || last == pos ? end : last;
}

static size_t digits(struct lm_span t, size_t pos, size_t max)
{
    struct character c;

    for (size_t i = 0; i < max && (c = at(t, pos)).class & LMI_N; i++)
        pos += c.width;
    return pos;
}

static inline size_t scan_cl100k(struct lm_span t, size_t pos, size_t max_digits)
{
    struct character c = at(t, pos);

    if (c.class & LMI_L)
        return run_of(t, pos, LMI_L);
    if (t.data[pos] == '\'') {
        size_t end = contraction(t, pos, true);
        if (end > pos)
            return end;
    }
    if (c.class & LMI_N)
        return digits(t, pos, max_digits);
    struct character next = at(t, pos + c.width);
    if (!(c.class & LMI_CRLF) && next.class & LMI_L)
        return run_of(t, pos + c.width, LMI_L);
    size_t word = t.data[pos] == ' ' ? pos + 1 : pos;
    struct character w = word > pos ? next : c;
    if (w.width && !(w.class & (LMI_L | LMI_N | LMI_SPACE)))
        return run_of(t, run_without(t, word, LMI_L | LMI_N | LMI_SPACE), LMI_CRLF);
    return spaces_or_lines(t, pos);
}

size_t lmi_scan_llama3(struct lm_span t, size_t pos)
{
    return scan_cl100k(t, pos, 3);
}

size_t lmi_scan_qwen2(struct lm_span t, size_t pos)
{
    return scan_cl100k(t, pos, 1);
}
