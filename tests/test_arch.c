/* Architecture rows, config reading and binding: walks every row and every
 * tiny model, so that a new row or fixture is tested on the day it is added. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/mutate.h"

#define MODELS "tests/fixtures/models/"

static void every_row_has_a_role_a_name_and_a_reason(void **state)
{
    (void)state;
    for (size_t i = 0; lm_arch_at(i); i++) {
        const struct lm_arch *a = lm_arch_at(i);
        assert_ptr_equal(lm_arch_find(a->name), a);
        assert_non_null(a->hf_classes[0]);
        for (size_t j = 0; j < a->n_rows; j++) {
            const struct lm_arch_row *r = &a->rows[j];
            assert_true(r->hf || r->gguf);
            assert_true(r->shape[0] != LM_DIM_NONE);
            if (r->flags & LM_ROW_DROPPED)
                assert_true(r->why && !r->gguf);
            else
                assert_non_null(r->gguf);
            assert_int_equal(!r->hf, (r->flags & LM_ROW_GGUF_ONLY) != 0);
        }
    }
}

static void names_match_back_to_their_row(void **state)
{
    (void)state;
    char name[256];
    for (size_t i = 0; lm_arch_at(i); i++) {
        const struct lm_arch *a = lm_arch_at(i);
        for (size_t j = 0; j < a->n_rows; j++) {
            for (int n = LM_NAMES_HF; n <= LM_NAMES_GGUF; n++) {
                if (!lm_arch_row_name(&a->rows[j], (enum lm_naming)n, 17, name, sizeof name))
                    continue;
                int layer = -2, expert = -2;
                const struct lm_arch_row *r = NULL;
                if (n == LM_NAMES_GGUF && (a->rows[j].flags & LM_ROW_ALIAS))
                    continue;
                lm_arch_expert_name(&a->rows[j], (enum lm_naming)n, 17, 5, name, sizeof name);
                do /* one tensor may be several rows' */
                    r = lm_arch_match_next(a, NULL, (enum lm_naming)n, name, r, &layer, &expert);
                while (r && r != &a->rows[j]);
                assert_ptr_equal(r, &a->rows[j]);
                assert_int_equal(layer, strstr(name, "17") ? 17 : -1);
                assert_int_equal(expert, n == LM_NAMES_HF && lm_row_is_stacked(r) ? 5 : 0);
            }
        }
    }
}

static void odd_names_do_not_match(void **state)
{
    (void)state;
    static const char *const odd[] = {
        "blk.01.attn_q.weight", "blk.-1.attn_q.weight", "blk..attn_q.weight", "blk.1.attn_q.weightx", "blk.1.attn_q",
        "", "blk.99999999999.attn_q.weight", "BLK.1.attn_q.weight",
    };
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        int layer;
        assert_null(lm_arch_match(lm_arch_find("llama"), LM_NAMES_GGUF, odd[i], &layer));
        assert_int_equal(layer, -1);
    }
}

static void gpt2_names_do_without_their_prefix(void **state)
{
    (void)state;
    int layer;
    const struct lm_arch_row *r = lm_arch_match(lm_arch_find("gpt2"), LM_NAMES_HF, "h.3.attn.c_attn.weight", &layer);
    assert_non_null(r);
    assert_int_equal(r->role, LM_ROLE_ATTN_QKV);
    assert_int_equal(layer, 3);
}

static struct lm_config llama31(void)
{
    return (struct lm_config){.arch = lm_arch_find("llama"), .d_head = 128, .d_rope = 128, .rope_theta = 500000,
                              .scaling = LM_SCALING_LLAMA3, .rope_factor = 8, .rope_low_freq = 1, .rope_high_freq = 4,
                              .rope_orig_ctx = 8192};
}

static void llama3_divisors_recover_their_parameters(void **state)
{
    (void)state;
    float d[64];
    struct lm_config c = llama31(), back = c;
    lm_rope_llama3_divisors(&c, d);
    assert_true(d[0] == 1.0f && d[63] == 8.0f);
    back.scaling = LM_SCALING_NONE;
    back.rope_factor = back.rope_orig_ctx = 0;
    assert_true(lm_rope_llama3_recover(&back, d, 64));
    assert_int_equal(back.rope_orig_ctx, 8192);
    assert_true(back.rope_factor == 8 && back.scaling == LM_SCALING_LLAMA3);
    d[40] *= 1.01f;
    assert_false(lm_rope_llama3_recover(&back, d, 64));
}

