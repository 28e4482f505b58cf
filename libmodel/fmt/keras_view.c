/* A model in keras-hub's terms, for whoever writes them: kernels are
 * [in, heads, d_head], paths are made of class names.  Every tensor is a view of
 * the source's bytes, computed into a temporary file where the order differs.
 * Llama and Mistral get an output matrix of their own also when it is the
 * embedding's: keras-hub's config.json cannot say that it is. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "libmodel/arch.h"
#include "libmodel/fmt/keras.h"
#include "libmodel/parse/json.h"

/* How a matrix W[out][in] of ours is kept. */
enum form {
    SAME,        /* as it is: vectors, embeddings */
    TURNED,      /* [in, out] */
    OUT_HEADS,   /* [in, heads, d_head]: Q, K, V */
    IN_HEADS,    /* [heads, d_head, out]: the projection back */
    BIAS_HEADS   /* [heads, d_head] */
};

struct row {
    enum lm_role role;
    const char *path; /* after "layers/", or after the block's for those of a layer */
    enum form form;
    unsigned third;   /* of a fused Q, K, V: which */
};

/* One family: how its classes are called. */
struct hub {
    const char *arch, *class_name, *module, *block, *norm;
    const struct row *rows;
    size_t n_rows;
};

#define ATTENTION "_self_attention_layer/"
static const struct row llama_rows[] = {
    {LM_ROLE_TOKEN_EMBD, "reversible_embedding/vars/0", SAME, 0},
    {LM_ROLE_OUTPUT, "reversible_embedding/vars/1", TURNED, 0},
    {LM_ROLE_ATTN_NORM, "_self_attention_layernorm/vars/0", SAME, 0},
    {LM_ROLE_ATTN_Q, ATTENTION "_query_dense/vars/0", OUT_HEADS, 0},
    {LM_ROLE_ATTN_K, ATTENTION "_key_dense/vars/0", OUT_HEADS, 0},
    {LM_ROLE_ATTN_V, ATTENTION "_value_dense/vars/0", OUT_HEADS, 0},
    {LM_ROLE_ATTN_OUT, ATTENTION "_output_dense/vars/0", IN_HEADS, 0},
    {LM_ROLE_FFN_NORM, "_feedforward_layernorm/vars/0", SAME, 0},
    {LM_ROLE_FFN_GATE, "_feedforward_gate_dense/vars/0", TURNED, 0},
    {LM_ROLE_FFN_UP, "_feedforward_intermediate_dense/vars/0", TURNED, 0},
    {LM_ROLE_FFN_DOWN, "_feedforward_output_dense/vars/0", TURNED, 0},
    {LM_ROLE_OUTPUT_NORM, NULL, SAME, 0}, /* the family's norm */
};
static const struct row gpt2_rows[] = {
    {LM_ROLE_TOKEN_EMBD, "reversible_embedding/vars/0", SAME, 0},
    {LM_ROLE_POS_EMBD, "position_embedding/vars/0", SAME, 0},
    {LM_ROLE_ATTN_NORM, "_self_attention_layer_norm/vars/0", SAME, 0},
    {LM_ROLE_ATTN_NORM_B, "_self_attention_layer_norm/vars/1", SAME, 0},
    {LM_ROLE_ATTN_QKV, ATTENTION "query_dense/vars/0", OUT_HEADS, 0},
    {LM_ROLE_ATTN_QKV_B, ATTENTION "query_dense/vars/1", BIAS_HEADS, 0},
    {LM_ROLE_ATTN_QKV, ATTENTION "key_dense/vars/0", OUT_HEADS, 1},
    {LM_ROLE_ATTN_QKV_B, ATTENTION "key_dense/vars/1", BIAS_HEADS, 1},
    {LM_ROLE_ATTN_QKV, ATTENTION "value_dense/vars/0", OUT_HEADS, 2},
    {LM_ROLE_ATTN_QKV_B, ATTENTION "value_dense/vars/1", BIAS_HEADS, 2},
    {LM_ROLE_ATTN_OUT, ATTENTION "output_dense/vars/0", IN_HEADS, 0},
    {LM_ROLE_ATTN_OUT_B, ATTENTION "output_dense/vars/1", SAME, 0},
    {LM_ROLE_FFN_NORM, "_feedforward_layer_norm/vars/0", SAME, 0},
    {LM_ROLE_FFN_NORM_B, "_feedforward_layer_norm/vars/1", SAME, 0},
    {LM_ROLE_FFN_UP, "_feedforward_intermediate_dense/vars/0", TURNED, 0},
    {LM_ROLE_FFN_UP_B, "_feedforward_intermediate_dense/vars/1", SAME, 0},
    {LM_ROLE_FFN_DOWN, "_feedforward_output_dense/vars/0", TURNED, 0},
    {LM_ROLE_FFN_DOWN_B, "_feedforward_output_dense/vars/1", SAME, 0},
    {LM_ROLE_OUTPUT_NORM, "layer_normalization/vars/0", SAME, 0},
    {LM_ROLE_OUTPUT_NORM_B, "layer_normalization/vars/1", SAME, 0},
};

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
enum { MISTRAL, LLAMA, LLAMA3, GPT2 };
static const struct hub hubs[] = {
    [MISTRAL] = {"llama", "MistralBackbone", "keras_hub.src.models.mistral.mistral_backbone", "mistral_transformer_decoder",
                 "mistral_layer_normalization", llama_rows, COUNT(llama_rows)},
    [LLAMA] = {"llama", "LlamaBackbone", "keras_hub.src.models.llama.llama_backbone", "llama_transformer_decoder",
               "llama_layer_norm", llama_rows, COUNT(llama_rows)},
    [LLAMA3] = {"llama", "Llama3Backbone", "keras_hub.src.models.llama3.llama3_backbone", "llama_transformer_decoder",
                "llama_layer_norm", llama_rows, COUNT(llama_rows)},
    [GPT2] = {"gpt2", "GPT2Backbone", "keras_hub.src.models.gpt2.gpt2_backbone", "transformer_decoder",
              "layer_normalization", gpt2_rows, COUNT(gpt2_rows)},
};

