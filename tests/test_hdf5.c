/* HDF5: every layout that h5py writes, read to equal values; what leads out of a
 * file refused; damaged files refused in words, whatever is damaged; what we
 * write read back. */
#include "tests/mutate.h"
#include "tests/zips.h"

#include <time.h>

#include "convert/convert.h"
#include "libmodel/fmt/h5.h"

#define FIXTURES "tests/fixtures/hdf5/"

static void every_layout_is_read(void **state)
{
    (void)state;
    static const char *const files[] = {"layouts.h5", "layouts-v110.h5", "layouts-user-block.h5"};

    for (size_t i = 0; i < 3; i++) {
        char path[200];
        snprintf(path, sizeof path, FIXTURES "%s", files[i]);
        assert_int_equal(assert_same_tensors(path, FIXTURES "layouts.expected.safetensors"), 64);
    }
}

static void attributes_are_metadata(void **state)
{
    (void)state;
    struct lm_model *m = open_ok(FIXTURES "layouts.h5");
    const struct lm_meta *meta = lm_model_meta(m);
    const struct lm_meta_value *v = lm_meta_get(meta, "texts");
    struct lm_span text = {0};
    uint64_t n = 0;
    double real = 0;

    assert_int_equal(lm_meta_get_str(meta, "text", &text, NULL), 1);
    assert_true(lm_span_eq(text, lm_span_str("a text")));
    assert_int_equal(lm_meta_get_u64(meta, "number", &n, NULL), 1);
    assert_int_equal(n, 5);
    assert_int_equal(lm_meta_get_f64(meta, "real", &real, NULL), 1);
    assert_true(real == 0.5);
    assert_true(v && v->type == LM_META_ARRAY && v->n == 2 && lm_span_eq(v->strs[1], lm_span_str("two")));
    v = lm_meta_get(meta, "numbers");
    assert_true(v && v->elem == LM_META_I16 && v->n == 4 && ((const int16_t *)v->data)[3] == 3);
    lm_model_close(m);
}

static bool leaves_out(const struct lm_model *m, const char *text)
{
    for (size_t i = 0; i < lm_model_n_left_out(m); i++)
        if (strstr(lm_model_left_out(m, i), text))
            return true;
    return false;
}

static void what_is_no_tensor_is_named(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "'/text': text, one value", "'/texts': text, shape [2]", "'/variable_texts': text, shape [2]",
        "'/records': records of 2 fields (compound, 8 bytes each), shape [3]", "'/names': an enumeration of 2 names",
        "'/lists': lists of different lengths", "'/raw': raw bytes (opaque, 7 bytes each)", "'/null': an empty dataset",
        "'/reference': references to other objects", "'/type': a named type", "'/soft': a soft link to '/tensor', not followed",
        "'/loop/up': a group that is listed under another name already",
    };
    struct lm_model *m = open_ok(FIXTURES "others.h5");

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (!leaves_out(m, texts[i]))
            fail_msg("not said: %s", texts[i]);
    assert_int_equal(lm_model_n_left_out(m), sizeof texts / sizeof texts[0]);
    lm_model_close(m);
    assert_int_equal(assert_same_tensors(FIXTURES "others.h5", FIXTURES "others.h5.expected.safetensors"), 2);
}

