/* What hostile files cost: little ones that ask for much, and large ones made of
 * nothing.  At most 64 MB and four times the file, at most two seconds.
 *
 * LM_TEST_LONG=1 makes them of 16 MB instead of 2; LM_TEST_SHOW=1 prints figures. */
#include "tests/hostile.h"

#include <sys/resource.h>
#include <sys/wait.h>

static void many_meta_strings(struct bytes *b, size_t n)
{
    put_gguf(b, 0, 1);
    put_key(b, "a", LM_META_ARRAY);
    put_u32(b, LM_META_STR);
    put_u64(b, n / 8 - 8);
    put_zeros(b, n - b->n);
}
static void many_gguf_tensors(struct bytes *b, size_t n)
{
    size_t count = n / 45;
    put_gguf(b, count, 0);
    for (size_t i = 0; i < count; i++) {
        char name[32];
        snprintf(name, sizeof name, "t%zu", i);
        put_gguf_tensor(b, name, 1, 0, 0, 0, 0);
    }
    pad_to(b, 32);
}
static void many_st_tensors(struct bytes *b, size_t n)
{
    struct bytes h = {0};
    put_text(&h, "{");
    for (size_t i = 0; h.n < n; i++) {
        char one[100];
        snprintf(one, sizeof one, "%s\"%zu\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}", i ? "," : "", i);
        put_text(&h, one);
    }
    put_text(&h, "}");
    put_u64(b, h.n);
    put(b, h.data, h.n);
    bytes_free(&h);
}
static void deep_json(struct bytes *b, size_t n)
{
    put_u64(b, n);
    put_text(b, "{\"__metadata__\":");
    for (size_t i = 0; i < n - 15; i++)
        put_u8(b, '[');
}
static void long_key(struct bytes *b, size_t n)
{
    put_u64(b, n);
    put_text(b, "{\"");
    while (b->n < n - 10)
        put_text(b, "\\u0001");
    put_text(b, "\":1}");
    put_zeros(b, n - b->n + 8);
}
/* A pickle alone in a zip, as torch.save writes it. */
static void torch_zip(struct bytes *b, struct bytes *pickle)
{
    struct member m[2] = {{.name = "archive/data.pkl", .data = *pickle}, {.name = "archive/version"}};
    put_text(&m[1].data, "3\n");
    put_zip(b, m, 2, NULL);
    members_free(m, 2);
}
static void repeated(struct bytes *b, const char *first, const char *ops, size_t n_ops, size_t n)
{
    struct bytes p = {0};
    put_text(&p, "\x80\x02");
    put_text(&p, first);
    while (p.n < n)
        put(&p, ops, n_ops);
    put_text(&p, ".");
    torch_zip(b, &p);
}
static void many_marks(struct bytes *b, size_t n) { repeated(b, "", "(", 1, n); }
static void many_nones(struct bytes *b, size_t n) { repeated(b, "", "N", 1, n); }
static void many_lists(struct bytes *b, size_t n) { repeated(b, "", "]", 1, n); }
static void many_memos(struct bytes *b, size_t n) { repeated(b, "N", "\x94", 1, n); }
static void many_dups(struct bytes *b, size_t n) { repeated(b, "}", "2", 1, n); }
static void nested_tuples(struct bytes *b, size_t n) { repeated(b, "N", "\x85", 1, n); }
static void sparse_memo(struct bytes *b, size_t n) { (void)n; repeated(b, "N", "r\xff\xff\xff\xff", 5, 5); }
static void long_integer(struct bytes *b, size_t n)
{
    struct bytes p = {0};
    put_text(&p, "\x80\x02I");
    while (p.n < n)
        put_u8(&p, '9');
    put_text(&p, "\n.");
    torch_zip(b, &p);
}
static void many_members(struct bytes *b, size_t n)
{
    size_t count = n / 260 < 60000 ? n / 260 : 60000;
    struct member *m = calloc(count, sizeof *m);
    char (*names)[32] = calloc(count, sizeof *names);
    for (size_t i = 0; i < count; i++) {
        snprintf(names[i], sizeof names[i], "%zu.npy", i);
        m[i].name = names[i];
        struct control one = {.n_fields = 0};
        put_npy2(&one, "(0,)", 0);
        m[i].data = one.b;
    }
    put_zip(b, m, count, NULL);
    members_free(m, count);
    free(m);
    free(names);
}
/* zeros deflated a thousandfold */
static void deflate_bomb(struct bytes *b, size_t n)
{
    struct control one = {.n_fields = 0};
    char shape[40];
    size_t data = n * 60;
    snprintf(shape, sizeof shape, "(%zu,)", data / 4);
    put_npy2(&one, shape, data);
    uLongf size = compressBound(one.b.n);
    uint8_t *z = malloc(size);
    assert_int_equal(compress2(z, &size, one.b.data, one.b.n, 1), Z_OK);
    uint32_t crc = (uint32_t)crc32(0, one.b.data, (unsigned)one.b.n);
    for (int central = 0; central < 2; central++) {
        size_t at = b->n;
        put_u32(b, central ? 0x02014b50 : 0x04034b50);
        if (central)
            put_u16(b, 20);
        put_u16(b, 20), put_u16(b, 0), put_u16(b, 8), put_u32(b, 0), put_u32(b, crc);
        put_u32(b, (uint32_t)size - 6), put_u32(b, (uint32_t)one.b.n), put_u16(b, 5), put_u16(b, 0);
        if (central)
            put_zeros(b, 14);
        put_text(b, "a.npy");
        if (!central) {
            put(b, z + 2, size - 6);
        } else {
            size_t n_dir = b->n - at;
            put_u32(b, 0x06054b50), put_u32(b, 0), put_u16(b, 1), put_u16(b, 1);
            put_u32(b, (uint32_t)n_dir), put_u32(b, (uint32_t)at), put_u16(b, 0);
        }
    }
    free(z);
    bytes_free(&one.b);
}
static void many_pieces(struct bytes *b, size_t n)
{
    put_text(b, "tjgg");
    put_u32(b, 3);
    put_u32(b, (uint32_t)(n / 8 < 1u << 20 ? n / 8 : 1u << 20));
    put_u32(b, 32), put_u32(b, 256), put_u32(b, 2), put_u32(b, 1), put_u32(b, 16), put_u32(b, 0);
    put_zeros(b, n - b->n + 64);
}
static void many_records(struct bytes *b, size_t n)
{
    struct control c = {.n_fields = 0};
    build_ggjt3(&c);
    put(b, c.b.data, c.b.n);
    bytes_free(&c.b);
    for (size_t i = 0; b->n < n; i++) {
        char name[32];
        snprintf(name, sizeof name, "%zu", i);
        put_u32(b, 1), put_u32(b, (uint32_t)strlen(name)), put_u32(b, 0), put_u32(b, 0);
        put_text(b, name);
        pad_to(b, 32);
    }
}

