/* IQ3_S: layout in iq.h, kernels in iq23.h and iq_decode.h. */
#include "libmodel/dtype.h"
#include "libmodel/dtype/iq.h"

LMI_IQ_DISPATCH(iq3_s)
LMI_IQ_DISPATCH_UNWEIGHTED(iq3_s)

const struct lm_dtype_info lm_dtype_info_IQ3_S = {
    .name = "IQ3_S",
    .kind = LM_KIND_QUANT,
    .block_elems = LMI_QK_K,
    .block_bytes = sizeof(struct lmi_iq3_s),
    .to_f32 = to_f32,
    .from_f32 = from_f32,
    .from_f32_weighted = from_f32_weighted,
    .fields = {{offsetof(struct lmi_iq3_s, d), 2, 1}},
};
