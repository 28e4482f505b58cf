/* The forward pass, once, over backend operations: opaque engine (a model ready
 * to run) and session (one sequence with its KV cache). */
#ifndef GPU_ENGINE_H
#define GPU_ENGINE_H

#include "gpu/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

struct lm_engine_options {
    const char *device;  /* "cpu", "cuda", "cuda:1", "auto" (cuda when plugin and device are there, else cpu) */
    enum lm_math math;
    int n_threads;       /* 0 = all cores */
    uint32_t ctx_len;    /* positions to provide for; 0 = min(config ctx_len, 4096) */
};

struct lm_engine;
struct lm_session;

/* The model is borrowed and must stay open. -1 with LM_UNSUPPORTED names a
 * tensor whose dtype cannot be computed with, an architecture that is not ours,
 * or a feature that is not honoured. */
int lm_engine_open(struct lm_engine **out, struct lm_model *m, const struct lm_engine_options *o, struct lm_err *e);
void lm_engine_close(struct lm_engine *g);
const struct lm_config *lm_engine_config(const struct lm_engine *g);
const struct lm_binding *lm_engine_binding(const struct lm_engine *g);
uint32_t lm_engine_ctx_len(const struct lm_engine *g);
void lm_engine_describe(const struct lm_engine *g, char *buf, size_t size);

int lm_session_open(struct lm_session **out, struct lm_engine *g, struct lm_err *e);
void lm_session_close(struct lm_session *s);
size_t lm_session_n_past(const struct lm_session *s);
void lm_session_rewind(struct lm_session *s, size_t n_past); /* forget later positions */

enum lm_which { LM_LOGITS_NONE, LM_LOGITS_LAST, LM_LOGITS_ALL };

/* Runs n more tokens (in chunks as the engine sees fit; results do not depend on
 * the chunking, on the CPU in any arithmetic, elsewhere in LM_MATH_EXACT). logits: [1 or n, vocab_size] as `which` says.
 * -1 when an id is outside the vocabulary or the context is full. */
int lm_session_eval(struct lm_session *s, const int32_t *ids, size_t n, enum lm_which which, float *logits,
                    struct lm_err *e);

/* The same with logits in double: unrounded in LM_MATH_F64, widened otherwise. */
int lm_session_eval_f64(struct lm_session *s, const int32_t *ids, size_t n, enum lm_which which, double *logits,
                        struct lm_err *e);

/* The same in steps: all n tokens enter, then pass layer 0, 1, …, all of them
 * one layer before the next, so that the weights of a model larger than memory
 * are read once, and two models can go in lock step. Then logits [n, vocab_size]
 * of tokens first.. of the run, any and in any order, and the end, after which
 * they are part of what the session holds. A begin without an end, or a failed
 * step, is forgotten. Bits are those of lm_session_eval; nothing is injected. */
int lm_session_begin(struct lm_session *s, const int32_t *ids, size_t n, struct lm_err *e);
int lm_session_layer(struct lm_session *s, uint32_t layer, struct lm_err *e);
int lm_session_logits(struct lm_session *s, size_t first, size_t n, float *logits, struct lm_err *e);
void lm_session_end(struct lm_session *s);

/* What a tap is shown, host f32. Rows are the tokens of the chunk, the first of
 * them at position pos0. */
enum lm_tap_point {
    LM_TAP_EMBED,      /* [n, d] rows of the embedding, before positions */
    LM_TAP_INPUT,      /* [n, d] what enters layer 0 (== hidden_states.0) */
    LM_TAP_Q,          /* [n, Q] after rotation, in the model's own row layout */
    LM_TAP_K,          /* [n, K] */
    LM_TAP_V,          /* [n, V] */
    LM_TAP_PROBS,      /* [n_heads, pos0 + n] attention of the chunk's last token */
    LM_TAP_ATTN,       /* [n, d] residual stream after attention (of a parallel layer: after the layer) */
    LM_TAP_LAYER       /* [n, d] residual stream after the layer (== hidden_states.(layer+1)) */
};
typedef int lm_tap_fn(void *user, enum lm_tap_point point, int layer, const float *data, size_t n, size_t width,
                      size_t pos0, struct lm_err *e);
/* mask: bit (1 << point) for each point wanted; 0 turns taps off. */
void lm_session_set_tap(struct lm_session *s, unsigned mask, lm_tap_fn *fn, void *user);
/* Replaces the residual stream entering `layer` at the next eval by host x
 * [n, d] (for localising errors: B's layer fed with A's input); NULL ends it. */
void lm_session_inject(struct lm_session *s, int layer, const float *x);

/* Which devices could be used: a line each to buf ("cuda: NVIDIA H200" or
 * "cuda: plugin not found in …"). */
void lm_engine_devices(char *buf, size_t size);

/* The quantizers of a device that --device names; "cpu": *out is NULL. */
int lm_engine_quantizer(const struct lm_quantizer **out, int *ordinal, const char *device, struct lm_err *e);

/* ---- sampling (gpu/sample.c) */
struct lm_sampling {
    float temperature; /* <= 0: greedy, ties to the smaller id */
    uint32_t top_k;    /* 0 off */
    float top_p, min_p; /* 1 and 0: off */
    uint64_t state;    /* seed; advanced by each draw (PCG32) */
};
int32_t lm_sample(struct lm_sampling *s, const float *logits, size_t n);
/* Lowers the logits of ids that occurred among the last `window` of n_ids:
 * repeat (CTRL, arXiv 1909.05858) divides positive ones and multiplies negative
 * ones; then presence is taken off once and frequency once an occurrence. */
struct lm_penalties {
    float repeat;                 /* 1: off */
    float presence, frequency;    /* 0: off */
    uint32_t window;              /* 0: all */
};
int lm_penalize(const struct lm_penalties *p, const int32_t *ids, size_t n_ids, float *logits, size_t n,
                struct lm_err *e);

/* ---- comparing logits (gpu/score.c); all sums in double */
struct lm_divergence {
    size_t n;              /* positions */
    double max_abs, mean_abs;  /* of logit differences */
    double kld_mean, kld_max;  /* KL(a || b) in nats */
    size_t kld_max_at;
    double top1_agreement; /* share */
    double nll_a, nll_b;   /* summed over n_nll next tokens */
    size_t n_nll;
};
/* One position: KL(softmax a || softmax b), >= 0. */
double lm_kl(const float *a, const float *b, size_t n);
double lm_log_softmax_at(const float *logits, size_t n, size_t i);
/* Adds one position; next: the token that follows, or -1. */
void lm_divergence_add(struct lm_divergence *d, const float *a, const float *b, size_t n_vocab, int32_t next);
void lm_divergence_finish(struct lm_divergence *d); /* turns sums into means */

#ifdef __cplusplus
}
#endif
#endif
