/* Q6_K: layout in blocks.h, kernels in kquants.h, weighted.h and dequant.h. */
#include "libmodel/dtype.h"
#include "libmodel/dtype/blocks.h"
#include "libmodel/dtype/rows.h"

LMI_DISPATCH(q6_k)
LMI_DISPATCH_WEIGHTED(q6_k)

const struct lm_dtype_info lm_dtype_info_Q6_K = {
    .name = "Q6_K",
    .kind = LM_KIND_QUANT,
    .block_elems = LMI_QK_K,
    .block_bytes = sizeof(struct lmi_q6_k),
    .to_f32 = to_f32,
    .from_f32 = from_f32,
    .from_f32_weighted = from_f32_weighted,
    .fields = {{offsetof(struct lmi_q6_k, d), 2, 1}},
};
