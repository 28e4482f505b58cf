/* tokenizer.json's pre-tokenizers: each splits the pieces that the one before
 * left; ByteLevel and Metaspace also change them. */
#include <stdlib.h>

#include "libmodel/tok/build.h"
#include "libmodel/tok/pipeline.h"
#include "libmodel/tok/unicode.h"

static int nomem(struct lm_err *e)
{
    return lm_err_set(e, LM_NOMEM, "out of memory for a pre-tokenizer");
}

uint8_t *lmi_mask_ill_formed(struct lm_span s, bool *failed)
{
    size_t i = lmi_utf8_valid_prefix(s);
    uint8_t *copy = i < s.size ? malloc(s.size) : NULL;

    *failed = i < s.size && !copy;
    if (!copy)
        return NULL;
    memcpy(copy, s.data, s.size);
    while (i < s.size) {
        size_t w = lmi_utf8_step(s.data + i, s.size - i);
        if (w == 0)
            copy[i] = 0x7f;
        i += w ? w : 1;
    }
    return copy;
}

/* ---- matches */

int lmi_matcher_begin(struct lmi_matcher *m, const struct lmi_pattern *p, struct lm_span text, struct lm_err *e)
{
    *m = (struct lmi_matcher){.pattern = p, .text = text, .last_end = SIZE_MAX};
    return p->regex ? lmi_regex_begin(&m->run, p->regex, text.size, e) : 0;
}

static int next_literal(struct lmi_matcher *m, size_t *begin, size_t *end)
{
    struct lm_span s = m->pattern->literal;
    const uint8_t *at = s.size && m->from < m->text.size
                            ? memmem(m->text.data + m->from, m->text.size - m->from, s.data, s.size) : NULL;

    if (!at)
        return 0;
    *begin = (size_t)(at - m->text.data);
    *end = m->from = *begin + s.size;
    return 1;
}

int lmi_matcher_next(struct lmi_matcher *m, size_t *begin, size_t *end, struct lm_err *e)
{
    if (!m->pattern->regex)
        return next_literal(m, begin, end);
    if (m->from > m->text.size || m->text.size == 0)
        return 0;
    int rc = lmi_regex_find(m->pattern->regex, &m->run, m->text, m->from, m->last_end, begin, end, e);
    if (rc > 0)
        m->from = m->last_end = *end;
    return rc;
}

void lmi_matcher_end(struct lmi_matcher *m)
{
    if (m->pattern->regex)
        lmi_regex_end(&m->run);
}

/* ---- pieces */

void lmi_cuts_put(struct lmi_cuts *c, size_t begin, size_t end)
{
    if (begin == end || c->failed)
        return;
    if (c->n == c->capacity) {
        size_t capacity = 2 * c->capacity + 64;
        struct lm_offsets *p = capacity < SIZE_MAX / 64 ? realloc(c->list, capacity * sizeof *p) : NULL;
        if (!p) {
            c->failed = true;
            return;
        }
        c->list = p;
        c->capacity = capacity;
    }
    c->list[c->n++] = (struct lm_offsets){begin, end};
}

/* Segments of a piece, matches and what is between them, become pieces by the
 * behavior. One segment waits: the next may join it. */
struct joiner {
    struct lmi_cuts *out;
    enum lmi_behavior behavior;
    size_t base; /* of the piece in the text */
    size_t begin, end;
    bool waiting, match;
};

static void flush(struct joiner *j)
{
    if (j->waiting && !(j->behavior == LMI_REMOVED && j->match))
        lmi_cuts_put(j->out, j->base + j->begin, j->base + j->end);
    j->waiting = false;
}

static bool joins(const struct joiner *j, bool match)
{
    switch (j->behavior) {
    case LMI_CONTIGUOUS:
        return match == j->match;
    case LMI_MERGED_WITH_PREVIOUS:
        return match && !j->match;
    case LMI_MERGED_WITH_NEXT:
        return j->match && !match;
    default:
        return false;
    }
}

static void segment(struct joiner *j, size_t begin, size_t end, bool match)
{
    if (j->waiting && joins(j, match)) {
        j->end = end;
    } else {
        flush(j);
        j->begin = begin;
        j->end = end;
    }
    j->waiting = true;
    j->match = match;
}

/* ---- the kinds */

struct splitter {
    const struct lmi_split_step *step;
    struct lm_span text; /* all of it, ill-formed bytes masked */
    struct lmi_cuts *out;
    struct lm_err *e;
};

