/* Keras' files, in every form, hold the tensors that Python found in them; models
 * of keras-hub compute its logits; what is written for Keras comes back. */
#include "tests/zips.h"

#include <math.h>

#include "convert/convert.h"
#include "gpu/engine.h"

#define FIXTURES "tests/fixtures/hdf5/"

static void forms_hold_their_tensors(void **state)
{
    (void)state;
    static const struct { const char *path, *expected; size_t n; } files[] = {
        {"keras3.weights.h5", "keras3.weights.h5", 8}, {"keras3.keras", "keras3.weights.h5", 8},
        {"keras3-deflated.keras", "keras3.weights.h5", 8}, {"keras2-whole.h5", "keras2", 8},
        {"keras2-weights.h5", "keras2", 8}, {"tf-gpt2/tf_model.h5", "tf-gpt2", 16}, {"tf-gpt2", "tf-gpt2", 16},
        {"tf-gpt2-sharded", "tf-gpt2", 16}, {"tf-kernels", "tf-kernels", 4}, {"hub-mistral", "hub-mistral", 21},
        {"hub-mistral/model.weights.h5", "hub-mistral", 21}, {"hub-mistral.keras", "hub-mistral", 21},
        {"hub-llama", "hub-llama", 12}, {"hub-llama-sharded", "hub-llama", 12},
        {"hub-llama-sharded/model.weights.json", "hub-llama", 12}, {"hub-llama3", "hub-llama3", 12},
        {"hub-gpt2", "hub-gpt2", 16}, {"hub-gemma", "hub-gemma", 11}, {"hub-gemma2", "hub-gemma2", 24},
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char path[200], expected[200];
        snprintf(path, sizeof path, FIXTURES "%s", files[i].path);
        snprintf(expected, sizeof expected, FIXTURES "%s.expected.safetensors", files[i].expected);
        assert_int_equal(assert_same_tensors(path, expected), files[i].n);
    }
}

static void settings_become_config_json(void **state)
{
    (void)state;
    struct lm_model *m = open_ok(FIXTURES "hub-llama3"), *g = open_ok(FIXTURES "hub-mistral");
    struct lm_config c;
    struct lm_err e = {0};

    assert_int_equal(lm_config_read(&c, m, NULL, &e), 1);
    assert_int_equal(c.n_layers, 1);
    assert_int_equal(c.n_kv_heads, 2);
    assert_int_equal(c.scaling, LM_SCALING_LLAMA3);
    assert_int_equal(c.rope_orig_ctx, 16);
    assert_true(c.rope_factor > 7.99 && c.rope_factor < 8.01 && c.rope_theta > 499999);
    assert_false(c.tied);
    assert_int_equal(lm_config_read(&c, g, NULL, &e), 1);
    assert_int_equal(c.sliding_window, 6);
    assert_int_equal(c.d_head, 6);
    lm_model_close(m);
    lm_model_close(g);
}

static void optimizer_state_is_left_out(void **state)
{
    (void)state;
    struct lm_model *m = open_ok(FIXTURES "keras2-whole.h5");
    bool seen = false;

    for (size_t i = 0; i < lm_model_n_left_out(m); i++)
        seen |= strstr(lm_model_left_out(m, i), "state of the optimizer") != NULL;
    assert_true(seen);
    assert_non_null(lm_meta_get(lm_model_meta(m), "model_config"));
    lm_model_close(m);
}

/* ---- logits */

struct reference { int32_t ids[64]; size_t n, vocab; float *logits; };

static void read_reference(struct reference *r, const char *path)
{
    struct lm_model *m = open_ok(path);
    const struct lm_tensor *ids = lm_model_find(m, "input_ids"), *logits = lm_model_find(m, "logits");

    r->n = ids->n_elems;
    r->vocab = logits->shape[1];
    for (size_t i = 0; i < r->n; i++)
        r->ids[i] = (int32_t)lm_load_u64le(ids->data + 8 * i);
    r->logits = malloc(logits->n_bytes);
    assert_int_equal(lm_tensor_to_f32(logits, 0, logits->n_elems, r->logits, NULL), 0);
    lm_model_close(m);
}

