/* The type mix against llama-quantize's: sizes and histograms of whole models
 * computed from shapes alone (no data), and single rules where two models do
 * not reach. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "convert/policy.h"

struct shape_row { char name[64]; unsigned n_dims; uint64_t shape[2]; };
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

        if (lmc_mix_allows(r->name, r->n_dims, r->shape))
            d = lmc_mix_type(m, r->name, row, why, sizeof why);
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

    (void)state;
    assert_true(lmc_mix_allows("blk.0.attn_q.weight", 2, square));
    assert_true(lmc_mix_allows("model.layers.0.anything.weight", 2, square));
    assert_false(lmc_mix_allows("blk.0.attn_q.weight", 1, square));
    assert_false(lmc_mix_allows("blk.0.attn_q.weight", 2, flat));
    assert_false(lmc_mix_allows("blk.0.attn_q.bias", 2, square));
    assert_false(lmc_mix_allows("blk.0.attn_q_norm.weight", 2, square));
    assert_false(lmc_mix_allows("blk.0.ffn_gate_inp.weight", 2, square));
    assert_false(lmc_mix_allows("position_embd.weight", 2, square));
    assert_false(lmc_mix_allows("", 2, square));
}

static enum lm_dtype one(struct lmc_mix m, const char *ftype, const char *name, uint64_t row)
{
    m.ftype = lm_ftype_find(ftype);
    return lmc_mix_type(&m, name, row, NULL, 0);
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
}

static void test_pure_and_fallback(void **state)
{
    struct lmc_mix m = {.ftype = lm_ftype_find("Q4_K_M"), .pure = true, .n_layers = 8, .n_v = 8};
    char why[160];

    (void)state;
    assert_int_equal(lmc_mix_type(&m, "token_embd.weight", 256, why, sizeof why), LM_Q4_K);
    assert_string_equal(why, "");
    assert_int_equal(lmc_mix_type(&m, "blk.0.ffn_down.weight", 288, why, sizeof why), LM_Q5_0);
    assert_string_equal(why, "rows of 288 are not whole Q4_K blocks: Q5_0");
    assert_int_equal(lmc_mix_type(&m, "blk.0.ffn_down.weight", 100, why, sizeof why), LM_F16);
    assert_int_equal(lmc_fallback(LM_Q8_0, 48, NULL, 0), LM_F16);
    assert_int_equal(lmc_fallback(LM_Q5_K, 96, NULL, 0), LM_Q5_1);
    assert_int_equal(lmc_fallback(LM_IQ4_XS, 96, NULL, 0), LM_IQ4_NL);
    m.pure = false;
    assert_int_equal(lmc_mix_type(&m, "token_embd.weight", 288, why, sizeof why), LM_Q8_0);
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
        cmocka_unit_test(test_rules_of_special_models),
        cmocka_unit_test(test_pure_and_fallback),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
