/* Quantized checkpoints read as models: values equal to what the libraries that
 * wrote the files decode them to, whole models' logits, what conversion makes of
 * them, and files that are wrong. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "convert/convert.h"
#include "convert/hash.h"
#include "gpu/engine.h"
#include "tests/commands.h"

#define CASES "tests/fixtures/packed/"
#define MODELS CASES "models/"

static struct lm_model *open_model(const char *path)
{
    struct lm_model *m;
    struct lm_err e = {0};

    if (lm_model_open(&m, path, &e))
        fail_msg("%s", e.text);
    return m;
}

static float *values_of(const struct lm_tensor *t)
{
    float *v = malloc((t->n_elems + 1) * sizeof *v);
    struct lm_err e = {0};

    assert_non_null(v);
    if (lm_tensor_to_f32(t, 0, t->n_elems, v, &e))
        fail_msg("%s", e.text);
    return v;
}

/* Folders below a folder, each once; n of them. */
static size_t each(const char *folder, void (*test)(const char *path))
{
    DIR *d = opendir(folder);
    char path[512];
    size_t n = 0;

    assert_non_null(d);
    for (struct dirent *f; (f = readdir(d));) {
        snprintf(path, sizeof path, "%.200s%.200s/model.safetensors", folder, f->d_name);
        if (f->d_name[0] == '.' || access(path, R_OK))
            continue;
        snprintf(path, sizeof path, "%.200s%.200s", folder, f->d_name);
        test(path);
        n++;
    }
    closedir(d);
    return n;
}

/* ---- values */

/* ggml's MXFP4 has no minus zero. */
static bool same(float a, float b, bool zeros)
{
    return memcmp(&a, &b, sizeof a) == 0 || (zeros && a == b);
}

static void compare_all(const struct lm_tensor *t, const float *got, const float *want, const char *path)
{
    for (uint64_t i = 0; i < t->n_elems; i++)
        if (!same(got[i], want[i], t->dtype == LM_MXFP4))
            fail_msg("%s: element %llu of %s is %.9g, expected %.9g", path, (unsigned long long)i, t->name, (double)got[i],
                     (double)want[i]);
}

/* Any range by any way of reading is part of the whole. */
static void compare_ranges(const struct lm_tensor *t, const float *want)
{
    uint64_t unit = lm_dtype_info(t->dtype)->block_elems, seed = 1;
    float *part = malloc((t->n_elems + 1) * sizeof *part);

    assert_non_null(part);
    for (int i = 0; i < 60; i++) {
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
        uint64_t first = (seed >> 33) % t->n_elems / unit * unit;
        uint64_t n = ((seed >> 13) % (t->n_elems - first) + 1 + unit - 1) / unit * unit;
        assert_int_equal(lm_tensor_to_f32(t, first, n, part, NULL), 0);
        for (uint64_t k = 0; k < n; k++)
            assert_true(same(part[k], want[first + k], true));
        if (t->dtype != LM_F32)
            continue;
        uint8_t *raw = (uint8_t *)part;
        lm_tensor_read(t, first * 4, n * 4, raw);
        for (uint64_t k = 0; k < n; k++)
            assert_int_equal(lm_load_u32le(raw + 4 * k), lm_load_u32le((const uint8_t *)&want[first + k]));
    }
    free(part);
}

