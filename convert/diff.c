#include "convert/diff.h"

#include <math.h>
#include <stdlib.h>

#include "convert/diff_values.h"
#include "convert/plan.h"

static const char *const kind_names[] = {"only in A", "only in B", "shape", "changed", "transformed", "quantized",
                                         "cast", "same"};

const char *lm_diff_kind_name(enum lm_diff_kind k)
{
    return (unsigned)k < LM_N_DIFF_KINDS ? kind_names[k] : "?";
}

struct work {
    struct lm_diff *d;
    struct lmc_canons *a, *b;
    struct lmc_pair *pairs;
    struct lm_diff_tensor **of; /* the tensor of a pair */
    size_t n_pairs;
};

/* ---- matching */

static unsigned real_shape(const struct lmc_canon *x, uint64_t *shape)
{
    unsigned n = 0;

    for (unsigned i = 0; i < x->it.n_dims; i++)
        if (x->it.shape[i] != 1)
            shape[n++] = x->it.shape[i];
    return n;
}

/* Whole rows that both have; false: nothing to compare. */
static bool common_rows(const struct lmc_canon *a, const struct lmc_canon *b, struct lmc_pair *p, int64_t *added)
{
    uint64_t x[LM_MAX_DIMS], y[LM_MAX_DIMS];
    unsigned n = real_shape(a, x), m = real_shape(b, y);
    bool same_rest = n == m && (n < 2 || memcmp(x + 1, y + 1, (n - 1) * sizeof *x) == 0);

    *added = 0;
    if (!same_rest || lmc_canon_elems(a) == 0)
        return n == m && memcmp(x, y, n * sizeof *x) == 0;
    if (n > 0 && x[0] != y[0]) {
        /* Only a vocabulary grows; elsewhere another height is another model. */
        bool vocab = !a->known || a->it.role == LM_ROLE_TOKEN_EMBD || a->it.role == LM_ROLE_OUTPUT;
        if (n < 2 || !vocab)
            return false;
        *added = (int64_t)y[0] - (int64_t)x[0];
    }
    p->cols = n > 0 ? x[n - 1] : 1;
    p->n = lmc_canon_elems(a) < lmc_canon_elems(b) ? lmc_canon_elems(a) : lmc_canon_elems(b);
    p->rows = p->n / p->cols;
    return true;
}

/* The tensor as it is compared: with the shape and type of the whole where it was put together. */
static const struct lm_tensor *side_of(struct work *w, const struct lmc_canon *x)
{
    struct lm_tensor *t;

    if (!x || (!x->it.n_pieces && x->it.dtype == x->it.src->dtype))
        return x ? x->it.src : NULL;
    if (!(t = lm_arena_array(&w->d->arena, 1, sizeof *t)))
        return x->it.src;
    *t = *x->it.src;
    t->dtype = x->it.dtype;
    t->n_dims = x->it.n_dims;
    memcpy(t->shape, x->it.shape, sizeof t->shape);
    t->n_elems = lmc_canon_elems(x);
    t->n_bytes = lm_dtype_bytes(t->dtype, t->n_elems);
    return t;
}

/* x names it. */
static struct lm_diff_tensor *add_tensor(struct work *w, const struct lmc_canon *x, const struct lmc_canon *a,
                                         const struct lmc_canon *b, enum lm_diff_kind kind)
{
    struct lm_diff_tensor *t = &w->d->tensors[w->d->n_tensors++];

    *t = (struct lm_diff_tensor){.kind = kind, .role = x->it.role, .layer = x->it.layer,
                                 .a = side_of(w, a), .b = side_of(w, b),
                                 .name = lm_arena_str(&w->d->arena, lm_span_str(x->name))};
    return t;
}

