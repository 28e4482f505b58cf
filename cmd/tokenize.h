/* lm-tokenize inside: options, a stream of parts, and what is made of them. */
#ifndef CMD_TOKENIZE_H
#define CMD_TOKENIZE_H

#include "cmd/cli.h"

struct tok_options {
    struct cli_list files;
    const char *field, *html;
    struct lm_vocab_options rank_file; /* encoding and pattern */
    int binary, threads, shown; /* binary: 0 no, else bytes of an id / 2 */
    uint64_t seed, tries;
    bool pieces, offsets, decode, parse_special, add_special, show_special, count, json, jsonl, view, compare, quick, force;
};

struct tok_job {
    struct tok_options o;
    const char *model; /* path */
    struct lm_vocab *v;
    struct lm_tokenizer *t;
    int n_threads;
    bool color;
    /* What --add-special puts in front of and behind a text. */
    int32_t *frame;
    size_t n_before, n_after;
};

/* ---- bytes to be written */

struct tok_buf {
    char *data;
    size_t n, capacity;
    bool failed; /* out of memory */
};

/* Room for n more bytes behind data + n, which the caller fills and counts; NULL when out of memory. */
char *tok_room(struct tok_buf *b, size_t n);
void tok_put(struct tok_buf *b, const void *s, size_t n);
void tok_put_number(struct tok_buf *b, uint64_t v);
void tok_put_piece(struct tok_buf *b, struct lm_span piece); /* escaped as lm_piece_escape does */
void tok_put_quoted(struct tok_buf *b, struct lm_span piece); /* the same as a JSON string */

/* ---- a text in parts */

struct tok_counts {
    uint64_t n_bytes, n_chars, n_tokens;
};

struct tok_part {
    struct lm_span text;
    uint64_t base;      /* byte of the whole input that the text begins with */
    bool first, last;
    struct lm_ids ids;
    struct tok_buf out; /* what is to be printed for it */
    struct tok_counts counts;
    uint64_t n_lines;   /* JSONL: done, or up to the broken one */
    int rc;
    struct lm_err e;
};

/* How an input is cut and worked. Parts are worked by several threads at once
 * and printed in order. */
struct tok_worker {
    /* A place in (0, text.size] where a part of about `at` bytes may end; 0: none in sight. */
    size_t (*cut)(const struct tok_job *j, struct lm_span text, size_t at);
    void (*work)(const struct tok_job *j, struct tok_part *p); /* fills out, counts, rc */
    bool eager; /* whatever can be answered is, as soon as the input pauses */
};

struct tok_input {
    const char *name;    /* for messages; NULL: an argument */
    const char *argument; /* the text itself */
};

/* Prints what the worker makes of an input; sums are added to *total (may be NULL). */
int tok_stream(const struct tok_job *j, const struct tok_input *in, const struct tok_worker *w, struct tok_counts *total,
               struct lm_err *e);

/* The workers. */
extern const struct tok_worker tok_text_worker, tok_jsonl_worker, tok_unjsonl_worker;

/* ---- a text as a whole */

struct tok_whole {
    const char *name; /* NULL: an argument */
    char *text;
    size_t n_bytes;
    struct lm_ids ids;
    struct tok_counts counts;
};

/* All ids with their offsets, the frame included. Free with tok_whole_free. */
int tok_encode_whole(const struct tok_job *j, const struct tok_input *in, struct tok_whole *w, struct lm_err *e);
void tok_whole_free(struct tok_whole *w);
uint64_t tok_count_chars(struct lm_span text);

enum tok_style { TOK_ORDINARY, TOK_SPECIAL, TOK_ADDED, TOK_BYTES };
enum tok_style tok_style_of(const struct tok_job *j, int32_t id);

int tok_print_json(const struct tok_job *j, const struct tok_whole *w, size_t n, struct lm_err *e);
void tok_print_colored(const struct tok_job *j, const struct tok_whole *w); /* the text in the colours of its tokens */
void tok_print_view(const struct tok_job *j, const struct tok_whole *w);    /* ids under the pieces */
int tok_write_html(const struct tok_job *j, const struct tok_whole *w, size_t n, struct lm_err *e);
const char *tok_color(size_t i); /* neighbours differ, the same place always looks the same */

int tok_print_counts(const struct tok_job *j, const struct tok_input *in, size_t n, struct lm_err *e);
/* Ids to text; args are ids when there are no files. */
int tok_decode(const struct tok_job *j, int n, char **args, struct lm_err *e);
/* CLI_OK alike, CLI_DIFFERENT; -1. */
int tok_compare(const struct tok_job *j, const char *a, const char *b, struct lm_err *e);

#endif
