/* Tokens to a tree, with Jinja's precedence: if-else, or, and, not, comparison,
 * + -, ~, * / // %, **, unary, then attributes, calls, filters and tests. */
#include <stdlib.h>

#include "libmodel/jinja/parse.h"

static node *expression(struct parser *p);
static node *choice(struct parser *p, bool with_if);
static node *unary(struct parser *p, bool with_filter);
static node *statements(struct parser *p, const char *const *ends);

/* ---- primary expressions */

static node *list_until(struct parser *p, enum lmi_node_kind kind, const char *close)
{
    node *n = new_node(p, kind);

    while (n && !is_op(p, close)) {
        if (n->n_kids && !expect_op(p, ","))
            return NULL;
        if (is_op(p, close))
            break;
        if (!add_kid(p, n, expression(p)))
            return NULL;
    }
    return n && expect_op(p, close) ? n : NULL;
}

static node *dict(struct parser *p)
{
    node *n = new_node(p, LMI_DICT_OF);

    while (n && !is_op(p, "}")) {
        if (n->n_kids && !expect_op(p, ","))
            return NULL;
        if (is_op(p, "}"))
            break;
        if (!add_kid(p, n, expression(p)) || !expect_op(p, ":") || !add_kid(p, n, expression(p)))
            return NULL;
    }
    return n && expect_op(p, "}") ? n : NULL;
}

/* "(a)" is a, "(a, b)", "(a,)" and "()" are tuples. */
static node *parenthesized(struct parser *p)
{
    node *first;

    if (is_op(p, ")"))
        return list_until(p, LMI_TUPLE_OF, ")");
    first = expression(p);
    if (!first || skip_op(p, ")"))
        return first;
    if (!expect_op(p, ","))
        return NULL;
    node *rest = list_until(p, LMI_TUPLE_OF, ")");
    node *n = rest ? with_kid(p, LMI_TUPLE_OF, first) : NULL;
    for (size_t i = 0; n && i < rest->n_kids; i++)
        if (!add_kid(p, n, rest->kids[i]))
            return NULL;
    return n;
}

static node *string(struct parser *p)
{
    struct lm_span s = p->t->text;

    for (p->t++; is(p, LMI_TOK_STR, NULL); p->t++) { /* neighbours are joined */
        uint8_t *both = lm_arena_alloc(p->arena, s.size + p->t->text.size + 1);
        if (!both)
            return unexpected(p, "memory");
        memcpy(both, s.data, s.size);
        memcpy(both + s.size, p->t->text.data, p->t->text.size);
        s = lm_span_of(both, s.size + p->t->text.size);
    }
    return constant(p, lmi_str(s));
}

static node *name(struct parser *p)
{
    static const struct { const char *name; enum lmi_kind kind; bool b; } constants[] = {
        {"true", LMI_BOOL, true}, {"True", LMI_BOOL, true}, {"false", LMI_BOOL, false},
        {"False", LMI_BOOL, false}, {"none", LMI_NONE, false}, {"None", LMI_NONE, false}};
    node *n = new_node(p, LMI_NAME);

    if (!n)
        return NULL;
    n->name = p->t->text;
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
        if (lmi_span_is(n->name, constants[i].name)) {
            n->kind = LMI_CONST;
            n->value = constants[i].kind == LMI_BOOL ? lmi_bool(constants[i].b) : lmi_none();
        }
    p->t++;
    return n;
}

static node *primary(struct parser *p)
{
    node *n = NULL;

    if (is(p, LMI_TOK_NAME, NULL))
        return name(p);
    if (is(p, LMI_TOK_STR, NULL))
        return string(p);
    if (is(p, LMI_TOK_INT, NULL) || is(p, LMI_TOK_FLOAT, NULL)) {
        n = constant(p, p->t->value);
        p->t++;
        return n;
    }
    if (!enter(p))
        return NULL;
    if (skip_op(p, "("))
        n = parenthesized(p);
    else if (skip_op(p, "["))
        n = list_until(p, LMI_LIST_OF, "]");
    else if (skip_op(p, "{"))
        n = dict(p);
    else
        unexpected(p, "an expression");
    p->depth--;
    return n;
}

/* ---- attributes, subscripts, calls */

/* A bound of a slice, or None where it is left out. */
static node *bound(struct parser *p)
{
    return is_op(p, ":") || is_op(p, "]") || is_op(p, ",") ? constant(p, lmi_none()) : expression(p);
}

