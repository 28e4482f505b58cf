/* The page of --html: cmd/trace_page.html with the whole text's numbers. The
 * text runs token by token, because attention is seen for the last token of a
 * call. */
#include <math.h>
#include <stdlib.h>

#include "cmd/cli_page.h"
#include "cmd/trace.h"

CLI_PAGE(trace_page, "cmd/trace_page.html");

enum {
    MOST_CELLS = 6000000, /* of attention in a page; beyond it heads are averaged */
    ROW_SHOWN = 64,       /* numbers of a vector drawn */
    MOST_NEXT = 5
};

struct pages {
    struct trace *t;
    size_t n, n_heads;      /* tokens; heads drawn (1: their mean) */
    uint8_t **seen;         /* [layer]: of each query 0..n-1 in turn, head by head, its i + 1 weights, as square roots of 255ths */
    float *norms;           /* [2 n_layers + 1][n]: input, then after attention and after the layer */
    size_t at;
};

/* ---- gathering */

/* Where query q's weights begin in a layer. */
static size_t place(const struct pages *p, size_t q)
{
    return p->n_heads * (q * (q + 1) / 2);
}

static uint8_t cell(double weight)
{
    return (uint8_t)lrint(255 * sqrt(weight < 0 ? 0 : weight > 1 ? 1 : weight));
}

static void keep_probs(struct pages *p, int layer, const float *probs, size_t n_heads, size_t width)
{
    uint8_t *to = p->seen[layer] + place(p, p->at);

    for (size_t h = 0; h < p->n_heads; h++)
        for (size_t i = 0; i < width; i++) {
            double w = 0;
            if (p->n_heads == n_heads)
                w = (double)probs[h * width + i];
            for (size_t k = 0; p->n_heads != n_heads && k < n_heads; k++)
                w += (double)probs[k * width + i] / (double)n_heads;
            *to++ = cell(w);
        }
}

static int see(void *user, enum lm_tap_point point, int layer, const float *x, size_t n, size_t width, size_t pos0,
               struct lm_err *e)
{
    struct pages *p = user;
    size_t row = point == LM_TAP_INPUT ? 0 : point == LM_TAP_ATTN ? 2 * (size_t)layer + 1 : 2 * (size_t)layer + 2;

    (void)e;
    (void)pos0;
    if (point == LM_TAP_PROBS)
        keep_probs(p, layer, x, n, width);
    else
        p->norms[row * p->n + p->at] = (float)trace_norm(x, width);
    return 0;
}

static json_t *likeliest(const struct trace *t, float *logits)
{
    size_t n = t->config->vocab_size;
    json_t *a = json_array();
    double all = 0, top = -INFINITY;

    for (size_t i = 0; i < n; i++)
        top = (double)logits[i] > top ? (double)logits[i] : top;
    for (size_t i = 0; i < n; i++)
        all += exp((double)logits[i] - top);
    for (int k = 0; k < MOST_NEXT; k++) {
        size_t best = 0;
        for (size_t i = 1; i < n; i++)
            if (logits[i] > logits[best])
                best = i;
        json_array_append_new(a, json_pack("[i, o, f]", (int)best, trace_piece_json(t, (int32_t)best),
                                           exp((double)logits[best] - top) / all));
        logits[best] = -INFINITY;
    }
    return a;
}

static int run(struct pages *p, json_t *next, struct lm_err *e)
{
    struct trace *t = p->t;
    float *logits = malloc(t->config->vocab_size * sizeof *logits);
    unsigned mask = 1u << LM_TAP_INPUT | 1u << LM_TAP_ATTN | 1u << LM_TAP_LAYER | 1u << LM_TAP_PROBS;
    int code = logits ? 0 : lm_err_set(e, LM_NOMEM, "no memory for the logits");

    lm_session_rewind(t->l.session, 0);
    lm_session_set_tap(t->l.session, mask, see, p);
    for (p->at = 0; p->at < p->n && code == 0; p->at++) {
        code = lm_session_eval(t->l.session, &t->ids.ids[p->at], 1, LM_LOGITS_LAST, logits, e);
        if (code == 0)
            json_array_append_new(next, likeliest(t, logits));
    }
    lm_session_set_tap(t->l.session, 0, NULL, NULL);
    free(logits);
    return code;
}

