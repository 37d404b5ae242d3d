/* hopper.cuh - the parts of sm_90a that have no name in C: barriers in shared memory, bulk tensor
 * copies (TMA), warpgroup products (wgmma).
 *
 * A tile is rows of 64 bf16 (128 bytes) in the 128-byte swizzle, as TMA writes and wgmma reads it;
 * it starts at a multiple of 1024 bytes. source: PTX ISA 9.0, sections 9.7.9, 9.7.13, 9.7.15.
 */
#ifndef KERNELS_HOPPER_CUH
#define KERNELS_HOPPER_CUH

#include <cuda.h>

#include "common.cuh"

/* ------------------------------------------------------------------ barriers */

static __device__ __forceinline__ uint32_t smem_at(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

static __device__ __forceinline__ void bar_init(uint64_t *bar, uint32_t n_arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_at(bar)), "r"(n_arrivals)
                 : "memory");
}
/* What this thread wrote to shared memory becomes visible to products and bulk copies. */
static __device__ __forceinline__ void fence_async()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
/* After the last bar_init, before the first use by a copy. */
static __device__ __forceinline__ void bar_init_done()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    fence_async();
}
/* One arrival that also announces bytes to come by copies. */
static __device__ __forceinline__ void bar_expect(uint64_t *bar, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_at(bar)),
                 "r"(bytes)
                 : "memory");
}
/* One arrival, of the block's scope: a wider one costs a fence of the whole GPU, 200 cycles. */
static __device__ __forceinline__ void bar_arrive(uint64_t *bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(smem_at(bar)) : "memory");
}
static __device__ __forceinline__ void bar_wait(uint64_t *bar, uint32_t phase)
{
    asm volatile("{\n.reg .pred done;\nagain:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n}" ::"r"(smem_at(bar)),
                 "r"(phase)
                 : "memory");
}

/* ------------------------------------------------------------------ copies */

enum : uint64_t { /* what L2 should do with the bytes, as createpolicy encodes it */
                  KEEP_NOT = 0x12f0000000000000, /* evict first: weights are read once */
                  KEEP = 0x14f0000000000000 /* evict last: activations are read by every block */
};

/* The map's box at (col, row, 0, block) to shared memory; its bytes count down at bar. */
static __device__ __forceinline__ void tma_load(void *to, const CUtensorMap *map, uint64_t *bar,
                                                int col, int row, int block, uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(smem_at(to)),
                 "l"(map), "r"(smem_at(bar)), "r"(col), "r"(row), "r"(0), "r"(block), "l"(policy)
                 : "memory");
}
static __device__ __forceinline__ void tma_prefetch_map(const CUtensorMap *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* ------------------------------------------------------------------ products */

/* A tile in shared memory as an operand, K along its rows: the low word of its descriptor. Further
 * K: + 2 for each 16 columns; further rows: + 64 for each 8. The high word is always the same. */
static __device__ __forceinline__ uint32_t wgmma_operand(uint32_t at)
{
    return (at & 0x3ffff) >> 4 | 1u << 16;
}
#define WGMMA_HIGH_WORD "0x40000040" /* 1024 bytes from 8 rows to the next, 128-byte swizzle */
#define WGMMA_OPERANDS(a, b, adds)                                                                 \
    "{\n.reg .pred p;\n.reg .b64 a, b;\nmov.b64 a, {%" #a ", " WGMMA_HIGH_WORD "};\n"              \
    "mov.b64 b, {%" #b ", " WGMMA_HIGH_WORD "};\nsetp.ne.b32 p, %" #adds ", 0;\n"

static __device__ __forceinline__ void wgmma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
static __device__ __forceinline__ void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/* Until at most N of the committed groups are still running. */
template <int N> static __device__ __forceinline__ void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/* c (+)= a . b^T: 64 rows of a, 16, 32 or 48 of b, 16 columns; `adds` 0: c is set. */
static __device__ __forceinline__ void wgmma(float (&c)[8], uint32_t a, uint32_t b, int adds)
{
    asm volatile(
        WGMMA_OPERANDS(
            8, 9,
            10) "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7}, "
                "a, b, p, 1, 1, 0, 0;\n}"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]),
          "+f"(c[7])
        : "r"(a), "r"(b), "r"(adds));
}
static __device__ __forceinline__ void wgmma(float (&c)[16], uint32_t a, uint32_t b, int adds)
{
    asm volatile(
        WGMMA_OPERANDS(
            16, 17,
            18) "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,"
                "%9,%10,%11,%12,%13,%14,%15}, a, b, p, 1, 1, 0, 0;\n}"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]),
          "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]),
          "+f"(c[14]), "+f"(c[15])
        : "r"(a), "r"(b), "r"(adds));
}

static __device__ __forceinline__ void wgmma(float (&c)[24], uint32_t a, uint32_t b, int adds)
{
    asm volatile(
        WGMMA_OPERANDS(
            24, 25,
            26) "wgmma.mma_async.sync.aligned.m64n48k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,"
                "%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23}, a, b, p, 1, 1, 0, "
                "0;\n}"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]),
          "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]),
          "+f"(c[14]), "+f"(c[15]), "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]),
          "+f"(c[21]), "+f"(c[22]), "+f"(c[23])
        : "r"(a), "r"(b), "r"(adds));
}

#endif
