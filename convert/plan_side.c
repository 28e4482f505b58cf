/* The small files beside safetensors: the original's where they are at hand,
 * else made from hyper-parameters and vocabulary. */
#include <stdio.h>
#include <stdlib.h>

#include <jansson.h>

#include "convert/plan.h"

static bool have_side(const struct lm_plan *p, const char *name)
{
    for (size_t i = 0; i < p->n_sides; i++)
        if (strcmp(p->sides[i].name, name) == 0)
            return true;
    return false;
}

/* As PyTorch calls the dtype of most bytes. */
static const char *torch_dtype(const struct lm_plan *p)
{
    static const struct { enum lm_dtype d; const char *name; } names[] = {
        {LM_F32, "float32"}, {LM_BF16, "bfloat16"}, {LM_F16, "float16"}, {LM_F64, "float64"},
    };
    uint64_t best = 0;
    const char *name = names[0].name;

    for (size_t k = 0; k < sizeof names / sizeof names[0]; k++) {
        uint64_t n = 0;
        for (size_t i = 0; i < p->n_items; i++)
            n += p->items[i].dtype == names[k].d && p->items[i].src ? p->items[i].src->n_elems : 0;
        if (n > best) {
            best = n;
            name = names[k].name;
        }
    }
    return name;
}

char *lmc_cast_config(const struct lm_plan *p, struct lm_span text)
{
    bool packed = lmc_has_packed(p->src);
    json_t *root = p->req.dtype < 0 && !packed && !p->req.pack ? NULL : json_loadb((const char *)text.data, text.size, 0, NULL);
    char *patched = NULL;

    if (json_is_object(root)) {
        const char *key = json_object_get(root, "dtype") ? "dtype" : "torch_dtype";
        if (packed) /* its weights are plain now */
            json_object_del(root, "quantization_config");
        if (p->req.pack)
            json_object_set_new(root, "quantization_config", lmc_pack_config(p));
        if (p->req.pack || json_object_set_new(root, key, json_string(torch_dtype(p))) == 0)
            patched = json_dumps(root, JSON_INDENT(2) | JSON_ENSURE_ASCII);
    }
    json_decref(root);
    return patched;
}

static int side_config(struct lm_plan *p, struct lm_span text, struct lm_err *e)
{
    char *patched = lmc_cast_config(p, text);
    int rc = lmc_side(p, "config.json", patched ? lm_span_str(patched) : text, e);

    free(patched);
    return rc;
}

static int carry_files(struct lm_plan *p, struct lm_err *e)
{
    for (size_t i = 0; lm_sidecar_names[i]; i++) {
        const char *name = lm_sidecar_names[i];
        struct lm_span data;
        int rc = lm_model_sidecar(p->src, name, &data, e);
        if (rc < 0)
            return -1;
        if (rc == 0)
            continue;
        if (strcmp(name, "config.json") == 0 ? side_config(p, data, e) : lmc_side(p, name, data, e))
            return -1;
    }
    return 0;
}

static int make_config(struct lm_plan *p, struct lm_err *e)
{
    char *text;
    int rc;

    if (!p->bind || have_side(p, "config.json"))
        return 0;
    if (lm_config_to_json(&text, &p->bind->config, torch_dtype(p), e) < 0)
        return -1;
    rc = lmc_side(p, "config.json", lm_span_str(text), e);
    free(text);
    return rc;
}

static int emit(void *user, const char *name, struct lm_span data, struct lm_err *e)
{
    struct lm_plan *p = user;

    return have_side(p, name) ? 0 : lmc_side(p, name, data, e);
}

static int make_tokenizer(struct lm_plan *p, struct lm_err *e)
{
    struct lm_vocab *v = NULL;
    struct lm_err why = {0};
    int rc;

    if (have_side(p, "tokenizer.model") || have_side(p, "tokenizer.json") || have_side(p, "vocab.json"))
        return 0;
    rc = lm_vocab_of_model(&v, p->src, &why);
    if (rc < 0 && why.code != LM_UNSUPPORTED)
        return lm_err_set(e, why.code, "%s", why.text);
    if (rc < 0)
        return lmc_note(p, e, "the tokenizer is not carried: %s", why.text);
    if (rc == 0)
        return lmc_note(p, e, "the source has no tokenizer: the result gets none");
    rc = lm_vocab_to_files(v, emit, p, e);
    lm_vocab_free(v);
    return rc;
}

static int add_index(struct lm_plan *p, struct lm_err *e)
{
    const struct lm_meta *m = lm_model_meta(p->src);
    const char *key = LMC_SOURCE "model.safetensors.index.json";
    struct lm_span text;

    if (p->n_parts < 2 || lm_meta_get_str(m, key, &text, NULL) != 1)
        return 0;
    return lmc_side(p, key + strlen(LMC_SOURCE), text, e);
}

/* In the order of writing: what commits the whole comes last. */
static void put_last(struct lm_plan *p, const char *name)
{
    for (size_t i = 0; i + 1 < p->n_sides; i++) {
        if (strcmp(p->sides[i].name, name) != 0)
            continue;
        struct lm_plan_side s = p->sides[i];
        memmove(&p->sides[i], &p->sides[i + 1], (p->n_sides - i - 1) * sizeof s);
        p->sides[p->n_sides - 1] = s;
        return;
    }
}

/* All small files of another form are its own. */
static int recast_files(struct lm_plan *p, struct lm_err *e)
{
    const struct lm_meta *m = lm_model_meta(p->recast);

    for (size_t i = 0; i < lm_meta_count(m); i++) {
        const char *key;
        const struct lm_meta_value *v = lm_meta_at(m, i, &key);
        struct lm_span data = v->type == LM_META_STR ? v->str : lm_span_of(v->data, v->n);
        if (strncmp(key, LMC_SOURCE, strlen(LMC_SOURCE)) == 0 && lmc_side(p, key + strlen(LMC_SOURCE), data, e))
            return -1;
    }
    put_last(p, "config.json");
    return 0;
}

int lmc_plan_sides(struct lm_plan *p, struct lm_err *e)
{
    if (p->recast)
        return recast_files(p, e);
    if (p->req.to->carries)
        return 0;
    if (p->req.bare)
        return lmc_note(p, e, "one %s file is written: config.json and tokenizer are not; name a folder to get them too",
                        p->req.to->title);
    /* The folder of a file that carries its own is no checkpoint: only what it carries inside counts. */
    if (carry_files(p, e) || make_config(p, e) || make_tokenizer(p, e))
        return -1;
    put_last(p, "config.json");
    return add_index(p, e);
}
