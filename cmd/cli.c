/* Command lines against an option table. */
#include "cmd/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include "cmd/cli_help.h"

static const struct cli_cmd *the_cmd;

const char *cli_name(void)
{
    return the_cmd ? the_cmd->name : "lm";
}

/* ---- wrong use */

__attribute__((format(printf, 1, 2), noreturn)) static void usage(const char *format, ...)
{
    struct lm_err e;
    char text[1000];
    va_list ap;

    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    lm_err_set(&e, LM_USAGE, "%s", text);
    cli_fail(&e);
    exit(CLI_USAGE);
}

static size_t min3(size_t a, size_t b, size_t c)
{
    size_t m = a < b ? a : b;
    return m < c ? m : c;
}

/* Edits (insert, drop, change) that turn a into b; names are short. */
static size_t distance(const char *a, const char *b)
{
    size_t row[64], nb = strlen(b);

    if (nb >= 64)
        return SIZE_MAX;
    for (size_t j = 0; j <= nb; j++)
        row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 1; j <= nb; j++) {
            size_t up = row[j];
            row[j] = min3(up + 1, row[j - 1] + 1, diagonal + (a[i] != b[j - 1]));
            diagonal = up;
        }
    }
    return row[nb];
}

size_t cli_distance(const char *typed, const char *known)
{
    if (strlen(typed) >= 3 && strncmp(known, typed, strlen(typed)) == 0)
        return 1;
    return distance(typed, known);
}

static void nearest_in(const struct cli_opt *o, const char *name, const struct cli_opt **best, size_t *least)
{
    for (; o->name; o++) {
        size_t d = cli_distance(name, o->name);
        if (d < *least)
            *least = d, *best = o;
    }
}

__attribute__((noreturn)) static void unknown_option(const struct cli_cmd *cmd, const char *name)
{
    const struct cli_opt *best = NULL;
    size_t least = strlen(name) / 2 + 1;

    if (least > 4)
        least = 4;
    nearest_in(cmd->opts, name, &best, &least);
    nearest_in(cli_implied, name, &best, &least);
    if (best)
        usage("there is no option --%s; did you mean --%s?", name, best->name);
    usage("there is no option --%s; %s --help lists them", name, cmd->name);
}

/* ---- values */

static bool parse_real(const char *text, double *out)
{
    char *end;

    errno = 0;
    *out = strtod(text, &end);
    return end != text && *end == '\0' && errno == 0 && isfinite(*out);
}

static bool parse_u64(const char *text, uint64_t *out)
{
    char *end;

    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    *out = strtoull(text, &end, text[1] == 'x' ? 16 : 10);
    return *end == '\0' && errno == 0;
}

static bool parse_int(const char *text, int *out)
{
    char *end;

    errno = 0;
    long v = strtol(text, &end, 10);
    *out = (int)v;
    return end != text && *end == '\0' && errno == 0 && v >= INT_MIN && v <= INT_MAX;
}

bool cli_parse_size(const char *text, uint64_t *out)
{
    static const char units[] = "KMGTP";
    char *end;

    if (*text < '0' || *text > '9')
        return false;
    long double v = strtold(text, &end), step = 1000;
    if (end != text + strspn(text, "0123456789.")) /* 0x10, 1e9 */
        return false;
    const char *u = *end ? strchr(units, *end >= 'a' ? *end - 32 : *end) : NULL;
    if (u && *u) {
        end++;
        if (*end == 'i')
            step = 1024, end++;
        for (const char *p = units; p <= u; p++)
            v *= step;
    }
    if (*end == 'B')
        end++;
    if (*end || !(v < 18446744073709551616.0L))
        return false;
    *out = (uint64_t)v;
    return true;
}

static void join_choices(const char *const *c, char *buf, size_t size)
{
    size_t n = 0;

    buf[0] = '\0';
    for (size_t i = 0; c[i] && n < size; i++)
        n += (size_t)snprintf(buf + n, size - n, "%s%s", i ? (c[i + 1] ? ", " : " or ") : "", c[i]);
}

static bool parse_choice(const struct cli_opt *o, const char *text, int *out)
{
    for (int i = 0; o->choices[i]; i++)
        if (strcmp(o->choices[i], text) == 0)
            return *out = i, true;
    char list[400];
    join_choices(o->choices, list, sizeof list);
    usage("--%s is one of %s, not \"%s\"", o->name, list, text);
}

static void add_to_list(struct cli_list *l, const char *text)
{
    const char **p = realloc(l->items, (l->n + 1) * sizeof *p);

    if (!p)
        usage("no memory for the arguments");
    l->items = p;
    l->items[l->n++] = text;
}

static void set_option(const struct cli_opt *o, const char *text, void *target)
{
    static const char *const wanted[] = {
        [CLI_INT] = "a whole number", [CLI_UINT64] = "a whole number from 0 up", [CLI_REAL] = "a number",
        [CLI_SIZE] = "a size such as 800000, 64M (millions) or 2GiB"};
    void *p = (char *)target + o->offset;
    bool ok = true;

    switch (o->kind) {
    case CLI_FLAG: *(bool *)p = true; break;
    case CLI_STRING: *(const char **)p = text; break;
    case CLI_INT: ok = parse_int(text, p); break;
    case CLI_UINT64: ok = parse_u64(text, p); break;
    case CLI_REAL: ok = parse_real(text, p); break;
    case CLI_SIZE: ok = cli_parse_size(text, p); break;
    case CLI_CHOICE: ok = parse_choice(o, text, p); break;
    case CLI_LIST: add_to_list(p, text); break;
    }
    if (!ok)
        usage("--%s wants %s, not \"%s\"", o->name, wanted[o->kind], text);
}

