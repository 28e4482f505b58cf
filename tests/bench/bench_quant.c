/* Speed of the row conversions, one thread: MB of f32 a second, every type on
 * every instruction set of this machine.
 *
 *   bench_quant [TYPE...]
 *   LM_PEER_GGML=/path/libggml-base.so bench_quant    also ggml's, and ours / ggml's */
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "libmodel/dtype.h"

enum { N = 16 << 20, ROW = 4096, REPEATS = 3 };

typedef size_t peer_quantize(int type, const float *src, void *dst, int64_t start, int64_t n_rows, int64_t row,
                             const float *imatrix);
typedef void peer_dequantize(const void *src, float *dst, int64_t n);

static const struct {
    enum lm_dtype type;
    int ggml_id;
    const char *ggml_to_f32;
} rows[] = {
    {LM_F16, 1, "ggml_fp16_to_fp32_row"},   {LM_BF16, 30, "ggml_bf16_to_fp32_row"},
    {LM_Q4_0, 2, "dequantize_row_q4_0"},    {LM_Q4_1, 3, "dequantize_row_q4_1"},
    {LM_Q5_0, 6, "dequantize_row_q5_0"},    {LM_Q5_1, 7, "dequantize_row_q5_1"},
    {LM_Q8_0, 8, "dequantize_row_q8_0"},    {LM_Q2_K, 10, "dequantize_row_q2_K"},
    {LM_Q3_K, 11, "dequantize_row_q3_K"},   {LM_Q4_K, 12, "dequantize_row_q4_K"},
    {LM_Q5_K, 13, "dequantize_row_q5_K"},   {LM_Q6_K, 14, "dequantize_row_q6_K"},
};
enum { N_ROWS = sizeof rows / sizeof *rows };

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Gaussian, sigma 0.02: what weights look like. */
static void fill(float *x)
{
    uint64_t s = 1;

    for (int i = 0; i < N; i++) {
        double u[2];
        for (int k = 0; k < 2; k++) {
            s = s * 6364136223846793005u + 1442695040888963407u;
            u[k] = ((double)(s >> 11) + 0.5) * 0x1p-53;
        }
        x[i] = (float)(0.02 * sqrt(-2 * log(u[0])) * cos(6.283185307179586 * u[1]));
    }
}

static double best_of(double (*once)(const void *), const void *arg)
{
    double best = once(arg);

    for (int i = 1; i < REPEATS; i++)
        best = fmin(best, once(arg));
    return best;
}

struct job {
    int row;
    float *x, *y;
    uint8_t *q;
    peer_quantize *quantize;
    peer_dequantize *dequantize;
};

/* Rows, as the commands call them. */
static double ours_from(const void *arg)
{
    const struct job *j = arg;
    const struct lm_dtype_info *info = lm_dtype_info(rows[j->row].type);
    size_t bytes = lm_dtype_bytes(rows[j->row].type, ROW);
    double t = seconds();

    for (size_t i = 0; i < N / ROW; i++)
        info->from_f32(j->q + i * bytes, j->x + i * ROW, ROW);
    return seconds() - t;
}

static double ours_to(const void *arg)
{
    const struct job *j = arg;
    const struct lm_dtype_info *info = lm_dtype_info(rows[j->row].type);
    size_t bytes = lm_dtype_bytes(rows[j->row].type, ROW);
    double t = seconds();

    for (size_t i = 0; i < N / ROW; i++)
        info->to_f32(j->y + i * ROW, j->q + i * bytes, ROW);
    return seconds() - t;
}

static double peer_from(const void *arg)
{
    const struct job *j = arg;
    double t = seconds();

    j->quantize(rows[j->row].ggml_id, j->x, j->q, 0, N / ROW, ROW, NULL);
    return seconds() - t;
}

static double peer_to(const void *arg)
{
    const struct job *j = arg;
    double t = seconds();

    j->dequantize(j->q, j->y, N);
    return seconds() - t;
}

static void bench_row(struct job *j, void *peer)
{
    static const char *const isas[] = {"portable", "avx2", "avx512"};
    const double mb = N * 4e-6;
    double from = 0, to = 0;

    if (peer) {
        j->dequantize = (peer_dequantize *)dlsym(peer, rows[j->row].ggml_to_f32);
        from = best_of(peer_from, j);
        to = j->dequantize ? best_of(peer_to, j) : NAN;
        printf("%-5s %-9s %9.0f %9.0f\n", lm_dtype_name(rows[j->row].type), "ggml", mb / from, mb / to);
    }
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        if (lm_dtype_set_isa(isas[i]) != 0)
            continue;
        double f = best_of(ours_from, j), t = best_of(ours_to, j);
        printf("%-5s %-9s %9.0f %9.0f", lm_dtype_name(rows[j->row].type), isas[i], mb / f, mb / t);
        if (peer)
            printf("   %6.2f %6.2f", from / f, to / t);
        putchar('\n');
    }
}

static bool wanted(int argc, char **argv, enum lm_dtype d)
{
    bool want = argc == 1;

    for (int i = 1; i < argc; i++)
        want |= lm_dtype_find(argv[i]) == (int)d;
    return want;
}

int main(int argc, char **argv)
{
    const char *path = getenv("LM_PEER_GGML");
    void *peer = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    struct job j = {.x = malloc(N * sizeof(float)), .y = malloc(N * sizeof(float)), .q = malloc(N * sizeof(float))};

    if (path && !peer) {
        fprintf(stderr, "bench_quant: %s\n", dlerror());
        return 3;
    }
    if (!j.x || !j.y || !j.q) {
        fprintf(stderr, "bench_quant: out of memory\n");
        return 3;
    }
    j.quantize = peer ? (peer_quantize *)dlsym(peer, "ggml_quantize_chunk") : NULL;
    fill(j.x);
    printf("type  path      from f32    to f32 MB/s%s\n", peer ? "  ours/ggml: from, to" : "");
    for (j.row = 0; j.row < N_ROWS; j.row++)
        if (wanted(argc, argv, rows[j.row].type))
            bench_row(&j, peer);
    free(j.x);
    free(j.y);
    free(j.q);
    return fflush(stdout) == 0 ? 0 : 3;
}
