/* The stages of a tokenizer.json as data: lists of steps, in the order in which
 * they run, nested Sequences laid out flat. Read by hf_pipe.c; executed by
 * hf_norm.c (normalizer), hf_split.c (pre-tokenizer), hf_decode.c (decoder) and
 * pipeline.c (all of it). Private to libmodel. */
#ifndef LIBMODEL_TOK_PIPELINE_H
#define LIBMODEL_TOK_PIPELINE_H

#include "libmodel/parse/json.h"
#include "libmodel/tok/charsmap.h"
#include "libmodel/tok/pretok.h"
#include "libmodel/tok/text.h"

enum { LMI_MAX_STAGE = 64 };

/* A literal, or a regex when that is not NULL. Neither: matches nothing. */
struct lmi_pattern {
    struct lm_span literal;
    struct lmi_regex *regex;
};

enum lmi_norm_kind {
    LMI_NORM_NFC, LMI_NORM_NFD, LMI_NORM_NFKC, LMI_NORM_NFKD, LMI_NORM_LOWERCASE, LMI_NORM_STRIP_ACCENTS,
    LMI_NORM_REPLACE, LMI_NORM_PREPEND, LMI_NORM_STRIP, LMI_NORM_BERT_CLEAN, LMI_NORM_BERT_HAN, LMI_NORM_BERT_ACCENTS,
    LMI_NORM_PRECOMPILED, LMI_NORM_BYTE_LEVEL, LMI_NORM_NMT
};
struct lmi_norm_step {
    enum lmi_norm_kind kind;
    struct lmi_pattern pattern; /* REPLACE */
    struct lm_span content;     /* REPLACE, PREPEND */
    bool left, right;           /* STRIP */
    struct lmi_charsmap charsmap;
};

enum lmi_behavior { LMI_REMOVED, LMI_ISOLATED, LMI_MERGED_WITH_PREVIOUS, LMI_MERGED_WITH_NEXT, LMI_CONTIGUOUS };
enum lmi_split_kind {
    LMI_SPLIT_PATTERN, LMI_SPLIT_CLASS, LMI_SPLIT_WORDS, LMI_SPLIT_CHAR, LMI_SPLIT_SCRIPTS, LMI_SPLIT_LENGTH,
    LMI_SPLIT_BYTE_LEVEL, LMI_SPLIT_METASPACE
};
struct lmi_split_step {
    enum lmi_split_kind kind;
    enum lmi_behavior behavior;
    bool invert;
    struct lmi_pattern pattern; /* PATTERN; BYTE_LEVEL has none */
    unsigned classes;           /* CLASS: characters with one of these */
    uint32_t character;         /* CHAR; METASPACE's replacement */
    size_t length;              /* LENGTH, in characters */
    bool prefix, use_regex;     /* BYTE_LEVEL */
    bool split;                 /* METASPACE */
    enum { LMI_NEVER, LMI_FIRST, LMI_ALWAYS } prepend;
};

enum lmi_decode_kind {
    LMI_DECODE_BYTE_LEVEL, LMI_DECODE_WORDPIECE, LMI_DECODE_METASPACE, LMI_DECODE_BPE, LMI_DECODE_FUSE, LMI_DECODE_STRIP,
    LMI_DECODE_REPLACE, LMI_DECODE_BYTE_FALLBACK, LMI_DECODE_CTC
};
struct lmi_decode_step {
    enum lmi_decode_kind kind;
    struct lm_span text, delimiter; /* prefix, suffix, content, pad token; CTC's word delimiter */
    struct lmi_pattern pattern;
    uint32_t character;
    bool cleanup, keep_first;       /* keep_first: METASPACE with prepend_scheme "never" */
    size_t start, stop;
};

struct lmi_pipeline {
    struct lmi_norm_step norm[LMI_MAX_STAGE];
    struct lmi_split_step split[LMI_MAX_STAGE];
    struct lmi_decode_step decode[LMI_MAX_STAGE];
    size_t n_norm, n_split, n_decode;
    bool has_decoder;            /* without one pieces are joined by spaces */
    bool needs_origin;           /* a step asks where a piece came from even if the caller does not */
};

/* The stages in the file; NULL or null: none. */
struct lmi_stages {
    const json_t *normalizer, *pre_tokenizer, *post_processor, *decoder;
};
struct lmi_vocab;
/* Into b->pipeline, but for the post-processor. */
int lmi_pipeline_read(struct lmi_vocab *b, const struct lmi_stages *s, struct lm_err *e);
void lmi_pipeline_free(struct lmi_pipeline *p); /* accepts NULL */
/* … and decides how they are executed: sets what the fast engines need (b->v)
 * when they give the same ids, else b->staged. After the model. */
int lmi_hf_stages(struct lmi_vocab *b, const struct lmi_stages *s, struct lm_err *e);
/* What the normalizer makes of an added token's text, in the arena. */
int lmi_pipeline_normal_text(const struct lmi_pipeline *p, struct lm_arena *a, struct lm_span text, struct lm_span *out,
                             struct lm_err *e);

/* Runs the normalizer: text is replaced. */
int lmi_pipeline_normalize(const struct lmi_pipeline *p, struct lmi_text *text, struct lmi_text *spare, struct lm_err *e);

/* Pieces of a text. */
struct lmi_cuts {
    struct lm_offsets *list; /* begin, end in the text */
    size_t n, capacity;
    bool failed;
};
void lmi_cuts_put(struct lmi_cuts *c, size_t begin, size_t end); /* empty ones are left out */
/* Runs the pre-tokenizer on the text, whose first byte stands at the beginning
 * of the input if `first`. */
int lmi_pipeline_split(const struct lmi_pipeline *p, struct lmi_text *text, struct lmi_text *spare, struct lmi_cuts *cuts,
                       struct lmi_cuts *spare_cuts, bool first, struct lm_err *e);

/* The matches of a pattern in order, as an iterator: 1 with *begin <= *end, 0 none left. */
struct lmi_matcher {
    const struct lmi_pattern *pattern;
    struct lm_span text;   /* well-formed UTF-8 */
    size_t from, last_end; /* last_end SIZE_MAX: no match yet */
    struct lmi_regex_run run;
};
int lmi_matcher_begin(struct lmi_matcher *m, const struct lmi_pattern *p, struct lm_span text, struct lm_err *e);
int lmi_matcher_next(struct lmi_matcher *m, size_t *begin, size_t *end, struct lm_err *e);
void lmi_matcher_end(struct lmi_matcher *m);

/* The text of pieces. `from`: how many stand in front of them (then leading
 * spaces stay); `whole`: nothing follows. out is appended to. */
int lmi_pipeline_decode(const struct lmi_pipeline *p, const struct lm_span *pieces, size_t n, size_t from, bool whole,
                        struct lmi_text *out, struct lm_err *e);

/* A normal form, a run of characters at a time. Writes to out. */
void lmi_normal_form(const struct lmi_text *in, bool compatible, bool compose, struct lmi_text *out);
/* Bytes as GPT-2's letters. */
void lmi_put_letters(struct lmi_text *out, const struct lmi_text *in, size_t begin, size_t end);
/* A copy with DEL for every ill-formed byte, or NULL when there is none to mask
 * (*failed then says whether memory was short). */
uint8_t *lmi_mask_ill_formed(struct lm_span s, bool *failed);

#endif