struct making {
    struct lm_model *src, *m;
    struct lm_binding *b;
    struct lm_config c;
    const struct hub *hub;
    struct lmi_view_list views;
    bool tied;
};

/* ---- which class */

static int refuse(const char *what, struct lm_err *e)
{
    return lm_err_set(e, LM_UNSUPPORTED, "%s has no place in keras-hub's form of the model", what);
}

static int choose_hub(struct making *k, struct lm_err *e)
{
    const struct lm_config *c = &k->c;

    if (strcmp(c->arch->name, "gpt2") == 0) {
        k->hub = &hubs[GPT2];
        if (c->act != LM_ACT_GELU_TANH || c->norm_eps < 0.99e-5 || c->norm_eps > 1.01e-5)
            return refuse("an activation other than GELU (tanh), or an epsilon other than 1e-5,", e);
        return 0;
    }
    if (strcmp(c->arch->name, "llama") != 0)
        return lm_err_set(e, LM_UNSUPPORTED, "the form of keras-hub is written for Llama, Mistral and GPT-2, not for %s",
                          c->arch->title);
    if (c->act != LM_ACT_SILU)
        return refuse("an activation other than SiLU", e);
    /* Llama's classes have heads of the usual width and no window, and those of
     * keras-hub 0.32 forget linear scaling; Mistral's have it all. */
    bool odd_heads = (uint64_t)c->d_head * c->n_heads != c->d_model;
    k->hub = &hubs[c->sliding_window || odd_heads || c->scaling == LM_SCALING_LINEAR ? MISTRAL
                   : c->scaling == LM_SCALING_LLAMA3 ? LLAMA3 : LLAMA];
    if (k->hub == &hubs[MISTRAL] && c->scaling != LM_SCALING_NONE && c->scaling != LM_SCALING_LINEAR)
        return refuse("scaled rotary frequencies together with a sliding window or heads of another width", e);
    return c->scaling == LM_SCALING_NONE || c->scaling == LM_SCALING_LINEAR || c->scaling == LM_SCALING_LLAMA3
               ? 0 : refuse("this kind of rope scaling", e);
}

