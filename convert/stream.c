/* One pass over the data by a few threads.
 *
 * Threads take pieces in the order of the output.  A piece that keeps its bytes
 * is copied by the kernel; any other goes through the thread's own buffers:
 * read, decode, count, encode, write.  All threads do all of that, so reading,
 * computing and writing overlap without queues, and memory does not depend on
 * the model. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "convert/stream.h"

enum {
    PIECE = 128 << 10,          /* elements computed at a time: buffers stay in the second-level cache */
    COPY = 8 << 20,             /* bytes copied at a time */
    WINDOW = 64 << 20,          /* output bytes between nudges to the disk */
    BOUNCE = 64 << 10,          /* copy buffer where the kernel cannot copy */
    DEFAULT_RAM = 64 << 20
};

struct job { size_t item; uint64_t first, n; };

struct stream {
    struct lm_plan *p;
    const struct lmc_place *places;
    const struct lm_run_options *o;
    uint64_t piece;             /* elements */
    uint64_t large;             /* source bytes from which pages are dropped behind */
    pthread_mutex_t copying;    /* two copies into one file only wait for each other in the kernel, and badly */
    pthread_mutex_t lock;
    /* under the lock */
    size_t item;
    uint64_t first, done, total;
    int sync_fd;
    uint64_t sync_from, sync_to; /* output bytes handed out since the last nudge */
    uint64_t *finished;          /* elements, one an item */
    bool failed;
    struct lm_err err;
};

struct buffers { uint8_t *raw, *out; float *f32; };

/* ---- what an item needs */

static bool keeps_bytes(const struct lm_plan_item *it)
{
    return it->src && it->src->dtype == it->dtype && it->transform == LM_T_NONE && !it->src->big_endian;
}

