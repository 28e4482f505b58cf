/* Block types times f32 tokens. */
#include "gpu/cuda_matvec.cuh"

int mv_block_f32_launch(struct lm_dev *d, enum lm_dtype t, mv_args &a, const char *what, struct lm_err *e)
{
    switch (t) {
#define CASE(s) case LM_##s: return mv_launch<mv_block_f32<LM_##s>>(d, a, what, e);
        LMC_BLOCK_TYPES(CASE)
#undef CASE
    default: return lm_err_set(e, LM_UNSUPPORTED, "cuda: %s: no product for %s", what, lm_dtype_name(t));
    }
}
