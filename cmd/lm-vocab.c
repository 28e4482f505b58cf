/* lm-vocab: the vocabulary of a checkpoint, piece by piece. */
#include "cmd/cli.h"

#include <stdlib.h>
#include <unistd.h>

struct options {
    const char *find;
    uint64_t id;
    bool merges, json;
};

enum { PIECE_COLUMNS = 24 };
#define NO_ID UINT64_MAX

struct listing {
    const struct lm_vocab *v;
    uint32_t *ranks; /* of the merge that makes a piece; UINT32_MAX: none */
    char *buf;       /* a piece as text */
    size_t size;
    bool terminal;
};

/* ---- a piece as text */

static const char *escaped(struct listing *l, struct lm_span text)
{
    size_t n = lm_piece_escape(text, l->buf, l->size);

    if (n >= l->size) {
        char *p = realloc(l->buf, 2 * n + 64);
        if (!p)
            return "(out of memory)";
        l->buf = p;
        l->size = 2 * n + 64;
        lm_piece_escape(text, l->buf, l->size);
    }
    return l->buf;
}

static int rank_pieces(struct listing *l, struct lm_err *e)
{
    l->ranks = malloc((l->v->n_pieces + 1) * sizeof *l->ranks);
    if (!l->ranks)
        return lm_err_set(e, LM_NOMEM, "no memory for %zu pieces", l->v->n_pieces);
    memset(l->ranks, 0xff, l->v->n_pieces * sizeof *l->ranks);
    for (size_t i = l->v->n_merges; i-- > 0;)
        l->ranks[l->v->merges[i].result] = (uint32_t)i;
    return 0;
}

static bool is_spm(const struct listing *l)
{
    return l->v->algo == LM_VOCAB_SPM_BPE;
}

/* Score of a SentencePiece piece, rank of any other; "-" if it has neither. */
static const char *order_text(const struct listing *l, size_t id, char *buf, size_t size)
{
    if (is_spm(l))
        snprintf(buf, size, "%.9g", (double)l->v->pieces[id].score);
    else if (l->ranks[id] != UINT32_MAX)
        snprintf(buf, size, "%u", l->ranks[id]);
    else
        snprintf(buf, size, "-");
    return buf;
}

/* ---- lines: tabs for programs, columns for people */

static void print_piece(struct listing *l, size_t id)
{
    const struct lm_piece *p = &l->v->pieces[id];
    const char *text = escaped(l, p->text), *kind = lm_piece_kind_name(p->kind);
    char order[40];

    order_text(l, id, order, sizeof order);
    if (!l->terminal) {
        printf("%zu\t%s\t%s\t%s\n", id, text, kind, order);
        return;
    }
    size_t w = cli_text_width(text);
    printf("%7zu  %s%*s  %-12s  %12s\n", id, text, (int)(w < PIECE_COLUMNS ? PIECE_COLUMNS - w : 0), "", kind, order);
}

static void print_merge(struct listing *l, size_t rank)
{
    const struct lm_merge *m = &l->v->merges[rank];
    const char sep = l->terminal ? ' ' : '\t';

    printf(l->terminal ? "%7zu%c" : "%zu%c", rank, sep);
    printf("%s%c", escaped(l, l->v->pieces[m->left].text), sep);
    printf("%s%c", escaped(l, l->v->pieces[m->right].text), sep);
    printf("%u\n", m->result);
}

/* ---- JSON */

static json_t *piece_json(struct listing *l, size_t id)
{
    const struct lm_piece *p = &l->v->pieces[id];
    json_t *o = json_object();

    json_object_set_new(o, "id", json_integer((json_int_t)id));
    json_object_set_new(o, "piece", json_string(escaped(l, p->text)));
    json_object_set_new(o, "kind", json_string(lm_piece_kind_name(p->kind)));
    if (is_spm(l))
        json_object_set_new(o, "score", cli_json_real((double)p->score));
    else
        json_object_set_new(o, "rank", l->ranks[id] == UINT32_MAX ? json_null() : json_integer(l->ranks[id]));
    json_object_set_new(o, "special", json_boolean(p->special));
    json_object_set_new(o, "added", json_boolean(p->added));
    return o;
}

static json_t *merge_json(struct listing *l, size_t rank)
{
    const struct lm_merge *m = &l->v->merges[rank];
    json_t *o = json_object();

    json_object_set_new(o, "rank", json_integer((json_int_t)rank));
    json_object_set_new(o, "left", json_string(escaped(l, l->v->pieces[m->left].text)));
    json_object_set_new(o, "right", json_string(escaped(l, l->v->pieces[m->right].text)));
    json_object_set_new(o, "result", json_integer(m->result));
    return o;
}

static json_t *id_json(int64_t id)
{
    return id < 0 ? json_null() : json_integer(id);
}

