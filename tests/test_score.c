/* Sampling and the comparison of logits, against plain double loops. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "gpu/engine.h"

static uint64_t rng = 1;
static float uniform(float lo, float hi)
{
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return lo + (hi - lo) * (float)((double)(rng >> 40) / (1 << 24));
}

/* ---- KL divergence */

static double plain_kl(const float *a, const float *b, size_t n)
{
    long double sa = 0, sb = 0, kl = 0;

    for (size_t i = 0; i < n; i++) {
        sa += expl((long double)a[i]);
        sb += expl((long double)b[i]);
    }
    for (size_t i = 0; i < n; i++) {
        long double pa = expl((long double)a[i]) / sa, pb = expl((long double)b[i]) / sb;
        kl += pa * logl(pa / pb);
    }
    return (double)kl;
}

static void kl_equals_its_definition(void **state)
{
    float a[1000], b[1000];

    (void)state;
    for (int round = 0; round < 20; round++) {
        float spread = 0.01f * powf(2, (float)round / 2);
        for (int i = 0; i < 1000; i++) {
            a[i] = uniform(-8, 8);
            b[i] = a[i] + uniform(-spread, spread);
        }
        double want = plain_kl(a, b, 1000);
        assert_true(fabs(lm_kl(a, b, 1000) - want) <= 1e-12 + 1e-10 * want);
    }
}

static void kl_is_never_negative(void **state)
{
    float a[64], b[64];

    (void)state;
    for (int i = 0; i < 64; i++)
        a[i] = uniform(-30, 30);
    assert_true(lm_kl(a, a, 64) >= 0 && lm_kl(a, a, 64) < 1e-15);
    for (int round = 0; round < 1000; round++) {
        for (int i = 0; i < 64; i++)
            b[i] = nextafterf(a[i], uniform(-1, 1) > 0 ? 100.0f : -100.0f);
        assert_true(lm_kl(a, b, 64) >= 0);
    }
    for (int i = 0; i < 64; i++)
        b[i] = a[i] + 5; /* a constant changes nothing */
    assert_true(lm_kl(a, b, 64) < 1e-10);
}

static void large_logits_do_not_overflow(void **state)
{
    static const float a[] = {3e38f, 0, -3e38f}, b[] = {3e38f, 3e38f, -3e38f}, c[] = {-1e30f, -1e30f};

    (void)state;
    assert_true(fabs(lm_kl(a, b, 3) - log(2)) < 1e-12);
    assert_true(lm_kl(a, a, 3) == 0);
    assert_true(fabs(lm_log_softmax_at(b, 3, 1) + log(2)) < 1e-12);
    assert_true(fabs(lm_log_softmax_at(c, 2, 0) + log(2)) < 1e-12);
}

static void divergence_sums_up(void **state)
{
    static const float a[2][3] = {{1, 2, 3}, {0, 0, 5}}, b[2][3] = {{1, 2.5f, 3}, {6, 0, 5}};
    struct lm_divergence d = {0};

    (void)state;
    lm_divergence_add(&d, a[0], b[0], 3, 1);
    lm_divergence_add(&d, a[1], b[1], 3, -1);
    lm_divergence_finish(&d);
    assert_int_equal(d.n, 2);
    assert_int_equal(d.n_nll, 1);
    assert_true(d.max_abs == 6);
    assert_true(fabs(d.mean_abs - 6.5 / 6) < 1e-15);
    assert_true(fabs(d.kld_mean - (plain_kl(a[0], b[0], 3) + plain_kl(a[1], b[1], 3)) / 2) < 1e-12);
    assert_true(fabs(d.kld_max - plain_kl(a[1], b[1], 3)) < 1e-12);
    assert_int_equal(d.kld_max_at, 1);
    assert_true(d.top1_agreement == 0.5);
    assert_true(fabs(d.nll_a + log(exp(2) / (exp(1) + exp(2) + exp(3)))) < 1e-12);
    assert_true(fabs(d.nll_b + log(exp(2.5) / (exp(1) + exp(2.5) + exp(3)))) < 1e-12);
}

static void divergence_of_nothing_is_zero(void **state)
{
    struct lm_divergence d = {0};

    (void)state;
    lm_divergence_finish(&d);
    assert_int_equal(d.n, 0);
    assert_true(d.kld_mean == 0 && d.mean_abs == 0 && d.top1_agreement == 0);
}

static void nan_shows(void **state)
{
    static const float a[] = {1, NAN, 2}, b[] = {1, 1, 2};
    struct lm_divergence d = {0};

    (void)state;
    lm_divergence_add(&d, a, b, 3, -1);
    lm_divergence_add(&d, b, b, 3, -1);
    lm_divergence_finish(&d);
    assert_true(isnan(d.max_abs));
    assert_true(isnan(d.kld_mean));
}

/* ---- sampling */

static void greedy_takes_the_smaller_id(void **state)
{
    static const float logits[] = {1, 7, 3, 7, 7}, nans[] = {NAN, 1, NAN, 2, 0};
    struct lm_sampling s = {.temperature = 0, .state = 5};

    (void)state;
    assert_int_equal(lm_sample(&s, logits, 5), 1);
    assert_int_equal(lm_sample(&s, nans, 5), 3);
    assert_int_equal(s.state, 5); /* nothing was drawn */
    s.temperature = -1;
    assert_int_equal(lm_sample(&s, logits, 5), 1);
    s.temperature = NAN;
    assert_int_equal(lm_sample(&s, logits, 5), 1);
}

