/* IQ3_S: indices into a codebook of lattice points.  Listed and sized. */
#include <assert.h>

#include "libmodel/dtype.h"

struct block {
    uint8_t d[2]; /* f16 */
    uint8_t q[64];
    uint8_t qh[8];
    uint8_t signs[32];
    uint8_t scales[4];
};
static_assert(sizeof(struct block) == 110, "IQ3_S block");

const struct lm_dtype_info lm_dtype_info_IQ3_S = {
    .name = "IQ3_S",
    .kind = LM_KIND_QUANT,
    .block_elems = 256,
    .block_bytes = sizeof(struct block),
    .fields = {{offsetof(struct block, d), 2, 1}},
};
