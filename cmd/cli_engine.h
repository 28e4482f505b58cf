/* What lm-generate, lm-verify and lm-trace share: a checkpoint opened with its
 * tokenizer and made ready to run. */
#ifndef CMD_CLI_ENGINE_H
#define CMD_CLI_ENGINE_H

#include "cmd/cli.h"
#include "gpu/engine.h"

struct cli_engine_opts {
    const char *device; /* NULL: auto */
    int threads;        /* 0: all cores */
    int math;           /* index of cli_maths; 0: auto */
    uint64_t ctx;       /* 0: as much as is needed */
    int precision;      /* index of cli_precisions */
};
enum { CLI_MATH_AUTO, CLI_MATH_EXACT, CLI_MATH_FAST, CLI_MATH_TF32, CLI_MATH_BF16, CLI_MATH_F64 };
enum { CLI_PRECISION_F32, CLI_PRECISION_F64 };
extern const char *const cli_precisions[]; /* "f32", "f64" */
extern const char *const cli_maths[]; /* "auto", "exact", … */

/* Rows of an option table; base is the offset of a struct cli_engine_opts. */
#define CLI_ENGINE_ROWS(base)                                                                                         \
    {"device", 0, CLI_STRING, "DEVICE", (base) + offsetof(struct cli_engine_opts, device),                            \
     "Where to compute: cpu, cuda, cuda:1 …, or auto (default): a GPU when there is one.", NULL},                     \
    {"threads", 0, CLI_INT, "N", (base) + offsetof(struct cli_engine_opts, threads),                                  \
     "Threads of the CPU (default: one a core).", NULL},                                                              \
    {"precision", 0, CLI_CHOICE, NULL, (base) + offsetof(struct cli_engine_opts, precision),                          \
     "f64 computes everything in double, on the CPU: the truth that other arithmetic is measured by (default: f32).", \
     cli_precisions}

struct cli_loaded {
    struct lm_model *model;
    struct lm_vocab *vocab;   /* NULL: the checkpoint has no tokenizer */
    struct lm_tokenizer *tok; /* NULL exactly then */
    struct lm_engine *engine;
    struct lm_session *session;
};

/* Opens model and tokenizer. On failure, too, end with cli_unload. */
int cli_load(struct cli_loaded *l, const char *path, bool needs_tokenizer, struct lm_err *e);
/* Makes it ready for n_positions (or o->ctx when that is set). */
int cli_start(struct cli_loaded *l, const struct cli_engine_opts *o, uint64_t n_positions, struct lm_err *e);
void cli_unload(struct cli_loaded *l);

/* Ids of a text, with BOS in front when the checkpoint asks for it and never
 * with EOS behind, for the text is to be continued. */
int cli_encode(const struct cli_loaded *l, struct lm_span text, unsigned flags, struct lm_ids *ids, struct lm_err *e);

/* A piece as people read it: decoded, its spaces as "▁", escaped, cut when it is
 * long; less than 250 bytes. A ring of 16 buffers, cli_safe's. */
const char *cli_piece(const struct cli_loaded *l, int32_t id);

#endif
