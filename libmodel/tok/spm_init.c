/* What SentencePiece's models need of a vocabulary, computed once: for BPE which
 * two symbols merge into which piece and in what order, for the others a trie;
 * and where a text can be cut so that the parts can be encoded (and remembered)
 * on their own. */
#include <math.h>
#include <stdlib.h>

#include "libmodel/tok/build.h"
#include "libmodel/tok/engine.h"
#include "libmodel/tok/unicode.h"

/* All splits of a piece are looked up, each hashing its bytes: without a limit
 * a hostile vocabulary costs the square of its size. Real pieces have 16
 * characters, the longest known a few hundred. */
enum { LONGEST_PIECE = 1024 };

struct init {
    struct lm_tokenizer *t;
    struct lm_span *texts;   /* a piece in the form that is merged; size 0: takes no part */
    uint32_t *order;
    struct lmi_texts by_text;
    struct lm_err *e;
};

static int nomem(struct init *x)
{
    return lm_err_set(x->e, LM_NOMEM, "out of memory for a tokenizer");
}

/* With spaces for U+2581 (and, in symbols that GGUF stores with spaces, for
 * those). data NULL when out of memory. */
static struct lm_span merged_form(struct lm_tokenizer *t, struct lm_span s)
{
    if (!t->v->escape_whitespaces || !memmem(s.data, s.size, LMI_SPACE_MARK, 3))
        return s;
    uint8_t *out = lm_arena_alloc(&t->arena, s.size);
    size_t n = 0;
    for (size_t i = 0; out && i < s.size;) {
        bool mark = s.size - i >= 3 && memcmp(s.data + i, LMI_SPACE_MARK, 3) == 0;
        out[n++] = mark ? ' ' : s.data[i];
        i += mark ? 3 : 1;
    }
    return lm_span_of(out, n);
}

/* Converters fill ids that have no piece with "[PADn]": those are no pieces. */
static bool is_filler(const struct lm_piece *p)
{
    return p->kind == LM_PIECE_UNUSED && p->text.size > 5 && memcmp(p->text.data, "[PAD", 4) == 0;
}

static bool takes_part(const struct lm_vocab *v, const struct lm_piece *p)
{
    bool kind = p->kind == LM_PIECE_NORMAL || p->kind == LM_PIECE_USER_DEFINED || p->kind == LM_PIECE_UNUSED;
    /* The normalizer leaves no spaces, so a piece with one is never made. */
    bool meant = lmi_vocab_of(v)->spaced && p->kind == LM_PIECE_USER_DEFINED;
    bool spaces = v->escape_whitespaces && !meant && memchr(p->text.data, ' ', p->text.size);

    /* Since 0.2.3 the library leaves NUL to the byte pieces. */
    bool nul = v->byte_fallback && !lmi_vocab_of(v)->ranked && p->text.size == 1 && p->text.data[0] == 0;

    return kind && p->in_model && !spaces && !nul && !is_filler(p) &&
           lmi_utf8_valid_prefix(p->text) == p->text.size;
}

static int prepare_texts(struct init *x)
{
    const struct lm_vocab *v = x->t->v;

    x->texts = calloc(v->n_pieces, sizeof *x->texts);
    if (!x->texts || !lmi_texts_init(&x->by_text, v->n_pieces))
        return nomem(x);
    for (size_t i = 0; i < v->n_pieces; i++) {
        if (v->pieces[i].text.size == 0 || !takes_part(v, &v->pieces[i]))
            continue;
        if (v->pieces[i].text.size > LONGEST_PIECE)
            return lm_err_set(x->e, LM_LIMIT, "piece %zu has %zu bytes, at most %d are handled", i,
                              v->pieces[i].text.size, LONGEST_PIECE);
        x->texts[i] = merged_form(x->t, v->pieces[i].text);
        if (!x->texts[i].data)
            return nomem(x);
        lmi_texts_put(&x->by_text, x->texts[i], (uint32_t)i);
    }
    return 0;
}

/* ---- characters */

