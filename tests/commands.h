/* For tests: running the commands that were built beside the test. */
#ifndef TESTS_COMMANDS_H
#define TESTS_COMMANDS_H

#include "tests/files.h"

#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

extern char **environ;

struct output { int code; struct bytes out, err; };

/* "…/build/release/lm-list"; good until the 8th call from here. */
static inline const char *command_path(const char *name)
{
    static char path[8][PATH_MAX + 64];
    static unsigned i;
    char self[PATH_MAX], *p = path[i++ % 8];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

    assert_true(n > 0);
    self[n] = 0;
    *strrchr(self, '/') = 0; /* tests/ */
    *strrchr(self, '/') = 0;
    snprintf(p, sizeof path[0], "%s/%s", self, name);
    return p;
}

static inline struct bytes read_back(const char *path)
{
    struct bytes b = {0};
    uint8_t buf[65536];
    ssize_t n;
    int fd = open(path, O_RDONLY);

    if (fd < 0)
        fail_msg("%s is missing", path);
    while ((n = read(fd, buf, sizeof buf)) > 0)
        put(&b, buf, (size_t)n);
    put_u8(&b, 0);
    b.n--;
    close(fd);
    return b;
}

/* Begins a program whose outputs go to dir/out and dir/err. */
static inline pid_t command_begin(const char *const *argv, const char *folder)
{
    posix_spawn_file_actions_t a;
    pid_t pid;

    posix_spawn_file_actions_init(&a);
    posix_spawn_file_actions_addopen(&a, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&a, 1, path_in(folder, "out"), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    posix_spawn_file_actions_addopen(&a, 2, path_in(folder, "err"), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    int rc = posix_spawnp(&pid, argv[0], &a, NULL, (char *const *)(uintptr_t)argv, environ);
    posix_spawn_file_actions_destroy(&a);
    if (rc)
        fail_msg("%s: %s", argv[0], strerror(rc));
    return pid;
}

static inline struct output command_end(pid_t pid, const char *folder)
{
    struct output o;
    int status;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    o.code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    o.out = read_back(path_in(folder, "out"));
    o.err = read_back(path_in(folder, "err"));
    return o;
}

static inline struct output command_run(const char *const *argv, const char *folder)
{
    return command_end(command_begin(argv, folder), folder);
}

static inline void output_free(struct output *o)
{
    bytes_free(&o->out);
    bytes_free(&o->err);
}
#endif
