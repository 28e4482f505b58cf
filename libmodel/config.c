/* Hyper-parameters from config.json or GGUF keys, through one table of names. */
#include "libmodel/arch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libmodel/parse/json.h"

enum key_type { KEY_U32, KEY_REAL, KEY_BOOL };

struct key {
    enum key_type type;
    size_t offset;
    const char *hf[6];   /* names in config.json, first found wins */
    const char *gguf;    /* after "<arch>."; NULL: not a GGUF key */
    int only_norm;       /* the GGUF key belongs to this enum lm_norm, or -1 */
};

#define AT(field) offsetof(struct lm_config, field)

static const struct key keys[] = {
    {KEY_U32, AT(n_layers), {"num_hidden_layers", "n_layer", "num_layers", "n_layers"}, "block_count", -1},
    {KEY_U32, AT(d_model), {"hidden_size", "n_embd", "dim"}, "embedding_length", -1},
    {KEY_U32, AT(d_ff), {"intermediate_size", "n_inner", "hidden_dim"}, "feed_forward_length", -1},
    {KEY_U32, AT(n_heads), {"num_attention_heads", "n_head", "n_heads"}, "attention.head_count", -1},
    {KEY_U32, AT(n_kv_heads), {"num_key_value_heads", "n_kv_heads", "num_kv_heads"}, "attention.head_count_kv", -1},
    {KEY_U32, AT(d_head), {"head_dim"}, "attention.key_length", -1},
    {KEY_U32, AT(vocab_size), {"vocab_size"}, "vocab_size", -1},
    {KEY_U32, AT(ctx_len), {"max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length"},
     "context_length", -1},
    {KEY_U32, AT(sliding_window), {"sliding_window"}, "attention.sliding_window", -1},
    {KEY_REAL, AT(norm_eps), {"rms_norm_eps", "norm_eps", "layer_norm_epsilon", "layer_norm_eps"},
     "attention.layer_norm_rms_epsilon", LM_NORM_RMS},
    {KEY_REAL, AT(norm_eps), {NULL}, "attention.layer_norm_epsilon", LM_NORM_LAYER},
    {KEY_REAL, AT(rope_theta), {"rope_theta"}, "rope.freq_base", -1},
    {KEY_BOOL, AT(tied), {"tie_word_embeddings"}, NULL, -1},
    {KEY_BOOL, AT(attn_bias), {"attention_bias"}, NULL, -1},
    {KEY_BOOL, AT(mlp_bias), {"mlp_bias"}, NULL, -1},
};
enum { N_KEYS = sizeof keys / sizeof keys[0] };

static void *field(struct lm_config *c, const struct key *k)
{
    return (char *)c + k->offset;
}

static void set_defaults(struct lm_config *c, const struct lm_arch *a)
{
    memset(c, 0, sizeof *c);
    c->arch = a;
    c->act = a->act;
    c->tied = a->default_tied;
    c->norm_eps = a->default_norm_eps;
    c->rope_theta = a->default_rope_theta;
    c->rope_factor = 1;
    c->rope_low_freq = 1;
    c->rope_high_freq = 4;
    c->beta_fast = 32;
    c->beta_slow = 1;
    c->bos_id = c->eos_id = c->pad_id = -1;
}

/* ---- config.json */

static int json_value(const json_t *v, const struct key *k, const char *name, struct lm_config *c, struct lm_err *e)
{
    if (json_is_null(v))
        return 0;
    if (k->type == KEY_BOOL && json_is_boolean(v)) {
        *(bool *)field(c, k) = json_is_true(v);
    } else if (k->type == KEY_REAL && json_is_number(v)) {
        *(double *)field(c, k) = json_number_value(v);
    } else if (k->type == KEY_U32 && json_is_integer(v)) {
        json_int_t n = json_integer_value(v);
        if (n < 0 || n > INT32_MAX)
            return lm_err_set(e, LM_MALFORMED, "config.json: %s is %lld, expected 0..2147483647", name, (long long)n);
        *(uint32_t *)field(c, k) = (uint32_t)n;
    } else {
        return lm_err_set(e, LM_MALFORMED, "config.json: %s has the wrong type, expected a %s", name,
                          k->type == KEY_BOOL ? "boolean" : k->type == KEY_REAL ? "number" : "whole number");
    }
    return 0;
}

