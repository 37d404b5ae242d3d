/* common.cuh - what the kernels share: dependent launch, tensor-core products, reductions, bf16. */
#ifndef KERNELS_COMMON_CUH
#define KERNELS_COMMON_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "kernels.h"

enum { SMS = 132 }; /* of an H100 or H200 */

/* Wait until the kernels before this one are done and their writes visible. */
static __device__ __forceinline__ void pdl_wait()
{
    asm volatile("griddepcontrol.wait;" ::: "memory");
}
/* Let the next kernel start as soon as every block of this one has got here. */
static __device__ __forceinline__ void pdl_next()
{
    asm volatile("griddepcontrol.launch_dependents;");
}

template <typename... P, typename... A>
static int launch(void (*kernel)(P...), dim3 grid, int threads, size_t smem, cudaStream_t stream,
                  A... args)
{
    cudaLaunchAttribute attr = {};
    attr.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3((unsigned)threads);
    config.dynamicSmemBytes = smem;
    config.stream = stream;
    config.attrs = &attr;
    config.numAttrs = 1;
    return (int)cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...);
}

/* What is done once a device: `done` has a bit for each, set after it was. Threads of several devices may
 * come at the same time. */
static inline uint64_t device_bit()
{
    int device = 0;
    cudaGetDevice(&device);
    return (uint64_t)1 << (device & 63);
}
static inline bool is_done_here(const uint64_t *done)
{
    return __atomic_load_n(done, __ATOMIC_ACQUIRE) & device_bit();
}
static inline void set_done_here(uint64_t *done)
{
    __atomic_fetch_or(done, device_bit(), __ATOMIC_RELEASE);
}

/* c += a . b, m16n8k16, bf16 in, f32 sums. */
static __device__ __forceinline__ void mma16816(float c[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                                uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ float bf16_lo(uint32_t u)
{
    return __uint_as_float(u << 16);
}
static __device__ __forceinline__ float bf16_hi(uint32_t u)
{
    return __uint_as_float(u & 0xffff0000u);
}
static __device__ __forceinline__ float bf16_f(uint16_t u)
{
    return __uint_as_float((uint32_t)u << 16);
}
static __device__ __forceinline__ uint16_t f_bf16(float f)
{
    return __bfloat16_as_ushort(__float2bfloat16_rn(f));
}
static __device__ __forceinline__ uint32_t pack_bf16(float lo, float hi)
{
    return (uint32_t)f_bf16(lo) | (uint32_t)f_bf16(hi) << 16;
}

/* Weights: read once, so not worth a line of L1. */
static __device__ __forceinline__ uint4 load_stream(const void *p)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

static __device__ __forceinline__ void cp_async16(void *smem, const void *gmem, bool is_there)
{
    uint32_t to = (uint32_t)__cvta_generic_to_shared(smem);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(gmem),
                 "r"(is_there ? 16 : 0)
                 : "memory");
}
static __device__ __forceinline__ void cp_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int N> static __device__ __forceinline__ void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

static __device__ __forceinline__ float warp_sum(float v)
{
    for (int i = 16; i > 0; i >>= 1) v += __shfl_xor_sync(~0u, v, i);
    return v;
}

/* Sum over the block in a fixed order; every thread gets it. `at`: 32 floats of shared memory. */
static __device__ __forceinline__ float block_sum(float v, float *at)
{
    int warp = threadIdx.x / 32, n = blockDim.x / 32;
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) at[warp] = v;
    __syncthreads();
    float sum = 0.0f;
    for (int i = 0; i < n; i++) sum += at[i];
    __syncthreads();
    return sum;
}

static __device__ __forceinline__ float glu_gate(float x, int kind)
{
    if (kind == GLU_GELU_ERF) return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    float z = kind == GLU_GELU_TANH ? 1.5957691216f * fmaf(x * x * x, 0.044715f, x) : x;
    return x / (1.0f + __expf(-z));
}

#endif
