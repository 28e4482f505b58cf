/* Chat templates: the part of Jinja2 that the templates of checkpoints use,
 * rendered as Hugging Face transformers renders it (an immutable sandbox with
 * trim_blocks, lstrip_blocks, loop controls and the `generation` tag).
 *
 * A template comes from a file and is data: it sees the variables given and
 * nothing else, cannot change them, and works under limits. */
#ifndef LIBMODEL_TEMPLATE_H
#define LIBMODEL_TEMPLATE_H

#include <time.h>

#include "libmodel/bytes.h"
#include "libmodel/err.h"

#ifdef __cplusplus
extern "C" {
#endif

struct lm_template; /* parsed, immutable, may be shared by threads */

/* Parses; the source is copied. -1 with the line: LM_MALFORMED where Jinja would
 * refuse it too, LM_UNSUPPORTED for statements that no chat template uses
 * (include, extends, call, …), named. */
int lm_template_new(struct lm_template **out, struct lm_span source, struct lm_err *e);
void lm_template_free(struct lm_template *t); /* NULL is fine */

struct lm_template_options {
    time_t now;           /* what strftime_now shows, in local time; 0: the clock */
    uint64_t max_steps;   /* operations; 0 = 10 million */
    size_t max_bytes;     /* of memory and of output; 0 = 64 MB */
};

/* Renders with the members of a JSON object as variables ("messages",
 * "add_generation_prompt", "bos_token", "tools", …). *out is malloc'd, *n_out
 * bytes of UTF-8 and a NUL. o may be NULL. -1: the template raised an exception
 * (its sentence is in the text), used a value as what it is not (with the line),
 * or reached a limit. */
int lm_template_render(const struct lm_template *t, struct lm_span variables, const struct lm_template_options *o,
                       char **out, size_t *n_out, struct lm_err *e);

#ifdef __cplusplus
}
#endif
#endif
