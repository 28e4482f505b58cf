/* Speed of the cuda backend on random weights of real shapes: tokens/s, and what
 * share that is of what the device was just measured to do (a copy of its
 * memory, a large bf16 product).  Works through struct lm_backend with the
 * engine's calls, so nothing is read from disk.
 *
 *   bench_cuda [7b|mistral|1b|quant]   all without argument; LM_BENCH_OPS=1 adds the time of each operation */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "gpu/net.h"

#define PROMPT 2048 /* tokens, in the engine's chunks */
#define CHUNK 512
#define DECODE 64

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void die(const struct lm_err *e)
{
    fprintf(stderr, "bench_cuda: %s\n", e->text);
    exit(1);
}
#define OK(call)                                                                                                       \
    do {                                                                                                               \
        struct lm_err e = {0};                                                                                         \
        if ((call) != 0)                                                                                               \
            die(&e);                                                                                                   \
    } while (0)

static const struct shape {
    const char *name;
    uint32_t n_layers, d_model, d_ff, n_heads, n_kv_heads, d_head, vocab;
} shapes[] = {
    {"7b", 32, 4096, 11008, 32, 32, 128, 32000},
    {"mistral", 32, 4096, 14336, 32, 8, 128, 32000},
    {"1b", 22, 2048, 5632, 32, 4, 64, 32000},
};

static void *grab(struct lm_arena *a, size_t n)
{
    void *p = lm_arena_alloc(a, n);
    struct lm_err e = {.text = "out of memory"};
    if (!p)
        die(&e);
    return p;
}

/* Random weights, the same for every matrix; each still has its own copy on the device. */
struct weights {
    struct lm_arena arena;
    enum lm_dtype dtype[2]; /* of most, of those that a mix stores better */
    uint8_t *data[2];
    uint64_t bytes_read; /* by one token: all matrices but the embedding */
    uint64_t n_params;   /* in them */
};

static void fill(struct weights *w, int k, uint64_t n_elems)
{
    enum { N = 1 << 18 };
    static float v[N];
    size_t piece = lm_dtype_bytes(w->dtype[k], N), total = lm_dtype_bytes(w->dtype[k], n_elems);
    uint64_t s = 1;

    for (int i = 0; i < N; i++) {
        s = s * 6364136223846793005u + 1442695040888963407u;
        v[i] = ((float)(s >> 40) / (1 << 24) - 0.5f) * 0.05f;
    }
    w->data[k] = grab(&w->arena, total + piece);
    lm_dtype_info(w->dtype[k])->from_f32(w->data[k], v, N);
    for (size_t at = piece; at < total; at += piece)
        memcpy(w->data[k] + at, w->data[k], piece);
}

/* k: of which of the two types. */
static struct lm_mat mat(struct weights *w, int k, uint32_t rows, uint32_t cols, const char *name)
{
    struct lm_tensor *t = grab(&w->arena, sizeof *t);
    uint64_t n = (uint64_t)rows * cols;

    *t = (struct lm_tensor){.name = name, .dtype = w->dtype[k], .n_dims = 2, .shape = {rows, cols}, .n_elems = n,
                            .n_bytes = lm_dtype_bytes(w->dtype[k], n), .data = w->data[k]};
    if (strcmp(name, "embed") != 0) {
        w->bytes_read += t->n_bytes;
        w->n_params += n;
    }
    return (struct lm_mat){.tensor = t, .rows = rows, .cols = cols};
}

static struct lm_vec ones(struct weights *w, uint32_t n)
{
    float *v = grab(&w->arena, n * sizeof *v);
    for (uint32_t i = 0; i < n; i++)
        v[i] = 1;
    return (struct lm_vec){.data = v, .n = n};
}

/* Layers whose values and down-projections Q4_K_M stores in Q6_K. */
static int is_better(uint32_t i, uint32_t n)
{
    return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
}

