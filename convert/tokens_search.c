/* Texts made for two vocabularies: their pieces alone and among letters, every
 * short sequence of kinds of characters, and pieces thrown together. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "convert/tokens_parts.h"

/* ---- every piece of both */

/* Bytes of a piece between a few others; visits with the flags. */
static int visit_piece(struct lmc_source *s, const struct lm_tokenizer *t, const struct lm_vocab *v, size_t id, uint8_t *buf,
                       size_t size)
{
    static const struct { const char *before, *behind; bool decode; } around[] = {
        {"", "", true}, {" ", "", false}, {"x", "x", false}};
    const struct lm_piece *p = &v->pieces[id];
    bool token = p->special || p->added || p->kind == LM_PIECE_CONTROL;
    int rc = 0;

    for (size_t i = 0; i < sizeof around / sizeof *around && rc == 0; i++) {
        size_t before = strlen(around[i].before), behind = strlen(around[i].behind);
        memcpy(buf, around[i].before, before);
        size_t n = lm_tokenizer_piece_bytes(t, (int32_t)id, false, true, buf + before, size - before - behind);
        if (n > size - before - behind)
            break;
        memcpy(buf + before + n, around[i].behind, behind);
        struct lmc_case c = {lm_span_of(buf, before + n + behind), LM_ENCODE_SPECIAL, around[i].decode, "pieces"};
        rc = s->visit(s->user, &c);
        c.flags = 0;
        if (rc == 0 && token)
            rc = s->visit(s->user, &c);
    }
    return rc;
}

static bool same_at(const struct lm_vocab *a, const struct lm_vocab *b, size_t id)
{
    return id < a->n_pieces && lm_span_eq(a->pieces[id].text, b->pieces[id].text);
}

int lmc_piece_texts(struct lmc_source *s)
{
    size_t a = lm_tokenizer_max_bytes(s->ta), b = lm_tokenizer_max_bytes(s->tb), size = 4 * (a > b ? a : b) + 16;
    uint8_t *buf = malloc(size);
    int rc = buf ? 0 : -1;

    for (size_t i = 0; i < s->a->n_pieces && rc == 0; i++)
        rc = visit_piece(s, s->ta, s->a, i, buf, size);
    for (size_t i = 0; i < s->b->n_pieces && rc == 0; i++)
        if (!same_at(s->a, s->b, i))
            rc = visit_piece(s, s->tb, s->b, i, buf, size);
    free(buf);
    return rc;
}

/* ---- every sequence of kinds of characters */

/* One of each kind that some pre-tokenizer or normalizer tells from others. */
static const char *const kinds[] = {
    "a", "B", "s", "1", " ", "\n", ".", "'", "\t", "\r", "\xc5\xbc", "\xe4\xb8\xad", "\xcc\x81", "\xf0\x9f\x98\x80",
    "$", "_", "\xc2\xb2", "\xc2\xa0", "\xe3\x81\x82", "\xe2\x80\x8d", "\xff"};

enum { N_KINDS = sizeof kinds / sizeof *kinds, LONGEST = 5 };
/* How many of them go into sequences of 1 to 5: the first are the most common. */
static const size_t n_kinds_of[LONGEST + 1] = {0, N_KINDS, N_KINDS, N_KINDS, 14, 8};

static size_t longest(const struct lmc_source *s)
{
    return s->o->quick ? 3 : LONGEST;
}

static uint64_t n_sequences(const struct lmc_source *s)
{
    uint64_t sum = 0;

    for (size_t length = 1; length <= longest(s); length++) {
        uint64_t n = 1;
        for (size_t i = 0; i < length; i++)
            n *= n_kinds_of[length];
        sum += n;
    }
    return sum;
}

static int visit_sequences(struct lmc_source *s, size_t length)
{
    size_t digits[LONGEST] = {0}, base = n_kinds_of[length];
    char buf[LONGEST * 4];

    for (;;) {
        size_t n = 0, at = 0;
        for (size_t i = 0; i < length; i++) {
            size_t w = strlen(kinds[digits[i]]);
            memcpy(buf + n, kinds[digits[i]], w);
            n += w;
        }
        int rc = s->visit(s->user, &(struct lmc_case){lm_span_of(buf, n), 0, false, "sequences of kinds of characters"});
        if (rc != 0)
            return rc;
        while (at < length && ++digits[at] == base)
            digits[at++] = 0;
        if (at == length)
            return 0;
    }
}

