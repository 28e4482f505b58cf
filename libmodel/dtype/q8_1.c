/* Q8_1: 8-bit codes with their sum, w = q d.  ggml's form of activations beside
 * Q4_1 and Q5_1; never stored in files. */
#include <assert.h>

#include "libmodel/dtype.h"
#include "libmodel/dtype/half.h"

struct block {
    uint8_t d[2]; /* f16 */
    uint8_t s[2]; /* f16: d * sum of q */
    int8_t q[32];
};
static_assert(sizeof(struct block) == 36, "Q8_1 block");

static void to_f32(float *dst, const void *src, size_t n)
{
    const struct block *b = src;

    for (; n > 0; n -= 32, b++) {
        float d = lmi_f16_to_f32(lmi_load16(b->d));
        for (int j = 0; j < 32; j++)
            *dst++ = (float)b->q[j] * d;
    }
}

const struct lm_dtype_info lm_dtype_info_Q8_1 = {
    .name = "Q8_1",
    .kind = LM_KIND_QUANT,
    .block_elems = 32,
    .block_bytes = sizeof(struct block),
    .to_f32 = to_f32,
    .fields = {{offsetof(struct block, d), 2, 2}},
};
