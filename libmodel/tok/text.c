#include "libmodel/tok/text.h"

#include <stdlib.h>

#include "libmodel/tok/unicode.h"

void lmi_text_clear(struct lmi_text *t)
{
    t->n = 0;
    t->failed = false;
}

void lmi_text_free(struct lmi_text *t)
{
    free(t->bytes);
    free(t->from);
}

static bool reserve(struct lmi_text *t, size_t n)
{
    if (t->failed)
        return false;
    if (n <= t->capacity - t->n)
        return true;
    size_t capacity = t->capacity + t->capacity / 2 + n + 256;
    t->failed = n > SIZE_MAX / 64 || capacity > SIZE_MAX / 64;
    uint8_t *bytes = t->failed ? NULL : realloc(t->bytes, capacity);
    t->bytes = bytes ? bytes : t->bytes;
    struct lm_offsets *from = t->mapped && bytes ? realloc(t->from, capacity * sizeof *from) : NULL;
    t->from = from ? from : t->from;
    t->failed |= !bytes || (t->mapped && !from);
    if (!t->failed)
        t->capacity = capacity;
    return !t->failed;
}

void lmi_text_put(struct lmi_text *t, const uint8_t *s, size_t n, struct lm_offsets from)
{
    if (n == 0 || !reserve(t, n))
        return;
    memcpy(t->bytes + t->n, s, n);
    for (size_t i = 0; t->mapped && i < n; i++)
        t->from[t->n + i] = from;
    t->n += n;
}

void lmi_text_put_char(struct lmi_text *t, uint32_t cp, struct lm_offsets from)
{
    uint8_t buf[4];

    lmi_text_put(t, buf, lmi_utf8_put(cp, buf), from);
}

void lmi_text_copy(struct lmi_text *t, const struct lmi_text *src, size_t begin, size_t end)
{
    if (begin == end || !reserve(t, end - begin))
        return;
    memcpy(t->bytes + t->n, src->bytes + begin, end - begin);
    if (t->mapped)
        memcpy(t->from + t->n, src->from + begin, (end - begin) * sizeof *t->from);
    t->n += end - begin;
}

void lmi_text_start(struct lmi_text *t, struct lm_span part, size_t base)
{
    lmi_text_clear(t);
    if (part.size == 0 || !reserve(t, part.size))
        return;
    memcpy(t->bytes, part.data, part.size);
    t->n = part.size;
    for (size_t i = 0; t->mapped && i < part.size;) {
        size_t w = lmi_char_at(part.data + i, part.size - i).width;
        for (size_t k = 0; k < w; k++)
            t->from[i + k] = (struct lm_offsets){base + i, base + i + w};
        i += w;
    }
}
