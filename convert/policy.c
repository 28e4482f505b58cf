/* llama.cpp's file types as tables: what each is called, and which weights
 * depart from its base type.  The rules were read from llama-quantize's
 * behaviour and are checked against its sizes and histograms. */
#include "convert/policy.h"

#include <stdio.h>
#include <strings.h>

enum ft {
    FT_F32, FT_F16, FT_BF16, FT_Q4_0, FT_Q4_1, FT_Q5_0, FT_Q5_1, FT_Q8_0, FT_Q2_K, FT_Q3_K_S, FT_Q3_K_M, FT_Q3_K_L,
    FT_Q4_K_S, FT_Q4_K_M, FT_Q5_K_S, FT_Q5_K_M, FT_Q6_K, FT_Q2_K_S, FT_IQ1_S, FT_IQ1_M, FT_IQ2_XXS, FT_IQ2_XS, FT_IQ2_S,
    FT_IQ2_M, FT_IQ3_XXS, FT_IQ3_S, FT_IQ3_XS, FT_IQ3_M, FT_IQ4_NL, FT_IQ4_XS, FT_TQ1_0, FT_TQ2_0, FT_MXFP4_MOE,
    FT_NVFP4, FT_Q1_0, FT_Q2_0, N_FT
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
    [FT_Q2_K_S] = {"Q2_K_S", LM_Q2_K, 21, 2.79},
    [FT_IQ1_S] = {"IQ1_S", LM_IQ1_S, 24, 1.78},
    [FT_IQ1_M] = {"IQ1_M", LM_IQ1_M, 31, 1.95},
    [FT_IQ2_XXS] = {"IQ2_XXS", LM_IQ2_XXS, 19, 2.20},
    [FT_IQ2_XS] = {"IQ2_XS", LM_IQ2_XS, 20, 2.43},
    [FT_IQ2_S] = {"IQ2_S", LM_IQ2_XS, 28, 2.55},
    [FT_IQ2_M] = {"IQ2_M", LM_IQ2_S, 29, 2.76},
    [FT_IQ3_XXS] = {"IQ3_XXS", LM_IQ3_XXS, 23, 3.12},
    [FT_IQ3_S] = {"IQ3_S", LM_IQ3_S, 26, 3.52},
    [FT_IQ3_XS] = {"IQ3_XS", LM_IQ3_S, 22, 3.33},
    [FT_IQ3_M] = {"IQ3_M", LM_IQ3_S, 27, 3.62},
    [FT_IQ4_NL] = {"IQ4_NL", LM_IQ4_NL, 25, 4.56},
    [FT_IQ4_XS] = {"IQ4_XS", LM_IQ4_XS, 30, 4.32},
    [FT_TQ1_0] = {"TQ1_0", LM_TQ1_0, 36, 1.87},
    [FT_TQ2_0] = {"TQ2_0", LM_TQ2_0, 37, 2.22},
    [FT_MXFP4_MOE] = {"MXFP4_MOE", LM_MXFP4, 38, 4.25},
    [FT_NVFP4] = {"NVFP4", LM_NVFP4, 39, 4.54},
    [FT_Q1_0] = {"Q1_0", LM_Q1_0, 40, 1.22},
    [FT_Q2_0] = {"Q2_0", LM_Q2_0, 41, 2.35},
};

const struct lm_ftype *lm_ftype_at(size_t i)
{
    return i < N_FT ? &ftypes[i] : NULL;
}

