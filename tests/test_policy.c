/* The type mix against llama-quantize's: sizes and histograms of whole models
 * computed from shapes alone (no data), every decision for made-up models of all
 * families with rules of their own, recipes, and single rules. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <unistd.h>
#include <zlib.h>

#include "convert/policy.h"

struct shape_row { char name[64]; unsigned n_dims; uint64_t shape[3]; };
struct shapes { struct shape_row rows[1024]; size_t n; unsigned n_layers, gqa; };

static void add(struct shapes *s, int layer, const char *name, uint64_t outer, uint64_t row)
{
    struct shape_row *r = &s->rows[s->n++];

    assert_true(s->n <= 1024);
    if (layer < 0)
        snprintf(r->name, sizeof r->name, "%s", name);
    else
        snprintf(r->name, sizeof r->name, "blk.%d.%s", layer, name);
    r->n_dims = outer ? 2 : 1;
    r->shape[0] = outer ? outer : row;
    r->shape[1] = outer ? row : 0;
}

static int by_order(const void *a, const void *b)
{
    return lmc_mix_order(((const struct shape_row *)a)->name, ((const struct shape_row *)b)->name);
}

static void mistral_7b(struct shapes *s)
{
    *s = (struct shapes){.n_layers = 32, .gqa = 4};
    add(s, -1, "token_embd.weight", 32000, 4096);
    add(s, -1, "output_norm.weight", 0, 4096);
    add(s, -1, "output.weight", 32000, 4096);
    for (int l = 0; l < 32; l++) {
        add(s, l, "attn_norm.weight", 0, 4096);
        add(s, l, "attn_q.weight", 4096, 4096);
        add(s, l, "attn_k.weight", 1024, 4096);
        add(s, l, "attn_v.weight", 1024, 4096);
        add(s, l, "attn_output.weight", 4096, 4096);
        add(s, l, "ffn_norm.weight", 0, 4096);
        add(s, l, "ffn_gate.weight", 14336, 4096);
        add(s, l, "ffn_up.weight", 14336, 4096);
        add(s, l, "ffn_down.weight", 4096, 14336);
    }
    qsort(s->rows, s->n, sizeof s->rows[0], by_order);
}

static void gpt2(struct shapes *s, unsigned n_layers, uint64_t d)
{
    static const char *const vectors[] = {"attn_norm.weight", "attn_norm.bias", "attn_output.bias",
                                          "ffn_norm.weight",  "ffn_norm.bias",  "ffn_down.bias"};

    *s = (struct shapes){.n_layers = n_layers, .gqa = 1};
    add(s, -1, "token_embd.weight", 50257, d);
    add(s, -1, "position_embd.weight", 1024, d);
    add(s, -1, "output_norm.weight", 0, d);
    add(s, -1, "output_norm.bias", 0, d);
    for (int l = 0; l < (int)n_layers; l++) {
        for (size_t i = 0; i < 6; i++)
            add(s, l, vectors[i], 0, d);
        add(s, l, "attn_qkv.weight", 3 * d, d);
        add(s, l, "attn_qkv.bias", 0, 3 * d);
        add(s, l, "attn_output.weight", d, d);
        add(s, l, "ffn_up.weight", 4 * d, d);
        add(s, l, "ffn_up.bias", 0, 4 * d);
        add(s, l, "ffn_down.weight", d, 4 * d);
    }
    qsort(s->rows, s->n, sizeof s->rows[0], by_order);
}

/* Bytes of tensor data, each padded to 32; what stays is F32, as converters write it. */
static uint64_t measure(const struct shapes *s, struct lmc_mix *m, unsigned hist[LM_N_DTYPES])
{
    uint64_t total = 0;

    memset(hist, 0, LM_N_DTYPES * sizeof hist[0]);
    m->n_layers = s->n_layers;
    m->gqa = s->gqa;
    for (size_t i = 0; i < s->n; i++)
        lmc_mix_count(m, s->rows[i].name);
    for (size_t i = 0; i < s->n; i++) {
        const struct shape_row *r = &s->rows[i];
        uint64_t row = r->shape[r->n_dims - 1], n = r->n_dims == 2 ? r->shape[0] * row : row;
        enum lm_dtype d = LM_F32;
        char why[160];

        if (lmc_mix_allows(m, r->name, r->n_dims, r->shape))
            d = lmc_mix_type(m, &(struct lmc_mix_tensor){r->name, row, 1}, why, sizeof why);
        hist[d]++;
        assert_int_not_equal(lm_dtype_bytes(d, n), 0);
        total += (lm_dtype_bytes(d, n) + 31) / 32 * 32;
    }
    return total;
}

