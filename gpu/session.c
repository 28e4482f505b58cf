/* One sequence: the forward pass, written once over a backend's operations. */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include "gpu/compare.h"
#include "gpu/net.h"

#define CHUNK 512 /* tokens a pass; their activations are what a session holds besides the KV cache */

struct lm_session {
    struct lm_engine *g;
    struct lm_kv *kv;
    struct lm_buf *x, *q, *a;  /* [chunk, d], [chunk, Q], [chunk, A] */
    size_t n_past, chunk;
    struct lm_buf **rows;      /* of a run in steps: [chunk, d] for each chunk of it */
    size_t n_rows;             /* how many there are */
    int32_t *run;              /* its ids; NULL: none is going on */
    size_t n_run;
    uint32_t next_layer;
    unsigned tap_mask;
    lm_tap_fn *tap;
    void *user;
    float *host, *host2;       /* what taps are shown; sized on first use */
    size_t host_n;
    int inject_layer;
    const float *inject;
};

/* A run of tokens on their way through the layers. */
struct pass {
    const int32_t *ids;
    size_t n, pos0;
    struct lm_buf *x;    /* [n, d] the residual stream */
    const float *inject; /* its part of the injected rows, or NULL */
    bool last_only;      /* of these rows only the last is asked for, and no tap looks */
};

static size_t d_q(const struct lm_engine *g)
{
    return (size_t)g->net.config.n_heads * g->net.d_k;
}
static size_t d_a(const struct lm_engine *g)
{
    return (size_t)g->net.config.n_heads * g->net.d_v;
}

int lm_session_open(struct lm_session **out, struct lm_engine *g, struct lm_err *e)
{
    struct lm_session *s = calloc(1, sizeof *s);
    const struct lm_backend *b = g->backend;
    size_t d = g->net.config.d_model;

    if (!s)
        return lm_err_set(e, LM_NOMEM, "out of memory");
    s->g = g;
    s->chunk = g->net.ctx_len < CHUNK ? g->net.ctx_len : CHUNK;
    s->inject_layer = -1;
    if (b->kv_new(&s->kv, g->dev, e) || b->buf_new(&s->x, g->dev, s->chunk * d, e) ||
        b->buf_new(&s->q, g->dev, s->chunk * d_q(g), e) || b->buf_new(&s->a, g->dev, s->chunk * d_a(g), e)) {
        lm_session_close(s);
        return -1;
    }
    *out = s;
    return 0;
}

void lm_session_close(struct lm_session *s)
{
    if (!s)
        return;
    const struct lm_backend *b = s->g->backend;
    for (size_t i = 0; i < s->n_rows; i++)
        b->buf_free(s->g->dev, s->rows[i]);
    free(s->rows);
    free(s->run);
    b->buf_free(s->g->dev, s->x);
    b->buf_free(s->g->dev, s->q);
    b->buf_free(s->g->dev, s->a);
    b->kv_free(s->g->dev, s->kv);
    free(s->host);
    free(s->host2);
    free(s);
}

size_t lm_session_n_past(const struct lm_session *s)
{
    return s->n_past;
}

void lm_session_rewind(struct lm_session *s, size_t n_past)
{
    if (n_past < s->n_past)
        s->n_past = n_past;
}

void lm_session_set_tap(struct lm_session *s, unsigned mask, lm_tap_fn *fn, void *user)
{
    s->tap_mask = fn ? mask : 0;
    s->tap = fn;
    s->user = user;
}

void lm_session_inject(struct lm_session *s, int layer, const float *x)
{
    s->inject_layer = x ? layer : -1;
    s->inject = x;
}

/* ---- taps */

static bool wants(const struct lm_session *s, enum lm_tap_point p)
{
    return s->tap_mask & 1u << p;
}

/* Host memory for the largest thing a tap is shown. */
static int reserve_host(struct lm_session *s, struct lm_err *e)
{
    const struct lm_config *c = &s->g->net.config;
    size_t wide = c->d_model > d_q(s->g) ? c->d_model : d_q(s->g); /* K and V are narrower than Q */
    size_t n = s->chunk * wide, probs = (size_t)c->n_heads * s->g->net.ctx_len;

    n = n > probs ? n : probs;
    if (s->host_n >= n)
        return 0;
    free(s->host);
    free(s->host2);
    s->host = malloc(n * sizeof *s->host);
    s->host2 = malloc(n * sizeof *s->host2);
    s->host_n = s->host && s->host2 ? n : 0;
    return s->host_n ? 0 : lm_err_set(e, LM_NOMEM, "out of memory for the values to be shown");
}

