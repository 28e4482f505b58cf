/* The cpu backend operation by operation, on every instruction set this machine
 * has, against plain loops in double. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "gpu/cpu.h"

static const char *const sets[] = {"portable", "avx2", "avx512-vnni", "avx512-bf16"};
#define N_SETS (sizeof sets / sizeof *sets)

static uint64_t rng = 88172645463325252u;
static float normal(void)
{
    float sum = 0;

    for (int i = 0; i < 12; i++) {
        rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
        sum += (float)(rng >> 40) / (1 << 24);
    }
    return sum - 6;
}

static float *random_values(size_t n, float scale)
{
    float *v = malloc((n + 1) * sizeof *v);

    assert_non_null(v);
    for (size_t i = 0; i < n; i++)
        v[i] = normal() * scale;
    return v;
}

static void must(int rc, const struct lm_err *e)
{
    if (rc)
        fail_msg("%s", e->text);
}

/* ---- tensors in memory */

static struct lm_tensor *make_tensor(enum lm_dtype t, size_t rows, size_t cols, float scale)
{
    struct lm_tensor *x = calloc(1, sizeof *x);
    float *v = random_values(rows * cols, scale);
    uint8_t *data;

    assert_non_null(x);
    *x = (struct lm_tensor){.name = "w", .dtype = t, .n_dims = 2, .shape = {rows, cols}, .n_elems = rows * cols};
    x->n_bytes = lm_dtype_bytes(t, rows * cols);
    assert_true(x->n_bytes > 0);
    data = malloc(x->n_bytes); /* exactly: a kernel that reads on is caught by the sanitizer */
    assert_non_null(data);
    lm_dtype_info(t)->from_f32(data, v, rows * cols);
    x->data = data;
    free(v);
    return x;
}

static void free_tensor(const struct lm_tensor *t)
{
    if (t)
        free((void *)(uintptr_t)t->data);
    free((void *)(uintptr_t)t);
}

static double *values_of(const struct lm_tensor *t)
{
    float *f = malloc(t->n_elems * sizeof *f);
    double *d = malloc(t->n_elems * sizeof *d);

    assert_non_null(f);
    assert_non_null(d);
    lm_dtype_info(t->dtype)->to_f32(f, t->data, t->n_elems);
    for (size_t i = 0; i < t->n_elems; i++)
        d[i] = (double)f[i];
    free(f);
    return d;
}

/* ---- products with every type */

/* A net of nothing but a head, so that scratch is sized for its product. */
static void head_only(struct lm_net *net, const struct lm_arch *a, const struct lm_mat *m)
{
    *net = (struct lm_net){.ctx_len = 16, .head = *m};
    net->config = (struct lm_config){.arch = a, .n_heads = 1, .n_kv_heads = 1, .d_head = 8, .d_model = m->cols,
                                     .d_ff = m->rows, .vocab_size = m->rows};
}

/* What the activations are after rounding, where a kernel rounds them. */
static void rounded(const struct lm_dev *d, const struct lm_mat *m, const float *x, size_t n, size_t k, double *out)
{
    size_t n_super = (k + LMI_SUPER - 1) / LMI_SUPER;
    struct lmi_q8 *q = lmi_cpu_alloc(n_super, sizeof *q);
    bool fast = d->math == LM_MATH_FAST && !m->transposed;
    bool int8 = fast && lmi_q8_group(m->tensor->dtype);
    bool bf16 = fast && m->tensor->dtype == LM_BF16 && d->kernels->bf16_gemm;

    assert_non_null(q);
    for (size_t t = 0; t < n; t++) {
        if (int8)
            d->kernels->quantize(q, x + t * k, k);
        for (size_t i = 0; i < k; i++) {
            const struct lmi_q8 *b = q + i / LMI_SUPER;
            size_t j = i % LMI_SUPER;
            float v = x[t * k + i];
            out[t * k + i] = int8 ? (double)b->d[j / 32] * b->q[j]
                           : (double)(bf16 ? lm_bf16_to_f32(lm_f32_to_bf16(v)) : v);
        }
    }
    free(q);
}

