/* A text as ids, lines or binary, part by part; or encoded as a whole. */
#include "cmd/tokenize.h"

#include <stdlib.h>

/* Characters: bytes that begin one, so that each ill-formed byte that is no
 * continuation counts one too. */
uint64_t tok_count_chars(struct lm_span text)
{
    size_t n = 0;

    for (size_t i = 0; i < text.size; i++)
        n += (text.data[i] & 0xc0) != 0x80;
    return n;
}

/* ---- one token as text */

static void put_line(const struct tok_job *j, struct tok_part *p, size_t i)
{
    struct tok_buf *b = &p->out;
    int32_t id = p->ids.ids[i];

    tok_put_number(b, (uint64_t)id);
    if (j->o.offsets) {
        tok_put(b, "\t", 1);
        tok_put_number(b, p->base + p->ids.offsets[i].begin);
        tok_put(b, "\t", 1);
        tok_put_number(b, p->base + p->ids.offsets[i].end);
    }
    if (j->o.pieces) {
        tok_put(b, "\t", 1);
        if (j->color)
            tok_put(b, tok_color(i), strlen(tok_color(i)));
        tok_put_piece(b, j->v->pieces[id].text);
        tok_put(b, "\033[0m", j->color ? 4 : 0);
    }
    tok_put(b, "\n", 1);
}

/* Digits at once: this is what most of the output is. */
static void put_ids(struct tok_part *p)
{
    enum { MOST = 11 };
    char *to = tok_room(&p->out, p->ids.n * MOST + 1), *start = to;

    for (size_t i = 0; to && i < p->ids.n; i++) {
        char digits[12], *d = digits + sizeof digits;
        uint32_t v = (uint32_t)p->ids.ids[i];
        do
            *--d = (char)('0' + v % 10);
        while (v /= 10);
        if (i > 0 || !p->first)
            *to++ = ' ';
        memcpy(to, d, (size_t)(digits + sizeof digits - d));
        to += digits + sizeof digits - d;
    }
    p->out.n += (size_t)(to - start);
    if (p->last)
        tok_put(&p->out, "\n", 1);
}

static void put_binary(const struct tok_job *j, struct tok_part *p)
{
    size_t width = (size_t)j->o.binary * 2;
    char *to = tok_room(&p->out, p->ids.n * width);

    for (size_t i = 0; to && i < p->ids.n; i++)
        if (width == 2)
            lm_store_u16le(to + 2 * i, (uint16_t)p->ids.ids[i]);
        else
            lm_store_u32le(to + 4 * i, (uint32_t)p->ids.ids[i]);
    p->out.n += to ? p->ids.n * width : 0;
}

static void put(const struct tok_job *j, struct tok_part *p)
{
    if (j->o.count)
        return;
    if (j->o.binary)
        put_binary(j, p);
    else if (!j->o.pieces && !j->o.offsets)
        put_ids(p);
    else
        for (size_t i = 0; i < p->ids.n; i++)
            put_line(j, p, i);
}

/* ---- the frame */

static int reserve(struct lm_ids *l, size_t n, bool offsets, struct lm_err *e)
{
    size_t capacity = l->n + n + 16;

    if (n <= l->capacity - l->n && (!offsets || l->offsets))
        return 0;
    int32_t *ids = realloc(l->ids, capacity * sizeof *ids);
    if (ids)
        l->ids = ids;
    struct lm_offsets *o = offsets ? realloc(l->offsets, capacity * sizeof *o) : NULL;
    if (o)
        l->offsets = o;
    if (!ids || (offsets && !o))
        return lm_err_set(e, LM_NOMEM, "no memory for %zu ids", capacity);
    l->capacity = capacity;
    return 0;
}

/* n ids of the frame behind the others, at byte `at`. */
static int frame(const struct tok_job *j, struct lm_ids *l, size_t from, size_t n, size_t at, struct lm_err *e)
{
    if (n > 0 && reserve(l, n, j->o.offsets, e) < 0)
        return -1;
    for (size_t i = 0; i < n; i++) {
        l->ids[l->n] = j->frame[from + i];
        if (j->o.offsets)
            l->offsets[l->n] = (struct lm_offsets){at, at};
        l->n++;
    }
    return 0;
}

static unsigned encode_flags(const struct tok_job *j)
{
    return j->o.parse_special ? LM_ENCODE_SPECIAL : 0;
}

/* ---- part by part */

