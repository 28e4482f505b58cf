/* Keras 2 weights, whole models and Hugging Face's tf_model.h5:
 *
 *   [model_weights/]            the group (a whole model's; or the root) whose
 *     layer_names               attribute orders its groups; a long one is split
 *                               into layer_names0, layer_names1, …
 *   LAYER/  weight_names        the same for the datasets LAYER/WEIGHT_NAME
 *   optimizer_weights/          not weights of the model
 *
 * https://keras.io/2.16/api/models/model_saving_apis/
 * TensorFlow's names of Hugging Face's models become PyTorch's, and kernels
 * [in, out] turn, as transformers did when it loaded the one into the other:
 * tfgpt2lm_head_model/transformer/h_._0/ln_1/gamma:0 -> transformer.h.0.ln_1.weight */
#include <stdio.h>
#include <stdlib.h>

#include "libmodel/fmt/hdf5.h"

enum { MAX_NAME = 1000 };

struct keras2 {
    struct lmi_h5_set *set;
    struct lmi_h5_source *source;
    struct lm_span base; /* "model_weights" or empty */
    bool torch;          /* rename as transformers did */
    bool no_class;       /* names lack the class of the model: shards */
    struct lm_map *used;  /* paths of this source */
    struct lm_map *named; /* PyTorch's names: the view of each */
    struct lmi_view_list *out;
};

/* ---- TensorFlow's names */

static bool ends_in(struct lm_span s, const char *end)
{
    size_t n = strlen(end);
    return s.size >= n && memcmp(s.data + s.size - n, end, n) == 0;
}

/* "tfgpt2lm_head_model/…:0": the class comes first. */
static bool has_class(struct lm_span name)
{
    return name.size > 4 && memcmp(name.data, "tf", 2) == 0 && ends_in(name, ":0") && memchr(name.data, '/', name.size);
}

static struct lm_span next_part(struct lm_span *rest)
{
    const uint8_t *slash = memchr(rest->data, '/', rest->size);
    size_t n = slash ? (size_t)(slash - rest->data) : rest->size;
    struct lm_span part = lm_span_of(rest->data, n);

    *rest = lm_span_of(rest->data + n + (slash != NULL), rest->size - n - (slash != NULL));
    return part;
}

/* One part of a name, with "_._" as a dot, after a "___" if it has one. */
static void put_part(struct lmi_buffer *b, struct lm_span part, bool last)
{
    for (size_t i = part.size; !last && i >= 3; i--)
        if (memcmp(part.data + i - 3, "___", 3) == 0) {
            part = lm_span_of(part.data + i, part.size - i);
            break;
        }
    for (size_t i = 0; i < part.size; i++) {
        bool dot = part.size - i >= 3 && memcmp(part.data + i, "_._", 3) == 0;
        lmi_put(b, dot ? (const uint8_t *)"." : part.data + i, 1);
        i += dot ? 2 : 0;
    }
}

static struct lm_span last_part(struct lm_span part)
{
    static const struct { const char *tf, *torch; } words[] = {
        {"kernel", "weight"}, {"embeddings", "weight"}, {"gamma", "weight"}, {"beta", "bias"},
        {"moving_mean", "running_mean"}, {"moving_variance", "running_var"}};

    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (lm_span_eq(part, lm_span_str(words[i].tf)))
            return lm_span_str(words[i].torch);
    return part;
}

/* Reverses the order of dimensions, as a kernel's, or as a convolution's does. */
static void turn(struct lmi_view *v)
{
    static const unsigned order[5][4] = {{0}, {0}, {1, 0}, {2, 1, 0}, {3, 2, 0, 1}};
    struct lmi_view old = *v;

    for (unsigned i = 0; v->n_dims <= 4 && i < v->n_dims; i++) {
        v->shape[i] = old.shape[order[v->n_dims][i]];
        v->stride[i] = old.stride[order[v->n_dims][i]];
    }
}

