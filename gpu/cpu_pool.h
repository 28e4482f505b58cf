/* Threads of a backend's instance. Between loops they spin for some
 * microseconds, because the next loop usually comes at once, and then sleep: a
 * machine that is shared, or has fewer cores than threads, loses nothing. */
#ifndef GPU_CPU_POOL_H
#define GPU_CPU_POOL_H

#include <stdbool.h>
#include <stddef.h>

struct lmi_pool;

/* What is asked for, or all that this process may run on. */
int lmi_pool_threads(int asked);
/* The caller is one of n_threads. Fewer when the system refuses; NULL: out of memory. */
struct lmi_pool *lmi_pool_new(int n_threads);
void lmi_pool_free(struct lmi_pool *p);

/* thread: 0 .. n_threads - 1; no two tasks run at once with the same. */
typedef void lmi_task_fn(const void *what, size_t i, int thread);

/* task(what, i) for every i below n, on all threads; returns when all have
 * ended. small: tasks of microseconds, handed out in shares that shrink. One
 * caller at a time. */
void lmi_pool_for(struct lmi_pool *p, size_t n, bool small, lmi_task_fn *task, const void *what);

#endif
