/* What the statistics say. */
#include <math.h>
#include <stdlib.h>

#include "convert/audit_parts.h"

/* ---- one tensor */

/* Masks and frequencies that follow from the configuration are no weights. */
static bool counts(const struct lm_audit *a, size_t i)
{
    return a->tensors[i].has_stats && !a->tensors[i].shared && !a->canons->of[i].derived;
}

static bool is_matrix(const struct lm_audit_tensor *t)
{
    return t->stats.n_rows > 1;
}

static bool is_embedding(const struct lm_audit_tensor *t)
{
    return t->role == LM_ROLE_TOKEN_EMBD || t->role == LM_ROLE_OUTPUT || t->role == LM_ROLE_POS_EMBD ||
           strstr(t->name, "embed") || strstr(t->name, "lm_head");
}

static bool is_quant(const struct lm_audit_tensor *t)
{
    return lm_dtype_info(t->t->dtype)->kind == LM_KIND_QUANT;
}

static bool is_float(const struct lm_audit_tensor *t)
{
    return lm_dtype_info(t->t->dtype)->kind == LM_KIND_FLOAT;
}

static void check_finite(struct lm_audit *a, const struct lm_audit_tensor *t)
{
    const struct lm_stats *s = &t->stats;

    if (is_quant(t) && s->n_nan + s->n_inf > 0)
        lmc_found(a, LM_RULE_scale_not_finite, t->t->name, "%llu values in about %llu blocks of %s are not finite",
                  (unsigned long long)(s->n_nan + s->n_inf),
                  (unsigned long long)((s->n_nan + s->n_inf + lm_dtype_info(t->t->dtype)->block_elems - 1) /
                                       lm_dtype_info(t->t->dtype)->block_elems),
                  lm_dtype_name(t->t->dtype));
    else if (s->n_nan > 0)
        lmc_found(a, LM_RULE_value_nan, t->t->name, "%llu of %llu values are NaN", (unsigned long long)s->n_nan,
                  (unsigned long long)s->n);
    if (!is_quant(t) && s->n_inf > 0)
        lmc_found(a, LM_RULE_value_infinite, t->t->name, "%llu of %llu values are infinite",
                  (unsigned long long)s->n_inf, (unsigned long long)s->n);
}

static void check_rows(struct lm_audit *a, const struct lm_audit_tensor *t)
{
    const struct lm_stats *s = &t->stats;

    if (s->n_zero_rows > 0 && is_embedding(t))
        lmc_found(a, LM_RULE_embedding_rows_zero, t->t->name, "%llu of %llu rows, the first is %llu",
                  (unsigned long long)s->n_zero_rows, (unsigned long long)s->n_rows, (unsigned long long)s->first_zero_row);
    else if (s->n_zero_rows > 0)
        lmc_found(a, LM_RULE_rows_zero, t->t->name, "%llu of %llu rows, the first is %llu",
                  (unsigned long long)s->n_zero_rows, (unsigned long long)s->n_rows, (unsigned long long)s->first_zero_row);
    if (s->n_equal_rows > 0 && !is_embedding(t) && t->t->shape[t->t->n_dims - 1] >= 8)
        lmc_found(a, LM_RULE_rows_duplicate, t->t->name, "%llu of %llu rows equal an earlier one, the first is %llu",
                  (unsigned long long)s->n_equal_rows, (unsigned long long)s->n_rows,
                  (unsigned long long)s->first_equal_row);
    if (s->n_outlier_rows + s->n_outlier_cols > 0)
        lmc_found(a, LM_RULE_rows_outlier, t->t->name, "%llu rows and %llu columns are 8 times larger than the median",
                  (unsigned long long)s->n_outlier_rows, (unsigned long long)s->n_outlier_cols);
}