static void assert_logits(const char *path, const struct reference *r)
{
    struct lm_engine_options o = {"cpu", LM_MATH_EXACT, 1, 0};
    struct lm_engine *g = NULL;
    struct lm_session *s = NULL;
    struct lm_err e = {0};
    struct lm_model *m = open_ok(path);
    float *got = malloc(r->n * r->vocab * sizeof *got);
    double worst = 0;

    if (lm_engine_open(&g, m, &o, &e) < 0 || lm_session_open(&s, g, &e) < 0 ||
        lm_session_eval(s, r->ids, r->n, LM_LOGITS_ALL, got, &e) < 0)
        fail_msg("%s: %s", path, e.text);
    for (size_t i = 0; i < r->n * r->vocab; i++)
        worst = fmax(worst, fabs((double)got[i] - (double)r->logits[i]));
    if (!(worst < 2e-4))
        fail_msg("%s: logits differ by %g from those of Keras", path, worst);
    free(got);
    lm_session_close(s);
    lm_engine_close(g);
    lm_model_close(m);
}

static void convert(const char *src, const char *to, const char *dst, uint64_t split)
{
    struct lm_request req = {.to = lm_format_find(to), .dtype = -1, .max_file_bytes = split};
    struct lm_run_options o = {.n_threads = 1};
    struct lm_plan *p;
    struct lm_err e = {0};
    struct lm_model *m = open_ok(src);

    if (lm_plan_make(&p, m, &req, &e) < 0 || lm_plan_run(p, dst, &o, &e) < 0)
        fail_msg("%s to %s as %s: %s", src, dst, to, e.text);
    lm_plan_free(p);
    lm_model_close(m);
}

/* As it is, as safetensors, as GGUF and, of those that we write, for Keras again. */
static void logits_are_those_of_keras(void **state)
{
    (void)state;
    static const struct { const char *name; bool written; } models[] = {
        {"hub-mistral", true}, {"hub-llama", true}, {"hub-llama3", true}, {"hub-gpt2", true}, {"hub-gemma", false},
        {"hub-gemma2", false}};

    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        const char *name = models[i].name;
        char path[200], to[4][200];
        struct reference r;
        snprintf(path, sizeof path, FIXTURES "%s.reference.safetensors", name);
        read_reference(&r, path);
        snprintf(path, sizeof path, FIXTURES "%s", name);
        snprintf(to[0], sizeof to[0], "%s/%s", dir, name);
        snprintf(to[1], sizeof to[1], "%s/%s.gguf", dir, name);
        snprintf(to[2], sizeof to[2], "%s/%s-keras", dir, name);
        snprintf(to[3], sizeof to[3], "%s/%s-keras-from-gguf", dir, name);
        convert(path, "safetensors", to[0], 0);
        convert(path, "gguf", to[1], 0);
        if (models[i].written) {
            convert(to[0], "keras", to[2], 0);
            convert(to[1], "keras", to[3], 0);
        }
        assert_logits(path, &r);
        for (int k = 0; k < (models[i].written ? 4 : 2); k++)
            assert_logits(to[k], &r);
        free(r.logits);
    }
}

/* ---- writing */

static void kernels_come_back(void **state)
{
    (void)state;
    static const char *const models[] = {"tests/fixtures/models/tiny-llama", "tests/fixtures/models/tiny-gpt2",
                                         "tests/fixtures/models/tiny-mistral", "tests/fixtures/models/tiny-llama-llama3",
                                         "tests/fixtures/models/tiny-llama-linear"};
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        char keras[200], back[200], expected[200];
        snprintf(keras, sizeof keras, "%s/back-%zu", dir, i);
        snprintf(back, sizeof back, "%s/back-%zu-st", dir, i);
        snprintf(expected, sizeof expected, "%s/model.safetensors", models[i]);
        convert(models[i], "keras", keras, 0);
        convert(keras, "safetensors", back, 0);
        assert_same_tensors(keras, expected);
        assert_same_tensors(back, expected);
        snprintf(keras, sizeof keras, "%s/back-%zu-split", dir, i);
        convert(models[i], "keras", keras, 20000);
        assert_same_tensors(keras, expected);
    }
}

