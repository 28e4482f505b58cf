/* llama.cpp's file types as tables: what each is called, and which weights
 * depart from its base type.  The rules were read from llama-quantize's
 * behaviour and are checked against its sizes and histograms. */
#include "convert/policy.h"

#include <stdio.h>
#include <strings.h>

enum ft {
    FT_F32, FT_F16, FT_BF16, FT_Q4_0, FT_Q4_1, FT_Q5_0, FT_Q5_1, FT_Q8_0, FT_Q2_K, FT_Q3_K_S, FT_Q3_K_M, FT_Q3_K_L,
    FT_Q4_K_S, FT_Q4_K_M, FT_Q5_K_S, FT_Q5_K_M, FT_Q6_K, N_FT
};

static const struct lm_ftype ftypes[N_FT] = {
    [FT_F32] = {"F32", LM_F32, 0, 32},
    [FT_F16] = {"F16", LM_F16, 1, 16},
    [FT_BF16] = {"BF16", LM_BF16, 32, 16},
    [FT_Q4_0] = {"Q4_0", LM_Q4_0, 2, 4.54},
    [FT_Q4_1] = {"Q4_1", LM_Q4_1, 3, 5.03},
    [FT_Q5_0] = {"Q5_0", LM_Q5_0, 8, 5.52},
    [FT_Q5_1] = {"Q5_1", LM_Q5_1, 9, 6.01},
    [FT_Q8_0] = {"Q8_0", LM_Q8_0, 7, 8.50},
    [FT_Q2_K] = {"Q2_K", LM_Q2_K, 10, 3.00},
    [FT_Q3_K_S] = {"Q3_K_S", LM_Q3_K, 11, 3.50},
    [FT_Q3_K_M] = {"Q3_K_M", LM_Q3_K, 12, 3.89},
    [FT_Q3_K_L] = {"Q3_K_L", LM_Q3_K, 13, 4.22},
    [FT_Q4_K_S] = {"Q4_K_S", LM_Q4_K, 14, 4.57},
    [FT_Q4_K_M] = {"Q4_K_M", LM_Q4_K, 15, 4.83},
    [FT_Q5_K_S] = {"Q5_K_S", LM_Q5_K, 16, 5.52},
    [FT_Q5_K_M] = {"Q5_K_M", LM_Q5_K, 17, 5.67},
    [FT_Q6_K] = {"Q6_K", LM_Q6_K, 18, 6.56},
};

const struct lm_ftype *lm_ftype_at(size_t i)
{
    return i < N_FT ? &ftypes[i] : NULL;
}

const struct lm_ftype *lm_ftype_find(const char *name)
{
    static const struct { const char *name; enum ft ft; } alias[] = {
        {"Q3_K", FT_Q3_K_M}, {"Q4_K", FT_Q4_K_M}, {"Q5_K", FT_Q5_K_M},
    };

    for (size_t i = 0; i < N_FT; i++)
        if (strcasecmp(name, ftypes[i].name) == 0)
            return &ftypes[i];
    for (size_t i = 0; i < sizeof alias / sizeof alias[0]; i++)
        if (strcasecmp(name, alias[i].name) == 0)
            return &ftypes[alias[i].ft];
    return NULL;
}

/* ---- what the rules look at */

enum group { G_OTHER, G_OUTPUT, G_TOKEN_EMBD, G_V, G_K, G_ATTN_OUT, G_FFN_DOWN };

static enum group group_of(const char *name)
{
    /* First hit decides; fused QKV and MLA's kv_b count as V. */
    static const struct { const char *part; enum group group; } parts[] = {
        {"attn_qkv.weight", G_V}, {"attn_kv_b.weight", G_V},     {"attn_v.weight", G_V},
        {"attn_k.weight", G_K},   {"attn_q.weight", G_OTHER},    {"attn_output.weight", G_ATTN_OUT},
        {"ffn_up", G_OTHER},      {"ffn_gate", G_OTHER},         {"ffn_down", G_FFN_DOWN},
    };

    if (strcmp(name, "output.weight") == 0)
        return G_OUTPUT;
    if (strcmp(name, "token_embd.weight") == 0 || strcmp(name, "per_layer_token_embd.weight") == 0)
        return G_TOKEN_EMBD;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (strstr(name, parts[i].part))
            return parts[i].group;
    return G_OTHER;
}

/* Conditions of a rule; all that are named must hold. */
enum cond {
    ALWAYS = 0,
    GQA4 = 1,         /* at least 4 query heads share a key/value head */
    FIRST_2 = 2,      /* the tensor is among the first 2 of its group */
    FIRST_4 = 4,
    FIRST_16TH = 8,   /* in the first sixteenth of the layers */
    FIRST_8TH = 16,
    MORE_BITS = 32,   /* first and last eighth, and every third between */
    FALCON = 64,
    NOT_FALCON = 128,
    EXPERTS_8 = 256
};