/* In a GGUF the divisors of Llama 3.1 are a tensor. */
static int fold_rope(struct making *k, const struct lm_tensor *t, struct lm_err *e)
{
    float divisors[4096];

    if (t->n_elems > COUNT(divisors) || lm_tensor_to_f32(t, 0, t->n_elems, divisors, e) < 0 ||
        !lm_rope_llama3_recover(&k->c, divisors, t->n_elems))
        return refuse("a tensor of rotary frequencies that are not Llama 3's", e);
    return 0;
}

static bool has_row(const struct hub *h, enum lm_role role)
{
    for (size_t i = 0; i < h->n_rows; i++)
        if (h->rows[i].role == role)
            return true;
    return false;
}

/* Nothing may be lost. */
static int check_all(const struct making *k, struct lm_err *e)
{
    for (size_t i = 0; i < lm_model_n_tensors(k->src); i++) {
        const struct lm_tensor *t = lm_model_tensor(k->src, i);
        const struct lm_arch_row *r = k->b->of[i].row;
        char what[300];
        snprintf(what, sizeof what, "tensor '%.200s'", t->name);
        if (!r || (!(r->flags & LM_ROW_DROPPED) && r->role != LM_ROLE_ROPE_FREQS && !has_row(k->hub, r->role)))
            return refuse(what, e);
        if (lm_dtype_info(t->dtype)->block_elems != 1)
            return lm_err_set(e, LM_UNSUPPORTED, "%s is quantized (%s); convert the model to f16 or f32 first", what,
                              lm_dtype_name(t->dtype));
    }
    return 0;
}

/* ---- one tensor */

/* W[out][in] in the source: how far apart its elements lie. */
struct matrix { uint64_t n_out, n_in, out, in; };

static struct matrix matrix_of(const struct making *k, const struct lm_tensor *t)
{
    const struct lm_arch_row *r = k->b->of[t - k->src->tensors].row;
    bool conv = k->b->naming == LM_NAMES_HF && r->transform == LM_T_TRANSPOSE;

    return conv ? (struct matrix){t->shape[1], t->shape[0], 1, t->shape[1]}
                : (struct matrix){t->shape[0], t->shape[1], t->shape[1], 1};
}

static void set_dims(struct lmi_view *v, unsigned n, const uint64_t *shape, const uint64_t *stride)
{
    v->n_dims = n;
    memcpy(v->shape, shape, n * sizeof *shape);
    memcpy(v->stride, stride, n * sizeof *stride);
}

static void show(struct lmi_view *v, uint64_t a, uint64_t b, uint64_t c)
{
    v->n_shown = 3;
    v->shown[0] = a, v->shown[1] = b, v->shown[2] = c;
}

/* Rows of adjacent rotary pairs come back to halves on the way. */
static void out_heads(const struct making *k, struct lmi_view *v, const struct row *r, const struct matrix *w)
{
    bool fused = r->role == LM_ROLE_ATTN_QKV, rotary = r->role == LM_ROLE_ATTN_Q || r->role == LM_ROLE_ATTN_K;
    uint64_t d_head = k->c.d_head, heads = (fused ? w->n_out / 3 : w->n_out) / d_head;

    v->offset = r->third * heads * d_head * w->out;
    if (rotary && k->b->rope == LM_ROPE_ADJACENT) {
        set_dims(v, 4, (uint64_t[]){w->n_in, heads, 2, d_head / 2},
                 (uint64_t[]){w->in, d_head * w->out, w->out, 2 * w->out});
        show(v, w->n_in, heads, d_head);
    } else {
        set_dims(v, 3, (uint64_t[]){w->n_in, heads, d_head}, (uint64_t[]){w->in, d_head * w->out, w->out});
    }
}

