/* Expressions. */
#include <math.h>
#include <stdlib.h>

#include "libmodel/jinja/ast.h"
#include "libmodel/jinja/text.h"

enum { MAX_DEPTH = 400 };

struct lmi_value lmi_lookup(const struct lmi_frame *f, struct lm_span name)
{
    for (; f; f = f->up) {
        const struct lmi_value *v = lmi_dict_get(&f->names, lmi_str(name));
        if (v)
            return *v;
    }
    const struct lmi_builtin *fn = lmi_function(name);
    return fn ? (struct lmi_value){.kind = LMI_FUNCTION, .u = {.fn = fn}} : lmi_undefined(name);
}

static int undefined_error(struct lmi_render *r, struct lmi_value v)
{
    return lmi_fail(r, "'%.*s' is undefined", (int)(v.u.s.size % 200), (const char *)v.u.s.data);
}

/* ---- attributes and items */

static bool hidden(struct lm_span name)
{
    return name.size && name.data[0] == '_';
}

static int method(struct lmi_render *r, struct lmi_value v, const struct lmi_builtin *fn, struct lmi_value *out)
{
    struct lmi_bound *b = lmi_alloc(r, sizeof *b);

    if (!b)
        return -1;
    *b = (struct lmi_bound){v, fn};
    *out = (struct lmi_value){.kind = LMI_METHOD, .u = {.bound = b}};
    return 0;
}

/* Only methods and what loops and namespaces have; 1 found. */
static int own_attribute(struct lmi_render *r, struct lmi_value v, struct lm_span name, struct lmi_value *out)
{
    const struct lmi_builtin *fn = lmi_method(v, name);

    if (lmi_method_changes(v, name))
        return lmi_fail(r, "%.*s would change %s, which a template may not", (int)name.size, (const char *)name.data,
                        lmi_kind_name(v));
    if (fn)
        return method(r, v, fn, out) < 0 ? -1 : 1;
    if (v.kind == LMI_LOOP)
        return lmi_loop_attribute(r, v, name, out) < 0 ? -1 : out->kind != LMI_UNDEFINED;
    const struct lmi_value *found = v.kind == LMI_NAMESPACE ? lmi_dict_get(v.u.dict, lmi_str(name)) : NULL;
    if (found)
        *out = *found;
    return found != NULL;
}

int lmi_attribute(struct lmi_render *r, struct lmi_value v, struct lm_span name, struct lmi_value *out)
{
    const struct lmi_value *item;
    int found;

    if (v.kind == LMI_UNDEFINED)
        return undefined_error(r, v);
    if (hidden(name)) { /* what the sandbox gives for them */
        *out = lmi_undefined(name);
        return 0;
    }
    if (lmi_spend(r, v.kind == LMI_DICT ? v.u.dict->n : 1) < 0)
        return -1;
    found = own_attribute(r, v, name, out);
    if (found)
        return found < 0 ? -1 : 0;
    item = v.kind == LMI_DICT ? lmi_dict_get(v.u.dict, lmi_str(name)) : NULL;
    *out = item ? *item : lmi_undefined(name);
    return 0;
}

static bool list_index(int64_t i, size_t n, size_t *out)
{
    if (i < 0)
        i += (int64_t)n;
    *out = (size_t)i;
    return i >= 0 && (uint64_t)i < n;
}

/* Byte place of character i. */
static size_t char_place(struct lm_span s, size_t i)
{
    size_t pos = 0;

    for (; i > 0 && pos < s.size; i--)
        lmi_next_char(s, &pos);
    return pos;
}

static int string_item(struct lmi_render *r, struct lmi_value v, int64_t i, struct lmi_value *out)
{
    struct lm_span s = v.u.s;
    size_t at;

    if (!list_index(i, lmi_n_chars(s), &at)) {
        *out = lmi_undefined(lm_span_str("a character past the end"));
        return 0;
    }
    size_t begin = char_place(s, at), end = begin;
    lmi_next_char(s, &end);
    *out = lmi_str(lm_span_of(s.data + begin, end - begin));
    out->safe = v.safe;
    return lmi_spend(r, s.size / 8);
}

