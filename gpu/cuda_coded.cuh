/* Storage types whose blocks stay as they are in the file, because their codes
 * are positions in a codebook (IQ1, IQ2, IQ3), digits of a number (TQ1_0) or of a
 * shape of their own.  A unit of 32 elements is decoded at a time, equal to
 * lm_dtype's to_f32; p.codes holds the blocks, p.two the type's codebook. */
#ifndef GPU_CUDA_CODED_CUH
#define GPU_CUDA_CODED_CUH

#include "gpu/cuda_blocks.cuh"

#define LMC_CODED_TYPES(X)                                                                                             \
    X(IQ1_S) X(IQ1_M) X(IQ2_XXS) X(IQ2_XS) X(IQ2_S) X(IQ3_XXS) X(IQ3_S) X(TQ1_0) X(Q1_0) X(Q2_0) X(Q8_1) X(Q8_K) X(F4)

/* units: of 32 elements in a block; F4 is taken 16 bytes at a time. */
template <int D> struct lmc_coded;
#define CODED(d, u, b)                                                                                                 \
    template <> struct lmc_coded<LM_##d> {                                                                             \
        static constexpr int units = u, bytes = b;                                                                     \
    };
CODED(IQ1_S, 8, 50)
CODED(IQ1_M, 8, 56)
CODED(IQ2_XXS, 8, 66)
CODED(IQ2_XS, 8, 74)
CODED(IQ2_S, 8, 82)
CODED(IQ3_XXS, 8, 98)
CODED(IQ3_S, 8, 110)
CODED(TQ1_0, 8, 54)
CODED(Q1_0, 4, 18)
CODED(Q2_0, 2, 18)
CODED(Q8_1, 1, 36)
CODED(Q8_K, 8, 292)
CODED(F4, 1, 16)
#undef CODED

/* Bytes anywhere. */
LMC_HD uint32_t lmc_at2(const uint8_t *p)
{
    return lmc_ld1(p) | lmc_ld1(p + 1) << 8;
}
LMC_HD uint32_t lmc_at4(const uint8_t *p)
{
    return lmc_at2(p) | lmc_at2(p + 2) << 16;
}
LMC_HD uint32_t lmc_point(const uint8_t *book, uint32_t i)
{
    return lmc_ld2(book + 2 * i);
}

/* Eight elements of a point of three levels, worth v[level] d; bit i of signs: minus. */
LMC_HD void lmc_put8(float *y, uint32_t point, float v0, float v1, float v2, float d, uint32_t signs)
{
    float a = lmc_mul(v0, d), b = lmc_mul(v1, d), c = lmc_mul(v2, d);
    for (int i = 0; i < 8; i++) {
        uint32_t level = point >> 2 * i & 3;
        float v = level == 0 ? a : level == 1 ? b : c;
        y[i] = lmc_bits_f32(lmc_f32_bits(v) ^ (signs >> i & 1) << 31);
    }
}

/* Four elements of a point of eight levels: step * level + first, but for the last of IQ3_XXS. */
LMC_HD void lmc_put4(float *y, uint32_t point, int step, int first, int last, float d, uint32_t signs)
{
    for (int i = 0; i < 4; i++) {
        int level = (int)(point >> 3 * i & 7);
        float v = lmc_mul((float)(level == 7 ? last : step * level + first), d);
        y[i] = lmc_bits_f32(lmc_f32_bits(v) ^ (signs >> i & 1) << 31);
    }
}

/* Seven signs and the one that makes their number even. */
LMC_HD uint32_t lmc_signs(uint32_t seven)
{
    uint32_t x = seven ^ seven >> 4;
    x ^= x >> 2;
    x ^= x >> 1;
    return seven | (x & 1) << 7;
}

LMC_HD float lmc_iq2_scale(float d, uint32_t nibble)
{
    return lmc_mul(lmc_mul(d, 0.5f + (float)nibble), 0.25f);
}

LMC_HD void lmc_iq1_put(float *y, uint32_t point, bool down, float d)
{
    if (down)
        lmc_put8(y, point, -1.125f, -0.125f, 0.875f, d, 0);
    else
        lmc_put8(y, point, -0.875f, 0.125f, 1.125f, d, 0);
}

template <int D> LMC_HD void lmc_iq1(float *y, const uint8_t *book, const uint8_t *b, int g)
{
    if (D == LM_IQ1_S) {
        uint32_t qh = lmc_at2(b + 34 + 2 * g);
        float d = lmc_mul(lmc_f16(lmc_at2(b)), (float)(2 * (qh >> 12 & 7) + 1));
        for (int k = 0; k < 4; k++)
            lmc_iq1_put(y + 8 * k, lmc_point(book, lmc_ld1(b + 2 + 4 * g + k) | (qh >> 3 * k & 7) << 8), qh >> 15, d);
        return;
    }
    uint32_t d16 = 0;
    for (int k = 0; k < 4; k++)
        d16 |= (lmc_ld1(b + 48 + 2 * k + 1) >> 4) << 4 * k;
    for (int k = 0; k < 4; k++) {
        int half = 2 * g + k / 2; /* which 16 elements */
        uint32_t qh = lmc_ld1(b + 32 + half) >> 4 * (k % 2), scale = lmc_at2(b + 48 + half / 4 * 2) >> 3 * (half % 4) & 7;
        float d = lmc_mul(lmc_f16(d16), (float)(2 * scale + 1));
        lmc_iq1_put(y + 8 * k, lmc_point(book, lmc_ld1(b + 4 * g + k) | (qh & 7) << 8), qh >> 3 & 1, d);
    }
}

