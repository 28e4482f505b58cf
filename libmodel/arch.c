#include "libmodel/arch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define ARCH(s) extern const struct lm_arch lm_arch_##s;
#include "libmodel/archs.def"
#undef ARCH

static const struct lm_arch *const archs[] = {
#define ARCH(s) &lm_arch_##s,
#include "libmodel/archs.def"
#undef ARCH
};
enum { N_ARCHS = sizeof archs / sizeof archs[0] };

static const char *const role_names[LM_N_ROLES] = {
#define ROLE(s, name, per_layer) [LM_ROLE_##s] = name,
#include "libmodel/roles.def"
#undef ROLE
};

const char *lm_role_name(enum lm_role r)
{
    return (unsigned)r < LM_N_ROLES ? role_names[r] : "unknown";
}

const char *lm_transform_name(enum lm_transform t)
{
    static const char *const names[] = {
        [LM_T_NONE] = "none", [LM_T_PERMUTE_Q] = "permute q", [LM_T_PERMUTE_K] = "permute k",
        [LM_T_TRANSPOSE] = "transpose", [LM_T_PLUS_ONE] = "plus one", [LM_T_GROUP_QKV] = "regroup qkv",
        [LM_T_STACK] = "stack experts", [LM_T_HALF_1] = "first half", [LM_T_HALF_2] = "second half",
        [LM_T_EVEN] = "even elements", [LM_T_ODD] = "odd elements", [LM_T_EVEN_ROWS] = "even columns, transposed",
        [LM_T_ODD_ROWS] = "odd columns, transposed", [LM_T_TURN] = "transpose experts", [LM_T_MLA_K] = "split k of kv_b",
        [LM_T_MLA_V] = "split v of kv_b", [LM_T_EVEN_OUTS] = "even rows", [LM_T_ODD_OUTS] = "odd rows",
    };
    return (unsigned)t < sizeof names / sizeof names[0] ? names[t] : "unknown";
}

const struct lm_arch *lm_arch_at(size_t i)
{
    return i < N_ARCHS ? archs[i] : NULL;
}

const struct lm_arch *lm_arch_find(const char *gguf_name)
{
    for (size_t i = 0; i < N_ARCHS; i++)
        if (strcmp(archs[i]->name, gguf_name) == 0)
            return archs[i];
    return NULL;
}

/* ---- names */

/* A number as checkpoints write it: no sign, no leading zero, at most six
 * digits. Moves *s past it; -1 when there is none. */
static int parse_number(const char **s)
{
    const char *p = *s;
    int n = 0;

    while (*p >= '0' && *p <= '9' && p - *s < 6)
        n = n * 10 + (*p++ - '0');
    if (p == *s || (**s == '0' && p - *s > 1))
        return -1;
    *s = p;
    return n;
}

static bool match_pattern(const char *pattern, const char *name, int *layer, int *expert)
{
    *layer = -1;
    *expert = 0;
    for (; *pattern; pattern++) {
        if (*pattern == '#' || *pattern == '@') {
            int n = parse_number(&name);
            if (n < 0)
                return false;
            *(*pattern == '#' ? layer : expert) = n;
        } else if (*name++ != *pattern) {
            return false;
        }
    }
    return *name == '\0';
}

/* The pattern without the architecture's optional prefix, or NULL. */
static const char *bare_pattern(const struct lm_arch *a, const char *pattern)
{
    size_t n = a->hf_prefix ? strlen(a->hf_prefix) : 0;
    return n > 0 && strncmp(pattern, a->hf_prefix, n) == 0 ? pattern + n : NULL;
}

static bool match_row(const struct lm_arch *a, const struct lm_arch_row *r, enum lm_naming n, const char *name,
                      int *layer, int *expert)
{
    const char *pattern = n == LM_NAMES_GGUF ? r->gguf : r->hf;

    if (!pattern || (n == LM_NAMES_GGUF && (r->flags & LM_ROW_ALIAS)))
        return false;
    if (match_pattern(pattern, name, layer, expert))
        return true;
    const char *bare = n == LM_NAMES_HF ? bare_pattern(a, pattern) : NULL;
    return bare && match_pattern(bare, name, layer, expert);
}

const struct lm_arch_row *lm_arch_match_next(const struct lm_arch *a, const struct lm_config *c, enum lm_naming n,
                                             const char *name, const struct lm_arch_row *after, int *layer,
                                             int *expert)
{
    for (const struct lm_arch_row *r = after ? after + 1 : a->rows; r < a->rows + a->n_rows; r++)
        if (match_row(a, r, n, name, layer, expert) && (!c || lm_row_applies(r, c, *layer)))
            return r;
    *layer = -1;
    *expert = 0;
    return NULL;
}