int lmi_item(struct lmi_render *r, struct lmi_value v, struct lmi_value key, struct lmi_value *out)
{
    const struct lmi_value *item = v.kind == LMI_DICT ? lmi_dict_get(v.u.dict, key) : NULL;
    bool number = key.kind == LMI_INT || key.kind == LMI_BOOL;
    int64_t i = key.kind == LMI_BOOL ? key.u.b : key.u.i;
    size_t at;

    if (v.kind == LMI_UNDEFINED)
        return undefined_error(r, v);
    if (lmi_spend(r, v.kind == LMI_DICT ? v.u.dict->n : 1) < 0)
        return -1;
    if (item)
        *out = *item;
    else if (lmi_is_seq(v) && number)
        *out = list_index(i, v.u.list->n, &at) ? v.u.list->at[at] : lmi_undefined(lm_span_str("an item past the end"));
    else if (v.kind == LMI_STR && number)
        return string_item(r, v, i, out);
    else if (key.kind == LMI_STR && v.kind != LMI_DICT)
        return lmi_attribute(r, v, key.u.s, out);
    else if (key.kind == LMI_STR && !hidden(key.u.s)) { /* methods after keys, where the dot has it the other way round */
        int found = own_attribute(r, v, key.u.s, out);
        if (found < 0)
            return -1;
        if (!found)
            *out = lmi_undefined(key.u.s);
    } else
        *out = lmi_undefined(key.kind == LMI_STR ? key.u.s : lm_span_str("an item"));
    return 0;
}

/* ---- slices */

static int slice_bound(struct lmi_render *r, struct lmi_value v, int64_t n, int64_t missing, bool back, int64_t *out)
{
    int64_t low = back ? -1 : 0, high = back ? n - 1 : n;

    *out = missing;
    if (v.kind == LMI_NONE)
        return 0;
    if (v.kind != LMI_INT && v.kind != LMI_BOOL)
        return lmi_fail(r, "a slice is bounded by ints, not by %s", lmi_kind_name(v));
    int64_t i = v.kind == LMI_BOOL ? v.u.b : v.u.i;
    i = i < 0 ? i + n : i;
    *out = i < low ? low : i > high ? high : i;
    return 0;
}

static int slice(struct lmi_render *r, struct lmi_value v, const struct lmi_value b[3], struct lmi_value *out)
{
    struct lmi_list all;
    struct lmi_text text = {0};
    int64_t from, to, step = b[2].kind == LMI_INT ? b[2].u.i : 1;

    if (v.kind == LMI_UNDEFINED)
        return undefined_error(r, v);
    if ((v.kind != LMI_STR && !lmi_is_seq(v)) || (b[2].kind != LMI_INT && b[2].kind != LMI_NONE) || step == 0)
        return lmi_fail(r, "%s cannot be sliced%s", lmi_kind_name(v), step ? "" : " by steps of 0");
    if (lmi_iterate(r, v, &all) < 0)
        return -1;
    int64_t n = (int64_t)all.n;
    if (slice_bound(r, b[0], n, step > 0 ? 0 : n - 1, step < 0, &from) < 0 ||
        slice_bound(r, b[1], n, step > 0 ? n : -1, step < 0, &to) < 0 ||
        lmi_list_new(r, v.kind == LMI_STR ? LMI_LIST : v.kind, 0, out) < 0)
        return -1;
    step = step > n + 1 ? n + 1 : step < -n - 1 ? -n - 1 : step; /* no overflow */
    for (int64_t i = from; step > 0 ? i < to : i > to; i += step)
        if (v.kind == LMI_STR ? lmi_text_add(r, &text, all.at[i].u.s) < 0 : lmi_list_add(r, out->u.list, all.at[i]) < 0)
            return -1;
    if (v.kind == LMI_STR) {
        *out = lmi_text_value(&text);
        out->safe = v.safe;
    }
    return 0;
}

/* ---- arithmetic */

static double as_float(struct lmi_value v)
{
    return v.kind == LMI_FLOAT ? v.u.f : v.kind == LMI_INT ? (double)v.u.i : v.u.b;
}

static int64_t as_int(struct lmi_value v)
{
    return v.kind == LMI_BOOL ? v.u.b : v.u.i;
}