static void add_pair(struct work *w, const struct lmc_canon *a, const struct lmc_canon *b, struct lm_diff_tensor *t,
                     const char *what)
{
    struct lmc_pair *p = &w->pairs[w->n_pairs];

    *p = (struct lmc_pair){.a = a, .b = b};
    t->what = what;
    if (!common_rows(a, b, p, &t->rows_added))
        return;
    t->kind = LM_DIFF_SAME;
    t->n_compared = p->n;
    w->of[w->n_pairs++] = t;
}

static const struct lmc_canon *named(const struct lmc_canons *c, const char *name)
{
    for (size_t i = 0; i < c->n_whole; i++)
        if (strcmp(c->whole[i].name, name) == 0)
            return &c->whole[i];
    return NULL;
}

/* An output matrix on one side may be the other side's tied embedding. */
static const struct lmc_canon *tied_to(const struct lmc_canon *x, const struct lmc_canons *other)
{
    if (x->it.role != LM_ROLE_OUTPUT || !other->has_config || !other->config.tied)
        return NULL;
    return named(other, "token_embd.weight");
}

static void add_single(struct work *w, const struct lmc_canon *x, bool in_a)
{
    const struct lmc_canon *tied = tied_to(x, in_a ? w->b : w->a), *a = in_a ? x : tied, *b = in_a ? tied : x;
    enum lm_diff_kind kind = tied ? LM_DIFF_SHAPE : in_a ? LM_DIFF_ONLY_A : LM_DIFF_ONLY_B;

    if (x->derived)
        return;
    struct lm_diff_tensor *t = add_tensor(w, x, a, b, kind);
    if (tied)
        add_pair(w, a, b, t, "against the embedding, to which the other side ties it");
}

static int match(struct work *w, struct lm_err *e)
{
    struct lmc_canons *a = w->a, *b = w->b;
    size_t n = a->n_whole + b->n_whole, i = 0, k = 0;

    w->d->tensors = calloc(n + 1, sizeof *w->d->tensors);
    w->pairs = calloc(n + 1, sizeof *w->pairs);
    w->of = calloc(n + 1, sizeof *w->of);
    if (!w->d->tensors || !w->pairs || !w->of)
        return lmc_nomem(e);
    if (a->n_whole)
        qsort(a->whole, a->n_whole, sizeof *a->whole, lmc_canon_by_name);
    if (b->n_whole)
        qsort(b->whole, b->n_whole, sizeof *b->whole, lmc_canon_by_name);
    while (i < a->n_whole || k < b->n_whole) {
        int d = i == a->n_whole ? 1 : k == b->n_whole ? -1 : strcmp(a->whole[i].name, b->whole[k].name);
        const struct lmc_canon *x = d <= 0 ? &a->whole[i++] : NULL, *y = d >= 0 ? &b->whole[k++] : NULL;
        if (d == 0)
            add_pair(w, x, y, add_tensor(w, x, x, y, LM_DIFF_SHAPE), NULL);
        else
            add_single(w, d < 0 ? x : y, d < 0);
    }
    return 0;
}

/* ---- verdicts */

static bool is_quant(const struct lm_tensor *t)
{
    return lm_dtype_info(t->dtype)->kind == LM_KIND_QUANT;
}

static int mantissa_bits(enum lm_dtype d)
{
    switch (d) {
    case LM_BF16: return 7;
    case LM_F16: return 10;
    case LM_F8_E4M3: return 3;
    case LM_F8_E5M2: return 2;
    default: return 23;
    }
}

/* Standard deviation of what rounding to the type does to an element. */
static double rounding_noise(const struct lmc_pair *p, enum lm_dtype d)
{
    double n = p->s.n_summed > 0 ? (double)p->s.n_summed : 1;

    if (lm_dtype_info(d)->kind == LM_KIND_QUANT)
        return lmc_type_error(d) * sqrt(p->s.bb / n);
    return sqrt(p->s.ulp2 / n / 12) * exp2(-mantissa_bits(d));
}

/* As few as stand out of what the numbers themselves allow; where that is all
 * of them, as stand out of the rounding of either side. */
