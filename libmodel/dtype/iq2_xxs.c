/* IQ2_XXS: indices into a codebook of lattice points.  Listed and sized. */
#include <assert.h>

#include "libmodel/dtype.h"

struct block {
    uint8_t d[2]; /* f16 */
    uint8_t q[32][2]; /* u16 */
};
static_assert(sizeof(struct block) == 66, "IQ2_XXS block");

const struct lm_dtype_info lm_dtype_info_IQ2_XXS = {
    .name = "IQ2_XXS",
    .kind = LM_KIND_QUANT,
    .block_elems = 256,
    .block_bytes = sizeof(struct block),
    .fields = {{offsetof(struct block, d), 2, 33}},
};
