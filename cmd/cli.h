/* What every command shares: one option table that parses and prints the help,
 * the man page and the completions; errors and exit codes; progress; tables. */
#ifndef CMD_CLI_H
#define CMD_CLI_H

#include <stdio.h>

#include <jansson.h>

#include "libmodel/libmodel.h"

/* Exit codes. */
enum { CLI_OK = 0, CLI_DIFFERENT = 1, CLI_USAGE = 2, CLI_FAILED = 3 };

enum cli_kind { CLI_FLAG, CLI_STRING, CLI_INT, CLI_UINT64, CLI_REAL, CLI_SIZE /* 64M, 2G */, CLI_CHOICE,
                CLI_LIST /* a string, given as often as wanted */ };

struct cli_list { const char **items; size_t n; }; /* zero-initialise; the caller frees items */

/* One option; the value goes to (char *)target + offset: bool, const char *,
 * int, uint64_t, double, uint64_t, int (index of the choice), struct cli_list. */
struct cli_opt {
    const char *name;     /* "filter" -> --filter */
    char letter;          /* 'n' -> -n, or 0 */
    enum cli_kind kind;
    const char *arg;      /* shown: "GLOB" */
    size_t offset;
    const char *help;     /* one sentence; the default in it */
    const char *const *choices; /* NULL-terminated, for CLI_CHOICE and completion */
};

struct cli_cmd {
    const char *name;     /* "lm-list" */
    const char *brief;    /* one line for lm help and the man page's NAME */
    const char *synopsis; /* "MODEL" */
    const char *about;    /* paragraphs for --help and DESCRIPTION */
    const struct cli_opt *opts; /* ends with name == NULL; --help --version --man --completions are implied */
    const char *examples; /* lines "  $ lm-list model.gguf" */
    int min_args, max_args; /* of positional arguments; max -1 = any */
};

/* Parses argv into target; positional arguments are moved to argv[1..n], n is
 * returned. Exits 0 after --help/--man/--completions/--version, 2 on wrong use
 * with one sentence and the nearest option's name. Installs the SIGBUS handler
 * ("input changed or truncated while reading") and ignores SIGPIPE. */
int cli_parse(const struct cli_cmd *cmd, int argc, char **argv, void *target);

const char *cli_name(void); /* of the command being run */
bool cli_parse_size(const char *text, uint64_t *out); /* 800000, 64M and 2GB (powers of 1000), 2GiB */
/* How far a typed word is from a known one (edits; 1 for a beginning of it). */
size_t cli_distance(const char *typed, const char *known);

/* Prints "lm-list: text" to stderr, returns the exit code that belongs to the
 * error (2 for LM_USAGE, 3 otherwise; 130 for LM_INTERRUPTED). */
int cli_fail(const struct lm_err *e);
/* Flushes and closes stdout; a write error (disk full, /dev/full) becomes a
 * sentence and CLI_FAILED; a closed pipe ends quietly. Returns code otherwise. */
int cli_finish(int code);
void cli_note(const char *format, ...) __attribute__((format(printf, 1, 2))); /* a line to stderr, escaped */

/* SIGINT/SIGTERM set this instead of killing; for long jobs. */
extern volatile int cli_stop;
void cli_catch_signals(void);

/* Progress on stderr: a bar with rate and ETA on a terminal after one second, a
 * plain line every ten seconds off one. The callback form of convert.h fits. */
struct cli_progress {
    const char *label; /* "converting" */
    const char *unit;  /* NULL: bytes; else "tokens" …; set it after begin */
    double began, shown;
    uint64_t total;
    bool on;           /* stderr is a terminal */
};
void cli_progress_begin(struct cli_progress *p, const char *label);
void cli_progress(void *p, uint64_t done, uint64_t total);
void cli_progress_end(struct cli_progress *p);

/* Tables: cells of UTF-8 text, padded by display width; numbers right-aligned;
 * cut to the terminal's width when stdout is one (COLUMNS otherwise unlimited). */
struct cli_table;
struct cli_table *cli_table_new(const char *const *heads, const char *aligns /* "lrl…" */);
void cli_table_row(struct cli_table *t, ...); /* one const char * a column */
void cli_table_print(struct cli_table *t, FILE *f); /* and frees it */

char *cli_count(char *buf, size_t size, uint64_t n);  /* "7 241 732 096" with plain spaces */
char *cli_bytes(char *buf, size_t size, uint64_t n);  /* "14.48 GB" (powers of 1000) */
bool cli_color(FILE *f); /* a terminal, no NO_COLOR */
size_t cli_width(FILE *f, size_t otherwise); /* columns of the terminal; `otherwise` when it is none */
size_t cli_text_width(const char *utf8);     /* columns that it takes */
double cli_now(void);    /* monotonic seconds */
/* Text from files, safe for a terminal (as lm_piece_escape, but ' ' and printable kept). Static ring of buffers. */
const char *cli_safe(struct lm_span text);
json_t *cli_json_real(double v); /* null when v is not finite */
json_t *cli_json_str(struct lm_span text); /* always valid: bytes that are not UTF-8 as \xNN text */
int cli_json_print(json_t *root);          /* to stdout, indented, newline; takes the reference; -1 on error */
/* The same in memory, with the flags of json_dumps; free it; NULL when out of
 * memory. All JSON of the commands is made by these two: U+007F to U+009F, which a
 * terminal obeys, are always escaped. */
char *cli_json_text(const json_t *value, size_t flags);
/* Text argument: TEXT itself, a file (-f) or standard input ("-", or neither
 * given and not a terminal); malloc'd, with a NUL behind its n bytes. */
int cli_read_text(char **out, size_t *n, const char *text, const char *file, struct lm_err *e);

#endif
