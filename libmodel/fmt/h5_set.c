/* From what HDF5 files list to views of tensors, and the decoding of those
 * that do not lie in one piece. */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "libmodel/fmt/h5.h"

enum { MAX_PROCESSES = 8, DECODE_MS = 1000, DECODE_MEMORY = 48 << 20, FLOOR = 64 << 20, MAX_RATIO = 1032 };

/* ---- decoding */

struct wanted {
    struct wanted *next;
    struct lmi_blob *blob;
    struct lm_span path;
    enum lm_dtype dtype;
};

struct lmi_h5_decoder {
    struct lmi_producer producer; /* first */
    size_t file;
    uint64_t offset, size; /* the HDF5 file's bytes in it */
    struct wanted *first, **tail;
    size_t n;
    uint64_t n_bytes;
};

/* One process decodes jobs [0, n). */
struct share {
    struct lm_span file;
    const struct lmi_h5_job *jobs;
    size_t n;
    uint64_t n_bytes;
    struct lm_err e;
    int rc;
};

static void decode(struct lmi_h5_out *o, void *arg)
{
    const struct share *s = arg;

    lmi_h5_decode(o, s->file, s->jobs, s->n);
}

/* An answer with nothing but an end, or the reason. */
static int read_answer(const struct lmi_buffer *b, struct lm_err *e)
{
    struct lm_cursor c = lm_cursor_of(lm_span_of(b->data, b->n));
    uint8_t kind = lm_cur_u8(&c);
    struct lm_cursor body = lm_cursor_of(lm_cur_bytes(&c, lm_cur_u32(&c)));

    if (kind == LMI_H5_END && !c.failed)
        return 0;
    if (kind != LMI_H5_FAILED || c.failed)
        return lm_err_set(e, LM_MALFORMED, "the process of libhdf5 gave an answer that makes no sense");
    return lmi_h5_failure(&body, e);
}

static void *run_share(void *arg)
{
    struct share *s = arg;
    struct lmi_h5_limits limits = {.memory = DECODE_MEMORY + 4 * (uint64_t)s->file.size, .report = 4096,
                                   .ms = DECODE_MS + (s->n_bytes >> 13) + s->n / 4};
    struct lmi_buffer answer = {0};

    s->rc = lmi_h5_box(&answer, decode, s, &limits, &s->e);
    if (s->rc == 0)
        s->rc = read_answer(&answer, &s->e);
    free(answer.data);
    return NULL;
}

static unsigned n_processes(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;

    return n < 1 ? 1 : n > MAX_PROCESSES ? MAX_PROCESSES : (unsigned)n;
}

/* Neighbouring jobs, about the same number of bytes for each process. */
static unsigned cut(struct share *shares, unsigned n_shares, struct lm_span file, const struct lmi_h5_job *jobs, size_t n,
                    uint64_t n_bytes)
{
    uint64_t each = n_bytes / n_shares + 1;
    unsigned k = 0;

    for (size_t i = 0; i < n; i++) {
        if (k == 0 || (shares[k - 1].n_bytes >= each && k < n_shares))
            shares[k++] = (struct share){.file = file, .jobs = &jobs[i]};
        shares[k - 1].n++;
        shares[k - 1].n_bytes += jobs[i].n_bytes;
    }
    return k;
}

static int decode_all(struct lm_span file, const struct lmi_h5_job *jobs, size_t n, uint64_t n_bytes, struct lm_err *e)
{
    struct share shares[MAX_PROCESSES];
    pthread_t threads[MAX_PROCESSES];
    unsigned k = cut(shares, n_bytes < FLOOR / 8 ? 1 : n_processes(), file, jobs, n, n_bytes), started = 1;

    while (started < k && pthread_create(&threads[started], NULL, run_share, &shares[started]) == 0)
        started++;
    for (unsigned i = started; i < k; i++) /* no more threads to have: one after the other */
        run_share(&shares[i]);
    if (k)
        run_share(&shares[0]);
    for (unsigned i = 1; i < started; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < k; i++)
        if (shares[i].rc < 0) {
            *e = shares[i].e;
            return -1;
        }
    return 0;
}

