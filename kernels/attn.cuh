/* attn.cuh - what decode and prefill attention share, so that both make the same bits.  The
 * law: a row's answer is made of blocks of 64 positions at absolute multiples of 64. Each block
 * is computed apart (scores, its own maximum, weights, values), blocks merge in order within a
 * chunk of 256, chunks merge in order. A block that a row does not see is the identity on it.
 * So it does not matter who computes
 *
 * what:     one warp walking all of it, or many blocks of threads sharing a context.  Fragments.
 *           Rows are 16 (token, head) pairs, m of m16n8k16. Lane (g, t) = (lane / 4, lane % 4).
 *           Within 32 dims a lane holds dims 8t..8t+7 of its row, for q and k alike: the order of
 *           a sum over dims is ours to choose. Column n of score tile j (of 8, 4 per 32
 *           positions) is position 32 (j / 4) + 8 (n / 2) + 2 (j % 4) + n % 2, so that the scores
 *           which lane (g, t) ends up with are those of 8 neighbouring positions 8t..8t+7 of each
 *           32: exactly the 16 bytes of v [dim][token] that it loads for the second product.
 */
#ifndef KERNELS_ATTN_CUH
#define KERNELS_ATTN_CUH

#include "common.cuh"

/* q of 16 rows: [dims / 32] pieces for rows g and g + 8; a last half piece where dims % 32 is 16.
 */
template <int HD> struct qfrag {
    uint4 a[(HD + 31) / 32], b[(HD + 31) / 32];
};

/* One row's lane part: 8 dims of each 32, from the row's start. */
template <int HD>
static __device__ __forceinline__ void load_lane(uint4 *to, const uint16_t *row, int t,
                                                 bool is_there)
{
#pragma unroll
    for (int c = 0; c < HD / 32; c++)
        to[c] = is_there ? *(const uint4 *)(row + 32 * c + 8 * t) : make_uint4(0, 0, 0, 0);
    if (HD % 32) {
        uint2 v = is_there ? *(const uint2 *)(row + HD / 32 * 32 + 4 * t) : make_uint2(0, 0);
        to[HD / 32] = make_uint4(v.x, v.y, 0, 0);
    }
}

/* Scores of 4 tiles, 32 positions: `row` is the lane's first key, tile j's is 2 j rows of `pitch`
 * elements after it. Products of different tiles take turns, since one on the same sums must wait
 * for the one before. */
template <int HD>
static __device__ __forceinline__ void score_tiles(float s[4][4], const struct qfrag<HD> &q,
                                                   const uint16_t *row, int pitch, int t)
{
#pragma unroll
    for (int j = 0; j < 4; j++) s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.0f;
#pragma unroll
    for (int c = 0; c < HD / 32; c++) {
        uint4 k[4];
#pragma unroll
        for (int j = 0; j < 4; j++) k[j] = *(const uint4 *)(row + 2 * j * pitch + 32 * c + 8 * t);
#pragma unroll
        for (int j = 0; j < 4; j++)
            mma16816(s[j], q.a[c].x, q.b[c].x, q.a[c].y, q.b[c].y, k[j].x, k[j].y);
#pragma unroll
        for (int j = 0; j < 4; j++)
            mma16816(s[j], q.a[c].z, q.b[c].z, q.a[c].w, q.b[c].w, k[j].z, k[j].w);
    }
    if (HD % 32) {
        const int c = HD / 32;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint2 k = *(const uint2 *)(row + 2 * j * pitch + 32 * c + 4 * t);
            mma16816(s[j], q.a[c].x, q.b[c].x, q.a[c].y, q.b[c].y, k.x, k.y);
        }
    }
}

static __device__ __forceinline__ float fast_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Scores of 64 positions from `base` to weights, packed for the second product: p[h][2 i + r] for
 * 32-position half h, product i, and m, l of rows g (0) and g + 8 (1). Row r sees positions
 * lo[r]..hi[r]. `scale`: with log2(e). */
static __device__ __forceinline__ void softmax_block(float s[8][4], int base, int t,
                                                     const int lo[2], const int hi[2], float scale,
                                                     float m[2], float l[2], uint32_t p[2][2][4])
{
    m[0] = m[1] = -INFINITY;
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int pos = base + 32 * (j / 4) + 8 * t + 2 * (j % 4) + (e & 1), r = e / 2;
            s[j][e] = pos >= lo[r] && pos <= hi[r] ? s[j][e] * scale : -INFINITY;
            m[r] = fmaxf(m[r], s[j][e]);
        }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        m[r] = fmaxf(m[r], __shfl_xor_sync(~0u, m[r], 1));
        m[r] = fmaxf(m[r], __shfl_xor_sync(~0u, m[r], 2));
    }
    float base_m[2] = {m[0] == -INFINITY ? 0.0f : m[0], m[1] == -INFINITY ? 0.0f : m[1]};
    l[0] = l[1] = 0.0f;
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            s[j][e] = fast_exp2(s[j][e] - base_m[e / 2]);
            l[e / 2] += s[j][e];
        }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        l[r] += __shfl_xor_sync(~0u, l[r], 1);
        l[r] += __shfl_xor_sync(~0u, l[r], 2);
    }
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float *lo_tile = s[4 * h + 2 * i], *hi_tile = s[4 * h + 2 * i + 1];
            p[h][i][0] = pack_bf16(lo_tile[0], lo_tile[1]);
            p[h][i][1] = pack_bf16(lo_tile[2], lo_tile[3]);
            p[h][i][2] = pack_bf16(hi_tile[0], hi_tile[1]);
            p[h][i][3] = pack_bf16(hi_tile[2], hi_tile[3]);
        }
}

/* Tiles of 8 dims that take turns. */
template <int HD> static constexpr int value_group = HD / 8 % 4 ? 2 : 4;

/* acc of N tiles = weights . v of both halves; v[tile][half] are the lane's 8 tokens of its dim. */
template <int N>
static __device__ __forceinline__ void value_tiles(float acc[N][4], const uint32_t p[2][2][4],
                                                   const uint4 v[N][2])
{
#pragma unroll
    for (int n = 0; n < N; n++) acc[n][0] = acc[n][1] = acc[n][2] = acc[n][3] = 0.0f;
#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
        for (int n = 0; n < N; n++)
            mma16816(acc[n], p[h][0][0], p[h][0][1], p[h][0][2], p[h][0][3], v[n][h].x, v[n][h].y);
#pragma unroll
        for (int n = 0; n < N; n++)
            mma16816(acc[n], p[h][1][0], p[h][1][1], p[h][1][2], p[h][1][3], v[n][h].z, v[n][h].w);
    }
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

/* Tokens past `end` of an 8-token group of v: whatever lies there must not meet a weight of zero as
 * a NaN. */
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

#endif
