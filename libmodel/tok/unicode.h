/* Unicode as tokenizers need it: UTF-8 steps and the classes of every code
 * point, as Hugging Face's tokenizers see them (unicode_data.c). Private to
 * libmodel. */
#ifndef LIBMODEL_TOK_UNICODE_H
#define LIBMODEL_TOK_UNICODE_H

#include "libmodel/bytes.h"

/* General categories L, N, P, S, M; White_Space; CR and LF; the ranges that
 * DeepSeek's first tokenizers call Chinese; Lu Lt Lm Lo M; Ll Lm Lo M; Nd; the
 * script Han; \w of the added tokens' rules; BERT's punctuation; is_numeric. */
enum lmi_class {
    LMI_L = 1, LMI_N = 2, LMI_SPACE = 4, LMI_P = 8, LMI_S = 16, LMI_M = 32, LMI_CRLF = 64, LMI_CJK = 128,
    LMI_UP = 256, LMI_LOW = 512, LMI_ND = 1024, LMI_HAN = 2048, LMI_WORD = 4096, LMI_PUNCT = 8192, LMI_NUMERIC = 16384
};

enum { LMI_CLASS_TABLE = 0x32400 }; /* past the last assigned code point but tags and private use */
extern uint16_t lmi_class_table[LMI_CLASS_TABLE];

/* Fills the table; call before lmi_class_of, from any thread. */
void lmi_unicode_init(void);

static inline unsigned lmi_class_of(uint32_t cp)
{
    if (cp < LMI_CLASS_TABLE)
        return lmi_class_table[cp];
    return cp >= 0xe0100 && cp <= 0xe01ef ? LMI_M | LMI_UP | LMI_LOW | LMI_WORD : 0;
}

/* The two letters of the general category ("Lu"), "Cn" when there is none. */
const char *lmi_category(uint32_t cp);
/* Lower case; *second is 0 but for U+0130, which becomes two. */
uint32_t lmi_lower(uint32_t cp, uint32_t *second);
/* A number of the script, 0 for what joins any (spaces, unassigned). */
unsigned lmi_script(uint32_t cp);
bool lmi_is_nonspacing(uint32_t cp);  /* the accents that BertNormalizer strips */
bool lmi_is_accent(uint32_t cp);      /* … and StripAccents */
bool lmi_is_bert_other(uint32_t cp);  /* what its clean_text drops */
/* End of the extended grapheme cluster that begins at pos < text.size. */
size_t lmi_grapheme_end(struct lm_span text, size_t pos);
bool lmi_newer_than_forms(uint32_t cp); /* plain to the normal forms: it came later */

/* ---- tables (unicode_data.c); the last row begins with UINT32_MAX */
struct lmi_range {
    uint32_t first, last;
};
struct lmi_category_range {
    uint32_t first, last;
    char category[3];
};
struct lmi_lower_range {
    uint32_t first, last;
    int32_t add;
};
struct lmi_script_start {
    uint32_t first;
    uint8_t script;
};
extern const struct lmi_category_range lmi_newer_categories[];
extern const struct lmi_range lmi_newer_punctuation[], lmi_newer_nonspacing[], lmi_kept_other[], lmi_newer_than_12[];
extern const struct lmi_lower_range lmi_newer_lower[];
extern const struct lmi_script_start lmi_scripts[];
extern const size_t lmi_n_scripts;

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

/* The character at p, n > 0 bytes: an ill-formed byte is one of its own, U+FFFD. */
struct lmi_char {
    uint32_t cp;
    size_t width;
};

/* Length of the well-formed sequence at the start of n bytes, 0 if there is none. */
size_t lmi_utf8_step(const uint8_t *p, size_t n);
static inline struct lmi_char lmi_char_at(const uint8_t *p, size_t n)
{
    size_t w = p[0] < 0x80 ? 1 : lmi_utf8_step(p, n);

    return w ? (struct lmi_char){lmi_utf8_get(p), w} : (struct lmi_char){0xfffd, 1};
}

/* Bytes of s before its first ill-formed sequence. */
size_t lmi_utf8_valid_prefix(struct lm_span s);
/* Writes 1..4 bytes, returns how many. */
size_t lmi_utf8_put(uint32_t cp, uint8_t *out);

#endif
