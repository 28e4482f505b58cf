/* TQ2_0: ternary, four 2-bit planes as in Q2_K, w = (q - 1) d. */
#include "libmodel/dtype.h"
#include "libmodel/dtype/blocks.h"
#include "libmodel/dtype/half.h"
#include "libmodel/dtype/rows.h"

static void to_f32(float *dst, const void *src, size_t n)
{
    const struct lmi_tq2_0 *b = src;

    for (; n > 0; n -= 256, b++) {
        float d = lmi_f16_to_f32(lmi_load16(b->d));
        for (int plane = 0; plane < 8; plane++, dst += 32)
            for (int j = 0; j < 32; j++)
                dst[j] = (float)((b->qs[plane / 4 * 32 + j] >> (plane % 4 * 2) & 3) - 1) * d;
    }
}

LMI_DISPATCH_ENCODER(tq2_0)

const struct lm_dtype_info lm_dtype_info_TQ2_0 = {
    .name = "TQ2_0",
    .kind = LM_KIND_QUANT,
    .block_elems = 256,
    .block_bytes = sizeof(struct lmi_tq2_0),
    .to_f32 = to_f32,
    .from_f32 = from_f32,
    .fields = {{offsetof(struct lmi_tq2_0, d), 2, 1}},
};
