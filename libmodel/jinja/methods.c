/* Methods of strings, dicts and lists. Those that change their object are not here. */
#include <stdlib.h>
#include <utf8proc.h>

#include "libmodel/jinja/text.h"

#define METHOD(f) static int f(struct lmi_render *r, struct lmi_value self, const struct lmi_args *a, struct lmi_value *out)

/* ---- strings */

/* Argument i must be a string. */
static int str_arg(struct lmi_render *r, const char *what, struct lmi_value v, struct lm_span *out)
{
    if (v.kind != LMI_STR)
        return lmi_fail(r, "%s takes a string, not %s", what, lmi_kind_name(v));
    *out = v.u.s;
    return 0;
}

static int strip(struct lmi_render *r, struct lmi_value self, const struct lmi_args *a, bool left, bool right,
                 struct lmi_value *out)
{
    struct lmi_value chars = lmi_arg(a, 0, "chars", lmi_none());
    struct lm_span set;

    if (lmi_args_check(r, "strip", a, 0, 1, NULL) < 0)
        return -1;
    if (chars.kind == LMI_NONE) {
        *out = lmi_str(lmi_strip(self.u.s, NULL, left, right));
        return 0;
    }
    if (str_arg(r, "strip", chars, &set) < 0)
        return -1;
    *out = lmi_str(lmi_strip(self.u.s, &set, left, right));
    return lmi_spend(r, self.u.s.size);
}
METHOD(str_strip) { return strip(r, self, a, true, true, out); }
METHOD(str_lstrip) { return strip(r, self, a, true, false, out); }
METHOD(str_rstrip) { return strip(r, self, a, false, true, out); }

METHOD(str_upper)
{
    return lmi_args_check(r, "upper", a, 0, 0, NULL) < 0 ? -1 : lmi_map_case(r, self.u.s, LMI_UPPER, out);
}
METHOD(str_lower)
{
    return lmi_args_check(r, "lower", a, 0, 0, NULL) < 0 ? -1 : lmi_map_case(r, self.u.s, LMI_LOWER, out);
}
METHOD(str_capitalize)
{
    return lmi_args_check(r, "capitalize", a, 0, 0, NULL) < 0 ? -1 : lmi_map_case(r, self.u.s, LMI_CAPITALIZE, out);
}
METHOD(str_title)
{
    return lmi_args_check(r, "title", a, 0, 0, NULL) < 0 ? -1 : lmi_map_case(r, self.u.s, LMI_TITLE, out);
}

static int ends(struct lmi_render *r, struct lm_span s, struct lmi_value what, bool front, bool *out)
{
    *out = false;
    for (size_t i = 0; what.kind == LMI_TUPLE && i < what.u.list->n && !*out; i++)
        if (what.u.list->at[i].kind == LMI_TUPLE || ends(r, s, what.u.list->at[i], front, out) < 0)
            return what.u.list->at[i].kind == LMI_TUPLE ? lmi_fail(r, "a tuple of strings is needed") : -1;
    if (what.kind == LMI_TUPLE)
        return 0;
    if (what.kind != LMI_STR)
        return lmi_fail(r, "startswith and endswith take a string, not %s", lmi_kind_name(what));
    size_t n = what.u.s.size;
    *out = n <= s.size && (n == 0 || memcmp(front ? s.data : s.data + s.size - n, what.u.s.data, n) == 0);
    return 0;
}

static int ends_method(struct lmi_render *r, struct lmi_value self, const struct lmi_args *a, bool front,
                       struct lmi_value *out)
{
    bool yes;

    if (lmi_args_check(r, front ? "startswith" : "endswith", a, 1, 1, NULL) < 0 ||
        ends(r, self.u.s, a->at[0], front, &yes) < 0)
        return -1;
    *out = lmi_bool(yes);
    return 0;
}
METHOD(str_startswith) { return ends_method(r, self, a, true, out); }
METHOD(str_endswith) { return ends_method(r, self, a, false, out); }

