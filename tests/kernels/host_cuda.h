/* host_cuda.h - enough of CUDA to run kernels that meet other ranks on the CPU: included in front of a .cu
 * file, it takes the place of common.cuh and system.cuh.
 *
 * A block is a thread of the host, its threads are fibers of that thread, which give way at barriers and
 * where they wait for other ranks. A launch runs all blocks and returns when they are done, so streams
 * and dependent launch need nothing. Ranks are threads that launch at the same time.
 */
#ifndef TESTS_KERNELS_HOST_CUDA_H
#define TESTS_KERNELS_HOST_CUDA_H
#define KERNELS_COMMON_CUH
#define KERNELS_SYSTEM_CUH

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <thread>
#include <ucontext.h>
#include <vector>

#include <vector_functions.h>

#include "kernels.h"

#undef __device__
#undef __host__
#undef __global__
#undef __forceinline__
#undef __launch_bounds__
#undef __shared__
#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static thread_local /* of a block */
static inline int min(int a, int b)
{
    return a < b ? a : b;
}

struct host_dim {
    unsigned x = 0, y = 0, z = 0;
};
inline thread_local host_dim threadIdx, blockIdx, blockDim, gridDim;

/* ------------------------------------------------------------------ fibers */

struct host_block {
    std::vector<ucontext_t> fibers;
    std::unique_ptr<char[]> stacks;
    std::vector<char> is_done;
    ucontext_t home;
    unsigned n_waiting = 0, n_barriers = 0, n_left = 0;
    void (*body)(void *);
    void *arg;
};
inline thread_local host_block *host_now;

inline void host_yield()
{
    unsigned me = threadIdx.x;
    swapcontext(&host_now->fibers[me], &host_now->home);
    threadIdx.x = me;
}

/* Threads that have left the kernel are not waited for. */
inline void __syncthreads()
{
    host_block *b = host_now;
    unsigned now = b->n_barriers;
    b->n_waiting++;
    while (b->n_barriers == now) {
        if (b->n_waiting == b->n_left) {
            b->n_waiting = 0;
            b->n_barriers++;
        } else {
            host_yield();
        }
    }
}

inline void host_fiber()
{
    host_block *b = host_now;
    b->body(b->arg);
    b->is_done[threadIdx.x] = 1;
    b->n_left--;
    swapcontext(&b->fibers[threadIdx.x], &b->home);
}

inline void host_run_block(unsigned threads, void (*body)(void *), void *arg)
{
    enum { STACK = 32 << 10 };
    host_block b;
    b.fibers.resize(threads);
    b.stacks.reset(new char[(size_t)threads * STACK]);
    b.is_done.assign(threads, 0);
    b.body = body, b.arg = arg, b.n_left = threads;
    host_now = &b;
    for (unsigned i = 0; i < threads; i++) {
        getcontext(&b.fibers[i]);
        b.fibers[i].uc_stack.ss_sp = b.stacks.get() + (size_t)i * STACK;
        b.fibers[i].uc_stack.ss_size = STACK;
        b.fibers[i].uc_link = &b.home;
        makecontext(&b.fibers[i], host_fiber, 0);
    }
    while (b.n_left) {
        for (unsigned i = 0; i < threads; i++) {
            if (b.is_done[i]) continue;
            threadIdx.x = i;
            swapcontext(&b.home, &b.fibers[i]);
        }
        if (b.n_left) std::this_thread::yield();
    }
}

template <typename P, typename A>
static int launch(void (*kernel)(P), dim3 grid, int threads, size_t, cudaStream_t, A arg)
{
    struct call {
        void (*kernel)(P);
        A arg;
    } c = {kernel, arg};
    std::vector<std::thread> blocks;
    for (unsigned i = 0; i < grid.x; i++)
        blocks.emplace_back([=, &c] {
            blockIdx.x = i, gridDim.x = grid.x, blockDim.x = (unsigned)threads;
            host_run_block((unsigned)threads,
                           [](void *p) { ((call *)p)->kernel(((call *)p)->arg); }, &c);
        });
    for (std::thread &t : blocks) t.join();
    return 0;
}

/* ------------------------------------------------------------------ common.cuh */

static inline void pdl_wait() {}
static inline void pdl_next() {}
static inline void __threadfence_system()
{
    std::atomic_thread_fence(std::memory_order_seq_cst);
}
static inline uint32_t __float_as_uint(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}
static inline float __uint_as_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}
static inline float bf16_lo(uint32_t u)
{
    return __uint_as_float(u << 16);
}
static inline float bf16_hi(uint32_t u)
{
    return __uint_as_float(u & 0xffff0000u);
}
static inline uint32_t host_bf16(float f) /* no NaN */
{
    uint32_t u = __float_as_uint(f);
    return (u + 0x7fffu + (u >> 16 & 1)) >> 16;
}
static inline uint32_t pack_bf16(float lo, float hi)
{
    return host_bf16(lo) | host_bf16(hi) << 16;
}
static inline float block_sum(float v, float *)
{
    static thread_local float all[1024];
    all[threadIdx.x] = v;
    __syncthreads();
    float sum = 0;
    for (unsigned i = 0; i < blockDim.x; i++) sum += all[i];
    __syncthreads();
    return sum;
}
/* ------------------------------------------------------------------ system.cuh */

typedef unsigned long long word;

static inline uint32_t system_load(const uint32_t *p)
{
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}
static inline float system_load(const float *p)
{
    return __uint_as_float(__atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED));
}
/* Who waits for others lets them run; most find what they look for. */
static inline void host_look()
{
    static thread_local unsigned n_looks;
    if (++n_looks % 64 == 0) host_yield();
}
static inline word system_load(const word *p)
{
    host_look();
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}
static inline void system_load_pair(const word *p, word *a, word *b)
{
    host_look();
    *a = __atomic_load_n(p, __ATOMIC_RELAXED);
    *b = __atomic_load_n(p + 1, __ATOMIC_RELAXED);
}
static inline void system_store(word *p, word v)
{
    __atomic_store_n(p, v, __ATOMIC_RELAXED);
}
static inline void system_store_pair(word *p, word a, word b)
{
    system_store(p, a);
    system_store(p + 1, b);
}

#endif
