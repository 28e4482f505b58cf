/* lm-verify finds what is wrong, where, and only then. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <glob.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cmd/verify.h"

#define MODELS "tests/fixtures/models/"

/* lm-verify of this build with arguments for the shell; its exit code, its JSON
 * (or NULL) and what it said. */
static int verify_with(json_t **out, char *said, size_t size, const char *format, ...)
{
    char self[PATH_MAX], args[2 * PATH_MAX], line[4 * PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    va_list ap;

    assert_true(n > 0);
    self[n] = '\0';
    for (int up = 0; up < 2; up++)
        *strrchr(self, '/') = '\0';
    va_start(ap, format);
    vsnprintf(args, sizeof args, format, ap);
    va_end(ap);
    snprintf(line, sizeof line, "'%s/lm-verify' --json --device cpu %s 2>&1", self, args);
    FILE *f = popen(line, "r");
    assert_non_null(f);
    n = (ssize_t)fread(said, 1, size - 1, f);
    said[n] = '\0';
    int status = pclose(f);
    *out = json_loads(said, 0, NULL);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static double number(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);

    assert_true(json_is_number(v));
    return json_number_value(v);
}

static void test_dtype_error_order(void **state)
{
    static const enum lm_dtype by_error[] = {LM_F64, LM_F32, LM_F16, LM_BF16, LM_Q8_0, LM_Q6_K, LM_Q5_K, LM_Q4_K,
                                             LM_Q3_K, LM_Q2_K};

    (void)state;
    for (size_t i = 1; i < sizeof by_error / sizeof by_error[0]; i++)
        assert_true(lm_dtype_error(by_error[i]) >= lm_dtype_error(by_error[i - 1]));
    for (int d = 0; d < LM_N_DTYPES; d++)
        if (lm_dtype_info((enum lm_dtype)d)->kind == LM_KIND_QUANT)
            assert_in_range((uint64_t)(1e6 * lm_dtype_error((enum lm_dtype)d)), 1, 1000000);
}

static void test_equal_to_itself(void **state)
{
    char said[65536];
    json_t *o;

    (void)state;
    assert_int_equal(verify_with(&o, said, sizeof said, MODELS "tiny-llama " MODELS "tiny-llama"), 0);
    assert_true(number(o, "max_abs_logit_diff") == 0);
    assert_true(number(o, "kld_max") == 0);
    assert_true(number(o, "top1_agreement") == 1);
    assert_true(json_is_null(json_object_get(o, "first_divergent_layer")));
    assert_true(number(o, "ppl_a") == number(o, "ppl_b"));
    json_decref(o);
}

static void test_every_reference(void **state)
{
    glob_t g;

    (void)state;
    assert_int_equal(glob(MODELS "*/reference.safetensors", 0, NULL, &g), 0);
    assert_true(g.gl_pathc >= 8);
    for (size_t i = 0; i < g.gl_pathc; i++) {
        char said[65536];
        json_t *o;
        int code = verify_with(&o, said, sizeof said, "'%.*s' --reference '%s' --max-diff 2e-5",
                               (int)(strrchr(g.gl_pathv[i], '/') - g.gl_pathv[i]), g.gl_pathv[i], g.gl_pathv[i]);
        if (code != 0)
            fail_msg("%s: %s", g.gl_pathv[i], said);
        json_decref(o);
    }
    globfree(&g);
}

static void test_reference_beyond(void **state)
{
    char said[65536];
    json_t *o;

    (void)state;
    /* Logits of other weights: every layer is another one. */
    assert_int_equal(verify_with(&o, said, sizeof said,
                                 MODELS "tiny-llama-bias --reference " MODELS "tiny-llama-linear/reference.safetensors"),
                     1);
    assert_true(json_is_false(json_object_get(o, "passed")));
    assert_true(json_is_integer(json_object_get(o, "first_divergent_layer")));
    json_decref(o);
}

static void test_other_vocabulary(void **state)
{
    char said[65536];
    json_t *o;

    (void)state;
    assert_int_equal(verify_with(&o, said, sizeof said, MODELS "tiny-llama samples/polish-5m"), 3);
    assert_null(o);
    assert_non_null(strstr(said, "the vocabularies differ"));
}

static void test_wrong_use(void **state)
{
    char said[65536];
    json_t *o;

    (void)state;
    assert_int_equal(verify_with(&o, said, sizeof said, MODELS "tiny-llama"), 2);
    assert_non_null(strstr(said, "a second model, or --reference"));
    assert_int_equal(verify_with(&o, said, sizeof said, "a b --reference c"), 2);
    assert_int_equal(verify_with(&o, said, sizeof said,
                                 MODELS "tiny-llama " MODELS "tiny-llama --text samples/polish-5m/README.md"), 3);
    assert_non_null(strstr(said, "has a tokenizer for --text"));
    assert_int_equal(verify_with(&o, said, sizeof said,
                                 MODELS "tiny-llama --reference " MODELS "tiny-llama/model.safetensors"), 3);
    assert_non_null(strstr(said, "no tensor called input_ids"));
}

/* ---- a model with one wrong matrix */

static void put_file(const char *folder, const char *name, struct lm_span data)
{
    char path[PATH_MAX];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data.data, 1, data.size, f), data.size);
    assert_int_equal(fclose(f), 0);
}

