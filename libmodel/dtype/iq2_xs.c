/* IQ2_XS: layout in iq.h, kernels in iq23.h and iq_decode.h. */
#include "libmodel/dtype.h"
#include "libmodel/dtype/iq.h"

LMI_IQ_DISPATCH(iq2_xs)

const struct lm_dtype_info lm_dtype_info_IQ2_XS = {
    .name = "IQ2_XS",
    .kind = LM_KIND_QUANT,
    .block_elems = LMI_QK_K,
    .block_bytes = sizeof(struct lmi_iq2_xs),
    .to_f32 = to_f32,
    .from_f32_weighted = from_f32_weighted,
    .needs_importance = true,
    .fields = {{offsetof(struct lmi_iq2_xs, d), 2, 33}},
};
