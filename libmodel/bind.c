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

static int check_shape(const struct lm_binding *b, const struct lm_arch_row *r, const struct lm_tensor *t,
                       struct lm_err *e)
{
    struct lm_tensor want = {.n_dims = 0};
    char found[128], expected[128];
    uint64_t shape[4];

    if (r->flags & LM_ROW_DROPPED)
        return 0;
    want.n_dims = lm_row_shape(r, &b->config, b->naming, shape);
    memcpy(want.shape, shape, sizeof shape);
    if (t->n_dims == want.n_dims && memcmp(want.shape, t->shape, want.n_dims * sizeof *shape) == 0)
        return 0;
    return lm_err_set(e, LM_MISMATCH, "tensor \"%s\" has shape %s, the config makes it %s", t->name,
                      lm_tensor_shape_str(t, found, sizeof found),
                      lm_tensor_shape_str(&want, expected, sizeof expected));
}

static int claimed(const struct lm_tensor *a, const struct lm_tensor *b, struct lm_err *e)
{
    return lm_err_set(e, LM_MALFORMED, "tensors \"%s\" and \"%s\" claim the same place in the model", a->name,
                      b->name);
}

/* A slot for each expert of a role in a layer. All slots together are as many
 * as there are tensors for them, so a config cannot claim more. */
static int set_expert(struct lm_binding *b, size_t i, const struct lm_tensor *t, int expert, size_t n_tensors,
                      struct lm_err *e)
{
    uint32_t n = b->config.n_experts;

    if ((uint32_t)expert >= n)
        return lm_err_set(e, LM_MISMATCH, "tensor \"%s\" is of expert %d, the config has %u", t->name, expert, n);
    if (!b->experts[i]) {
        if (b->n_slots + n > n_tensors)
            return lm_err_set(e, LM_MISMATCH, "the config claims %u experts, the model has %zu tensors", n, n_tensors);
        b->n_slots += n;
        if (!(b->experts[i] = calloc(n, sizeof *b->experts[i])))
            return lm_err_set(e, LM_NOMEM, "out of memory binding %u experts", n);
    }
    if (b->experts[i][expert])
        return claimed(b->experts[i][expert], t, e);
    b->experts[i][expert] = t;
    return 0;
}

static int bind_row(struct lm_binding *b, const struct lm_tensor *t, const struct lm_arch_row *r, int layer, int expert,
                    size_t n_tensors, struct lm_err *e)
{
    bool stacked = b->naming == LM_NAMES_HF && lm_row_is_stacked(r);

    if (check_shape(b, r, t, e))
        return -1;
    if (r->flags & LM_ROW_DROPPED)
        return 0;
    const struct lm_tensor **s = slot(b, r->role, layer);
    size_t i = (size_t)(s - b->at);
    if (*s && (!stacked || b->rows[i] != r))
        return claimed(*s, t, e);
    if (stacked && set_expert(b, i, t, expert, n_tensors, e))
        return -1;
    if (!*s)
        *s = t;
    b->rows[i] = r;
    return 0;
}

static int bind_one(struct lm_binding *b, const struct lm_tensor *t, struct lm_bound *out, size_t n_tensors,
                    struct lm_err *e)
{
    const struct lm_arch_row *r = NULL;
    int layer, expert;

    *out = (struct lm_bound){NULL, -1, 0};
    while ((r = lm_arch_match_next(b->config.arch, &b->config, b->naming, t->name, r, &layer, &expert))) {
        if (layer >= (int)b->config.n_layers)
            continue; /* a layer beyond the config's: not part of the decoder */
        if (!out->row)
            *out = (struct lm_bound){r, layer, expert};
        if (bind_row(b, t, r, layer, expert, n_tensors, e))
            return -1;
    }
    b->n_unknown += !out->row;
    return 0;
}

static bool is_per_layer(const struct lm_arch_row *r)
{
    return strchr(r->gguf ? r->gguf : r->hf, '#') != NULL;
}

/* Biases that the config asks for may not be silently absent. Another spelling
 * fills the same place, so it asks for nothing. */
static bool is_required(const struct lm_binding *b, const struct lm_arch_row *r, int layer)
{
    if (r->flags & (LM_ROW_DROPPED | LM_ROW_GGUF_ONLY | LM_ROW_ALIAS) || !lm_row_applies(r, &b->config, layer))
        return false;
    switch (r->role) {
    case LM_ROLE_OUTPUT: return !b->config.tied;
    case LM_ROLE_ATTN_Q_B:
    case LM_ROLE_ATTN_K_B:
    case LM_ROLE_ATTN_V_B:
    case LM_ROLE_ATTN_QKV_B:
    case LM_ROLE_ATTN_OUT_B: return b->config.attn_bias || !(r->flags & LM_ROW_OPTIONAL);
    case LM_ROLE_FFN_GATE_B:
    case LM_ROLE_FFN_UP_B:
    case LM_ROLE_FFN_DOWN_B: return b->config.mlp_bias || !(r->flags & LM_ROW_OPTIONAL);
    default: return !(r->flags & LM_ROW_OPTIONAL);
    }
}

