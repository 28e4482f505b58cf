#include "libmodel/parse/pickle.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "libmodel/fmt/fmt.h"

/* A checkpoint's own objects are counted in thousands; a few bytes of opcodes
 * can ask for millions. */
enum { MAX_STACK = 1 << 19, MAX_MARKS = 1 << 16, MAX_MEMO = 1 << 20, MAX_LISTS = 1 << 19, MAX_ITEMS = 1 << 20 };

int lmi_pk_fail(struct lmi_unpickler *u, enum lm_code code, const char *format, ...)
{
    char text[700];
    va_list ap;

    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    return lm_err_set(u->e, code, "pickle, byte %zu: %s", u->in.pos, text);
}

static int malformed(struct lmi_unpickler *u, const char *what)
{
    return lmi_pk_fail(u, LM_MALFORMED, "%s", what);
}

static int over(struct lmi_unpickler *u, const char *what)
{
    return lmi_pk_fail(u, LM_LIMIT, "more %s than a checkpoint has", what);
}

/* ---- memory */

/* Room for one more in a malloc'd array. */
static int grow(void **array, uint32_t n, uint32_t *capacity, size_t size)
{
    if (n < *capacity)
        return 0;
    uint32_t more = *capacity ? *capacity * 2 : 256; /* limits are far below 2^31 */
    void *bigger = reallocarray(*array, more, size);
    if (!bigger)
        return -1;
    *array = bigger;
    *capacity = more;
    return 0;
}

static int push(struct lmi_unpickler *u, struct lmi_pk v)
{
    if (u->n_stack >= MAX_STACK)
        return over(u, "values on its stack");
    if (grow((void **)&u->stack, u->n_stack, &u->stack_capacity, sizeof *u->stack) < 0)
        return lmi_nomem(u->e);
    u->stack[u->n_stack++] = v;
    return 0;
}

/* Values above the last mark. */
static uint32_t n_free(const struct lmi_unpickler *u)
{
    return u->n_stack - (u->n_marks ? u->marks[u->n_marks - 1] : 0);
}

static int need(struct lmi_unpickler *u, uint32_t n)
{
    return n_free(u) >= n ? 0 : malformed(u, "the stack holds fewer values than the opcode takes");
}

static struct lmi_pk *top(struct lmi_unpickler *u)
{
    return &u->stack[u->n_stack - 1];
}

struct lmi_pk lmi_pk_list_of(struct lmi_unpickler *u, enum lmi_pk_kind kind)
{
    struct lmi_pk v = {.kind = (uint8_t)kind};

    if (++u->n_lists > MAX_LISTS)
        over(u, "objects");
    else if (!(v.list = lm_arena_alloc(u->arena, sizeof *v.list)))
        lmi_nomem(u->e);
    else
        return v;
    return (struct lmi_pk){.kind = LMI_PK_NONE};
}

int lmi_pk_append(struct lmi_unpickler *u, struct lmi_pk_list *l, const struct lmi_pk *items, uint32_t n)
{
    if (n > MAX_ITEMS - u->n_items)
        return over(u, "values");
    u->n_items += n;
    if (n > l->capacity - l->n) {
        uint32_t capacity = l->capacity > n ? l->capacity * 2 : l->n + n;
        struct lmi_pk *bigger = lm_arena_array(u->arena, capacity, sizeof *bigger);
        if (!bigger)
            return lmi_nomem(u->e);
        if (l->n)
            memcpy(bigger, l->items, l->n * sizeof *bigger);
        l->items = bigger;
        l->capacity = capacity;
    }
    if (n)
        memcpy(l->items + l->n, items, n * sizeof *items);
    l->n += n;
    return 0;
}

const struct lmi_pk *lmi_pk_get(const struct lmi_pk_list *dict, const char *key)
{
    for (uint32_t i = 0; i + 1 < dict->n; i += 2)
        if (lmi_pk_is(&dict->items[i], key))
            return &dict->items[i + 1];
    return NULL;
}

/* ---- opcodes; each has read its own byte */

#define OP(name) static int op_##name(struct lmi_unpickler *u)

OP(proto)
{
    uint8_t v = lm_cur_u8(&u->in);

    return v <= 5 ? 0 : lmi_pk_fail(u, LM_UNSUPPORTED, "protocol %u, at most 5 is known", v);
}

OP(frame)
{
    uint64_t n = lm_cur_u64(&u->in);
    return n <= lm_cur_left(&u->in) ? 0 : malformed(u, "a frame ends beyond the stream");
}

OP(mark)
{
    if (u->n_marks >= MAX_MARKS)
        return over(u, "marks");
    if (grow((void **)&u->marks, u->n_marks, &u->marks_capacity, sizeof *u->marks) < 0)
        return lmi_nomem(u->e);
    u->marks[u->n_marks++] = u->n_stack;
    return 0;
}

