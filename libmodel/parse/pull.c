#include "libmodel/parse/pull.h"

enum { MAX_DEPTH = 64 };

int lmi_pull_fail(struct lmi_pull *p, const char *what)
{
    if (p->pos >= p->text.size)
        return lm_err_set(p->e, LM_MALFORMED, "byte %zu: the text ends early: %s", p->pos, what);
    return lm_err_set(p->e, LM_MALFORMED, "byte %zu: %s", p->pos, what);
}

int lmi_pull_begin(struct lmi_pull *p, struct lm_span text, struct lm_arena *arena, struct lm_err *e)
{
    *p = (struct lmi_pull){text, 0, arena, e};
    return lm_utf8_valid(text) ? 0 : lm_err_set(e, LM_MALFORMED, "the text is not UTF-8");
}

/* The byte at the current place, -1 at the end. */
static int peek(const struct lmi_pull *p)
{
    return p->pos < p->text.size ? p->text.data[p->pos] : -1;
}

static void skip_space(struct lmi_pull *p)
{
    for (;; p->pos++) {
        int c = peek(p);
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t')
            return;
    }
}

int lmi_pull_peek(struct lmi_pull *p)
{
    skip_space(p);
    return peek(p);
}

static bool accept(struct lmi_pull *p, int c)
{
    skip_space(p);
    if (peek(p) != c)
        return false;
    p->pos++;
    return true;
}

int lmi_pull_end(struct lmi_pull *p)
{
    skip_space(p);
    return peek(p) < 0 ? 0 : lmi_pull_fail(p, "something follows the end of the JSON text");
}

/* The separator before member n, or the closing bracket (0). */
static int step(struct lmi_pull *p, size_t *n, int open, int close, const char *expected)
{
    if (*n == 0) {
        if (!accept(p, open))
            return lmi_pull_fail(p, open == '{' ? "expected '{'" : "expected '['");
        if (accept(p, close))
            return 0;
    } else if (accept(p, close)) {
        return 0;
    } else if (!accept(p, ',')) {
        return lmi_pull_fail(p, expected);
    }
    ++*n;
    return 1;
}

int lmi_pull_member(struct lmi_pull *p, size_t *n, struct lm_span *key)
{
    int rc = step(p, n, '{', '}', "expected ',' or '}'");

    if (rc != 1)
        return rc;
    if (lmi_pull_string(p, key) < 0)
        return -1;
    return accept(p, ':') ? 1 : lmi_pull_fail(p, "expected ':'");
}

int lmi_pull_element(struct lmi_pull *p, size_t *n)
{
    return step(p, n, '[', ']', "expected ',' or ']'");
}

/* ---- strings */

static int hex_digit(int c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int read_hex4(struct lmi_pull *p, uint32_t *out)
{
    uint32_t v = 0;

    for (int i = 0; i < 4; i++, p->pos++) {
        int digit = hex_digit(peek(p));
        if (digit < 0)
            return lmi_pull_fail(p, "expected four hexadecimal digits after \\u");
        v = v << 4 | (uint32_t)digit;
    }
    *out = v;
    return 0;
}

/* The character after "\u", surrogate pairs put together. */
static int read_unicode(struct lmi_pull *p, uint32_t *out)
{
    uint32_t high = 0, low = 0;

    if (read_hex4(p, &high) < 0)
        return -1;
    *out = high;
    if (high < 0xd800 || high > 0xdfff)
        return 0;
    bool follows = high < 0xdc00 && peek(p) == '\\' && p->pos + 1 < p->text.size && p->text.data[p->pos + 1] == 'u';
    if (!follows)
        return lmi_pull_fail(p, "half of a surrogate pair");
    p->pos += 2;
    if (read_hex4(p, &low) < 0)
        return -1;
    if (low < 0xdc00 || low > 0xdfff)
        return lmi_pull_fail(p, "half of a surrogate pair");
    *out = 0x10000 + ((high - 0xd800) << 10 | (low - 0xdc00));
    return 0;
}

static size_t encode_utf8(uint8_t *dst, uint32_t c)
{
    if (c < 0x80) {
        dst[0] = (uint8_t)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const uint8_t lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n; i-- > 1; c >>= 6)
        dst[i] = (uint8_t)(0x80 | (c & 0x3f));
    dst[0] = (uint8_t)(lead[n] | c);
    return n;
}

/* Reads what follows a backslash; appends to dst, returns the bytes, 0 on error. */
static size_t read_escape(struct lmi_pull *p, uint8_t *dst)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    int c = peek(p);
    const char *at = c > 0 ? strchr(from, c) : NULL;
    uint32_t unicode = 0;

    if (at) {
        p->pos++;
        dst[0] = (uint8_t)to[at - from];
        return 1;
    }
    if (c != 'u') {
        lmi_pull_fail(p, "unknown escape in a string");
        return 0;
    }
    p->pos++;
    return read_unicode(p, &unicode) < 0 ? 0 : encode_utf8(dst, unicode);
}

/* From the first escape on: the string is copied. No escape is shorter than
 * what it stands for, so the raw length is enough. */
