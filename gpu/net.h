/* Private to the engine: the weights of a model as a backend wants them, and
 * the backends to be had. */
#ifndef GPU_NET_H
#define GPU_NET_H

#include "gpu/engine.h"

struct lm_engine {
    struct lm_model *model;
    struct lm_binding *binding;
    struct lm_net net;
    struct lm_arena arena;      /* what net points to */
    const struct lm_backend *backend;
    struct lm_dev *dev;
};

/* Fills g->net from g->binding for ctx_len positions (0: the engine's choice).
 * Weights stay where they are; vectors, biases and rotary tables go to the
 * arena. -1 names the tensor that cannot be computed with. */
int lmi_net_build(struct lm_engine *g, uint32_t ctx_len, enum lm_math math, struct lm_err *e);

/* The cuda plugin, opened at most once a process. NULL with LM_MISSING and
 * every path tried, or why what was found there is of no use. */
const struct lm_plugin *lmi_plugin_cuda(struct lm_err *e);

#endif