/* Rows of each head [2, d/2] -> [d/2, 2]: what is left when a converter does it once too often. */
static void permute_rows(uint8_t *to, const uint8_t *from, size_t n_heads, size_t d_head, size_t row)
{
    for (size_t h = 0; h < n_heads; h++)
        for (size_t half = 0; half < 2; half++)
            for (size_t j = 0; j < d_head / 2; j++)
                memcpy(to + (h * d_head + 2 * j + half) * row, from + (h * d_head + half * d_head / 2 + j) * row, row);
}

/* A copy of the model in src whose K of `layer` is permuted once more. */
static void write_wrong(const char *src, const char *folder, int layer)
{
    struct lm_model *m;
    struct lm_config c;
    struct lm_span side;
    struct lm_err e;
    char name[100];

    assert_int_equal(lm_model_open(&m, src, &e), 0);
    assert_int_equal(lm_config_read(&c, m, NULL, &e), 1);
    snprintf(name, sizeof name, "model.layers.%d.self_attn.k_proj.weight", layer);
    const struct lm_tensor *k = lm_model_find(m, name);
    assert_non_null(k);
    struct lm_span file = lm_model_file(m, 0)->map;
    uint8_t *copy = malloc(file.size);
    memcpy(copy, file.data, file.size);
    permute_rows(copy + k->offset, k->data, c.n_kv_heads, c.d_head, k->n_bytes / k->shape[0]);
    put_file(folder, "model.safetensors", lm_span_of(copy, file.size));
    for (size_t i = 0; lm_sidecar_names[i]; i++)
        if (lm_model_sidecar(m, lm_sidecar_names[i], &side, &e) == 1)
            put_file(folder, lm_sidecar_names[i], side);
    free(copy);
    lm_model_close(m);
}

/* A copy of the model in src with a matrix of `layer` a little larger than it should be. */
static void write_larger(const char *src, const char *folder, const char *matrix, int layer, float by)
{
    struct lm_model *m;
    struct lm_span side;
    struct lm_err e;
    char name[100];

    assert_int_equal(lm_model_open(&m, src, &e), 0);
    snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, matrix);
    const struct lm_tensor *t = lm_model_find(m, name);
    assert_non_null(t);
    struct lm_span file = lm_model_file(m, 0)->map;
    uint8_t *copy = malloc(file.size);
    float *x = malloc(t->n_elems * sizeof *x);
    memcpy(copy, file.data, file.size);
    assert_int_equal(lm_tensor_to_f32(t, 0, t->n_elems, x, &e), 0);
    for (size_t i = 0; i < t->n_elems; i++)
        x[i] *= by;
    lm_dtype_info(t->dtype)->from_f32(copy + t->offset, x, t->n_elems);
    put_file(folder, "model.safetensors", lm_span_of(copy, file.size));
    for (size_t i = 0; lm_sidecar_names[i]; i++)
        if (lm_model_sidecar(m, lm_sidecar_names[i], &side, &e) == 1)
            put_file(folder, lm_sidecar_names[i], side);
    free(x);
    free(copy);
    lm_model_close(m);
}