static void yarn_keeps_fast_pairs_and_slows_the_rest(void **state)
{
    (void)state;
    double plain[64], yarn[64], m;
    struct lm_config c = llama31();
    c.scaling = LM_SCALING_NONE;
    lm_rope_freqs(&c, plain, &m);
    assert_true(m == 1.0);
    c.scaling = LM_SCALING_YARN;
    c.beta_fast = 32;
    c.beta_slow = 1;
    lm_rope_freqs(&c, yarn, &m);
    assert_true(fabs(m - (0.1 * log(8) + 1)) < 1e-15);
    assert_true(yarn[0] == plain[0]);
    assert_true(fabs(yarn[63] - plain[63] / 8) < 1e-18);
    for (int j = 1; j < 64; j++)
        assert_true(yarn[j] <= plain[j] && yarn[j] >= plain[j] / 8 * (1 - 1e-12));
}

static int is_model_dir(const char *path)
{
    char file[1024];
    snprintf(file, sizeof file, "%s/config.json", path);
    return access(file, R_OK) == 0;
}

/* Every tiny model binds completely, in Hugging Face spelling. */
static void every_fixture_binds(void **state)
{
    (void)state;
    DIR *d = opendir(MODELS);
    size_t n = 0;
    assert_non_null(d);
    for (struct dirent *f; (f = readdir(d));) {
        char path[512];
        struct lm_err e = {0};
        struct lm_model *m;
        struct lm_binding *b;
        snprintf(path, sizeof path, MODELS "%s", f->d_name);
        if (f->d_name[0] == '.' || !is_model_dir(path))
            continue;
        if (lm_model_open(&m, path, &e) || lm_bind(&b, m, &e))
            fail_msg("%s: %s", path, e.text);
        assert_int_equal(b->n_unknown, 0);
        assert_int_equal(b->naming, LM_NAMES_HF);
        assert_non_null(lm_bound_tensor(b, LM_ROLE_TOKEN_EMBD, -1));
        assert_true((lm_bound_tensor(b, LM_ROLE_OUTPUT, -1) == NULL) == b->config.tied);
        assert_null(lm_bound_tensor(b, LM_ROLE_ATTN_NORM, (int)b->config.n_layers));
        lm_binding_free(b);
        lm_model_close(m);
        n++;
    }
    closedir(d);
    assert_true(n >= 8);
}

/* Writes a small directory whose config.json is `json`, opens it with the
 * weights of tiny-llama, and returns what binding says. */
static int bind_with_config(const char *json, struct lm_err *e)
{
    char made[] = "/tmp/libmodel-arch-XXXXXX", file[128], target[4096];
    assert_non_null(mkdtemp(made));
    snprintf(file, sizeof file, "%s/config.json", made);
    FILE *f = fopen(file, "w");
    assert_non_null(f);
    fputs(json, f);
    fclose(f);
    assert_non_null(realpath(MODELS "tiny-llama/model.safetensors", target));
    char link[128];
    snprintf(link, sizeof link, "%s/model.safetensors", made);
    assert_int_equal(symlink(target, link), 0);

    struct lm_model *m = NULL;
    struct lm_binding *b = NULL;
    int rc = lm_model_open(&m, made, e) || lm_bind(&b, m, e) ? -1 : 0;
    lm_binding_free(b);
    lm_model_close(m);
    unlink(link);
    unlink(file);
    rmdir(made);
    return rc;
}

