/* F4: E2M1, two elements a byte, the even one in the low nibble. */
#include "libmodel/dtype.h"
#include "libmodel/dtype/minifloat.h"

static void to_f32(float *dst, const void *src, size_t n)
{
    const struct lmi_minifloat e2m1 = {4, 1, 1, LMI_FINITE};
    const uint8_t *p = src;

    for (size_t i = 0; i < n; i++)
        dst[i] = lmi_minifloat_decode(e2m1, p[i / 2] >> (i % 2 * 4) & 15);
}

const struct lm_dtype_info lm_dtype_info_F4 = {
    .name = "F4",
    .kind = LM_KIND_FLOAT,
    .block_elems = 2,
    .block_bytes = 1,
    .to_f32 = to_f32,
    .fields = {{0, 1, 1}},
};
