/* Byte-level BPE (GPT-2 and its family): split by regex, then merge the bytes
 * of each word by rank. Pieces are written in GPT-2's letters for bytes; we map
 * the vocabulary once and work on the bytes themselves. */
#include <stdlib.h>

#include "libmodel/tok/build.h"
#include "libmodel/tok/engine.h"
#include "libmodel/tok/unicode.h"

/* Bytes of a piece: one a letter; an added token's text is its own bytes. */
static size_t n_bytes(const struct lm_piece *p)
{
    size_t n = 0;

    for (size_t i = 0; i < p->text.size && !p->added; n++) {
        size_t w = lmi_utf8_step(p->text.data + i, p->text.size - i);
        i += w ? w : 1;
    }
    return p->added ? p->text.size : n;
}

/* A byte's piece must be the model's own: 'õ' may also be an added token. */
static void find_bytes(struct lm_tokenizer *t)
{
    for (unsigned b = 0; b < 256; b++) {
        uint8_t letter[4];
        size_t n = lmi_utf8_put(lmi_byte_letter((uint8_t)b), letter);
        int64_t id = lm_vocab_find(t->v, lm_span_of(letter, n));
        bool own = id >= 0 && t->v->pieces[id].in_model;
        t->byte_id[b] = own ? (uint32_t)id : LMI_NONE;
    }
}

int lmi_byte_init(struct lm_tokenizer *t, struct lm_err *e)
{
    const struct lm_vocab *v = t->v;

    t->n_symbols = v->n_pieces;
    t->length = lm_arena_array(&t->arena, v->n_pieces, sizeof *t->length);
    if (!t->length || !lmi_pairs_init(&t->pairs, v->n_merges))
        return lm_err_set(e, LM_NOMEM, "out of memory for a tokenizer");
    for (size_t i = 0; i < v->n_pieces; i++)
        t->length[i] = (uint32_t)n_bytes(&v->pieces[i]);
    find_bytes(t);
    /* Of a pair that is listed twice the last rank counts, as in HF. */
    for (size_t i = v->n_merges; i-- > 0;) {
        const struct lm_merge *m = &v->merges[i];
        if (!lmi_pairs_get(&t->pairs, m->left, m->right) &&
            !lmi_pairs_put(&t->pairs, m->left, m->right, (uint32_t)i, m->result))
            return lm_err_set(e, LM_NOMEM, "out of memory for a tokenizer");
    }
    return lmi_pretok_new(&t->pretok, v->pre_pattern, e);
}

/* ---- words */

/* The bytes' pieces; *whole false when a byte has none. */
static size_t symbols_of(const struct lm_tokenizer *t, const uint8_t *w, size_t n, uint32_t *ids, bool *whole)
{
    *whole = true;
    for (size_t i = 0; i < n; i++) {
        ids[i] = t->byte_id[w[i]];
        *whole &= ids[i] != LMI_NONE;
    }
    return n;
}

/* A byte without a piece becomes the unknown piece, or nothing (as in HF). */
static void emit_unknown(struct lmi_call *c, size_t pos)
{
    const struct lm_vocab *v = c->t->v;
    struct lm_ids *o = c->out;

    if (v->unk_id < 0)
        return;
    if (v->fuse_unk && c->unk_end == o->n && o->n > 0) {
        if (c->offsets)
            o->offsets[o->n - 1].end = lmi_call_offset(c, pos + 1);
        return;
    }
    lmi_call_emit(c, (uint32_t)v->unk_id, pos, pos + 1);
    c->unk_end = o->n;
}

static void emit_symbols(struct lmi_call *c, size_t begin, const uint32_t *ids, size_t n)
{
    c->unk_end = 0;
    for (size_t i = 0; i < n; i++) {
        if (ids[i] == LMI_NONE) {
            emit_unknown(c, begin++);
            continue;
        }
        lmi_call_emit(c, ids[i], begin, begin + c->t->length[ids[i]]);
        begin += c->t->length[ids[i]];
    }
}

/* ignore_merges: a word that is a piece is taken as it is. */
static uint32_t whole_word(const struct lmi_call *c, size_t begin, size_t n)
{
    uint8_t small[512], *letters = small;
    size_t size = 0;

    if (n > sizeof small / 2)
        return LMI_NONE;
    for (size_t i = 0; i < n; i++)
        size += lmi_utf8_put(lmi_byte_letter(c->bytes[begin + i]), letters + size);
    int64_t id = lm_vocab_find(c->t->v, lm_span_of(letters, size));
    return id >= 0 && c->t->v->pieces[id].in_model ? (uint32_t)id : LMI_NONE;
}

