/* IQ3_XXS: layout in iq.h, kernels in iq23.h and iq_decode.h. */
#include "libmodel/dtype.h"
#include "libmodel/dtype/iq.h"

LMI_IQ_DISPATCH(iq3_xxs)
LMI_IQ_DISPATCH_UNWEIGHTED(iq3_xxs)

const struct lm_dtype_info lm_dtype_info_IQ3_XXS = {
    .name = "IQ3_XXS",
    .kind = LM_KIND_QUANT,
    .block_elems = LMI_QK_K,
    .block_bytes = sizeof(struct lmi_iq3_xxs),
    .to_f32 = to_f32,
    .from_f32 = from_f32,
    .from_f32_weighted = from_f32_weighted,
    .fields = {{offsetof(struct lmi_iq3_xxs, d), 2, 1}, {offsetof(struct lmi_iq3_xxs, signs_scales), 4, 8}},
};
