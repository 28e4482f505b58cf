/* Do two vocabularies tokenize alike? A search for texts on which they differ,
 * cut down to the shortest, and the part of the vocabulary that explains each,
 * found by experiment. */
#ifndef CONVERT_TOKENS_H
#define CONVERT_TOKENS_H

#include "libmodel/tokenizer.h"
#include "libmodel/vocab_parts.h"

struct lm_tokens_options {
    const struct lm_span *texts; /* of the caller's own */
    size_t n_texts;
    uint64_t seed, n_tries;      /* of the made-up texts; the same seed gives the same texts */
    bool quick;                  /* shorter sequences of kinds of characters, and not every character there is */
    const volatile int *stop;    /* may be NULL; LM_INTERRUPTED */
    void (*progress)(void *user, uint64_t done, uint64_t total); /* texts; may be NULL */
    void *user;
};

struct lm_tokens_difference {
    struct lm_span text;
    unsigned flags;              /* of lm_tokenizer_encode */
    const char *found_in;        /* "hard cases: emoji", "a text given", "pieces", … */
    struct lm_ids a, b;          /* of B as it is */
    bool failed_a, failed_b;     /* it refused the text */
    bool decoded;                /* the ids are the same, but not the text they give back */
    uint64_t parts;              /* smallest set that, made A's, removes it; 0: not explained */
    size_t n_similar;            /* other texts found that the same parts explain */
};

struct lm_tokens_report {
    uint64_t n_texts, n_bytes, n_differ; /* compared; of those, how many differ */
    struct lm_tokens_difference *differences; /* one a cause; the unexplained last, at most a few */
    size_t n_differences;
    struct lm_arena arena;
};

/* The vocabularies may come from any containers. Ids are compared, and for part
 * of the texts what they decode to. Memory and time are bounded by the texts
 * given and n_tries. */
int lm_tokens_compare(struct lm_tokens_report **out, const struct lm_vocab *a, const struct lm_vocab *b,
                      const struct lm_tokens_options *o, struct lm_err *e);
void lm_tokens_report_free(struct lm_tokens_report *r);

#endif
