/* --diff: what differs between two vocabularies, in words or JSON. */
#include <stdlib.h>

#include "cmd/vocab.h"
#include "convert/vocab_diff.h"

enum { SHOWN = 20 };

struct changes {
    const struct vocab_options *o;
    const struct lm_vocab *a, *b;
    const struct lm_vocab_diff *d;
    struct vocab_job *j; /* for its buffer */
};

/* In the order of the bits of lm_piece_change.what. */
static const char *const names[] = {"removed", "added", "moved", "kind", "score", "flags"};

static const struct lm_piece *piece_of(const struct changes *c, const struct lm_piece_change *x)
{
    return x->id_a >= 0 ? &c->a->pieces[x->id_a] : &c->b->pieces[x->id_b];
}

/* ---- words */

static void put_flag(bool a, bool b, const char *name)
{
    if (a != b)
        printf("  %s only in %s", name, a ? "A" : "B");
}

static void print_details(const struct changes *c, const struct lm_piece_change *x, unsigned what)
{
    const struct lm_piece *p = piece_of(c, x), *q = x->id_b >= 0 ? &c->b->pieces[x->id_b] : p;

    if (what == LM_PIECE_KIND)
        printf("  %s in A, %s in B", lm_piece_kind_name(p->kind), lm_piece_kind_name(q->kind));
    if (what == LM_PIECE_SCORE)
        printf("  %.9g in A, %.9g in B", (double)p->score, (double)q->score);
    if (what != LM_PIECE_FLAGS)
        return;
    put_flag(p->special, q->special, "special");
    put_flag(p->added, q->added, "added");
    put_flag(p->lstrip, q->lstrip, "lstrip");
    put_flag(p->rstrip, q->rstrip, "rstrip");
    put_flag(p->single_word, q->single_word, "single_word");
    put_flag(p->normalized, q->normalized, "normalized");
}

/* The changes from i on that moved by as much, piece after piece. */
static size_t run_length(const struct changes *c, size_t i)
{
    const struct lm_piece_change *p = c->d->pieces;
    size_t n = 1;

    while (i + n < c->d->n_pieces && p[i + n].what & LM_PIECE_MOVED &&
           p[i + n].id_a == p[i].id_a + (int64_t)n && p[i + n].id_b == p[i].id_b + (int64_t)n)
        n++;
    return n;
}

static void print_moved(const struct changes *c)
{
    size_t shown = 0, most = c->o->all ? SIZE_MAX : SHOWN;

    for (size_t i = 0; i < c->d->n_pieces;) {
        const struct lm_piece_change *x = &c->d->pieces[i];
        size_t n = x->what & LM_PIECE_MOVED ? run_length(c, i) : 1;
        if (x->what & LM_PIECE_MOVED && shown++ < most) {
            printf("  %lld -> %lld", (long long)x->id_a, (long long)x->id_b);
            if (n > 1)
                printf("  and the %zu behind", n - 1);
            printf("  %s\n", vocab_escaped(c->j, piece_of(c, x)->text));
        }
        i += n;
    }
    if (shown > most)
        printf("  and %zu more runs (--all)\n", shown - most);
}

static void print_kind_of_change(const struct changes *c, unsigned bit)
{
    unsigned what = 1u << bit;
    size_t shown = 0, most = c->o->all ? SIZE_MAX : SHOWN;

    if (!c->d->n_of[bit])
        return;
    printf("\n%s: %zu\n", names[bit], c->d->n_of[bit]);
    if (what == LM_PIECE_MOVED) {
        print_moved(c);
        return;
    }
    for (size_t i = 0; i < c->d->n_pieces; i++) {
        const struct lm_piece_change *x = &c->d->pieces[i];
        if (!(x->what & what) || shown++ >= most)
            continue;
        printf("  %lld  %s", (long long)(x->id_a >= 0 ? x->id_a : x->id_b), vocab_escaped(c->j, piece_of(c, x)->text));
        print_details(c, x, what);
        putchar('\n');
    }
    if (shown > most)
        printf("  and %zu more (--all)\n", shown - most);
}

static void print_merge(const struct changes *c, const struct lm_vocab *v, const char *name)
{
    size_t rank = (size_t)c->d->first_merge;

    if (rank >= v->n_merges) {
        printf("  %s  rank %zu  none\n", name, rank);
        return;
    }
    printf("  %s  rank %zu  %s", name, rank, vocab_escaped(c->j, v->pieces[v->merges[rank].left].text));
    printf(" + %s\n", vocab_escaped(c->j, v->pieces[v->merges[rank].right].text));
}

