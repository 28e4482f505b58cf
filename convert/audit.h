/* Is a checkpoint healthy? One pass over all data, then rules.
 *
 * A rule is a row of audit_rules.def. A finding is a rule with a place and what
 * was found there. Everything in a struct lm_audit is sorted and ready to show. */
#ifndef CONVERT_AUDIT_H
#define CONVERT_AUDIT_H

#include "convert/convert.h"

struct lmc_canons;

/* ---- rules */

enum lm_severity { LM_NOTE, LM_WARNING, LM_ERROR };
const char *lm_severity_name(enum lm_severity s); /* "note", "warning", "error" */

enum lm_rule_id {
#define RULE(s, ...) LM_RULE_##s,
#include "convert/audit_rules.def"
#undef RULE
    LM_N_RULES
};
struct lm_rule {
    const char *id;
    enum lm_severity severity;
    bool fixable;
    const char *title, *why;
    const char *thread; /* or NULL */
    const char *mend;
};
const struct lm_rule *lm_rule_at(size_t i);           /* NULL past the end */
const struct lm_rule *lm_rule_find(const char *id);   /* or NULL */

struct lm_finding {
    enum lm_rule_id rule;
    const char *where; /* tensor, key or file; file text, not escaped */
    const char *found; /* a sentence without the full stop; not escaped */
};

/* ---- statistics */

enum { LM_AUDIT_BINS = 48 }; /* bin i: magnitudes in [2^(i-40), 2^(i-39)); zeros are in none, the ends hold the rest */

struct lm_stats {
    uint64_t n, n_nan, n_inf, n_zero, n_subnormal; /* subnormal as f32 */
    uint64_t n_f16_over, n_f16_flush; /* finite values that become infinite, non-zero ones that become 0 */
    float min, max, largest; /* of finite values; 0 when there are none */
    double sum, sum2;        /* of finite values */
    uint64_t bins[LM_AUDIT_BINS], n_binned; /* of a sample where the tensor is large */
    bool bf16_exact, f16_exact; /* every value fits */
    uint64_t hash;           /* of the values, for equality within this model only */
    uint64_t n_rows, n_zero_rows, n_equal_rows; /* 2-D and more; equal to an earlier row that is not zero */
    uint64_t n_outlier_rows, n_outlier_cols;    /* rms above 8 times the median */
    uint64_t first_zero_row, first_equal_row, first_outlier_row; /* where n_… > 0 */
};
double lm_stats_mean(const struct lm_stats *s);
double lm_stats_std(const struct lm_stats *s);
double lm_stats_rms(const struct lm_stats *s);
void lm_stats_add(struct lm_stats *into, const struct lm_stats *s); /* folds two tensors */
/* Entropy of the magnitudes' exponents plus sign and used mantissa bits: about
 * how many bits a value carries. */
double lm_stats_bits(const struct lm_stats *s, enum lm_dtype d);

struct lm_audit_tensor {
    const struct lm_tensor *t;
    const char *name;      /* canonical (convert/hash.h) */
    enum lm_role role;
    int layer;             /* -1 outside layers */
    bool known;            /* a row of the architecture */
    bool shared;           /* its bytes belong to a tensor before it */
    bool has_stats;
    struct lm_stats stats;
};

/* ---- where it loads */

enum lm_verdict { LM_LOADS, LM_REFUSES, LM_LOADS_WITH, LM_UNKNOWN };
const char *lm_verdict_name(enum lm_verdict v); /* "yes", "no", "with care", "unknown" */
struct lm_engine_row {
    const char *engine, *version; /* the version that the facts were read from */
    enum lm_verdict verdict;
    const char *why; /* or NULL */
};

/* ---- memory */

struct lm_memory_row { const char *dtype; uint64_t weights, kv, buffers, total, max_ctx; bool fits; };
struct lm_memory {
    uint64_t ctx, batch, vram; /* as asked; vram 0: not asked, then max_ctx and fits mean nothing */
    const char *kv_dtype;
    uint64_t kv_a_token;
    struct lm_memory_row rows[8];
    size_t n_rows;             /* 0: no configuration */
};
/* Bytes of a card's memory by name ("rtx-4090", "h100"); 0 unknown. */
uint64_t lm_card_bytes(const char *name);
const char *lm_card_at(size_t i);

/* ---- audit */

struct lm_audit_options {
    bool headers_only;   /* no statistics */
    uint64_t ctx, batch; /* 0: the model's own, 1 */
    uint64_t vram;       /* 0: not asked */
    enum lm_dtype kv;    /* F16 by default (LM_F64, the zero, means that) */
    struct lm_run_options run;
};

struct lm_audit {
    struct lm_audit_options o;
    const char *path;
    struct lm_model *m;      /* NULL: cannot be opened, findings say why */
    struct lmc_canons *canons; /* private */
    bool failed;               /* private: out of memory */
    bool has_config;
    struct lm_config config;
    const char *arch;        /* as the checkpoint calls it, or NULL */
    struct lm_vocab *vocab;  /* or NULL */
    struct lm_audit_tensor *tensors; /* model order */
    size_t n_tensors;
    uint64_t n_params, n_active, n_bytes; /* shared ones counted once; active: all but the experts that a token does not use */
    uint64_t n_multiplied;   /* active without an embedding of which a token only reads a row */
    struct lm_finding *findings; /* worst first, then by rule, then in model order */
    size_t n_findings, n_of[3];  /* by severity */
    struct lm_engine_row engines[8];
    size_t n_engines;
    struct lm_memory memory;
    const char *template_hash;  /* SHA-256 of the chat template, 64 digits; NULL: none */
    size_t template_bytes;
    struct lm_arena arena;
};
/* -1 only when there is nothing to audit (no such file, out of memory,
 * interrupted); a broken file is an audit with findings. */
int lm_audit_path(struct lm_audit **out, const char *path, const struct lm_audit_options *o, struct lm_err *e);
void lm_audit_free(struct lm_audit *a);

/* ---- mending what can be undone */

/* Writes a copy of the model to dst (a folder, or a .gguf file) in which the
 * findings that are fixable are mended; tensors are copied as they are. The
 * source is left alone. *fixed gets how many findings were mended. */
int lm_audit_fix(const struct lm_audit *a, const char *dst, bool force, size_t *fixed, struct lm_err *e);

#endif
