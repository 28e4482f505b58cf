/* Row kernels, eight lanes. */
#if defined(__AVX2__)
#define LMI_LANES 8
#include "libmodel/dtype/dequant.h"
#include "libmodel/dtype/kquants.h"
#include "libmodel/dtype/legacy.h"
#include "libmodel/dtype/rows.h"

#define X(t) .t = {t##_to_f32, t##_from_f32},
const struct lmi_rows lmi_rows_avx2 = {.isa = "avx2", LMI_ROWS(X)};
#undef X
#endif
