/* Types whose block is one element of the machine's own kind. */
#include "libmodel/bytes.h"
#include "libmodel/dtype.h"
#include "libmodel/dtype/half.h"

static double load_f64(const uint8_t *p)
{
    uint64_t u = lm_load_u64le(p);
    double d;

    memcpy(&d, &u, 8);
    return d;
}

static void f64_from_f32(void *dst, const float *src, size_t n)
{
    uint8_t *p = dst;

    for (size_t i = 0; i < n; i++) {
        double d = src[i];
        uint64_t u;
        memcpy(&u, &d, 8);
        lm_store_u64le(p + 8 * i, u);
    }
}

static void f32_to_f32(float *dst, const void *src, size_t n)
{
    const uint8_t *p = src;

    if (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ && n > 0)
        memcpy(dst, src, n * sizeof *dst);
    else
        for (size_t i = 0; i < n; i++)
            dst[i] = lm_load_f32le(p + 4 * i);
}

static void f32_from_f32(void *dst, const float *src, size_t n)
{
    uint8_t *p = dst;

    if (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ && n > 0)
        memcpy(dst, src, n * sizeof *src);
    else
        for (size_t i = 0; i < n; i++)
            lm_store_u32le(p + 4 * i, lmi_bits(src[i]));
}

#define TO_F32(name, width, value) \
    static void name(float *dst, const void *src, size_t n) \
    { \
        const uint8_t *p = src; \
        for (size_t i = 0; i < n; i++, p += (width)) \
            dst[i] = (float)(value); \
    }

TO_F32(f64_to_f32, 8, load_f64(p))
TO_F32(i64_to_f32, 8, (int64_t)lm_load_u64le(p))
TO_F32(i32_to_f32, 4, (int32_t)lm_load_u32le(p))
TO_F32(i16_to_f32, 2, (int16_t)lm_load_u16le(p))
TO_F32(i8_to_f32, 1, (int8_t)*p)
TO_F32(u64_to_f32, 8, lm_load_u64le(p))
TO_F32(u32_to_f32, 4, lm_load_u32le(p))
TO_F32(u16_to_f32, 2, lm_load_u16le(p))
TO_F32(u8_to_f32, 1, *p)
TO_F32(bool_to_f32, 1, *p != 0)

/* Bytes of C64 are two floats, real and imaginary. */
#define PLAIN(NAME, Kind, width, n_fields, to, from) \
    const struct lm_dtype_info lm_dtype_info_##NAME = { \
        .name = #NAME, \
        .kind = LM_KIND_##Kind, \
        .block_elems = 1, \
        .block_bytes = (width) * (n_fields), \
        .to_f32 = to, \
        .from_f32 = from, \
        .fields = {{0, width, n_fields}}, \
    };

PLAIN(F64, FLOAT, 8, 1, f64_to_f32, f64_from_f32)
PLAIN(F32, FLOAT, 4, 1, f32_to_f32, f32_from_f32)
PLAIN(I64, INT, 8, 1, i64_to_f32, NULL)
PLAIN(I32, INT, 4, 1, i32_to_f32, NULL)
PLAIN(I16, INT, 2, 1, i16_to_f32, NULL)
PLAIN(I8, INT, 1, 1, i8_to_f32, NULL)
PLAIN(U64, INT, 8, 1, u64_to_f32, NULL)
PLAIN(U32, INT, 4, 1, u32_to_f32, NULL)
PLAIN(U16, INT, 2, 1, u16_to_f32, NULL)
PLAIN(U8, INT, 1, 1, u8_to_f32, NULL)
PLAIN(BOOL, BOOL, 1, 1, bool_to_f32, NULL)
PLAIN(C64, COMPLEX, 4, 2, NULL, NULL)
