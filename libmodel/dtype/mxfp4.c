/* MXFP4: E2M1 values under a power-of-two scale (OCP Microscaling 1.0), low
 * nibbles first. */
#include "libmodel/dtype.h"
#include "libmodel/dtype/blocks.h"
#include "libmodel/dtype/half.h"
#include "libmodel/dtype/minifloat.h"
#include "libmodel/dtype/rows.h"

static void to_f32(float *dst, const void *src, size_t n)
{
    const struct lmi_mxfp4 *b = src;

    for (; n > 0; n -= 32, b++) {
        float half_scale = ldexpf(1, b->e - 128);
        for (int j = 0; j < 32; j++)
            *dst++ = (float)lmi_e2m1_twice(b->qs[j % 16] >> (j / 16 * 4)) * half_scale;
    }
}

LMI_DISPATCH_ENCODER(mxfp4)

const struct lm_dtype_info lm_dtype_info_MXFP4 = {
    .name = "MXFP4",
    .kind = LM_KIND_QUANT,
    .block_elems = 32,
    .block_bytes = sizeof(struct lmi_mxfp4),
    .to_f32 = to_f32,
    .from_f32 = from_f32,
};
