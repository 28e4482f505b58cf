/* Whole models through the engine: every fixture on cuda against the cpu and
 * against its reference, in every arithmetic; models larger than the memory;
 * tokens one by one, which are recorded as graphs. */
#include "tests/cuda_device.h"

#include <dirent.h>
#include <jansson.h>

#include "gpu/calibrate.h"
#include "gpu/compare.h"

#define FIXTURES "tests/fixtures/models/"
#define SAMPLE "samples/polish-5m"

static struct lm_model *open_model(const char *path)
{
    struct lm_model *m = NULL;
    OK(lm_model_open(&m, path, &e));
    return m;
}

struct run {
    struct lm_model *model;
    struct lm_engine *engine;
    struct lm_session *session;
    uint32_t vocab;
};

static void run_open(struct run *r, const char *path, const char *device, enum lm_math math)
{
    struct lm_engine_options o = {device, math, 0, 0};
    r->model = open_model(path);
    OK(lm_engine_open(&r->engine, r->model, &o, &e));
    OK(lm_session_open(&r->session, r->engine, &e));
    r->vocab = lm_engine_config(r->engine)->vocab_size;
}

static void run_close(struct run *r)
{
    lm_session_close(r->session);
    lm_engine_close(r->engine);
    lm_model_close(r->model);
}

/* logits [n, vocab]; `step` tokens a call. */
static float *run_logits(struct run *r, const int32_t *ids, size_t n, size_t step)
{
    float *out = malloc(n * r->vocab * sizeof *out);
    assert_non_null(out);
    lm_session_rewind(r->session, 0);
    for (size_t i = 0; i < n; i += step)
        OK(lm_session_eval(r->session, ids + i, n - i < step ? n - i : step, LM_LOGITS_ALL, out + i * r->vocab, &e));
    return out;
}

static double worst_difference(const float *a, const float *b, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst))
            worst = isnan(d) ? INFINITY : d;
    }
    return worst;
}

struct reference {
    struct lm_model *file;
    int32_t *ids;
    size_t n;
    double *logits;
};

static void read_logits(const struct lm_tensor *t, double *out)
{
    float *narrow = malloc((size_t)t->n_elems * sizeof *narrow);

    assert_non_null(narrow);
    if (t->dtype == LM_F64)
        lm_tensor_read(t, 0, t->n_bytes, out);
    else
        OK(lm_tensor_to_f32(t, 0, t->n_elems, narrow, &e));
    for (size_t i = 0; t->dtype != LM_F64 && i < t->n_elems; i++)
        out[i] = (double)narrow[i];
    free(narrow);
}

/* At most n tokens. */
static void reference_open(struct reference *r, const char *folder, size_t n)
{
    char path[512];
    snprintf(path, sizeof path, "%s/reference.safetensors", folder);
    r->file = open_model(path);
    const struct lm_tensor *ids = lm_model_find(r->file, "input_ids"), *l = lm_model_find(r->file, "logits");
    assert_true(ids && l && ids->dtype == LM_I64);
    r->n = (size_t)ids->n_elems;
    r->ids = malloc(r->n * sizeof *r->ids);
    r->logits = malloc((size_t)l->n_elems * sizeof *r->logits);
    assert_true(r->ids && r->logits);
    for (size_t i = 0; i < r->n; i++)
        r->ids[i] = (int32_t)lm_load_u64le(ids->data + 8 * i);
    read_logits(l, r->logits);
    r->n = r->n < n ? r->n : n;
}

static void reference_close(struct reference *r)
{
    free(r->ids);
    free(r->logits);
    lm_model_close(r->file);
}

/* ---- every fixture */

static char folders[128][300];
static size_t n_folders;

static int by_name(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void find_folders(void)
{
    DIR *d = opendir(FIXTURES);
    const char *only = getenv("CUDA_FIXTURE"); /* one of them */

    assert_non_null(d);
    for (struct dirent *f; n_folders < N_OF(folders) && (f = readdir(d));) {
        char path[400];
        snprintf(path, sizeof path, FIXTURES "%.100s/reference.safetensors", f->d_name);
        FILE *there = f->d_name[0] == '.' || (only && strcmp(only, f->d_name)) ? NULL : fopen(path, "rb");
        if (!there)
            continue;
        fclose(there);
        snprintf(folders[n_folders++], sizeof *folders, FIXTURES "%.100s", f->d_name);
    }
    closedir(d);
    if (!only)
        snprintf(folders[n_folders++], sizeof *folders, SAMPLE);
    qsort(folders, n_folders, sizeof *folders, by_name);
    assert_true(n_folders >= (only ? 1u : 40u));
}

static double worst_error(const float *a, const double *b, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - b[i]);
        if (!(d <= worst))
            worst = isnan(d) ? INFINITY : d;
    }
    return worst;
}

