/* Names of pre-tokenizers (tokenizer.ggml.pre) and the regexes behind them, as
 * the checkpoints' own tokenizer.json files declare them. Names that need more
 * than regexes (kimi-k2, afmoe, superbpe, gemma4, …) are not here and are refused. */
#include "libmodel/tok/pretok.h"

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define TAIL "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define WORDS CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define LLAMA3 WORDS "\\p{N}{1,3}" TAIL
#define QWEN2 WORDS "\\p{N}" TAIL
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define LEAD "[^\\r\\n\\p{L}\\p{N}]?"
#define O200K_TAIL "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define O200K LEAD UPPER "*" LOWER "+" CONTRACTIONS "?|" LEAD UPPER "+" LOWER "*" CONTRACTIONS "?|\\p{N}{1,3}" O200K_TAIL
#define TEKKEN LEAD UPPER "*" LOWER "+|" LEAD UPPER "+" LOWER "*|\\p{N}" O200K_TAIL
#define QWEN35 \
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*" \
                 "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define BAILING \
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]" \
    "|\\s+(?!\\S)|\\s+"
#define SEED_CODER \
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define DEEPSEEK3 \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+" \
    "| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define JAIS2 \
    WORDS "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s{512}(?!\\S)|\\s{256}(?!\\S)|\\s{128}(?!\\S)" \
          "|\\s{64}(?!\\S)|\\s{32}(?!\\S)|\\s{16}(?!\\S)|\\s{8}(?!\\S)|\\s{4}(?!\\S)|\\s{1,2}(?!\\S)|\\s{1}"
#define BLOOM " ?[^(\\s|.,!?…。，、।۔،)]+"

const char lmi_re_gpt2[] = GPT2, lmi_re_digits[] = "\\p{N}+", lmi_re_digit[] = "\\p{N}";

