/* Whole models on the CPU: reference logits and hidden states computed in
 * float64, greedy text, and what must not depend on how tokens are fed. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include "convert/convert.h"
#include "gpu/engine.h"

#define MODELS "tests/fixtures/models/"
#define SAMPLE "samples/polish-5m"

/* The sample and every tiny model that has a reference, found when the tests start. */
static char with_reference[96][128] = {SAMPLE};
static size_t n_models = 1;

static int find_models(void **state)
{
    DIR *d = opendir(MODELS);
    char path[512];

    (void)state;
    for (struct dirent *f; d && (f = readdir(d));) {
        snprintf(path, sizeof path, MODELS "%s/reference.safetensors", f->d_name);
        if (f->d_name[0] == '.' || access(path, R_OK) || n_models == sizeof with_reference / sizeof *with_reference)
            continue;
        snprintf(with_reference[n_models++], sizeof with_reference[0], MODELS "%.80s", f->d_name);
    }
    if (d)
        closedir(d);
    qsort(with_reference + 1, n_models - 1, sizeof *with_reference, (int (*)(const void *, const void *))strcmp);
    return n_models > 40 ? 0 : -1;
}

/* A model with an engine and a session on it. */
struct run {
    struct lm_model *m;
    struct lm_engine *g;
    struct lm_session *s;
    size_t vocab, d;
};

static void must(int rc, const struct lm_err *e)
{
    if (rc)
        fail_msg("%s", e->text);
}

static void start(struct run *r, const char *path, enum lm_math math, int threads, uint32_t ctx)
{
    struct lm_err e = {0};
    struct lm_engine_options o = {"cpu", math, threads, ctx};

    must(lm_model_open(&r->m, path, &e), &e);
    must(lm_engine_open(&r->g, r->m, &o, &e), &e);
    must(lm_session_open(&r->s, r->g, &e), &e);
    r->vocab = lm_engine_config(r->g)->vocab_size;
    r->d = lm_engine_config(r->g)->d_model;
}

static void stop(struct run *r)
{
    lm_session_close(r->s);
    lm_engine_close(r->g);
    lm_model_close(r->m);
}

/* ids, logits and hidden states of MODEL/reference.safetensors. */
struct reference {
    struct lm_model *m;
    int32_t *ids;
    size_t n;
    float *logits;
    double *exact; /* NULL where the reference was rounded */
    double scale;  /* largest logit */
};

static float *tensor_values(struct lm_model *m, const char *name)
{
    const struct lm_tensor *t = lm_model_find(m, name);
    struct lm_err e = {0};

    assert_non_null(t);
    float *v = malloc(t->n_elems * sizeof *v);
    assert_non_null(v);
    must(lm_tensor_to_f32(t, 0, t->n_elems, v, &e), &e);
    return v;
}

static void open_reference_file(struct reference *ref, const char *path)
{
    struct lm_err e = {0};

    must(lm_model_open(&ref->m, path, &e), &e);
    const struct lm_tensor *t = lm_model_find(ref->m, "input_ids");
    assert_non_null(t);
    ref->n = t->n_elems;
    ref->ids = malloc(ref->n * sizeof *ref->ids);
    assert_non_null(ref->ids);
    for (size_t i = 0; i < ref->n; i++)
        ref->ids[i] = (int32_t)lm_load_u64le(t->data + 8 * i);
    ref->logits = tensor_values(ref->m, "logits");
    const struct lm_tensor *l = lm_model_find(ref->m, "logits");
    ref->exact = NULL;
    ref->scale = 0;
    for (size_t i = 0; i < l->n_elems; i++)
        ref->scale = fmax(ref->scale, fabs((double)ref->logits[i]));
    if (l->dtype != LM_F64)
        return;
    ref->exact = malloc(l->n_bytes);
    assert_non_null(ref->exact);
    memcpy(ref->exact, l->data, l->n_bytes);
}

static void open_reference(struct reference *ref, const char *model)
{
    char path[512];

    snprintf(path, sizeof path, "%.400s/reference.safetensors", model);
    open_reference_file(ref, path);
}

static void close_reference(struct reference *ref)
{
    free(ref->ids);
    free(ref->logits);
    free(ref->exact);
    lm_model_close(ref->m);
}