static void check_case(const char *path)
{
    static const char *const isas[] = {"portable", "avx2", "avx512"};
    char expected[600], best[16];
    struct lm_model *m = open_model(path), *x;
    size_t n_packed = 0, n_members = 0;

    snprintf(expected, sizeof expected, "%.500s/expected", path);
    snprintf(best, sizeof best, "%s", lm_dtype_isa());
    x = open_model(expected);
    assert_int_equal(lm_model_n_tensors(m), lm_model_n_tensors(x));
    for (size_t i = 0; i < lm_model_n_tensors(m); i++) {
        const struct lm_tensor *t = lm_model_tensor(m, i), *w = lm_model_find(x, t->name);
        assert_non_null(w);
        assert_int_equal(t->n_dims, w->n_dims);
        assert_memory_equal(t->shape, w->shape, t->n_dims * sizeof t->shape[0]);
        float *want = values_of(w);
        for (size_t k = 0; k < 3; k++) {
            if (lm_dtype_set_isa(isas[k]))
                continue;
            float *got = values_of(t);
            compare_all(t, got, want, path);
            compare_ranges(t, got);
            free(got);
        }
        lm_dtype_set_isa(best);
        free(want);
        n_packed += t->packed != NULL;
        n_members += lm_tensor_n_members(t);
        assert_true(!t->packed || lm_tensor_scheme(t));
    }
    assert_true(n_packed > 0);
    assert_int_equal(n_members + lm_model_n_left_out(m), lm_model_n_stored(m));
    lm_model_close(m);
    lm_model_close(x);
}

static void values(void **state)
{
    (void)state;
    assert_true(each(CASES, check_case) >= 36);
}

/* ---- blocks of ggml's types */

static void check_blocks(const char *path)
{
    struct lm_model *m = open_model(path);
    struct lm_err e = {0};

    for (size_t i = 0; i < lm_model_n_tensors(m); i++) {
        const struct lm_tensor *t = lm_model_tensor(m, i);
        struct lm_tensor b;
        int rc = lm_tensor_as_blocks(m, t, &b, &e);
        assert_true(rc >= 0);
        if (rc == 0)
            continue;
        float *want = values_of(t), *got = values_of(&b);
        assert_int_not_equal(b.dtype, LM_F32);
        for (uint64_t k = 0; k < t->n_elems; k++)
            assert_true(got[k] == want[k]);
        print_message("%s: %s is %s\n", path, lm_tensor_scheme(t), lm_dtype_name(b.dtype));
        free(want);
        free(got);
    }
    lm_model_close(m);
}

static enum lm_dtype blocks_of(const char *name)
{
    char path[256];
    struct lm_tensor b = {.dtype = LM_F32};
    struct lm_err e = {0};

    snprintf(path, sizeof path, CASES "%s", name);
    struct lm_model *m = open_model(path);
    lm_tensor_as_blocks(m, lm_model_find(m, "m.q_proj.weight"), &b, &e);
    lm_model_close(m);
    return b.dtype;
}

static void blocks(void **state)
{
    (void)state;
    each(CASES, check_blocks);
    assert_int_equal(blocks_of("gptq4"), LM_Q4_0);
    assert_int_equal(blocks_of("gptq4_v2"), LM_Q4_0);
    assert_int_equal(blocks_of("gptq4_asym"), LM_Q5_0);
    assert_int_equal(blocks_of("gptq4_desc"), LM_F32); /* columns of a block have different scales */
    assert_int_equal(blocks_of("gptq8"), LM_Q8_0);
    assert_int_equal(blocks_of("gptq3"), LM_Q4_0);
    assert_int_equal(blocks_of("awq"), LM_Q5_0);
    assert_int_equal(blocks_of("ct_int8_group"), LM_Q8_0);
    assert_int_equal(blocks_of("ct_int8_asym"), LM_F32);
    assert_int_equal(blocks_of("ct_fp8"), LM_F32);
    assert_int_equal(blocks_of("bnb_int8"), LM_F32);
}

/* ---- whole models */

