/* JSON through jansson, with the strictness we need: duplicate keys refused
 * (after unescaping), depth at most 64, integers never through double, NUL in
 * strings kept, errors with line and column. Private to libmodel and cmd/. */
#ifndef LIBMODEL_PARSE_JSON_H
#define LIBMODEL_PARSE_JSON_H

#include <jansson.h>

#include "libmodel/bytes.h"
#include "libmodel/err.h"

/* NULL on failure; what names the text in the message ("config.json"). Free with json_decref. */
json_t *lm_json_parse(struct lm_span text, const char *what, struct lm_err *e);
/* String value with its length, or an empty span when v is no string. Borrowed. */
struct lm_span lm_json_span(const json_t *v);
#endif
