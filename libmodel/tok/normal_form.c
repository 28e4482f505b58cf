/* Unicode's normal forms, with where every character came from. The rules are
 * utf8proc's, but for characters newer than Unicode 12: those are plain, as in
 * Hugging Face's library. Ill-formed bytes stay.
 *
 * A character of the result carries a tag: 1 it was put in, 0 it replaces one,
 * -k it replaces one and the k behind it are gone. Composing adds the tags of
 * the two and takes one off. Walking the tags gives the places. */
#include <stdlib.h>
#include <utf8proc.h>

#include "libmodel/tok/pipeline.h"
#include "libmodel/tok/unicode.h"

/* Below this no character joins the one in front of it, nor is it changed by a
 * canonical form when nothing joins it. */
enum { FIRST_MARK = 0x300, LONGEST = 32 };

struct unit {
    uint32_t cp;
    int32_t tag;
    uint8_t class; /* canonical combining class */
};

struct run {
    struct unit *units;
    size_t n, capacity;
    bool failed;
};

static uint8_t combining_class(uint32_t cp)
{
    return lmi_newer_than_forms(cp) ? 0 : (uint8_t)utf8proc_get_property((utf8proc_int32_t)cp)->combining_class;
}

static void put_unit(struct run *r, uint32_t cp, int32_t tag)
{
    if (r->n == r->capacity) {
        size_t capacity = 2 * r->capacity + 64;
        struct unit *p = realloc(r->units, capacity * sizeof *p);
        if (!p) {
            r->failed = true;
            return;
        }
        r->units = p;
        r->capacity = capacity;
    }
    r->units[r->n++] = (struct unit){cp, tag, cp < FIRST_MARK ? 0 : combining_class(cp)};
}

static size_t decompose(uint32_t cp, bool compatible, utf8proc_int32_t to[LONGEST])
{
    int boundary = 0;
    utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;

    to[0] = (utf8proc_int32_t)cp;
    if (cp < 0x80 || lmi_newer_than_forms(cp))
        return 1;
    if (compatible)
        options |= UTF8PROC_COMPAT;
    utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)cp, to, LONGEST, options, &boundary);
    return n > 0 && n <= LONGEST ? (size_t)n : 1;
}

/* Can this character, or the first of what it decomposes to, change what stands in
 * front of it? */
static bool may_join(uint32_t cp, bool compatible)
{
    utf8proc_int32_t to[LONGEST];

    if (cp < FIRST_MARK)
        return false;
    if (compatible && decompose(cp, true, to) > 0)
        cp = (uint32_t)to[0];
    const utf8proc_property_t *p = utf8proc_get_property((utf8proc_int32_t)cp);
    bool hangul = (cp >= 0x1161 && cp <= 0x1175) || (cp >= 0x11a8 && cp <= 0x11c2);

    return p->combining_class != 0 || p->comb_index != UINT16_MAX || hangul || cp == 0xf73 || cp == 0xf75 || cp == 0xf81;
}

/* Is a character alone its own normal form? false is not certain. */
static bool stays(uint32_t cp, bool compatible, bool composed)
{
    if (cp < FIRST_MARK && !compatible)
        return composed || cp < 0xc0;
    const utf8proc_property_t *p = utf8proc_get_property((utf8proc_int32_t)cp);
    bool hangul = cp >= 0xac00 && cp <= 0xd7a3;
    return cp < 0x80 || (p->decomp_seqindex == UINT16_MAX && p->combining_class == 0 && !hangul);
}

/* End of the characters from pos on that are normalized together. *plain: none
 * of them changes. */
static size_t run_end(const struct lmi_text *t, size_t pos, bool compatible, bool composed, bool *plain)
{
    struct lmi_char c = lmi_char_at(t->bytes + pos, t->n - pos);

    *plain = stays(c.cp, compatible, composed);
    for (size_t end = pos;;) {
        end += c.width;
        if (end == t->n || t->bytes[end] < 0x80)
            return end;
        struct lmi_char next = lmi_char_at(t->bytes + end, t->n - end);
        if (next.width == 1 || !may_join(next.cp, compatible))
            return end;
        *plain = false;
        c = next;
    }
}

/* Marks of one run in the order of their classes, equal ones as they stood. */
static int by_class(const void *a, const void *b)
{
    const struct unit *x = a, *y = b;

    return x->class != y->class ? x->class - y->class : 0;
}

