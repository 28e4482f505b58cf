/* Statements, and the rendering as a whole. */
#include <stdlib.h>

#include "libmodel/jinja/ast.h"
#include "libmodel/template.h"

/* How a block was left. */
enum { DONE = 0, BREAK = 1, CONTINUE = 2 };

/* In the arena: a macro that is defined in it may outlive the block. */
static struct lmi_frame *new_frame(struct lmi_render *r, struct lmi_frame *up)
{
    struct lmi_frame *f = lmi_alloc(r, sizeof *f);

    if (f)
        f->up = up;
    return f;
}

static int exec_inside(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *block, struct lmi_text *out)
{
    struct lmi_frame *inner = new_frame(r, f);

    return inner ? lmi_exec(r, inner, block, out) : -1;
}

/* ---- assigning */

static int set_name(struct lmi_render *r, struct lmi_frame *f, struct lm_span name, struct lmi_value v)
{
    return lmi_dict_put(r, &f->names, lmi_str(name), v);
}

static int set_attribute(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *target, struct lmi_value v)
{
    struct lmi_value object;

    if (lmi_eval(r, f, target->kids[0], &object) < 0)
        return -1;
    if (object.kind != LMI_NAMESPACE)
        return lmi_fail(r, "only a namespace has attributes that can be set, not %s", lmi_kind_name(object));
    if (target->name.size && target->name.data[0] == '_')
        return lmi_fail(r, "attributes that begin with _ cannot be set");
    return lmi_dict_put(r, object.u.dict, lmi_str(target->name), v);
}

static int assign(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *target, struct lmi_value v)
{
    struct lmi_list items;

    if (target->kind == LMI_NAME)
        return set_name(r, f, target->name, v);
    if (target->kind == LMI_ATTR)
        return set_attribute(r, f, target, v);
    if (v.kind == LMI_UNDEFINED || lmi_iterate(r, v, &items) < 0)
        return v.kind == LMI_UNDEFINED ? lmi_fail(r, "an undefined value cannot be unpacked") : -1;
    if (items.n != target->n_kids)
        return lmi_fail(r, "%zu values cannot be unpacked into %zu names", items.n, target->n_kids);
    for (size_t i = 0; i < items.n; i++)
        if (assign(r, f, target->kids[i], items.at[i]) < 0)
            return -1;
    return 0;
}

/* Filters of a block, in turn. */
static int filtered(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *n, struct lmi_value *v)
{
    for (size_t i = 0; i < n->n_named; i++) {
        struct lmi_node operand = {.kind = LMI_CONST, .line = n->line, .value = *v}, call = *n->named[i];
        struct lmi_node **kids = lmi_alloc(r, (call.n_kids + 1) * sizeof *kids);
        if (!kids)
            return -1;
        kids[0] = &operand;
        if (call.n_kids)
            memcpy(kids + 1, call.kids, call.n_kids * sizeof *kids);
        call.kids = kids;
        call.n_kids++;
        if (lmi_eval(r, f, &call, v) < 0)
            return -1;
    }
    return 0;
}

static int set_block(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *n)
{
    struct lmi_text t = {0};
    struct lmi_value v;

    if (exec_inside(r, f, n->body, &t) < 0)
        return -1;
    v = lmi_text_value(&t);
    return filtered(r, f, n, &v) < 0 ? -1 : assign(r, f, n->kids[0], v);
}

static int filter_block(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *n, struct lmi_text *out)
{
    struct lmi_text t = {0};
    struct lmi_value v;

    if (exec_inside(r, f, n->body, &t) < 0)
        return -1;
    v = lmi_text_value(&t);
    return filtered(r, f, n, &v) < 0 ? -1 : lmi_print(r, out, v);
}

/* ---- loops */

/* Items for which the filter of the loop holds. */
static int kept_items(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *n, struct lmi_list *items)
{
    struct lmi_list kept = {0};

    for (size_t i = 0; i < items->n; i++) {
        struct lmi_frame *inner = new_frame(r, f);
        struct lmi_value v;
        if (!inner || assign(r, inner, n->kids[0], items->at[i]) < 0 || lmi_eval(r, inner, n->kids[2], &v) < 0)
            return -1;
        if (lmi_truth(v) && lmi_list_add(r, &kept, items->at[i]) < 0)
            return -1;
    }
    *items = kept;
    return 0;
}

static size_t loop_depth(const struct lmi_frame *f)
{
    for (; f; f = f->up) {
        const struct lmi_value *v = lmi_dict_find(&f->names, "loop");
        if (v && v->kind == LMI_LOOP)
            return v->u.loop->depth + 1;
    }
    return 0;
}

static int run_loop(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *n, struct lmi_list *items,
                    struct lmi_text *out)
{
    struct lmi_loop *loop = lmi_alloc(r, sizeof *loop);
    int left = DONE;

