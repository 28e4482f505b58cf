/* TQ2_0: ternary, four 2-bit planes as in Q2_K, w = (q - 1) d. */
#include <assert.h>

#include "libmodel/dtype.h"
#include "libmodel/dtype/half.h"

struct block {
    uint8_t q[64];
    uint8_t d[2]; /* f16 */
};
static_assert(sizeof(struct block) == 66, "TQ2_0 block");

static void to_f32(float *dst, const void *src, size_t n)
{
    const struct block *b = src;

    for (; n > 0; n -= 256, b++) {
        float d = lmi_f16_to_f32(lmi_load16(b->d));
        for (int j = 0; j < 256; j++)
            *dst++ = (float)((b->q[j / 128 * 32 + j % 32] >> (j / 32 % 4 * 2) & 3) - 1) * d;
    }
}

const struct lm_dtype_info lm_dtype_info_TQ2_0 = {
    .name = "TQ2_0",
    .kind = LM_KIND_QUANT,
    .block_elems = 256,
    .block_bytes = sizeof(struct block),
    .to_f32 = to_f32,
    .fields = {{offsetof(struct block, d), 2, 1}},
};