static node *subscript(struct parser *p, node *object)
{
    node *first = bound(p), *n;

    if (first && skip_op(p, "]"))
        return with_kids(p, LMI_ITEM, object, first);
    n = first ? with_kids(p, LMI_SLICE, object, first) : NULL;
    if (!n || !expect_op(p, ":") || !add_kid(p, n, bound(p)))
        return NULL;
    if (!add_kid(p, n, skip_op(p, ":") ? bound(p) : constant(p, lmi_none())))
        return NULL;
    return expect_op(p, "]") ? n : NULL;
}

/* Arguments up to ")" are added to n. */
static bool arguments(struct parser *p, node *n)
{
    for (bool first = true; !is_op(p, ")"); first = false) {
        if (!first && (!expect_op(p, ",") || is_op(p, ")")))
            break;
        bool named = p->t->kind == LMI_TOK_NAME && p->t[1].kind == LMI_TOK_OP && lmi_span_is(p->t[1].text, "=");
        struct lm_span key = p->t->text;
        p->t += named ? 2 : 0;
        if (is_op(p, "*") || is_op(p, "**"))
            return unexpected(p, "an argument (lists are not unpacked into arguments)");
        node *value = expression(p);
        node *arg = named ? with_kid(p, LMI_NAME, value) : value;
        if (!arg || !(named ? append(p, &n->named, &n->n_named, arg) != NULL : add_kid(p, n, arg)))
            return false;
        if (named)
            arg->name = key;
        else if (n->n_named)
            return unexpected(p, "an argument with a name");
    }
    return expect_op(p, ")");
}

static node *call(struct parser *p, node *callee)
{
    node *n = with_kid(p, LMI_CALL, callee);

    return n && arguments(p, n) ? n : NULL;
}

static node *attribute(struct parser *p, node *object)
{
    if (is(p, LMI_TOK_INT, NULL)) {
        node *key = constant(p, p->t++->value);
        return with_kids(p, LMI_ITEM, object, key);
    }
    if (!is(p, LMI_TOK_NAME, NULL))
        return unexpected(p, "a name after the dot");
    node *n = with_kid(p, LMI_ATTR, object);
    if (n)
        n->name = p->t++->text;
    return n;
}

static node *postfix(struct parser *p, node *n)
{
    while (n) {
        if (skip_op(p, "."))
            n = attribute(p, n);
        else if (skip_op(p, "["))
            n = subscript(p, n);
        else if (skip_op(p, "("))
            n = call(p, n);
        else
            return n;
    }
    return NULL;
}

/* ---- filters and tests */

static node *named_builtin(struct parser *p, enum lmi_node_kind kind, node *operand)
{
    node *n;

    if (!is(p, LMI_TOK_NAME, NULL))
        return unexpected(p, kind == LMI_FILTER ? "the name of a filter" : "the name of a test");
    n = operand ? with_kid(p, kind, operand) : new_node(p, kind);
    if (!n)
        return NULL;
    n->name = p->t->text;
    n->fn = kind == LMI_FILTER ? lmi_filter(n->name) : lmi_test(n->name);
    if (!n->fn)
        return unexpected(p, kind == LMI_FILTER ? "a filter that exists" : "a test that exists");
    p->t++;
    return n;
}

static node *filter(struct parser *p, node *operand)
{
    node *n = named_builtin(p, LMI_FILTER, operand);

    return n && skip_op(p, "(") && !arguments(p, n) ? NULL : n;
}

/* A test may have one argument without parentheses. */
static bool bare_argument(const struct parser *p)
{
    static const char *const ops[] = {"(", "[", "{"};

    if (is(p, LMI_TOK_NAME, NULL))
        return !is_name(p, "else") && !is_name(p, "or") && !is_name(p, "and");
    for (size_t i = 0; i < 3; i++)
        if (is_op(p, ops[i]))
            return true;
    return is(p, LMI_TOK_STR, NULL) || is(p, LMI_TOK_INT, NULL) || is(p, LMI_TOK_FLOAT, NULL);
}

static node *test(struct parser *p, node *operand)
{
    bool negated = skip_name(p, "not");
    node *n = named_builtin(p, LMI_TEST, operand);

    if (!n)
        return NULL;
    if (skip_op(p, "(")) {
        if (!arguments(p, n))
            return NULL;
    } else if (is_name(p, "is")) {
        return unexpected(p, "one test at a time");
    } else if (bare_argument(p) && !add_kid(p, n, postfix(p, primary(p)))) {
        return NULL;
    }
    return negated ? with_kid(p, LMI_NOT, n) : n;
}

