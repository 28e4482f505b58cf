/* Regexes from files, run by PCRE2. The files were written for Oniguruma (its
 * Ruby syntax), so they are translated: \s, \w and \b are spelled out, general
 * categories get what Unicode gave them after PCRE2's tables, [a&&[^b]] becomes
 * a look-ahead; ^ and $ match at every line in both. What means something else
 * in the two is refused.
 *
 * Backtracking can cost exponential time in the text, look-ahead and long
 * failures quadratic time, and both regex and text may be hostile. So every
 * match is tried at one place only and sees only a window of the text; one that
 * reaches the window's end (a partial match) is tried again in a window twice
 * as large. The steps of a match are limited by its window, the windows of all
 * matches together by the length of the text. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>

#include "libmodel/tok/pretok.h"
#include "libmodel/tok/unicode.h"

enum { FIRST_WINDOW = 256, STEPS_PER_BYTE = 16, STEPS_AT_LEAST = 10000, MAX_REGEX = 16384, MAX_OUT = 1 << 20 };

struct lmi_regex {
    pcre2_code *code;
    bool first[256]; /* bytes a match may begin with */
    bool may_be_empty;
};

/* ---- translation */

#define SPACES "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define WORD_REST "\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"

struct translation {
    struct lm_span in;
    size_t at;
    char *text; /* with room for MAX_OUT bytes */
    size_t n;
    bool full;
    struct lm_err *e;
};

static void add(struct translation *x, const char *s, size_t n)
{
    if (n > MAX_OUT - x->n) {
        x->full = true;
        return;
    }
    memcpy(x->text + x->n, s, n);
    x->n += n;
}

static void add_str(struct translation *x, const char *s)
{
    add(x, s, strlen(s));
}

static int refuse(const char *what, struct lm_err *e)
{
    return lm_err_set(e, LM_UNSUPPORTED, "%s in a pre-tokenizer's regex is not handled", what);
}

static int byte_at(const struct translation *x, size_t ahead)
{
    return ahead < x->in.size - x->at ? x->in.data[x->at + ahead] : -1;
}

static void add_han(struct translation *x)
{
    char buf[40];

    for (uint32_t c = 0, first; c < LMI_CLASS_TABLE; c++) {
        if (!(lmi_class_of(c) & LMI_HAN))
            continue;
        for (first = c; lmi_class_of(c + 1) & LMI_HAN;)
            c++;
        add(x, buf, (size_t)snprintf(buf, sizeof buf, "\\x{%x}-\\x{%x}", first, c));
    }
}

/* In PCRE2 the plain name of a script stands for its extensions. */
static bool is_script(const char *name, size_t n)
{
    static const char *const others[] = {"Any", "ASCII", "Alphabetic", "Uppercase", "Lowercase", "White_Space",
                                         "Emoji", "Emoji_Presentation", "Extended_Pictographic", "Ideographic", "Math"};

    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strlen(others[i]) == n && memcmp(others[i], name, n) == 0)
            return false;
    return n > 2;
}

/* \p{name}, and what the category has gained since PCRE2's tables were made. */
static void add_category(struct translation *x, const char *name, size_t n)
{
    char buf[80];

    if (n == 3 && memcmp(name, "Han", 3) == 0) {
        add_han(x);
        return;
    }
    if (is_script(name, n)) {
        add(x, buf, (size_t)snprintf(buf, sizeof buf, "\\p{sc:%.*s}", (int)n, name));
        return;
    }

    add(x, buf, (size_t)snprintf(buf, sizeof buf, "\\p{%.*s}", (int)n, name));
    for (const struct lmi_category_range *r = lmi_newer_categories; n <= 2 && r->first != UINT32_MAX; r++)
        if (memcmp(r->category, name, n) == 0)
            add(x, buf, (size_t)snprintf(buf, sizeof buf, "\\x{%x}-\\x{%x}", r->first, r->last));
}

static void add_word(struct translation *x)
{
    add_category(x, "L", 1);
    add_category(x, "M", 1);
    add_category(x, "Nd", 2);
    add_category(x, "Nl", 2);
    add_str(x, WORD_REST);
}

/* The characters of a shorthand escape, as they stand in a class; false: it is none. */
static bool shorthand(struct translation *x, int c)
{
    switch (c) {
    case 's':
        add_str(x, SPACES);
        return true;
    case 'd':
        add_category(x, "Nd", 2);
        return true;
    case 'h':
        add_str(x, "0-9a-fA-F");
        return true;
    case 'w':
        add_word(x);
        return true;
    default:
        return false;
    }
}

