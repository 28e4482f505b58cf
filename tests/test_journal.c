/* Work that survives: killed, interrupted, shared, damaged, changed. */
#include "tests/files.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "convert/convert.h"
#include "convert/journal.h"

static const char *const model = "samples/polish-5m";

static const char *in(const char *name)
{
    return path_in(dir, name);
}

/* A file in a folder in it. */
static const char *within(const char *folder, const char *name)
{
    char both[256];

    snprintf(both, sizeof both, "%.100s/%.100s", folder, name);
    return in(both);
}

static struct bytes read_all(const char *path)
{
    struct bytes b = {0};
    FILE *f = fopen(path, "rb");
    uint8_t buf[65536];
    size_t n;

    if (!f)
        fail_msg("%s is missing", path);
    while ((n = fread(buf, 1, sizeof buf, f)) > 0)
        put(&b, buf, n);
    fclose(f);
    return b;
}

static void same_files(const char *a, const char *b)
{
    struct bytes x = read_all(a), y = read_all(b);

    assert_int_equal(x.n, y.n);
    assert_memory_equal(x.data, y.data, x.n);
    bytes_free(&x);
    bytes_free(&y);
}

static bool exists(const char *name)
{
    return access(in(name), F_OK) == 0;
}

static int n_entries(const char *folder)
{
    DIR *d = opendir(folder);
    int n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

static struct lm_request request(const char *type)
{
    return (struct lm_request){.to = lm_format_find("gguf"), .quantize = true, .ftype = lm_ftype_find(type), .dtype = -1};
}

/* 0, or -1 with *e; *reused: ranges taken over. */
static int convert(const char *src, const char *dst, struct lm_request r, struct lm_run_options o, uint64_t *reused,
                   struct lm_err *e)
{
    struct lm_model *m = NULL;
    struct lm_plan *p = NULL;
    int rc = lm_model_open(&m, src, e) || lm_plan_make(&p, m, &r, e) || lm_plan_run(p, dst, &o, e) ? -1 : 0;

    if (rc == 0 && reused)
        *reused = p->n_reused;
    lm_plan_free(p);
    lm_model_close(m);
    return rc;
}

static void convert_ok(const char *src, const char *dst, struct lm_request r, struct lm_run_options o, uint64_t *reused)
{
    struct lm_err e = {0};

    if (convert(src, dst, r, o, reused, &e))
        fail_msg("%s", e.text);
}

static void convert_fails(const char *src, const char *dst, struct lm_request r, struct lm_run_options o, const char *why)
{
    struct lm_err e = {0};

    if (convert(src, dst, r, o, NULL, &e) == 0)
        fail_msg("should fail: %s", why);
    if (!strstr(e.text, why) || strchr(e.text, '\n'))
        fail_msg("expected '%s', got '%s'", why, e.text);
}

static pid_t convert_begin(const char *dst, struct lm_request r, struct lm_run_options o)
{
    pid_t pid = fork();
    struct lm_err e = {0};

    if (pid == 0)
        _exit(convert(model, dst, r, o, NULL, &e) ? 1 : 0);
    assert_true(pid > 0);
    return pid;
}

static int wait_for(pid_t pid)
{
    int status;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static const struct lm_run_options kept = {.keep = true, .n_threads = 2};

/* ---- */

/* Values of the specification's own implementation. */
static void test_sum(void **state)
{
    static const char text[] = "Nobody inspects the spammish repetition";
    struct lmc_sum s;

    (void)state;
    assert_true(lmc_sum_of("", 0) == 0xEF46DB3751D8E999);
    assert_true(lmc_sum_of("a", 1) == 0xD24EC4F1A98C6E5B);
    assert_true(lmc_sum_of("abc", 3) == 0x44BC2CF5AD770999);
    assert_true(lmc_sum_of(text, sizeof text - 1) == 0xFBCEA83C8A378BF1);
    for (size_t step = 1; step < sizeof text; step++) {
        lmc_sum_begin(&s);
        for (size_t i = 0; i + 1 < sizeof text; i += step)
            lmc_sum_add(&s, text + i, step < sizeof text - 1 - i ? step : sizeof text - 1 - i);
        assert_true(lmc_sum_end(&s) == 0xFBCEA83C8A378BF1);
    }
}

/* Neither threads, memory, keeping nor shares change a byte. */
static void test_same_bytes(void **state)
{
    static const struct lm_run_options ways[] = {
        {.n_threads = 1}, {.n_threads = 7}, {.n_threads = 3, .max_ram = 1}, {.keep = true, .n_threads = 1},
        {.keep = true, .n_threads = 5, .max_ram = 1}};

    (void)state;
    convert_ok(model, in("want"), request("Q4_K_M"), (struct lm_run_options){0}, NULL);
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        convert_ok(model, in("got"), request("Q4_K_M"), ways[i], NULL);
        same_files(in("got"), in("want"));
        assert_int_equal(n_entries(dir), 2);
        unlink(in("got"));
    }
}

static void test_shares(void **state)
{
    struct lm_run_options commit = {.keep = true, .commit_only = true};
    uint64_t reused = 0;
    pid_t pid[5];

    (void)state;
    for (unsigned i = 0; i < 5; i++)
        pid[i] = convert_begin(in("got"), request("Q4_K_M"),
                               (struct lm_run_options){.keep = true, .part = i + 1, .n_parts = 5, .n_threads = 1});
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(wait_for(pid[i]), 0);
    assert_false(exists("got"));
    convert_ok(model, in("got"), request("Q4_K_M"), commit, &reused);
    assert_true(reused > 10);
    same_files(in("got"), in("want"));
    assert_int_equal(n_entries(dir), 2);
    unlink(in("got"));
}

static void test_a_missing_share(void **state)
{
    struct lm_run_options half = {.keep = true, .part = 2, .n_parts = 2}, commit = {.keep = true, .commit_only = true};
    uint64_t reused = 0;

    (void)state;
    convert_fails(model, in("got"), request("Q4_K_M"), commit, "not there yet");
    assert_int_equal(n_entries(dir), 1);
    convert_ok(model, in("got"), request("Q4_K_M"), half, NULL);
    convert_fails(model, in("got"), request("Q4_K_M"), commit, "not there yet");
    convert_ok(model, in("got"), request("Q4_K_M"), kept, &reused);
    assert_true(reused > 0);
    same_files(in("got"), in("want"));
    unlink(in("got"));
}

/* Stops after some calls. */
struct stopper { int left; volatile int stop; };

static void count_down(void *user, uint64_t done, uint64_t total)
{
    struct stopper *s = user;

    (void)done;
    (void)total;
    if (--s->left == 0)
        s->stop = 1;
}

static void test_interrupted(void **state)
{
    struct stopper s = {.left = 12};
    struct lm_run_options o = {.n_threads = 2, .stop = &s.stop, .progress = count_down, .user = &s};
    uint64_t reused = 0;

    (void)state;
    convert_fails(model, in("got"), request("Q4_K_M"), o, "nothing was left behind");
    assert_int_equal(n_entries(dir), 1);
    s = (struct stopper){.left = 12};
    o.keep = true;
    convert_fails(model, in("got"), request("Q4_K_M"), o, "goes on from there");
    assert_false(exists("got"));
    convert_ok(model, in("got"), request("Q4_K_M"), kept, &reused);
    assert_true(reused > 0);
    same_files(in("got"), in("want"));
    unlink(in("got"));
    s = (struct stopper){.left = 1};
    o.n_threads = 1;
    convert_fails(model, in("got"), request("Q4_K_M"), o, "nothing was left behind");
    assert_int_equal(n_entries(dir), 1);
}

/* At any moment the destination is absent or complete, and what is left is enough to go on. */
static void kill_often(int n, bool keep, bool replace)
{
    struct lm_run_options o = {.keep = keep, .n_threads = 2, .force = replace};
    int finished = 0;
    struct bytes old = {0};
    uint64_t reused;

    srand(7);
    put_text(&old, "the old one");
    for (int i = 0; i < n; i++) {
        if (replace && !exists("got"))
            write_file(in("got"), old.data, old.n);
        pid_t pid = convert_begin(in("got"), request("Q8_0"), o);
        usleep((useconds_t)(rand() % 40000));
        kill(pid, SIGKILL);
        wait_for(pid);
        struct stat s = {0};
        if (stat(in("got"), &s) == 0 && (size_t)s.st_size != old.n) {
            same_files(in("got"), in("want8"));
            unlink(in("got"));
            finished++;
        }
        if (!keep)
            assert_int_equal(n_entries(dir), 2 + exists("got"));
    }
    bytes_free(&old);
    if (keep) {
        convert_ok(model, in("got"), request("Q8_0"), o, &reused);
        same_files(in("got"), in("want8"));
    }
    unlink(in("got"));
    assert_int_equal(n_entries(dir), 2);
}

static void test_killed(void **state)
{
    const char *often = getenv("LM_TEST_KILLS");
    int n = often ? atoi(often) : 100;

    (void)state;
    convert_ok(model, in("want8"), request("Q8_0"), (struct lm_run_options){0}, NULL);
    kill_often(n / 4, false, false);
    kill_often(n / 2, true, false);
    kill_often(n / 4, true, true);
    unlink(in("want8"));
}

static void flip(const char *path, off_t at)
{
    int fd = open(path, O_RDWR);
    uint8_t b = 0;

    assert_true(fd >= 0 && pread(fd, &b, 1, at) == 1);
    b ^= 0x55;
    assert_int_equal(pwrite(fd, &b, 1, at), 1);
    close(fd);
}

/* A range that is not as it was recorded is done again; so is one whose record was cut short. */
static void test_damaged(void **state)
{
    struct lm_run_options all = {.keep = true, .part = 1, .n_parts = 1};
    uint64_t before, after;
    char path[600];
    struct stat s;

    (void)state;
    convert_ok(model, in("got"), request("Q4_K_M"), all, NULL);
    convert_ok(model, in("got"), request("Q4_K_M"), all, &before);
    assert_int_equal(stat(in(".got.unfinished/0"), &s), 0);
    flip(in(".got.unfinished/0"), s.st_size / 2); /* not of the last record, which is cut below */
    convert_ok(model, in("got"), request("Q4_K_M"), all, &after);
    assert_int_equal(after, before - 1);
    DIR *d = opendir(in(".got.unfinished"));
    assert_non_null(d);
    for (struct dirent *x; (x = readdir(d));)
        if (strncmp(x->d_name, "journal-", 8) == 0) {
            snprintf(path, sizeof path, "%s/%.40s", in(".got.unfinished"), x->d_name);
            assert_int_equal(stat(path, &s), 0);
            if (s.st_size > 1000)
                assert_int_equal(truncate(path, s.st_size - 100), 0);
        }
    closedir(d);
    convert_ok(model, in("got"), request("Q4_K_M"), kept, &after);
    assert_int_equal(after, before - 1);
    same_files(in("got"), in("want"));
    unlink(in("got"));
}

static void test_another_request(void **state)
{
    struct lm_run_options half = {.keep = true, .part = 1, .n_parts = 2};

    (void)state;
    convert_ok(model, in("got"), request("Q4_K_M"), half, NULL);
    convert_fails(model, in("got"), request("Q4_K_S"), kept, "was begun with other options");
    struct lm_request named = request("Q4_K_M");
    named.name = "another";
    convert_fails(model, in("got"), named, kept, "was begun with other options");
    convert_ok(model, in("got"), request("Q4_K_M"), kept, NULL);
    same_files(in("got"), in("want"));
    unlink(in("got"));
}

static void test_another_source(void **state)
{
    struct lm_run_options half = {.keep = true, .part = 1, .n_parts = 2};
    static const char *const files[] = {"config.json", "model.safetensors", NULL};
    struct lm_request r = request("Q8_0");
    char from[128];

    (void)state;
    assert_int_equal(mkdir(in("src"), 0777), 0);
    for (int i = 0; files[i]; i++) {
        snprintf(from, sizeof from, "%s/%s", model, files[i]);
        struct bytes b = read_all(from);
        write_file(within("src", files[i]), b.data, b.n);
        bytes_free(&b);
    }
    convert_ok(in("src"), in("got"), r, half, NULL);
    flip(in("src/model.safetensors"), 5000000);
    convert_fails(in("src"), in("got"), r, kept, "changed since");
    assert_false(exists("got"));
    tmp_remove(in("src"));
    tmp_remove(in(".got.unfinished"));
}

static void test_two_at_the_same_part(void **state)
{
    struct lm_run_options half = {.keep = true, .part = 1, .n_parts = 2}, other = {.keep = true, .part = 2, .n_parts = 2};
    struct lmc_identity id;
    struct lmc_journal *j;
    struct lm_err e;
    uint8_t plan[72];

    (void)state;
    convert_ok(model, in("got"), request("Q4_K_M"), half, NULL);
    struct bytes b = read_all(in(".got.unfinished/plan"));
    assert_int_equal(b.n, sizeof plan);
    memcpy(&id, b.data + 8, sizeof id);
    bytes_free(&b);
    assert_int_equal(lmc_journal_open(&j, dir, "got", &id, 1, 2, &e), 0);
    convert_fails(model, in("got"), request("Q4_K_M"), half, "another process is at work on this part");
    convert_fails(model, in("got"), request("Q4_K_M"), kept, "another process is at work on this output");
    convert_ok(model, in("got"), request("Q4_K_M"), other, NULL);
    assert_true(lmc_journal_close(j, false));
    convert_ok(model, in("got"), request("Q4_K_M"), kept, NULL);
    same_files(in("got"), in("want"));
    unlink(in("got"));
}

/* Killed after some names were given: the rest get theirs, even over old files. */
static void test_between_two_names(void **state)
{
    struct lm_run_options all = {.keep = true, .part = 1, .n_parts = 1};
    struct lm_request r = request("Q8_0");
    char name[64], want[64];

    (void)state;
    r.max_file_bytes = 2000000;
    r.no_source_sums = true; /* they come into the heads before the mark that is made by hand here */
    convert_ok(model, in("w.gguf"), r, (struct lm_run_options){0}, NULL);
    int n = n_entries(dir) - 1;
    assert_true(n >= 3);
    convert_ok(model, in("g.gguf"), r, all, NULL);
    snprintf(name, sizeof name, "g-00001-of-%05d.gguf", n);
    DIR *d = opendir(dir);
    char folder[300] = "";
    for (struct dirent *x; (x = readdir(d));)
        if (strstr(x->d_name, ".unfinished"))
            snprintf(folder, sizeof folder, "%s", x->d_name);
    closedir(d);
    write_file(within(folder, "complete"), "", 0);
    assert_int_equal(rename(within(folder, "0"), in(name)), 0);
    convert_ok(model, in("g.gguf"), r, kept, NULL);
    for (int i = 1; i <= n; i++) {
        snprintf(name, sizeof name, "g-%05d-of-%05d.gguf", i, n);
        snprintf(want, sizeof want, "w-%05d-of-%05d.gguf", i, n);
        same_files(in(name), in(want));
        unlink(in(name));
        unlink(in(want));
    }
    assert_int_equal(n_entries(dir), 1);
}

static void test_no_room(void **state)
{
    (void)state;
    for (int keep = 0; keep < 2; keep++) {
        pid_t pid = fork();
        if (pid == 0) {
            struct rlimit l = {1 << 20, 1 << 20};
            struct lm_err e = {0};
            signal(SIGXFSZ, SIG_IGN);
            setrlimit(RLIMIT_FSIZE, &l);
            int rc = convert(model, in("got"), request("Q8_0"), (struct lm_run_options){.keep = keep}, NULL, &e);
            _exit(rc == -1 && strstr(e.text, "no room for") && !strchr(e.text, '\n') ? 0 : 1);
        }
        assert_int_equal(wait_for(pid), 0);
        assert_int_equal(n_entries(dir), 1);
    }
}

static void test_several_outputs(void **state)
{
    static const char *const types[] = {"Q4_K_M", "Q8_0", "F16", "Q6_K"};
    struct lm_plan *plans[4] = {0};
    const char *dsts[4] = {in("0"), in("1"), in("2"), in("3")};
    struct lm_model *m;
    struct lm_err e = {0};

    (void)state;
    assert_int_equal(lm_model_open(&m, model, &e), 0);
    for (int i = 0; i < 4; i++) {
        struct lm_request r = request(types[i]);
        assert_int_equal(lm_plan_make(&plans[i], m, &r, &e), 0);
    }
    if (lm_plans_run(plans, dsts, 4, &(struct lm_run_options){.n_threads = 3}, &e))
        fail_msg("%s", e.text);
    for (int i = 0; i < 4; i++) {
        convert_ok(model, in("single"), request(types[i]), (struct lm_run_options){0}, NULL);
        same_files(dsts[i], in("single"));
        unlink(in("single"));
        unlink(dsts[i]);
        lm_plan_free(plans[i]);
    }
    lm_model_close(m);
    assert_int_equal(n_entries(dir), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sum),
        cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_a_missing_share),
        cmocka_unit_test(test_interrupted),
        cmocka_unit_test(test_killed),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_another_request),
        cmocka_unit_test(test_another_source),
        cmocka_unit_test(test_two_at_the_same_part),
        cmocka_unit_test(test_between_two_names),
        cmocka_unit_test(test_no_room),
        cmocka_unit_test(test_several_outputs),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
