/* Q5_1: layout in blocks.h, kernels in legacy.h, weighted.h and dequant.h. */
#include "libmodel/dtype.h"
#include "libmodel/dtype/blocks.h"
#include "libmodel/dtype/rows.h"

LMI_DISPATCH(q5_1)
LMI_DISPATCH_WEIGHTED(q5_1)

const struct lm_dtype_info lm_dtype_info_Q5_1 = {
    .name = "Q5_1",
    .kind = LM_KIND_QUANT,
    .block_elems = LMI_QK,
    .block_bytes = sizeof(struct lmi_q5_1),
    .to_f32 = to_f32,
    .from_f32 = from_f32,
    .from_f32_weighted = from_f32_weighted,
    .fields = {{offsetof(struct lmi_q5_1, d), 2, 2}, {offsetof(struct lmi_q5_1, qh), 4, 1}},
};
