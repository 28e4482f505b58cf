/* Writers of tokenizer files. Private to libmodel. */
#ifndef LIBMODEL_TOK_WRITE_H
#define LIBMODEL_TOK_WRITE_H

#include "libmodel/parse/protobuf.h"
#include "libmodel/tok/build.h"

void lmi_spm_write(struct lmi_buf *out, const struct lm_vocab *v);
int lmi_tokenizer_json_write(struct lmi_buf *out, const struct lm_vocab *v, struct lm_err *e);
/* The parts of it for the kinds that are not BPE. */
enum lmi_stage { LMI_STAGE_NORMALIZER, LMI_STAGE_PRE_TOKENIZER, LMI_STAGE_DECODER };
json_t *lmi_word_model_json(const struct lm_vocab *v, struct lm_err *e);
json_t *lmi_word_stage_json(const struct lm_vocab *v, enum lmi_stage stage);
json_t *lmi_spm_decoder_json(const struct lm_vocab *v);
int lmi_fill_vocab(json_t *vocab, const struct lm_vocab *v, struct lm_err *e); /* {text: id} */
void lmi_rwkv_write(struct lmi_buf *out, const struct lm_vocab *v);
int lmi_tokenizer_config_write(struct lmi_buf *out, const struct lm_vocab *v, struct lm_err *e);

#endif