static int missing(const struct lm_binding *b, const struct lm_arch_row *r, int layer, int expert, struct lm_err *e)
{
    char name[256];

    return lm_err_set(e, LM_MISSING, "tensor \"%s\" (%s) is missing; the config describes %u layers%s",
                      lm_arch_expert_name(r, b->naming, layer, expert, name, sizeof name), lm_role_name(r->role),
                      b->config.n_layers,
                      r->role == LM_ROLE_OUTPUT ? " and an output matrix of its own (tie_word_embeddings is false)" : "");
}

static int check_present(const struct lm_binding *b, const struct lm_arch_row *r, int layer, struct lm_err *e)
{
    size_t i = (size_t)(layer + 1) * LM_N_ROLES + (size_t)r->role;

    if (!b->at[i])
        return is_required(b, r, layer) ? missing(b, r, layer, 0, e) : 0;
    for (uint32_t x = 0; b->experts[i] && x < b->config.n_experts; x++)
        if (!b->experts[i][x])
            return missing(b, b->rows[i], layer, (int)x, e);
    return 0;
}

static int check_all_present(const struct lm_binding *b, struct lm_err *e)
{
    const struct lm_arch *a = b->config.arch;

    for (size_t i = 0; i < a->n_rows; i++) {
        int first = is_per_layer(&a->rows[i]) ? 0 : -1;
        int end = first < 0 ? 0 : (int)b->config.n_layers;
        for (int layer = first; layer < end; layer++)
            if (!(a->rows[i].flags & LM_ROW_DROPPED) && check_present(b, &a->rows[i], layer, e))
                return -1;
    }
    return 0;
}

/* Biases found decide what config.json will say. */
static void note_biases(struct lm_binding *b)
{
    if (b->config.n_layers == 0)
        return;
    b->config.attn_bias = b->config.attn_bias || lm_bound_tensor(b, LM_ROLE_ATTN_Q_B, 0) ||
                          lm_bound_tensor(b, LM_ROLE_ATTN_QKV_B, 0);
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
    if (b->config.alibi)
        b->rope = LM_ROPE_NONE;
    size_t places = ((size_t)b->config.n_layers + 1) * LM_N_ROLES;
    b->of = calloc(n ? n : 1, sizeof *b->of);
    b->at = calloc(places, sizeof *b->at);
    b->rows = calloc(places, sizeof *b->rows);
    b->experts = calloc(places, sizeof *b->experts);
    if (!b->of || !b->at || !b->rows || !b->experts)
        return lm_err_set(e, LM_NOMEM, "out of memory binding %zu tensors", n);
    for (size_t i = 0; i < n; i++)
        if (bind_one(b, lm_model_tensor(m, i), &b->of[i], n, e))
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
    for (size_t i = 0; b->experts && i < ((size_t)b->config.n_layers + 1) * LM_N_ROLES; i++)
        free(b->experts[i]);
    free(b->experts);
    free(b->rows);
    free(b->of);
    free(b->at);
    free(b);
}

/* ---- parts */

/* Rows and columns of one slice of a tensor that is stored as the row says. */
static void plain_part(struct lm_part *p, uint32_t index)
{
    const struct lm_tensor *t = p->t;
    unsigned n = t->n_dims;

    p->n[0] = n >= 2 ? t->shape[n - 2] : n == 1 ? t->shape[0] : 1;
    p->n[1] = n >= 2 ? t->shape[n - 1] : 1;
    p->step[0] = p->n[1];
    p->step[1] = 1;
    if (n == 3)
        p->at = index * p->n[0] * p->n[1];
}

/* A vector an expert: rows of a matrix. */
static bool is_vector_of_index(const struct lm_arch_row *r)
{
    return r->role == LM_ROLE_GATE_EXPS_B || r->role == LM_ROLE_UP_EXPS_B || r->role == LM_ROLE_DOWN_EXPS_B;
}

static void box_part(struct lm_part *p, const struct lm_box *b, uint32_t index)
{
    p->n[0] = b->n[1];
    p->n[1] = b->n[2];
    p->step[0] = b->hf[1];
    p->step[1] = b->hf[2];
    p->at = b->hf_at + index * b->hf[0];
}

bool lm_bound_part(const struct lm_binding *b, enum lm_role role, int layer, uint32_t index, struct lm_part *out)
{
    size_t i = (size_t)(layer + 1) * LM_N_ROLES + (size_t)role;
    struct lm_box box[LM_MAX_BOXES];

    *out = (struct lm_part){.t = lm_bound_tensor(b, role, layer)};
    if (!out->t)
        return false;
    out->row = b->rows[i];
    if (b->experts[i]) {
        out->t = b->experts[i][index];
        plain_part(out, 0);
        return true;
    }
    bool boxed = b->naming == LM_NAMES_HF && out->row->transform != LM_T_GROUP_QKV &&
                 lm_row_boxes(out->row, &b->config, 0, box) == 1;
    bool vector = is_vector_of_index(out->row);
    if (boxed)
        box_part(out, &box[0], vector ? 0 : index);
    else
        plain_part(out, index);
    if (vector) { /* [experts, n]: the row of this expert */
        out->at += index * out->step[0];
        out->n[0] = out->n[1];
        out->step[0] = out->step[1];
        out->n[1] = 1;
    }
    return true;
}
