/* NVFP4: groups of 16 E2M1 values under unsigned E4M3 scales; within a group low
 * nibbles are elements 0-7, high ones 8-15.  The tensor's own scale is outside. */
#include "libmodel/dtype.h"
#include "libmodel/dtype/blocks.h"
#include "libmodel/dtype/half.h"
#include "libmodel/dtype/minifloat.h"
#include "libmodel/dtype/rows.h"

/* ggml reads the NaN 0x7f as 0 and ignores the sign bit. */
static float unsigned_e4m3(uint8_t code)
{
    const struct lmi_minifloat e4m3 = {8, 3, 7, LMI_FINITE};

    return code == 0x7f ? 0 : lmi_minifloat_decode(e4m3, code & 0x7f);
}

static void to_f32(float *dst, const void *src, size_t n)
{
    const struct lmi_nvfp4 *b = src;

    for (; n > 0; n -= 64, b++)
        for (int g = 0; g < 4; g++, dst += 16) {
            float half_scale = 0.5f * unsigned_e4m3(b->scale[g]);
            for (int j = 0; j < 8; j++) {
                dst[j] = (float)lmi_e2m1_twice(b->qs[8 * g + j]) * half_scale;
                dst[j + 8] = (float)lmi_e2m1_twice(b->qs[8 * g + j] >> 4) * half_scale;
            }
        }
}

LMI_DISPATCH_ENCODER(nvfp4)

const struct lm_dtype_info lm_dtype_info_NVFP4 = {
    .name = "NVFP4",
    .kind = LM_KIND_QUANT,
    .block_elems = 64,
    .block_bytes = sizeof(struct lmi_nvfp4),
    .to_f32 = to_f32,
    .from_f32 = from_f32,
};
