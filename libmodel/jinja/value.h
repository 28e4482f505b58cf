/* Values of a template and what Python's rules say about them. Private to libmodel/jinja. */
#ifndef LIBMODEL_JINJA_VALUE_H
#define LIBMODEL_JINJA_VALUE_H

#include <time.h>

#include "libmodel/bytes.h"
#include "libmodel/err.h"

enum lmi_kind {
    LMI_UNDEFINED, LMI_NONE, LMI_BOOL, LMI_INT, LMI_FLOAT, LMI_STR, LMI_LIST, LMI_TUPLE, LMI_DICT, LMI_NAMESPACE,
    LMI_FUNCTION, LMI_METHOD, LMI_MACRO, LMI_LOOP,
    LMI_ITERATOR, /* what map, select, items … give: gone through once, of no length */
    LMI_VIEW      /* what dict.items(), keys() and values() give: of a length, without places */
};

struct lmi_value {
    enum lmi_kind kind;
    bool safe; /* STR: Markup, marked by the filter `safe`: what is added to it is escaped */
    union {
        bool b;
        int64_t i;
        double f;
        struct lm_span s;             /* STR, and the name of what is UNDEFINED */
        struct lmi_list *list;        /* LIST, TUPLE, ITERATOR, VIEW */
        struct lmi_dict *dict;        /* DICT, NAMESPACE */
        const struct lmi_builtin *fn; /* FUNCTION */
        struct lmi_bound *bound;      /* METHOD */
        struct lmi_macro *macro;
        struct lmi_loop *loop;
    } u;
};

struct lmi_list {
    struct lmi_value *at;
    size_t n, capacity;
    const char *view; /* VIEW: how it prints, "dict_items" */
};
/* In order of insertion, searched one by one: templates cannot make large ones. */
struct lmi_dict {
    struct lmi_entry { struct lmi_value key, value; } *at;
    size_t n, capacity;
};

struct lmi_named { struct lm_span name; struct lmi_value value; };
/* Arguments of a call. */
struct lmi_args {
    const struct lmi_value *at;
    size_t n;
    const struct lmi_named *named;
    size_t n_named;
};

/* One rendering. */
struct lmi_render {
    struct lm_arena arena;
    struct lm_err *e;
    uint64_t steps_left;
    size_t max_bytes;
    unsigned depth;
    uint32_t line; /* of the statement in work */
    time_t now;
};

/* A function, filter, test or method; self is what it is applied to (functions: none). */
struct lmi_builtin {
    const char *name;
    int (*call)(struct lmi_render *r, struct lmi_value self, const struct lmi_args *a, struct lmi_value *out);
};
struct lmi_bound {
    struct lmi_value self;
    const struct lmi_builtin *fn;
};

/* A growing text in the arena. */
struct lmi_text { uint8_t *at; size_t n, capacity; };

static inline struct lmi_value lmi_undefined(struct lm_span name)
{
    return (struct lmi_value){.kind = LMI_UNDEFINED, .u = {.s = name}};
}
static inline struct lmi_value lmi_none(void) { return (struct lmi_value){.kind = LMI_NONE}; }
static inline struct lmi_value lmi_bool(bool b) { return (struct lmi_value){.kind = LMI_BOOL, .u = {.b = b}}; }
static inline struct lmi_value lmi_int(int64_t i) { return (struct lmi_value){.kind = LMI_INT, .u = {.i = i}}; }
static inline struct lmi_value lmi_float(double f) { return (struct lmi_value){.kind = LMI_FLOAT, .u = {.f = f}}; }
static inline struct lmi_value lmi_str(struct lm_span s) { return (struct lmi_value){.kind = LMI_STR, .u = {.s = s}}; }
static inline bool lmi_is_seq(struct lmi_value v) { return v.kind == LMI_LIST || v.kind == LMI_TUPLE; }
static inline bool lmi_is_number(struct lmi_value v)
{
    return v.kind == LMI_INT || v.kind == LMI_FLOAT || v.kind == LMI_BOOL;
}
static inline bool lmi_span_is(struct lm_span s, const char *text) { return lm_span_eq(s, lm_span_str(text)); }

