/* Between the files of the audit.  Private to convert/. */
#ifndef CONVERT_AUDIT_PARTS_H
#define CONVERT_AUDIT_PARTS_H

#include <jansson.h>

#include "convert/audit.h"
#include "convert/hash_canon.h"
#include "convert/plan.h"

/* ---- audit_scan_*.c */

enum { LMC_SCAN_MAX = 4096 }; /* elements a call */
struct lmc_scan {
    uint32_t n_nan, n_inf, n_zero, n_sub, n_over, n_flush;
    uint32_t low;      /* OR of all bits */
    uint32_t small;    /* bits of the smallest magnitude that is not 0 */
    int32_t min, max;  /* ordered bits; start with lmc_scan_begin */
    double sum, sum2;  /* of finite values */
    uint32_t hash[64];
};
/* x [n], n <= LMC_SCAN_MAX; cols [n] gets the squares added, or NULL. */
void lmc_scan_avx512(struct lmc_scan *s, const float *x, size_t n, float *cols);
void lmc_scan_avx2(struct lmc_scan *s, const float *x, size_t n, float *cols);
void lmc_scan_portable(struct lmc_scan *s, const float *x, size_t n, float *cols);
void lmc_scan_finite(struct lmc_scan *s, const float *x, size_t n); /* range and sums, skipping the rest */

/* ---- audit_stats.c */
int lmc_audit_stats(struct lm_audit *a, struct lm_err *e);

/* ---- findings */

/* Adds one; out of memory is remembered in the audit and reported at the end. */
void lmc_found(struct lm_audit *a, enum lm_rule_id r, const char *where, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* ---- rules, each file a group */

void lmc_audit_file(struct lm_audit *a, const char *path, const struct lm_err *why); /* it could not be opened */
bool lmc_audit_pickle(struct lm_audit *a, const char *path, struct lm_span file);    /* true: it is one */
void lmc_audit_places(struct lm_audit *a);    /* offsets, names, folder, index */
void lmc_audit_values(struct lm_audit *a);    /* statistics */
void lmc_audit_structure(struct lm_audit *a); /* tensors against configuration */
void lmc_audit_config(struct lm_audit *a);    /* configuration by itself */
void lmc_audit_keys(struct lm_audit *a);      /* GGUF metadata */
void lmc_audit_tokens(struct lm_audit *a);    /* tokenizer */
void lmc_audit_template(struct lm_audit *a);  /* chat template */
void lmc_audit_engines(struct lm_audit *a);
void lmc_audit_memory(struct lm_audit *a);

/* ---- helpers */

bool lmc_audit_is_gguf(const struct lm_audit *a);
/* A small JSON file beside the model; new reference or NULL. */
json_t *lmc_audit_json(const struct lm_audit *a, const char *name);
const struct lm_audit_tensor *lmc_audit_role(const struct lm_audit *a, enum lm_role r, int layer); /* or NULL */
/* A key of this architecture: "<arch>.suffix", or NULL. */
const struct lm_meta_value *lmc_audit_key(const struct lm_audit *a, const char *suffix);
/* The chat template of a file of its own or of tokenizer_config.json; an empty span. */
struct lm_span lmc_audit_template_of(const struct lm_audit *a, const char *file, json_t **keep);
/* Ids in a config's eos_token_id (a number or a list); at most n. */
size_t lmc_audit_ids(const json_t *root, const char *key, int64_t *ids, size_t n);
bool lmc_audit_is_junk(struct lm_span name); /* says nothing about a model */
/* The file type that most weights have; -1 none known. */
int lmc_audit_file_type(const struct lm_audit *a);

#endif