/* ---- finding options */

static const struct cli_opt *find_long(const struct cli_opt *o, const char *name, size_t n)
{
    for (; o->name; o++)
        if (strncmp(o->name, name, n) == 0 && o->name[n] == '\0')
            return o;
    return NULL;
}

static const struct cli_opt *find_letter(const struct cli_opt *o, char letter)
{
    for (; o->name; o++)
        if (o->letter == letter)
            return o;
    return NULL;
}

__attribute__((noreturn)) static void run_implied(const struct cli_cmd *cmd, const struct cli_opt *o,
                                                  const char *value)
{
    if (strcmp(o->name, "help") == 0)
        cli_print_help(cmd);
    else if (strcmp(o->name, "man") == 0)
        cli_print_man(cmd);
    else if (strcmp(o->name, "completions") == 0 && !cli_print_completions(cmd, value))
        usage("--completions wants bash, zsh or fish, not \"%s\"", value);
    else if (strcmp(o->name, "version") == 0)
        printf("%s (libmodel) %s\n", cmd->name, LM_VERSION);
    exit(cli_finish(CLI_OK));
}

/* --name, --name=value, --name value; returns how many arguments it took. */
static int take_long(const struct cli_cmd *cmd, char **argv, void *target)
{
    const char *name = argv[0] + 2, *equals = strchr(name, '=');
    size_t n = equals ? (size_t)(equals - name) : strlen(name);
    const struct cli_opt *o = find_long(cmd->opts, name, n);

    if (!o && (o = find_long(cli_implied, name, n)))
        run_implied(cmd, o, equals ? equals + 1 : NULL);
    if (!o && strcmp(name, "brief") == 0) {
        puts(cmd->brief);
        exit(cli_finish(CLI_OK));
    }
    if (!o) {
        char typed[100];
        snprintf(typed, sizeof typed, "%.*s", (int)(n < 99 ? n : 99), name);
        unknown_option(cmd, typed);
    }
    if (o->kind == CLI_FLAG && equals)
        usage("--%s takes no value", o->name);
    if (o->kind == CLI_FLAG || equals)
        return set_option(o, equals ? equals + 1 : NULL, target), 1;
    if (!argv[1])
        usage("--%s wants a value: --%s %s", o->name, o->name, o->arg ? o->arg : "VALUE");
    return set_option(o, argv[1], target), 2;
}

/* -a, -ab (flags), -n5, -n 5. */
static int take_letters(const struct cli_cmd *cmd, char **argv, void *target)
{
    for (const char *p = argv[0] + 1; *p; p++) {
        const struct cli_opt *o = find_letter(cmd->opts, *p);
        if (!o && (o = find_letter(cli_implied, *p)))
            run_implied(cmd, o, NULL);
        if (!o)
            usage("there is no option -%c; %s --help lists them", *p, cmd->name);
        if (o->kind == CLI_FLAG) {
            set_option(o, NULL, target);
            continue;
        }
        if (p[1])
            return set_option(o, p + 1, target), 1;
        if (!argv[1])
            usage("-%c wants a value: -%c %s", *p, *p, o->arg ? o->arg : "VALUE");
        return set_option(o, argv[1], target), 2;
    }
    return 1;
}

static void check_count(const struct cli_cmd *cmd, int n)
{
    if (n < cmd->min_args)
        usage("%s: usage: %s [options] %s", n == 0 ? "an argument is missing" : "too few arguments", cmd->name,
              cmd->synopsis);
    if (cmd->max_args >= 0 && n > cmd->max_args)
        usage("too many arguments: usage: %s [options] %s", cmd->name, cmd->synopsis);
}

/* ---- the process */

static void on_bus(int signal_number)
{
    static const char text[] = ": input changed or truncated while reading\n";
    const char *name = cli_name();

    (void)signal_number;
    if (write(2, name, strlen(name)) < 0 || write(2, text, sizeof text - 1) < 0)
        _exit(CLI_FAILED);
    _exit(CLI_FAILED);
}

/* A descriptor closed by the caller would be handed to the next file we open,
 * and a message would land in it. Opened the wrong way round, so use fails. */
static void guard_std_fds(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            (void)!open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY);
}

static void set_handlers(void)
{
    struct sigaction bus = {.sa_handler = on_bus}, pipe_ = {.sa_handler = SIG_IGN};

    sigaction(SIGBUS, &bus, NULL);
    sigaction(SIGPIPE, &pipe_, NULL);
}

int cli_parse(const struct cli_cmd *cmd, int argc, char **argv, void *target)
{
    int n = 0;

    the_cmd = cmd;
    guard_std_fds();
    set_handlers();
    if (!isatty(1))
        setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    for (int i = 1; i < argc;) {
        if (strcmp(argv[i], "--") == 0) {
            for (i++; i < argc; i++)
                argv[++n] = argv[i];
        } else if (argv[i][0] == '-' && argv[i][1] == '-')
            i += take_long(cmd, argv + i, target);
        else if (argv[i][0] == '-' && argv[i][1])
            i += take_letters(cmd, argv + i, target);
        else
            argv[++n] = argv[i++];
    }
    check_count(cmd, n);
    return n;
}
