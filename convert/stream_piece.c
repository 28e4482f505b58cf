/* One piece: bytes that stay are copied by the kernel, those that only move are
 * read and written, all others are read and decoded once, then encoded for
 * every output that wants them. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "convert/stream.h"

enum { BOUNCE = 64 << 10 /* copy buffer where the kernel cannot copy */ };

enum work { COPY, MAKE, MOVE, COMPUTE };

bool lmc_keeps_bytes(const struct lm_plan_item *it)
{
    return it->src && it->src->dtype == it->dtype && it->transform == LM_T_NONE && !it->src->big_endian && !it->src->packed;
}

bool lmc_sums_source(const struct lmc_output *x, size_t item)
{
    const struct lm_plan_item *it = &x->p->items[item];

    return x->p->sums_source && lmc_source_counts(it, lmc_unit(it));
}

static enum work work_of(const struct lm_plan_item *it)
{
    if (!it->src)
        return MAKE;
    if (lmc_keeps_bytes(it))
        return COPY;
    return it->src->dtype != it->dtype || it->transform == LM_T_PLUS_ONE ? COMPUTE : MOVE;
}

static bool is_quant(const struct lm_plan_item *it)
{
    return lm_dtype_info(it->dtype)->kind == LM_KIND_QUANT;
}

uint64_t lmc_common_unit(const struct lmc_outputs *x, size_t item)
{
    uint64_t unit = 1;

    /* Of different ones, those of whole rows are multiples of what the others need. */
    for (size_t k = 0; k < x->n; k++) {
        const struct lm_plan_item *it = &x->of[k].p->items[item];
        if (it->importance && lmc_unit(it) > 0)
            return lmc_unit(it);
        unit = lmc_unit(it) > unit ? lmc_unit(it) : unit;
    }
    return unit;
}

/* ---- buffers */

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static struct lmc_needs needs_of_item(const struct lm_plan_item *it, uint64_t n, bool back)
{
    struct lmc_needs x = {.raw = BOUNCE, .out = 64, .f32 = 64, .row = 64, .back = 0};
    enum work w = work_of(it);

    if (w == COPY)
        return x;
    x.raw = larger(x.raw, lmc_raw_bytes(it, n));
    if (w != MOVE)
        x.out = larger(x.out, lm_dtype_bytes(it->dtype, n));
    if (w == COMPUTE) {
        x.f32 = larger(x.f32, n * sizeof(float));
        x.row = larger(x.row, it->importance ? it->shape[it->n_dims - 1] * sizeof(float) : 0);
        x.back = back ? x.f32 : 0;
    }
    return x;
}

static size_t sum_of(const struct lmc_needs *x)
{
    return x->raw + x->out + x->f32 + x->row + x->back;
}

struct lmc_needs lmc_needs_of(const struct lmc_outputs *x, uint64_t n)
{
    struct lmc_needs all = {0};
    size_t most = 0;

    for (size_t i = 0; i < x->of[0].p->n_items; i++)
        for (size_t k = 0; k < x->n; k++) {
            const struct lm_plan_item *it = &x->of[k].p->items[i];
            uint64_t unit = lmc_common_unit(x, i), elems = lm_plan_elems(it), m = n > unit ? n / unit * unit : unit;
            struct lmc_needs one = needs_of_item(it, m < elems ? m : elems, x->measure || x->n > 1);
            if (sum_of(&one) > most) {
                most = sum_of(&one);
                all.largest = i;
            }
            all.raw = larger(all.raw, one.raw);
            all.out = larger(all.out, one.out);
            all.f32 = larger(all.f32, one.f32);
            all.row = larger(all.row, one.row);
            all.back = larger(all.back, one.back);
        }
    all.all = sum_of(&all);
    return all;
}

static void *allocate(size_t n)
{
    return aligned_alloc(64, (n + 64) / 64 * 64);
}

int lmc_buffers_make(struct lmc_buffers *b, const struct lmc_needs *n)
{
    b->raw = allocate(n->raw);
    b->out = allocate(n->out);
    b->f32 = allocate(n->f32);
    b->weights = allocate(n->row);
    b->back = allocate(n->back);
    return b->raw && b->out && b->f32 && b->weights && b->back ? 0 : -1;
}

void lmc_buffers_free(struct lmc_buffers *b)
{
    free(b->raw);
    free(b->out);
    free(b->f32);
    free(b->weights);
    free(b->back);
}

/* ---- copying */

