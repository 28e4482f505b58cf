/* What an output says of its source: the same whatever is made of it and
 * however, and enough to name a tensor of which one bit is another. */
#include "tests/commands.h"

#include "convert/convert.h"

#define KEY "libmodel.recipe.source.sums"

static uint64_t first[64];

static size_t read_sums(const char *name, uint64_t *sums)
{
    struct lm_err e = {0};
    const struct lm_meta_value *v = NULL;
    struct lm_model *m;

    if (lm_model_open_headers(&m, path_in(dir, name), &e) || lm_meta_get_array(lm_model_meta(m), KEY, LM_META_U64, &v, &e) < 0)
        fail_msg("%s", e.text);
    size_t n = v ? v->n : 0;
    assert_true(n <= 64);
    if (n)
        memcpy(sums, v->data, n * sizeof *sums);
    lm_model_close(m);
    return n;
}

static int quantize(const char *const *more)
{
    const char *argv[16] = {command_path("lm-quantize"), "--type"};
    size_t n = 2;

    while (*more)
        argv[n++] = *more++;
    struct output o = command_run(argv, dir);
    int code = o.code;
    if (code)
        fail_msg("%s", (const char *)o.err.data);
    output_free(&o);
    return code;
}
#define QUANTIZE(...) quantize((const char *const[]){__VA_ARGS__, NULL})

static void same_sums(const char *name)
{
    uint64_t sums[64];

    assert_int_equal(read_sums(name, sums), 39);
    assert_memory_equal(sums, first, 39 * sizeof *sums);
    unlink(path_in(dir, name));
}

static void test_the_same_however_made(void **state)
{
    (void)state;
    QUANTIZE("Q8_0", "samples/polish-5m", path_in(dir, "a.gguf"));
    assert_int_equal(read_sums("a.gguf", first), 39);
    for (size_t i = 0; i < 39; i++)
        assert_true(first[i] != 0);
    QUANTIZE("Q4_K_M", "--threads", "3", "samples/polish-5m", path_in(dir, "b.gguf"));
    same_sums("b.gguf");
    QUANTIZE("BF16", "samples/polish-5m", path_in(dir, "b.gguf"));
    same_sums("b.gguf");
    QUANTIZE("Q3_K_S", "--imatrix", "tests/fixtures/imatrix/a.gguf", "samples/polish-5m", path_in(dir, "b.gguf"));
    same_sums("b.gguf");
    QUANTIZE("Q6_K", "--split", "3M", "samples/polish-5m", path_in(dir, "b.gguf"));
    same_sums("b-00001-of-00002.gguf");
    QUANTIZE("Q8_0", "--no-source-sums", "samples/polish-5m", path_in(dir, "c.gguf"));
    assert_int_equal(read_sums("c.gguf", (uint64_t[64]){0}), 0);
}

static void test_shares_and_resumed(void **state)
{
    char out[128];
    (void)state;

    snprintf(out, sizeof out, "%s/p.gguf", dir);
    QUANTIZE("Q4_0", "--part", "1/3", "samples/polish-5m", out);
    QUANTIZE("Q4_0", "--part", "3/3", "samples/polish-5m", out);
    QUANTIZE("Q4_0", "--resume", "samples/polish-5m", out);
    same_sums("p.gguf");
}

/* A bit that no Q8_0 block shows. */
static void test_one_bit(void **state)
{
    struct lm_err e = {0};
    struct lm_model *m;
    char text[256];
    (void)state;

    snprintf(text, sizeof text, "cp -r samples/polish-5m %s/m && chmod -R u+w %s/m", dir, dir);
    assert_int_equal(system(text), 0);
    assert_int_equal(lm_model_open(&m, "samples/polish-5m", &e), 0);
    const struct lm_tensor *t = lm_model_find(m, "model.layers.2.self_attn.q_proj.weight");
    uint8_t b = t->data[4000] ^ 1;
    int fd = open(path_in(dir, "m/model.safetensors"), O_WRONLY);
    assert_int_equal(pwrite(fd, &b, 1, (off_t)t->offset + 4000), 1);
    close(fd);
    lm_model_close(m);
    struct output o = command_run((const char *const[]){command_path("lm-quantize"), "--reproduce", path_in(dir, "a.gguf"),
                                                        path_in(dir, "m"), NULL}, dir);
    assert_int_equal(o.code, 1);
    assert_non_null(strstr((const char *)o.err.data, "tensor 'blk.2.attn_q.weight' was made of other values"));
    output_free(&o);
    o = command_run((const char *const[]){command_path("lm-quantize"), "--reproduce", path_in(dir, "a.gguf"),
                                          "samples/polish-5m", NULL}, dir);
    assert_int_equal(o.code, 0);
    output_free(&o);
}

int main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(test_the_same_however_made), cmocka_unit_test(test_shares_and_resumed), cmocka_unit_test(test_one_bit),
    };

    return cmocka_run_group_tests(all, make_dir, remove_dir);
}
