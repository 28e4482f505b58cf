/* Every pair of containers: a model written as A, then as B, then in Hugging
 * Face's form, holds the values that it holds when it is written so at once. */
#include "tests/files.h"

#include "convert/convert.h"

static const char *const sources[] = {
    "tests/fixtures/models/tiny-llama", "tests/fixtures/models/tiny-llama-tied", "tests/fixtures/models/tiny-gpt2",
    "tests/fixtures/containers/meta-2", "tests/fixtures/containers/mistral-native",
};
static const char *const targets[] = {"safetensors", "gguf", "npz"};
enum { N_TARGETS = 3 };

static void convert(const char *src, const char *to, const char *dst)
{
    struct lm_request req = {.to = lm_format_find(to), .dtype = -1};
    struct lm_run_options o = {.n_threads = 1};
    struct lm_plan *p;
    struct lm_err e = {0};
    struct lm_model *m = open_ok(src);

    if (lm_plan_make(&p, m, &req, &e) < 0 || lm_plan_run(p, dst, &o, &e) < 0)
        fail_msg("%s to %s as %s: %s", src, dst, to, e.text);
    lm_plan_free(p);
    lm_model_close(m);
}

static void assert_same_values(const char *path, const char *expected)
{
    struct lm_model *m = open_ok(path), *x = open_ok(expected);
    struct lm_err e = {0};

    assert_int_equal(lm_model_n_tensors(m), lm_model_n_tensors(x));
    for (size_t i = 0; i < lm_model_n_tensors(x); i++) {
        const struct lm_tensor *want = lm_model_tensor(x, i), *got = lm_model_find(m, want->name);
        if (!got || got->n_dims != want->n_dims || memcmp(got->shape, want->shape, sizeof got->shape) != 0)
            fail_msg("%s: tensor %s is missing or has another shape", path, want->name);
        float *a = calloc(want->n_elems, sizeof *a), *b = calloc(want->n_elems, sizeof *b);
        assert_int_equal(lm_tensor_to_f32(want, 0, want->n_elems, a, &e), 0);
        assert_int_equal(lm_tensor_to_f32(got, 0, got->n_elems, b, &e), 0);
        if (memcmp(a, b, want->n_elems * sizeof *a) != 0)
            fail_msg("%s: tensor %s has other values", path, want->name);
        free(a);
        free(b);
    }
    lm_model_close(m);
    lm_model_close(x);
}

static void all_pairs_keep_the_values(void **state)
{
    (void)state;
    char direct[128], first[N_TARGETS][128], second[128], back[128];

    for (size_t s = 0; s < sizeof sources / sizeof sources[0]; s++) {
        snprintf(direct, sizeof direct, "%s/%zu", dir, s);
        convert(sources[s], "safetensors", direct);
        for (size_t a = 0; a < N_TARGETS; a++) {
            snprintf(first[a], sizeof first[a], "%s/%zu-%s%s", dir, s, targets[a], a == 1 ? ".gguf" : "");
            convert(sources[s], targets[a], first[a]);
            for (size_t b = 0; b < N_TARGETS; b++) {
                snprintf(second, sizeof second, "%s/%zu-%zu-%s%s", dir, s, a, targets[b], b == 1 ? ".gguf" : "");
                snprintf(back, sizeof back, "%s/%zu-%zu-%zu", dir, s, a, b);
                convert(first[a], targets[b], second);
                convert(second, "safetensors", back);
                assert_same_values(back, direct);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(all_pairs_keep_the_values)};
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
