/* Whole conversions: bytes there and back, casts counted, damage refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert/convert.h"

#define SAMPLE "samples/polish-5m"
#define MODELS "tests/fixtures/models/"

static char dir[64];

static int make_dir(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/lm-convert-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static void empty(const char *path)
{
    DIR *d = opendir(path);

    for (struct dirent *e; d && (e = readdir(d));) {
        char sub[512];
        snprintf(sub, sizeof sub, "%s/%s", path, e->d_name);
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 && unlink(sub) < 0) {
            empty(sub);
            rmdir(sub);
        }
    }
    if (d)
        closedir(d);
}

static int remove_dir(void **state)
{
    (void)state;
    empty(dir);
    return rmdir(dir);
}

static char *in(const char *name)
{
    static char ring[8][256];
    static unsigned next;
    char *p = ring[next++ % 8];

    snprintf(p, sizeof ring[0], "%s/%s", dir, name);
    return p;
}

static int n_entries(void)
{
    DIR *d = opendir(dir);
    int n = 0;

    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

static char *slurp(const char *path, size_t *n)
{
    struct stat s;
    FILE *f = fopen(path, "rb");
    char *data;

    if (!f || fstat(fileno(f), &s) < 0)
        fail_msg("cannot open %s", path);
    data = malloc((size_t)s.st_size + 1);
    *n = fread(data, 1, (size_t)s.st_size, f);
    fclose(f);
    return data;
}

static void assert_same_file(const char *a, const char *b)
{
    size_t na, nb;
    char *da = slurp(a, &na), *db = slurp(b, &nb);

    if (na != nb || memcmp(da, db, na) != 0)
        fail_msg("%s and %s differ", a, b);
    free(da);
    free(db);
}

static struct lm_request to(const char *format)
{
    return (struct lm_request){.to = lm_format_find(format), .dtype = -1};
}

struct totals { size_t drops, notes; uint64_t overflow, flushed, nan; bool exact; };

static int convert(const char *src, const char *dst, struct lm_request r, struct lm_run_options o, struct totals *t,
                   struct lm_err *e)
{
    struct lm_model *m = NULL;
    struct lm_plan *p = NULL;
    int rc = lm_model_open(&m, src, e) < 0 || lm_plan_make(&p, m, &r, e) < 0 || lm_plan_run(p, dst, &o, e) < 0 ? -1 : 0;

    if (t && p) {
        *t = (struct totals){.drops = p->n_drops, .notes = p->n_notes, .exact = p->exact};
        for (size_t i = 0; i < p->n_items; i++) {
            t->overflow += p->items[i].n_overflow;
            t->flushed += p->items[i].n_flushed;
            t->nan += p->items[i].n_nan;
        }
    }
    lm_plan_free(p);
    lm_model_close(m);
    return rc;
}

static void must(const char *src, const char *dst, struct lm_request r, struct totals *t)
{
    struct lm_err e = {0};

    if (convert(src, dst, r, (struct lm_run_options){.n_threads = 3}, t, &e) < 0)
        fail_msg("%s -> %s: %s", src, dst, e.text);
}

static struct lm_model *reopen(const char *path)
{
    struct lm_model *m;
    struct lm_err e;

    if (lm_model_open(&m, path, &e) < 0)
        fail_msg("%s", e.text);
    return m;
}

static const struct lm_tensor *tensor(struct lm_model *m, const char *name)
{
    const struct lm_tensor *t = lm_model_find(m, name);

    if (!t)
        fail_msg("no tensor %s", name);
    return t;
}

/* ---- there and back */

static void back_and_forth(const char *src)
{
    DIR *d = opendir(src);
    struct totals t;
    char original[512], back[512];

    assert_non_null(d);
    must(src, in("x.gguf"), to("gguf"), NULL);
    must(in("x.gguf"), in("back/"), to("safetensors"), &t);
    assert_true(t.exact);
    for (struct dirent *e; (e = readdir(d));) {
        const char *dot = strrchr(e->d_name, '.');
        bool model = strncmp(e->d_name, "model", 5) == 0 || strncmp(e->d_name, "token", 5) == 0 ||
                     strncmp(e->d_name, "config", 6) == 0 || strncmp(e->d_name, "generation", 10) == 0;
        if (!model || !dot)
            continue;
        snprintf(original, sizeof original, "%s/%s", src, e->d_name);
        snprintf(back, sizeof back, "%s/back/%s", dir, e->d_name);
        assert_same_file(original, back);
    }
    closedir(d);
    empty(dir);
}

