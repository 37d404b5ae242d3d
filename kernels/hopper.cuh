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

/* Lists of 16 sums: the instruction's text and its operands. */
#define SUMS_0 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define SUMS_1 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define SUMS_2 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define SUMS_3 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define SUMS_4 "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define SUMS_5 "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define SUMS_6 "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111"
#define SUMS_7                                                                                     \
    "%112,%113,%114,%115,%116,%117,%118,%119,"                                                     \
    "%120,%121,%122,%123,%124,%125,%126,%127"
#define OF_8(d, i)                                                                                 \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),    \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define OF_16(d, i)  OF_8(d, i), OF_8(d, i + 8)
#define OF_24(d, i)  OF_16(d, i), OF_8(d, i + 16)
#define OF_32(d, i)  OF_16(d, i), OF_16(d, i + 16)
#define OF_40(d, i)  OF_32(d, i), OF_8(d, i + 32)
#define OF_48(d, i)  OF_32(d, i), OF_16(d, i + 32)
#define OF_64(d, i)  OF_32(d, i), OF_32(d, i + 32)
#define OF_128(d, i) OF_64(d, i), OF_64(d, i + 64)

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

/* c (+)= a . b^T: 64 rows of a, n of b, 16 columns; `adds` 0: c is set. The operands a, b and adds stand
 * behind the sums. */
#define WGMMA_OF_OPERANDS(n, n_sums, sums, operand_a, operand_b, operand_adds)                     \
    static __device__ __forceinline__ void wgmma(float(&c)[n_sums], uint32_t a, uint32_t b,        \
                                                 int adds)                                         \
    {                                                                                              \
        asm volatile("{\n.reg .pred p;\n.reg .b64 a, b;\nmov.b64 a, {" operand_a                   \
                     ", " WGMMA_HIGH_WORD "};\nmov.b64 b, {" operand_b ", " WGMMA_HIGH_WORD        \
                     "};\nsetp.ne.b32 p, " operand_adds                                            \
                     ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" sums       \
                     "}, a, b, p, 1, 1, 0, 0;\n}"                                                  \
                     : OF_##n_sums(c, 0)                                                           \
                     : "r"(a), "r"(b), "r"(adds));                                                 \
    }
WGMMA_OF_OPERANDS(16, 8, "%0,%1,%2,%3,%4,%5,%6,%7", "%8", "%9", "%10")
WGMMA_OF_OPERANDS(32, 16, SUMS_0, "%16", "%17", "%18")
WGMMA_OF_OPERANDS(48, 24, SUMS_0 ",%16,%17,%18,%19,%20,%21,%22,%23", "%24", "%25", "%26")

#endif
