/* What llama.cpp makes differently of a model than transformers does: known by
 * reading its graphs (commit 0c1e570) and seen on the fixtures. */
#include <math.h>
#include <string.h>

#include "libmodel/config.h"

static bool is(const struct lm_config *c, const char *arch)
{
    return strcmp(c->arch->name, arch) == 0;
}

static bool ignores_window(const struct lm_config *c)
{
    return c->sliding_window && c->sliding_window < c->ctx_len && !is(c, "gemma2") && !is(c, "gemma3") &&
           !is(c, "olmo2") && !is(c, "gpt-oss");
}

static bool erf_gelu(const struct lm_config *c)
{
    return c->act == LM_ACT_GELU_ERF && (is(c, "gptneox") || is(c, "falcon"));
}

static bool own_scale(const struct lm_config *c)
{
    double usual = 1 / sqrt((double)c->d_head);
    uint32_t odd = is(c, "gemma2") ? 46 : is(c, "gemma3") ? 62 : 0;

    if (c->n_layers == odd)
        usual = 1 / sqrt((double)(c->d_model / c->n_heads));
    return odd && fabs(lm_config_attn_scale(c) - usual) > 1e-6 * usual;
}

static bool neox_base(const struct lm_config *c)
{
    return is(c, "falcon") && c->rope_theta != 10000;
}

static bool unnormed(const struct lm_config *c)
{
    return is(c, "qwen3moe") && !c->expert_norm;
}

static bool normed(const struct lm_config *c)
{
    return is(c, "qwen2moe") && c->expert_norm;
}

static bool group_best(const struct lm_config *c)
{
    return c->n_expert_groups > 1 && !c->group_top2;
}

static bool unrounded_yarn(const struct lm_config *c)
{
    return c->scaling == LM_SCALING_YARN && c->rope_no_truncate;
}

static bool rw(const struct lm_config *c)
{
    return is(c, "falcon") && (c->alibi || !c->parallel || c->attn_bias);
}

static bool local_unscaled(const struct lm_config *c)
{
    return c->rope_theta_local > 0 && c->scaling == LM_SCALING_YARN && c->sliding_window;
}

static bool longrope(const struct lm_config *c)
{
    return c->scaling == LM_SCALING_LONGROPE;
}

static bool lite_layers(const struct lm_config *c)
{
    return is(c, "deepseek2") && c->q_lora && (c->n_layers == 26 || c->n_layers == 27);
}

static bool no_q_lora(const struct lm_config *c)
{
    return is(c, "deepseek2") && !c->q_lora && c->n_layers != 26 && c->n_layers != 27 &&
           !(c->n_layers == 48 && c->vocab_size == 128256);
}

static bool no_biases(const struct lm_config *c)
{
    return is(c, "starcoder2") && !c->attn_bias;
}

static const struct { bool (*holds)(const struct lm_config *c); const char *text; } caveats[] = {
    {ignores_window, "llama.cpp ignores the sliding window of this architecture: results differ beyond it"},
    {erf_gelu, "llama.cpp computes GELU by its tanh form here, transformers by erf: logits differ by about 1e-3"},
    {own_scale, "llama.cpp guesses the scale of attention from the number of layers and ignores query_pre_attn_scalar"},
    {neox_base, "llama.cpp's converter drops rope_theta of this architecture; this file carries it"},
    {unnormed, "llama.cpp divides the weights of this architecture's experts by their sum, transformers does not"},
    {normed, "llama.cpp does not divide the weights of this architecture's experts by their sum, transformers does"},
    {group_best, "llama.cpp ranks groups of experts by their two best, transformers by the best: other experts are chosen"},
    {unrounded_yarn, "llama.cpp rounds the bounds of YaRN, transformers (truncate false) does not"},
    {rw, "llama.cpp has no ALiBi, serial layers or biases in this architecture: it cannot run this model"},
    {local_unscaled, "llama.cpp's YaRN magnitude also touches windowed layers"},
    {longrope, "llama.cpp chooses LongRoPE's factors by the context it provides, transformers by the text's length"},
    {no_q_lora, "llama.cpp runs this architecture without q_lora only with 26, 27 or 48 layers: it cannot load this model"},
    {no_biases, "llama.cpp expects biases in this architecture: it cannot load this model"},
    {lite_layers, "llama.cpp takes a model of this many layers for DeepSeek-V2-Lite and expects no q_lora"},
};

const char *lm_config_llama_cpp_caveat(const struct lm_config *c, size_t i)
{
    for (size_t k = 0; k < sizeof caveats / sizeof caveats[0]; k++)
        if (caveats[k].holds(c) && i-- == 0)
            return caveats[k].text;
    return NULL;
}