#define FT(x) (1u << FT_##x)
#define ALL 0xffffffffu
#define BASE (-1)

static const struct rule {
    enum group group;
    unsigned ftypes;
    unsigned needs;
    int dtype; /* or BASE */
} rules[] = { /* the first that fits decides; none: the base type */
    {G_V, ALL, EXPERTS_8, LM_Q8_0},
    {G_V, FT(Q2_K), GQA4, LM_Q4_K},
    {G_V, FT(Q2_K), ALWAYS, LM_Q3_K},
    {G_V, FT(Q3_K_M), FIRST_2, LM_Q5_K},
    {G_V, FT(Q3_K_M), ALWAYS, LM_Q4_K},
    {G_V, FT(Q3_K_L), ALWAYS, LM_Q5_K},
    {G_V, FT(Q4_K_M) | FT(Q5_K_M), MORE_BITS, LM_Q6_K},
    {G_V, FT(Q4_K_S), FIRST_4, LM_Q5_K},

    {G_K, ALL, EXPERTS_8, LM_Q8_0},

    {G_FFN_DOWN, FT(Q2_K), ALWAYS, LM_Q3_K},
    {G_FFN_DOWN, FT(Q3_K_M), FIRST_16TH, LM_Q5_K},
    {G_FFN_DOWN, FT(Q3_K_M), NOT_FALCON, LM_Q4_K},
    {G_FFN_DOWN, FT(Q3_K_M), MORE_BITS, LM_Q4_K},
    {G_FFN_DOWN, FT(Q3_K_L), FALCON, LM_Q4_K},
    {G_FFN_DOWN, FT(Q3_K_L), ALWAYS, LM_Q5_K},
    {G_FFN_DOWN, FT(Q4_K_M), FALCON | FIRST_16TH, LM_Q6_K},
    {G_FFN_DOWN, FT(Q4_K_M), FALCON | MORE_BITS, LM_Q5_K},
    {G_FFN_DOWN, FT(Q4_K_M), FALCON, BASE},
    {G_FFN_DOWN, FT(Q4_K_M) | FT(Q5_K_M), MORE_BITS, LM_Q6_K},
    {G_FFN_DOWN, FT(Q4_K_S), NOT_FALCON | FIRST_8TH, LM_Q5_K},

    {G_ATTN_OUT, FT(Q3_K_L), FALCON, LM_Q4_K},
    {G_ATTN_OUT, ALL, FALCON, BASE},
    {G_ATTN_OUT, FT(Q2_K) | FT(Q3_K_S) | FT(Q3_K_M) | FT(Q4_K_S) | FT(Q4_K_M), EXPERTS_8, LM_Q5_K},
    {G_ATTN_OUT, ALL, EXPERTS_8, BASE},
    {G_ATTN_OUT, FT(Q2_K), ALWAYS, LM_Q3_K},
    {G_ATTN_OUT, FT(Q3_K_M), ALWAYS, LM_Q4_K},
    {G_ATTN_OUT, FT(Q3_K_L), ALWAYS, LM_Q5_K},
};

/* ---- order, counting, permission */

static int layer_of(const char *name)
{
    int layer;

    return sscanf(name, "blk.%d.", &layer) == 1 ? layer : -1;
}

int lmc_mix_order(const char *a, const char *b)
{
    int la = layer_of(a), lb = layer_of(b);

    return la != lb ? (la < lb ? -1 : 1) : strcmp(a, b);
}

void lmc_mix_count(struct lmc_mix *m, const char *name)
{
    enum group g = group_of(name);

    m->n_v += g == G_V;
    m->has_output |= g == G_OUTPUT;
}

/* ggml's idea of dimensions: outer ones do not count. */
static unsigned ggml_dims(unsigned n_dims, const uint64_t *shape)
{
    while (n_dims > 1 && shape[0] == 1) {
        shape++;
        n_dims--;
    }
    return n_dims;
}

bool lmc_mix_allows(const char *name, unsigned n_dims, const uint64_t *shape)
{
    /* Small or sensitive: norms, routers, positions, recurrent and vision parts. */
    static const char *const kept[] = {
        "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj",
        "ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight",
        "time_mix_first.weight", "time_mix_w0.weight", "time_mix_w1.weight", "time_mix_w2.weight",
        "time_mix_v0.weight", "time_mix_v1.weight", "time_mix_v2.weight", "time_mix_a0.weight",
        "time_mix_a1.weight", "time_mix_a2.weight", "time_mix_g1.weight", "time_mix_g2.weight",
        "time_mix_decay_w1.weight", "time_mix_decay_w2.weight", "time_mix_lerp_fused.weight", "attn_rel_b.weight",
        ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger",
        "a.rvq.codebook", "mm.a.code_embd",
    };
    size_t n = strlen(name);

    if (ggml_dims(n_dims, shape) < 2 || n < 6 || strcmp(name + n - 6, "weight") != 0)
        return false;
    if (strcmp(name, "position_embd.weight") == 0 || strcmp(name, "token_types.weight") == 0)
        return false;
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++)
        if (strstr(name, kept[i]))
            return false;
    return true;
}

