/* The parts of a vocabulary that are lists, compared and carried over by text. */
#include <stdlib.h>

#include "libmodel/tok/parts.h"

enum { NAMED = 3 }; /* examples in a sentence */

static bool contains(struct lm_span about, struct lm_span text)
{
    return about.size > 0 && text.size > 0 && memmem(about.data, about.size, text.data, text.size) != NULL;
}

/* ---- differing pieces, counted, some of them named */

struct tally {
    struct lm_span about;
    size_t n, n_named;
    bool only_about; /* something in `about` was found: nothing else is named */
    struct lmi_words named;
};

static void drop_names(struct tally *t)
{
    t->named.n = t->n_named = 0;
}

/* Counts one; true when the caller may append a name and what it is about. */
static bool tally(struct tally *t, struct lm_span text)
{
    bool here = contains(t->about, text);

    t->n++;
    if (here && !t->only_about) {
        drop_names(t);
        t->only_about = true;
    }
    if (t->n_named >= NAMED || (t->only_about && !here))
        return false;
    if (t->n_named++)
        lmi_words_add(&t->named, ", ");
    lmi_words_piece(&t->named, text);
    return true;
}

static void put_tally(struct tally *t, const char *one, const char *many, struct lmi_words *w)
{
    lmi_words_add(w, "%zu %s: %s%s", t->n, t->n == 1 ? one : many, t->named.text ? t->named.text : "",
                  t->n > t->n_named ? ", ..." : "");
    w->failed |= t->named.failed;
    free(t->named.text);
}

/* ---- added tokens */

static bool is_token(const struct lm_piece *p)
{
    return p->added || p->special || p->kind == LM_PIECE_CONTROL || p->kind == LM_PIECE_USER_DEFINED ||
           p->kind == LM_PIECE_UNKNOWN;
}

static bool same_token(const struct lm_piece *a, const struct lm_piece *b)
{
    bool special = (a->special || a->kind == LM_PIECE_CONTROL) == (b->special || b->kind == LM_PIECE_CONTROL);

    return is_token(a) == is_token(b) && special && a->lstrip == b->lstrip && a->rstrip == b->rstrip &&
           a->single_word == b->single_word && a->normalized == b->normalized;
}

static void name_token(struct tally *t, const struct lmi_vocab *v, size_t id, const char *where)
{
    const struct lm_piece *p = &v->v.pieces[id];

    if (tally(t, p->text))
        lmi_words_add(&t->named, " (id %zu) %s", id, where);
}

static void name_flags(struct tally *t, const struct lm_piece *a, const struct lm_piece *b, size_t id)
{
    const struct { const char *name; bool a, b; } flags[] = {
        {"special", a->special || a->kind == LM_PIECE_CONTROL, b->special || b->kind == LM_PIECE_CONTROL},
        {"lstrip", a->lstrip, b->lstrip}, {"rstrip", a->rstrip, b->rstrip},
        {"single_word", a->single_word, b->single_word}, {"normalized", a->normalized, b->normalized}};

    if (!tally(t, a->text))
        return;
    lmi_words_add(&t->named, " (id %zu)", id);
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (flags[i].a != flags[i].b)
            lmi_words_add(&t->named, " %s in %s only", flags[i].name, flags[i].a ? "A" : "B");
}

/* Everything that is a token in one and not the same in the other. */
static void tally_added(const struct lmi_vocab *a, const struct lmi_vocab *b, struct tally *t)
{
    for (size_t i = 0; i < a->v.n_pieces; i++) {
        const struct lm_piece *p = &a->v.pieces[i];
        int64_t at = lmi_same_piece(b, a, i);
        const struct lm_piece *q = at < 0 ? NULL : &b->v.pieces[at];
        if (is_token(p) && (!q || !is_token(q)))
            name_token(t, a, i, q ? "is an ordinary piece in B" : "is missing in B");
        else if (q && !is_token(p) && is_token(q))
            name_token(t, a, i, "is an ordinary piece in A");
        else if (q && is_token(p) && !same_token(p, q))
            name_flags(t, p, q, i);
    }
    for (size_t i = 0; i < b->v.n_pieces; i++)
        if (is_token(&b->v.pieces[i]) && lmi_same_piece(a, b, i) < 0)
            name_token(t, b, i, "is missing in A");
}

