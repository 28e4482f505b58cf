/* The cuda backend against the cpu backend, operation by operation, then whole
 * models through the engine.  Without plugin or device everything is skipped
 * with the reason (REQUIRE_GPU=1 makes that a failure).  A difference is one
 * line: operation, layer, types, shape, where, both values; all of a test are
 * printed before it fails.  tests/gpu/emulate runs the same without a GPU. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "gpu/net.h"

static const struct lm_backend *cuda;
static bool emulated; /* slow: the large shapes are left out */
static char why_not[1400];
static int n_differences;

/* ---- random numbers */

static uint64_t state = 1;

static float uniform(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)(state >> 40) / (1 << 24) * 2 - 1;
}

/* About normal, deviation 1. */
static float gauss(void)
{
    return (uniform() + uniform() + uniform() + uniform()) * 0.866f;
}

static float *random_floats(size_t n, float scale)
{
    float *v = malloc(n * sizeof *v);
    assert_non_null(v);
    for (size_t i = 0; i < n; i++)
        v[i] = gauss() * scale;
    return v;
}

/* ---- small networks of every kind */

struct shape {
    const char *name;
    uint32_t d_model, d_ff, n_heads, n_kv_heads, d_head, d_rope, vocab, ctx_len, window;
    enum lm_norm norm;
    enum lm_act act;
    enum lm_rope_pairs rope;
    bool gated, learned, fused, transposed, tied, biases;
    bool blocks; /* every row is a multiple of 256: block types are possible */
};

#define RMS LM_NORM_RMS
#define LAY LM_NORM_LAYER
static const struct shape shapes[] = {
    {"llama", 256, 512, 8, 2, 32, 32, 300, 400, 0, RMS, LM_ACT_SILU, LM_ROPE_HALF, true, false, false, false, false, false, true},
    {"adjacent pairs, partial rotation, window, biases", 256, 768, 4, 4, 64, 32, 123, 400, 40, RMS, LM_ACT_GELU_ERF,
     LM_ROPE_ADJACENT, true, false, false, false, true, true, true},
    {"gpt2", 256, 512, 4, 4, 64, 0, 200, 400, 0, LAY, LM_ACT_GELU_TANH, LM_ROPE_NONE, false, true, true, false, true, true, true},
    {"gpt2, transposed", 64, 192, 4, 4, 16, 0, 77, 300, 0, LAY, LM_ACT_GELU_TANH, LM_ROPE_NONE, false, true, true, true, true,
     true, false},
    {"odd widths", 36, 50, 3, 3, 12, 12, 29, 300, 0, RMS, LM_ACT_RELU, LM_ROPE_HALF, true, false, false, false, false, true, false},
    {"one key head for twelve", 96, 128, 12, 1, 24, 24, 64, 300, 150, RMS, LM_ACT_SILU, LM_ROPE_HALF, true, false, false, false,
     false, false, false},
    {"heads of 256", 256, 256, 2, 1, 256, 256, 64, 200, 0, RMS, LM_ACT_SILU, LM_ROPE_HALF, true, false, false, false, false, false,
     true},
};
static const struct shape large = {"1B", 2048, 2816, 32, 4, 64, 64, 1000, 400, 0, RMS, LM_ACT_SILU, LM_ROPE_HALF,
                                   true, false, false, false, false, false, true};
static const struct shape long_rows = {"rows beyond shared memory", 256, 17408, 4, 2, 64, 64, 64, 64, 0, RMS, LM_ACT_SILU,
                                       LM_ROPE_HALF, true, false, false, false, false, false, true};

static const enum lm_dtype plain_types[] = {LM_F32, LM_F16, LM_BF16, LM_F64, LM_F8_E4M3, LM_F8_E5M2};
static const enum lm_dtype block_types[] = {LM_Q4_0, LM_Q4_1, LM_Q5_0, LM_Q5_1, LM_Q8_0,
                                            LM_Q2_K, LM_Q3_K, LM_Q4_K, LM_Q5_K, LM_Q6_K};
#define N_OF(a) (sizeof(a) / sizeof *(a))

struct small_net {
    const struct shape *shape;
    struct lm_arch arch;
    struct lm_net net;
    struct lm_arena arena;
    const char *types;
};

static void *from_arena(struct small_net *s, size_t n)
{
    void *p = lm_arena_alloc(&s->arena, n);
    assert_non_null(p);
    return p;
}

static float *arena_floats(struct small_net *s, size_t n, float scale, float shift)
{
    float *v = from_arena(s, n * sizeof *v);
    for (size_t i = 0; i < n; i++)
        v[i] = gauss() * scale + shift;
    return v;
}

static void set_mat(struct small_net *s, struct lm_mat *m, enum lm_dtype t, uint32_t rows, uint32_t cols, const char *name)
{
    const struct lm_dtype_info *i = lm_dtype_info(t);
    struct lm_tensor *tensor = from_arena(s, sizeof *tensor);
    bool turned = s->shape->transposed && strcmp(name, "embed") != 0 && strcmp(name, "positions") != 0;
    float *v = arena_floats(s, (size_t)rows * cols, 1 / sqrtf((float)cols), 0);
    char *label = from_arena(s, 80);

    snprintf(label, 80, "%s (%s %u x %u%s)", name, i->name, rows, cols, turned ? ", transposed" : "");
    *tensor = (struct lm_tensor){.name = label, .dtype = t, .n_dims = 2, .shape = {turned ? cols : rows, turned ? rows : cols},
                                 .n_elems = (uint64_t)rows * cols, .n_bytes = lm_dtype_bytes(t, (uint64_t)rows * cols)};
    uint8_t *data = from_arena(s, (size_t)tensor->n_bytes);
    assert_non_null(i->from_f32);
    i->from_f32(data, v, (size_t)tensor->n_elems);
    tensor->data = data;
    *m = (struct lm_mat){.tensor = tensor, .rows = rows, .cols = cols, .transposed = turned};
    if (s->shape->biases && strcmp(name, "embed") != 0 && strcmp(name, "positions") != 0 && strcmp(name, "head") != 0)
        m->bias = arena_floats(s, rows, 0.3f, 0);
}

