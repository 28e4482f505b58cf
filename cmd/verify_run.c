/* Both in lock step: a layer of each in turn, then logits of some tokens of
 * each, compared and forgotten. */
#include <math.h>
#include <stdlib.h>

#include "cmd/verify.h"

enum { MOST_AT_ONCE = 4096 };

static const size_t bucket_ends[VERIFY_BUCKETS] = {64, 512, 4096, SIZE_MAX};

bool verify_bucket(const struct verify *v, int i, size_t *from, size_t *to)
{
    *from = i > 0 ? bucket_ends[i - 1] : 0;
    *to = bucket_ends[i] < v->window ? bucket_ends[i] : v->window;
    return *from < *to;
}

static int bucket_of(size_t pos)
{
    int i = 0;

    while (pos >= bucket_ends[i])
        i++;
    return i;
}

struct verify_quantiles verify_kld_quantiles(const struct verify *v, int bucket)
{
    double *x = malloc(v->ids.n * sizeof *x);
    size_t n = 0;

    for (size_t i = 0; x && i < v->ids.n; i++)
        if (bucket < 0 || bucket_of(i % v->window) == bucket)
            x[n++] = v->kld[i];
    struct verify_quantiles q = {lm_quantile(x, n, 0.5), lm_quantile(x, n, 0.99)};
    free(x);
    return q;
}

/* With a reference it is the original, and what the model gives is compared with it. */
static void compare(const struct verify *v, struct lm_position *p, const float *a, const float *b, int32_t next)
{
    lm_position_compare(p, v->reference ? b : a, v->reference ? a : b, v->vocab, next);
    if (v->reference) {
        struct lm_position q = *p;
        p->top_a = q.top_b;
        p->top_b = q.top_a;
        p->nll_a = q.nll_b;
        p->nll_b = q.nll_a;
    }
}

/* Logits of B, or of the reference, for n positions from `from` of the run that begins at `at`. */
static int other_logits(struct verify *v, size_t at, size_t from, size_t n, float *b, struct lm_err *e)
{
    if (v->reference)
        return lm_tensor_to_f32(v->ref_logits, (uint64_t)(at + from) * v->vocab, (uint64_t)n * v->vocab, b, e);
    return lm_session_logits(v->b.session, from, n, b, e);
}

static int32_t next_of(const struct verify *v, size_t pos)
{
    return pos + 1 < v->ids.n && (pos + 1) % v->window != 0 ? v->ids.ids[pos + 1] : -1;
}

struct rooms { float *a, *b; struct lm_position *p; size_t n; };

/* Where both models are: 0 done, 1 it has to be done here. */
static int compare_there(struct verify *v, size_t at, size_t from, size_t n, struct lm_position *p, struct lm_err *e)
{
    int32_t *next = v->reference ? NULL : malloc(n * sizeof *next);

    for (size_t i = 0; next && i < n; i++)
        next[i] = next_of(v, at + from + i);
    int rc = next ? lm_session_compare(v->a.session, v->b.session, from, n, v->vocab, next, p, e) : 1;
    free(next);
    return rc;
}

/* Both through a run of tokens, layer by layer: what is not needed of the weights can leave memory. */
static int run_layers(struct verify *v, size_t at, size_t n, struct cli_progress *progress, struct lm_err *e)
{
    struct lm_session *sides[] = {v->a.session, v->reference ? NULL : v->b.session};
    uint32_t n_layers[2] = {v->n_layers, sides[1] ? lm_engine_config(v->b.engine)->n_layers : 0};
    uint32_t most = n_layers[0] > n_layers[1] ? n_layers[0] : n_layers[1];

    for (int k = 0; k < 2 && sides[k]; k++) {
        if (at % v->window == 0)
            lm_session_rewind(sides[k], 0);
        if (lm_session_begin(sides[k], v->ids.ids + at, n, e) != 0)
            return -1;
    }
    for (uint32_t i = 0; i < most; i++) {
        for (int k = 0; k < 2 && sides[k]; k++)
            if (cli_stop || (i < n_layers[k] && lm_session_layer(sides[k], i, e) != 0))
                return cli_stop ? lm_err_set(e, LM_INTERRUPTED, "interrupted") : -1;
        cli_progress(progress, at + n * (i + 1) / (most + 1), v->ids.n);
    }
    return 0;
}

