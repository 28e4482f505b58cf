/* The page of --html: cmd/tokenize_page.html with the tokens put in. */
#include <stdlib.h>

#include "cmd/cli_page.h"
#include "cmd/tokenize.h"
#include "convert/convert.h"

CLI_PAGE(tokenize_page, "cmd/tokenize_page.html");

enum { MOST_TOKENS = 300000 }; /* a browser shows no more; the page says so */

static void put_text(struct tok_buf *b, const char *s)
{
    tok_put(b, s, strlen(s));
}

/* JSON inside a script element: "</" would end it. */
static void put_quoted(struct tok_buf *b, json_t *string)
{
    char *text = string ? cli_json_text(string, JSON_ENCODE_ANY) : NULL;

    for (const char *p = text ? text : "\"\""; *p; p++)
        *p == '<' ? put_text(b, "\\u003c") : tok_put(b, p, 1);
    free(text);
    json_decref(string);
}

static void put_hex(struct tok_buf *b, struct lm_span s)
{
    static const char hex[] = "0123456789abcdef";

    tok_put(b, "\"", 1);
    for (size_t i = 0; i < s.size; i++)
        tok_put(b, (char[]){hex[s.data[i] >> 4], hex[s.data[i] & 15]}, 2);
    tok_put(b, "\"", 1);
}

/* [id, begin, bytes in hex], and for what is no ordinary piece also a style and
 * the piece. */
static void put_token(const struct tok_job *j, struct tok_buf *b, const struct tok_whole *w, size_t i)
{
    int32_t id = w->ids.ids[i];
    struct lm_offsets at = w->ids.offsets[i];
    enum tok_style style = tok_style_of(j, id);

    put_text(b, i ? ",[" : "[");
    tok_put_number(b, (uint64_t)id);
    put_text(b, ",");
    tok_put_number(b, at.begin);
    put_text(b, ",");
    put_hex(b, lm_span_of(w->text + at.begin, at.end - at.begin));
    if (style != TOK_ORDINARY || at.begin == at.end) {
        put_text(b, ",");
        tok_put_number(b, style);
        put_text(b, ",");
        put_quoted(b, cli_json_str(j->v->pieces[id].text));
    }
    put_text(b, "]");
}

static void put_whole(const struct tok_job *j, struct tok_buf *b, const struct tok_whole *w)
{
    size_t n = w->ids.n < MOST_TOKENS ? w->ids.n : MOST_TOKENS;

    put_text(b, "{\"name\":");
    put_quoted(b, w->name ? cli_json_str(lm_span_str(strcmp(w->name, "-") ? w->name : "standard input")) : json_null());
    put_text(b, ",\"tokens\":");
    tok_put_number(b, w->counts.n_tokens);
    put_text(b, ",\"bytes\":");
    tok_put_number(b, w->counts.n_bytes);
    put_text(b, ",\"chars\":");
    tok_put_number(b, w->counts.n_chars);
    put_text(b, ",\"list\":[");
    for (size_t i = 0; i < n; i++)
        put_token(j, b, w, i);
    put_text(b, "]}");
}

static void put_page(const struct tok_job *j, struct tok_buf *b, const struct tok_whole *w, size_t n)
{
    static const char mark[] = "/*DATA*/";
    size_t size = (size_t)(tokenize_page_end - tokenize_page);
    const char *at = memmem(tokenize_page, size, mark, sizeof mark - 1), *behind = at + sizeof mark - 1;

    tok_put(b, tokenize_page, (size_t)(at - tokenize_page));
    put_text(b, "{\"model\":");
    put_quoted(b, cli_json_str(lm_span_str(j->model)));
    put_text(b, ",\"source\":");
    put_quoted(b, json_string(j->v->source));
    put_text(b, ",\"pieces\":");
    tok_put_number(b, j->v->n_pieces);
    put_text(b, ",\"texts\":[");
    for (size_t i = 0; i < n; i++) {
        put_text(b, i ? "," : "");
        put_whole(j, b, &w[i]);
    }
    put_text(b, "]}");
    tok_put(b, behind, (size_t)(tokenize_page_end - behind));
}

int tok_write_html(const struct tok_job *j, const struct tok_whole *w, size_t n, struct lm_err *e)
{
    const char *path = j->o.html, *slash = strrchr(path, '/');
    char *dir = slash ? strndup(path, slash > path ? (size_t)(slash - path) : 1) : strdup(".");
    struct tok_buf b = {0};
    struct lm_commit *c = NULL;
    int fd, rc = -1;

    put_page(j, &b, w, n);
    if (b.failed || !dir)
        lm_err_set(e, LM_NOMEM, "no memory for the page");
    else if (lm_commit_begin(&c, dir, j->o.force, e) || lm_commit_add(c, slash ? slash + 1 : path, b.n, &fd, e) ||
             lm_pwrite_all(fd, b.data, b.n, 0, e))
        lm_commit_abort(c);
    else
        rc = lm_commit_finish(c, e);
    free(b.data);
    free(dir);
    return rc;
}
