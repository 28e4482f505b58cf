/* NumPy arrays and archives: values, refused headers with their reasons, and
 * what we write read back. */
#include "tests/mutate.h"
#include "tests/zips.h"

#include <sys/mman.h>

#define FIXTURES "tests/fixtures/containers/"

static void values_are_numpys(void **state)
{
    (void)state;
    assert_int_equal(assert_same_tensors(FIXTURES "stored.npz", FIXTURES "stored.npz.expected.safetensors"), 17);
    assert_int_equal(assert_same_tensors(FIXTURES "deflated.npz", FIXTURES "deflated.npz.expected.safetensors"), 17);
    assert_int_equal(assert_same_tensors(FIXTURES "plain.npy", FIXTURES "plain.npy.expected.safetensors"), 1);
    assert_int_equal(assert_same_tensors(FIXTURES "fortran.npy", FIXTURES "fortran.npy.expected.safetensors"), 1);
}

static void each_file_has_one_format(void **state)
{
    (void)state;
    static const char *const files[][2] = {
        {"stored.npz", "npz"}, {"deflated.npz", "npz"}, {"plain.npy", "npy"}, {"plain.pt", "pytorch"}, {"legacy.pt", "pytorch"},
        {"script.pt", "pytorch"}, {"plain.pt.expected.safetensors", "safetensors"},
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char path[200];
        snprintf(path, sizeof path, FIXTURES "%s", files[i][0]);
        struct lm_model *m = open_ok(path);
        size_t n_claims = 0;
        for (size_t f = 0; lm_format_at(f); f++)
            n_claims += lm_format_at(f)->probe(lm_model_file(m, 0)->map, path) >= 50;
        assert_int_equal(n_claims, 1);
        assert_string_equal(lm_model_format(m)->name, files[i][1]);
        lm_model_close(m);
    }
}

/* ---- headers */

static const struct {
    const char *dict;
    size_t n_data;
    enum lm_code code;
    const char *reason;
} headers[] = {
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }", 15, LM_MALFORMED, "describes 16 bytes of data, 15 are there"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }", 17, LM_MALFORMED, "describes 16 bytes of data, 17 are there"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 4), }", 16, LM_MALFORMED, "16000000000 bytes"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 4), }", 16, LM_MALFORMED, "overflows"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }", 16, LM_MALFORMED, "below 2^64"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 2), }", 16, LM_MALFORMED, "not negative"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (2 2), }", 16, LM_MALFORMED, "a comma or the end of the shape"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (2*2,), }", 16, LM_MALFORMED, "a comma or the end of the shape"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': [4], }", 16, LM_MALFORMED, "a shape in parentheses"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,4), }", 16, LM_LIMIT, "more than 8 dimensions"},
    {"{'descr': '<f4', 'fortran_order': 0, 'shape': (4,), }", 16, LM_MALFORMED, "True or False"},
    {"{'descr': '<f4', 'fortran_order': False, }", 16, LM_MALFORMED, "lacks descr, fortran_order or shape"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (4,), 'x': (1,)}", 16, LM_MALFORMED, "a key 'x'"},
    {"{'descr': '<f4', 'descr': '<f8', 'fortran_order': False, 'shape': (4,)}", 16, LM_MALFORMED, "there twice"},
    {"{'descr' '<f4'}", 16, LM_MALFORMED, "expected ':'"},
    {"{'descr': '<f4' 'fortran_order': False}", 16, LM_MALFORMED, "a comma or '}'"},
    {"{'descr': '<f4", 16, LM_MALFORMED, "the end of a text"},
    {"{'des\\x63r': '<f4'}", 16, LM_MALFORMED, "the end of a text"},
    {"{'descr': <f4, 'fortran_order': False, 'shape': (4,)}", 16, LM_MALFORMED, "a text in quotes"},
    {"__import__('os').system('id')", 16, LM_MALFORMED, "expected '{'"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (4,), } + {}", 16, LM_MALFORMED, "nothing after"},
    {"{", 16, LM_MALFORMED, "a text in quotes"},
    {"", 16, LM_MALFORMED, "expected '{'"},
    {"{'descr': '|O', 'fortran_order': False, 'shape': (4,), }", 16, LM_UNSUPPORTED, "Python objects"},
    {"{'descr': '<U4', 'fortran_order': False, 'shape': (1,), }", 16, LM_UNSUPPORTED, "text"},
    {"{'descr': '|S4', 'fortran_order': False, 'shape': (4,), }", 16, LM_UNSUPPORTED, "text"},
    {"{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (2,), }", 16, LM_UNSUPPORTED, "times"},
    {"{'descr': '|V4', 'fortran_order': False, 'shape': (4,), }", 16, LM_UNSUPPORTED, "raw bytes"},
    {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (4,), }", 16, LM_UNSUPPORTED, "structured"},
    {"{'descr': '<f16', 'fortran_order': False, 'shape': (1,), }", 16, LM_UNSUPPORTED, "not handled"},
    {"{'descr': 'f4', 'fortran_order': False, 'shape': (4,), }", 16, LM_UNSUPPORTED, "not handled"},
    {"{'descr': '', 'fortran_order': False, 'shape': (4,), }", 16, LM_UNSUPPORTED, "not handled"},
};

