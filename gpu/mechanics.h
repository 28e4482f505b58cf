/* What every backend on the host computes the same way: which experts a token
 * goes to, biases by distance.  In double. */
#ifndef GPU_MECHANICS_H
#define GPU_MECHANICS_H

#include "gpu/backend.h"

/* Fills chosen[n_experts_used] and their weights from the router's logits
 * [n_experts]; correction [n_experts] or NULL takes part in the choice only.
 * Best first, of equals the lower number. scratch [3 n_experts]. */
void lmi_route(const struct lm_config *c, const double *logits, const double *correction, uint32_t *chosen,
               double *weights, double *scratch);
/* ALiBi as transformers has it for Falcon: slope times position, rounded to bf16, before the scale of attention. */
double lmi_alibi(uint32_t n_heads, uint32_t head, size_t pos);
/* Where head h of q, k or v lies in a row of the fused product. */
size_t lmi_q_in_row(const struct lm_net *net, size_t h);
size_t lmi_k_in_row(const struct lm_net *net, size_t h);
size_t lmi_v_in_row(const struct lm_net *net, size_t h);

#endif
