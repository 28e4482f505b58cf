/* The class table is made from utf8proc's categories once, when the first
 * tokenizer that needs it is made: a fraction of a millisecond, and half of it
 * (the planes nobody writes in) is never touched again. */
#include "libmodel/tok/unicode.h"

#include <pthread.h>
#include <utf8proc.h>

uint8_t lmi_class_table[LMI_CLASS_TABLE];

static uint8_t class_of_category(utf8proc_category_t c)
{
    if (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO)
        return LMI_L;
    if (c >= UTF8PROC_CATEGORY_MN && c <= UTF8PROC_CATEGORY_ME)
        return LMI_M;
    if (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO)
        return LMI_N;
    if (c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO)
        return LMI_P;
    if (c >= UTF8PROC_CATEGORY_SM && c <= UTF8PROC_CATEGORY_SO)
        return LMI_S;
    return 0;
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
    for (uint32_t c = 0; c < LMI_CLASS_TABLE; c++) {
        unsigned k = class_of_category(utf8proc_category((utf8proc_int32_t)c));
        if (white_space(c))
            k |= LMI_SPACE;
        if (c == '\r' || c == '\n')
            k |= LMI_CRLF;
        if (deepseek_chinese(c))
            k |= LMI_CJK;
        lmi_class_table[c] = (uint8_t)k;
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
