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

/* Of this thread: other programs on the machine do not count. */
static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
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

struct job {
    int row;
    float *x, *y;
    uint8_t *q;
    peer_quantize *quantize;
    peer_dequantize *dequantize;
};

/* Rows, as the commands call them. */
static double ours_from(const struct job *j)
{
    const struct lm_dtype_info *info = lm_dtype_info(rows[j->row].type);
    size_t bytes = lm_dtype_bytes(rows[j->row].type, ROW);
    double t = seconds();

    for (size_t i = 0; i < N / ROW; i++)
        info->from_f32(j->q + i * bytes, j->x + i * ROW, ROW);
    return seconds() - t;
}

static double ours_to(const struct job *j)
{
    const struct lm_dtype_info *info = lm_dtype_info(rows[j->row].type);
    size_t bytes = lm_dtype_bytes(rows[j->row].type, ROW);
    double t = seconds();

    for (size_t i = 0; i < N / ROW; i++)
        info->to_f32(j->y + i * ROW, j->q + i * bytes, ROW);
    return seconds() - t;
}

static double peer_from(const struct job *j)
{
    double t = seconds();

    j->quantize(rows[j->row].ggml_id, j->x, j->q, 0, N / ROW, ROW, NULL);
    return seconds() - t;
}

static double peer_to(const struct job *j)
{
    double t = seconds();

    j->dequantize(j->q, j->y, N);
    return seconds() - t;
}

static void keep_best(double *best, double t)
{
    *best = *best == 0 || t < *best ? t : *best;
}

/* Peer and paths take turns, so that a busy moment of the machine hits all. */
static void bench_row(struct job *j, void *peer)
{
    static const char *const isas[] = {"portable", "avx2", "avx512"};
    enum { N_ISAS = sizeof isas / sizeof *isas };
    const char *name = lm_dtype_name(rows[j->row].type);
    const double mb = N * 4e-6;
    double from[N_ISAS + 1] = {0}, to[N_ISAS + 1] = {0};

    j->dequantize = peer ? (peer_dequantize *)dlsym(peer, rows[j->row].ggml_to_f32) : NULL;
    for (int r = 0; r < REPEATS; r++) {
        if (peer)
            keep_best(&from[N_ISAS], peer_from(j));
        if (j->dequantize)
            keep_best(&to[N_ISAS], peer_to(j));
        for (int k = 0; k < N_ISAS; k++) {
            if (lm_dtype_set_isa(isas[k]) != 0)
                continue;
            keep_best(&from[k], ours_from(j));
            keep_best(&to[k], ours_to(j));
        }
    }
    if (peer)
        printf("%-5s %-9s %9.0f %9.0f\n", name, "ggml", mb / from[N_ISAS], mb / to[N_ISAS]);
    for (int k = 0; k < N_ISAS; k++) {
        if (from[k] == 0)
            continue;
        printf("%-5s %-9s %9.0f %9.0f", name, isas[k], mb / from[k], mb / to[k]);
        if (peer)
            printf("   %6.2f %6.2f", from[N_ISAS] / from[k], to[N_ISAS] / to[k]);
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
