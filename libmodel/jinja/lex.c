/* A template is data with {{ expressions }}, {% statements %} and {# comments #}.
 * What Jinja does with white space around them (trim_blocks: a newline after a
 * statement or comment goes; lstrip_blocks: so does the indentation in front of
 * one; a minus sign takes all white space on its side, a plus sign keeps it) is
 * done here: https://jinja.palletsprojects.com/en/stable/templates/#whitespace-control */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <utf8proc.h>

#include "libmodel/jinja/lex.h"

struct lexer {
    struct lm_span src;
    size_t pos;
    uint32_t line;
    bool line_starts; /* the tag before ended with a newline (or nothing is before) */
    struct lmi_tokens *out;
    struct lm_arena *arena;
    struct lm_err *e;
};

int lmi_syntax(struct lm_err *e, uint32_t line, const char *format, ...)
{
    char text[400];
    va_list ap;

    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    return lm_err_set(e, LM_MALFORMED, "line %u of the template: %s", line, text);
}

static int nomem(struct lexer *x)
{
    return lm_err_set(x->e, LM_NOMEM, "out of memory while reading a template");
}

static int add(struct lexer *x, enum lmi_token_kind kind, struct lm_span text, struct lmi_value value)
{
    struct lmi_tokens *o = x->out;

    if (o->n == o->capacity) {
        size_t capacity = 2 * o->capacity + 64;
        struct lmi_token *p = lm_arena_array(x->arena, capacity, sizeof *p);
        if (!p)
            return nomem(x);
        if (o->n)
            memcpy(p, o->at, o->n * sizeof *p);
        o->at = p;
        o->capacity = capacity;
    }
    o->at[o->n++] = (struct lmi_token){kind, x->line, text, value};
    return 0;
}

static int peek(const struct lexer *x, size_t ahead)
{
    return x->pos + ahead < x->src.size ? x->src.data[x->pos + ahead] : -1;
}

static void advance(struct lexer *x, size_t n)
{
    for (; n > 0 && x->pos < x->src.size; n--)
        x->line += x->src.data[x->pos++] == '\n';
}

/* ---- data */

/* The place of the next "{{", "{%" or "{#". */
static size_t next_tag(const struct lexer *x, size_t from)
{
    for (size_t i = from; i + 1 < x->src.size; i++)
        if (x->src.data[i] == '{' && (x->src.data[i + 1] == '{' || x->src.data[i + 1] == '%' || x->src.data[i + 1] == '#'))
            return i;
    return x->src.size;
}

/* Data in front of a tag without the indentation that lstrip_blocks takes. */
static struct lm_span without_indent(struct lm_span s, bool line_starts)
{
    size_t at = s.size;

    while (at > 0 && s.data[at - 1] != '\n')
        at--;
    if (at == 0 && !line_starts)
        return s;
    struct lm_span rest = lm_span_of(s.data + at, s.size - at);
    return lmi_strip(rest, NULL, true, false).size == 0 ? lm_span_of(s.data, at) : s;
}

static int data_before(struct lexer *x, size_t tag)
{
    struct lm_span s = lm_span_of(x->src.data + x->pos, tag - x->pos);
    int sign = tag + 2 < x->src.size ? x->src.data[tag + 2] : -1;
    bool print = tag + 1 < x->src.size && x->src.data[tag + 1] == '{';

    if (tag < x->src.size && sign == '-')
        s = lmi_strip(s, NULL, false, true);
    else if (tag < x->src.size && sign != '+' && !print)
        s = without_indent(s, x->line_starts);
    if (s.size && add(x, LMI_TOK_DATA, s, lmi_none()) < 0)
        return -1;
    advance(x, tag - x->pos);
    return 0;
}

static void skip_space(struct lexer *x)
{
    struct lm_span rest = lm_span_of(x->src.data + x->pos, x->src.size - x->pos);

    advance(x, rest.size - lmi_strip(rest, NULL, true, false).size);
}

/* What the end of a tag takes with it; `minus` was written there. */
static void after_tag(struct lexer *x, bool minus, bool plus, bool trim)
{
    if (minus)
        skip_space(x);
    else if (trim && !plus && peek(x, 0) == '\n')
        advance(x, 1);
    x->line_starts = x->pos > 0 && x->src.data[x->pos - 1] == '\n';
}

static int comment(struct lexer *x)
{
    const uint8_t *end = memmem(x->src.data + x->pos + 2, x->src.size - x->pos - 2, "#}", 2);

    if (!end)
        return lmi_syntax(x->e, x->line, "a comment that begins here is not closed by #}");
    size_t at = (size_t)(end - x->src.data);
    int sign = at > x->pos + 2 ? end[-1] : 0;
    advance(x, at + 2 - x->pos);
    after_tag(x, sign == '-', sign == '+', true);
    return 0;
}

/* ---- inside a tag */

