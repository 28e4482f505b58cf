#if defined(__AVX512F__)
#define LMI_SET lmi_unpack_avx512
#include "libmodel/packed/kernels.h"
#endif
