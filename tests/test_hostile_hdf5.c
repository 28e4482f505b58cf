/* HDF5 files with one defect each, made here: every version, length, count and
 * address set to boundary values with its checksum made right again, each refused
 * for a reason that says where; every prefix; every flipped bit, with and without
 * the checksum made right. libhdf5 may break its process, never ours.
 *
 * LM_TEST_LONG=1 tries everything, on the fixtures too (half an hour); without it
 * most is sampled.  LM_TEST_SHOW=1 prints what each file was told. */
#include "tests/h5_controls.h"
#include "tests/h5_map.h"
#include "tests/survive.h"

#define FIXTURES "tests/fixtures/hdf5/"

static size_t n_crashed, n_stopped;

/* Opens or is refused with a sentence. */
static bool try(const struct bytes *b, char text[1200])
{
    bool ok = bytes_open(b, text);

    n_crashed += strstr(text, "libhdf5 crashed on it") != NULL;
    n_stopped += strstr(text, "libhdf5 was still computing") != NULL;
    return ok;
}

static bool as_it_should(const struct h5_control *c, const char *text)
{
    return c->refused ? strstr(text, c->refused) != NULL : !text[0];
}

static void sound_files_are_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_H5_CONTROLS; i++) {
        struct bytes b = {0}, again = {0};
        char text[1200];
        h5_build(&b, &h5_controls[i]);
        h5_build(&again, &h5_controls[i]);
        if (b.n != again.n || memcmp(b.data, again.data, b.n) != 0)
            fail_msg("%s is not the same twice", h5_controls[i].name);
        try(&b, text);
        if (!as_it_should(&h5_controls[i], text))
            fail_msg("%s: %s", h5_controls[i].name, text[0] ? text : "it opens");
        bytes_free(&b);
        bytes_free(&again);
    }
}

/* ---- fields */

