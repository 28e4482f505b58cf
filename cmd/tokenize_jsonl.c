/* One JSON value a line, in and out, order kept. */
#include "cmd/tokenize.h"

#include <stdlib.h>

/* Lines end where a newline is: the last one within `at` bytes, else the first
 * behind. */
static size_t cut(const struct tok_job *j, struct lm_span text, size_t at)
{
    const uint8_t *p = memrchr(text.data, '\n', at);

    (void)j;
    if (!p)
        p = memchr(text.data + at, '\n', text.size - at);
    return p ? (size_t)(p - text.data) + 1 : 0;
}

static bool blank(struct lm_span line)
{
    for (size_t i = 0; i < line.size; i++)
        if (!memchr(" \t\r", line.data[i], 3))
            return false;
    return true;
}

static json_t *parse(struct lm_span line, struct lm_err *e)
{
    json_error_t why;
    json_t *root = json_loadb((const char *)line.data, line.size, JSON_ALLOW_NUL | JSON_DECODE_ANY, &why);

    if (!root)
        lm_err_set(e, LM_MALFORMED, "no JSON: %s (column %d)", why.text, why.column);
    return root;
}

/* Calls one() for each line of the part; stops at the first that fails. */
static void each_line(const struct tok_job *j, struct tok_part *p,
                      int (*one)(const struct tok_job *j, struct tok_part *p, const json_t *line))
{
    struct lm_span left = p->text;

    while (left.size > 0 && p->rc == 0) {
        const uint8_t *end = memchr(left.data, '\n', left.size);
        struct lm_span line = lm_span_of(left.data, end ? (size_t)(end - left.data) : left.size);
        size_t used = line.size + (end != NULL);
        left = lm_span_of(left.data + used, left.size - used);
        p->n_lines++;
        if (blank(line))
            continue;
        json_t *root = parse(line, &p->e);
        size_t before = p->out.n;
        p->rc = root ? one(j, p, root) : -1;
        if (p->rc < 0)
            p->out.n = before;
        json_decref(root);
    }
}

/* ---- text to ids */

static int find_text(const struct tok_job *j, const json_t *line, struct lm_span *text, struct lm_err *e)
{
    const char *field = j->o.field ? j->o.field : "text";
    const json_t *s = json_is_object(line) ? json_object_get(line, field) : line;

    if (!s)
        return lm_err_set(e, LM_MALFORMED, "there is no field \"%s\"; --field names another", field);
    if (!json_is_string(s))
        return lm_err_set(e, LM_MALFORMED, "%s%s is no string", json_is_object(line) ? "field " : "the value",
                          json_is_object(line) ? field : "");
    *text = lm_span_of(json_string_value(s), json_string_length(s));
    return 0;
}

static void put_offsets(struct tok_buf *b, const struct lm_ids *l)
{
    for (size_t i = 0; i < l->n; i++) {
        tok_put(b, i ? ",[" : "[", i ? 2 : 1);
        tok_put_number(b, l->offsets[i].begin);
        tok_put(b, ",", 1);
        tok_put_number(b, l->offsets[i].end);
        tok_put(b, "]", 1);
    }
}

static void put_quoted(struct tok_buf *b, json_t *string)
{
    char *text = string ? cli_json_text(string, JSON_ENCODE_ANY) : NULL;

    tok_put(b, text ? text : "null", text ? strlen(text) : 4);
    free(text);
    json_decref(string);
}

static void put_pieces(const struct tok_job *j, struct tok_buf *b, const struct lm_ids *l)
{
    tok_put(b, ",\"pieces\":[", 11);
    for (size_t i = 0; i < l->n; i++) {
        tok_put(b, ",", i > 0);
        tok_put_quoted(b, j->v->pieces[l->ids[i]].text);
    }
    tok_put(b, "]", 1);
}

