/* Importance files: llama-imatrix's own are read, added up and written byte for
 * byte as it does; bad ones are refused; and a quantization uses them row by
 * row, expert by expert. */
#include "tests/files.h"

#include <math.h>

#include "convert/convert.h"

#define FIXTURE(name) "tests/fixtures/imatrix/" name

static uint8_t *slurp(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");

    if (!f)
        fail_msg("%s: cannot open", path);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    *n = (size_t)ftell(f);
    rewind(f);
    uint8_t *p = malloc(*n + 1);
    assert_non_null(p);
    assert_int_equal(fread(p, 1, *n, f), *n);
    fclose(f);
    return p;
}

static struct lm_imatrix *read_ok(const char *path)
{
    struct lm_imatrix *m;
    struct lm_err e = {0};

    if (lm_imatrix_read(&m, path, &e))
        fail_msg("%s should be read: %s", path, e.text);
    return m;
}

static void expect_file(const struct lm_imatrix *m, bool legacy, const char *path)
{
    size_t n, n_want;
    uint8_t *got, *want = slurp(path, &n_want);
    struct lm_err e;

    assert_int_equal(lm_imatrix_encode(m, legacy, &got, &n, &e), 0);
    assert_int_equal(n, n_want);
    assert_memory_equal(got, want, n);
    free(got);
    free(want);
}

/* ---- files of llama-imatrix */

static void test_reads_both_forms(void **state)
{
    struct lm_imatrix *g = read_ok(FIXTURE("a.gguf")), *d = read_ok(FIXTURE("a.dat"));
    struct lm_err e;
    float x[768], y[768];

    (void)state;
    assert_int_equal(lm_imatrix_count(g), 28);
    assert_int_equal(lm_imatrix_count(d), 28);
    assert_int_equal(lm_imatrix_chunks(g), 6);
    assert_int_equal(lm_imatrix_chunks(d), 6);
    assert_int_equal(lm_imatrix_chunk_size(g), 128);
    assert_string_equal(lm_imatrix_dataset(g, 0), "a.txt");
    assert_string_equal(lm_imatrix_dataset(d, 0), "a.txt");
    assert_null(lm_imatrix_find(g, "token_embd.weight"));
    for (size_t i = 0; i < 28; i++) {
        const struct lm_imatrix_entry *p = lm_imatrix_at(g, i), *q = lm_imatrix_find(d, p->name);
        assert_non_null(q);
        assert_int_equal(p->counts[0], 6 * 128);
        assert_int_equal(p->n_values, strstr(p->name, "ffn_down") ? 768 : 256);
        assert_int_equal(lm_imatrix_means(p, p->n_values, 1, 0, x, &e), 0);
        assert_int_equal(lm_imatrix_means(q, q->n_values, 1, 0, y, &e), 0);
        for (size_t k = 0; k < p->n_values; k++)
            assert_true(fabsf(x[k] - y[k]) <= 2e-7f * x[k]);
        assert_int_equal(lm_imatrix_means(p, 128, 1, 0, x, &e), -1);
        assert_non_null(strstr(e.text, "another model"));
    }
    lm_imatrix_free(g);
    lm_imatrix_free(d);
}

static void test_writes_what_llama_imatrix_does(void **state)
{
    struct lm_imatrix *g = read_ok(FIXTURE("a.gguf")), *d = read_ok(FIXTURE("a.dat"));

    (void)state;
    expect_file(g, false, FIXTURE("a.gguf"));
    expect_file(g, true, FIXTURE("a.dat"));
    expect_file(d, true, FIXTURE("a.dat"));
    lm_imatrix_free(g);
    lm_imatrix_free(d);
}

static void test_merges_as_llama_imatrix_does(void **state)
{
    struct lm_imatrix *a = read_ok(FIXTURE("a.gguf")), *b = read_ok(FIXTURE("b.gguf"));
    struct lm_err e;

    (void)state;
    assert_int_equal(lm_imatrix_merge(a, b, &e), 0);
    lm_imatrix_free(b);
    assert_int_equal(lm_imatrix_chunks(a), 12);
    assert_int_equal(lm_imatrix_n_datasets(a), 2);
    expect_file(a, false, FIXTURE("ab.gguf"));
    expect_file(a, true, FIXTURE("ab.dat"));
    lm_imatrix_free(a);
}

