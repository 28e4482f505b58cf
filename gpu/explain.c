/* How much of a difference the types of the weights explain. */
#include <math.h>
#include <string.h>
#include "gpu/compare.h"

/* A fixed sequence of normally distributed numbers. */
static void gaussian(float *x, size_t n)
{
    uint64_t state = 1;

    for (size_t i = 0; i < n; i++) {
        double u[2];
        for (int k = 0; k < 2; k++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            u[k] = ((double)(state >> 11) + 0.5) / 9007199254740992.0;
        }
        x[i] = (float)(sqrt(-2 * log(u[0])) * cos(6.283185307179586 * u[1]));
    }
}

static double relative_error(const float *x, const float *y, size_t n)
{
    double diff = 0, all = 0;

    for (size_t i = 0; i < n; i++) {
        diff += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        all += (double)x[i] * (double)x[i];
    }
    return sqrt(diff / all);
}

/* Measured by storing normally distributed numbers, so a new dtype needs no
 * row here. Types that can only be read get what their bits would give. */
double lm_dtype_error(enum lm_dtype d)
{
    enum { N = 4096 };
    static double known[LM_N_DTYPES];
    static float x[N], y[N];
    static uint8_t stored[N * 8];
    const struct lm_dtype_info *info = lm_dtype_info(d);

    if (known[d] > 0)
        return known[d];
    if (!info->from_f32 || !info->to_f32 || lm_dtype_bytes(d, N) == 0)
        return known[d] = 2 * pow(2, -8.0 * info->block_bytes / info->block_elems);
    gaussian(x, N);
    for (size_t i = 0; i < N; i++)
        x[i] *= 0.02f; /* the usual spread of weights: it matters to types of few exponents */
    info->from_f32(stored, x, N);
    info->to_f32(y, stored, N);
    return known[d] = fmax(relative_error(x, y, N), 1e-8);
}

/* Codes of n bits lie evenly over what the largest of `span` normal numbers
 * needs, which is about sqrt(2 ln span); rounding leaves a step / sqrt(12). */
double lm_tensor_error(const struct lm_tensor *t)
{
    unsigned bits;
    uint64_t span;

    if (t->dtype != LM_F32 || !lm_tensor_coarseness(t, &bits, &span))
        return lm_dtype_error(t->dtype);
    if (bits == 0)
        return lm_dtype_error(lm_tensor_member(t, 0)->dtype);
    return 2 * sqrt(2 * log((double)(span < 2 ? 2 : span))) / (pow(2, bits) - 1) / sqrt(12);
}

static bool stored_alike(const struct lm_tensor *a, const struct lm_tensor *b)
{
    const char *x = lm_tensor_scheme(a), *y = lm_tensor_scheme(b);

    return a->dtype == b->dtype && (!y || (x && strcmp(x, y) == 0));
}

double lm_pair_error(const struct lm_tensor *a, const struct lm_tensor *b)
{
    return !a || !b || stored_alike(a, b) ? 0 : hypot(lm_dtype_error(a->dtype), lm_tensor_error(b));
}

/* What stands for a role of A in B: one may have in one tensor what the other has in several. */
static const struct lm_tensor *counterpart(const struct lm_binding *b, enum lm_role r, int layer)
{
    static const enum lm_role kin[][2] = {
        {LM_ROLE_ATTN_QKV, LM_ROLE_ATTN_Q}, {LM_ROLE_ATTN_Q, LM_ROLE_ATTN_QKV}, {LM_ROLE_ATTN_K, LM_ROLE_ATTN_QKV},
        {LM_ROLE_ATTN_V, LM_ROLE_ATTN_QKV}, {LM_ROLE_FFN_GATE_UP, LM_ROLE_FFN_UP}, {LM_ROLE_FFN_GATE, LM_ROLE_FFN_GATE_UP},
        {LM_ROLE_FFN_UP, LM_ROLE_FFN_GATE_UP}, {LM_ROLE_OUTPUT, LM_ROLE_TOKEN_EMBD}};
    const struct lm_tensor *t = lm_bound_tensor(b, r, layer);

    for (size_t i = 0; !t && i < sizeof kin / sizeof *kin; i++)
        t = kin[i][0] == r ? lm_bound_tensor(b, kin[i][1], layer) : NULL;
    return t;
}

/* Weighted by parameters. */
static void add_layer(const struct lm_side *sa, const struct lm_side *sb, int layer, double *sum2, double *n_params)
{
    const struct lm_binding *a = lm_engine_binding(sa->engine), *b = lm_engine_binding(sb->engine);

    for (int r = 0; r < LM_N_ROLES; r++) {
        const struct lm_tensor *ta = lm_bound_tensor(a, (enum lm_role)r, layer);
        if (!ta || ta->n_dims < 2)
            continue;
        double e = lm_pair_error(ta, counterpart(b, (enum lm_role)r, layer));
        *sum2 += (double)ta->n_elems * e * e;
        *n_params += (double)ta->n_elems;
    }
}

double lm_explained_error(const struct lm_side *a, const struct lm_side *b, int layer)
{
    double sum2 = 0, n = 0;
    int n_layers = (int)lm_engine_config(a->engine)->n_layers;

    if (layer < n_layers)
        add_layer(a, b, layer, &sum2, &n);
    for (int i = -1; layer >= n_layers && i < n_layers; i++)
        add_layer(a, b, i, &sum2, &n);
    return n > 0 ? sqrt(sum2 / n) : 0;
}

/* Quantized models show about one time the error of their weights, for much of
 * it averages out; three leave room for weights that are far from normal.
 * Sums in another order leave 1e-6 or so. */
double lm_layer_bound(double weight_error)
{
    return 1e-4 + 3 * weight_error;
}

/* KLD grows with the square of the error: twice the square is usual. */
double lm_kld_bound(double weight_error)
{
    return 1e-6 + 20 * weight_error * weight_error;
}
