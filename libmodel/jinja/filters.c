/* Filters. */
#include <math.h>
#include <stdlib.h>

#include "libmodel/jinja/ast.h"
#include "libmodel/jinja/text.h"

#define FILTER(f) static int f(struct lmi_render *r, struct lmi_value self, const struct lmi_args *a, struct lmi_value *out)

/* The result of what keeps Markup Markup. */
static int like(struct lmi_value self, int code, struct lmi_value *out)
{
    out->safe = self.kind == LMI_STR && self.safe;
    return code;
}

static bool flag(const struct lmi_args *a, size_t i, const char *name, bool missing)
{
    return lmi_truth(lmi_arg(a, i, name, lmi_bool(missing)));
}

/* ---- text */

FILTER(upper)
{
    struct lm_span s;
    return lmi_args_check(r, "upper", a, 0, 0, NULL) < 0 || lmi_to_str(r, self, &s) < 0
               ? -1
               : like(self, lmi_map_case(r, s, LMI_UPPER, out), out);
}
FILTER(lower)
{
    struct lm_span s;
    return lmi_args_check(r, "lower", a, 0, 0, NULL) < 0 || lmi_to_str(r, self, &s) < 0
               ? -1
               : like(self, lmi_map_case(r, s, LMI_LOWER, out), out);
}
FILTER(capitalize)
{
    struct lm_span s;
    return lmi_args_check(r, "capitalize", a, 0, 0, NULL) < 0 || lmi_to_str(r, self, &s) < 0
               ? -1
               : like(self, lmi_map_case(r, s, LMI_CAPITALIZE, out), out);
}
FILTER(title)
{
    struct lm_span s;
    return lmi_args_check(r, "title", a, 0, 0, NULL) < 0 || lmi_to_str(r, self, &s) < 0 ? -1 : lmi_map_case(r, s, LMI_WORDS, out);
}

FILTER(trim)
{
    static const char *const names[] = {"chars", NULL};
    struct lmi_value chars = lmi_arg(a, 0, "chars", lmi_none());
    struct lm_span s;

    if (lmi_args_check(r, "trim", a, 0, 1, names) < 0 || lmi_to_str(r, self, &s) < 0)
        return -1;
    if (chars.kind != LMI_NONE && chars.kind != LMI_STR)
        return lmi_fail(r, "trim takes a string");
    *out = lmi_str(lmi_strip(s, chars.kind == LMI_STR ? &chars.u.s : NULL, true, true));
    return like(self, 0, out);
}

FILTER(string)
{
    struct lm_span s;

    if (lmi_args_check(r, "string", a, 0, 0, NULL) < 0 || lmi_to_str(r, self, &s) < 0)
        return -1;
    *out = lmi_str(s);
    return like(self, 0, out);
}

/* Autoescape is off, so nothing asks whether a text is marked, until something is added to it. */
FILTER(safe)
{
    if (string(r, self, a, out) < 0)
        return -1;
    out->safe = true;
    return 0;
}

FILTER(escape) { return lmi_args_check(r, "escape", a, 0, 0, NULL) < 0 ? -1 : lmi_escape(r, self, out); }

FILTER(replace)
{
    struct lmi_value most = lmi_arg(a, 2, "count", lmi_none());
    struct lm_span s, from, to;

    if (lmi_args_check(r, "replace", a, 2, 3, (const char *const[]){"count", NULL}) < 0 || lmi_to_str(r, self, &s) < 0 ||
        a->n < 2 || lmi_to_str(r, a->at[0], &from) < 0 || lmi_to_str(r, a->at[1], &to) < 0)
        return -1;
    return lmi_replace(r, s, from, to, most.kind == LMI_INT ? most.u.i : -1, out);
}

