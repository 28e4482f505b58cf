/* Names of pre-tokenizers (tokenizer.ggml.pre) and the regexes behind them, as
 * the checkpoints' own tokenizer.json files declare them. */
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
#define DEEPSEEK3_LINES \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+" \
    "| ?[\\p{P}\\p{S}]+|[\\r\\n]|\\s+(?!\\S)|\\s+"
#define NOT_HAN "&&[^\\p{Han}]]"
#define KIMI_UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}" NOT_HAN
#define KIMI_LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}" NOT_HAN
#define KIMI \
    "[\\p{Han}]+|" LEAD KIMI_UPPER "*" KIMI_LOWER "+" CONTRACTIONS "?|" LEAD KIMI_UPPER "+" KIMI_LOWER "*" CONTRACTIONS \
    "?|\\p{N}{1,3}" TAIL
#define YOUTU \
    LEAD UPPER "*" LOWER "+" CONTRACTIONS "?|" LEAD UPPER "+" LOWER "*" CONTRACTIONS "?|\\p{N}" O200K_TAIL
#define EXAONE_MOE \
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?" \
                 "|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"
#define ASIAN "[一-鿿㐀-䶿豈-\xef\xab\xbf぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+"
#define DEEPSEEK_LETTERS \
    "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\xe1\xbd\xbdᾀ-ᾴᾶ-ᾼ" \
    "\xe1\xbe\xbeῂ-ῄῆ-ῌῐ-\xe1\xbf\x93ῖ-\xe1\xbf\x9bῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\xe2\x84\xa6ℨ\xe2\x84\xaa-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ" \
    "𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
#define THOUSANDS "\\p{N}{1,3}(?=(?:\\p{N}{3})*(?!\\p{N}))"
#define THOUSANDS_WORD "\\d{1,3}(?=(?:\\d{3})*\\b)"
#define THOUSANDS_BEFORE "(?=(\\d{3})+(?!\\d))"
#define JAIS2 \
    WORDS "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s{512}(?!\\S)|\\s{256}(?!\\S)|\\s{128}(?!\\S)" \
          "|\\s{64}(?!\\S)|\\s{32}(?!\\S)|\\s{16}(?!\\S)|\\s{8}(?!\\S)|\\s{4}(?!\\S)|\\s{1,2}(?!\\S)|\\s{1}"
#define BLOOM " ?[^(\\s|.,!?…。，、।۔،)]+"

const char lmi_re_gpt2[] = GPT2, lmi_re_digits[] = "\\p{N}+", lmi_re_digit[] = "\\p{N}", lmi_re_deepseek3[] = DEEPSEEK3,
           lmi_re_thousands[] = THOUSANDS, lmi_re_thousands_word[] = THOUSANDS_WORD, lmi_re_thousands_before[] = THOUSANDS_BEFORE;
/* tiktoken's cl100k_base; possessive quantifiers in it only save time. */
const char lmi_re_cl100k[] =
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*+|\\s++$|\\s*[\\r\\n]"
    "|\\s+(?!\\S)|\\s";

