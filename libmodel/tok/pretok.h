/* Pre-tokenizers: regexes that split a text in turn, each the pieces that the
 * one before left.  Known ones are hand-written scanners over the class table,
 * others run through PCRE2 under limits. Private to libmodel. */
#ifndef LIBMODEL_TOK_PRETOK_H
#define LIBMODEL_TOK_PRETOK_H

#include "libmodel/bytes.h"
#include "libmodel/err.h"

enum { LMI_MAX_STEPS = 16 };

/* A name of tokenizer.ggml.pre. */
struct lmi_pre_name {
    const char *name;
    const char *steps[7]; /* regexes, NULL after the last */
    bool ignore_merges, add_bos;
    enum lmi_pre_family { LMI_BYTES, LMI_MARKED, LMI_WHITESPACE } family; /* MARKED: spaces as U+2581, no byte letters;
                                                                          WHITESPACE: neither, words are what is between spaces */
};
/* NULL when we do not know the name. */
const struct lmi_pre_name *lmi_pre_find(struct lm_span name);
const struct lmi_pre_name *lmi_pre_at(size_t i); /* NULL past the last */
/* The first name with these regexes (as in lm_vocab.pre_pattern) and this
 * ignore_merges; NULL if none. */
const struct lmi_pre_name *lmi_pre_match(struct lm_span pattern, bool ignore_merges);
/* Its regexes in the form of lm_vocab.pre_pattern, in the arena; data NULL when out of memory. */
struct lm_span lmi_pre_pattern(struct lm_arena *a, const struct lmi_pre_name *p);

/* Equal but for how line ends are written. */
bool lmi_same_regex(struct lm_span a, struct lm_span b);

/* The regexes that ByteLevel, Digits and Whitespace stand for in tokenizer.json. */
extern const char lmi_re_gpt2[], lmi_re_digits[], lmi_re_digit[];
/* More that have scanners. */
extern const char lmi_re_cl100k[], lmi_re_deepseek3[], lmi_re_thousands[], lmi_re_thousands_word[], lmi_re_thousands_before[];
/* Does the regex match all of any text, so that splitting at its matches and
 * removing everything else are the same? */
bool lmi_pre_covers(struct lm_span regex);

struct lmi_pretok; /* compiled, immutable */
int lmi_pretok_new(struct lmi_pretok **out, struct lm_span pattern, struct lm_err *e);
void lmi_pretok_free(struct lmi_pretok *p);

/* Does it always split between a letter and a space with a letter behind it, and
 * behind a line end between texts, whatever stands further away? */
bool lmi_pretok_splits_words(const struct lmi_pretok *p);

/* Calls word(user, begin, end) for the pieces of text (well-formed UTF-8) in
 * order; they cover it. -1: word failed, out of memory or over the step limit. */
int lmi_pretok_run(const struct lmi_pretok *p, struct lm_span text, int (*word)(void *user, size_t begin, size_t end),
                   void *user, struct lm_err *e);

/* ---- one regex */
struct lmi_regex; /* PCRE2 */
int lmi_regex_new(struct lmi_regex **out, struct lm_span regex, struct lm_err *e);
void lmi_regex_free(struct lmi_regex *r);
/* State of one run over a text: buffers and the budget of steps. */
struct lmi_regex_run {
    void *match_data, *context;
    uint64_t spent, budget;
};
int lmi_regex_begin(struct lmi_regex_run *run, const struct lmi_regex *r, size_t n_bytes, struct lm_err *e);
void lmi_regex_end(struct lmi_regex_run *run);
/* First match that starts at or after `from` in well-formed text: 1 with *begin
 * <= *end, 0 none. One of nothing is passed over where the match before ended
 * (last_end; SIZE_MAX: there is none before). */
int lmi_regex_find(const struct lmi_regex *r, struct lmi_regex_run *run, struct lm_span text, size_t from,
                   size_t last_end, size_t *begin, size_t *end, struct lm_err *e);

/* Scanners: the end of the word that begins at pos < text.size. */
size_t lmi_scan_gpt2(struct lm_span text, size_t pos);
size_t lmi_scan_llama3(struct lm_span text, size_t pos); /* digits by three */
size_t lmi_scan_qwen2(struct lm_span text, size_t pos);  /* digits one by one */
size_t lmi_scan_qwen35(struct lm_span text, size_t pos);
size_t lmi_scan_cl100k(struct lm_span text, size_t pos);
size_t lmi_scan_o200k(struct lm_span text, size_t pos);
size_t lmi_scan_tekken(struct lm_span text, size_t pos);
size_t lmi_scan_kimi(struct lm_span text, size_t pos);
/* The end of the match that begins at pos; pos if there is none. */
size_t lmi_match_deepseek3(struct lm_span text, size_t pos);

#endif