static int int_power(int64_t base, int64_t n, int64_t *out)
{
    for (*out = 1; n > 0; n >>= 1) {
        if ((n & 1) && __builtin_mul_overflow(*out, base, out))
            return -1;
        if (n > 1 && __builtin_mul_overflow(base, base, &base))
            return -1;
    }
    return 0;
}

static int int_arithmetic(struct lmi_render *r, enum lmi_op op, int64_t a, int64_t b, struct lmi_value *out)
{
    int64_t v = 0;
    bool overflow = false;

    if ((op == LMI_FLOORDIV || op == LMI_MOD) && b == 0)
        return lmi_fail(r, "division by zero");
    switch (op) {
    case LMI_ADD:
        overflow = __builtin_add_overflow(a, b, &v);
        break;
    case LMI_SUB:
        overflow = __builtin_sub_overflow(a, b, &v);
        break;
    case LMI_MUL:
        overflow = __builtin_mul_overflow(a, b, &v);
        break;
    case LMI_POW:
        overflow = int_power(a, b, &v) < 0;
        break;
    default: /* rounded down, the remainder has the divisor's sign */
        overflow = b == -1 && a == INT64_MIN;
        if (overflow)
            break;
        v = a % b;
        v += v && (v < 0) != (b < 0) ? b : 0;
        if (op == LMI_FLOORDIV)
            v = (a - v) / b;
    }
    *out = lmi_int(v);
    return overflow ? lmi_fail(r, "an int beyond 64 bits") : 0;
}

static int float_arithmetic(struct lmi_render *r, enum lmi_op op, double a, double b, struct lmi_value *out)
{
    double m;

    if ((op == LMI_DIV || op == LMI_FLOORDIV || op == LMI_MOD) && b == 0)
        return lmi_fail(r, "division by zero");
    switch (op) {
    case LMI_ADD:
        *out = lmi_float(a + b);
        break;
    case LMI_SUB:
        *out = lmi_float(a - b);
        break;
    case LMI_MUL:
        *out = lmi_float(a * b);
        break;
    case LMI_POW:
        *out = lmi_float(pow(a, b));
        break;
    case LMI_DIV:
        *out = lmi_float(a / b);
        break;
    default:
        m = fmod(a, b);
        m += m != 0 && (m < 0) != (b < 0) ? b : 0;
        *out = lmi_float(op == LMI_MOD ? m : floor((a - m) / b + 0.5));
    }
    return 0;
}

static int repeat(struct lmi_render *r, struct lmi_value v, int64_t n, struct lmi_value *out)
{
    struct lmi_text t = {0};

    if (v.kind != LMI_STR && lmi_list_new(r, v.kind, 0, out) < 0)
        return -1;
    for (int64_t i = 0; i < n; i++) {
        if (lmi_spend(r, 1) < 0)
            return -1;
        if (v.kind == LMI_STR && lmi_text_add(r, &t, v.u.s) < 0)
            return -1;
        for (size_t k = 0; v.kind != LMI_STR && k < v.u.list->n; k++)
            if (lmi_list_add(r, out->u.list, v.u.list->at[k]) < 0)
                return -1;
    }
    if (v.kind == LMI_STR) {
        *out = lmi_text_value(&t);
        out->safe = v.safe;
    }
    return 0;
}

static int joined(struct lmi_render *r, struct lmi_value a, struct lmi_value b, struct lmi_value *out)
{
    struct lmi_text t = {0};

    if (a.kind == LMI_STR) {
        bool safe = a.safe || b.safe;
        if ((safe && (lmi_escape(r, a, &a) < 0 || lmi_escape(r, b, &b) < 0)) || lmi_text_add(r, &t, a.u.s) < 0 ||
            lmi_text_add(r, &t, b.u.s) < 0)
            return -1;
        *out = lmi_text_value(&t);
        out->safe = safe;
        return 0;
    }
    if (lmi_list_new(r, a.kind, a.u.list->n + b.u.list->n, out) < 0)
        return -1;
    for (size_t i = 0; i < a.u.list->n + b.u.list->n; i++)
        if (lmi_list_add(r, out->u.list, i < a.u.list->n ? a.u.list->at[i] : b.u.list->at[i - a.u.list->n]) < 0)
            return -1;
    return 0;
}

