/* Encoding and decoding: added tokens are found first, then the text between
 * them goes through the vocabulary's algorithm (tok/spm_bpe.c, tok/byte_bpe.c). */
#include "libmodel/tokenizer.h"

#include <stdlib.h>

#include "libmodel/tok/build.h"
#include "libmodel/tok/engine.h"
#include "libmodel/tok/pipeline.h"
#include "libmodel/tok/unicode.h"

/* ---- making */

/* HF puts the text of such tokens through the normalizer first. */
static int add_normalized(struct lm_tokenizer *t, struct lmi_added_item item, struct lm_err *e)
{
    struct lmi_normal n = {0};
    int rc = 0;

    if (!lmi_is_spm(t->v)) {
        rc = lmi_pipeline_normal_text(lmi_vocab_of(t->v)->pipeline, &t->arena, item.text, &item.text, e);
        return rc < 0 ? -1 : lmi_added_put(&t->norm, item, e);
    }
    rc = lmi_spm_normalize(t, item.text, 0, t->v->add_dummy_prefix, false, &n, e);
    if (rc >= 0 && n.n > 0)
        item.text = lm_span_of(lm_arena_str(&t->arena, lm_span_of(n.text, n.n)), n.n);
    lmi_normal_free(&n);
    if (rc >= 0 && !item.text.data)
        return lm_err_set(e, LM_NOMEM, "out of memory for a tokenizer");
    return rc < 0 ? -1 : lmi_added_put(&t->norm, item, e);
}

/* HF looks for most added tokens in the text as it is, and then for those
 * flagged `normalized` in what the normalizer made of the rest. */
static int add_item(struct lm_tokenizer *t, const struct lm_piece *p, struct lmi_added_item item, struct lm_err *e)
{
    bool spm = lmi_is_spm(t->v);
    if (lmi_vocab_of(t->v)->staged) {
        if (!p->normalized)
            return lmi_added_put(&t->raw, item, e);
        if (lmi_pipeline_normal_text(lmi_vocab_of(t->v)->pipeline, &t->arena, item.text, &item.text, e) < 0)
            return -1;
        if (!t->shown && !(t->shown = lm_arena_array(&t->arena, t->v->n_pieces, sizeof *t->shown)))
            return lm_err_set(e, LM_NOMEM, "out of memory for a tokenizer");
        t->shown[item.id] = item.text;
        return lmi_added_put(&t->norm, item, e);
    }
    bool from_json = !spm || lmi_vocab_of(t->v)->ranked, normalizer = spm ? !lmi_vocab_of(t->v)->metaspace
                                                                           : t->v->nfc && lmi_vocab_of(t->v)->pipeline;

    if (!p->added || !p->normalized || !from_json)
        return lmi_added_put(&t->raw, item, e);
    return normalizer ? add_normalized(t, item, e) : lmi_added_put(&t->second, item, e);
}

static int find_added(struct lm_tokenizer *t, struct lm_err *e)
{
    for (size_t i = 0; i < t->v->n_pieces; i++) {
        const struct lm_piece *p = &t->v->pieces[i];
        bool control = !lmi_vocab_of(t->v)->staged && (p->kind == LM_PIECE_CONTROL || p->kind == LM_PIECE_UNKNOWN);
        struct lmi_added_item item = {p->text, (uint32_t)i, p->special || control, p->lstrip, p->rstrip, p->single_word};
        if ((p->added || control) && add_item(t, p, item, e) < 0)
            return -1;
    }
    t->norm.marked = lmi_is_spm(t->v) && t->v->escape_whitespaces;
    lmi_added_finish(&t->raw);
    lmi_added_finish(&t->second);
    lmi_added_finish(&t->norm);
    lmi_added_finish(&t->symbols);
    return 0;
}

static void measure(struct lm_tokenizer *t)
{
    t->max_bytes = 8;
    for (size_t i = 0; i < t->v->n_pieces; i++)
        if (t->v->pieces[i].text.size > t->max_bytes)
            t->max_bytes = t->v->pieces[i].text.size;
}

static int init_algorithm(struct lm_tokenizer *t, struct lm_err *e)
{
    if (lmi_is_spm(t->v))
        return lmi_spm_init(t, e);
    switch (t->v->algo) {
    case LM_VOCAB_UNIGRAM:
        return lmi_unigram_init(t, e);
    case LM_VOCAB_WORDPIECE:
        return lmi_wordpiece_init(t, e);
    case LM_VOCAB_WORDLEVEL:
        return lmi_word_lengths(t, e);
    case LM_VOCAB_GREEDY:
        return lmi_greedy_init(t, e);
    case LM_VOCAB_BPE:
        return lmi_bpe_init(t, e);
    default:
        return lmi_byte_init(t, e);
    }
}

