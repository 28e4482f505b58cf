/* IQ kernels, four lanes. */
#define LMI_LANES 4
#include "libmodel/dtype/iq1.h"
#include "libmodel/dtype/iq23.h"
#include "libmodel/dtype/iq_decode.h"

#define X(t) .t = {t##_to_f32, t##_encode},
const struct lmi_iq_rows lmi_iq_portable = {LMI_IQ_ROWS(X)};
#undef X