static void make_net(struct lm_net *net, struct weights *w, const struct shape *s)
{
    static struct lm_arch arch = {.name = "llama", .norm = LM_NORM_RMS, .act = LM_ACT_SILU, .gated = true};
    uint32_t q = s->n_heads * s->d_head, kv = s->n_kv_heads * s->d_head, ctx = PROMPT + DECODE + 64;
    uint64_t largest = (uint64_t)(s->vocab > s->d_ff ? s->vocab : s->d_ff) * s->d_model;

    fill(w, 0, largest);
    fill(w, 1, largest);
    *net = (struct lm_net){
        .config = {.arch = &arch, .n_layers = s->n_layers, .d_model = s->d_model, .d_ff = s->d_ff, .n_heads = s->n_heads,
                   .n_kv_heads = s->n_kv_heads, .d_head = s->d_head, .d_rope = s->d_head, .vocab_size = s->vocab,
                   .ctx_len = ctx, .norm_eps = 1e-5, .act = LM_ACT_SILU},
        .rope = LM_ROPE_HALF, .ctx_len = ctx, .n_kv = s->n_kv_heads, .d_k = s->d_head, .d_v = s->d_head};
    float *table = grab(&w->arena, (size_t)ctx * s->d_head / 2 * sizeof *table);
    for (size_t i = 0; i < (size_t)ctx * s->d_head / 2; i++)
        table[i] = 0.7071f;
    net->rope_cos = net->rope_sin = table;
    net->embed = mat(w, 0, s->vocab, s->d_model, "embed");
    net->head = mat(w, 1, s->vocab, s->d_model, "head");
    net->out_norm = ones(w, s->d_model);
    net->layers = grab(&w->arena, s->n_layers * sizeof *net->layers);
    for (uint32_t i = 0; i < s->n_layers; i++) {
        int better = is_better(i, s->n_layers);
        net->layers[i] = (struct lm_layer_weights){
            .attn_norm = ones(w, s->d_model), .ffn_norm = ones(w, s->d_model), .q = mat(w, 0, q, s->d_model, "q"),
            .k = mat(w, 0, kv, s->d_model, "k"), .v = mat(w, better, kv, s->d_model, "v"),
            .out = mat(w, 0, s->d_model, q, "out"), .gate = mat(w, 0, s->d_ff, s->d_model, "gate"),
            .up = mat(w, 0, s->d_ff, s->d_model, "up"), .down = mat(w, better, s->d_model, s->d_ff, "down")};
    }
}

struct run {
    const struct lm_backend *b;
    const struct shape *s;
    struct lm_dev *dev;
    struct lm_kv *kv;
    struct lm_buf *x, *q, *a;
    float *logits;
};

/* n tokens at pos0, logits of the last, as lm_session_eval does it. */
static void eval(struct run *r, const int32_t *ids, size_t n, size_t pos0)
{
    OK(r->b->embed(r->dev, r->x, ids, n, pos0, false, &e));
    for (uint32_t l = 0; l < r->s->n_layers; l++) {
        OK(r->b->qkv(r->dev, l, r->x, r->q, r->kv, n, pos0, &e));
        OK(r->b->attend(r->dev, l, r->q, r->kv, r->a, n, pos0, NULL, &e));
        OK(r->b->project(r->dev, l, r->a, r->x, n, &e));
        OK(r->b->ffn(r->dev, l, r->x, n, &e));
    }
    OK(r->b->logits(r->dev, r->x, n - 1, 1, r->logits, &e));
    OK(r->b->sync(r->dev, &e));
}

static double prefill(struct run *r, const int32_t *ids)
{
    double t = now();
    for (size_t i = 0; i < PROMPT; i += CHUNK)
        eval(r, ids + i, CHUNK, i);
    return PROMPT / (now() - t);
}

static double decode(struct run *r, const int32_t *ids)
{
    double t = now();
    for (size_t i = 0; i < DECODE; i++)
        eval(r, ids + i, 1, PROMPT + i);
    return DECODE / (now() - t);
}

/* Microseconds of each operation, queued 10 times over all layers. */
static void time_ops(struct run *r, const int32_t *ids, size_t n, size_t pos0)
{
    static const char *const names[] = {"qkv", "attend", "project", "ffn"};

    printf("    %zu tokens at %zu, us:", n, pos0);
    for (int op = 0; op < 4; op++) {
        OK(r->b->embed(r->dev, r->x, ids, n, pos0, false, &e));
        OK(r->b->sync(r->dev, &e));
        double t = now();
        for (uint32_t i = 0; i < 10 * r->s->n_layers; i++) {
            uint32_t l = i % r->s->n_layers;
            if (op == 0)
                OK(r->b->qkv(r->dev, l, r->x, r->q, r->kv, n, pos0, &e));
            else if (op == 1)
                OK(r->b->attend(r->dev, l, r->q, r->kv, r->a, n, pos0, NULL, &e));
            else if (op == 2)
                OK(r->b->project(r->dev, l, r->a, r->x, n, &e));
            else
                OK(r->b->ffn(r->dev, l, r->x, n, &e));
        }
        OK(r->b->sync(r->dev, &e));
        printf("  %s %.1f", names[op], (now() - t) * 1e6 / (10 * r->s->n_layers));
    }
    double t = now();
    for (int i = 0; i < 10; i++)
        OK(r->b->logits(r->dev, r->x, 0, 1, r->logits, &e));
    printf("  logits of one %.1f\n", (now() - t) * 1e5);
}