FILTER(indent)
{
    static const char *const names[] = {"width", "first", "blank", NULL};
    struct lmi_value width = lmi_arg(a, 0, "width", lmi_int(4)), pad;
    bool first = flag(a, 1, "first", false), blank = flag(a, 2, "blank", false);
    struct lmi_text t = {0};
    struct lm_span s;

    if (lmi_args_check(r, "indent", a, 0, 3, names) < 0)
        return -1;
    if (self.kind != LMI_STR)
        return lmi_fail(r, "indent takes a string, not %s", lmi_kind_name(self));
    s = self.u.s;
    if (width.kind == LMI_STR)
        pad = width;
    else if (lmi_binary(r, LMI_MUL, lmi_str(lm_span_str(" ")), width, &pad) < 0)
        return -1;
    for (size_t begin = 0; begin <= s.size;) {
        const uint8_t *nl = begin < s.size ? memchr(s.data + begin, '\n', s.size - begin) : NULL;
        size_t end = nl ? (size_t)(nl - s.data) : s.size;
        bool padded = begin == 0 ? first : end > begin || blank;
        if ((padded && lmi_text_add(r, &t, pad.u.s) < 0) ||
            lmi_text_add(r, &t, lm_span_of(s.data + begin, (nl ? end + 1 : end) - begin)) < 0)
            return -1;
        begin = end + 1;
    }
    *out = lmi_text_value(&t);
    return like(self, 0, out);
}

FILTER(tojson)
{
    static const char *const names[] = {"ensure_ascii", "indent", "separators", "sort_keys", NULL};
    struct lmi_value indent_by = lmi_arg(a, 1, "indent", lmi_none()), seps = lmi_arg(a, 2, "separators", lmi_none());
    struct lmi_json_style style = {.ascii = flag(a, 0, "ensure_ascii", false),
                                   .sort_keys = flag(a, 3, "sort_keys", false),
                                   .indent = indent_by.kind == LMI_INT ? indent_by.u.i : -1,
                                   .key_sep = lm_span_str(": ")};
    struct lmi_text t = {0};

    if (lmi_args_check(r, "tojson", a, 0, 4, names) < 0)
        return -1;
    if (style.indent > 64)
        return lmi_fail(r, "tojson is asked to indent by %lld", (long long)style.indent);
    style.item_sep = lm_span_str(style.indent >= 0 ? "," : ", ");
    if (lmi_is_seq(seps) && seps.u.list->n == 2 && seps.u.list->at[0].kind == LMI_STR && seps.u.list->at[1].kind == LMI_STR) {
        style.item_sep = seps.u.list->at[0].u.s;
        style.key_sep = seps.u.list->at[1].u.s;
    }
    if (lmi_json(r, &t, self, &style) < 0)
        return -1;
    *out = lmi_text_value(&t);
    return 0;
}

FILTER(from_json)
{
    struct lm_span s;

    if (lmi_args_check(r, "from_json", a, 0, 0, NULL) < 0 || lmi_to_str(r, self, &s) < 0)
        return -1;
    return lmi_from_json(r, s, "the text given to from_json", out);
}

FILTER(join)
{
    static const char *const names[] = {"d", "attribute", NULL};
    struct lmi_value attribute = lmi_arg(a, 1, "attribute", lmi_none()), list = self;
    struct lm_span sep;

    if (lmi_args_check(r, "join", a, 0, 2, names) < 0 ||
        lmi_to_str(r, lmi_arg(a, 0, "d", lmi_str(lm_span_str(""))), &sep) < 0)
        return -1;
    if (attribute.kind != LMI_NONE && lmi_column(r, self, attribute, lmi_none(), &list) < 0)
        return -1;
    return lmi_join(r, sep, list, false, out);
}

/* ---- numbers */

