/* IQ3_XXS: indices into a codebook of lattice points.  Listed and sized. */
#include <assert.h>

#include "libmodel/dtype.h"

struct block {
    uint8_t d[2]; /* f16 */
    uint8_t q[64];
    uint8_t scales_signs[8][4]; /* u32 */
};
static_assert(sizeof(struct block) == 98, "IQ3_XXS block");

const struct lm_dtype_info lm_dtype_info_IQ3_XXS = {
    .name = "IQ3_XXS",
    .kind = LM_KIND_QUANT,
    .block_elems = 256,
    .block_bytes = sizeof(struct block),
    .fields = {{offsetof(struct block, d), 2, 1}, {offsetof(struct block, scales_signs), 4, 8}},
};
