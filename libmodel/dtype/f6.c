/* F6_E2M3 and F6_E3M2: four elements in three bytes.  safetensors names them
 * without saying how the bits are packed, so they are sized and no more. */
#include "libmodel/dtype.h"

#define F6(NAME) \
    const struct lm_dtype_info lm_dtype_info_##NAME = { \
        .name = #NAME, .kind = LM_KIND_FLOAT, .block_elems = 4, .block_bytes = 3, .fields = {{0, 1, 3}}}

F6(F6_E2M3);
F6(F6_E3M2);
