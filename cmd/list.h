/* The parts of lm-list: what is gathered, and how it is shown. */
#ifndef CMD_LIST_H
#define CMD_LIST_H

#include "cmd/cli.h"

enum { LIST_SORT_ORDER, LIST_SORT_NAME, LIST_SORT_SIZE, LIST_SORT_PARAMS, LIST_SORT_DTYPE };
enum { LIST_BY_NOTHING, LIST_BY_LAYER, LIST_BY_ROLE, LIST_BY_DTYPE };

struct list_opts {
    const char *filter;
    int sort, by;
    bool reverse, fold, meta, names, json, stored;
};

/* A line of the listing: a tensor, or tensors that differ only in numbers. */
struct list_row {
    const struct lm_tensor *t;
    const char *folded; /* name with # for every number between dots */
    const char *role;
    int layer;          /* -1 outside layers */
    size_t count;
    uint64_t n_params, n_bytes;
    bool shared;        /* its bytes belong to a tensor before it too */
};

struct listing {
    struct lm_model *m;
    struct list_opts o;
    struct lm_config config;
    bool has_config;
    const char *arch;   /* as the checkpoint calls it, or NULL */
    const char *why;    /* why there is no config */
    struct list_row *all, *rows; /* rows: what is to be shown */
    size_t n_rows, n_shared;
    uint64_t n_params, n_bytes;
    int n_layers;
    struct lm_arena arena;
};

struct list_group { const char *key; int layer; size_t n_tensors; uint64_t n_params, n_bytes; };

const char *list_row_name(const struct listing *l, const struct list_row *r);
const char *list_type(const struct lm_tensor *t); /* "BF16", "GPTQ 4-bit, groups of 128" */
double list_share(const struct listing *l, uint64_t n_params); /* of the whole model, 0 to 1 */
/* Groups of the rows as --by says, in order of layer or of size; malloc'd. */
struct list_group *list_groups(struct listing *l, const struct list_row *rows, size_t n_rows, size_t *n);

/* list_print.c; config is config.json or NULL. */
void list_print(struct listing *l, json_t *config);
/* list_meta.c */
void list_print_meta(struct listing *l, json_t *config);
json_t *list_meta_json(struct listing *l, json_t *config);
/* list_json.c */
json_t *list_json(struct listing *l, json_t *config);

#endif