static void test_gguf_gives_back_the_original_bytes(void **state)
{
    (void)state;
    back_and_forth(SAMPLE);
    back_and_forth(MODELS "tiny-llama");
    back_and_forth(MODELS "tiny-llama-bias");
    back_and_forth(MODELS "tiny-llama-tied");
    back_and_forth(MODELS "tiny-llama-llama3");
    back_and_forth(MODELS "tiny-llama-sharded");
    back_and_forth(MODELS "tiny-gpt2");
    back_and_forth(MODELS "tiny-gpt2-hub"); /* with the masks that GGUF has no place for */
}

static void test_a_single_file_comes_without_small_ones(void **state)
{
    struct lm_request r = to("safetensors");
    struct totals t;

    (void)state;
    must(SAMPLE, in("x.gguf"), to("gguf"), NULL);
    r.bare = true;
    must(in("x.gguf"), in("one.safetensors"), r, &t);
    assert_int_equal(t.notes, 1);
    assert_same_file(in("one.safetensors"), SAMPLE "/model.safetensors");
    assert_int_equal(n_entries(), 2);
}

/* Values that no longer narrow exactly are kept, not rounded. */
static void test_back_never_rounds(void **state)
{
    struct lm_model *m;
    struct totals t;
    int fd;

    (void)state;
    must(SAMPLE, in("x.gguf"), to("gguf"), NULL);
    m = reopen(in("x.gguf"));
    const struct lm_tensor *norm = tensor(m, "output_norm.weight");
    uint64_t at = norm->offset;
    lm_model_close(m);
    fd = open(in("x.gguf"), O_RDWR);
    assert_int_equal(pwrite(fd, "\x01\x00\x80\x3f", 4, (off_t)at), 4); /* 1 + 2^-23 */
    close(fd);
    must(in("x.gguf"), in("back/"), to("safetensors"), &t);
    assert_false(t.exact);
    m = reopen(in("back"));
    assert_int_equal(tensor(m, "model.norm.weight")->dtype, LM_F32);
    assert_int_equal(lm_load_u32le(tensor(m, "model.norm.weight")->data), 0x3f800001);
    lm_model_close(m);
}

/* A GGUF whose embedded header says `header` and whose file name is `name`. */
static void write_lying_gguf(const char *dst, const char *header, const char *name)
{
    struct lm_request r = to("gguf");
    struct lm_run_options o = {.force = true};
    struct lm_span file = lm_span_str(name);
    struct lm_model *m = reopen(MODELS "tiny-llama-tied");
    struct lm_plan *p;
    struct lm_err e = {0};

    assert_int_equal(lm_plan_make(&p, m, &r, &e), 0);
    assert_non_null(lm_meta_get(p->meta, "libmodel.source.header"));
    assert_int_equal(lm_meta_set_str(p->meta, "libmodel.source.header", lm_span_str(header)), 0);
    assert_int_equal(lm_meta_set_strs(p->meta, "libmodel.source.files", &file, 1), 0);
    assert_int_equal(lm_plan_run(p, dst, &o, &e), 0);
    lm_plan_free(p);
    lm_model_close(m);
}

