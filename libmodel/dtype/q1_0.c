/* Q1_0: one sign bit an element, w = d where the bit is set, else -d. */
#include "libmodel/dtype.h"
#include "libmodel/dtype/blocks.h"
#include "libmodel/dtype/half.h"
#include "libmodel/dtype/rows.h"

static void to_f32(float *dst, const void *src, size_t n)
{
    const struct lmi_q1_0 *b = src;

    for (; n > 0; n -= 128, b++) {
        float d = lmi_f16_to_f32(lmi_load16(b->d));
        for (int j = 0; j < 128; j++)
            *dst++ = b->qs[j / 8] >> j % 8 & 1 ? d : -d;
    }
}

LMI_DISPATCH_ENCODER(q1_0)

const struct lm_dtype_info lm_dtype_info_Q1_0 = {
    .name = "Q1_0",
    .kind = LM_KIND_QUANT,
    .block_elems = 128,
    .block_bytes = sizeof(struct lmi_q1_0),
    .to_f32 = to_f32,
    .from_f32 = from_f32,
    .fields = {{offsetof(struct lmi_q1_0, d), 2, 1}},
};
