/* Q8_K: 8-bit codes, w = q d.  ggml's form of activations beside K-quants; never
 * stored in files. */
#include <assert.h>

#include "libmodel/dtype.h"
#include "libmodel/dtype/half.h"
#include "libmodel/bytes.h"

struct block {
    uint8_t d[4]; /* f32 */
    int8_t q[256];
    uint8_t sums[16][2]; /* i16, of 16 codes each */
};
static_assert(sizeof(struct block) == 292, "Q8_K block");

static void to_f32(float *dst, const void *src, size_t n)
{
    const struct block *b = src;

    for (; n > 0; n -= 256, b++) {
        float d = lm_load_f32le(b->d);
        for (int j = 0; j < 256; j++)
            *dst++ = d * (float)b->q[j];
    }
}

const struct lm_dtype_info lm_dtype_info_Q8_K = {
    .name = "Q8_K",
    .kind = LM_KIND_QUANT,
    .block_elems = 256,
    .block_bytes = sizeof(struct block),
    .to_f32 = to_f32,
    .fields = {{offsetof(struct block, d), 4, 1}, {offsetof(struct block, sums), 2, 16}},
};
