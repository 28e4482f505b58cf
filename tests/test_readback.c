/* An output is read by the strict reader before it has a name: what does not
 * pass never appears; killed, interrupted or out of room, neither does it. */
#include "tests/commands.h"

#include <glob.h>
#include <sys/resource.h>

#include "convert/convert.h"

static char folder[64];

struct saboteur { struct lm_plan *p; char name[8]; };

/* The plan changes its mind about a name after the head was written. */
static void sabotage(void *user, uint64_t done, uint64_t total)
{
    struct saboteur *s = user;

    (void)done, (void)total;
    s->p->items[0].name = s->name;
}

static size_t count_entries(const char *pattern)
{
    glob_t g;
    size_t n;

    assert_true(glob(path_in(folder, pattern), GLOB_PERIOD, NULL, &g) != GLOB_NOSPACE);
    n = g.gl_pathc;
    globfree(&g);
    return n;
}

static void spoilt(const char *to, const char *dst, uint64_t split, bool quantize)
{
    struct lm_request r = {.to = lm_format_find(to), .dtype = -1, .quantize = quantize, .ftype = lm_ftype_find("Q8_0"),
                           .max_file_bytes = split, .no_source_sums = true};
    struct saboteur s = {.name = "other"};
    struct lm_run_options o = {.progress = sabotage, .user = &s, .n_threads = 1};
    struct lm_err e = {0};
    struct lm_model *m;
    struct lm_plan *p;

    assert_int_equal(lm_model_open(&m, "samples/polish-5m", &e), 0);
    assert_int_equal(lm_plan_make(&p, m, &r, &e), 0);
    s.p = p;
    char *name = p->items[0].name;
    assert_int_equal(lm_plan_run(p, path_in(folder, dst), &o, &e), -1);
    p->items[0].name = name;
    if (!strstr(e.text, "cannot be read back"))
        fail_msg("%s", e.text);
    lm_plan_free(p);
    lm_model_close(m);
}

static void test_unreadable_gets_no_name(void **state)
{
    (void)state;
    tmp_make(folder);
    spoilt("gguf", "a.gguf", 0, true);
    spoilt("gguf", "b.gguf", 3000000, false);
    spoilt("safetensors", "c/", 3000000, false);
    assert_int_equal(count_entries("*"), 2); /* . and .. */
    tmp_remove(folder);
}

static void test_old_file_stays(void **state)
{
    (void)state;
    tmp_make(folder);
    write_file(path_in(folder, "a.gguf"), "old", 3);
    spoilt("gguf", "new.gguf", 0, true);
    struct bytes b = read_back(path_in(folder, "a.gguf"));
    assert_int_equal(b.n, 3);
    bytes_free(&b);
    assert_int_equal(count_entries("*"), 3);
    tmp_remove(folder);
}

static bool opens(const char *path)
{
    struct lm_err e = {0};
    struct lm_model *m = NULL;
    bool ok = lm_model_open(&m, path, &e) == 0 && lm_model_n_tensors(m) == 39;

    lm_model_close(m);
    return ok;
}

/* Split outputs too: the first file makes the set, and its name comes last or all are there. */
static void kill_runs(const char *const *argv, const char *dst, const char *entry, int n)
{
    size_t done = 0;

    for (int i = 0; i < n; i++) {
        pid_t pid = command_begin(argv, folder);
        usleep((unsigned)(i * 1200 % 45000));
        kill(pid, SIGKILL);
        struct output o = command_end(pid, folder);
        output_free(&o);
        char path[256];
        snprintf(path, sizeof path, "%s/%s", folder, entry);
        if (access(path, F_OK) == 0) {
            assert_true(opens(path));
            done++;
        }
        snprintf(path, sizeof path, "rm -rf %s/%s", folder, dst);
        assert_int_equal(system(path), 0);
    }
    (void)done;
}

static void test_killed(void **state)
{
    char one[128], set[128];
    (void)state;

    tmp_make(folder);
    snprintf(one, sizeof one, "%s/q.gguf", folder);
    snprintf(set, sizeof set, "%s/set/", folder);
    kill_runs((const char *const[]){command_path("lm-quantize"), "--type", "Q4_K_M", "samples/polish-5m", one, NULL}, "q.gguf",
              "q.gguf", 30);
    kill_runs((const char *const[]){command_path("lm-convert"), "--split", "3M", "samples/polish-5m", set, NULL}, "set",
              "set/model.safetensors.index.json", 30);
    tmp_remove(folder);
}

/* Edited in place or copied: after lm-edit without options has completed what is left, it is the old or the new one. */
static void test_edit_killed(void **state)
{
    char file[128], set[200];
    size_t n_new = 0;
    (void)state;

    tmp_make(folder);
    snprintf(file, sizeof file, "%s/e.gguf", folder);
    struct output made = command_run((const char *const[]){command_path("lm-convert"), "samples/polish-5m", file, NULL}, folder);
    assert_int_equal(made.code, 0);
    output_free(&made);
    for (int i = 0; i < 40; i++) {
        struct lm_span name = {0};
        struct lm_err e = {0};
        struct lm_model *m;
        /* Of every four names one does not fit into the room that is left. */
        snprintf(set, sizeof set, "general.name=%d%0*d", i, i % 4 ? 3 : 99, 0);
        const char *const argv[] = {command_path("lm-edit"), file, "--set", set, i % 4 ? NULL : "--set",
                                    i % 4 ? NULL : "more=x", NULL};
        pid_t pid = command_begin(argv, folder);
        usleep((unsigned)(i * 1700 % 68000));
        kill(pid, SIGKILL);
        struct output o = command_end(pid, folder);
        output_free(&o);
        o = command_run((const char *const[]){command_path("lm-edit"), file, NULL}, folder);
        assert_int_equal(o.code, 0);
        output_free(&o);
        assert_int_equal(lm_model_open(&m, file, &e), 0);
        assert_int_equal(lm_meta_get_str(lm_model_meta(m), "general.name", &name, &e), 1);
        assert_int_equal(lm_model_n_tensors(m), 39);
        n_new += name.size == strlen(set) - 13 && memcmp(name.data, set + 13, name.size) == 0;
        lm_model_close(m);
    }
    assert_true(n_new > 0);
    tmp_remove(folder);
}

static void test_out_of_room(void **state)
{
    struct rlimit old, small;
    (void)state;

    tmp_make(folder);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = (struct rlimit){1000000, old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    struct output o = command_run((const char *const[]){command_path("lm-quantize"), "--type", "Q8_0", "samples/polish-5m",
                                                        path_in(folder, "q.gguf"), NULL}, folder);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(o.code, 3);
    assert_non_null(strstr((const char *)o.err.data, "no room for"));
    output_free(&o);
    assert_int_equal(count_entries("*q.gguf*"), 0);
    tmp_remove(folder);
}

int main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(test_unreadable_gets_no_name), cmocka_unit_test(test_old_file_stays),
        cmocka_unit_test(test_killed), cmocka_unit_test(test_edit_killed), cmocka_unit_test(test_out_of_room),
    };

    return cmocka_run_group_tests(all, NULL, NULL);
}
