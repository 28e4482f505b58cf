/* Gemma multiplies embeddings by the square root of the width, and norms by
 * 1 + weight: GGUF stores the sum. */
#ifndef LIBMODEL_ARCH_GEMMA_SCALE_H
#define LIBMODEL_ARCH_GEMMA_SCALE_H

#include <math.h>

#include "libmodel/arch/rows.h"

static inline void lmi_gemma_embed_scale(struct lm_config *c)
{
    c->embed_scale = sqrt((double)c->d_model);
}

/* GGUF has no key for query_pre_attn_scalar; llama.cpp knows the one size that
 * departs from the width of a head by its layers. */
static inline void lmi_gemma_attn_scale(struct lm_config *c, bool gguf, uint32_t layers_of_27b)
{
    if (c->attn_scale > 0)
        return;
    if (!gguf)
        c->attn_scale = 1 / 16.0;
    else if (c->n_layers == layers_of_27b && c->n_heads)
        c->attn_scale = 1 / sqrt((double)(c->d_model / c->n_heads));
}

/* What Gemma 2 began and Gemma 3 kept. */
static inline void lmi_gemma2_defaults(struct lm_config *c, size_t hf_class)
{
    (void)hf_class;
    c->d_head = 256;
    c->sliding_window = 4096;
}
#define LMI_GEMMA2_KEYS                                                                                                \
    {LM_KEY_INV_SQRT, LMI_AT(attn_scale), {"query_pre_attn_scalar"}, "attention.scale", false},                        \
    {LM_KEY_REAL, LMI_AT(attn_softcap), {"attn_logit_softcapping"}, "attn_logit_softcapping", true},                   \
    {LM_KEY_REAL, LMI_AT(final_softcap), {"final_logit_softcapping"}, "final_logit_softcapping", true}

#define LMI_PLUS_ONE .transform = LM_T_PLUS_ONE
#define LMI_SANDWICH                                                                                                   \
    LMI_VEC(ATTN_NORM, L "input_layernorm.weight", B "attn_norm.weight", MODEL, LMI_PLUS_ONE),                         \
    LMI_VEC(POST_ATTN_NORM, L "post_attention_layernorm.weight", B "post_attention_norm.weight", MODEL, LMI_PLUS_ONE), \
    LMI_VEC(FFN_NORM, L "pre_feedforward_layernorm.weight", B "ffn_norm.weight", MODEL, LMI_PLUS_ONE),                 \
    LMI_VEC(POST_FFN_NORM, L "post_feedforward_layernorm.weight", B "post_ffw_norm.weight", MODEL, LMI_PLUS_ONE)
#endif