static void broken_configs_are_refused_with_a_reason(void **state)
{
    (void)state;
    static const struct { const char *json, *reason; } cases[] = {
        {"{\"architectures\": [\"NoSuchForCausalLM\"]}", "NoSuchForCausalLM"},
        {"{}", "names no architecture"},
        {"[1]", "names no architecture"},
        {"{\"model_type\": \"llama\"}", "no number of layers"},
        {"{\"model_type\": \"llama\", \"num_hidden_layers\": -1}", "num_hidden_layers is -1"},
        {"{\"model_type\": \"llama\", \"num_hidden_layers\": \"2\"}", "wrong type"},
        {"{\"model_type\": \"llama\", \"num_hidden_layers\": 2, \"hidden_size\": 32, \"num_attention_heads\": 3, "
         "\"vocab_size\": 96, \"max_position_embeddings\": 9, \"intermediate_size\": 64}",
         "not divisible"},
        {"{\"model_type\": \"llama\", \"num_hidden_layers\": 2, \"hidden_size\": 32, \"num_attention_heads\": 4, "
         "\"num_key_value_heads\": 3, \"vocab_size\": 96, \"max_position_embeddings\": 9, \"intermediate_size\": 64}",
         "cannot share"},
        {"{\"model_type\": \"llama\", \"num_hidden_layers\": 2000000000, \"hidden_size\": 32, "
         "\"num_attention_heads\": 4, \"vocab_size\": 96, \"max_position_embeddings\": 9, \"intermediate_size\": 64}",
         "claims 2000000000 layers"},
        {"{\"model_type\": \"llama\", \"num_hidden_layers\": 2, \"hidden_size\": 40, \"num_attention_heads\": 4, "
         "\"vocab_size\": 96, \"max_position_embeddings\": 9, \"intermediate_size\": 64}",
         "the config makes it"},
        {"{\"model_type\": \"llama\", \"num_hidden_layers\": 2, \"hidden_size\": 32, \"num_attention_heads\": 4, "
         "\"vocab_size\": 96, \"max_position_embeddings\": 9, \"intermediate_size\": 64, "
         "\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2}}",
         "\"dynamic\" is not handled"},
        {"{\"model_type\": \"llama\", \"num_hidden_layers\": 2, \"hidden_size\": 32, \"num_attention_heads\": 4, "
         "\"vocab_size\": 96, \"max_position_embeddings\": 9, \"intermediate_size\": 64, "
         "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2}}",
         "original_max_position_embeddings"},
        {"{\"model_type\": \"llama\", \"hidden_act\": \"quick_gelu\"}", "quick_gelu"},
        {"{\"model_type\": \"gpt2\", \"scale_attn_by_inverse_layer_idx\": true}", "scale_attn_by_inverse_layer_idx"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct lm_err e = {0};
        assert_int_equal(bind_with_config(cases[i].json, &e), -1);
        if (!strstr(e.text, cases[i].reason))
            fail_msg("expected \"%s\" in \"%s\"", cases[i].reason, e.text);
    }
}

/* Keys of a GGUF that become counts, divisors and indices (threats G21, G22):
 * one bad value each. */
static void broken_gguf_keys_are_refused_with_a_reason(void **state)
{
    (void)state;
    static const struct { const char *key; uint32_t value; const char *reason; } cases[] = {
        {"llama.attention.head_count", 0, "no number of attention heads"},
        {"llama.attention.head_count_kv", 3, "cannot share"},
        {"llama.attention.head_count", 12, "not divisible"},
        {"llama.block_count", 0, "no number of layers"},
        {"llama.block_count", 2000000000, "claims 2000000000 layers"},
        {"llama.block_count", 4000000000u, "expected 0..2147483647"},
        {"llama.embedding_length", 0, "no hidden size"},
        {"llama.context_length", 0, "no context length"},
        {"llama.feed_forward_length", 0, "no feed-forward size"},
        {"llama.rope.dimension_count", 9, "rotary width 9"},
    };
    char folder[64];
    tmp_make(folder);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mut x = {.meta = lm_meta_new()};
        struct lm_config c = {.arch = lm_arch_find("llama"), .n_layers = 1, .d_model = 32, .d_ff = 64, .n_heads = 4,
                              .n_kv_heads = 4, .d_head = 0, .d_rope = 8, .vocab_size = 8, .ctx_len = 16,
                              .norm_eps = 1e-5, .rope_theta = 10000};
        struct lm_err e = {0};
        assert_int_equal(lm_config_to_meta(x.meta, &c, &e), 0);
        lm_meta_remove(x.meta, "llama.attention.key_length");
        assert_true(lm_meta_set_u32(x.meta, cases[i].key, cases[i].value) >= 0);
        mut_add(&x, "token_embd.weight", LM_F32, 2, (const uint64_t[]){8, 32}, NULL);
        mut_write(&x, "gguf", folder);

        struct lm_model *m = open_ok(path_in(folder, "model.gguf"));
        struct lm_binding *b = NULL;
        assert_int_equal(lm_bind(&b, m, &e), -1);
        if (!strstr(e.text, cases[i].reason))
            fail_msg("expected \"%s\" in \"%s\"", cases[i].reason, e.text);
        lm_model_close(m);
        free(x.t[0].name);
        free(x.t[0].data);
        free(x.t);
        lm_meta_free(x.meta);
    }
    tmp_remove(folder);
}

/* GGUF keeps reals in f32. */
static bool near(double a, double b)
{
    return fabs(a - b) <= 1e-6 * fabs(a);
}