struct oracle { const char *ftype; uint64_t bytes; struct { enum lm_dtype d; unsigned n; } hist[5]; };

static void check(const struct shapes *s, const struct oracle *o, size_t n)
{
    for (; n > 0; n--, o++) {
        struct lmc_mix m = {.ftype = lm_ftype_find(o->ftype)};
        unsigned hist[LM_N_DTYPES];
        uint64_t bytes;

        assert_non_null(m.ftype);
        bytes = measure(s, &m, hist);
        if (bytes != o->bytes)
            print_error("%s: %llu bytes, expected %llu\n", o->ftype, (unsigned long long)bytes,
                        (unsigned long long)o->bytes);
        assert_true(bytes == o->bytes);
        for (size_t i = 0; i < 5 && o->hist[i].n; i++)
            assert_int_equal(hist[o->hist[i].d], o->hist[i].n);
    }
}

static void test_mistral_7b(void **state)
{
    static const struct oracle rows[] = {
        {"F16", 14483996672, {{LM_F16, 226}, {LM_F32, 65}}},
        {"Q8_0", 7695122432, {{LM_Q8_0, 226}, {LM_F32, 65}}},
        {"Q6_K", 5941329920, {{LM_Q6_K, 226}}},
        {"Q5_K_M", 5130674176, {{LM_Q5_K, 193}, {LM_Q6_K, 33}}},
        {"Q5_K_S", 4996980736, {{LM_Q5_K, 225}, {LM_Q6_K, 1}}},
        {"Q4_K_M", 4367704064, {{LM_Q4_K, 193}, {LM_Q6_K, 33}}},
        {"Q4_K_S", 4139638784, {{LM_Q4_K, 217}, {LM_Q5_K, 8}, {LM_Q6_K, 1}}},
        {"Q4_0", 4108181504, {{LM_Q4_0, 225}, {LM_Q6_K, 1}}},
        {"Q3_K_L", 3821289472, {{LM_Q3_K, 129}, {LM_Q5_K, 96}, {LM_Q6_K, 1}}},
        {"Q3_K_M", 3518251008, {{LM_Q3_K, 129}, {LM_Q4_K, 92}, {LM_Q5_K, 4}, {LM_Q6_K, 1}}},
        {"Q3_K_S", 3163832320, {{LM_Q3_K, 225}, {LM_Q6_K, 1}}},
        {"Q2_K", 2718507008, {{LM_Q2_K, 129}, {LM_Q3_K, 64}, {LM_Q4_K, 32}, {LM_Q6_K, 1}}},
    };
    static struct shapes s;

    (void)state;
    mistral_7b(&s);
    assert_int_equal(s.n, 291);
    check(&s, rows, sizeof rows / sizeof rows[0]);
}

static void test_gpt2_124m(void **state)
{
    static const struct oracle rows[] = {
        {"F16", 250695168, {{0}}},   {"Q8_0", 134883904, {{0}}},  {"Q6_K", 104965984, {{0}}},
        {"Q5_K_M", 96975712, {{0}}}, {"Q5_K_S", 93685600, {{0}}}, {"Q4_K_M", 89455456, {{0}}},
        {"Q4_K_S", 84248416, {{0}}}, {"Q4_0", 83068768, {{0}}},   {"Q3_K_L", 86386528, {{0}}},
        {"Q3_K_M", 79751008, {{0}}}, {"Q3_K_S", 71788384, {{0}}}, {"Q2_K", 68912992, {{0}}},
    };
    static struct shapes s;

    (void)state;
    gpt2(&s, 12, 768);
    check(&s, rows, sizeof rows / sizeof rows[0]);
}

