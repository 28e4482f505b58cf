/* Models of keras-hub as Hugging Face's: its weights are kernels [in, heads,
 * d_head] with paths made of class names, its config.json has names of its own.
 * Both are put in Hugging Face's terms by the table of keras_hub_rows.c; rotary
 * pairs are half-split in both.  The tokenizer's files come from the preset's
 * folder.  From then on the model is one that carries its small files. */
#include "libmodel/fmt/keras_hub.h"

#include <stdio.h>
#include <stdlib.h>

#include "libmodel/fmt/hdf5.h"
#include "libmodel/parse/json.h"

enum { MAX_LAYERS = 1024, MAX_VOCABULARY = 64 << 20 };

struct hub {
    struct lmi_h5_set *set;
    const struct lmi_hub_family *family;
    const json_t *settings;
    uint32_t n_layers;
    char prefix[200]; /* what comes before "layers/…" in every path */
    struct lm_map *used; /* paths of datasets that a row has taken */
    bool untied;
};

/* ---- which model */

static bool fits(const struct lmi_hub_family *f, const char *class_name, const json_t *settings)
{
    return strcmp(f->class_name, class_name) == 0 && (!f->when || json_is_true(json_object_get(settings, f->when))) &&
           (!f->unless || !json_is_true(json_object_get(settings, f->unless)));
}

/* The backbone's object: the whole text, or what a task has as its backbone. */
static const json_t *backbone_of(const json_t *root)
{
    const json_t *inner = json_object_get(json_object_get(root, "config"), "backbone");

    return json_is_object(inner) ? inner : root;
}

static const struct lmi_hub_family *find_family(const json_t *root, const json_t **settings)
{
    const json_t *backbone = backbone_of(root);
    const char *class_name = json_string_value(json_object_get(backbone, "class_name"));

    *settings = json_object_get(backbone, "config");
    for (unsigned i = 0; class_name && json_is_object(*settings) && lmi_hub_family_at(i); i++)
        if (fits(lmi_hub_family_at(i), class_name, *settings))
            return lmi_hub_family_at(i);
    return NULL;
}

/* Where the backbone's layers are: the first embedding says it. */
static bool find_prefix(struct hub *h)
{
    static const char embedding[] = "layers/reversible_embedding/vars/0";
    size_t n = sizeof embedding - 1;

    for (size_t i = 0; i < h->set->n; i++)
        for (size_t k = 0; k < h->set->sources[i].list.n_datasets; k++) {
            struct lm_span p = h->set->sources[i].list.datasets[k].path;
            if (p.size < n || p.size - n >= sizeof h->prefix || memcmp(p.data + p.size - n, embedding, n) != 0 ||
                (p.size > n && p.data[p.size - n - 1] != '/'))
                continue;
            snprintf(h->prefix, sizeof h->prefix, "%.*s", (int)(p.size - n), (const char *)p.data);
            return strlen(h->prefix) == p.size - n;
        }
    return false;
}

/* ---- one variable */

/* The path of a row, with or without the underscore that may be missing. */
static void row_path(const struct hub *h, const struct lmi_hub_row *r, int layer, bool underscore, char *buf, size_t size)
{
    char block[120] = "", rest[160];
    const char *mark = strchr(r->keras, '?');

    if (strchr(r->hf, '#') && layer)
        snprintf(block, sizeof block, "layers/%s_%d/", h->family->block, layer);
    else if (strchr(r->hf, '#'))
        snprintf(block, sizeof block, "layers/%s/", h->family->block);
    snprintf(rest, sizeof rest, "%.*s%s%s", mark ? (int)(mark - r->keras) : 0, r->keras, mark && underscore ? "_" : "",
             mark ? mark + 1 : r->keras);
    snprintf(buf, size, "%s%s%s", h->prefix, block, rest);
}

static const struct lmi_h5_dataset *find_row(const struct hub *h, const struct lmi_hub_row *r, int layer, char *path,
                                             size_t size, struct lmi_h5_source **source)
{
    const struct lmi_h5_dataset *d = NULL;

    for (int underscore = 1; !d && underscore >= 0; underscore--) {
        row_path(h, r, layer, underscore, path, size);
        d = lmi_h5_set_find(h->set, lm_span_str(path), source);
    }
    return d;
}

static int wrong_shape(const struct lmi_view *v, struct lm_err *e)
{
    return lm_err_set(e, LM_MISMATCH, "'%.*s' has %u dimensions, which a variable of this name never has", LMI_SHOW(v->name),
                      v->n_dims);
}

