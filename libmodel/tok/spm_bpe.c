/* SentencePiece's BPE (bpe_model.cc), and what HF's conversions of such models
 * do. The text is normalized, user-defined symbols are taken out whole, and
 * between them symbols (at first: characters) are merged. Its other models share
 * what stands around the merging; to them such symbols are pieces like others.
 *
 * The library merges a whole text at once. We cut it where no merge can cross,
 * which gives the same ids: between characters that stand side by side in no
 * piece (most often: a letter and the space behind it). */
#include <stdlib.h>

#include "libmodel/tok/build.h"
#include "libmodel/tok/engine.h"
#include "libmodel/tok/unicode.h"

/* ---- symbols to ids */

static void emit_unk(struct lmi_call *c, size_t begin, size_t end)
{
    const struct lm_vocab *v = c->t->v;
    struct lm_ids *o = c->out;

    c->no_cache = true; /* it may join what stood before */
    if (v->fuse_unk && c->unk_end == o->n && o->n > 0) {
        if (c->offsets)
            o->offsets[o->n - 1].end = lmi_call_offset(c, end);
        return;
    }
    if (v->unk_id >= 0)
        lmi_call_emit(c, (uint32_t)v->unk_id, begin, end);
    c->unk_end = o->n;
}

/* One byte of the merged text; its ' ' is U+2581 outside, three ids for one byte. */
static void emit_byte(struct lmi_call *c, size_t at)
{
    const uint32_t *byte_id = c->t->byte_id;

    if (c->part.data[at] != ' ' || !c->t->v->escape_whitespaces) {
        lmi_call_emit(c, byte_id[c->part.data[at]], at, at + 1);
        return;
    }
    c->no_cache = true;
    for (size_t i = 0; i < 3; i++)
        lmi_call_emit(c, byte_id[(uint8_t)LMI_SPACE_MARK[i]], i ? at + 1 : at, at + 1);
}

static bool has_byte_id(const struct lm_tokenizer *t, uint8_t byte)
{
    if (byte != ' ' || !t->v->escape_whitespaces)
        return t->byte_id[byte] != LMI_NONE;
    return t->byte_id[0xe2] != LMI_NONE && t->byte_id[0x96] != LMI_NONE && t->byte_id[0x81] != LMI_NONE;
}

void lmi_spm_emit_unknown(struct lmi_call *c, size_t begin, size_t end)
{
    for (size_t i = begin; i < end; i++)
        if (!c->t->v->byte_fallback || !has_byte_id(c->t, c->part.data[i])) {
            emit_unk(c, begin, end);
            return;
        }
    for (size_t i = begin; i < end; i++)
        emit_byte(c, i);
}

static void emit_symbol(struct lmi_call *c, uint32_t id, size_t *pos)
{
    size_t n = id == LMI_NONE ? lmi_utf8_width(c->part.data[*pos]) : c->t->length[id];

    if (id < c->t->v->n_pieces)
        lmi_call_emit(c, id, *pos, *pos + n);
    else
        lmi_spm_emit_unknown(c, *pos, *pos + n);
    *pos += n;
}

/* Merges ids[0..n), the symbols of part from begin on, and emits them. */
static int merge_and_emit(struct lmi_call *c, size_t begin, uint32_t *ids, size_t n)
{
    n = lmi_merge(&c->merge, &c->t->pairs, ids, n);
    if (n == SIZE_MAX)
        return lmi_call_nomem(c);
    for (size_t i = 0; i < n; i++)
        emit_symbol(c, ids[i], &begin);
    return 0;
}

static inline uint32_t char_symbol(const struct lm_tokenizer *t, const uint8_t *p)
{
    uint32_t cp = lmi_utf8_get(p);
    const uint32_t *page = t->chars.pages[cp >> 8];

    return page ? page[cp & 0xff] : LMI_NONE;
}

/* Between these two no merge can happen. */
static bool apart(const struct lm_tokenizer *t, uint32_t a, uint32_t b)
{
    return a == LMI_NONE || b == LMI_NONE || !lmi_pairs_get(&t->adjacent, a, b);
}

/* WORD and CHAR models: a word is a piece or unknown. */
int lmi_spm_whole_word(struct lmi_call *c, size_t begin, size_t end)
{
    size_t n = 0;
    uint32_t id = lmi_trie_longest(&c->t->trie, lmi_trie_root(&c->t->trie), lm_span_of(c->part.data + begin, end - begin), &n);

    if (id != LMI_NONE && n == end - begin)
        lmi_call_emit(c, id, begin, end);
    else
        lmi_spm_emit_unknown(c, begin, end);
    return 0;
}

