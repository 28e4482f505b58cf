/* The split patterns that most checkpoints declare, as scanners: what a
 * backtracking engine would match at pos, found in one pass. The regexes are
 * in pretok_names.c; a text is always covered. */
#include "libmodel/tok/pretok.h"
#include "libmodel/tok/unicode.h"

/* Class and width of the character at pos, both 0 at the end. */
struct character {
    uint16_t class;
    uint8_t width;
};

static inline struct character at(struct lm_span t, size_t pos)
{
    if (pos >= t.size)
        return (struct character){0, 0};
    uint8_t b = t.data[pos];
    if (b < 0x80)
        return (struct character){lmi_class_table[b], 1};
    return (struct character){(uint16_t)lmi_class_of(lmi_utf8_get(t.data + pos)), (uint8_t)lmi_utf8_width(b)};
}

/* End of the run of characters with one of these classes. */
static inline size_t run_of(struct lm_span t, size_t pos, unsigned classes)
{
    for (struct character c; (c = at(t, pos)).class & classes;)
        pos += c.width;
    return pos;
}

/* End of the run of characters with none of these classes. */
static inline size_t run_without(struct lm_span t, size_t pos, unsigned classes)
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

/* ` ?[^\s\p{L}\p{N}]+` and what may follow it; pos when there is none. */
static inline size_t marks(struct lm_span t, size_t pos, unsigned letters, bool slash)
{
    size_t word = t.data[pos] == ' ' ? pos + 1 : pos;
    struct character w = at(t, word);

    if (w.width == 0 || w.class & (letters | LMI_N | LMI_SPACE))
        return pos;
    size_t end = run_of(t, run_without(t, word, letters | LMI_N | LMI_SPACE), LMI_CRLF);
    while (slash && end < t.size && (t.data[end] == '/' || t.data[end] == '\r' || t.data[end] == '\n'))
        end++;
    return end;
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
    size_t end = marks(t, pos, LMI_L, false);
    return end > pos ? end : spaces_or_lines(t, pos);
}

size_t lmi_scan_llama3(struct lm_span t, size_t pos)
{
    return scan_cl100k(t, pos, 3);
}

size_t lmi_scan_qwen2(struct lm_span t, size_t pos)
{
    return scan_cl100k(t, pos, 1);
}

/* \s++$ takes all spaces at the end of the text, lines or not. */
size_t lmi_scan_cl100k(struct lm_span t, size_t pos)
{
    if (at(t, pos).class & LMI_SPACE && run_of(t, pos, LMI_SPACE) == t.size && !(at(t, pos + 1).class & LMI_L))
        return t.size;
    return scan_cl100k(t, pos, 3);
}

size_t lmi_scan_qwen35(struct lm_span t, size_t pos)
{
    struct character c = at(t, pos);

    if (c.class & (LMI_L | LMI_M))
        return run_of(t, pos, LMI_L | LMI_M);
    if (t.data[pos] == '\'') {
        size_t end = contraction(t, pos, true);
        if (end > pos)
            return end;
    }
    if (c.class & LMI_N)
        return pos + c.width;
    if (!(c.class & LMI_CRLF) && at(t, pos + c.width).class & (LMI_L | LMI_M))
        return run_of(t, pos + c.width, LMI_L | LMI_M);
    size_t end = marks(t, pos, LMI_L | LMI_M, false);
    return end > pos ? end : spaces_or_lines(t, pos);
}

/* ---- o200k: upper case first, then lower; letters without case are both */

/* [upper]*[lower]+ from pos, else [upper]+; pos when there is neither. Backing
 * out of [upper]* ends behind its last letter that may also be lower. */
static inline size_t cased_word(struct lm_span t, size_t pos, unsigned not, bool *lower)
{
    size_t end = pos, both = pos;
    struct character c;

    while ((c = at(t, end)).class & LMI_UP && !(c.class & not)) {
        end += c.width;
        if (c.class & LMI_LOW)
            both = end;
    }
    if (c.class & LMI_LOW && !(c.class & not)) {
        do
            end += c.width;
        while ((c = at(t, end)).class & LMI_LOW && !(c.class & not));
        both = end;
    }
    *lower = both > pos;
    return both > pos ? both : end;
}

/* The word with or without a character in front; pos when there is none. With
 * lower-case letters it is taken before without, with the character before
 * without it. */
static inline size_t o200k_word(struct lm_span t, size_t pos, unsigned not)
{
    struct character c = at(t, pos);
    size_t lead = c.class & (LMI_L | LMI_N | LMI_CRLF) ? pos : pos + c.width;
    bool lower, lower_alone;
    size_t end = cased_word(t, lead, not, &lower);

    if (lower || lead == pos)
        return end;
    size_t alone = c.class & LMI_M ? cased_word(t, pos, not, &lower_alone) : pos;
    return alone > pos ? alone : end > lead ? end : pos;
}

static inline size_t scan_o200k(struct lm_span t, size_t pos, size_t max_digits, bool contractions, bool slash, unsigned not)
{
    size_t end = o200k_word(t, pos, not);

    if (end > pos)
        return contractions && end < t.size && t.data[end] == '\'' ? contraction(t, end, true) : end;
    if (at(t, pos).class & LMI_N)
        return digits(t, pos, max_digits);
    end = marks(t, pos, LMI_L, slash);
    return end > pos ? end : spaces_or_lines(t, pos);
}

size_t lmi_scan_o200k(struct lm_span t, size_t pos)
{
    return scan_o200k(t, pos, 3, true, true, 0);
}

size_t lmi_scan_tekken(struct lm_span t, size_t pos)
{
    return scan_o200k(t, pos, 1, false, true, 0);
}

size_t lmi_scan_kimi(struct lm_span t, size_t pos)
{
    size_t end = run_of(t, pos, LMI_HAN);

    if (end > pos)
        return end;
    end = o200k_word(t, pos, LMI_HAN);
    if (end > pos)
        return end < t.size && t.data[end] == '\'' ? contraction(t, end, true) : end;
    if (at(t, pos).class & LMI_N)
        return digits(t, pos, 3);
    end = marks(t, pos, LMI_L, false);
    return end > pos ? end : spaces_or_lines(t, pos);
}

/* ---- DeepSeek V3's last regex does not cover every text */

static inline bool ascii_letter(uint8_t c)
{
    return (c | 32) >= 'a' && (c | 32) <= 'z';
}

size_t lmi_match_deepseek3(struct lm_span t, size_t pos)
{
    struct character c = at(t, pos);
    size_t next = pos + c.width;

    if (c.width == 1 && c.class & (LMI_P | LMI_S) && next < t.size && ascii_letter(t.data[next])) {
        while (next < t.size && ascii_letter(t.data[next]))
            next++;
        return next;
    }
    if (c.class & (LMI_L | LMI_M) || (!(c.class & (LMI_P | LMI_S | LMI_CRLF)) && at(t, next).class & (LMI_L | LMI_M)))
        return run_of(t, next, LMI_L | LMI_M);
    size_t word = t.data[pos] == ' ' ? next : pos, end = run_of(t, word, LMI_P | LMI_S);
    if (end > word)
        return run_of(t, end, LMI_CRLF);
    return c.class & LMI_SPACE ? spaces_or_lines(t, pos) : pos;
}
