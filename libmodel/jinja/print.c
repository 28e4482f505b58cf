/* Values as text: str(), repr(), json.dumps() of Python, and JSON read. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <utf8proc.h>

#include "libmodel/jinja/value.h"
#include "libmodel/parse/json.h"

enum { MAX_DEPTH = 64 };

/* ---- characters */

uint32_t lmi_next_char(struct lm_span s, size_t *pos)
{
    utf8proc_int32_t cp;
    utf8proc_ssize_t n = utf8proc_iterate(s.data + *pos, (utf8proc_ssize_t)(s.size - *pos), &cp);

    *pos += n > 0 ? (size_t)n : 1;
    return n > 0 ? (uint32_t)cp : 0xfffd;
}

size_t lmi_n_chars(struct lm_span s)
{
    size_t n = 0;

    for (size_t i = 0; i < s.size; i++)
        n += (s.data[i] & 0xc0) != 0x80;
    return n;
}

bool lmi_is_space(uint32_t cp)
{
    if (cp < 0x80)
        return (cp >= 9 && cp <= 13) || (cp >= 0x1c && cp <= 0x20);
    return cp == 0x85 || cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 ||
           cp == 0x2029 || cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

static bool stripped(uint32_t cp, const struct lm_span *chars)
{
    if (!chars)
        return lmi_is_space(cp);
    for (size_t pos = 0; pos < chars->size;)
        if (lmi_next_char(*chars, &pos) == cp)
            return true;
    return false;
}

struct lm_span lmi_strip(struct lm_span s, const struct lm_span *chars, bool left, bool right)
{
    for (size_t pos = 0; left && s.size && stripped(lmi_next_char(s, &pos), chars); pos = 0)
        s = lm_span_of(s.data + pos, s.size - pos);
    while (right && s.size) {
        size_t at = s.size - 1;
        while (at > 0 && (s.data[at] & 0xc0) == 0x80)
            at--;
        size_t pos = at;
        if (!stripped(lmi_next_char(s, &pos), chars))
            break;
        s.size = at;
    }
    return s;
}

/* ---- text */

int lmi_text_add(struct lmi_render *r, struct lmi_text *t, struct lm_span s)
{
    if (lmi_spend(r, s.size / 16) < 0)
        return -1;
    if (s.size > t->capacity - t->n) {
        size_t capacity = t->capacity + s.size < r->max_bytes ? 2 * (t->capacity + s.size) + 64 : SIZE_MAX;
        uint8_t *p = lmi_alloc(r, capacity);
        if (!p)
            return -1;
        if (t->n)
            memcpy(p, t->at, t->n);
        t->at = p;
        t->capacity = capacity;
    }
    if (s.size)
        memcpy(t->at + t->n, s.data, s.size);
    t->n += s.size;
    return 0;
}

int lmi_text_char(struct lmi_render *r, struct lmi_text *t, uint32_t cp)
{
    uint8_t buf[4];

    return lmi_text_add(r, t, lm_span_of(buf, (size_t)utf8proc_encode_char((utf8proc_int32_t)cp, buf)));
}

/* The shortest digits that read back equal, laid out as Python's repr does. */
static int print_float(struct lmi_render *r, struct lmi_text *t, double f)
{
    char e[40], buf[64];
    int precision = 0;

    if (isnan(f) || isinf(f))
        return lmi_text_str(r, t, isnan(f) ? "nan" : f > 0 ? "inf" : "-inf");
    do
        snprintf(e, sizeof e, "%.*e", precision, f);
    while (strtod(e, NULL) != f && precision++ < 17);
    int exponent = atoi(strchr(e, 'e') + 1);
    if (exponent < -4 || exponent >= 16) {
        *strchr(e, 'e') = 0;
        snprintf(buf, sizeof buf, "%se%c%02d", e, exponent < 0 ? '-' : '+', abs(exponent));
    } else {
        int decimals = precision - exponent;
        snprintf(buf, sizeof buf, "%.*f", decimals > 1 ? decimals : 1, f);
    }
    return lmi_text_str(r, t, buf);
}

static int print_scalar(struct lmi_render *r, struct lmi_text *t, struct lmi_value v)
{
    char buf[32];

    switch (v.kind) {
    case LMI_UNDEFINED:
        return 0;
    case LMI_NONE:
        return lmi_text_str(r, t, "None");
    case LMI_BOOL:
        return lmi_text_str(r, t, v.u.b ? "True" : "False");
    case LMI_INT:
        snprintf(buf, sizeof buf, "%lld", (long long)v.u.i);
        return lmi_text_str(r, t, buf);
    case LMI_FLOAT:
        return print_float(r, t, v.u.f);
    default:
        return lmi_fail(r, "%s has no text", lmi_kind_name(v));
    }
}

/* str.isprintable: neither "other" nor a separator but the space. */
static bool printable(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);

    return cp == ' ' || !(c == UTF8PROC_CATEGORY_CC || c == UTF8PROC_CATEGORY_CF || c == UTF8PROC_CATEGORY_CS ||
                          c == UTF8PROC_CATEGORY_CO || c == UTF8PROC_CATEGORY_CN || c == UTF8PROC_CATEGORY_ZL ||
                          c == UTF8PROC_CATEGORY_ZP || c == UTF8PROC_CATEGORY_ZS);
}