static json_t *summary_json(const struct lm_vocab *v)
{
    json_t *o = json_object();

    json_object_set_new(o, "algorithm", json_string(v->algo == LM_VOCAB_SPM_BPE ? "sentencepiece-bpe" : "byte-bpe"));
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

static void show(struct listing *l, const struct options *o, size_t first, size_t end)
{
    if (!o->json) {
        for (size_t i = first; i < end; i++)
            o->merges ? print_merge(l, i) : print_piece(l, i);
        return;
    }
    json_t *root = summary_json(l->v), *list = json_array();
    for (size_t i = first; i < end; i++)
        json_array_append_new(list, o->merges ? merge_json(l, i) : piece_json(l, i));
    json_object_set_new(root, o->merges ? "merges" : "pieces", list);
    cli_json_print(root);
}

/* The word with U+2581 or GPT-2's letter for each space, which is how most
 * pieces are stored. */
static int64_t find_with_spaces(const struct lm_vocab *v, struct lm_span word)
{
    const char *space = v->algo == LM_VOCAB_SPM_BPE ? "\xe2\x96\x81" : "\xc4\xa0";
    char *text = malloc(word.size * 3 + 1), *p = text;

    for (size_t i = 0; text && i < word.size; i++)
        if (word.data[i] == ' ')
            p = stpcpy(p, space);
        else
            *p++ = (char)word.data[i];
    int64_t id = text ? lm_vocab_find(v, lm_span_of(text, (size_t)(p - text))) : -1;
    free(text);
    return id;
}

static int find(struct listing *l, const struct options *o, struct lm_err *e)
{
    size_t size = strlen(o->find) + 1;
    uint8_t *bytes = malloc(size);
    int64_t n = bytes ? lm_piece_unescape(o->find, bytes, size) : -1;

    if (n < 0) {
        free(bytes);
        return lm_err_set(e, LM_USAGE, "'%s' is no escaped text: a backslash is \\\\, a byte is \\xNN", o->find);
    }
    int64_t id = lm_vocab_find(l->v, lm_span_of(bytes, (size_t)n));
    if (id < 0)
        id = find_with_spaces(l->v, lm_span_of(bytes, (size_t)n));
    free(bytes);
    if (id >= 0)
        show(l, o, (size_t)id, (size_t)id + 1);
    else
        cli_note("%s: no piece '%s' among %zu", cli_name(), o->find, l->v->n_pieces);
    return id >= 0 ? CLI_OK : CLI_DIFFERENT;
}

static void print_summary(const struct lm_vocab *v)
{
    cli_note("%s: %zu pieces, %zu merges, %s%s%s from %s; BOS %lld%s, EOS %lld%s", cli_name(), v->n_pieces,
             v->n_merges, v->algo == LM_VOCAB_SPM_BPE ? "SentencePiece BPE" : "byte-level BPE", v->pre[0] ? " " : "",
             v->pre, v->source, (long long)v->bos_id, v->add_bos ? " (added)" : "", (long long)v->eos_id,
             v->add_eos ? " (added)" : "");
}

static int run(struct listing *l, const struct options *o, struct lm_err *e)
{
    if (rank_pieces(l, e) < 0)
        return -1;
    if (o->find)
        return find(l, o, e);
    if (o->merges && l->v->n_merges == 0)
        return lm_err_set(e, LM_UNSUPPORTED, "this vocabulary has no list of merges: SentencePiece orders them by score");
    size_t n = o->merges ? l->v->n_merges : l->v->n_pieces;
    if (o->id != NO_ID && o->id >= n)
        return lm_err_set(e, LM_USAGE, "--id %llu: there are %zu, from 0", (unsigned long long)o->id, n);
    if (l->terminal && !o->json)
        print_summary(l->v);
    show(l, o, o->id != NO_ID ? (size_t)o->id : 0, o->id != NO_ID ? (size_t)o->id + 1 : n);
    return CLI_OK;
}

static const struct cli_opt opts[] = {
    {"find", 0, CLI_STRING, "PIECE", offsetof(struct options, find),
     "show only the piece with this text (escaped or not); exit 1 if there is none", NULL},
    {"id", 0, CLI_UINT64, "N", offsetof(struct options, id), "show only this id (with --merges: this rank)", NULL},
    {"merges", 0, CLI_FLAG, NULL, offsetof(struct options, merges), "show the merges instead of the pieces", NULL},
    {"json", 0, CLI_FLAG, NULL, offsetof(struct options, json), "print JSON", NULL},
    {0},
};

static const struct cli_cmd cmd = {
    .name = "lm-vocab",
    .brief = "show the vocabulary of a model",
    .synopsis = "MODEL",
    .about = "MODEL is a checkpoint, its directory, or a tokenizer file (tokenizer.model, tokenizer.json, vocab.json).\n\n"
             "One line a piece: id, piece, kind, and its score (SentencePiece) or the rank of the merge that makes it "
             "(byte-level BPE, - if none does), separated by tabs unless shown on a terminal. The piece is as stored: "
             "U+2581 stands for a space in SentencePiece, other letters stand for bytes in byte-level BPE. A backslash "
             "is written \\\\ and every byte that cannot be shown \\xNN, so the bytes can be recovered exactly.\n\n"
             "--merges: rank, left, right, id of the result.\n\n"
             "--json: an object with algorithm, source, n_pieces, n_merges, bos_id, eos_id, unk_id, pad_id (null if "
             "none), add_bos, add_eos, pre, and either pieces (objects with id, piece, kind, score or rank, special, "
             "added) or merges (objects with rank, left, right, result).",
    .opts = opts,
    .examples = "  $ lm-vocab model.gguf | grep kot\n"
                "  $ lm-vocab tokenizer.model --find ' pan'\n"
                "  $ lm-vocab model/ --merges --id 0",
    .min_args = 1,
    .max_args = 1,
};

int main(int argc, char **argv)
{
    struct options o = {.id = NO_ID};
    struct listing l = {0};
    struct lm_vocab *v;
    struct lm_err e;

    cli_parse(&cmd, argc, argv, &o);
    if (lm_vocab_open(&v, argv[1], &e) < 0)
        return cli_fail(&e);
    l.v = v;
    l.terminal = isatty(1);
    int rc = run(&l, &o, &e);
    if (rc < 0)
        rc = cli_fail(&e);
    free(l.ranks);
    free(l.buf);
    lm_vocab_free(v);
    return cli_finish(rc);
}
