/* The sixteen levels of IQ4_NL and IQ4_XS. */
#ifndef LIBMODEL_DTYPE_IQ4_H
#define LIBMODEL_DTYPE_IQ4_H

static inline int lmi_iq4_level(int index)
{
    static const signed char level[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    return level[index & 15];
}

#endif
