#include "libmodel/arch.h"

#include <math.h>

static const double two_pi = 6.283185307179586476925286766559;

static double base_freq(const struct lm_config *c, uint32_t j)
{
    return pow(c->rope_theta, -2.0 * j / c->d_rope);
}

/* Llama 3.1: long waves are slowed down by the factor, short ones left alone,
 * between the two a linear blend (transformers' "llama3"). */
static double llama3_divisor(const struct lm_config *c, double freq)
{
    double wave = two_pi / freq;

    if (wave < c->rope_orig_ctx / c->rope_high_freq)
        return 1;
    if (wave > c->rope_orig_ctx / c->rope_low_freq)
        return c->rope_factor;
    double smooth = (c->rope_orig_ctx / wave - c->rope_low_freq) / (c->rope_high_freq - c->rope_low_freq);
    return 1 / ((1 - smooth) / c->rope_factor + smooth);
}

/* YaRN (arXiv 2309.00071, section 3.2): the pair whose wave turns `turns` times
 * within the original context. */
static double yarn_pair(const struct lm_config *c, double turns)
{
    return c->d_rope * log(c->rope_orig_ctx / (turns * two_pi)) / (2 * log(c->rope_theta));
}

static double clamp01(double x)
{
    return x < 0 ? 0 : x > 1 ? 1 : x;
}

static void yarn_freqs(const struct lm_config *c, double *freqs)
{
    double low = yarn_pair(c, c->beta_fast), high = yarn_pair(c, c->beta_slow);

    low = fmax(0, c->rope_no_truncate ? low : floor(low));
    high = fmin(c->d_rope - 1.0, c->rope_no_truncate ? high : ceil(high));
    double width = low == high ? 0.001 : high - low;

    for (uint32_t j = 0; j < c->d_rope / 2; j++) {
        double keep = 1 - clamp01((j - low) / width);
        freqs[j] *= keep + (1 - keep) / c->rope_factor;
    }
}

static void local_freqs(const struct lm_config *c, double *freqs)
{
    struct lm_config t = *c;

    t.rope_theta = c->rope_theta_local;
    for (uint32_t j = 0; j < c->d_rope / 2; j++)
        freqs[j] = base_freq(&t, j);
}

void lm_rope_freqs_for(const struct lm_config *c, bool local, uint32_t n_positions, double *freqs, double *mscale)
{
    const double *longer = n_positions > c->rope_orig_ctx ? c->rope_long : c->rope_short;

    *mscale = 1;
    if (local && c->rope_theta_local > 0) {
        local_freqs(c, freqs);
        return;
    }
    for (uint32_t j = 0; j < c->d_rope / 2; j++) {
        freqs[j] = base_freq(c, j);
        if (c->scaling == LM_SCALING_LINEAR)
            freqs[j] /= c->rope_factor;
        else if (c->scaling == LM_SCALING_LLAMA3)
            freqs[j] /= llama3_divisor(c, freqs[j]);
        else if (c->scaling == LM_SCALING_LONGROPE && longer)
            freqs[j] /= longer[j];
    }
    if (c->scaling == LM_SCALING_YARN)
        yarn_freqs(c, freqs);
    if (c->scaling == LM_SCALING_YARN || c->scaling == LM_SCALING_LONGROPE)
        *mscale = c->rope_attn_factor > 0 ? c->rope_attn_factor
                  : c->rope_factor <= 1   ? 1
                                          : 0.1 * log(c->rope_factor) + 1;
}

void lm_rope_freqs(const struct lm_config *c, double *freqs, double *mscale)
{
    lm_rope_freqs_for(c, false, 0, freqs, mscale);
}

void lm_rope_llama3_divisors(const struct lm_config *c, float *divisors)
{
    for (uint32_t j = 0; j < c->d_rope / 2; j++)
        divisors[j] = (float)llama3_divisor(c, base_freq(c, j));
}

static bool divisors_agree(const struct lm_config *c, const float *divisors, size_t n)
{
    for (uint32_t j = 0; j < n; j++) {
        double want = llama3_divisor(c, base_freq(c, j));
        if (!(fabs(divisors[j] - want) <= 1e-5 * want))
            return false;
    }
    return true;
}

/* The longest wave is divided by the whole factor; low and high are 1 and 4 in
 * every published model; the original context is a power of two. */
bool lm_rope_llama3_recover(struct lm_config *c, const float *divisors, size_t n)
{
    struct lm_config t = *c;

    if (n != c->d_rope / 2 || n == 0 || !(divisors[n - 1] >= 1))
        return false;
    t.scaling = LM_SCALING_LLAMA3;
    t.rope_factor = divisors[n - 1];
    t.rope_low_freq = 1;
    t.rope_high_freq = 4;
    for (t.rope_orig_ctx = 16; t.rope_orig_ctx <= 1u << 24; t.rope_orig_ctx *= 2) {
        if (divisors_agree(&t, divisors, n)) {
            *c = t;
            return true;
        }
    }
    return false;
}
