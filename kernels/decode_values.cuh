/* decode_values.cuh - decode attention, last of three: the values of a block's dims, parts of a context
 * merged, the outcome written. */
#ifndef KERNELS_DECODE_VALUES_CUH
#define KERNELS_DECODE_VALUES_CUH

#include "decode_scores.cuh"

/* ------------------------------------------------------------------ values */

/* A warp's values: tiles warp, warp + 4, .. of the block's; rows g and g + 8. */
template <int HD> struct values {
    enum { N = (HD / 8 + WARPS - 1) / WARPS };
    float sum[N][4], total[N][4], tm[2];
};

template <int HD, int N>
static __device__ __forceinline__ void
end_chunk_values(const struct kattn &a, const struct unit &u, const struct layout &lay,
                 struct values<HD> &v, const float m[2], int chunk)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    float f[2], f2[2];
#pragma unroll
    for (int r = 0; r < 2; r++) merge_factors(v.tm[r], m[r], f[r], f2[r]);
#pragma unroll
    for (int n = 0; n < N; n++) {
        int tile = warp + n * WARPS;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float *x = &v.sum[n][2 * r], *total = &v.total[n][2 * r];
            if (u.item.n_parts > 1) {
                float *part = part_of(a, u, chunk, g + 8 * r) + (lay.first_tile + tile) * 8 + 2 * t;
                if (g + 8 * r < u.n_rows) __stcg((float2 *)part, make_float2(x[0], x[1]));
            } else {
                total[0] = merge_value(total[0], f[r], x[0], f2[r]);
                total[1] = merge_value(total[1], f[r], x[1], f2[r]);
            }
            x[0] = x[1] = 0.0f;
        }
    }
}

/* Tokens of the warp's tiles past the n valid ones of a block become zero. */
static __device__ __forceinline__ void clear_tail(const struct layout &lay, char *slot, int n)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int i = n / 8 + lane / 8; i < ATTN_BLOCK / 8; i += 4) /* eights of tokens */
        for (int tile = warp; tile < lay.tiles; tile += WARPS) {
            uint4 *at = (uint4 *)(slot + (i / 2 * lay.tiles + tile) * 256 + i % 2 * 128) + lane % 8;
            *at = i == n / 8 ? clear_tokens(*at, n % 8) : make_uint4(0, 0, 0, 0);
        }
    fence_async();
    __syncwarp();
}

/* 128 positions onto the warp's N tiles; `at`: the lane's place in the block's first matrices. */
template <int N>
static __device__ __forceinline__ void value_tiles(const struct layout &lay, float (*sum)[4],
                                                   const uint16_t *weights, uint32_t at, int n_rows)
{
    enum { PAIRS = ATTN_BLOCK / 32 };
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const uint16_t *w = weights + min(g, n_rows - 1) * lay.weight_pitch + 8 * t;
    const uint16_t *w8 = weights + min(g + 8, n_rows - 1) * lay.weight_pitch + 8 * t;
#pragma unroll
    for (int c = 0; c < PAIRS; c++) {
        uint4 p = *(const uint4 *)(w + c * 32), p8 = *(const uint4 *)(w8 + c * 32);
        uint32_t x[N][4];
#pragma unroll
        for (int n = 0; n < N; n++) load_matrices(x[n], at + (c * 2 * lay.tiles + n * WARPS) * 256);
#pragma unroll
        for (int n = 0; n < N; n++) mma16816(sum[n], p.x, p8.x, p.y, p8.y, x[n][0], x[n][1]);
#pragma unroll
        for (int n = 0; n < N; n++) mma16816(sum[n], p.z, p8.z, p.w, p8.w, x[n][2], x[n][3]);
    }
}

/* A pass of n blocks from `block`, of which the warp has N tiles. */
template <int HD, int N>
static __device__ __forceinline__ void
add_tiles(const struct kattn &a, const struct unit &u, const struct layout &lay,
          const struct decode_smem &sm, struct values<HD> &v, char *slot, int block, int n)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4;
    int n_valid = u.hi + 1 - (block + n - 1) * ATTN_BLOCK; /* of the pass's last block */
    if (n_valid < ATTN_BLOCK)
        clear_tail(lay, slot + (n - 1) * (ATTN_BLOCK / 8) * lay.tiles * 128, n_valid);
    uint32_t at = after_wait(slot + (lane / 16 * lay.tiles + warp) * 256 + lane % 16 * 16);
    for (int i = 0; i < n; i++, at += ATTN_BLOCK / 8 * lay.tiles * 128) {
        float f[2] = {sm.factor[i][g], sm.factor[i][g + 8]},
              m[2] = {sm.max[i][g], sm.max[i][g + 8]};
#pragma unroll
        for (int k = 0; k < N; k++)
#pragma unroll
            for (int e = 0; e < 4; e++) v.sum[k][e] *= f[e / 2];
        value_tiles<N>(lay, v.sum, lay.weights + i * ATTN_BLOCK, at, u.n_rows);
        if ((block + i + 1) % BLOCKS == 0 || block + i == u.last)
            end_chunk_values<HD, N>(a, u, lay, v, m, (block + i) / BLOCKS);
    }