/* done: NULL, or gets the sums; source: of the values of d too. */
static int copy_by_hand(int from, uint64_t at, int to, uint64_t dst, uint64_t n, uint8_t *buf, struct lmc_done *done,
                        const enum lm_dtype *source, struct lm_err *e)
{
    const struct lm_dtype_info *d = source ? lm_dtype_info(*source) : NULL;
    size_t room = d ? BOUNCE / d->block_bytes * d->block_bytes : BOUNCE;

    while (n > 0) {
        size_t k = n < room ? (size_t)n : room;
        if (lmc_pread_all(from, buf, k, at, e) || (to >= 0 && lm_pwrite_all(to, buf, k, dst, e)))
            return -1;
        if (done)
            lmc_sum_add(&done->sum, buf, k);
        if (d)
            lmc_source_add(&done->source, *source, buf, k / d->block_bytes * d->block_elems);
        at += k;
        dst += k;
        n -= k;
    }
    return 0;
}

static int copy_range(int from, uint64_t at, int to, uint64_t dst, uint64_t n, uint8_t *buf, struct lm_err *e)
{
    while (n > 0) {
        off_t a = (off_t)at, d = (off_t)dst;
        ssize_t done = copy_file_range(from, &a, to, &d, (size_t)n, 0);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0 && (errno == ENOSPC || errno == EIO || errno == EDQUOT))
            return lm_err_errno(e, "cannot copy");
        /* 0 and the other errors: this pair of files cannot; reading says whether the end came early. */
        if (done <= 0)
            return copy_by_hand(from, at, to, dst, n, buf, NULL, NULL, e);
        at += (uint64_t)done;
        dst += (uint64_t)done;
        n -= (uint64_t)done;
    }
    return 0;
}

static int differs(struct lm_err *e)
{
    return lm_err_set(e, LM_MISMATCH, "other bytes than those that come out now");
}

static int compare(struct lmc_place at, const uint8_t *data, size_t n, struct lm_err *e)
{
    uint8_t buf[BOUNCE];

    for (size_t done = 0; done < n;) {
        size_t k = n - done < BOUNCE ? n - done : BOUNCE;
        if (lmc_pread_all(at.fd, buf, k, at.offset + done, e))
            return -1;
        if (memcmp(buf, data + done, k) != 0)
            return differs(e);
        done += k;
    }
    return 0;
}

/* A record needs the sum of the bytes, which the kernel does not tell. */
static int copy(const struct lmc_output *x, const struct lm_plan_item *it, const struct lmc_range *r, struct lmc_place at,
                const struct lmc_buffers *b, struct lmc_done *done, struct lm_err *e)
{
    uint64_t from = it->src->offset + lm_dtype_bytes(it->dtype, r->first), n = lm_dtype_bytes(it->dtype, r->n);
    int fd = lm_model_file(x->p->src, it->src->file)->fd;

    bool summed = lmc_sums_source(x, r->item);

    if (x->compare)
        return lmc_compare_copy(x, r, n, e) ? (e->code == LM_MISMATCH ? differs(e) : -1) : 0;
    if (x->journal || summed)
        return copy_by_hand(fd, from, x->sums_only ? -1 : at.fd, at.offset, n, b->raw, done, summed ? &it->dtype : NULL, e);
    pthread_mutex_lock(b->copying);
    int rc = copy_range(fd, from, at.fd, at.offset, n, b->raw, e);
    pthread_mutex_unlock(b->copying);
    return rc;
}

/* ---- computing */

/* A scale that no longer fits F16 turns a whole block into infinities. */
static int check_blocks(enum lm_dtype d, const void *blocks, float *scratch, size_t n, struct lm_err *e)
{
    lm_dtype_info(d)->to_f32(scratch, blocks, n);
    if (lmc_max_bits(scratch, n) < 0x7f800000)
        return 0;
    return lm_err_set(e, LM_UNSUPPORTED, "holds values too large for %s", lm_dtype_name(d));
}

/* The values that are not finite become 0, or are an error. */
static int settle_nan(const struct lmc_range *j, bool allowed, const struct lmc_buffers *b, uint64_t *n_nan,
                      struct lm_err *e)
{
    uint64_t first = UINT64_MAX;

    for (uint64_t i = 0; i < j->n; i++)
        if (!isfinite(b->f32[i])) {
            first = first == UINT64_MAX ? j->first + i : first;
            ++*n_nan;
            b->f32[i] = 0;
        }
    if (allowed)
        return 0;
    return lm_err_set(e, LM_UNSUPPORTED, "holds values that are not finite, the first at element %llu (%llu among "
                      "elements %llu to %llu); quantizing would spread them over whole blocks: --allow-nan makes them 0",
                      (unsigned long long)first, (unsigned long long)*n_nan, (unsigned long long)j->first,
                      (unsigned long long)(j->first + j->n - 1));
}