static void test_gpt2_xl_falls_back(void **state)
{
    static const struct oracle rows[] = {
        {"F16", 3120502400, {{0}}},
        {"Q8_0", 1662716928, {{0}}},
        {"Q6_K", 1543676928, {{LM_Q8_0, 145}, {LM_Q6_K, 48}}},
        {"Q5_K_M", 1261436928, {{LM_Q5_1, 120}, {LM_Q8_0, 25}, {LM_Q5_K, 24}, {LM_Q6_K, 24}}},
        {"Q5_K_S", 1171196928, {{0}}},
        {"Q4_K_M", 1180796928, {{LM_Q5_0, 120}, {LM_Q8_0, 25}, {LM_Q4_K, 24}, {LM_Q6_K, 24}}},
        {"Q4_K_S", 1057916928, {{0}}},
        {"Q4_0", 925436928, {{0}}},
        {"Q3_K_L", 1079036928, {{0}}},
        {"Q3_K_M", 991676928, {{0}}},
        {"Q3_K_S", 860156928, {{0}}},
        {"Q2_K", 860156928, {{0}}},
    };
    static struct shapes s;

    (void)state;
    gpt2(&s, 48, 1600);
    check(&s, rows, sizeof rows / sizeof rows[0]);
}

static void test_names(void **state)
{
    (void)state;
    for (size_t i = 0; lm_ftype_at(i); i++)
        assert_ptr_equal(lm_ftype_find(lm_ftype_at(i)->name), lm_ftype_at(i));
    assert_ptr_equal(lm_ftype_find("q4_k_m"), lm_ftype_find("Q4_K_M"));
    assert_ptr_equal(lm_ftype_find("Q4_K"), lm_ftype_find("Q4_K_M"));
    assert_null(lm_ftype_find("Q4_K_X"));
    assert_int_equal(lm_ftype_find("Q6_K")->id, 18);
}

static void test_order(void **state)
{
    (void)state;
    assert_true(lmc_mix_order("output.weight", "blk.0.attn_k.weight") < 0);
    assert_true(lmc_mix_order("blk.2.ffn_up.weight", "blk.10.attn_k.weight") < 0);
    assert_true(lmc_mix_order("blk.3.attn_k.weight", "blk.3.attn_q.weight") < 0);
    assert_int_equal(lmc_mix_order("a", "a"), 0);
}

static void test_what_stays(void **state)
{
    static const uint64_t square[] = {256, 256}, flat[] = {1, 256};
    struct lm_mix_options leave = {.output = -1, .embedding = -1, .leave_output = true};
    struct lmc_mix m = {0}, glm5 = {.glm5 = true}, left = {.options = &leave};

    (void)state;
    assert_true(lmc_mix_allows(&m, "blk.0.attn_q.weight", 2, square));
    assert_true(lmc_mix_allows(&m, "model.layers.0.anything.weight", 2, square));
    assert_true(lmc_mix_allows(&m, "output.weight", 2, square));
    assert_true(lmc_mix_allows(&m, "blk.0.hc_x.weight", 2, square));
    assert_false(lmc_mix_allows(&m, "blk.0.attn_q.weight", 1, square));
    assert_false(lmc_mix_allows(&m, "blk.0.attn_q.weight", 2, flat));
    assert_false(lmc_mix_allows(&m, "blk.0.attn_q.bias", 2, square));
    assert_false(lmc_mix_allows(&m, "blk.0.attn_q_norm.weight", 2, square));
    assert_false(lmc_mix_allows(&m, "blk.0.ffn_gate_inp.weight", 2, square));
    assert_false(lmc_mix_allows(&m, "position_embd.weight", 2, square));
    assert_false(lmc_mix_allows(&m, "", 2, square));
    assert_false(lmc_mix_allows(&glm5, "blk.0.hc_x.weight", 2, square));
    assert_false(lmc_mix_allows(&left, "output.weight", 2, square));
    assert_true(lmc_mix_allows(&left, "token_embd.weight", 2, square));
}

static enum lm_dtype type_of(struct lmc_mix *m, const char *name, uint64_t row, char *why, size_t why_size)
{
    struct lmc_mix_tensor t = {name, row, strstr(name, "_exps") ? 8 : 1};

