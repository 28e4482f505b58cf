/* RFC 4648 base64, strict: padded, no spaces. Private to libmodel. */
#ifndef LIBMODEL_TOK_BASE64_H
#define LIBMODEL_TOK_BASE64_H

#include "libmodel/bytes.h"

/* Bytes that decode writes at most. */
static inline size_t lmi_base64_room(size_t n_chars)
{
    return n_chars / 4 * 3 + 3;
}
/* Bytes written to out, or -1 when the text is no base64. */
int64_t lmi_base64_decode(struct lm_span text, uint8_t *out);
/* Writes (n + 2) / 3 * 4 characters and no NUL. */
void lmi_base64_encode(struct lm_span bytes, char *out);

#endif
