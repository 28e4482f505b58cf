#include "convert/vocab_diff.h"

#include <stdio.h>
#include <stdlib.h>

static int nomem(struct lm_err *e)
{
    return lm_err_set(e, LM_NOMEM, "out of memory while comparing vocabularies");
}

/* Where v has the piece id of `from`: the same id if it can be; -1 nowhere. */
static int64_t find(const struct lm_vocab *v, const struct lm_vocab *from, size_t id)
{
    struct lm_span text = from->pieces[id].text;

    return id < v->n_pieces && lm_span_eq(v->pieces[id].text, text) ? (int64_t)id : lm_vocab_find(v, text);
}

/* ---- pieces */

static bool has_scores(const struct lm_vocab *v)
{
    return v->algo == LM_VOCAB_UNIGRAM || (v->algo == LM_VOCAB_SPM_BPE && v->n_merges == 0);
}

static unsigned compare(const struct lm_piece *p, const struct lm_piece *q, bool scores)
{
    bool flags = p->special == q->special && p->added == q->added && p->lstrip == q->lstrip && p->rstrip == q->rstrip &&
                 p->single_word == q->single_word && p->normalized == q->normalized;

    return (p->kind != q->kind ? LM_PIECE_KIND : 0) | (scores && p->score != q->score ? LM_PIECE_SCORE : 0) |
           (flags ? 0 : LM_PIECE_FLAGS);
}

static void add_change(struct lm_vocab_diff *d, unsigned what, int64_t a, int64_t b)
{
    d->pieces[d->n_pieces++] = (struct lm_piece_change){what, a, b};
    for (unsigned i = 0; i < 6; i++)
        d->n_of[i] += what >> i & 1;
}

static int diff_pieces(struct lm_vocab_diff *d, const struct lm_vocab *a, const struct lm_vocab *b, struct lm_err *e)
{
    bool scores = has_scores(a) && has_scores(b);

    d->pieces = calloc(a->n_pieces + b->n_pieces + 1, sizeof *d->pieces);
    if (!d->pieces)
        return nomem(e);
    for (size_t i = 0; i < a->n_pieces; i++) {
        int64_t at = find(b, a, i);
        unsigned what = at < 0 ? LM_PIECE_REMOVED : (at != (int64_t)i ? LM_PIECE_MOVED : 0);
        if (at >= 0)
            what |= compare(&a->pieces[i], &b->pieces[at], scores);
        if (what)
            add_change(d, what, (int64_t)i, at);
    }
    for (size_t i = 0; i < b->n_pieces; i++)
        if (find(a, b, i) < 0)
            add_change(d, LM_PIECE_ADDED, -1, (int64_t)i);
    return 0;
}

/* ---- merges */

/* "left NUL right" of every merge, as keys of a map to its rank. */
static struct lm_map *map_merges(const struct lm_vocab *v, struct lm_arena *arena, struct lm_span *keys)
{
    struct lm_map *map = lm_map_new(v->n_merges);

    for (size_t i = 0; map && i < v->n_merges; i++) {
        struct lm_span l = v->pieces[v->merges[i].left].text, r = v->pieces[v->merges[i].right].text;
        uint8_t *key = lm_arena_alloc(arena, l.size + r.size + 1);
        if (key) {
            memcpy(key, l.data, l.size);
            memcpy(key + l.size + 1, r.data, r.size);
            keys[i] = lm_span_of(key, l.size + r.size + 1);
        }
        if (!key || lm_map_put(map, keys[i], i) < 0) {
            lm_map_free(map);
            return NULL;
        }
    }
    return map;
}

static void compare_merges(struct lm_vocab_diff *d, const struct lm_map *in_a, const struct lm_map *in_b,
                           const struct lm_span *a, size_t n, const struct lm_span *b, size_t m)
{
    size_t last = 0, i = 0;

    for (size_t k = 0; k < n; k++) {
        size_t at = lm_map_get(in_b, a[k]);
        d->n_merges_removed += at == SIZE_MAX;
        d->merges_reordered |= at != SIZE_MAX && at < last;
        last = at != SIZE_MAX ? at : last;
    }
    for (size_t k = 0; k < m; k++)
        d->n_merges_added += lm_map_get(in_a, b[k]) == SIZE_MAX;
    while (i < n && i < m && lm_span_eq(a[i], b[i]))
        i++;
    d->first_merge = i < n || i < m ? (int64_t)i : -1;
}

