/* Row kernels, eight lanes. */
#if defined(__AVX2__)
#define LMI_LANES 8
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
const struct lmi_rows lmi_rows_avx2 = {
    .isa = "avx2", .iq = &lmi_iq_avx2, LMI_ROWS(X) .encode = {LMI_ENCODERS(E)}, .weighted = {LMI_WEIGHTED(W)}
};
#undef X
#undef E
#undef W
#endif