static int remove_end(struct lmi_render *r, struct lmi_value self, const struct lmi_args *a, bool front,
                      struct lmi_value *out)
{
    struct lmi_value yes;

    if (ends_method(r, self, a, front, &yes) < 0)
        return -1;
    size_t n = yes.u.b ? a->at[0].u.s.size : 0;
    *out = lmi_str(lm_span_of(self.u.s.data + (front ? n : 0), self.u.s.size - n));
    return 0;
}
METHOD(str_removeprefix) { return remove_end(r, self, a, true, out); }
METHOD(str_removesuffix) { return remove_end(r, self, a, false, out); }

/* The next place of `what` at or after `from`; s.size when there is none. */
static size_t find(struct lm_span s, struct lm_span what, size_t from)
{
    const uint8_t *p = what.size ? memmem(s.data + from, s.size - from, what.data, what.size) : NULL;

    return p ? (size_t)(p - s.data) : s.size;
}

static size_t find_last(struct lm_span s, struct lm_span what)
{
    size_t i = s.size < what.size ? 0 : s.size - what.size + 1;

    while (i-- > 0)
        if (memcmp(s.data + i, what.data, what.size) == 0)
            return i;
    return s.size;
}

static int add_piece(struct lmi_render *r, struct lmi_value list, const uint8_t *begin, const uint8_t *end)
{
    return lmi_list_add(r, list.u.list, lmi_str(lm_span_of(begin, (size_t)(end - begin))));
}

static int split_by(struct lmi_render *r, struct lm_span s, struct lm_span sep, int64_t most, struct lmi_value list)
{
    size_t from = 0;

    if (sep.size == 0)
        return lmi_fail(r, "split by an empty string");
    for (; most != 0; most--) {
        size_t at = find(s, sep, from);
        if (at >= s.size)
            break;
        if (add_piece(r, list, s.data + from, s.data + at) < 0)
            return -1;
        from = at + sep.size;
    }
    return lmi_spend(r, s.size / 8) < 0 ? -1 : add_piece(r, list, s.data + from, s.data + s.size);
}

/* Runs of white space part, none at the ends. */
static int split_words(struct lmi_render *r, struct lm_span s, int64_t most, struct lmi_value list)
{
    for (s = lmi_strip(s, NULL, true, false); s.size; s = lmi_strip(s, NULL, true, false)) {
        size_t end = 0;
        for (size_t next = 0; most != 0 && next < s.size && !lmi_is_space(lmi_next_char(s, &next)); end = next)
            continue;
        end = most == 0 ? s.size : end;
        if (add_piece(r, list, s.data, s.data + end) < 0)
            return -1;
        s = lm_span_of(s.data + end, s.size - end);
        most--;
    }
    return lmi_spend(r, s.size / 8);
}

METHOD(str_split)
{
    static const char *const names[] = {"sep", "maxsplit", NULL};
    struct lmi_value sep = lmi_arg(a, 0, "sep", lmi_none()), most = lmi_arg(a, 1, "maxsplit", lmi_int(-1));

    if (lmi_args_check(r, "split", a, 0, 2, names) < 0 || lmi_list_new(r, LMI_LIST, 0, out) < 0)
        return -1;
    if (most.kind != LMI_INT || (sep.kind != LMI_NONE && sep.kind != LMI_STR))
        return lmi_fail(r, "split takes a string and an int");
    int64_t n = most.u.i < 0 ? -1 : most.u.i;
    return sep.kind == LMI_NONE ? split_words(r, self.u.s, n, *out) : split_by(r, self.u.s, sep.u.s, n, *out);
}

