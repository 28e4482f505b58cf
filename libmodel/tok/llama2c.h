/* The tokenizer file of llama2.c. Private to libmodel. */
#ifndef LIBMODEL_TOK_LLAMA2C_H
#define LIBMODEL_TOK_LLAMA2C_H

#include "libmodel/fmt/fmt.h"

/* Looks beside the model for tokenizer.bin, then tok<vocab_size>.bin, with
 * exactly vocab_size pieces, and puts it into the model's metadata as GGUF has
 * it. One that does not fit is not an error but named in "llama2c.tokenizer". */
int lmi_llama2c_tokenizer(struct lm_model *m, size_t vocab_size, struct lm_err *e);
#endif