static int make(struct lm_model *m, struct lmi_producer *p, uint8_t *map, struct lm_err *e)
{
    const struct lmi_h5_decoder *d = (const struct lmi_h5_decoder *)(const void *)p;
    struct lmi_h5_job *jobs = calloc(d->n + 1, sizeof *jobs);
    size_t n = 0;

    if (!jobs)
        return lmi_nomem(e);
    for (const struct wanted *w = d->first; w; w = w->next)
        if (w->blob->placed)
            jobs[n++] = (struct lmi_h5_job){w->path, w->dtype, w->blob->n_bytes, map + w->blob->offset, true};
    struct lm_span file = lm_span_of(m->files[d->file].map.data + d->offset, (size_t)d->size);
    int rc = decode_all(file, jobs, n, d->n_bytes, e);
    free(jobs);
    return rc < 0 ? lm_err_prefix(e, "%s", m->files[d->file].path) : 0;
}

static struct lmi_h5_decoder *decoder_of(struct lmi_h5_set *set, struct lmi_h5_source *s)
{
    if (s->decoder)
        return s->decoder;
    s->decoder = lm_arena_alloc(&set->m->arena, sizeof *s->decoder);
    if (s->decoder) {
        s->decoder->producer.make = make;
        s->decoder->file = s->file;
        s->decoder->offset = s->offset;
        s->decoder->size = s->span.size;
        s->decoder->tail = &s->decoder->first;
    }
    return s->decoder;
}

static int want(struct lmi_h5_set *set, struct lmi_h5_source *s, const struct lmi_h5_dataset *d, struct lmi_blob *b,
                struct lm_err *e)
{
    struct lmi_h5_decoder *x = decoder_of(set, s);
    struct wanted *w = lm_arena_alloc(&set->m->arena, sizeof *w);
    char *path = lm_arena_str(&set->m->arena, d->path);

    if (!x || !w || !path)
        return lmi_nomem(e);
    if (!lm_add_u64(x->n_bytes, b->n_bytes, &x->n_bytes) ||
        (x->n_bytes > FLOOR && x->n_bytes / MAX_RATIO > s->span.size))
        return lm_err_set(e, LM_LIMIT, "dataset '%.*s': with it more than %d times the file's %zu bytes would have to be "
                          "decoded: refused", LMI_SHOW(d->path), MAX_RATIO, s->span.size);
    *w = (struct wanted){.blob = b, .path = lm_span_of(path, d->path.size), .dtype = d->dtype};
    *x->tail = w;
    x->tail = &w->next;
    x->n++;
    b->producer = &x->producer;
    return 0;
}

/* ---- views */

int lmi_h5_view(struct lmi_view *v, struct lmi_h5_set *set, struct lmi_h5_source *s, const struct lmi_h5_dataset *d,
                struct lm_err *e)
{
    struct lmi_blob *b = lm_arena_alloc(&set->m->arena, sizeof *b);
    char *name = lm_arena_str(&set->m->arena, d->path);
    uint64_t n_elems, n_bytes;

    if (!b || !name)
        return lmi_nomem(e);
    *v = (struct lmi_view){.name = lm_span_of(name, d->path.size), .dtype = d->dtype, .big_endian = d->big_endian,
                           .n_dims = d->n_dims, .blob = b};
    memcpy(v->shape, d->shape, sizeof v->shape);
    if (lmi_tensor_measure(v->name, v->dtype, v->shape, v->n_dims, &n_elems, &n_bytes, e) < 0)
        return -1;
    lmi_view_row_major(v);
    *b = (struct lmi_blob){.file = s->file, .n_stored = n_bytes, .n_bytes = n_bytes};
    if (d->decode)
        return want(set, s, d, b, e);
    if (n_bytes == 0)
        return 0;
    if (d->n_bytes != n_bytes || d->offset > s->span.size || n_bytes > s->span.size - d->offset)
        return lm_err_set(e, LM_MALFORMED, "dataset '%.*s' takes %llu bytes; the file, of %zu bytes, gives it %llu from byte "
                          "%llu on", LMI_SHOW(d->path), (unsigned long long)n_bytes, s->span.size,
                          (unsigned long long)d->n_bytes, (unsigned long long)d->offset);
    b->offset = s->offset + d->offset;
    return 0;
}