#pragma unroll
    for (int k = 0; k < N; k++) pin(v.sum[k]);
}

/* As many tiles as the warp has, of at most N. */
template <int HD, int N>
static __device__ __forceinline__ void
add_values(const struct kattn &a, const struct unit &u, const struct layout &lay,
           const struct decode_smem &sm, struct values<HD> &v, char *slot, int block, int n)
{
    int n_tiles = (lay.tiles - (int)threadIdx.x / 32 + WARPS - 1) / WARPS;
    if (n_tiles == N)
        add_tiles<HD, N>(a, u, lay, sm, v, slot, block, n);
    else if constexpr (N > 1)
        add_values<HD, N == 3 ? 2 : N / 2>(a, u, lay, sm, v, slot, block, n);
}

/* ------------------------------------------------------------------ the end of a unit */

/* The chunks of a sequence's tile, in order, to the output. */
template <int HD> static __device__ void merge_parts(const struct kattn &a, const struct unit &u)
{
    enum { AHEAD = 8 };
    int64_t chunk_stride = (int64_t)a.n_heads * (HD + 2);
    int first = u.lo / ATTN_CHUNK,
        n = u.item.n_chunks - first; /* what lies below the window was not written */
    for (int i = threadIdx.x; i < u.n_rows * HD; i += WARPS * 32) {
        int r = i / HD, d = i % HD;
        const float *part = part_of(a, u, first, r);
        float m = -INFINITY, l = 0.0f, x = 0.0f, f, f2;
        for (int k = 0; k < n; k += AHEAD) { /* loads first: each is a trip to L2 */
            float m2[AHEAD], l2[AHEAD], x2[AHEAD];
#pragma unroll
            for (int j = 0; j < AHEAD; j++) {
                const float *from = part + min(k + j, n - 1) * chunk_stride;
                m2[j] = __ldcg(from + HD), l2[j] = __ldcg(from + HD + 1), x2[j] = __ldcg(from + d);
            }
#pragma unroll
            for (int j = 0; j < AHEAD; j++) {
                if (k + j >= n) break;
                merge_factors(m, m2[j], f, f2);
                l = merge_value(l, f, l2[j], f2);
                x = merge_value(x, f, x2[j], f2);
            }
        }
        a.out[(int64_t)u.item.row * a.out_stride + (u.head0 + r) * HD + d] = f_bf16(x * (1.0f / l));
    }
}

/* One of several items: the last block of threads to come here merges. */
template <int HD>
static __device__ __forceinline__ void finish_part(const struct kattn &a, const struct unit &u,
                                                   const struct layout &lay, struct decode_smem &sm)
{
    __threadfence();
    named_sync(1, WARPS * 32);
    if (threadIdx.x == 0) {
        int32_t *counter = a.counters + (int64_t)u.item.first * a.n_heads + u.head0;
        sm.is_last = atomicAdd(counter, 1) == u.item.n_parts * lay.n - 1;
        if (sm.is_last) *counter = 0;
    }
    named_sync(1, WARPS * 32);
    if (!sm.is_last) return;
    __threadfence();
    merge_parts<HD>(a, u);
}

template <int HD>
static __device__ __forceinline__ void finish(const struct kattn &a, const struct unit &u,
                                              const struct layout &lay, struct decode_smem &sm,
                                              const struct values<HD> &v, float tl)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    if (lane % 8 == 0) sm.inverse[sums_row()] = 1.0f / tl;
    named_sync(1, WARPS * 32);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float scale = sm.inverse[g + 8 * r];
        uint16_t *out = a.out + (int64_t)u.item.row * a.out_stride + (u.head0 + g + 8 * r) * HD +
                        lay.first_tile * 8 + 2 * t;
#pragma unroll
        for (int n = 0; n < values<HD>::N; n++) {
            int tile = warp + n * WARPS;
            if (tile < lay.tiles && g + 8 * r < u.n_rows)
                *(uint32_t *)(out + tile * 8) =
                    pack_bf16(v.total[n][2 * r] * scale, v.total[n][2 * r + 1] * scale);
        }
    }
}

#endif
