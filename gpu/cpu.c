/* The cpu backend: always there, the reference for the others. One instance is
 * used by one caller at a time; it spreads each operation over its threads. */
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
    free(d->out);
    free(d->acts);
    lmi_moe_free(d->moe);
    d->norm = d->wide = d->out = NULL;
    d->acts = NULL;
    d->moe = NULL;
    for (int i = 0; i < d->n_threads; i++) {
        free(d->threads[i].tile);
        d->threads[i].tile = NULL;
    }
    d->n_cap = 0;
}

static size_t largest(const size_t *x, size_t n)
{
    size_t max = 0;
    for (size_t i = 0; i < n; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

/* Columns of the widest input. */
static size_t max_cols(const struct lm_config *c)
{
    const size_t all[] = {(size_t)c->n_heads * c->d_head, (size_t)c->n_heads * c->d_head_v, c->d_model, c->d_ff,
                          c->d_ff_expert, c->d_ff_shared, c->q_lora, c->kv_lora};
    return largest(all, sizeof all / sizeof *all);
}

/* Rows of the widest product that is kept whole; latent attention keeps q and its latent vector at once. */
static size_t max_rows(const struct lm_config *c)
{
    size_t q = (size_t)c->n_heads * c->d_head;
    const size_t all[] = {((size_t)c->n_heads + 2 * (size_t)c->n_kv_heads) * c->d_head, c->d_ff, c->d_ff_expert,
                          c->d_ff_shared, c->kv_lora ? q + c->q_lora + c->kv_lora + c->d_rope : 0,
                          (size_t)c->n_heads * c->d_head_v};
    return largest(all, sizeof all / sizeof *all);
}

int lmi_cpu_reserve(struct lm_dev *d, size_t n, struct lm_err *e)
{
    const struct lm_config *c = &d->net->config;

    if (n <= d->n_cap)
        return 0;
    free_scratch(d);
    d->norm = lmi_cpu_alloc(n, c->d_model * sizeof(float));
    d->wide = lmi_cpu_alloc(n, max_rows(c) * sizeof(float));
    d->out = lmi_cpu_alloc(n, c->d_model * sizeof(float));
    d->acts = lmi_cpu_alloc(1, lmi_acts_bytes(d, max_cols(c), n));
    d->moe = c->n_experts ? lmi_moe_new(d, n) : NULL;
    bool ok = d->norm && d->wide && d->out && d->acts && (d->moe || !c->n_experts);
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
    lmi_pool_free(d->pool);
    free(d);
}

static void note_panel(struct lm_dev *d, const struct lm_mat *m)
{
    size_t bytes = lmi_panel_bytes(d, m);
    d->panel_bytes = bytes > d->panel_bytes ? bytes : d->panel_bytes;
}

/* Experts may differ in type; heads do not. */
static void note_layer(struct lm_dev *d, const struct lm_layer_weights *w)
{
    const struct lm_config *c = &d->net->config;
    const struct lm_mat *all[] = {&w->q, &w->k, &w->v, &w->qkv, &w->out, &w->gate, &w->up, &w->down, &w->q_a, &w->q_b,
                                  &w->kv_a, &w->router, &w->s_gate, &w->s_up, &w->s_down, &w->s_router};
    const struct lm_mat *many[] = {w->e_gate, w->e_up, w->e_down};

    for (size_t j = 0; j < sizeof all / sizeof *all; j++)
        note_panel(d, all[j]);
    for (size_t j = 0; j < 3; j++)
        for (uint32_t x = 0; many[j] && x < c->n_experts; x++)
            note_panel(d, many[j] + x);
    if (w->k_b && w->v_b) {
        note_panel(d, w->k_b);
        note_panel(d, w->v_b);
    }
}

static void measure(struct lm_dev *d)
{
    const struct lm_net *net = d->net;
    const struct lm_config *c = &net->config;
    size_t group = net->n_kv ? c->n_heads / net->n_kv : 1, fit;

    note_panel(d, &net->head);
    for (uint32_t i = 0; i < c->n_layers; i++)
        note_layer(d, net->layers + i);
    d->d_v_pad = ((size_t)net->d_v + 15) / 16 * 16;
    d->d_task_pad = net->d_k > net->d_v ? ((size_t)net->d_k + 15) / 16 * 16 : d->d_v_pad;
    d->lds = ((size_t)net->ctx_len + 15) / 16 * 16 + 16; /* not a power of two: rows would share cache sets */
    fit = SCORE_FLOATS / d->lds;
    d->attend_rows = fit < ATTEND_ROWS ? fit : ATTEND_ROWS;
    d->attend_rows = d->attend_rows < group ? group : d->attend_rows / group * group;
}

static int open_threads(struct lm_dev *d, struct lm_err *e)
{
    d->threads = calloc((size_t)d->n_threads, sizeof *d->threads);
    d->pool = lmi_pool_new(d->n_threads);
    bool ok = d->threads && d->pool;
    for (int i = 0; ok && i < d->n_threads; i++) {
        struct lmi_thread *t = d->threads + i;
        t->panel = lmi_cpu_alloc(1, d->panel_bytes);
        t->scores = lmi_cpu_alloc(d->attend_rows, d->lds * sizeof(float));
        t->heads = lmi_cpu_alloc(2 * d->attend_rows, d->d_task_pad * sizeof(float));
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
    d->math = o->math == LM_MATH_EXACT || o->math == LM_MATH_F64 ? LM_MATH_EXACT : LM_MATH_FAST;
    d->n_threads = lmi_pool_threads(o->n_threads);
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

static int buf_move(struct lm_dev *d, struct lm_buf *b, size_t to, size_t from, size_t n, struct lm_err *e)
{
    (void)d;
    if (check_range(b, from, n, e) || check_range(b, to, n, e))
        return -1;
    memmove(b->data + to, b->data + from, n * sizeof *b->data);
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
        munmap(kv->k, kv->k_bytes);
    if (kv->v)
        munmap(kv->v, kv->v_bytes);
    free(kv);
}

/* Bytes of the keys or values of all layers; 0 when they do not fit. */
static size_t kv_size(const struct lm_dev *d, size_t ctx_pad, size_t width)
{
    uint64_t bytes;

    if (!lm_mul_u64(ctx_pad * width, (uint64_t)d->net->config.n_layers * d->net->n_kv, &bytes) ||
        !lm_mul_u64(bytes, sizeof(float), &bytes) || bytes > SIZE_MAX / 2)
        return 0;
    return (size_t)bytes;
}

static int kv_new(struct lm_kv **out, struct lm_dev *d, struct lm_err *e)
{
    struct lm_kv *kv = calloc(1, sizeof *kv);

    if (!kv)
        return lm_err_set(e, LM_NOMEM, "out of memory");
    kv->ctx_pad = ((size_t)d->net->ctx_len + LMI_LANES - 1) / LMI_LANES * LMI_LANES;
    kv->k_bytes = kv_size(d, kv->ctx_pad, d->net->d_k);
    kv->v_bytes = kv_size(d, kv->ctx_pad, d->d_v_pad);
    if (kv->k_bytes && kv->v_bytes) {
        kv->k = map_zeros(kv->k_bytes);
        kv->v = map_zeros(kv->v_bytes);
    }
    if (!kv->k || !kv->v) {
        size_t bytes = kv->k_bytes;
        kv_free(d, kv);
        return lm_err_set(e, LM_NOMEM, "out of memory for a KV cache of %u positions (2 x %zu bytes): ask for fewer",
                          d->net->ctx_len, bytes);
    }
    *out = kv;
    return 0;
}

static int kv_read(struct lm_dev *d, const struct lm_kv *kv, uint32_t layer, size_t pos, size_t n, float *k, float *v,
                   struct lm_err *e)
{
    const struct lm_config *c = &d->net->config;
    size_t dk = d->net->d_k, dv = d->net->d_v, heads = d->net->n_kv;

    if (layer >= c->n_layers || pos > d->net->ctx_len || n > d->net->ctx_len - pos)
        return lm_err_set(e, LM_USAGE, "KV rows %zu..%zu of layer %u are outside the cache", pos, pos + n, layer);
    for (size_t t = 0; t < n; t++)
        for (size_t h = 0; h < heads; h++) {
            const float *from = lmi_k_at(d, kv, layer, h, pos + t);
            float *to = k + (t * heads + h) * dk;
            for (size_t i = 0; i < dk; i++)
                to[i] = from[i * LMI_LANES];
            memcpy(v + (t * heads + h) * dv, lmi_v_at(d, kv, layer, h, pos + t), dv * sizeof *v);
        }
    return 0;
}

static int cpu_sync(struct lm_dev *d, struct lm_err *e)
{
    (void)d, (void)e;
    return 0;
}

static void cpu_watch(struct lm_dev *d, lm_watch_fn *fn, void *user)
{
    d->watch = fn;
    d->watcher = user;
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
    .buf_move = buf_move,
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
    .watch = cpu_watch,
};
