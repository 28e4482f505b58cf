/* What both algorithms share while they encode. */
#include <stdlib.h>

#include "libmodel/tok/build.h"
#include "libmodel/tok/engine.h"
#include "libmodel/tok/unicode.h"

int lmi_call_nomem(struct lmi_call *c)
{
    return lm_err_set(c->e, LM_NOMEM, "out of memory after %zu tokens", c->out->n);
}

static bool grow(struct lm_ids *o, size_t capacity, bool offsets)
{
    int32_t *ids = capacity > SIZE_MAX / 16 ? NULL : realloc(o->ids, capacity * sizeof *ids);

    if (!ids)
        return false;
    o->ids = ids;
    if (offsets) {
        struct lm_offsets *p = realloc(o->offsets, capacity * sizeof *p);
        if (!p)
            return false;
        o->offsets = p;
    }
    o->capacity = capacity;
    return true;
}

int lmi_call_reserve(struct lmi_call *c, size_t n)
{
    struct lm_ids *o = c->out;

    if (n <= o->capacity - o->n)
        return 0;
    size_t capacity = o->capacity + o->capacity / 2 + n + 64;
    return capacity < n || !grow(o, capacity, c->offsets) ? lmi_call_nomem(c) : 0;
}

uint32_t *lmi_call_symbols(struct lmi_call *c, size_t n)
{
    if (n <= c->ids_capacity)
        return c->ids;
    if (n >= INT32_MAX) {
        lm_err_set(c->e, LM_LIMIT, "a word of %zu bytes, at most 2 GB are handled", n);
        return NULL;
    }
    uint32_t *p = realloc(c->ids, (n + 64) * sizeof *p);
    if (!p) {
        lmi_call_nomem(c);
        return NULL;
    }
    c->ids = p;
    c->ids_capacity = n + 64;
    return p;
}

/* ---- words */

static inline void make_key(const struct lmi_call *c, size_t begin, size_t n, uint64_t key[2])
{
    key[0] = key[1] = 0;
    memcpy(key, c->bytes + begin, c->part.size - begin < LMI_CACHED_BYTES ? n : LMI_CACHED_BYTES);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    key[1] = n > 8 ? key[1] << (8 * (16 - n)) : 0; /* what lies behind the word is shifted out */
    key[0] = n < 8 ? key[0] << (8 * (8 - n)) : key[0];
#else
    key[1] = n > 8 ? key[1] >> (8 * (16 - n)) : 0;
    key[0] = n < 8 ? key[0] >> (8 * (8 - n)) : key[0];
#endif
}

static inline size_t room(const struct lmi_call *c)
{
    return c->narrow ? LMI_NARROW_IDS : LMI_WIDE_IDS;
}

static inline uint8_t tag(const struct lmi_word *w)
{
    return (uint8_t)(w->n | (w->fragment ? 0x80u : 0));
}

static inline bool is_of(const struct lmi_slot *s, const struct lmi_word *w)
{
    return s->n_bytes == tag(w) && s->key[0] == w->key[0] && s->key[1] == w->key[1];
}

/* The slot of a word that was seen, if what it holds counts here; else NULL. */
static inline const struct lmi_slot *seen(const struct lmi_call *c, const struct lmi_word *w)
{
    const struct lmi_slot *s = w->slot;

    if (!s || (!is_of(s, w) && !is_of(++s, w)))
        return NULL;
    return c->t->sums && !lmi_unigram_holds(c, s->margin, w->n) ? NULL : s;
}

static void emit_with_offsets(struct lmi_call *c, size_t begin, size_t n_ids)
{
    for (size_t i = 0; i < n_ids; i++) {
        uint32_t id = (uint32_t)c->out->ids[c->out->n];
        lmi_call_emit(c, id, begin, begin + c->t->length[id]);
        begin += c->t->length[id];
    }
}

/* Copies as many ids as a slot has room for, however many it holds: room was
 * reserved. false: they were forgotten. */
static inline bool recall(struct lmi_call *c, const struct lmi_word *w, const struct lmi_slot *s)
{
    int32_t *to = c->out->ids + c->out->n;

    if (s->n_ids > room(c)) {
        const uint32_t *ids = lmi_cache_ids(c->cache, s->place);
        if (!ids)
            return false;
        memcpy(to, ids, s->n_ids * sizeof *to);
    } else if (c->narrow) {
        for (size_t i = 0; i < LMI_NARROW_IDS; i++)
            to[i] = s->narrow[i];
    } else {
        memcpy(to, s->wide, sizeof s->wide);
    }
    if (c->offsets)
        emit_with_offsets(c, w->begin, s->n_ids);
    else
        c->out->n += s->n_ids;
    return true;
}

/* The word gave out->ids[from, out->n). The older of the two that share its slots
 * makes room. */
static void remember(struct lmi_call *c, const struct lmi_word *w, size_t from)
{
    size_t n_ids = c->out->n - from;
    struct lmi_slot *s = w->slot;

    if (n_ids > UINT8_MAX)
        return;
    if (s->n_bytes > 0 && !is_of(s, w))
        s[1] = s[0];
    uint32_t place = n_ids > room(c) ? lmi_cache_place(c->cache, n_ids) : 0;
    s->key[0] = w->key[0];
    s->key[1] = w->key[1];
    s->n_bytes = tag(w);
    s->margin = c->margin;
    s->n_ids = (uint8_t)n_ids;
    if (n_ids > room(c)) {
        s->place = place;
        memcpy(c->cache->ids + place % LMI_RING, c->out->ids + from, n_ids * sizeof *c->out->ids);
        return;
    }
    for (size_t i = 0; i < n_ids; i++) {
        uint32_t id = (uint32_t)c->out->ids[from + i];
        if (c->narrow)
            s->narrow[i] = (uint16_t)id;
        else
            s->wide[i] = id;
    }
}

