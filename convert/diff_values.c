/* One pass over the elements of every pair.  Stretches whose bytes are equal
 * are only compared; their norm is added afterwards where something differs. */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#include "convert/diff_values.h"
#include "convert/hash_pass.h"
#include "convert/plan.h"

enum { PIECE = 1 << 18, SAMPLE = 1 << 14, GROUP = 256, SUB = 8192 };

struct job {
    struct lmc_pair *pairs;
    size_t n;
    const struct lm_model *ma, *mb;
    pthread_mutex_t lock;
    bool again; /* second pass: norms of equal stretches */
};

struct scratch {
    struct lmc_room raw_a, raw_b, packed;
    float a[PIECE], b[PIECE], d[PIECE];
    struct lmc_sketch sketch;
};

static uint64_t pieces_of(const struct lmc_pair *p)
{
    return (p->n + PIECE - 1) / PIECE;
}

/* ---- sums */

static void add_moments(struct lmc_sums *s, const float *a, const float *b, const float *d, size_t n)
{
    for (size_t i = 0; i < n; i += SUB) {
        size_t k = n - i < SUB ? n - i : SUB;
        /* Four lanes each, so that the compiler may use vectors and the result
         * still does not depend on it. */
        double aa[4] = {0}, bb[4] = {0}, ab[4] = {0}, dd[4] = {0}, sd[4] = {0};
        size_t j = 0;
        for (; j + 4 <= k; j += 4)
            for (int l = 0; l < 4; l++) {
                double x = (double)a[i + j + (size_t)l], y = (double)b[i + j + (size_t)l], z = (double)d[i + j + (size_t)l];
                aa[l] += x * x;
                bb[l] += y * y;
                ab[l] += x * y;
                dd[l] += z * z;
                sd[l] += z;
            }
        for (; j < k; j++) {
            double x = (double)a[i + j], y = (double)b[i + j], z = (double)d[i + j];
            aa[0] += x * x;
            bb[0] += y * y;
            ab[0] += x * y;
            dd[0] += z * z;
            sd[0] += z;
        }
        s->aa += aa[0] + aa[1] + aa[2] + aa[3];
        s->bb += bb[0] + bb[1] + bb[2] + bb[3];
        s->ab += ab[0] + ab[1] + ab[2] + ab[3];
        s->dd += dd[0] + dd[1] + dd[2] + dd[3];
        s->sum_d += sd[0] + sd[1] + sd[2] + sd[3];
    }
    s->n_summed += n;
}

static uint32_t bits_of(float f)
{
    uint32_t u;

    memcpy(&u, &f, 4);
    return u;
}

/* Where both are NaN nothing differs; where one is, the difference is NaN and
 * counts as infinite. */
static uint64_t differences(const float *a, const float *b, float *d, size_t n)
{
    uint64_t differ = 0;

    for (size_t i = 0; i < n; i++) {
        bool same = bits_of(a[i]) == bits_of(b[i]) || (a[i] != a[i] && b[i] != b[i]);
        d[i] = same ? 0.0f : b[i] - a[i];
        differ += !same;
    }
    return differ;
}

static float max_abs(const float *x, size_t n)
{
    uint32_t max = 0;

    for (size_t i = 0; i < n; i++) {
        uint32_t u = bits_of(x[i]) & 0x7fffffff;
        max = u > max ? u : max;
    }
    float f;
    memcpy(&f, &max, 4);
    return f;
}

static double worst_of(const float *fine, const float *d, size_t n)
{
    double worst = 0;

    for (size_t i = 0; i < n; i += GROUP) {
        size_t k = n - i < GROUP ? n - i : GROUP;
        double top = (double)max_abs(fine + i, k), err = (double)max_abs(d + i, k);
        if (err > 0)
            worst = fmax(worst, top > 0 ? err / top : INFINITY);
    }
    return worst;
}