static double max_diff(const float *a, const float *b, size_t n)
{
    double max = 0;

    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= max))
            max = d;
    }
    return max;
}

/* ---- against float64 */

struct hidden_check {
    struct lm_model *ref;
    size_t seen;
    double max; /* error, as a share of the largest value where that is above 1 */
};

static int check_hidden(void *user, enum lm_tap_point point, int layer, const float *data, size_t n, size_t width,
                        size_t pos0, struct lm_err *e)
{
    struct hidden_check *c = user;
    char name[64];

    (void)e;
    snprintf(name, sizeof name, "hidden_states.%d", point == LM_TAP_INPUT ? 0 : layer + 1);
    float *want = tensor_values(c->ref, name);
    double d = max_diff(data, want + pos0 * width, n * width), scale = 1;
    for (size_t i = 0; i < n * width; i++)
        scale = fmax(scale, fabs((double)want[pos0 * width + i]));
    d /= scale;
    free(want);
    c->max = d > c->max ? d : c->max;
    c->seen++;
    return 0;
}

static void reference_logits(void **state)
{
    (void)state;
    for (size_t i = 0; i < n_models; i++) {
        struct reference ref;
        struct run r;
        struct lm_err e = {0};
        open_reference(&ref, with_reference[i]);
        start(&r, with_reference[i], LM_MATH_EXACT, 1, 0);
        struct hidden_check c = {ref.m, 0, 0};
        lm_session_set_tap(r.s, 1u << LM_TAP_INPUT | 1u << LM_TAP_LAYER, check_hidden, &c);
        float *got = malloc(ref.n * r.vocab * sizeof *got);
        assert_non_null(got);
        must(lm_session_eval(r.s, ref.ids, ref.n, LM_LOGITS_ALL, got, &e), &e);
        double worst = max_diff(got, ref.logits, ref.n * r.vocab);
        print_message("%s: logits within %.2g, hidden states within %.2g\n", with_reference[i], worst, c.max);
        assert_true(worst < 1.5e-5 * fmax(1, ref.scale));
        assert_true(c.max < 2e-5);
        assert_int_equal(c.seen, lm_engine_config(r.g)->n_layers + 1);
        free(got);
        stop(&r);
        close_reference(&ref);
    }
}

/* The truth agrees with transformers' float64 to the last digits of double. */
static void float64_is_the_reference(void **state)
{
    (void)state;
    for (size_t i = 1; i < n_models; i++) {
        struct reference ref;
        struct run r;
        struct lm_err e = {0};
        open_reference(&ref, with_reference[i]);
        start(&r, with_reference[i], LM_MATH_F64, 1, 0);
        double *got = malloc(ref.n * r.vocab * sizeof *got), worst = 0;
        assert_non_null(got);
        assert_non_null(ref.exact);
        must(lm_session_eval_f64(r.s, ref.ids, ref.n, LM_LOGITS_ALL, got, &e), &e);
        for (size_t j = 0; j < ref.n * r.vocab; j++)
            worst = fmax(worst, fabs(got[j] - ref.exact[j]));
        print_message("%s: float64 within %.2g\n", with_reference[i], worst);
        assert_true(worst < 1e-12 * fmax(1, ref.scale));
        free(got);
        stop(&r);
        close_reference(&ref);
    }
}

/* Through our own GGUF: adjacent rotary pairs, divisors as tensors, stacked
 * experts, 1 + weight, latent attention split in two, matrices the other way round. */
static void convert_to(const char *model, const char *dst, const char *format)
{
    struct lm_request req = {.to = lm_format_find(format), .dtype = -1};
    struct lm_model *m;
    struct lm_plan *p;
    struct lm_err e = {0};

    must(lm_model_open(&m, model, &e), &e);
    must(lm_plan_make(&p, m, &req, &e), &e);
    must(lm_plan_run(p, dst, &(struct lm_run_options){.n_threads = 2}, &e), &e);
    lm_plan_free(p);
    lm_model_close(m);
}

