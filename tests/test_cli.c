/* The command-line layer, and what every installed command must answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cmd/cli.h"

/* ---- running something in a child, with what it printed */

struct result { int code; char out[65536], err[8192]; };

static void slurp(int fd, char *buf, size_t size)
{
    size_t n = 0;
    ssize_t k;

    lseek(fd, 0, SEEK_SET);
    while (n < size - 1 && (k = read(fd, buf + n, size - 1 - n)) > 0)
        n += (size_t)k;
    buf[n] = '\0';
    close(fd);
}

static int temp_fd(void)
{
    char name[] = "/tmp/test_cli.XXXXXX";
    int fd = mkstemp(name);

    assert_true(fd >= 0);
    unlink(name);
    return fd;
}

static struct result *in_child(void (*fn)(void *), void *arg)
{
    static struct result r;
    int out = temp_fd(), err = temp_fd(), status;
    pid_t pid;

    fflush(NULL);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(out, 1);
        dup2(err, 2);
        fn(arg);
        exit(cli_finish(0));
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    r.code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    slurp(out, r.out, sizeof r.out);
    slurp(err, r.err, sizeof r.err);
    return &r;
}

/* ---- a command to parse */

struct target { bool flag; const char *text; int number, choice; uint64_t big, size; double real; };

static const char *const colours[] = {"red", "green", NULL};
#define AT(f) offsetof(struct target, f)
static const struct cli_opt opts[] = {
    {"flag", 'f', CLI_FLAG, NULL, AT(flag), "A flag.", NULL},
    {"text", 't', CLI_STRING, "TEXT", AT(text), "A text.", NULL},
    {"number", 'n', CLI_INT, "N", AT(number), "A number.", NULL},
    {"big", 0, CLI_UINT64, "N", AT(big), "A large number.", NULL},
    {"real", 0, CLI_REAL, "X", AT(real), "A real number.", NULL},
    {"size", 0, CLI_SIZE, "SIZE", AT(size), "A size.", NULL},
    {"colour", 'c', CLI_CHOICE, NULL, AT(choice), "A colour.", colours},
    {NULL, 0, 0, NULL, 0, NULL, NULL}};
static const struct cli_cmd cmd = {.name = "lm-test", .brief = "a test", .synopsis = "A [B]",
                                   .about = "Some words.\n", .opts = opts, .min_args = 1, .max_args = 2};

struct line { const char *argv[12]; struct target t; int n; };

static void parse(void *arg)
{
    struct line *l = arg;
    int argc = 0;

    while (l->argv[argc])
        argc++;
    l->n = cli_parse(&cmd, argc, (char **)(uintptr_t)l->argv, &l->t);
}

static void test_forms(void **state)
{
    struct line l = {.argv = {"lm-test", "-fn5", "one", "--text=a=b", "--big", "18446744073709551615", "--real", "-2.5e3",
                              "--size=2GiB", "-cgreen", NULL}};

    (void)state;
    parse(&l);
    assert_int_equal(l.n, 1);
    assert_string_equal(l.argv[1], "one");
    assert_true(l.t.flag);
    assert_int_equal(l.t.number, 5);
    assert_string_equal(l.t.text, "a=b");
    assert_true(l.t.big == UINT64_MAX);
    assert_true(l.t.real == -2500);
    assert_true(l.t.size == 2ull << 30);
    assert_int_equal(l.t.choice, 1);
}

static void test_positional(void **state)
{
    struct line l = {.argv = {"lm-test", "-", "-n", "-7", "--", "--flag", NULL}};

    (void)state;
    parse(&l);
    assert_int_equal(l.n, 2);
    assert_string_equal(l.argv[1], "-");
    assert_string_equal(l.argv[2], "--flag");
    assert_int_equal(l.t.number, -7);
    assert_false(l.t.flag);
}

