/* system.cuh - memory that several GPUs and the host use at once: accesses of system scope, which see each
 * other's 4 and 8 bytes whole, and go past L1. source: PTX ISA 9.0, sections 8 and 9.7.9.
 */
#ifndef KERNELS_SYSTEM_CUH
#define KERNELS_SYSTEM_CUH

#include "common.cuh"

typedef unsigned long long word;

static __device__ __forceinline__ uint32_t system_load(const uint32_t *p)
{
    uint32_t v;
    asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
static __device__ __forceinline__ float system_load(const float *p)
{
    float v;
    asm volatile("ld.relaxed.sys.global.f32 %0, [%1];" : "=f"(v) : "l"(p) : "memory");
    return v;
}
static __device__ __forceinline__ word system_load(const word *p)
{
    word v;
    asm volatile("ld.relaxed.sys.global.b64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
    return v;
}
/* Two words, each whole. */
static __device__ __forceinline__ void system_load_pair(const word *p, word *a, word *b)
{
    asm volatile("ld.relaxed.sys.global.v2.b64 {%0, %1}, [%2];"
                 : "=l"(*a), "=l"(*b)
                 : "l"(p)
                 : "memory");
}
static __device__ __forceinline__ void system_store(word *p, word v)
{
    asm volatile("st.relaxed.sys.global.b64 [%0], %1;" ::"l"(p), "l"(v) : "memory");
}
static __device__ __forceinline__ void system_store_pair(word *p, word a, word b)
{
    asm volatile("st.relaxed.sys.global.v2.b64 [%0], {%1, %2};" ::"l"(p), "l"(a), "l"(b)
                 : "memory");
}

#endif
