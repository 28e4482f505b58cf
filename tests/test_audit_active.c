/* Parameters, and those that one token uses, of published mixtures of experts:
 * files with the right header and no data (sparse), against the figures of the
 * models' own cards. */
#include "tests/audit.h"

struct known {
    const char *name, *config;
    double total, active, active_without_table; /* billions, as published; 0: the card does not say */
};

static const struct known models[] = {
    {"Mixtral 8x7B", /* https://mistral.ai/news/mixtral-of-experts: 46.7B, 12.9B a token */
     "{\"architectures\":[\"MixtralForCausalLM\"],\"model_type\":\"mixtral\",\"hidden_size\":4096,\"intermediate_size\":14336,"
     "\"num_hidden_layers\":32,\"num_attention_heads\":32,\"num_key_value_heads\":8,\"num_local_experts\":8,"
     "\"num_experts_per_tok\":2,\"vocab_size\":32000,\"max_position_embeddings\":32768,\"rms_norm_eps\":1e-05,"
     "\"rope_theta\":1000000.0,\"hidden_act\":\"silu\",\"sliding_window\":null,\"tie_word_embeddings\":false}", 46.7, 12.9, 0},
    {"Qwen3-30B-A3B", /* https://huggingface.co/Qwen/Qwen3-30B-A3B: 30.5B, 3.3B activated */
     "{\"architectures\":[\"Qwen3MoeForCausalLM\"],\"model_type\":\"qwen3_moe\",\"hidden_size\":2048,\"intermediate_size\":6144,"
     "\"moe_intermediate_size\":768,\"num_hidden_layers\":48,\"num_attention_heads\":32,\"num_key_value_heads\":4,"
     "\"head_dim\":128,\"num_experts\":128,\"num_experts_per_tok\":8,\"norm_topk_prob\":true,\"decoder_sparse_step\":1,"
     "\"mlp_only_layers\":[],\"vocab_size\":151936,\"max_position_embeddings\":40960,\"rms_norm_eps\":1e-06,"
     "\"rope_theta\":1000000.0,\"hidden_act\":\"silu\",\"attention_bias\":false,\"tie_word_embeddings\":false}", 30.5, 3.3, 0},
    {"DeepSeek-V3", /* https://arxiv.org/abs/2412.19437: 671B, 37B for each token */
     "{\"architectures\":[\"DeepseekV3ForCausalLM\"],\"model_type\":\"deepseek_v3\",\"hidden_size\":7168,"
     "\"intermediate_size\":18432,\"moe_intermediate_size\":2048,\"num_hidden_layers\":61,\"num_attention_heads\":128,"
     "\"num_key_value_heads\":128,\"n_routed_experts\":256,\"n_shared_experts\":1,\"num_experts_per_tok\":8,"
     "\"first_k_dense_replace\":3,\"moe_layer_freq\":1,\"n_group\":8,\"topk_group\":4,\"topk_method\":\"noaux_tc\","
     "\"scoring_func\":\"sigmoid\",\"norm_topk_prob\":true,\"routed_scaling_factor\":2.5,\"q_lora_rank\":1536,"
     "\"kv_lora_rank\":512,\"qk_nope_head_dim\":128,\"qk_rope_head_dim\":64,\"v_head_dim\":128,\"vocab_size\":129280,"
     "\"max_position_embeddings\":163840,\"rms_norm_eps\":1e-06,\"rope_theta\":10000,\"hidden_act\":\"silu\","
     "\"attention_bias\":false,\"tie_word_embeddings\":false}", 671, 37.5, 0},
    {"gpt-oss-20b", /* https://arxiv.org/abs/2508.10925: 20.91B, 3.61B active, the embedding not counted */
     "{\"architectures\":[\"GptOssForCausalLM\"],\"model_type\":\"gpt_oss\",\"hidden_size\":2880,\"intermediate_size\":2880,"
     "\"num_hidden_layers\":24,\"num_attention_heads\":64,\"num_key_value_heads\":8,\"head_dim\":64,\"num_local_experts\":32,"
     "\"num_experts_per_tok\":4,\"vocab_size\":201088,\"max_position_embeddings\":131072,\"rms_norm_eps\":1e-05,"
     "\"rope_theta\":150000,\"hidden_act\":\"silu\",\"sliding_window\":128,\"attention_bias\":true,\"swiglu_limit\":7.0,"
     "\"tie_word_embeddings\":false}", 20.91, 0, 3.61},
};

/* ---- a file of nothing but a header */

struct header {
    struct bytes text;
    uint64_t at;
    struct lm_map *names;
};

static void add_tensor(struct header *h, const char *name, const uint64_t *shape, unsigned n)
{
    char number[64];
    uint64_t elems = 1;

    if (lm_map_get(h->names, lm_span_str(name)) != SIZE_MAX)
        return; /* of two rows */
    lm_map_put(h->names, lm_span_str(strdup(name)), 0);
    put_text(&h->text, h->text.n ? ",\"" : "{\"");
    put_text(&h->text, name);
    put_text(&h->text, "\":{\"dtype\":\"BF16\",\"shape\":[");
    for (unsigned i = 0; i < n; i++) {
        snprintf(number, sizeof number, i ? ",%llu" : "%llu", (unsigned long long)shape[i]);
        put_text(&h->text, number);
        elems *= shape[i];
    }
    snprintf(number, sizeof number, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)h->at,
             (unsigned long long)(h->at + 2 * elems));
    put_text(&h->text, number);
    h->at += 2 * elems;
}

