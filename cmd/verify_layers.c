/* Which layer departs first. Each of B's layers is fed what A's was fed, so
 * that an error is charged to the layer that makes it and not to those that it
 * passes through. */
#include <math.h>
#include <stdlib.h>

#include "cmd/verify.h"

enum { PROBED = 64 }; /* positions that are enough */

/* ---- what dtypes explain */

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
        diff += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
        all += (double)x[i] * x[i];
    }
    return sqrt(diff / all);
}

/* Measured by storing normally distributed numbers, so a new dtype needs no
 * row here. Types that can only be read get what their bits would give. */
double verify_dtype_error(enum lm_dtype d)
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

/* Squared relative error between two tensors of one role. The same dtype
 * explains no difference: nothing was rounded on the way. */
static double pair_error2(const struct lm_tensor *a, const struct lm_tensor *b)
{
    if (!a || !b || a->dtype == b->dtype)
        return 0;
    double ea = verify_dtype_error(a->dtype), eb = verify_dtype_error(b->dtype);
    return ea * ea + eb * eb;
}

/* Over the matrices of a layer (-1: outside layers), weighted by parameters. */
static double layer_error(const struct verify *v, int layer, double *sum2, double *n_params)
{
    const struct lm_binding *a = lm_engine_binding(v->a.engine), *b = lm_engine_binding(v->b.engine);
    double s = 0, n = 0;

    for (int r = 0; r < LM_N_ROLES; r++) {
        const struct lm_tensor *ta = lm_bound_tensor(a, (enum lm_role)r, layer);
        if (!ta || ta->n_dims < 2)
            continue;
        s += (double)ta->n_elems * pair_error2(ta, lm_bound_tensor(b, (enum lm_role)r, layer));
        n += (double)ta->n_elems;
    }
    *sum2 += s;
    *n_params += n;
    return n > 0 ? sqrt(s / n) : 0;
}

/* Quantized models show about one time the error of their weights, for much of
 * it averages out; three leave room for weights that are far from normal.
 * Sums in another order leave 1e-6 or so. */
static double layer_bound(double weight_error)
{
    return 1e-4 + 3 * weight_error;
}

/* KLD grows with the square of the error: twice the square is usual. */
double verify_default_max_kld(double weight_error)
{
    return 1e-6 + 20 * weight_error * weight_error;
}

void verify_find_bounds(struct verify *v)
{
    double sum2 = 0, n = 0;

    for (int i = -1; i < (int)v->n_layers; i++) {
        double w = v->reference ? 0 : layer_error(v, i, &sum2, &n);
        if (v->layers)
            v->layers[i + 1].bound = layer_bound(w);
    }
    v->weight_error = n > 0 ? sqrt(sum2 / n) : 0;
}

/* ---- running */

struct probe {
    struct verify *v;
    struct lm_session *session; /* whose layers are compared */
    float *hidden;              /* [n_layers + 1, n, d] of A, or of the reference */
    float *fed;                 /* [n, d] what the next layer is given */
    size_t n, d;
    double *diff2, *update2;    /* [n_layers + 1] */
};

/* What leaves a layer; -1: what enters the first. */
static float *hidden_at(const struct probe *p, int layer)
{
    return p->hidden + (size_t)(layer + 1) * p->n * p->d;
}

static int check_tap(const struct probe *p, size_t n, size_t width, size_t pos0, struct lm_err *e)
{
    if (pos0 + n <= p->n && width == p->d)
        return 0;
    return lm_err_set(e, LM_LIMIT, "the engine showed hidden states [%zu, %zu] where [%zu, %zu] are expected", pos0 + n,
                      width, p->n, p->d);
}

static int keep_hidden(void *user, enum lm_tap_point point, int layer, const float *x, size_t n, size_t width,
                       size_t pos0, struct lm_err *e)
{
    struct probe *p = user;

    if (check_tap(p, n, width, pos0, e) != 0)
        return -1;
    memcpy(hidden_at(p, point == LM_TAP_INPUT ? -1 : layer) + pos0 * width, x, n * width * sizeof *x);
    return 0;
}

/* The layer gets what A's layer got. One buffer serves the whole run: an engine
 * may have looked at its address already. */
static void feed(struct probe *p, int layer)
{
    if (layer >= (int)p->v->n_layers)
        return;
    memcpy(p->fed, hidden_at(p, layer - 1), p->n * p->d * sizeof *p->fed);
    lm_session_inject(p->session, layer, p->fed);
}

