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
    static const char *const anonymous[] = {"model.safetensors", "model.gguf", "model.npz", "model.safetensors.index.json", ".", ".."};

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
    const struct lm_meta_value *had = lm_meta_get(lm_model_meta(p->src), "general.name");

    if (!name && lm_meta_get(p->meta, "general.name"))
        return 0;
    if (!name && had && lm_model_format(p->src)->carries)
        return check(lm_meta_set_value(p->meta, "general.name", had), e);
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

/* ---- from a container that carries all: every key, but what describes the old file alone */

static bool begins(const char *s, const char *with)
{
    return strncmp(s, with, strlen(with)) == 0;
}

static bool changes(const struct lm_plan *p)
{
    return p->req.quantize || p->req.dtype >= 0 || lmc_has_packed(p->src);
}

/* What is true of the original's bytes only. */
static bool is_exact_key(const char *key)
{
    return begins(key, LMC_SOURCE "header") || begins(key, LMC_SOURCE "dropped.") || strcmp(key, LMC_SOURCE "files") == 0 ||
           strcmp(key, LMC_SOURCE "masks") == 0 || (begins(key, LMC_SOURCE) && lmc_has_suffix(key, ".index.json"));
}

/* Are the hyper-parameters GGUF's keys? */
static bool has_keys(const struct lm_model *m)
{
    return lmc_is_gguf(m) || lm_meta_get(lm_model_meta(m), "general.architecture") != NULL;
}

/* The original's files would contradict the keys that are written anew; where
 * there are no such keys, config.json is all that says what the model is. */
static bool is_left_out(const struct lm_plan *p, const char *key)
{
    if (lmc_is_gguf(p->src) && begins(key, "split."))
        return true;
    return changes(p) && (has_keys(p->src) ? begins(key, LMC_SOURCE) : is_exact_key(key));
}