static int (*word_encoder(const struct lm_vocab *v))(struct lmi_call *c, size_t begin, size_t end)
{
    switch (v->algo) {
    case LM_VOCAB_SPM_BPE:
        return lmi_spm_word;
    case LM_VOCAB_SPM_WORD:
    case LM_VOCAB_SPM_CHAR:
        return lmi_spm_whole_word;
    case LM_VOCAB_UNIGRAM:
        return lmi_unigram_word;
    case LM_VOCAB_WORDPIECE:
        return lmi_wordpiece_word;
    case LM_VOCAB_WORDLEVEL:
        return lmi_wordlevel_word;
    case LM_VOCAB_BPE:
        return lmi_bpe_word;
    default:
        return lmi_byte_word;
    }
}

int lm_tokenizer_new(struct lm_tokenizer **out, const struct lm_vocab *v, struct lm_err *e)
{
    struct lm_tokenizer *t = calloc(1, sizeof *t);

    *out = NULL;
    if (!t)
        return lm_err_set(e, LM_NOMEM, "out of memory for a tokenizer");
    t->v = v;
    t->caches = lmi_caches_new();
    lmi_unicode_init();
    measure(t);
    int rc = t->caches ? init_algorithm(t, e) : lm_err_set(e, LM_NOMEM, "out of memory for a tokenizer");
    if (rc < 0 || find_added(t, e) < 0) {
        lm_tokenizer_free(t);
        return lm_err_prefix(e, "tokenizer (%s)", v->source);
    }
    *out = t;
    return 0;
}

void lm_tokenizer_free(struct lm_tokenizer *t)
{
    if (!t)
        return;
    lmi_spm_free(t);
    lmi_trie_free(&t->trie);
    lmi_pretok_free(t->pretok);
    lmi_backtrack_free(t->backtrack);
    lmi_caches_free(t->caches);
    lmi_pairs_free(&t->pairs);
    lmi_added_free(&t->raw);
    lmi_added_free(&t->second);
    lmi_added_free(&t->norm);
    lm_arena_free(&t->arena);
    free(t);
}

void lm_ids_free(struct lm_ids *l)
{
    free(l->ids);
    free(l->offsets);
    *l = (struct lm_ids){0};
}

size_t lm_tokenizer_max_bytes(const struct lm_tokenizer *t)
{
    return t->max_bytes;
}

/* ---- encoding */

enum { WORTH_TABLES = 1 << 19 }; /* bytes of text: less are done before tables would be */

static int begin_call(struct lmi_call *c, size_t n_bytes, unsigned flags)
{
    c->cache = lmi_cache_take(c->t->caches, n_bytes, flags & (LM_ENCODE_SPECIAL | LM_ENCODE_OFFSETS));
    if (!c->cache)
        return lmi_call_nomem(c);
    if (c->t->backtrack && c->cache->n_bytes >= WORTH_TABLES) {
        if (!lmi_backtrack_ready(c->t->backtrack))
            return lmi_call_nomem(c);
        c->backtrack = c->t->backtrack;
    }
    if (c->t->unused) {
        c->merge.unused = c->t->unused;
        c->merge.halves = malloc(c->t->n_symbols * sizeof *c->merge.halves);
        if (!c->merge.halves)
            return lmi_call_nomem(c);
        memset(c->merge.halves, 0xff, c->t->n_symbols * sizeof *c->merge.halves);
    }
    return lmi_call_reserve(c, n_bytes / 4 + 16);
}

static void end_call(struct lmi_call *c)
{
    lmi_cache_give(c->t->caches, c->cache);
    free(c->ids);
    free(c->merge.halves);
    free(c->best);
    lmi_merge_scratch_free(&c->merge);
}

/* An id that has no text in front of or behind it, or its own text. */
static int emit_at(struct lmi_call *c, uint32_t id, size_t begin, size_t end)
{
    if (lmi_call_reserve(c, 1) < 0)
        return -1;
    c->map = NULL;
    c->base = 0;
    lmi_call_emit(c, id, begin, end);
    return 0;
}

/* Is piece i the second or third byte of a U+2581 that stands for a space? */
static bool continues_mark(const struct lmi_call *c, struct lm_span text, size_t i)
{
    const struct lm_piece *p = &c->t->v->pieces[c->out->ids[i]], *before = &c->t->v->pieces[c->out->ids[i - 1]];
    struct lm_offsets o = c->out->offsets[i - 1];

    return p->kind == LM_PIECE_BYTE && before->kind == LM_PIECE_BYTE && o.end == c->out->offsets[i].begin &&
           o.end == o.begin + 1 && text.data[o.begin] == ' ' && lmi_byte_piece(p->text) >= 0x80;
}

