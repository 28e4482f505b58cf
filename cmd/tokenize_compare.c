/* --compare: what the comparison found, in words. */
#include "cmd/tokenize.h"

#include <stdlib.h>

#include "convert/tokens.h"

struct comparison {
    const struct tok_job *j;
    const char *path_a, *path_b;
    struct lm_vocab *a, *b;
    struct lm_tokens_report *r;
};

/* ---- pieces of ids */

static void put_pieces(struct tok_buf *b, const struct lm_vocab *v, const struct lm_ids *l, size_t from, size_t most)
{
    for (size_t i = from; i < l->n && i < from + most; i++) {
        tok_put(b, i > from ? " " : "", i > from);
        tok_put_piece(b, v->pieces[l->ids[i]].text);
        tok_put(b, ":", 1);
        tok_put_number(b, (uint64_t)l->ids[i]);
    }
    if (l->n > from + most)
        tok_put(b, " ...", 4);
    tok_put(b, "", 1);
}

/* The tokens of one side, from a little before the first difference. */
static void print_side(const char *name, const struct lm_vocab *v, const struct lm_ids *l, size_t from, bool failed)
{
    struct tok_buf b = {0};

    put_pieces(&b, v, l, from, 12);
    printf("  %s  %s%s%s\n", name, from ? "... " : "", failed ? "refuses the text" : l->n ? "" : "nothing",
           b.data ? b.data : "");
    free(b.data);
}

static size_t first_difference(const struct lm_ids *a, const struct lm_ids *b)
{
    size_t i = 0;

    while (i < a->n && i < b->n && a->ids[i] == b->ids[i])
        i++;
    return i;
}

static size_t first_part(uint64_t parts)
{
    size_t i = 0;

    while (!(parts >> i & 1))
        i++;
    return i;
}

static const char *stage_of(const struct comparison *c, const struct lm_tokens_difference *d)
{
    return d->parts ? lm_tok_stage_name(lm_vocab_difference_stage(c->a, c->b, first_part(d->parts))) : "not explained";
}

/* ---- words */

static void print_text(const struct lm_tokens_difference *d)
{
    enum { SHOWN = 200 };
    char buf[4 * SHOWN + 1];

    lm_piece_escape(lm_span_of(d->text.data, d->text.size < SHOWN ? d->text.size : SHOWN), buf, sizeof buf);
    printf("  text  \"%s\"%s", buf, d->text.size > SHOWN ? "..." : "");
    if (d->text.size > SHOWN)
        printf(" (%zu bytes)", d->text.size);
    if (d->flags & LM_ENCODE_SPECIAL)
        printf(" with --parse-special");
    if (d->flags & LM_ENCODE_BOS_EOS)
        printf(" with --add-special");
    printf("  (found among: %s)\n", d->found_in);
}

static void print_why(const struct comparison *c, const struct lm_tokens_difference *d)
{
    for (size_t i = 0; i < lm_vocab_n_parts(); i++) {
        if (!(d->parts >> i & 1))
            continue;
        char *text = lm_vocab_part_difference(c->a, c->b, i, d->text);
        printf("  %s\n", text ? text : "(out of memory)");
        free(text);
    }
    const char *before = "  with ";
    for (size_t i = 0; i < lm_vocab_n_parts(); i++)
        if (d->parts >> i & 1) {
            printf("%s%s", before, lm_vocab_part_name(i));
            before = " and ";
        }
    if (d->parts)
        printf(" of A, B gives the same here");
    else
        printf("  no setting of A, taken over by B, makes them equal");
    if (d->n_similar)
        printf(", and for %zu other text%s", d->n_similar, d->n_similar == 1 ? "" : "s");
    putchar('\n');
}