/* Every wrong use: exit code 2 and one line that says what is wrong. */
static void test_wrong_use(void **state)
{
    static const struct { const char *argv[6]; const char *says; } wrong[] = {
        {{"lm-test", "a", "--nubmer", "3"}, "did you mean --number?"},
        {{"lm-test", "a", "--hlep"}, "did you mean --help?"},
        {{"lm-test", "a", "--xyzzy"}, "lm-test --help lists them"},
        {{"lm-test", "a", "-z"}, "no option -z"},
        {{"lm-test", "a", "--number"}, "--number wants a value: --number N"},
        {{"lm-test", "a", "-n"}, "-n wants a value"},
        {{"lm-test", "a", "--number=3x"}, "wants a whole number, not \"3x\""},
        {{"lm-test", "a", "--number=99999999999"}, "wants a whole number"},
        {{"lm-test", "a", "--big=-1"}, "wants a whole number from 0 up"},
        {{"lm-test", "a", "--real=nan"}, "wants a number"},
        {{"lm-test", "a", "--size=12Q"}, "wants a size"},
        {{"lm-test", "a", "--flag=1"}, "--flag takes no value"},
        {{"lm-test", "a", "--colour=blue"}, "is one of red or green, not \"blue\""},
        {{"lm-test"}, "an argument is missing: usage: lm-test [options] A [B]"},
        {{"lm-test", "a", "b", "c"}, "too many arguments"},
        {{"lm-test", "a", "--\033[2J"}, "no option --\\x1B[2J"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct line l = {0};
        memcpy(l.argv, wrong[i].argv, sizeof wrong[i].argv);
        struct result *r = in_child(parse, &l);
        assert_int_equal(r->code, CLI_USAGE);
        assert_string_equal(r->out, "");
        if (!strstr(r->err, wrong[i].says))
            fail_msg("\"%s\" does not say \"%s\"", r->err, wrong[i].says);
        assert_ptr_equal(strchr(r->err, '\n'), r->err + strlen(r->err) - 1);
    }
}

static void test_sizes(void **state)
{
    static const struct { const char *text; uint64_t is; } good[] = {
        {"0", 0}, {"800000", 800000}, {"64M", 64000000}, {"64m", 64000000}, {"2G", 2000000000}, {"2GB", 2000000000},
        {"1KiB", 1024}, {"1.5K", 1500}, {"3T", 3000000000000}, {"18446744073709551615", UINT64_MAX}, {"5B", 5}};
    static const char *const bad[] = {"", "M", "-1", "1X", "1MM", "1 M", "0x10", "inf", "18446744073709551616", "99999P"};
    uint64_t v;

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_true(cli_parse_size(good[i].text, &v));
        assert_true(v == good[i].is);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (cli_parse_size(bad[i], &v))
            fail_msg("\"%s\" was taken for a size", bad[i]);
}

/* ---- text */

static void test_safe(void **state)
{
    (void)state;
    assert_string_equal(cli_safe(lm_span_str("zażółć ▁ 😀 a\\b")), "zażółć ▁ 😀 a\\b");
    assert_string_equal(cli_safe(lm_span_str("\033]0;x\007")), "\\x1B]0;x\\x07");
    assert_string_equal(cli_safe(lm_span_of("a\0b\n", 4)), "a\\x00b\\x0A");
    assert_string_equal(cli_safe(lm_span_of("\xff\xc3", 2)), "\\xFF\\xC3");
    assert_string_equal(cli_safe(lm_span_str("\xe2\x80\xae")), "\\xE2\\x80\\xAE"); /* right-to-left override */
    assert_string_equal(cli_safe(lm_span_str("\xc2\x9b")), "\\xC2\\x9B");          /* CSI as one character */
    assert_string_equal(cli_safe(lm_span_of(NULL, 0)), "");
}

static void test_json_text(void **state)
{
    struct lm_span bad = lm_span_of("a\xff" "b", 3);
    json_t *j = cli_json_str(bad), *k = cli_json_str(lm_span_of("a\0b", 3)), *n = cli_json_real(0.0 / 0.0);

    (void)state;
    assert_string_equal(json_string_value(j), "a\\xFFb");
    assert_int_equal(json_string_length(k), 3);
    assert_true(json_is_null(n));
    json_decref(j);
    json_decref(k);
    json_decref(n);
}

static void test_numbers(void **state)
{
    char buf[64];

    (void)state;
    assert_string_equal(cli_count(buf, sizeof buf, 0), "0");
    assert_string_equal(cli_count(buf, sizeof buf, 999), "999");
    assert_string_equal(cli_count(buf, sizeof buf, 7241732096), "7 241 732 096");
    assert_string_equal(cli_count(buf, sizeof buf, UINT64_MAX), "18 446 744 073 709 551 615");
    assert_string_equal(cli_bytes(buf, sizeof buf, 999), "999 B");
    assert_string_equal(cli_bytes(buf, sizeof buf, 1000), "1.00 kB");
    assert_string_equal(cli_bytes(buf, sizeof buf, 14483464192), "14.48 GB");
    assert_string_equal(cli_bytes(buf, sizeof buf, 999999999), "1.00 GB");
}

static void test_width(void **state)
{
    (void)state;
    assert_int_equal(cli_text_width("abc"), 3);
    assert_int_equal(cli_text_width("łódź"), 4);
    assert_int_equal(cli_text_width("日本"), 4);
    assert_int_equal(cli_text_width("e\xcc\x81"), 1); /* combining accent */
}

static void print_table(void *arg)
{
    static const char *const heads[] = {"name", "n"};
    struct cli_table *t = cli_table_new(heads, "lr");

    (void)arg;
    cli_table_row(t, "日本", "7");
    cli_table_row(t, "łódź i", "1 000");
    cli_table_print(t, stdout);
}

static void test_table(void **state)
{
    (void)state;
    assert_string_equal(in_child(print_table, NULL)->out, "name        n\n日本        7\nłódź i  1 000\n");
}

static void make_progress(void *arg)
{
    struct cli_progress p;

    (void)arg;
    cli_progress_begin(&p, "converting");
    cli_progress(&p, 1, 100000000); /* too early to say anything */
    p.began -= 20;
    cli_progress(&p, 50000000, 100000000);
    cli_progress(&p, 60000000, 100000000); /* too soon after the last line */
    p.shown -= 11;
    p.began -= 20;
    p.unit = "tokens";
    cli_progress(&p, 80, 100);
    cli_progress_end(&p);
}

static void test_progress(void **state)
{
    (void)state;
    assert_string_equal(in_child(make_progress, NULL)->err,
                        "converting: 50 % (50.00 MB of 100.00 MB), 2.50 MB/s, 0:20 left\n"
                        "converting: 80 % (80 tokens of 100 tokens), 2 tokens/s, 0:10 left\n");
}

static void test_read_text(void **state)
{
    char *text;
    size_t n;
    struct lm_err e;

    (void)state;
    assert_int_equal(cli_read_text(&text, &n, "zażółć", NULL, &e), 0);
    assert_int_equal(n, 10);
    free(text);
    assert_int_equal(cli_read_text(&text, &n, NULL, "samples/polish-5m/config.json", &e), 0);
    assert_int_equal(n, strlen(text));
    free(text);
    assert_int_equal(cli_read_text(&text, &n, "a", "b", &e), -1);
    assert_int_equal(e.code, LM_USAGE);
    assert_int_equal(cli_read_text(&text, &n, NULL, "/nonexistent/file", &e), -1);
    assert_int_equal(e.code, LM_IO);
    assert_non_null(strstr(e.text, "/nonexistent/file"));
    assert_int_equal(cli_read_text(&text, &n, NULL, "/tmp", &e), -1);
    assert_int_equal(e.code, LM_IO);
}

/* ---- ends of a process */

static void to_full(void *arg)
{
    struct line l = {.argv = {"lm-test", "a", NULL}};

    (void)arg;
    parse(&l);
    dup2(open("/dev/full", O_WRONLY), 1);
    for (int i = 0; i < 100000; i++)
        puts("0123456789");
    exit(cli_finish(0));
}

static void to_closed_pipe(void *arg)
{
    struct line l = {.argv = {"lm-test", "a", NULL}};
    int fds[2];

    (void)arg;
    parse(&l);
    assert_int_equal(pipe(fds), 0);
    dup2(fds[1], 1);
    close(fds[0]);
    close(fds[1]);
    for (int i = 0; i < 100000; i++)
        puts("0123456789");
    exit(cli_finish(0));
}

static void to_closed_stdout(void *arg)
{
    struct line l = {.argv = {"lm-test", "a", NULL}};

    (void)arg;
    close(1);
    parse(&l);
    puts("lost");
    exit(cli_finish(0));
}

static void bus(void *arg)
{
    struct line l = {.argv = {"lm-test", "a", NULL}};

    (void)arg;
    parse(&l);
    raise(SIGBUS);
}

static void test_output_ends(void **state)
{
    struct result *r = in_child(to_full, NULL);

    (void)state;
    assert_int_equal(r->code, CLI_FAILED);
    assert_string_equal(r->err, "lm-test: cannot write to standard output: No space left on device\n");
    r = in_child(to_closed_pipe, NULL);
    assert_int_equal(r->code, 0);
    assert_string_equal(r->err, "");
    r = in_child(to_closed_stdout, NULL);
    assert_int_equal(r->code, CLI_FAILED);
    assert_string_equal(r->err, "lm-test: cannot write to standard output: Bad file descriptor\n");
}

static void test_bus(void **state)
{
    struct result *r = in_child(bus, NULL);

    (void)state;
    assert_int_equal(r->code, CLI_FAILED);
    assert_string_equal(r->err, "lm-test: input changed or truncated while reading\n");
}

static void test_exit_codes(void **state)
{
    static const struct { enum lm_code code; int exit; } codes[] = {
        {LM_USAGE, 2}, {LM_IO, 3}, {LM_MALFORMED, 3}, {LM_MISMATCH, 3}, {LM_INTERRUPTED, 130}};
    int saved = dup(2), null = open("/dev/null", O_WRONLY);

    (void)state;
    dup2(null, 2);
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        struct lm_err e;
        lm_err_set(&e, codes[i].code, "text");
        assert_int_equal(cli_fail(&e), codes[i].exit);
    }
    dup2(saved, 2);
    close(saved);
    close(null);
}

