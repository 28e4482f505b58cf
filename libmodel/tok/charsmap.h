/* SentencePiece's precompiled normalizer: longest-prefix replacement through a
 * double array. Private to libmodel. */
#ifndef LIBMODEL_TOK_CHARSMAP_H
#define LIBMODEL_TOK_CHARSMAP_H

#include "libmodel/bytes.h"
#include "libmodel/err.h"

struct lmi_charsmap {
    struct lm_span units; /* n_units little-endian u32 */
    uint32_t n_units;
    struct lm_span texts; /* NUL-terminated replacements */
};

/* Checks every unit, so that matching needs no more checks. An empty span gives
 * a map that replaces nothing. */
int lmi_charsmap_open(struct lmi_charsmap *m, struct lm_span blob, struct lm_err *e);
/* Bytes of the longest rule at the start of text (0: none) and its replacement. */
/* Does a rule begin with this byte, and then end or go on below 0x80? */
bool lmi_charsmap_begins(const struct lmi_charsmap *m, uint8_t byte);
/* Does a rule begin with all of text, or end inside it? */
bool lmi_charsmap_reaches(const struct lmi_charsmap *m, struct lm_span text);
size_t lmi_charsmap_match(const struct lmi_charsmap *m, struct lm_span text, struct lm_span *replacement);

#endif