static void check_product(const struct lm_dev *d, const struct lm_mat *m, const float *x, const float *y, size_t n)
{
    double *w = values_of(m->tensor), *a = malloc(n * m->cols * sizeof *a);

    assert_non_null(a);
    rounded(d, m, x, n, m->cols, a);
    for (size_t t = 0; t < n; t++)
        for (size_t r = 0; r < m->rows; r++) {
            double sum = m->bias ? (double)m->bias[r] : 0, size = 0;
            for (size_t i = 0; i < m->cols; i++) {
                double p = w[m->transposed ? i * m->rows + r : r * m->cols + i] * a[t * m->cols + i];
                sum += p;
                size += fabs(p);
            }
            if (!(fabs(y[t * m->rows + r] - sum) <= 4e-6 * size + 1e-6))
                fail_msg("%s %s, %u x %u, %zu tokens: row %zu of token %zu is %g, should be %g",
                         lm_dtype_name(m->tensor->dtype), d->kernels->name, m->rows, m->cols, n, r, t,
                         (double)y[t * m->rows + r], sum);
        }
    free(w);
    free(a);
}

/* All rows by tiles, as the operations do it. */
static void product(struct lm_dev *d, const struct lm_mat *m, const float *x, float *y, size_t n)
{
    struct lmi_acts a;
    struct lm_err e = {0};

    must(lmi_cpu_reserve(d, n, &e), &e);
    lmi_acts_prepare(d, &a, x, m->cols, n, &m, 1);
    for (size_t r = 0; r < m->rows; r += LMI_ROWS)
        lmi_mat_tile(d, m, &a, r, m->rows - r < LMI_ROWS ? m->rows - r : LMI_ROWS, y + r, m->rows, d->threads);
}

static void one_product(const struct lmi_kernels *kernels, enum lm_math math, const struct lm_tensor *w, size_t n,
                        bool transposed)
{
    static const struct lm_arch arch = {.name = "test"};
    size_t rows = w->shape[transposed], cols = w->shape[!transposed];
    float *bias = random_values(rows, 1), *x = random_values(n * cols, 1), *y = random_values(n * rows, 1);
    struct lm_mat m = {.tensor = w, .rows = (uint32_t)rows, .cols = (uint32_t)cols, .transposed = transposed,
                       .bias = bias};
    struct lm_net net;
    struct lm_dev *d;
    struct lm_err e = {0};

    head_only(&net, &arch, &m);
    must(lmi_cpu_open(&d, &net, &(struct lm_backend_options){math, 2, 0}, kernels, &e), &e);
    product(d, &m, x, y, n);
    check_product(d, &m, x, y, n);
    lm_backend_cpu.close(d);
    free(bias);
    free(x);
    free(y);
}

/* On every instruction set, few tokens and many, exact and fast. */
static void products_with(struct lm_tensor *w, bool transposed)
{
    static const size_t n_tokens[] = {1, 3, 5, 12, 25};

    for (size_t s = 0; s < N_SETS; s++)
        for (size_t i = 0; lmi_kernels_find(sets[s]) && i < 5; i++) {
            one_product(lmi_kernels_find(sets[s]), LM_MATH_FAST, w, n_tokens[i], transposed);
            if (i % 2)
                one_product(lmi_kernels_find(sets[s]), LM_MATH_EXACT, w, n_tokens[i], transposed);
        }
    free_tensor(w);
}

static bool computable(enum lm_dtype t)
{
    const struct lm_dtype_info *i = lm_dtype_info(t);
    return i->to_f32 && i->from_f32 && (i->kind == LM_KIND_FLOAT || i->kind == LM_KIND_QUANT);
}

