/* Engines: a model bound, its weights found, a backend chosen and opened. */
#include <stdio.h>
#include <stdlib.h>
#include "gpu/net.h"

static const struct lm_plugin *usable_cuda(int ordinal, struct lm_err *e)
{
    const struct lm_plugin *p = lmi_plugin_cuda(e);
    int n = p ? p->n_devices(e) : -1;

    if (n < 0)
        return NULL;
    if (ordinal >= n) {
        lm_err_set(e, LM_MISSING, "cuda:%d was asked for, but there %s %d CUDA device%s", ordinal, n == 1 ? "is" : "are",
                   n, n == 1 ? "" : "s");
        return NULL;
    }
    return p;
}

static int parse_device(const char *s, bool *automatic, int *ordinal, struct lm_err *e)
{
    char *end;
    long n;

    *automatic = !s || !strcmp(s, "auto");
    *ordinal = *automatic || !strcmp(s, "cuda") ? 0 : -1;
    if (*ordinal == 0 || !strcmp(s, "cpu"))
        return 0;
    if (!strncmp(s, "cuda:", 5) && s[5] >= '0' && s[5] <= '9') {
        n = strtol(s + 5, &end, 10);
        if (!*end && n < 1024) {
            *ordinal = (int)n;
            return 0;
        }
    }
    return lm_err_set(e, LM_USAGE, "no device is called %s: cpu, cuda, cuda:N or auto", s);
}

static int open_on(struct lm_engine *g, const struct lm_backend *b, const struct lm_engine_options *o, int ordinal,
                   struct lm_err *e)
{
    struct lm_backend_options bo = {o->math, o->n_threads, ordinal};

    g->backend = b;
    return b->open(&g->dev, &g->net, &bo, e);
}

/* "auto" is the CPU whenever CUDA is not to be had, for whatever reason. */
static int open_backend(struct lm_engine *g, const struct lm_engine_options *o, struct lm_err *e)
{
    struct lm_err ignored = {0};
    bool automatic;
    int ordinal;

    if (parse_device(o->device, &automatic, &ordinal, e))
        return -1;
    if (o->math == LM_MATH_F64 && (automatic || ordinal < 0))
        return open_on(g, &lm_backend_cpu_f64, o, 0, e);
    if (ordinal >= 0) {
        const struct lm_plugin *p = usable_cuda(ordinal, automatic ? &ignored : e);
        if (p && !open_on(g, p->backend, o, ordinal, automatic ? &ignored : e))
            return 0;
        if (!automatic)
            return -1;
    }
    return open_on(g, &lm_backend_cpu, o, 0, e);
}

int lm_engine_open(struct lm_engine **out, struct lm_model *m, const struct lm_engine_options *o, struct lm_err *e)
{
    static const struct lm_engine_options defaults;
    struct lm_engine *g = calloc(1, sizeof *g);

    if (!g)
        return lm_err_set(e, LM_NOMEM, "out of memory");
    o = o ? o : &defaults;
    g->model = m;
    if (lm_bind(&g->binding, m, e) || lmi_net_build(g, o->ctx_len, o->math, e) || open_backend(g, o, e)) {
        lm_engine_close(g);
        return -1;
    }
    *out = g;
    return 0;
}

void lm_engine_close(struct lm_engine *g)
{
    if (!g)
        return;
    if (g->dev)
        g->backend->close(g->dev);
    lm_binding_free(g->binding);
    lm_arena_free(&g->arena);
    free(g);
}

const struct lm_config *lm_engine_config(const struct lm_engine *g)
{
    return &g->net.config;
}

const struct lm_binding *lm_engine_binding(const struct lm_engine *g)
{
    return g->binding;
}

uint32_t lm_engine_ctx_len(const struct lm_engine *g)
{
    return g->net.ctx_len;
}

void lm_engine_describe(const struct lm_engine *g, char *buf, size_t size)
{
    g->backend->describe(g->dev, buf, size);
}

void lm_engine_devices(char *buf, size_t size)
{
    struct lm_err e = {0};
    const struct lm_plugin *p = lmi_plugin_cuda(&e);
    int n = p ? p->n_devices(&e) : -1;

    if (n < 0)
        snprintf(buf, size, "cpu\ncuda: %s\n", e.text);
    else
        snprintf(buf, size, "cpu\ncuda: %d device%s\n", n, n == 1 ? "" : "s");
}

int lm_engine_quantizer(const struct lm_quantizer **out, int *ordinal, const char *device, struct lm_err *e)
{
    const struct lm_plugin *p;
    bool automatic;

    *out = NULL;
    if (parse_device(device, &automatic, ordinal, e))
        return -1;
    if (*ordinal < 0)
        return 0;
    p = usable_cuda(*ordinal, e);
    *out = p ? p->quantizer : NULL;
    if (p && !p->quantizer)
        lm_err_set(e, LM_UNSUPPORTED, "this build's plugin has no quantizers: --device cpu");
    return *out || automatic ? 0 : -1;
}