/* Merges of a SentencePiece vocabulary lie in its scores unless it lists them. */
static int diff_merges(struct lm_vocab_diff *d, const struct lm_vocab *a, const struct lm_vocab *b, struct lm_err *e)
{
    struct lm_arena arena = {0};
    struct lm_span *ka = calloc(a->n_merges + 1, sizeof *ka), *kb = calloc(b->n_merges + 1, sizeof *kb);
    struct lm_map *in_a = ka ? map_merges(a, &arena, ka) : NULL, *in_b = kb ? map_merges(b, &arena, kb) : NULL;

    d->first_merge = -1;
    if (in_a && in_b)
        compare_merges(d, in_a, in_b, ka, a->n_merges, kb, b->n_merges);
    int rc = in_a && in_b ? 0 : nomem(e);
    lm_map_free(in_a);
    lm_map_free(in_b);
    free(ka);
    free(kb);
    lm_arena_free(&arena);
    return rc;
}

/* ---- settings */

static int add_setting(struct lm_vocab_diff *d, const char *name, char *a, char *b, struct lm_err *e)
{
    struct lm_setting_change *s = realloc(d->settings, (d->n_settings + 1) * sizeof *s);
    char *x = a ? lm_arena_str(&d->arena, lm_span_str(a)) : NULL, *y = b ? lm_arena_str(&d->arena, lm_span_str(b)) : NULL;

    free(a);
    free(b);
    if (s)
        d->settings = s;
    if (!s || !x || !y)
        return nomem(e);
    s[d->n_settings++] = (struct lm_setting_change){name, x, y};
    return 0;
}

static char *id_text(const struct lm_vocab *v, int64_t id)
{
    char piece[200], *out = NULL;

    if (id < 0)
        return strdup("none");
    lm_piece_escape(v->pieces[id].text, piece, sizeof piece);
    return asprintf(&out, "%lld '%s'", (long long)id, piece) < 0 ? NULL : out;
}

static int diff_ids(struct lm_vocab_diff *d, const struct lm_vocab *a, const struct lm_vocab *b, struct lm_err *e)
{
    const struct { const char *name; int64_t a, b; } ids[] = {
        {"bos_id", a->bos_id, b->bos_id}, {"eos_id", a->eos_id, b->eos_id}, {"unk_id", a->unk_id, b->unk_id},
        {"pad_id", a->pad_id, b->pad_id}};

    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        if (ids[i].a != ids[i].b && add_setting(d, ids[i].name, id_text(a, ids[i].a), id_text(b, ids[i].b), e) < 0)
            return -1;
    return 0;
}

static bool is_list(size_t part)
{
    static const char *const lists[] = {"added_tokens", "scores", "merges", "kinds", "pieces", "unk_token"};

    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        if (strcmp(lists[i], lm_vocab_part_name(part)) == 0)
            return true;
    return false;
}

static char *template_text(const struct lm_vocab *v)
{
    char *out = NULL;

    if (v->chat_template.size == 0)
        return strdup("none");
    return asprintf(&out, "%zu bytes", v->chat_template.size) < 0 ? NULL : out;
}

static int diff_settings(struct lm_vocab_diff *d, const struct lm_vocab *a, const struct lm_vocab *b, struct lm_err *e)
{
    for (size_t i = 0; i < lm_vocab_n_parts(); i++)
        if (!is_list(i) && !lm_vocab_part_same(a, b, i) &&
            add_setting(d, lm_vocab_part_name(i), lm_vocab_part_text(a, i), lm_vocab_part_text(b, i), e) < 0)
            return -1;
    if (!lm_span_eq(a->chat_template, b->chat_template) &&
        add_setting(d, "chat_template", template_text(a), template_text(b), e) < 0)
        return -1;
    return diff_ids(d, a, b, e);
}

int lm_vocab_diff_make(struct lm_vocab_diff **out, const struct lm_vocab *a, const struct lm_vocab *b, struct lm_err *e)
{
    struct lm_vocab_diff *d = calloc(1, sizeof *d);

    *out = NULL;
    if (!d)
        return nomem(e);
    if (diff_pieces(d, a, b, e) < 0 || diff_merges(d, a, b, e) < 0 || diff_settings(d, a, b, e) < 0) {
        lm_vocab_diff_free(d);
        return -1;
    }
    *out = d;
    return 0;
}

bool lm_vocab_diff_empty(const struct lm_vocab_diff *d)
{
    return d->n_pieces == 0 && d->first_merge < 0 && d->n_settings == 0;
}

void lm_vocab_diff_free(struct lm_vocab_diff *d)
{
    if (!d)
        return;
    lm_arena_free(&d->arena);
    free(d->pieces);
    free(d->settings);
    free(d);
}