static void merge_sort(struct unit *u, struct unit *spare, size_t n)
{
    if (n < 2)
        return;
    size_t half = n / 2, i = 0, j = half, k = 0;
    merge_sort(u, spare, half);
    merge_sort(u + half, spare, n - half);
    while (i < half && j < n)
        spare[k++] = by_class(&u[j], &u[i]) < 0 ? u[j++] : u[i++];
    while (i < half)
        spare[k++] = u[i++];
    while (j < n)
        spare[k++] = u[j++];
    memcpy(u, spare, n * sizeof *u);
}

static void order_marks(struct run *r)
{
    struct unit *spare = NULL;

    for (size_t i = 0, end; i < r->n; i = end) {
        bool sorted = true;
        for (end = i; end < r->n && r->units[end].class != 0; end++)
            sorted &= end == i || r->units[end - 1].class <= r->units[end].class;
        if (!sorted) {
            if (!spare && !(spare = malloc(r->n * sizeof *spare))) {
                r->failed = true;
                return;
            }
            merge_sort(r->units + i, spare, end - i);
        }
        end += end == i;
    }
    free(spare);
}

/* 0 when the two do not compose. */
static uint32_t pair_of(uint32_t a, uint32_t b)
{
    utf8proc_int32_t both[2] = {(utf8proc_int32_t)a, (utf8proc_int32_t)b};

    if (b < FIRST_MARK || lmi_newer_than_forms(a) || lmi_newer_than_forms(b))
        return 0;
    if (utf8proc_normalize_utf32(both, 2, UTF8PROC_STABLE | UTF8PROC_COMPOSE) != 1 ||
        lmi_newer_than_forms((uint32_t)both[0]))
        return 0;
    return (uint32_t)both[0];
}

static void compose(struct run *r)
{
    size_t starter = SIZE_MAX, n = 0;
    int last = -1; /* class of the mark in front; -1: the starter itself is */

    for (size_t i = 0; i < r->n; i++) {
        struct unit u = r->units[i];
        uint32_t cp = starter != SIZE_MAX && last < (int)u.class ? pair_of(r->units[starter].cp, u.cp) : 0;
        if (cp) {
            r->units[starter].cp = cp;
            r->units[starter].tag += u.tag - 1;
            continue;
        }
        if (u.class == 0) {
            starter = n;
            last = -1;
        } else {
            last = u.class;
        }
        r->units[n++] = u;
    }
    r->n = n;
}

static void put_run(const struct run *r, const struct lmi_text *in, size_t begin, size_t end, struct lmi_text *out)
{
    size_t pos = begin, last = begin;

    for (size_t i = 0; i < r->n; i++) {
        const struct unit *u = &r->units[i];
        if (u->tag <= 0 && pos < end)
            last = pos;
        lmi_text_put_char(out, u->cp, lmi_text_from(in, u->tag > 0 && pos > 0 ? pos - 1 : last));
        for (int32_t k = u->tag; k <= 0 && pos < end; k++)
            pos += lmi_char_at(in->bytes + pos, end - pos).width;
    }
}

static void normalize_run(struct run *r, const struct lmi_text *in, size_t begin, size_t end, bool compatible, bool composed,
                          struct lmi_text *out)
{
    r->n = 0;
    for (size_t i = begin; i < end;) {
        struct lmi_char c = lmi_char_at(in->bytes + i, end - i);
        utf8proc_int32_t to[LONGEST];
        size_t n = decompose(c.cp, compatible, to);
        for (size_t k = 0; k < n; k++)
            put_unit(r, (uint32_t)to[k], k > 0);
        i += c.width;
    }
    order_marks(r);
    if (composed)
        compose(r);
    out->failed |= r->failed;
    put_run(r, in, begin, end, out);
}

void lmi_normal_form(const struct lmi_text *in, bool compatible, bool composed, struct lmi_text *out)
{
    struct run r = {0};

    for (size_t i = 0; i < in->n && !out->failed;) {
        size_t ascii = i;
        while (ascii < in->n && in->bytes[ascii] < 0x80)
            ascii++;
        size_t copy = ascii < in->n && ascii > i ? ascii - 1 : ascii;
        lmi_text_copy(out, in, i, copy); /* the last may be joined by what follows */
        i = copy;
        if (i == in->n)
            break;
        bool plain;
        size_t end = run_end(in, i, compatible, composed, &plain);
        bool ill_formed = in->bytes[i] >= 0x80 && lmi_utf8_step(in->bytes + i, in->n - i) == 0;
        if (plain || ill_formed)
            lmi_text_copy(out, in, i, end);
        else
            normalize_run(&r, in, i, end, compatible, composed, out);
        i = end;
    }
    free(r.units);
}
