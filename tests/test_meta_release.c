/* Releases by Meta (whole and cut into shards) and Mistral's own form. */
#include "tests/mutate.h"
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
    {"{\"dim\": 8, \"n_layers\": 2, \"n_heads\": 4, \"moe\": {}}", LM_MALFORMED, "num_experts and num_experts_per_tok"},
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

/* ---- mixtures of experts, in the three forms that Mistral published */

enum { DIM = 8, FF = 12, EXPERTS = 3, LAYERS = 2 };

/* Element i of matrix w of an expert, different everywhere. */
static float weight(int layer, int expert, int w, size_t i)
{
    return (float)(layer * 4096 + expert * 1024 + w * 256) + (float)i;
}

static void add(struct mut *x, const char *name, uint64_t rows, uint64_t columns, float first)
{
    const uint64_t shape[2] = {rows, columns};
    struct mut_tensor *t = mut_add(x, name, LM_F32, columns ? 2 : 1, shape, NULL);

    for (uint64_t i = 0; i < t->n_elems; i++)
        mut_set(t, i, first + (float)i);
}

static void add_experts(struct mut *x, int layer, int form)
{
    char name[96];

    for (int w = 1; w <= 3; w++) {
        uint64_t rows = w == 2 ? DIM : FF, columns = w == 2 ? FF : DIM;
        if (form < 2) {
            for (int e = 0; e < EXPERTS; e++) {
                snprintf(name, sizeof name, "layers.%d.%s.experts.%d.w%d.weight", layer,
                         form ? "block_sparse_moe" : "feed_forward", e, w);
                add(x, name, rows, columns, weight(layer, e, w, 0));
            }
            continue;
        }
        snprintf(name, sizeof name, "layers.%d.block_sparse_moe.w%d", layer, w);
        const uint64_t shape[2] = {EXPERTS * FF, DIM};
        struct mut_tensor *t = mut_add(x, name, LM_F32, 2, shape, NULL);
        for (int e = 0; e < EXPERTS; e++)
            for (uint64_t r = 0; r < FF; r++)
                for (uint64_t c = 0; c < DIM; c++)
                    mut_set(t, (e * FF + r) * DIM + c, weight(layer, e, w, w == 2 ? c * FF + r : r * DIM + c));
    }
    snprintf(name, sizeof name, "layers.%d.%s.gate.weight", layer, form ? "block_sparse_moe" : "feed_forward");
    add(x, name, EXPERTS, DIM, 1);
}

static struct mut *mixture(int form)
{
    struct mut *x = calloc(1, sizeof *x);
    char name[64];

    x->meta = lm_meta_new();
    add(x, "tok_embeddings.weight", 20, DIM, 1);
    add(x, "norm.weight", DIM, 0, 1);
    add(x, "output.weight", 20, DIM, 1);
    for (int l = 0; l < LAYERS; l++) {
        static const char *const names[] = {"attention.wq", "attention.wk", "attention.wv", "attention.wo"};
        for (int i = 0; i < 4; i++) {
            snprintf(name, sizeof name, "layers.%d.%s.weight", l, names[i]);
            add(x, name, DIM, DIM, 1);
        }
        snprintf(name, sizeof name, "layers.%d.attention_norm.weight", l);
        add(x, name, DIM, 0, 1);
        snprintf(name, sizeof name, "layers.%d.ffn_norm.weight", l);
        add(x, name, DIM, 0, 1);
        add_experts(x, l, form);
    }
    mut_side_text(x, "params.json", "{\"dim\": 8, \"n_layers\": 2, \"n_heads\": 2, \"hidden_dim\": 12, \"vocab_size\": 20, "
                  "\"max_position_embeddings\": 64, \"moe\": {\"num_experts\": 3, \"num_experts_per_tok\": 2}}");
    return x;
}

