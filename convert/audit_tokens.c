/* The tokenizer against the embedding, the configuration and itself. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "convert/audit_parts.h"

/* ---- against the embedding */

static uint64_t embedding_rows(const struct lm_audit *a)
{
    for (size_t i = 0; i < a->n_tensors; i++)
        if (a->tensors[i].known && a->tensors[i].role == LM_ROLE_TOKEN_EMBD && a->tensors[i].t->n_dims == 2)
            return a->canons->of[i].it.shape[0];
    return 0;
}

static void check_rows(struct lm_audit *a, uint64_t rows)
{
    uint64_t n = a->vocab->n_pieces;

    if (n > rows)
        lmc_found(a, LM_RULE_vocab_beyond_rows, a->vocab->source, "%llu pieces, %llu rows", (unsigned long long)n,
                  (unsigned long long)rows);
    else if (n < rows)
        lmc_found(a, LM_RULE_rows_beyond_vocab, a->vocab->source, "%llu pieces, %llu rows", (unsigned long long)n,
                  (unsigned long long)rows);
}

static void check_id(struct lm_audit *a, const char *what, int64_t id, uint64_t rows)
{
    if (id >= 0 && rows > 0 && (uint64_t)id >= rows)
        lmc_found(a, LM_RULE_special_id_range, what, "%lld, there are %llu rows", (long long)id, (unsigned long long)rows);
}

static void check_ids(struct lm_audit *a, const json_t *generation, uint64_t rows)
{
    int64_t ids[16];
    size_t n = lmc_audit_ids(generation, "eos_token_id", ids, 16);

    if (a->has_config) {
        check_id(a, "bos_token_id", a->config.bos_id, rows);
        check_id(a, "eos_token_id", a->config.eos_id, rows);
        check_id(a, "pad_token_id", a->config.pad_id, rows);
    }
    for (size_t i = 0; i < n; i++)
        check_id(a, "generation_config.json eos_token_id", ids[i], rows);
}

/* ---- end of text */

static bool among(int64_t id, const int64_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] == id)
            return true;
    return false;
}

static void check_eos(struct lm_audit *a, const json_t *config, const json_t *generation)
{
    int64_t of_config[16], of_generation[16], own = a->vocab->eos_id;
    size_t n = lmc_audit_ids(config, "eos_token_id", of_config, 16);
    size_t m = lmc_audit_ids(generation, "eos_token_id", of_generation, 16);

    if (own < 0 && n + m == 0) {
        lmc_found(a, LM_RULE_eos_missing, a->vocab->source, "neither the tokenizer nor a configuration names one");
        return;
    }
    if (own >= 0 && n > 0 && !among(own, of_config, n))
        lmc_found(a, LM_RULE_eos_disagrees, "config.json", "eos_token_id is %lld, the tokenizer's is %lld",
                  (long long)of_config[0], (long long)own);
    else if (own >= 0 && m > 0 && !among(own, of_generation, m))
        lmc_found(a, LM_RULE_eos_disagrees, "generation_config.json", "eos_token_id is %lld, the tokenizer's is %lld",
                  (long long)of_generation[0], (long long)own);
}

/* ---- pieces */

static bool looks_control(struct lm_span s)
{
    static const char *const names[] = {"<s>", "</s>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", NULL};

    for (size_t i = 0; names[i]; i++)
        if (lm_span_eq(s, lm_span_str(names[i])))
            return true;
    return s.size > 4 && s.size < 64 && memcmp(s.data, "<|", 2) == 0 && memcmp(s.data + s.size - 2, "|>", 2) == 0;
}

