/* IQ4_XS: IQ4_NL's levels in groups of 32 with 6-bit scales, w = d (s - 32) level. */
#include "libmodel/dtype.h"
#include "libmodel/dtype/blocks.h"
#include "libmodel/dtype/half.h"
#include "libmodel/dtype/iq4.h"
#include "libmodel/dtype/rows.h"

static void to_f32(float *dst, const void *src, size_t n)
{
    const struct lmi_iq4_xs *b = src;

    for (; n > 0; n -= 256, b++) {
        float d = lmi_f16_to_f32(lmi_load16(b->d));
        unsigned high = lmi_load16(b->scales_high);
        for (int g = 0; g < 8; g++) {
            int low = b->scales_low[g / 2] >> (g % 2 * 4) & 15;
            float dg = d * (float)((low | (int)(high >> 2 * g & 3) << 4) - 32);
            for (int j = 0; j < 32; j++)
                *dst++ = dg * (float)lmi_iq4_level(b->qs[16 * g + j % 16] >> (j / 16 * 4));
        }
    }
}

LMI_DISPATCH_ENCODER(iq4_xs)
LMI_DISPATCH_WEIGHTED(iq4_xs)

const struct lm_dtype_info lm_dtype_info_IQ4_XS = {
    .name = "IQ4_XS",
    .kind = LM_KIND_QUANT,
    .block_elems = 256,
    .block_bytes = sizeof(struct lmi_iq4_xs),
    .to_f32 = to_f32,
    .from_f32 = from_f32,
    .from_f32_weighted = from_f32_weighted,
    .fields = {{offsetof(struct lmi_iq4_xs, d), 2, 2}},
};
