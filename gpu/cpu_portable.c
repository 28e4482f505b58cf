/* Kernels for any machine. */
#include "gpu/cpu_generic_q8.h"

static inline float lmi_dot_groups(const uint8_t *q, const int8_t *a, const float *s, const float *d, unsigned group)
{
    float sum = 0;

    for (unsigned g = 0; g < 256 / group; g++, q += group, a += group) {
        int dot = 0;
        for (unsigned i = 0; i < group; i++)
            dot += q[i] * a[i];
        sum += (float)dot * s[g] * d[g];
    }
    return sum;
}

static float dot(const float *w, const float *x, size_t k)
{
    float acc[16] = {0};
    size_t i = 0;

    for (; i + 16 <= k; i += 16)
        for (unsigned j = 0; j < 16; j++)
            acc[j] += w[i + j] * x[i + j];
    for (unsigned j = 0; i + j < k; j++)
        acc[j] += w[i + j] * x[i + j];
    return lmi_tree_sum(acc);
}

static void dot_f32(float *y, size_t ldy, const float *w, size_t ldw, size_t rows, const float *x, size_t ldx,
                    size_t n, size_t k)
{
    for (size_t t = 0; t < n; t++)
        for (size_t r = 0; r < rows; r++)
            y[t * ldy + r] = dot(w + r * ldw, x + t * ldx, k);
}

static void scores(float *s, size_t lds, const float *q, size_t ldq, size_t rows, size_t d, const float *k,
                   size_t n_blocks)
{
    for (size_t b = 0; b < n_blocks; b++, k += d * 16)
        for (size_t r = 0; r < rows; r++) {
            float acc[16] = {0};
            for (size_t i = 0; i < d; i++)
                for (unsigned j = 0; j < 16; j++)
                    acc[j] += q[r * ldq + i] * k[i * 16 + j];
            memcpy(s + r * lds + b * 16, acc, sizeof acc);
        }
}

static void mix(float *o, size_t ldo, const float *p, size_t ldp, size_t rows, const float *v, size_t d_pad,
                size_t n_keys)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < d_pad; i += 16) {
            float acc[16] = {0};
            for (size_t t = 0; t < n_keys; t++)
                for (unsigned j = 0; j < 16; j++)
                    acc[j] += p[r * ldp + t] * v[t * d_pad + i + j];
            for (unsigned j = 0; j < 16; j++)
                o[r * ldo + i + j] += acc[j];
        }
}

const struct lmi_kernels lmi_kernels_portable = {
    .name = "portable",
    .dot_f32 = dot_f32,
    .scores = scores,
    .mix = mix,
    .exp_row = lmi_exp_row,
    .silu = lmi_silu,
    .gelu = lmi_gelu,
    .q8_tile_tokens = 1,
    .q8_tile_bytes = lmi_tile_bytes_c,
    .q8_panel_bytes = lmi_panel_bytes_c,
    .quantize = lmi_quantize_c,
    .quantize_tile = lmi_quantize_tile_c,
    .q8_rows = lmi_q8_rows_c,
    .q8_gemm = lmi_q8_gemm_c,
};