/* However the text is cut, the same bits; also one token at a time, which are recorded as graphs. */
static void check_cuts(struct run *r, const struct reference *ref, const float *once, const char *folder)
{
    static const size_t steps[] = {1, 7, 16, 65, 33}; /* emulated: the first, of the first tokens only */

    for (size_t k = 0; k < (emulated ? 1 : N_OF(steps)); k++) {
        size_t n = emulated && ref->n > 12 ? 12 : ref->n;
        float *cut = run_logits(r, ref->ids, n, steps[k]);
        if (memcmp(cut, once, n * r->vocab * sizeof *cut) != 0) {
            n_differences++;
            printf("DIFFERS %s: %zu tokens a call give other bits than one call (by %g)\n", folder, steps[k],
                   worst_difference(cut, once, n * r->vocab));
        }
        free(cut);
    }
}

static float *cpu_logits(const char *folder, const struct reference *ref)
{
    struct run r;
    run_open(&r, folder, "cpu", LM_MATH_EXACT);
    float *v = run_logits(&r, ref->ids, ref->n, ref->n);
    run_close(&r);
    return v;
}

/* Logits of tiny models are a few units; f32 differs from the truth by a few 1e-6 of that. */
#define ALLOWED_CPU 2e-4
#define ALLOWED_TRUTH 1e-3

static void every_fixture_is_the_cpus(void **unused)
{
    (void)unused;
    NEED_GPU();
    find_folders();
    for (size_t i = 0; i < n_folders; i++) {
        struct reference ref;
        struct run r;
        reference_open(&ref, folders[i], emulated && !strcmp(folders[i], SAMPLE) ? 40 : SIZE_MAX);
        float *cpu = cpu_logits(folders[i], &ref);
        run_open(&r, folders[i], "cuda", LM_MATH_EXACT);
        float *once = run_logits(&r, ref.ids, ref.n, ref.n);
        double off = worst_difference(once, cpu, ref.n * r.vocab), truth = worst_error(once, ref.logits, ref.n * r.vocab);
        printf("%s: %zu tokens, largest logit difference to the cpu %.2g, to the truth %.2g\n", folders[i], ref.n, off,
               truth);
        if (!(off <= ALLOWED_CPU) || !(truth <= ALLOWED_TRUTH)) {
            n_differences++;
            printf("DIFFERS %s: logits off by %g from the cpu's, by %g from the reference\n", folders[i], off, truth);
        }
        check_cuts(&r, &ref, once, folders[i]);
        free(once);
        free(cpu);
        run_close(&r);
        reference_close(&ref);
    }
    no_differences();
}

static double *run_logits_f64(struct run *r, const struct reference *ref)
{
    double *v = malloc(ref->n * r->vocab * sizeof *v);
    assert_non_null(v);
    OK(lm_session_eval_f64(r->session, ref->ids, ref->n, LM_LOGITS_ALL, v, &e));
    return v;
}

/* Double on cuda, double on the cpu, double in transformers. */
static void every_fixture_in_double(void **unused)
{
    (void)unused;
    NEED_GPU();
    n_folders = 0;
    find_folders();
    for (size_t i = 0; i < n_folders; i++) {
        struct reference ref;
        struct run a, b;
        double worst = 0;
        reference_open(&ref, folders[i], emulated ? 40 : SIZE_MAX);
        run_open(&a, folders[i], "cpu", LM_MATH_F64);
        run_open(&b, folders[i], "cuda", LM_MATH_F64);
        double *x = run_logits_f64(&a, &ref), *y = run_logits_f64(&b, &ref);
        for (size_t k = 0; k < ref.n * a.vocab; k++) {
            double d = fabs(x[k] - y[k]);
            worst = d <= worst ? worst : isnan(d) ? INFINITY : d;
        }
        printf("%s: float64, %zu tokens, largest logit difference to the cpu %.2g\n", folders[i], ref.n, worst);
        if (!(worst <= 1e-11)) {
            n_differences++;
            printf("DIFFERS %s: float64 logits off by %g, allowed 1e-11\n", folders[i], worst);
        }
        free(x);
        free(y);
        run_close(&a);
        run_close(&b);
        reference_close(&ref);
    }
    no_differences();
}

