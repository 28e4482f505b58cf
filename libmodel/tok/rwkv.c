/* RWKV's vocabulary: "id literal n_bytes" a line, where the literal is a Python
 * string ('…' or "…", then UTF-8) or bytes (b'…').
 * In GGUF (tokenizer "rwkv") a piece is its bytes escaped as Python prints them. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "libmodel/tok/bert.h"
#include "libmodel/tok/write.h"
#include "libmodel/tok/unicode.h"

static int hex_value(uint8_t c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* n hex digits at s[i]; -1 when they are not all there. */
static int64_t hex_number(struct lm_span s, size_t i, size_t n)
{
    int64_t v = 0;

    for (size_t k = 0; k < n; k++) {
        int d = i + k < s.size ? hex_value(s.data[i + k]) : -1;
        if (d < 0)
            return -1;
        v = v * 16 + d;
    }
    return v;
}

/* One escape behind a backslash at s[*i]: writes its bytes, moves *i past it. */
static int64_t unescape_one(struct lm_span s, size_t *i, bool bytes, uint8_t *out)
{
    static const char plain[] = "n\nr\rt\ta\ab\bf\fv\v";
    uint8_t c = s.data[(*i)++];
    size_t n_hex = c == 'x' ? 2 : c == 'u' && !bytes ? 4 : c == 'U' && !bytes ? 8 : 0;

    if (n_hex > 0) {
        int64_t v = hex_number(s, *i, n_hex);
        *i += n_hex;
        if (v < 0 || v > 0x10ffff || (!bytes && v >= 0xd800 && v <= 0xdfff))
            return -1;
        if (!bytes)
            return (int64_t)lmi_utf8_put((uint32_t)v, out);
        out[0] = (uint8_t)v;
        return 1;
    }
    out[0] = c;
    for (size_t k = 0; k + 1 < sizeof plain; k += 2)
        if (plain[k] == c)
            out[0] = (uint8_t)plain[k + 1];
    return 1;
}

/* data NULL when malformed or out of memory. */
static struct lm_span unescape(struct lmi_vocab *b, struct lm_span s, bool bytes)
{
    uint8_t *out = lm_arena_alloc(&b->arena, s.size + 4);
    size_t n = 0;

    for (size_t i = 0; out && i < s.size;) {
        if (s.data[i] != '\\') {
            out[n++] = s.data[i++];
            continue;
        }
        i++;
        int64_t wrote = i < s.size ? unescape_one(s, &i, bytes, out + n) : -1;
        if (wrote < 0)
            return (struct lm_span){NULL, 0};
        n += (size_t)wrote;
    }
    return lm_span_of(out, out ? n : 0);
}

/* ---- the text file */

static bool read_number(struct lm_span s, size_t *i, size_t *out)
{
    size_t begin = *i, v = 0;

    for (; *i < s.size && isdigit(s.data[*i]) && *i - begin < 9; (*i)++)
        v = v * 10 + (size_t)(s.data[*i] - '0');
    *out = v;
    return *i > begin;
}

static int read_line(struct lmi_vocab *b, struct lm_span line, size_t limit, struct lm_err *e)
{
    size_t i = 0, id, n_bytes, last = line.size;

    while (last > 0 && line.data[last - 1] != ' ')
        last--;
    size_t j = last;
    if (!read_number(line, &i, &id) || i + 1 >= last || line.data[i] != ' ' || !read_number(line, &j, &n_bytes))
        return lm_err_set(e, LM_MALFORMED, "expected an id, a quoted piece and its length");
    bool bytes = line.data[++i] == 'b';
    i += bytes;
    size_t end = last - 2; /* of the closing quote */
    if (last < 2 || i >= end || (line.data[i] != '\'' && line.data[i] != '"') || line.data[end] != line.data[i])
        return lm_err_set(e, LM_MALFORMED, "the piece is not in quotes");
    if (id >= limit)
        return lm_err_set(e, LM_MALFORMED, "the id %zu is not below %zu", id, limit);
    struct lm_span text = unescape(b, lm_span_of(line.data + i + 1, end - i - 1), bytes);
    if (!text.data || text.size != n_bytes || n_bytes == 0)
        return lm_err_set(e, LM_MALFORMED, "the piece is no literal of %zu bytes", n_bytes);
    struct lm_piece *p = lmi_vocab_piece(b, id);
    if (!p)
        return lmi_nomem_vocab(e);
    *p = (struct lm_piece){.text = text, .kind = LM_PIECE_NORMAL, .in_model = true};
    return 0;
}