static void test_embedded_headers_are_not_trusted(void **state)
{
    static const char good_name[] = "model.safetensors";
    static const char *const headers[] = {
        "", "null", "[]", "7", "{}", "{\"__metadata__\":{}}", "{\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
        "{\"model.norm.weight\":{}}", "{\"model.norm.weight\":7}", "{\"model.norm.weight\":{\"dtype\":\"BF16\",\"shape\":[-1]}}",
        "{\"model.norm.weight\":{\"dtype\":\"BF16\",\"shape\":[1,1,1,1,1,1,1,1,1,1]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2048,2048]},\"a\":{}}", "{\"model.norm.weight\":{\"dtype\":\"ZZ\",\"shape\":[64]}}",
    };
    struct totals t;
    size_t n;
    char *head = slurp(MODELS "tiny-llama-tied/model.safetensors", &n), *text;

    (void)state;
    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++) {
        write_lying_gguf(in("x.gguf"), headers[i], good_name);
        must(in("x.gguf"), in("back/"), to("safetensors"), &t);
        assert_false(t.exact);
        empty(in("back"));
    }
    text = strndup(head + 8, (size_t)lm_load_u64le(head));
    write_lying_gguf(in("x.gguf"), text, "../model.safetensors");
    must(in("x.gguf"), in("back/"), to("safetensors"), &t);
    assert_false(t.exact);
    empty(in("back"));
    write_lying_gguf(in("x.gguf"), text, "config.json");
    must(in("x.gguf"), in("back/"), to("safetensors"), &t);
    assert_false(t.exact);
    empty(in("back"));

    /* the right tensors at wrong places: the header is not reproduced */
    char *offsets = strstr(text, "data_offsets\":[0,");
    assert_non_null(offsets);
    offsets[15] = '2';
    write_lying_gguf(in("x.gguf"), text, good_name);
    must(in("x.gguf"), in("back/"), to("safetensors"), &t);
    assert_false(t.exact);
    lm_model_close(reopen(in("back")));
    free(text);
    free(head);
}

/* Without the original inside, configuration comes from the keys. */
static void test_config_is_made_when_it_is_not_carried(void **state)
{
    struct lm_request r = to("gguf");
    struct lm_config a, b;
    struct lm_model *m, *n;
    struct lm_err e;
    struct totals t;

    (void)state;
    r.dtype = LM_F16;
    must(MODELS "tiny-llama-llama3", in("x.gguf"), r, NULL);
    must(in("x.gguf"), in("back/"), to("safetensors"), &t);
    assert_int_equal(t.drops, 1); /* rope_freqs */
    m = reopen(MODELS "tiny-llama-llama3");
    n = reopen(in("back"));
    assert_int_equal(lm_config_read(&a, m, NULL, &e), 1);
    assert_int_equal(lm_config_read(&b, n, NULL, &e), 1);
    assert_int_equal(a.n_heads, b.n_heads);
    assert_int_equal(a.d_ff, b.d_ff);
    assert_int_equal(b.scaling, LM_SCALING_LLAMA3);
    assert_true(a.rope_factor == b.rope_factor && a.rope_orig_ctx == b.rope_orig_ctx);
    assert_int_equal(tensor(n, "model.layers.0.mlp.up_proj.weight")->dtype, LM_F16);
    lm_model_close(m);
    lm_model_close(n);
}

/* ---- rows and columns */

static void test_rows_are_permuted_and_transposed(void **state)
{
    struct lm_model *hf = reopen(SAMPLE), *gguf;

    (void)state;
    must(SAMPLE, in("x.gguf"), to("gguf"), NULL);
    gguf = reopen(in("x.gguf"));
    const struct lm_tensor *q = tensor(hf, "model.layers.1.self_attn.q_proj.weight"), *p = tensor(gguf, "blk.1.attn_q.weight");
    for (size_t h = 0; h < 8; h++)
        for (size_t s = 0; s < 2; s++)
            for (size_t j = 0; j < 16; j++)
                assert_memory_equal(p->data + (h * 32 + 2 * j + s) * 512, q->data + (h * 32 + s * 16 + j) * 512, 512);
    lm_model_close(hf);
    lm_model_close(gguf);

    must(MODELS "tiny-gpt2", in("y.gguf"), to("gguf"), NULL);
    hf = reopen(MODELS "tiny-gpt2");
    gguf = reopen(in("y.gguf"));
    const struct lm_tensor *a = tensor(hf, "transformer.h.0.mlp.c_fc.weight"), *b = tensor(gguf, "blk.0.ffn_up.weight");
    size_t rows = a->shape[0], cols = a->shape[1], w = lm_dtype_info(a->dtype)->block_bytes;
    assert_int_equal(b->shape[0], cols);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++)
            assert_memory_equal(a->data + (i * cols + j) * w, b->data + (j * rows + i) * w, w);
    lm_model_close(hf);
    lm_model_close(gguf);
}

