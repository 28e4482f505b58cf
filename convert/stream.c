/* One pass over the data by a few threads.
 *
 * Threads take ranges in the order of the output.  A range that keeps its bytes
 * is copied by the kernel; any other goes piece by piece through the thread's
 * own buffers: read, decode, count, encode, write.  All threads do all of that,
 * so reading, computing and writing overlap without queues, and memory does not
 * depend on the model.  How the output is cut into ranges depends on the plan
 * alone: a later run with other threads or memory finds the same ones. */
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "convert/journal.h"
#include "convert/stream.h"

enum {
    PIECE = 128 << 10,          /* elements computed at a time: buffers stay in the second-level cache */
    RANGE = 256 << 10,          /* elements handed out at a time */
    MAX_RANGES = 1 << 16,       /* about; larger models have larger ranges */
    COPY = 8 << 20,             /* bytes copied at a time */
    WINDOW = 64 << 20,          /* output bytes between nudges to the disk */
    DEFAULT_RAM = 512000000,
    LEAST_RAM = 16 << 20,       /* for buffers, however little is wanted */
    SAMPLES = 32,               /* ranges read back, about */
    SAMPLE_BYTES = 1 << 20      /* of a copied one */
};

/* A range to be read back. */
struct sample { struct lmc_range r; size_t out; bool copied; uint64_t sum; };

struct stream {
    struct lmc_outputs x;
    const struct lm_plan *p;    /* of the first output: what all share */
    const struct lm_run_options *o;
    uint64_t piece, range;      /* elements */
    struct lmc_needs needs;     /* of a thread */
    uint64_t large;             /* source bytes from which pages are dropped behind */
    uint64_t out_bytes;         /* of the first output: what shares are cut from */
    pthread_mutex_t copying;
    pthread_mutex_t lock;
    /* under the lock */
    size_t item;
    uint64_t first, at, done, total; /* at: bytes of the first output before the next range */
    int sync_fd;
    uint64_t sync_from, sync_to; /* output bytes handed out since the last nudge */
    uint64_t *finished;          /* elements, one an item */
    struct sample *samples;
    size_t n_samples, samples_room;
    bool failed;
    struct lm_err err;
};

/* ---- ranges */

static uint64_t range_of(const struct stream *s, size_t item)
{
    const struct lm_plan_item *it = &s->p->items[item];
    uint64_t unit = lmc_common_unit(&s->x, item), want = s->range;

    if (lmc_keeps_bytes(it)) {
        const struct lm_dtype_info *d = lm_dtype_info(it->dtype);
        uint64_t copy = COPY / d->block_bytes * d->block_elems;
        want = copy > want ? copy : want;
    }
    for (size_t k = 0; k < s->x.n; k++)
        if (lmc_sums_source(&s->x.of[k], item)) {
            unit = lmc_source_unit(unit);
            break;
        }
    return want > unit ? want / unit * unit : unit;
}