static void run_model(const char *path, const char *reference, enum lm_math math, double bound)
{
    struct lm_engine_options o = {"cpu", math, 1, 0};
    struct lm_model *m = open_model(path), *ref;
    struct lm_engine *g;
    struct lm_session *s;
    struct lm_err e = {0};
    char name[600];
    double worst = 0, scale = 1;

    snprintf(name, sizeof name, "%.500s/reference.safetensors", reference);
    ref = open_model(name);
    const struct lm_tensor *ids = lm_model_find(ref, "input_ids"), *logits = lm_model_find(ref, "logits");
    int32_t *tokens = calloc(ids->n_elems, sizeof *tokens);
    float *want = values_of(logits), *got = malloc(logits->n_elems * sizeof *got);
    assert_true(tokens && got);
    for (size_t i = 0; i < ids->n_elems; i++)
        tokens[i] = (int32_t)lm_load_u64le(ids->data + 8 * i);
    if (lm_engine_open(&g, m, &o, &e) || lm_session_open(&s, g, &e) ||
        lm_session_eval(s, tokens, ids->n_elems, LM_LOGITS_ALL, got, &e))
        fail_msg("%s: %s", path, e.text);
    for (size_t i = 0; i < logits->n_elems; i++) {
        worst = fmax(worst, fabs((double)got[i] - (double)want[i]));
        scale = fmax(scale, fabs((double)want[i]));
    }
    print_message("%s: logits within %.2g\n", path, worst);
    assert_true(worst < bound * scale);
    lm_session_close(s);
    lm_engine_close(g);
    lm_model_close(m);
    lm_model_close(ref);
    free(tokens);
    free(want);
    free(got);
}

static void check_model(const char *path)
{
    run_model(path, path, LM_MATH_EXACT, 1.5e-5);
}

static void logits(void **state)
{
    (void)state;
    assert_true(each(MODELS, check_model) >= 6);
}

/* ---- conversion */

static void convert(const char *src, const char *dst, const char *to, int dtype)
{
    struct lm_request req = {.to = lm_format_find(to), .dtype = dtype};
    struct lm_run_options o = {.force = true, .n_threads = 2};
    struct lm_model *m = open_model(src);
    struct lm_plan *p;
    struct lm_err e = {0};

    if (lm_plan_make(&p, m, &req, &e) || lm_plan_run(p, dst, &o, &e))
        fail_msg("%s to %s: %s", src, dst, e.text);
    lm_plan_free(p);
    lm_model_close(m);
}

static void hash_of(const char *path, char hex[65])
{
    struct lm_model *m = open_model(path);
    struct lm_run_options o = {.n_threads = 1};
    struct lm_hash *h;
    struct lm_err e = {0};

    if (lm_hash_model(&h, m, &o, &e))
        fail_msg("%s: %s", path, e.text);
    lm_digest_hex(&h->model, hex);
    lm_hash_free(h);
    lm_model_close(m);
}

/* As F32 nothing is lost on the way to GGUF and to safetensors. */
static void check_conversion(const char *path)
{
    char gguf[128], folder[128], a[65], b[65], c[65];
    bool mxfp4 = strstr(path, "mxfp4") != NULL;

    snprintf(gguf, sizeof gguf, "%s/m.gguf", dir);
    snprintf(folder, sizeof folder, "%s/out/", dir);
    hash_of(path, a);
    convert(path, gguf, "gguf", mxfp4 ? -1 : LM_F32);
    hash_of(gguf, b);
    assert_string_equal(a, b);
    run_model(gguf, path, LM_MATH_EXACT, 1.5e-5);
    if (mxfp4)
        return;
    convert(path, folder, "safetensors", LM_F32);
    hash_of(folder, c);
    assert_string_equal(a, c);
    run_model(folder, path, LM_MATH_EXACT, 1.5e-5);
}

static void conversions(void **state)
{
    (void)state;
    each(MODELS, check_conversion);
}

static enum lm_dtype type_of(struct lm_model *m, const char *name)
{
    assert_non_null(lm_model_find(m, name));
    return lm_model_find(m, name)->dtype;
}