    return lmc_mix_type(m, &t, why, why_size);
}

static enum lm_dtype one(struct lmc_mix m, const char *ftype, const char *name, uint64_t row)
{
    m.ftype = lm_ftype_find(ftype);
    return type_of(&m, name, row, NULL, 0);
}

/* ---- all decisions for made-up models */

struct made { char name[32], arch[16]; int n_layers, heads, kv, experts, ff, output; };

static void add_matrix(struct shapes *s, int layer, const char *name, uint64_t outer, uint64_t row, uint64_t n)
{
    add(s, layer, name, outer, row);
    if (n > 0) {
        s->rows[s->n - 1].n_dims = 3;
        s->rows[s->n - 1].shape[2] = row;
        s->rows[s->n - 1].shape[1] = outer;
        s->rows[s->n - 1].shape[0] = n;
    }
}

/* The tensors of tests/make_mix_fixtures.py. */
static void make_layer(struct shapes *s, const struct made *m, int l, uint64_t d)
{
    bool fused = strcmp(m->arch, "falcon") == 0 || strcmp(m->arch, "gpt2") == 0;
    uint64_t n = (uint64_t)m->experts, ff = (uint64_t)m->ff, kv = (uint64_t)m->kv * 16;

    add(s, l, "attn_norm.weight", 0, d);
    add(s, l, "ffn_norm.weight", 0, d);
    if (fused)
        add(s, l, "attn_qkv.weight", d + 2 * kv, d);
    else {
        add(s, l, "attn_q.weight", d, d);
        add(s, l, "attn_k.weight", kv, d);
        add(s, l, "attn_v.weight", kv, d);
        add_matrix(s, l, n ? "ffn_gate_exps.weight" : "ffn_gate.weight", ff, d, n);
    }
    add(s, l, "attn_output.weight", d, d);
    if (n)
        add(s, l, "ffn_gate_inp.weight", n, d);
    add_matrix(s, l, n ? "ffn_up_exps.weight" : "ffn_up.weight", ff, d, n);
    add_matrix(s, l, n ? "ffn_down_exps.weight" : "ffn_down.weight", d, ff, n);
}

static void make_shapes(struct shapes *s, const struct made *m)
{
    uint64_t d = (uint64_t)m->heads * 16;

    *s = (struct shapes){0};
    add(s, -1, "token_embd.weight", 64, d);
    add(s, -1, "output_norm.weight", 0, d);
    if (m->output)
        add(s, -1, "output.weight", 64, d);
    if (strcmp(m->arch, "gpt2") == 0)
        add(s, -1, "position_embd.weight", 32, d);
    for (int l = 0; l < m->n_layers; l++)
        make_layer(s, m, l, d);
    qsort(s->rows, s->n, sizeof s->rows[0], by_order);
}

static void decide(const struct shapes *s, struct lmc_mix *m, unsigned hist[LM_N_DTYPES], uint32_t *crc)
{
    char line[128];

    memset(hist, 0, LM_N_DTYPES * sizeof hist[0]);
    *crc = 0;
    for (size_t i = 0; i < s->n; i++)
        lmc_mix_count(m, s->rows[i].name);
    for (size_t i = 0; i < s->n; i++) {
        const struct shape_row *r = &s->rows[i];
        struct lmc_mix_tensor t = {r->name, r->shape[r->n_dims - 1], r->n_dims == 3 ? r->shape[0] : 1};
        enum lm_dtype d = lmc_mix_allows(m, r->name, r->n_dims, r->shape) ? lmc_mix_type(m, &t, NULL, 0) : LM_F32;
        int n = snprintf(line, sizeof line, "%s %s\n", r->name, lm_dtype_name(d));
        *crc = (uint32_t)crc32(*crc, (const unsigned char *)line, (unsigned)n);
        hist[d]++;
    }
}

