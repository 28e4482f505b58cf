/* Quantizers on cuda: the bytes of the cpu's, for every type, with and without
 * importance, on values of every sort; by several threads at once; and whole
 * files. */
#include "tests/cuda_device.h"

#include <pthread.h>

static struct lm_quantizer_dev *device;

/* ---- values of every sort, a kind a block of 256 */

enum { N_KINDS = 12 };

static float value_of(int kind, size_t i)
{
    float x = gauss();

    switch (kind) {
    case 0: return x * 0.02f;
    case 1: return x;
    case 2: return 0;
    case 3: return 0.7f;                            /* all alike */
    case 4: return i % 32 == 5 ? x * 50 : x * 0.01f; /* outliers */
    case 5: return x * 1e-20f;                      /* below every group's threshold, in part */
    case 6: return x * 1e-39f;                      /* subnormal */
    case 7: return x * 3e4f;                        /* scales beyond f16 */
    case 8: return fabsf(x);
    case 9: return i % 2 ? -0.0f : x * 1e-3f;
    case 10: return (float)((int)(x * 4)) * 0.25f;  /* ties */
    default: return i % 7 == 0 ? 0 : -fabsf(x) * 0.1f;
    }
}

static float *values(size_t n)
{
    float *v = malloc(n * sizeof *v);

    assert_non_null(v);
    for (size_t i = 0; i < n; i++)
        v[i] = value_of((int)(i / 256 % N_KINDS), i);
    return v;
}

/* Importance of columns, some of it zero and some large. */
static float *importance(size_t n)
{
    float *v = malloc(n * sizeof *v);

    assert_non_null(v);
    for (size_t i = 0; i < n; i++)
        v[i] = i % 97 == 3 ? 0 : i % 211 == 5 ? 1e4f * fabsf(gauss()) : fabsf(gauss()) + 1e-3f;
    return v;
}

/* ---- comparing */

struct job {
    enum lm_dtype type;
    const float *x, *w; /* w NULL: without importance */
    size_t n_per_row, n_rows;
    bool same;
};

static uint8_t *on_cpu(const struct job *j, size_t bytes)
{
    const struct lm_dtype_info *i = lm_dtype_info(j->type);
    uint8_t *p = malloc(bytes);

    assert_non_null(p);
    if (j->w)
        i->from_f32_weighted(p, j->x, j->w, j->n_per_row, j->n_rows);
    else
        i->from_f32(p, j->x, j->n_per_row * j->n_rows);
    return p;
}

static void compare_job(struct job *j)
{
    const struct lm_dtype_info *i = lm_dtype_info(j->type);
    size_t n = j->n_per_row * j->n_rows, bytes = lm_dtype_bytes(j->type, n), at = 0;
    uint8_t *want = on_cpu(j, bytes), *got = malloc(bytes);

    assert_non_null(got);
    OK(plugin->quantizer->encode(device, j->type, got, j->x, j->w, j->n_per_row, j->n_rows, &e));
    j->same = memcmp(want, got, bytes) == 0;
    while (!j->same && want[at] == got[at])
        at++;
    if (!j->same) {
        size_t block = at / i->block_bytes;
        printf("DIFFERS %s%s, rows of %zu: block %zu (values of kind %zu), byte %zu is %02x, cpu says %02x\n", i->name,
               j->w ? " with importance" : "", j->n_per_row, block, block * i->block_elems / 256 % N_KINDS,
               at % i->block_bytes, got[at], want[at]);
    }
    free(want);
    free(got);
}

static const enum lm_dtype types[] = {LM_Q8_0, LM_Q4_0, LM_Q4_1, LM_Q5_0, LM_Q5_1, LM_Q2_K, LM_Q3_K, LM_Q4_K, LM_Q5_K, LM_Q6_K};

static void check_type(enum lm_dtype t, bool weighted, size_t n_per_row, size_t n_rows)
{
    float *x = values(n_per_row * n_rows), *w = weighted ? importance(n_per_row) : NULL;
    struct job j = {t, x, w, n_per_row, n_rows, false};

    compare_job(&j);
    n_differences += !j.same;
    free(x);
    free(w);
}

#define NEED_QUANTIZER()                                                                                               \
    do {                                                                                                               \
        NEED_GPU();                                                                                                    \
        assert_non_null(plugin->quantizer);                                                                            \
        OK(plugin->quantizer->open(&device, 0, &e));                                                                   \
    } while (0)

/* A million values and more of each, in rows of several widths. */
static void bytes_are_the_cpus(void **unused)
{
    (void)unused;
    NEED_QUANTIZER();
    for (size_t i = 0; i < N_OF(types); i++)
        for (int weighted = 0; weighted < 2; weighted++) {
            if (!plugin->quantizer->can(device, types[i], weighted))
                continue;
            size_t rows = emulated ? 256 : 4096;
            int before = n_differences;
            check_type(types[i], weighted, 4096, rows);
            check_type(types[i], weighted, 768, 33);
            check_type(types[i], weighted, 256, 1);
            if (lm_dtype_info(types[i])->block_elems == 32)
                check_type(types[i], weighted, 96, 7);
            printf("%s%s: %zu values, %s\n", lm_dtype_name(types[i]), weighted ? " with importance" : "",
                   4096 * rows + 768 * 33, n_differences == before ? "the same bytes" : "OTHER BYTES");
        }
    plugin->quantizer->close(device);
    no_differences();
}

/* Every type that is promised is the ones above; what importance does not change is left to the plain form. */
static void what_it_can(void **unused)
{
    (void)unused;
    NEED_QUANTIZER();
    for (int t = 0; t < LM_N_DTYPES; t++) {
        bool listed = false;
        for (size_t i = 0; i < N_OF(types); i++)
            listed |= types[i] == (enum lm_dtype)t;
        assert_int_equal(plugin->quantizer->can(device, (enum lm_dtype)t, false), listed);
        if (plugin->quantizer->can(device, (enum lm_dtype)t, true))
            assert_true(listed && lm_dtype_info((enum lm_dtype)t)->from_f32_weighted);
    }
    plugin->quantizer->close(device);
}

/* A row longer than a piece, and many threads with pieces of different sizes. */
static void *worker(void *arg)
{
    compare_job(arg);
    return NULL;
}

static void several_threads_at_once(void **unused)
{
    enum { N = 9 };
    struct job jobs[N];
    pthread_t threads[N];

    (void)unused;
    NEED_QUANTIZER();
    size_t n_threads = emulated ? 1 : N; /* one thing at a time there */
    for (size_t i = 0; i < n_threads; i++) {
        size_t width = 256 * (i + 1), rows = emulated ? 3 : 500 + 100 * i;
        jobs[i] = (struct job){types[i], values(width * rows), i % 2 ? importance(width) : NULL, width, rows, false};
        assert_int_equal(pthread_create(&threads[i], NULL, worker, &jobs[i]), 0);
    }
    for (size_t i = 0; i < n_threads; i++) {
        pthread_join(threads[i], NULL);
        n_differences += !jobs[i].same;
        free((void *)jobs[i].x);
        free((void *)jobs[i].w);
    }
    if (!emulated)
        check_type(LM_Q4_K, true, (size_t)5 << 20, 2);
    plugin->quantizer->close(device);
    no_differences();
}

/* test_cuda_quant [PATTERN]: only the tests whose names match. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {TEST(bytes_are_the_cpus), TEST(what_it_can), TEST(several_threads_at_once)};
    return RUN_TESTS(tests, argc, argv);
}