static size_t greedy(struct run *r, int32_t *ids, size_t n_prompt, size_t n)
{
    struct lm_sampling s = {.temperature = 0, .top_p = 1};
    float *logits = malloc(r->vocab * sizeof *logits);

    assert_non_null(logits);
    lm_session_rewind(r->session, 0);
    OK(lm_session_eval(r->session, ids, n_prompt, LM_LOGITS_LAST, logits, &e));
    for (size_t i = 0; i < n; i++) {
        ids[n_prompt + i] = lm_sample(&s, logits, r->vocab);
        OK(lm_session_eval(r->session, &ids[n_prompt + i], 1, LM_LOGITS_LAST, logits, &e));
    }
    free(logits);
    return n;
}

static void sample_continues_as_its_reference(void **unused)
{
    json_error_t error;
    struct run r;
    int32_t ids[512];

    (void)unused;
    NEED_GPU();
    json_t *ref = json_load_file(SAMPLE "/reference.json", 0, &error);
    assert_non_null(ref);
    json_t *prompt = json_object_get(ref, "prompt_ids"), *want = json_object_get(ref, "greedy_ids");
    size_t n_prompt = json_array_size(prompt), n = emulated ? 8 : json_array_size(want);
    assert_true(n_prompt > 0 && n > 0 && n_prompt + n <= N_OF(ids));
    for (size_t i = 0; i < n_prompt; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(prompt, i));
    run_open(&r, SAMPLE, "cuda", LM_MATH_EXACT);
    greedy(&r, ids, n_prompt, n);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(ids[n_prompt + i], json_integer_value(json_array_get(want, i)));
    run_close(&r);
    json_decref(ref);
}

/* The faster modes change logits by what their arithmetic explains. */
static void faster_modes_stay_close(void **unused)
{
    static const enum lm_math modes[] = {LM_MATH_FAST, LM_MATH_TF32, LM_MATH_BF16};
    static const char *const names[] = {"fast", "tf32", "bf16"};
    struct reference ref;

    (void)unused;
    NEED_GPU();
    reference_open(&ref, SAMPLE, emulated ? 40 : SIZE_MAX);
    for (size_t m = 0; m < N_OF(modes); m++) {
        struct run r;
        struct lm_divergence d = {0};
        run_open(&r, SAMPLE, "cuda", modes[m]);
        float *got = run_logits(&r, ref.ids, ref.n, ref.n);
        float *want = cpu_logits(SAMPLE, &ref);
        for (size_t i = 0; i < ref.n; i++)
            lm_divergence_add(&d, want + i * r.vocab, got + i * r.vocab, r.vocab, -1);
        free(want);
        lm_divergence_finish(&d);
        printf(SAMPLE ", %s: mean KL %.3g, largest logit difference %.3g, top-1 %.4f\n", names[m], d.kld_mean,
               d.max_abs, d.top1_agreement);
        assert_true(d.kld_mean < 1e-3 && d.top1_agreement > 0.96);
        free(got);
        run_close(&r);
    }
    reference_close(&ref);
}

/* ---- models larger than the memory */

/* An engine that may use so many MB; false: it says that this is too little, and how much it takes at least. */
static bool open_within(struct run *r, const char *path, double mb, double *least)
{
    struct lm_engine_options o = {"cuda", LM_MATH_EXACT, 0, 128};
    struct lm_err why = {0};
    char limit[64];
    const char *at;

    snprintf(limit, sizeof limit, "%.0f", mb * 1e6);
    assert_int_equal(setenv("LM_GPU_MEMORY", limit, 1), 0);
    r->model = open_model(path);
    int rc = lm_engine_open(&r->engine, r->model, &o, &why);
    unsetenv("LM_GPU_MEMORY");
    if (rc != 0) {
        assert_non_null(at = strstr(why.text, "even layer by layer "));
        *least = atof(at + strlen("even layer by layer "));
        lm_model_close(r->model);
        return false;
    }
    OK(lm_session_open(&r->session, r->engine, &e));
    r->vocab = lm_engine_config(r->engine)->vocab_size;
    return true;
}