/* From the right; the pieces come out in order. */
METHOD(str_rsplit)
{
    struct lmi_value most = lmi_arg(a, 1, "maxsplit", lmi_int(-1)), back;
    struct lm_span s = self.u.s, sep = {0};

    if (a->n < 2 || most.kind != LMI_INT || most.u.i < 0)
        return str_split(r, self, a, out);
    if (str_arg(r, "rsplit", a->at[0], &sep) < 0 || lmi_list_new(r, LMI_LIST, 0, &back) < 0 ||
        lmi_list_new(r, LMI_LIST, 0, out) < 0)
        return -1;
    for (int64_t n = most.u.i; n > 0 && sep.size; n--) {
        size_t at = find_last(s, sep);
        if (at == s.size)
            break;
        if (lmi_spend(r, s.size / 8) < 0 || add_piece(r, back, s.data + at + sep.size, s.data + s.size) < 0)
            return -1;
        s.size = at;
    }
    if (add_piece(r, back, s.data, s.data + s.size) < 0)
        return -1;
    for (size_t i = back.u.list->n; i-- > 0;)
        if (lmi_list_add(r, out->u.list, back.u.list->at[i]) < 0)
            return -1;
    return 0;
}

static int partition(struct lmi_render *r, struct lmi_value self, const struct lmi_args *a, bool last,
                     struct lmi_value *out)
{
    struct lm_span s = self.u.s, sep = {0};

    if (lmi_args_check(r, "partition", a, 1, 1, NULL) < 0 || str_arg(r, "partition", a->at[0], &sep) < 0 ||
        lmi_list_new(r, LMI_TUPLE, 3, out) < 0)
        return -1;
    size_t at = last ? find_last(s, sep) : find(s, sep, 0);
    size_t rest = at == s.size ? s.size : at + sep.size;
    if (last && at == s.size) /* nothing found: the text is the last part */
        at = rest = 0;
    return add_piece(r, *out, s.data, s.data + at) < 0 || add_piece(r, *out, s.data + at, s.data + rest) < 0
               ? -1
               : add_piece(r, *out, s.data + rest, s.data + s.size);
}
METHOD(str_partition) { return partition(r, self, a, false, out); }
METHOD(str_rpartition) { return partition(r, self, a, true, out); }

METHOD(str_splitlines)
{
    struct lm_span s = self.u.s;

    if (lmi_args_check(r, "splitlines", a, 0, 0, NULL) < 0 || lmi_list_new(r, LMI_LIST, 0, out) < 0)
        return -1;
    for (size_t begin = 0, i = 0; i < s.size; begin = i) {
        size_t end = i;
        uint32_t cp = 0;
        while (i < s.size) {
            end = i;
            cp = lmi_next_char(s, &i);
            if ((cp >= 10 && cp <= 13) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 || cp == 0x2028 || cp == 0x2029)
                break;
            end = i;
        }
        i += cp == '\r' && i < s.size && s.data[i] == '\n';
        if (add_piece(r, *out, s.data + begin, s.data + end) < 0)
            return -1;
    }
    return 0;
}

METHOD(str_replace)
{
    static const char *const names[] = {"count", NULL};
    struct lmi_value most = lmi_arg(a, 2, "count", lmi_int(-1));

    if (lmi_args_check(r, "replace", a, 2, 3, names) < 0)
        return -1;
    if (a->n < 2 || a->at[0].kind != LMI_STR || a->at[1].kind != LMI_STR || most.kind != LMI_INT)
        return lmi_fail(r, "replace takes two strings and an int");
    return lmi_replace(r, self.u.s, a->at[0].u.s, a->at[1].u.s, most.u.i, out);
}

METHOD(str_join)
{
    if (lmi_args_check(r, "join", a, 1, 1, NULL) < 0)
        return -1;
    return lmi_join(r, self.u.s, a->at[0], true, out);
}

static int place_of(struct lmi_render *r, struct lmi_value self, const struct lmi_args *a, bool last, struct lmi_value *out)
{
    struct lm_span s = self.u.s, what = {0};

    if (lmi_args_check(r, "find", a, 1, 1, NULL) < 0 || str_arg(r, "find", a->at[0], &what) < 0)
        return -1;
    size_t at = what.size == 0 ? (last ? s.size : 0) : last ? find_last(s, what) : find(s, what, 0);
    *out = lmi_int(at == s.size && what.size ? -1 : (int64_t)lmi_n_chars(lm_span_of(s.data, at)));
    return lmi_spend(r, s.size / 8);
}
METHOD(str_find) { return place_of(r, self, a, false, out); }
METHOD(str_rfind) { return place_of(r, self, a, true, out); }
METHOD(str_index)
{
    if (place_of(r, self, a, false, out) < 0)
        return -1;
    return out->u.i < 0 ? lmi_fail(r, "index: the text is not there") : 0;
}

