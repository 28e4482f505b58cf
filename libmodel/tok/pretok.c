#include "libmodel/tok/pretok.h"

#include <stdlib.h>

#include "libmodel/tok/unicode.h"

/* A step: a scanner that covers the text, one that may not, a run of some
 * classes, digits by three from the end of their run, or a regex. */
enum thousands { NO_THOUSANDS, ANY_RUN, BEFORE_NO_WORD, PLACES_ONLY };
struct step {
    size_t (*scan)(struct lm_span text, size_t pos);
    size_t (*match)(struct lm_span text, size_t pos);
    enum thousands thousands;
    struct run {
        uint16_t classes;  /* 0: not a run */
        bool space_before; /* \s? in front */
        size_t max;        /* characters, not counting the space */
    } run;
    struct lmi_regex *regex;
};

struct lmi_pretok {
    size_t n_steps;
    struct step steps[LMI_MAX_STEPS];
};

static const struct {
    const char *regex;
    struct step step;
} known[] = {
    {lmi_re_digit, {.run = {LMI_N, false, 1}}},
    {lmi_re_digits, {.run = {LMI_N, false, SIZE_MAX}}},
    {"\\p{N}{1,3}", {.run = {LMI_N, false, 3}}},
    {"[\r\n]", {.run = {LMI_CRLF, false, 1}}},
    {"\\s?\\p{L}+", {.run = {LMI_L, true, SIZE_MAX}}},
    {"\\s?\\p{P}+", {.run = {LMI_P, true, SIZE_MAX}}},
    {lmi_re_deepseek3, {.match = lmi_match_deepseek3}},
    {lmi_re_thousands, {.thousands = ANY_RUN}},
    {lmi_re_thousands_word, {.thousands = BEFORE_NO_WORD}},
    {lmi_re_thousands_before, {.thousands = PLACES_ONLY}},
    {lmi_re_cl100k, {.scan = lmi_scan_cl100k}},
    {"[一-龥ࠀ-一가-퟿]+", {.run = {LMI_CJK, false, SIZE_MAX}}},
};

/* Scanners go by the name whose regex they are, so that it is spelled once. */
static const struct {
    const char *name;
    size_t (*scan)(struct lm_span text, size_t pos);
} scanners[] = {{"gpt-2", lmi_scan_gpt2}, {"llama3", lmi_scan_llama3}, {"qwen2", lmi_scan_qwen2}, {"qwen35", lmi_scan_qwen35},
                {"gpt-4o", lmi_scan_o200k}, {"tekken", lmi_scan_tekken}, {"kimi-k2", lmi_scan_kimi}};

static int new_step(struct step *s, struct lm_span regex, struct lm_err *e)
{
    for (size_t i = 0; i < sizeof scanners / sizeof *scanners; i++)
        if (lmi_same_regex(regex, lm_span_str(lmi_pre_find(lm_span_str(scanners[i].name))->steps[0]))) {
            s->scan = scanners[i].scan;
            return 0;
        }
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (lmi_same_regex(regex, lm_span_str(known[i].regex))) {
            *s = known[i].step;
            return 0;
        }
    return lmi_regex_new(&s->regex, regex, e);
}

static int add_steps(struct lmi_pretok *p, struct lm_span rest, struct lm_err *e)
{
    while (rest.size > 0) {
        const uint8_t *nul = memchr(rest.data, 0, rest.size);
        size_t n = nul ? (size_t)(nul - rest.data) : rest.size, skip = nul ? n + 1 : n;
        if (p->n_steps == LMI_MAX_STEPS)
            return lm_err_set(e, LM_LIMIT, "more than %d pre-tokenizers in a row", LMI_MAX_STEPS);
        if (new_step(&p->steps[p->n_steps], lm_span_of(rest.data, n), e) < 0)
            return -1;
        p->n_steps++;
        rest = lm_span_of(rest.data + skip, rest.size - skip);
    }
    return 0;
}

int lmi_pretok_new(struct lmi_pretok **out, struct lm_span pattern, struct lm_err *e)
{
    struct lmi_pretok *p = calloc(1, sizeof *p);

    lmi_unicode_init();
    if (!p)
        return lm_err_set(e, LM_NOMEM, "out of memory for a pre-tokenizer");
    if (add_steps(p, pattern, e) < 0) {
        lmi_pretok_free(p);
        return -1;
    }
    *out = p;
    return 0;
}

void lmi_pretok_free(struct lmi_pretok *p)
{
    for (size_t i = 0; p && i < p->n_steps; i++)
        lmi_regex_free(p->steps[i].regex);
    free(p);
}

/* Digits and line ends hold no such place; regexes that we do not know may. */
static bool stays_apart(const struct step *s)
{
    return s->thousands || (s->run.classes && !s->run.space_before && !(s->run.classes & (LMI_L | LMI_SPACE)));
}

bool lmi_pretok_splits_words(const struct lmi_pretok *p)
{
    bool splits = false;

    for (size_t i = 0; i < p->n_steps; i++) {
        const struct step *s = &p->steps[i];
        if (s->scan || s->match)
            splits = true;
        else if (!stays_apart(s))
            return false;
    }
    return splits;
}

/* ---- running */

struct state {
    const struct lmi_pretok *p;
    struct lm_span text;
    int (*word)(void *user, size_t begin, size_t end);
    void *user;
    struct lmi_regex_run runs[LMI_MAX_STEPS];
    struct digits { /* what is known of the run of digits in work */
        size_t at, end, left; /* bytes of the piece; characters from `at` to `end` */
    } digits[LMI_MAX_STEPS];
    struct lm_err *e;
};