static bool same_added(const struct lmi_vocab *a, const struct lmi_vocab *b)
{
    struct tally t = {0};

    tally_added(a, b, &t);
    free(t.named.text);
    return t.n == 0;
}

static void text_added(const struct lmi_vocab *v, struct lmi_words *w)
{
    size_t n = 0;

    for (size_t i = 0; i < v->v.n_pieces; i++)
        n += is_token(&v->v.pieces[i]);
    lmi_words_add(w, "%zu", n);
}

static void difference_added(const struct lmi_vocab *a, const struct lmi_vocab *b, struct lm_span about, struct lmi_words *w)
{
    struct tally t = {.about = about};

    tally_added(a, b, &t);
    put_tally(&t, "token", "tokens", w);
}

static void carry_token(struct lm_piece *p, const struct lm_piece *from)
{
    if (is_token(from) || is_token(p))
        p->kind = from->kind;
    p->special = from->special;
    p->in_model = from->in_model;
    p->added = from->added;
    p->lstrip = from->lstrip;
    p->rstrip = from->rstrip;
    p->single_word = from->single_word;
    p->normalized = from->normalized;
}

/* A token that v lacks gets its id where that is free. */
static int put_token(struct lmi_vocab *v, const struct lm_piece *p, size_t id, struct lm_err *e)
{
    if (id < v->v.n_pieces && v->v.pieces[id].in_model && v->v.pieces[id].kind != LM_PIECE_UNUSED)
        return 0;
    struct lm_piece *slot = lmi_vocab_piece(v, id);
    if (!slot)
        return lmi_nomem_vocab(e);
    *slot = *p;
    return 0;
}

static int take_added(struct lmi_vocab *v, const struct lmi_vocab *from, struct lm_err *e)
{
    size_t n = v->v.n_pieces;

    for (size_t i = 0; i < n; i++) {
        int64_t at = lmi_same_piece(from, v, i);
        if (at >= 0)
            carry_token(&v->pieces[i], &from->v.pieces[at]);
        else if (is_token(&v->pieces[i]))
            v->pieces[i] = (struct lm_piece){.text = v->pieces[i].text, .kind = LM_PIECE_UNUSED};
    }
    for (size_t i = 0; i < from->v.n_pieces; i++)
        if (is_token(&from->v.pieces[i]) && lmi_same_piece(v, from, i) < 0 && put_token(v, &from->v.pieces[i], i, e) < 0)
            return -1;
    return lmi_vocab_index(v, e);
}

const struct lmi_part lmi_part_added = {"added_tokens", LM_STAGE_ADDED, same_added, text_added, difference_added, take_added};

/* ---- scores */

static double score_of(const struct lmi_vocab *v, size_t id)
{
    return v->scores && id < v->n_scores ? v->scores[id] : (double)v->v.pieces[id].score;
}

static void tally_scores(const struct lmi_vocab *a, const struct lmi_vocab *b, struct tally *t)
{
    for (size_t i = 0; i < a->v.n_pieces; i++) {
        int64_t at = lmi_same_piece(b, a, i);
        if (at < 0 || score_of(a, i) == score_of(b, (size_t)at))
            continue;
        if (tally(t, a->v.pieces[i].text))
            lmi_words_add(&t->named, " (id %zu) %.9g in A, %.9g in B", i, score_of(a, i), score_of(b, (size_t)at));
    }
}

static bool has_scores(const struct lmi_vocab *v)
{
    return !v->ranked && (v->v.algo == LM_VOCAB_SPM_BPE || v->v.algo == LM_VOCAB_UNIGRAM);
}

/* Where merges rule, scores mean nothing. */
static bool same_scores(const struct lmi_vocab *a, const struct lmi_vocab *b)
{
    struct tally t = {0};

    if (has_scores(a) && has_scores(b))
        tally_scores(a, b, &t);
    free(t.named.text);
    return t.n == 0;
}

