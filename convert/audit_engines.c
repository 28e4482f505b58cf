/* Where a model loads: facts as rows, each of a version; what no row decides is
 * unknown and said to be. Read from each project's documentation, not tried:
 *   llama.cpp     the GGUF specification and loader
 *   Ollama        https://docs.ollama.com/import
 *   vLLM          https://docs.vllm.ai/en/latest/features/quantization/gguf/
 *   transformers  https://huggingface.co/docs/transformers/main/en/quantization/gguf
 *   SGLang        https://docs.sglang.io/docs/advanced_features/model_loading.md
 *   MLX           https://github.com/ml-explore/mlx-examples/blob/main/llms/gguf_llm/README.md */
#include "convert/audit_parts.h"

enum engine { LLAMA_CPP, OLLAMA, VLLM, TRANSFORMERS, SGLANG, MLX, N_ENGINES };

static const struct { const char *name, *version; } engines[N_ENGINES] = {
    {"llama.cpp", "GGUF 3 loader, 2026-09"}, {"Ollama", "import page, 2026-09"}, {"vLLM", "main, 2026-09"},
    {"transformers", "5.19"}, {"SGLang", "model loading page, 2026-09"}, {"MLX", "mlx-examples, 2026-09"}};

enum { E_GGUF = 1 << LLAMA_CPP | 1 << OLLAMA, E_HF = 1 << VLLM | 1 << TRANSFORMERS | 1 << SGLANG | 1 << MLX,
       E_ALL = (1 << N_ENGINES) - 1 };

/* A finding that speaks against engines. */
static const struct { enum lm_rule_id rule; unsigned engines; enum lm_verdict verdict; const char *why; } by_finding[] = {
    {LM_RULE_gguf_gap, E_GGUF, LM_REFUSES, "tensor offsets have gaps"},
    {LM_RULE_gguf_old, E_GGUF, LM_LOADS_WITH, "an old version of GGUF; version 1 is refused"},
    {LM_RULE_gguf_big_endian, E_ALL, LM_REFUSES, "big-endian, on the usual machines"},
    {LM_RULE_name_long, E_GGUF, LM_REFUSES, "a tensor name of 64 bytes or more"},
    {LM_RULE_format_key, 1 << TRANSFORMERS, LM_LOADS_WITH, "no \"format\" in the metadata; some versions refuse"},
    {LM_RULE_pieces_twice, E_GGUF, LM_REFUSES, "two ids have one text"},
    {LM_RULE_tokenizer_missing, E_GGUF, LM_REFUSES, "no tokenizer"},
    {LM_RULE_tokenizer_missing, E_HF, LM_LOADS_WITH, "no tokenizer: it must be given separately"},
    {LM_RULE_tensor_missing, E_GGUF, LM_REFUSES, "a tensor is missing"},
    {LM_RULE_tensor_missing, E_HF, LM_LOADS_WITH, "a tensor is missing and may be filled with random numbers"},
    {LM_RULE_tensor_shape, E_ALL, LM_REFUSES, "a shape contradicts the configuration"},
    {LM_RULE_config_broken, E_ALL, LM_REFUSES, "the configuration is contradictory"},
    {LM_RULE_config_missing, E_ALL, LM_REFUSES, "no configuration"},
    {LM_RULE_sliding_window, E_GGUF, LM_LOADS_WITH, "the sliding window is not applied for this architecture"},
    {LM_RULE_pre_missing, E_GGUF, LM_LOADS_WITH, "a default pre-tokenizer is used"},
    {LM_RULE_custom_code, E_HF, LM_LOADS_WITH, "needs trust_remote_code"},
};

/* A storage type that engines do not run. */
static const struct { enum lm_dtype d; unsigned engines; enum lm_verdict verdict; const char *why; } by_type[] = {
    {LM_F64, E_ALL, LM_LOADS_WITH, "F64 weights are cast"},
    {LM_F8_E4M3, E_GGUF, LM_REFUSES, "F8 weights"},
    {LM_F8_E5M2, E_GGUF, LM_REFUSES, "F8 weights"},
    {LM_Q8_K, E_ALL, LM_REFUSES, "Q8_K is an intermediate type and not stored"},
    {LM_Q8_1, E_ALL, LM_REFUSES, "Q8_1 is an intermediate type and not stored"},
};