/* Decoded into memory shared with the process that does it, then copied. */
static int decode_now(uint8_t *dst, struct lmi_h5_source *s, const struct lmi_h5_dataset *d, uint64_t n, struct lm_err *e)
{
    uint8_t *shared = mmap(NULL, (size_t)n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (shared == MAP_FAILED)
        return lm_err_errno(e, "cannot have %llu bytes of memory", (unsigned long long)n);
    struct lmi_h5_job job = {d->path, d->dtype, n, shared, false};
    int rc = decode_all(s->span, &job, 1, n, e);
    if (rc == 0)
        memcpy(dst, shared, (size_t)n);
    munmap(shared, (size_t)n);
    return rc;
}

int lmi_h5_bytes(struct lm_span *out, struct lmi_h5_set *set, struct lmi_h5_source *s, const struct lmi_h5_dataset *d,
                 struct lm_err *e)
{
    struct lmi_view v;
    uint64_t limit = (UINT64_C(16) << 20) + 3 * (uint64_t)s->span.size;
    struct lmi_h5_dataset plain = *d;

    plain.decode = false;
    plain.offset = d->decode ? 0 : d->offset;
    if (!d->decode) {
        if (lmi_h5_view(&v, set, s, &plain, e) < 0)
            return -1;
        *out = lm_span_of(s->span.data + d->offset, (size_t)v.blob->n_bytes);
        return 0;
    }
    uint64_t n = 0, elems;
    if (lmi_tensor_measure(d->path, d->dtype, d->shape, d->n_dims, &elems, &n, e) < 0)
        return -1;
    if (n > limit || set->m->arena.used > limit - n)
        return lm_err_set(e, LM_LIMIT, "'%.*s' would become %llu bytes: refused", LMI_SHOW(d->path), (unsigned long long)n);
    uint8_t *data = lm_arena_alloc(&set->m->arena, (size_t)n + 1);
    if (!data)
        return lmi_nomem(e);
    *out = lm_span_of(data, (size_t)n);
    return n ? decode_now(data, s, d, n, e) : 0;
}

/* ---- the set */

int lmi_h5_set_add(struct lmi_h5_set *set, size_t file, uint64_t offset, uint64_t n, struct lm_err *e)
{
    struct lm_span whole = set->m->files[file].map;

    if (set->n == set->capacity) {
        size_t capacity = set->capacity ? 2 * set->capacity : 4;
        struct lmi_h5_source *bigger = reallocarray(set->sources, capacity, sizeof *bigger);
        if (!bigger)
            return lmi_nomem(e);
        set->sources = bigger;
        set->capacity = capacity;
    }
    struct lmi_h5_source *s = &set->sources[set->n++];
    *s = (struct lmi_h5_source){.file = file, .offset = offset};
    s->span = lm_span_of(whole.data + offset, (size_t)n);
    return lmi_h5_list(&s->list, s->span, e);
}

void lmi_h5_set_free(struct lmi_h5_set *set)
{
    for (size_t i = 0; i < set->n; i++)
        lmi_h5_free(&set->sources[i].list);
    free(set->sources);
}

const struct lmi_h5_dataset *lmi_h5_set_find(const struct lmi_h5_set *set, struct lm_span path,
                                             struct lmi_h5_source **source)
{
    for (size_t i = 0; i < set->n; i++) {
        const struct lmi_h5_dataset *d = lmi_h5_find(&set->sources[i].list, path);
        if (d) {
            *source = &set->sources[i];
            return d;
        }
    }
    return NULL;
}
