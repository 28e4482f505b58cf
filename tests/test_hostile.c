/* Files with one defect each, made here: every length, count and offset of every
 * container with boundary values, each refused for a reason that names the
 * defect; every prefix; every flipped bit; none takes long.
 *
 * LM_TEST_LONG=1 tries everything everywhere (a minute); without it large files
 * are sampled.  LM_TEST_SHOW=1 prints what each file was told. */
#include "tests/hostile.h"
#include "tests/survive.h"

#define FIXTURES "tests/fixtures/containers/"

/* ---- fields */

static uint64_t get(const uint8_t *p, const struct field *f)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < f->width; i++)
        v |= (uint64_t)p[i] << 8 * (f->big_endian ? f->width - 1 - i : i);
    return v;
}
static void set(uint8_t *p, const struct field *f, uint64_t v)
{
    for (unsigned i = 0; i < f->width; i++)
        p[i] = (uint8_t)(v >> 8 * (f->big_endian ? f->width - 1 - i : i));
}

static void every_field_with_boundary_values(void **state)
{
    (void)state;
    size_t n_refused = 0, n_opened = 0, n_wrong = 0;
    bool show = getenv("LM_TEST_SHOW") != NULL;

    for (size_t i = 0; i < N_CONTROLS; i++) {
        struct control c = {.n_fields = 0};
        char text[1200];
        controls[i].build(&c);
        if (!bytes_open(&c.b, text))
            fail_msg("%s should open: %s", controls[i].name, text);
        for (size_t k = 0; k < c.n_fields; k++) {
            const struct field *f = &c.fields[k];
            uint64_t values[32], real = get(c.b.data + f->at, f);
            size_t n = values_of(values, real, c.b.n, f->width);
            for (size_t v = 0; v < n; v++) {
                set(c.b.data + f->at, f, values[v]);
                bool ok = bytes_open(&c.b, text);
                if (show)
                    printf("%s\t%s\t%llu\t%s\n", controls[i].name, f->name, (unsigned long long)values[v], ok ? "opens" : text);
                else if (!is_said(text, f->reasons) && ++n_wrong)
                    print_error("%s: %s = %llu: %s\n", controls[i].name, f->name, (unsigned long long)values[v],
                                ok ? "it opens" : text);
                n_refused += !ok;
                n_opened += ok;
            }
            set(c.b.data + f->at, f, real);
        }
        bytes_free(&c.b);
    }
    print_message("%zu files with one wrong number refused for their reason, %zu open\n", n_refused, n_opened);
    assert_int_equal(n_wrong, 0);
    assert_true(n_refused > 1500);
}


/* ---- every prefix, every bit */

static void slurp(struct bytes *b, const char *path)
{
    struct stat s;
    int fd = open(path, O_RDONLY);

    assert_true(fd >= 0 && fstat(fd, &s) == 0);
    put_zeros(b, (size_t)s.st_size);
    assert_int_equal(read(fd, b->data, b->n), s.st_size);
    close(fd);
}

/* Files of other tests, too: of PyTorch, and those that numpy wrote. */
static const char *const files[] = {
    FIXTURES "small.pt", FIXTURES "small-deflated.pt", FIXTURES "small-legacy.pt", FIXTURES "big.pt", FIXTURES "wide.pt",
    FIXTURES "quantized.pt", FIXTURES "checkpoint.pt", FIXTURES "script.pt", FIXTURES "legacy.pt", FIXTURES "deflated.pt",
    FIXTURES "small-legacy-4.pt", FIXTURES "streaming.pt", FIXTURES "stored.npz", FIXTURES "deflated.npz", FIXTURES "plain.npy", FIXTURES "fortran.npy",
};
enum { N_FILES = sizeof files / sizeof files[0] };

