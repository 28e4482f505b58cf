/* --help and --man, printed from the table that also parses. */
#include "cmd/cli_help.h"

#include <ctype.h>
#include <stdlib.h>

#include <utf8proc.h>

const struct cli_opt cli_implied[] = {
    {"help", 'h', CLI_FLAG, NULL, 0, "Print this help.", NULL},
    {"version", 0, CLI_FLAG, NULL, 0, "Print the version.", NULL},
    {"man", 0, CLI_FLAG, NULL, 0, "Print the manual page in the form that man(1) reads.", NULL},
    {"completions", 0, CLI_FLAG, NULL, 0, "Print completions for bash; =zsh, =fish for those.", NULL},
    {NULL, 0, 0, NULL, 0, NULL, NULL}};

/* ---- wrapping */

/* Words of text (up to `end`), from column `at`, continued at column indent. */
static void wrap(const char *text, const char *end, size_t at, size_t indent, size_t width)
{
    while (text < end) {
        while (text < end && isspace((unsigned char)*text))
            text++;
        const char *word = text;
        while (text < end && !isspace((unsigned char)*text))
            text++;
        if (text == word)
            break;
        char copy[200];
        snprintf(copy, sizeof copy, "%.*s", (int)(text - word), word);
        size_t w = cli_text_width(copy);
        if (at > indent && at + 1 + w > width) {
            printf("\n%*s", (int)indent, "");
            at = indent;
        } else if (at > indent) {
            putchar(' ');
            at++;
        }
        fwrite(word, 1, (size_t)(text - word), stdout);
        at += w;
    }
    putchar('\n');
}

/* Calls back for each paragraph (blank lines between) or line that begins with
 * a space, which keeps its form. */
static void each_block(const char *text, void (*fn)(const char *begin, const char *end, bool literal, size_t width),
                       size_t width)
{
    while (*text) {
        const char *end = text;
        bool literal = *text == ' ' || *text == '\n';
        do {
            end += strcspn(end, "\n");
            end += *end == '\n';
        } while (!literal && *end && *end != '\n' && *end != ' ');
        fn(text, end, literal, width);
        text = end;
    }
}

static void help_block(const char *begin, const char *end, bool literal, size_t width)
{
    if (!literal)
        wrap(begin, end, 0, 0, width);
    else
        fwrite(begin, 1, (size_t)(end - begin), stdout);
}

/* ---- help */

static void opt_head(const struct cli_opt *o, char *buf, size_t size)
{
    char arg[200] = "";
    size_t n = 0;

    if (o->arg)
        n = (size_t)snprintf(arg, sizeof arg, " %s", o->arg);
    for (size_t i = 0; !o->arg && o->choices && o->choices[i] && n < sizeof arg; i++)
        n += (size_t)snprintf(arg + n, sizeof arg - n, "%s%s", i ? "|" : " ", o->choices[i]);
    if (o->letter)
        snprintf(buf, size, "-%c, --%s%s", o->letter, o->name, arg);
    else
        snprintf(buf, size, "    --%s%s", o->name, arg);
}

static void help_options(const struct cli_opt *o, size_t column, size_t width)
{
    for (; o->name; o++) {
        char head[300];
        opt_head(o, head, sizeof head);
        size_t at = 2 + cli_text_width(head);
        printf("  %s", head);
        if (at + 2 > column) {
            putchar('\n');
            at = 0;
        }
        printf("%*s", (int)(column - at), "");
        wrap(o->help, o->help + strlen(o->help), column, column, width);
    }
}

static size_t widest_head(const struct cli_opt *o, size_t limit)
{
    size_t widest = 0;

    for (; o->name; o++) {
        char head[300];
        opt_head(o, head, sizeof head);
        size_t w = cli_text_width(head);
        if (w > widest && w <= limit)
            widest = w;
    }
    return widest;
}

void cli_print_help(const struct cli_cmd *cmd)
{
    size_t width = cli_width(stdout, 80);

    width = width > 100 ? 100 : width < 50 ? 50 : width;
    printf("Usage: %s [options] %s\n\n", cmd->name, cmd->synopsis);
    each_block(cmd->about, help_block, width);
    printf("\nOptions:\n");
    size_t a = widest_head(cmd->opts, 26), b = widest_head(cli_implied, 26);
    size_t column = (a > b ? a : b) + 4;
    help_options(cmd->opts, column, width);
    help_options(cli_implied, column, width);
    if (cmd->examples)
        printf("\nExamples:\n%s%s", cmd->examples, cmd->examples[strlen(cmd->examples) - 1] == '\n' ? "" : "\n");
}

/* ---- roff */

/* A letter beyond ASCII in the form that every roff reads; returns its bytes. */
static size_t roff_letter(const char *text, const char *end)
{
    utf8proc_int32_t c;
    utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text, end - text, &c);

    if (n <= 0)
        return 1;
    printf("\\[u%04X]", (unsigned)c);
    return (size_t)n;
}

static void roff(const char *text, const char *end)
{
    bool line_start = true;

    while (text < end) {
        char c = *text;
        if (line_start && (c == '.' || c == '\''))
            fputs("\\&", stdout);
        line_start = c == '\n';
        if (c & 0x80) {
            text += roff_letter(text, end);
            continue;
        }
        if (c == '\\')
            fputs("\\e", stdout);
        else if (c == '-')
            fputs("\\-", stdout);
        else
            putchar(c);
        text++;
    }
}

static void roff_str(const char *text)
{
    roff(text, text + strlen(text));
}

static void man_block(const char *begin, const char *end, bool literal, size_t width)
{
    (void)width;
    if (*begin == '\n') {
        puts(".PP");
    } else if (literal) {
        puts(".nf");
        roff(begin, end);
        puts(end[-1] == '\n' ? ".fi" : "\n.fi");
    } else {
        roff(begin, end);
        if (end[-1] != '\n')
            putchar('\n');
    }
}

static void man_options(const struct cli_opt *o)
{
    for (; o->name; o++) {
        char head[300];
        opt_head(o, head, sizeof head);
        printf(".TP\n.B ");
        roff_str(head + strspn(head, " "));
        putchar('\n');
        roff_str(o->help);
        putchar('\n');
    }
}

void cli_print_man(const struct cli_cmd *cmd)
{
    printf(".TH \"");
    for (const char *p = cmd->name; *p; p++)
        putchar(toupper((unsigned char)*p));
    printf("\" 1 \"\" \"libmodel %s\" \"libmodel\"\n.SH NAME\n", LM_VERSION);
    roff_str(cmd->name);
    printf(" \\- ");
    roff_str(cmd->brief);
    printf("\n.SH SYNOPSIS\n.B ");
    roff_str(cmd->name);
    printf("\n[options] ");
    roff_str(cmd->synopsis);
    printf("\n.SH DESCRIPTION\n");
    each_block(cmd->about, man_block, 0);
    printf(".SH OPTIONS\n");
    man_options(cmd->opts);
    man_options(cli_implied);
    if (cmd->examples) {
        printf(".SH EXAMPLES\n");
        each_block(cmd->examples, man_block, 0);
    }
    printf(".SH EXIT STATUS\n0 success, 1 the things compared differ or a check failed, 2 wrong use, 3 failure.\n");
}
