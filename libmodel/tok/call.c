/* What both algorithms share while they encode. */
#include <stdlib.h>

#include "libmodel/tok/engine.h"

int lmi_call_nomem(struct lmi_call *c)
{
    return lm_err_set(c->e, LM_NOMEM, "out of memory after %zu tokens", c->out->n);
}

static bool grow(struct lm_ids *o, size_t capacity, bool offsets)
{
    int32_t *ids = capacity > SIZE_MAX / 16 ? NULL : realloc(o->ids, capacity * sizeof *ids);

    if (!ids)
        return false;
    o->ids = ids;
    if (offsets) {
        struct lm_offsets *p = realloc(o->offsets, capacity * sizeof *p);
        if (!p)
            return false;
        o->offsets = p;
    }
    o->capacity = capacity;
    return true;
}

int lmi_call_reserve(struct lmi_call *c, size_t n)
{
    struct lm_ids *o = c->out;

    if (n <= o->capacity - o->n)
        return 0;
    size_t capacity = o->capacity + o->capacity / 2 + n + 64;
    return capacity < n || !grow(o, capacity, c->offsets) ? lmi_call_nomem(c) : 0;
}

uint32_t *lmi_call_symbols(struct lmi_call *c, size_t n)
{
    if (n <= c->ids_capacity)
        return c->ids;
    if (n >= INT32_MAX) {
        lm_err_set(c->e, LM_LIMIT, "a word of %zu bytes, at most 2 GB are handled", n);
        return NULL;
    }
    uint32_t *p = realloc(c->ids, (n + 64) * sizeof *p);
    if (!p) {
        lmi_call_nomem(c);
        return NULL;
    }
    c->ids = p;
    c->ids_capacity = n + 64;
    return p;
}

bool lmi_cache_get(struct lmi_call *c, const struct lmi_slot *slot, const uint64_t key[2], size_t begin, size_t n)
{
    if (slot->n_bytes != n || slot->key[0] != key[0] || slot->key[1] != key[1])
        return false;
    size_t n_ids = slot->n_ids, from = c->out->n;
    if (n_ids <= LMI_CACHED_IDS) /* three are copied whatever n_ids is; lmi_byte_encode and lmi_spm_encode reserve them */
        memcpy(c->out->ids + from, slot->ids, sizeof slot->ids);
    else
        memcpy(c->out->ids + from, c->out->ids + slot->ids[0], n_ids * sizeof *c->out->ids);
    if (!c->offsets) {
        c->out->n += n_ids;
        return true;
    }
    for (size_t i = 0; i < n_ids; i++) {
        uint32_t id = (uint32_t)c->out->ids[from + i];
        lmi_call_emit(c, id, begin, begin + c->t->length[id]);
        begin += c->t->length[id];
    }
    return true;
}

void lmi_cache_put(struct lmi_call *c, struct lmi_slot *slot, const uint64_t key[2], size_t n, size_t from)
{
    size_t n_ids = c->out->n - from;

    if (n_ids > LMI_CACHED_BYTES || from > UINT32_MAX)
        return;
    slot->key[0] = key[0];
    slot->key[1] = key[1];
    slot->n_bytes = (uint8_t)n;
    slot->n_ids = (uint8_t)n_ids;
    if (n_ids > LMI_CACHED_IDS)
        slot->ids[0] = (uint32_t)from;
    else
        memcpy(slot->ids, c->out->ids + from, n_ids * sizeof *slot->ids);
}

/* ---- normalized text */

static bool more(struct lmi_normal *o, size_t n, bool with_map)
{
    size_t capacity = o->capacity + o->capacity / 2 + n + 256;

    if (n > SIZE_MAX / 64 || capacity > SIZE_MAX / sizeof *o->map)
        return false;
    uint8_t *text = realloc(o->text, capacity);
    if (!text)
        return false;
    o->text = text;
    if (with_map) {
        size_t *map = realloc(o->map, capacity * sizeof *map);
        if (!map)
            return false;
        o->map = map;
    }
    o->capacity = capacity;
    return true;
}

void lmi_normal_add(struct lmi_normal *o, const uint8_t *s, size_t n, size_t from, bool with_map)
{
    if (o->failed || (n >= o->capacity - o->n && !more(o, n, with_map))) { /* >=: the map has one place more */
        o->failed = true;
        return;
    }
    memcpy(o->text + o->n, s, n);
    for (size_t i = 0; with_map && i < n; i++)
        o->map[o->n + i] = from;
    o->n += n;
}

void lmi_normal_end(struct lmi_normal *o, size_t from, bool with_map)
{
    lmi_normal_add(o, (const uint8_t *)"", 0, from, with_map);
    if (!o->failed && with_map)
        o->map[o->n] = from;
}

void lmi_normal_free(struct lmi_normal *o)
{
    free(o->text);
    free(o->map);
}