/* In HF all bytes of a U+2581 come from the space that it stands for, and a
 * prefix that is a piece of its own from the first character. */
static void give_ranges(struct lmi_call *c, struct lm_span text, size_t from)
{
    for (size_t i = from; c->offsets && i < c->out->n; i++) {
        struct lm_offsets *o = &c->out->offsets[i];
        if (o->begin != o->end)
            continue;
        if (i > from && continues_mark(c, text, i))
            o->begin--;
        else if (o->begin < text.size)
            o->end += lmi_char_at(text.data + o->begin, text.size - o->begin).width;
    }
}

/* text[begin, end) without any more added tokens. */
static int encode_rest(struct lmi_call *c, struct lm_span text, size_t begin, size_t end)
{
    struct lm_span part = lm_span_of(text.data + begin, end - begin);
    bool first = begin == 0 && !c->continues;

    if (lmi_vocab_of(c->t->v)->staged)
        return lmi_pipeline_encode(c, part, begin, first);
    if (lmi_is_spm(c->t->v)) {
        size_t from = c->out->n;
        int rc = lmi_spm_encode(c, part, begin, first);
        if (lmi_vocab_of(c->t->v)->ranked)
            give_ranges(c, text, from);
        return rc;
    }
    if (c->t->v->algo == LM_VOCAB_GREEDY)
        return lmi_greedy_encode(c, part, begin);
    return lmi_byte_encode(c, part, begin);
}

/* Takes the tokens of `added` out of text[begin, end), gives what is between
 * them to next. */
static int partition(struct lmi_call *c, const struct lmi_added *added, struct lm_span text, size_t begin, size_t end,
                     int (*next)(struct lmi_call *c, struct lm_span text, size_t begin, size_t end))
{
    struct lm_span part = lm_span_of(text.data + begin, end - begin);
    const struct lmi_added_item *item;
    struct lmi_match m = {0};
    size_t pos = 0;

    while ((item = lmi_added_find(added, part, c->special, &m)) != NULL) {
        if (pos < m.begin && next(c, text, begin + pos, begin + m.begin) < 0)
            return -1;
        if (emit_at(c, item->id, begin + m.begin, begin + m.end) < 0)
            return -1;
        pos = m.end;
    }
    return pos < part.size ? next(c, text, begin + pos, end) : 0;
}

static int encode_part(struct lmi_call *c, struct lm_span text, size_t begin, size_t end)
{
    return partition(c, &c->t->second, text, begin, end, encode_rest);
}

/* Ids in front of or behind a text: a list of them, or the one. */
static int emit_frame(struct lmi_call *c, const int32_t *ids, size_t n, int64_t one, size_t at)
{
    if (n == 0)
        return one < 0 ? 0 : emit_at(c, (uint32_t)one, at, at);
    for (size_t i = 0; i < n; i++)
        if (emit_at(c, (uint32_t)ids[i], at, at) < 0)
            return -1;
    return 0;
}

static int encode(struct lmi_call *c, struct lm_span text, bool bos_eos)
{
    const struct lm_vocab *v = c->t->v;

    if (bos_eos && v->add_bos && emit_frame(c, v->prefix_ids, v->n_prefix_ids, v->bos_id, 0) < 0)
        return -1;
    size_t from = c->out->n;
    if (partition(c, &c->t->raw, text, 0, text.size, encode_part) < 0)
        return -1;
    if (c->trim && c->offsets)
        lmi_trim_offsets(c, text, from);
    return bos_eos && v->add_eos ? emit_frame(c, v->suffix_ids, v->n_suffix_ids, v->eos_id, text.size) : 0;
}

int lm_tokenizer_encode(const struct lm_tokenizer *t, struct lm_span text, unsigned flags, struct lm_ids *out,
                        struct lm_err *e)
{
    bool spm = lmi_is_spm(t->v);
    struct lmi_call c = {.t = t, .out = out, .e = e};