static void set_vec(struct small_net *s, struct lm_vec *v, uint32_t n, float shift)
{
    v->data = arena_floats(s, n, 0.2f, shift);
    v->n = n;
}

static void set_norm(struct small_net *s, struct lm_vec *w, struct lm_vec *b)
{
    set_vec(s, w, s->shape->d_model, 1);
    if (s->shape->norm == LM_NORM_LAYER)
        set_vec(s, b, s->shape->d_model, 0);
}

/* types[i % n_types] for the matrices of a layer, so that mixtures come up too. */
static void set_layer(struct small_net *s, struct lm_layer_weights *l, const enum lm_dtype *types, size_t n_types)
{
    const struct shape *p = s->shape;
    uint32_t q = p->n_heads * p->d_head, kv = p->n_kv_heads * p->d_head;

    set_norm(s, &l->attn_norm, &l->attn_norm_b);
    set_norm(s, &l->ffn_norm, &l->ffn_norm_b);
    if (p->fused) {
        set_mat(s, &l->qkv, types[0], q + 2 * kv, p->d_model, "qkv");
    } else {
        set_mat(s, &l->q, types[0], q, p->d_model, "q");
        set_mat(s, &l->k, types[1 % n_types], kv, p->d_model, "k");
        set_mat(s, &l->v, types[2 % n_types], kv, p->d_model, "v");
    }
    set_mat(s, &l->out, types[3 % n_types], p->d_model, q, "out");
    if (p->gated)
        set_mat(s, &l->gate, types[4 % n_types], p->d_ff, p->d_model, "gate");
    set_mat(s, &l->up, types[5 % n_types], p->d_ff, p->d_model, "up");
    set_mat(s, &l->down, types[6 % n_types], p->d_model, p->d_ff, "down");
}

static void set_rope(struct small_net *s)
{
    size_t half = s->shape->d_rope / 2;
    float *c = from_arena(s, s->shape->ctx_len * half * sizeof *c + 1), *n = from_arena(s, s->shape->ctx_len * half * sizeof *n + 1);

    for (size_t p = 0; p < s->shape->ctx_len; p++)
        for (size_t j = 0; j < half; j++) {
            double a = (double)p * pow(10000, -(double)j / (double)half);
            c[p * half + j] = (float)cos(a);
            n[p * half + j] = (float)sin(a);
        }
    s->net.rope_cos = c;
    s->net.rope_sin = n;
}

static void net_make(struct small_net *s, const struct shape *p, const enum lm_dtype *types, size_t n_types)
{
    *s = (struct small_net){.shape = p};
    s->types = n_types == 1 ? lm_dtype_name(types[0]) : "mixed types";
    s->arch = (struct lm_arch){.name = "test", .norm = p->norm, .act = p->act, .gated = p->gated, .learned_positions = p->learned};
    s->net.config = (struct lm_config){.arch = &s->arch, .n_layers = 2, .d_model = p->d_model, .d_ff = p->d_ff,
                                       .n_heads = p->n_heads, .n_kv_heads = p->n_kv_heads, .d_head = p->d_head,
                                       .d_rope = p->d_rope, .vocab_size = p->vocab, .ctx_len = p->ctx_len,
                                       .sliding_window = p->window, .norm_eps = 1e-5, .act = p->act, .tied = p->tied};
    s->net.rope = p->rope;
    s->net.ctx_len = p->ctx_len;
    s->net.n_kv = p->n_kv_heads;
    s->net.d_k = s->net.d_v = p->d_head;
    set_rope(s);
    set_mat(s, &s->net.embed, types[0], p->vocab, p->d_model, "embed");
    if (p->learned)
        set_mat(s, &s->net.pos_embed, types[0], p->ctx_len, p->d_model, "positions");
    if (p->tied)
        s->net.head = s->net.embed;
    else
        set_mat(s, &s->net.head, types[n_types - 1], p->vocab, p->d_model, "head");
    set_norm(s, &s->net.out_norm, &s->net.out_norm_b);
    s->net.layers = from_arena(s, 2 * sizeof *s->net.layers);
    for (int i = 0; i < 2; i++) {
        set_layer(s, &s->net.layers[i], types, n_types);
        s->net.layers[i].window = p->window;
    }
}

/* ---- one backend running it */

struct side {
    const struct lm_backend *b;
    struct lm_net net; /* its own: handles differ */
    struct lm_layer_weights layers[2];
    struct lm_dev *dev;
    struct lm_kv *kv;
    struct lm_buf *x, *q, *a;
};

