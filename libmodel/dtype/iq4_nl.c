/* IQ4_NL: 4-bit indices into a table of unevenly spaced levels, w = d level. */
#include "libmodel/dtype.h"
#include "libmodel/dtype/blocks.h"
#include "libmodel/dtype/half.h"
#include "libmodel/dtype/iq4.h"
#include "libmodel/dtype/rows.h"

static void to_f32(float *dst, const void *src, size_t n)
{
    const struct lmi_iq4_nl *b = src;

    for (; n > 0; n -= 32, b++) {
        float d = lmi_f16_to_f32(lmi_load16(b->d));
        for (int j = 0; j < 32; j++)
            *dst++ = d * (float)lmi_iq4_level(b->qs[j % 16] >> (j / 16 * 4));
    }
}

LMI_DISPATCH_ENCODER(iq4_nl)
LMI_DISPATCH_WEIGHTED(iq4_nl)

const struct lm_dtype_info lm_dtype_info_IQ4_NL = {
    .name = "IQ4_NL",
    .kind = LM_KIND_QUANT,
    .block_elems = 32,
    .block_bytes = sizeof(struct lmi_iq4_nl),
    .to_f32 = to_f32,
    .from_f32 = from_f32,
    .from_f32_weighted = from_f32_weighted,
    .fields = {{offsetof(struct lmi_iq4_nl, d), 2, 1}},
};