/* Without a type: blocks where they are exact, else the type of the checkpoint. */
static void kept_types(void **state)
{
    static const struct { const char *model; enum lm_dtype type; } cases[] = {
        {"tiny-llama-gptq", LM_Q4_0}, {"tiny-mistral-awq", LM_Q5_0}, {"tiny-llama-int4", LM_Q4_0},
        {"tiny-qwen3-fp8", LM_BF16},  {"tiny-llama-nf4", LM_F16},
    };
    char path[256], gguf[128];

    (void)state;
    snprintf(gguf, sizeof gguf, "%s/k.gguf", dir);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(path, sizeof path, MODELS "%s", cases[i].model);
        convert(path, gguf, "gguf", -1);
        struct lm_model *m = open_model(gguf);
        assert_int_equal(type_of(m, "blk.1.attn_q.weight"), cases[i].type);
        assert_int_equal(type_of(m, "blk.0.ffn_down.weight"), cases[i].type);
        lm_model_close(m);
        if (lm_dtype_info(cases[i].type)->kind == LM_KIND_QUANT) /* the values are those of the source */
            run_model(gguf, path, LM_MATH_EXACT, 1.5e-5);
    }
}

/* ---- the other way: matrices stored quantized */

static void pack(const char *src, const char *dst, const char *type, uint32_t group)
{
    struct lm_request req = {.to = lm_format_find("safetensors"), .dtype = -1, .pack = lm_pack_find(type), .pack_group = group};
    struct lm_run_options o = {.force = true, .n_threads = 2};
    struct lm_model *m = open_model(src);
    struct lm_plan *p;
    struct lm_err e = {0};

    assert_non_null(req.pack);
    if (lm_plan_make(&p, m, &req, &e) || lm_plan_run(p, dst, &o, &e))
        fail_msg("%s as %s: %s", src, type, e.text);
    lm_plan_free(p);
    lm_model_close(m);
}

/* The largest step a code of the type can be off by, for a weight w under a scale. */
static double step_of(const struct lm_pack_type *t, double w, double scale)
{
    int e;

    if (t->codes != LM_PACK_FP8)
        return scale / 2;
    frexp(fabs(w / scale), &e); /* w / scale = m 2^e, 1/2 <= m < 1: four bits of m */
    return ldexp(scale, e < -5 ? -10 : e - 5);
}

/* The largest weight that shares a scale with element (i, j). */
static double max_around(const struct lm_pack_type *t, const float *a, uint64_t rows, uint64_t cols, uint32_t group, uint64_t i,
                         uint64_t j)
{
    uint64_t width = t->scales == LM_PACK_GROUP ? group : t->scales == LM_PACK_BLOCK ? 128 : cols;
    uint64_t height = t->scales == LM_PACK_TENSOR ? rows : t->scales == LM_PACK_BLOCK ? 128 : 1;
    double max = 0;

    for (uint64_t y = i / height * height; y < rows && y < i / height * height + height; y++)
        for (uint64_t x = j / width * width; x < cols && x < j / width * width + width; x++)
            max = fmax(max, fabs((double)a[y * cols + x]));
    return max;
}

/* Some of the weights. */
static void check_rows(const struct lm_pack_type *t, const struct lm_tensor *w, const struct lm_tensor *q, uint32_t group)
{
    double half = t->codes == LM_PACK_FP8 ? 448 : t->codes == LM_PACK_INT8 ? 127.5 : 7.5;
    uint64_t rows = w->shape[0], cols = w->shape[1], stride = t->scales == LM_PACK_TENSOR ? 20011 : 379;
    float *a = values_of(w), *b = values_of(q);

    for (uint64_t k = 0; k < w->n_elems; k += stride) {
        double max = max_around(t, a, rows, cols, group, k / cols, k % cols), x = (double)a[k];
        double scale = max / half * (t->codes == LM_PACK_FP8 ? 1 : 1 + 1.0 / 256); /* rounded to BF16 */
        /* The largest positive integer is one code too far: half a step more. */
        double bound = step_of(t, x, scale) * (t->codes == LM_PACK_FP8 ? 1 : 2);
        assert_true(fabs(x - (double)b[k]) <= bound * (1 + 1e-5));
    }
    free(a);
    free(b);
}

