/* Speed of the row conversions, one thread: MB of f32 a second, every type on
 * every instruction set of this machine; encoding without and with importance.
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
    {LM_IQ4_NL, 20, "dequantize_row_iq4_nl"},   {LM_IQ4_XS, 23, "dequantize_row_iq4_xs"},
    {LM_IQ1_S, 19, "dequantize_row_iq1_s"},     {LM_IQ1_M, 29, "dequantize_row_iq1_m"},
    {LM_IQ2_XXS, 16, "dequantize_row_iq2_xxs"}, {LM_IQ2_XS, 17, "dequantize_row_iq2_xs"},
    {LM_IQ2_S, 22, "dequantize_row_iq2_s"},     {LM_IQ3_XXS, 18, "dequantize_row_iq3_xxs"},
    {LM_IQ3_S, 21, "dequantize_row_iq3_s"},     {LM_TQ1_0, 34, "dequantize_row_tq1_0"},
    {LM_TQ2_0, 35, "dequantize_row_tq2_0"},     {LM_MXFP4, 39, "dequantize_row_mxfp4"},
    {LM_NVFP4, 40, "dequantize_row_nvfp4"},     {LM_Q1_0, 41, "dequantize_row_q1_0"},
    {LM_Q2_0, 42, "dequantize_row_q2_0"},
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
    size_t n_rows; /* of ROW elements: fewer for the types that take long */
    float *x, *y, *importance; /* [N], [N], [ROW] */
    uint8_t *q;
    peer_quantize *quantize;
    peer_dequantize *dequantize;
};

enum what { FROM, WEIGHTED, TO, N_WHATS };

/* n rows, as the commands call them; 0: there is no such conversion. */
static double ours(const struct job *j, enum what what, size_t n)
{
    const struct lm_dtype_info *info = lm_dtype_info(rows[j->row].type);
    size_t bytes = lm_dtype_bytes(rows[j->row].type, ROW);
    double t = seconds();

    if (what == FROM ? !info->from_f32 : what == WEIGHTED ? !info->from_f32_weighted : !info->to_f32)
        return 0;
    for (size_t i = 0; i < n; i++)
        if (what == FROM)
            info->from_f32(j->q + i * bytes, j->x + i * ROW, ROW);
        else if (what == WEIGHTED)
            info->from_f32_weighted(j->q + i * bytes, j->x + i * ROW, j->importance, ROW, 1);
        else
            info->to_f32(j->y + i * ROW, j->q + i * bytes, ROW);
    return seconds() - t;
}

static double peer(const struct job *j, enum what what)
{
    const struct lm_dtype_info *info = lm_dtype_info(rows[j->row].type);
    double t = seconds();

    if (what == FROM ? !j->quantize || info->needs_importance
                     : what == WEIGHTED ? !j->quantize || !info->from_f32_weighted : !j->dequantize)
        return 0;
    if (what == TO)
        j->dequantize(j->q, j->y, (int64_t)j->n_rows * ROW);
    else
        j->quantize(rows[j->row].ggml_id, j->x, j->q, 0, (int64_t)j->n_rows, ROW,
                    what == WEIGHTED ? j->importance : NULL);
    return seconds() - t;
}

static void keep_best(double *best, double t)
{
    *best = *best == 0 || t < *best ? t : *best;
}

/* As many rows as our slowest path encodes in a fifth of a second. */
static size_t rows_to_time(const struct job *j)
{
    enum { FEW = 8 };
    enum what what = lm_dtype_info(rows[j->row].type)->from_f32 ? FROM : WEIGHTED;

    lm_dtype_set_isa("portable");
    ours(j, what, FEW); /* builds its tables */
    double n = 0.2 * FEW / (ours(j, what, FEW) + 1e-9);
    return n < FEW ? FEW : n < N / ROW ? (size_t)n : N / ROW;
}

static void print_row(const char *type, const char *path, const struct job *j, const double *t, const double *peers)
{
    printf("%-7s %-9s", type, path);
    for (int w = 0; w < N_WHATS; w++)
        printf(t[w] > 0 ? " %9.0f" : "         -", (double)j->n_rows * ROW * 4e-6 / t[w]);
    for (int w = 0; w < N_WHATS && peers; w++)
        printf(t[w] > 0 && peers[w] > 0 ? " %7.2f" : "       -", peers[w] / t[w]);
    putchar('\n');
}

/* Peer and paths take turns, so that a busy moment of the machine hits all. */
static void bench_row(struct job *j, void *library)
{
    static const char *const isas[] = {"portable", "avx2", "avx512"};
    enum { N_ISAS = sizeof isas / sizeof *isas };
    const char *name = lm_dtype_name(rows[j->row].type);
    double best[N_ISAS + 1][N_WHATS] = {{0}};

    j->n_rows = rows_to_time(j);
    j->dequantize = library ? (peer_dequantize *)dlsym(library, rows[j->row].ggml_to_f32) : NULL;
    for (int r = 0; r < REPEATS; r++)
        for (int w = 0; w < N_WHATS; w++) {
            keep_best(&best[N_ISAS][w], peer(j, (enum what)w));
            for (int k = 0; k < N_ISAS; k++)
                if (lm_dtype_set_isa(isas[k]) == 0)
                    keep_best(&best[k][w], ours(j, (enum what)w, j->n_rows));
        }
    if (library)
        print_row(name, "ggml", j, best[N_ISAS], NULL);
    for (int k = 0; k < N_ISAS; k++)
        if (lm_dtype_set_isa(isas[k]) == 0)
            print_row(name, isas[k], j, best[k], library ? best[N_ISAS] : NULL);
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
    void *library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    struct job j = {.x = malloc(N * sizeof(float)), .y = malloc(N * sizeof(float)), .q = malloc(N * sizeof(float)),
                    .importance = malloc(ROW * sizeof(float))};

    if (path && !library) {
        fprintf(stderr, "bench_quant: %s\n", dlerror());
        return 3;
    }
    if (!j.x || !j.y || !j.q || !j.importance) {
        fprintf(stderr, "bench_quant: out of memory\n");
        return 3;
    }
    j.quantize = library ? (peer_quantize *)dlsym(library, "ggml_quantize_chunk") : NULL;
    fill(j.x);
    for (int i = 0; i < ROW; i++)
        j.importance[i] = 1e-6f + j.x[i] * j.x[i];
    printf("MB/s             from f32  weighted    to f32%s\n", library ? "   ours/ggml" : "");
    for (j.row = 0; j.row < N_ROWS; j.row++)
        if (wanted(argc, argv, rows[j.row].type))
            bench_row(&j, library);
    free(j.x);
    free(j.y);
    free(j.q);
    free(j.importance);
    return fflush(stdout) == 0 ? 0 : 3;
}
