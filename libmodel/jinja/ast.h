/* The tree of a template, and how it is run. Private to libmodel/jinja. */
#ifndef LIBMODEL_JINJA_AST_H
#define LIBMODEL_JINJA_AST_H

#include "libmodel/jinja/lex.h"

enum lmi_node_kind {
    /* expressions */
    LMI_CONST, LMI_NAME, LMI_LIST_OF, LMI_TUPLE_OF, LMI_DICT_OF, LMI_ATTR, LMI_ITEM, LMI_SLICE, LMI_CALL, LMI_FILTER,
    LMI_TEST, LMI_NOT, LMI_NEG, LMI_POS, LMI_BINARY, LMI_AND, LMI_OR, LMI_COMPARE, LMI_CHOICE, LMI_CONCAT,
    /* statements */
    LMI_DATA, LMI_PRINT, LMI_BLOCK, LMI_FOR, LMI_IF, LMI_SET, LMI_SET_BLOCK, LMI_MACRO_DEF, LMI_FILTER_BLOCK,
    LMI_BREAK, LMI_CONTINUE
};

enum lmi_op {
    LMI_ADD, LMI_SUB, LMI_MUL, LMI_DIV, LMI_FLOORDIV, LMI_MOD, LMI_POW, LMI_EQ, LMI_NE, LMI_LT, LMI_LE, LMI_GT,
    LMI_GE, LMI_IN, LMI_NOT_IN
};

struct lmi_node {
    enum lmi_node_kind kind;
    enum lmi_op op;
    uint32_t line;
    struct lm_span name;     /* NAME, ATTR, FILTER, TEST, MACRO_DEF; text of DATA; name of a CALL's, FILTER's keyword */
    struct lmi_value value;  /* CONST */
    const struct lmi_builtin *fn; /* FILTER, TEST */
    /* Expressions: `kids` as they stand: operands; object and key; condition,
     * then, else; of a call its callee and positional arguments; of a dict keys
     * and values in turn. Parts that may be missing are NULL. */
    struct lmi_node **kids;
    size_t n_kids;
    struct lmi_node **named; /* arguments by name: their kids[0] is the value */
    size_t n_named;
    /* Statements. FOR: kids target, iterable, filter; body, other. IF: kids[0]; body, other.
     * SET: kids target, value. MACRO_DEF: kids parameters (NAME with kids[0] the default or none). */
    struct lmi_node *body, *other;
};

struct lm_template {
    struct lm_arena arena;
    struct lmi_node *root;
};

int lmi_parse(struct lm_template *t, const struct lmi_tokens *tokens, struct lm_err *e);

/* ---- running */

struct lmi_frame {
    struct lmi_frame *up;
    struct lmi_dict names;
};
struct lmi_macro {
    const struct lmi_node *def;
    struct lmi_frame *frame; /* where it stands: names are looked up there when it is called */
};
struct lmi_loop {
    const struct lmi_list *items;
    size_t i, depth;
    struct lmi_value last; /* loop.changed */
    bool has_last;
};

int lmi_eval(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *n, struct lmi_value *out);
/* Arithmetic of two values. */
int lmi_binary(struct lmi_render *r, enum lmi_op op, struct lmi_value a, struct lmi_value b, struct lmi_value *out);
int lmi_exec(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *block, struct lmi_text *out);
int lmi_call_macro(struct lmi_render *r, const struct lmi_macro *m, const struct lmi_args *a, struct lmi_value *out);
/* The value of a name, UNDEFINED when nothing has it. */
struct lmi_value lmi_lookup(const struct lmi_frame *f, struct lm_span name);

#endif