static void what_keras_lacks_is_refused(void **state)
{
    (void)state;
    static const struct { const char *src, *reason; } cases[] = {
        {"tests/fixtures/models/tiny-llama-bias", "_proj.bias' has no place"},
        {"tests/fixtures/models/tiny-llama-yarn", "this kind of rope scaling has no place"},
        {"tests/fixtures/hdf5/others.h5", "the architecture must be known"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct lm_request req = {.to = lm_format_find("keras"), .dtype = -1};
        struct lm_model *m = open_ok(cases[i].src);
        struct lm_plan *p;
        struct lm_err e = {0};
        assert_int_equal(lm_plan_make(&p, m, &req, &e), -1);
        if (!strstr(e.text, cases[i].reason))
            fail_msg("%s: expected '%s', got '%s'", cases[i].src, cases[i].reason, e.text);
        lm_model_close(m);
    }
}

/* ---- broken */

static void copy_file(const char *from, const char *folder, const char *name)
{
    char path[300];
    uint8_t *data;

    snprintf(path, sizeof path, "%s/%s", from, name);
    FILE *in = fopen(path, "rb");
    assert_non_null(in);
    fseek(in, 0, SEEK_END);
    long n = ftell(in);
    rewind(in);
    data = malloc((size_t)n + 1);
    assert_int_equal(fread(data, 1, (size_t)n, in), n);
    fclose(in);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    write_file(path, data, (size_t)n);
    free(data);
}

static const struct { const char *map; enum lm_code code; const char *reason; } maps[] = {
    {"{\"weight_map\": {}}", LM_MALFORMED, "weight_map is missing or empty"},
    {"{\"weight_map\": {\"/layers/a/vars\": \"model_00000.weights.h5\"}}", LM_MISSING,
     "'layers/a/vars' is missing: model_00000.weights.h5 does not hold it"},
    {"{\"weight_map\": {\"/layers/a/vars\": \"../x.h5\"}}", LM_MALFORMED, "not a plain file name"},
    {"{\"weight_map\": {\"/layers/a/vars\": [\"/etc/passwd\"]}}", LM_MALFORMED, "not a plain file name"},
    {"{\"weight_map\": {\"/layers/a/vars\": \"gone.weights.h5\"}}", LM_MISSING, "shard gone.weights.h5"},
    {"{\"weight_map\": {\"/layers/a/vars\": 5}}", LM_MALFORMED, "byte"},
    {"{\"weight_map\": {\"/a\": []}, \"weight_map\": {}}", LM_MALFORMED, "a second weight_map"},
    {"{\"weight_map\": {\"/layers/reversible_embedding/vars\": \"model_00000.weights.h5\"}}", LM_MISSING,
     "is missing, LlamaBackbone has it"},
};

static void maps_of_shards_are_checked(void **state)
{
    (void)state;
    char folder[200], path[300];

    snprintf(folder, sizeof folder, "%s/shards", dir);
    snprintf(path, sizeof path, "%s/model.weights.json", folder);

    mkdir(folder, 0777);
    copy_file(FIXTURES "hub-llama-sharded", folder, "model_00000.weights.h5");
    copy_file(FIXTURES "hub-llama-sharded", folder, "config.json");
    for (size_t i = 0; i < sizeof maps / sizeof maps[0]; i++) {
        write_file(path, maps[i].map, strlen(maps[i].map));
        open_fails(path, maps[i].code, maps[i].reason);
    }
}

static const struct { const char *config; const char *reason; } configs[] = {
    {"{\"class_name\": \"LlamaBackbone\", \"config\": {\"num_layers\": 0}}", "num_layers is 0"},
    {"{\"class_name\": \"LlamaBackbone\", \"config\": {\"num_layers\": 2}}", "is missing, LlamaBackbone has it"},
    {"{\"class_name\": \"GPT2Backbone\", \"config\": {\"num_layers\": 1}}", "is missing, GPT2Backbone has it"},
    {"{\"class_name\": \"LlamaBackbone\", \"config\": {\"num_layers\": 1000000}}", "num_layers is 1000000"},
};

static void settings_must_fit_the_weights(void **state)
{
    (void)state;
    char folder[200], path[300];

    snprintf(folder, sizeof folder, "%s/settings", dir);
    snprintf(path, sizeof path, "%s/config.json", folder);

    mkdir(folder, 0777);
    copy_file(FIXTURES "hub-llama", folder, "model.weights.h5");
    for (size_t i = 0; i < sizeof configs / sizeof configs[0]; i++) {
        struct lm_model *m;
        struct lm_err e = {0};
        write_file(path, configs[i].config, strlen(configs[i].config));
        assert_int_equal(lm_model_open(&m, folder, &e), -1);
        if (!strstr(e.text, configs[i].reason))
            fail_msg("expected '%s', got '%s'", configs[i].reason, e.text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forms_hold_their_tensors), cmocka_unit_test(settings_become_config_json),
        cmocka_unit_test(optimizer_state_is_left_out), cmocka_unit_test(logits_are_those_of_keras),
        cmocka_unit_test(kernels_come_back), cmocka_unit_test(what_keras_lacks_is_refused),
        cmocka_unit_test(maps_of_shards_are_checked), cmocka_unit_test(settings_must_fit_the_weights),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