static uint32_t *char_slot(struct init *x, uint32_t cp)
{
    uint32_t **page = &x->t->chars.pages[cp >> 8];

    if (!*page) {
        *page = lm_arena_array(&x->t->arena, 256, sizeof **page);
        if (*page)
            memset(*page, 0xff, 256 * sizeof **page);
    }
    return *page ? *page + (cp & 0xff) : NULL;
}

static uint32_t char_id(const struct lm_tokenizer *t, uint32_t cp)
{
    const uint32_t *page = t->chars.pages[cp >> 8];

    return page ? page[cp & 0xff] : LMI_NONE;
}

/* Single characters are their pieces; others inside pieces get numbers of their own. */
static int number_chars(struct init *x)
{
    struct lm_tokenizer *t = x->t;

    t->n_symbols = t->v->n_pieces;
    for (int single = 1; single >= 0; single--)
        for (size_t i = 0; i < t->v->n_pieces; i++) {
            struct lm_span s = x->texts[i];
            if (s.size == 0 || (single && lmi_utf8_width(s.data[0]) != s.size))
                continue;
            for (size_t pos = 0; pos < s.size; pos += lmi_utf8_width(s.data[pos])) {
                uint32_t *slot = char_slot(x, lmi_utf8_get(s.data + pos));
                if (!slot)
                    return nomem(x);
                if (*slot == LMI_NONE)
                    *slot = single ? (uint32_t)i : (uint32_t)t->n_symbols++;
            }
        }
    return 0;
}

static int measure_symbols(struct init *x)
{
    struct lm_tokenizer *t = x->t;

    t->length = lm_arena_array(&t->arena, t->n_symbols, sizeof *t->length);
    if (!t->length)
        return nomem(x);
    for (size_t i = 0; i < t->v->n_pieces; i++)
        t->length[i] = t->v->pieces[i].kind == LM_PIECE_BYTE ? 1 : (uint32_t)x->texts[i].size;
    for (uint32_t page = 0; page < 0x1100; page++)
        for (uint32_t i = 0; i < 256 && t->chars.pages[page]; i++) {
            uint32_t id = t->chars.pages[page][i];
            uint8_t buf[4];
            if (id != LMI_NONE)
                t->length[id] = (uint32_t)lmi_utf8_put(page << 8 | i, buf);
        }
    return 0;
}

/* ---- order of merges: rank of a piece by falling score, equal for equal scores */

struct scored {
    float score;
    uint32_t id;
};

static int by_falling_score(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;

    if (x->score != y->score)
        return x->score < y->score ? 1 : -1;
    return (signbit(x->score) != 0) - (signbit(y->score) != 0); /* the library puts 0 before -0 */
}

static int rank_scores(struct init *x)
{
    const struct lm_vocab *v = x->t->v;
    struct scored *sorted = malloc(v->n_pieces * sizeof *sorted);

    x->order = malloc(v->n_pieces * sizeof *x->order);
    if (!sorted || !x->order) {
        free(sorted);
        return nomem(x);
    }
    for (size_t i = 0; i < v->n_pieces; i++)
        sorted[i] = (struct scored){v->pieces[i].score, (uint32_t)i};
    qsort(sorted, v->n_pieces, sizeof *sorted, by_falling_score);
    for (uint32_t i = 0, rank = 0; i < v->n_pieces; i++) {
        if (i > 0 && by_falling_score(&sorted[i - 1], &sorted[i]) != 0)
            rank = i;
        x->order[sorted[i].id] = rank;
    }
    free(sorted);
    return 0;
}

/* ---- pairs */

/* The symbol with these bytes: a character (piece or not) or a longer piece. */
static uint32_t symbol(const struct init *x, const uint8_t *p, size_t n)
{
    if (lmi_utf8_width(p[0]) == n)
        return char_id(x->t, lmi_utf8_get(p));
    return lmi_texts_get(&x->by_text, lm_span_of(p, n));
}

