/* 16-bit floats, one value at a time: exact, round to nearest even, NaN keeps
 * its sign and high payload bits and becomes quiet (as x86's F16C does).
 * Branch-free where possible, so that loops over them are vectorised. */
#ifndef LIBMODEL_DTYPE_HALF_H
#define LIBMODEL_DTYPE_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t lmi_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static inline float lmi_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* Little-endian 16 bits.  (bytes.h assembles bytes, which compilers do not turn
 * into vector loads.) */
static inline uint16_t lmi_load16(const void *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? h : __builtin_bswap16(h);
}

static inline void lmi_store16(void *p, uint16_t h)
{
    if (__BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__)
        h = __builtin_bswap16(h);
    memcpy(p, &h, 2);
}

static inline uint64_t lmi_load64(const void *p)
{
    uint64_t u;
    memcpy(&u, p, 8);
    return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? u : __builtin_bswap64(u);
}

static inline void lmi_store64(void *p, uint64_t u)
{
    if (__BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__)
        u = __builtin_bswap64(u);
    memcpy(p, &u, 8);
}

static inline float lmi_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t a = h & 0x7fff;
    uint32_t normal = (a << 13) + 0x38000000;
    uint32_t special = (a << 13) + 0x70000000 + (a > 0x7c00 && a < 0x7e00 ? 0x400000 : 0);
    uint32_t subnormal = lmi_bits((float)(int32_t)a * 0x1p-24f);
    return lmi_float(sign | (a >= 0x7c00 ? special : a >= 0x400 ? normal : subnormal));
}

static inline uint16_t lmi_f32_to_f16(float f)
{
    uint32_t u = lmi_bits(f);
    uint32_t a = u & 0x7fffffff;
    /* 0.5's ulp is 2^-24, the f16 subnormals' unit: the sum rounds for us. */
    uint32_t subnormal = lmi_bits(lmi_float(a < 0x38800000 ? a : 0) + 0.5f) - 0x3f000000;
    uint32_t normal = (a - 0x38000000 + 0xfff + (a >> 13 & 1)) >> 13;
    uint32_t nan = 0x7e00 | (a >> 13 & 0x3ff);
    uint32_t r = a < 0x38800000 ? subnormal : a < 0x47800000 ? normal : a <= 0x7f800000 ? 0x7c00 : nan;
    return (uint16_t)((u >> 16 & 0x8000) | r);
}

static inline float lmi_bf16_to_f32(uint16_t h)
{
    return lmi_float((uint32_t)h << 16);
}

static inline uint16_t lmi_f32_to_bf16(float f)
{
    uint32_t u = lmi_bits(f);
    uint32_t rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16;
    return (uint16_t)((u & 0x7fffffff) > 0x7f800000 ? (u >> 16) | 0x40 : rounded);
}

#endif
