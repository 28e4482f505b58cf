/* Parts of lm-quantize. */
#ifndef CMD_QUANTIZE_H
#define CMD_QUANTIZE_H

#include "cmd/account.h"

/* ---- quantize_flight.c: before the first byte */

/* Says on stdout what the work will take: room on the disk of r->dst (NULL: no
 * destination), memory, time. -1 when the disk has not the room. */
int quantize_flight(const struct lm_plan *p, const struct account_run *r, struct lm_err *e);
/* --strict: -1 with the list when a tensor cannot have the type meant for it. */
int quantize_strict(const struct lm_plan *p, struct lm_err *e);

/* ---- quantize_errors.c: after a run that measured */

/* A table, those that differ only in the layer in one line; what came through
 * exactly is only in the sum. */
void quantize_errors_print(const struct lm_plan *p);
/* Every changed tensor as JSON into a new file. */
int quantize_errors_write(const struct lm_plan *p, const char *src, const char *path, struct lm_err *e);

#endif