static void what_leads_outside_is_refused(void **state)
{
    (void)state;
    static const struct { const char *file, *reason; } cases[] = {
        {"external-link.h5", "'/bad': an external link to '/x' in the file '/etc/hostname', which is not opened"},
        {"external-storage.h5", "'/bad': external storage: its data are in the file '/etc/hostname'"},
        {"virtual.h5", "'/bad': a virtual dataset"},
        {"lzf.h5", "'/bad': compressed by filter 32000 (lzf); only deflate, shuffle and fletcher32 are read"},
        {"scaleoffset.h5", "'/bad': compressed by filter 6"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char path[200];
        struct lm_model *m;
        struct lm_err e = {0};
        snprintf(path, sizeof path, FIXTURES "%s", cases[i].file);
        open_fails(path, LM_UNSUPPORTED, cases[i].reason);
        assert_int_equal(lm_model_open_headers(&m, path, &e), 0); /* it is listed all the same */
        assert_non_null(lm_model_find(m, "good"));
        assert_true(leaves_out(m, cases[i].reason));
        lm_model_close(m);
    }
}

/* ---- damaged files */

struct file { uint8_t *data; size_t n; };

static struct file load(const char *path)
{
    struct file f = {0};
    FILE *in = fopen(path, "rb");

    assert_non_null(in);
    fseek(in, 0, SEEK_END);
    f.n = (size_t)ftell(in);
    rewind(in);
    f.data = malloc(f.n + 1);
    assert_int_equal(fread(f.data, 1, f.n, in), f.n);
    fclose(in);
    return f;
}

/* Opens or is refused with a reason; time and code are watched. */
static int open_damaged(const struct file *f, const char *what)
{
    const char *path = path_in(dir, "damaged.h5");
    struct lm_model *m;
    struct lm_err e = {0};
    struct timespec from, to;

    write_file(path, f->data, f->n);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
    int rc = lm_model_open(&m, path, &e);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
    if (rc < 0 && (!e.text[0] || !lm_utf8_valid(lm_span_str(e.text)) || strchr(e.text, '\n')))
        fail_msg("%s: refused without a sentence: %s", what, e.text);
    if (rc < 0 && !strstr(e.text, "damaged.h5"))
        fail_msg("%s: the message does not name the file: %s", what, e.text);
    if (rc == 0)
        lm_model_close(m);
    assert_true(to.tv_sec - from.tv_sec <= 2);
    return rc;
}

static void every_prefix_is_refused(void **state)
{
    (void)state;
    struct file f = load(FIXTURES "others.h5");
    size_t n = f.n;

    for (f.n = 0; f.n < n; f.n += f.n < 200 ? 1 : 61)
        if (open_damaged(&f, "prefix") == 0)
            fail_msg("a prefix of %zu bytes of %zu opens", f.n, n);
    f.n = n - 1;
    assert_int_equal(open_damaged(&f, "prefix"), -1);
    f.n = n;
    assert_int_equal(open_damaged(&f, "whole"), 0);
    free(f.data);
}

static void bits_flip(void **state)
{
    (void)state;
    static const char *const files[] = {"others.h5", "layouts-v110.h5"};
    uint64_t random = 5;

    for (size_t k = 0; k < 2; k++) {
        char path[200];
        snprintf(path, sizeof path, FIXTURES "%s", files[k]);
        struct file f = load(path);
        for (int i = 0; i < 120; i++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            size_t at = (size_t)(random >> 20) % f.n;
            uint8_t old = f.data[at];
            f.data[at] ^= (uint8_t)(1u << (random >> 13 & 7));
            open_damaged(&f, "bit");
            f.data[at] = old;
        }
        free(f.data);
    }
}

/* Replaces bytes at the n-th place where `find` is. */
struct defect {
    const char *file;
    const char *find;
    size_t n_find, nth;
    long at; /* from there */
    const char *with;
    size_t n_with;
    enum lm_code code;
    const char *reason;
};
#define BYTES(s) s, sizeof(s) - 1

static const struct defect defects[] = {
    {"others.h5", BYTES("\x89HDF"), 0, 8, BYTES("\x09"), LM_MALFORMED, "libhdf5 cannot open it"},
    {"others.h5", BYTES("\x89HDF"), 0, 13, BYTES("\x07"), LM_MALFORMED, "libhdf5 cannot open it"},
    {"others.h5", BYTES("\x89HDF"), 0, 13, BYTES("\x00"), LM_MALFORMED, "libhdf5 cannot open it"},
    {"others.h5", BYTES("\x89HDF"), 0, 14, BYTES("\xff"), LM_MALFORMED, "libhdf5 cannot open it"},
    {"others.h5", BYTES("\x89HDF"), 0, 40, BYTES("\xff\xff\xff\xff\x00"), LM_MALFORMED, "are missing at its end"},
    {"others.h5", BYTES("\x89HDF"), 0, 64, BYTES("\xff\xff\xff\x7f"), LM_MALFORMED, "libhdf5 cannot open it"},
    {"others.h5", BYTES("TREE"), 0, 0, BYTES("TREX"), LM_MALFORMED, "cannot be listed"},
    {"others.h5", BYTES("TREE"), 0, 5, BYTES("\x09"), LM_MALFORMED, "cannot be listed"},
    {"others.h5", BYTES("TREE"), 0, 6, BYTES("\xff\xff"), LM_MALFORMED, "cannot be listed"},
    {"others.h5", BYTES("HEAP"), 0, 0, BYTES("HEAX"), LM_MALFORMED, "'/"},
    {"others.h5", BYTES("HEAP"), 0, 8, BYTES("\xff\xff\xff\x01"), LM_MALFORMED, "'/"},
    {"others.h5", BYTES("SNOD"), 0, 0, BYTES("SNOX"), LM_MALFORMED, "cannot be listed"},
    {"others.h5", BYTES("SNOD"), 0, 6, BYTES("\xff\xff"), LM_MALFORMED, "cannot be listed"},
    {"layouts-v110.h5", BYTES("OHDR"), 0, 4, BYTES("\x07"), LM_MALFORMED, "libhdf5"},
    {"layouts-v110.h5", BYTES("OHDR"), 0, 10, BYTES("\xff"), LM_MALFORMED, "libhdf5"},
    {"layouts-v110.h5", BYTES("FRHP"), 0, 0, BYTES("XXXX"), LM_MALFORMED, "libhdf5"},
    {"layouts-v110.h5", BYTES("BTHD"), 0, 0, BYTES("XXXX"), LM_MALFORMED, "libhdf5"},
    {"layouts-v110.h5", BYTES("FADB"), 0, 0, BYTES("XXXX"), LM_MALFORMED, "cannot be read"},
    {"layouts-v110.h5", BYTES("EADB"), 0, 0, BYTES("XXXX"), LM_MALFORMED, "cannot be read"},
};

static uint8_t *find_bytes(const struct file *f, const struct defect *d)
{
    uint8_t *at = f->data;

    for (size_t i = 0; at; i++) {
        at = memmem(at, f->n - (size_t)(at - f->data), d->find, d->n_find);
        if (!at || i == d->nth)
            return at;
        at++;
    }
    return NULL;
}

static void single_defects_have_reasons(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof defects / sizeof defects[0]; i++) {
        const struct defect *d = &defects[i];
        char path[200];
        snprintf(path, sizeof path, FIXTURES "%s", d->file);
        struct file f = load(path);
        uint8_t *at = find_bytes(&f, d);
        if (!at)
            fail_msg("defect %zu: no place %zu of it in %s", i, d->nth, d->file);
        memcpy(at + d->at, d->with, d->n_with);
        write_file(path_in(dir, "defect.h5"), f.data, f.n);
        open_fails(path_in(dir, "defect.h5"), d->code, d->reason);
        free(f.data);
    }
}

