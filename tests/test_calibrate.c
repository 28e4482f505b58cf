/* Squares of activations: against llama.cpp's, against what they must be, and
 * what stays the same however the work is done. */
#include "tests/commands.h"

#include <math.h>

#include "gpu/calibrate.h"
#include "libmodel/libmodel.h"

#define MIXTRAL "tests/fixtures/models/tiny-mixtral"


static struct lm_imatrix *read_imatrix(const char *path)
{
    struct lm_err e = {0};
    struct lm_imatrix *m;

    if (lm_imatrix_read(&m, path, &e))
        fail_msg("%s", e.text);
    return m;
}

static double worst_difference(const struct lm_imatrix *a, const struct lm_imatrix *b)
{
    double worst = 0;

    assert_int_equal(lm_imatrix_count(a), lm_imatrix_count(b));
    for (size_t i = 0; i < lm_imatrix_count(a); i++) {
        const struct lm_imatrix_entry *x = lm_imatrix_at(a, i), *y = lm_imatrix_at(b, i);
        assert_string_equal(x->name, y->name);
        assert_int_equal(x->n_values, y->n_values);
        assert_int_equal(x->n_counts, y->n_counts);
        for (size_t k = 0; k < x->n_counts; k++)
            assert_int_equal(x->counts[k], y->counts[k]);
        for (size_t k = 0; k < x->n_values; k++) {
            double p = (double)lm_load_f32le(x->sums + 4 * k), q = (double)lm_load_f32le(y->sums + 4 * k);
            double d = q > 0 ? fabs(p - q) / q : p;
            worst = d > worst ? d : worst;
        }
    }
    return worst;
}

static void calibrate(const char *name, const char *const *more)
{
    const char *argv[24] = {command_path("lm-calibrate"), "-o", path_in(dir, name)};
    size_t n = 3;

    while (*more)
        argv[n++] = *more++;
    struct output o = command_run(argv, dir);
    if (o.code)
        fail_msg("lm-calibrate: %s", (const char *)o.err.data);
    output_free(&o);
}

#define CALIBRATE(name, ...) calibrate(name, (const char *const[]){__VA_ARGS__, NULL})
#define POLISH "samples/polish-5m", "-f", "tests/fixtures/imatrix/calibration.txt", "--ctx", "64"

static void test_equals_llama_cpp(void **state)
{
    struct lm_imatrix *theirs = read_imatrix("tests/fixtures/imatrix/calibration.gguf"), *ours;
    (void)state;

    CALIBRATE("ours.gguf", POLISH, "--chunks", "4");
    ours = read_imatrix(path_in(dir, "ours.gguf"));
    assert_true(worst_difference(ours, theirs) < 1e-5);
    assert_int_equal(lm_imatrix_chunks(ours), lm_imatrix_chunks(theirs));
    assert_int_equal(lm_imatrix_chunk_size(ours), 64);
    lm_imatrix_free(ours);
    lm_imatrix_free(theirs);
}

static void same_bytes(const char *a, const char *b)
{
    struct bytes x = read_back(path_in(dir, a)), y = read_back(path_in(dir, b));

    assert_int_equal(x.n, y.n);
    assert_memory_equal(x.data, y.data, x.n);
    bytes_free(&x);
    bytes_free(&y);
}

/* Threads, saving on the way and the container change nothing; parts add up. */
static void test_the_same_however_done(void **state)
{
    struct lm_imatrix *whole, *sum;
    (void)state;

    CALIBRATE("one.gguf", POLISH, "--chunks", "4", "--threads", "1");
    CALIBRATE("many.gguf", POLISH, "--chunks", "4", "--threads", "3", "--save-every", "1");
    same_bytes("one.gguf", "many.gguf");
    CALIBRATE("first.gguf", POLISH, "--chunks", "3");
    CALIBRATE("rest.gguf", POLISH, "--chunks", "1", "--skip", "3", "--merge", path_in(dir, "first.gguf"));
    whole = read_imatrix(path_in(dir, "one.gguf"));
    sum = read_imatrix(path_in(dir, "rest.gguf"));
    assert_true(worst_difference(sum, whole) < 1e-6);
    assert_int_equal(lm_imatrix_chunks(sum), 4);
    lm_imatrix_free(sum);
    CALIBRATE("old.dat", "--merge", path_in(dir, "one.gguf"));
    struct bytes dat = read_back(path_in(dir, "old.dat"));
    assert_int_equal(lm_load_u32le(dat.data), lm_imatrix_count(whole));
    bytes_free(&dat);
    lm_imatrix_free(whole);
}

/* ---- the library */

struct ready { struct lm_model *m; struct lm_engine *g; struct lm_session *s; struct lm_calibration *c; };

static struct ready make_ready(const char *path, bool output)
{
    struct lm_engine_options o = {.device = "cpu", .math = LM_MATH_EXACT, .n_threads = 2, .ctx_len = 64};
    struct lm_err e = {0};
    struct ready r = {0};

    if (lm_model_open(&r.m, path, &e) || lm_engine_open(&r.g, r.m, &o, &e) || lm_session_open(&r.s, r.g, &e) ||
        lm_calibration_new(&r.c, r.g, output, &e))
        fail_msg("%s", e.text);
    return r;
}

static void end(struct ready *r)
{
    lm_calibration_free(r->c);
    lm_session_close(r->s);
    lm_engine_close(r->g);
    lm_model_close(r->m);
}

static const int32_t ids[48] = {1, 5, 9, 44, 3, 17, 80, 2, 91, 30, 31, 32, 33, 7, 7, 7, 60, 61, 62, 63, 12, 14, 16, 18,
                                20, 22, 24, 26, 28, 95, 94, 93, 92, 1, 5, 9, 44, 3, 17, 80, 2, 91, 30, 31, 32, 33, 7, 7};
