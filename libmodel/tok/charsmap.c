/* The blob: u32 bytes of the trie, the trie as units of a Darts-clone double
 * array, then replacements, each ended by NUL.
 * A unit: bits 0-7 and 31 label, 8 "a value follows", 9 "offset is << 8",
 * 10-30 offset to the children (by xor); a unit with bit 31 is a value, the
 * place of the replacement in the texts.
 * https://github.com/s-yata/darts-clone, sentencepiece/src/normalizer.cc
 * Everything in it comes from a file, so all units are proven on opening: a
 * node's children block lies inside (the array is whole blocks of 256 units,
 * and xor with a label stays in its block), a value lies inside the texts, and
 * the texts end with NUL. */
#include "libmodel/tok/charsmap.h"

/* Longer rules do not exist; a loop in the array must end somewhere. */
enum { BLOCK = 256, LONGEST_RULE = 1024 };

static inline uint32_t unit_at(const struct lmi_charsmap *m, uint32_t i)
{
    return lm_load_u32le(m->units.data + (size_t)i * 4);
}

static inline uint32_t offset_of(uint32_t unit)
{
    return (unit >> 10) << ((unit & 0x200) >> 6);
}

static inline bool is_value(uint32_t unit)
{
    return unit >> 31;
}

static inline bool has_value(uint32_t unit)
{
    return unit >> 8 & 1;
}

static int check_unit(const struct lmi_charsmap *m, uint32_t i, struct lm_err *e)
{
    uint32_t unit = unit_at(m, i);

    if (is_value(unit))
        return 0; /* checked from the node that leads to it */
    uint32_t children = i ^ offset_of(unit);
    if (children >= m->n_units)
        return lm_err_set(e, LM_MALFORMED, "precompiled_charsmap: unit %u points to unit %u of %u", i, children,
                          m->n_units);
    if (!has_value(unit))
        return 0;
    uint32_t value = unit_at(m, children);
    if (!is_value(value) || (value & 0x7fffffff) >= m->texts.size)
        return lm_err_set(e, LM_MALFORMED, "precompiled_charsmap: unit %u gives replacement %u of %zu bytes", children,
                          value & 0x7fffffff, m->texts.size);
    return 0;
}

int lmi_charsmap_open(struct lmi_charsmap *m, struct lm_span blob, struct lm_err *e)
{
    struct lm_cursor c = lm_cursor_of(blob);

    *m = (struct lmi_charsmap){0};
    if (blob.size == 0)
        return 0;
    uint32_t n = lm_cur_u32(&c);
    m->units = lm_cur_bytes(&c, n);
    m->n_units = n / 4;
    m->texts = lm_cur_bytes(&c, lm_cur_left(&c));
    if (c.failed || n == 0 || n % (4 * BLOCK) != 0)
        return lm_err_set(e, LM_MALFORMED, "precompiled_charsmap: %u bytes of trie in a blob of %zu, expected a "
                                           "multiple of 1024 that fits", n, blob.size);
    if (m->texts.size == 0 || m->texts.data[m->texts.size - 1] != 0)
        return lm_err_set(e, LM_MALFORMED, "precompiled_charsmap: the replacements do not end with NUL");
    if (is_value(unit_at(m, 0)))
        return lm_err_set(e, LM_MALFORMED, "precompiled_charsmap: the root unit is a value");
    for (uint32_t i = 0; i < m->n_units; i++)
        if (check_unit(m, i, e) < 0)
            return -1;
    return 0;
}

size_t lmi_charsmap_match(const struct lmi_charsmap *m, struct lm_span text, struct lm_span *replacement)
{
    size_t longest = 0, n = text.size < LONGEST_RULE ? text.size : LONGEST_RULE;
    uint32_t value = 0;

    if (m->n_units == 0)
        return 0;
    uint32_t pos = offset_of(unit_at(m, 0));
    for (size_t i = 0; i < n; i++) {
        pos ^= text.data[i];
        uint32_t unit = unit_at(m, pos);
        if ((unit & 0x800000ff) != text.data[i])
            break;
        pos ^= offset_of(unit);
        if (has_value(unit)) {
            longest = i + 1;
            value = unit_at(m, pos) & 0x7fffffff;
        }
    }
    if (longest > 0)
        *replacement = lm_span_str((const char *)m->texts.data + value);
    return longest;
}

bool lmi_charsmap_begins(const struct lmi_charsmap *m, uint8_t byte)
{
    if (m->n_units == 0)
        return false;
    uint32_t pos = offset_of(unit_at(m, 0)) ^ byte, unit = unit_at(m, pos);
    if ((unit & 0x800000ff) != byte)
        return false;
    pos ^= offset_of(unit);
    bool found = has_value(unit);
    for (uint32_t next = 1; next < 0x80; next++)
        found |= (unit_at(m, pos ^ next) & 0x800000ff) == next;
    return found;
}

bool lmi_charsmap_reaches(const struct lmi_charsmap *m, struct lm_span text)
{
    if (m->n_units == 0)
        return false;
    uint32_t pos = offset_of(unit_at(m, 0));
    for (size_t i = 0; i < text.size; i++) {
        uint32_t unit = unit_at(m, pos ^ text.data[i]);
        if ((unit & 0x800000ff) != text.data[i])
            return false;
        if (has_value(unit))
            return true;
        pos ^= text.data[i] ^ offset_of(unit);
    }
    return true;
}