static void set(uint8_t *p, unsigned width, uint64_t v)
{
    for (unsigned i = 0; i < width; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

/* Where a wrong number is noticed: the first row whose name begins the field's.
 * What libhdf5 breaks on is its own affair, in its own process. */
#define CONTAINED "libhdf5 crashed on it|libhdf5 was still computing|"
#define OPEN CONTAINED "libhdf5 cannot open it|"
#define OBJECT OPEN "the object cannot be opened|"
#define GROUP OBJECT "the group cannot be listed|"
#define ATTRS "attributes cannot be read|cannot be read (libhdf5|"
#define DATA "cannot be read: |would have to be decoded|takes |overflows|"
#define NAMES "weight '|which is not opened|"
static const struct { const char *field, *reasons; } places[] = {
    {"superblock: end", "?" GROUP ATTRS DATA "are missing at its end"},
    {"superblock: base", "?" GROUP ATTRS DATA NAMES},
    {"superblock: offset width", OPEN},
    {"superblock: free", OPEN},
    {"superblock: shared version", OPEN},
    {"superblock: root version", OPEN},
    {"superblock: root name", "?"},
    {"superblock: root", OPEN},
    {"superblock: extension", OPEN},
    {"superblock", "?" GROUP ATTRS},
    {"object header: version", OBJECT},
    {"object header", "?" GROUP ATTRS NAMES},
    {"continuation: address", GROUP ATTRS NAMES},
    {"continuation", "?" GROUP ATTRS NAMES},
    {"message", "?" GROUP ATTRS DATA NAMES "its layout cannot|external storage|virtual|compressed by filter"},
    {"attribute: name length", ATTRS CONTAINED NAMES},
    {"attribute info: heap", "?" GROUP ATTRS},
    {"attribute", "?" ATTRS CONTAINED NAMES "its name|the weights'"},
    {"symbol table", GROUP},
    {"link info: version", GROUP},
    {"link info: heap", "?" GROUP}, /* none: a group without links */
    {"link info", "?" GROUP},
    {"link: version", GROUP},
    {"link", "?" GROUP NAMES DATA "of an unknown kind|external storage|its name|listed under"},
    {"symbol node: version", GROUP},
    {"symbol", "?" GROUP NAMES DATA},
    {"group tree: child", GROUP},
    {"group tree", "?" GROUP DATA NAMES},
    {"group info", "?" GROUP},
    {"name heap: version", GROUP},
    {"name heap: address", GROUP NAMES},
    {"name heap", "?" GROUP NAMES},
    {"value heap", "?" CONTAINED ATTRS DATA GROUP NAMES},
    {"dataspace: version", "?" OBJECT ATTRS},
    {"dataspace", "?" OBJECT ATTRS DATA NAMES "its shape cannot be read|dimensions, at most"},
    {"datatype", "?" OBJECT ATTRS DATA NAMES},
    {"integer", "?" OBJECT ATTRS DATA NAMES},
    {"float", "?" OBJECT ATTRS DATA NAMES},
    {"member", "?" OBJECT DATA},
    {"fill value", "?" OBJECT DATA NAMES},
    {"layout: class", OBJECT DATA "virtual"},
    {"layout", "?" OBJECT DATA NAMES "a virtual dataset"},
    {"filters: version", OBJECT DATA},
    {"filters", "?" OBJECT DATA "compressed by filter|its filters"},
    {"chunk tree", "?" CONTAINED DATA},
    {"external files", "?" OBJECT NAMES "external storage"},
    {"heap", "?" GROUP ATTRS "incorrect"},
    {"tree 2", "?" GROUP ATTRS DATA},
    {"fixed array", "?" CONTAINED DATA},
    {"growing array", "?" CONTAINED DATA},
};

static const char *reasons_of(const char *field)
{
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
        if (strncmp(field, places[i].field, strlen(places[i].field)) == 0)
            return places[i].reasons;
    fail_msg("no reasons for %s", field);
    return "";
}

/* One number wrong; the file is as it was afterwards. */
static void try_field(const struct h5_control *c, struct bytes *b, const struct h5_field *f, uint64_t v, size_t n[3])
{
    uint8_t old[8], sum[4];
    char text[1200];
    const char *reasons = reasons_of(f->name);
    size_t sum_at = f->block->sum;

    memcpy(old, b->data + f->at, f->width);
    memcpy(sum, b->data + sum_at, 4);
    set(b->data + f->at, f->width, v);
    h5_repair(b->data, f->block);
    bool ok = try(b, text);
    if (getenv("LM_TEST_SHOW"))
        printf("%s\t%s\t%llu\t%s\n", c->name, f->name, (unsigned long long)v, ok ? "opens" : text);
    else if (!is_said(text, reasons) && !(c->refused && strstr(text, c->refused)) && ++n[2])
        print_error("%s: %s at %zu = %llu: %s\n", c->name, f->name, f->at, (unsigned long long)v, ok ? "it opens" : text);
    n[ok]++;
    memcpy(b->data + f->at, old, f->width);
    if (sum_at)
        memcpy(b->data + sum_at, sum, 4);
}

static void every_field_with_boundary_values(void **state)
{
    (void)state;
    static struct h5_map m;
    size_t n[3] = {0}, turn = 0, n_fields = 0;

    for (size_t i = 0; i < N_H5_CONTROLS; i++) {
        struct bytes b = {0};
        h5_build(&b, &h5_controls[i]);
        h5_map_file(&m, &b);
        n_fields += m.n_fields;
        for (size_t k = 0; k < m.n_fields; k++) {
            const struct h5_field *f = &m.fields[k];
            uint64_t values[32];
            size_t n_values = values_of(values, h5_get(&m, f->at, f->width), b.n, f->width);
            for (size_t v = 0; v < n_values; v++)
                if (is_long() || turn++ % 67 == 0)
                    try_field(&h5_controls[i], &b, f, values[v], n);
        }
        bytes_free(&b);
    }
    print_message("%zu fields; %zu files with one wrong number refused for their reason, %zu open\n", n_fields, n[0], n[1]);
    assert_int_equal(n[2], 0);
}

/* ---- every prefix, every bit */

/* Files that h5py and Keras wrote, too. */
static const char *const files[] = {
    FIXTURES "others.h5", FIXTURES "keras2-weights.h5", FIXTURES "keras3.weights.h5", FIXTURES "external-link.h5",
    FIXTURES "external-storage.h5", FIXTURES "virtual.h5", FIXTURES "lzf.h5", FIXTURES "scaleoffset.h5",
};
enum { N_FILES = sizeof files / sizeof files[0] };

static const char *load(struct bytes *b, size_t i)
{
    struct stat s;

    if (i < N_H5_CONTROLS) {
        h5_build(b, &h5_controls[i]);
        return h5_controls[i].name;
    }
    const char *path = files[i - N_H5_CONTROLS];
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0 && fstat(fd, &s) == 0);
    put_zeros(b, (size_t)s.st_size);
    assert_int_equal(read(fd, b->data, b->n), s.st_size);
    close(fd);
    return path;
}

static void every_prefix_is_refused(void **state)
{
    (void)state;
    size_t n_prefixes = 0;

    for (size_t i = 0; i < N_H5_CONTROLS + N_FILES; i++) {
        struct bytes b = {0};
        char text[1200];
        const char *name = load(&b, i);
        size_t whole = b.n;
        for (b.n = 0; b.n < whole; b.n += is_long() || b.n < 100 || whole - b.n < 10 ? 1 : 29, n_prefixes++)
            if (try(&b, text) || (b.n >= 96 && !strstr(text, "are missing at its end")))
                fail_msg("%s: the first %zu of %zu bytes: %s", name, b.n, whole, text[0] ? text : "they open");
        bytes_free(&b);
    }
    print_message("%zu prefixes refused\n", n_prefixes);
}

/* Prefixes whose superblock says that this is all: everything behind is missing
 * without being said so. */
static void short_files_with_the_right_end(void **state)
{
    (void)state;
    static struct h5_map m;
    size_t n_refused = 0, n_opened = 0;

    for (size_t i = 0; i < N_H5_CONTROLS; i++) {
        struct bytes b = {0};
        char text[1200];
        h5_build(&b, &h5_controls[i]);
        h5_map_file(&m, &b);
        size_t whole = b.n, end = m.blocks[0].sum ? 28 : 40;
        for (b.n = m.blocks[0].n; b.n < whole; b.n += is_long() ? 1 : 97) {
            lm_store_u64le(b.data + end, b.n);
            h5_repair(b.data, &m.blocks[0]);
            bool ok = try(&b, text);
            n_opened += ok, n_refused += !ok;
        }
        bytes_free(&b);
    }
    print_message("%zu cut files with the right end refused, %zu open\n", n_refused, n_opened);
    assert_true(n_refused > 20 * n_opened);
}

/* The block with a checksum that covers a byte, or NULL. */
static const struct h5_block *covering(const struct h5_map *m, size_t at)
{
    for (size_t i = 0; i < m->n_blocks; i++) {
        const struct h5_block *k = &m->blocks[i];
        if (k->sum && at >= k->at && at < k->at + k->n && (at < k->sum || at >= k->sum + 4))
            return k;
    }
    return NULL;
}

static void flip(struct bytes *b, size_t bit, const struct h5_block *k, size_t n[2])
{
    uint8_t sum[4];
    char text[1200];

    if (k)
        memcpy(sum, b->data + k->sum, 4);
    b->data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    h5_repair(b->data, k);
    n[try(b, text)]++;
    b->data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    if (k)
        memcpy(b->data + k->sum, sum, 4);
}

static void every_flipped_bit_is_survived(void **state)
{
    (void)state;
    static struct h5_map m;
    size_t n[2] = {0}, repaired[2] = {0};

    for (size_t i = 0; i < N_H5_CONTROLS + N_FILES; i++) {
        struct bytes b = {0};
        load(&b, i);
        m.n_blocks = 0;
        if (i < N_H5_CONTROLS)
            h5_map_file(&m, &b);
        for (size_t bit = i; bit < 8 * b.n; bit += is_long() ? 1 : 1999) {
            const struct h5_block *k = covering(&m, bit / 8);
            flip(&b, bit, NULL, n);
            if (k)
                flip(&b, bit, k, repaired);
        }
        bytes_free(&b);
    }
    print_message("%zu flipped bits refused, %zu open; with the checksum right again %zu and %zu\n", n[0], n[1], repaired[0],
                  repaired[1]);
    assert_true(n[0] > 50 && repaired[0] > 20);
}

static void none_costs_much(void **state)
{
    (void)state;
    struct rusage r;

    getrusage(RUSAGE_CHILDREN, &r);
    print_message("%zu files tried: libhdf5 crashed in its process on %zu and was stopped there on %zu; the slowest took %.3f s, "
                  "the largest process %.1f MB\n", n_tried, n_crashed, n_stopped, slowest, (double)r.ru_maxrss / 1024);
#if !defined __SANITIZE_ADDRESS__
    assert_true(slowest < 2);
    assert_true(r.ru_maxrss < 64 << 10);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sound_files_are_read),
        cmocka_unit_test(every_field_with_boundary_values),
        cmocka_unit_test(every_prefix_is_refused),
        cmocka_unit_test(short_files_with_the_right_end),
        cmocka_unit_test(every_flipped_bit_is_survived),
        cmocka_unit_test(none_costs_much),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