static void print_difference(const struct comparison *c, const struct lm_tokens_difference *d, size_t number)
{
    size_t at = first_difference(&d->a, &d->b), from = at > 3 ? at - 3 : 0;

    printf("\n%zu. %s\n", number, stage_of(c, d));
    print_text(d);
    if (d->decoded)
        printf("  the ids are the same, but they decode to different texts\n");
    print_side("A", c->a, &d->a, from, d->failed_a);
    print_side("B", c->b, &d->b, from, d->failed_b);
    print_why(c, d);
}

static void print_words(const struct comparison *c)
{
    char texts[40], bytes[40], differ[40];
    const struct lm_tokens_report *r = c->r;

    cli_count(texts, sizeof texts, r->n_texts);
    cli_bytes(bytes, sizeof bytes, r->n_bytes);
    printf("A  %s (%s, %zu pieces)\n", cli_safe(lm_span_str(c->path_a)), c->a->source, c->a->n_pieces);
    printf("B  %s (%s, %zu pieces)\n", cli_safe(lm_span_str(c->path_b)), c->b->source, c->b->n_pieces);
    if (r->n_differ == 0)
        printf("alike: the same ids for all %s texts (%s)\n", texts, bytes);
    else
        printf("different: %s of %s texts (%s), %zu cause%s\n", cli_count(differ, sizeof differ, r->n_differ), texts, bytes,
               r->n_differences, r->n_differences == 1 ? "" : "s");
    for (size_t i = 0; i < r->n_differences; i++)
        print_difference(c, &r->differences[i], i + 1);
}

/* ---- JSON */

static json_t *ids_json(const struct lm_ids *l)
{
    json_t *list = json_array();

    for (size_t i = 0; i < l->n; i++)
        json_array_append_new(list, json_integer(l->ids[i]));
    return list;
}

static json_t *pieces_json(const struct lm_vocab *v, const struct lm_ids *l)
{
    json_t *list = json_array();

    for (size_t i = 0; i < l->n; i++)
        json_array_append_new(list, cli_json_str(v->pieces[l->ids[i]].text));
    return list;
}

static json_t *settings_json(const struct comparison *c, uint64_t parts)
{
    json_t *list = json_array();

    for (size_t i = 0; i < lm_vocab_n_parts(); i++) {
        if (!(parts >> i & 1))
            continue;
        char *a = lm_vocab_part_text(c->a, i), *b = lm_vocab_part_text(c->b, i);
        json_array_append_new(list, json_pack("{ss, ss*, ss*}", "name", lm_vocab_part_name(i), "a", a, "b", b));
        free(a);
        free(b);
    }
    return list;
}

static json_t *words_json(const struct comparison *c, const struct lm_tokens_difference *d)
{
    struct tok_buf b = {0};

    for (size_t i = 0; i < lm_vocab_n_parts(); i++) {
        char *text = d->parts >> i & 1 ? lm_vocab_part_difference(c->a, c->b, i, d->text) : NULL;
        if (text) {
            tok_put(&b, "; ", b.n ? 2 : 0);
            tok_put(&b, text, strlen(text));
        }
        free(text);
    }
    json_t *s = b.data && !b.failed ? json_stringn(b.data, b.n) : json_null();
    free(b.data);
    return s;
}

static json_t *difference_json(const struct comparison *c, const struct lm_tokens_difference *d)
{
    json_t *o = json_object();

    json_object_set_new(o, "text", cli_json_str(d->text));
    json_object_set_new(o, "parse_special", json_boolean(d->flags & LM_ENCODE_SPECIAL));
    json_object_set_new(o, "add_special", json_boolean(d->flags & LM_ENCODE_BOS_EOS));
    json_object_set_new(o, "found_in", json_string(d->found_in));
    json_object_set_new(o, "explained", json_boolean(d->parts != 0));
    json_object_set_new(o, "stage", d->parts ? json_string(stage_of(c, d)) : json_null());
    json_object_set_new(o, "settings", settings_json(c, d->parts));
    json_object_set_new(o, "why", words_json(c, d));
    json_object_set_new(o, "only_decoding", json_boolean(d->decoded));
    json_object_set_new(o, "ids_a", d->failed_a ? json_null() : ids_json(&d->a));
    json_object_set_new(o, "ids_b", d->failed_b ? json_null() : ids_json(&d->b));
    json_object_set_new(o, "pieces_a", pieces_json(c->a, &d->a));
    json_object_set_new(o, "pieces_b", pieces_json(c->b, &d->b));
    json_object_set_new(o, "n_similar", json_integer((json_int_t)d->n_similar));
    return o;
}

