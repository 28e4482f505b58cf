/* Comparison: every kind of difference, planted, is named. */
#include "tests/dress.h"

#include <math.h>

#include "convert/diff.h"
#include "convert/diff_values.h"

#define LLAMA "tests/fixtures/models/tiny-llama"
#define Q0 "model.layers.0.self_attn.q_proj.weight"
#define K1 "model.layers.1.self_attn.k_proj.weight"
#define SAMPLE "samples/polish-5m"

static const struct lm_run_options two_threads = {.n_threads = 2};
static char dir_a[64], dir_b[64];

static int setup(void **state)
{
    (void)state;
    tmp_fast(dir_a);
    tmp_fast(dir_b);
    return 0;
}
static int teardown(void **state)
{
    (void)state;
    tmp_remove(dir_a);
    tmp_remove(dir_b);
    return 0;
}

static struct { struct lm_model *a, *b; } opened;

static struct lm_diff *diff(const char *a, const char *b)
{
    struct lm_diff *d;
    struct lm_err e = {0};

    opened.a = open_ok(a);
    opened.b = open_ok(b);
    if (lm_diff_models(&d, opened.a, opened.b, &two_threads, &e) < 0)
        fail_msg("%s %s: %s", a, b, e.text);
    return d;
}
static void done(struct lm_diff *d)
{
    lm_diff_free(d);
    lm_model_close(opened.a);
    lm_model_close(opened.b);
}

static const struct lm_diff_tensor *named(const struct lm_diff *d, const char *name)
{
    for (size_t i = 0; i < d->n_tensors; i++)
        if (strcmp(d->tensors[i].name, name) == 0)
            return &d->tensors[i];
    fail_msg("no tensor %s in the comparison", name);
    return NULL;
}
static const struct lm_diff_note *note(const struct lm_diff *d, const char *where, const char *key)
{
    for (size_t i = 0; i < d->n_notes; i++)
        if (strcmp(d->notes[i].where, where) == 0 && strcmp(d->notes[i].key, key) == 0)
            return &d->notes[i];
    fail_msg("no note %s %s", where, key);
    return NULL;
}
static void is_kind(const struct lm_diff *d, const char *name, enum lm_diff_kind kind, const char *what)
{
    const struct lm_diff_tensor *t = named(d, name);
    if (t->kind != kind || (what && (!t->what || !strstr(t->what, what))))
        fail_msg("%s is %s (%s), expected %s (%s)", name, lm_diff_kind_name(t->kind), t->what ? t->what : "",
                 lm_diff_kind_name(kind), what ? what : "");
}
/* Everything else is the same. */
static void only(const struct lm_diff *d, size_t n_not_same)
{
    assert_int_equal(d->n_of[LM_DIFF_SAME] + n_not_same, d->n_tensors);
}

static void convert(const char *src, const char *dst, const char *format, int dtype, const char *ftype)
{
    struct lm_model *m = open_ok(src);
    struct lm_request r = {.to = lm_format_find(format), .dtype = dtype, .quantize = ftype != NULL};
    struct lm_plan *p;
    struct lm_err e = {0};

    r.ftype = ftype ? lm_ftype_find(ftype) : NULL;
    if (lm_plan_make(&p, m, &r, &e) < 0 || lm_plan_run(p, dst, &two_threads, &e) < 0)
        fail_msg("%s -> %s: %s", src, dst, e.text);
    lm_plan_free(p);
    lm_model_close(m);
}

/* Notes about where files come from are no differences of models. */
static size_t n_model_notes(const struct lm_diff *d)
{
    size_t n = 0;

    for (size_t i = 0; i < d->n_notes; i++)
        n += strcmp(d->notes[i].where, "metadata") != 0;
    return n;
}

