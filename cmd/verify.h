/* The parts of lm-verify. */
#ifndef CMD_VERIFY_H
#define CMD_VERIFY_H

#include "cmd/cli_engine.h"
#include "gpu/compare.h"

struct verify_opts {
    const char *text, *reference, *report, *as;
    uint64_t tokens;          /* 0: all of the text */
    double max_kld, max_diff; /* < 0: the default */
    int per_position;         /* 0 folded, 1 full, 2 none */
    struct cli_engine_opts engine;
    bool json, truth, force;
};

enum {
    VERIFY_ROOM = 32 << 20,    /* bytes of each buffer of logits */
    VERIFY_HIDDEN = 256 << 20, /* bytes of hidden states that are kept */
    VERIFY_BUCKETS = 4,
    VERIFY_MOST_TYPES = 12
};

struct verify {
    struct verify_opts o;
    const char *path_a, *path_b; /* path_b: model B or the reference */
    struct cli_loaded a, b;      /* b is not used with a reference */
    struct lm_model *reference;
    const struct lm_tensor *ref_logits;
    struct lm_ids ids;
    uint32_t vocab, n_layers, d_model, window; /* window: positions before the context starts anew */

    struct lm_tally all, bucket[VERIFY_BUCKETS];
    double *kld;                    /* [ids.n] */
    struct lm_position *positions;  /* [ids.n], when each is to be printed; else NULL */

    struct lm_layer_error *layers;  /* [n_layers + 1]: the embedding, then the layers; NULL: not compared */
    const char *why_no_layers;
    float *hidden;                  /* [n_layers + 1, n_probed, d_model] of A or the reference */
    size_t n_probed;
    int first_divergent;            /* -1 the embedding, or LM_NOWHERE */
    struct lm_departure where;      /* when has_where */
    struct lm_diagnosis *why;       /* NULL: nothing to explain, or no model B */
    bool has_where;

    double weight_error;            /* relative, that the dtypes explain */
    double max_kld, max_diff;       /* in force; infinite: not checked */
    bool layers_judged;             /* a layer that departs is a failure: no limit was given */
    bool failed;
};

static inline struct lm_side verify_side(const struct cli_loaded *l)
{
    return (struct lm_side){l->model, l->engine, l->session};
}

/* ---- verify_ids.c: the tokens that both are run over. */
int verify_find_ids(struct verify *v, struct lm_err *e);
int verify_reference_open(struct verify *v, struct lm_err *e); /* ids and logits; called before the engine is made */

/* ---- verify_run.c: both in lock step over the ids; fills the tallies. */
int verify_run(struct verify *v, struct lm_err *e);
/* Positions of bucket i: [from, to); false when the window does not reach it. */
bool verify_bucket(const struct verify *v, int i, size_t *from, size_t *to);
struct verify_quantiles { double median, p99; };
struct verify_quantiles verify_kld_quantiles(const struct verify *v, int bucket); /* -1: all */

/* ---- verify_layers.c */
/* Fills the layers and first_divergent, over so many positions at most; a second call replaces the first's. */
int verify_probe_layers(struct verify *v, size_t n_most, struct lm_err *e);
/* When the two differ by more than is explained: operation, head, position and cause. */
int verify_explain(struct verify *v, struct lm_err *e);

/* ---- verify_truth.c: one model's modes of computing against the pass in double; the exit code. */
int verify_truth(struct verify *v, struct lm_err *e);
/* ---- verify_round.c: A's weights in the types of --as (or the usual two), each a model the caller closes. */
int verify_round(struct verify *v, struct lm_model **out, const char **names, size_t *n, struct lm_err *e);

/* ---- verify_print.c, verify_json.c, verify_html.c */
const char *verify_layer_name(int layer, char *buf, size_t size);
void verify_print(const struct verify *v);
json_t *verify_json(const struct verify *v);
int verify_write_html(const struct verify *v, struct lm_err *e);

#endif
