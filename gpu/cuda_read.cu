/* Matrices from the file to the device through a ring of pinned buffers: while
 * one is on its way the next is filled.
 *
 * What is read at a time are lines: rows, or the columns of a transposed matrix.
 * A matrix may be part of a tensor (an expert, gate or up of a fused matrix):
 * then its lines lie apart, and so may the elements of a column. */
#include "gpu/cuda_base.cuh"

#include <stdlib.h>

#define RING 4

struct lmc_ring {
    uint8_t *host[RING], *dev[RING];
    cudaEvent_t free[RING];
    size_t size;
    int next;
};

void lmc_ring_close(struct lmc_ring *r)
{
    if (!r)
        return;
    for (int i = 0; i < RING; i++) {
        if (r->free[i]) {
            cudaEventSynchronize(r->free[i]); /* nothing may still read it */
            cudaEventDestroy(r->free[i]);
        }
        cudaFreeHost(r->host[i]);
        cudaFree(r->dev[i]);
    }
    free(r);
}

static int fill_ring(struct lmc_ring *r, size_t size, struct lm_err *e)
{
    r->size = size;
    for (int i = 0; i < RING; i++) {
        LMC_TRY(cudaMallocHost((void **)&r->host[i], size), "upload ring");
        LMC_TRY(cudaEventCreateWithFlags(&r->free[i], cudaEventDisableTiming), "upload ring");
        if (lmc_malloc((void **)&r->dev[i], size, "upload ring", e) != 0)
            return -1;
    }
    return 0;
}

int lmc_ring_open(struct lmc_ring **out, size_t size, struct lm_err *e)
{
    struct lmc_ring *r = (struct lmc_ring *)calloc(1, sizeof *r);

    if (!r)
        return lm_err_set(e, LM_NOMEM, "cuda: out of memory");
    if (fill_ring(r, size, e) != 0) {
        lmc_ring_close(r);
        return -1;
    }
    *out = r;
    return 0;
}

/* ---- lines */

size_t lmc_n_lines(const struct lm_mat *m)
{
    return m->transposed ? m->cols : m->rows;
}

size_t lmc_line_bytes(const struct lm_mat *m)
{
    struct lmc_layout l = lmc_layout_of(m->tensor->dtype);
    return (size_t)(m->transposed ? m->rows : m->cols) / l.block_elems * l.block_bytes;
}

/* n elements of plain bytes, step apart, from element `at` on. */
static void read_apart(const struct lm_tensor *t, uint64_t at, uint64_t step, size_t n, uint32_t bytes, uint8_t *dst)
{
    uint8_t piece[8192];
    size_t at_once = sizeof piece / bytes / step;

    if (at_once == 0) { /* far apart: one by one */
        for (size_t i = 0; i < n; i++)
            lm_tensor_read(t, (at + i * step) * bytes, bytes, dst + i * bytes);
        return;
    }
    for (size_t i = 0; i < n; i += at_once) {
        size_t k = n - i < at_once ? n - i : at_once;
        lm_tensor_read(t, (at + i * step) * bytes, ((k - 1) * step + 1) * bytes, piece);
        for (size_t j = 0; j < k; j++)
            memcpy(dst + (i + j) * bytes, piece + j * step * bytes, bytes);
    }
}

void lmc_read_lines(const struct lm_mat *m, size_t first, size_t n, uint8_t *dst)
{
    struct lmc_layout l = lmc_layout_of(m->tensor->dtype);
    const size_t bytes = lmc_line_bytes(m), elems = m->transposed ? m->rows : m->cols;
    const uint64_t apart = m->transposed ? m->col_step : m->row_step, step = m->transposed ? m->row_step : 1;

    if (!m->part || (apart == elems && step == 1)) {
        uint64_t at = (m->part ? m->at : 0) / l.block_elems * l.block_bytes;
        lm_tensor_read(m->tensor, at + first * bytes, n * bytes, dst);
        return;
    }
    for (size_t i = 0; i < n; i++, dst += bytes) {
        uint64_t at = m->at + (first + i) * apart;
        if (step == 1)
            lm_tensor_read(m->tensor, at / l.block_elems * l.block_bytes, bytes, dst);
        else
            read_apart(m->tensor, at, step, elems, l.block_bytes, dst);
    }
}

/* ---- to the device */

/* Lines [first, first + n), already on the device, to where they belong. */
static int place(const struct lmc_mat *w, const struct lmc_layout *l, size_t first, size_t n, const uint8_t *dev,
                 cudaStream_t s, struct lm_err *e)
{
    const struct lm_mat *m = w->of;

    if (l->kind == LMC_BLOCKS)
        return lmc_repack(s, w->dtype, &w->planes, first * (m->cols / LMC_UNIT), dev, n * (m->cols / l->block_elems), e);
    return lmc_transpose(s, w->planes.codes, dev, m->rows, m->cols, (uint32_t)first, (uint32_t)n, l->block_bytes, e);
}

int lmc_send(struct lm_dev *d, const struct lmc_mat *w, struct lmc_ring *r, cudaStream_t s, struct lm_err *e)
{
    const struct lm_mat *m = w->of;
    const struct lmc_layout l = lmc_layout_of(w->dtype);
    const size_t bytes = lmc_line_bytes(m), lines = lmc_n_lines(m), at_once = r->size / bytes;
    const bool straight = l.kind != LMC_BLOCKS && !m->transposed;

    (void)d;
    for (size_t at = 0; at < lines; at += at_once) {
        size_t n = lines - at < at_once ? lines - at : at_once;
        int i = r->next;
        r->next = (i + 1) % RING;
        LMC_TRY(cudaEventSynchronize(r->free[i]), w->tensor->name);
        lmc_read_lines(m, at, n, r->host[i]);
        uint8_t *to = straight ? w->planes.codes + at * bytes : r->dev[i];
        LMC_TRY(cudaMemcpyAsync(to, r->host[i], n * bytes, cudaMemcpyHostToDevice, s), w->tensor->name);
        if (!straight && place(w, &l, at, n, r->dev[i], s, e) != 0)
            return -1;
        LMC_TRY(cudaEventRecord(r->free[i], s), w->tensor->name);
    }
    return 0;
}