static void add_largest(struct lmc_sums *s, const float *d, uint64_t first, size_t n)
{
    double top = (double)max_abs(d, n);

    if (top != top)
        top = INFINITY;
    if (!(top > s->largest))
        return;
    s->largest = top;
    for (size_t i = 0; i < n; i++)
        if (!((double)fabsf(d[i]) < top)) {
            s->largest_at = first + i;
            return;
        }
}

static double ulps(const float *b, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++) {
        uint32_t u = bits_of(b[i]) & 0x7f800000;
        float unit;
        memcpy(&unit, &u, 4);
        sum += (double)unit * (double)unit;
    }
    return sum;
}

/* ---- is the coarser side a rounding of the finer? */

static const struct lm_dtype_info *info_of(const struct lmc_canon *c)
{
    return lm_dtype_info(c->it.dtype);
}

/* Elements of raw that are not the values of `fine`, rounded. */
static uint64_t not_cast(const struct lm_dtype_info *coarse, const float *fine, const uint8_t *raw, size_t n, uint8_t *room)
{
    uint64_t bad = 0;

    if (!coarse->from_f32)
        return n;
    coarse->from_f32(room, fine, n);
    if (memcmp(room, raw, n / coarse->block_elems * coarse->block_bytes) == 0)
        return 0;
    for (size_t i = 0; i < n; i++)
        bad += memcmp(room + i * coarse->block_bytes, raw + i * coarse->block_bytes, coarse->block_bytes) != 0;
    return bad;
}

static void sample_quantizer(struct lmc_sums *s, const struct lm_dtype_info *coarse, const float *fine,
                             const uint8_t *raw, size_t n, uint8_t *room)
{
    static _Thread_local float back[SAMPLE];

    n = n < SAMPLE ? n : SAMPLE;
    n -= n % coarse->block_elems;
    coarse->from_f32(room, fine, n);
    s->ref_exact = (!s->ref_any || s->ref_exact) && memcmp(room, raw, n / coarse->block_elems * coarse->block_bytes) == 0;
    s->ref_any = true;
    coarse->to_f32(back, room, n);
    for (size_t i = 0; i < n; i++) {
        back[i] -= fine[i];
        s->ref_dd += (double)back[i] * (double)back[i];
        s->ref_xx += (double)fine[i] * (double)fine[i];
    }
    s->ref_worst = fmax(s->ref_worst, worst_of(fine, back, n));
}

static int add_rounding(struct lmc_sums *s, const struct lmc_pair *p, struct scratch *w, const uint8_t *raw_a,
                        const uint8_t *raw_b, size_t n, struct lm_err *e)
{
    const struct lm_dtype_info *coarse = info_of(p->fine_is_a ? p->b : p->a);
    const float *fine = p->fine_is_a ? w->a : w->b;
    const uint8_t *raw = p->fine_is_a ? raw_b : raw_a;

    s->worst = worst_of(fine, w->d, n);
    if (p->a->it.dtype == p->b->it.dtype)
        return 0;
    if (lmc_room_fit(&w->packed, (size_t)PIECE * 8, e))
        return -1;
    if (coarse->kind == LM_KIND_QUANT) {
        if (coarse->from_f32)
            sample_quantizer(s, coarse, fine, raw, n, w->packed.data);
        return 0;
    }
    s->n_not_cast[0] = not_cast(coarse, fine, raw, n, w->packed.data);
    /* F16 and BF16: either may be the rounding of the other. */
    s->n_not_cast[1] = n;
    if (s->n_not_cast[0] && info_of(p->a)->block_bytes == info_of(p->b)->block_bytes)
        s->n_not_cast[1] = not_cast(info_of(p->a), w->b, raw_a, n, w->packed.data);
    return 0;
}

/* ---- a piece */

static bool computable(const struct lmc_pair *p)
{
    return info_of(p->a)->to_f32 && info_of(p->b)->to_f32;
}

static bool wants_rank(const struct lmc_pair *p)
{
    return p->rows > 1 && p->cols > 1;
}