const struct lm_arch_row *lm_arch_match(const struct lm_arch *a, enum lm_naming n, const char *name, int *layer)
{
    int expert;

    return lm_arch_match_next(a, NULL, n, name, NULL, layer, &expert);
}

char *lm_arch_expert_name(const struct lm_arch_row *r, enum lm_naming n, int layer, int expert, char *buf, size_t size)
{
    const char *pattern = n == LM_NAMES_GGUF ? r->gguf : r->hf;
    size_t at = 0;

    if (!pattern)
        return NULL;
    for (; *pattern && at + 16 < size; pattern++) {
        if (*pattern == '#' || *pattern == '@')
            at += (size_t)snprintf(buf + at, size - at, "%d", *pattern == '#' ? layer : expert);
        else
            buf[at++] = *pattern;
    }
    buf[at] = 0;
    return buf;
}

char *lm_arch_row_name(const struct lm_arch_row *r, enum lm_naming n, int layer, char *buf, size_t size)
{
    return lm_arch_expert_name(r, n, layer, 0, buf, size);
}

/* ---- what the configuration makes of rows */

bool lm_config_is_moe(const struct lm_config *c, uint32_t layer)
{
    return c->n_experts > 0 && layer >= c->n_dense_layers;
}

uint32_t lm_config_window(const struct lm_config *c, uint32_t layer)
{
    bool full = layer < LM_MAX_MIXED_LAYERS && (c->full_layers[layer / 64] >> (layer % 64) & 1);
    return full ? 0 : c->sliding_window;
}

double lm_config_attn_scale(const struct lm_config *c)
{
    return c->attn_scale > 0 ? c->attn_scale : 1 / sqrt((double)c->d_head);
}

bool lm_row_applies(const struct lm_arch_row *r, const struct lm_config *c, int layer)
{
    bool moe = layer >= 0 && lm_config_is_moe(c, (uint32_t)layer);
    unsigned holds = (moe ? LM_WHEN_MOE : LM_WHEN_DENSE) | (c->d_ff_shared && moe ? LM_WHEN_SHARED : 0) |
                     (c->q_lora ? LM_WHEN_Q_LORA : LM_WHEN_NO_Q_LORA) |
                     (c->two_norms ? LM_WHEN_TWO_NORMS : LM_WHEN_ONE_NORM) | (c->parallel ? 0 : LM_WHEN_SERIAL) |
                     (c->expert_correction && moe ? LM_WHEN_CORRECTED : 0) |
                     (c->mxfp4_experts ? LM_WHEN_MXFP4 : LM_WHEN_PLAIN);
    return (r->when & ~holds) == 0;
}

uint64_t lm_config_dim(const struct lm_config *c, enum lm_dim d)
{
    uint64_t q = (uint64_t)c->n_heads * c->d_head, kv = (uint64_t)c->n_kv_heads * c->d_head;

    switch (d) {
    case LM_DIM_VOCAB: return c->vocab_size;
    case LM_DIM_MODEL: return c->d_model;
    case LM_DIM_FF: return c->d_ff;
    case LM_DIM_Q: return q;
    case LM_DIM_KV: return kv;
    case LM_DIM_QKV: return q + 2 * kv;
    case LM_DIM_CTX: return c->ctx_len;
    case LM_DIM_HALF_ROPE: return c->d_rope / 2;
    case LM_DIM_ONE: return 1;
    case LM_DIM_HEAD: return c->d_head;
    case LM_DIM_HEADS: return c->n_heads;
    case LM_DIM_FF2: return 2 * (uint64_t)c->d_ff;
    case LM_DIM_EXPERTS: return c->n_experts;
    case LM_DIM_EXPERT_FF: return c->d_ff_expert;
    case LM_DIM_SHARED_FF: return c->d_ff_shared;
    case LM_DIM_Q_LORA: return c->q_lora;
    case LM_DIM_KV_LORA: return c->kv_lora;
    case LM_DIM_KV_A: return (uint64_t)c->kv_lora + c->d_rope;
    case LM_DIM_NOPE: return c->d_head - c->d_rope;
    case LM_DIM_HEAD_V: return c->d_head_v;
    case LM_DIM_V: return (uint64_t)c->n_heads * c->d_head_v;
    case LM_DIM_NONE:
    case LM_DIM_ANY: break;
    }
    return 0;
}
