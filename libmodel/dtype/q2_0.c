/* Q2_0: two bits an element in order, w = (q - 1) d. */
#include <assert.h>

#include "libmodel/dtype.h"
#include "libmodel/dtype/half.h"

struct block {
    uint8_t d[2]; /* f16 */
    uint8_t q[16];
};
static_assert(sizeof(struct block) == 18, "Q2_0 block");

static void to_f32(float *dst, const void *src, size_t n)
{
    const struct block *b = src;

    for (; n > 0; n -= 64, b++) {
        float d = lmi_f16_to_f32(lmi_load16(b->d));
        for (int j = 0; j < 64; j++)
            *dst++ = (float)((b->q[j / 4] >> (j % 4 * 2) & 3) - 1) * d;
    }
}

const struct lm_dtype_info lm_dtype_info_Q2_0 = {
    .name = "Q2_0",
    .kind = LM_KIND_QUANT,
    .block_elems = 64,
    .block_bytes = sizeof(struct block),
    .to_f32 = to_f32,
    .fields = {{offsetof(struct block, d), 2, 1}},
};