int lmi_rwkv_read(struct lmi_vocab *b, struct lm_span file, struct lm_err *e)
{
    size_t number = 1;

    b->v.algo = LM_VOCAB_GREEDY;
    b->v.source = "RWKV vocabulary";
    for (size_t pos = 0; pos < file.size; number++) {
        const uint8_t *end = memchr(file.data + pos, '\n', file.size - pos);
        size_t n = end ? (size_t)(end - file.data) - pos : file.size - pos;
        size_t bare = n > 0 && file.data[pos + n - 1] == '\r' ? n - 1 : n;
        if (bare > 0 && read_line(b, lm_span_of(file.data + pos, bare), file.size + 2, e) < 0)
            return lm_err_prefix(e, "line %zu", number);
        pos += n + 1;
    }
    if (b->v.n_pieces == 0)
        return lm_err_set(e, LM_MALFORMED, "no pieces: this is no RWKV vocabulary");
    if (!b->pieces[0].text.data) { /* 0 ends a text and has no line */
        b->pieces[0] = (struct lm_piece){.text = lm_span_str("<s>"), .kind = LM_PIECE_CONTROL, .special = true};
        b->v.bos_id = b->v.eos_id = 0;
    }
    return 0;
}

/* ---- GGUF */

struct lm_span lmi_rwkv_to_gguf(struct lm_arena *a, struct lm_span s)
{
    char *out = s.size > SIZE_MAX / 4 - 2 ? NULL : lm_arena_alloc(a, 4 * s.size + 1);
    size_t n = 0;

    for (size_t i = 0; out && i < s.size; i++) {
        uint8_t c = s.data[i];
        const char *name = c == '\n' ? "\\n" : c == '\r' ? "\\r" : c == '\t' ? "\\t" : c == '\\' ? "\\\\" : NULL;
        if (name)
            n += (size_t)sprintf(out + n, "%s", name);
        else if (c < 0x20 || c >= 0x7f)
            n += (size_t)sprintf(out + n, "\\x%02x", c);
        else
            out[n++] = (char)c;
    }
    return lm_span_of(out, n);
}

int lmi_rwkv_from_gguf(struct lmi_vocab *b, struct lm_err *e)
{
    for (size_t i = 0; i < b->v.n_pieces; i++) {
        struct lm_piece *p = &b->pieces[i];
        if (p->kind != LM_PIECE_NORMAL)
            continue;
        p->text = unescape(b, p->text, true);
        if (!p->text.data)
            return lm_err_set(e, LM_MALFORMED, "token %zu is no text with Python's escapes", i);
    }
    return 0;
}

/* Every piece as bytes: literals that any reader of the format evaluates. */
void lmi_rwkv_write(struct lmi_buf *out, const struct lm_vocab *v)
{
    for (size_t id = 0; id < v->n_pieces; id++) {
        struct lm_arena a = {0};
        struct lm_span text = v->pieces[id].text, escaped = lmi_rwkv_to_gguf(&a, text);
        char number[40];
        if (v->pieces[id].kind == LM_PIECE_NORMAL) {
            snprintf(number, sizeof number, "%zu b\"", id);
            lmi_buf_str(out, number);
            for (size_t i = 0; i < escaped.size; i++) {
                if (escaped.data[i] == '"')
                    lmi_buf_str(out, "\\");
                lmi_buf_add(out, &escaped.data[i], 1);
            }
            snprintf(number, sizeof number, "\" %zu\n", text.size);
            lmi_buf_str(out, number);
        }
        out->failed |= !escaped.data && text.size > 0;
        lm_arena_free(&a);
    }
}
