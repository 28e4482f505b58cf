/* PyTorch before 1.6, one after the other:
 *
 *   pickle of the number 0x1950a86a20f9469cfc6c, written as LONG1 and nothing else
 *   pickle of the protocol, 1001
 *   pickle of a dict: protocol_version, little_endian, type_sizes
 *   pickle of the object; persistent ids name storages
 *   pickle of the list of storage keys
 *   for each key: i64 number of elements, then their bytes
 */
#include <stdlib.h>

#include "libmodel/fmt/pytorch.h"

static const uint8_t magic[] = {0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, '.'};
static const uint8_t framed[] = {0x95, sizeof magic, 0, 0, 0, 0, 0, 0, 0};

struct seen {
    const struct lmi_torch_storage **storages;
    size_t n, capacity;
    struct lm_map *by_key;
};

struct legacy {
    struct lmi_torch *t;
    struct lmi_unpickler u;
    struct seen seen;
};

/* Bytes of the first pickle, 0 when it is not that of the number. Protocol 2
 * unless one asked for another; from 4 on there is a frame around it. */
static size_t magic_size(struct lm_span f)
{
    struct lm_cursor c = lm_cursor_of(f);
    uint8_t opcode = lm_cur_u8(&c), protocol = lm_cur_u8(&c);

    if (opcode != 0x80 || protocol < 2 || protocol > 5)
        return 0;
    if (protocol >= 4 && !lm_span_eq(lm_cur_bytes(&c, sizeof framed), lm_span_of(framed, sizeof framed)))
        return 0;
    return lm_span_eq(lm_cur_bytes(&c, sizeof magic), lm_span_of(magic, sizeof magic)) ? c.pos : 0;
}

bool lmi_torch_is_legacy(struct lm_span f)
{
    return magic_size(f) > 0;
}

/* Remembers each record once: its size is needed when its bytes come. */
static int remember(struct legacy *l, const struct lmi_torch_storage *s, struct lm_err *e)
{
    struct seen *x = &l->seen;
    size_t i = lm_map_get(x->by_key, s->key);

    if (i != SIZE_MAX)
        return x->storages[i]->n_bytes == s->n_bytes
                   ? 0
                   : lm_err_set(e, LM_MALFORMED, "storage '%.*s' is said to have %llu bytes and %llu bytes", LMI_SHOW(s->key),
                                (unsigned long long)x->storages[i]->n_bytes, (unsigned long long)s->n_bytes);
    if (x->n == x->capacity) {
        size_t capacity = x->capacity ? x->capacity * 2 : 64;
        const struct lmi_torch_storage **bigger = reallocarray(x->storages, capacity, sizeof *bigger);
        if (!bigger)
            return lmi_nomem(e);
        x->storages = bigger;
        x->capacity = capacity;
    }
    x->storages[x->n] = s;
    return lm_map_put(x->by_key, s->key, x->n++) < 0 ? lmi_nomem(e) : 0;
}

static int persistent(struct lmi_unpickler *u, const struct lmi_pk *id, struct lmi_pk *out)
{
    if (lmi_torch_persistent(u, id, out) < 0)
        return -1;
    return remember(u->user, out->data, u->e);
}

static int read_head(struct legacy *l, struct lm_err *e)
{
    struct lmi_pk protocol, info;
    const struct lmi_pk *little;

    if (lmi_unpickle(&l->u, &protocol) < 0)
        return -1;
    if (protocol.kind != LMI_PK_INT || protocol.i != 1001)
        return lm_err_set(e, LM_UNSUPPORTED, "the protocol of the file is not 1001");
    if (lmi_unpickle(&l->u, &info) < 0)
        return -1;
    little = info.kind == LMI_PK_DICT ? lmi_pk_get(info.list, "little_endian") : NULL;
    if (!little || little->kind != LMI_PK_BOOL)
        return lm_err_set(e, LM_MALFORMED, "the file does not say whether it is little-endian");
    l->t->big_endian = !little->i;
    return 0;
}

static int read_storage(struct legacy *l, const struct lmi_pk *key, struct lm_err *e)
{
    struct lm_cursor *in = &l->u.in;
    struct lm_span name = lmi_pk_text(key);
    size_t i = key->kind == LMI_PK_STR ? lm_map_get(l->seen.by_key, name) : SIZE_MAX;

    if (i == SIZE_MAX)
        return lm_err_set(e, LM_MALFORMED, "storage '%.*s' belongs to no tensor", LMI_SHOW(name));
    const struct lmi_torch_storage *s = l->seen.storages[i];
    in->big_endian = l->t->big_endian;
    uint64_t n = lm_cur_u64(in);
    in->big_endian = false;
    uint64_t offset = in->pos;
    lm_cur_bytes(in, s->n_bytes);
    if (!in->failed && n != s->n_elems)
        return lm_err_set(e, LM_MALFORMED, "storage '%.*s' should have %llu elements, the file says %llu", LMI_SHOW(name),
                          (unsigned long long)s->n_elems, (unsigned long long)n);
    if (in->failed)
        return lm_err_set(e, LM_MALFORMED, "storage '%.*s' (%llu bytes at %llu) ends beyond the file of %zu bytes; the file "
                          "is cut short or not completely downloaded", LMI_SHOW(name), (unsigned long long)s->n_bytes,
                          (unsigned long long)offset, in->all.size);
    struct lmi_blob b = {.file = l->t->file, .offset = offset, .n_stored = s->n_bytes, .n_bytes = s->n_bytes};
    return lmi_torch_add_blob(l->t, s->key, b, e);
}

static int read_storages(struct legacy *l, struct lm_err *e)
{
    struct lmi_pk keys;

    if (lmi_unpickle(&l->u, &keys) < 0)
        return -1;
    if (keys.kind != LMI_PK_LIST)
        return lm_err_set(e, LM_MALFORMED, "there is no list of storages after the object");
    for (uint32_t i = 0; i < keys.list->n; i++)
        if (read_storage(l, &keys.list->items[i], e) < 0)
            return -1;
    if (lm_cur_left(&l->u.in))
        return lm_err_set(e, LM_MALFORMED, "%zu bytes follow the last storage", lm_cur_left(&l->u.in));
    return 0;
}

int lmi_torch_read_legacy(struct lmi_torch *t, struct lmi_view_list *out, struct lm_err *e)
{
    struct legacy l = {.t = t, .u = {.in = lm_cursor_of(t->m->files[t->file].map), .arena = &t->arena, .e = e,
                                     .globals = lmi_torch_globals, .n_globals = lmi_torch_n_globals,
                                     .persistent = persistent, .user = &l}};
    struct lmi_pk root;
    int rc = -1;

    l.u.in.pos = magic_size(l.u.in.all);
    l.seen.by_key = lm_map_new(0);
    if (!l.seen.by_key)
        lmi_nomem(e);
    else if (read_head(&l, e) == 0 && lmi_unpickle(&l.u, &root) == 0 && read_storages(&l, e) == 0)
        rc = lmi_torch_collect(t, &root, out, e);
    lm_map_free(l.seen.by_key);
    free(l.seen.storages);
    lmi_unpickler_free(&l.u);
    return rc;
}
