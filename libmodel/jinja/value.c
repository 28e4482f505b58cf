/* Containers, equality, order and iteration, as in Python. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "libmodel/jinja/value.h"

enum { MAX_DEPTH = 64 };

int lmi_fail(struct lmi_render *r, const char *format, ...)
{
    char text[600];
    va_list ap;

    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    return lm_err_set(r->e, LM_MALFORMED, "line %u of the template: %s", r->line, text);
}

int lmi_spend(struct lmi_render *r, uint64_t steps)
{
    if (steps > r->steps_left)
        return lm_err_set(r->e, LM_LIMIT, "line %u of the template: stopped after too many operations", r->line);
    r->steps_left -= steps;
    return 0;
}

void *lmi_alloc(struct lmi_render *r, size_t n)
{
    void *p = NULL;

    if (r->arena.used > r->max_bytes || n > r->max_bytes - r->arena.used) {
        lm_err_set(r->e, LM_LIMIT, "line %u of the template: it needs more than %zu bytes of memory", r->line,
                   r->max_bytes);
        return NULL;
    }
    p = lm_arena_alloc(&r->arena, n ? n : 1);
    if (!p)
        lm_err_set(r->e, LM_NOMEM, "out of memory while rendering a template");
    return p;
}

const char *lmi_kind_name(struct lmi_value v)
{
    static const char *const names[] = {
        [LMI_UNDEFINED] = "an undefined value", [LMI_NONE] = "None", [LMI_BOOL] = "a bool", [LMI_INT] = "an int",
        [LMI_FLOAT] = "a float", [LMI_STR] = "a string", [LMI_LIST] = "a list", [LMI_TUPLE] = "a tuple",
        [LMI_DICT] = "a dict", [LMI_NAMESPACE] = "a namespace", [LMI_FUNCTION] = "a function",
        [LMI_METHOD] = "a method", [LMI_MACRO] = "a macro", [LMI_LOOP] = "the loop",
        [LMI_ITERATOR] = "a generator", [LMI_VIEW] = "a view of a dict"};
    return names[v.kind];
}

/* ---- containers */

/* Room for one more of `size` bytes each. */
static void *grown(struct lmi_render *r, void *at, size_t n, size_t *capacity, size_t size)
{
    size_t want = *capacity ? 2 * *capacity : 8;

    if (n < *capacity)
        return at;
    void *p = want > SIZE_MAX / 64 ? NULL : lmi_alloc(r, want * size);
    if (!p)
        return NULL;
    if (n)
        memcpy(p, at, n * size);
    *capacity = want;
    return p;
}

int lmi_list_new(struct lmi_render *r, enum lmi_kind kind, size_t capacity, struct lmi_value *out)
{
    struct lmi_list *l = lmi_alloc(r, sizeof *l);

    if (!l)
        return -1;
    if (capacity) {
        l->at = capacity > SIZE_MAX / 64 ? NULL : lmi_alloc(r, capacity * sizeof *l->at);
        if (!l->at)
            return -1;
        l->capacity = capacity;
    }
    *out = (struct lmi_value){.kind = kind, .u = {.list = l}};
    return 0;
}

int lmi_list_add(struct lmi_render *r, struct lmi_list *l, struct lmi_value v)
{
    struct lmi_value *p = grown(r, l->at, l->n, &l->capacity, sizeof *p);

    if (!p || lmi_spend(r, 1) < 0)
        return -1;
    l->at = p;
    l->at[l->n++] = v;
    return 0;
}

int lmi_dict_new(struct lmi_render *r, enum lmi_kind kind, struct lmi_value *out)
{
    struct lmi_dict *d = lmi_alloc(r, sizeof *d);

    *out = (struct lmi_value){.kind = kind, .u = {.dict = d}};
    return d ? 0 : -1;
}

static struct lmi_value *slot_of(const struct lmi_dict *d, struct lmi_value key)
{
    for (size_t i = 0; i < d->n; i++)
        if (lmi_equal(d->at[i].key, key))
            return &d->at[i].value;
    return NULL;
}

int lmi_check_key(struct lmi_render *r, struct lmi_value key)
{
    if (key.kind == LMI_LIST || key.kind == LMI_DICT)
        return lmi_fail(r, "%s cannot be the key of a dict", lmi_kind_name(key));
    for (size_t i = 0; key.kind == LMI_TUPLE && i < key.u.list->n; i++)
        if (key.u.list->at[i].kind == LMI_LIST || key.u.list->at[i].kind == LMI_DICT)
            return lmi_fail(r, "a tuple that holds %s cannot be the key of a dict", lmi_kind_name(key.u.list->at[i]));
    return 0;
}

