/* The usual accidents of conversion, tried on a pair that differs. */
#include <math.h>
#include <stdlib.h>

#include "convert/diff_values.h"
#include "convert/plan.h"

enum { MAX_ELEMS = 1 << 26 };

/* ---- rows in another order: row r of B is row `source` of A */

struct order { uint64_t heads, from_heads, rows; bool inverse; };

/* [2, half] -> [half, 2] within a head, or back. */
static uint64_t permuted(uint64_t row, uint64_t per_head, bool inverse)
{
    uint64_t head = row / per_head, q = row % per_head, half = per_head / 2;

    return head * per_head + (inverse ? (q % half) * 2 + q / half : (q % 2) * half + q / 2);
}

static uint64_t source_row(const struct order *o, uint64_t row)
{
    row = permuted(row, o->rows / o->heads, o->inverse);
    return o->from_heads ? permuted(row, o->rows / o->from_heads, true) : row;
}

static double row_order_error(const float *a, const float *b, uint64_t cols, const struct order *o)
{
    double dd = 0, aa = 0;

    for (uint64_t r = 0; r < o->rows; r++) {
        const float *x = a + source_row(o, r) * cols, *y = b + r * cols;
        for (uint64_t i = 0; i < cols; i++) {
            double d = (double)y[i] - (double)x[i];
            dd += d * d;
            aa += (double)x[i] * (double)x[i];
        }
        if (r >= 16 && dd > 0.25 * aa)
            return INFINITY;
    }
    return aa > 0 ? sqrt(dd / aa) : INFINITY;
}

static bool fits(uint64_t rows, uint64_t heads)
{
    return heads > 0 && rows % (2 * heads) == 0 && rows / heads > 2;
}

static const char *guess_order(const struct lmc_pair *p, const struct lm_config *c, const float *a, const float *b,
                               double tolerance, struct lm_arena *arena)
{
    bool is_q = p->a->it.role == LM_ROLE_ATTN_Q || p->a->it.role == LM_ROLE_ATTN_Q_B;
    uint64_t own = is_q ? c->n_heads : c->n_kv_heads, other = is_q ? c->n_kv_heads : c->n_heads;
    struct order inverse = {own, 0, p->rows, true}, twice = {own, 0, p->rows, false}, wrong = {other, own, p->rows, false};

    if (fits(p->rows, own) && row_order_error(a, b, p->cols, &inverse) <= tolerance)
        return "the rotary permutation of its heads' rows is missing (or undone)";
    if (fits(p->rows, own) && row_order_error(a, b, p->cols, &twice) <= tolerance)
        return "the rotary permutation of its heads' rows is applied once too often";
    if (own != other && fits(p->rows, own) && fits(p->rows, other) &&
        row_order_error(a, b, p->cols, &wrong) <= tolerance)
        return lmc_print(arena, "its rows are permuted with %llu heads instead of %llu", (unsigned long long)other,
                         (unsigned long long)own);
    return NULL;
}

static bool is_transposed(const struct lmc_pair *p, const float *a, const float *b, double tolerance)
{
    double dd = 0, aa = 0;

    if (p->rows != p->cols)
        return false;
    for (uint64_t r = 0; r < p->rows; r++) {
        for (uint64_t i = 0; i < p->cols; i++) {
            double x = (double)a[i * p->rows + r], d = (double)b[r * p->cols + i] - x;
            dd += d * d;
            aa += x * x;
        }
        if (r >= 16 && dd > 0.25 * aa)
            return false;
    }
    return aa > 0 && sqrt(dd / aa) <= tolerance;
}

/* ---- by the sums alone */

static const char *guess_shift(const struct lmc_pair *p)
{
    double n = (double)p->s.n_summed, mean = p->s.sum_d / n, spread = p->s.dd / n - mean * mean;

    if (fabs(fabs(mean) - 1) > 0.01 || !(spread < 1e-4))
        return NULL;
    return mean > 0 ? "1 is added to every element" : "1 is subtracted from every element";
}

static const char *guess_scale(const struct lmc_pair *p, double tolerance, struct lm_arena *arena)
{
    double k = p->s.ab / p->s.aa, rest = p->s.bb - 2 * k * p->s.ab + k * k * p->s.aa;

    if (!(p->s.aa > 0 && p->s.bb > 0) || !isfinite(k) || rest > tolerance * tolerance * p->s.bb || p->n < 8 ||
        fabs(k - 1) <= tolerance)
        return NULL;
    return lmc_print(arena, "every element is multiplied by %.6g", k);
}

static const char *guess_moves(const struct lmc_pair *p, const struct lmc_canons *a, const struct lmc_canons *b,
                               double tolerance, struct lm_arena *arena)
{
    enum lm_role r = p->a->it.role;
    bool qk = r == LM_ROLE_ATTN_Q || r == LM_ROLE_ATTN_K || r == LM_ROLE_ATTN_Q_B || r == LM_ROLE_ATTN_K_B;
    float *x = malloc(p->n * sizeof *x), *y = malloc(p->n * sizeof *y);
    struct lmc_room room = {0};
    const char *found = NULL;

    if (x && y && lmc_canon_read_f32(a->m, p->a, 0, p->n, &room, x, NULL, NULL) == 0 &&
        lmc_canon_read_f32(b->m, p->b, 0, p->n, &room, y, NULL, NULL) == 0) {
        if (qk && a->has_config)
            found = guess_order(p, &a->config, x, y, tolerance, arena);
        if (!found && is_transposed(p, x, y, tolerance))
            found = "it is transposed";
    }
    free(room.data);
    free(x);
    free(y);
    return found;
}

const char *lmc_guess(const struct lmc_pair *p, const struct lmc_canons *a, const struct lmc_canons *b,
                      double tolerance, struct lm_arena *arena)
{
    const char *found = guess_shift(p);
    double cosine = p->s.aa > 0 && p->s.bb > 0 ? p->s.ab / sqrt(p->s.aa * p->s.bb) : 0;

    if (!found)
        found = guess_scale(p, tolerance, arena);
    /* Moved rows leave a cosine far from 1; anything nearer is not worth the memory. */
    if (!found && p->n <= MAX_ELEMS && cosine < 0.98)
        found = guess_moves(p, a, b, tolerance, arena);
    return found;
}