/* ---- the type */

static unsigned conditions(const struct lmc_mix *m, enum group g, const char *name)
{
    int i = g == G_V ? (int)m->i_v : (int)m->i_down;
    int n = g == G_V ? (int)m->n_v : (int)m->n_layers;
    unsigned c = m->falcon ? FALCON : NOT_FALCON;

    /* Experts of one layer are not consecutive: only the name tells. */
    if (g == G_FFN_DOWN && m->n_experts > 1)
        i = layer_of(name);
    c |= m->gqa >= 4 ? GQA4 : 0;
    c |= m->n_experts == 8 ? EXPERTS_8 : 0;
    c |= i < 2 ? FIRST_2 : 0;
    c |= i < 4 ? FIRST_4 : 0;
    c |= i < n / 16 ? FIRST_16TH : 0;
    c |= i < n / 8 ? FIRST_8TH : 0;
    if (i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2)
        c |= MORE_BITS;
    return c;
}

static enum lm_dtype mixed(struct lmc_mix *m, enum group g, const char *name)
{
    unsigned have = conditions(m, g, name), bit = 1u << (m->ftype - ftypes);
    enum lm_dtype d = m->ftype->base;

    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        const struct rule *r = &rules[i];
        if (r->group != g || !(r->ftypes & bit) || (r->needs & ~have))
            continue;
        if (r->dtype != BASE)
            d = (enum lm_dtype)r->dtype;
        break;
    }
    /* Eight heads share one V there: more bits cost next to nothing. */
    if (g == G_V && m->is_70b && (d == LM_Q3_K || d == LM_Q4_K))
        d = LM_Q5_K;
    return d;
}

static void say_misfit(char *why, size_t size, uint64_t row, enum lm_dtype from, enum lm_dtype to)
{
    if (why)
        snprintf(why, size, "rows of %llu are not whole %s blocks: %s", (unsigned long long)row, lm_dtype_name(from),
                 lm_dtype_name(to));
}

static enum lm_dtype output_type(const struct lmc_mix *m, uint64_t row)
{
    enum lm_dtype base = m->ftype->base;

    if (m->falcon || row % lm_dtype_info(base)->block_elems != 0)
        return LM_Q8_0;
    return base == LM_Q8_0 ? base : LM_Q6_K;
}

enum lm_dtype lmc_fallback(enum lm_dtype d, uint64_t row, char *why, size_t why_size)
{
    enum lm_dtype to = d;

    if (why)
        why[0] = 0;
    if (row % lm_dtype_info(d)->block_elems == 0)
        return d;
    switch (d) {
    case LM_Q2_K: case LM_Q3_K: case LM_TQ1_0: case LM_TQ2_0: case LM_Q2_0: to = LM_Q4_0; break;
    case LM_Q4_K: to = LM_Q5_0; break;
    case LM_Q5_K: to = LM_Q5_1; break;
    case LM_Q6_K: to = LM_Q8_0; break;
    case LM_IQ1_S: case LM_IQ1_M: case LM_IQ2_XXS: case LM_IQ2_XS: case LM_IQ2_S: case LM_IQ3_XXS: case LM_IQ3_S:
    case LM_IQ4_XS: to = LM_IQ4_NL; break;
    default: break;
    }
    if (row % lm_dtype_info(to)->block_elems != 0)
        to = LM_F16;
    say_misfit(why, why_size, row, d, to);
    return to;
}

enum lm_dtype lmc_mix_type(struct lmc_mix *m, const char *name, uint64_t row, char *why, size_t why_size)
{
    enum group g = group_of(name);
    enum lm_dtype base = m->ftype->base, d = base, fit;

    if (why)
        why[0] = 0;
    if (lm_dtype_info(d)->kind != LM_KIND_QUANT)
        return d;
    if (!m->pure) {
        if (g == G_OUTPUT || (g == G_TOKEN_EMBD && !m->has_output))
            d = output_type(m, row);
        else
            d = mixed(m, g, name);
        m->i_v += g == G_V;
        m->i_down += g == G_FFN_DOWN;
    }
    fit = lmc_fallback(d, row, why, why_size);
    if (fit == d && d != base && row % lm_dtype_info(base)->block_elems != 0)
        say_misfit(why, why_size, row, base, d);
    return fit;
}
