/* A text on its way through a pipeline: its bytes, and which range of the input
 * each came from. Private to libmodel. */
#ifndef LIBMODEL_TOK_TEXT_H
#define LIBMODEL_TOK_TEXT_H

#include "libmodel/tokenizer.h"

struct lmi_text {
    uint8_t *bytes;
    struct lm_offsets *from; /* per byte; NULL unless mapped */
    size_t n, capacity;
    bool mapped, failed;     /* failed: out of memory, sticky */
};

void lmi_text_clear(struct lmi_text *t); /* keeps the buffers */
void lmi_text_free(struct lmi_text *t);
/* Bytes that all come from one range. */
void lmi_text_put(struct lmi_text *t, const uint8_t *s, size_t n, struct lm_offsets from);
void lmi_text_put_char(struct lmi_text *t, uint32_t cp, struct lm_offsets from);
/* src[begin, end) with where it came from. */
void lmi_text_copy(struct lmi_text *t, const struct lmi_text *src, size_t begin, size_t end);
/* A part of the input as it is: every character comes from itself. base: its place in the input. */
void lmi_text_start(struct lmi_text *t, struct lm_span part, size_t base);

/* Where byte i came from; {0, 0} in a text that is not mapped. */
static inline struct lm_offsets lmi_text_from(const struct lmi_text *t, size_t i)
{
    return t->from ? t->from[i] : (struct lm_offsets){0, 0};
}

static inline struct lm_span lmi_text_span(const struct lmi_text *t)
{
    return lm_span_of(t->n ? t->bytes : (const uint8_t *)"", t->n);
}

#endif
