/* Operations that methods and filters share. */
#include <utf8proc.h>

#include "libmodel/jinja/text.h"

static int add_case(struct lmi_render *r, struct lmi_text *t, uint32_t cp, bool upper, bool title)
{
    if (cp == 0xdf && upper) /* the only small letter of Latin that becomes two */
        return lmi_text_str(r, t, title ? "Ss" : "SS");
    utf8proc_int32_t c = (utf8proc_int32_t)cp;
    c = !upper ? utf8proc_tolower(c) : title ? utf8proc_totitle(c) : utf8proc_toupper(c);
    return lmi_text_char(r, t, (uint32_t)c);
}

int lmi_map_case(struct lmi_render *r, struct lm_span s, enum lmi_case how, struct lmi_value *out)
{
    struct lmi_text t = {0};
    bool begins = true;

    if (lmi_spend(r, s.size / 4) < 0)
        return -1;
    for (size_t pos = 0; pos < s.size;) {
        uint32_t cp = lmi_next_char(s, &pos);
        bool upper = how == LMI_UPPER || (how >= LMI_CAPITALIZE && begins);
        utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
        if (add_case(r, &t, cp, upper, how == LMI_CAPITALIZE || how == LMI_TITLE) < 0)
            return -1;
        begins = how == LMI_TITLE && (c < UTF8PROC_CATEGORY_LU || c > UTF8PROC_CATEGORY_LT);
        begins = begins || (how == LMI_WORDS && (lmi_is_space(cp) || (cp < 0x80 && cp && strchr("-({[<", (int)cp))));
    }
    *out = lmi_text_value(&t);
    return 0;
}

int lmi_replace(struct lmi_render *r, struct lm_span s, struct lm_span from, struct lm_span to, int64_t most,
                struct lmi_value *out)
{
    struct lmi_text t = {0};
    size_t pos = 0;

    for (; most != 0; most--) {
        const uint8_t *p = from.size ? memmem(s.data + pos, s.size - pos, from.data, from.size) : NULL;
        size_t at = p ? (size_t)(p - s.data) : pos;
        if (!p && (from.size || pos > s.size))
            break;
        if (lmi_spend(r, 1) < 0 || lmi_text_add(r, &t, lm_span_of(s.data + pos, at - pos)) < 0 || lmi_text_add(r, &t, to) < 0)
            return -1;
        pos = at + from.size;
        if (from.size)
            continue;
        size_t next = pos; /* an empty text stands in front of every character and at the end */
        if (pos == s.size)
            break;
        lmi_next_char(s, &next);
        if (lmi_text_add(r, &t, lm_span_of(s.data + pos, next - pos)) < 0)
            return -1;
        pos = next;
    }
    if (lmi_text_add(r, &t, lm_span_of(s.data + pos, s.size - pos)) < 0)
        return -1;
    *out = lmi_text_value(&t);
    return lmi_spend(r, s.size / 8);
}

int lmi_join(struct lmi_render *r, struct lm_span sep, struct lmi_value v, bool strict, struct lmi_value *out)
{
    struct lmi_list items;
    struct lmi_text t = {0};

    if (lmi_iterate(r, v, &items) < 0)
        return -1;
    for (size_t i = 0; i < items.n; i++) {
        if (strict && items.at[i].kind != LMI_STR)
            return lmi_fail(r, "join takes strings, item %zu is %s", i, lmi_kind_name(items.at[i]));
        if ((i && lmi_text_add(r, &t, sep) < 0) || lmi_print(r, &t, items.at[i]) < 0)
            return -1;
    }
    *out = lmi_text_value(&t);
    return 0;
}

int lmi_escape(struct lmi_render *r, struct lmi_value v, struct lmi_value *out)
{
    static const char *const entities[] = {"&", "&amp;", "<", "&lt;", ">", "&gt;", "\"", "&#34;", "'", "&#39;"};
    bool done = v.kind == LMI_STR && v.safe;
    struct lm_span s;

    if (lmi_to_str(r, v, &s) < 0)
        return -1;
    *out = lmi_str(s);
    for (size_t i = 0; !done && i < sizeof entities / sizeof *entities; i += 2)
        if (lmi_replace(r, out->u.s, lm_span_str(entities[i]), lm_span_str(entities[i + 1]), -1, out) < 0)
            return -1;
    out->safe = true;
    return 0;
}

int lmi_items(struct lmi_render *r, struct lmi_value v, enum lmi_kind kind, struct lmi_value *out)
{
    if (lmi_list_new(r, kind, 0, out) < 0)
        return -1;
    out->u.list->view = "dict_items";
    if (v.kind == LMI_UNDEFINED)
        return 0;
    if (v.kind != LMI_DICT)
        return lmi_fail(r, "items are taken of a dict, not of %s", lmi_kind_name(v));
    for (size_t i = 0; i < v.u.dict->n; i++) {
        struct lmi_value pair;
        if (lmi_list_new(r, LMI_TUPLE, 2, &pair) < 0 || lmi_list_add(r, pair.u.list, v.u.dict->at[i].key) < 0 ||
            lmi_list_add(r, pair.u.list, v.u.dict->at[i].value) < 0 || lmi_list_add(r, out->u.list, pair) < 0)
            return -1;
    }
    return 0;
}
