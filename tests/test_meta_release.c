/* Releases by Meta (whole and cut into shards) and Mistral's own form. */
#include "tests/zips.h"

#include "libmodel/libmodel.h"

#define FIXTURES "tests/fixtures/containers/"

static void shards_are_joined(void **state)
{
    (void)state;
    static const char *const folders[] = {"meta-2", "meta-4", "mistral-native"};

    for (size_t i = 0; i < 3; i++) {
        char path[200];
        snprintf(path, sizeof path, FIXTURES "%s", folders[i]);
        assert_int_equal(assert_same_tensors(path, FIXTURES "meta.expected.safetensors"), 21);
        snprintf(path, sizeof path, FIXTURES "%s/params.json", folders[i]);
        assert_int_equal(assert_same_tensors(path, FIXTURES "meta.expected.safetensors"), 21);
    }
}

static void it_is_a_llama_with_adjacent_pairs(void **state)
{
    (void)state;
    static const struct { const char *folder; double theta; uint32_t ctx; } all[] = {
        {"meta-2", 10000, 4096}, {"meta-4", 500000, 8192}, {"meta-scaled", 500000, 131072}, {"mistral-native", 1e6, 32768}};

    for (size_t i = 0; i < 4; i++) {
        char path[200];
        struct lm_binding *b;
        struct lm_err e = {0};
        snprintf(path, sizeof path, FIXTURES "%s", all[i].folder);
        struct lm_model *m = open_ok(path);
        if (lm_bind(&b, m, &e) < 0)
            fail_msg("%s", e.text);
        assert_string_equal(lm_model_format(m)->name, "meta");
        assert_int_equal(b->rope, LM_ROPE_ADJACENT);
        assert_int_equal(b->n_unknown, 0);
        assert_int_equal(b->config.d_ff, 12);
        assert_int_equal(b->config.vocab_size, 20);
        assert_int_equal(b->config.n_kv_heads, 2);
        assert_int_equal(b->config.ctx_len, all[i].ctx);
        assert_true(b->config.rope_theta == all[i].theta);
        lm_binding_free(b);
        lm_model_close(m);
    }
}

/* Llama 3.1's scaling is a tensor, as in a GGUF. */
static void scaled_frequencies_are_a_tensor(void **state)
{
    (void)state;
    struct lm_model *m = open_ok(FIXTURES "meta-scaled");
    const struct lm_tensor *t = lm_model_find(m, "rope_freqs.weight");
    struct lm_config c = {.d_rope = 2, .rope_theta = 500000, .scaling = LM_SCALING_LLAMA3, .rope_factor = 8,
                          .rope_low_freq = 1, .rope_high_freq = 4, .rope_orig_ctx = 8192};
    float want;

    assert_non_null(t);
    assert_int_equal(t->n_elems, 1);
    lm_rope_llama3_divisors(&c, &want);
    assert_true(lm_load_f32le(t->data) == want);
    assert_int_equal(lm_model_n_tensors(m), 22);
    lm_model_close(m);
}

/* ---- refusals: copies of a folder with something changed */

static void copy(const char *from, const char *to)
{
    uint8_t buf[65536];
    int fd = open(from, O_RDONLY);
    ssize_t n = read(fd, buf, sizeof buf);

    assert_true(fd >= 0 && n >= 0 && n < (ssize_t)sizeof buf);
    close(fd);
    write_file(to, buf, (size_t)n);
}

static const struct { const char *params; enum lm_code code; const char *reason; } refused[] = {
    {"{\"dim\": 8, \"n_layers\": 0}", LM_MALFORMED, "dim, n_layers and n_heads"},
    {"{\"dim\": 8, \"n_layers\": 2, \"n_heads\": 3}", LM_MALFORMED, "fit together"},
    {"{\"dim\": 8.5, \"n_layers\": 2, \"n_heads\": 4}", LM_MALFORMED, "dim is no whole number"},
    {"{\"dim\": 99999999999, \"n_layers\": 2, \"n_heads\": 4}", LM_MALFORMED, "dim is no whole number"},
    {"{\"dim\": 8, \"n_layers\": 2, \"n_heads\": 4, \"moe\": {}}", LM_UNSUPPORTED, "mixture of experts"},
    {"{\"dim\": 8, \"n_layers\": 2,", LM_MALFORMED, "params.json"},
};

static void broken_releases_are_refused(void **state)
{
    (void)state;
    char folder[128];

    snprintf(folder, sizeof folder, "%s/meta", dir);
    mkdir(folder, 0777);
    copy(FIXTURES "meta-2/consolidated.00.pth", path_in(folder, "consolidated.00.pth"));
    copy(FIXTURES "meta-2/consolidated.01.pth", path_in(folder, "consolidated.01.pth"));
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        write_file(path_in(folder, "params.json"), refused[i].params, strlen(refused[i].params));
        open_fails(folder, refused[i].code, refused[i].reason);
    }
    copy(FIXTURES "meta-2/params.json", path_in(folder, "params.json"));
    lm_model_close(open_ok(folder));

    /* A gap, a foreign shard, a norm that is no copy. */
    copy(FIXTURES "meta-2/consolidated.01.pth", path_in(folder, "consolidated.03.pth"));
    open_fails(folder, LM_MISSING, "consolidated.02.pth: no such file; the shards are 00 to 03");
    unlink(path_in(folder, "consolidated.03.pth"));
    copy(FIXTURES "small.pt", path_in(folder, "consolidated.01.pth"));
    open_fails(folder, LM_MALFORMED, "is missing in shard 1");
    copy(FIXTURES "meta-scaled/consolidated.00.pth", path_in(folder, "consolidated.01.pth"));
    open_fails(folder, LM_MALFORMED, "has another shape there");
    unlink(path_in(folder, "consolidated.00.pth"));
    open_fails(folder, LM_MISSING, "consolidated.00.pth: no such file");
}

static void copies_must_be_copies(void **state)
{
    (void)state;
    char folder[128];
    struct lm_model *m = open_ok(FIXTURES "meta-2/consolidated.01.pth");
    const struct lm_tensor *t = lm_model_find(m, "norm.weight");
    uint64_t at = t->offset;

    lm_model_close(m);
    snprintf(folder, sizeof folder, "%s/norms", dir);
    mkdir(folder, 0777);
    copy(FIXTURES "meta-2/params.json", path_in(folder, "params.json"));
    copy(FIXTURES "meta-2/consolidated.00.pth", path_in(folder, "consolidated.00.pth"));
    copy(FIXTURES "meta-2/consolidated.01.pth", path_in(folder, "consolidated.01.pth"));
    int fd = open(path_in(folder, "consolidated.01.pth"), O_WRONLY);
    assert_int_equal(pwrite(fd, "\x42\x42", 2, (off_t)at), 2);
    close(fd);
    open_fails(folder, LM_MISMATCH, "tensor 'norm.weight' differs between shards 0 and 1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shards_are_joined),
        cmocka_unit_test(it_is_a_llama_with_adjacent_pairs),
        cmocka_unit_test(scaled_frequencies_are_a_tensor),
        cmocka_unit_test(broken_releases_are_refused),
        cmocka_unit_test(copies_must_be_copies),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
