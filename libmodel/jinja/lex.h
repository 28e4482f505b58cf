/* The words of a template. Private to libmodel/jinja. */
#ifndef LIBMODEL_JINJA_LEX_H
#define LIBMODEL_JINJA_LEX_H

#include "libmodel/jinja/value.h"

enum lmi_token_kind {
    LMI_TOK_END, LMI_TOK_DATA, LMI_TOK_PRINT, LMI_TOK_PRINT_END, LMI_TOK_BLOCK, LMI_TOK_BLOCK_END, LMI_TOK_NAME,
    LMI_TOK_STR, LMI_TOK_INT, LMI_TOK_FLOAT, LMI_TOK_OP
};
struct lmi_token {
    enum lmi_token_kind kind;
    uint32_t line;
    struct lm_span text;    /* DATA, NAME, STR (unescaped), OP */
    struct lmi_value value; /* INT, FLOAT */
};
struct lmi_tokens { struct lmi_token *at; size_t n, capacity; };

/* The tokens of a source (well-formed UTF-8, line ends already \n), END last; texts in the arena. */
int lmi_lex(struct lmi_tokens *out, struct lm_arena *a, struct lm_span source, struct lm_err *e);
int lmi_syntax(struct lm_err *e, uint32_t line, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