static int json_keys(const json_t *root, struct lm_config *c, struct lm_err *e)
{
    for (size_t i = 0; i < N_KEYS; i++) {
        for (size_t j = 0; j < 6 && keys[i].hf[j]; j++) {
            const json_t *v = json_object_get(root, keys[i].hf[j]);
            if (!v)
                continue;
            if (json_value(v, &keys[i], keys[i].hf[j], c, e))
                return -1;
            break;
        }
    }
    return 0;
}

static void get_real(const json_t *o, const char *name, double *out)
{
    const json_t *v = json_object_get(o, name);
    if (json_is_number(v))
        *out = json_number_value(v);
}

static int scaling_kind(const char *s, enum lm_rope_scaling *out)
{
    static const struct { const char *name; enum lm_rope_scaling kind; } kinds[] = {
        {"default", LM_SCALING_NONE}, {"none", LM_SCALING_NONE},  {"linear", LM_SCALING_LINEAR},
        {"llama3", LM_SCALING_LLAMA3}, {"yarn", LM_SCALING_YARN},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(kinds[i].name, s) == 0) {
            *out = kinds[i].kind;
            return 0;
        }
    }
    return -1;
}

static double yarn_mscale(double factor, double m)
{
    return factor <= 1 ? 1 : 0.1 * m * log(factor) + 1;
}

static void yarn_attention(const json_t *o, struct lm_config *c)
{
    double m = 0, all = 0;

    get_real(o, "attention_factor", &c->rope_attn_factor);
    get_real(o, "mscale", &m);
    get_real(o, "mscale_all_dim", &all);
    if (c->rope_attn_factor == 0 && m != 0 && all != 0)
        c->rope_attn_factor = yarn_mscale(c->rope_factor, m) / yarn_mscale(c->rope_factor, all);
}

/* "rope_scaling" of older files, "rope_parameters" since transformers 5. */
static int json_rope(const json_t *root, struct lm_config *c, struct lm_err *e)
{
    const json_t *o = json_object_get(root, "rope_parameters");
    if (!json_is_object(o))
        o = json_object_get(root, "rope_scaling");
    if (!json_is_object(o))
        return 0;

    const json_t *t = json_object_get(o, "rope_type");
    const char *kind = json_string_value(t ? t : json_object_get(o, "type"));
    if (kind && scaling_kind(kind, &c->scaling))
        return lm_err_set(e, LM_UNSUPPORTED,
                          "config.json: rope scaling \"%s\" is not handled (default, linear, llama3 and yarn are)", kind);
    if (json_is_false(json_object_get(o, "truncate")))
        return lm_err_set(e, LM_UNSUPPORTED, "config.json: yarn with truncate false is not handled");
    double orig = 0;
    get_real(o, "rope_theta", &c->rope_theta);
    get_real(o, "factor", &c->rope_factor);
    get_real(o, "low_freq_factor", &c->rope_low_freq);
    get_real(o, "high_freq_factor", &c->rope_high_freq);
    get_real(o, "beta_fast", &c->beta_fast);
    get_real(o, "beta_slow", &c->beta_slow);
    get_real(o, "original_max_position_embeddings", &orig);
    if (orig == 0)
        get_real(root, "original_max_position_embeddings", &orig);
    c->rope_orig_ctx = orig >= 1 && orig <= INT32_MAX ? (uint32_t)orig : 0;
    yarn_attention(o, c);
    return 0;
}

static int json_act(const json_t *root, struct lm_config *c, struct lm_err *e)
{
    static const struct { const char *name; enum lm_act act; } acts[] = {
        {"silu", LM_ACT_SILU}, {"swish", LM_ACT_SILU}, {"gelu_new", LM_ACT_GELU_TANH}, {"relu", LM_ACT_RELU},
        {"gelu_pytorch_tanh", LM_ACT_GELU_TANH}, {"gelu_fast", LM_ACT_GELU_TANH}, {"gelu", LM_ACT_GELU_ERF},
    };
    const char *s = json_string_value(json_object_get(root, "hidden_act"));
    if (!s)
        s = json_string_value(json_object_get(root, "activation_function"));
    if (!s)
        return 0;
    for (size_t i = 0; i < sizeof acts / sizeof acts[0]; i++) {
        if (strcmp(acts[i].name, s) == 0) {
            c->act = acts[i].act;
            return 0;
        }
    }
    return lm_err_set(e, LM_UNSUPPORTED, "config.json: activation \"%s\" is not handled", s);
}

