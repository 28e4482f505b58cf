/* BPE over the characters of a word, with all of tokenizer.json's flags. (Byte
 * and SentencePiece vocabularies of the usual shapes have faster ways:
 * byte_bpe.c, spm_bpe.c.) */
#include <stdlib.h>

#include "libmodel/tok/build.h"
#include "libmodel/tok/engine.h"
#include "libmodel/tok/unicode.h"

static int nomem(struct lm_err *e)
{
    return lm_err_set(e, LM_NOMEM, "out of memory for a tokenizer");
}

static bool is_model_piece(const struct lm_tokenizer *t, int64_t id)
{
    return id >= 0 && t->v->pieces[id].in_model;
}

static uint32_t model_piece(const struct lm_tokenizer *t, struct lm_span text)
{
    int64_t id = lm_vocab_find(t->v, text);

    return is_model_piece(t, id) ? (uint32_t)id : LMI_NONE;
}

static void find_bytes(struct lm_tokenizer *t)
{
    static const char digits[] = "0123456789ABCDEF";

    for (unsigned b = 0; b < 256; b++) {
        char text[] = {'<', '0', 'x', digits[b >> 4], digits[b & 15], '>', 0};
        t->byte_id[b] = model_piece(t, lm_span_str(text));
    }
}

/* A page of the table of characters for every piece of one. */
static int note_character(struct lm_tokenizer *t, uint32_t id)
{
    struct lm_span s = t->v->pieces[id].text;
    size_t w = s.size ? lmi_utf8_step(s.data, s.size) : 0;

    if (w == 0 || w != s.size || !t->v->pieces[id].in_model)
        return 0;
    uint32_t cp = lmi_utf8_get(s.data), **page = &t->chars.pages[cp >> 8];
    if (!*page) {
        *page = lm_arena_array(&t->arena, 256, sizeof **page);
        if (!*page)
            return -1;
        memset(*page, 0xff, 256 * sizeof **page);
    }
    (*page)[cp & 0xff] = id;
    return 0;
}

int lmi_bpe_init(struct lm_tokenizer *t, struct lm_err *e)
{
    const struct lm_vocab *v = t->v;

    t->n_symbols = v->n_pieces;
    t->length = lm_arena_array(&t->arena, v->n_pieces, sizeof *t->length);
    if (!t->length || !lmi_pairs_init(&t->pairs, v->n_merges))
        return nomem(e);
    for (size_t i = 0; i < v->n_pieces; i++)
        if (note_character(t, (uint32_t)i) < 0)
            return nomem(e);
    find_bytes(t);
    for (size_t i = v->n_merges; i-- > 0;) { /* of a pair listed twice the last rank counts */
        const struct lm_merge *m = &v->merges[i];
        if (!lmi_pairs_get(&t->pairs, m->left, m->right) &&
            !lmi_pairs_put(&t->pairs, m->left, m->right, (uint32_t)i, m->result))
            return nomem(e);
    }
    return 0;
}

/* ---- words */

/* The symbols of a word and the bytes that each stands for. */
struct symbols {
    uint32_t *ids, *sizes;
    size_t n;
};

static void put(struct symbols *s, uint32_t id, size_t n_bytes)
{
    s->ids[s->n] = id;
    s->sizes[s->n++] = (uint32_t)n_bytes;
}

/* The piece of a character with what the place in the word puts around it. */
static uint32_t piece_of(const struct lm_tokenizer *t, struct lm_span c, bool first, bool last)
{
    struct lm_span prefix = first ? lm_span_of(NULL, 0) : t->v->continuing_subword_prefix;
    struct lm_span suffix = last ? t->v->end_of_word_suffix : lm_span_of(NULL, 0);
    uint8_t buf[256];

    if (prefix.size + suffix.size == 0) {
        if (lmi_utf8_step(c.data, c.size) == 0)
            return LMI_NONE;
        uint32_t cp = lmi_utf8_get(c.data);
        return t->chars.pages[cp >> 8] ? t->chars.pages[cp >> 8][cp & 0xff] : LMI_NONE;
    }
    if (prefix.size + c.size + suffix.size > sizeof buf)
        return LMI_NONE;
    memcpy(buf, prefix.data ? (const char *)prefix.data : "", prefix.size);
    memcpy(buf + prefix.size, c.data, c.size);
    memcpy(buf + prefix.size + c.size, suffix.data ? (const char *)suffix.data : "", suffix.size);
    return model_piece(t, lm_span_of(buf, prefix.size + c.size + suffix.size));
}