#define OK(call)                                                                                                       \
    do {                                                                                                               \
        struct lm_err e = {0};                                                                                         \
        if ((call) != 0)                                                                                               \
            fail_msg("%s: %s", #call, e.text);                                                                         \
    } while (0)

static void side_open(struct side *s, const struct lm_backend *b, const struct small_net *n, enum lm_math math, size_t n_tokens)
{
    struct lm_backend_options o = {math, 0, 0};
    size_t q = (size_t)n->shape->n_heads * n->shape->d_head;

    *s = (struct side){.b = b, .net = n->net};
    memcpy(s->layers, n->net.layers, sizeof s->layers);
    s->net.layers = s->layers;
    OK(b->open(&s->dev, &s->net, &o, &e));
    OK(b->kv_new(&s->kv, s->dev, &e));
    OK(b->buf_new(&s->x, s->dev, n_tokens * n->shape->d_model, &e));
    OK(b->buf_new(&s->q, s->dev, n_tokens * q, &e));
    OK(b->buf_new(&s->a, s->dev, n_tokens * q, &e));
}

static void side_close(struct side *s)
{
    s->b->buf_free(s->dev, s->x);
    s->b->buf_free(s->dev, s->q);
    s->b->buf_free(s->dev, s->a);
    s->b->kv_free(s->dev, s->kv);
    s->b->close(s->dev);
}

static float *read_buf(struct side *s, struct lm_buf *b, size_t n)
{
    float *v = malloc(n * sizeof *v);
    assert_non_null(v);
    OK(s->b->buf_read(s->dev, b, 0, n, v, &e));
    return v;
}

/* ---- comparing */

struct pair {
    const struct small_net *n;
    enum lm_math math;
    struct side cpu, gpu;
    size_t tokens, pos0;
    int layer;
};

static const char *math_name(enum lm_math m)
{
    static const char *const names[] = {"exact", "fast", "tf32", "bf16"};
    return names[m];
}

/* The largest difference, as a share of the deviation of what is expected. */
static void compare(const struct pair *p, const char *op, const struct lm_mat *m, const float *got, const float *want,
                    size_t rows, size_t width, double tolerance)
{
    double sum = 0, worst = -1;
    size_t at = 0, n = rows * width;

    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        sum += (double)want[i] * (double)want[i];
        if (!(d <= worst)) {
            worst = d;
            at = i;
            if (isnan(d))
                break;
        }
    }
    double scale = sqrt(sum / (double)n);
    if (worst <= tolerance * scale)
        return;
    n_differences++;
    printf("DIFFERS %-22s %s, %s, %s, layer %d, %zu tokens at %zu%s%s: [%zu, %zu] is %.9g, cpu says %.9g: "
           "%.3g of the deviation %.3g, allowed %.3g\n",
           op, p->n->shape->name, p->n->types, math_name(p->math), p->layer, p->tokens, p->pos0, m && m->tensor ? ", " : "",
           m && m->tensor ? m->tensor->name : "", at / width, at % width, (double)got[at], (double)want[at], worst / scale,
           scale, tolerance);
}

static void write_both(struct pair *p, struct lm_buf *cpu, struct lm_buf *gpu, const float *v, size_t n)
{
    OK(p->cpu.b->buf_write(p->cpu.dev, cpu, 0, n, v, &e));
    OK(p->gpu.b->buf_write(p->gpu.dev, gpu, 0, n, v, &e));
}

static void compare_bufs(struct pair *p, const char *op, const struct lm_mat *m, struct lm_buf *cpu, struct lm_buf *gpu,
                         size_t width, double tolerance)
{
    float *want = read_buf(&p->cpu, cpu, p->tokens * width), *got = read_buf(&p->gpu, gpu, p->tokens * width);
    compare(p, op, m, got, want, p->tokens, width, tolerance);
    free(want);
    free(got);
}

/* Share of a result's deviation that products may be off by: rounding of f32
 * sums; of activations to 8 bits per 32; of both factors to bf16 or TF32. */
static double tolerance(const struct pair *p)
{
    enum lm_dtype t = p->n->net.layers[0].up.tensor->dtype;
    bool block = lm_dtype_info(t)->kind == LM_KIND_QUANT, few = p->tokens <= 8;

    if (p->math == LM_MATH_EXACT || (few && !(p->math == LM_MATH_FAST && block)))
        return 3e-5;
    if (p->math == LM_MATH_TF32 || (p->math == LM_MATH_FAST && t == LM_F16))
        return 0.01;
    if (p->math == LM_MATH_FAST && (t == LM_F32 || t == LM_F64))
        return 3e-5;
    return few ? 0.06 : 0.03;
}

/* ---- the operations */

static void check_embed(struct pair *p)
{
    const struct shape *s = p->n->shape;
    int32_t ids[64];

    for (size_t i = 0; i < p->tokens; i++)
        ids[i] = (int32_t)((i * 7919 + p->pos0) % s->vocab);
    for (int add = 0; add <= (s->learned ? 1 : 0); add++) {
        OK(p->cpu.b->embed(p->cpu.dev, p->cpu.x, ids, p->tokens, p->pos0, add, &e));
        OK(p->gpu.b->embed(p->gpu.dev, p->gpu.x, ids, p->tokens, p->pos0, add, &e));
        compare_bufs(p, add ? "embed + positions" : "embed", &p->n->net.embed, p->cpu.x, p->gpu.x, s->d_model, 0);
    }
}

static void run_qkv(struct side *s, const struct pair *p, const float *x, size_t n, size_t pos0)
{
    size_t d = p->n->shape->d_model;
    OK(s->b->buf_write(s->dev, s->x, 0, n * d, x, &e));
    OK(s->b->qkv(s->dev, (uint32_t)p->layer, s->x, s->q, s->kv, n, pos0, &e));
}