/* Rows of one matrix at a time: each expert has its own importance. */
static int encode_weighted(const struct lmc_encoder *x, const struct lm_plan_item *it, const struct lmc_range *j,
                           const struct lmc_buffers *b, struct lm_err *e)
{
    uint64_t row = it->shape[it->n_dims - 1], n_rows = it->shape[it->n_dims - 2], all = lm_plan_elems(it) / row / n_rows;
    size_t row_bytes = lm_dtype_bytes(it->dtype, row);
    uint64_t at = j->first / row, end = (j->first + j->n) / row;

    for (uint64_t k, done = 0; at < end; at += k, done += k) {
        k = n_rows - at % n_rows < end - at ? n_rows - at % n_rows : end - at;
        if (lm_imatrix_means(it->importance, row, all, at / n_rows, b->weights, e))
            return -1;
        if (lmc_encode(x, it->dtype, b->out + done * row_bytes, b->f32 + done * row, b->weights, row, k, e))
            return -1;
    }
    return 0;
}

static void measure(const struct lm_plan_item *it, const struct lmc_range *j, const struct lmc_buffers *b,
                    struct lmc_tally *t)
{
    lm_dtype_info(it->dtype)->to_f32(b->back, b->out, j->n);
    lmc_measure(&t->errors, b->f32, b->back, j->n, j->first);
}

/* max: lmc_max_bits of the values. Where others still need them, the check has another scratch. */
static int quantize(const struct lmc_outputs *x, const struct lm_plan_item *it, const struct lmc_range *j, uint32_t max,
                    const struct lmc_buffers *b, struct lmc_tally *t, struct lm_err *e)
{
    if (it->importance ? encode_weighted(&x->encoder, it, j, b, e)
                       : lmc_encode(&x->encoder, it->dtype, b->out, b->f32, NULL, j->n, 1, e))
        return -1;
    if (x->measure)
        measure(it, j, b, t);
    return max < 0x47000000 /* 32768 */ ? 0 : check_blocks(it->dtype, b->out, x->n > 1 ? b->back : b->f32, j->n, e);
}

static void cast(const struct lmc_outputs *x, const struct lm_plan_item *it, const struct lmc_range *j,
                 const struct lmc_buffers *b, struct lmc_tally *t)
{
    lmc_tally(t, b->f32, it->src->dtype == LM_F64 ? b->raw : NULL, j->n, it->dtype);
    lm_dtype_info(it->dtype)->from_f32(b->out, b->f32, j->n);
    if (x->measure)
        measure(it, j, b, t);
}

/* ---- one piece of all outputs */

static struct lmc_place place_of(const struct lmc_output *x, const struct lmc_range *j)
{
    struct lmc_place at = x->places[j->item];

    at.offset += lm_dtype_bytes(x->p->items[j->item].dtype, j->first);
    return at;
}

static int put(const struct lmc_output *x, const struct lmc_range *j, const uint8_t *data, struct lmc_done *done,
               struct lm_err *e)
{
    size_t n = lm_dtype_bytes(x->p->items[j->item].dtype, j->n);
    struct lmc_place at = place_of(x, j);

    if (x->sums_only)
        return 0;
    if (x->compare)
        return compare(at, data, n, e);
    lmc_sum_add(&done->sum, data, n);
    return lm_pwrite_all(at.fd, data, n, at.offset, e);
}

static void sum_source(const struct lmc_output *x, const struct lmc_range *j, const struct lmc_buffers *b, struct lmc_done *done)
{
    if (lmc_sums_source(x, j->item))
        lmc_source_add(&done->source, x->p->items[j->item].src->dtype, b->raw, j->n);
}

static int put_plain(const struct lmc_output *x, const struct lmc_range *j, const struct lmc_buffers *b,
                     struct lmc_done *done, struct lm_err *e)
{
    const struct lm_plan_item *it = &x->p->items[j->item];

    switch (work_of(it)) {
    case COPY:
        return copy(x, it, j, place_of(x, j), b, done, e);
    case MAKE:
        lm_dtype_info(it->dtype)->from_f32(b->out, it->made + j->first, j->n);
        return put(x, j, b->out, done, e);
    case MOVE:
        if (lmc_fetch(x->p->src, it, j->first, j->n, b->raw, e))
            return -1;
        sum_source(x, j, b, done);
        return put(x, j, b->raw, done, e);
    case COMPUTE:
        break;
    }
    return 0;
}

