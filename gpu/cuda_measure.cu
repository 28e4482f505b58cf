/* What the device can do at most, for the benchmark to compare with: a copy of
 * device memory and a large bf16 product of random numbers. */
#include "gpu/cuda_base.cuh"

#include <time.h>

enum { THREADS = 256, BLOCKS_PER_SM = 8, COPIES = 20, PRODUCTS = 10, SIDE = 8192 };
#define COPY_BYTES ((size_t)1 << 30)

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static __global__ void copy(float4 *dst, const float4 *src, size_t n)
{
    for (size_t i = blockIdx.x * (size_t)THREADS + threadIdx.x; i < n; i += (size_t)gridDim.x * THREADS)
        dst[i] = src[i];
}

/* bf16 numbers between -1 and 1; products of zeros would run faster than any real ones. */
static __global__ void fill(uint16_t *dst, size_t n)
{
    for (size_t i = blockIdx.x * (size_t)THREADS + threadIdx.x; i < n; i += (size_t)gridDim.x * THREADS) {
        uint32_t h = (uint32_t)i * 2654435761u;
        h ^= h >> 15;
        h *= 2246822519u;
        h ^= h >> 13;
        dst[i] = lmc_to_bf16((float)(int32_t)h / 2147483648.0f);
    }
}

struct measure {
    float4 *from, *to;
    uint16_t *a, *b;
    float *c;
    cudaStream_t stream;
    cublasHandle_t blas;
};

static int copies(struct measure *m, int n_sms, double *bytes_per_s, struct lm_err *e)
{
    LMC_TRY(cudaMemsetAsync(m->from, 1, COPY_BYTES, m->stream), "copy");
    double t = 0;
    for (int i = -2; i < COPIES; i++) {
        if (i == 0) {
            LMC_TRY(cudaStreamSynchronize(m->stream), "copy");
            t = now();
        }
        LMC_LAUNCH(copy, dim3((unsigned)(n_sms * BLOCKS_PER_SM)), dim3(THREADS), 0, m->stream, m->to, m->from,
                   COPY_BYTES / sizeof(float4));
    }
    LMC_LAUNCHED("copy");
    LMC_TRY(cudaStreamSynchronize(m->stream), "copy");
    *bytes_per_s = 2.0 * COPIES * (double)COPY_BYTES / (now() - t);
    return 0;
}

static int products(struct measure *m, int n_sms, double *flops, struct lm_err *e)
{
    const float one = 1, zero = 0;
    double t = 0;

    for (uint16_t *p : {m->a, m->b})
        LMC_LAUNCH(fill, dim3((unsigned)(n_sms * BLOCKS_PER_SM)), dim3(THREADS), 0, m->stream, p, (size_t)SIDE * SIDE);
    LMC_LAUNCHED("random numbers");
    for (int i = -3; i < PRODUCTS; i++) {
        if (i == 0) {
            LMC_TRY(cudaStreamSynchronize(m->stream), "product");
            t = now();
        }
        cublasStatus_t r = cublasGemmEx(m->blas, CUBLAS_OP_T, CUBLAS_OP_N, SIDE, SIDE, SIDE, &one, m->a, CUDA_R_16BF,
                                        SIDE, m->b, CUDA_R_16BF, SIDE, &zero, m->c, CUDA_R_32F, SIDE,
                                        CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
        if (r != CUBLAS_STATUS_SUCCESS)
            return lmc_blas_failed(e, r, "cublasGemmEx", "measuring products");
    }
    LMC_TRY(cudaStreamSynchronize(m->stream), "product");
    *flops = 2.0 * PRODUCTS * SIDE * SIDE * SIDE / (now() - t);
    return 0;
}

static int measure(struct measure *m, int device, double *bytes_per_s, double *flops, struct lm_err *e)
{
    struct cudaDeviceProp prop;
    size_t n = (size_t)SIDE * SIDE;

    LMC_TRY(cudaSetDevice(device), "measuring");
    LMC_TRY(cudaGetDeviceProperties(&prop, device), "measuring");
    LMC_TRY(cudaStreamCreateWithFlags(&m->stream, cudaStreamNonBlocking), "measuring");
    cublasStatus_t r = cublasCreate(&m->blas);
    if (r == CUBLAS_STATUS_SUCCESS)
        r = cublasSetStream(m->blas, m->stream);
    if (r != CUBLAS_STATUS_SUCCESS)
        return lmc_blas_failed(e, r, "cublasCreate", "measuring");
    if (lmc_malloc((void **)&m->from, COPY_BYTES, "the copy", e) || lmc_malloc((void **)&m->to, COPY_BYTES, "the copy", e) ||
        lmc_malloc((void **)&m->a, n * 2, "the product", e) || lmc_malloc((void **)&m->b, n * 2, "the product", e) ||
        lmc_malloc((void **)&m->c, n * 4, "the product", e))
        return -1;
    return copies(m, prop.multiProcessorCount, bytes_per_s, e) || products(m, prop.multiProcessorCount, flops, e) ? -1 : 0;
}

extern "C" __attribute__((visibility("default"))) int lm_cuda_measure(int device, double *copy_bytes_per_s,
                                                                      double *bf16_flops, struct lm_err *e)
{
    struct measure m = {};
    int rc = measure(&m, device, copy_bytes_per_s, bf16_flops, e);

    if (m.stream)
        cudaStreamSynchronize(m.stream);
    for (void *p : {(void *)m.from, (void *)m.to, (void *)m.a, (void *)m.b, (void *)m.c})
        cudaFree(p);
    if (m.blas)
        cublasDestroy(m.blas);
    if (m.stream)
        cudaStreamDestroy(m.stream);
    return rc;
}