/* Bits do not depend on which layers stay. */
static void layers_may_come_and_go(void **unused)
{
    static const struct { const char *path; double step; } models[] = { /* step: about a layer, in MB */
        {SAMPLE, 1.7}, {FIXTURES "tiny-gpt-oss", 0.02}, {FIXTURES "tiny-deepseek2", 0.03}, {FIXTURES "tiny-olmo3", 0.02}};
    size_t n_streamed = 0;

    (void)unused;
    NEED_GPU();
    for (size_t i = 0; i < N_OF(models); i++) {
        struct reference ref;
        struct run r;
        double least = 0;
        reference_open(&ref, models[i].path, emulated ? 20 : 100);
        run_open(&r, models[i].path, "cuda", LM_MATH_EXACT);
        float *want = run_logits(&r, ref.ids, ref.n, ref.n);
        run_close(&r);
        assert_false(open_within(&r, models[i].path, 0.001, &least));
        for (int k = 0; k < 4; k++) {
            char text[512] = "";
            assert_true(open_within(&r, models[i].path, least + 0.001 + models[i].step * k, &least));
            lm_engine_describe(r.engine, text, sizeof text);
            n_streamed += strstr(text, "pass through") != NULL;
            printf("%s: %s\n", models[i].path, text);
            float *got = run_logits(&r, ref.ids, ref.n, 7);
            assert_memory_equal(got, want, ref.n * r.vocab * sizeof *got);
            free(got);
            run_close(&r);
        }
        free(want);
        reference_close(&ref);
    }
    assert_true(n_streamed >= 4);
}

static void a_limit_that_is_none(void **unused)
{
    static const char *const wrong[] = {"much", "12X", "3GB", "-1", "0"};
    struct lm_engine_options o = {"cuda", LM_MATH_EXACT, 0, 128};
    struct lm_model *m;
    struct lm_engine *g;

    (void)unused;
    NEED_GPU();
    m = open_model(FIXTURES "tiny-llama");
    for (size_t i = 0; i < N_OF(wrong); i++) {
        struct lm_err e = {0};
        assert_int_equal(setenv("LM_GPU_MEMORY", wrong[i], 1), 0);
        assert_int_equal(lm_engine_open(&g, m, &o, &e), -1);
        assert_non_null(strstr(e.text, "a size is needed"));
    }
    unsetenv("LM_GPU_MEMORY");
    lm_model_close(m);
}

/* ---- divergence where the logits are */

static void run_steps(struct run *r, const struct reference *ref)
{
    lm_session_rewind(r->session, 0);
    OK(lm_session_begin(r->session, ref->ids, ref->n, &e));
    for (uint32_t i = 0; i < lm_engine_config(r->engine)->n_layers; i++)
        OK(lm_session_layer(r->session, i, &e));
}

static bool near(double a, double b)
{
    return (isnan(a) && isnan(b)) || fabs(a - b) <= 1e-12 + 1e-9 * fabs(b);
}

