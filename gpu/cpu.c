/* The cpu backend: always there, the reference for the others. One instance is
 * used by one caller at a time; it spreads each operation over its threads. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include "gpu/cpu.h"

#define ATTEND_ROWS 32
#define SCORE_FLOATS (512 * 1024) /* scores of one attention task, unless a single position needs more */

/* ---- choice of kernels */

#if defined(__x86_64__)
static bool have_f16c(void) /* clang 14 has no name for it */
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
static bool have_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
           have_f16c();
}
static bool have_avx512(void)
{
    return have_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
}
static bool have_bf16(void)
{
    return have_avx512() && __builtin_cpu_supports("avx512bf16");
}
#endif
static bool always(void)
{
    return true;
}

/* Best first. */
static const struct {
    const struct lmi_kernels *k;
    bool (*here)(void);
} kernel_sets[] = {
#if defined(__x86_64__)
    {&lmi_kernels_avx512bf16, have_bf16},
    {&lmi_kernels_avx512, have_avx512},
    {&lmi_kernels_avx2, have_avx2},
#endif
    {&lmi_kernels_portable, always},
};

const struct lmi_kernels *lmi_kernels_find(const char *name)
{
    for (size_t i = 0; i < sizeof kernel_sets / sizeof *kernel_sets; i++)
        if (kernel_sets[i].here() && (!name || !strcmp(name, kernel_sets[i].k->name)))
            return kernel_sets[i].k;
    return NULL;
}

/* ---- memory */

void *lmi_cpu_alloc(size_t n, size_t size)
{
    uint64_t bytes;

    if (!lm_mul_u64(n, size, &bytes) || !lm_align_up_u64(bytes ? bytes : 1, 64, &bytes) || bytes > SIZE_MAX / 2)
        return NULL;
    return aligned_alloc(64, (size_t)bytes);
}

static void free_scratch(struct lm_dev *d)
{
    free(d->norm);
    free(d->wide);
    free(d->acts);
    d->norm = d->wide = NULL;
    d->acts = NULL;
    for (int i = 0; i < d->n_threads; i++) {
        free(d->threads[i].tile);
        d->threads[i].tile = NULL;
    }
    d->n_cap = 0;
}

/* Columns of the widest input. */
static size_t max_cols(const struct lm_config *c)
{
    size_t q = (size_t)c->n_heads * c->d_head, k = c->d_model > c->d_ff ? c->d_model : c->d_ff;
    return q > k ? q : k;
}

int lmi_cpu_reserve(struct lm_dev *d, size_t n, struct lm_err *e)
{
    const struct lm_config *c = &d->net->config;
    size_t qkv = ((size_t)c->n_heads + 2 * (size_t)c->n_kv_heads) * c->d_head;

    if (n <= d->n_cap)
        return 0;
    free_scratch(d);
    d->norm = lmi_cpu_alloc(n, c->d_model * sizeof(float));
    d->wide = lmi_cpu_alloc(n, (qkv > c->d_ff ? qkv : c->d_ff) * sizeof(float));
    d->acts = lmi_cpu_alloc(1, lmi_acts_bytes(d, max_cols(c), n));
    bool ok = d->norm && d->wide && d->acts;
    for (int i = 0; i < d->n_threads; i++)
        ok = (d->threads[i].tile = lmi_cpu_alloc(n, LMI_ROWS * sizeof(float))) && ok;
    if (!ok) {
        free_scratch(d);
        return lm_err_set(e, LM_NOMEM, "out of memory for activations of %zu tokens", n);
    }
    d->n_cap = n;
    return 0;
}

/* ---- open and close */

static void cpu_close(struct lm_dev *d)
{
    if (!d)
        return;
    if (d->threads) {
        free_scratch(d);
        for (int i = 0; i < d->n_threads; i++) {
            free(d->threads[i].panel);
            free(d->threads[i].scores);
            free(d->threads[i].heads);
        }
    }
    free(d->threads);
    free(d);
}

static void note_panel(struct lm_dev *d, const struct lm_mat *m)
{
    size_t bytes = lmi_panel_bytes(d, m);
    d->panel_bytes = bytes > d->panel_bytes ? bytes : d->panel_bytes;
}