METHOD(str_count)
{
    struct lm_span what = {0};
    int64_t n = 0;

    if (lmi_args_check(r, "count", a, 1, 1, NULL) < 0 || str_arg(r, "count", a->at[0], &what) < 0)
        return -1;
    for (size_t at = find(self.u.s, what, 0); at < self.u.s.size; at = find(self.u.s, what, at + what.size))
        n++;
    *out = lmi_int(what.size ? n : (int64_t)lmi_n_chars(self.u.s) + 1);
    return lmi_spend(r, self.u.s.size / 8);
}

/* Is every character of this kind, and is there one? */
static int all_are(struct lmi_render *r, struct lm_span s, bool (*is)(utf8proc_category_t c, uint32_t cp), struct lmi_value *out)
{
    bool yes = s.size > 0;

    for (size_t pos = 0; pos < s.size && yes;) {
        uint32_t cp = lmi_next_char(s, &pos);
        yes = is(utf8proc_category((utf8proc_int32_t)cp), cp);
    }
    *out = lmi_bool(yes);
    return lmi_spend(r, s.size / 8);
}
static bool letter(utf8proc_category_t c, uint32_t cp)
{
    (void)cp;
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}
static bool digit(utf8proc_category_t c, uint32_t cp)
{
    (void)cp;
    return c == UTF8PROC_CATEGORY_ND;
}
static bool letter_or_digit(utf8proc_category_t c, uint32_t cp) { return letter(c, cp) || digit(c, cp); }
static bool space(utf8proc_category_t c, uint32_t cp)
{
    (void)c;
    return lmi_is_space(cp);
}
METHOD(str_isalpha) { return lmi_args_check(r, "isalpha", a, 0, 0, NULL) < 0 ? -1 : all_are(r, self.u.s, letter, out); }
METHOD(str_isdigit) { return lmi_args_check(r, "isdigit", a, 0, 0, NULL) < 0 ? -1 : all_are(r, self.u.s, digit, out); }
METHOD(str_isspace) { return lmi_args_check(r, "isspace", a, 0, 0, NULL) < 0 ? -1 : all_are(r, self.u.s, space, out); }
METHOD(str_isalnum)
{
    return lmi_args_check(r, "isalnum", a, 0, 0, NULL) < 0 ? -1 : all_are(r, self.u.s, letter_or_digit, out);
}

/* The value of a field "{}", "{1}" or "{name}". */
static int format_field(struct lmi_render *r, struct lm_span field, const struct lmi_args *a, size_t *next,
                        struct lmi_value *out)
{
    char name[64];
    size_t i = *next;

    if (field.size >= sizeof name)
        return lmi_fail(r, "format has a field that is too long");
    memcpy(name, field.data, field.size);
    name[field.size] = 0;
    if (strpbrk(name, ":!.[]{"))
        return lmi_fail(r, "format fields are {}, {number} or {name}, not {%s}", name);
    if (field.size == 0)
        ++*next;
    else if (name[0] >= '0' && name[0] <= '9')
        i = (size_t)strtoul(name, NULL, 10);
    else
        i = SIZE_MAX;
    *out = lmi_arg(a, i, name, (struct lmi_value){.kind = LMI_LOOP});
    return out->kind == LMI_LOOP ? lmi_fail(r, "format has no value for {%s}", name) : 0;
}