static json_t *side_json(const char *path, const struct lm_vocab *v)
{
    return json_pack("{so, ss, ss, sI}", "path", cli_json_str(lm_span_str(path)), "source", v->source, "algorithm",
                     lm_vocab_algo_name(v->algo), "n_pieces", (json_int_t)v->n_pieces);
}

static void print_json(const struct comparison *c)
{
    json_t *root = json_object(), *list = json_array();

    for (size_t i = 0; i < c->r->n_differences; i++)
        json_array_append_new(list, difference_json(c, &c->r->differences[i]));
    json_object_set_new(root, "a", side_json(c->path_a, c->a));
    json_object_set_new(root, "b", side_json(c->path_b, c->b));
    json_object_set_new(root, "alike", json_boolean(c->r->n_differ == 0));
    json_object_set_new(root, "n_texts", json_integer((json_int_t)c->r->n_texts));
    json_object_set_new(root, "n_bytes", json_integer((json_int_t)c->r->n_bytes));
    json_object_set_new(root, "n_differ", json_integer((json_int_t)c->r->n_differ));
    json_object_set_new(root, "differences", list);
    cli_json_print(root);
}

/* ---- running it */

static int read_texts(const struct tok_job *j, struct lm_span **out, struct lm_err *e)
{
    struct lm_span *texts = calloc(j->o.files.n + 1, sizeof *texts);

    *out = texts;
    if (!texts)
        return lm_err_set(e, LM_NOMEM, "no memory for the texts");
    for (size_t i = 0; i < j->o.files.n; i++) {
        char *text;
        size_t n;
        if (cli_read_text(&text, &n, NULL, j->o.files.items[i], e) < 0)
            return -1;
        texts[i] = lm_span_of(text, n);
    }
    return 0;
}

static int compare(struct comparison *c, const struct lm_span *texts, struct lm_err *e)
{
    struct cli_progress progress;
    struct lm_tokens_options o = {.texts = texts, .n_texts = c->j->o.files.n, .seed = c->j->o.seed, .n_tries = c->j->o.tries,
                                  .quick = c->j->o.quick, .stop = &cli_stop, .user = &progress};

    cli_catch_signals();
    cli_progress_begin(&progress, "comparing");
    progress.unit = "texts";
    o.progress = progress.on ? cli_progress : NULL;
    int rc = lm_tokens_compare(&c->r, c->a, c->b, &o, e);
    cli_progress_end(&progress);
    return rc;
}

int tok_compare(const struct tok_job *j, const char *a, const char *b, struct lm_err *e)
{
    struct comparison c = {.j = j, .path_a = a, .path_b = b};
    struct lm_span *texts = NULL;
    int rc = -1;

    const struct lm_vocab_options *o = &j->o.rank_file;

    if (lm_vocab_open_with(&c.a, a, o, e) == 0 && lm_vocab_open_with(&c.b, b, o, e) == 0 && read_texts(j, &texts, e) == 0 &&
        compare(&c, texts, e) == 0) {
        rc = c.r->n_differ ? CLI_DIFFERENT : CLI_OK;
        j->o.json ? print_json(&c) : print_words(&c);
    }
    for (size_t i = 0; texts && i < j->o.files.n; i++)
        free((void *)(uintptr_t)texts[i].data);
    free(texts);
    lm_tokens_report_free(c.r);
    lm_vocab_free(c.a);
    lm_vocab_free(c.b);
    return rc;
}
