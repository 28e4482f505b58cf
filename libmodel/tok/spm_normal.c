/* SentencePiece's normalizer (normalizer.cc). Its result is kept with ' ' for
 * U+2581, one byte instead of three. */
#include "libmodel/tok/build.h"
#include "libmodel/tok/engine.h"
#include "libmodel/tok/unicode.h"

struct normalizer {
    const struct lm_tokenizer *t;
    struct lmi_normal *out;
    struct lm_span text;
    size_t base;
    bool with_map, after_space;
};

/* What stands for the bytes at pos: a symbol and a character as they are, a
 * rule's replacement, U+FFFD for an ill-formed byte. Returns how many bytes. */
static size_t next_chunk(const struct lm_tokenizer *t, struct lm_span text, size_t pos, struct lm_span *chunk)
{
    struct lm_span rest = lm_span_of(text.data + pos, text.size - pos);
    const struct lmi_added_item *symbol = lmi_added_at(&t->symbols, rest);
    size_t n = symbol ? 0 : lmi_charsmap_match(&t->charsmap, rest, chunk);

    if (n > 0)
        return n;
    n = symbol ? symbol->text.size : lmi_utf8_step(rest.data, rest.size);
    *chunk = n ? lm_span_of(rest.data, n) : lm_span_str("\xef\xbf\xbd");
    return n ? n : 1;
}

static bool is_mark(struct lm_span s, size_t i)
{
    return s.size - i >= 3 && memcmp(s.data + i, LMI_SPACE_MARK, 3) == 0;
}

/* A chunk that came from byte `from`, with U+2581 as ' '. */
static void put_chunk(struct normalizer *z, struct lm_span s, size_t from)
{
    bool escape = z->t->v->escape_whitespaces;
    size_t begin = 0, i = 0;

    while (escape && i + 3 <= s.size) {
        if (!is_mark(s, i)) {
            i++;
            continue;
        }
        lmi_normal_add(z->out, s.data + begin, i - begin, from, z->with_map);
        lmi_normal_add(z->out, (const uint8_t *)" ", 1, from, z->with_map);
        begin = i += 3;
    }
    lmi_normal_add(z->out, s.data + begin, s.size - begin, from, z->with_map);
}

/* Bytes of the character at pos if it is above ASCII and stands for itself
 * whatever follows, else 0. */
static inline size_t plain_wide(const struct normalizer *z, size_t pos)
{
    size_t w = lmi_utf8_step(z->text.data + pos, z->text.size - pos);

    if (w == 0 || w > 3)
        return 0;
    uint32_t cp = lmi_utf8_get(z->text.data + pos);
    return z->t->plain_wide[cp / 64] >> cp % 64 & 1 ? w : 0;
}

static inline bool joins(const struct lm_tokenizer *t, uint8_t a, uint8_t b)
{
    return t->joins[a][(b - 0x80) / 64] >> b % 64 & 1;
}

/* Where the run of characters ends that begins at pos and stands for itself. An
 * ASCII byte in it may not be one that a rule can join with what follows. */
static size_t plain_end(const struct normalizer *z, size_t pos)
{
    const struct lm_span s = z->text;
    const uint8_t *kind = z->t->plain;
    size_t end = pos;

    if (z->after_space && pos < s.size && s.data[pos] == ' ')
        return pos;
    for (;;) {
        while (end < s.size && kind[s.data[end]] == LMI_PLAIN)
            end++;
        if (end < s.size && kind[s.data[end]] == LMI_PLAIN_SPACE) {
            end++;
            if (z->t->v->remove_extra_whitespaces && end < s.size && s.data[end] == ' ')
                return end;
            continue;
        }
        if (end == s.size || s.data[end] < 0x80)
            return end;
        if (end > pos && s.data[end - 1] < 0x80 && joins(z->t, s.data[end - 1], s.data[end]))
            return end - 1;
        size_t w = plain_wide(z, end);
        if (w == 0)
            return end;
        end += w;
    }
}

static void put_plain(struct normalizer *z, size_t pos, size_t end)
{
    struct lmi_normal *o = z->out;

    lmi_normal_add(o, z->text.data + pos, end - pos, z->base + pos, z->with_map);
    for (size_t i = 0; z->with_map && !o->failed && i < end - pos; i++)
        o->map[o->n - (end - pos) + i] = z->base + pos + i;
    z->after_space = z->t->v->remove_extra_whitespaces && z->text.data[end - 1] == ' ';
}

