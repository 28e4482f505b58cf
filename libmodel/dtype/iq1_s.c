/* IQ1_S: layout in iq.h, kernels in iq1.h and iq_decode.h. */
#include "libmodel/dtype.h"
#include "libmodel/dtype/iq.h"

LMI_IQ_DISPATCH(iq1_s)

const struct lm_dtype_info lm_dtype_info_IQ1_S = {
    .name = "IQ1_S",
    .kind = LM_KIND_QUANT,
    .block_elems = LMI_QK_K,
    .block_bytes = sizeof(struct lmi_iq1_s),
    .to_f32 = to_f32,
    .from_f32_weighted = from_f32_weighted,
    .needs_importance = true,
    .fields = {{offsetof(struct lmi_iq1_s, d), 2, 1}, {offsetof(struct lmi_iq1_s, qh), 2, 8}},
};