static void packing(void **state)
{
    static const struct { const char *type; uint32_t group; enum lm_dtype codes; const char *codes_name, *scale_name; } cases[] = {
        {"FP8", 0, LM_F8_E4M3, "", "_scale"},           {"FP8_TENSOR", 0, LM_F8_E4M3, "", "_scale"},
        {"FP8_BLOCK", 0, LM_F8_E4M3, "", "_scale_inv"}, {"INT8", 0, LM_I8, "", "_scale"},
        {"INT4", 32, LM_I32, "_packed", "_scale"},      {"int4", 64, LM_I32, "_packed", "_scale"},
    };
    const char *src = "samples/polish-5m", *one = "model.layers.1.mlp.down_proj.weight";
    char dst[128], name[128];
    struct lm_model *m = open_model(src);

    (void)state;
    snprintf(dst, sizeof dst, "%s/packed/", dir);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pack(src, dst, cases[i].type, cases[i].group);
        struct lm_model *q = open_model(dst);
        assert_int_equal(lm_model_n_tensors(q), lm_model_n_tensors(m));
        for (size_t k = 0; k < lm_model_n_tensors(m); k++) {
            const struct lm_tensor *w = lm_model_tensor(m, k), *t = lm_model_find(q, w->name);
            assert_non_null(t);
            if (t->packed)
                check_rows(lm_pack_find(cases[i].type), w, t, cases[i].group);
            else
                assert_int_equal(t->dtype, w->dtype);
        }
        assert_non_null(lm_model_find(q, one)->packed);
        assert_null(lm_model_find(q, "lm_head.weight")->packed);
        snprintf(name, sizeof name, "%s%s", one, cases[i].codes_name);
        assert_string_equal(lm_tensor_member(lm_model_find(q, one), 0)->name, name);
        assert_int_equal(lm_tensor_member(lm_model_find(q, one), 0)->dtype, cases[i].codes);
        snprintf(name, sizeof name, "%s%s", one, cases[i].scale_name);
        assert_string_equal(lm_tensor_member(lm_model_find(q, one), 1)->name, name);
        lm_model_close(q);
    }
    lm_model_close(m);
}

/* The same codes and scales come out of what was packed: FP8's largest code is in every row. */
static void packed_again(void **state)
{
    char first[128], second[128], a[65], b[65];

    (void)state;
    snprintf(first, sizeof first, "%s/first/", dir);
    snprintf(second, sizeof second, "%s/second/", dir);
    pack("samples/polish-5m", first, "FP8", 0);
    pack(first, second, "FP8", 0);
    hash_of(first, a);
    hash_of(second, b);
    assert_string_equal(a, b);
}

static char runs[80]; /* what commands said */

static int verify(const char *a, const char *b)
{
    struct output o = command_run((const char *const[]){command_path("lm-verify"), "--per-position", "none", a, b, NULL}, runs);

    output_free(&o);
    return o.code;
}

/* Doubles what the name's scale is, wherever the file has it. */
static void double_scale(const char *folder, const char *name)
{
    struct lm_model *m = NULL;
    struct lm_err e = {0};
    uint8_t raw[2];

    assert_int_equal(lm_model_open_stored(&m, folder, &e), 0);
    const struct lm_tensor *t = lm_model_find(m, name);
    assert_non_null(t);
    assert_int_equal(t->dtype, LM_BF16);
    FILE *f = fopen(lm_model_file(m, t->file)->path, "r+b");
    assert_non_null(f);
    for (uint64_t i = 0; i < t->n_elems; i++) {
        lm_tensor_read(t, 2 * i, 2, raw);
        fseek(f, (long)(t->offset + 2 * i), SEEK_SET);
        raw[0] ^= 0x80; /* the exponent's lowest bit: twice or half */
        assert_int_equal(fwrite(raw, 1, 2, f), 2);
    }
    fclose(f);
    lm_model_close(m);
}