    if (!loop)
        return -1;
    *loop = (struct lmi_loop){.items = items, .depth = loop_depth(f)};
    for (; loop->i < items->n && left != BREAK; loop->i++) {
        struct lmi_frame *inner = new_frame(r, f);
        if (!inner || set_name(r, inner, lm_span_str("loop"), (struct lmi_value){.kind = LMI_LOOP, .u = {.loop = loop}}) < 0 ||
            assign(r, inner, n->kids[0], items->at[loop->i]) < 0)
            return -1;
        left = lmi_exec(r, inner, n->body, out);
        if (left < 0)
            return -1;
    }
    return DONE;
}

static int for_loop(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *n, struct lmi_text *out)
{
    struct lmi_list *items = lmi_alloc(r, sizeof *items);
    struct lmi_value v;

    if (!items || lmi_eval(r, f, n->kids[1], &v) < 0 || lmi_iterate(r, v, items) < 0)
        return -1;
    if (n->n_kids == 3 && kept_items(r, f, n, items) < 0)
        return -1;
    if (items->n == 0 && n->other)
        return exec_inside(r, f, n->other, out);
    return run_loop(r, f, n, items, out);
}

int lmi_loop_attribute(struct lmi_render *r, struct lmi_value v, struct lm_span name, struct lmi_value *out)
{
    const struct lmi_loop *l = v.u.loop;
    size_t n = l->items->n;
    const struct { const char *name; struct lmi_value value; } table[] = {
        {"index", lmi_int((int64_t)l->i + 1)},        {"index0", lmi_int((int64_t)l->i)},
        {"revindex", lmi_int((int64_t)(n - l->i))},   {"revindex0", lmi_int((int64_t)(n - l->i) - 1)},
        {"first", lmi_bool(l->i == 0)},               {"last", lmi_bool(l->i + 1 == n)},
        {"length", lmi_int((int64_t)n)},              {"depth", lmi_int((int64_t)l->depth + 1)},
        {"depth0", lmi_int((int64_t)l->depth)},
        {"previtem", l->i > 0 ? l->items->at[l->i - 1] : lmi_undefined(lm_span_str("loop.previtem"))},
        {"nextitem", l->i + 1 < n ? l->items->at[l->i + 1] : lmi_undefined(lm_span_str("loop.nextitem"))}};

    *out = lmi_undefined(name);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (lmi_span_is(name, table[i].name))
            *out = table[i].value;
    return lmi_spend(r, 1);
}

/* ---- macros */

static int bind_parameters(struct lmi_render *r, const struct lmi_macro *m, const struct lmi_args *a,
                           struct lmi_frame *inner)
{
    const struct lmi_node *def = m->def;
    size_t used = 0;

    for (size_t i = 0; i < def->n_kids; i++) {
        const struct lmi_node *p = def->kids[i];
        struct lmi_value v = lmi_undefined(p->name);
        size_t k = 0;
        while (k < a->n_named && !lm_span_eq(a->named[k].name, p->name))
            k++;
        used += k < a->n_named;
        if (i < a->n && k < a->n_named)
            return lmi_fail(r, "the macro got its parameter %.*s twice", (int)(p->name.size % 100),
                            (const char *)p->name.data);
        if (i < a->n)
            v = a->at[i];
        else if (k < a->n_named)
            v = a->named[k].value;
        else if (p->n_kids && lmi_eval(r, inner, p->kids[0], &v) < 0)
            return -1;
        if (set_name(r, inner, p->name, v) < 0)
            return -1;
    }
    if (a->n > def->n_kids || used < a->n_named)
        return lmi_fail(r, "the macro %.*s takes %zu parameters and got others", (int)(def->name.size % 100),
                        (const char *)def->name.data, def->n_kids);
    return 0;
}

int lmi_call_macro(struct lmi_render *r, const struct lmi_macro *m, const struct lmi_args *a, struct lmi_value *out)
{
    struct lmi_frame *inner = new_frame(r, m->frame);
    struct lmi_text t = {0};
    uint32_t line = r->line;

    if (!inner || bind_parameters(r, m, a, inner) < 0 || lmi_exec(r, inner, m->def->body, &t) < 0)
        return -1;
    *out = lmi_text_value(&t);
    r->line = line;
    return 0;
}

static int define_macro(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *n)
{
    struct lmi_macro *m = lmi_alloc(r, sizeof *m);

    if (!m)
        return -1;
    *m = (struct lmi_macro){n, f};
    return set_name(r, f, n->name, (struct lmi_value){.kind = LMI_MACRO, .u = {.macro = m}});
}

/* ---- statements */

