/* The shortest text that still differs: chunks are left out, half of it at
 * first, then smaller, down to characters and bytes. */
#include <stdlib.h>

#include "convert/tokens_parts.h"

enum { MOST_TRIALS = 20000, FEW = 14 };

struct shrink {
    struct lmc_pair *p;
    struct lmc_case *c;
    uint8_t *text, *trial; /* n bytes each; text is what still differs */
    size_t n;
    unsigned trials;
};

static bool try(struct shrink *s, struct lm_span text, unsigned flags)
{
    struct lmc_case c = {text, flags, s->c->decode, s->c->found_in};

    return s->trials++ < MOST_TRIALS && lmc_differ(s->p, &c);
}

/* Where the character that holds byte `at` begins. */
static size_t char_start(const struct shrink *s, size_t at)
{
    size_t back = 0;

    while (back < 3 && at > back && at - back < s->n && (s->text[at - back] & 0xc0) == 0x80)
        back++;
    return at - back;
}

/* text without [from, to), when that still differs. */
static bool cut_out(struct shrink *s, size_t from, size_t to)
{
    if (from >= to)
        return false;
    memcpy(s->trial, s->text, from);
    memcpy(s->trial + from, s->text + to, s->n - to);
    if (!try(s, lm_span_of(s->trial, s->n - (to - from)), s->c->flags))
        return false;
    s->n -= to - from;
    memcpy(s->text, s->trial, s->n);
    return true;
}

/* One pass with chunks of `size` bytes, moved to whole characters when asked. */
static bool pass(struct shrink *s, size_t size, bool chars)
{
    bool any = false;

    for (size_t at = 0; at < s->n;) {
        size_t end = at + size < s->n ? at + size : s->n;
        if (chars && end < s->n) {
            end = char_start(s, end);
            while (end <= at || (end < s->n && (s->text[end] & 0xc0) == 0x80))
                end++;
        }
        if (cut_out(s, at, end))
            any = true;
        else
            at = end;
    }
    return any;
}

/* Two places at once: brackets, pairs of quotes. */
static bool pairs(struct shrink *s)
{
    if (s->n > FEW)
        return false;
    for (size_t i = 0; i + 1 < s->n; i++)
        for (size_t k = i + 1; k < s->n; k++) {
            size_t m = 0;
            for (size_t at = 0; at < s->n; at++)
                if (at != i && at != k)
                    s->trial[m++] = s->text[at];
            if (try(s, lm_span_of(s->trial, m), s->c->flags)) {
                memcpy(s->text, s->trial, m);
                s->n = m;
                return true;
            }
        }
    return false;
}

static void shorten(struct shrink *s)
{
    bool valid = lm_utf8_valid(lm_span_of(s->text, s->n));

    for (size_t size = s->n / 2; size > 0; size /= 2)
        pass(s, size, valid);
    while (pass(s, 1, valid) || (!valid && pairs(s)))
        ;
}

/* Fewest flags first. */
static void simplify_flags(struct shrink *s)
{
    static const unsigned sets[] = {0, LM_ENCODE_SPECIAL, LM_ENCODE_BOS_EOS};

    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        if ((sets[i] & s->c->flags) == sets[i] && sets[i] != s->c->flags &&
            try(s, lm_span_of(s->text, s->n), sets[i])) {
            s->c->flags = sets[i];
            return;
        }
}

int lmc_shrink(struct lmc_pair *p, struct lmc_case *c, struct lm_arena *arena, struct lm_err *e)
{
    struct shrink s = {.p = p, .c = c, .text = malloc(c->text.size + 1), .trial = malloc(c->text.size + 1), .n = c->text.size};
    int rc = -1;

    if (s.text && s.trial) {
        memcpy(s.text, c->text.data ? c->text.data : (const uint8_t *)"", s.n);
        simplify_flags(&s);
        shorten(&s);
        char *kept = lm_arena_str(arena, lm_span_of(s.text, s.n));
        c->text = lm_span_of(kept, s.n);
        rc = kept ? 0 : -1;
    }
    free(s.text);
    free(s.trial);
    return rc < 0 ? lm_err_set(e, LM_NOMEM, "out of memory for a comparison") : 0;
}
