/* Where a word of byte-level BPE can be cut without a change of ids: between two
 * characters, one of them not ASCII, that stand side by side in no piece, nor
 * any half of them: pieces are made of bytes and may begin or end inside a
 * character. Text without spaces comes apart into short, repeated parts. */
#include "libmodel/tok/build.h"
#include "libmodel/tok/engine.h"
#include "libmodel/tok/unicode.h"

/* Numbers for the ends of characters, above all code points and below 2^21: the
 * last one to three bytes, the first one to three. */
enum { TAIL_1 = 0x110000, TAIL_2 = TAIL_1 + 64, TAIL_3 = TAIL_2 + 4096, HEAD_1 = TAIL_3 + 262144, HEAD_2 = HEAD_1 + 256,
       HEAD_3 = HEAD_2 + 16384 };

static uint32_t tail_number(const uint8_t *p, size_t n)
{
    uint32_t v = 0;

    for (size_t i = 0; i < n; i++)
        v = v << 6 | (p[i] & 0x3f);
    return (n == 1 ? TAIL_1 : n == 2 ? TAIL_2 : TAIL_3) + v;
}

static uint32_t head_number(const uint8_t *p, size_t n)
{
    uint32_t lead = p[0] & 0x3f;

    if (n == 1)
        return HEAD_1 + p[0];
    return n == 2 ? HEAD_2 + (lead << 6 | (p[1] & 0x3f)) : HEAD_3 + ((p[0] & 7u) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3f));
}

/* ---- what the pieces hold */

/* Continuation bytes that a piece begins with. */
static size_t tail_at_start(struct lm_span s)
{
    size_t n = 0;

    while (n < s.size && (s.data[n] & 0xc0) == 0x80)
        n++;
    return n;
}

/* Bytes of an unfinished character that a piece ends with. */
static size_t head_at_end(struct lm_span s)
{
    for (size_t n = 1; n <= 3 && n <= s.size; n++) {
        uint8_t b = s.data[s.size - n];
        if ((b & 0xc0) != 0x80)
            return b >= 0xc2 && b <= 0xf4 && lmi_utf8_width(b) > n ? n : 0;
    }
    return 0;
}

static bool put(struct lm_tokenizer *t, struct lm_span s, size_t pos, uint32_t left, uint32_t right)
{
    if (left >= TAIL_1 || right >= TAIL_1)
        t->joined[s.data[pos - 1]][s.data[pos] / 64] |= (uint64_t)1 << s.data[pos] % 64;
    return lmi_pairs_put(&t->adjacent, left, right, 0, 0);
}

/* The bytes of a piece; false with *odd when they are no text at all (then
 * nothing is cut), false when out of memory. */
static bool note(struct lm_tokenizer *t, struct lm_span s, bool *odd)
{
    size_t tail = tail_at_start(s), head = tail < s.size ? head_at_end(s) : 0, end = s.size - head;
    uint32_t left = tail > 0 && tail <= 3 ? tail_number(s.data, tail) : UINT32_MAX;

    *odd = tail > 3;
    for (size_t i = tail, w; i < end && !*odd; i += w) {
        w = lmi_utf8_step(s.data + i, end - i);
        *odd = w == 0;
        uint32_t right = w ? lmi_utf8_get(s.data + i) : 0;
        bool both_ascii = left < 0x80 && right < 0x80;
        if (w && left != UINT32_MAX && !both_ascii && !put(t, s, i, left, right))
            return false;
        left = right;
    }
    if (head > 0 && left != UINT32_MAX && !*odd && !put(t, s, end, left, head_number(s.data + end, head)))
        return false;
    return !*odd;
}

static bool only_ascii(struct lm_span s)
{
    for (size_t i = 0; i < s.size; i++)
        if (s.data[i] >= 0x80)
            return false;
    return true;
}

bool lmi_note_neighbours(struct lm_tokenizer *t)
{
    uint8_t bytes[1024];

    if (!lmi_pairs_init(&t->adjacent, t->v->n_pieces))
        return false;
    t->cuts_words = true;
    for (size_t i = 0; i < t->v->n_pieces && t->cuts_words; i++) {
        const struct lm_piece *p = &t->v->pieces[i];
        if (!p->in_model || only_ascii(p->text))
            continue;
        size_t n = lmi_letters_to_bytes(p->text, bytes, sizeof bytes);
        bool odd = n == sizeof bytes;
        if (n == SIZE_MAX)
            continue; /* not of the letters: no text gives it */
        if (n != 1 && !odd && !only_ascii(lm_span_of(bytes, n)) && !note(t, lm_span_of(bytes, n), &odd) && !odd)
            return false;
        t->cuts_words = !odd;
    }
    return true;
}

/* ---- what stands in the text */

static bool halves_joined(const struct lm_tokenizer *t, const uint8_t *p, size_t before, size_t pos)
{
    size_t left_width = pos - before, right_width = lmi_utf8_width(p[pos]);

    for (size_t i = 1; i <= left_width; i++) {
        uint32_t left = i == left_width ? lmi_utf8_get(p + before) : tail_number(p + pos - i, i);
        for (size_t k = 1; k <= right_width; k++) {
            uint32_t right = k == right_width ? lmi_utf8_get(p + pos) : head_number(p + pos, k);
            if (lmi_pairs_get(&t->adjacent, left, right))
                return true;
        }
    }
    return false;
}

bool lmi_crossed(const struct lm_tokenizer *t, const uint8_t *p, size_t before, size_t pos)
{
    uint8_t a = p[pos - 1], b = p[pos];

    if (a < 0x80 && b < 0x80)
        return true;
    if (t->joined[a][b / 64] >> b % 64 & 1)
        return halves_joined(t, p, before, pos);
    return lmi_pairs_get(&t->adjacent, lmi_utf8_get(p + before), lmi_utf8_get(p + pos)) != NULL;
}