int lmc_kind_sequences(struct lmc_source *s)
{
    int rc = 0;

    for (size_t length = 1; length <= longest(s) && rc == 0; length++)
        rc = visit_sequences(s, length);
    return rc;
}

/* ---- strings that the settings name: what a normalizer replaces, a pattern splits at */

static int visit_string(struct lmc_source *s, struct lm_span text)
{
    static const char *const formats[] = {"%.*s", "%.*s%.*s", "x%.*sx", " %.*s ", "x %.*s%.*s x"};
    char buf[600];
    int rc = 0;

    for (size_t i = 0; i < sizeof formats / sizeof *formats && rc == 0 && text.size < 200; i++) {
        int w = (int)text.size, n = snprintf(buf, sizeof buf, formats[i], w, text.data, w, text.data);
        rc = s->visit(s->user, &(struct lmc_case){lm_span_of(buf, (size_t)n), 0, false, "strings of the settings"});
    }
    return rc;
}

static int visit_strings(struct lmc_source *s, const json_t *v, int depth)
{
    const char *key;
    json_t *item;
    size_t i;
    int rc = 0;

    if (json_is_string(v))
        return visit_string(s, lm_span_of(json_string_value(v), json_string_length(v)));
    if (depth > 32)
        return 0;
    json_array_foreach((json_t *)(uintptr_t)v, i, item)
        if (rc == 0)
            rc = visit_strings(s, item, depth + 1);
    json_object_foreach((json_t *)(uintptr_t)v, key, item)
        if (rc == 0)
            rc = visit_strings(s, item, depth + 1);
    return rc;
}

int lmc_setting_texts(struct lmc_source *s)
{
    const struct lm_span stages[] = {s->a->normalizer, s->b->normalizer, s->a->pre_tokenizer, s->b->pre_tokenizer};
    int rc = 0;

    for (size_t i = 0; i < sizeof stages / sizeof *stages && rc == 0; i++) {
        json_t *v = stages[i].size ? json_loadb((const char *)stages[i].data, stages[i].size, JSON_DECODE_ANY, NULL) : NULL;
        rc = visit_strings(s, v, 0);
        json_decref(v);
    }
    return rc;
}

/* ---- every character there is */

enum { LAST_ASSIGNED = 0x323af };

static size_t put_utf8(uint32_t c, uint8_t *out)
{
    uint8_t b[4] = {(uint8_t)(0xf0 | c >> 18), (uint8_t)(0x80 | (c >> 12 & 63)), (uint8_t)(0x80 | (c >> 6 & 63)),
                    (uint8_t)(0x80 | (c & 63))};
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;

    b[4 - n] = (uint8_t)(n == 1 ? c : n == 2 ? 0xc0 | c >> 6 : n == 3 ? 0xe0 | c >> 12 : b[0]);
    memcpy(out, b + 4 - n, n);
    return n;
}

/* Alone it shows the normalizer and the pieces, between a letter and a digit how
 * the text is split. */
int lmc_every_character(struct lmc_source *s)
{
    uint8_t buf[8] = "a";
    int rc = 0;

    for (uint32_t c = 0; c <= LAST_ASSIGNED && rc == 0 && !s->o->quick; c++) {
        if (c >= 0xd800 && c < 0xe000)
            continue;
        size_t n = put_utf8(c, buf + 1);
        buf[1 + n] = '1';
        rc = s->visit(s->user, &(struct lmc_case){lm_span_of(buf, n + 2), 0, false, "every character"});
    }
    return rc;
}

/* ---- made up */

enum { MADE_UP = 600 };

struct maker {
    struct lmc_source *s;
    uint64_t state;
    uint32_t *tokens; /* ids of A's and, from n_a up, B's pieces that are more than text */
    size_t n_tokens, n_a;
    uint8_t buf[MADE_UP];
    size_t n;
};