static void set_rank(struct lm_diff_tensor *t, const struct lmc_pair *p)
{
    double a = rounding_noise(p, t->a->dtype), b = rounding_noise(p, t->b->dtype);

    t->has_rank = p->sketch != NULL && isfinite(p->s.dd);
    if (!t->has_rank)
        return;
    t->rank = lmc_sketch_rank(p->sketch, p->rows, p->cols, a < b ? a : b, &t->rank_limit);
    if (4 * t->rank > 3 * t->rank_limit)
        t->rank = lmc_sketch_rank(p->sketch, p->rows, p->cols, a < b ? b : a, &t->rank_limit);
}

static bool set_quantized(struct lm_diff_tensor *t, const struct lmc_pair *p, struct lm_arena *arena)
{
    const struct lm_tensor *coarse = p->fine_is_a ? t->b : t->a, *fine = p->fine_is_a ? t->a : t->b;
    double own = is_quant(fine) ? lmc_type_error(fine->dtype) : 0;
    double ref = p->s.ref_any && p->s.ref_xx > 0 ? sqrt(p->s.ref_dd / p->s.ref_xx) : lmc_type_error(coarse->dtype);
    double worst = p->s.ref_any && p->s.ref_worst > 0 ? 2 * p->s.ref_worst + 2 * own : 1;

    if (!is_quant(coarse))
        return false;
    t->expected = sqrt(ref * ref + own * own);
    if (!(t->relative <= 1.3 * t->expected && p->s.worst <= worst))
        return false;
    t->kind = LM_DIFF_QUANTIZED;
    if (coarse->dtype == fine->dtype)
        t->what = lmc_print(arena, "two quantizations to %s of the same values, as far as can be told",
                            lm_dtype_name(coarse->dtype));
    else
        t->what = lmc_print(arena, "%s to %s%s", lm_dtype_name(fine->dtype), lm_dtype_name(coarse->dtype),
                            p->s.ref_any && p->s.ref_exact && own == 0 ? ", as the reference quantizer makes it (a sample was checked)" : "");
    return true;
}

static bool set_cast(struct lm_diff_tensor *t, const struct lmc_pair *p, struct lm_arena *arena)
{
    const struct lm_tensor *coarse = p->fine_is_a ? t->b : t->a, *fine = p->fine_is_a ? t->a : t->b;

    if (coarse->dtype == fine->dtype || is_quant(coarse) || is_quant(fine))
        return false;
    if (p->s.n_not_cast[0] > 0) {
        const struct lm_tensor *other = coarse;
        coarse = fine;
        fine = other;
    }
    if (p->s.n_not_cast[0] > 0 && p->s.n_not_cast[1] > 0)
        return false;
    t->kind = LM_DIFF_CAST;
    t->what = lmc_print(arena, "%s rounded to %s", lm_dtype_name(fine->dtype), lm_dtype_name(coarse->dtype));
    return true;
}

static void set_same(struct lm_diff_tensor *t, struct lm_arena *arena)
{
    t->cosine = 1;
    if (t->rows_added) {
        t->kind = LM_DIFF_CHANGED;
        t->what = lmc_print(arena, "%lld rows %s, the others are the same", (long long)llabs(t->rows_added),
                            t->rows_added > 0 ? "added" : "removed");
    } else if (t->a->dtype != t->b->dtype && !t->what) {
        t->what = lmc_print(arena, "stored as %s and as %s", lm_dtype_name(t->a->dtype), lm_dtype_name(t->b->dtype));
    }
}

