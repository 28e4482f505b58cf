/* Between the files that read and write hyper-parameters.  Private. */
#ifndef LIBMODEL_CONFIG_H
#define LIBMODEL_CONFIG_H

#include "libmodel/arch.h"

#define LMI_AT(field) offsetof(struct lm_config, field)

/* The keys of a configuration: the architecture's own, then the common ones
 * that it does not hide. i counts from 0; NULL past the end. */
const struct lm_config_key *lmi_config_key(const struct lm_arch *a, size_t i);
void lmi_config_defaults(struct lm_config *c, const struct lm_arch *a);
/* Fills what follows from the rest, checks all. gguf: the model the fields come from, or NULL. */
int lmi_config_finish(struct lm_config *c, const struct lm_model *gguf, struct lm_err *e);
/* Every n-th layer is full, the others windowed. */
int lmi_config_periodic(struct lm_config *c, uint32_t period, struct lm_err *e);
int lmi_config_mixed_limit(const struct lm_config *c, struct lm_err *e);
void lmi_config_set_full(struct lm_config *c, uint32_t layer);
double lmi_yarn_mscale(double factor, double m);
int lmi_scaling_find(const char *name, enum lm_rope_scaling *out);
static inline void *lmi_config_field(struct lm_config *c, const struct lm_config_key *k)
{
    return (char *)c + k->offset;
}

/* config_json.c: 1 read, 0 not an architecture of ours (*why), -1 wrong. arena: of the model. */
int lmi_config_from_json(struct lm_config *c, struct lm_span text, const char **why, struct lm_arena *arena,
                         struct lm_err *e);
#endif
