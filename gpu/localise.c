/* Where B departs from A.  Each of B's layers is fed what A's was fed, so that
 * an error is charged to the layer that makes it and not to those that it
 * passes through. */
#include <math.h>
#include <stdlib.h>
#include "gpu/compare.h"
#include "gpu/net.h"

const char *lm_stage_name(enum lm_stage s)
{
    static const char *const names[LM_N_STAGES] = {
        [LM_STAGE_INPUT] = "input", [LM_STAGE_Q] = "queries", [LM_STAGE_K] = "keys", [LM_STAGE_V] = "values",
        [LM_STAGE_WEIGHTS] = "attention weights", [LM_STAGE_ATTN] = "residual after attention",
        [LM_STAGE_LAYER] = "residual after feed-forward"};

    return s < LM_N_STAGES ? names[s] : "none";
}

/* ---- layers */

struct walk {
    struct lm_session *session;
    uint32_t n_layers;
    size_t n, d;
    float *keep;               /* [n_layers + 1, n, d], or NULL when comparing */
    const float *hidden;       /* the same of A */
    float *fed;                /* [n, d] */
    double *diff2, *update2;   /* [n_layers + 1] */
};

static int check_tap(const struct walk *w, size_t n, size_t width, size_t pos0, struct lm_err *e)
{
    if (pos0 + n <= w->n && width == w->d)
        return 0;
    return lm_err_set(e, LM_LIMIT, "the engine showed hidden states [%zu, %zu] where [%zu, %zu] are expected", pos0 + n,
                      width, w->n, w->d);
}

static int keep_hidden(void *user, enum lm_tap_point point, int layer, const float *x, size_t n, size_t width,
                       size_t pos0, struct lm_err *e)
{
    struct walk *w = user;
    size_t row = point == LM_TAP_INPUT ? 0 : (size_t)layer + 1;

    if (check_tap(w, n, width, pos0, e) != 0)
        return -1;
    memcpy(w->keep + (row * w->n + pos0) * w->d, x, n * width * sizeof *x);
    return 0;
}

/* One buffer serves the whole run: an engine may have looked at its address already. */
static void feed(struct walk *w, size_t layer)
{
    if (layer >= w->n_layers)
        return;
    memcpy(w->fed, w->hidden + layer * w->n * w->d, w->n * w->d * sizeof *w->fed);
    lm_session_inject(w->session, (int)layer, w->fed);
}

static int compare_hidden(void *user, enum lm_tap_point point, int layer, const float *x, size_t n, size_t width,
                          size_t pos0, struct lm_err *e)
{
    struct walk *w = user;
    size_t row = point == LM_TAP_INPUT ? 0 : (size_t)layer + 1;

    if (check_tap(w, n, width, pos0, e) != 0)
        return -1;
    const float *a = w->hidden + (row * w->n + pos0) * w->d, *before = row > 0 ? a - w->n * w->d : NULL;
    for (size_t i = 0; i < n * width; i++) {
        double diff = (double)x[i] - (double)a[i], update = (double)a[i] - (before ? (double)before[i] : 0);
        w->diff2[row] += diff * diff;
        w->update2[row] += update * update;
    }
    if (row > 0)
        feed(w, row);
    return 0;
}

static int run_tapped(const struct lm_side *s, unsigned mask, lm_tap_fn *fn, void *user, const int32_t *ids, size_t n,
                      struct lm_err *e)
{
    lm_session_rewind(s->session, 0);
    lm_session_set_tap(s->session, mask, fn, user);
    int r = lm_session_eval(s->session, ids, n, LM_LOGITS_NONE, NULL, e);
    lm_session_set_tap(s->session, 0, NULL, NULL);
    lm_session_inject(s->session, 0, NULL);
    lm_session_rewind(s->session, 0);
    return r;
}

enum { STATES = 1 << LM_TAP_INPUT | 1 << LM_TAP_LAYER };

int lm_hidden_keep(const struct lm_side *s, const int32_t *ids, size_t n, float *hidden, struct lm_err *e)
{
    struct walk w = {.n = n, .d = lm_engine_config(s->engine)->d_model, .keep = hidden};

    return run_tapped(s, STATES, keep_hidden, &w, ids, n, e);
}

/* Chunks would be fed one after the other, each through all layers. */
enum { MOST_FED = 512 };

int lm_layers_compare(const struct lm_side *b, const int32_t *ids, size_t n, const float *hidden,
                      struct lm_layer_error *out, struct lm_err *e)
{
    const struct lm_config *c = lm_engine_config(b->engine);
    struct walk w = {.session = b->session, .n_layers = c->n_layers, .n = n, .d = c->d_model, .hidden = hidden};
    size_t rows = (size_t)c->n_layers + 1;
    int r = n <= MOST_FED ? 0 : lm_err_set(e, LM_LIMIT, "at most %d positions are fed to a layer", MOST_FED);

