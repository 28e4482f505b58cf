/* Opening and laying out models while the n-th allocation fails, for every n:
 * once alone and once with all that follow. No crash, no leak, and a reason.
 * The allocator is replaced here, so not under a sanitizer that does the same. */
#include "tests/files.h"

#if defined(__SANITIZE_ADDRESS__)
#define REPLACED 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define REPLACED 0
#endif
#endif
#if !defined(REPLACED) && defined(__GLIBC__)
#define REPLACED 1
#elif !defined(REPLACED)
#define REPLACED 0
#endif

static long until_failure = -1; /* -1: none is to fail */
static bool keep_failing;
static long n_live;

#if REPLACED
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void __libc_free(void *p);

static bool fails(void)
{
    if (until_failure < 0)
        return false;
    if (until_failure > 0) {
        until_failure--;
        return false;
    }
    if (!keep_failing)
        until_failure = -1;
    errno = ENOMEM;
    return true;
}

static void *counted(void *p)
{
    n_live += p != NULL;
    return p;
}

void *malloc(size_t n)
{
    return fails() ? NULL : counted(__libc_malloc(n));
}

void *calloc(size_t n, size_t size)
{
    return fails() ? NULL : counted(__libc_calloc(n, size));
}

void *realloc(void *p, size_t n)
{
    if (fails())
        return NULL;
    return p ? __libc_realloc(p, n) : counted(__libc_realloc(p, n));
}

void *reallocarray(void *p, size_t n, size_t size)
{
    size_t total;
    return __builtin_mul_overflow(n, size, &total) ? NULL : realloc(p, total);
}

void free(void *p)
{
    n_live -= p != NULL;
    __libc_free(p);
}
#endif

static struct lm_write_tensor tensors[64];

static size_t describe(const struct lm_model *m)
{
    size_t n = lm_model_n_tensors(m);

    assert_true(n <= 64);
    for (size_t i = 0; i < n; i++) {
        const struct lm_tensor *t = lm_model_tensor(m, i);
        tensors[i] = (struct lm_write_tensor){.name = t->name, .dtype = t->dtype, .n_dims = t->n_dims};
        memcpy(tensors[i].shape, t->shape, sizeof t->shape);
    }
    return n;
}

static int lay_out(const struct lm_model *m, uint64_t max_file_bytes, struct lm_err *e)
{
    struct lm_write_spec spec = {.tensors = tensors, .n_tensors = describe(m), .meta = lm_model_meta(m),
                                 .max_file_bytes = max_file_bytes};
    struct lm_layout l;
    const struct lm_format *f = lm_model_format(m);
    bool split = max_file_bytes && strcmp(f->name, "npz") == 0; /* which is always one file */
    int rc = f->layout && !split ? f->layout(&l, &spec, "x", e) : 1;

    if (rc == 0)
        lm_layout_free(&l);
    return rc;
}

/* All that the test covers; 0 when nothing failed. */
static int work(const char *path, struct lm_err *e)
{
    struct lm_model *m;
    struct lm_span s;
    int rc = lm_model_open(&m, path, e);

    if (rc < 0)
        return rc;
    if (lm_model_sidecar(m, "config.json", &s, e) < 0 || lay_out(m, 0, e) < 0 || lay_out(m, 4096, e) < 0)
        rc = -1;
    lm_model_close(m);
    return rc;
}

static void survive(const char *path)
{
    enum { MAX_POINTS = 20000 };

    for (int mode = 0; mode < 2; mode++) {
        long n = 0, n_failures = 0;
        for (bool reached = true; reached; n++) {
            struct lm_err e = {0};
            long live = n_live;
            keep_failing = mode;
            until_failure = n;
            int rc = work(path, &e);
            reached = until_failure <= 0;
            until_failure = -1;
            n_failures += rc < 0;
            if (n_live != live)
                fail_msg("%s: %ld allocations leaked when number %ld failed", path, n_live - live, n);
            /* jansson takes an allocation that fails within a token for a wrong token. */
            if (rc < 0 && !strstr(e.text, "memory") && !strstr(e.text, "params.json: line"))
                fail_msg("%s: number %ld failed with '%s'", path, n, e.text);
            assert_true(n < MAX_POINTS);
        }
        assert_true(n_failures > 10);
    }
}

static void every_failing_allocation_is_survived(void **state)
{
    (void)state;
    const struct lm_write_tensor t = {"x", LM_F32, 1, {4}};
    const struct lm_span strs[] = {lm_span_str("a"), lm_span_str("b")};
    struct lm_layout l;
    struct lm_err e;
    const size_t size = 16;
    const void *const data = "sixteen bytes ..";

    if (!REPLACED)
        skip();
    struct lm_meta *meta = lm_meta_new();
    struct lm_write_spec spec = {.tensors = &t, .n_tensors = 1, .meta = meta};
    lm_meta_set_strs(meta, "tokens", strs, 2);
    lm_meta_set_str(meta, "libmodel.source.config.json", lm_span_str("{}"));
    assert_int_equal(lm_format_find("gguf")->layout(&l, &spec, "x.gguf", &e), 0);
    write_layout(&l, dir, &spec, &data, &size);
    lm_layout_free(&l);
    lm_meta_free(meta);
    survive(path_in(dir, "x.gguf"));
    survive("samples/polish-5m");
    survive("tests/fixtures/models/tiny-llama-sharded");
    static const char *const others[] = {"plain.pt", "deflated.pt", "legacy.pt", "quantized.pt", "checkpoint.pt", "sharded-bin",
                                         "stored.npz", "deflated.npz", "fortran.npy", "meta-2", "meta-scaled",
                                         "mistral-native"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        survive(path_in("tests/fixtures/containers", others[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_failing_allocation_is_survived)};
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
