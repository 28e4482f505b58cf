/* Floats of 8 bits or fewer, described by four numbers. */
#ifndef LIBMODEL_DTYPE_MINIFLOAT_H
#define LIBMODEL_DTYPE_MINIFLOAT_H

#include <math.h>
#include <stddef.h>

#include "libmodel/dtype/half.h"

enum lmi_specials {
    LMI_IEEE,  /* largest exponent: infinity and NaN */
    LMI_FN,    /* no infinity; NaN is all ones */
    LMI_FNUZ,  /* no infinity, no -0: that code is the only NaN */
    LMI_FINITE /* neither infinity nor NaN */
};

struct lmi_minifloat {
    int bits, man_bits, bias;
    enum lmi_specials specials;
};

static inline float lmi_minifloat_decode(struct lmi_minifloat s, unsigned code)
{
    unsigned sign = 1u << (s.bits - 1), a = code & (sign - 1);
    unsigned exponent = a >> s.man_bits, mantissa = a & ((1u << s.man_bits) - 1);
    float v;

    if (s.specials == LMI_FNUZ ? code == sign : s.specials == LMI_FN && a == sign - 1)
        return lmi_float(code & sign && s.specials == LMI_FN ? 0xffc00000 : 0x7fc00000);
    if (s.specials == LMI_IEEE && exponent == (sign - 1) >> s.man_bits)
        v = lmi_float(mantissa ? 0x7fc00000 : 0x7f800000);
    else if (exponent == 0)
        v = ldexpf((float)mantissa, 1 - s.bias - s.man_bits);
    else
        v = ldexpf((float)(mantissa + (1u << s.man_bits)), (int)exponent - s.bias - s.man_bits);
    return code & sign ? -v : v;
}

/* Round to nearest even.  What is then too large becomes infinity, where there
 * is one, else the largest value (FN, FINITE) or NaN (FNUZ), as torch's casts do. */
static inline uint8_t lmi_minifloat_encode(struct lmi_minifloat s, float f)
{
    unsigned sign_bit = 1u << (s.bits - 1), all_ones = sign_bit - 1;
    uint32_t u = lmi_bits(f), a = u & 0x7fffffff, code;
    unsigned sign = u >> 31 ? sign_bit : 0;
    unsigned nan = s.specials == LMI_FNUZ ? sign_bit : sign | all_ones;
    unsigned largest = all_ones - (s.specials == LMI_FN);

    if (s.specials == LMI_IEEE)
        largest = all_ones >> s.man_bits << s.man_bits; /* infinity */
    if (a > 0x7f800000)
        return (uint8_t)nan;
    if (a < (uint32_t)(128 - s.bias) << 23) {
        /* The sum's last bit is the smallest subnormal: the addition rounds. */
        uint32_t magic = (uint32_t)(127 + 24 - s.bias - s.man_bits) << 23;
        code = lmi_bits(lmi_float(a) + lmi_float(magic)) - magic;
    } else {
        int cut = 23 - s.man_bits;
        code = ((a + (1u << (cut - 1)) - 1 + (a >> cut & 1)) >> cut) - ((uint32_t)(127 - s.bias) << s.man_bits);
    }
    if (code > largest)
        return (uint8_t)(s.specials == LMI_FNUZ ? nan : sign | largest);
    return (uint8_t)(s.specials == LMI_FNUZ && code == 0 ? 0 : sign | code);
}

/* E2M1, doubled: what MXFP4 and NVFP4 store in a nibble. */
static inline int lmi_e2m1_twice(int code)
{
    static const int8_t twice[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    return twice[code & 15];
}

#endif