    w.fed = malloc(n * w.d * sizeof *w.fed);
    w.diff2 = calloc(2 * rows, sizeof *w.diff2);
    w.update2 = w.diff2 ? w.diff2 + rows : NULL;
    if (r == 0 && (!w.fed || !w.diff2))
        r = lm_err_set(e, LM_NOMEM, "no memory for the hidden states");
    if (r == 0) {
        feed(&w, 0);
        r = run_tapped(b, STATES, compare_hidden, &w, ids, n, e);
    }
    for (size_t i = 0; r == 0 && i < rows; i++)
        out[i].error = sqrt(w.diff2[i] / fmax(w.update2[i], 1e-300));
    free(w.fed);
    free(w.diff2);
    return r;
}

int lm_layers_first(const struct lm_layer_error *l, uint32_t n_layers)
{
    for (uint32_t i = 0; i <= n_layers; i++)
        if (!(l[i].error <= l[i].bound)) /* so that NaN departs */
            return (int)i - 1;
    return LM_NOWHERE;
}

/* ---- within a layer */

/* What the taps of one layer showed; rows are positions, of attention weights heads. */
struct seen { float *x[LM_N_STAGES]; size_t rows[LM_N_STAGES], width[LM_N_STAGES]; };

struct look { int layer; size_t n; struct seen *seen; };

static enum lm_stage stage_of(enum lm_tap_point p)
{
    switch (p) {
    case LM_TAP_Q: return LM_STAGE_Q;
    case LM_TAP_K: return LM_STAGE_K;
    case LM_TAP_V: return LM_STAGE_V;
    case LM_TAP_PROBS: return LM_STAGE_WEIGHTS;
    case LM_TAP_ATTN: return LM_STAGE_ATTN;
    case LM_TAP_LAYER: return LM_STAGE_LAYER;
    default: return LM_STAGE_INPUT;
    }
}

static int look_at(void *user, enum lm_tap_point point, int layer, const float *x, size_t n, size_t width, size_t pos0,
                   struct lm_err *e)
{
    struct look *l = user;
    enum lm_stage s = stage_of(point);
    bool weights = point == LM_TAP_PROBS;
    size_t rows = weights ? n : l->n;

    if (layer != l->layer)
        return 0;
    if (weights && width < l->n)
        return 0; /* the last token is in a later chunk */
    if (!weights && pos0 + n > l->n)
        return lm_err_set(e, LM_LIMIT, "the engine showed %zu rows where %zu are expected", pos0 + n, l->n);
    if (!l->seen->x[s] && !(l->seen->x[s] = calloc(rows * width, sizeof *x)))
        return lm_err_set(e, LM_NOMEM, "no memory for what a layer shows");
    l->seen->rows[s] = rows;
    l->seen->width[s] = width;
    memcpy(l->seen->x[s] + (weights ? 0 : pos0 * width), x, n * width * sizeof *x);
    return 0;
}

/* Adjacent pairs as half-split ones, so that both can be compared: row (2 j + h) -> (h, j). */
static void straighten(float *x, size_t rows, size_t width, size_t d_head)
{
    float *old = malloc(d_head * sizeof *old);

    for (size_t i = 0; old && i < rows * (width / d_head); i++, x += d_head) {
        memcpy(old, x, d_head * sizeof *old);
        for (size_t k = 0; k < d_head; k++)
            x[k % 2 * (d_head / 2) + k / 2] = old[k];
    }
    free(old);
}

static int look_into(const struct lm_side *s, const float *input, int layer, const int32_t *ids, size_t n,
                     struct seen *seen, struct lm_err *e)
{
    const struct lm_net *net = &s->engine->net;
    struct look l = {layer, n, seen};
    unsigned mask = 1u << LM_TAP_Q | 1u << LM_TAP_K | 1u << LM_TAP_V | 1u << LM_TAP_PROBS | 1u << LM_TAP_ATTN |
                    1u << LM_TAP_LAYER;

    lm_session_inject(s->session, layer, input);
    if (run_tapped(s, mask, look_at, &l, ids, n, e) != 0)
        return -1;
    for (enum lm_stage q = LM_STAGE_Q; q <= LM_STAGE_K && net->rope == LM_ROPE_ADJACENT && !net->config.kv_lora; q++)
        straighten(seen->x[q], n, seen->width[q], net->d_k);
    return 0;
}

static double explained(const struct lm_side *a, const struct lm_side *b, enum lm_role role, int layer)
{
    const struct lm_tensor *x = lm_bound_tensor(lm_engine_binding(a->engine), role, layer);
    const struct lm_tensor *y = lm_bound_tensor(lm_engine_binding(b->engine), role, layer);

    return lm_pair_error(x, y);
}