/* ---- as JSON */

static json_t *base64(const uint8_t *s, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *text = malloc((n + 2) / 3 * 4 + 1), *to = text;

    for (size_t i = 0; text && i < n; i += 3) {
        uint32_t v = (uint32_t)s[i] << 16 | (i + 1 < n ? (uint32_t)s[i + 1] << 8 : 0) | (i + 2 < n ? s[i + 2] : 0);
        *to++ = digits[v >> 18];
        *to++ = digits[v >> 12 & 63];
        *to++ = i + 1 < n ? digits[v >> 6 & 63] : '=';
        *to++ = i + 2 < n ? digits[v & 63] : '=';
    }
    json_t *j = text ? json_stringn(text, (size_t)(to - text)) : json_null();
    free(text);
    return j;
}

static json_t *floats(const float *x, size_t n)
{
    json_t *a = json_array();

    for (size_t i = 0; i < n; i++)
        json_array_append_new(a, cli_json_real((double)x[i]));
    return a;
}

/* The first numbers of rows of a matrix: those of the ids, or row i for position i when ids is NULL. */
static int rows_json(const struct trace *t, const struct lm_tensor *w, const int32_t *ids, json_t **out, struct lm_err *e)
{
    size_t d = t->config->d_model, shown = d < ROW_SHOWN ? d : ROW_SHOWN;
    float *row = malloc(d * sizeof *row);
    int code = row ? 0 : lm_err_set(e, LM_NOMEM, "no memory for a row");

    *out = json_array();
    for (size_t i = 0; i < t->ids.n && code == 0; i++) {
        code = lm_tensor_to_f32(w, (ids ? (uint64_t)ids[i] : i) * d, d, row, e);
        if (code == 0)
            json_array_append_new(*out, floats(row, shown));
    }
    free(row);
    return code;
}

static json_t *tokens_json(const struct trace *t)
{
    json_t *a = json_array();

    for (size_t i = 0; i < t->ids.n; i++)
        json_array_append_new(a, json_pack("[i, o]", (int)t->ids.ids[i], trace_piece_json(t, t->ids.ids[i])));
    return a;
}

static json_t *frequencies(const struct trace *t)
{
    json_t *a = json_array();

    for (uint32_t i = 0; i < t->config->d_rope / 2; i++)
        json_array_append_new(a, cli_json_real(t->freqs[i]));
    return a;
}

static json_t *shapes(const struct trace *t)
{
    static const enum lm_role roles[] = {LM_ROLE_ATTN_NORM, LM_ROLE_ATTN_Q, LM_ROLE_ATTN_K, LM_ROLE_ATTN_V,
                                         LM_ROLE_ATTN_QKV, LM_ROLE_ATTN_OUT, LM_ROLE_FFN_NORM, LM_ROLE_FFN_GATE,
                                         LM_ROLE_FFN_UP, LM_ROLE_FFN_DOWN};
    json_t *a = json_array();
    char text[260];

    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++) {
        const struct lm_tensor *w = lm_bound_tensor(lm_engine_binding(t->l.engine), roles[i], 0);
        if (w)
            json_array_append_new(a, json_pack("[s, s, I]", lm_role_name(roles[i]),
                                               trace_shape(t, roles[i], 0, text, sizeof text), (json_int_t)w->n_elems));
    }
    return a;
}

