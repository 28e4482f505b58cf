#include "libmodel/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "libmodel/bytes.h"

/* Long enough for a path and a sentence; what does not fit is cut. */
enum { RAW_SIZE = 8192 };

/* Length of the UTF-8 character at s (n bytes are there), 0 if it is none. */
static size_t char_length(const uint8_t *s, size_t n)
{
    size_t want = s[0] < 0x80 ? 1 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;

    return want <= n && lm_utf8_valid(lm_span_of(s, want)) ? want : 0;
}

/* Characters that move the cursor or turn the writing direction: C0, DEL, C1,
 * line separators and the bidirectional controls. */
static bool is_control(const uint8_t *s, size_t length)
{
    if (length == 1)
        return s[0] < 0x20 || s[0] == 0x7f;
    if (length == 2)
        return s[0] == 0xc2 && s[1] < 0xa0;
    if (length != 3 || s[0] != 0xe2)
        return false;
    return (s[1] == 0x80 && s[2] >= 0xa8 && s[2] <= 0xae) || (s[1] == 0x81 && s[2] >= 0xa6 && s[2] <= 0xa9);
}

/* Copies n raw bytes into dst (size bytes, NUL-terminated), escaped; stops
 * before the first character that does not fit whole. Returns the length. */
static size_t escape(char *dst, size_t size, const char *raw, size_t n)
{
    const uint8_t *s = (const uint8_t *)raw;
    size_t out = 0;

    for (size_t i = 0; i < n;) {
        size_t length = char_length(s + i, n - i);
        bool plain = length > 0 && !is_control(s + i, length);
        size_t take = plain ? length : 1;
        size_t need = plain ? length : 4;

        if (out + need >= size)
            break;
        if (plain)
            memcpy(dst + out, s + i, length);
        else
            snprintf(dst + out, 5, "\\x%02X", s[i]);
        out += need;
        i += take;
    }
    dst[out] = 0;
    return out;
}

static size_t format_escaped(char *dst, size_t size, const char *format, va_list args)
{
    char raw[RAW_SIZE];
    int n = vsnprintf(raw, sizeof raw, format, args);

    if (n < 0) {
        dst[0] = 0;
        return 0;
    }
    return escape(dst, size, raw, (size_t)n < sizeof raw ? (size_t)n : sizeof raw - 1);
}

int lm_err_set(struct lm_err *e, enum lm_code code, const char *format, ...)
{
    va_list args;
    char text[sizeof e->text]; /* the arguments may come from e->text itself */

    if (!e)
        return -1;
    va_start(args, format);
    size_t n = format_escaped(text, sizeof text, format, args);
    va_end(args);
    memcpy(e->text, text, n + 1);
    e->code = code;
    return -1;
}

int lm_err_errno(struct lm_err *e, const char *format, ...)
{
    int number = errno;
    va_list args;
    char text[sizeof e->text], reason[128];

    if (!e)
        return -1;
    va_start(args, format);
    size_t n = format_escaped(text, sizeof text, format, args);
    va_end(args);
    const char *why = strerror_r(number, reason, sizeof reason);
    return lm_err_set(e, LM_IO, "%.*s: %s", (int)n, text, why);
}

/* "tensor 'a'" where the text begins so already: the level below knew it too. */
static bool says_already(const struct lm_err *e, const char *context, size_t n)
{
    return n > 0 && strncmp(e->text, context, n) == 0 && e->text[n] == ':';
}

int lm_err_prefix(struct lm_err *e, const char *format, ...)
{
    va_list args;
    char text[sizeof e->text];

    if (!e)
        return -1;
    va_start(args, format);
    /* The context may not push the reason out: it gets half of the room. */
    size_t n = format_escaped(text, sizeof text / 2, format, args);
    va_end(args);
    if (says_already(e, text, n))
        return -1;
    n += (size_t)snprintf(text + n, sizeof text - n, ": ");
    escape(text + n, sizeof text - n, e->text, strlen(e->text));
    memcpy(e->text, text, sizeof text);
    return -1;
}
