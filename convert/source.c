#include "convert/source.h"

enum { MOST = 1 << 24 /* elements of a range: odd shapes whose ranges would be larger are not summed */ };

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

void lmc_source_begin(struct lmc_source_sum *s, uint64_t first)
{
    s->at = first;
    s->total = 0;
    lmc_sum_begin(&s->leaf);
}

static void end_leaf(struct lmc_source_sum *s, uint64_t leaf)
{
    s->total += mix(lmc_sum_end(&s->leaf) + mix(leaf));
    lmc_sum_begin(&s->leaf);
}

void lmc_source_add(struct lmc_source_sum *s, enum lm_dtype d, const void *data, uint64_t n)
{
    const uint8_t *p = data;

    while (n > 0) {
        uint64_t k = LMC_LEAF - s->at % LMC_LEAF;
        k = k < n ? k : n;
        lmc_sum_add(&s->leaf, p, lm_dtype_bytes(d, k));
        p += lm_dtype_bytes(d, k);
        s->at += k;
        n -= k;
        if (s->at % LMC_LEAF == 0)
            end_leaf(s, s->at / LMC_LEAF - 1);
    }
}

uint64_t lmc_source_end(struct lmc_source_sum *s)
{
    if (s->at % LMC_LEAF)
        end_leaf(s, s->at / LMC_LEAF);
    return s->total;
}

uint64_t lmc_source_unit(uint64_t unit)
{
    uint64_t both = LMC_LEAF, half = unit;

    while (half % 2 == 0 && both > 1) {
        half /= 2;
        both /= 2;
    }
    return half > UINT64_MAX / LMC_LEAF ? UINT64_MAX : half * LMC_LEAF * (unit / half > LMC_LEAF ? unit / half / LMC_LEAF : 1);
}

/* A transposed quantized weight is decoded as it is read, block by block across: it has no such order. */
bool lmc_source_counts(const struct lm_plan_item *it, uint64_t unit)
{
    if (!it->src || (it->transform == LM_T_TRANSPOSE && lm_dtype_info(it->src->dtype)->kind == LM_KIND_QUANT))
        return false;
    return unit > 0 && lmc_source_unit(unit) <= MOST;
}
