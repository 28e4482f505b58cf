/* Which dtype each tensor of the output has. */
#include <stdio.h>

#include "convert/plan.h"
#include "convert/policy.h"

static bool is_real(enum lm_dtype d)
{
    enum lm_dtype_kind k = lm_dtype_info(d)->kind;

    return k == LM_KIND_FLOAT || k == LM_KIND_QUANT;
}

/* What llama.cpp insists on in files made from Hugging Face's: vectors, norms
 * and learned positions are F32. Widening loses nothing. */
static bool must_be_f32(const struct lm_plan *p, const struct lm_plan_item *it)
{
    if (!lmc_to_gguf(p) || !lmc_renames(p) || !is_real(it->dtype))
        return false;
    return it->n_dims < 2 || !lmc_has_suffix(it->name, ".weight") || strstr(it->name, "_norm.weight") ||
           it->role == LM_ROLE_POS_EMBD || it->role == LM_ROLE_ROUTER || it->role == LM_ROLE_SHEXP_GATE;
}

/* ---- facts for the mixing rules */

/* First number of a key that is a scalar or, layer by layer, an array. */
static unsigned first_number(const struct lm_meta *m, const char *arch, const char *suffix)
{
    char key[192];
    const struct lm_meta_value *v;
    uint64_t u = 0;
    uint32_t first;

    snprintf(key, sizeof key, "%.100s.%s", arch, suffix);
    v = lm_meta_get(m, key);
    if (v && v->type == LM_META_ARRAY && v->n > 0 && (v->elem == LM_META_U32 || v->elem == LM_META_I32)) {
        memcpy(&first, v->data, sizeof first);
        return first & 0x7fffffff;
    }
    return lm_meta_get_u64(m, key, &u, NULL) == 1 && u <= INT32_MAX ? (unsigned)u : 0;
}

/* Families with rules of their own, by GGUF's name of the architecture. */
static void set_family(struct lmc_mix *m, const char *arch, bool grouped)
{
    static const struct { const char *arch; unsigned n_layers; bool grouped; } of_70b[] = {
        {"llama", 80, true}, {"qwen2", 80, false}, {"deci", 80, false}, {"olmo", 80, false}, {"jais2", 68, false},
    };

    m->falcon = strcmp(arch, "falcon") == 0;
    m->glm5 = strcmp(arch, "glm5-next") == 0;
    m->bailingmoe3 = strcmp(arch, "bailingmoe3") == 0;
    for (size_t i = 0; i < sizeof of_70b / sizeof of_70b[0]; i++)
        if (strcmp(arch, of_70b[i].arch) == 0)
            m->is_70b = m->n_layers == of_70b[i].n_layers && (grouped || !of_70b[i].grouped);
}

static void facts_from_keys(struct lmc_mix *m, const struct lm_plan *p)
{
    const struct lm_meta *meta = lm_model_meta(p->src);
    struct lm_span s = {0};
    char arch[101];
    unsigned heads, kv;

    if (lm_meta_get_str(meta, "general.architecture", &s, NULL) != 1)
        return;
    snprintf(arch, sizeof arch, "%.*s", (int)(s.size < 100 ? s.size : 100), (const char *)s.data);
    heads = first_number(meta, arch, "attention.head_count");
    kv = first_number(meta, arch, "attention.head_count_kv");
    m->n_layers = first_number(meta, arch, "block_count");
    m->n_experts = first_number(meta, arch, "expert_count");
    m->gqa = kv ? heads / kv : 1;
    set_family(m, arch, kv && heads != kv);
}

static void facts_from_config(struct lmc_mix *m, const struct lm_config *c)
{
    m->n_layers = c->n_layers;
    m->n_experts = c->n_experts;
    m->gqa = c->n_kv_heads ? c->n_heads / c->n_kv_heads : 1;
    set_family(m, c->arch->name, c->n_heads != c->n_kv_heads);
}