template <int D> LMC_HD void lmc_iq2(float *y, const uint8_t *book, const uint8_t *b, int g)
{
    float d = lmc_f16(lmc_at2(b));

    for (int k = 0; k < 4; k++) {
        uint32_t at, signs;
        float dg;
        if (D == LM_IQ2_XXS) {
            uint32_t word = lmc_at4(b + 2 + 8 * g + 4);
            at = lmc_ld1(b + 2 + 8 * g + k);
            signs = lmc_signs(word >> 7 * k & 127);
            dg = lmc_iq2_scale(d, word >> 28);
        } else if (D == LM_IQ2_XS) {
            uint32_t q = lmc_at2(b + 2 + 8 * g + 2 * k);
            at = q & 511;
            signs = lmc_signs(q >> 9);
            dg = lmc_iq2_scale(d, lmc_ld1(b + 66 + g) >> k / 2 * 4 & 15);
        } else {
            at = lmc_ld1(b + 2 + 4 * g + k) | (lmc_ld1(b + 66 + g) >> 2 * k & 3) << 8;
            signs = lmc_ld1(b + 34 + 4 * g + k);
            dg = lmc_iq2_scale(d, lmc_ld1(b + 74 + g) >> k / 2 * 4 & 15);
        }
        lmc_put8(y + 8 * k, lmc_point(book, at), 8, 25, 43, dg, signs);
    }
}

template <int D> LMC_HD void lmc_iq3(float *y, const uint8_t *book, const uint8_t *b, int g)
{
    float d = lmc_f16(lmc_at2(b));

    for (int k = 0; k < 8; k++) {
        uint32_t q = lmc_ld1(b + 2 + 8 * g + k);
        if (D == LM_IQ3_XXS) {
            uint32_t word = lmc_at4(b + 66 + 4 * g), signs = lmc_signs(word >> 7 * (k / 2) & 127);
            float dg = lmc_mul(lmc_mul(d, 0.5f + (float)(word >> 28)), 0.5f);
            lmc_put4(y + 4 * k, lmc_point(book, q), 8, 4, 62, dg, signs >> 4 * (k % 2));
        } else {
            uint32_t at = q | (lmc_ld1(b + 66 + g) >> k & 1) << 8, signs = lmc_ld1(b + 74 + 4 * g + k / 2);
            float dg = lmc_mul(d, (float)(1 + 2 * (lmc_ld1(b + 106 + g / 2) >> 4 * (g % 2) & 15)));
            lmc_put4(y + 4 * k, lmc_point(book, at), 2, 1, 15, dg, signs >> 4 * (k % 2));
        }
    }
}

/* Digit n (0 first) of a byte that holds five as a fraction of 256. */
LMC_HD int lmc_digit(uint32_t byte, int n)
{
    uint32_t power = n == 0 ? 1 : n == 1 ? 3 : n == 2 ? 9 : n == 3 ? 27 : 81;
    return (int)((byte * power & 255) * 3 >> 8);
}

LMC_HD float lmc_tq1(const uint8_t *b, int i, float d)
{
    uint32_t byte = i < 160 ? lmc_ld1(b + i % 32) : i < 240 ? lmc_ld1(b + 32 + (i - 160) % 16) : lmc_ld1(b + 48 + i % 4);
    int n = i < 160 ? i / 32 : i < 240 ? (i - 160) / 16 : (i - 240) / 4;
    return lmc_mul((float)(lmc_digit(byte, n) - 1), d);
}

/* The 32 values of unit `sub` of a block. */
template <int D> LMC_HD void lmc_coded_unit(float *y, const uint8_t *book, const uint8_t *b, int sub)
{
    if (D == LM_IQ1_S || D == LM_IQ1_M) {
        lmc_iq1<D>(y, book, b, sub);
    } else if (D == LM_IQ2_XXS || D == LM_IQ2_XS || D == LM_IQ2_S) {
        lmc_iq2<D>(y, book, b, sub);
    } else if (D == LM_IQ3_XXS || D == LM_IQ3_S) {
        lmc_iq3<D>(y, book, b, sub);
    } else {
        float d = D == LM_Q8_K ? lmc_bits_f32(lmc_at4(b)) : D == LM_F4 ? 0.5f : lmc_f16(lmc_at2(b + (D == LM_TQ1_0 ? 52 : 0)));
        for (int i = 0; i < 32; i++) {
            if (D == LM_TQ1_0)
                y[i] = lmc_tq1(b, 32 * sub + i, d);
            else if (D == LM_Q1_0)
                y[i] = lmc_ld1(b + 2 + 4 * sub + i / 8) >> i % 8 & 1 ? d : -d;
            else if (D == LM_Q2_0)
                y[i] = lmc_mul((float)((int)(lmc_ld1(b + 2 + 8 * sub + i / 4) >> i % 4 * 2 & 3) - 1), d);
            else if (D == LM_F4) { /* its -0 is kept */
                uint32_t code = lmc_ld1(b + i / 2) >> i % 2 * 4;
                float v = lmc_mul((float)lmc_e2m1_twice(code & 7), d);
                y[i] = lmc_bits_f32(lmc_f32_bits(v) | (code & 8) << 28);
            }
            else
                y[i] = lmc_mul((float)(int8_t)lmc_ld1(b + 4 + 32 * sub + i), d);
        }
    }
}

/* The 32 values of unit u of a matrix. */
template <int D> LMC_HD void lmc_coded_f32(float *y, const lmc_planes &p, size_t u)
{
    const uint8_t *b = p.codes + u / lmc_coded<D>::units * lmc_coded<D>::bytes;
    lmc_coded_unit<D>(y, p.two, b, (int)(u & (lmc_coded<D>::units - 1)));
}

#endif