static void check_line(const struct made *made, const char *line)
{
    static struct shapes s;
    static struct lm_importance some;
    struct lm_mix_options o = {.output = -1, .embedding = -1};
    struct lmc_mix m = {.options = &o, .n_layers = (unsigned)made->n_layers, .n_experts = (unsigned)made->experts,
                        .gqa = (unsigned)(made->heads / made->kv), .falcon = strcmp(made->arch, "falcon") == 0};
    char ftype[16];
    int known, at = 0;
    uint32_t crc, want;
    unsigned hist[LM_N_DTYPES];

    assert_int_equal(sscanf(line, "%*s %15s %d %x%n", ftype, &known, &want, &at), 3);
    m.is_70b = made->n_layers == 80 && (made->heads != made->kv || strcmp(made->arch, "qwen2") == 0);
    o.importance = known ? &some : NULL;
    m.ftype = lm_ftype_find(ftype);
    assert_non_null(m.ftype);
    make_shapes(&s, made);
    decide(&s, &m, hist, &crc);
    for (const char *p = line + at; (p = strchr(p, ':')) != NULL; p++) { /* says more than the CRC */
        const char *from = p;
        while (from[-1] != ' ')
            from--;
        char name[16] = "";
        memcpy(name, from, (size_t)(p - from));
        assert_true(lm_dtype_find(name) >= 0);
        if (hist[lm_dtype_find(name)] != strtoul(p + 1, NULL, 10))
            fail_msg("%s: %u are %s", line, hist[lm_dtype_find(name)], name);
    }
    if (crc != want)
        fail_msg("%s: as many of each type, but others", line);
}

static void test_decisions_of_llama_quantize(void **state)
{
    FILE *f = fopen("tests/fixtures/mixes.txt", "r");
    char line[400];
    struct made m = {0};
    int n = 0, n_models = 0;

    (void)state;
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        if (line[0] == '#')
            continue;
        if (strncmp(line, "model ", 6) != 0) {
            check_line(&m, line);
            n++;
            continue;
        }
        assert_int_equal(sscanf(line, "model %31s %15s %d %d %d %d %d %d", m.name, m.arch, &m.n_layers, &m.heads, &m.kv,
                                &m.experts, &m.ff, &m.output), 8);
        n_models++;
    }
    fclose(f);
    assert_int_equal(n_models, 12);
    assert_int_equal(n, 812);
}

/* ---- recipes and fixed types */

static void rule(struct lm_recipe *r, const char *pattern, const char *type)
{
    struct lm_err e;

    if (lm_recipe_add(r, lm_span_str(pattern), lm_span_str(type), &e))
        fail_msg("%s", e.text);
}

static void test_recipe_comes_first(void **state)
{
    struct lm_recipe *r;
    struct lm_mix_options o = {.output = -1, .embedding = -1};
    struct lmc_mix m = {.options = &o, .n_layers = 8, .n_v = 8, .has_output = true};
    char why[160];

    (void)state;
    assert_int_equal(lm_recipe_new(&r, NULL), 0);
    rule(r, "blk\\.[0-3]\\.ffn_down", "q8_0");
    rule(r, "FFN_DOWN", "Q5_K");
    rule(r, "token_embd", "F16");
    o.recipe = r;
    assert_int_equal(one(m, "Q4_K_M", "blk.2.ffn_down.weight", 512), LM_Q8_0);
    assert_int_equal(one(m, "Q4_K_M", "blk.4.ffn_down.weight", 512), LM_Q5_K);
    assert_int_equal(one(m, "Q4_K_M", "blk.4.ffn_up.weight", 512), LM_Q4_K);
    assert_int_equal(one(m, "Q4_K_M", "token_embd.weight", 512), LM_F16);
    assert_int_equal(one(m, "F16", "blk.2.ffn_down.weight", 512), LM_F16); /* nothing is quantized there */
    /* rows decide nevertheless */
    m.ftype = lm_ftype_find("Q4_K_M");
    assert_int_equal(type_of(&m, "blk.5.ffn_down.weight", 288, why, sizeof why), LM_Q5_1);
    assert_string_equal(why, "rows of 288 are not whole Q5_K blocks: Q5_1");
    /* above all: output and embedding */
    o.output = LM_Q8_0;
    o.embedding = LM_Q5_0;
    assert_int_equal(one(m, "Q4_K_M", "output.weight", 512), LM_Q8_0);
    assert_int_equal(one(m, "F16", "output.weight", 512), LM_Q8_0);
    assert_int_equal(one(m, "Q4_K_M", "token_embd.weight", 512), LM_Q5_0);
    /* but the second table may be named */
    assert_int_equal(one(m, "Q4_K_M", "per_layer_token_embd.weight", 512), LM_F16);
    m.has_output = false;
    o.embedding = -1;
    assert_int_equal(one(m, "Q4_K_M", "per_layer_token_embd.weight", 512), LM_F16);
    o.recipe = NULL;
    assert_int_equal(one(m, "Q4_K_M", "token_embd.weight", 512), LM_Q8_0); /* tied: it is the output */
    lm_recipe_free(r);
}