static void check_matrix(struct lm_audit *a, const struct lm_audit_tensor *t)
{
    const struct lm_stats *s = &t->stats;

    if (s->n_zero == s->n)
        lmc_found(a, LM_RULE_matrix_zero, t->t->name, "all %llu values are 0", (unsigned long long)s->n);
    else if (s->min >= s->max && s->n_nan + s->n_inf == 0)
        lmc_found(a, LM_RULE_matrix_constant, t->t->name, "all %llu values are %g", (unsigned long long)s->n,
                  (double)s->max);
    else
        check_rows(a, t);
}

static void check_ranges(struct lm_audit *a, const struct lm_audit_tensor *t)
{
    const struct lm_stats *s = &t->stats;
    uint64_t not_zero = s->n - s->n_zero;

    if (is_float(t) && s->n_f16_over > 0)
        lmc_found(a, LM_RULE_f16_overflow, t->t->name, "%llu values, the largest is %g", (unsigned long long)s->n_f16_over,
                  (double)s->largest);
    if (is_float(t) && t->t->dtype != LM_F16 && s->n_f16_flush > not_zero / 100)
        lmc_found(a, LM_RULE_f16_flush, t->t->name, "%llu of %llu values that are not 0",
                  (unsigned long long)s->n_f16_flush, (unsigned long long)not_zero);
    if (s->n_subnormal > not_zero / 100)
        lmc_found(a, LM_RULE_many_subnormals, t->t->name, "%llu of %llu", (unsigned long long)s->n_subnormal,
                  (unsigned long long)not_zero);
    if (is_matrix(t) && s->n >= 1000 && (double)s->largest > 200 * lm_stats_rms(s) && lm_stats_rms(s) > 0)
        lmc_found(a, LM_RULE_value_outlier, t->t->name, "the largest magnitude is %g, %.0f times the rms",
                  (double)s->largest, (double)s->largest / lm_stats_rms(s));
    if (is_quant(t) && (t->t->n_dims < 2 || strstr(t->name, "norm")))
        lmc_found(a, LM_RULE_norm_quantized, t->t->name, "its type is %s", lm_dtype_name(t->t->dtype));
}

/* ---- all tensors */