/* What packing loses is explained; what it does not lose, and what is wrong, is not. */
static void verified(void **state)
{
    static const char *const types[] = {"FP8", "FP8_TENSOR", "FP8_BLOCK", "INT8", "INT4"};
    char packed[128], gguf[128];

    (void)state;
    snprintf(packed, sizeof packed, "%s/verified/", dir);
    snprintf(gguf, sizeof gguf, "%s/verified.gguf", dir);
    snprintf(runs, sizeof runs, "%s/runs", dir);
    assert_int_equal(mkdir(runs, 0777), 0);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        pack("samples/polish-5m", packed, types[i], 0);
        assert_int_equal(verify("samples/polish-5m", packed), 0);
    }
    struct output o = command_run((const char *const[]){command_path("lm-convert"), packed, gguf, NULL}, runs);
    assert_int_equal(o.code, 0);
    output_free(&o);
    assert_int_equal(verify(packed, gguf), 0);
    pack("samples/polish-5m", packed, "INT8", 0);
    double_scale(packed, "model.layers.2.mlp.up_proj.weight_scale");
    assert_int_equal(verify("samples/polish-5m", packed), 1);
}

static void packing_refused(void **state)
{
    static const struct { const char *src, *type; uint32_t group; const char *sentence; } cases[] = {
        {"samples/polish-5m", "INT4", 100, "are not whole groups of 100"},
        {"tests/fixtures/models/tiny-gpt2", "FP8", 0, "lie transposed"},
        {MODELS "tiny-gpt-oss-mxfp4", "INT4", 48, "are not whole groups of 48"},
        {CASES "gptq4", "FP8", 0, "whose architecture is known"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct lm_request req = {.to = lm_format_find("safetensors"), .dtype = -1, .pack = lm_pack_find(cases[i].type),
                                 .pack_group = cases[i].group};
        struct lm_model *m = open_model(cases[i].src);
        struct lm_plan *p;
        struct lm_err e = {0};
        assert_int_equal(lm_plan_make(&p, m, &req, &e), -1);
        if (!strstr(e.text, cases[i].sentence))
            fail_msg("\"%s\" expected, got: %s", cases[i].sentence, e.text);
        lm_model_close(m);
    }
}

/* A value that is not finite is met when its row is read. */
static void packing_nan(void **state)
{
    static const char *const types[] = {"FP8", "FP8_BLOCK", "INT4"};
    char src[128], file[160], dst[128];
    struct lm_model *m;
    struct lm_err e = {0};
    float nan = NAN;

    (void)state;
    snprintf(src, sizeof src, "%s/nan/", dir);
    snprintf(file, sizeof file, "%s/nan/model.safetensors", dir);
    snprintf(dst, sizeof dst, "%s/never/", dir);
    convert("samples/polish-5m", src, "safetensors", LM_F32);
    m = open_model(src);
    uint64_t at = lm_model_find(m, "model.layers.2.mlp.up_proj.weight")->offset + 4 * 100003;
    lm_model_close(m);
    FILE *f = fopen(file, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, (long)at, SEEK_SET), 0);
    assert_int_equal(fwrite(&nan, 4, 1, f), 1);
    fclose(f);
    for (size_t i = 0; i < 3; i++) {
        struct lm_request req = {.to = lm_format_find("safetensors"), .dtype = -1, .pack = lm_pack_find(types[i])};
        struct lm_run_options o = {.n_threads = 2};
        struct lm_plan *p;
        m = open_model(src);
        if (lm_plan_make(&p, m, &req, &e))
            fail_msg("%s", e.text);
        assert_int_equal(lm_plan_run(p, dst, &o, &e), -1);
        assert_non_null(strstr(e.text, "values that are not finite"));
        assert_int_equal(access(dst, F_OK), -1);
        lm_plan_free(p);
        lm_model_close(m);
    }
}

/* ---- what is wrong */