FILTER(to_int)
{
    static const char *const names[] = {"default", "base", NULL};
    struct lmi_value missing = lmi_arg(a, 0, "default", lmi_int(0)), base = lmi_arg(a, 1, "base", lmi_int(10));
    char buf[64], *end = buf;

    if (lmi_args_check(r, "int", a, 0, 2, names) < 0)
        return -1;
    *out = missing;
    if (self.kind == LMI_INT || self.kind == LMI_BOOL)
        *out = lmi_int(self.kind == LMI_INT ? self.u.i : self.u.b);
    else if (self.kind == LMI_FLOAT && fabs(self.u.f) < 0x1p62)
        *out = lmi_int((int64_t)self.u.f);
    if (self.kind != LMI_STR || self.u.s.size >= sizeof buf || base.kind != LMI_INT || base.u.i < 2 || base.u.i > 36)
        return 0;
    struct lm_span s = lmi_strip(self.u.s, NULL, true, true);
    if (s.size)
        memcpy(buf, s.data, s.size);
    buf[s.size] = 0;
    long long i = strtoll(buf, &end, (int)base.u.i);
    if (*buf && !*end)
        *out = lmi_int(i);
    else if (*buf && base.u.i == 10) {
        double f = strtod(buf, &end);
        if (!*end && fabs(f) < 0x1p62)
            *out = lmi_int((int64_t)f);
    }
    return 0;
}

FILTER(to_float)
{
    char buf[64], *end = buf;

    if (lmi_args_check(r, "float", a, 0, 1, (const char *const[]){"default", NULL}) < 0)
        return -1;
    *out = lmi_arg(a, 0, "default", lmi_float(0));
    if (self.kind == LMI_FLOAT)
        *out = self;
    else if (self.kind == LMI_INT || self.kind == LMI_BOOL)
        *out = lmi_float(self.kind == LMI_INT ? (double)self.u.i : self.u.b);
    if (self.kind != LMI_STR || self.u.s.size >= sizeof buf)
        return 0;
    struct lm_span s = lmi_strip(self.u.s, NULL, true, true);
    if (s.size)
        memcpy(buf, s.data, s.size);
    buf[s.size] = 0;
    double f = strtod(buf, &end);
    if (*buf && !*end)
        *out = lmi_float(f);
    return 0;
}

FILTER(absolute)
{
    if (lmi_args_check(r, "abs", a, 0, 0, NULL) < 0)
        return -1;
    if (!lmi_is_number(self))
        return lmi_fail(r, "abs takes a number, not %s", lmi_kind_name(self));
    if (self.kind == LMI_INT && self.u.i == INT64_MIN)
        return lmi_fail(r, "an int beyond 64 bits");
    *out = self.kind == LMI_FLOAT ? lmi_float(fabs(self.u.f)) : lmi_int(self.kind == LMI_BOOL ? self.u.b : llabs(self.u.i));
    return 0;
}

FILTER(rounded)
{
    static const char *const names[] = {"precision", "method", NULL};
    struct lmi_value digits = lmi_arg(a, 0, "precision", lmi_int(0)), how = lmi_arg(a, 1, "method", lmi_str(lm_span_str("common")));

    if (lmi_args_check(r, "round", a, 0, 2, names) < 0)
        return -1;
    if (!lmi_is_number(self) || digits.kind != LMI_INT || llabs(digits.u.i) > 300 || how.kind != LMI_STR)
        return lmi_fail(r, "round takes a number and a count of digits");
    if (self.kind != LMI_FLOAT && digits.u.i >= 0 && lmi_span_is(how.u.s, "common")) {
        *out = lmi_int(self.kind == LMI_BOOL ? self.u.b : self.u.i);
        return 0;
    }
    double f = self.kind == LMI_FLOAT ? self.u.f : self.kind == LMI_INT ? (double)self.u.i : self.u.b;
    double scale = pow(10, (double)digits.u.i), x = f * scale;
    x = lmi_span_is(how.u.s, "ceil") ? ceil(x) : lmi_span_is(how.u.s, "floor") ? floor(x) : nearbyint(x);
    *out = lmi_float(x / scale);
    return 0;
}

/* ---- any value */