OP(none)     { return push(u, (struct lmi_pk){.kind = LMI_PK_NONE}); }
OP(true)     { return push(u, (struct lmi_pk){.kind = LMI_PK_BOOL, .i = 1}); }
OP(false)    { return push(u, (struct lmi_pk){.kind = LMI_PK_BOOL, .i = 0}); }
OP(binint)   { return push(u, (struct lmi_pk){.kind = LMI_PK_INT, .i = (int32_t)lm_cur_u32(&u->in)}); }
OP(binint1)  { return push(u, (struct lmi_pk){.kind = LMI_PK_INT, .i = lm_cur_u8(&u->in)}); }
OP(binint2)  { return push(u, (struct lmi_pk){.kind = LMI_PK_INT, .i = lm_cur_u16(&u->in)}); }

OP(binfloat)
{
    struct lm_cursor c = u->in;

    c.big_endian = true;
    double f = lm_cur_f64(&c);
    lm_cur_u64(&u->in);
    return push(u, (struct lmi_pk){.kind = LMI_PK_FLOAT, .f = f});
}

/* Little-endian two's complement; what does not fit 64 bits stays bytes. */
OP(long1)
{
    struct lm_span s = lm_cur_bytes(&u->in, lm_cur_u8(&u->in));
    uint64_t v = s.size && s.data[s.size - 1] & 0x80 ? UINT64_MAX : 0;

    if (s.size > 8)
        return push(u, (struct lmi_pk){.kind = LMI_PK_BIGINT, .n = (uint32_t)s.size, .text = s.data});
    for (size_t i = s.size; i-- > 0;)
        v = v << 8 | s.data[i];
    return push(u, (struct lmi_pk){.kind = LMI_PK_INT, .i = (int64_t)v});
}

static int push_text(struct lmi_unpickler *u, enum lmi_pk_kind kind, uint64_t n)
{
    struct lm_span s = lm_cur_bytes(&u->in, n);

    if (u->in.failed || n > UINT32_MAX)
        return malformed(u, "a string ends beyond the stream");
    if (kind == LMI_PK_STR && !lm_utf8_valid(s))
        return malformed(u, "a string is not UTF-8");
    return push(u, (struct lmi_pk){.kind = (uint8_t)kind, .n = (uint32_t)n, .text = s.data});
}

OP(short_unicode) { return push_text(u, LMI_PK_STR, lm_cur_u8(&u->in)); }
OP(unicode)       { return push_text(u, LMI_PK_STR, lm_cur_u32(&u->in)); }
OP(unicode8)      { return push_text(u, LMI_PK_STR, lm_cur_u64(&u->in)); }
OP(short_bytes)   { return push_text(u, LMI_PK_BYTES, lm_cur_u8(&u->in)); }
OP(bytes)         { return push_text(u, LMI_PK_BYTES, lm_cur_u32(&u->in)); }
OP(bytes8)        { return push_text(u, LMI_PK_BYTES, lm_cur_u64(&u->in)); }

/* Strings of Python 2: text when it is text. */
static int push_string(struct lmi_unpickler *u, uint64_t n)
{
    struct lm_span ahead = n <= lm_cur_left(&u->in) ? lm_span_of(u->in.all.data + u->in.pos, (size_t)n) : lm_span_of("", 0);

    return push_text(u, lm_utf8_valid(ahead) ? LMI_PK_STR : LMI_PK_BYTES, n);
}

OP(short_string)  { return push_string(u, lm_cur_u8(&u->in)); }
OP(string)        { return push_string(u, lm_cur_u32(&u->in)); }

static int push_list(struct lmi_unpickler *u, enum lmi_pk_kind kind)
{
    struct lmi_pk v = lmi_pk_list_of(u, kind);
    return v.kind == LMI_PK_NONE ? -1 : push(u, v);
}

OP(empty_tuple) { return push_list(u, LMI_PK_TUPLE); }
OP(empty_list)  { return push_list(u, LMI_PK_LIST); }
OP(empty_dict)  { return push_list(u, LMI_PK_DICT); }

static int make_tuple(struct lmi_unpickler *u, uint32_t n)
{
    struct lmi_pk v;

    if (need(u, n) < 0)
        return -1;
    v = lmi_pk_list_of(u, LMI_PK_TUPLE);
    if (v.kind == LMI_PK_NONE || lmi_pk_append(u, v.list, n ? u->stack + (u->n_stack - n) : NULL, n) < 0)
        return -1;
    u->n_stack -= n;
    return push(u, v);
}

OP(tuple1) { return make_tuple(u, 1); }
OP(tuple2) { return make_tuple(u, 2); }
OP(tuple3) { return make_tuple(u, 3); }

