/* A vocabulary as data: pieces, kinds, scores, merges and the flags that the
 * algorithm needs, read from whatever declares it. */
#ifndef LIBMODEL_VOCAB_H
#define LIBMODEL_VOCAB_H

#include "libmodel/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* SentencePiece's and GGUF's numbers. */
enum lm_piece_kind {
    LM_PIECE_NORMAL = 1, LM_PIECE_UNKNOWN, LM_PIECE_CONTROL, LM_PIECE_USER_DEFINED, LM_PIECE_UNUSED, LM_PIECE_BYTE
};
const char *lm_piece_kind_name(enum lm_piece_kind k);

struct lm_piece {
    struct lm_span text; /* as stored: U+2581 for a space (SentencePiece), GPT-2's byte letters (byte BPE); may hold NUL */
    float score;         /* SentencePiece log probability or -merge rank; 0 for byte BPE */
    enum lm_piece_kind kind;
    bool special;        /* added token flagged special, or CONTROL */
    bool in_model;       /* the algorithm may give it; false: it is only matched as an added token */
    bool added;          /* matched in raw text before anything else (tokenizer.json added_tokens) */
    bool lstrip, rstrip, single_word, normalized; /* of an added token */
};

enum lm_vocab_algo {
    LM_VOCAB_SPM_BPE,  /* SentencePiece BPE: scores, byte fallback */
    LM_VOCAB_BYTE_BPE, /* GPT-2 family: pre-tokenizer, byte letters, ranked merges */
    LM_VOCAB_UNIGRAM,  /* the split with the highest sum of scores: SentencePiece's default, T5, XLM-R */
    LM_VOCAB_WORDPIECE, /* BERT: the longest piece first, within a word */
    LM_VOCAB_WORDLEVEL, /* whole words */
    LM_VOCAB_SPM_WORD, /* SentencePiece's WORD models: whole words with their space */
    LM_VOCAB_SPM_CHAR, /* … and CHAR models */
    LM_VOCAB_GREEDY,   /* RWKV: the longest piece first, over the bytes of the whole text */
    LM_VOCAB_BPE       /* ranked merges of the characters of words, behind any stages of a tokenizer.json */
};

struct lm_merge {
    uint32_t left, right, result; /* piece ids; rank is the place in the list */
};

struct lm_vocab {
    enum lm_vocab_algo algo;
    size_t n_pieces;
    const struct lm_piece *pieces;
    size_t n_merges;
    const struct lm_merge *merges; /* byte BPE; of SPM_BPE only from tokenizer.json, and then they rule, not the scores */
    int64_t bos_id, eos_id, unk_id, pad_id; /* -1 none */
    bool add_bos, add_eos;       /* what the checkpoint asks for in front of / after a text */
    /* SentencePiece */
    bool add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces, byte_fallback;
    bool prefix_every_part;      /* the prefix also follows every special token (HF "legacy", llama.cpp) */
    bool fuse_unk;               /* neighbouring unknown characters give one unk_id */
    struct lm_span charsmap;     /* precompiled normalizer; empty = identity */
    /* byte BPE */
    const char *pre;             /* GGUF's name of the pre-tokenizer ("gpt-2", "llama-bpe", "qwen2"); "" when its
                                    pattern has none; never NULL */
    struct lm_span pre_pattern;  /* the regexes that split in turn, a NUL after each but the last; those of the name
                                    when a name is all that was declared */
    bool add_prefix_space;       /* a space goes in front of a text that does not begin with one */
    bool ignore_merges, nfc;
    /* WordPiece. A piece that continues a word is stored behind a prefix ("##"; GGUF's way of marking the others is
     * undone when it is read). Of a word of more characters than the limit nothing is known. */
    struct lm_span continuing_subword_prefix;
    struct lm_span end_of_word_suffix; /* BPE: behind the last character of a word ("</w>") */
    size_t max_input_chars_per_word;
    bool whitespace_as_suffix;    /* SentencePiece: the space goes behind a word, not in front */
    struct lm_span chat_template; /* empty if none */
    /* Ids in front of and behind a text where that is more than a BOS and an EOS; else n_* are 0. */
    const int32_t *prefix_ids, *suffix_ids;
    size_t n_prefix_ids, n_suffix_ids;
    /* tokenizer.json's stages as compact JSON; empty when null or from another source. */
    struct lm_span normalizer, pre_tokenizer, post_processor, decoder;
    const char *note;            /* what the source declares and we do not apply (truncation, padding, dropout), in
                                    words; "" if nothing */
    const char *source;          /* "tokenizer.model", "tokenizer.json", "vocab.json + merges.txt", "GGUF" */
};

/* From an open model (GGUF keys, or the files beside safetensors).
 * 1 found, 0 the model has no tokenizer, -1 it has one that is broken or of a
 * kind not handled (named). The vocabulary may outlive the model: all copied. */
int lm_vocab_of_model(struct lm_vocab **out, struct lm_model *m, struct lm_err *e);
/* From a path: a model as above, or a tokenizer file on its own
 * (tokenizer.model, tokenizer.json, vocab.json with merges.txt beside it), or a
 * directory with one. Never 0: a path without a tokenizer is an error. */
int lm_vocab_open(struct lm_vocab **out, const char *path, struct lm_err *e);
/* What a rank file (tiktoken's) leaves unsaid. Unused by other files. */
struct lm_vocab_options {
    const char *encoding; /* "gpt2", "r50k_base", "p50k_base", "cl100k_base", "o200k_base", "llama3", …; NULL: by file
                             name or number of ranks */
    const char *pattern;  /* a regex instead of the encoding's; NULL: that of the encoding */
};
int lm_vocab_open_with(struct lm_vocab **out, const char *path, const struct lm_vocab_options *options, struct lm_err *e);
void lm_vocab_free(struct lm_vocab *v);

/* The id of a piece by its stored bytes, or -1. O(1). */
int64_t lm_vocab_find(const struct lm_vocab *v, struct lm_span text);

/* Writes tokenizer.ggml.* keys (and tokenizer.chat_template). vocab_size of the
 * embedding: missing ids are padded as [PADn] UNUSED, as converters do. */
int lm_vocab_to_meta(struct lm_meta *m, const struct lm_vocab *v, uint64_t vocab_size, struct lm_err *e);
/* What GGUF's keys cannot say of this vocabulary ("that text is normalized to NFC
 * first; …"): ids may differ there. Writes at most size-1 bytes and a NUL,
 * returns the full length, 0 when they say it all. */
size_t lm_vocab_gguf_note(const struct lm_vocab *v, char *buf, size_t size);
/* Tokenizer files for a Hugging Face directory, made from the data alone:
 * tokenizer.model for SentencePiece, tokenizer.json for byte BPE, and
 * tokenizer_config.json. Called once a file; data is borrowed for the call. */
int lm_vocab_to_files(const struct lm_vocab *v,
                      int (*emit)(void *user, const char *name, struct lm_span data, struct lm_err *e), void *user,
                      struct lm_err *e);

/* Reversible escape of a piece for people: printable UTF-8 stays, backslash
 * becomes \\, every other byte \xNN. Writes at most size-1 bytes and a NUL,
 * returns the full length. lm_piece_unescape gives the bytes back (-1 malformed). */
size_t lm_piece_escape(struct lm_span text, char *buf, size_t size);
int64_t lm_piece_unescape(const char *text, uint8_t *buf, size_t size);

#ifdef __cplusplus
}
#endif
#endif