static int repr_char(struct lmi_render *r, struct lmi_text *t, uint32_t cp, char quote)
{
    char buf[16];

    if (cp == (uint32_t)quote || cp == '\\')
        snprintf(buf, sizeof buf, "\\%c", (char)cp);
    else if (cp == '\n' || cp == '\r' || cp == '\t')
        snprintf(buf, sizeof buf, "\\%c", cp == '\n' ? 'n' : cp == '\r' ? 'r' : 't');
    else if (printable(cp))
        return lmi_text_char(r, t, cp);
    else
        snprintf(buf, sizeof buf, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
    return lmi_text_str(r, t, buf);
}

static int repr_str(struct lmi_render *r, struct lmi_text *t, struct lm_span s)
{
    bool has_single = s.size && memchr(s.data, '\'', s.size), has_double = s.size && memchr(s.data, '"', s.size);
    char quote = has_single && !has_double ? '"' : '\'';
    int code = lmi_text_add(r, t, lm_span_of(&quote, 1));

    for (size_t pos = 0; pos < s.size && code == 0;)
        code = repr_char(r, t, lmi_next_char(s, &pos), quote);
    return code < 0 ? -1 : lmi_text_add(r, t, lm_span_of(&quote, 1));
}

static int repr_safe(struct lmi_render *r, struct lmi_text *t, struct lm_span s)
{
    int code = lmi_text_str(r, t, "Markup(") < 0 ? -1 : repr_str(r, t, s);

    return code < 0 ? -1 : lmi_text_str(r, t, ")");
}

static int repr_list(struct lmi_render *r, struct lmi_text *t, struct lmi_value v)
{
    const struct lmi_list *l = v.u.list;
    bool tuple = v.kind == LMI_TUPLE;
    int code = lmi_text_str(r, t, tuple ? "(" : "[");

    for (size_t i = 0; i < l->n && code == 0; i++)
        code = (i && lmi_text_str(r, t, ", ") < 0) || lmi_repr(r, t, l->at[i]) < 0 ? -1 : 0;
    return code < 0 ? -1 : lmi_text_str(r, t, !tuple ? "]" : l->n == 1 ? ",)" : ")");
}

static int repr_view(struct lmi_render *r, struct lmi_text *t, struct lmi_value v)
{
    int code = lmi_text_str(r, t, v.u.list->view) < 0 || lmi_text_str(r, t, "(") < 0 ? -1 : repr_list(r, t, v);

    return code < 0 ? -1 : lmi_text_str(r, t, ")");
}

static int repr_dict(struct lmi_render *r, struct lmi_text *t, const struct lmi_dict *d)
{
    int code = lmi_text_str(r, t, "{");

    for (size_t i = 0; i < d->n && code == 0; i++)
        code = (i && lmi_text_str(r, t, ", ") < 0) || lmi_repr(r, t, d->at[i].key) < 0 ||
                       lmi_text_str(r, t, ": ") < 0 || lmi_repr(r, t, d->at[i].value) < 0
                   ? -1
                   : 0;
    return code < 0 ? -1 : lmi_text_str(r, t, "}");
}

int lmi_repr(struct lmi_render *r, struct lmi_text *t, struct lmi_value v)
{
    int code;

    if (v.kind == LMI_UNDEFINED)
        return lmi_text_str(r, t, "Undefined");
    if (v.kind == LMI_STR)
        return v.safe ? repr_safe(r, t, v.u.s) : repr_str(r, t, v.u.s);
    if (v.kind == LMI_ITERATOR) /* Python tells its address, too */
        return lmi_text_str(r, t, "<generator object>");
    if (!lmi_is_seq(v) && v.kind != LMI_DICT && v.kind != LMI_VIEW)
        return print_scalar(r, t, v);
    if (++r->depth > MAX_DEPTH)
        return lmi_fail(r, "a value nested deeper than %d", MAX_DEPTH);
    code = v.kind == LMI_DICT ? repr_dict(r, t, v.u.dict) : v.kind == LMI_VIEW ? repr_view(r, t, v) : repr_list(r, t, v);
    r->depth--;
    return code;
}

int lmi_print(struct lmi_render *r, struct lmi_text *t, struct lmi_value v)
{
    if (v.kind == LMI_STR)
        return lmi_text_add(r, t, v.u.s);
    return v.kind == LMI_UNDEFINED ? 0 : lmi_repr(r, t, v);
}

int lmi_to_str(struct lmi_render *r, struct lmi_value v, struct lm_span *out)
{
    struct lmi_text t = {0};

    if (v.kind == LMI_STR) {
        *out = v.u.s;
        return 0;
    }
    if (lmi_print(r, &t, v) < 0)
        return -1;
    *out = lmi_text_value(&t).u.s;
    return 0;
}

/* ---- json.dumps */

static int json_escape(struct lmi_render *r, struct lmi_text *t, uint32_t cp, bool ascii)
{
    static const char letters[] = "\"\"\\\\\nn\rr\tt\ff\bb";
    char buf[16];

    for (const char *p = letters; *p && cp < 0x80; p += 2)
        if ((uint32_t)*p == cp) {
            snprintf(buf, sizeof buf, "\\%c", p[1]);
            return lmi_text_str(r, t, buf);
        }
    if (cp >= 0x20 && (!ascii || cp < 0x7f))
        return lmi_text_char(r, t, cp);
    if (cp < 0x10000)
        snprintf(buf, sizeof buf, "\\u%04x", cp);
    else
        snprintf(buf, sizeof buf, "\\u%04x\\u%04x", 0xd800 + ((cp - 0x10000) >> 10), 0xdc00 + ((cp - 0x10000) & 0x3ff));
    return lmi_text_str(r, t, buf);
}

static int json_str(struct lmi_render *r, struct lmi_text *t, struct lm_span s, bool ascii)
{
    int code = lmi_text_str(r, t, "\"");

    for (size_t pos = 0; pos < s.size && code == 0;)
        code = json_escape(r, t, lmi_next_char(s, &pos), ascii);
    return code < 0 ? -1 : lmi_text_str(r, t, "\"");
}

struct json_out {
    struct lmi_render *r;
    struct lmi_text *t;
    const struct lmi_json_style *style;
    unsigned level;
};
static int json_value(struct json_out *o, struct lmi_value v);

static int json_line(struct json_out *o)
{
    if (o->style->indent < 0)
        return 0;
    if (lmi_text_str(o->r, o->t, "\n") < 0)
        return -1;
    for (int64_t i = 0; i < o->style->indent * o->level; i++)
        if (lmi_text_str(o->r, o->t, " ") < 0)
            return -1;
    return 0;
}

static int json_key(struct json_out *o, struct lmi_value key)
{
    struct lmi_text t = {0};

    if (key.kind != LMI_STR) {
        const struct lmi_json_style flat = {.indent = -1, .item_sep = lm_span_str(", "), .key_sep = lm_span_str(": ")};
        if (lmi_json(o->r, &t, key, &flat) < 0)
            return -1;
        key = lmi_text_value(&t);
    }
    return json_str(o->r, o->t, key.u.s, o->style->ascii) < 0 ? -1 : lmi_text_add(o->r, o->t, o->style->key_sep);
}

static const struct lmi_entry *sorted(struct json_out *o, const struct lmi_dict *d)
{
    struct lmi_entry *e = lmi_alloc(o->r, d->n * sizeof *e);

    for (size_t i = 0; e && i < d->n; i++) {
        size_t at = i;
        int order = 0;
        for (; at > 0; at--) {
            if (lmi_compare(o->r, e[at - 1].key, d->at[i].key, &order) < 0)
                return NULL;
            if (order <= 0)
                break;
            e[at] = e[at - 1];
        }
        e[at] = d->at[i];
    }
    return e;
}

static int json_dict(struct json_out *o, const struct lmi_dict *d)
{
    const struct lmi_entry *at = o->style->sort_keys && d->n ? sorted(o, d) : d->at;

    if (d->n && !at)
        return -1;
    if (d->n == 0)
        return lmi_text_str(o->r, o->t, "{}");
    if (lmi_text_str(o->r, o->t, "{") < 0)
        return -1;
    o->level++;
    for (size_t i = 0; i < d->n; i++)
        if ((i && lmi_text_add(o->r, o->t, o->style->item_sep) < 0) || json_line(o) < 0 || json_key(o, at[i].key) < 0 ||
            json_value(o, at[i].value) < 0)
            return -1;
    o->level--;
    return json_line(o) < 0 ? -1 : lmi_text_str(o->r, o->t, "}");
}

static int json_list(struct json_out *o, const struct lmi_list *l)
{
    if (l->n == 0)
        return lmi_text_str(o->r, o->t, "[]");
    if (lmi_text_str(o->r, o->t, "[") < 0)
        return -1;
    o->level++;
    for (size_t i = 0; i < l->n; i++)
        if ((i && lmi_text_add(o->r, o->t, o->style->item_sep) < 0) || json_line(o) < 0 || json_value(o, l->at[i]) < 0)
            return -1;
    o->level--;
    return json_line(o) < 0 ? -1 : lmi_text_str(o->r, o->t, "]");
}

static int json_scalar(struct json_out *o, struct lmi_value v)
{
    switch (v.kind) {
    case LMI_NONE:
        return lmi_text_str(o->r, o->t, "null");
    case LMI_BOOL:
        return lmi_text_str(o->r, o->t, v.u.b ? "true" : "false");
    case LMI_FLOAT:
        if (isnan(v.u.f) || isinf(v.u.f))
            return lmi_text_str(o->r, o->t, isnan(v.u.f) ? "NaN" : v.u.f > 0 ? "Infinity" : "-Infinity");
        return print_float(o->r, o->t, v.u.f);
    case LMI_INT:
        return print_scalar(o->r, o->t, v);
    case LMI_STR:
        return json_str(o->r, o->t, v.u.s, o->style->ascii);
    default:
        return lmi_fail(o->r, "%s cannot be written as JSON", lmi_kind_name(v));
    }
}

static int json_value(struct json_out *o, struct lmi_value v)
{
    if (o->level >= MAX_DEPTH)
        return lmi_fail(o->r, "a value nested deeper than %d", MAX_DEPTH);
    if (v.kind == LMI_DICT)
        return json_dict(o, v.u.dict);
    return lmi_is_seq(v) ? json_list(o, v.u.list) : json_scalar(o, v);
}

int lmi_json(struct lmi_render *r, struct lmi_text *t, struct lmi_value v, const struct lmi_json_style *style)
{
    struct json_out o = {r, t, style, 0};

    return json_value(&o, v);
}

/* ---- JSON read */

static int from_json(struct lmi_render *r, json_t *j, struct lmi_value *out);

static int from_object(struct lmi_render *r, json_t *j, struct lmi_value *out)
{
    const char *key;
    json_t *item;
    struct lmi_value v;

    if (lmi_dict_new(r, LMI_DICT, out) < 0)
        return -1;
    json_object_foreach(j, key, item) {
        struct lmi_text name = {0};
        if (lmi_text_str(r, &name, key) < 0 || from_json(r, item, &v) < 0 ||
            lmi_dict_put(r, out->u.dict, lmi_text_value(&name), v) < 0)
            return -1;
    }
    return 0;
}

static int from_array(struct lmi_render *r, json_t *j, struct lmi_value *out)
{
    if (lmi_list_new(r, LMI_LIST, json_array_size(j), out) < 0)
        return -1;
    for (size_t i = 0; i < json_array_size(j); i++) {
        struct lmi_value v;
        if (from_json(r, json_array_get(j, i), &v) < 0 || lmi_list_add(r, out->u.list, v) < 0)
            return -1;
    }
    return 0;
}

/* Depth is bounded by lm_json_parse. */
static int from_json(struct lmi_render *r, json_t *j, struct lmi_value *out)
{
    struct lmi_text t = {0};

    switch (json_typeof(j)) {
    case JSON_OBJECT:
        return from_object(r, j, out);
    case JSON_ARRAY:
        return from_array(r, j, out);
    case JSON_STRING:
        if (lmi_text_add(r, &t, lm_json_span(j)) < 0)
            return -1;
        *out = lmi_text_value(&t);
        return 0;
    case JSON_INTEGER:
        *out = lmi_int(json_integer_value(j));
        return 0;
    case JSON_REAL:
        *out = lmi_float(json_real_value(j));
        return 0;
    case JSON_NULL:
        *out = lmi_none();
        return 0;
    default:
        *out = lmi_bool(json_is_true(j));
        return 0;
    }
}

int lmi_from_json(struct lmi_render *r, struct lm_span text, const char *what, struct lmi_value *out)
{
    json_t *j = lm_json_parse(text, what, r->e);
    int code = j ? from_json(r, j, out) : -1;

    json_decref(j);
    return code;
}