/* splitmix64 */
static uint64_t next(struct maker *m)
{
    uint64_t z = m->state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static size_t below(struct maker *m, size_t n)
{
    return (size_t)(next(m) % n);
}

static void add(struct maker *m, const void *s, size_t n)
{
    if (n > sizeof m->buf - m->n)
        return;
    memcpy(m->buf + m->n, s, n);
    m->n += n;
}

static void add_piece(struct maker *m, bool of_b, size_t id)
{
    const struct lm_tokenizer *t = of_b ? m->s->tb : m->s->ta;
    size_t room = sizeof m->buf - m->n;
    size_t n = lm_tokenizer_piece_bytes(t, (int32_t)id, false, true, m->buf + m->n, room);

    m->n += n <= room ? n : 0;
}

static void add_any_piece(struct maker *m)
{
    bool of_b = below(m, 2);

    add_piece(m, of_b, below(m, (of_b ? m->s->b : m->s->a)->n_pieces));
}

static void add_token(struct maker *m)
{
    size_t at = m->n_tokens ? below(m, m->n_tokens) : 0;

    if (m->n_tokens)
        add_piece(m, at >= m->n_a, m->tokens[at]);
}

/* Letters of the scripts that are written most, and anything else. */
static void add_char(struct maker *m)
{
    static const uint32_t starts[] = {0x20, 0xa0, 0x300, 0x370, 0x400, 0x5d0, 0x620, 0x900, 0xe00, 0x1e00, 0x2000, 0x2190,
                                      0x3040, 0x4e00, 0xac00, 0xff00, 0x1f300};
    size_t at = below(m, sizeof starts / sizeof *starts + 1);
    uint32_t c = at < sizeof starts / sizeof *starts ? starts[at] + (uint32_t)below(m, 0x80) : (uint32_t)below(m, 0x110000);
    uint8_t b[4];

    if (c < 0xd800 || c >= 0xe000)
        add(m, b, put_utf8(c, b));
}

static void add_something(struct maker *m)
{
    size_t k = below(m, 16);
    const char *kind = kinds[below(m, N_KINDS)];

    if (k < 9)
        add_any_piece(m);
    else if (k < 11)
        add_token(m);
    else if (k < 14)
        add(m, kind, strlen(kind));
    else
        add_char(m);
}

static void list_tokens(struct maker *m, const struct lm_vocab *v)
{
    for (size_t i = 0; i < v->n_pieces; i++) {
        const struct lm_piece *p = &v->pieces[i];
        if (p->added || p->special || (p->kind != LM_PIECE_NORMAL && p->kind != LM_PIECE_UNUSED))
            m->tokens[m->n_tokens++] = (uint32_t)i;
    }
}

int lmc_made_up_texts(struct lmc_source *s)
{
    struct maker *m = calloc(1, sizeof *m);
    int rc = m && (m->tokens = calloc(s->a->n_pieces + s->b->n_pieces + 1, sizeof *m->tokens)) ? 0 : -1;

    if (rc == 0) {
        m->s = s;
        m->state = s->o->seed;
        list_tokens(m, s->a);
        m->n_a = m->n_tokens;
        list_tokens(m, s->b);
    }
    for (uint64_t i = 0; i < s->o->n_tries && rc == 0; i++) {
        m->n = 0;
        for (size_t k = 1 + below(m, 10); k > 0; k--)
            add_something(m);
        unsigned flags = below(m, 4) ? LM_ENCODE_SPECIAL : 0;
        rc = s->visit(s->user, &(struct lmc_case){lm_span_of(m->buf, m->n), flags, i % 16 == 0, "made-up texts"});
    }
    if (m)
        free(m->tokens);
    free(m);
    return rc;
}

uint64_t lmc_n_texts(const struct lmc_source *s)
{
    return 300 + 3 * s->o->n_texts + 3 * s->a->n_pieces + (s->o->quick ? 0 : LAST_ASSIGNED) + n_sequences(s) + s->o->n_tries;
}