static void measure(struct lm_dev *d)
{
    const struct lm_net *net = d->net;
    const struct lm_config *c = &net->config;
    size_t group = c->n_heads / c->n_kv_heads, fit;

    note_panel(d, &net->head);
    for (uint32_t i = 0; i < c->n_layers; i++) {
        const struct lm_layer_weights *w = net->layers + i;
        const struct lm_mat *all[] = {&w->q, &w->k, &w->v, &w->qkv, &w->out, &w->gate, &w->up, &w->down};
        for (size_t j = 0; j < sizeof all / sizeof *all; j++)
            note_panel(d, all[j]);
    }
    d->d_head_pad = (c->d_head + 15) / 16 * 16;
    d->lds = ((size_t)net->ctx_len + 15) / 16 * 16 + 16; /* not a power of two: rows would share cache sets */
    fit = SCORE_FLOATS / d->lds;
    d->attend_rows = fit < ATTEND_ROWS ? fit : ATTEND_ROWS;
    d->attend_rows = d->attend_rows < group ? group : d->attend_rows / group * group;
}

static int open_threads(struct lm_dev *d, struct lm_err *e)
{
    d->threads = calloc((size_t)d->n_threads, sizeof *d->threads);
    bool ok = d->threads != NULL;
    for (int i = 0; ok && i < d->n_threads; i++) {
        struct lmi_thread *t = d->threads + i;
        t->panel = lmi_cpu_alloc(1, d->panel_bytes);
        t->scores = lmi_cpu_alloc(d->attend_rows, d->lds * sizeof(float));
        t->heads = lmi_cpu_alloc(2 * d->attend_rows, d->d_head_pad * sizeof(float));
        ok = t->panel && t->scores && t->heads;
    }
    return ok ? 0 : lm_err_set(e, LM_NOMEM, "out of memory for the scratch of %d threads", d->n_threads);
}

int lmi_cpu_open(struct lm_dev **out, struct lm_net *net, const struct lm_backend_options *o,
                 const struct lmi_kernels *kernels, struct lm_err *e)
{
    struct lm_dev *d = calloc(1, sizeof *d);

    if (!d)
        return lm_err_set(e, LM_NOMEM, "out of memory");
    d->net = net;
    d->math = o->math == LM_MATH_EXACT ? LM_MATH_EXACT : LM_MATH_FAST;
    d->n_threads = o->n_threads > 0 ? o->n_threads : omp_get_num_procs();
    d->kernels = kernels;
    measure(d);
    if (open_threads(d, e)) {
        cpu_close(d);
        return -1;
    }
    *out = d;
    return 0;
}

static int cpu_open(struct lm_dev **out, struct lm_net *net, const struct lm_backend_options *o, struct lm_err *e)
{
    return lmi_cpu_open(out, net, o, lmi_kernels_find(NULL), e);
}

static void cpu_describe(const struct lm_dev *d, char *buf, size_t size)
{
    snprintf(buf, size, "cpu, %d thread%s, %s, %s", d->n_threads, d->n_threads == 1 ? "" : "s", d->kernels->name,
             d->math == LM_MATH_EXACT ? "exact" : "fast");
}

/* ---- buffers */

static int buf_new(struct lm_buf **out, struct lm_dev *d, size_t n_floats, struct lm_err *e)
{
    struct lm_buf *b = malloc(sizeof *b);

    (void)d;
    if (b && (b->data = lmi_cpu_alloc(n_floats, sizeof(float)))) {
        b->n = n_floats;
        *out = b;
        return 0;
    }
    free(b);
    return lm_err_set(e, LM_NOMEM, "out of memory for %zu activations", n_floats);
}

static void buf_free(struct lm_dev *d, struct lm_buf *b)
{
    (void)d;
    if (b)
        free(b->data);
    free(b);
}

static int check_range(const struct lm_buf *b, size_t first, size_t n, struct lm_err *e)
{
    if (first <= b->n && n <= b->n - first)
        return 0;
    return lm_err_set(e, LM_USAGE, "%zu activations from %zu on, but the buffer has %zu", n, first, b->n);
}