static void check_qkv(struct pair *p, const float *x)
{
    const struct shape *s = p->n->shape;
    const struct lm_layer_weights *l = &p->n->net.layers[p->layer];
    size_t kv = (size_t)s->n_kv_heads * s->d_head, n = p->tokens * kv;
    float *k[2], *v[2];

    run_qkv(&p->cpu, p, x, p->tokens, p->pos0);
    run_qkv(&p->gpu, p, x, p->tokens, p->pos0);
    compare_bufs(p, "qkv: q", s->fused ? &l->qkv : &l->q, p->cpu.q, p->gpu.q, (size_t)s->n_heads * s->d_head, tolerance(p));
    for (int i = 0; i < 2; i++) {
        struct side *side = i ? &p->gpu : &p->cpu;
        k[i] = malloc(n * sizeof **k);
        v[i] = malloc(n * sizeof **v);
        assert_true(k[i] && v[i]);
        OK(side->b->kv_read(side->dev, side->kv, (uint32_t)p->layer, p->pos0, p->tokens, k[i], v[i], &e));
    }
    compare(p, "qkv: k", s->fused ? &l->qkv : &l->k, k[1], k[0], p->tokens, kv, tolerance(p));
    compare(p, "qkv: v", s->fused ? &l->qkv : &l->v, v[1], v[0], p->tokens, kv, tolerance(p));
    for (int i = 0; i < 2; i++) {
        free(k[i]);
        free(v[i]);
    }
}

/* The caches may differ by what products may differ; attention itself is f32
 * (TF32 for 32 tokens and more unless exact). */
static void check_attend(struct pair *p, const float *q)
{
    const struct shape *s = p->n->shape;
    size_t width = (size_t)s->n_heads * s->d_head, keys = p->pos0 + p->tokens;
    float *probs[2] = {malloc(s->n_heads * keys * sizeof(float)), malloc(s->n_heads * keys * sizeof(float))};
    double allowed = 2 * tolerance(p) + 1e-4;

    assert_true(probs[0] && probs[1]);
    if (p->math != LM_MATH_EXACT)
        allowed = allowed < 0.1 ? 0.1 : allowed;
    write_both(p, p->cpu.q, p->gpu.q, q, p->tokens * width);
    OK(p->cpu.b->attend(p->cpu.dev, (uint32_t)p->layer, p->cpu.q, p->cpu.kv, p->cpu.a, p->tokens, p->pos0, probs[0], &e));
    OK(p->gpu.b->attend(p->gpu.dev, (uint32_t)p->layer, p->gpu.q, p->gpu.kv, p->gpu.a, p->tokens, p->pos0, probs[1], &e));
    compare_bufs(p, "attend", NULL, p->cpu.a, p->gpu.a, width, allowed);
    compare(p, "attend: probabilities", NULL, probs[1], probs[0], s->n_heads, keys, allowed);
    free(probs[0]);
    free(probs[1]);
}

static void check_project(struct pair *p, const float *x, const float *a)
{
    const struct shape *s = p->n->shape;

    write_both(p, p->cpu.x, p->gpu.x, x, p->tokens * s->d_model);
    write_both(p, p->cpu.a, p->gpu.a, a, p->tokens * s->n_heads * s->d_head);
    OK(p->cpu.b->project(p->cpu.dev, (uint32_t)p->layer, p->cpu.a, p->cpu.x, p->tokens, &e));
    OK(p->gpu.b->project(p->gpu.dev, (uint32_t)p->layer, p->gpu.a, p->gpu.x, p->tokens, &e));
    compare_bufs(p, "project", &p->n->net.layers[p->layer].out, p->cpu.x, p->gpu.x, s->d_model, tolerance(p));
}

static void check_ffn(struct pair *p, const float *x)
{
    const struct shape *s = p->n->shape;

    write_both(p, p->cpu.x, p->gpu.x, x, p->tokens * s->d_model);
    OK(p->cpu.b->ffn(p->cpu.dev, (uint32_t)p->layer, p->cpu.x, p->tokens, &e));
    OK(p->gpu.b->ffn(p->gpu.dev, (uint32_t)p->layer, p->gpu.x, p->tokens, &e));
    compare_bufs(p, "ffn", &p->n->net.layers[p->layer].down, p->cpu.x, p->gpu.x, s->d_model, 2 * tolerance(p));
}

static void check_logits(struct pair *p, const float *x)
{
    const struct shape *s = p->n->shape;
    size_t n = p->tokens * s->vocab, first = p->tokens > 1 ? 1 : 0, rows = p->tokens - first;
    float *want = malloc(n * sizeof *want), *got = malloc(n * sizeof *got);

    assert_true(want && got);
    write_both(p, p->cpu.x, p->gpu.x, x, p->tokens * s->d_model);
    OK(p->cpu.b->logits(p->cpu.dev, p->cpu.x, first, rows, want, &e));
    OK(p->gpu.b->logits(p->gpu.dev, p->gpu.x, first, rows, got, &e));
    compare(p, "logits", &p->n->net.head, got, want, rows, s->vocab, tolerance(p));
    free(want);
    free(got);
}

