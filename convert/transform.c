/* Reading a tensor in the order its output has: as it is, with the rows of
 * every head permuted, or transposed.
 *
 * Plain and permuted data are read with pread (permuted rows scattered by the
 * kernel itself): no page of the source stays mapped, and a file that became
 * shorter is an error, not a signal. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#include "convert/stream.h"

enum { MAX_IOV = 512, TILE = 32 };

static bool is_quant(enum lm_dtype d)
{
    return lm_dtype_info(d)->kind == LM_KIND_QUANT;
}

static uint64_t head_elems(const struct lm_plan_item *it)
{
    return it->src->n_elems / it->n_heads;
}

uint64_t lmc_unit(const struct lm_plan_item *it)
{
    uint64_t unit = 256; /* every block size divides it */

    if (it->src && it->transform == LM_T_TRANSPOSE)
        unit = it->shape[1] * (is_quant(it->src->dtype) ? lm_dtype_info(it->src->dtype)->block_elems : TILE);
    else if (it->src && it->transform != LM_T_NONE)
        unit = head_elems(it);
    return unit ? unit : 1;
}

/* ---- reading */

static int shrunk(struct lm_err *e)
{
    return lm_err_set(e, LM_IO, "the file became shorter while it was read; try again");
}

int lmc_pread_all(int fd, void *dst, size_t n, uint64_t offset, struct lm_err *e)
{
    uint8_t *p = dst;

    while (n > 0) {
        ssize_t got = pread(fd, p, n, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return lm_err_errno(e, "cannot read");
        if (got == 0)
            return shrunk(e);
        p += got;
        n -= (size_t)got;
        offset += (uint64_t)got;
    }
    return 0;
}

static int preadv_all(int fd, struct iovec *v, int n, uint64_t offset, struct lm_err *e)
{
    while (n > 0) {
        ssize_t got = preadv(fd, v, n, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return lm_err_errno(e, "cannot read");
        if (got == 0)
            return shrunk(e);
        offset += (uint64_t)got;
        for (; n > 0 && (size_t)got >= v->iov_len; v++, n--)
            got -= (ssize_t)v->iov_len;
        if (n > 0) {
            v->iov_base = (uint8_t *)v->iov_base + got;
            v->iov_len -= (size_t)got;
        }
    }
    return 0;
}

/* ---- permuted: row r of a head goes to row place(r) */

static uint64_t place(uint64_t r, uint64_t half, bool inverse)
{
    /* forward: [2, half] -> [half, 2]; inverse: back */
    return inverse ? (r % 2) * half + r / 2 : (r % half) * 2 + r / half;
}

static int fetch_head(int fd, const struct lm_plan_item *it, uint64_t offset, size_t row_bytes, uint64_t rows,
                      uint8_t *dst, struct lm_err *e)
{
    struct iovec v[MAX_IOV];

    for (uint64_t r = 0; r < rows;) {
        int n = 0;
        uint64_t from = offset + r * row_bytes;
        for (; n < MAX_IOV && r < rows; n++, r++)
            v[n] = (struct iovec){dst + place(r, rows / 2, it->inverse) * row_bytes, row_bytes};
        if (preadv_all(fd, v, n, from, e))
            return -1;
    }
    return 0;
}

static int fetch_permuted(int fd, const struct lm_plan_item *it, uint64_t first, uint64_t n, uint8_t *raw,
                          struct lm_err *e)
{
    const struct lm_tensor *t = it->src;
    uint64_t head = head_elems(it), rows = t->shape[0] / it->n_heads;
    size_t head_bytes = lm_dtype_bytes(t->dtype, head), row_bytes = lm_dtype_bytes(t->dtype, head / rows);

    for (uint64_t h = first / head; h < (first + n) / head; h++, raw += head_bytes)
        if (fetch_head(fd, it, t->offset + h * head_bytes, row_bytes, rows, raw, e))
            return -1;
    return 0;
}

/* ---- transposed: output [out, in] from [in, out]; a few output rows at a
 * time, so that each visit to an input row reads neighbours. */

#define GATHER(type)                                                                                                   \
    for (uint64_t i = 0; i < in; i++) {                                                                                \
        const uint8_t *from = src + (i * out + row0) * sizeof(type);                                                   \
        for (uint64_t r = 0; r < rows; r++)                                                                            \
            memcpy(dst + (r * in + i) * sizeof(type), from + r * sizeof(type), sizeof(type));                          \
    }

static void gather(const uint8_t *src, uint64_t in, uint64_t out, uint64_t row0, uint64_t rows, size_t width,
                   uint8_t *dst)
{
    switch (width) {
    case 1: GATHER(uint8_t); break;
    case 2: GATHER(uint16_t); break;
    case 4: GATHER(uint32_t); break;
    default: GATHER(uint64_t); break;
    }
}

static void fetch_transposed(const struct lm_plan_item *it, uint64_t first, uint64_t n, uint8_t *raw)
{
    uint64_t out = it->shape[0], in = it->shape[1], row = first / in, end = (first + n) / in;
    size_t width = lm_dtype_info(it->src->dtype)->block_bytes;

    for (; row < end; row += TILE) {
        uint64_t rows = end - row < TILE ? end - row : TILE;
        gather(it->src->data, in, out, row, rows, width, raw);
        raw += rows * in * width;
    }
}

/* Elements of a quantized row cannot be picked out: blocks are decoded first. */
static int transposed_f32(const struct lm_plan_item *it, uint64_t first, uint64_t n, float *dst, struct lm_err *e)
{
    uint64_t out = it->shape[0], in = it->shape[1], row0 = first / in, rows = n / in;
    float piece[256];

    for (uint64_t i = 0; i < in; i++)
        for (uint64_t r = 0; r < rows;) {
            uint64_t k = rows - r < 256 ? rows - r : 256;
            if (lm_tensor_to_f32(it->src, i * out + row0 + r, k, piece, e) < 0)
                return -1;
            for (uint64_t j = 0; j < k; j++, r++)
                dst[r * in + i] = piece[j];
        }
    return 0;
}

/* ---- all of them */

int lmc_fetch(const struct lm_model *m, const struct lm_plan_item *it, uint64_t first, uint64_t n, void *raw,
              struct lm_err *e)
{
    const struct lm_tensor *t = it->src;
    int fd = lm_model_file(m, t->file)->fd, rc = 0;

    if (it->transform == LM_T_NONE)
        rc = lmc_pread_all(fd, raw, lm_dtype_bytes(t->dtype, n), t->offset + lm_dtype_bytes(t->dtype, first), e);
    else if (it->transform == LM_T_TRANSPOSE)
        fetch_transposed(it, first, n, raw);
    else
        rc = fetch_permuted(fd, it, first, n, raw, e);
    if (rc == 0 && t->big_endian)
        lm_dtype_swap(t->dtype, raw, (size_t)n);
    return rc;
}

int lmc_fetch_f32(const struct lm_model *m, const struct lm_plan_item *it, uint64_t first, uint64_t n, void *raw,
                  float *out, struct lm_err *e)
{
    if (it->transform == LM_T_TRANSPOSE && is_quant(it->src->dtype))
        return transposed_f32(it, first, n, out, e);
    if (lmc_fetch(m, it, first, n, raw, e))
        return -1;
    lm_dtype_info(it->src->dtype)->to_f32(out, raw, (size_t)n);
    return 0;
}
