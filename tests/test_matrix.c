/* Every pair of containers: a model that lies in A, written as B, then as C, then
 * in Hugging Face's form, holds the values, bit for bit, that it holds when it is
 * written so at once, and computes the same logits at every stop. */
#include "tests/dress.h"

#include "convert/convert.h"
#include "gpu/engine.h"

#include <math.h>

static const char *const targets[] = {"safetensors", "gguf", "npz", "h5"};
static const char *const endings[] = {"", ".gguf", ".npz", ".h5"};
enum { N_TARGETS = 4, N_IDS = 7 };

static size_t n_conversions, n_tensors;

static void convert_to(const char *src, const char *to, const char *dst, uint64_t max_file_bytes)
{
    struct lm_request req = {.to = lm_format_find(to), .dtype = -1, .max_file_bytes = max_file_bytes};
    struct lm_run_options o = {.n_threads = 1};
    struct lm_plan *p;
    struct lm_err e = {0};
    struct lm_model *m = open_ok(src);

    if (lm_plan_make(&p, m, &req, &e) < 0 || lm_plan_run(p, dst, &o, &e) < 0)
        fail_msg("%s to %s as %s: %s", src, dst, to, e.text);
    lm_plan_free(p);
    lm_model_close(m);
    n_conversions++;
}
static void convert(const char *src, const char *to, const char *dst)
{
    convert_to(src, to, dst, 0);
}

/* The same bytes; or, where GGUF widened a small one, the same numbers. */
static bool same_values(const struct lm_tensor *a, const struct lm_tensor *b)
{
    size_t n = a->dtype == b->dtype ? a->n_bytes : a->n_elems * sizeof(float);
    uint8_t *x = calloc(1, n + 1), *y = calloc(1, n + 1);

    if (a->dtype == b->dtype) {
        lm_tensor_read(a, 0, n, x);
        lm_tensor_read(b, 0, n, y);
    } else {
        assert_int_equal(lm_tensor_to_f32(a, 0, a->n_elems, (float *)(void *)x, NULL), 0);
        assert_int_equal(lm_tensor_to_f32(b, 0, b->n_elems, (float *)(void *)y, NULL), 0);
    }
    bool same = memcmp(x, y, n) == 0;
    free(x);
    free(y);
    return same;
}

static void assert_same_values(const char *path, const char *expected)
{
    struct lm_model *m = open_ok(path), *x = open_ok(expected);

    assert_int_equal(lm_model_n_tensors(m), lm_model_n_tensors(x));
    for (size_t i = 0; i < lm_model_n_tensors(x); i++, n_tensors++) {
        const struct lm_tensor *want = lm_model_tensor(x, i), *got = lm_model_find(m, want->name);
        if (!got || got->n_dims != want->n_dims || memcmp(got->shape, want->shape, sizeof got->shape) != 0)
            fail_msg("%s: tensor %s is missing or has another shape", path, want->name);
        if (!same_values(want, got))
            fail_msg("%s: tensor %s has other values", path, want->name);
    }
    lm_model_close(m);
    lm_model_close(x);
}

/* ---- logits */

struct logits { float *x; size_t n; };

static struct logits logits_of(const char *path)
{
    static const int32_t ids[N_IDS] = {1, 5, 3, 11, 2, 7, 4};
    struct lm_engine_options o = {"cpu", LM_MATH_EXACT, 1, 16};
    struct lm_model *m = open_ok(path);
    struct lm_engine *g = NULL;
    struct lm_session *s = NULL;
    struct lm_err e = {0};

    if (lm_engine_open(&g, m, &o, &e) < 0 || lm_session_open(&s, g, &e) < 0)
        fail_msg("%s: %s", path, e.text);
    struct logits l = {.n = (size_t)lm_engine_config(g)->vocab_size * N_IDS};
    l.x = calloc(l.n, sizeof *l.x);
    if (lm_session_eval(s, ids, N_IDS, LM_LOGITS_ALL, l.x, &e) < 0)
        fail_msg("%s: %s", path, e.text);
    lm_session_close(s);
    lm_engine_close(g);
    lm_model_close(m);
    return l;
}

static void assert_same_logits(const char *path, const struct logits *want)
{
    struct logits l = logits_of(path);

    assert_int_equal(l.n, want->n);
    for (size_t i = 0; i < l.n; i++)
        if (fabsf(l.x[i] - want->x[i]) > 4e-6f * fmaxf(1, fabsf(want->x[i])))
            fail_msg("%s: logit %zu is %.9g, expected %.9g", path, i, (double)l.x[i], (double)want->x[i]);
    free(l.x);
}

/* ---- sources in containers that are read only */

static struct mut_tensor *as_f32(struct mut *x, const char *name)
{
    struct mut_tensor *t = mut_find(x, name);

    if (t->dtype != LM_F32)
        mut_cast(t, LM_F32);
    return t;
}