static void npy(struct bytes *b, const char *dict, size_t n_data)
{
    put_text(b, "\x93NUMPY\1");
    put_u8(b, 0);
    put_u16(b, (uint16_t)strlen(dict));
    put_text(b, dict);
    put_zeros(b, n_data);
}

static void bad_headers_are_refused(void **state)
{
    (void)state;
    static const char sound[] = "{'shape':(2,2,),\"descr\":'<f4','fortran_order':False}";

    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++) {
        struct bytes b = {0}, z = {0};
        npy(&b, headers[i].dict, headers[i].n_data);
        write_file(path_in(dir, "x.npy"), b.data, b.n);
        open_fails(path_in(dir, "x.npy"), headers[i].code, headers[i].reason);
        struct member m = {.name = "x.npy", .data = b};
        put_zip(&z, &m, 1, NULL);
        write_file(path_in(dir, "x.npz"), z.data, z.n);
        open_fails(path_in(dir, "x.npz"), headers[i].code, headers[i].reason);
        bytes_free(&b);
        bytes_free(&z);
    }
    struct bytes b = {0};
    npy(&b, sound, 16);
    write_file(path_in(dir, "x.npy"), b.data, b.n);
    lm_model_close(open_ok(path_in(dir, "x.npy")));
    b.data[6] = 4;
    write_file(path_in(dir, "x.npy"), b.data, b.n);
    open_fails(path_in(dir, "x.npy"), LM_UNSUPPORTED, "version 4.0");
    b.data[6] = 2;
    write_file(path_in(dir, "x.npy"), b.data, b.n);
    open_fails(path_in(dir, "x.npy"), LM_LIMIT, "at most 65536");
    b.data[6] = 1;
    b.data[9] = 0x7f;
    write_file(path_in(dir, "x.npy"), b.data, b.n);
    open_fails(path_in(dir, "x.npy"), LM_MALFORMED, "cut short");
    bytes_free(&b);
}

/* ---- writing */