int lmi_byte_word(struct lmi_call *c, size_t begin, size_t end)
{
    size_t n = end - begin;
    uint32_t id = c->t->v->ignore_merges ? whole_word(c, begin, n) : LMI_NONE;
    bool whole;

    if (id != LMI_NONE) {
        lmi_call_emit(c, id, begin, end);
        return 0;
    }
    uint32_t *ids = lmi_call_symbols(c, n);
    if (!ids)
        return -1;
    symbols_of(c->t, c->bytes + begin, n, ids, &whole);
    c->no_cache = !whole;
    size_t left = lmi_merge(&c->merge, &c->t->pairs, ids, n);
    if (left == SIZE_MAX)
        return lmi_call_nomem(c);
    emit_symbols(c, begin, ids, left);
    return 0;
}

static int word(void *user, size_t begin, size_t end)
{
    return lmi_call_word(user, begin, end);
}

/* ---- parts */

/* Ill-formed bytes as DEL, which is no letter, number, space or mark; the bytes
 * that are merged stay what they were. */
static uint8_t *mask_ill_formed(struct lm_span s)
{
    uint8_t *copy = malloc(s.size + 1);

    for (size_t i = 0; copy && i < s.size;) {
        size_t w = lmi_utf8_step(s.data + i, s.size - i);
        if (w > 0)
            memcpy(copy + i, s.data + i, w);
        else
            copy[i] = 0x7f;
        i += w ? w : 1;
    }
    return copy;
}

static int run_words(struct lmi_call *c, struct lm_span text)
{
    uint8_t *masked = NULL;

    if (text.size == 0)
        return 0;
    c->bytes = text.data;
    if (lmi_utf8_valid_prefix(text) < text.size && !(masked = mask_ill_formed(text)))
        return lmi_call_nomem(c);
    c->part = lm_span_of(masked ? masked : text.data, text.size);
    int rc = lmi_pretok_run(c->t->pretok, c->part, word, c, c->e);
    if (rc == 0)
        rc = lmi_call_flush(c);
    free(masked);
    return rc;
}

/* The space in front is one more byte that comes from nowhere. */
static int with_prefix(struct lmi_call *c, struct lm_span text)
{
    struct lmi_normal n = {0};
    const size_t *map = c->map;

    lmi_normal_add(&n, (const uint8_t *)" ", 1, lmi_call_offset(c, 0), c->offsets);
    if (!c->offsets)
        lmi_normal_add(&n, text.data, text.size, 0, false);
    for (size_t i = 0; c->offsets && i < text.size; i++)
        lmi_normal_add(&n, text.data + i, 1, lmi_call_offset(c, i), true);
    lmi_normal_end(&n, lmi_call_offset(c, text.size), c->offsets);
    c->map = n.map;
    int rc = n.failed ? lmi_call_nomem(c) : run_words(c, lm_span_of(n.text, n.n));
    lmi_normal_free(&n);
    c->map = map;
    return rc;
}

/* text is a slice of the normalized part, starting at its byte `at`. */
static int slice(struct lmi_call *c, struct lm_span text, size_t at)
{
    const size_t *map = c->map;
    size_t base = c->base;

    c->map = map ? map + at : NULL;
    c->base = base + at;
    bool prefix = c->t->v->add_prefix_space && text.size > 0 && text.data[0] != ' ';
    int rc = prefix ? with_prefix(c, text) : run_words(c, text);
    c->map = map;
    c->base = base;
    return rc;
}

static int normalized(struct lmi_call *c, struct lm_span text)
{
    const struct lmi_added_item *item;
    struct lmi_match m = {0};
    size_t pos = 0;

    while ((item = lmi_added_find(&c->t->norm, text, c->special, &m)) != NULL) {
        if (pos < m.begin && slice(c, lm_span_of(text.data + pos, m.begin - pos), pos) < 0)
            return -1;
        if (lmi_call_reserve(c, 1) < 0)
            return -1;
        lmi_call_emit(c, item->id, m.begin, m.end);
        pos = m.end;
    }
    return slice(c, lm_span_of(text.data + pos, text.size - pos), pos);
}

int lmi_byte_encode(struct lmi_call *c, struct lm_span text, size_t base)
{
    struct lmi_normal n = {0};

    c->base = base;
    c->map = NULL;
    int rc = c->t->v->nfc ? lmi_nfc(text, base, c->offsets, &n, c->e) : 0;
    if (rc > 0)
        c->map = n.map;
    if (rc >= 0)
        rc = normalized(c, rc > 0 ? lm_span_of(n.text, n.n) : text);
    lmi_normal_free(&n);
    return rc;
}
