/* Statistics of every tensor in one pass: whole rows in pieces, a few kilobytes
 * decoded at a time. */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#include "convert/audit_parts.h"
#include "convert/hash_pass.h"
#include "convert/stream.h"

enum { PIECE = 1 << 18, SAMPLE_ONE_IN = 16, SAMPLE_FROM = 1 << 20, OUTLIER = 8, MAX_COLS = 1 << 20 };

/* What is gathered of a tensor while it is read. */
struct gather {
    uint64_t rows, cols;   /* rows 0: no rows to speak of */
    float *row_rms;        /* [rows] */
    uint64_t *row_hash;    /* [rows] */
    float *col2;           /* [cols] sums of squares; NULL when too many */
    bool bf16, f16;
};

struct job {
    struct lm_audit *a;
    struct gather *of;
    pthread_mutex_t lock;
    void (*scan)(struct lmc_scan *s, const float *x, size_t n, float *cols);
};

struct scratch {
    struct lmc_room raw, cols;
    float x[LMC_SCAN_MAX];
};

/* ---- pieces */

static uint64_t piece_elems(const struct gather *g)
{
    uint64_t rows = g->rows && g->cols < PIECE ? PIECE / g->cols : 1;

    return g->rows ? rows * g->cols : PIECE;
}

static uint64_t n_pieces(void *user, size_t i)
{
    const struct job *j = user;
    const struct lm_tensor *t = j->a->tensors[i].t;

    if (!lm_dtype_info(t->dtype)->to_f32 || j->a->tensors[i].shared)
        return 0;
    return (t->n_elems + piece_elems(&j->of[i]) - 1) / piece_elems(&j->of[i]);
}

static void *scratch_new(void *user)
{
    (void)user;
    return calloc(1, sizeof(struct scratch));
}

static void scratch_free(void *p)
{
    struct scratch *w = p;

    free(w->raw.data);
    free(w->cols.data);
    free(w);
}

/* ---- one piece */

static void scan_begin(struct lmc_scan *s)
{
    memset(s, 0, sizeof *s);
    s->min = INT32_MAX;
    s->max = INT32_MIN;
    s->small = 0x7f800000;
}

static int32_t ordered(float x)
{
    int32_t v;

    memcpy(&v, &x, 4);
    return v ^ ((v >> 31) & 0x7fffffff);
}

static float from_ordered(int32_t v)
{
    float x;

    v ^= (v >> 31) & 0x7fffffff;
    memcpy(&x, &v, 4);
    return x;
}

void lmc_scan_finite(struct lmc_scan *s, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(x[i]))
            continue;
        int32_t v = ordered(x[i]);
        s->min = v < s->min ? v : s->min;
        s->max = v > s->max ? v : s->max;
        s->sum += (double)x[i];
        s->sum2 += (double)x[i] * (double)x[i];
    }
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static uint64_t fold_hash(const uint32_t *h)
{
    uint64_t x = 0;

    for (int i = 0; i < 64; i++)
        x = mix(x + h[i] + 0x9e3779b97f4a7c15u);
    return x;
}

/* Neighbours mostly fall into the same bin: four tables in turn, so that one
 * count need not wait for the last. */
static void bin(struct lm_stats *s, const float *x, size_t n)
{
    uint32_t t[4][256] = {{0}};

    for (size_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &x[i], 4);
        t[i % 4][u >> 23 & 255] += (u & 0x7fffffff) != 0;
    }
    for (int e = 0; e < 255; e++) { /* 255: not finite */
        int to = e - 127 + 40;
        s->bins[to < 0 ? 0 : to >= LM_AUDIT_BINS ? LM_AUDIT_BINS - 1 : to] += t[0][e] + t[1][e] + t[2][e] + t[3][e];
    }
    s->n_binned += n;
}

