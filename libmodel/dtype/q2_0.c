/* Q2_0: two bits an element in order, w = (q - 1) d. */
#include "libmodel/dtype.h"
#include "libmodel/dtype/blocks.h"
#include "libmodel/dtype/half.h"
#include "libmodel/dtype/rows.h"

static void to_f32(float *dst, const void *src, size_t n)
{
    const struct lmi_q2_0 *b = src;

    for (; n > 0; n -= 64, b++) {
        float d = lmi_f16_to_f32(lmi_load16(b->d));
        for (int j = 0; j < 64; j++)
            *dst++ = (float)((b->qs[j / 4] >> (j % 4 * 2) & 3) - 1) * d;
    }
}

LMI_DISPATCH_ENCODER(q2_0)

const struct lm_dtype_info lm_dtype_info_Q2_0 = {
    .name = "Q2_0",
    .kind = LM_KIND_QUANT,
    .block_elems = 64,
    .block_bytes = sizeof(struct lmi_q2_0),
    .to_f32 = to_f32,
    .from_f32 = from_f32,
    .fields = {{offsetof(struct lmi_q2_0, d), 2, 1}},
};