/* A case with a change made to a copy of its header or configuration. */
static void copy_case(const char *name, const char *old, const char *new, const char *config_old, const char *config_new)
{
    static const char *const files[2] = {"model.safetensors", "config.json"};
    const char *pair[2][2] = {{old, new}, {config_old, config_new}};
    char path[300];
    uint8_t *text = malloc(1 << 20);

    assert_non_null(text);
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, CASES "%s/%s", name, files[i]);
        FILE *f = fopen(path, "rb");
        assert_non_null(f);
        size_t n = fread(text, 1, 1 << 20, f), k = pair[i][0] ? strlen(pair[i][0]) : 0;
        fclose(f);
        if (k) {
            uint8_t *at = memmem(text, n, pair[i][0], k);
            assert_non_null(at);
            assert_true(strlen(pair[i][1]) == k);
            memcpy(at, pair[i][1], k);
        }
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        f = fopen(path, "wb");
        assert_non_null(f);
        assert_int_equal(fwrite(text, 1, n, f), n);
        assert_int_equal(fclose(f), 0);
    }
    free(text);
}

static void must_fail(const char *sentence)
{
    struct lm_model *m;
    struct lm_err e = {0};
    char path[128];

    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(lm_model_open(&m, path, &e), -1);
    if (!strstr(e.text, sentence))
        fail_msg("\"%s\" expected, got: %s", sentence, e.text);
    /* What it is made of can still be listed. */
    assert_int_equal(lm_model_open_headers(&m, path, &e), 0);
    assert_true(lm_model_n_tensors(m) > 0);
    lm_model_close(m);
}

static void hostile(void **state)
{
    static const struct { const char *name, *old, *new, *config_old, *config_new, *sentence; } bad[] = {
        {"gptq4", "q_proj.qzeros", "q_proj.qxeros", NULL, NULL,
         "tensor 'm.q_proj.qweight': quantized, but no 'm.q_proj.qzeros' lies beside it"},
        {"gptq4", "q_proj.scales", "q_proj.scalez", NULL, NULL, "no 'm.q_proj.scales' lies beside it"},
        {"gptq4", "[2,32]", "[4,16]", NULL, NULL, "is F16 [4, 16], expected"},
        {"gptq4", NULL, NULL, "\"bits\": 4", "\"bits\": 5", "GPTQ of 5 bits is not read"},
        {"gptq4_v2", NULL, NULL, "\"gptq_v2\"", "\"marlins\"", "checkpoint_format \"marlins\" of GPTQ is not read"},
        {"gptq4", NULL, NULL, "\"gptq\"", "\"hqqq\"", "weights quantized by \"hqqq\" are not read"},
        {"gptq4", "q_proj.qweight", "q_proj.xweight", NULL, NULL,
         "is part of a quantized weight whose other parts are missing"},
        {"awq", NULL, NULL, "\"gemm\"", "\"gemv\"", "AWQ version \"gemv\" is not read, only \"gemm\" is"},
        {"awq", NULL, NULL, "\"bits\": 4", "\"bits\": 3", "AWQ of 3 bits is not read"},
        {"fp8_block", "[3,2]", "[2,3]", NULL, NULL, "'m.q_proj.weight_scale_inv' is F32 [2, 3], expected"},
        {"fp8_block", "q_proj.weight_scale_inv", "q_proj.weight_scale_xnv", NULL, NULL,
         "no 'm.q_proj.weight_scale' lies beside it"},
        {"ct_int4", "weight_shape", "weight_shapx", NULL, NULL, "no 'm.q_proj.weight_shape' lies beside it"},
        {"ct_int4", NULL, NULL, "\"Linear\"", "\"Lxnear\"", "no group of config_groups in config.json names this module"},
        {"ct_int4_asym", "zero_point", "zero_pxint", NULL, NULL, "no 'm.q_proj.weight_zero_point' lies beside it"},
        {"ct_mixed", NULL, NULL, "re:.*down", "re:.*dow(", "is not a regular expression"},
        {"bnb_nf4", "weight.absmax", "weight.absmix", NULL, NULL, "no 'm.q_proj.weight.absmax' lies beside it"},
        {"bnb_nf4", "\"blocksize\": 64", "\"blocksize\": -4", NULL, NULL, "blocksize of its quant_state is missing or out of"},
        {"bnb_nf4", "\"shape\": [30, 66]", "\"shape\": [60, 66]", NULL, NULL, "expected U8 of 1980 (4 bits for each of 3960"},
        {"mxfp4", "gate_up_proj_scales", "gate_up_proj_scalez", NULL, NULL, "no 'm.experts.gate_up_proj_scales' lies beside it"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        copy_case(bad[i].name, bad[i].old, bad[i].new, bad[i].config_old, bad[i].config_new);
        must_fail(bad[i].sentence);
    }
}

/* Groups of columns that are not there are found when the data are looked at. */
static void wild_order(void **state)
{
    char path[128];
    struct lm_model *m;
    struct lm_err e = {0};
    int32_t wild[] = {4, -1, INT32_MIN, INT32_MAX};

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        copy_case("gptq4_desc", NULL, NULL, NULL, NULL);
        snprintf(path, sizeof path, "%s/model.safetensors", dir);
        assert_int_equal(lm_model_open_stored(&m, path, &e), 0);
        uint64_t at = lm_model_find(m, "m.q_proj.g_idx")->offset + 4 * 7;
        lm_model_close(m);
        FILE *f = fopen(path, "r+b");
        assert_non_null(f);
        assert_int_equal(fseek(f, (long)at, SEEK_SET), 0);
        assert_int_equal(fwrite(&wild[i], 4, 1, f), 1);
        fclose(f);
        assert_int_equal(lm_model_open(&m, path, &e), -1);
        assert_non_null(strstr(e.text, "element 7 of 'm.q_proj.g_idx' is "));
        assert_non_null(strstr(e.text, "expected a group from 0 to 3"));
    }
}

