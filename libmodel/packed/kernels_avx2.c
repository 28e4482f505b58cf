#if defined(__AVX2__)
#define LMI_SET lmi_unpack_avx2
#include "libmodel/packed/kernels.h"
#endif
