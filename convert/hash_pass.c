/* Threads take pieces in the order of the items, so reading stays sequential. */
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "convert/hash_pass.h"
#include "convert/stream.h"

struct pass {
    const struct lmc_pass *p;
    const struct lm_run_options *o;
    pthread_mutex_t lock;
    size_t item;
    uint64_t piece, n_pieces, done;
    bool failed;
    struct lm_err err;
};

static void fail(struct pass *s, const struct lm_err *e)
{
    pthread_mutex_lock(&s->lock);
    if (!s->failed)
        s->err = *e;
    s->failed = true;
    pthread_mutex_unlock(&s->lock);
}

/* Under the lock: to the first item, from where it stands, with a piece left. */
static bool has_piece(struct pass *s)
{
    for (; s->item < s->p->n_items; s->item++, s->piece = 0) {
        if (s->piece == 0)
            s->n_pieces = s->p->n_pieces(s->p->user, s->item);
        if (s->piece < s->n_pieces)
            return true;
    }
    return false;
}

static bool next_piece(struct pass *s, size_t *item, uint64_t *piece)
{
    pthread_mutex_lock(&s->lock);
    bool got = !s->failed && has_piece(s);
    if (got) {
        *item = s->item;
        *piece = s->piece++;
    }
    pthread_mutex_unlock(&s->lock);
    return got;
}

static void report(struct pass *s, uint64_t bytes)
{
    pthread_mutex_lock(&s->lock);
    s->done += bytes;
    if (s->o->progress)
        s->o->progress(s->o->user, s->done, s->p->total);
    pthread_mutex_unlock(&s->lock);
}

static void *work(void *arg)
{
    struct pass *s = arg;
    struct lm_err e = {0};
    void *scratch = s->p->scratch_new(s->p->user);
    size_t item;
    uint64_t piece;

    if (!scratch) {
        lm_err_set(&e, LM_NOMEM, "out of memory");
        fail(s, &e);
        return NULL;
    }
    while (next_piece(s, &item, &piece)) {
        uint64_t bytes = 0;
        if (lmc_stopped(s->o, &e) || s->p->piece(s->p->user, scratch, item, piece, &bytes, &e)) {
            fail(s, &e);
            break;
        }
        report(s, bytes);
    }
    s->p->scratch_free(scratch);
    return NULL;
}

static int n_threads_of(const struct lm_run_options *o)
{
    cpu_set_t set;
    int n = o->n_threads;

    if (n <= 0)
        n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n < 1 ? 1 : n > 256 ? 256 : n;
}

int lmc_pass(const struct lmc_pass *p, const struct lm_run_options *o, struct lm_err *e)
{
    struct pass s = {.p = p, .o = o, .lock = PTHREAD_MUTEX_INITIALIZER};
    pthread_t threads[256];
    int n = n_threads_of(o), started = 0;

    while (started < n - 1 && pthread_create(&threads[started], NULL, work, &s) == 0)
        started++;
    work(&s); /* this thread too: fewer threads than asked for are no error */
    while (started > 0)
        pthread_join(threads[--started], NULL);
    pthread_mutex_destroy(&s.lock);
    if (s.failed)
        *e = s.err;
    return s.failed ? -1 : 0;
}
