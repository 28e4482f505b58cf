/* Metadata, as GGUF has it, of containers that hold a Llama without saying so
 * in Hugging Face's way. Private to libmodel. */
#ifndef LIBMODEL_FMT_LLAMA_KEYS_H
#define LIBMODEL_FMT_LLAMA_KEYS_H

#include "libmodel/fmt/fmt.h"

struct lmi_llama_keys {
    uint32_t layers, dim, hidden, heads, kv_heads, d_head, vocab, ctx;
    uint32_t experts, experts_used; /* 0: no mixture */
    double norm_eps, rope_theta;
    const char *assumed; /* which of these the file does not say, "" or NULL: none */
};
/* general.architecture and llama.*, and LM_META_ASSUMED where something is: from then on the model's tensors have GGUF's names. */
int lmi_put_llama_keys(struct lm_model *m, const struct lmi_llama_keys *k, struct lm_err *e);
#endif