static const struct { const char *name; void (*make)(struct bytes *b, size_t n); } bombs[] = {
#define BOMB(f) {#f, f}
    BOMB(many_meta_strings), BOMB(many_gguf_tensors), BOMB(many_st_tensors), BOMB(deep_json), BOMB(long_key), BOMB(many_marks),
    BOMB(many_nones), BOMB(many_lists), BOMB(many_memos), BOMB(many_dups), BOMB(nested_tuples), BOMB(sparse_memo),
    BOMB(long_integer), BOMB(many_members), BOMB(deflate_bomb), BOMB(many_pieces), BOMB(many_records),
#undef BOMB
};

#if defined __SANITIZE_ADDRESS__
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

/* In a process of its own: what it took at most, in bytes, and its seconds. The
 * limit is the process's, so that nothing is taken even for a moment. */
static void cost_of(const char *path, uint64_t *memory, double *seconds)
{
    struct rusage u;
    int status;
    pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        struct lm_model *m;
        struct lm_err e = {0};
        if (lm_model_open_headers(&m, path, &e) == 0)
            lm_model_close(m);
        _exit(e.code == LM_NOMEM ? 2 : 0);
    }
    assert_int_equal(wait4(child, &status, 0, &u), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    *memory = (uint64_t)u.ru_maxrss * 1024;
    *seconds = (double)u.ru_utime.tv_sec + (double)u.ru_stime.tv_sec +
               1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static void cost_is_bounded(void **state)
{
    (void)state;
    size_t size = getenv("LM_TEST_LONG") ? 16 << 20 : 2 << 20;
    uint64_t base, memory;
    double seconds;
    const char *path = path_in(dir, "bomb");

    write_file(path, "x", 1);
    cost_of(path, &base, &seconds);
    for (size_t i = 0; i < sizeof bombs / sizeof bombs[0]; i++) {
        struct bytes b = {0};
        bombs[i].make(&b, size);
        write_file(path, b.data, b.n);
        uint64_t n = b.n;
        bytes_free(&b);
        cost_of(path, &memory, &seconds);
        memory = memory > base ? memory - base : 0;
        if (getenv("LM_TEST_SHOW"))
            printf("%-20s %9llu bytes: %6.1f MB, %.2f s\n", bombs[i].name, (unsigned long long)n, (double)memory / 1e6, seconds);
        if (!SANITIZED && (memory > (64u << 20) + 4 * n || seconds > 2))
            fail_msg("%s of %llu bytes took %.1f MB and %.2f s", bombs[i].name, (unsigned long long)n, (double)memory / 1e6,
                     seconds);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(cost_is_bounded)};
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
