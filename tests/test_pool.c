/* The cpu backend's threads: every task once, no thread number twice at a time,
 * whatever sleeps in between. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>
#include "gpu/cpu_pool.h"

enum { MAX_TASKS = 700, MAX_THREADS = 9 };

struct seen {
    atomic_int count[MAX_TASKS];
    atomic_int inside[MAX_THREADS], doubled, outside;
    int n_threads;
    unsigned work; /* of every seventh task */
};

static void visit(const void *what, size_t i, int thread)
{
    struct seen *s = (struct seen *)(uintptr_t)what;

    if (thread < 0 || thread >= s->n_threads) {
        atomic_fetch_add(&s->outside, 1);
        return;
    }
    if (atomic_fetch_add(&s->inside[thread], 1))
        atomic_fetch_add(&s->doubled, 1);
    for (volatile unsigned k = 0; i % 7 == 0 && k < s->work; k++)
        ;
    atomic_fetch_add(&s->count[i], 1);
    atomic_fetch_sub(&s->inside[thread], 1);
}

static void check_loop(struct lmi_pool *p, struct seen *s, size_t n, bool small)
{
    memset(s->count, 0, sizeof s->count);
    lmi_pool_for(p, n, small, visit, s);
    for (size_t i = 0; i < MAX_TASKS; i++)
        assert_int_equal(s->count[i], i < n);
    assert_int_equal(s->doubled, 0);
    assert_int_equal(s->outside, 0);
}

static void every_task_runs_once(void **state)
{
    static const size_t sizes[] = {0, 1, 2, 3, 17, 64, 255, MAX_TASKS};

    (void)state;
    for (int n_threads = 1; n_threads <= MAX_THREADS; n_threads += n_threads < 3 ? 1 : 3) {
        struct lmi_pool *p = lmi_pool_new(n_threads);
        struct seen s = {.n_threads = n_threads, .work = 300};
        assert_non_null(p);
        for (int round = 0; round < 60; round++)
            for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
                check_loop(p, &s, sizes[i], round % 2);
        lmi_pool_free(p);
    }
}

/* Long enough between loops, and within one, for both sides to fall asleep. */
static void sleepers_wake(void **state)
{
    struct lmi_pool *p = lmi_pool_new(3);
    struct seen s = {.n_threads = 3, .work = 200000};

    (void)state;
    assert_non_null(p);
    for (int round = 0; round < 30; round++) {
        usleep(1000);
        check_loop(p, &s, 1 + (size_t)round, round % 2);
    }
    lmi_pool_free(p);
    lmi_pool_free(lmi_pool_new(4)); /* without a loop */
    lmi_pool_free(NULL);
}

static void as_many_threads_as_asked(void **state)
{
    (void)state;
    assert_int_equal(lmi_pool_threads(7), 7);
    assert_true(lmi_pool_threads(0) >= 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_task_runs_once),
        cmocka_unit_test(sleepers_wake),
        cmocka_unit_test(as_many_threads_as_asked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
