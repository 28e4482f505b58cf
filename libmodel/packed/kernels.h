/* Decoding loops, compiled once for every instruction set: plain C that
 * vectorises, with the same roundings everywhere (a subtraction and a product).
 * The file that includes this defines LMI_SET. */
#include <math.h>

#include "libmodel/bytes.h"
#include "libmodel/dtype/half.h"
#include "libmodel/packed/packed.h"

static inline uint64_t load_bits(const uint8_t *src, size_t n_bytes)
{
    uint64_t v = 0;

    for (size_t i = 0; i < n_bytes; i++)
        v |= (uint64_t)src[i] << 8 * i;
    return v;
}

static void codes4(float *dst, const uint8_t *src, size_t n)
{
    for (; n >= 8; n -= 8, dst += 8, src += 4) {
        uint32_t w = lmi_load16(src) | (uint32_t)lmi_load16(src + 2) << 16;
        for (unsigned j = 0; j < 8; j++)
            dst[j] = (float)(int)(w >> 4 * j & 15);
    }
}

static void codes(float *dst, const uint8_t *src, unsigned bits, size_t n)
{
    size_t tail = n % 8, whole = n - tail;
    float last[8];

    if (bits == 8) {
        for (size_t i = 0; i < n; i++)
            dst[i] = (float)src[i];
        return;
    }
    if (bits == 4)
        codes4(dst, src, whole);
    else
        for (size_t i = 0; i < whole; i += 8) {
            uint64_t v = load_bits(src + i / 8 * bits, bits);
            for (unsigned j = 0; j < 8; j++)
                dst[i + j] = (float)(int)(v >> bits * j & ((1u << bits) - 1));
        }
    if (tail == 0)
        return;
    uint64_t v = load_bits(src + whole / 8 * bits, (tail * bits + 7) / 8);
    for (unsigned j = 0; j < 8; j++)
        last[j] = (float)(int)(v >> bits * j & ((1u << bits) - 1));
    memcpy(dst + whole, last, tail * sizeof *last);
}

static void bytes(float *dst, const int8_t *src, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = (float)src[i];
}

static void affine(float *x, size_t n, float zero, float scale)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (x[i] - zero) * scale;
}

static void columns4(float *dst, size_t ld, const uint32_t *w, size_t n, const float *zero, const float *scale)
{
    for (size_t o = 0; o < n; o++, dst += ld, zero += 8, scale += 8) {
        uint32_t v = w[o];
        for (unsigned j = 0; j < 8; j++)
            dst[j] = ((float)(int)(v >> 4 * j & 15) - zero[j]) * scale[j];
    }
}

static void columns(float *dst, size_t ld, const uint32_t *w, const uint32_t *next, unsigned shift, unsigned bits,
                    size_t n, const float *zero, const float *scale)
{
    if (bits == 4) {
        columns4(dst, ld, w, n, zero, scale);
        return;
    }
    for (size_t o = 0; o < n; o++, dst += ld, zero += 8, scale += 8) {
        uint64_t v = ((uint64_t)next[o] << 32 | w[o]) >> shift;
        for (unsigned j = 0; j < 8; j++)
            dst[j] = ((float)(int)(v >> bits * j & ((1u << bits) - 1)) - zero[j]) * scale[j];
    }
}

/* Where output o of eight lies in a word. */
static const unsigned awq_place[8] = {0, 4, 1, 5, 2, 6, 3, 7};

static void nibbles(float *dst, size_t ld, const uint32_t *w, size_t n, size_t n_out, const float *zero,
                    const float *scale)
{
    uint32_t v[8] = {0};
    float x[8];

    memcpy(v, w, n * sizeof *w);
    for (size_t o = 0; o < n_out; o++, dst += ld) {
        unsigned at = 4 * awq_place[o];
        for (unsigned j = 0; j < 8; j++)
            x[j] = ((float)(int)(v[j] >> at & 15) - zero[o]) * scale[o];
        memcpy(dst, x, n * sizeof *x);
    }
}

/* The exponent is moved by a product, which is exact for subnormals too; 0x7f is not a number. */
static void e4m3(float *dst, const uint8_t *src, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t c = src[i], a = c & 0x7f;
        float v = lmi_float(a << 20) * 0x1p120f;
        uint32_t u = a == 0x7f ? 0x7fc00000 : lmi_bits(v);
        dst[i] = lmi_float(u | (c & 0x80) << 24) * scale;
    }
}

const struct lmi_unpack LMI_SET = {codes, bytes, affine, columns, nibbles, e4m3};