static void a_seed_gives_one_sequence(void **state)
{
    struct lm_sampling a = {.temperature = 1, .top_p = 1, .state = 42}, b = a, c = a;
    float logits[50];
    int same = 0;

    (void)state;
    c.state = 43;
    for (int i = 0; i < 50; i++)
        logits[i] = uniform(-1, 1);
    for (int i = 0; i < 200; i++) {
        int32_t id = lm_sample(&a, logits, 50);
        assert_in_range(id, 0, 49);
        assert_int_equal(id, lm_sample(&b, logits, 50));
        same += id == lm_sample(&c, logits, 50);
    }
    assert_true(same < 100);
}

static void counts_of(struct lm_sampling s, const float *logits, size_t n, int draws, int *count)
{
    memset(count, 0, n * sizeof *count);
    s.state = 7;
    for (int i = 0; i < draws; i++)
        count[lm_sample(&s, logits, n)]++;
}

static void draws_follow_the_probabilities(void **state)
{
    static const float logits[] = {0.5f, 2, -1, 1, 2}; /* unsorted, with a tie */
    struct lm_sampling s = {.temperature = 0.8f, .top_p = 1};
    int count[5];
    enum { DRAWS = 40000 };

    (void)state;
    counts_of(s, logits, 5, DRAWS, count);
    double sum = 0;
    for (int i = 0; i < 5; i++)
        sum += exp((double)logits[i] / 0.8);
    for (int i = 0; i < 5; i++) {
        double p = exp((double)logits[i] / 0.8) / sum;
        assert_true(fabs(count[i] / (double)DRAWS - p) < 5 * sqrt(p * (1 - p) / DRAWS));
    }
}

/* Which ids are ever drawn. */
static unsigned drawn(struct lm_sampling s, const float *logits, size_t n)
{
    int count[8];
    unsigned mask = 0;

    counts_of(s, logits, n, 5000, count);
    for (size_t i = 0; i < n; i++)
        mask |= count[i] ? 1u << i : 0;
    return mask;
}

static void filters_cut_where_they_say(void **state)
{
    /* probabilities 0.1 0.4 0.1 0.2 0.2 */
    const float logits[] = {logf(0.1f), logf(0.4f), logf(0.1f), logf(0.2f), logf(0.2f)};
    const struct lm_sampling all = {.temperature = 1, .top_p = 1};
    struct lm_sampling s;

    (void)state;
    assert_int_equal(drawn(all, logits, 5), 0x1f);
    s = all, s.top_k = 1;
    assert_int_equal(drawn(s, logits, 5), 0x02);
    s = all, s.top_k = 2; /* of the two with 0.2 the smaller id */
    assert_int_equal(drawn(s, logits, 5), 0x0a);
    s = all, s.top_k = 100;
    assert_int_equal(drawn(s, logits, 5), 0x1f);
    s = all, s.top_p = 0.39f; /* the one that crosses stays */
    assert_int_equal(drawn(s, logits, 5), 0x02);
    s = all, s.top_p = 0.7f;
    assert_int_equal(drawn(s, logits, 5), 0x1a);
    s = all, s.top_p = 0;
    assert_int_equal(drawn(s, logits, 5), 0x02);
    s = all, s.min_p = 0.45f;
    assert_int_equal(drawn(s, logits, 5), 0x1a);
    s = all, s.min_p = 0.51f;
    assert_int_equal(drawn(s, logits, 5), 0x02);
    s = all, s.min_p = 2; /* the best always stays */
    assert_int_equal(drawn(s, logits, 5), 0x02);
    s = all, s.top_k = 3, s.top_p = 0.6f; /* 0.4 + 0.2 of the three's 0.8 is past 0.6 of it */
    assert_int_equal(drawn(s, logits, 5), 0x0a);
}

static void extremes_are_survived(void **state)
{
    static const float inf[] = {1, INFINITY, 2}, none[] = {-INFINITY, -INFINITY}, some[] = {-INFINITY, 3, NAN};
    static const float one[] = {4};
    struct lm_sampling s = {.temperature = 1, .top_p = 1, .state = 1};

    (void)state;
    assert_int_equal(lm_sample(&s, inf, 3), 1);
    assert_int_equal(lm_sample(&s, none, 2), 0);
    assert_int_equal(lm_sample(&s, one, 1), 0);
    for (int i = 0; i < 100; i++)
        assert_int_equal(lm_sample(&s, some, 3), 1);
    s.temperature = 1e-30f;
    static const float close[] = {1, 1.0001f, 0.9f};
    for (int i = 0; i < 100; i++)
        assert_int_equal(lm_sample(&s, close, 3), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kl_equals_its_definition),
        cmocka_unit_test(kl_is_never_negative),
        cmocka_unit_test(large_logits_do_not_overflow),
        cmocka_unit_test(divergence_sums_up),
        cmocka_unit_test(divergence_of_nothing_is_zero),
        cmocka_unit_test(nan_shows),
        cmocka_unit_test(greedy_takes_the_smaller_id),
        cmocka_unit_test(a_seed_gives_one_sequence),
        cmocka_unit_test(draws_follow_the_probabilities),
        cmocka_unit_test(filters_cut_where_they_say),
        cmocka_unit_test(extremes_are_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
