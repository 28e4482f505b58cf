/* Scalars of every storage type on the device, as functions that a host compiler
 * can run too: loads, conversions, and the values of plain types. */
#ifndef GPU_CUDA_SCALAR_CUH
#define GPU_CUDA_SCALAR_CUH

#include <stdint.h>
#include <string.h>

#include "libmodel/dtype.h"

#ifdef __CUDACC__
#include <cuda_fp16.h>
#define LMC_HD __host__ __device__ __forceinline__
#else
#define LMC_HD inline
#endif

#define LMC_PLAIN_TYPES(X)                                                                                             \
    X(F32) X(F16) X(BF16) X(F64) X(F8_E4M3) X(F8_E5M2) X(F8_E8M0) X(F8_E4M3FNUZ) X(F8_E5M2FNUZ)

/* ---- loads of any width; the device's read-only path needs aligned addresses */

struct lmc_u4 { uint32_t x, y, z, w; };

LMC_HD lmc_u4 lmc_ld16(const uint8_t *p)
{
    lmc_u4 r;
#ifdef __CUDA_ARCH__
    uint4 v = __ldg((const uint4 *)p);
    r.x = v.x, r.y = v.y, r.z = v.z, r.w = v.w;
#else
    memcpy(&r, p, 16);
#endif
    return r;
}
LMC_HD void lmc_ld8(uint32_t *a, uint32_t *b, const uint8_t *p)
{
#ifdef __CUDA_ARCH__
    uint2 v = __ldg((const uint2 *)p);
    *a = v.x, *b = v.y;
#else
    memcpy(a, p, 4);
    memcpy(b, p + 4, 4);
#endif
}
LMC_HD uint32_t lmc_ld4(const uint8_t *p)
{
#ifdef __CUDA_ARCH__
    return __ldg((const unsigned *)p);
#else
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
#endif
}
LMC_HD uint32_t lmc_ld1(const uint8_t *p)
{
#ifdef __CUDA_ARCH__
    return __ldg(p);
#else
    return *p;
#endif
}
LMC_HD uint32_t lmc_ld2(const uint8_t *p)
{
#ifdef __CUDA_ARCH__
    return __ldg((const unsigned short *)p);
#else
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
#endif
}

/* ---- scalars. Products and sums are never contracted, so that a decoded
 * weight equals lm_dtype's to_f32 bit for bit. */

LMC_HD float lmc_bits_f32(uint32_t u)
{
#ifdef __CUDA_ARCH__
    return __uint_as_float(u);
#else
    float f;
    memcpy(&f, &u, 4);
    return f;
#endif
}
LMC_HD uint32_t lmc_f32_bits(float f)
{
#ifdef __CUDA_ARCH__
    return __float_as_uint(f);
#else
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
#endif
}
LMC_HD float lmc_mul(float a, float b)
{
#ifdef __CUDA_ARCH__
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}
LMC_HD float lmc_add(float a, float b)
{
#ifdef __CUDA_ARCH__
    return __fadd_rn(a, b);
#else
    return a + b;
#endif
}
LMC_HD float lmc_fma(float a, float b, float c)
{
#ifdef __CUDA_ARCH__
    return __fmaf_rn(a, b, c);
#else
    return __builtin_fmaf(a, b, c);
#endif
}