static void load(struct bytes *b, size_t i, const char **name)
{
    struct control c = {.n_fields = 0};

    *name = i < N_CONTROLS ? controls[i].name : files[i - N_CONTROLS];
    if (i < N_CONTROLS) {
        controls[i].build(&c);
        *b = c.b;
    } else {
        slurp(b, *name);
    }
}

/* A file that ends early is refused. Two exceptions, by nature: llama2.c 0 says
 * nothing about its end but by its size, and what a format allows to be missing. */
static void every_prefix_is_refused(void **state)
{
    (void)state;
    size_t n_prefixes = 0;

    for (size_t i = 0; i < N_CONTROLS + N_FILES; i++) {
        struct bytes b = {0};
        const char *name;
        load(&b, i, &name);
        size_t whole = b.n, step = is_long() || whole < 1024 ? 1 : whole / 600;
        for (b.n = 0; b.n < whole; b.n += step, n_prefixes++)
            if (bytes_open(&b, NULL))
                fail_msg("%s: the first %zu of %zu bytes open", name, b.n, whole);
        bytes_free(&b);
    }
    print_message("%zu prefixes refused\n", n_prefixes);
}

static void every_flipped_bit_is_survived(void **state)
{
    (void)state;
    size_t n_flips = 0, n_refused = 0;

    for (size_t i = 0; i < N_CONTROLS + N_FILES; i++) {
        struct bytes b = {0};
        const char *name;
        load(&b, i, &name);
        size_t step = is_long() || b.n < 256 ? 1 : b.n * 8 / 1601 | 1;
        for (size_t bit = 0; bit < 8 * b.n; bit += step, n_flips++) {
            b.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
            n_refused += !bytes_open(&b, NULL);
            b.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        bytes_free(&b);
    }
    print_message("%zu flipped bits, %zu refused\n", n_flips, n_refused);
    assert_true(n_refused > n_flips / 4);
}

/* Of what lies in several files: the text that names the others. */
static const struct { const char *folder, *text; const char *const others[4]; } sets[] = {
    {"tests/fixtures/models/tiny-llama-sharded", "model.safetensors.index.json",
     {"model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors", "model-00003-of-00004.safetensors",
      "model-00004-of-00004.safetensors"}},
    {FIXTURES "sharded-bin", "pytorch_model.bin.index.json",
     {"pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"}},
    {FIXTURES "meta-2", "params.json", {"consolidated.00.pth", "consolidated.01.pth"}},
    {FIXTURES "mistral-native", "params.json", {"consolidated.safetensors"}},
};

static void damaged_indexes_are_survived(void **state)
{
    (void)state;
    char folder[128], from[200];
    size_t n_refused = 0;

    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        struct bytes b = {0};
        snprintf(folder, sizeof folder, "%s/set%zu", dir, i);
        mkdir(folder, 0777);
        for (size_t k = 0; k < 4 && sets[i].others[k]; k++) {
            struct bytes other = {0};
            snprintf(from, sizeof from, "%s/%s", sets[i].folder, sets[i].others[k]);
            slurp(&other, from);
            write_file(path_in(folder, sets[i].others[k]), other.data, other.n);
            bytes_free(&other);
        }
        snprintf(from, sizeof from, "%s/%s", sets[i].folder, sets[i].text);
        slurp(&b, from);
        const char *path = path_in(folder, sets[i].text);
        write_file(path, b.data, b.n);
        char text[1200];
        if (!opens(path, text))
            fail_msg("%s", text);
        int fd = open(path, O_WRONLY);
        size_t step = is_long() ? 1 : b.n / 150 + 1;
        for (size_t n = 0; n + 2 < b.n; n += step) { /* a closing brace and a newline may be all that is missing */
            assert_int_equal(ftruncate(fd, 0), 0);
            assert_int_equal(pwrite(fd, b.data, n, 0), n);
            if (opens(path, NULL))
                fail_msg("%s: the first %zu bytes open", from, n);
        }
        for (size_t bit = 0; bit < 8 * b.n; bit += is_long() ? 1 : b.n / 60 | 1) {
            b.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
            assert_int_equal(pwrite(fd, b.data, b.n, 0), b.n);
            n_refused += !opens(path, NULL);
            b.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        close(fd);
        bytes_free(&b);
    }
    assert_true(n_refused > 500);
}

/* ---- numbers in texts */

static const char *const numbers[] = {
    "-1", "1.0", "1e3", "0x10", "00", "+1", "\"4\"", "true", "null", "[]", "{}", "", "9223372036854775807",
    "9223372036854775808", "18446744073709551615", "18446744073709551616", "4294967296", "99999999999999999999999999",
};

static void replace(struct bytes *out, const char *text, const char *with)
{
    const char *at = strchr(text, '@');

    put(out, text, (size_t)(at - text));
    put_text(out, with);
    put_text(out, at + 1);
}

/* @ is the number; sound: what it should be. */
static const struct { const char *text, *sound; } headers[] = {
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[@,2],\"data_offsets\":[0,16]}}", "2"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[@,16]}}", "0"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,@]}}", "16"},
    {"{\"a\":{\"dtype\":@,\"shape\":[2,2],\"data_offsets\":[0,16]}}", "\"F32\""},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":@,\"data_offsets\":[0,16]}}", "[2,2]"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":@}}", "[0,16]"},
    {"{\"a\":@}", "{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}"},
}, dicts[] = {
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (@, 2)}", "2"},
    {"{'descr': '<f4', 'fortran_order': @, 'shape': (2, 2)}", "False"},
    {"{'descr': @, 'fortran_order': False, 'shape': (2, 2)}", "'<f4'"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': @}", "(2, 2)"},
};

