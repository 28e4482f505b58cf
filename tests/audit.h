/* For tests of the audit. */
#ifndef TESTS_AUDIT_H
#define TESTS_AUDIT_H

#include "tests/mutate.h"

#include "convert/audit.h"

#define LLAMA "tests/fixtures/models/tiny-llama"
#define TIED "tests/fixtures/models/tiny-llama-tied"
#define SAMPLE "samples/polish-5m"

static inline struct lm_audit *audit_with(const char *path, const struct lm_audit_options *o)
{
    struct lm_audit *a;
    struct lm_err e = {0};

    if (lm_audit_path(&a, path, o, &e) < 0)
        fail_msg("%s: %s", path, e.text);
    return a;
}
static inline struct lm_audit *audit(const char *path)
{
    return audit_with(path, &(struct lm_audit_options){.run = {.n_threads = 2}});
}

static inline size_t count_of(const struct lm_audit *a, enum lm_rule_id r)
{
    size_t n = 0;
    for (size_t i = 0; i < a->n_findings; i++)
        n += a->findings[i].rule == r;
    return n;
}
static inline const struct lm_finding *first_of(const struct lm_audit *a, enum lm_rule_id r)
{
    for (size_t i = 0; i < a->n_findings; i++)
        if (a->findings[i].rule == r)
            return &a->findings[i];
    for (size_t i = 0; i < a->n_findings; i++)
        print_error("    %s: %s: %s\n", lm_rule_at(a->findings[i].rule)->id, a->findings[i].where, a->findings[i].found);
    fail_msg("%s was not found", lm_rule_at(r)->id);
    return NULL;
}
static inline void convert(const char *src, const char *dst, int dtype, const char *ftype)
{
    struct lm_model *m = open_ok(src);
    struct lm_request r = {.to = lm_format_find("gguf"), .dtype = dtype, .quantize = ftype != NULL,
                           .ftype = ftype ? lm_ftype_find(ftype) : NULL};
    struct lm_plan *p;
    struct lm_err e = {0};

    if (lm_plan_make(&p, m, &r, &e) < 0 || lm_plan_run(p, dst, &(struct lm_run_options){.n_threads = 2}, &e) < 0)
        fail_msg("%s -> %s: %s", src, dst, e.text);
    lm_plan_free(p);
    lm_model_close(m);
}

#endif
