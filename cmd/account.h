/* What a conversion does to every tensor, for people and for scripts. */
#ifndef CMD_ACCOUNT_H
#define CMD_ACCOUNT_H

#include "cmd/cli.h"
#include "convert/convert.h"

/* Of the source's tensors: copied + cast + quantized + dropped is all of them, plus those joined to others, less
 * those split off. */
struct account {
    size_t n_source, copied, cast, quantized, dropped;
    size_t renamed, permuted, transposed, made; /* of the tensors written */
    size_t joined, split; /* tensors that came into another's; further tensors made of one */
    uint64_t n_overflow, n_flushed, n_nan;      /* values */
    uint64_t n_params, n_bytes;                 /* written, tensor data alone */
};
void account_count(struct account *a, const struct lm_plan *p);

uint64_t account_bytes(const struct lm_plan_item *it);
void account_fold(char *name); /* in place: # for the numbers between dots */

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
struct account_run {
    const char *label, *dst;
    bool force, dry, measure; /* measure: errors of every changed tensor */
    int n_threads;
    uint64_t max_ram;         /* 0: the default */
    bool keep, commit_only;   /* lm_run_options */
    unsigned part, n_parts;
    const struct lm_quantizer *quantizer; /* NULL: the CPU */
    int quantizer_ordinal;
    double seconds;
};
int account_run(struct lm_plan *p, struct account_run *r, struct lm_err *e);
/* Several at once, of one model: dsts[i] instead of r->dst. */
int account_run_all(struct lm_plan *const *plans, const char *const *dsts, size_t n, struct account_run *r,
                    struct lm_err *e);
/* --resume, --part I/N (NULL: not given) and --commit. */
int account_durable(struct account_run *r, bool resume, const char *part, bool commit, struct lm_err *e);
#define ACCOUNT_DURABLE(options, resume_, part_, commit_, max_ram_)                                                    \
    {"resume", 0, CLI_FLAG, NULL, offsetof(options, resume_),                                                          \
     "Keep what is done if this ends early, and go on with what such an end left.", NULL},                             \
    {"part", 0, CLI_STRING, "I/N", offsetof(options, part_),                                                           \
     "Do the I-th of N shares only and keep it; other processes may do others meanwhile.", NULL},                      \
    {"commit", 0, CLI_FLAG, NULL, offsetof(options, commit_),                                                          \
     "When all shares are done: check them all and give the result its name.", NULL},                                  \
    {"max-ram", 0, CLI_SIZE, "SIZE", offsetof(options, max_ram_),                                                      \
     "Private memory to stay within, however large the model (default 512M).", NULL}
/* After account_run, on stdout: the account and how long it took, or all of it as JSON. */
void account_report(const struct lm_plan *p, const struct account_run *r, const char *src, bool full, bool json);

#endif
