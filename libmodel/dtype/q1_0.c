/* Q1_0: one sign bit an element, w = d where the bit is set, else -d. */
#include <assert.h>

#include "libmodel/dtype.h"
#include "libmodel/dtype/half.h"

struct block {
    uint8_t d[2]; /* f16 */
    uint8_t bits[16];
};
static_assert(sizeof(struct block) == 18, "Q1_0 block");

static void to_f32(float *dst, const void *src, size_t n)
{
    const struct block *b = src;

    for (; n > 0; n -= 128, b++) {
        float d = lmi_f16_to_f32(lmi_load16(b->d));
        for (int j = 0; j < 128; j++)
            *dst++ = b->bits[j / 8] >> j % 8 & 1 ? d : -d;
    }
}

const struct lm_dtype_info lm_dtype_info_Q1_0 = {
    .name = "Q1_0",
    .kind = LM_KIND_QUANT,
    .block_elems = 128,
    .block_bytes = sizeof(struct block),
    .to_f32 = to_f32,
    .fields = {{offsetof(struct block, d), 2, 1}},
};