static node *filters(struct parser *p, node *n)
{
    while (n) {
        if (skip_op(p, "|"))
            n = filter(p, n);
        else if (skip_name(p, "is"))
            n = test(p, n);
        else if (skip_op(p, "(")) /* what a filter gave is called */
            n = call(p, n);
        else
            return n;
    }
    return NULL;
}

/* ---- operators, tightest first */

static node *unary(struct parser *p, bool with_filter)
{
    node *n = NULL;

    if (!enter(p))
        return NULL;
    if (skip_op(p, "-"))
        n = with_kid(p, LMI_NEG, unary(p, false));
    else if (skip_op(p, "+"))
        n = with_kid(p, LMI_POS, unary(p, false));
    else
        n = primary(p);
    n = postfix(p, n);
    p->depth--;
    return n && with_filter ? filters(p, n) : n;
}

struct binary_op { const char *text; enum lmi_op op; };

static node *binary(struct parser *p, const struct binary_op *ops, node *(*next)(struct parser *))
{
    node *left = next(p);

    for (const struct binary_op *o = ops; left && o->text;) {
        if (!skip_op(p, o->text)) {
            o++;
            continue;
        }
        left = with_kids(p, LMI_BINARY, left, next(p));
        if (left)
            left->op = o->op;
        o = ops;
    }
    return left;
}

static node *filtered(struct parser *p) { return unary(p, true); }

static node *power(struct parser *p)
{
    static const struct binary_op ops[] = {{"**", LMI_POW}, {NULL, 0}};
    return binary(p, ops, filtered);
}

static node *product(struct parser *p)
{
    static const struct binary_op ops[] = {{"*", LMI_MUL}, {"/", LMI_DIV}, {"//", LMI_FLOORDIV}, {"%", LMI_MOD}, {NULL, 0}};
    return binary(p, ops, power);
}

static node *concatenation(struct parser *p)
{
    node *first = product(p), *n;

    if (!first || !is_op(p, "~"))
        return first;
    n = with_kid(p, LMI_CONCAT, first);
    while (n && skip_op(p, "~"))
        if (!add_kid(p, n, product(p)))
            return NULL;
    return n;
}

static node *sum(struct parser *p)
{
    static const struct binary_op ops[] = {{"+", LMI_ADD}, {"-", LMI_SUB}, {NULL, 0}};
    return binary(p, ops, concatenation);
}

static bool comparison_op(struct parser *p, enum lmi_op *op)
{
    static const struct binary_op ops[] = {{"==", LMI_EQ}, {"!=", LMI_NE}, {"<", LMI_LT},
                                           {"<=", LMI_LE}, {">", LMI_GT}, {">=", LMI_GE}};

    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (skip_op(p, ops[i].text)) {
            *op = ops[i].op;
            return true;
        }
    if (is_name(p, "not") && p->t[1].kind == LMI_TOK_NAME && lmi_span_is(p->t[1].text, "in")) {
        p->t += 2;
        *op = LMI_NOT_IN;
        return true;
    }
    *op = LMI_IN;
    return skip_name(p, "in");
}

/* a < b < c: kids a, then one COMPARE a step with its op and right side. */
static node *comparison(struct parser *p)
{
    node *first = sum(p), *n = NULL;
    enum lmi_op op;

    while (first && comparison_op(p, &op)) {
        node *step = with_kid(p, LMI_COMPARE, sum(p));
        if (step)
            step->op = op;
        n = n ? n : with_kid(p, LMI_COMPARE, first);
        if (!n || !add_kid(p, n, step))
            return NULL;
    }
    return n ? n : first;
}

static node *negation(struct parser *p)
{
    node *n;

    if (!is_name(p, "not"))
        return comparison(p);
    p->t++;
    if (!enter(p))
        return NULL;
    n = with_kid(p, LMI_NOT, negation(p));
    p->depth--;
    return n;
}

static node *conjunction(struct parser *p)
{
    node *n = negation(p);

    while (n && skip_name(p, "and"))
        n = with_kids(p, LMI_AND, n, negation(p));
    return n;
}

static node *disjunction(struct parser *p)
{
    node *n = conjunction(p);

    while (n && skip_name(p, "or"))
        n = with_kids(p, LMI_OR, n, conjunction(p));
    return n;
}

static node *choice(struct parser *p, bool with_if)
{
    node *n = disjunction(p);

    while (n && with_if && skip_name(p, "if")) {
        node *c = with_kids(p, LMI_CHOICE, disjunction(p), n);
        if (c && skip_name(p, "else") && !add_kid(p, c, choice(p, true)))
            return NULL;
        n = c;
    }
    return n;
}

