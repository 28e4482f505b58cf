#define LMI_SET lmi_unpack_portable
#include "libmodel/packed/kernels.h"