static int compare_hidden(void *user, enum lm_tap_point point, int layer, const float *x, size_t n, size_t width,
                          size_t pos0, struct lm_err *e)
{
    struct probe *p = user;
    int at = point == LM_TAP_INPUT ? -1 : layer;

    if (check_tap(p, n, width, pos0, e) != 0)
        return -1;
    const float *a = hidden_at(p, at) + pos0 * width;
    const float *before = at >= 0 ? hidden_at(p, at - 1) + pos0 * width : NULL;
    for (size_t i = 0; i < n * width; i++) {
        double diff = (double)x[i] - a[i], update = before ? (double)a[i] - before[i] : a[i];
        p->diff2[at + 1] += diff * diff;
        p->update2[at + 1] += update * update;
    }
    if (at >= 0)
        feed(p, at + 1);
    return 0;
}

enum { STATES = 1 << LM_TAP_INPUT | 1 << LM_TAP_LAYER };

static int run_tapped(struct probe *p, struct lm_session *s, lm_tap_fn *fn, struct lm_err *e)
{
    lm_session_rewind(s, 0);
    lm_session_set_tap(s, STATES, fn, p);
    if (fn == compare_hidden)
        feed(p, 0);
    int r = lm_session_eval(s, p->v->ids.ids, p->n, LM_LOGITS_NONE, NULL, e);
    lm_session_set_tap(s, 0, NULL, NULL);
    lm_session_inject(s, 0, NULL);
    lm_session_rewind(s, 0);
    return r;
}

static const struct lm_tensor *reference_state(const struct verify *v, uint32_t i)
{
    char name[40];

    snprintf(name, sizeof name, "hidden_states.%u", i);
    const struct lm_tensor *t = lm_model_find(v->reference, name);
    bool fits = t && t->n_dims >= 2 && t->shape[t->n_dims - 1] == v->d_model && t->n_elems >= v->ids.n * v->d_model;
    return fits ? t : NULL;
}

static int read_reference(struct probe *p, struct lm_err *e)
{
    for (uint32_t i = 0; i <= p->v->n_layers; i++)
        if (lm_tensor_to_f32(reference_state(p->v, i), 0, p->n * p->d, hidden_at(p, (int)i - 1), e) != 0)
            return -1;
    return 0;
}

/* Layers can be compared when both sides have the same stack of them. */
static bool comparable(struct verify *v)
{
    for (uint32_t i = 0; v->reference && i <= v->n_layers; i++)
        if (!reference_state(v, i)) {
            v->why_no_layers = "the reference holds no hidden states of every layer";
            return false;
        }
    if (v->reference)
        return true;
    const struct lm_config *b = lm_engine_config(v->b.engine);
    if (b->n_layers == v->n_layers && b->d_model == v->d_model)
        return true;
    v->why_no_layers = "the models have different layers";
    return false;
}

static void judge(struct verify *v, const struct probe *p)
{
    for (size_t i = 0; i <= v->n_layers; i++) {
        struct verify_layer *l = &v->layers[i];
        l->error = sqrt(p->diff2[i] / fmax(p->update2[i], 1e-300));
        if (!(l->error <= l->bound) && v->first_divergent == VERIFY_NONE)
            v->first_divergent = (int)i - 1;
    }
}

int verify_probe_layers(struct verify *v, struct lm_err *e)
{
    struct probe p = {.v = v, .d = v->d_model, .session = v->reference ? v->a.session : v->b.session};
    size_t n_states = v->n_layers + 1, most = VERIFY_ROOM / (n_states * p.d * sizeof(float));

    v->layers = comparable(v) ? calloc(n_states, sizeof *v->layers) : NULL;
    verify_find_bounds(v);
    if (!v->layers)
        return v->why_no_layers ? 0 : lm_err_set(e, LM_NOMEM, "no memory for the layers");
    p.n = v->ids.n < v->window ? v->ids.n : v->window;
    p.n = p.n < PROBED ? p.n : PROBED;
    p.n = p.n < most ? p.n : most ? most : 1;
    p.hidden = calloc(n_states * p.n, p.d * sizeof *p.hidden);
    p.fed = calloc(p.n, p.d * sizeof *p.fed);
    p.diff2 = calloc(n_states, sizeof *p.diff2);
    p.update2 = calloc(n_states, sizeof *p.update2);
    int r = 0;
    if (!p.hidden || !p.fed || !p.diff2 || !p.update2)
        r = lm_err_set(e, LM_NOMEM, "no memory for the hidden states");
    if (r == 0)
        r = v->reference ? read_reference(&p, e) : run_tapped(&p, v->a.session, keep_hidden, e);
    if (r == 0)
        r = run_tapped(&p, p.session, compare_hidden, e);
    if (r == 0)
        judge(v, &p);
    free(p.hidden);
    free(p.fed);
    free(p.diff2);
    free(p.update2);
    return r;
}
