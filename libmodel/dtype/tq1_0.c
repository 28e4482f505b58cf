/* TQ1_0: ternary, five digits a byte, w = (digit - 1) d.  A byte holds its digits
 * as a fraction of 256, so digit k is the overflow of byte * 3^k * 3. */
#include "libmodel/dtype.h"
#include "libmodel/dtype/blocks.h"
#include "libmodel/dtype/half.h"
#include "libmodel/dtype/rows.h"

static float *digits(float *dst, const uint8_t *q, int n_bytes, int n_digits, float d)
{
    static const uint8_t power[5] = {1, 3, 9, 27, 81};

    for (int k = 0; k < n_digits; k++)
        for (int i = 0; i < n_bytes; i++)
            *dst++ = (float)((uint8_t)(q[i] * power[k]) * 3 / 256 - 1) * d;
    return dst;
}

static void to_f32(float *dst, const void *src, size_t n)
{
    const struct lmi_tq1_0 *b = src;

    for (; n > 0; n -= 256, b++) {
        float d = lmi_f16_to_f32(lmi_load16(b->d));
        dst = digits(dst, b->qs, 32, 5, d);
        dst = digits(dst, b->qs + 32, 16, 5, d);
        dst = digits(dst, b->qh, 4, 4, d);
    }
}

LMI_DISPATCH_ENCODER(tq1_0)

const struct lm_dtype_info lm_dtype_info_TQ1_0 = {
    .name = "TQ1_0",
    .kind = LM_KIND_QUANT,
    .block_elems = 256,
    .block_bytes = sizeof(struct lmi_tq1_0),
    .to_f32 = to_f32,
    .from_f32 = from_f32,
    .fields = {{offsetof(struct lmi_tq1_0, d), 2, 1}},
};