static void write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static void test_recipe_files(void **state)
{
    static const struct { const char *text, *says; } bad[] = {
        {"attn_q\n", "line 1"},          {"# x\n\nattn_q Q4_K Q5_K\n", "line 3"}, {"attn_q Q4_K_M\n", "Q4_K_M"},
        {"attn_(q Q4_K\n", "expression"}, {"attn_q Q8_K\n", "Q8_K"},
    };
    char dir[] = "/tmp/libmodel-test-XXXXXX", path[64];
    struct lm_recipe *r;
    struct lm_err e;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/recipe", dir);
    write_text(path, "# attention\nattn_[qk]\tQ6_K # more bits\r\n\n  ffn_.*$   q4_0\n^output\\.weight$ F16");
    assert_int_equal(lm_recipe_new(&r, &e), 0);
    assert_int_equal(lm_recipe_read(r, path, &e), 0);
    assert_int_equal(lmc_recipe_find(r, "blk.0.attn_k.weight"), LM_Q6_K);
    assert_int_equal(lmc_recipe_find(r, "blk.0.ffn_up.weight"), LM_Q4_0);
    assert_int_equal(lmc_recipe_find(r, "output.weight"), LM_F16);
    assert_int_equal(lmc_recipe_find(r, "blk.0.attn_output.weight"), -1);
    assert_int_equal(lmc_recipe_find(NULL, "output.weight"), -1);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        write_text(path, bad[i].text);
        assert_int_equal(lm_recipe_read(r, path, &e), -1);
        assert_non_null(strstr(e.text, bad[i].says));
        assert_non_null(strstr(e.text, path));
    }
    lm_recipe_free(r);
    unlink(path);
    rmdir(dir);
}

static void test_what_needs_importance(void **state)
{
    const struct lm_ftype *q2_k_s = lm_ftype_find("Q2_K_S"), *q2_k = lm_ftype_find("Q2_K");

    (void)state;
    assert_true(lmc_mix_needs_importance(q2_k_s, "blk.0.attn_q.weight", LM_Q2_K));
    assert_false(lmc_mix_needs_importance(q2_k_s, "token_embd.weight", LM_Q2_K));
    assert_false(lmc_mix_needs_importance(q2_k, "blk.0.attn_q.weight", LM_Q2_K));
    assert_true(lmc_mix_needs_importance(q2_k, "blk.0.attn_q.weight", LM_IQ3_XXS));
    assert_false(lmc_mix_needs_importance(q2_k, "output.weight", LM_IQ3_XXS));
    assert_true(lmc_mix_needs_importance(q2_k, "output.weight", LM_IQ2_XS)); /* nothing else makes it */
    assert_false(lmc_mix_needs_importance(q2_k, "blk.0.attn_q.weight", LM_IQ3_S));
}