int lmi_dict_put(struct lmi_render *r, struct lmi_dict *d, struct lmi_value key, struct lmi_value v)
{
    struct lmi_value *slot;

    if (lmi_check_key(r, key) < 0 || lmi_spend(r, 1 + d->n) < 0)
        return -1;
    slot = slot_of(d, key);
    if (slot) {
        *slot = v;
        return 0;
    }
    struct lmi_entry *p = grown(r, d->at, d->n, &d->capacity, sizeof *p);
    if (!p)
        return -1;
    d->at = p;
    d->at[d->n++] = (struct lmi_entry){key, v};
    return 0;
}

const struct lmi_value *lmi_dict_get(const struct lmi_dict *d, struct lmi_value key)
{
    return slot_of(d, key);
}

const struct lmi_value *lmi_dict_find(const struct lmi_dict *d, const char *key)
{
    return slot_of(d, lmi_str(lm_span_str(key)));
}

/* ---- iteration */

static int add_chars(struct lmi_render *r, struct lm_span s, struct lmi_list *out)
{
    for (size_t pos = 0; pos < s.size;) {
        size_t begin = pos;
        lmi_next_char(s, &pos);
        if (lmi_list_add(r, out, lmi_str(lm_span_of(s.data + begin, pos - begin))) < 0)
            return -1;
    }
    return 0;
}

int lmi_iterate(struct lmi_render *r, struct lmi_value v, struct lmi_list *out)
{
    *out = (struct lmi_list){0};
    switch (v.kind) {
    case LMI_UNDEFINED:
        return 0;
    case LMI_LIST:
    case LMI_TUPLE: /* shared: nothing changes a list once it is made */
    case LMI_VIEW:
    case LMI_ITERATOR:
        *out = *v.u.list;
        out->capacity = out->n;
        v.u.list->n = v.kind == LMI_ITERATOR ? 0 : out->n;
        return lmi_spend(r, out->n);
    case LMI_DICT:
        for (size_t i = 0; i < v.u.dict->n; i++)
            if (lmi_list_add(r, out, v.u.dict->at[i].key) < 0)
                return -1;
        return 0;
    case LMI_STR:
        return add_chars(r, v.u.s, out);
    default:
        return lmi_fail(r, "%s cannot be iterated over", lmi_kind_name(v));
    }
}

int lmi_length(struct lmi_render *r, struct lmi_value v, size_t *out)
{
    *out = 0;
    switch (v.kind) {
    case LMI_UNDEFINED:
        return 0;
    case LMI_STR:
        *out = lmi_n_chars(v.u.s);
        return lmi_spend(r, v.u.s.size / 16);
    case LMI_LIST:
    case LMI_TUPLE:
    case LMI_VIEW:
        *out = v.u.list->n;
        return 0;
    case LMI_DICT:
        *out = v.u.dict->n;
        return 0;
    default:
        return lmi_fail(r, "%s has no length", lmi_kind_name(v));
    }
}

/* ---- comparing */

bool lmi_truth(struct lmi_value v)
{
    switch (v.kind) {
    case LMI_UNDEFINED:
    case LMI_NONE:
        return false;
    case LMI_BOOL:
        return v.u.b;
    case LMI_INT:
        return v.u.i != 0;
    case LMI_FLOAT:
        return v.u.f != 0;
    case LMI_STR:
        return v.u.s.size > 0;
    case LMI_LIST:
    case LMI_TUPLE:
    case LMI_VIEW:
        return v.u.list->n > 0;
    case LMI_DICT:
        return v.u.dict->n > 0;
    default:
        return true;
    }
}

static double number(struct lmi_value v)
{
    return v.kind == LMI_FLOAT ? v.u.f : v.kind == LMI_INT ? (double)v.u.i : v.u.b;
}

static int64_t integer(struct lmi_value v)
{
    return v.kind == LMI_BOOL ? v.u.b : v.u.i;
}

static int compare_numbers(struct lmi_value a, struct lmi_value b)
{
    if (a.kind != LMI_FLOAT && b.kind != LMI_FLOAT)
        return (integer(a) > integer(b)) - (integer(a) < integer(b));
    return (number(a) > number(b)) - (number(a) < number(b));
}

static int compare_spans(struct lm_span a, struct lm_span b)
{
    size_t n = a.size < b.size ? a.size : b.size;
    int c = n ? memcmp(a.data, b.data, n) : 0;

    return c ? c : (a.size > b.size) - (a.size < b.size);
}

static bool equal(struct lmi_value a, struct lmi_value b, unsigned depth);

static bool equal_lists(const struct lmi_list *a, const struct lmi_list *b, unsigned depth)
{
    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++)
        if (!equal(a->at[i], b->at[i], depth))
            return false;
    return true;
}