/* Attention weights are exponentials of scores that are off by as much as queries and keys. */
static void stage_bounds(const struct lm_side *a, const struct lm_side *b, int layer, double bound[LM_N_STAGES])
{
    double whole = lm_explained_error(a, b, layer);
    static const enum lm_role roles[] = {[LM_STAGE_Q] = LM_ROLE_ATTN_Q, [LM_STAGE_K] = LM_ROLE_ATTN_K,
                                         [LM_STAGE_V] = LM_ROLE_ATTN_V};

    for (int s = 0; s < LM_N_STAGES; s++) {
        double w = s >= LM_STAGE_Q && s <= LM_STAGE_V ? fmax(whole, explained(a, b, roles[s], layer)) : whole;
        bound[s] = lm_layer_bound(s == LM_STAGE_WEIGHTS ? 4 * w : w);
    }
}

/* Norm of y - x over that of x - base, over columns [from, from + n) of a row; base may be NULL. */
static double part_error(const float *x, const float *y, const float *base, size_t from, size_t n)
{
    double diff = 0, all = 0;

    for (size_t i = from; i < from + n; i++) {
        double d = (double)y[i] - (double)x[i], u = (double)x[i] - (base ? (double)base[i] : 0);
        diff += d * d;
        all += u * u;
    }
    return diff > 0 || isnan(diff) ? sqrt(diff / fmax(all, 1e-300)) : 0;
}

struct stage { const float *a, *b, *base; size_t rows, width, d_head; };

static double stage_error(const struct stage *s)
{
    double diff = 0, all = 0;

    for (size_t i = 0; i < s->rows * s->width; i++) {
        double d = (double)s->b[i] - (double)s->a[i], u = (double)s->a[i] - (s->base ? (double)s->base[i] : 0);
        diff += d * d;
        all += u * u;
    }
    return diff > 0 || isnan(diff) ? sqrt(diff / fmax(all, 1e-300)) : 0;
}

/* The first row past the bound, the head with the largest error there or anywhere. */
static void find_place(const struct stage *s, double bound, enum lm_stage at, struct lm_departure *out)
{
    double most = -1;

    out->position = 0;
    out->head = -1;
    for (size_t i = 0; i < s->rows && at != LM_STAGE_WEIGHTS; i++) {
        size_t o = i * s->width;
        if (!(part_error(s->a + o, s->b + o, s->base ? s->base + o : NULL, 0, s->width) <= bound)) {
            out->position = i;
            break;
        }
    }
    for (size_t h = 0; s->d_head && h < s->width / s->d_head; h++) {
        double error = 0;
        for (size_t i = 0; i < s->rows; i++)
            error += part_error(s->a + i * s->width, s->b + i * s->width, NULL, h * s->d_head, s->d_head);
        if (error > most || isnan(error)) {
            most = error;
            out->head = (int)h;
        }
    }
    for (size_t h = 0; at == LM_STAGE_WEIGHTS && h < s->rows; h++) {
        double error = part_error(s->a + h * s->width, s->b + h * s->width, NULL, 0, s->width);
        if (error > most) {
            most = error;
            out->head = (int)h;
        }
    }
}

static void judge(const struct lm_side *a, const struct seen *x, const struct seen *y, const float *input, size_t n,
                  struct lm_departure *out)
{
    const struct lm_net *net = &a->engine->net;

    for (enum lm_stage s = LM_STAGE_Q; s < LM_N_STAGES; s++) {
        struct stage st = {x->x[s], y->x[s], s == LM_STAGE_ATTN || s == LM_STAGE_LAYER ? input : NULL, x->rows[s],
                           x->width[s], 0};
        out->error[s] = NAN;
        if (!st.a || !st.b || y->width[s] != st.width || y->rows[s] != st.rows)
            continue;
        st.d_head = s == LM_STAGE_Q || s == LM_STAGE_K ? net->d_k : s == LM_STAGE_V ? net->d_v : 0;
        out->error[s] = stage_error(&st);
        if (out->stage != LM_N_STAGES || out->error[s] <= out->bound[s])
            continue;
        out->stage = s;
        find_place(&st, out->bound[s], s, out);
        if (s == LM_STAGE_WEIGHTS)
            out->position = n - 1;
    }
}

static void seen_free(struct seen *s)
{
    for (int i = 0; i < LM_N_STAGES; i++)
        free(s->x[i]);
}

int lm_stages_compare(const struct lm_side *a, const struct lm_side *b, const int32_t *ids, size_t n,
                      const float *hidden, int layer, struct lm_departure *out, struct lm_err *e)
{
    size_t d = lm_engine_config(a->engine)->d_model;
    struct seen x = {0}, y = {0};

    *out = (struct lm_departure){.layer = layer, .stage = LM_N_STAGES, .head = -1};
    stage_bounds(a, b, layer, out->bound);
    for (int s = 0; s < LM_N_STAGES; s++)
        out->error[s] = NAN;
    if (layer < 0) {
        out->stage = LM_STAGE_INPUT;
        return 0;
    }
    const float *input = hidden + (size_t)layer * n * d;
    int r = look_into(a, input, layer, ids, n, &x, e);
    if (r == 0)
        r = look_into(b, input, layer, ids, n, &y, e);
    if (r == 0)
        judge(a, &x, &y, input, n, out);
    seen_free(&x);
    seen_free(&y);
    return r;
}
