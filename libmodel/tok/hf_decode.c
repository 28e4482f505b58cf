/* tokenizer.json's decoders: from the pieces of ids to text, list by list.
 * Bytes that are no UTF-8 stay what they are (the library writes U+FFFD). */
#include <stdlib.h>

#include "libmodel/tok/build.h"
#include "libmodel/tok/pipeline.h"
#include "libmodel/tok/unicode.h"

/* Pieces, back to back; empty ones count. */
struct list {
    struct lmi_text text;
    size_t *ends;
    size_t n, capacity;
    bool failed;
};

struct decoding {
    struct list in, out;
    size_t from;
    bool whole, fused;
    struct lm_err *e;
};

static struct lm_span item(const struct list *l, size_t i)
{
    size_t begin = i ? l->ends[i - 1] : 0;

    return lm_span_of(l->text.bytes + begin, l->ends[i] - begin);
}

static void put(struct list *l, struct lm_span s)
{
    if (s.size)
        lmi_text_put(&l->text, s.data, s.size, (struct lm_offsets){0, 0});
}

static void put_str(struct list *l, const char *s)
{
    put(l, lm_span_str(s));
}

/* Everything put since the last item is one. */
static void end_item(struct list *l)
{
    if (l->n == l->capacity) {
        size_t capacity = 2 * l->capacity + 64;
        size_t *ends = realloc(l->ends, capacity * sizeof *ends);
        if (!ends) {
            l->failed = true;
            return;
        }
        l->ends = ends;
        l->capacity = capacity;
    }
    l->ends[l->n++] = l->text.n;
}

static void put_replaced(struct list *out, struct lm_span s, struct lm_span what, struct lm_span with)
{
    const uint8_t *at;

    while (what.size && s.size && (at = memmem(s.data, s.size, what.data, what.size)) != NULL) {
        size_t n = (size_t)(at - s.data);
        put(out, lm_span_of(s.data, n));
        put(out, with);
        s = lm_span_of(at + what.size, s.size - n - what.size);
    }
    put(out, s);
}

/* ---- WordPiece */

static const char *const clean[][2] = {{" .", "."},     {" ?", "?"},   {" !", "!"},   {" ,", ","},
                                       {" ' ", "'"},    {" n't", "n't"}, {" 'm", "'m"}, {" do not", " don't"},
                                       {" 's", "'s"},   {" 've", "'ve"}, {" 're", "'re"}};

/* Takes the end of the text from `begin` on through all replacements, in turn. */
static void clean_up(struct list *l, size_t begin)
{
    struct list copy = {0};

    for (size_t i = 0; i < sizeof clean / sizeof *clean && !l->text.failed; i++) {
        lmi_text_clear(&copy.text);
        put_replaced(&copy, lm_span_of(l->text.bytes + begin, l->text.n - begin), lm_span_str(clean[i][0]),
                     lm_span_str(clean[i][1]));
        l->text.n = begin;
        put(l, lmi_text_span(&copy.text));
        l->failed |= copy.text.failed;
    }
    lmi_text_free(&copy.text);
}

static bool begins(struct lm_span s, struct lm_span with)
{
    return s.size >= with.size && (with.size == 0 || memcmp(s.data, with.data, with.size) == 0);
}

static void wordpiece(const struct lmi_decode_step *s, struct decoding *d)
{
    for (size_t i = 0; i < d->in.n; i++) {
        struct lm_span t = item(&d->in, i);
        size_t begin = d->out.text.n;
        if (i + d->from > 0) {
            if (begins(t, s->text))
                t = lm_span_of(t.data + s->text.size, t.size - s->text.size);
            else
                put_str(&d->out, " ");
        }
        put(&d->out, t);
        if (s->cleanup && d->out.text.n > begin)
            clean_up(&d->out, begin);
        end_item(&d->out);
    }
}

/* ---- the others */

/* A piece with a character that is none of the 256 letters is its own bytes. */
static bool is_letters(struct lm_span s)
{
    for (size_t i = 0; i < s.size;) {
        struct lmi_char c = lmi_char_at(s.data + i, s.size - i);
        if (lmi_letter_byte(c.cp) < 0)
            return false;
        i += c.width;
    }
    return true;
}

