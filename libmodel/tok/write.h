/* Writers of tokenizer files. Private to libmodel. */
#ifndef LIBMODEL_TOK_WRITE_H
#define LIBMODEL_TOK_WRITE_H

#include "libmodel/parse/protobuf.h"
#include "libmodel/tok/build.h"

void lmi_spm_write(struct lmi_buf *out, const struct lm_vocab *v);
int lmi_tokenizer_json_write(struct lmi_buf *out, const struct lm_vocab *v, struct lm_err *e);
int lmi_tokenizer_config_write(struct lmi_buf *out, const struct lm_vocab *v, struct lm_err *e);

#endif