METHOD(str_format)
{
    struct lm_span s = self.u.s;
    struct lmi_text t = {0};
    struct lmi_value v;
    size_t next = 0;

    for (size_t i = 0; i < s.size; i++) {
        uint8_t c = s.data[i];
        if ((c == '{' || c == '}') && i + 1 < s.size && s.data[i + 1] == c)
            i++;
        else if (c == '}')
            return lmi_fail(r, "format has a } without {");
        else if (c == '{') {
            size_t end = find(s, lm_span_str("}"), i);
            if (end == s.size)
                return lmi_fail(r, "format has a { without }");
            if (format_field(r, lm_span_of(s.data + i + 1, end - i - 1), a, &next, &v) < 0 || lmi_print(r, &t, v) < 0)
                return -1;
            i = end;
            continue;
        }
        if (lmi_text_add(r, &t, lm_span_of(&c, 1)) < 0)
            return -1;
    }
    *out = lmi_text_value(&t);
    return lmi_spend(r, s.size / 8);
}

/* ---- dicts */

METHOD(dict_get)
{
    if (lmi_args_check(r, "get", a, 1, 2, NULL) < 0 || lmi_check_key(r, a->at[0]) < 0 || lmi_spend(r, self.u.dict->n) < 0)
        return -1;
    const struct lmi_value *v = lmi_dict_get(self.u.dict, a->at[0]);
    *out = v ? *v : lmi_arg(a, 1, "default", lmi_none());
    return 0;
}
METHOD(dict_items) { return lmi_args_check(r, "items", a, 0, 0, NULL) < 0 ? -1 : lmi_items(r, self, LMI_VIEW, out); }

static int column(struct lmi_render *r, const struct lmi_dict *d, bool keys, struct lmi_value *out)
{
    if (lmi_list_new(r, LMI_VIEW, d->n, out) < 0)
        return -1;
    out->u.list->view = keys ? "dict_keys" : "dict_values";
    for (size_t i = 0; i < d->n; i++)
        if (lmi_list_add(r, out->u.list, keys ? d->at[i].key : d->at[i].value) < 0)
            return -1;
    return 0;
}
METHOD(dict_keys) { return lmi_args_check(r, "keys", a, 0, 0, NULL) < 0 ? -1 : column(r, self.u.dict, true, out); }
METHOD(dict_values) { return lmi_args_check(r, "values", a, 0, 0, NULL) < 0 ? -1 : column(r, self.u.dict, false, out); }
METHOD(copy_of)
{
    *out = self; /* nothing is ever changed */
    return lmi_args_check(r, "copy", a, 0, 0, NULL);
}

/* ---- lists */

METHOD(list_index)
{
    if (lmi_args_check(r, "index", a, 1, 1, NULL) < 0 || lmi_spend(r, self.u.list->n) < 0)
        return -1;
    for (size_t i = 0; i < self.u.list->n; i++)
        if (lmi_equal(self.u.list->at[i], a->at[0])) {
            *out = lmi_int((int64_t)i);
            return 0;
        }
    return lmi_fail(r, "index: the list does not hold it");
}
METHOD(list_count)
{
    int64_t n = 0;

    if (lmi_args_check(r, "count", a, 1, 1, NULL) < 0 || lmi_spend(r, self.u.list->n) < 0)
        return -1;
    for (size_t i = 0; i < self.u.list->n; i++)
        n += lmi_equal(self.u.list->at[i], a->at[0]);
    *out = lmi_int(n);
    return 0;
}

/* ---- tables */

static const struct lmi_builtin of_str[] = {
    {"split", str_split}, {"strip", str_strip}, {"lstrip", str_lstrip}, {"rstrip", str_rstrip}, {"upper", str_upper},
    {"lower", str_lower}, {"startswith", str_startswith}, {"endswith", str_endswith}, {"replace", str_replace},
    {"join", str_join}, {"find", str_find}, {"rfind", str_rfind}, {"index", str_index}, {"count", str_count},
    {"format", str_format}, {"capitalize", str_capitalize}, {"title", str_title}, {"rsplit", str_rsplit},
    {"splitlines", str_splitlines}, {"partition", str_partition}, {"rpartition", str_rpartition},
    {"removeprefix", str_removeprefix}, {"removesuffix", str_removesuffix}, {"isalpha", str_isalpha},
    {"isdigit", str_isdigit}, {"isspace", str_isspace}, {"isalnum", str_isalnum}, {NULL, NULL}};
