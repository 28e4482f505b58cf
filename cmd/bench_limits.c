#include "cmd/bench_limits.h"

#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "cmd/cli.h"

enum { PROBE_BYTES = 256 << 20, ROUNDS = 6, STEPS = 24000000, SUMS = 12 /* enough to hide the latency of one */ };

static int threads_of(int asked)
{
    return asked > 0 ? asked : omp_get_num_procs();
}

/* ---- memory */

static uint64_t read_all(const uint64_t *p, size_t n)
{
    uint64_t sum = 0;

#pragma omp parallel for simd reduction(+ : sum) schedule(static)
    for (size_t i = 0; i < n; i++)
        sum += p[i];
    return sum;
}

/* Best of several passes over more than any cache holds. */
double bench_read_bandwidth(int n_threads)
{
    size_t n = PROBE_BYTES / sizeof(uint64_t);
    uint64_t *p = malloc(PROBE_BYTES);
    static volatile uint64_t keep; /* so that the sums are computed */
    double best = 0;

    if (!p)
        return 0;
    omp_set_num_threads(threads_of(n_threads));
    for (size_t i = 0; i < n; i++)
        p[i] = i;
    for (int round = 0; round < ROUNDS; round++) {
        double t0 = cli_now();
        keep = keep + read_all(p, n);
        double rate = PROBE_BYTES / (cli_now() - t0);
        best = rate > best ? rate : best;
    }
    free(p);
    return best;
}

/* ---- arithmetic: each returns what it summed up, so that it is computed */

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static float sums_512(void)
{
    __m512 s[SUMS], a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(1e-3f);

    for (int k = 0; k < SUMS; k++)
        s[k] = _mm512_set1_ps((float)k);
    for (int i = 0; i < STEPS / SUMS; i++)
#pragma GCC unroll 12
        for (int k = 0; k < SUMS; k++)
            s[k] = _mm512_fmadd_ps(s[k], a, b);
    for (int k = 1; k < SUMS; k++)
        s[0] = _mm512_add_ps(s[0], s[k]);
    return _mm512_reduce_add_ps(s[0]);
}

__attribute__((target("avx2,fma"))) static float sums_256(void)
{
    __m256 s[SUMS], a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(1e-3f);

    for (int k = 0; k < SUMS; k++)
        s[k] = _mm256_set1_ps((float)k);
    for (int i = 0; i < STEPS / SUMS; i++)
#pragma GCC unroll 12
        for (int k = 0; k < SUMS; k++)
            s[k] = _mm256_fmadd_ps(s[k], a, b);
    for (int k = 1; k < SUMS; k++)
        s[0] = _mm256_add_ps(s[0], s[k]);
    return _mm_cvtss_f32(_mm256_castps256_ps128(s[0]));
}
#endif

static float sums_plain(void)
{
    float s[4 * SUMS];

    for (int k = 0; k < 4 * SUMS; k++)
        s[k] = (float)k;
    for (int i = 0; i < STEPS / SUMS; i++)
        for (int k = 0; k < 4 * SUMS; k++)
            s[k] = s[k] * 0.999f + 1e-3f;
    for (int k = 1; k < 4 * SUMS; k++)
        s[0] += s[k];
    return s[0];
}

double bench_f32_flops(int n_threads)
{
    static volatile float keep;
    float (*sums)(void) = sums_plain;
    int lanes = 4, n = threads_of(n_threads);
    double best = 0;

#if defined(__x86_64__)
    bool avx512 = __builtin_cpu_supports("avx512f"), avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    sums = avx512 ? sums_512 : avx2 ? sums_256 : sums_plain;
    lanes = avx512 ? 16 : avx2 ? 8 : 4;
#endif
    for (int round = 0; round < ROUNDS; round++) {
        float all = 0;
        double t0 = cli_now();
#pragma omp parallel num_threads(n) reduction(+ : all)
        all += sums();
        double rate = 2.0 * lanes * (STEPS / SUMS * SUMS) * n / (cli_now() - t0);
        keep = keep + all;
        best = rate > best ? rate : best;
    }
    return best;
}
