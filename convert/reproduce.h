/* How a file was made, told by the file itself, and whether it comes out the
 * same again. */
#ifndef CONVERT_REPRODUCE_H
#define CONVERT_REPRODUCE_H

#include "convert/convert.h"

/* Metadata of a quantized output:
 *   libmodel.recipe.version       str   "0.1.0"
 *   libmodel.recipe.type          str   --type
 *   libmodel.recipe.rules         str   a recipe (convert.h), when the types are not those of the type's mix
 *   libmodel.recipe.leave_output, .allow_nan, .allow_unknown   bool, when true
 *   libmodel.recipe.source.files  names of the source's files; .source.bytes  u64, their sizes
 *   libmodel.recipe.source.sums   u64 a tensor, in the order of the output (of all files of a split set): what it was
 *                                 made of, as convert/source.h sums it; 0 not summed. Unless --no-source-sums
 * and libmodel.imatrix.sha256 of the importance files. */
struct lm_recorded {
    struct lm_request req;      /* what made the file, but for importance, which it only names by digests */
    struct lm_mix_options mix;  /* req.mix is it */
    struct lm_recipe *rules;
    char *name, *type;
};
/* made: a GGUF; must outlive nothing. LM_MISSING when it does not say how it was made. */
int lm_recorded_read(struct lm_recorded **out, const struct lm_model *made, struct lm_err *e);
void lm_recorded_free(struct lm_recorded *r);

/* Makes everything again and writes nothing: 0 the file holds the same bytes, 1
 * not (e says where: a tensor of the source that is another one first), -1 it
 * could not be done. made: one file. */
int lm_plan_compare(struct lm_plan *p, const struct lm_model *made, const struct lm_run_options *o, struct lm_err *e);

#endif