static int show_rows(struct lm_session *s, const struct pass *p, enum lm_tap_point at, int layer,
                     const struct lm_buf *b, size_t width, struct lm_err *e)
{
    const struct lm_engine *g = s->g;

    if (!wants(s, at))
        return 0;
    if (g->backend->buf_read(g->dev, b, 0, p->n * width, s->host, e))
        return -1;
    return s->tap(s->user, at, layer, s->host, p->n, width, p->pos0, e);
}

static int show_kv(struct lm_session *s, const struct pass *p, int layer, struct lm_err *e)
{
    const struct lm_engine *g = s->g;
    size_t width_k = (size_t)g->net.n_kv * g->net.d_k, width_v = (size_t)g->net.n_kv * g->net.d_v;

    if (!wants(s, LM_TAP_K) && !wants(s, LM_TAP_V))
        return 0;
    if (g->backend->kv_read(g->dev, s->kv, (uint32_t)layer, p->pos0, p->n, s->host, s->host2, e))
        return -1;
    if (wants(s, LM_TAP_K) && s->tap(s->user, LM_TAP_K, layer, s->host, p->n, width_k, p->pos0, e))
        return -1;
    return wants(s, LM_TAP_V) ? s->tap(s->user, LM_TAP_V, layer, s->host2, p->n, width_v, p->pos0, e) : 0;
}

/* ---- the forward pass */

static int embed(struct lm_session *s, const struct pass *p, struct lm_err *e)
{
    const struct lm_engine *g = s->g;
    size_t d = g->net.config.d_model;
    bool learned = g->net.pos_embed.tensor != NULL;

    if (wants(s, LM_TAP_EMBED) && learned)
        if (g->backend->embed(g->dev, p->x, p->ids, p->n, p->pos0, false, e) ||
            show_rows(s, p, LM_TAP_EMBED, -1, p->x, d, e))
            return -1;
    if (g->backend->embed(g->dev, p->x, p->ids, p->n, p->pos0, learned, e))
        return -1;
    if (!learned && show_rows(s, p, LM_TAP_EMBED, -1, p->x, d, e))
        return -1;
    return show_rows(s, p, LM_TAP_INPUT, -1, p->x, d, e);
}

/* Only the last row goes on: after its keys and values are stored, the last
 * layer has no use for the others. */
static int keep_last_row(struct lm_session *s, struct pass *p, struct lm_err *e)
{
    const struct lm_engine *g = s->g;
    const struct { struct lm_buf *b; size_t width; } rows[] = {{p->x, g->net.config.d_model}, {s->q, d_q(g)}};

    for (size_t i = 0; p->n > 1 && i < 2; i++)
        if (g->backend->buf_move(g->dev, rows[i].b, 0, (p->n - 1) * rows[i].width, rows[i].width, e))
            return -1;
    p->pos0 += p->n - 1;
    p->n = 1;
    return 0;
}

/* Up to what the heads found; its projection comes after the feed-forward where both read the same input. */
static int attention(struct lm_session *s, struct pass *p, int layer, struct lm_err *e)
{
    const struct lm_engine *g = s->g;
    const struct lm_backend *b = g->backend;
    const struct lm_config *c = &g->net.config;
    bool last = p->last_only && (uint32_t)layer + 1 == c->n_layers;
    float *probs = wants(s, LM_TAP_PROBS) ? s->host : NULL;

    if (b->qkv(g->dev, (uint32_t)layer, p->x, s->q, s->kv, p->n, p->pos0, e))
        return -1;
    if (show_rows(s, p, LM_TAP_Q, layer, s->q, d_q(g), e) || show_kv(s, p, layer, e))
        return -1;
    if (last && keep_last_row(s, p, e))
        return -1;
    if (b->attend(g->dev, (uint32_t)layer, s->q, s->kv, s->a, p->n, p->pos0, probs, e))
        return -1;
    if (probs && s->tap(s->user, LM_TAP_PROBS, layer, probs, c->n_heads, p->pos0 + p->n, p->pos0, e))
        return -1;
    return 0;
}

static int layer_rest(struct lm_session *s, const struct pass *p, int layer, struct lm_err *e)
{
    const struct lm_engine *g = s->g;
    const struct lm_backend *b = g->backend;
    uint32_t i = (uint32_t)layer;
    size_t d = g->net.config.d_model;

    if (g->net.config.parallel && b->ffn(g->dev, i, p->x, p->n, e))
        return -1;
    if (b->project(g->dev, i, s->a, p->x, p->n, e) || show_rows(s, p, LM_TAP_ATTN, layer, p->x, d, e))
        return -1;
    if (!g->net.config.parallel && b->ffn(g->dev, i, p->x, p->n, e))
        return -1;
    return show_rows(s, p, LM_TAP_LAYER, layer, p->x, d, e);
}

