#include <math.h>
#include <stdlib.h>

#include "convert/diff_values.h"

enum { N_SIGNS = 8192, ROWS = LMC_SKETCH_ROWS, COLS = LMC_SKETCH_COLS };

/* +1 or -1, fixed for good: the same files give the same answer. */
static float sign_of(uint64_t i, uint64_t salt)
{
    uint64_t x = (i % N_SIGNS + salt) * UINT64_C(0x9e3779b97f4a7c15);

    x = (x ^ x >> 32) * UINT64_C(0xd6e8feb86659fd93);
    return x >> 63 ? 1.0f : -1.0f;
}

/* Adds a stretch of one row, whose first element is in column c, to y. Columns
 * share a sign with their neighbours, so that the loop is one vector addition. */
static void add_columns(float *y, const float *d, uint64_t c, size_t n)
{
    for (size_t i = 0; i < n;) {
        uint64_t col = c + i, at = col % COLS;
        size_t k = n - i < COLS - at ? n - i : (size_t)(COLS - at);
        float flip = sign_of(col / COLS, 77);
        const float *x = d + i;
        float *to = y + at;
        for (size_t j = 0; j < k; j++)
            to[j] += flip * x[j];
        i += k;
    }
}

void lmc_sketch_add(struct lmc_sketch *s, const float *d, uint64_t first, size_t n, uint64_t cols)
{
    for (size_t i = 0; i < n;) {
        uint64_t row = (first + i) / cols, c = (first + i) % cols;
        size_t k = n - i < cols - c ? n - i : (size_t)(cols - c);
        float y[COLS] = {0}, flip = sign_of(row, 1);
        double *z = s->z[row % ROWS];
        add_columns(y, d + i, c, k);
        for (int j = 0; j < COLS; j++)
            z[j] += (double)(flip * y[j]);
        i += k;
    }
}

void lmc_sketch_merge(struct lmc_sketch *into, const struct lmc_sketch *from)
{
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < COLS; j++)
            into->z[i][j] += from->z[i][j];
}

/* ---- eigenvalues of Z^T Z */

static void gram(const struct lmc_sketch *s, double (*g)[COLS])
{
    for (int i = 0; i < COLS; i++)
        for (int j = 0; j < COLS; j++)
            g[i][j] = 0;
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < COLS; i++)
            for (int j = 0; j < COLS; j++)
                g[i][j] += s->z[r][i] * s->z[r][j];
}

/* Householder reflections to a tridiagonal matrix: diagonal d, beside it e. */
static void tridiagonal(double (*a)[COLS], double *d, double *e)
{
    double v[COLS], p[COLS];

    for (int k = 0; k < COLS - 2; k++) {
        double alpha = 0, vv = 0, vp = 0;
        for (int i = k + 1; i < COLS; i++)
            alpha += a[i][k] * a[i][k];
        alpha = a[k + 1][k] > 0 ? -sqrt(alpha) : sqrt(alpha);
        for (int i = k + 1; i < COLS; i++)
            v[i] = a[i][k] - (i == k + 1 ? alpha : 0);
        for (int i = k + 1; i < COLS; i++)
            vv += v[i] * v[i];
        e[k] = vv > 0 ? alpha : a[k + 1][k];
        if (!(vv > 0))
            continue;
        for (int i = k + 1; i < COLS; i++) {
            p[i] = 0;
            for (int j = k + 1; j < COLS; j++)
                p[i] += a[i][j] * v[j];
            p[i] *= 2 / vv;
            vp += v[i] * p[i];
        }
        for (int i = k + 1; i < COLS; i++)
            p[i] -= vp / vv * v[i];
        for (int i = k + 1; i < COLS; i++)
            for (int j = k + 1; j < COLS; j++)
                a[i][j] -= v[i] * p[j] + p[i] * v[j];
    }
    for (int i = 0; i < COLS; i++)
        d[i] = a[i][i];
    e[COLS - 2] = a[COLS - 1][COLS - 2];
}

/* Eigenvalues above x, by the signs of a Sturm sequence. */
static uint32_t count_above(const double *d, const double *e, double x)
{
    uint32_t n = 0;
    double q = 1;

    for (int i = 0; i < COLS; i++) {
        double below = i > 0 ? e[i - 1] * e[i - 1] : 0;
        q = d[i] - x - (below > 0 ? below / (q != 0 ? q : 1e-300) : 0);
        n += q > 0;
    }
    return n;
}

static double largest_eigenvalue(const double *d, const double *e)
{
    double lo = 0, hi = 0;

    for (int i = 0; i < COLS; i++)
        hi = fmax(hi, fabs(d[i]) + (i > 0 ? fabs(e[i - 1]) : 0) + (i < COLS - 1 ? fabs(e[i]) : 0));
    for (int i = 0; i < 60; i++) {
        double mid = (lo + hi) / 2;
        if (count_above(d, e, mid) > 0)
            lo = mid;
        else
            hi = mid;
    }
    return hi;
}

/* Largest singular value that noise alone gives the sketch. */
static double noise_edge(uint64_t rows, uint64_t cols, double noise)
{
    double r = rows < ROWS ? (double)rows : ROWS, c = cols < COLS ? (double)cols : COLS;

    return noise * sqrt((double)rows / r * ((double)cols / c)) * (sqrt(r) + sqrt(c));
}

uint32_t lmc_sketch_rank(const struct lmc_sketch *s, uint64_t rows, uint64_t cols, double noise, uint32_t *limit)
{
    double (*g)[COLS] = malloc(COLS * sizeof *g);
    double d[COLS], e[COLS];
    uint32_t rank = 0;

    *limit = (uint32_t)(cols < COLS ? cols : COLS);
    if (rows < *limit)
        *limit = (uint32_t)rows;
    if (!g)
        return 0;
    gram(s, g);
    tridiagonal(g, d, e);
    double top = largest_eigenvalue(d, e), edge = 2 * noise_edge(rows, cols, noise);
    /* The Gram matrix squares: 1e-6 of the largest singular value is what doubles can tell from nothing. */
    if (top > 0)
        rank = count_above(d, e, fmax(edge * edge, top * 1e-12));
    free(g);
    return rank > *limit ? *limit : rank;
}