/* \p{…}, \P{…}, \pL: x->at is behind the letter. */
static int property(struct translation *x, bool negative, bool in_class)
{
    const char *name = (const char *)x->in.data + x->at;
    size_t n = 1, skip = 1;

    if (byte_at(x, 0) == '{') {
        const uint8_t *end = memchr(name, '}', x->in.size - x->at);
        n = end ? (size_t)(end - x->in.data) - x->at - 1 : 0;
        name++;
        skip = n + 2;
    }
    if (byte_at(x, 0) < 0 || n == 0 || n > 40)
        return refuse("a property without a name", x->e);
    if (*name == '^') {
        negative = !negative;
        name++;
        n--;
    }
    x->at += skip;
    if (negative && in_class) { /* what is newer than PCRE2 stays in it */
        char buf[80];
        add(x, buf, (size_t)snprintf(buf, sizeof buf, "\\P{%.*s}", (int)n, name));
        return 0;
    }
    add_str(x, in_class ? "" : negative ? "[^" : "[");
    add_category(x, name, n);
    add_str(x, in_class ? "" : "]");
    return 0;
}

/* \x41, \x{41}, \t and the like stand for one character in both. */
static int character_escape(struct translation *x, char c)
{
    char name[] = {'\\', c, 0};

    if (c >= '1' && c <= '9')
        return refuse("a back reference", x->e);
    if (strchr("BkgGHRXyYOKMCQEcuUNLl", c))
        return refuse(name, x->e);
    if (c == 'v') { /* PCRE2's is a class */
        add_str(x, "\\x{b}");
        return 0;
    }
    add(x, name, 2);
    if (c == 'x' && byte_at(x, 0) == '{')
        while (byte_at(x, 0) >= 0 && byte_at(x, 0) != '}')
            add(x, (const char *)&x->in.data[x->at++], 1);
    return 0;
}

/* x->at is behind the backslash. */
static int escape(struct translation *x, bool in_class)
{
    int c = byte_at(x, 0);
    int lower = c >= 'A' && c <= 'Z' ? c + 32 : c;

    if (c < 0)
        return refuse("a backslash at the end", x->e);
    x->at++;
    if (lower == 'p')
        return property(x, c == 'P', in_class);
    if (c == 'b' && !in_class) {
        add_str(x, "(?:(?<=[");
        add_word(x);
        add_str(x, "])(?![");
        add_word(x);
        add_str(x, "])|(?<![");
        add_word(x);
        add_str(x, "])(?=[");
        add_word(x);
        add_str(x, "]))");
        return 0;
    }
    if (!strchr("sdhw", lower))
        return character_escape(x, (char)c);
    if (c != lower && in_class)
        return refuse("a negated shorthand in a class", x->e);
    add_str(x, in_class ? "" : c != lower ? "[^" : "[");
    shorthand(x, lower);
    add_str(x, in_class ? "" : "]");
    return 0;
}

static int class_items(struct translation *x);

/* A whole class, or the union of classes in a class; x->at is behind its '['.
 * (?:(?!…)[…]) when it ends in &&[^…]. */
static int class(struct translation *x)
{
    size_t begin = x->n;

    add_str(x, "[");
    if (byte_at(x, 0) == '^') {
        add_str(x, "^");
        x->at++;
    }
    if (byte_at(x, 0) == ']') { /* the first is itself */
        add_str(x, "\\]");
        x->at++;
    }
    if (class_items(x) < 0)
        return -1;
    add_str(x, "]");
    while (byte_at(x, 0) == '&') {
        bool negative = byte_at(x, 2) == '[' && byte_at(x, 3) == '^';
        if (byte_at(x, 2) != '[' || x->text[begin + 1] == '^')
            return refuse("&& in a class, but for [a&&[b]] and [a&&[^b]],", x->e);
        x->at += negative ? 4 : 3;
        size_t n = x->n - begin, other = x->n;
        add_str(x, negative ? "(?:(?![" : "(?:(?=[");
        if (class_items(x) < 0)
            return -1;
        add_str(x, "])");
        if (byte_at(x, 0) != ']' || x->full)
            return refuse("&& in a class in this form", x->e);
        x->at++;
        add(x, x->text + begin, n);
        add_str(x, ")");
        memmove(x->text + begin, x->text + other, x->n - other);
        x->n -= other - begin;
        if (byte_at(x, 0) != '&' || x->full)
            break;
    }
    return x->full ? refuse("so much", x->e) : 0;
}

