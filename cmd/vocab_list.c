/* Pieces and merges, one a line or as JSON. */
#include <stdlib.h>

#include "cmd/vocab.h"

enum { PIECE_COLUMNS = 24 };

/* ---- a piece as text */

const char *vocab_escaped(struct vocab_job *j, struct lm_span text)
{
    size_t n = lm_piece_escape(text, j->buf, j->size);

    if (n >= j->size) {
        char *p = realloc(j->buf, 2 * n + 64);
        if (!p)
            return "(out of memory)";
        j->buf = p;
        j->size = 2 * n + 64;
        lm_piece_escape(text, j->buf, j->size);
    }
    return j->buf;
}

int vocab_need_tokenizer(struct vocab_job *j, struct lm_err *e)
{
    if (j->t)
        return 0;
    if (lm_tokenizer_new(&j->t, j->v, e) < 0)
        return -1;
    j->n_bytes = 4 * lm_tokenizer_max_bytes(j->t) + 16;
    j->bytes = malloc(j->n_bytes);
    return j->bytes ? 0 : lm_err_set(e, LM_NOMEM, "no memory for a piece");
}

struct lm_span vocab_bytes_of(struct vocab_job *j, size_t id)
{
    size_t n = lm_tokenizer_piece_bytes(j->t, (int32_t)id, false, true, j->bytes, j->n_bytes);

    return lm_span_of(j->bytes, n < j->n_bytes ? n : j->n_bytes);
}

bool vocab_has_scores(const struct lm_vocab *v)
{
    return v->algo == LM_VOCAB_SPM_BPE || v->algo == LM_VOCAB_UNIGRAM;
}

/* Score or rank; "-" if it has neither. */
static const char *order_text(const struct vocab_job *j, size_t id, char *buf, size_t size)
{
    if (vocab_has_scores(j->v))
        snprintf(buf, size, "%.9g", (double)j->v->pieces[id].score);
    else if (j->ranks[id] != UINT32_MAX)
        snprintf(buf, size, "%u", j->ranks[id]);
    else
        snprintf(buf, size, "-");
    return buf;
}

/* ---- lines: tabs for programs, columns for people */

static void print_piece(struct vocab_job *j, size_t id)
{
    const struct lm_piece *p = &j->v->pieces[id];
    char order[40];

    if (j->o->form == VOCAB_LLAMA_CPP) {
        printf("%6zu -> '%s'\n", id, cli_safe(vocab_bytes_of(j, id)));
        return;
    }
    const char *text = vocab_escaped(j, p->text), *kind = lm_piece_kind_name(p->kind);
    order_text(j, id, order, sizeof order);
    if (!j->terminal) {
        printf("%zu\t%s\t%s\t%s\n", id, text, kind, order);
        return;
    }
    size_t w = cli_text_width(text);
    printf("%7zu  %s%*s  %-12s  %12s\n", id, text, (int)(w < PIECE_COLUMNS ? PIECE_COLUMNS - w : 0), "", kind, order);
}

static void print_merge(struct vocab_job *j, size_t rank)
{
    const struct lm_merge *m = &j->v->merges[rank];
    const char sep = j->terminal ? ' ' : '\t';

    printf(j->terminal ? "%7zu%c" : "%zu%c", rank, sep);
    printf("%s%c", vocab_escaped(j, j->v->pieces[m->left].text), sep);
    printf("%s%c", vocab_escaped(j, j->v->pieces[m->right].text), sep);
    printf("%u\n", m->result);
}

/* ---- JSON */

json_t *vocab_piece_json(struct vocab_job *j, size_t id)
{
    const struct lm_piece *p = &j->v->pieces[id];
    json_t *o = json_object();

    json_object_set_new(o, "id", json_integer((json_int_t)id));
    json_object_set_new(o, "piece", json_string(vocab_escaped(j, p->text)));
    json_object_set_new(o, "kind", json_string(lm_piece_kind_name(p->kind)));
    if (vocab_has_scores(j->v))
        json_object_set_new(o, "score", cli_json_real((double)p->score));
    else
        json_object_set_new(o, "rank", j->ranks[id] == UINT32_MAX ? json_null() : json_integer(j->ranks[id]));
    json_object_set_new(o, "special", json_boolean(p->special));
    json_object_set_new(o, "added", json_boolean(p->added));
    return o;
}

static json_t *merge_json(struct vocab_job *j, size_t rank)
{
    const struct lm_merge *m = &j->v->merges[rank];
    json_t *o = json_object();

    json_object_set_new(o, "rank", json_integer((json_int_t)rank));
    json_object_set_new(o, "left", json_string(vocab_escaped(j, j->v->pieces[m->left].text)));
    json_object_set_new(o, "right", json_string(vocab_escaped(j, j->v->pieces[m->right].text)));
    json_object_set_new(o, "result", json_integer(m->result));
    return o;
}

static json_t *id_json(int64_t id)
{
    return id < 0 ? json_null() : json_integer(id);
}

json_t *vocab_summary_json(const struct lm_vocab *v)
{
    json_t *o = json_object();

    json_object_set_new(o, "algorithm", json_string(lm_vocab_algo_name(v->algo)));
    json_object_set_new(o, "source", json_string(v->source));
    json_object_set_new(o, "n_pieces", json_integer((json_int_t)v->n_pieces));
    json_object_set_new(o, "n_merges", json_integer((json_int_t)v->n_merges));
    json_object_set_new(o, "bos_id", id_json(v->bos_id));
    json_object_set_new(o, "eos_id", id_json(v->eos_id));
    json_object_set_new(o, "unk_id", id_json(v->unk_id));
    json_object_set_new(o, "pad_id", id_json(v->pad_id));
    json_object_set_new(o, "add_bos", json_boolean(v->add_bos));
    json_object_set_new(o, "add_eos", json_boolean(v->add_eos));
    json_object_set_new(o, "pre", v->pre[0] ? json_string(v->pre) : json_null());
    return o;
}