FILTER(fallback)
{
    static const char *const names[] = {"default_value", "boolean", NULL};
    bool empty_too = flag(a, 1, "boolean", false);

    if (lmi_args_check(r, "default", a, 0, 2, names) < 0)
        return -1;
    *out = self.kind == LMI_UNDEFINED || (empty_too && !lmi_truth(self))
               ? lmi_arg(a, 0, "default_value", lmi_str(lm_span_str("")))
               : self;
    return 0;
}

FILTER(length)
{
    size_t n;

    if (lmi_args_check(r, "length", a, 0, 0, NULL) < 0 || lmi_length(r, self, &n) < 0)
        return -1;
    *out = lmi_int((int64_t)n);
    return 0;
}

FILTER(items) { return lmi_args_check(r, "items", a, 0, 0, NULL) < 0 ? -1 : lmi_items(r, self, LMI_ITERATOR, out); }

/* ---- lists */

static int as_list(struct lmi_render *r, struct lmi_value v, struct lmi_value *out)
{
    struct lmi_list items;

    if (lmi_iterate(r, v, &items) < 0 || lmi_list_new(r, LMI_LIST, items.n, out) < 0)
        return -1;
    for (size_t i = 0; i < items.n; i++)
        if (lmi_list_add(r, out->u.list, items.at[i]) < 0)
            return -1;
    return 0;
}

FILTER(list) { return lmi_args_check(r, "list", a, 0, 0, NULL) < 0 ? -1 : as_list(r, self, out); }

FILTER(reverse)
{
    if (lmi_args_check(r, "reverse", a, 0, 0, NULL) < 0 || as_list(r, self, out) < 0)
        return -1;
    struct lmi_list *l = out->u.list;
    for (size_t i = 0; i < l->n / 2; i++) {
        struct lmi_value v = l->at[i];
        l->at[i] = l->at[l->n - 1 - i];
        l->at[l->n - 1 - i] = v;
    }
    if (self.kind == LMI_STR)
        return like(self, lmi_join(r, lm_span_str(""), *out, true, out), out);
    out->kind = self.kind == LMI_ITERATOR ? LMI_LIST : LMI_ITERATOR; /* it turns round what it can without reading it */
    return 0;
}

static int end_item(struct lmi_render *r, struct lmi_value self, const struct lmi_args *a, bool last, struct lmi_value *out)
{
    struct lmi_list items;

    if (lmi_args_check(r, last ? "last" : "first", a, 0, 0, NULL) < 0)
        return -1;
    if (last && self.kind == LMI_ITERATOR)
        return lmi_fail(r, "a generator has no end to begin from");
    if (lmi_iterate(r, self, &items) < 0)
        return -1;
    if (self.kind == LMI_ITERATOR && items.n) { /* only the first is taken from it */
        self.u.list->at++;
        self.u.list->n = items.n - 1;
        self.u.list->capacity = 0;
    }
    *out = items.n ? items.at[last ? items.n - 1 : 0] : lmi_undefined(lm_span_str("an item of an empty list"));
    return 0;
}
FILTER(first_item) { return end_item(r, self, a, false, out); }
FILTER(last_item) { return end_item(r, self, a, true, out); }

/* "a.b.0": attributes and items one after another. */
int lmi_path(struct lmi_render *r, struct lmi_value v, struct lmi_value path, struct lmi_value *out)
{
    struct lm_span s = path.u.s;

    *out = v;
    if (path.kind != LMI_STR)
        return lmi_item(r, v, path, out);
    while (s.size) {
        const uint8_t *dot = memchr(s.data, '.', s.size);
        size_t n = dot ? (size_t)(dot - s.data) : s.size;
        bool number = n > 0 && n < 9;
        int64_t i = 0;
        for (size_t k = 0; k < n && number; k++) {
            number = s.data[k] >= '0' && s.data[k] <= '9';
            i = i * 10 + (s.data[k] - '0');
        }
        v = *out;
        if (lmi_item(r, v, number ? lmi_int(i) : lmi_str(lm_span_of(s.data, n)), out) < 0)
            return -1;
        s = dot ? lm_span_of(dot + 1, s.size - n - 1) : lm_span_of(s.data, 0);
    }
    return 0;
}

