/* The output's metadata: hyper-parameters, vocabulary and, in a GGUF that
 * keeps every dtype, the original's small files and headers, so that the way
 * back gives the same bytes. */
#include <stdio.h>
#include <stdlib.h>

#include <jansson.h>

#include "convert/plan.h"

enum { MAX_EMBEDDED = 32 << 20 };

static int check(int rc, struct lm_err *e)
{
    return rc < 0 ? lmc_nomem(e) : 0;
}

static int set_str(struct lm_plan *p, const char *key, const char *value, struct lm_err *e)
{
    return check(lm_meta_set_str(p->meta, key, lm_span_str(value)), e);
}

/* ---- general.* */

/* "dir/polish-5m/model.safetensors" and "dir/polish-5m/" are both polish-5m. */
static char *name_of_path(struct lm_arena *a, const char *path)
{
    char *s = lm_arena_str(a, lm_span_str(path)), *base, *dot;
    static const char *const anonymous[] = {"model.safetensors", "model.gguf", "model.safetensors.index.json", ".", ".."};

    for (int level = 0; s && level < 2; level++) {
        size_t n = strlen(s);
        while (n > 1 && s[n - 1] == '/')
            s[--n] = 0;
        base = (char *)(uintptr_t)lmc_base_name(s);
        bool bad = false;
        for (size_t i = 0; i < sizeof anonymous / sizeof anonymous[0]; i++)
            bad |= strcmp(base, anonymous[i]) == 0;
        if (!bad) {
            dot = strrchr(base, '.');
            if (dot && dot > base && (strcmp(dot, ".safetensors") == 0 || strcmp(dot, ".gguf") == 0))
                *dot = 0;
            return base;
        }
        if (base == s)
            break;
        base[-1] = 0;
    }
    return s ? lm_arena_str(a, lm_span_str("model")) : NULL;
}

static int put_name(struct lm_plan *p, struct lm_err *e)
{
    const char *name = p->req.name;

    if (!name && lm_meta_get(p->meta, "general.name"))
        return 0;
    if (!name)
        name = name_of_path(&p->arena, lm_model_path(p->src));
    return name ? set_str(p, "general.name", name, e) : lmc_nomem(e);
}

/* The dtype with the most bytes names the file's type. */
static enum lm_dtype main_dtype(const struct lm_plan *p)
{
    uint64_t bytes[LM_N_DTYPES] = {0};
    enum lm_dtype best = LM_F32;

    for (size_t i = 0; i < p->n_items; i++) {
        const struct lm_plan_item *it = &p->items[i];
        bytes[it->dtype] += lm_dtype_bytes(it->dtype, lm_plan_elems(it));
    }
    for (int d = 0; d < LM_N_DTYPES; d++)
        if (bytes[d] > bytes[best])
            best = (enum lm_dtype)d;
    return best;
}

static int put_file_type(struct lm_plan *p, struct lm_err *e)
{
    const struct lm_ftype *t = p->req.quantize ? p->req.ftype : NULL;
    enum lm_dtype d = main_dtype(p);

    if (!t && p->req.dtype < 0 && lm_meta_get(p->meta, "general.file_type"))
        return 0;
    for (size_t i = 0; !t && lm_ftype_at(i); i++)
        if (lm_ftype_at(i)->base == d)
            t = lm_ftype_at(i);
    if (t && check(lm_meta_set_u32(p->meta, "general.file_type", t->id), e))
        return -1;
    return check(lm_meta_set_u32(p->meta, "general.quantization_version", 2), e);
}

/* ---- from GGUF: every key, but what describes the old file alone */

static int copy_keys(struct lm_plan *p, struct lm_err *e)
{
    const struct lm_meta *m = lm_model_meta(p->src);
    bool changed = p->req.quantize || p->req.dtype >= 0;

    for (size_t i = 0; i < lm_meta_count(m); i++) {
        const char *key;
        const struct lm_meta_value *v = lm_meta_at(m, i, &key);
        if (strncmp(key, "split.", 6) == 0)
            continue;
        if (changed && strncmp(key, LMC_SOURCE, strlen(LMC_SOURCE)) == 0)
            continue;
        if (check(lm_meta_set_value(p->meta, key, v), e))
            return -1;
    }
    return 0;
}

/* ---- from Hugging Face */

/* model_type of a family that we do not know, so that the GGUF says something. */
static int put_unknown_arch(struct lm_plan *p, struct lm_err *e)
{
    struct lm_span text;
    json_t *root, *type;
    int rc = lm_model_sidecar(p->src, "config.json", &text, e);

    if (rc <= 0)
        return rc;
    root = json_loadb((const char *)text.data, text.size, JSON_REJECT_DUPLICATES, NULL);
    type = json_object_get(root, "model_type");
    rc = json_is_string(type) && *json_string_value(type)
             ? set_str(p, "general.architecture", json_string_value(type), e) : 0;
    json_decref(root);
    return rc;
}