static int run_layer(struct lm_session *s, struct pass *p, int i, struct lm_err *e)
{
    const struct lm_engine *g = s->g;
    size_t d = g->net.config.d_model;

    if (p->inject && i == s->inject_layer && g->backend->buf_write(g->dev, p->x, 0, p->n * d, p->inject, e))
        return -1;
    return attention(s, p, i, e) || layer_rest(s, p, i, e) ? lm_err_prefix(e, "layer %d", i) : 0;
}

static int check_input(const struct lm_session *s, const int32_t *ids, size_t n, struct lm_err *e)
{
    uint32_t vocab = s->g->net.embed.rows, ctx = s->g->net.ctx_len;

    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= vocab)
            return lm_err_set(e, LM_USAGE, "token id %d at position %zu is outside the vocabulary of %u", (int)ids[i],
                              s->n_past + i, vocab);
    if (n > ctx - s->n_past)
        return lm_err_set(e, LM_LIMIT, "the context is full: %zu + %zu tokens, room for %u positions", s->n_past, n, ctx);
    return 0;
}

/* Where logits go: one of the two. */
struct sink { float *f32; double *f64; };

static int put_logits(struct lm_session *s, const struct lm_buf *x, size_t first, size_t rows, size_t at,
                      const struct sink *to, struct lm_err *e)
{
    const struct lm_engine *g = s->g;
    const struct lm_backend *b = g->backend;
    size_t n = rows * g->net.head.rows;
    float *tmp;

    if (to->f32)
        return b->logits(g->dev, x, first, rows, to->f32 + at, e);
    if (b->logits_f64)
        return b->logits_f64(g->dev, x, first, rows, to->f64 + at, e);
    if (!(tmp = malloc(n * sizeof *tmp)))
        return lm_err_set(e, LM_NOMEM, "out of memory for %zu logits", n);
    int rc = b->logits(g->dev, x, first, rows, tmp, e);
    for (size_t i = 0; rc == 0 && i < n; i++)
        to->f64[at + i] = (double)tmp[i];
    free(tmp);
    return rc;
}

static int eval(struct lm_session *s, const int32_t *ids, size_t n, enum lm_which which, struct sink logits,
                struct lm_err *e)
{
    const struct lm_engine *g = s->g;
    size_t d = g->net.config.d_model, vocab = g->net.head.rows, done = 0;

    if (check_input(s, ids, n, e) || (s->tap_mask && reserve_host(s, e)))
        return -1;
    while (done < n) {
        struct pass p = {ids + done, n - done < s->chunk ? n - done : s->chunk, s->n_past + done, s->x, NULL, false};
        size_t here = p.n;
        bool logits_now = which == LM_LOGITS_ALL || (which == LM_LOGITS_LAST && done + here == n);
        p.inject = s->inject ? s->inject + done * d : NULL;
        p.last_only = which != LM_LOGITS_ALL && !s->tap_mask;
        if (embed(s, &p, e))
            return -1;
        for (uint32_t i = 0; i < g->net.config.n_layers; i++)
            if (run_layer(s, &p, (int)i, e))
                return -1;
        size_t first = which == LM_LOGITS_ALL ? 0 : p.n - 1, rows = p.n - first;
        if (logits_now && put_logits(s, p.x, first, rows, which == LM_LOGITS_ALL ? done * vocab : 0, &logits, e))
            return -1;
        done += here;
    }
    if (g->backend->sync(g->dev, e))
        return -1;
    s->n_past += n;
    return 0;
}

int lm_session_eval(struct lm_session *s, const int32_t *ids, size_t n, enum lm_which which, float *logits,
                    struct lm_err *e)
{
    return eval(s, ids, n, which, (struct sink){.f32 = logits}, e);
}

int lm_session_eval_f64(struct lm_session *s, const int32_t *ids, size_t n, enum lm_which which, double *logits,
                        struct lm_err *e)
{
    return eval(s, ids, n, which, (struct sink){.f64 = logits}, e);
}

/* ---- in steps */

static void end_run(struct lm_session *s)
{
    free(s->run);
    s->run = NULL;
    s->n_run = 0;
}

static int reserve_rows(struct lm_session *s, size_t n_chunks, struct lm_err *e)
{
    size_t d = s->g->net.config.d_model;
    struct lm_buf **rows = s->n_rows < n_chunks ? realloc(s->rows, n_chunks * sizeof *rows) : s->rows;

    if (n_chunks && !rows)
        return lm_err_set(e, LM_NOMEM, "out of memory");
    s->rows = rows;
    for (; s->n_rows < n_chunks; s->n_rows++)
        if (s->g->backend->buf_new(&rows[s->n_rows], s->g->dev, s->chunk * d, e))
            return -1;
    return 0;
}

/* Chunk k of the run. */
static struct pass part_of(const struct lm_session *s, size_t k)
{
    size_t at = k * s->chunk, left = s->n_run - at;

    return (struct pass){s->run + at, left < s->chunk ? left : s->chunk, s->n_past + at, s->rows[k], NULL, false};
}