int lmi_column(struct lmi_render *r, struct lmi_value v, struct lmi_value path, struct lmi_value missing,
               struct lmi_value *out)
{
    struct lmi_list items;

    if (lmi_iterate(r, v, &items) < 0 || lmi_list_new(r, LMI_ITERATOR, items.n, out) < 0)
        return -1;
    for (size_t i = 0; i < items.n; i++) {
        struct lmi_value item;
        if (lmi_path(r, items.at[i], path, &item) < 0)
            return -1;
        if (item.kind == LMI_UNDEFINED && missing.kind != LMI_NONE)
            item = missing;
        if (lmi_list_add(r, out->u.list, item) < 0)
            return -1;
    }
    return 0;
}

/* map, select and their kin take anything empty for an empty list, None too. */
static int items_or_nothing(struct lmi_render *r, struct lmi_value v, struct lmi_list *out)
{
    *out = (struct lmi_list){0};
    return lmi_truth(v) ? lmi_iterate(r, v, out) : 0;
}

/* A name given as the first argument, as a filter or test of the rest of them. */
static int named_call(struct lmi_render *r, const struct lmi_args *a, size_t at, bool test, const struct lmi_builtin **fn,
                      struct lmi_args *rest)
{
    struct lm_span name = a->at[at].u.s;

    *fn = a->at[at].kind != LMI_STR ? NULL : test ? lmi_test(name) : lmi_filter(name);
    if (!*fn)
        return lmi_fail(r, "there is no such %s: %.*s", test ? "test" : "filter",
                        a->at[at].kind == LMI_STR ? (int)(name.size % 100) : 0, (const char *)name.data);
    *rest = (struct lmi_args){a->at + at + 1, a->n - at - 1, a->named, a->n_named};
    return 0;
}

FILTER(map)
{
    struct lmi_value attribute = lmi_arg(a, SIZE_MAX, "attribute", lmi_none());
    const struct lmi_builtin *fn;
    struct lmi_args rest;
    struct lmi_list list_items;

    if (attribute.kind != LMI_NONE && !lmi_truth(self))
        return lmi_list_new(r, LMI_ITERATOR, 0, out);
    if (attribute.kind != LMI_NONE)
        return lmi_column(r, self, attribute, lmi_arg(a, SIZE_MAX, "default", lmi_none()), out);
    if (a->n == 0)
        return lmi_fail(r, "map takes the name of a filter, or attribute=");
    if (named_call(r, a, 0, false, &fn, &rest) < 0 || items_or_nothing(r, self, &list_items) < 0 ||
        lmi_list_new(r, LMI_ITERATOR, list_items.n, out) < 0)
        return -1;
    for (size_t i = 0; i < list_items.n; i++) {
        struct lmi_value v;
        if (fn->call(r, list_items.at[i], &rest, &v) < 0 || lmi_list_add(r, out->u.list, v) < 0)
            return -1;
    }
    return 0;
}

/* Items for which the test (or their truth) gives `wanted`; of an attribute when `by`. */
static int selected(struct lmi_render *r, struct lmi_value self, const struct lmi_args *a, bool by, bool wanted,
                    struct lmi_value *out)
{
    const struct lmi_builtin *fn = NULL;
    struct lmi_args rest = {0};
    struct lmi_list all;
    size_t at = by;

