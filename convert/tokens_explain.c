/* Why do they differ? One part of B after the other is made A's; the part with
 * which the difference goes is the reason. */
#include <stdlib.h>

#include "convert/tokens_parts.h"

/* A tokenizer of d->b with these parts of A; *t NULL when the mixture makes no sense. */
static int mixture(const struct lmc_doctor *d, uint64_t parts, struct lm_vocab **v, struct lm_tokenizer **t, struct lm_err *e)
{
    struct lm_err why;

    *t = NULL;
    if (lm_vocab_mix(v, d->b, d->a, parts, &why) < 0 || lm_tokenizer_new(t, *v, &why) < 0) {
        if (why.code == LM_NOMEM) {
            *e = why;
            return -1;
        }
        *t = NULL;
    }
    return 0;
}

/* How many of the cases the parts remove; 0 unless the first is among them. */
static int removes(const struct lmc_doctor *d, uint64_t parts, const struct lmc_case *cases, size_t n, size_t *count,
                   struct lm_err *e)
{
    struct lm_vocab *v = NULL;
    struct lm_tokenizer *t;
    int rc = mixture(d, parts, &v, &t, e);
    struct lmc_pair p = {.a = d->ta, .b = t};

    *count = 0;
    for (size_t i = 0; i < n && rc == 0 && t; i++) {
        bool gone = !lmc_differ(&p, &cases[i]);
        if (i == 0 && !gone)
            break;
        *count += gone;
    }
    lmc_pair_free(&p);
    lm_tokenizer_free(t);
    lm_vocab_free(v);
    return rc;
}

/* The one part that removes most; *best 0 if none removes the first case. */
static int single(const struct lmc_doctor *d, uint64_t among, const struct lmc_case *cases, size_t n, uint64_t *best,
                  struct lm_err *e)
{
    size_t most = 0, count;

    *best = 0;
    for (size_t i = 0; i < lm_vocab_n_parts(); i++) {
        if (!(among >> i & 1))
            continue;
        if (removes(d, (uint64_t)1 << i, cases, n, &count, e) < 0)
            return -1;
        if (count > most) {
            most = count;
            *best = (uint64_t)1 << i;
        }
    }
    return 0;
}

/* Leaves out what is not needed, the coarsest parts first. */
static int several(const struct lmc_doctor *d, uint64_t all, const struct lmc_case *first, uint64_t *set, struct lm_err *e)
{
    size_t count;

    *set = 0;
    if (removes(d, all, first, 1, &count, e) < 0)
        return -1;
    for (size_t i = lm_vocab_n_parts(); count && i-- > 0;) {
        uint64_t without = all & ~((uint64_t)1 << i);
        size_t still;
        if (without == all)
            continue;
        if (removes(d, without, first, 1, &still, e) < 0)
            return -1;
        all = still ? without : all;
    }
    *set = count ? all : 0;
    return 0;
}

int lmc_explain(struct lmc_doctor *d, const struct lmc_case *cases, size_t n, uint64_t *parts, struct lm_err *e)
{
    uint64_t all = ((uint64_t)1 << lm_vocab_n_parts()) - 1, differing = 0;

    for (size_t i = 0; i < lm_vocab_n_parts(); i++)
        if (!lm_vocab_part_same(d->a, d->b, i))
            differing |= (uint64_t)1 << i;
    /* What both say the same may still mean something else, as one says it in
     * another way: that comes last. */
    if (single(d, differing, cases, n, parts, e) < 0)
        return -1;
    if (!*parts && several(d, differing, cases, parts, e) < 0)
        return -1;
    if (!*parts && single(d, all & ~differing, cases, n, parts, e) < 0)
        return -1;
    return *parts ? 0 : several(d, all, cases, parts, e);
}

int lmc_repair(struct lmc_doctor *d, uint64_t parts, struct lm_err *e)
{
    size_t at = d->n_own;

    if (at == sizeof d->own / sizeof *d->own)
        return lm_err_set(e, LM_LIMIT, "more than %zu causes", at);
    if (mixture(d, parts, &d->own[at], &d->tokenizers[at], e) < 0)
        return -1;
    d->n_own++;
    if (!d->tokenizers[at])
        return lm_err_set(e, LM_UNSUPPORTED, "a mixture of both vocabularies cannot be made twice");
    d->b = d->own[at];
    d->tb = d->tokenizers[at];
    return 0;
}

void lmc_doctor_free(struct lmc_doctor *d)
{
    while (d->n_own-- > 0) {
        lm_tokenizer_free(d->tokenizers[d->n_own]);
        lm_vocab_free(d->own[d->n_own]);
    }
    d->n_own = 0;
}
