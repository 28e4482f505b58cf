/* IQ1_M: layout in iq.h, kernels in iq1.h and iq_decode.h. */
#include "libmodel/dtype.h"
#include "libmodel/dtype/iq.h"

LMI_IQ_DISPATCH(iq1_m)
LMI_IQ_DISPATCH_UNWEIGHTED(iq1_m)

const struct lm_dtype_info lm_dtype_info_IQ1_M = {
    .name = "IQ1_M",
    .kind = LM_KIND_QUANT,
    .block_elems = LMI_QK_K,
    .block_bytes = sizeof(struct lmi_iq1_m),
    .to_f32 = to_f32,
    .from_f32 = from_f32,
    .from_f32_weighted = from_f32_weighted,
    .fields = {{offsetof(struct lmi_iq1_m, scales), 2, 4}},
};
