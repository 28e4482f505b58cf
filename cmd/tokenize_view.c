/* A text in the colours of its tokens, with their ids underneath. */
#include "cmd/tokenize.h"

#include <stdlib.h>

#include <utf8proc.h>

enum { SHOWN = 400 }; /* bytes of a token's text that a cell shows at most */

const char *tok_color(size_t i)
{
    static const char *const colors[] = {"\033[48;5;24m\033[97m", "\033[48;5;60m\033[97m", "\033[48;5;29m\033[97m",
                                         "\033[48;5;94m\033[97m", "\033[48;5;88m\033[97m"};

    return colors[i % (sizeof colors / sizeof *colors)];
}

enum tok_style tok_style_of(const struct tok_job *j, int32_t id)
{
    const struct lm_piece *p = &j->v->pieces[id];

    if (p->special || p->kind == LM_PIECE_CONTROL || p->kind == LM_PIECE_UNKNOWN)
        return TOK_SPECIAL;
    if (p->kind == LM_PIECE_BYTE)
        return TOK_BYTES;
    return p->added || p->kind == LM_PIECE_USER_DEFINED ? TOK_ADDED : TOK_ORDINARY;
}

/* ---- what stands in a cell */

/* Blanks are made visible; what no terminal may be shown, and bytes that are no
 * character, are escaped. */
static void put_visible(struct tok_buf *b, struct lm_span s)
{
    static const struct { char c; const char *sign; } signs[] = {{' ', "·"}, {'\n', "↵"}, {'\t', "→"}, {'\r', "␍"}};

    for (size_t i = 0; i < s.size;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t w = utf8proc_iterate(s.data + i, (utf8proc_ssize_t)(s.size - i), &c);
        size_t n = w > 0 ? (size_t)w : 1;
        const char *sign = NULL;
        for (size_t k = 0; k < sizeof signs / sizeof *signs; k++)
            if (s.data[i] == (uint8_t)signs[k].c)
                sign = signs[k].sign;
        const char *text = sign ? sign : cli_safe(lm_span_of(s.data + i, n));
        tok_put(b, text, strlen(text));
        i += n;
    }
}

/* Ends with a NUL. The piece's own text where there is none in the input. */
static const char *cell_text(const struct tok_job *j, struct tok_buf *b, const struct tok_whole *w, size_t i)
{
    struct lm_offsets at = w->ids.offsets[i];
    enum tok_style style = tok_style_of(j, w->ids.ids[i]);
    struct lm_span s = lm_span_of(w->text + at.begin, at.end - at.begin);

    if (s.size == 0)
        s = j->v->pieces[w->ids.ids[i]].text;
    b->n = 0;
    if (style == TOK_SPECIAL)
        tok_put(b, "⟦", strlen("⟦"));
    put_visible(b, lm_span_of(s.data, s.size < SHOWN ? s.size : SHOWN));
    if (s.size > SHOWN)
        tok_put(b, "…", strlen("…"));
    if (style == TOK_SPECIAL)
        tok_put(b, "⟧", strlen("⟧"));
    tok_put(b, "", 1);
    return b->failed ? "" : b->data;
}

static bool ends_line(const struct tok_whole *w, size_t i)
{
    struct lm_offsets at = w->ids.offsets[i];

    return at.end > at.begin && w->text[at.end - 1] == '\n';
}

static const char *style(const struct tok_job *j, const struct tok_whole *w, size_t i)
{
    return tok_style_of(j, w->ids.ids[i]) == TOK_SPECIAL ? "\033[1;30;48;5;220m" : tok_color(i);
}

/* ---- only the colours */

void tok_print_colored(const struct tok_job *j, const struct tok_whole *w)
{
    struct tok_buf b = {0};

    for (size_t i = 0; i < w->ids.n; i++) {
        const char *text = cell_text(j, &b, w, i);
        printf("%s%s\033[0m", style(j, w, i), text);
        if (ends_line(w, i))
            putchar('\n');
    }
    putchar('\n');
    free(b.data);
}

