/* Row kernels, sixteen lanes. */
#if defined(__AVX512F__)
#define LMI_LANES 16
#include "libmodel/dtype/dequant.h"
#include "libmodel/dtype/kquants.h"
#include "libmodel/dtype/legacy.h"
#include "libmodel/dtype/rows.h"

#define X(t) .t = {t##_to_f32, t##_from_f32},
const struct lmi_rows lmi_rows_avx512 = {.isa = "avx512", LMI_ROWS(X)};
#undef X
#endif
