/* Kernels for any machine. */
#include "gpu/cpu.h"

typedef struct { float v[8]; } lmi_sums;
#include "gpu/cpu_generic_q8.h"

static inline lmi_sums lmi_no_sums(void)
{
    return (lmi_sums){{0}};
}

static inline lmi_sums lmi_add_super(lmi_sums y, const struct lmi_unpacked *u, const struct lmi_q8 *a, unsigned group,
                                     unsigned offset)
{
    for (unsigned g = 0; g < 8; g++) {
        unsigned parts = 32 / group;
        float v = 0;
        for (unsigned p = 0; p < parts; p++) {
            int dot = 0, sum = parts == 1 ? a->sum[g] : a->half[8 * p + g];
            for (unsigned i = 32 * g + group * p, end = i + group; i < end; i++)
                dot += u->q[i] * a->q[i];
            v += u->s[g * parts + p] * (float)(dot - (int)offset * sum);
        }
        for (unsigned p = 0; p < parts && offset == 0; p++)
            v -= u->m[g * parts + p] * (float)(parts == 1 ? a->sum[g] : a->half[8 * p + g]);
        y.v[g] += v * a->d[g];
    }
    return y;
}

static inline float lmi_total(const lmi_sums y[2])
{
    float v[8];

    for (unsigned g = 0; g < 8; g++)
        v[g] = y[0].v[g] + y[1].v[g];
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
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