/* Every family in every container: nothing differs. (Keras's configuration has no place for the context's length.) */
static void test_same_across_containers(void **state)
{
    size_t pairs = 0, tensors = 0;

    (void)state;
    for (size_t i = 0; i < N_DRESS_MODELS; i++)
        for (size_t k = 0; k < N_DRESSES; k++) {
            char tmp[64];
            tmp_fast(tmp);
            const char *path = dress_make(dress_models[i], &dresses[k], tmp);
            if (path) {
                struct lm_diff *d = diff(dress_models[i], path);
                if (d->n_of[LM_DIFF_SAME] != d->n_tensors)
                    fail_msg("%s as %s: %s is %s", dress_models[i], dresses[k].what, d->tensors[0].name,
                             lm_diff_kind_name(d->tensors[0].kind));
                if (n_model_notes(d) && dresses[k].dtype < 0 && strcmp(dresses[k].to ? dresses[k].to : "", "keras") != 0)
                    fail_msg("%s as %s: %s: %s, not %s", dress_models[i], dresses[k].what, d->notes[0].key, d->notes[0].b,
                             d->notes[0].a);
                pairs++;
                tensors += d->n_tensors;
                done(d);
            }
            tmp_remove(tmp);
        }
    print_message("%zu pairs, %zu tensors the same\n", pairs, tensors);
    assert_true(pairs >= 9 * N_DRESS_MODELS);
}

/* One element of one stored tensor is found in the canonical tensor it is part of, and nowhere else. */
static void test_change_in_parts(void **state)
{
#define M(name) "tests/fixtures/models/tiny-" name
    static const struct { const char *model, *stored; const char *canonical[2]; } cases[] = {
        {M("mixtral"), "model.layers.1.block_sparse_moe.experts.2.w2.weight", {"blk.1.ffn_down_exps.weight"}},
        {M("mixtral-fused"), "model.layers.0.mlp.experts.gate_up_proj", {"blk.0.ffn_gate_exps.weight"}},
        {M("granitemoe"), "model.layers.0.block_sparse_moe.input_linear.weight", {"blk.0.ffn_gate_exps.weight"}},
        {M("gpt-oss"), "model.layers.1.mlp.experts.gate_up_proj", {"blk.1.ffn_gate_exps.weight"}},
        {M("gptneox"), "gpt_neox.layers.1.attention.query_key_value.weight", {"blk.1.attn_qkv.weight"}},
        {M("falcon-new"), "transformer.h.0.self_attention.query_key_value.weight", {"blk.0.attn_qkv.weight"}},
        {M("gpt2"), "transformer.h.1.attn.c_attn.weight", {"blk.1.attn_qkv.weight"}},
        {M("gemma2"), "model.layers.0.post_feedforward_layernorm.weight", {"blk.0.post_ffw_norm.weight"}},
        {M("deepseek3"), "model.layers.1.self_attn.kv_b_proj.weight", {"blk.1.attn_k_b.weight"}},
        {M("phi3"), "model.layers.0.self_attn.qkv_proj.weight", {"blk.0.attn_qkv.weight"}},
    };
#undef M
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mut *x = mut_load(cases[i].model);
        struct mut_tensor *t = mut_find(x, cases[i].stored);
        char tmp[64], changed[128];
        tmp_fast(tmp);
        snprintf(changed, sizeof changed, "%s/changed", tmp);
        mut_set(t, 0, mut_get(t, 0) + 0.5f);
        mut_write(x, "safetensors", changed);
        for (size_t k = 0; k < N_DRESSES; k++) {
            const char *path = dress_make(cases[i].model, &dresses[k], tmp);
            struct lm_diff *d = path ? diff(changed, path) : NULL;
            if (!path)
                continue;
            const struct lm_diff_tensor *r = named(d, cases[i].canonical[0]);
            assert_int_equal(r->kind, LM_DIFF_CHANGED);
            assert_int_equal(r->n_differ, 1);
            assert_true(fabs(r->largest - 0.5) < 0.02);
            only(d, 1);
            done(d);
        }
        mut_free(x);
        tmp_remove(tmp);
    }
}

static void test_cast(void **state)
{
    (void)state;
    convert(SAMPLE, path_in(dir_b, "m.gguf"), "gguf", LM_F16, NULL);
    struct lm_diff *d = diff(SAMPLE, path_in(dir_b, "m.gguf"));
    assert_int_equal(d->n_of[LM_DIFF_CAST] + d->n_of[LM_DIFF_SAME], d->n_tensors);
    is_kind(d, "output.weight", LM_DIFF_CAST, "BF16 rounded to F16");
    done(d);
    d = diff(path_in(dir_b, "m.gguf"), SAMPLE); /* either way round */
    assert_int_equal(d->n_of[LM_DIFF_CHANGED], 0);
    done(d);
}

