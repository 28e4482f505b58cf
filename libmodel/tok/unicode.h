/* Unicode as tokenizers need it: UTF-8 steps and a byte of classes for every
 * code point. Private to libmodel. */
#ifndef LIBMODEL_TOK_UNICODE_H
#define LIBMODEL_TOK_UNICODE_H

#include "libmodel/bytes.h"

/* General categories L, N, P, S, M; White_Space; CR and LF; and the ranges that
 * DeepSeek's first tokenizers call Chinese. */
enum lmi_class {
    LMI_L = 1, LMI_N = 2, LMI_SPACE = 4, LMI_P = 8, LMI_S = 16, LMI_M = 32, LMI_CRLF = 64, LMI_CJK = 128
};

enum { LMI_CLASS_TABLE = 0x32400 }; /* past the last assigned code point but tags and private use */
extern uint8_t lmi_class_table[LMI_CLASS_TABLE];

/* Fills the table; call before lmi_class_of, from any thread. */
void lmi_unicode_init(void);

static inline uint8_t lmi_class_of(uint32_t cp)
{
    if (cp < LMI_CLASS_TABLE)
        return lmi_class_table[cp];
    return cp >= 0xe0100 && cp <= 0xe01ef ? LMI_M : 0;
}

/* Length in bytes of a character of well-formed UTF-8, from its first byte. */
static inline size_t lmi_utf8_width(uint8_t lead)
{
    return lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

/* The code point at p, which is well-formed UTF-8. */
static inline uint32_t lmi_utf8_get(const uint8_t *p)
{
    if (p[0] < 0x80)
        return p[0];
    if (p[0] < 0xe0)
        return (p[0] & 0x1fu) << 6 | (p[1] & 0x3fu);
    if (p[0] < 0xf0)
        return (p[0] & 0x0fu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
    return (p[0] & 0x07u) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu);
}

/* Length of the well-formed sequence at the start of n bytes, 0 if there is none. */
size_t lmi_utf8_step(const uint8_t *p, size_t n);
/* Bytes of s before its first ill-formed sequence. */
size_t lmi_utf8_valid_prefix(struct lm_span s);
/* Writes 1..4 bytes, returns how many. */
size_t lmi_utf8_put(uint32_t cp, uint8_t *out);

#endif
