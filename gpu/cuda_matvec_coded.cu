/* Types whose blocks stay in the file's form times f32 tokens. */
#include "gpu/cuda_matvec.cuh"

int mv_coded_launch(struct lm_dev *d, enum lm_dtype t, mv_args &a, const char *what, struct lm_err *e)
{
    switch (t) {
#define CASE(s) case LM_##s: return mv_launch<mv_coded_f32<LM_##s>>(d, a, what, e);
        LMC_CODED_TYPES(CASE)
#undef CASE
    default: return lm_err_set(e, LM_UNSUPPORTED, "cuda: %s: no product for %s", what, lm_dtype_name(t));
    }
}