/* ---- every command */

static const char *const commands[] = {
#define COMMAND(s) #s,
#include "cmd/commands.def"
#undef COMMAND
    NULL};

struct call { char path[PATH_MAX + 100]; const char *option; };

static void run_command(void *arg)
{
    struct call *c = arg;

    execl(c->path, c->path, c->option, (char *)NULL);
    _exit(127);
}

static struct result *ask(const char *name, const char *option)
{
    struct call c = {.option = option};
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

    assert_true(n > 0);
    self[n] = '\0';
    for (int up = 0; up < 2; up++)
        *strrchr(self, '/') = '\0';
    snprintf(c.path, sizeof c.path, "%s/lm-%s", self, name);
    return in_child(run_command, &c);
}

/* Options stand two spaces in; an explanation follows on that line or the next. */
static void check_options(const char *name, const char *help)
{
    const char *p = strstr(help, "\nOptions:\n");
    size_t n = 0;

    assert_non_null(p);
    for (p += strlen("\nOptions:\n"); *p && *p != '\n'; p = strchr(p, '\n') + 1) {
        if (strncmp(p, "  -", 3) != 0 && strncmp(p, "      --", 8) != 0)
            continue;
        const char *end = strchr(p, '\n');
        const char *gap = strstr(p + 8, "  ");
        bool here = gap && gap < end, below = strncmp(end + 1, "         ", 9) == 0;
        if (!here && !below)
            fail_msg("lm-%s --help: no explanation: %.*s", name, (int)(end - p), p);
        n++;
    }
    assert_true(n >= 4);
}

