/* NVFP4: groups of 16 E2M1 values under unsigned E4M3 scales; within a group low
 * nibbles are elements 0-7, high ones 8-15.  The tensor's own scale is outside. */
#include <assert.h>

#include "libmodel/dtype.h"
#include "libmodel/dtype/half.h"
#include "libmodel/dtype/minifloat.h"

struct block {
    uint8_t scale[4];
    uint8_t q[32];
};
static_assert(sizeof(struct block) == 36, "NVFP4 block");

/* ggml reads the NaN 0x7f as 0 and ignores the sign bit. */
static float unsigned_e4m3(uint8_t code)
{
    const struct lmi_minifloat e4m3 = {8, 3, 7, LMI_FINITE};

    return code == 0x7f ? 0 : lmi_minifloat_decode(e4m3, code & 0x7f);
}

static void to_f32(float *dst, const void *src, size_t n)
{
    const struct block *b = src;

    for (; n > 0; n -= 64, b++) {
        for (int j = 0; j < 64; j++) {
            float half_scale = 0.5f * unsigned_e4m3(b->scale[j / 16]);
            *dst++ = (float)lmi_e2m1_twice(b->q[j / 16 * 8 + j % 8] >> (j / 8 % 2 * 4)) * half_scale;
        }
    }
}

const struct lm_dtype_info lm_dtype_info_NVFP4 = {
    .name = "NVFP4",
    .kind = LM_KIND_QUANT,
    .block_elems = 64,
    .block_bytes = sizeof(struct block),
    .to_f32 = to_f32,
};