int lm_session_begin(struct lm_session *s, const int32_t *ids, size_t n, struct lm_err *e)
{
    end_run(s);
    if (check_input(s, ids, n, e) || reserve_rows(s, (n + s->chunk - 1) / s->chunk, e) ||
        (s->tap_mask && reserve_host(s, e)))
        return -1;
    if (!(s->run = malloc((n ? n : 1) * sizeof *s->run)))
        return lm_err_set(e, LM_NOMEM, "out of memory for %zu ids", n);
    memcpy(s->run, ids, n * sizeof *ids);
    s->n_run = n;
    s->next_layer = 0;
    for (size_t k = 0; k * s->chunk < n; k++) {
        struct pass p = part_of(s, k);
        if (embed(s, &p, e))
            return -1;
    }
    return 0;
}

static void read_ahead_of(const struct lm_tensor *t)
{
    if (!t || !t->data || !t->n_bytes)
        return;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)t->data & ~(page - 1);
    madvise((void *)from, (uintptr_t)t->data + t->n_bytes - from, MADV_WILLNEED);
}

/* The disk brings the next layer while this one is computed. */
static void read_ahead(const struct lm_engine *g, uint32_t layer)
{
    const struct lm_binding *b = g->binding;

    for (int r = 0; layer < g->net.config.n_layers && r < LM_N_ROLES; r++) {
        size_t at = ((size_t)layer + 1) * LM_N_ROLES + (size_t)r;
        read_ahead_of(b->at[at]);
        for (uint32_t i = 0; b->experts[at] && i < g->net.config.n_experts; i++)
            read_ahead_of(b->experts[at][i]);
    }
}

int lm_session_layer(struct lm_session *s, uint32_t layer, struct lm_err *e)
{
    uint32_t n_layers = s->g->net.config.n_layers;

    if (!s->run || layer != s->next_layer || layer >= n_layers)
        return lm_err_set(e, LM_USAGE, "layer %u was asked for where layer %u of %u comes next", layer,
                          s->run ? s->next_layer : 0, n_layers);
    read_ahead(s->g, layer + 1);
    for (size_t k = 0; k * s->chunk < s->n_run; k++) {
        struct pass p = part_of(s, k);
        if (run_layer(s, &p, (int)layer, e))
            return -1;
    }
    s->next_layer++;
    return s->g->backend->sync(s->g->dev, e);
}

int lm_session_logits(struct lm_session *s, size_t first, size_t n, float *logits, struct lm_err *e)
{
    size_t vocab = s->g->net.head.rows;

    if (!s->run || s->next_layer < s->g->net.config.n_layers || first > s->n_run || n > s->n_run - first)
        return lm_err_set(e, LM_USAGE, "logits of tokens %zu to %zu, but the run has %zu, and %u layers are done", first,
                          first + n, s->n_run, s->next_layer);
    for (size_t done = 0; done < n;) {
        size_t k = (first + done) / s->chunk, at = (first + done) % s->chunk;
        struct pass p = part_of(s, k);
        size_t here = p.n - at < n - done ? p.n - at : n - done;
        if (put_logits(s, p.x, at, here, done * vocab, &(struct sink){.f32 = logits}, e))
            return -1;
        done += here;
    }
    return 0;
}

static bool is_done(const struct lm_session *s, size_t first, size_t n)
{
    return s->run && s->next_layer == s->g->net.config.n_layers && first <= s->n_run && n <= s->n_run - first;
}

int lm_session_compare(struct lm_session *a, struct lm_session *b, size_t first, size_t n, size_t n_vocab,
                       const int32_t *next, struct lm_position *out, struct lm_err *e)
{
    const struct lm_backend *k = a->g->backend;
    int rc = 0;

    if (k != b->g->backend || !k->compare)
        return 1;
    if (!is_done(a, first, n) || !is_done(b, first, n))
        return lm_err_set(e, LM_USAGE, "tokens %zu to %zu of two runs are to be compared, which have not come so far", first,
                          first + n);
    for (size_t done = 0, here; rc == 0 && done < n; done += here) {
        size_t at = first + done, in_a = at % a->chunk, in_b = at % b->chunk;
        struct pass pa = part_of(a, at / a->chunk), pb = part_of(b, at / b->chunk);
        here = pa.n - in_a < pb.n - in_b ? pa.n - in_a : pb.n - in_b;
        here = here < n - done ? here : n - done;
        rc = k->compare(a->g->dev, pa.x, in_a, b->g->dev, pb.x, in_b, here, n_vocab, next + done, out + done, e);
    }
    return rc;
}

void lm_session_end(struct lm_session *s)
{
    if (s->run && s->next_layer == s->g->net.config.n_layers)
        s->n_past += s->n_run;
    end_run(s);
}
