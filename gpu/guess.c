/* What was done to a tensor: each usual accident is tried on A's values, and
 * the one that gives B's, within what their types explain, is named. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include "gpu/piece.h"

enum { MOST_ELEMS = 1 << 26, MOST_HEADS = 1024 };

/* Normally distributed weights lose one time the error; outliers may double it. */
double lmi_pair_bound(const struct lm_tensor *a, const struct lm_tensor *b)
{
    return 1e-5 + 2 * lm_pair_error(a, b);
}

static void sum_up(struct lmi_pair *p)
{
    for (uint64_t i = 0; i < p->n_rows * p->a.cols; i++) {
        double x = (double)p->x[i], y = (double)p->y[i];
        p->aa += x * x;
        p->bb += y * y;
        p->ab += x * y;
        p->dd += (y - x) * (y - x);
        p->d1 += y - x;
    }
    p->error = p->dd > 0 || isnan(p->dd) ? sqrt(p->dd / fmax(p->aa, 1e-300)) : 0;
    p->bound = lmi_pair_bound(p->a.part.t, p->b.part.t);
}

int lmi_pair_load(struct lmi_pair *p, struct lm_err *e)
{
    uint64_t most = MOST_ELEMS / p->a.cols > 0 ? MOST_ELEMS / p->a.cols : 1;

    p->step = (p->a.rows + most - 1) / most;
    p->n_rows = (p->a.rows + p->step - 1) / p->step;
    p->x = malloc(p->n_rows * p->a.cols * sizeof *p->x);
    p->y = malloc(p->n_rows * p->a.cols * sizeof *p->y);
    if (!p->x || !p->y)
        return lm_err_set(e, LM_NOMEM, "no memory to compare %s", p->a.part.t->name);
    if (lmi_piece_read(&p->a, 0, p->step, p->n_rows, p->x, e) || lmi_piece_read(&p->b, 0, p->step, p->n_rows, p->y, e))
        return -1;
    sum_up(p);
    return 0;
}

void lmi_pair_free(struct lmi_pair *p)
{
    free(p->x);
    free(p->y);
    p->x = p->y = NULL;
}

