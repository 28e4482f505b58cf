/* Penalties on tokens that occurred. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "gpu/engine.h"

static const int32_t ids[] = {2, 0, 2, 1, 9, -1};

static void check(struct lm_penalties p, const float want[4])
{
    float logits[4] = {4, -2, 3, 1};
    struct lm_err e;

    assert_int_equal(lm_penalize(&p, ids, 6, logits, 4, &e), 0);
    for (size_t i = 0; i < 4; i++)
        assert_float_equal(logits[i], want[i], 1e-6);
}

static void none_changes_nothing(void **state)
{
    (void)state;
    check((struct lm_penalties){1, 0, 0, 0}, (const float[]){4, -2, 3, 1});
}

/* Positive logits are divided, negative ones multiplied, both only once. */
static void repetition(void **state)
{
    (void)state;
    check((struct lm_penalties){2, 0, 0, 0}, (const float[]){2, -4, 1.5f, 1});
}

static void presence_and_frequency(void **state)
{
    (void)state;
    check((struct lm_penalties){1, 0.5f, 0.25f, 0}, (const float[]){3.25f, -2.75f, 2, 1});
}

static void the_window_is_the_end(void **state)
{
    (void)state;
    check((struct lm_penalties){2, 0, 0, 3}, (const float[]){4, -4, 3, 1});
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(none_changes_nothing), cmocka_unit_test(repetition),
                                       cmocka_unit_test(presence_and_frequency),
                                       cmocka_unit_test(the_window_is_the_end)};

    return cmocka_run_group_tests_name("sample", tests, NULL, NULL);
}
