#include "libmodel/fmt/carried.h"

#include <stdlib.h>

#include "libmodel/fmt/gguf.h"

static const char source[] = "libmodel.source.", all_pairs[] = "libmodel.meta";

bool lmi_is_carried_meta(struct lm_span name)
{
    return lm_span_eq(name, lm_span_str(all_pairs));
}

bool lmi_is_carried(struct lm_span name)
{
    size_t n = sizeof source - 1;

    return lmi_is_carried_meta(name) || (name.size > n && memcmp(name.data, source, n) == 0);
}

/* ---- writing */

/* Safe as the name of a zip's member, of a file and of an HDF5 dataset. */
static bool is_plain(const char *key)
{
    static const char fine[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";

    return strspn(key, fine) == strlen(key) && !strstr(key, "..") && strlen(key) < 200;
}

/* The bytes of a pair that is stored by itself. Which type it had must follow
 * from the bytes: text is UTF-8, bytes are not. */
static bool own_bytes(const char *key, const struct lm_meta_value *v, struct lm_span *out)
{
    if (!lmi_is_carried(lm_span_str(key)) || lmi_is_carried_meta(lm_span_str(key)) || !is_plain(key))
        return false;
    bool text = v->type == LM_META_STR, bytes = v->type == LM_META_ARRAY && v->elem == LM_META_U8;
    *out = text ? v->str : bytes ? lm_span_of(v->data, v->n) : (struct lm_span){NULL, 0};
    return (text || bytes) && lm_utf8_valid(*out) == text;
}

static int add(struct lmi_carried *list, size_t *n, const char *name, struct lm_span bytes, struct lm_err *e)
{
    struct lmi_carried *c = &list[(*n)++];

    c->name = strdup(name);
    c->data = malloc(bytes.size + 1);
    c->n = bytes.size;
    if (!c->name || !c->data)
        return lmi_nomem(e);
    if (bytes.size)
        memcpy(c->data, bytes.data, bytes.size);
    return 0;
}

/* The pairs as they are, but for those stored by themselves. */
static struct lm_meta *thinned(const struct lm_meta *meta)
{
    struct lm_meta *out = lm_meta_new();
    struct lm_span bytes;
    const char *key;

    for (size_t i = 0; out && i < lm_meta_count(meta); i++) {
        const struct lm_meta_value *v = lm_meta_at(meta, i, &key), empty = {.type = LM_META_STR};
        if (lm_meta_set_value(out, key, own_bytes(key, v, &bytes) ? &empty : v) == 0)
            continue;
        lm_meta_free(out);
        return NULL;
    }
    return out;
}

static int add_pairs(struct lmi_carried *list, size_t *n, const struct lm_meta *meta, struct lm_err *e)
{
    struct lm_meta *thin = thinned(meta);
    struct lmi_buffer b = {0};
    int rc = thin ? 0 : lmi_nomem(e);

    if (rc == 0) {
        lmi_gguf_put_pairs(&b, thin);
        rc = b.failed ? lmi_nomem(e) : add(list, n, all_pairs, lm_span_of(b.data, b.n), e);
    }
    free(b.data);
    lm_meta_free(thin);
    return rc;
}

static int check_names(const struct lm_write_spec *spec, struct lm_err *e)
{
    for (size_t i = 0; i < spec->n_tensors; i++)
        if (lmi_is_carried(lm_span_str(spec->tensors[i].name)))
            return lm_err_set(e, LM_UNSUPPORTED, "tensor '%.200s': this name is kept for the metadata that the file carries",
                              spec->tensors[i].name);
    return 0;
}

int lmi_carry(struct lmi_carried **out, size_t *n, const struct lm_write_spec *spec, struct lm_err *e)
{
    size_t count = spec->meta ? lm_meta_count(spec->meta) : 0;
    struct lmi_carried *list = calloc(count + 1, sizeof *list);
    struct lm_span bytes;
    const char *key;

    *out = NULL;
    *n = 0;
    if (!list)
        return lmi_nomem(e);
    int rc = check_names(spec, e);
    if (rc == 0 && count)
        rc = add_pairs(list, n, spec->meta, e);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        const struct lm_meta_value *v = lm_meta_at(spec->meta, i, &key);
        if (own_bytes(key, v, &bytes))
            rc = add(list, n, key, bytes, e);
    }
    if (rc == 0) {
        *out = list;
        return 0;
    }
    lmi_carry_free(list, *n);
    *n = 0;
    return -1;
}

void lmi_carry_free(struct lmi_carried *c, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(c[i].name);
        free(c[i].data);
    }
    free(c);
}

/* ---- reading */

static int read_pairs(struct lm_model *m, struct lm_span bytes, struct lm_err *e)
{
    struct lmi_gguf_header h = {0};

    if (lm_meta_count(m->meta))
        return lm_err_set(e, LM_MALFORMED, "the metadata come twice");
    int rc = lmi_gguf_header_read(&h, bytes, m->meta, &m->arena, e);
    if (rc == 0 && (h.n_tensors || h.data_start < bytes.size))
        rc = lm_err_set(e, LM_MALFORMED, "more than metadata pairs is there");
    lmi_gguf_header_free(&h);
    return rc;
}

int lmi_carried_read(struct lm_model *m, struct lm_span name, struct lm_span bytes, struct lm_err *e)
{
    struct lm_meta_value v = {.type = LM_META_STR, .str = bytes};
    struct lm_span key = name;

    m->sidecar_dir = NULL;
    if (lmi_is_carried_meta(name))
        return read_pairs(m, bytes, e) < 0 ? lm_err_prefix(e, "'%s'", all_pairs) : 0;
    if (!lm_utf8_valid(bytes))
        v = (struct lm_meta_value){.type = LM_META_ARRAY, .elem = LM_META_U8, .n = bytes.size, .data = bytes.data};
    char *text = lm_arena_str(&m->arena, key);
    if (!text || lm_meta_count(m->meta) >= LMI_MAX_META)
        return text ? lm_err_set(e, LM_LIMIT, "more than %d carried files", LMI_MAX_META) : lmi_nomem(e);
    if (memchr(key.data, 0, key.size) || !lm_utf8_valid(key))
        return lm_err_set(e, LM_MALFORMED, "'%.*s' holds a NUL byte or is not UTF-8", LMI_SHOW(key));
    return lm_meta_set_value(m->meta, text, &v) < 0 ? lmi_nomem(e) : 0;
}
