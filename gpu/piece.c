/* Weights by role, in one order for every container. */
#include "gpu/piece.h"
#include "gpu/mechanics.h"

static bool is_expert_role(enum lm_role r)
{
    return r == LM_ROLE_GATE_EXPS || r == LM_ROLE_UP_EXPS || r == LM_ROLE_DOWN_EXPS || r == LM_ROLE_GATE_EXPS_B ||
           r == LM_ROLE_UP_EXPS_B || r == LM_ROLE_DOWN_EXPS_B;
}

uint32_t lmi_piece_count(const struct lm_config *c, enum lm_role r)
{
    return is_expert_role(r) ? c->n_experts : r == LM_ROLE_MLA_K_B || r == LM_ROLE_MLA_V_B ? c->n_heads : 1;
}

/* Roles that may be part of another's tensor. */
static const struct { enum lm_role role, in; int fused; } parts_of[] = {
    {LM_ROLE_ATTN_Q, LM_ROLE_ATTN_QKV, LMI_OF_Q},     {LM_ROLE_ATTN_K, LM_ROLE_ATTN_QKV, LMI_OF_K},
    {LM_ROLE_ATTN_V, LM_ROLE_ATTN_QKV, LMI_OF_V},     {LM_ROLE_ATTN_Q_B, LM_ROLE_ATTN_QKV_B, LMI_OF_Q},
    {LM_ROLE_ATTN_K_B, LM_ROLE_ATTN_QKV_B, LMI_OF_K}, {LM_ROLE_ATTN_V_B, LM_ROLE_ATTN_QKV_B, LMI_OF_V},
    {LM_ROLE_FFN_GATE, LM_ROLE_FFN_GATE_UP, LMI_WHOLE}, {LM_ROLE_FFN_UP, LM_ROLE_FFN_GATE_UP, LMI_WHOLE},
    {LM_ROLE_OUTPUT, LM_ROLE_TOKEN_EMBD, LMI_WHOLE},
};

/* Fills part, fused, rows and first from the tensor that holds the role among others. */
static bool find_within(const struct lm_engine *g, enum lm_role role, int layer, struct lmi_piece *p)
{
    const struct lm_config *c = &g->net.config;

    for (size_t i = 0; i < sizeof parts_of / sizeof *parts_of; i++) {
        if (parts_of[i].role != role || !lm_bound_part(g->binding, parts_of[i].in, layer, 0, &p->part))
            continue;
        p->fused = parts_of[i].fused;
        p->rows = p->part.n[0];
        if (p->fused)
            p->rows = (uint64_t)c->d_head * (p->fused == LMI_OF_Q ? c->n_heads : c->n_kv_heads);
        if (role == LM_ROLE_FFN_GATE || role == LM_ROLE_FFN_UP) {
            p->rows /= 2;
            p->first = role == LM_ROLE_FFN_UP ? p->rows : 0;
        }
        return true;
    }
    return false;
}

bool lmi_piece_of(const struct lm_engine *g, enum lm_role role, int layer, uint32_t index, struct lmi_piece *p)
{
    *p = (struct lmi_piece){.net = &g->net};
    if (lm_bound_part(g->binding, role, layer, index, &p->part))
        p->rows = p->part.n[0];
    else if (!find_within(g, role, layer, p))
        return false;
    p->cols = p->part.n[1];
    bool gguf = g->binding->naming == LM_NAMES_GGUF;
    enum lm_transform t = p->part.row ? p->part.row->transform : LM_T_NONE;
    if (gguf && t == LM_T_PERMUTE_Q)
        p->heads = g->net.config.n_heads;
    if (gguf && t == LM_T_PERMUTE_K)
        p->heads = g->net.config.n_kv_heads;
    if (p->heads && p->rows % (2 * p->heads))
        p->heads = 0;
    p->shift = !gguf && t == LM_T_PLUS_ONE ? 1 : 0;
    return p->rows > 0 && p->cols > 0;
}

/* Where row r lies in the tensor. */
static uint64_t stored_row(const struct lmi_piece *p, uint64_t r)
{
    if (p->fused) {
        uint64_t d = p->net->config.d_head, h = r / d;
        return r % d + (p->fused == LMI_OF_Q ? lmi_q_in_row(p->net, h) : p->fused == LMI_OF_K ? lmi_k_in_row(p->net, h)
                                                                                              : lmi_v_in_row(p->net, h));
    }
    if (p->heads) {
        uint64_t d = p->rows / p->heads, q = r % d;
        return r - q + q % (d / 2) * 2 + q / (d / 2);
    }
    return p->first + r;
}

int lmi_piece_read(const struct lmi_piece *p, uint64_t first, uint64_t step, uint64_t n, float *out, struct lm_err *e)
{
    const struct lm_part *t = &p->part;
    bool together = t->step[1] == 1 || p->cols == 1;
    int rc = 0;

    for (uint64_t i = 0; rc == 0 && i < n; i++) {
        uint64_t at = t->at + stored_row(p, first + i * step) * t->step[0];
        float *to = out + i * p->cols;
        if (together)
            rc = lm_tensor_to_f32(t->t, at, p->cols, to, e);
        for (uint64_t j = 0; rc == 0 && !together && j < p->cols; j++)
            rc = lm_tensor_to_f32(t->t, at + j * t->step[1], 1, to + j, e);
        for (uint64_t j = 0; p->shift != 0 && j < p->cols; j++)
            to[j] += (float)p->shift;
    }
    return rc;
}

void lmi_piece_write(const struct lmi_piece *p, const float *values, float *data)
{
    const struct lm_part *t = &p->part;

    for (uint64_t r = 0; r < p->rows; r++)
        for (uint64_t j = 0; j < p->cols; j++)
            data[t->at + stored_row(p, r) * t->step[0] + (p->cols > 1 ? j * t->step[1] : 0)] =
                values[r * p->cols + j] - (float)p->shift;
}
