/* Vocabularies that are lists of byte strings in the order of their merging
 * (tiktoken's, Mistral's tekken): two neighbours are merged when together they
 * are a string of the list, the one of the smallest rank first. Private to
 * libmodel. */
#ifndef LIBMODEL_TOK_RANKS_H
#define LIBMODEL_TOK_RANKS_H

#include "libmodel/tok/build.h"

struct lmi_ranks {
    struct lmi_rank {
        struct lm_span bytes;
        uint64_t rank;
    } *list;
    size_t n, capacity;
};
void lmi_ranks_free(struct lmi_ranks *r);
int lmi_ranks_put(struct lmi_ranks *r, struct lm_span bytes, uint64_t rank, struct lm_err *e);
/* Pieces (rank r has the id first + r), and as merges all ways to put a piece
 * together of two others. The vocabulary is indexed then. */
int lmi_ranks_to_vocab(struct lmi_vocab *b, const struct lmi_ranks *r, size_t first, struct lm_err *e);
/* Only the merges, of pieces that are there. */
int lmi_ranks_merges(struct lmi_vocab *b, const struct lmi_ranks *r, size_t first, struct lm_err *e);
/* The bytes that a piece's letters stand for, in the arena. */
int lmi_piece_bytes(struct lm_arena *a, struct lm_span text, struct lm_span *out, struct lm_err *e);
/* A control token of the rank file's encoding. */
int lmi_ranks_special(struct lmi_vocab *b, size_t id, struct lm_span text, struct lm_err *e);

/* Does it begin like a tiktoken file: "base64 rank"? */
bool lmi_is_tiktoken(struct lm_span file);
/* name: of the file, for the encoding; files: what lies beside it. */
int lmi_tiktoken_read(struct lmi_vocab *b, struct lm_span file, const char *name, const struct lm_vocab_options *options,
                      struct lmi_files files, struct lm_err *e);
int lmi_tekken_read(struct lmi_vocab *b, struct lm_span file, struct lm_err *e);

/* As the regex that splits words; sets v.pre to a GGUF name if it has one. */
int lmi_ranks_pattern(struct lmi_vocab *b, struct lm_span regex, struct lm_err *e);

#endif
