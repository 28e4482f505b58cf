/* Unicode normalization form C, for tokenizers that declare it. */
#include <stdlib.h>
#include <utf8proc.h>

#include "libmodel/tok/engine.h"
#include "libmodel/tok/unicode.h"

/* Below this every character is NFC, alone and beside any other below it. */
enum { FIRST_MARK = 0x300 };

/* Can this character change what stands in front of it? */
static bool may_join(uint32_t cp)
{
    const utf8proc_property_t *p = utf8proc_get_property((utf8proc_int32_t)cp);
    bool hangul = (cp >= 0x1161 && cp <= 0x1175) || (cp >= 0x11a8 && cp <= 0x11c2);

    return p->combining_class != 0 || p->comb_index != UINT16_MAX || hangul;
}

/* A run that is normalized on its own: a character and all that may join it. */
static size_t run_end(struct lm_span t, size_t pos, bool *plain)
{
    *plain = true;
    for (size_t w; (w = lmi_utf8_step(t.data + pos, t.size - pos)) > 0; pos += w) {
        uint32_t cp = lmi_utf8_get(t.data + pos);
        *plain &= cp < FIRST_MARK;
        size_t next = pos + w;
        size_t next_width = lmi_utf8_step(t.data + next, t.size - next);
        if (next_width == 0 || t.data[next] < 0x80 || !may_join(lmi_utf8_get(t.data + next)))
            return next;
    }
    return pos;
}

static int normalize_run(struct lm_span run, size_t from, bool with_map, struct lmi_normal *out, struct lm_err *e)
{
    utf8proc_uint8_t *text = NULL;
    utf8proc_ssize_t n = utf8proc_map(run.data, (utf8proc_ssize_t)run.size, &text, UTF8PROC_STABLE | UTF8PROC_COMPOSE);

    if (n < 0)
        return lm_err_set(e, LM_NOMEM, "cannot normalize to NFC: %s", utf8proc_errmsg(n));
    lmi_normal_add(out, text, (size_t)n, from, with_map);
    free(text);
    return 0;
}

/* Bytes at the start of t that are NFC for certain. */
static size_t plain_prefix(struct lm_span t)
{
    size_t pos = 0, last = 0;

    for (size_t w; (w = lmi_utf8_step(t.data + pos, t.size - pos)) > 0; pos += w) {
        if (t.data[pos] >= 0x80 && lmi_utf8_get(t.data + pos) >= FIRST_MARK)
            return last;
        last = pos;
    }
    return pos == t.size ? pos : last;
}

static void copy(struct lm_span t, size_t from, bool with_map, struct lmi_normal *out)
{
    for (size_t i = 0; with_map && i < t.size; i++)
        lmi_normal_add(out, t.data + i, 1, from + i, true);
    if (!with_map)
        lmi_normal_add(out, t.data, t.size, from, false);
}

int lmi_nfc(struct lm_span t, size_t base, bool with_map, struct lmi_normal *out, struct lm_err *e)
{
    size_t pos = plain_prefix(t);

    if (pos == t.size)
        return 0;
    copy(lm_span_of(t.data, pos), base, with_map, out);
    while (pos < t.size) {
        bool plain;
        size_t end = run_end(t, pos, &plain);
        if (end == pos) { /* ill-formed: utf8proc would refuse it */
            end++;
            plain = true;
        }
        struct lm_span run = lm_span_of(t.data + pos, end - pos);
        if (plain)
            copy(run, base + pos, with_map, out);
        else if (normalize_run(run, base + pos, with_map, out, e) < 0)
            return -1;
        pos = end;
    }
    lmi_normal_end(out, base + t.size, with_map);
    return out->failed ? lm_err_set(e, LM_NOMEM, "out of memory for a normalized text") : 1;
}
