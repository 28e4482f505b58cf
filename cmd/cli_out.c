/* Text out and in: messages, safe text, JSON, numbers for people, the end. */
#include "cmd/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <utf8proc.h>

/* ---- the terminal */

bool cli_color(FILE *f)
{
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

    return isatty(fileno(f)) && !(no && *no) && !(term && strcmp(term, "dumb") == 0);
}

size_t cli_width(FILE *f, size_t otherwise)
{
    struct winsize w;

    if (!isatty(fileno(f)))
        return otherwise;
    if (ioctl(fileno(f), TIOCGWINSZ, &w) == 0 && w.ws_col > 0)
        return w.ws_col;
    return 80;
}

double cli_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- text that a terminal may be shown */

/* Bytes of the character at s that may be shown as it is; 0: escape one byte. */
static size_t shown_char(struct lm_span s)
{
    utf8proc_int32_t c;

    if (s.data[0] >= ' ' && s.data[0] < 0x7f)
        return 1;
    utf8proc_ssize_t n = utf8proc_iterate(s.data, (utf8proc_ssize_t)s.size, &c);
    if (n <= 0)
        return 0;
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF: /* also the marks that reverse the direction of a line */
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return 0;
    default: return (size_t)n;
    }
}

static size_t escape_into(char *dst, struct lm_span s, size_t (*keep)(struct lm_span))
{
    static const char hex[] = "0123456789ABCDEF";
    char *p = dst;

    for (size_t i = 0; i < s.size;) {
        size_t n = keep(lm_span_of(s.data + i, s.size - i));
        if (n > 0) {
            memcpy(p, s.data + i, n);
            p += n;
            i += n;
            continue;
        }
        *p++ = '\\';
        *p++ = 'x';
        *p++ = hex[s.data[i] >> 4];
        *p++ = hex[s.data[i] & 15];
        i++;
    }
    *p = '\0';
    return (size_t)(p - dst);
}

const char *cli_safe(struct lm_span text)
{
    static struct { char *data; size_t size; } ring[16];
    static unsigned next;
    size_t need = text.size * 4 + 1;
    unsigned at = next++ % 16;

    if (ring[at].size < need) {
        char *grown = realloc(ring[at].data, need);
        if (!grown)
            return "(out of memory)";
        ring[at].data = grown;
        ring[at].size = need;
    }
    escape_into(ring[at].data, text, shown_char);
    return ring[at].data;
}

size_t cli_text_width(const char *s)
{
    size_t w = 0;

    while (*s) {
        utf8proc_int32_t c = (unsigned char)*s;
        utf8proc_ssize_t n = c < 0x80 ? 1 : utf8proc_iterate((const utf8proc_uint8_t *)s, -1, &c);
        int cols = c < 0x80 || n <= 0 ? 1 : utf8proc_charwidth(c);
        w += cols > 0 ? (size_t)cols : 0;
        s += n > 0 ? n : 1;
    }
    return w;
}

/* ---- messages */

int cli_fail(const struct lm_err *e)
{
    fflush(stdout);
    fprintf(stderr, "%s: %s\n", cli_name(), e->text);
    if (e->code == LM_INTERRUPTED)
        return 130;
    return e->code == LM_USAGE ? CLI_USAGE : CLI_FAILED;
}

void cli_note(const char *format, ...)
{
    char *text;
    va_list ap;

    va_start(ap, format);
    int n = vasprintf(&text, format, ap);
    va_end(ap);
    if (n < 0)
        return;
    fflush(stdout);
    fprintf(stderr, "%s\n", cli_safe(lm_span_of(text, (size_t)n)));
    free(text);
}

int cli_finish(int code)
{
    errno = 0;
    bool bad = ferror(stdout) != 0;
    bad |= fflush(stdout) != 0;
    int why = errno;
    /* stdio forgets why an earlier write failed: ask again. */
    if (bad && why == 0 && write(1, "\n", 1) < 0)
        why = errno;
    bool gone = bad && why == EPIPE;
    /* Some file systems report a full disk only when the file is closed. */
    if (!bad && fclose(stdout) != 0) {
        bad = true;
        why = errno;
    }
    if (!bad || gone)
        return code;
    fprintf(stderr, "%s: cannot write to standard output: %s\n", cli_name(), why ? strerror(why) : "write failed");
    return CLI_FAILED;
}

/* ---- signals */

volatile int cli_stop;

static void on_stop(int signal_number)
{
    (void)signal_number;
    cli_stop = 1;
}

void cli_catch_signals(void)
{
    /* Once: a second Ctrl-C ends a job that does not listen. */
    struct sigaction a = {.sa_handler = on_stop, .sa_flags = (int)(SA_RESTART | SA_RESETHAND)};

    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    sigaction(SIGHUP, &a, NULL);
}

/* ---- numbers for people */

