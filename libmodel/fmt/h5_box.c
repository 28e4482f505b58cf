/* A process that may compute, take some memory and write to one pipe: nothing
 * else.  What libhdf5 does to a hostile file's taste ends with it.
 *
 * Limits (rlimits): no new descriptors, so neither files nor sockets; processor
 * time; address space; no core file.  Where the kernel has seccomp, also every
 * system call but those that memory, the pipe and the end of the process need. */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <seccomp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libmodel/fmt/h5_lib.h"

enum { PIPE = 3, FLUSH = 64 << 10, FAILED_SANDBOX = 99 };

#if defined __SANITIZE_ADDRESS__
#define SANITIZED 1
#elif defined __has_feature
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

static pthread_mutex_t library = PTHREAD_MUTEX_INITIALIZER;

void lmi_h5_lock(void)
{
    pthread_mutex_lock(&library);
}

void lmi_h5_unlock(void)
{
    pthread_mutex_unlock(&library);
}

/* ---- reporting */

static void flush(struct lmi_h5_out *o)
{
    size_t done = 0;

    while (o->fd >= 0 && done < o->b.n) {
        ssize_t n = write(o->fd, o->b.data + done, o->b.n - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            _exit(FAILED_SANDBOX);
        done += (size_t)n;
    }
    if (o->fd >= 0) {
        o->n_sent += done;
        o->b.n = 0;
    }
}

void lmi_h5_begin(struct lmi_h5_out *o, enum lmi_h5_record kind)
{
    uint8_t k = (uint8_t)kind;

    if (o->fd >= 0 && o->b.n >= FLUSH)
        flush(o);
    o->record = o->b.n;
    lmi_put(&o->b, &k, 1);
    lmi_put_u32(&o->b, 0);
}

void lmi_h5_send(struct lmi_h5_out *o)
{
    if (o->b.failed || o->b.n - o->record - 5 > UINT32_MAX || o->n_sent + o->b.n > o->max) {
        o->full = true;
        if (!o->b.failed)
            o->b.n = o->record;
        return;
    }
    lm_store_u32le(o->b.data + o->record + 1, (uint32_t)(o->b.n - o->record - 5));
}

void lmi_h5_put_span(struct lmi_h5_out *o, const void *data, size_t n)
{
    lmi_put_u32(&o->b, n > UINT32_MAX ? UINT32_MAX : (uint32_t)n);
    lmi_put(&o->b, data, n > UINT32_MAX ? UINT32_MAX : n);
}

void lmi_h5_fail(struct lmi_h5_out *o, enum lm_code code, const char *format, ...)
{
    char text[600];
    uint8_t c = (uint8_t)code;
    va_list ap;

    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    o->max += 1024; /* the reason for stopping always fits */
    lmi_h5_begin(o, LMI_H5_FAILED);
    lmi_put(&o->b, &c, 1);
    lmi_h5_put_span(o, text, strlen(text));
    lmi_h5_send(o);
}

/* ---- walls */

/* A macro: the first argument's type differs between C libraries. */
#define LIMIT(what, n)                       \
    do {                                     \
        struct rlimit r_ = {(n), (n)};       \
        if (setrlimit(what, &r_) < 0)        \
            _exit(FAILED_SANDBOX);           \
    } while (0)

/* Pages this process has mapped, in bytes. */
static uint64_t mapped_now(void)
{
    unsigned long long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");

    if (f && fscanf(f, "%llu", &pages) != 1)
        pages = 0;
    if (f)
        fclose(f);
    return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Argument i, under the mask, is the value. */
static struct scmp_arg_cmp equal(unsigned i, scmp_datum_t mask, scmp_datum_t value)
{
    return (struct scmp_arg_cmp){i, SCMP_CMP_MASKED_EQ, mask, value};
}

static int allow(scmp_filter_ctx c)
{
    static const int calls[] = {
        SCMP_SYS(exit), SCMP_SYS(exit_group), SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(madvise),
        SCMP_SYS(rt_sigreturn), SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday), SCMP_SYS(time), SCMP_SYS(getrandom),
        SCMP_SYS(getpid), SCMP_SYS(gettid),
    };
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < sizeof calls / sizeof calls[0]; i++)
        rc = seccomp_rule_add(c, SCMP_ACT_ALLOW, calls[i], 0);
    if (rc == 0)
        rc = seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(write), 1, equal(0, ~(scmp_datum_t)0, PIPE));
    /* Memory of no file, never executable. */
    if (rc == 0)
        rc = seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 2, equal(2, PROT_EXEC, 0),
                              equal(3, MAP_ANONYMOUS, MAP_ANONYMOUS));
    if (rc == 0)
        rc = seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, equal(2, PROT_EXEC, 0));
    if (rc == 0)
        rc = seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(mremap), 0);
    /* Nobody to wait for is left: a lock may be freed, not waited for. */
    if (rc == 0)
        rc = seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(futex), 1,
                              equal(1, ~(scmp_datum_t)FUTEX_PRIVATE_FLAG, FUTEX_WAKE));
    return rc;
}

/* A sanitizer's own calls, in builds that have one. */
static int allow_sanitizer(scmp_filter_ctx c)
{
    static const int calls[] = {SCMP_SYS(sigaltstack), SCMP_SYS(sched_yield), SCMP_SYS(futex), SCMP_SYS(rt_sigprocmask),
                                SCMP_SYS(rt_sigaction), SCMP_SYS(sched_getaffinity)};
    int rc = seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(write), 1, equal(0, ~(scmp_datum_t)0, 2));

    for (size_t i = 0; rc == 0 && i < sizeof calls / sizeof calls[0]; i++)
        rc = seccomp_rule_add(c, SCMP_ACT_ALLOW, calls[i], 0);
    return rc;
}

