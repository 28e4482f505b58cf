/* Where layers lie.  Those that fit stay; the others pass through two places by
 * turns: while one computes, the next is on its way over a second stream, its
 * lines read into pinned memory by the host in the meantime.  Which place is a
 * layer's never changes, so addresses of weights are fixed. */
#include "gpu/cuda_base.cuh"

#include <stdlib.h>

struct lmc_stream {
    uint8_t *place[2];
    int holds[2];             /* layer, or -1 */
    cudaEvent_t full[2], done[2]; /* its weights are there; its last kernel has run */
    cudaStream_t copies;
    struct lmc_ring *ring;
    uint8_t **kept;           /* [n_layers], NULL from n_kept on */
    uint32_t n_kept, n_layers;
};

static int slot_of(const struct lmc_stream *s, uint32_t layer)
{
    return (int)((layer - s->n_kept) & 1);
}

uint8_t *lmc_stream_place(const struct lm_dev *d, uint32_t layer)
{
    const struct lmc_stream *s = d->streamed;
    return layer < s->n_kept ? s->kept[layer] : s->place[slot_of(s, layer)];
}

uint32_t lmc_n_streamed(const struct lm_dev *d)
{
    return d->streamed ? d->streamed->n_layers - d->streamed->n_kept : 0;
}

static int open_places(struct lm_dev *d, struct lmc_stream *s, const size_t *homes, size_t ring, struct lm_err *e)
{
    size_t largest = 0;

    for (uint32_t i = s->n_kept; i < s->n_layers; i++)
        largest = homes[i] > largest ? homes[i] : largest;
    for (uint32_t i = 0; i < 2 && i < s->n_layers - s->n_kept; i++) {
        if (!(s->place[i] = (uint8_t *)lmc_own(d, largest, "place for a layer", e)))
            return -1;
        LMC_TRY(cudaEventCreateWithFlags(&s->full[i], cudaEventDisableTiming), "place for a layer");
        LMC_TRY(cudaEventCreateWithFlags(&s->done[i], cudaEventDisableTiming), "place for a layer");
    }
    LMC_TRY(cudaStreamCreateWithFlags(&s->copies, cudaStreamNonBlocking), "place for a layer");
    return lmc_ring_open(&s->ring, ring, e);
}

int lmc_stream_open(struct lm_dev *d, const size_t *homes, uint32_t kept, size_t ring, struct lm_err *e)
{
    struct lmc_stream *s = (struct lmc_stream *)calloc(1, sizeof *s);

    d->streamed = s;
    if (!s || !(s->kept = (uint8_t **)calloc(d->net->config.n_layers + 1, sizeof *s->kept)))
        return lm_err_set(e, LM_NOMEM, "cuda: out of memory");
    s->n_kept = kept;
    s->n_layers = d->net->config.n_layers;
    s->holds[0] = s->holds[1] = -1;
    for (uint32_t i = 0; i < kept; i++)
        if (!(s->kept[i] = (uint8_t *)lmc_own(d, homes[i], "weights of a layer", e)))
            return -1;
    return kept < s->n_layers ? open_places(d, s, homes, ring, e) : 0;
}

void lmc_stream_close(struct lm_dev *d)
{
    struct lmc_stream *s = d->streamed;

    if (!s)
        return;
    if (s->copies)
        cudaStreamSynchronize(s->copies);
    lmc_ring_close(s->ring);
    for (int i = 0; i < 2; i++) {
        if (s->full[i])
            cudaEventDestroy(s->full[i]);
        if (s->done[i])
            cudaEventDestroy(s->done[i]);
    }
    if (s->copies)
        cudaStreamDestroy(s->copies);
    free(s->kept);
    free(s);
    d->streamed = nullptr;
}

/* Queues a layer's weights; its place is free once the kernels that used it have run. */
static int bring(struct lm_dev *d, uint32_t layer, struct lm_err *e)
{
    struct lmc_stream *s = d->streamed;
    int i = slot_of(s, layer);

    s->holds[i] = -1;
    LMC_TRY(cudaStreamWaitEvent(s->copies, s->done[i], 0), "weights of a layer");
    for (size_t k = 0; k < d->n_mats; k++)
        if (d->mats[k].home == (int)layer && lmc_send(d, &d->mats[k], s->ring, s->copies, e) != 0)
            return -1;
    LMC_TRY(cudaEventRecord(s->full[i], s->copies), "weights of a layer");
    s->holds[i] = (int)layer;
    return 0;
}

int lmc_enter(struct lm_dev *d, uint32_t layer, struct lm_err *e)
{
    struct lmc_stream *s = d->streamed;

    if (layer < s->n_kept)
        return 0;
    int i = slot_of(s, layer);
    if (s->holds[i] != (int)layer && bring(d, layer, e) != 0)
        return -1;
    LMC_TRY(cudaStreamWaitEvent(d->stream, s->full[i], 0), "weights of a layer");
    return 0;
}

int lmc_leave(struct lm_dev *d, uint32_t layer, struct lm_err *e)
{
    struct lmc_stream *s = d->streamed;
    const uint32_t n = s->n_layers - s->n_kept;

    if (n == 0 || layer + 1 < s->n_kept)
        return 0;
    if (layer >= s->n_kept)
        LMC_TRY(cudaEventRecord(s->done[slot_of(s, layer)], d->stream), "weights of a layer");
    uint32_t next = layer + 1 < s->n_layers ? layer + 1 : s->n_kept;
    bool mine = layer >= s->n_kept && slot_of(s, next) == slot_of(s, layer);
    return mine || s->holds[slot_of(s, next)] == (int)next ? 0 : bring(d, next, e);
}