static void every_type_on_every_set(void **state)
{
    static const struct { size_t rows, cols; } shape[] = {{37, 1024}, {16, 544}, {5, 96}, {33, 17}};
    size_t n = 0;

    (void)state;
    for (size_t s = 0; s < N_SETS; s++)
        if (!lmi_kernels_find(sets[s]))
            print_message("%s: not on this machine\n", sets[s]);
    for (int t = 0; t < LM_N_DTYPES; t++) {
        if (!computable((enum lm_dtype)t))
            continue;
        n++;
        for (size_t i = 0; i < 4; i++)
            if (shape[i].cols % lm_dtype_info((enum lm_dtype)t)->block_elems == 0)
                products_with(make_tensor((enum lm_dtype)t, shape[i].rows, shape[i].cols, 0.5f), false);
    }
    assert_true(n >= 15);
}

static void transposed_weights(void **state)
{
    (void)state;
    products_with(make_tensor(LM_F32, 48, 70, 0.5f), true);
    products_with(make_tensor(LM_F16, 21, 32, 0.5f), true);
    products_with(make_tensor(LM_BF16, 40, 33, 0.5f), true);
}

/* The fields of a file of the other byte order are swapped on the way. */
static void big_endian_weights(void **state)
{
    static const enum lm_dtype types[] = {LM_F32, LM_BF16, LM_Q4_K, LM_Q8_0};
    static const struct lm_arch arch = {.name = "test"};

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct lm_tensor *w = make_tensor(types[i], 33, 256, 1);
        struct lm_mat m = {.tensor = w, .rows = 33, .cols = 256};
        float *x = random_values(6 * 256, 1), y[2][6 * 33];
        struct lm_net net;
        struct lm_dev *d;
        struct lm_err e = {0};
        head_only(&net, &arch, &m);
        for (int swapped = 0; swapped < 2; swapped++) {
            must(lm_backend_cpu.open(&d, &net, &(struct lm_backend_options){LM_MATH_EXACT, 1, 0}, &e), &e);
            product(d, &m, x, y[swapped], 6);
            lm_backend_cpu.close(d);
            lm_dtype_swap(types[i], (void *)(uintptr_t)w->data, w->n_elems);
            w->big_endian = true;
        }
        assert_memory_equal(y[0], y[1], sizeof y[0]);
        free(x);
        free_tensor(w);
    }
}

/* AVX2 keeps the sums that AVX-512 keeps. */
static void exact_is_the_same_on_both_vector_widths(void **state)
{
    const struct lmi_kernels *a = lmi_kernels_find("avx2"), *b = lmi_kernels_find("avx512-vnni");
    float *w = random_values(9 * 100, 1), *x = random_values(13 * 100, 1), y[2][13 * 9];

    (void)state;
    for (size_t k = 1; a && b && k <= 100; k++) {
        a->dot_f32(y[0], 9, w, 100, 9, x, 100, 13, k);
        b->dot_f32(y[1], 9, w, 100, 9, x, 100, 13, k);
        assert_memory_equal(y[0], y[1], sizeof y[0]);
    }
    free(w);
    free(x);
}

/* y [n, rows] of the product of w with x [n, k]; tokens at a time. */
static float *product_in_steps(const struct lmi_kernels *kernels, enum lm_math math, const struct lm_tensor *w,
                               const float *x, size_t n, size_t step)
{
    static const struct lm_arch arch = {.name = "test"};
    size_t rows = w->shape[0], cols = w->shape[1];
    struct lm_mat m = {.tensor = w, .rows = (uint32_t)rows, .cols = (uint32_t)cols};
    float *y = malloc(n * rows * sizeof *y);
    struct lm_net net;
    struct lm_dev *d;
    struct lm_err e = {0};

    assert_non_null(y);
    head_only(&net, &arch, &m);
    must(lmi_cpu_open(&d, &net, &(struct lm_backend_options){math, 1, 0}, kernels, &e), &e);
    for (size_t t = 0; t < n; t += step)
        product(d, &m, x + t * cols, y + t * rows, n - t < step ? n - t : step);
    lm_backend_cpu.close(d);
    return y;
}

static void same_bits(const float *a, const float *b, size_t n, const struct lm_tensor *w, const char *set, const char *what)
{
    if (memcmp(a, b, n * sizeof *a))
        fail_msg("%s %s, %zu x %zu: %s differ", lm_dtype_name(w->dtype), set, (size_t)w->shape[0], (size_t)w->shape[1], what);
}

