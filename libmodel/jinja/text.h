/* Operations that methods and filters share. Private to libmodel/jinja. */
#ifndef LIBMODEL_JINJA_TEXT_H
#define LIBMODEL_JINJA_TEXT_H

#include "libmodel/jinja/value.h"

/* TITLE: str.title, a word is a run of letters; WORDS: the filter, words begin after white space and ( [ { < - only. */
enum lmi_case { LMI_UPPER, LMI_LOWER, LMI_CAPITALIZE, LMI_TITLE, LMI_WORDS };
int lmi_map_case(struct lmi_render *r, struct lm_span s, enum lmi_case how, struct lmi_value *out);
/* At most `most` times; negative: all. */
int lmi_replace(struct lmi_render *r, struct lm_span s, struct lm_span from, struct lm_span to, int64_t most,
                struct lmi_value *out);
/* Items of v with sep between them; strict: all must be strings. */
int lmi_join(struct lmi_render *r, struct lm_span sep, struct lmi_value v, bool strict, struct lmi_value *out);
/* (key, value) of a dict, as an ITERATOR or a VIEW. */
int lmi_items(struct lmi_render *r, struct lmi_value dict, enum lmi_kind kind, struct lmi_value *out);
/* str(v) with & < > " ' as HTML has them, safe; what is safe already stays as it is. */
int lmi_escape(struct lmi_render *r, struct lmi_value v, struct lmi_value *out);
/* v's attribute or item by a path "a.b.0" (or an int), and that of every item. */
int lmi_path(struct lmi_render *r, struct lmi_value v, struct lmi_value path, struct lmi_value *out);
int lmi_column(struct lmi_render *r, struct lmi_value v, struct lmi_value path, struct lmi_value missing,
               struct lmi_value *out);
/* In a table that ends with a NULL name. */
const struct lmi_builtin *lmi_find_builtin(const struct lmi_builtin *table, struct lm_span name);

#endif