static void byte_level(struct decoding *d)
{
    for (size_t i = 0; i < d->in.n; i++) {
        struct lm_span s = item(&d->in, i);
        bool letters = is_letters(s);
        if (!letters)
            put(&d->out, s);
        for (size_t k = 0; k < s.size && letters;) {
            struct lmi_char c = lmi_char_at(s.data + k, s.size - k);
            uint8_t byte = (uint8_t)lmi_letter_byte(c.cp);
            put(&d->out, lm_span_of(&byte, 1));
            k += c.width;
        }
    }
    end_item(&d->out);
}

static void metaspace(const struct lmi_decode_step *s, struct decoding *d)
{
    for (size_t i = 0; i < d->in.n; i++) {
        struct lm_span t = item(&d->in, i);
        for (size_t k = 0, w; k < t.size; k += w) {
            struct lmi_char c = lmi_char_at(t.data + k, t.size - k);
            w = c.width;
            if (c.cp != s->character)
                put(&d->out, lm_span_of(t.data + k, w));
            else if (i + d->from > 0 || s->keep_first)
                put_str(&d->out, " ");
        }
        end_item(&d->out);
    }
}

static void bpe(const struct lmi_decode_step *s, struct decoding *d)
{
    for (size_t i = 0; i < d->in.n; i++) {
        bool last = d->whole && i + 1 == d->in.n;
        put_replaced(&d->out, item(&d->in, i), s->text, lm_span_str(last ? "" : " "));
        end_item(&d->out);
    }
}

static size_t character_at(const struct lmi_decode_step *s, struct lm_span t, size_t pos)
{
    struct lmi_char c = lmi_char_at(t.data + pos, t.size - pos);

    return c.cp == s->character ? c.width : 0;
}

static void strip(const struct lmi_decode_step *s, struct decoding *d)
{
    uint8_t c[4];
    struct lm_span mark = lm_span_of(c, lmi_utf8_put(s->character, c));

    for (size_t i = 0; i < d->in.n; i++) {
        struct lm_span t = item(&d->in, i);
        size_t begin = 0, end = t.size;
        for (size_t k = 0, w; k < s->start && begin < t.size && !(d->fused && d->from > 0); k++, begin += w)
            if ((w = character_at(s, t, begin)) == 0)
                break;
        for (size_t k = 0; k < s->stop && end - begin >= mark.size && !(d->fused && !d->whole); k++, end -= mark.size)
            if (memcmp(t.data + end - mark.size, c, mark.size) != 0)
                break;
        put(&d->out, lm_span_of(t.data + begin, end - begin));
        end_item(&d->out);
    }
}

static int replace_in(const struct lmi_decode_step *s, struct decoding *d, struct lm_span t)
{
    bool failed;
    uint8_t *mask = lmi_mask_ill_formed(t, &failed);
    struct lmi_matcher m;
    size_t pos = 0, begin, end;
    int rc = failed ? lm_err_set(d->e, LM_NOMEM, "out of memory for a text")
                    : lmi_matcher_begin(&m, &s->pattern, mask ? lm_span_of(mask, t.size) : t, d->e);

    if (rc == 0) {
        while ((rc = lmi_matcher_next(&m, &begin, &end, d->e)) > 0) {
            put(&d->out, lm_span_of(t.data + pos, begin - pos));
            put(&d->out, s->text);
            pos = end;
        }
        put(&d->out, lm_span_of(t.data + pos, t.size - pos));
        lmi_matcher_end(&m);
    }
    free(mask);
    return rc;
}

static int replace(const struct lmi_decode_step *s, struct decoding *d)
{
    for (size_t i = 0; i < d->in.n; i++) {
        if (replace_in(s, d, item(&d->in, i)) < 0)
            return -1;
        end_item(&d->out);
    }
    return 0;
}