static int if_statement(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *n, struct lmi_text *out)
{
    for (; n && n->kind == LMI_IF; n = n->other) {
        struct lmi_value c;
        if (lmi_eval(r, f, n->kids[0], &c) < 0)
            return -1;
        if (lmi_truth(c))
            return lmi_exec(r, f, n->body, out);
    }
    return n ? lmi_exec(r, f, n, out) : DONE;
}

static int statement(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *n, struct lmi_text *out)
{
    struct lmi_value v;

    switch (n->kind) {
    case LMI_DATA:
        return lmi_text_add(r, out, n->name);
    case LMI_PRINT:
        return lmi_eval(r, f, n->kids[0], &v) < 0 ? -1 : lmi_print(r, out, v);
    case LMI_BLOCK: /* generation */
        return exec_inside(r, f, n, out);
    case LMI_FOR:
        return for_loop(r, f, n, out);
    case LMI_IF:
        return if_statement(r, f, n, out);
    case LMI_SET:
        return lmi_eval(r, f, n->kids[1], &v) < 0 ? -1 : assign(r, f, n->kids[0], v);
    case LMI_SET_BLOCK:
        return set_block(r, f, n);
    case LMI_MACRO_DEF:
        return define_macro(r, f, n);
    case LMI_FILTER_BLOCK:
        return filter_block(r, f, n, out);
    default:
        return n->kind == LMI_BREAK ? BREAK : CONTINUE;
    }
}

int lmi_exec(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *block, struct lmi_text *out)
{
    int left = DONE;

    for (size_t i = 0; i < block->n_kids && left == DONE; i++) {
        r->line = block->kids[i]->line;
        if (lmi_spend(r, 1) < 0)
            return -1;
        left = statement(r, f, block->kids[i], out);
    }
    return left;
}

/* ---- the template as a whole */

static bool add_source(struct lm_template *t, struct lm_span s, struct lm_span *out)
{
    uint8_t *to = lm_arena_alloc(&t->arena, s.size + 1);
    size_t n = 0;

    if (!to)
        return false;
    for (size_t i = 0; i < s.size; i++) { /* one kind of line end */
        if (s.data[i] == '\r' && i + 1 < s.size && s.data[i + 1] == '\n')
            continue;
        to[n++] = s.data[i] == '\r' ? '\n' : s.data[i];
    }
    n -= n > 0 && to[n - 1] == '\n'; /* the last one is not part of the template */
    *out = lm_span_of(to, n);
    return true;
}

int lm_template_new(struct lm_template **out, struct lm_span source, struct lm_err *e)
{
    struct lm_template *t;
    struct lmi_tokens tokens = {0};
    int code = -1;

    *out = NULL;
    if (!lm_utf8_valid(source))
        return lm_err_set(e, LM_MALFORMED, "the template is not valid UTF-8");
    t = calloc(1, sizeof *t);
    if (!t || !add_source(t, source, &source))
        lm_err_set(e, LM_NOMEM, "out of memory while reading a template");
    else if (lmi_lex(&tokens, &t->arena, source, e) == 0)
        code = lmi_parse(t, &tokens, e);
    if (code < 0)
        lm_template_free(t);
    else
        *out = t;
    return code;
}

void lm_template_free(struct lm_template *t)
{
    if (!t)
        return;
    lm_arena_free(&t->arena);
    free(t);
}

static int render(const struct lm_template *t, struct lmi_render *r, struct lm_span variables, char **out, size_t *n_out)
{
    struct lmi_value v;
    struct lmi_text text = {0};
    struct lmi_frame globals = {0}, f = {.up = &globals};

    if (lmi_from_json(r, variables, "the template's variables", &v) < 0)
        return -1;
    if (v.kind != LMI_DICT)
        return lm_err_set(r->e, LM_USAGE, "a template's variables are a JSON object");
    globals.names = *v.u.dict;
    if (lmi_exec(r, &f, t->root, &text) < 0)
        return -1;
    *out = malloc(text.n + 1);
    if (!*out)
        return lm_err_set(r->e, LM_NOMEM, "out of memory while rendering a template");
    if (text.n)
        memcpy(*out, text.at, text.n);
    (*out)[text.n] = 0;
    *n_out = text.n;
    return 0;
}

int lm_template_render(const struct lm_template *t, struct lm_span variables, const struct lm_template_options *o,
                       char **out, size_t *n_out, struct lm_err *e)
{
    struct lm_template_options none = {0};
    const struct lm_template_options *given = o ? o : &none;
    struct lmi_render r = {.e = e,
                           .steps_left = given->max_steps ? given->max_steps : 10000000,
                           .max_bytes = given->max_bytes ? given->max_bytes : (size_t)64 << 20,
                           .now = given->now ? given->now : time(NULL)};
    int code = render(t, &r, variables, out, n_out);

    lm_arena_free(&r.arena);
    return code;
}