static void test_every_quantization(void **state)
{
    static const char *const types[] = {"Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K", "Q4_0", "Q5_1"};

    (void)state;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        const char *gguf = path_in(dir_b, "q.gguf");
        convert(SAMPLE, gguf, "gguf", -1, types[i]);
        struct lm_diff *d = diff(SAMPLE, gguf);
        assert_int_equal(d->n_of[LM_DIFF_QUANTIZED] + d->n_of[LM_DIFF_SAME], d->n_tensors);
        is_kind(d, "blk.0.ffn_up.weight", LM_DIFF_QUANTIZED, "as the reference quantizer makes it");
        assert_true(named(d, "blk.0.ffn_up.weight")->relative <= 1.1 * named(d, "blk.0.ffn_up.weight")->expected);
        done(d);
        unlink(gguf);
    }
}

/* More than rounding can explain: a few elements of one block, or a wrong order. */
static void test_tampered_quantization(void **state)
{
    (void)state;
    convert(SAMPLE, path_in(dir_a, "q.gguf"), "gguf", -1, "Q8_0");
    struct mut *x = mut_load(path_in(dir_a, "q.gguf"));
    struct mut_tensor *t = mut_find(x, "blk.1.ffn_up.weight");
    t->data[2 + 5] = (uint8_t)(t->data[2 + 5] + 90); /* one element of the first block of 34 bytes */
    mut_write(x, "gguf", dir_b);
    struct lm_diff *d = diff(SAMPLE, path_in(dir_b, "model.gguf"));
    is_kind(d, "blk.1.ffn_up.weight", LM_DIFF_CHANGED, NULL);
    assert_int_equal(d->n_of[LM_DIFF_CHANGED], 1);
    assert_int_equal(named(d, "blk.1.ffn_up.weight")->largest_at, 5);
    done(d);
    mut_free(x);
}

/* ---- accidents */

static void permute(struct mut_tensor *t, uint64_t heads, bool inverse)
{
    uint64_t per_head = t->shape[0] / heads, half = per_head / 2;
    size_t row = t->n_bytes / t->shape[0];
    uint8_t *old = malloc(t->n_bytes);

    memcpy(old, t->data, t->n_bytes);
    for (uint64_t r = 0; r < t->shape[0]; r++) {
        uint64_t q = r % per_head, to = inverse ? (q % 2) * half + q / 2 : (q % half) * 2 + q / half;
        memcpy(t->data + (r / per_head * per_head + to) * row, old + r * row, row);
    }
    free(old);
}

static struct lm_config config_of(const char *path)
{
    struct lm_model *m = open_ok(path);
    struct lm_config c;
    struct lm_err e;

    assert_int_equal(lm_config_read(&c, m, NULL, &e), 1);
    lm_model_close(m);
    return c;
}

static void test_permutation_missing_or_twice(void **state)
{
    struct lm_config c = config_of(LLAMA);

    (void)state;
    for (int inverse = 0; inverse < 2; inverse++) {
        struct mut *x = mut_load(LLAMA);
        permute(mut_find(x, Q0), c.n_heads, inverse);
        mut_write(x, "safetensors", dir_b);
        struct lm_diff *d = diff(LLAMA, dir_b);
        is_kind(d, "blk.0.attn_q.weight", LM_DIFF_TRANSFORM, inverse ? "is missing" : "once too often");
        only(d, 1);
        done(d);
        mut_free(x);
    }
}

static void test_permutation_with_wrong_heads(void **state)
{
    struct lm_config c = config_of(LLAMA);
    struct mut *x = mut_load(LLAMA);

    (void)state;
    assert_true(c.n_heads != c.n_kv_heads);
    convert(LLAMA, path_in(dir_a, "m.gguf"), "gguf", -1, NULL);
    mut_free(x);
    x = mut_load(path_in(dir_a, "m.gguf"));
    permute(mut_find(x, "blk.1.attn_k.weight"), c.n_kv_heads, true);
    permute(mut_find(x, "blk.1.attn_k.weight"), c.n_heads, false);
    mut_write(x, "gguf", dir_b);
    struct lm_diff *d = diff(LLAMA, path_in(dir_b, "model.gguf"));
    is_kind(d, "blk.1.attn_k.weight", LM_DIFF_TRANSFORM, "heads instead of");
    only(d, 1);
    done(d);
    mut_free(x);
}

