/* What the fuzz targets of tokenizers share. */
#ifndef TESTS_FUZZ_FUZZ_TOKENIZER_H
#define TESTS_FUZZ_FUZZ_TOKENIZER_H

#include "tests/fuzz/fuzz.h"

#include "libmodel/tok/build.h"
#include "libmodel/tokenizer.h"

enum { LONGEST_TEXT = 2000 };

/* Encodes with all flags; every id, offset and decoded byte must hold. */
static inline void use(const struct lm_vocab *v, struct lm_span file)
{
    struct lm_tokenizer *t;
    struct lm_ids ids = {0}, plain = {0};
    struct lm_err e = {0};
    size_t n = file.size < LONGEST_TEXT ? file.size : LONGEST_TEXT, n_out;
    struct lm_span text = lm_span_of(file.data + file.size - n, n);
    char *out;

    if (lm_tokenizer_new(&t, v, &e) < 0) {
        require(e.code != LM_OK && e.text[0], "a refusal has a reason");
        return;
    }
    if (lm_tokenizer_encode(t, text, 7, &ids, &e) == 0) {
        for (size_t i = 0; i < ids.n; i++) {
            require(ids.ids[i] >= 0 && (size_t)ids.ids[i] < v->n_pieces, "ids inside the vocabulary");
            require(ids.offsets[i].begin <= ids.offsets[i].end && ids.offsets[i].end <= n, "offsets inside the text");
        }
        require(lm_tokenizer_decode(t, ids.ids, ids.n, true, &out, &n_out, &e) == 0, "our own ids can be decoded");
        free(out);
        require(lm_tokenizer_encode(t, text, 3, &plain, &e) == 0 && plain.n == ids.n, "offsets change nothing");
        require(ids.n == 0 || memcmp(plain.ids, ids.ids, ids.n * sizeof *ids.ids) == 0, "offsets change nothing");
    } else {
        require(e.code == LM_LIMIT, "only a limit stops an encoding");
    }
    lm_ids_free(&ids);
    lm_ids_free(&plain);
    lm_tokenizer_free(t);
}

struct reread {
    const struct lm_vocab *v;
    int (*read)(struct lmi_vocab *b, struct lm_span file, struct lm_err *e);
};

static inline int read_again(void *user, const char *name, struct lm_span data, struct lm_err *e)
{
    struct reread *r = user;
    struct lmi_vocab *b = lmi_vocab_new();

    require(b != NULL, "memory");
    bool model = strcmp(name, "tokenizer.model") == 0, config = strcmp(name, "tokenizer_config.json") == 0;
    if (!config && model == (r->read == lmi_spm_read)) {
        require(r->read(b, data, e) == 0 && lmi_vocab_finish(b, e) == 0, "what we write can be read");
        require(b->v.n_pieces <= r->v->n_pieces && b->v.n_merges == r->v->n_merges, "the same pieces");
        for (size_t i = 0; i < b->v.n_pieces; i++)
            require(lm_span_eq(b->v.pieces[i].text, r->v->pieces[i].text), "the same texts");
    }
    lm_vocab_free(&b->v);
    return 0;
}

/* Some vocabularies cannot be written (then there is a reason). */
static inline void write_and_read(const struct lm_vocab *v,
                                  int (*read)(struct lmi_vocab *b, struct lm_span file, struct lm_err *e))
{
    struct reread r = {v, read};
    struct lm_err e = {0};

    if (lm_vocab_to_files(v, read_again, &r, &e) < 0)
        require(e.code == LM_UNSUPPORTED, "a vocabulary that cannot be written is named so");
}
#endif