enum { LONG_WORD = 64 };

int lmi_spm_word(struct lmi_call *c, size_t begin, size_t end)
{
    uint32_t *ids = lmi_call_symbols(c, end - begin);
    bool cut = end - begin > LONG_WORD;
    size_t n = 0;

    if (!ids)
        return -1;
    for (size_t pos = begin; pos < end; pos += lmi_utf8_width(c->part.data[pos])) {
        uint32_t id = char_symbol(c->t, c->part.data + pos);
        if (cut && n > 0 && apart(c->t, ids[n - 1], id)) {
            if (merge_and_emit(c, begin, ids, n) < 0)
                return -1;
            begin = pos;
            n = 0;
        }
        ids[n++] = id;
    }
    return merge_and_emit(c, begin, ids, n);
}

/* ---- words of a text */

/* Where the word at pos < s.size ends: at the next place that no merge can cross. */
static inline size_t word_end(const struct lm_tokenizer *t, struct lm_span s, size_t pos)
{
    unsigned last = s.data[pos++];

    while (pos < s.size) {
        unsigned b = s.data[pos];
        if (!(t->joined[last][b / 64] >> b % 64 & 1))
            break;
        last = b;
        pos++;
    }
    return pos;
}

/* part[begin, end) holds no user-defined symbol. */
static int run(struct lmi_call *c, size_t begin, size_t end)
{
    struct lm_span s = lm_span_of(c->part.data, end);

    while (begin < end) {
        size_t next = word_end(c->t, s, begin);
        if (lmi_call_word(c, begin, next) < 0)
            return -1;
        begin = next;
    }
    return lmi_call_flush(c);
}

/* The same with a space in front that the text does not have. Only the first
 * word has to be copied for it. */
static int run_prefixed(struct lmi_call *c, size_t begin, size_t end)
{
    struct lmi_normal n = {0};
    struct lm_span part = c->part;
    const size_t *map = c->map;
    size_t head = word_end(c->t, lm_span_of(part.data, end), begin);

    lmi_normal_add(&n, (const uint8_t *)" ", 1, lmi_call_offset(c, begin), c->offsets);
    for (size_t i = begin; i < head; i++)
        lmi_normal_add(&n, part.data + i, 1, lmi_call_offset(c, i), c->offsets);
    lmi_normal_end(&n, lmi_call_offset(c, head), c->offsets);
    c->part = lm_span_of(n.text, n.n);
    c->bytes = n.text;
    c->map = n.map;
    int rc = n.failed ? lmi_call_nomem(c) : run(c, 0, n.n);
    lmi_normal_free(&n);
    c->part = part;
    c->bytes = part.data;
    c->map = map;
    return rc < 0 ? -1 : run(c, head, end);
}

/* ---- vocabularies with UNUSED pieces
 *
 * Such a piece takes part in merges and is taken apart again at the end, by the
 * pair that was queued last to give it, anywhere in the text. So the text is
 * merged as a whole, with the user-defined symbols in it as symbols that are in
 * no pair. */

#define FROZEN 0x80000000u

/* Halves are shorter than their piece, so the stack never grows past the
 * characters of the longest. */
static int emit_taken_apart(struct lmi_call *c, uint32_t id, size_t *pos)
{
    enum { DEEPEST = 1100 };
    uint32_t stack[DEEPEST];
    size_t n = 0;

    stack[n++] = id;
    while (n > 0) {
        id = stack[--n];
        bool unused = id < c->t->v->n_pieces && c->t->unused[id];
        const uint32_t *half = unused ? c->merge.halves[id] : NULL;
        if (!unused) {
            emit_symbol(c, id, pos);
        } else if (half[0] == LMI_NONE) { /* a character: as if it were no piece */
            lmi_spm_emit_unknown(c, *pos, *pos + c->t->length[id]);
            *pos += c->t->length[id];
        } else if (n + 2 <= DEEPEST) {
            stack[n++] = half[1];
            stack[n++] = half[0];
        } else {
            return lm_err_set(c->e, LM_LIMIT, "an unused piece of more than %d parts", DEEPEST);
        }
    }
    return 0;
}