static void same_file(const char *a, const char *b)
{
    char *x[2];
    size_t n[2];

    for (int i = 0; i < 2; i++) {
        FILE *f = fopen(i ? b : a, "rb");
        assert_non_null(f);
        assert_int_equal(fseek(f, 0, SEEK_END), 0);
        n[i] = (size_t)ftell(f);
        rewind(f);
        assert_non_null(x[i] = malloc(n[i] + 1));
        assert_int_equal(fread(x[i], 1, n[i], f), n[i]);
        fclose(f);
    }
    assert_int_equal(n[0], n[1]);
    assert_memory_equal(x[0], x[1], n[0]);
    free(x[0]);
    free(x[1]);
}

static void remove_folder(const char *path)
{
    char file[1024];
    DIR *d = opendir(path);

    assert_non_null(d);
    for (struct dirent *f; (f = readdir(d));) {
        snprintf(file, sizeof file, "%s/%s", path, f->d_name);
        unlink(file);
    }
    closedir(d);
    assert_int_equal(rmdir(path), 0);
}

/* Every safetensors file of a folder comes back from GGUF byte for byte; where
 * 1 + weight rounds an F32 weight, the values do. */
static void comes_back(const char *model, const char *gguf, const char *back)
{
    char mine[1024], theirs[1024];
    DIR *d = opendir(model);

    convert_to(gguf, back, "safetensors");
    assert_non_null(d);
    for (struct dirent *f; (f = readdir(d));) {
        size_t n = strlen(f->d_name);
        if (n < 12 || strcmp(f->d_name + n - 12, ".safetensors") || !strncmp(f->d_name, "reference", 9))
            continue;
        snprintf(mine, sizeof mine, "%s/%s", back, f->d_name);
        snprintf(theirs, sizeof theirs, "%s/%s", model, f->d_name);
        if (!strstr(model, "gemma2-scalar"))
            same_file(mine, theirs);
    }
    closedir(d);
}

static void logits_are_near(const char *path, const struct reference *ref, double bound)
{
    struct run r;
    struct lm_err e = {0};

    start(&r, path, LM_MATH_EXACT, 1, 0);
    float *got = malloc(ref->n * r.vocab * sizeof *got);
    assert_non_null(got);
    must(lm_session_eval(r.s, ref->ids, ref->n, LM_LOGITS_ALL, got, &e), &e);
    double worst = max_diff(got, ref->logits, ref->n * r.vocab);
    if (!(worst < bound * fmax(1, ref->scale)))
        fail_msg("%s: logits differ by %g", path, worst);
    free(got);
    stop(&r);
}

static void gguf_gives_the_same(void **state)
{
    char dir[] = "/tmp/lm-engine-XXXXXX", path[64], back[64];

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/m.gguf", dir);
    snprintf(back, sizeof back, "%s/back/", dir);
    for (size_t i = 1; i < n_models; i++) {
        struct reference ref;
        convert_to(with_reference[i], path, "gguf");
        open_reference(&ref, with_reference[i]);
        logits_are_near(path, &ref, 2e-5);
        comes_back(with_reference[i], path, back);
        logits_are_near(back, &ref, 2e-5);
        close_reference(&ref);
        remove_folder(back);
        unlink(path);
    }
    assert_int_equal(rmdir(dir), 0);
}

/* Within the original context LongRoPE's other divisors count. */
static void longrope_switches(void **state)
{
    struct reference ref;
    struct run r;
    struct lm_err e = {0};
    float *got;

    (void)state;
    open_reference_file(&ref, MODELS "tiny-phi3/reference-short.safetensors");
    start(&r, MODELS "tiny-phi3", LM_MATH_EXACT, 0, 64);
    assert_non_null(got = malloc(ref.n * r.vocab * sizeof *got));
    must(lm_session_eval(r.s, ref.ids, ref.n, LM_LOGITS_ALL, got, &e), &e);
    assert_true(max_diff(got, ref.logits, ref.n * r.vocab) < 2e-5 * ref.scale);
    stop(&r);
    start(&r, MODELS "tiny-phi3", LM_MATH_EXACT, 0, 65);
    must(lm_session_eval(r.s, ref.ids, ref.n, LM_LOGITS_ALL, got, &e), &e);
    assert_true(max_diff(got, ref.logits, ref.n * r.vocab) > 1e-3);
    stop(&r);
    free(got);
    close_reference(&ref);
}

static int32_t argmax(const float *x, size_t n)
{
    return lm_sample(&(struct lm_sampling){0}, x, n);
}

