/* Inputs of any size in bounded memory: read a round, cut it where cutting
 * changes nothing, work the parts in parallel, print them in order. */
#include "cmd/tokenize.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PART_BYTES = 2 << 20, PARTS_PER_THREAD = 2 };

struct stream {
    const struct tok_job *j;
    const struct tok_worker *w;
    const char *name;
    int fd; /* -1: all there is lies in buf */
    uint8_t *buf;
    size_t n, capacity;
    uint64_t base; /* of buf in the input */
    uint64_t n_lines;
    bool end, begun, finished;
    struct tok_part *parts;
    size_t n_parts, max_parts;
    struct cli_progress progress;
    uint64_t size; /* of a regular file, or 0 */
};

/* ---- bytes out */

char *tok_room(struct tok_buf *b, size_t n)
{
    if (n > b->capacity - b->n) {
        size_t capacity = b->capacity + b->capacity / 2 + n + 256;
        char *p = b->failed || capacity < n ? NULL : realloc(b->data, capacity);
        if (!p) {
            b->failed = true;
            return NULL;
        }
        b->data = p;
        b->capacity = capacity;
    }
    return b->data + b->n;
}

void tok_put(struct tok_buf *b, const void *s, size_t n)
{
    char *p = tok_room(b, n);

    if (p && n > 0) {
        memcpy(p, s, n);
        b->n += n;
    }
}

void tok_put_number(struct tok_buf *b, uint64_t v)
{
    char digits[20], *p = digits + sizeof digits;

    do
        *--p = (char)('0' + v % 10);
    while (v /= 10);
    tok_put(b, p, (size_t)(digits + sizeof digits - p));
}

void tok_put_piece(struct tok_buf *b, struct lm_span piece)
{
    size_t size = 4 * piece.size + 1;
    char *p = tok_room(b, size);

    if (p)
        b->n += lm_piece_escape(piece, p, size);
}

/* An escaped piece is printable UTF-8: only quotes and backslashes are left for JSON. */
void tok_put_quoted(struct tok_buf *b, struct lm_span piece)
{
    size_t size = 4 * piece.size + 1;
    char *p = tok_room(b, 3 * size + 2), *escaped = p + 2 * size + 1;

    if (!p)
        return;
    size_t n = lm_piece_escape(piece, escaped, size);
    *p++ = '"';
    for (size_t i = 0; i < n; i++) {
        if (escaped[i] == '"' || escaped[i] == '\\')
            *p++ = '\\';
        *p++ = escaped[i];
    }
    *p++ = '"';
    b->n = (size_t)(p - b->data);
}

/* ---- bytes in */

