/* One value or key of a JSON text replaced, the rest byte for byte as it was:
 * numbers that no parser keeps (model_max_length of 30 digits) and the layout
 * stay. */
#include <jansson.h>
#include <stdlib.h>

#include "convert/edit_parts.h"

enum { MOST_DEPTH = 256 };

struct json { const char *p, *end; };

static void skip_blank(struct json *j)
{
    while (j->p < j->end && (*j->p == ' ' || *j->p == '\t' || *j->p == '\r' || *j->p == '\n'))
        j->p++;
}

/* From an opening quote to behind the closing one. */
static bool skip_string(struct json *j)
{
    for (j->p++; j->p < j->end; j->p++) {
        if (*j->p == '"') {
            j->p++;
            return true;
        }
        j->p += *j->p == '\\';
    }
    return false;
}

/* A value of any kind; brackets need only balance, for the text is one that was read as JSON before. */
static bool skip_value(struct json *j)
{
    int depth = 0;

    do {
        skip_blank(j);
        if (j->p >= j->end)
            return false;
        char c = *j->p;
        if (c == '"') {
            if (!skip_string(j))
                return false;
        } else if (c == '{' || c == '[') {
            if (++depth > MOST_DEPTH)
                return false;
            j->p++;
        } else if (c == '}' || c == ']') {
            depth--;
            j->p++;
        } else if (depth > 0 && (c == ',' || c == ':')) {
            j->p++;
        } else {
            while (j->p < j->end && !strchr(",:]} \t\r\n", *j->p))
                j->p++;
        }
    } while (depth > 0);
    return depth == 0;
}

/* A member of an object. */
struct member { struct lm_span key, value; }; /* key with its quotes */

/* j: behind '{' or behind a value. 1 a member, 0 the end, -1 not JSON. */
static int next_member(struct json *j, struct member *m)
{
    skip_blank(j);
    if (j->p < j->end && *j->p == ',') {
        j->p++;
        skip_blank(j);
    }
    if (j->p >= j->end || *j->p != '"')
        return j->p < j->end && *j->p == '}' ? 0 : -1;
    const char *key = j->p;
    if (!skip_string(j))
        return -1;
    m->key = lm_span_of(key, (size_t)(j->p - key));
    skip_blank(j);
    if (j->p >= j->end || *j->p++ != ':')
        return -1;
    skip_blank(j);
    const char *value = j->p;
    if (!skip_value(j))
        return -1;
    m->value = lm_span_of(value, (size_t)(j->p - value));
    return 1;
}

static bool is_text(struct lm_span quoted, const char *text)
{
    json_t *v = json_loadb((const char *)quoted.data, quoted.size, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    bool same = json_is_string(v) && strlen(text) == json_string_length(v) &&
                memcmp(json_string_value(v), text, strlen(text)) == 0;

    json_decref(v);
    return same;
}

/* 1 found; text: an object. */
static int find_member(struct lm_span text, const char *key, struct member *m)
{
    struct json j = {(const char *)text.data, (const char *)text.data + text.size};
    int rc;

    skip_blank(&j);
    if (j.p >= j.end || *j.p != '{')
        return -1;
    for (j.p++; (rc = next_member(&j, m)) == 1;)
        if (is_text(m->key, key))
            return 1;
    return rc;
}

/* text with `old`, a part of it, become `now`. */
static int replace(char **out, struct lm_span text, struct lm_span old, const char *now, struct lm_err *e)
{
    size_t before = (size_t)(old.data - text.data), n = strlen(now), after = text.size - before - old.size;

    if (!(*out = malloc(text.size + n + 1)))
        return lmc_nomem(e);
    memcpy(*out, text.data, before);
    memcpy(*out + before, now, n);
    memcpy(*out + before + n, old.data + old.size, after);
    (*out)[before + n + after] = 0;
    return 1;
}

static int replace_quoted(char **out, struct lm_span text, struct lm_span old, struct lm_span now, struct lm_err *e)
{
    json_t *v = json_stringn((const char *)now.data, now.size);
    char *quoted = v ? json_dumps(v, JSON_ENCODE_ANY) : NULL;
    int rc = quoted ? replace(out, text, old, quoted, e) : lm_err_set(e, LM_USAGE, "the text is not UTF-8");

    free(quoted);
    json_decref(v);
    return rc;
}

/* ---- chat templates */

/* [{"name": "default", "template": "..."}, ...] */
static int named_default(struct lm_span list, struct member *m)
{
    struct json j = {(const char *)list.data + 1, (const char *)list.data + list.size};

    for (;;) {
        skip_blank(&j);
        if (j.p < j.end && *j.p == ',')
            j.p++;
        skip_blank(&j);
        const char *one = j.p;
        if (j.p >= j.end || *j.p != '{' || !skip_value(&j))
            return 0;
        struct lm_span object = lm_span_of(one, (size_t)(j.p - one));
        if (find_member(object, "name", m) == 1 && is_text(m->value, "default"))
            return find_member(object, "template", m);
    }
}

int lmc_json_set_template(char **out, struct lm_span text, struct lm_span value, struct lm_err *e)
{
    struct json j = {(const char *)text.data, (const char *)text.data + text.size};
    struct member m;
    int rc = find_member(text, "chat_template", &m);

    if (rc == 1 && m.value.data[0] == '[' && named_default(m.value, &m) != 1)
        return 0;
    if (rc == 1)
        return replace_quoted(out, text, m.value, value, e);
    skip_blank(&j);
    if (rc < 0 || j.p >= j.end)
        return lm_err_set(e, LM_MALFORMED, "is not a JSON object");
    /* As the first member: what follows says whether a comma is needed. */
    j.p++;
    const char *at = j.p;
    skip_blank(&j);
    bool empty = j.p < j.end && *j.p == '}';
    char *quoted;
    struct lm_span nothing = lm_span_of("", 0);
    if (replace_quoted(&quoted, nothing, nothing, value, e) < 0)
        return -1;
    char *member = NULL;
    int n = asprintf(&member, "\n  \"chat_template\": %s%s", quoted, empty ? "\n" : ",");
    free(quoted);
    rc = n < 0 ? lmc_nomem(e) : replace(out, text, lm_span_of(at, 0), member, e);
    if (n >= 0)
        free(member);
    return rc;
}

/* ---- an index */

int lmc_json_rename_weight(char **out, struct lm_span text, const char *name, const char *to, struct lm_err *e)
{
    struct member map, m;

    if (find_member(text, "weight_map", &map) != 1 || find_member(map.value, name, &m) != 1)
        return 0;
    return replace_quoted(out, text, m.key, lm_span_str(to), e);
}