static void put_line(const struct tok_job *j, struct tok_buf *b, const struct lm_ids *l)
{
    tok_put(b, "{\"ids\":[", 8);
    for (size_t i = 0; i < l->n; i++) {
        tok_put(b, ",", i > 0);
        tok_put_number(b, (uint64_t)l->ids[i]);
    }
    tok_put(b, "],\"offsets\":[", 13);
    put_offsets(b, l);
    tok_put(b, "]", 1);
    if (j->o.pieces)
        put_pieces(j, b, l);
    tok_put(b, "}\n", 2);
}

static void put_binary(const struct tok_job *j, struct tok_buf *b, const struct lm_ids *l)
{
    for (size_t i = 0; i < l->n; i++) {
        uint8_t bytes[4];
        lm_store_u32le(bytes, (uint32_t)l->ids[i]);
        tok_put(b, bytes, (size_t)j->o.binary * 2);
    }
}

static int encode_line(const struct tok_job *j, struct tok_part *p, const json_t *line)
{
    struct lm_span text;
    unsigned flags = (j->o.parse_special ? LM_ENCODE_SPECIAL : 0) | (j->o.add_special ? LM_ENCODE_BOS_EOS : 0);
    bool offsets = !j->o.count && !j->o.binary;

    p->ids.n = 0;
    if (find_text(j, line, &text, &p->e) < 0 ||
        lm_tokenizer_encode(j->t, text, flags | (offsets ? LM_ENCODE_OFFSETS : 0), &p->ids, &p->e) < 0)
        return -1;
    p->counts.n_bytes += text.size;
    p->counts.n_chars += tok_count_chars(text);
    p->counts.n_tokens += p->ids.n;
    if (j->o.binary)
        put_binary(j, &p->out, &p->ids);
    else if (!j->o.count)
        put_line(j, &p->out, &p->ids);
    return 0;
}

static void encode(const struct tok_job *j, struct tok_part *p)
{
    each_line(j, p, encode_line);
}

const struct tok_worker tok_jsonl_worker = {cut, encode, true};

/* ---- ids to text */

static int find_ids(const json_t *line, struct lm_ids *l, struct lm_err *e)
{
    const json_t *list = json_is_object(line) ? json_object_get(line, "ids") : line;
    size_t n = json_array_size(list);

    if (!json_is_array(list))
        return lm_err_set(e, LM_MALFORMED, "there is no list of ids: expected [1, 2] or {\"ids\": [1, 2]}");
    if (n > l->capacity) {
        int32_t *p = realloc(l->ids, n * sizeof *p);
        if (!p)
            return lm_err_set(e, LM_NOMEM, "no memory for %zu ids", n);
        l->ids = p;
        l->capacity = n;
    }
    for (l->n = 0; l->n < n; l->n++) {
        const json_t *id = json_array_get(list, l->n);
        json_int_t v = json_integer_value(id);
        if (!json_is_integer(id) || v < 0 || v > INT32_MAX)
            return lm_err_set(e, LM_MALFORMED, "number %zu of the list is no token id", l->n);
        l->ids[l->n] = (int32_t)v;
    }
    return 0;
}

static int decode_line(const struct tok_job *j, struct tok_part *p, const json_t *line)
{
    char *text;
    size_t n;

    if (find_ids(line, &p->ids, &p->e) < 0 ||
        lm_tokenizer_decode(j->t, p->ids.ids, p->ids.n, j->o.show_special, &text, &n, &p->e) < 0)
        return -1;
    tok_put(&p->out, "{\"text\":", 8);
    put_quoted(&p->out, cli_json_str(lm_span_of(text, n)));
    if (!lm_utf8_valid(lm_span_of(text, n)))
        tok_put(&p->out, ",\"utf8\":false", 13);
    tok_put(&p->out, "}\n", 2);
    free(text);
    return 0;
}

static void decode(const struct tok_job *j, struct tok_part *p)
{
    each_line(j, p, decode_line);
}

const struct tok_worker tok_unjsonl_worker = {cut, decode, true};