static void test_norm_shifted(void **state)
{
    struct mut *x = mut_load(LLAMA);
    struct mut_tensor *t = mut_find(x, "model.layers.1.input_layernorm.weight");

    (void)state;
    for (uint64_t i = 0; i < t->n_elems; i++)
        mut_set(t, i, mut_get(t, i) + 1);
    mut_write(x, "safetensors", dir_b);
    struct lm_diff *d = diff(LLAMA, dir_b);
    is_kind(d, "blk.1.attn_norm.weight", LM_DIFF_TRANSFORM, "1 is added");
    done(d);
    d = diff(dir_b, LLAMA);
    is_kind(d, "blk.1.attn_norm.weight", LM_DIFF_TRANSFORM, "1 is subtracted");
    done(d);
    mut_free(x);
}

static void test_scaled_and_transposed(void **state)
{
    struct mut *x = mut_load(LLAMA);
    struct mut_tensor *up = mut_find(x, "model.layers.0.mlp.up_proj.weight"), *o = mut_find(x, "model.layers.0.self_attn.o_proj.weight");

    (void)state;
    for (uint64_t i = 0; i < up->n_elems; i++)
        mut_set(up, i, mut_get(up, i) * 2);
    assert_int_equal(o->shape[0], o->shape[1]);
    for (uint64_t r = 0; r < o->shape[0]; r++)
        for (uint64_t c = 0; c < r; c++) {
            float v = mut_get(o, r * o->shape[1] + c);
            mut_set(o, r * o->shape[1] + c, mut_get(o, c * o->shape[1] + r));
            mut_set(o, c * o->shape[1] + r, v);
        }
    mut_write(x, "safetensors", dir_b);
    struct lm_diff *d = diff(LLAMA, dir_b);
    is_kind(d, "blk.0.ffn_up.weight", LM_DIFF_TRANSFORM, "multiplied by 2");
    is_kind(d, "blk.0.attn_output.weight", LM_DIFF_TRANSFORM, "transposed");
    only(d, 2);
    done(d);
    mut_free(x);
}

/* ---- updates */

/* A model of one matrix; then the same plus a product of random factors. */
static void update_of_rank(enum lm_dtype d, uint64_t rows, uint64_t cols, unsigned rank, double size)
{
    struct mut *x = calloc(1, sizeof *x);
    uint64_t seed = 42, shape[2] = {rows, cols};
    float *w = calloc(rows * cols, sizeof *w), *u = calloc(rows * rank, sizeof *u), *v = calloc(rank * cols, sizeof *v);

    x->meta = lm_meta_new();
    struct mut_tensor *t = mut_add(x, "w", LM_F32, 2, shape, NULL);
    for (uint64_t i = 0; i < rows * cols; i++)
        w[i] = 0.02f * mut_noise(&seed);
    for (uint64_t i = 0; i < rows * rank; i++)
        u[i] = mut_noise(&seed);
    for (uint64_t i = 0; i < cols * rank; i++)
        v[i] = (float)(0.02 * size / sqrt(rank)) * mut_noise(&seed);
    memcpy(t->data, w, t->n_bytes);
    mut_cast(t, d);
    mut_write(x, "safetensors", dir_a);
    /* As merging does: add in f32 to what is stored, round again. */
    lm_dtype_info(d)->to_f32(w, t->data, rows * cols);
    for (uint64_t r = 0; r < rows; r++)
        for (uint64_t c = 0; c < cols; c++) {
            float delta = 0;
            for (unsigned k = 0; k < rank; k++)
                delta += u[r * rank + k] * v[k * cols + c];
            w[r * cols + c] += delta;
        }
    lm_dtype_info(d)->from_f32(t->data, w, rows * cols);
    mut_write(x, "safetensors", dir_b);
    mut_free(x);
    free(w);
    free(u);
    free(v);
}

static void rank_found(enum lm_dtype d, uint64_t rows, uint64_t cols, unsigned rank, double size)
{
    update_of_rank(d, rows, cols, rank, size);
    struct lm_diff *x = diff(dir_a, dir_b);
    const struct lm_diff_tensor *t = named(x, "w");

    assert_int_equal(t->kind, LM_DIFF_CHANGED);
    assert_true(t->has_rank);
    if (t->rank != rank)
        fail_msg("%s [%d, %d]: rank %u of %u, expected %u", lm_dtype_name(d), (int)rows, (int)cols, t->rank, t->rank_limit, rank);
    done(x);
}