static size_t json_ids(json_t *root, const char *key, int32_t *ids, size_t cap)
{
    json_t *a = json_object_get(root, key);
    size_t n = json_array_size(a);

    assert_in_range(n, 1, cap);
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(a, i));
    return n;
}

static void greedy_ids(void **state)
{
    int32_t prompt[64], want[64];
    json_t *root = json_load_file(SAMPLE "/reference.json", 0, NULL);
    struct run r;
    struct lm_err e = {0};

    (void)state;
    assert_non_null(root);
    size_t n_prompt = json_ids(root, "prompt_ids", prompt, 64), n = json_ids(root, "greedy_ids", want, 64);
    json_decref(root);
    assert_int_equal(n, 48);
    start(&r, SAMPLE, LM_MATH_EXACT, 0, 0);
    float *logits = malloc(r.vocab * sizeof *logits);
    assert_non_null(logits);
    must(lm_session_eval(r.s, prompt, n_prompt, LM_LOGITS_LAST, logits, &e), &e);
    for (size_t i = 0; i < n; i++) {
        int32_t id = argmax(logits, r.vocab);
        assert_int_equal(id, want[i]);
        must(lm_session_eval(r.s, &id, 1, LM_LOGITS_LAST, logits, &e), &e);
    }
    free(logits);
    stop(&r);
}

/* ---- what does not change a result */

/* The first 64 tokens of the reference. */
static float *eval_in_chunks(const char *model, enum lm_math math, int threads, size_t chunk, size_t *n_out)
{
    enum { N = 64 };
    struct reference ref;
    struct run r;
    struct lm_err e = {0};

    open_reference(&ref, model);
    start(&r, model, math, threads, 0);
    assert_true(ref.n >= N);
    float *got = malloc(N * r.vocab * sizeof *got);
    assert_non_null(got);
    for (size_t i = 0; i < N; i += chunk) {
        size_t n = N - i < chunk ? N - i : chunk;
        must(lm_session_eval(r.s, ref.ids + i, n, LM_LOGITS_ALL, got + i * r.vocab, &e), &e);
    }
    *n_out = N * r.vocab;
    stop(&r);
    close_reference(&ref);
    return got;
}

static void chunks_and_threads_change_no_bit(void **state)
{
    static const struct { int threads; size_t chunk; } ways[] = {{1, 1000}, {2, 1000}, {3, 33}, {2, 7}, {1, 1}};

    (void)state;
    for (size_t m = 0; m < 2 * n_models; m++) {
        const char *model = with_reference[m / 2];
        enum lm_math math = m % 2 ? LM_MATH_FAST : LM_MATH_EXACT;
        size_t n, n2;
        float *first = eval_in_chunks(model, math, ways[0].threads, ways[0].chunk, &n);
        for (size_t i = 1; i < sizeof ways / sizeof *ways; i++) {
            float *other = eval_in_chunks(model, math, ways[i].threads, ways[i].chunk, &n2);
            assert_int_equal(n, n2);
            assert_memory_equal(first, other, n * sizeof *first);
            free(other);
        }
        free(first);
    }
}

/* LAST takes a short cut through the last layer; the bits must be ALL's. */
static void last_equals_all(void **state)
{
    struct reference ref;
    struct run r;
    struct lm_err e = {0};
    enum { N = 40 };

    (void)state;
    open_reference(&ref, SAMPLE);
    start(&r, SAMPLE, LM_MATH_EXACT, 0, 0);
    float *all = malloc(N * r.vocab * sizeof *all), *last = malloc(r.vocab * sizeof *last);
    assert_non_null(all);
    assert_non_null(last);
    must(lm_session_eval(r.s, ref.ids, N, LM_LOGITS_ALL, all, &e), &e);
    lm_session_rewind(r.s, 0);
    must(lm_session_eval(r.s, ref.ids, N - 9, LM_LOGITS_NONE, NULL, &e), &e);
    must(lm_session_eval(r.s, ref.ids + N - 9, 9, LM_LOGITS_LAST, last, &e), &e);
    assert_memory_equal(last, all + (N - 1) * r.vocab, r.vocab * sizeof *last);
    assert_int_equal(lm_session_n_past(r.s), N);
    free(all);
    free(last);
    stop(&r);
    close_reference(&ref);
}