/* ---- quantizing */

/* The bytes of a tensor quantized whole, by the dtype alone. */
static void assert_quantized(const struct lm_tensor *src, const struct lm_tensor *q)
{
    float *x = malloc(src->n_elems * sizeof *x);
    uint8_t *b = malloc(q->n_bytes);

    assert_int_equal(lm_tensor_to_f32(src, 0, src->n_elems, x, NULL), 0);
    lm_dtype_info(q->dtype)->from_f32(b, x, src->n_elems);
    assert_memory_equal(b, q->data, q->n_bytes);
    free(x);
    free(b);
}

static void test_quantized_bytes_do_not_depend_on_pieces(void **state)
{
    static const char *const types[] = {"Q4_K_M", "Q8_0", "Q3_K_S", "Q5_1"};
    struct lm_model *f, *q;

    (void)state;
    must(SAMPLE, in("f.gguf"), to("gguf"), NULL);
    f = reopen(in("f.gguf"));
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        struct lm_request r = to("gguf");
        struct lm_err e;
        r.quantize = true;
        r.ftype = lm_ftype_find(types[i]);
        must(SAMPLE, in("q.gguf"), r, NULL);
        assert_int_equal(convert(in("f.gguf"), in("one.gguf"), r, (struct lm_run_options){.n_threads = 1, .max_ram = 1},
                                 NULL, &e), 0);
        q = reopen(in("q.gguf"));
        for (size_t k = 0; k < lm_model_n_tensors(q); k++) {
            const struct lm_tensor *t = lm_model_tensor(q, k);
            if (lm_dtype_info(t->dtype)->kind == LM_KIND_QUANT)
                assert_quantized(tensor(f, t->name), t);
        }
        struct lm_model *one = reopen(in("one.gguf"));
        for (size_t k = 0; k < lm_model_n_tensors(q); k++)
            assert_memory_equal(lm_model_tensor(q, k)->data, tensor(one, lm_model_tensor(q, k)->name)->data,
                                lm_model_tensor(q, k)->n_bytes);
        lm_model_close(one);
        lm_model_close(q);
        unlink(in("q.gguf"));
        unlink(in("one.gguf"));
    }
    lm_model_close(f);
}

/* gpt2's transposed weights, quantized and back: blocks cannot be transposed. */
static void test_transposed_from_quantized(void **state)
{
    struct lm_request r = to("gguf"), back = to("safetensors");
    struct lm_model *q, *hf;
    float *x, *y;

    (void)state;
    r.quantize = true;
    r.ftype = lm_ftype_find("Q8_0");
    must(MODELS "tiny-gpt2", in("q.gguf"), r, NULL);
    back.dtype = LM_F32;
    must(in("q.gguf"), in("back/"), back, NULL);
    q = reopen(in("q.gguf"));
    hf = reopen(in("back"));
    const struct lm_tensor *a = tensor(q, "blk.0.ffn_down.weight"), *b = tensor(hf, "transformer.h.0.mlp.c_proj.weight");
    assert_int_equal(a->dtype, LM_Q8_0);
    x = malloc(a->n_elems * sizeof *x);
    y = malloc(b->n_elems * sizeof *y);
    assert_int_equal(lm_tensor_to_f32(a, 0, a->n_elems, x, NULL), 0);
    assert_int_equal(lm_tensor_to_f32(b, 0, b->n_elems, y, NULL), 0);
    for (size_t i = 0; i < a->shape[0]; i++)
        for (size_t j = 0; j < a->shape[1]; j++)
            assert_true(x[i * a->shape[1] + j] == y[j * a->shape[0] + i]);
    free(x);
    free(y);
    lm_model_close(q);
    lm_model_close(hf);
}

/* ---- casts */