static const struct lmi_builtin of_dict[] = {
    {"get", dict_get}, {"items", dict_items}, {"keys", dict_keys}, {"values", dict_values}, {"copy", copy_of}, {NULL, NULL}};
static const struct lmi_builtin of_list[] = {{"index", list_index}, {"count", list_count}, {"copy", copy_of}, {NULL, NULL}};
static const char *const dict_changes[] = {"pop", "update", "setdefault", "clear", "popitem", NULL};
static const char *const list_changes[] = {"append", "pop", "extend", "insert", "remove", "clear", "sort", "reverse", NULL};

/* ---- methods of Markup: what comes in is escaped, the texts that come out are Markup */

static int escape_each(struct lmi_render *r, struct lmi_value list, struct lmi_value *out)
{
    struct lmi_list items;

    if (lmi_iterate(r, list, &items) < 0 || lmi_list_new(r, LMI_LIST, items.n, out) < 0)
        return -1;
    for (size_t i = 0; i < items.n; i++) {
        struct lmi_value v = items.at[i];
        if ((v.kind == LMI_STR && lmi_escape(r, v, &v) < 0) || lmi_list_add(r, out->u.list, v) < 0)
            return -1;
    }
    return 0;
}

static int escape_args(struct lmi_render *r, const struct lmi_builtin *fn, struct lmi_value *at, size_t n)
{
    size_t first = fn->call == str_replace ? 1 : 0, end = fn->call == str_replace ? 2 : fn->call == str_format ? n : 0;

    if (fn->call == str_join && n && at[0].kind != LMI_STR)
        return escape_each(r, at[0], &at[0]);
    for (size_t i = first; i < end && i < n; i++)
        if (lmi_escape(r, at[i], &at[i]) < 0)
            return -1;
    return 0;
}

int lmi_call_safe(struct lmi_render *r, struct lmi_value self, const struct lmi_builtin *fn, const struct lmi_args *a,
                  struct lmi_value *out)
{
    struct lmi_value *at = lmi_alloc(r, (a->n + 1) * sizeof *at);
    struct lmi_named *named = lmi_alloc(r, (a->n_named + 1) * sizeof *named);

    if (!at || !named)
        return -1;
    if (a->n)
        memcpy(at, a->at, a->n * sizeof *at);
    for (size_t i = 0; i < a->n_named; i++) {
        named[i] = a->named[i];
        if (fn->call == str_format && lmi_escape(r, named[i].value, &named[i].value) < 0)
            return -1;
    }
    struct lmi_args escaped = {at, a->n, named, a->n_named};
    if (escape_args(r, fn, at, a->n) < 0 || fn->call(r, self, &escaped, out) < 0)
        return -1;
    out->safe = out->kind == LMI_STR;
    for (size_t i = 0; lmi_is_seq(*out) && i < out->u.list->n; i++)
        out->u.list->at[i].safe = out->u.list->at[i].kind == LMI_STR;
    return 0;
}

const struct lmi_builtin *lmi_find_builtin(const struct lmi_builtin *table, struct lm_span name)
{
    for (; table->name; table++)
        if (lmi_span_is(name, table->name))
            return table;
    return NULL;
}

const struct lmi_builtin *lmi_method(struct lmi_value self, struct lm_span name)
{
    if (self.kind == LMI_STR)
        return lmi_find_builtin(of_str, name);
    if (lmi_is_seq(self))
        return lmi_find_builtin(of_list, name);
    return self.kind == LMI_DICT ? lmi_find_builtin(of_dict, name) : NULL;
}

bool lmi_method_changes(struct lmi_value self, struct lm_span name)
{
    const char *const *names = self.kind == LMI_DICT ? dict_changes : self.kind == LMI_LIST ? list_changes : NULL;

    for (; names && *names; names++)
        if (lmi_span_is(name, *names))
            return true;
    return false;
}
