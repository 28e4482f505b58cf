/* Durable files: whole or absent, never over something by accident. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "convert/convert.h"

static char dir[64], path[128];

static int make_dir(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/lm-commit-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    DIR *d = opendir(dir);

    (void)state;
    for (struct dirent *e; d && (e = readdir(d));) {
        unlinkat(dirfd(d), e->d_name, 0);
        unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR);
    }
    if (d)
        closedir(d);
    return rmdir(dir);
}

static const char *in(const char *name)
{
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static int n_entries(void)
{
    DIR *d = opendir(dir);
    int n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

static void put(const char *name, const char *text)
{
    FILE *f = fopen(in(name), "w");

    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static void expect(const char *name, const char *text)
{
    char buf[64] = "";
    FILE *f = fopen(in(name), "r");

    assert_non_null(f);
    buf[fread(buf, 1, sizeof buf - 1, f)] = 0;
    fclose(f);
    assert_string_equal(buf, text);
}

static void test_appears_at_the_end(void **state)
{
    struct lm_commit *c;
    struct lm_err e;
    int fd;

    (void)state;
    assert_int_equal(lm_commit_begin(&c, dir, false, &e), 0);
    assert_int_equal(lm_commit_add(c, "a", 5, &fd, &e), 0);
    assert_int_equal(lm_pwrite_all(fd, "hello", 5, 0, &e), 0);
    assert_int_not_equal(access(in("a"), F_OK), 0);
    assert_int_equal(lm_commit_finish(c, &e), 0);
    expect("a", "hello");
    assert_int_equal(n_entries(), 1);
}

static void test_abort_leaves_nothing(void **state)
{
    struct lm_commit *c;
    struct lm_err e;
    int fd;

    (void)state;
    lm_commit_abort(NULL);
    assert_int_equal(lm_commit_begin(&c, dir, false, &e), 0);
    assert_int_equal(lm_commit_add(c, "a", 1 << 20, &fd, &e), 0);
    assert_int_equal(lm_commit_add(c, "b", 0, &fd, &e), 0);
    lm_commit_abort(c);
    assert_int_equal(n_entries(), 0);
}

static void test_refuses_what_exists(void **state)
{
    struct lm_commit *c;
    struct lm_err e;
    int fd;

    (void)state;
    put("a", "old");
    assert_int_equal(lm_commit_begin(&c, dir, false, &e), 0);
    assert_int_equal(lm_commit_add(c, "a", 3, &fd, &e), -1);
    assert_non_null(strstr(e.text, "--force"));
    lm_commit_abort(c);
    expect("a", "old");
    assert_int_equal(n_entries(), 1);
}

static void test_force_replaces_and_keeps_the_mode(void **state)
{
    struct lm_commit *c;
    struct lm_err e;
    struct stat s;
    int fd;

    (void)state;
    put("a", "old");
    assert_int_equal(chmod(in("a"), 0640), 0);
    assert_int_equal(lm_commit_begin(&c, dir, true, &e), 0);
    assert_int_equal(lm_commit_add(c, "a", 3, &fd, &e), 0);
    assert_int_equal(lm_pwrite_all(fd, "new", 3, 0, &e), 0);
    expect("a", "old");
    assert_int_equal(lm_commit_finish(c, &e), 0);
    expect("a", "new");
    assert_int_equal(stat(in("a"), &s), 0);
    assert_int_equal(s.st_mode & 0777, 0640);
    assert_int_equal(n_entries(), 1);
}

/* Somebody else makes the file while we work: theirs stays. */
static void test_a_late_comer_is_left_alone(void **state)
{
    struct lm_commit *c;
    struct lm_err e;
    int fd;

    (void)state;
    assert_int_equal(lm_commit_begin(&c, dir, false, &e), 0);
    assert_int_equal(lm_commit_add(c, "first", 1, &fd, &e), 0);
    assert_int_equal(lm_commit_add(c, "a", 3, &fd, &e), 0);
    put("a", "theirs");
    assert_int_equal(lm_commit_finish(c, &e), -1);
    assert_int_equal(e.code, LM_IO);
    expect("a", "theirs");
    assert_int_equal(n_entries(), 1);
}

static void test_a_link_is_replaced_not_followed(void **state)
{
    struct lm_commit *c;
    struct lm_err e;
    struct stat s;
    int fd;

    (void)state;
    put("target", "old");
    assert_int_equal(symlink("target", in("a")), 0);
    assert_int_equal(lm_commit_begin(&c, dir, true, &e), 0);
    assert_int_equal(lm_commit_add(c, "a", 3, &fd, &e), 0);
    assert_int_equal(lm_pwrite_all(fd, "new", 3, 0, &e), 0);
    assert_int_equal(lm_commit_finish(c, &e), 0);
    expect("target", "old");
    expect("a", "new");
    assert_int_equal(lstat(in("a"), &s), 0);
    assert_true(S_ISREG(s.st_mode));
}