static int as_torch(struct keras2 *k, struct lmi_view *v, struct lm_span name, struct lm_err *e)
{
    struct lm_span rest = lm_span_of(name.data, name.size - (ends_in(name, ":0") ? 2 : 0)), part;
    struct lmi_buffer b = {0};
    bool first = !k->no_class, kernel = false;

    while (rest.size) {
        part = next_part(&rest);
        bool last = rest.size == 0;
        if (part.size == 0 || (first && !last)) {
            first = false;
            continue;
        }
        if (b.n)
            lmi_put(&b, ".", 1);
        kernel = last && (lm_span_eq(part, lm_span_str("kernel")) || lm_span_eq(part, lm_span_str("emb_projs")) ||
                          lm_span_eq(part, lm_span_str("out_projs")));
        put_part(&b, last ? last_part(part) : part, last);
    }
    char *own = b.failed ? NULL : lm_arena_str(&k->set->m->arena, lm_span_of(b.data, b.n));
    size_t n = b.n;
    free(b.data);
    if (!own)
        return lmi_nomem(e);
    v->name = lm_span_of(own, n);
    if (kernel)
        turn(v);
    if (v->n_dims == 2 && v->shape[0] == 1 && ends_in(v->name, ".bias")) { /* TensorFlow's Conv1D keeps [1, n] */
        v->n_dims = 1;
        v->shape[0] = v->shape[1];
        v->stride[0] = v->stride[1];
    }
    return 0;
}

/* TensorFlow stores what two layers share with each of them: the second time it
 * is left out where it is the same, byte for byte (else the name is there twice). */
static bool is_same(const struct lm_model *m, const struct lmi_view *a, const struct lmi_view *b)
{
    return a->dtype == b->dtype && a->n_dims == b->n_dims && memcmp(a->shape, b->shape, a->n_dims * sizeof a->shape[0]) == 0 &&
           !a->blob->producer && !b->blob->producer && a->blob->n_bytes == b->blob->n_bytes &&
           memcmp(m->files[a->blob->file].map.data + a->blob->offset, m->files[b->blob->file].map.data + b->blob->offset,
                  a->blob->n_bytes) == 0;
}

/* The last view has just got its name. */
static int drop_shared(struct keras2 *k, struct lm_err *e)
{
    struct lmi_view *v = &k->out->v[k->out->n - 1];
    size_t first = lm_map_get(k->named, v->name);

    if (first == SIZE_MAX)
        return lm_map_put(k->named, v->name, k->out->n - 1) < 0 ? lmi_nomem(e) : 0;
    if (is_same(k->set->m, &k->out->v[first], v))
        k->out->n--;
    return 0;
}

/* ---- weights in their order */

static void join_path(char *buf, size_t size, struct lm_span a, struct lm_span b)
{
    snprintf(buf, size, "%.*s%s%.*s", (int)(a.size < MAX_NAME ? a.size : MAX_NAME), a.size ? (const char *)a.data : "",
             a.size && b.size ? "/" : "", (int)(b.size < MAX_NAME ? b.size : MAX_NAME), b.size ? (const char *)b.data : "");
}

static int add_weight(struct keras2 *k, const struct lmi_h5_dataset *d, struct lm_span weight, struct lm_err *e)
{
    size_t skip = k->base.size ? k->base.size + 1 : 0;
    int put = lm_map_put(k->used, d->path, 0);

    if (put <= 0)
        return put < 0 ? lmi_nomem(e) : lm_err_set(e, LM_MALFORMED, "weight '%.*s' is listed twice", LMI_SHOW(d->path));
    struct lmi_view *v = lmi_view_new(k->out);
    if (!v)
        return lmi_nomem(e);
    if (lmi_h5_view(v, k->set, k->source, d, e) < 0)
        return -1;
    if (k->torch)
        return as_torch(k, v, weight, e) < 0 ? -1 : drop_shared(k, e);
    v->name = lm_span_of(v->name.data + skip, v->name.size - skip);
    return 0;
}

/* It is there and cannot be read, or it is not there. */
static int missing(const struct keras2 *k, const char *path, struct lm_err *e)
{
    for (size_t i = 0; i < k->source->list.n_notes; i++) {
        const struct lmi_h5_note *n = &k->source->list.notes[i];
        if (lm_span_eq(n->path, lm_span_str(path)))
            return lm_err_set(e, LM_UNSUPPORTED, "weight '%.300s': %.*s", path, (int)(n->text.size < 400 ? n->text.size : 400),
                              (const char *)n->text.data);
    }
    return lm_err_set(e, LM_MISSING, "weight '%.300s' is listed and not there", path);
}

static int add_layer(struct keras2 *k, struct lm_span layer, struct lm_err *e)
{
    char group[2 * MAX_NAME + 8], path[4 * MAX_NAME];
    struct lm_span *weights;
    size_t n;

    join_path(group, sizeof group, k->base, layer);
    const struct lmi_h5_dataset *own = lmi_h5_find(&k->source->list, lm_span_str(group));
    if (own) /* shards list their datasets themselves */
        return add_weight(k, own, layer, e);
    int rc = lmi_h5_strings(&k->source->list, lm_span_str(group), "weight_names", &weights, &n, e);
    for (size_t i = 0; rc == 1 && i < n; i++) {
        join_path(path, sizeof path, lm_span_str(group), weights[i]);
        const struct lmi_h5_dataset *d = lmi_h5_find(&k->source->list, lm_span_str(path));
        if (!d)
            return missing(k, path, e);
        if (add_weight(k, d, weights[i], e) < 0)
            return -1;
    }
    return rc < 0 ? -1 : 0;
}