/* All operations for one number of tokens; the caches hold pos0 rows before. */
static void check_ops(struct pair *p, size_t tokens, size_t pos0)
{
    const struct shape *s = p->n->shape;
    size_t wide = s->d_model > s->n_heads * s->d_head ? s->d_model : s->n_heads * s->d_head;
    float *x = random_floats(64 * wide, 1), *a = random_floats(64 * wide, 1);

    p->layer = (int)(tokens % 2);
    for (size_t at = 0; at < pos0; at += 64) {
        size_t n = pos0 - at < 64 ? pos0 - at : 64;
        run_qkv(&p->cpu, p, x, n, at);
        run_qkv(&p->gpu, p, x, n, at);
    }
    p->tokens = tokens;
    p->pos0 = pos0;
    check_embed(p);
    check_qkv(p, a);
    check_attend(p, x);
    check_project(p, x, a);
    check_ffn(p, x);
    check_logits(p, x);
    free(x);
    free(a);
}

struct call { size_t tokens, pos0; };
static const struct call all_calls[] = {{1, 0}, {3, 0}, {8, 5}, {9, 0}, {40, 0}, {1, 127}, {1, 128}, {33, 120}, {1, 280}, {64, 130}};
static const struct call few_calls[] = {{1, 9}, {5, 10}, {40, 0}};
static const struct call window_calls[] = {{1, 0}, {9, 0}, {1, 128}, {33, 120}, {1, 280}};

static void check_net(const struct shape *s, const enum lm_dtype *types, size_t n_types, enum lm_math math,
                      const struct call *calls, size_t n_calls)
{
    struct small_net n;
    struct pair p = {.n = &n, .math = math};

    net_make(&n, s, types, n_types);
    side_open(&p.cpu, &lm_backend_cpu, &n, LM_MATH_EXACT, 64);
    side_open(&p.gpu, cuda, &n, math, 64);
    for (size_t i = 0; i < n_calls; i++)
        if (calls[i].tokens + calls[i].pos0 <= s->ctx_len)
            check_ops(&p, calls[i].tokens, calls[i].pos0);
    side_close(&p.cpu);
    side_close(&p.gpu);
    lm_arena_free(&n.arena);
}

static int start_anew(void **unused)
{
    (void)unused;
    n_differences = 0;
    state = 1;
    return 0;
}

/* First line of every test. */
#define NEED_GPU()                                                                                                     \
    do {                                                                                                               \
        if (!cuda && getenv("REQUIRE_GPU"))                                                                            \
            fail_msg("REQUIRE_GPU is set, but %s", why_not);                                                           \
        if (!cuda)                                                                                                     \
            skip();                                                                                                    \
    } while (0)

static void no_differences(void)
{
    if (n_differences)
        fail_msg("%d differences between cuda and cpu, listed above", n_differences);
}

static void every_shape(void **unused)
{
    (void)unused;
    NEED_GPU();
    for (size_t i = 0; i < N_OF(shapes); i++) {
        const enum lm_dtype f32 = LM_F32;
        if (!emulated)
            check_net(&shapes[i], &f32, 1, LM_MATH_EXACT, all_calls, N_OF(all_calls));
        else
            check_net(&shapes[i], &f32, 1, LM_MATH_EXACT, window_calls, shapes[i].window ? N_OF(window_calls) : 3);
    }
    no_differences();
}

static void every_type(void **unused)
{
    (void)unused;
    NEED_GPU();
    for (size_t i = 0; i < N_OF(plain_types); i++) {
        check_net(&shapes[0], &plain_types[i], 1, LM_MATH_EXACT, few_calls, N_OF(few_calls));
        check_net(&shapes[3], &plain_types[i], 1, LM_MATH_EXACT, few_calls, N_OF(few_calls));
        check_net(&shapes[4], &plain_types[i], 1, LM_MATH_EXACT, few_calls, N_OF(few_calls));
    }
    for (size_t i = 0; i < N_OF(block_types); i++) {
        check_net(&shapes[0], &block_types[i], 1, LM_MATH_EXACT, few_calls, N_OF(few_calls));
        check_net(&shapes[2], &block_types[i], 1, LM_MATH_EXACT, few_calls, N_OF(few_calls));
    }
    no_differences();
}

static void mixed_types(void **unused)
{
    (void)unused;
    NEED_GPU();
    check_net(&shapes[0], block_types, N_OF(block_types), LM_MATH_EXACT, few_calls, N_OF(few_calls));
    check_net(&shapes[1], block_types + 4, 3, LM_MATH_EXACT, few_calls, N_OF(few_calls));
    check_net(&shapes[1], plain_types, N_OF(plain_types), LM_MATH_EXACT, few_calls, N_OF(few_calls));
    no_differences();
}

static void fast_modes(void **unused)
{
    static const enum lm_math modes[] = {LM_MATH_FAST, LM_MATH_TF32, LM_MATH_BF16};

    (void)unused;
    NEED_GPU();
    for (size_t m = 0; m < N_OF(modes); m++) {
        for (size_t i = 0; i < N_OF(plain_types); i++)
            check_net(&shapes[i % 2 ? 0 : 3], &plain_types[i], 1, modes[m], few_calls, N_OF(few_calls));
        for (size_t i = 0; i < N_OF(block_types); i++)
            check_net(&shapes[i % 3], &block_types[i], 1, modes[m], few_calls, N_OF(few_calls));
    }
    if (!emulated)
        check_net(&shapes[1], block_types, 1, LM_MATH_FAST, all_calls, N_OF(all_calls));
    no_differences();
}

