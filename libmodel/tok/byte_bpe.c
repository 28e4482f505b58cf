/* Byte-level BPE (GPT-2 and its family): split by regex, then merge the bytes
 * of each word by rank. Pieces are written in GPT-2's letters for bytes; we map
 * the vocabulary once and work on the bytes themselves. */
#include <stdlib.h>

#include "libmodel/tok/build.h"
#include "libmodel/tok/engine.h"
#include "libmodel/tok/pipeline.h"
#include "libmodel/tok/unicode.h"

/* Bytes of a piece: one a letter; of one that is only an added token, its text. */
static size_t n_bytes(const struct lm_piece *p)
{
    size_t n = 0;

    for (size_t i = 0; i < p->text.size && p->in_model; n++) {
        size_t w = lmi_utf8_step(p->text.data + i, p->text.size - i);
        i += w ? w : 1;
    }
    return p->in_model ? n : p->text.size;
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

static bool all_bytes(const struct lm_tokenizer *t)
{
    for (unsigned b = 0; b < 256; b++)
        if (t->byte_id[b] == LMI_NONE)
            return false;
    return true;
}

int lmi_byte_init(struct lm_tokenizer *t, struct lm_err *e)
{
    const struct lm_vocab *v = t->v;
    bool by_result = lmi_vocab_of(v)->by_result;

    t->n_symbols = v->n_pieces;
    t->length = lm_arena_array(&t->arena, v->n_pieces, sizeof *t->length);
    if (!t->length || !lmi_pairs_init(&t->pairs, v->n_merges))
        return lm_err_set(e, LM_NOMEM, "out of memory for a tokenizer");
    for (size_t i = 0; i < v->n_pieces; i++)
        t->length[i] = (uint32_t)n_bytes(&v->pieces[i]);
    find_bytes(t);
    /* Of a pair that is listed twice the last rank counts, as in HF. */
    for (size_t i = v->n_merges; i-- > 0;) {
        const struct lm_merge *m = &v->merges[i], *ahead = i >= LMI_PAIRS_AHEAD ? m - LMI_PAIRS_AHEAD : m;
        lmi_pairs_fetch(&t->pairs, ahead->left, ahead->right);
        if (!lmi_pairs_get(&t->pairs, m->left, m->right) &&
            !lmi_pairs_put(&t->pairs, m->left, m->right, by_result ? m->result : (uint32_t)i, m->result))
            return lm_err_set(e, LM_NOMEM, "out of memory for a tokenizer");
    }
    if (all_bytes(t) && !(t->backtrack = lmi_backtrack_new(t)))
        return lm_err_set(e, LM_NOMEM, "out of memory for a tokenizer");
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

static bool searched(struct lmi_call *c, size_t begin, size_t n)
{
    uint32_t *ids = c->backtrack && n <= LMI_BACKTRACK_BYTES ? lmi_call_symbols(c, n) : NULL;
    bool whole = c->t->v->ignore_merges && !c->fragment;
    size_t n_ids = ids ? lmi_backtrack_word(c->backtrack, c->bytes + begin, n, c->part.size - begin, whole, ids) : 0;

    emit_symbols(c, begin, ids, n_ids);
    return n_ids > 0;
}

int lmi_byte_word(struct lmi_call *c, size_t begin, size_t end)
{
    size_t n = end - begin;

    if (searched(c, begin, n))
        return 0;
    uint32_t id = c->t->v->ignore_merges && !c->fragment ? whole_word(c, begin, n) : LMI_NONE;
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

/* The end of the part of a word that begins at begin: no merge leaves it. */
static size_t part_end(const struct lmi_call *c, size_t begin, size_t end)
{
    size_t before = begin, pos = begin + lmi_utf8_width(c->part.data[begin]);

    while (pos < end && lmi_crossed(c->t, c->part.data, before, pos)) {
        before = pos;
        pos += lmi_utf8_width(c->part.data[pos]);
    }
    return pos;
}

static bool only_ascii(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] >= 0x80)
            return false;
    return true;
}

/* Long words are rarely seen twice, their parts are: text without spaces is made
 * of them. A word that comes apart is no piece as a whole. */
static int parts_of_word(struct lmi_call *c, size_t begin, size_t end)
{
    if (!lmi_backtrack_cuts(c->backtrack))
        return lmi_call_nomem(c);
    for (size_t pos; c->t->cuts_words && begin < end; begin = pos) {
        pos = part_end(c, begin, end);
        if (pos == end && !c->fragments)
            break;
        c->fragments = pos < end;
        if (lmi_call_fragment(c, begin, pos) < 0)
            return -1;
    }
    return begin < end ? lmi_call_word(c, begin, end) : 0;
}

static int word(void *user, size_t begin, size_t end)
{
    struct lmi_call *c = user;
    bool whole = end - begin <= LMI_CACHED_BYTES || !c->backtrack || c->part.data != c->bytes ||
                 only_ascii(c->bytes + begin, end - begin);

    return whole ? lmi_call_word(c, begin, end) : parts_of_word(c, begin, end);
}

/* ---- parts */

static int run_words(struct lmi_call *c, struct lm_span text)
{
    bool failed;

    if (text.size == 0)
        return 0;
    /* The bytes that are merged stay what they were. */
    uint8_t *masked = lmi_mask_ill_formed(text, &failed);
    if (failed)
        return lmi_call_nomem(c);
    c->bytes = text.data;
    c->part = lm_span_of(masked ? masked : text.data, text.size);
    int rc = lmi_pretok_run(c->t->pretok, c->part, word, c, c->e);
    if (rc == 0)
        rc = lmi_call_flush(c);
    free(masked);
    return rc;
}

/* The space in front comes from the character that follows it. */
static int with_prefix(struct lmi_call *c, struct lm_span text)
{
    struct lmi_text t = {.mapped = c->offsets};
    const struct lm_offsets *from = c->from;
    size_t first = lmi_char_at(text.data, text.size).width;

    lmi_text_put(&t, (const uint8_t *)" ", 1, lmi_call_range(c, 0, first));
    if (!c->offsets)
        lmi_text_put(&t, text.data, text.size, (struct lm_offsets){0, 0});
    for (size_t i = 0; c->offsets && i < text.size; i++)
        lmi_text_put(&t, text.data + i, 1, lmi_call_range(c, i, i + 1));
    c->from = t.from;
    int rc = t.failed ? lmi_call_nomem(c) : run_words(c, lmi_text_span(&t));
    c->from = from;
    lmi_text_free(&t);
    return rc;
}

/* text is a slice of the normalized part, starting at its byte `at`. */
static int slice(struct lmi_call *c, struct lm_span text, size_t at)
{
    const struct lm_offsets *from = c->from;
    size_t base = c->base;

    c->from = from ? from + at : NULL;
    c->base = base + at;
    bool prefix = c->t->v->add_prefix_space && text.size > 0 && text.data[0] != ' ';
    int rc = prefix ? with_prefix(c, text) : run_words(c, text);
    c->from = from;
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

/* Bytes of characters that stayed as they were come from themselves, as in a text
 * that is not normalized. */
static void refine(struct lmi_text *t, struct lm_span text, size_t base)
{
    for (size_t i = 0, w; t->from && i < t->n; i += w) {
        struct lm_offsets f = t->from[i];
        w = lmi_char_at(t->bytes + i, t->n - i).width;
        bool same = f.end - f.begin == w && memcmp(t->bytes + i, text.data + f.begin - base, w) == 0;
        for (size_t k = 0; k < w && same; k++)
            t->from[i + k] = (struct lm_offsets){f.begin + k, f.begin + k + 1};
    }
}

static int encode_composed(struct lmi_call *c, struct lm_span text, size_t base)
{
    struct lmi_text in = {.mapped = c->offsets}, out = {.mapped = c->offsets};

    lmi_text_start(&in, text, base);
    lmi_normal_form(&in, false, true, &out);
    lmi_text_free(&in);
    refine(&out, text, base);
    c->from = out.from;
    int rc = in.failed || out.failed ? lmi_call_nomem(c) : normalized(c, lmi_text_span(&out));
    c->from = NULL;
    lmi_text_free(&out);
    return rc;
}

/* Below U+0300 every character is NFC, alone and beside any other. */
static bool is_composed(struct lm_span s)
{
    for (size_t i = 0; i < s.size; i++)
        if (s.data[i] >= 0xcc)
            return false;
    return true;
}

int lmi_byte_encode(struct lmi_call *c, struct lm_span text, size_t base)
{
    c->base = base;
    c->map = NULL;
    c->from = NULL;
    return c->t->v->nfc && !is_composed(text) ? encode_composed(c, text, base) : normalized(c, text);
}
