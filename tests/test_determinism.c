/* One model, one text, one result: the same bits for any chunking of the text,
 * number of threads, way of feeding and run, in exact, fast and double
 * arithmetic, with every set of kernels that this machine has, for every tiny
 * model, as it is stored and quantized. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <glob.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "convert/convert.h"
#include "gpu/cpu.h"
#include "gpu/net.h"

#define MODELS "tests/fixtures/models/"
enum { N = 70 }; /* past the windows of the tiny models, and past 64 */

static const char *const kernel_sets[] = {"portable", "avx2", "avx512-vnni", "avx512-bf16"};
enum { N_SETS = sizeof kernel_sets / sizeof *kernel_sets };

static void must(int rc, const struct lm_err *e)
{
    if (rc)
        fail_msg("%s", e->text);
}

/* A model on the CPU with kernels of our choice; NULL: those of double arithmetic. */
struct run {
    struct lm_engine *g;
    struct lm_session *s;
    size_t vocab;
};

static void start(struct run *r, struct lm_model *m, const struct lmi_kernels *k, enum lm_math math, int threads)
{
    struct lm_engine_options o = {"cpu", math, threads, 80}; /* GPT-2's tiny kin have learned no more */
    struct lm_backend_options bo = {math, threads, 0};
    struct lm_err e = {0};

    must(lm_engine_open(&r->g, m, &o, &e), &e);
    if (k) {
        r->g->backend->close(r->g->dev);
        must(lmi_cpu_open(&r->g->dev, &r->g->net, &bo, k, &e), &e);
    }
    must(lm_session_open(&r->s, r->g, &e), &e);
    r->vocab = lm_engine_config(r->g)->vocab_size;
}

static void stop(struct run *r)
{
    lm_session_close(r->s);
    lm_engine_close(r->g);
}

/* How a text is fed: in chunks, or (chunk 0) layer by layer. */
struct way { int threads; size_t chunk; };

static float *logits_of(struct lm_model *m, const struct lmi_kernels *k, enum lm_math math, struct way w, size_t *n)
{
    struct run r;
    struct lm_err e = {0};
    int32_t ids[N];

    start(&r, m, k, math, w.threads);
    float *got = malloc(N * r.vocab * sizeof *got);
    assert_non_null(got);
    for (int i = 0; i < N; i++)
        ids[i] = (int32_t)((uint32_t)(i + 1) * 2654435761u % r.vocab);
    for (size_t i = 0; w.chunk && i < N; i += w.chunk)
        must(lm_session_eval(r.s, ids + i, N - i < w.chunk ? N - i : w.chunk, LM_LOGITS_ALL, got + i * r.vocab, &e), &e);
    if (!w.chunk) {
        must(lm_session_begin(r.s, ids, N, &e), &e);
        for (uint32_t i = 0; i < lm_engine_config(r.g)->n_layers; i++)
            must(lm_session_layer(r.s, i, &e), &e);
        must(lm_session_logits(r.s, 3, N - 3, got + 3 * r.vocab, &e), &e);
        must(lm_session_logits(r.s, 0, 3, got, &e), &e);
        lm_session_end(r.s);
        assert_int_equal(lm_session_n_past(r.s), N);
    }
    *n = N * r.vocab;
    stop(&r);
    return got;
}

struct counts { unsigned runs, differ; double between_sets; };

/* Largest difference, as a share of the logit where that is above 1. */
static double distance(const float *a, const float *b, size_t n)
{
    double most = 0;

    for (size_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)a[i] - (double)b[i]) / fmax(1, fabs((double)a[i])));
    return most;
}

/* Ways, the more telling ones first, against {1, N}; what that gives is returned. */
static float *check_ways(struct lm_model *m, const struct lmi_kernels *k, enum lm_math math, size_t n_ways, size_t *n,
                         struct counts *c)
{
    static const struct way ways[] = {{2, N}, {1, 7}, {1, 0}, {2, 33}, {1, 1}, {3, N}};
    float *first = logits_of(m, k, math, (struct way){1, N}, n);
    size_t n2;

    for (size_t i = 0; i < n_ways; i++) {
        float *other = logits_of(m, k, math, ways[i], &n2);
        assert_int_equal(*n, n2);
        bool same = memcmp(first, other, *n * sizeof *first) == 0;
        c->runs++;
        c->differ += !same;
        if (!same)
            print_message("%s, %s, %s: %d threads, chunks of %zu give other bits\n", lm_model_path(m),
                          k ? k->name : "f64", math == LM_MATH_FAST ? "fast" : "exact", ways[i].threads, ways[i].chunk);
        free(other);
    }
    return first;
}

static void check_model(struct lm_model *m, bool all_sets, struct counts *c)
{
    float *best[2] = {0}, *x;
    size_t n;

    for (int math = LM_MATH_EXACT; math <= LM_MATH_FAST; math++)
        for (int s = N_SETS - 1; s >= 0 && (all_sets || !best[math]); s--) {
            const struct lmi_kernels *k = lmi_kernels_find(kernel_sets[s]);
            if (!k)
                continue;
            x = check_ways(m, k, (enum lm_math)math, best[math] ? 2 : 6, &n, c);
            if (!best[math]) {
                best[math] = x;
                continue;
            }
            if (math == LM_MATH_EXACT)
                c->between_sets = fmax(c->between_sets, distance(best[math], x, n));
            free(x);
        }
    free(check_ways(m, NULL, LM_MATH_F64, 3, &n, c));
    free(best[0]);
    free(best[1]);
}

static void quantized(const char *model, const char *type, const char *dst)
{
    struct lm_request req = {.to = lm_format_find("gguf"), .quantize = true, .ftype = lm_ftype_find(type), .dtype = -1};
    struct lm_model *m;
    struct lm_plan *p;
    struct lm_err e = {0};

    must(lm_model_open(&m, model, &e), &e);
    must(lm_plan_make(&p, m, &req, &e), &e);
    must(lm_plan_run(p, dst, &(struct lm_run_options){.n_threads = 1, .force = true}, &e), &e);
    lm_plan_free(p);
    lm_model_close(m);
}

static void bits_do_not_change(void **state)
{
    static const char *const types[] = {NULL, "Q8_0", "Q4_K_M"};
    char dir[] = "/tmp/lm-determinism-XXXXXX", path[64];
    struct counts c = {0};
    unsigned n_models = 0;
    glob_t g;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/q.gguf", dir);
    assert_int_equal(glob(MODELS "*/config.json", 0, NULL, &g), 0);
    for (size_t i = 0; i < g.gl_pathc; i++)
        for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
            struct lm_model *m;
            struct lm_err e = {0};
            if (t == 0)
                *strrchr(g.gl_pathv[i], '/') = 0;
            else
                quantized(g.gl_pathv[i], types[t], path);
            must(lm_model_open(&m, t ? path : g.gl_pathv[i], &e), &e);
            check_model(m, t < 2, &c);
            lm_model_close(m);
            n_models++;
        }
    globfree(&g);
    unlink(path);
    assert_int_equal(rmdir(dir), 0);
    print_message("%u models, %u pairs of runs compared, %u differ; sets of kernels differ by %.2g\n", n_models, c.runs,
                  c.differ, c.between_sets);
    assert_int_equal(c.differ, 0);
    assert_true(n_models > 120 && c.between_sets < 1e-4);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(bits_do_not_change)};

    /* Threads that wait must not spin where others work; OpenMP reads this once. */
    if (!getenv("OMP_WAIT_POLICY") && setenv("OMP_WAIT_POLICY", "passive", 1) == 0)
        execv("/proc/self/exe", argv);
    (void)argc;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
