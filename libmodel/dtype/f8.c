/* Eight-bit floats: OCP E4M3 ("fn") and E5M2, AMD's FNUZ variants, and E8M0,
 * the bare exponents that scale microscaling blocks.
 * Source: OCP 8-bit Floating Point Specification 1.0; torch's casts. */
#include "libmodel/dtype.h"
#include "libmodel/dtype/minifloat.h"

static const struct lmi_minifloat e4m3 = {8, 3, 7, LMI_FN};
static const struct lmi_minifloat e5m2 = {8, 2, 15, LMI_IEEE};
static const struct lmi_minifloat e4m3fnuz = {8, 3, 8, LMI_FNUZ};
static const struct lmi_minifloat e5m2fnuz = {8, 2, 16, LMI_FNUZ};

/* Long rows pay for a table of all values, short ones do not. */
static void decode(float *dst, const uint8_t *src, size_t n, struct lmi_minifloat s)
{
    float value[256];

    if (n < 256) {
        for (size_t i = 0; i < n; i++)
            dst[i] = lmi_minifloat_decode(s, src[i]);
        return;
    }
    for (unsigned c = 0; c < 256; c++)
        value[c] = lmi_minifloat_decode(s, c);
    for (size_t i = 0; i < n; i++)
        dst[i] = value[src[i]];
}

#define F8(NAME, spec) \
    static void spec##_to_f32(float *dst, const void *src, size_t n) \
    { \
        decode(dst, src, n, spec); \
    } \
    static void spec##_from_f32(void *dst, const float *src, size_t n) \
    { \
        uint8_t *p = dst; \
        for (size_t i = 0; i < n; i++) \
            p[i] = lmi_minifloat_encode(spec, src[i]); \
    } \
    const struct lm_dtype_info lm_dtype_info_##NAME = { \
        .name = #NAME, \
        .kind = LM_KIND_FLOAT, \
        .block_elems = 1, \
        .block_bytes = 1, \
        .to_f32 = spec##_to_f32, \
        .from_f32 = spec##_from_f32, \
        .fields = {{0, 1, 1}}, \
    };

F8(F8_E4M3, e4m3)
F8(F8_E5M2, e5m2)
F8(F8_E4M3FNUZ, e4m3fnuz)
F8(F8_E5M2FNUZ, e5m2fnuz)

static void e8m0_to_f32(float *dst, const void *src, size_t n)
{
    const uint8_t *p = src;

    for (size_t i = 0; i < n; i++)
        dst[i] = p[i] == 255 ? NAN : ldexpf(1, p[i] - 127);
}

const struct lm_dtype_info lm_dtype_info_F8_E8M0 = {
    .name = "F8_E8M0",
    .kind = LM_KIND_FLOAT,
    .block_elems = 1,
    .block_bytes = 1,
    .to_f32 = e8m0_to_f32,
    .fields = {{0, 1, 1}},
};
