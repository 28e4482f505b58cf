/* The configuration by itself, and positions. */
#include <stdio.h>

#include "convert/audit_parts.h"

/* ---- is there one? */

static bool says_something(const struct lm_audit *a, const json_t *config)
{
    return config || lm_meta_get(lm_model_meta(a->m), "general.architecture");
}

static void check_readable(struct lm_audit *a, const json_t *config)
{
    struct lm_config c;
    struct lm_err e = {0};
    const char *why = NULL;
    struct lm_span text;
    int rc = lm_config_read(&c, a->m, &why, &e);

    if (rc < 0)
        lmc_found(a, LM_RULE_config_broken, "configuration", "%s", e.text);
    else if (rc == 0 && says_something(a, config))
        lmc_found(a, LM_RULE_arch_unknown, "configuration", "%s", why ? why : "it names no architecture");
    else if (rc == 0 && lm_model_sidecar(a->m, "config.json", &text, &e) == 1)
        lmc_found(a, LM_RULE_config_broken, "config.json", "it is no JSON object");
    else if (rc == 0)
        lmc_found(a, LM_RULE_config_missing, a->path, "no config.json and no GGUF keys");
}

/* ---- config.json */

static const char *dtype_name(const json_t *config)
{
    const json_t *v = json_object_get(config, "dtype");

    return json_string_value(json_is_string(v) ? v : json_object_get(config, "torch_dtype"));
}

/* What most parameters are stored in, as PyTorch calls it; NULL: not a plain float. */
static const char *stored_dtype(const struct lm_audit *a)
{
    static const struct { enum lm_dtype d; const char *name; } names[] = {
        {LM_F32, "float32"}, {LM_BF16, "bfloat16"}, {LM_F16, "float16"}, {LM_F64, "float64"}};
    const char *most = NULL;
    uint64_t best = 0;

    for (size_t k = 0; k < sizeof names / sizeof names[0]; k++) {
        uint64_t n = 0;
        for (size_t i = 0; i < a->n_tensors; i++)
            n += a->tensors[i].t->dtype == names[k].d ? a->tensors[i].t->n_elems : 0;
        if (n > best) {
            best = n;
            most = names[k].name;
        }
    }
    return 2 * best > a->n_params ? most : NULL;
}

static void check_json(struct lm_audit *a, const json_t *config)
{
    const char *said = dtype_name(config), *stored = stored_dtype(a);
    const json_t *quant = json_object_get(config, "quantization_config");
    const char *method = json_string_value(json_object_get(quant, "quant_method"));

    if (said && stored && strcmp(said, stored) != 0 && !lmc_audit_is_gguf(a))
        lmc_found(a, LM_RULE_dtype_disagrees, "config.json", "it says %s, most weights are %s", said, stored);
    if (json_object_get(config, "auto_map"))
        lmc_found(a, LM_RULE_custom_code, "config.json", "it has auto_map");
    if (json_is_object(quant) && !lmc_audit_is_gguf(a))
        lmc_found(a, LM_RULE_quantization_config, "config.json", "quant_method is %s", method ? method : "not stated");
}

/* ---- numbers */

static bool states_theta(const struct lm_audit *a, const json_t *config)
{
    const json_t *rope = json_object_get(config, "rope_parameters"), *kind;
    const char *key;

    if (lmc_audit_is_gguf(a))
        return lmc_audit_key(a, "rope.freq_base") != NULL;
    json_object_foreach((json_t *)rope, key, kind) /* one set for each kind of layer */
        if (json_object_get(kind, "rope_theta"))
            return true;
    return json_object_get(config, "rope_theta") || json_object_get(rope, "rope_theta");
}

static void check_rope(struct lm_audit *a, const json_t *config)
{
    const struct lm_config *c = &a->config;
    bool freqs = lmc_audit_role(a, LM_ROLE_ROPE_FREQS, -1) != NULL;

    if (c->arch->rope_hf == LM_ROPE_NONE || c->alibi)
        return;
    if (!states_theta(a, config))
        lmc_found(a, LM_RULE_rope_theta_missing, lmc_audit_is_gguf(a) ? "rope.freq_base" : "config.json",
                  "%g is assumed", c->rope_theta);
    if (c->scaling != LM_SCALING_NONE || freqs)
        return;
    if (c->rope_theta == 10000 && c->ctx_len > 16384 && !(c->sliding_window && c->sliding_window <= 16384))
        lmc_found(a, LM_RULE_rope_theta_short, "rope_theta", "10000 for a context of %u", c->ctx_len);
    if (c->rope_theta == 500000 && c->ctx_len >= 131072)
        lmc_found(a, LM_RULE_rope_freqs_missing, "rope_freqs.weight",
                  "rope_theta is 500000 and the context %u, as in Llama 3.1, without scaling", c->ctx_len);
}

static void check_numbers(struct lm_audit *a)
{
    const struct lm_config *c = &a->config;

    if (c->ctx_len < 32 || c->ctx_len > 16777216)
        lmc_found(a, LM_RULE_context_odd, "configuration", "the context is %u positions", c->ctx_len);
    if (c->norm_eps > 1e-3 || c->norm_eps < 1e-12)
        lmc_found(a, LM_RULE_norm_eps_odd, "configuration", "it is %g", c->norm_eps);
    if (c->sliding_window && c->sliding_window < c->ctx_len)
        lmc_found(a, LM_RULE_sliding_window, "configuration", "%u of %u positions", c->sliding_window, c->ctx_len);
}

void lmc_audit_config(struct lm_audit *a)
{
    json_t *config = lmc_audit_json(a, "config.json");

    check_readable(a, config);
    if (config)
        check_json(a, config);
    if (a->has_config) {
        check_rope(a, config);
        check_numbers(a);
    }
    json_decref(config);
}