static void what_is_written_reads_back(void **state)
{
    (void)state;
    struct mut *x = mut_load("tests/fixtures/containers/stored.npz.expected.safetensors"), *back;
    struct lm_err e = {0};

    struct lm_write_tensor *w = calloc(x->n, sizeof *w);
    const void **data = calloc(x->n, sizeof *data);
    size_t *n_data = calloc(x->n, sizeof *n_data);
    for (size_t i = 0; i < x->n; i++) {
        w[i] = (struct lm_write_tensor){.name = x->t[i].name, .dtype = x->t[i].dtype, .n_dims = x->t[i].n_dims};
        memcpy(w[i].shape, x->t[i].shape, sizeof w[i].shape);
        data[i] = x->t[i].data;
        n_data[i] = x->t[i].n_bytes;
    }
    struct lm_write_spec spec = {.tensors = w, .n_tensors = x->n, .meta = x->meta};
    struct lm_layout l;
    assert_int_equal(lm_format_find("npz")->layout(&l, &spec, "out.npz", &e), 0);
    for (size_t i = 0; i < x->n; i++)
        assert_int_equal(l.places[i].offset % 64, 0);
    write_layout(&l, dir, &spec, data, n_data);
    int fd = open(path_in(dir, "out.npz"), O_RDWR);
    assert_int_equal(lm_format_find("npz")->finish(fd, &l, 0, &e), 0);

    /* The checksums are those of the members. */
    const struct lm_layout_chunk *c = &l.files[0].chunks[0];
    uint8_t buf[512], crc[4];
    size_t begin = 30 + lm_load_u16le(c->data + 26) + lm_load_u16le(c->data + 28), n = c->n - begin + n_data[0];
    assert_true(n <= sizeof buf);
    assert_int_equal(pread(fd, buf, n, (off_t)begin), n);
    assert_int_equal(pread(fd, crc, 4, 14), 4);
    assert_int_equal(lm_load_u32le(crc), crc32(0, buf, (unsigned)n));
    close(fd);
    lm_layout_free(&l);
    assert_same_tensors(path_in(dir, "out.npz"), FIXTURES "stored.npz.expected.safetensors");
    back = mut_load(path_in(dir, "out.npz"));
    assert_int_equal(back->n, x->n);

    /* Names that would leave the folder; types that NumPy has not; several files. */
    w[0].name = "../up";
    assert_int_equal(lm_format_find("npz")->layout(&l, &spec, "out.npz", &e), -1);
    assert_non_null(strstr(e.text, "outside of the folder"));
    w[0].name = "q";
    w[0].dtype = LM_Q8_0;
    assert_int_equal(lm_format_find("npz")->layout(&l, &spec, "out.npz", &e), -1);
    assert_non_null(strstr(e.text, "cannot store Q8_0"));
    w[0].dtype = x->t[0].dtype;
    spec.max_file_bytes = 100;
    assert_int_equal(lm_format_find("npz")->layout(&l, &spec, "out.npz", &e), -1);
    assert_non_null(strstr(e.text, "no index"));
    mut_free(back);
    mut_free(x);
    free(w);
    free(data);
    free(n_data);
}

/* ---- whole files */

static volatile uint64_t touched;

static bool opens_or_is_refused(const struct bytes *b)
{
    static int fd = -1;
    struct lm_model *m;
    struct lm_err e = {0};
    char path[64];

    if (fd < 0)
        fd = memfd_create("test", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, (off_t)b->n), 0);
    assert_int_equal(pwrite(fd, b->data, b->n, 0), b->n);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (lm_model_open(&m, path, &e) < 0) {
        assert_true(e.code != LM_OK && e.text[0] && lm_utf8_valid(lm_span_str(e.text)));
        return false;
    }
    for (size_t i = 0; i < lm_model_n_tensors(m); i++)
        for (uint64_t j = 0; j < lm_model_tensor(m, i)->n_bytes; j++)
            touched += lm_model_tensor(m, i)->data[j];
    lm_model_close(m);
    return true;
}

static void damage_is_survived(void **state)
{
    (void)state;
    struct bytes b = {0}, z = {0};

    npy(&b, "{'descr': '>f4', 'fortran_order': True, 'shape': (2, 3), }", 24);
    struct member m = {.name = "layers/0.npy", .data = b};
    put_zip(&z, &m, 1, NULL);
    for (int f = 0; f < 2; f++) {
        struct bytes *x = f ? &z : &b;
        size_t n = x->n;
        assert_true(opens_or_is_refused(x));
        for (x->n = 0; x->n < n; x->n++)
            assert_false(opens_or_is_refused(x));
        for (size_t bit = 0; bit < 8 * n; bit++) {
            x->data[bit / 8] ^= (uint8_t)(1 << bit % 8);
            opens_or_is_refused(x);
            x->data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
    }
    bytes_free(&b);
    bytes_free(&z);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_numpys),
        cmocka_unit_test(each_file_has_one_format),
        cmocka_unit_test(bad_headers_are_refused),
        cmocka_unit_test(what_is_written_reads_back),
        cmocka_unit_test(damage_is_survived),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