/* The casts first: what cannot be quantized stays in them. */
static int put_computed(const struct lmc_outputs *x, const struct lmc_range *j, const struct lmc_buffers *b,
                        struct lmc_done *done, struct lm_err *e)
{
    uint32_t max = 0;
    uint64_t n_nan = 0;
    bool settled = false;

    for (size_t k = 0; k < x->n; k++) {
        const struct lm_plan_item *it = &x->of[k].p->items[j->item];
        if (done[k].skip || work_of(it) != COMPUTE || is_quant(it))
            continue;
        cast(x, it, j, b, &done[k].tally);
        if (put(&x->of[k], j, b->out, &done[k], e))
            return -1;
    }
    for (size_t k = 0; k < x->n; k++) {
        const struct lm_plan_item *it = &x->of[k].p->items[j->item];
        if (done[k].skip || work_of(it) != COMPUTE || !is_quant(it))
            continue;
        if (!settled) {
            max = lmc_max_bits(b->f32, j->n);
            if (max >= 0x7f800000 && settle_nan(j, x->of[k].p->req.allow_nan, b, &n_nan, e))
                return -1;
            settled = true;
        }
        done[k].tally.n_nan += n_nan;
        if (quantize(x, it, j, max, b, &done[k].tally, e) || put(&x->of[k], j, b->out, &done[k], e))
            return -1;
    }
    return 0;
}

int lmc_piece(const struct lmc_outputs *x, const struct lmc_range *j, const struct lmc_buffers *b, struct lmc_done *done,
              struct lm_err *e)
{
    const struct lmc_output *computes = NULL;

    for (size_t k = 0; k < x->n; k++) {
        if (done[k].skip)
            continue;
        if (work_of(&x->of[k].p->items[j->item]) == COMPUTE)
            computes = &x->of[k];
        if (put_plain(&x->of[k], j, b, &done[k], e))
            return -1;
    }
    if (!computes)
        return 0;
    if (lmc_fetch_f32(computes->p->src, &computes->p->items[j->item], j->first, j->n, b->raw, b->f32, e))
        return -1;
    for (size_t k = 0; k < x->n; k++)
        if (!done[k].skip && work_of(&x->of[k].p->items[j->item]) == COMPUTE)
            sum_source(&x->of[k], j, b, &done[k]);
    return computes->sums_only ? 0 : put_computed(x, j, b, done, e);
}

/* ---- reading back */

int lmc_read_sum(const struct lmc_output *x, const struct lmc_range *r, uint64_t *out, struct lm_err *e)
{
    uint64_t n = lm_dtype_bytes(x->p->items[r->item].dtype, r->n);
    struct lmc_place at = place_of(x, r);
    uint8_t buf[BOUNCE];
    struct lmc_sum sum;

    lmc_sum_begin(&sum);
    while (n > 0) {
        size_t k = n < BOUNCE ? (size_t)n : BOUNCE;
        if (lmc_pread_all(at.fd, buf, k, at.offset, e))
            return -1;
        lmc_sum_add(&sum, buf, k);
        at.offset += k;
        n -= k;
    }
    *out = lmc_sum_end(&sum);
    return 0;
}

int lmc_compare_copy(const struct lmc_output *x, const struct lmc_range *r, uint64_t most, struct lm_err *e)
{
    const struct lm_plan_item *it = &x->p->items[r->item];
    uint64_t n = lm_dtype_bytes(it->dtype, r->n), from = it->src->offset + lm_dtype_bytes(it->dtype, r->first);
    int fd = lm_model_file(x->p->src, it->src->file)->fd;
    struct lmc_place at = place_of(x, r);
    uint8_t a[BOUNCE / 2], b[BOUNCE / 2];

    for (n = n < most ? n : most; n > 0;) {
        size_t k = n < sizeof a ? (size_t)n : sizeof a;
        if (lmc_pread_all(fd, a, k, from, e) || lmc_pread_all(at.fd, b, k, at.offset, e))
            return -1;
        if (memcmp(a, b, k) != 0)
            return lm_err_set(e, LM_MISMATCH, "what was written is not what is read back; the disk or its driver is at "
                              "fault");
        from += k;
        at.offset += k;
        n -= k;
    }
    return 0;
}