/* All bytes of a character as pieces, those of a prefix or suffix too: the
 * library takes them along. */
static bool put_bytes(const struct lm_tokenizer *t, struct symbols *s, struct lm_span c, bool first, bool last)
{
    struct lm_span parts[3] = {t->v->continuing_subword_prefix, c, t->v->end_of_word_suffix};

    parts[0].size = first ? 0 : parts[0].size;
    parts[2].size = last ? parts[2].size : 0;
    for (size_t k = 0; k < 3; k++)
        for (size_t i = 0; i < parts[k].size; i++)
            if (t->byte_id[parts[k].data[i]] == LMI_NONE)
                return false;
    for (size_t k = 0; k < 3; k++)
        for (size_t i = 0; i < parts[k].size; i++)
            put(s, t->byte_id[parts[k].data[i]], 1);
    return true;
}

/* An unknown character waits for the next one: it may be fused with it, and
 * comes out behind bytes that were put meanwhile. */
static void symbols_of(const struct lm_tokenizer *t, struct lm_span w, struct symbols *s)
{
    const struct lm_vocab *v = t->v;
    size_t unknown = 0;

    for (size_t i = 0, n; i < w.size; i += n) {
        n = lmi_char_at(w.data + i, w.size - i).width;
        struct lm_span c = lm_span_of(w.data + i, n);
        uint32_t id = piece_of(t, c, i == 0, i + n == w.size);
        if (id != LMI_NONE) {
            if (unknown)
                put(s, (uint32_t)v->unk_id, unknown);
            unknown = 0;
            put(s, id, n);
        } else if (!(v->byte_fallback && put_bytes(t, s, c, i == 0, i + n == w.size)) && v->unk_id >= 0) {
            if (unknown && !v->fuse_unk)
                put(s, (uint32_t)v->unk_id, unknown);
            unknown = v->fuse_unk ? unknown + n : n;
        }
    }
    if (unknown)
        put(s, (uint32_t)v->unk_id, unknown);
}

/* A symbol of the prefix's bytes can reach past the word. */
static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

int lmi_bpe_word(struct lmi_call *c, size_t begin, size_t end)
{
    const struct lm_vocab *v = c->t->v;
    struct lm_span w = lm_span_of(c->bytes + begin, end - begin);
    uint32_t whole = v->ignore_merges ? model_piece(c->t, w) : LMI_NONE;
    size_t around = v->byte_fallback ? v->continuing_subword_prefix.size + v->end_of_word_suffix.size : 0;
    size_t room = w.size * (1 + around) + 1;

    c->no_cache = c->offsets; /* an id alone does not say how much text it stands for */
    if (whole != LMI_NONE) {
        lmi_call_emit(c, whole, begin, end);
        return 0;
    }
    struct symbols s = {lmi_call_symbols(c, 2 * room), NULL, 0};
    if (!s.ids || lmi_call_reserve(c, room) < 0)
        return -1;
    s.sizes = s.ids + room;
    symbols_of(c->t, w, &s);
    c->merge.sizes = s.sizes;
    size_t n = lmi_merge(&c->merge, &c->t->pairs, s.ids, s.n);
    c->merge.sizes = NULL;
    if (n == SIZE_MAX)
        return lmi_call_nomem(c);
    for (size_t i = 0, pos = begin; i < n; i++) {
        lmi_call_emit(c, s.ids[i], least(pos, end), least(pos + s.sizes[i], end));
        pos += s.sizes[i];
    }
    return 0;
}