struct config { const char *name; enum lm_dtype dtype, better; enum lm_math math; };

static void bench(const struct lm_backend *b, const struct shape *s, const struct config *c, double bytes_per_s, double flops)
{
    struct weights w = {.dtype = {c->dtype, c->better}};
    struct lm_net net;
    struct run r = {.b = b, .s = s};
    struct lm_backend_options o = {c->math, 0, 0};
    int32_t ids[PROMPT];
    size_t q = (size_t)s->n_heads * s->d_head;

    for (int i = 0; i < PROMPT; i++)
        ids[i] = (int32_t)((uint32_t)i * 7919u % s->vocab);
    make_net(&net, &w, s);
    r.logits = malloc(s->vocab * sizeof *r.logits);
    double t = now();
    OK(b->open(&r.dev, &net, &o, &e));
    double upload = now() - t;
    OK(b->kv_new(&r.kv, r.dev, &e));
    OK(b->buf_new(&r.x, r.dev, (size_t)CHUNK * s->d_model, &e));
    OK(b->buf_new(&r.q, r.dev, CHUNK * q, &e));
    OK(b->buf_new(&r.a, r.dev, CHUNK * q, &e));
    prefill(&r, ids); /* cuBLAS chooses, scratch grows */
    decode(&r, ids);
    double many = prefill(&r, ids), one = decode(&r, ids);
    double gbs = one * (double)w.bytes_read, flop = many * 2 * (double)w.n_params;
    printf("%-7s %-6s %-6s %8.2f GB %7.2f s %10.1f %8.0f %6.1f %% %12.0f %8.1f %6.1f %%\n", s->name, c->name,
           c->math == LM_MATH_EXACT ? "exact" : "fast", (double)w.bytes_read / 1e9, upload, one, gbs / 1e9,
           100 * gbs / bytes_per_s, many, flop / 1e12, 100 * flop / flops);
    fflush(stdout);
    if (getenv("LM_BENCH_OPS")) {
        time_ops(&r, ids, 1, PROMPT);
        time_ops(&r, ids, CHUNK, PROMPT - CHUNK);
    }
    b->buf_free(r.dev, r.x);
    b->buf_free(r.dev, r.q);
    b->buf_free(r.dev, r.a);
    b->kv_free(r.dev, r.kv);
    b->close(r.dev);
    lm_arena_free(&w.arena);
    free(r.logits);
}

/* ---- quantizers: f32 in and blocks out over host memory, beside one thread of the cpu */

static void bench_quantizer(const struct lm_quantizer *q, struct lm_quantizer_dev *d, enum lm_dtype t, bool weighted)
{
    enum { WIDTH = 4096, ROWS = 8192, CPU_ROWS = 256 };
    float *x = malloc((size_t)WIDTH * ROWS * sizeof *x), *w = malloc(WIDTH * sizeof *w);
    uint8_t *out = malloc(lm_dtype_bytes(t, (uint64_t)WIDTH * ROWS));
    uint64_t s = 1;

    if (!x || !w || !out)
        die(&(struct lm_err){.text = "out of memory"});
    for (size_t i = 0; i < (size_t)WIDTH * ROWS; i++) {
        s = s * 6364136223846793005u + 1442695040888963407u;
        x[i] = ((float)(s >> 40) / (1 << 24) - 0.5f) * 0.05f;
    }
    for (int i = 0; i < WIDTH; i++)
        w[i] = 1 + (float)(i % 7);
    const float *weights = weighted ? w : NULL;
    OK(q->encode(d, t, out, x, weights, WIDTH, ROWS, &e));
    double began = now();
    OK(q->encode(d, t, out, x, weights, WIDTH, ROWS, &e));
    double gpu = (double)WIDTH * ROWS * 4 / 1e9 / (now() - began);
    began = now();
    if (weighted)
        lm_dtype_info(t)->from_f32_weighted(out, x, w, WIDTH, CPU_ROWS);
    else
        lm_dtype_info(t)->from_f32(out, x, (size_t)WIDTH * CPU_ROWS);
    double cpu = (double)WIDTH * CPU_ROWS * 4 / 1e9 / (now() - began);
    printf("%-5s%-17s %7.2f GB/s of f32, %6.1f x one thread of the cpu (%.3f GB/s)\n", lm_dtype_name(t),
           weighted ? " with importance" : "", gpu, gpu / cpu, cpu);
    fflush(stdout);
    free(x);
    free(w);
    free(out);
}