/* A .dat counts in chunks: beside a GGUF its chunks are as long as the GGUF's,
 * in either order. */
static void test_merges_forms(void **state)
{
    struct lm_imatrix *g = read_ok(FIXTURE("b.gguf")), *d = read_ok(FIXTURE("a.dat")), *want = read_ok(FIXTURE("ab.gguf"));
    struct lm_imatrix *other = read_ok(FIXTURE("b.gguf")), *dat = read_ok(FIXTURE("a.dat"));
    float x[768], y[768], z[768];
    struct lm_err e;

    (void)state;
    assert_int_equal(lm_imatrix_merge(g, d, &e), 0);
    assert_int_equal(lm_imatrix_merge(dat, other, &e), 0);
    assert_int_equal(lm_imatrix_chunk_size(dat), 128);
    assert_int_equal(lm_imatrix_chunks(dat), 12);
    for (size_t i = 0; i < lm_imatrix_count(want); i++) {
        const struct lm_imatrix_entry *p = lm_imatrix_at(want, i);
        size_t n = p->n_values;
        assert_int_equal(lm_imatrix_means(p, n, 1, 0, x, &e), 0);
        assert_int_equal(lm_imatrix_means(lm_imatrix_find(g, p->name), n, 1, 0, y, &e), 0);
        assert_int_equal(lm_imatrix_means(lm_imatrix_find(dat, p->name), n, 1, 0, z, &e), 0);
        for (size_t k = 0; k < n; k++)
            assert_true(fabsf(x[k] - y[k]) <= 1e-6f * x[k] && fabsf(x[k] - z[k]) <= 1e-6f * x[k]);
    }
    lm_imatrix_free(g);
    lm_imatrix_free(d);
    lm_imatrix_free(want);
    lm_imatrix_free(other);
    lm_imatrix_free(dat);
}

/* ---- experts */

static void test_experts(void **state)
{
    const float sums[6] = {2, 4, 6, 8, 10, 12};
    const int64_t counts[3] = {2, 0, 4}, one = 2;
    struct lm_imatrix *m, *back;
    struct lm_err e;
    float x[2];
    uint8_t *bytes;
    size_t n;

    (void)state;
    assert_int_equal(lm_imatrix_new(&m, 2, &e), 0);
    assert_int_equal(lm_imatrix_add(m, "blk.0.ffn_up_exps.weight", sums, 6, counts, 3, &e), 0);
    assert_int_equal(lm_imatrix_add(m, "blk.0.attn_q.weight", sums, 6, &one, 1, &e), 0);
    assert_string_equal(lm_imatrix_at(m, 0)->name, "blk.0.attn_q.weight"); /* sorted */
    for (int legacy = 0; legacy < 2; legacy++) {
        assert_int_equal(lm_imatrix_encode(m, legacy, &bytes, &n, &e), 0);
        write_file(path_in(dir, "experts"), bytes, n);
        free(bytes);
        back = read_ok(path_in(dir, "experts"));
        const struct lm_imatrix_entry *p = lm_imatrix_find(back, "blk.0.ffn_up_exps.weight");
        assert_int_equal(lm_imatrix_means(p, 2, 3, 0, x, &e), 0);
        assert_true(x[0] == 1 && x[1] == 2);
        assert_int_equal(lm_imatrix_means(p, 2, 3, 1, x, &e), 0);
        assert_true(x[0] == 1 && x[1] == 1); /* never reached: all alike */
        assert_int_equal(lm_imatrix_means(p, 2, 3, 2, x, &e), 0);
        assert_true(x[0] == 2.5f && x[1] == 3);
        assert_int_equal(lm_imatrix_means(p, 3, 3, 0, x, &e), -1);
        lm_imatrix_free(back);
    }
    /* one count beside many is spread; other numbers do not fit */
    assert_int_equal(lm_imatrix_add(m, "blk.0.ffn_up_exps.weight", sums, 6, &one, 1, &e), 0);
    assert_int_equal(lm_imatrix_find(m, "blk.0.ffn_up_exps.weight")->counts[1], 2);
    assert_int_equal(lm_imatrix_add(m, "blk.0.ffn_up_exps.weight", sums, 6, counts, 2, &e), -1);
    assert_int_equal(e.code, LM_MISMATCH);
    assert_int_equal(lm_imatrix_add(m, "blk.0.attn_q.weight", sums, 4, &one, 1, &e), -1);
    assert_non_null(strstr(e.text, "different models"));
    lm_imatrix_free(m);
}