/* Up to the ']' that ends the class (passed), or to "&&" (not passed). */
static int class_items(struct translation *x)
{
    for (int c; (c = byte_at(x, 0)) != ']';) {
        if (c < 0)
            return refuse("a class without an end", x->e);
        if (c == '&' && byte_at(x, 1) == '&')
            return 0;
        if (c == '[')
            return refuse("a class in a class", x->e);
        x->at++;
        if (c == '\\') {
            if (escape(x, true) < 0)
                return -1;
        } else {
            add(x, (const char *)&x->in.data[x->at - 1], 1);
        }
    }
    x->at++;
    return 0;
}

/* Groups that only group or look around; no recursion, conditions, callouts. */
static bool harmless_group(struct lm_span rest)
{
    static const char *const good[] = {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?-i:"};

    if (rest.size < 2 || (rest.data[1] != '?' && rest.data[1] != '*'))
        return true;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (rest.size >= strlen(good[i]) && memcmp(rest.data, good[i], strlen(good[i])) == 0)
            return true;
    return false;
}

/* Oniguruma reads {,n} as {0,n}, and a{n}+ as a repetition repeated. */
static bool ambiguous_repetition(const struct translation *x)
{
    return (byte_at(x, 0) == '{' && byte_at(x, 1) == ',') || (byte_at(x, 0) == '}' && byte_at(x, 1) == '+');
}

static int translate(struct translation *x)
{
    static const char *const global = "(?i)";
    size_t n = strlen(global);

    if (x->in.size >= n && memcmp(x->in.data, global, n) == 0) {
        add_str(x, global);
        x->at = n;
    }
    for (int c; (c = byte_at(x, 0)) >= 0;) {
        if (ambiguous_repetition(x))
            return refuse("a repetition that two regex libraries read differently", x->e);
        if (c == '(' && !harmless_group(lm_span_of(x->in.data + x->at, x->in.size - x->at)))
            return refuse("a group of this kind", x->e);
        x->at++;
        if (c == '\\') {
            if (escape(x, false) < 0)
                return -1;
        } else if (c == '[') {
            if (byte_at(x, 0) == '[')
                return refuse("a class in a class", x->e);
            if (class(x) < 0)
                return -1;
        } else {
            add(x, (const char *)&x->in.data[x->at - 1], 1);
        }
    }
    return x->full ? refuse("so much", x->e) : 0;
}

/* ---- compilation */

static pcre2_code *compile_with(const struct translation *x, uint32_t options, struct lm_err *e)
{
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    int code;
    PCRE2_SIZE at;
    uint8_t message[120];

    if (context)
        pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_code *c = pcre2_compile((PCRE2_SPTR)x->text, x->n, options | PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE |
                                  PCRE2_NO_AUTO_CAPTURE, &code, &at, context);
    pcre2_compile_context_free(context);
    if (!c) {
        pcre2_get_error_message(code, message, sizeof message);
        lm_err_set(e, LM_UNSUPPORTED, "the pre-tokenizer's regex: %s at character %zu", (char *)message, at);
    }
    return c;
}

/* PCRE2 finds out what a match begins with only when it is free to search. */
static int note_first_bytes(struct lmi_regex *r, const struct translation *x, struct lm_err *e)
{
    pcre2_code *c = compile_with(x, 0, e);
    const uint8_t *bitmap = NULL;
    uint32_t kind = 0, unit = 0, empty = 0;

    if (!c)
        return -1;
    pcre2_pattern_info(c, PCRE2_INFO_FIRSTBITMAP, &bitmap);
    pcre2_pattern_info(c, PCRE2_INFO_FIRSTCODETYPE, &kind);
    pcre2_pattern_info(c, PCRE2_INFO_FIRSTCODEUNIT, &unit);
    pcre2_pattern_info(c, PCRE2_INFO_MATCHEMPTY, &empty);
    r->may_be_empty = empty;
    for (unsigned b = 0; b < 256; b++)
        r->first[b] = empty || !bitmap || (bitmap[b / 8] >> b % 8 & 1);
    pcre2_code_free(c);
    return 0;
}

static int compile(struct lmi_regex *r, const struct translation *x, struct lm_err *e)
{
    r->code = compile_with(x, PCRE2_ANCHORED, e);
    if (!r->code)
        return -1;
    /* Without a JIT the interpreter gives the same matches. */
    pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE | PCRE2_JIT_PARTIAL_HARD);
    return note_first_bytes(r, x, e);
}