OP(tuple)
{
    if (u->n_marks == 0)
        return malformed(u, "no mark on the stack");
    uint32_t n = n_free(u);
    u->n_marks--;
    return make_tuple(u, n);
}

/* n values on top go into the container below them. */
static int fill(struct lmi_unpickler *u, uint32_t n, enum lmi_pk_kind kind, const char *what)
{
    if (need(u, n + 1) < 0)
        return -1;
    struct lmi_pk *items = u->stack + (u->n_stack - n);
    if (items[-1].kind != kind)
        return malformed(u, what);
    if (lmi_pk_append(u, items[-1].list, items, n) < 0)
        return -1;
    u->n_stack -= n;
    return 0;
}

static int fill_marked(struct lmi_unpickler *u, enum lmi_pk_kind kind, const char *what)
{
    if (u->n_marks == 0)
        return malformed(u, "no mark on the stack");
    uint32_t n = n_free(u);
    u->n_marks--;
    if (kind == LMI_PK_DICT && n % 2)
        return malformed(u, "a key without a value");
    return fill(u, n, kind, what);
}

static const char no_list[] = "values are appended to something that is no list",
                  no_dict[] = "items are set in something that is no dict";

OP(append)   { return fill(u, 1, LMI_PK_LIST, no_list); }
OP(appends)  { return fill_marked(u, LMI_PK_LIST, no_list); }
OP(setitem)  { return fill(u, 2, LMI_PK_DICT, no_dict); }
OP(setitems) { return fill_marked(u, LMI_PK_DICT, no_dict); }

static int put_memo(struct lmi_unpickler *u, uint32_t i)
{
    if (need(u, 1) < 0)
        return -1;
    if (i >= MAX_MEMO || i >= u->in.all.size)
        return lmi_pk_fail(u, LM_LIMIT, "memo entry %u, more than a checkpoint has", i);
    while (i >= u->memo_capacity)
        if (grow((void **)&u->memo, u->memo_capacity, &u->memo_capacity, sizeof *u->memo) < 0)
            return lmi_nomem(u->e);
    for (; u->n_memo <= i; u->n_memo++)
        u->memo[u->n_memo] = (struct lmi_pk){.kind = UINT8_MAX};
    u->memo[i] = *top(u);
    return 0;
}

static int get_memo(struct lmi_unpickler *u, uint32_t i)
{
    if (i >= u->n_memo || u->memo[i].kind == UINT8_MAX)
        return lmi_pk_fail(u, LM_MALFORMED, "memo entry %u was never stored", i);
    return push(u, u->memo[i]);
}

OP(binput)      { return put_memo(u, lm_cur_u8(&u->in)); }
OP(long_binput) { return put_memo(u, lm_cur_u32(&u->in)); }
OP(memoize)     { return put_memo(u, u->next_memo++); }
OP(binget)      { return get_memo(u, lm_cur_u8(&u->in)); }
OP(long_binget) { return get_memo(u, lm_cur_u32(&u->in)); }

static int push_global(struct lmi_unpickler *u, struct lm_span module, struct lm_span name)
{
    const struct lmi_pk_global *g = NULL;

    for (size_t i = 0; !g && i < u->n_globals; i++)
        if (lm_span_eq(module, lm_span_str(u->globals[i].module)) && lm_span_eq(name, lm_span_str(u->globals[i].name)))
            g = &u->globals[i];
    if (!g && u->script && module.size >= 9 && memcmp(module.data, "__torch__", 9) == 0)
        g = u->script;
    if (!g)
        return lmi_pk_fail(u, LM_UNSUPPORTED, "it wants Python's %.*s.%.*s, which is not among the names a checkpoint of "
                           "tensors needs; nothing of it is executed, the file is refused", LMI_SHOW(module),
                           LMI_SHOW(name));
    return push(u, (struct lmi_pk){.kind = LMI_PK_GLOBAL, .global = g});
}

static struct lm_span line(struct lmi_unpickler *u)
{
    const uint8_t *at = u->in.all.data + u->in.pos;
    const uint8_t *nl = lm_cur_left(&u->in) ? memchr(at, '\n', lm_cur_left(&u->in)) : NULL;
    struct lm_span s = lm_cur_bytes(&u->in, nl ? (uint64_t)(nl - at) : UINT64_MAX);

    lm_cur_u8(&u->in);
    return s;
}

OP(global)
{
    struct lm_span module = line(u), name = line(u);
    return u->in.failed ? malformed(u, "a name is cut short") : push_global(u, module, name);
}

