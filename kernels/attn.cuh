/* attn.cuh - what decode and prefill attention share, so that both make the same bits. The law:
 *
 * what:     A row (token, head) sees positions lo..hi. Blocks are 128 positions at absolute
 *           multiples of 128, chunks 1024 at absolute multiples.
 *           Scores: a chain of tensor-core products, 16 dims each, in order, from zero.
 *           Within a chunk an online softmax, block after block: m = the maximum so far of score *
 *           scale; all sums so far times exp2(m before - m); weights exp2(score * scale - m), the
 *           product and difference being one fma.
 *           Values: weights rounded to bf16, products of 16 positions each, in order, onto the one
 *           sum. What is not seen has weight zero.
 *           Sums of weights: eight, of positions equal modulo 8, each in order of position; a
 *           chunk's is ((0+1)+(2+3))+((4+5)+(6+7)).
 *           Chunks merge in order: merge_factors, merge_value.
 *           A block or a chunk that a row does not see is the identity, so it does not matter
 *           whether it is computed. Nor does it matter whether wgmma makes the products (prefill)
 *           or mma.sync (decode): an H100 gives the same bits for the same chain, whatever the
 *           order within 16, and adding products that are zero changes nothing.
 *
 * pages:    k [page][kv head][token / 8][dim / 8][token % 8][dim % 8], v [page][kv head][token /
 *           16][dim / 8][token / 8 % 2][dim % 8][token % 8]: 8 x 8 elements are 128 bytes on end,
 *           rows of k by token, of v by dim. These are the core matrices of wgmma and the matrices
 *           of ldmatrix, free of bank conflicts without swizzle; 16 tokens of a head are one run of
 *           bytes that a bulk copy brings, and so are some dims of v of 16 tokens.
 */
#ifndef KERNELS_ATTN_CUH
#define KERNELS_ATTN_CUH

#include "wgmma.cuh"

enum { ATTN_GROUP = 16 }; /* tokens that certainly lie on one page */

static __device__ __forceinline__ float fast_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* The maximum to subtract: anything where nothing was seen. */
static __device__ __forceinline__ float finite_max(float m)
{
    return m == -INFINITY ? 0.0f : m;
}

/* How two answers join: the first one's and the second one's factor; m becomes the joint maximum.
 */
static __device__ __forceinline__ void merge_factors(float &m, float m2, float &a, float &b)
{
    if (m2 == -INFINITY) { /* the identity */
        a = 1.0f;
        b = 0.0f;
        return;
    }
    float now = fmaxf(m, m2);
    a = m == -INFINITY ? 0.0f : fast_exp2(m - now);
    b = fast_exp2(m2 - now);
    m = now;
}
static __device__ __forceinline__ float merge_value(float x, float a, float y, float b)
{
    return __fmaf_rn(y, b, __fmul_rn(x, a));
}

/* The first n_valid of 8 tokens of v: whatever lies past them must not meet a weight of zero as a
 * NaN. */
static __device__ __forceinline__ uint4 clear_tokens(uint4 v, int n_valid)
{
    uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (2 * i >= n_valid)
            w[i] = 0;
        else if (2 * i + 1 >= n_valid)
            w[i] &= 0xffffu;
    }
    return make_uint4(w[0], w[1], w[2], w[3]);
}

static __device__ __forceinline__ int first_seen(int pos, int window)
{
    return window > 0 && pos >= window ? pos - window + 1 : 0;
}

/* Element offset, in k and v alike, of the 16 tokens from `pos` (a multiple of 16). */
static __device__ __forceinline__ int64_t page_at(const struct kattn &a, const int32_t *pages,
                                                  int kv_head, int pos, int head_dim)
{
    int size = a.b->page_size;
    int64_t page = pages[pos / size];
    return ((page * a.n_kv_heads + kv_head) * size + pos % size) * head_dim;
}

/* Units of work are listed longest first; block i of n takes the i-th of the first n, of the next n
 * the i-th from the end, and so on: about the same for each. */
static __device__ __forceinline__ int unit_of(int round, int i, int n)
{
    return round * n + (round & 1 ? n - 1 - i : i);
}

#endif