static size_t symbols_of_part(const struct lmi_call *c, uint32_t *ids)
{
    size_t n = 0;

    for (size_t pos = 0; pos < c->part.size;) {
        struct lm_span rest = lm_span_of(c->part.data + pos, c->part.size - pos);
        const struct lmi_added_item *symbol = lmi_added_at(&c->t->norm, rest);
        ids[n++] = symbol ? symbol->id | FROZEN : char_symbol(c->t, rest.data);
        pos += symbol ? symbol->text.size : lmi_utf8_width(rest.data[0]);
    }
    return n;
}

static int encode_whole(struct lmi_call *c)
{
    uint32_t *ids = lmi_call_symbols(c, c->part.size + 1);

    if (!ids || lmi_call_reserve(c, c->part.size * c->ids_per_byte) < 0)
        return -1;
    size_t pos = 0, n = lmi_merge(&c->merge, &c->t->pairs, ids, symbols_of_part(c, ids));
    if (n == SIZE_MAX)
        return lmi_call_nomem(c);
    for (size_t i = 0; i < n; i++) {
        bool frozen = ids[i] != LMI_NONE && ids[i] & FROZEN;
        if (frozen)
            emit_symbol(c, ids[i] & ~FROZEN, &pos);
        else if (emit_taken_apart(c, ids[i], &pos) < 0)
            return -1;
    }
    return 0;
}

/* ---- the parts of a text */

/* A normalized text. */
static int encode_part(struct lmi_call *c, struct lm_span part)
{
    const struct lmi_added_item *item;
    struct lmi_match m = {0};
    size_t pos = 0;

    c->part = part;
    c->bytes = part.data;
    if (c->t->unused)
        return encode_whole(c);
    while ((item = lmi_added_find(&c->t->norm, part, c->special, &m)) != NULL) {
        if (run(c, pos, m.begin) < 0 || lmi_call_reserve(c, 1) < 0)
            return -1;
        lmi_call_emit(c, item->id, m.begin, m.end);
        pos = m.end;
    }
    return run(c, pos, part.size);
}

/* Well-formed, and without U+2581 where that means a space? */
static bool no_marks(struct lm_span s, bool escape)
{
    for (size_t i = 0, w; i < s.size; i += w) {
        if (s.size - i >= 8 && (lm_load_u64le(s.data + i) & 0x8080808080808080u) == 0) {
            w = 8;
            continue;
        }
        w = lmi_utf8_step(s.data + i, s.size - i);
        if (w == 0 || (w == 3 && escape && memcmp(s.data + i, LMI_SPACE_MARK, 3) == 0))
            return false;
    }
    return true;
}

/* Is the text its own merged form, but for a space in front? */
static bool is_plain(const struct lm_tokenizer *t, struct lm_span text)
{
    return t->charsmap.n_units == 0 && !t->v->remove_extra_whitespaces && !t->v->whitespace_as_suffix &&
           t->norm.n == 0 && !t->unused && no_marks(text, t->v->escape_whitespaces);
}

static int encode_normalized(struct lmi_call *c, struct lm_span text, size_t base, bool prefix)
{
    struct lmi_normal n = {0};
    int rc = lmi_spm_normalize(c->t, text, base, prefix, c->offsets, &n, c->e);

    c->map = n.map;
    if (rc == 0)
        rc = encode_part(c, lm_span_of(n.text, n.n));
    lmi_normal_free(&n);
    c->map = NULL;
    return rc;
}

/* The model's own prefix comes always, that of add_prefix_space not in front of
 * a space. */
static bool wants_prefix(const struct lm_vocab *v, struct lm_span text, bool first)
{
    bool space = text.data[0] == ' ' || (text.size >= 3 && memcmp(text.data, LMI_SPACE_MARK, 3) == 0);

    return (first || v->prefix_every_part) && (v->add_dummy_prefix || (v->add_prefix_space && !space));
}

int lmi_spm_encode(struct lmi_call *c, struct lm_span text, size_t base, bool first)
{
    bool prefix = text.size > 0 && !(c->continues && base == 0) && wants_prefix(c->t->v, text, first);

    if (text.size == 0)
        return 0;
    c->unk_end = 0;
    c->sum = 0;
    c->summed = c->out->n;
    if (!is_plain(c->t, text))
        return encode_normalized(c, text, base, prefix);
    c->map = NULL;
    c->base = base;
    c->part = text;
    c->bytes = text.data;
    return prefix ? run_prefixed(c, 0, text.size) : run(c, 0, text.size);
}
