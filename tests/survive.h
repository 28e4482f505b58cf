/* For tests of hostile files: opening with an eye on time and words, and the
 * values that break arithmetic. */
#ifndef TESTS_SURVIVE_H
#define TESTS_SURVIVE_H

#include "tests/files.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

/* LM_TEST_LONG=1: everything everywhere. */
static inline bool is_long(void)
{
    return getenv("LM_TEST_LONG") != NULL;
}

/* ---- opening, with its cost */

static volatile uint64_t touched;
static double slowest;
static size_t n_tried;

/* Of this process and of those it has waited for. */
static inline double cpu_seconds(void)
{
    struct timespec t;
    struct rusage r;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    getrusage(RUSAGE_CHILDREN, &r);
    return (double)(t.tv_sec + r.ru_utime.tv_sec + r.ru_stime.tv_sec) + 1e-9 * (double)t.tv_nsec +
           1e-6 * (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec);
}

/* Everything that was promised is there. */
static inline void touch(struct lm_model *m)
{
    for (size_t i = 0; i < lm_model_n_tensors(m); i++)
        for (uint64_t j = 0; j < lm_model_tensor(m, i)->n_bytes; j++)
            touched += lm_model_tensor(m, i)->data[j];
}

/* Opens or is refused with a sentence, quickly. text (or NULL) gets the sentence. */
static inline bool opens(const char *path, char text[1200])
{
    struct lm_model *m;
    struct lm_err e = {0};
    double began = cpu_seconds();
    bool ok = lm_model_open(&m, path, &e) == 0;

    if (ok) {
        touch(m);
        lm_model_close(m);
    } else if (e.code == LM_OK || !e.text[0] || !lm_utf8_valid(lm_span_str(e.text)) || strchr(e.text, '\n')) {
        fail_msg("refused without a printable sentence: '%s'", e.text);
    }
    double took = cpu_seconds() - began;
    slowest = took > slowest ? took : slowest;
    n_tried++;
    if (text)
        snprintf(text, 1200, "%s", ok ? "" : e.text);
    return ok;
}

static inline bool bytes_open(const struct bytes *b, char text[1200])
{
    static int fd = -1;
    char path[64];

    if (fd < 0)
        fd = memfd_create("test", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, (off_t)b->n), 0);
    assert_int_equal(pwrite(fd, b->data, b->n, 0), b->n);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return opens(path, text);
}

/* Is it one of the reasons? They are parts of sentences, separated by '|'; a '?'
 * at the beginning where it may open as well. No text: it opened. */
static inline bool is_said(const char *text, const char *reasons)
{
    bool may_open = reasons[0] == '?';

    if (!text[0])
        return may_open;
    for (const char *r = reasons + may_open; *r;) {
        char one[100];
        size_t n = strcspn(r, "|");
        snprintf(one, sizeof one, "%.*s", (int)n, r);
        if (strstr(text, one))
            return true;
        r += n + (r[n] == '|');
    }
    return false;
}

static inline size_t values_of(uint64_t *out, uint64_t real, size_t file_size, unsigned width)
{
    static const uint64_t fixed[] = {
        0, 1, 2, 127, 128, 255, 256, (1u << 15) - 1, 1u << 15, (1u << 16) - 1, 1u << 16, (1u << 31) - 1, 1u << 31,
        UINT32_MAX, 1ull << 32, 1ull << 52, 1ull << 53, 1ull << 61, 1ull << 62, INT64_MAX, 1ull << 63, UINT64_MAX - 1,
        UINT64_MAX,
    };
    const uint64_t near[] = {real - 1, real + 1, file_size - 1, file_size, file_size + 1};
    uint64_t mask = width == 8 ? UINT64_MAX : (1ull << 8 * width) - 1;
    size_t n = 0;

    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0] + 5; i++) {
        uint64_t v = (i < 5 ? near[i] : fixed[i - 5]) & mask;
        bool seen = v == real;
        for (size_t k = 0; k < n; k++)
            seen |= out[k] == v;
        if (!seen)
            out[n++] = v;
    }
    return n;
}

#endif
