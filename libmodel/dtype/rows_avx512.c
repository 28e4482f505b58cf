/* Row kernels, sixteen lanes. */
#if defined(__AVX512F__)
#define LMI_LANES 16
#include "libmodel/dtype/dequant.h"
#include "libmodel/dtype/iq.h"
#include "libmodel/dtype/kquants.h"
#include "libmodel/dtype/legacy.h"
#include "libmodel/dtype/lowbit.h"
#include "libmodel/dtype/nonlinear.h"
#include "libmodel/dtype/rows.h"
#include "libmodel/dtype/weighted.h"

#define X(t) .t = {t##_to_f32, t##_from_f32},
#define E(t) .t = t##_from_f32,
#define W(t) .t = t##_weighted,
const struct lmi_rows lmi_rows_avx512 = {
    .isa = "avx512", .iq = &lmi_iq_avx512, LMI_ROWS(X) .encode = {LMI_ENCODERS(E)}, .weighted = {LMI_WEIGHTED(W)}
};
#undef X
#undef E
#undef W
#endif
