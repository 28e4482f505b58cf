#include "libmodel/parse/json.h"

enum { MAX_DEPTH = 64 };

/* jansson recurses, so the depth is measured before it sees the text. Only
 * brackets outside strings count; whether they match is jansson's business. */
static bool too_deep(struct lm_span text)
{
    size_t depth = 0;
    bool in_string = false;

    for (size_t i = 0; i < text.size; i++) {
        uint8_t c = text.data[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > MAX_DEPTH)
                return true;
        } else if ((c == ']' || c == '}') && depth > 0) {
            depth--;
        }
    }
    return false;
}

json_t *lm_json_parse(struct lm_span text, const char *what, struct lm_err *e)
{
    json_error_t error;
    /* jansson drops a NUL that follows a number instead of refusing it. */
    const uint8_t *nul = text.size ? memchr(text.data, 0, text.size) : NULL;

    if (nul) {
        lm_err_set(e, LM_MALFORMED, "%s: byte %zu: not valid JSON: a NUL byte", what, (size_t)(nul - text.data));
        return NULL;
    }
    if (too_deep(text)) {
        lm_err_set(e, LM_LIMIT, "%s: JSON nested deeper than %d levels", what, MAX_DEPTH);
        return NULL;
    }
    json_t *v = json_loadb(text.size ? (const char *)text.data : "", text.size,
                           JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (v)
        return v;
    /* An error without words is memory too: every other one has some. */
    if (json_error_code(&error) == json_error_out_of_memory || !error.text[0])
        lm_err_set(e, LM_NOMEM, "out of memory");
    else
        lm_err_set(e, LM_MALFORMED, "%s: line %d, column %d: not valid JSON: %s", what, error.line, error.column,
                   error.text);
    return NULL;
}

struct lm_span lm_json_span(const json_t *v)
{
    if (!json_is_string(v))
        return lm_span_of(NULL, 0);
    return lm_span_of(json_string_value(v), json_string_length(v));
}
