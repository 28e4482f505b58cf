/* The parts of lm-audit: one audit, three ways to show it. */
#ifndef CMD_AUDIT_SHOW_H
#define CMD_AUDIT_SHOW_H

#include "cmd/cli.h"
#include "convert/audit.h"

struct audit_opts {
    uint64_t ctx, batch;
    const char *vram, *kv, *html, *fix, *explain;
    bool all, tensors, headers, json, rules, force;
    int threads;
};

void audit_print(const struct lm_audit *a, const struct audit_opts *o); /* text on standard output */
json_t *audit_json(const struct lm_audit *a);
json_t *audit_summary_json(const struct lm_audit *a); /* the same without tensors */                           /* documented in the man page */
json_t *audit_rule_json(const struct lm_rule *r);
/* A page of its own: no other file, no network. */
int audit_write_html(const struct lm_audit *a, const char *path, bool force, struct lm_err *e);

#endif