static int unescape(struct lmi_pull *p, size_t begin, struct lm_span *out)
{
    size_t close = p->pos, n = p->pos - begin;

    while (close < p->text.size && p->text.data[close] != '"')
        close += p->text.data[close] == '\\' ? 2 : 1;
    uint8_t *dst = lm_arena_alloc(p->arena, close - begin + 1);
    if (!dst)
        return lm_err_set(p->e, LM_NOMEM, "out of memory");
    memcpy(dst, p->text.data + begin, n);
    for (int c; (c = peek(p)) != '"';) {
        if (c < 0x20)
            return lmi_pull_fail(p, c < 0 ? "a string is not closed" : "control byte in a string");
        p->pos++;
        if (c != '\\') {
            dst[n++] = (uint8_t)c;
            continue;
        }
        size_t add = read_escape(p, dst + n);
        if (add == 0)
            return -1;
        n += add;
    }
    p->pos++;
    *out = lm_span_of(dst, n);
    return 0;
}

int lmi_pull_string(struct lmi_pull *p, struct lm_span *out)
{
    if (!accept(p, '"'))
        return lmi_pull_fail(p, "expected a string");
    size_t begin = p->pos;
    for (;; p->pos++) {
        int c = peek(p);
        if (c == '\\')
            return unescape(p, begin, out);
        if (c == '"')
            break;
        if (c < 0x20)
            return lmi_pull_fail(p, c < 0 ? "a string is not closed" : "control byte in a string");
    }
    *out = lm_span_of(p->text.data + begin, p->pos - begin);
    p->pos++;
    return 0;
}

/* ---- numbers and values that are passed over */

static bool is_digit(int c)
{
    return c >= '0' && c <= '9';
}

int lmi_pull_u64(struct lmi_pull *p, uint64_t *out)
{
    uint64_t v = 0;

    skip_space(p);
    if (peek(p) == '-')
        return lmi_pull_fail(p, "a negative number where a size is expected");
    if (!is_digit(peek(p)))
        return lmi_pull_fail(p, "expected an integer");
    size_t begin = p->pos;
    for (int c; is_digit(c = peek(p)); p->pos++)
        if (!lm_mul_u64(v, 10, &v) || !lm_add_u64(v, (uint64_t)(c - '0'), &v))
            return lmi_pull_fail(p, "an integer beyond 64 bits");
    if (p->text.data[begin] == '0' && p->pos - begin > 1)
        return lmi_pull_fail(p, "an integer with leading zeros");
    if (peek(p) == '.' || peek(p) == 'e' || peek(p) == 'E')
        return lmi_pull_fail(p, "a fraction or exponent where an integer is expected");
    *out = v;
    return 0;
}

static int skip_digits(struct lmi_pull *p)
{
    if (!is_digit(peek(p)))
        return lmi_pull_fail(p, "expected a digit");
    while (is_digit(peek(p)))
        p->pos++;
    return 0;
}

static int skip_number(struct lmi_pull *p)
{
    if (peek(p) == '-')
        p->pos++;
    if (peek(p) == '0')
        p->pos++;
    else if (skip_digits(p) < 0)
        return -1;
    if (peek(p) == '.') {
        p->pos++;
        if (skip_digits(p) < 0)
            return -1;
    }
    if (peek(p) != 'e' && peek(p) != 'E')
        return 0;
    p->pos++;
    if (peek(p) == '+' || peek(p) == '-')
        p->pos++;
    return skip_digits(p);
}

static int skip_scalar(struct lmi_pull *p)
{
    static const char *const words[] = {"true", "false", "null"};
    struct lm_span ignored;
    int c = peek(p);

    if (c == '"')
        return lmi_pull_string(p, &ignored);
    if (c == '-' || is_digit(c))
        return skip_number(p);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        size_t n = strlen(words[i]);
        if (p->text.size - p->pos >= n && memcmp(p->text.data + p->pos, words[i], n) == 0) {
            p->pos += n;
            return 0;
        }
    }
    return lmi_pull_fail(p, "expected a value");
}

int lmi_pull_skip(struct lmi_pull *p)
{
    size_t count[MAX_DEPTH]; /* members so far of every open object and array */
    bool object[MAX_DEPTH];
    size_t depth = 0;
    struct lm_span key;

    do {
        skip_space(p);
        int c = peek(p);
        if (c == '{' || c == '[') {
            if (depth == MAX_DEPTH)
                return lmi_pull_fail(p, "nested deeper than 64 levels");
            object[depth] = c == '{';
            count[depth++] = 0;
        } else if (skip_scalar(p) < 0) {
            return -1;
        }
        /* On to the next value, out of everything that ends here. */
        int rc = 0;
        while (depth > 0 && rc == 0) {
            size_t top = depth - 1;
            rc = object[top] ? lmi_pull_member(p, &count[top], &key) : lmi_pull_element(p, &count[top]);
            if (rc < 0)
                return -1;
            if (rc == 0)
                depth--;
        }
    } while (depth > 0);
    return 0;
}
