/* What Qwen 3 and its mixtures share: everything in front of the feed-forward network. */
#ifndef LIBMODEL_ARCH_QWEN3_ROWS_H
#define LIBMODEL_ARCH_QWEN3_ROWS_H

#include "libmodel/arch/rows.h"

#define LMI_QWEN3_ATTENTION                                                                                            \
    LMI_VEC(ATTN_NORM, L "input_layernorm.weight", B "attn_norm.weight", MODEL),                                       \
    LMI_ATTENTION(LM_T_NONE, LM_T_NONE),                                                                               \
    LMI_QKV_BIAS(LM_T_NONE, LM_T_NONE, LM_ROW_OPTIONAL),                                                               \
    LMI_OUT_BIAS(LM_ROW_OPTIONAL),                                                                                     \
    LMI_QK_NORM(),                                                                                                     \
    LMI_VEC(FFN_NORM, L "post_attention_layernorm.weight", B "ffn_norm.weight", MODEL)

#endif