static void large_shapes(void **unused)
{
    static const enum lm_dtype types[] = {LM_BF16, LM_Q4_K, LM_Q6_K};
    static const enum lm_math modes[] = {LM_MATH_EXACT, LM_MATH_FAST};

    (void)unused;
    NEED_GPU();
    for (size_t m = 0; m < (emulated ? 1 : N_OF(modes)); m++)
        for (size_t i = 0; i < (emulated ? 2 : N_OF(types)); i++) {
            check_net(&long_rows, &types[i], 1, modes[m], few_calls, emulated ? 1 : N_OF(few_calls));
            if (!emulated)
                check_net(&large, &types[i], 1, modes[m], window_calls, N_OF(window_calls));
        }
    no_differences();
}

/* The weights of one matrix go to the device in pieces of 16 MB. */
static void uploads_in_pieces(void **unused)
{
    struct shape many_tokens = shapes[0], wide = shapes[3];
    const enum lm_dtype q6_k = LM_Q6_K, f32 = LM_F32;

    (void)unused;
    NEED_GPU();
    many_tokens.name = "17 MB of Q6_K";
    many_tokens.vocab = 83000;
    many_tokens.tied = true;
    check_net(&many_tokens, &q6_k, 1, LM_MATH_EXACT, few_calls, 1);
    wide.name = "18 MB of transposed F32";
    wide.d_ff = 70000;
    check_net(&wide, &f32, 1, LM_MATH_EXACT, few_calls, 1);
    no_differences();
}

/* ---- however tokens are cut into calls, the same bits */

enum { BITS_TOKENS = 9, BITS_POS = 122 }; /* the calls cross a boundary of attention's splits */

/* What the operations give for n tokens: q, attention, x after the layer, logits. */
static void layer_results(struct side *s, const struct shape *p, const float *x, size_t n, size_t pos0, float *out[4])
{
    size_t d = p->d_model, q = (size_t)p->n_heads * p->d_head;

    OK(s->b->buf_write(s->dev, s->x, 0, n * d, x, &e));
    OK(s->b->qkv(s->dev, 0, s->x, s->q, s->kv, n, pos0, &e));
    OK(s->b->attend(s->dev, 0, s->q, s->kv, s->a, n, pos0, NULL, &e));
    OK(s->b->project(s->dev, 0, s->a, s->x, n, &e));
    OK(s->b->ffn(s->dev, 0, s->x, n, &e));
    OK(s->b->logits(s->dev, s->x, 0, n, out[3], &e));
    OK(s->b->buf_read(s->dev, s->q, 0, n * q, out[0], &e));
    OK(s->b->buf_read(s->dev, s->a, 0, n * q, out[1], &e));
    OK(s->b->buf_read(s->dev, s->x, 0, n * d, out[2], &e));
}

static void check_bits(const struct shape *p, enum lm_dtype type)
{
    static const char *const names[] = {"q", "attention", "x after the layer", "logits"};
    size_t q = (size_t)p->n_heads * p->d_head, widths[] = {q, q, p->d_model, p->vocab};
    float *together[4], *alone[4], *x = random_floats((BITS_POS + BITS_TOKENS) * p->d_model, 1);
    struct small_net n;
    struct side s;

    net_make(&n, p, &type, 1);
    side_open(&s, cuda, &n, LM_MATH_EXACT, BITS_POS);
    for (int i = 0; i < 4; i++) {
        together[i] = random_floats(BITS_POS * widths[i], 1);
        alone[i] = random_floats(widths[i], 1);
    }
    OK(s.b->buf_write(s.dev, s.x, 0, BITS_POS * p->d_model, x, &e));
    OK(s.b->qkv(s.dev, 0, s.x, s.q, s.kv, BITS_POS, 0, &e));
    x += BITS_POS * p->d_model;
    layer_results(&s, p, x, BITS_TOKENS, BITS_POS, together);
    for (size_t t = 0; t < BITS_TOKENS; t++) {
        layer_results(&s, p, x + t * p->d_model, 1, BITS_POS + t, alone);
        for (int i = 0; i < 4; i++)
            for (size_t j = 0; j < widths[i]; j++)
                if (memcmp(&alone[i][j], &together[i][t * widths[i] + j], sizeof(float)) != 0) {
                    n_differences++;
                    printf("DIFFERS bits of %s, %s, token %zu alone or among %d: [%zu] %.9g and %.9g\n", names[i],
                           lm_dtype_name(type), t, BITS_TOKENS, j, (double)alone[i][j],
                           (double)together[i][t * widths[i] + j]);
                    break;
                }
    }
    for (int i = 0; i < 4; i++) {
        free(together[i]);
        free(alone[i]);
    }
    free(x - BITS_POS * p->d_model);
    side_close(&s);
    lm_arena_free(&n.arena);
}

static void calls_do_not_change_bits(void **unused)
{
    struct shape wide = shapes[1];

    (void)unused;
    NEED_GPU();
    wide.n_heads = 8;
    wide.n_kv_heads = 2;
    wide.d_head = 128;
    wide.d_model = 1280; /* every strand of a row has work, in unequal measure */
    wide.d_ff = 4608;
    for (size_t i = emulated ? 2 : 0; i < (emulated ? 3 : N_OF(plain_types)); i++)
        check_bits(&wide, plain_types[i]);
    for (size_t i = emulated ? N_OF(block_types) - 1 : 0; i < N_OF(block_types); i++)
        check_bits(&wide, block_types[i]);
    check_bits(&shapes[4], LM_F16);
    no_differences();
}

/* ---- whole models */

static struct lm_model *open_model(const char *path)
{
    struct lm_model *m = NULL;
    OK(lm_model_open(&m, path, &e));
    return m;
}