enum { N_IDS = 48 };

static struct lm_imatrix *run(struct ready *r)
{
    struct lm_err e = {0};
    struct lm_imatrix *m = NULL;

    if (lm_calibration_run(r->c, r->s, ids, N_IDS, NULL, &e) || lm_imatrix_new(&m, N_IDS, &e) ||
        lm_calibration_add_to(r->c, m, &e))
        fail_msg("%s", e.text);
    return m;
}

static float sum_at(const struct lm_imatrix *m, const char *name, size_t i)
{
    const struct lm_imatrix_entry *x = lm_imatrix_find(m, name);

    if (!x)
        fail_msg("%s is missing", name);
    assert_true(i < x->n_values);
    return lm_load_f32le(x->sums + 4 * i);
}

/* The first layer's queries read normed embeddings, which are in the file. */
static void test_first_layer_by_hand(void **state)
{
    struct ready r = make_ready(MIXTRAL, false);
    struct lm_imatrix *m = run(&r);
    const struct lm_tensor *rows = lm_model_find(r.m, "model.embed_tokens.weight");
    const struct lm_tensor *norm = lm_model_find(r.m, "model.layers.0.input_layernorm.weight");
    float row[32], w[32];
    double want[32] = {0};
    (void)state;

    assert_int_equal(lm_tensor_to_f32(norm, 0, 32, w, NULL), 0);
    for (size_t t = 0; t < N_IDS; t++) {
        double square = 0;
        assert_int_equal(lm_tensor_to_f32(rows, (uint64_t)ids[t] * 32, 32, row, NULL), 0);
        for (size_t i = 0; i < 32; i++)
            square += (double)row[i] * (double)row[i];
        for (size_t i = 0; i < 32; i++)
            want[i] += pow((double)row[i] / sqrt(square / 32 + 1e-5) * (double)w[i], 2);
    }
    for (size_t i = 0; i < 32; i++) {
        assert_true(fabs((double)sum_at(m, "blk.0.attn_q.weight", i) / want[i] - 1) < 1e-6);
        assert_true(sum_at(m, "blk.0.attn_q.weight", i) == sum_at(m, "blk.0.attn_v.weight", i));
    }
    lm_imatrix_free(m);
    end(&r);
}

/* What reaches the experts is what the router read, each token as often as experts are used. */
static void test_experts_add_up(void **state)
{
    struct ready r = make_ready(MIXTRAL, true);
    struct lm_imatrix *m = run(&r);
    const struct lm_imatrix_entry *up = lm_imatrix_find(m, "blk.1.ffn_up_exps.weight");
    int64_t tokens = 0;
    (void)state;

    assert_non_null(up);
    assert_int_equal(up->n_counts, 4);
    for (size_t x = 0; x < 4; x++)
        tokens += up->counts[x];
    assert_int_equal(tokens, 2 * N_IDS);
    for (size_t i = 0; i < 32; i++) {
        double sum = 0;
        for (size_t x = 0; x < 4; x++)
            sum += (double)sum_at(m, up->name, x * 32 + i);
        assert_true(fabs(sum / (2 * (double)sum_at(m, "blk.1.ffn_gate_inp.weight", i)) - 1) < 1e-6);
    }
    assert_int_equal(lm_imatrix_find(m, "output.weight")->counts[0], N_IDS);
    lm_imatrix_free(m);
    end(&r);
}

static void test_stop_and_refusals(void **state)
{
    struct ready r = make_ready(MIXTRAL, false);
    struct lm_err e = {0};
    volatile int stop = 1;
    struct lm_model *m;
    struct lm_engine *g;
    struct lm_calibration *c;
    (void)state;

    assert_int_equal(lm_calibration_run(r.c, r.s, ids, N_IDS, &stop, &e), -1);
    assert_int_equal(e.code, LM_INTERRUPTED);
    end(&r);
    assert_int_equal(lm_model_open(&m, MIXTRAL, &e), 0);
    assert_int_equal(lm_engine_open(&g, m, &(struct lm_engine_options){.math = LM_MATH_F64}, &e), 0);
    assert_int_equal(lm_calibration_new(&c, g, false, &e), -1);
    assert_int_equal(e.code, LM_UNSUPPORTED);
    lm_engine_close(g);
    lm_model_close(m);
}

/* Killed at any time: FILE is absent or one that can be read. */
static void test_killed(void **state)
{
    char file[128];
    snprintf(file, sizeof file, "%s/killed.gguf", dir); /* path_in's is not good for that long */
    const char *const argv[] = {command_path("lm-calibrate"), POLISH, "--save-every", "1", "-o", file, NULL};
    (void)state;

    for (unsigned i = 0; i < 12; i++) {
        unlink(file);
        pid_t pid = command_begin(argv, dir);
        usleep(3000 * i);
        kill(pid, i % 2 ? SIGKILL : SIGINT);
        struct output o = command_end(pid, dir);
        assert_true(o.code == 0 || o.code == -SIGKILL || o.code == -SIGINT || o.code == 130);
        output_free(&o);
        if (access(file, F_OK) == 0)
            lm_imatrix_free(read_imatrix(file));
    }
}

int main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(test_equals_llama_cpp), cmocka_unit_test(test_the_same_however_done),
        cmocka_unit_test(test_first_layer_by_hand), cmocka_unit_test(test_experts_add_up),
        cmocka_unit_test(test_stop_and_refusals), cmocka_unit_test(test_killed),
    };

    return cmocka_run_group_tests(all, make_dir, remove_dir);
}
