/* lm-list --meta. */
#include <stdlib.h>

#include "cmd/list.h"

enum { SHOWN_ELEMS = 4, SHOWN_TEXT = 200 };

static json_t *number_json(enum lm_meta_type type, const void *p)
{
    union { uint8_t u8; int8_t i8; uint16_t u16; int16_t i16; uint32_t u32; int32_t i32; uint64_t u64; int64_t i64;
            float f; double d; } v;

    memcpy(&v, p, lm_meta_width(type));
    switch (type) {
    case LM_META_U8: return json_integer(v.u8);
    case LM_META_I8: return json_integer(v.i8);
    case LM_META_U16: return json_integer(v.u16);
    case LM_META_I16: return json_integer(v.i16);
    case LM_META_U32: return json_integer(v.u32);
    case LM_META_I32: return json_integer(v.i32);
    case LM_META_U64: return v.u64 > INT64_MAX ? json_real((double)v.u64) : json_integer((json_int_t)v.u64);
    case LM_META_I64: return json_integer(v.i64);
    case LM_META_F32: return cli_json_real(v.f);
    case LM_META_F64: return cli_json_real(v.d);
    default: return json_boolean(v.u8);
    }
}

static json_t *array_json(const struct lm_meta_value *v)
{
    json_t *o = json_object(), *first = json_array();
    size_t width = lm_meta_width(v->elem);

    for (size_t i = 0; i < v->n && i < SHOWN_ELEMS; i++)
        json_array_append_new(first, v->elem == LM_META_STR ? cli_json_str(v->strs[i])
                                                            : number_json(v->elem, (const char *)v->data + i * width));
    json_object_set_new(o, "type", json_string(lm_meta_type_name(v->elem)));
    json_object_set_new(o, "n", json_integer((json_int_t)v->n));
    json_object_set_new(o, "first", first);
    return o;
}

static json_t *value_json(const struct lm_meta_value *v)
{
    switch (v->type) {
    case LM_META_STR: return cli_json_str(v->str);
    case LM_META_ARRAY: return array_json(v);
    case LM_META_F32:
    case LM_META_F64: return cli_json_real(v->f);
    case LM_META_BOOL: return json_boolean(v->u != 0);
    case LM_META_I8:
    case LM_META_I16:
    case LM_META_I32:
    case LM_META_I64: return json_integer(v->i);
    default: return v->u > INT64_MAX ? json_real((double)v->u) : json_integer((json_int_t)v->u);
    }
}

/* One line of a value: strings bare and cut, arrays by their first elements. */
static const char *value_text(const struct lm_meta_value *v, char *buf, size_t size)
{
    if (v->type == LM_META_STR) {
        bool cut = v->str.size > SHOWN_TEXT;
        snprintf(buf, size, "%s%s", cli_safe(lm_span_of(v->str.data, cut ? SHOWN_TEXT : v->str.size)), cut ? "…" : "");
        return buf;
    }
    json_t *j = value_json(v);
    json_t *shown = v->type == LM_META_ARRAY ? json_object_get(j, "first") : j;
    char *text = cli_json_text(shown, JSON_ENCODE_ANY | JSON_REAL_PRECISION(7));
    bool more = v->type == LM_META_ARRAY && v->n > SHOWN_ELEMS;
    snprintf(buf, size, "%.*s%s", text ? (int)strlen(text) - more : 0, text ? text : "", more ? ", …]" : "");
    free(text);
    json_decref(j);
    return buf;
}

static const char *type_text(const struct lm_meta_value *v, char *buf, size_t size)
{
    if (v->type == LM_META_ARRAY)
        snprintf(buf, size, "%zu × %s", v->n, lm_meta_type_name(v->elem));
    else
        snprintf(buf, size, "%s", lm_meta_type_name(v->type));
    return buf;
}

static void config_rows(struct cli_table *t, json_t *config)
{
    const char *key;
    json_t *value;

    json_object_foreach(config, key, value)
    {
        char name[300];
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(7));
        size_t n = text ? strlen(text) : 0;
        snprintf(name, sizeof name, "config.json %s", key);
        cli_table_row(t, cli_safe(lm_span_str(name)), "json",
                      cli_safe(lm_span_of(text, n < SHOWN_TEXT ? n : SHOWN_TEXT)));
        free(text);
    }
}

void list_print_meta(struct listing *l, json_t *config)
{
    static const char *const heads[] = {"key", "type", "value"};
    const struct lm_meta *meta = lm_model_meta(l->m);
    struct cli_table *t = cli_table_new(heads, "lll");

    for (size_t i = 0; i < lm_meta_count(meta); i++) {
        const char *key;
        const struct lm_meta_value *v = lm_meta_at(meta, i, &key);
        char type[64], value[4 * SHOWN_TEXT + 16];
        cli_table_row(t, cli_safe(lm_span_str(key)), type_text(v, type, sizeof type),
                      cli_safe(lm_span_str(value_text(v, value, sizeof value))));
    }
    config_rows(t, config);
    cli_table_print(t, stdout);
}

json_t *list_meta_json(struct listing *l, json_t *config)
{
    const struct lm_meta *meta = lm_model_meta(l->m);
    json_t *o = json_object();

    for (size_t i = 0; i < lm_meta_count(meta); i++) {
        const char *key;
        const struct lm_meta_value *v = lm_meta_at(meta, i, &key);
        json_object_set_new(o, cli_safe(lm_span_str(key)), value_json(v));
    }
    if (config)
        json_object_set(o, "config.json", config);
    return o;
}
