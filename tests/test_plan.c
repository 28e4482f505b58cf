/* What a conversion decides before it writes: names, shapes, types, what is
 * dropped, made or refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert/convert.h"

#define MODELS "tests/fixtures/models/"

static struct lm_request to(const char *format)
{
    return (struct lm_request){.to = lm_format_find(format), .dtype = -1};
}

struct planned { struct lm_model *m; struct lm_plan *p; struct lm_err e; };

static int plan(struct planned *x, const char *path, struct lm_request r)
{
    *x = (struct planned){0};
    if (lm_model_open(&x->m, path, &x->e) < 0)
        fail_msg("%s", x->e.text);
    return lm_plan_make(&x->p, x->m, &r, &x->e);
}

static void done(struct planned *x)
{
    lm_plan_free(x->p);
    lm_model_close(x->m);
}

static const struct lm_plan_item *item(const struct planned *x, const char *name)
{
    for (size_t i = 0; i < x->p->n_items; i++)
        if (strcmp(x->p->items[i].name, name) == 0)
            return &x->p->items[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

static uint64_t u(const struct planned *x, const char *key)
{
    uint64_t v = UINT64_MAX;

    lm_meta_get_u64(x->p->meta, key, &v, NULL);
    return v;
}

static void test_llama_to_gguf(void **state)
{
    struct planned x;
    struct lm_span s;

    (void)state;
    assert_int_equal(plan(&x, "samples/polish-5m", to("gguf")), 0);
    assert_int_equal(x.p->n_items, 39);
    assert_int_equal(x.p->n_drops, 0);
    assert_int_equal(x.p->n_sides, 0);
    assert_int_equal(item(&x, "blk.2.attn_q.weight")->transform, LM_T_PERMUTE_Q);
    assert_int_equal(item(&x, "blk.2.attn_q.weight")->n_heads, 8);
    assert_int_equal(item(&x, "blk.2.attn_k.weight")->n_heads, 4);
    assert_int_equal(item(&x, "blk.2.attn_q.weight")->dtype, LM_BF16);
    assert_int_equal(item(&x, "blk.2.attn_norm.weight")->dtype, LM_F32);
    assert_int_equal(item(&x, "output.weight")->dtype, LM_BF16);
    assert_int_equal(lm_plan_action(item(&x, "output.weight")), LM_ACTION_COPY);
    assert_int_equal(lm_plan_action(item(&x, "output_norm.weight")), LM_ACTION_CAST);
    assert_int_equal(u(&x, "llama.block_count"), 4);
    assert_int_equal(u(&x, "llama.attention.head_count_kv"), 4);
    assert_int_equal(u(&x, "general.file_type"), 32);
    assert_int_equal(u(&x, "general.quantization_version"), 2);
    assert_int_equal(lm_meta_get_str(x.p->meta, "general.name", &s, NULL), 1);
    assert_true(lm_span_eq(s, lm_span_str("polish-5m")));
    done(&x);
}

static void test_every_source_tensor_is_accounted_for(void **state)
{
    static const char *const models[] = {
        "samples/polish-5m", MODELS "tiny-llama", MODELS "tiny-llama-bias", MODELS "tiny-llama-tied",
        MODELS "tiny-llama-llama3", MODELS "tiny-llama-yarn", MODELS "tiny-llama-linear", MODELS "tiny-llama-sharded",
        MODELS "tiny-mistral", MODELS "tiny-gpt2", MODELS "tiny-gpt2-hub",
    };

    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++)
        for (int f = 0; f < 2; f++) {
            struct planned x;
            size_t from = 0;
            assert_int_equal(plan(&x, models[i], to(f ? "gguf" : "safetensors")), 0);
            for (size_t k = 0; k < x.p->n_items; k++)
                from += x.p->items[k].src != NULL;
            assert_int_equal(from + x.p->n_drops, lm_model_n_tensors(x.m));
            for (size_t k = 0; k < x.p->n_drops; k++)
                assert_true(strlen(x.p->drops[k].why) > 5);
            done(&x);
        }
}

static void test_gpt2_to_gguf(void **state)
{
    struct planned x;
    const struct lm_plan_item *qkv;

    (void)state;
    assert_int_equal(plan(&x, MODELS "tiny-gpt2-hub", to("gguf")), 0);
    qkv = item(&x, "blk.1.attn_qkv.weight");
    assert_int_equal(qkv->transform, LM_T_TRANSPOSE);
    assert_int_equal(qkv->shape[0], qkv->src->shape[1]);
    assert_int_equal(qkv->shape[1], qkv->src->shape[0]);
    assert_int_equal(item(&x, "position_embd.weight")->dtype, LM_F32);
    assert_int_equal(x.p->n_drops, 2);
    assert_string_equal(x.p->drops[0].src->name, "h.0.attn.bias");
    assert_non_null(strstr(x.p->drops[0].why, "mask"));
    done(&x);
}

static void test_llama3_scaling_becomes_a_tensor(void **state)
{
    struct planned x;
    const struct lm_plan_item *it;
    float divisors[512];

    (void)state;
    assert_int_equal(plan(&x, MODELS "tiny-llama-llama3", to("gguf")), 0);
    it = item(&x, "rope_freqs.weight");
    assert_int_equal(lm_plan_action(it), LM_ACTION_MAKE);
    assert_int_equal(it->shape[0], x.p->bind->config.d_rope / 2);
    lm_rope_llama3_divisors(&x.p->bind->config, divisors);
    assert_memory_equal(it->made, divisors, it->shape[0] * sizeof(float));
    done(&x);
}

static void test_dtype_request(void **state)
{
    struct planned x;
    struct lm_request r = to("gguf");

    (void)state;
    r.dtype = LM_F16;
    assert_int_equal(plan(&x, "samples/polish-5m", r), 0);
    assert_int_equal(item(&x, "blk.0.ffn_up.weight")->dtype, LM_F16);
    assert_int_equal(item(&x, "blk.0.ffn_norm.weight")->dtype, LM_F32);
    assert_int_equal(u(&x, "general.file_type"), 1);
    assert_null(lm_meta_get(x.p->meta, "libmodel.source.header"));
    done(&x);

    r = to("safetensors");
    r.dtype = LM_F16;
    assert_int_equal(plan(&x, "samples/polish-5m", r), 0);
    assert_int_equal(item(&x, "model.norm.weight")->dtype, LM_F16);
    done(&x);

    r = to("gguf");
    r.dtype = LM_Q8_0;
    assert_int_equal(plan(&x, "samples/polish-5m", r), 0);
    assert_int_equal(item(&x, "output.weight")->dtype, LM_Q8_0);
    assert_int_equal(u(&x, "general.file_type"), 7);
    done(&x);
}

static void test_requests_that_make_no_sense(void **state)
{
    struct planned x;
    struct lm_request r = to("safetensors");

    (void)state;
    r.dtype = LM_Q8_0;
    assert_int_equal(plan(&x, "samples/polish-5m", r), -1);
    assert_int_equal(x.e.code, LM_USAGE);
    assert_non_null(strstr(x.e.text, "Q8_0"));
    done(&x);

    r = to("safetensors");
    r.quantize = true;
    r.ftype = lm_ftype_find("Q4_0");
    assert_int_equal(plan(&x, "samples/polish-5m", r), -1);
    assert_int_equal(x.e.code, LM_USAGE);
    done(&x);
}

static void test_quantize_orders_and_mixes(void **state)
{
    struct planned x;
    struct lm_request r = to("gguf");

    (void)state;
    r.quantize = true;
    r.ftype = lm_ftype_find("q4_k_m");
    assert_int_equal(plan(&x, "samples/polish-5m", r), 0);
    assert_string_equal(x.p->items[0].name, "output.weight");
    assert_string_equal(x.p->items[3].name, "blk.0.attn_k.weight");
    assert_int_equal(item(&x, "output.weight")->dtype, LM_Q6_K);
    assert_int_equal(item(&x, "token_embd.weight")->dtype, LM_Q4_K);
    assert_int_equal(item(&x, "blk.0.attn_norm.weight")->dtype, LM_F32);
    assert_int_equal(u(&x, "general.file_type"), 15);
    assert_null(lm_meta_get(x.p->meta, "libmodel.source.config.json"));
    done(&x);

    r.pure = true;
    assert_int_equal(plan(&x, "samples/polish-5m", r), 0);
    assert_int_equal(item(&x, "output.weight")->dtype, LM_Q4_K);
    done(&x);
}

static void test_fallbacks_are_announced(void **state)
{
    struct planned x;
    struct lm_request r = to("gguf");
    const struct lm_plan_item *it;

    (void)state;
    r.quantize = true;
    r.ftype = lm_ftype_find("Q4_K_S");
    assert_int_equal(plan(&x, MODELS "tiny-llama", r), 0);
    it = item(&x, "blk.1.attn_q.weight");
    assert_true(it->src->shape[1] % 256 != 0);
    assert_int_not_equal(it->dtype, LM_Q4_K);
    assert_non_null(it->why);
    assert_non_null(strstr(it->why, "are not whole"));
    done(&x);
}

/* ---- hand-made files */