static bool is_there(const struct lm_config *c, const struct lm_arch_row *r, int layer)
{
    if (!r->hf || r->flags & (LM_ROW_DROPPED | LM_ROW_GGUF_ONLY | LM_ROW_ALIAS) || !lm_row_applies(r, c, layer))
        return false;
    return !(r->flags & LM_ROW_OPTIONAL) || r->role == LM_ROLE_OUTPUT || c->attn_bias;
}

static void add_row(struct header *h, const struct lm_config *c, const struct lm_arch_row *r, int layer)
{
    uint64_t shape[4];
    unsigned n = lm_row_shape(r, c, LM_NAMES_HF, shape);
    char name[256];

    if (!is_there(c, r, layer))
        return;
    for (uint32_t x = 0; x < (lm_row_is_stacked(r) ? c->n_experts : 1); x++)
        add_tensor(h, lm_arch_expert_name(r, LM_NAMES_HF, layer, (int)x, name, sizeof name), shape, n);
}

static void make_sparse(const char *folder, const struct lm_config *c)
{
    struct header h = {.names = lm_map_new(1 << 16)};
    uint8_t size[8];

    for (const struct lm_arch_row *r = c->arch->rows; r < c->arch->rows + c->arch->n_rows; r++)
        for (int l = r->hf && strchr(r->hf, '#') ? 0 : -1; l < (r->hf && strchr(r->hf, '#') ? (int)c->n_layers : 0); l++)
            add_row(&h, c, r, l);
    put_text(&h.text, "}");
    lm_store_u64le(size, h.text.n);
    int fd = open(path_in(folder, "model.safetensors"), O_RDWR | O_CREAT | O_TRUNC, 0666);
    assert_int_equal(write(fd, size, 8), 8);
    assert_int_equal(write(fd, h.text.data, h.text.n), (ssize_t)h.text.n);
    assert_int_equal(ftruncate(fd, (off_t)(8 + h.text.n + h.at)), 0);
    close(fd);
    bytes_free(&h.text);
    lm_map_free(h.names);
}

/* The configuration as this library reads it, from a folder with one tensor. */
static void read_config(const char *folder, const struct known *k, struct lm_config *c)
{
    struct bytes one = {0};
    struct lm_err e = {0};

    put_safetensors(&one, "{\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4);
    write_file(path_in(folder, "config.json"), k->config, strlen(k->config));
    write_file(path_in(folder, "model.safetensors"), one.data, one.n);
    struct lm_model *m = open_ok(folder);
    if (lm_config_read(c, m, NULL, &e) != 1)
        fail_msg("%s: %s", k->name, e.text);
    lm_model_close(m);
    bytes_free(&one);
}

/* Published figures are rounded: half a unit of their last digit. */
static void near(const char *name, const char *what, uint64_t found, double published)
{
    double billions = (double)found / 1e9, unit = published > 100 ? 1 : published == 20.91 || published == 3.61 ? 0.01 : 0.1;

    if (published > 0 && !(billions > published - unit && billions < published + unit))
        fail_msg("%s: %s is %.3f billion, published %.2f", name, what, billions, published);
}

static void test_published(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        const struct known *k = &models[i];
        struct lm_config c;
        char tmp[64];
        tmp_make(tmp);
        read_config(tmp, k, &c);
        make_sparse(tmp, &c);
        struct lm_audit *a = audit_with(tmp, &(struct lm_audit_options){.headers_only = true});
        for (size_t f = 0; f < a->n_findings; f++)
            if (a->findings[f].rule == LM_RULE_tensor_missing || a->findings[f].rule == LM_RULE_tensor_shape)
                fail_msg("%s: %s %s", k->name, a->findings[f].where, a->findings[f].found);
        print_message("%-14s %7zu tensors  %.3f billion, active %.3f, without the table %.3f\n", k->name, a->n_tensors,
                      (double)a->n_params / 1e9, (double)a->n_active / 1e9, (double)a->n_multiplied / 1e9);
        near(k->name, "all", a->n_params, k->total);
        near(k->name, "active", a->n_active, k->active);
        near(k->name, "active without the embedding", a->n_multiplied, k->active_without_table);
        lm_audit_free(a);
        tmp_remove(tmp);
    }
}

/* A dense model uses all it has; a tied embedding is multiplied as the output. */
static void test_dense(void **state)
{
    struct lm_audit *a = audit_with(LLAMA, &(struct lm_audit_options){.headers_only = true});

    (void)state;
    assert_int_equal(a->n_active, a->n_params);
    assert_int_equal(a->n_multiplied, a->n_params - (uint64_t)a->config.vocab_size * a->config.d_model);
    lm_audit_free(a);
    a = audit_with(TIED, &(struct lm_audit_options){.headers_only = true});
    assert_int_equal(a->n_multiplied, a->n_params);
    lm_audit_free(a);
}

/* The same from GGUF, where experts are stacked, and with shared experts. */
static void test_same_in_gguf(void **state)
{
    static const char *const names[] = {"mixtral", "qwen2moe", "qwen3moe", "granitemoe-shared", "deepseek3", "gpt-oss"};
    char tmp[64], from[128];

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        tmp_make(tmp);
        snprintf(from, sizeof from, "tests/fixtures/models/tiny-%s", names[i]);
        convert(from, path_in(tmp, "m.gguf"), -1, NULL);
        struct lm_audit *a = audit(from), *b = audit(path_in(tmp, "m.gguf"));
        assert_int_equal(a->n_params, b->n_params);
        assert_int_equal(a->n_active, b->n_active);
        assert_int_equal(a->n_multiplied, b->n_multiplied);
        assert_true(a->n_active < a->n_params);
        lm_audit_free(a);
        lm_audit_free(b);
        tmp_remove(tmp);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_published), cmocka_unit_test(test_dense),
                                       cmocka_unit_test(test_same_in_gguf)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
