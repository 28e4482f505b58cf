/* Tables of UTF-8 cells. Cells live in one growing buffer: a listing may have
 * 10^5 rows. */
#include "cmd/cli.h"

#include <stdarg.h>
#include <stdlib.h>

#include <utf8proc.h>

enum { MAX_COLUMNS = 16, GAP = 2, LEAST = 12 };

struct cli_table {
    size_t n_columns, widths[MAX_COLUMNS];
    char aligns[MAX_COLUMNS];
    char *text;        /* cells one after another, each with its NUL */
    size_t n, capacity;
    size_t n_rows;     /* the head included */
    bool failed;       /* out of memory */
};

static void add_cell(struct cli_table *t, size_t column, const char *cell)
{
    size_t n = strlen(cell) + 1, w = cli_text_width(cell);

    if (w > t->widths[column])
        t->widths[column] = w;
    if (t->n + n > t->capacity) {
        size_t capacity = (t->capacity + n) * 2;
        char *grown = t->failed ? NULL : realloc(t->text, capacity);
        if (!grown) {
            t->failed = true;
            return;
        }
        t->text = grown;
        t->capacity = capacity;
    }
    memcpy(t->text + t->n, cell, n);
    t->n += n;
}

struct cli_table *cli_table_new(const char *const *heads, const char *aligns)
{
    struct cli_table *t = calloc(1, sizeof *t);

    if (!t)
        return NULL;
    t->n_columns = strlen(aligns) < MAX_COLUMNS ? strlen(aligns) : MAX_COLUMNS;
    memcpy(t->aligns, aligns, t->n_columns);
    for (size_t i = 0; i < t->n_columns; i++)
        add_cell(t, i, heads[i]);
    t->n_rows = 1;
    return t;
}

void cli_table_row(struct cli_table *t, ...)
{
    va_list ap;

    if (!t)
        return;
    va_start(ap, t);
    for (size_t i = 0; i < t->n_columns; i++)
        add_cell(t, i, va_arg(ap, const char *));
    va_end(ap);
    t->n_rows++;
}

/* Takes what is too much for the terminal from the widest text column. */
static void fit(struct cli_table *t, size_t width)
{
    size_t total = 0, widest = SIZE_MAX;

    for (size_t i = 0; i < t->n_columns; i++) {
        total += t->widths[i] + (i ? GAP : 0);
        if (t->aligns[i] == 'l' && (widest == SIZE_MAX || t->widths[i] > t->widths[widest]))
            widest = i;
    }
    if (total <= width || widest == SIZE_MAX)
        return;
    size_t cut = total - width, has = t->widths[widest];
    t->widths[widest] = has > cut + LEAST ? has - cut : has < LEAST ? has : LEAST;
}

/* Bytes of s that fit in `width` columns. */
static size_t bytes_that_fit(const char *s, size_t width)
{
    size_t at = 0, w = 0;

    while (s[at]) {
        utf8proc_int32_t c;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)s + at, -1, &c);
        int cols = n > 0 ? utf8proc_charwidth(c) : 1;
        if (w + (size_t)cols > width)
            break;
        w += (size_t)cols;
        at += n > 0 ? (size_t)n : 1;
    }
    return at;
}

/* *blank: columns to leave before the next text; what is left at the end of a
 * line is never written. */
static void print_cell(const char *cell, size_t width, bool right, size_t *blank, FILE *f)
{
    size_t w = cli_text_width(cell);
    bool cut = w > width;
    size_t n = cut ? bytes_that_fit(cell, width - 1) : strlen(cell);
    size_t pad = cut ? 0 : width - w;

    if (n == 0) {
        *blank += width;
        return;
    }
    fprintf(f, "%*s", (int)(*blank + (right ? pad : 0)), "");
    fwrite(cell, 1, n, f);
    fputs(cut ? "…" : "", f);
    *blank = right ? 0 : pad;
}

static const char *print_line(const struct cli_table *t, const char *cell, FILE *f)
{
    size_t blank = 0;

    for (size_t i = 0; i < t->n_columns; i++, cell += strlen(cell) + 1) {
        blank += i ? GAP : 0;
        print_cell(cell, t->widths[i], t->aligns[i] == 'r', &blank, f);
    }
    return cell;
}

void cli_table_print(struct cli_table *t, FILE *f)
{
    if (!t)
        return;
    bool bold = cli_color(f);
    const char *cell = t->text;

    fit(t, cli_width(f, SIZE_MAX));
    for (size_t r = 0; r < t->n_rows && !t->failed; r++) {
        if (r == 0 && bold)
            fputs("\033[1m", f);
        cell = print_line(t, cell, f);
        fputs(r == 0 && bold ? "\033[0m\n" : "\n", f);
    }
    if (t->failed)
        cli_note("no memory for the table");
    free(t->text);
    free(t);
}