/* ---- rows of cells */

struct row {
    const struct tok_job *j;
    const struct tok_whole *w;
    struct tok_buf top, below; /* pieces and ids */
    size_t used, width;        /* columns */
};

static void blanks(struct tok_buf *b, size_t n)
{
    while (n-- > 0)
        tok_put(b, " ", 1);
}

static void end_row(struct row *r)
{
    if (r->used > 0) {
        fwrite(r->top.data ? r->top.data : "", 1, r->top.n, stdout);
        putchar('\n');
        fwrite(r->below.data ? r->below.data : "", 1, r->below.n, stdout);
        putchar('\n');
    }
    r->used = r->top.n = r->below.n = 0;
}

/* One cell; without colours a bar divides it from the next. */
static void put_cell(struct row *r, size_t i, const char *text, const char *id)
{
    size_t wide = cli_text_width(text), n = strlen(id) > wide ? strlen(id) : wide;
    bool color = r->j->color;

    if (r->used > 0 && r->used + n + 1 > r->width)
        end_row(r);
    if (color)
        tok_put(&r->top, style(r->j, r->w, i), strlen(style(r->j, r->w, i)));
    tok_put(&r->top, text, strlen(text));
    blanks(&r->top, color ? 0 : n - wide);
    tok_put(&r->top, color ? "\033[0m" : "│", color ? 4 : 3);
    blanks(&r->top, color ? n - wide + 1 : 0);
    if (color)
        tok_put(&r->below, "\033[2m", 4);
    tok_put(&r->below, id, strlen(id));
    blanks(&r->below, n - strlen(id));
    tok_put(&r->below, color ? "\033[0m " : "│", color ? 5 : 3);
    r->used += n + 1;
}

/* Bytes of text that fill at most `width` columns, at least one character. */
static size_t fitting(const char *text, size_t width)
{
    size_t at = 0;
    char one[8];

    for (size_t used = 0; text[at];) {
        utf8proc_int32_t c;
        utf8proc_ssize_t w = utf8proc_iterate((const utf8proc_uint8_t *)text + at, -1, &c);
        size_t n = w > 0 ? (size_t)w : 1;
        memcpy(one, text + at, n);
        one[n] = '\0';
        used += cli_text_width(one);
        if (used > width && at > 0)
            break;
        at += n;
    }
    return at;
}

/* A cell wider than the terminal goes on in the next row. */
static void put_token(struct row *r, size_t i, char *text)
{
    char id[16];

    snprintf(id, sizeof id, "%d", r->w->ids.ids[i]);
    while (cli_text_width(text) + 1 > r->width) {
        size_t n = fitting(text, r->width - 1);
        char kept = text[n];
        text[n] = '\0';
        put_cell(r, i, text, id);
        text[n] = kept;
        text += n;
        id[0] = '\0';
        if (!*text)
            return;
    }
    put_cell(r, i, text, id);
}

static size_t row_width(void)
{
    const char *columns = getenv("COLUMNS");
    long n = columns ? strtol(columns, NULL, 10) : 0;

    return cli_width(stdout, n > 0 && n < 10000 ? (size_t)n : 100);
}

void tok_print_view(const struct tok_job *j, const struct tok_whole *w)
{
    struct row r = {.j = j, .w = w, .width = row_width()};
    struct tok_buf b = {0};

    if (r.width < 12)
        r.width = 12;
    for (size_t i = 0; i < w->ids.n && !ferror(stdout); i++) {
        cell_text(j, &b, w, i);
        if (!b.failed)
            put_token(&r, i, b.data);
        if (ends_line(w, i))
            end_row(&r);
    }
    end_row(&r);
    char tokens[40], chars[40];
    printf("%s tokens, %s characters\n", cli_count(tokens, sizeof tokens, w->counts.n_tokens),
           cli_count(chars, sizeof chars, w->counts.n_chars));
    free(r.top.data);
    free(r.below.data);
    free(b.data);
}
