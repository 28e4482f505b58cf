/* See cuda_runtime.h here. */
#include "cublas_v2.h"

#include <stdio.h>
#include <stdlib.h>
#ifndef __x86_64__
#include <ucontext.h>
#endif

#include <mutex>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#define FORGET(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
#else
#define FORGET(p, n) ((void)0)
#endif

emu_place emu_now;

/* ---- blocks */

/* ---- coroutines. swapcontext asks the kernel twice a switch; on x86-64 a few
 * instructions do. */
#ifdef __x86_64__
struct place {
    void *sp;
};
extern "C" void emu_switch(void **from, void *to);
__asm__(".text\nemu_switch:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");
static void go(place *from, place *to)
{
    emu_switch(&from->sp, to->sp);
}
static void begin(place *p, char *stack, size_t size, void (*run)())
{
    void **top = (void **)(stack + size - 64);
    top[0] = (void *)run; /* what emu_switch returns to, with the stack as after a call */
    p->sp = top - 6;
}
#else
struct place {
    ucontext_t context;
};
static void go(place *from, place *to)
{
    swapcontext(&from->context, &to->context);
}
static void begin(place *p, char *stack, size_t size, void (*run)())
{
    getcontext(&p->context);
    p->context.uc_stack.ss_sp = stack;
    p->context.uc_stack.ss_size = size;
    p->context.uc_link = nullptr;
    makecontext(&p->context, run, 0);
}
#endif

enum state { RUNNING, AT_BARRIER, AT_EXCHANGE, ENDED };
struct fiber {
    place where;
    char *stack;
    state at;
    unsigned n_exchanges;
    dim3 thread;
};
struct warp_slots {
    uint32_t v[2][32]; /* by turns: the next exchange must not overwrite this one */
};

static const size_t STACK = 256 << 10;
static std::vector<fiber> fibers;
static std::vector<warp_slots> warps;
static place scheduler;
static size_t current, n_threads;
static const std::function<void()> *kernel_now;
static unsigned char *dynamic_shared;

static void die(const char *why)
{
    fprintf(stderr, "emulated CUDA: %s (block %u,%u, thread %zu)\n", why, emu_now.block.x, emu_now.block.y, current);
    abort();
}

static void run_thread()
{
    (*kernel_now)();
    fibers[current].at = ENDED;
    go(&fibers[current].where, &scheduler);
}

static void wait_as(state s)
{
    fiber &f = fibers[current];
    f.at = s;
    go(&f.where, &scheduler);
}

unsigned char *emu_dynamic_shared()
{
    return dynamic_shared;
}

void __syncthreads()
{
    wait_as(AT_BARRIER);
}

void emu_exchange(unsigned mask, uint32_t v, uint32_t table[32])
{
    fiber &f = fibers[current];
    if (mask != 0xffffffffu)
        die("an exchange of part of a warp");
    uint32_t *slots = warps[current / 32].v[f.n_exchanges++ % 2];
    slots[current % 32] = v;
    wait_as(AT_EXCHANGE);
    memcpy(table, slots, 32 * sizeof *table);
}

void __syncwarp(unsigned mask)
{
    uint32_t table[32];
    emu_exchange(mask, 0, table);
}

static bool all_at(size_t from, size_t to, state s, bool ended_too)
{
    for (size_t i = from; i < to; i++)
        if (fibers[i].at != s && !(ended_too && fibers[i].at == ENDED))
            return false;
    return true;
}

static void release(size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        if (fibers[i].at != ENDED)
            fibers[i].at = RUNNING;
}

/* Lets every thread that may go on do so, once; then opens what all have
 * reached. EMULATE_REVERSE=1: the last thread first, where a missing barrier
 * shows in other places. */
static void run_block()
{
    static const bool reverse = getenv("EMULATE_REVERSE") != nullptr;

    for (;;) {
        bool moved = false;
        for (size_t i = 0; i < n_threads; i++) {
            current = reverse ? n_threads - 1 - i : i;
            if (fibers[current].at != RUNNING)
                continue;
            emu_now.thread = fibers[current].thread;
            go(&scheduler, &fibers[current].where);
            moved = true;
        }
        if (all_at(0, n_threads, ENDED, false))
            return;
        for (size_t w = 0; w < n_threads; w += 32)
            if (all_at(w, w + 32, AT_EXCHANGE, false))
                release(w, w + 32), moved = true;
        if (all_at(0, n_threads, AT_BARRIER, true))
            release(0, n_threads), moved = true;
        if (!moved)
            die("threads wait for each other: a barrier or warp operation that some miss");
    }
}

static void prepare(dim3 block)
{
    n_threads = (size_t)block.x * block.y * block.z;
    if (n_threads % 32 || n_threads > 1024 || block.y != 1 || block.z != 1)
        die("blocks here are whole warps in one dimension");
    while (fibers.size() < n_threads) {
        fiber f = {};
        f.stack = (char *)aligned_alloc(64, STACK);
        fibers.push_back(f);
    }
    warps.resize(n_threads / 32);
    for (size_t i = 0; i < n_threads; i++) {
        fiber &f = fibers[i];
        FORGET(f.stack, STACK); /* the last thread on it never returned */
        begin(&f.where, f.stack, STACK, run_thread);
        f.at = RUNNING;
        f.n_exchanges = 0;
        f.thread = dim3((unsigned)i);
    }
}