/* Whether tokens come one by one, in threes, or together is no matter in any mode; nor is it, for int8
 * products, which of the vector widths computes them. */
static void no_bit_depends_on_company(struct lm_tensor *w)
{
    enum { N = 14 };
    size_t n = N * w->shape[0];
    float *x = random_values(N * w->shape[1], 1), *narrow = NULL;

    for (size_t s = 0; s < N_SETS; s++)
        for (int math = LM_MATH_EXACT; math <= LM_MATH_FAST && lmi_kernels_find(sets[s]); math++) {
            const struct lmi_kernels *k = lmi_kernels_find(sets[s]);
            float *all = product_in_steps(k, (enum lm_math)math, w, x, N, N);
            for (size_t step = 1; step <= 5; step += 2) {
                float *y = product_in_steps(k, (enum lm_math)math, w, x, N, step);
                same_bits(all, y, n, w, sets[s], "one token and many");
                free(y);
            }
            if (math == LM_MATH_FAST && lmi_q8_group(w->dtype) && narrow)
                same_bits(all, narrow, n, w, sets[s], "AVX2 and AVX-512");
            if (math == LM_MATH_FAST && lmi_q8_group(w->dtype) && s == 1)
                narrow = all;
            else
                free(all);
        }
    free(narrow);
    free(x);
    free_tensor(w);
}

static void one_token_and_many_are_the_same(void **state)
{
    static const struct { size_t rows, cols; } shape[] = {{35, 256}, {3, 288}, {5, 2304}, {33, 17}};

    (void)state;
    for (int t = 0; t < LM_N_DTYPES; t++)
        for (size_t i = 0; computable((enum lm_dtype)t) && i < 4; i++)
            if (shape[i].cols % lm_dtype_info((enum lm_dtype)t)->block_elems == 0)
                no_bit_depends_on_company(make_tensor((enum lm_dtype)t, shape[i].rows, shape[i].cols, 0.5f));
}

/* ---- elementwise */

static void quick_functions_are_close(void **state)
{
    (void)state;
    for (size_t s = 0; s < N_SETS; s++) {
        const struct lmi_kernels *k = lmi_kernels_find(sets[s]);
        float x[1001], silu[1001], gelu[1001], e[1001];
        for (int i = 0; k && i < 1001; i++)
            x[i] = silu[i] = gelu[i] = e[i] = (float)(i - 500) * 0.1f;
        if (!k)
            continue;
        k->silu(silu, 1001);
        k->gelu(gelu, 1001);
        double got = k->exp_row(e, 1001, 50), sum = 0;
        for (int i = 0; i < 1001; i++) {
            double v = (double)x[i], want = exp((double)(x[i] - 50.0f));
            sum += want;
            assert_true(fabs(e[i] - want) <= 4e-7 * want + 1e-37);
            assert_true(fabs(silu[i] - v / (1 + exp(-v))) <= 6e-7 * fabs(v) * 1 / (1 + exp(-v)) + 1e-36);
            double g = 0.5 * v * (1 + tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)));
            assert_true(fabs(gelu[i] - g) <= 2e-6 * fabs(g) + 1e-6);
        }
        assert_true(fabs(got - sum) < 1e-6 * sum);
    }
}

/* ---- whole layers */

struct shape {
    enum lm_norm norm;
    enum lm_rope_pairs rope;
    enum lm_act act;
    bool gated, fused, biases;
    uint32_t d_model, d_ff, n_heads, n_kv_heads, d_head, d_rope, window;
};

