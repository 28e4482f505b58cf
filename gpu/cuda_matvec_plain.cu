/* Plain types times f32 tokens. */
#include "gpu/cuda_matvec.cuh"

int mv_plain_launch(struct lm_dev *d, enum lm_dtype t, mv_args &a, const char *what, struct lm_err *e)
{
    bool whole = a.cols % 8 == 0;

    switch (t) {
#define CASE(s)                                                                                                        \
    case LM_##s:                                                                                                       \
        return whole ? mv_launch<mv_plain_f32<LM_##s, true>>(d, a, what, e)                                            \
                     : mv_launch<mv_plain_f32<LM_##s, false>>(d, a, what, e);
        LMC_PLAIN_TYPES(CASE)
#undef CASE
    default: return lm_err_set(e, LM_UNSUPPORTED, "cuda: %s: no product for %s", what, lm_dtype_name(t));
    }
}
