#include "libmodel/tok/added.h"

#include <stdlib.h>

#include "libmodel/tok/unicode.h"

int lmi_added_put(struct lmi_added *a, struct lmi_added_item item, struct lm_err *e)
{
    if (item.text.size == 0)
        return 0;
    if (item.text.size > LMI_MAX_ADDED_BYTES)
        return lm_err_set(e, LM_LIMIT, "added token %u has %zu bytes, at most %d are handled", item.id, item.text.size,
                          LMI_MAX_ADDED_BYTES);
    if (a->n == a->capacity) {
        size_t capacity = a->capacity ? 2 * a->capacity : 64;
        struct lmi_added_item *p = realloc(a->items, capacity * sizeof *p);
        if (!p)
            return lm_err_set(e, LM_NOMEM, "out of memory for a tokenizer");
        a->items = p;
        a->capacity = capacity;
    }
    a->items[a->n++] = item;
    a->longest = item.text.size > a->longest ? item.text.size : a->longest;
    return 0;
}

void lmi_added_free(struct lmi_added *a)
{
    free(a->items);
}

static int compare_text(struct lm_span a, struct lm_span b)
{
    size_t n = a.size < b.size ? a.size : b.size;
    int c = memcmp(a.data, b.data, n);

    return c != 0 ? c : (a.size > b.size) - (a.size < b.size);
}

static int compare_items(const void *a, const void *b)
{
    const struct lmi_added_item *x = a, *y = b;
    int c = compare_text(x->text, y->text);

    return c != 0 ? c : (x->id > y->id) - (x->id < y->id);
}

void lmi_added_finish(struct lmi_added *a)
{
    size_t kept = 0;

    a->only_first = -1;
    if (a->n > 0)
        qsort(a->items, a->n, sizeof *a->items, compare_items);
    for (size_t i = 0; i < a->n; i++)
        if (kept == 0 || !lm_span_eq(a->items[kept - 1].text, a->items[i].text))
            a->items[kept++] = a->items[i];
    a->n = kept;
    for (size_t i = 0; i < a->n; i++) {
        a->any_ordinary |= !a->items[i].special;
        a->first[a->items[i].text.data[0]] = true;
    }
    if (a->n > 0 && a->items[0].text.data[0] == a->items[a->n - 1].text.data[0])
        a->only_first = a->items[0].text.data[0];
}

/* First item in [low, high) whose byte at `depth` is at least `byte`; all of
 * them are longer than depth. */
static size_t lower_bound(const struct lmi_added *a, size_t low, size_t high, size_t depth, unsigned byte)
{
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (a->items[mid].text.data[depth] < byte)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* Narrows the sorted list byte by byte; an item that ends here is the first of
 * its range. */
const struct lmi_added_item *lmi_added_at(const struct lmi_added *a, struct lm_span text)
{
    const struct lmi_added_item *best = NULL;
    size_t low = 0, high = a->n;

    for (size_t depth = 0; depth < text.size && low < high; depth++) {
        low = lower_bound(a, low, high, depth, text.data[depth]);
        high = lower_bound(a, low, high, depth, text.data[depth] + 1u);
        if (low < high && a->items[low].text.size == depth + 1)
            best = &a->items[low++];
    }
    return best;
}

/* ---- what may stand around a match */

static size_t char_before(struct lm_span text, size_t pos)
{
    size_t at = pos - 1;

    while (at > 0 && pos - at < 4 && (text.data[at] & 0xc0) == 0x80)
        at--;
    return lmi_utf8_step(text.data + at, pos - at) == pos - at ? at : pos - 1;
}

/* The character at pos; U+FFFD when it is ill-formed. */
static uint32_t char_at(struct lm_span text, size_t pos)
{
    return lmi_utf8_step(text.data + pos, text.size - pos) ? lmi_utf8_get(text.data + pos) : 0xfffd;
}

static bool word_at(struct lm_span text, size_t pos)
{
    return lmi_class_of(char_at(text, pos)) & LMI_WORD;
}

static bool stands_alone(struct lm_span text, size_t begin, size_t end)
{
    return (begin == 0 || !word_at(text, char_before(text, begin))) && (end == text.size || !word_at(text, end));
}

/* In a text where ' ' stands for U+2581 it is no space. */
static bool space_at(const struct lmi_added *a, struct lm_span text, size_t pos)
{
    return (lmi_class_of(char_at(text, pos)) & LMI_SPACE) && !(a->marked && text.data[pos] == ' ');
}

static size_t spaces_before(const struct lmi_added *a, struct lm_span text, size_t pos, size_t from)
{
    while (pos > from) {
        size_t at = char_before(text, pos);
        if (at < from || !space_at(a, text, at))
            break;
        pos = at;
    }
    return pos > from ? pos : from;
}

static size_t spaces_after(const struct lmi_added *a, struct lm_span text, size_t pos)
{
    while (pos < text.size && space_at(a, text, pos))
        pos += lmi_utf8_width(text.data[pos]);
    return pos;
}

/* First place at or after pos where an item may begin; text.size if none. */
static size_t candidate(const struct lmi_added *a, struct lm_span text, size_t pos)
{
    if (a->only_first >= 0) {
        const uint8_t *p = memchr(text.data + pos, a->only_first, text.size - pos);
        return p ? (size_t)(p - text.data) : text.size;
    }
    while (pos < text.size && !a->first[text.data[pos]])
        pos++;
    return pos;
}

const struct lmi_added_item *lmi_added_find(const struct lmi_added *a, struct lm_span text, bool special,
                                            struct lmi_match *m)
{
    if (a->n == 0 || (!special && !a->any_ordinary))
        return NULL;
    while (m->search < text.size) {
        size_t pos = candidate(a, text, m->search);
        const struct lmi_added_item *item =
            pos < text.size ? lmi_added_at(a, lm_span_of(text.data + pos, text.size - pos)) : NULL;
        if (!item) {
            m->search = pos + 1;
            continue;
        }
        size_t stop = m->search = pos + item->text.size;
        if ((!item->special || special) && (!item->single_word || stands_alone(text, pos, stop))) {
            m->begin = item->lstrip ? spaces_before(a, text, pos, m->end) : pos;
            m->end = item->rstrip ? spaces_after(a, text, stop) : stop;
            if (m->begin < m->end) /* else the match before took in all of it */
                return item;
        }
    }
    return NULL;
}