/* A ggjt 3 file; its rows lie as in a GGUF. */
static void make_ggjt(const char *gguf, const char *path)
{
    static const char *const names[][2] = {
        {"token_embd", "tok_embeddings"}, {"output_norm", "norm"}, {"output", "output"}, {"attn_q", "attention.wq"},
        {"attn_k", "attention.wk"}, {"attn_v", "attention.wv"}, {"attn_output", "attention.wo"}, {"ffn_gate", "feed_forward.w1"},
        {"ffn_down", "feed_forward.w2"}, {"ffn_up", "feed_forward.w3"}, {"attn_norm", "attention_norm"}, {"ffn_norm", "ffn_norm"},
    };
    struct mut *x = mut_load(gguf);
    struct lm_model *m = open_ok(gguf);
    struct lm_config c;
    struct bytes b = {0};

    assert_int_equal(lm_config_read(&c, m, NULL, NULL), 1);
    put_text(&b, "tjgg");
    put_u32(&b, 3);
    put_u32(&b, c.vocab_size), put_u32(&b, c.d_model), put_u32(&b, 256), put_u32(&b, c.n_heads), put_u32(&b, c.n_layers);
    put_u32(&b, c.d_model / c.n_heads), put_u32(&b, 0);
    for (uint32_t i = 0; i < c.vocab_size; i++) {
        char piece[16];
        int n = snprintf(piece, sizeof piece, "piece %u", i);
        put_u32(&b, (uint32_t)n), put(&b, piece, (size_t)n), put_u32(&b, 0);
    }
    for (size_t i = 0; i < x->n; i++) {
        char name[80] = "", part[64], tail[16] = "";
        int layer = -1;
        if (sscanf(x->t[i].name, "blk.%d.%63[^.].%15s", &layer, part, tail) != 3)
            assert_int_equal(sscanf(x->t[i].name, "%63[^.].%15s", part, tail), 2);
        for (size_t k = 0; k < sizeof names / sizeof names[0]; k++)
            if (strcmp(names[k][0], part) == 0)
                snprintf(name, sizeof name, "%s.%s", names[k][1], tail);
        char whole[120];
        if (layer < 0)
            snprintf(whole, sizeof whole, "%s", name);
        else
            snprintf(whole, sizeof whole, "layers.%d.%s", layer, name);
        const struct mut_tensor *t = as_f32(x, x->t[i].name);
        put_u32(&b, t->n_dims), put_u32(&b, (uint32_t)strlen(whole)), put_u32(&b, 0);
        for (unsigned d = t->n_dims; d-- > 0;)
            put_u32(&b, (uint32_t)t->shape[d]);
        put_text(&b, whole);
        pad_to(&b, 32);
        put(&b, t->data, t->n_bytes);
    }
    write_file(path, b.data, b.n);
    bytes_free(&b);
    lm_model_close(m);
    mut_free(x);
}

/* llama2.c, version 1. */
static void make_llama2c(const char *gguf, const char *path)
{
    static const char *const order[] = {"blk.%d.attn_norm", "blk.%d.ffn_norm", "output_norm", "token_embd", "blk.%d.attn_q",
                                        "blk.%d.attn_k", "blk.%d.attn_v", "blk.%d.attn_output", "blk.%d.ffn_gate",
                                        "blk.%d.ffn_down", "blk.%d.ffn_up", "output"};
    struct mut *x = mut_load(gguf);
    struct lm_model *m = open_ok(gguf);
    struct lm_config c;
    struct bytes b = {0};

    assert_int_equal(lm_config_read(&c, m, NULL, NULL), 1);
    put_text(&b, "24ka");
    put_u32(&b, 1);
    put_u32(&b, c.d_model), put_u32(&b, c.d_ff), put_u32(&b, c.n_layers), put_u32(&b, c.n_heads), put_u32(&b, c.n_kv_heads);
    put_u32(&b, c.vocab_size), put_u32(&b, c.ctx_len), put_u8(&b, 0);
    put_zeros(&b, 256 - b.n);
    for (size_t i = 0; i < sizeof order / sizeof order[0]; i++)
        for (uint32_t l = 0; l < (strchr(order[i], '%') ? c.n_layers : 1); l++) {
            char name[64];
            const char *at = strchr(order[i], '%');
            if (at)
                snprintf(name, sizeof name, "blk.%u%s.weight", l, at + 2);
            else
                snprintf(name, sizeof name, "%s.weight", order[i]);
            const struct mut_tensor *t = as_f32(x, name);
            put(&b, t->data, t->n_bytes);
        }
    write_file(path, b.data, b.n);
    bytes_free(&b);
    lm_model_close(m);
    mut_free(x);
}

/* ---- all pairs */

