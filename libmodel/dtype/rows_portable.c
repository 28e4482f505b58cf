/* Row kernels, four lanes: what every machine can do. */
#define LMI_LANES 4
#include "libmodel/dtype/dequant.h"
#include "libmodel/dtype/kquants.h"
#include "libmodel/dtype/legacy.h"
#include "libmodel/dtype/rows.h"

#define X(t) .t = {t##_to_f32, t##_from_f32},
const struct lmi_rows lmi_rows_portable = {.isa = "portable", LMI_ROWS(X)};
#undef X