static bool name_start(uint32_t cp)
{
    if (cp < 0x80)
        return (cp | 32) - 'a' < 26 || cp == '_';
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

static bool name_part(uint32_t cp)
{
    if (cp < 0x80)
        return name_start(cp) || cp - '0' < 10;
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return name_start(cp) || c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_MC || c == UTF8PROC_CATEGORY_ND ||
           c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_PC;
}

static int name(struct lexer *x)
{
    size_t end = x->pos;

    for (size_t next = end; end < x->src.size && name_part(lmi_next_char(x->src, &next)); )
        end = next;
    struct lm_span s = lm_span_of(x->src.data + x->pos, end - x->pos);
    x->pos = end;
    return add(x, LMI_TOK_NAME, s, lmi_none());
}

static int number(struct lexer *x)
{
    char buf[64], *end;
    size_t n = 0;
    bool real = false;
    struct lmi_value v;

    for (int c = peek(x, 0); n + 1 < sizeof buf; c = peek(x, 0)) {
        bool sign = (c == '+' || c == '-') && n > 0 && real && (buf[n - 1] | 32) == 'e';
        bool dot = c == '.' && !real && peek(x, 1) >= '0' && peek(x, 1) <= '9';
        bool exponent = (c | 32) == 'e' && c > 0 && n > 0;
        if (!((c >= '0' && c <= '9') || c == '_' || dot || exponent || sign))
            break;
        real |= dot || exponent;
        if (c != '_')
            buf[n++] = (char)c;
        x->pos++;
    }
    buf[n] = 0;
    errno = 0;
    v = real ? lmi_float(strtod(buf, &end)) : lmi_int(strtoll(buf, &end, 10));
    if (*end || errno == ERANGE || n + 1 == sizeof buf)
        return lmi_syntax(x->e, x->line, "%s is not a number that can be held", buf);
    return add(x, real ? LMI_TOK_FLOAT : LMI_TOK_INT, lm_span_of(NULL, 0), v);
}

static int hex(const uint8_t *s, size_t n, uint32_t *out)
{
    *out = 0;
    for (size_t i = 0; i < n; i++) {
        int c = s[i] | 32;
        int digit = c >= 'a' && c <= 'f' ? c - 'a' + 10 : s[i] >= '0' && s[i] <= '9' ? s[i] - '0' : -1;
        if (digit < 0)
            return -1;
        *out = *out << 4 | (uint32_t)digit;
    }
    return 0;
}

/* The escape at s[1] after its backslash: bytes used, 0 when it stays as it is, -1 malformed. */
static int escape(struct lm_span s, uint32_t *cp)
{
    static const char letters[] = "n\nt\tr\r\\\\'\'\"\"a\ab\bf\fv\v";

    for (const char *p = letters; *p; p += 2)
        if (s.data[1] == (uint8_t)*p) {
            *cp = (uint8_t)p[1];
            return 2;
        }
    size_t digits = s.data[1] == 'x' ? 2 : s.data[1] == 'u' ? 4 : s.data[1] == 'U' ? 8 : 0;
    if (digits)
        return s.size < 2 + digits || hex(s.data + 2, digits, cp) < 0 || *cp > 0x10ffff || (*cp >> 11) == 0x1b
                   ? -1
                   : (int)(2 + digits);
    int n = 1;
    for (*cp = 0; n < 4 && (size_t)n < s.size && s.data[n] >= '0' && s.data[n] <= '7'; n++)
        *cp = *cp << 3 | (uint32_t)(s.data[n] - '0');
    return n > 1 ? n : 0;
}

/* s is what stands between the quotes. */
static int string_token(struct lexer *x, struct lm_span s)
{
    uint8_t *buf = lm_arena_alloc(x->arena, s.size + 4), *to = buf;

    if (!buf)
        return nomem(x);
    for (size_t i = 0; i < s.size;) {
        uint32_t cp;
        int n = 0;
        if (s.data[i] == '\\' && i + 1 < s.size && s.data[i + 1] == '\n') {
            i += 2; /* a line is continued */
            continue;
        }
        if (s.data[i] == '\\' && i + 1 < s.size)
            n = escape(lm_span_of(s.data + i, s.size - i), &cp);
        if (n < 0)
            return lmi_syntax(x->e, x->line, "a string with an escape that is none");
        if (n > 0)
            to += utf8proc_encode_char((utf8proc_int32_t)cp, to);
        else
            *to++ = s.data[i];
        i += n ? (size_t)n : 1;
    }
    return add(x, LMI_TOK_STR, lm_span_of(buf, (size_t)(to - buf)), lmi_none());
}

static int string(struct lexer *x)
{
    uint8_t quote = x->src.data[x->pos];
    size_t end = x->pos + 1;

    while (end < x->src.size && x->src.data[end] != quote)
        end += x->src.data[end] == '\\' ? 2 : 1;
    if (end >= x->src.size)
        return lmi_syntax(x->e, x->line, "a string that begins here is not closed");
    if (string_token(x, lm_span_of(x->src.data + x->pos + 1, end - x->pos - 1)) < 0)
        return -1;
    advance(x, end + 1 - x->pos);
    return 0;
}

static int operator(struct lexer *x)
{
    static const char *const ops[] = {"**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<", ">", "=",
                                      "(",  ")",  "[",  "]",  "{",  "}",  ",", ":", ".", "|", NULL};
    struct lm_span rest = lm_span_of(x->src.data + x->pos, x->src.size - x->pos);

    for (size_t i = 0; ops[i]; i++) {
        size_t n = strlen(ops[i]);
        if (rest.size < n || memcmp(rest.data, ops[i], n))
            continue;
        x->pos += n;
        return add(x, LMI_TOK_OP, lm_span_of(rest.data, n), lmi_none());
    }
    return lmi_syntax(x->e, x->line, "unexpected character at byte %zu", x->pos);
}

/* Does the tag end here? Its length with the sign, 0 if not. Inside brackets "}}" may close dicts. */
static size_t tag_end(const struct lexer *x, bool print, size_t brackets)
{
    size_t sign = peek(x, 0) == '-' || (!print && peek(x, 0) == '+');

    if (print && brackets)
        return 0;
    return peek(x, sign) == (print ? '}' : '%') && peek(x, sign + 1) == '}' ? sign + 2 : 0;
}

static int token(struct lexer *x, size_t *brackets)
{
    size_t pos = x->pos;
    int c = peek(x, 0);
    uint32_t cp = lmi_next_char(x->src, &pos);

    if (lmi_is_space(cp)) {
        advance(x, pos - x->pos);
        return 0;
    }
    *brackets += c == '(' || c == '[' || c == '{';
    *brackets -= *brackets && (c == ')' || c == ']' || c == '}');
    if (name_start(cp))
        return name(x);
    if (c >= '0' && c <= '9')
        return number(x);
    return c == '"' || c == '\'' ? string(x) : operator(x);
}

static int tag(struct lexer *x, bool print)
{
    size_t brackets = 0, n;
    uint32_t line = x->line;

    x->pos += 2;
    x->pos += peek(x, 0) == '-' || (!print && peek(x, 0) == '+');
    if (add(x, print ? LMI_TOK_PRINT : LMI_TOK_BLOCK, lm_span_of(NULL, 0), lmi_none()) < 0)
        return -1;
    while ((n = tag_end(x, print, brackets)) == 0) {
        if (x->pos >= x->src.size)
            return lmi_syntax(x->e, line, "a tag that begins here is not closed");
        if (token(x, &brackets) < 0)
            return -1;
    }
    if (add(x, print ? LMI_TOK_PRINT_END : LMI_TOK_BLOCK_END, lm_span_of(NULL, 0), lmi_none()) < 0)
        return -1;
    int sign = peek(x, 0);
    x->pos += n;
    after_tag(x, sign == '-', sign == '+', !print);
    return 0;
}

/* {% raw %}: 1 when it was one and has been taken, with its {% endraw %}. */
static bool is_word_tag(struct lexer *x, size_t at, const char *word, size_t *end, int *left, int *right)
{
    size_t p = at + 2, n = strlen(word);
    const uint8_t *d = x->src.data;

    *left = p < x->src.size && (d[p] == '-' || d[p] == '+') ? d[p++] : 0;
    while (p < x->src.size && lmi_is_space(d[p]))
        p++;
    if (x->src.size - p < n || memcmp(d + p, word, n))
        return false;
    for (p += n; p < x->src.size && lmi_is_space(d[p]);)
        p++;
    *right = p < x->src.size && (d[p] == '-' || d[p] == '+') ? d[p++] : 0;
    *end = p + 2;
    return p + 1 < x->src.size && d[p] == '%' && d[p + 1] == '}';
}

static int raw(struct lexer *x, size_t end, int right)
{
    int left, last;
    size_t close, stop;

    advance(x, end - x->pos);
    after_tag(x, right == '-', right == '+', true);
    for (close = next_tag(x, x->pos); close < x->src.size; close = next_tag(x, close + 2)) {
        if (x->src.data[close + 1] != '%' || !is_word_tag(x, close, "endraw", &stop, &left, &last))
            continue;
        if (data_before(x, close) < 0)
            return -1;
        advance(x, stop - x->pos);
        after_tag(x, last == '-', last == '+', true);
        return 0;
    }
    return lmi_syntax(x->e, x->line, "raw is not closed by endraw");
}

int lmi_lex(struct lmi_tokens *out, struct lm_arena *a, struct lm_span source, struct lm_err *e)
{
    struct lexer x = {source, 0, 1, true, out, a, e};

    while (x.pos < x.src.size) {
        int left, right, code;
        size_t end;
        if (data_before(&x, next_tag(&x, x.pos)) < 0)
            return -1;
        if (x.pos >= x.src.size)
            break;
        if (peek(&x, 1) == '#')
            code = comment(&x);
        else if (peek(&x, 1) == '%' && is_word_tag(&x, x.pos, "raw", &end, &left, &right))
            code = raw(&x, end, right);
        else
            code = tag(&x, peek(&x, 1) == '{');
        if (code < 0)
            return -1;
    }
    return add(&x, LMI_TOK_END, lm_span_of(NULL, 0), lmi_none());
}