static void walk(const char *src, size_t no)
{
    char direct[128], first[128], second[128], back[128];
    struct logits want = logits_of(src);

    snprintf(direct, sizeof direct, "%s/%zu", dir, no);
    convert(src, "safetensors", direct);
    assert_same_logits(direct, &want);
    for (size_t a = 0; a < N_TARGETS; a++) {
        snprintf(first, sizeof first, "%s/%zu-%zu%s", dir, no, a, endings[a]);
        convert(src, targets[a], first);
        assert_same_logits(first, &want);
        for (size_t b = 0; b < N_TARGETS; b++) {
            snprintf(second, sizeof second, "%s/%zu-%zu-%zu%s", dir, no, a, b, endings[b]);
            snprintf(back, sizeof back, "%s/%zu-%zu-%zu-back", dir, no, a, b);
            convert(first, targets[b], second);
            assert_same_logits(second, &want);
            convert(second, "safetensors", back);
            assert_same_values(back, direct);
        }
    }
    free(want.x);
}

static void all_pairs_keep_the_values(void **state)
{
    (void)state;
    static const char *const sources[] = {
        "tests/fixtures/models/tiny-llama", "tests/fixtures/models/tiny-llama-tied", "tests/fixtures/models/tiny-llama-llama3",
        "tests/fixtures/models/tiny-llama-sharded", "tests/fixtures/models/tiny-gpt2", "tests/fixtures/containers/meta-2",
        "tests/fixtures/containers/mistral-native",
    };
    size_t no = 0;

    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++)
        walk(sources[i], no++);
    make_torch("tests/fixtures/models/tiny-llama", path_in(dir, "torch-llama"));
    walk(path_in(dir, "torch-llama"), no++);
    make_torch("tests/fixtures/models/tiny-gpt2", path_in(dir, "torch-gpt2"));
    walk(path_in(dir, "torch-gpt2"), no++);
    const char *gguf = path_in(dir, "llama.gguf");
    convert("tests/fixtures/models/tiny-llama", "gguf", gguf);
    make_ggjt(gguf, path_in(dir, "llama.ggjt"));
    walk(path_in(dir, "llama.ggjt"), no++);
    make_llama2c(gguf, path_in(dir, "llama.bin"));
    walk(path_in(dir, "llama.bin"), no++);
    print_message("%zu conversions, %zu tensors compared\n", n_conversions, n_tensors);
}

static void cut_outputs_are_one_model(void **state)
{
    (void)state;
    static const char *const sources[] = {"tests/fixtures/models/tiny-llama", "tests/fixtures/models/tiny-gpt2"};
    char direct[128], cut[128], back[128];

    for (size_t i = 0; i < 2; i++) {
        snprintf(direct, sizeof direct, "%s/whole%zu", dir, i);
        convert(sources[i], "safetensors", direct);
        struct logits want = logits_of(direct);
        for (size_t a = 0; a < 2; a++) {
            snprintf(cut, sizeof cut, "%s/cut%zu-%zu/", dir, i, a);
            snprintf(back, sizeof back, "%s/cut%zu-%zu-back", dir, i, a);
            mkdir(cut, 0777);
            convert_to(sources[i], targets[a], cut, 4000);
            struct lm_model *m = open_ok(cut);
            assert_true(lm_model_n_files(m) > 3);
            lm_model_close(m);
            assert_same_logits(cut, &want);
            convert(cut, "safetensors", back);
            assert_same_values(back, direct);
        }
        free(want.x);
    }
}

/* What does not fit is refused by its name, never cut. */
static void limits_are_refused_by_name(void **state)
{
    (void)state;
    struct mut x = {.meta = lm_meta_new()};
    const uint64_t five[5] = {1, 2, 1, 2, 1};
    struct lm_request req = {.to = lm_format_find("gguf"), .dtype = -1, .allow_unknown = true};
    struct lm_plan *p;
    struct lm_err e = {0};
    static const char longest[] = "a.name.of.sixty.four.bytes.is.one.too.many.for.the.programs.xyzw";

    mut_add(&x, longest, LM_F32, 1, five + 1, NULL);
    mut_write_split(&x, "safetensors", dir, "long.safetensors", 0);
    struct lm_model *m = open_ok(path_in(dir, "long.safetensors"));
    assert_int_equal(sizeof longest - 1, 64);
    assert_int_equal(lm_plan_make(&p, m, &req, &e), -1);
    assert_non_null(strstr(e.text, longest));
    assert_non_null(strstr(e.text, "the name has 64 bytes, GGUF allows 63"));
    lm_model_close(m);
    mut_rename(&x, longest, "five");
    x.t[0].n_dims = 5;
    x.t[0].n_elems = 4;
    memcpy(x.t[0].shape, five, sizeof five);
    free(x.t[0].data);
    x.t[0].data = calloc(1, x.t[0].n_bytes = 16);
    mut_write_split(&x, "safetensors", dir, "five.safetensors", 0);
    m = open_ok(path_in(dir, "five.safetensors"));
    assert_int_equal(lm_plan_make(&p, m, &req, &e), -1);
    assert_non_null(strstr(e.text, "tensor 'five' has 5 dimensions, GGUF allows 4"));
    lm_model_close(m);
    free(x.t[0].name);
    free(x.t[0].data);
    free(x.t);
    lm_meta_free(x.meta);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_pairs_keep_the_values),
        cmocka_unit_test(cut_outputs_are_one_model),
        cmocka_unit_test(limits_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
