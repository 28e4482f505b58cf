/* IQ1_M: indices into a codebook of lattice points.  Listed and sized. */
#include <assert.h>

#include "libmodel/dtype.h"

struct block {
    uint8_t q[32];
    uint8_t qh[16];
    uint8_t scales[4][2]; /* u16; their high nibbles are the block's f16 scale */
};
static_assert(sizeof(struct block) == 56, "IQ1_M block");

const struct lm_dtype_info lm_dtype_info_IQ1_M = {
    .name = "IQ1_M",
    .kind = LM_KIND_QUANT,
    .block_elems = 256,
    .block_bytes = sizeof(struct block),
    .fields = {{offsetof(struct block, scales), 2, 4}},
};