static int by_pattern(const struct splitter *s, struct lm_span piece, struct joiner *j)
{
    struct lmi_matcher m;
    size_t pos = 0, begin, end;
    int rc = lmi_matcher_begin(&m, &s->step->pattern, piece, s->e);

    if (rc < 0)
        return -1;
    while ((rc = lmi_matcher_next(&m, &begin, &end, s->e)) > 0) {
        if (pos != begin)
            segment(j, pos, begin, s->step->invert);
        segment(j, begin, end, !s->step->invert);
        pos = end;
    }
    if (pos != piece.size)
        segment(j, pos, piece.size, s->step->invert);
    lmi_matcher_end(&m);
    return rc;
}

/* Every matching character is a match of its own. */
static void by_character(const struct splitter *s, struct lm_span piece, struct joiner *j)
{
    bool by_class = s->step->kind == LMI_SPLIT_CLASS;
    size_t plain = 0;

    for (size_t i = 0; i < piece.size;) {
        struct lmi_char c = lmi_char_at(piece.data + i, piece.size - i);
        if (by_class ? lmi_class_of(c.cp) & s->step->classes : c.cp == s->step->character) {
            if (plain < i)
                segment(j, plain, i, false);
            segment(j, i, i + c.width, true);
            plain = i + c.width;
        }
        i += c.width;
    }
    if (plain < piece.size)
        segment(j, plain, piece.size, false);
}

/* \w+|[^\w\s]+ are the pieces, white space goes. */
static void by_words(struct lm_span piece, struct joiner *j)
{
    unsigned kind = 0; /* of the piece in work: LMI_WORD, 1 for others, 0 none */
    size_t begin = 0;

    for (size_t i = 0; i < piece.size;) {
        struct lmi_char c = lmi_char_at(piece.data + i, piece.size - i);
        unsigned class = lmi_class_of(c.cp), now = class & LMI_WORD ? LMI_WORD : class & LMI_SPACE ? 0 : 1;
        if (now != kind) {
            if (kind)
                segment(j, begin, i, false);
            begin = i;
            kind = now;
        }
        i += c.width;
    }
    if (kind)
        segment(j, begin, piece.size, false);
}

/* A new piece begins where the script changes; what stands before the first
 * character that has one is lost, as in the library. */
static void by_scripts(struct lm_span piece, struct joiner *j)
{
    unsigned last = UINT32_MAX;
    size_t begin = SIZE_MAX;

    for (size_t i = 0; i < piece.size;) {
        struct lmi_char c = lmi_char_at(piece.data + i, piece.size - i);
        unsigned script = lmi_script(c.cp);
        if (script != 0 && script != last) {
            if (begin != SIZE_MAX)
                segment(j, begin, i, false);
            begin = i;
            last = script;
        }
        i += c.width;
    }
    if (begin != SIZE_MAX)
        segment(j, begin, piece.size, false);
}

static void by_length(const struct splitter *s, struct lm_span piece, struct joiner *j)
{
    size_t begin = 0, n = 0;

    for (size_t i = 0; i < piece.size;) {
        if (n++ == s->step->length) {
            segment(j, begin, i, false);
            begin = i;
            n = 1;
        }
        i += lmi_char_at(piece.data + i, piece.size - i).width;
    }
    segment(j, begin, piece.size, false);
}

static int split_piece(const struct splitter *s, size_t begin, size_t end)
{
    struct lm_span piece = lm_span_of(s->text.data + begin, end - begin);
    struct joiner j = {.out = s->out, .behavior = s->step->behavior, .base = begin};
    int rc = 0;

    switch (s->step->kind) {
    case LMI_SPLIT_PATTERN:
    case LMI_SPLIT_BYTE_LEVEL:
        rc = by_pattern(s, piece, &j);
        break;
    case LMI_SPLIT_CLASS:
    case LMI_SPLIT_CHAR:
    case LMI_SPLIT_METASPACE:
        by_character(s, piece, &j);
        break;
    case LMI_SPLIT_WORDS:
        by_words(piece, &j);
        break;
    case LMI_SPLIT_SCRIPTS:
        by_scripts(piece, &j);
        break;
    case LMI_SPLIT_LENGTH:
        by_length(s, piece, &j);
        break;
    }
    flush(&j);
    return rc;
}

static int split_all(const struct lmi_split_step *step, const struct lmi_text *text, struct lmi_cuts *cuts,
                     struct lmi_cuts *spare, struct lm_err *e)
{
    bool failed;
    uint8_t *mask = lmi_mask_ill_formed(lmi_text_span(text), &failed);
    struct splitter s = {step, mask ? lm_span_of(mask, text->n) : lmi_text_span(text), spare, e};
    int rc = failed ? nomem(e) : 0;