static const struct shape shapes[] = {
    {LM_NORM_RMS, LM_ROPE_HALF, LM_ACT_SILU, true, false, false, 64, 96, 4, 2, 16, 16, 0},
    {LM_NORM_RMS, LM_ROPE_ADJACENT, LM_ACT_SILU, true, false, true, 48, 80, 6, 2, 8, 8, 0},
    {LM_NORM_RMS, LM_ROPE_HALF, LM_ACT_SILU, true, false, false, 64, 64, 4, 1, 40, 24, 5},
    {LM_NORM_RMS, LM_ROPE_ADJACENT, LM_ACT_RELU, true, false, false, 128, 64, 2, 2, 64, 32, 17},
    {LM_NORM_LAYER, LM_ROPE_NONE, LM_ACT_GELU_TANH, false, true, true, 40, 72, 5, 5, 8, 0, 0},
    {LM_NORM_LAYER, LM_ROPE_NONE, LM_ACT_GELU_ERF, false, true, true, 32, 64, 1, 1, 80, 0, 33},
};
#define N_SHAPES (sizeof shapes / sizeof *shapes)
enum { N_POS = 90 };

struct layer {
    struct lm_arch arch;
    struct lm_net net;
    struct lm_layer_weights w;
    float *cos, *sin;
};

static void set_mat(struct lm_mat *m, size_t rows, size_t cols, bool bias)
{
    *m = (struct lm_mat){.tensor = make_tensor(LM_F32, rows, cols, 1 / sqrtf((float)cols)), .rows = (uint32_t)rows,
                         .cols = (uint32_t)cols, .bias = bias ? random_values(rows, 0.3f) : NULL};
}
static void set_vec(struct lm_vec *v, size_t n)
{
    *v = (struct lm_vec){.data = random_values(n, 1), .n = (uint32_t)n};
}

static void make_layer(struct layer *l, const struct shape *s)
{
    size_t q = s->n_heads * s->d_head, kv = s->n_kv_heads * s->d_head, half = s->d_rope / 2;

    memset(l, 0, sizeof *l);
    l->arch = (struct lm_arch){.name = "test", .norm = s->norm};
    l->net.config = (struct lm_config){
        .arch = &l->arch, .n_layers = 1, .d_model = s->d_model, .d_ff = s->d_ff, .n_heads = s->n_heads,
        .n_kv_heads = s->n_kv_heads, .d_head = s->d_head, .d_rope = s->d_rope, .act = s->act,
        .sliding_window = s->window, .norm_eps = 1e-5, .vocab_size = 50};
    l->net.rope = s->rope;
    l->net.ctx_len = N_POS;
    l->net.n_kv = s->n_kv_heads;
    l->net.d_k = l->net.d_v = s->d_head;
    l->w.window = s->window;
    l->net.layers = &l->w;
    set_vec(&l->w.attn_norm, s->d_model);
    set_vec(&l->w.ffn_norm, s->d_model);
    set_vec(&l->net.out_norm, s->d_model);
    if (s->norm == LM_NORM_LAYER) {
        set_vec(&l->w.attn_norm_b, s->d_model);
        set_vec(&l->w.ffn_norm_b, s->d_model);
        set_vec(&l->net.out_norm_b, s->d_model);
    }
    if (s->fused) {
        set_mat(&l->w.qkv, q + 2 * kv, s->d_model, s->biases);
    } else {
        set_mat(&l->w.q, q, s->d_model, s->biases);
        set_mat(&l->w.k, kv, s->d_model, s->biases);
        set_mat(&l->w.v, kv, s->d_model, s->biases);
    }
    set_mat(&l->w.out, s->d_model, q, s->biases);
    if (s->gated)
        set_mat(&l->w.gate, s->d_ff, s->d_model, s->biases);
    set_mat(&l->w.up, s->d_ff, s->d_model, s->biases);
    set_mat(&l->w.down, s->d_model, s->d_ff, s->biases);
    set_mat(&l->net.head, 50, s->d_model, false);
    l->cos = malloc((N_POS * half + 1) * sizeof(float));
    l->sin = malloc((N_POS * half + 1) * sizeof(float));
    for (size_t i = 0; i < N_POS * half; i++) {
        double angle = (double)(i / half) * pow(100, -2.0 * (double)(i % half) / s->d_rope);
        l->cos[i] = (float)cos(angle);
        l->sin[i] = (float)sin(angle);
    }
    l->net.rope_cos = l->cos;
    l->net.rope_sin = l->sin;
}