static bool begins(struct lm_span s, const char *with)
{
    size_t n = strlen(with);
    return s.size >= n && memcmp(s.data, with, n) == 0;
}

/* What the lists do not name: the optimizer's state is left out, the rest keeps its path. */
static int add_rest(struct keras2 *k, struct lm_err *e)
{
    for (size_t i = 0; i < k->source->list.n_datasets; i++) {
        const struct lmi_h5_dataset *d = &k->source->list.datasets[i];
        if (lm_map_get(k->used, d->path) != SIZE_MAX)
            continue;
        if (begins(d->path, "optimizer_weights/")) {
            if (lmi_model_leave_out(k->set->m, d->path, lm_span_str("state of the optimizer"), false, e) < 0)
                return -1;
            continue;
        }
        struct lmi_view *v = lmi_view_new(k->out);
        if (!v)
            return lmi_nomem(e);
        if (lmi_h5_view(v, k->set, k->source, d, e) < 0)
            return -1;
    }
    return 0;
}

/* ---- the whole */

/* Do all weights bear TensorFlow's names of one of Hugging Face's models? */
static int sound_like_tf(struct keras2 *k, const struct lm_span *layers, size_t n_layers, struct lm_err *e)
{
    char group[2 * MAX_NAME + 8];
    struct lm_span *weights;
    size_t n, total = 0;

    for (size_t i = 0; i < n_layers; i++) {
        join_path(group, sizeof group, k->base, layers[i]);
        int rc = lmi_h5_strings(&k->source->list, lm_span_str(group), "weight_names", &weights, &n, e);
        if (rc < 0)
            return -1;
        for (size_t w = 0; rc == 1 && w < n; w++, total++)
            if (!has_class(weights[w]))
                return 0;
    }
    return total > 0;
}

/* Hugging Face's config.json, not Keras' own. */
static int has_model_type(struct lm_model *m, struct lm_err *e)
{
    struct lm_span text;
    int rc = m->sidecar_dir ? lm_model_sidecar(m, "config.json", &text, e) : 0;

    return rc == 1 ? memmem(text.data, text.size, "\"model_type\"", 12) != NULL : rc;
}

static int choose_names(struct keras2 *k, const struct lm_span *layers, size_t n, struct lm_err *e)
{
    int config = has_model_type(k->set->m, e);

    if (config < 0)
        return -1;
    k->no_class = k->set->tf_shards;
    if (k->set->tf_shards || !config) {
        k->torch = k->set->tf_shards;
        return 0;
    }
    int tf = sound_like_tf(k, layers, n, e);
    k->torch = tf == 1;
    return tf < 0 ? -1 : 0;
}

/* 1 the file has lists of layers, 0 not. */
static int take_source(struct keras2 *k, struct lm_err *e)
{
    struct lm_span *layers;
    size_t n;
    int rc = 0;

    k->base = lm_span_str("model_weights");
    rc = lmi_h5_strings(&k->source->list, k->base, "layer_names", &layers, &n, e);
    if (rc == 0) {
        k->base = lm_span_str("");
        rc = lmi_h5_strings(&k->source->list, k->base, "layer_names", &layers, &n, e);
    }
    if (rc <= 0)
        return rc;
    if (choose_names(k, layers, n, e) < 0)
        return -1;
    for (size_t i = 0; i < n; i++)
        if (add_layer(k, layers[i], e) < 0)
            return -1;
    if (add_layer(k, lm_span_str("top_level_model_weights"), e) < 0 || add_rest(k, e) < 0)
        return -1;
    return 1;
}

int lmi_keras2_views(struct lmi_h5_set *set, struct lmi_view_list *out, struct lm_err *e)
{
    struct keras2 k = {.set = set, .out = out, .named = lm_map_new(0)};
    int rc = k.named ? 1 : lmi_nomem(e);

    for (size_t i = 0; rc == 1 && i < set->n; i++) {
        k.source = &set->sources[i];
        lm_map_free(k.used);
        k.used = lm_map_new(k.source->list.n_datasets);
        rc = k.used ? take_source(&k, e) : lmi_nomem(e);
    }
    lm_map_free(k.used);
    lm_map_free(k.named);
    return rc;
}