/* ---- bad files */

static void refused(const char *path, const char *reason)
{
    struct lm_imatrix *m;
    struct lm_err e = {0};

    if (lm_imatrix_read(&m, path, &e) == 0)
        fail_msg("%s should be refused (%s)", path, reason);
    assert_null(m);
    if (!strstr(e.text, reason) || !strstr(e.text, path))
        fail_msg("\"%s\" should name %s and say: %s", e.text, path, reason);
}

static void put_entry(struct bytes *b, const char *name, uint32_t chunks, uint32_t n, float value)
{
    uint32_t u;

    memcpy(&u, &value, 4);
    put_u32(b, (uint32_t)strlen(name));
    put_text(b, name);
    put_u32(b, chunks);
    put_u32(b, n);
    for (uint32_t i = 0; i < n; i++)
        put_u32(b, u);
}

static void refused_dat(struct bytes *b, const char *reason)
{
    const char *path = path_in(dir, "bad.dat");

    write_file(path, b->data, b->n);
    refused(path, reason);
    bytes_free(b);
}

static void test_bad_dat(void **state)
{
    struct bytes b = {0};
    size_t n;
    uint8_t *good = slurp(FIXTURE("a.dat"), &n);

    (void)state;
    put_u32(&b, 0);
    refused_dat(&b, "entry 0");
    put_u32(&b, 2);
    put_entry(&b, "x", 1, 3, 1);
    refused_dat(&b, "entry 1");
    put_u32(&b, 2);
    put_entry(&b, "x", 1, 3, 1);
    put_entry(&b, "x", 1, 3, 1);
    refused_dat(&b, "twice");
    put_u32(&b, 1);
    put_entry(&b, "x", 1, 3, -1);
    refused_dat(&b, "not a sum of squares");
    put_u32(&b, 1);
    put_entry(&b, "x", 1, 3, NAN);
    refused_dat(&b, "not a sum of squares");
    put_u32(&b, 0xffffffff);
    put_entry(&b, "x", 1, 3, 1);
    refused_dat(&b, "entry 1");
    put_u32(&b, 1);
    put_u32(&b, 0xfffffff0);
    put_text(&b, "name");
    refused_dat(&b, "entry 0");
    /* every length that a download may stop at; the tail is optional */
    size_t tail = 4 + 4 + strlen("a.txt");
    for (size_t k = 0; k < n - tail; k += k < 200 || k > n - tail - 60 ? 1 : 97) {
        put(&b, good, k);
        if (k == 0)
            put_u8(&b, 0);
        refused_dat(&b, "does not fit");
    }
    free(good);
}

/* A GGUF with one tensor more or less than it should have. */
static void put_gguf_of(struct bytes *b, const char *first, const char *second, uint32_t type, float value)
{
    uint32_t u;

    memcpy(&u, &value, 4);
    put_gguf(b, 2, 1);
    put_key(b, "general.type", 8);
    put_str(b, "imatrix");
    put_gguf_tensor(b, first, 1, 32, 0, type, 0);
    put_gguf_tensor(b, second, 1, 1, 0, type, 128);
    pad_to(b, 32);
    for (int i = 0; i < 40; i++)
        put_u32(b, u);
}

