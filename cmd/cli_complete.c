/* Completions for bash, zsh and fish, printed from the table that also parses.
 * Words of an option come from its choices or from what its argument is called:
 * TYPE, RULE; GLOB is completed with the names of the model on the line. */
#include "cmd/cli_help.h"

#include "convert/audit.h"

/* The i-th word that may follow an option, or NULL. */
static const char *word(const struct cli_opt *o, size_t i)
{
    const struct lm_ftype *f;
    const struct lm_rule *r;

    if (o->kind == CLI_CHOICE)
        return o->choices[i];
    if (o->arg && strcmp(o->arg, "TYPE") == 0)
        return (f = lm_ftype_at(i)) ? f->name : NULL;
    if (o->arg && strcmp(o->arg, "RULE") == 0)
        return (r = lm_rule_at(i)) ? r->id : NULL;
    return NULL;
}

static bool is_file(const struct cli_opt *o)
{
    static const char *const names[] = {"FILE", "DST", "PATH", "DIR"};

    for (size_t i = 0; o->arg && i < sizeof names / sizeof *names; i++)
        if (strcmp(o->arg, names[i]) == 0)
            return true;
    return false;
}

static bool is_tensor(const struct cli_opt *o)
{
    return o->arg && strcmp(o->arg, "GLOB") == 0;
}

static void print_words(const struct cli_opt *o, const char *between)
{
    for (size_t i = 0; word(o, i); i++)
        printf("%s%s", i ? between : "", word(o, i));
}

/* s inside single quotes of a shell. */
static void quoted(const char *s, const char *quote)
{
    for (; *s; s++)
        if (*s == '\'')
            fputs(quote, stdout);
        else
            putchar(*s);
}

/* ---- bash */

static void bash_case(const struct cli_opt *o)
{
    if (o->kind == CLI_FLAG)
        return;
    printf("    --%s", o->name);
    if (o->letter)
        printf("|-%c", o->letter);
    printf(") COMPREPLY=(");
    if (word(o, 0)) {
        printf("$(compgen -W '");
        print_words(o, " ");
        printf("' -- \"$cur\")");
    } else if (is_tensor(o)) {
        printf("$(compgen -W \"$(for w in \"${COMP_WORDS[@]:1}\"; do [ -e \"$w\" ] && lm-list --names \"$w\"; done 2>/dev/null)\" "
               "-- \"$cur\")");
    } else if (is_file(o)) {
        printf("$(compgen -f -- \"$cur\")");
    }
    puts("); return ;;");
}

static void bash_names(const struct cli_opt *o)
{
    for (; o->name; o++)
        printf(" --%s", o->name);
}

static void bash(const struct cli_cmd *cmd)
{
    char fn[64];

    snprintf(fn, sizeof fn, "_%s", cmd->name);
    for (char *p = fn; *p; p++)
        *p = *p == '-' ? '_' : *p;
    printf("%s()\n{\n    local cur=\"${COMP_WORDS[COMP_CWORD]}\" prev=\"${COMP_WORDS[COMP_CWORD-1]}\"\n", fn);
    printf("    case \"$prev\" in\n");
    for (const struct cli_opt *o = cmd->opts; o->name; o++)
        bash_case(o);
    printf("    esac\n    case \"$cur\" in\n    -*) COMPREPLY=($(compgen -W '");
    bash_names(cmd->opts);
    bash_names(cli_implied);
    printf("' -- \"$cur\")) ;;\n    *) COMPREPLY=($(compgen -f -- \"$cur\")) ;;\n    esac\n}\n");
    printf("complete -o filenames -F %s %s\n", fn, cmd->name);
}

/* ---- zsh */

/* [text] of an _arguments specification: brackets and colons mean something there. */
static void zsh_text(const char *s)
{
    for (; *s; s++) {
        if (strchr("[]:\\", *s))
            putchar('\\');
        if (*s == '\'')
            fputs("'\\''", stdout);
        else
            putchar(*s);
    }
}

static void zsh_option(const struct cli_opt *o, const char *name, bool lettered)
{
    const char *repeat = o->kind == CLI_LIST ? "*" : "";

    printf(" \\\n    '%s%s%s[", repeat, name, o->kind == CLI_FLAG || lettered ? "" : "=");
    zsh_text(o->help);
    printf("]");
    if (o->kind != CLI_FLAG) {
        printf(":%s:", o->arg ? o->arg : o->name);
        if (word(o, 0)) {
            printf("(");
            print_words(o, " ");
            printf(")");
        } else if (is_tensor(o)) {
            printf("{_values tensor $(for w in $words[2,-1]; do [ -e $w ] && lm-list --names $w; done 2>/dev/null)}");
        } else if (is_file(o)) {
            printf("_files");
        }
    }
    printf("'");
}

static void zsh_options(const struct cli_opt *o)
{
    for (; o->name; o++) {
        char name[100];
        snprintf(name, sizeof name, "--%s", o->name);
        zsh_option(o, name, false);
        snprintf(name, sizeof name, "-%c", o->letter);
        if (o->letter)
            zsh_option(o, name, true);
    }
}

static void zsh(const struct cli_cmd *cmd)
{
    printf("#compdef %s\n_arguments -s", cmd->name);
    zsh_options(cmd->opts);
    zsh_options(cli_implied);
    printf(" \\\n    '*:file:_files'\n");
}

/* ---- fish */

static void fish_options(const struct cli_cmd *cmd, const struct cli_opt *o)
{
    for (; o->name; o++) {
        printf("complete -c %s -l %s", cmd->name, o->name);
        if (o->letter)
            printf(" -s %c", o->letter);
        if (o->kind != CLI_FLAG)
            printf(is_file(o) ? " -r -F" : " -x");
        if (word(o, 0)) {
            printf(" -a '");
            print_words(o, " ");
            printf("'");
        } else if (is_tensor(o)) {
            printf(" -a '(for w in (commandline -opc)[2..]; test -e $w; and lm-list --names $w; end 2>/dev/null)'");
        }
        printf(" -d '");
        quoted(o->help, "\\'");
        printf("'\n");
    }
}

static void fish(const struct cli_cmd *cmd)
{
    fish_options(cmd, cmd->opts);
    fish_options(cmd, cli_implied);
}

bool cli_print_completions(const struct cli_cmd *cmd, const char *shell)
{
    if (!shell || strcmp(shell, "bash") == 0)
        bash(cmd);
    else if (strcmp(shell, "zsh") == 0)
        zsh(cmd);
    else if (strcmp(shell, "fish") == 0)
        fish(cmd);
    else
        return false;
    return true;
}
