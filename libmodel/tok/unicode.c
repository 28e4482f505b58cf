/* The class table is made from utf8proc's categories once, when the first
 * tokenizer that needs it is made: a fraction of a millisecond, and half of it
 * (the planes nobody writes in) is never touched again. */
#include "libmodel/tok/unicode.h"

#include <pthread.h>
#include <utf8proc.h>

uint16_t lmi_class_table[LMI_CLASS_TABLE];

static bool within(const struct lmi_range *r, uint32_t cp)
{
    while (r->first != UINT32_MAX && cp > r->last)
        r++;
    return cp >= r->first && cp <= r->last;
}

const char *lmi_category(uint32_t cp)
{
    const struct lmi_category_range *r = lmi_newer_categories;

    while (r->first != UINT32_MAX && cp > r->last)
        r++;
    return cp >= r->first && cp <= r->last ? r->category : utf8proc_category_string((utf8proc_int32_t)cp);
}

static unsigned class_of_category(const char *c)
{
    switch (c[0]) {
    case 'L':
        return LMI_L | LMI_WORD | (c[1] == 'l' ? 0 : LMI_UP) | (c[1] == 'u' || c[1] == 't' ? 0 : LMI_LOW);
    case 'M':
        return LMI_M | LMI_WORD | LMI_UP | LMI_LOW;
    case 'N':
        return LMI_N | LMI_NUMERIC | (c[1] == 'd' ? LMI_ND | LMI_WORD : c[1] == 'l' ? LMI_WORD : 0);
    case 'P':
        return LMI_P | (c[1] == 'c' ? LMI_WORD : 0);
    case 'S':
        return LMI_S;
    default:
        return 0;
    }
}

/* BERT's punctuation: all ASCII marks, and Unicode 8's; two have left it since. */
static bool old_punctuation(uint32_t c, unsigned class)
{
    bool ascii = c < 0x80 && class & (LMI_P | LMI_S);

    return ascii || c == 0x166d || c == 0x111c9 || (class & LMI_P && !within(lmi_newer_punctuation, c));
}

/* Alphabetic symbols, join controls. */
static bool word_besides(uint32_t c)
{
    return (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) || (c >= 0x1f150 && c <= 0x1f169) ||
           (c >= 0x1f170 && c <= 0x1f189) || c == 0x200c || c == 0x200d;
}

static bool newest_digit(uint32_t c)
{
    return (c >= 0x11de0 && c <= 0x11de9) || (c >= 0x16ff4 && c <= 0x16ff6);
}

static bool han(uint32_t c)
{
    return (c >= 0x2e80 && c <= 0x2ef3 && c != 0x2e9a) || (c >= 0x2f00 && c <= 0x2fd5) || c == 0x3005 || c == 0x3007 ||
           (c >= 0x3021 && c <= 0x3029) || (c >= 0x3038 && c <= 0x303b) || (c >= 0x3400 && c <= 0x4dbf) ||
           (c >= 0x4e00 && c <= 0x9fff) || (c >= 0xf900 && c <= 0xfad9 && c != 0xfa6e && c != 0xfa6f) || c == 0x16fe2 ||
           c == 0x16fe3 || c == 0x16ff0 || c == 0x16ff1 || (c >= 0x20000 && c <= 0x2a6df) ||
           (c >= 0x2a700 && c <= 0x2b739) || (c >= 0x2b740 && c <= 0x2b81d) || (c >= 0x2b820 && c <= 0x2cea1) ||
           (c >= 0x2ceb0 && c <= 0x2ebe0) || (c >= 0x2ebf0 && c <= 0x2ee5d) || (c >= 0x2f800 && c <= 0x2fa1d) ||
           (c >= 0x30000 && c <= 0x3134a) || (c >= 0x31350 && c <= 0x323af);
}

static bool white_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
           c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

static bool deepseek_chinese(uint32_t c)
{
    return (c >= 0x800 && c <= 0x9fa5) || (c >= 0xac00 && c <= 0xd7ff);
}

static void fill(void)
{
    const struct lmi_category_range *newer = lmi_newer_categories;

    for (uint32_t c = 0; c < LMI_CLASS_TABLE; c++) {
        newer += newer->first != UINT32_MAX && c > newer->last;
        bool is_newer = c >= newer->first && c <= newer->last;
        unsigned k = class_of_category(is_newer ? newer->category : utf8proc_category_string((utf8proc_int32_t)c));
        if (white_space(c))
            k |= LMI_SPACE;
        if (c == '\r' || c == '\n')
            k |= LMI_CRLF;
        if (deepseek_chinese(c))
            k |= LMI_CJK;
        if (han(c))
            k |= LMI_HAN;
        if (word_besides(c))
            k |= LMI_WORD;
        if (newest_digit(c))
            k |= LMI_NUMERIC;
        if (old_punctuation(c, k))
            k |= LMI_PUNCT;
        lmi_class_table[c] = (uint16_t)k;
    }
}