/* [a, b, …] as a matrix of the first `lead` dimensions by the rest. */
static void flatten(struct lmi_view *v, unsigned lead, bool turned)
{
    uint64_t a = 1, b = 1;

    for (unsigned i = 0; i < v->n_dims; i++)
        *(i < lead ? &a : &b) *= v->shape[i]; /* fits: measured */
    v->n_dims = 2;
    v->shape[0] = turned ? b : a;
    v->shape[1] = turned ? a : b;
    v->stride[0] = turned ? 1 : b;
    v->stride[1] = turned ? b : 1;
}

/* [heads, in, d_head] -> [heads, d_head, in], shown as [heads·d_head, in]. */
static void heads_first(struct lmi_view *v)
{
    uint64_t in = v->shape[1], d_head = v->shape[2];

    v->shape[1] = d_head, v->shape[2] = in;
    v->stride[1] = 1, v->stride[2] = d_head;
    v->n_shown = 2;
    v->shown[0] = v->shape[0] * d_head; /* fits: measured */
    v->shown[1] = in;
}

static int turn(struct lmi_view *v, enum lmi_hub_turn how, struct lm_err *e)
{
    unsigned n = v->n_dims;

    switch (how) {
    case LMI_HUB_SAME:
        return 0;
    case LMI_HUB_FLAT:
        if (n == 0)
            return wrong_shape(v, e);
        flatten(v, 0, false);
        v->n_dims = 1;
        v->shape[0] = v->shape[1];
        v->stride[0] = 1;
        return 0;
    case LMI_HUB_LEAD_1:
    case LMI_HUB_LEAD_1_TURNED:
        if (n < 2)
            return wrong_shape(v, e);
        flatten(v, 1, how == LMI_HUB_LEAD_1_TURNED);
        return 0;
    case LMI_HUB_LEAD_2:
    case LMI_HUB_LEAD_2_TURNED:
        if (n != 3)
            return wrong_shape(v, e);
        flatten(v, 2, how == LMI_HUB_LEAD_2_TURNED);
        return 0;
    case LMI_HUB_HEADS_FIRST:
        if (n != 3)
            return wrong_shape(v, e);
        heads_first(v);
        return 0;
    }
    return 0;
}

/* ---- one tensor: a row, or several that are joined */

static unsigned same_name(const struct lmi_hub_family *f, unsigned first)
{
    unsigned n = 1;

    while (first + n < f->n_rows && strcmp(f->rows[first].hf, f->rows[first + n].hf) == 0)
        n++;
    return n;
}

static char *hf_name(struct hub *h, const struct lmi_hub_row *r, int layer)
{
    char buf[200];
    const char *mark = strchr(r->hf, '#');

    if (mark)
        snprintf(buf, sizeof buf, "%.*s%d%s", (int)(mark - r->hf), r->hf, layer, mark + 1);
    else
        snprintf(buf, sizeof buf, "%s", r->hf);
    return lm_arena_str(&h->set->m->arena, lm_span_str(buf));
}

static int take_row(struct hub *h, struct lmi_view *v, const struct lmi_hub_row *r, int layer, struct lm_err *e)
{
    char path[600];
    struct lmi_h5_source *s;
    const struct lmi_h5_dataset *d = find_row(h, r, layer, path, sizeof path, &s);

    if (!d && r->optional)
        return 0;
    if (!d)
        return lm_err_set(e, LM_MISSING, "'%s' is missing, %s has it", path, h->family->class_name);
    if (lmi_h5_view(v, h->set, s, d, e) < 0 || turn(v, r->turn, e) < 0)
        return -1;
    return lm_map_put(h->used, d->path, 0) < 0 ? lmi_nomem(e) : 1;
}

/* The parts' shapes are compared by lmi_views_add. */
static int join_rows(struct lmi_view *v, const struct lmi_view *parts, unsigned n, struct lm_err *e)
{
    *v = parts[0];
    v->join_dim = v->n_dims - 1;
    v->shape[v->join_dim] = 0;
    for (unsigned i = 0; i < n; i++)
        if (parts[i].n_dims != v->n_dims || !lm_add_u64(v->shape[v->join_dim], parts[i].shape[v->join_dim], &v->shape[v->join_dim]))
            return lm_err_set(e, LM_MISMATCH, "'%.*s': queries, keys and values do not fit together", LMI_SHOW(parts[i].name));
    lmi_view_row_major(v);
    v->parts = parts;
    v->n_parts = n;
    return 0;
}