static void frame(struct bytes *b, const struct bytes *text, bool npy)
{
    if (npy) {
        put(b, "\x93NUMPY\1\0", 8);
        put_u16(b, (uint16_t)text->n);
    } else {
        put_u64(b, text->n);
    }
    put(b, text->data, text->n);
    put_zeros(b, 16);
}

static void numbers_in_texts_are_checked(void **state)
{
    (void)state;
    size_t n = 0;

    for (int npy = 0; npy < 2; npy++)
        for (size_t i = 0; i < (npy ? 4 : 7); i++) {
            const char *text = npy ? dicts[i].text : headers[i].text, *sound = npy ? dicts[i].sound : headers[i].sound;
            for (size_t k = 0; k <= sizeof numbers / sizeof numbers[0]; k++) {
                struct bytes one = {0}, b = {0};
                char said[1200];
                const char *with = k ? numbers[k - 1] : sound;
                replace(&one, text, with);
                frame(&b, &one, npy);
                bool ok = bytes_open(&b, said);
                if (ok != (k == 0))
                    fail_msg("%s with %s: %s", text, with, ok ? "it opens" : said);
                if (k && !strstr(said, npy ? "header" : "header: ") && !strstr(said, "tensor '") &&
                    !strstr(said, "the array ") && !strstr(said, "the array's type"))
                    fail_msg("%s with %s: '%s' does not say where", text, with, said);
                n += k > 0;
                bytes_free(&one);
                bytes_free(&b);
            }
        }
    print_message("%zu texts with one wrong value refused\n", n);
    print_message("%zu files tried, the slowest took %.3f s\n", n_tried, slowest);
#if !defined __SANITIZE_ADDRESS__
    assert_true(slowest < 2);
#endif
}

int main(void)
{
    /* Temporary files by the ten thousand: not on a disk, where there is another place. */
    if (access("/dev/shm", W_OK) == 0)
        setenv("TMPDIR", "/dev/shm", 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field_with_boundary_values), cmocka_unit_test(every_prefix_is_refused),
        cmocka_unit_test(every_flipped_bit_is_survived),    cmocka_unit_test(damaged_indexes_are_survived),
        cmocka_unit_test(numbers_in_texts_are_checked),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
