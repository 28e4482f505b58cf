/* Reading a range of an output that is made of boxes of several tensors.
 *
 * Each piece is walked along its axes in the order of the output; at every
 * level only the steps that meet the range are taken.  Long runs are read with
 * pread, short ones and single elements from the mapping. */
#include "convert/stream.h"

enum { LONG_RUN = 16 << 10 };

struct walk {
    const struct lm_plan_piece *x;
    int fd;
    uint64_t first, end;         /* of the output, elements */
    uint64_t span[LM_BOX_AXES + 1]; /* elements from the first to behind the last of the axes from here on */
    size_t block, width;         /* elements and bytes of a block */
    uint8_t *raw;                /* where element `first` goes */
    struct lm_err *e;
};

static int copy_run(struct walk *w, uint64_t src, uint64_t dst, uint64_t n)
{
    uint64_t a = dst > w->first ? dst : w->first, b = dst + n < w->end ? dst + n : w->end;

    if (a >= b)
        return 0;
    size_t bytes = (size_t)((b - a) / w->block * w->width);
    uint64_t from = (src + (a - dst)) / w->block * w->width;
    uint8_t *to = w->raw + (a - w->first) / w->block * w->width;
    if (w->x->src->packed) {
        lm_tensor_read(w->x->src, from, bytes, to);
        return 0;
    }
    if (bytes >= LONG_RUN)
        return lmc_pread_all(w->fd, to, bytes, w->x->src->offset + from, w->e);
    memcpy(to, w->x->src->data + from, bytes);
    return 0;
}

#define SCATTER(type)                                                                                                  \
    for (uint64_t i = lo; i < hi; i++)                                                                                 \
        memcpy(w->raw + (dst + i * ds - w->first) * sizeof(type),                                                      \
               w->x->src->data + (src + i * ss) * sizeof(type), sizeof(type));

static void copy_elements(struct walk *w, uint64_t src, uint64_t dst, uint64_t lo, uint64_t hi)
{
    unsigned k = w->x->n_axes - 1;
    uint64_t ss = w->x->src_step[k], ds = w->x->dst_step[k];

    for (uint64_t i = lo; w->x->src->packed && i < hi; i++)
        lm_tensor_read(w->x->src, (src + i * ss) * w->width, w->width, w->raw + (dst + i * ds - w->first) * w->width);
    if (w->x->src->packed)
        return;
    switch (w->width) {
    case 1: SCATTER(uint8_t); break;
    case 2: SCATTER(uint16_t); break;
    case 4: SCATTER(uint32_t); break;
    default: SCATTER(uint64_t); break;
    }
}

/* At most LM_BOX_AXES levels deep. */
static int walk_axis(struct walk *w, unsigned axis, uint64_t src, uint64_t dst)
{
    const struct lm_plan_piece *x = w->x;
    uint64_t lo = 0, hi = 0;

    if (axis >= LM_BOX_AXES)
        return 0;
    uint64_t step = x->dst_step[axis], inner = w->span[axis + 1];
    if (w->first >= dst + inner)
        lo = (w->first - dst - inner) / step + 1;
    if (w->end > dst)
        hi = (w->end - dst + step - 1) / step;
    hi = hi < x->n[axis] ? hi : x->n[axis];
    if (axis + 1 == x->n_axes) {
        if (step == 1 && x->src_step[axis] == 1)
            return copy_run(w, src, dst, x->n[axis]);
        copy_elements(w, src, dst, lo, hi);
        return 0;
    }
    for (uint64_t i = lo; i < hi; i++)
        if (walk_axis(w, axis + 1, src + i * x->src_step[axis], dst + i * step))
            return -1;
    return 0;
}

static void measure(struct walk *w)
{
    w->span[w->x->n_axes] = 1;
    for (unsigned i = w->x->n_axes; i-- > 0;)
        w->span[i] = w->span[i + 1] + (w->x->n[i] - 1) * w->x->dst_step[i];
}

int lmc_fetch_pieces(const struct lm_model *m, const struct lm_plan_item *it, uint64_t first, uint64_t n, void *raw,
                     struct lm_err *e)
{
    const struct lm_dtype_info *d = lm_dtype_info(it->src->dtype);

    for (size_t i = 0; i < it->n_pieces; i++) {
        struct walk w = {.x = &it->pieces[i], .first = first, .end = first + n, .block = d->block_elems,
                         .width = d->block_bytes, .raw = raw, .e = e};
        bool empty = false;
        for (unsigned k = 0; k < w.x->n_axes; k++)
            empty = empty || w.x->n[k] == 0;
        w.fd = lm_model_file(m, w.x->src->file)->fd;
        if (empty)
            continue;
        measure(&w);
        if (walk_axis(&w, 0, w.x->src_at, w.x->dst_at))
            return -1;
    }
    return 0;
}