/* A GGUF's own keys are what llama-quantize reads; else there is the configuration. */
static void start_mix(struct lmc_mix *m, const struct lm_plan *p)
{
    *m = (struct lmc_mix){.ftype = p->req.ftype, .options = p->req.mix, .pure = p->req.pure, .gqa = 1};
    facts_from_keys(m, p);
    if (p->bind && m->n_layers == 0)
        facts_from_config(m, &p->bind->config);
    for (size_t i = 0; i < p->n_items; i++)
        lmc_mix_count(m, p->items[i].name);
}

/* ---- one tensor */

static struct lmc_mix_tensor facts_of(const struct lm_plan_item *it)
{
    struct lmc_mix_tensor t = {it->name, it->n_dims ? it->shape[it->n_dims - 1] : 1, 1};

    for (unsigned i = 0; i + 2 < it->n_dims; i++)
        t.n_matrices *= it->shape[i];
    return t;
}

static int set_type(struct lm_plan *p, struct lm_plan_item *it, struct lmc_mix *mix, struct lm_err *e)
{
    const struct lm_request *r = &p->req;
    enum lm_dtype kept = it->dtype;
    struct lmc_mix_tensor t = facts_of(it);
    char why[200] = "";

    if (must_be_f32(p, it))
        it->dtype = LM_F32;
    else if (it->src && it->src->packed && !r->quantize && r->dtype < 0)
        return lmc_keep_packed(p, it, e);
    if (!it->src || !is_real(kept) || (!r->quantize && r->dtype < 0))
        return 0;
    if (lmc_to_gguf(p) && (r->quantize || r->dtype != LM_F32) && !lmc_mix_allows(mix, it->name, it->n_dims, it->shape))
        return 0;
    if (r->quantize)
        it->dtype = lmc_mix_type(mix, &t, why, sizeof why);
    else
        it->dtype = lmc_fallback((enum lm_dtype)r->dtype, t.row, why, sizeof why);
    if (why[0] && !(it->why = lm_arena_str(&p->arena, lm_span_str(why))))
        return lmc_nomem(e);
    return it->src->packed ? lmc_match_packed(p, it, e) : 0;
}

static int check_type(const struct lm_plan *p, const struct lm_plan_item *it, struct lm_err *e)
{
    const char *from = it->src ? lm_dtype_name(it->src->dtype) : "", *to = lm_dtype_name(it->dtype);

    if (!p->req.to->can_store(it->dtype))
        return lm_err_set(e, LM_UNSUPPORTED, "tensor '%s': %s cannot store %s; choose another with --dtype (bf16, f16, "
                          "f32)", it->name, p->req.to->title, to);
    if (!it->src || it->src->dtype == it->dtype)
        return 0;
    if (!lm_dtype_info(it->src->dtype)->to_f32)
        return lm_err_set(e, LM_UNSUPPORTED, "tensor '%s' is %s, which cannot be computed with yet; it can only be kept "
                          "as it is", it->src->name, from);
    if (!lm_dtype_info(it->dtype)->from_f32 && !(p->req.quantize && lm_dtype_info(it->dtype)->from_f32_weighted))
        return lm_err_set(e, LM_UNSUPPORTED, "tensor '%s': %s cannot be written yet", it->name, to);
    return 0;
}

static int note_requantized(struct lm_plan *p, struct lm_err *e)
{
    size_t n = 0;

    for (size_t i = 0; i < p->n_items; i++) {
        const struct lm_plan_item *it = &p->items[i];
        n += it->src && it->src->dtype != it->dtype && lm_dtype_info(it->src->dtype)->kind == LM_KIND_QUANT &&
             lm_dtype_info(it->dtype)->kind == LM_KIND_QUANT;
    }
    if (n == 0)
        return 0;
    return lmc_note(p, e, "%zu tensors of the source are quantized already: quantizing again adds its error to theirs; "
                    "start from the original weights if you have them", n);
}

int lmc_plan_types(struct lm_plan *p, struct lm_err *e)
{
    struct lmc_mix mix = {0};

    if (p->req.quantize)
        start_mix(&mix, p);
    for (size_t i = 0; i < p->n_items; i++)
        if (set_type(p, &p->items[i], &mix, e) || check_type(p, &p->items[i], e))
            return -1;
    return note_requantized(p, e) || lmc_note_packed(p, e) ? -1 : 0;
}
