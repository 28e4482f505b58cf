/* What the tests of the cuda plugin share: the device (or why there is none),
 * random numbers, a count of differences.  Without plugin or device everything is
 * skipped with the reason; REQUIRE_GPU=1 makes that a failure.  A difference is
 * one line; all of a test are printed before it fails.  tests/gpu/emulate runs
 * the same without a GPU. */
#ifndef TESTS_CUDA_DEVICE_H
#define TESTS_CUDA_DEVICE_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "gpu/net.h"

static const struct lm_plugin *plugin;
static const struct lm_backend *cuda;
static bool emulated; /* slow: the large shapes are left out */
static char why_not[1400];
static int n_differences;

#define N_OF(a) (sizeof(a) / sizeof *(a))
#define OK(call)                                                                                                       \
    do {                                                                                                               \
        struct lm_err e = {0};                                                                                         \
        if ((call) != 0)                                                                                               \
            fail_msg("%s: %s", #call, e.text);                                                                         \
    } while (0)

/* First line of every test. */
#define NEED_GPU()                                                                                                     \
    do {                                                                                                               \
        if (!cuda && getenv("REQUIRE_GPU"))                                                                            \
            fail_msg("REQUIRE_GPU is set, but %s", why_not);                                                           \
        if (!cuda)                                                                                                     \
            skip();                                                                                                    \
    } while (0)

static void no_differences(void)
{
    if (n_differences)
        fail_msg("%d differences between cuda and cpu, listed above", n_differences);
}

/* ---- random numbers */

static uint64_t state = 1;

static float uniform(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)(state >> 40) / (1 << 24) * 2 - 1;
}

/* About normal, deviation 1. */
static inline float gauss(void)
{
    return (uniform() + uniform() + uniform() + uniform()) * 0.866f;
}

static int start_anew(void **unused)
{
    (void)unused;
    n_differences = 0;
    state = 1;
    return 0;
}

static inline float *random_floats(size_t n, float scale)
{
    float *v = malloc(n * sizeof *v);
    assert_non_null(v);
    for (size_t i = 0; i < n; i++)
        v[i] = gauss() * scale;
    return v;
}

static void find_device(void)
{
    struct lm_err e = {0};
    int n = -1;

    plugin = lmi_plugin_cuda(&e);
    if (plugin)
        n = plugin->n_devices(&e);

    if (n > 0) {
        cuda = plugin->backend;
        const char *path = getenv("LM_PLUGIN_PATH");
        emulated = path && strstr(path, "/emulate");
        return;
    }
    if (n == 0)
        lm_err_set(&e, LM_MISSING, "no CUDA device on this machine");
    snprintf(why_not, sizeof why_not, "%s", e.text);
    printf("skipped: %s\n", why_not);
}

#define RUN_TESTS(tests, argc, argv)                                                                                   \
    (setvbuf(stdout, NULL, _IOLBF, 0),   /* differences before cmocka's verdict */                                     \
     (argc) > 1 ? cmocka_set_test_filter((argv)[1]) : (void)0, find_device(), cmocka_run_group_tests(tests, NULL, NULL))
#define TEST(f) cmocka_unit_test_setup(f, start_anew)

#endif