static void free_layer(struct layer *l)
{
    struct lm_mat *mats[] = {&l->w.q, &l->w.k, &l->w.v, &l->w.qkv, &l->w.out, &l->w.gate, &l->w.up, &l->w.down,
                             &l->net.head};
    struct lm_vec *vecs[] = {&l->w.attn_norm, &l->w.attn_norm_b, &l->w.ffn_norm, &l->w.ffn_norm_b, &l->net.out_norm,
                             &l->net.out_norm_b};

    for (size_t i = 0; i < sizeof mats / sizeof *mats; i++) {
        free_tensor(mats[i]->tensor);
        free((void *)(uintptr_t)mats[i]->bias);
    }
    for (size_t i = 0; i < sizeof vecs / sizeof *vecs; i++)
        free((void *)(uintptr_t)vecs[i]->data);
    free(l->cos);
    free(l->sin);
}

/* ---- the same in double, token by token */

static void plain_norm(const struct layer *l, const double *x, const struct lm_vec *w, const struct lm_vec *b,
                       double *out)
{
    size_t n = l->net.config.d_model;
    double mean = 0, var = 0;

    for (size_t i = 0; i < n && l->arch.norm == LM_NORM_LAYER; i++)
        mean += x[i] / (double)n;
    for (size_t i = 0; i < n; i++)
        var += (x[i] - mean) * (x[i] - mean) / (double)n;
    for (size_t i = 0; i < n; i++)
        out[i] = (x[i] - mean) / sqrt(var + l->net.config.norm_eps) * (double)w->data[i] +
                 (b->data ? (double)b->data[i] : 0);
}

static void plain_mat(const struct lm_mat *m, const double *x, double *y)
{
    double *w = values_of(m->tensor);

    for (size_t r = 0; r < m->rows; r++) {
        y[r] = m->bias ? (double)m->bias[r] : 0;
        for (size_t i = 0; i < m->cols; i++)
            y[r] += w[r * m->cols + i] * x[i];
    }
    free(w);
}

static void plain_rope(const struct layer *l, double *x, size_t heads, size_t pos)
{
    size_t half = l->net.config.d_rope / 2;

    for (size_t h = 0; h < heads; h++, x += l->net.config.d_head)
        for (size_t j = 0; j < half; j++) {
            double *a = l->net.rope == LM_ROPE_HALF ? x + j : x + 2 * j;
            double *b = l->net.rope == LM_ROPE_HALF ? x + j + half : x + 2 * j + 1;
            double c = (double)l->cos[pos * half + j], s = (double)l->sin[pos * half + j], t = *a;
            *a = t * c - *b * s;
            *b = *b * c + t * s;
        }
}

static void plain_attention(const struct layer *l, const double *q, double (*k)[512], double (*v)[512], size_t pos,
                            double *out, double (*probs)[N_POS])
{
    const struct lm_config *c = &l->net.config;
    size_t dh = c->d_head;

    for (size_t h = 0; h < c->n_heads; h++) {
        size_t kv = h / (c->n_heads / c->n_kv_heads) * dh;
        double sum = 0;
        for (size_t t = 0; t <= pos; t++) {
            double s = 0;
            for (size_t i = 0; i < dh; i++)
                s += q[h * dh + i] * k[t][kv + i];
            bool seen = !c->sliding_window || pos - t < c->sliding_window;
            sum += probs[h][t] = seen ? exp(s / sqrt((double)dh)) : 0;
        }
        for (size_t i = 0; i < dh; i++)
            out[h * dh + i] = 0;
        for (size_t t = 0; t <= pos; t++) {
            probs[h][t] /= sum;
            for (size_t i = 0; i < dh; i++)
                out[h * dh + i] += probs[h][t] * v[t][kv + i];
        }
    }
}

static double plain_act(enum lm_act a, double x)
{
    switch (a) {
    case LM_ACT_SILU: return x / (1 + exp(-x));
    case LM_ACT_GELU_TANH: return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case LM_ACT_GELU_ERF: return 0.5 * x * (1 + erf(x / sqrt(2)));
    default: return x > 0 ? x : 0;
    }
}