static void remove_folder(const char *folder)
{
    glob_t g;
    char pattern[PATH_MAX];

    snprintf(pattern, sizeof pattern, "%s/*", folder);
    if (glob(pattern, 0, NULL, &g) == 0)
        for (size_t i = 0; i < g.gl_pathc; i++)
            unlink(g.gl_pathv[i]);
    globfree(&g);
    assert_int_equal(rmdir(folder), 0);
}

static void check_wrong(const char *model, int layer)
{
    char folder[] = "/tmp/test_verify.XXXXXX", said[65536];
    json_t *o;

    assert_non_null(mkdtemp(folder));
    write_wrong(model, folder, layer);
    int code = verify_with(&o, said, sizeof said, "%s %s", model, folder);
    remove_folder(folder);
    if (code != 1)
        fail_msg("exit %d: %s", code, said);
    assert_true(number(o, "kld_mean") > 1e-6);
    assert_int_equal(json_integer_value(json_object_get(o, "first_divergent_layer")), layer);
    json_t *why = json_object_get(o, "causes"), *where = json_object_get(o, "departure");
    assert_true(json_is_true(json_object_get(why, "cured")));
    json_t *found = json_array_get(json_object_get(why, "found"), 0);
    assert_string_equal(json_string_value(json_object_get(found, "cause")), "not_permuted");
    assert_string_equal(json_string_value(json_object_get(found, "role")), "attn_k");
    assert_string_equal(json_string_value(json_object_get(where, "operation")), "keys");
    json_decref(o);
}

static void test_wrong_k_is_named(void **state)
{
    (void)state;
    check_wrong(MODELS "tiny-llama", 1);
    check_wrong("samples/polish-5m", 0);
    check_wrong("samples/polish-5m", 2);
}

/* A layer departs, the divergence is small: different, unless the limit is the user's own. */
static void test_small_damage_is_told(void **state)
{
    char folder[] = "/tmp/test_verify.XXXXXX", said[65536];
    static const struct { const char *limit; int code; bool judged; } ways[] = {
        {"", 1, true}, {"--max-kld 1e-3", 0, false}, {"--max-diff 1", 0, false}, {"--max-kld 1e-12", 1, false}};
    json_t *o;

    (void)state;
    assert_non_null(mkdtemp(folder));
    write_larger(MODELS "tiny-llama", folder, "self_attn.o_proj", 1, 1.001f);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        int code = verify_with(&o, said, sizeof said, MODELS "tiny-llama %s %s", folder, ways[i].limit);
        if (code != ways[i].code)
            fail_msg("%s: exit %d: %s", ways[i].limit, code, said);
        assert_true(number(o, "kld_mean") > 1e-12 && number(o, "kld_mean") < 1e-6);
        assert_int_equal(json_integer_value(json_object_get(o, "first_divergent_layer")), 1);
        assert_int_equal(json_is_true(json_object_get(o, "layers_judged")), ways[i].judged);
        json_t *found = json_array_get(json_object_get(json_object_get(o, "causes"), "found"), 0);
        assert_string_equal(json_string_value(json_object_get(found, "cause")), "scaled");
        json_decref(o);
    }
    remove_folder(folder);
}