    c.encode_word = word_encoder(t->v);
    c.ids_per_byte = spm && !t->space_is_piece ? 3 : 1; /* a space that is no piece becomes U+2581's bytes */
    c.narrow = t->v->n_pieces <= UINT16_MAX;
    c.offsets = flags & LM_ENCODE_OFFSETS;
    c.special = flags & LM_ENCODE_SPECIAL;
    c.continues = flags & LM_ENCODE_CONTINUES;
    c.trim = flags & LM_ENCODE_TRIM && lmi_vocab_of(t->v)->trim_offsets;
    if (c.offsets && out->n > 0 && !out->offsets)
        return lm_err_set(e, LM_USAGE, "offsets are asked for a list of ids that has none");
    if (c.offsets && !out->offsets)
        out->capacity = 0; /* so that both arrays are made */
    if (text.size == 0)
        text = lm_span_of("", 0);
    int rc = begin_call(&c, text.size, flags);
    if (rc == 0)
        rc = encode(&c, text, flags & LM_ENCODE_BOS_EOS);
    end_call(&c);
    return rc;
}

/* ---- decoding */

struct bytes_out {
    uint8_t *buf;
    size_t size, n;
};

static void put(struct bytes_out *o, const void *data, size_t n)
{
    if (o->n < o->size)
        memcpy(o->buf + o->n, data, n < o->size - o->n ? n : o->size - o->n);
    o->n += n;
}

/* GPT-2's letters back to bytes; a text with other characters is its own bytes. */
static void put_letters(struct bytes_out *o, struct lm_span s)
{
    struct bytes_out start = *o;

    for (size_t i = 0; i < s.size;) {
        size_t w = lmi_utf8_step(s.data + i, s.size - i);
        int byte = w ? lmi_letter_byte(lmi_utf8_get(s.data + i)) : -1;
        if (byte < 0) {
            *o = start;
            put(o, s.data, s.size);
            return;
        }
        put(o, &(uint8_t){(uint8_t)byte}, 1);
        i += w;
    }
}

static bool is_mark(struct lm_span s)
{
    return s.size >= 3 && memcmp(s.data, LMI_SPACE_MARK, 3) == 0;
}

/* U+2581 becomes a space; at the start of a text the prefix goes (all leading
 * spaces, where the normalizer removes those). */
static void put_marked(struct bytes_out *o, const struct lm_vocab *v, struct lm_span s, bool first)
{
    bool prefix = v->add_dummy_prefix || v->add_prefix_space;

    if (first && (prefix || v->remove_extra_whitespaces) && is_mark(s))
        s = lm_span_of(s.data + 3, s.size - 3);
    while (s.size > 0) {
        bool mark = is_mark(s);
        size_t n = mark ? 3 : 1;
        put(o, mark ? (const void *)" " : s.data, 1);
        s = lm_span_of(s.data + n, s.size - n);
    }
}

/* HF's decoders get what the normalizer made of an added token. */
static struct lm_span shown_text(const struct lm_tokenizer *t, uint32_t id)
{
    return t->shown && t->shown[id].data ? t->shown[id] : t->v->pieces[id].text;
}

/* A piece alone, by the decoder of a tokenizer.json. */
static void put_decoded(struct bytes_out *o, const struct lm_tokenizer *t, uint32_t id, bool first, bool special)
{
    struct lm_span piece = shown_text(t, id);
    struct lmi_text text = {0};

    if (t->v->pieces[id].special && !special)
        return;
    if (lmi_pipeline_decode(lmi_vocab_of(t->v)->pipeline, &piece, 1, !first, false, &text, NULL) == 0)
        put(o, text.bytes, text.n);
    lmi_text_free(&text);
}

static void put_piece(struct bytes_out *o, const struct lm_tokenizer *t, uint32_t id, bool first, bool special)
{
    const struct lm_piece *p = &t->v->pieces[id];
    bool spm = lmi_is_spm(t->v);

    if (lmi_vocab_of(t->v)->chained) {
        put_decoded(o, t, id, first, special);
    } else if (p->kind == LM_PIECE_CONTROL || p->special) {
        if (special)
            put(o, p->text.data, p->text.size);
    } else if (p->kind == LM_PIECE_UNKNOWN) {
        if (special)
            put(o, p->text.data, p->text.size);
        else
            put(o, " \xe2\x81\x87 ", 5); /* SentencePiece's sign for what it could not keep */
    } else if (p->kind == LM_PIECE_BYTE) {
        put(o, &(uint8_t){(uint8_t)lmi_byte_piece(p->text)}, 1);
    } else if (!spm && !p->added && t->v->algo != LM_VOCAB_GREEDY) {
        put_letters(o, p->text);
    } else if (spm) {
        put_marked(o, t->v, p->text, first);
    } else {
        put(o, p->text.data, p->text.size);
    }
}

size_t lm_tokenizer_piece_bytes(const struct lm_tokenizer *t, int32_t id, bool first, bool special, uint8_t *buf,
                                size_t size)
{
    struct bytes_out o = {buf, size, 0};

    if (id >= 0 && (size_t)id < t->v->n_pieces)
        put_piece(&o, t, (uint32_t)id, first, special);
    return o.n;
}