/* A wrong turn, taken back, leaves no trace. */
static void rewind_forgets(void **state)
{
    static const int32_t wrong[] = {5, 9, 2, 2, 700, 31};
    struct reference ref;
    struct run r;
    struct lm_err e = {0};

    (void)state;
    open_reference(&ref, SAMPLE);
    start(&r, SAMPLE, LM_MATH_EXACT, 0, 0);
    float *a = malloc(r.vocab * sizeof *a), *b = malloc(r.vocab * sizeof *b);
    assert_non_null(a);
    assert_non_null(b);
    must(lm_session_eval(r.s, ref.ids, 30, LM_LOGITS_LAST, a, &e), &e);
    lm_session_rewind(r.s, 20);
    assert_int_equal(lm_session_n_past(r.s), 20);
    must(lm_session_eval(r.s, wrong, 6, LM_LOGITS_LAST, b, &e), &e);
    assert_true(max_diff(a, b, r.vocab) > 0.1);
    lm_session_rewind(r.s, 20);
    lm_session_rewind(r.s, 400); /* later than now: nothing to forget */
    assert_int_equal(lm_session_n_past(r.s), 20);
    must(lm_session_eval(r.s, ref.ids + 20, 10, LM_LOGITS_LAST, b, &e), &e);
    assert_memory_equal(a, b, r.vocab * sizeof *a);
    free(a);
    free(b);
    stop(&r);
    close_reference(&ref);
}

/* ---- quick arithmetic */

static void fast_is_close(void **state)
{
    (void)state;
    for (size_t i = 0; i < n_models; i++) {
        struct reference ref;
        struct run r;
        struct lm_err e = {0};
        open_reference(&ref, with_reference[i]);
        start(&r, with_reference[i], LM_MATH_FAST, 1, 0);
        float *got = malloc(ref.n * r.vocab * sizeof *got);
        assert_non_null(got);
        must(lm_session_eval(r.s, ref.ids, ref.n, LM_LOGITS_ALL, got, &e), &e);
        struct lm_divergence d = {0};
        for (size_t t = 0; t < ref.n; t++)
            lm_divergence_add(&d, ref.logits + t * r.vocab, got + t * r.vocab, r.vocab, -1);
        lm_divergence_finish(&d);
        print_message("%s: fast, mean KLD %.2g\n", with_reference[i], d.kld_mean);
        /* Where rounding tips the choice of an expert, one position moves a lot. */
        assert_true(d.kld_mean < (lm_engine_config(r.g)->n_experts ? 2e-2 : 1e-3));
        free(got);
        stop(&r);
        close_reference(&ref);
    }
}

/* ---- taps and injection */

struct tap_log {
    size_t calls[LM_TAP_LAYER + 1];
    size_t width[LM_TAP_LAYER + 1];
    double prob_error;
    float *input;  /* of layer 1: what layer 0 gave */
    float *output; /* of the last layer */
    int n_layers;
};

static int log_tap(void *user, enum lm_tap_point point, int layer, const float *data, size_t n, size_t width,
                   size_t pos0, struct lm_err *e)
{
    struct tap_log *log = user;

    (void)e, (void)pos0;
    log->calls[point]++;
    log->width[point] = width;
    for (size_t h = 0; point == LM_TAP_PROBS && h < n; h++) {
        double sum = 0;
        for (size_t i = 0; i < width; i++)
            sum += (double)data[h * width + i];
        log->prob_error = fmax(log->prob_error, fabs(sum - 1));
    }
    if (point == LM_TAP_LAYER && layer == 0)
        memcpy(log->input, data, n * width * sizeof *data);
    if (point == LM_TAP_LAYER && layer == log->n_layers - 1)
        memcpy(log->output, data, n * width * sizeof *data);
    return 0;
}