/* ---- what to show */

/* The listing is written as it goes: a vocabulary has 10^5 pieces and more. */
struct shown {
    struct vocab_job *j;
    size_t n;
};

static void show(void *user, size_t id)
{
    struct shown *s = user;
    struct vocab_job *j = s->j;

    if (!j->o->json) {
        j->o->merges ? print_merge(j, id) : print_piece(j, id);
    } else {
        json_t *o = j->o->merges ? merge_json(j, id) : vocab_piece_json(j, id);
        char *text = cli_json_text(o, 0);
        printf("%s%s", s->n ? ",\n    " : "\n    ", text ? text : "null");
        free(text);
        json_decref(o);
    }
    s->n++;
}

/* The summary's object stays open for the list. */
static void begin_json(const struct vocab_job *j)
{
    json_t *o = vocab_summary_json(j->v);
    char *text = cli_json_text(o, JSON_INDENT(2));
    size_t n = text ? strlen(text) : 0;

    if (n > 2)
        fwrite(text, 1, n - 2, stdout); /* without its "\n}" */
    printf(",\n  \"%s\": [", j->o->merges ? "merges" : "pieces");
    free(text);
    json_decref(o);
}

static void print_summary(const struct lm_vocab *v)
{
    cli_note("%s: %zu pieces, %zu merges, %s%s%s from %s; BOS %lld%s, EOS %lld%s", cli_name(), v->n_pieces,
             v->n_merges, lm_vocab_algo_name(v->algo), v->pre[0] ? " " : "", v->pre, v->source, (long long)v->bos_id,
             v->add_bos ? " (added)" : "", (long long)v->eos_id, v->add_eos ? " (added)" : "");
}

/* ---- looking up */

/* Every piece that stands for this text, however it is stored. */
static int find_by_bytes(struct shown *s, struct lm_span text, struct lm_err *e)
{
    if (vocab_need_tokenizer(s->j, e) < 0)
        return -1;
    for (size_t i = 0; i < s->j->v->n_pieces; i++)
        if (lm_span_eq(vocab_bytes_of(s->j, i), text))
            show(s, i);
    return 0;
}

static int find(struct shown *s, struct lm_err *e)
{
    const char *text = s->j->o->find;
    size_t size = strlen(text) + 1;
    uint8_t *bytes = malloc(size);
    int64_t n = bytes ? lm_piece_unescape(text, bytes, size) : -1;

    if (n < 0) {
        free(bytes);
        return lm_err_set(e, LM_USAGE, "'%s' is no escaped text: a backslash is \\\\, a byte is \\xNN", text);
    }
    struct lm_span wanted = lm_span_of(bytes, (size_t)n);
    int64_t id = lm_vocab_find(s->j->v, wanted);
    int rc = 0;
    if (id >= 0)
        show(s, (size_t)id);
    else
        rc = find_by_bytes(s, wanted, e);
    free(bytes);
    return rc;
}

static int show_range(struct shown *s, struct lm_err *e)
{
    const struct vocab_options *o = s->j->o;
    const struct lm_vocab *v = s->j->v;
    size_t n = o->merges ? v->n_merges : v->n_pieces;

    if (o->id != VOCAB_NO_ID && o->id >= n)
        return lm_err_set(e, LM_USAGE, "--id %llu: there are %zu, from 0", (unsigned long long)o->id, n);
    size_t first = o->id != VOCAB_NO_ID ? (size_t)o->id : 0, end = o->id != VOCAB_NO_ID ? first + 1 : n;
    for (size_t i = first; i < end && !ferror(stdout); i++)
        show(s, i);
    return 0;
}

int vocab_list(struct vocab_job *j, struct lm_err *e)
{
    const struct vocab_options *o = j->o;
    struct shown s = {.j = j};
    bool lookup = o->find || o->regex;
    int rc;

    if (o->merges && j->v->n_merges == 0)
        return lm_err_set(e, LM_UNSUPPORTED, "this vocabulary has no list of merges");
    if ((o->form == VOCAB_LLAMA_CPP || o->regex) && vocab_need_tokenizer(j, e) < 0)
        return -1;
    if (o->json)
        begin_json(j);
    else if (j->terminal && !lookup && o->id == VOCAB_NO_ID)
        print_summary(j->v);
    if (o->regex)
        rc = vocab_match(j, o->regex, show, &s, e) < 0 ? -1 : 0;
    else
        rc = o->find ? find(&s, e) : show_range(&s, e);
    if (rc < 0)
        return -1;
    if (o->json)
        fputs(s.n ? "\n  ]\n}\n" : "]\n}\n", stdout);
    if (lookup && s.n == 0 && o->find)
        cli_note("%s: no piece '%s' among %zu", cli_name(), o->find, j->v->n_pieces);
    else if (lookup && s.n == 0)
        cli_note("%s: none of %zu pieces matches '%s'", cli_name(), j->v->n_pieces, o->regex);
    return lookup && s.n == 0 ? CLI_DIFFERENT : CLI_OK;
}
