/* Pickle streams as data: a small machine that builds values and calls only the
 * constructors that its user lists.  Nothing of Python is executed, imported or
 * looked up; what is not listed is named and refused.  Private to libmodel.
 * https://github.com/python/cpython/blob/main/Lib/pickletools.py */
#ifndef LIBMODEL_PARSE_PICKLE_H
#define LIBMODEL_PARSE_PICKLE_H

#include "libmodel/bytes.h"
#include "libmodel/err.h"

enum lmi_pk_kind {
    LMI_PK_NONE, LMI_PK_BOOL, LMI_PK_INT, LMI_PK_BIGINT, LMI_PK_FLOAT, LMI_PK_STR, LMI_PK_BYTES,
    LMI_PK_TUPLE, LMI_PK_LIST, LMI_PK_DICT,
    LMI_PK_GLOBAL, /* an entry of the table, not called */
    LMI_PK_OBJECT, /* inert: items[0] is what BUILD gave it, if anything */
    LMI_PK_DATA    /* made by a constructor of the user: tag and data are its own */
};

struct lmi_pk {
    uint8_t kind, tag;
    uint32_t n; /* bytes of a text or a big integer */
    union {
        int64_t i; /* and bool */
        double f;
        const uint8_t *text; /* in the stream */
        struct lmi_pk_list *list;
        const struct lmi_pk_global *global;
        const void *data;
    };
};

/* Tuple, list, dict (key, value, key, …), object. Values may be shared: this is
 * a graph, maybe with cycles. */
struct lmi_pk_list {
    struct lmi_pk *items;
    uint32_t n, capacity;
    bool busy; /* for whoever walks: on the way from the root */
};

struct lmi_unpickler;
struct lmi_pk_global {
    const char *module, *name; /* compared whole and exactly */
    /* REDUCE or NEWOBJ with this argument tuple; NULL: a name, not to be called. */
    int (*call)(struct lmi_unpickler *u, const struct lmi_pk_global *g, const struct lmi_pk_list *args,
                struct lmi_pk *out);
    int value; /* the constructor's own */
};

/* Fill the first part, zero the rest. */
struct lmi_unpickler {
    struct lm_cursor in; /* from the pickle's first byte; after lmi_unpickle, after its last */
    struct lm_arena *arena;
    struct lm_err *e;
    const struct lmi_pk_global *globals;
    size_t n_globals;
    const struct lmi_pk_global *script; /* stands for every class of a TorchScript archive; or NULL */
    int (*persistent)(struct lmi_unpickler *u, const struct lmi_pk *id, struct lmi_pk *out); /* or NULL */
    void *user;

    struct lmi_pk *stack, *memo;
    uint32_t n_stack, stack_capacity, n_memo, memo_capacity, next_memo;
    uint32_t *marks, n_marks, marks_capacity;
    uint32_t n_lists, n_items; /* made so far, of budgets */
};

/* Runs one pickle up to its STOP. Values are valid while the stream and the
 * arena are. May be called again on the rest of the stream: budgets go on. */
int lmi_unpickle(struct lmi_unpickler *u, struct lmi_pk *out);
void lmi_unpickler_free(struct lmi_unpickler *u);

/* For constructors. */
struct lmi_pk lmi_pk_list_of(struct lmi_unpickler *u, enum lmi_pk_kind kind); /* NONE and *e set on failure */
int lmi_pk_append(struct lmi_unpickler *u, struct lmi_pk_list *l, const struct lmi_pk *items, uint32_t n);
int lmi_pk_fail(struct lmi_unpickler *u, enum lm_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static inline struct lm_span lmi_pk_text(const struct lmi_pk *v)
{
    bool text = v->kind == LMI_PK_STR || v->kind == LMI_PK_BYTES || v->kind == LMI_PK_BIGINT;
    return text ? lm_span_of(v->text, v->n) : lm_span_of("", 0);
}
static inline bool lmi_pk_is(const struct lmi_pk *v, const char *text)
{
    return v->kind == LMI_PK_STR && lm_span_eq(lmi_pk_text(v), lm_span_str(text));
}
/* The value of a string key, or NULL. */
const struct lmi_pk *lmi_pk_get(const struct lmi_pk_list *dict, const char *key);
#endif
