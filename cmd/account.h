/* What a conversion does to every tensor, for people and for scripts. */
#ifndef CMD_ACCOUNT_H
#define CMD_ACCOUNT_H

#include "cmd/cli.h"
#include "convert/convert.h"

/* Of the source's tensors: copied + cast + quantized + dropped is all of them. */
struct account {
    size_t n_source, copied, cast, quantized, dropped;
    size_t renamed, permuted, transposed, made; /* of the tensors written */
    uint64_t n_overflow, n_flushed, n_nan;      /* values */
    uint64_t n_params, n_bytes;                 /* written, tensor data alone */
};
void account_count(struct account *a, const struct lm_plan *p);

uint64_t account_bytes(const struct lm_plan_item *it);

/* A table of every tensor, those that differ only in the layer in one line
 * unless full; then the totals. */
void account_print(const struct lm_plan *p, bool full);
void account_print_totals(const struct lm_plan *p);
/* Types, tensors, parameters, bytes and bits a weight; then what fell back to
 * another type for its shape. */
void account_print_types(const struct lm_plan *p);
void account_print_notes(const struct lm_plan *p); /* to stderr */
/* {"totals": {…}, "tensors": […], "dropped": […], "notes": […]} and sizes. */
json_t *account_json(const struct lm_plan *p);

/* Runs the plan with progress and signals; dry: only says that it is sound. */
struct account_run { const char *label, *dst; bool force, dry; int n_threads; double seconds; };
int account_run(struct lm_plan *p, struct account_run *r, struct lm_err *e);
/* After account_run, on stdout: the account and how long it took, or all of it as JSON. */
void account_report(const struct lm_plan *p, const struct account_run *r, const char *src, bool full, bool json);

#endif