struct run {
    struct lm_model *model;
    struct lm_engine *engine;
    struct lm_session *session;
    uint32_t vocab;
};

static void run_open(struct run *r, const char *path, const char *device, enum lm_math math)
{
    struct lm_engine_options o = {device, math, 0, 0};
    r->model = open_model(path);
    OK(lm_engine_open(&r->engine, r->model, &o, &e));
    OK(lm_session_open(&r->session, r->engine, &e));
    r->vocab = lm_engine_config(r->engine)->vocab_size;
}

static void run_close(struct run *r)
{
    lm_session_close(r->session);
    lm_engine_close(r->engine);
    lm_model_close(r->model);
}

/* logits [n, vocab]; `step` tokens a call. */
static float *run_logits(struct run *r, const int32_t *ids, size_t n, size_t step)
{
    float *out = malloc(n * r->vocab * sizeof *out);
    assert_non_null(out);
    lm_session_rewind(r->session, 0);
    for (size_t i = 0; i < n; i += step)
        OK(lm_session_eval(r->session, ids + i, n - i < step ? n - i : step, LM_LOGITS_ALL, out + i * r->vocab, &e));
    return out;
}

static double worst_difference(const float *a, const float *b, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst))
            worst = isnan(d) ? INFINITY : d;
    }
    return worst;
}

struct reference {
    struct lm_model *file;
    int32_t *ids;
    size_t n;
    float *logits;
};

static void reference_open(struct reference *r, const char *folder)
{
    char path[256];
    snprintf(path, sizeof path, "%s/reference.safetensors", folder);
    r->file = open_model(path);
    const struct lm_tensor *ids = lm_model_find(r->file, "input_ids"), *l = lm_model_find(r->file, "logits");
    assert_true(ids && l && ids->dtype == LM_I64 && l->dtype == LM_F32);
    r->n = (size_t)ids->n_elems;
    r->ids = malloc(r->n * sizeof *r->ids);
    r->logits = malloc((size_t)l->n_bytes);
    assert_true(r->ids && r->logits);
    for (size_t i = 0; i < r->n; i++)
        r->ids[i] = (int32_t)lm_load_u64le(ids->data + 8 * i);
    lm_tensor_read(l, 0, l->n_bytes, r->logits);
}

static void reference_close(struct reference *r)
{
    free(r->ids);
    free(r->logits);
    lm_model_close(r->file);
}

static const char *const folders[] = {
    "tests/fixtures/models/tiny-llama", "tests/fixtures/models/tiny-llama-sharded", "tests/fixtures/models/tiny-llama-tied",
    "tests/fixtures/models/tiny-llama-bias", "tests/fixtures/models/tiny-llama-linear",
    "tests/fixtures/models/tiny-llama-llama3", "tests/fixtures/models/tiny-llama-yarn", "tests/fixtures/models/tiny-mistral",
    "tests/fixtures/models/tiny-gpt2", "tests/fixtures/models/tiny-gpt2-hub", "samples/polish-5m",
};

static void models_match_their_references(void **unused)
{
    static const size_t steps[] = {1, 7, 16, 65, 33}; /* emulated: the last only */

    (void)unused;
    NEED_GPU();
    for (size_t i = 0; i < N_OF(folders); i++) {
        struct reference ref;
        struct run r;
        reference_open(&ref, folders[i]);
        run_open(&r, folders[i], "cuda", LM_MATH_EXACT);
        if (emulated && ref.n > 100)
            ref.n = 40;
        float *once = run_logits(&r, ref.ids, ref.n, ref.n);
        double off = worst_difference(once, ref.logits, ref.n * r.vocab);
        printf("%s: %zu tokens, largest logit difference %.2g\n", folders[i], ref.n, off);
        if (!(off <= 1e-3)) {
            n_differences++;
            printf("DIFFERS %s: logits off by %g from the reference, allowed 1e-3\n", folders[i], off);
        }
        /* However the text is cut, the same bits. */
        for (size_t k = emulated ? N_OF(steps) - 1 : 0; k < N_OF(steps); k++) {
            size_t step = steps[k];
            float *cut = run_logits(&r, ref.ids, ref.n, step);
            if (memcmp(cut, once, ref.n * r.vocab * sizeof *cut) != 0) {
                n_differences++;
                printf("DIFFERS %s: %zu tokens a call give other bits than one call (by %g)\n", folders[i], step,
                       worst_difference(cut, once, ref.n * r.vocab));
            }
            free(cut);
        }
        free(once);
        run_close(&r);
        reference_close(&ref);
    }
    no_differences();
}

static size_t greedy(struct run *r, int32_t *ids, size_t n_prompt, size_t n)
{
    struct lm_sampling s = {.temperature = 0, .top_p = 1};
    float *logits = malloc(r->vocab * sizeof *logits);

    assert_non_null(logits);
    lm_session_rewind(r->session, 0);
    OK(lm_session_eval(r->session, ids, n_prompt, LM_LOGITS_LAST, logits, &e));
    for (size_t i = 0; i < n; i++) {
        ids[n_prompt + i] = lm_sample(&s, logits, r->vocab);
        OK(lm_session_eval(r->session, &ids[n_prompt + i], 1, LM_LOGITS_LAST, logits, &e));
    }
    free(logits);
    return n;
}

