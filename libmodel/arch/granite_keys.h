/* The four multipliers of Granite. */
#ifndef LIBMODEL_ARCH_GRANITE_KEYS_H
#define LIBMODEL_ARCH_GRANITE_KEYS_H

#include "libmodel/arch/rows.h"

#define LMI_GRANITE_KEYS                                                                                               \
    {LM_KEY_REAL, LMI_AT(attn_scale), {"attention_multiplier"}, "attention.scale", false},                             \
    {LM_KEY_REAL, LMI_AT(embed_scale), {"embedding_multiplier"}, "embedding_scale", false},                            \
    {LM_KEY_REAL, LMI_AT(residual_scale), {"residual_multiplier"}, "residual_scale", false},                           \
    {LM_KEY_REAL, LMI_AT(logit_divisor), {"logits_scaling"}, "logit_scale", false}

static inline void lmi_granite_defaults(struct lm_config *c, size_t hf_class)
{
    (void)hf_class;
    c->attn_scale = c->embed_scale = c->residual_scale = c->logit_divisor = 1;
}
#endif