/* Features that change the result and that no field expresses. */
static int json_refused(const json_t *root, struct lm_err *e)
{
    static const struct { const char *name; bool refused; } flags[] = {
        {"scale_attn_by_inverse_layer_idx", true}, {"scale_attn_weights", false}, {"add_cross_attention", true},
    };
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        const json_t *v = json_object_get(root, flags[i].name);
        if (json_is_boolean(v) && json_is_true(v) == flags[i].refused)
            return lm_err_set(e, LM_UNSUPPORTED, "config.json: %s %s is not handled", flags[i].name,
                              flags[i].refused ? "true" : "false");
    }
    return 0;
}

static int64_t json_token_id(const json_t *root, const char *name)
{
    const json_t *v = json_object_get(root, name);
    if (json_is_array(v))
        v = json_array_get(v, 0);
    return json_is_integer(v) ? (int64_t)json_integer_value(v) : -1;
}

static const struct lm_arch *arch_of_class(const char *cls, const char *model_type)
{
    for (size_t i = 0; lm_arch_at(i); i++) {
        const struct lm_arch *a = lm_arch_at(i);
        for (size_t j = 0; a->hf_classes[j]; j++) {
            if (cls ? strcmp(a->hf_classes[j], cls) == 0 : model_type && strcmp(a->hf_model_types[j], model_type) == 0)
                return a;
        }
    }
    return NULL;
}

static const struct lm_arch *json_arch(const json_t *root, const char **name)
{
    const char *cls = json_string_value(json_array_get(json_object_get(root, "architectures"), 0));
    const char *type = json_string_value(json_object_get(root, "model_type"));

    *name = cls ? cls : type;
    return arch_of_class(cls, type);
}

/* ---- checks shared by both sources */

static int need(uint32_t v, const char *what, struct lm_err *e)
{
    return v > 0 ? 0 : lm_err_set(e, LM_MALFORMED, "the config has no %s (or it is 0)", what);
}

static int finish_rope(struct lm_config *c, struct lm_err *e)
{
    if (c->arch->rope_hf == LM_ROPE_NONE)
        return 0;
    if (!c->d_rope)
        c->d_rope = c->d_head;
    if (c->d_rope > c->d_head || c->d_rope % 2)
        return lm_err_set(e, LM_MALFORMED, "rotary width %u does not fit heads of %u", c->d_rope, c->d_head);
    if (!(c->rope_theta > 1) || !isfinite(c->rope_theta))
        return lm_err_set(e, LM_MALFORMED, "rope_theta is %g, expected a number above 1", c->rope_theta);
    if (c->scaling != LM_SCALING_NONE && !(c->rope_factor > 0))
        return lm_err_set(e, LM_MALFORMED, "rope scaling factor is %g, expected a positive number", c->rope_factor);
    if ((c->scaling == LM_SCALING_LLAMA3 || c->scaling == LM_SCALING_YARN) && !c->rope_orig_ctx)
        return lm_err_set(e, LM_MALFORMED, "rope scaling needs original_max_position_embeddings");
    if (c->scaling == LM_SCALING_LLAMA3 && !(c->rope_low_freq > 0 && c->rope_high_freq > c->rope_low_freq))
        return lm_err_set(e, LM_MALFORMED, "rope scaling: low_freq_factor %g and high_freq_factor %g do not make a range",
                          c->rope_low_freq, c->rope_high_freq);
    return 0;
}