static int put_vocab(struct lm_plan *p, struct lm_err *e)
{
    struct lm_vocab *v = NULL;
    struct lm_err why = {0};
    int rc = lm_vocab_of_model(&v, p->src, &why);

    if (rc < 0 && why.code != LM_UNSUPPORTED)
        return lm_err_set(e, why.code, "%s", why.text);
    if (rc < 0 && lmc_note(p, e, "the tokenizer is not carried: %s", why.text))
        return -1;
    if (rc == 0 && lmc_note(p, e, "the source has no tokenizer: the GGUF gets none"))
        return -1;
    /* llama.cpp loads a model without vocabulary under this name. */
    if (rc <= 0)
        return set_str(p, "tokenizer.ggml.model", "none", e);
    rc = lm_vocab_to_meta(p->meta, v, p->bind->config.vocab_size, e);
    lm_vocab_free(v);
    return rc;
}

/* The header of a safetensors file: JSON of the length that opens the file. */
static struct lm_span header_of(const struct lm_model_file *f)
{
    uint64_t n = f->map.size >= 8 ? lm_load_u64le(f->map.data) : 0;

    return n > 0 && n <= f->map.size - 8 ? lm_span_of(f->map.data + 8, (size_t)n) : (struct lm_span){0};
}

/* GGUF strings are UTF-8; other files (tokenizer.model) are arrays of bytes. */
static int embed_bytes(struct lm_plan *p, const char *key, struct lm_span data, struct lm_err *e)
{
    if (lm_utf8_valid(data))
        return check(lm_meta_set_str(p->meta, key, data), e);
    return check(lm_meta_set_array(p->meta, key, LM_META_U8, data.data, data.size), e);
}

static int embed_headers(struct lm_plan *p, struct lm_err *e)
{
    size_t n = lm_model_n_files(p->src), total = 0;
    struct lm_span *names = lm_arena_array(&p->arena, n, sizeof *names);
    char key[64];

    if (!names)
        return lmc_nomem(e);
    for (size_t i = 0; i < n; i++) {
        names[i] = lm_span_str(lmc_base_name(lm_model_file(p->src, i)->path));
        total += header_of(lm_model_file(p->src, i)).size;
    }
    if (total > MAX_EMBEDDED)
        return 0;
    for (size_t i = 0; i < n; i++) {
        snprintf(key, sizeof key, n == 1 ? LMC_SOURCE "header" : LMC_SOURCE "header.%zu", i);
        if (embed_bytes(p, key, header_of(lm_model_file(p->src, i)), e))
            return -1;
    }
    return check(lm_meta_set_strs(p->meta, LMC_SOURCE "files", names, n), e);
}

static int embed_file(struct lm_plan *p, const char *name, struct lm_err *e)
{
    struct lm_span data;
    char key[256];
    int rc = lm_model_sidecar(p->src, name, &data, e);

    if (rc <= 0)
        return rc;
    if (data.size > MAX_EMBEDDED)
        return lmc_note(p, e, "%s (%zu bytes) is too large to be embedded in the GGUF", name, data.size);
    if (strcmp(name, "tokenizer.json") == 0)
        snprintf(key, sizeof key, "tokenizer.huggingface.json");
    else
        snprintf(key, sizeof key, LMC_SOURCE "%.200s", name);
    return embed_bytes(p, key, data, e);
}

static int embed_sources(struct lm_plan *p, struct lm_err *e)
{
    const char *base = lmc_base_name(lm_model_path(p->src));

    bool all = true;

    if (p->req.quantize || p->req.dtype >= 0)
        return 0;
    if (lmc_embed_dropped(p, &all, e) || (all && lmc_is_safetensors(lm_model_format(p->src)) && embed_headers(p, e)))
        return -1;
    for (size_t i = 0; lm_sidecar_names[i]; i++)
        if (embed_file(p, lm_sidecar_names[i], e))
            return -1;
    if (lm_model_n_files(p->src) < 2 || !lmc_is_safetensors(lm_model_format(p->src)))
        return 0;
    return embed_file(p, lmc_has_suffix(base, ".index.json") ? base : "model.safetensors.index.json", e);
}

/* ---- both */

static int gguf_meta(struct lm_plan *p, struct lm_err *e)
{
    if (lmc_is_gguf(p->src))
        return copy_keys(p, e) || (p->req.name && put_name(p, e)) || put_file_type(p, e) ? -1 : 0;
    if (p->bind ? lm_config_to_meta(p->meta, &p->bind->config, e) : put_unknown_arch(p, e))
        return -1;
    if (set_str(p, "general.type", "model", e) || put_name(p, e) || put_file_type(p, e))
        return -1;
    if (p->bind && put_vocab(p, e))
        return -1;
    return embed_sources(p, e);
}

static int safetensors_meta(struct lm_plan *p, struct lm_err *e)
{
    const struct lm_meta *m = lm_model_meta(p->src);

    /* Keys of other containers are not what a reader of safetensors expects to find. */
    if (!lmc_is_safetensors(lm_model_format(p->src)))
        return set_str(p, "format", "pt", e);
    for (size_t i = 0; i < lm_meta_count(m); i++) {
        const char *key;
        const struct lm_meta_value *v = lm_meta_at(m, i, &key);
        if (check(lm_meta_set_value(p->meta, key, v), e))
            return -1;
    }
    return 0;
}

int lmc_plan_meta(struct lm_plan *p, struct lm_err *e)
{
    p->meta = lm_meta_new();
    if (!p->meta)
        return lmc_nomem(e);
    return lmc_to_gguf(p) ? gguf_meta(p, e) : safetensors_meta(p, e);
}