static void test_bad_gguf(void **state)
{
    struct bytes b = {0};

    (void)state;
    put_gguf_of(&b, "x.in_sum2", "y.counts", 0, 1);
    refused_dat(&b, "'x.counts'");
    put_gguf_of(&b, "x.sums", "x.counts", 0, 1);
    refused_dat(&b, "not of importance");
    put_gguf_of(&b, "x.in_sum2", "x.counts", 0, NAN);
    refused_dat(&b, "no number of tokens");
    put_gguf_of(&b, "x.in_sum2", "x.counts", 26, 1);
    refused_dat(&b, "F32");
    put_gguf_of(&b, "x.in_sum2", "x.counts", 0, 1);
    write_file(path_in(dir, "good.gguf"), b.data, b.n);
    lm_imatrix_free(read_ok(path_in(dir, "good.gguf")));
    bytes_free(&b);
    refused("/dev/null", "not an ordinary file");
    refused(path_in(dir, "nothing"), "cannot open");
}

/* ---- a quantization with it */

enum { ROW = 512, ROWS = 5, EXPERTS = 3 };

static float value_at(size_t i)
{
    uint32_t u = (uint32_t)i * 2654435761u;

    return 0.05f * ((float)((u ^ u >> 13) >> 8 & 0xffff) / 32768 - 1);
}

/* Names of no known architecture: they are kept. */
static void write_model(const char *path)
{
    struct bytes b = {0};

    put_gguf(&b, 2, 0);
    put_str(&b, "blk.0.ffn_up_exps.weight");
    put_u32(&b, 3);
    put_u64(&b, ROW);
    put_u64(&b, ROWS);
    put_u64(&b, EXPERTS);
    put_u32(&b, 0);
    put_u64(&b, 0);
    put_gguf_tensor(&b, "blk.0.attn_q.weight", 2, ROW, 700, 0, EXPERTS * ROWS * ROW * 4);
    pad_to(&b, 32);
    for (size_t i = 0; i < (EXPERTS * ROWS + 700) * ROW; i++) {
        float v = value_at(i);
        uint32_t u;
        memcpy(&u, &v, 4);
        put_u32(&b, u);
    }
    write_file(path, b.data, b.n);
    bytes_free(&b);
}

static struct lm_imatrix *make_importance(size_t n_experts)
{
    struct lm_imatrix *m;
    static float sums[EXPERTS * ROW];
    const int64_t counts[EXPERTS] = {7, 0, 30}, dense = 12;
    struct lm_err e;

    assert_int_equal(lm_imatrix_new(&m, 4, &e), 0);
    for (size_t i = 0; i < EXPERTS * ROW; i++)
        sums[i] = (float)(1 + i * 7919 % 1000);
    assert_int_equal(lm_imatrix_add(m, "blk.0.ffn_up_exps.weight", sums, n_experts * ROW, counts, n_experts, &e), 0);
    assert_int_equal(lm_imatrix_add(m, "blk.0.attn_q.weight", sums, ROW, &dense, 1, &e), 0);
    assert_int_equal(lm_imatrix_add_dataset(m, "some text", &e), 0);
    lm_imatrix_set_chunks(m, 9);
    return m;
}

static void expect_tensor(const struct lm_model *m, const char *name, size_t first, size_t matrices, size_t rows,
                          const struct lm_imatrix *importance)
{
    const struct lm_tensor *t = lm_model_find(m, name);
    const struct lm_dtype_info *info = lm_dtype_info(t->dtype);
    size_t bytes = t->n_bytes / (matrices * rows);
    float *x = malloc(ROW * sizeof *x), w[ROW];
    uint8_t *row = malloc(bytes);
    struct lm_err e;

    assert_true(x && row);
    for (size_t k = 0; k < matrices; k++) {
        assert_int_equal(lm_imatrix_means(lm_imatrix_find(importance, name), ROW, matrices, k, w, &e), 0);
        for (size_t r = 0; r < rows; r++) {
            for (size_t i = 0; i < ROW; i++)
                x[i] = value_at(first + (k * rows + r) * ROW + i);
            info->from_f32_weighted(row, x, w, ROW, 1);
            assert_memory_equal(t->data + (k * rows + r) * bytes, row, bytes);
        }
    }
    free(x);
    free(row);
}