struct plain {
    double x[N_POS][512], k[N_POS][512], v[N_POS][512], logits[N_POS][64], probs[8][N_POS];
};

static void plain_layer(const struct layer *l, struct plain *p, size_t n)
{
    const struct lm_config *c = &l->net.config;
    size_t q = c->n_heads * c->d_head, kv = c->n_kv_heads * c->d_head;
    double in[512], qkv[1024], a[512], h[512], g[512], y[512];

    for (size_t t = 0; t < n; t++) {
        plain_norm(l, p->x[t], &l->w.attn_norm, &l->w.attn_norm_b, in);
        if (l->w.qkv.tensor) {
            plain_mat(&l->w.qkv, in, qkv);
        } else {
            plain_mat(&l->w.q, in, qkv);
            plain_mat(&l->w.k, in, qkv + q);
            plain_mat(&l->w.v, in, qkv + q + kv);
        }
        if (l->net.rope != LM_ROPE_NONE) {
            plain_rope(l, qkv, c->n_heads, t);
            plain_rope(l, qkv + q, c->n_kv_heads, t);
        }
        memcpy(p->k[t], qkv + q, kv * sizeof(double));
        memcpy(p->v[t], qkv + q + kv, kv * sizeof(double));
        plain_attention(l, qkv, p->k, p->v, t, a, p->probs);
        plain_mat(&l->w.out, a, y);
        for (size_t i = 0; i < c->d_model; i++)
            p->x[t][i] += y[i];
        plain_norm(l, p->x[t], &l->w.ffn_norm, &l->w.ffn_norm_b, in);
        plain_mat(&l->w.up, in, h);
        if (l->w.gate.tensor)
            plain_mat(&l->w.gate, in, g);
        for (size_t i = 0; i < c->d_ff; i++)
            h[i] = l->w.gate.tensor ? plain_act(c->act, g[i]) * h[i] : plain_act(c->act, h[i]);
        plain_mat(&l->w.down, h, y);
        for (size_t i = 0; i < c->d_model; i++)
            p->x[t][i] += y[i];
        plain_norm(l, p->x[t], &l->net.out_norm, &l->net.out_norm_b, in);
        plain_mat(&l->net.head, in, p->logits[t]);
    }
}

static double worst(const float *got, const double *want, size_t n)
{
    double max = 0;

    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - want[i]) / (1 + fabs(want[i]));
        if (!(d <= max))
            max = d;
    }
    return max;
}

/* The layer by the backend's operations, `chunk` tokens a call. */
static void run_layer(struct layer *l, const struct lmi_kernels *kernels, enum lm_math math, int threads, size_t chunk,
                      const float *x0, size_t n, float *x, float *k, float *v, float *logits, float *probs)
{
    const struct lm_backend *b = &lm_backend_cpu;
    size_t d = l->net.config.d_model, q = l->net.config.n_heads * l->net.config.d_head;
    struct lm_dev *dev;
    struct lm_kv *kv;
    struct lm_buf *bx, *bq, *ba;
    struct lm_err e = {0};

    must(lmi_cpu_open(&dev, &l->net, &(struct lm_backend_options){math, threads, 0}, kernels, &e), &e);
    must(b->kv_new(&kv, dev, &e), &e);
    must(b->buf_new(&bx, dev, chunk * d, &e) || b->buf_new(&bq, dev, chunk * q, &e) ||
             b->buf_new(&ba, dev, chunk * q, &e), &e);
    for (size_t i = 0; i < n; i += chunk) {
        size_t m = n - i < chunk ? n - i : chunk;
        must(b->buf_write(dev, bx, 0, m * d, x0 + i * d, &e) || b->qkv(dev, 0, bx, bq, kv, m, i, &e) ||
                 b->attend(dev, 0, bq, kv, ba, m, i, i + m == n ? probs : NULL, &e) ||
                 b->project(dev, 0, ba, bx, m, &e) || b->ffn(dev, 0, bx, m, &e) ||
                 b->logits(dev, bx, 0, m, logits + i * 50, &e) || b->buf_read(dev, bx, 0, m * d, x + i * d, &e), &e);
    }
    must(b->kv_read(dev, kv, 0, 0, n, k, v, &e), &e);
    assert_int_equal(b->kv_read(dev, kv, 0, N_POS, 1, k, v, &e), -1);
    assert_int_equal(b->buf_read(dev, bx, chunk * d, 1, x, &e), -1);
    b->buf_free(dev, bx);
    b->buf_free(dev, bq);
    b->buf_free(dev, ba);
    b->kv_free(dev, kv);
    b->close(dev);
}