/* A scan that is finished, added to the sums. */
static void add_scan(struct lm_stats *s, struct gather *exact, const struct lmc_scan *c, uint64_t n, uint64_t index)
{
    s->n += n;
    s->n_nan += c->n_nan;
    s->n_inf += c->n_inf;
    s->n_zero += c->n_zero;
    s->n_subnormal += c->n_sub;
    s->n_f16_over += c->n_over;
    s->n_f16_flush += c->n_flush;
    s->sum += c->sum;
    s->sum2 += c->sum2;
    if (c->min <= c->max) {
        s->min = fminf(s->min, from_ordered(c->min));
        s->max = fmaxf(s->max, from_ordered(c->max));
    }
    exact->bf16 &= (c->low & 0xffff) == 0;
    exact->f16 &= (c->low & 0x1fff) == 0 && c->n_over + c->n_nan + c->n_inf == 0 && c->small >= 0x38800000;
    s->hash += mix(fold_hash(c->hash) + index * UINT64_C(0xd6e8feb86659fd93));
}

/* One row, or a stretch of a tensor without rows. */
static void scan_row(struct job *j, struct scratch *w, const struct lm_dtype_info *d, const uint8_t *raw, uint64_t n,
                     bool binned, struct lm_stats *s, struct lmc_scan *c, float *cols)
{
    for (uint64_t i = 0; i < n; i += LMC_SCAN_MAX) {
        size_t k = n - i < LMC_SCAN_MAX ? (size_t)(n - i) : LMC_SCAN_MAX;
        d->to_f32(w->x, raw + i / d->block_elems * d->block_bytes, k);
        j->scan(c, w->x, k, cols ? cols + i : NULL);
        if (binned)
            bin(s, w->x, k);
    }
}

static void merge(struct job *j, struct lm_stats *t, struct gather *g, const struct lm_stats *s,
                  const struct gather *exact, const float *cols)
{
    pthread_mutex_lock(&j->lock);
    lm_stats_add(t, s);
    g->bf16 &= exact->bf16;
    g->f16 &= exact->f16;
    for (uint64_t i = 0; cols && i < g->cols; i++)
        g->col2[i] += cols[i];
    pthread_mutex_unlock(&j->lock);
}

static float *fresh_cols(struct scratch *w, const struct gather *g, struct lm_err *e)
{
    if (lmc_room_fit(&w->cols, g->cols * sizeof(float), e))
        return NULL;
    memset(w->cols.data, 0, g->cols * sizeof(float));
    return (float *)(void *)w->cols.data;
}

static bool is_binned(const struct lm_tensor *t, uint64_t row)
{
    return t->n_elems < SAMPLE_FROM || row % SAMPLE_ONE_IN == 0;
}

static int read_piece(const struct job *j, const struct lm_tensor *t, uint64_t first, uint64_t n, struct scratch *w,
                      struct lm_err *e)
{
    size_t bytes = lm_dtype_bytes(t->dtype, n);

    if (lmc_room_fit(&w->raw, bytes, e))
        return -1;
    if (t->packed) {
        lm_tensor_read(t, lm_dtype_bytes(t->dtype, first), bytes, w->raw.data);
        return 0;
    }
    if (lmc_pread_all(lm_model_file(j->a->m, t->file)->fd, w->raw.data, bytes,
                      t->offset + lm_dtype_bytes(t->dtype, first), e))
        return lm_err_prefix(e, "tensor '%s'", t->name);
    if (t->big_endian)
        lm_dtype_swap(t->dtype, w->raw.data, (size_t)n);
    return 0;
}

static int piece(void *user, void *scratch, size_t i, uint64_t p, uint64_t *bytes, struct lm_err *e)
{
    struct job *j = user;
    struct scratch *w = scratch;
    struct gather *g = &j->of[i], exact = {.bf16 = true, .f16 = true};
    const struct lm_tensor *t = j->a->tensors[i].t;
    const struct lm_dtype_info *d = lm_dtype_info(t->dtype);
    uint64_t first = p * piece_elems(g), n = t->n_elems - first < piece_elems(g) ? t->n_elems - first : piece_elems(g);
    uint64_t row = g->rows ? g->cols : n, index = g->rows ? first / g->cols : p;
    struct lm_stats s = {.min = INFINITY, .max = -INFINITY};
    float *cols = NULL;

    *bytes = lm_dtype_bytes(t->dtype, n);
    if (read_piece(j, t, first, n, w, e) || (g->col2 && !(cols = fresh_cols(w, g, e))))
        return -1;
    for (uint64_t at = 0; at < n; at += row, index++) {
        struct lmc_scan c;
        scan_begin(&c);
        scan_row(j, w, d, w->raw.data + lm_dtype_bytes(t->dtype, at), row, is_binned(t, index), &s, &c, cols);
        add_scan(&s, &exact, &c, row, index);
        if (g->rows) {
            g->row_rms[index] = (float)sqrt(c.sum2 / (double)row);
            g->row_hash[index] = fold_hash(c.hash);
        }
    }
    merge(j, &j->a->tensors[i].stats, g, &s, &exact, cols);
    return 0;
}