static node *expression(struct parser *p)
{
    node *n = NULL;

    if (enter(p))
        n = choice(p, true);
    p->depth--;
    return n;
}

/* Where a tuple may stand without parentheses. */
static node *tuple(struct parser *p, bool with_if)
{
    node *first = choice(p, with_if), *n;

    if (!first || !is_op(p, ","))
        return first;
    n = with_kid(p, LMI_TUPLE_OF, first);
    while (n && skip_op(p, ",")) {
        if (p->t->kind == LMI_TOK_PRINT_END || p->t->kind == LMI_TOK_BLOCK_END || is_op(p, "=") || is_name(p, "in"))
            break;
        if (!add_kid(p, n, choice(p, with_if)))
            return NULL;
    }
    return n;
}

/* ---- statements */

static bool end_of_tag(struct parser *p)
{
    if (p->t->kind == LMI_TOK_BLOCK_END && p->t++)
        return true;
    unexpected(p, "%}");
    return false;
}

/* The body up to one of the ends, whose name is then the current token. */
static node *body(struct parser *p, const char *const *ends)
{
    return end_of_tag(p) ? statements(p, ends) : NULL;
}

static node *target_name(struct parser *p)
{
    node *n;

    if (!is(p, LMI_TOK_NAME, NULL))
        return unexpected(p, "a name");
    n = name(p);
    if (n && n->kind != LMI_NAME)
        return unexpected(p, "a name that can be set");
    return n;
}

/* name, ns.attr, or (a, b) with or without parentheses. */
static node *target(struct parser *p, bool with_attr)
{
    bool closed = skip_op(p, "(");
    node *first = target_name(p), *n = first;

    if (first && with_attr && skip_op(p, "."))
        return attribute(p, first);
    if (first && is_op(p, ","))
        n = with_kid(p, LMI_TUPLE_OF, first);
    while (n && n != first && skip_op(p, ",")) {
        if (!is(p, LMI_TOK_NAME, NULL) || is_name(p, "in"))
            break;
        if (!add_kid(p, n, target_name(p)))
            return NULL;
    }
    return n && closed && !expect_op(p, ")") ? NULL : n;
}

static node *for_statement(struct parser *p)
{
    static const char *const ends[] = {"endfor", "else", NULL}, *const end[] = {"endfor", NULL};
    node *to = target(p, false), *n;

    if (!to || (!skip_name(p, "in") && !unexpected(p, "in")))
        return NULL;
    n = with_kids(p, LMI_FOR, to, tuple(p, false));
    if (!n || (skip_name(p, "if") && !add_kid(p, n, expression(p))))
        return NULL;
    if (is_name(p, "recursive"))
        return unexpected(p, "a loop that is not recursive (those are not handled)");
    p->loops++;
    n->body = body(p, ends);
    p->loops--;
    if (n->body && skip_name(p, "else") && !(n->other = body(p, end)))
        return NULL;
    return n->body && p->t++ ? n : NULL;
}

static node *if_statement(struct parser *p)
{
    static const char *const ends[] = {"endif", "else", "elif", NULL}, *const end[] = {"endif", NULL};
    node *n = with_kid(p, LMI_IF, tuple(p, false));

    if (n && is_name(p, "if")) /* a condition may hold a choice of its own */
        return unexpected(p, "%}");
    if (!n || !(n->body = body(p, ends)))
        return NULL;
    if (skip_name(p, "elif")) {
        n->other = enter(p) ? if_statement(p) : NULL;
        p->depth--;
        return n->other ? n : NULL;
    }
    if (skip_name(p, "else") && !(n->other = body(p, end)))
        return NULL;
    p->t++;
    return n;
}

static node *set_statement(struct parser *p)
{
    static const char *const end[] = {"endset", NULL};
    node *to = target(p, true), *n;

    if (!to)
        return NULL;
    if (skip_op(p, "="))
        return with_kids(p, LMI_SET, to, tuple(p, true));
    n = with_kid(p, LMI_SET_BLOCK, to);
    while (n && skip_op(p, "|")) {
        node *f = filter(p, NULL);
        if (!f || !append(p, &n->named, &n->n_named, f))
            return NULL;
    }
    return n && (n->body = body(p, end)) && p->t++ ? n : NULL;
}

