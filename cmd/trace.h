/* The parts of lm-trace: what is gathered, and how it is shown. */
#ifndef CMD_TRACE_H
#define CMD_TRACE_H

#include "cmd/cli_engine.h"

struct trace_opts {
    const char *file, *html;
    int token;             /* position to follow; -1: the last */
    int top;               /* next tokens to show */
    struct cli_engine_opts engine;
    bool special, json, force;
};

enum { TRACE_LOOKS = 3, TRACE_FIRST = 8 /* numbers of a vector that are shown */ };

struct trace_look { size_t position; double weight; };

struct trace_layer {
    double norm_in, norm_attn, norm_out; /* of the residual stream at the followed token */
    struct trace_look looks[TRACE_LOOKS]; /* attention, mean over heads, largest first */
    size_t n_looks;
    uint32_t head;                        /* the one with the largest single weight */
    struct trace_look head_look;
};

struct trace_next { int32_t id; double p; };

struct trace {
    struct trace_opts o;
    struct cli_loaded l;
    const struct lm_config *config;
    struct lm_ids ids;
    size_t at;                         /* the followed token's position */
    uint64_t n_params;                 /* of the whole model */
    const struct lm_tensor *embedding;
    const struct lm_tensor *positions; /* learned ones, or NULL */
    float *row, *pos_row, *input;      /* [d_model] each: embedding, position (or NULL), what enters layer 0 */
    double *freqs, mscale;             /* [d_rope/2] or NULL */
    struct trace_layer *layers;
    struct trace_next *next;
    size_t n_next;
};

double trace_norm(const float *x, size_t n);
/* The i-th number of a row of `of`, exactly as stored. */
double trace_value(const struct trace *t, const struct lm_tensor *of, const float *row, uint64_t row_index, size_t i);
/* The tensor of a role in a layer as "[4096, 4096] BF16", or "" when absent. */
const char *trace_shape(const struct trace *t, enum lm_role r, int layer, char *buf, size_t size);

void trace_print(const struct trace *t);   /* trace_print.c */
json_t *trace_json(const struct trace *t); /* trace_json.c */
json_t *trace_piece_json(const struct trace *t, int32_t id); /* decoded, spaces as they are; null past the vocabulary */
/* Runs the text once more, token by token, and writes the page; trace_html.c. */
int trace_write_html(struct trace *t, struct lm_err *e);

#endif
