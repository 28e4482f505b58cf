/* How much memory running takes: weights, KV cache, work buffers. */
#include <strings.h>

#include "convert/audit_parts.h"

static const struct { const char *name; uint64_t gib; } cards[] = {
    {"rtx-3060", 12}, {"rtx-3090", 24}, {"rtx-4060", 8}, {"rtx-4070", 12}, {"rtx-4080", 16}, {"rtx-4090", 24},
    {"rtx-5070", 12}, {"rtx-5080", 16}, {"rtx-5090", 32}, {"t4", 16}, {"l4", 24}, {"a10", 24}, {"l40s", 48},
    {"a100-40", 40}, {"a100", 80}, {"h100", 80}, {"h200", 141}, {"b200", 180}, {"mi300x", 192},
};
enum { N_CARDS = sizeof cards / sizeof cards[0] };

uint64_t lm_card_bytes(const char *name)
{
    for (size_t i = 0; i < N_CARDS; i++)
        if (strcasecmp(cards[i].name, name) == 0)
            return cards[i].gib << 30;
    return 0;
}

const char *lm_card_at(size_t i)
{
    return i < N_CARDS ? cards[i].name : NULL;
}

/* Types that the weights could have instead of their own; bits a weight as
 * llama.cpp's mixes come out for a model of this size class. */
static const struct { const char *name; double bits; } alternatives[] = {
    {"F16", 16}, {"Q8_0", 8.5}, {"Q6_K", 6.56}, {"Q4_K_M", 4.89}, {"Q2_K", 3.35}};

static uint64_t work_buffers(const struct lm_config *c, uint64_t batch)
{
    uint64_t tokens = 512, width = (uint64_t)c->vocab_size + 4 * (uint64_t)c->d_ff + 8 * (uint64_t)c->d_model;

    return (batch > tokens ? batch : tokens) * width * sizeof(float);
}

static void add_row(struct lm_audit *a, const char *name, double weights)
{
    struct lm_memory *m = &a->memory;
    struct lm_memory_row *r = &m->rows[m->n_rows++];
    uint64_t fixed;

    r->dtype = name;
    r->weights = (uint64_t)weights;
    r->kv = m->kv_a_token * m->ctx * m->batch;
    r->buffers = work_buffers(&a->config, m->batch);
    r->total = r->weights + r->kv + r->buffers;
    fixed = r->weights + r->buffers;
    r->fits = m->vram > 0 && r->total <= m->vram;
    if (m->vram > fixed && m->kv_a_token > 0)
        r->max_ctx = (m->vram - fixed) / (m->kv_a_token * m->batch);
    if (r->max_ctx > a->config.ctx_len)
        r->max_ctx = a->config.ctx_len;
}

void lmc_audit_memory(struct lm_audit *a)
{
    enum lm_dtype kv = a->o.kv == LM_F64 ? LM_F16 : a->o.kv;
    const struct lm_dtype_info *d = lm_dtype_info(kv);
    const struct lm_config *c = &a->config;

    if (!a->has_config)
        return;
    a->memory = (struct lm_memory){.ctx = a->o.ctx ? a->o.ctx : c->ctx_len, .batch = a->o.batch ? a->o.batch : 1,
                                   .vram = a->o.vram, .kv_dtype = d->name};
    a->memory.kv_a_token = (uint64_t)(2.0 * c->n_layers * c->n_kv_heads * c->d_head * d->block_bytes / d->block_elems);
    add_row(a, "as stored", (double)a->n_bytes);
    for (size_t i = 0; i < sizeof alternatives / sizeof alternatives[0]; i++)
        if ((double)a->n_params * alternatives[i].bits / 8 < 0.97 * (double)a->n_bytes)
            add_row(a, alternatives[i].name, (double)a->n_params * alternatives[i].bits / 8);
}