static void write_floats(const char *path, const char *dtype, const void *data, size_t n_elems, size_t n_bytes)
{
    char head[256];
    uint8_t len[8];
    size_t k = (size_t)snprintf(head, sizeof head, "{\"w.weight\":{\"dtype\":\"%s\",\"shape\":[%zu,%zu],"
                                "\"data_offsets\":[0,%zu]}}", dtype, n_elems / 32, (size_t)32, n_bytes);
    FILE *f = fopen(path, "wb");

    assert_non_null(f);
    lm_store_u64le(len, k);
    fwrite(len, 1, 8, f);
    fwrite(head, 1, k, f);
    fwrite(data, 1, n_bytes, f);
    assert_int_equal(fclose(f), 0);
}

static void test_casts_are_counted(void **state)
{
    /* 65519.99 rounds to 65504, 65520 to infinity; 2^-25 to zero, the next float above does not */
    float x[64] = {65519.99f, 65520.0f, -1e30f, 0x1p-25f, 0x1.000002p-25f, -0x1p-30f, 0.0f, -0.0f, INFINITY, NAN};
    double y[64] = {1e300, -1e39, 1e-60, 0, NAN, 3.5};
    struct lm_request r = to("safetensors");
    struct totals t;

    (void)state;
    r.bare = true;
    r.dtype = LM_F16;
    write_floats(in("x.safetensors"), "F32", x, 64, sizeof x);
    must(in("x.safetensors"), in("f16.safetensors"), r, &t);
    assert_int_equal(t.overflow, 2);
    assert_int_equal(t.flushed, 2);
    assert_int_equal(t.nan, 2);

    r.dtype = LM_BF16;
    x[0] = 0x1.ffp127f;
    x[1] = 0x1.fefffep127f;
    x[2] = 0x1p-134f;
    x[3] = 0x1.8p-134f;
    write_floats(in("x.safetensors"), "F32", x, 64, sizeof x);
    must(in("x.safetensors"), in("bf16.safetensors"), r, &t);
    assert_int_equal(t.overflow, 1);
    assert_int_equal(t.flushed, 1);
    struct lm_model *m = reopen(in("bf16.safetensors"));
    float back[64];
    assert_int_equal(lm_tensor_to_f32(tensor(m, "w.weight"), 0, 64, back, NULL), 0);
    assert_true(isinf(back[0]) && !isinf(back[1]) && back[2] == 0 && back[3] != 0);
    lm_model_close(m);

    r.dtype = LM_F32;
    write_floats(in("y.safetensors"), "F64", y, 64, sizeof y);
    must(in("y.safetensors"), in("f32.safetensors"), r, &t);
    assert_int_equal(t.overflow, 2);
    assert_int_equal(t.flushed, 1);
    assert_int_equal(t.nan, 1);
}

static void test_what_is_not_finite_is_not_quantized(void **state)
{
    static const char *const types[] = {"Q4_0", "Q8_0"};
    float x[64] = {1, 2, 3};
    struct lm_request r = to("gguf");
    struct lm_err e;

    (void)state;
    r.quantize = true;
    for (size_t i = 0; i < 2; i++) {
        r.ftype = lm_ftype_find(types[i]);
        x[40] = i ? INFINITY : NAN;
        write_floats(in("x.safetensors"), "F32", x, 64, sizeof x);
        assert_int_equal(convert(in("x.safetensors"), in("q.gguf"), r, (struct lm_run_options){0}, NULL, &e), -1);
        assert_non_null(strstr(e.text, "w.weight"));
        assert_non_null(strstr(e.text, "not finite"));
        assert_int_equal(n_entries(), 1);
    }
    x[40] = 1e30f; /* finite, but no F16 scale can hold it */
    write_floats(in("x.safetensors"), "F32", x, 64, sizeof x);
    assert_int_equal(convert(in("x.safetensors"), in("q.gguf"), r, (struct lm_run_options){0}, NULL, &e), -1);
    assert_non_null(strstr(e.text, "too large"));
    assert_int_equal(n_entries(), 1);
}

/* ---- the other byte order */

static void put(FILE *f, uint64_t v, int width)
{
    for (int i = width - 1; i >= 0; i--)
        fputc((int)(v >> 8 * i & 255), f);
}