static void text_scores(const struct lmi_vocab *v, struct lmi_words *w)
{
    lmi_words_add(w, has_scores(v) ? "one a piece" : "none");
}

static void difference_scores(const struct lmi_vocab *a, const struct lmi_vocab *b, struct lm_span about,
                              struct lmi_words *w)
{
    struct tally t = {.about = about};

    tally_scores(a, b, &t);
    put_tally(&t, "score", "scores", w);
}

/* Where a Unigram's scores are no floats, v gets doubles as well. */
static int widen_scores(struct lmi_vocab *v, struct lm_err *e)
{
    double *p = malloc((v->v.n_pieces + 1) * sizeof *p);

    if (!p)
        return lmi_nomem_vocab(e);
    for (size_t i = 0; i < v->v.n_pieces; i++)
        p[i] = score_of(v, i);
    free(v->scores);
    v->scores = p;
    v->n_scores = v->v.n_pieces;
    return 0;
}

static int take_scores(struct lmi_vocab *v, const struct lmi_vocab *from, struct lm_err *e)
{
    if (from->scores && widen_scores(v, e) < 0)
        return -1;
    for (size_t i = 0; i < v->v.n_pieces; i++) {
        int64_t at = lmi_same_piece(from, v, i);
        if (at < 0)
            continue;
        v->pieces[i].score = from->v.pieces[at].score;
        if (v->scores && i < v->n_scores)
            v->scores[i] = score_of(from, (size_t)at);
    }
    return 0;
}

const struct lmi_part lmi_part_scores = {"scores", LM_STAGE_MERGES, same_scores, text_scores, difference_scores, take_scores};

/* ---- merges */

static bool same_merge(const struct lmi_vocab *a, const struct lmi_vocab *b, size_t rank)
{
    const struct lm_merge *x = &a->v.merges[rank], *y = &b->v.merges[rank];

    return lm_span_eq(a->v.pieces[x->left].text, b->v.pieces[y->left].text) &&
           lm_span_eq(a->v.pieces[x->right].text, b->v.pieces[y->right].text);
}

static size_t first_differing_merge(const struct lmi_vocab *a, const struct lmi_vocab *b)
{
    size_t n = a->v.n_merges < b->v.n_merges ? a->v.n_merges : b->v.n_merges, i = 0;

    while (i < n && same_merge(a, b, i))
        i++;
    return i;
}

static bool same_merges(const struct lmi_vocab *a, const struct lmi_vocab *b)
{
    return a->ranked == b->ranked && a->v.n_merges == b->v.n_merges && first_differing_merge(a, b) == a->v.n_merges;
}

static void text_merges(const struct lmi_vocab *v, struct lmi_words *w)
{
    if (v->v.n_merges)
        lmi_words_add(w, "%zu in their order", v->v.n_merges);
    else
        lmi_words_add(w, "none, scores rule");
}

static void put_merge(struct lmi_words *w, const struct lmi_vocab *v, size_t rank)
{
    if (rank >= v->v.n_merges) {
        lmi_words_add(w, "none");
        return;
    }
    lmi_words_piece(w, v->v.pieces[v->v.merges[rank].left].text);
    lmi_words_add(w, " + ");
    lmi_words_piece(w, v->v.pieces[v->v.merges[rank].right].text);
}

static void difference_merges(const struct lmi_vocab *a, const struct lmi_vocab *b, struct lm_span about, struct lmi_words *w)
{
    (void)about;
    if (a->v.n_merges != b->v.n_merges) {
        lmi_words_add(w, "merges: ");
        text_merges(a, w);
        lmi_words_add(w, " in A, ");
        text_merges(b, w);
        lmi_words_add(w, " in B");
    } else
        lmi_words_add(w, "merges in another order");
    size_t rank = first_differing_merge(a, b);
    if (a->v.n_merges == 0 || b->v.n_merges == 0)
        return;
    lmi_words_add(w, "; the first that differs is rank %zu: ", rank);
    put_merge(w, a, rank);
    lmi_words_add(w, " in A, ");
    put_merge(w, b, rank);
    lmi_words_add(w, " in B");
}

