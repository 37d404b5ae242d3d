/* wgmma.cuh - what attention adds to hopper.cuh: warpgroup products of matrices without swizzle,
 * bulk copies of plain memory, named barriers, register shares.
 *
 * Matrices lie in shared memory as core matrices without swizzle: 8 rows of 8 elements (16 bytes
 * each) are 128 bytes on end. Two strides say where the next core matrix is, in the direction of the
 * sum (k) and across it. bf16 in, f32 sums; one instruction sums 16 products onto each element,
 * exactly as mma.sync m16n8k16 does (checked on an H100: no bit differs in 4.9 million).
 */
#ifndef KERNELS_WGMMA_CUH
#define KERNELS_WGMMA_CUH

#include "hopper.cuh"

/* ------------------------------------------------------------------ copies, threads, registers */

static __device__ __forceinline__ void bulk_copy(void *to, const void *from, uint32_t bytes,
                                                 uint64_t *bar)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], "
                 "%2, [%3];" ::"r"(smem_at(to)),
                 "l"(from), "r"(bytes), "r"(smem_at(bar))
                 : "memory");
}
/* Named barriers, of `n` threads of the block; 0 is __syncthreads. */
static __device__ __forceinline__ void named_sync(int id, int n)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n) : "memory");
}
static __device__ __forceinline__ void named_arrive(int id, int n)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(n) : "memory");
}

template <int N> static __device__ __forceinline__ void registers_grow()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N> static __device__ __forceinline__ void registers_shrink()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

/* ------------------------------------------------------------------ products */

static __device__ __forceinline__ uint64_t matrix_at(const void *p, int k_stride, int stride)
{
    return (uint64_t)(smem_at(p) >> 4) | (uint64_t)(k_stride >> 4) << 16 |
           (uint64_t)(stride >> 4) << 32;
}

/* Keeps the compiler from moving what touches x across this place. */
template <int N> static __device__ __forceinline__ void pin(float (&x)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(x[i])::"memory");
}

#define WGMMA_TEXT(n, sums, a, b, p, negations)                                                    \
    "{.reg .pred p; setp.ne.b32 p, " p ", 0; wgmma.mma_async.sync.aligned.m64n" n                  \
    "k16.f32.bf16.bf16 {" sums "}, " a ", " b ", p, 1, 1, " negations ";}"

/* d (+)= a . b of 64 rows and n columns, n / 2 sums a thread: thread (warp, g, t) holds rows
 * 16 warp + g and + 8, columns 8 j + 2 t and + 1, as d[4 j + 2 (row / 8) + column % 2]. `adds` 0: d
 * starts from zero. a: from shared memory, or 16 columns from registers as m16n8k16 has them. */
static __device__ __forceinline__ void product(float (&d)[64], uint64_t a, uint64_t b, int adds)
{
    asm volatile(
        WGMMA_TEXT("128", SUMS_0 "," SUMS_1 "," SUMS_2 "," SUMS_3, "%64", "%65", "%66", "0, 0")
        : OF_64(d, 0)
        : "l"(a), "l"(b), "r"(adds));
}
#define PRODUCT_OF_REGISTERS(n, n_sums, sums, a, b, p)                                             \
    static __device__ __forceinline__ void product(float(&d)[n_sums], const uint32_t *x,           \
                                                   uint64_t y, int adds)                           \
    {                                                                                              \
        asm volatile(WGMMA_TEXT(#n, sums, a, b, p, "0")                                            \
                     : OF_##n_sums(d, 0)                                                           \
                     : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "l"(y), "r"(adds));             \
    }
PRODUCT_OF_REGISTERS(64, 32, SUMS_0 "," SUMS_1, "{%32,%33,%34,%35}", "%36", "%37")
PRODUCT_OF_REGISTERS(80, 40, SUMS_0 "," SUMS_1 ",%32,%33,%34,%35,%36,%37,%38,%39",
                     "{%40,%41,%42,%43}", "%44", "%45")
PRODUCT_OF_REGISTERS(96, 48, SUMS_0 "," SUMS_1 "," SUMS_2, "{%48,%49,%50,%51}", "%52", "%53")
PRODUCT_OF_REGISTERS(128, 64, SUMS_0 "," SUMS_1 "," SUMS_2 "," SUMS_3, "{%64,%65,%66,%67}", "%68",
                     "%69")
PRODUCT_OF_REGISTERS(256, 128,
                     SUMS_0 "," SUMS_1 "," SUMS_2 "," SUMS_3 "," SUMS_4 "," SUMS_5 "," SUMS_6
                            "," SUMS_7,
                     "{%128,%129,%130,%131}", "%132", "%133")

#endif