int lmi_regex_new(struct lmi_regex **out, struct lm_span regex, struct lm_err *e)
{
    struct lmi_regex *r = calloc(1, sizeof *r);
    struct translation x = {.in = regex, .e = e};

    lmi_unicode_init();
    if (regex.size > MAX_REGEX) {
        free(r);
        return lm_err_set(e, LM_LIMIT, "a pre-tokenizer's regex of %zu bytes; at most %d", regex.size, MAX_REGEX);
    }
    x.text = malloc(MAX_OUT);
    int rc = !r || !x.text ? lm_err_set(e, LM_NOMEM, "out of memory for a regex") : translate(&x);
    if (rc == 0)
        rc = compile(r, &x, e);
    free(x.text);
    if (rc == 0)
        *out = r;
    else
        lmi_regex_free(r);
    return rc;
}

void lmi_regex_free(struct lmi_regex *r)
{
    if (r)
        pcre2_code_free(r->code);
    free(r);
}

/* ---- matching */

int lmi_regex_begin(struct lmi_regex_run *run, const struct lmi_regex *r, size_t n_bytes, struct lm_err *e)
{
    pcre2_match_context *context = pcre2_match_context_create(NULL);

    *run = (struct lmi_regex_run){pcre2_match_data_create_from_pattern(r->code, NULL), context, 0, 0};
    if (!run->match_data || !context) {
        lmi_regex_end(run);
        return lm_err_set(e, LM_NOMEM, "out of memory for a regex");
    }
    /* A word of one byte costs a window: four windows a byte leave room. */
    if (__builtin_mul_overflow((uint64_t)n_bytes, (uint64_t)4 * FIRST_WINDOW, &run->budget))
        run->budget = UINT64_MAX;
    run->budget += run->budget < UINT64_MAX / 2 ? 1 << 20 : 0;
    return 0;
}

void lmi_regex_end(struct lmi_regex_run *run)
{
    pcre2_match_data_free(run->match_data);
    pcre2_match_context_free(run->context);
}

/* Moves to a character's first byte, so that a window never cuts one. */
static size_t window_end(struct lm_span text, size_t from, size_t window)
{
    size_t end = window < text.size - from ? from + window : text.size;

    while (end < text.size && (text.data[end] & 0xc0) == 0x80)
        end++;
    return end;
}

static void limit_steps(struct lmi_regex_run *run, size_t window)
{
    size_t steps = window < UINT32_MAX / STEPS_PER_BYTE ? window * STEPS_PER_BYTE : UINT32_MAX;

    pcre2_set_match_limit(run->context, (uint32_t)(steps > STEPS_AT_LEAST ? steps : STEPS_AT_LEAST));
}

/* PCRE2's result at exactly this place, from the smallest window that is certain. */
static int match_at(const struct lmi_regex *r, struct lmi_regex_run *run, struct lm_span text, size_t at)
{
    for (size_t window = FIRST_WINDOW;; window *= 2) {
        size_t end = window_end(text, at, window);
        uint32_t options = PCRE2_NO_UTF_CHECK | (end < text.size ? PCRE2_PARTIAL_HARD : 0);
        run->spent += end - at;
        if (run->spent > run->budget)
            return PCRE2_ERROR_MATCHLIMIT;
        limit_steps(run, end - at);
        int rc = pcre2_match(r->code, text.data, end, at, options, run->match_data, run->context);
        if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
            rc = pcre2_match(r->code, text.data, end, at, options | PCRE2_NO_JIT, run->match_data, run->context);
        if (rc != PCRE2_ERROR_PARTIAL)
            return rc;
    }
}

/* The next place where a match may begin. */
static size_t candidate(const struct lmi_regex *r, struct lm_span text, size_t at)
{
    while (at < text.size && !r->first[text.data[at]])
        at += lmi_utf8_width(text.data[at]);
    return at;
}

int lmi_regex_find(const struct lmi_regex *r, struct lmi_regex_run *run, struct lm_span text, size_t from,
                   size_t last_end, size_t *begin, size_t *end, struct lm_err *e)
{
    for (size_t at = candidate(r, text, from); at < text.size + r->may_be_empty;) {
        int rc = match_at(r, run, text, at);
        if (rc < 0 && rc != PCRE2_ERROR_NOMATCH)
            return lm_err_set(e, LM_LIMIT, "the pre-tokenizer's regex takes too many steps on this text (byte %zu)", at);
        *begin = at;
        *end = rc < 0 ? at : pcre2_get_ovector_pointer(run->match_data)[1];
        if (rc >= 0 && !(*end == at && at == last_end))
            return 1;
        if (at == text.size)
            return 0;
        at = candidate(r, text, at + lmi_utf8_width(text.data[at]));
    }
    return 0;
}