static void put_name(FILE *f, const char *s)
{
    put(f, strlen(s), 8);
    fputs(s, f);
}

static void put_tensor(FILE *f, const char *name, uint32_t type, uint64_t offset)
{
    put_name(f, name);
    put(f, 2, 4);
    put(f, 32, 8);
    put(f, 2, 8);
    put(f, type, 4);
    put(f, offset, 8);
}

static void test_big_endian_source(void **state)
{
    FILE *f = fopen(in("be.gguf"), "wb");
    struct lm_request r = to("gguf");
    struct lm_model *m;
    float x[64];

    (void)state;
    fputs("GGUF", f);
    put(f, 3, 4);
    put(f, 2, 8);
    put(f, 1, 8);
    put_name(f, "general.architecture");
    put(f, 8, 4);
    put_name(f, "none-such");
    put_tensor(f, "f.weight", 1, 0);
    put_tensor(f, "q.weight", 8, 128);
    while (ftell(f) % 32)
        fputc(0, f);
    for (int i = 0; i < 64; i++)
        put(f, lm_f32_to_f16((float)i / 4), 2);
    for (int b = 0; b < 2; b++) {
        put(f, lm_f32_to_f16(0.5f), 2);
        for (int i = 0; i < 32; i++)
            fputc(i + b, f);
    }
    while (ftell(f) % 32)
        fputc(0, f);
    assert_int_equal(fclose(f), 0);

    must(in("be.gguf"), in("le.gguf"), r, NULL);
    r.dtype = LM_F32;
    must(in("be.gguf"), in("f32.gguf"), r, NULL);
    for (int k = 0; k < 2; k++) {
        m = reopen(in(k ? "f32.gguf" : "le.gguf"));
        assert_int_equal(tensor(m, "q.weight")->dtype, k ? LM_F32 : LM_Q8_0);
        assert_false(tensor(m, "q.weight")->big_endian);
        assert_int_equal(lm_tensor_to_f32(tensor(m, "f.weight"), 0, 64, x, NULL), 0);
        for (int i = 0; i < 64; i++)
            assert_true(x[i] == (float)i / 4);
        assert_int_equal(lm_tensor_to_f32(tensor(m, "q.weight"), 0, 64, x, NULL), 0);
        for (int i = 0; i < 64; i++)
            assert_true(x[i] == 0.5f * (float)(i % 32 + i / 32));
        lm_model_close(m);
    }
}

/* ---- several files */

static char *first_part(const char *sub)
{
    DIR *d = opendir(in(sub));
    char name[300] = "";

    for (struct dirent *e; d && (e = readdir(d));)
        if (strncmp(e->d_name, "model-00001-of-", 15) == 0)
            snprintf(name, sizeof name, "%s/%s", sub, e->d_name);
    if (d)
        closedir(d);
    return in(name);
}

static void test_split_files_read_as_one(void **state)
{
    static const char *const formats[] = {"gguf", "safetensors"};
    struct lm_model *whole = reopen(SAMPLE), *m;

    (void)state;
    for (int k = 0; k < 2; k++) {
        struct lm_request r = to(formats[k]);
        r.max_file_bytes = 3000000;
        must(SAMPLE, in("out/"), r, NULL);
        m = reopen(k ? in("out") : first_part("out"));
        assert_int_equal(lm_model_n_tensors(m), 39);
        assert_true(lm_model_n_files(m) > 2);
        const struct lm_tensor *a = tensor(whole, "lm_head.weight"), *b = tensor(m, k ? "lm_head.weight" : "output.weight");
        assert_memory_equal(a->data, b->data, a->n_bytes);
        lm_model_close(m);
        empty(in("out"));
    }
    lm_model_close(whole);
}

/* ---- refusals */

static void refuse(const char *src, const char *dst, bool force, const char *reason)
{
    struct lm_err e = {0};

    assert_int_equal(convert(src, dst, to("gguf"), (struct lm_run_options){.force = force}, NULL, &e), -1);
    if (!strstr(e.text, reason))
        fail_msg("expected \"%s\" in: %s", reason, e.text);
}

