/* See cpu_pool.h. One word holds the number of the loop and the next task of it,
 * so that a thread that wakes late takes nothing of a loop that has ended, and
 * nobody waits for it. What a waiting thread checks and what wakes it are
 * ordered so that neither misses the other: it says that it sleeps before it
 * looks again, they look for sleepers after they have spoken. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>
#include "gpu/cpu_pool.h"

#define SPINS 1500 /* about 30 microseconds of pauses */

struct worker {
    struct lmi_pool *pool;
    pthread_t thread;
    int index;
};

struct lmi_pool {
    struct worker *workers;
    int n_workers;          /* besides the caller */
    int spins;
    pthread_mutex_t lock;
    pthread_cond_t start, done;
    atomic_int sleepers;    /* workers waiting for start */
    atomic_bool caller_sleeps;
    atomic_bool quit;
    /* the loop */
    _Atomic uint64_t next;  /* loop << 32 | task */
    atomic_size_t n, n_done;
    atomic_bool small;
    lmi_task_fn *task;      /* read only by who has taken a task */
    const void *what;
};

static void pause_a_moment(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* Takes tasks first .. first + result - 1 of a loop; 0 when none is left. */
static size_t take(struct lmi_pool *p, uint32_t loop, size_t *first)
{
    uint64_t at = atomic_load(&p->next);
    size_t share, left;

    do {
        size_t n = atomic_load(&p->n);
        if (at >> 32 != loop || (uint32_t)at >= n)
            return 0;
        left = n - (uint32_t)at;
        share = atomic_load(&p->small) ? left / (2 * ((size_t)p->n_workers + 1)) : 1;
        share = share ? share : 1;
    } while (!atomic_compare_exchange_weak(&p->next, &at, at + share));
    *first = (uint32_t)at;
    return share;
}

static void work(struct lmi_pool *p, uint32_t loop, int thread)
{
    size_t first, n;

    while ((n = take(p, loop, &first))) {
        for (size_t i = first; i < first + n; i++)
            p->task(p->what, i, thread);
        if (atomic_fetch_add(&p->n_done, n) + n == atomic_load(&p->n) && atomic_load(&p->caller_sleeps)) {
            pthread_mutex_lock(&p->lock);
            pthread_cond_signal(&p->done);
            pthread_mutex_unlock(&p->lock);
        }
    }
}

static uint32_t current(struct lmi_pool *p)
{
    return (uint32_t)(atomic_load(&p->next) >> 32);
}

/* Until there is a loop after `seen`; its number. */
static uint32_t wait_for_loop(struct lmi_pool *p, uint32_t seen)
{
    for (int i = 0; i < p->spins; i++) {
        if (current(p) != seen)
            return current(p);
        pause_a_moment();
    }
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleepers, 1);
    while (current(p) == seen)
        pthread_cond_wait(&p->start, &p->lock);
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->lock);
    return current(p);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    uint32_t loop = 0;

    for (;;) {
        loop = wait_for_loop(w->pool, loop);
        if (atomic_load(&w->pool->quit))
            return NULL;
        work(w->pool, loop, w->index);
    }
}

/* A number without tasks: who still looks at the last loop must not take one of
 * the next by its new n. */
static void close_loop(struct lmi_pool *p)
{
    atomic_store(&p->next, (uint64_t)(current(p) + 1) << 32 | UINT32_MAX);
}

static uint32_t announce(struct lmi_pool *p)
{
    uint32_t loop = current(p) + 1;

    atomic_store(&p->next, (uint64_t)loop << 32);
    if (atomic_load(&p->sleepers) > 0) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->start);
        pthread_mutex_unlock(&p->lock);
    }
    return loop;
}

static void wait_for_end(struct lmi_pool *p, size_t n)
{
    for (int i = 0; i < p->spins; i++) {
        if (atomic_load(&p->n_done) == n)
            return;
        pause_a_moment();
    }
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->caller_sleeps, true);
    while (atomic_load(&p->n_done) < n)
        pthread_cond_wait(&p->done, &p->lock);
    atomic_store(&p->caller_sleeps, false);
    pthread_mutex_unlock(&p->lock);
}

void lmi_pool_for(struct lmi_pool *p, size_t n, bool small, lmi_task_fn *task, const void *what)
{
    if (p->n_workers == 0 || n < 2 || n > UINT32_MAX) {
        for (size_t i = 0; i < n; i++)
            task(what, i, 0);
        return;
    }
    close_loop(p);
    p->task = task;
    p->what = what;
    atomic_store(&p->n, n);
    atomic_store(&p->small, small);
    atomic_store(&p->n_done, 0);
    work(p, announce(p), 0);
    wait_for_end(p, n);
}

int lmi_pool_threads(int asked)
{
    cpu_set_t set;

    if (asked > 0)
        return asked;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
}

struct lmi_pool *lmi_pool_new(int n_threads)
{
    struct lmi_pool *p = calloc(1, sizeof *p);
    size_t n = n_threads > 1 ? (size_t)n_threads - 1 : 0;

    if (!p || !(p->workers = calloc(n + 1, sizeof *p->workers))) {
        free(p);
        return NULL;
    }
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->start, NULL);
    pthread_cond_init(&p->done, NULL);
    p->spins = n_threads <= lmi_pool_threads(0) ? SPINS : 0; /* else somebody needs the core */
    for (size_t i = 0; i < n; i++) {
        struct worker *w = p->workers + i;
        *w = (struct worker){.pool = p, .index = (int)i + 1};
        if (pthread_create(&w->thread, NULL, worker_main, w))
            break;
        p->n_workers++;
    }
    return p;
}

void lmi_pool_free(struct lmi_pool *p)
{
    if (!p)
        return;
    atomic_store(&p->quit, true);
    announce(p);
    for (int i = 0; i < p->n_workers; i++)
        pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->start);
    pthread_cond_destroy(&p->done);
    pthread_mutex_destroy(&p->lock);
    free(p->workers);
    free(p);
}
