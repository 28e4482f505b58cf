/* IQ2_S: layout in iq.h, kernels in iq23.h and iq_decode.h. */
#include "libmodel/dtype.h"
#include "libmodel/dtype/iq.h"

LMI_IQ_DISPATCH(iq2_s)
LMI_IQ_DISPATCH_UNWEIGHTED(iq2_s)

const struct lm_dtype_info lm_dtype_info_IQ2_S = {
    .name = "IQ2_S",
    .kind = LM_KIND_QUANT,
    .block_elems = LMI_QK_K,
    .block_bytes = sizeof(struct lmi_iq2_s),
    .to_f32 = to_f32,
    .from_f32 = from_f32,
    .from_f32_weighted = from_f32_weighted,
    .fields = {{offsetof(struct lmi_iq2_s, d), 2, 1}},
};