static int open_input(struct stream *s, const struct tok_input *in, struct lm_err *e)
{
    struct stat st;

    if (in->argument) {
        s->n = s->capacity = strlen(in->argument);
        s->buf = (uint8_t *)strdup(in->argument);
        s->fd = -1;
        s->end = true;
        return s->buf ? 0 : lm_err_set(e, LM_NOMEM, "no memory for the text");
    }
    bool standard = strcmp(in->name, "-") == 0;
    s->name = standard ? "standard input" : in->name;
    s->fd = standard ? 0 : open(in->name, O_RDONLY | O_CLOEXEC);
    if (s->fd < 0)
        return lm_err_errno(e, "cannot open %s", in->name);
    if (fstat(s->fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0)
        s->size = (uint64_t)st.st_size;
    return 0;
}

static int grow(struct stream *s, size_t capacity, struct lm_err *e)
{
    uint8_t *p = capacity > s->capacity ? realloc(s->buf, capacity) : s->buf;

    if (!p)
        return lm_err_set(e, LM_NOMEM, "%s: no memory for %zu bytes", s->name, capacity);
    s->buf = p;
    s->capacity = capacity > s->capacity ? capacity : s->capacity;
    return 0;
}

/* Somebody who writes a line and waits for ours must not wait for ever. */
static bool answer_now(const struct stream *s)
{
    struct pollfd p = {.fd = s->fd, .events = POLLIN};

    return s->w->eager && !s->size && poll(&p, 1, 0) == 0 && s->w->cut(s->j, lm_span_of(s->buf, s->n), s->n) > 0;
}

/* Reads until there are `want` bytes or no more. */
static int fill(struct stream *s, size_t want, struct lm_err *e)
{
    size_t need = s->size && s->size - s->base < want ? (size_t)(s->size - s->base) + 1 : want;

    if (s->end)
        return 0;
    if (grow(s, need > s->n ? need : s->n + 1, e) < 0)
        return -1;
    while (!s->end && s->n < want) {
        if (s->n == s->capacity && grow(s, want, e) < 0)
            return -1;
        ssize_t got = read(s->fd, s->buf + s->n, s->capacity - s->n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return lm_err_errno(e, "cannot read %s", s->name);
        s->n += (size_t)got;
        s->end = got == 0;
        if (!s->end && answer_now(s))
            break;
    }
    return 0;
}

/* ---- a round */

static struct tok_part *next_part(struct stream *s, size_t begin, size_t end)
{
    struct tok_part *p = &s->parts[s->n_parts++];

    p->text = lm_span_of(s->buf + begin, end - begin);
    p->base = s->base + begin;
    p->first = p->last = false;
    p->ids.n = p->out.n = 0;
    p->counts = (struct tok_counts){0};
    p->n_lines = 0;
    p->rc = 0;
    return p;
}

/* Bytes of the first part of rest; 0: cannot be said yet. */
static size_t part_end(const struct stream *s, struct lm_span rest)
{
    size_t cut = 0;

    if (s->end && rest.size <= PART_BYTES)
        return rest.size;
    for (size_t at = PART_BYTES; !cut && at < rest.size; at *= 2)
        cut = s->w->cut(s->j, rest, at);
    if (!cut && s->w->eager && rest.size <= PART_BYTES)
        cut = s->w->cut(s->j, rest, rest.size);
    return !cut && s->end ? rest.size : cut;
}

/* Parts of buf into s->parts; returns the bytes they hold. With no place to cut
 * in sight that is 0, and more has to be read. */
static size_t divide(struct stream *s)
{
    size_t pos = 0;

    s->n_parts = 0;
    while (pos < s->n && s->n_parts < s->max_parts) {
        size_t cut = part_end(s, lm_span_of(s->buf + pos, s->n - pos));
        if (!cut)
            break;
        next_part(s, pos, pos + cut);
        pos += cut;
    }
    if (s->n == 0 && s->end)
        next_part(s, 0, 0); /* an empty text has its frame too */
    if (s->n_parts > 0) {
        s->parts[0].first = !s->begun;
        s->parts[s->n_parts - 1].last = s->finished = s->end && pos == s->n;
    }
    return pos;
}

static void work(struct stream *s)
{
    int n = (int)s->n_parts, threads = n < s->j->n_threads ? n : s->j->n_threads;

#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (threads > 1)
    for (int i = 0; i < n; i++)
        s->w->work(s->j, &s->parts[i]);
}

static int fail_part(struct stream *s, struct tok_part *p, struct lm_err *e)
{
    *e = p->e;
    if (p->n_lines > 0)
        lm_err_prefix(e, "line %llu", (unsigned long long)(s->n_lines + p->n_lines));
    return s->name ? lm_err_prefix(e, "%s", s->name) : -1;
}

/* What stands in front of a failure is printed. 1: nobody reads any more. */
static int print(struct stream *s, struct tok_counts *total, struct lm_err *e)
{
    for (size_t i = 0; i < s->n_parts; i++) {
        struct tok_part *p = &s->parts[i];
        if (p->out.failed && p->rc == 0)
            p->rc = lm_err_set(&p->e, LM_NOMEM, "no memory for the output");
        fwrite(p->out.data ? p->out.data : "", 1, p->out.n, stdout);
        if (p->rc < 0)
            return fail_part(s, p, e);
        s->n_lines += p->n_lines;
        if (total) {
            total->n_bytes += p->counts.n_bytes;
            total->n_chars += p->counts.n_chars;
            total->n_tokens += p->counts.n_tokens;
        }
    }
    return ferror(stdout) ? 1 : 0;
}

static int round_of(struct stream *s, struct tok_counts *total, struct lm_err *e)
{
    size_t want = s->max_parts * PART_BYTES;

    if (fill(s, want > s->n ? want : s->n + want, e) < 0)
        return -1;
    size_t done = divide(s);
    if (s->n_parts == 0)
        return 0;
    work(s);
    s->begun = true;
    int rc = print(s, total, e);
    memmove(s->buf, s->buf + done, s->n - done);
    s->n -= done;
    s->base += done;
    if (s->w->eager && s->n_parts == 1)
        fflush(stdout);
    if (s->size && s->progress.on) /* a filter is silent off a terminal */
        cli_progress(&s->progress, s->base, s->size);
    return rc;
}

static void close_stream(struct stream *s)
{
    if (s->fd > 0)
        close(s->fd);
    for (size_t i = 0; s->parts && i < s->max_parts; i++) {
        lm_ids_free(&s->parts[i].ids);
        free(s->parts[i].out.data);
    }
    free(s->parts);
    free(s->buf);
}

int tok_stream(const struct tok_job *j, const struct tok_input *in, const struct tok_worker *w, struct tok_counts *total,
               struct lm_err *e)
{
    struct stream s = {.j = j, .w = w};
    int rc = open_input(&s, in, e);

    s.max_parts = (size_t)j->n_threads * PARTS_PER_THREAD;
    s.parts = calloc(s.max_parts, sizeof *s.parts);
    if (rc == 0 && !s.parts)
        rc = lm_err_set(e, LM_NOMEM, "no memory for %zu parts", s.max_parts);
    cli_progress_begin(&s.progress, "tokenizing");
    while (rc == 0 && !s.finished)
        rc = round_of(&s, total, e);
    cli_progress_end(&s.progress);
    close_stream(&s);
    return rc < 0 ? -1 : 0;
}