static void test_the_source_is_never_the_destination(void **state)
{
    struct lm_err e = {0};
    struct lm_run_options o = {.force = true};

    (void)state;
    must(MODELS "tiny-llama", in("a.gguf"), to("gguf"), NULL);
    assert_int_equal(symlink("a.gguf", in("soft.gguf")), 0);
    assert_int_equal(link(in("a.gguf"), in("hard.gguf")), 0);
    refuse(in("a.gguf"), in("a.gguf"), true, "is the source itself");
    refuse(in("a.gguf"), in("soft.gguf"), true, "is the source itself");
    refuse(in("a.gguf"), in("hard.gguf"), true, "is the source itself");
    must(in("a.gguf"), in("hf/"), to("safetensors"), NULL);
    assert_int_equal(convert(in("hf"), in("hf/"), to("safetensors"), o, NULL, &e), -1);
    assert_non_null(strstr(e.text, "the source"));
    lm_model_close(reopen(in("a.gguf")));
    lm_model_close(reopen(in("hf")));
}

static void test_bad_destinations(void **state)
{
    (void)state;
    must(MODELS "tiny-llama", in("a.gguf"), to("gguf"), NULL);
    refuse(MODELS "tiny-llama", in("a.gguf"), false, "--force");
    refuse(MODELS "tiny-llama", in("none/a.gguf"), false, "no such folder");
    refuse(MODELS "tiny-llama", in("a.gguf/b.gguf"), false, "no such folder");
    refuse(MODELS "tiny-llama", "/dev/full", true, "not a regular file");
    refuse(MODELS "tiny-llama", "/dev/null", true, "not a regular file");
    assert_int_equal(n_entries(), 1);
}

static volatile int stop;

static void stop_soon(void *user, uint64_t done, uint64_t total)
{
    (void)user;
    stop = done > total / 4;
}

static void test_a_signal_leaves_nothing(void **state)
{
    struct lm_run_options o = {.stop = &stop, .progress = stop_soon};
    struct lm_err e = {0};

    (void)state;
    stop = 0;
    assert_int_equal(convert(SAMPLE, in("a.gguf"), to("gguf"), o, NULL, &e), -1);
    assert_int_equal(e.code, LM_INTERRUPTED);
    stop = 0;
    assert_int_equal(convert(SAMPLE, in("hf/"), to("safetensors"), o, NULL, &e), -1);
    assert_int_equal(n_entries(), 0);
}

static void touch_source(void *user, uint64_t done, uint64_t total)
{
    (void)done;
    (void)total;
    utimensat(AT_FDCWD, user, NULL, 0);
}

static void cut_source(void *user, uint64_t done, uint64_t total)
{
    (void)done;
    (void)total;
    if (truncate(user, 4000) < 0)
        fail();
}

static void test_a_source_that_changes_is_an_error(void **state)
{
    struct lm_run_options o = {.n_threads = 1, .user = in("a.gguf")};
    struct lm_request r = to("gguf");
    struct lm_err e = {0};

    (void)state;
    must(SAMPLE, in("a.gguf"), r, NULL);
    r.dtype = LM_F16;
    o.progress = touch_source;
    assert_int_equal(convert(in("a.gguf"), in("b.gguf"), r, o, NULL, &e), -1);
    assert_int_equal(e.code, LM_IO);
    o.progress = cut_source;
    assert_int_equal(convert(in("a.gguf"), in("b.gguf"), r, o, NULL, &e), -1);
    assert_int_equal(e.code, LM_IO);
    assert_int_equal(n_entries(), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_gguf_gives_back_the_original_bytes, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_a_single_file_comes_without_small_ones, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_back_never_rounds, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_embedded_headers_are_not_trusted, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_config_is_made_when_it_is_not_carried, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_rows_are_permuted_and_transposed, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_quantized_bytes_do_not_depend_on_pieces, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_transposed_from_quantized, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_casts_are_counted, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_what_is_not_finite_is_not_quantized, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_big_endian_source, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_split_files_read_as_one, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_the_source_is_never_the_destination, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_bad_destinations, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_a_signal_leaves_nothing, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_a_source_that_changes_is_an_error, make_dir, remove_dir),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