static int matrices(const struct trace *t, json_t *o, struct lm_err *e)
{
    json_t *rows = NULL, *positions = NULL;
    char shape[200];
    const struct lm_tensor *w = t->embedding;
    int code = rows_json(t, w, t->ids.ids, &rows, e);

    if (code == 0 && t->positions)
        code = rows_json(t, t->positions, NULL, &positions, e);
    json_object_set_new(o, "embedding",
                        json_pack("{s:o, s:s, s:s, s:I, s:I, s:o}", "tensor", cli_json_str(lm_span_str(w->name)), "dtype",
                                  lm_dtype_name(w->dtype), "shape", lm_tensor_shape_str(w, shape, sizeof shape), "rows",
                                  (json_int_t)(w->n_elems / t->config->d_model), "n_params", (json_int_t)w->n_elems,
                                  "values", rows));
    json_object_set_new(o, "positions", positions ? positions : json_null());
    return code;
}

static json_t *attention(const struct pages *p)
{
    json_t *a = json_array();

    for (uint32_t i = 0; i < p->t->config->n_layers; i++)
        json_array_append_new(a, base64(p->seen[i], place(p, p->n)));
    return a;
}

static json_t *page_json(const struct pages *p, json_t *next, struct lm_err *e)
{
    const struct trace *t = p->t;
    const struct lm_config *c = t->config;
    json_t *o = json_object();

    if (matrices(t, o, e) != 0) {
        json_decref(o);
        return NULL;
    }
    json_object_set_new(o, "model", cli_json_str(lm_span_str(lm_model_path(t->l.model))));
    json_object_set_new(o, "n_params", json_integer((json_int_t)t->n_params));
    json_object_set_new(o, "n_pieces", json_integer((json_int_t)t->l.vocab->n_pieces));
    json_object_set_new(o, "d_model", json_integer(c->d_model));
    json_object_set_new(o, "n_layers", json_integer(c->n_layers));
    json_object_set_new(o, "n_heads", json_integer(c->n_heads));
    json_object_set_new(o, "n_kv_heads", json_integer(c->n_kv_heads));
    json_object_set_new(o, "d_head", json_integer(c->d_head));
    json_object_set_new(o, "d_rope", json_integer(c->d_rope));
    json_object_set_new(o, "frequencies", frequencies(t));
    json_object_set_new(o, "tokens", tokens_json(t));
    json_object_set_new(o, "shapes", shapes(t));
    json_object_set_new(o, "heads_drawn", json_integer((json_int_t)p->n_heads));
    json_object_set_new(o, "attention", attention(p));
    json_object_set_new(o, "norms", floats(p->norms, (2 * (size_t)c->n_layers + 1) * p->n));
    json_object_set(o, "next", next);
    return o;
}

/* ---- */

static int make(struct pages *p, struct lm_err *e)
{
    const struct lm_config *c = p->t->config;
    uint64_t cells = (uint64_t)p->n * (p->n + 1) / 2 * c->n_layers;
    json_t *next = json_array(), *data;

    p->n_heads = cells * c->n_heads <= MOST_CELLS ? c->n_heads : 1;
    if (cells > MOST_CELLS)
        return lm_err_set(e, LM_LIMIT, "%zu tokens in %u layers are too many for a page; take a shorter text", p->n,
                          c->n_layers);
    p->norms = calloc((2 * (size_t)c->n_layers + 1) * p->n, sizeof *p->norms);
    p->seen = calloc(c->n_layers, sizeof *p->seen);
    int code = p->norms && p->seen ? 0 : -1;
    for (uint32_t i = 0; i < c->n_layers && code == 0; i++)
        code = (p->seen[i] = calloc(place(p, p->n), 1)) ? 0 : -1;
    if (code != 0)
        lm_err_set(e, LM_NOMEM, "no memory for what is to be drawn");
    else
        code = run(p, next, e);
    data = code == 0 ? page_json(p, next, e) : NULL;
    json_decref(next);
    return data ? cli_page_write(p->t->o.html, p->t->o.force, trace_page, trace_page_end, data, e) : -1;
}

int trace_write_html(struct trace *t, struct lm_err *e)
{
    struct pages p = {.t = t, .n = t->ids.n};
    int code = make(&p, e);

    for (uint32_t i = 0; p.seen && i < t->config->n_layers; i++)
        free(p.seen[i]);
    free(p.seen);
    free(p.norms);
    return code;
}