/* The text is longer than what is folded last; both walk it in pieces. */
static void test_long_text(void **state)
{
    static const struct { unsigned from, to, n; } buckets[] = {{0, 63, 64}, {64, 511, 448}, {512, 4095, 3584}, {4096, 4499, 404}};
    char folder[] = "/tmp/test_verify.XXXXXX", said[65536];
    json_t *o, *b;

    (void)state;
    assert_non_null(mkdtemp(folder));
    write_larger(MODELS "tiny-llama-linear", folder, "mlp.down_proj", 0, 1.5f);
    /* The model was trained for fewer positions: its config is given more. */
    json_t *config = json_load_file(MODELS "tiny-llama-linear/config.json", 0, NULL);
    json_object_set_new(config, "max_position_embeddings", json_integer(8192));
    snprintf(said, sizeof said, "%s/config.json", folder);
    assert_int_equal(json_dump_file(config, said, 0), 0);
    json_decref(config);
    char copy[64];
    snprintf(copy, sizeof copy, "%s-a", folder);
    snprintf(said, sizeof said, "cp -r %s %s", folder, copy);
    assert_int_equal(system(said), 0);
    snprintf(said, sizeof said, "cp " MODELS "tiny-llama-linear/model.safetensors %s", copy);
    assert_int_equal(system(said), 0);
    assert_int_equal(verify_with(&o, said, sizeof said, "%s %s --tokens 4500 --ctx 8000 --max-kld 10", copy, folder), 0);
    b = json_object_get(o, "buckets");
    assert_int_equal(json_array_size(b), 4);
    for (size_t i = 0; i < 4; i++) {
        json_t *x = json_array_get(b, i);
        assert_true(number(x, "from") == buckets[i].from && number(x, "to") == buckets[i].to);
        assert_true(number(x, "n_tokens") == buckets[i].n && number(x, "kld_mean") > 0);
        assert_true(number(x, "kld_median") <= number(x, "kld_p99") && number(x, "kld_p99") <= number(x, "kld_max"));
        assert_true(number(x, "ppl_a_half") > 0 && number(x, "ppl_ratio_half") > 0);
    }
    json_decref(o);
    /* In windows: the same positions over and over. */
    assert_int_equal(verify_with(&o, said, sizeof said, "%s %s --tokens 4500 --ctx 600 --max-kld 10", copy, folder), 0);
    b = json_object_get(o, "buckets");
    assert_int_equal(json_array_size(b), 3);
    assert_true(number(json_array_get(b, 0), "n_tokens") == 8 * 64);
    assert_true(number(json_array_get(b, 2), "n_tokens") == 7 * 88);
    json_decref(o);
    remove_folder(folder);
    remove_folder(copy);
}

/* Rows: the model in two ways, then each of its roundings, or a second model, in two. */
static void test_truth(void **state)
{
    static const char *const weights[] = {"A", "A", "Q8_0", "Q8_0", "Q4_K_M", "Q4_K_M"};
    char said[65536];
    json_t *o;
    double last = 0;

    (void)state;
    assert_int_equal(verify_with(&o, said, sizeof said, "samples/polish-5m --truth --tokens 64"), 0);
    json_t *modes = json_object_get(o, "modes");
    assert_int_equal(json_array_size(modes), 6);
    for (size_t i = 0; i < 6; i++) {
        json_t *m = json_array_get(modes, i);
        double kld = number(m, "kld_mean");
        assert_string_equal(json_string_value(json_object_get(m, "weights")), weights[i]);
        assert_string_equal(json_string_value(json_object_get(m, "math")), i % 2 ? "fast" : "exact");
        assert_true(kld > last); /* each costs more than the one before */
        last = kld;
    }
    assert_true(number(json_array_get(modes, 0), "max_abs_logit_diff") < 1e-4);
    assert_true(number(json_array_get(modes, 0), "top1_agreement") == 1);
    json_decref(o);
    assert_int_equal(verify_with(&o, said, sizeof said, MODELS "tiny-qwen3 --truth --as bf16,iq4_nl --tokens 64"), 0);
    assert_int_equal(json_array_size(json_object_get(o, "modes")), 6);
    json_decref(o);
    assert_int_equal(verify_with(&o, said, sizeof said, MODELS "tiny-qwen3 " MODELS "tiny-qwen3 --truth"), 0);
    modes = json_object_get(o, "modes");
    assert_int_equal(json_array_size(modes), 4);
    assert_string_equal(json_string_value(json_object_get(json_array_get(modes, 3), "weights")), "B");
    json_decref(o);
    assert_int_equal(verify_with(&o, said, sizeof said, MODELS "tiny-qwen3 --truth --as Q9_9"), 2);
    assert_non_null(strstr(said, "Q9_9"));
}