static void test_refuses_devices_folders_and_paths(void **state)
{
    static const char *const names[] = {"", ".", "..", "a/b", "/a"};
    struct lm_commit *c;
    struct lm_err e;
    int fd;

    (void)state;
    assert_int_equal(mkdir(in("folder"), 0777), 0);
    assert_int_equal(mkfifo(in("pipe"), 0666), 0);
    assert_int_equal(lm_commit_begin(&c, dir, true, &e), 0);
    assert_int_equal(lm_commit_add(c, "folder", 1, &fd, &e), -1);
    assert_int_equal(lm_commit_add(c, "pipe", 1, &fd, &e), -1);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        assert_int_equal(lm_commit_add(c, names[i], 1, &fd, &e), -1);
    lm_commit_abort(c);
    assert_int_equal(lm_commit_begin(&c, "/dev/null", false, &e), -1);
    assert_int_equal(lm_commit_begin(&c, "/nonexistent/folder", false, &e), -1);
    assert_int_equal(n_entries(), 2);
}

static void test_a_new_folder_goes_with_its_files(void **state)
{
    char sub[128];
    struct lm_commit *c;
    struct lm_err e;
    int fd;

    (void)state;
    snprintf(sub, sizeof sub, "%s/new", dir);
    assert_int_equal(lm_commit_begin(&c, sub, false, &e), 0);
    assert_int_equal(lm_commit_add(c, "a", 10, &fd, &e), 0);
    assert_int_equal(access(sub, F_OK), 0);
    lm_commit_abort(c);
    assert_int_not_equal(access(sub, F_OK), 0);
}

static void test_no_room_is_known_before_any_work(void **state)
{
    struct lm_commit *c;
    struct lm_err e;
    int fd;

    (void)state;
    assert_int_equal(lm_commit_begin(&c, dir, false, &e), 0);
    assert_int_equal(lm_commit_add(c, "a", (uint64_t)1 << 55, &fd, &e), -1);
    assert_non_null(strstr(e.text, "36028797018963968 bytes"));
    assert_int_equal(lm_commit_add(c, "b", UINT64_MAX, &fd, &e), -1);
    lm_commit_abort(c);
    assert_int_equal(n_entries(), 0);
}

static void test_a_size_limit_is_an_error(void **state)
{
    int status;
    pid_t pid = fork();

    (void)state;
    if (pid == 0) {
        struct rlimit limit = {4096, 4096};
        struct lm_commit *c;
        struct lm_err e;
        int fd, ok;
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &limit);
        ok = lm_commit_begin(&c, dir, false, &e) == 0 && lm_commit_add(c, "a", 1 << 20, &fd, &e) == -1 &&
             e.code == LM_IO;
        lm_commit_abort(c);
        _exit(ok ? 0 : 1);
    }
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(n_entries(), 0);
}

static void test_a_full_device_is_an_error(void **state)
{
    struct lm_err e = {0};
    int fd = open("/dev/full", O_WRONLY);

    (void)state;
    if (fd < 0)
        skip();
    assert_int_equal(lm_pwrite_all(fd, "x", 1, 0, &e), -1);
    assert_int_equal(e.code, LM_IO);
    close(fd);
}

/* Killed without warning: the name must not exist. */
static void test_a_killed_run_leaves_no_name(void **state)
{
    int status;
    pid_t pid = fork();

    (void)state;
    if (pid == 0) {
        struct lm_commit *c;
        struct lm_err e;
        int fd;
        if (lm_commit_begin(&c, dir, false, &e) || lm_commit_add(c, "a", 4096, &fd, &e))
            _exit(1);
        kill(getpid(), SIGKILL);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_not_equal(access(in("a"), F_OK), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_appears_at_the_end, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_abort_leaves_nothing, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_refuses_what_exists, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_force_replaces_and_keeps_the_mode, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_a_late_comer_is_left_alone, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_a_link_is_replaced_not_followed, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_refuses_devices_folders_and_paths, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_a_new_folder_goes_with_its_files, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_no_room_is_known_before_any_work, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_a_size_limit_is_an_error, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_a_full_device_is_an_error, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_a_killed_run_leaves_no_name, make_dir, remove_dir),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