static void test_rules_of_special_models(void **state)
{
    struct lmc_mix moe = {.n_layers = 32, .gqa = 4, .n_experts = 8, .n_v = 32, .has_output = true};
    struct lmc_mix big = {.n_layers = 80, .gqa = 8, .is_70b = true, .n_v = 80, .i_v = 20, .has_output = true};
    struct lmc_mix falcon = {.n_layers = 32, .falcon = true, .n_v = 32, .i_down = 3, .has_output = true};

    (void)state;
    assert_int_equal(one(moe, "Q4_K_M", "blk.9.attn_v.weight", 4096), LM_Q8_0);
    assert_int_equal(one(moe, "Q2_K", "blk.9.attn_k.weight", 4096), LM_Q8_0);
    assert_int_equal(one(moe, "Q3_K_M", "blk.9.attn_output.weight", 4096), LM_Q5_K);
    assert_int_equal(one(moe, "Q5_K_M", "blk.9.attn_output.weight", 4096), LM_Q5_K);
    assert_int_equal(one(moe, "Q6_K", "blk.9.attn_output.weight", 4096), LM_Q6_K);
    /* by the layer in the name, not by how many were seen */
    assert_int_equal(one(moe, "Q4_K_M", "blk.31.ffn_down_exps.weight", 4096), LM_Q6_K);
    assert_int_equal(one(moe, "Q4_K_M", "blk.4.ffn_down_exps.weight", 4096), LM_Q4_K);
    assert_int_equal(one(big, "Q4_K_S", "blk.20.attn_v.weight", 8192), LM_Q5_K);
    assert_int_equal(one(big, "Q2_K", "blk.20.attn_v.weight", 8192), LM_Q5_K);
    assert_int_equal(one(falcon, "Q4_K_M", "blk.3.ffn_down.weight", 4096), LM_Q5_K);
    assert_int_equal(one(falcon, "Q3_K_L", "blk.3.ffn_down.weight", 4096), LM_Q4_K);
    assert_int_equal(one(falcon, "Q3_K_M", "blk.3.attn_output.weight", 4096), LM_Q3_K);
    assert_int_equal(one(falcon, "Q4_K_M", "output.weight", 4096), LM_Q8_0);
    assert_int_equal(one(moe, "MXFP4_MOE", "blk.3.ffn_down_exps.weight", 4096), LM_MXFP4);
    moe.bailingmoe3 = true;
    assert_int_equal(one(moe, "MXFP4_MOE", "blk.3.ffn_up_exps.weight", 4096), LM_MXFP4);
    assert_int_equal(one(moe, "MXFP4_MOE", "blk.3.attn_k_b_exps.weight", 4096), LM_Q8_0);
    moe.glm5 = true;
    assert_int_equal(one(moe, "Q4_K_M", "blk.3.attn_q_b.weight", 4096), LM_Q8_0);
}

static void test_pure_and_fallback(void **state)
{
    struct lmc_mix m = {.ftype = lm_ftype_find("Q4_K_M"), .pure = true, .n_layers = 8, .n_v = 8};
    char why[160];

    (void)state;
    assert_int_equal(type_of(&m, "token_embd.weight", 256, why, sizeof why), LM_Q4_K);
    assert_string_equal(why, "");
    assert_int_equal(type_of(&m, "blk.0.ffn_down.weight", 288, why, sizeof why), LM_Q5_0);
    assert_string_equal(why, "rows of 288 are not whole Q4_K blocks: Q5_0");
    assert_int_equal(type_of(&m, "blk.0.ffn_down.weight", 100, why, sizeof why), LM_F16);
    assert_int_equal(lmc_fallback(LM_Q8_0, 48, NULL, 0), LM_F16);
    assert_int_equal(lmc_fallback(LM_Q5_K, 96, NULL, 0), LM_Q5_1);
    assert_int_equal(lmc_fallback(LM_IQ4_XS, 96, NULL, 0), LM_IQ4_NL);
    m.pure = false;
    assert_int_equal(type_of(&m, "token_embd.weight", 288, why, sizeof why), LM_Q8_0);
    assert_string_equal(why, "rows of 288 are not whole Q4_K blocks: Q8_0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mistral_7b),
        cmocka_unit_test(test_gpt2_124m),
        cmocka_unit_test(test_gpt2_xl_falls_back),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_what_stays),
        cmocka_unit_test(test_decisions_of_llama_quantize),
        cmocka_unit_test(test_recipe_comes_first),
        cmocka_unit_test(test_recipe_files),
        cmocka_unit_test(test_what_needs_importance),
        cmocka_unit_test(test_rules_of_special_models),
        cmocka_unit_test(test_pure_and_fallback),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