static void test_every_command_is_listed(void **state)
{
    glob_t g;

    (void)state;
    assert_int_equal(glob("cmd/lm-*.c", 0, NULL, &g), 0);
    for (size_t i = 0; i < g.gl_pathc; i++) {
        char *name = g.gl_pathv[i] + strlen("cmd/lm-");
        bool listed = false;
        *strrchr(name, '.') = '\0';
        for (size_t k = 0; commands[k]; k++)
            listed |= strcmp(commands[k], name) == 0;
        if (!listed)
            fail_msg("cmd/commands.def has no row for %s", name);
    }
    globfree(&g);
}

static void test_every_command(void **state)
{
    (void)state;
    for (size_t i = 0; commands[i]; i++) {
        struct result *r = ask(commands[i], "--help");
        char begin[100];
        snprintf(begin, sizeof begin, "Usage: lm-%s [options] ", commands[i]);
        if (r->code != 0 || strncmp(r->out, begin, strlen(begin)) != 0)
            fail_msg("lm-%s --help: exit %d: %.60s", commands[i], r->code, r->out);
        check_options(commands[i], r->out);
        if (!strstr(r->out, "--json"))
            fail_msg("lm-%s has no --json", commands[i]);
        r = ask(commands[i], "--version");
        assert_int_equal(r->code, 0);
        assert_non_null(strstr(r->out, LM_VERSION));
        r = ask(commands[i], "--brief");
        assert_int_equal(r->code, 0);
        assert_true(strlen(r->out) > 10 && strlen(r->out) < 80);
        r = ask(commands[i], "--man");
        assert_int_equal(r->code, 0);
        assert_memory_equal(r->out, ".TH \"LM-", 8);
        assert_non_null(strstr(r->out, "\n.SH OPTIONS\n.TP\n"));
        r = ask(commands[i], "--completions");
        assert_int_equal(r->code, 0);
        assert_non_null(strstr(r->out, "complete -o filenames -F _lm_"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms), cmocka_unit_test(test_positional), cmocka_unit_test(test_wrong_use),
        cmocka_unit_test(test_sizes), cmocka_unit_test(test_safe), cmocka_unit_test(test_json_text),
        cmocka_unit_test(test_numbers), cmocka_unit_test(test_width), cmocka_unit_test(test_table),
        cmocka_unit_test(test_progress), cmocka_unit_test(test_read_text),
        cmocka_unit_test(test_output_ends), cmocka_unit_test(test_bus),
        cmocka_unit_test(test_exit_codes),
        cmocka_unit_test(test_every_command_is_listed), cmocka_unit_test(test_every_command)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