/* ---- the contained process */

static void crash(struct lmi_h5_out *o, void *arg)
{
    (void)o;
    *(volatile int *)arg = 1;
}
static void spin(struct lmi_h5_out *o, void *arg)
{
    (void)o;
    for (volatile int *x = arg; *x == 0;)
        ;
}
static void open_a_file(struct lmi_h5_out *o, void *arg)
{
    int fd = open("/etc/passwd", O_RDONLY);

    (void)arg;
    if (fd >= 0)
        lmi_h5_fail(o, LM_USAGE, "a file could be opened");
}
static void run_a_program(struct lmi_h5_out *o, void *arg)
{
    (void)arg;
    execl("/bin/true", "true", (char *)NULL);
    if (fork() >= 0)
        lmi_h5_fail(o, LM_USAGE, "a process could be started");
}
static void say_much(struct lmi_h5_out *o, void *arg)
{
    static char text[1000];

    (void)arg;
    for (int i = 0; i < 1000000 && !o->full; i++) {
        lmi_h5_begin(o, LMI_H5_NOTE);
        lmi_h5_put_span(o, text, sizeof text);
        lmi_h5_send(o);
    }
}
static void take_memory(struct lmi_h5_out *o, void *arg)
{
    (void)arg;
    for (int i = 0; i < 1000; i++) {
        char *p = malloc(1 << 20);
        if (!p) {
            lmi_h5_fail(o, LM_NOMEM, "no more");
            return;
        }
        memset(p, 1, 1 << 20);
    }
}

