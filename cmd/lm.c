/* lm: runs lm-NAME, found beside this program or on PATH. */
#include "cmd/cli.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const names[] = {
#define COMMAND(s) #s,
#include "cmd/commands.def"
#undef COMMAND
    NULL};

/* The path of lm-NAME in the folder of this very program; false if it is unknown. */
static bool beside(const char *name, char *path, size_t size)
{
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

    if (n <= 0)
        return false;
    self[n] = '\0';
    *strrchr(self, '/') = '\0';
    int len = snprintf(path, size, "%s/lm-%s", self, name);
    return len > 0 && (size_t)len < size && access(path, X_OK) == 0;
}

/* Becomes lm-NAME; returns only when there is none. */
static void become(const char *name, char **argv)
{
    char path[PATH_MAX + 300], command[300];

    snprintf(command, sizeof command, "lm-%s", name);
    argv[0] = command;
    if (beside(name, path, sizeof path))
        execv(path, argv);
    execvp(command, argv);
}

static int no_such_command(const char *name)
{
    const char *best = NULL;
    size_t least = 3;
    struct lm_err e;

    for (size_t i = 0; names[i]; i++) {
        size_t d = cli_distance(name, names[i]);
        if (d < least)
            least = d, best = names[i];
    }
    if (errno != ENOENT)
        lm_err_errno(&e, "cannot run lm-%s", name);
    else if (best)
        lm_err_set(&e, LM_USAGE, "there is no command lm-%s; did you mean lm %s?", name, best);
    else
        lm_err_set(&e, LM_USAGE, "there is no command lm-%s; lm help lists them", name);
    return cli_fail(&e);
}

/* The line that lm-NAME says about itself; false when it is not installed. */
static bool ask_brief(const char *name, char *line, size_t size)
{
    char path[PATH_MAX + 300];
    int fds[2], status;

    if (!beside(name, path, sizeof path) || pipe(fds) != 0)
        return false;
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fds[1], 1);
        close(fds[0]);
        close(fds[1]);
        execl(path, path, "--brief", (char *)NULL);
        _exit(127);
    }
    close(fds[1]);
    FILE *f = fdopen(fds[0], "r");
    bool ok = f && fgets(line, (int)size, f);
    if (f)
        fclose(f);
    if (pid > 0)
        waitpid(pid, &status, 0);
    line[ok ? strcspn(line, "\n") : 0] = '\0';
    return ok;
}

static void list_commands(void)
{
    printf("Usage: lm NAME [options] …    runs lm-NAME; lm help NAME explains it\n\n");
    for (size_t i = 0; names[i]; i++) {
        char line[200];
        if (ask_brief(names[i], line, sizeof line))
            printf("  %-10s %s\n", names[i], line);
        else
            printf("  %-10s (not installed beside lm)\n", names[i]);
    }
}

static void print_completions(void)
{
    printf("_lm()\n{\n    if [ \"$COMP_CWORD\" -eq 1 ]; then\n        COMPREPLY=($(compgen -W 'help");
    for (size_t i = 0; names[i]; i++)
        printf(" %s", names[i]);
    printf("' -- \"${COMP_WORDS[1]}\"))\n    elif declare -F \"_lm_${COMP_WORDS[1]}\" >/dev/null; then\n"
           "        \"_lm_${COMP_WORDS[1]}\"\n    else\n"
           "        COMPREPLY=($(compgen -f -- \"${COMP_WORDS[COMP_CWORD]}\"))\n    fi\n}\n"
           "complete -o filenames -F _lm lm\n");
}

static const struct cli_opt opts[] = {{NULL, 0, 0, NULL, 0, NULL, NULL}};

static const struct cli_cmd cmd = {
    .name = "lm",
    .brief = "look into, convert, quantize, compare and run checkpoints of language models",
    .synopsis = "NAME …",
    .about = "Runs the command lm-NAME with the arguments that follow. `lm help` lists the commands, `lm help NAME` "
             "explains one; each has also a manual page, lm-NAME(1).\n",
    .opts = opts,
    .examples = "  $ lm list model.gguf\n  $ lm help convert\n",
    .min_args = 0,
    .max_args = 0};

static int help(int argc, char **argv)
{
    char option[] = "--help";
    char *child[] = {NULL, option, NULL};

    if (argc == 2) {
        list_commands();
        return cli_finish(CLI_OK);
    }
    become(argv[2], child);
    return no_such_command(argv[2]);
}

int main(int argc, char **argv)
{
    char none[] = "lm", *alone[] = {none, NULL};

    if (argc > 1 && argv[1][0] != '-' && strcmp(argv[1], "help") != 0) {
        char **rest = argv + 1;
        const char *name = argv[1];
        cli_parse(&cmd, 1, alone, NULL);
        become(name, rest);
        return no_such_command(name);
    }
    if (argc == 2 && strcmp(argv[1], "--completions") == 0) {
        print_completions();
        return cli_finish(CLI_OK);
    }
    if (argc > 1 && strcmp(argv[1], "help") == 0) {
        cli_parse(&cmd, 1, alone, NULL);
        return help(argc, argv);
    }
    cli_parse(&cmd, argc, argv, NULL);
    list_commands();
    return cli_finish(CLI_USAGE);
}
