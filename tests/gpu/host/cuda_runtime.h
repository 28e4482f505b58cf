/* Enough of CUDA to run the plugin's kernels on a machine without a GPU, one
 * thread of a block after the other: for finding wrong indices, wrong sums and
 * missing barriers, not for speed.  tests/gpu/emulate builds the plugin so.
 *
 * A thread of a block is a coroutine that runs until it meets a barrier or a
 * warp exchange.  A warp operation that a lane misses, or a barrier that cannot
 * be passed, ends the program with a message.  New memory is full of NaN. */
#ifndef TESTS_GPU_HOST_CUDA_RUNTIME_H
#define TESTS_GPU_HOST_CUDA_RUNTIME_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <functional>
#include <tuple>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct emu_place {
    dim3 thread, block, block_dim, grid_dim;
};
extern emu_place emu_now;
#define threadIdx emu_now.thread
#define blockIdx emu_now.block
#define blockDim emu_now.block_dim
#define gridDim emu_now.grid_dim

void emu_launch(dim3 grid, dim3 block, size_t shared, const std::function<void()> &kernel);
unsigned char *emu_dynamic_shared();
/* Every lane gives v; table[i] is then lane i's. */
void emu_exchange(unsigned mask, uint32_t v, uint32_t table[32]);
void __syncthreads();
void __syncwarp(unsigned mask = 0xffffffffu);

/* Arguments are copied at the launch, as by the device. */
template <class... P, class... A> std::function<void()> emu_bind(void (*kernel)(P...), const A &...a)
{
    return [kernel, all = std::tuple<P...>(P(a)...)]() { std::apply(kernel, all); };
}
#define LMC_LAUNCH(kernel, grid, block, shared, stream, ...)                                                           \
    ((void)(stream), emu_launch(grid, block, (size_t)(shared), emu_bind(kernel, __VA_ARGS__)))
#define LMC_DYNAMIC_SHARED(name) unsigned char *name = emu_dynamic_shared()

/* ---- vectors and intrinsics */
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

template <class T> static inline T min(T a, T b) { return b < a ? b : a; }
template <class T> static inline T max(T a, T b) { return a < b ? b : a; }

/* A value of whole words travels word by word. */
template <class T> static inline T emu_shuffle(unsigned mask, T v, unsigned from)
{
    uint32_t words[sizeof(T) / 4], table[32];
    memcpy(words, &v, sizeof v);
    for (uint32_t &w : words) {
        emu_exchange(mask, w, table);
        w = table[from];
    }
    memcpy(&v, words, sizeof v);
    return v;
}
template <class T> static inline T __shfl_xor_sync(unsigned mask, T v, int lane_mask)
{
    return emu_shuffle(mask, v, (threadIdx.x % 32) ^ (unsigned)lane_mask);
}
template <class T> static inline T __shfl_sync(unsigned mask, T v, int lane)
{
    return emu_shuffle(mask, v, (unsigned)lane % 32);
}
/* What mma.m16n8k8 with TF32 does: c += a b. */
static inline void emu_mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    uint32_t ta[4][32], tb[2][32];
    unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int i = 0; i < 4; i++)
        emu_exchange(0xffffffffu, a[i], ta[i]);
    for (int i = 0; i < 2; i++)
        emu_exchange(0xffffffffu, b[i], tb[i]);
    for (unsigned i = 0; i < 4; i++) { /* c[i]: row g (+ 8), column 2 t (+ 1) */
        double sum = c[i];
        for (unsigned k = 0; k < 8; k++) {
            float x, y;
            memcpy(&x, &ta[i / 2 + k / 4 * 2][4 * g + k % 4], 4);
            memcpy(&y, &tb[k / 4][4 * (2 * t + i % 2) + k % 4], 4);
            sum += (double)x * (double)y;
        }
        c[i] = (float)sum;
    }
}
static inline unsigned __reduce_max_sync(unsigned mask, unsigned v)
{
    uint32_t table[32], top = 0;
    emu_exchange(mask, v, table);
    for (uint32_t x : table)
        top = x > top ? x : top;
    return top;
}
static inline int __reduce_add_sync(unsigned mask, int v)
{
    uint32_t table[32], sum = 0;
    emu_exchange(mask, (uint32_t)v, table);
    for (uint32_t x : table)
        sum += x;
    return (int)sum;
}
static inline int __dp4a(int a, int b, int c)
{
    for (int i = 0; i < 4; i++)
        c += (int8_t)(a >> 8 * i) * (int8_t)(b >> 8 * i);
    return c;
}
static inline int __float2int_rn(float v) { return (int)rintf(v); }
static inline double __hiloint2double(int hi, int lo)
{
    uint64_t u = (uint64_t)(uint32_t)hi << 32 | (uint32_t)lo;
    double d;
    memcpy(&d, &u, 8);
    return d;
}

/* ---- the runtime */
enum cudaError_t { cudaSuccess, cudaErrorMemoryAllocation, cudaErrorNoDevice, cudaErrorInsufficientDriver, cudaErrorInvalidValue };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
typedef struct emu_stream *cudaStream_t;
typedef struct emu_event *cudaEvent_t;
typedef struct emu_graph *cudaGraph_t;
typedef struct emu_graph *cudaGraphExec_t;
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
struct cudaDeviceProp {
    char name[256];
    int major, minor, multiProcessorCount;
    size_t sharedMemPerBlockOptin;
};
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };

cudaError_t cudaMalloc(void **p, size_t n);
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocHost(void **p, size_t n);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total);
cudaError_t cudaMemcpy(void *dst, const void *src, size_t n, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n, cudaMemcpyKind kind, cudaStream_t s);
cudaError_t cudaMemsetAsync(void *p, int v, size_t n, cudaStream_t s);
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int ordinal);
static inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
static inline cudaError_t cudaGetLastError() { return cudaSuccess; }
static inline const char *cudaGetErrorString(cudaError_t) { return "an emulated error"; }
static inline const char *cudaGetErrorName(cudaError_t) { return "emulated"; }
static inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) { *s = nullptr; return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t);
static inline cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
/* What is launched in between is kept instead of run. */
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *e, cudaGraph_t g, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s);
cudaError_t cudaGraphDestroy(cudaGraph_t g);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e);
static inline cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
static inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned) { *e = nullptr; return cudaSuccess; }
static inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
static inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
static inline cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
template <class F> static inline cudaError_t cudaFuncSetAttribute(F *, cudaFuncAttribute, int) { return cudaSuccess; }

#endif