static int quantize(const char *src, const char *dst, const char *type, struct lm_importance *i, int n_threads,
                    uint64_t max_ram, struct lm_err *e)
{
    struct lm_mix_options mix = {.output = -1, .embedding = -1, .importance = i};
    struct lm_request req = {.to = lm_format_find("gguf"), .quantize = true, .dtype = -1, .ftype = lm_ftype_find(type),
                             .mix = &mix};
    struct lm_run_options o = {.force = true, .n_threads = n_threads, .max_ram = max_ram, .measure = true};
    struct lm_model *m = open_ok(src);
    struct lm_plan *p = NULL;
    int rc = lm_plan_make(&p, m, &req, e);

    if (rc == 0)
        rc = lm_plan_run(p, dst, &o, e);
    for (size_t k = 0; rc == 0 && k < p->n_items; k++) {
        const struct lm_errors *r = &p->items[k].errors;
        assert_int_equal(r->n, lm_plan_elems(&p->items[k]));
        assert_true(r->e2 > 0 && r->e2 < 0.2 * r->x2 && r->max > 0 && r->max < 0.1 && r->xy > 0.9 * r->x2);
    }
    lm_plan_free(p);
    lm_model_close(m);
    return rc;
}

static void test_quantizes_with_it(void **state)
{
    static const char *const types[] = {"Q4_0", "Q5_1", "Q2_K_S", "Q3_K_M", "Q4_K_M", "Q6_K", "IQ4_XS", "IQ4_NL"};
    struct lm_importance_file file = {.path = (char *)"some/where.gguf", .sha256 = "0123"};
    struct lm_importance i = {.matrix = make_importance(EXPERTS), .files = &file, .n_files = 1};
    char src[128], dst[128];
    struct lm_err e = {0};

    (void)state;
    snprintf(src, sizeof src, "%s/src.gguf", dir);
    snprintf(dst, sizeof dst, "%s/dst.gguf", dir);
    write_model(src);
    for (size_t k = 0; k < sizeof types / sizeof types[0]; k++) {
        /* few bytes of memory make many pieces, which never end inside a row */
        if (quantize(src, dst, types[k], &i, 1 + (int)k % 3, k % 2 ? 1 << 17 : 0, &e))
            fail_msg("%s: %s", types[k], e.text);
        struct lm_model *m = open_ok(dst);
        expect_tensor(m, "blk.0.ffn_up_exps.weight", 0, EXPERTS, ROWS, i.matrix);
        expect_tensor(m, "blk.0.attn_q.weight", EXPERTS * ROWS * ROW, 1, 700, i.matrix);
        struct lm_span s = {0};
        uint64_t n = 0;
        assert_int_equal(lm_meta_get_str(lm_model_meta(m), "quantize.imatrix.file", &s, NULL), 1);
        assert_true(lm_span_eq(s, lm_span_str("where.gguf")));
        assert_int_equal(lm_meta_get_str(lm_model_meta(m), "quantize.imatrix.dataset", &s, NULL), 1);
        assert_true(lm_span_eq(s, lm_span_str("some text")));
        assert_int_equal(lm_meta_get_u64(lm_model_meta(m), "quantize.imatrix.entries_count", &n, NULL), 1);
        assert_int_equal(n, 2);
        assert_int_equal(lm_meta_get_u64(lm_model_meta(m), "quantize.imatrix.chunks_count", &n, NULL), 1);
        assert_int_equal(n, 9);
        const struct lm_meta_value *v = lm_meta_get(lm_model_meta(m), "libmodel.imatrix.sha256");
        assert_true(v && v->n == 1 && lm_span_eq(v->strs[0], lm_span_str("0123")));
        lm_model_close(m);
    }
    lm_imatrix_free(i.matrix);
}

static void test_refuses_what_does_not_fit(void **state)
{
    struct lm_importance i = {.matrix = make_importance(EXPERTS - 1)};
    char src[128], dst[128];
    struct lm_err e = {0};

    (void)state;
    snprintf(src, sizeof src, "%s/src.gguf", dir);
    snprintf(dst, sizeof dst, "%s/never.gguf", dir);
    write_model(src);
    assert_int_equal(quantize(src, dst, "Q4_K_M", &i, 1, 0, &e), -1);
    assert_non_null(strstr(e.text, "another model"));
    assert_int_equal(quantize(src, dst, "IQ2_XS", NULL, 1, 0, &e), -1);
    assert_int_equal(e.code, LM_MISSING);
    assert_non_null(strstr(e.text, "blk.0.attn_q.weight IQ2_XS"));
    assert_non_null(strstr(e.text, "--imatrix"));
    assert_int_equal(access(dst, F_OK), -1);
    lm_imatrix_free(i.matrix);
}

