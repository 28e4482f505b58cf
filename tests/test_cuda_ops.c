/* The cuda backend against the cpu backend, operation by operation: shapes,
 * storage types, features, arithmetics; and what is refused. */
#include "tests/cuda_nets.h"

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
        allowed = allowed < 0.02 ? 0.02 : allowed;
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
    for (size_t i = 0; i < N_OF(coded_types); i++)
        check_net(&shapes[i % 3], &coded_types[i], 1, LM_MATH_EXACT, few_calls, N_OF(few_calls));
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

/* ---- tokens one by one are recorded as graphs, which are recorded anew after 1024 positions */

static void whole_token(struct side *s, const struct shape *p, int32_t id, size_t pos, float *logits)
{
    OK(s->b->embed(s->dev, s->x, &id, 1, pos, p->learned, &e));
    for (uint32_t l = 0; l < 2; l++) {
        OK(s->b->qkv(s->dev, l, s->x, s->q, s->kv, 1, pos, &e));
        OK(s->b->attend(s->dev, l, s->q, s->kv, s->a, 1, pos, NULL, &e));
        OK(s->b->project(s->dev, l, s->a, s->x, 1, &e));
        OK(s->b->ffn(s->dev, l, s->x, 1, &e));
    }
    OK(s->b->logits(s->dev, s->x, 0, 1, logits, &e));
}

static void check_tokens(const struct shape *s, uint32_t window)
{
    struct shape longer = *s;
    const enum lm_dtype f32 = LM_F32;
    struct small_net n;
    struct pair p = {.n = &n, .math = LM_MATH_EXACT, .tokens = 1};
    float *want = random_floats(s->vocab, 0), *got = random_floats(s->vocab, 0);

    longer.ctx_len = 1300;
    longer.window = window;
    net_make(&n, &longer, &f32, 1);
    side_open(&p.cpu, &lm_backend_cpu, &n, LM_MATH_EXACT, 1);
    side_open(&p.gpu, cuda, &n, LM_MATH_EXACT, 1);
    /* Positions that nothing was written to hold zeros on both sides. */
    for (p.pos0 = 1012; p.pos0 < 1040; p.pos0 += p.pos0 < 1020 || p.pos0 > 1030 ? 3 : 1) {
        int32_t id = (int32_t)(p.pos0 * 7919 % s->vocab);
        whole_token(&p.cpu, &longer, id, p.pos0, want);
        whole_token(&p.gpu, &longer, id, p.pos0, got);
        compare(&p, "a recorded token", NULL, got, want, 1, s->vocab, 1e-4);
    }
    free(want);
    free(got);
    side_close(&p.cpu);
    side_close(&p.gpu);
    lm_arena_free(&n.arena);
}

static void recorded_tokens(void **unused)
{
    (void)unused;
    NEED_GPU();
    check_tokens(&shapes[0], 0);
    check_tokens(&shapes[1], 40);
    check_tokens(&shapes[1], 260);
    check_tokens(&shapes[2], 0);
    no_differences();
}

/* Attention on tensor cores: every width of head, windows, many heads to one. */
static void attention_of_many_queries(void **unused)
{
    static const struct call calls[] = {{33, 0}, {64, 66}, {40, 130}};
    static const uint32_t heads[] = {32, 64, 80, 128, 256};
    const enum lm_dtype f32 = LM_F32;

    (void)unused;
    NEED_GPU();
    for (size_t i = 0; i < N_OF(heads); i++)
        for (uint32_t window = 0; window <= 50; window += 50) {
            struct shape s = shapes[0];
            s.name = "heads for tensor cores";
            s.n_heads = 3;
            s.n_kv_heads = i % 2 ? 1 : 3;
            s.d_head = s.d_rope = heads[i];
            s.d_ff = 64;
            s.window = window;
            check_net(&s, &f32, 1, LM_MATH_TF32, calls, emulated ? 2 : N_OF(calls));
        }
    no_differences();
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

/* test_cuda_ops [PATTERN]: only the tests whose names match. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(every_shape), TEST(every_type), TEST(mixed_types), TEST(fast_modes), TEST(large_shapes),
        TEST(uploads_in_pieces), TEST(calls_do_not_change_bits), TEST(recorded_tokens), TEST(attention_of_many_queries),
        TEST(errors_name_what_is_wrong),
    };
    return RUN_TESTS(tests, argc, argv);
}