static void merge(struct job *j, struct lmc_pair *p, const struct lmc_sums *s, const struct lmc_sketch *sketch)
{
    struct lmc_sums *t = &p->s;

    pthread_mutex_lock(&j->lock);
    t->ref_exact = (!t->ref_any || t->ref_exact) && (!s->ref_any || s->ref_exact);
    t->ref_any |= s->ref_any;
    t->n_differ += s->n_differ;
    t->n_not_cast[0] += s->n_not_cast[0];
    t->n_not_cast[1] += s->n_not_cast[1];
    t->aa += s->aa;
    t->bb += s->bb;
    t->ab += s->ab;
    t->dd += s->dd;
    t->sum_d += s->sum_d;
    t->ulp2 += s->ulp2;
    t->n_summed += s->n_summed;
    t->ref_dd += s->ref_dd;
    t->ref_xx += s->ref_xx;
    t->worst = fmax(t->worst, s->worst);
    t->ref_worst = fmax(t->ref_worst, s->ref_worst);
    if (s->largest > t->largest || (s->largest == t->largest && s->largest_at < t->largest_at)) {
        t->largest = s->largest;
        t->largest_at = s->largest_at;
    }
    if (sketch && !p->sketch)
        p->sketch = calloc(1, sizeof *p->sketch);
    if (sketch && p->sketch)
        lmc_sketch_merge(p->sketch, sketch);
    pthread_mutex_unlock(&j->lock);
}

static int read_values(const struct job *j, const struct lmc_pair *p, uint64_t first, size_t n, struct scratch *w,
                       const uint8_t *raw[2], struct lm_err *e)
{
    if (lmc_canon_read(j->ma, p->a, first, n, &w->raw_a, &raw[0], e))
        return -1;
    return j->again ? 0 : lmc_canon_read(j->mb, p->b, first, n, &w->raw_b, &raw[1], e);
}

static int compare_piece(struct job *j, struct lmc_pair *p, uint64_t first, size_t n, struct scratch *w,
                         const uint8_t *raw[2], struct lm_err *e)
{
    struct lmc_sums s = {0};

    info_of(p->a)->to_f32(w->a, raw[0], n);
    info_of(p->b)->to_f32(w->b, raw[1], n);
    s.n_differ = differences(w->a, w->b, w->d, n);
    add_moments(&s, w->a, w->b, w->d, n);
    if (s.n_differ) {
        add_largest(&s, w->d, first, n);
        s.ulp2 = ulps(w->b, n);
    }
    if (add_rounding(&s, p, w, raw[0], raw[1], n, e))
        return -1;
    bool sketch = s.n_differ && wants_rank(p) && s.largest < INFINITY;
    if (sketch) {
        memset(&w->sketch, 0, sizeof w->sketch);
        lmc_sketch_add(&w->sketch, w->d, first, n, p->cols);
    }
    merge(j, p, &s, sketch ? &w->sketch : NULL);
    return 0;
}

static void add_equal(struct job *j, struct lmc_pair *p, const uint8_t *raw, size_t n, struct scratch *w)
{
    struct lmc_sums s = {0};

    info_of(p->a)->to_f32(w->a, raw, n);
    memset(w->d, 0, n * sizeof *w->d);
    add_moments(&s, w->a, w->a, w->d, n);
    merge(j, p, &s, NULL);
}

static int piece(void *user, void *scratch, size_t i, uint64_t k, uint64_t *bytes, struct lm_err *e)
{
    struct job *j = user;
    struct lmc_pair *p = &j->pairs[i];
    struct scratch *w = scratch;
    enum lm_dtype da = p->a->it.dtype, db = p->b->it.dtype;
    uint64_t first = k * PIECE, n = p->n - first < PIECE ? p->n - first : PIECE;
    const uint8_t *raw[2] = {NULL, NULL};

    if (j->again && !p->same[k])
        return 0;
    if (read_values(j, p, first, n, w, raw, e))
        return -1;
    if (j->again) {
        add_equal(j, p, raw[0], n, w);
        return 0;
    }
    *bytes = lm_dtype_bytes(da, n) + lm_dtype_bytes(db, n);
    p->same[k] = da == db && memcmp(raw[0], raw[1], lm_dtype_bytes(da, n)) == 0;
    if (p->same[k])
        return 0;
    if (computable(p))
        return compare_piece(j, p, first, n, w, raw, e);
    merge(j, p, &(struct lmc_sums){.n_differ = n, .largest = NAN}, NULL);
    return 0;
}

