#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <jansson.h>

#include "convert/edit.h"
#include "convert/plan.h"

/* ---- values as they are typed */

static int bad_value(const struct lm_edit *x, const char *expected, struct lm_err *e)
{
    return lm_err_set(e, LM_USAGE, "%s: '%.*s' is no %s", x->key, (int)(x->text.size < 100 ? x->text.size : 100),
                      (const char *)x->text.data, expected);
}

static int parse_unsigned(struct lm_meta_value *v, const struct lm_edit *x, const char *s, struct lm_err *e)
{
    size_t bits = 8 * lm_meta_width(v->type);
    char *end;

    errno = 0;
    v->u = strtoull(s, &end, 0);
    if (errno || *end || end == s || strchr(s, '-') || (bits < 64 && v->u >> bits))
        return bad_value(x, lm_meta_type_name(v->type), e);
    return 0;
}

static int parse_signed(struct lm_meta_value *v, const struct lm_edit *x, const char *s, struct lm_err *e)
{
    size_t bits = 8 * lm_meta_width(v->type);
    char *end;

    errno = 0;
    v->i = strtoll(s, &end, 0);
    if (errno || *end || end == s || (bits < 64 && (v->i >> (bits - 1) != 0 && v->i >> (bits - 1) != -1)))
        return bad_value(x, lm_meta_type_name(v->type), e);
    return 0;
}

static int parse_real(struct lm_meta_value *v, const struct lm_edit *x, const char *s, struct lm_err *e)
{
    char *end;

    v->f = strtod(s, &end);
    if (*end || end == s || (v->type == LM_META_F32 && isinf((float)v->f) && !isinf(v->f)))
        return bad_value(x, lm_meta_type_name(v->type), e);
    if (v->type == LM_META_F32)
        v->f = (float)v->f;
    return 0;
}

static int parse_value(struct lm_meta_value *v, const struct lm_edit *x, int type, struct lm_err *e)
{
    const char *s = (const char *)x->text.data; /* with a NUL behind it: it was typed or read */

    *v = (struct lm_meta_value){.type = (enum lm_meta_type)type};
    switch (v->type) {
    case LM_META_STR:
        v->str = x->text;
        return lm_utf8_valid(x->text) ? 0 : lm_err_set(e, LM_USAGE, "%s: the text is not UTF-8", x->key);
    case LM_META_BOOL:
        v->u = strcmp(s, "true") == 0;
        return v->u || strcmp(s, "false") == 0 ? 0 : bad_value(x, "bool (true or false)", e);
    case LM_META_U8: case LM_META_U16: case LM_META_U32: case LM_META_U64:
        return parse_unsigned(v, x, s, e);
    case LM_META_I8: case LM_META_I16: case LM_META_I32: case LM_META_I64:
        return parse_signed(v, x, s, e);
    case LM_META_F32: case LM_META_F64:
        return parse_real(v, x, s, e);
    case LM_META_ARRAY: case LM_META_N_TYPES:
        break;
    }
    return lm_err_set(e, LM_UNSUPPORTED, "%s is an array: arrays can be deleted and renamed, not set", x->key);
}

static int no_such(const struct lm_edit *x, const char *what, struct lm_err *e)
{
    return lm_err_set(e, LM_MISSING, "there is no %s '%s'", what, x->key);
}

static int exists_already(const struct lm_edit *x, struct lm_err *e)
{
    return lm_err_set(e, LM_USAGE, "'%s' cannot be renamed '%s': that exists already", x->key, x->to);
}

/* ---- GGUF */

/* The same pairs in the same order, one under another key. */
static int rename_key(struct lm_meta **meta, const struct lm_edit *x, struct lm_err *e)
{
    struct lm_meta *copy = lm_meta_new();
    const char *key;
    int rc = copy ? 0 : lmc_nomem(e);

    for (size_t i = 0; rc == 0 && i < lm_meta_count(*meta); i++) {
        const struct lm_meta_value *v = lm_meta_at(*meta, i, &key);
        if (lm_meta_set_value(copy, strcmp(key, x->key) == 0 ? x->to : key, v) < 0)
            rc = lmc_nomem(e);
    }
    if (rc) {
        lm_meta_free(copy);
        return rc;
    }
    lm_meta_free(*meta);
    *meta = copy;
    return 0;
}

static size_t tensor_at(const char *const *names, size_t n, const char *name)
{
    size_t i = 0;

    while (i < n && strcmp(names[i], name) != 0)
        i++;
    return i;
}

static int rename_any(struct lm_meta **meta, const char **names, size_t n, const struct lm_edit *x, struct lm_err *e)
{
    size_t i = tensor_at(names, n, x->key);

    if (!*x->to)
        return lm_err_set(e, LM_USAGE, "'%s' cannot be renamed to nothing", x->key);
    if (i < n) {
        if (tensor_at(names, n, x->to) < n)
            return exists_already(x, e);
        names[i] = x->to;
        return 0;
    }
    if (!lm_meta_get(*meta, x->key))
        return no_such(x, "tensor and no key", e);
    return lm_meta_get(*meta, x->to) ? exists_already(x, e) : rename_key(meta, x, e);
}

