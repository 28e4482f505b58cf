/* lm-calibrate in parts. */
#ifndef CMD_CALIBRATE_H
#define CMD_CALIBRATE_H

#include "cmd/cli_engine.h"
#include "libmodel/imatrix.h"

struct calibrate_opts {
    struct cli_list texts, merge;
    const char *out;
    int format, math;       /* indices of their choices */
    uint64_t ctx, chunks, skip, save_every;
    bool output, special, ids, show, full, force, json;
    struct cli_engine_opts engine;
};

/* What is known at the end; model NULL: nothing was run. */
struct calibrate_done {
    const char *model, *out;
    char device[128];
    uint64_t chunks, tokens, n_bytes;
    double seconds;
};

/* ---- calibrate_text.c: the tokens, cut into chunks */

struct calibrate_text { const char *name; struct lm_ids ids; uint64_t first, n; /* chunks taken */ };
struct calibrate_texts { struct calibrate_text *of; size_t n; uint64_t n_chunks, n_there; uint32_t ctx; };
/* Reads every text of o; ctx tokens a chunk, the first o->skip chunks left out, at most o->chunks taken. */
int calibrate_texts_read(struct calibrate_texts *t, const struct cli_loaded *l, const struct calibrate_opts *o,
                         uint32_t ctx, struct lm_err *e);
void calibrate_texts_free(struct calibrate_texts *t);
/* The ids of chunk i into ids [ctx], BOS in the first place where the model wants one, as llama.cpp does it. */
void calibrate_chunk(const struct calibrate_texts *t, const struct cli_loaded *l, uint64_t i, int32_t *ids);

/* ---- calibrate_show.c */
void calibrate_print(const struct lm_imatrix *m, const struct calibrate_done *d, bool full);
json_t *calibrate_json(const struct lm_imatrix *m, const struct calibrate_done *d);
/* Warns on stderr of experts and columns that the text did not reach. */
void calibrate_warn(const struct lm_imatrix *m);

#endif