static int run_box(void (*work)(struct lmi_h5_out *, void *), void *arg, struct lmi_buffer *b, struct lm_err *e)
{
    struct lmi_h5_limits limits = {.memory = 64 << 20, .ms = 1000, .report = 1 << 20};

    *b = (struct lmi_buffer){0};
    return lmi_h5_box(b, work, arg, &limits, e);
}

static void its_end_is_an_error_of_ours(void **state)
{
    (void)state;
    struct lm_err e = {0};
    struct lmi_buffer b;
    int zero = 0;

    assert_int_equal(run_box(crash, NULL, &b, &e), -1);
    assert_true(strstr(e.text, "crashed on it") || strstr(e.text, "without an answer")); /* a sanitizer ends differently */
    free(b.data);
    assert_int_equal(run_box(spin, &zero, &b, &e), -1);
    assert_int_equal(e.code, LM_LIMIT);
    free(b.data);
}

static void it_can_do_nothing_else(void **state)
{
    (void)state;
    struct lm_err e = {0};
    struct lmi_buffer b;

    assert_int_equal(run_box(open_a_file, NULL, &b, &e), 0);
    assert_int_equal(b.n, 5); /* the end, no complaint */
    free(b.data);
    assert_int_equal(run_box(run_a_program, NULL, &b, &e), 0);
    assert_int_equal(b.n, 5);
    free(b.data);
    assert_int_equal(run_box(say_much, NULL, &b, &e), 0);
    assert_true(b.n < (1 << 20) + 4096);
    assert_non_null(memmem(b.data, b.n, "more than can be real", 21));
    free(b.data);
    assert_int_equal(run_box(take_memory, NULL, &b, &e), 0);
#if !defined __SANITIZE_ADDRESS__
    assert_non_null(memmem(b.data, b.n, "no more", 7));
#endif
    free(b.data);
}

/* What it reports is not believed. */
static void answers_are_checked(void **state)
{
    (void)state;
    static const struct { const char *bytes; size_t n; } answers[] = {
        {BYTES("")}, {BYTES("Z")}, {BYTES("Z\1\0\0\0x")}, {BYTES("X\0\0\0\0Z\0\0\0\0")}, {BYTES("D\0\0\0\0Z\0\0\0\0")},
        {BYTES("D\xff\xff\xff\xff")}, {BYTES("D\x08\0\0\0\xff\xff\xff\x7f\0\0\0\0Z\0\0\0\0")}, {BYTES("A\4\0\0\0\0\0\0\0Z\0\0\0\0")},
        {BYTES("A\x09\0\0\0\0\0\0\0\0\0\0\0\x0eZ\0\0\0\0")},
        {BYTES("A\x12\0\0\0\0\0\0\0\0\0\0\0\x09\x04\xff\xff\xff\xff\xff\xff\xff\x7fZ\0\0\0\0")},
        {BYTES("N\x05\0\0\0\0\0\0\0\0Z\0\0\0\0")},
    };
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        struct lmi_h5 h = {0};
        struct lm_err e = {0};
        lmi_put(&h.report, answers[i].bytes, answers[i].n);
        if (lmi_h5_parse(&h, &e) == 0)
            fail_msg("answer %zu is believed", i);
        assert_non_null(strstr(e.text, "makes no sense"));
        lmi_h5_free(&h);
    }
}

/* ---- writing */

static const enum lm_dtype kinds[] = {LM_F64, LM_F32, LM_F16, LM_BF16, LM_I64, LM_I32, LM_I16, LM_I8, LM_U64, LM_U32,
                                      LM_U16, LM_U8, LM_BOOL, LM_C64, LM_F8_E4M3, LM_F8_E5M2, LM_F8_E8M0};
enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