static bool parameters(struct parser *p, node *macro)
{
    if (!expect_op(p, "("))
        return false;
    while (!is_op(p, ")")) {
        if (macro->n_kids && !expect_op(p, ","))
            return false;
        node *param = target_name(p);
        if (!param || !add_kid(p, macro, param))
            return false;
        if (skip_op(p, "=") && !add_kid(p, param, expression(p)))
            return false;
    }
    return expect_op(p, ")");
}

static node *macro_statement(struct parser *p)
{
    static const char *const end[] = {"endmacro", NULL};
    node *n = new_node(p, LMI_MACRO_DEF);
    unsigned loops = p->loops;

    if (!n || !is(p, LMI_TOK_NAME, NULL))
        return n ? unexpected(p, "the name of the macro") : NULL;
    n->name = p->t++->text;
    if (!parameters(p, n))
        return NULL;
    p->loops = 0;
    n->body = body(p, end);
    p->loops = loops;
    return n->body && p->t++ ? n : NULL;
}

static node *filter_statement(struct parser *p)
{
    static const char *const end[] = {"endfilter", NULL};
    node *n = new_node(p, LMI_FILTER_BLOCK);

    do {
        node *f = n ? filter(p, NULL) : NULL;
        if (!f || !append(p, &n->named, &n->n_named, f))
            return NULL;
    } while (skip_op(p, "|"));
    return (n->body = body(p, end)) && p->t++ ? n : NULL;
}

/* Marks what the assistant said for training; renders as what it holds. */
static node *generation_statement(struct parser *p)
{
    static const char *const end[] = {"endgeneration", NULL};
    node *n = body(p, end);

    return n && p->t++ ? n : NULL;
}

static node *jump(struct parser *p, enum lmi_node_kind kind)
{
    if (p->loops == 0)
        return unexpected(p, "break or continue inside a loop");
    return new_node(p, kind);
}

static node *break_statement(struct parser *p) { return jump(p, LMI_BREAK); }
static node *continue_statement(struct parser *p) { return jump(p, LMI_CONTINUE); }

static node *statement(struct parser *p)
{
    static const struct { const char *name; node *(*parse)(struct parser *); } kinds[] = {
        {"if", if_statement}, {"for", for_statement}, {"set", set_statement}, {"macro", macro_statement},
        {"filter", filter_statement}, {"generation", generation_statement}, {"break", break_statement},
        {"continue", continue_statement}};

    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (!skip_name(p, kinds[i].name))
            continue;
        node *n = enter(p) ? kinds[i].parse(p) : NULL;
        p->depth--;
        return n && end_of_tag(p) ? n : NULL;
    }
    if (is(p, LMI_TOK_NAME, NULL))
        lm_err_set(p->e, LM_UNSUPPORTED, "line %u of the template: the statement %.*s is not one that is handled",
                   p->t->line, (int)(p->t->text.size % 100), (const char *)p->t->text.data);
    else
        unexpected(p, "a statement");
    return NULL;
}

static node *print_statement(struct parser *p)
{
    node *n = with_kid(p, LMI_PRINT, tuple(p, true));

    if (n && p->t->kind != LMI_TOK_PRINT_END)
        return unexpected(p, "}}");
    p->t++;
    return n;
}

static bool at_end(const struct parser *p, const char *const *ends)
{
    for (; ends && *ends; ends++)
        if (is_name(p, *ends))
            return true;
    return false;
}

static node *data(struct parser *p)
{
    node *n = new_node(p, LMI_DATA);

    if (n)
        n->name = p->t++->text;
    return n;
}

static node *statements(struct parser *p, const char *const *ends)
{
    node *block = new_node(p, LMI_BLOCK);
    uint32_t line = p->t->line;

    while (block) {
        enum lmi_token_kind kind = p->t->kind;
        if (kind == LMI_TOK_END) {
            if (!ends)
                return block;
            lmi_syntax(p->e, line, "the body that begins here is not closed by %s", ends[0]);
            return NULL;
        }
        if (kind != LMI_TOK_DATA)
            p->t++;
        if (kind == LMI_TOK_BLOCK && at_end(p, ends))
            return block;
        if (!add_kid(p, block, kind == LMI_TOK_DATA ? data(p) : kind == LMI_TOK_PRINT ? print_statement(p) : statement(p)))
            return NULL;
    }
    return NULL;
}

int lmi_parse(struct lm_template *t, const struct lmi_tokens *tokens, struct lm_err *e)
{
    struct parser p = {tokens->at, &t->arena, e, 0, 0};

    t->root = statements(&p, NULL);
    return t->root ? 0 : -1;
}