static int copy_keys(struct lm_plan *p, struct lm_err *e)
{
    const struct lm_meta *m = lm_model_meta(p->src);

    for (size_t i = 0; i < lm_meta_count(m); i++) {
        const char *key;
        const struct lm_meta_value *v = lm_meta_at(m, i, &key);
        if (!is_left_out(p, key) && check(lm_meta_set_value(p->meta, key, v), e))
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

/* GGUF's keys cannot say everything that a tokenizer may do. */
static int note_tokenizer(struct lm_plan *p, const struct lm_vocab *v, struct lm_err *e)
{
    char text[600];

    if (lm_vocab_gguf_note(v, text, sizeof text) == 0)
        return 0;
    return lmc_note(p, e, "GGUF's keys cannot say of the tokenizer %s; ids may differ there", text);
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
    if (rc == 0)
        rc = note_tokenizer(p, v, e);
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

/* Those that the source carries from where it was made. */
static int copy_headers(struct lm_plan *p, struct lm_err *e)
{
    const struct lm_meta *m = lm_model_meta(p->src);

    for (size_t i = 0; i < lm_meta_count(m); i++) {
        const char *key;
        const struct lm_meta_value *v = lm_meta_at(m, i, &key);
        if ((begins(key, LMC_SOURCE "header") || strcmp(key, LMC_SOURCE "files") == 0) &&
            check(lm_meta_set_value(p->meta, key, v), e))
            return -1;
    }
    return 0;
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
        return lmc_note(p, e, "%s (%zu bytes) is too large to be embedded in the %s", name, data.size, p->req.to->title);
    if (strcmp(name, "tokenizer.json") == 0 && lmc_to_gguf(p))
        snprintf(key, sizeof key, "tokenizer.huggingface.json");
    else
        snprintf(key, sizeof key, LMC_SOURCE "%.200s", name);
    char *patched = strcmp(name, "config.json") == 0 ? lmc_cast_config(p, data) : NULL;
    rc = embed_bytes(p, key, patched ? lm_span_str(patched) : data, e);
    free(patched);
    return rc;
}

static int embed_files(struct lm_plan *p, struct lm_err *e)
{
    for (size_t i = 0; lm_sidecar_names[i]; i++)
        if (embed_file(p, lm_sidecar_names[i], e))
            return -1;
    return 0;
}

static int embed_index(struct lm_plan *p, struct lm_err *e)
{
    const char *base = lmc_base_name(lm_model_path(p->src));

    if (lm_model_format(p->src)->carries)
        return embed_file(p, "model.safetensors.index.json", e);
    if (lm_model_n_files(p->src) < 2 || !lmc_is_safetensors(lm_model_format(p->src)))
        return 0;
    return embed_file(p, lmc_has_suffix(base, ".index.json") ? base : "model.safetensors.index.json", e);
}

static int embed_sources(struct lm_plan *p, struct lm_err *e)
{
    bool all = true;

    if (changes(p))
        return lmc_keeps(p) ? embed_files(p, e) : 0;
    if (lmc_embed_dropped(p, &all, e))
        return -1;
    if (!lmc_sums_come_back(p)) {
        all = false;
        if (lmc_note(p, e, "norms of this family are stored as 1 + weight, which rounds some of these weights: the way "
                     "back will not give the same bytes"))
            return -1;
    }
    if (all && lm_model_format(p->src)->carries && copy_headers(p, e))
        return -1;
    if (all && lmc_is_safetensors(lm_model_format(p->src)) && embed_headers(p, e))
        return -1;
    return embed_files(p, e) || embed_index(p, e) ? -1 : 0;
}

/* ---- both */

static int copy_container(struct lm_plan *p, struct lm_err *e)
{
    if (copy_keys(p, e) || (p->req.name && put_name(p, e)))
        return -1;
    return lmc_to_gguf(p) || (changes(p) && has_keys(p->src)) ? put_file_type(p, e) : 0;
}

/* What llama.cpp will make differently of this file. */
static int note_caveats(struct lm_plan *p, struct lm_err *e)
{
    const char *text;

    for (size_t i = 0; p->bind && (text = lm_config_llama_cpp_caveat(&p->bind->config, i)); i++)
        if (lmc_note(p, e, "%s", text))
            return -1;
    return 0;
}

static int gguf_meta(struct lm_plan *p, struct lm_err *e)
{
    if (lm_model_format(p->src)->carries && has_keys(p->src))
        return copy_container(p, e);
    if (p->bind ? lm_config_to_meta(p->meta, &p->bind->config, e) : put_unknown_arch(p, e))
        return -1;
    if (set_str(p, "general.type", "model", e) || put_name(p, e) || put_file_type(p, e) || note_caveats(p, e))
        return -1;
    if (p->bind && put_vocab(p, e))
        return -1;
    return embed_sources(p, e);
}

/* Where GGUF's keys describe the source, they do so in the copy; else its own
 * pairs and small files do. */
static int keeper_meta(struct lm_plan *p, struct lm_err *e)
{
    /* Others' HDF5 and npz files carry nothing: theirs lie beside them. */
    bool beside = !has_keys(p->src) && !lm_meta_get(lm_model_meta(p->src), LMC_SOURCE "config.json");

    if (lm_model_format(p->src)->carries)
        return copy_container(p, e) || (beside && embed_files(p, e)) ? -1 : 0;
    if (has_keys(p->src))
        return gguf_meta(p, e);
    return copy_keys(p, e) || put_name(p, e) || embed_sources(p, e) ? -1 : 0;
}

static int safetensors_meta(struct lm_plan *p, struct lm_err *e)
{
    /* Keys of other containers are not what a reader of safetensors expects to find. */
    return lmc_is_safetensors(lm_model_format(p->src)) ? copy_keys(p, e) : set_str(p, "format", "pt", e);
}

int lmc_plan_meta(struct lm_plan *p, struct lm_err *e)
{
    p->meta = lm_meta_new();
    if (!p->meta)
        return lmc_nomem(e);
    return lmc_keeps(p) ? keeper_meta(p, e) : lmc_to_gguf(p) ? gguf_meta(p, e) : safetensors_meta(p, e);
}