/* Merges of pieces that v lacks are left out. */
static int take_merges(struct lmi_vocab *v, const struct lmi_vocab *from, struct lm_err *e)
{
    struct lm_merge *p = realloc(v->merges, (from->v.n_merges + 1) * sizeof *p);
    size_t n = 0;

    if (!p)
        return lmi_nomem_vocab(e);
    v->merges = p;
    for (size_t i = 0; i < from->v.n_merges; i++) {
        const struct lm_merge *m = &from->v.merges[i];
        int64_t left = lmi_same_piece(v, from, m->left), right = lmi_same_piece(v, from, m->right);
        int64_t result = lmi_same_piece(v, from, m->result);
        if (left >= 0 && right >= 0 && result >= 0)
            p[n++] = (struct lm_merge){(uint32_t)left, (uint32_t)right, (uint32_t)result};
    }
    v->v.merges = p;
    v->v.n_merges = n;
    v->ranked = from->ranked;
    return take_scores(v, from, e);
}

const struct lmi_part lmi_part_merges = {"merges", LM_STAGE_MERGES, same_merges, text_merges, difference_merges, take_merges};

/* ---- kinds */

static void tally_kinds(const struct lmi_vocab *a, const struct lmi_vocab *b, struct tally *t)
{
    for (size_t i = 0; i < a->v.n_pieces; i++) {
        int64_t at = lmi_same_piece(b, a, i);
        const struct lm_piece *p = &a->v.pieces[i], *q = at < 0 ? NULL : &b->v.pieces[at];
        if (q && p->kind != q->kind && tally(t, p->text))
            lmi_words_add(&t->named, " (id %zu) %s in A, %s in B", i, lm_piece_kind_name(p->kind), lm_piece_kind_name(q->kind));
    }
}

static bool same_kinds(const struct lmi_vocab *a, const struct lmi_vocab *b)
{
    struct tally t = {0};

    tally_kinds(a, b, &t);
    free(t.named.text);
    return t.n == 0;
}

static void text_kinds(const struct lmi_vocab *v, struct lmi_words *w)
{
    size_t n[LM_PIECE_BYTE + 1] = {0};
    const char *between = "";

    for (size_t i = 0; i < v->v.n_pieces; i++)
        n[v->v.pieces[i].kind]++;
    for (unsigned k = LM_PIECE_NORMAL; k <= LM_PIECE_BYTE; k++)
        if (n[k] > 0) {
            lmi_words_add(w, "%s%zu %s", between, n[k], lm_piece_kind_name((enum lm_piece_kind)k));
            between = ", ";
        }
}

static void difference_kinds(const struct lmi_vocab *a, const struct lmi_vocab *b, struct lm_span about, struct lmi_words *w)
{
    struct tally t = {.about = about};

    tally_kinds(a, b, &t);
    put_tally(&t, "kind", "kinds", w);
}

static int take_kinds(struct lmi_vocab *v, const struct lmi_vocab *from, struct lm_err *e)
{
    (void)e;
    for (size_t i = 0; i < v->v.n_pieces; i++) {
        int64_t at = lmi_same_piece(from, v, i);
        if (at >= 0)
            v->pieces[i].kind = from->v.pieces[at].kind;
    }
    return 0;
}

const struct lmi_part lmi_part_kinds = {"kinds", LM_STAGE_PIECES, same_kinds, text_kinds, difference_kinds, take_kinds};

/* ---- pieces: which text has which id */

static void tally_pieces(const struct lmi_vocab *a, const struct lmi_vocab *b, struct tally *t)
{
    for (size_t i = 0; i < a->v.n_pieces; i++) {
        int64_t at = lmi_same_piece(b, a, i);
        if (at == (int64_t)i || !tally(t, a->v.pieces[i].text))
            continue;
        if (at < 0)
            lmi_words_add(&t->named, " (id %zu) is missing in B", i);
        else
            lmi_words_add(&t->named, " has id %zu in A, %lld in B", i, (long long)at);
    }
    for (size_t i = 0; i < b->v.n_pieces; i++)
        if (lmi_same_piece(a, b, i) < 0 && tally(t, b->v.pieces[i].text))
            lmi_words_add(&t->named, " (id %zu) is missing in A", i);
}