OP(stack_global)
{
    struct lm_span each[2];

    if (need(u, 2) < 0)
        return -1;
    for (int i = 0; i < 2; i++) {
        const struct lmi_pk *v = &u->stack[u->n_stack - 2 + (uint32_t)i];
        if (v->kind != LMI_PK_STR)
            return malformed(u, "a name is no string");
        each[i] = lmi_pk_text(v);
    }
    u->n_stack -= 2;
    return push_global(u, each[0], each[1]);
}

OP(reduce)
{
    struct lmi_pk result = {.kind = LMI_PK_NONE};

    if (need(u, 2) < 0)
        return -1;
    struct lmi_pk f = u->stack[u->n_stack - 2], args = u->stack[u->n_stack - 1];
    if (f.kind != LMI_PK_GLOBAL || args.kind != LMI_PK_TUPLE)
        return malformed(u, "a call of something that is no constructor, or without a tuple of arguments");
    if (!f.global->call)
        return lmi_pk_fail(u, LM_MALFORMED, "%s.%s is called, but it is no constructor", f.global->module, f.global->name);
    if (f.global->call(u, f.global, args.list, &result) < 0)
        return -1;
    u->n_stack -= 2;
    return push(u, result);
}

/* The state of an OrderedDict ("_metadata") says nothing about tensors. */
OP(build)
{
    if (need(u, 2) < 0)
        return -1;
    struct lmi_pk *object = &u->stack[u->n_stack - 2], *state = top(u);
    if (object->kind == LMI_PK_OBJECT) {
        object->list->n = 0;
        if (lmi_pk_append(u, object->list, state, 1) < 0)
            return -1;
    } else if (object->kind != LMI_PK_DICT) {
        return malformed(u, "a state is given to something that has none");
    }
    u->n_stack--;
    return 0;
}

OP(binpersid)
{
    struct lmi_pk result = {.kind = LMI_PK_NONE};

    if (need(u, 1) < 0)
        return -1;
    if (!u->persistent)
        return malformed(u, "a persistent id where none is expected");
    if (u->persistent(u, top(u), &result) < 0)
        return -1;
    *top(u) = result;
    return 0;
}

/* ---- the table. What is not in it is refused: INST, OBJ, EXT*, DUP, POP, the
 * text forms of protocol 0, … are never written by torch.save. */

static const struct {
    uint8_t code;
    int (*run)(struct lmi_unpickler *u);
} table[] = {
    {0x80, op_proto}, {0x95, op_frame}, {'(', op_mark},
    {'N', op_none}, {0x88, op_true}, {0x89, op_false},
    {'J', op_binint}, {'K', op_binint1}, {'M', op_binint2}, {0x8a, op_long1}, {'G', op_binfloat},
    {0x8c, op_short_unicode}, {'X', op_unicode}, {0x8d, op_unicode8},
    {'C', op_short_bytes}, {'B', op_bytes}, {0x8e, op_bytes8}, {'U', op_short_string}, {'T', op_string},
    {')', op_empty_tuple}, {']', op_empty_list}, {'}', op_empty_dict}, {0x8f, op_empty_list},
    {0x85, op_tuple1}, {0x86, op_tuple2}, {0x87, op_tuple3}, {'t', op_tuple},
    {'a', op_append}, {'e', op_appends}, {0x90, op_appends}, {'s', op_setitem}, {'u', op_setitems},
    {'q', op_binput}, {'r', op_long_binput}, {0x94, op_memoize}, {'h', op_binget}, {'j', op_long_binget},
    {'c', op_global}, {0x93, op_stack_global}, {'R', op_reduce}, {0x81, op_reduce}, {'b', op_build}, {'Q', op_binpersid},
};
enum { N_OPS = sizeof table / sizeof table[0], STOP = '.' };

static int step(struct lmi_unpickler *u, uint8_t code)
{
    for (size_t i = 0; i < N_OPS; i++) {
        if (table[i].code != code)
            continue;
        int rc = table[i].run(u);
        return rc == 0 && u->in.failed ? malformed(u, "the stream is cut short") : rc;
    }
    return lmi_pk_fail(u, LM_UNSUPPORTED, "opcode 0x%02x is not one that torch.save writes; the file is refused", code);
}

int lmi_unpickle(struct lmi_unpickler *u, struct lmi_pk *out)
{
    u->n_stack = u->n_marks = u->n_memo = u->next_memo = 0;
    for (;;) {
        if (lm_cur_left(&u->in) == 0)
            return malformed(u, "the stream is cut short");
        uint8_t code = lm_cur_u8(&u->in);
        if (code == STOP)
            break;
        if (step(u, code) < 0)
            return -1;
    }
    if (u->n_stack != 1 || u->n_marks)
        return malformed(u, "the stream ends with something other than one value");
    *out = u->stack[0];
    return 0;
}

void lmi_unpickler_free(struct lmi_unpickler *u)
{
    free(u->stack);
    free(u->memo);
    free(u->marks);
}