/* In order, so that the sums are always the same. */
static void note(struct verify *v, size_t at, const struct lm_position *p)
{
    lm_tally_add(&v->all, p, at);
    lm_tally_add(&v->bucket[bucket_of(at % v->window)], p, at);
    v->kld[at] = p->kld;
    if (v->positions)
        v->positions[at] = *p;
}

static int run_logits(struct verify *v, size_t at, size_t n, const struct rooms *r, struct lm_err *e)
{
    for (size_t from = 0, here; from < n; from += here) {
        here = n - from < r->n ? n - from : r->n;
        if (cli_stop)
            return lm_err_set(e, LM_INTERRUPTED, "interrupted");
        int there = compare_there(v, at, from, here, r->p, e);
        if (there < 0 || (there > 0 && (lm_session_logits(v->a.session, from, here, r->a, e) != 0 ||
                                        other_logits(v, at, from, here, r->b, e) != 0)))
            return -1;
#pragma omp parallel for schedule(static) if (here > 1)
        for (size_t i = 0; i < (there > 0 ? here : 0); i++)
            compare(v, &r->p[i], r->a + i * v->vocab, r->b + i * v->vocab, next_of(v, at + from + i));
        for (size_t i = 0; i < here; i++)
            note(v, at + from + i, &r->p[i]);
    }
    lm_session_end(v->a.session);
    if (!v->reference)
        lm_session_end(v->b.session);
    return 0;
}

/* Tokens that go through a layer together; what they carry from one to the next is all that is held. */
static size_t run_length(const struct verify *v)
{
    size_t fit = VERIFY_HIDDEN / (2 * v->d_model * sizeof(float));

    return fit > MOST_AT_ONCE ? MOST_AT_ONCE : fit > 0 ? fit : 1;
}

static int run_all(struct verify *v, const struct rooms *rooms, struct lm_err *e)
{
    struct cli_progress progress;
    int r = 0;

    cli_progress_begin(&progress, "comparing");
    progress.unit = "tokens";
    for (size_t at = 0, n; r == 0 && at < v->ids.n; at += n) {
        size_t in_window = v->window - at % v->window, most = run_length(v);
        n = v->ids.n - at;
        n = n < in_window ? n : in_window;
        n = n < most ? n : most;
        r = run_layers(v, at, n, &progress, e) != 0 || run_logits(v, at, n, rooms, e) != 0 ? -1 : 0;
        cli_progress(&progress, at + n, v->ids.n);
    }
    cli_progress_end(&progress);
    return r;
}

int verify_run(struct verify *v, struct lm_err *e)
{
    size_t row = v->vocab * sizeof(float);
    struct rooms r = {.n = VERIFY_ROOM / row > 0 ? VERIFY_ROOM / row : 1};

    r.n = r.n < v->ids.n ? r.n : v->ids.n;
    r.a = malloc(r.n * row);
    r.b = malloc(r.n * row);
    r.p = malloc(r.n * sizeof *r.p);
    v->kld = calloc(v->ids.n, sizeof *v->kld);
    v->positions = v->o.per_position == 1 ? calloc(v->ids.n, sizeof *v->positions) : NULL;
    int rc = -1;
    if (!r.a || !r.b || !r.p || !v->kld || (v->o.per_position == 1 && !v->positions))
        lm_err_set(e, LM_NOMEM, "no memory for the logits of %zu positions", r.n);
    else
        rc = run_all(v, &r, e);
    free(r.a);
    free(r.b);
    free(r.p);
    return rc;
}