static int encode_new(struct lmi_call *c, const struct lmi_word *w)
{
    size_t from = c->out->n;

    if (c->t->sums)
        lmi_unigram_follow(c);
    c->no_cache = false;
    c->fragment = w->fragment;
    if (c->encode_word(c, w->begin, w->begin + w->n) < 0)
        return -1;
    if (w->slot && !c->no_cache)
        remember(c, w, from);
    c->summed = c->out->n;
    return 0;
}

int lmi_call_flush(struct lmi_call *c)
{
    size_t n = c->n_waiting, n_bytes = 0;

    c->n_waiting = 0;
    for (size_t i = 0; i < n; i++)
        n_bytes += c->waiting[i].n;
    if (c->t->sums)
        c->blur = lmi_unigram_blur(c, 1, n_bytes);
    for (size_t i = 0; i < n; i++) {
        const struct lmi_word *w = &c->waiting[i];
        if (lmi_call_reserve(c, w->n * c->ids_per_byte + LMI_NARROW_IDS) < 0)
            return -1;
        const struct lmi_slot *s = seen(c, w);
        if (!(s && recall(c, w, s)) && encode_new(c, w) < 0)
            return -1;
    }
    if (c->t->sums)
        lmi_unigram_follow(c);
    return 0;
}

static inline int next_word(struct lmi_call *c, size_t begin, size_t end, bool fragment)
{
    struct lmi_word *w = &c->waiting[c->n_waiting++];

    w->fragment = fragment;
    w->begin = begin;
    w->n = end - begin;
    w->slot = NULL;
    if (w->n <= LMI_CACHED_BYTES) {
        make_key(c, begin, w->n, w->key);
        w->slot = lmi_cache_slot(c->cache, w->key);
        __builtin_prefetch(w->slot);
    }
    return c->n_waiting == LMI_AHEAD ? lmi_call_flush(c) : 0;
}

int lmi_call_word(struct lmi_call *c, size_t begin, size_t end)
{
    return next_word(c, begin, end, false);
}

int lmi_call_fragment(struct lmi_call *c, size_t begin, size_t end)
{
    return next_word(c, begin, end, true);
}

/* ---- trimmed offsets */

static bool is_space(uint32_t cp)
{
    return cp == lmi_byte_letter(' ') || lmi_class_of(cp) & LMI_SPACE;
}

/* Spaces at one end of a piece, as letters of bytes or as text. */
static size_t n_spaces(struct lm_span s, bool at_end)
{
    size_t run = 0;

    for (size_t i = 0; i < s.size;) {
        struct lmi_char c = lmi_char_at(s.data + i, s.size - i);
        if (!at_end && !is_space(c.cp))
            break;
        run = is_space(c.cp) ? run + 1 : 0;
        i += c.width;
    }
    return run;
}

static size_t forward(struct lm_span text, size_t pos, size_t end, size_t n)
{
    for (; n > 0 && pos < end; n--)
        pos += lmi_char_at(text.data + pos, text.size - pos).width;
    return pos < end ? pos : end;
}

static size_t back(struct lm_span text, size_t pos, size_t begin, size_t n)
{
    for (; n > 0 && pos > begin; n--)
        do
            pos--;
        while (pos > begin && (text.data[pos] & 0xc0) == 0x80);
    return pos;
}

/* As many characters as the piece has spaces, in HF even where those stand for
 * others. The space that a ByteLevel pre-tokenizer put in front is none of the
 * text's. */
void lmi_trim_offsets(struct lmi_call *c, struct lm_span text, size_t from)
{
    for (size_t i = from; i < c->out->n; i++) {
        struct lm_offsets *o = &c->out->offsets[i];
        const struct lm_piece *p = &c->t->v->pieces[c->out->ids[i]];
        /* Of an added token it is the text that was matched, with the spaces it took in. */
        struct lm_span piece = p->added ? lm_span_of(text.data + o->begin, o->end - o->begin) : p->text;
        size_t lead = n_spaces(piece, false);
        bool first = i == from || o->begin == 0;
        if (lead > 0 && first && lmi_vocab_of(c->t->v)->trim_keeps_prefix)
            lead--;
        o->begin = forward(text, o->begin, o->end, lead);
        o->end = back(text, o->end, o->begin, n_spaces(piece, true));
    }
}

/* ---- normalized text */

static bool more(struct lmi_normal *o, size_t n, bool with_map)
{
    size_t capacity = o->capacity + o->capacity / 2 + n + 256;

    if (n > SIZE_MAX / 64 || capacity > SIZE_MAX / sizeof *o->map)
        return false;
    uint8_t *text = realloc(o->text, capacity);
    if (!text)
        return false;
    o->text = text;
    if (with_map) {
        size_t *map = realloc(o->map, capacity * sizeof *map);
        if (!map)
            return false;
        o->map = map;
    }
    o->capacity = capacity;
    return true;
}

void lmi_normal_add(struct lmi_normal *o, const uint8_t *s, size_t n, size_t from, bool with_map)
{
    if (o->failed || (n >= o->capacity - o->n && !more(o, n, with_map))) { /* >=: the map has one place more */
        o->failed = true;
        return;
    }
    memcpy(o->text + o->n, s, n);
    for (size_t i = 0; with_map && i < n; i++)
        o->map[o->n + i] = from;
    o->n += n;
}

void lmi_normal_end(struct lmi_normal *o, size_t from, bool with_map)
{
    lmi_normal_add(o, (const uint8_t *)"", 0, from, with_map);
    if (!o->failed && with_map)
        o->map[o->n] = from;
}

void lmi_normal_free(struct lmi_normal *o)
{
    free(o->text);
    free(o->map);
}