static int add_splits(struct init *x, uint32_t id)
{
    struct lm_span s = x->texts[id];

    for (size_t pos = s.size ? lmi_utf8_width(s.data[0]) : 0; pos < s.size; pos += lmi_utf8_width(s.data[pos])) {
        uint32_t left = symbol(x, s.data, pos);
        uint32_t right = left == LMI_NONE ? LMI_NONE : symbol(x, s.data + pos, s.size - pos);
        if (right != LMI_NONE && !lmi_pairs_put(&x->t->pairs, left, right, x->order[id], id))
            return nomem(x);
    }
    return 0;
}

/* SentencePiece merges whatever gives a piece, in the order of scores. */
static int pairs_from_scores(struct init *x)
{
    if (rank_scores(x) < 0)
        return -1;
    for (size_t i = 0; i < x->t->v->n_pieces; i++) /* of equal texts only the first is a piece */
        if (x->texts[i].size > 0 && lmi_texts_get(&x->by_text, x->texts[i]) == i && add_splits(x, (uint32_t)i) < 0)
            return -1;
    return 0;
}

/* HF's conversions of such models list their merges instead. */
static int pairs_from_merges(struct init *x)
{
    const struct lm_vocab *v = x->t->v;

    for (size_t i = v->n_merges; i-- > 0;) {
        const struct lm_merge *m = &v->merges[i];
        if (!lmi_pairs_get(&x->t->pairs, m->left, m->right) &&
            !lmi_pairs_put(&x->t->pairs, m->left, m->right, (uint32_t)i, m->result))
            return nomem(x);
    }
    return 0;
}

static void join(struct lm_tokenizer *t, uint8_t a, uint8_t b)
{
    t->joined[a][b / 64] |= (uint64_t)1 << b % 64;
}

/* Which characters stand side by side inside pieces. */
static int note_neighbours(struct init *x)
{
    struct lm_tokenizer *t = x->t;
    bool bpe = t->v->algo == LM_VOCAB_SPM_BPE;

    for (unsigned a = 0; a < 256; a++)
        for (unsigned b = 0x80; b < 0xc0; b++)
            join(t, (uint8_t)a, (uint8_t)b);
    for (size_t i = 0; i < t->v->n_pieces; i++) {
        struct lm_span s = x->texts[i];
        for (size_t pos = 0, next; pos < s.size; pos = next) {
            next = pos + lmi_utf8_width(s.data[pos]);
            if (next == s.size)
                break;
            join(t, s.data[next - 1], s.data[next]);
            if (!bpe)
                continue;
            uint32_t a = char_id(t, lmi_utf8_get(s.data + pos)), b = char_id(t, lmi_utf8_get(s.data + next));
            if (!lmi_pairs_put(&t->adjacent, a, b, 0, 0))
                return nomem(x);
        }
    }
    return 0;
}

static int make_pairs(struct init *x)
{
    struct lm_tokenizer *t = x->t;

    if (!lmi_pairs_init(&t->pairs, 2 * t->v->n_pieces) || !lmi_pairs_init(&t->adjacent, t->v->n_pieces))
        return nomem(x);
    if ((lmi_vocab_of(t->v)->ranked ? pairs_from_merges(x) : pairs_from_scores(x)) < 0)
        return -1;
    return note_neighbours(x);
}

/* ---- the rest */

static int note_unused(struct init *x)
{
    struct lm_tokenizer *t = x->t;
    bool any = false;

    for (size_t i = 0; i < t->v->n_pieces; i++)
        any |= x->texts[i].size > 0 && t->v->pieces[i].kind == LM_PIECE_UNUSED;
    if (!any || lmi_vocab_of(t->v)->ranked)
        return 0;
    t->unused = lm_arena_alloc(&t->arena, t->n_symbols);
    if (!t->unused)
        return nomem(x);
    for (size_t i = 0; i < t->v->n_pieces; i++)
        t->unused[i] = x->texts[i].size > 0 && t->v->pieces[i].kind == LM_PIECE_UNUSED;
    return 0;
}

