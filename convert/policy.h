/* Which type a weight gets under a file type: the names and counts that
 * llama.cpp's mixing rules look at.  Private to convert/ (and its tests). */
#ifndef CONVERT_POLICY_H
#define CONVERT_POLICY_H

#include "convert/convert.h"

/* Facts of the whole model, then counters that move as tensors are typed. */
struct lmc_mix {
    const struct lm_ftype *ftype;
    const struct lm_mix_options *options; /* NULL: none */
    bool pure;
    bool falcon, glm5, bailingmoe3, is_70b; /* families with rules of their own */
    unsigned n_layers, gqa, n_experts; /* gqa = query heads per key/value head */
    bool has_output;                  /* else the embedding is typed as the output */
    unsigned n_v, i_v, i_down, i_gate, i_up; /* V-like tensors in all; seen so far */
};

/* What the rules know of a tensor. */
struct lmc_mix_tensor {
    const char *name;    /* GGUF's */
    uint64_t row;        /* elements of a row */
    uint64_t n_matrices; /* experts; 1 for an ordinary matrix */
};

/* Order in which tensors must be typed (and lie in llama-quantize's files):
 * layer of "blk.N." first, none before all, then bytes of the name. */
int lmc_mix_order(const char *a, const char *b);
/* First pass: lets the rules know that this tensor exists. */
void lmc_mix_count(struct lmc_mix *m, const char *name);
/* May the rules touch it at all? shape is outermost first. */
bool lmc_mix_allows(const struct lmc_mix *m, const char *name, unsigned n_dims, const uint64_t *shape);
/* Second pass, in order, for allowed tensors. Moves the counters. why (NULL or
 * a buffer) gets the reason of a fallback, or "". */
enum lm_dtype lmc_mix_type(struct lmc_mix *m, const struct lmc_mix_tensor *t, char *why, size_t why_size);
/* The type itself when rows are whole blocks of it, else what llama.cpp falls back to. */
enum lm_dtype lmc_fallback(enum lm_dtype d, uint64_t row, char *why, size_t why_size);
/* Is this type useless, or impossible, without importance here? */
bool lmc_mix_needs_importance(const struct lm_ftype *f, const char *name, enum lm_dtype d);

#endif