static void say(struct lm_finding *f, enum lm_cause cause, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void say(struct lm_finding *f, enum lm_cause cause, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    vsnprintf(f->text, sizeof f->text, format, ap);
    va_end(ap);
    f->cause = cause;
}

/* ---- by the values in place */

/* Where B's is zero and A's is not; what is left must be A's. Stored transposed, a cut runs across rows. */
static bool guess_zeros(const struct lmi_pair *p, struct lm_finding *f)
{
    uint64_t n = p->n_rows * p->a.cols, n_lost = 0;
    double dd = 0, aa = 0;

    if (p->bb == 0 && p->aa > 0) {
        say(f, LM_CAUSE_ZEROED, "every element is zero");
        return true;
    }
    for (uint64_t i = 0; i < n; i++) {
        double x = (double)p->x[i], d = (double)p->y[i] - x;
        n_lost += p->y[i] == 0 && p->x[i] != 0;
        dd += p->y[i] != 0 ? d * d : 0;
        aa += p->y[i] != 0 ? x * x : 0;
    }
    if (n_lost < 2 || !(sqrt(dd) <= p->bound * sqrt(aa)))
        return false;
    say(f, LM_CAUSE_TRUNCATED, "it is cut off: %.4g %% of its elements are zero, the others are A's",
        100 * (double)n_lost / (double)n);
    return true;
}

static bool guess_shift(const struct lmi_pair *p, struct lm_finding *f)
{
    double n = (double)(p->n_rows * p->a.cols), mean = p->d1 / n, spread = p->dd / n - mean * mean;

    if (fabs(fabs(mean) - 1) > 0.01 || !(spread < 1e-4))
        return false;
    say(f, LM_CAUSE_OFF_BY_ONE, "1 is %s every element", mean > 0 ? "added to" : "subtracted from");
    return true;
}

static bool guess_scale(const struct lmi_pair *p, struct lm_finding *f)
{
    double k = p->ab / p->aa, rest = p->bb - 2 * k * p->ab + k * k * p->aa, width = sqrt((double)p->ga->net.config.d_model);
    double tolerance = p->bound + 2 * lm_tensor_error(p->b.part.t); /* the product was rounded, too */

    if (!(p->aa > 0 && p->bb > 0) || !isfinite(k) || !(rest <= tolerance * tolerance * p->bb) ||
        p->n_rows * p->a.cols < 4 || fabs(k - 1) <= tolerance)
        return false;
    bool embedding = p->role == LM_ROLE_TOKEN_EMBD;
    bool root = fabs(k / width - 1) < 0.01 || fabs(k * width - 1) < 0.01;
    say(f, embedding ? LM_CAUSE_EMBED_SCALE : LM_CAUSE_SCALED, "every element is multiplied by %.6g%s", k,
        !root ? "" : k > 1 ? ", the square root of the width" : ", one over the square root of the width");
    return true;
}

/* ---- rows in another order */

/* [2, half] -> [half, 2] within a head, or back. */
static uint64_t permuted(uint64_t row, uint64_t per_head, bool inverse)
{
    uint64_t q = row % per_head, half = per_head / 2;

    return row - q + (inverse ? q % half * 2 + q / half : q % 2 * half + q / 2);
}

/* Row r of B is row permuted(permuted(r, first), second) of A; 0: not. */
struct order { uint64_t first, second; bool first_inverse, second_inverse; };

static double order_error(const struct lmi_pair *p, const struct order *o)
{
    double dd = 0, aa = 0;
    uint64_t cols = p->a.cols;

    for (uint64_t r = 0; r < p->n_rows; r++) {
        uint64_t s = permuted(r, o->first, o->first_inverse);
        s = o->second ? permuted(s, o->second, o->second_inverse) : s;
        const float *x = p->x + s * cols, *y = p->y + r * cols;
        for (uint64_t i = 0; i < cols; i++) {
            double d = (double)y[i] - (double)x[i];
            dd += d * d;
            aa += (double)x[i] * (double)x[i];
        }
        if (r >= 16 && dd > 4 * p->bound * p->bound * aa && dd > 0.25 * aa)
            return INFINITY;
    }
    return aa > 0 ? sqrt(dd / aa) : INFINITY;
}

static bool is_order(const struct lmi_pair *p, uint64_t first, bool first_inverse, uint64_t second, bool second_inverse)
{
    struct order o = {first, second, first_inverse, second_inverse};

    return order_error(p, &o) <= p->bound;
}

static bool guess_heads(const struct lmi_pair *p, uint64_t d, bool gguf, struct lm_finding *f)
{
    for (uint64_t heads = 1; heads <= MOST_HEADS && heads * 4 <= p->a.rows; heads++) {
        uint64_t other = p->a.rows / heads;
        if (p->a.rows % (2 * heads) || other == d)
            continue;
        /* GGUF: undone over the right heads after having been done over others; else the reverse. */
        if (!is_order(p, gguf ? d : other, true, gguf ? other : d, false))
            continue;
        say(f, LM_CAUSE_WRONG_HEADS, "its rows are permuted with %llu heads instead of %llu", (unsigned long long)heads,
            (unsigned long long)(p->a.rows / d));
        return true;
    }
    return false;
}

static uint64_t rotary_width(const struct lmi_pair *p)
{
    switch (p->role) {
    case LM_ROLE_ATTN_Q: case LM_ROLE_ATTN_K: case LM_ROLE_ATTN_Q_B: case LM_ROLE_ATTN_K_B:
    case LM_ROLE_ATTN_Q_NORM: case LM_ROLE_ATTN_K_NORM: return p->ga->net.config.d_head;
    default: return 0;
    }
}

static bool guess_order(const struct lmi_pair *p, struct lm_finding *f)
{
    uint64_t d = rotary_width(p);
    const struct lm_arch_row *row = p->b.part.row;
    bool gguf = p->b.heads > 0, due = row && (row->transform == LM_T_PERMUTE_Q || row->transform == LM_T_PERMUTE_K);

    if (d < 4 || d % 2 || p->a.rows % d || p->step != 1)
        return false;
    bool done = is_order(p, d, false, 0, false), undone = is_order(p, d, true, 0, false);
    if (gguf && undone)
        say(f, LM_CAUSE_NOT_PERMUTED, "the rotary permutation of its heads' rows is missing");
    else if (gguf && done)
        say(f, LM_CAUSE_PERMUTED_TWICE, "the rotary permutation of its heads' rows is applied twice");
    else if (due && done)
        say(f, LM_CAUSE_NOT_PERMUTED, "its rows are still in GGUF's order: the rotary permutation is not undone");
    else if (due && undone)
        say(f, LM_CAUSE_PERMUTED_TWICE, "the rotary permutation of its rows is undone though it was not there, or twice");
    else if (done || undone)
        say(f, LM_CAUSE_PERMUTED_TWICE, "its heads' rows are permuted, though %s keeps them as they are",
            p->gb->net.config.arch->name);
    else
        return guess_heads(p, d, gguf, f);
    return true;
}

static bool guess_transposed(const struct lmi_pair *p, struct lm_finding *f)
{
    uint64_t n = p->a.rows;
    double dd = 0;

    if (n != p->a.cols || n < 2 || p->step != 1)
        return false;
    for (uint64_t r = 0; r < n; r++) {
        for (uint64_t i = 0; i < n; i++) {
            double d = (double)p->y[r * n + i] - (double)p->x[i * n + r];
            dd += d * d;
        }
        if (dd > p->bound * p->bound * p->aa)
            return false;
    }
    say(f, LM_CAUSE_TRANSPOSED, "it is transposed");
    return true;
}

/* ---- another tensor's values */

enum { STARTING = 64 };

/* Does B's begin as that piece does? A row, or as many elements of a vector. */
static bool begins_as(const struct lmi_pair *p, const struct lmi_piece *other)
{
    uint64_t n = other->cols > 1 ? 1 : other->rows < STARTING ? other->rows : STARTING;
    struct lm_err ignored;
    float *x = malloc(n * other->cols * sizeof *x);
    double dd = 0, aa = 0;

    if (!x || lmi_piece_read(other, 0, 1, n, x, &ignored) != 0)
        dd = INFINITY;
    for (uint64_t i = 0; dd < INFINITY && i < n * other->cols; i++) {
        double d = (double)p->y[i] - (double)x[i];
        dd += d * d;
        aa += (double)x[i] * (double)x[i];
    }
    free(x);
    return dd <= 4 * p->bound * p->bound * aa && aa > 0;
}

static bool is_piece(const struct lmi_pair *p, const struct lmi_piece *other)
{
    struct lmi_pair q = *p;
    struct lm_err ignored;

    if (other->rows != p->a.rows || other->cols != p->a.cols || !begins_as(p, other))
        return false;
    q.a = *other;
    q.x = q.y = NULL;
    q.aa = q.bb = q.ab = q.dd = q.d1 = 0;
    bool same = lmi_pair_load(&q, &ignored) == 0 && q.error <= q.bound && q.aa > 0;
    lmi_pair_free(&q);
    return same;
}

static bool holds(const struct lmi_pair *p, enum lm_role role, int layer, uint32_t index)
{
    struct lmi_piece other;

    return lmi_piece_of(p->ga, role, layer, index, &other) && is_piece(p, &other);
}

static bool guess_gate_up(const struct lmi_pair *p, struct lm_finding *f)
{
    static const enum lm_role pairs[][2] = {
        {LM_ROLE_FFN_GATE, LM_ROLE_FFN_UP},     {LM_ROLE_FFN_GATE_B, LM_ROLE_FFN_UP_B},
        {LM_ROLE_GATE_EXPS, LM_ROLE_UP_EXPS},   {LM_ROLE_GATE_EXPS_B, LM_ROLE_UP_EXPS_B},
        {LM_ROLE_GATE_SHEXP, LM_ROLE_UP_SHEXP},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        for (int k = 0; k < 2; k++)
            if (p->role == pairs[i][k] && holds(p, pairs[i][!k], p->layer, p->index)) {
                say(f, LM_CAUSE_GATE_UP_SWAPPED, "gate and up are swapped: it holds A's %s", lm_role_name(pairs[i][!k]));
                return true;
            }
    return false;
}

static bool guess_expert(const struct lmi_pair *p, struct lm_finding *f)
{
    uint32_t n = lmi_piece_count(&p->ga->net.config, p->role);

    for (uint32_t i = 0; i < n && n > 1; i++)
        if (i != p->index && holds(p, p->role, p->layer, i)) {
            bool heads = p->role == LM_ROLE_MLA_K_B || p->role == LM_ROLE_MLA_V_B;
            say(f, heads ? LM_CAUSE_MISPLACED : LM_CAUSE_EXPERT_ORDER, "the order of %s is wrong: %u is A's %u",
                heads ? "heads" : "experts", p->index, i);
            return true;
        }
    return false;
}

static bool same_row(const struct lmi_pair *p, uint64_t y, uint64_t x)
{
    double dd = 0, aa = 0;

    for (uint64_t i = 0; i < p->a.cols; i++) {
        double a = (double)p->x[x * p->a.cols + i], d = (double)p->y[y * p->a.cols + i] - a;
        dd += d * d;
        aa += a * a;
    }
    return sqrt(dd) <= 2 * p->bound * sqrt(aa);
}

/* The router's rows are its experts. */
static bool guess_router(const struct lmi_pair *p, struct lm_finding *f)
{
    bool router = p->role == LM_ROLE_ROUTER || p->role == LM_ROLE_ROUTER_B || p->role == LM_ROLE_ROUTER_CORRECTION;
    uint64_t moved_from = 0, moved_to = 0;
    bool moved = false;

    if (!router || p->step != 1)
        return false;
    for (uint64_t r = 0; r < p->n_rows; r++) {
        uint64_t s = r;
        if (same_row(p, r, r))
            continue;
        for (s = 0; s < p->n_rows && !same_row(p, r, s); s++)
            ;
        if (s == p->n_rows)
            return false;
        if (!moved) {
            moved_to = r;
            moved_from = s;
        }
        moved = true;
    }
    if (!moved)
        return false;
    say(f, LM_CAUSE_EXPERT_ORDER, "the order of experts is wrong: %llu is A's %llu", (unsigned long long)moved_to,
        (unsigned long long)moved_from);
    return true;
}

static bool guess_place(const struct lmi_pair *p, struct lm_finding *f)
{
    int n = (int)p->ga->net.config.n_layers;

    if (p->role == LM_ROLE_OUTPUT && holds(p, LM_ROLE_TOKEN_EMBD, -1, 0)) {
        say(f, LM_CAUSE_TIED_HEAD, "it holds the embedding, but A's output matrix is one of its own");
        return true;
    }
    for (int r = 0; r < LM_N_ROLES; r++)
        if ((enum lm_role)r != p->role && holds(p, (enum lm_role)r, p->layer, p->index)) {
            say(f, LM_CAUSE_MISPLACED, "it holds A's %s", lm_role_name((enum lm_role)r));
            return true;
        }
    for (int i = 0; p->layer >= 0 && i < n; i++)
        if (i != p->layer && holds(p, p->role, i, p->index)) {
            say(f, LM_CAUSE_MISPLACED, "it is that of layer %d", i);
            return true;
        }
    return false;
}

void lmi_guess(const struct lmi_pair *p, struct lm_finding *f)
{
    double cosine = p->aa > 0 && p->bb > 0 ? p->ab / sqrt(p->aa * p->bb) : 0;

    if (guess_zeros(p, f) || guess_shift(p, f) || guess_scale(p, f) || guess_order(p, f) || guess_transposed(p, f) ||
        guess_gate_up(p, f) || guess_expert(p, f) || guess_router(p, f) || guess_place(p, f))
        return;
    if (isnan(p->bb))
        say(f, LM_CAUSE_UNEXPLAINED, "it holds values that are not numbers");
    else
        say(f, LM_CAUSE_UNEXPLAINED, "it differs by %.2g of its norm (its types explain %.2g; cosine %.4f) in no usual way",
            p->error, p->bound, cosine);
}