/* Architectures that were not looked up for an engine. */
static const struct { const char *arch; unsigned engines; const char *why; } not_looked_up[] = {
    {"gpt2", 1 << OLLAMA | 1 << SGLANG | 1 << MLX, "GPT-2 is not in the pages that were read"},
};

/* The verdict of the worst reason; the first of those is told. */
static void against(struct lm_engine_row *r, enum lm_verdict v, const char *why)
{
    static const int weight[] = {[LM_LOADS] = 0, [LM_LOADS_WITH] = 1, [LM_UNKNOWN] = 2, [LM_REFUSES] = 3};

    if (weight[v] > weight[r->verdict]) {
        r->verdict = v;
        r->why = why;
    }
}

/* What each does with the container itself. */
static void by_container(struct lm_audit *a, bool gguf)
{
    static const char *const from_gguf[N_ENGINES] = {
        [VLLM] = "GGUF is called highly experimental and needs vllm-gguf-plugin",
        [TRANSFORMERS] = "GGUF is decoded to full size while loading",
        [SGLANG] = "load format gguf; which types, the documentation does not say",
        [MLX] = "GGUF types other than Q4_0, Q4_1 and Q8_0 are cast to F16"};

    for (int i = 0; i < N_ENGINES; i++) {
        struct lm_engine_row *r = &a->engines[i];
        if (gguf && from_gguf[i])
            against(r, LM_LOADS_WITH, from_gguf[i]);
        else if (!gguf && i == LLAMA_CPP)
            against(r, LM_REFUSES, "reads GGUF only: convert it");
        else if (!gguf && i == OLLAMA)
            against(r, LM_LOADS_WITH, "imports a folder of safetensors through a Modelfile");
    }
}

static bool has_type(const struct lm_audit *a, enum lm_dtype d)
{
    for (size_t i = 0; i < a->n_tensors; i++)
        if (a->tensors[i].t->dtype == d)
            return true;
    return false;
}

static bool was_found(const struct lm_audit *a, enum lm_rule_id r)
{
    for (size_t i = 0; i < a->n_findings; i++)
        if (a->findings[i].rule == r)
            return true;
    return false;
}

static void apply(struct lm_audit *a, unsigned mask, enum lm_verdict v, const char *why)
{
    for (int i = 0; i < N_ENGINES; i++)
        if (mask & 1u << i)
            against(&a->engines[i], v, why);
}

void lmc_audit_engines(struct lm_audit *a)
{
    for (int i = 0; i < N_ENGINES; i++)
        a->engines[i] = (struct lm_engine_row){engines[i].name, engines[i].version, LM_LOADS, NULL};
    a->n_engines = N_ENGINES;
    if (!a->m) {
        apply(a, E_ALL, LM_REFUSES, "the file cannot be read");
        return;
    }
    if (!a->has_config)
        apply(a, E_ALL, LM_UNKNOWN, "the architecture is not known here");
    for (size_t i = 0; a->arch && i < sizeof not_looked_up / sizeof not_looked_up[0]; i++)
        if (strcmp(a->arch, not_looked_up[i].arch) == 0)
            apply(a, not_looked_up[i].engines, LM_UNKNOWN, not_looked_up[i].why);
    by_container(a, lmc_audit_is_gguf(a));
    for (size_t i = 0; i < sizeof by_finding / sizeof by_finding[0]; i++)
        if (was_found(a, by_finding[i].rule))
            apply(a, by_finding[i].engines, by_finding[i].verdict, by_finding[i].why);
    for (size_t i = 0; i < sizeof by_type / sizeof by_type[0]; i++)
        if (has_type(a, by_type[i].d))
            apply(a, by_type[i].engines, by_type[i].verdict, by_type[i].why);
}

const char *lm_verdict_name(enum lm_verdict v)
{
    static const char *const names[] = {"yes", "no", "with care", "unknown"};

    return (unsigned)v < 4 ? names[v] : "?";
}
