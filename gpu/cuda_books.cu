/* The codebooks of IQ1, IQ2 and IQ3, as the library has them. */
#include "gpu/cuda_base.cuh"

extern "C" {
#include "libmodel/dtype/grid.h"
}

const uint16_t *lmc_codebook(enum lm_dtype t, size_t *n)
{
    switch (t) {
    case LM_IQ1_S:
    case LM_IQ1_M: *n = 2048; return lmi_iq1_points;
    case LM_IQ2_XXS: *n = 256; return lmi_iq2_xxs_points;
    case LM_IQ2_XS: *n = 512; return lmi_iq2_xs_points;
    case LM_IQ2_S: *n = 1024; return lmi_iq2_s_points;
    case LM_IQ3_XXS: *n = 256; return lmi_iq3_xxs_points;
    case LM_IQ3_S: *n = 512; return lmi_iq3_s_points;
    default: *n = 0; return nullptr;
    }
}