/* Every byte of header and configuration turned: an error or a model that can be read. */
static void any_byte(void **state)
{
    static const char *const names[] = {"gptq4_desc", "ct_int4_asym", "bnb_nf4_nested", "fp8_ragged", "mxfp4"};
    char path[128];
    uint8_t *text = malloc(1 << 20);
    uint64_t seed = 7;

    (void)state;
    assert_non_null(text);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (int k = 0; k < 60; k++) {
            const char *file = k % 2 ? "config.json" : "model.safetensors";
            struct lm_model *m;
            struct lm_err e = {0};
            copy_case(names[i], NULL, NULL, NULL, NULL);
            snprintf(path, sizeof path, "%s/%s", dir, file);
            FILE *f = fopen(path, "r+b");
            assert_non_null(f);
            size_t n = fread(text, 1, 1 << 20, f);
            seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
            size_t limit = k % 2 ? n : (size_t)lm_load_u64le(text) + 8, at = (seed >> 33) % limit;
            fseek(f, (long)at, SEEK_SET);
            fputc(k % 3 ? '0' + (int)(seed >> 20) % 10 : (int)(seed >> 12) & 255, f);
            fclose(f);
            snprintf(path, sizeof path, "%s/model.safetensors", dir);
            if (lm_model_open(&m, path, &e))
                continue;
            for (size_t j = 0; j < lm_model_n_tensors(m); j++)
                if (lm_dtype_info(lm_model_tensor(m, j)->dtype)->to_f32 && lm_model_tensor(m, j)->n_elems < 1 << 20)
                    free(values_of(lm_model_tensor(m, j)));
            lm_model_close(m);
        }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values),      cmocka_unit_test(blocks),  cmocka_unit_test(logits),     cmocka_unit_test(conversions),
        cmocka_unit_test(kept_types),  cmocka_unit_test(packing), cmocka_unit_test(packed_again), cmocka_unit_test(verified),
        cmocka_unit_test(packing_refused), cmocka_unit_test(packing_nan), cmocka_unit_test(hostile), cmocka_unit_test(wild_order), cmocka_unit_test(any_byte),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