/* "%s of %d" % (a, b) */
static int printf_like(struct lmi_render *r, struct lmi_value self, struct lmi_value v, struct lmi_value *out)
{
    struct lmi_list one = {.at = &v, .n = 1, .capacity = 1}, *args = v.kind == LMI_TUPLE ? v.u.list : &one;
    struct lm_span format = self.u.s;
    struct lmi_text t = {0};
    size_t used = 0;

    for (size_t i = 0; i < format.size; i++) {
        uint8_t c = format.data[i], next = i + 1 < format.size ? format.data[i + 1] : 0;
        if (c != '%' || next == '%') {
            i += c == '%';
            if (lmi_text_add(r, &t, lm_span_of(&c, 1)) < 0)
                return -1;
            continue;
        }
        bool number = next == 'd' || next == 'i';
        if ((next != 's' && !number) || used == args->n || (number && !lmi_is_number(args->at[used])))
            return lmi_fail(r, "%% formats strings with %%s and numbers with %%d, one for each value");
        struct lmi_value arg = args->at[used++];
        if (self.safe && !number && lmi_escape(r, arg, &arg) < 0)
            return -1;
        if (lmi_print(r, &t, number ? lmi_int((int64_t)as_float(arg)) : arg) < 0)
            return -1;
        i++;
    }
    *out = lmi_text_value(&t);
    out->safe = self.safe;
    return used == args->n || v.kind == LMI_LIST || v.kind == LMI_DICT ? 0 : lmi_fail(r, "more values than %% has places for");
}

int lmi_binary(struct lmi_render *r, enum lmi_op op, struct lmi_value a, struct lmi_value b, struct lmi_value *out)
{
    static const char *const names[] = {"+", "-", "*", "/", "//", "%", "**"};
    bool ints = a.kind != LMI_FLOAT && b.kind != LMI_FLOAT;
    bool b_counts = b.kind == LMI_INT || b.kind == LMI_BOOL, a_counts = a.kind == LMI_INT || a.kind == LMI_BOOL;

    if (a.kind == LMI_UNDEFINED || b.kind == LMI_UNDEFINED)
        return undefined_error(r, a.kind == LMI_UNDEFINED ? a : b);
    if (lmi_is_number(a) && lmi_is_number(b)) {
        if (ints && op != LMI_DIV && !(op == LMI_POW && as_int(b) < 0))
            return int_arithmetic(r, op, as_int(a), as_int(b), out);
        return float_arithmetic(r, op, as_float(a), as_float(b), out);
    }
    if (op == LMI_ADD && a.kind == b.kind && (a.kind == LMI_STR || lmi_is_seq(a)))
        return joined(r, a, b, out);
    if (op == LMI_MUL && b_counts && (a.kind == LMI_STR || lmi_is_seq(a)))
        return repeat(r, a, as_int(b), out);
    if (op == LMI_MUL && a_counts && (b.kind == LMI_STR || lmi_is_seq(b)))
        return repeat(r, b, as_int(a), out);
    if (op == LMI_MOD && a.kind == LMI_STR)
        return printf_like(r, a, b, out);
    return lmi_fail(r, "%s %s %s cannot be computed", lmi_kind_name(a), names[op], lmi_kind_name(b));
}

/* ---- comparison */

static int compare(struct lmi_render *r, enum lmi_op op, struct lmi_value a, struct lmi_value b, bool *out)
{
    int order;

    if (op == LMI_EQ || op == LMI_NE) {
        *out = lmi_equal(a, b) == (op == LMI_EQ);
        return lmi_spend(r, 1);
    }
    if (op == LMI_IN || op == LMI_NOT_IN) {
        if (lmi_contains(r, b, a, out) < 0)
            return -1;
        *out = *out == (op == LMI_IN);
        return 0;
    }
    if (a.kind == LMI_UNDEFINED || b.kind == LMI_UNDEFINED)
        return undefined_error(r, a.kind == LMI_UNDEFINED ? a : b);
    if (lmi_compare(r, a, b, &order) < 0)
        return -1;
    *out = op == LMI_LT ? order < 0 : op == LMI_LE ? order <= 0 : op == LMI_GT ? order > 0 : order >= 0;
    return 0;
}