struct outputs {
    float x[N_POS * 512], k[N_POS * 512], v[N_POS * 512], logits[N_POS * 50], probs[8 * N_POS];
};

static void run_into(struct outputs *o, struct layer *l, const struct lmi_kernels *k, enum lm_math math, int threads,
                     size_t chunk, const float *x0)
{
    memset(o, 0, sizeof *o);
    run_layer(l, k, math, threads, chunk, x0, N_POS, o->x, o->k, o->v, o->logits, o->probs);
}

static void compare(const struct layer *l, const struct outputs *o, const struct plain *p, double limit,
                    const char *what)
{
    const struct lm_config *c = &l->net.config;
    size_t kv = c->n_kv_heads * c->d_head;
    double bad = 0;

    for (size_t t = 0; t < N_POS; t++) {
        bad = fmax(bad, worst(o->x + t * c->d_model, p->x[t], c->d_model));
        bad = fmax(bad, worst(o->k + t * kv, p->k[t], kv));
        bad = fmax(bad, worst(o->v + t * kv, p->v[t], kv));
        bad = fmax(bad, worst(o->logits + t * 50, p->logits[t], 50));
    }
    for (size_t h = 0; h < c->n_heads; h++)
        bad = fmax(bad, worst(o->probs + h * N_POS, p->probs[h], N_POS));
    if (!(bad <= limit))
        fail_msg("%s: off by %g, at most %g expected", what, bad, limit);
}

static void layers_equal_plain_loops(void **state)
{
    struct outputs *o = malloc(sizeof *o), *first = malloc(sizeof *o);
    struct plain *p = malloc(sizeof *p);

    (void)state;
    for (size_t i = 0; i < N_SHAPES; i++) {
        struct layer l;
        char what[128];
        make_layer(&l, shapes + i);
        float *x0 = random_values(N_POS * shapes[i].d_model, 1);
        for (size_t t = 0; t < N_POS; t++)
            for (size_t j = 0; j < shapes[i].d_model; j++)
                p->x[t][j] = (double)x0[t * shapes[i].d_model + j];
        plain_layer(&l, p, N_POS);
        for (size_t s = 0; s < N_SETS; s++) {
            const struct lmi_kernels *k = lmi_kernels_find(sets[s]);
            if (!k)
                continue;
            snprintf(what, sizeof what, "shape %zu on %s", i, sets[s]);
            run_into(first, &l, k, LM_MATH_EXACT, 1, N_POS, x0);
            compare(&l, first, p, 3e-5, what);
            run_into(o, &l, k, LM_MATH_EXACT, 2, 1, x0);
            assert_memory_equal(first, o, sizeof *o);
            run_into(o, &l, k, LM_MATH_EXACT, 2, 13, x0);
            assert_memory_equal(first, o, sizeof *o);
            run_into(o, &l, k, LM_MATH_FAST, 2, 40, x0);
            compare(&l, o, p, 1e-4, what);
        }
        free(x0);
        free_layer(&l);
    }
    free(o);
    free(first);
    free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_on_every_set),
        cmocka_unit_test(transposed_weights),
        cmocka_unit_test(big_endian_weights),
        cmocka_unit_test(exact_is_the_same_on_both_vector_widths),
        cmocka_unit_test(one_token_and_many_are_the_same),
        cmocka_unit_test(quick_functions_are_close),
        cmocka_unit_test(layers_equal_plain_loops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
