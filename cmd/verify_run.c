/* Both in lock step: logits of a chunk of each, compared and forgotten. */
#include <math.h>
#include <stdlib.h>

#include "cmd/verify.h"

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

/* Logits of B, or of the reference, for positions at..at+n. */
static int other_logits(struct verify *v, size_t at, size_t n, float *b, struct lm_err *e)
{
    if (v->reference)
        return lm_tensor_to_f32(v->ref_logits, (uint64_t)at * v->vocab, (uint64_t)n * v->vocab, b, e);
    return lm_session_eval(v->b.session, v->ids.ids + at, n, LM_LOGITS_ALL, b, e);
}

static int32_t next_of(const struct verify *v, size_t pos)
{
    return pos + 1 < v->ids.n && (pos + 1) % v->window != 0 ? v->ids.ids[pos + 1] : -1;
}

struct rooms { float *a, *b; struct lm_position *p; size_t n; };

static int run_chunk(struct verify *v, size_t at, size_t n, const struct rooms *r, struct lm_err *e)
{
    if (cli_stop)
        return lm_err_set(e, LM_INTERRUPTED, "interrupted");
    if (at % v->window == 0) {
        lm_session_rewind(v->a.session, 0);
        if (!v->reference)
            lm_session_rewind(v->b.session, 0);
    }
    if (lm_session_eval(v->a.session, v->ids.ids + at, n, LM_LOGITS_ALL, r->a, e) != 0 ||
        other_logits(v, at, n, r->b, e) != 0)
        return -1;
#pragma omp parallel for schedule(static) if (n > 1)
    for (size_t i = 0; i < n; i++)
        compare(v, &r->p[i], r->a + i * v->vocab, r->b + i * v->vocab, next_of(v, at + i));
    for (size_t i = 0; i < n; i++) { /* in order, so that the sums are always the same */
        lm_tally_add(&v->all, &r->p[i], at + i);
        lm_tally_add(&v->bucket[bucket_of((at + i) % v->window)], &r->p[i], at + i);
        v->kld[at + i] = r->p[i].kld;
        if (v->positions)
            v->positions[at + i] = r->p[i];
    }
    return 0;
}

static int run_all(struct verify *v, const struct rooms *rooms, struct lm_err *e)
{
    struct cli_progress progress;
    int r = 0;

    cli_progress_begin(&progress, "comparing");
    progress.unit = "tokens";
    for (size_t at = 0, n; r == 0 && at < v->ids.n; at += n) {
        size_t in_window = v->window - at % v->window;
        n = v->ids.n - at;
        n = n < in_window ? n : in_window;
        n = n < rooms->n ? n : rooms->n;
        r = run_chunk(v, at, n, rooms, e);
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