static int comparison(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *n, struct lmi_value *out)
{
    struct lmi_value left, right;
    bool holds = true;

    if (lmi_eval(r, f, n->kids[0], &left) < 0)
        return -1;
    for (size_t i = 1; i < n->n_kids && holds; i++, left = right)
        if (lmi_eval(r, f, n->kids[i]->kids[0], &right) < 0 || compare(r, n->kids[i]->op, left, right, &holds) < 0)
            return -1;
    *out = lmi_bool(holds);
    return 0;
}

/* ---- calls */

int lmi_call(struct lmi_render *r, struct lmi_value f, const struct lmi_args *a, struct lmi_value *out)
{
    if (f.kind == LMI_FUNCTION)
        return f.u.fn->call(r, lmi_none(), a, out);
    if (f.kind == LMI_METHOD && f.u.bound->self.kind == LMI_STR && f.u.bound->self.safe)
        return lmi_call_safe(r, f.u.bound->self, f.u.bound->fn, a, out);
    if (f.kind == LMI_METHOD)
        return f.u.bound->fn->call(r, f.u.bound->self, a, out);
    if (f.kind == LMI_MACRO)
        return lmi_call_macro(r, f.u.macro, a, out);
    if (f.kind == LMI_UNDEFINED)
        return undefined_error(r, f);
    return lmi_fail(r, "%s cannot be called", lmi_kind_name(f));
}

/* Arguments of n: its kids from `first` on, and the named ones. */
static int arguments(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *n, size_t first,
                     struct lmi_args *out)
{
    size_t count = n->n_kids - first;
    struct lmi_value *at = lmi_alloc(r, count * sizeof *at);
    struct lmi_named *named = lmi_alloc(r, n->n_named * sizeof *named);

    if (!at || !named)
        return -1;
    for (size_t i = 0; i < count; i++)
        if (lmi_eval(r, f, n->kids[first + i], &at[i]) < 0)
            return -1;
    for (size_t i = 0; i < n->n_named; i++) {
        named[i].name = n->named[i]->name;
        if (lmi_eval(r, f, n->named[i]->kids[0], &named[i].value) < 0)
            return -1;
    }
    *out = (struct lmi_args){at, count, named, n->n_named};
    return 0;
}

static int call(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *n, struct lmi_value *out)
{
    struct lmi_value callee;
    struct lmi_args a;

    if (lmi_eval(r, f, n->kids[0], &callee) < 0 || arguments(r, f, n, 1, &a) < 0)
        return -1;
    return lmi_call(r, callee, &a, out);
}

static int filter_or_test(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *n, struct lmi_value *out)
{
    struct lmi_value self;
    struct lmi_args a;

    if (lmi_eval(r, f, n->kids[0], &self) < 0 || arguments(r, f, n, 1, &a) < 0)
        return -1;
    return n->fn->call(r, self, &a, out);
}

/* ---- the rest */

static int sequence(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *n, struct lmi_value *out)
{
    if (lmi_list_new(r, n->kind == LMI_LIST_OF ? LMI_LIST : LMI_TUPLE, n->n_kids, out) < 0)
        return -1;
    for (size_t i = 0; i < n->n_kids; i++) {
        struct lmi_value v;
        if (lmi_eval(r, f, n->kids[i], &v) < 0 || lmi_list_add(r, out->u.list, v) < 0)
            return -1;
    }
    return 0;
}

static int dict(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *n, struct lmi_value *out)
{
    if (lmi_dict_new(r, LMI_DICT, out) < 0)
        return -1;
    for (size_t i = 0; i < n->n_kids; i += 2) {
        struct lmi_value k, v;
        if (lmi_eval(r, f, n->kids[i], &k) < 0 || lmi_eval(r, f, n->kids[i + 1], &v) < 0 ||
            lmi_dict_put(r, out->u.dict, k, v) < 0)
            return -1;
    }
    return 0;
}

