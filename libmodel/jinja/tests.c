/* Tests ("x is defined") and functions. */
#include <ctype.h>
#include <locale.h>
#include <stdlib.h>

#include "libmodel/jinja/ast.h"
#include "libmodel/jinja/text.h"

#define TEST(f) static int f(struct lmi_render *r, struct lmi_value self, const struct lmi_args *a, struct lmi_value *out)

/* ---- tests of one value */

static int answer(struct lmi_render *r, const struct lmi_args *a, bool yes, struct lmi_value *out)
{
    *out = lmi_bool(yes);
    return lmi_args_check(r, "a test", a, 0, 0, NULL);
}

TEST(is_defined) { return answer(r, a, self.kind != LMI_UNDEFINED, out); }
TEST(is_undefined) { return answer(r, a, self.kind == LMI_UNDEFINED, out); }
TEST(is_none) { return answer(r, a, self.kind == LMI_NONE, out); }
TEST(is_string) { return answer(r, a, self.kind == LMI_STR, out); }
TEST(is_mapping) { return answer(r, a, self.kind == LMI_DICT, out); }
TEST(is_number) { return answer(r, a, lmi_is_number(self), out); }
TEST(is_integer) { return answer(r, a, self.kind == LMI_INT, out); }
TEST(is_float) { return answer(r, a, self.kind == LMI_FLOAT, out); }
TEST(is_boolean) { return answer(r, a, self.kind == LMI_BOOL, out); }
TEST(is_true) { return answer(r, a, self.kind == LMI_BOOL && self.u.b, out); }
TEST(is_false) { return answer(r, a, self.kind == LMI_BOOL && !self.u.b, out); }

static bool iterable(struct lmi_value v)
{
    return v.kind == LMI_STR || lmi_is_seq(v) || v.kind == LMI_DICT || v.kind == LMI_UNDEFINED;
}
TEST(is_iterable)
{
    return answer(r, a, iterable(self) || self.kind == LMI_ITERATOR || self.kind == LMI_VIEW, out);
}
TEST(is_sequence) { return answer(r, a, iterable(self), out); }
TEST(is_callable)
{
    return answer(r, a, self.kind == LMI_FUNCTION || self.kind == LMI_METHOD || self.kind == LMI_MACRO ||
                  self.kind == LMI_UNDEFINED, out); /* an undefined value has __call__: it raises */
}

static int case_test(struct lmi_render *r, struct lmi_value self, const struct lmi_args *a, enum lmi_case how,
                     struct lmi_value *out)
{
    struct lm_span s;
    struct lmi_value mapped, other;

    if (lmi_to_str(r, self, &s) < 0 || lmi_map_case(r, s, how, &mapped) < 0 ||
        lmi_map_case(r, s, how == LMI_UPPER ? LMI_LOWER : LMI_UPPER, &other) < 0)
        return -1;
    return answer(r, a, lm_span_eq(s, mapped.u.s) && !lm_span_eq(s, other.u.s), out);
}
TEST(is_upper) { return case_test(r, self, a, LMI_UPPER, out); }
TEST(is_lower) { return case_test(r, self, a, LMI_LOWER, out); }

static int divisible(struct lmi_render *r, struct lmi_value self, int64_t by, int64_t rest, struct lmi_value *out)
{
    struct lmi_value left;

    if (!lmi_is_number(self) || by == 0)
        return lmi_fail(r, "only a number is odd, even or divisible by another");
    if (lmi_binary(r, LMI_MOD, self, lmi_int(by), &left) < 0)
        return -1;
    *out = lmi_bool(lmi_equal(left, lmi_int(rest)));
    return 0;
}
TEST(is_odd) { return lmi_args_check(r, "odd", a, 0, 0, NULL) < 0 ? -1 : divisible(r, self, 2, 1, out); }
TEST(is_even) { return lmi_args_check(r, "even", a, 0, 0, NULL) < 0 ? -1 : divisible(r, self, 2, 0, out); }
TEST(is_divisible)
{
    if (lmi_args_check(r, "divisibleby", a, 1, 1, NULL) < 0)
        return -1;
    return divisible(r, self, a->at[0].kind == LMI_INT ? a->at[0].u.i : 0, 0, out);
}

/* ---- tests against another value */

static int one_arg(struct lmi_render *r, const struct lmi_args *a)
{
    return lmi_args_check(r, "a comparing test", a, 1, 1, NULL);
}

TEST(is_equal)
{
    *out = lmi_bool(a->n && lmi_equal(self, a->at[0]));
    return one_arg(r, a);
}
TEST(is_unequal)
{
    *out = lmi_bool(a->n && !lmi_equal(self, a->at[0]));
    return one_arg(r, a);
}
TEST(is_same)
{
    *out = lmi_bool(a->n && self.kind == a->at[0].kind && lmi_equal(self, a->at[0]));
    return one_arg(r, a);
}
TEST(is_in)
{
    bool yes;

    if (one_arg(r, a) < 0 || lmi_contains(r, a->at[0], self, &yes) < 0)
        return -1;
    *out = lmi_bool(yes);
    return 0;
}

static int ordered(struct lmi_render *r, struct lmi_value self, const struct lmi_args *a, int sign, bool or_equal,
                   struct lmi_value *out)
{
    int order;