static void judge(struct lm_diff_tensor *t, struct lmc_pair *p, const struct work *w)
{
    const struct lmc_sums *s = &p->s;

    t->n_differ = s->n_differ;
    if (t->n_differ == 0) {
        set_same(t, &w->d->arena);
        return;
    }
    t->kind = LM_DIFF_CHANGED;
    t->relative = s->aa > 0 ? sqrt(s->dd / s->aa) : INFINITY;
    t->cosine = s->aa > 0 && s->bb > 0 ? s->ab / sqrt(s->aa * s->bb) : 0;
    t->largest = s->largest;
    t->largest_at = s->largest_at;
    if (t->rows_added == 0 && (set_cast(t, p, &w->d->arena) || set_quantized(t, p, &w->d->arena)))
        return;
    double tolerance = fmax(1.3 * t->expected, t->a->dtype != t->b->dtype ? 0.005 : 1e-6);
    const char *guess = t->rows_added == 0 ? lmc_guess(p, w->a, w->b, tolerance, &w->d->arena) : NULL;
    if (guess) {
        t->kind = LM_DIFF_TRANSFORM;
        t->what = guess;
        return;
    }
    if (t->rows_added)
        t->what = lmc_print(&w->d->arena, "%lld rows %s, and the others changed", (long long)llabs(t->rows_added),
                            t->rows_added > 0 ? "added" : "removed");
    set_rank(t, p);
}

static int by_weight(const void *pa, const void *pb)
{
    const struct lm_diff_tensor *a = pa, *b = pb;

    if (a->kind != b->kind)
        return a->kind < b->kind ? -1 : 1;
    if (a->kind == LM_DIFF_CHANGED && a->relative != b->relative)
        return a->relative > b->relative ? -1 : 1;
    return a->layer != b->layer ? a->layer - b->layer : strcmp(a->name, b->name);
}

/* ---- all */

static int compare(struct work *w, const struct lm_run_options *o, struct lm_err *e)
{
    struct lm_diff *d = w->d;

    if (match(w, e) || lmc_compare(w->pairs, w->n_pairs, w->a->m, w->b->m, o, &d->n_bytes, e))
        return -1;
    for (size_t i = 0; i < w->n_pairs; i++)
        judge(w->of[i], &w->pairs[i], w);
    for (size_t i = 0; i < d->n_tensors; i++) {
        d->n_of[d->tensors[i].kind]++;
        if (!d->tensors[i].name)
            return lmc_nomem(e);
    }
    qsort(d->tensors, d->n_tensors, sizeof *d->tensors, by_weight);
    d->arch_a = w->a->has_config ? w->a->config.arch->name : NULL;
    d->arch_b = w->b->has_config ? w->b->config.arch->name : NULL;
    if (lmc_diff_notes(d, w->a->m, w->b->m, e))
        return -1;
    return lm_model_check_unchanged(w->a->m, e) || lm_model_check_unchanged(w->b->m, e) ? -1 : 0;
}

int lm_diff_models(struct lm_diff **out, struct lm_model *a, struct lm_model *b, const struct lm_run_options *o,
                   struct lm_err *e)
{
    struct work w = {.d = calloc(1, sizeof *w.d)};
    int rc = w.d ? 0 : lmc_nomem(e);

    *out = NULL;
    if (rc == 0 && (lmc_canon_make(&w.a, a, e) || lmc_canon_make(&w.b, b, e)))
        rc = -1;
    /* Between two of one naming the stored values are compared: their types then say what was rounded. */
    bool plus_one = rc == 0 && w.a->naming != w.b->naming;
    if (rc == 0 && (lmc_canon_join(w.a, plus_one, e) || lmc_canon_join(w.b, plus_one, e)))
        rc = -1;
    if (rc == 0)
        rc = compare(&w, o, e);
    lmc_pairs_free(w.pairs, w.n_pairs);
    free(w.of);
    lmc_canon_free(w.a);
    lmc_canon_free(w.b);
    if (rc) {
        lm_diff_free(w.d);
        return -1;
    }
    *out = w.d;
    return 0;
}

void lm_diff_free(struct lm_diff *d)
{
    if (!d)
        return;
    free(d->tensors);
    free(d->notes);
    lm_arena_free(&d->arena);
    free(d);
}
