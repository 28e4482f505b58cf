/* --regex: the bytes that pieces stand for against a pattern, under limits. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "cmd/vocab.h"

enum { STEPS = 100000, KILOBYTES = 20000 };

static pcre2_code *compile(const char *regex, struct lm_err *e)
{
    int code;
    PCRE2_SIZE at;
    uint8_t message[160];
    pcre2_code *c = pcre2_compile((PCRE2_SPTR)regex, PCRE2_ZERO_TERMINATED,
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF | PCRE2_NEVER_BACKSLASH_C, &code, &at, NULL);

    if (!c) {
        pcre2_get_error_message(code, message, sizeof message);
        lm_err_set(e, LM_USAGE, "--regex: %s at character %zu of '%s'", (char *)message, at, regex);
    }
    return c;
}

static int64_t match_all(struct vocab_job *j, const pcre2_code *c, pcre2_match_data *m, pcre2_match_context *limits,
                         void (*one)(void *user, size_t id), void *user, struct lm_err *e)
{
    int64_t n = 0;

    for (size_t i = 0; i < j->v->n_pieces; i++) {
        struct lm_span s = vocab_bytes_of(j, i);
        int rc = pcre2_match(c, s.data, s.size, 0, 0, m, limits);
        if (rc == PCRE2_ERROR_MATCHLIMIT || rc == PCRE2_ERROR_DEPTHLIMIT || rc == PCRE2_ERROR_HEAPLIMIT ||
            rc == PCRE2_ERROR_JIT_STACKLIMIT)
            return lm_err_set(e, LM_LIMIT, "--regex takes more than %d steps on piece %zu", STEPS, i);
        if (rc < 0)
            continue;
        one(user, i);
        n++;
    }
    return n;
}

int64_t vocab_match(struct vocab_job *j, const char *regex, void (*one)(void *user, size_t id), void *user, struct lm_err *e)
{
    pcre2_code *c = compile(regex, e);
    pcre2_match_data *m = c ? pcre2_match_data_create_from_pattern(c, NULL) : NULL;
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    int64_t n = -1;

    if (c && (!m || !limits))
        lm_err_set(e, LM_NOMEM, "no memory for a regex");
    else if (c) {
        pcre2_set_match_limit(limits, STEPS);
        pcre2_set_heap_limit(limits, KILOBYTES);
        pcre2_jit_compile(c, PCRE2_JIT_COMPLETE);
        n = match_all(j, c, m, limits, one, user, e);
    }
    pcre2_match_context_free(limits);
    pcre2_match_data_free(m);
    pcre2_code_free(c);
    return n;
}
