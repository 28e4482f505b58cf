/* A vocabulary as the files that other programs read. */
#ifndef CONVERT_VOCAB_FILES_H
#define CONVERT_VOCAB_FILES_H

#include "libmodel/tokenizer.h"

/* By the name of path: NAME.tiktoken (ranks; byte-level BPE whose ids follow its
 * merges), NAME.txt (one piece a line), else a folder, made if need be, with
 * vocab.json, merges.txt, tokenizer_config.json and, if there are added tokens,
 * added_tokens.json.
 * Whole or not at all; replaces only with force. *what says what was written. */
int lm_vocab_write(const struct lm_vocab *v, const struct lm_tokenizer *t, const char *path, bool force, const char **what,
                   struct lm_err *e);

#endif