static int encode_part(const struct tok_job *j, struct tok_part *p)
{
    unsigned flags = encode_flags(j) | (j->o.offsets ? LM_ENCODE_OFFSETS : 0) | (p->first ? 0 : LM_ENCODE_CONTINUES);
    int rc = p->first ? frame(j, &p->ids, 0, j->n_before, 0, &p->e) : 0;

    if (rc == 0 && p->text.size > 0)
        rc = lm_tokenizer_encode(j->t, p->text, flags, &p->ids, &p->e);
    return rc < 0 || !p->last ? rc : frame(j, &p->ids, j->n_before, j->n_after, p->text.size, &p->e);
}

static void work(const struct tok_job *j, struct tok_part *p)
{
    p->rc = encode_part(j, p);
    if (p->rc < 0)
        return;
    p->counts = (struct tok_counts){p->text.size, tok_count_chars(p->text), p->ids.n};
    put(j, p);
}

static size_t cut(const struct tok_job *j, struct lm_span text, size_t at)
{
    size_t end = lm_tokenizer_safe_cut(j->t, text, at);

    return end < text.size ? end : 0;
}

const struct tok_worker tok_text_worker = {cut, work, false};

/* ---- as a whole */

int tok_encode_whole(const struct tok_job *j, const struct tok_input *in, struct tok_whole *w, struct lm_err *e)
{
    *w = (struct tok_whole){.name = in->name};
    if (cli_read_text(&w->text, &w->n_bytes, in->argument, in->argument ? NULL : in->name, e) < 0)
        return -1;
    struct lm_span text = lm_span_of(w->text, w->n_bytes);
    unsigned flags = encode_flags(j) | LM_ENCODE_OFFSETS | (j->o.add_special ? LM_ENCODE_BOS_EOS : 0);
    if (lm_tokenizer_encode(j->t, text, flags, &w->ids, e) < 0)
        return in->name ? lm_err_prefix(e, "%s", in->name) : -1;
    w->counts = (struct tok_counts){w->n_bytes, tok_count_chars(text), w->ids.n};
    return 0;
}

void tok_whole_free(struct tok_whole *w)
{
    free(w->text);
    lm_ids_free(&w->ids);
}

/* ---- JSON of a whole */

static void put_token(const struct tok_job *j, struct tok_buf *b, const struct tok_whole *w, size_t i)
{
    struct lm_offsets at = w->ids.offsets[i];

    tok_put(b, i ? ",\n    {\"id\": " : "\n    {\"id\": ", i ? 13 : 12);
    tok_put_number(b, (uint64_t)w->ids.ids[i]);
    tok_put(b, ", \"piece\": ", 11);
    tok_put_quoted(b, j->v->pieces[w->ids.ids[i]].text);
    tok_put(b, ", \"begin\": ", 11);
    tok_put_number(b, at.begin);
    tok_put(b, ", \"end\": ", 9);
    tok_put_number(b, at.end);
    tok_put(b, "}", 1);
}

static void put_whole(const struct tok_job *j, struct tok_buf *b, const struct tok_whole *w)
{
    char head[120];
    int n = snprintf(head, sizeof head, "{\n  \"n_bytes\": %zu,\n  \"n_tokens\": %zu,\n  \"ids\": [", w->n_bytes, w->ids.n);

    tok_put(b, head, (size_t)n);
    for (size_t i = 0; i < w->ids.n; i++) {
        tok_put(b, ", ", i ? 2 : 0);
        tok_put_number(b, (uint64_t)w->ids.ids[i]);
    }
    tok_put(b, "],\n  \"tokens\": [", 16);
    for (size_t i = 0; i < w->ids.n; i++) {
        put_token(j, b, w, i);
        if (b->n > 1 << 16) { /* a text may have millions of tokens */
            fwrite(b->data, 1, b->n, stdout);
            b->n = 0;
        }
    }
    tok_put(b, "\n  ]\n}", 6);
}

int tok_print_json(const struct tok_job *j, const struct tok_whole *w, size_t n, struct lm_err *e)
{
    struct tok_buf b = {0};

    tok_put(&b, "[", n > 1);
    for (size_t i = 0; i < n; i++) {
        tok_put(&b, ",\n", i ? 2 : 0);
        put_whole(j, &b, &w[i]);
    }
    tok_put(&b, "]", n > 1);
    tok_put(&b, "\n", 1);
    fwrite(b.data ? b.data : "", 1, b.n, stdout);
    free(b.data);
    return b.failed ? lm_err_set(e, LM_NOMEM, "no memory for the output") : 0;
}
