/* The quantizers' part of the plugin. */
#ifndef GPU_CUDA_QUANTIZER_CUH
#define GPU_CUDA_QUANTIZER_CUH

#include "libmodel/quantizer.h"

extern const struct lm_quantizer lmc_quantizer;

#endif
