/* Weights as the several tensors that inference servers store a quantized one
 * as: the inverse of what lm_model_open does with them.  The tensors are
 * computed when they are read, from the weight's values, to nearest. */
#ifndef LIBMODEL_PACK_H
#define LIBMODEL_PACK_H

#include "libmodel/model.h"

#ifdef __cplusplus
extern "C" {
#endif

enum lm_pack_codes { LM_PACK_FP8, LM_PACK_INT8, LM_PACK_INT4 };
enum lm_pack_scales {
    LM_PACK_ROW,    /* one a row */
    LM_PACK_TENSOR, /* one */
    LM_PACK_BLOCK,  /* one for 128 x 128 */
    LM_PACK_GROUP   /* one for `group` elements of a row */
};

struct lm_pack_type {
    const char *name;   /* "FP8_BLOCK" */
    const char *method; /* quantization_config: quant_method "fp8" or "compressed-tensors" */
    const char *format; /* compressed-tensors: "float-quantized", … */
    enum lm_pack_codes codes;
    enum lm_pack_scales scales;
};
const struct lm_pack_type *lm_pack_find(const char *name); /* any case; NULL unknown */
const struct lm_pack_type *lm_pack_at(size_t i);           /* NULL past the end */

#define LM_PACK_PARTS 3
/* The tensors of weight w [out, in] (named X.weight): *n of them into out,
 * allocated in a, which must live as long as they and w do. group: of
 * LM_PACK_GROUP, divides in. scale: type of the scales, F32, BF16 or F16.
 * LM_PACK_TENSOR and LM_PACK_BLOCK read the weight now. */
int lm_tensor_pack(struct lm_arena *a, const struct lm_tensor *w, const struct lm_pack_type *type, uint32_t group,
                   enum lm_dtype scale, struct lm_tensor out[LM_PACK_PARTS], size_t *n, struct lm_err *e);
/* Has reading a part met a value of the weight that is not finite? */
bool lm_tensor_pack_failed(const struct lm_tensor *part);

#ifdef __cplusplus
}
#endif
#endif
