/* Hyper-parameters from config.json. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libmodel/config.h"
#include "libmodel/parse/json.h"

/* ---- one key */

static int get_u32(const json_t *v, const char *name, uint32_t *out, struct lm_err *e)
{
    json_int_t n = json_integer_value(v);

    if (n < 0 || n > INT32_MAX)
        return lm_err_set(e, LM_MALFORMED, "config.json: %s is %lld, expected 0..2147483647", name, (long long)n);
    *out = (uint32_t)n;
    return 0;
}

static int get_value(const json_t *v, const struct lm_config_key *k, const char *name, struct lm_config *c,
                     struct lm_err *e)
{
    void *field = lmi_config_field(c, k);

    if (json_is_null(v))
        return 0;
    if (k->type == LM_KEY_BOOL && json_is_boolean(v)) {
        *(bool *)field = json_is_true(v);
    } else if (k->type == LM_KEY_REAL && json_is_number(v)) {
        *(double *)field = json_number_value(v);
    } else if (k->type == LM_KEY_INV_SQRT && json_is_number(v) && json_number_value(v) > 0) {
        *(double *)field = 1 / sqrt(json_number_value(v));
    } else if (k->type == LM_KEY_U32 && json_is_integer(v)) {
        return get_u32(v, name, field, e);
    } else {
        return lm_err_set(e, LM_MALFORMED, "config.json: %s has the wrong type, expected a %s", name,
                          k->type == LM_KEY_BOOL  ? "boolean"
                          : k->type == LM_KEY_U32 ? "whole number"
                                                  : "number");
    }
    return 0;
}