static void run_grid(dim3 grid, dim3 block, size_t shared, const std::function<void()> &kernel)
{
    static std::mutex one; /* several threads may launch, as quantizers do */
    std::lock_guard<std::mutex> hold(one);
    kernel_now = &kernel;
    emu_now.grid_dim = grid;
    emu_now.block_dim = block;
    dynamic_shared = (unsigned char *)aligned_alloc(16, (shared + 31) / 16 * 16);
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                memset(dynamic_shared, 0xff, shared);
                emu_now.block = dim3(x, y, z);
                prepare(block);
                run_block();
            }
    free(dynamic_shared);
}

/* ---- graphs: launches kept, to be run later with the arguments they had */

struct launched {
    dim3 grid, block;
    size_t shared;
    std::function<void()> kernel;
};
struct emu_graph {
    std::vector<launched> all;
};
static emu_graph *recording;

void emu_launch(dim3 grid, dim3 block, size_t shared, const std::function<void()> &kernel)
{
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535 || shared > 227 * 1024)
        die("a launch that the device would refuse");
    if (recording)
        recording->all.push_back({grid, block, shared, kernel});
    else
        run_grid(grid, block, shared, kernel);
}
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode)
{
    recording = new emu_graph;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *g)
{
    *g = recording;
    recording = nullptr;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *e, cudaGraph_t g, unsigned long long)
{
    *e = new emu_graph(*g);
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t)
{
    for (const launched &l : e->all)
        run_grid(l.grid, l.block, l.shared, l.kernel);
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    delete g;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e)
{
    delete e;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    if (recording)
        die("waiting while a graph is recorded");
    return cudaSuccess;
}

/* ---- memory */

cudaError_t cudaMalloc(void **p, size_t n)
{
    if (recording)
        die("memory asked for while a graph is recorded");
    if (posix_memalign(p, 256, n) != 0)
        return cudaErrorMemoryAllocation;
    memset(*p, 0xff, n);
    return cudaSuccess;
}
cudaError_t cudaFree(void *p)
{
    free(p);
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void **p, size_t n)
{
    return cudaMalloc(p, n);
}
cudaError_t cudaFreeHost(void *p)
{
    free(p);
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    *free_bytes = *total = (size_t)1 << 30;
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void *dst, const void *src, size_t n, cudaMemcpyKind)
{
    memcpy(dst, src, n);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n, cudaMemcpyKind, cudaStream_t)
{
    memcpy(dst, src, n);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *p, int v, size_t n, cudaStream_t)
{
    memset(p, v, n);
    return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int *n)
{
    *n = 1;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int)
{
    *p = {"an emulated device", 9, 0, 3, 227 * 1024};
    return cudaSuccess;
}

/* ---- cuBLAS, column-major */

static double element(const void *p, cudaDataType_t type, size_t i, bool tf32)
{
    uint32_t u;
    float f;

    if (type == CUDA_R_64F)
        return ((const double *)p)[i];
    if (type == CUDA_R_16BF)
        u = (uint32_t)((const uint16_t *)p)[i] << 16;
    else
        memcpy(&u, (const float *)p + i, 4);
    if (tf32)
        u = (u + 0xfff + (u >> 13 & 1)) & ~(uint32_t)0x1fff;
    memcpy(&f, &u, 4);
    return f;
}

struct matrix {
    const void *p;
    cudaDataType_t type;
    bool turned, tf32;
    size_t ld;
};

static double at(const matrix &m, size_t row, size_t col)
{
    return element(m.p, m.type, m.turned ? col + row * m.ld : row + col * m.ld, m.tf32);
}

cublasStatus_t cublasGemmEx(cublasHandle_t, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                            const void *alpha, const void *a, cudaDataType_t a_type, int lda, const void *b,
                            cudaDataType_t b_type, int ldb, const void *beta, void *c, cudaDataType_t c_type, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t)
{
    const bool tf32 = compute == CUBLAS_COMPUTE_32F_FAST_TF32, wide = compute == CUBLAS_COMPUTE_64F;
    const matrix x = {a, a_type, ta == CUBLAS_OP_T, tf32, (size_t)lda}, y = {b, b_type, tb == CUBLAS_OP_T, tf32, (size_t)ldb};
    const double one = wide ? *(const double *)alpha : *(const float *)alpha;
    const double old = wide ? *(const double *)beta : *(const float *)beta;

    if (a_type != b_type || (c_type == CUDA_R_64F) != wide || (a_type == CUDA_R_64F) != wide ||
        lda < (ta == CUBLAS_OP_N ? m : k) || ldb < (tb == CUBLAS_OP_N ? k : n) || ldc < m)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (recording)
        die("cuBLAS while a graph is recorded");
    for (int j = 0; j < n; j++)
        for (int i = 0; i < m; i++) {
            double sum = 0;
            size_t to = i + (size_t)j * ldc;
            for (int l = 0; l < k; l++)
                sum += at(x, i, l) * at(y, l, j);
            if (wide)
                ((double *)c)[to] = one * sum + (old != 0 ? old * ((double *)c)[to] : 0);
            else
                ((float *)c)[to] = (float)one * (float)sum + (old != 0 ? (float)old * ((float *)c)[to] : 0.0f);
        }
    return CUBLAS_STATUS_SUCCESS;
}
