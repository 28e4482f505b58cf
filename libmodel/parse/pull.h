/* Reading JSON piece by piece, for texts whose grammar is known beforehand and
 * which may be large (a safetensors header may have 100 MB): no tree, memory
 * only for strings with escapes, no recursion.  The text is strict JSON (RFC
 * 8259) in UTF-8; integers are read as integers.
 *
 * The first error sets *e ("byte 17: expected ':'") and every function returns
 * -1; the caller stops there.  Private to libmodel. */
#ifndef LIBMODEL_PARSE_PULL_H
#define LIBMODEL_PARSE_PULL_H

#include "libmodel/bytes.h"
#include "libmodel/err.h"

struct lmi_pull {
    struct lm_span text;
    size_t pos;
    struct lm_arena *arena; /* of unescaped strings */
    struct lm_err *e;
};

/* Checks that the text is UTF-8. */
int lmi_pull_begin(struct lmi_pull *p, struct lm_span text, struct lm_arena *arena, struct lm_err *e);
/* Only white space is left. */
int lmi_pull_end(struct lmi_pull *p);

/* Walks an object or an array: begin with *n = 0; 1 there is a member (of an
 * object: key is read and its value comes next), 0 it is closed, -1 error. *n
 * counts the members. The opening bracket is read when *n is 0. */
int lmi_pull_member(struct lmi_pull *p, size_t *n, struct lm_span *key);
int lmi_pull_element(struct lmi_pull *p, size_t *n);

/* The first byte of what comes next behind white space, -1 at the end. */
int lmi_pull_peek(struct lmi_pull *p);

/* Values. A string is borrowed from the text or lives in the arena. */
int lmi_pull_string(struct lmi_pull *p, struct lm_span *out);
int lmi_pull_u64(struct lmi_pull *p, uint64_t *out);
int lmi_pull_skip(struct lmi_pull *p); /* any value, at most 64 levels deep */

/* An error at the current place. */
int lmi_pull_fail(struct lmi_pull *p, const char *what);
#endif