LMC_HD float lmc_f16(uint32_t h)
{
#ifdef __CUDA_ARCH__
    return __half2float(__ushort_as_half((unsigned short)h));
#else
    uint32_t mag = (h & 0x7fff) << 13, sign = (h & 0x8000) << 16;
    if (mag >= 0x0f800000) /* infinity, NaN */
        return lmc_bits_f32(sign | (mag + 0x70000000) | (mag > 0x0f800000 ? 0x400000 : 0));
    return lmc_bits_f32(sign | lmc_f32_bits(lmc_bits_f32(mag) * 0x1p112f));
#endif
}
LMC_HD float lmc_bf16(uint32_t h)
{
    return lmc_bits_f32(h << 16);
}
/* Round to nearest even; NaN stays a quiet NaN. */
LMC_HD uint16_t lmc_to_bf16(float f)
{
    uint32_t u = lmc_f32_bits(f);
    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
LMC_HD float lmc_f8_e4m3(uint32_t b)
{
    uint32_t mag = (b & 0x7f) << 20, sign = (b & 0x80) << 24;
    if ((b & 0x7f) == 0x7f)
        return lmc_bits_f32(sign | 0x7fc00000);
    return lmc_bits_f32(sign | lmc_f32_bits(lmc_mul(lmc_bits_f32(mag), 0x1p120f)));
}
LMC_HD float lmc_f8_e5m2(uint32_t b)
{
    return lmc_f16(b << 8);
}
/* AMD's: no infinity, the code of -0 is the NaN; one more than the usual bias. */
LMC_HD float lmc_f8_fnuz(uint32_t b, int mantissa, float unit)
{
    uint32_t mag = (b & 0x7f) << (23 - mantissa), sign = (b & 0x80) << 24;
    if (b == 0x80)
        return lmc_bits_f32(0x7fc00000);
    return lmc_bits_f32(sign | lmc_f32_bits(lmc_mul(lmc_bits_f32(mag), unit)));
}
LMC_HD float lmc_f8_e4m3fnuz(uint32_t b)
{
    return lmc_f8_fnuz(b, 3, 0x1p119f);
}
LMC_HD float lmc_f8_e5m2fnuz(uint32_t b)
{
    return lmc_f8_fnuz(b, 2, 0x1p111f);
}
/* 2^(e - 127), which is subnormal for e = 0. */
LMC_HD float lmc_f8_e8m0(uint32_t e)
{
    return lmc_bits_f32(e == 255 ? 0x7fc00000 : e ? e << 23 : 0x00400000);
}
/* E2M1, doubled: a nibble of MXFP4 and NVFP4. */
LMC_HD int lmc_e2m1_twice(uint32_t code)
{
    int mag = (int)(0xc8643210u >> 4 * (code & 7) & 15);
    return code & 8 ? -mag : mag;
}

/* ---- plain types */

template <int D> struct lmc_plain;
template <> struct lmc_plain<LM_F32> { static constexpr int bytes = 4; };
template <> struct lmc_plain<LM_F16> { static constexpr int bytes = 2; };
template <> struct lmc_plain<LM_BF16> { static constexpr int bytes = 2; };
template <> struct lmc_plain<LM_F64> { static constexpr int bytes = 8; };
template <> struct lmc_plain<LM_F8_E4M3> { static constexpr int bytes = 1; };
template <> struct lmc_plain<LM_F8_E5M2> { static constexpr int bytes = 1; };
template <> struct lmc_plain<LM_F8_E8M0> { static constexpr int bytes = 1; };
template <> struct lmc_plain<LM_F8_E4M3FNUZ> { static constexpr int bytes = 1; };
template <> struct lmc_plain<LM_F8_E5M2FNUZ> { static constexpr int bytes = 1; };

/* A byte of an 8-bit type. */
template <int D> LMC_HD float lmc_f8(uint32_t b)
{
    switch (D) {
    case LM_F8_E4M3: return lmc_f8_e4m3(b);
    case LM_F8_E5M2: return lmc_f8_e5m2(b);
    case LM_F8_E8M0: return lmc_f8_e8m0(b);
    case LM_F8_E4M3FNUZ: return lmc_f8_e4m3fnuz(b);
    default: return lmc_f8_e5m2fnuz(b);
    }
}

LMC_HD double lmc_f64(const uint8_t *p)
{
    double d;
#ifdef __CUDA_ARCH__
    d = __ldg((const double *)p);
#else
    memcpy(&d, p, 8);
#endif
    return d;
}

template <int D> LMC_HD float lmc_elem(const uint8_t *data, size_t i)
{
    const uint8_t *p = data + i * lmc_plain<D>::bytes;

    if (D == LM_F32)
        return lmc_bits_f32(lmc_ld4(p));
    if (D == LM_F16)
        return lmc_f16(lmc_ld2(p));
    if (D == LM_BF16)
        return lmc_bf16(lmc_ld2(p));
    if (D == LM_F64)
        return (float)lmc_f64(p);
    return lmc_f8<D>(lmc_ld1(p));
}

#endif