    if (by && a->n == 0)
        return lmi_fail(r, "selectattr and rejectattr take the name of an attribute");
    if ((a->n > at && named_call(r, a, at, true, &fn, &rest) < 0) || items_or_nothing(r, self, &all) < 0 ||
        lmi_list_new(r, LMI_ITERATOR, 0, out) < 0)
        return -1;
    for (size_t i = 0; i < all.n; i++) {
        struct lmi_value v = all.at[i], yes;
        if (by && lmi_path(r, all.at[i], a->at[0], &v) < 0)
            return -1;
        yes = v;
        if (fn && fn->call(r, v, &rest, &yes) < 0)
            return -1;
        if (lmi_truth(yes) == wanted && lmi_list_add(r, out->u.list, all.at[i]) < 0)
            return -1;
    }
    return 0;
}
FILTER(select_items) { return selected(r, self, a, false, true, out); }
FILTER(reject_items) { return selected(r, self, a, false, false, out); }
FILTER(select_by) { return selected(r, self, a, true, true, out); }
FILTER(reject_by) { return selected(r, self, a, true, false, out); }

/* What items are ordered by: strings without regard to case unless told. */
static int order_key(struct lmi_render *r, struct lmi_value item, struct lmi_value attribute, bool with_case,
                     struct lmi_value *out)
{
    *out = item;
    if (attribute.kind != LMI_NONE && lmi_path(r, item, attribute, out) < 0)
        return -1;
    return !with_case && out->kind == LMI_STR ? lmi_map_case(r, out->u.s, LMI_LOWER, out) : 0;
}

/* Stable. keys go along. */
static int merge_sort(struct lmi_render *r, struct lmi_value *v, struct lmi_value *keys, size_t n, struct lmi_value *spare,
                      bool reverse_order)
{
    size_t half = n / 2, i = 0, j = half;
    int order;

    if (n < 2)
        return 0;
    if (merge_sort(r, v, keys, half, spare, reverse_order) < 0 ||
        merge_sort(r, v + half, keys + half, n - half, spare, reverse_order) < 0)
        return -1;
    for (size_t k = 0; k < n; k++) {
        bool left = j == n;
        if (i < half && j < n) {
            order = 0;
            if (!lmi_equal(keys[i], keys[j]) && lmi_compare(r, keys[i], keys[j], &order) < 0)
                return -1;
            left = reverse_order ? order >= 0 : order <= 0;
        }
        size_t from = left ? i++ : j++;
        spare[2 * k] = v[from];
        spare[2 * k + 1] = keys[from];
    }
    for (size_t k = 0; k < n; k++) {
        v[k] = spare[2 * k];
        keys[k] = spare[2 * k + 1];
    }
    return 0;
}

static int sort_list(struct lmi_render *r, struct lmi_list *l, struct lmi_value attribute, bool with_case, bool reverse_order)
{
    struct lmi_value *keys = lmi_alloc(r, 3 * l->n * sizeof *keys);

    if (!keys)
        return -1;
    for (size_t i = 0; i < l->n; i++)
        if (order_key(r, l->at[i], attribute, with_case, &keys[i]) < 0)
            return -1;
    return merge_sort(r, l->at, keys, l->n, keys + l->n, reverse_order);
}

FILTER(sort)
{
    static const char *const names[] = {"reverse", "case_sensitive", "attribute", NULL};

    if (lmi_args_check(r, "sort", a, 0, 3, names) < 0 || as_list(r, self, out) < 0)
        return -1;
    return sort_list(r, out->u.list, lmi_arg(a, 2, "attribute", lmi_none()), flag(a, 1, "case_sensitive", false),
                     flag(a, 0, "reverse", false));
}

FILTER(dictsort)
{
    static const char *const names[] = {"case_sensitive", "by", "reverse", NULL};
    struct lmi_value by = lmi_arg(a, 1, "by", lmi_str(lm_span_str("key")));

    if (lmi_args_check(r, "dictsort", a, 0, 3, names) < 0)
        return -1;
    if (self.kind == LMI_UNDEFINED)
        return lmi_fail(r, "dictsort takes a dict");
    if (lmi_items(r, self, LMI_LIST, out) < 0)
        return -1;
    bool value = by.kind == LMI_STR && lmi_span_is(by.u.s, "value");
    return sort_list(r, out->u.list, lmi_int(value), flag(a, 0, "case_sensitive", false), flag(a, 2, "reverse", false));
}