static void shape_view(const struct making *k, struct lmi_view *v, const struct row *r, const struct lm_tensor *t)
{
    uint64_t d_head = k->c.d_head;

    if (r->form == SAME) {
        memcpy(v->shape, t->shape, sizeof v->shape);
        v->n_dims = t->n_dims;
        lmi_view_row_major(v);
        return;
    }
    if (r->form == BIAS_HEADS) {
        uint64_t heads = t->shape[0] / 3 / d_head;
        set_dims(v, 2, (uint64_t[]){heads, d_head}, (uint64_t[]){d_head, 1});
        v->offset = r->third * heads * d_head;
        return;
    }
    struct matrix w = matrix_of(k, t);
    if (r->form == TURNED)
        set_dims(v, 2, (uint64_t[]){w.n_in, w.n_out}, (uint64_t[]){w.in, w.out});
    else if (r->form == IN_HEADS)
        set_dims(v, 3, (uint64_t[]){w.n_in / d_head, d_head, w.n_out}, (uint64_t[]){d_head * w.in, w.in, w.out});
    else
        out_heads(k, v, r, &w);
}

static char *path_of(const struct making *k, const struct row *r, int layer)
{
    char buf[200];

    if (!r->path)
        snprintf(buf, sizeof buf, "layers/%s/vars/0", k->hub->norm);
    else if (layer < 0)
        snprintf(buf, sizeof buf, "layers/%s", r->path);
    else if (layer == 0)
        snprintf(buf, sizeof buf, "layers/%s/%s", k->hub->block, r->path);
    else
        snprintf(buf, sizeof buf, "layers/%s_%d/%s", k->hub->block, layer, r->path);
    return lm_arena_str(&k->m->arena, lm_span_str(buf));
}

static int add_row(struct making *k, const struct row *r, int layer, struct lm_err *e)
{
    const struct lm_tensor *t = lm_bound_tensor(k->b, r->role, layer);

    if (!t && r->role == LM_ROLE_OUTPUT) {
        k->tied = true;
        t = lm_bound_tensor(k->b, LM_ROLE_TOKEN_EMBD, -1);
    }
    if (!t)
        return lm_err_set(e, LM_MISSING, "no tensor for %s of layer %d", lm_role_name(r->role), layer);
    struct lmi_view *v = lmi_view_new(&k->views);
    struct lmi_blob *b = lm_arena_alloc(&k->m->arena, sizeof *b);
    char *path = path_of(k, r, layer);
    if (!v || !b || !path)
        return lmi_nomem(e);
    *b = (struct lmi_blob){.file = t->file, .offset = t->offset, .n_stored = t->n_bytes, .n_bytes = t->n_bytes};
    *v = (struct lmi_view){.name = lm_span_str(path), .dtype = t->dtype, .big_endian = t->big_endian, .blob = b};
    shape_view(k, v, r, t);
    return 0;
}

static int add_rows(struct making *k, struct lm_err *e)
{
    for (int layer = -1; layer < (int)k->c.n_layers; layer++)
        for (size_t i = 0; i < k->hub->n_rows; i++) {
            const struct row *r = &k->hub->rows[i];
            bool global = r->role == LM_ROLE_TOKEN_EMBD || r->role == LM_ROLE_POS_EMBD || r->role == LM_ROLE_OUTPUT ||
                          r->role == LM_ROLE_OUTPUT_NORM || r->role == LM_ROLE_OUTPUT_NORM_B;
            if (global == (layer < 0) && add_row(k, r, layer, e) < 0)
                return -1;
        }
    return 0;
}