bool lmc_stopped(const struct lm_run_options *o, struct lm_err *e)
{
    if (!o->stop || !*o->stop)
        return false;
    lm_err_set(e, LM_INTERRUPTED, o->keep ? "interrupted; what is done is kept, and the same command goes on from there"
                                          : "interrupted; nothing was left behind");
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

static struct nudge note_output(struct stream *s, const struct lmc_range *r)
{
    const struct lm_plan_item *it = &s->p->items[r->item];
    struct lmc_place at = s->x.of[0].places[r->item];
    uint64_t from = at.offset + lm_dtype_bytes(it->dtype, r->first), to = from + lm_dtype_bytes(it->dtype, r->n);
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

/* A range belongs to the share that its first byte falls into. */
static bool is_mine(const struct stream *s, uint64_t at)
{
    if (s->o->n_parts == 0)
        return true;
    return (uint64_t)((double)at / (double)(s->out_bytes ? s->out_bytes : 1) * s->o->n_parts) + 1 == s->o->part;
}

/* The next range of all; false: there is none. */
static bool step(struct stream *s, struct lmc_range *r, uint64_t *at)
{
    while (s->item < s->p->n_items && s->first >= lm_plan_elems(&s->p->items[s->item])) {
        s->item++;
        s->first = 0;
    }
    if (s->item == s->p->n_items)
        return false;
    const struct lm_plan_item *it = &s->p->items[s->item];
    uint64_t left = lm_plan_elems(it) - s->first, n = range_of(s, s->item);
    *r = (struct lmc_range){s->item, s->first, n < left ? n : left};
    *at = s->at;
    s->first += r->n;
    s->at += lm_dtype_bytes(it->dtype, r->n);
    return true;
}

struct job { struct lmc_range r; struct nudge due; bool sampled; };

static bool next_job(struct stream *s, struct job *j)
{
    uint64_t at = 0, stride = s->out_bytes / SAMPLES + 1;
    bool got = false;

    pthread_mutex_lock(&s->lock);
    while (!s->failed && !got && step(s, &j->r, &at))
        got = is_mine(s, at);
    if (got) {
        j->due = note_output(s, &j->r);
        j->sampled = at == 0 || (at - 1) / stride != (s->at - 1) / stride;
    }
    pthread_mutex_unlock(&s->lock);
    return got;
}

/* ---- results */

static void count(struct lm_plan_item *it, const struct lmc_tally *t)
{
    it->n_overflow += t->n_overflow;
    it->n_flushed += t->n_flushed;
    it->n_nan += t->n_nan;
    it->source_sum += t->source_sum;
    lmc_errors_add(&it->errors, &t->errors);
}

static void progress(struct stream *s, const struct lmc_range *piece)
{
    const struct lm_plan_item *it = &s->p->items[piece->item];

    pthread_mutex_lock(&s->lock);
    if (it->src)
        s->done += lm_dtype_bytes(it->src->dtype, piece->n);
    if (s->o->progress)
        s->o->progress(s->o->user, s->done, s->total);
    pthread_mutex_unlock(&s->lock);
}

static int add_sample(struct stream *s, size_t out, const struct job *j, const struct lmc_done *done)
{
    const struct lmc_output *x = &s->x.of[out];
    bool copied = lmc_keeps_bytes(&x->p->items[j->r.item]) && !x->journal && !lmc_sums_source(x, j->r.item);

    if (s->n_samples == s->samples_room) {
        size_t room = s->samples_room ? 2 * s->samples_room : 64;
        struct sample *bigger = reallocarray(s->samples, room, sizeof *bigger);
        if (!bigger)
            return -1;
        s->samples = bigger;
        s->samples_room = room;
    }
    s->samples[s->n_samples++] = (struct sample){j->r, out, copied, lmc_sum_end(&done->sum)};
    return 0;
}

/* True when it was the last range of its tensor. */
static int report(struct stream *s, const struct job *j, const struct lmc_done *done, bool *last, struct lm_err *e)
{
    int rc = 0;

    pthread_mutex_lock(&s->lock);
    for (size_t k = 0; k < s->x.n; k++) {
        struct lm_plan *p = s->x.of[k].p;
        count(&p->items[j->r.item], &done[k].tally);
        p->n_ranges++;
        p->n_reused += done[k].skip;
        bool writes = !s->x.of[k].compare && !s->x.of[k].sums_only;
        if (rc == 0 && j->sampled && !done[k].skip && writes && add_sample(s, k, j, &done[k]))
            rc = lm_err_set(e, LM_NOMEM, "out of memory");
    }
    s->finished[j->r.item] += j->r.n;
    *last = s->finished[j->r.item] == lm_plan_elems(&s->p->items[j->r.item]);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

/* ---- one range */

/* What is recorded and still has its sum need not be done again. */
static int look_up(const struct stream *s, const struct lmc_range *r, struct lmc_done *done, bool *all, struct lm_err *e)
{
    *all = true;
    for (size_t k = 0; k < s->x.n; k++) {
        const struct lmc_output *x = &s->x.of[k];
        const struct lmc_record *known = x->journal ? lmc_journal_find(x->journal, r->item, r->first, r->n) : NULL;
        uint64_t sum = 0;
        if (known && lmc_read_sum(x, r, &sum, e))
            return -1;
        done[k] = (struct lmc_done){.skip = known && sum == known->sum};
        if (done[k].skip)
            done[k].tally = known->tally;
        lmc_sum_begin(&done[k].sum);
        lmc_source_begin(&done[k].source, r->first);
        *all = *all && done[k].skip;
    }
    return 0;
}

static int record(const struct stream *s, const struct lmc_range *r, const struct lmc_done *done, struct lm_err *e)
{
    for (size_t k = 0; k < s->x.n; k++) {
        struct lmc_record x = {r->item, r->first, r->n, lmc_sum_end(&done[k].sum), done[k].tally};
        if (s->x.of[k].journal && !done[k].skip && lmc_journal_add(s->x.of[k].journal, &x, e))
            return -1;
    }
    return 0;
}

static int do_pieces(struct stream *s, const struct lmc_range *r, const struct lmc_buffers *b, struct lmc_done *done,
                     struct lm_err *e)
{
    uint64_t unit = lmc_common_unit(&s->x, r->item), k = s->piece > unit ? s->piece / unit * unit : unit;
    bool copies = true;

    for (size_t i = 0; i < s->x.n; i++)
        copies = copies && lmc_keeps_bytes(&s->x.of[i].p->items[r->item]);
    k = copies ? r->n : k;
    for (uint64_t at = 0; at < r->n; at += k) {
        struct lmc_range piece = {r->item, r->first + at, r->n - at < k ? r->n - at : k};
        if (lmc_stopped(s->o, e) || lmc_piece(&s->x, &piece, b, done, e))
            return -1;
        progress(s, &piece);
    }
    for (size_t i = 0; i < s->x.n; i++)
        if (!done[i].skip && lmc_sums_source(&s->x.of[i], r->item))
            done[i].tally.source_sum = lmc_source_end(&done[i].source);
    return 0;
}

static int do_range(struct stream *s, const struct lmc_range *r, const struct lmc_buffers *b, struct lmc_done *done,
                    struct lm_err *e)
{
    bool all;

    if (lmc_stopped(s->o, e) || look_up(s, r, done, &all, e))
        return -1;
    if (all) {
        progress(s, r);
        return 0;
    }
    if (s->o->commit_only)
        return lm_err_set(e, LM_MISSING, "elements %llu to %llu are not there yet: do the missing part with --part, or all "
                          "that is missing with --resume", (unsigned long long)r->first,
                          (unsigned long long)(r->first + r->n - 1));
    return do_pieces(s, r, b, done, e) || record(s, r, done, e) ? -1 : 0;
}

/* Transposing reads through the mapping: its pages leave our memory (not the
 * page cache) with the tensor. */
static void unmap(const struct lm_tensor *whole)
{
    for (size_t i = 0; i < lm_tensor_n_members(whole); i++) {
        const struct lm_tensor *t = lm_tensor_member(whole, i);
        uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)t->data & ~(page - 1);
        if (t->packed) { /* quantized again: at most two deep */
            unmap(t);
            continue;
        }
        madvise((void *)from, (uintptr_t)t->data + t->n_bytes - from, MADV_DONTNEED);
    }
}

/* Pages of a source that memory cannot hold anyway are not worth keeping. */
static void drop_behind(const struct stream *s, const struct lmc_range *r, bool last)
{
    const struct lm_plan_item *it = &s->p->items[r->item];
    const struct lm_tensor *t = it->src;

    if (t && last && (it->transform == LM_T_TRANSPOSE || t->packed))
        unmap(t);
    for (size_t i = 0; last && i < it->n_pieces; i++)
        unmap(it->pieces[i].src);
    if (t && !it->n_pieces && !t->packed && s->total >= s->large)
        posix_fadvise(lm_model_file(s->p->src, t->file)->fd, (off_t)(t->offset + lm_dtype_bytes(t->dtype, r->first)),
                      (off_t)lm_dtype_bytes(t->dtype, r->n), POSIX_FADV_DONTNEED);
}

static int one_job(struct stream *s, const struct job *j, const struct lmc_buffers *b, struct lmc_done *done,
                   struct lm_err *e)
{
    bool last;

    if (do_range(s, &j->r, b, done, e)) {
        if (e->code != LM_INTERRUPTED)
            lm_err_prefix(e, "tensor '%s'", s->p->items[j->r.item].name);
        return -1;
    }
    if (report(s, j, done, &last, e))
        return -1;
    drop_behind(s, &j->r, last);
    if (j->due.fd >= 0)
        sync_file_range(j->due.fd, (off_t)j->due.from, (off_t)j->due.n, SYNC_FILE_RANGE_WRITE);
    return 0;
}

static void *work(void *arg)
{
    struct stream *s = arg;
    struct lmc_buffers b = {.copying = &s->copying};
    struct lmc_done *done = calloc(s->x.n, sizeof *done);
    struct lm_err e = {0};
    struct job j;

    int rc = lmc_buffers_make(&b, &s->needs) || !done ? lm_err_set(&e, LM_NOMEM, "out of memory") : 0;
    while (rc == 0 && next_job(s, &j))
        rc = one_job(s, &j, &b, done, &e);
    if (rc)
        fail(s, &e);
    lmc_buffers_free(&b);
    free(done);
    return NULL;
}

/* ---- what was written, read again */

static int check_sample(const struct stream *s, const struct sample *x, struct lm_err *e)
{
    const struct lmc_output *out = &s->x.of[x->out];
    uint64_t sum;

    if (x->copied)
        return lmc_compare_copy(out, &x->r, SAMPLE_BYTES, e);
    if (lmc_read_sum(out, &x->r, &sum, e))
        return -1;
    return sum == x->sum ? 0 : lm_err_set(e, LM_MISMATCH, "what was written is not what is read back; the disk or its "
                                          "driver is at fault");
}

static int check_samples(const struct stream *s, struct lm_err *e)
{
    for (size_t i = 0; i < s->n_samples; i++)
        if (check_sample(s, &s->samples[i], e))
            return lm_err_prefix(e, "tensor '%s'", s->p->items[s->samples[i].r.item].name);
    return 0;
}

/* ---- memory and threads */

/* Our own pages, without those of files. */
static uint64_t private_bytes(void)
{
    unsigned long long size = 0, resident = 0, shared = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    bool ok = f && fscanf(f, "%llu %llu %llu", &size, &resident, &shared) == 3 && resident > shared;

    if (f)
        fclose(f);
    return ok ? (resident - shared) * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

static int n_threads_of(const struct lm_run_options *o)
{
    cpu_set_t set;
    int n = o->n_threads;

    if (n <= 0)
        n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n < 1 ? 1 : n > 256 ? 256 : n;
}

static void measure_plan(struct stream *s)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    uint64_t elems = 0;

    for (size_t i = 0; i < s->p->n_items; i++) {
        const struct lm_plan_item *it = &s->p->items[i];
        s->total += it->src ? lm_dtype_bytes(it->src->dtype, lm_plan_elems(it)) : 0;
        s->out_bytes += lm_dtype_bytes(it->dtype, lm_plan_elems(it));
        elems += lm_plan_elems(it);
    }
    for (s->range = RANGE; s->range < elems / MAX_RANGES;)
        s->range *= 2;
    if (s->x.encoder.q && !s->o->keep && s->range < LMC_DEVICE_PIECE)
        s->range = LMC_DEVICE_PIECE;
    s->large = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page / 2 : UINT64_MAX;
}

/* Threads and pieces that fit into the memory allowed; some tensors must be
 * taken many rows at a time, and then fewer threads work. */
static int fit(struct stream *s, int *n_threads, struct lm_err *e)
{
    uint64_t ram = s->o->max_ram ? s->o->max_ram : DEFAULT_RAM, used = private_bytes(), stacks = 256 << 10;
    uint64_t room = ram > used + LEAST_RAM ? ram - used : LEAST_RAM, a_thread, most;

    /* At most 8 bytes in, 4 as f32 twice, 8 out an element; the rest is slack. */
    s->piece = room / 32 / (uint64_t)*n_threads / 4096 * 4096;
    most = s->x.encoder.q ? LMC_DEVICE_PIECE : PIECE;
    s->piece = s->piece > most ? most : s->piece ? s->piece : 4096;
    s->needs = lmc_needs_of(&s->x, s->piece);
    a_thread = s->needs.all + stacks;
    if (a_thread > room)
        return lm_err_set(e, LM_LIMIT, "tensor '%s' takes %llu MB of memory at once, and --max-ram leaves %llu: give at "
                          "least --max-ram %lluM", s->p->items[s->needs.largest].name,
                          (unsigned long long)(a_thread / 1000000 + 1), (unsigned long long)(room / 1000000),
                          (unsigned long long)((a_thread + used) / 1000000 + 2));
    if (a_thread * (uint64_t)*n_threads > room)
        *n_threads = (int)(room / a_thread);
    return 0;
}

static void advise(const struct lm_model *m)
{
    for (size_t i = 0; i < lm_model_n_files(m); i++)
        posix_fadvise(lm_model_file(m, i)->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
}

static void run_threads(struct stream *s, int n)
{
    pthread_t threads[256];
    int started = 0;

    while (started < n - 1 && pthread_create(&threads[started], NULL, work, s) == 0)
        started++;
    work(s); /* this thread too: fewer threads than asked for are no error */
    while (started > 0)
        pthread_join(threads[--started], NULL);
}

int lmc_stream(const struct lmc_output *outs, size_t n, const struct lm_run_options *o, struct lm_err *e)
{
    struct stream s = {.x = {.of = outs, .n = n, .measure = o->measure}, .p = outs[0].p, .o = o,
                       .lock = PTHREAD_MUTEX_INITIALIZER, .copying = PTHREAD_MUTEX_INITIALIZER, .sync_fd = -1};
    int n_threads = n_threads_of(o), rc;

    s.finished = calloc(s.p->n_items + 1, sizeof *s.finished);
    if (!s.finished)
        return lm_err_set(e, LM_NOMEM, "out of memory");
    rc = lmc_encoder_open(&s.x.encoder, o, e);
    if (rc == 0) {
        measure_plan(&s);
        rc = fit(&s, &n_threads, e);
    }
    if (rc == 0) {
        advise(s.p->src);
        run_threads(&s, n_threads);
        rc = s.failed ? -1 : 0;
        if (s.failed)
            *e = s.err;
    }
    if (rc == 0)
        rc = check_samples(&s, e);
    pthread_mutex_destroy(&s.lock);
    pthread_mutex_destroy(&s.copying);
    lmc_encoder_close(&s.x.encoder);
    free(s.finished);
    free(s.samples);
    return rc;
}