static int take_rows(struct hub *h, struct lmi_view_list *out, unsigned first, unsigned n, int layer, struct lm_err *e)
{
    struct lmi_view *parts = lm_arena_array(&h->set->m->arena, n, sizeof *parts), whole;
    char *name = hf_name(h, &h->family->rows[first], layer);

    if (!parts || !name)
        return lmi_nomem(e);
    for (unsigned i = 0; i < n; i++) {
        int rc = take_row(h, &parts[i], &h->family->rows[first + i], layer, e);
        if (rc <= 0)
            return rc;
    }
    whole = parts[0];
    if (n > 1 && join_rows(&whole, parts, n, e) < 0)
        return -1;
    whole.name = lm_span_str(name);
    struct lmi_view *v = lmi_view_new(out);
    if (!v)
        return lmi_nomem(e);
    *v = whole;
    h->untied |= strcmp(name, "lm_head.weight") == 0;
    return 0;
}

/* Layer by layer, so that what belongs together is together. */
static int take_all(struct hub *h, struct lmi_view_list *out, struct lm_err *e)
{
    for (int layer = -1; layer < (int)h->n_layers; layer++)
        for (unsigned i = 0, n; i < h->family->n_rows; i += n) {
            n = same_name(h->family, i);
            if ((layer >= 0) == (strchr(h->family->rows[i].hf, '#') != NULL) && take_rows(h, out, i, n, layer, e) < 0)
                return -1;
        }
    return 0;
}

/* What no row has taken: the optimizer's state is left out, the rest keeps its path. */
static int take_rest(struct hub *h, struct lmi_view_list *out, struct lm_err *e)
{
    for (size_t i = 0; i < h->set->n; i++)
        for (size_t k = 0; k < h->set->sources[i].list.n_datasets; k++) {
            const struct lmi_h5_dataset *d = &h->set->sources[i].list.datasets[k];
            if (lm_map_get(h->used, d->path) != SIZE_MAX)
                continue;
            if (d->path.size > 10 && memcmp(d->path.data, "optimizer/", 10) == 0) {
                    if (lmi_model_leave_out(h->set->m, d->path, lm_span_str("state of the optimizer"), false, e) < 0)
                    return -1;
                continue;
            }
            struct lmi_view *v = lmi_view_new(out);
            if (!v)
                return lmi_nomem(e);
            if (lmi_h5_view(v, h->set, &h->set->sources[i], d, e) < 0)
                return -1;
        }
    return 0;
}

/* ---- config.json */

static json_t *setting(const struct hub *h, const struct lmi_hub_key *k)
{
    json_t *v = json_object_get(h->settings, k->keras);

    if (v && k->divide && json_is_integer(v))
        return json_integer(json_integer_value(v) / k->divide);
    return json_incref(v);
}

static double real_of(const struct hub *h, const char *key)
{
    return json_number_value(json_object_get(h->settings, key)); /* 0: not there */
}

/* Stretched positions, or the frequencies of Llama 3.1. */
static json_t *rope_scaling(const struct hub *h)
{
    double linear = real_of(h, "rope_scaling_factor") + real_of(h, "rope_position_scaling_factor");
    double factor = real_of(h, "rope_frequency_adjustment_factor");

    if (factor > 0)
        return json_pack("{s:s, s:f, s:f, s:f, s:i}", "rope_type", "llama3", "factor", factor, "low_freq_factor",
                         real_of(h, "rope_low_freq_factor"), "high_freq_factor", real_of(h, "rope_high_freq_factor"),
                         "original_max_position_embeddings", (int)real_of(h, "rope_pretraining_sequence_length"));
    return linear > 0 && (linear < 1 || linear > 1) ? json_pack("{s:s, s:f}", "rope_type", "linear", "factor", linear) : NULL;
}

/* Gemma 2 scales scores by a number that Keras derives. */
static void set_query_scale(const struct hub *h, json_t *config)
{
    double heads = real_of(h, "num_query_heads"), d_head = real_of(h, "head_dim"), d_model = real_of(h, "hidden_dim");
    const json_t *by_head = json_object_get(h->settings, "query_head_dim_normalize");

    if (!h->family->when || heads < 1)
        return;
    json_object_set_new(config, "query_pre_attn_scalar",
                        json_real(by_head && !json_is_true(by_head) ? d_model / heads : d_head));
}