/* Elements of the next piece of an item, a multiple of its unit. */
static uint64_t piece_of(const struct stream *s, const struct lm_plan_item *it)
{
    uint64_t unit = lmc_unit(it), want = s->piece;

    if (keeps_bytes(it)) {
        const struct lm_dtype_info *d = lm_dtype_info(it->dtype);
        want = COPY / d->block_bytes * d->block_elems;
    }
    return want > unit ? want / unit * unit : unit;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Buffers for the largest piece of the plan. */
static int make_buffers(struct buffers *b, const struct stream *s)
{
    size_t raw = BOUNCE, out = 64, f32 = 16;

    for (size_t i = 0; i < s->p->n_items; i++) {
        const struct lm_plan_item *it = &s->p->items[i];
        uint64_t n = piece_of(s, it) < lm_plan_elems(it) ? piece_of(s, it) : lm_plan_elems(it);
        if (keeps_bytes(it))
            continue;
        raw = larger(raw, lmc_raw_bytes(it, n));
        if (it->src && it->src->dtype == it->dtype)
            continue;
        f32 = larger(f32, n);
        out = larger(out, lm_dtype_bytes(it->dtype, n));
    }
    b->raw = aligned_alloc(64, (raw + 63) / 64 * 64);
    b->out = aligned_alloc(64, (out + 63) / 64 * 64);
    b->f32 = aligned_alloc(64, (f32 * sizeof(float) + 63) / 64 * 64);
    return b->raw && b->out && b->f32 ? 0 : -1;
}

static void free_buffers(struct buffers *b)
{
    free(b->raw);
    free(b->out);
    free(b->f32);
}

/* ---- handing out pieces */

bool lmc_stopped(const struct lm_run_options *o, struct lm_err *e)
{
    if (!o->stop || !*o->stop)
        return false;
    lm_err_set(e, LM_INTERRUPTED, "interrupted; nothing was left behind");
    return true;
}

static void fail(struct stream *s, const struct lm_err *e)
{
    pthread_mutex_lock(&s->lock);
    if (!s->failed)
        s->err = *e;
    s->failed = true;
    pthread_mutex_unlock(&s->lock);
}

/* The disk is kept busy while we compute, so that the last fsync is short. */
struct nudge { int fd; uint64_t from, n; };

static struct nudge note_output(struct stream *s, const struct job *j)
{
    const struct lm_plan_item *it = &s->p->items[j->item];
    struct lmc_place at = s->places[j->item];
    uint64_t from = at.offset + lm_dtype_bytes(it->dtype, j->first), to = from + lm_dtype_bytes(it->dtype, j->n);
    struct nudge due = {-1, 0, 0};

    if (s->sync_fd != at.fd || from < s->sync_to) {
        s->sync_fd = at.fd;
        s->sync_from = from;
    }
    if (to - s->sync_from >= 2 * (uint64_t)WINDOW) {
        due = (struct nudge){at.fd, s->sync_from, WINDOW};
        s->sync_from += WINDOW;
    }
    s->sync_to = to;
    return due;
}

static bool next_job(struct stream *s, struct job *j, struct nudge *due)
{
    bool got = false;

    pthread_mutex_lock(&s->lock);
    while (s->item < s->p->n_items && s->first >= lm_plan_elems(&s->p->items[s->item])) {
        s->item++;
        s->first = 0;
    }
    if (!s->failed && s->item < s->p->n_items) {
        const struct lm_plan_item *it = &s->p->items[s->item];
        uint64_t left = lm_plan_elems(it) - s->first, n = piece_of(s, it);
        *j = (struct job){s->item, s->first, n < left ? n : left};
        s->first += j->n;
        *due = note_output(s, j);
        got = true;
    }
    pthread_mutex_unlock(&s->lock);
    return got;
}

/* True when it was the last piece of its tensor. */
static bool report(struct stream *s, const struct job *j, const struct lmc_tally *t)
{
    struct lm_plan_item *it = &s->p->items[j->item];

    pthread_mutex_lock(&s->lock);
    it->n_overflow += t->n_overflow;
    it->n_flushed += t->n_flushed;
    it->n_nan += t->n_nan;
    if (it->src)
        s->done += lm_dtype_bytes(it->src->dtype, j->n);
    s->finished[j->item] += j->n;
    bool last = s->finished[j->item] == lm_plan_elems(it);
    if (s->o->progress)
        s->o->progress(s->o->user, s->done, s->total);
    pthread_mutex_unlock(&s->lock);
    return last;
}

/* ---- one piece */

static int copy_by_hand(int from, uint64_t at, int to, uint64_t dst, uint64_t n, uint8_t *buf, struct lm_err *e)
{
    while (n > 0) {
        size_t k = n < BOUNCE ? (size_t)n : BOUNCE;
        if (lmc_pread_all(from, buf, k, at, e) || lm_pwrite_all(to, buf, k, dst, e))
            return -1;
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
            return copy_by_hand(from, at, to, dst, n, buf, e);
        at += (uint64_t)done;
        dst += (uint64_t)done;
        n -= (uint64_t)done;
    }
    return 0;
}

/* A scale that no longer fits F16 turns a whole block into infinities. */
static int check_blocks(enum lm_dtype d, const void *blocks, float *scratch, size_t n, struct lm_err *e)
{
    lm_dtype_info(d)->to_f32(scratch, blocks, n);
    if (lmc_max_bits(scratch, n) < 0x7f800000)
        return 0;
    return lm_err_set(e, LM_UNSUPPORTED, "holds values too large for %s", lm_dtype_name(d));
}

static int quantize(const struct lm_plan_item *it, const struct job *j, const struct buffers *b, struct lm_err *e)
{
    uint32_t max = lmc_max_bits(b->f32, j->n);

    if (max >= 0x7f800000) {
        struct lmc_tally t = {0};
        lmc_tally(&t, b->f32, NULL, j->n, LM_F32);
        return lm_err_set(e, LM_UNSUPPORTED, "holds values that are not finite (%llu among elements %llu to %llu); "
                          "quantizing would spread them over whole blocks", (unsigned long long)t.n_nan,
                          (unsigned long long)j->first, (unsigned long long)(j->first + j->n - 1));
    }
    lm_dtype_info(it->dtype)->from_f32(b->out, b->f32, j->n);
    return max < 0x47000000 /* 32768 */ ? 0 : check_blocks(it->dtype, b->out, b->f32, j->n, e);
}

static int compute(struct stream *s, const struct job *j, const struct buffers *b, struct lmc_tally *t, struct lm_err *e)
{
    const struct lm_plan_item *it = &s->p->items[j->item];

    if (lmc_fetch_f32(s->p->src, it, j->first, j->n, b->raw, b->f32, e))
        return -1;
    if (lm_dtype_info(it->dtype)->kind == LM_KIND_QUANT)
        return quantize(it, j, b, e);
    bool f64 = it->src->dtype == LM_F64;
    lmc_tally(t, b->f32, f64 ? b->raw : NULL, j->n, it->dtype);
    lm_dtype_info(it->dtype)->from_f32(b->out, b->f32, j->n);
    return 0;
}

static int copy(struct stream *s, const struct lm_plan_item *it, const struct job *j, struct lmc_place at, uint8_t *buf,
                struct lm_err *e)
{
    uint64_t from = it->src->offset + lm_dtype_bytes(it->dtype, j->first);

    pthread_mutex_lock(&s->copying);
    int rc = copy_range(lm_model_file(s->p->src, it->src->file)->fd, from, at.fd, at.offset,
                        lm_dtype_bytes(it->dtype, j->n), buf, e);
    pthread_mutex_unlock(&s->copying);
    return rc;
}

static int do_job(struct stream *s, const struct job *j, const struct buffers *b, struct lmc_tally *t, struct lm_err *e)
{
    const struct lm_plan_item *it = &s->p->items[j->item];
    struct lmc_place at = s->places[j->item];
    size_t n_out = lm_dtype_bytes(it->dtype, j->n);
    const uint8_t *data = b->out;

    at.offset += lm_dtype_bytes(it->dtype, j->first);
    if (keeps_bytes(it))
        return copy(s, it, j, at, b->raw, e);
    if (!it->src)
        lm_dtype_info(it->dtype)->from_f32(b->out, it->made + j->first, j->n);
    else if (it->src->dtype != it->dtype) {
        if (compute(s, j, b, t, e))
            return -1;
    } else {
        if (lmc_fetch(s->p->src, it, j->first, j->n, b->raw, e))
            return -1;
        data = b->raw;
    }
    return lm_pwrite_all(at.fd, data, n_out, at.offset, e);
}

/* Transposing reads through the mapping: its pages leave our memory (not the
 * page cache) with the tensor. */
static void unmap(const struct lm_tensor *t)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)t->data & ~(page - 1);

    madvise((void *)from, (uintptr_t)t->data + t->n_bytes - from, MADV_DONTNEED);
}