static void byte_fallback(struct decoding *d)
{
    for (size_t i = 0; i < d->in.n; i++) {
        int byte = lmi_byte_piece(item(&d->in, i));
        bool next_is_byte = i + 1 < d->in.n && lmi_byte_piece(item(&d->in, i + 1)) >= 0;
        uint8_t b = (uint8_t)byte;
        put(&d->out, byte < 0 ? item(&d->in, i) : lm_span_of(&b, 1));
        if (byte < 0 || !next_is_byte)
            end_item(&d->out);
    }
}

static void ctc(const struct lmi_decode_step *s, struct decoding *d)
{
    for (size_t i = 0; i < d->in.n; i++) {
        if (i > 0 && lm_span_eq(item(&d->in, i), item(&d->in, i - 1)))
            continue;
        size_t begin = d->out.text.n;
        put_replaced(&d->out, item(&d->in, i), s->text, lm_span_of(NULL, 0));
        if (s->cleanup && d->out.text.n > begin) {
            struct list copy = {0};
            clean_up(&d->out, begin);
            put(&copy, lm_span_of(d->out.text.bytes + begin, d->out.text.n - begin));
            d->out.text.n = begin;
            put_replaced(&d->out, lmi_text_span(&copy.text), s->delimiter, lm_span_str(" "));
            d->out.failed |= copy.text.failed;
            lmi_text_free(&copy.text);
        }
        if (d->out.text.n > begin)
            end_item(&d->out);
    }
}

static void fuse(struct decoding *d)
{
    put(&d->out, lmi_text_span(&d->in.text));
    end_item(&d->out);
    d->fused = true;
}

static int run_step(const struct lmi_decode_step *s, struct decoding *d)
{
    lmi_text_clear(&d->out.text);
    d->out.n = 0;
    switch (s->kind) {
    case LMI_DECODE_BYTE_LEVEL:
        byte_level(d);
        break;
    case LMI_DECODE_WORDPIECE:
        wordpiece(s, d);
        break;
    case LMI_DECODE_METASPACE:
        metaspace(s, d);
        break;
    case LMI_DECODE_BPE:
        bpe(s, d);
        break;
    case LMI_DECODE_FUSE:
        fuse(d);
        break;
    case LMI_DECODE_STRIP:
        strip(s, d);
        break;
    case LMI_DECODE_REPLACE:
        if (replace(s, d) < 0)
            return -1;
        break;
    case LMI_DECODE_BYTE_FALLBACK:
        byte_fallback(d);
        break;
    case LMI_DECODE_CTC:
        ctc(s, d);
        break;
    }
    struct list t = d->in;
    d->in = d->out;
    d->out = t;
    return d->in.failed || d->in.text.failed ? lm_err_set(d->e, LM_NOMEM, "out of memory for a text") : 0;
}

static void join(const struct lmi_pipeline *p, const struct decoding *d, struct lmi_text *out)
{
    for (size_t i = 0; i < d->in.n; i++) {
        struct lm_span s = item(&d->in, i);
        if (!p->has_decoder && i + d->from > 0)
            lmi_text_put(out, (const uint8_t *)" ", 1, (struct lm_offsets){0, 0});
        if (s.size)
            lmi_text_put(out, s.data, s.size, (struct lm_offsets){0, 0});
    }
}

int lmi_pipeline_decode(const struct lmi_pipeline *p, const struct lm_span *pieces, size_t n, size_t from, bool whole,
                        struct lmi_text *out, struct lm_err *e)
{
    struct decoding d = {.from = from, .whole = whole, .e = e};
    int rc = 0;

    for (size_t i = 0; i < n; i++) {
        put(&d.in, pieces[i]);
        end_item(&d.in);
    }
    if (d.in.failed || d.in.text.failed)
        rc = lm_err_set(e, LM_NOMEM, "out of memory for a text");
    for (size_t i = 0; i < p->n_decode && rc == 0; i++)
        rc = run_step(&p->decode[i], &d);
    if (rc == 0)
        join(p, &d, out);
    lmi_text_free(&d.in.text);
    lmi_text_free(&d.out.text);
    free(d.in.ends);
    free(d.out.ends);
    return rc == 0 && out->failed ? lm_err_set(e, LM_NOMEM, "out of memory for a text") : rc;
}