static void assert_same_config(const struct lm_config *a, const struct lm_config *b)
{
    assert_ptr_equal(a->arch, b->arch);
    assert_int_equal(a->n_layers, b->n_layers);
    assert_int_equal(a->d_model, b->d_model);
    assert_int_equal(a->d_ff, b->d_ff);
    assert_int_equal(a->n_heads, b->n_heads);
    assert_int_equal(a->n_kv_heads, b->n_kv_heads);
    assert_int_equal(a->d_head, b->d_head);
    assert_int_equal(a->d_rope, b->d_rope);
    assert_int_equal(a->vocab_size, b->vocab_size);
    assert_int_equal(a->ctx_len, b->ctx_len);
    assert_int_equal(a->sliding_window, b->sliding_window);
    assert_int_equal(a->act, b->act);
    assert_int_equal(a->tied, b->tied);
    assert_int_equal(a->d_head_v, b->d_head_v);
    assert_int_equal(a->parallel, b->parallel);
    assert_int_equal(a->alibi, b->alibi);
    assert_int_equal(a->two_norms, b->two_norms);
    assert_int_equal(a->n_experts, b->n_experts);
    assert_int_equal(a->n_experts_used, b->n_experts_used);
    assert_int_equal(a->d_ff_expert, b->d_ff_expert);
    assert_int_equal(a->d_ff_shared, b->d_ff_shared);
    assert_int_equal(a->n_dense_layers, b->n_dense_layers);
    assert_int_equal(a->n_expert_groups > 1 ? a->n_expert_groups : 0, b->n_expert_groups > 1 ? b->n_expert_groups : 0);
    assert_int_equal(a->gating, b->gating);
    assert_int_equal(a->expert_norm, b->expert_norm);
    assert_int_equal(a->group_top2, b->group_top2);
    assert_int_equal(a->q_lora, b->q_lora);
    assert_int_equal(a->kv_lora, b->kv_lora);
    assert_int_equal(a->rope_no_truncate, b->rope_no_truncate);
    assert_memory_equal(a->full_layers, b->full_layers, sizeof a->full_layers);
    assert_true(near(lm_config_attn_scale(a), lm_config_attn_scale(b)) && near(a->attn_softcap, b->attn_softcap));
    assert_true(near(a->final_softcap, b->final_softcap) && near(a->embed_scale, b->embed_scale));
    assert_true(near(a->residual_scale, b->residual_scale) && near(a->logit_divisor, b->logit_divisor));
    assert_true(near(a->expert_scale, b->expert_scale) && near(a->rope_theta_local, b->rope_theta_local));
    assert_true(near(a->rope_attn_factor, b->rope_attn_factor) && near(a->rope_mscale_all, b->rope_mscale_all));
    assert_int_equal(a->scaling, b->scaling);
    assert_true(a->norm_eps == b->norm_eps && a->rope_theta == b->rope_theta);
    if (a->scaling != LM_SCALING_NONE)
        assert_true(a->rope_factor == b->rope_factor && a->rope_orig_ctx == b->rope_orig_ctx);
}

static char names[96][96];

static size_t find_names(void)
{
    DIR *d = opendir(MODELS);
    size_t n = 0;
    assert_non_null(d);
    for (struct dirent *f; (f = readdir(d));) {
        char path[512];
        snprintf(path, sizeof path, MODELS "%s", f->d_name);
        snprintf(path + strlen(path), sizeof path - strlen(path), "/model.safetensors");
        if (f->d_name[0] != '.' && access(path, R_OK) == 0 && n < 96)
            snprintf(names[n++], sizeof names[0], "%.90s", f->d_name);
    }
    closedir(d);
    return n;
}

/* config.json -> fields -> config.json -> fields is the identity. */
static void config_json_round_trips(void **state)
{
    (void)state;
    size_t n = find_names();
    assert_true(n > 35);
    for (size_t i = 0; i < n; i++) {
        char path[256], made[] = "/tmp/libmodel-arch-XXXXXX", file[128], weights[4096], link[128], *json;
        struct lm_err e = {0};
        struct lm_model *m;
        struct lm_config a, b;
        snprintf(path, sizeof path, MODELS "%s", names[i]);
        if (lm_model_open(&m, path, &e) || lm_config_read(&a, m, NULL, &e) != 1)
            fail_msg("%s: %s", path, e.text);
        assert_int_equal(lm_config_to_json(&json, &a, "bfloat16", &e), 0); /* lists of longrope are the model's */
        lm_model_close(m);

        assert_non_null(mkdtemp(made));
        snprintf(file, sizeof file, "%s/config.json", made);
        FILE *f = fopen(file, "w");
        assert_non_null(f);
        fputs(json, f);
        fclose(f);
        free(json);
        snprintf(path, sizeof path, MODELS "%s/model.safetensors", names[i]);
        assert_non_null(realpath(path, weights));
        snprintf(link, sizeof link, "%s/model.safetensors", made);
        assert_int_equal(symlink(weights, link), 0);
        if (lm_model_open(&m, made, &e) || lm_config_read(&b, m, NULL, &e) != 1)
            fail_msg("%s: %s", names[i], e.text);
        assert_same_config(&a, &b);
        lm_model_close(m);
        unlink(link);
        unlink(file);
        rmdir(made);
    }
}