static int edit_meta(struct lm_meta **meta, const char **names, size_t n, const struct lm_edit *x, struct lm_err *e)
{
    const struct lm_meta_value *old = lm_meta_get(*meta, x->key);
    struct lm_meta_value v;

    if (x->what == LM_EDIT_RENAME)
        return rename_any(meta, names, n, x, e);
    if (x->what == LM_EDIT_DELETE) {
        if (!old)
            return no_such(x, "key", e);
        lm_meta_remove(*meta, x->key);
        return 0;
    }
    if (parse_value(&v, x, x->type >= 0 ? x->type : old ? (int)old->type : LM_META_STR, e))
        return -1;
    if (!*x->key || lm_meta_set_value(*meta, x->key, &v) < 0)
        return *x->key ? lmc_nomem(e) : lm_err_set(e, LM_USAGE, "a key has no name");
    return 0;
}

int lmc_edit_meta(struct lm_meta **out, const char **names, const struct lm_model *m, const struct lm_edit *edits, size_t n,
                  struct lm_err *e)
{
    const struct lm_meta *old = lm_model_meta(m);
    size_t n_names = lm_model_n_tensors(m);
    const char *key;

    *out = lm_meta_new();
    if (!*out)
        return lmc_nomem(e);
    for (size_t i = 0; i < n_names; i++)
        names[i] = lm_model_tensor(m, i)->name;
    for (size_t i = 0; i < lm_meta_count(old); i++) {
        const struct lm_meta_value *v = lm_meta_at(old, i, &key);
        if (lm_meta_set_value(*out, key, v) < 0)
            return lmc_nomem(e);
    }
    for (size_t i = 0; i < n; i++)
        if (edit_meta(out, names, n_names, &edits[i], e))
            return -1;
    return 0;
}

/* ---- safetensors: the header's JSON, everything else of it in its order */

static int rename_member(json_t **object, const struct lm_edit *x, struct lm_err *e)
{
    json_t *copy = json_object(), *value;
    const char *key;

    if (json_object_get(*object, x->to)) {
        json_decref(copy);
        return exists_already(x, e);
    }
    json_object_foreach(*object, key, value)
        json_object_set(copy, strcmp(key, x->key) == 0 ? x->to : key, value);
    json_decref(*object);
    *object = copy;
    return 0;
}

static int rename_in_header(json_t **root, const struct lm_edit *x, struct lm_err *e)
{
    json_t *meta = json_object_get(*root, "__metadata__");
    int rc;

    if (!*x->to || strcmp(x->to, "__metadata__") == 0)
        return lm_err_set(e, LM_USAGE, "'%s' cannot be renamed '%s'", x->key, x->to);
    if (json_object_get(*root, x->key) && strcmp(x->key, "__metadata__") != 0)
        return rename_member(root, x, e);
    if (!json_object_get(meta, x->key))
        return no_such(x, "tensor and no key", e);
    json_incref(meta);
    rc = rename_member(&meta, x, e);
    json_object_set_new(*root, "__metadata__", meta);
    return rc;
}

/* __metadata__ in front of the tensors, where every writer has it. */
static json_t *metadata_of(json_t **root)
{
    json_t *meta = json_object_get(*root, "__metadata__");

    if (!json_is_object(meta)) {
        json_t *copy = json_object();
        json_object_set_new(copy, "__metadata__", json_object());
        json_object_update(copy, *root);
        json_decref(*root);
        *root = copy;
        meta = json_object_get(copy, "__metadata__");
    }
    return meta;
}

static int edit_header(json_t **root, const struct lm_edit *x, struct lm_err *e)
{
    if (x->what == LM_EDIT_RENAME)
        return rename_in_header(root, x, e);
    if (x->what == LM_EDIT_DELETE)
        return json_object_del(json_object_get(*root, "__metadata__"), x->key) == 0 ? 0 : no_such(x, "key", e);
    if (x->type >= 0 && x->type != LM_META_STR)
        return lm_err_set(e, LM_USAGE, "%s: metadata of safetensors are texts, not %s", x->key,
                          lm_meta_type_name((enum lm_meta_type)x->type));
    if (strcmp(x->key, "tokenizer.chat_template") == 0)
        return lm_err_set(e, LM_USAGE, "a safetensors file has no chat template: it is in chat_template.jinja or "
                          "tokenizer_config.json beside it");
    json_t *value = json_stringn((const char *)x->text.data, x->text.size);
    if (!value || !*x->key)
        return lm_err_set(e, LM_USAGE, "%s: the text is not UTF-8", x->key);
    return json_object_set_new(metadata_of(root), x->key, value) == 0 ? 0 : lmc_nomem(e);
}

int lmc_edit_header(char **out, struct lm_span header, const struct lm_edit *edits, size_t n, struct lm_err *e)
{
    json_error_t why;
    json_t *root = json_loadb((const char *)header.data, header.size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    int rc = json_is_object(root) ? 0 : lm_err_set(e, LM_UNSUPPORTED, "the header cannot be edited: %s", why.text);

    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = edit_header(&root, &edits[i], e);
    *out = rc == 0 ? json_dumps(root, JSON_COMPACT) : NULL;
    if (rc == 0 && !*out)
        rc = lmc_nomem(e);
    json_decref(root);
    return rc;
}
