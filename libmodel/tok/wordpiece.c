/* BERT's WordPiece: of a word the longest piece that begins it, then the longest
 * that continues it, and so on; a word that cannot be finished so is unknown as
 * a whole. WordLevel: the whole word or nothing. RWKV: the longest piece, over
 * the bytes of the whole text. */
#include <stdlib.h>

#include "libmodel/tok/build.h"
#include "libmodel/tok/engine.h"
#include "libmodel/tok/unicode.h"

int lmi_word_lengths(struct lm_tokenizer *t, struct lm_err *e)
{
    lmi_unicode_init(); /* added tokens that must stand alone */
    t->n_symbols = t->v->n_pieces;
    t->length = lm_arena_array(&t->arena, t->n_symbols, sizeof *t->length);
    if (!t->length)
        return lm_err_set(e, LM_NOMEM, "out of memory for a tokenizer");
    for (size_t i = 0; i < t->n_symbols; i++)
        t->length[i] = (uint32_t)t->v->pieces[i].text.size;
    return 0;
}

static int make_trie(struct lm_tokenizer *t, struct lm_err *e)
{
    struct lmi_trie_key *keys = malloc((t->v->n_pieces + 1) * sizeof *keys);
    size_t n = 0;

    if (!keys)
        return lm_err_set(e, LM_NOMEM, "out of memory for a tokenizer");
    for (size_t i = 0; i < t->v->n_pieces; i++) {
        const struct lm_piece *p = &t->v->pieces[i];
        if (p->in_model && p->text.size > 0)
            keys[n++] = (struct lmi_trie_key){p->text, (uint32_t)i};
    }
    int rc = lmi_trie_build(&t->trie, keys, n, e);
    free(keys);
    return rc;
}

static bool continues(const struct lm_vocab *v, struct lm_span text)
{
    struct lm_span p = v->continuing_subword_prefix;

    return p.size > 0 && text.size >= p.size && memcmp(text.data, p.data, p.size) == 0;
}

int lmi_wordpiece_init(struct lm_tokenizer *t, struct lm_err *e)
{
    struct lm_span prefix = t->v->continuing_subword_prefix;

    if (lmi_word_lengths(t, e) < 0 || make_trie(t, e) < 0)
        return -1;
    for (size_t i = 0; i < t->v->n_pieces; i++)
        if (continues(t->v, t->v->pieces[i].text))
            t->length[i] -= (uint32_t)prefix.size;
    t->inside = lmi_trie_root(&t->trie);
    for (size_t i = 0; i < prefix.size; i++)
        if (!lmi_trie_step(&t->trie, &t->inside, prefix.data[i])) {
            t->inside = 0; /* no piece continues a word */
            break;
        }
    return 0;
}

static bool too_long(const struct lm_vocab *v, struct lm_span word)
{
    size_t n = 0;

    if (word.size <= v->max_input_chars_per_word)
        return false;
    for (size_t i = 0; i < word.size; i++)
        n += (word.data[i] & 0xc0) != 0x80;
    return n > v->max_input_chars_per_word;
}

static void emit_unknown_word(struct lmi_call *c, size_t begin, size_t end)
{
    c->no_cache = true; /* its length is not that of the piece */
    if (c->t->v->unk_id >= 0)
        lmi_call_emit(c, (uint32_t)c->t->v->unk_id, begin, end);
}

/* Special pieces are no words unless they are asked for. */
static bool allowed(const struct lmi_call *c, uint32_t id)
{
    return id != LMI_NONE && (c->special || !c->t->v->pieces[id].special);
}

int lmi_wordpiece_word(struct lmi_call *c, size_t begin, size_t end)
{
    const struct lm_tokenizer *t = c->t;
    size_t first = c->out->n, n = 0;
    uint64_t unit = lmi_trie_root(&t->trie);

    if (begin == end)
        return 0;
    if (too_long(t->v, lm_span_of(c->part.data + begin, end - begin))) {
        emit_unknown_word(c, begin, end);
        return 0;
    }
    for (size_t pos = begin; pos < end; pos += n) {
        uint32_t id = lmi_trie_longest(&t->trie, unit, lm_span_of(c->part.data + pos, end - pos), &n);
        if (!allowed(c, id)) {
            c->out->n = first;
            emit_unknown_word(c, begin, end);
            return 0;
        }
        if (pos == begin && continues(t->v, t->v->pieces[id].text))
            c->no_cache = true; /* "##" as text: its length is another one here */
        lmi_call_emit(c, id, pos, pos + n);
        unit = t->inside;
    }
    return 0;
}

int lmi_wordlevel_word(struct lmi_call *c, size_t begin, size_t end)
{
    int64_t id = lm_vocab_find(c->t->v, lm_span_of(c->part.data + begin, end - begin));

    if (id >= 0 && c->t->v->pieces[id].in_model && allowed(c, (uint32_t)id))
        lmi_call_emit(c, (uint32_t)id, begin, end);
    else
        emit_unknown_word(c, begin, end);
    return 0;
}

/* ---- RWKV */

int lmi_greedy_init(struct lm_tokenizer *t, struct lm_err *e)
{
    return lmi_word_lengths(t, e) < 0 || make_trie(t, e) < 0 ? -1 : 0;
}

/* Bytes that begin no piece are dropped where there is no unknown piece. */
int lmi_greedy_encode(struct lmi_call *c, struct lm_span text, size_t base)
{
    const struct lm_tokenizer *t = c->t;

    c->map = NULL;
    c->base = base;
    for (size_t pos = 0, n; pos < text.size; pos += n) {
        n = 1;
        uint32_t id = lmi_trie_longest(&t->trie, lmi_trie_root(&t->trie), lm_span_of(text.data + pos, text.size - pos), &n);
        if (id == LMI_NONE && t->v->unk_id >= 0)
            id = (uint32_t)t->v->unk_id;
        if (lmi_call_reserve(c, 1) < 0)
            return -1;
        if (id != LMI_NONE)
            lmi_call_emit(c, id, pos, pos + n);
    }
    return 0;
}