void lmi_unicode_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, fill);
}

static bool tail(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return false;
    return true;
}

size_t lmi_utf8_step(const uint8_t *p, size_t n)
{
    if (n == 0)
        return 0;
    if (p[0] < 0x80)
        return 1;
    size_t w = p[0] < 0xc2 || p[0] > 0xf4 ? 0 : lmi_utf8_width(p[0]);
    if (w == 0 || w > n || !tail(p + 1, w - 1))
        return 0;
    uint32_t cp = lmi_utf8_get(p);
    if (w == 3 && (cp < 0x800 || (cp >= 0xd800 && cp <= 0xdfff)))
        return 0;
    return w == 4 && (cp < 0x10000 || cp > 0x10ffff) ? 0 : w;
}

size_t lmi_utf8_valid_prefix(struct lm_span s)
{
    size_t i = 0;

    while (i < s.size) {
        if (s.size - i >= 8 && (lm_load_u64le(s.data + i) & 0x8080808080808080u) == 0) {
            i += 8;
            continue;
        }
        size_t w = lmi_utf8_step(s.data + i, s.size - i);
        if (w == 0)
            break;
        i += w;
    }
    return i;
}

size_t lmi_utf8_put(uint32_t cp, uint8_t *out)
{
    if (cp < 0x80) {
        out[0] = (uint8_t)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (uint8_t)(0xc0 | cp >> 6);
        out[1] = (uint8_t)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (uint8_t)(0xe0 | cp >> 12);
        out[1] = (uint8_t)(0x80 | (cp >> 6 & 0x3f));
        out[2] = (uint8_t)(0x80 | (cp & 0x3f));
        return 3;
    }
    out[0] = (uint8_t)(0xf0 | cp >> 18);
    out[1] = (uint8_t)(0x80 | (cp >> 12 & 0x3f));
    out[2] = (uint8_t)(0x80 | (cp >> 6 & 0x3f));
    out[3] = (uint8_t)(0x80 | (cp & 0x3f));
    return 4;
}

/* ---- single properties */

bool lmi_is_nonspacing(uint32_t cp)
{
    return (strcmp(lmi_category(cp), "Mn") == 0 && !within(lmi_newer_nonspacing, cp)) || cp == 0x1734 || cp == 0x1171e;
}

bool lmi_newer_than_forms(uint32_t cp)
{
    return within(lmi_newer_than_12, cp);
}

bool lmi_is_accent(uint32_t cp)
{
    bool mark = lmi_class_of(cp) & LMI_M && !lmi_newer_than_forms(cp);

    return mark || cp == 0x1cf2 || cp == 0x1cf3;
}

bool lmi_is_bert_other(uint32_t cp)
{
    const char *c = lmi_category(cp);
    bool other = c[0] == 'C' && c[1] != 'n' && c[1] != 's' && !within(lmi_kept_other, cp);

    return cp == 0xfffd || (other && cp != '\t' && cp != '\n' && cp != '\r');
}

uint32_t lmi_lower(uint32_t cp, uint32_t *second)
{
    const struct lmi_lower_range *r = lmi_newer_lower;

    *second = cp == 0x130 ? 0x307 : 0;
    if (cp < 0x80)
        return cp >= 'A' && cp <= 'Z' ? cp + 32 : cp;
    while (r->first != UINT32_MAX && cp > r->last)
        r++;
    if (cp >= r->first && cp <= r->last)
        return (uint32_t)((int32_t)cp + r->add);
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
}

unsigned lmi_script(uint32_t cp)
{
    size_t low = 0, high = lmi_n_scripts;

    while (high - low > 1) {
        size_t mid = low + (high - low) / 2;
        if (lmi_scripts[mid].first <= cp)
            low = mid;
        else
            high = mid;
    }
    return lmi_scripts[low].script;
}

size_t lmi_grapheme_end(struct lm_span t, size_t pos)
{
    struct lmi_char c = lmi_char_at(t.data + pos, t.size - pos);
    utf8proc_int32_t state = 0;

    for (pos += c.width; pos < t.size; pos += c.width) {
        struct lmi_char next = lmi_char_at(t.data + pos, t.size - pos);
        if (c.cp < 0x80 && next.cp < 0x80 && !(c.cp == '\r' && next.cp == '\n'))
            return pos;
        if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)c.cp, (utf8proc_int32_t)next.cp, &state))
            return pos;
        c = next;
    }
    return pos;
}