/* ---- rows and columns */

struct row_key { uint64_t hash, row; };

static int by_hash(const void *a, const void *b)
{
    const struct row_key *x = a, *y = b;

    return x->hash != y->hash ? (x->hash < y->hash ? -1 : 1) : x->row < y->row ? -1 : x->row > y->row;
}

static void count_equal_rows(struct lm_stats *s, const struct gather *g)
{
    struct row_key *keys = malloc((size_t)g->rows * sizeof *keys);
    uint64_t n = 0;

    for (uint64_t r = 0; keys && r < g->rows; r++)
        if (g->row_rms[r] > 0)
            keys[n++] = (struct row_key){g->row_hash[r], r};
    if (n)
        qsort(keys, n, sizeof *keys, by_hash);
    s->first_equal_row = UINT64_MAX;
    for (uint64_t i = 1; i < n; i++) {
        if (keys[i].hash != keys[i - 1].hash)
            continue;
        s->n_equal_rows++;
        s->first_equal_row = keys[i].row < s->first_equal_row ? keys[i].row : s->first_equal_row;
    }
    free(keys);
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

static float median(const float *x, uint64_t n)
{
    float *sorted = malloc((size_t)n * sizeof *sorted), m = 0;

    if (!sorted)
        return 0;
    memcpy(sorted, x, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    m = sorted[n / 2];
    free(sorted);
    return m;
}

static uint64_t count_outliers(const float *x, uint64_t n, uint64_t *first)
{
    float limit = OUTLIER * median(x, n);
    uint64_t found = 0;

    for (uint64_t i = 0; limit > 0 && i < n; i++)
        if (x[i] > limit && found++ == 0 && first)
            *first = i;
    return found;
}

static void finish(struct lm_audit_tensor *t, struct gather *g)
{
    struct lm_stats *s = &t->stats;

    t->has_stats = s->n == t->t->n_elems && s->n > 0;
    if (s->min > s->max)
        s->min = s->max = 0;
    s->largest = fmaxf(fabsf(s->min), fabsf(s->max));
    s->bf16_exact = t->has_stats && g->bf16;
    s->f16_exact = t->has_stats && g->f16;
    s->n_rows = t->has_stats ? g->rows : 0;
    if (!s->n_rows)
        return;
    s->first_zero_row = UINT64_MAX;
    for (uint64_t r = 0; r < g->rows; r++)
        if (g->row_rms[r] == 0 && s->n_zero_rows++ == 0)
            s->first_zero_row = r;
    count_equal_rows(s, g);
    s->n_outlier_rows = count_outliers(g->row_rms, g->rows, &s->first_outlier_row);
    for (uint64_t i = 0; g->col2 && i < g->cols; i++)
        g->col2[i] = sqrtf(g->col2[i] / (float)g->rows);
    s->n_outlier_cols = g->col2 ? count_outliers(g->col2, g->cols, NULL) : 0;
}

static int begin(struct lm_audit *a, struct gather *g, size_t i)
{
    const struct lm_tensor *t = a->tensors[i].t;

    *g = (struct gather){.bf16 = true, .f16 = true};
    a->tensors[i].stats = (struct lm_stats){.min = INFINITY, .max = -INFINITY};
    if (t->n_dims < 2 || t->n_elems == 0 || a->tensors[i].shared || !lm_dtype_info(t->dtype)->to_f32)
        return 0;
    g->cols = t->shape[t->n_dims - 1];
    /* Rows of packed types must be whole blocks to be read one by one. */
    if (g->cols % lm_dtype_info(t->dtype)->block_elems != 0 || g->cols < 2)
        return 0;
    g->rows = t->n_elems / g->cols;
    g->row_rms = calloc((size_t)g->rows, sizeof *g->row_rms);
    g->row_hash = calloc((size_t)g->rows, sizeof *g->row_hash);
    if (g->cols <= MAX_COLS)
        g->col2 = calloc((size_t)g->cols, sizeof *g->col2);
    return g->row_rms && g->row_hash && (g->col2 || g->cols > MAX_COLS) ? 0 : -1;
}

int lmc_audit_stats(struct lm_audit *a, struct lm_err *e)
{
    struct job j = {.a = a, .of = calloc(a->n_tensors + 1, sizeof *j.of), .lock = PTHREAD_MUTEX_INITIALIZER,
                    .scan = lmc_scan_portable};
    struct lmc_pass pass = {&j, a->n_tensors, a->n_bytes, n_pieces, piece, scratch_new, scratch_free};
    int rc = j.of ? 0 : lmc_nomem(e);

#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2"))
        j.scan = lmc_scan_avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi"))
        j.scan = lmc_scan_avx512;
#endif
    for (size_t i = 0; rc == 0 && i < a->n_tensors; i++)
        rc = begin(a, &j.of[i], i) ? lmc_nomem(e) : 0;
    if (rc == 0)
        rc = lmc_pass(&pass, &a->o.run, e);
    for (size_t i = 0; j.of && i < a->n_tensors; i++) {
        if (rc == 0)
            finish(&a->tensors[i], &j.of[i]);
        free(j.of[i].row_rms);
        free(j.of[i].row_hash);
        free(j.of[i].col2);
    }
    free(j.of);
    pthread_mutex_destroy(&j.lock);
    return rc;
}

/* ---- derived numbers */

static double finite_count(const struct lm_stats *s)
{
    uint64_t n = s->n - s->n_nan - s->n_inf;

    return n ? (double)n : 1;
}

double lm_stats_mean(const struct lm_stats *s)
{
    return s->sum / finite_count(s);
}

double lm_stats_rms(const struct lm_stats *s)
{
    return sqrt(s->sum2 / finite_count(s));
}

double lm_stats_std(const struct lm_stats *s)
{
    double m = lm_stats_mean(s), v = s->sum2 / finite_count(s) - m * m;

    return v > 0 ? sqrt(v) : 0;
}

void lm_stats_add(struct lm_stats *t, const struct lm_stats *s)
{
    bool first = t->n == 0;

    t->n += s->n;
    t->n_nan += s->n_nan;
    t->n_inf += s->n_inf;
    t->n_zero += s->n_zero;
    t->n_subnormal += s->n_subnormal;
    t->n_f16_over += s->n_f16_over;
    t->n_f16_flush += s->n_f16_flush;
    t->min = first ? s->min : fminf(t->min, s->min);
    t->max = first ? s->max : fmaxf(t->max, s->max);
    t->largest = fmaxf(t->largest, s->largest);
    t->sum += s->sum;
    t->sum2 += s->sum2;
    for (int i = 0; i < LM_AUDIT_BINS; i++)
        t->bins[i] += s->bins[i];
    t->n_binned += s->n_binned;
    t->hash += s->hash;
    t->bf16_exact = first ? s->bf16_exact : t->bf16_exact && s->bf16_exact;
    t->f16_exact = first ? s->f16_exact : t->f16_exact && s->f16_exact;
    t->n_rows += s->n_rows;
    t->n_zero_rows += s->n_zero_rows;
    t->n_equal_rows += s->n_equal_rows;
    t->n_outlier_rows += s->n_outlier_rows;
    t->n_outlier_cols += s->n_outlier_cols;
}

double lm_stats_bits(const struct lm_stats *s, enum lm_dtype d)
{
    const struct lm_dtype_info *info = lm_dtype_info(d);
    double stored = 8.0 * info->block_bytes / info->block_elems, entropy = 0, n = 0;
    int mantissa = d == LM_BF16 || s->bf16_exact ? 7 : d == LM_F16 || s->f16_exact ? 10 : 23;

    if (info->kind != LM_KIND_FLOAT || s->n == 0)
        return stored;
    for (int i = 0; i < LM_AUDIT_BINS; i++)
        n += (double)s->bins[i];
    for (int i = 0; i < LM_AUDIT_BINS; i++)
        if (s->bins[i])
            entropy -= (double)s->bins[i] / n * log2((double)s->bins[i] / n);
    entropy += 1 + mantissa;
    entropy *= 1 - (double)s->n_zero / (double)s->n;
    return entropy < stored ? entropy : stored;
}
