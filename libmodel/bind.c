/* Matches every tensor of a model to a row of its architecture and checks it. */
#include "libmodel/arch.h"

#include <stdlib.h>
#include <string.h>

static const struct lm_tensor **slot(struct lm_binding *b, enum lm_role r, int layer)
{
    return &b->at[(size_t)(layer + 1) * LM_N_ROLES + (size_t)r];
}

const struct lm_tensor *lm_bound_tensor(const struct lm_binding *b, enum lm_role r, int layer)
{
    if (layer < -1 || layer >= (int)b->config.n_layers || (unsigned)r >= LM_N_ROLES)
        return NULL;
    if (r == LM_ROLE_OUTPUT && b->config.tied)
        return NULL;
    return b->at[(size_t)(layer + 1) * LM_N_ROLES + (size_t)r];
}

static unsigned n_dims_of(const struct lm_arch_row *r)
{
    unsigned n = 0;
    while (n < 4 && r->shape[n] != LM_DIM_NONE)
        n++;
    return n;
}

static int check_shape(const struct lm_binding *b, const struct lm_arch_row *r, const struct lm_tensor *t,
                       struct lm_err *e)
{
    unsigned n = n_dims_of(r);
    bool reversed = b->naming == LM_NAMES_HF && r->transform == LM_T_TRANSPOSE;
    struct lm_tensor want = {.n_dims = n};
    char found[128], expected[128];
    bool same = t->n_dims == n;

    for (unsigned i = 0; i < n; i++) {
        want.shape[i] = lm_config_dim(&b->config, r->shape[reversed ? n - 1 - i : i]);
        same = same && want.shape[i] == t->shape[i];
    }
    if (same || (r->flags & LM_ROW_DROPPED))
        return 0;
    return lm_err_set(e, LM_MISMATCH, "tensor \"%s\" has shape %s, the config makes it %s", t->name,
                      lm_tensor_shape_str(t, found, sizeof found),
                      lm_tensor_shape_str(&want, expected, sizeof expected));
}

static int bind_one(struct lm_binding *b, const struct lm_tensor *t, struct lm_bound *out, struct lm_err *e)
{
    out->row = lm_arch_match(b->config.arch, b->naming, t->name, &out->layer);
    if (out->row && out->layer >= (int)b->config.n_layers)
        out->row = NULL; /* a layer beyond the config's: not part of the decoder */
    if (!out->row) {
        out->layer = -1;
        b->n_unknown++;
        return 0;
    }
    if (check_shape(b, out->row, t, e))
        return -1;
    if (out->row->flags & LM_ROW_DROPPED)
        return 0;
    const struct lm_tensor **s = slot(b, out->row->role, out->layer);
    if (*s)
        return lm_err_set(e, LM_MALFORMED, "tensors \"%s\" and \"%s\" claim the same place in the model", (*s)->name,
                          t->name);
    *s = t;
    return 0;
}

static bool is_per_layer(const struct lm_arch_row *r)
{
    return strchr(r->gguf ? r->gguf : r->hf, '#') != NULL;
}

/* Biases that the config asks for may not be silently absent. */
static bool is_required(const struct lm_binding *b, const struct lm_arch_row *r)
{
    if (r->flags & (LM_ROW_DROPPED | LM_ROW_GGUF_ONLY))
        return false;
    switch (r->role) {
    case LM_ROLE_OUTPUT: return !b->config.tied;
    case LM_ROLE_ATTN_Q_B:
    case LM_ROLE_ATTN_K_B:
    case LM_ROLE_ATTN_V_B:
    case LM_ROLE_ATTN_OUT_B: return b->config.attn_bias || !(r->flags & LM_ROW_OPTIONAL);
    case LM_ROLE_FFN_GATE_B:
    case LM_ROLE_FFN_UP_B:
    case LM_ROLE_FFN_DOWN_B: return b->config.mlp_bias || !(r->flags & LM_ROW_OPTIONAL);
    default: return !(r->flags & LM_ROW_OPTIONAL);
    }
}

static int check_present(const struct lm_binding *b, const struct lm_arch_row *r, int layer, struct lm_err *e)
{
    char name[256];

    if (!is_required(b, r) || b->at[(size_t)(layer + 1) * LM_N_ROLES + (size_t)r->role])
        return 0;
    return lm_err_set(e, LM_MISSING, "tensor \"%s\" (%s) is missing; the config describes %u layers%s",
                      lm_arch_row_name(r, b->naming, layer, name, sizeof name), lm_role_name(r->role),
                      b->config.n_layers,
                      r->role == LM_ROLE_OUTPUT ? " and an output matrix of its own (tie_word_embeddings is false)" : "");
}

static int check_all_present(const struct lm_binding *b, struct lm_err *e)
{
    const struct lm_arch *a = b->config.arch;

    for (size_t i = 0; i < a->n_rows; i++) {
        int first = is_per_layer(&a->rows[i]) ? 0 : -1;
        int end = first < 0 ? 0 : (int)b->config.n_layers;
        for (int layer = first; layer < end; layer++)
            if (check_present(b, &a->rows[i], layer, e))
                return -1;
    }
    return 0;
}

/* Biases found decide what config.json will say. */
static void note_biases(struct lm_binding *b)
{
    if (b->config.n_layers == 0)
        return;
    b->config.attn_bias = b->config.attn_bias || lm_bound_tensor(b, LM_ROLE_ATTN_Q_B, 0);
    b->config.mlp_bias = b->config.mlp_bias || lm_bound_tensor(b, LM_ROLE_FFN_UP_B, 0);
}

static int fill(struct lm_binding *b, struct lm_model *m, struct lm_err *e)
{
    size_t n = lm_model_n_tensors(m);
    const char *why = NULL;
    int rc = lm_config_read(&b->config, m, &why, e);

    if (rc < 0)
        return -1;
    if (rc == 0)
        return lm_err_set(e, LM_UNSUPPORTED, "the architecture is not known: %s", why ? why : "(unnamed)");
    /* Every layer has at least one tensor: a config may not claim more layers than there are tensors. */
    if (b->config.n_layers > n)
        return lm_err_set(e, LM_MISMATCH, "the config claims %u layers, the model has %zu tensors", b->config.n_layers, n);
    b->naming = lm_meta_get(lm_model_meta(m), "general.architecture") ? LM_NAMES_GGUF : LM_NAMES_HF;
    b->rope = b->naming == LM_NAMES_GGUF ? b->config.arch->rope_gguf : b->config.arch->rope_hf;
    b->of = calloc(n ? n : 1, sizeof *b->of);
    b->at = calloc(((size_t)b->config.n_layers + 1) * LM_N_ROLES, sizeof *b->at);
    if (!b->of || !b->at)
        return lm_err_set(e, LM_NOMEM, "out of memory binding %zu tensors", n);
    for (size_t i = 0; i < n; i++)
        if (bind_one(b, lm_model_tensor(m, i), &b->of[i], e))
            return -1;
    if (check_all_present(b, e))
        return -1;
    note_biases(b);
    return 0;
}

int lm_bind(struct lm_binding **out, struct lm_model *m, struct lm_err *e)
{
    struct lm_binding *b = calloc(1, sizeof *b);

    *out = NULL;
    if (!b)
        return lm_err_set(e, LM_NOMEM, "out of memory");
    if (fill(b, m, e)) {
        lm_binding_free(b);
        return lm_err_prefix(e, "%s", lm_model_path(m));
    }
    *out = b;
    return 0;
}

void lm_binding_free(struct lm_binding *b)
{
    if (!b)
        return;
    free(b->of);
    free(b->at);
    free(b);
}