static int finish(struct lm_config *c, struct lm_err *e)
{
    if (need(c->n_layers, "number of layers", e) || need(c->d_model, "hidden size", e) ||
        need(c->n_heads, "number of attention heads", e) || need(c->vocab_size, "vocabulary size", e) ||
        need(c->ctx_len, "context length", e))
        return -1;
    if (!c->n_kv_heads)
        c->n_kv_heads = c->n_heads;
    if (!c->d_ff && c->arch->default_ff_factor && c->d_model <= INT32_MAX / c->arch->default_ff_factor)
        c->d_ff = c->d_model * c->arch->default_ff_factor;
    if (need(c->d_ff, "feed-forward size", e))
        return -1;
    if (c->n_heads % c->n_kv_heads)
        return lm_err_set(e, LM_MALFORMED, "%u attention heads cannot share %u key/value heads", c->n_heads,
                          c->n_kv_heads);
    if (!c->d_head && c->d_model % c->n_heads)
        return lm_err_set(e, LM_MALFORMED, "hidden size %u is not divisible by %u heads", c->d_model, c->n_heads);
    if (!c->d_head)
        c->d_head = c->d_model / c->n_heads;
    if ((uint64_t)c->n_heads * c->d_head > INT32_MAX)
        return lm_err_set(e, LM_MALFORMED, "%u heads of %u are too wide", c->n_heads, c->d_head);
    if (!(c->norm_eps > 0 && c->norm_eps < 1))
        return lm_err_set(e, LM_MALFORMED, "norm epsilon is %g, expected a small positive number", c->norm_eps);
    return finish_rope(c, e);
}

static int read_json(struct lm_config *c, struct lm_span text, const char **why, struct lm_arena *arena,
                     struct lm_err *e)
{
    const char *name;
    json_t *root = lm_json_parse(text, "config.json", e);
    if (!root)
        return -1;
    int rc = -1;
    const struct lm_arch *a = json_arch(root, &name);

    if (!a) {
        if (why)
            *why = name ? lm_arena_str(arena, lm_span_str(name)) : "config.json names no architecture";
        rc = 0;
        goto out;
    }
    set_defaults(c, a);
    if (json_keys(root, c, e) || json_rope(root, c, e) || json_act(root, c, e) || json_refused(root, e) || finish(c, e))
        goto out;
    c->bos_id = json_token_id(root, "bos_token_id");
    c->eos_id = json_token_id(root, "eos_token_id");
    c->pad_id = json_token_id(root, "pad_token_id");
    rc = 1;
out:
    json_decref(root);
    return rc;
}

/* ---- GGUF keys */

/* GGUF keeps reals in f32: 1e-5 is meant, not 9.99999975e-6. The number with the
 * fewest digits that is this float. */
static double as_written(double v)
{
    char text[32];

    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtof(text, NULL) == (float)v)
            return strtod(text, NULL);
    }
    return v;
}

static int meta_value(const struct lm_meta *m, const struct key *k, const char *name, struct lm_config *c,
                      struct lm_err *e)
{
    if (k->type == KEY_REAL) {
        double *v = field(c, k);
        if (lm_meta_get_f64(m, name, v, e) < 0)
            return -1;
        *v = as_written(*v);
        return 0;
    }
    uint64_t n = *(uint32_t *)field(c, k);
    if (lm_meta_get_u64(m, name, &n, e) < 0)
        return -1;
    if (n > INT32_MAX)
        return lm_err_set(e, LM_MALFORMED, "%s is %llu, expected 0..2147483647", name, (unsigned long long)n);
    *(uint32_t *)field(c, k) = (uint32_t)n;
    return 0;
}

static const char *arch_key(const struct lm_arch *a, const char *suffix, char *buf, size_t size)
{
    snprintf(buf, size, "%s.%s", a->name, suffix);
    return buf;
}

static int meta_keys(const struct lm_meta *m, struct lm_config *c, struct lm_err *e)
{
    char name[128];

    for (size_t i = 0; i < N_KEYS; i++) {
        const struct key *k = &keys[i];
        if (!k->gguf || (k->only_norm >= 0 && k->only_norm != (int)c->arch->norm))
            continue;
        if (meta_value(m, k, arch_key(c->arch, k->gguf, name, sizeof name), c, e))
            return -1;
    }
    uint64_t d_rope = 0;
    if (lm_meta_get_u64(m, arch_key(c->arch, "rope.dimension_count", name, sizeof name), &d_rope, e) < 0)
        return -1;
    c->d_rope = d_rope <= INT32_MAX ? (uint32_t)d_rope : 1;
    return 0;
}