static void check_pieces(struct lm_audit *a)
{
    struct lm_map *seen = lm_map_new(a->vocab->n_pieces);
    size_t twice = 0, as_text = 0, first_twice = 0, first_text = 0;

    for (size_t i = 0; seen && i < a->vocab->n_pieces; i++) {
        const struct lm_piece *p = &a->vocab->pieces[i];
        if (p->kind != LM_PIECE_UNUSED && lm_map_put(seen, p->text, i) == 0 && twice++ == 0)
            first_twice = i;
        if (p->kind == LM_PIECE_NORMAL && !p->special && !p->added && looks_control(p->text) && as_text++ == 0)
            first_text = i;
    }
    lm_map_free(seen);
    if (twice)
        lmc_found(a, LM_RULE_pieces_twice, a->vocab->source, "%zu, the first is id %zu '%.*s'", twice, first_twice,
                  (int)a->vocab->pieces[first_twice].text.size, (const char *)a->vocab->pieces[first_twice].text.data);
    if (as_text)
        lmc_found(a, LM_RULE_control_as_text, a->vocab->source, "%zu, the first is id %zu '%.*s'", as_text, first_text,
                  (int)a->vocab->pieces[first_text].text.size, (const char *)a->vocab->pieces[first_text].text.data);
}

/* ---- two files */

static char *beside(const struct lm_audit *a, const char *name)
{
    const char *path = lm_model_file(a->m, 0)->path, *base = lmc_base_name(path);
    char *out = NULL;

    return asprintf(&out, "%.*s%s", (int)(base - path), path, name) < 0 ? NULL : out;
}

static void compare_files(struct lm_audit *a, const struct lm_vocab *x, const struct lm_vocab *y)
{
    size_t n = x->n_pieces < y->n_pieces ? x->n_pieces : y->n_pieces, differ = 0, first = 0;

    for (size_t i = 0; i < n; i++)
        if (!lm_span_eq(x->pieces[i].text, y->pieces[i].text) && x->pieces[i].kind != LM_PIECE_UNUSED &&
            y->pieces[i].kind != LM_PIECE_UNUSED && differ++ == 0)
            first = i;
    if (differ)
        lmc_found(a, LM_RULE_tokenizer_disagrees, "tokenizer.model", "%zu pieces differ from tokenizer.json, the first is id %zu",
                  differ, first);
}

static void check_files(struct lm_audit *a)
{
    struct lm_vocab *x = NULL, *y = NULL;
    struct lm_err ignored;
    char *model = beside(a, "tokenizer.model"), *json = beside(a, "tokenizer.json");

    if (model && json && access(model, R_OK) == 0 && access(json, R_OK) == 0 &&
        lm_vocab_open(&x, model, &ignored) == 0 && lm_vocab_open(&y, json, &ignored) == 0)
        compare_files(a, x, y);
    lm_vocab_free(x);
    lm_vocab_free(y);
    free(model);
    free(json);
}

/* ---- GGUF's keys */

static void check_gguf(struct lm_audit *a)
{
    const struct lm_meta *m = lm_model_meta(a->m);
    const struct lm_meta_value *model = lm_meta_get(m, "tokenizer.ggml.model");

    if (!model || model->type != LM_META_STR || !a->vocab) /* "none" says that there is no tokenizer */
        return;
    if (lm_span_eq(model->str, lm_span_str("gpt2")) && !lm_meta_get(m, "tokenizer.ggml.pre"))
        lmc_found(a, LM_RULE_pre_missing, "tokenizer.ggml.pre", "the key is missing");
    if (!lm_meta_get(m, "tokenizer.ggml.add_bos_token"))
        lmc_found(a, LM_RULE_bos_flag_missing, "tokenizer.ggml.add_bos_token", "the key is missing; %s is in force",
                  a->vocab && a->vocab->add_bos ? "true" : "false");
}

void lmc_audit_tokens(struct lm_audit *a)
{
    json_t *config = lmc_audit_json(a, "config.json"), *generation = lmc_audit_json(a, "generation_config.json");
    uint64_t rows = embedding_rows(a);

    check_ids(a, generation, rows);
    if (lmc_audit_is_gguf(a))
        check_gguf(a);
    else
        check_files(a);
    if (a->vocab) {
        if (rows)
            check_rows(a, rows);
        check_eos(a, config, generation);
        check_pieces(a);
    }
    json_decref(config);
    json_decref(generation);
}