static void bench_quantizers(const struct lm_quantizer *q)
{
    static const enum lm_dtype types[] = {LM_Q8_0, LM_Q4_0, LM_Q2_K, LM_Q3_K, LM_Q4_K, LM_Q5_K, LM_Q6_K};
    struct lm_quantizer_dev *d;

    OK(q->open(&d, 0, &e));
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        for (int weighted = 0; weighted < 2; weighted++)
            if (q->can(d, types[i], weighted))
                bench_quantizer(q, d, types[i], weighted);
    q->close(d);
}

typedef int measure_fn(int device, double *bytes_per_s, double *flops, struct lm_err *e);

/* The plugin's own measurement, which is no part of the backend interface. */
static measure_fn *find_measure(const struct lm_plugin *p)
{
    Dl_info info;
    measure_fn *f = NULL;
    void *so = dladdr(p, &info) ? dlopen(info.dli_fname, RTLD_NOW) : NULL;

    if (so)
        *(void **)&f = dlsym(so, "lm_cuda_measure");
    return f;
}

int main(int argc, char **argv)
{
    static const struct config runs[] = {
        {"BF16", LM_BF16, LM_BF16, LM_MATH_FAST}, {"Q4_K_M", LM_Q4_K, LM_Q6_K, LM_MATH_FAST},
        {"Q8_0", LM_Q8_0, LM_Q8_0, LM_MATH_FAST}, {"Q6_K", LM_Q6_K, LM_Q6_K, LM_MATH_FAST},
        {"Q4_0", LM_Q4_0, LM_Q4_0, LM_MATH_FAST}, {"IQ4_XS", LM_IQ4_XS, LM_IQ4_XS, LM_MATH_FAST},
        {"MXFP4", LM_MXFP4, LM_MXFP4, LM_MATH_FAST}, {"BF16", LM_BF16, LM_BF16, LM_MATH_EXACT},
        {"Q4_K_M", LM_Q4_K, LM_Q6_K, LM_MATH_EXACT},
    };
    struct lm_err e = {0};
    const struct lm_plugin *p = lmi_plugin_cuda(&e);
    int n = p ? p->n_devices(&e) : -1;
    double bytes_per_s = 0, flops = 0;

    if (n <= 0) {
        printf("bench_cuda: skipped, %s\n", n ? e.text : "no CUDA device");
        return 0;
    }
    measure_fn *measure = find_measure(p);
    if (!measure || measure(0, &bytes_per_s, &flops, &e) != 0) {
        fprintf(stderr, "bench_cuda: %s\n", measure ? e.text : "the plugin has no lm_cuda_measure");
        return 1;
    }
    printf("device memory copy %.0f GB/s (read + written), bf16 product of 8192 %.0f TFLOP/s\n", bytes_per_s / 1e9,
           flops / 1e12);
    printf("prompt of %d tokens in chunks of %d, then %d tokens one by one\n", PROMPT, CHUNK, DECODE);
    printf("model   type   math   read a token  upload   decode t/s     GB/s  of copy  prefill t/s  TFLOP/s of product\n");
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (size_t i = 0; i < sizeof runs / sizeof *runs; i++)
            if (argc < 2 || !strcmp(argv[1], shapes[s].name))
                bench(p->backend, &shapes[s], &runs[i], bytes_per_s, flops);
    if (p->quantizer && (argc < 2 || !strcmp(argv[1], "quant")))
        bench_quantizers(p->quantizer);
    return 0;
}
