/* Small networks of every kind, run by the cpu and by the cuda backend side by side. */
#ifndef TESTS_CUDA_NETS_H
#define TESTS_CUDA_NETS_H

#include "tests/cuda_device.h"

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

static const enum lm_dtype plain_types[] = {LM_F32,     LM_F16,     LM_BF16,        LM_F64,
                                            LM_F8_E4M3, LM_F8_E5M2, LM_F8_E4M3FNUZ, LM_F8_E5M2FNUZ};
/* In planes on the device, then in the file's form. */
static const enum lm_dtype block_types[] = {LM_Q4_0,   LM_Q4_1,   LM_Q5_0,    LM_Q5_1,   LM_Q8_0,  LM_Q2_K,  LM_Q3_K,
                                            LM_Q4_K,   LM_Q5_K,   LM_Q6_K,    LM_IQ4_NL, LM_IQ4_XS, LM_MXFP4, LM_NVFP4,
                                            LM_TQ2_0};
static const enum lm_dtype coded_types[] = {LM_IQ1_S,   LM_IQ1_M, LM_IQ2_XXS, LM_IQ2_XS, LM_IQ2_S, LM_IQ3_XXS,
                                            LM_IQ3_S,   LM_TQ1_0, LM_Q1_0,    LM_Q2_0,   LM_Q8_1,  LM_Q8_K, LM_F4};

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

/* Blocks of a type that nothing encodes: bytes at random, scales made harmless. */
static void random_blocks(enum lm_dtype t, uint8_t *data, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i++)
        data[i] = (uint8_t)(int)(uniform() * 128 + 128);
    for (size_t at = 0; at < n_bytes; at += lm_dtype_info(t)->block_bytes) {
        if (t == LM_Q8_1)
            memcpy(data + at, &(uint16_t){lm_f32_to_f16(gauss() * 1e-3f)}, 2);
        if (t == LM_Q8_K)
            memcpy(data + at, &(float){gauss() * 1e-3f}, 4);
        if (t == LM_F8_E8M0)
            data[at] = (uint8_t)(120 + data[at] % 8);
    }
}

/* Some types are encoded with importance only. */
static void encode(enum lm_dtype t, uint8_t *data, const float *v, uint32_t rows, uint32_t cols)
{
    const struct lm_dtype_info *i = lm_dtype_info(t);
    float *ones;

    if (i->from_f32) {
        i->from_f32(data, v, (size_t)rows * cols);
    } else if (i->from_f32_weighted) {
        assert_non_null(ones = malloc(cols * sizeof *ones));
        for (uint32_t c = 0; c < cols; c++)
            ones[c] = 1;
        i->from_f32_weighted(data, v, ones, cols, rows);
        free(ones);
    } else {
        random_blocks(t, data, lm_dtype_bytes(t, (uint64_t)rows * cols));
    }
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
    encode(t, data, v, rows, cols);
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
    bool block = lm_dtype_info(t)->kind == LM_KIND_QUANT || t == LM_F4, few = p->tokens <= 8;

    if (p->math == LM_MATH_EXACT || (few && !(p->math == LM_MATH_FAST && block)))
        return 3e-5;
    if (p->math == LM_MATH_TF32 || (p->math == LM_MATH_FAST && t == LM_F16))
        return 0.01;
    if (p->math == LM_MATH_FAST && (t == LM_F32 || t == LM_F64))
        return 3e-5;
    return few ? 0.06 : 0.03;
}

#endif