    if (one_arg(r, a) < 0 || lmi_compare(r, self, a->at[0], &order) < 0)
        return -1;
    *out = lmi_bool(order == 0 ? or_equal : (order > 0) == (sign > 0));
    return 0;
}
TEST(is_less) { return ordered(r, self, a, -1, false, out); }
TEST(is_less_equal) { return ordered(r, self, a, -1, true, out); }
TEST(is_greater) { return ordered(r, self, a, 1, false, out); }
TEST(is_greater_equal) { return ordered(r, self, a, 1, true, out); }

const struct lmi_builtin *lmi_test(struct lm_span name)
{
    static const struct lmi_builtin table[] = {
        {"defined", is_defined}, {"undefined", is_undefined}, {"none", is_none}, {"string", is_string},
        {"mapping", is_mapping}, {"iterable", is_iterable}, {"sequence", is_sequence}, {"number", is_number},
        {"integer", is_integer}, {"float", is_float}, {"boolean", is_boolean}, {"true", is_true}, {"false", is_false},
        {"callable", is_callable}, {"upper", is_upper}, {"lower", is_lower}, {"odd", is_odd}, {"even", is_even},
        {"divisibleby", is_divisible}, {"eq", is_equal}, {"equalto", is_equal}, {"ne", is_unequal}, {"sameas", is_same},
        {"in", is_in}, {"lt", is_less}, {"lessthan", is_less}, {"le", is_less_equal}, {"gt", is_greater},
        {"greaterthan", is_greater}, {"ge", is_greater_equal}, {NULL, NULL}};

    return lmi_find_builtin(table, name);
}

/* ---- functions */

TEST(raise_exception)
{
    struct lm_span s;

    if (lmi_args_check(r, "raise_exception", a, 1, 1, (const char *const[]){"message", NULL}) < 0 ||
        lmi_to_str(r, lmi_arg(a, 0, "message", self), &s) < 0)
        return -1;
    (void)out;
    return lm_err_set(r->e, LM_MISMATCH, "the template refuses the conversation: %.*s", (int)(s.size < 500 ? s.size : 500),
                      (const char *)s.data);
}

/* The template itself: there, but with no blocks to be had by name. */
TEST(self_reference)
{
    (void)self, (void)a, (void)out;
    return lmi_fail(r, "self cannot be called");
}

TEST(namespace)
{
    (void)self;
    if (lmi_dict_new(r, LMI_NAMESPACE, out) < 0)
        return -1;
    if (a->n > 1 || (a->n == 1 && a->at[0].kind != LMI_DICT))
        return lmi_fail(r, "namespace takes a dict or named values");
    for (size_t i = 0; a->n && i < a->at[0].u.dict->n; i++)
        if (lmi_dict_put(r, out->u.dict, a->at[0].u.dict->at[i].key, a->at[0].u.dict->at[i].value) < 0)
            return -1;
    for (size_t i = 0; i < a->n_named; i++)
        if (lmi_dict_put(r, out->u.dict, lmi_str(a->named[i].name), a->named[i].value) < 0)
            return -1;
    return 0;
}

TEST(dict)
{
    if (namespace(r, self, a, out) < 0)
        return -1;
    out->kind = LMI_DICT;
    return 0;
}

TEST(range)
{
    int64_t v[3] = {0, 0, 1};

    (void)self;
    if (lmi_args_check(r, "range", a, 1, 3, NULL) < 0)
        return -1;
    for (size_t i = 0; i < a->n; i++) {
        if (a->at[i].kind != LMI_INT)
            return lmi_fail(r, "range takes ints, not %s", lmi_kind_name(a->at[i]));
        v[a->n == 1 ? 1 : i] = a->at[i].u.i;
    }
    if (v[2] == 0 || v[2] == INT64_MIN || lmi_list_new(r, LMI_LIST, 0, out) < 0)
        return v[2] == 0 ? lmi_fail(r, "range by steps of 0") : -1;
    for (int64_t i = v[0]; v[2] > 0 ? i < v[1] : i > v[1];) {
        if (out->u.list->n == 100000) /* as the sandbox */
            return lmi_fail(r, "a range of more than 100000 numbers");
        if (lmi_list_add(r, out->u.list, lmi_int(i)) < 0 || __builtin_add_overflow(i, v[2], &i))
            break;
    }
    return 0;
}

TEST(strftime_now)
{
    char format[200], *buf;
    struct tm tm;
    size_t n = 0;

    (void)self;
    if (lmi_args_check(r, "strftime_now", a, 1, 1, NULL) < 0)
        return -1;
    if (a->n < 1 || a->at[0].kind != LMI_STR || a->at[0].u.s.size >= sizeof format - 1 || !localtime_r(&r->now, &tm))
        return lmi_fail(r, "strftime_now takes a short format");
    memcpy(format, a->at[0].u.s.data, a->at[0].u.s.size);
    format[a->at[0].u.s.size] = 0;
    buf = lmi_alloc(r, 2000);
    locale_t c = buf ? newlocale(LC_ALL_MASK, "C", (locale_t)0) : (locale_t)0;
    if (!c)
        return buf ? lm_err_set(r->e, LM_NOMEM, "out of memory while rendering a template") : -1;
    if (format[0])
        n = strftime_l(buf, 2000, format, &tm, c);
    freelocale(c);
    *out = lmi_str(lm_span_of(buf, n));
    return 0;
}

const struct lmi_builtin *lmi_function(struct lm_span name)
{
    static const struct lmi_builtin table[] = {{"raise_exception", raise_exception}, {"namespace", namespace},
                                               {"dict", dict}, {"range", range}, {"strftime_now", strftime_now},
                                               {"self", self_reference}, {NULL, NULL}};

    return lmi_find_builtin(table, name);
}