/* ---- all pairs */

static uint64_t n_pieces(void *user, size_t i)
{
    struct job *j = user;
    const struct lmc_pair *p = &j->pairs[i];

    return j->again && (p->s.n_differ == 0 || !computable(p)) ? 0 : pieces_of(p);
}

static void *scratch_new(void *user)
{
    (void)user;
    return calloc(1, sizeof(struct scratch));
}

static void scratch_free(void *p)
{
    struct scratch *w = p;

    free(w->raw_a.data);
    free(w->raw_b.data);
    free(w->packed.data);
    free(w);
}

static double bits_a_weight(const struct lmc_canon *c)
{
    return 8.0 * info_of(c)->block_bytes / info_of(c)->block_elems;
}

int lmc_compare(struct lmc_pair *pairs, size_t n, const struct lm_model *a, const struct lm_model *b,
                const struct lm_run_options *o, uint64_t *n_bytes, struct lm_err *e)
{
    struct job j = {.pairs = pairs, .n = n, .ma = a, .mb = b, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct lmc_pass pass = {&j, n, 0, n_pieces, piece, scratch_new, scratch_free};
    struct lm_run_options quiet = {.n_threads = o->n_threads, .stop = o->stop};
    int rc;

    for (size_t i = 0; i < n; i++) {
        struct lmc_pair *p = &pairs[i];
        p->same = calloc(pieces_of(p) + 1, 1);
        if (!p->same)
            return lmc_nomem(e);
        p->fine_is_a = bits_a_weight(p->a) >= bits_a_weight(p->b);
        pass.total += lm_dtype_bytes(p->a->it.dtype, p->n) + lm_dtype_bytes(p->b->it.dtype, p->n);
    }
    *n_bytes = pass.total;
    rc = lmc_pass(&pass, o, e);
    j.again = true;
    if (rc == 0)
        rc = lmc_pass(&pass, &quiet, e);
    pthread_mutex_destroy(&j.lock);
    return rc;
}

void lmc_pairs_free(struct lmc_pair *pairs, size_t n)
{
    for (size_t i = 0; pairs && i < n; i++) {
        free(pairs[i].sketch);
        free(pairs[i].same);
    }
    free(pairs);
}

/* ---- what a type costs */

/* Sum of twelve uniform numbers: near enough to a weight. */
static float noise(uint64_t *state)
{
    float sum = 0;

    for (int i = 0; i < 12; i++) {
        *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        sum += (float)(*state >> 40) / 16777216;
    }
    return sum - 6;
}

double lmc_type_error(enum lm_dtype d)
{
    enum { N = 4096 };
    const struct lm_dtype_info *info = lm_dtype_info(d);
    float x[N], y[N];
    uint8_t packed[N * 8];
    uint64_t seed = 1;
    double err = 0, all = 0;

    if (!info->to_f32)
        return 0;
    if (!info->from_f32) /* no quantizer of ours: half a step of this many bits */
        return exp2(1.0 - 8.0 * info->block_bytes / info->block_elems);
    for (int i = 0; i < N; i++)
        x[i] = noise(&seed);
    info->from_f32(packed, x, N);
    info->to_f32(y, packed, N);
    for (int i = 0; i < N; i++) {
        err += (double)(y[i] - x[i]) * (double)(y[i] - x[i]);
        all += (double)x[i] * (double)x[i];
    }
    return sqrt(err / all);
}