static int buf_read(struct lm_dev *d, const struct lm_buf *b, size_t first, size_t n, float *host, struct lm_err *e)
{
    (void)d;
    if (check_range(b, first, n, e))
        return -1;
    memcpy(host, b->data + first, n * sizeof *host);
    return 0;
}

static int buf_write(struct lm_dev *d, struct lm_buf *b, size_t first, size_t n, const float *host, struct lm_err *e)
{
    (void)d;
    if (check_range(b, first, n, e))
        return -1;
    memcpy(b->data + first, host, n * sizeof *host);
    return 0;
}

/* ---- KV cache: mapped, so that only positions that are used take memory, and zero */

static float *map_zeros(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void kv_free(struct lm_dev *d, struct lm_kv *kv)
{
    (void)d;
    if (!kv)
        return;
    if (kv->k)
        munmap(kv->k, kv->n_bytes);
    if (kv->v)
        munmap(kv->v, kv->n_bytes);
    free(kv);
}

static int kv_new(struct lm_kv **out, struct lm_dev *d, struct lm_err *e)
{
    const struct lm_config *c = &d->net->config;
    struct lm_kv *kv = calloc(1, sizeof *kv);
    uint64_t bytes = 0;

    if (!kv)
        return lm_err_set(e, LM_NOMEM, "out of memory");
    kv->ctx_pad = ((size_t)d->net->ctx_len + LMI_LANES - 1) / LMI_LANES * LMI_LANES;
    if (lm_mul_u64(kv->ctx_pad * d->d_head_pad, (uint64_t)c->n_layers * c->n_kv_heads, &bytes) &&
        lm_mul_u64(bytes, sizeof(float), &bytes) && bytes <= SIZE_MAX / 2) {
        kv->n_bytes = (size_t)bytes;
        kv->k = map_zeros(kv->n_bytes);
        kv->v = map_zeros(kv->n_bytes);
    }
    if (!kv->k || !kv->v) {
        kv_free(d, kv);
        return lm_err_set(e, LM_NOMEM, "out of memory for a KV cache of %u positions (2 x %llu bytes): ask for fewer",
                          d->net->ctx_len, (unsigned long long)bytes);
    }
    *out = kv;
    return 0;
}

static int kv_read(struct lm_dev *d, const struct lm_kv *kv, uint32_t layer, size_t pos, size_t n, float *k, float *v,
                   struct lm_err *e)
{
    const struct lm_config *c = &d->net->config;
    size_t dh = c->d_head;

    if (layer >= c->n_layers || pos > d->net->ctx_len || n > d->net->ctx_len - pos)
        return lm_err_set(e, LM_USAGE, "KV rows %zu..%zu of layer %u are outside the cache", pos, pos + n, layer);
    for (size_t t = 0; t < n; t++)
        for (size_t h = 0; h < c->n_kv_heads; h++) {
            const float *from = lmi_k_at(d, kv, layer, h, pos + t);
            float *to = k + (t * c->n_kv_heads + h) * dh;
            for (size_t i = 0; i < dh; i++)
                to[i] = from[i * LMI_LANES];
            memcpy(v + (t * c->n_kv_heads + h) * dh, lmi_v_at(d, kv, layer, h, pos + t), dh * sizeof *v);
        }
    return 0;
}

static int cpu_sync(struct lm_dev *d, struct lm_err *e)
{
    (void)d, (void)e;
    return 0;
}

const struct lm_backend lm_backend_cpu = {
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .describe = cpu_describe,
    .buf_new = buf_new,
    .buf_free = buf_free,
    .buf_read = buf_read,
    .buf_write = buf_write,
    .kv_new = kv_new,
    .kv_free = kv_free,
    .embed = lmi_cpu_embed,
    .qkv = lmi_cpu_qkv,
    .attend = lmi_cpu_attend,
    .project = lmi_cpu_project,
    .ffn = lmi_cpu_ffn,
    .logits = lmi_cpu_logits,
    .kv_read = kv_read,
    .sync = cpu_sync,
};