static inline bool in_class(struct lm_span t, size_t pos, unsigned classes, size_t *width)
{
    *width = lmi_utf8_width(t.data[pos]);
    return lmi_class_of(lmi_utf8_get(t.data + pos)) & classes;
}

/* End of the run that begins exactly at pos; pos if none. */
static size_t run_at(const struct run *r, struct lm_span t, size_t pos)
{
    size_t start = pos, width;

    if (r->space_before && in_class(t, pos, LMI_SPACE, &width))
        pos += width;
    size_t first = pos;
    for (size_t i = 0; i < r->max && pos < t.size && in_class(t, pos, r->classes, &width); i++)
        pos += width;
    return pos > first ? pos : start;
}

static int find_run(const struct run *r, struct lm_span t, size_t from, size_t *begin, size_t *end)
{
    for (size_t pos = from; pos < t.size; pos += lmi_utf8_width(t.data[pos])) {
        *end = run_at(r, t, pos);
        if (*end > pos) {
            *begin = pos;
            return 1;
        }
    }
    return 0;
}

static int find_match(const struct step *step, struct lm_span t, size_t from, size_t *begin, size_t *end)
{
    for (size_t pos = from; pos < t.size; pos += lmi_utf8_width(t.data[pos])) {
        *end = step->match(t, pos);
        if (*end > pos) {
            *begin = pos;
            return 1;
        }
    }
    return 0;
}

/* \w of the library that runs these regexes, for what may follow a digit. */
static bool is_word(struct lm_span t, size_t pos)
{
    uint32_t c = pos < t.size ? lmi_utf8_get(t.data + pos) : ' ';

    return (lmi_class_of(c) & LMI_WORD && c != 0x200c && c != 0x200d) || c == 0xb2 || c == 0xb3 || c == 0xb9 ||
           (c >= 0xbc && c <= 0xbe);
}

static size_t skip_chars(struct lm_span t, size_t pos, size_t n)
{
    for (; n > 0; n--)
        pos += lmi_utf8_width(t.data[pos]);
    return pos;
}

/* The run of digits at or after pos, in d; false: none left. */
static bool digits_from(const struct step *step, struct lm_span t, size_t pos, struct digits *d)
{
    unsigned classes = step->thousands == ANY_RUN ? LMI_N : LMI_ND;
    size_t width;

    if (d->at == pos && pos < d->end)
        return true;
    while (pos < t.size && !in_class(t, pos, classes, &width))
        pos += width;
    *d = (struct digits){pos, pos, 0};
    while (d->end < t.size && in_class(t, d->end, classes, &width)) {
        d->end += width;
        d->left++;
    }
    return d->left > 0;
}

/* Counted once a run, so that a long number takes linear time. */
static int find_thousands(const struct step *step, struct lm_span t, size_t from, size_t last_end, struct digits *d,
                          size_t *begin, size_t *end)
{
    while (digits_from(step, t, from, d)) {
        size_t n = d->left % 3 ? d->left % 3 : 3;
        if (step->thousands == BEFORE_NO_WORD && is_word(t, d->end)) {
            from = d->end;
            continue;
        }
        *begin = d->at;
        if (step->thousands == PLACES_ONLY && n == 3 && d->at != last_end) {
            *end = d->at;
            return 1;
        }
        from = d->at = skip_chars(t, d->at, n);
        d->left -= n;
        *end = d->at;
        if (step->thousands != PLACES_ONLY)
            return 1;
    }
    return 0;
}

static int find(struct state *s, size_t k, struct lm_span t, size_t from, size_t last_end, size_t *begin, size_t *end)
{
    const struct step *step = &s->p->steps[k];

    if (step->regex)
        return lmi_regex_find(step->regex, &s->runs[k], t, from, last_end, begin, end, s->e);
    if (step->match)
        return find_match(step, t, from, begin, end);
    if (step->thousands)
        return find_thousands(step, t, from, last_end, &s->digits[k], begin, end);
    return find_run(&step->run, t, from, begin, end);
}

/* Splits text[begin, end) by the steps from k on. As deep as there are steps. */
static int split(struct state *s, size_t k, size_t begin, size_t end)
{
    if (begin == end)
        return 0;
    if (k == s->p->n_steps)
        return s->word(s->user, begin, end);
    struct lm_span t = lm_span_of(s->text.data + begin, end - begin);
    const struct step *step = &s->p->steps[k];
    size_t pos = 0;
    while (pos < t.size && step->scan) {
        size_t next = step->scan(t, pos);
        if (split(s, k + 1, begin + pos, begin + next) < 0)
            return -1;
        pos = next;
    }
    size_t last = SIZE_MAX;
    s->digits[k] = (struct digits){0, 0, 0};
    for (size_t b, e; pos < t.size; pos = last = e) {
        int rc = find(s, k, t, pos, last, &b, &e);
        if (rc < 0)
            return -1;
        if (rc == 0)
            b = e = t.size;
        if (split(s, k + 1, begin + pos, begin + b) < 0 || split(s, k + 1, begin + b, begin + e) < 0)
            return -1;
    }
    return 0;
}

int lmi_pretok_run(const struct lmi_pretok *p, struct lm_span text, int (*word)(void *user, size_t begin, size_t end),
                   void *user, struct lm_err *e)
{
    struct state s = {.p = p, .text = text, .word = word, .user = user, .e = e};
    size_t n = 0;
    int rc = 0;

    for (; n < p->n_steps && rc == 0; n++)
        if (p->steps[n].regex)
            rc = lmi_regex_begin(&s.runs[n], p->steps[n].regex, text.size, e);
    if (rc == 0)
        rc = split(&s, 0, 0, text.size);
    for (size_t i = 0; i < n; i++)
        lmi_regex_end(&s.runs[i]);
    return rc;
}