static void divergence_is_the_hosts(void **unused)
{
    struct reference ref;
    struct run a, b;
    struct lm_position got[512], want;
    int32_t next[512];

    (void)unused;
    NEED_GPU();
    reference_open(&ref, SAMPLE, emulated ? 40 : 500);
    run_open(&a, SAMPLE, "cuda", LM_MATH_EXACT);
    run_open(&b, SAMPLE, "cuda", LM_MATH_BF16);
    run_steps(&a, &ref);
    run_steps(&b, &ref);
    for (size_t i = 0; i < ref.n; i++)
        next[i] = i + 1 < ref.n ? ref.ids[i + 1] : -1;
    OK(lm_session_compare(a.session, b.session, 3, ref.n - 3, a.vocab, next + 3, got + 3, &e));
    float *x = malloc(a.vocab * sizeof *x), *y = malloc(a.vocab * sizeof *y);
    assert_true(x && y);
    for (size_t i = 3; i < ref.n; i++) {
        OK(lm_session_logits(a.session, i, 1, x, &e));
        OK(lm_session_logits(b.session, i, 1, y, &e));
        lm_position_compare(&want, x, y, a.vocab, next[i]);
        /* Alone a token's products are this backend's own, in f32 even in bf16 arithmetic: compare what does not care. */
        assert_int_equal(got[i].top_a, want.top_a);
        assert_true(near(got[i].nll_a, want.nll_a) && got[i].kld >= 0 && got[i].kld < 0.01);
    }
    float *many_a = malloc(ref.n * a.vocab * sizeof *many_a), *many_b = malloc(ref.n * a.vocab * sizeof *many_b);
    assert_true(many_a && many_b);
    OK(lm_session_logits(a.session, 3, ref.n - 3, many_a, &e));
    OK(lm_session_logits(b.session, 3, ref.n - 3, many_b, &e));
    for (size_t i = 3; i < ref.n; i++) {
        const struct lm_position *p = &got[i];
        lm_position_compare(&want, many_a + (i - 3) * a.vocab, many_b + (i - 3) * a.vocab, a.vocab, next[i]);
        assert_true(near(p->max_abs, want.max_abs) && near(p->mean_abs, want.mean_abs) && near(p->kld, want.kld));
        assert_true(near(p->nll_a, want.nll_a) && near(p->nll_b, want.nll_b));
        assert_true(p->top_a == want.top_a && p->top_b == want.top_b && p->top5 == want.top5);
    }
    lm_session_end(a.session);
    lm_session_end(b.session);
    free(x), free(y), free(many_a), free(many_b);
    run_close(&a);
    run_close(&b);
    reference_close(&ref);
}

/* ---- importance collected on the device */

static struct lm_imatrix *calibrated(const char *path, const char *device)
{
    struct reference ref;
    struct run r;
    struct lm_calibration *c;
    struct lm_imatrix *m;

    reference_open(&ref, path, 40);
    run_open(&r, path, device, LM_MATH_EXACT);
    OK(lm_calibration_new(&c, r.engine, true, &e));
    OK(lm_calibration_run(c, r.session, ref.ids, ref.n, NULL, &e));
    OK(lm_imatrix_new(&m, (uint32_t)ref.n, &e));
    OK(lm_calibration_add_to(c, m, &e));
    lm_calibration_free(c);
    run_close(&r);
    reference_close(&ref);
    return m;
}

static void importance_is_the_cpus(void **unused)
{
    static const char *const models[] = {FIXTURES "tiny-mixtral", FIXTURES "tiny-deepseek2", FIXTURES "tiny-gpt2"};

    (void)unused;
    NEED_GPU();
    for (size_t i = 0; i < N_OF(models); i++) {
        struct lm_imatrix *want = calibrated(models[i], "cpu"), *got = calibrated(models[i], "cuda");
        assert_int_equal(lm_imatrix_count(want), lm_imatrix_count(got));
        assert_true(lm_imatrix_count(want) > 4);
        for (size_t k = 0; k < lm_imatrix_count(want); k++) {
            const struct lm_imatrix_entry *a = lm_imatrix_at(want, k), *b = lm_imatrix_at(got, k);
            assert_string_equal(a->name, b->name);
            assert_true(a->n_values == b->n_values && a->n_counts == b->n_counts);
            assert_memory_equal(a->counts, b->counts, a->n_counts * sizeof *a->counts);
            for (size_t j = 0; j < a->n_values; j++) {
                float x = lm_load_f32le(a->sums + 4 * j), y = lm_load_f32le(b->sums + 4 * j);
                if (!(fabsf(x - y) <= 1e-4f * fabsf(x) + 1e-9f)) {
                    n_differences++;
                    printf("DIFFERS %s: %s, column %zu: %g, cpu says %g\n", models[i], a->name, j, (double)y, (double)x);
                    break;
                }
            }
        }
        lm_imatrix_free(want);
        lm_imatrix_free(got);
    }
    no_differences();
}

/* test_cuda_model [PATTERN]: only the tests whose names match. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(every_fixture_is_the_cpus), TEST(every_fixture_in_double), TEST(sample_continues_as_its_reference),
        TEST(faster_modes_stay_close),   TEST(layers_may_come_and_go),
        TEST(divergence_is_the_hosts),   TEST(importance_is_the_cpus),
        TEST(a_limit_that_is_none),
    };
    return RUN_TESTS(tests, argc, argv);
}
