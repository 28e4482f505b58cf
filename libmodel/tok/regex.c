/* Regexes from files, run by PCRE2. The files were written for Oniguruma, so
 * \s is spelled out (PCRE2's \s has U+180E and is not exactly White_Space) and
 * what means something else in the two is refused.
 *
 * Backtracking can cost exponential time in the text, look-ahead and long
 * failures quadratic time, and both regex and text may be hostile. So every
 * match is tried at one place only and sees only a window of the text; one that
 * reaches the window's end (a partial match) is tried again in a window twice
 * as large. The steps of a match are limited by its window, the windows of all
 * matches together by the length of the text. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>

#include "libmodel/tok/pretok.h"
#include "libmodel/tok/unicode.h"

enum { FIRST_WINDOW = 256, STEPS_PER_BYTE = 16, STEPS_AT_LEAST = 10000, MAX_REGEX = 16384 };

struct lmi_regex {
    pcre2_code *code;
};

#define SPACES "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

struct out {
    char *text;
    size_t n;
};

static void add(struct out *o, const char *s, size_t n)
{
    memcpy(o->text + o->n, s, n);
    o->n += n;
}

static int refuse(const char *what, struct lm_err *e)
{
    return lm_err_set(e, LM_UNSUPPORTED, "%s in a pre-tokenizer's regex is not handled", what);
}

/* The escape c (after a backslash), inside a class or not. */
static int translate_escape(struct out *o, char c, bool in_class, struct lm_err *e)
{
    char name[] = {'\\', c, 0};

    if (c == 's') {
        add(o, "[", !in_class);
        add(o, SPACES, sizeof SPACES - 1);
        add(o, "]", !in_class);
    } else if (c == 'S' && !in_class) {
        add(o, "[^" SPACES "]", sizeof SPACES + 2);
    } else if (strchr("SwWbBkgGhHRXyYOKMCQEcuU", c) && !(c == 'b' && !in_class)) {
        return refuse(name, e);
    } else if (c >= '1' && c <= '9') {
        return refuse("a back reference", e);
    } else {
        add(o, name, 2);
    }
    return 0;
}

/* {…} right behind an escape that takes it; returns its length. */
static size_t braces(struct out *o, struct lm_span rest)
{
    bool takes = o->n >= 2 && o->text[o->n - 2] == '\\' && strchr("pPx", o->text[o->n - 1]);
    const uint8_t *end = takes && rest.size && rest.data[0] == '{' ? memchr(rest.data, '}', rest.size) : NULL;
    size_t n = end ? (size_t)(end - rest.data) + 1 : 0;

    add(o, (const char *)rest.data, n);
    return n;
}

/* Groups that only group or look around; no recursion, conditions, callouts. */
static bool harmless_group(struct lm_span rest)
{
    static const char *const good[] = {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};

    if (rest.size < 2 || (rest.data[1] != '?' && rest.data[1] != '*'))
        return true;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (rest.size >= strlen(good[i]) && memcmp(rest.data, good[i], strlen(good[i])) == 0)
            return true;
    return false;
}

static int translate(struct out *o, struct lm_span regex, struct lm_err *e)
{
    bool in_class = false;
    size_t class_start = 0;

    for (size_t i = 0; i < regex.size; i++) {
        char c = (char)regex.data[i];
        if (c == '\\' && i + 1 < regex.size) {
            if (translate_escape(o, (char)regex.data[++i], in_class, e) < 0)
                return -1;
            i += braces(o, lm_span_of(regex.data + i + 1, regex.size - i - 1));
            continue;
        }
        if (in_class && c == '[')
            return refuse("a class in a class", e);
        if (in_class && c == '&' && i + 1 < regex.size && regex.data[i + 1] == '&')
            return refuse("&& in a class", e);
        if (!in_class && (c == '^' || c == '$'))
            return refuse("an anchor", e); /* Oniguruma's match at every line */
        if (!in_class && ((c == '{' && i + 1 < regex.size && regex.data[i + 1] == ',') ||
                          (c == '}' && i + 1 < regex.size && regex.data[i + 1] == '+')))
            return refuse("a repetition that two regex libraries read differently", e);
        if (!in_class && c == '(' && !harmless_group(lm_span_of(regex.data + i, regex.size - i)))
            return refuse("a group of this kind", e);
        if (!in_class && c == '[') {
            in_class = true;
            class_start = i + 1 + (i + 1 < regex.size && regex.data[i + 1] == '^');
        } else if (in_class && c == ']' && i > class_start)
            in_class = false;
        add(o, &c, 1);
    }
    return 0;
}

static int compile(struct lmi_regex *r, struct out o, struct lm_err *e)
{
    int code;
    PCRE2_SIZE at;
    uint8_t message[120];

    r->code = pcre2_compile((PCRE2_SPTR)o.text, o.n, PCRE2_ANCHORED | PCRE2_UTF | PCRE2_UCP | PCRE2_NO_AUTO_CAPTURE,
                            &code, &at, NULL);
    if (!r->code) {
        pcre2_get_error_message(code, message, sizeof message);
        return lm_err_set(e, LM_UNSUPPORTED, "the pre-tokenizer's regex: %s at character %zu", (char *)message, at);
    }
    uint32_t empty = 0;
    pcre2_pattern_info(r->code, PCRE2_INFO_MATCHEMPTY, &empty);
    if (empty)
        return refuse("a match of nothing", e);
    /* Without a JIT the interpreter gives the same matches. */
    pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE | PCRE2_JIT_PARTIAL_HARD);
    return 0;
}

int lmi_regex_new(struct lmi_regex **out, struct lm_span regex, struct lm_err *e)
{
    struct lmi_regex *r = calloc(1, sizeof *r);
    struct out o = {NULL, 0};

    if (regex.size > MAX_REGEX) {
        free(r);
        return lm_err_set(e, LM_LIMIT, "a pre-tokenizer's regex of %zu bytes; at most %d", regex.size, MAX_REGEX);
    }
    o.text = malloc(regex.size * (sizeof SPACES + 4) + 1);
    int rc = !r || !o.text ? lm_err_set(e, LM_NOMEM, "out of memory for a regex") : translate(&o, regex, e);
    if (rc == 0)
        rc = compile(r, o, e);
    free(o.text);
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
        uint32_t options = PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY;
        options |= end < text.size ? PCRE2_PARTIAL_HARD : 0;
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

int lmi_regex_find(const struct lmi_regex *r, struct lmi_regex_run *run, struct lm_span text, size_t from,
                   size_t *begin, size_t *end, struct lm_err *e)
{
    int rc = PCRE2_ERROR_NOMATCH;

    for (size_t at = from; at < text.size && rc == PCRE2_ERROR_NOMATCH; at += lmi_utf8_width(text.data[at])) {
        rc = match_at(r, run, text, at);
        *begin = at;
    }
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    if (rc < 0)
        return lm_err_set(e, LM_LIMIT, "the pre-tokenizer's regex takes too many steps on this text (byte %zu)", *begin);
    *end = pcre2_get_ovector_pointer(run->match_data)[1];
    return 1;
}