const struct lm_ftype *lm_ftype_find(const char *name)
{
    static const struct { const char *name; enum ft ft; } alias[] = {
        {"Q3_K", FT_Q3_K_M}, {"Q4_K", FT_Q4_K_M}, {"Q5_K", FT_Q5_K_M}, {"MXFP4", FT_MXFP4_MOE},
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

enum group { G_OTHER, G_OUTPUT, G_TOKEN_EMBD, G_V, G_K, G_Q, G_ATTN_OUT, G_FFN_UP, G_FFN_GATE, G_FFN_DOWN };

static enum group group_of(const char *name)
{
    /* First hit decides; fused QKV and MLA's kv_b count as V. */
    static const struct { const char *part; enum group group; } parts[] = {
        {"attn_qkv.weight", G_V}, {"attn_kv_b.weight", G_V}, {"attn_v.weight", G_V},
        {"attn_k.weight", G_K},   {"attn_q.weight", G_Q},    {"attn_output.weight", G_ATTN_OUT},
        {"ffn_up", G_FFN_UP},     {"ffn_gate", G_FFN_GATE},  {"ffn_down", G_FFN_DOWN},
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
    GQA4 = 1,            /* at least 4 query heads share a key/value head */
    FIRST_2 = 2,         /* the tensor is among the first 2 of its group */
    FIRST_4 = 4,
    FIRST_16TH = 8,      /* in the first sixteenth of the layers */
    FIRST_8TH = 16,
    MORE_BITS = 32,      /* first and last eighth, and every third between */
    FALCON = 64,
    NOT_FALCON = 128,
    EXPERTS_8 = 256,     /* exactly 8 */
    EXPERTS_4 = 512,     /* 4 or more */
    IMPORTANCE = 1024,
    NO_IMPORTANCE = 2048,
    SEEN_8TH = 4096,     /* as FIRST_8TH, but by tensors seen even where experts have layers in their names */
    MIDDLE = 8192        /* neither in the first eighth nor in the last */
};

#define FT(x) (1ull << FT_##x)
#define ALL UINT64_MAX
#define TINY_2 (FT(IQ2_S) | FT(IQ2_M)) /* low bits, mixed differently from the rest */
#define TINY_1 (FT(IQ1_S) | FT(IQ1_M))
#define TINY (TINY_1 | TINY_2 | FT(IQ2_XXS) | FT(IQ2_XS))
#define BASE (-1)

static const struct rule {
    enum group group;
    uint64_t ftypes;
    unsigned needs;
    int dtype; /* or BASE */
} rules[] = { /* the first that fits decides; none: the base type */
    {G_TOKEN_EMBD, TINY_1 | FT(IQ2_XXS) | FT(IQ2_XS), ALWAYS, LM_Q2_K},
    {G_TOKEN_EMBD, TINY_2 | FT(IQ3_XXS), ALWAYS, LM_IQ3_S},
    {G_TOKEN_EMBD, FT(TQ1_0) | FT(TQ2_0) | FT(Q2_0), ALWAYS, LM_Q4_K},

    {G_V, TINY, GQA4, LM_Q4_K},
    {G_V, TINY, EXPERTS_4, LM_Q4_K},
    {G_V, TINY_2, ALWAYS, LM_IQ3_S},
    {G_V, TINY, ALWAYS, LM_Q2_K},
    {G_V, ALL, EXPERTS_8, LM_Q8_0},
    {G_V, FT(Q2_K) | FT(Q2_K_S) | FT(IQ3_XXS) | FT(IQ3_XS) | FT(IQ3_S), GQA4, LM_Q4_K},
    {G_V, FT(Q2_K), ALWAYS, LM_Q3_K},
    {G_V, FT(IQ3_XXS), NO_IMPORTANCE, LM_IQ3_S},
    {G_V, FT(IQ3_M), ALWAYS, LM_Q4_K},
    {G_V, FT(Q3_K_M), FIRST_2, LM_Q5_K},
    {G_V, FT(Q3_K_M), ALWAYS, LM_Q4_K},
    {G_V, FT(Q3_K_L), ALWAYS, LM_Q5_K},
    {G_V, FT(IQ4_NL) | FT(IQ4_XS), GQA4, LM_Q5_K},
    {G_V, FT(Q4_K_M) | FT(Q5_K_M), MORE_BITS, LM_Q6_K},
    {G_V, FT(Q4_K_S), FIRST_4, LM_Q5_K},

    {G_K, TINY, EXPERTS_8, LM_Q4_K},
    {G_K, ALL, EXPERTS_8, LM_Q8_0},
    {G_K, FT(IQ3_XS), ALWAYS, LM_IQ3_XXS},
    {G_K, FT(IQ3_XXS), ALWAYS, LM_IQ2_S},

    {G_Q, FT(IQ3_XS), ALWAYS, LM_IQ3_XXS},
    {G_Q, FT(IQ3_XXS), ALWAYS, LM_IQ2_S},

    {G_FFN_DOWN, TINY_2, SEEN_8TH, LM_IQ3_S},
    {G_FFN_DOWN, TINY, SEEN_8TH, LM_Q2_K},
    {G_FFN_DOWN, FT(Q2_K), ALWAYS, LM_Q3_K},
    {G_FFN_DOWN, FT(Q2_K_S), FIRST_8TH, LM_Q4_K},
    {G_FFN_DOWN, FT(IQ3_XXS), NO_IMPORTANCE | FIRST_8TH, LM_Q4_K},
    {G_FFN_DOWN, FT(IQ3_XXS), NO_IMPORTANCE, LM_Q3_K},
    {G_FFN_DOWN, FT(Q3_K_M), FIRST_16TH, LM_Q5_K},
    {G_FFN_DOWN, FT(Q3_K_M), NOT_FALCON, LM_Q4_K},
    {G_FFN_DOWN, FT(Q3_K_M), MORE_BITS, LM_Q4_K},
    {G_FFN_DOWN, FT(IQ3_M), FIRST_8TH, LM_Q4_K},
    {G_FFN_DOWN, FT(IQ3_M), EXPERTS_8 | MORE_BITS, LM_Q4_K},
    {G_FFN_DOWN, FT(Q3_K_L), FALCON, LM_Q4_K},
    {G_FFN_DOWN, FT(Q3_K_L), ALWAYS, LM_Q5_K},
    {G_FFN_DOWN, FT(Q4_K_M), FALCON | FIRST_16TH, LM_Q6_K},
    {G_FFN_DOWN, FT(Q4_K_M), FALCON | MORE_BITS, LM_Q5_K},
    {G_FFN_DOWN, FT(Q4_K_M), FALCON, BASE},
    {G_FFN_DOWN, FT(Q4_K_M) | FT(Q5_K_M), MORE_BITS, LM_Q6_K},
    {G_FFN_DOWN, FT(IQ4_NL) | FT(IQ4_XS), NO_IMPORTANCE | FIRST_8TH, LM_Q5_K},
    {G_FFN_DOWN, FT(Q4_K_S), NOT_FALCON | FIRST_8TH, LM_Q5_K},
    /* The first layers can go astray in these even with importance. */
    {G_FFN_DOWN, FT(Q4_0), IMPORTANCE | FIRST_8TH, LM_Q4_1},
    {G_FFN_DOWN, FT(Q5_0), IMPORTANCE | FIRST_8TH, LM_Q5_1},

    {G_ATTN_OUT, TINY, EXPERTS_8, LM_Q5_K},
    {G_ATTN_OUT, TINY_1, ALWAYS, LM_IQ2_XXS},
    {G_ATTN_OUT, TINY_2, ALWAYS, LM_IQ3_S},
    {G_ATTN_OUT, FT(Q3_K_L), FALCON, LM_Q4_K},
    {G_ATTN_OUT, ALL, FALCON, BASE},
    {G_ATTN_OUT, FT(Q2_K) | FT(Q3_K_S) | FT(Q3_K_M) | FT(Q4_K_S) | FT(Q4_K_M) | FT(IQ3_XXS) | FT(IQ3_XS) | FT(IQ3_S) |
                 FT(IQ3_M) | FT(IQ4_NL) | FT(IQ4_XS), EXPERTS_8, LM_Q5_K},
    {G_ATTN_OUT, ALL, EXPERTS_8, BASE},
    {G_ATTN_OUT, FT(Q2_K), ALWAYS, LM_Q3_K},
    {G_ATTN_OUT, FT(IQ3_XXS), ALWAYS, LM_IQ3_S},
    {G_ATTN_OUT, FT(Q3_K_M) | FT(IQ3_M), ALWAYS, LM_Q4_K},
    {G_ATTN_OUT, FT(Q3_K_L), ALWAYS, LM_Q5_K},

    {G_FFN_GATE, FT(IQ3_XS), MIDDLE, LM_IQ3_XXS},
    {G_FFN_UP, FT(IQ3_XS), MIDDLE, LM_IQ3_XXS},
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

static bool has_any(const char *name, const char *const *parts)
{
    for (; *parts; parts++)
        if (strstr(name, *parts))
            return true;
    return false;
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

bool lmc_mix_allows(const struct lmc_mix *m, const char *name, unsigned n_dims, const uint64_t *shape)
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
        "a.rvq.codebook", "mm.a.code_embd", NULL,
    };
    static const char *const kept_glm5[] = {
        "hc_", "indexer.attn_q_b", "indexer.attn_k", "indexer.proj", "indexer_compressor_gate",
        "indexer_compressor_ape", "ssm_f_a.weight", "ssm_f_b.weight", "ssm_g_a.weight", "ssm_g_b.weight",
        "ssm_beta.weight", "attn_kv_a_mqa.weight", "attn_k_b.weight", "attn_v_b.weight", NULL,
    };
    size_t n = strlen(name);

    if (ggml_dims(n_dims, shape) < 2 || n < 6 || strcmp(name + n - 6, "weight") != 0)
        return false;
    if (strcmp(name, "position_embd.weight") == 0 || strcmp(name, "token_types.weight") == 0)
        return false;
    if (m->options && m->options->leave_output && strcmp(name, "output.weight") == 0)
        return false;
    return !has_any(name, kept) && !(m->glm5 && has_any(name, kept_glm5));
}

/* ---- the type */

/* Layer, and layers in all, as the rules count them. */
struct place { int i, n; };

static struct place place_of(const struct lmc_mix *m, enum group g, const char *name)
{
    struct place p = {0, (int)m->n_layers};

    if (g == G_V)
        return (struct place){(int)m->i_v, (int)m->n_v};
    /* Experts of one layer are not consecutive: only the name tells. */
    if (m->n_experts > 1)
        p.i = layer_of(name);
    else
        p.i = (int)(g == G_FFN_DOWN ? m->i_down : g == G_FFN_GATE ? m->i_gate : m->i_up);
    return p;
}

static unsigned facts(const struct lmc_mix *m)
{
    bool weighted = m->options && m->options->importance;

    return (m->falcon ? FALCON : NOT_FALCON) | (weighted ? IMPORTANCE : NO_IMPORTANCE) | (m->gqa >= 4 ? GQA4 : 0) |
           (m->n_experts == 8 ? EXPERTS_8 : 0) | (m->n_experts >= 4 ? EXPERTS_4 : 0);
}

static unsigned conditions(const struct lmc_mix *m, enum group g, const char *name)
{
    struct place p = place_of(m, g, name);
    unsigned c = facts(m);

    c |= p.i < 2 ? FIRST_2 : 0;
    c |= p.i < 4 ? FIRST_4 : 0;
    c |= p.i < p.n / 16 ? FIRST_16TH : 0;
    c |= p.i < p.n / 8 ? FIRST_8TH : 0;
    c |= p.i >= p.n / 8 && p.i < 7 * p.n / 8 ? MIDDLE : 0;
    c |= (int)m->i_down < (int)m->n_layers / 8 ? SEEN_8TH : 0;
    if (p.i < p.n / 8 || p.i >= 7 * p.n / 8 || (p.i - p.n / 8) % 3 == 2)
        c |= MORE_BITS;
    return c;
}

static enum lm_dtype mixed(const struct lmc_mix *m, enum group g, const char *name)
{
    unsigned have = conditions(m, g, name);
    uint64_t bit = 1ull << (m->ftype - ftypes);
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
    if (g == G_V && m->is_70b && !(bit & TINY) && (d == LM_Q3_K || d == LM_Q4_K))
        d = LM_Q5_K;
    return d;
}

static enum lm_dtype output_type(const struct lmc_mix *m, uint64_t row)
{
    enum lm_dtype base = m->ftype->base;
    uint64_t bit = 1ull << (m->ftype - ftypes);

    if (m->options && m->options->output >= 0)
        return (enum lm_dtype)m->options->output;
    if (bit & FT(MXFP4_MOE) || m->falcon || row % lm_dtype_info(base)->block_elems != 0)
        return LM_Q8_0;
    if (bit & (TINY | FT(IQ3_XXS)))
        return LM_Q5_K;
    return base == LM_Q8_0 ? base : LM_Q6_K;
}

/* Experts' matrices as MXFP4; MLA's are three-dimensional in bailingmoe3, too. */
static enum lm_dtype expert_type(const struct lmc_mix *m, enum group g, const struct lmc_mix_tensor *t)
{
    bool experts = t->n_matrices > 1 && (!m->bailingmoe3 || g == G_FFN_UP || g == G_FFN_GATE || g == G_FFN_DOWN);

    return experts ? LM_MXFP4 : LM_Q8_0;
}

static bool glm5_keeps_q8(const struct lmc_mix *m, const char *name)
{
    static const char *const parts[] = {"attn_q_a", "attn_q_b", "nextn.eh_proj", NULL};

    return m->glm5 && has_any(name, parts);
}

/* The mix's choice; moves its counters. */
static enum lm_dtype ruled_type(struct lmc_mix *m, enum group g, const struct lmc_mix_tensor *t)
{
    enum lm_dtype d;

    if (glm5_keeps_q8(m, t->name))
        return LM_Q8_0;
    if (g == G_OUTPUT || (g == G_TOKEN_EMBD && !m->has_output))
        return output_type(m, t->row);
    if (m->ftype == &ftypes[FT_MXFP4_MOE])
        return expert_type(m, g, t);
    d = mixed(m, g, t->name);
    m->i_v += g == G_V;
    m->i_down += g == G_FFN_DOWN;
    m->i_gate += g == G_FFN_GATE;
    m->i_up += g == G_FFN_UP;
    return d;
}

/* --output-type and --embedding-type stand above everything, whatever the base
 * type; an explicit rule may name the second embedding table of some families.
 * -1: nothing is fixed. */
static int fixed_type(const struct lmc_mix *m, enum group g, int by_rule, const char *name)
{
    const struct lm_mix_options *o = m->options;

    if (!o)
        return -1;
    if (g == G_TOKEN_EMBD && o->embedding >= 0 && (by_rule < 0 || strcmp(name, "per_layer_token_embd.weight") != 0))
        return o->embedding;
    return g == G_OUTPUT ? o->output : -1;
}

static void say(char *why, size_t size, uint64_t row, enum lm_dtype from, enum lm_dtype to)
{
    if (why)
        snprintf(why, size, "rows of %llu are not whole %s blocks: %s", (unsigned long long)row, lm_dtype_name(from),
                 lm_dtype_name(to));
}

enum lm_dtype lmc_fallback(enum lm_dtype d, uint64_t row, char *why, size_t why_size)
{
    enum lm_dtype to = d;

    if (why)
        why[0] = 0;
    if (row % lm_dtype_info(d)->block_elems == 0)
        return d;
    switch (d) {
    case LM_Q1_0: case LM_Q2_K: case LM_Q3_K: case LM_TQ1_0: case LM_TQ2_0: case LM_Q2_0: to = LM_Q4_0; break;
    case LM_Q4_K: to = LM_Q5_0; break;
    case LM_Q5_K: to = LM_Q5_1; break;
    case LM_Q6_K: to = LM_Q8_0; break;
    case LM_IQ1_S: case LM_IQ1_M: case LM_IQ2_XXS: case LM_IQ2_XS: case LM_IQ2_S: case LM_IQ3_XXS: case LM_IQ3_S:
    case LM_IQ4_XS: to = LM_IQ4_NL; break;
    case LM_NVFP4: to = LM_MXFP4; break;
    default: break;
    }
    if (row % lm_dtype_info(to)->block_elems != 0)
        to = LM_F16;
    say(why, why_size, row, d, to);
    return to;
}

enum lm_dtype lmc_mix_type(struct lmc_mix *m, const struct lmc_mix_tensor *t, char *why, size_t why_size)
{
    enum group g = group_of(t->name);
    enum lm_dtype base = m->ftype->base, d = base, fit;
    int by_rule = m->options ? lmc_recipe_find(m->options->recipe, t->name) : -1;
    int fixed = fixed_type(m, g, by_rule, t->name);

    if (why)
        why[0] = 0;
    if (fixed >= 0)
        return lmc_fallback((enum lm_dtype)fixed, t->row, why, why_size);
    if (lm_dtype_info(base)->kind != LM_KIND_QUANT)
        return base;
    if (by_rule >= 0)
        return lmc_fallback((enum lm_dtype)by_rule, t->row, why, why_size);
    if (!m->pure)
        d = ruled_type(m, g, t);
    fit = lmc_fallback(d, t->row, why, why_size);
    if (fit == d && d != base && t->row % lm_dtype_info(base)->block_elems != 0)
        say(why, why_size, t->row, base, d);
    return fit;
}

bool lmc_mix_needs_importance(const struct lm_ftype *f, const char *name, enum lm_dtype d)
{
    enum group g = group_of(name);

    if (lm_dtype_info(d)->needs_importance)
        return true; /* there is no other way to make it */
    if (g == G_TOKEN_EMBD || g == G_OUTPUT)
        return false;
    switch (d) {
    case LM_IQ3_XXS: case LM_IQ2_XXS: case LM_IQ2_XS: case LM_IQ2_S: case LM_IQ1_M: case LM_IQ1_S: return true;
    case LM_Q2_K: return f == &ftypes[FT_Q2_K_S];
    default: return false;
    }
}
