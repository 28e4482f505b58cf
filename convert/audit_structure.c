/* Tensors against the architecture and its configuration. */
#include <stdio.h>
#include <stdlib.h>

#include "convert/audit_parts.h"

/* ---- shapes */

static unsigned row_dims(const struct lm_audit *a, const struct lm_arch_row *r, uint64_t *shape)
{
    unsigned n = 0;

    /* Canonical order changes what is permuted or transposed; parts of tensors stay as they are. */
    if (a->canons->naming == LM_NAMES_HF && r->transform >= LM_T_GROUP_QKV)
        return lm_row_shape(r, &a->config, LM_NAMES_HF, shape);
    for (; n < 4 && r->shape[n] != LM_DIM_NONE; n++)
        shape[n] = lm_config_dim(&a->config, r->shape[n]);
    return n;
}

static const struct lm_arch_row *row_of(const struct lm_audit *a, const struct lm_audit_tensor *t)
{
    int layer, expert;

    return lm_arch_match_next(a->config.arch, &a->config, a->canons->naming, t->t->name, NULL, &layer, &expert);
}

static void check_shape(struct lm_audit *a, size_t i)
{
    const struct lm_audit_tensor *t = &a->tensors[i];
    const struct lmc_canon *c = &a->canons->of[i];
    const struct lm_arch_row *row = row_of(a, t);
    struct lm_tensor want = {0};
    char found[200], expected[200];
    bool same;

    if (!row || (row->flags & LM_ROW_DROPPED))
        return;
    want.n_dims = row_dims(a, row, want.shape);
    same = want.n_dims == c->it.n_dims;
    for (unsigned k = 0; same && k < want.n_dims; k++)
        same = want.shape[k] == 0 || want.shape[k] == c->it.shape[k];
    if (same)
        return;
    /* Rows of the vocabulary have a rule of their own. */
    if (t->role == LM_ROLE_TOKEN_EMBD && c->it.n_dims == 2 && c->it.shape[1] == a->config.d_model) {
        lmc_found(a, LM_RULE_vocab_size_disagrees, t->t->name, "vocab_size is %u, the embedding has %llu rows",
                  a->config.vocab_size, (unsigned long long)c->it.shape[0]);
        return;
    }
    lmc_found(a, LM_RULE_tensor_shape, t->t->name, "its shape is %s, the configuration makes it %s",
              lm_tensor_shape_str(t->t, found, sizeof found), lm_tensor_shape_str(&want, expected, sizeof expected));
}

/* ---- presence */

static bool is_required(const struct lm_audit *a, const struct lm_arch_row *r, int layer)
{
    bool optional = r->flags & LM_ROW_OPTIONAL;

    if (r->flags & (LM_ROW_DROPPED | LM_ROW_GGUF_ONLY | LM_ROW_ALIAS) || !lm_row_applies(r, &a->config, layer))
        return false;
    switch (r->role) {
    case LM_ROLE_OUTPUT: return false; /* head-absent */
    case LM_ROLE_ATTN_Q_B:
    case LM_ROLE_ATTN_K_B:
    case LM_ROLE_ATTN_V_B:
    case LM_ROLE_ATTN_OUT_B: return !optional || a->config.attn_bias;
    case LM_ROLE_FFN_GATE_B:
    case LM_ROLE_FFN_UP_B:
    case LM_ROLE_FFN_DOWN_B: return !optional || a->config.mlp_bias;
    default: return !optional;
    }
}

/* [(layer + 1) * roles + role] */
static bool *present(const struct lm_audit *a)
{
    bool *there = calloc(((size_t)a->config.n_layers + 1) * LM_N_ROLES, sizeof *there);

    for (size_t i = 0; there && i < a->n_tensors; i++) {
        const struct lm_audit_tensor *t = &a->tensors[i];
        const struct lm_arch_row *r = NULL;
        int layer, expert;
        while (t->known && (r = lm_arch_match_next(a->config.arch, &a->config, a->canons->naming, t->t->name, r, &layer,
                                                   &expert)))
            if (layer < (int)a->config.n_layers) /* of several rows: gate and up in one */
                there[(size_t)(layer + 1) * LM_N_ROLES + (size_t)r->role] = true;
    }
    return there;
}

