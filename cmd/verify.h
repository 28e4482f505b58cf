/* The parts of lm-verify. */
#ifndef CMD_VERIFY_H
#define CMD_VERIFY_H

#include "cmd/cli_engine.h"

struct verify_opts {
    const char *text, *reference;
    uint64_t tokens;          /* 0: all of the text */
    double max_kld, max_diff; /* < 0: the default */
    int per_position;         /* 0 folded, 1 full, 2 none */
    struct cli_engine_opts engine;
    bool json;
};

enum { VERIFY_ROOM = 32 << 20 }; /* bytes of each buffer of logits or hidden states */
#define VERIFY_NONE (-2)

/* One position, finished. */
struct verify_position { int32_t id, top_a, top_b; struct lm_divergence d; };

/* What a layer does to its input, compared: norm of the difference over norm of
 * what A's layer adds, and how much of that the dtypes explain. */
struct verify_layer { double error, bound; };

struct verify {
    struct verify_opts o;
    const char *path_a, *path_b; /* path_b: model B or the reference */
    struct cli_loaded a, b;      /* b is not used with a reference */
    struct lm_model *reference;
    const struct lm_tensor *ref_logits;
    struct lm_ids ids;
    uint32_t vocab, n_layers, d_model, window; /* window: positions before the context starts anew */
    struct verify_position *positions;         /* one an id */
    struct verify_layer *layers; /* [n_layers + 1]: the embedding, then the layers; NULL: not compared */
    const char *why_no_layers;
    int first_divergent;         /* -1 the embedding, or VERIFY_NONE */
    double weight_error;         /* relative, that the dtypes explain */
    struct lm_divergence all;
    double max_kld, max_diff;    /* in force; infinite: not checked */
    bool failed;
};

/* ---- verify_ids.c: the tokens that both are run over. */
int verify_find_ids(struct verify *v, struct lm_err *e);
int verify_reference_open(struct verify *v, struct lm_err *e); /* ids and logits; called before the engine is made */

/* ---- verify_layers.c */
/* Relative error of weights stored as d (root of mean squares). */
double verify_dtype_error(enum lm_dtype d);
/* Fills weight_error and the layers' bounds. */
void verify_find_bounds(struct verify *v);
/* Mean KLD that weights with this error may cause. */
double verify_default_max_kld(double weight_error);
/* Fills the layers' errors and first_divergent. */
int verify_probe_layers(struct verify *v, struct lm_err *e);

/* ---- verify_print.c */
void verify_print(const struct verify *v);
json_t *verify_json(const struct verify *v);

#endif
