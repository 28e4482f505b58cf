/* What differs between two models, whatever files they lie in: tensors matched
 * by canonical name and compared in canonical order (convert/hash.h). */
#ifndef CONVERT_DIFF_H
#define CONVERT_DIFF_H

#include "convert/convert.h"

enum lm_diff_kind { /* the order is the order of what matters */
    LM_DIFF_ONLY_A,
    LM_DIFF_ONLY_B,
    LM_DIFF_SHAPE,     /* shapes differ otherwise than by rows at the end */
    LM_DIFF_CHANGED,
    LM_DIFF_TRANSFORM, /* equal after a transform that should not be needed: `what` */
    LM_DIFF_QUANTIZED, /* as close as the quantization of one side allows */
    LM_DIFF_CAST,      /* exactly the rounding of the one to the type of the other */
    LM_DIFF_SAME,      /* the same values, whatever their types */
    LM_N_DIFF_KINDS
};
const char *lm_diff_kind_name(enum lm_diff_kind k);

struct lm_diff_tensor {
    const char *name;             /* canonical */
    enum lm_role role;            /* LM_ROLE_IGNORED: not known */
    int layer;                    /* -1 outside layers */
    const struct lm_tensor *a, *b; /* NULL: not there; what was put together of several has the first one's name and the whole's shape */
    enum lm_diff_kind kind;
    const char *what;             /* which cast, transform, quantization; may be NULL */
    int64_t rows_added;           /* of B against A; the common rows were compared */
    uint64_t n_compared, n_differ; /* elements */
    double relative;              /* |B - A| / |A|, Frobenius; what was compared */
    double cosine;
    double largest;               /* of |b - a| */
    uint64_t largest_at;          /* element in canonical order */
    double expected;              /* quantized: the relative error that the type explains */
    bool has_rank;
    uint32_t rank, rank_limit;    /* numerical rank of B - A; rank_limit: as many as can be told apart */
};

/* A difference that is not in a tensor. */
struct lm_diff_note {
    const char *where; /* "config", "metadata", "tokenizer" */
    const char *key;
    const char *a, *b; /* NULL: not there; file text, cut to 200 bytes, not escaped */
};

struct lm_diff {
    struct lm_diff_tensor *tensors; /* what matters first; then layer, then name */
    size_t n_tensors, n_of[LM_N_DIFF_KINDS];
    struct lm_diff_note *notes;
    size_t n_notes;
    const char *arch_a, *arch_b;    /* NULL: not known */
    uint64_t n_bytes;               /* read */
    struct lm_arena arena;
};

/* Reads both models once. a and b must outlive *out. */
int lm_diff_models(struct lm_diff **out, struct lm_model *a, struct lm_model *b, const struct lm_run_options *o,
                   struct lm_err *e);
void lm_diff_free(struct lm_diff *d);

#endif