static void test_rank(void **state)
{
    (void)state;
    rank_found(LM_F32, 512, 384, 16, 0.1);
    rank_found(LM_F32, 1000, 700, 64, 0.05);
    rank_found(LM_F32, 2048, 100, 4, 0.01);
    rank_found(LM_F32, 48, 40, 3, 0.1);
    rank_found(LM_BF16, 1024, 768, 16, 0.2);
    rank_found(LM_BF16, 512, 1536, 1, 0.05);
    rank_found(LM_F16, 512, 512, 8, 0.1);
}

static void test_full_rank(void **state)
{
    struct lm_diff *d;

    (void)state;
    update_of_rank(LM_BF16, 512, 384, 384, 0.1);
    d = diff(dir_a, dir_b);
    assert_true(4 * named(d, "w")->rank > 3 * named(d, "w")->rank_limit);
    done(d);
}

/* A LoRA of rank 8 merged into Q and V of the first three layers, two tokens
 * more, another rotary base; in every container. */
static void add_low_rank(struct mut_tensor *t, unsigned rank, float size, uint64_t *seed)
{
    uint64_t rows = t->shape[0], cols = t->shape[1];
    float *u = calloc(rows * rank, sizeof *u), *v = calloc(rank * cols, sizeof *v);

    for (uint64_t i = 0; i < rows * rank; i++)
        u[i] = mut_noise(seed);
    for (uint64_t i = 0; i < cols * rank; i++)
        v[i] = size / sqrtf((float)rank) * mut_noise(seed);
    for (uint64_t r = 0; r < rows; r++)
        for (uint64_t c = 0; c < cols; c++) {
            float delta = 0;
            for (unsigned k = 0; k < rank; k++)
                delta += u[r * rank + k] * v[k * cols + c];
            mut_set(t, r * cols + c, mut_get(t, r * cols + c) + delta);
        }
    free(u);
    free(v);
}

static void add_rows(struct mut *x, const char *name, uint64_t n)
{
    struct mut_tensor *t = mut_find(x, name);
    uint64_t shape[2] = {t->shape[0] + n, t->shape[1]};
    uint8_t *data = calloc(1, t->n_bytes / t->shape[0] * shape[0]);
    enum lm_dtype type = t->dtype;

    memcpy(data, t->data, t->n_bytes);
    mut_drop(x, name);
    t = mut_add(x, name, type, 2, shape, data);
    mut_set(t, shape[0] * shape[1] - 1, 0.25f);
    free(data);
}

static void make_tuned(const char *folder)
{
    struct mut *x = mut_load(SAMPLE);
    uint64_t seed = 5;

    for (int l = 0; l < 3; l++) {
        char name[80];
        snprintf(name, sizeof name, "model.layers.%d.self_attn.q_proj.weight", l);
        add_low_rank(mut_find(x, name), 8, 0.002f, &seed);
        snprintf(name, sizeof name, "model.layers.%d.self_attn.v_proj.weight", l);
        add_low_rank(mut_find(x, name), 8, 0.002f, &seed);
    }
    add_rows(x, "model.embed_tokens.weight", 2);
    add_rows(x, "lm_head.weight", 2);
    mut_edit(x, "config.json", "\"rope_theta\": 10000.0", "\"rope_theta\": 500000.0");
    mut_edit(x, "config.json", "\"vocab_size\": 4096", "\"vocab_size\": 4098");
    mut_write(x, "safetensors", folder);
    mut_free(x);
}

static void test_merged_lora(void **state)
{
    char tuned[128];

    (void)state;
    snprintf(tuned, sizeof tuned, "%s/tuned", dir_a);
    make_tuned(tuned);
    for (size_t k = 0; k < N_DRESSES; k++) {
        const char *path = dress_make(tuned, &dresses[k], dir_b);
        struct lm_diff *d = path ? diff(SAMPLE, path) : NULL;
        if (!path)
            continue;
        for (int l = 0; l < 3; l++) {
            char name[40];
            snprintf(name, sizeof name, "blk.%d.attn_q.weight", l);
            assert_int_equal(named(d, name)->rank, 8);
            snprintf(name, sizeof name, "blk.%d.attn_v.weight", l);
            assert_int_equal(named(d, name)->rank, 8);
        }
        is_kind(d, "token_embd.weight", LM_DIFF_CHANGED, "2 rows added, the others are the same");
        is_kind(d, "output.weight", LM_DIFF_CHANGED, "2 rows added, the others are the same");
        assert_int_equal(named(d, "output.weight")->rows_added, 2);
        only(d, 8);
        assert_true(strtod(note(d, "config", "rope_theta")->b, NULL) == 500000);
        assert_true(strtod(note(d, "config", "vocab_size")->b, NULL) == 4098);
        done(d);
    }
}

