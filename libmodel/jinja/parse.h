/* What every rule of the grammar is written with: the current token, and nodes. Private to parse.c. */
#ifndef LIBMODEL_JINJA_PARSE_H
#define LIBMODEL_JINJA_PARSE_H

#include "libmodel/jinja/ast.h"

enum { MAX_DEPTH = 200 };

struct parser {
    const struct lmi_token *t;
    struct lm_arena *arena;
    struct lm_err *e;
    unsigned depth;
    unsigned loops; /* around the statement, for break and continue */
};
typedef struct lmi_node node;

static inline bool is(const struct parser *p, enum lmi_token_kind kind, const char *text)
{
    return p->t->kind == kind && (!text || lmi_span_is(p->t->text, text));
}
static inline bool is_op(const struct parser *p, const char *text) { return is(p, LMI_TOK_OP, text); }
static inline bool is_name(const struct parser *p, const char *text) { return is(p, LMI_TOK_NAME, text); }

static inline bool skip_op(struct parser *p, const char *text)
{
    return is_op(p, text) && p->t++;
}
static inline bool skip_name(struct parser *p, const char *text)
{
    return is_name(p, text) && p->t++;
}

static inline void *unexpected(struct parser *p, const char *wanted)
{
    static const char *const names[] = {"the end", "text", "{{", "}}", "{%", "%}", "a name", "a string", "a number",
                                        "a number", "an operator"};
    const struct lmi_token *t = p->t;

    if (t->kind == LMI_TOK_NAME || t->kind == LMI_TOK_OP)
        lmi_syntax(p->e, t->line, "%s expected, found %.*s", wanted, (int)(t->text.size % 100),
                   (const char *)t->text.data);
    else
        lmi_syntax(p->e, t->line, "%s expected, found %s", wanted, names[t->kind]);
    return NULL;
}

static inline bool expect_op(struct parser *p, const char *text)
{
    return skip_op(p, text) || unexpected(p, text);
}

static inline node *new_node(struct parser *p, enum lmi_node_kind kind)
{
    node *n = lm_arena_alloc(p->arena, sizeof *n);

    if (!n) {
        lm_err_set(p->e, LM_NOMEM, "out of memory while reading a template");
        return NULL;
    }
    n->kind = kind;
    n->line = p->t->line;
    return n;
}

static inline node *append(struct parser *p, node ***list, size_t *n, node *kid)
{
    node **at = *list;

    if (!kid)
        return NULL;
    if ((*n & (*n - 1)) == 0) { /* full at every power of two */
        at = lm_arena_array(p->arena, *n ? 2 * *n : 1, sizeof *at);
        if (!at) {
            lm_err_set(p->e, LM_NOMEM, "out of memory while reading a template");
            return NULL;
        }
        if (*n)
            memcpy(at, *list, *n * sizeof *at);
        *list = at;
    }
    at[(*n)++] = kid;
    return kid;
}

static inline bool add_kid(struct parser *p, node *to, node *kid)
{
    return append(p, &to->kids, &to->n_kids, kid) != NULL;
}

/* A node with up to three kids, NULL when one that is needed failed. */
static inline node *with_kids(struct parser *p, enum lmi_node_kind kind, node *a, node *b)
{
    node *n = a && b ? new_node(p, kind) : NULL;

    return n && add_kid(p, n, a) && add_kid(p, n, b) ? n : NULL;
}

static inline node *with_kid(struct parser *p, enum lmi_node_kind kind, node *a)
{
    node *n = a ? new_node(p, kind) : NULL;

    return n && add_kid(p, n, a) ? n : NULL;
}

static inline node *constant(struct parser *p, struct lmi_value v)
{
    node *n = new_node(p, LMI_CONST);

    if (n)
        n->value = v;
    return n;
}

static inline bool enter(struct parser *p)
{
    if (++p->depth <= MAX_DEPTH)
        return true;
    lmi_syntax(p->e, p->t->line, "nested deeper than %d", MAX_DEPTH);
    return false;
}

#endif