static void print_merges(const struct changes *c)
{
    const struct lm_vocab_diff *d = c->d;

    if (d->first_merge < 0)
        return;
    printf("\nmerges: %zu only in A, %zu only in B%s; the first that differs:\n", d->n_merges_removed, d->n_merges_added,
           d->merges_reordered ? ", the common ones in another order" : "");
    print_merge(c, c->a, "A");
    print_merge(c, c->b, "B");
}

static void print_settings(const struct changes *c)
{
    static const char *const heads[] = {"setting", "A", "B"};

    if (!c->d->n_settings)
        return;
    struct cli_table *t = cli_table_new(heads, "lll");
    for (size_t i = 0; i < c->d->n_settings; i++)
        cli_table_row(t, c->d->settings[i].name, c->d->settings[i].a, c->d->settings[i].b);
    putchar('\n');
    cli_table_print(t, stdout);
}

static void print_words(const struct changes *c, const char *path_a, const char *path_b)
{
    printf("A  %s: %s, %zu pieces, %zu merges, from %s\n", cli_safe(lm_span_str(path_a)), lm_vocab_algo_name(c->a->algo),
           c->a->n_pieces, c->a->n_merges, c->a->source);
    printf("B  %s: %s, %zu pieces, %zu merges, from %s\n", cli_safe(lm_span_str(path_b)), lm_vocab_algo_name(c->b->algo),
           c->b->n_pieces, c->b->n_merges, c->b->source);
    if (lm_vocab_diff_empty(c->d))
        printf("the same\n");
    for (unsigned bit = 0; bit < 6; bit++)
        print_kind_of_change(c, bit);
    print_merges(c);
    print_settings(c);
}

/* ---- JSON */

static json_t *id_json(int64_t id)
{
    return id < 0 ? json_null() : json_integer(id);
}

static json_t *change_json(const struct changes *c, const struct lm_piece_change *x)
{
    json_t *o = json_object(), *what = json_array();

    for (unsigned bit = 0; bit < 6; bit++)
        if (x->what >> bit & 1)
            json_array_append_new(what, json_string(names[bit]));
    json_object_set_new(o, "piece", json_string(vocab_escaped(c->j, piece_of(c, x)->text)));
    json_object_set_new(o, "what", what);
    json_object_set_new(o, "id_a", id_json(x->id_a));
    json_object_set_new(o, "id_b", id_json(x->id_b));
    return o;
}

static json_t *merges_json(const struct lm_vocab_diff *d)
{
    return json_pack("{sI, sI, sb, so}", "n_removed", (json_int_t)d->n_merges_removed, "n_added",
                     (json_int_t)d->n_merges_added, "reordered", (int)d->merges_reordered, "first", id_json(d->first_merge));
}

static void print_json(const struct changes *c)
{
    json_t *root = json_object(), *counts = json_object(), *pieces = json_array(), *settings = json_array();

    for (unsigned bit = 0; bit < 6; bit++)
        json_object_set_new(counts, names[bit], json_integer((json_int_t)c->d->n_of[bit]));
    for (size_t i = 0; i < c->d->n_pieces; i++)
        json_array_append_new(pieces, change_json(c, &c->d->pieces[i]));
    for (size_t i = 0; i < c->d->n_settings; i++)
        json_array_append_new(settings, json_pack("{ss, ss, ss}", "name", c->d->settings[i].name, "a", c->d->settings[i].a,
                                                  "b", c->d->settings[i].b));
    json_object_set_new(root, "equal", json_boolean(lm_vocab_diff_empty(c->d)));
    json_object_set_new(root, "a", vocab_summary_json(c->a));
    json_object_set_new(root, "b", vocab_summary_json(c->b));
    json_object_set_new(root, "counts", counts);
    json_object_set_new(root, "pieces", pieces);
    json_object_set_new(root, "merges", merges_json(c->d));
    json_object_set_new(root, "settings", settings);
    cli_json_print(root);
}

int vocab_diff(struct vocab_job *j, const char *path_a, const char *path_b, struct lm_err *e)
{
    struct lm_vocab *b;
    struct lm_vocab_diff *d;

    if (lm_vocab_open_with(&b, path_b, &j->o->rank_file, e) < 0)
        return -1;
    if (lm_vocab_diff_make(&d, j->v, b, e) < 0) {
        lm_vocab_free(b);
        return -1;
    }
    struct changes c = {j->o, j->v, b, d, j};
    j->o->json ? print_json(&c) : print_words(&c, path_a, path_b);
    int rc = lm_vocab_diff_empty(d) ? CLI_OK : CLI_DIFFERENT;
    lm_vocab_diff_free(d);
    lm_vocab_free(b);
    return rc;
}