static void test_changed_numbers(void **state)
{
    struct mut *x = mut_load(LLAMA);
    struct mut_tensor *t = mut_find(x, K1);

    (void)state;
    mut_set(t, 0, mut_get(t, 0) + 0.5f);
    mut_write(x, "safetensors", dir_b);
    struct lm_diff *d = diff(LLAMA, dir_b);
    const struct lm_diff_tensor *r = named(d, "blk.1.attn_k.weight");
    assert_int_equal(r->kind, LM_DIFF_CHANGED);
    assert_int_equal(r->n_differ, 1);
    assert_int_equal(r->largest_at, 0);
    assert_true(fabs(r->largest - 0.5) < 0.01);
    assert_int_equal(r->rank, 1);
    assert_ptr_equal(r, &d->tensors[0]); /* what matters first */
    only(d, 1);
    done(d);
    mut_set(t, 7, NAN);
    mut_write(x, "safetensors", dir_b);
    d = diff(LLAMA, dir_b);
    assert_true(isinf(named(d, "blk.1.attn_k.weight")->largest));
    assert_int_equal(named(d, "blk.1.attn_k.weight")->largest_at, 7);
    assert_false(named(d, "blk.1.attn_k.weight")->has_rank);
    done(d);
    mut_free(x);
}

static void test_added_rows(void **state)
{
    struct mut *x = mut_load("tests/fixtures/models/tiny-llama-tied");
    struct mut_tensor *t = mut_find(x, "model.embed_tokens.weight");
    uint64_t shape[2] = {t->shape[0] + 2, t->shape[1]};

    (void)state;
    uint8_t *data = calloc(1, t->n_bytes / t->shape[0] * shape[0]);
    memcpy(data, t->data, t->n_bytes);
    enum lm_dtype type = t->dtype;
    mut_drop(x, "model.embed_tokens.weight");
    mut_add(x, "model.embed_tokens.weight", type, 2, shape, data);
    mut_write(x, "safetensors", dir_b);
    struct lm_diff *d = diff("tests/fixtures/models/tiny-llama-tied", dir_b);
    is_kind(d, "token_embd.weight", LM_DIFF_CHANGED, "2 rows added, the others are the same");
    assert_int_equal(named(d, "token_embd.weight")->rows_added, 2);
    only(d, 1);
    done(d);
    d = diff(dir_b, "tests/fixtures/models/tiny-llama-tied");
    is_kind(d, "token_embd.weight", LM_DIFF_CHANGED, "2 rows removed");
    done(d);
    free(data);
    mut_free(x);
}

static void test_missing_and_shape(void **state)
{
    struct mut *x = mut_load(LLAMA);
    static const uint64_t shape[2] = {3, 5};

    (void)state;
    mut_drop(x, Q0);
    mut_drop(x, K1);
    mut_add(x, K1, LM_F32, 2, shape, NULL);
    mut_add(x, "extra", LM_F32, 2, shape, NULL);
    mut_write(x, "safetensors", dir_b);
    struct lm_diff *d = diff(LLAMA, dir_b);
    is_kind(d, "blk.0.attn_q.weight", LM_DIFF_ONLY_A, NULL);
    is_kind(d, "extra", LM_DIFF_ONLY_B, NULL);
    is_kind(d, "blk.1.attn_k.weight", LM_DIFF_SHAPE, NULL);
    only(d, 3);
    done(d);
    mut_free(x);
}