/* A text has begun once a piece was shown, or once the prefix was dropped. */
static bool begins_text(const struct lm_tokenizer *t, int32_t id)
{
    const struct lm_piece *p = &t->v->pieces[id];

    return p->kind != LM_PIECE_CONTROL && !p->special;
}

static int check_ids(const struct lm_tokenizer *t, const int32_t *ids, size_t n, struct lm_err *e)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (size_t)ids[i] >= t->v->n_pieces)
            return lm_err_set(e, LM_MISMATCH, "id %d (number %zu) is outside the vocabulary of %zu pieces", ids[i], i,
                              t->v->n_pieces);
    return 0;
}

static size_t decode_into(const struct lm_tokenizer *t, const int32_t *ids, size_t n, bool special, uint8_t *buf,
                          size_t size)
{
    struct bytes_out o = {buf, size, 0};
    bool started = false;

    for (size_t i = 0; i < n; i++) {
        size_t before = o.n;
        put_piece(&o, t, (uint32_t)ids[i], !started, special);
        /* Where extra spaces are removed they go until something shows. */
        started |= t->v->remove_extra_whitespaces ? o.n > before : begins_text(t, ids[i]) || o.n > before;
    }
    return o.n;
}

/* By the decoder of a tokenizer.json, which may look at all pieces together. */
static int decode_chained(const struct lm_tokenizer *t, const int32_t *ids, size_t n, bool special, char **out,
                          size_t *n_out, struct lm_err *e)
{
    struct lm_span *pieces = calloc(n + 1, sizeof *pieces);
    struct lmi_text text = {0};
    size_t kept = 0;
    int rc = pieces ? 0 : lm_err_set(e, LM_NOMEM, "out of memory for a text");

    for (size_t i = 0; i < n && rc == 0; i++)
        if (special || !t->v->pieces[ids[i]].special)
            pieces[kept++] = shown_text(t, (uint32_t)ids[i]);
    if (rc == 0)
        rc = lmi_pipeline_decode(lmi_vocab_of(t->v)->pipeline, pieces, kept, 0, true, &text, e);
    free(pieces);
    *n_out = text.n;
    if (rc == 0) {
        lmi_text_put(&text, (const uint8_t *)"", 1, (struct lm_offsets){0, 0});
        rc = text.failed ? lm_err_set(e, LM_NOMEM, "out of memory for a text") : 0;
    }
    if (rc == 0)
        *out = (char *)text.bytes;
    else
        lmi_text_free(&text);
    return rc;
}

int lm_tokenizer_decode(const struct lm_tokenizer *t, const int32_t *ids, size_t n, bool special, char **out,
                        size_t *n_out, struct lm_err *e)
{
    *out = NULL;
    if (check_ids(t, ids, n, e) < 0)
        return -1;
    if (lmi_vocab_of(t->v)->chained)
        return decode_chained(t, ids, n, special, out, n_out, e);
    size_t size = decode_into(t, ids, n, special, NULL, 0);
    char *text = malloc(size + 1);
    if (!text)
        return lm_err_set(e, LM_NOMEM, "out of memory for a text of %zu bytes", size);
    decode_into(t, ids, n, special, (uint8_t *)text, size);
    text[size] = '\0';
    *out = text;
    *n_out = size;
    return 0;
}

/* ---- incremental */

/* Bytes at the end that may be the beginning of a character. */
static size_t open_tail(const uint8_t *p, size_t n)
{
    for (size_t k = 1; k <= 3 && k <= n; k++) {
        uint8_t b = p[n - k];
        if ((b & 0xc0) == 0x80)
            continue;
        bool lead = b >= 0xc2 && b <= 0xf4;
        return lead && lmi_utf8_width(b) > k ? k : 0;
    }
    return 0;
}

size_t lm_decoder_push(struct lm_decoder *d, int32_t id, char *buf, size_t size)
{
    struct bytes_out o = {(uint8_t *)buf, size, 0};

    put(&o, d->held, d->n_held);
    d->n_held = 0;
    if (id >= 0 && (size_t)id < d->t->v->n_pieces) {
        put_piece(&o, d->t, (uint32_t)id, !d->started, false);
        d->started |= begins_text(d->t, id);
        size_t n = o.n < size ? o.n : size, tail = open_tail(o.buf, n);
        memcpy(d->held, o.buf + n - tail, tail);
        d->n_held = tail;
        return n - tail;
    }
    return o.n < size ? o.n : size;
}