    spare->n = 0;
    for (size_t i = 0; i < cuts->n && rc == 0; i++)
        rc = split_piece(&s, cuts->list[i].begin, cuts->list[i].end);
    free(mask);
    struct lmi_cuts c = *cuts;
    *cuts = *spare;
    *spare = c;
    return rc == 0 && cuts->failed ? nomem(e) : rc;
}

/* ---- steps that change the text: piece by piece into the spare one */

static void swap_texts(struct lmi_text *a, struct lmi_text *b)
{
    struct lmi_text t = *a;

    *a = *b;
    *b = t;
}

static void begin_change(const struct lmi_text *text, struct lmi_text *spare)
{
    lmi_text_clear(spare);
    spare->mapped = text->mapped;
}

static int byte_level(const struct lmi_split_step *step, struct lmi_text *text, struct lmi_text *spare, struct lmi_cuts *cuts,
                      struct lmi_cuts *spare_cuts, struct lm_err *e)
{
    if (step->prefix) {
        begin_change(text, spare);
        for (size_t i = 0; i < cuts->n; i++) {
            struct lm_offsets *p = &cuts->list[i];
            size_t at = spare->n;
            if (text->bytes[p->begin] != ' ')
                lmi_text_put(spare, (const uint8_t *)" ", 1, lmi_text_from(text, p->begin));
            lmi_text_copy(spare, text, p->begin, p->end);
            *p = (struct lm_offsets){at, spare->n};
        }
        swap_texts(text, spare);
    }
    if (text->failed || (step->use_regex && split_all(step, text, cuts, spare_cuts, e) < 0))
        return text->failed ? nomem(e) : -1;
    begin_change(text, spare);
    for (size_t i = 0; i < cuts->n; i++) {
        struct lm_offsets *p = &cuts->list[i];
        size_t at = spare->n;
        lmi_put_letters(spare, text, p->begin, p->end);
        *p = (struct lm_offsets){at, spare->n};
    }
    swap_texts(text, spare);
    return text->failed ? nomem(e) : 0;
}

static bool begins_with(const struct lmi_text *t, size_t begin, size_t end, uint32_t character)
{
    return lmi_char_at(t->bytes + begin, end - begin).cp == character;
}

static int metaspace(const struct lmi_split_step *step, struct lmi_text *text, struct lmi_text *spare, struct lmi_cuts *cuts,
                     struct lmi_cuts *spare_cuts, bool first, struct lm_err *e)
{
    begin_change(text, spare);
    for (size_t i = 0; i < cuts->n; i++) {
        struct lm_offsets *p = &cuts->list[i];
        size_t at = spare->n;
        bool at_start = first && (text->from ? text->from[p->begin].begin == 0 : p->begin == 0);
        bool marked = text->bytes[p->begin] == ' ' || begins_with(text, p->begin, p->end, step->character);
        if (!marked && (step->prepend == LMI_ALWAYS || (step->prepend == LMI_FIRST && at_start)))
            lmi_text_put_char(spare, step->character, lmi_text_from(text, p->begin));
        for (size_t k = p->begin; k < p->end; k++) {
            size_t plain = k;
            while (k < p->end && text->bytes[k] != ' ')
                k++;
            lmi_text_copy(spare, text, plain, k);
            if (k < p->end)
                lmi_text_put_char(spare, step->character, lmi_text_from(text, k));
        }
        *p = (struct lm_offsets){at, spare->n};
    }
    swap_texts(text, spare);
    if (text->failed)
        return nomem(e);
    return step->split ? split_all(step, text, cuts, spare_cuts, e) : 0;
}

int lmi_pipeline_split(const struct lmi_pipeline *p, struct lmi_text *text, struct lmi_text *spare, struct lmi_cuts *cuts,
                       struct lmi_cuts *spare_cuts, bool first, struct lm_err *e)
{
    cuts->n = 0;
    lmi_cuts_put(cuts, 0, text->n);
    int rc = cuts->failed ? nomem(e) : 0;
    for (size_t i = 0; i < p->n_split && rc == 0; i++) {
        const struct lmi_split_step *step = &p->split[i];
        if (step->kind == LMI_SPLIT_BYTE_LEVEL)
            rc = byte_level(step, text, spare, cuts, spare_cuts, e);
        else if (step->kind == LMI_SPLIT_METASPACE)
            rc = metaspace(step, text, spare, cuts, spare_cuts, first, e);
        else
            rc = split_all(step, text, cuts, spare_cuts, e);
    }
    return rc;
}