static bool same_pieces(const struct lmi_vocab *a, const struct lmi_vocab *b)
{
    if (a->v.n_pieces != b->v.n_pieces)
        return false;
    for (size_t i = 0; i < a->v.n_pieces; i++)
        if (!lm_span_eq(a->v.pieces[i].text, b->v.pieces[i].text))
            return false;
    return true;
}

static void text_pieces(const struct lmi_vocab *v, struct lmi_words *w)
{
    lmi_words_add(w, "%zu", v->v.n_pieces);
}

static void difference_pieces(const struct lmi_vocab *a, const struct lmi_vocab *b, struct lm_span about, struct lmi_words *w)
{
    struct tally t = {.about = about};

    tally_pieces(a, b, &t);
    put_tally(&t, "piece", "pieces", w);
}

/* The ids that v's pieces had, as ids of `from`'s order. */
static int64_t moved(const struct lmi_vocab *v, const struct lmi_vocab *from, int64_t id)
{
    return id < 0 ? -1 : lmi_same_piece(from, v, (size_t)id);
}

static void move_merges(struct lmi_vocab *v, const struct lmi_vocab *from)
{
    size_t n = 0;

    for (size_t i = 0; i < v->v.n_merges; i++) {
        const struct lm_merge m = v->merges[i];
        int64_t left = moved(v, from, m.left), right = moved(v, from, m.right), result = moved(v, from, m.result);
        if (left >= 0 && right >= 0 && result >= 0)
            v->merges[n++] = (struct lm_merge){(uint32_t)left, (uint32_t)right, (uint32_t)result};
    }
    v->v.n_merges = n;
}

static int move_list(struct lmi_vocab *v, const struct lmi_vocab *from, const int32_t **ids, size_t *n, struct lm_err *e)
{
    int32_t *p = *n ? lm_arena_array(&v->arena, *n, sizeof *p) : NULL;
    size_t kept = 0;

    if (*n && !p)
        return lmi_nomem_vocab(e);
    for (size_t i = 0; i < *n; i++) {
        int64_t id = moved(v, from, (*ids)[i]);
        if (id >= 0)
            p[kept++] = (int32_t)id;
    }
    *ids = p;
    *n = kept;
    return 0;
}

static int move_ids(struct lmi_vocab *v, const struct lmi_vocab *from, struct lm_err *e)
{
    int64_t *const ids[] = {&v->v.bos_id, &v->v.eos_id, &v->v.unk_id, &v->v.pad_id};

    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        *ids[i] = moved(v, from, *ids[i]);
    move_merges(v, from);
    if (move_list(v, from, &v->v.prefix_ids, &v->v.n_prefix_ids, e) < 0)
        return -1;
    return move_list(v, from, &v->v.suffix_ids, &v->v.n_suffix_ids, e);
}

/* What v said of a piece stays with its text. */
static int take_pieces(struct lmi_vocab *v, const struct lmi_vocab *from, struct lm_err *e)
{
    size_t n = from->v.n_pieces;
    struct lm_piece *p = malloc((n + 1) * sizeof *p);
    double *scores = v->scores ? malloc((n + 1) * sizeof *scores) : NULL;

    if (!p || (v->scores && !scores) || move_ids(v, from, e) < 0) {
        free(p);
        free(scores);
        return lmi_nomem_vocab(e);
    }
    for (size_t i = 0; i < n; i++) {
        int64_t at = lmi_same_piece(v, from, i);
        p[i] = at < 0 ? from->v.pieces[i] : v->pieces[at];
        if (scores)
            scores[i] = at < 0 ? score_of(from, i) : score_of(v, (size_t)at);
    }
    free(v->pieces);
    free(v->scores);
    v->pieces = p;
    v->scores = scores;
    v->n_scores = scores ? n : 0;
    v->v.pieces = p;
    v->v.n_pieces = v->capacity = n;
    return lmi_vocab_index(v, e);
}

const struct lmi_part lmi_part_pieces = {"pieces", LM_STAGE_PIECES, same_pieces, text_pieces, difference_pieces, take_pieces};
