/* config_groups of compressed-tensors: which weights are stored how.
 * https://github.com/vllm-project/compressed-tensors (quant_config.py,
 * quant_args.py, match.py): a module belongs to the group that names it exactly,
 * else to the first with a pattern ("re:…", anchored at the start) that fits,
 * else to the first that names its class. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <stdlib.h>
#include <string.h>

#include "libmodel/packed/packed.h"

struct target { const char *text; pcre2_code *code; size_t group; };
struct lmi_groups {
    struct lmi_weights_args *args;
    struct target *targets;
    size_t n_args, n_targets, targets_room;
};

void lmi_groups_free(struct lmi_groups *g)
{
    if (!g)
        return;
    for (size_t i = 0; i < g->n_targets; i++)
        pcre2_code_free(g->targets[i].code);
    free(g->targets);
    free(g->args);
    free(g);
}

/* ---- reading */

static int add_target(struct lmi_groups *g, const char *text, size_t group, struct lm_err *e)
{
    struct target *t;
    int code;
    PCRE2_SIZE at;

    if (g->n_targets == g->targets_room) {
        size_t room = g->targets_room ? 2 * g->targets_room : 16;
        struct target *bigger = reallocarray(g->targets, room, sizeof *bigger);
        if (!bigger)
            return lmi_nomem(e);
        g->targets = bigger;
        g->targets_room = room;
    }
    t = &g->targets[g->n_targets++];
    *t = (struct target){.text = text, .group = group};
    if (strncmp(text, "re:", 3) != 0)
        return 0;
    t->code = pcre2_compile((PCRE2_SPTR)text + 3, PCRE2_ZERO_TERMINATED, PCRE2_ANCHORED, &code, &at, NULL);
    if (!t->code)
        return lm_err_set(e, LM_MALFORMED, "config.json: the pattern '%.200s' of config_groups is not a regular "
                          "expression", text);
    return 0;
}

static int read_targets(struct lmi_groups *g, const json_t *list, size_t group, struct lm_err *e)
{
    size_t i;
    json_t *v;

    json_array_foreach(list, i, v) {
        if (!json_is_string(v))
            return lm_err_set(e, LM_MALFORMED, "config.json: targets of config_groups holds what is no text");
        if (add_target(g, json_string_value(v), group, e) < 0)
            return -1;
    }
    return 0;
}

static int read_args(struct lmi_weights_args *a, const json_t *w, struct lm_err *e)
{
    const json_t *block = json_object_get(w, "block_structure"), *type = json_object_get(w, "type");
    const json_t *sym = json_object_get(w, "symmetric");

    if (lmi_setting(w, "num_bits", 8, &a->bits, e) < 0 || lmi_setting(w, "group_size", 0, &a->group_size, e) < 0)
        return -1;
    a->is_float = json_string_value(type) && strcmp(json_string_value(type), "float") == 0;
    a->symmetric = !json_is_false(sym);
    a->strategy = json_string_value(json_object_get(w, "strategy"));
    if (!a->strategy)
        a->strategy = a->group_size > 0 ? "group" : a->group_size < 0 ? "channel" : "tensor";
    if (a->group_size < 0)
        a->group_size = 0;
    for (size_t i = 0; i < 2; i++) {
        json_int_t n = json_integer_value(json_array_get(block, i));
        a->block[i] = n > 0 && n <= INT32_MAX ? (int)n : 0;
    }
    if (a->bits < 1 || a->bits > 8)
        return lm_err_set(e, LM_UNSUPPORTED, "config.json: num_bits %d of config_groups, expected 1 to 8", a->bits);
    return 0;
}

int lmi_groups_read(struct lmi_finder *f, struct lm_err *e)
{
    const json_t *groups = json_object_get(f->config, "config_groups");
    const char *format = json_string_value(json_object_get(f->config, "format")), *key;
    struct lmi_groups *g = calloc(1, sizeof *g);
    json_t *v;

    f->groups = g;
    if (!g || !(g->args = calloc(json_object_size(groups) + 1, sizeof *g->args)))
        return lmi_nomem(e);
    json_object_foreach((json_t *)(uintptr_t)groups, key, v) {
        const json_t *w = json_object_get(v, "weights");
        struct lmi_weights_args *a = &g->args[g->n_args];
        const char *own = json_string_value(json_object_get(v, "format"));
        if (!json_is_object(w))
            continue; /* activations only */
        a->format = own ? own : format;
        if (read_args(a, w, e) < 0 || read_targets(g, json_object_get(v, "targets"), g->n_args, e) < 0)
            return lm_err_prefix(e, "config_groups '%.100s'", key);
        g->n_args++;
    }
    return 0;
}

/* ---- finding */

static int matches(const struct target *t, const char *module, struct lm_err *e)
{
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    int rc = PCRE2_ERROR_NOMEMORY;

    if (match && limits) {
        pcre2_set_match_limit(limits, 100000);
        rc = pcre2_match(t->code, (PCRE2_SPTR)module, strlen(module), 0, 0, match, limits);
    }
    pcre2_match_data_free(match);
    pcre2_match_context_free(limits);
    if (rc >= 0 || rc == PCRE2_ERROR_NOMATCH)
        return rc >= 0;
    return lm_err_set(e, LM_LIMIT, "config.json: the pattern '%.200s' takes too long", t->text);
}

static bool is_class(const struct target *t, const char *module)
{
    bool embedding = strstr(module, "embed") != NULL;

    return strcmp(t->text, embedding ? "Embedding" : "Linear") == 0;
}

int lmi_groups_find(const struct lmi_finder *f, const char *module, struct lmi_weights_args *out, struct lm_err *e)
{
    const struct lmi_groups *g = f->groups;

    for (int pass = 0; g && pass < 3; pass++)
        for (size_t i = 0; i < g->n_targets; i++) {
            const struct target *t = &g->targets[i];
            int hit = pass == 0 ? strcmp(t->text, module) == 0 : pass == 1 ? 0 : is_class(t, module);
            if (pass == 1 && t->code && (hit = matches(t, module, e)) < 0)
                return -1;
            if (hit) {
                *out = g->args[t->group];
                return 1;
            }
        }
    return 0;
}