static void taps_show_and_injection_replaces(void **state)
{
    static const int32_t ids[] = {689, 2121, 314, 2957, 354, 667, 295, 275}, zeros[8];
    struct run r;
    struct lm_err e = {0};

    (void)state;
    start(&r, SAMPLE, LM_MATH_EXACT, 0, 0);
    const struct lm_config *c = lm_engine_config(r.g);
    struct tap_log log = {.input = malloc(8 * r.d * 4), .output = malloc(8 * r.d * 4), .n_layers = (int)c->n_layers};
    float *first = malloc(8 * r.d * 4), *layer1 = malloc(8 * r.d * 4);
    lm_session_set_tap(r.s, 0xff, log_tap, &log);
    must(lm_session_eval(r.s, ids, 8, LM_LOGITS_NONE, NULL, &e), &e);
    assert_int_equal(log.calls[LM_TAP_EMBED], 1);
    assert_int_equal(log.calls[LM_TAP_INPUT], 1);
    for (int p = LM_TAP_Q; p <= LM_TAP_LAYER; p++)
        assert_int_equal(log.calls[p], c->n_layers);
    assert_int_equal(log.width[LM_TAP_Q], c->n_heads * c->d_head);
    assert_int_equal(log.width[LM_TAP_K], c->n_kv_heads * c->d_head);
    assert_int_equal(log.width[LM_TAP_PROBS], 8);
    assert_true(log.prob_error < 1e-6);

    /* Other tokens, but layer 1 is given what the first run's layer 0 gave. */
    memcpy(first, log.output, 8 * r.d * 4);
    memcpy(layer1, log.input, 8 * r.d * 4);
    lm_session_rewind(r.s, 0);
    lm_session_inject(r.s, 1, layer1);
    must(lm_session_eval(r.s, zeros, 8, LM_LOGITS_NONE, NULL, &e), &e);
    assert_memory_equal(first, log.output, 8 * r.d * 4);
    lm_session_inject(r.s, 1, NULL);
    lm_session_rewind(r.s, 0);
    must(lm_session_eval(r.s, zeros, 8, LM_LOGITS_NONE, NULL, &e), &e);
    assert_true(max_diff(first, log.output, 8 * r.d) > 0.01);
    free(log.input);
    free(log.output);
    free(first);
    free(layer1);
    stop(&r);
}

static int failing_tap(void *user, enum lm_tap_point point, int layer, const float *data, size_t n, size_t width,
                       size_t pos0, struct lm_err *e)
{
    (void)user, (void)point, (void)layer, (void)data, (void)n, (void)width, (void)pos0;
    return lm_err_set(e, LM_INTERRUPTED, "enough");
}

/* ---- what is refused */

static void bad_input_is_refused(void **state)
{
    int32_t ids[600] = {1, 2, 3};
    struct run r;
    struct lm_err e = {0};
    float *logits;

    (void)state;
    start(&r, SAMPLE, LM_MATH_EXACT, 1, 0);
    logits = malloc(r.vocab * sizeof *logits);
    ids[1] = 4096;
    assert_int_equal(lm_session_eval(r.s, ids, 3, LM_LOGITS_LAST, logits, &e), -1);
    assert_int_equal(e.code, LM_USAGE);
    assert_non_null(strstr(e.text, "4096"));
    ids[1] = -1;
    assert_int_equal(lm_session_eval(r.s, ids, 3, LM_LOGITS_LAST, logits, &e), -1);
    ids[1] = 4095;
    assert_int_equal(lm_session_n_past(r.s), 0);
    must(lm_session_eval(r.s, ids, 3, LM_LOGITS_LAST, logits, &e), &e);
    assert_int_equal(lm_engine_ctx_len(r.g), 512);
    assert_int_equal(lm_session_eval(r.s, ids, 510, LM_LOGITS_LAST, logits, &e), -1);
    assert_int_equal(e.code, LM_LIMIT);
    assert_non_null(strstr(e.text, "512"));
    must(lm_session_eval(r.s, ids, 509, LM_LOGITS_LAST, logits, &e), &e);
    assert_int_equal(lm_session_eval(r.s, ids, 1, LM_LOGITS_LAST, logits, &e), -1);
    lm_session_rewind(r.s, 0);
    lm_session_set_tap(r.s, 1u << LM_TAP_LAYER, failing_tap, NULL);
    assert_int_equal(lm_session_eval(r.s, ids, 3, LM_LOGITS_NONE, NULL, &e), -1);
    assert_int_equal(e.code, LM_INTERRUPTED);
    assert_int_equal(lm_session_n_past(r.s), 0);
    free(logits);
    stop(&r);
}

