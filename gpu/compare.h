/* Two runs compared: how far their logits are apart, how much of that the types
 * of the weights explain, where a run departs from the other and why. */
#ifndef GPU_COMPARE_H
#define GPU_COMPARE_H

#include "gpu/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One of the two. A is the original. */
struct lm_side {
    struct lm_model *model;
    struct lm_engine *engine;
    struct lm_session *session;
};

/* ---- gpu/explain.c: what dtypes explain */

/* Relative error of normally distributed weights stored as d (root of mean squares). */
double lm_dtype_error(enum lm_dtype d);
/* The same of a tensor, which may be packed (lm_tensor_scheme). */
double lm_tensor_error(const struct lm_tensor *t);
/* What the storing of a and b explains of their difference: 0 where both are stored alike, or one is NULL.
 * The values of a packed A are taken as they are: what is made of them must be them. */
double lm_pair_error(const struct lm_tensor *a, const struct lm_tensor *b);
/* The same over the matrices of a layer (-1: outside layers; n_layers: of the whole model), of A and B together;
 * a matrix of the same type in both explains nothing. */
double lm_explained_error(const struct lm_side *a, const struct lm_side *b, int layer);
/* How much of what a layer adds, and which mean KLD, weights with this error may cost. */
double lm_layer_bound(double weight_error);
double lm_kld_bound(double weight_error);

/* ---- gpu/tally.c: logits, position by position; nothing but one double a position is kept */

struct lm_position {
    double max_abs, mean_abs, kld;  /* KL(A || B) in nats, >= 0 */
    int32_t top_a, top_b;
    unsigned top5;                  /* how many of A's five likeliest are among B's five */
    double nll_a, nll_b;            /* of the next token; NAN where there is none */
};
/* a, b: logits [n_vocab]; next: the token that follows, or -1. */
void lm_position_compare(struct lm_position *out, const float *a, const float *b, size_t n_vocab, int32_t next);
/* The same of tokens first.. of two runs whose layers are done (lm_session_layer), without their logits passing through
 * the host; next [n]. 0 done, 1 these two cannot (not on one device): compare lm_session_logits then. */
int lm_session_compare(struct lm_session *a, struct lm_session *b, size_t first, size_t n, size_t n_vocab,
                       const int32_t *next, struct lm_position *out, struct lm_err *e);

struct lm_tally {
    size_t n, n_next;
    double max_abs, kld_max;        /* NaN stays NaN */
    size_t kld_max_at;              /* position among all */
    double mean_abs, kld, top1, top5; /* sums */
    double nll_a, nll_b, nll_a2, nll_b2, nll_d2; /* sums, of squares, of squares of b - a */
};
void lm_tally_add(struct lm_tally *t, const struct lm_position *p, size_t at);
/* exp of the mean NLL with half the width of its 95 % interval (relative); ratio: of B's to A's. */
struct lm_perplexity { double a, b, ratio, half_a, half_b, half_ratio; };
struct lm_perplexity lm_tally_perplexity(const struct lm_tally *t);
/* Quantile 0..1 of n values, which it reorders; NaN counts as the largest. */
double lm_quantile(double *x, size_t n, double q);

/* ---- gpu/localise.c: where */

/* What a layer does to its input: norm of the difference over norm of what A's
 * layer adds, and how much the dtypes explain. */
struct lm_layer_error { double error, bound; };

/* What enters the first layer and what leaves each, [n_layers + 1, n, d]. */
int lm_hidden_keep(const struct lm_side *s, const int32_t *ids, size_t n, float *hidden, struct lm_err *e);
/* Feeds each layer of B with what A's got (hidden) and fills error of out [n_layers + 1], the embedding first. */
int lm_layers_compare(const struct lm_side *b, const int32_t *ids, size_t n, const float *hidden,
                      struct lm_layer_error *out, struct lm_err *e);
/* The first that is past its bound: -1 the embedding, a layer, or LM_NOWHERE. */
#define LM_NOWHERE (-2)
int lm_layers_first(const struct lm_layer_error *l, uint32_t n_layers);

enum lm_stage { LM_STAGE_INPUT, LM_STAGE_Q, LM_STAGE_K, LM_STAGE_V, LM_STAGE_WEIGHTS, LM_STAGE_ATTN, LM_STAGE_LAYER,
                LM_N_STAGES };
const char *lm_stage_name(enum lm_stage s); /* "queries", … */

/* One layer operation by operation, both fed with A's input. */
struct lm_departure {
    int layer;
    enum lm_stage stage;               /* the first past its bound; LM_N_STAGES: none is */
    int head;                          /* where the error is largest, -1: does not apply */
    size_t position;                   /* the first that is past the bound */
    double error[LM_N_STAGES], bound[LM_N_STAGES]; /* NAN: not seen */
};
int lm_stages_compare(const struct lm_side *a, const struct lm_side *b, const int32_t *ids, size_t n,
                      const float *hidden, int layer, struct lm_departure *out, struct lm_err *e);

/* ---- gpu/causes.c: why */

#define LM_CAUSES(F)                                                                                                   \
    F(ROPE_BASE, "rope_base") F(ROPE_SCALING, "rope_scaling") F(ROPE_KIND, "rope_kind") F(HEADS, "heads")             \
    F(EMBED_SCALE, "embedding_scale") F(TIED_HEAD, "tied_head") F(CONFIG, "config") F(NOT_PERMUTED, "not_permuted")    \
    F(PERMUTED_TWICE, "permuted_twice") F(WRONG_HEADS, "permuted_with_wrong_heads") F(OFF_BY_ONE, "off_by_one")        \
    F(TRANSPOSED, "transposed") F(GATE_UP_SWAPPED, "gate_up_swapped") F(MISSING, "missing") F(EXTRA, "extra")          \
    F(EXPERT_ORDER, "expert_order") F(MISPLACED, "misplaced") F(SCALED, "scaled") F(ZEROED, "zeroed")                  \
    F(TRUNCATED, "truncated") F(UNEXPLAINED, "unexplained")
enum lm_cause {
#define F(s, name) LM_CAUSE_##s,
    LM_CAUSES(F)
#undef F
    LM_N_CAUSES
};
const char *lm_cause_name(enum lm_cause c);

struct lm_finding {
    enum lm_cause cause;
    enum lm_role role;   /* LM_N_ROLES: the configuration */
    int layer;           /* the first, -1 outside layers */
    unsigned n_layers;   /* in how many layers the same was found; 0 outside */
    double error;        /* of B's tensor, relative to A's; NAN for the configuration */
    char text[300];      /* a sentence without its subject's layer: "attn_k: its rows …" */
};
enum { LM_MOST_FINDINGS = 64 };
struct lm_diagnosis {
    struct lm_finding found[LM_MOST_FINDINGS];
    size_t n, n_more;    /* n_more: beyond those */
    bool cured;          /* B run again with everything found put right is A, within what dtypes explain */
    int first_after;     /* the first layer to depart then, or LM_NOWHERE */
    double kld_after;    /* of the last position then */
};
/* Tries the usual causes on B's configuration and on the tensors of every layer that departs (and of none in
 * particular, those outside layers), then runs B again, on the CPU, with what was found put right. */
int lm_diagnose(const struct lm_side *a, const struct lm_side *b, const int32_t *ids, size_t n, const float *hidden,
                const struct lm_layer_error *layers, struct lm_diagnosis *out, struct lm_err *e);

#ifdef __cplusplus
}
#endif
#endif