FILTER(unique)
{
    static const char *const names[] = {"case_sensitive", "attribute", NULL};
    struct lmi_value attribute = lmi_arg(a, 1, "attribute", lmi_none()), seen;
    bool with_case = flag(a, 0, "case_sensitive", false), known;
    struct lmi_list all;

    if (lmi_args_check(r, "unique", a, 0, 2, names) < 0 || lmi_iterate(r, self, &all) < 0 ||
        lmi_list_new(r, LMI_ITERATOR, 0, out) < 0 || lmi_list_new(r, LMI_LIST, 0, &seen) < 0)
        return -1;
    for (size_t i = 0; i < all.n; i++) {
        struct lmi_value key;
        if (order_key(r, all.at[i], attribute, with_case, &key) < 0 || lmi_contains(r, seen, key, &known) < 0)
            return -1;
        if (!known && (lmi_list_add(r, seen.u.list, key) < 0 || lmi_list_add(r, out->u.list, all.at[i]) < 0))
            return -1;
    }
    return 0;
}

static int extreme(struct lmi_render *r, struct lmi_value self, const struct lmi_args *a, bool most, struct lmi_value *out)
{
    static const char *const names[] = {"case_sensitive", "attribute", NULL};
    struct lmi_value key, best = {0};
    struct lmi_list all;
    int order;

    if (lmi_args_check(r, most ? "max" : "min", a, 0, 2, names) < 0 || lmi_iterate(r, self, &all) < 0)
        return -1;
    *out = lmi_undefined(lm_span_str("the extreme of an empty list"));
    for (size_t i = 0; i < all.n; i++) {
        if (order_key(r, all.at[i], lmi_arg(a, 1, "attribute", lmi_none()), flag(a, 0, "case_sensitive", false), &key) < 0 ||
            (i && lmi_compare(r, key, best, &order) < 0))
            return -1;
        if (i && (most ? order <= 0 : order >= 0))
            continue;
        best = key;
        *out = all.at[i];
    }
    return 0;
}
FILTER(smallest) { return extreme(r, self, a, false, out); }
FILTER(largest) { return extreme(r, self, a, true, out); }

FILTER(sum)
{
    static const char *const names[] = {"attribute", "start", NULL};
    struct lmi_value attribute = lmi_arg(a, 0, "attribute", lmi_none()), v = self;
    struct lmi_list all;

    if (lmi_args_check(r, "sum", a, 0, 2, names) < 0 ||
        (attribute.kind != LMI_NONE && lmi_column(r, self, attribute, lmi_none(), &v) < 0) || lmi_iterate(r, v, &all) < 0)
        return -1;
    *out = lmi_arg(a, 1, "start", lmi_int(0));
    for (size_t i = 0; i < all.n; i++)
        if (lmi_binary(r, LMI_ADD, *out, all.at[i], out) < 0)
            return -1;
    return 0;
}

const struct lmi_builtin *lmi_filter(struct lm_span name)
{
    static const struct lmi_builtin table[] = {
        {"tojson", tojson}, {"length", length}, {"count", length}, {"trim", trim}, {"default", fallback}, {"d", fallback},
        {"string", string}, {"safe", safe}, {"join", join}, {"items", items}, {"upper", upper}, {"lower", lower},
        {"capitalize", capitalize}, {"title", title}, {"dictsort", dictsort}, {"list", list}, {"select", select_items},
        {"reject", reject_items}, {"selectattr", select_by}, {"rejectattr", reject_by}, {"map", map}, {"indent", indent},
        {"replace", replace}, {"from_json", from_json}, {"int", to_int}, {"float", to_float}, {"abs", absolute},
        {"round", rounded}, {"first", first_item}, {"last", last_item}, {"min", smallest}, {"max", largest},
        {"sort", sort}, {"unique", unique}, {"reverse", reverse}, {"sum", sum}, {"escape", escape}, {"e", escape},
        {NULL, NULL}};

    return lmi_find_builtin(table, name);
}
