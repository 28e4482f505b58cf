/* lm-vocab inside. */
#ifndef CMD_VOCAB_H
#define CMD_VOCAB_H

#include "cmd/cli.h"
#include "libmodel/vocab_parts.h"

enum vocab_form { VOCAB_TSV, VOCAB_LLAMA_CPP };

struct vocab_options {
    const char *find, *regex, *to;
    struct lm_vocab_options rank_file; /* encoding and pattern */
    uint64_t id;
    int form;
    bool merges, json, stats, diff, all, force;
};

#define VOCAB_NO_ID UINT64_MAX

struct vocab_job {
    const struct vocab_options *o;
    const struct lm_vocab *v;
    struct lm_tokenizer *t; /* made when asked for */
    uint32_t *ranks;        /* of the merge that makes a piece; UINT32_MAX: none */
    char *buf;              /* a piece as text */
    size_t size;
    uint8_t *bytes;         /* … as the bytes it stands for */
    size_t n_bytes;
    bool terminal;
};

/* The piece escaped; good until the next call. */
const char *vocab_escaped(struct vocab_job *j, struct lm_span text);
/* The bytes that a piece stands for behind others; needs vocab_need_tokenizer. */
struct lm_span vocab_bytes_of(struct vocab_job *j, size_t id);
int vocab_need_tokenizer(struct vocab_job *j, struct lm_err *e);

bool vocab_has_scores(const struct lm_vocab *v);
json_t *vocab_piece_json(struct vocab_job *j, size_t id);
json_t *vocab_summary_json(const struct lm_vocab *v);

/* Each: CLI_OK, CLI_DIFFERENT or -1. */
int vocab_list(struct vocab_job *j, struct lm_err *e); /* all, --id, --find, --regex, --merges */
int vocab_stats(struct vocab_job *j, struct lm_err *e);
int vocab_diff(struct vocab_job *j, const char *path_a, const char *path_b, struct lm_err *e);

/* Calls one(user, id) for the pieces that match; returns how many, -1 on error. */
int64_t vocab_match(struct vocab_job *j, const char *regex, void (*one)(void *user, size_t id), void *user, struct lm_err *e);

#endif