static void check_wide(struct lm_audit *a)
{
    uint64_t bytes = 0;
    size_t n = 0;

    for (size_t i = 0; i < a->n_tensors; i++) {
        const struct lm_audit_tensor *t = &a->tensors[i];
        bool wide = t->t->dtype == LM_F32 || t->t->dtype == LM_F64;
        bool exact = t->stats.bf16_exact || t->stats.f16_exact;
        /* GGUF wants learned positions in F32. */
        if (!counts(a, i) || !is_matrix(t) || !wide || !exact || (t->role == LM_ROLE_POS_EMBD && lmc_audit_is_gguf(a)))
            continue;
        n++;
        bytes += t->t->n_bytes - 2 * t->t->n_elems;
    }
    if (bytes > a->n_bytes / 20)
        lmc_found(a, LM_RULE_wider_than_needed, a->path, "%zu matrices hold only 16-bit values: %llu bytes more than needed",
                  n, (unsigned long long)bytes);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* The same tensor of all layers: one that is ten times larger or smaller. */
static void check_kin(struct lm_audit *a, enum lm_role r, double *rms, double *sorted)
{
    size_t n = 0;

    for (size_t i = 0; i < a->n_tensors; i++) {
        const struct lm_audit_tensor *t = &a->tensors[i];
        if (t->known && t->role == r && t->layer >= 0 && t->has_stats && is_matrix(t))
            sorted[n++] = rms[i] = lm_stats_rms(&t->stats);
    }
    if (n < 2)
        return;
    qsort(sorted, n, sizeof *sorted, by_value);
    for (size_t i = 0; i < a->n_tensors; i++) {
        const struct lm_audit_tensor *t = &a->tensors[i];
        /* of two layers neither is the odd one; the larger is named */
        double middle = sorted[(n - 1) / 2];
        if (t->known && t->role == r && t->layer >= 0 && t->has_stats && is_matrix(t) && middle > 0 && rms[i] > 0 &&
            (rms[i] > 10 * middle || rms[i] * 10 < middle))
            lmc_found(a, LM_RULE_layer_outlier, t->t->name, "its rms is %.3g, the median of the layers is %.3g", rms[i],
                      middle);
    }
}

static void check_layers(struct lm_audit *a)
{
    double *rms = calloc(2 * a->n_tensors + 2, sizeof *rms);

    if (!rms) {
        a->failed = true;
        return;
    }
    for (int r = 0; r < LM_N_ROLES; r++)
        check_kin(a, (enum lm_role)r, rms, rms + a->n_tensors + 1);
    free(rms);
}

static bool is_norm(const struct lm_audit_tensor *t)
{
    return t->role == LM_ROLE_ATTN_NORM || t->role == LM_ROLE_FFN_NORM || t->role == LM_ROLE_OUTPUT_NORM;
}

/* Hugging Face's files of some families hold norms minus 1. */
static bool is_stored_minus_one(const struct lm_audit *a, const struct lm_audit_tensor *t)
{
    int layer;
    const struct lm_arch_row *row = lmc_canon_row(a->canons, t->t->name, &layer);

    return a->canons->naming == LM_NAMES_HF && row && row->transform == LM_T_PLUS_ONE;
}

static void check_norms(struct lm_audit *a)
{
    size_t n = 0, centred = 0;
    const char *first = NULL;

    for (size_t i = 0; i < a->n_tensors; i++) {
        const struct lm_audit_tensor *t = &a->tensors[i];
        if (!t->known || !t->has_stats || !is_norm(t) || is_stored_minus_one(a, t))
            continue;
        n++;
        if (t->stats.min < 0 && lm_stats_mean(&t->stats) < 0.5 * lm_stats_std(&t->stats)) {
            first = first ? first : t->t->name;
            centred++;
        }
    }
    if (2 * centred > n)
        lmc_found(a, LM_RULE_norm_centred, first, "%zu of %zu norms have a mean near 0 where 1 is usual", centred, n);
}

struct key { uint64_t hash; size_t i; };

static int by_hash(const void *a, const void *b)
{
    const struct key *x = a, *y = b;

    return x->hash != y->hash ? (x->hash < y->hash ? -1 : 1) : x->i < y->i ? -1 : x->i > y->i;
}

static bool same_shape(const struct lm_tensor *a, const struct lm_tensor *b)
{
    return a->n_dims == b->n_dims && memcmp(a->shape, b->shape, a->n_dims * sizeof *a->shape) == 0;
}

static void check_equal(struct lm_audit *a)
{
    struct key *keys = calloc(a->n_tensors + 1, sizeof *keys);
    size_t n = 0;

    for (size_t i = 0; keys && i < a->n_tensors; i++) {
        const struct lm_audit_tensor *t = &a->tensors[i];
        if (counts(a, i) && is_matrix(t) && t->stats.n_zero < t->stats.n && t->stats.min < t->stats.max)
            keys[n++] = (struct key){t->stats.hash, i};
    }
    if (n)
        qsort(keys, n, sizeof *keys, by_hash);
    for (size_t k = 1; k < n; k++) {
        const struct lm_audit_tensor *x = &a->tensors[keys[k - 1].i], *y = &a->tensors[keys[k].i];
        if (x->stats.hash != y->stats.hash || !same_shape(x->t, y->t))
            continue;
        if (is_embedding(x) && is_embedding(y))
            lmc_found(a, LM_RULE_tie_copy, y->t->name, "equal to '%s': %llu bytes", x->t->name,
                      (unsigned long long)y->t->n_bytes);
        else
            lmc_found(a, LM_RULE_tensors_equal, y->t->name, "equal to '%s'", x->t->name);
    }
    free(keys);
}

void lmc_audit_values(struct lm_audit *a)
{
    for (size_t i = 0; i < a->n_tensors; i++) {
        const struct lm_audit_tensor *t = &a->tensors[i];
        if (!counts(a, i))
            continue;
        check_finite(a, t);
        if (is_matrix(t))
            check_matrix(a, t);
        check_ranges(a, t);
    }
    check_wide(a);
    check_layers(a);
    check_norms(a);
    check_equal(a);
}