static void patch_f32(const char *path, size_t from_end, float v)
{
    FILE *f = fopen(path, "r+b");
    uint8_t b[4];
    uint32_t u;

    memcpy(&u, &v, 4);
    lm_store_u32le(b, u);
    assert_non_null(f);
    assert_int_equal(fseek(f, -(long)from_end, SEEK_END), 0);
    assert_int_equal(fwrite(b, 1, 4, f), 4);
    assert_int_equal(fclose(f), 0);
}

/* Refused with its place; or, when that is wanted, 0 in an otherwise sound block. */
static void test_values_that_are_not_finite(void **state)
{
    struct lm_request req = {.to = lm_format_find("gguf"), .quantize = true, .dtype = -1, .ftype = lm_ftype_find("Q8_0")};
    struct lm_run_options o = {.force = true, .n_threads = 2};
    char src[128], dst[128];
    struct lm_plan *p;
    struct lm_err e = {0};

    (void)state;
    snprintf(src, sizeof src, "%s/nan.gguf", dir);
    snprintf(dst, sizeof dst, "%s/dst.gguf", dir);
    write_model(src);
    patch_f32(src, 4 * 3, NAN);
    patch_f32(src, 4 * 5, INFINITY);
    struct lm_model *m = open_ok(src);
    assert_int_equal(lm_plan_make(&p, m, &req, &e), 0);
    assert_int_equal(lm_plan_run(p, dst, &o, &e), -1);
    lm_plan_free(p);
    if (!strstr(e.text, "'blk.0.attn_q.weight'") || !strstr(e.text, "element 358395 (2 among"))
        fail_msg("%s", e.text);
    req.allow_nan = true;
    assert_int_equal(lm_plan_make(&p, m, &req, &e), 0);
    assert_int_equal(lm_plan_run(p, dst, &o, &e), 0);
    assert_int_equal(p->items[0].n_nan + p->items[1].n_nan, 2);
    lm_plan_free(p);
    lm_model_close(m);

    m = open_ok(dst);
    const struct lm_tensor *t = lm_model_find(m, "blk.0.attn_q.weight");
    float y[32];
    assert_int_equal(lm_tensor_to_f32(t, 700 * ROW - 32, 32, y, &e), 0);
    for (int i = 0; i < 32; i++) {
        float x = i == 29 || i == 27 ? 0 : value_at((EXPERTS * ROWS + 700) * ROW - 32 + (size_t)i);
        assert_true(fabsf(y[i] - x) < 3e-4f);
    }
    lm_model_close(m);
}

static void test_several_files(void **state)
{
    const char *const paths[] = {FIXTURE("a.gguf"), FIXTURE("b.gguf")};
    struct lm_importance *i;
    struct lm_err e;

    (void)state;
    assert_int_equal(lm_importance_read(&i, paths, 2, &e), 0);
    expect_file(i->matrix, false, FIXTURE("ab.gguf"));
    assert_int_equal(i->n_files, 2);
    assert_int_equal(strlen(i->files[1].sha256), 64);
    assert_string_not_equal(i->files[0].sha256, i->files[1].sha256);
    lm_importance_free(i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_both_forms),
        cmocka_unit_test(test_writes_what_llama_imatrix_does),
        cmocka_unit_test(test_merges_as_llama_imatrix_does),
        cmocka_unit_test(test_merges_forms),
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_bad_dat),
        cmocka_unit_test(test_bad_gguf),
        cmocka_unit_test(test_quantizes_with_it),
        cmocka_unit_test(test_refuses_what_does_not_fit),
        cmocka_unit_test(test_values_that_are_not_finite),
        cmocka_unit_test(test_several_files),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