char *cli_count(char *buf, size_t size, uint64_t n)
{
    char digits[24];
    int len = snprintf(digits, sizeof digits, "%llu", (unsigned long long)n);
    size_t at = 0;

    for (int i = 0; i < len && at + 2 < size; i++) {
        if (i > 0 && (len - i) % 3 == 0)
            buf[at++] = ' ';
        buf[at++] = digits[i];
    }
    buf[at] = '\0';
    return buf;
}

char *cli_bytes(char *buf, size_t size, uint64_t n)
{
    static const char units[] = "kMGTPE";
    double v = (double)n;
    int u = -1;

    /* 999 995 would print as "1000.00 kB". */
    while (v >= (u < 0 ? 1000 : 999.995) && u < 5) {
        v /= 1000;
        u++;
    }
    if (u < 0)
        snprintf(buf, size, "%u B", (unsigned)n);
    else
        snprintf(buf, size, "%.2f %cB", v, units[u]);
    return buf;
}

/* ---- JSON */

static size_t utf8_char(struct lm_span s)
{
    utf8proc_int32_t c;
    utf8proc_ssize_t n = utf8proc_iterate(s.data, (utf8proc_ssize_t)s.size, &c);

    return n > 0 ? (size_t)n : 0;
}

json_t *cli_json_real(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

json_t *cli_json_str(struct lm_span text)
{
    if (lm_utf8_valid(text))
        return json_stringn(text.size ? (const char *)text.data : "", text.size);
    char *escaped = malloc(text.size * 4 + 1);
    if (!escaped)
        return NULL;
    size_t n = escape_into(escaped, text, utf8_char);
    json_t *j = json_stringn(escaped, n);
    free(escaped);
    return j;
}

/* A terminal obeys U+007F to U+009F too, which JSON may hold as they are. Their
 * bytes (7F; C2 80 to C2 9F) are within strings, where an escape says the same. */
struct json_out {
    FILE *f;
    bool lead; /* a C2 is held back */
};

static int put_escaped(const char *text, size_t n, void *user)
{
    struct json_out *o = user;

    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == 0x7f || (o->lead && c < 0xa0))
            fprintf(o->f, "\\u%04x", c);
        else if (o->lead)
            putc(0xc2, o->f), putc(c, o->f);
        else if (c != 0xc2)
            putc(c, o->f);
        o->lead = !o->lead && c == 0xc2;
    }
    return ferror(o->f) ? -1 : 0;
}

char *cli_json_text(const json_t *value, size_t flags)
{
    char *text = NULL;
    size_t n;
    struct json_out o = {.f = value ? open_memstream(&text, &n) : NULL};
    bool fine = o.f && json_dump_callback(value, put_escaped, &o, flags) == 0;

    if ((o.f && fclose(o.f) != 0) || !fine) {
        free(text);
        return NULL;
    }
    return text;
}

int cli_json_print(json_t *root)
{
    struct json_out o = {.f = stdout};

    if (!root)
        return -1;
    int r = json_dump_callback(root, put_escaped, &o, JSON_INDENT(2));
    putchar('\n');
    json_decref(root);
    return r;
}

/* ---- text in */

static int read_all(FILE *f, const char *name, char **out, size_t *n, struct lm_err *e)
{
    size_t size = 1 << 16, used = 0;
    char *buf = malloc(size);

    while (buf && !ferror(f)) {
        used += fread(buf + used, 1, size - 1 - used, f);
        if (used < size - 1)
            break;
        char *grown = size <= SIZE_MAX / 2 ? realloc(buf, size *= 2) : NULL;
        if (!grown)
            free(buf);
        buf = grown;
    }
    if (!buf)
        return lm_err_set(e, LM_NOMEM, "no memory for the text of %s", name);
    if (ferror(f)) {
        free(buf);
        return lm_err_errno(e, "cannot read %s", name);
    }
    buf[used] = '\0';
    *out = buf;
    *n = used;
    return 0;
}

int cli_read_text(char **out, size_t *n, const char *text, const char *file, struct lm_err *e)
{
    if (text && file)
        return lm_err_set(e, LM_USAGE, "give the text itself or a file, not both");
    const char *from = file ? file : text;
    if (from ? strcmp(from, "-") == 0 : !isatty(0))
        return read_all(stdin, "standard input", out, n, e);
    if (!from)
        return lm_err_set(e, LM_USAGE, "no text given: put it on the command line, in a file with -f, or use -");
    if (text) {
        *n = strlen(text);
        *out = strdup(text);
        return *out ? 0 : lm_err_set(e, LM_NOMEM, "no memory for the text");
    }
    FILE *f = fopen(file, "re");
    if (!f)
        return lm_err_errno(e, "cannot open %s", file);
    int r = read_all(f, file, out, n, e);
    fclose(f);
    return r;
}
