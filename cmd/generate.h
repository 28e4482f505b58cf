/* lm-generate's parts. */
#ifndef CMD_GENERATE_H
#define CMD_GENERATE_H

#include "cmd/cli_engine.h"
#include "libmodel/template.h"

struct generate_options {
    const char *prompt, *file;
    int n;
    double temp, top_p, min_p, repeat, presence, frequency;
    int top_k, window;
    uint64_t seed;          /* GENERATE_NO_SEED: a random one */
    struct cli_engine_opts engine;
    bool special, echo, json, quiet, ignore_eos, shift;
    int logprobs;           /* 0 none; K: the K likeliest with each token */
    struct cli_list stops, template_args;
    /* chat */
    bool chat, interactive, show_prompt;
    const char *system, *messages, *template_file;
};
#define GENERATE_NO_SEED UINT64_MAX

enum { GENERATE_MAX_ENDS = 32 };

struct generation {
    struct generate_options o;
    struct cli_loaded l;
    char *text;             /* the prompt */
    size_t n_text;
    struct lm_ids prompt;   /* what the model reads */
    struct lm_ids past;     /* what the session holds */
    struct lm_ids out;      /* generated, without the end token */
    size_t n_read;          /* of the prompt, not remembered from the turn before */
    int32_t ends[GENERATE_MAX_ENDS]; /* ids that end a text */
    size_t n_ends;
    struct lm_sampling sampling;
    struct lm_penalties penalties;
    float *logits;
    struct lm_decoder decoder;
    char *piece;            /* room for what one id adds */
    size_t piece_size;
    char *said;             /* the continuation so far */
    size_t n_said, said_capacity;
    size_t n_shown;         /* bytes of it that are out; the rest may begin a stop text */
    const char *stopped;    /* why it ended */
    double prompt_seconds, seconds;
};

/* ---- generate_run.c */
void generate_find_ends(struct generation *g);
/* Brings the session to the end of g->prompt, reusing what it holds of it; logits are those of the last token. */
int generate_read(struct generation *g, struct lm_err *e);
/* Samples until something ends it; fills out, said, stopped. */
int generate_go_on(struct generation *g, struct lm_err *e);
int generate_ids_add(struct lm_ids *l, int32_t id, struct lm_err *e);

/* ---- generate_out.c */
void generate_put_text(const char *s, size_t n); /* on a terminal only what cannot command it */
/* The new token's text is at the end of g->said. 1: standard output is closed. */
int generate_token_out(struct generation *g, int32_t id, struct lm_err *e);
int generate_end_out(struct generation *g, struct lm_err *e); /* what was held back; the end's event */
int generate_prompt_out(const struct generation *g);          /* the prompt's event */
void generate_stats(const struct generation *g);

/* ---- generate_chat.c */
struct generate_chat;
/* The model's template (or that of --template) and the first messages. */
int generate_chat_open(struct generate_chat **out, struct generation *g, struct lm_err *e);
void generate_chat_free(struct generate_chat *c); /* NULL is fine */
/* Renders all messages and leaves text and ids in g->text and g->prompt. Where
 * they do not leave room for an answer, the oldest are dropped, and it says so. */
int generate_chat_render(struct generate_chat *c, struct generation *g, struct lm_err *e);
int generate_chat_add(struct generate_chat *c, const char *role, struct lm_span text, struct lm_err *e);
/* Reads lines, answers, until the input ends. */
int generate_chat_talk(struct generate_chat *c, struct generation *g, struct lm_err *e);

#endif