static bool equal_dicts(const struct lmi_dict *a, const struct lmi_dict *b, unsigned depth)
{
    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++) {
        const struct lmi_value *other = lmi_dict_get(b, a->at[i].key);
        if (!other || !equal(a->at[i].value, *other, depth))
            return false;
    }
    return true;
}

static bool equal(struct lmi_value a, struct lmi_value b, unsigned depth)
{
    if (lmi_is_number(a) && lmi_is_number(b)) {
        bool nan = (a.kind == LMI_FLOAT && isnan(a.u.f)) || (b.kind == LMI_FLOAT && isnan(b.u.f));
        return !nan && compare_numbers(a, b) == 0;
    }
    if (a.kind != b.kind || depth >= MAX_DEPTH)
        return false;
    switch (a.kind) {
    case LMI_UNDEFINED:
    case LMI_NONE:
        return true;
    case LMI_STR:
        return lm_span_eq(a.u.s, b.u.s);
    case LMI_LIST:
    case LMI_TUPLE:
        return equal_lists(a.u.list, b.u.list, depth + 1);
    case LMI_DICT:
        return equal_dicts(a.u.dict, b.u.dict, depth + 1);
    case LMI_FUNCTION:
        return a.u.fn == b.u.fn;
    default: /* pointers of the union lie at one place */
        return a.u.dict == b.u.dict;
    }
}

bool lmi_equal(struct lmi_value a, struct lmi_value b)
{
    return equal(a, b, 0);
}

static int compare_lists(struct lmi_render *r, const struct lmi_list *a, const struct lmi_list *b, int *out)
{
    size_t n = a->n < b->n ? a->n : b->n;

    if (++r->depth > MAX_DEPTH)
        return lmi_fail(r, "lists nested too deep to be compared");
    for (size_t i = 0; i < n; i++) {
        if (lmi_equal(a->at[i], b->at[i]))
            continue;
        r->depth--;
        return lmi_compare(r, a->at[i], b->at[i], out);
    }
    r->depth--;
    *out = (a->n > b->n) - (a->n < b->n);
    return 0;
}

int lmi_compare(struct lmi_render *r, struct lmi_value a, struct lmi_value b, int *out)
{
    if (lmi_spend(r, 1) < 0)
        return -1;
    if (lmi_is_number(a) && lmi_is_number(b))
        *out = compare_numbers(a, b);
    else if (a.kind == LMI_STR && b.kind == LMI_STR)
        *out = compare_spans(a.u.s, b.u.s); /* UTF-8 sorts as code points do */
    else if (lmi_is_seq(a) && a.kind == b.kind)
        return compare_lists(r, a.u.list, b.u.list, out);
    else
        return lmi_fail(r, "%s and %s have no order", lmi_kind_name(a), lmi_kind_name(b));
    return 0;
}

int lmi_contains(struct lmi_render *r, struct lmi_value container, struct lmi_value v, bool *out)
{
    struct lmi_list items;

    *out = false;
    if (container.kind == LMI_STR) {
        if (v.kind != LMI_STR)
            return lmi_fail(r, "in a string one can look for a string, not for %s", lmi_kind_name(v));
        *out = v.u.s.size == 0 || memmem(container.u.s.data, container.u.s.size, v.u.s.data, v.u.s.size);
        return lmi_spend(r, container.u.s.size / 16);
    }
    if (container.kind == LMI_DICT) {
        *out = lmi_dict_get(container.u.dict, v) != NULL;
        return lmi_check_key(r, v) < 0 ? -1 : lmi_spend(r, container.u.dict->n);
    }
    if (lmi_iterate(r, container, &items) < 0)
        return -1;
    for (size_t i = 0; i < items.n && !*out; i++)
        *out = lmi_equal(items.at[i], v);
    return 0;
}

/* ---- arguments */

struct lmi_value lmi_arg(const struct lmi_args *a, size_t i, const char *name, struct lmi_value missing)
{
    if (i < a->n)
        return a->at[i];
    for (size_t k = 0; k < a->n_named; k++)
        if (lmi_span_is(a->named[k].name, name))
            return a->named[k].value;
    return missing;
}

static bool listed(const char *const *names, struct lm_span name)
{
    for (; names && *names; names++)
        if (lmi_span_is(name, *names))
            return true;
    return false;
}

int lmi_args_check(struct lmi_render *r, const char *what, const struct lmi_args *a, size_t least, size_t most,
                   const char *const *names)
{
    if (a->n + a->n_named < least || a->n > most)
        return lmi_fail(r, "%s got %zu arguments, it takes %zu to %zu", what, a->n + a->n_named, least, most);
    for (size_t i = 0; i < a->n_named; i++)
        if (!listed(names, a->named[i].name))
            return lmi_fail(r, "%s has no argument %.*s", what, (int)(a->named[i].name.size % 100),
                            (const char *)a->named[i].name.data);
    return 0;
}