/* Among names with the same regexes the first is the one we write. */
#define NAME(name, whole, bos, ...) {name, {__VA_ARGS__}, whole, bos, LMI_BYTES}
static const struct lmi_pre_name names[] = {
    NAME("llama-bpe", true, true, LLAMA3),
    NAME("llama3", true, true, LLAMA3),
    NAME("llama-v3", true, true, LLAMA3),
    NAME("falcon3", true, true, LLAMA3),
    NAME("falcon-h1", true, true, LLAMA3),
    NAME("pixtral", true, true, LLAMA3),
    NAME("midm-2.0", true, true, LLAMA3),
    NAME("lfm2", true, true, LLAMA3),
    NAME("jina-v5-nano", true, true, LLAMA3),
    NAME("glm4", true, false, LLAMA3),
    NAME("dbrx", false, false, LLAMA3),
    NAME("smaug-bpe", false, false, LLAMA3),
    NAME("chatglm-bpe", false, false, LLAMA3),
    NAME("qwen2", false, false, QWEN2),
    NAME("deepseek-r1-qwen", false, false, QWEN2),
    NAME("stablelm2", false, false, QWEN2),
    NAME("megrez", false, false, QWEN2),
    NAME("kormo", false, false, QWEN2),
    NAME("f2llmv2", false, false, QWEN2),
    NAME("hunyuan", false, false, QWEN2),
    NAME("solar-open", false, false, QWEN2),
    NAME("grok-2", false, false, QWEN2),
    NAME("qwen35", false, false, QWEN35),
    NAME("gpt-2", false, false, GPT2),
    NAME("phi-2", false, false, GPT2),
    NAME("mpt", false, false, GPT2),
    NAME("olmo", false, false, GPT2),
    NAME("jais", false, false, GPT2),
    NAME("trillion", false, false, GPT2),
    NAME("granite-docling", false, false, GPT2),
    NAME("gigachat", false, false, GPT2),
    NAME("a.x-4.0", false, false, GPT2),
    NAME("mellum", false, false, GPT2),
    NAME("modern-bert", false, false, GPT2),
    NAME("exaone4", false, false, GPT2),
    NAME("jina-es", false, false, GPT2),
    NAME("jina-de", false, false, GPT2),
    NAME("jina-v2-es", false, false, GPT2),
    NAME("jina-v2-de", false, false, GPT2),
    NAME("roberta-bpe", false, false, GPT2),
    NAME("jina-v1-en", false, false, GPT2),
    NAME("jina-v2-code", false, false, GPT2),
    NAME("starcoder", false, false, "\\p{N}", GPT2),
    NAME("refact", false, false, "\\p{N}", GPT2),
    NAME("command-r", false, false, "\\p{N}", GPT2),
    NAME("smollm", false, false, "\\p{N}", GPT2),
    NAME("codeshell", false, false, "\\p{N}", GPT2),
    NAME("exaone", false, false, "\\p{N}", GPT2),
    NAME("minerva-7b", false, false, "\\p{N}", GPT2),
    NAME("mellum2", false, false, "\\p{N}", GPT2),
    NAME("gpt-4o", false, false, O200K),
    NAME("llama4", false, false, O200K),
    NAME("kanana2", false, false, O200K),
    NAME("talkie", false, false, O200K),
    NAME("minimax-m2", false, false, O200K),
    NAME("granite-embed-multi-97m", true, false, O200K),
    NAME("tekken", true, true, TEKKEN),
    NAME("deepseek-coder", false, false, "[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[一-龥ࠀ-一가-퟿]+", "\\p{N}"),
    NAME("deepseek-v3", false, false, "\\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3),
    NAME("hunyuan-dense", false, false, "\\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3),
    NAME("joyai-llm", false, false, "\\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3),
    NAME("falcon", false, false, "[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]"),
    NAME("default", false, false, "[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"),
    NAME("poro-chat", false, false, BLOOM),
    NAME("bloom", false, false, BLOOM),
    NAME("gpt3-finnish", false, false, BLOOM),
    NAME("viking", false, false, BLOOM, "\\p{N}"),
    NAME("bailingmoe", false, false, BAILING),
    NAME("bailingmoe2", false, false, BAILING),
    NAME("llada-moe", false, false, BAILING),
    NAME("seed-coder", false, false, SEED_CODER),
    NAME("jais-2", false, false, JAIS2),
    NAME("minicpm5", true, false, "\\p{N}{1,3}", WORDS "\\p{N}+" TAIL),
    NAME("glm5", true, false, LLAMA3),
    NAME("deepseek-llm", false, false, "[\r\n]", DEEPSEEK_LETTERS, "\\s?[!-/:-~！-／：-～‘-‟\xe3\x80\x80-。]+", "\\s+$",
         "[一-龥ࠀ-一가-\xed\x9f\xbf]+", "\\p{N}+"),
    NAME("hy_v4", false, false, "\\p{N}{1,3}", "[一-龥\xe3\x81\x80-ゟ゠-ヿ]+", DEEPSEEK3),
    NAME("spark2_5", false, false, "\\p{N}{1,3}", "[一-龥\xe3\x81\x80-ゟ゠-ヿ]+", DEEPSEEK3_LINES, "\\p{N}"),
    NAME("kimi-k2", true, false, KIMI),
    NAME("youtu", true, false, "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥\xe3\x81\x80-ゟ゠-ヿ]+", YOUTU),
    NAME("afmoe", false, false, THOUSANDS, ASIAN, DEEPSEEK3),
    NAME("tiny_aya", false, false, THOUSANDS_WORD, O200K),
    NAME("cohere2moe", false, false, THOUSANDS_WORD, O200K),
    NAME("superbpe", false, false, "\\p{N}+", THOUSANDS_BEFORE),
    NAME("exaone-moe", false, false, EXAONE_MOE),
    NAME("ufakzeka", false, false, "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" TAIL),
    NAME("chameleon", false, true, "<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", "([\\t\\n]|    |  )", "\\p{N}",
         "[\\p{P}!-/:-@\\[-`{-~]", GPT2),
    {"gemma4", {NULL}, false, true, LMI_MARKED},
    {"granite-embed-multi-311m", {NULL}, false, true, LMI_MARKED},
    {"sarvam-moe", {NULL}, false, false, LMI_MARKED},
    {"whitespace", {NULL}, false, false, LMI_WHITESPACE},
    NAME("laguna", false, false, "[^\\n]+|[\\n]+", QWEN2),
};

enum { N_NAMES = sizeof names / sizeof *names };

const struct lmi_pre_name *lmi_pre_find(struct lm_span name)
{
    for (size_t i = 0; i < N_NAMES; i++)
        if (lm_span_eq(lm_span_str(names[i].name), name))
            return &names[i];
    return NULL;
}

const struct lmi_pre_name *lmi_pre_at(size_t i)
{
    return i < N_NAMES ? &names[i] : NULL;
}

/* One unit of a regex: a line end may be written as such or escaped. */
static int unit(struct lm_span *s)
{
    bool escaped = s->size > 1 && s->data[0] == '\\' && (s->data[1] == 'r' || s->data[1] == 'n');
    int c = escaped ? (s->data[1] == 'r' ? '\r' : '\n') : s->data[0];
    size_t n = escaped ? 2 : 1;

    *s = lm_span_of(s->data + n, s->size - n);
    return c;
}

bool lmi_same_regex(struct lm_span a, struct lm_span b)
{
    while (a.size > 0 && b.size > 0)
        if (unit(&a) != unit(&b))
            return false;
    return a.size == b.size;
}

static bool has_pattern(const struct lmi_pre_name *p, struct lm_span pattern)
{
    bool more = pattern.size > 0;

    for (size_t i = 0; p->steps[i]; i++) {
        const uint8_t *nul = pattern.size ? memchr(pattern.data, 0, pattern.size) : NULL;
        size_t n = nul ? (size_t)(nul - pattern.data) : pattern.size;
        if (!more || !lmi_same_regex(lm_span_of(pattern.data, n), lm_span_str(p->steps[i])))
            return false;
        more = nul != NULL;
        pattern = lm_span_of(pattern.data + n + more, pattern.size - n - more);
    }
    return !more;
}

const struct lmi_pre_name *lmi_pre_match(struct lm_span pattern, bool ignore_merges)
{
    for (size_t i = 0; i < N_NAMES; i++)
        if (names[i].family == LMI_BYTES && names[i].ignore_merges == ignore_merges && has_pattern(&names[i], pattern))
            return &names[i];
    return NULL;
}

struct lm_span lmi_pre_pattern(struct lm_arena *a, const struct lmi_pre_name *p)
{
    size_t n = 0;

    for (size_t i = 0; p->steps[i]; i++)
        n += strlen(p->steps[i]) + 1;
    char *text = lm_arena_alloc(a, n + 1), *at = text;
    for (size_t i = 0; text && p->steps[i]; i++)
        at = stpcpy(at, p->steps[i]) + 1;
    return lm_span_of(text, text && n ? n - 1 : 0);
}

bool lmi_pre_covers(struct lm_span regex)
{
    static const char *const covering[] = {GPT2, LLAMA3, QWEN2, O200K, TEKKEN, QWEN35, KIMI, YOUTU};

    for (size_t i = 0; i < sizeof covering / sizeof *covering; i++)
        if (lmi_same_regex(regex, lm_span_str(covering[i])))
            return true;
    return false;
}