static int get_keys(const json_t *root, struct lm_config *c, struct lm_err *e)
{
    const struct lm_config_key *k;

    for (size_t i = 0; (k = lmi_config_key(c->arch, i)); i++) {
        for (size_t j = 0; j < 6 && k->hf[j]; j++) {
            const json_t *v = json_object_get(root, k->hf[j]);
            if (!v)
                continue;
            if (get_value(v, k, k->hf[j], c, e))
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

/* ---- rotation */

static void yarn_attention(const json_t *o, struct lm_config *c)
{
    double m = 0;

    if (!json_is_number(json_object_get(o, "factor")) && c->rope_orig_ctx)
        c->rope_factor = (double)c->ctx_len / c->rope_orig_ctx;
    c->rope_no_truncate = json_is_false(json_object_get(o, "truncate"));
    get_real(o, "mscale", &m);
    get_real(o, "mscale_all_dim", &c->rope_mscale_all);
    if (c->rope_attn_factor == 0 && m != 0 && c->rope_mscale_all != 0)
        c->rope_attn_factor = lmi_yarn_mscale(c->rope_factor, m) / lmi_yarn_mscale(c->rope_factor, c->rope_mscale_all);
}

static const double *get_list(const json_t *v, const char *name, size_t n, struct lm_arena *arena, struct lm_err *e)
{
    double *x = json_array_size(v) == n && n > 0 ? lm_arena_array(arena, n, sizeof *x) : NULL;

    for (size_t i = 0; x && i < n; i++) {
        x[i] = json_number_value(json_array_get(v, i));
        if (!(x[i] > 0))
            x = NULL;
    }
    if (!x)
        lm_err_set(e, LM_MALFORMED, "config.json: %s is not a list of %zu positive numbers", name, n);
    return x;
}

/* The divisors are kept by the model; their number is known once the heads are. */
static int longrope(const json_t *o, struct lm_config *c, struct lm_arena *arena, struct lm_err *e)
{
    double said = 0;

    get_real(o, "factor", &said);
    if (!c->rope_orig_ctx)
        c->rope_orig_ctx = c->ctx_len;
    c->rope_factor = said > 0 || !c->rope_orig_ctx ? said : (double)c->ctx_len / c->rope_orig_ctx;
    c->rope_long = get_list(json_object_get(o, "long_factor"), "long_factor", c->d_rope / 2, arena, e);
    c->rope_short = get_list(json_object_get(o, "short_factor"), "short_factor", c->d_rope / 2, arena, e);
    if (!c->rope_long || !c->rope_short)
        return -1;
    if (c->rope_attn_factor == 0)
        c->rope_attn_factor = c->rope_factor <= 1 ? 1 : sqrt(1 + log(c->rope_factor) / log(c->rope_orig_ctx));
    return 0;
}

static int rope_kind(const json_t *o, enum lm_rope_scaling *out, struct lm_err *e)
{
    const json_t *t = json_object_get(o, "rope_type");
    const char *kind = json_string_value(t ? t : json_object_get(o, "type"));

    if (kind && lmi_scaling_find(kind, out))
        return lm_err_set(e, LM_UNSUPPORTED,
                          "config.json: rope scaling \"%s\" is not handled (default, linear, llama3, yarn and longrope are)",
                          kind);
    return 0;
}

static int rope_fields(const json_t *o, const json_t *root, struct lm_config *c, struct lm_err *e)
{
    double orig = 0;

    if (rope_kind(o, &c->scaling, e))
        return -1;
    get_real(root, "original_max_position_embeddings", &orig);
    get_real(o, "original_max_position_embeddings", &orig);
    get_real(o, "rope_theta", &c->rope_theta);
    get_real(o, "factor", &c->rope_factor);
    get_real(o, "low_freq_factor", &c->rope_low_freq);
    get_real(o, "high_freq_factor", &c->rope_high_freq);
    get_real(o, "beta_fast", &c->beta_fast);
    get_real(o, "beta_slow", &c->beta_slow);
    get_real(o, "attention_factor", &c->rope_attn_factor);
    c->rope_orig_ctx = orig >= 1 && orig <= INT32_MAX ? (uint32_t)orig : 0;
    return 0;
}

/* Since transformers 5 windowed and full layers may have an object each. */
static int local_rope(const json_t *o, struct lm_config *c, struct lm_err *e)
{
    const json_t *local = json_object_get(o, "sliding_attention");
    enum lm_rope_scaling kind = LM_SCALING_NONE;

    if (!json_is_object(local))
        return 0;
    if (rope_kind(local, &kind, e))
        return -1;
    if (kind != LM_SCALING_NONE || !c->arch->local_rope)
        return lm_err_set(e, LM_UNSUPPORTED, "config.json: rope_parameters of sliding_attention that are scaled, or in "
                          "this architecture, are not handled");
    get_real(local, "rope_theta", &c->rope_theta_local);
    return 0;
}

static uint32_t rotary_width(const json_t *root, const json_t *o, const struct lm_config *c)
{
    uint32_t head = c->d_head ? c->d_head : c->n_heads ? c->d_model / c->n_heads : 0;
    double part = 1;

    get_real(root, "partial_rotary_factor", &part);
    get_real(root, "rotary_pct", &part);
    get_real(o, "partial_rotary_factor", &part);
    return part > 0 && part <= 1 ? (uint32_t)(part * head) : 1; /* 1 is refused: pairs rotate */
}

/* "rope_scaling" of older files, "rope_parameters" since transformers 5. */
static int get_rope(const json_t *root, struct lm_config *c, struct lm_arena *arena, struct lm_err *e)
{
    const json_t *o = json_object_get(root, "rope_parameters");
    const json_t *full = json_object_get(o, "full_attention");

    if (!json_is_object(o))
        o = json_object_get(root, "rope_scaling");
    get_real(root, "rope_local_base_freq", &c->rope_theta_local);
    if (json_is_object(full) && local_rope(o, c, e))
        return -1;
    if (json_is_object(full))
        o = full;
    if (!c->d_rope)
        c->d_rope = rotary_width(root, o, c);
    if (!json_is_object(o))
        return 0;
    if (rope_fields(o, root, c, e))
        return -1;
    if (c->scaling == LM_SCALING_YARN)
        yarn_attention(o, c);
    return c->scaling == LM_SCALING_LONGROPE ? longrope(o, c, arena, e) : 0;
}

/* ---- windows */

static int layer_types(const json_t *list, struct lm_config *c, struct lm_err *e)
{
    if (json_array_size(list) < c->n_layers)
        return lm_err_set(e, LM_MALFORMED, "config.json: layer_types has %zu entries for %u layers",
                          json_array_size(list), c->n_layers);
    if (lmi_config_mixed_limit(c, e))
        return -1;
    for (uint32_t i = 0; i < c->n_layers; i++) {
        const char *s = json_string_value(json_array_get(list, i));
        if (s && strcmp(s, "full_attention") == 0)
            lmi_config_set_full(c, i);
        else if (!s || strcmp(s, "sliding_attention") != 0)
            return lm_err_set(e, LM_UNSUPPORTED, "config.json: a layer of type \"%s\" is not handled", s ? s : "?");
    }
    return 0;
}

static int get_windows(const json_t *root, struct lm_config *c, struct lm_err *e)
{
    const json_t *v = json_object_get(root, "sliding_window"), *types = json_object_get(root, "layer_types");
    const json_t *from = json_object_get(root, "max_window_layers");
    double period = c->arch->window_period;

    if (v && !json_is_null(v) && !json_is_integer(v))
        return lm_err_set(e, LM_MALFORMED, "config.json: sliding_window has the wrong type, expected a whole number");
    if (json_is_integer(v) && get_u32(v, "sliding_window", &c->sliding_window, e))
        return -1;
    if (c->arch->window_opt_in && !json_is_true(json_object_get(root, "use_sliding_window")))
        c->sliding_window = 0;
    if (!c->sliding_window || !c->arch->mixed_windows)
        return 0;
    if (json_is_array(types))
        return layer_types(types, c, e);
    if (c->arch->window_opt_in) {
        if (json_is_integer(from) && lmi_config_mixed_limit(c, e))
            return -1;
        for (uint32_t i = 0; json_is_integer(from) && i < c->n_layers && i < json_integer_value(from); i++)
            lmi_config_set_full(c, i);
        return 0;
    }
    get_real(root, "sliding_window_pattern", &period);
    return lmi_config_periodic(c, period >= 1 && period <= INT32_MAX ? (uint32_t)period : 0, e);
}

/* ---- experts */

/* DeepSeek V2 ignores its groups when the choice is greedy, and never divides by the sum. */
static int get_routing(const json_t *root, struct lm_config *c, struct lm_err *e)
{
    const char *method = json_string_value(json_object_get(root, "topk_method"));
    const char *scores = json_string_value(json_object_get(root, "scoring_func"));

    if (!c->kv_lora)
        return 0;
    if (c->gating == LM_GATING_SOFTMAX && (!method || strcmp(method, "greedy") == 0))
        c->n_expert_groups = c->n_groups_used = 0;
    if (c->gating == LM_GATING_SOFTMAX && c->expert_norm)
        return lm_err_set(e, LM_UNSUPPORTED, "config.json: norm_topk_prob true with softmax scores is not handled");
    if (scores && strcmp(scores, c->gating == LM_GATING_SOFTMAX ? "softmax" : "sigmoid") != 0)
        return lm_err_set(e, LM_UNSUPPORTED, "config.json: scoring_func \"%s\" is not what this class computes", scores);
    return 0;
}

/* ---- activation */

static const char *act_said(const json_t *root)
{
    static const char *const names[] = {"hidden_activation", "hidden_act", "activation_function", "activation"};
    const char *s = NULL;

    for (size_t i = 0; !s && i < sizeof names / sizeof names[0]; i++)
        s = json_string_value(json_object_get(root, names[i]));
    return s;
}

static int get_act(const json_t *root, struct lm_config *c, struct lm_err *e)
{
    static const struct { const char *name; enum lm_act act; } acts[] = {
        {"silu", LM_ACT_SILU}, {"swish", LM_ACT_SILU}, {"gelu_new", LM_ACT_GELU_TANH}, {"relu", LM_ACT_RELU},
        {"gelu_pytorch_tanh", LM_ACT_GELU_TANH}, {"gelu_fast", LM_ACT_GELU_TANH}, {"gelu", LM_ACT_GELU_ERF},
    };
    const char *s = act_said(root);

    /* The experts of gpt-oss have a form of their own, whatever hidden_act says. */
    if (!s || c->arch->act == LM_ACT_SWIGLU_CLAMPED)
        return 0;
    /* Gemma's first files say "gelu" and mean the tanh form, as transformers has it too. */
    if (c->arch->gated && c->arch->act == LM_ACT_GELU_TANH && strcmp(s, "gelu") == 0)
        return 0;
    for (size_t i = 0; i < sizeof acts / sizeof acts[0]; i++) {
        if (strcmp(acts[i].name, s) == 0) {
            c->act = acts[i].act;
            return 0;
        }
    }
    return lm_err_set(e, LM_UNSUPPORTED, "config.json: activation \"%s\" is not handled", s);
}

/* ---- what would change the result */

static bool is_accepted(const char *list, const char *text)
{
    size_t n = strlen(text);

    for (const char *p = list; p; p = strchr(p, ',')) {
        p += *p == ',';
        if (strncmp(p, text, n) == 0 && (p[n] == ',' || p[n] == 0))
            return true;
    }
    return false;
}

static int check_guard(const json_t *root, const struct lm_config_guard *g, struct lm_err *e)
{
    const json_t *v = json_object_get(root, g->key);
    char *text = v ? json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9)) : NULL;
    int rc = 0;

    if (v && !text)
        return lm_err_set(e, LM_NOMEM, "out of memory reading config.json");
    if (v && !is_accepted(g->accepted, text))
        rc = lm_err_set(e, LM_UNSUPPORTED, "config.json: %s %.60s is not handled", g->key, text);
    free(text);
    return rc;
}

static int check_guards(const json_t *root, const struct lm_arch *a, struct lm_err *e)
{
    static const struct lm_config_guard all[] = {
        {"add_cross_attention", "false,null"}, {"use_bidirectional_attention", "false,null"}, {"clip_qkv", "null"},
        {"scale_attn_by_inverse_layer_idx", "false,null"}, {"scale_attn_weights", "true,null"}, {NULL, NULL},
    };

    for (const struct lm_config_guard *g = all; g->key; g++)
        if (check_guard(root, g, e))
            return -1;
    for (const struct lm_config_guard *g = a->guards; g && g->key; g++)
        if (check_guard(root, g, e))
            return -1;
    return 0;
}

/* ---- the whole */

static int64_t token_id(const json_t *root, const char *name)
{
    const json_t *v = json_object_get(root, name);
    if (json_is_array(v))
        v = json_array_get(v, 0);
    return json_is_integer(v) ? (int64_t)json_integer_value(v) : -1;
}

static const struct lm_arch *arch_of_class(const char *cls, const char *model_type, size_t *k)
{
    for (size_t i = 0; lm_arch_at(i); i++) {
        const struct lm_arch *a = lm_arch_at(i);
        for (*k = 0; a->hf_classes[*k]; ++*k) {
            if (cls ? strcmp(a->hf_classes[*k], cls) == 0
                    : model_type && strcmp(a->hf_model_types[*k], model_type) == 0)
                return a;
        }
    }
    return NULL;
}

static const struct lm_arch *find_arch(const json_t *root, const char **name, size_t *k)
{
    const char *cls = json_string_value(json_array_get(json_object_get(root, "architectures"), 0));
    const char *type = json_string_value(json_object_get(root, "model_type"));

    *name = cls ? cls : type;
    return arch_of_class(cls, type, k);
}

static int fill(struct lm_config *c, const json_t *root, struct lm_arena *arena, struct lm_err *e)
{
    if (get_keys(root, c, e) || get_windows(root, c, e) || get_routing(root, c, e) || get_act(root, c, e) ||
        check_guards(root, c->arch, e) || get_rope(root, c, arena, e) || lmi_config_finish(c, NULL, e))
        return -1;
    c->bos_id = token_id(root, "bos_token_id");
    c->eos_id = token_id(root, "eos_token_id");
    c->pad_id = token_id(root, "pad_token_id");
    return 1;
}

static bool is_mxfp4(const json_t *root)
{
    const char *s = json_string_value(json_object_get(json_object_get(root, "quantization_config"), "quant_method"));

    return s && strcmp(s, "mxfp4") == 0;
}

int lmi_config_from_json(struct lm_config *c, struct lm_span text, const char **why, struct lm_arena *arena,
                         struct lm_err *e)
{
    const char *name;
    size_t k = 0;
    json_t *root = lm_json_parse(text, "config.json", e);
    if (!root)
        return -1;
    const struct lm_arch *a = find_arch(root, &name, &k);
    int rc = 0;

    if (!a && why)
        *why = name ? lm_arena_str(arena, lm_span_str(name)) : "config.json names no architecture";
    if (a) {
        lmi_config_defaults(c, a);
        if (a->class_defaults)
            a->class_defaults(c, k);
        c->mxfp4_experts = is_mxfp4(root);
        rc = fill(c, root, arena, e);
    }
    json_decref(root);
    return rc;
}