struct spec_tensor { const char *name, *dtype; int rows, cols; };

static char made[128];

static const char *write_safetensors(const struct spec_tensor *t, size_t n)
{
    char head[4096];
    size_t k = 0, pos = 0;
    uint8_t len[8];
    int fd;

    strcpy(made, "/tmp/lm-plan-XXXXXX.safetensors");
    fd = mkstemps(made, 12);
    assert_true(fd >= 0);
    for (size_t i = 0; i < n; i++) {
        size_t bytes = (size_t)t[i].rows * (size_t)t[i].cols * (strcmp(t[i].dtype, "F32") == 0 ? 4 : 1);
        k += (size_t)snprintf(head + k, sizeof head - k, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%d,%d],"
                              "\"data_offsets\":[%zu,%zu]}", i ? "," : "{", t[i].name, t[i].dtype, t[i].rows, t[i].cols,
                              pos, pos + bytes);
        pos += bytes;
    }
    k += (size_t)snprintf(head + k, sizeof head - k, "}");
    lm_store_u64le(len, k);
    assert_int_equal(pwrite(fd, len, 8, 0), 8);
    assert_int_equal(pwrite(fd, head, k, 8), k);
    assert_int_equal(ftruncate(fd, (off_t)(8 + k + pos)), 0);
    close(fd);
    return made;
}