/* ---- config.json and the other small files */

static json_t *policy(const struct making *k, int dtype)
{
    const struct lm_tensor *t = lm_bound_tensor(k->b, LM_ROLE_TOKEN_EMBD, -1);
    int d = dtype >= 0 ? dtype : (int)t->dtype;
    const char *name = d == LM_BF16 ? "bfloat16" : d == LM_F16 ? "float16" : "float32";

    return json_pack("{s:s, s:s, s:{s:s}, s:n}", "module", "keras", "class_name", "DTypePolicy", "config", "name", name,
                     "registered_name");
}

static json_t *real_or_null(bool there, double v)
{
    return there ? json_real(v) : json_null();
}

static json_t *llama_settings(const struct making *k)
{
    const struct lm_config *c = &k->c;
    bool mistral = k->hub == &hubs[MISTRAL], scaled = c->scaling == LM_SCALING_LLAMA3;
    double linear = c->scaling == LM_SCALING_LINEAR ? c->rope_factor : 1; /* Mistral's only */
    json_t *o = json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:i}", "vocabulary_size", (int)c->vocab_size, "num_layers",
                          (int)c->n_layers, "num_query_heads", (int)c->n_heads, "hidden_dim", (int)c->d_model,
                          "intermediate_dim", (int)c->d_ff, "num_key_value_heads", (int)c->n_kv_heads, "rope_max_wavelength",
                          c->rope_theta, "layer_norm_epsilon", c->norm_eps, "dropout", 0);

    json_object_set_new(o, mistral ? "rope_scaling_factor" : "rope_position_scaling_factor", json_real(linear));
    if (mistral) {
        /* A window as long as the context is none. */
        json_object_set_new(o, "sliding_window", json_integer(c->sliding_window ? c->sliding_window : c->ctx_len));
        json_object_set_new(o, "head_dim", json_integer(c->d_head));
        return o;
    }
    json_object_set_new(o, "rope_frequency_adjustment_factor", real_or_null(scaled, c->rope_factor));
    json_object_set_new(o, "rope_low_freq_factor", real_or_null(scaled, c->rope_low_freq));
    json_object_set_new(o, "rope_high_freq_factor", real_or_null(scaled, c->rope_high_freq));
    json_object_set_new(o, "rope_pretraining_sequence_length", scaled ? json_integer(c->rope_orig_ctx) : json_null());
    return o;
}

static json_t *gpt2_settings(const struct making *k)
{
    const struct lm_config *c = &k->c;

    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:f, s:i}", "vocabulary_size", (int)c->vocab_size, "num_layers",
                     (int)c->n_layers, "num_heads", (int)c->n_heads, "hidden_dim", (int)c->d_model, "intermediate_dim",
                     (int)c->d_ff, "dropout", 0.1, "max_sequence_length", (int)c->ctx_len);
}

static char *config_text(const struct making *k, int dtype)
{
    json_t *settings = k->hub == &hubs[GPT2] ? gpt2_settings(k) : llama_settings(k), *root;
    char registered[64], *text = NULL;

    snprintf(registered, sizeof registered, "keras_hub>%s", k->hub->class_name);
    json_object_set_new(settings, "trainable", json_true());
    json_object_set_new(settings, "dtype", policy(k, dtype));
    root = json_pack("{s:s, s:s, s:o, s:s}", "module", k->hub->module, "class_name", k->hub->class_name, "config", settings,
                     "registered_name", registered);
    if (root)
        text = json_dumps(root, JSON_INDENT(4) | JSON_REAL_PRECISION(15));
    json_decref(root);
    return text;
}

static int carry(struct making *k, const char *name, struct lm_span data, struct lm_err *e)
{
    char key[100];

    snprintf(key, sizeof key, "libmodel.source.%s", name);
    int rc = lm_utf8_valid(data) ? lm_meta_set_str(k->m->meta, key, data)
                                 : lm_meta_set_array(k->m->meta, key, LM_META_U8, data.data, data.size);
    return rc < 0 ? lmi_nomem(e) : 0;
}