static void check_present(struct lm_audit *a)
{
    const struct lm_arch *arch = a->config.arch;
    bool *there;
    char name[300];

    /* Every layer has at least one tensor. */
    if (a->config.n_layers > a->n_tensors) {
        lmc_found(a, LM_RULE_tensor_missing, a->path, "the configuration claims %u layers, there are %zu tensors",
                  a->config.n_layers, a->n_tensors);
        return;
    }
    there = present(a);
    for (size_t r = 0; there && r < arch->n_rows; r++) {
        bool per_layer = strchr(arch->rows[r].gguf ? arch->rows[r].gguf : arch->rows[r].hf, '#') != NULL;
        for (int l = per_layer ? 0 : -1; l < (per_layer ? (int)a->config.n_layers : 0); l++)
            if (is_required(a, &arch->rows[r], l) && !there[(size_t)(l + 1) * LM_N_ROLES + (size_t)arch->rows[r].role] &&
                lm_arch_row_name(&arch->rows[r], a->canons->naming, l, name, sizeof name))
                lmc_found(a, LM_RULE_tensor_missing, name, "the architecture needs it (%s)",
                          lm_role_name(arch->rows[r].role));
    }
    a->failed |= !there;
    free(there);
}

/* ---- what is too much */

/* The number behind "layers." or "blk.", or -1. */
static int layer_in_name(const char *name)
{
    static const char *const words[] = {"layers.", "blk.", "h.", NULL};

    for (size_t i = 0; words[i]; i++) {
        const char *at = strstr(name, words[i]);
        if (at && (at == name || at[-1] == '.'))
            return atoi(at + strlen(words[i]));
    }
    return -1;
}

static void check_unexpected(struct lm_audit *a)
{
    size_t beyond = 0;
    const char *first = NULL;

    for (size_t i = 0; i < a->n_tensors; i++) {
        const struct lm_audit_tensor *t = &a->tensors[i];
        if (t->known)
            continue;
        if (layer_in_name(t->t->name) >= (int)a->config.n_layers) {
            first = first ? first : t->t->name;
            beyond++;
        } else {
            lmc_found(a, LM_RULE_tensor_unexpected, t->t->name, "not a name of the architecture %s", a->config.arch->name);
        }
    }
    if (beyond)
        lmc_found(a, LM_RULE_layer_beyond, first, "%zu tensors lie in layers from %u on; the configuration has %u", beyond,
                  a->config.n_layers, a->config.n_layers);
}

static void check_mtp(struct lm_audit *a, const json_t *config)
{
    json_int_t heads = json_integer_value(json_object_get(config, "num_nextn_predict_layers"));
    const struct lm_meta_value *key = lmc_audit_key(a, "nextn_predict_layers");

    if (key && key->type != LM_META_STR && key->type != LM_META_ARRAY)
        heads = (json_int_t)key->u;
    if (heads <= 0)
        return;
    for (size_t i = 0; i < a->n_tensors; i++)
        if (strstr(a->tensors[i].t->name, "nextn") || strstr(a->tensors[i].t->name, "mtp") ||
            (a->has_config && layer_in_name(a->tensors[i].t->name) >= (int)a->config.n_layers))
            return;
    lmc_found(a, LM_RULE_mtp_absent, "config.json", "num_nextn_predict_layers is %lld, no tensor belongs to such a layer",
              (long long)heads);
}

/* ---- ties */

static void check_ties(struct lm_audit *a)
{
    const struct lm_audit_tensor *out = lmc_audit_role(a, LM_ROLE_OUTPUT, -1);
    const struct lm_audit_tensor *embd = lmc_audit_role(a, LM_ROLE_TOKEN_EMBD, -1);

    if (lmc_audit_is_gguf(a))
        return; /* there the absence of the matrix is the tie */
    if (!out && !a->config.tied)
        lmc_found(a, LM_RULE_head_absent, "config.json", "tie_word_embeddings is false and there is no output matrix");
    if (out && embd && a->config.tied && out->has_stats && embd->has_stats && out->stats.hash != embd->stats.hash)
        lmc_found(a, LM_RULE_tie_ignored, out->t->name, "tie_word_embeddings is true, its values are not the embedding's");
}

static void check_head_size(struct lm_audit *a)
{
    const struct lm_audit_tensor *q = lmc_audit_role(a, LM_ROLE_ATTN_Q, 0);

    if (!lmc_audit_is_gguf(a) || lmc_audit_key(a, "attention.key_length") || !q || q->t->n_dims != 2 ||
        q->t->shape[0] == a->config.d_model)
        return;
    lmc_found(a, LM_RULE_head_size_missing, "attention.key_length", "Q has %llu rows for %u heads, the width is %u",
              (unsigned long long)q->t->shape[0], a->config.n_heads, a->config.d_model);
}

void lmc_audit_structure(struct lm_audit *a)
{
    json_t *config = lmc_audit_json(a, "config.json");

    check_mtp(a, config);
    json_decref(config);
    if (!a->has_config)
        return;
    for (size_t i = 0; i < a->n_tensors; i++)
        if (a->tensors[i].known)
            check_shape(a, i);
    check_present(a);
    check_unexpected(a);
    check_ties(a);
    check_head_size(a);
}