static void test_unknown_architecture_keeps_names(void **state)
{
    static const struct spec_tensor t[] = {{"layer.weight", "F32", 4, 256}, {"layer.bias", "F32", 2, 256}};
    struct planned x;
    struct lm_request r = to("gguf");

    (void)state;
    assert_int_equal(plan(&x, write_safetensors(t, 2), r), 0);
    assert_null(x.p->bind);
    assert_int_equal(x.p->n_notes, 1);
    assert_int_equal(item(&x, "layer.bias")->dtype, LM_F32);
    done(&x);

    r.quantize = true;
    r.ftype = lm_ftype_find("Q4_K_M");
    assert_int_equal(plan(&x, made, r), 0);
    assert_int_equal(item(&x, "layer.weight")->dtype, LM_Q4_K);
    assert_int_equal(item(&x, "layer.bias")->dtype, LM_F32);
    done(&x);
    unlink(made);
}

static void test_what_gguf_cannot_store_is_named(void **state)
{
    static const struct spec_tensor t[] = {{"w.weight", "F8_E4M3", 4, 32}};
    struct planned x;
    struct lm_request r = to("gguf");

    (void)state;
    assert_int_equal(plan(&x, write_safetensors(t, 1), r), -1);
    assert_non_null(strstr(x.e.text, "F8_E4M3"));
    assert_non_null(strstr(x.e.text, "--dtype"));
    done(&x);
    r.dtype = LM_BF16;
    assert_int_equal(plan(&x, made, r), 0);
    assert_int_equal(item(&x, "w.weight")->dtype, LM_BF16);
    done(&x);
    unlink(made);
}

static void copy_file(const char *from, const char *dst)
{
    char buf[65536];
    FILE *a = fopen(from, "rb"), *b = fopen(dst, "wb");
    size_t n;

    assert_non_null(a);
    assert_non_null(b);
    while ((n = fread(buf, 1, sizeof buf, a)) > 0)
        assert_int_equal(fwrite(buf, 1, n, b), n);
    fclose(a);
    assert_int_equal(fclose(b), 0);
}

/* A tensor that the architecture does not know, beside all those it needs. */
static void test_unknown_tensor_is_refused_or_carried(void **state)
{
    static const struct spec_tensor t[] = {{"vision_tower.x.weight", "F32", 2, 32}};
    char dir[] = "/tmp/lm-plan-XXXXXX", path[128];
    struct planned x;
    struct lm_request r = to("gguf");

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/config.json", dir);
    copy_file(MODELS "tiny-llama/config.json", path);
    snprintf(path, sizeof path, "%s/a.safetensors", dir);
    copy_file(MODELS "tiny-llama/model.safetensors", path);
    snprintf(path, sizeof path, "%s/b.safetensors", dir);
    copy_file(write_safetensors(t, 1), path);
    unlink(made);

    /* an index over both files */
    struct lm_model *m;
    struct lm_err e;
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(lm_model_open(&m, MODELS "tiny-llama", &e), 0);
    fputs("{\"weight_map\":{", f);
    for (size_t i = 0; i < lm_model_n_tensors(m); i++)
        fprintf(f, "\"%s\":\"a.safetensors\",", lm_model_tensor(m, i)->name);
    fprintf(f, "\"%s\":\"b.safetensors\"}}", t[0].name);
    fclose(f);
    lm_model_close(m);

    assert_int_equal(plan(&x, path, r), -1);
    assert_non_null(strstr(x.e.text, "vision_tower.x.weight"));
    assert_non_null(strstr(x.e.text, "--allow-unknown"));
    done(&x);
    r.allow_unknown = true;
    assert_int_equal(plan(&x, path, r), 0);
    assert_int_equal(lm_plan_action(item(&x, "vision_tower.x.weight")), LM_ACTION_COPY);
    done(&x);

    static const char *const files[] = {"config.json", "a.safetensors", "b.safetensors", "model.safetensors.index.json"};
    for (size_t i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        unlink(path);
    }
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama_to_gguf),
        cmocka_unit_test(test_every_source_tensor_is_accounted_for),
        cmocka_unit_test(test_gpt2_to_gguf),
        cmocka_unit_test(test_llama3_scaling_becomes_a_tensor),
        cmocka_unit_test(test_dtype_request),
        cmocka_unit_test(test_requests_that_make_no_sense),
        cmocka_unit_test(test_quantize_orders_and_mixes),
        cmocka_unit_test(test_fallbacks_are_announced),
        cmocka_unit_test(test_unknown_architecture_keeps_names),
        cmocka_unit_test(test_what_gguf_cannot_store_is_named),
        cmocka_unit_test(test_unknown_tensor_is_refused_or_carried),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
