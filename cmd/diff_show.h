/* Between the files of lm-diff. */
#ifndef CMD_DIFF_SHOW_H
#define CMD_DIFF_SHOW_H

#include "cmd/cli.h"
#include "convert/diff.h"

struct diff_opts {
    int accept, threads;
    bool full, all, json, no_text;
};

/* Tensors that differ only in the layer. */
struct diff_group {
    const char *name;
    const struct lm_diff_tensor *first;
    const char *what;
    bool *layers; /* [n_layers] */
    size_t n;
    double low, high, largest, cosine;
    uint64_t n_differ, n_compared;
    uint32_t rank_low, rank_high, rank_limit;
    bool has_rank;
    bool told;    /* the summary has said it */
};

struct diff_view {
    const struct lm_diff *d;
    const struct diff_opts *o;
    struct diff_group *groups;
    size_t n_groups;
    int n_layers;
    struct lm_arena arena;
};

int diff_make_groups(struct diff_view *v); /* -1: out of memory */
/* "0-3, 7" */
const char *diff_layer_list(const struct diff_view *v, const bool *in, char *buf, size_t size);
const char *diff_rank_text(const struct diff_group *g, char *buf, size_t size);

/* diff_summary.c: what the differences amount to, in a few lines. */
void diff_print_summary(struct diff_view *v);
void diff_print(struct diff_view *v, struct lm_model *a, struct lm_model *b);
void diff_print_json(const struct diff_view *v, struct lm_model *a, struct lm_model *b, bool equal);

#endif