static int meta_rope(const struct lm_meta *m, struct lm_config *c, struct lm_err *e)
{
    char name[128], kind[32];
    struct lm_span type = {NULL, 0};
    uint64_t orig = 0;
    double attn = 1;

    if (lm_meta_get_str(m, arch_key(c->arch, "rope.scaling.type", name, sizeof name), &type, e) < 0)
        return -1;
    if (type.size == 0)
        return 0;
    snprintf(kind, sizeof kind, "%.*s", (int)(type.size < 31 ? type.size : 31), (const char *)type.data);
    if (scaling_kind(kind, &c->scaling) || c->scaling == LM_SCALING_LLAMA3)
        return lm_err_set(e, LM_UNSUPPORTED, "%s \"%s\" is not handled (none, linear and yarn are)", name, kind);
    if (lm_meta_get_f64(m, arch_key(c->arch, "rope.scaling.factor", name, sizeof name), &c->rope_factor, e) < 0 ||
        lm_meta_get_u64(m, arch_key(c->arch, "rope.scaling.original_context_length", name, sizeof name), &orig, e) < 0 ||
        lm_meta_get_f64(m, arch_key(c->arch, "rope.scaling.yarn_beta_fast", name, sizeof name), &c->beta_fast, e) < 0 ||
        lm_meta_get_f64(m, arch_key(c->arch, "rope.scaling.yarn_beta_slow", name, sizeof name), &c->beta_slow, e) < 0 ||
        lm_meta_get_f64(m, arch_key(c->arch, "rope.scaling.attn_factor", name, sizeof name), &attn, e) < 0)
        return -1;
    c->rope_factor = as_written(c->rope_factor);
    c->rope_orig_ctx = orig && orig <= INT32_MAX ? (uint32_t)orig : c->ctx_len;
    if (c->scaling == LM_SCALING_YARN && attn != 1)
        c->rope_attn_factor = attn * yarn_mscale(c->rope_factor, 1);
    return 0;
}

static void meta_token_id(const struct lm_meta *m, const char *key, int64_t *id)
{
    uint64_t v = 0;
    if (lm_meta_get_u64(m, key, &v, NULL) == 1 && v <= INT32_MAX)
        *id = (int64_t)v;
}

static int read_meta(struct lm_config *c, struct lm_model *m, const char **why, struct lm_err *e)
{
    const struct lm_meta *meta = lm_model_meta(m);
    struct lm_span name = {NULL, 0};
    if (lm_meta_get_str(meta, "general.architecture", &name, e) < 0)
        return -1;
    const char *s = lm_arena_str(lm_model_arena(m), name);
    const struct lm_arch *a = s ? lm_arch_find(s) : NULL;

    if (!a) {
        if (why)
            *why = s;
        return 0;
    }
    set_defaults(c, a);
    const struct lm_tensor *embd = lm_model_find(m, "token_embd.weight");
    if (embd && embd->n_dims == 2 && embd->shape[0] <= INT32_MAX)
        c->vocab_size = (uint32_t)embd->shape[0];
    const struct lm_meta_value *tokens = lm_meta_get(meta, "tokenizer.ggml.tokens");
    if (!c->vocab_size && tokens && tokens->type == LM_META_ARRAY && tokens->n <= INT32_MAX)
        c->vocab_size = (uint32_t)tokens->n;
    c->tied = !lm_model_find(m, "output.weight");
    if (meta_keys(meta, c, e) || meta_rope(meta, c, e) || finish(c, e))
        return -1;
    meta_token_id(meta, "tokenizer.ggml.bos_token_id", &c->bos_id);
    meta_token_id(meta, "tokenizer.ggml.eos_token_id", &c->eos_id);
    meta_token_id(meta, "tokenizer.ggml.padding_token_id", &c->pad_id);
    return 1;
}

int lm_config_read(struct lm_config *out, struct lm_model *m, const char **why, struct lm_err *e)
{
    struct lm_span text = {NULL, 0};

    if (why)
        *why = "neither config.json nor general.architecture is there";
    if (lm_meta_get(lm_model_meta(m), "general.architecture"))
        return read_meta(out, m, why, e);
    int rc = lm_model_sidecar(m, "config.json", &text, e);
    return rc <= 0 ? rc : read_json(out, text, why, lm_model_arena(m), e);
}