static char *make_config(const struct hub *h)
{
    json_t *config = json_loads(h->family->fixed, 0, NULL), *rope = rope_scaling(h);
    char *text = NULL;

    for (unsigned i = 0; config && i < h->family->n_keys; i++) {
        json_t *v = setting(h, &h->family->keys[i]);
        if (v && !json_is_null(v))
            json_object_set(config, h->family->keys[i].hf, v);
        json_decref(v);
    }
    if (config) {
        json_object_set_new(config, "tie_word_embeddings", json_boolean(!h->untied));
        if (rope)
            json_object_set(config, "rope_scaling", rope);
        set_query_scale(h, config);
        text = json_dumps(config, JSON_INDENT(2));
    }
    json_decref(rope);
    json_decref(config);
    return text;
}

static int carry(struct lm_model *m, const char *name, struct lm_span data, struct lm_err *e)
{
    char key[100];

    snprintf(key, sizeof key, "libmodel.source.%s", name);
    int rc = lm_utf8_valid(data) ? lm_meta_set_str(m->meta, key, data)
                                 : lm_meta_set_array(m->meta, key, LM_META_U8, data.data, data.size);
    return rc < 0 ? lmi_nomem(e) : 0;
}

static int carry_config(struct hub *h, struct lm_err *e)
{
    char *text = make_config(h);
    int rc = text ? carry(h->set->m, "config.json", lm_span_str(text), e) : lmi_nomem(e);

    free(text);
    return rc;
}

/* ---- tokenizer */

/* In a preset they lie in assets/tokenizer; we write them beside the weights. */
static int carry_file(struct lm_model *m, const char *folder, const char *file, const char *as, struct lm_err *e)
{
    char path[200];
    struct lm_model_file f;
    struct lm_err why;

    snprintf(path, sizeof path, "%s%s", folder, file);
    char *full = lmi_beside(&m->arena, m->sidecar_dir, path);
    if (!full)
        return lmi_nomem(e);
    if (lmi_file_open(&f, full, &why) < 0)
        return why.code == LM_MISSING ? 0 : lm_err_set(e, why.code, "%s", why.text);
    int rc = f.map.size > MAX_VOCABULARY ? lm_err_set(e, LM_LIMIT, "%s: too large for a vocabulary", full)
                                         : carry(m, as, f.map, e);
    lmi_file_close(&f);
    return rc;
}

static int carry_tokenizer(struct lm_model *m, struct lm_err *e)
{
    static const char *const files[][2] = {{"vocabulary.spm", "tokenizer.model"}, {"vocabulary.json", "vocab.json"},
                                           {"merges.txt", "merges.txt"}};

    for (size_t i = 0; m->sidecar_dir && i < sizeof files / sizeof files[0]; i++)
        if (carry_file(m, "", files[i][0], files[i][1], e) < 0 ||
            carry_file(m, "assets/tokenizer/", files[i][0], files[i][1], e) < 0)
            return -1;
    return 0;
}

/* ---- the whole */

static int take_model(struct hub *h, struct lmi_view_list *out, struct lm_err *e)
{
    json_int_t n = json_integer_value(json_object_get(h->settings, "num_layers"));

    if (n < 1 || n > MAX_LAYERS)
        return lm_err_set(e, LM_MALFORMED, "config.json: num_layers is %lld, expected 1 to %d", (long long)n, MAX_LAYERS);
    h->n_layers = (uint32_t)n;
    if (take_all(h, out, e) < 0 || take_rest(h, out, e) < 0 || carry_config(h, e) < 0 || carry_tokenizer(h->set->m, e) < 0)
        return -1;
    h->set->m->sidecar_dir = NULL;
    return 1;
}

/* The text of the model's own config.json. */
static int find_config(struct lmi_h5_set *set, struct lm_span *text, struct lm_err *e)
{
    *text = set->config;
    if (text->size)
        return 1;
    return set->m->sidecar_dir ? lm_model_sidecar(set->m, "config.json", text, e) : 0;
}

int lmi_keras_hub_views(struct lmi_h5_set *set, struct lmi_view_list *out, struct lm_err *e)
{
    struct hub h = {.set = set};
    struct lm_span text;
    int rc = find_config(set, &text, e);

    if (rc <= 0)
        return rc;
    json_t *root = lm_json_parse(text, "config.json", NULL); /* a broken one is not this form's business */
    h.family = root ? find_family(root, &h.settings) : NULL;
    rc = 0;
    if (h.family && find_prefix(&h)) {
        h.used = lm_map_new(0);
        rc = h.used ? take_model(&h, out, e) : lmi_nomem(e);
    }
    lm_map_free(h.used);
    json_decref(root);
    return rc;
}