static int carry_files(struct making *k, int dtype, struct lm_err *e)
{
    static const char metadata[] = "{\n    \"keras_version\": \"3.0.0\",\n    \"keras_hub_version\": \"0.15.0\"\n}\n";
    static const char *const files[][2] = {{"tokenizer.model", "vocabulary.spm"}, {"vocab.json", "vocabulary.json"},
                                           {"merges.txt", "merges.txt"}};
    char *text = config_text(k, dtype);
    int rc = text ? carry(k, "config.json", lm_span_str(text), e) : lmi_nomem(e);

    free(text);
    if (rc == 0)
        rc = carry(k, "metadata.json", lm_span_str(metadata), e);
    for (size_t i = 0; rc == 0 && i < COUNT(files); i++) {
        struct lm_span data;
        rc = lm_model_sidecar(k->src, files[i][0], &data, e);
        if (rc == 1)
            rc = carry(k, files[i][1], data, e);
    }
    return rc;
}

/* ---- the model */

/* The same open files, mapped once more: the two models end independently. */
static int share_files(struct making *k, struct lm_err *e)
{
    for (size_t i = 0; i < k->src->n_files; i++) {
        struct lm_model_file f = k->src->files[i];
        f.path = lm_arena_str(&k->m->arena, lm_span_str(f.path));
        f.fd = dup(f.fd);
        if (!f.path || f.fd < 0)
            return f.path ? lm_err_errno(e, "cannot open '%s' once more", f.path) : lmi_nomem(e);
        void *p = f.map.size ? mmap(NULL, f.map.size, PROT_READ, f.made ? MAP_SHARED : MAP_PRIVATE, f.fd, 0) : NULL;
        if (p == MAP_FAILED) {
            close(f.fd);
            return lm_err_errno(e, "cannot map '%s' once more", f.path);
        }
        if (p)
            f.map.data = p;
        if (lmi_model_adopt_file(k->m, &f, e) < 0)
            return -1;
    }
    return 0;
}

static int make_model(struct making *k, int dtype, struct lm_err *e)
{
    const char *why = NULL;
    int rc = lm_config_read(&k->c, k->src, &why, e);

    if (rc == 0)
        return lm_err_set(e, LM_UNSUPPORTED, "the architecture must be known to be written for keras-hub: %s",
                          why ? why : "there is no config.json");
    if (rc < 0 || lm_bind(&k->b, k->src, e) < 0)
        return -1;
    k->c = k->b->config;
    const struct lm_tensor *rope = lm_bound_tensor(k->b, LM_ROLE_ROPE_FREQS, -1);
    if ((rope && fold_rope(k, rope, e) < 0) || choose_hub(k, e) < 0 || check_all(k, e) < 0 || share_files(k, e) < 0 ||
        add_rows(k, e) < 0 || carry_files(k, dtype, e) < 0)
        return -1;
    if (k->m->n_files == 0)
        return lm_err_set(e, LM_MISSING, "the model has no files");
    return lmi_views_add(k->m, k->views.v, k->views.n, k->m->files[0].path, e) < 0 ? -1 : lmi_views_fill(k->m, e);
}

int lmi_keras_recast(struct lm_model **out, struct lm_model *src, int dtype, struct lm_err *e)
{
    struct making k = {.src = src, .m = lmi_model_new(lm_model_path(src))};
    int rc = k.m ? 0 : lmi_nomem(e);

    *out = NULL;
    if (rc == 0) {
        k.m->format = lm_model_format(src);
        k.m->sidecar_dir = NULL;
        rc = make_model(&k, dtype, e);
    }
    free(k.views.v);
    lm_binding_free(k.b);
    if (rc == 0)
        *out = k.m;
    else
        lm_model_close(k.m);
    return rc;
}