static int concatenation(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *n, struct lmi_value *out)
{
    struct lmi_text t = {0};

    for (size_t i = 0; i < n->n_kids; i++) {
        struct lmi_value v;
        if (lmi_eval(r, f, n->kids[i], &v) < 0 || lmi_print(r, &t, v) < 0)
            return -1;
    }
    *out = lmi_text_value(&t);
    return 0;
}

static int negative(struct lmi_render *r, enum lmi_node_kind kind, struct lmi_value v, struct lmi_value *out)
{
    if (v.kind == LMI_UNDEFINED)
        return undefined_error(r, v);
    if (!lmi_is_number(v))
        return lmi_fail(r, "%s has no sign", lmi_kind_name(v));
    if (kind == LMI_POS)
        *out = v.kind == LMI_BOOL ? lmi_int(v.u.b) : v;
    else
        return lmi_binary(r, LMI_SUB, v.kind == LMI_FLOAT ? lmi_float(-0.0) : lmi_int(0), v, out);
    return 0;
}

static int slice_of(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *n, struct lmi_value *out)
{
    struct lmi_value v[4];

    for (size_t i = 0; i < 4; i++)
        if (lmi_eval(r, f, n->kids[i], &v[i]) < 0)
            return -1;
    return slice(r, v[0], v + 1, out);
}

static int choice(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *n, struct lmi_value *out)
{
    struct lmi_value c;

    if (lmi_eval(r, f, n->kids[0], &c) < 0)
        return -1;
    if (lmi_truth(c))
        return lmi_eval(r, f, n->kids[1], out);
    if (n->n_kids == 3)
        return lmi_eval(r, f, n->kids[2], out);
    *out = lmi_undefined(lm_span_str("the value of an if without else"));
    return 0;
}

static int two_operands(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *n, struct lmi_value *out)
{
    struct lmi_value a, b;

    if (lmi_eval(r, f, n->kids[0], &a) < 0)
        return -1;
    if (n->kind == LMI_AND || n->kind == LMI_OR) {
        *out = a;
        return lmi_truth(a) == (n->kind == LMI_AND) ? lmi_eval(r, f, n->kids[1], out) : 0;
    }
    if (lmi_eval(r, f, n->kids[1], &b) < 0)
        return -1;
    return n->kind == LMI_ITEM ? lmi_item(r, a, b, out) : lmi_binary(r, n->op, a, b, out);
}

static int one_operand(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *n, struct lmi_value *out)
{
    struct lmi_value v;

    if (lmi_eval(r, f, n->kids[0], &v) < 0)
        return -1;
    if (n->kind == LMI_ATTR)
        return lmi_attribute(r, v, n->name, out);
    if (n->kind != LMI_NOT)
        return negative(r, n->kind, v, out);
    *out = lmi_bool(!lmi_truth(v));
    return 0;
}

static int evaluate(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *n, struct lmi_value *out)
{
    switch (n->kind) {
    case LMI_CONST:
        *out = n->value;
        return 0;
    case LMI_NAME:
        *out = lmi_lookup(f, n->name);
        return 0;
    case LMI_LIST_OF:
    case LMI_TUPLE_OF:
        return sequence(r, f, n, out);
    case LMI_DICT_OF:
        return dict(r, f, n, out);
    case LMI_SLICE:
        return slice_of(r, f, n, out);
    case LMI_CALL:
        return call(r, f, n, out);
    case LMI_FILTER:
    case LMI_TEST:
        return filter_or_test(r, f, n, out);
    case LMI_COMPARE:
        return comparison(r, f, n, out);
    case LMI_CHOICE:
        return choice(r, f, n, out);
    case LMI_CONCAT:
        return concatenation(r, f, n, out);
    case LMI_ATTR:
    case LMI_NOT:
    case LMI_NEG:
    case LMI_POS:
        return one_operand(r, f, n, out);
    default:
        return two_operands(r, f, n, out);
    }
}

int lmi_eval(struct lmi_render *r, struct lmi_frame *f, const struct lmi_node *n, struct lmi_value *out)
{
    int code;

    if (lmi_spend(r, 1) < 0)
        return -1;
    r->line = n->line;
    if (++r->depth > MAX_DEPTH)
        return lmi_fail(r, "calls nested deeper than %d", MAX_DEPTH);
    code = evaluate(r, f, n, out);
    r->depth--;
    return code;
}
