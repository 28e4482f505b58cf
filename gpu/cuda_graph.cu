/* One token at a time: hundreds of small kernels, whose launches would take as
 * long as they do.  Operations on one token wait in a list until something looks
 * at a result; a list that asks for the same as the last one is recorded as a
 * CUDA graph and from then on launched as a whole.  Kernels read the position
 * and the token's id from the device, so one graph serves many tokens; attention
 * has launches for a run of positions, after which it is recorded anew. */
#include "gpu/cuda_device.cuh"

#include <stdlib.h>

enum { RUN = 1024 /* positions of a graph: BUCKET x SPLIT of cuda_attend_exact.cu */ };

struct lmc_graph {
    struct lmc_op *ops, *last; /* those that wait; those before them */
    uint32_t *pos;             /* of each */
    size_t n, cap, n_last;
    uint32_t run_last;
    int32_t id;
    int32_t *dev_id;
    bool off;                  /* this model cannot be recorded */
    cudaGraphExec_t exec;      /* of `last` */
    size_t epoch;              /* scratch that it was recorded with */
};

void lmc_graph_close(struct lm_dev *d)
{
    struct lmc_graph *g = d->graph;

    if (!g)
        return;
    if (g->exec)
        cudaGraphExecDestroy(g->exec);
    free(g->ops);
    free(g->last);
    free(g->pos);
    free(g);
    d->graph = nullptr;
}

/* cuBLAS, layers that come and go, and experts that the host must sort are not recorded. */
static bool can_record(const struct lm_dev *d)
{
    if (d->f64 || lmc_n_streamed(d))
        return false;
    for (uint32_t i = 0; i < d->net->config.n_layers; i++)
        for (int role = LMC_E_GATE; role <= LMC_E_DOWN; role++)
            if (d->many[i][role].n && !lmc_can_choose(d, &d->many[i][role]))
                return false;
    return true;
}

static int open_graph(struct lm_dev *d, struct lm_err *e)
{
    struct lmc_graph *g = (struct lmc_graph *)calloc(1, sizeof *g);
    size_t cap = 4 * (size_t)d->net->config.n_layers + 2;

    d->graph = g;
    if (!g || !(g->ops = (struct lmc_op *)calloc(cap, sizeof *g->ops)) ||
        !(g->last = (struct lmc_op *)calloc(cap, sizeof *g->last)) || !(g->pos = (uint32_t *)calloc(cap, sizeof *g->pos)))
        return lm_err_set(e, LM_NOMEM, "cuda: out of memory");
    g->cap = cap;
    g->off = !can_record(d);
    g->dev_id = (int32_t *)lmc_own(d, sizeof *g->dev_id, "token id", e);
    return g->dev_id ? 0 : -1;
}

int lmc_defer(struct lm_dev *d, const struct lmc_op *op, uint32_t pos, int32_t id, struct lm_err *e)
{
    if (!d->graph && open_graph(d, e) != 0)
        return -1;
    struct lmc_graph *g = d->graph;
    if ((g->n == g->cap || op->kind == LMC_OP_EMBED) && lmc_flush(d, e) != 0)
        return -1;
    if (op->kind == LMC_OP_EMBED)
        g->id = id;
    g->ops[g->n] = *op;
    g->pos[g->n++] = pos;
    return 0;
}

/* A whole token at one position? (Logits have none.) */
static bool is_token(const struct lmc_graph *g)
{
    if (g->off || g->ops[0].kind != LMC_OP_EMBED || g->n < 2)
        return false;
    for (size_t i = 1; i < g->n; i++)
        if (g->ops[i].kind != LMC_OP_LOGITS && g->ops[i].kind != LMC_OP_PROJECT && g->ops[i].kind != LMC_OP_FFN &&
            g->pos[i] != g->pos[0])
            return false;
    return true;
}

static bool like_last(const struct lmc_graph *g)
{
    if (g->n != g->n_last || g->pos[0] / RUN != g->run_last)
        return false;
    for (size_t i = 0; i < g->n; i++) {
        const struct lmc_op *a = &g->ops[i], *b = &g->last[i];
        if (a->kind != b->kind || a->layer != b->layer || a->x != b->x || a->q != b->q || a->kv != b->kv || a->n != b->n ||
            a->first != b->first || a->add_pos != b->add_pos)
            return false;
    }
    return true;
}

/* recorded: positions from the device. */
static int run_ops(struct lm_dev *d, bool recorded, struct lm_err *e)
{
    const struct lmc_graph *g = d->graph;

    for (size_t i = 0; i < g->n; i++) {
        struct lmc_pos pos = {g->pos[i], recorded ? d->place : nullptr};
        if (lmc_run_op(d, &g->ops[i], pos, g->dev_id, e) != 0)
            return -1;
    }
    return 0;
}

static int record(struct lm_dev *d, struct lm_err *e)
{
    struct lmc_graph *g = d->graph;
    cudaGraph_t graph = nullptr;

    LMC_TRY(cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal), "recording a token");
    int rc = run_ops(d, true, e);
    cudaError_t r = cudaStreamEndCapture(d->stream, &graph);
    if (rc == 0 && r == cudaSuccess)
        r = cudaGraphInstantiate(&g->exec, graph, 0);
    if (graph)
        cudaGraphDestroy(graph);
    if (rc == 0 && r != cudaSuccess)
        rc = lmc_failed(e, r, "cudaGraphInstantiate", "recording a token");
    g->epoch = d->epoch;
    return rc;
}

static void remember(struct lm_dev *d)
{
    struct lmc_graph *g = d->graph;

    if (g->exec)
        cudaGraphExecDestroy(g->exec);
    g->exec = nullptr;
    memcpy(g->last, g->ops, g->n * sizeof *g->ops);
    g->n_last = g->n;
    g->run_last = g->pos[0] / RUN;
}

/* The first of its kind runs as it is, so that scratch has its size when the next is recorded. */
static int run_token(struct lm_dev *d, struct lm_err *e)
{
    struct lmc_graph *g = d->graph;
    bool known = like_last(g);

    if (!known || (g->exec && g->epoch != d->epoch)) {
        remember(d);
        return run_ops(d, false, e);
    }
    LMC_TRY(cudaMemcpyAsync(d->place, &g->pos[0], sizeof *d->place, cudaMemcpyHostToDevice, d->stream), "position");
    if (!g->exec && record(d, e) != 0)
        return -1;
    LMC_TRY(cudaGraphLaunch(g->exec, d->stream), "a recorded token");
    return 0;
}

int lmc_flush(struct lm_dev *d, struct lm_err *e)
{
    struct lmc_graph *g = d->graph;

    if (!g || g->n == 0)
        return 0;
    LMC_TRY(cudaSetDevice(d->ordinal), "running operations");
    if (g->ops[0].kind == LMC_OP_EMBED)
        LMC_TRY(cudaMemcpyAsync(g->dev_id, &g->id, sizeof g->id, cudaMemcpyHostToDevice, d->stream), "token id");
    int rc = is_token(g) ? run_token(d, e) : run_ops(d, false, e);
    g->n = 0;
    return rc;
}