static void bad_options_are_refused(void **state)
{
    static const char *const devices[] = {"gpu", "cuda:", "cuda:x", "cuda:99999", "CPU", ""};
    struct lm_model *m;
    struct lm_engine *g;
    struct lm_err e = {0};

    (void)state;
    must(lm_model_open(&m, MODELS "tiny-gpt2", &e), &e);
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
        struct lm_engine_options o = {devices[i], LM_MATH_EXACT, 1, 0};
        assert_int_equal(lm_engine_open(&g, m, &o, &e), -1);
        assert_int_equal(e.code, LM_USAGE);
    }
    /* GPT-2 has learned 96 positions and no more. */
    assert_int_equal(lm_engine_open(&g, m, &(struct lm_engine_options){"cpu", LM_MATH_EXACT, 1, 97}, &e), -1);
    assert_int_equal(e.code, LM_LIMIT);
    assert_non_null(strstr(e.text, "96"));
    lm_model_close(m);
    /* RoPE goes on past the trained context. */
    struct run r;
    start(&r, MODELS "tiny-llama", LM_MATH_EXACT, 1, 300);
    assert_int_equal(lm_engine_ctx_len(r.g), 300);
    stop(&r);
}

/* The plugin is looked for once a process: each case has a child of its own,
 * whose exit status is the number of what went wrong. */
static int child_without_plugin(const char *path, enum lm_code code, const char *named)
{
    struct lm_engine_options o = {"cuda", LM_MATH_EXACT, 1, 0};
    struct lm_model *m;
    struct lm_engine *g;
    struct lm_err e = {0};
    char what[2000];

    setenv("LM_PLUGIN_PATH", path, 1);
    if (lm_model_open(&m, MODELS "tiny-llama", &e))
        return 1;
    if (lm_engine_open(&g, m, &o, &e) == 0 || e.code != code)
        return 2;
    if (!strstr(e.text, named))
        return 3;
    lm_engine_devices(what, sizeof what);
    if (!strstr(what, "cuda: ") || !strstr(what, named))
        return 4;
    o.device = "auto";
    if (lm_engine_open(&g, m, &o, &e))
        return 5;
    lm_engine_describe(g, what, sizeof what);
    return strstr(what, "cpu, 1 thread,") ? 0 : 6;
}

static void in_child(const char *path, enum lm_code code, const char *named)
{
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0)
        _exit(child_without_plugin(path, code, named));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void a_broken_plugin_is_named(void **state)
{
    char dir[] = "/tmp/lm-engine-XXXXXX", path[64];
    FILE *f;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/libmodel-cuda.so", dir);
    assert_non_null(f = fopen(path, "w"));
    fputs("not a shared object\n", f);
    fclose(f);
    in_child(dir, LM_UNSUPPORTED, path);
    unlink(path);
    assert_int_equal(rmdir(dir), 0);
}

/* Only where none was built: the build folder is searched, too. */
static void a_missing_plugin_is_named(void **state)
{
    char exe[512], beside[600];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);

    (void)state;
    assert_true(n > 0);
    exe[n] = 0;
    *strrchr(exe, '/') = 0;
    snprintf(beside, sizeof beside, "%s/../libmodel-cuda.so", exe);
    if (access(beside, F_OK) == 0 || access(LM_LIBDIR "/libmodel-cuda.so", F_OK) == 0)
        skip();
    in_child("/nonexistent/one:/nonexistent/two", LM_MISSING, "/nonexistent/one/libmodel-cuda.so, /nonexistent/two/");
    in_child("", LM_MISSING, LM_LIBDIR "/libmodel-cuda.so");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_broken_plugin_is_named), /* first: they fork, and no thread has been started yet */
        cmocka_unit_test(a_missing_plugin_is_named),
        cmocka_unit_test(reference_logits),
        cmocka_unit_test(gguf_gives_the_same),
        cmocka_unit_test(greedy_ids),
        cmocka_unit_test(chunks_and_threads_change_no_bit),
        cmocka_unit_test(float64_is_the_reference),
        cmocka_unit_test(longrope_switches),
        cmocka_unit_test(last_equals_all),
        cmocka_unit_test(rewind_forgets),
        cmocka_unit_test(fast_is_close),
        cmocka_unit_test(taps_show_and_injection_replaces),
        cmocka_unit_test(bad_input_is_refused),
        cmocka_unit_test(bad_options_are_refused),
    };
    return cmocka_run_group_tests(tests, find_models, NULL);
}
