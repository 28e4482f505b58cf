/* F16: IEEE binary16. */
#include "libmodel/dtype.h"
#include "libmodel/dtype/half.h"
#include "libmodel/dtype/rows.h"

LMI_DISPATCH(f16)

const struct lm_dtype_info lm_dtype_info_F16 = {
    .name = "F16",
    .kind = LM_KIND_FLOAT,
    .block_elems = 1,
    .block_bytes = 2,
    .to_f32 = to_f32,
    .from_f32 = from_f32,
    .fields = {{0, 2, 1}},
};

float lm_f16_to_f32(uint16_t h)
{
    return lmi_f16_to_f32(h);
}

uint16_t lm_f32_to_f16(float f)
{
    return lmi_f32_to_f16(f);
}