static void experts_are_stacked(void **state)
{
    (void)state;
    static const char *const kinds[] = {"gate", "down", "up"};
    char folder[128], name[64];

    for (int form = 0; form < 3; form++) {
        struct mut *x = mixture(form);
        snprintf(folder, sizeof folder, "%s/moe%d", dir, form);
        mut_write_split(x, "safetensors", folder, "consolidated.safetensors", 0);
        mut_free(x);
        struct lm_model *m = open_ok(folder);
        assert_int_equal(lm_model_n_tensors(m), 3 + LAYERS * 10);
        for (int l = 0; l < LAYERS; l++)
            for (int w = 1; w <= 3; w++) {
                snprintf(name, sizeof name, "blk.%d.ffn_%s_exps.weight", l, kinds[w - 1]);
                const struct lm_tensor *t = lm_model_find(m, name);
                if (!t)
                    fail_msg("no %s", name);
                assert_int_equal(t->n_dims, 3);
                assert_int_equal(t->shape[0], EXPERTS);
                assert_int_equal(t->shape[1], w == 2 ? DIM : FF);
                for (size_t i = 0; i < t->n_elems; i++)
                    assert_true(lm_load_f32le(t->data + 4 * i) == weight(l, (int)(i / (DIM * FF)), w, i % (DIM * FF)));
            }
        assert_non_null(lm_model_find(m, "blk.1.ffn_gate_inp.weight"));
        uint64_t n = 0;
        assert_int_equal(lm_meta_get_u64(lm_model_meta(m), "llama.expert_count", &n, NULL), 1);
        assert_int_equal(n, EXPERTS);
        assert_null(lm_meta_get(lm_model_meta(m), LM_META_ASSUMED));
        lm_model_close(m);
    }
    struct mut *x = mixture(0);
    mut_drop(x, "layers.1.feed_forward.experts.2.w3.weight");
    snprintf(folder, sizeof folder, "%s/moe-less", dir);
    mut_write_split(x, "safetensors", folder, "consolidated.safetensors", 0);
    open_fails(folder, LM_MISSING, "layer 1 has no w3 of expert 2; params.json says there are 3");
    mut_free(x);
    x = mixture(2);
    mut_edit(x, "params.json", "\"num_experts\": 3", "\"num_experts\": 5");
    snprintf(folder, sizeof folder, "%s/moe-five", dir);
    mut_write_split(x, "safetensors", folder, "consolidated.safetensors", 0);
    open_fails(folder, LM_MISMATCH, "36 rows, which are not those of 5 experts");
    mut_free(x);
}

/* Llama 3's tokenizer.model is tiktoken's text; it is carried whatever reads it. */
static void a_tiktoken_file_does_no_harm(void **state)
{
    (void)state;
    static const char text[] = "IQ== 0\nIg== 1\nIw== 2\n";
    char folder[128];
    struct lm_span s;

    snprintf(folder, sizeof folder, "%s/tiktoken", dir);
    mkdir(folder, 0777);
    copy(FIXTURES "meta-2/params.json", path_in(folder, "params.json"));
    copy(FIXTURES "meta-2/consolidated.00.pth", path_in(folder, "consolidated.00.pth"));
    copy(FIXTURES "meta-2/consolidated.01.pth", path_in(folder, "consolidated.01.pth"));
    write_file(path_in(folder, "tokenizer.model"), text, sizeof text - 1);
    struct lm_model *m = open_ok(folder);
    assert_int_equal(lm_model_n_tensors(m), 21);
    assert_int_equal(lm_model_sidecar(m, "tokenizer.model", &s, NULL), 1);
    assert_int_equal(s.size, sizeof text - 1);
    assert_int_equal(lm_meta_get_str(lm_model_meta(m), LM_META_ASSUMED, &s, NULL), 1);
    assert_non_null(memmem(s.data, s.size, "context_length 4096 (params.json does not say; that of Llama 2)", 63));
    lm_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shards_are_joined),
        cmocka_unit_test(it_is_a_llama_with_adjacent_pairs),
        cmocka_unit_test(scaled_frequencies_are_a_tensor),
        cmocka_unit_test(broken_releases_are_refused),
        cmocka_unit_test(copies_must_be_copies),
        cmocka_unit_test(experts_are_stacked),
        cmocka_unit_test(a_tiktoken_file_does_no_harm),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
