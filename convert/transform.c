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

/* Elements of a row of a permuted tensor; 1 for a bias. */
static uint64_t row_elems(const struct lm_plan_item *it)
{
    return it->src->n_elems / it->src->shape[0];
}

/* What knows the importance of columns takes whole rows. */
static uint64_t whole_rows(const struct lm_plan_item *it, uint64_t unit)
{
    uint64_t row = it->n_dims ? it->shape[it->n_dims - 1] : 1;

    if (!it->importance || unit % row == 0)
        return unit;
    return it->transform == LM_T_NONE ? row : unit * row;
}

uint64_t lmc_unit(const struct lm_plan_item *it)
{
    uint64_t unit = 256; /* every block size divides it */

    if (it->n_pieces || it->transform == LM_T_PLUS_ONE)
        return whole_rows(it, unit);
    if (it->src && it->transform == LM_T_TRANSPOSE)
        unit = it->shape[1] * (is_quant(it->src->dtype) ? lm_dtype_info(it->src->dtype)->block_elems : TILE);
    else if (it->src && it->transform != LM_T_NONE && it->src->n_elems > 0)
        unit = row_elems(it);
    return whole_rows(it, unit ? unit : 1);
}

/* Permuted rows need one row more, for what lies between them. */
size_t lmc_raw_bytes(const struct lm_plan_item *it, uint64_t n)
{
    bool permuted = it->transform == LM_T_PERMUTE_Q || it->transform == LM_T_PERMUTE_K;

    return it->src ? lm_dtype_bytes(it->src->dtype, n + (permuted ? lmc_unit(it) : 0)) : 0;
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

/* ---- permuted: [2, half] rows of a head become [half, 2], or back.  The rows
 * of one output range come from two runs of the source, s = 0 and 1. */

struct run { uint64_t from, n, to, from_step, to_step; };

/* For output rows [a, b) of a head. */
static struct run find_run(uint64_t s, uint64_t half, bool inverse, uint64_t a, uint64_t b)
{
    uint64_t j, end;

    if (inverse) { /* output row s * half + j is source row 2 j + s */
        j = a > s * half ? a - s * half : 0;
        end = b > s * half ? b - s * half : 0;
        end = end < half ? end : half;
        return (struct run){2 * j + s, j < end ? end - j : 0, s * half + j - a, 2, 1};
    }
    j = (a + 1 - s) / 2; /* output row 2 j + s is source row s * half + j */
    end = (b + 1 - s) / 2;
    return (struct run){s * half + j, end - j, 2 * j + s - a, 1, 2};
}

/* One call reads many rows; those between that are not wanted go to `skipped`. */
static int fetch_run(int fd, struct run r, uint64_t offset, size_t row_bytes, uint8_t *dst, uint8_t *skipped,
                     struct lm_err *e)
{
    struct iovec v[MAX_IOV];

    while (r.n > 0) {
        uint64_t at = offset + r.from * row_bytes;
        int k = 0;
        for (; r.n > 0 && k + 2 <= MAX_IOV; r.n--, r.from += r.from_step, r.to += r.to_step) {
            v[k++] = (struct iovec){dst + r.to * row_bytes, row_bytes};
            if (r.from_step == 2 && r.n > 1)
                v[k++] = (struct iovec){skipped, row_bytes};
        }
        if (preadv_all(fd, v, k, at, e))
            return -1;
    }
    return 0;
}

/* The rows of a packed weight are computed, a run of neighbours at a time. */
static int packed_run(const struct lm_plan_item *it, struct run r, uint64_t row0, size_t row_bytes, uint8_t *dst,
                      struct lm_err *e)
{
    uint64_t span = r.n ? (r.n - 1) * r.from_step + 1 : 0;
    uint8_t *rows = aligned_alloc(64, (span * row_bytes + 64) / 64 * 64);

    if (!rows)
        return lm_err_set(e, LM_NOMEM, "out of memory");
    lm_tensor_read(it->src, (row0 + r.from) * row_bytes, span * row_bytes, rows);
    for (uint64_t i = 0; i < r.n; i++)
        memcpy(dst + (r.to + i * r.to_step) * row_bytes, rows + i * r.from_step * row_bytes, row_bytes);
    free(rows);
    return 0;
}

static int fetch_permuted(int fd, const struct lm_plan_item *it, uint64_t first, uint64_t n, uint8_t *raw,
                          struct lm_err *e)
{
    const struct lm_tensor *t = it->src;
    uint64_t row = row_elems(it), a = first / row, end = (first + n) / row, rows = t->shape[0] / it->n_heads;
    size_t row_bytes = lm_dtype_bytes(t->dtype, row);
    uint8_t *skipped = raw + (end - a) * row_bytes;

    while (a < end) {
        uint64_t head = a / rows, in = a % rows, stop = end - head * rows < rows ? end - head * rows : rows;
        for (uint64_t s = 0; s < 2; s++)
            if (t->packed ? packed_run(it, find_run(s, rows / 2, it->inverse, in, stop), head * rows, row_bytes, raw, e)
                          : fetch_run(fd, find_run(s, rows / 2, it->inverse, in, stop), t->offset + head * rows * row_bytes,
                                      row_bytes, raw, skipped, e))
                return -1;
        raw += (stop - in) * row_bytes;
        a += stop - in;
    }
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

    if (it->n_pieces)
        rc = lmc_fetch_pieces(m, it, first, n, raw, e);
    else if (t->packed && it->transform == LM_T_TRANSPOSE)
        return transposed_f32(it, first, n, raw, e);
    else if (t->packed && (it->transform == LM_T_NONE || it->transform == LM_T_PLUS_ONE))
        lm_tensor_read(t, lm_dtype_bytes(t->dtype, first), lm_dtype_bytes(t->dtype, n), raw);
    else if (it->transform == LM_T_NONE || it->transform == LM_T_PLUS_ONE)
        rc = lmc_pread_all(fd, raw, lm_dtype_bytes(t->dtype, n), t->offset + lm_dtype_bytes(t->dtype, first), e);
    else if (it->transform == LM_T_TRANSPOSE)
        fetch_transposed(it, first, n, raw);
    else
        rc = fetch_permuted(fd, it, first, n, raw, e);
    if (rc == 0 && it->packs && lm_tensor_pack_failed(t))
        return lm_err_set(e, LM_UNSUPPORTED, "the source holds values that are not finite; quantizing would spread them");
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
    for (uint64_t i = 0; it->transform == LM_T_PLUS_ONE && i < n; i++)
        out[i] += it->inverse ? -1.0f : 1.0f;
    return 0;
}
