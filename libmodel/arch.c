#include "libmodel/arch.h"

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
    static const char *const names[] = {"none", "permute q", "permute k", "transpose"};
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

/* A layer number as checkpoints write it: no sign, no leading zero, at most six
 * digits. Moves *s past it; -1 when there is none. */
static int parse_layer(const char **s)
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

static bool match_pattern(const char *pattern, const char *name, int *layer)
{
    *layer = -1;
    for (; *pattern; pattern++) {
        if (*pattern == '#') {
            *layer = parse_layer(&name);
            if (*layer < 0)
                return false;
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

const struct lm_arch_row *lm_arch_match(const struct lm_arch *a, enum lm_naming n, const char *name, int *layer)
{
    for (size_t i = 0; i < a->n_rows; i++) {
        const struct lm_arch_row *r = &a->rows[i];
        const char *pattern = n == LM_NAMES_GGUF ? r->gguf : r->hf;

        if (!pattern)
            continue;
        if (match_pattern(pattern, name, layer))
            return r;
        const char *bare = n == LM_NAMES_HF ? bare_pattern(a, pattern) : NULL;
        if (bare && match_pattern(bare, name, layer))
            return r;
    }
    *layer = -1;
    return NULL;
}

char *lm_arch_row_name(const struct lm_arch_row *r, enum lm_naming n, int layer, char *buf, size_t size)
{
    const char *pattern = n == LM_NAMES_GGUF ? r->gguf : r->hf;
    const char *hash = pattern ? strchr(pattern, '#') : NULL;

    if (!pattern)
        return NULL;
    if (hash)
        snprintf(buf, size, "%.*s%d%s", (int)(hash - pattern), pattern, layer, hash + 1);
    else
        snprintf(buf, size, "%s", pattern);
    return buf;
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
    case LM_DIM_NONE:
    case LM_DIM_ANY: break;
    }
    return 0;
}