static void test_report(void **state)
{
    char folder[] = "/tmp/test_verify.XXXXXX", said[65536];
    json_t *o;

    (void)state;
    assert_non_null(mkdtemp(folder));
    const char *models = MODELS "tiny-llama " MODELS "tiny-llama";
    assert_int_equal(verify_with(&o, said, sizeof said, "%s --report %s/r.html", models, folder), 0);
    json_decref(o);
    /* Not twice under one name, unless told to. */
    assert_int_equal(verify_with(&o, said, sizeof said, "%s --report %s/r.html", models, folder), 3);
    assert_null(o);
    assert_int_equal(verify_with(&o, said, sizeof said, "%s --force --report %s/r.html", models, folder), 0);
    json_decref(o);
    remove_folder(folder);
}

/* Against sums over the definition. */
static void test_position(void **state)
{
    enum { N = 50 };
    float a[N], b[N];
    double za = 0, zb = 0, kl = 0;
    struct lm_position p;
    uint32_t r = 7;

    (void)state;
    for (int i = 0; i < N; i++) {
        a[i] = (float)((r = r * 1664525 + 1013904223) >> 8) / (1 << 22);
        b[i] = a[i] + (float)((r = r * 1664525 + 1013904223) >> 8) / (1 << 25);
        za += exp((double)a[i]);
        zb += exp((double)b[i]);
    }
    for (int i = 0; i < N; i++)
        kl += exp((double)a[i]) / za * (log(exp((double)a[i]) / za) - log(exp((double)b[i]) / zb));
    lm_position_compare(&p, a, b, N, 3);
    assert_true(fabs(p.kld - kl) < 1e-12 && kl > 1e-4);
    assert_true(fabs(p.nll_a - (log(za) - (double)a[3])) < 1e-12);
    lm_position_compare(&p, a, a, N, -1);
    assert_true(p.kld < 1e-14 && p.top5 == 5 && isnan(p.nll_a));
    b[9] = NAN;
    lm_position_compare(&p, a, b, N, -1);
    assert_true(isnan(p.kld) && isnan(p.max_abs));
    struct lm_tally t = {0};
    lm_tally_add(&t, &p, 0);
    assert_true(isnan(t.kld_max) && isnan(t.kld));
}

static void test_quantile(void **state)
{
    double x[] = {5, 1, NAN, 3, 2}, y[] = {4, 1, 3, 2};

    (void)state;
    assert_true(lm_quantile(x, 5, 0.5) == 3 && isnan(lm_quantile(x, 5, 1)));
    assert_true(lm_quantile(y, 4, 0.5) == 2.5 && lm_quantile(y, 4, 0) == 1 && isnan(lm_quantile(y, 0, 0.5)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dtype_error_order), cmocka_unit_test(test_equal_to_itself),
        cmocka_unit_test(test_every_reference), cmocka_unit_test(test_reference_beyond),
        cmocka_unit_test(test_other_vocabulary), cmocka_unit_test(test_wrong_use),
        cmocka_unit_test(test_wrong_k_is_named), cmocka_unit_test(test_small_damage_is_told),
        cmocka_unit_test(test_long_text), cmocka_unit_test(test_truth),
        cmocka_unit_test(test_report), cmocka_unit_test(test_position), cmocka_unit_test(test_quantile)};

    setenv("OMP_THREAD_LIMIT", "1", 1); /* of the commands: these models are too small for more */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