/* What no field expresses may not be passed over. */
static void features_are_refused_by_name(void **state)
{
    (void)state;
    static const struct { const char *json, *reason; } cases[] = {
        {"{\"model_type\": \"llama\", \"clip_qkv\": 8}", "clip_qkv 8"},
        {"{\"model_type\": \"gemma\", \"use_bidirectional_attention\": true}", "use_bidirectional_attention true"},
        {"{\"model_type\": \"gemma2\", \"attention_bias\": true}", "attention_bias true"},
        {"{\"model_type\": \"qwen2_moe\", \"mlp_only_layers\": [3]}", "mlp_only_layers [3]"},
        {"{\"model_type\": \"qwen3_moe\", \"decoder_sparse_step\": 2}", "decoder_sparse_step 2"},
        {"{\"model_type\": \"qwen2\", \"num_hidden_layers\": 1, \"use_sliding_window\": true, \"sliding_window\": 4, "
         "\"layer_types\": [\"linear_attention\"]}", "linear_attention"},
        {"{\"model_type\": \"deepseek_v3\", \"kv_lora_rank\": 8, \"scoring_func\": \"softmax\"}", "scoring_func"},
        {"{\"model_type\": \"deepseek_v3\", \"rope_interleave\": false}", "rope_interleave false"},
        {"{\"model_type\": \"starcoder2\", \"norm_type\": \"rms_norm\"}", "norm_type"},
        {"{\"model_type\": \"phi3\", \"rope_scaling\": {\"type\": \"longrope\", \"long_factor\": [1], "
         "\"short_factor\": [1]}, \"num_attention_heads\": 2, \"hidden_size\": 32, \"max_position_embeddings\": 8}",
         "is not a list of 8 positive numbers"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct lm_err e = {0};
        assert_int_equal(bind_with_config(cases[i].json, &e), -1);
        if (!strstr(e.text, cases[i].reason))
            fail_msg("expected \"%s\" in \"%s\"", cases[i].reason, e.text);
    }
}

#define MIXTRAL "{\"model_type\": \"mixtral\", \"num_hidden_layers\": 2, \"hidden_size\": 32, \"vocab_size\": 80, " \
    "\"num_attention_heads\": 4, \"max_position_embeddings\": 9, \"intermediate_size\": 64, "

static void absurd_experts_are_refused(void **state)
{
    (void)state;
    static const struct { const char *json, *reason; } cases[] = {
        {MIXTRAL "\"num_local_experts\": 4}", "no number of experts per token"},
        {MIXTRAL "\"num_local_experts\": 4, \"num_experts_per_tok\": 5}", "5 of 4 experts"},
        {MIXTRAL "\"num_local_experts\": 2000000000, \"num_experts_per_tok\": 2}", "at most 65536"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct lm_err e = {0};
        assert_int_equal(bind_with_config(cases[i].json, &e), -1);
        if (!strstr(e.text, cases[i].reason))
            fail_msg("expected \"%s\" in \"%s\"", cases[i].reason, e.text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_has_a_role_a_name_and_a_reason),
        cmocka_unit_test(names_match_back_to_their_row),
        cmocka_unit_test(odd_names_do_not_match),
        cmocka_unit_test(gpt2_names_do_without_their_prefix),
        cmocka_unit_test(llama3_divisors_recover_their_parameters),
        cmocka_unit_test(yarn_keeps_fast_pairs_and_slows_the_rest),
        cmocka_unit_test(every_fixture_binds),
        cmocka_unit_test(broken_configs_are_refused_with_a_reason),
        cmocka_unit_test(broken_gguf_keys_are_refused_with_a_reason),
        cmocka_unit_test(config_json_round_trips),
        cmocka_unit_test(features_are_refused_by_name),
        cmocka_unit_test(absurd_experts_are_refused),
    };
    return cmocka_run_group_tests_name("arch", tests, NULL, NULL);
}