/* ---- the rendering's budget. All return -1 with the line in e. */
int lmi_fail(struct lmi_render *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
int lmi_spend(struct lmi_render *r, uint64_t steps);
void *lmi_alloc(struct lmi_render *r, size_t n); /* NULL with e */
/* "a list", "None", … for messages. */
const char *lmi_kind_name(struct lmi_value v);

/* ---- containers */
int lmi_list_new(struct lmi_render *r, enum lmi_kind kind, size_t capacity, struct lmi_value *out);
int lmi_list_add(struct lmi_render *r, struct lmi_list *l, struct lmi_value v);
int lmi_dict_new(struct lmi_render *r, enum lmi_kind kind, struct lmi_value *out);
int lmi_dict_put(struct lmi_render *r, struct lmi_dict *d, struct lmi_value key, struct lmi_value v);
int lmi_check_key(struct lmi_render *r, struct lmi_value key); /* -1: lists and dicts are no keys */
const struct lmi_value *lmi_dict_get(const struct lmi_dict *d, struct lmi_value key); /* or NULL */
const struct lmi_value *lmi_dict_find(const struct lmi_dict *d, const char *key);

/* What iterating over v gives: items, keys of a dict, characters of a string,
 * nothing of UNDEFINED. An ITERATOR has nothing more afterwards. -1 for what
 * cannot be iterated. */
int lmi_iterate(struct lmi_render *r, struct lmi_value v, struct lmi_list *out);
/* len(v), or -1 with e. */
int lmi_length(struct lmi_render *r, struct lmi_value v, size_t *out);

bool lmi_truth(struct lmi_value v);
bool lmi_equal(struct lmi_value a, struct lmi_value b);
/* < 0, 0, > 0 by Python's order; -1 with e when it has none. */
int lmi_compare(struct lmi_render *r, struct lmi_value a, struct lmi_value b, int *out);
int lmi_contains(struct lmi_render *r, struct lmi_value container, struct lmi_value v, bool *out);

/* ---- text */
int lmi_text_add(struct lmi_render *r, struct lmi_text *t, struct lm_span s);
static inline int lmi_text_str(struct lmi_render *r, struct lmi_text *t, const char *s)
{
    return lmi_text_add(r, t, lm_span_str(s));
}
static inline struct lmi_value lmi_text_value(const struct lmi_text *t)
{
    return lmi_str(lm_span_of(t->n ? t->at : (const uint8_t *)"", t->n));
}
int lmi_text_char(struct lmi_render *r, struct lmi_text *t, uint32_t cp);
/* str(v), repr(v) appended. */
int lmi_print(struct lmi_render *r, struct lmi_text *t, struct lmi_value v);
int lmi_repr(struct lmi_render *r, struct lmi_text *t, struct lmi_value v);
/* str(v) as a value. */
int lmi_to_str(struct lmi_render *r, struct lmi_value v, struct lm_span *out);
/* json.dumps. indent < 0: on one line. */
struct lmi_json_style { bool ascii, sort_keys; int64_t indent; struct lm_span item_sep, key_sep; };
int lmi_json(struct lmi_render *r, struct lmi_text *t, struct lmi_value v, const struct lmi_json_style *style);
/* A JSON text's value. */
int lmi_from_json(struct lmi_render *r, struct lm_span text, const char *what, struct lmi_value *out);

/* Code points of well-formed UTF-8. */
uint32_t lmi_next_char(struct lm_span s, size_t *pos);
size_t lmi_n_chars(struct lm_span s);
bool lmi_is_space(uint32_t cp); /* str.isspace */
struct lm_span lmi_strip(struct lm_span s, const struct lm_span *chars, bool left, bool right); /* chars NULL: white space */

/* ---- tables; NULL when there is none of the name */
const struct lmi_builtin *lmi_filter(struct lm_span name);
const struct lmi_builtin *lmi_test(struct lm_span name);
const struct lmi_builtin *lmi_function(struct lm_span name);
const struct lmi_builtin *lmi_method(struct lmi_value self, struct lm_span name);
bool lmi_method_changes(struct lmi_value self, struct lm_span name); /* one that the sandbox refuses */
/* fn of a string that is safe. */
int lmi_call_safe(struct lmi_render *r, struct lmi_value self, const struct lmi_builtin *fn, const struct lmi_args *a,
                  struct lmi_value *out);

/* x.name and x[key] */
int lmi_attribute(struct lmi_render *r, struct lmi_value v, struct lm_span name, struct lmi_value *out);
int lmi_item(struct lmi_render *r, struct lmi_value v, struct lmi_value key, struct lmi_value *out);
int lmi_loop_attribute(struct lmi_render *r, struct lmi_value loop, struct lm_span name, struct lmi_value *out);
int lmi_call(struct lmi_render *r, struct lmi_value f, const struct lmi_args *a, struct lmi_value *out);

/* Argument i or of that name; `missing` when not given. */
struct lmi_value lmi_arg(const struct lmi_args *a, size_t i, const char *name, struct lmi_value missing);
/* -1 when there are more than `most` positional ones or a name not in the list (NULL ends it). */
int lmi_args_check(struct lmi_render *r, const char *what, const struct lmi_args *a, size_t least, size_t most,
                   const char *const *names);

#endif