/* Other calls fail instead of killing: libhdf5 then reports an error of its
 * own. Kernels without seccomp leave us the limits. */
static void filter_calls(void)
{
    scmp_filter_ctx c = seccomp_init(SCMP_ACT_ERRNO(EPERM));

    if (c && allow(c) == 0 && (!SANITIZED || allow_sanitizer(c) == 0))
        seccomp_load(c);
    seccomp_release(c);
}

static void close_others(void)
{
    if (close_range(PIPE + 1, ~0u, 0) == 0)
        return;
    for (int fd = PIPE + 1; fd < 65536; fd++)
        close(fd);
}

static void shut_in(int fd, const struct lmi_h5_limits *l)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_DUMPABLE, 0);
    for (int s = 1; s < NSIG; s++) /* a handler of the program's must not carry on here */
        signal(s, SIG_DFL);
    if (fd != PIPE && dup2(fd, PIPE) < 0)
        _exit(FAILED_SANDBOX);
    close_others();
    if (!SANITIZED)
        LIMIT(RLIMIT_AS, mapped_now() + l->memory);
    LIMIT(RLIMIT_CORE, 0);
    LIMIT(RLIMIT_FSIZE, 0);
    LIMIT(RLIMIT_CPU, l->ms / 1000 + 1);
    if (setitimer(ITIMER_PROF, &(struct itimerval){.it_value = {(time_t)(l->ms / 1000), (suseconds_t)(l->ms % 1000 * 1000)}}, NULL) < 0)
        _exit(FAILED_SANDBOX);
    LIMIT(RLIMIT_NOFILE, 0);
    filter_calls();
}

static void child(int fd, void (*work)(struct lmi_h5_out *o, void *arg), void *arg, const struct lmi_h5_limits *l)
{
    struct lmi_h5_out o = {.fd = PIPE, .max = l->report};

    shut_in(fd, l);
    work(&o, arg);
    if (o.full)
        lmi_h5_fail(&o, o.b.failed ? LM_NOMEM : LM_LIMIT, o.b.failed ? "out of memory" : "it lists more than can be real");
    lmi_h5_begin(&o, LMI_H5_END);
    o.max += 8;
    lmi_h5_send(&o);
    flush(&o);
    _exit(0);
}

/* ---- our side */

static int collect(struct lmi_buffer *b, int fd, uint64_t max, struct lm_err *e)
{
    uint8_t chunk[16384];

    for (;;) {
        ssize_t n = read(fd, chunk, sizeof chunk);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return lm_err_errno(e, "cannot read from the process of libhdf5");
        if (n == 0)
            return 0;
        if (b->n + (size_t)n > max)
            return lm_err_set(e, LM_LIMIT, "the process of libhdf5 reports more than %llu bytes", (unsigned long long)max);
        lmi_put(b, chunk, (size_t)n);
        if (b->failed)
            return lmi_nomem(e);
    }
}

/* The last record says that all went well, whatever became of the process. */
static bool has_end(const struct lmi_buffer *b)
{
    static const uint8_t end[5] = {LMI_H5_END};

    return b->n >= sizeof end && memcmp(b->data + b->n - sizeof end, end, sizeof end) == 0;
}

static int explain(int status, const struct lmi_h5_limits *l, struct lm_err *e)
{
    int sig = WIFSIGNALED(status) ? WTERMSIG(status) : 0;

    if (sig == SIGPROF || sig == SIGXCPU || sig == SIGKILL)
        return lm_err_set(e, LM_LIMIT, "libhdf5 was still computing after %.1f s or used too much memory, in its own process; "
                          "the file is broken or made to do that", (double)l->ms * 1e-3);
    if (sig == SIGINT || sig == SIGTERM)
        return lm_err_set(e, LM_INTERRUPTED, "interrupted while libhdf5 read it");
    if (sig)
        return lm_err_set(e, LM_MALFORMED, "libhdf5 crashed on it (signal %d), in its own process; the file is broken or "
                          "made to do that", sig);
    return lm_err_set(e, LM_MALFORMED, "libhdf5 ended without an answer, in its own process");
}

static int start(int *fd, pid_t *pid, void (*work)(struct lmi_h5_out *o, void *arg), void *arg,
                 const struct lmi_h5_limits *l, struct lm_err *e)
{
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) < 0)
        return lm_err_errno(e, "cannot make a pipe");
    *pid = fork();
    if (*pid == 0)
        child(ends[1], work, arg, l);
    close(ends[1]);
    *fd = ends[0];
    if (*pid > 0)
        return 0;
    close(ends[0]);
    return lm_err_errno(e, "cannot start a process for libhdf5");
}

int lmi_h5_box(struct lmi_buffer *report, void (*work)(struct lmi_h5_out *o, void *arg), void *arg,
               const struct lmi_h5_limits *l, struct lm_err *e)
{
    int fd = -1, status = 0;
    pid_t pid = -1;

    lmi_h5_lock();
    lmi_h5_quiet(); /* no byte of a file is seen here: every child finds the library set up */
    int rc = start(&fd, &pid, work, arg, l, e);
    lmi_h5_unlock();
    if (rc < 0)
        return -1;
    rc = collect(report, fd, l->report + 4096, e);
    close(fd);
    if (rc < 0)
        kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (rc == 0 && !has_end(report))
        rc = explain(status, l, e);
    return rc;
}