/* Pages of a source that memory cannot hold anyway are not worth keeping. */
static void drop_behind(const struct stream *s, const struct job *j, bool last)
{
    const struct lm_plan_item *it = &s->p->items[j->item];
    const struct lm_tensor *t = it->src;

    if (t && last && it->transform == LM_T_TRANSPOSE)
        unmap(t);
    if (t && s->total >= s->large)
        posix_fadvise(lm_model_file(s->p->src, t->file)->fd, (off_t)(t->offset + lm_dtype_bytes(t->dtype, j->first)),
                      (off_t)lm_dtype_bytes(t->dtype, j->n), POSIX_FADV_DONTNEED);
}

static void *work(void *arg)
{
    struct stream *s = arg;
    struct buffers b;
    struct job j;
    struct nudge due;
    struct lm_err e = {0};

    if (make_buffers(&b, s)) {
        lm_err_set(&e, LM_NOMEM, "out of memory");
        fail(s, &e);
    }
    while (next_job(s, &j, &due)) {
        struct lmc_tally t = {0};
        int rc = lmc_stopped(s->o, &e) ? -1 : do_job(s, &j, &b, &t, &e);
        if (rc && e.code != LM_INTERRUPTED)
            lm_err_prefix(&e, "tensor '%s'", s->p->items[j.item].name);
        if (rc) {
            fail(s, &e);
            break;
        }
        drop_behind(s, &j, report(s, &j, &t));
        if (due.fd >= 0)
            sync_file_range(due.fd, (off_t)due.from, (off_t)due.n, SYNC_FILE_RANGE_WRITE);
    }
    free_buffers(&b);
    return NULL;
}

/* ---- all */

static int n_threads_of(const struct lm_run_options *o)
{
    cpu_set_t set;
    int n = o->n_threads;

    if (n <= 0)
        n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n < 1 ? 1 : n > 256 ? 256 : n;
}

static void set_sizes(struct stream *s, int n_threads)
{
    uint64_t ram = s->o->max_ram ? s->o->max_ram : DEFAULT_RAM;
    uint64_t fit = ram / 30 / (uint64_t)n_threads; /* at most 8 bytes in, 4 as f32, 8 out an element; the rest is slack */
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);

    s->piece = fit < PIECE ? fit / 4096 * 4096 : PIECE;
    if (s->piece == 0)
        s->piece = 4096;
    s->large = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page / 2 : UINT64_MAX;
    for (size_t i = 0; i < s->p->n_items; i++)
        s->total += s->p->items[i].src ? s->p->items[i].src->n_bytes : 0;
}

static void advise(const struct lm_model *m)
{
    for (size_t i = 0; i < lm_model_n_files(m); i++)
        posix_fadvise(lm_model_file(m, i)->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
}

int lmc_stream(struct lm_plan *p, const struct lmc_place *places, const struct lm_run_options *o, struct lm_err *e)
{
    struct stream s = {.p = p, .places = places, .o = o, .lock = PTHREAD_MUTEX_INITIALIZER,
                       .copying = PTHREAD_MUTEX_INITIALIZER, .sync_fd = -1};
    pthread_t threads[256];
    int n = n_threads_of(o), started = 0;

    s.finished = calloc(p->n_items + 1, sizeof *s.finished);
    if (!s.finished)
        return lm_err_set(e, LM_NOMEM, "out of memory");
    set_sizes(&s, n);
    advise(p->src);
    while (started < n - 1 && pthread_create(&threads[started], NULL, work, &s) == 0)
        started++;
    work(&s); /* this thread too: fewer threads than asked for are no error */
    while (started > 0)
        pthread_join(threads[--started], NULL);
    pthread_mutex_destroy(&s.lock);
    pthread_mutex_destroy(&s.copying);
    free(s.finished);
    if (s.failed)
        *e = s.err;
    return s.failed ? -1 : 0;
}