/* Among names with the same regexes the first is the one we write. */
static const struct lmi_pre_name names[] = {
    {"llama-bpe", {LLAMA3}, true, true},
    {"llama3", {LLAMA3}, true, true},
    {"llama-v3", {LLAMA3}, true, true},
    {"falcon3", {LLAMA3}, true, true},
    {"falcon-h1", {LLAMA3}, true, true},
    {"pixtral", {LLAMA3}, true, true},
    {"midm-2.0", {LLAMA3}, true, true},
    {"lfm2", {LLAMA3}, true, true},
    {"jina-v5-nano", {LLAMA3}, true, true},
    {"glm4", {LLAMA3}, true, false},
    {"dbrx", {LLAMA3}, false, false},
    {"smaug-bpe", {LLAMA3}, false, false},
    {"chatglm-bpe", {LLAMA3}, false, false},
    {"qwen2", {QWEN2}, false, false},
    {"deepseek-r1-qwen", {QWEN2}, false, false},
    {"stablelm2", {QWEN2}, false, false},
    {"megrez", {QWEN2}, false, false},
    {"kormo", {QWEN2}, false, false},
    {"f2llmv2", {QWEN2}, false, false},
    {"hunyuan", {QWEN2}, false, false},
    {"solar-open", {QWEN2}, false, false},
    {"grok-2", {QWEN2}, false, false},
    {"qwen35", {QWEN35}, false, false},
    {"gpt-2", {GPT2}, false, false},
    {"phi-2", {GPT2}, false, false},
    {"mpt", {GPT2}, false, false},
    {"olmo", {GPT2}, false, false},
    {"jais", {GPT2}, false, false},
    {"trillion", {GPT2}, false, false},
    {"granite-docling", {GPT2}, false, false},
    {"gigachat", {GPT2}, false, false},
    {"a.x-4.0", {GPT2}, false, false},
    {"mellum", {GPT2}, false, false},
    {"modern-bert", {GPT2}, false, false},
    {"exaone4", {GPT2}, false, false},
    {"jina-es", {GPT2}, false, false},
    {"jina-de", {GPT2}, false, false},
    {"jina-v2-es", {GPT2}, false, false},
    {"jina-v2-de", {GPT2}, false, false},
    {"roberta-bpe", {GPT2}, false, false},
    {"jina-v1-en", {GPT2}, false, false},
    {"jina-v2-code", {GPT2}, false, false},
    {"starcoder", {"\\p{N}", GPT2}, false, false},
    {"refact", {"\\p{N}", GPT2}, false, false},
    {"command-r", {"\\p{N}", GPT2}, false, false},
    {"smollm", {"\\p{N}", GPT2}, false, false},
    {"codeshell", {"\\p{N}", GPT2}, false, false},
    {"exaone", {"\\p{N}", GPT2}, false, false},
    {"minerva-7b", {"\\p{N}", GPT2}, false, false},
    {"mellum2", {"\\p{N}", GPT2}, false, false},
    {"gpt-4o", {O200K}, false, false},
    {"llama4", {O200K}, false, false},
    {"kanana2", {O200K}, false, false},
    {"talkie", {O200K}, false, false},
    {"minimax-m2", {O200K}, false, false},
    {"granite-embed-multi-97m", {O200K}, true, false},
    {"tekken", {TEKKEN}, true, true},
    {"deepseek-coder", {"[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[一-龥ࠀ-一가-퟿]+", "\\p{N}"}, false, false},
    {"deepseek-v3", {"\\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3}, false, false},
    {"hunyuan-dense", {"\\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3}, false, false},
    {"joyai-llm", {"\\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3}, false, false},
    {"falcon", {"[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]"}, false, false},
    {"default", {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}, false, false},
    {"poro-chat", {BLOOM}, false, false},
    {"bloom", {BLOOM}, false, false},
    {"gpt3-finnish", {BLOOM}, false, false},
    {"viking", {BLOOM, "\\p{N}"}, false, false},
    {"bailingmoe", {BAILING}, false, false},
    {"bailingmoe2", {BAILING}, false, false},
    {"llada-moe", {BAILING}, false, false},
    {"seed-coder", {SEED_CODER}, false, false},
    {"jais-2", {JAIS2}, false, false},
    {"minicpm5", {"\\p{N}{1,3}", WORDS "\\p{N}+" TAIL}, true, false},
    {"laguna", {"[^\\n]+|[\\n]+", QWEN2}, false, false},
};

enum { N_NAMES = sizeof names / sizeof *names };

const struct lmi_pre_name *lmi_pre_find(struct lm_span name)
{
    for (size_t i = 0; i < N_NAMES; i++)
        if (lm_span_eq(lm_span_str(names[i].name), name))
            return &names[i];
    return NULL;
}

static bool has_pattern(const struct lmi_pre_name *p, struct lm_span pattern)
{
    for (size_t i = 0; p->steps[i]; i++) {
        size_t n = strlen(p->steps[i]) + (p->steps[i + 1] != NULL);
        if (n > pattern.size || memcmp(pattern.data, p->steps[i], n) != 0)
            return false;
        pattern = lm_span_of(pattern.data + n, pattern.size - n);
    }
    return pattern.size == 0;
}

const struct lmi_pre_name *lmi_pre_match(struct lm_span pattern, bool ignore_merges)
{
    for (size_t i = 0; i < N_NAMES; i++)
        if (names[i].ignore_merges == ignore_merges && has_pattern(&names[i], pattern))
            return &names[i];
    return NULL;
}

struct lm_span lmi_pre_pattern(struct lm_arena *a, const struct lmi_pre_name *p)
{
    size_t n = 0;

    for (size_t i = 0; p->steps[i]; i++)
        n += strlen(p->steps[i]) + 1;
    char *text = lm_arena_alloc(a, n), *at = text;
    for (size_t i = 0; text && p->steps[i]; i++)
        at = stpcpy(at, p->steps[i]) + 1;
    return lm_span_of(text, text ? n - 1 : 0);
}

bool lmi_pre_covers(struct lm_span regex)
{
    static const char *const covering[] = {GPT2, LLAMA3, QWEN2, O200K, TEKKEN, QWEN35};

    for (size_t i = 0; i < sizeof covering / sizeof *covering; i++)
        if (lm_span_eq(regex, lm_span_str(covering[i])))
            return true;
    return false;
}
