/* IQ4_NL: 4-bit indices into a table of unevenly spaced levels, w = d level. */
#include <assert.h>

#include "libmodel/dtype.h"
#include "libmodel/dtype/half.h"
#include "libmodel/dtype/iq4.h"

struct block {
    uint8_t d[2]; /* f16 */
    uint8_t q[16]; /* low nibbles: elements 0-15, high: 16-31 */
};
static_assert(sizeof(struct block) == 18, "IQ4_NL block");

static void to_f32(float *dst, const void *src, size_t n)
{
    const struct block *b = src;

    for (; n > 0; n -= 32, b++) {
        float d = lmi_f16_to_f32(lmi_load16(b->d));
        for (int j = 0; j < 32; j++)
            *dst++ = d * (float)lmi_iq4_level(b->q[j % 16] >> (j / 16 * 4));
    }
}

const struct lm_dtype_info lm_dtype_info_IQ4_NL = {
    .name = "IQ4_NL",
    .kind = LM_KIND_QUANT,
    .block_elems = 32,
    .block_bytes = sizeof(struct block),
    .to_f32 = to_f32,
    .fields = {{offsetof(struct block, d), 2, 1}},
};
