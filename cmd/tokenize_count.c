/* --count: how many tokens, and how much text one stands for. */
#include "cmd/tokenize.h"

#include <stdlib.h>

static double per(uint64_t a, uint64_t b)
{
    return b ? (double)a / (double)b : 0;
}

static void add_row(struct cli_table *t, const struct tok_counts *c, const char *name)
{
    char tokens[40], bytes[40], a[40], b[40];

    snprintf(a, sizeof a, c->n_tokens ? "%.3f" : "-", per(c->n_bytes, c->n_tokens));
    snprintf(b, sizeof b, c->n_tokens ? "%.3f" : "-", per(c->n_chars, c->n_tokens));
    cli_table_row(t, cli_count(tokens, sizeof tokens, c->n_tokens), cli_count(bytes, sizeof bytes, c->n_bytes), a, b, name);
}

static const char *name_of(const struct tok_input *in)
{
    return !in->name ? "" : strcmp(in->name, "-") == 0 ? "standard input" : cli_safe(lm_span_str(in->name));
}

static json_t *counts_json(const struct tok_counts *c)
{
    json_t *o = json_object();

    json_object_set_new(o, "n_tokens", json_integer((json_int_t)c->n_tokens));
    json_object_set_new(o, "n_bytes", json_integer((json_int_t)c->n_bytes));
    json_object_set_new(o, "n_chars", json_integer((json_int_t)c->n_chars));
    json_object_set_new(o, "bytes_per_token", c->n_tokens ? json_real(per(c->n_bytes, c->n_tokens)) : json_null());
    json_object_set_new(o, "chars_per_token", c->n_tokens ? json_real(per(c->n_chars, c->n_tokens)) : json_null());
    return o;
}

static void print_json(const struct tok_input *in, const struct tok_counts *c, size_t n, const struct tok_counts *total)
{
    json_t *root = json_object(), *list = json_array();

    for (size_t i = 0; i < n; i++) {
        json_t *o = counts_json(&c[i]);
        json_object_set_new(o, "name", in[i].name ? cli_json_str(lm_span_str(in[i].name)) : json_null());
        json_array_append_new(list, o);
    }
    json_object_set_new(root, "texts", list);
    json_object_set_new(root, "total", counts_json(total));
    cli_json_print(root);
}

static void print_table(const struct tok_input *in, const struct tok_counts *c, size_t n, const struct tok_counts *total)
{
    static const char *const heads[] = {"tokens", "bytes", "bytes/token", "chars/token", "text"};
    struct cli_table *t = cli_table_new(heads, "rrrrl");

    for (size_t i = 0; i < n; i++)
        add_row(t, &c[i], in[i].name ? name_of(&in[i]) : cli_safe(lm_span_str(in[i].argument)));
    if (n > 1)
        add_row(t, total, "total");
    cli_table_print(t, stdout);
}

int tok_print_counts(const struct tok_job *j, const struct tok_input *in, size_t n, struct lm_err *e)
{
    struct tok_counts *c = calloc(n, sizeof *c), total = {0};
    int rc = c ? 0 : lm_err_set(e, LM_NOMEM, "no memory for %zu texts", n);

    for (size_t i = 0; i < n && rc == 0; i++) {
        rc = tok_stream(j, &in[i], j->o.jsonl ? &tok_jsonl_worker : &tok_text_worker, &c[i], e);
        total.n_bytes += c[i].n_bytes;
        total.n_chars += c[i].n_chars;
        total.n_tokens += c[i].n_tokens;
    }
    if (rc == 0 && j->o.json)
        print_json(in, c, n, &total);
    else if (rc == 0 && n == 1 && j->o.files.n == 0) /* for $(...) */
        printf("%llu\n", (unsigned long long)total.n_tokens);
    else if (rc == 0)
        print_table(in, c, n, &total);
    free(c);
    return rc;
}