static void every_type_comes_back(void **state)
{
    (void)state;
    struct lm_write_tensor t[N_KINDS + 3];
    const void *data[N_KINDS + 3];
    size_t sizes[N_KINDS + 3], n = 0;
    char names[N_KINDS + 3][64];
    static uint8_t bytes[4096];
    struct lm_layout l;
    struct lm_err e = {0};

    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i % 2);
    for (; n < N_KINDS; n++) {
        snprintf(names[n], sizeof names[n], "group/%s", lm_dtype_name(kinds[n]));
        t[n] = (struct lm_write_tensor){names[n], kinds[n], 2, {3, 5}};
        sizes[n] = lm_dtype_bytes(kinds[n], 15);
    }
    t[n] = (struct lm_write_tensor){"scalar", LM_F32, 0, {0}}, sizes[n++] = 4;
    t[n] = (struct lm_write_tensor){"empty", LM_F32, 2, {0, 4}}, sizes[n++] = 0;
    t[n] = (struct lm_write_tensor){"żółw/ .x", LM_F32, 1, {1}}, sizes[n++] = 4;
    for (size_t i = 0; i < n; i++)
        data[i] = bytes + i;
    struct lm_write_spec spec = {.tensors = t, .n_tensors = n};
    assert_int_equal(lm_format_find("h5")->layout(&l, &spec, "types.h5", &e), 0);
    write_layout(&l, dir, &spec, data, sizes);
    lm_layout_free(&l);
    struct lm_model *m = open_ok(path_in(dir, "types.h5"));
    assert_int_equal(lm_model_n_tensors(m), n);
    for (size_t i = 0; i < n; i++) {
        const struct lm_tensor *got = lm_model_find(m, t[i].name);
        if (!got || got->dtype != t[i].dtype || got->n_dims != t[i].n_dims || got->n_bytes != sizes[i] ||
            memcmp(got->data, data[i], sizes[i]) != 0)
            fail_msg("tensor %s came back otherwise", t[i].name);
    }
    lm_model_close(m);
}

static void impossible_names_are_refused(void **state)
{
    (void)state;
    static const char *const names[] = {"/a", "a/", "a//b", ".", "a/./b", "libmodel.meta"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct lm_write_tensor t = {names[i], LM_F32, 1, {1}};
        struct lm_write_spec spec = {.tensors = &t, .n_tensors = 1};
        struct lm_layout l;
        struct lm_err e = {0};
        assert_int_equal(lm_format_find("h5")->layout(&l, &spec, "x.h5", &e), -1);
        assert_non_null(strstr(e.text, names[i]));
    }
    struct lm_write_tensor both[] = {{"a", LM_F32, 1, {1}}, {"a/b", LM_F32, 1, {1}}};
    struct lm_write_spec spec = {.tensors = both, .n_tensors = 2};
    struct lm_layout l;
    struct lm_err e = {0};
    assert_int_equal(lm_format_find("h5")->layout(&l, &spec, "x.h5", &e), -1);
    struct lm_write_tensor quantized = {"a", LM_Q8_0, 1, {32}};
    spec = (struct lm_write_spec){.tensors = &quantized, .n_tensors = 1};
    assert_int_equal(lm_format_find("h5")->layout(&l, &spec, "x.h5", &e), -1);
    assert_non_null(strstr(e.text, "cannot store Q8_0"));
}

static void convert(const char *src, const char *to, const char *dst, uint64_t split)
{
    struct lm_request req = {.to = lm_format_find(to), .dtype = -1, .max_file_bytes = split};
    struct lm_run_options o = {.n_threads = 1};
    struct lm_plan *p;
    struct lm_err e = {0};
    struct lm_model *m = open_ok(src);

    if (lm_plan_make(&p, m, &req, &e) < 0 || lm_plan_run(p, dst, &o, &e) < 0)
        fail_msg("%s to %s as %s: %s", src, dst, to, e.text);
    lm_plan_free(p);
    lm_model_close(m);
}

static void assert_same_file(const char *a, const char *b)
{
    struct file x = load(a), y = load(b);

    if (x.n != y.n || memcmp(x.data, y.data, x.n) != 0)
        fail_msg("%s and %s differ", a, b);
    free(x.data);
    free(y.data);
}