static size_t put_next(struct normalizer *z, size_t pos)
{
    struct lm_span chunk;
    size_t end = plain_end(z, pos), n;

    if (end > pos) {
        put_plain(z, pos, end);
        return end;
    }
    n = next_chunk(z->t, z->text, pos, &chunk);
    while (z->after_space && chunk.size > 0 && chunk.data[0] == ' ')
        chunk = lm_span_of(chunk.data + 1, chunk.size - 1);
    put_chunk(z, chunk, z->base + pos);
    if (chunk.size > 0)
        z->after_space = z->t->v->remove_extra_whitespaces && chunk.data[chunk.size - 1] == ' ';
    return pos + n;
}

static size_t skip_leading(const struct lm_tokenizer *t, struct lm_span text)
{
    size_t pos = 0;
    struct lm_span chunk;

    while (pos < text.size) {
        size_t n = next_chunk(t, text, pos, &chunk);
        if (chunk.size != 1 || chunk.data[0] != ' ')
            break;
        pos += n;
    }
    return pos;
}

/* Trailing spaces go; the end is then where the first of them came from. */
static size_t drop_trailing(struct normalizer *z, size_t end)
{
    struct lmi_normal *o = z->out;

    while (o->n > 0 && o->text[o->n - 1] == ' ') {
        o->n--;
        if (z->with_map)
            end = o->map[o->n];
    }
    return end;
}

int lmi_spm_normalize(const struct lm_tokenizer *t, struct lm_span text, size_t base, bool prefix, bool with_map,
                      struct lmi_normal *out, struct lm_err *e)
{
    bool remove = t->v->remove_extra_whitespaces, suffix = prefix && t->v->whitespace_as_suffix;
    struct normalizer z = {t, out, text, base, with_map, remove};
    size_t pos = remove ? skip_leading(t, text) : 0;
    bool any = pos < text.size;

    if (any && prefix && !suffix)
        lmi_normal_add(out, (const uint8_t *)" ", 1, base + pos, with_map);
    while (pos < text.size && !out->failed)
        pos = put_next(&z, pos);
    size_t end = base + pos;
    if (remove && !out->failed)
        end = drop_trailing(&z, end);
    if (any && suffix)
        lmi_normal_add(out, (const uint8_t *)" ", 1, end, with_map);
    lmi_normal_end(out, end, with_map);
    return out->failed ? lm_err_set(e, LM_NOMEM, "out of memory for a normalized text") : 0;
}

/* Characters above ASCII that no rule begins with. */
static void find_plain_wide(struct lm_tokenizer *t, const bool begins_symbol[256])
{
    for (uint32_t cp = 0x80; cp < 0x10000; cp++) {
        uint8_t text[4];
        size_t n = cp >= 0xd800 && cp <= 0xdfff ? 0 : lmi_utf8_put(cp, text);
        bool mark = n == 3 && memcmp(text, LMI_SPACE_MARK, 3) == 0;
        if (n > 0 && !mark && !begins_symbol[text[0]] && !lmi_charsmap_reaches(&t->charsmap, lm_span_of(text, n)))
            t->plain_wide[cp / 64] |= (uint64_t)1 << cp % 64;
    }
}

/* ASCII bytes that nothing which begins with them and stays ASCII can change. */
void lmi_spm_find_plain(struct lm_tokenizer *t)
{
    bool begins_symbol[256] = {false};

    for (size_t i = 0; i < t->symbols.n; i++)
        begins_symbol[t->symbols.items[i].text.data[0]] = true;
    for (unsigned b = 0; b < 0x80; b++)
        if (!begins_symbol[b] && !lmi_charsmap_begins(&t->charsmap, (uint8_t)b))
            t->plain[b] = b == ' ' ? LMI_PLAIN_SPACE : LMI_PLAIN;
    for (unsigned b = 0; b < 0x80; b++)
        for (unsigned next = 0x80; next < 0x100; next++) {
            uint8_t two[2] = {(uint8_t)b, (uint8_t)next};
            if (lmi_charsmap_reaches(&t->charsmap, lm_span_of(two, 2)))
                t->joins[b][(next - 0x80) / 64] |= (uint64_t)1 << next % 64;
        }
    find_plain_wide(t, begins_symbol);
}