static void sample_continues_as_its_reference(void **unused)
{
    json_error_t error;
    struct run r;
    int32_t ids[512];

    (void)unused;
    NEED_GPU();
    json_t *ref = json_load_file("samples/polish-5m/reference.json", 0, &error);
    assert_non_null(ref);
    json_t *prompt = json_object_get(ref, "prompt_ids"), *want = json_object_get(ref, "greedy_ids");
    size_t n_prompt = json_array_size(prompt), n = emulated ? 8 : json_array_size(want);
    assert_true(n_prompt > 0 && n > 0 && n_prompt + n <= N_OF(ids));
    for (size_t i = 0; i < n_prompt; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(prompt, i));
    run_open(&r, "samples/polish-5m", "cuda", LM_MATH_EXACT);
    greedy(&r, ids, n_prompt, n);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(ids[n_prompt + i], json_integer_value(json_array_get(want, i)));
    run_close(&r);
    json_decref(ref);
}

/* The faster modes change logits by what their arithmetic explains. */
static void faster_modes_stay_close(void **unused)
{
    static const enum lm_math modes[] = {LM_MATH_FAST, LM_MATH_TF32, LM_MATH_BF16};
    struct reference ref;

    (void)unused;
    NEED_GPU();
    reference_open(&ref, "samples/polish-5m");
    if (emulated)
        ref.n = 40;
    for (size_t m = 0; m < N_OF(modes); m++) {
        struct run r;
        struct lm_divergence d = {0};
        run_open(&r, "samples/polish-5m", "cuda", modes[m]);
        float *got = run_logits(&r, ref.ids, ref.n, ref.n);
        for (size_t i = 0; i < ref.n; i++)
            lm_divergence_add(&d, ref.logits + i * r.vocab, got + i * r.vocab, r.vocab, -1);
        lm_divergence_finish(&d);
        printf("polish-5m, %s: mean KL %.3g, largest logit difference %.3g, top-1 %.4f\n", math_name(modes[m]), d.kld_mean,
               d.max_abs, d.top1_agreement);
        assert_true(d.kld_mean < 1e-3 && d.top1_agreement > 0.96);
        free(got);
        run_close(&r);
    }
    reference_close(&ref);
}

/* ---- what is refused, and how it says so */

static void expect_error(int rc, const struct lm_err *e, const char *text)
{
    assert_int_equal(rc, -1);
    if (!strstr(e->text, text))
        fail_msg("expected '%s' in '%s'", text, e->text);
}

static void errors_name_what_is_wrong(void **unused)
{
    const enum lm_dtype f32 = LM_F32;
    struct lm_backend_options o = {LM_MATH_EXACT, 0, 999};
    struct lm_err e = {0};
    struct small_net n;
    struct lm_dev *dev = NULL;
    struct side s;
    int32_t id = 5000;

    (void)unused;
    NEED_GPU();
    net_make(&n, &shapes[0], &f32, 1);
    expect_error(cuda->open(&dev, &n.net, &o, &e), &e, "no device 999");
    ((struct lm_tensor *)n.net.layers[1].up.tensor)->dtype = LM_I32;
    o.device = 0;
    expect_error(cuda->open(&dev, &n.net, &o, &e), &e, "up (F32 512 x 256): cuda cannot compute with I32 weights");
    ((struct lm_tensor *)n.net.layers[1].up.tensor)->dtype = LM_F32;
    side_open(&s, cuda, &n, LM_MATH_EXACT, 4);
    expect_error(cuda->embed(s.dev, s.x, &id, 1, 0, false, &e), &e, "token id 5000, embed (F32 300 x 256) has 300 rows");
    expect_error(cuda->qkv(s.dev, 0, s.x, s.q, s.kv, 2, 399, &e), &e, "the context holds 400");
    expect_error(cuda->ffn(s.dev, 0, s.x, 5, &e), &e, "a buffer of 1024 values for 5 tokens of 256");
    expect_error(cuda->buf_read(s.dev, s.x, 1020, 5, (float[5]){0}, &e), &e, "values 1020 to 1025 of a buffer of 1024");
    side_close(&s);
    lm_arena_free(&n.arena);
}

/* ---- finding the device */

static void find_device(void)
{
    struct lm_err e = {0};
    const struct lm_plugin *p = lmi_plugin_cuda(&e);
    int n = p ? p->n_devices(&e) : -1;

    if (n > 0) {
        cuda = p->backend;
        const char *path = getenv("LM_PLUGIN_PATH");
        emulated = path && strstr(path, "/emulate");
        return;
    }
    if (n == 0)
        lm_err_set(&e, LM_MISSING, "no CUDA device on this machine");
    snprintf(why_not, sizeof why_not, "%s", e.text);
    printf("skipped: %s\n", why_not);
}

/* test_cuda [PATTERN]: only the tests whose names match. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(every_shape, start_anew),
        cmocka_unit_test_setup(every_type, start_anew),
        cmocka_unit_test_setup(mixed_types, start_anew),
        cmocka_unit_test_setup(fast_modes, start_anew),
        cmocka_unit_test_setup(large_shapes, start_anew),
        cmocka_unit_test_setup(uploads_in_pieces, start_anew),
        cmocka_unit_test_setup(calls_do_not_change_bits, start_anew),
        cmocka_unit_test_setup(models_match_their_references, start_anew),
        cmocka_unit_test_setup(sample_continues_as_its_reference, start_anew),
        cmocka_unit_test_setup(faster_modes_stay_close, start_anew),
        cmocka_unit_test_setup(errors_name_what_is_wrong, start_anew),
    };
    setvbuf(stdout, NULL, _IOLBF, 0); /* differences before cmocka's verdict */
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    find_device();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