/* The sample through all containers, and its files byte for byte at the end. */
static void the_sample_goes_round(void **state)
{
    (void)state;
    static const char *const files[] = {"model.safetensors", "config.json", "generation_config.json", "tokenizer.model",
                                        "tokenizer_config.json"};
    char h5[100], npz[100], gguf[100], back[100], split[100];

    snprintf(h5, sizeof h5, "%s/m.h5", dir), snprintf(npz, sizeof npz, "%s/m.npz", dir);
    snprintf(gguf, sizeof gguf, "%s/m.gguf", dir), snprintf(back, sizeof back, "%s/back", dir);
    snprintf(split, sizeof split, "%s/split/", dir);
    convert("samples/polish-5m", "h5", h5, 0);
    convert(h5, "npz", npz, 0);
    convert(npz, "gguf", gguf, 0);
    convert(gguf, "safetensors", back, 0);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char a[200], b[200];
        snprintf(a, sizeof a, "%s/%s", back, files[i]);
        snprintf(b, sizeof b, "samples/polish-5m/%s", files[i]);
        assert_same_file(a, b);
    }
    convert(h5, "h5", split, 3000000);
    assert_int_equal(assert_same_tensors(split, "samples/polish-5m/model.safetensors"), 39);
    struct lm_model *m = open_ok(split);
    assert_int_equal(lm_model_n_files(m), 4);
    lm_model_close(m);
}

/* Smaller, and the same tensors and small files. */
static void compressed_files_hold_the_same(void **state)
{
    (void)state;
    static const char *const targets[] = {"h5", "keras"};
    struct stat plain, packed;

    for (int i = 0; i < 2; i++) {
        char to[2][100], file[2][200], back[100];
        for (int k = 0; k < 2; k++) {
            struct lm_request req = {.to = lm_format_find(targets[i]), .dtype = -1, .compress = k == 1};
            struct lm_run_options o = {.n_threads = 1};
            struct lm_plan *p;
            struct lm_err e = {0};
            struct lm_model *m = open_ok("samples/polish-5m");
            snprintf(to[k], sizeof to[k], "%s/packed-%d-%d/", dir, i, k);
            snprintf(file[k], sizeof file[k], "%.99s%s", to[k], i ? "model.weights.h5" : "model.h5");
            if (lm_plan_make(&p, m, &req, &e) < 0 || lm_plan_run(p, to[k], &o, &e) < 0)
                fail_msg("%s", e.text);
            lm_plan_free(p);
            lm_model_close(m);
        }
        assert_int_equal(stat(file[0], &plain) + stat(file[1], &packed), 0);
        assert_true(packed.st_size < plain.st_size * 4 / 5);
        assert_int_equal(assert_same_tensors(file[1], "samples/polish-5m/model.safetensors"), 39);
        char a[200];
        snprintf(back, sizeof back, "%s/unpacked-%d", dir, i);
        convert(file[1], "safetensors", back, 0);
        snprintf(a, sizeof a, "%.99s/%s", back, i ? "tokenizer.model" : "config.json");
        assert_same_file(a, i ? "samples/polish-5m/tokenizer.model" : "samples/polish-5m/config.json");
    }
    struct lm_request req = {.to = lm_format_find("npz"), .dtype = -1, .compress = true};
    struct lm_model *m = open_ok("samples/polish-5m");
    struct lm_plan *p;
    struct lm_err e = {0};
    assert_int_equal(lm_plan_make(&p, m, &req, &e), -1);
    assert_non_null(strstr(e.text, "HDF5 is"));
    lm_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layout_is_read), cmocka_unit_test(attributes_are_metadata),
        cmocka_unit_test(what_is_no_tensor_is_named), cmocka_unit_test(what_leads_outside_is_refused),
        cmocka_unit_test(every_prefix_is_refused), cmocka_unit_test(bits_flip),
        cmocka_unit_test(single_defects_have_reasons), cmocka_unit_test(its_end_is_an_error_of_ours),
        cmocka_unit_test(it_can_do_nothing_else), cmocka_unit_test(answers_are_checked),
        cmocka_unit_test(every_type_comes_back), cmocka_unit_test(impossible_names_are_refused),
        cmocka_unit_test(the_sample_goes_round), cmocka_unit_test(compressed_files_hold_the_same),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