static void test_tie_written_out(void **state)
{
    struct mut *x = mut_load("tests/fixtures/models/tiny-llama-tied");
    const struct mut_tensor *t = mut_find(x, "model.embed_tokens.weight");

    (void)state;
    mut_add(x, "lm_head.weight", t->dtype, t->n_dims, t->shape, t->data);
    mut_write(x, "safetensors", dir_b);
    struct lm_diff *d = diff("tests/fixtures/models/tiny-llama-tied", dir_b);
    is_kind(d, "output.weight", LM_DIFF_SAME, "ties it");
    only(d, 0);
    done(d);
    mut_set(mut_find(x, "lm_head.weight"), 2, 3);
    mut_write(x, "safetensors", dir_b);
    d = diff("tests/fixtures/models/tiny-llama-tied", dir_b);
    is_kind(d, "output.weight", LM_DIFF_CHANGED, NULL);
    done(d);
    mut_free(x);
}

/* ---- what is not a tensor */

static void test_config(void **state)
{
    struct mut *x = mut_load(SAMPLE);

    (void)state;
    mut_edit(x, "config.json", "\"rope_theta\": 10000.0", "\"rope_theta\": 500000.0");
    mut_write(x, "safetensors", dir_b);
    struct lm_diff *d = diff(SAMPLE, dir_b);
    assert_string_equal(note(d, "config", "rope_theta")->b, "500000.0");
    only(d, 0);
    done(d);
    convert(dir_b, path_in(dir_a, "m.gguf"), "gguf", -1, NULL);
    mut_free(x);
    x = mut_load(path_in(dir_a, "m.gguf"));
    lm_meta_remove(x->meta, "libmodel.source.config.json");
    mut_write(x, "gguf", dir_a);
    d = diff(SAMPLE, path_in(dir_a, "model.gguf")); /* through hyper-parameters: no config.json there */
    assert_string_equal(note(d, "config", "rope_theta")->b, "500000");
    done(d);
    mut_free(x);
}

static void test_metadata(void **state)
{
    struct mut *x;
    struct lm_diff *d;

    (void)state;
    convert(SAMPLE, path_in(dir_a, "m.gguf"), "gguf", -1, NULL);
    x = mut_load(path_in(dir_a, "m.gguf"));
    lm_meta_set_str(x->meta, "general.name", lm_span_str("another"));
    lm_meta_set_u32(x->meta, "tokenizer.ggml.eos_token_id", 7);
    mut_write(x, "gguf", dir_b);
    d = diff(path_in(dir_a, "m.gguf"), path_in(dir_b, "model.gguf"));
    assert_string_equal(note(d, "metadata", "general.name")->b, "another");
    assert_string_equal(note(d, "tokenizer", "eos_id")->b, "7");
    done(d);
    mut_free(x);
}

static void test_tokenizer(void **state)
{
    struct mut *x;
    struct lm_diff *d;
    const struct lm_meta_value *v;

    (void)state;
    convert(SAMPLE, path_in(dir_a, "m.gguf"), "gguf", -1, NULL);
    x = mut_load(path_in(dir_a, "m.gguf"));
    v = lm_meta_get(x->meta, "tokenizer.ggml.tokens");
    assert_non_null(v);
    struct lm_span *pieces = calloc(v->n, sizeof *pieces);
    size_t n = v->n;
    memcpy(pieces, v->strs, n * sizeof *pieces);
    pieces[300] = lm_span_str("changed");
    lm_meta_set_strs(x->meta, "tokenizer.ggml.tokens", pieces, n);
    mut_write(x, "gguf", dir_b);
    d = diff(SAMPLE, path_in(dir_b, "model.gguf"));
    assert_string_equal(note(d, "tokenizer", "piece 300")->b, "changed");
    done(d);
    free(pieces);
    mut_free(x);
}

static void test_every_kind_has_a_name(void **state)
{
    (void)state;
    for (int i = 0; i < LM_N_DIFF_KINDS; i++)
        assert_true(strlen(lm_diff_kind_name((enum lm_diff_kind)i)) > 2);
    assert_string_equal(lm_diff_kind_name(LM_N_DIFF_KINDS), "?");
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_same_across_containers), T(test_cast), T(test_every_quantization), T(test_tampered_quantization),
        T(test_permutation_missing_or_twice), T(test_permutation_with_wrong_heads), T(test_norm_shifted),
        T(test_scaled_and_transposed), T(test_rank), T(test_full_rank), T(test_merged_lora), T(test_change_in_parts), T(test_changed_numbers), T(test_added_rows),
        T(test_missing_and_shape), T(test_tie_written_out), T(test_config), T(test_metadata), T(test_tokenizer),
        T(test_every_kind_has_a_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