static void note_bytes(struct lm_tokenizer *t)
{
    memset(t->byte_id, 0xff, sizeof t->byte_id);
    for (size_t i = t->v->n_pieces; i-- > 0;)
        if (t->v->pieces[i].kind == LM_PIECE_BYTE)
            t->byte_id[lmi_byte_piece(t->v->pieces[i].text)] = (uint32_t)i;
}

/* The model's own user-defined symbols: found in the normalized text, and kept
 * whole by the normalizer. */
static int note_symbols(struct init *x)
{
    struct lm_tokenizer *t = x->t;

    for (size_t i = 0; i < t->v->n_pieces; i++) {
        const struct lm_piece *p = &t->v->pieces[i];
        if (p->kind != LM_PIECE_USER_DEFINED || p->added || !p->in_model)
            continue;
        bool whole = (t->v->algo == LM_VOCAB_SPM_BPE || t->v->algo == LM_VOCAB_SPM_CHAR) && x->texts[i].size > 0;
        if ((whole && lmi_added_put(&t->norm, (struct lmi_added_item){.text = x->texts[i], .id = (uint32_t)i}, x->e) < 0) ||
            lmi_added_put(&t->symbols, (struct lmi_added_item){.text = p->text, .id = (uint32_t)i}, x->e) < 0)
            return -1;
    }
    return 0;
}

static int init_bpe(struct init *x)
{
    if (number_chars(x) < 0 || measure_symbols(x) < 0 || make_pairs(x) < 0 || note_unused(x) < 0)
        return -1;
    x->t->space_is_piece = char_id(x->t, ' ') < x->t->v->n_pieces && !x->t->unused;
    return 0;
}

/* The words of a WORD model begin at spaces, those of a CHAR model anywhere but
 * inside a character or a user-defined symbol. */
static void cut_words(struct init *x)
{
    struct lm_tokenizer *t = x->t;
    bool words = t->v->algo == LM_VOCAB_SPM_WORD;

    for (unsigned a = 0; a < 256; a++)
        for (unsigned b = 0; b < 256; b++)
            if (words ? b != ' ' : b >= 0x80 && b < 0xc0)
                join(t, (uint8_t)a, (uint8_t)b);
}

static int init_trie(struct init *x)
{
    struct lm_tokenizer *t = x->t;

    t->n_symbols = t->v->n_pieces;
    t->length = lm_arena_array(&t->arena, t->n_symbols, sizeof *t->length);
    if (!t->length)
        return nomem(x);
    for (size_t i = 0; i < t->v->n_pieces; i++)
        t->length[i] = t->v->pieces[i].kind == LM_PIECE_BYTE ? 1 : (uint32_t)x->texts[i].size;
    if (lmi_unigram_make(t, x->texts, x->e) < 0)
        return -1;
    uint64_t unit = lmi_trie_root(&t->trie);
    t->space_is_piece = lmi_trie_step(&t->trie, &unit, ' ') && lmi_trie_id(unit) != LMI_NONE;
    if (t->v->algo == LM_VOCAB_UNIGRAM)
        return note_neighbours(x);
    cut_words(x);
    return 0;
}

int lmi_spm_init(struct lm_tokenizer *t, struct lm_err *e)
{
    struct init x = {.t = t, .e = e};
    int rc = -1;

    lmi_unicode_init();
    if (lmi_charsmap_open(&t->charsmap, t->v->charsmap, e) == 0 && prepare_texts(&x) == 0 &&
        (t->v->algo == LM_VOCAB_SPM_BPE ? init_bpe(&x) : init_trie(&x)) == 0)
        rc = note_symbols(&x);
    note_bytes(t);
    if (rc == 0)
        lmi_spm_find_plain(t);
    free(x.texts);
    free(x.order);
    lmi_texts_free(&x.by_text);
    return rc;
}

void lmi_spm_free(struct lm_tokenizer *t)
{
    lmi_pairs_free(&t->adjacent);
    lmi_added_free(&t->symbols);
}
